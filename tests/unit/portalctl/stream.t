#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portalctl send and recv: whole streams, broken ones, peers that misbehave."""
import hashlib
import os
import signal
import subprocess
import time

from ctltest import *

point = Tap()


def write(path, size):
    data = os.urandom(min(size, 1 << 20)) * (size // (1 << 20) + 1)
    data = data[:size]
    with open(path, 'wb') as f:
        f.write(data)
    return hashlib.sha256(data).hexdigest()


def transfer(stack, size, uri=None, *more):
    u, d = region(stack)
    uri = uri or u
    digest = write(d + '/in', size)
    rx = Ctl(stack, 'recv', uri, d + '/out', '--json', *more)
    tx = Ctl(stack, 'send', uri, d + '/in', '--json', *more)
    sent, got = tx.json(), rx.json()
    with open(d + '/out', 'rb') as f:
        equal(hashlib.sha256(f.read()).hexdigest(), digest, 'content')
    for r in (sent, got):
        equal((r['bytes'], r['sha256'], r['name'], r['uri']), (size, digest, 'in', uri), 'result')
    check(not os.path.exists(d + '/out.part'), 'a .part is left')
    return sent, got


@point('files of 0, 1, 4096 and 20 million bytes arrive; JSON says so on both ends')
def _(stack):
    for size in (0, 1, 4096, 20000000):
        transfer(stack, size)


@point('message counts add up: each end counts what the other sent')
def _(stack):
    sent, got = transfer(stack, 1000000, None, '--chunk', '10000')
    equal(sent['sent'], 102, 'offer, 100 chunks, end')
    equal(sent['received'], 2, 'accept, done')
    equal((got['received'], got['sent']), (102, 2), 'the other way round')


@point('a pipe into a pipe, both of unknown length')
def _(stack):
    uri, _d = region(stack)
    data = os.urandom(300000)
    rx = Ctl(stack, 'recv', uri)
    tx = Ctl(stack, 'send', uri, '-', stdin=subprocess.PIPE)
    for i in range(0, len(data), 70000):
        tx.p.stdin.write(data[i:i + 70000])
        tx.p.stdin.flush()
        time.sleep(0.02)
    tx.p.stdin.close()
    tx.p.stdin = None
    # The receiver ends first only if its pipe is read.
    check(rx.ok() == data, 'content differs')
    tx.ok()


@point('several streams one after the other over one region')
def _(stack):
    uri, _d = region(stack, '1M')
    for size in (100000, 5, 3000000):
        transfer(stack, size, uri)


@point('--sha256 prints what sha256sum prints')
def _(stack):
    uri, d = region(stack)
    write(d + '/in', 100000)
    rx = Ctl(stack, 'recv', uri, d + '/out', '--sha256')
    tx = Ctl(stack, 'send', uri, d + '/in', '--sha256')
    for ctl, path in ((tx, d + '/in'), (rx, d + '/out')):
        equal(ctl.ok(), subprocess.run(['sha256sum', path], stdout=subprocess.PIPE).stdout)


@point('--rate: no faster than it says, and each message is small enough to wait for')
def _(stack):
    uri, d = region(stack)
    write(d + '/in', 1 << 20)
    rx = Ctl(stack, 'recv', uri, d + '/out')
    sent = Ctl(stack, 'send', uri, d + '/in', '--json', '--rate', '2M').json()
    rx.ok()
    check(sent['seconds'] >= 0.45, '%r: half a second is due' % sent)
    equal(sent['sent'], 2 + 6, 'offer, five tenths of a second and a rest, end')
    for bad in ('0', 'much', ''):
        code, _out, err = run('send', uri, d + '/in', '--rate', bad)
        check(code == 1 and '--rate wants bytes' in err, err)


@point('--progress shows lines on standard error, and nothing does without')
def _(stack):
    uri, d = region(stack)
    write(d + '/in', 1000000)
    rx = Ctl(stack, 'recv', uri, d + '/out')
    tx = Ctl(stack, 'send', uri, d + '/in', '--progress')
    tx.ok()
    check(b'100%' in tx.err and b'messages' in tx.err, tx.err)
    rx.ok()
    equal(rx.err, b'')


@point('nobody comes: status 3 after --timeout, and what to start')
def _(stack):
    uri, d = region(stack)
    Ctl(stack, 'recv', uri, d + '/out', '--timeout', '1').fails(3, 'portalctl send')
    check(not os.path.exists(d + '/out') and not os.path.exists(d + '/out.part'), 'a file is left')
    write(d + '/in', 10)
    Ctl(stack, 'send', uri, d + '/in', '--timeout', '1').fails(3, 'portalctl recv')


@point('the sender is killed in mid-stream: status 3, FILE.part is kept and named')
def _(stack):
    uri, d = region(stack)
    rx = Ctl(stack, 'recv', uri, d + '/out', '--timeout', '5')
    tx = Ctl(stack, 'send', uri, '-', stdin=subprocess.PIPE)
    tx.p.stdin.write(b'x' * (4 << 20))
    tx.p.stdin.flush()
    wait_for(lambda: os.path.exists(d + '/out.part') and os.path.getsize(d + '/out.part'), 'bytes')
    tx.p.kill()
    rx.fails(3, 'bytes arrived', 'out.part')
    check(os.path.getsize(d + '/out.part') > 0, 'the part is empty')
    check(not os.path.exists(d + '/out'), 'half a file got its name')


@point('Ctrl-C at either end is told to the other at once')
def _(stack):
    for who in (0, 1):
        uri, d = region(stack)
        rx = Ctl(stack, 'recv', uri, d + '/out')
        tx = Ctl(stack, 'send', uri, '-', stdin=subprocess.PIPE)
        for _ in range(100):
            tx.p.stdin.write(b'x' * 100000)
        tx.p.stdin.flush()
        time.sleep(0.3)
        (tx, rx)[who].signal()
        equal((tx, rx)[who].end(), -signal.SIGINT, 'dies of its signal')
        if who:
            tx.p.stdin = None
        (rx, tx)[who].fails(3, 'interrupted')


@point('a file that is truncated while it is sent: both ends say so')
def _(stack):
    uri, d = region(stack)
    write(d + '/in', 5000000)
    tx = Ctl(stack, 'send', uri, d + '/in')
    peer = Peer(stack, uri, 1).connect()
    equal(peer.frame()[:2], (OFFER, 5000000), 'offer')
    os.truncate(d + '/in', 300000)
    peer.send(frame(STREAM, ACCEPT))
    while True:
        type_, a, body = peer.frame()
        if type_ != DATA:
            break
    equal(type_, FAIL, 'frame')
    check(b'truncated' in body, body)
    tx.fails(5, 'truncated', '300000 of 5000000')


@point('a file that grows while it is sent is cut where it was announced')
def _(stack):
    uri, d = region(stack)
    digest = write(d + '/in', 100000)
    tx = Ctl(stack, 'send', uri, d + '/in')
    peer = Peer(stack, uri, 1).connect()
    peer.frame()
    with open(d + '/in', 'ab') as f:
        f.write(b'more')
    peer.send(frame(STREAM, ACCEPT))
    data = b''
    while True:
        type_, a, body = peer.frame()
        if type_ == END:
            break
        data += body
    equal((a, body.hex(), hashlib.sha256(data).hexdigest()), (100000, digest, digest))
    peer.send(frame(STREAM, DONE, a))
    tx.ok()


def hostile_sender(stack, *frames):
    """What recv makes of these frames; its partial file must not get the name."""
    uri, d = region(stack)
    rx = Ctl(stack, 'recv', uri, d + '/out', '--timeout', '60')
    peer = Peer(stack, uri, 0).connect()
    for f in frames:
        peer.send(f)
    return rx, peer, d


GOOD = hashlib.sha256(b'data').digest()
BAD_STREAMS = [
    ('a wrong digest', 4, 'SHA-256', [frame(STREAM, OFFER, 4, b'n'),
                                      frame(STREAM, DATA, 0, b'data'),
                                      frame(STREAM, END, 4, bytes(32))]),
    ('a digest cut short', 4, 'SHA-256', [frame(STREAM, OFFER, 4, b'n'),
                                          frame(STREAM, DATA, 0, b'data'),
                                          frame(STREAM, END, 4, GOOD[:31])]),
    ('missing bytes', 4, 'missing', [frame(STREAM, OFFER, 5, b'n'),
                                     frame(STREAM, DATA, 0, b'data'),
                                     frame(STREAM, END, 4, GOOD)]),
    ('more bytes than announced', 4, 'out of order', [frame(STREAM, OFFER, 3, b'n'),
                                                      frame(STREAM, DATA, 0, b'data')]),
    ('a chunk twice', 4, 'out of order', [frame(STREAM, OFFER, 8, b'n'),
                                          frame(STREAM, DATA, 0, b'data'),
                                          frame(STREAM, DATA, 0, b'data')]),
    ('no offer', 4, 'offer', [frame(STREAM, DATA, 0, b'data')]),
    ('an unknown frame', 4, 'unknown', [frame(STREAM, OFFER, 4, b'n'), frame(STREAM, 77)]),
    ('another version', 4, 'version 2', [frame(STREAM, OFFER, 4, b'n', version=2)]),
    ('another command', 4, 'ping', [frame(PING, PING_FRAME)]),
    ('another program', 4, 'not portalctl', [b'GET / HTTP/1.0\r\n\r\n        ']),
    ('a message too short', 4, 'not portalctl', [b'hello']),
    ('a failure with a text', 5, 'disk [31mfull?', [
        frame(STREAM, FAIL, 5, b'disk \x1b[31mfull\x07'.replace(b'\x1b', b''))]),
    ('a failure with a wild code', 4, 'no reason', [frame(STREAM, FAIL, 2 ** 63)]),
]


@point('%d ways to send a broken stream: each has its line and status' % len(BAD_STREAMS))
def _(stack):
    for what, code, word, frames in BAD_STREAMS:
        rx, peer, d = hostile_sender(stack, *frames)
        try:
            rx.fails(code, word)
        except AssertionError as e:
            raise AssertionError('%s: %s' % (what, e))
        check(not os.path.exists(d + '/out'), what + ': a broken file got its name')
        peer.close()


@point("a stranger's text is printed without its control characters")
def _(stack):
    rx, _p, _d = hostile_sender(stack, frame(STREAM, FAIL, 4, b'a\x1b[2Jb\nc\x00d'))
    text = rx.fails(4, 'a?[2Jb?c')
    check('\x1b' not in text and text.count('\n') == 1, repr(text))


@point('a receiver that refuses is quoted by the sender')
def _(stack):
    uri, d = region(stack)
    write(d + '/in', 10)
    tx = Ctl(stack, 'send', uri, d + '/in', '--timeout', '60')
    peer = Peer(stack, uri, 1).connect()
    peer.frame()
    peer.send(frame(STREAM, FAIL, 5, b'no space left'))
    tx.fails(5, 'the other end gave up: no space left')


@point('a receiver that counts wrongly is not believed')
def _(stack):
    uri, d = region(stack)
    write(d + '/in', 10)
    tx = Ctl(stack, 'send', uri, d + '/in', '--timeout', '60')
    peer = Peer(stack, uri, 1).connect()
    peer.frame()
    peer.send(frame(STREAM, ACCEPT))
    peer.send(frame(STREAM, DONE, 9))
    tx.fails(4, 'counted 9 bytes')


@point('output that cannot be written: status 5 here, told to the sender')
def _(stack):
    uri, d = region(stack)
    write(d + '/in', 3000000)
    rx = Ctl(stack, 'recv', uri, '/dev/full')
    tx = Ctl(stack, 'send', uri, d + '/in')
    rx.fails(5, 'No space left')
    tx.fails(5, 'could not write')


if __name__ == '__main__':
    build('portalctl')
    point.run()
