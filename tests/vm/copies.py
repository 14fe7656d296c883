#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""copies.py [KERNEL]: a machine of a managed portal that is there twice, or put back.

One guest is saved in the midst of its life, and goes on from there more than once, as
clones and snapshots do: each copy has the same claim, the same sessions, the same
counters. Where the hypervisor says so (VM generation ID) all of them begin anew at once; where
it does not, all but one, at their next heartbeats. No token is given twice.
"""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import qemu, suite  # noqa: E402
from lab.hand import Hand  # noqa: E402
from lab.portal import Region, userspace  # noqa: E402
from lab.tables import ALIVE, DEAD, SILENT, Tables, until  # noqa: E402
from lab.tap import Tap  # noqa: E402

SIZE = 4 << 20
BEAT = 0.2
DATA = 1 << 20
LOAD = 'modprobe portal heartbeat_ms=%d; modprobe portal_ivshmem' % (BEAT * 1000)
# The generation of a machine that was never copied; "auto" is another one each time.
FIRST = '4711aaaa-0000-4000-8000-000000000001'


def devices(region, generation):
    # "master": QEMU saves no other one.
    return region.plain(master='on') + ['-device', 'vmgenid,guid=' + generation]


def session(hand):
    return int(hand.must('session -1').split()[0])


class Copy:
    """One copy of the guest, and of the process in it that had a session."""

    def __init__(self, saved, name, region, generation, hand, tables):
        self.guest = saved.copy(name, devices(region, generation))
        self.hand = Hand.of(self.guest.jobs[hand.job.number])
        self.tables = tables

    def slot(self):
        text = self.guest.run('cat /sys/class/portal/portal0/slot')
        return int(text) if text.strip().isdigit() else 0

    def claim(self):
        """What it has now, or 0."""
        slot = self.slot()
        return slot and self.tables.state(slot) == ALIVE and self.tables.claim(slot)

    def lost(self):
        """Whether its process can reach nothing any more."""
        return self.hand.say('get 0') == 'sigbus' and self.hand.say('session -1') == 'err ESTALE'

    def kept(self, token):
        return self.hand.say('get 0') == 'ok 4711' and session(self.hand) == token

    def new(self):
        """The token of another process, which stays."""
        return session(Hand(self.guest, '/dev/portal0'))


def pair(saved, region, bytes_, generation, hand, tables):
    """Two copies that begin to run at one moment, on the memory as it was."""
    copies = [Copy(saved, name, region, generation, hand, tables) for name in ('b', 'c')]
    region.write(0, bytes_)     # QEMU restored it once for each of them
    for c in copies:
        c.guest.qmp('cont')
    return copies


def joined_anew(copies, claim):
    return until(lambda: len({c.claim() for c in copies} - {0, claim}) == len(copies))


def said(t, copies, tables, slot, claim, token):
    took = joined_anew(copies, claim)
    t.ok(took is not None, 'both are told: both have new claims (%.2f s)' % (took or 0),
         str([c.claim() for c in copies]))
    t.ok(all(c.lost() for c in copies), 'no process of before reaches anything in either')
    tokens = [c.new() for c in copies]
    t.ok(len(set(tokens + [token])) == 3 and all(tables.token(n) == ALIVE for n in tokens),
         'who opens it again has a session, of a token that nobody had', str(tokens + [token]))
    # The hypervisor's word; or what the other copy did before it came.
    for c in copies:
        log = c.guest.dmesg()
        t.ok("another's, too" in log, '%s: says why' % c.guest.name, log[-1000:])
    t.ok(until(lambda: tables.suspect(slot) == claim and tables.reason(slot) == SILENT)
         is not None, 'what they had together is suspect: nobody lives there')
    t.equal(tables.token(token), ALIVE, 'no more than that, for nobody saw its end')
    Hand(copies[0].guest, '/dev/portal0').must('fence %d %d' % (slot, claim))
    t.equal(tables.word(slot, 8), claim, 'who administers may say that it is dead')


def unsaid(t, copies, tables, claim, token):
    """Returns the one that kept what both had, and all tokens that either gave."""
    took = until(lambda: any(c.claim() not in (0, claim) for c in copies))
    t.ok(took is not None, 'nobody says so: found out all the same (%.2f s)' % (took or 0))
    time.sleep(10 * BEAT)
    claims = [c.claim() for c in copies]
    t.ok(len(set(claims)) == 2 and claims.count(claim) == 1, 'one has another claim', str(claims))
    keeps, other = copies if claims[0] == claim else copies[::-1]
    t.ok(other.lost(), 'and no process of before reaches anything in it')
    t.ok(keeps.kept(token), 'the other goes on')
    tokens = [c.new() for c in copies]
    t.ok(len(set(tokens + [token])) == 3 and all(tables.token(n) == ALIVE for n in tokens),
         'both give sessions, of different tokens', str(tokens + [token]))
    return keeps, {token, *tokens}


def put_back(t, saved, region, bytes_, what, given, hand, tables, claim):
    """What was saved goes on, on memory that has not stood still."""
    c = Copy(saved, 'd', region, FIRST, hand, tables)
    region.write(0, bytes_)
    c.guest.qmp('cont')
    token = c.new()
    t.ok(token not in given and tables.token(token) == ALIVE,
         'put back, %s: no token is given again' % what, '%d, %s' % (token, given))
    t.ok(until(lambda: c.claim() not in (0, claim)) is not None,
         'put back, %s: it has a new claim' % what)
    t.ok(c.lost(), 'put back, %s: no process of before reaches anything' % what)
    return c


def main(t):
    k = suite.kernel('6.12')
    region = Region(SIZE)
    subprocess.run([os.path.join(userspace(), 'bin', 'portalctl'), 'format',
                    'file:' + region.path], check=True, stdout=subprocess.DEVNULL)
    tables = Tables(region=region)
    with suite.guest('a', k, suite.initrd(k, user=['portalctl']), devices(region, FIRST)) as a:
        a.run(LOAD)
        told = not a.call('test -e /sys/bus/*/drivers/vmgenid')[0]
        hand = Hand(a, '/dev/portal0')
        token = session(hand)
        hand.must('map 65536 rw %d' % DATA)
        hand.must('put 0 4711')
        slot = int(a.run('cat /sys/class/portal/portal0/slot'))
        claim = tables.claim(slot)
        saved = a.save(qemu.workdir() + '/saved')
    bytes_ = region.read(0, SIZE)
    t.ok(tables.token(token) == ALIVE, 'a machine with a session is saved')

    if told:
        copies = pair(saved, region, bytes_, 'auto', hand, tables)
        said(t, copies, tables, slot, claim, token)
        for c in copies:
            c.guest.kill()
    else:
        t.skip('copies that are told so', 'this kernel has no driver for VM generation IDs')

    copies = pair(saved, region, bytes_, FIRST, hand, tables)
    keeps, given = unsaid(t, copies, tables, claim, token)
    for c in copies:
        if c is not keeps:
            c.guest.kill()
    given |= {keeps.new() for _ in range(3)}
    its = {n for n in given if (n & 0xffff) // tables.block == slot}
    stood = region.read(0, SIZE)
    keeps.guest.run('rmmod portal_ivshmem')
    left = region.read(0, SIZE)
    t.ok(not tables.claim(slot) and all(tables.token(n) == DEAD for n in its),
         'the one that went on has left')
    keeps.guest.kill()
    put_back(t, saved, region, stood, 'after it ran on', given, hand, tables, claim).guest.kill()
    c = put_back(t, saved, region, left, 'after it had left', given, hand, tables, claim)
    t.ok(all(tables.token(n) == DEAD for n in its), 'and who was dead then is dead')
    slot = c.slot()
    for job in list(c.guest.jobs.values()):
        job.send('')
    t.ok(until(lambda: not c.guest.call('! pidof hand')[0]) is not None, 'its processes end')
    status, text = c.guest.call('portalctl check /dev/portal0')
    t.ok(status == 0, 'portalctl check: clean', text)
    c.guest.finish(t)
    t.equal((tables.claim(slot), tables.state(slot)), (0, DEAD), 'it has left')
    region.close()


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
