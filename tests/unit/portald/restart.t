#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portald killed at every step, and at random moments, under load: its clients notice
nothing. portald --keep has its descriptors; tests/vm/portald_units.py has systemd.

Who watches: guests and processes that know, message by message, what may come. No id and
no tenure twice, no PEER or GONE lost or doubled, sessions that live are alive and those
that ended are dead, the host's row keeps its claim."""
import errno
import fcntl
import random
import signal

from portaldtest import *
from tables import *

point = Tap()
ROUNDS = int(os.environ.get('RESTART_ROUNDS', '150'))
STRIDE = int(os.environ.get('RESTART_STRIDE', '3'))     # 1: all of them


class Kept(Daemon):
    """portald --keep, and the daemon that it keeps."""

    def __init__(self, stack, *args, steps=False, **kw):
        self.die = os.path.join(scratch(stack), 'die')
        open(self.die, 'w').close()
        keys = [] if 'config' in kw else ['--managed', '--max-guests', '12', '--sessions', '16',
                                          '--connect-rate', '0', '--heartbeat', '1000']
        super().__init__(stack, '--keep', *keys, *args,
                         path=portald_path(steps=steps), env=dict(os.environ, PORTALD_DIE=self.die),
                         **kw)
        self.daemon()

    def daemon(self, other_than=None):
        def pid():
            with open(f'/proc/{self.pid}/task/{self.pid}/children') as f:
                pids = [int(p) for p in f.read().split()]
            return pids[0] if pids and pids[0] != other_than else None
        self.child = wait_for(pid, 'a daemon')
        return self.child

    def kill_child(self, how=signal.SIGKILL):
        old = self.child
        os.kill(old, how)
        self.daemon(other_than=old)

    def kept(self):
        """How many descriptors the keeper has: its own, and the daemon's memory, sockets, bundles."""
        return len(os.listdir(f'/proc/{self.pid}/fd'))

    def died(self):
        """Has it, since the last time this was asked? The one that answers knows."""
        def answer():
            try:
                return self.status()['pid']
            except (OSError, AssertionError, AttributeError):
                return None
        old, self.child = self.child, wait_for(answer, 'a daemon')
        return self.child != old

    def arm(self, n):
        with open(self.die, 'w') as f:
            f.write(str(n))

    def disarm(self):
        open(self.die, 'w').close()


class Watcher:
    """What must be true of each client's messages, whoever it is."""
    def begin(self):
        self.ended_guests, self.ended_tenures, self.tenures = set(), {}, {}

    def no_second(self, id):
        check(id not in self.ended_guests, f'guest {id} is told of after its end')


class Vm(Guest, Watcher):
    def __init__(self, d, **kw):
        self.begin()
        super().__init__(d.sock('ivshmem'), **kw)

    def take(self, m, n=99):
        value, fd = m
        if n > 3:
            self.no_second(value)
        if n > 3 and fd is None:
            check(value in self.peers, f'GONE {value} of one never told of')
            self.ended_guests.add(value)
        super().take(m, n)
        check(all(len(v) <= self.vectors for v in self.peers.values()), 'PEER twice')


class Proc(Member, Watcher):
    def __init__(self, d, **kw):
        self.begin()
        super().__init__(d, join=False, **kw)

    def take(self, m):
        if m.type == PEER and m.value:
            check(m.value > self.ended_tenures.get(m.id, 0), f'PEER of an old tenure: {m}')
            self.tenures[m.id] = m.value
        elif m.type == PEER:
            self.no_second(m.id)
        elif m.type == GONE and m.value:
            check(m.value > self.ended_tenures.get(m.id, 0), f'GONE twice: {m}')
            self.ended_tenures[m.id] = m.value
        elif m.type == GONE:
            for id in range(m.id, m.arg + 1):
                self.no_second(id)
                self.ended_guests.add(id)
        super().take(m)


