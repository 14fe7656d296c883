#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""pmem_hostile.py [KERNEL]: devices that lie, break, or answer late.

The device is a module of ours (fakepmem), for 6.12 and the debug kernel (default).
"""
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import pmemlab  # noqa: E402
from lab import build, suite  # noqa: E402
from lab.hand import Hand  # noqa: E402
from lab.portal import Region, userspace  # noqa: E402
from lab.tables import ALIVE, DEAD, Tables, until  # noqa: E402
from lab.tap import Tap  # noqa: E402
from pmemlab import BUS, OURS  # noqa: E402

STATUS_FOUND = 0x1      # acknowledged
PLACE = 0x200000000     # nothing is there
ORDER = 'echo %s > /sys/module/fakepmem/parameters/order'

# What the device says of itself, and what the log says of that.
LIES = [
    ('start=0x100000800', 'cannot be mapped', 'memory that begins within a page'),
    ('size=0', 'cannot be mapped', 'no memory'),
    ('size=4095', 'cannot be mapped', 'less than a page'),
    ('start=0xfffffffffffff000 size=0x2000', 'cannot be mapped', 'memory that wraps'),
    ('start=0x200000000 size=0xffffffffffffffff', 'cannot be mapped', 'all the memory there is'),
    ('start=0x10000000000000', 'cannot be mapped', 'memory beyond physical addresses'),
    ('start=0x1000000 size=0x1000000', 'belongs to another driver', "the kernel's own memory"),
    ('start=0x0 size=0x200000000', 'belongs to another driver', 'memory that covers RAM'),
    ('no_config=1', 'says nowhere', 'a device without a config space'),
    ('no_queue=1', None, 'a device without a queue'),
    ('queue=1', 'cannot hold a flush', 'a queue that holds no request'),
    ('shm=1', 'region 0, the memory, is not there', 'a promised region that is not there'),
    ('shm=1 shm_start=0xffffffffff000000 shm_size=0x2000000', 'cannot be mapped',
     'a region that wraps'),
]


def load(g, parameters=''):
    """A device; its name."""
    g.run('dmesg -c > /dev/null; insmod /fakepmem.ko ' + parameters)
    return pmemlab.one(pmemlab.device_names(g))


def bind(g, name):
    g.run('echo %s > %sallow' % (name, OURS))
    return g.call('echo %s > %sbind' % (name, OURS))[0] == 0


def lies(t, g):
    for parameters, words, what in LIES:
        name = load(g, parameters)
        bound = bind(g, name)
        log = g.dmesg()
        left = g.run('grep portal_pmem /proc/iomem || true')
        status = int(g.run('cat %sdevices/%s/status' % (BUS, name)), 16)
        t.ok(not bound and (not words or words in log) and not left,
             '%s: refused, said, and nothing is kept' % what, log[-800:] + left)
        t.equal(status, STATUS_FOUND, '%s: the next driver finds it as new' % what)
        g.run('rmmod fakepmem')
    name = load(g, 'shm=1 shm_start=%#x shm_size=0x400800 start=0x1000 size=0x1000' % PLACE)
    t.ok(bind(g, name), 'a region where it says: bound')
    t.equal(g.run('cat /sys/class/portal/portal0/size').strip(), str(0x400000),
            'in whole pages, and the config space does not count')
    t.ok('%x-%x : portal_pmem' % (PLACE, PLACE + 0x3fffff) in g.run('cat /proc/iomem'),
         'and reserved')
    # While it has the device none of it is anybody else's.
    t.equal(g.call('echo %s > %sallow; echo %s > %sbind' % (name, OURS, name, OURS))[0], 1,
            'bound is bound')
    g.run('rmmod fakepmem; echo > %sallow' % OURS)


def allowances(t, g):
    """An allowance ends with its device, whoever gets the name next."""
    name = load(g)
    g.run('echo "  %s " > %sallow' % (name, OURS))
    t.equal(g.run('cat %sallow' % OURS).strip(), name, 'spaces around the name do no harm')
    g.run('rmmod fakepmem')
    t.equal(g.run('cat %sallow' % OURS).strip(), '', 'the allowance went with the device')
    again = load(g)
    t.ok(again == name and not pmemlab.driver(g, again),
         'another device of that name is not taken')
    g.run('rmmod fakepmem')


def answers(t, g):
    name = load(g)
    bind(g, name)
    flush = 'pmem flush /dev/portal0 20'
    say = 'echo %s > /sys/module/fakepmem/parameters/answer; '
    g.tap(t, flush, name='a device that does what it should')
    g.tap(t, say % 'fail' + 'pmem fail /dev/portal0 20', name='failures')
    g.tap(t, say % 'now' + flush, name='and no longer')
    # From each of these the device must be bound anew.
    for answer, order, what in (
            ('hold', ORDER % 'give-up', 'the device gives up'),
            ('hold', ORDER % 'forget', 'somebody resets the device'),
            ('garbage', 'true', 'the device returns what it was not given')):
        g.run(say % answer)
        g.tap(t, 'pmem stops /dev/portal0 20 "%s"' % order, name=what)
        t.ok('the device has given up' in g.dmesg(), '%s: the log says so' % what)
        g.run('dmesg -c > /dev/null; ' + say % 'now' + 'echo %s > %sunbind' % (name, OURS))
        t.ok(bind(g, name), '%s: bound again' % what)
        g.tap(t, flush, name='%s, and afterwards' % what)
    # Answers that come twice break the queue, but the first of them stands.
    g.run(say % 'twice')
    t.equal(g.call('pmem flush /dev/portal0 1')[0], 0, 'an answer that comes twice counts once')
    t.ok(g.call('pmem flush /dev/portal0 1')[0] != 0, 'but then nothing is believed any more')
    g.run(say % 'now' + 'rmmod fakepmem')


def killed(t, g):
    """Who waits may be killed; the request is the device's until it answers."""
    name = load(g)
    bind(g, name)
    g.run('echo hold > /sys/module/fakepmem/parameters/answer')
    job = g.start('exec pmem flush /dev/portal0 20')
    pmemlab.waiting(g, 20)
    job.kill()
    t.ok(job.wait(10) != 0, 'who waits can be killed')
    g.run('echo now > /sys/module/fakepmem/parameters/answer; ' + ORDER % 'answer')
    g.tap(t, 'pmem flush /dev/portal0 20', name='after those who were killed')
    g.run('rmmod fakepmem')


