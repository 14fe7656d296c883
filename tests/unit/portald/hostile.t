#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Clients that are slow, silent, talkative, many or malicious harm nobody else."""
import os
import random
import resource
import socket
import struct
import time

from portaldtest import *

point = Tap()


def churn(d, n, vectors=4):
    for _ in range(n):
        Guest(d.sock('ivshmem'), vectors=vectors).close()


@point('a guest that never reads stalls nobody, costs little, and is cut')
def _(stack):
    d = Daemon(stack, '--connect-rate', '0', '--stall-timeout', '15')
    good, proc = d.guest(), d.process()
    start = d.nfds()
    slow = d.guest(greet=False)     # reads nothing at all
    began = ran()
    churn(d, 500)
    last = d.guest()
    good.pump(lambda: good.knows(last.id))
    proc.pump(lambda: proc.knows(last.id))
    check(ran() - began < 15, 'the others waited for it')
    check(d.nfds() <= start + 3 * 5 + 8, f'{start} fds became {d.nfds()}')
    queued = max(p['queued'] for p in d.status()['peers'])
    check(0 < queued < 400, f'{queued} messages queued')
    d.wait_log('has not read for 15 s', seconds=PATIENT + 15)
    good.pump(lambda: sorted(good.peers) == [*range(8), good.id, last.id])
    check(slow.ended(), 'still connected')


@point('a process that makes its eventfds blocking does not stop portald at the next lease')
def _(stack):
    d = Daemon(stack, '--host-peers', '1')
    bad = d.process()
    for fd in bad.peers[bad.id]:
        os.set_blocking(fd, True)
    bad.close()
    began = ran()
    equal(d.process().id, 0, 'the next one has its id')
    check(ran() - began < 2, 'it had to wait')


@point('a process that never reads stalls nobody, is told no more, keeps its id till it ends')
def _(stack):
    d = Daemon(stack, '--connect-rate', '0', '--stall-timeout', '2', '--vectors', '16')
    good, slow = d.process(), d.process()
    for _ in range(30):
        churn(d, 10, 16)
        good.read_some(10000)   # it has no longer than the other
    g = d.guest(vectors=16)
    good.pump(lambda: good.knows(g.id))
    d.wait_log('process 1 has not read for 2 s')
    check(d.process().id == 2, 'its id was given away while it is there')
    late = d.guest(vectors=16)
    ring(late.peers[1][7])
    equal(rings(slow.peers[1][7]), 1, 'it can still be rung')
    good.pump(lambda: good.knows(late.id))
    check(1 in good.peers, 'it was reported gone')
    ticks = d.cpu_ticks()
    time.sleep(0.5)
    check(d.cpu_ticks() - ticks < 10, 'it spins')
    check(slow.ended(), 'it sees no end')
    slow.close()
    good.pump(lambda: 1 not in good.peers)


@point('a guest that reads very late gets a true picture')
def _(stack):
    d = Daemon(stack, '--connect-rate', '0', '--vectors', '16')
    late, good = d.guest(vectors=16), d.guest(vectors=16)
    for i in range(120):
        a, b = (Guest(d.sock('ivshmem'), vectors=16) for _ in range(2))
        b.close()
        a.close()
    stay = [d.guest(vectors=16) for _ in range(3)]
    late.pump(lambda: all(late.knows(g.id) for g in [good, *stay]))
    equal(sorted(late.peers), [*range(8), late.id, good.id, *(g.id for g in stay)], 'peers')
    for g in stay:
        ring(late.peers[g.id][15])
        equal(rings(g.peers[g.id][15]), 1, 'the announced eventfd rings')


