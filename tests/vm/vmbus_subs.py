#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Devices and subchannels that come and go at bad moments.

vmbus_subs.py [KERNEL [ROUNDS]]. Sixteen channels, on two vCPUs, whose subchannels the host
takes away at each end and gives again; ones that it takes, and offers anew by the same
name, while another is waited for; two devices, one of which is silent; memory that is
overdue from the first moment. About a minute and a half.
"""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import hand  # noqa: E402
from lab.cache import say  # noqa: E402
from lab.tap import Tap  # noqa: E402
import vmbuspair as lab  # noqa: E402

ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 40
ONE, TWO = lab.INSTANCE % 1, lab.INSTANCE % 2


def bind(g, how='bind'):
    return g.call('echo %s >%s/%s' % (ONE, lab.DRIVER, how), 60)[0] == 0


def vectors(g):
    return g.call('cat /sys/class/portal/portal0/vectors')[1].strip()


def answered(g):
    g.vsp('speak')
    lab.wait_run(g, 'dmesg | grep -q "has answered after all"')
    g.run('dmesg -c >/dev/null')


def check_rounds(t, g):
    bad = ''
    for i in range(ROUNDS):
        how = 'unbind' if i % 4 else 'rmmod'
        ended = bind(g, 'unbind') if i % 4 else g.call('rmmod portal_vmbus', 60)[0] == 0
        begun = bind(g) if i % 4 else lab.load(g, '1M')
        log = g.run('dmesg -c')
        if not ended or not begun or vectors(g) != '16' or 'does not answer' in log:
            bad = 'round %d, %s: %s vectors\n%s' % (i, how, vectors(g), log)
            break
    t.equal(bad, '', '%d times: the host takes 15 subchannels at the end, and gives them at '
            'the next beginning' % ROUNDS)
    bind(g, 'unbind')
    lab.wait_channels(g, ONE, 1)
    t.ok(True, 'then they are gone')
    t.ok(bind(g) and vectors(g) == '16', 'and all there with the next session')


def check_closing(t, g):
    """A new one of the same name, while the end of a ring's GPADL is waited for."""
    g.vsp('lie mute-close')
    t.ok(bind(g, 'unbind'), 'closing: the host does not answer')
    lab.patience(g)
    g.vsp('rescind-sub 1')
    lab.wait_channels(g, ONE, 2)
    g.vsp('offer-sub 1')
    lab.wait_channels(g, ONE, 3)
    t.ok(True, 'closing: it takes a subchannel meanwhile, and offers it anew')
    answered(g)
    t.ok(bind(g) and vectors(g) == '3', 'closing: and the next session has it',
         g.dmesg()[-2000:])


def check_opening(t, g):
    """The same while another subchannel is being opened."""
    bind(g, 'unbind')
    g.vsp('lie mute-open-sub')
    job = g.start('echo %s >%s/bind' % (ONE, lab.DRIVER))
    lab.wait_status(g, muted=True)
    g.vsp('rescind-sub 2')
    lab.wait_channels(g, ONE, 2)
    g.vsp('offer-sub 2')
    lab.wait_channels(g, ONE, 3)
    g.vsp('speak')
    t.equal([job.wait(60), vectors(g)], [0, '3'], 'opening: another is taken and offered anew '
            'meanwhile, and then opened')


def check_opened(t, g):
    """The very one that is being opened is taken away."""
    bind(g, 'unbind')
    g.vsp('lie mute-open-sub')
    job = g.start('echo %s >%s/bind' % (ONE, lab.DRIVER))
    lab.wait_status(g, muted=True)
    g.vsp('rescind-sub 1')
    lab.wait_run(g, 'dmesg | grep -q "channel 1 .*cannot be opened"')
    g.vsp('speak')
    t.ok(job.wait(60), 'one that is taken away while it is being opened: no session')
    lab.wait_channels(g, ONE, 2)
    g.vsp('offer-sub 1')
    lab.wait_channels(g, ONE, 3)
    for n in range(2):
        t.ok(bind(g) and vectors(g) == '3', 'it is there again, and so is the portal')
        t.ok(bind(g, 'unbind'), 'and closing it waits for nothing')
    bind(g)


