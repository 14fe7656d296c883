#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""hibernate.py [KERNEL]: a machine that goes down with its image on a disk, and another QEMU
that is woken up as that machine.

It has two portals, a managed one and a raw one, and processes that use both. The kernel that
boots first, to load the image, has loaded the drivers, too. With doorbells the other QEMU has
other addresses: what is raw goes on there, and in a managed portal the machine joins anew.
"""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import qemu, suite  # noqa: E402
from lab.cache import LabError  # noqa: E402
from lab.guest import Saved  # noqa: E402
from lab.hand import Hand  # noqa: E402
from lab.portal import Portald, Region, userspace  # noqa: E402
from lab.tables import ALIVE, ASLEEP, DEAD, Tables, until  # noqa: E402
from lab.tap import Tap  # noqa: E402

SIZE = 4 << 20
BEAT = 0.2
DATA = 1 << 20
LOAD = 'modprobe portal heartbeat_ms=%d; modprobe portal_ivshmem' % (BEAT * 1000)
DISK = '/dev/vda'
DISK_SIZE, PAGE = 512 << 20, 4096
PATIENCE = 180      # seconds for an image, on a busy host


class Machine:
    """One machine, in as many QEMUs as it takes, one after the other."""

    def __init__(self, k, rd, portals):
        """portals: QEMU's arguments for their devices."""
        self.k, self.rd, self.portals = k, rd, portals
        self.disk = qemu.workdir() + '/disk'
        with open(self.disk, 'wb') as f:
            f.truncate(DISK_SIZE)
        self.guest = self.boot()
        self.guest.run('mkswap %s; swapon %s' % (DISK, DISK))

    def boot(self):
        g = suite.guest('m', self.k, self.rd, self.portals + [
            '-drive', 'if=none,id=hd,format=raw,file=' + self.disk,
            '-device', 'virtio-blk-pci,drive=hd'], boot_timeout=PATIENCE)
        g.run('modprobe virtio_pci; modprobe virtio_blk; ' + LOAD)
        if until(lambda: not g.call('test -b ' + DISK)[0]) is None:
            raise LabError('no ' + DISK)
        return g

    def ways(self):
        """To hibernate, that it has: "platform" is what a kernel does by itself, if it can."""
        offered = self.guest.run('cat /sys/power/disk')
        return [how for how in ('platform', 'reboot') if how in offered]

    def hibernate(self, how):
        """Down. The job that did it is returned by wake_up(), which sees its end."""
        g = self.guest
        g.run('echo %s > /sys/power/disk' % how)
        job = g.start('echo disk > /sys/power/state')
        if until(lambda: g.process.poll() is not None, PATIENCE) is None:
            raise LabError('does not hibernate: ' + job.text() + g.log()[-2000:])
        self.job = job.number
        self.image = Saved(g, None)

    def wake_up(self):
        g = self.boot()
        g.start('cat /sys/block/vda/dev > /sys/power/resume')
        g.take_over(self.image)
        self.guest = g
        return g.jobs[self.job].wait(PATIENCE)

    def again(self, *hands):
        """The same processes, in the QEMU that is this machine now."""
        return [Hand.of(self.guest.jobs[h.job.number]) for h in hands]


def session(hand):
    return int(hand.must('session -1').split()[0])


def rows(tables):
    """Slots that are somebody's."""
    return [slot for slot in range(1, tables.peers) if tables.claim(slot)]


def living(tables):
    """Slots of machines of which nobody says that they are dead."""
    return [slot for slot in rows(tables) if tables.says(slot, tables.claim(slot)) != 'dead']


def attribute(g, name, portal=0):
    return g.run('cat /sys/class/portal/portal%d/%s' % (portal, name)).strip()


def format_(uri):
    subprocess.run([os.path.join(userspace(), 'bin', 'portalctl'), 'format', '-ff', uri],
                   check=True, stdout=subprocess.DEVNULL)


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
    beats = tables.heartbeat(slot)
    t.equal((tables.claim(slot), tables.state(slot), tables.token(token)), (claim, ASLEEP, ALIVE),
            '%s: down, it sleeps, and has not left' % how)
    t.equal(m.wake_up(), 0, '%s: woken up' % how)
    managed, raw = m.again(managed, raw)
    t.ok(until(lambda: tables.state(slot) == ALIVE) is not None and
         tables.claim(slot) == claim and tables.sequence(slot) > sequence,
         '%s: it lives where it did' % how)
    t.ok(until(lambda: tables.heartbeat(slot) > beats + 2) is not None and
         tables.claim(slot) == claim, '%s: its heart goes on from where it was' % how)
    t.ok(session(managed) == token and tables.token(token) == ALIVE and
         managed.say('get 0') == 'ok 4711', '%s: its process goes on' % how)
    t.equal((attribute(m.guest, 'mode', 1), raw.say('get 0')), ('raw', 'ok 4712'),
            '%s: and the one that uses a raw portal' % how)
    t.equal(rows(tables), [slot], '%s: of the kernel that loaded the image there is no row' % how)
    return managed, raw


