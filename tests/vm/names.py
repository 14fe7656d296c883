#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""names.py [KERNEL]: sessions, robust locks and objects by name, of the library and
portalctl, between two guests and the host of a managed portal.

What the kernel writes of sessions is managed.py's; what the library does with an object
and a lock, however its users die, is tests/unit/lib's. Here both, on a real device: a
process in one guest, one in the other, one on the host.
"""
import json
import os
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import vmbuspair                                # noqa: E402
from lab import suite                     # noqa: E402
from lab.hand import Hand                       # noqa: E402
from lab.late import Clock                      # noqa: E402
from lab.portal import Portald                  # noqa: E402
from lab.tables import Tables                   # noqa: E402
from lab.tap import Tap                         # noqa: E402

ALIVE, DEAD, SUSPECT = 2, 4, 5
CAME, MESSAGE, FROM_SUSPECT, FROM_BACK = 1, 0, 2, 3
PATIENT = 240                                   # seconds, for what has to come
EVENTS = 1                                      # a hub that tells of senders, too
BEAT = 0.5
# In seconds, what portal-layout(5) promises (WHO WAITS HOW LONG).
DEATH = 2
SUSPICION = 3 * BEAT
UNIT = 65536


class HostHand:
    """A libhand on the host: a process of portald's."""

    def __init__(self, program, uri):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()
        self.must('open ' + uri)

    def ask(self, order):
        self.process.stdin.write(order + '\n')
        self.process.stdin.flush()

    def answer(self, timeout=PATIENT):
        timer = threading.Timer(timeout, self.process.kill)
        timer.start()
        line = self.process.stdout.readline().rstrip('\n')
        timer.cancel()
        return line

    def say(self, order):
        self.ask(order)
        return self.answer()

    def must(self, order):
        answer = self.say(order)
        if not answer.startswith('ok'):
            raise AssertionError('host: %s: %s' % (order, answer))
        return answer[3:]

    def end(self):
        self.ask('exit')
        self.process.wait(PATIENT)


def hand(g):
    h = Hand(g, program='libhand')
    h.must('open /dev/portal0')
    return h


def joined(t, hands):
    """Each has a session, and sees the others'."""
    tokens = {n: int(h.must('join')) for n, h in hands.items()}
    t.ok(len(set(tokens.values())) == 3, 'three sessions: two guests, the host', tokens)
    for n, h in hands.items():
        states = {m: int(h.must('state %d' % token)) for m, token in tokens.items()}
        t.equal(states, dict.fromkeys(tokens, ALIVE), '%s: all are alive' % n)
    return tokens


def shared(t, hands, guests):
    """One object, opened by its name by all; its bytes are the same."""
    places = {n: h.must('name shared %d' % (3 * UNIT)) for n, h in hands.items()}
    t.equal(len(set(places.values())), 1, 'an object by its name is the same to all')
    offset = int(places['a'].split()[0])
    hands['a'].must('put %d 4711' % (offset + 4096))
    for n in ('b', 'host'):
        t.equal(hands[n].must('get %d' % (offset + 4096)), '4711', '%s: and so are its bytes' % n)
    for g in guests:
        rows = json.loads(g.run('portalctl ls --json'))
        t.equal([(r['name'], r['opens']) for r in rows], [('shared', 3)], '%s: portalctl ls' % g.name)
    return offset


def handing_over(owner, waiter, guests):
    """How long it takes, each of five times."""
    took = []
    for _round in range(5):
        owner.must('lock 0')
        waiter.ask('lock 60000')
        time.sleep(0.3)
        clock = Clock(*(g.process.pid for g in guests))
        owner.must('unlock')
        answer = waiter.answer()
        took.append(clock.took()[0])
        if answer != 'ok':
            raise AssertionError(answer)
        waiter.must('unlock')
    return took


def handed_over(t, hands, guests):
    """An unlock wakes who waits in another machine: not only the clock does."""
    names = ['a', 'b', 'host']
    for i in range(3):
        # Where it is the clock, it is each time; a busy machine may be late a whole time.
        for _ in range(4):
            took = handing_over(hands[names[i]], hands[names[(i + 1) % 3]], guests)
            if sorted(took)[1] < 0.08:
                break
        t.ok(sorted(took)[1] < 0.08, '%s unlocks: %s has it at once' % (names[i], names[(i + 1) % 3]),
             ' '.join('%.3f' % x for x in took))
    hands['a'].must('lock 0')
    t.ok(hands['b'].say('lock 500').startswith('err ETIMEDOUT'), 'one who is alive keeps it')
    hands['a'].must('unlock')


def pair(guests, lock=False):
    """Two processes of their own, one in each machine."""
    both = [hand(g) for g in guests]
    for h in both if lock else ():
        h.must('name shared 1')
    return both


