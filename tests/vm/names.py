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
from lab.portal import Portald                  # noqa: E402
from lab.tap import Tap                         # noqa: E402

ALIVE, DEAD, SUSPECT = 2, 4, 5
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

    def answer(self, timeout=60):
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
        self.process.wait(20)


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


def handed_over(t, hands):
    """An unlock wakes who waits in another machine: not only the clock does."""
    names = ['a', 'b', 'host']
    for i in range(3):
        owner, waiter = hands[names[i]], hands[names[(i + 1) % 3]]
        took = []
        for _round in range(5):
            owner.must('lock 0')
            waiter.ask('lock 20000')
            time.sleep(0.3)
            began = time.monotonic()
            owner.must('unlock')
            answer = waiter.answer()
            took.append(time.monotonic() - began)
            if answer != 'ok':
                raise AssertionError(answer)
            waiter.must('unlock')
        t.ok(sorted(took)[1] < 0.08, '%s unlocks: %s has it at once' % (names[i], names[(i + 1) % 3]),
             ' '.join('%.3f' % x for x in took))
    hands['a'].must('lock 0')
    t.ok(hands['b'].say('lock 500').startswith('err ETIMEDOUT'), 'one who is alive keeps it')
    hands['a'].must('unlock')


def inherits(t, heir, what, kill, seconds):
    """@kill ends the owner while @heir waits for the lock."""
    heir.ask('lock 60000')
    time.sleep(0.3)
    began = time.monotonic()
    kill()
    answer = heir.answer()
    took = time.monotonic() - began
    t.ok(answer.startswith('err EOWNERDEAD') and took < seconds, '%s: the other inherits the lock (%.2f s)' % (
        what, took), answer)
    heir.must('repaired')
    heir.must('unlock')


def killed(t, hands, tokens, guests):
    a, b = guests
    hands['a'].must('lock 0')
    inherits(t, hands['b'], 'its process is killed', lambda: a.run('killall -9 libhand'), 3)
    t.equal(int(hands['b'].must('state %d' % tokens['a'])), DEAD, 'its session is dead')
    hands['host'].must('lock 0')
    inherits(t, hands['b'], 'the process of the host is killed', hands['host'].process.kill, 3)
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
    watch = b.start('portalctl watch --json --count 3 --timeout 30')
    watch.expect('watching its tables', 10)
    began = time.monotonic()
    a.run('portalctl create seen 1')
    watch.expect('object-made', 10)
    took = time.monotonic() - began
    t.ok(took < 6, 'watch: an object that another guest makes (%.2f s)' % took)
    watch.wait(40)
    a.run('portalctl rm seen')
    for _ in range(30):
        if hands['b'].say('watch 2000') == 'timeout':
            break
    a.start('portalctl create again 1')
    t.equal(hands['b'].say('watch 10000'), 'ok', 'vmp_watch_fd: the same')
    a.run('portalctl rm -f again')
    text = a.run('portalctl top --once')
    t.ok('shared' in text and 'host' in text and '1 objects' in text, 'portalctl top --once', text)
    peers = json.loads(a.run('portalctl peers --json'))
    t.equal(sorted(p['kind'] for p in peers['peers']), ['guest', 'guest', 'host'], 'portalctl peers')


def heard_by_all(t, hands, uri):
    """Of one process all that sleep on the device: who wakes first leaves it to the others."""
    b = hands['b']
    b.must('hub ears')
    heard = []
    for _ in range(5):
        b.ask('hears 10000')
        time.sleep(0.3)
        comes = HostHand(vmbuspair.libhand(), uri)
        comes.must('join')
        heard.append(b.answer())
        b.ask('hears 10000')
        time.sleep(0.3)
        comes.end()
        b.answer()
    t.equal(heard, ['ok'] * 5, 'a process comes: vmp_watch_fd is ready, and vmp_hub_fd')


def machine_dies(t, hands, guests):
    """QEMU is killed while a process in it holds the lock."""
    a, b = guests
    h = hand(a)
    h.must('name shared 1')
    h.must('lock 0')
    inherits(t, hands['b'], 'its machine is killed', a.process.kill, 5)
    peers = json.loads(b.run('portalctl peers --all --json'))['peers']
    t.ok(any(p['state'] == 'dead' and p.get('reason') == 'exited' for p in peers),
         'portalctl peers: dead, its QEMU has exited', peers)


def main(t):
    k = suite.kernel()
    rd = suite.initrd(k, user=['portalctl'], extra=[(vmbuspair.libhand(), '/bin/libhand')])
    server = Portald(size='8M', vectors=4, more=['--managed', '--heartbeat=500'])
    with suite.guest('a', k, rd, server.doorbell()) as a, suite.guest('b', k, rd, server.doorbell()) as b:
        for g in (a, b):
            g.run('modprobe portal_ivshmem')
        hands = {'a': hand(a), 'b': hand(b), 'host': HostHand(vmbuspair.libhand(), server.uri)}
        tokens = joined(t, hands)
        shared(t, hands, (a, b))
        handed_over(t, hands)
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
