#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""ivshmem.py [KERNEL]: portal_ivshmem on QEMU's devices.

Two guests and their doorbells; unbinding amid everything; where the memory lies
and how it is cached; reset and suspend under running mappings; devices that cannot
work; other drivers for the same device. KERNEL as for tests/vm/kernels, or "debug"
(default 6.1).
"""
import os
import re
import struct
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, 'tests', 'vm'))
import pmemlab  # noqa: E402
from lab import build, suite  # noqa: E402
from lab.hand import Hand  # noqa: E402
from lab.portal import Portald, Region, guard  # noqa: E402
from lab.tap import Tap  # noqa: E402

DRIVER = '/sys/bus/pci/drivers/portal_ivshmem'
MiB = 1 << 20
ROOT_PORT = ['-device', 'pcie-root-port,id=rp0,slot=1,bus=pcie.0,pref64-reserve=1G']


def cycle(address):
    """Shell words: take the device from its driver, and give it back."""
    return "'echo %s > %s/unbind' 'echo %s > %s/bind'" % (
        address, DRIVER, address, DRIVER)


def identity(g):
    return g.run('cat /sys/class/portal/portal0/identity').strip()[len('pci-'):]


def pair(t, k, rd):
    """Two guests, doorbells between them, then removal amid everything."""
    server = Portald(size='16M', vectors=4)
    with suite.guest('a', k, rd, server.doorbell()) as a, \
            suite.guest('b', k, rd, server.doorbell()) as b:
        for g in (a, b):
            g.run('modprobe portal_ivshmem')
        guard(t, [a, b], size=16 * MiB)
        sides = [g.start('rings %d /dev/portal0 65536' % n)
                 for n, g in enumerate((a, b))]
        for n, job in enumerate(sides):
            status = job.wait(200)
            t.nested(job.text(), 'rings, side %d' % n, status)
        for program in ('ioctls', 'ioctls32', 'mapping', 'mapping32', 'window',
                        'widen', 'lent', 'sandbox', 'managed'):
            a.tap(t, program)
        words = cycle(identity(a))
        a.tap(t, 'revoke /dev/portal0 ' + words, timeout=120)
        a.tap(t, 'amid /dev/portal0 ' + words, timeout=120)
        a.run('insmod /hinder.ko')
        a.tap(t, 'held /dev/portal0 ' + words, timeout=120)
        rest_of_page(t, a)
        a.run('rmmod hinder')
        a.tap(t, 'churn 8 %s /dev/portal0' % words, timeout=120)
        a.finish(t)
        b.finish(t)
    server.stop()


def rest_of_page(t, g):
    """What BAR0 leaves of its page is nobody's while user space may map the page."""
    address = identity(g)
    bar0 = int(g.run('head -1 /sys/bus/pci/devices/%s/resource' % address).split()[0], 16)
    claim = 'echo %#x %d > /sys/module/hinder/parameters/claim' % (bar0 + 256, 4096 - 256)
    t.ok('%x-%x : portal_ivshmem rest of page' % (bar0 + 256, bar0 + 4095)
         in g.run('cat /proc/iomem'), "the rest of BAR0's page is reserved")
    t.ok(g.call(claim)[0] != 0, 'nothing else may claim it')
    g.run('echo %s > %s/unbind' % (address, DRIVER))
    t.equal(g.call(claim)[0], 0, 'but when the driver has gone')
    g.run('echo %s > %s/bind' % (address, DRIVER))


def cached(g):
    return g.run('cat /sys/class/portal/portal0/cache').strip()


def reservation(g):
    """The memory type table's word on the region, and its place."""
    bar = int(g.run("sed -n 3p /sys/class/portal/portal0/device/resource")
              .split()[0], 16)
    g.call('mount -t debugfs none /sys/kernel/debug 2>/dev/null')
    table = g.run('cat /sys/kernel/debug/x86/pat_memtype_list')
    found = re.findall(r'\[mem 0x0*%x-0x\w+\] (\S+)' % bar, table)
    if not found:       # one line per range, but 5.10 has older words
        found = re.findall(r'(\S+) @ 0x0*%x-' % bar, table)
    return bar, found[-1] if found else table


