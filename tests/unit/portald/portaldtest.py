# SPDX-License-Identifier: MIT
"""What the tests of portald share: a daemon to start and watch, and clients of
both its sockets, written from the two protocols' descriptions alone (QEMU's
docs/specs/ivshmem-spec.rst; userspace/portald/proto.h), not from its code."""
import array
import atexit
import mmap
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))
sys.path.insert(0, os.path.join(TOP, 'tests', 'unit'))
import taptest
from taptest import PATIENT, Skip, bail, check, equal, ran, scratch, wait_for     # noqa: E402

MAGIC, VERSION = 0x44504D56, 2
HELLO, WELCOME, PEER, READY, GONE, REFUSE, STATUS, SESSION, CHANGE, FENCE = range(1, 11)
RDONLY = 1
MSG = struct.Struct('<IIIIQ104s')
NAMES = ['', 'HELLO', 'WELCOME', 'PEER', 'READY', 'GONE', 'REFUSE', 'STATUS', 'SESSION', 'CHANGE', 'FENCE']


BUILT = {}


SANITIZED = ('CFLAGS=-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined '
             '-fno-sanitize-recover=all')


def for_everybody(program):
    """The program, or a copy that users without privileges reach: not in a home that is
    closed to them, as root's is."""
    above = os.path.dirname(program)
    while above != '/' and os.stat(above).st_mode & 1:
        above = os.path.dirname(above)
    if above == '/':
        return program
    to = tempfile.mkdtemp(prefix='vmportal-')
    mine = os.getpid()
    atexit.register(lambda: os.getpid() == mine and shutil.rmtree(to))    # not a child's
    os.chmod(to, 0o755)
    return shutil.copy(program, to)


def portald_path(sanitized=False, steps=False):
    """The program: $PORTALD ($PORTALD_ASAN), or the sources as they are now; @steps: one
    that kills itself where it is told to (kept.h)."""
    kind = 'portald-steps' if steps else 'portald-asan' if sanitized else 'user'
    path = os.environ.get('PORTALD_ASAN' if sanitized else 'PORTALD')
    if path and not steps:
        return path
    if kind not in BUILT:
        out = os.path.join(TOP, 'build', kind)
        build(out, *(['CFLAGS=-O1 -g -DPORTALD_STEPS'] if steps else
                     [SANITIZED] if sanitized else []))
        BUILT[kind] = for_everybody(os.path.join(out, 'bin', 'portald'))
    return BUILT[kind]


def build(out, *args):
    r = subprocess.run(['make', '-s', '-C', os.path.join(TOP, 'userspace'), 'O=' + out,
                        *args, 'portald'], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=300)
    if r.returncode:
        bail('portald does not build: ' + ' / '.join(r.stdout.split('\n')[-5:]))


def Tap():
    """Points whose failure also shows the last words of their daemons."""
    return taptest.Tap(explain=lambda: ['log: ' + line for d in Daemon.recent
                                        for line in d.lines[-15:]],
                       forget=lambda: Daemon.recent.clear())


