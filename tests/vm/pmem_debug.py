#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""pmem_debug.py: flushes, removal, reset and suspend under KASAN, lockdep, kmemleak and
UBSAN; what has to do with disks in use is in pmem.py."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pmem  # noqa: E402
import pmemlab  # noqa: E402
from lab import suite  # noqa: E402
from lab.tap import Tap  # noqa: E402
from pmemlab import BUS, STOCK  # noqa: E402


def main(t):
    k = suite.kernel('debug')
    rd = suite.initrd(k, programs=True, user=('portalctl',), names=pmemlab.STOCK_MODULES)
    disk, slow = pmemlab.Disk(pmem.SIZE), pmemlab.SlowDisk()
    with slow.preloaded():
        g = pmemlab.guest('debug', k, rd, [disk], memory='768M')
    with g:
        g.run('modprobe portal_pmem; modprobe virtio_pmem; modprobe nd_pmem')
        a = pmemlab.one(pmemlab.device_names(g))
        pci = os.path.basename(os.path.dirname(
            g.run('readlink -f %sdevices/%s' % (BUS, a)).strip()))
        pmem.flushes(t, g, slow, a)
        pmem.gone(t, g, slow, a)
        g.run('echo %s > %sbind' % (a, STOCK))
        t.equal(pmemlab.driver(g, a), 'virtio_pmem', 'virtio_pmem gets it back')
        g.run('echo %s > %sunbind' % (a, STOCK))
        pmem.revocation(t, g, a, pci)
        g.finish(t, pmemlab.UNLOAD)
    pmem.reset(t, k, rd)
    pmem.suspend(t, k, rd)


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
