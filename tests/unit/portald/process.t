#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portald to processes of its host: proto.h, leases, read-only regions, status."""
import errno
import mmap
import os
import time

from portaldtest import *

point = Tap()


@point('hello is answered: welcome and region, own eventfds, peers, ready')
def _(stack):
    d = Daemon(stack, '--vectors', '3', size='4M')
    g = d.guest(vectors=3)
    h = d.process()
    equal([m.type for m in h.order], [WELCOME, PEER, PEER, READY], 'types')
    equal([m.id for m in h.order], [0, 0, g.id, 0], 'ids')
    w = h.order[0]
    equal((w.arg, w.value, len(w.fds), w.flags, w.text), (3, 4 << 20, 1, 0, ''), 'welcome')
    equal([len(m.fds) for m in h.order[1:]], [3, 3, 0], 'eventfds')


@point('guests and processes ring each other, on the right vector')
def _(stack):
    d = Daemon(stack)
    g, h, i = d.guest(), d.process(), d.process()
    h.pump(lambda: h.knows(i.id))
    for v in range(4):
        ring(g.peers[h.id][v], 2)
        equal(rings(h.peers[h.id][v]), 2, 'guest to process')
        ring(h.peers[g.id][v])
        equal(rings(g.peers[g.id][v]), 1, 'process to guest')
        ring(i.peers[h.id][v])
        equal(rings(h.peers[h.id][v]), 1, 'process to process')
    for v in range(4):
        equal(rings(i.peers[i.id][v], 0), 0, 'nobody rang this one')


@point('QEMU knows all host ids from the start and hears nothing of leases')
def _(stack):
    d = Daemon(stack, '--host-peers', '3')
    g = d.guest()
    equal(sorted(g.peers), [0, 1, 2, 3], 'known at once')
    before = list(g.peers[0])
    for _ in range(5):
        d.process().close()
    h = d.process()
    ring(before[h.id] if h.id == 0 else g.peers[h.id][0])
    equal(rings(h.peers[h.id][0]), 1, 'rung by what was announced at connect')
    g.s.settimeout(0.2)
    try:
        raise AssertionError(f'QEMU was told {g.recv()}')
    except TimeoutError:
        pass


@point('processes hear of guests and of each other, come and gone')
def _(stack):
    d = Daemon(stack)
    h = d.process()
    g, i = d.guest(), d.process()
    h.pump(lambda: h.knows(g.id) and h.knows(i.id))
    gid, iid = g.id, i.id
    g.close()
    i.close()
    h.pump(lambda: gid not in h.peers and iid not in h.peers)
    g = d.guest()
    h.pump(lambda: h.knows(g.id))
    equal(g.id, gid + 1, 'a new id')


@point('ends of those who were never announced are told, together; the living stay')
def _(stack):
    d = Daemon(stack, '--vectors', '1', '--max-guests', '200', '--host-peers', '4',
               '--connect-rate', '0')
    h = d.process()
    # So many that the rest waits in portald: h reads nothing meanwhile.
    stay = [d.guest(vectors=1, greet=False) for _ in range(100)]
    six = [d.guest(vectors=1, greet=False) for _ in range(6)]
    d.wait_log('guest 109 joined')
    lease = [d.process() for _ in range(2)]
    ids = list(range(104, 110))
    for k in (1, 0, 5, 3, 4):
        six[k].close()
        d.wait_log(f'guest {ids[k]} left')
    # One that was announced long ago, and right after it one that never was.
    stay[0].close()
    d.wait_log('guest 4 left')
    short = d.guest(vectors=1, greet=False)
    d.wait_log('guest 110 joined')
    short.close()
    d.wait_log('guest 110 left')
    tenures = [next(m.value for m in p.order if m.type == PEER and m.id == p.id) for p in lease]
    check(0 < tenures[0] < tenures[1], tenures)
    lid = lease[1].id
    lease[1].close()
    d.wait_log(f'process {lid} left')
    last = d.process()
    gone = []
    h.s.settimeout(PATIENT)
    while not h.knows(last.id):
        m = h.next()
        h.take(m)
        if m.type == GONE:
            gone.append((m.id, m.arg, m.value))
    equal(sorted(gone), sorted([(ids[0], ids[1], 0), (ids[3], ids[5], 0),
                                (4, 4, 0), (110, 110, 0),
                                (lid, lid, tenures[1])]), 'ends')
    check(h.knows(ids[2]) and all(h.knows(4 + n) for n in range(1, len(stay))), 'the living')


@point('all leases taken: refused with a text that says what to do; then one is freed')
def _(stack):
    d = Daemon(stack, '--host-peers', '2')
    a, b = d.process(), d.process()
    equal(sorted((a.id, b.id)), [0, 1], 'leases')
    c = Process(d.sock('sock'), hello=False)
    c.send(HELLO)
    m = c.recv()
    equal((m.type, m.arg), (REFUSE, errno.EBUSY), 'answer')
    check('2 host ids' in m.text and 'host_peers' in m.text, m.text)
    check(c.ended(), 'connection stays')
    c.close()
    a.close()
    d.wait_log('process 0 left')
    equal(d.process().id, 0, 'the freed id')


