#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portald --keep: what is kept, and when it is not; beginnings that are cut short; other
versions' memory; configurations that are wrong for a while; ends."""
import errno
import signal

from portaldtest import *
from restarts import *
from tables import *

point = Tap()


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


@point('the keeper: options in any order, abbreviated, and values that look like one')
def _(stack):
    for args, conf in ((['--k'], None), (['--keep', '--owner', '--keep'], 2)):
        d = Daemon(stack, *args, wait=conf is None)
        if conf:
            equal(d.exit_code(), conf, 'exit code')
            check('--owner' in d.lines[-1], d.lines[-1])
            continue
        with open(f'/proc/{d.pid}/task/{d.pid}/children') as f:
            child = int(f.read())
        with open(f'/proc/{child}/task/{child}/children') as f:
            equal(f.read(), '', 'a keeper kept')
        d.process()


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


def kept_memory(d):
    """As the keeper has it."""
    for fd in os.listdir(f'/proc/{d.pid}/fd'):
        path = f'/proc/{d.pid}/fd/{fd}'
        if 'vmportal-kept' in os.readlink(path):
            return open(path, 'r+b', 0)
    check(False, 'no kept memory')


def scribble(d, at, fmt, *values):
    with kept_memory(d) as f:
        f.seek(at)
        f.write(struct.pack(fmt, *values))


def record(d, id, guest):
    """Where a client's is: struct kept_client, by its pid and command."""
    with kept_memory(d) as f:
        m = f.read()
    with open('/proc/self/comm', 'rb') as f:
        who = struct.pack('<ii', os.getpid(), os.getuid()) + f.read().rstrip(b'\n')
    at = m.find(who)
    while at >= 0:
        at -= 60
        state, flags, i = struct.unpack_from('<III', m, at + 48)
        if (i, flags & 1) == (id, guest) and state:
            return at
        at = m.find(who, at + 61)
    check(False, 'no such record')


@point('a record that cannot be is not believed: its client is cut, the others are served')
def _(stack):
    for at, fmt, value in ((8, '<Q', 0x7fffffff), (8, '<Q', 5 << 32), (12, '<I', 0x7fffffff),
                           (48, '<I', 9), (48, '<I', 5), (48, '<I', 1), (56, '<I', 60000), (56, '<I', NONE),
                           (56, '<I', 0), (52, '<I', 0x1f00), (40, '<Q', 7 << 32), (40, '<Q', 1 << 32 | 1000)):
        d = Kept(stack)
        a, bad, g = Member(d), d.process(), d.guest()
        where = record(d, bad.id, 0)
        os.kill(d.child, signal.SIGSTOP)
        scribble(d, where + at, fmt, value)
        d.kill_child()
        d.wait_log('is damaged')
        check(bad.ended(), 'the connection')
        check(Tables(stack, a).alive(a.token), 'the other session')
        new = d.guest()
        for c in (a, g):
            c.pump(lambda: c.knows(new.id))
        d.end()


@point('a session of a portal without tables is such a record, too')
def _(stack):
    d = Kept(stack, config='[demo]\nsize = 1M\n')
    bad = d.process()
    where = record(d, bad.id, 0)
    os.kill(d.child, signal.SIGSTOP)
    scribble(d, where + 40, '<Q', 2 << 32)
    d.kill_child()
    d.wait_log('is damaged')
    check(bad.ended(), 'the connection')
    equal(d.process().id, bad.id, 'its id')


