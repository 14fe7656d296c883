#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A region by GPADL, seen by a guest and by a process of its host.

vmbus_region.py [KERNEL]. Regions of 1, 31, 32 and 200 MiB, each written and
read from both sides whole; three channels whose signals are doorbells; locked
adds by both; a file by portalctl either way; what of the guest's memory a process of
the host gets, and what it gets of a host that shares it all; RAM that cannot be shared.
About a minute.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import hand, tables  # noqa: E402
from lab.cache import say  # noqa: E402
from lab.tap import Tap  # noqa: E402
import vmbuspair as lab  # noqa: E402

MIB = 1 << 20
SIZES = [1, 31, 32, 200]
ROUNDS = 500
ADDS = 1000000
MAGIC = 0x706f7274616c2021


def check_content(t, g, mib):
    """Both sides write every word, and read what the other wrote."""
    size = mib * MIB
    host, own = lab.client(g), hand.Hand(g, program='libhand')
    own.must('open /dev/portal0')
    facts = [dict(w.split('=', 1) for w in h.must('info').split())
             for h in (host, own)]
    t.equal([int(f['size']) for f in facts], [size, size],
            '%d MiB: both sides see that size' % mib)
    answers = [h.say('check 0 8 0') and h.must('get %d' % (size - 8))
               for h in (host, own)]
    t.equal(answers, ['0', '0'], '%d MiB: it begins as zeroes' % mib)
    own.must('fill 0 %d 1' % size, 120)
    t.equal(host.say('check 0 %d 1' % size, 120), 'ok',
            '%d MiB: the host reads what the guest wrote' % mib)
    host.must('fill 0 %d 2' % size, 120)
    t.equal(own.say('check 0 %d 2' % size, 120), 'ok',
            '%d MiB: the guest reads what the host wrote' % mib)
    s = lab.status(g)
    t.diag('%d MiB in %d GPADLs, %d runs of guest memory' % (
        mib, s['gpadls'], s['runs']))
    for h in (own, host):
        h.end()
    return s


def check_sizes(t, g):
    for mib in SIZES:
        say('region of %d MiB' % mib)
        t.ok(lab.load(g, region='%dM' % mib), '%d MiB: the module loads, '
             '/dev/portal0 is there' % mib, g.dmesg()[-2000:])
        check_content(t, g, mib)
        g.run('rmmod portal_vmbus')
        lab.wait_status(g, state='closed', clients=0)


def check_doorbells(t, g):
    """Every vector, both ways: n answered rings are n events."""
    host, own = lab.client(g), hand.Hand(g, program='libhand')
    own.must('open /dev/portal0')
    info = [dict(w.split('=', 1) for w in h.must('info').split())
            for h in (host, own)]
    t.equal([i['vectors'] for i in info], ['3', '3'], 'three channels are '
            'three vectors')
    ids = [i['peer'] for i in info]
    for v in range(3):
        # Opening a channel signals: what is there already is no answer.
        for h in (host, own):
            while h.say('wait %d 50' % v) == 'ok':
                pass
        own.ask('echo %d %s %d %d' % (v, ids[0], v, ROUNDS))
        host.must('ring %s %d' % (ids[1], v))
        host.ask('echo %d %s %d %d' % (v, ids[1], v, ROUNDS - 1))
        t.equal([own.answer(60), host.answer(60)], ['ok', 'ok'],
                'vector %d: %d rings to and fro' % (v, ROUNDS))
        host.must('wait %d 5000' % v)       # the last answer
    for v in range(3):
        others = [h.say('wait %d 100' % v) for h in (host, own)]
        t.equal(others, ['timeout', 'timeout'], 'vector %d: and no other '
                'event' % v)
    for h in (own, host):
        h.end()


def check_guard(t, g):
    """Locked adds by both on one word."""
    hands = [lab.client(g), hand.Hand(g, program='libhand')]
    hands[1].must('open /dev/portal0')
    hands[0].must('put 4096 0')
    for h in hands:
        h.ask('add 4096 %d' % ADDS)
    t.equal([h.answer(120) for h in hands] + [hands[0].must('get 4096')],
            ['ok', 'ok', str(2 * ADDS)],
            'guard: %d locked adds by each side add up' % ADDS)
    for h in hands:
        h.end()


