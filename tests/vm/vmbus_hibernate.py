#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A guest with a VMBus portal hibernates to a disk, and wakes up in another QEMU.

vmbus_hibernate.py [KERNEL]. A process has the portal open and mapped; the machine is
written to a virtio disk and powers off. Then QEMU is started anew, with a VSP that knows
nothing of it: a kernel boots, and reads the image. Twice. And a kernel that must not read
one, because a host may write to its memory. (By the kernel's own test, without an image:
vmbus_sleep.py.)
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import hand  # noqa: E402
from lab.cache import say  # noqa: E402
from lab.tap import Tap  # noqa: E402
import vmbuspair as lab  # noqa: E402

REGION = '4M'
DISK = ('-drive file=/disk,if=none,format=raw,id=disk '
        '-device virtio-blk-pci,drive=disk')
SWAP = ('modprobe virtio_blk; i=0; while [ ! -b /dev/vda ] && [ $i -lt 50 ]; do i=$((i+1)); '
        'usleep 100000; done; test -b /dev/vda')
RESUME = '; cat /sys/block/vda/dev >/sys/power/resume'


def to_disk(g):
    """A job that ends when the machine wakes up."""
    job = g.start('mkswap /dev/vda && swapon /dev/vda && echo 0 >/sys/power/image_size && '
                  'echo shutdown >/sys/power/disk && echo disk >/sys/power/state')
    g.process.wait(180)
    return job


def check_refused(t, g, overdue):
    """The kernel that is to read the image shares memory, which the host keeps."""
    name = 'a kernel that has memory overdue' if overdue else 'a kernel that has a portal'
    to_disk(g)
    g.boot_again()
    t.ok(lab.load(g, REGION, timeout=2), name + ' of which the host does not let go')
    g.vsp('lie silence@bye-ack')
    if overdue:
        g.run('echo %s >%s/unbind' % (lab.INSTANCE % 1, lab.DRIVER))
    g.call(SWAP + RESUME, 120)
    t.ok('memory that an image is to be read into' in g.dmesg(), name + ': reads no image',
         g.dmesg()[-2000:])
    g.vsp('truth')
    if overdue:
        g.run('echo %s >%s/bind' % (lab.INSTANCE % 1, lab.DRIVER))
    h, host = hand.Hand(g, '/dev/portal0'), lab.client(g)
    h.must('map 0 rw')
    h.must('put 8192 3')
    t.equal(host.say('get 8192'), 'ok 3', name + ': which goes on')
    for x in (host, h):
        x.end()


def check(t, g, n):
    name = 'hibernation %d' % n
    h = hand.Hand(g, '/dev/portal0')
    h.must('map 0 rw')
    h.must('put 8192 %d' % n)
    before = int(g.run('cat /sys/class/portal/portal0/generation'))
    host = lab.client(g)
    t.equal(host.say('get 8192'), 'ok %d' % n, name + ': the host sees what is there before')
    host.end()
    say('to the disk')
    job = to_disk(g)
    t.equal(g.process.returncode, 0, name + ': the machine powers off')
    say('and back')
    g.wake_up(SWAP + RESUME, g.boot_again())
    t.equal(job.wait(180), 0, name + ': it wakes up where it was')
    t.equal(int(g.run('cat /sys/class/portal/portal0/generation')) - before, 1,
            name + ': the portal has begun again')
    t.equal(h.say('get 8192'), 'ok %d' % n, name + ': the mapping and its content are there')
    h.must('put 8192 %d' % (n + 50))
    host = lab.client(g)
    t.equal(host.say('get 8192'), 'ok %d' % (n + 50),
            name + ': a process of the new host shares the memory')
    host.must('put 16384 5')
    t.equal(h.say('get 16384'), 'ok 5', name + ': and its stores are seen')
    for x in (host, h):
        x.end()
    echo = g.l1.start('portalctl ping --echo unix:' + g.socket)
    status, text = g.call('portalctl ping --count 100 /dev/portal0')
    t.equal([status, echo.wait(60)], [0, 0], name + ': messages go to and fro')
    g.run('swapoff /dev/vda')
    t.diag('\n'.join(x for x in g.dmesg().splitlines() if 'hibernation: ' in x)[-500:])


def main():
    with Tap() as t, lab.start_l1(names=['virtio_blk'], memory='3G') as l1:
        if not l1.kernels['a'].config('HIBERNATION'):
            t.skip('hibernation', 'this kernel has none')
            return
        l1.run('truncate -s 600M /disk')
        with lab.guest(l1, more=DISK) as g:
            g.run(SWAP + RESUME)        # there is no image
            t.ok(lab.load(g, REGION), 'the module loads', g.dmesg()[-2000:])
            for n in (1, 2):
                check(t, g, n)
            for overdue in (False, True):
                check_refused(t, g, overdue)
            g.finish(t)
        l1.finish(t)


main()
