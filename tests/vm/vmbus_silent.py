#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A host that falls silent, at each thing that the bus or a portal asks of it.

vmbus_silent.py [KERNEL]. Binding, unbinding, unloading, opening and closing end in
time; what the host may still have stays out of use, and the module that waits for it
cannot be unloaded, until it answers after all or takes the device away. Then nothing
is lost, and the device works. About a minute and a half.
"""
import os
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import hand  # noqa: E402
from lab.cache import say  # noqa: E402
from lab.tap import Tap  # noqa: E402
import vmbuspair as lab  # noqa: E402

BALLOON = '525074dc-8985-46e2-8057-a307dc18a502'
DEVICE = lab.INSTANCE % 1
REGION = 4 << 20
# What the VSP is told, and where it leaves the guest waiting.
BINDING = [
    ('mute', "the GPADL of the channel's rings"),
    ('lie mute-open', 'the opening of the channel'),
    ('lie mute-open-sub', 'the opening of a subchannel'),
    ('lie mute@welcome', "the region's GPADL"),
]
UNBINDING = [
    ('mute', "the end of the rings' GPADL"),
    ('lie mute-close', 'the same, a moment later'),
    ('lie mute@bye-ack', "the end of the region's GPADL"),
]


class Silent:
    def __init__(self, t, g):
        self.t, self.g = t, g

    def timed(self, script):
        """(exit code, seconds, what the driver said)."""
        mark = len(self.g.dmesg().splitlines())
        began = time.monotonic()
        status = self.g.call(script, 60)[0]
        took = time.monotonic() - began
        return status, took, '\n'.join(
            line for line in self.g.dmesg().splitlines()[mark:] if 'portal' in line)

    def in_time(self, took, waits, name, more=''):
        """Each wait has its patience; the rest costs as much as a busy machine likes."""
        self.t.ok(took < waits * lab.silent(self.g) + 10 * self.g.slow,
                  '%s: in time' % name, '%.1f s %s' % (took, more))

    def load(self, timeout=lab.ANSWERS):
        self.g.run('modprobe portal_vmbus region_size=%d timeout=%d' % (REGION, timeout), 60)

    def there(self):
        return self.g.call('test -c /dev/portal0')[0] == 0

    def bind(self, how='bind'):
        return self.timed('echo %s >%s/%s' % (DEVICE, lab.DRIVER, how))

    def unloads(self, name):
        """portal_vmbus goes, in time; what waits for the host does not."""
        status, took, log = self.timed('rmmod portal_vmbus')
        self.t.ok(status == 0, name + ': the driver unloads', log)
        self.in_time(took, 3, name + ': unloading')
        status, text = self.g.call('rmmod portal_vmbus_line')
        self.t.ok(status, name + ': the module that waits does not', text)

    def refuses(self, name):
        self.load()
        _, _, log = self.bind()
        self.t.ok(not self.there() and 'still owes an answer' in log,
                  name + ': no new session meanwhile', log)

    def answers(self, name):
        self.g.vsp('speak')
        lab.wait_run(self.g, 'dmesg | grep -q "has answered after all"')
        self.g.run('dmesg -c >/dev/null')
        self.t.ok(True, name + ': the answer comes, and ends it')
        status, _, log = self.bind()
        self.t.ok(self.there(), name + ': then the device works', log)
        host = lab.client(self.g)
        own = hand.Hand(self.g, '/dev/portal0')
        own.must('map 0 rw')
        own.must('put 8192 5')
        self.t.equal(host.say('get 8192'), 'ok 5', name + ': and its region')
        for h in (own, host):
            h.end()

    def all_unload(self, name):
        status, text = self.g.call('rmmod portal_vmbus portal_vmbus_line', 60)
        self.t.ok(status == 0, name + ': all modules unload', text)


def free_kib(g):
    g.run('echo 3 >/proc/sys/vm/drop_caches')
    return int(g.run("sed -n 's/^MemFree: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"))


def check_binding(s):
    for order, what in BINDING:
        name = 'bind, ' + what
        say(name)
        s.load()
        s.bind('unbind')
        lab.patience(s.g, lab.silent(s.g))
        s.g.vsp(order)
        status, took, log = s.bind()
        s.t.ok(status and 'does not answer' in log, name + ': fails, and says why', log)
        s.in_time(took, 2, name)
        s.unloads(name)
        s.refuses(name)
        s.answers(name)
        s.all_unload(name)


def check_unbinding(s):
    for order, what in UNBINDING:
        name = 'unbind, ' + what
        say(name)
        s.load(lab.silent(s.g))
        h = hand.Hand(s.g, '/dev/portal0')
        h.must('map 0 rw')
        h.must('put 8192 77')
        s.g.vsp(order)
        status, took, log = s.bind('unbind')
        s.t.ok(status == 0 and 'does not answer' in log, name + ': ends, and says why', log)
        s.in_time(took, 2, name)
        s.t.equal([h.say('get 8192'), h.say('info')], ['sigbus', 'err ENODEV'],
                  name + ': the portal is revoked')
        h.end()
        s.unloads(name)
        s.refuses(name)
        s.answers(name)
        s.all_unload(name)


def check_unload(s):
    name = 'unload under a silent host'
    s.load(lab.silent(s.g))
    s.g.vsp('mute')
    s.unloads(name)
    s.refuses(name)
    s.answers(name)
    s.all_unload(name)


def check_rescind(s):
    """It never answers, but takes the device away: that is an answer too."""
    name = 'rescind under a silent host'
    s.load(lab.silent(s.g))
    used = free_kib(s.g)
    s.g.vsp('mute')
    s.bind('unbind')
    kept = free_kib(s.g)
    s.t.ok(kept - used < 2048, name + ': the region is kept out of use',
           '%d KiB free before, %d after' % (used, kept))
    s.g.vsp('rescind now')
    lab.wait_run(s.g, 'dmesg | grep -q "has answered after all"')
    s.g.run('dmesg -c >/dev/null')
    s.all_unload(name)
    free = free_kib(s.g)
    s.t.ok(free - kept > (REGION >> 10) - 1024, name + ': and is free then',
           '%d KiB free, %d before' % (free, kept))
    s.g.vsp('speak')
    s.load()
    s.g.vsp('offer')
    lab.wait_run(s.g, 'test -c /dev/portal0')
    s.t.ok(True, name + ': offered anew it works')


def check_bye(s):
    """Only BYE is not answered: the region's GPADL is left as it is until WELCOME."""
    name = 'no BYE_ACK'
    trace = '/sys/kernel/tracing/'
    if s.g.call('mount -t tracefs trace %s; test -d %sevents/hyperv' % (trace, trace))[0]:
        s.t.skip(name, 'this kernel does not trace the bus')
        return
    s.g.run('echo 1 >%sevents/hyperv/enable' % trace)
    s.bind('unbind')
    s.bind()
    s.g.vsp('lie silence@bye-ack')
    lab.patience(s.g, lab.silent(s.g))
    status, took, log = s.bind('unbind')
    lab.patience(s.g)
    s.t.ok('has not confirmed that it let go of %d KiB' % (REGION >> 10) in log,
           name + ': the region is kept', log)
    s.in_time(took, 2, name)
    s.g.vsp('truth')
    text = s.g.run('cat %strace' % trace)
    # The BYE's rings are small ones, for which there is memory: two of four pages.
    sizes = [int(size) for size in re.findall(r'range_buflen (\d+)', text)]
    s.t.equal(sizes[-1:], [8 * 8 + 8], name + ': the rings for its last words are small')
    made = re.findall(r'vmbus_establish_gpadl_header: .*gpadl 0x(\w+), range_buflen (\d+)', text)
    # The region's is the largest: eight bytes a page, and eight more.
    region = [g for g, size in made if int(size) == (REGION >> 12) * 8 + 8]
    torn = re.findall(r'vmbus_teardown_gpadl: .*gpadl 0x(\w+)', text)
    s.t.ok(len(region) == 1 and region[0] not in torn and torn,
           name + ': and its GPADL, alone', 'region %s, torn down %s\n%s' % (
               region, torn, text[-3000:]))
    s.bind()
    torn = re.findall(r'vmbus_teardown_gpadl: .*gpadl 0x(\w+)', s.g.run('cat %strace' % trace))
    s.t.ok(s.there() and torn.count(region[0] if region else '') == 1,
           name + ': which is torn down when the next session has the word', torn)
    s.g.run('echo 0 >%sevents/hyperv/enable' % trace)