class World:
    """A portal, everybody on it, and what each should know."""

    def __init__(self, stack, rnd, daemon=None, **kw):
        self.stack, self.rnd = stack, rnd
        self.d = daemon or Kept(stack, **kw)
        self.guests, self.procs = [], []
        self.ids, self.tenures, self.dead_tokens, self.tokens = set(), set(), [], set()
        self.lost = 0
        self.watch = self.new_proc()
        self.t = Tables(stack, self.watch)
        self.claim = self.t.peer().claim
        self.said = len(self.d.lines)

    def new_guest(self):
        g = Vm(self.d, greet=False)
        try:
            g.greet()
        except ConnectionError:
            check(not g.order, f'lost after it was told {g.order}')
            g.close()
            self.lost += 1          # accepted, and not yet stored
            return None
        self.stack.callback(g.close)
        check(g.id not in self.ids, f'id {g.id} twice')
        self.ids.add(g.id)
        self.guests.append(g)
        return g

    def new_proc(self):
        for _ in range(5):          # as the library does
            p = Proc(self.d, hello=False)
            try:
                p.send(HELLO)
                p.greet()
                break
            except ConnectionError:
                check(not p.order, f'lost after it was told {p.order}')
                p.close()
                self.lost += 1
        own = [m.value for m in p.order if m.type == PEER and m.id == p.id]
        check(len(own) == 1 and own[0] not in self.tenures, f'tenure {own} twice')
        self.tenures.add(own[0])
        self.procs.append(p)
        return p

    def begin_session(self, p):
        p.join()
        check(p.token not in self.tokens, f'token {p.token:#x} twice')
        self.tokens.add(p.token)

    def end_session(self, p):
        """Which ends the connection, too."""
        p.lifeline.end()
        self.forget(p)

    def forget(self, p):
        (self.procs if p in self.procs else self.guests).remove(p)
        if isinstance(p, Proc) and p.token:
            self.dead_tokens.append(p.token)

    def leave(self, p):
        p.close()
        self.forget(p)

    def expected(self, c):
        guests = {g.id for g in self.guests}
        if isinstance(c, Vm):
            return guests | set(range(9))
        return guests | {p.id for p in self.procs}

    def settle(self):
        """Everybody knows what is so; each message was taken as it should be."""
        for c in self.guests + self.procs:
            c.pump(lambda: set(c.peers) == self.expected(c) and all(c.knows(i) for i in c.peers), 20)
        for p in self.procs:
            check(not p.token or self.t.alive(p.token), 'a session that lives is dead')
        for token in self.dead_tokens:
            self.t.wait_dead(token)
        self.dead_tokens = self.dead_tokens[-3:]
        wait_for(lambda: self.t.peer().state == ALIVE, 'the host')
        equal(self.t.peer().claim, self.claim, "the host's claim")

    def rest(self):
        """Nothing comes that nobody expects."""
        self.settle()
        time.sleep(0.2)
        for c in self.guests + self.procs:
            c.read_some(1000)
            equal(set(c.peers), self.expected(c), 'peers')
        bad = [s for s in self.d.lines[self.said:] if 'not kept' in s or 'cannot' in s or 'watched any more' in s]
        check(not bad, str(bad))

    def exchange(self):
        """Doorbells that were made before go on working."""
        a, b = self.guests[0], self.guests[-1]
        ring(a.peers[b.id][1])
        check(rings(b.peers[b.id][1]) > 0, 'a doorbell')


def fork_vm(stack, d, cmd=None):
    """A process that has a guest's connection, and closes it when told to; pid, id."""
    pid = os.fork()
    if not pid:
        try:
            vm = Vm(d)
            if cmd:
                cmd.recv(1)
                vm.s.close()
            time.sleep(300)
        finally:
            os._exit(0)

    def end():
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except OSError:
            pass
    stack.callback(end)
    return end, wait_for(lambda: [g['id'] for g in d.status()['peers'] if g['pid'] == pid], 'a VM')[0]


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


def seeded():
    seed = int(os.environ.get('RESTART_SEED', random.randrange(1 << 32)))
    print(f'# RESTART_SEED={seed}')
    return random.Random(seed)


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


@point('killed at every step as one leaves that has outlived its process: suspect, never dead')
def _(stack):
    n = 0
    while True:
        n += 1
        d = Kept(stack, steps=True)
        w = Member(d, join=False)
        g = Guest(inherit(d.sock('ivshmem')))
        m = Machine(Tables(stack, w), g, 1)
        d.wait_log('somebody else has it')
        d.arm(n)
        g.s.close()
        equal(wait_for(m.suspect, f'suspicion, killed at step {n}'), CUT, 'reason')
        d.disarm()
        died = d.died()
        time.sleep(0.1)
        check(not m.dead(), f'killed at step {n}: dead, and it lives')
        d.end()
        if not died:
            break
    check(n > 5, f'{n} steps')


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


