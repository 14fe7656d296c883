#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""plain.py [KERNEL]: the programs of tests/guest over an ivshmem-plain device:
memory without doorbells. (Over loopback: tests/guest/loopback.py.)"""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import suite  # noqa: E402
from lab.portal import Region, userspace  # noqa: E402
from lab.tap import Tap  # noqa: E402

# A debug kernel does a fifth of the work in a second.
CHURN_S = 40 if sys.argv[1:] == ['debug'] else 8
SLOT = '0000:00:04.0'
DRIVER = '/sys/bus/pci/drivers/portal_ivshmem'
IVP_GO = 'echo %s > %s/unbind' % (SLOT, DRIVER)
IVP_BACK = 'echo %s > %s/bind' % (SLOT, DRIVER)

PLAIN = [
    ('ioctls', 'ioctls /dev/portal0'),
    ('mapping', 'mapping /dev/portal0 -'),
    ('window', 'window /dev/portal0'),
    ('widen', 'widen /dev/portal0'),
    ('lent', 'lent /dev/portal0'),
    ('sandbox', 'sandbox /dev/portal0'),
    ('revoke', "revoke /dev/portal0 '%s' '%s'" % (IVP_GO, IVP_BACK)),
    ('swarm', "swarm /dev/portal0 '%s' '%s'" % (IVP_GO, IVP_BACK)),
    ('amid', "amid /dev/portal0 '%s' '%s'" % (IVP_GO, IVP_BACK)),
    ('churn', "churn %d '%s' '%s' /dev/portal0" % (CHURN_S, IVP_GO, IVP_BACK)),
]


def run_all(t, g, programs):
    g.run('modprobe portal_ivshmem')
    for name, command in programs:
        g.tap(t, command, 150, name)
        bad = g.bad_lines(g.dmesg())
        if bad:
            t.ok(False, '%s: the kernel complains' % name, '\n'.join(bad[:40]))
            raise SystemExit(1)


def again(g):
    g.run('%s; %s' % (IVP_GO, IVP_BACK))


def untouched(t, g, region):
    """A kernel stores nothing in a raw region, whether it comes or goes, nor in a damaged one."""
    ctl = os.path.join(userspace(), 'bin', 'portalctl')
    pattern = (bytes(range(1, 252)) * (region.size // 251 + 1))[:region.size]
    for mode in ('raw', 'damaged'):
        g.run('rmmod portal_ivshmem')
        region.write(0, pattern)
        if mode == 'damaged':
            subprocess.run([ctl, 'format', '-ff', 'file:' + region.path], check=True,
                           stdout=subprocess.DEVNULL)
            region.write(1000, b'x')
        kept = region.read(0, region.size)
        g.run('modprobe portal_ivshmem')
        g.tap(t, 'managed --is %s /dev/portal0' % mode, name='filled from outside: ' + mode)
        g.run('sleep 2; rmmod portal_ivshmem')
        t.ok(region.read(0, region.size) == kept, '%s: loaded, looked at, unloaded: not a byte is written' % mode)
        g.run('modprobe portal_ivshmem')
    region.write(0, bytes(region.size))
    again(g)


def managed(t, g, region):
    """The mode is what the host's bytes say when the device is probed, and stays."""
    ctl = os.path.join(userspace(), 'bin', 'portalctl')
    uri = 'file:' + region.path
    region.write(0, bytes(region.size))
    again(g)
    g.tap(t, 'managed /dev/portal0', name='the mode of a raw portal')
    # QEMU has it mapped, and so it is refused unless forced.
    t.equal(subprocess.run([ctl, 'format', uri], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL).returncode, 6,
            'format from the host, under a running guest, is refused')
    subprocess.run([ctl, 'format', '-ff', uri], check=True, stdout=subprocess.DEVNULL)
    g.tap(t, 'managed --is raw /dev/portal0', name='formatted later: still raw')
    again(g)
    g.tap(t, 'managed --is managed /dev/portal0', name='probed anew: managed')
    region.write(0, bytes(8))
    g.tap(t, 'managed --is managed /dev/portal0', name='without its magic: still managed')
    region.write(0, b'VMPORTAL')
    region.write(1000, b'x')
    again(g)
    g.tap(t, 'managed --is damaged /dev/portal0', name='damaged when it is probed')
    t.equal(g.run('cat /sys/class/portal/portal0/mode').strip(), 'damaged', 'sysfs says so')
    region.write(0, bytes(region.size))
    again(g)
    g.tap(t, 'managed --is raw /dev/portal0', name='no superblock: raw')


def main(t):
    k = suite.kernel()
    rd = suite.initrd(k, programs=True, names=['loop', 'udmabuf'])
    region = Region(4 << 20)
    with suite.guest('one', k, rd, region.plain(addr='4'),
                     memory='512M') as g:
        run_all(t, g, PLAIN)
        untouched(t, g, region)
        managed(t, g, region)
        g.finish(t)


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
