#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portalctl: usage, bad input, list, info, ping, watch, ring."""
import json
import os
import re
import subprocess
import tempfile
import time

from ctltest import *

point = Tap()
COMMANDS = ['list', 'info', 'send', 'recv', 'ping', 'watch', 'ring', 'bench', 'format', 'dump',
            'check', 'mode']


@point('--help names every command and the exit codes; each command has its own')
def _(stack):
    code, out, err = run('--help')
    equal((code, err), (0, ''))
    for c in COMMANDS:
        check(re.search(r'(?m)^  %s ' % c, out), c)
        code, text, err = run(c, '--help')
        equal((code, err), (0, ''), c)
        check('Usage: portalctl ' + c in text and 'Exit status:' in text, text)
    equal(run('help', 'ping')[:2], run('ping', '--help')[:2])


@point('--version is the library\'s')
def _(stack):
    equal(run('--version'), (0, 'portalctl %s\n' % lib_version(), ''))


def lib_version():
    import ctypes
    lib().vmp_version.restype = ctypes.c_char_p
    return lib().vmp_version().decode()


MISUSE = [
    [], ['fly'], ['list', 'x'], ['info', '/dev/portal0', 'y'], ['send', '--fly'],
    ['ping', '--count', '0'], ['ping', '--size', '8'], ['ping', '--size', '2M'],
    ['recv', '--offset', '100', 'x'], ['recv', '--length', '4K', 'x'], ['recv', '--side', '2', 'x'],
    ['send', '--vector', 'x'], ['send', '--timeout', '-1'], ['send', '--chunk', '0'], ['ring'],
    ['ring', '1', '2', '3'], ['bench', '--only', 'fly'], ['bench', 'a', 'b', 'c'],
    ['send', '--chunk', '99999999999999999999'], ['format'], ['format', '--peers', '0', 'file:x'],
    ['format', '--uuid', '12', 'file:x'], ['format', '--name', 'x' * 64, 'file:x'],
    ['send', '--packets', 'x'], ['recv', '--packets'], ['ping', '--packets', '--echo'],
    ['ping', '--packets', '--offset', '4096'], ['bind'], ['bind', '--region', '5', 'x'],
    ['bind', '--ring', '100', 'x'], ['bind', '--class', 'x', 'y', 'z'], ['unbind', '--ring', '4K', 'x'],
    ['dump', 'file:a', 'file:b'], ['check', 'file:a', 'file:b'],
]


@point('wrong usage: status 1 and a word about it on standard error only')
def _(stack):
    for args in MISUSE:
        code, out, err = run(*args)
        equal((code, out), (1, ''), args)
        check('portalctl' in err, args)


@point('packet rings only where there are some: status 2, and where that is')
def _(stack):
    path = stack.enter_context(tempfile.TemporaryDirectory()) + '/r'
    code, out, err = run('ping', '--packets', 'file:%s?size=1M' % path)
    equal((code, out), (2, ''))
    check('VMBus' in err, err)


GUID = '3fe7a2d1-0000-4000-8000-00000000abcd'


@point('bind: a GUID is a device of VMBus; of the wrong kind, or none, changes nothing')
def _(stack):
    if os.path.isdir('/sys/bus/vmbus/devices/' + GUID):
        raise Skip('this very device is here')
    for args, want in ((['bind', GUID], 2), (['unbind', GUID], 2), (['bind', '--class', GUID], 2),
                       (['bind', '--region', '1M', 'virtio77'], 1)):
        code, out, err = run(*args)
        # Not root: status 5 for all of them.
        equal((code if not os.geteuid() else want, out), (want, ''), args)
        # modprobe has its own to say.
        check(err.splitlines()[-1].startswith('portalctl: '), err)


@point('what cannot be opened: status 2 and one line')
def _(stack):
    d = scratch(stack)
    open(d + '/portal0', 'w').write('x' * 100)
    small = 'file:%s/region?size=64K' % d
    for uri in ('/dev/portal4095', 'unix:%s/none.sock' % d, 'file:%s/none' % d, d + '/portal0',
                'memfd:fd=99', 'file:/proc/self/status'):
        for args in (['info', uri], ['recv', '--timeout', '1', uri, d + '/out'],
                     ['ping', '--timeout', '1', uri]):
            if args[0] == 'recv' and uri.startswith(d):
                continue        # a FILE there
            code, out, err = run(*args)
            equal((code, out), (2, ''), args)
            equal(err.count('\n'), 1, args)
            check(err.startswith('portalctl: '), err)
    code, _o, err = run('recv', '--offset', '1M', small, d + '/out')
    check(code in (1, 2) and err.count('\n') == 1, err)
    code, _o, err = run('send', small, d + '/none')
    equal((code, 'No such file' in err), (2, True), err)
    code, _o, err = run('send', small, d)
    equal((code, 'directory' in err), (2, True), err)


@point('info: the facts, as text and as JSON')
def _(stack):
    uri, d = region(stack, '2M')
    with open(d + '/region', 'wb') as f:
        f.truncate(2 << 20)
    code, out, err = run('info', uri)
    equal((code, err), (0, ''))
    check('2 MiB' in out and 'file' in out, out)
    o = json.loads(run('info', '--json', uri)[1])
    equal((o['uri'], o['transport'], o['size'], o['vectors']), (uri, 'file', 2 << 20, 0))
    check(d in o['identity'], o)


@point('list: JSON is an array; with no portal it is empty and says why')
def _(stack):
    code, out, err = run('list', '--json')
    rows = json.loads(out)
    here = [n for n in os.listdir('/dev') if re.fullmatch(r'portal\d+', n)]
    equal(sorted(r['device'] for r in rows), sorted('/dev/' + n for n in here))
    if not here:
        equal(code, 0)
        check('modprobe' in err, err)
        equal(run('list')[1], '')