def memory_types(t, k, rd):
    """A low BAR is uncached, moves, and is write-back; a huge one just works."""
    with suite.guest('low', k, rd, Region(64 * MiB).plain()) as g:
        g.run('modprobe portal_ivshmem relocate=0')
        bar, kind = reservation(g)
        t.ok(bar < 1 << 32 and cached(g) == 'uncached' and kind == 'uncached-minus',
             'below 4 GiB the memory is uncached (%#x, %s)' % (bar, kind))
        log = g.dmesg()
        t.ok(re.search(r'uncached and slow.*place the BAR above 4 GiB', log),
             'which the log says, and the remedy', log[-1000:])
        g.run('rmmod portal_ivshmem; modprobe portal_ivshmem')
        bar, kind = reservation(g)
        t.ok(bar >= 1 << 32 and cached(g) == 'write-back' and kind == 'write-back',
             'left to itself the driver moves it: write-back (%#x, %s)' % (bar, kind))
        g.tap(t, 'mapping', name='mapping of 64 MiB')
        g.finish(t)
    if k.release.startswith('5.10.'):
        t.skip('who has mapped resource2 when the memory moves gets SIGBUS',
               'this kernel cannot revoke mappings of sysfs')
    else:
        with suite.guest('held', k, rd, Region(64 * MiB).plain(addr='4')) as g:
            g.tap(t, "resource /sys/bus/pci/devices/0000:00:04.0/resource2 "
                     "'modprobe portal_ivshmem'")
            bar, kind = reservation(g)
            t.ok(bar >= 1 << 32 and kind == 'write-back',
                 'and the memory moves all the same (%#x, %s)' % (bar, kind))
            g.finish(t)
    for size in (4096 * MiB, 4096):
        # KASAN keeps a byte for eight of what the kernel maps: 512 MiB for 4 GiB.
        with suite.guest('size', k, rd, Region(size).plain(),
                         memory='1536M' if getattr(k, 'slow', 1) > 1 else '256M') as g:
            g.run('modprobe portal_ivshmem')
            got = int(g.run('cat /sys/class/portal/portal0/size'))
            t.ok(got == size and cached(g) == 'write-back',
                 'a region of %d bytes: write-back' % size)
            # And undoing that takes KASAN longer than revoke allows a removal.
            revoke = size > MiB and getattr(k, 'slow', 1) == 1
            g.tap(t, 'revoke /dev/portal0 ' + cycle(identity(g)) if revoke else 'ioctls',
                  name='region of %d bytes' % size, timeout=120)
            g.finish(t)
    # Parts of a large entry: what a PUD entry would not survive.
    with suite.guest('split', k, rd, Region(1024 * MiB).plain()) as g:
        g.run('modprobe portal_ivshmem')
        g.tap(t, 'mapping', name='mapping of 1 GiB', timeout=200)
        g.finish(t)


