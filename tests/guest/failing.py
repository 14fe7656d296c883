#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""failing.py [KERNEL]: each allocation of loading, probing and using fails once.

On the debug kernel (default), whose KASAN, lockdep and kmemleak judge what the
failures leave behind; elsewhere there is nothing that injects them, and it skips.
Three minutes.
"""
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, 'tests', 'vm'))
from lab import suite  # noqa: E402
from lab.portal import Portald  # noqa: E402
from lab.tap import Tap  # noqa: E402

# A failed vmalloc() says so with a call trace, and the kernel's own interrupt code
# removes files of /proc/irq that it could not make; anything else is ours.
REAL = re.compile(r'BUG|WARNING:(?!.* at remove_proc_entry\+)|KASAN:|possible |refcount|'
                  r'use-after|lock held')


def main(t):
    k = suite.kernel('debug')
    server = Portald(size='4M', vectors=4)
    with suite.guest('a', k, suite.initrd(k, programs=True), server.doorbell(),
                     cmdline='panic_on_warn=0') as g:
        g.run('modprobe portal')
        path = g.run('find /lib/modules -name portal_loopback.ko').strip()
        g.tap(t, 'failing module %s "size=64K vectors=2"' % path, timeout=300)
        g.run('modprobe portal_ivshmem; modprobe portal_loopback')
        g.tap(t, 'failing file /dev/portal0', name='failing file, ivshmem')
        g.tap(t, 'failing file /dev/portal1', name='failing file, loopback')
        g.tap(t, 'failing managed /dev/portal1', timeout=300)
        address = g.run("sed -n 's/^pci-//p' /sys/class/portal/portal*/identity").strip()
        g.run('echo %s > /sys/bus/pci/drivers/portal_ivshmem/unbind' % address)
        g.tap(t, 'failing bind ' + address, timeout=300)
        bad = [line for line in g.dmesg().splitlines() if REAL.search(line)]
        t.ok(not bad, 'nothing but failed allocations in the log', '\n'.join(bad))
        g.run('dmesg -c > /dev/null')
        g.finish(t)
    server.stop()


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