def check_tools(t, g):
    uri = 'unix:' + g.socket
    for who, where in ((g, '/dev/portal0'), (g.l1, uri)):
        status, text = who.call('portalctl info ' + where)
        t.ok(status == 0 and '16' in text, '%s: portalctl info %s' % (
            who.name, where), text)
    text = g.run('portalctl list')
    t.ok('vmbus' in text, 'portalctl list shows the device', text)
    g.run('head -c 3000000 /dev/urandom >/tmp/f')
    want = g.run('sha256sum </tmp/f')
    recv = g.l1.start('portalctl recv -q -t 60 %s /tmp/got' % uri)
    send = g.start('portalctl send -q -t 60 /dev/portal0 /tmp/f')
    t.equal([send.wait(90), recv.wait(90)], [0, 0],
            'a file goes from the guest to the host')
    recv = g.start('portalctl recv -q -t 60 /dev/portal0 /tmp/back')
    send = g.l1.start('portalctl send -q -t 60 %s /tmp/got' % uri)
    t.equal([send.wait(90), recv.wait(90)], [0, 0], 'and back')
    t.equal(g.run('sha256sum </tmp/back'), want, 'unchanged')
    pong = g.l1.start('portalctl ping --echo -t 60 ' + uri)
    status, text = g.call('portalctl ping -c 20 -t 60 /dev/portal0', 90)
    t.ok(status == 0, 'portalctl ping', text)
    t.equal(pong.wait(60), 0, 'and its other end')


def mapped(g):
    """What of whose memory the host's client, a libhand, maps: [(name, bytes)]."""
    found = []
    for line in g.l1.run('grep -e dmabuf: -e memfd: /proc/$(pidof libhand)/maps').splitlines():
        first, last = [int(x, 16) for x in line.split()[0].split('-')]
        found.append((line.split()[5].split(':')[0], last - first))
    return found


def check_share(t, g):
    """A process gets a dma-buf, of the region's size, and nothing of the guest's RAM."""
    host = lab.client(g)
    size = int(g.run('cat /sys/class/portal/portal0/size'))
    t.equal(mapped(g), [('/dmabuf', size)], 'a process of the host gets a dma-buf of just '
            'the region, and no file of the guest')
    host.end()


def check_all_ram(t, l1):
    """share=all-ram: the RAM, to QEMU's own user and nobody else."""
    with lab.guest(l1, channels=1, memory=256, vsp='share=all-ram') as g:
        t.ok(lab.load(g, '2M'), 'share=all-ram: the guest notices nothing')
        own = hand.Hand(g, program='libhand')
        own.must('open /dev/portal0')
        own.must('put 4096 %d' % MAGIC)
        l1.run('chmod 666 %s; echo nobody:x:65534:65534::/:/bin/sh >/etc/passwd' % g.socket)
        other = hand.Hand(l1, program='su nobody -c libhand')
        text = other.say('open unix:' + g.socket)
        t.ok('EPERM' in text and "QEMU's own user only" in text,
             "all of the RAM: another user is refused, whatever the socket's mode", text)
        other.end()
        host = lab.client(g)
        info = host.info()
        t.equal(int(info['size']), 256 * MIB, "QEMU's own user gets all of it")
        t.equal(mapped(g), [('/memfd', 256 * MIB)], 'which is the file of the RAM')
        at = int(host.must('find %d' % MAGIC))
        t.ok(at > MIB, "in it the region's page is found", at)
        host.must('put %d 5' % at)
        t.equal(own.say('get 4096'), 'ok 5', 'and is the very same')
        for h in (own, host):
            h.end()
        g.finish(t)


def check_unsealed(t, l1):
    """RAM whose file somebody may shorten: what is mapped of it could go."""
    with lab.guest(l1, channels=1, memory=256, ram='seal=off') as g:
        def reason():
            l1.run('true')      # what L1's programs have said comes with its answer
            return 'is not RAM backed by a sealed memfd' in g.job.text()
        t.ok(not lab.load(g, '2M') and tables.until(reason, 10 * g.slow) is not None,
             'RAM from a memfd that is not sealed: no channel is opened, with the reason',
             g.job.text() + g.dmesg()[-2000:])
        g.finish(t)


def whole(t, l1):
    with lab.guest(l1, channels=3, memory=768) as g:
        check_sizes(t, g)
        t.ok(lab.load(g), 'the module loads with its own sizes')
        check_doorbells(t, g)
        check_guard(t, g)
        check_tools(t, g)
        check_share(t, g)
        g.finish(t)


def main():
    with Tap() as t, lab.start_l1(memory='3G') as l1:
        whole(t, l1)
        check_all_ram(t, l1)
        check_unsealed(t, l1)
        l1.finish(t)


main()