class Daemon:
    """A portald of its own, in a directory of its own, gone with the point."""
    recent = []

    def __init__(self, stack, *args, name='demo', size='1M', config=None, directory=None,
                 wait=True, env=None, launcher=(), path=None, preexec=None, pass_fds=()):
        self.dir = directory or scratch(stack)
        self.name, self.lines, self.stack = name, [], stack
        self.path = path or portald_path()
        cmd = [self.path, '--socket-dir', self.dir]
        if config is not None:
            self.config = os.path.join(self.dir, 'portald.conf')
            with open(self.config, 'w') as f:
                f.write(config)
            cmd += ['--config', self.config]
        elif name:
            cmd += ['--name', name, '--size', size]
        # start in a session of its own, so that nothing of the tests' ends it
        self.p = subprocess.Popen([*launcher, *cmd, *args], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                  text=True, env=env, preexec_fn=preexec,
                                  pass_fds=pass_fds)
        self.pid = self.p.pid
        Daemon.recent.append(self)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        stack.callback(self.end)
        if wait:
            self.wait_log('serving')

    def _read(self):
        for line in self.p.stderr:
            self.lines.append(line.rstrip('\n'))

    def end(self):
        if self.p.poll() is None:
            self.p.terminate()
            try:
                self.p.wait(5)
            except subprocess.TimeoutExpired:
                self.p.kill()
                self.p.wait()
        self.reader.join(5)
        self.p.stderr.close()

    def kill(self):
        self.p.kill()
        self.p.wait()
        self.reader.join(5)

    def wait_log(self, text, seconds=PATIENT, n=1):
        def seen():
            hits = [s for s in list(self.lines) if text in s]
            if len(hits) >= n:
                return hits
            if self.p.poll() is not None:
                self.reader.join(1)
                hits = [s for s in self.lines if text in s]
                check(len(hits) >= n, f'portald ended ({self.p.returncode}) without: {text}')
                return hits
            return None
        return wait_for(seen, f'log line: {text}', seconds)[-1]

    def exit_code(self, seconds=PATIENT):
        self.p.wait(seconds)
        self.reader.join(5)
        return self.p.returncode

    def sock(self, suffix):
        return os.path.join(self.dir, f'{self.name}.{suffix}')

    def nfds(self):
        return len(os.listdir(f'/proc/{self.pid}/fd'))

    def kept(self):
        """How many descriptors the keeper has: its own, and the daemon's memory, sockets,
        bundles. The daemon sends them before it answers; who has something to read is not
        asleep."""
        wait_for(lambda: self.state() == 'S', 'the keeper at rest')
        return self.nfds()

    def state(self):
        with open(f'/proc/{self.pid}/stat') as f:
            return f.read().rsplit(')', 1)[1].split()[0]

    def rss_kib(self):
        with open(f'/proc/{self.pid}/status') as f:
            for line in f:
                if line.startswith('VmRSS:'):
                    return int(line.split()[1])

    def cpu_ticks(self):
        with open(f'/proc/{self.pid}/stat') as f:
            v = f.read().rsplit(')', 1)[1].split()
        return int(v[11]) + int(v[12])

    def guest(self, **kw):
        g = Guest(self.sock('ivshmem'), **kw)
        self.stack.callback(g.close)
        return g

    def process(self, **kw):
        h = Process(self.sock('sock'), **kw)
        self.stack.callback(h.close)
        return h

    def status(self):
        import json
        s = Process(self.sock('sock'), hello=False)
        try:
            s.send(STATUS)
            m = s.recv()
            equal(m.type, STATUS, 'answer')
            return json.loads(os.pread(m.fds[0], m.value, 0))
        finally:
            s.close()


def close_fds(fds):
    for fd in fds:
        os.close(fd)


def connect(kind, path, timeout):
    """A full backlog refuses a socket with a timeout at once: try again."""
    s = socket.socket(socket.AF_UNIX, kind)
    s.settimeout(timeout)
    end = time.monotonic() + timeout
    while True:
        try:
            s.connect(path)
            return s
        except BlockingIOError:
            if time.monotonic() > end:
                s.close()
                raise
            time.sleep(0.001)
        except OSError:
            s.close()
            raise


class Client:
    """What both kinds have in common; recv() gives a message or None at the end."""
    noun = None

    def next(self):
        m = self.recv()
        if m is None:
            raise ConnectionError('portald closed the connection')
        return m

    def pump(self, until, seconds=PATIENT):
        """Take what comes until it is so."""
        end = time.monotonic() + seconds
        while not until():
            left = end - time.monotonic()
            check(left > 0, f'{self.noun} {self.id} waited in vain; it knows {sorted(self.peers)}')
            self.s.settimeout(left)
            self.take(self.next())

    def knows(self, peer):
        return len(self.peers.get(peer, [])) == self.vectors

    def ended(self, seconds=PATIENT):
        """Reads to the end; true if it comes in time."""
        self.s.settimeout(seconds)
        try:
            while self.recv() is not None:
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            return False
        return True

    def close(self):
        self.s.close()
        close_fds(self.fds)
        self.fds = set()


