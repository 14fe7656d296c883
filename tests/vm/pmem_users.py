# SPDX-License-Identifier: MIT
"""Users of virtio-pmem disks, of every kind that a kernel has: portalctl bind refuses
to take a disk from them, and says who they are."""
import struct

import pmemlab
from lab import qemu

SECTOR = 512
# A disk of 64 MiB with one partition from its first MiB on: 56 MiB.
PART_FIRST, PART_SECTORS = 2048, 56 << 11
# What the kernel has to write down about the memory lies in it.
DAX = '''set -e
cd /sys/bus/nd/devices
echo namespace{r}.0 > ../drivers/nd_pmem/unbind
echo pmem > dax{r}.0/mode
echo 2097152 > dax{r}.0/align
echo 9d1f3c1e-6d0a-4c53-9c35-2c60b8d1a4f{r} > dax{r}.0/uuid
echo namespace{r}.0 > dax{r}.0/namespace
modprobe device_dax; modprobe dax_pmem
test -e ../drivers/dax_pmem/dax{r}.0 || echo dax{r}.0 > ../drivers/dax_pmem/bind
test -c /dev/dax{r}.0
'''
KMEM = '''set -e
cd /sys/bus/dax/drivers
modprobe kmem
echo offline > /sys/devices/system/memory/auto_online_blocks
echo dax{r}.0 > device_dax/unbind
echo dax{r}.0 > kmem/new_id
test -e kmem/dax{r}.0 || echo dax{r}.0 > kmem/bind
for m in /sys/devices/system/memory/memory*/state; do
	test "$(cat $m)" = online || echo online_movable > $m
done
'''
NOT_KMEM = '''set -e
for m in $(ls -r -d /sys/devices/system/memory/memory*); do
	test "$(cat $m/valid_zones)" != Movable || echo offline > $m/state
done
echo dax{r}.0 > /sys/bus/dax/drivers/kmem/unbind
'''


def refused(t, g, device, name, words, what):
    """portalctl bind says why, and changes nothing."""
    status, text = g.call('portalctl bind %s 2>&1' % device)
    t.ok(status == 5 and words in text and 'nothing was changed' in text and
         len(text.splitlines()) == 1, 'bind refuses %s' % what, text)
    t.equal(pmemlab.driver(g, name), 'virtio_pmem', '%s: nothing is unbound' % what)


def opened(t, g, node, name, what):
    job = g.start('exec sleep 1000 < ' + node)
    qemu.wait_until(lambda: not g.call('pidof sleep')[0], 20, 'sleep')
    refused(t, g, name, name, '%s is open in process' % node, what)
    job.kill()
    job.wait(10)


def whole_disks(t, g, a, b):
    """a is empty, b has a file system."""
    g.run('mkdir -p /mnt; mount -t ext4 /dev/pmem1 /mnt')
    refused(t, g, '/dev/pmem1', b, '/dev/pmem1 is mounted on /mnt', 'a mounted disk')
    g.run('echo kept > /mnt/file; umount /mnt')
    g.run('busybox mkswap /dev/pmem0 && busybox swapon /dev/pmem0')
    refused(t, g, '/dev/pmem0', a, 'is swap space', 'swap space')
    g.run('busybox swapoff /dev/pmem0')
    g.run('modprobe loop; busybox losetup /dev/loop0 /dev/pmem1')
    refused(t, g, '/dev/pmem1', b, 'loop device', 'a disk behind a loop device')
    g.run('busybox losetup -d /dev/loop0')
    opened(t, g, '/dev/pmem1', b, 'a disk that a process has open')


def partition_table():
    entry = struct.pack('<4xB3xII', 0x83, PART_FIRST, PART_SECTORS)
    return bytes(446) + entry + bytes(48) + b'\x55\xaa'


def mapped(t, g, node, name):
    """By device mapper, as LVM and dm-crypt do."""
    g.run('modprobe dm_mod; dmsetup create --noudevsync some --table '
          '"0 2048 linear %s 0"' % node)
    refused(t, g, name, name, '%s is part of /dev/dm-0 (some, device mapper)' % node,
            'a part of a device-mapper volume: %s' % node)
    g.run('dmsetup remove --noudevsync some')


def mirrored(t, g, node, name):
    """By md, whose array has no metadata: nothing is written to the disk for it."""
    g.run('''set -e
        modprobe raid1
        test -e /sys/block/md7 || echo md7 > /sys/module/md_mod/parameters/new_array
        cd /sys/block/md7/md
        echo none > metadata_version
        echo raid1 > level
        echo 1 > raid_disks
        echo 50000 > component_size
        echo {rdev} > new_dev
        echo 0 > dev-{short}/slot
        echo active > array_state'''.format(
            rdev=g.run('cat /sys/class/block/%s/dev' % node[5:]).strip(), short=node[5:]))
    refused(t, g, name, name, '%s is part of /dev/md7 (md)' % node,
            'a part of a RAID: %s' % node)
    g.run('echo clear > /sys/block/md7/md/array_state')


def partitions(t, g, a):
    """And what sits on a disk as a whole, where a partition could."""
    mapped(t, g, '/dev/pmem0', a)
    mirrored(t, g, '/dev/pmem0', a)
    g.put('/tmp/table', partition_table())
    g.run('dd if=/tmp/table of=/dev/pmem0 conv=fsync 2>/dev/null; '
          'busybox blockdev --rereadpt /dev/pmem0')
    pmemlab.wait_disks(g, 'pmem0p1')
    g.run('busybox mke2fs -F /dev/pmem0p1 >/dev/null; mount -t ext2 /dev/pmem0p1 /mnt')
    refused(t, g, '/dev/pmem0', a, '/dev/pmem0p1 is mounted on /mnt',
            'a disk with a mounted partition')
    refused(t, g, '/dev/pmem0p1', a, '/dev/pmem0p1 is mounted on /mnt', 'that partition')
    g.run('umount /mnt')
    opened(t, g, '/dev/pmem0p1', a, 'a disk with a partition that a process has open')
    mapped(t, g, '/dev/pmem0p1', a)
    mirrored(t, g, '/dev/pmem0p1', a)
    # A table alone is no use, but would be seen by the next reader.
    g.run('dd if=/dev/zero of=/dev/pmem0 bs=512 count=1 conv=fsync 2>/dev/null; '
          'busybox blockdev --rereadpt /dev/pmem0')


def in_use(t, g, a, b):
    whole_disks(t, g, a, b)
    partitions(t, g, a)


def memory(t, g, name, region=0):
    """As a character device for programs, then as the system's own memory."""
    g.run(DAX.format(r=region))
    node = '/dev/dax%d.0' % region
    opened(t, g, node, name, 'a DAX device that a process has open')
    before = int(g.run("sed -n 's/MemTotal: *//p' /proc/meminfo").split()[0])
    g.run(KMEM.format(r=region))
    after = int(g.run("sed -n 's/MemTotal: *//p' /proc/meminfo").split()[0])
    t.ok(after > before + (100 << 10), 'the system has the memory as its own',
         '%d KiB, then %d KiB' % (before, after))
    refused(t, g, name, name, "%s is part of the system's memory" % node,
            "what is the system's memory")
    g.run(NOT_KMEM.format(r=region))
    t.equal(g.run('portalctl bind ' + name).strip(), '/dev/portal0',
            'given back, it can be bound')
