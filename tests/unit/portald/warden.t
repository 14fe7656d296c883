#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portald as warden: machines whose process has ended are dead, at once; those whose
connection alone is lost are suspect, until more is known."""
import ctypes
import errno
import platform
import re
import signal

from portaldtest import *
from tables import *
from turns import each_turn

point = Tap()


def end(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Vm:
    """A process that has a guest's connection, as QEMU has, and does as it is told."""

    def __init__(self, stack, d, without=None):
        self.cmd, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            self.cmd.close()
            if without:
                without.s.close()
            self._child(theirs, d.sock('ivshmem'))
        theirs.close()
        stack.callback(self.cmd.close)
        stack.callback(self.kill)
        self.stack = stack
        self.id, self.vectors = int(self.cmd.recv(32)), 4

    def _child(self, cmd, path):
        g = Guest(path)
        cmd.send(b'%d' % g.id)
        while True:
            what = cmd.recv(16)
            if what == b'cut':
                g.s.close()
            elif what == b'data':
                g.s.send(b'x')
                cmd.send(b'sent')
            elif what == b'half':
                g.s.shutdown(socket.SHUT_WR)
            elif what == b'fork':
                pid = os.fork()
                if not pid:
                    cmd.close()
                    time.sleep(1000)
                cmd.send(b'%d' % pid)
            elif not what:
                os._exit(0)

    def cut(self):
        self.cmd.send(b'cut')

    def data(self):
        """Which portald cuts it for."""
        self.cmd.send(b'data')
        self.cmd.recv(32)

    def fork(self):
        self.cmd.send(b'fork')
        child = int(self.cmd.recv(32))
        self.stack.callback(end, child)
        return child

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.pid = None


SO_PEERPIDFD = 77
OLD = False     # a kernel as before Linux 6.5


def no_peerpidfd():
    """From here on getsockopt(SO_PEERPIDFD) answers as such a kernel does: a filter of
    system calls, which outlives exec."""
    number = {'x86_64': 55, 'aarch64': 209}[platform.machine()]
    code = [(0x20, 0, 0, 0),                                    # the system call's number
            (0x15, 0, 3, number),
            (0x20, 0, 0, 32),                                   # its third argument
            (0x15, 0, 1, SO_PEERPIDFD),
            (0x06, 0, 0, 0x00050000 | errno.ENOPROTOOPT),
            (0x06, 0, 0, 0x7fff0000)]                           # all else is allowed
    text = ctypes.create_string_buffer(b''.join(struct.pack('<HBBI', *c) for c in code))
    prog = struct.pack('@HP', len(code), ctypes.addressof(text))
    check(libc.prctl(38, 1, 0, 0, 0) == 0, 'PR_SET_NO_NEW_PRIVS')
    check(libc.prctl(22, 2, prog, 0, 0) == 0, 'PR_SET_SECCOMP')


def managed(stack, *args, heartbeat='60000'):
    return Daemon(stack, '--managed', '--max-guests', '6', '--sessions', '10', '--connect-rate',
                  '0', '--heartbeat', heartbeat, *args, preexec=no_peerpidfd if OLD else None)


def both(name):
    """A point for a kernel that has SO_PEERPIDFD, and for one that has not."""
    def add(fn):
        def old(stack):
            global OLD
            OLD = True
            try:
                fn(stack)
            finally:
                OLD = False

        point(name)(fn)
        point(name + ' (Linux < 6.5)')(old)
    return add


def told_in_time(d, n):
    us = [int(re.search('told ([0-9]+) us', s)[1]) for s in d.lines if ' us after it was seen' in s]
    equal(len(us), n, 'verdicts in the log')
    check(all(u < 2000000 for u in us), f'microseconds from seeing to done: {us}')


