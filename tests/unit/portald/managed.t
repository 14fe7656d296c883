#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""managed = yes: the region that portald makes is laid out before anybody sees it."""
import errno
import json
import signal
import struct

from portaldtest import *
from restarts import *
from tables import *

point = Tap()


@point('the region is formatted, clean, and named after the portal')
def _(stack):
    d = Daemon(stack, '--managed', '--max-guests', '6', '--sessions', '10', name='demo')
    g = d.guest()
    m = g.map(1 << 20)
    equal(m[:8], b'VMPORTAL', 'first bytes, as a guest sees them')
    uri = 'unix:' + d.sock('sock')
    equal(ctl('check', uri)[:2], (0, uri + ': clean\n'), 'check')
    s = json.loads(ctl('dump', '--json', uri)[1])
    equal((s['name'], s['peers_max'], s['sessions_max'], s['damaged']), ('demo', 7, 10, False))
    check(s['creator'].startswith('portald '), s['creator'])
    equal(struct.unpack_from('<Q', m, 48)[0] != 0, True, 'incarnation')
    equal(d.status()['managed'], True, 'status')
    d.wait_log('managed')
    m.close()


@point('each region is another incarnation, under another uuid')
def _(stack):
    seen = set()
    for _ in range(3):
        d = Daemon(stack, '--managed')
        s = json.loads(ctl('dump', '--json', 'unix:' + d.sock('sock'))[1])
        seen |= {s['uuid'], s['incarnation']}
        d.p.terminate()
        d.p.wait(10)
    equal(len(seen), 6, 'uuids and incarnations')


@point('without the key the region is raw, and all zero')
def _(stack):
    d = Daemon(stack)
    m = d.guest().map(1 << 20)
    equal(m[:], b'\0' * (1 << 20), 'the region')
    equal(d.status()['managed'], False, 'status')
    uri = 'unix:' + d.sock('sock')
    equal(ctl('check', uri)[0], 6, 'check')
    m.close()


@point('one file, a raw portal and a managed one; huge regions too')
def _(stack):
    d = Daemon(stack, config='[plain]\nsize = 1M\n[tables]\nsize = 1G\nmanaged = yes\n', name=None)
    d.wait_log('tables: serving')
    equal(ctl('check', 'unix:%s/tables.sock' % d.dir)[0], 0, 'tables')
    equal(ctl('check', 'unix:%s/plain.sock' % d.dir)[0], 6, 'plain')


@point('format from the host is refused while a guest is connected and maps it')
def _(stack):
    d = Daemon(stack)
    m = d.guest().map(1 << 20)
    uri = 'unix:' + d.sock('sock')
    code, _out, err = ctl('format', uri)
    equal(code, 6, err)
    check('pid %d' % os.getpid() in err, err)
    m.close()
    equal(ctl('format', uri)[0], 0, 'format')
    equal(ctl('check', uri)[0], 0, 'check')


def refused(p, kind, **kw):
    p.send(kind, **kw)
    m = p.answer(kind)
    check('stop portald and start it' in m.text, m.text)
    return m.arg


def await_beats(d, n):
    """By what portald itself says: its row is in nobody's sight."""
    beats = lambda: d.status()['machines'][0]['heartbeat']
    last = beats() + n
    wait_for(lambda: beats() >= last, 'its heart')


@point('formatted with other numbers: portald stores nothing there any more, says it once, and comes back with its own')
def _(stack):
    d = Daemon(stack, '--managed', '--max-guests', '6', '--sessions', '10', '--heartbeat', '100')
    a, b, g = Member(d), Member(d, join=False), d.guest()
    uri, region = 'unix:' + d.sock('sock'), g.map(1 << 20)
    stack.callback(region.close)
    old = Tables(stack, a)
    Machine(old, g, 1)
    formatted(uri, '--peers', '3', '--sessions', '600')
    # what was there is others' now, whatever they store
    for at in (old.peer_at(3), old.peer_at(6)):
        region[at:at + 512] = os.urandom(512)
    before = region[:]
    equal(refused(b, SESSION, id=0, arg=NONE), errno.EUCLEAN, 'a session')
    equal(refused(b, FENCE, id=1, arg=0, value=1), errno.EUCLEAN, 'a verdict')
    check(a.ended(), 'a connection with a session of before')
    a.close()
    await_beats(d, 5)
    equal([i for i in range(1 << 20) if region[i] != before[i]][:8], [], 'bytes that it stored')
    equal(sum('formatted the portal anew' in s for s in d.lines), 1, 'lines')
    formatted(uri, '--peers', '7', '--sessions', '10')
    c = Member(d)
    t = Tables(stack, c)
    check(t.alive(c.token) and c.token != a.token, 'a session')
    equal(ctl('check', uri)[:2], (0, uri + ': clean\n'), 'check')


