#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portald to QEMU: the ivshmem protocol, byte by byte and in order."""
import os
import socket
import stat
import struct

import fcntl
from portaldtest import *

point = Tap()
F_GET_SEALS, SEAL, SHRINK, GROW, WRITE = 1034, 1, 2, 4, 8


@point('the greeting has the order of the specification, to the byte')
def _(stack):
    d = Daemon(stack, '--vectors', '3', '--host-peers', '2')
    g = d.guest(vectors=3)
    want = [(0, False), (2, False), (-1, True)]
    want += [(0, True)] * 3 + [(1, True)] * 3 + [(2, True)] * 3
    equal([(v, fd is not None) for v, fd in g.order], want, 'first guest')
    h = d.guest(vectors=3)
    want[1] = (3, False)
    want[9:] = [(2, True)] * 3 + [(3, True)] * 3
    equal([(v, fd is not None) for v, fd in h.order], want, 'second guest')


@point('messages are little-endian 64-bit words, nothing between them')
def _(stack):
    d = Daemon(stack, '--vectors', '1', '--host-peers', '1', '--first-guest-id', '300')
    s = socket.socket(socket.AF_UNIX)
    stack.callback(s.close)
    s.settimeout(PATIENT)
    s.connect(d.sock('ivshmem'))
    data = b''
    while len(data) < 40:
        part, anc, _, _ = s.recvmsg(4096, 4096)
        check(part, 'closed early')
        data += part
    equal(data, struct.pack('<5q', 0, 300, -1, 0, 300), 'bytes')


@point('a newcomer is announced to the others, once per vector, and its end too')
def _(stack):
    d = Daemon(stack, '--vectors', '2')
    a, b = d.guest(vectors=2), d.guest(vectors=2)
    a.pump(lambda: a.knows(b.id))
    bid = b.id
    b.close()
    a.pump(lambda: bid not in a.peers)
    c = d.guest(vectors=2)
    a.pump(lambda: a.knows(c.id))
    check(bid not in c.peers, 'the gone guest was announced to the newcomer')
    equal(sorted(c.peers), [*range(8), a.id, c.id], 'peers of the newcomer')


@point('each eventfd rings its peer, on its vector and on no other')
def _(stack):
    d = Daemon(stack, '--vectors', '4')
    a, b = d.guest(), d.guest()
    a.pump(lambda: a.knows(b.id))
    for v in range(4):
        ring(a.peers[b.id][v], 3)
        for w in range(4):
            equal(rings(b.peers[b.id][w], 5 if w == v else 0), 3 if w == v else 0,
                  f'rang {v}, looked at {w}')
        ring(b.peers[a.id][v])
        equal(rings(a.peers[a.id][v]), 1, 'the other way')


@point('the region is one and the same, zeroed, of the size asked for')
def _(stack):
    d = Daemon(stack, size='2M')
    a, b, h = d.guest(), d.guest(), d.process()
    for fd in (a.region, b.region, h.region):
        equal(os.fstat(fd).st_size, 2 << 20, 'size')
    ma, mb, mh = a.map(2 << 20), b.map(2 << 20), mmap.mmap(h.region, 2 << 20)
    equal(ma[:], bytes(2 << 20), 'fresh bytes')
    ma[123456:123461] = b'hello'
    equal(mb[123456:123461], b'hello', 'the other guest')
    mh[(2 << 20) - 1] = 7
    equal(ma[(2 << 20) - 1], 7, 'from the process')


@point('the region is sealed: it cannot shrink, grow or be sealed further')
def _(stack):
    d = Daemon(stack)
    g = d.guest()
    equal(fcntl.fcntl(g.region, F_GET_SEALS), SEAL | SHRINK | GROW, 'seals')
    for size in (0, 4096, 2 << 20):
        try:
            os.ftruncate(g.region, size)
        except PermissionError:
            continue
        raise AssertionError(f'ftruncate to {size} worked')
    equal(stat.S_IMODE(os.fstat(g.region).st_mode), 0o600, 'mode')


@point('ids only grow: 150 guests come and go, none twice')
def _(stack):
    d = Daemon(stack, '--vectors', '1', '--connect-rate', '0')
    keep = d.guest(vectors=1)
    last = keep.id
    for _ in range(150):
        g = Guest(d.sock('ivshmem'), vectors=1)
        check(g.id > last, f'{g.id} after {last}')
        last = g.id
        g.close()
    keep.pump(lambda: sorted(keep.peers) == [*range(8), keep.id])


@point('64 vectors and no host peers work; the greeting is read in any rhythm')
def _(stack):
    d = Daemon(stack, '--vectors', '64', '--host-peers', '0')
    a = d.guest(vectors=64)
    b = d.guest(vectors=64)
    equal(a.id, 0, 'first id')
    equal(b.id, 1, 'second id')
    a.pump(lambda: a.knows(1))
    ring(a.peers[1][63])
    equal(rings(b.peers[1][63]), 1, 'vector 63')


@point('at id 65,535 further guests are refused, in a line that says how to go on')
def _(stack):
    d = Daemon(stack, '--vectors', '1', '--first-guest-id', '65533')
    a, b = d.guest(vectors=1), d.guest(vectors=1)
    equal((a.id, b.id), (65533, 65534), 'last ids')
    check(d.guest(greet=False).ended(), 'a third guest was let in')
    line = d.wait_log('used up')
    check('begin again when' in line, line)
    b.close()
    d.wait_log('guest 65534 left')
    check(d.guest(greet=False).ended(), 'an id was used twice while a guest knew it')
    a.close()
    d.wait_log('begin again at 8')
    equal(d.guest(vectors=1).id, 8, 'first id after all had left')


@point('max_guests is kept, and room is made when one leaves')
def _(stack):
    d = Daemon(stack, '--max-guests', '2')
    a, b = d.guest(), d.guest()
    check(d.guest(greet=False).ended(), 'a third guest was let in')
    d.wait_log('max_guests')
    b.close()
    d.wait_log('guest 9 left')
    equal(d.guest().id, 10, 'after one has left')


point.run()
