#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""vmbus_bench.py [KERNEL]: what VMBus's packets cost, beside uio_hv_generic.

Two devices of the same host, one bound to portal_vmbus, one to uio_hv_generic, and
the same ring code over both: round trips, packets a second, signals per packet, in
windows that take turns. Then bytes a second through the region that GPADLs share, to
a process of the host, beside the same stream by packets. hv_sock: QEMU's VMBus has none.

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
    recv = l1.start('portalctl recv -q unix:%s /dev/null' % g.socket)
    text = g.run('head -c %d /dev/zero | portalctl send --json -q /dev/portal0 -' % STREAM, 200)
    t.equal(recv.wait(60), 0, 'a stream through the region')
    o = json.loads(text[text.index('{'):])
    t.diag('region: %.1f MB/s, hashed on both sides' % (o['bytes'] / o['seconds'] / 1e6))
    t.diag('region: ' + ', '.join('%s %s' % (key, o[key]) for key in o
                                  if isinstance(o[key], (int, float))))


def main():
    k = kernels.find(sys.argv[1] if len(sys.argv) > 1 else '6.12')
    rd = vmbuslab.initrd(k, names=['uio_hv_generic'])
    with Tap() as t, vmbus.start_l1({'a': (k, rd)}, vmbuslab.on_the_host()) as l1, \
            vmbus.VmbusGuest(l1, 'a', more='-device portal-vsp,id=vsp2,instanceid=%s,'
                             'control=/run/b.ctl' % SECOND) as g:
        g.run('modprobe portal_vmbus ring_size=%d region_size=4M' % RING)
        bind_uio(g, SECOND)
        portal = g.run('ls /dev/portal*').split()
        t.equal(len(portal), 1, 'one device is a portal, one is uio')
        g.tap(t, 'vmbusbench %s uio:/dev/uio0' % portal[0], 200)
        region(t, g, l1)
        g.finish(t, unload=('uio_hv_generic', 'portal_vmbus', 'portal_vmbus_line', 'portal'))
        l1.finish(t)


main()