def late(t, g):
    """Its answer comes when everybody has gone, and the driver too."""
    name = load(g)
    bind(g, name)
    g.run('echo hold > /sys/module/fakepmem/parameters/answer')
    g.tap(t, "pmem gone /dev/portal0 20 'echo %s > %sunbind'" % (name, OURS),
          timeout=90, name='unbound while it waits')
    t.ok('did not come back' in g.dmesg(), 'late: the driver says what it gives up')
    g.run(ORDER % 'answer')
    t.ok(bind(g, name), 'late: the answer does no harm, and the device is bound again')
    g.run('echo now > /sys/module/fakepmem/parameters/answer')
    g.tap(t, 'pmem flush /dev/portal0 20', name='late, and afterwards')
    g.run('echo hold > /sys/module/fakepmem/parameters/answer')
    g.tap(t, "pmem gone /dev/portal0 20 'rmmod fakepmem'", timeout=90,
          name='the device goes while it waits')


def suspends(t, g):
    name = load(g)
    bind(g, name)
    generation = 'cat /sys/class/portal/portal0/generation'
    g.run('%s; %s' % (ORDER % 'freeze', ORDER % 'restore'))
    t.equal(g.run(generation).strip(), '1', 'suspend and resume: a new generation')
    g.tap(t, 'pmem flush /dev/portal0 20', name='resumed')
    # Whoever waits gets an answer, whatever the device says later.
    g.run('echo slow > /sys/module/fakepmem/parameters/answer')
    job = g.start('exec pmem fail /dev/portal0 20')
    pmemlab.waiting(g, 20)
    g.run(ORDER % 'freeze')
    g.run('echo now > /sys/module/fakepmem/parameters/answer; ' + ORDER % 'restore')
    status = job.wait(30)
    t.nested(job.text(), 'suspended while it waits', status)
    g.tap(t, 'pmem flush /dev/portal0 20', name='resumed again')
    # Another machine's idea of the device.
    t.ok(g.call('%s; %s; %s' % (ORDER % 'freeze', ORDER % 'move', ORDER % 'restore'))[0] != 0 and
         'came back elsewhere' in g.dmesg(), 'memory that comes back elsewhere: refused, said')
    t.ok(g.call('ls /dev/portal0')[0] != 0, 'and the portal is gone')
    t.ok(g.call('%s && %s' % (ORDER % 'freeze', ORDER % 'restore'))[0] != 0,
         'another suspend does no harm')
    g.run('echo %s > %sunbind' % (name, OURS))
    t.ok(bind(g, name), 'and it can be bound again')
    g.run('rmmod fakepmem')


