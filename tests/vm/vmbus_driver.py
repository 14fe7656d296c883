#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portal_vmbus.ko on a VMBus: what it gives, what it asks for, what it refuses.

vmbus_driver.py [KERNEL | debug]. The programs of tests/guest on a portal with three
channels; sizes by parameter and by device; every lie that the host of tests/vm/vsp
knows, at each message; memory that a host does not let go of; another class of
device; 20 loads and unloads.
"""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import hand, qemu, suite, vmbus  # noqa: E402
from lab.cache import say  # noqa: E402
from lab.tap import Tap  # noqa: E402
import vmbuspair  # noqa: E402

DRIVER = '/sys/bus/vmbus/drivers/portal_vmbus'
PORTAL = '/sys/class/portal/portal0'
PROGRAMS = ['ioctls', 'mapping', 'revoke']
BALLOON = '525074dc-8985-46e2-8057-a307dc18a502'
EPROTO = 71
# What the kernel's log says of each lie.
LIES = {
    'magic@welcome': 'magic', 'magic@live': 'magic',
    'type@welcome': 'message type 99', 'type@live': 'message type 99',
    'size-short@welcome': 'message size', 'size-long@live': 'message size',
    'cut@welcome': 'message type 0', 'cut@live': 'message type 0',
    'packet-type@welcome': 'a packet of type', 'packet-type@live': 'a packet of type',
    'reserved@live': 'reserved member', 'version': 'WELCOME with version 77',
    'channels-zero': 'WELCOME with channels 0',
    'channels-many': 'WELCOME with channels 65',
    'channels-missing': 'has not offered them all',
    'features': 'WELCOME with features',
    'region-more': 'WELCOME with region_size',
    'region-odd': 'WELCOME with region_size',
    'region-zero': 'WELCOME with region_size 0',
    'region-unasked': 'WELCOME with region_size',
    'peer-id': 'WELCOME with peer_id', 'peers-many': 'WELCOME with max_peers',
    'live-early': 'message type 6', 'welcome-twice': 'message type 2',
    'silence@welcome': 'does not answer', 'silence@live': 'does not answer',
}
# Of these: where the driver waits for something that never comes.
WAITS = ['channels-missing', 'silence@welcome', 'silence@live']


def initrd(k):
    fs = vmbus.initramfs(k, names=['hv_balloon'] if k.config('HYPERV_BALLOON') else ())
    for p in suite.guest_programs():
        if os.path.basename(p) in PROGRAMS:
            fs.copy(p, '/bin/' + os.path.basename(p), 0o755)
    fs.copy(hand.program(), '/bin/hand', 0o755)
    path = os.path.join(qemu.workdir(), 'l2')
    fs.write(path)
    return path


def said(g, mark):
    """What the driver said since the mark, a number of lines."""
    return '\n'.join(line for line in g.dmesg().splitlines()[mark:]
                     if 'portal' in line)


def mark(g):
    return len(g.dmesg().splitlines())


def bind(g, device, how='bind'):
    return g.call('echo %s > %s/%s' % (device, DRIVER, how), 60)[0] == 0


def fact(g, name):
    return g.run('cat %s/%s' % (PORTAL, name)).strip()


def check_load(t, g):
    status, text = g.call('modprobe portal_vmbus region_size=4M timeout=%d' %
                          vmbuspair.ANSWERS, 120)
    t.ok(status == 0 and g.call('test -c /dev/portal0')[0] == 0,
         'the module loads, and there is a portal', text + g.dmesg()[-3000:])
    alias = g.run('grep portal_vmbus /lib/modules/$(uname -r)/modules.alias')
    t.ok('vmbus:01078b88' in alias, 'it has the class for an alias', alias)
    t.equal([fact(g, f) for f in ('transport', 'size', 'vectors', 'rawio', 'cache')],
            ['vmbus', str(4 << 20), '3', '0', 'write-back'], 'what sysfs says')
    device = g.run('basename $(readlink -f %s/device)' % PORTAL).strip()
    t.equal(fact(g, 'identity'), 'vmbus-' + device, 'the identity is the instance')
    for program in ('ioctls', 'mapping'):
        g.tap(t, program + ' /dev/portal0', 120)
    g.tap(t, "revoke /dev/portal0 'echo {0} > {1}/unbind' 'echo {0} > {1}/bind'".format(
        device, DRIVER), 180, 'unbind')
    return device


def check_config(t, g, device):
    config = DRIVER + '/config'
    for bad in ('rubbish', device + ' ring=1', device + ' region=100K',
                device + ' ring=4M', device + ' colour=1', device + 'x region=1M',
                device + ' region=65G', device + ' region=16777216T', ''):
        t.ok(g.call('echo "%s" > %s' % (bad, config))[0] != 0,
             'config refuses "%s"' % bad.replace(device, 'GUID'))
    g.run('echo "%s region=1M ring=64K" > %s' % (device, config))
    t.equal(g.run('cat ' + config).strip(), device + ' ring=65536 region=1048576',
            'config remembers')
    bind(g, device, 'unbind')
    t.ok(bind(g, device) and fact(g, 'size') == str(1 << 20),
         'the next bind has the size of this device', g.dmesg()[-2000:])
    g.tap(t, 'ioctls /dev/portal0', 120, name='rings of 64 KiB')
    g.run('echo "%s region=0" > %s' % (device, config))
    bind(g, device, 'unbind')
    t.ok(bind(g, device) and fact(g, 'size') == '0', 'a portal without a region',
         g.dmesg()[-2000:])
    g.tap(t, 'ioctls /dev/portal0', 120, name='no region')
    g.run('echo %s > %s' % (device, config))
    t.equal(g.run('cat ' + config), '', 'a GUID alone is forgotten')
    bind(g, device, 'unbind')
    t.ok(bind(g, device) and fact(g, 'size') == str(4 << 20), 'and has the default')


def check_lies(t, g, device):
    for lie, words in LIES.items():
        bind(g, device, 'unbind')
        at = mark(g)
        g.vsp('lie ' + lie)
        if lie in WAITS:
            vmbuspair.patience(g, vmbuspair.silent(g))
        bound = bind(g, device)
        vmbuspair.patience(g)
        g.vsp('truth')
        log = said(g, at)
        # The bus's own line names the error.
        number = re.search(r'probe failed for device \S+ \((-?\d+)\)', g.dmesg())
        t.ok(not bound and words in log, 'lie: %s: %s' % (lie, words), log)
        if not lie.startswith('silence'):
            t.equal(number and int(number.group(1)), -EPROTO, 'lie: %s: EPROTO' % lie)
        t.ok(bind(g, device) and g.call('test -c /dev/portal0')[0] == 0,
             'lie: %s: forgotten with the truth' % lie, said(g, at))
        g.run('dmesg -c > /dev/null')
    bind(g, device, 'unbind')
    at = mark(g)
    g.vsp('lie refuse')
    t.ok(not bind(g, device) and 'refuses (error 1): a refusal that was ordered??, with bytes'
         in said(g, at), 'a refusal is told, and is text', said(g, at))
    g.vsp('truth')
    check_no_channel(t, g, device)


def check_no_channel(t, g, device):
    """The host opens no channel: at a bind, and for the last words of a session."""
    at = mark(g)
    g.vsp('lie open')
    t.ok(not bind(g, device) and 'cannot be opened' in said(g, at),
         'a channel that the host does not open is told', said(g, at))
    g.run('rmmod portal_vmbus')
    g.run('modprobe portal_vmbus region_size=4M timeout=%d' % vmbuspair.ANSWERS)
    t.equal(g.call('test -c /dev/portal0')[0], 0, 'and is opened after a reload')
    at = mark(g)
    g.vsp('lie open')
    bind(g, device, 'unbind')
    t.ok('has not confirmed that it let go' in said(g, at),
         'without a channel there is no word that memory is free', said(g, at))
    t.ok(bind(g, device), 'and the next session works', said(g, at))


def check_subchannels(t, g, device):
    """The host takes a subchannel while it is waited for, and while it is in use."""
    bind(g, device, 'unbind')
    # In it the subchannel has to go.
    vmbuspair.patience(g, 2 * vmbuspair.silent(g))
    g.vsp('lie channels-missing')
    job = g.start('echo %s > %s/bind' % (device, DRIVER))
    vmbuspair.wait_status(g, state='greeted')
    g.vsp('rescind-sub 1')
    vmbuspair.wait_channels(g, device, 2)
    t.ok(job.wait(60), 'a subchannel goes while another is waited for: no session')
    vmbuspair.patience(g)
    g.vsp('truth')
    g.vsp('offer-sub 1')
    vmbuspair.wait_channels(g, device, 3)
    t.ok(bind(g, device) and fact(g, 'vectors') == '3', 'it comes again, and all is well',
         g.dmesg()[-2000:])
    h = hand.Hand(g, '/dev/portal0')
    h.must('map 0 rw')
    h.must('put 8192 3')
    g.vsp('rescind-sub 2')
    t.equal(h.say('get 8192'), 'ok 3', 'one that is in use goes: the region is as it was')
    h.end()
    t.ok(bind(g, device, 'unbind'), 'and the device can be unbound')
    vmbuspair.wait_channels(g, device, 2)
    g.vsp('offer-sub 2')
    vmbuspair.wait_channels(g, device, 3)
    t.ok(bind(g, device) and fact(g, 'vectors') == '3', 'and bound when it is there again',
         g.dmesg()[-2000:])


def check_quarantine(t, g, device):
    for lie in ('silence@bye-ack', 'magic@bye-ack', 'reserved@bye-ack'):
        g.vsp('lie ' + lie)
        at = mark(g)
        if lie.startswith('silence'):
            vmbuspair.patience(g, vmbuspair.silent(g))
        bind(g, device, 'unbind')
        vmbuspair.patience(g)
        g.vsp('truth')
        t.ok('has not confirmed that it let go of 4096 KiB' in said(g, at),
             '%s: memory is kept' % lie, said(g, at))
        t.ok(bind(g, device), '%s: and the next session works' % lie, said(g, at))


def check_foreign(t, g):
    """QEMU's hv-balloon, which no driver has here."""
    g.run('echo %s > %s/new_id' % (BALLOON, DRIVER))
    t.ok(g.call('test -c /dev/portal1')[0] == 0, 'new_id: another class has a portal',
         g.dmesg()[-1000:])
    facts = g.run('cd /sys/class/portal/portal1; cat size vectors rawio peer_id').split()
    t.equal(facts, ['0', '1', '1', 'none'], 'no region, one vector, rawio, no id')
    t.equal(g.run('stat -c %a:%u /dev/portal1').strip(), '600:0', 'the node is root\'s')
    g.run('chmod 666 /dev/portal1; echo nobody:x:65534:65534::/:/bin/sh > /etc/passwd')
    status, text = g.call('su nobody -c "exec 3<>/dev/portal1"')
    t.ok(status != 0 and 'not permitted' in text,
         'whoever may open it by its mode alone may not', text)
    g.run('chmod 600 /dev/portal1')
    g.tap(t, 'ioctls /dev/portal1', 120, name='hv-balloon')
    g.tap(t, 'ioctls /dev/portal1', 120, name='hv-balloon once more')
    t.ok(g.run('cat /sys/class/portal/portal1/transport').strip() == 'vmbus',
         'it is still there')
    check_next_driver(t, g)