def another(t, m, tables, region, managed, raw):
    """Where the raw portal was there is a managed one."""
    m.hibernate('shutdown')
    format_('file:' + region.path)
    other = Tables(region=region)
    # As if much had happened between the image and the last that was stored.
    slot, = rows(tables)
    sequence, beats = tables.sequence(slot) + 5, tables.heartbeat(slot) + 1000
    tables.put(slot, 128, sequence << 16 | ASLEEP)
    tables.put(slot, 256, beats)
    m.wake_up()
    managed, raw = m.again(managed, raw)
    t.equal(managed.say('get 0'), 'ok 4711', 'another region: the other portal is as it was')
    t.ok(tables.sequence(slot) == sequence + 1 and
         until(lambda: tables.heartbeat(slot) > beats + 2) is not None,
         'its counters go on from the highest there were')
    t.equal(attribute(m.guest, 'mode', 1), 'managed', 'another region: managed')
    t.equal((raw.say('put 0 1'), raw.say('session -1')), ('sigbus', 'err ESTALE'),
            'another region: who had the raw one mapped reaches no table')
    t.ok(until(lambda: rows(other)) is not None and len(rows(other)) == 1,
         'another region: joined, once')
    raw.end()
    return managed


def ruined(t, m, region, managed):
    """Its superblock is damaged meanwhile: there is nothing to be seen in its tables any more, and
    who sleeps until there is hears that. Nobody rings, without doorbells."""
    watcher = Hand(m.guest, '/dev/portal1')
    if until(lambda: watcher.say('change 1000') == 'timeout', 30) is None:
        raise LabError('tables that always change')
    watcher.ask('change 60000')
    m.hibernate('shutdown')
    with open(region.path, 'r+b') as f:
        f.seek(80)      # its name
        f.write(b'?')
    m.wake_up()
    watcher, managed = m.again(watcher, managed)
    t.equal(watcher.answer(120), 'ok 1', 'a damaged region: who watches is woken, once')
    t.equal((attribute(m.guest, 'mode', 1), attribute(m.guest, 'mode')), ('damaged', 'managed'),
            'a damaged region: that one alone')
    watcher.end()
    return managed


def copied(t, m, tables, managed):
    """A copy of it woke up before it, and lives, or it is put back to before it did."""
    slot, = rows(tables)
    token, claim = session(managed), tables.claim(slot)
    m.hibernate('shutdown')
    tables.put(slot, 128, (tables.sequence(slot) + 1) << 16 | ALIVE)
    m.wake_up()
    managed, = m.again(managed)
    t.equal((managed.say('get 0'), managed.say('session -1')), ('sigbus', 'err ESTALE'),
            'a copy of it lives: no process of before reaches anything')
    managed.end()
    t.ok(until(lambda: joined(m, tables)) is not None and
         tables.claim(joined(m, tables)) != claim, 'a copy of it lives: it joins anew')
    new = Hand(m.guest, '/dev/portal0')
    t.ok(session(new) not in (token, 0), 'a copy of it lives: other tokens')
    if tables.claim(slot) == claim:
        new.must('fence %d %d' % (slot, claim))
    new.end()


def joined(m, tables):
    """The slot that it lives in, or 0."""
    text = attribute(m.guest, 'slot')
    slot = int(text) if text.isdigit() else 0
    return slot if slot and tables.claim(slot) and tables.state(slot) == ALIVE else 0


