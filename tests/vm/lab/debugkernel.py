# SPDX-License-Identifier: MIT
"""The debug kernel: Debian's linux-source with debug.config, in the cache.

Debian ships no kernel with KASAN, lockdep, kmemleak and UBSAN. It takes ten
minutes of two cores once; afterwards it is found by version and configuration.
"""
import glob
import hashlib
import os
import re
import shutil

from . import debs
from .cache import LabError, ROOT, building, cache_dir, lock, run, say

CONFIG = os.path.join(ROOT, 'tests', 'vm', 'debug.config')
SOURCE = 'linux-source-6.12'

# What the checkers cannot do without: an option that is renamed or loses a
# dependency vanishes without a word, and every later test would pass for it.
MUST_HAVE = ['KASAN', 'PROVE_LOCKING', 'DEBUG_KMEMLEAK', 'UBSAN_BOUNDS',
             'DEBUG_ATOMIC_SLEEP', 'X86_PAT', 'PCI_MSI', 'IA32_EMULATION',
             'MODULE_UNLOAD', 'HOTPLUG_PCI_ACPI', 'UIO_PCI_GENERIC',
             'USERFAULTFD', 'IO_STRICT_DEVMEM', 'FAILSLAB', 'KPROBES',
             'VIRTIO_PMEM', 'BLK_DEV_PMEM', 'HYPERV', 'UIO_HV_GENERIC',
             'HIBERNATION', 'MMU_NOTIFIER']


def _prepare(tree, jobs):
    make = ['nice', '-n', '19', 'make', '-s', '-j%d' % jobs, 'CC=gcc-12',
            'HOSTCC=gcc-12', 'KBUILD_BUILD_TIMESTAMP=@0']
    run(make + ['allnoconfig', 'KCONFIG_ALLCONFIG=' + CONFIG], cwd=tree)
    have = open(os.path.join(tree, '.config')).read()
    lost = [o for o in MUST_HAVE
            if not re.search(r'(?m)^CONFIG_%s=[ym]' % o, have)]
    if lost:
        raise LabError('debug.config: not set by this kernel: ' +
                       ' '.join(lost))
    return make


def build(jobs=None):
    """Return the directory of the built tree; builds it if need be."""
    jobs = jobs or os.cpu_count() or 1
    known = glob.glob(os.path.join(cache_dir('debug-kernel'), '*', 'built'))
    key = hashlib.sha256(open(CONFIG, 'rb').read()).hexdigest()[:12]
    # Any version that was built with this configuration is as good.
    for stamp in known:
        if os.path.dirname(stamp).endswith(key):
            return os.path.dirname(stamp)
    version = debs.show(SOURCE)
    if not version:
        raise LabError('Debian has no package ' + SOURCE)
    name = '%s-%s' % (version[0]['Version'].replace('~', '-'), key)
    path = os.path.join(cache_dir('debug-kernel'), name)
    with lock('debug-kernel', timeout=3600):
        if os.path.exists(os.path.join(path, 'built')):
            return path
        deb = debs.download(SOURCE)
        # Of older configurations one is kept: who has another tree checked
        # out beside this one would else build in turns with it.
        for old in sorted(known, key=os.path.getmtime)[:-1]:
            shutil.rmtree(os.path.dirname(old))
        with building(path) as tmp:
            say('unpacking ' + os.path.basename(deb))
            debs.unpack(deb, tmp + '/deb')
            tar = glob.glob(tmp + '/deb/usr/src/*.tar.xz')[0]
            run(['tar', '-C', tmp, '--strip-components=1', '-xf', tar])
            shutil.rmtree(tmp + '/deb')
            _prepare(tmp, jobs)
        # Absolute paths get into the objects: build under the final name.
        make = _prepare(path, jobs)
        say('building the debug kernel (about 10 minutes of two cores, once)')
        run(make + ['bzImage', 'modules'], cwd=path, timeout=3600)
        run(make + ['modules_prepare'], cwd=path)
        with open(os.path.join(path, 'built'), 'w'):
            pass
    say('the debug kernel is built')
    return path


class DebugKernel:
    """Looks like kernels.Kernel to the rest of the lab."""
    arch, flavour, gcc, root = 'amd64', 'debug', 'gcc-12', None
    slow = 4        # its guests' timeouts are stretched by this

    def __init__(self):
        self.dir = self.headers = build()
        with open(self.dir + '/include/config/kernel.release') as f:
            self.release = self.abi = f.read().strip()
        self.image = self.dir + '/arch/x86/boot/bzImage'
        self.version = (6, 12)
        self.modules = '%s/installed/lib/modules/%s' % (self.dir, self.release)
        with lock('debug-kernel'):
            if not os.path.exists(self.modules + '/modules.dep'):
                run(['make', '-s', 'CC=gcc-12', 'INSTALL_MOD_PATH=%s/installed'
                     % self.dir, 'modules_install'], cwd=self.dir)

    def config(self, option):
        with open(self.dir + '/.config') as f:
            m = re.search(r'(?m)^CONFIG_%s=(.*)$' % option, f.read())
        return m and m.group(1)