def check_bye_rescind(s):
    """Nor later: the device goes, and nobody else is there who could notice."""
    name = 'no BYE_ACK, then a rescind'
    s.g.run('rmmod portal_vmbus')
    s.load(lab.silent(s.g))
    s.g.vsp('lie silence@bye-ack')
    s.bind('unbind')
    kept = free_kib(s.g)
    s.g.vsp('truth')
    s.g.run('rmmod portal_vmbus')
    status, text = s.g.call('rmmod portal_vmbus_line')
    s.t.ok(status, name + ': the module keeps the region', text)
    s.g.vsp('rescind now')
    lab.wait_run(s.g, 'rmmod portal_vmbus_line')
    free = free_kib(s.g)
    s.t.ok(free - kept > (REGION >> 10) - 1024, name + ': it is free, and the module goes',
           '%d KiB free, %d before' % (free, kept))
    s.g.vsp('offer')
    s.load()
    lab.wait_run(s.g, 'test -c /dev/portal0')


def check_foreign(s):
    """Another class: a process that opens, one that is killed, one that closes."""
    t, g = s.t, s.g
    g.run('echo %s >%s/new_id' % (BALLOON, lab.DRIVER))
    device = g.run('basename $(readlink -f /sys/class/portal/portal1/device)').strip()
    lab.patience(g, 60)
    for how in ('unbind', 'kill'):
        h = hand.Hand(g, program='libhand')
        h.say('open /dev/portal1')
        g.vsp('mute')
        h.ask('packets 0')
        lab.wait_asked(g)
        began = time.monotonic()
        other = hand.Hand(g, program='libhand')
        other.say('open /dev/portal1')
        other.end()
        t.ok(time.monotonic() - began < 20 * g.slow,
             'foreign, %s: who has no rings closes meanwhile' % how)
        began = time.monotonic()
        if how == 'unbind':
            g.run('echo %s >%s/unbind' % (device, lab.DRIVER))
            t.ok(h.answer(20).startswith('err ENODEV'), 'foreign: an opening that hangs '
                 'ends with the unbind')
            h.end()
        else:
            h.job.kill()
            h.job.wait(20)
        t.ok(time.monotonic() - began < 30 * g.slow, 'foreign, %s: at once' % how)
        g.vsp('speak')
        lab.wait_run(g, 'dmesg | grep -q "has answered after all"')
        g.run('dmesg -c >/dev/null')
        if how == 'unbind':
            g.run('echo %s >%s/bind' % (device, lab.DRIVER))
    lab.patience(g, lab.silent(g))
    h = hand.Hand(g, program='libhand')
    h.say('open /dev/portal1')
    t.equal(h.say('packets 0'), 'ok', 'foreign: the channel is opened afterwards')
    g.vsp('mute')
    began = time.monotonic()
    h.end()
    s.in_time(time.monotonic() - began, 1, 'foreign: the end of a process that has rings')
    lab.patience(g)
    h = hand.Hand(g, program='libhand')
    h.say('open /dev/portal1')
    t.ok(h.say('packets 0').startswith('err EBUSY'), 'foreign: the next is told to wait')
    g.vsp('speak')
    lab.wait_run(g, 'dmesg | grep -q "has answered after all"')
    t.equal(h.say('packets 0'), 'ok', 'foreign: and need not wait for ever')
    h.end()