def sent(receiver, sender):
    """A message, and what the hub hears with it; who has just opened the channel is let in."""
    sender.ask('send 8')
    heard = [receiver.say('from 60000')]
    while heard[-1].startswith('ok %d ' % CAME):
        heard.append(receiver.say('from 60000'))
    if sender.answer() != 'ok':
        raise AssertionError('send')
    return heard


def over(g, name, *hands):
    for h in hands:
        h.must('close')
        h.end()
    g.run('portalctl rm ' + name)


class Beats:
    """Of the machine that looks at others. Within three of them is what is promised; or in as long
    as they should take, by a clock that stands while a machine that must run is kept from it."""

    def __init__(self, tables, looks, *others):
        self.tables, self.slot = tables, int(looks.run('cat /sys/class/portal/portal0/slot'))
        self.machines = [g.process.pid for g in (looks,) + others]

    def begin(self):
        self.clock, self.before = Clock(*self.machines), self.tables.heartbeat(self.slot)

    def soon(self):
        """(whether it was, how long it took)"""
        beats = self.tables.heartbeat(self.slot) - self.before
        took, wall = self.clock.took()
        return beats <= 3 or took < SUSPICION, '%.2f s; %.2f; %d beats' % (took, wall, beats)


def stands_still(t, guests, tables):
    """A machine stands still with a lock, and as a sender: the lock stays its own, and the hub
    in the other machine hears of it; and when it goes on."""
    (a, b), (sender, receiver) = guests, pair(guests, lock=True)
    token = int(sender.must('join'))
    receiver.must('hub jobs %d' % EVENTS)
    sender.must('channel jobs')
    of = ' %d' % token
    t.equal(sent(receiver, sender), ['ok %d%s' % (e, of) for e in (CAME, MESSAGE)],
            'a sender in one machine, a hub in the other')
    sender.must('lock 0')
    receiver.ask('from 60000')
    beats = Beats(tables, b)
    a.qmp('stop')
    beats.begin()
    answer = receiver.answer()
    soon, took = beats.soon()
    t.ok(answer == 'ok %d%s' % (FROM_SUSPECT, of) and soon,
         'its machine stands still: the hub is told that it is suspect (%s)' % took, answer)
    answer = receiver.say('lock 2000')
    t.ok(answer.startswith('err ETIMEDOUT') and 'suspect' in answer,
         'its lock is not to be had: ETIMEDOUT, for it is suspect', answer)
    t.equal(receiver.must('state %d' % token), str(SUSPECT), 'so is its session')
    receiver.ask('from 60000')
    beats = Beats(tables, b, a)
    beats.begin()
    a.qmp('cont')
    answer = receiver.answer()
    soon, took = beats.soon()
    t.ok(answer == 'ok %d%s' % (FROM_BACK, of) and soon, 'it goes on: the hub is told that, too (%s)' % took, answer)
    sender.must('unlock')
    t.equal(receiver.say('lock 2000'), 'ok', 'and what it unlocks the other has')
    receiver.must('unlock')
    t.equal(sent(receiver, sender), ['ok %d%s' % (MESSAGE, of)], 'what it sends comes')
    over(b, 'jobs', sender, receiver)


def end_of(sender, wanted):
    """A sender waits at its watch descriptor until the other end is as wanted."""
    while True:
        answer = sender.say('watch 60000')
        if answer != 'ok' or int(sender.must('end')) == wanted:
            return answer


def hub_stands_still(t, guests, tables):
    """The same for who sends to a hub in such a machine."""
    (a, b), (receiver, sender) = guests, pair(guests)
    receiver.must('hub results %d' % EVENTS)
    sender.must('channel results')
    sent(receiver, sender)
    t.equal(int(sender.must('end')), ALIVE, 'a sender, and a hub whose machine lives')
    for what, act, wanted in (('stands still: by its watch descriptor its sender sees it suspect', 'stop', SUSPECT),
                              ('goes on: alive', 'cont', ALIVE)):
        while sender.say('watch 100') == 'ok':
            pass
        beats = Beats(tables, b, *([a] if act == 'cont' else []))
        a.qmp(act)
        beats.begin()
        answer = end_of(sender, wanted)
        soon, took = beats.soon()
        t.ok(answer == 'ok' and soon, "the hub's machine %s (%s)" % (what, took), answer)
    t.equal(len(sent(receiver, sender)), 1, 'and it gets what is sent')
    over(b, 'results', sender, receiver)


def inherits(t, heir, what, kill, *machines):
    """@kill ends the owner while @heir waits for the lock; whose QEMUs must run for that."""
    heir.ask('lock 60000')
    time.sleep(0.3)
    clock = Clock(*(g.process.pid for g in machines))
    kill()
    answer = heir.answer()
    took, wall = clock.took()
    t.ok(answer.startswith('err EOWNERDEAD') and took < DEATH,
         '%s: the other inherits the lock (%.2f s; %.2f)' % (what, took, wall), answer)
    heir.must('repaired')
    heir.must('unlock')