@point('more than can be kept: that is said at once; a restart cuts those, and frees nothing of theirs')
def _(stack):
    # the build with steps has room for 2000 bytes of names
    d = Kept(stack, '--host-peers', '20', steps=True, name='n' * 32)
    kept = []
    while not any('cannot be kept' in s for s in d.lines):
        check(len(kept) < 20, 'everything was kept')
        kept.append(Member(d))
        d.status()
    last = kept.pop()
    t = Tables(stack, kept[0])
    more = Process(d.sock('sock'))
    d.wait_log(f'process {more.id} cannot be kept over a restart')
    g = d.guest()
    d.wait_log('ivshmem cannot be kept over a restart')
    d.kill_child()
    d.wait_log('goes on where')
    for c in (last, more, g):
        check(c.ended(), 'one that was not kept')
    for c in kept:
        check(t.alive(c.token), 'one that was kept')
    check(t.alive(last.token), 'a session that lives')
    ids = set()
    while True:
        try:
            p = d.process()
        except PermissionError:
            break
        ids.add(p.id)
    check(last.id not in ids, 'its id is leased again')
    check(more.id in ids, 'an id that is free')
    # The host is declared dead: so is that session, and nobody waits for it any more.
    t.put(t.peer_at(0) + 24, '<I', FENCED)
    t.put(t.peer_at(0) + 8, '<Q', t.peer().claim)
    wait_for(lambda: t.of_token(last.token).state == DEAD, 'its end')
    d.p.terminate()
    equal(d.exit_code(), 0, 'exit code')
    equal((t.peer().claim, t.peer().state), (0, DEAD), 'row')


@point('killed at every step as one joins that cannot be kept: the others are not left with it')
def _(stack):
    d = Kept(stack, '--host-peers', '20', steps=True, name='n' * 32)
    good, a, fill = d.guest(), Member(d), []
    while not any('cannot be kept' in s for s in d.lines):
        check(len(fill) < 20, 'everything was kept')
        fill.append(d.process())
        d.status()
        time.sleep(0.05)
    t, ids = Tables(stack, a), set(range(21)) | {good.id}
    for n in [*range(1, 10), *range(16, 150, 7)]:
        for slot in (1, 2):     # rows that claim the next ids, whoever has written them
            Machine(t, type('', (), dict(id=d.status()['next_guest_id'] + slot - 1, vectors=4)), slot)
        d.arm(n)
        g = Guest(d.sock('ivshmem'), greet=False)
        g.ended(0.1)
        d.disarm()
        died = d.died()
        g.close()
        wait_for(lambda: d.status()['guests'] == 1, 'its end')
        wait_for(lambda: not good.read_some(1000) and set(good.peers) == ids, f'its end, step {n}')
        a.read_some(1000)
        if not died:
            break
    check(n > 5, f'{n} steps')
    d.died()
    ends = {s for s in d.lines if 'by signal' in s and 'signal 9' not in s}
    check(not ends, f'a start that crashed: {ends}')


@point('a start that dies of what it takes over is tried so often, then all begins anew')
def _(stack):
    d = Kept(stack, steps=True)
    a = Member(d)
    g = d.guest()
    a.pump(lambda: a.knows(g.id))
    t = Tables(stack, a)
    t.m[0:4096] = bytes(4096)           # it does not believe what anybody can write
    for n in range(9):                  # the one that gets through ends the count
        d.arm(3)
        d.kill_child()
        wait_for(lambda: not os.path.getsize(d.die), 'a start')
        d.died()
    check(t.alive(a.token), 'its session')
    scribble(d, 56, '<Q', 10)
    d.kill_child()
    check('10 starts' in d.wait_log('cannot go on', seconds=PATIENT), 'why')
    check(a.ended() and g.ended(), 'those on the old region')
    Member(d)


@point('a start that fails for something else is tried as often as it takes, and loses nothing')
def _(stack):
    d = Kept(stack)
    a = Member(d)
    t = Tables(stack, a)
    lock = os.path.join(d.dir, 'demo.lock')
    os.kill(d.child, signal.SIGSTOP)
    scribble(d, 56, '<Q', 9)
    os.unlink(lock)
    os.mkdir(lock)
    os.kill(d.child, signal.SIGKILL)
    d.wait_log('demo.lock', n=2, seconds=PATIENT)
    os.rmdir(lock)
    d.wait_log('goes on where the portald before left it', seconds=PATIENT)
    d.daemon()
    check(t.alive(a.token), 'its session')
    d.status()


