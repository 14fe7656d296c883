#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""loopback.py [KERNEL]: the core, in one guest, over portal_loopback.

Every program of this directory that needs no second machine, the module's
parameters, the tracepoints, and loading and unloading fifty times. KERNEL as
for tests/vm/kernels, or "debug" (default 6.1).
"""
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, 'tests', 'vm'))
from lab import build, qemu, suite  # noqa: E402
from lab.tap import Tap  # noqa: E402

LOAD = 'modprobe portal_loopback size=8M'
UNLOAD = 'rmmod portal_loopback'
HEARTBEAT = '/sys/module/portal/parameters/heartbeat_ms'
TRACING = '/sys/kernel/tracing'
BAD_PARAMETERS = ['size=0', 'size=-1', 'size=4097', 'size=1Q', 'size=2000G',
                  'pairs=0', 'pairs=65', 'vectors=2049', 'vectors=-1']


def parameters(t, g):
    for bad in BAD_PARAMETERS:
        status, _ = g.call('modprobe portal_loopback ' + bad)
        t.ok(status != 0 and g.call('ls /dev/portal0')[0] != 0,
             'loopback with %s is refused' % bad)
    g.run('modprobe portal_loopback pairs=3 size=1M vectors=0')
    t.equal(g.run('cat /sys/class/portal/portal*/identity').split(),
            ['loopback-%d.%d' % (p, e) for p in range(3) for e in range(2)],
            'three pairs are portals 0 to 5')
    g.tap(t, 'ioctls /dev/portal5', name='ioctls without vectors')
    g.run(UNLOAD + '; modprobe portal_loopback size=64K vectors=2048')
    g.tap(t, 'ioctls /dev/portal1', name='ioctls with 2048 vectors')
    g.tap(t, 'mapping /dev/portal0 /dev/portal1', name='mapping of 64 KiB')
    g.run(UNLOAD)


def heartbeat(t, g):
    """portal's own parameter."""
    t.equal(g.run('modprobe portal; cat ' + HEARTBEAT).strip(), '1000', 'a heart beats once in a second by default')
    g.run('rmmod portal')
    for bad in ('99', '60001', '-1', '4294967396', 'x', ''):
        status, said = g.call('modprobe portal heartbeat_ms=' + bad)
        t.ok(status and g.call('ls ' + HEARTBEAT)[0], 'heartbeat_ms=%s is refused' % bad, said)
    for bad in ('99', '60001'):
        t.ok('heartbeat_ms=%s: give 100 to 60000, or 0 for none' % bad in g.dmesg(), 'and what may be is said')
    for fine in ('100', '60000', '0'):
        g.run('modprobe portal heartbeat_ms=' + fine)
        t.equal(g.run('cat ' + HEARTBEAT).strip(), fine, 'heartbeat_ms=' + fine)
        g.run('rmmod portal')


def tracepoints(t, g):
    """Each tracepoint says what happened."""
    if g.call('mount -t tracefs none %s 2>/dev/null; ls %s/events' % (
            TRACING, TRACING))[0]:
        t.skip('tracepoints', 'this kernel has no tracefs')
        return
    g.run('echo 1 > %s/events/portal/enable' % TRACING)
    g.run('mapping /dev/portal0 - > /dev/null; ioctls > /dev/null; '
          'managed > /dev/null; ' + UNLOAD)
    trace = g.run('cat %s/trace' % TRACING)
    for name, pattern in (
            ('doorbell', r'portal=0 peer=0 vector=0 result=0'),
            ('interrupt', r'portal=0 vector=0 count=1\b'),
            ('fault', r'portal=0 offset=0x0 pages=\d+ result=0x100'),
            ('session', r'portal=0 token=0x\w+ begun=1'),
            ('session', r'portal=0 token=0x\w+ begun=0'),
            ('revoke', r'portal=0')):
        t.ok(re.search('portal_%s: %s' % (name, pattern), trace),
             'tracepoint portal_' + name, trace[:1500])
    g.run('echo 0 > %s/events/portal/enable; %s' % (TRACING, LOAD))


