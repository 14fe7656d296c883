#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The bus's own calls fail, or take their time, under portal_vmbus.

vmbus_falter.py [KERNEL]. By a module of the tests (falter) that stands before functions of
hv_vmbus: a message that cannot be posted, no memory for one, a host that answers each
request, but late; another driver's callback that was left behind. About half a minute.
"""
import os
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import build, suite  # noqa: E402
from lab.cache import say  # noqa: E402
from lab.tap import Tap  # noqa: E402
import vmbuspair as lab  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
CLASS = '888b0701-2231-4fd5-9e9e-d5d6d0788d82'
FALTER = '/sys/module/falter/parameters/'
# portal-vsp-foreign's
FOREIGN = '0e1a5c52-6d0b-4f0e-9c43-3f1f8a6b7d21'
CONTROL = '/run/b.ctl'
OTHER = '-device portal-vsp-foreign,id=other,instanceid=%s,control=%s' % (
    lab.INSTANCE % 2, CONTROL)
UIO = '/sys/bus/vmbus/drivers/uio_hv_generic'
TRACE = '/sys/kernel/tracing/'
DEVICE = lab.INSTANCE % 1


def bind(g, how='bind'):
    return g.call('echo %s >%s/%s' % (DEVICE, lab.DRIVER, how), 60)[0] == 0


def there(g):
    return g.call('test -c /dev/portal0')[0] == 0


def fail(g, what):
    g.run('dmesg -c >/dev/null; echo "%s" >%sfail' % (what, FALTER))


def reload(g, region):
    g.run('rmmod portal_vmbus')
    g.run('rmmod portal_vmbus_line')
    return lab.load(g, region)


def check_post(t, g):
    """The end of the region's GPADL is not asked for at first: it is asked for again."""
    name = 'a message that cannot be posted'
    # Of an unbind: CLOSE, the ring's end; the BYE's ring, OPEN; the region's end.
    fail(g, 'vmbus_post_msg 4 1 5')
    t.ok(bind(g, 'unbind'), name + ': the unbind ends')
    log = g.dmesg()
    t.ok('could not be taken back' not in log and 'does not answer' not in log,
         name + ': is posted later, and nothing is lost', log)
    fail(g, '')
    status, text = g.call('rmmod portal_vmbus && rmmod portal_vmbus_line')
    t.equal(status, 0, name + ': the modules unload')
    lab.load(g, '1M')
    bind(g, 'unbind')
    t.ok(bind(g) and there(g), name + ': and the device works', g.dmesg())


def check_memory(t, g):
    """No memory for a message: it is there a moment later."""
    name = 'no memory for a message'
    fail(g, 'vmbus_teardown_gpadl 1 3 12')
    t.ok(bind(g, 'unbind'), name + ': the unbind ends')
    log = g.dmesg()
    t.ok('could not be taken back' not in log and 'does not answer' not in log,
         name + ': and nothing is lost', log)
    fail(g, '')
    t.ok(bind(g) and there(g), name + ': and the device works', g.dmesg())


def check_slow(t, g):
    """Each answer in time, but so many of them: who unbinds does not wait for all."""
    name = 'a slow host'
    patience = lab.silent(g)
    t.ok(reload(g, '64M'), name + ': a region of 16 GPADLs')
    lab.patience(g, patience)
    bind(g, 'unbind')
    bind(g)
    g.run('dmesg -c >/dev/null; echo "vmbus_teardown_gpadl %d" >%sdelay' % (
        patience * 500, FALTER))
    began = time.monotonic()
    bind(g, 'unbind')
    took = time.monotonic() - began
    t.ok(2 * patience < took < 4 * patience + 15 * g.slow and 'does not answer' in g.dmesg(),
         name + ': four times the timeout, not longer', '%.1f s\n%s' % (took, g.dmesg()))
    lab.wait_run(g, 'dmesg | grep -q "has answered after all"', 120)
    g.run('echo "" >%sdelay; dmesg -c >/dev/null' % FALTER)
    t.ok(reload(g, '1M'), name + ': when all is done the device works')


def check_stops(t, g):
    """The owner has gone: what was to be established then is not."""
    name = 'a bind that was given up'
    if g.call('test -d {0}events/hyperv || mount -t tracefs trace {0}; '
              'test -d {0}events/hyperv'.format(TRACE))[0]:
        t.skip(name, 'this kernel does not trace the bus')
        return
    reload(g, '16M')
    bind(g, 'unbind')
    lab.patience(g, lab.silent(g))
    g.vsp('lie mute@welcome')
    g.run('echo >{0}trace; echo 1 >{0}events/hyperv/enable'.format(TRACE))
    t.ok(not bind(g), name + ': the host does not answer')
    g.vsp('speak')
    lab.wait_run(g, 'dmesg | grep -q "has answered after all"')
    g.run('dmesg -c >/dev/null; echo 0 >%sevents/hyperv/enable' % TRACE)
    sizes = re.findall(r'vmbus_establish_gpadl_header: .*range_buflen (\d+)',
                       g.run('cat %strace' % TRACE))
    t.equal(sizes.count(str(1024 * 8 + 8)), 1, name + ': of four GPADLs of the region one, '
            'which was asked for before')
    reload(g, '1M')