@point('random comings, goings and readings: all end with the same true picture')
def _(stack):
    d = Daemon(stack, '--connect-rate', '0', '--vectors', '3', '--host-peers', '24',
               '--stall-timeout', '60')
    seed = int.from_bytes(os.urandom(4), 'little')
    rnd = random.Random(seed)
    print(f'# seed {seed}')
    live, came = [], 0
    for _ in range(1500):
        k = rnd.random()
        if k < 0.25 and len(live) < 30:     # none of them reads before its turn
            c = d.guest(vectors=3, greet=False)
            live.append(c)
            came += 1
        elif k < 0.35 and sum(isinstance(c, Process) for c in live) < 8:
            c = d.process(hello=False)
            c.send(HELLO)
            live.append(c)
            came += 1
        elif k < 0.55 and live:
            live.pop(rnd.randrange(len(live))).close()
        elif live:
            rnd.choice(live).read_some(rnd.choice([1, 2, 5, 100]))
    wait_for(lambda: len(d.status()['peers']) == len(live), 'the last to go')
    def all_told():     # what still waits in portald follows as they read
        for c in live:
            c.read_some(100000)
        return not any(p['queued'] for p in d.status()['peers'])
    wait_for(all_told, 'all to be told')
    all_told()
    guests = [c for c in live if isinstance(c, Guest)]
    everyone = {c.id for c in live}
    for c in live:
        want = set(range(24)) | {g.id for g in guests} if c in guests else everyone
        equal(set(c.peers), want, f'what {c.id} knows')
        check(all(len(f) == 3 for f in c.peers.values()), f'{c.id} lacks vectors')
    for n, c in enumerate(live):
        for o in live:
            ring(c.peers[o.id][n % 3])
    for c in live:
        equal(sum(rings(f, 0) for f in c.peers[c.id]), len(live), f'rings at {c.id}')
    print(f'# {came} came, {len(live)} stayed')


@point('a guest that sends anything is cut, the others are not')
def _(stack):
    d = Daemon(stack)
    good = d.guest()
    for payload in (b'x', bytes(8), os.urandom(65536)):
        bad = d.guest()
        bad.s.setblocking(False)
        bad.s.send(payload)
        check(bad.ended(), 'not cut')
        good.pump(lambda: bad.id not in good.peers)
    d.wait_log('it sent data, which QEMU never does', n=3)


@point('descriptors sent to portald are never taken in')
def _(stack):
    d = Daemon(stack)
    d.process()
    before = d.nfds()
    r, w = os.pipe()
    g = d.guest()
    socket.send_fds(g.s, [b'x'], [r] * 200)
    check(g.ended(), 'guest not cut')
    h = Process(d.sock('sock'), hello=False)
    socket.send_fds(h.s, [MSG.pack(HELLO, MAGIC, VERSION, 0, 0, b'')], [r] * 200)
    h.greet()
    os.close(r)
    try:        # nobody holds the reading end any more: not in portald, not on its way
        os.write(w, b'x')
        raise AssertionError('portald holds descriptors that were sent to it')
    except BrokenPipeError:
        pass
    os.close(w)
    h.close()
    wait_for(lambda: d.nfds() == before, f'{before} fds, now {d.nfds()}')


@point('too few descriptors: refused at the start, with the way out')
def _(stack):
    d = Daemon(stack, wait=False, preexec=lambda: resource.setrlimit(
        resource.RLIMIT_NOFILE, (300, 300)))
    equal(d.exit_code(), 1, 'exit code')
    check('LimitNOFILE' in d.lines[-1] and '300 are allowed' in d.lines[-1], d.lines[-1])


@point('descriptors used up while running: no spinning, and it goes on afterwards')
def _(stack):
    d = Daemon(stack)
    good = d.guest()
    limit = d.nfds() + 2    # the next guest's socket fits, its eventfds do not
    hard = resource.prlimit(d.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (limit, hard))
    check(d.guest(greet=False).ended(), 'a guest without eventfds was kept')
    d.wait_log('Too many open files')
    resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (limit - 2, hard))
    waiting = d.guest(greet=False)
    d.wait_log('cannot accept a client')
    ticks = d.cpu_ticks()
    time.sleep(1.5)
    check(d.cpu_ticks() - ticks < 20, 'it spins')
    check(sum('cannot accept' in s for s in d.lines) == 1, 'the log is flooded')
    resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (hard, hard))
    waiting.greet()
    good.pump(lambda: good.knows(waiting.id))


@point('connects are limited in rate; those within it get in')
def _(stack):
    d = Daemon(stack, '--connect-rate', '20', '--vectors', '1')
    began, n = time.monotonic(), 0
    while time.monotonic() - began < 2 or n < 120:
        Guest(d.sock('ivshmem'), vectors=1).close()
        n += 1
    took = time.monotonic() - began
    # 100 at once are allowed, then 20 a second
    check(n <= 120 + 20 * took, f'{n} in {took:.2f} seconds')
    ticks = d.cpu_ticks()
    stack.callback(lambda s=[d.guest(greet=False) for _ in range(20)]: None)
    time.sleep(0.5)
    check(d.cpu_ticks() - ticks < 15, 'it spins while it holds others off')
    d.process()