class Guest(Client):
    """The ivshmem protocol as QEMU speaks it: it only listens."""
    noun = 'guest'

    def __init__(self, path, greet=True, vectors=4, timeout=PATIENT):
        self.s = path if isinstance(path, socket.socket) else \
            connect(socket.SOCK_STREAM, path, timeout)
        self.vectors, self.peers, self.fds = vectors, {}, set()
        self.count = 0
        self.id = self.region = None
        if greet:
            self.greet()

    def recv(self):
        """(value, fd or None), or None at the end of the connection."""
        buf, fds = b'', []
        while len(buf) < 8:
            data, anc, flags, _ = self.s.recvmsg(8 - len(buf), socket.CMSG_SPACE(4 * 4))
            for level, kind, payload in anc:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    a = array.array('i')
                    a.frombytes(payload[:len(payload) // 4 * 4])
                    fds += a
            self.fds.update(fds)
            if not data:
                return None
            buf += data
        check(len(fds) <= 1, 'more than one descriptor in a message')
        return struct.unpack('<q', buf)[0], fds[0] if fds else None

    def greet(self):
        """Everything up to the last of our own vectors; keeps the raw order."""
        self.order = []
        while len(self.peers.get(self.id, [])) < self.vectors:
            m = self.recv()
            if m is None:
                raise ConnectionError('portald closed the connection')
            self.order.append(m)
            self.count += 1
            self.take(m, self.count)

    def take(self, m, n=99):
        """The n-th message since the connect."""
        value, fd = m
        if n == 1:
            equal(m, (0, None), 'protocol version')
        elif n == 2:
            equal(fd, None, 'fd beside the own id')
            self.id = value
        elif value == -1:
            self.region = fd
        elif fd is not None:
            self.peers.setdefault(value, []).append(fd)
        else:
            gone = self.peers.pop(value)
            self.fds.difference_update(gone)
            close_fds(gone)

    def read_some(self, most):
        """Up to so many messages; false if there are no more for now."""
        self.s.settimeout(0)
        for _ in range(most):
            try:
                m = self.recv()
            except BlockingIOError:
                return False
            if m is None:
                raise ConnectionError('portald closed the connection')
            self.count += 1
            self.take(m, self.count)
        return True

    def map(self, size):
        return mmap.mmap(self.region, size)


def inherit(path):
    """A connection that is ours, and whose process was another, which has ended."""
    a, b = socket.socketpair()
    pid = os.fork()
    if not pid:
        try:
            s = connect(socket.SOCK_STREAM, path, 10)
            socket.send_fds(a, [b'x'], [s.fileno()])
        finally:
            os._exit(0)
    fds = socket.recv_fds(b, 1, 1)[1]
    os.waitpid(pid, 0)
    a.close()
    b.close()
    s = socket.socket(fileno=fds[0])
    s.settimeout(PATIENT)
    return s


class Msg:
    def __init__(self, data, fds):
        equal(len(data), MSG.size, 'length of a packet')
        self.type, self.id, self.arg, self.flags, self.value, text = MSG.unpack(data)
        self.text = text.split(b'\0')[0].decode()
        self.fds = fds

    def __repr__(self):
        return f'{NAMES[self.type]}(id {self.id}, arg {self.arg}, {len(self.fds)} fds {self.text})'


class Process(Client):
    """A process on the host, by proto.h."""
    noun = 'process'

    def __init__(self, path, hello=True, flags=0, timeout=PATIENT):
        self.s = connect(socket.SOCK_SEQPACKET, path, timeout)
        self.peers, self.fds, self.order = {}, set(), []
        self.id = self.region = None
        if hello:
            self.send(HELLO, flags=flags)
            self.greet()

    def send(self, kind, id=MAGIC, arg=VERSION, flags=0, value=0, text=b''):
        self.s.send(MSG.pack(kind, id, arg, flags, value, text))

    def recv(self):
        data, fds, flags, _ = socket.recv_fds(self.s, 256, 64)
        self.fds.update(fds)
        if not data:
            return None
        return Msg(data, list(fds))

    def greet(self):
        while True:
            m = self.recv()
            if m is None:
                raise ConnectionError('portald closed the connection')
            self.order.append(m)
            if m.type == REFUSE:
                raise PermissionError(m.text)
            self.take(m)
            if m.type == READY:
                return

    def take(self, m):
        if m.type == WELCOME:
            self.id, self.vectors, self.size, self.region = m.id, m.arg, m.value, m.fds[0]
        elif m.type == PEER:
            have = self.peers.setdefault(m.id, [])
            equal(m.arg, len(have), 'first vector')
            have += m.fds
        elif m.type == GONE:
            for id in range(m.id, m.arg + 1):
                gone = self.peers.pop(id, [])
                self.fds.difference_update(gone)
                close_fds(gone)

    def read_some(self, most):
        self.s.settimeout(0)
        for _ in range(most):
            try:
                m = self.recv()
            except BlockingIOError:
                return False
            if m is None:
                raise ConnectionError('portald closed the connection')
            equal(m.type == REFUSE, False, m.text)
            self.take(m)
        return True


def ring(fd, n=1):
    for _ in range(n):
        os.write(fd, struct.pack('=Q', 1))


def rings(fd, seconds=30):
    """How often it was rung: waits for the first, 0 if none comes."""
    p = select.poll()
    p.register(fd, select.POLLIN)
    if not p.poll(seconds * 1000):
        return 0
    return struct.unpack('=Q', os.read(fd, 8))[0]


def run(*args, env=None, timeout=PATIENT):
    return subprocess.run([portald_path(), *args], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=timeout, env=env)
