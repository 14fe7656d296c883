#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portalctl send --resume and recv --resume: an end that is killed comes again, and the
stream goes on where it stopped; bytes that are not the same are sent anew."""
import hashlib
import os
import struct
import subprocess
import time

from ctltest import *

point = Tap()
SIZE = 24 << 20


def write(path, data):
    with open(path, 'wb') as f:
        f.write(data)


def input_file(d, size=SIZE):
    data = os.urandom(1 << 20) * (size >> 20)
    # No two megabytes alike, so that bytes at a wrong place are noticed.
    data = b''.join(struct.pack('<Q', i) + data[8 + (i << 20):(i + 1) << 20]
                    for i in range(size >> 20))
    write(d + '/in', data)
    return data


def content(path):
    with open(path, 'rb') as f:
        return f.read()


def wait_for_part(d, size, ctl):
    """Until so much has arrived, in mid-stream."""
    end = time.monotonic() + LIMIT
    while not os.path.exists(d + '/out.part') or os.path.getsize(d + '/out.part') < size:
        check(time.monotonic() < end, 'nothing arrives')
        check(ctl.p.poll() is None, 'it has ended before it was killed')
        time.sleep(0.002)


def stopped_sender(stack, uri, d):
    """A sender that was killed in mid-stream: small chunks make it slow."""
    tx = Ctl(stack, 'send', uri, d + '/in', '--chunk', '64', '--resume')
    wait_for_part(d, 1 << 20, tx)
    tx.p.kill()
    tx.end()


@point('the sender is killed and started again: the receiver goes on, and says so')
def _(stack):
    uri, d = region(stack, '1M')
    data = input_file(d)
    rx = Ctl(stack, 'recv', uri, d + '/out', '--json', '--resume')
    stopped_sender(stack, uri, d)
    sent = Ctl(stack, 'send', uri, d + '/in', '--json', '--resume').json()
    got = rx.json()
    check(content(d + '/out') == data, 'content differs')
    check(b'waiting for it to come again' in rx.err, rx.err)
    equal((got['bytes'], got['resumed'], got['sha256']),
          (SIZE, 1, hashlib.sha256(data).hexdigest()), 'the receiver counts')
    check(sent['skipped'] >= 1 << 20 and sent['skipped'] == got['skipped'], 'nothing was skipped: %r %r' % (sent, got))
    check(not os.path.exists(d + '/out.part'), 'a .part is left')


@point('the receiver is killed and started again: the sender goes on from FILE.part')
def _(stack):
    uri, d = region(stack, '1M')
    data = input_file(d)
    tx = Ctl(stack, 'send', uri, d + '/in', '--json', '--resume', '--chunk', '64')
    rx = Ctl(stack, 'recv', uri, d + '/out', '--resume')
    wait_for_part(d, 1 << 20, rx)
    rx.p.kill()
    rx.end()
    had = os.path.getsize(d + '/out.part')
    got = Ctl(stack, 'recv', uri, d + '/out', '--json', '--resume').json()
    sent = tx.json()
    check(content(d + '/out') == data, 'content differs')
    equal((sent['resumed'], sent['skipped'], got['skipped']), (1, had, had), 'counts')


@point('both have ended: FILE.part alone is enough')
def _(stack):
    uri, d = region(stack)
    data = input_file(d, 4 << 20)
    write(d + '/out.part', data[:3000001])
    rx = Ctl(stack, 'recv', uri, d + '/out', '--json', '--resume')
    sent = Ctl(stack, 'send', uri, d + '/in', '--json').json()
    equal((sent['skipped'], rx.json()['skipped']), (3000001, 3000001), 'skipped')
    check(content(d + '/out') == data, 'content differs')


@point('all of it was there: nothing is sent again')
def _(stack):
    uri, d = region(stack)
    data = input_file(d, 1 << 20)
    write(d + '/out.part', data)
    rx = Ctl(stack, 'recv', uri, d + '/out', '--resume')
    sent = Ctl(stack, 'send', uri, d + '/in', '--json').json()
    rx.ok()
    equal((sent['skipped'], sent['sent']), (1 << 20, 2), 'offer and end')
    check(content(d + '/out') == data, 'content differs')


@point("another file's part, a longer one, and an empty file: all comes anew")
def _(stack):
    data = os.urandom(300000)
    for what, new, part in (('other bytes', data, b'x' * 100000),
                            ('one bit', data, bytes([data[0] ^ 1]) + data[1:200000]),
                            ('longer', data, data + b'more'),
                            ('an empty file', b'', b'something')):
        uri, d = region(stack)
        write(d + '/in', new)
        write(d + '/out.part', part)
        rx = Ctl(stack, 'recv', uri, d + '/out', '--json', '--resume')
        sent = Ctl(stack, 'send', uri, d + '/in', '--json').json()
        equal((sent['skipped'], rx.json()['skipped']), (0, 0), what)
        check(content(d + '/out') == new, what + ': content differs')


@point('without --resume FILE.part is begun anew')
def _(stack):
    uri, d = region(stack)
    data = input_file(d, 1 << 20)
    write(d + '/out.part', data[:500000])
    rx = Ctl(stack, 'recv', uri, d + '/out')
    equal(Ctl(stack, 'send', uri, d + '/in', '--json').json()['skipped'], 0, 'skipped')
    rx.ok()


@point('a sender that cannot go on in the middle sends all, and is believed')
def _(stack):
    uri, d = region(stack)
    data = os.urandom(200000)
    write(d + '/out.part', data[:50000])
    rx = Ctl(stack, 'recv', uri, d + '/out', '--resume')
    tx = Ctl(stack, 'send', uri, '-', stdin=subprocess.PIPE)
    tx.p.stdin.write(data)
    tx.p.stdin.close()
    tx.p.stdin = None
    tx.ok()
    rx.ok()
    check(content(d + '/out') == data, 'content differs')


@point('a receiver that claims to have more than there is, or other bytes, gets all')
def _(stack):
    data = os.urandom(100000)
    good = hashlib.sha256(data[:1000]).digest()
    for a, body, first in ((2 ** 64 - 1, good, 0), (100001, good, 0), (1000, good[:31], 0),
                           (1000, b'', 0), (1000, bytes(32), 0), (1000, good, 1000)):
        uri, d = region(stack)
        write(d + '/in', data)
        tx = Ctl(stack, 'send', uri, d + '/in')
        peer = Peer(stack, uri, 1).connect()
        peer.frame()
        peer.send(frame(STREAM, ACCEPT, a, body))
        type_, at, got = peer.frame()
        equal((type_, at), (DATA, first), 'ACCEPT %d with %d bytes' % (a, len(body)))
        check(got == data[first:first + len(got)], 'not what stands there')
        while type_ != END:
            type_, at, got = peer.frame()
        equal(got, hashlib.sha256(data).digest(), 'digest')
        peer.send(frame(STREAM, DONE, at))
        tx.ok()
        peer.close()


@point('--resume where it cannot be: one line each')
def _(stack):
    uri, d = region(stack)
    Ctl(stack, 'send', uri, '-', '--resume', stdin=subprocess.PIPE).fails(1, 'regular FILE')
    Ctl(stack, 'recv', uri, '--resume').fails(1, 'give a FILE')
    Ctl(stack, 'recv', uri, '/dev/null', '--resume').fails(1, 'no regular file')


if __name__ == '__main__':
    build('portalctl')
    point.run()
