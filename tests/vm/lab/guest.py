# SPDX-License-Identifier: MIT
"""One guest: boots, takes commands over its control port, is judged at its end.

    with Guest('a', kernel, initrd, devices=[...]) as g:
        g.run('modprobe portal_ivshmem')        # raises unless exit code 0
        job = g.start('/bin/prog')              # in the background
        job.expect('ready', 10)
        job.wait(10)
        g.finish(t)     # unload, look for WARN/BUG/leaks, power off: test points

Leaving the block without finish() kills the guest: no test can pass by
forgetting it, because finish() alone makes its test points.
"""
import os
import re
import select
import socket
import subprocess
import time

from . import qemu
from .cache import LabError, say

# What the kernel says when something is wrong, wherever it says it.
BAD_LOG = re.compile(
    r'WARNING: |BUG: |BUG at |\bOops|Call Trace|general protection|'
    r'KASAN|UBSAN|kmemleak: [1-9]|lockdep|possible .*deadlock|'
    r'possible recursive|sleeping function called|refcount_t|'
    r'page allocation failure|unreferenced object|INFO: task|'
    r'Unable to handle kernel|soft lockup|rcu.*stall|bad page state', re.I)
# A debug kernel announces its checkers, and TCG upsets clocks and IRQs (a busy
# host lets the timer look unconnected); out-of-tree modules get told so.
HARMLESS = re.compile(
    r'kasan: KernelAddressSanitizer initialized|Lock dependency validator|'
    r'lockdep debugging|lockdep checking is enabled|kmemleak: Kernel memory leak detector|'
    r'MAX_LOCKDEP|lockdep: fixing up|clocksource|tsc: |MP-BIOS bug|'
    r'loading out-of-tree module|module verification failed|PM: (hibernation: |suspend )debug:|'
    r'kmemleak: Automatic memory scanning|Command line:|command line:|'
    r'stall warnings timeout|LSM: |ubsan: enabled', re.I)

# A busy host starves an emulated CPU for half a minute at times: the watchdogs
# are given two.
CMDLINE = ('watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120 '
           'panic=-1 panic_on_warn=1 oops=panic softlockup_panic=1 '
           'hung_task_panic=1 random.trust_cpu=on mitigations=off')


def bad_lines(log):
    """What in a kernel's log is a complaint."""
    return [line for line in log.splitlines()
            if BAD_LOG.search(line) and not HARMLESS.search(line)]


class Job:
    """A command that runs in a guest."""

    def __init__(self, guest, number, script):
        self.guest = guest
        self.number = number
        self.script = script
        self.output = b''
        self.status = None
        self._seen = 0

    def text(self):
        return self.output.decode(errors='replace')

    def wait(self, timeout=60):
        """The exit code; the output is in .text()."""
        self.guest._pump(lambda: self.status is not None, timeout,
                         'the end of: ' + self.script[:200], self)
        return self.status

    def expect(self, pattern, timeout=60):
        """Wait until the output, from where the last expect() matched,
        matches; the match object."""
        found = []

        def look():
            m = re.compile(pattern.encode(), re.M).search(self.output,
                                                          self._seen)
            if m:
                self._seen = m.end()
                found.append(m)
            return bool(m) or self.status is not None
        self.guest._pump(look, timeout, '%r of: %s' % (pattern,
                                                       self.script[:200]), self)
        if not found:
            raise LabError('%s: "%s" ended (%d) without %r:\n%s' % (
                self.guest.name, self.script[:200], self.status, pattern,
                self.text()[-2000:]))
        return found[0]

    def send(self, text):
        """Give it standard input; '' closes it."""
        data = text.encode()
        self.guest._send(b'I %d %d\n' % (self.number, len(data)) + data)

    def kill(self, signal=9):
        self.guest._send(b'K %d %d\n' % (self.number, signal))


class Saved:
    """What Guest.save() wrote, and what copies need to know."""

    def __init__(self, guest, path):
        self.path = path
        self.guest = guest
        self.hello = guest.hello
        self.next = guest._next
        self.jobs = {n: job.script for n, job in guest.jobs.items()}

    def copy(self, name, devices):
        """A guest that goes on from here, stopped; with the jobs that there were."""
        g = self.guest
        return Guest(name, g.kernel, g.initrd, devices, memory=g.memory, slow=g.slow,
                     saved=self)


