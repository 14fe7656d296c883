# SPDX-License-Identifier: MIT
"""A portald that is kept, and killed, and clients that know message by message what may
come. No id and no tenure twice, no PEER or GONE lost or doubled, sessions that live are alive
and those that ended are dead, the host's row keeps its claim."""
import random
import signal

from portaldtest import *
from tables import *


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
        try:
            os.kill(old, how)
        except ProcessLookupError:
            pass                    # it had a step to come to still
        self.daemon(other_than=old)

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


def shared_vm(stack, d):
    """A process that has a guest's connection, and a child of it that has it, too. A byte to
    @cmd: it sends what it should not, and is cut. id, cmd, an end for each of the two."""
    cmd, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        try:
            cmd.close()
            vm = Vm(d)
            child = os.fork()
            if child:
                theirs.send(b'%d %d' % (vm.id, child))
                theirs.recv(1)
                vm.s.send(b'x')
            else:
                theirs.close()
            time.sleep(300)
        finally:
            os._exit(0)
    theirs.close()
    stack.callback(cmd.close)
    gid, child = (int(n) for n in cmd.recv(32).split())

    def end(pid):
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except OSError:
            pass
    ends = [lambda: end(pid), lambda: end(child)]
    for e in ends:
        stack.callback(e)
    return gid, cmd, *ends


def seeded():
    seed = int(os.environ.get('RESTART_SEED', random.randrange(1 << 32)))
    print(f'# RESTART_SEED={seed}')
    return random.Random(seed)
