#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Each checker of the debug kernel catches a seeded bug, and the lab sees it.

Without this, a run on the debug kernel that finds nothing would mean nothing.
Lock checks come first: lockdep is silent after KASAN's first report.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from lab import build, qemu  # noqa: E402
from lab.debugkernel import DebugKernel  # noqa: E402
from lab.guest import Guest  # noqa: E402
from lab.initramfs import Initramfs  # noqa: E402
from lab.tap import Tap  # noqa: E402

BUGS = [
    ('abba', 'lockdep', 'possible circular locking dependency'),
    ('sleep', 'the atomic-sleep check', 'scheduling while atomic|'
     'sleeping function called from invalid context'),
    ('shift', 'UBSAN', 'UBSAN: shift-out-of-bounds'),
    ('oob', 'KASAN', 'KASAN: slab-out-of-bounds'),
    ('uaf', 'KASAN', 'KASAN: slab-use-after-free'),
]


def main(t):
    k = DebugKernel()
    fs = Initramfs(k)
    fs.modules(build.modules(k, top=HERE + '/seeded', parts=['.'],
                             target=None))
    initrd = qemu.workdir() + '/initrd'
    fs.write(initrd)
    with Guest('seeded', k, initrd, memory='512M', slow=k.slow,
               cmdline='panic_on_warn=0 kasan_multi_shot') as g:
        g.run('modprobe seeded')
        bad = g.bad_lines(g.dmesg())
        t.ok(not bad, 'the log holds no complaint before a bug is seeded',
             '\n'.join(bad))
        for bug, checker, report in BUGS:
            before = len(g.dmesg())
            g.run('echo %s > /sys/kernel/debug/seeded/bug' % bug)
            new = g.dmesg()[before:]
            seen = g.call("dmesg | grep -qE '%s'" % report)[0] == 0
            t.ok(seen and g.bad_lines(new),
                 '%s catches "%s", and the lab sees it' % (checker, bug),
                 new[-2000:])
        g.run('echo clear > /sys/kernel/debug/kmemleak')
        g.run('echo leak > /sys/kernel/debug/seeded/bug')
        g.run('for i in 1 2; do echo scan > /sys/kernel/debug/kmemleak; '
              'sleep 6; done', 120)
        leaks = g.run('cat /sys/kernel/debug/kmemleak')
        t.ok('bug_leak' in leaks, 'kmemleak catches "leak"', leaks[:2000])


if __name__ == '__main__':
    with Tap(len(BUGS) + 2) as tap:
        main(tap)