@point('killed at every step of a session that cannot be kept: answered, and watched if it was not before')
def _(stack):
    d = Kept(stack, '--host-peers', '20', steps=True, name='n' * 32)
    a, fill, n = Member(d), [], 0
    while not any('cannot be kept' in s for s in d.lines):
        check(len(fill) < 20, 'everything was kept')
        fill.append(Member(d, join=False))
        d.status()
        time.sleep(0.05)
    fill.pop().close()
    t = Tables(stack, a)
    while True:
        n += 1
        p = fill.pop()
        a.pump(lambda: p.id in a.peers)
        d.arm(n)
        p.join()
        d.disarm()
        p.lifeline.end()
        # killed when it was told of it, nobody can help: the steps before that have been tried
        lost = lambda: any('watched any more' in s for s in d.lines)
        wait_for(lambda: lost() or not t.alive(p.token), 'its end')
        d.died()
        if lost():
            break
        a.pump(lambda: p.id not in a.peers)
        p.close()
        fill.append(Member(d, join=False))
    print(f'# {n} steps')
    check(n > 5, f'{n} steps, then {d.lines[-5:]}')


def descriptors(pid):
    """What they are; but one that is closed as we look."""
    for n in os.listdir(f'/proc/{pid}/fd'):
        try:
            yield os.readlink(f'/proc/{pid}/fd/{n}')
        except FileNotFoundError:
            pass


@point('the keeper killed: its daemon serves on, and says that nothing is kept any more')
def _(stack):
    d = Kept(stack)
    a = Member(d)
    for pid in (d.pid, d.child):        # nobody else can speak to either as the other
        inodes = set(descriptors(pid))
        with open(f'/proc/{pid}/net/unix') as f:
            bound = [x.split()[7] for x in f.readlines()[1:]
                     if f'socket:[{x.split()[6]}]' in inodes and len(x.split()) > 7]
        check(all(path.startswith(d.dir) for path in bound), f'{pid} is reached at {bound}')
    os.kill(d.pid, signal.SIGKILL)
    d.p.wait()
    wait_for(lambda: any('the keeper has ended' in s for s in d.lines), 'a line about it')
    b, g = Member(d), d.guest()
    g.pump(lambda: g.knows(a.id))
    check(not any('cannot' in s for s in d.lines), str(d.lines))
    t = Tables(stack, a)
    b.close()
    t.wait_dead(b.token)
    os.kill(d.child, signal.SIGTERM)
    check(a.ended() and g.ended(), 'its end')
    wait_for(lambda: not os.listdir(d.dir), f'nothing left of {os.listdir(d.dir)}')


@point('a configuration that is wrong for a while, and a crash: what is kept waits')
def _(stack):
    good = '[demo]\nsize = 1M\nmanaged = yes\n'
    d = Kept(stack, config=good)
    g, a = d.guest(), Member(d)
    with open(d.config, 'a') as f:
        f.write('[two]\nsize = 3M\n')
    os.kill(d.child, signal.SIGKILL)
    d.wait_log('power of two', n=2, seconds=PATIENT)
    check(d.p.poll() is None, 'the keeper has ended')
    with open(d.config, 'w') as f:
        f.write(good)
    d.wait_log('goes on where the portald before left it: 1 guests, 1 processes', seconds=PATIENT)
    check(Tables(stack, a).alive(a.token), 'its session')
    new = d.guest()
    g.pump(lambda: g.knows(new.id))


