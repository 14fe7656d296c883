# SPDX-License-Identifier: MIT
"""Builds a guest's file system: busybox, the agent as /init, files, modules.

    fs = Initramfs(kernel)
    fs.modules(build.modules(kernel))       # with dependencies; modprobe works
    fs.program('/path/to/portalctl')        # with its shared libraries
    fs.file('/etc/x', b'text')
    fs.write('/some/where/initrd.gz')
"""
import glob
import gzip
import lzma
import os
import re
import shutil
import stat
import subprocess
import tempfile

from . import build, debs
from .cache import LabError, ROOT, cache_dir, lock, run

AGENT = os.path.join(ROOT, 'tests', 'vm', 'agent.c')


def busybox(arch):
    """The path of a static busybox for a guest of this architecture."""
    if arch == 'amd64' and os.path.exists('/bin/busybox'):
        out = subprocess.run(['ldd', '/bin/busybox'], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if 'not a dynamic' in out.stdout or 'statically' in out.stdout:
            return '/bin/busybox'
    where = cache_dir('busybox-' + arch)
    path = os.path.join(where, 'bin', 'busybox')
    with lock('busybox-' + arch):
        if not os.path.exists(path):
            package = 'busybox-static' + (':arm64' if arch == 'arm64' else '')
            # Of bookworm: the only suite that is indexed for arm64 too.
            version = [s['Version'] for s in debs.show(package)
                       if s['Version'].startswith('1:1.35')]
            debs.unpack(debs.download(package, version[0] if version else None),
                        where)
    # usr-merged packages keep it elsewhere
    if not os.path.exists(path):
        path = os.path.join(where, 'usr', 'bin', 'busybox')
    return path


APPLETS = '''[ ash awk base64 basename blockdev cat chgrp chmod chown chroot
clear cmp cp cut date dd devmem df diff dirname dmesg du echo ed egrep env expr
false fgrep find fold free fuser getopt grep gunzip gzip head hexdump hostname
id insmod ionice kill killall less ln ls lsmod lspci lsscsi md5sum mdev mkdir
mkfifo mknod mktemp modinfo modprobe more mount mountpoint mv nice nohup od
pgrep pidof pkill poweroff printf ps pwd readlink realpath reboot renice reset
rev rm rmdir rmmod sed seq setsid sh sha256sum sleep sort stat strings stty
sync sysctl tail tar tee test time timeout top touch tr true truncate tty umount
uname uniq unlink uptime usleep vi watch wc which xargs yes zcat'''.split()


class Initramfs:
    """Collects files in memory; write() makes the cpio archive of them."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.entries = {}       # path without leading / -> (mode, data, rdev)
        for d in ('bin sbin dev proc sys tmp run etc root lib lib64 usr/bin '
                  'usr/sbin usr/lib var').split():
            self.directory(d)
        self.entries['dev/console'] = (stat.S_IFCHR | 0o600, b'', (5, 1))
        self.entries['dev/null'] = (stat.S_IFCHR | 0o666, b'', (1, 3))
        arch = kernel.arch
        self.copy(busybox(arch), '/bin/busybox', 0o755)
        for name in APPLETS:
            self.symlink('/bin/' + name, 'busybox')
        self.copy(build.program(AGENT, arch), '/init', 0o755)
        self.file('/etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n'
                  'nobody:x:65534:65534:nobody:/:/bin/sh\n')
        self.file('/etc/group', 'root:x:0:\nnogroup:x:65534:\n')

    def directory(self, path, mode=0o755):
        path = path.strip('/')
        while path and path not in self.entries:
            self.entries[path] = (stat.S_IFDIR | mode, b'', (0, 0))
            path = os.path.dirname(path)

    def file(self, path, data, mode=0o644):
        if isinstance(data, str):
            data = data.encode()
        self.directory(os.path.dirname(path))
        self.entries[path.strip('/')] = (stat.S_IFREG | mode, data, (0, 0))

    def copy(self, source, path, mode=None):
        with open(source, 'rb') as f:
            data = f.read()
        self.file(path, data, mode or stat.S_IMODE(os.stat(source).st_mode))

    def symlink(self, path, target):
        self.directory(os.path.dirname(path))
        self.entries[path.strip('/')] = (stat.S_IFLNK | 0o777,
                                         target.encode(), (0, 0))

    def program(self, source, path=None, libraries=()):
        """A program and the shared libraries it is linked with. libraries:
        directories to look in first (a build tree)."""
        path = path or '/bin/' + os.path.basename(source)
        self.copy(source, path, 0o755)
        env = dict(os.environ, LC_ALL='C')
        if libraries:
            env['LD_LIBRARY_PATH'] = ':'.join(libraries)
        out = subprocess.run(['ldd', source], text=True, env=env,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if 'not found' in out.stdout:
            raise LabError('%s: %s' % (source, out.stdout))
        for name, lib in re.findall(r'(\S+) => (/\S+)', out.stdout):
            self.copy(os.path.realpath(lib), '/lib/' + name, 0o755)
        for lib in re.findall(r'(?m)^\s*(/\S+/ld-linux\S+)', out.stdout):
            self.copy(os.path.realpath(lib), lib, 0o755)

    def modules(self, own=(), names=()):
        """Put own .ko files and the kernel's modules of these names into
        /lib/modules, with all they depend on, so that modprobe works."""
        k = self.kernel
        tree = _module_tree(k)
        base = '/lib/modules/%s' % k.release
        with tempfile.TemporaryDirectory(prefix='vmportal-') as tmp:
            there = tmp + base
            os.makedirs(there + '/kernel')
            os.makedirs(there + '/extra')
            for path in tree.closure(list(names) + tree.needed_by(own)):
                to = os.path.join(there, 'kernel', _plain_name(path))
                with open(to, 'wb') as f:
                    f.write(_module_bytes(path))
            for path in own:
                shutil.copy(path, there + '/extra/')
            for f in glob.glob(tree.dir + '/modules.builtin*') + \
                    glob.glob(tree.dir + '/modules.order'):
                shutil.copy(f, there)
            run(['depmod', '-b', tmp, k.release])
            for d, _, files in os.walk(there):
                for f in files:
                    if not f.endswith('.bin'):
                        self.copy(os.path.join(d, f),
                                  os.path.join(d, f)[len(tmp):], 0o644)

    def write(self, path):
        with gzip.GzipFile(path, 'wb', compresslevel=1, mtime=0) as f:
            for n, (name, (mode, data, rdev)) in enumerate(
                    sorted(self.entries.items())):
                _cpio(f, n + 1, name, mode, data, rdev)
            _cpio(f, 0, 'TRAILER!!!', 0, b'', (0, 0))


def _cpio(f, ino, name, mode, data, rdev):
    """One record of a "newc" archive."""
    raw = name.encode() + b'\0'
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (ino, mode, 0, 0, links, 0, len(data), 0, 0, rdev[0], rdev[1],
              len(raw), 0)
    head = b'070701' + b''.join(b'%08X' % x for x in fields) + raw
    f.write(head + b'\0' * (-len(head) % 4))
    f.write(data + b'\0' * (-len(data) % 4))


def _plain_name(path):
    return re.sub(r'\.(xz|gz|zst)$', '', os.path.basename(path))


def _module_bytes(path):
    opener = {'.xz': lzma.open, '.gz': gzip.open}.get(
        os.path.splitext(path)[1], open)
    if path.endswith('.zst'):
        raise LabError('%s: zstd modules are not supported' % path)
    with opener(path, 'rb') as f:
        return f.read()


class _module_tree:
    """A kernel's modules.dep."""

    def __init__(self, kernel):
        self.dir = kernel.modules
        self.deps = {}
        self.paths = {}
        with open(os.path.join(self.dir, 'modules.dep')) as f:
            for line in f:
                path, _, deps = line.strip().partition(':')
                self.deps[path] = deps.split()
                name = _plain_name(path)[:-3].replace('-', '_')
                self.paths[name] = path

    def closure(self, names):
        """Absolute paths of the named modules and all they depend on. A name
        that is not there is built in, or there is nothing to load."""
        todo = [self.paths[n.replace('-', '_')] for n in names
                if n.replace('-', '_') in self.paths]
        seen = []
        while todo:
            path = todo.pop()
            if path not in seen:
                seen.append(path)
                todo += self.deps[path]
        return [os.path.join(self.dir, p) for p in seen]

    def needed_by(self, own):
        """Names of the kernel's modules that own .ko files depend on."""
        needed = []
        for path in own:
            p = run(['modinfo', '-F', 'depends', path])
            needed += [n for n in p.stdout.strip().split(',') if n]
        return needed
