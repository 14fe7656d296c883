#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portald killed at every step, and at random moments, under load: its clients notice
nothing. portald --keep has its descriptors; tests/vm/portald_units.py has systemd."""
import errno
import fcntl
import signal

from portaldtest import *
from restarts import *
from tables import *

point = Tap()
ROUNDS = int(os.environ.get('RESTART_ROUNDS', '150'))
STRIDE = int(os.environ.get('RESTART_STRIDE', '3'))     # 1: all of them


def something(w):
    """One change, chosen at random; what it does, to be done."""
    k = w.rnd.random()
    with_session = [p for p in w.procs[1:] if p.token]
    without = [p for p in w.procs[1:] if not p.token]
    if k < 0.25 and len(w.guests) < 8 or len(w.guests) < 3:
        return w.new_guest
    if k < 0.45:
        return lambda g=w.rnd.choice(w.guests[1:]): w.leave(g)
    if k < 0.65 and len(w.procs) < 6:
        return w.new_proc
    if k < 0.8 and without:
        return lambda p=w.rnd.choice(without): w.begin_session(p)
    if k < 0.9 and with_session:
        return lambda p=w.rnd.choice(with_session): w.end_session(p)
    if len(w.procs) > 2:
        return lambda p=w.rnd.choice(w.procs[1:]): w.leave(p)
    return w.new_guest


@point('killed and started again: the same region, ids, doorbells, row; nobody is told anything')
def _(stack):
    w = World(stack, seeded())
    for _ in range(3):
        w.new_guest()
    p = w.new_proc()
    w.begin_session(p)
    w.settle()
    before = w.d.status()
    for n in range(3):
        w.d.kill_child()
        w.d.wait_log('goes on where the portald before left it: 3 guests, 2 processes', n=n + 1)
        w.rest()
        w.exchange()
    after = w.d.status()
    for key in ('name', 'next_guest_id', 'guests', 'processes', 'guests_total', 'sessions'):
        equal(after[key], before[key], key)
    equal([{k: v for k, v in c.items() if k != 'connected_s'} for c in after['peers']],
          [{k: v for k, v in c.items() if k != 'connected_s'} for c in before['peers']], 'peers')
    beats = w.t.peer().heartbeat
    wait_for(lambda: w.t.peer().heartbeat > beats, 'its heart')
    g = w.new_guest()
    check(g.map(1 << 20)[:8] == b'VMPORTAL', 'the region')
    w.rest()


@point('ends that wait for who does not read are told one by one, after a restart too')
def _(stack):
    w = World(stack, seeded())
    good = w.new_guest()
    known = [w.new_guest() for _ in range(6)]
    w.settle()
    queued = lambda: [c['queued'] for c in w.d.status()['peers'] if c['id'] == good.id][0]
    while not queued():                 # its socket is full
        others = [Guest(w.d.sock('ivshmem')) for _ in range(4)]
        for g in others:
            g.close()
        for c in known + w.procs:
            c.read_some(10000)
    for g in known:
        w.leave(g)
    w.d.wait_log(f'guest {known[-1].id} left')
    check(queued() >= len(known), f'{queued()} messages wait')
    w.d.kill_child()
    w.rest()


@point('with the least and the most of everything')
def _(stack):
    for args in (['--vectors', '1', '--host-peers', '0'], ['--vectors', '64', '--host-peers', '12']):
        d = Kept(stack, *args)
        vectors = int(args[1])
        gs = [d.guest(vectors=vectors) for _ in range(3)]
        d.kill_child()
        last = d.guest(vectors=vectors)
        for g in gs:
            g.pump(lambda: g.knows(last.id))
        ring(gs[0].peers[last.id][vectors - 1])
        check(rings(last.peers[last.id][vectors - 1]) > 0, 'a doorbell')
        equal(last.id, gs[-1].id + 1, 'its id')


@point('what died while it was dead is found: a process, a session, a machine')
def _(stack):
    w = World(stack, seeded())
    d = w.d
    for _ in range(2):
        w.new_guest()
    p, q = w.new_proc(), w.new_proc()
    w.begin_session(p)
    w.begin_session(q)
    j = Joiner(stack, 'unix:' + d.sock('sock'))
    end, gid = fork_vm(stack, d)
    m = Machine(w.t, type('', (), dict(id=gid, vectors=4)), 3)
    os.kill(d.child, signal.SIGSTOP)
    old = d.child
    end()
    j.p.kill()
    j.p.wait()
    g = w.guests[0]
    w.leave(g)
    q.lifeline.end()
    w.forget(q)
    os.kill(old, signal.SIGKILL)
    d.daemon(other_than=old)
    equal(wait_for(m.dead, 'the verdict'), EXITED, 'reason')
    w.t.wait_dead(j.token)
    w.rest()


@point('one without connection, whose process is watched, is watched on; a lost one lingers')
def _(stack):
    w = World(stack, seeded())
    d = w.d
    w.new_guest()
    cmd, theirs = socket.socketpair()
    end, gid = fork_vm(stack, d, theirs)
    m = Machine(w.t, type('', (), dict(id=gid, vectors=4)), 3)
    p = w.new_proc()
    w.begin_session(p)
    cmd.send(b'x')
    equal(wait_for(m.suspect, 'suspicion'), CUT, 'reason')
    p.s.close()
    d.wait_log('has no connection any more')
    for _ in range(2):
        d.kill_child()
        d.wait_log('goes on')
        time.sleep(0.1)
    check(w.t.alive(p.token) and not m.dead(), 'a verdict')
    end()
    equal(wait_for(m.dead, 'the verdict'), EXITED, 'reason')
    p.lifeline.end()
    w.forget(p)
    w.rest()


ACTIONS = ['guest joins', 'guest leaves', 'process joins', 'session', 'session ends',
           'process leaves', 'process leaves with a session', 'machine dies']


def act(w, what):
    """Prepares, and returns what is to be done while portald dies."""
    if what == 'guest joins':
        return w.new_guest
    if what == 'guest leaves':
        return lambda: w.leave(w.guests[1])
    if what == 'process joins':
        return w.new_proc
    if what == 'machine dies':
        m = Machine(w.t, w.guests[1], 5)

        def die():
            w.leave(w.guests[1])        # its process lives: suspect
            equal(wait_for(m.suspect, 'suspicion'), CUT, 'reason')
        return die
    p = w.new_proc()
    if what == 'session':
        return lambda: w.begin_session(p)
    if what == 'process leaves':
        return lambda: w.leave(p)
    w.begin_session(p)
    return lambda: w.end_session(p) if what == 'session ends' else w.leave(p)


def trim(w):
    while len(w.guests) > 4:
        w.leave(w.guests[-1])
    while len(w.procs) > 2:
        w.leave(w.procs[-1])
    while len(w.guests) < 3:
        w.new_guest()
    w.settle()


@point('killed at every step of whatever it does (each STRIDEth, from a random one on)')
def _(stack):
    w = World(stack, seeded(), steps=True)
    total = 0
    for what in ACTIONS:
        n = w.rnd.randrange(STRIDE) + 1 - STRIDE
        while True:
            n += STRIDE
            trim(w)
            todo = act(w, what)
            w.settle()
            w.d.arm(n)
            todo()
            w.settle()
            w.d.disarm()
            if not w.d.died():
                break
            total += 1
        print(f'# {what}: fewer than {n} steps')
        check(n > STRIDE, 'there are no steps')
        w.rest()
    print(f'# {total} kills; {w.lost} connections that were told nothing')


def suspect_at_each_step(stack, machine):
    """Killed at step after step of making a machine suspect, that is never dead. @machine: with a
    daemon and its tables, makes one; it, what makes it suspect, and what happens to it after that."""
    n, died = 0, True
    while died:
        n += 1
        d = Kept(stack, steps=True)
        m, event, then = machine(d, Tables(stack, Member(d, join=False)))
        d.arm(n)
        event()
        equal(wait_for(m.suspect, f'suspicion, killed at step {n}'), CUT, 'reason')
        d.disarm()
        died = d.died()
        # Who did not die may come to that step yet.
        if died:
            then(n % 2)
        check(not m.dead(), f'killed at step {n}: dead, and it lives')
        d.end()
    check(n > 5, f'{n} steps')


@point('killed at every step as one leaves that has outlived its process: suspect, never dead')
def _(stack):
    def machine(d, t):
        g = Guest(inherit(d.sock('ivshmem')))
        m = Machine(t, g, 1)
        d.wait_log('somebody else has it')
        return m, g.s.close, lambda _: time.sleep(0.1)

    suspect_at_each_step(stack, machine)


@point('killed at every step as one is cut that somebody else has, too: suspect, never dead')
def _(stack):
    def machine(d, t):
        gid, cmd, end, end_child = shared_vm(stack, d)

        def then(once_more):
            if once_more:
                d.kill_child()          # and when all of that is done
                d.wait_log('goes on', n=2)
            end()
            d.wait_log('somebody else has it')
            end_child()
            d.status()

        return Machine(t, type('', (), dict(id=gid, vectors=4)), 1), lambda: cmd.send(b'x'), then

    suspect_at_each_step(stack, machine)


@point('killed at every step of requests, one behind the other: each is answered once, in order')
def _(stack):
    n, d = 0, Kept(stack, steps=True)
    p = Member(d, join=False)
    Machine(Tables(stack, p), d.guest(), 3)
    asked = [(FENCE, 7), (SESSION, 99), (FENCE, 7), (SESSION, 99), (SESSION, 99), (FENCE, 8)]

    def ask(kind, number):
        if kind == FENCE:
            p.send(FENCE, id=3, arg=0, value=number)
        else:
            p.send(SESSION, id=0, arg=number)

    def answers(n):
        """So many; a claim that is not there, and no such vector, are refused."""
        got = []
        p.s.settimeout(PATIENT)
        while len(got) < n:
            m = p.next()
            if m.type not in (FENCE, SESSION):
                p.take(m)
                continue
            equal((m.arg, m.fds), (errno.ESTALE if m.type == FENCE else errno.EINVAL, []), str(m))
            got.append((m.type, m.value if m.type == FENCE else 99))
        return got
    while True:
        n += 1
        d.arm(n)
        for one in asked:
            ask(*one)
        got = answers(len(asked))
        d.disarm()
        died = d.died()
        ask(FENCE, 1000 + n)        # and nothing comes before its answer
        equal(got + answers(1), asked + [(FENCE, 1000 + n)], f'killed at step {n}')
        if not died:
            break
    check(n > 5 * len(asked), f'{n} steps')
    print(f'# {n} steps')


@point('killed at every step as one joins that only reads: its region is read-only')
def _(stack):
    n, d = 0, Kept(stack, steps=True)
    while True:
        n += 1
        p = Proc(d, hello=False)
        time.sleep(0.02)
        d.arm(n)
        try:
            p.send(HELLO, flags=RDONLY)
            p.greet()
            equal(fcntl.fcntl(p.region, fcntl.F_GETFL) & os.O_ACCMODE, os.O_RDONLY,
                  f'killed at step {n}')
        except ConnectionError:
            check(not p.order, f'lost after it was told {p.order}')
        d.disarm()
        p.close()
        if not d.died():
            break
    check(n > 4, f'{n} steps')


@point('killed at random steps of random changes, and of the restart itself')
def _(stack):
    w = World(stack, seeded(), steps=True)
    kills = 0
    for i in range(ROUNDS):
        trim(w) if i % 10 == 0 else w.settle()
        todo = [something(w)]
        w.d.arm(w.rnd.randrange(1, 60))
        todo[0]()
        if w.d.died():
            kills += 1
            w.d.arm(w.rnd.randrange(1, 25))     # as it starts again
        w.settle()
        w.d.disarm()
        kills += w.d.died()
        if i % 25 == 24:
            w.rest()
            w.exchange()
    print(f'# {kills} kills; {w.lost} connections that were told nothing')
    check(kills > ROUNDS / 4, f'{kills} kills only')


@point('killed at random moments under load')
def _(stack):
    w = World(stack, seeded())
    kills, end = 0, time.monotonic() + ROUNDS / 10
    while time.monotonic() < end:
        at = time.monotonic() + w.rnd.random() * 0.05
        pid = w.d.child
        killer = threading.Timer(at - time.monotonic(), lambda: os.kill(pid, signal.SIGKILL))
        killer.start()
        for _ in range(6):
            something(w)()
        killer.join()
        w.d.daemon(other_than=pid)
        kills += 1
        w.settle()
    w.rest()
    print(f'# {kills} kills; {w.lost} connections that were told nothing')
    check(kills > ROUNDS / 15, f'{kills} kills only')


point.run()