def check_used(t, g):
    own = hand.Hand(g, '/dev/portal0')
    host = lab.client(g)
    peer = host.info()['peer']
    own.must('ring %s 2' % peer)
    g.vsp('rescind-sub 2')
    deadline = time.monotonic() + 60 * g.slow
    while own.say('ring %s 2' % peer).startswith('ok') and time.monotonic() < deadline:
        time.sleep(0.1)
    t.equal([own.say('ring %s %d' % (peer, v))[:9] for v in (1, 2)], ['ok 0', 'err ENXIO'],
            'a ring on a vector whose channel was taken away is told so')
    for h in (own, host):
        h.end()
    bind(g, 'unbind')
    lab.wait_channels(g, ONE, 2)
    g.vsp('offer-sub 2')
    lab.wait_channels(g, ONE, 3)
    t.ok(bind(g) and vectors(g) == '3', 'and all is well when it is there again')


class Two:
    """Two devices, the second one's host by its own control socket."""

    def __init__(self, t, g):
        self.t, self.g = t, g

    def second(self, command):
        return self.g.l1.run('vspctl /run/b.ctl ' + command)

    def portal(self, which):
        return 'test -d /sys/bus/vmbus/devices/%s/portal' % which

    def gone(self, which):
        lab.wait_run(self.g, 'test ! -e /sys/bus/vmbus/devices/' + which)

    def check_beside(self):
        """One host is silent: the other's device is there all the same."""
        g, t = self.g, self.t
        g.vsp('rescind')
        self.second('rescind')
        self.gone(ONE)
        self.gone(TWO)
        lab.patience(g, 60)
        g.vsp('lie silence@welcome')
        g.vsp('offer')
        lab.wait_status(g, state='greeted')
        self.second('offer')
        began = time.monotonic()
        lab.wait_run(g, self.portal(TWO), 30)
        t.ok(g.call(self.portal(ONE))[0], 'a silent host holds up no other device',
             '%.1f s' % (time.monotonic() - began))
        g.vsp('rescind now')
        self.gone(ONE)
        g.vsp('truth')

    def check_first(self):
        """Memory that is overdue from the probe on that the offer itself brought."""
        g, t = self.g, self.t
        g.run('dmesg -c >/dev/null')
        # In one of these the host is given its next lie.
        lab.patience(g, 10 * g.slow)
        g.vsp('lie silence@live')
        g.vsp('offer')
        lab.wait_status(g, state='live')
        g.vsp('lie silence@bye-ack')
        lab.wait_run(g, 'dmesg | grep -q "has not confirmed that it let go"')
        t.ok(g.call(self.portal(ONE))[0], 'a first session that fails leaves memory overdue')
        g.vsp('truth')
        g.vsp('rescind now')
        lab.wait_run(g, 'dmesg | grep -q "took the device of .* KiB away"')
        t.ok(True, 'and a rescind frees it')
        self.gone(ONE)
        g.vsp('offer')
        lab.wait_run(g, self.portal(ONE))
        t.ok(True, 'offered anew it works')


def main():
    with Tap() as t, lab.start_l1() as l1:
        say('sixteen channels')
        with lab.guest(l1, channels=16, vcpus=2, vsp='take-subs=on') as g:
            t.ok(lab.load(g, '1M') and vectors(g) == '16', 'sixteen vectors')
            check_rounds(t, g)
            g.allow = 'unknown message type 0xd'
            g.finish(t)
        say('three channels')
        with lab.guest(l1, channels=3, vcpus=2) as g:
            lab.load(g, '1M', timeout=lab.silent(g))
            for check in (check_closing, check_opening, check_opened, check_used):
                say(check.__name__)
                check(t, g)
            g.allow = 'unknown message type 0xd'
            g.finish(t)
        say('two devices')
        with lab.guest(l1, more='-device portal-vsp,id=vsp2,instanceid=%s,'
                       'control=/run/b.ctl' % TWO) as g:
            lab.load(g, '1M')
            two = Two(t, g)
            two.check_beside()
            two.check_first()
            g.allow = 'unknown message type 0xd'
            g.finish(t)
        l1.finish(t)


main()
