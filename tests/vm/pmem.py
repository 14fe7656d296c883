#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""pmem.py [KERNEL]: virtio-pmem devices as portals, in one guest.

Nothing is taken unasked; whoever is in use is refused; coming and going between
virtio_pmem and portal_pmem; flushes, on disks that are slow, fail or hang; removal
with live mappings; faults; memory above the direct map.
"""
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pmem_users  # noqa: E402
import pmemlab  # noqa: E402
from lab import portal, qemu, suite  # noqa: E402
from lab.cache import run  # noqa: E402
from lab.hand import Hand  # noqa: E402
from lab.tap import Tap  # noqa: E402
from pmemlab import BUS, OURS, STOCK  # noqa: E402

SIZE = 64 << 20
GIB = 1 << 30
FLUSHES = 1000
HIGH = 80 << 40         # with page tables of 4 levels a kernel's own map ends at 64 TiB
WORD = 20041971
STATUS_FOUND = 0x1      # acknowledged
STATUS_OK = 0xf         # acknowledged, driver, features, driver ok


def not_unasked(t, g):
    """Neither by loading first, nor by bind alone, nor for another device."""
    g.run('modprobe virtio_pci; modprobe portal_pmem')
    names = pmemlab.device_names(g)
    t.equal(len(names), 2, 'two virtio-pmem devices')
    a, b = names
    drivers = [pmemlab.driver(g, n) for n in names]
    t.equal(drivers, ['', ''], 'loading portal_pmem takes no device')
    t.equal(g.call('grep portal_pmem /lib/modules/$(uname -r)/modules.alias')[0], 1,
            'it has no alias')
    t.ok(g.call('echo %s > %sbind' % (a, OURS))[0], 'bind alone is refused')
    rng = g.run('grep -l 0x0004 %sdevices/*/device' % BUS).split('/')[-2]
    for name, what in ((rng, 'a device of another kind'), ('virtio99', 'no device')):
        t.ok(g.call('echo %s > %sallow' % (name, OURS))[0],
             'allow refuses ' + what)
    g.run('echo %s > %sallow' % (a, OURS))
    t.equal(g.run('cat %sallow' % OURS).strip(), a, 'allow says who')
    t.ok(g.call('echo %s > %sbind' % (b, OURS))[0],
         'what one device was allowed another does not get')
    t.equal(int(g.run('cat %sdevices/%s/status' % (BUS, b)), 16), STATUS_FOUND,
            'and is left as it was found')
    g.run('echo > %sallow; modprobe virtio_pmem; modprobe nd_pmem' % OURS)
    drivers = [pmemlab.driver(g, n) for n in names]
    t.equal(drivers, ['virtio_pmem'] * 2, 'virtio_pmem, loaded later, gets both')
    for name in names:
        t.equal(int(g.run('cat %sdevices/%s/status' % (BUS, name)), 16), STATUS_OK,
                '%s never failed' % name)
    return a, b


def usage(t, g, name):
    """Wrong names get one line and change nothing."""
    rng = g.run('grep -l 0x0004 %sdevices/*/device' % BUS).split('/')[-2]
    for what, code in (('', 1), ('nonsense', 1), (rng, 1), ('virtio99', 2),
                       ('/dev/nothing', 2), ('/dev/null', 1)):
        status, text = g.call('portalctl bind %s 2>&1' % what)
        t.ok(status == code and (text.count('\n') == 1 or not what),
             'bind %s: exit status %d and a line' % (what or 'without a name', code),
             '%d: %s' % (status, text))
    status, text = g.call('portalctl unbind %s 2>&1' % name)
    t.ok(status == 1 and 'not bound to portal_pmem' in text,
         'unbind refuses who is not ours', text)


def coming_and_going(t, g, a, b, pci):
    t.equal(g.run('portalctl bind /dev/pmem0').strip(), '/dev/portal0',
            'portalctl bind makes a portal')
    t.equal(g.run('portalctl bind %s' % a).strip(), '/dev/portal0',
            'once more is no error')
    job = g.start('exec sleep 1000 < /dev/portal0')
    qemu.wait_until(lambda: not g.call('pidof sleep')[0], 20, 'sleep')
    status, text = g.call('portalctl unbind /dev/portal0 2>&1')
    t.ok(status == 5 and '(sleep)' in text and
         pmemlab.driver(g, a) == 'portal_pmem', 'unbind refuses a portal in use', text)
    g.run('portalctl unbind --force /dev/portal0')
    t.equal(pmemlab.driver(g, a), 'virtio_pmem', 'unless it is forced')
    job.kill()
    job.wait(10)
    said = []
    for name in (a, pci, '/dev/pmem0'):
        pmemlab.wait_disks(g, 'pmem0')
        said.append(g.run('portalctl bind %s; portalctl unbind /dev/portal0' % name))
    t.equal(said, ['/dev/portal0\n%s: virtio_pmem\n' % a] * 3,
            'there and back three times, and always the same N')
    # The module is in use as long as one device is bound.
    g.run('echo %s > %sunbind; echo %s > %sunbind; rmmod virtio_pmem' % (a, STOCK, b, STOCK))
    t.ok('no driver' in g.run('portalctl bind %s; portalctl unbind %s' % (a, a)),
         'unbind without virtio_pmem leaves it to nobody, and says so')
    g.run('modprobe virtio_pmem')
    pmemlab.take(g, a)
    t.equal(pmemlab.driver(g, a), 'portal_pmem', 'by hand, as the manual says')
    pmemlab.give_back(g, a)
    pmemlab.wait_disks(g, 'pmem0', 'pmem1')
    g.run('mount -t ext4 /dev/pmem1 /mnt; grep kept /mnt/file; umount /mnt')
    t.ok(True, 'the other disk was left alone')


def flushes(t, g, slow, a):
    pmemlab.take(g, a)
    g.tap(t, 'pmem basic /dev/portal0')
    before = slow.count()
    g.tap(t, 'pmem flush /dev/portal0 %d' % FLUSHES, 120)
    made = slow.count() - before
    t.ok(1 <= made <= FLUSHES, '%d callers cost %d flushes of the host' % (FLUSHES, made))
    # All of them wait, for the first one's flush or for the one after it.
    slow.say('hold')
    before = slow.count()
    job = g.start('pmem flush /dev/portal0 %d' % FLUSHES)
    pmemlab.waiting(g, FLUSHES)
    slow.say('ok')
    status = job.wait(60)
    t.nested(job.text(), 'on a slow disk', status)
    t.equal(slow.count() - before, 2, '%d callers who wait at one time share 2' % FLUSHES)
    before = slow.count()
    g.run('pmem flush /dev/portal0 1; pmem flush /dev/portal0 1')
    t.equal(slow.count() - before, 2, 'one caller after the other shares nothing')
    slow.say('fail')
    g.tap(t, 'pmem fail /dev/portal0 100')
    slow.say('ok')
    g.tap(t, 'pmem flush /dev/portal0 10', name='after a failure')
    job = g.start('pmem told /dev/portal0')
    for order in ('fail', 'work'):
        job.expect('# ' + order, 20)
        slow.say(order)
        job.send('go on\n')
    status = job.wait(30)
    t.nested(job.text(), 'told', status)
    slow.say('ok')


def gone(t, g, slow, a):
    """The portal goes while the host's disk is slow."""
    unbind = 'echo %s > %sunbind' % (a, OURS)
    slow.say('hold')
    job = g.start('pmem gone /dev/portal0 100 "%s"' % unbind)
    # The disk answers when they have gone, and the driver still waits for it.
    job.expect('all have come back', 30)
    slow.say('ok')
    status = job.wait(30)
    t.nested(job.text(), 'the disk is slow', status)


