#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""managed.py [KERNEL]: machines of a managed portal, as the others and the host see them.

Two guests on one region; what their kernels write of themselves when processes come and
go, when a machine is stopped and continued, declared dead, suspended, when it unloads the
driver, and when it reboots. (In one machine: sessions.c and peers.c of tests/guest.)
"""
import os
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import build, suite  # noqa: E402
from lab.cache import LabError  # noqa: E402
from lab.hand import Hand  # noqa: E402
from lab.late import Clock  # noqa: E402
from lab.portal import Portald, Region, userspace  # noqa: E402
from lab.tables import ALIVE, ASLEEP, DEAD, FENCED, SILENT, Tables, until  # noqa: E402
from lab.tap import Tap  # noqa: E402

SIZE = 4 << 20
BEAT = 0.2
DATA = 1 << 20
DEATH = 2           # seconds, by portal-layout(5)
CHANGE = 'change 20000'     # a hand's answer is waited for at least so long
DRIVER = '/sys/bus/pci/drivers/portal_ivshmem'
LOAD = 'modprobe portal heartbeat_ms=%d; modprobe portal_ivshmem' % (BEAT * 1000)


def slot_of(g):
    return int(g.run('cat /sys/class/portal/portal0/slot'))


def quiet(hand):
    """Until nothing changes any more."""
    for _ in range(50):
        if hand.say('change %d' % (3000 * BEAT)) == 'timeout':
            return
    raise AssertionError('the tables never come to rest')


def session(hand):
    return int(hand.must('session 1').split()[0])


def joined(t, tables, a, b):
    slots = [slot_of(g) for g in (a, b)]
    t.ok(len(set(slots)) == 2 and 0 not in slots, 'each machine has a slot of its own', str(slots))
    for g, slot in zip((a, b), slots):
        peer = int(g.run('cat /sys/class/portal/portal0/peer_id'))
        t.ok(tables.claim(slot) >> 32 == peer + 1 and tables.state(slot) == ALIVE,
             '%s: claimed by its address, and alive' % g.name)
        n, due = beats(tables, slot)
        t.ok(5 <= n <= 1.1 * due + 1, '%s: its heart beats (%d, where %.1f are due)' % (g.name, n, due))
    return slots


def beats(tables, slot):
    """How many come, and how many are due: never more. A machine that is kept from running leaves
    some out; then once more."""
    for _ in range(5):
        began, n = time.monotonic(), tables.heartbeat(slot)
        time.sleep(20 * BEAT)
        n = tables.heartbeat(slot) - n
        due = (time.monotonic() - began) / BEAT
        if n >= 5:
            break
    return n, due


def processes(t, tables, a, b, slots):
    """What a process does in one machine, the other hears of."""
    watch = Hand(b, '/dev/portal0')
    quiet(watch)
    hand = Hand(a, '/dev/portal0')
    token = session(hand)
    t.ok(tables.token(token) == ALIVE, 'a session')
    t.ok(watch.say(CHANGE).startswith('ok'), 'the other machine is told')
    hand.must('map 65536 rw %d' % DATA)
    hand.must('put 0 4711')
    quiet(watch)
    pid = a.run("pidof hand").split()[0]
    clock = Clock(a.process.pid)
    a.run('kill -9 %s' % pid)
    dead = until(lambda: tables.token(token) == DEAD)
    took, wall = clock.took()
    t.ok(dead is not None and took < DEATH, 'it is killed: its token is dead (%.2f s; %.2f)' % (took, wall))
    t.ok(watch.say(CHANGE).startswith('ok'), 'and the other machine is told')
    watch.end()


def stopped(t, tables, a, b, slots):
    """A machine that stands still is suspect, and is not when it goes on."""
    watch, hand = Hand(b, '/dev/portal0'), Hand(a, '/dev/portal0')
    token = session(hand)
    quiet(watch)
    claim = tables.claim(slots[0])
    a.qmp('stop')
    # Not by the first change that is heard of: on a busy host the other one may be late.
    took = until(lambda: tables.suspect(slots[0]) == claim and tables.reason(slots[0]) == SILENT)
    t.ok(took is not None, 'stopped: it is suspect, because silent (%s s)' % took)
    t.ok(watch.say(CHANGE).startswith('ok'), 'which is heard of')
    time.sleep(10 * BEAT)
    t.ok(tables.token(token) == ALIVE and tables.state(slots[0]) == ALIVE, 'no more than that')
    a.qmp('cont')
    t.ok(until(lambda: not tables.suspect(slots[0])) is not None and
         not tables.reason(slots[0]), 'continued: no suspicion')
    t.ok(tables.token(token) == ALIVE and int(hand.must('session 1').split()[0]) == token,
         'the session goes on')
    hand.end()
    watch.end()


def fenced(t, tables, a, b, slots):
    """Declared dead while it stood still: it finds out, and begins anew."""
    watch, hand = Hand(b, '/dev/portal0'), Hand(a, '/dev/portal0')
    token, claim = session(hand), tables.claim(slots[0])
    hand.must('map 65536 rw %d' % DATA)
    hand.must('put 0 1')
    a.qmp('stop')
    watch.must('fence %d %d' % (slots[0], claim))
    t.equal((tables.word(slots[0], 8), tables.reason(slots[0])), (claim, FENCED), 'fenced')
    t.equal(watch.say('fence %d %d' % (slots[0], claim + 1)), 'err ESTALE', 'not another life')
    time.sleep(5 * BEAT)
    a.qmp('cont')

    t.ok(until(lambda: rejoined(a, tables, slots, claim)) is not None,
         'continued: it joins anew')
    t.equal(hand.say('put 0 2'), 'sigbus', 'what was mapped is taken away')
    t.equal(hand.say('session 1'), 'err ESTALE', 'the file is of before')
    t.equal(tables.token(token), DEAD, 'its token is dead')
    new = Hand(a, '/dev/portal0')
    t.ok(tables.token(session(new)) == ALIVE, 'who opens it again has a session')
    for h in (new, hand, watch):
        h.end()


def can_suspend(g):
    return 'mem' in g.run('cat /sys/power/state') and \
        '[deep]' in g.run('cat /sys/power/mem_sleep 2>/dev/null || true')


def fall_asleep(g):
    """The shell's job that does it; it ends when the machine is awake again."""
    job = g.start('echo mem > /sys/power/state')
    if until(lambda: g.qmp('query-status')['status'] == 'suspended') is None:
        raise LabError('%s does not fall asleep' % g.name)
    return job