@point('formatted with the same numbers: sessions are over, their processes cut; the host joins what is there')
def _(stack):
    d = Daemon(stack, '--managed', '--max-guests', '6', '--sessions', '10', '--heartbeat', '100')
    a, b = Member(d), Member(d)
    uri, t = 'unix:' + d.sock('sock'), Tables(stack, a)
    claim = t.peer().claim
    formatted(uri, '--peers', '7', '--sessions', '10')
    c = Member(d)                   # at once, not at the next heartbeat
    equal((t.peer().state, t.peer().claim != claim), (ALIVE, True), 'the host')
    check(t.alive(c.token) and not t.alive(a.token) and not t.alive(b.token), 'sessions')
    check(a.ended() and b.ended(), 'connections of before')
    await_beats(d, 3)
    check(t.alive(c.token), 'the new session')
    check(not any('overwritten' in s for s in d.lines), 'what it was')
    equal(ctl('check', uri)[:2], (0, uri + ': clean\n'), 'check')


def crc32c(data):
    crc = NONE
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ NONE


def put_super(t, s):
    """A superblock of our own, as a formatter would; what it says of rows is zero."""
    s[0:8], s[8:12], s[48:56] = b'VMPORTAL', bytes(4), os.urandom(8)
    s[8:12] = struct.pack('<I', crc32c(s))
    magic(t, b'VMPFORMT')
    t.m[8:1 << 16] = bytes(s[8:]) + bytes((1 << 16) - len(s))
    magic(t, b'VMPORTAL')


@point('formatted with the same numbers, and one of the tables elsewhere: the same')
def _(stack):
    d = Daemon(stack, '--managed', '--max-guests', '6', '--sessions', '10', '--heartbeat', '100')
    b = Member(d, join=False)
    t = Tables(stack, b)
    for area in (0, 1):
        s = bytearray(t.m[0:4096])
        for a in range(area, 2):
            struct.pack_into('<Q', s, 192 + 24 * a, t.at[a] + 4096)
        put_super(t, s)
        before = t.m[:]
        equal(refused(b, SESSION, id=0, arg=NONE), errno.EUCLEAN, 'a session')
        await_beats(d, 3)
        check(t.m[:] == before, 'it has stored something')
        for a in range(area, 2):
            struct.pack_into('<Q', s, 192 + 24 * a, t.at[a])
        put_super(t, s)
        await_beats(d, 2)
        equal((t.peer().state, ctl('check', 'unix:' + d.sock('sock'))[0]), (ALIVE, 0), 'the host')


@point('formatted with other numbers, and the old incarnation is scribbled there: nothing is stored')
def _(stack):
    d = Daemon(stack, '--managed', '--max-guests', '6', '--sessions', '10', '--heartbeat', '100')
    a = Member(d)
    t = Tables(stack, a)
    old = t.m[48:56]
    formatted('unix:' + d.sock('sock'), '--peers', '3', '--sessions', '600')
    d.wait_log('at their places')
    t.m[48:56] = old
    before = t.m[:]
    await_beats(d, 3)
    check(t.m[:] == before, 'it has stored something')


@point('formatted, and portald ends before it looks: no session of before is said to live')
def _(stack):
    d = Daemon(stack, '--managed', '--max-guests', '6', '--sessions', '10', '--heartbeat', '60000')
    a = Member(d)
    t = Tables(stack, a)
    formatted('unix:' + d.sock('sock'), '--peers', '7', '--sessions', '10')
    d.p.terminate()
    equal(d.exit_code(), 0, 'exit code')
    check(not any('still have the memory' in s for s in d.lines), 'sessions')
    equal((t.peer().claim, t.peer().state), (0, DEAD), 'row')