def stuck(t, k, rd):
    """A managed portal on a disk that does not answer: neither a verdict nor the end of the
    machine waits for it. Its memory is that of a device which nobody else drives."""
    region = Region(4 << 20)
    subprocess.run([os.path.join(userspace(), 'bin', 'portalctl'), 'format',
                    'file:' + region.path], check=True, stdout=subprocess.DEVNULL)
    tables = Tables(region=region)
    with suite.guest('stuck', k, rd, region.plain(addr='4')) as g:
        bar = g.run('sed -n 3p /sys/bus/pci/devices/0000:00:04.0/resource').split()[0]
        g.run('echo 1 > /sys/bus/pci/devices/0000:00:04.0/enable')
        g.run('modprobe portal heartbeat_ms=200; modprobe portal_pmem')
        t.ok(bind(g, load(g, 'start=%s size=%#x' % (bar, region.size))), 'stuck: bound')

        def slot():
            text = g.run('cat /sys/class/portal/portal0/slot').strip()
            return int(text) if text.isdigit() else 0
        slot_then = slot()
        claim = tables.claim(slot_then)
        t.ok(claim and tables.state(slot_then) == ALIVE, 'stuck: a managed portal, joined')
        g.run('modprobe portal_loopback size=1M; portalctl format /dev/portal1')
        g.tap(t, 'frozen /dev/portal0 /dev/portal1 "%s" "%s"' % (ORDER % 'freeze', ORDER % 'restore'), timeout=120)
        g.run('echo hold > /sys/module/fakepmem/parameters/answer')
        flush = g.start('exec pmem flush /dev/portal0 20')
        pmemlab.waiting(g, 20)
        Hand(g, '/dev/portal0').must('fence %d %d' % (slot_then, claim), 10)
        took = until(lambda: slot() and tables.claim(slot()) not in (0, claim) and
                     tables.state(slot()) == ALIVE)
        t.ok(took is not None and flush.status is None,
             'stuck: declared dead while a flush waits: joined anew (%s s)' % took)
        slot_then = slot()
        g.start('reboot -f')
        took = until(lambda: not tables.claim(slot_then) and tables.state(slot_then) == DEAD)
        t.ok(took is not None, 'stuck: reboots while a flush waits: it has left (%s s)' % took)
        t.ok(until(lambda: g.process.poll() is not None) is not None, 'stuck: and is down')
    region.close()


def main(t):
    k = suite.kernel('debug')
    ko, = build.modules(k, top=os.path.join(HERE, 'fakepmem'), parts=['.'], target=None)
    rd = suite.initrd(k, programs=True, user=['portalctl'], names=('virtio_pci',),
                      extra=[(ko, '/fakepmem.ko')])
    with suite.guest('hostile', k, rd) as g:
        g.run('modprobe portal_pmem')
        lies(t, g)
        allowances(t, g)
        answers(t, g)
        killed(t, g)
        late(t, g)
        suspends(t, g)
        g.finish(t, pmemlab.UNLOAD)
    stuck(t, k, rd)


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
