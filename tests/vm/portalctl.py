#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portalctl against real devices: a loopback pair in one guest, and what it says
when modules, nodes or devices are missing or go away under it."""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import suite                           # noqa: E402
from lab.tap import Tap                         # noqa: E402


def one_line(t, g, script, code, words, name):
    """The command ends with this status and one line that holds these words."""
    status, text = g.call(script)
    lines = text.strip().splitlines()
    t.ok(status == code and len(lines) == 1 and all(w in lines[0] for w in words), name,
         'status %d, wanted %d\n%s' % (status, code, text))


def mapped(g, device):
    """Until somebody has it mapped."""
    g.run('until grep -q %s /proc/[0-9]*/maps; do sleep 0.1; done' % device)


def missing(t, g):
    one_line(t, g, 'portalctl list', 0, ['modprobe'], 'list without a portal says what to load')
    one_line(t, g, 'portalctl info', 2, ['/dev/portal0'], 'no node: one line, status 2')
    g.run('echo nothing > /dev/portal0')
    one_line(t, g, 'portalctl info', 2, ['/dev/portal0'], 'a regular file in its place: one line')
    one_line(t, g, 'portalctl recv /dev/portal0 /tmp/x', 2, ['/dev/portal0'],
             'recv from a regular file: one line')
    g.run('rm /dev/portal0')


def listed(t, g):
    g.run('modprobe portal_loopback pairs=1 size=4M vectors=3')
    rows = json.loads(g.run('portalctl list --json'))
    t.equal([(r['device'], r['transport'], r['size'], r['vectors']) for r in rows],
            [('/dev/portal%d' % n, 'loopback', 4 << 20, 3) for n in (0, 1)],
            'list --json: both ends of the pair')
    t.ok(len({r['peer_id'] for r in rows}) == 2 and len({r['identity'] for r in rows}) == 2,
         'with ids and identities of their own', rows)
    text = g.run('portalctl list')
    t.ok('DEVICE' in text and '/dev/portal1' in text and '4 MiB' in text, 'list as text', text)
    info = json.loads(g.run('portalctl info --json /dev/portal1'))
    t.ok('ring' in info['caps'] and 'events' in info['caps'], 'info: it rings and is rung', info)


def transfers(t, g):
    g.run('dd if=/dev/urandom of=/tmp/in bs=1M count=20 2>/dev/null')
    rx = g.start('portalctl recv -q --json /dev/portal1 /tmp/out')
    tx = g.start('portalctl send -q --json /dev/portal0 /tmp/in')
    t.equal((tx.wait(60), rx.wait(60)), (0, 0), '20 MiB from portal0 to portal1')
    sums = g.run('sha256sum /tmp/in /tmp/out').split()[::2]
    t.ok(sums[0] == sums[1] == json.loads(rx.text())['sha256'], 'arrive unchanged', sums)
    echo = g.start('portalctl ping --echo /dev/portal1')
    r = json.loads(g.run('portalctl ping --json --count 100 --spin-us 0 /dev/portal0'))
    t.equal((r['count'], echo.wait(20)), (100, 0), '100 round trips')
    w = g.start('portalctl watch --json --count 2 --timeout 240 /dev/portal1')
    peer = w.expect(r'as peer (\d+)', 10).group(1).decode()
    g.run('portalctl ring /dev/portal0 %s 2' % peer)
    w.expect('"vector":2', 20)
    g.run('portalctl ring /dev/portal0 %s 0' % peer)
    w.wait(20)
    rung = [json.loads(x) for x in w.text().splitlines() if x.startswith('{')]
    t.equal([(x['vector'], x['count']) for x in rung], [(2, 1), (0, 1)], 'watch sees ring')


def windows(t, g):
    """A command that has a part of portal1, and one process beside it on portal0."""
    part = 'portalctl exec --window=%s --wait=1 --ring=0 /dev/portal1 -- '
    info = json.loads(g.run(part % '1M:2M' + 'portalctl info --json'))
    t.ok(info['uri'] == 'fd:3' and info['size'] == 2 << 20 and info['vectors'] == 2 and
         'window' in info['caps'], 'exec: its command has a window for its default portal', info)
    rx = g.start(part % '1M:2M' + 'portalctl recv -q --json /tmp/out')
    tx = g.start('portalctl send -q --json --offset 1M --length 2M /dev/portal0 /tmp/in')
    t.equal((tx.wait(60), rx.wait(60)), (0, 0), '20 MiB into a window')
    sums = g.run('sha256sum /tmp/in /tmp/out').split()[::2]
    t.ok(sums[0] == sums[1], 'arrive unchanged', sums)
    w = g.start(part % '0:64K' + 'portalctl watch --json --count 1 --timeout 240')
    peer = w.expect(r'watching 1 vectors; ring them as peer (\d+)', 10).group(1).decode()
    g.run('portalctl ring /dev/portal0 %s 0; portalctl ring /dev/portal0 %s 2; sleep 0.2; '
          'portalctl ring /dev/portal0 %s 1' % (peer, peer, peer))
    w.wait(20)
    t.ok('"vector":1,' in w.text() and '"vector":0' not in w.text(), 'watch hears its own vector',
         w.text())
    nested = 'portalctl exec --window=64K:64K:ro fd:3 -- '
    t.equal(g.run(part % '64K:1M' + nested + 'portalctl info --json | grep -c \'"size":65536\''
                  ).strip(), '1', 'exec within exec: a smaller window')
    t.equal(g.run(part % '64K:1M' + nested + "sh -c 'ls -l /proc/self/fd 2>&1 | grep -c portal'").strip(),
            '1', 'which is the only one that is passed on')
    one_line(t, g, 'portalctl exec --window=0:5M true', 1, ['beyond'], 'exec: too large a window')
    one_line(t, g, 'portalctl exec --window=4K:64K true', 1, ['multiples'], 'exec: not aligned')
    one_line(t, g, 'portalctl exec --window=0:64K --wait=3 true', 1, ['vector 3'],
             'exec: no such vector')
    one_line(t, g, part % '64K:64K' + 'portalctl exec --window=0:64K --ring=1 true', 2,
             ['more than this file has'], 'exec: rings more than its window')
    one_line(t, g, part % '64K:64K:ro' + 'true', 1, ['cannot ring'], 'exec: reads only, and rings')
    one_line(t, g, 'portalctl exec --window=0:64K:ro /dev/portal0 portalctl recv', 2,
             ['VMP_RDONLY'], 'exec: a reading window carries no channel')
    one_line(t, g, 'portalctl exec --window=0:64K /nowhere', 127, ['/nowhere'],
             'exec: a command that is not there')
    t.equal(g.call('portalctl exec --window=0:64K sh -c "exit 42"')[0], 42,
            "exec: the command's status")


def benches(t, g):
    status, text = g.call('portalctl bench --only rtt /dev/portal0 /dev/portal1')
    t.ok(status == 5 and 'two CPUs' in text, 'bench of two ends refuses one CPU in a line', text)
    other = g.start('portalctl bench --side 1 --timeout 120 /dev/portal1')
    r = json.loads(g.run('portalctl bench --side 0 --only wake --windows 3 --timeout 120 --json '
                         '/dev/portal0', 120))
    t.ok(other.wait(20) == 0 and [b['name'] for b in r['cases'][0]['beside']] ==
         ['bare doorbells'], 'bench of a wake-up beside the bare doorbells', r)


def peers(g, dev):
    return {p['slot']: p for p in json.loads(g.run('portalctl peers --json ' + dev))['peers']}


def objects(t, g):
    """What one end makes, the other has; what one end declares dead, comes again as another."""
    g.run('portalctl create /dev/portal0 table 100K')
    t.equal([(r['name'], r['bytes'], r['opens']) for r in json.loads(g.run('portalctl ls --json /dev/portal1'))],
            [('table', 102400, 0)], 'create at one end, ls at the other')
    one_line(t, g, 'portalctl create /dev/portal1 table 1', 6, ['there already'], 'create: the name is taken')
    w = g.start('portalctl watch --json --count 1 --timeout 240 /dev/portal1')
    w.expect('watching its tables', 10)
    g.run('portalctl rm /dev/portal0 table')
    w.wait(20)
    t.ok('"change":"' in w.text(), 'watch tells what the other end changes', w.text())
    before = peers(g, '/dev/portal0')
    t.equal([(p['state'], p['kind']) for p in before.values()], [('alive', 'guest')] * 2, 'peers: both ends')
    text = g.run('portalctl top --once /dev/portal0')
    t.ok('2 peers, 0 sessions, 0 objects' in text, 'top --once', text)
    slot = int(g.run('cat /sys/class/portal/portal1/slot'))
    one_line(t, g, 'portalctl fence /dev/portal0 %d' % slot, 6, ['its heart beats', '--force'],
             'fence of one whose heart beats is refused')
    g.run('portalctl fence --force /dev/portal0 %d' % slot)
    for _ in range(100):
        now = peers(g, '/dev/portal0')
        if len(now) == 2 and now != before and all(p['state'] == 'alive' for p in now.values()) and \
                {p['incarnation'] for p in now.values()} != {p['incarnation'] for p in before.values()}:
            break
        g.run('sleep 0.1')
    else:
        t.ok(False, 'fenced, it never comes again', now)
    t.ok(True, 'fence --force: it comes again, as another')
    g.run('portalctl create /dev/portal1 again 1; portalctl rm /dev/portal1 again')


def managed(t, g):
    """One region, two devices: each kernel has a mode of its own, and keeps it."""
    one_line(t, g, 'portalctl format /dev/portal0', 6, ['not empty', '--force'],
             'format of what is not empty is refused')
    g.run('portalctl format --force --name pair /dev/portal0')
    t.equal(g.run('portalctl mode /dev/portal0; portalctl mode /dev/portal1; '
                  'cat /sys/class/portal/portal0/mode').split(), ['managed', 'raw', 'managed'],
            'the one that was formatted is managed, the other as it was')
    see = 'portalctl exec --window=0:%s:ro /dev/portal0 portalctl %s'
    t.equal(json.loads(g.run(see % ('4M', 'dump --json')))['name'], 'pair',
            'a reading window of all of it shows its tables')
    t.equal(g.call(see % ('64K', 'dump'))[0], 6, 'one of a part is just memory')
    one_line(t, g, 'portalctl exec --window=0:1M /dev/portal0 true', 2, ['tables'],
             'a writing window over its tables is refused')
    g.run('portalctl mode /dev/portal1 managed')
    d = json.loads(g.run('portalctl dump --json /dev/portal1'))
    t.equal(d['name'], 'pair', 'dump by the other')
    rx = g.start('portalctl recv -q /dev/portal1 /tmp/out2')
    tx = g.start('portalctl send -q /dev/portal0 /tmp/in')
    t.equal((tx.wait(60), rx.wait(60)), (0, 0), '20 MiB through the data')
    sums = g.run('sha256sum /tmp/in /tmp/out2').split()[::2]
    t.ok(sums[0] == sums[1], 'arrive unchanged', sums)
    objects(t, g)
    t.equal(g.run('portalctl check /dev/portal0').strip(), '/dev/portal0: clean', 'tables are clean')
    rx = g.start('portalctl recv -q /dev/portal1 /tmp/out3')
    mapped(g, '/dev/portal1')
    one_line(t, g, 'portalctl mode /dev/portal1 raw', 5, ['mapped'], 'mode while it is mapped: refused')
    one_line(t, g, 'portalctl format --force /dev/portal1', 6, ['pid'], 'and so is format')
    g.run('kill %s' % g.run('pidof portalctl').split()[0])
    rx.wait(20)
    one_line(t, g, 'portalctl format --force /dev/portal1', 6, ['2 peers'],
             'format, while machines have their rows there: refused')
    g.run('portalctl mode /dev/portal0 raw; portalctl mode /dev/portal1 raw; '
          'portalctl format --force /dev/portal1')
    t.equal(g.run('portalctl check /dev/portal1').strip(), '/dev/portal1: clean',
            'formatted once more, when both have left')
    g.run('portalctl mode /dev/portal1 raw')


def revoked(t, g):
    jobs = [g.start('portalctl ' + c) for c in (
        'recv /dev/portal1 /tmp/none', 'watch /dev/portal0')]
    jobs[1].expect('watching', 10)
    mapped(g, '/dev/portal1')
    g.run('sleep 0.5; rmmod portal_loopback')
    for j in jobs:
        code, text = j.wait(20), j.text()
        bad = [x for x in text.splitlines() if x.startswith('portalctl: ')]
        t.ok(code == 3 and len(bad) == 1, 'the device goes under it: %s: one line, status 3' %
             j.script, '%d\n%s' % (code, text))


def main():
    k = suite.kernel()
    with Tap() as t:
        rd = suite.initrd(k, user=['portalctl'])
        with suite.guest('a', k, rd) as g:
            missing(t, g)
            listed(t, g)
            transfers(t, g)
            windows(t, g)
            benches(t, g)
            managed(t, g)
            revoked(t, g)
            g.finish(t)


if __name__ == '__main__':
    main()
