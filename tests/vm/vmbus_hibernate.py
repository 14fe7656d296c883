#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A guest of a VMBus host hibernates for real: its memory goes to a disk, its QEMU ends,
and another one goes on with it.

vmbus_hibernate.py debug: of the kernels here only that one can. The disk is virtio-pmem.
A process with the portal open and mapped does not notice but for a new generation.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import hand  # noqa: E402
from lab.cache import say  # noqa: E402
from lab.tap import Tap  # noqa: E402
import vmbuslab  # noqa: E402
import vmbuspair as lab  # noqa: E402

REGION = 4 << 20
WORD = 0x5afe
DISK = ('-m slots=1,maxmem=4G '
        '-object memory-backend-file,id=swap,mem-path=/tmp/swap,size=768M,share=on '
        '-device virtio-pmem-pci,id=swap,memdev=swap')


def disk(g):
    g.run('modprobe virtio_pmem; modprobe nd_pmem; i=0; while [ ! -b /dev/pmem0 ] && '
          '[ $i -lt 100 ]; do i=$((i+1)); usleep 100000; done; test -b /dev/pmem0')


def check_portal(t, g, h, when):
    """All of it: the region from both sides, doorbells, packets."""
    host = lab.client(g)
    t.equal([h.say('get 8192'), host.say('get 8192')], ['ok %d' % WORD] * 2,
            when + ': both sides see the word')
    host.must('put 12288 %d' % (WORD + 1))
    t.equal(h.say('get 12288'), 'ok %d' % (WORD + 1), when + ': and a new one')
    host.end()
    status, text = g.call('packets /dev/portal0 echo 200', 120)
    t.nested(text, when + ': packets', status)


def main():
    with Tap() as t, lab.start_l1(names=['virtio_pmem', 'nd_pmem'],
                                  extra=vmbuslab.programs()) as l1:
        g = lab.guest(l1, more=DISK)
        t.ok(lab.load(g, REGION), 'the module loads')
        h = hand.Hand(g, '/dev/portal0')
        h.must('map 0 rw')
        h.must('put 8192 %d' % WORD)
        check_portal(t, g, h, 'before')
        generation = int(g.run('cat /sys/class/portal/portal0/generation'))
        disk(g)
        g.run('mkswap /dev/pmem0; swapon /dev/pmem0; echo shutdown >/sys/power/disk')
        numbers = g.run('cat /sys/class/block/pmem0/dev').strip()
        say('hibernating')
        sleeper = g.start('echo disk >/sys/power/state')
        t.equal(g.process.wait(300), 0, 'it is written, and its QEMU ends')
        say('another QEMU')
        with lab.guest(l1, more=DISK) as other:
            disk(other)
            other.start('echo %s >/sys/power/resume' % numbers)
            # From here on it is the first one that speaks.
            g.process, g.job, g.ended = other.process, other.job, False
            t.equal(sleeper.wait(300), 0, 'it goes on where it was')
            t.equal(int(g.run('cat /sys/class/portal/portal0/generation')), generation + 1,
                    'the portal has a new generation')
            check_portal(t, g, h, 'after')
            h.end()
            g.run('swapoff /dev/pmem0')
            g.finish(t)
        l1.finish(t)


main()
