# SPDX-License-Identifier: MIT
"""A whole Debian 12, as a user has it: made once, changed and booted in a copy.

base() is a root file system made by debootstrap, kept in the cache and never
written to. Copy lays an overlay on it: what a test changes is in memory and
gone with the process, for all mounts are in a mount namespace of its own.
image() turns the copy into an ext4 image without mounting anything, boot() boots
that and reads what the system reports: lines of a key and a value, "log" lines,
and "end" last of all.
"""
import atexit
import ctypes
import hashlib
import os
import select
import shutil
import subprocess
import time

from . import debs, qemu
from .cache import LabError, building, cache_dir, lock, run, say

SUITE = 'bookworm'

# What a user of the DKMS package has; dkms itself only recommends the rest.
PACKAGES = ['systemd', 'systemd-sysv', 'dbus', 'udev', 'kmod', 'dkms', 'make', 'gcc',
            'libc6-dev', 'linux-image-cloud-amd64',
            'linux-headers-cloud-amd64']

# Neither needed to build nor to boot; the image becomes a third smaller.
JUNK = ['var/cache/apt/archives', 'var/lib/apt/lists', 'usr/share/doc',
        'usr/share/man', 'usr/share/locale', 'usr/share/info']

CLONE_NEWNS = 0x00020000
BOOT_TIMEOUT = 4 * 400

# The last words of a report script, whose output goes to the second serial port.
END = '''
echo end
sync
poweroff -ff
'''


def _key():
    text = repr((SUITE, PACKAGES, JUNK))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def base():
    """The directory of the pristine root file system; made if need be."""
    path = os.path.join(cache_dir('roots'), 'dkms-%s-%s' % (SUITE, _key()))
    with lock('root-dkms-' + SUITE):
        if not os.path.isdir(path):
            _make(path)
    return path


def _make(path):
    say('making a Debian %s with DKMS, kernel and systemd (600 MB, about '
        'two minutes, once)' % SUITE)
    keep = cache_dir('debootstrap-' + SUITE)
    with building(path) as tmp:
        p = run(['nice', 'debootstrap', '--variant=minbase',
                 '--cache-dir=' + keep, '--keyring=' + debs.KEYRING,
                 '--include=' + ','.join(PACKAGES), SUITE, tmp,
                 debs.mirrors()['main']], timeout=1200, check=False)
        if p.returncode:
            log = os.path.join(tmp, 'debootstrap/debootstrap.log')
            more = open(log).read()[-1500:] if os.path.exists(log) else ''
            raise LabError('debootstrap %s failed:\n%s\n%s' % (
                SUITE, p.stdout[-1500:], more))
        for junk in JUNK:
            shutil.rmtree(os.path.join(tmp, junk), ignore_errors=True)
    shutil.rmtree(keep)