def successor(t, g, a):
    """Who has the device next."""
    g.run('echo %s > %sbind' % (a, STOCK))
    pmemlab.wait_disks(g, 'pmem0')
    g.run('dd if=/dev/zero of=/dev/pmem0 bs=4k count=1 conv=fsync', 30)
    t.ok('not a head' not in g.dmesg(), 'the next driver finds its queue as it should be')


def revocation(t, g, a, pci):
    pmemlab.take(g, a)
    hand = "echo %s > %%s" % a
    g.tap(t, "revoke /dev/portal0 '%s' '%s; %s'" % (
        hand % (OURS + 'unbind'), hand % (OURS + 'allow'), hand % (OURS + 'bind')),
        120, 'unbind')
    g.tap(t, "revoke /dev/portal0 'echo 1 > /sys/bus/pci/devices/%s/remove' "
          "'echo 1 > /sys/bus/pci/rescan; portalctl bind %s'" % (pci, pci), 120,
          'PCI remove')
    g.tap(t, "revoke /dev/portal0 'rmmod portal_pmem' 'portalctl bind %s'" % pci, 120,
          'rmmod')


def main_guest(t, k, rd):
    disks = [pmemlab.Disk(SIZE), pmemlab.Disk(SIZE)]
    run(['mke2fs', '-q', '-F', '-O',
         '^metadata_csum,^has_journal', '-b', '4096', disks[1].path])
    slow = pmemlab.SlowDisk()
    with slow.preloaded():
        # Of 1,000 threads a guest with less says that they are too many.
        g = pmemlab.guest('one', k, rd, disks, more=['-device', 'virtio-rng-pci'],
                          memory='512M')
    with g:
        a, b = not_unasked(t, g)
        pci = os.path.basename(os.path.dirname(
            g.run('readlink -f %sdevices/%s' % (BUS, a)).strip()))
        pmemlab.wait_disks(g, 'pmem0', 'pmem1')
        usage(t, g, a)
        pmem_users.in_use(t, g, a, b)
        coming_and_going(t, g, a, b, pci)
        flushes(t, g, slow, a)
        gone(t, g, slow, a)
        successor(t, g, a)
        revocation(t, g, a, pci)
        g.finish(t, pmemlab.UNLOAD)


