#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""vmbus_bench.py [KERNEL]: what VMBus's packets cost, beside uio_hv_generic.

Two devices of the same host, one bound to portal_vmbus, one to uio_hv_generic, and
the same ring code over both: round trips, packets a second, signals per packet, in
windows that take turns. Then bytes a second through the region that GPADLs share, to a
process of the host, beside memcpy(). hv_sock is tried: QEMU's VMBus does not answer it.

Everything is emulated twice over here: the ratios mean something, the numbers do not.
"""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import vmbuslab  # noqa: E402
from lab import kernels, vmbus  # noqa: E402
from lab.tap import Tap  # noqa: E402

SECOND = '5d1c8d6e-0d0e-4b7e-9d6c-2f5f2f6f0b02'
STREAM = 32 << 20
RING = 64 << 10


def bind_uio(g, guid):
    """Away from portal_vmbus; /dev/uio0."""
    g.run('modprobe uio_hv_generic; cd /sys/bus/vmbus/devices/%s; '
          'if [ -e driver ]; then echo %s >driver/unbind; fi; '
          'echo uio_hv_generic >driver_override; '
          'echo %s >/sys/bus/vmbus/drivers/uio_hv_generic/bind; i=0; '
          'while [ ! -c /dev/uio0 ] && [ $i -lt 50 ]; do i=$((i+1)); usleep 100000; done; '
          'test -c /dev/uio0' % (guid, guid, guid))


def region(t, g, l1):
    """Bytes a second through the region, from the guest to a process of the host."""
    recv = l1.start('regionbench recv unix:' + g.socket)
    g.tap(t, 'regionbench send /dev/portal0', 120)
    t.equal(recv.wait(60), 0, 'a stream through the region')


def hv_sock(t, g):
    """Its host is the hypervisor itself, and QEMU's has none: said, not asserted."""
    g.run('modprobe hv_sock')
    g.tap(t, 'regionbench hv_sock', 60)
    g.run('rmmod hv_sock vsock')


def main():
    k = kernels.find(sys.argv[1] if len(sys.argv) > 1 else '6.12')
    rd = vmbuslab.initrd(k, names=['uio_hv_generic', 'hv_sock'])
    with Tap() as t, vmbus.start_l1({'a': (k, rd)}, vmbuslab.on_the_host(True)) as l1, \
            vmbus.VmbusGuest(l1, 'a', more='-device portal-vsp,id=vsp2,instanceid=%s,'
                             'control=/run/b.ctl' % SECOND) as g:
        g.run('modprobe portal_vmbus ring_size=%d region_size=4M' % RING)
        bind_uio(g, SECOND)
        portal = g.run('ls /dev/portal*').split()
        t.equal(len(portal), 1, 'one device is a portal, one is uio')
        g.tap(t, 'vmbusbench %s uio:/dev/uio0' % portal[0], 200)
        region(t, g, l1)
        hv_sock(t, g)
        g.allow = 'unknown message type'
        g.finish(t, unload=('uio_hv_generic', 'portal_vmbus', 'portal_vmbus_line', 'portal'))
        l1.finish(t)


main()
