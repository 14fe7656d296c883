#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A VMBus portal comes and goes: rescind, offer, unload, unbind, death.

vmbus_life.py [KERNEL [RELOADS]]. Files and mappings are open and traffic flows
when the host rescinds; what comes back has the same number. A client that does
not let go, of its socket or of the memory, keeps the guest's pages out of use, and
nothing else; one of bad will does not stop the host. About a minute.
"""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import hand  # noqa: E402
from lab.cache import say  # noqa: E402
from lab.tap import Tap  # noqa: E402
import vmbuspair as lab  # noqa: E402

RELOADS = int(sys.argv[2]) if len(sys.argv) > 2 else 20
REGION = '4M'


def traffic(g):
    """A stream through the region, both ends at work; the two jobs."""
    recv = g.l1.start('portalctl recv -q -t 60 unix:%s /dev/null' % g.socket)
    send = g.start('portalctl send -q -t 60 /dev/portal0 /dev/zero')
    return send, recv


def flowing(g):
    """Wait until the stream has rung to and fro."""
    end = time.monotonic() + 60 * g.slow
    while True:
        c = lab.status(g)['channels'][0]
        if c['bells_in'] > 4 and c['bells_out']:
            return
        if time.monotonic() > end:
            raise AssertionError('no stream: %s' % c)
        time.sleep(0.2)


def check_rescind(t, g, now=False):
    """Under a stream, with a file and mappings open; then again the same N."""
    h = hand.Hand(g, '/dev/portal0')
    h.must('map 0 rw')
    h.must('put 8192 77')
    send, recv = traffic(g)
    flowing(g)
    g.vsp('rescind now' if now else 'rescind')
    what = 'rescind now' if now else 'rescind'
    lab.wait_run(g, 'test ! -e /dev/portal0')
    t.ok(True, what + ': the node goes')
    t.equal(h.say('get 8192'), 'sigbus', what + ': a mapping gives SIGBUS')
    t.equal(h.say('info'), 'err ENODEV', what + ': a file gives ENODEV')
    status = [send.wait(60), recv.wait(60)]
    t.ok(0 not in status and max(status) < 128, what + ': both ends of the '
         'stream end with an error', '%s\n%s\n%s' % (status, send.text(),
                                                     recv.text()))
    lab.wait_status(g, clients=0, state='closed')
    g.vsp('offer')
    lab.wait_run(g, 'test -c /dev/portal0')
    t.ok(True, 'offer: it is portal0 again, though the old file is open')
    t.equal(h.say('info'), 'err ENODEV', 'and the old file stays dead')
    h.end()
    new = hand.Hand(g, '/dev/portal0')
    host = lab.client(g)
    new.must('map 0 rw')
    new.must('put 8192 78')
    t.equal(host.say('get 8192'), 'ok 78', 'the new one works')
    for x in (new, host):
        x.end()


# What the host leaves unsaid, and what it has come to when it rescinds instead.
STEPS = [
    ('silence@welcome', 'bind', 'greeted'),
    ('channels-missing', 'bind', 'greeted'),
    ('silence@live', 'bind', 'live'),
    ('silence@bye-ack', 'unbind', 'open'),
]


def check_steps(t, g):
    """A rescind in the middle of each step of a session: who waits is told at once."""
    g.run('rmmod portal_vmbus')
    lab.load(g, REGION, timeout=60)
    for lie, how, state in STEPS:
        name = 'rescind instead of an answer (%s)' % lie
        if how == 'bind':
            bind(g, 'unbind')
        g.vsp('lie ' + lie)
        job = g.start('echo %s >%s/%s' % (lab.INSTANCE % 1, lab.DRIVER, how))
        lab.wait_status(g, state=state)
        g.run('dmesg -c >/dev/null')
        began = time.monotonic()
        g.vsp('rescind now')
        job.wait(30)
        lab.wait_run(g, 'test ! -e /sys/bus/vmbus/devices/' + lab.INSTANCE % 1)
        t.ok(time.monotonic() - began < 30 * g.slow, name + ': at once')
        log = g.dmesg()
        t.ok('not confirmed' not in log and 'lost' not in log,
             name + ': nothing is kept back', log)
        g.vsp('truth')
        lab.wait_status(g, state='closed')
        g.vsp('offer')
        lab.wait_run(g, 'test -c /dev/portal0')
        t.ok(True, name + ': offered anew it works')
    g.run('rmmod portal_vmbus')
    lab.load(g, REGION)


def check_reloads(t, g):
    bad = ''
    # Whoever looks at sysfs meanwhile, at every file of channels that come and go.
    reader = g.start('while :; do cat /sys/bus/vmbus/devices/*/channels/*/* '
                     '/sys/class/portal/*/* >/dev/null 2>&1; done')
    for i in range(RELOADS):
        host = lab.client(g)
        host.must('put 4096 %d' % i)
        # Its end is what BYE waits for.
        host.ask('close') if i % 2 else host.job.kill()
        g.run('rmmod portal_vmbus')
        if not lab.load(g, REGION):
            bad = 'no /dev/portal0 after %d' % i
            break
    reader.kill()
    reader.wait(20)
    t.equal(bad, '', '%d times: the module unloads and loads, a client each '
            'time' % RELOADS)


def bind(g, how):
    return g.run('echo %s >%s/%s' % (lab.INSTANCE % 1, lab.DRIVER, how), 60)


def check_unbind(t, g):
    """A client that hears of the end and lets go, in its own time."""
    host = lab.client(g)
    host.must('fill 0 4194304 5')
    job = g.start('echo %s >%s/unbind' % (lab.INSTANCE % 1, lab.DRIVER))
    lab.wait_status(g, state='ending')
    t.equal(host.say('check 0 4194304 5'), 'ok',
            "unbind: until it lets go the client's memory is what it was")
    t.equal(lab.status(g)['clients'], 1, 'and the host waits for it')
    host.must('close')
    t.equal(job.wait(60), 0, 'then the unbind ends')
    host.end()
    bind(g, 'bind')
    t.ok(g.call('test -c /dev/portal0')[0] == 0, 'bind: portal0 is back')


def check_stubborn(t, g):
    """One that does not let go: the pages are kept, a later session frees them."""
    g.run('rmmod portal_vmbus')
    lab.load(g, REGION)
    lab.patience(g, lab.silent(g))
    host = lab.client(g)
    host.must('fill 0 4194304 6')
    free = free_kib(g)
    bind(g, 'unbind')
    t.ok(free_kib(g) - free < 2048, 'a client that does not let go: the guest '
         'keeps the pages out of use')
    t.equal(host.say('check 0 4194304 6'), 'ok', 'nobody else writes to them')
    refused = lab.client(g, must=False)
    text = refused.say('open unix:' + g.socket)
    t.ok('ENODEV' in text, 'nobody new comes in', text)
    refused.end()
    status, text = g.call('echo %s >%s/bind' % (lab.INSTANCE % 1, lab.DRIVER),
                          60)
    t.ok(status, 'and no new session begins meanwhile', text)
    host.end()
    lab.patience(g)
    lab.wait_status(g, clients=0)
    bind(g, 'bind')
    t.ok(g.call('test -c /dev/portal0')[0] == 0, 'when it is gone one does')
    t.ok(abs(free_kib(g) - free) < 3072, 'with no page lost',
         '%d and %d KiB free' % (free, free_kib(g)))
    log = [line for line in g.dmesg().splitlines() if 'portal_vmbus' in line]
    t.diag('\n'.join(log[-6:]))


def keeper(g):
    """A process of the host that has the memory, and no socket any more."""
    host = lab.client(g)
    host.must('fill 0 4194304 7')
    host.must('hangup')
    lab.wait_status(g, clients=0)
    return host


def check_keeper(t, g):
    """One that lets go of its socket, but not of the memory."""
    host = keeper(g)
    lab.patience(g, lab.silent(g))
    g.run('dmesg -c >/dev/null')
    bind(g, 'unbind')
    t.ok('has not confirmed that it let go' in g.dmesg(), 'a client that closes its socket '
         'alone: the guest keeps the pages', g.dmesg())
    status, text = g.call('echo %s >%s/bind' % (lab.INSTANCE % 1, lab.DRIVER), 60)
    t.ok(status, 'and no new session begins', text)
    t.equal(host.say('check 0 4194304 7'), 'ok', 'nobody else writes to them')
    host.end()
    lab.patience(g)
    lab.wait_status(g, state='closed')
    bind(g, 'bind')
    t.ok(g.call('test -c /dev/portal0')[0] == 0, 'when it is gone one does')
    host = keeper(g)
    g.vsp('rescind')
    time.sleep(1)
    s = lab.status(g)
    t.ok(s['state'] == 'ending' and g.call('test -c /dev/portal0')[0] == 0,
         'rescind: the guest is not told before the memory is its own alone', s)
    host.end()
    lab.wait_run(g, 'test ! -e /dev/portal0')
    lab.wait_status(g, state='closed')
    g.vsp('offer')
    lab.wait_run(g, 'test -c /dev/portal0')
    t.ok(True, 'rescind: then it is')


def check_bells(t, g):
    """Clients that make their bells blocking, and fill them: the host does not sleep."""
    first = lab.client(g)
    first.must('blocking 0')
    first.end()
    lab.wait_status(g, clients=0)
    second = lab.client(g, must=False)
    t.equal(second.say('open unix:' + g.socket, 60), 'ok', 'an eventfd of a predecessor that '
            'blocks does not stop the host')
    second.must('blocking 0 -2')
    own = hand.Hand(g, '/dev/portal0')
    for _ in range(3):
        own.must('ring %s 0' % second.info()['peer'])
    t.equal(lab.status(g)['clients'], 1, 'nor does a full one, when the guest rings')
    t.equal(second.say('wait 0 5000'), 'ok', 'and it is rung')
    for h in (own, second):
        h.end()


def free_kib(g):
    g.run('echo 3 >/proc/sys/vm/drop_caches')
    return int(g.run("sed -n 's/^MemFree: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"))


def check_death(t, l1):
    """The guest is gone in the middle of a stream."""
    with lab.guest(l1, channels=2) as g:
        lab.load(g, REGION)
        send, recv = traffic(g)
        lab.wait_run(g, 'test $(pidof portalctl)')
        g.process.kill()
        status = recv.wait(60)
        t.ok(0 < status < 128, "the guest's death ends its host's client with "
             'an error', '%s\n%s' % (status, recv.text()))


def main():
    with Tap() as t, lab.start_l1() as l1:
        with lab.guest(l1, channels=2) as g:
            t.ok(lab.load(g, REGION), 'the module loads')
            say('rescind')
            check_rescind(t, g)
            check_rescind(t, g, now=True)
            say('a rescind at each step')
            check_steps(t, g)
            say('reloads')
            check_reloads(t, g)
            say('unbind')
            check_unbind(t, g)
            check_stubborn(t, g)
            check_keeper(t, g)
            check_bells(t, g)
            # RELID_RELEASED, which QEMU's bus does not know
            g.allow = 'unknown message type 0xd'
            g.finish(t)
        say('death')
        check_death(t, l1)
        l1.finish(t)


main()
