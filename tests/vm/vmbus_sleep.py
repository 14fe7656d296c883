#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Suspend and hibernation of a guest with VMBus portals, by the kernel's own test.

vmbus_sleep.py [KERNEL]; it wants PM_DEBUG, which the debug kernel has. Suspend to idle;
hibernation up to each level, with the bus's connection ended and begun anew; one that is
given up, by the kernel, by another driver, by us because a host owes an answer or keeps
its subchannels, or because it takes the device away just then; subchannels that it takes
away and gives again; memory that a host had not let go of before. (With an image:
vmbus_hibernate.py.)
"""
import json
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
UIO = '/sys/bus/vmbus/drivers/uio_hv_generic'
TRACE = '/sys/kernel/tracing/'
TIMEOUT = 4
REGION = 1 << 20
DEVICE = lab.INSTANCE % 1


def bind(g, how='bind'):
    return g.call('echo %s >%s/%s' % (DEVICE, lab.DRIVER, how), 60)[0] == 0


def there(g):
    return g.call('test -c /dev/portal0')[0] == 0


class Sleeper:
    """A process with a mapping, which lives through all of it."""

    def __init__(self, t, g):
        self.t, self.g = t, g
        self.at = 0
        self.hand = hand.Hand(g, '/dev/portal0')
        self.hand.must('map 0 rw')

    def generation(self):
        return int(self.g.run('cat /sys/class/portal/portal0/generation'))

    def start(self, state, level):
        self.at = len(self.g.dmesg().splitlines())
        return self.g.start('echo %s >/sys/power/pm_test; echo %s >/sys/power/state' % (
            level, state))

    def log(self):
        return '\n'.join(self.g.dmesg().splitlines()[self.at:][-60:])

    def sleep(self, state, level, name, again, words=None):
        """One round: how often the portal begins again; words: it is refused with them."""
        before = self.generation()
        self.hand.must('put 8192 %d' % (before + 100))
        job = self.start(state, level)
        status = job.wait(120)
        log = self.log()
        if words:
            self.t.ok(status and words in log, name + ': refused, with the reason', log)
        else:
            self.t.equal(status, 0, name + ': frozen and thawed')
            if status:
                self.t.diag(log)
        self.t.equal(self.generation() - before, again, name + ': generations of the portal')
        self.t.equal(self.hand.say('get 8192'), 'ok %d' % (before + 100),
                     name + ': the mapping and its content are there')

    def same(self, name):
        """A process of the host sees what this one stores."""
        host = lab.client(self.g)
        self.hand.must('put 16384 91')
        self.t.equal(host.say('get 16384'), 'ok 91', name + ': guest and host see the same')
        host.end()


class Torn:
    """Which GPADLs of regions have been established, and torn down, since."""

    def __init__(self, g):
        self.g = g
        g.run('test -d {0}events || mount -t tracefs trace {0}; '
              'echo >{0}trace; echo 1 >{0}events/hyperv/enable'.format(TRACE))

    def regions(self):
        """(established, torn down): how many of the region's size."""
        text = self.g.run('cat %strace' % TRACE)
        made = re.findall(r'vmbus_establish_gpadl_header: .*gpadl 0x(\w+), '
                          r'range_buflen (\d+)', text)
        # Eight bytes a page, and eight more.
        own = [n for n, size in made if int(size) == (REGION >> 12) * 8 + 8]
        torn = re.findall(r'vmbus_teardown_gpadl: .*gpadl 0x(\w+)', text)
        return len(own), len([n for n in own if n in torn])

    def end(self):
        self.g.run('echo 0 >%sevents/hyperv/enable' % TRACE)


def check_levels(t, g):
    s = Sleeper(t, g)
    # The bus has its devices end and begin in hibernation alone, at the last moment.
    s.sleep('mem', 'devices', 'suspend', 1)
    s.sleep('disk', 'freezer', 'hibernation, up to the processes', 0)
    s.sleep('disk', 'devices', 'hibernation, up to the devices', 0)
    s.sleep('disk', 'core', 'hibernation', 1)
    s.sleep('disk', 'core', 'hibernation once more', 1)
    g.vsp('lie silence@bye-ack')
    s.sleep('disk', 'core', 'hibernation without BYE_ACK', 1)
    g.vsp('truth')
    s.same('after all of it')
    s.hand.end()
    t.ok(bind(g, 'unbind') and bind(g), 'and can be unbound and bound')