def two_processors(t, k, rd):
    """What takes two: one in the middle of what the other must wait for."""
    accel = [w.replace('1,maxcpus=2', '2') for w in qemu.accel(k.arch)]
    with suite.guest('two', k, rd, accel=accel) as g:
        g.run(LOAD + ' && insmod /hinder.ko')
        g.tap(t, 'over /dev/portal0 /dev/portal1', timeout=120)
        g.run('rmmod hinder; %s; %s vectors=2048' % (UNLOAD, LOAD))
        g.tap(t, 'stolen /dev/portal0 /dev/portal1', timeout=120)
        g.tap(t, 'left /dev/portal0 /dev/portal1', timeout=120)
        g.finish(t)


def main(t):
    k = suite.kernel()
    hinder, = build.modules(k, top=os.path.join(TOP, 'tests', 'vm', 'hinder'), parts=['.'],
                            target=None)
    rd = suite.initrd(k, programs=True, names=['loop', 'udmabuf'], extra=[(hinder, '/hinder.ko')])
    two_processors(t, k, rd)
    with suite.guest('a', k, rd) as g:
        parameters(t, g)
        heartbeat(t, g)
        g.run(LOAD)
        for program in ('ioctls', 'ioctls32', 'events', 'window', 'window32',
                        'widen', 'lent', 'sandbox /dev/portal0 /dev/portal1',
                        'mapping /dev/portal0 /dev/portal1',
                        'mapping32 /dev/portal0 /dev/portal1'):
            g.tap(t, program, timeout=120)
        g.run('%s; %s' % (UNLOAD, LOAD))    # and nobody's memory
        g.tap(t, 'managed /dev/portal0 /dev/portal1', timeout=120)
        t.ok('features %#x,' % (1 << 40) in g.dmesg(), 'and the log has the number of the unknown feature')
        g.run('%s; rmmod portal; modprobe portal heartbeat_ms=100; %s' % (UNLOAD, LOAD))
        g.tap(t, 'sessions /dev/portal0 /dev/portal1', timeout=200)
        g.tap(t, 'peers /dev/portal0 /dev/portal1', timeout=200)
        g.tap(t, 'hostile /dev/portal0 /dev/portal1', timeout=200)
        g.tap(t, 'limits /dev/portal0 /dev/portal1', timeout=200)
        status, text = g.call(
            'i=0; while [ $i -lt 20 ]; do i=$((i+1)); limits --leave /dev/portal0 && '
            'rmmod portal_loopback portal && %s || exit 1; done' % LOAD, timeout=120)
        t.ok(status == 0, 'unload right behind the end of sessions, twenty times', text)
        g.run('%s; %s' % (UNLOAD, LOAD))    # rings wants a region of zeroes
        g.tap(t, 'rings both /dev/portal0 /dev/portal1', timeout=120)
        g.tap(t, "revoke /dev/portal0 '%s' '%s'" % (UNLOAD, LOAD), timeout=120)
        g.tap(t, "swarm /dev/portal0 '%s' '%s'" % (UNLOAD, LOAD), timeout=120)
        g.tap(t, "amid /dev/portal0 '%s' '%s'" % (UNLOAD, LOAD), timeout=120)
        g.run('insmod /hinder.ko')
        g.tap(t, "held /dev/portal0 '%s' '%s'" % (UNLOAD, LOAD), timeout=120)
        g.tap(t, 'between /dev/portal0 /dev/portal1', timeout=200)
        g.run('rmmod hinder')
        tracepoints(t, g)
        g.tap(t, "churn 10 '%s' '%s' /dev/portal0 /dev/portal1" % (
            UNLOAD, LOAD), timeout=120)
        status, text = g.call(
            'rmmod portal_loopback portal; i=0; while [ $i -lt 50 ]; do '
            'i=$((i+1)); %s && rmmod portal_loopback && rmmod portal || exit 1; '
            'done' % LOAD, timeout=120)
        t.ok(status == 0, 'load and unload fifty times', text)
        g.finish(t)


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
