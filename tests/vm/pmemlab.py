# SPDX-License-Identifier: MIT
"""virtio-pmem devices of guests, and the host's files behind them."""
import contextlib
import os
import tempfile

from lab import qemu, suite
from lab.cache import LabError, run

HERE = os.path.dirname(os.path.abspath(__file__))
BUS = '/sys/bus/virtio/'
OURS = BUS + 'drivers/portal_pmem/'
STOCK = BUS + 'drivers/virtio_pmem/'
# What a stock system loads for the device; what is built in is skipped.
STOCK_MODULES = ('virtio_pci', 'virtio_pmem', 'nd_pmem', 'nd_virtio', 'loop',
                 'dm_mod', 'raid1', 'dax_pmem', 'device_dax', 'kmem')
UNLOAD = ('portal_pmem', 'portal')


class Disk:
    """A file of the host that guests see as virtio-pmem; on a disk, so that a
    flush has something to do. Gone with this process's directory."""

    def __init__(self, size, name='pmem'):
        self.size = size
        fd, self.path = tempfile.mkstemp(prefix=name + '-', dir=qemu.workdir())
        os.ftruncate(fd, size)
        self.fd = fd

    def device(self, ident='pm0', options=''):
        return ['-object', 'memory-backend-file,id=mem-%s,mem-path=%s,size=%d,share=on' % (
                    ident, self.path, self.size),
                '-device', 'virtio-pmem-pci,id=%s,memdev=mem-%s%s' % (ident, ident, options)]

    def read(self, offset, length):
        return os.pread(self.fd, length, offset)

    def write(self, offset, data):
        os.pwrite(self.fd, data, offset)


class Memory:
    """The same, of a region in memory (lab.portal.Region)."""

    def __init__(self, region, **options):
        self.size = region.size
        self.region = region
        self.options = options

    def device(self, ident='pm0', options=''):
        more = options + ''.join(',%s=%s' % o for o in self.options.items())
        return self.region.backend('mem-' + ident) + [
            '-device', 'virtio-pmem-pci,id=%s,memdev=mem-%s%s' % (ident, ident, more)]


class SlowDisk:
    """What QEMU's fsync() does (pmem_fsync.c); in the environment while a guest
    is started."""

    def __init__(self):
        self.library = os.path.join(qemu.workdir(), 'pmem_fsync.so')
        self.order = os.path.join(qemu.workdir(), 'fsync-order')
        if not os.path.exists(self.library):
            run(['gcc', '-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror', '-shared',
                 '-fPIC', '-o', self.library, os.path.join(HERE, 'pmem_fsync.c'), '-ldl'])
        self.say('ok')

    def say(self, order):
        with open(self.order + '.new', 'w') as f:
            f.write(order)
        os.rename(self.order + '.new', self.order)

    def count(self):
        try:
            return os.path.getsize(self.order + '.count')
        except OSError:
            return 0

    @contextlib.contextmanager
    def preloaded(self):
        os.environ['LD_PRELOAD'] = self.library
        os.environ['VMPORTAL_FSYNC'] = self.order
        try:
            yield
        finally:
            del os.environ['LD_PRELOAD'], os.environ['VMPORTAL_FSYNC']


def initrd(k):
    """suite's, with all that may use a disk."""
    return suite.initrd(k, programs=True, user=('portalctl',), names=STOCK_MODULES,
                        system=('/sbin/dmsetup',))


def guest(name, k, rd, disks, more=(), maxmem=None, options='', **kw):
    """A guest with room for the disks: virtio-pmem lies where hot-plugged memory
    would. It is never the guest's RAM."""
    devices = list(more)
    for n, d in enumerate(disks):
        devices += d.device('pm%d' % n, options and ',' + options)
    if not maxmem:
        maxmem = '%dM' % (2048 + sum((d.size >> 20) + 1024 for d in disks))
    memory = '%s,slots=%d,maxmem=%s' % (kw.pop('memory', '256M'), max(2, len(disks)), maxmem)
    return suite.guest(name, k, rd, devices=devices, memory=memory, **kw)


def wide(bits):
    """Arguments for a processor with so many bits of physical address, and page
    tables of 4 levels."""
    argv = qemu.accel()
    at = argv.index('-cpu') + 1
    argv[at] += ',la57=off,phys-bits=%d' % bits
    return argv


def waiting(g, n):
    """Until so many threads wait for the device."""
    qemu.wait_until(lambda: int(g.run("cat /proc/[0-9]*/task/*/stat 2>/dev/null | "
                                      "grep -c ') D ' || true")) >= n,
                    60 * g.slow, '%d callers that wait' % n, every=0.5)


def driver(g, device):
    """Which driver has the device, or ''."""
    status, text = g.call('readlink %sdevices/%s/driver' % (BUS, device))
    return os.path.basename(text.strip()) if not status else ''


def device_names(g):
    """Names of the guest's virtio-pmem devices."""
    found = g.run('for d in %sdevices/*; do '
                  'test "$(cat $d/device)" != 0x001b || echo "${d##*/}"; done; true' % BUS)
    return found.split()


def take(g, device):
    """By hand, as the manual says it."""
    g.run('''set -e
        test ! -e {stock}{dev} || echo {dev} > {stock}unbind
        echo {dev} > {ours}allow
        echo {dev} > {ours}bind'''.format(stock=STOCK, ours=OURS, dev=device))


def give_back(g, device):
    g.run('echo {dev} > {ours}unbind; echo {dev} > {stock}bind'.format(
        stock=STOCK, ours=OURS, dev=device))


def wait_disks(g, *names):
    """Until they are there: the kernel makes them in the background, and who writes to
    /dev/pmem0 before makes a file of that name, which then keeps the node out."""
    for name in names:
        g.run('for i in $(seq 100); do test -b /dev/%s && exit 0; sleep 0.1; done; '
              'ls -l /dev/%s; exit 1' % (name, name))


def one(names):
    if len(names) != 1:
        raise LabError('one virtio-pmem device was expected, there are: %r' % names)
    return names[0]