@both('a process that ends: dead, and the others are rung, within 2 s of the kill by our clock and by its own')
def _(stack):
    d = managed(stack)
    a, other = Member(d), d.guest()
    t = Tables(stack, a)
    n = Machine(t, other, 2, notice=1)
    for i in range(3):
        vm = Vm(stack, d)
        m = Machine(t, vm, 1, notice=0)
        other.pump(lambda: other.knows(vm.id))
        a.pump(lambda: a.knows(vm.id))
        rings(other.peers[other.id][1], 0)
        killed = ran()
        vm.kill()
        # Rung because it is dead: its connection's end may be seen, and told, a moment before.
        while not (rings(other.peers[other.id][1], 0.1) and m.dead()):
            check(ran() - killed < 2, 'the other machine was not rung within 2 s')
        equal(m.dead(), EXITED, 'reason')
        a.wait_change()
        check(ran() - killed < 2, 'the process of the host was not told within 2 s')
        a.pump(lambda: vm.id not in a.peers)
        d.wait_log('is dead', n=i + 1)
    check(not n.dead() and not n.suspect(), 'the other machine')
    # the socket's end may be seen a moment before the process's
    us = [int(re.search('told ([0-9]+) us', s)[1]) for s in d.lines if 'is dead' in s]
    check(all(u < 2000000 for u in us), f'microseconds from seeing to done: {us}')


@point('marked dead, or suspect, and the others rung, before that turn of the event loop ends')
def _(stack):
    d = managed(stack)
    a, vm, other = Member(d), Vm(stack, d), d.guest()
    t = Tables(stack, a)
    m = Machine(t, vm, 1, notice=0)
    Machine(t, other, 2, notice=1)
    other.pump(lambda: other.knows(vm.id))
    a.pump(lambda: a.knows(vm.id))
    rings(other.peers[other.id][1], 0)
    for event, mark in ((vm.cut, m.suspect), (vm.kill, m.dead)):
        marked = False

        def look():
            nonlocal marked
            rung = rings(other.peers[other.id][1], 0)
            check(marked or not mark() or rung, 'a turn that stored a verdict ended without a ring')
            marked = bool(mark())
            return marked
        each_turn(d.pid, event, look)
    equal(m.dead(), EXITED, 'reason')


@both('a connection that is lost while its process lives: suspect; dead when that ends')
def _(stack):
    d = managed(stack)
    a, vm = Member(d), Vm(stack, d)
    t = Tables(stack, a)
    m = Machine(t, vm, 1)
    vm.cut()
    equal(wait_for(m.suspect, 'suspicion'), CUT, 'reason')
    a.wait_change()
    time.sleep(0.3)
    check(not m.dead(), 'not proven')
    equal(d.status()['machines'][1]['state'], 'suspect', 'status')
    vm.kill()
    equal(wait_for(m.dead, 'the verdict'), EXITED, 'reason')
    a.wait_change()
    d.wait_log('is dead')
    told_in_time(d, 2)
    equal(d.status()['machines'][1]['state'], 'dead', 'status')


@both('a machine that joins what was just formatted, and dies before the next heartbeat: dead')
def _(stack):
    for cut in (False, True):
        d = managed(stack)
        a, vm = Member(d), Vm(stack, d)
        t = Tables(stack, a)
        if cut:
            vm.cut()
            d.wait_log(f'guest {vm.id} left')
        formatted('unix:' + d.sock('sock'), '--peers', '7', '--sessions', '10')
        m = Machine(t, vm, 1)
        vm.kill()
        equal(wait_for(m.dead, 'the verdict'), EXITED, 'reason')
        check(not t.alive(a.token) and a.ended(), 'a session of before')
        equal(t.peer().state, ALIVE, 'the host')
        d.end()


def held_twice(stack):
    """Of one whose connection a child of its process has, too: daemon, process, machine, child."""
    d = managed(stack)
    a, vm = Member(d), Vm(stack, d)
    return d, vm, Machine(Tables(stack, a), vm, 1), vm.fork()


@both('one whose connection outlives its process is never declared dead')
def _(stack):
    d, vm, m, child = held_twice(stack)
    vm.kill()
    d.wait_log('somebody else has it')
    check(not m.dead() and not m.suspect(), 'a verdict')
    os.kill(child, signal.SIGKILL)
    equal(wait_for(m.suspect, 'suspicion'), CUT, 'reason')
    time.sleep(0.3)
    check(not m.dead(), 'not proven')


@both('one that portald itself cuts is dead when its process ends, and all have closed the connection')
def _(stack):
    d = managed(stack)
    a = Member(d)
    t = Tables(stack, a)
    for shared in (False, True):
        vm = Vm(stack, d)
        m = Machine(t, vm, 1)
        child = vm.fork() if shared else None
        vm.data()
        equal(wait_for(m.suspect, 'suspicion'), CUT, 'reason')
        if shared:
            os.kill(child, signal.SIGKILL)
            wait_for(lambda: not os.path.exists(f'/proc/{child}') or
                     open(f'/proc/{child}/stat').read().rsplit(')', 1)[1].split()[0] == 'Z', 'its end')
        time.sleep(0.2)
        check(not m.dead(), 'it lives')
        vm.kill()
        equal(wait_for(m.dead, 'the verdict'), EXITED, 'reason')


