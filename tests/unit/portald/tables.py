# SPDX-License-Identifier: MIT
"""A managed portal's tables as any member of the portal sees them, by portal-layout(5):
read, and scribbled on; processes with sessions; machines, played by a Guest."""
import ctypes
import mmap
import os
import struct
import subprocess
import time

from portaldtest import (CHANGE, PATIENT, PEER, SESSION, TOP, check, equal, wait_for)
import portaldtest

NONE = 0xffffffff
JOINING, ALIVE, ASLEEP, DEAD = 1, 2, 3, 4
EXITED, CUT, RESCINDED, FENCED, SILENT = 1, 2, 3, 4, 5
PEER_ROW, SESSION_ROW = 512, 128
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int,
                      ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Peer:
    def __init__(self, b):
        self.claim, self.dead, self.suspect, self.reason = struct.unpack_from('<QQQI', b)
        self.life, self.incarnation, self.kind, self.vectors, self.notice, self.heartbeat_ms, \
            self.joined, self.features = struct.unpack_from('<QQIIIIQQ', b, 128)
        self.heartbeat, self.changes = struct.unpack_from('<QQ', b, 256)
        self.sequence, self.state = self.life >> 16, self.life & 0xffff
        self.address = (self.claim >> 32) - 1 & NONE


class Session:
    def __init__(self, b, row):
        self.life, self.claim, self.address, self.vector, self.pid, self.uid, self.started, \
            self.features, self.name = struct.unpack_from('<QQIIIIQQ32s', b)
        self.sequence, self.state = self.life >> 16, self.life & 0xffff
        self.token = self.sequence << 16 | row