def suspended(t, tables, a, b, slots):
    if not can_suspend(a):
        t.skip('suspend', 'this kernel has no suspend to RAM')
        return
    hand = Hand(a, '/dev/portal0')
    token = session(hand)
    claim, incarnation = tables.claim(slots[0]), tables.incarnation(slots[0])
    sequence = tables.sequence(slots[0])
    job = fall_asleep(a)
    t.equal(tables.state(slots[0]), ASLEEP, 'it says that it sleeps')
    time.sleep(10 * BEAT)
    t.equal(tables.suspect(slots[0]), 0, 'for which nobody declares it silent')
    a.qmp('system_wakeup')
    t.ok(job.wait(60) == 0 and until(lambda: tables.state(slots[0]) == ALIVE) is not None,
         'woken up: alive')
    t.ok(tables.claim(slots[0]) == claim and tables.incarnation(slots[0]) != incarnation and
         tables.sequence(slots[0]) == sequence + 1, 'the same claim, another incarnation')
    t.ok(tables.token(token) == ALIVE and int(hand.must('session 1').split()[0]) == token,
         'the session goes on')
    hand.end()

    # While it slept, a copy of it woke up in its place. Here that one's words are all there is.
    def put(offset, more):
        tables.put(slots[0], offset, tables.word(slots[0], offset) + more)

    def begun(token):
        at = tables.sessions_at + (token & 0xffff) * 128
        os.pwrite(tables.fd, struct.pack('<Q', (token >> 16) + 1 << 16 | ALIVE), at)
        return token + 0x10000
    for what, copy in (
            ('lives', lambda token: put(128, (1 << 16) + ALIVE - ASLEEP)),
            ('sleeps again', lambda token: put(128, 1 << 16)),
            ('has left', lambda token: put(128, DEAD - ASLEEP)),
            ('has a heart', lambda token: put(256, 1)),
            ('has begun a session', begun)):
        hand = Hand(a, '/dev/portal0')
        token, claim = session(hand), tables.claim(slots[0])
        job = fall_asleep(a)
        given = copy(token)
        life = tables.word(slots[0], 128)
        slot = slots[0]
        a.qmp('system_wakeup')
        t.ok(job.wait(60) == 0 and until(lambda: rejoined(a, tables, slots, claim)) is not None,
             'a copy of it that %s: it joins anew' % what)
        t.ok(hand.say('session 1') == 'err ESTALE' and
             (slots[0] == slot or tables.word(slot, 128) == life), 'and all sessions are over')
        hand.end()
        new = Hand(a, '/dev/portal0')
        again = session(new)
        t.ok(tables.token(again) == ALIVE and again not in (token, given),
             'with a token that nobody gave (%#x after %#x)' % (again, token))
        new.end()


