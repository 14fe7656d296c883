#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portalctl ls, create, rm, peers, fence, top, watch: a managed portal in use, served by a
real portald. Machines beside the host are rows that the test writes, by portal-layout(5)."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from ctltest import *

point = Tap()
SIZE = 4 << 20


class Portal:
    """A portald, its URI, and its region as a member sees it."""

    def __init__(self, stack, *args):
        d = scratch(stack)
        self.uri = 'unix:%s/t.sock' % d
        self.p = subprocess.Popen([os.path.join(OUT, 'bin', 'portald'), '--name=t', '--size=4M', '--managed',
                                   '--heartbeat=200', '--host-peers=32', '--connect-rate=0',
                                   '--socket-dir=' + d, *args], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(self.end)
        wait_for(lambda: os.path.exists(d + '/t.sock'), 'portald')

    def end(self):
        self.p.kill()
        self.p.wait()

    def run(self, cmd, *args):
        return run(cmd, self.uri, *args)

    def json(self, cmd, *args):
        code, out, err = run(cmd, '--json', self.uri, *args)
        equal((code, err), (0, ''), cmd)
        return json.loads(out)


class Member:
    """A process's portal, of the library, with its memory."""

    def __init__(self, stack, uri):
        self.p, base = ctypes.c_void_p(), ctypes.c_void_p()
        self.must(lib().vmp_open(ctypes.byref(self.p), uri.encode(), 0))
        stack.callback(self.close)
        self.must(lib().vmp_map(self.p, ctypes.byref(base), None))
        # the library's mapping of the tables is read-only; other machines' are not
        libc = ctypes.CDLL(None)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        equal(libc.mprotect(base, SIZE, 3), 0, 'mprotect')
        self.m = (ctypes.c_char * SIZE).from_address(base.value)
        token = ctypes.c_uint64()
        self.must(lib().vmp_join(self.p, ctypes.byref(token)))
        self.token = token.value

    def must(self, err):
        if err < 0:
            raise AssertionError('library: %d, %s' % (err, lib().vmp_errmsg().decode()))

    def open(self, name, flags=0, size=0):
        n = ctypes.c_void_p()
        self.must(lib().vmp_named_open(ctypes.byref(n), self.p, name.encode(), flags,
                                       ctypes.c_uint64(size), 0o640))
        return n

    def put(self, at, fmt, *values):
        struct.pack_into(fmt, self.m, at, *values)

    def peer_at(self, slot):
        return struct.unpack_from('<Q', self.m, 192)[0] + 512 * slot

    def guest(self, slot, name, heartbeat_ms=200):
        """A machine joins, as its kernel would write it."""
        at = self.peer_at(slot)
        self.put(at, '<Q', (100 + slot) << 32 | 7)
        self.put(at + 136, '<QIIII', 99, 1, 2, 0xffffffff, heartbeat_ms)
        self.put(at + 192, '<64s', name.encode())
        self.put(at + 128, '<Q', 1 << 16 | 2)
        return at

    def close(self):
        if self.p:
            self.m = None
            lib().vmp_close(self.p)
        self.p = ctypes.c_void_p()


CREATE = 1


class Lines:
    """Objects that a portalctl in the background prints, a line each."""

    def __init__(self, ctl):
        self.fd, self.text = ctl.p.stdout.fileno(), b''

    def next(self, seconds=LIMIT):
        end = time.monotonic() + seconds
        while b'\n' not in self.text:
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                return None
            got = os.read(self.fd, 65536)
            check(got, 'it has ended')
            self.text += got
        line, self.text = self.text.split(b'\n', 1)
        return json.loads(line)


@point('create, ls, rm: an object and its name')
def _(stack):
    t = Portal(stack)
    equal(t.run('ls'), (0, '', ''))
    equal(t.run('create', 'hello', '100K'), (0, '', ''))
    code, out, err = run('create', '--json', '--mode', '644', t.uri, 'second', '64K')
    d = json.loads(out)
    equal((code, err, d['name'], d['bytes'], d['length']), (0, '', 'second', 65536, 65536))
    code, out, err = t.run('ls')
    equal((code, err), (0, ''))
    lines = out.splitlines()
    equal(len(lines), 3, out)
    check(re.match(r'raw +100 KiB +0600 +0 +\S+Z +hello$', lines[1]), out)
    check(re.match(r'raw +64 KiB +0644 +0 +\S+Z +second$', lines[2]), out)
    rows = t.json('ls')
    equal([(r['name'], r['kind'], r['bytes'], r['opens'], r['state']) for r in rows],
          [('hello', 'raw', 102400, 0, 'named'), ('second', 'raw', 65536, 0, 'named')])
    equal(t.run('rm', 'hello', 'second'), (0, '', ''))
    equal(t.json('ls'), [])
    equal(run('check', t.uri)[0], 0)


@point('ls, --all: who has it open; what has no name any more')
def _(stack):
    t = Portal(stack)
    a = Member(stack, t.uri)
    n = a.open('mine', CREATE, 1000)
    a.open('mine')
    equal([(r['opens'], r['users'], r['mode']) for r in t.json('ls')], [(2, [hex(a.token)] * 2, '0640')])
    equal(t.run('rm', 'mine')[0], 0)
    equal(t.json('ls'), [])
    equal([(r['state'], r['name']) for r in t.json('ls', '--all')], [('unlinked', 'mine')])
    check('unlinked' in run('ls', '-a', t.uri)[1])
    a.close()
    wait_for(lambda: not t.json('peers')['sessions'], 'the end of the session')
    # The next change frees it.
    equal(t.run('create', 'next', '1')[0], 0)
    equal([r['name'] for r in t.json('ls', '--all')], ['next'])


@point('create and rm: what is there, or is not, is status 6; misuse is 1')
def _(stack):
    t = Portal(stack)
    equal(t.run('create', 'a', '1K')[0], 0)
    code, out, err = t.run('create', 'a', '1')
    equal((code, out), (6, ''))
    check("'a' is there already" in err and err.count('\n') == 1, err)
    equal(run('create', '--exist-ok', t.uri, 'a', '1K')[0], 0)
    code, _o, err = run('create', '--exist-ok', t.uri, 'a', '2K')
    equal(code, 6)
    check('with 1024 bytes, not 2048' in err, err)
    code, _o, err = t.run('create', 'big', '1G')
    equal(code, 5)
    check('more than the data has' in err, err)
    for bad in (['a/b', '1'], ['..', '1'], ['x' * 64, '1']):
        code, _o, err = t.run('create', *bad)
        check(code in (1, 5) and 'name' in err, err)
    for bad in (['x'], [], ['x', '0'], ['x', 'much'], ['x', '1', 'y']):
        equal(t.run('create', *bad)[0], 1, bad)
    equal(run('create', '--mode', '999', t.uri, 'x', '1')[0], 1)
    code, _o, err = t.run('rm', 'none', 'a')
    equal(code, 6)
    check("there is no 'none'" in err, err)
    equal(t.json('ls'), [], 'the other one is removed all the same')
    equal(run('rm', '-f', t.uri, 'none')[0], 0)
    equal(t.run('rm')[0], 1)
    d = scratch(stack)
    raw = 'file:%s/raw' % d
    with open(d + '/raw', 'wb') as f:
        f.truncate(1 << 20)
    for cmd in (['ls', raw], ['create', raw, 'x', '1'], ['rm', raw, 'x'], ['peers', raw], ['fence', raw, '0'],
                ['top', '--once', raw]):
        code, _o, err = run(*cmd)
        equal(code, 6, cmd)
        check('not a managed portal' in err, err)
    equal(run('format', raw)[0], 0)
    code, _o, err = run('create', raw, 'x', '1')
    equal(code, 5)
    check('/dev/portalN' in err, err)


@point('peers: the host, a guest that is suspect, and who uses it')
def _(stack):
    t = Portal(stack)
    a = Member(stack, t.uri)
    at = a.guest(1, 'web-1')
    d = t.json('peers')
    equal([(p['slot'], p['state'], p['kind'], p['name']) for p in d['peers']][1:],
          [(1, 'alive', 'guest', 'web-1')])
    equal([(s['token'], s['pid'], s['state']) for s in d['sessions']], [(hex(a.token), os.getpid(), 'alive')])
    # Its heart stands still: portald notices.
    wait_for(lambda: t.json('peers')['peers'][1]['state'] == 'suspect', 'suspicion')
    out = t.run('peers')[1]
    check(re.search(r'(?m)^ *1 +suspect +silent +guest +100 ', out), out)
    check(hex(a.token) in out and str(os.getpid()) in out, out)
    a.put(at + 8, '<Q', 101 << 32 | 7)
    equal([p['slot'] for p in t.json('peers')['peers']], [0])
    equal([p['state'] for p in json.loads(run('peers', '-a', '--json', t.uri)[1])['peers']], ['alive', 'dead'])


@point('peers --watch: again when something has changed, and only then')
def _(stack):
    t = Portal(stack)
    a = Member(stack, t.uri)
    w = Ctl(stack, 'peers', '--watch', '--json', t.uri)
    lines = Lines(w)
    equal(len(lines.next()['sessions']), 1)
    b = Member(stack, t.uri)
    equal(len(lines.next()['sessions']), 2)
    equal(lines.next(1.5), None, 'nothing changed')
    b.close()
    equal(len(lines.next()['sessions']), 1)
    w.signal()
    equal(w.end(), -signal.SIGINT)


@point('fence: one whose heart beats needs --force; one that is suspect does not')
def _(stack):
    t = Portal(stack)
    a = Member(stack, t.uri)
    code, out, err = t.run('fence', '0')
    equal((code, out), (6, ''))
    check('its heart beats' in err and '--force' in err, err)
    a.guest(1, 'web-1', 200)
    equal(t.run('fence', '1')[1:], ("peer 1 'web-1' is dead\n", ''))
    d = json.loads(run('peers', '-a', '--json', t.uri)[1])['peers'][1]
    equal((d['state'], d['reason']), ('dead', 'fenced'))
    a.guest(2, 'web-2', 0)
    code, _o, err = t.run('fence', '2')
    equal(code, 6)
    check('no heart' in err, err)
    equal(run('fence', '--force', t.uri, '2')[0], 0)
    for n in ('2', '3'):
        code, _o, err = t.run('fence', n)
        equal(code, 6)
        check('peer %s is not there' % n in err, err)
    equal(t.run('fence', '9999')[0], 1)
    equal(t.run('fence', 'web')[0], 1)
    equal(t.run('fence')[0], 1)


@point('watch: machines, processes and objects that come and go')
def _(stack):
    t = Portal(stack)
    w = Ctl(stack, 'watch', '--json', t.uri)
    lines = Lines(w)
    for word in (b'vectors', b'tables'):
        check(word in w.p.stderr.readline(), word)

    def seen(**want):
        """Each of these changes, in any order; their events."""
        events = {}
        while set(want) - set(events):
            e = lines.next()
            check(e, 'not seen: %s' % (set(want) - set(events)))
            events[e['change'].replace('-', '_')] = e
        for k, v in want.items():
            equal({x: events[k].get(x) for x in v}, v, k)
        return events

    a = Member(stack, t.uri)
    a.open('mine', CREATE, 1000)
    at = a.guest(1, 'web-1', 0)
    e = seen(session_began={'peer': 0, 'token': hex(a.token)}, object_made={'row': 0}, peer_joined={'peer': 1})
    check('pid %d' % os.getpid() in e['session_began']['text'], e)
    check("'mine' is made: 1000 bytes" in e['object_made']['text'], e)
    a.put(at + 24, '<I', 2)
    a.put(at + 16, '<Q', 101 << 32 | 7)
    check('suspect: cut' in seen(peer_suspect={'peer': 1})['peer_suspect']['text'])
    a.put(at + 16, '<Q', 0)
    seen(peer_alive={'peer': 1})
    a.put(at + 8, '<Q', 101 << 32 | 7)
    seen(peer_dead={'peer': 1})
    # It is over before anybody has looked: it shows all the same.
    w.signal(signal.SIGSTOP)
    equal(t.run('rm', 'mine')[0], 0)
    wait_for(lambda: len(t.json('peers')['sessions']) == 1, 'the end of its session')
    w.signal(signal.SIGCONT)
    e = seen(object_unlinked={'row': 0}, session_ended={'peer': 0})
    check('has come and gone' in e['session_ended']['text'], e)
    a.close()
    seen(session_ended={'token': hex(a.token)})
    w.signal()
    equal(w.end(), -signal.SIGINT)
    code, out, err = run('watch', '--count', '1', '--timeout', '1', t.uri)
    equal((code, out), (3, ''))
    check('no doorbell, and no change, for 1 s' in err, err)


@point('top --once, --json: for scripts')
def _(stack):
    t = Portal(stack)
    a = Member(stack, t.uri)
    a.open('mine', CREATE, 70000)
    out = run('top', '--once', t.uri)[1]
    for word in ('1 peers, 1 sessions, 1 objects', hex(a.token), 'mine', '68.4 KiB', 'host', 'beats'):
        check(word in out, word + ' is not in\n' + out)
    check('\033' not in out)
    d = t.json('top')
    equal(([o['name'] for o in d['objects']], len(d['sessions']), d['directory']['lock_owner'
          ] if 'lock_owner' in d['directory'] else 0), (['mine'], 1, 0))
    code, _o, err = t.run('top')
    equal(code, 1)
    check('--once' in err, err)


class Screen:
    """top in a terminal of 24 lines."""

    def __init__(self, stack, uri, rows=24):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execv(CTL, ['portalctl', 'top', uri])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack('<HHHH', rows, 80, 0, 0))
        stack.callback(self.kill)
        self.rows, self.text, self.status = rows, b'', None

    def kill(self):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def read(self):
        while select.select([self.fd], [], [], 0.05)[0]:
            try:
                got = os.read(self.fd, 65536)
            except OSError:
                got = b''
            if not got:
                return False
            self.text += got
        return True

    def picture(self):
        """The last one that is complete, as lines."""
        self.read()
        frames = self.text.decode().split('\033[H')
        for f in reversed(frames):
            if f.endswith('\033[J') or '\033[J' in f:
                lines = f.split('\033[J')[0].replace('\033[K', '').split('\r\n')
                check(len(lines) <= self.rows, '%d lines' % len(lines))
                check(all(len(x) <= 80 for x in lines))
                return '\n'.join(lines)
        return ''

    def shows(self, *words):
        wait_for(lambda: all(w in self.picture() for w in words), ' '.join(words) + ' in\n' + self.picture())

    def end(self):
        while self.read():
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
                self.read()
                return os.waitstatus_to_exitcode(status)
        _pid, self.status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(self.status)


