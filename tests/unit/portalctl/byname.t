#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""byname.t - portalctl send --name, recv --name: lines from many to one, over a real portald."""
import json
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ctltest import OUT, Ctl, Tap, build, check, equal, run, scratch, wait_for   # noqa: E402

point = Tap()


def portal(stack):
    d = scratch(stack)
    p = subprocess.Popen([os.path.join(OUT, 'bin', 'portald'), '--name=t', '--size=16M', '--managed',
                          '--host-peers=32', '--connect-rate=0', '--socket-dir=' + d],
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(lambda: (p.kill(), p.wait()))
    wait_for(lambda: os.path.exists(d + '/t.sock'), 'portald')
    return 'unix:%s/t.sock' % d


def sender(stack, uri, lines):
    s = Ctl(stack, 'send', '--name=log', uri, stdin=subprocess.PIPE)
    s.p.stdin.write(''.join(line + '\n' for line in lines).encode())
    s.p.stdin.close()
    s.p.stdin = None
    return s


@point('three senders, one receiver: each line once, each sender\'s in order')
def _(stack):
    uri = portal(stack)
    r = Ctl(stack, 'recv', '--name=log', '--count=600', uri)
    senders = [sender(stack, uri, ['%d %d' % (n, i) for i in range(200)]) for n in range(3)]
    for s in senders:
        s.ok()
    r.ok()
    got = r.out.decode().splitlines()
    equal(len(got), 600)
    for n in range(3):
        equal([g for g in got if g.startswith('%d ' % n)], ['%d %d' % (n, i) for i in range(200)])


@point('ls: the name is a channel\'s, of whom receives and who sends; it stays when they have gone')
def _(stack):
    uri = portal(stack)
    r = Ctl(stack, 'recv', '--name=log', uri)
    s = Ctl(stack, 'send', '--name=log', uri, stdin=subprocess.PIPE)

    def rows():
        return json.loads(run('ls', '--json', uri)[1])

    wait_for(lambda: [x['opens'] for x in rows()] == [2], 'both ends')
    row, = rows()
    equal((row['kind'], row['name'], row['state'], row['mode'], len(set(row['users']))),
          ('channel', 'log', 'named', '0600', 2))
    code, out, err = run('ls', uri)
    equal((code, len(out.splitlines())), (0, 2), err)
    check(re.match(r'channel .* 0600 +2 +\S+ +log$', out.splitlines()[1]), out)
    # Another kind of object does not take its name, nor is it taken for one.
    code, _out, err = run('create', uri, 'log', '4K')
    check(code == 6 and 'log' in err, f'{code} {err}')
    equal(run('create', uri, 'table', '4K')[0], 0)
    equal({x['name']: x['kind'] for x in rows()}, {'log': 'channel', 'table': 'raw'})
    s.p.kill()
    r.p.kill()

    # Who has died has it open until the next change.
    def closed():
        run('create', uri, 'x', '4K')
        run('rm', uri, 'x')
        return [x['opens'] for x in rows() if x['name'] == 'log'] == [0]

    wait_for(closed, 'their ends')


@point('a receiver that is killed: the next one goes on where it was')
def _(stack):
    uri = portal(stack)
    first = Ctl(stack, 'recv', '--name=log', '--who', uri)
    s = Ctl(stack, 'send', '--name=log', uri, stdin=subprocess.PIPE)
    for i in range(500):
        s.p.stdin.write(b'line %d\n' % i)
    s.p.stdin.flush()
    text = b''
    while text.count(b'\n') < 100:
        text += os.read(first.p.stdout.fileno(), 1000)
    first.p.kill()
    text += first.p.communicate()[0]
    got = [line for line in text.decode().splitlines(True) if line.endswith('\n')]
    second = Ctl(stack, 'recv', '--name=log', '--who', '--timeout=10', uri)
    for i in range(500, 1000):
        s.p.stdin.write(b'line %d\n' % i)
    s.p.stdin.close()
    s.p.stdin = None
    s.ok()
    equal(second.end(), 3)
    got += second.out.decode().splitlines(True)
    numbers = []
    for line in got:
        token, _, text = line.partition(' ')
        check(token.startswith('0x'), line)
        again, n = text.startswith('(again) '), int(text.split()[-1])
        if again and numbers and n == numbers[-1]:
            continue
        numbers.append(n)
    wrong = [(i, n) for i, n in enumerate(numbers) if i != n]
    check(len(numbers) == 1000 and not wrong, '%d lines, %s' % (len(numbers), wrong[:3]))


@point('what cannot be is refused, and says what to do')
def _(stack):
    uri = portal(stack)
    for words, code, word in (
            (['send', '--name=log', '--resume', uri], 1, 'without'),
            (['send', '--name=log', '--rate=1K', uri], 1, '--rate'),
            (['recv', '--count=3', uri], 1, '--name'),
            (['recv', '--name=log', uri, '/tmp/x'], 1, 'standard output'),
            (['recv', '--name=a/b', uri], 1, 'name'),
            (['send', '--name=log', '--timeout=1', uri], 3, 'recv --name=log'),
            (['recv', '--name=log', '--timeout=1', uri], 3, 'nobody sent'),
            (['recv', '--name=log', 'memfd:size=1M'], 6, 'not a managed portal')):
        got, _out, err = run(*words)
        check(got == code and word in err, '%s: %d %s' % (words, got, err))


if __name__ == '__main__':
    build('portalctl', 'portald')
    point.run()