@point('many at once: 60 guests and 8 processes, each rings each other')
def _(stack):
    d = Daemon(stack, '--connect-rate', '0', '--vectors', '1')
    guests = [d.guest(vectors=1) for _ in range(60)]
    procs = [d.process() for _ in range(8)]
    everyone = guests + procs
    for c in everyone:
        c.pump(lambda c=c: all(c.knows(o.id) for o in everyone))
    for a in everyone:
        for b in everyone:
            ring(a.peers[b.id][0])
    for c in everyone:
        equal(rings(c.peers[c.id][0]), len(everyone), f'rings at {c.id}')
    for c in everyone[:-1]:
        c.close()
    last = everyone[-1]
    last.pump(lambda: list(last.peers) == [last.id])


@point('half-open and half-closed connections are cleaned up')
def _(stack):
    d = Daemon(stack)
    good = d.guest()
    before = d.nfds()
    for _ in range(20):
        s = socket.socket(socket.AF_UNIX)
        s.connect(d.sock('ivshmem'))
        s.close()       # at once, before it was accepted
        g = d.guest()
        g.s.shutdown(socket.SHUT_WR)
        check(g.ended(), 'a half-closed guest stays')
        g = d.guest()
        g.s.shutdown(socket.SHUT_RD)
        g.close()
    # first: an announcement half sent to it holds its peer's eventfds
    last = d.guest()
    good.pump(lambda: good.knows(last.id))
    last.close()
    good.pump(lambda: sorted(good.peers) == [*range(8), good.id])
    wait_for(lambda: d.nfds() == before, f'{d.nfds()} descriptors to become {before}')


@point('a crowd that says no hello: the first of them make room, long before their time is over')
def _(stack):
    d = Daemon(stack, '--connect-rate', '0')
    crowd = [Process(d.sock('sock'), hello=False) for _ in range(20)]
    for c in crowd[:4]:
        check(c.ended(2), 'one of the first is not cut')
    check(not crowd[-1].ended(0.2), 'the last is cut, too')
    d.process()
    for c in crowd:
        c.close()


@point('one that says no hello has its time, and is cut when it is over; who has said it stays')
def _(stack):
    d = Daemon(stack)
    good = d.process()
    silent = Process(d.sock('sock'), hello=False)
    check(not silent.ended(3), 'it is cut at once')
    check(silent.ended(7), 'it is still there, 10 s later')
    d.wait_log('it said no hello')
    check(not good.ended(0.1), 'another is cut, too')
    silent.close()


@point('descriptors in flight run out: they are sent later, without spinning')
def _(stack):
    # The kernel counts what all processes of a user have sent and nobody has
    # received, against RLIMIT_NOFILE, unless they are privileged.
    if os.geteuid() != 0:
        raise Skip('needs root, to run portald as a user of its own')
    uid = 61234
    d = scratch(stack)
    os.chmod(d, 0o777)

    def drop():
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
        os.setgid(uid)
        os.setuid(uid)

    d = Daemon(stack, '--vectors', '16', '--host-peers', '2', '--max-guests', '4',
               directory=d, preexec=drop)
    good = d.guest(vectors=16)
    end = fill(uid, 400, stack)
    late = d.guest(vectors=16, greet=False)
    d.wait_log('guest 3 joined')
    ticks = d.cpu_ticks()
    time.sleep(1)
    check(d.cpu_ticks() - ticks < 15, 'it spins')
    s = Process(d.sock('sock'), hello=False)
    stack.callback(s.close)
    s.send(STATUS)
    m = s.recv()
    check(m.type == REFUSE and 'Too many references' in m.text, f'nothing was held back: {m}')
    end()
    late.greet()
    good.pump(lambda: good.knows(late.id))


def fill(uid, n, stack):
    """A child of that user that has n descriptors in flight until the end."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(r)
        resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))
        os.setgid(uid)
        os.setuid(uid)
        pairs = []
        try:
            for _ in range(n // 100 + 1):
                a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                pairs.append((a, b))
                socket.send_fds(a, [b'x'], [w] * 100)
        except OSError:
            pass
        os.write(w, b'x')
        time.sleep(30)
        os._exit(0)
    os.close(w)

    def end():
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    os.read(r, 1)
    os.close(r)
    return end


point.run()
