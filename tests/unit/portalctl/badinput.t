#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Bad input: each kind has one line that says what is wrong and what to do, and an exit
status of its own; and what --help offers is what the man pages describe."""
import os
import re
import socket
import struct
import subprocess
import time

from ctltest import *

point = Tap()
build('all')
PORTALD = os.path.join(os.path.dirname(CTL), 'portald')
COMMANDS = [c for c in re.findall(r'(?m)^  (\w+) ', run('--help')[1])]


def one_line(args, code, *words, program=CTL):
    """It fails with this status and one line with all these words."""
    r = subprocess.run([program, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True, timeout=LIMIT)
    equal((r.returncode, r.stdout), (code, ''), f'{args}: {r.stderr}')
    equal(r.stderr.count('\n'), 1, f'{args}: lines of {r.stderr!r}')
    for w in words:
        check(w in r.stderr, f'{args}: {w!r} is not in {r.stderr!r}')


@point('region too small: for a page, for a channel, for portald')
def _(stack):
    d = scratch(stack)
    with open(d + '/tiny', 'wb') as f:
        f.write(b'x' * 100)
    one_line(['send', f'file:{d}/tiny', '/etc/hostname'], 2, 'smaller than a page', 'size=16M')
    one_line(['send', f'file:{d}/r?size=32K', '/etc/hostname'], 1, '32768 bytes are too small',
             '65536', 'larger')
    one_line(['--name', 'x', '--size', '1K'], 2, 'too small', '64K', program=PORTALD)


@point('not a power of two: where a PCI BAR needs one, and only there')
def _(stack):
    d = scratch(stack)
    one_line(['--name', 'x', '--size', '3M'], 2, 'not a power of two', '2M or 4M', program=PORTALD)
    equal(run('ping', '-t', '1', f'file:{d}/r?size=3M')[0], 3)


@point('socket in use, by another portald and by another program')
def _(stack):
    d = scratch(stack)
    args = ['--name', 'x', '--size', '1M', '--socket-dir', d]
    p = subprocess.Popen([PORTALD, *args], stderr=subprocess.DEVNULL)
    stack.callback(p.wait, 5)
    stack.callback(p.terminate)
    wait_for(lambda: os.path.exists(d + '/x.sock'), 'the socket')
    one_line(args, 1, f'in use by pid {p.pid}', 'stop that portald', program=PORTALD)
    s = socket.socket(socket.AF_UNIX)
    stack.callback(s.close)
    s.bind(d + '/y.ivshmem')
    s.listen(1)
    one_line(['--name', 'y', '--size', '1M', '--socket-dir', d], 1, f'in use by pid {os.getpid()}',
             'choose another name', program=PORTALD)


@point('the wrong socket: QEMU\'s, a stale one, none, one of another program')
def _(stack):
    d = scratch(stack)
    s = socket.socket(socket.AF_UNIX)
    s.bind(d + '/a.ivshmem')
    s.listen(1)
    one_line(['info', f'unix:{d}/a.ivshmem'], 2, 'stream socket', 'NAME.sock')
    s.close()
    one_line(['info', f'unix:{d}/a.ivshmem'], 2, 'nobody serves it', 'start portald')
    one_line(['info', f'unix:{d}/b.sock'], 2, 'no such socket', 'is portald running')
    one_line(['info', d + '/a.ivshmem'], 2, 'is a socket', 'unix:')
    one_line(['info', 'unix:' + d + '/x' * 60], 2, 'path has 1 to 107')


@point('a peer of another version: of the layout, of the lanes, of portald\'s protocol')
def _(stack):
    uri, d = region(stack, '1M')
    peer = Peer(stack, uri, 0)
    path = uri[5:].split('?')[0]
    with open(path, 'r+b') as f:        # side 0's hello: magic | version << 32
        hello = struct.unpack('<Q', f.read(8))[0]
        f.seek(0)
        f.write(struct.pack('<Q', hello + (5 << 32)))
    one_line(['recv', '-t', '1', uri, d + '/out'], 4, 'version 6', 'update the older')
    with open(path, 'r+b') as f:
        f.write(struct.pack('<QQ', hello, 4096))
    one_line(['recv', '-t', '1', uri, d + '/out'], 4, 'same offset and length')
    peer.close()
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stack.callback(s.close)
    s.bind(d + '/v.sock')
    s.listen(1)
    c = Ctl(stack, 'info', f'unix:{d}/v.sock')
    conn, _a = s.accept()
    conn.recv(200)
    conn.send(struct.pack('<IIIIQ104s', 6, 0, 93, 0, 0,         # REFUSE, EPROTONOSUPPORT
                          b'portald speaks version 9, not 1: update the older of the two'))
    c.fails(2, 'version 9', 'update the older')
    conn.close()


@point('a truncated file: before it is opened, and while it is sent')
def _(stack):
    d = scratch(stack)
    subprocess.run(['truncate', '-s', '1000', d + '/r'], check=True)
    one_line(['recv', f'file:{d}/r', d + '/out'], 2, 'smaller than a page', 'size=')
    one_line(['recv', f'file:{d}/none', d + '/out'], 2, 'size=BYTES makes it')
    one_line(['info', f'file:{d}/none?size=1M'], 2, 'read-only')


@point('no device: a regular file in its place, no module, no such portal, another device')
def _(stack):
    if not os.access('/dev', os.W_OK) or os.path.exists('/dev/portal4094'):
        raise Skip('/dev cannot be written to')
    with open('/dev/portal4094', 'w') as f:
        stack.callback(os.unlink, '/dev/portal4094')
        f.write('x')
    one_line(['info', '/dev/portal4094'], 2, 'is a regular file, not a device', 'remove it',
             'modprobe')
    one_line(['info', '/dev/portal4093'], 2, 'portal4093',
             'portalctl list' if os.path.exists('/sys/class/portal') else 'modprobe')
    one_line(['info', '/dev/null'], 2, 'is not a portal')


@point('options that cannot be: one usage line each, status 1')
def _(stack):
    d = scratch(stack)
    for args in (['ping', '-t', 'x'], ['send', '--side', '2'], ['recv', '--offset', '1']):
        code, out, err = run(*args, f'file:{d}/r?size=1M')
        equal((code, out), (1, ''), args)
        check(err.startswith('portalctl ' + args[0] + ': '), err)


def options_of(text):
    return set(re.findall(r'(?<![\w-])--[a-z][a-z0-9-]+', text)) - {'--help', '--usage', '--version'}


def man(page):
    with open(os.path.join(TOP, 'userspace', 'man', page)) as f:
        return f.read().replace('\\-', '-')


@point('portalctl(1) has every command and option that --help has, and no other')
def _(stack):
    page = man('portalctl.1')
    every = set()
    check(len(COMMANDS) >= 13, COMMANDS)
    for c in COMMANDS:
        check(re.search(r'(?m)^\.(SS|B|BR|BI|TP).*\b%s\b' % c, page), f'{c} is not in portalctl(1)')
        code, out, err = run(c, '--help')
        equal((code, err), (0, ''), c)
        check('Exit status:' in out, f'{c} --help: no exit codes')
        every |= options_of(out)
        missing = options_of(out) - options_of(page)
        equal(missing, set(), f'{c}: not in portalctl(1)')
    # What it describes; examples show other programs' options, too.
    described = options_of('\n'.join(re.findall(r'(?m)^\.TP\n(.*)', page)))
    check(len(described) > 30, described)
    equal(described - every, set(), 'in portalctl(1) only')


@point('portald(8) and portald.conf(5) have every option that --help has')
def _(stack):
    r = subprocess.run([PORTALD, '--help'], stdout=subprocess.PIPE, text=True, timeout=LIMIT)
    equal(r.returncode, 0)
    pages = man('portald.8') + man('portald.conf.5')
    missing = {o for o in options_of(r.stdout)
               if o not in options_of(pages) and o[2:].replace('-', '_') not in pages}
    equal(missing, set(), 'not described')


point.run()