def check_next_driver(t, g):
    """The device's own driver, after us: its callback is in no hard interrupt."""
    if not (g.kernel.config('HYPERV_BALLOON') and g.kernel.config('KPROBE_EVENTS')):
        t.skip('the next driver', 'this kernel has no hv_balloon, or no kprobe events')
        return
    device = g.run('basename $(readlink -f /sys/class/portal/portal1/device)').strip()
    bind(g, device, 'unbind')
    g.run('mount -t tracefs trace /sys/kernel/tracing; modprobe hv_balloon; '
          'cd /sys/kernel/tracing; echo "p:seen balloon_onchannelcallback" >kprobe_events; '
          'echo 1 >events/kprobes/seen/enable; cd /sys/bus/vmbus/drivers/hv_balloon; '
          'for how in unbind bind; do echo %s >$how; done' % device)
    seen = re.findall(r'(?m)^.* (\S{5}) +[\d.]+: seen:',
                      g.run('cat /sys/kernel/tracing/trace'))
    # irqs-off, need-resched, hardirq/softirq, depths
    t.ok(seen and all(flags[2] == 's' for flags in seen),
         'the next driver has the channel as it was', seen or g.dmesg()[-1000:])
    # It stays: hv_balloon cannot be unloaded.
    g.run('cd /sys/kernel/tracing; echo 0 >events/kprobes/seen/enable; echo >kprobe_events')


def main():
    with Tap() as t:
        k = suite.kernel('6.12')
        with vmbus.start_l1({'a': (k, initrd(k))}, vmbuspair.programs()) as l1:
            say('three channels')
            with vmbus.VmbusGuest(l1, 'a', channels=3, more='-device hv-balloon,id=b') as g:
                device = check_load(t, g)
                check_config(t, g, device)
                check_subchannels(t, g, device)
                check_quarantine(t, g, device)
                check_lies(t, g, device)
                check_foreign(t, g)
                # RELID_RELEASED, which QEMU's bus does not know
                g.allow = 'unknown message type 0xd'
                g.finish(t)
            say('one channel')
            with vmbus.VmbusGuest(l1, 'a') as g:
                g.run('modprobe portal_vmbus region_size=1M', 120)
                for _ in range(20):
                    g.run('rmmod portal_vmbus && modprobe portal_vmbus', 120)
                t.ok(g.call('test -c /dev/portal0')[0] == 0, 'unloaded and loaded 20 times')
                g.finish(t)
            l1.finish(t)


if __name__ == '__main__':
    main()