def high_and_untouched(t, k, rd):
    """A BAR above all that the kernel can map of memory; and whoever comes and goes, the
    kernel itself stores nothing."""
    region = Region(64 * MiB)
    seed = bytes(range(1, 252)) * (region.size // 251 + 1)
    region.write(0, seed[:region.size])
    with suite.guest('high', k, rd, region.plain(addr='4'), accel=pmemlab.wide(48),
                     memory='256M,slots=2,maxmem=80T') as g:
        g.run('modprobe portal_ivshmem')
        bar, kind = reservation(g)
        t.ok(bar >= 64 << 40 and cached(g) == kind == 'write-back',
             'a BAR above 64 TiB: write-back (%#x, %s)' % (bar, kind))
        g.tap(t, 'ioctls', name='high')
        hand = Hand(g, '/dev/portal0')
        hand.must('map 0 rw')
        t.equal(hand.must('get %d' % (8 * MiB)), str(struct.unpack_from('<Q', seed, 8 * MiB)[0]),
                'high: what the host wrote is there')
        device, address = '/sys/bus/pci/devices/0000:00:04.0', identity(g)
        g.run('echo %s > %s/unbind; echo %s > %s/bind' % (address, DRIVER, address, DRIVER))
        g.call('echo 1 > %s/reset' % device)
        g.run('echo 1 > %s/remove; echo 1 > /sys/bus/pci/rescan; ls /dev/portal0' % device)
        hand.end()
        t.ok(region.read(0, region.size) == seed[:region.size],
             'probed, asked, mapped, revoked, removed: not a byte has changed')
        g.tap(t, 'mapping', name='high')
        g.finish(t)
    region.close()


def pauses(t, k, rd):
    """Reset, and real suspend to RAM."""
    server = Portald(size='16M', vectors=4)
    doorbell = [w.replace('ivshmem-doorbell,', 'ivshmem-doorbell,bus=rp0,')
                for w in server.doorbell()]
    with suite.guest('reset', k, rd, ROOT_PORT + doorbell, machine='q35') as g:
        g.run('modprobe portal_ivshmem')
        g.tap(t, "pause /dev/portal0 'echo 1 > /sys/class/portal/portal0/device/reset'",
              name='reset', timeout=200)
        g.finish(t)
    with suite.guest('sleep', k, rd, server.doorbell()) as g:
        g.run('modprobe portal_ivshmem')
        if 'mem' not in g.run('cat /sys/power/state') or \
                '[deep]' not in g.run('cat /sys/power/mem_sleep'):
            t.skip('suspend', 'this kernel has no suspend to RAM')
        else:
            job = g.start('echo mem > /sys/power/state')
            for _ in range(150):
                if g.qmp('query-status')['status'] == 'suspended':
                    break
                time.sleep(0.2)
            g.qmp('system_wakeup')
            t.ok(job.wait(60) == 0, 'suspend to RAM and back')
            t.equal(g.run('cat /sys/class/portal/portal0/generation').strip(), '1',
                    'a new generation')
            g.tap(t, 'mapping', name='after suspend')
        g.finish(t)
    server.stop()


def misfits(t, k, rd):
    """A BAR that got no address, and other drivers."""
    port = ['-device', 'pcie-root-port,id=rp0,slot=1,bus=pcie.0,pref64-reserve=4M,'
            'mem-reserve=2M']
    with suite.guest('homeless', k, rd, port + Region(256 * MiB).backend('m'),
                     machine='q35') as g:
        g.run('modprobe portal_ivshmem')
        g.qmp('device_add', driver='ivshmem-plain', id='iv0', memdev='m', bus='rp0')
        for _ in range(100):
            if 'BAR2' in g.dmesg() or not g.call('ls /dev/portal0')[0]:
                break
            time.sleep(0.2)
        log = g.dmesg()
        if g.call('ls /dev/portal0')[0]:
            t.ok(re.search(r'BAR2, the shared memory, has no address', log),
                 'a BAR without an address is an error that says so', log[-1500:])
        else:
            t.skip('a BAR without an address', 'this kernel found one for it')
        g.finish(t)
    # vfio-pci takes a device only behind an IOMMU.
    with suite.guest('others', k, rd, ['-device', 'intel-iommu'] + Region(4 * MiB).plain(),
                     machine='q35', cmdline='intel_iommu=on') as g:
        g.run('modprobe portal_ivshmem')
        address = identity(g)
        device = '/sys/bus/pci/devices/' + address
        for module, driver in (('uio_pci_generic', 'uio_pci_generic'),
                               ('vfio_pci', 'vfio-pci')):
            if g.call('modprobe ' + module)[0]:
                t.skip('beside ' + driver, 'this kernel has none')
                continue
            g.run('echo %s > %s/driver_override; echo %s > %s/unbind; '
                  'echo %s > /sys/bus/pci/drivers_probe || true' % (
                      driver, device, address, DRIVER, address))
            bound = g.run('readlink %s/driver || true' % device)
            t.ok(g.call('ls /dev/portal0')[0] != 0 and driver in bound,
                 'driver_override gives the device to %s' % driver,
                 'now bound to: %s' % (bound.strip() or 'nobody'))
            g.run('[ ! -e %s/driver ] || echo %s > %s/driver/unbind; '
                  'echo > %s/driver_override; '
                  'echo %s > /sys/bus/pci/drivers_probe' % (
                      device, address, device, device, address))
            t.equal(identity(g), address, 'and afterwards it is ours again')
        g.tap(t, 'ioctls', name='after the other driver')
        g.finish(t)


def main(t):
    k = suite.kernel()
    hinder, = build.modules(k, top=os.path.join(TOP, 'tests', 'vm', 'hinder'), parts=['.'],
                            target=None)
    rd = suite.initrd(k, programs=True, names=['uio_pci_generic', 'vfio_pci', 'loop', 'udmabuf'],
                      extra=[(hinder, '/hinder.ko')])
    pair(t, k, rd)
    memory_types(t, k, rd)
    high_and_untouched(t, k, rd)
    pauses(t, k, rd)
    misfits(t, k, rd)


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