def check_row(t, g):
    """Of a managed portal: what the others see while this machine is suspended."""
    g.run('portalctl format -f /dev/portal0')

    def life():
        text = g.l1.run('portalctl peers --json unix:' + g.socket)
        return [p['state'] for p in json.loads(text)['peers']]

    t.equal(life(), ['alive'], 'a managed portal: this machine is alive in it')
    job = g.start('echo devices >/sys/power/pm_test; echo mem >/sys/power/state')
    seen = set()
    end = time.monotonic() + 30 * g.slow
    while 'asleep' not in seen and time.monotonic() < end:
        seen.update(life())
        time.sleep(0.2)
    t.ok('asleep' in seen, 'suspend: its row says so to a process of the host', seen)
    t.equal([job.wait(120), life()], [0, ['alive']], 'and says so when it is awake')
    # The next region is all zeroes again.
    bind(g, 'unbind')
    bind(g)


def check_overdue(t, g):
    """What a host did not let go of before: torn down as long as the bus has it."""
    for level, torn in (('freezer', 1), ('devices', 1), ('core', 0)):
        name = 'overdue memory, hibernation up to ' + level
        trace = Torn(g)
        bind(g, 'unbind')
        bind(g)
        g.vsp('lie silence@bye-ack')
        bind(g, 'unbind')
        g.vsp('truth')
        before = trace.regions()
        status = g.call('echo %s >/sys/power/pm_test; echo disk >/sys/power/state' % level,
                        120)[0]
        t.equal([status, before], [0, (1, 0)], name + ': its GPADL is there before')
        t.ok(bind(g) and there(g), name + ': the next session works', g.dmesg()[-2000:])
        t.equal(trace.regions(), (2, torn), name + ': of GPADLs torn down')
        trace.end()


def check_refused(t, g):
    """Another driver does not want to, after or before us: the bus stays as it was."""
    g.run('modprobe uio_hv_generic; echo %s >%s/new_id' % (BALLOON, UIO))
    if g.call('ls %s | grep -q -e "-.*-"' % UIO)[0]:
        t.skip('refused by another driver', 'uio_hv_generic of this kernel takes no such device')
        g.run('rmmod uio_hv_generic')
        return
    s = Sleeper(t, g)
    for lie in (None, 'silence@bye-ack'):
        name = 'refused by uio_hv_generic' + (', no BYE_ACK' if lie else '')
        if lie:
            g.vsp('lie ' + lie)
        before = s.generation()
        status = s.start('disk', 'core').wait(120)
        g.vsp('truth')
        t.ok(status, name + ': there is no hibernation', s.log())
        t.ok(s.generation() - before <= 1, name + ': at most one generation more')
        s.same(name)
    s.hand.end()
    g.run('rmmod uio_hv_generic')


def check_owed(t, g):
    """A host that owes an answer: before it begins, and in the middle."""
    bind(g, 'unbind')
    bind(g)
    g.vsp('lie mute-close')
    bind(g, 'unbind')
    status, text = g.call('echo core >/sys/power/pm_test; echo disk >/sys/power/state', 120)
    t.ok(status and 'without which there is no hibernation' in g.dmesg(),
         'a host owes an answer: no hibernation', g.dmesg()[-2000:])
    g.vsp('speak')
    lab.wait_run(g, 'dmesg | grep -q "has answered after all"')
    g.run('dmesg -c >/dev/null')
    t.ok(bind(g) and there(g), 'when it has answered the device works')

    s = Sleeper(t, g)
    g.vsp('lie mute-close')
    status = s.start('disk', 'core').wait(120)
    t.ok(status and 'no hibernation, and the portal is gone' in s.log(),
         'it falls silent meanwhile: no hibernation, and it is said', s.log())
    t.equal([there(g), s.hand.say('get 8192')], [False, 'sigbus'], 'the portal is gone')
    s.hand.end()
    g.vsp('speak')
    lab.wait_run(g, 'dmesg | grep -q "has answered after all"')
    g.run('dmesg -c >/dev/null')
    bind(g, 'unbind')
    t.ok(bind(g) and there(g), 'and back when it has answered, and is bound anew')
    status = g.call('echo core >/sys/power/pm_test; echo disk >/sys/power/state', 120)[0]
    t.equal(status, 0, 'and hibernation goes')


def check_owed_late(t, g):
    """It comes to owe one while processes are being frozen, and nobody has the device."""
    name = 'an unbind that the host does not answer, in the middle'
    lab.load(g, REGION, timeout=TIMEOUT)
    g.vsp('mute')
    unbind = g.start('echo %s >%s/unbind' % (DEVICE, lab.DRIVER))
    status = g.call('echo core >/sys/power/pm_test; echo disk >/sys/power/state', 120)[0]
    t.equal(unbind.wait(60), 0, name + ': ends')
    t.ok(status and 'without which there is no hibernation' in g.dmesg(),
         name + ': no hibernation', g.dmesg()[-2000:])
    g.vsp('speak')
    lab.wait_run(g, 'dmesg | grep -q "has answered after all"')
    g.run('dmesg -c >/dev/null')
    t.ok(bind(g) and there(g), name + ': when it has answered the device works')


