#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""life.py [KERNEL]: modules come and go, devices vanish under open files.

Loading and unloading fifty times; portal.ko refuses to go while in use, a
transport goes at any time and revokes; unbinding and unplugging with files
open and mappings alive, in the process and in its forked child.
"""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import suite  # noqa: E402
from lab.hand import Hand  # noqa: E402
from lab.portal import Region  # noqa: E402
from lab.tap import Tap  # noqa: E402

SIZE = 4 << 20
DRIVER = '/sys/bus/pci/drivers/portal_ivshmem'
MAX_S = 60      # a removal never waits for user space, which would be for ever; TCG is slow


class Victims:
    """Three processes that hold a portal in three ways."""

    def __init__(self, g, device):
        self.bus = Hand(g, device)          # wants SIGBUS
        self.zero = Hand(g, device)         # wants a zeroed page
        self.ro = Hand(g, device, 'ro')
        self.zero.must('zero')
        for h, mode in ((self.bus, 'rw'), (self.zero, 'rw'), (self.ro, 'ro')):
            h.must('map 0 ' + mode)
        self.bus.must('put 4096 4711')
        self.vectors = int(self.bus.info()['vectors'])
        if self.vectors:
            self.bus.must('bind 0')
        self.bus.must('fork')

    def check_alive(self, t, what):
        t.ok(self.zero.say('get 4096') == 'ok 4711' and
             self.ro.say('get 4096') == 'ok 4711' and
             self.bus.say('child get 4096') == 'ok 4711',
             what + ': all see one memory before')

    def check_revoked(self, t, what, again=False):
        t.equal(self.bus.say('get 4096'), 'sigbus', what + ': SIGBUS')
        t.equal(self.bus.say('get 8'), 'sigbus',
                what + ': SIGBUS on a page not touched before')
        t.equal(self.ro.say('get 4096'), 'sigbus',
                what + ': SIGBUS in a read-only mapping')
        t.equal(self.bus.say('child get 4096'), 'sigbus',
                what + ': SIGBUS in a forked child')
        if not again:
            t.equal(self.zero.say('get 4096'), 'ok 0',
                    what + ': a zeroed page for who chose so')
        t.equal(self.zero.say('put 4096 1'), 'ok', what + ': which takes stores')
        for order in ('info', 'ring 0 0', 'read', 'map 4096 rw', 'zero'):
            answer = self.bus.say(order)
            # A file that is mapped may be told so first.
            good = answer == 'err ENODEV' or (order == 'zero' and
                                              answer == 'err EBUSY')
            t.ok(good, '%s: %s gives ENODEV' % (what, order), answer)
        t.ok('HUP' in self.bus.say('poll 1000'), what + ': POLLHUP')
        if self.vectors and not again:
            t.ok(self.bus.say('wait 0 20000').startswith('ok'),
                 what + ': a bound eventfd is signalled')

    def end(self, t, what):
        t.ok([h.end() for h in (self.bus, self.zero, self.ro)] == [0, 0, 0],
             what + ': who held it closes and exits')


def timed(t, what, act):
    began = time.monotonic()
    act()
    took = time.monotonic() - began
    t.ok(took < MAX_S, what + ': does not wait for user space',
         'took %.1f s' % took)


def loopback(t, g):
    g.run('modprobe portal_loopback')
    t.equal(g.run('echo /dev/portal*').split(), ['/dev/portal0', '/dev/portal1'],
            'loopback makes two portals')
    v = Victims(g, '/dev/portal0')
    v.check_alive(t, 'loopback')
    status, _ = g.call('rmmod portal')
    t.ok(status != 0, 'portal.ko refuses to unload while a transport uses it')
    timed(t, 'unloading loopback', lambda: g.run('rmmod portal_loopback'))
    v.check_revoked(t, 'loopback unloaded')
    status, text = g.call('rmmod portal')
    t.ok(status != 0, 'portal.ko refuses to unload while files are open', text)
    t.ok(g.call('ls /dev/portal0')[0] != 0, 'the node is gone')
    g.run('modprobe portal_loopback')
    h = Hand(g, '/dev/portal0')
    h.must('map 0 rw')
    t.equal(h.say('get 4096'), 'ok 0', 'a new portal has the old number, '
            'and fresh memory')
    v.check_revoked(t, 'beside its successor', again=True)
    h.end()
    v.end(t, 'loopback')
    g.run('rmmod portal_loopback; rmmod portal')


def fifty(t, g):
    script = '''i=0; while [ $i -lt 50 ]; do
        modprobe portal_ivshmem && modprobe portal_loopback || exit 1
        n=$(ls /dev | grep -c '^portal'); [ $n = 3 ] || { echo "$n nodes"; exit 2; }
        rmmod portal_ivshmem && rmmod portal_loopback && rmmod portal || exit 3
        n=$(ls /dev | grep -c '^portal'); [ $n = 0 ] || { echo "$n left"; exit 4; }
        i=$((i+1)); done'''
    status, text = g.call(script, 240)
    t.ok(status == 0, 'modules load and unload 50 times',
         'step %d failed: %s' % (status, text))


def unbind(t, g):
    g.run('modprobe portal_ivshmem')
    slot = g.run('cd %s && echo 0000:*' % DRIVER).strip()
    g.run('ls /dev/portal0')
    v = Victims(g, '/dev/portal0')
    v.check_alive(t, 'ivshmem')
    timed(t, 'unbinding', lambda: g.run('echo %s > %s/unbind' % (slot, DRIVER)))
    v.check_revoked(t, 'unbound')
    g.run('echo %s > %s/bind' % (slot, DRIVER))
    h = Hand(g, '/dev/portal0')
    h.must('map 0 rw')
    t.equal(h.say('get 4096'), 'ok 4711',
            'bound again: the same number and the same memory')
    h.end()
    v.end(t, 'unbound')


def unplug(t, g, region):
    v = Victims(g, '/dev/portal0')
    v.check_alive(t, 'plugged')

    def act():
        g.qmp('device_del', id='iv0')
        g.qmp.wait_event('DEVICE_DELETED', 30 * g.slow)
    timed(t, 'unplugging', act)
    v.check_revoked(t, 'unplugged')
    t.ok(g.call('ls /dev/portal0')[0] != 0, 'the node is gone after the unplug')
    # A backend of the same memory, but a new one: QEMU 10.0 aborts when a
    # device takes one that had been unplugged (qemu_ram_set_idstr).
    g.qmp('object-add', qom_type='memory-backend-file', id='mem-again',
          mem_path=region.path, size=region.size, share=True)
    g.qmp('device_add', driver='ivshmem-plain', id='iv0', memdev='mem-again',
          addr='4')
    g.run('i=0; while [ ! -e /dev/portal0 ]; do i=$((i+1)); '
          '[ $i -lt 600 ] || exit 1; sleep 0.1; done')
    h = Hand(g, '/dev/portal0')
    h.must('map 0 rw')
    t.equal(h.say('get 4096'), 'ok 4711',
            'plugged in again: the same number and the same memory')
    h.end()
    v.end(t, 'unplugged')


def main(t):
    k = suite.kernel()
    rd = suite.initrd(k)
    region = Region(SIZE)
    with suite.guest('life', k, rd, region.plain(addr='4')) as g:
        loopback(t, g)
        fifty(t, g)
        unbind(t, g)
        unplug(t, g, region)
        g.finish(t)


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
