#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""An x86_64 guest and an arm64 guest on one region, served by portald.

Three times: the arm64 guest with pages of 4 KiB, with large pages besides, and
with pages of 16 KiB. Each pair passes the guard (locked adds) and Dekker's
entry (fences), rings each other, and sends a file of 10 MB both ways. On arm64
the memory type of the mapping is read from the page tables and asked of the
CPU; both machines check that nothing assumes the page size.

An x86 host hides most reorderings of arm64: what passes here is necessary,
the models are the proof.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import arm64, build, kernels, portal, qemu  # noqa: E402
from lab.cache import say  # noqa: E402
from lab.guest import Guest  # noqa: E402
from lab.initramfs import Initramfs  # noqa: E402
from lab.tap import Tap  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
X86 = ('6.1', 'cloud-amd64')
ARM = [('6.1', 'cloud-arm64', 4096), ('6.12', 'cloud-arm64', 4096),
       ('6.12', 'arm64-16k', 16384)]
REGION = 16 << 20
BOUNCES = 500
# Without fences until it shows, or the time is over: a few seconds.
FENCE_ROUNDS = {'full': 100000, 'none': 10000000}
# Far from each other and from what the guard and "peer pages" use.
FENCE_AT = {'full': 4 << 20, 'none': 8 << 20}
LOAD = ('for d in /sys/bus/pci/devices/*; do '
        '[ "$(cat $d/vendor $d/device)" = "0x1af4\n0x1110" ] && '
        'modprobe -v "$(cat $d/modalias)"; done; test -c /dev/portal0')


def initrd(k, files=()):
    """modules, peer, guard and portalctl for this kernel's architecture."""
    fs = Initramfs(k)
    own = build.modules(k)
    if k.arch == 'arm64':
        own = own + build.modules(k, top=os.path.join(HERE, 'memattr'),
                                  parts=['.'], target=None)
        portalctl = arm64.program('portalctl')
    else:
        portalctl = portal.portalctl_static()
    # The control port of the arm64 guest is a PCI device: it needs no module.
    fs.modules(own)
    fs.copy(portalctl, '/bin/portalctl', 0o755)
    fs.copy(build.program(os.path.join(HERE, 'peer.c'), k.arch), '/bin/peer',
            0o755)
    fs.copy(portal.guard_program(k.arch), '/bin/guard', 0o755)
    for source, path in files:
        fs.copy(source, path, 0o644)
    path = os.path.join(qemu.workdir(), 'initrd-' + k.release)
    fs.write(path)
    return path


def check_pages(t, x, a, page):
    t.equal(a.run('peer pagesize').strip(),
            str(page), 'the arm64 guest has pages of %d bytes' % page)
    for g in (x, a):
        g.tap(t, 'peer pages', name='%s pages' % g.name)
    a.run('modprobe memattr')
    a.tap(t, 'peer attr', name='%s memory type' % a.name)
    a.run('rmmod memattr')


def both(x, a, script_x, script_a, timeout=90):
    """Run one command in each at the same time; (statuses, outputs)."""
    jobs = [x.start(script_x), a.start(script_a)]
    status = [j.wait(timeout) for j in jobs]
    return status, [j.text().strip() for j in jobs]


def check_fence(t, x, a):
    counts = {}
    for mode in ('full', 'none'):
        args = '%d %d %s' % (FENCE_AT[mode], FENCE_ROUNDS[mode], mode)
        status, text = both(x, a, 'peer fence 0 ' + args,
                            'peer fence 1 ' + args)
        if any(status):
            t.ok(False, 'Dekker, ' + mode, text)
            return
        rounds, misses = (int(text[0].split()[n]) for n in (1, 3))
        counts[mode] = (rounds, misses)
        t.diag('Dekker, fence %s: %d misses in %d rounds' % (mode, misses,
                                                             rounds))
    rounds, misses = counts['full']
    t.ok(rounds >= 1000 and misses == 0, 'Dekker: with fences neither machine '
         'misses the other', '%d misses in %d rounds' % (misses, rounds))
    rounds, misses = counts['none']
    name = 'Dekker: this test sees what a missing fence does'
    if misses == 0 and rounds < 100000:
        t.skip(name, 'only %d rounds: the host is too busy' % rounds)
    else:
        t.ok(misses, name, 'no miss in %d rounds without fences' % rounds)


def check_doorbells(t, x, a):
    ids = [g.run('peer id').strip() for g in (x, a)]
    # Where a page holds more than the doorbell register, it is not given away.
    how = ['page' if g.run('peer bell').strip() == '1' else 'ioctl'
           for g in (x, a)]
    for vector, by in ((0, ['ioctl', 'ioctl']), (3, how)):
        status, text = both(x, a, *(
            'peer bounce %d %s %d %d %s' % (side, ids[1 - side], vector,
                                            BOUNCES, by[side])
            for side in (0, 1)))
        t.ok(status == [0, 0], 'vector %d, by %s and %s: %d acknowledged rings '
             'each way are %d events each way' % (
                 vector, by[0], by[1], BOUNCES, BOUNCES), '\n'.join(text))


def check_file(t, source, sink, path, where=''):
    """portalctl send and recv; the digest is taken by another program."""
    recv = sink.start('portalctl recv -q -t 60 %s /dev/portal0 /tmp/got' %
                      where)
    send = source.start('portalctl send -q -t 60 %s /dev/portal0 %s' %
                        (where, path))
    status = [send.wait(120), recv.wait(120)]
    sums = [g.call('sha256sum ' + f)[1].split(' ')[0] for g, f in
            ((source, path), (sink, '/tmp/got'))]
    size = source.run('stat -c %s ' + path).strip()
    t.ok(status == [0, 0] and sums[0] == sums[1] and len(sums[0]) == 64,
         '%s bytes from %s to %s arrive unchanged' % (
             size, source.name, sink.name),
         '%s\n%s\n%s\n%s' % (status, sums, send.text(), recv.text()))


def check_pair(t, kx, ka, page):
    server = portal.Portald('%dM' % (REGION >> 20), vectors=4, name='mixed')
    name = 'arm64-%s-%dk' % (ka.abi.split('+')[0], page >> 10)
    with Guest('x86', kx, initrd(kx, [(kx.image, '/root/file')]),
               devices=server.doorbell(), memory='320M') as x, \
            Guest(name, ka, initrd(ka), devices=server.doorbell(),
                  memory='512M') as a:
        for g in (x, a):
            status, text = g.call(LOAD)
            t.ok(status == 0, '%s: the alias loads the module, /dev/portal0 '
                 'appears' % g.name, text)
            t.equal(g.run('stat -c "%a %u:%g" /dev/portal0').strip(),
                    '600 0:0', "%s: without udev it is root's alone" % g.name)
        check_pages(t, x, a, page)
        portal.guard(t, [x, a], size=REGION)
        check_fence(t, x, a)
        check_doorbells(t, x, a)
        check_file(t, x, a, '/root/file')
        a.run('mv /tmp/got /tmp/back')
        # A channel that begins within a page of 16 KiB, on its own vector.
        check_file(t, a, x, '/tmp/back', '--offset 4096 --length 8M --vector 1')
        for g in (x, a):
            g.finish(t)
    t.equal(server.stop(), 0, 'portald ends when told')


def main():
    with Tap() as t:
        kx = kernels.find(*X86)
        for series, flavour, page in ARM:
            ka = kernels.find(series, flavour)
            say('%s with %s' % (kx.release, ka.release))
            check_pair(t, kx, ka, page)


main()