def rejoined(g, tables, slots, claim):
    """Whether it has a slot again, under another claim; which one is put into slots."""
    text = g.run('cat /sys/class/portal/portal0/slot').strip()
    if not text.isdigit():
        return False
    slots[0] = int(text)
    return tables.claim(slots[0]) not in (0, claim) and tables.state(slots[0]) == ALIVE


def elsewhere(t, k, rd):
    """It wakes up with another region, as it may after hibernation."""
    region = Region(SIZE)
    ctl = os.path.join(userspace(), 'bin', 'portalctl')

    def formatted():
        subprocess.run([ctl, 'format', '-ff', 'file:' + region.path], check=True,
                       stdout=subprocess.DEVNULL)
    formatted()
    with suite.guest('d', k, rd, region.plain()) as g:
        g.run(LOAD)
        if not can_suspend(g):
            t.skip('another region', 'this kernel has no suspend to RAM')
            return
        for name, change, mode in (
                ('formatted anew', formatted, 'managed'),
                ('damaged', lambda: region.write(1000, b'x'), 'damaged'),
                ('formatted again', formatted, 'damaged'),
                ('none', lambda: region.write(0, bytes(SIZE)), 'raw')):
            before = g.run('cat /sys/class/portal/portal0/incarnation').strip()
            hand = Hand(g, '/dev/portal0')
            had = hand.say('session -1').startswith('ok')
            hand.say('map 65536 %s %d' % ('rw' if had else 'ro', DATA))
            hand.must('get 0')
            job = fall_asleep(g)
            change()
            kept = region.read(0, SIZE)
            g.qmp('system_wakeup')
            t.equal(job.wait(60), 0, 'another region (%s): it wakes up' % name)
            if not had:
                # Nothing was believed of it before, and nothing is now.
                t.equal(g.run('cat /sys/class/portal/portal0/mode').strip(), mode,
                        'another region (%s): as it was' % name)
                g.run('rmmod portal_ivshmem; modprobe portal_ivshmem')
                hand.end()
                continue
            t.equal(g.run('cat /sys/class/portal/portal0/mode').strip(), mode,
                    'another region (%s): %s' % (name, mode))
            t.equal((hand.say('get 0'), hand.say('session -1')), ('sigbus', 'err ESTALE'),
                    'another region (%s): what was mapped or open is of before' % name)
            if mode == 'managed':
                t.ok(g.run('cat /sys/class/portal/portal0/incarnation').strip() != before and
                     slot_of(g) > 0, 'another region (%s): joined anew' % name)
            else:
                t.ok(region.read(0, SIZE) == kept, 'another region (%s): not a byte is written' % name)
            hand.end()
            hand = Hand(g, '/dev/portal0')
            t.equal(hand.say('session -1').startswith('ok'), mode == 'managed',
                    'another region (%s): who opens it again' % name)
            hand.end()
        g.finish(t)
    region.close()