def spoilt(t, m, tables):
    """The image cannot be read: the kernel that was to load it goes on."""
    slot = int(attribute(m.guest, 'slot'))
    claim = tables.claim(slot)
    m.hibernate('shutdown')
    with open(m.disk, 'r+b') as f:
        f.seek(PAGE)            # which says that there is an image
        for _ in range(DISK_SIZE // PAGE - 1):
            if f.read(PAGE).strip(b'\0'):
                f.seek(-PAGE, os.SEEK_CUR)
                f.write(b'\xff' * PAGE)
    m.guest = m.boot()
    m.guest.call('cat /sys/block/vda/dev > /sys/power/resume', PATIENCE)
    log = m.guest.dmesg()
    t.ok('given up for that of the image' in log and 'recovering' in log,
         'a spoilt image: the kernel that reads it had left', log[-2000:])
    t.ok(until(lambda: joined(m, tables)) is not None and joined(m, tables) != slot,
         'a spoilt image: and joins again')
    t.equal(tables.says(slot, claim), 'suspect', 'a spoilt image: whose it was sleeps still')
    hand = Hand(m.guest, '/dev/portal0')
    t.equal(tables.token(session(hand)), ALIVE, 'a spoilt image: sessions are to be had')
    hand.must('fence %d %d' % (slot, claim))
    hand.end()


def check_end(t, m, tables, name):
    status, text = m.guest.call('portalctl check /dev/portal0')
    t.ok(status == 0, name + 'portalctl check: clean', text)
    m.guest.finish(t)
    t.equal(living(tables), [], name + 'and it has left')


def plain(t, k, rd):
    regions = [Region(SIZE), Region(SIZE)]
    format_('file:' + regions[0].path)
    tables = Tables(region=regions[0])
    m = Machine(k, rd, regions[0].plain('iv0') + regions[1].plain('iv1'))
    for how in m.ways():
        hands = same(t, m, tables, how)
        if how != 'reboot':
            for h in hands:
                h.end()
    managed = another(t, m, tables, regions[1], *hands)
    copied(t, m, tables, ruined(t, m, regions[1], managed))
    spoilt(t, m, tables)
    check_end(t, m, tables, '')


def check_rings(t, hand, name):
    """It is rung where it says, and hears it."""
    peer = int(hand.info()['peer'])
    t.equal((hand.say('ring %d 0' % peer), hand.say('wait 0 10000')), ('ok 0', 'ok 1'),
            '%s: rung by its address there, %d' % (name, peer))
    return peer


def moved(t, k, rd, told):
    """Doorbells: their server has another address for the other QEMU. told: the server has
    tables of its own, and says there that the first QEMU is gone."""
    name = 'doorbells' + (' and verdicts' if told else '')
    servers = [Portald(size='4M', name='managed', more=['--managed'] if told else []),
               Portald(size='4M', name='raw')]
    if not told:
        format_(servers[0].uri)
    tables = Tables(servers[0])
    m = Machine(k, rd, servers[0].doorbell('iv0') + servers[1].doorbell('iv1'))
    managed, raw = (Hand(m.guest, '/dev/portal%d' % n) for n in (0, 1))
    token, slot = session(managed), int(attribute(m.guest, 'slot'))
    claim = tables.claim(slot)
    for h in (managed, raw):
        h.must('map 65536 rw %d' % DATA)
        h.must('put 0 4713')
    raw.must('bind 0')
    before = check_rings(t, raw, name)
    m.hibernate('reboot')
    t.ok(until(lambda: tables.says(slot, claim) == ('dead' if told else 'suspect')) is not None,
         '%s: down, it is %s' % (name, 'dead' if told else 'asleep'))
    t.equal(m.wake_up(), 0, name + ': woken up')
    managed, raw = m.again(managed, raw)
    t.equal((raw.say('get 0'), raw.say('wait 0 10000')), ('ok 4713', 'ok 1'),
            name + ': a raw portal, mapped as before, and who waits is woken once')
    t.ok(check_rings(t, raw, name) != before, name + ': which is another')

    t.ok(until(lambda: joined(m, tables) and tables.claim(joined(m, tables)) != claim)
         is not None, name + ': it joins anew')
    now = joined(m, tables)
    t.equal(tables.claim(now) >> 32, int(attribute(m.guest, 'peer_id')) + 1,
            name + ': by its new address')
    t.equal((tables.token(token), managed.say('get 0'), managed.say('session -1')),
            (DEAD, 'sigbus', 'err ESTALE'), name + ': its session of before is over')
    t.equal(living(tables), [now], name + ': no other row says that anybody lives')
    new = Hand(m.guest, '/dev/portal0')
    t.equal(tables.token(session(new)), ALIVE, name + ': who opens it again has a session')
    new.must('bind 0')
    check_rings(t, new, name)
    if told:
        for h in (managed, raw, new):
            h.end()
        check_end(t, m, tables, name + ': ')
    else:
        m.guest.start('reboot -f')
        t.ok(until(lambda: not living(tables)) is not None and
             tables.state(now) == DEAD, name + ': then it reboots, and has left')
        m.guest.kill()
    for server in servers:
        server.stop()


def main(t):
    k = suite.kernel('6.12')
    rd = suite.initrd(k, user=['portalctl'], names=('virtio_pci', 'virtio_blk'))
    plain(t, k, rd)
    for told in (False, True):
        moved(t, k, rd, told)


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