def killed(t, hands, tokens, guests):
    a, b = guests
    hands['a'].must('lock 0')
    inherits(t, hands['b'], 'its process is killed', lambda: a.run('killall -9 libhand'), a, b)
    t.equal(int(hands['b'].must('state %d' % tokens['a'])), DEAD, 'its session is dead')
    hands['host'].must('lock 0')
    inherits(t, hands['b'], 'the process of the host is killed', hands['host'].process.kill, b)
    rows = json.loads(b.run('portalctl ls --json'))
    t.ok(rows[0]['opens'] >= 1, 'uses of the dead stand in the table', rows)
    b.run('portalctl create next 1')
    rows = {r['name']: r['opens'] for r in json.loads(b.run('portalctl ls --json'))}
    t.equal(rows, {'shared': 1, 'next': 0}, 'until somebody changes something')
    b.run('portalctl rm next')
    t.ok('clean' in b.run('portalctl check'), 'portalctl check: clean')


def watched(t, hands, guests):
    """A change in one guest wakes a watcher in the other."""
    a, b = guests
    watch = b.start('portalctl watch --json --count 3 --timeout 240')
    watch.expect('watching its tables', PATIENT)
    clock = Clock(a.process.pid, b.process.pid)
    a.run('portalctl create seen 1')
    watch.expect('object-made', PATIENT)
    took, wall = clock.took()
    t.ok(took < 6, 'watch: an object that another guest makes (%.2f s; %.2f)' % (took, wall))
    watch.kill()
    watch.wait(PATIENT)
    a.run('portalctl rm seen')
    for _ in range(30):
        if hands['b'].say('watch 2000') == 'timeout':
            break
    a.start('portalctl create again 1')
    t.equal(hands['b'].say('watch 60000'), 'ok', 'vmp_watch_fd: the same')
    a.run('portalctl rm -f again')
    text = a.run('portalctl top --once')
    t.ok('shared' in text and 'host' in text and '1 objects' in text, 'portalctl top --once', text)
    peers = json.loads(a.run('portalctl peers --json'))
    t.equal(sorted(p['kind'] for p in peers['peers']), ['guest', 'guest', 'host'], 'portalctl peers')


def listens(hand):
    """It does, when it says so."""
    answer = hand.say('hears 60000')
    if answer != 'ready':
        raise AssertionError(answer)


def heard_by_all(t, hands, uri):
    """Of one process all that sleep on the device: who wakes first leaves it to the others."""
    b = hands['b']
    b.must('hub ears')
    heard = []
    for _ in range(5):
        listens(b)
        comes = HostHand(vmbuspair.libhand(), uri)
        comes.must('join')
        heard.append(b.answer())
        listens(b)
        comes.end()
        b.answer()
    t.equal(heard, ['ok'] * 5, 'a process comes: vmp_watch_fd is ready, and vmp_hub_fd')


def machine_dies(t, hands, guests):
    """QEMU is killed while a process in it holds the lock."""
    a, b = guests
    h = hand(a)
    h.must('name shared 1')
    h.must('lock 0')
    inherits(t, hands['b'], 'its machine is killed', a.process.kill, b)
    peers = json.loads(b.run('portalctl peers --all --json'))['peers']
    t.ok(any(p['state'] == 'dead' and p.get('reason') == 'exited' for p in peers),
         'portalctl peers: dead, its QEMU has exited', peers)


def main(t):
    k = suite.kernel()
    rd = suite.initrd(k, user=['portalctl'], extra=[(vmbuspair.libhand(), '/bin/libhand')])
    server = Portald(size='8M', vectors=4, more=['--managed', '--heartbeat=%d' % (1000 * BEAT)])
    with suite.guest('a', k, rd, server.doorbell()) as a, suite.guest('b', k, rd, server.doorbell()) as b:
        for g in (a, b):
            g.run('modprobe portal heartbeat_ms=%d; modprobe portal_ivshmem' % (1000 * BEAT))
        hands = {'a': hand(a), 'b': hand(b), 'host': HostHand(vmbuspair.libhand(), server.uri)}
        tokens = joined(t, hands)
        shared(t, hands, (a, b))
        handed_over(t, hands, (a, b))
        tables = Tables(server)
        stands_still(t, (a, b), tables)
        hub_stands_still(t, (a, b), tables)
        killed(t, hands, tokens, (a, b))
        watched(t, hands, (a, b))
        heard_by_all(t, hands, server.uri)
        machine_dies(t, hands, (a, b))
        hands['b'].end()
        b.run('portalctl rm shared ears')
        t.equal(json.loads(b.run('portalctl ls --all --json')), [], 'nothing is left')
        t.ok('clean' in b.run('portalctl check'), 'portalctl check: clean')
        b.finish(t)
    server.stop()


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