class Tables:
    def __init__(self, stack, client, size=1 << 20):
        self.m = mmap.mmap(client.region, size)
        stack.callback(self.m.close)
        self.peers_n, self.sessions_n = struct.unpack_from('<II', self.m, 176)
        self.at = [struct.unpack_from('<Q', self.m, 192 + 24 * a)[0] for a in range(2)]

    def peer_at(self, slot):
        return self.at[0] + slot * PEER_ROW

    def session_at(self, row):
        return self.at[1] + row * SESSION_ROW

    def peer(self, slot=0):
        at = self.peer_at(slot)
        return Peer(self.m[at:at + PEER_ROW])

    def session(self, row):
        at = self.session_at(row)
        return Session(self.m[at:at + SESSION_ROW], row)

    def of_token(self, token):
        return self.session(token & 0xffff)

    def alive(self, token):
        s, p = self.of_token(token), self.peer((token & 0xffff) // self.sessions_n)
        check(s.sequence >= token >> 16, 'a token that was never given out')
        return (s.life == token >> 16 << 16 | ALIVE and s.claim == p.claim and s.claim != p.dead)

    def wait_dead(self, token, seconds=PATIENT):
        wait_for(lambda: not self.alive(token), f'the end of session {token:#x}', seconds)

    def put(self, at, fmt, *values):
        struct.pack_into(fmt, self.m, at, *values)


class Machine:
    """A guest's kernel, as its row shows it: joins by hand, beats when told to."""

    def __init__(self, tables, guest, slot, notice=1, heartbeat_ms=0):
        self.t, self.g, self.slot, self.at = tables, guest, slot, tables.peer_at(slot)
        self.beats = 0
        self.claim = (guest.id + 1) << 32 | (0x1000 + slot)
        n = tables.peer(slot).sequence + 1
        t = tables
        t.put(self.at, '<Q', self.claim)
        t.put(self.at + 128, '<Q', n << 16 | JOINING)
        t.put(self.at + 136, '<QIIII', 77, 1, guest.vectors, notice, heartbeat_ms)
        t.put(self.at + 128, '<Q', n << 16 | ALIVE)

    def row(self):
        return self.t.peer(self.slot)

    def beat(self):
        self.beats += 1
        self.t.put(self.at + 256, '<Q', self.beats)

    def dead(self):
        r = self.row()
        return r.dead == self.claim and r.reason

    def suspect(self):
        r = self.row()
        return r.suspect == self.claim and r.reason


class Lifeline:
    """The mapping, by hand: Python's mmap keeps a descriptor."""

    def __init__(self, fd):
        self.at = libc.mmap(None, 4096, 0, mmap.MAP_SHARED, fd, 0)
        check(self.at not in (None, ctypes.c_void_p(-1).value), 'mmap of the lifeline')
        equal(libc.madvise(self.at, 4096, 10), 0, 'MADV_DONTFORK')

    def end(self):
        if self.at:
            libc.munmap(self.at, 4096)
        self.at = None


class Member(portaldtest.Process):
    """A process that speaks the protocol itself, with a session."""

    def __init__(self, d, join=True, **kw):
        super().__init__(d.sock('sock'), **kw)
        d.stack.callback(self.close)
        self.changes, self.token, self.lifeline = 0, None, None
        if join:
            self.join()

    def take(self, m):
        if m.type == CHANGE:
            self.changes += 1
        super().take(m)

    def answer(self, kind, seconds=PATIENT):
        self.s.settimeout(seconds)
        while True:
            m = self.next()
            if m.type == kind:
                return m
            self.take(m)

    def ask(self, vector=NONE):
        self.send(SESSION, id=0, arg=vector)

    def join(self, vector=NONE):
        self.ask(vector)
        self.take_session(self.answer(SESSION))

    def take_session(self, m):
        equal((m.arg, m.text, len(m.fds)), (0, '', 1), 'the answer')
        self.token, self.lifeline = m.value, Lifeline(m.fds[0])
        self.fds.discard(m.fds[0])
        os.close(m.fds[0])

    def wait_change(self, seconds=30):
        before, end = self.changes, time.monotonic() + seconds
        while self.changes == before:
            self.s.settimeout(max(0.01, end - time.monotonic()))
            self.take(self.next())

    def close(self):
        if self.lifeline:
            self.lifeline.end()
        super().close()


class Joiner:
    """A process with a session by the library (joiner.c)."""

    def __init__(self, stack, uri, ok=True):
        self.p = subprocess.Popen([joiner_path(), uri], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        stack.callback(self.end)
        self.children, self.said = [], self.p.stdout.readline().split(None, 2)
        if ok:
            equal(self.said[0], 'token', ' '.join(self.said))
            self.token = int(self.said[1])

    def do(self, text):
        self.p.stdin.write(text + '\n')
        self.p.stdin.flush()
        said = self.p.stdout.readline().split()
        check(said, f'joiner ended at: {text}')
        if said[0] == 'child':
            self.children.append(int(said[1]))
        return said

    def end(self):
        for pid in self.children:
            os.kill(pid, 9)
        self.p.kill()
        self.p.wait()
        self.p.stdin.close()
        self.p.stdout.close()


def joiner_path(built=[]):
    if not built:
        r = subprocess.run(['make', '-s', '-C', os.path.join(TOP, 'userspace'), 'joiner'],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if r.returncode:
            portaldtest.bail('joiner does not build: ' + r.stdout[-300:])
        built.append(os.path.join(TOP, 'build', 'user', 'tests', 'unit', 'joiner'))
    return built[0]


def ctl(*args, built=[]):
    if not built:
        r = subprocess.run(['make', '-s', '-C', os.path.join(TOP, 'userspace'), 'portalctl'],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
        if r.returncode:
            portaldtest.bail('portalctl does not build: ' + r.stdout[-300:])
        built.append(os.path.join(TOP, 'build', 'user', 'bin', 'portalctl'))
    r = subprocess.run([built[0], *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True, timeout=120)
    return r.returncode, r.stdout, r.stderr


def formatted(uri, *args):
    code, out, err = ctl('format', '--force', '--force', *args, uri)
    equal(code, 0, err)
