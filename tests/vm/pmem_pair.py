#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""pmem_pair.py [KERNEL]: two guests and the host over one file, by virtio-pmem.

A file goes from guest to guest, back, and to a process on the host; waiting without
doorbells costs next to nothing; what was flushed survives a guest's crash and
QEMU's.
"""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pmemlab  # noqa: E402
from lab import build, hand, portal, qemu, suite  # noqa: E402
from lab.cache import run  # noqa: E402
from lab.hand import Hand  # noqa: E402
from lab.initramfs import Initramfs  # noqa: E402
from lab.tap import Tap  # noqa: E402

SIZE = 64 << 20
CELL = SIZE - 4096      # where the channel's messages do not come by
IDLE_S = 10
IDLE_MAX = 0.01         # of a core
IDLE_MAX_EMULATED = 0.1


def initrd(k):
    """As suite's, and the kernel's image, for it is some 10 MB of real data."""
    fs = Initramfs(k)
    fs.modules(build.modules(k), names=pmemlab.STOCK_MODULES)
    fs.copy(hand.program(), '/bin/hand', 0o755)
    fs.copy(portal.guard_program(), '/bin/guard', 0o755)
    for p in suite.guest_programs():
        if os.path.basename(p) == 'pmem':
            fs.copy(p, '/bin/pmem', 0o755)
    out = portal.userspace()
    fs.program(os.path.join(out, 'bin', 'portalctl'), libraries=[os.path.join(out, 'lib')])
    fs.copy(k.image, '/root/file', 0o644)
    path = os.path.join(qemu.workdir(), 'initrd-pair')
    fs.write(path)
    return path


def boot(name, k, rd, disk):
    g = pmemlab.guest(name, k, rd, [disk], memory='384M')
    g.call('modprobe virtio_pci')       # built in since 6.12
    g.run('portalctl bind virtio0')
    return g


def digest(text):
    return text.split()[0]


def exchange(t, a, b, disk, k):
    want = digest(run(['sha256sum', k.image]).stdout)
    legs = (('guest to guest', a, b, 'file', 'copy'), ('and back', b, a, 'copy', 'back'))
    for what, tx, rx, source, target in legs:
        r = rx.start('portalctl recv --quiet /dev/portal0 /root/' + target)
        s = tx.start('portalctl send --quiet /dev/portal0 /root/' + source)
        done = (s.wait(100), r.wait(100))
        t.equal(done, (0, 0), '%s: send and recv succeed' % what)
        t.equal(digest(rx.run('sha256sum /root/' + target)), want,
                '%s: equal SHA-256' % what)
    copy = os.path.join(qemu.workdir(), 'copy')
    host = qemu.spawn([os.path.join(portal.userspace(), 'bin', 'portalctl'), 'recv', '--quiet',
                       'file:' + disk.path, copy], stdout=subprocess.PIPE)
    s = b.start('portalctl send --quiet /dev/portal0 /root/copy')
    done = (s.wait(100), host.wait(60))
    t.equal(done, (0, 0), 'guest to host, by file: of the same file')
    t.equal(digest(run(['sha256sum', copy]).stdout), want, 'guest to host: equal SHA-256')


def info(t, g):
    said = json.loads(g.run('portalctl info --json /dev/portal0'))
    t.ok(said['transport'] == 'pmem' and said['vectors'] == 0 and
         not {'ring', 'events'} & set(said['caps']), 'info: no doorbells', repr(said))


def share(said):
    """Of a core, from "NS MS"."""
    ns, ms = said.split()[:2]
    return int(ns) / (int(ms) * 1e6)


def idle(t, g, disk):
    """By the scheduler's account, on a processor: the host's, over the same file. An
    emulated one is no core, and its share is only shown to be no busy loop's."""
    waits = 'portalctl recv --timeout 100 %s %s'
    here = os.path.join(portal.userspace(), 'bin', '')
    program = [p for p in suite.guest_programs() if os.path.basename(p) == 'pmem'][0]
    words = (here + waits % ('file:' + disk.path, qemu.workdir() + '/none')).split()
    host = share(run([program, 'cpu', str(IDLE_S)] + words, timeout=60).stdout)
    guest = share(g.run('pmem cpu %d ' % IDLE_S + waits % ('/dev/portal0', '/root/none'), 60))
    t.diag('waiting costs %.3f %% of a core on the host, %.3f %% in %s (%s)' % (
        host * 100, guest * 100, g.kernel.release, 'KVM' if qemu.kvm_usable() else 'emulated'))
    t.ok(host < IDLE_MAX, 'waiting without doorbells costs less than 1 % of a core')
    limit = IDLE_MAX if qemu.kvm_usable() else IDLE_MAX_EMULATED
    t.ok(guest < limit, 'and in a guest less than %d %%' % (limit * 100))


def crash(t, k, rd, disk, slow, how, end):
    """A word that was stored and flushed is there after the end."""
    with slow.preloaded():
        g = boot(how.split()[0], k, rd, disk)
    with g:
        h = Hand(g, '/dev/portal0')
        h.must('map 0 rw')
        value = len(how) * 1000003
        h.must('put %d %d' % (CELL, value))
        before = slow.count()
        g.tap(t, 'pmem flush /dev/portal0 1')
        t.equal(slow.count() - before, 1, how + ': the flush reached the file')
        end(g)
        t.ok(g.process.wait(30) is not None, how + ': that was its end')
    t.equal(int.from_bytes(disk.read(CELL, 4), 'little'), value, how + ': the file has it')
    with boot('again', k, rd, disk) as g:
        h = Hand(g, '/dev/portal0')
        h.must('map 0 rw')
        t.equal(h.must('get %d' % CELL), str(value), how + ': the next boot sees it')
        h.end()
        g.finish(t, pmemlab.UNLOAD)


def main(t):
    k = suite.kernel()
    rd = initrd(k)
    disk = pmemlab.Disk(SIZE)
    with boot('a', k, rd, disk) as a, boot('b', k, rd, disk) as b:
        portal.guard(t, [a, b], size=SIZE)
        info(t, a)
        exchange(t, a, b, disk, k)
        idle(t, a, disk)
        for g in (a, b):
            g.finish(t, pmemlab.UNLOAD)
    slow = pmemlab.SlowDisk()
    crash(t, k, rd, disk, slow, 'SIGKILL of QEMU', lambda g: g.process.kill())
    crash(t, k, rd, disk, slow, 'reboot without warning',
          lambda g: g.start('echo b > /proc/sysrq-trigger'))


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
