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
IDLE_S = 4
IDLE_MAX = 0.01         # of a core
NAP_US = 16000          # the longest sleep that the library promises
SLEEPS_MAX = 70         # a second, as its manual says; 63 of them are naps
BARE_MAX = 4            # times what a program costs that only sleeps


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


class Idle:
    """What a process used: "NS MS SLEEPS" of `pmem cpu`."""

    def __init__(self, said):
        ns, ms, sleeps = (int(w) for w in said.split()[:3])
        self.share = ns / (ms * 1e6)        # of a core
        self.sleeps = sleeps * 1000 / ms    # a second
        self.each = ns / max(sleeps, 1)

    def __str__(self):
        return '%.3f %% of a core, %.1f sleeps a second of %.0f us each' % (
            self.share * 100, self.sleeps, self.each / 1e3)


def idle(t, g):
    """By the scheduler's account. How often it sleeps is exact everywhere. What a sleep
    costs is a processor's on the host; an emulated processor's is compared with what it
    takes to do nothing but sleep so often."""
    waits = 'portalctl recv --timeout 100 %s %s'
    here = os.path.join(portal.userspace(), 'bin', '')
    program = [p for p in suite.guest_programs() if os.path.basename(p) == 'pmem'][0]
    words = (here + waits % ('file:' + pmemlab.Disk(SIZE).path, '/dev/null')).split()
    job = qemu.spawn([program, 'cpu', str(IDLE_S)] + words, stdout=subprocess.PIPE, text=True)
    guest = Idle(g.run('pmem cpu %d ' % IDLE_S + waits % ('/dev/portal0', '/root/none'), 60))
    host = Idle(job.communicate(timeout=60)[0])
    bare = Idle(g.run('pmem cpu %d pmem nap %d' % (IDLE_S, NAP_US), 60))
    t.diag('waiting on the host: %s' % host)
    t.diag('waiting in %s (%s): %s' % (g.kernel.release, 'KVM' if qemu.kvm_usable() else
                                       'emulated', guest))
    t.diag('only sleeping there: %s' % bare)
    for who, where in ((host, 'host'), (guest, 'guest')):
        t.ok(1 < who.sleeps < SLEEPS_MAX, 'who waits without doorbells looks at most %d '
             'times a second: %s' % (SLEEPS_MAX, where), who)
    t.ok(host.share < IDLE_MAX, 'which costs less than 1 % of a core')
    t.ok(guest.each < BARE_MAX * bare.each, 'and in a guest less than %d times what a mere '
         'sleep costs it' % BARE_MAX, '%s; %s' % (guest, bare))
    if qemu.kvm_usable():
        t.ok(guest.share < IDLE_MAX, 'that is less than 1 % of a core')


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
        idle(t, a)
        for g in (a, b):
            g.finish(t, pmemlab.UNLOAD)
    slow = pmemlab.SlowDisk()
    crash(t, k, rd, disk, slow, 'SIGKILL of QEMU', lambda g: g.process.kill())
    crash(t, k, rd, disk, slow, 'reboot without warning',
          lambda g: g.start('echo b > /proc/sysrq-trigger'))


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