def hang(t, k, rd):
    """The same with a disk that hangs for longer than the driver's patience. This guest
    is killed: QEMU would answer the flush without a driver, by an interrupt for nobody."""
    slow = pmemlab.SlowDisk()
    with slow.preloaded():
        g = pmemlab.guest('hang', k, rd, [pmemlab.Disk(SIZE)])
    with g:
        g.run('modprobe virtio_pci; portalctl bind virtio0')
        slow.say('hold')
        g.tap(t, 'pmem gone /dev/portal0 100 "portalctl unbind --force virtio0"',
              name='the disk hangs')
        t.ok('did not come back' in g.dmesg(), 'hang: the driver says that it gave up')
        t.equal(g.bad_lines(g.dmesg()), [], 'hang: the kernel log holds no complaint')


def reset(t, k, rd):
    """Somebody resets the PCI function under the portal."""
    disk = pmemlab.Disk(SIZE)
    port = ['-device', 'pcie-root-port,id=rp0,slot=1,bus=pcie.0']
    with pmemlab.guest('reset', k, rd, [disk], more=port, machine='q35',
                       options='bus=rp0') as g:
        g.run('modprobe virtio_pci; portalctl bind virtio0')
        g.tap(t, 'pmem flush /dev/portal0 10', name='before the reset')
        pci = os.path.dirname(g.run('readlink -f %sdevices/virtio0' % BUS).strip())
        g.run('echo 1 > %s/reset' % pci)
        if k.version >= (6, 16):
            t.equal(g.run('cat /sys/class/portal/portal0/generation').strip(), '1',
                    'reset: the bus tells of it: a new generation')
        else:
            g.tap(t, "pmem stops /dev/portal0 10 'true'", name='reset behind our back')
            t.ok('the device has given up' in g.dmesg(), 'reset: the log says so',
                 g.dmesg()[-1000:])
            g.run('portalctl unbind virtio0; portalctl bind virtio0')
        g.tap(t, 'pmem flush /dev/portal0 10', name='after the reset')
        g.finish(t, pmemlab.UNLOAD)


