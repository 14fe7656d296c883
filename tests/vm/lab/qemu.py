# SPDX-License-Identifier: MIT
"""QEMU: which one, how it is started, spoken to (QMP) and got rid of.

A QEMU dies with the process that started it, whatever way that ends. Shared
memory is a memfd of the harness, so nothing can be left in /dev/shm.
"""
import atexit
import ctypes
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from . import debs
from .cache import LabError, building, cache_dir, lock, run, say

BINARIES = {'amd64': 'qemu-system-x86_64', 'arm64': 'qemu-system-aarch64'}
PACKAGES = ['qemu-system-x86', 'qemu-system-arm', 'qemu-system-common',
            'qemu-system-data', 'seabios']
# 7.2 drops fences under TCG: guests that share memory would be meaningless.
OLDEST = (8, 0)

_libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


def _version(binary):
    try:
        p = subprocess.run([binary, '--version'], text=True, timeout=20,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    m = re.search(r'version (\d+)\.(\d+)', p.stdout)
    return p.returncode == 0 and m and (int(m.group(1)), int(m.group(2)))


def find(arch='amd64'):
    """(binary, extra arguments): the machine's QEMU if it is new enough,
    otherwise bookworm-backports' (or a later suite's) out of the cache."""
    name = BINARIES[arch]
    here = os.environ.get('QEMU_' + arch.upper()) or shutil.which(name)
    if here and (_version(here) or (0, 0)) >= OLDEST:
        return here, []
    base = _unpacked()
    binary = os.path.join(base, 'usr/bin', name)
    return binary, ['-L', os.path.join(base, 'usr/share/qemu'),
                    '-L', os.path.join(base, 'usr/share/seabios')]


def _unpacked():
    path = cache_dir() + '/qemu'
    if os.path.isdir(path):
        return path
    with lock('qemu'):
        if os.path.isdir(path):
            return path
        with building(path) as tmp:
            for package in PACKAGES:
                version = _pick(package)
                debs.unpack(debs.download(package, version), tmp)
            _check(tmp)
    return path


def _pick(package):
    """A version >= 8 that runs here: bookworm-backports' or trixie's."""
    found = [s['Version'] for s in debs.show(package)]
    for mark in (r'~bpo12', r'deb13u\d+$', r'.'):
        for v in found:
            if re.search(mark, v) and 'deb11' not in v and (
                    package == 'seabios' or
                    int(re.search(r'(?:\d+:)?(\d+)', v).group(1)) >= OLDEST[0]):
                return v
    raise LabError('Debian has no %s that is new enough' % package)


def _check(base):
    """The libraries resolve and the binary runs."""
    for name in BINARIES.values():
        binary = os.path.join(base, 'usr/bin', name)
        p = run(['ldd', binary], check=False)
        missing = re.findall(r'(\S+) => not found', p.stdout)
        bad = re.findall(r"version `(\S+)' not found", p.stdout)
        if missing or bad:
            raise LabError('%s lacks %s; run tests/deps/install' % (
                name, ' '.join(missing + bad)))
        if not _version(binary):
            raise LabError('%s does not run' % binary)


def kvm_usable():
    """A /dev/kvm that can be opened proves nothing: a paravirtual-only KVM
    takes a guest and never runs it. Hardware support and its module do."""
    if not os.access('/dev/kvm', os.W_OK):
        return False
    if not any(os.path.isdir('/sys/module/kvm_' + v) for v in ('intel', 'amd')):
        return False
    with open('/proc/cpuinfo') as f:
        return bool(re.search(r'\b(vmx|svm)\b', f.read()))


def accel(arch='amd64'):
    """-accel, -cpu and -smp for guests that share memory. With one possible
    CPU, TCG compiles locked instructions to plain ones: hence maxcpus=2."""
    if kvm_usable() and arch == 'amd64':
        return ['-accel', 'kvm', '-cpu', 'host', '-smp', '1,maxcpus=2']
    cpu = {'amd64': 'max', 'arm64': 'max,pauth-impdef=on'}[arch]
    return ['-accel', 'tcg,thread=multi', '-cpu', cpu, '-smp', '1,maxcpus=2']


def memfd(name, size, seals=False):
    """An fd of size bytes of zeroed shared memory."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


_directory = None


def workdir():
    """This process's directory for sockets and logs; gone at its end."""
    global _directory
    if _directory is None:
        for stale in glob.glob(os.path.join(tempfile.gettempdir(),
                                            'vmportal-lab-*')):
            # Left by a process that was killed outright.
            pid = stale.split('-')[-2]
            if pid.isdigit() and not os.path.exists('/proc/' + pid):
                shutil.rmtree(stale, ignore_errors=True)
        _directory = tempfile.mkdtemp(prefix='vmportal-lab-%d-' % os.getpid())
        atexit.register(shutil.rmtree, _directory, True)
    return _directory


def _die_with_us():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # A Ctrl-C is for the harness: it says goodbye to its children in order.
    os.setpgid(0, 0)
    # Nor is one that came since the fork for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def spawn(argv, **kw):
    """Popen for a child that cannot outlive this process."""
    kw.setdefault('stdin', subprocess.DEVNULL)
    # Not between fork and exec: the child's Python would answer it with a traceback.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        p = subprocess.Popen(argv, preexec_fn=_die_with_us, **kw)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    atexit.register(stop, p)
    return p


def stop(p, timeout=0):
    """Wait for a child; kill it when the time is over."""
    if timeout:
        try:
            p.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
    if p.poll() is None:
        p.kill()
        p.wait()
    return p.returncode


# So many times longer than a quiet machine needs is waited for what has to come: others may keep
# this one busy, and only a test that fails waits in vain.
PATIENCE = 4


def wait_until(done, timeout, what, every=0.02):
    timeout *= PATIENCE
    end = time.monotonic() + timeout
    while not done():
        if time.monotonic() > end:
            raise LabError('no %s after %d s' % (what, timeout))
        time.sleep(every)


# Ctrl-C and a runner's SIGTERM both end in SystemExit: atexit then cleans up.
def _on_term(sig, frame):
    raise SystemExit(128 + sig)


signal.signal(signal.SIGTERM, _on_term)
signal.signal(signal.SIGHUP, _on_term)


def listener(path):
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen(1)
    return s


class Qmp:
    """The QEMU monitor: commands with bounded waits; events are kept."""

    def __init__(self, sock, timeout=30 * PATIENCE):
        self.sock = sock
        self.sock.settimeout(timeout)
        self.buffer = b''
        self.events = []
        self._message()
        self('qmp_capabilities')

    def _message(self, timeout=30 * PATIENCE):
        end = time.monotonic() + timeout
        while b'\n' not in self.buffer:
            left = end - time.monotonic()
            if left <= 0:
                raise LabError('QMP: no answer in %d s' % timeout)
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(65536)
            except socket.timeout:
                continue
            except ConnectionError:
                data = b''
            if not data:
                raise LabError('QMP: QEMU is gone')
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b'\n')
        return json.loads(line)

    def __call__(self, command, **arguments):
        msg = {'execute': command}
        if arguments:
            msg['arguments'] = {k.replace('_', '-'): v
                                for k, v in arguments.items()}
        self.sock.sendall(json.dumps(msg).encode() + b'\n')
        while True:
            reply = self._message()
            if 'event' in reply:
                self.events.append(reply)
            elif 'error' in reply:
                raise LabError('QMP %s: %s' % (command,
                                               reply['error']['desc']))
            else:
                return reply.get('return')

    def wait_event(self, name, timeout=30):
        timeout *= PATIENCE
        end = time.monotonic() + timeout
        while True:
            for e in self.events:
                if e['event'] == name:
                    self.events.remove(e)
                    return e
            left = end - time.monotonic()
            if left <= 0:
                raise LabError('QMP: no event %s in %d s' % (name, timeout))
            reply = self._message(left)
            if 'event' in reply:
                self.events.append(reply)