def check_unkept(t, g):
    """The host answers when the device is about to be bound again."""
    name = 'an answer while the device is being bound'
    mark = 'cat /sys/bus/vmbus/devices/%s/driver_override' % DEVICE
    before = g.run(mark)
    lab.patience(g, lab.silent(g))
    bind(g, 'unbind')
    bind(g)
    g.run('dmesg -c >/dev/null')
    g.vsp('mute')
    bind(g, 'unbind')
    t.equal(g.run(mark).strip(), 'portal_vmbus', name + ': it is kept for this driver')
    # In a probe, which has the device's lock.
    g.run('echo "vbl_owed 3000" >%sdelay' % FALTER)
    job = g.start('echo %s >%s/bind' % (DEVICE, lab.DRIVER))
    lab.wait_run(g, 'grep -qs "slow.*falter" /proc/[0-9]*/stack')
    g.vsp('lie mute@welcome')
    g.vsp('speak')
    t.ok(job.wait(60) and 'still owes an answer' in g.dmesg(),
         name + ': is not bound before all of it has ended', g.dmesg())
    g.vsp('truth')
    lab.wait_run(g, 'dmesg | grep -q "has answered after all"')
    g.run('echo "" >%sdelay; dmesg -c >/dev/null' % FALTER)
    t.equal(g.run(mark), before, name + ': then it is as it was before')
    lab.patience(g)
    t.ok(bind(g) and there(g), name + ': and can be bound', g.dmesg())


def had_by_uio(g, device, guid):
    """uio_hv_generic binds it, a process opens it, and it goes: a callback stays."""
    g.run('modprobe uio_hv_generic; echo %s >%s/new_id' % (guid, UIO))
    lab.wait_run(g, 'test -e %s/%s' % (UIO, device))
    # Newer kernels set the callback then.
    lab.wait_run(g, ': </dev/uio0')
    g.run('echo %s >%s/unbind; rmmod uio_hv_generic uio' % (device, UIO))


def check_left(t, g):
    """uio_hv_generic leaves a callback for rescinds, and goes."""
    name = 'a device that uio_hv_generic had'
    bind(g, 'unbind')
    had_by_uio(g, DEVICE, CLASS)
    t.ok(bind(g) and there(g), name + ': is bound', g.dmesg()[-2000:])
    g.vsp('rescind')
    lab.wait_run(g, 'test ! -e /sys/bus/vmbus/devices/' + DEVICE)
    t.ok(g.alive() and not there(g), name + ': goes at a rescind')
    g.vsp('offer')
    lab.wait_run(g, 'test -c /dev/portal0')
    t.ok(True, name + ': and comes again')


def check_left_foreign(t, g):
    """The same with another class, whose channel nobody has opened since."""
    name = 'a device of another class that uio_hv_generic had'
    device = lab.INSTANCE % 2
    portal = 'test -d /sys/bus/vmbus/devices/%s/portal' % device
    had_by_uio(g, device, FOREIGN)
    g.run('echo %s >%s/new_id' % (FOREIGN, lab.DRIVER))
    lab.wait_run(g, portal)
    g.l1.run('vspctl %s rescind' % CONTROL)
    lab.wait_run(g, 'test ! -e /sys/bus/vmbus/devices/' + device)
    t.ok(g.alive(), name + ': goes at a rescind')
    g.l1.run('vspctl %s offer' % CONTROL)
    lab.wait_run(g, portal)
    t.ok(True, name + ': and comes again')


def main():
    k = suite.kernel()
    falter, = build.modules(k, top=os.path.join(HERE, 'falter'), parts=['.'], target=None)
    with Tap() as t, lab.start_l1(names=['uio_hv_generic'], extra=[falter]) as l1, \
            lab.guest(l1, memory=768, more=OTHER) as g:
        g.run('insmod /bin/falter.ko')
        t.ok(lab.load(g, '1M'), 'the module loads')
        for check in (check_post, check_memory, check_slow, check_stops, check_unkept,
                      check_left, check_left_foreign):
            say(check.__name__)
            check(t, g)
        g.run('rmmod falter')
        g.allow = 'unknown message type 0xd'
        g.finish(t)
        l1.finish(t)


main()