@point('ended for another (SIGUSR1, SIGTERM), by a new program: the same; SIGTERM to the keeper ends it all')
def _(stack):
    w = World(stack, seeded())
    for _ in range(2):
        w.new_guest()
    p = w.new_proc()
    w.begin_session(p)
    for sig in (signal.SIGUSR1, signal.SIGTERM):
        w.d.kill_child(sig)
        w.d.wait_log('ending, for another portald')
        w.rest()
        w.exchange()
    child = w.d.child
    os.kill(w.d.pid, signal.SIGUSR1)    # an upgrade, by the keeper
    w.d.daemon(other_than=child)
    w.rest()
    w.end_session(p)
    w.settle()
    w.d.p.terminate()
    equal(w.d.exit_code(), 0, 'exit code')
    equal(os.listdir(w.d.dir), [], 'files')
    equal((w.t.peer().claim, w.t.peer().state), (0, DEAD), 'row')
    check(w.guests[0].ended(), 'connections')


@point('the keeper: what cannot start ends; what crashes again and again is started slowly')
def _(stack):
    d = scratch(stack)
    r = run('--keep', '--name', 'x', '--size', '3', '--socket-dir', d)
    equal(r.returncode, 2, r.stderr)
    r = run('--keep', '--name', 'x', '--size', '1M', '--socket-dir', '/proc/nowhere')
    equal(r.returncode, 1, r.stderr)
    k = Kept(stack)
    for n in range(5):
        k.kill_child()
    k.wait_log('killed by signal 9', n=5)
    k.process()


def scribble(d, what, fmt, *values):
    """Over the kept memory, which the keeper has."""
    for fd in os.listdir(f'/proc/{d.pid}/fd'):
        path = f'/proc/{d.pid}/fd/{fd}'
        if 'vmportal-kept' in os.readlink(path):
            with open(path, 'r+b', 0) as f:
                f.seek(what)
                f.write(struct.pack(fmt, *values))
            return
    check(False, 'no kept memory')


@point("kept memory of another version, or damaged, is refused, and all begins anew, once")
def _(stack):
    for at, value, why in ((0, 0x305450454b4d5650, 'another version'),     # magic
                           (8, 4096, 'damaged'),                           # size
                           (16, 0, 'not there yet')):                      # complete
        w = World(stack, seeded())
        w.new_guest()
        p = w.new_proc()
        w.begin_session(p)
        w.settle()
        kept = w.d.kept()
        scribble(w.d, at, '<Q', value)
        w.d.kill_child()
        w.d.wait_log('serving', n=2)
        check(why in w.d.wait_log('cannot go on where the portald before left it'), why)
        for c in w.guests + w.procs:
            check(c.ended(), 'one on the old region was not cut')
            c.close()
        equal(w.d.kept(), kept - 4, 'what is kept: not a guest, two processes and a session')
        # From here on it is as ever: nothing of the old is in the way.
        n = World(stack, w.rnd, daemon=w.d)
        n.new_guest()
        n.new_guest()
        n.begin_session(n.new_proc())
        n.d.kill_child()
        n.d.wait_log('goes on where the portald before left it: 2 guests, 2 processes')
        n.rest()
        n.exchange()
        equal(sum('cannot go on' in s for s in n.d.lines), 1, 'refused')
        check(not any('nobody kept' in s for s in n.d.lines), 'two accounts of what happened')


@point('killed at each step of the beginning of a portal: whole then, or begun again')
def _(stack):
    one = '[demo]\nsize = 1M\nmanaged = yes\nhost_peers = 2\nvectors = 2\nmax_guests = 4\n'
    d = Kept(stack, config=one, steps=True)
    g = d.guest(vectors=2)
    n = 0
    while True:
        n += 1
        name = f'p{n}'
        with open(d.config, 'w') as f:
            f.write(one + one.replace('demo', name))
        d.arm(n)
        os.kill(d.child, signal.SIGHUP)
        path = os.path.join(d.dir, name + '.ivshmem')
        wait_for(lambda: os.path.exists(path), 'its socket')
        d.wait_log(f'{name}: serving')
        d.disarm()
        if not d.died():
            break
        a = Guest(path, vectors=2)
        stack.callback(a.close)
        d.kill_child()
        d.wait_log(f'{name}: goes on where the portald before left it: 1 guests')
        b = Guest(path, vectors=2)
        a.pump(lambda: a.knows(b.id))
        b.close()
    check(n > 5, f'{n} steps')
    print(f'# {n} steps')
    d.kill_child()                  # and with it what is left to count
    last = d.guest(vectors=2)
    g.pump(lambda: g.knows(last.id))


@point('the library connects anew when it was cut before the first word')
def _(stack):
    w = World(stack, seeded(), steps=True)
    for n in range(1, 8):
        w.d.arm(n)
        j = Joiner(stack, 'unix:' + w.d.sock('sock'))
        w.d.disarm()
        w.d.died()
        j.end()
        w.t.wait_dead(j.token)


point.run()