def private_mounts():
    """From here on this process's mounts are seen by it and its children
    alone, and end with them. Call it early, from the main thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.getuid() != 0 or libc.unshare(CLONE_NEWNS):
        raise LabError('a mount namespace of its own needs root')
    run(['mount', '--make-rprivate', '/'])


class Copy:
    """A changeable copy of base() at .root; needs private_mounts()."""

    def __init__(self, tmp):
        self.lower = base()
        top = os.path.join(tmp, 'copy')
        os.mkdir(top)
        # In memory: an overlay's upper layer must not be on an overlay, and
        # in a container everything else may be one.
        run(['mount', '-t', 'tmpfs', '-o', 'mode=755', 'vmportal-lab', top])
        # Before the directory is removed, which must not descend into it.
        atexit.register(run, ['umount', '-R', '-l', top], check=False)
        self.upper, work, self.root = (os.path.join(top, d) for d in
                                       ('upper', 'work', 'root'))
        for d in (self.upper, work, self.root):
            os.mkdir(d)
        run(['mount', '-t', 'overlay', '-o', 'lowerdir=%s,upperdir=%s,'
             'workdir=%s' % (self.lower, self.upper, work), 'overlay',
             self.root])
        run(['mount', '-t', 'proc', 'proc', self.root + '/proc'])

    @property
    def release(self):
        """The kernel in it: what uname -r will say once it runs."""
        boot = os.listdir(os.path.join(self.lower, 'boot'))
        found = sorted(f for f in boot if f.startswith('vmlinuz-'))
        return found[-1][len('vmlinuz-'):]

    def path(self, name):
        return os.path.join(self.root, name.lstrip('/'))

    def exists(self, name):
        return os.path.lexists(self.path(name))

    def read(self, name):
        with open(self.path(name), errors='replace') as f:
            return f.read()

    def write(self, name, text, mode=0o644):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w') as f:
            f.write(text)
        os.chmod(path, mode)

    def bind(self, source, name):
        """Show a directory of this machine inside."""
        path = self.path(name)
        os.makedirs(path, exist_ok=True)
        run(['mount', '--bind', source, path])

    def unbind(self, name):
        run(['umount', self.path(name)])
        os.rmdir(self.path(name))

    def sh(self, script, timeout=300, check=True):
        """Run a script inside; returns the process with its output."""
        return run(['chroot', self.root, '/usr/bin/env', '-i',
                    'PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'LC_ALL=C',
                    'HOME=/root', 'sh', '-e', '-c', script],
                   timeout=timeout, check=check)

    def changes(self):
        """Names of all files that are new or changed, or were deleted."""
        found = set()
        for d, dirs, files in os.walk(self.upper):
            inside = os.path.relpath(d, self.upper)
            found |= {os.path.normpath(os.path.join('/', inside, f))
                      for f in files}
        return found

    def image(self, path, megabytes=1200):
        """Write the copy as an ext4 file system to path."""
        run(['umount', self.root + '/proc'])
        run(['mke2fs', '-q', '-F', '-t', 'ext4', '-O', '^has_journal',
             '-d', self.root, path, '%dM' % megabytes])
        run(['mount', '-t', 'proc', 'proc', self.root + '/proc'])

    def boot_files(self):
        """Paths of kernel and initramfs, as Debian's tools made them."""
        return (os.path.join(self.lower, 'boot/vmlinuz-' + self.release),
                os.path.join(self.lower, 'boot/initrd.img-' + self.release))

    def report_by(self, script, unit):
        """Install a script that reports, and the unit that runs it."""
        self.write('/usr/local/sbin/vmportal-report', script + END, 0o755)
        self.write('/etc/systemd/system/vmportal-report.service', unit)
        self.write('/etc/fstab', '/dev/vda / ext4 rw 0 0\n')

    def boot(self, image, devices=(), memory='512M', cmdline=''):
        """Boot the image, which is not changed: (report as a dict, log lines).
        LabError unless the report has an end."""
        kernel, initrd = self.boot_files()
        binary, extra = qemu.find('amd64')
        base = os.path.join(qemu.workdir(), 'boot-%d' % time.time_ns())
        os.mkdir(base)
        console = os.path.join(base, 'console.log')
        argv = [binary] + extra + qemu.accel('amd64') + [
            '-M', 'pc', '-m', memory, '-nodefaults', '-no-user-config', '-display', 'none',
            '-no-reboot', '-kernel', kernel, '-initrd', initrd,
            '-append', 'root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 '
            'panic=-1 panic_on_warn=1 mitigations=off ' + cmdline,
            '-drive', 'if=virtio,format=raw,cache=unsafe,snapshot=on,file=' + image,
            '-serial', 'file:' + console, '-serial', 'stdio'] + list(devices)
        with open(os.path.join(base, 'qemu.log'), 'w+') as errors:
            p = qemu.spawn(argv, stdout=subprocess.PIPE, stderr=errors)
            report, log, ended = _listen(p.stdout)
            code = qemu.stop(p, 20 if ended else 0)
            if not ended:
                errors.seek(0)
                raise LabError('the system did not report to its end (QEMU %s)\n%s\n%s\n'
                               '-- console:\n%s' % (
                                   code, report, errors.read()[-1000:],
                                   open(console, errors='replace').read()[-3000:]))
        return report, log


def _listen(pipe):
    """Read the report until its end or the time's: (report, log, whether it ended)."""
    report, log, buffer = {}, [], b''
    end = time.monotonic() + BOOT_TIMEOUT
    while time.monotonic() < end:
        if not select.select([pipe], [], [], 1)[0]:
            continue
        data = os.read(pipe.fileno(), 65536)
        if not data:
            break
        *lines, buffer = (buffer + data).split(b'\n')
        for line in lines:
            text = line.decode(errors='replace').strip().rstrip('|')
            key, _, value = text.partition(' ')
            if key == 'end':
                return report, log, True
            if key == 'log':
                log.append(value)
                continue
            say('guest: ' + text)
            report[key] = value
    return report, log, False