def check_rescind(t, g):
    """The host takes the device away while it is being frozen."""
    g.run('rmmod portal_vmbus')
    lab.load(g, REGION, timeout=60)
    g.vsp('lie silence@bye-ack')
    s = Sleeper(t, g)
    job = s.start('disk', 'core')
    # It waits for BYE_ACK.
    lab.wait_status(g, state='open')
    g.vsp('rescind now')
    t.ok(job.wait(120) is not None, 'a rescind in the middle: the machine goes on', s.log())
    t.equal([s.hand.say('info'), s.hand.say('get 8192')], ['err ENODEV', 'sigbus'],
            'the old portal is gone')
    s.hand.end()
    g.vsp('truth')
    # The bus has asked for all offers when it began anew, or has not come to it.
    g.call('true')
    if not there(g):
        g.l1.call('vspctl %s offer' % g.control)
    lab.wait_run(g, 'test -c /dev/portal0')
    t.ok(True, 'offered again it is there')
    g.run('rmmod portal_vmbus')
    lab.load(g, REGION, timeout=TIMEOUT)


def check_subchannels(t, g):
    """QEMU's host does not take subchannels back, which the bus would wait for."""
    name = 'hibernation with subchannels'
    words = 'does not take the subchannels away'
    s = Sleeper(t, g)
    trace = Torn(g)
    s.sleep('disk', 'core', name, 1, words)
    t.equal(trace.regions(), (1, 0), name + ': a region shared anew')
    g.vsp('lie silence@bye-ack')
    s.sleep('disk', 'core', name + ', no BYE_ACK', 1, words)
    g.vsp('truth')
    t.equal(trace.regions(), (2, 1), name + ', no BYE_ACK: the GPADL of before is torn down '
            'when WELCOME says that it may')
    t.equal(g.run('cat /sys/class/portal/portal0/vectors').strip(), '3', name + ': vectors')
    s.same(name)
    trace.end()
    s.hand.end()


def check_gone(t, g):
    """The portal has gone in a first attempt, but the subchannels are there."""
    name = 'hibernation with subchannels of a portal that is gone'
    s = Sleeper(t, g)
    g.vsp('lie mute-close')
    t.ok(s.start('disk', 'core').wait(120), name + ': it goes')
    s.hand.end()
    g.vsp('speak')
    lab.wait_run(g, 'dmesg | grep -q "has answered after all"')
    g.run('dmesg -c >/dev/null')
    status = g.call('echo core >/sys/power/pm_test; echo disk >/sys/power/state', 120)[0]
    t.ok(status and g.alive(), name + ': refused, and the machine goes on')
    bind(g, 'unbind')
    t.ok(bind(g) and there(g), name + ': bound anew it works')


def check_taken(t, g):
    """A host that takes the subchannels away and gives them again, as it should."""
    s = Sleeper(t, g)
    for n in range(3):
        s.sleep('disk', 'core', 'hibernation, subchannels taken away, %d' % n, 1)
    t.equal(g.run('cat /sys/class/portal/portal0/vectors').strip(), '3', 'three vectors')
    s.same('they are back')
    own, host = hand.Hand(g, program='libhand'), lab.client(g)
    own.must('open /dev/portal0')
    while own.say('wait 2 100') == 'ok':
        pass
    host.must('ring %s 2' % own.info()['peer'])
    t.equal(own.say('wait 2 5000'), 'ok', 'and the last one is heard')
    for h in (own, host, s.hand):
        h.end()


def whole(t, l1, channels, checks, more='', vsp=''):
    with lab.guest(l1, channels=channels, more=more, vsp=vsp) as g:
        if not lab.load(g, REGION, timeout=TIMEOUT):
            t.ok(False, 'no portal', g.dmesg()[-2000:])
            return
        for check in checks:
            say(check.__name__)
            check(t, g)
        g.allow = 'unknown message type 0xd'
        g.finish(t)


def main():
    with Tap() as t, lab.start_l1(names=['uio_hv_generic']) as l1:
        if not l1.kernels['a'].config('PM_DEBUG'):
            t.skip('suspend and hibernation', 'this kernel cannot test them (PM_DEBUG)')
            return
        whole(t, l1, 1, [check_levels, check_row, check_overdue, check_refused, check_owed,
                         check_owed_late, check_rescind], '-device hv-balloon,id=b')
        whole(t, l1, 3, [check_subchannels, check_gone])
        whole(t, l1, 3, [check_taken], vsp='take-subs=on')
        l1.finish(t)


main()
