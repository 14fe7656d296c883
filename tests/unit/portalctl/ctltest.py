# SPDX-License-Identifier: MIT
"""What the tests of portalctl share: running it, and a peer that speaks to it
through the library (ctypes) and can therefore say what portalctl never would."""
import ctypes
import json
import os
import signal
import struct
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))
OUT = os.environ.get('VMPORTAL_BUILD') or os.path.join(TOP, 'build', 'user')
CTL = os.environ.get('PORTALCTL') or os.path.join(OUT, 'bin', 'portalctl')
LIMIT = 240             # seconds that any one step may take, on a busy machine, too

sys.path.insert(0, os.path.join(TOP, 'tests', 'unit'))
from taptest import Skip, Tap, bail, check, equal, scratch, wait_for   # noqa: E402


def build(*targets):
    r = subprocess.run(['make', '-s', '-j2', '-C', os.path.join(TOP, 'userspace'), 'O=' + OUT,
                        *targets], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, timeout=300)
    if r.returncode:
        bail('user space does not build: ' + ' / '.join(r.stdout.split('\n')[-5:]))


def region(stack, size='8M'):
    """A URI over fresh memory, and its directory."""
    d = scratch(stack)
    return 'file:%s/region?size=%s' % (d, size), d


class Ctl:
    """A portalctl in the background; killed with the point if it still runs."""

    def __init__(self, stack, *args, stdin=subprocess.DEVNULL, prefix=(), **kw):
        self.p = subprocess.Popen([*prefix, CTL, *args], stdin=stdin, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, **kw)
        stack.callback(self.kill)
        self.out = self.err = b''

    def kill(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()
        for f in (self.p.stdin, self.p.stdout, self.p.stderr):
            if f:
                f.close()

    def end(self, timeout=LIMIT):
        """Exit status; .out and .err are complete then."""
        self.out, self.err = self.p.communicate(timeout=timeout)
        return self.p.returncode

    def ok(self):
        code = self.end()
        if code:
            raise AssertionError('exit %d: %s' % (code, self.err.decode(errors='replace')))
        return self.out

    def json(self):
        return json.loads(self.ok())

    def fails(self, code, *words):
        """Ends with this status and one line that holds these words."""
        got = self.end()
        text = self.err.decode(errors='replace')
        equal(got, code, 'exit status (%s)' % text.strip())
        lines = [x for x in text.splitlines() if x.startswith('portalctl: ')]
        check(lines, 'no message: ' + text)
        for w in words:
            check(w in text, '%r is not in %r' % (w, text))
        return text

    def signal(self, sig=signal.SIGINT):
        self.p.send_signal(sig)


def run(*args, **kw):
    """(exit status, stdout, stderr) of a portalctl that ends by itself."""
    r = subprocess.run([CTL, *args], stdin=kw.pop('stdin', subprocess.DEVNULL),
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       timeout=LIMIT, **kw)
    return r.returncode, r.stdout, r.stderr


# ---- a peer of the test's own ----

MAGIC, VERSION = 0x43504D56, 1
STREAM, PING, BENCH = 1, 2, 3
OFFER, ACCEPT, DATA, IDLE, END, DONE, PING_FRAME, FAIL = range(1, 9)
FRAME = struct.Struct('<IBBBBQQ')
UNKNOWN = 2 ** 64 - 1


def frame(kind, type_, a=0, body=b'', version=VERSION, magic=MAGIC):
    return FRAME.pack(magic, version, kind, type_, 0, a, 0) + body


class Opts(ctypes.Structure):
    _fields_ = [('size', ctypes.c_uint32), ('side', ctypes.c_uint32),
                ('offset', ctypes.c_uint64), ('length', ctypes.c_uint64),
                ('vector', ctypes.c_uint32), ('flags', ctypes.c_uint32),
                ('spin_us', ctypes.c_uint32), ('reserved', ctypes.c_uint32)]


_lib = None


def lib():
    global _lib
    if _lib is None:
        _lib = ctypes.CDLL(os.path.join(OUT, 'lib', 'libvmportal.so'))
        _lib.vmp_errmsg.restype = ctypes.c_char_p
        _lib.vmp_recv.restype = ctypes.c_ssize_t
    return _lib


class Peer:
    """One end of a channel, in this process."""

    def __init__(self, stack, uri, side):
        self.p, self.ch = ctypes.c_void_p(), ctypes.c_void_p()
        self._must(lib().vmp_open(ctypes.byref(self.p), uri.encode(), 0))
        stack.callback(self.close)
        o = Opts(size=ctypes.sizeof(Opts), side=side)
        self._must(lib().vmp_channel_open(ctypes.byref(self.ch), self.p, ctypes.byref(o)))

    def _must(self, err):
        if err < 0:
            raise AssertionError('library: %d, %s' % (err, lib().vmp_errmsg().decode()))
        return err

    def connect(self):
        self._must(lib().vmp_channel_connect(self.ch, LIMIT * 1000))
        return self

    def send(self, data):
        self._must(lib().vmp_send(self.ch, data, ctypes.c_size_t(len(data)), 0, LIMIT * 1000))

    def recv(self):
        buf = ctypes.create_string_buffer(1 << 20)
        n = self._must(lib().vmp_recv(self.ch, buf, ctypes.c_size_t(len(buf)), LIMIT * 1000))
        return buf.raw[:n]

    def frame(self):
        """(type, a, body) of the next frame."""
        m = self.recv()
        return FRAME.unpack(m[:24])[3], FRAME.unpack(m[:24])[5], m[24:]

    def close(self):
        if self.ch:
            lib().vmp_channel_close(self.ch)
        self.ch = ctypes.c_void_p()
        if self.p:
            lib().vmp_close(self.p)
        self.p = ctypes.c_void_p()
