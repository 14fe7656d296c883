#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The modules build against every supported kernel, W=1, without a warning."""
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import build, kernels  # noqa: E402
from lab.cache import LabError, run  # noqa: E402
from lab.tap import Tap  # noqa: E402

MODULES = ['portal.ko', 'portal_ivshmem.ko', 'portal_loopback.ko',
           'portal_pmem.ko']
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


def main(t):
    seeded(t, kernels.find('6.1'))
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