def magic(t, text):
    """As a formatter stores it that is stopped for longer than any is."""
    t.m[0:8] = text


@point('while it is being formatted: no session, nothing stored, and no advice to throw the region away')
def _(stack):
    d = Daemon(stack, '--managed', '--max-guests', '6', '--sessions', '10', '--heartbeat', '100')
    uri = 'unix:' + d.sock('sock')
    formatted(uri, '--peers', '7', '--sessions', '10')
    a, b = Member(d), Member(d, join=False)
    t = Tables(stack, a)
    magic(t, b'VMPFORMT')
    b.ask()
    m = b.answer(SESSION)
    equal((m.arg, 'open it anew' in m.text), (errno.ESTALE, True), m.text)
    check(a.ended(), 'a connection with a session of before')
    before = t.m[:]
    await_beats(d, 3)
    check(t.m[:] == before, 'it has stored something')
    d.wait_log('somebody formats the portal')
    for _ in range(2):
        formatted(uri, '--peers', '7', '--sessions', '10')
        await_beats(d, 2)
        magic(t, b'VMPFORMT')
        await_beats(d, 2)
    formatted(uri, '--peers', '7', '--sessions', '10')
    c = Member(d)
    check(t.alive(c.token), 'a session')
    await_beats(d, 2)
    check(not any('which makes a new region' in s for s in d.lines), 'advice')
    # at most a line of each a minute, but the last one is true
    equal(sum('somebody formats' in s for s in d.lines), 1, 'lines')
    said = [s for s in d.lines if 'somebody formats' in s or 'has formatted' in s]
    equal(['has formatted' in s for s in said], [True, False, True], 'lines')
    equal(ctl('check', uri)[:2], (0, uri + ': clean\n'), 'check')


@point('formatted while portald was away, with either numbers')
def _(stack):
    for peers, sessions in ((13, 16), (3, 600)):
        d = Kept(stack)
        # first, so that its record is, too
        cmd, theirs = socket.socketpair()
        _end, gone = fork_vm(stack, d, theirs)
        cmd.send(b'x')
        d.wait_log(f'guest {gone} left')
        a, b = Member(d), Member(d, join=False)
        t, old = Tables(stack, a), d.child
        other = os.path.join(d.dir, 'other')
        with open(other, 'wb') as f:
            f.truncate(1 << 20)
        formatted(f'file:{other}?size=1M', '--peers', str(peers), '--sessions', str(sessions))
        os.kill(old, signal.SIGSTOP)
        with open(other, 'rb') as f:
            t.m[:] = f.read()
        before = t.m[:]
        os.kill(old, signal.SIGKILL)
        d.daemon(other_than=old)
        check(a.ended(), 'a connection with a session of before')
        if peers == 3:
            equal(refused(b, SESSION, id=0, arg=NONE), errno.EUCLEAN, 'a session')
            await_beats(d, 3)
            check(t.m[:] == before, 'it has stored something')
        else:
            b.join()
            check(t.alive(b.token) and not t.alive(a.token), 'sessions')
        d.end()


@point('an incarnation that is scribbled over the superblock changes nothing, however often')
def _(stack):
    d = Daemon(stack, '--managed', '--max-guests', '6', '--sessions', '10', '--heartbeat', '100')
    a, vm = Member(d), d.guest()
    t = Tables(stack, a)
    m, own = Machine(t, vm, 1), t.m[48:56]
    for i in range(50):
        t.m[48:56] = os.urandom(8)
        b = Member(d)
        check(t.alive(b.token) and t.alive(a.token), 'sessions')
        b.close()
    last = t.peer().heartbeat
    wait_for(lambda: t.peer().heartbeat > last + 3, 'its heart')
    t.put(t.peer_at(0) + 24, '<I', FENCED)
    t.put(t.peer_at(0) + 8, '<Q', t.peer().claim)
    check(a.ended(), 'the host was declared dead')
    c = Member(d)
    c.send(FENCE, id=1, arg=0, value=m.claim)
    equal(c.answer(FENCE).arg, 0, m.dead())
    equal(m.dead(), FENCED, 'a verdict')
    t.m[48:56] = own
    check(not any('formatted' in s for s in d.lines), 'what it was')
    equal(ctl('check', 'unix:' + d.sock('sock'))[0], 0, 'check')


point.run()
