# SPDX-License-Identifier: MIT
"""Portals for guests: regions, ivshmem devices, the guard, our user space."""
import hashlib
import os
import subprocess

from . import build, qemu
from .cache import LabError, ROOT, cache_dir, lock, run, say

GUARD = os.path.join(ROOT, 'tests', 'vm', 'guard.c')
GUARD_ADDS = 1000000


class Region:
    """Memory of the host that ivshmem-plain devices show: a memfd, which
    cannot outlive this process."""

    def __init__(self, size, name='portal'):
        self.size = size
        self.fd = qemu.memfd(name, size)
        # For QEMU and other processes; theirs to open while we live.
        self.path = '/proc/%d/fd/%d' % (os.getpid(), self.fd)

    def backend(self, ident):
        return ['-object', 'memory-backend-file,id=%s,mem-path=%s,size=%d,'
                'share=on' % (ident, self.path, self.size)]

    def plain(self, ident='iv0', **options):
        """QEMU arguments for an ivshmem-plain device of this region."""
        more = ''.join(',%s=%s' % (k.replace('_', '-'), v)
                       for k, v in options.items())
        return self.backend('mem-' + ident) + [
            '-device', 'ivshmem-plain,id=%s,memdev=mem-%s%s' % (
                ident, ident, more)]

    def read(self, offset, length):
        return os.pread(self.fd, length, offset)

    def write(self, offset, data):
        os.pwrite(self.fd, data, offset)

    def close(self):
        os.close(self.fd)


def guard_program(arch='amd64'):
    return build.program(GUARD, arch)


def guard(t, guests, device='/dev/portal0', path=None, offset=None, size=None,
          clear=None):
    """Test point: locked adds between these guests, and the host if path (a
    file of the same memory) is given, come to the right sum.

    The guests need guard_program() as /bin/guard. offset: a page of the
    region which is zero and nobody's; by default its last 64 KiB of size.
    """
    if offset is None:
        offset = size - 65536
    parties = len(guests) + (1 if path else 0)
    if clear:
        clear(offset, bytes(4096))
    args = 'add %s %d %d %d' % (device, offset, parties, GUARD_ADDS)
    jobs = [g.start('guard ' + args) for g in guests]
    host = None
    if path:
        host = qemu.spawn([guard_program(), 'add', path, str(offset),
                           str(parties), str(GUARD_ADDS)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    said, good = [], True
    for g, j in zip(guests, jobs):
        good &= j.wait(120) == 0
        said.append('%s: %s' % (g.name, j.text().strip()))
    if host:
        out, _ = host.communicate(timeout=120)
        good &= host.returncode == 0
        said.append('host: ' + out.strip())
    return t.ok(good, 'guard: %d locked adds by each of %d parties add up' % (
        GUARD_ADDS, parties), '\n'.join(said))


def of_this_tree(name):
    """What make builds outside the tree is kept for each tree apart, for make compares
    times, not contents."""
    return '%s-%s' % (name, hashlib.sha256(ROOT.encode()).hexdigest()[:8])


def userspace(flags=()):
    """The directory of our user space, built outside the tree."""
    name = of_this_tree('user')
    out = cache_dir(name)
    with lock(name):
        run(['make', '-s', '-j2', '-C', os.path.join(ROOT, 'userspace'),
             'O=' + out, 'all'] + list(flags), timeout=600)
    return out


def portalctl_static():
    """A portalctl that needs no library."""
    return os.path.join(userspace(['portalctl-static']), 'bin', 'portalctl.static')


def interrupts(guest):
    """Interrupts that portals' devices raised in a guest (of one processor) so far."""
    rows = [row for row in guest.run('cat /proc/interrupts').splitlines() if 'portal' in row]
    return sum(int(row.split(':', 1)[1].split()[0]) for row in rows)


class Portald:
    """A portald that serves one region to guests and host processes."""

    def __init__(self, size='16M', vectors=4, name='lab', more=()):
        self.name = name
        self.out = userspace()
        self.dir = os.path.join(qemu.workdir(), 'portald-%s-%d' % (
            name, len(os.listdir(qemu.workdir()))))
        os.mkdir(self.dir)
        self.args = ['--name', name, '--size', size,
                     '--vectors', str(vectors), '--socket-dir', self.dir] + list(more)
        self.vectors = vectors
        self.log = os.path.join(self.dir, 'log')
        self.process = None
        self.start()

    @property
    def guest_socket(self):
        return os.path.join(self.dir, self.name + '.ivshmem')

    @property
    def uri(self):
        return 'unix:%s/%s.sock' % (self.dir, self.name)

    def start(self):
        for path in (self.guest_socket, self.uri[5:]):
            if os.path.exists(path):
                os.unlink(path)
        with open(self.log, 'a') as log:
            before = log.tell()
            self.process = qemu.spawn([self.binary('portald')] + self.args,
                                      stdout=log, stderr=log)
        # Its sockets are there before its region is.
        qemu.wait_until(lambda: ' serving ' in self.said(before) or
                        self.process.poll() is not None, 20, 'portald')
        if self.process.poll() is not None:
            raise LabError('portald ended: ' + self.said()[-2000:])
        say('portald serves ' + self.name)

    def said(self, before=0):
        """Its log, from byte @before on."""
        with open(self.log) as log:
            log.seek(before)
            return log.read()

    def binary(self, name):
        for base in (self.out, os.path.join(self.out, 'bin')):
            if os.path.exists(os.path.join(base, name)):
                return os.path.join(base, name)
        raise LabError('user space has no ' + name)

    def doorbell(self, ident='iv0'):
        """QEMU arguments for an ivshmem-doorbell device of this region."""
        return ['-chardev', 'socket,id=ch-%s,path=%s' % (
            ident, self.guest_socket),
            '-device', 'ivshmem-doorbell,id=%s,chardev=ch-%s,vectors=%d' % (
                ident, ident, self.vectors)]

    def kill(self):
        """As a crash would end it."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        return qemu.stop(self.process, 10)