@point('the longest free id is leased first, drained of what was rung before')
def _(stack):
    d = Daemon(stack, '--host-peers', '3')
    g = d.guest()
    a = d.process()
    a.close()
    d.wait_log('process 0 left')
    for v in range(4):
        ring(g.peers[0][v], 5)
    equal([d.process().id for _ in range(2)], [1, 2], 'others first')
    b = d.process()
    equal(b.id, 0, 'then the one used last')
    for v in range(4):
        equal(rings(b.peers[0][v], 0), 0, 'old rings')
    ring(g.peers[0][1])
    equal(rings(b.peers[0][1]), 1, 'a new ring')


@point('a read-only region cannot be mapped or opened for writing, nor others rung')
def _(stack):
    d = Daemon(stack)
    r, w = d.process(flags=RDONLY), d.process()
    mw = mmap.mmap(w.region, 1 << 20)
    mr = mmap.mmap(r.region, 1 << 20, prot=mmap.PROT_READ)
    mw[5000] = 77
    equal(mr[5000], 77, 'it sees the others write')
    g = d.guest()
    r.pump(lambda: {w.id, g.id} <= r.peers.keys())
    equal([len(r.peers[i]) for i in (r.id, w.id, g.id)], [4, 0, 0], 'eventfds to ring with')
    ring(g.peers[r.id][2])
    equal(rings(r.peers[r.id][2]), 1, 'it can be rung')
    try:
        mmap.mmap(r.region, 1 << 20)
        raise AssertionError('mapped for writing')
    except PermissionError:
        pass
    if os.geteuid() == 0:   # as another user; root and the owner may do all
        pid = os.fork()
        if pid == 0:
            os.setgid(65534)
            os.setuid(65534)
            try:
                os.open(f'/proc/self/fd/{r.region}', os.O_RDWR)
                os._exit(1)
            except PermissionError:
                os._exit(0)
        equal(os.waitpid(pid, 0)[1], 0, 'opened for writing through /proc')


@point('wrong hellos are refused in words')
def _(stack):
    d = Daemon(stack)
    bad = [
        (dict(kind=READY), errno.EPROTO, 'hello'),
        (dict(kind=HELLO, id=0), errno.EPROTO, 'hello'),
        (dict(kind=HELLO, arg=1), errno.EPROTONOSUPPORT, 'version'),
        (dict(kind=HELLO, flags=2), errno.EINVAL, 'flags'),
        (dict(kind=HELLO, value=1), errno.EINVAL, 'not zero'),
        (dict(kind=HELLO, text=b'\0' * 103 + b'x'), errno.EINVAL, 'not zero'),
    ]
    for args, err, text in bad:
        s = Process(d.sock('sock'), hello=False)
        s.send(**args)
        m = s.recv()
        equal((m.type, m.arg), (REFUSE, err), str(args))
        check(text in m.text, m.text)
        check(s.ended(), 'connection stays')
        s.close()
    equal(d.process().id, 0, 'no id was spent')


@point('packets of other lengths, and anything after hello, end the connection')
def _(stack):
    d = Daemon(stack)
    for n in (1, 127, 129, 4096):
        s = Process(d.sock('sock'), hello=False)
        s.s.send(bytes(n))
        check(s.ended(), f'{n} bytes')
        s.close()
        d.wait_log(f'its hello has {n} bytes')
    h = d.process()
    h.send(HELLO)
    check(h.ended(), 'second hello')
    d.wait_log('process 0 cut: it sent something that is no request')


@point('who says no hello is cut after 5 s, and cannot keep others out meanwhile')
def _(stack):
    d = Daemon(stack)
    mute = [Process(d.sock('sock'), hello=False) for _ in range(40)]
    for m in mute:
        stack.callback(m.close)
    check(mute[0].ended(1), 'the oldest makes room')
    equal(d.process().id, 0, 'one who speaks')
    start = time.monotonic()
    check(mute[-1].ended(8), 'never cut')
    check(3 < time.monotonic() - start, 'cut too early')
    d.wait_log('it said no hello')


@point('status counts and names everybody, and takes no id')
def _(stack):
    d = Daemon(stack, '--host-peers', '1', size='1M')
    g, h = d.guest(), d.process()
    s = d.status()
    want = dict(name='demo', size=1 << 20, vectors=4, host_peers=1, guests=1, processes=1,
                next_guest_id=2, pid=d.pid, qemu_socket=d.sock('ivshmem'),
                host_socket=d.sock('sock'), guests_total=1, processes_total=1)
    equal({k: s[k] for k in want}, want, 'members')
    peers = {p['id']: p for p in s['peers']}
    equal(sorted(peers), [0, 1], 'peers')
    equal((peers[1]['kind'], peers[1]['pid'], peers[1]['queued']),
          ('guest', os.getpid(), 0), 'guest')
    equal((peers[0]['kind'], peers[0]['uid']), ('process', os.getuid()), 'process')
    g.close()
    d.wait_log('guest 1 left')
    equal(d.status()['guests'], 0, 'guests')
    r = run('status', 'demo', '--socket-dir', d.dir)
    check(r.returncode == 0 and 'process' in r.stdout, r.stdout + r.stderr)
    r = run('status', 'demo', '--json', '--socket-dir', d.dir)
    import json
    equal(json.loads(r.stdout)['processes'], 1, '--json')


point.run()