def suspend(t, k, rd):
    """Suspend to RAM, with a mapping that goes on afterwards."""
    # An image of the debug kernel's memory takes half of it.
    with pmemlab.guest('sleep', k, rd, [pmemlab.Disk(SIZE)],
                       memory='1G' if getattr(k, 'slow', 1) > 1 else '256M') as g:
        g.run('modprobe virtio_pci; portalctl bind virtio0')
        if 'mem' not in g.run('cat /sys/power/state') or \
                '[deep]' not in g.run('cat /sys/power/mem_sleep'):
            t.skip('suspend', 'this kernel has no suspend to RAM')
        else:
            hand = Hand(g, '/dev/portal0')
            hand.must('map 0 rw')
            hand.must('put 8192 %d' % WORD)
            job = g.start('echo mem > /sys/power/state')
            qemu.wait_until(lambda: g.qmp('query-status')['status'] == 'suspended', 60,
                            'suspend', every=0.2)
            g.qmp('system_wakeup')
            t.equal(job.wait(60), 0, 'suspend to RAM and back')
            t.equal(g.run('cat /sys/class/portal/portal0/generation').strip(), '1',
                    'suspend: a new generation')
            t.equal(hand.must('get 8192'), str(WORD), 'suspend: the mapping goes on')
            if g.call('echo devices > /sys/power/pm_test')[0]:
                t.skip('hibernation', 'this kernel has no test mode for it')
            else:
                # Devices are frozen and thawed, as around the making of an image.
                g.run('echo disk > /sys/power/state')
                t.equal(g.run('cat /sys/class/portal/portal0/generation').strip(), '2',
                        'hibernation: a new generation')
                t.equal(hand.must('get 8192'), str(WORD), 'hibernation: the mapping goes on')
            hand.end()
            g.tap(t, 'pmem basic /dev/portal0', name='after suspend')
        g.finish(t, pmemlab.UNLOAD)


def faults(t, k, rd):
    """1 GiB, touched page by page; then the memory is the system's for a while. No disk
    is behind it: that would have to keep it all."""
    region = portal.Region(GIB + (4 << 20))
    with pmemlab.guest('faults', k, rd, [pmemlab.Memory(region)]) as g:
        g.run('modprobe virtio_pci; portalctl bind virtio0')
        g.tap(t, 'pmem faults /dev/portal0', 120)
        g.run('portalctl unbind virtio0; modprobe virtio_pmem; modprobe nd_pmem')
        pmemlab.wait_disks(g, 'pmem0')
        pmem_users.memory(t, g, 'virtio0')
        g.finish(t, pmemlab.UNLOAD)
    region.close()


def high(t, k, rd):
    """So high that the kernel cannot have struct pages for it."""
    region = portal.Region(SIZE)
    with pmemlab.guest('high', k, rd, [pmemlab.Memory(region, memaddr=hex(HIGH))],
                       maxmem='100T', accel=pmemlab.wide(48)) as g:
        g.call('modprobe virtio_pci')       # built in since 6.12
        if k.version >= (6, 12):
            # Older kernels do not look.
            g.call('modprobe virtio_pmem; modprobe nd_pmem')
            t.ok('exceeds maximum addressable range' in g.dmesg(),
                 'high: the stock driver refuses it: it is above the direct map',
                 g.dmesg()[-1000:])
        g.run('portalctl bind virtio0')
        text = g.run('cat /proc/iomem')
        t.ok('%x-' % HIGH in text and 'portal_pmem' in text, 'high: memory is at 80 TiB', text)
        g.tap(t, 'pmem basic /dev/portal0', name='high')
        region.write(4096, struct.pack('<I', WORD))
        hand = Hand(g, '/dev/portal0')
        hand.must('map 0 rw')
        t.equal(hand.must('get 4096'), str(WORD), 'high: what the host wrote is there')
        hand.must('put 8192 %d' % WORD)
        t.equal(region.read(8192, 4), struct.pack('<I', WORD), 'high: and the other way')
        hand.end()
        g.finish(t, pmemlab.UNLOAD)
    region.close()


def main(t):
    k = suite.kernel()
    rd = pmemlab.initrd(k)
    main_guest(t, k, rd)
    hang(t, k, rd)
    reset(t, k, rd)
    suspend(t, k, rd)
    faults(t, k, rd)
    high(t, k, rd)


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
