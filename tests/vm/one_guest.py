#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""one_guest.py [KERNEL]: the programs of tests/guest, over loopback and over an
ivshmem-plain device, in one guest."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import suite  # noqa: E402
from lab.portal import Region  # noqa: E402
from lab.tap import Tap  # noqa: E402

# A debug kernel does a fifth of the work in a second.
CHURN_S = 40 if sys.argv[1:] == ['debug'] else 8
SLOT = '0000:00:04.0'
DRIVER = '/sys/bus/pci/drivers/portal_ivshmem'
LOOP_GO, LOOP_BACK = 'rmmod portal_loopback', 'modprobe portal_loopback'
IVP_GO = 'echo %s > %s/unbind' % (SLOT, DRIVER)
IVP_BACK = 'echo %s > %s/bind' % (SLOT, DRIVER)

LOOPBACK = [
    ('ioctls', 'ioctls /dev/portal0'),
    ('ioctls32', 'ioctls32 /dev/portal0'),
    ('mapping', 'mapping /dev/portal0 /dev/portal1'),
    ('mapping32', 'mapping32 /dev/portal0 /dev/portal1'),
    ('events', 'events /dev/portal0 /dev/portal1'),
    # It wants zeroes at the beginning: fresh memory.
    ('rings', '%s; %s; rings both /dev/portal0 /dev/portal1' % (LOOP_GO,
                                                               LOOP_BACK)),
    ('revoke', "revoke /dev/portal0 '%s' '%s'" % (LOOP_GO, LOOP_BACK)),
    ('churn', "churn %d '%s' '%s' /dev/portal0 /dev/portal1" % (
        CHURN_S, LOOP_GO, LOOP_BACK)),
]
PLAIN = [
    ('ioctls', 'ioctls /dev/portal0'),
    ('mapping', 'mapping /dev/portal0 -'),
    ('revoke', "revoke /dev/portal0 '%s' '%s'" % (IVP_GO, IVP_BACK)),
    ('churn', "churn %d '%s' '%s' /dev/portal0" % (CHURN_S, IVP_GO, IVP_BACK)),
]


def run_all(t, g, what, programs):
    # portal.ko too: it remembers whose number was which.
    g.run('for m in portal_loopback portal_ivshmem portal; do '
          '! grep -q "^$m " /proc/modules || rmmod $m || exit 1; done; '
          'modprobe portal_%s' % what)
    for name, command in programs:
        g.tap(t, command, 150, '%s: %s' % (what, name))
        bad = g.bad_lines(g.dmesg())
        if bad:
            t.ok(False, '%s: %s: the kernel complains' % (what, name),
                 '\n'.join(bad[:40]))
            raise SystemExit(1)


def main(t):
    k = suite.kernel()
    rd = suite.initrd(k, programs=True)
    region = Region(4 << 20)
    with suite.guest('one', k, rd, region.plain(addr='4'),
                     memory='512M') as g:
        run_all(t, g, 'loopback', LOOPBACK)
        run_all(t, g, 'ivshmem', PLAIN)
        g.finish(t)


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