def check_frozen(s):
    """A process that waits sleeps with its machine, or its group, and begins anew."""
    t, g = s.t, s.g
    name = 'foreign, a process that waits is frozen'
    group = '/tmp/freezer'
    if g.call('mkdir -p {0} && mount -t cgroup -o freezer freezer {0} && mkdir {0}/a'.format(
            group))[0]:
        t.skip(name, 'this kernel has no such groups')
        return
    lab.patience(g, 60)
    h = hand.Hand(g, program='libhand')
    h.say('open /dev/portal1')
    g.run('pidof libhand >%s/a/cgroup.procs' % group)
    g.vsp('mute')
    h.ask('packets 0')
    lab.wait_asked(g)
    g.run('echo FROZEN >%s/a/freezer.state' % group)
    began = time.monotonic()
    lab.wait_run(g, 'grep -q FROZEN %s/a/freezer.state' % group, 50)
    took = time.monotonic() - began
    t.ok(took < 20 * g.slow, name + ': at once', '%.1f s' % took)
    g.run('echo THAWED >%s/a/freezer.state' % group)
    t.ok(h.answer(60).startswith('err EBUSY'), name + ': it asks again, and is told to wait')
    g.vsp('speak')
    lab.wait_run(g, 'dmesg | grep -q "has answered after all"')
    g.run('dmesg -c >/dev/null')
    t.equal(h.say('packets 0'), 'ok', name + ': and gets its rings when the host has answered')
    h.end()
    lab.patience(g)
    g.run('rmdir {0}/a; umount {0}'.format(group))


