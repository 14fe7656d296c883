#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""machines.py [KERNEL [KILLS [SECONDS]]] - guests on a managed portal, killed and stopped: crash.h.

Workers of the host, and of two guests at a time, use one portal. Each guest's QEMU is killed
at a random moment: while it boots, while the module comes, in the middle of everything; some
are stopped for several times the suspicion time before, and go on. At the end the host's judge
looks at what all of them did. 8 kills by default. CRASH_SEED repeats the choices.
"""
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'vm'))
from lab import portal, qemu, suite  # noqa: E402
from lab.cache import LabError  # noqa: E402
from lab.guest import Guest, bad_lines  # noqa: E402
from lab.tap import Tap  # noqa: E402

KILLS = int(sys.argv[2]) if len(sys.argv) > 2 else 8
SECONDS = int(sys.argv[3]) if len(sys.argv) > 3 else 400
SCALE = max(1, int(os.environ.get('VMPORTAL_TIMEOUT_SCALE', '1')))
AT_A_TIME = 2
HEARTBEAT = 300                     # ms; so suspicion comes after 900
PROOF = 2                           # seconds until the death of a machine is known to all
LOOK = 2                            # to look, on a machine that guests keep busy
WORK = ('modprobe portal heartbeat_ms=%d; modprobe portal_ivshmem; '
        'for i in 1 2 3 4 5 6 7 8 9; do [ -e /dev/portal0 ] || usleep 100000; done; '
        'VMPORTAL_TIMEOUT_SCALE=%d crash join -b %d -k 1000000 -t 100000 -w 6 -S 1200 /dev/portal0')


class Victim(Guest):
    """A guest that is to be killed; started by its thread, ended by it."""

    def _start(self, *args):
        self.began = time.monotonic()
        super()._start(*args)

    def _pump(self, done, timeout, what, job=None):
        """It looks at the clock, too."""
        super()._pump(lambda: done() or time.monotonic() >= self.until, timeout, what, job)


class Machines:
    def __init__(self, t, server, k, rd, seed):
        self.t, self.server, self.kernel, self.rd = t, server, k, rd
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.plans, self.killed, self.stopped, self.trouble = 0, 0, 0, []
        self.longest = {}
        self.when = {'booting': 0, 'at work': 0}

    def plan(self):
        """When it is killed, in seconds; for how long it is stopped before, and when."""
        with self.lock:
            n = self.plans
            self.plans += 1
            early = self.random.random() < 0.15
            after = self.random.uniform(0.2, 4) if early else self.random.uniform(0.1, 3)
            stop = self.random.random() < 0.2 and not early
            return n, early, after, self.random.uniform(3, 5) * HEARTBEAT * 3 / 1000 if stop else 0

    def row(self, slot):
        out = subprocess.run([portal.portalctl_static(), 'peers', '-a', '--json', self.server.uri], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60).stdout
        return [p for p in json.loads(out)['peers'] if p['slot'] == slot][0]

    def becomes(self, n, was, states, seconds):
        """Until the machine of row was is known to be so, or the next one has its row."""
        began = time.monotonic()
        while True:
            now = self.row(was['slot'])
            took = time.monotonic() - began
            if now['sequence'] != was['sequence']:
                now['state'] = 'dead'
            if now['state'] in states:
                with self.lock:
                    self.longest[states[0]] = max(took, self.longest.get(states[0], 0))
                return
            if took > seconds * SCALE:
                self.wrong(n, 'it is "%s" after %.1f s, not "%s"' % (now['state'], took, states[0]))
                return
            time.sleep(0.05)

    def wrong(self, n, what):
        with self.lock:
            self.trouble.append('guest %d: %s' % (n, what))

    def one(self):
        n, early, after, stop = self.plan()
        began, row, g = time.monotonic(), None, Victim.__new__(Victim)
        g.until = began + after if early else began + 1e6
        try:
            g.__init__('g%d' % n, self.kernel, self.rd, devices=self.server.doorbell(), memory='192M',
                       slow=SCALE)
            if not early:
                job = g.start(WORK % (HEARTBEAT, 5 * SCALE, (n + 1) << 18))
                row = self.row(int(job.expect(r'^# peer (\d+)', 60).group(1)))
                g.until = time.monotonic() + after
                g._pump(lambda: job.status is not None, 60, 'work', job)
                if job.status is not None:
                    self.wrong(n, 'its workers ended (%s): %s\n-- console:\n%s' % (job.status, job.text()[-600:],
                                                                                     g.log()[-1500:]))
            if stop:
                self.pause(n, g, stop, row)
            self.end(n, g, early, row)
        except LabError as e:
            self.wrong(n, str(e)[-1500:])
            if hasattr(g, 'process'):
                g.kill()

    def pause(self, n, g, stop, row):
        began = time.monotonic()
        g.process.send_signal(signal.SIGSTOP)
        self.becomes(n, row, ['suspect'], 3 * HEARTBEAT / 1000 + LOOK)
        time.sleep(max(0, began + stop - time.monotonic()))
        g.process.send_signal(signal.SIGCONT)
        self.becomes(n, row, ['alive'], 3 * HEARTBEAT / 1000 + LOOK)
        with self.lock:
            self.stopped += 1
        time.sleep(0.5)

    def end(self, n, g, early, row):
        if g.process.poll() is not None:
            self.wrong(n, 'its QEMU had ended (%s) before it was killed:\n%s' % (g.process.returncode, g.log()[-1500:]))
            return
        bad = bad_lines(g.log())
        if bad:
            self.wrong(n, 'its kernel complains: ' + '; '.join(bad[:3]))
        g.process.kill()
        g.process.wait()
        if row:
            self.becomes(n, row, ['dead'], PROOF + LOOK)
        with self.lock:
            self.killed += 1
            self.when['booting' if early else 'at work'] += 1

    def thread(self, until):
        while self.killed < KILLS and time.monotonic() < until and not self.trouble and \
                self.host.poll() is None:
            self.one()

    def run(self, host):
        self.host = host
        until = time.monotonic() + SECONDS * SCALE
        threads = [threading.Thread(target=self.thread, args=(until,)) for _ in range(AT_A_TIME)]
        for th in threads:
            th.start()
        told = time.monotonic()
        while any(th.is_alive() for th in threads):
            time.sleep(0.5)
            if time.monotonic() - told > 15:
                told = time.monotonic()
                print('# %d of %d machines killed, %d stopped before' % (self.killed, KILLS, self.stopped), flush=True)
        for th in threads:
            th.join()


def proof(t, server):
    """All machines are dead in the table, soon."""
    began = time.monotonic()
    m = []
    while time.monotonic() - began < PROOF * 3 * SCALE:
        out = subprocess.run([portal.portalctl_static(), 'peers', '--json', server.uri], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60).stdout
        m = [p for p in json.loads(out).get('peers', []) if p.get('kind') != 'host' and
             p.get('state') not in ('dead', 'none', 'free')]
        if not m:
            break
        time.sleep(0.1)
    t.ok(not m, 'each machine is known to be dead', m)


def main():
    seed = int(os.environ.get('CRASH_SEED', random.randrange(1 << 32)))
    k = suite.kernel('6.12')
    out = portal.userspace(['crash-static'])
    rd = suite.initrd(k, extra=[(os.path.join(out, 'tests/crash.static'), '/bin/crash')])
    with Tap() as t:
        server = portal.Portald('64M', 4, 'crash', ['--managed', '--host-peers=64', '--sessions=64',
                                                    '--connect-rate=0', '--heartbeat=%d' % HEARTBEAT])
        host = qemu.spawn([os.path.join(out, 'tests/crash.static'), '-s', str(seed), '-k', '10000000', '-t', '100000',
                           '-w', '6', '-S', '1200', server.uri], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True,
                          env=dict(os.environ, VMPORTAL_TIMEOUT_SCALE=str(5 * SCALE)))
        said = []
        reader = threading.Thread(target=lambda: said.extend(host.stdout), daemon=True)
        reader.start()
        time.sleep(1)
        m = Machines(t, server, k, rd, seed)
        m.run(host)
        proof(t, server)
        host.send_signal(signal.SIGTERM)
        reader.join(120 * SCALE)
        status = host.wait(10)
        print('# the longest, in s: ' + ', '.join('%s %.2f' % (w, s) for w, s in m.longest.items()))
        for line in said[-12:]:
            print('# host: ' + line.rstrip('\n').lstrip('# '))
        t.ok(not m.trouble, 'guests live until they are killed', '\n'.join(m.trouble))
        t.ok(status == 0, 'nothing is lost, torn, doubled, or waited for too long (seed %d)' % seed,
             ''.join(said)[-4000:])
        t.ok(m.killed >= KILLS, '%d machines were killed: %s; %d stopped before' % (
            m.killed, ', '.join('%d %s' % (v, w) for w, v in m.when.items()), m.stopped),
            '%d of %d in %d s' % (m.killed, KILLS, SECONDS * SCALE))
        server.stop()


main()
