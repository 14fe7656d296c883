#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A host that lies in the packet rings, while a program in the guest has them.

vmbus_lies.py [KERNEL]. Wrong indices, lengths and offsets: the program's call
gives -EPROTO and no other, at once; what is merely odd disturbs nothing. Two
vCPUs. The next binding works. (Lies of the handshake: vmbus_driver.py.) About
a minute.
"""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import hand  # noqa: E402
from lab.cache import say  # noqa: E402
from lab.tap import Tap  # noqa: E402
import vmbuspair as lab  # noqa: E402

# Of the ring that the guest receives by, and of the one that it sends by.
RECEIVING = ['write-index-beyond', 'write-index-odd', 'length-zero',
             'length-huge', 'length-beyond', 'offset-zero', 'offset-beyond',
             'packet-cut']
SENDING = ['read-index-beyond', 'read-index-odd']
# A packet of a type that nobody knows is whole: it comes as it is.
ODD = ['pending-huge', 'feature-bits', 'flood']
PATIENCE = 30


def rebind(g):
    for how in ('unbind', 'bind'):
        g.run('echo %s >%s/%s' % (lab.INSTANCE % 1, lab.DRIVER, how), 60)


def rings(g, vector):
    h = hand.Hand(g, program='libhand')
    h.must('open /dev/portal0')
    h.must('packets %d' % vector)
    return h


def echo(t, h, name):
    h.must('send 100')
    t.equal(h.say('recv 10000'), 'ok 104', name)


def receive(h):
    return h.say('recv 5000', 30)


def send(h):
    """The answer to the first packet that is not sent. A sender looks at the
    other's index when there may be no room, not sooner."""
    for _ in range(40):
        answer = h.say('send 1000', 30)
        if answer != 'ok':
            return answer
    return answer


def check(t, g, vector, lie, call):
    h = rings(g, vector)
    echo(t, h, '%s, channel %d: an echo before' % (lie, vector))
    if call is send:
        # Else the host puts the index right with the next packet.
        g.vsp('service %d deaf' % vector)
    g.vsp('lie %d %s' % (vector, lie))
    began = time.monotonic()
    answer = call(h)
    took = time.monotonic() - began
    t.ok(answer.startswith('err EPROTO') and took < PATIENCE * g.slow,
         '%s: %s gives EPROTO' % (lie, call.__name__),
         '%s after %.1f s' % (answer, took))
    t.ok(call(h).startswith('err EPROTO'), '%s: and again' % lie)
    h.end()


def check_odd(t, g):
    h = rings(g, 0)
    for lie in ODD:
        g.vsp('lie 0 ' + lie)
        echo(t, h, '%s: the next packet is echoed' % lie)
    g.vsp('lie 0 noise-packet')
    t.equal(h.say('recv 5000'), 'ok 8', 'a packet of an unknown type comes as '
            'it is')
    h.end()


def main():
    with Tap() as t, lab.start_l1() as l1, \
            lab.guest(l1, channels=2, vcpus=2) as g:
        g.vsp('lie transaction')
        t.ok(lab.load(g, '1M', ring='16K'), 'a host may choose its transaction '
             'ids', g.dmesg()[-2000:])
        for n, lie in enumerate(RECEIVING + SENDING):
            say(lie)
            check(t, g, n % 2, lie, receive if lie in RECEIVING else send)
            rebind(g)
        check_odd(t, g)
        g.finish(t)
        l1.finish(t)


main()