def stall(d, vm):
    """It reads nothing, and is cut at last."""
    while not any(f'guest {vm.id} cut: it has not read' in s for s in d.lines):
        for g in [Guest(d.sock('ivshmem')) for _ in range(4)]:
            g.close()


@both('one that portald itself cuts, and somebody else has the connection, too: never dead')
def _(stack):
    for how in (Vm.data, lambda vm: stall(d, vm)):
        d = managed(stack, '--stall-timeout', '1', heartbeat='100')
        vm = Vm(stack, d)
        # one who reads nothing is not in the way of those who look
        t = Tables(stack, d.process())
        m = Machine(t, vm, 1)
        child = vm.fork()
        how(vm)
        equal(wait_for(m.suspect, 'suspicion'), CUT, 'reason')
        check(not any('somebody else' in s for s in d.lines), 'its process lives')
        vm.kill()
        d.wait_log('somebody else has it')
        check(not m.dead(), 'it is dead, and somebody has its memory')
        os.kill(child, signal.SIGKILL)
        time.sleep(0.3)
        check(not m.dead(), 'not proven')
        d.end()


@both('cut for what was sent before its process ended, and somebody else has the connection: never dead')
def _(stack):
    d, vm, m, child = held_twice(stack)
    os.kill(d.pid, signal.SIGSTOP)
    vm.data()
    vm.kill()
    os.kill(d.pid, signal.SIGCONT)
    equal(wait_for(m.suspect, 'suspicion'), CUT, 'reason')
    d.wait_log('cut: it sent data')
    time.sleep(0.3)
    os.kill(child, signal.SIGKILL)
    time.sleep(0.3)
    check(not m.dead(), 'not proven')


@both('one that has shut down its half of a connection that others have, too: never dead')
def _(stack):
    _d, vm, m, child = held_twice(stack)
    vm.cmd.send(b'half')
    equal(wait_for(m.suspect, 'suspicion'), CUT, 'reason')
    vm.kill()
    time.sleep(0.3)
    check(not m.dead(), 'it is dead, and somebody has its memory')
    os.kill(child, signal.SIGKILL)


@point('before Linux 6.5 one whose process has ended before it was asked for is not watched')
def _(stack):
    global OLD
    OLD = True
    try:
        d = managed(stack)
    finally:
        OLD = False
    os.kill(d.pid, signal.SIGSTOP)
    pid = os.fork()
    if not pid:
        connect(socket.SOCK_STREAM, d.sock('ivshmem'), 10)
        os._exit(0)
    os.waitpid(pid, 0)
    os.kill(d.pid, signal.SIGCONT)
    d.wait_log('no pidfd of its process')


@point('a machine that has left, or that never joined, gets no verdict')
def _(stack):
    d = managed(stack)
    a, vm, un = Member(d), Vm(stack, d), Vm(stack, d)
    t = Tables(stack, a)
    m = Machine(t, vm, 1)
    t.put(m.at + 128, '<Q', 1 << 16 | DEAD)
    t.put(m.at, '<Q', 0)
    vm.kill()
    un.kill()
    d.wait_log(f'guest {un.id} left')
    d.wait_log(f'guest {vm.id} left')
    d.status()
    equal([(t.peer(s).dead, t.peer(s).suspect) for s in range(7)], [(0, 0)] * 7, 'verdicts')
    told_in_time(d, 0)


@both('without connection: its guest leaves and joins again, or joins only now; dead when its process ends')
def _(stack):
    d = managed(stack, heartbeat='100')
    a, vm, late = Member(d), Vm(stack, d), Vm(stack, d)
    t = Tables(stack, a)
    m = Machine(t, vm, 1)
    vm.cut()
    late.cut()
    wait_for(m.suspect, 'suspicion')
    d.wait_log(f'guest {late.id} left')
    t.put(m.at + 128, '<Q', 1 << 16 | DEAD)
    t.put(m.at, '<Q', 0)
    time.sleep(0.3)
    m, n = Machine(t, vm, 1), Machine(t, late, 2)
    for x, y in ((m, vm), (n, late)):
        equal(wait_for(x.suspect, 'suspicion of a new claim'), CUT, 'reason')
        y.kill()
        equal(wait_for(x.dead, 'the verdict'), EXITED, 'reason')