def check_others(s):
    """Nor does another driver get the device, while its channel is half open."""
    t, g = s.t, s.g
    name = 'foreign, a driver that wants the device meanwhile'
    device = g.run('basename $(readlink -f /sys/class/portal/portal1/device)').strip()
    uio = '/sys/bus/vmbus/drivers/uio_hv_generic'
    owner = 'cat /sys/bus/vmbus/devices/%s/driver_override' % device
    before = g.run(owner)
    h = hand.Hand(g, program='libhand')
    h.say('open /dev/portal1')
    g.vsp('mute')
    h.ask('packets 0')
    lab.wait_asked(g)
    h.job.kill()
    h.job.wait(20)
    g.run('echo %s >%s/unbind' % (device, lab.DRIVER))
    g.run('modprobe uio_hv_generic; echo %s >%s/new_id' % (BALLOON, uio))
    t.ok(g.call('test -e %s/%s' % (uio, device))[0] and
         g.call('echo %s >%s/bind' % (device, uio))[0], name + ': does not get it')
    t.equal(g.run(owner).strip(), 'portal_vmbus', name + ': the device says who may')
    g.vsp('speak')
    lab.wait_run(g, 'dmesg | grep -q "has answered after all"')
    g.run('dmesg -c >/dev/null')
    lab.wait_run(g, 'echo %s >%s/bind' % (device, uio))
    t.equal(g.run(owner), before, name + ': gets it when the host has answered')
    g.run('echo %s >%s/unbind; rmmod uio_hv_generic; echo %s >%s/bind' % (
        device, uio, device, lab.DRIVER))
    h = hand.Hand(g, program='libhand')
    h.say('open /dev/portal1')
    t.equal(h.say('packets 0'), 'ok', name + ': and leaves it')
    h.end()


def check_reload(s):
    """Nor is it bound by our own driver that has forgotten its class, though marked for it."""
    t, g = s.t, s.g
    name = 'foreign, the driver is loaded anew meanwhile'
    device = g.run('basename $(readlink -f /sys/class/portal/portal1/device)').strip()
    bound = 'test -e %s/%s' % (lab.DRIVER, device)
    # It is the host of both devices that will be silent.
    lab.patience(g, lab.silent(g))
    s.bind('unbind')
    s.bind()
    h = hand.Hand(g, program='libhand')
    h.say('open /dev/portal1')
    g.vsp('mute')
    h.ask('packets 0')
    lab.wait_asked(g)
    h.job.kill()
    h.job.wait(20)
    g.run('rmmod portal_vmbus', 60)
    s.load()
    t.ok(g.call(bound)[0], name + ': does not get it')
    g.vsp('speak')
    # Of two devices.
    lab.wait_run(g, 'test $(dmesg | grep -c "has answered after all") = 2')
    g.run('dmesg -c >/dev/null')
    t.ok(g.call(bound)[0], name + ': nor when the host has answered')
    g.run('echo %s >%s/new_id' % (BALLOON, lab.DRIVER))
    t.equal(g.call(bound)[0], 0, name + ': but when it is asked to')
    s.bind()


def main():
    with Tap() as t, lab.start_l1(names=['uio_hv_generic']) as l1, \
            lab.guest(l1, channels=2, more='-device hv-balloon,id=b') as g:
        s = Silent(t, g)
        s.load()
        s.all_unload('before')
        free = free_kib(g)
        check_binding(s)
        check_unbinding(s)
        check_unload(s)
        left = free_kib(g)
        t.ok(left > free - 2048, 'of all this no page is lost',
             '%d KiB free, %d before' % (left, free))
        check_rescind(s)
        check_bye(s)
        check_bye_rescind(s)
        check_foreign(s)
        check_frozen(s)
        check_others(s)
        check_reload(s)
        g.allow = 'unknown message type 0xd'
        g.finish(t)
        l1.finish(t)


main()
