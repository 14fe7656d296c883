#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portalctl bench: it runs everywhere it should, its counts are right, its JSON
parses. No figure is asserted: they are for people, on a quiet machine."""
import json
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '../unit/portalctl'))
from ctltest import *                               # noqa: E402

point = Tap()
SHORT = ['--windows', '3', '--window-ms', '5']
KEYS = ['rtt', 'rate-spin', 'rate-batch', 'rate-solo', 'bulk-copy', 'bulk-place', 'wake']


def case(o, key):
    return [c for c in o['cases'] if c['key'] == key][0]


def sane(c):
    """The shape of one case, whatever its figures."""
    check(c['beside'], c['key'] + ' stands alone')
    for f in [c['ours']] + c['beside']:
        check(f['median'] > 0, f)
    for f in c['beside']:
        r = f['ratio']
        check(0 < r['p10'] <= r['median'] <= r['p90'], f)
        good = r['median'] <= c['aim'] if c['aim_is'] == 'at most' else r['median'] >= c['aim']
        if 'alone' in f['name']:
            check('reached' not in f, 'a figure for scale has no aim')
        else:
            equal(f['reached'], good, f['name'])
    check(c['messages'] > 0, c)
    for n in ('doorbells', 'syscalls'):
        check(abs(c['per_message'][n] - c[n] / c['messages']) < 1e-9, c)


def wakes_each(c):
    """Each message wakes its receiver: one ring and one sleep for each. And a few more as a window
    begins and ends, which count where it holds few messages."""
    few = 4 * c['windows']
    return 0.9 * c['messages'] <= c['doorbells'] <= 1.1 * c['messages'] + few and \
        1.8 * c['messages'] <= c['syscalls'] <= 2.3 * c['messages'] + 2 * few


@point('every case over the memory of two processes: JSON with figures, ratios, counts')
def _(stack):
    if len(os.sched_getaffinity(0)) < 2:
        raise Skip('one CPU only: two processes that spin need two')
    o = Ctl(stack, 'bench', '--json', *SHORT).json()
    equal([c['key'] for c in o['cases']], KEYS)
    for c in o['cases']:
        sane(c)
    for key in ('rtt', 'rate-spin'):
        c = case(o, key)
        equal((c['syscalls'], c['doorbells']), (0, 0), key + ': ends that never sleep')
    # On a busy machine a receiver may be kept from its sleep now and then: but not each time.
    c = case(o, 'wake')
    for _ in range(4):
        if wakes_each(c):
            break
        c = case(Ctl(stack, 'bench', '--json', '--only', 'wake', *SHORT).json(), 'wake')
    check(wakes_each(c), c)
    for c in o['cost']:
        check(c['instructions'] is None or 20 < c['instructions'] < 20000, c)


@point('a managed portal: its tables stay as they are')
def _(stack):
    if len(os.sched_getaffinity(0)) < 2:
        raise Skip('one CPU only: two processes that spin need two')
    uri, d = region(stack, '8M')
    for args in (('format', uri), ('check', uri)):
        equal(run(*args)[0], 0, args[0])
    path = d + '/region'
    with open(path, 'rb') as f:
        before = f.read(65536)
    o = Ctl(stack, 'bench', '--json', '--only', 'rtt,wake', *SHORT, uri).json()
    for c in o['cases']:
        sane(c)
    with open(path, 'rb') as f:
        check(f.read(65536) == before, 'the tables changed')
    equal(run('check', uri)[0], 0, 'portalctl check')


@point('counted instructions are the same twice')
def _(stack):
    if os.environ.get('PORTALCTL'):
        raise Skip('another build than the one that is measured')
    got = [[c['instructions'] for c in Ctl(stack, 'bench', '--json', '--only', 'cost').json()['cost']]
           for _ in range(2)]
    if None in got[0]:
        raise Skip('this machine forbids ptrace')
    # Adaptive paths may differ by a few.
    for a, b in zip(*got):
        check(abs(a - b) <= 0.1 * a, got)


@point('rivals are compiled in where their headers are')
def _(stack):
    if len(os.sched_getaffinity(0)) < 2:
        raise Skip('one CPU only')
    o = Ctl(stack, 'bench', '--json', '--only', 'rate-spin,rate-solo', *SHORT).json()
    want = []
    for header, name in (('/usr/include/ck_ring.h', 'ck_ring'),
                         ('/usr/include/boost/lockfree/spsc_queue.hpp', 'boost spsc_queue')):
        if os.path.exists(header):
            want.append(name)
    if not want:
        raise Skip('neither libck-dev nor libboost-dev is installed')
    equal([f['name'] for f in case(o, 'rate-spin')['beside']], want)
    equal([f['name'] for f in case(o, 'rate-solo')['beside']],
          [w + ' + fence and flag' for w in want])


@point('text: each case with its aim, and the instructions')
def _(stack):
    if len(os.sched_getaffinity(0)) < 2:
        raise Skip('one CPU only')
    text = Ctl(stack, 'bench', '--only', 'rtt,wake,cost', *SHORT).ok().decode()
    for word in ('round trip of 32 B', 'bare cache lines', 'ratio', 'aim at most 1.15',
                 'bare eventfds', 'bare doorbells', 'per message', 'instructions'):
        check(word in text, '%r is not in %s' % (word, text))


@point('two ends that are started apart, as two machines would; no rivals then')
def _(stack):
    uri, _d = region(stack, '16M')
    other = Ctl(stack, 'bench', '--side', '1', uri)
    b = Ctl(stack, 'bench', '--side', '0', '--json', uri, *SHORT)
    o = b.json()
    other.ok()
    equal([c['key'] for c in o['cases']], ['rtt', 'bulk-copy', 'bulk-place'])
    for c in o['cases']:
        sane(c)
    for key in ('rate-spin', 'rate-batch', 'rate-solo', 'wake'):
        check(b'%s left out: ' % key.encode() in b.err, b.err)


@point('a region of 1 MiB: what fits is measured, what does not is named')
def _(stack):
    uri, _d = region(stack, '1M')
    other = Ctl(stack, 'bench', '--side', '1', uri)
    b = Ctl(stack, 'bench', '--side', '0', '--json', '--only', 'rtt,bulk-copy', uri, *SHORT)
    equal([c['key'] for c in b.json()['cases']], ['rtt'])
    check(b'bulk-copy left out' in b.err, b.err)
    other.ok()
    small, _d = region(stack, '256K')
    Ctl(stack, 'bench', '--side', '0', '--timeout', '1', small).fails(2, 'at least')


@point('the other end is missing, killed, or another program: status 3 or 4, soon')
def _(stack):
    uri, _d = region(stack, '1M')
    Ctl(stack, 'bench', '--side', '0', '--timeout', '1', uri).fails(3, '--side 1')
    other = Ctl(stack, 'bench', '--side', '1', uri)
    b = Ctl(stack, 'bench', '--side', '0', '--only', 'rtt', '--windows', '1000', '--timeout', '3',
            uri)
    time.sleep(1)
    other.p.kill()
    b.fails(3)


@point('Ctrl-C ends both processes')
def _(stack):
    if len(os.sched_getaffinity(0)) < 2:
        raise Skip('one CPU only')
    b = Ctl(stack, 'bench', '--only', 'rtt', '--windows', '10000', start_new_session=True)
    time.sleep(1)
    os.killpg(b.p.pid, signal.SIGINT)
    equal(b.end(20), -signal.SIGINT)
    left = [p for p in filter(str.isdigit, os.listdir('/proc')) if in_group(p, b.p.pid)]
    equal(left, [], 'processes of its group')


def in_group(pid, group):
    try:
        with open('/proc/%s/stat' % pid) as f:
            fields = f.read().rpartition(')')[2].split()
    except OSError:
        return False
    return fields[2] == str(group) and fields[0] != 'Z'


if __name__ == '__main__':
    build('portalctl')
    point.run()
