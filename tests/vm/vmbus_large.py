#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A region of a gigabyte, of hundreds of GPADLs, seen by a guest and its host.

vmbus_large.py [KERNEL [MIB]]. Both ends, and pages that chance chooses, are written by
either side and read by the other; then both go through all of it. A few minutes.
"""
import os
import random
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import hand  # noqa: E402
from lab.tap import Tap  # noqa: E402
import vmbuspair as lab  # noqa: E402

MIB = 1 << 20
SIZE = (int(sys.argv[2]) if len(sys.argv) > 2 else 1024) * MIB
SAMPLES = 300


def samples(rng):
    """Words of both ends, of both sides of each piece's border, and of pages anywhere."""
    border = 4 * MIB
    places = {0, SIZE - 8, border - 8, border, SIZE - border - 8, SIZE - border}
    places |= {rng.randrange(SIZE // 8) * 8 for _ in range(SAMPLES)}
    return sorted(places)


def check_samples(t, writer, reader, name, seed):
    places = samples(random.Random(seed))
    for at in places:
        writer.must('put %d %d' % (at, at + seed))
    wrong = [at for at in places if reader.say('get %d' % at) != 'ok %d' % (at + seed)]
    t.equal(wrong, [], '%s: %d words, anywhere and at both ends' % (name, len(places)))


def main():
    with Tap() as t, lab.start_l1(memory='%dM' % (SIZE // MIB + 1600)) as l1, \
            lab.guest(l1, memory=SIZE // MIB + 512, vsp='max-region=2G') as g:
        began = time.monotonic()
        g.run('modprobe portal_vmbus region_size=%d timeout=60' % SIZE, 300)
        took = time.monotonic() - began
        t.equal(g.run('cat /sys/class/portal/portal0/size').strip(), str(SIZE),
                'the region is there')
        s = lab.status(g)
        t.ok(s['gpadls'] >= SIZE // (4 * MIB) and s['bytes'] == SIZE,
             'of several GPADLs', s)
        t.diag('%d MiB in %d GPADLs, %d runs of guest memory, shared in %.1f s' % (
            SIZE // MIB, s['gpadls'], s['runs'], took))
        host, own = lab.client(g), hand.Hand(g, program='libhand')
        own.must('open /dev/portal0', 60)
        check_samples(t, own, host, 'the host reads what the guest wrote', 1)
        check_samples(t, host, own, 'the guest reads what the host wrote', 2)
        own.must('fill 0 %d 3' % SIZE, 300)
        t.equal(host.say('check 0 %d 3' % SIZE, 300), 'ok', 'the host reads all of it')
        host.must('fill 0 %d 4' % SIZE, 300)
        t.equal(own.say('check 0 %d 4' % SIZE, 300), 'ok', 'the guest reads all of it')
        for h in (own, host):
            h.end()
        free = int(g.run("sed -n 's/^MemFree: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"))
        g.run('rmmod portal_vmbus', 300)
        back = int(g.run("sed -n 's/^MemFree: *\\([0-9]*\\).*/\\1/p' /proc/meminfo")) - free
        t.ok(back > (SIZE >> 10) - 8192, 'and the guest has all of it back', '%d KiB' % back)
        g.finish(t)
        l1.finish(t)


main()
