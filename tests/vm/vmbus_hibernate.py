#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A guest with a VMBus portal hibernates to a disk, and wakes up in another QEMU.

vmbus_hibernate.py [KERNEL]. A process has the portal open and mapped; the machine is
written to a virtio disk and powers off. Then QEMU is started anew, with a VSP that knows
nothing of it: a kernel boots, and reads the image. Twice. And kernels that must not read
one, because a host may write to their memory. (By the kernel's own test, without an image:
vmbus_sleep.py.)
"""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import hand  # noqa: E402
from lab.cache import LabError, say  # noqa: E402
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
    # No smaller than it becomes without much ado: pages are looked for one by one.
    job = g.start('mkswap /dev/vda && swapon /dev/vda && '
                  'echo 100000000 >/sys/power/image_size && '
                  'echo shutdown >/sys/power/disk && echo disk >/sys/power/state')
    try:
        g.process.wait(300)
    except subprocess.TimeoutExpired:
        raise LabError('it does not power off: ' + job.text())
    return job


# What the host keeps is a portal's; nobody's, but only when processes are being frozen,
# after the first look at what there is; nobody's from the beginning: the last, for a
# kernel that refuses at the first look keeps the disk open.
REFUSED = ['a kernel that has a portal', 'a kernel whose memory becomes overdue meanwhile',
           'a kernel that has memory overdue']


def check_refused(t, g, name):
    """The kernel that is to read the image shares memory, which the host keeps."""
    bound = name == REFUSED[0]
    to_disk(g)
    g.boot_again()
    t.ok(lab.load(g, REGION), name + ', of which the host does not let go')
    lab.patience(g, 10 * g.slow)
    g.run(SWAP + '; echo 120000 >/sys/power/pm_freeze_timeout')
    g.vsp('lie silence@bye-ack')
    if not bound:
        job = g.start('echo %s >%s/unbind' % (lab.INSTANCE % 1, lab.DRIVER))
        # The host has heard the BYE.
        lab.wait_status(g, state='open')
    if name == REFUSED[2]:
        job.wait(60)
    g.call(SWAP + RESUME, 120)
    t.ok('memory that an image is to be read into' in g.dmesg(), name + ': reads no image',
         g.dmesg()[-2000:])
    g.vsp('truth')
    if not bound:
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
            for name in REFUSED:
                check_refused(t, g, name)
            g.finish(t)
        l1.finish(t)


main()