@point('ping: round trips over memory, as text and as JSON')
def _(stack):
    uri, _d = region(stack, '1M')
    for args in ([], ['--size', '24'], ['--size', '65536'], ['--never-sleep'], ['--spin-us', '0']):
        echo = Ctl(stack, 'ping', uri, '--echo', *[a for a in args if a.startswith('--n')])
        o = Ctl(stack, 'ping', uri, '--count', '50', '--json', *args).json()
        echo.ok()
        equal((o['count'], o['sent'], o['received']), (50, 50, 50), args)
        check(0 < o['min_us'] <= o['p50_us'] <= o['p99_us'] <= o['max_us'], o)
    Ctl(stack, 'ping', uri, '--echo')
    check(b'5 round trips of 32 bytes' in Ctl(stack, 'ping', uri, '--count', '5').ok())


@point('ping: no answer, a wrong answer, another command at the other end')
def _(stack):
    uri, _d = region(stack, '1M')
    Ctl(stack, 'ping', uri, '--timeout', '1').fails(3, 'ping --echo')
    p = Ctl(stack, 'ping', uri, '--timeout', '5')
    peer = Peer(stack, uri, 1).connect()
    p.fails(3, 'no answer')
    peer.close()
    p = Ctl(stack, 'ping', uri)
    peer = Peer(stack, uri, 1).connect()
    peer.recv()
    peer.send(frame(PING, PING_FRAME, 1, bytes(8)))
    p.fails(4, 'not what was sent')
    peer.close()
    rx = Ctl(stack, 'recv', uri, _d + '/out')
    Ctl(stack, 'ping', uri, '--timeout', '60').fails(4)
    rx.fails(4, 'ping')


@point('ping --echo --forever serves one ping after the other')
def _(stack):
    uri, _d = region(stack, '1M')
    echo = Ctl(stack, 'ping', uri, '--echo', '--forever')
    for _ in range(3):
        Ctl(stack, 'ping', uri, '--count', '20').ok()
    check(echo.p.poll() is None, 'it ended')
    echo.signal()
    equal(echo.end(), -2)


def portald(stack, *args):
    d = scratch(stack)
    build('portald')
    log = open(d + '/log', 'w')
    p = subprocess.Popen([OUT + '/bin/portald', '--socket-dir', d, '--name', 'demo', '--size', '2M',
                          '--vectors', '3', '--host-peers', '4', *args], stdout=log, stderr=log)
    stack.callback(lambda: (p.kill(), p.wait(), log.close()))
    end = time.monotonic() + LIMIT
    while not os.path.exists(d + '/demo.sock'):
        if p.poll() is not None or time.monotonic() > end:
            raise AssertionError('portald: ' + open(d + '/log').read())
        time.sleep(0.02)
    return 'unix:%s/demo.sock' % d


@point('watch prints each doorbell that ring rings, on its vector')
def _(stack):
    uri = portald(stack)
    w = Ctl(stack, 'watch', uri, '--count', '3', '--timeout', '120', '--json')
    line = w.p.stderr.readline().decode()
    m = re.match(r'watching (\d+) vectors; ring them as peer (\d+)', line)
    check(m and m[1] == '3', line)
    lines = []
    for vector in ('2', '0', '1'):
        equal(run('ring', uri, m[2], vector)[0], 0, 'ring')
        lines.append(json.loads(w.p.stdout.readline()))
    equal(w.ok(), b'')
    equal([(x['vector'], x['count']) for x in lines], [(2, 1), (0, 1), (1, 1)])
    Ctl(stack, 'watch', uri, '--timeout', '1').fails(3, 'no doorbell')
    code, _o, err = run('ring', uri, m[2], '99')
    equal((code, err.count('\n')), (3, 1), err)
    memory, d = region(stack)
    with open(d + '/region', 'wb') as f:
        f.truncate(8 << 20)
    Ctl(stack, 'watch', memory).fails(2, 'no doorbells')


@point('doorbells and system calls are counted as strace counts them')
def _(stack):
    if subprocess.call(['sh', '-c', 'command -v strace >/dev/null']):
        raise Skip('strace is not installed')
    uri = portald(stack)
    d = scratch(stack)
    # A pause before each, so that both ends do go to sleep.
    echo = Ctl(stack, 'ping', uri, '--echo', '--spin-us', '0')
    p = Ctl(stack, 'ping', uri, '--spin-us', '0', '--count', '100', '--interval', '2', '--json',
            prefix=['strace', '-f', '-y', '-o', d + '/trace'],
            # A leak checker is a tracer, too, and there can be one only.
            env=dict(os.environ, ASAN_OPTIONS='detect_leaks=0'))
    o = p.json()
    echo.ok()
    lines = open(d + '/trace').read().splitlines()
    # The counts are taken when they are printed; closing the channel rings once more.
    last = [i for i, x in enumerate(lines) if re.search(r' write\(1<', x)][0]
    rings = [x for x in lines[:last] if
             re.search(r' write\(\d+<anon_inode:\[eventfd\]>, .*= 8$', x)]
    equal(o['doorbells'], len(rings), 'doorbells')
    check(o['doorbells'] >= 95, 'each message wakes a sleeper: %r' % o)
    waits = [x for x in lines[:last] if re.search(r' epoll_p?wait2?\(', x) and 'resumed' not in x]
    # Before each ring: is there room in an eventfd that others hold, too?
    asks = [x for x in lines[:last] if
            re.search(r' poll\(\[\{fd=\d+<anon_inode:\[eventfd\]>, events=POLLOUT', x)]
    equal(o['syscalls'], len(asks) + len(rings) + len(waits), 'system calls')


if __name__ == '__main__':
    build('portalctl')
    point.run()
