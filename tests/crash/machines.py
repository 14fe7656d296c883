#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""machines.py [KERNEL [KILLS [SECONDS]]] - guests on a managed portal, killed and stopped: crash.h.

Workers of the host, and of two guests at a time, use one portal, and are killed. Each guest's
QEMU is killed at a random moment, too: while it boots, while it joins, in the middle of
everything; or it ends, or stops, when one of its processes comes by a marked step. Some are
stopped for several times the suspicion time before, and go on; some of these are declared dead
meanwhile, by mistake, and join anew (mistake.c). portald, under its keeper, is killed now and
then. At the end the host's judge looks at what all of them did. 8 kills by default. CRASH_SEED
repeats the choices.

Most guests do not boot: they go on from where one did that had no portal yet. The device is
plugged into each of them; its kernel is told by vmgenid that it is a copy, and draws new
random numbers.
"""
import atexit
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'vm'))
from lab import portal, qemu, suite  # noqa: E402
from lab.cache import LabError  # noqa: E402
from lab.guest import Guest, bad_lines  # noqa: E402
from lab.late import Stall  # noqa: E402
from lab.tables import Tables  # noqa: E402
from lab.tap import Tap  # noqa: E402

KILLS = int(sys.argv[2]) if len(sys.argv) > 2 else 8
SECONDS = int(sys.argv[3]) if len(sys.argv) > 3 else 1400
SCALE = max(1, int(os.environ.get('VMPORTAL_TIMEOUT_SCALE', '1')))
AT_A_TIME = 2
HEARTBEAT = 200                     # ms; so suspicion comes after 600
# In seconds, what portal-layout(5) promises: until the death of a machine is known to all ...
PROOF = 2
# ... until one that stands still is suspect: three heartbeats from its last, of those who look. Who
# goes on has one to beat; how soon it gets a processor, a busy machine does not say.
BEATS = 3
SUSPICION = BEATS * HEARTBEAT / 1000
AGAIN = 10
MEMORY = '192M'
LOAD = 'modprobe portal heartbeat_ms=%d; modprobe portal_ivshmem' % HEARTBEAT
WORK = ('i=0; until [ -e /dev/portal0 ] || [ $i = 100 ]; do usleep 50000; i=$((i+1)); done; '
        '%sexec crash join -b %d -k 1000000 -t 100000 -w 7 -D 8 -S 1800 /dev/portal0')
# The exit is for processes that end their machine, pvpanic for those that stop it.
DEVICES = ['-device', 'vmgenid,guid=auto', '-device', 'isa-debug-exit,iobase=0xf4,iosize=1',
           '-device', 'pvpanic', '-action', 'panic=pause']
AT_A_STEP = 2 * 42 + 1              # QEMU's status, by that
SEEN_BY = 8                         # seconds to come by a step; else it is killed
COMES_BY = 60                       # by one that each comes by, on a busy machine


def template(k, rd):
    """A file with the state of a guest that has booted and loaded the modules."""
    path = os.path.join(qemu.workdir(), 'template')
    with Guest('template', k, rd, devices=DEVICES, memory=MEMORY) as g:
        g.run(LOAD)
        g.qmp('migrate', uri='exec:cat > ' + path)
        qemu.wait_until(lambda: g.qmp('query-migrate').get('status') in ('completed', 'failed'), 60 * SCALE,
                        'copy of a guest', 0.05)
        said = g.qmp('query-migrate')
        if said['status'] != 'completed':
            raise LabError('no copy of a guest: %s' % said)
    return path


class Victim(Guest):
    """A guest that is to be killed, which boots, or goes on from the template. @connecting: of
    whoever must know when it connects to portald."""

    def __init__(self, name, k, rd, server, copy, until, connecting):
        self.server, self.copy, self.until, self.connecting = server, copy, until, connecting
        super().__init__(name, k, rd, memory=MEMORY, slow=SCALE,
                         devices=DEVICES + (['-incoming', 'exec:cat ' + copy] if copy else server.doorbell()))
        if copy:
            qemu.wait_until(lambda: self.run('dmesg | grep "virtual machine fork" || :'), 30 * SCALE,
                            'new random numbers of a copy')
            self.plug()

    def _start(self, *args):
        with self.connecting():
            super()._start(*args)
        if self.copy:
            # It has said hello to another.
            qemu.wait_until(lambda: self.qmp('query-status')['status'] == 'running', 60 * SCALE,
                            'guest that goes on')
            self.hello = 'copy'

    def plug(self):
        where = {'type': 'unix', 'data': {'path': self.server.guest_socket}}
        with self.connecting():
            self.qmp('chardev-add', id='ch-iv0', backend={'type': 'socket', 'data': {'addr': where, 'server': False}})
            self.qmp('device_add', driver='ivshmem-doorbell', id='iv0', chardev='ch-iv0', vectors=self.server.vectors)

    def _pump(self, done, timeout, what, job=None):
        """It looks at the clock, too."""
        super()._pump(lambda: done() or time.monotonic() >= self.until, timeout, what, job)


# The first of them end, and stop, at a step that each machine soon comes by.
COMMON = 'has a lock'
# What becomes of one after the other: when it is killed, and whether it is stopped before, and is
# declared dead meanwhile, by mistake: it goes on.
DECK = (('at a step', ''), ('at work', 'mistaken'), ('at a step', 'stopped'), ('joining', ''), ('at work', 'mistaken'),
        ('at a step', ''), ('booting', ''), ('at a step', 'mistaken'), ('at work', 'stopped'), ('at a step', ''),
        ('joining', ''), ('at a step', ''))
HAS_THE_DIRECTORY = 3               # status of "crash mistake"


class Plan:
    """Its end: when, in seconds, or at which step; and for how long it is stopped before."""

    def __init__(self, n, rnd, deal, common):
        self.n = n
        self.kind, stopped = DECK[n % len(DECK)]
        self.mistaken = stopped == 'mistaken'
        most = {'booting': 7, 'joining': 0.8, 'at work': 3, 'at a step': 0}[self.kind]
        self.after = rnd.uniform(0.05, most) if most else SEEN_BY
        self.step = deal(bool(stopped)) if self.kind == 'at a step' else None
        if self.step == common:
            self.after = COMES_BY
        self.stop = rnd.uniform(3, 5) * HEARTBEAT * 3 / 1000 if stopped else 0


class Machines:
    def __init__(self, server, k, rd, seed, steps):
        self.steps, self.ended_at, self.stopped_at = steps, set(), set()
        self.dealt = {stopped: [steps.index(COMMON)] for stopped in (False, True)}
        self.server, self.kernel, self.rd = server, k, rd
        self.tables, self.stall, self.copy = Tables(server), Stall(), template(k, rd)
        self.random, self.rnd_killer = random.Random(seed), random.Random(seed + 1)
        self.lock = threading.Lock()
        self.plans, self.killed, self.stopped, self.mistaken, self.trouble = 0, 0, 0, 0, []
        self.words = threading.Lock()
        self.longest = {}
        self.when = {'booting': 0, 'joining': 0, 'at work': 0, 'at a step': 0}
        self.delicate, self.restarts, self.over = 0, 0, threading.Event()

    @contextlib.contextmanager
    def undisturbed(self):
        """portald is not killed here: who connects in that moment is turned away, and QEMU
        does not ask again; a heart is not watched while nobody is there."""
        with self.lock:
            self.delicate += 1
        try:
            yield
        finally:
            with self.lock:
                self.delicate -= 1

    def killer(self):
        """Of portald, the child of its keeper."""
        wait = self.rnd_killer.uniform(2, 6)
        while not self.over.wait(wait):
            pid = self.server.process.pid
            with self.lock:
                with open('/proc/%d/task/%d/children' % (pid, pid)) as f:
                    child = f.read().split()
                # As soon as it may be: in a short run there are few such moments.
                wait = 0.05
                if self.delicate or not child:
                    continue
                os.kill(int(child[0]), signal.SIGKILL)
                self.restarts += 1
                wait = self.rnd_killer.uniform(2, 6)

    def plan(self):
        with self.lock:
            self.plans += 1
            return Plan(self.plans - 1, self.random, self.deal, self.steps.index(COMMON))

    def deal(self, stopped):
        """A step at which none was stopped, or ended: all in turn, and those that none came by again."""
        deck, done = self.dealt[stopped], self.stopped_at if stopped else self.ended_at
        if not deck:
            steps = range(len(self.steps))
            deck += [step for step in steps if step not in done] or list(steps)
            self.random.shuffle(deck)
        return deck.pop()

    def becomes(self, n, row, states, seconds, beats=0):
        """Until the machine that has made this claim is known to be so, in so many seconds, or
        of portald's beats, which a busy machine makes late."""
        began, stalled, before = time.monotonic(), self.stall.so_far(), self.tables.heartbeat(0)
        while True:
            now = time.monotonic()
            late = self.stall.so_far() - stalled
            says = self.tables.says(*row)
            if says in states:
                with self.lock:
                    self.longest[says] = max(now - began, self.longest.get(says, 0))
                return
            beaten = not beats or self.tables.heartbeat(0) - before > beats or now - began > 60
            if now - began > seconds + late and beaten:
                self.wrong(n, 'it is "%s" after %.1f s, %.2f of which the machine stood still; not "%s" within %.1f' % (
                    says, now - began, late, states[0], seconds))
                return
            time.sleep(0.005)

    def wrong(self, n, what):
        with self.lock:
            self.trouble.append('guest %d: %s' % (n, what))

    def one(self):
        plan, g = self.plan(), None
        until = time.monotonic() + (plan.after if plan.kind == 'booting' else 1e6)
        try:
            g = Victim.__new__(Victim)
            self.live(plan, g, until)
        except LabError as e:
            if time.monotonic() < g.until:
                self.wrong(plan.n, str(e)[-1500:])
        finally:
            if hasattr(g, 'process'):
                g.kill()

    def live(self, plan, g, until):
        row = None
        g.__init__('g%d' % plan.n, self.kernel, self.rd, self.server, None if plan.kind == 'booting' else self.copy,
                   until, self.undisturbed)
        if plan.kind == 'joining':
            g.until = time.monotonic() + plan.after
        if time.monotonic() < g.until:
            row = self.work(plan, g)
        at_step = row and plan.stop and plan.kind == 'at a step' and self.stands(g, g.until)
        if row and plan.stop and (at_step or plan.kind == 'at work'):
            with self.undisturbed():
                row = self.pause(plan, g, row, at_step)
        self.end(plan, g, row)

    def work(self, plan, g):
        """Until its time has come, or a step; its row, if it is known."""
        row = None
        step = 'export CRASH_MACHINE_STEP=%d; ' % plan.step if plan.kind == 'at a step' else ''
        if step and plan.stop:
            step += 'export CRASH_MACHINE_STOP=1; '
        job = g.job = g.start((LOAD + '; ' if plan.kind == 'booting' else '') + WORK % (step, (plan.n + 1) << 18))
        try:
            g._pump(lambda: job.status is not None or b'# peer' in job.output, 60, 'peer', job)
            if plan.kind in ('at work', 'at a step') and job.status is None:
                slot = int(job.expect(r'^# peer (\d+)').group(1))
                row = slot, self.tables.claim(slot)
                g.until = time.monotonic() + plan.after
                if step and plan.stop:
                    return row
                g._pump(lambda: job.status is not None, 60, 'work', job)
        except LabError:
            # Its process is waited for by who finds the channel closed.
            if not step or g.process.poll() != AT_A_STEP:
                raise
        if job.status is not None:
            self.wrong(plan.n, 'its workers ended (%s): %s\n-- console:\n%s' % (
                job.status, job.text()[-600:], g.log()[-1500:]))
        return row

    def stands(self, g, until):
        """Until it stands still, at a step; false: it did not come there in its time."""
        while g.qmp('query-status')['status'] == 'running':
            if time.monotonic() >= until:
                return False
            time.sleep(0.01)
        return True

    def pause(self, plan, g, row, at_step):
        began = time.monotonic()
        g.process.send_signal(signal.SIGSTOP)
        self.becomes(plan.n, row, ['suspect'], SUSPICION, BEATS)
        mistaken = plan.mistaken and self.declare_dead(plan, g, row, at_step)
        time.sleep(max(0, began + plan.stop - time.monotonic()))
        g.process.send_signal(signal.SIGCONT)
        if at_step:
            g.qmp('cont')
        if mistaken:
            row = self.begins_anew(plan, g, row)
        else:
            self.becomes(plan.n, row, ['alive'], AGAIN)
        with self.lock:
            self.stopped += 1
            self.mistaken += mistaken
            if at_step:
                self.stopped_at.add(plan.step)
        time.sleep(0.5)
        return row

    def note(self, word, row):
        """In the ledger, for the judges: (status, what it said)"""
        with self.words:
            r = subprocess.run([self.crash, word, self.server.uri, str(row[0])], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return r.returncode, r.stdout

    def declare_dead(self, plan, g, row, at_step):
        """As an administrator would, who is wrong: it only stands still. What its processes have is others'."""
        status, said = self.note('mistake', row)
        for _ in range(0 if at_step else 100):
            if status != HAS_THE_DIRECTORY:
                break
            g.process.send_signal(signal.SIGCONT)
            time.sleep(0.03)
            g.process.send_signal(signal.SIGSTOP)
            status, said = self.note('mistake', row)
        if not status:
            r = subprocess.run([portal.portalctl_static(), 'fence', '--force', self.server.uri, str(row[0])],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            status, said = r.returncode, r.stdout
            self.becomes(plan.n, row, ['dead'], 0)
        elif status == HAS_THE_DIRECTORY:
            return False
        if status:
            self.wrong(plan.n, 'it cannot be declared dead (%d): %s' % (status, said))
        return not status

    def successor(self, row):
        """The next life of the machine of that row, by its address, or None."""
        for slot in range(1, self.tables.peers):
            claim = self.tables.claim(slot)
            if claim >> 32 == row[1] >> 32 and claim != row[1] and self.tables.says(slot, claim) == 'alive':
                return slot, claim
        return None

    def begins_anew(self, plan, g, row):
        """It hears that it was declared dead: its processes lose the memory, and it joins as another."""
        began, stalled, old = time.monotonic(), self.stall.so_far(), row
        while not self.successor(old):
            if time.monotonic() - began > AGAIN + self.stall.so_far() - stalled:
                self.wrong(plan.n, 'it has not joined anew since it goes on')
                return None
            time.sleep(0.01)
        row, g.until = self.successor(old), time.monotonic() + 60 * SCALE
        g._pump(lambda: g.job.status is not None, 30, 'end of the processes of before', g.job)
        if not g.job.status:
            self.wrong(plan.n, 'its processes of before ended (%s): %s' % (g.job.status, g.job.text()[-600:]))
        status, said = self.note('over', old)
        if status:
            self.wrong(plan.n, 'what they had is not in order: ' + said)
        g.job = g.start(WORK % ('', ((plan.n + 1) << 18) + (1 << 17)))
        g._pump(lambda: g.job.status is not None or b'# peer' in g.job.output, 60, 'peer', g.job)
        return row

    def end(self, plan, g, row):
        kind, ended = plan.kind, g.process.poll()
        if kind == 'at a step' and ended is None:
            kind = 'at work'
        if ended is not None and (kind != 'at a step' or ended != AT_A_STEP):
            self.wrong(plan.n, 'its QEMU had ended (%s) before it was killed:\n%s' % (
                g.process.returncode, g.log()[-1500:]))
            return
        bad = bad_lines(g.log())
        if bad:
            self.wrong(plan.n, 'its kernel complains: ' + '; '.join(bad[:3]))
        g.process.kill()
        g.process.wait()
        if row:
            self.becomes(plan.n, row, ['dead'], PROOF)
        with self.lock:
            self.killed += 1
            self.when[kind] += 1
            if kind == 'at a step':
                self.ended_at.add(plan.step)

    def thread(self, until):
        while self.killed < KILLS and time.monotonic() < until and not self.trouble and \
                self.host.poll() is None:
            self.one()

    def run(self, host):
        self.host = host
        began = told = time.monotonic()
        until = began + SECONDS * SCALE
        threads = [threading.Thread(target=self.thread, args=(until,), daemon=True) for _ in range(AT_A_TIME)]
        killer = threading.Thread(target=self.killer, daemon=True)
        for th in threads + [killer]:
            th.start()
        while any(th.is_alive() for th in threads):
            time.sleep(0.1)
            if time.monotonic() - told > 15:
                told = time.monotonic()
                print('# %d of %d machines killed, %d stopped before, %d of these declared dead; portald %d times; %d s' % (
                    self.killed, KILLS, self.stopped, self.mistaken, self.restarts, told - began), flush=True)
        self.over.set()
        for th in threads + [killer]:
            th.join()

    def proof(self, t):
        """All machines are dead in the table, soon."""
        began, stalled = time.monotonic(), self.stall.so_far()
        while True:
            late = self.stall.so_far() - stalled
            left = [s for s in range(1, self.tables.peers) if self.tables.claim(s) and
                    self.tables.says(s, self.tables.claim(s)) != 'dead']
            if not left or time.monotonic() - began > PROOF + late:
                break
            time.sleep(0.01)
        t.ok(not left, 'each machine is known to be dead', 'slots %s' % left)


def main():
    seed = int(os.environ.get('CRASH_SEED', random.randrange(1 << 32)))
    k = suite.kernel('6.12')
    out = portal.userspace(['crash-static'])
    rd = suite.initrd(k, extra=[(os.path.join(out, 'tests/crash.static'), '/bin/crash')])
    with Tap() as t:
        server = portal.Portald('64M', 4, 'crash', ['--managed', '--keep', '--host-peers=64', '--sessions=64',
                                                    '--connect-rate=0', '--heartbeat=%d' % HEARTBEAT])
        # A keeper that is killed, as who is left at the end is, leaves its daemon.
        atexit.register(server.stop)
        host = qemu.spawn([os.path.join(out, 'tests/crash.static'), '-s', str(seed), '-k', '10000000', '-t', '100000',
                           '-w', '6', '-S', '1800', server.uri], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
        said = []
        reader = threading.Thread(target=lambda: said.extend(host.stdout), daemon=True)
        reader.start()
        qemu.wait_until(lambda: any('# peer' in line for line in said) or host.poll() is not None, 30 * SCALE, 'crash')
        steps = subprocess.run([os.path.join(out, 'tests/crash.static'), 'steps'], stdout=subprocess.PIPE, text=True,
                               check=True).stdout.splitlines()
        m = Machines(server, k, rd, seed, steps)
        m.crash = os.path.join(out, 'tests/crash.static')
        m.run(host)
        m.proof(t)
        for what in ('ls', 'check') if m.trouble else ():
            t.diag(subprocess.run([portal.portalctl_static(), what, server.uri], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True).stdout[-3000:])
        host.send_signal(signal.SIGTERM)
        reader.join(120 * SCALE)
        status = host.wait(120)
        print('# the longest, in s: ' + ', '.join('%s %.2f' % (w, s) for w, s in m.longest.items()))
        for line in said[-12:]:
            print('# host: ' + line.rstrip('\n').lstrip('# '))
        t.ok(not m.trouble, 'guests live until they are killed', '\n'.join(m.trouble))
        t.ok(status == 0, 'nothing is lost, torn, doubled, or waited for too long (seed %d)' % seed,
             ''.join(said)[-4000:])
        t.ok(m.killed >= KILLS, '%d machines were killed: %s; %d stopped before' % (
            m.killed, ', '.join('%d %s' % (v, w) for w, v in m.when.items()), m.stopped),
            '%d of %d in %d s' % (m.killed, KILLS, SECONDS * SCALE))
        print('# stopped at: ' + ', '.join(steps[n] for n in sorted(m.stopped_at)))
        print('# ended at: ' + ', '.join(steps[n] for n in sorted(m.ended_at)))
        t.ok(m.stopped >= max(1, KILLS // 8), '%d of them were stopped, and went on' % m.stopped)
        t.ok(m.mistaken >= max(1, KILLS // 16), '%d of these were declared dead meanwhile' % m.mistaken)
        # Some come by one that is rare in their time.
        t.ok(len(m.ended_at) >= max(1, KILLS // 8), 'they end at %d of %d steps' % (len(m.ended_at), len(steps)))
        t.ok(len(m.stopped_at) >= max(1, KILLS // 20), 'and stand still at %d' % len(m.stopped_at))
        inside = [line for line in said if line.startswith("# guests' processes:")]
        t.ok(inside and int(re.search(r'(\d+) kills', inside[0]).group(1)) >= KILLS,
             "and processes in them: %s" % (inside or ['none'])[0].strip('# \n'))
        t.ok(m.restarts or m.killed < 5, 'and portald, %d times' % m.restarts)
        server.stop()


main()