@point('ids do not begin again while a process without connection may store by one')
def _(stack):
    d = managed(stack, '--first-guest-id', '32760')
    a, vm = Member(d), Vm(stack, d)
    t = Tables(stack, a)
    m = Machine(t, vm, 1)
    vm.cut()
    wait_for(m.suspect, 'suspicion')
    for i in range(12):
        Guest(d.sock('ivshmem')).close()
        d.status()
    check(Vm(stack, d).id > 32768, 'ids began again')
    vm.kill()
    wait_for(m.dead, 'the verdict')


@point('and begin again with the end of the last such process')
def _(stack):
    d = managed(stack, '--first-guest-id', '32767')
    first, other = Vm(stack, d), Vm(stack, d)
    first.cut()
    other.kill()
    for vm in (first, other):
        d.wait_log(f'guest {vm.id} left')
    check(not any('begin again' in s for s in d.lines), 'ids began again')
    first.kill()
    d.wait_log('guest ids begin again')
    equal(Vm(stack, d).id, 9, 'id')


@point('an id whose machine may live, though nobody can tell, is never another\'s')
def _(stack):
    first = 32766
    d = managed(stack, '--first-guest-id', str(first))
    a = Member(d)
    t = Tables(stack, a)
    g = Guest(inherit(d.sock('ivshmem')))
    equal(g.id, first, 'id')
    m = Machine(t, g, 1)
    d.wait_log('somebody else has it')
    others = [Vm(stack, d, without=g) for _ in range(4)]
    g.s.close()
    equal(wait_for(m.suspect, 'suspicion'), CUT, 'reason')
    for vm in others:
        vm.kill()
    d.wait_log(f'guest ids begin again at {first + 1}')
    vm = Vm(stack, d)
    equal(vm.id, first + 1, 'an id that was proven to be free')
    n = Machine(t, vm, 2)
    vm.kill()
    wait_for(n.dead, 'the verdict')
    check(not m.dead(), 'one that lives is dead')


@point('a heart that stops and beats again leaves no reason behind; a suspicion of others stays')
def _(stack):
    d = managed(stack, heartbeat='100')
    a, g = Member(d), d.guest()
    t = Tables(stack, a)
    m = Machine(t, g, 1, heartbeat_ms=100)
    m.beat()
    equal(wait_for(m.suspect, 'suspicion'), SILENT, 'reason')
    for reason, stays in ((SILENT, False), (0, False), (FENCED, True), (CUT, True)):
        t.put(m.at + 24, '<I', reason)
        t.put(m.at + 16, '<Q', m.claim)
        end = time.monotonic() + (0.6 if stays else PATIENT)
        while t.peer(1).suspect and time.monotonic() < end:
            m.beat()
            time.sleep(0.05)
        equal((t.peer(1).suspect != 0, t.peer(1).reason), (stays, reason if stays else 0),
              f'after a suspicion for reason {reason}')
    # The host's own row is others' to suspect, too.
    for reason, stays in ((SILENT, False), (FENCED, True)):
        at = t.peer_at(0)
        t.put(at + 24, '<I', reason)
        t.put(at + 16, '<Q', t.peer().claim)
        if stays:
            time.sleep(0.5)
        else:
            wait_for(lambda: not t.peer().suspect and not t.peer().reason, 'that it is taken back')
        equal((t.peer().suspect != 0, t.peer().reason), (stays, reason if stays else 0), 'of the host')


@point('hearts that stop and beat all the time fill no log')
def _(stack):
    d = managed(stack, heartbeat='100')
    a, g = Member(d), d.guest()
    t = Tables(stack, a)
    machines = [Machine(t, g, 1 + i, heartbeat_ms=100) for i in range(5)]
    end = time.monotonic() + 4
    while time.monotonic() < end:
        for m in machines:
            m.beat()
        time.sleep(0.6)
    d.status()
    lines = [s for s in d.lines if 'heart' in s]
    check(0 < len(lines) <= 2 * len(machines), f'{len(lines)} lines')