@point('a new portal that cannot be served keeps nobody from those that were')
def _(stack):
    good = '[demo]\nsize = 1M\nmanaged = yes\n'
    d = Kept(stack, config=good)
    g, a = d.guest(), Member(d)
    path = os.path.join(d.dir, 'two.sock')
    open(path, 'w').close()
    with open(d.config, 'w') as f:
        f.write('[two]\nsize = 1M\n' + good)
    d.kill_child()
    d.wait_log('there is a file that is no socket')
    d.wait_log('goes on where the portald before left it: 1 guests, 1 processes', seconds=PATIENT)
    check(Tables(stack, a).alive(a.token), 'its session')
    os.unlink(path)
    os.kill(d.child, signal.SIGHUP)
    d.wait_log('two: serving')
    d.kill_child()
    d.wait_log('two: goes on')
    new = d.guest()
    g.pump(lambda: g.knows(new.id))


@point('SIGINT ends all, whoever has a session or no connection: nothing stays kept')
def _(stack):
    d = Kept(stack)
    a, g = Member(d), Guest(d.sock('ivshmem'))
    m = Machine(Tables(stack, a), g, 1)
    g.close()
    wait_for(m.suspect, 'suspicion')
    os.kill(d.child, signal.SIGINT)
    equal(d.exit_code(), 0, 'exit code of the keeper')
    equal(os.listdir(d.dir), [], 'files')


@point('killed at every step of its end: nobody goes on with half of it')
def _(stack):
    n = 0
    while True:
        n += 1
        d = Kept(stack, steps=True)
        a = Member(d)
        t = Tables(stack, a)
        memory = os.fstat(a.region).st_ino
        d.arm(n)
        child = d.child
        os.kill(child, signal.SIGINT)
        wait_for(lambda: not os.path.exists(f'/proc/{child}'), 'its end')
        d.disarm()
        try:
            d.exit_code(1)
            break
        except subprocess.TimeoutExpired:
            pass
        d.daemon()
        b = Member(d)
        check(os.fstat(b.region).st_ino != memory or t.alive(a.token),
              f'killed at step {n}: a session that lives is dead')
        for m in (a, b):
            m.close()
        d.end()
    check(n > 8, f'{n} steps')


@point('a deaf process keeps its id over a restart, and gets no session that it does not hear of')
def _(stack):
    d = Kept(stack, '--host-peers', '2', '--stall-timeout', '1')
    a, deaf = Member(d), d.process()
    for _ in range(12):
        gs = [Guest(d.sock('ivshmem')) for _ in range(12)]
        for g in gs:
            g.close()
        a.read_some(10000)
    deaf.send(SESSION, id=0, arg=NONE)
    d.wait_log('is told nothing more')
    t = Tables(stack, a)
    for _ in range(2):
        deaf.send(SESSION, id=0, arg=NONE)
        time.sleep(0.1)
        alive = [r for r in range(t.sessions_n) if t.session(r).state == ALIVE]
        equal(alive, [a.token & 0xffff], 'sessions that are alive')
        try:
            b = d.process()
            check(False, f'id {b.id} is leased again, and the deaf one has {deaf.id}')
        except PermissionError:
            pass
        d.kill_child()
        d.wait_log('goes on')
    deaf.close()
    equal(wait_for(lambda: d.process(), 'the id').id, deaf.id, 'the id')


@point('a request after a restart is answered; another heartbeat is told')
def _(stack):
    conf = '[demo]\nsize = 1M\nmanaged = yes\nheartbeat = '
    d = Kept(stack, config=conf + '200\n')
    a = Member(d)
    t = Tables(stack, a)
    equal(t.peer().heartbeat_ms, 200, 'heartbeat')
    with open(d.config, 'w') as f:
        f.write(conf + '3000\n')
    d.kill_child()
    d.wait_log('goes on')
    a.ask()
    equal(a.answer(SESSION).arg, errno.EBUSY, 'a second session')
    equal(wait_for(lambda: t.peer().heartbeat_ms != 200 and t.peer().heartbeat_ms, 'the new one'),
          3000, 'heartbeat')


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
        # The keeper hears of each that is not kept any more one by one.
        wait_for(lambda: w.d.kept() == kept - 4, 'an end of a guest, two processes and a session that were kept')
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