class Guest:
    bad_lines = staticmethod(bad_lines)

    def __init__(self, name, kernel, initrd, devices=(), memory='256M',
                 cmdline='', machine=None, accel=None, boot_timeout=120,
                 pass_fds=(), slow=1, saved=None):
        self.name = name
        self.kernel = kernel
        self.initrd = initrd
        self.memory = memory
        self.slow = slow            # every timeout is multiplied by it
        self._saved = saved
        self.jobs = {}
        self._next = 1
        self._buffer = b''
        self.hello = None
        self.goodbye = False
        self.pongs = set()
        self.written = {}
        base = os.path.join(qemu.workdir(), '%s-%d' % (name, time.time_ns()))
        os.mkdir(base)
        self.console = os.path.join(base, 'console.log')
        self.errors = os.path.join(base, 'qemu.log')
        self._start(base, initrd, list(devices), memory, cmdline, machine,
                    accel, pass_fds)
        began = time.monotonic()
        try:
            if saved:
                self._restore(saved)
            self._pump(lambda: self.hello, boot_timeout, 'boot')
        except BaseException:
            self.kill()
            raise
        say('%s: %s is up after %.1f s' % (name, self.hello,
                                           time.monotonic() - began))

    def _start(self, base, initrd, devices, memory, cmdline, machine, accel,
               pass_fds):
        arm = self.kernel.arch == 'arm64'
        binary, extra = qemu.find(self.kernel.arch)
        ctl = qemu.listener(base + '/ctl')
        mon = qemu.listener(base + '/qmp')
        argv = [binary] + extra + [
            '-nodefaults', '-no-user-config', '-display', 'none',
            '-no-reboot', '-m', memory, '-name', self.name,
            '-M', machine or ('virt,gic-version=3,its=on' if arm else 'pc')]
        argv += accel or qemu.accel(self.kernel.arch)
        argv += ['-kernel', self.kernel.image, '-initrd', initrd,
                 '-append', ' '.join(filter(None, [
                     'console=' + ('ttyAMA0' if arm else 'ttyS0'), 'quiet',
                     'vmportal.control=' + ('ttyS0' if arm else 'ttyS1'),
                     # A busy host lets the timer look unconnected: no reason to panic.
                     '' if arm else 'no_timer_check', CMDLINE, cmdline])),
                 '-chardev', 'file,id=con,path=' + self.console,
                 '-serial', 'chardev:con',
                 '-chardev', 'socket,id=ctl,path=%s/ctl' % base,
                 '-chardev', 'socket,id=mon,path=%s/qmp' % base,
                 '-mon', 'chardev=mon,mode=control']
        argv += ['-device', 'pci-serial,chardev=ctl'] if arm else [
            '-serial', 'chardev:ctl']
        argv += ['-S', '-incoming', 'defer'] if self._saved else []
        self.process = qemu.spawn(argv + devices, pass_fds=pass_fds,
                                  stdout=open(self.errors, 'w'),
                                  stderr=subprocess.STDOUT)
        self.sock = self._accept(ctl)
        self.qmp = qemu.Qmp(self._accept(mon))

    def _accept(self, listener):
        end = time.monotonic() + 30 * qemu.PATIENCE
        listener.settimeout(0.2)
        while time.monotonic() < end and self.process.poll() is None:
            try:
                s, _ = listener.accept()
                listener.close()
                return s
            except socket.timeout:
                continue
        self.kill()
        raise LabError('%s: QEMU did not start: %s' % (
            self.name, open(self.errors).read()[-2000:]))

    # -- copies of it

    def save(self, path):
        """Write all of it to a file, as a snapshot does, memory that it shares included; and
        kill it. What it was doing, its copies go on with."""
        self.qmp('stop')
        self.qmp('migrate', uri='exec:cat > ' + path)
        self._migrated('completed')
        self.kill()
        return Saved(self, path)

    def _restore(self, saved):
        """As it was; it does not run before qmp('cont')."""
        self.qmp('migrate-incoming', uri='exec:cat ' + saved.path)
        self._migrated('completed')
        self.hello = saved.hello
        self.take_over(saved)

    def take_over(self, saved):
        """It is the saved one from here on: that one's jobs are its own."""
        self._next = max(self._next, saved.next)
        for number, script in saved.jobs.items():
            self.jobs[number] = Job(self, number, script)

    def _migrated(self, status):
        def look():
            now = self.qmp('query-migrate').get('status')
            if now == 'failed':
                raise self._lost('saving or restoring failed')
            return now == status
        qemu.wait_until(look, 60 * self.slow, 'saved state')

    # -- the control channel

    def _send(self, data):
        self.sock.settimeout(60 * self.slow * qemu.PATIENCE)
        try:
            self.sock.sendall(data)
        except OSError as e:
            raise self._lost('control channel: %s' % e)

    def _lost(self, what, timed_out=False):
        tail = self.log()[-3000:]
        more = open(self.errors).read()[-1000:]
        code = self.process.poll()
        return LabError('%s (%s): %s; QEMU %s\n%s%s' % (
            self.name, self.kernel.release, what,
            'runs' if code is None else 'ended with %s' % code,
            more and '-- QEMU: ' + more + '\n', '-- console:\n' + tail))

    def _pump(self, done, timeout, what, job=None):
        """Handle frames until done(); at most timeout seconds, or what a busy machine makes of them."""
        timeout *= self.slow * qemu.PATIENCE
        end = time.monotonic() + timeout
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                said = '\n-- so far: ' + job.text()[-1500:] if job else ''
                raise self._lost('no %s after %d s%s' % (what, timeout, said))
            r, _, _ = select.select([self.sock], [], [], min(left, 1))
            if not r:
                self._idle(what)
                continue
            try:
                data = self.sock.recv(1 << 16)
            except OSError:
                data = b''
            if not data:
                self.process.poll()
                if not done():
                    qemu.stop(self.process, 5)
                    raise self._lost('the guest died while waiting for ' + what)
                return
            self._buffer += data
            while self._frame():
                pass

    def _idle(self, what):
        """Nothing came for a second: a guest whose end is not the end of its
        channel looks after it here."""

    def _frame(self):
        """Take one whole frame off the buffer; False if there is none."""
        line, sep, rest = self._buffer.partition(b'\n')
        if not sep:
            return False
        words = line.split()
        kind = words[0] if words else b''
        if self.hello is None and kind != b'H':
            self._buffer = rest     # line noise of the port before the hello
            return True
        if kind == b'O':
            length = int(words[2])
            if len(rest) < length:
                return False
            self.jobs[int(words[1])].output += rest[:length]
            rest = rest[length:]
        elif kind == b'X':
            self.jobs.pop(int(words[1])).status = int(words[2])
        elif kind == b'H':
            self.hello = words[1].decode()
        elif kind == b'P':
            self.pongs.add(int(words[1]))
        elif kind == b'R':
            self.written[words[1].decode()] = int(words[2])
        elif kind == b'B':
            self.goodbye = True
        else:
            raise self._lost('control channel: bad frame %r' % line[:80])
        self._buffer = rest
        return True

    # -- what tests use

    def start(self, script):
        """Start a shell script in the background."""
        job = Job(self, self._next, script)
        self._next += 1
        self.jobs[job.number] = job
        raw = script.encode()
        self._send(b'S %d %d\n' % (job.number, len(raw)) + raw)
        return job

    def call(self, script, timeout=60):
        """(exit code, output) of a shell script."""
        job = self.start(script)
        return job.wait(timeout), job.text()

    def run(self, script, timeout=60):
        """The output of a script that must succeed."""
        status, text = self.call(script, timeout)
        if status:
            raise LabError('%s: "%s" failed (%d):\n%s\n-- console:\n%s' % (
                self.name, script[:300], status, text[-3000:],
                self.log()[-2000:]))
        return text

    def put(self, path, data, mode=0o644):
        """Write a file in the guest."""
        self.written.pop(path, None)
        self._send(b'F %s %o %d\n' % (path.encode(), mode, len(data)) + data)
        self._pump(lambda: path in self.written, 60, 'file ' + path)
        if self.written[path]:
            raise LabError('%s: %s: %s' % (self.name, path,
                                           os.strerror(self.written[path])))

    def alive(self, timeout=20):
        """Whether the guest answers."""
        n = self._next
        self._next += 1
        self._send(b'P %d\n' % n)
        self._pump(lambda: n in self.pongs, timeout, 'pong')
        return True

    def log(self):
        """The console so far."""
        try:
            with open(self.console, errors='replace') as f:
                return f.read()
        except OSError:
            return ''

    def tap(self, t, script, timeout=60, name=None):
        """Run a program that prints TAP; its points become t's."""
        status, text = self.call('export GUEST_SLOW=%d; %s' % (self.slow, script), timeout)
        t.nested(text, name or script.split()[0].split('/')[-1], status)

    def dmesg(self):
        """The kernel's log from the guest itself: quiet hides nothing."""
        return self.run('dmesg')

    def finish(self, t, unload=('portal_ivshmem', 'portal_loopback', 'portal'),
               timeout=60):
        """The last checks and the end: modules go, the log holds nothing bad,
        kmemleak (where there is one) finds nothing, the machine powers off
        when told. Success is said by the host, last of all."""
        loaded = self.run("sed 's/ .*//' /proc/modules").split()
        gone = [m for m in unload if m in loaded]
        status, text = 0, ''
        for m in gone:
            status, text = self.call('rmmod ' + m, timeout)
            if status:
                break
        t.ok(status == 0, '%s: modules unload (%s)' % (
            self.name, ' '.join(gone) or 'none loaded'), text)
        self.check_leaks(t)
        bad = bad_lines(self.dmesg())
        t.ok(not bad, self.name + ': the kernel log holds no complaint',
             '\n'.join(bad))
        self._send(b'Q\n')
        self._pump(lambda: self.goodbye, timeout, 'goodbye')
        code = qemu.stop(self.process, 20 * self.slow * qemu.PATIENCE)
        t.ok(code == 0, self.name + ': powers off when told',
             'QEMU ended with %s' % code)

    def check_leaks(self, t):
        if self.call('test -e /sys/kernel/debug/kmemleak')[0]:
            return
        # A pointer may sit in a register or on a stack: only what two scans,
        # five seconds apart (its minimum age), call unreferenced is a leak.
        self.run('echo scan > /sys/kernel/debug/kmemleak; sleep 6; '
                 'echo scan > /sys/kernel/debug/kmemleak', 180)
        text = self.run('cat /sys/kernel/debug/kmemleak')
        t.ok('unreferenced object' not in text,
             self.name + ': kmemleak finds no leak', text[:4000])

    def kill(self):
        qemu.stop(self.process)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None and 'console:' not in str(error):
            tail = self.log()[-1500:]
            tail += open(self.errors).read()[-1500:]
            say('%s: console before it is killed:\n# %s' % (
                self.name, tail.replace('\n', '\n# ')))
        self.kill()
        return False
