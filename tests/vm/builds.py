#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The modules build against every supported kernel, W=1, without a warning."""
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import build, kernels  # noqa: E402
from lab.cache import LabError, ROOT, run  # noqa: E402
from lab.tap import Tap  # noqa: E402

MODULES = ['portal.ko', 'portal_ivshmem.ko', 'portal_loopback.ko',
           'portal_pmem.ko', 'portal_vmbus.ko', 'portal_vmbus_line.ko']
WARNS = '''#include <linux/module.h>
static int nobody_calls_this(void) { return 0; }
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("a warning");
'''


def seeded(t, k):
    """A warning in the sources must fail the build."""
    with tempfile.TemporaryDirectory(prefix='vmportal-') as d:
        with open(d + '/Kbuild', 'w') as f:
            f.write('obj-m := warns.o\n')
        with open(d + '/warns.c', 'w') as f:
            f.write(WARNS)
        try:
            build.modules(k, top=d, parts=['.'], target=None)
            t.ok(False, 'a seeded warning fails the build')
        except LabError as e:
            t.ok('nobody_calls_this' in str(e),
                 'a seeded warning fails the build', e)


def upgraded(t, k):
    """Headers that are replaced in place, by older files, as packages do it; and a
    probe whose answer is wrong."""
    with tempfile.TemporaryDirectory(prefix='vmportal-') as d:
        headers, top = d + '/headers', d + '/top'
        shutil.copytree(k.headers, headers, symlinks=True)
        for name in os.listdir(headers):    # relative ones lead elsewhere now
            link = os.path.join(k.headers, name)
            if os.path.islink(link):
                os.remove(os.path.join(headers, name))
                os.symlink(os.path.realpath(link), os.path.join(headers, name))
        os.mkdir(top)
        for name in build.MODULE_SOURCES:
            run(['cp', '-r', os.path.join(ROOT, name), top])
        variables = [v for v in build.make_vars(k) if not v.startswith('KDIR=')]

        def make(check=True):
            return run(['make', '-C', top, 'modules', 'KDIR=' + headers] + variables,
                       check=check)

        def made():
            return [os.stat(top + '/drivers/' + name).st_mtime_ns
                    for name in ('compat/portal_config.h', 'core/main.o')]

        make()
        first = made()
        make()
        t.equal(made(), first, 'nothing new: nothing is made')
        conf = headers + '/include/generated/autoconf.h'
        with open(conf, 'a') as f:
            f.write('/* another */\n')
        os.utime(conf, (1, 1))
        make()
        t.ok(all(a < b for a, b in zip(first, made())),
             'headers replaced by older files: asked again, and all is made again')
        # A compiler that cannot do one probe.
        with open(d + '/cc', 'w') as f:
            f.write('#!/bin/sh\ncase "$*" in *VIRTIO_RESET_DEVICE.c*) exit 1 ;; esac\n'
                    'exec %s "$@"\n' % k.gcc)
        os.chmod(d + '/cc', 0o755)
        variables = [v for v in variables if not v.startswith('CC=')] + ['CC=' + d + '/cc']
        p = make(check=False)
        t.ok(p.returncode and 'VIRTIO_RESET_DEVICE: the compiler failed' in p.stdout,
             'a compiler that fails is no "no"', p.stdout[-2000:])


def main(t):
    seeded(t, kernels.find('6.1'))
    upgraded(t, kernels.find('6.1'))
    for series in kernels.SERIES:
        try:
            k = kernels.find(series)
            found = build.modules(k)
            names = [os.path.basename(p) for p in found]
            t.equal(sorted(names), MODULES,
                    '%s: all modules build without a warning' % k.release)
            for path in found:
                vermagic = run(['modinfo', '-F', 'vermagic', path]).stdout
                if not vermagic.startswith(k.release + ' '):
                    t.ok(False, path, vermagic)
        except LabError as e:
            t.ok(False, '%s: modules build without a warning' % series, e)


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