@point('top: live: who comes and goes is seen, a heart that stops too; q ends it')
def _(stack):
    t = Portal(stack)
    s = Screen(stack, t.uri)
    s.shows('1 peers, 0 sessions, 0 objects', 'beats')
    a = Member(stack, t.uri)
    a.open('mine', CREATE, 1000)
    s.shows(hex(a.token), 'mine', 'has begun', "object 'mine' is made")
    a.guest(1, 'web-1')
    s.shows('web-1', "peer 1 'web-1' (a guest) has joined")
    s.shows("peer 1 'web-1' is suspect: silent", '(silent)', 'still ')
    a.close()
    s.shows('has ended')
    os.write(s.fd, b'xq')
    equal(s.end(), 0)
    check(s.text.endswith(b'\033[?25h\033[?1049l'), 'the terminal is as it was')


@point('top: ^C ends it by SIGINT, and the terminal is as it was')
def _(stack):
    t = Portal(stack)
    s = Screen(stack, t.uri)
    was = termios.tcgetattr(s.fd)
    s.shows('beats')
    check(not termios.tcgetattr(s.fd)[3] & termios.ECHO)
    os.write(s.fd, b'\x03')
    equal(s.end(), -signal.SIGINT)
    check(b'\033[?1049l' in s.text)


@point('top: more rows than the terminal has')
def _(stack):
    t = Portal(stack, '--sessions=32')
    members = [Member(stack, t.uri) for _i in range(20)]
    for i in range(30):
        members[0].open('object %d' % i, CREATE, 10)
    s = Screen(stack, t.uri)
    s.shows('1 peers, 20 sessions, 30 objects', ' more')
    members[19].close()
    s.shows('has ended')


build('portald', 'portalctl', os.path.join(OUT, 'lib', 'libvmportal.so'))
lib().vmp_named_open.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint,
                                 ctypes.c_uint64, ctypes.c_uint32]
point.run()
