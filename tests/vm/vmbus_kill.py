#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A guest that is gone, at moments that nobody chose.

vmbus_kill.py [KERNEL [MOMENTS [SEED]]]. Its machine is reset while the module loads,
while packets and a stream through the region are under way, or while the module
unloads; so its host, the VSP, goes on, and so do processes of the host, which are told.
Then the guest boots again and the portal works. About 15 seconds a moment.
"""
import os
import random
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import hand  # noqa: E402
from lab.cache import say  # noqa: E402
from lab.tap import Tap  # noqa: E402
import vmbuslab  # noqa: E402
import vmbuspair as lab  # noqa: E402

MOMENTS = int(sys.argv[2]) if len(sys.argv) > 2 else 24
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else int(time.time())
REGION = 4 << 20
# What is under way, and how many seconds of it may pass. Two in three in mid-traffic.
PHASES = [('traffic', 3.0), ('load', 0.8), ('traffic', 3.0), ('traffic', 0.3), ('unload', 0.3),
          ('traffic', 3.0)]


def start_traffic(g, h):
    """Packets to and fro, a stream through the region, and a process that has it open."""
    recv = g.l1.start('portalctl recv -q -t 60 unix:%s /dev/null' % g.socket)
    h.must('open unix:' + g.socket)
    h.must('fill 0 4096 %d' % SEED)
    g.start('portalctl send -q -t 60 /dev/portal0 /dev/zero')
    g.start('packets /dev/portal0 echo 10000000')
    return recv


def told(t, g, name, recv, h):
    """The host's processes are not hurt, and who waits hears of the end."""
    status = recv.wait(60)
    t.ok(0 < status < 128, name + ': the stream ends with an error', '%d %s' % (
        status, recv.text()))
    t.ok(h.say('get 0').startswith('ok'), name + ': who has the pages still has them')
    h.must('close')


def moment(t, g, n, rng):
    phase, most = PHASES[n % len(PHASES)]
    after = rng.random() * most
    name = '%d: %s, %.3f s' % (n, phase, after)
    say(name)
    recv, h = None, hand.Hand(g.l1, program='libhand')
    load = 'modprobe portal_vmbus region_size=%d ring_size=65536' % REGION
    if phase == 'load':
        g.start(load)
    else:
        g.run(load, 60)
    if phase == 'traffic':
        recv = start_traffic(g, h)
    elif phase == 'unload':
        g.start('rmmod portal_vmbus')
    time.sleep(after)
    before = lab.status(g)
    g.reset()
    if recv:
        told(t, g, name, recv, h)
        t.diag('%s: %d packets had come back, %d rings' % (
            name, before['channels'][0]['echoed'], before['channels'][0]['bells_in']))
    h.end()
    s = lab.wait_status(g, clients=0, state='closed')
    t.ok(s['offered'], name + ': the guest boots again, and its host is ready', s)


def whole(t, g):
    """After all that: everything works."""
    t.ok(lab.load(g, REGION), 'at last the module loads')
    host, own = lab.client(g), hand.Hand(g, '/dev/portal0')
    own.must('map 0 rw')
    t.equal([own.say('get 0'), host.say('get 4096')], ['ok 0', 'ok 0'],
            'the region is new')
    host.must('fill 0 %d 7' % REGION)
    host.must('put 8192 99')
    t.equal(own.say('get 8192'), 'ok 99', 'and shared')
    for h in (own, host):
        h.end()
    status, text = g.call('packets /dev/portal0 echo 2000', 60)
    t.nested(text, 'packets', status)


def main():
    rng = random.Random(SEED)
    with Tap() as t, lab.start_l1(extra=vmbuslab.programs()) as l1, \
            lab.guest(l1, channels=2, reboots=True) as g:
        t.diag('%d moments of seed %d' % (MOMENTS, SEED))
        for n in range(MOMENTS):
            moment(t, g, n, rng)
        t.equal(lab.status(g)['muted'], False, 'the VSP is the same as before')
        whole(t, g)
        g.finish(t)
        l1.finish(t)


main()