@point('suspicions taken back without end fill no log, and cost no more than a look')
def _(stack):
    d = managed(stack, heartbeat='100')
    a, vm = Member(d), Vm(stack, d)
    t = Tables(stack, a)
    machines = [Machine(t, vm, 1 + i) for i in range(6)]
    vm.cut()
    for m in machines:
        equal(wait_for(m.suspect, 'suspicion'), CUT, 'reason')
    d.status()
    a.read_some(1000)
    changes, beats = t.peer().changes, t.peer().heartbeat
    end = time.monotonic() + 3
    while time.monotonic() < end:
        for m in machines:
            t.put(m.at + 16, '<Q', 0)
        time.sleep(0.01)
    for m in machines:
        wait_for(m.suspect, 'suspicion')
    lines = [s for s in d.lines if 'is suspect' in s]
    equal(len(lines), 1, 'lines')
    changes, beats = t.peer().changes - changes, t.peer().heartbeat - beats
    check(changes <= beats + 10, f'{changes} changes in {beats} beats')
    vm.kill()
    for m in machines:
        equal(wait_for(m.dead, 'the verdict'), EXITED, 'reason')


@point('a new claim in its slot: an old verdict does not touch it')
def _(stack):
    d = managed(stack)
    a, vm, w = Member(d), Vm(stack, d), Vm(stack, d)
    t = Tables(stack, a)
    m = Machine(t, vm, 1)
    vm.cut()
    wait_for(m.suspect, 'suspicion')
    n = Machine(t, w, 1)
    vm.kill()
    time.sleep(0.3)
    check(not n.dead() and not n.suspect(), 'the new one')
    w.kill()
    wait_for(n.dead, 'the verdict on the new one')


@point('connections cut again and again by a process that lives cost no descriptors')
def _(stack):
    d = Daemon(stack, '--managed', '--max-guests', '6', '--connect-rate', '0', '--heartbeat', '100')
    a = Member(d)
    t = Tables(stack, a)
    d.status()
    base = d.nfds()
    for i in range(60):
        g = Guest(d.sock('ivshmem'))
        Machine(t, g, 1 + i % 6)
        g.close()
    d.status()
    wait_for(lambda: d.nfds() <= base + 6, f'{base} descriptors became {d.nfds()}')


@point('fencing: root and the own user, that very claim, not the host')
def _(stack):
    d = managed(stack)
    a, g = Member(d), d.guest()
    t = Tables(stack, a)
    m = Machine(t, g, 3)

    def fence(slot, claim):
        a.send(FENCE, id=slot, arg=0, value=claim)
        r = a.answer(FENCE)
        equal((r.id, r.value, not r.text), (slot, claim, not r.arg), 'answer')
        return r.arg
    equal(fence(3, m.claim + 1), errno.ESTALE, 'another claim')
    equal(fence(3, 0), errno.EINVAL, 'none')
    equal(fence(7, m.claim), errno.EINVAL, 'no such slot')
    equal(fence(0, t.peer().claim), errno.EINVAL, 'the host')
    check(not m.dead(), 'fenced by mistake')
    a.read_some(100)
    before = a.changes
    equal(fence(3, m.claim), 0, 'answer')
    equal(m.dead(), FENCED, 'verdict')
    check(a.changes > before, 'processes were not told before the answer')
    j = Joiner(stack, 'unix:' + d.sock('sock'))
    t.put(m.at + 8, '<Q', 0)
    equal(j.do('fence 3')[1], '0', 'by the library')
    equal(m.dead(), FENCED, 'verdict')
    equal(int(j.do('fence 3')[1]), -errno.ESRCH, 'again')
    raw = Daemon(stack)
    b = Member(raw, join=False)
    b.send(FENCE, id=1, arg=0, value=1 << 32 | 1)
    equal(b.answer(FENCE).arg, errno.ENODATA, 'raw')


@point('another user may not fence')
def _(stack):
    if os.geteuid():
        raise Skip('needs root, to become another user')
    d = managed(stack, '--mode', '0666')
    os.chmod(d.dir, 0o755)
    a, g = Member(d), d.guest()
    m = Machine(Tables(stack, a), g, 1)
    pid = os.fork()
    if not pid:
        os.setgid(65534)
        os.setuid(65534)
        code = 2
        try:
            b = Member(d, join=False)
            b.send(FENCE, id=1, arg=0, value=m.claim)
            code = int(b.answer(FENCE).arg != errno.EPERM)
        finally:
            os._exit(code)
    equal(os.waitpid(pid, 0)[1], 0, 'its answer')
    check(not m.dead(), 'fenced')


point.run()