def reformatted(t, k, rd):
    """Formatted anew, with fewer rows, while one of its machines stands still."""
    region = Region(SIZE)
    ctl = os.path.join(userspace(), 'bin', 'portalctl')
    subprocess.run([ctl, 'format', '-ff', '-p', '16', '-s', '512', 'file:' + region.path],
                   check=True, stdout=subprocess.DEVNULL)
    tables = Tables(region=region)
    with suite.guest('f', k, rd, region.plain()) as a, suite.guest('g', k, rd, region.plain()) as b:
        for g in (a, b):
            g.run(LOAD)
        slot = slot_of(b)
        claim = tables.claim(slot)
        hand = Hand(b, '/dev/portal0')
        hand.must('session -1')
        hand.must('map 65536 rw %d' % (SIZE - 65536))
        hand.must('put 0 1')
        b.qmp('stop')
        a.run('portalctl fence /dev/portal0 %d' % slot)
        a.run('portalctl mode /dev/portal0 raw')
        a.run('portalctl format --force -p 4 -s 8 -o 16 /dev/portal0')
        new = Tables(region=region)
        t.ok(slot_of(a) == 1 and new.state(1) == ALIVE, 'formatted anew: who did it has joined')
        # Where its rows of sessions were are data now. Words that could be put right.
        data = struct.unpack('<Q', region.read(192 + 6 * 24, 8))[0]
        its = tables.sessions_at + slot * tables.block * 128
        t.ok(new.block < tables.block and its >= data, 'with data where its sessions were')
        kept = struct.pack('<Q', 1) * ((SIZE - 65536 - data) // 8)
        region.write(data, kept)
        b.qmp('cont')
        t.ok(until(lambda: b.run('cat /sys/class/portal/portal0/mode').strip() == 'damaged')
             is not None, 'formatted anew: the other one finds out')
        t.equal((hand.say('put 0 2'), hand.say('session -1')), ('sigbus', 'err ESTALE'),
                'formatted anew: what was mapped or open is of before')
        hand.end()
        time.sleep(5 * BEAT)
        t.ok(region.read(data, len(kept)) == kept, 'formatted anew: not a byte of data is written')
        t.equal((new.claim(slot), new.word(slot, 128)), (0, 0), 'nor the row of another')
        status, text = b.call('portalctl ls /dev/portal0')
        t.ok(status and 'portalctl mode' in text, 'whoever would use it is told how', text)
        b.run('portalctl mode /dev/portal0 managed')
        hand = Hand(b, '/dev/portal0')
        token = int(hand.must('session -1').split()[0])
        t.ok(slot_of(b) == slot and new.claim(slot) != claim and new.token(token) == ALIVE,
             'formatted anew: told so, it joins, and gives sessions')
        hand.end()
        status, text = a.call('portalctl check /dev/portal0')
        t.ok(status == 0, 'portalctl check: clean', text)
        for g in (a, b):
            g.finish(t)
    region.close()


def left(t, tables, a, b, slots):
    """The driver is unloaded, or loses the device, and has it again: another life of the machine."""
    address = a.run('cat /sys/class/portal/portal0/identity').strip()[len('pci-'):]
    for what, go, back in (('unloaded', 'rmmod portal_ivshmem', 'modprobe portal_ivshmem'),
                           ('unbound', 'echo %s > %s/unbind' % (address, DRIVER), 'echo %s > %s/bind' % (address, DRIVER))):
        watch, hand, other = Hand(b, '/dev/portal0'), Hand(a, '/dev/portal0'), Hand(a, '/dev/portal0', 'ro')
        token = session(hand)
        hand.must('map 65536 rw %d' % DATA)
        hand.must('put 0 4711')
        sequence = tables.sequence(slots[0])
        quiet(watch)
        a.run(go)
        t.ok(tables.claim(slots[0]) == 0 and tables.state(slots[0]) == DEAD, what + ': it has left')
        t.equal(tables.token(token), DEAD, what + ': its sessions are over')
        t.ok(watch.say(CHANGE).startswith('ok'), what + ': which the other machine is told')
        t.equal((hand.say('put 0 1'), hand.say('session 1'), hand.say('info'), other.say('info')),
                ('sigbus', 'err ENODEV', 'err ENODEV', 'err ENODEV'), what + ': what is open or mapped is of no use')
        t.ok('HUP' in other.say('poll 1000'), what + ': which poll() says', 'POLLHUP')
        a.run(back)
        t.ok(slot_of(a) == slots[0] and tables.sequence(slots[0]) > sequence and tables.state(slots[0]) == ALIVE,
             what + ', and there again: a new life')
        t.equal((hand.say('get 0'), hand.say('session 1')), ('sigbus', 'err ENODEV'), 'in which the old files have no part')
        new = Hand(a, '/dev/portal0')
        again = session(new)
        t.ok(again != token and tables.token(again) == ALIVE, 'whose tokens are new (%#x, %#x)' % (token, again))
        new.must('map 65536 ro %d' % DATA)
        t.equal(new.must('get 0'), '4711', 'and whose data are as they were')
        for h in (new, other, hand, watch):
            h.end()


def rebooted(t, tables, k, rd, server):
    """Processes run to the last; then the machine has left all the same."""
    with suite.guest('c', k, rd, server.doorbell()) as c:
        c.run(LOAD)
        slot, hand = slot_of(c), Hand(c, '/dev/portal0')
        token = session(hand)
        t.ok(tables.token(token) == ALIVE, 'a third machine, with a session')
        c.start('reboot -f')
        t.ok(until(lambda: tables.claim(slot) == 0 and tables.state(slot) == DEAD) is not None,
             'reboots: it has left')
        t.equal(tables.token(token), DEAD, 'and its session is over')
        c.kill()


def replaced(t, tables, k, server):
    """Another kernel starts in its place (kexec), and knows nothing of it."""
    program = build.program(os.path.join(build.ROOT, 'tests', 'vm', 'kexec.c'))
    rd = suite.initrd(k, extra=[(program, '/bin/kexec'), (k.image, '/vmlinuz')])
    with suite.guest('e', k, rd, server.doorbell()) as e:
        e.run(LOAD)
        slot, hand = slot_of(e), Hand(e, '/dev/portal0')
        token = session(hand)
        t.ok(tables.token(token) == ALIVE, 'one more machine, with a session')
        # A weak one says ENOSYS.
        if e.call("grep -q ' T .*_sys_kexec_file_load$' /proc/kallsyms")[0]:
            t.skip('another kernel in its place', 'this kernel has no kexec_file_load(2)')
            return
        job = e.start("exec kexec /vmlinuz 'console=ttyS0 panic=-1'")
        t.ok(until(lambda: tables.claim(slot) == 0 and tables.state(slot) == DEAD)
             is not None and tables.token(token) == DEAD,
             'another kernel in its place: it has left', job.text() + e.log()[-2000:])
        t.ok(until(lambda: 'Linux version' in e.log()) is not None, 'which runs')
        e.kill()


def main(t):
    k = suite.kernel()
    rd = suite.initrd(k, user=['portalctl'])
    server = Portald(size='4M', vectors=4, more=['--managed'])
    tables = Tables(server)
    with suite.guest('a', k, rd, server.doorbell()) as a, \
            suite.guest('b', k, rd, server.doorbell()) as b:
        for g in (a, b):
            g.run(LOAD)
        slots = joined(t, tables, a, b)
        for part in (processes, stopped, fenced, suspended, left):
            part(t, tables, a, b, slots)
        status, text = b.call('portalctl check /dev/portal0')
        t.ok(status == 0, 'portalctl check: clean', text)
        rebooted(t, tables, k, rd, server)
        replaced(t, tables, k, server)
        a.finish(t)
        b.finish(t)
    elsewhere(t, k, rd)
    reformatted(t, k, rd)
    t.ok(all(tables.state(s) == DEAD and not tables.claim(s) for s in slots), 'all have left')
    server.stop()


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
