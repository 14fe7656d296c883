#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""hibernate.py [KERNEL]: a machine that goes down with its image on a disk, and another QEMU
that is woken up as that machine.

It has two portals, a managed one and a raw one, and processes that use both. The kernel that
boots first, to load the image, has loaded the drivers, too.
"""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import qemu, suite  # noqa: E402
from lab.cache import LabError  # noqa: E402
from lab.guest import Saved  # noqa: E402
from lab.hand import Hand  # noqa: E402
from lab.portal import Region, userspace  # noqa: E402
from lab.tables import ALIVE, ASLEEP, Tables, until  # noqa: E402
from lab.tap import Tap  # noqa: E402

SIZE = 4 << 20
BEAT = 0.2
DATA = 1 << 20
LOAD = 'modprobe portal heartbeat_ms=%d; modprobe portal_ivshmem' % (BEAT * 1000)
DISK = '/dev/vda'


class Machine:
    """One machine, in as many QEMUs as it takes, one after the other."""

    def __init__(self, k, rd, regions):
        self.k, self.rd, self.regions = k, rd, regions
        self.disk = qemu.workdir() + '/disk'
        with open(self.disk, 'wb') as f:
            f.truncate(512 << 20)
        self.guest = self.boot()
        self.guest.run('mkswap %s; swapon %s' % (DISK, DISK))

    def boot(self):
        devices = ['-drive', 'if=none,id=hd,format=raw,file=' + self.disk,
                   '-device', 'virtio-blk-pci,drive=hd,addr=3']
        for n, region in enumerate(self.regions):
            devices += region.plain('iv%d' % n, addr=str(4 + n))
        g = suite.guest('m', self.k, self.rd, devices)
        g.run('modprobe virtio_pci; modprobe virtio_blk; ' + LOAD)
        if until(lambda: not g.call('test -b ' + DISK)[0], 10) is None:
            raise LabError('no ' + DISK)
        return g

    def hibernate(self, how):
        """Down. The job that did it is returned by wake_up(), which sees its end."""
        g = self.guest
        g.run('echo %s > /sys/power/disk' % how)
        job = g.start('echo disk > /sys/power/state')
        if until(lambda: g.process.poll() is not None, 60) is None:
            raise LabError('does not hibernate: ' + job.text() + g.log()[-2000:])
        self.job = job.number
        self.image = Saved(g, None)

    def wake_up(self):
        g = self.boot()
        g.start('cat /sys/block/vda/dev > /sys/power/resume')
        g.take_over(self.image)
        self.guest = g
        return g.jobs[self.job].wait(60)


def session(hand):
    return int(hand.must('session -1').split()[0])


def rows(tables):
    """Slots that are somebody's."""
    return [slot for slot in range(1, tables.peers) if tables.claim(slot)]


def attribute(g, name, portal=0):
    return g.run('cat /sys/class/portal/portal%d/%s' % (portal, name)).strip()


def formatted(region):
    subprocess.run([os.path.join(userspace(), 'bin', 'portalctl'), 'format', '-ff',
                    'file:' + region.path], check=True, stdout=subprocess.DEVNULL)


def same(t, m, tables, how):
    """The regions are as they were: so is everything."""
    managed, raw = Hand(m.guest, '/dev/portal0'), Hand(m.guest, '/dev/portal1')
    token = session(managed)
    managed.must('map 65536 rw %d' % DATA)
    managed.must('put 0 4711')
    raw.must('map 65536 rw')
    raw.must('put 0 4712')
    slot = int(attribute(m.guest, 'slot'))
    claim, sequence = tables.claim(slot), tables.sequence(slot)
    m.hibernate(how)
    t.equal((tables.claim(slot), tables.state(slot), tables.token(token)), (claim, ASLEEP, ALIVE),
            '%s: down, it sleeps, and has not left' % how)
    t.equal(m.wake_up(), 0, '%s: woken up' % how)
    managed, raw = (Hand.of(m.guest.jobs[h.job.number]) for h in (managed, raw))
    t.ok(until(lambda: tables.state(slot) == ALIVE, 10) is not None and
         tables.claim(slot) == claim and tables.sequence(slot) > sequence,
         '%s: it lives where it did' % how)
    t.ok(session(managed) == token and tables.token(token) == ALIVE and
         managed.say('get 0') == 'ok 4711', '%s: its process goes on' % how)
    t.equal((attribute(m.guest, 'mode', 1), raw.say('get 0')), ('raw', 'ok 4712'),
            '%s: and the one that uses a raw portal' % how)
    t.equal(rows(tables), [slot], '%s: of the kernel that loaded the image there is no row' % how)
    return managed, raw


def another(t, m, tables, managed, raw):
    """Where the raw portal was there is a managed one."""
    m.hibernate('shutdown')
    formatted(m.regions[1])
    other = Tables(region=m.regions[1])
    m.wake_up()
    managed, raw = (Hand.of(m.guest.jobs[h.job.number]) for h in (managed, raw))
    t.equal(managed.say('get 0'), 'ok 4711', 'another region: the other portal is as it was')
    t.equal(attribute(m.guest, 'mode', 1), 'managed', 'another region: managed')
    t.equal((raw.say('put 0 1'), raw.say('session -1')), ('sigbus', 'err ESTALE'),
            'another region: who had the raw one mapped reaches no table')
    t.ok(until(lambda: rows(other), 10) is not None and len(rows(other)) == 1,
         'another region: joined, once')
    for h in (managed, raw):
        h.end()


def main(t):
    k = suite.kernel('6.12')
    rd = suite.initrd(k, user=['portalctl'], names=('virtio_pci', 'virtio_blk'))
    regions = [Region(SIZE), Region(SIZE)]
    formatted(regions[0])
    tables = Tables(region=regions[0])
    m = Machine(k, rd, regions)
    managed, raw = same(t, m, tables, 'reboot')
    another(t, m, tables, managed, raw)
    status, text = m.guest.call('portalctl check /dev/portal0')
    t.ok(status == 0, 'portalctl check: clean', text)
    m.guest.finish(t)
    t.equal(rows(tables), [], 'and it has left')


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
