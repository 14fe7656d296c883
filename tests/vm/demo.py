#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""make demo: it runs to its end and prints its table; bad input gets one line;
Ctrl-C at any moment leaves no process, no file and nothing in /dev/shm."""
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from lab.tap import Tap                         # noqa: E402

DEMO = os.path.join(HERE, 'demo')
WHOLE_S = 800           # packages, kernels and QEMU may have to be fetched
# Ctrl-C when a line says this: before, while and after guests run.
MOMENTS = ['starting portald', 'booting two guests', 'guest1: /dev/portal0 is',
           'streaming from guest1', 'round trips between', 'is killed']


class Demo:
    def __init__(self, **env):
        self.tmp = tempfile.TemporaryDirectory(prefix='vmportal-demo-test-')
        env = dict(os.environ, TMPDIR=self.tmp.name, **env)
        # A group of its own, as a terminal gives it: Ctrl-C goes to all of it.
        self.p = subprocess.Popen([DEMO], env=env, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  start_new_session=True)
        self.text = ''

    def until(self, pattern, timeout):
        """Read until a line matches; whether one did before the end."""
        end = time.monotonic() + timeout
        while not re.search(pattern, self.text):
            left = end - time.monotonic()
            if left <= 0:
                return False
            if select.select([self.p.stdout], [], [], min(left, 1))[0]:
                data = os.read(self.p.stdout.fileno(), 65536)
                if not data:
                    return bool(re.search(pattern, self.text))
                self.text += data.decode(errors='replace')
        return True

    def end(self, timeout):
        try:
            self.text += self.p.communicate(timeout=timeout)[0].decode(errors='replace')
        except subprocess.TimeoutExpired:
            os.killpg(self.p.pid, signal.SIGKILL)
            self.p.wait()
            return None
        return self.p.returncode

    def left_behind(self):
        """Processes that still name this run's directory, and its files."""
        found = []
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                with open('/proc/%s/cmdline' % pid, 'rb') as f:
                    line = f.read().replace(b'\0', b' ').decode(errors='replace')
            except OSError:
                continue
            if self.tmp.name in line:
                found.append('process %s: %s' % (pid, line[:200]))
        found += [os.path.join(self.tmp.name, n) for n in os.listdir(self.tmp.name)]
        return found


def whole(t):
    shm = set(os.listdir('/dev/shm'))
    d = Demo()
    code = d.end(WHOLE_S)
    if not t.equal(code, 0, 'the demo runs to its end'):
        t.diag(d.text[-5000:])
        return
    rows = re.findall(r'(?m)^  guest -> (guest|host) +(\d+) +([\d.]+) +(\d+) +(\d+) +(\d+) +(\d+)$',
                      d.text)
    t.equal([r[0] for r in rows], ['guest', 'host'], 'the table has its two rows')
    t.ok(all(int(r[1]) > 1000000 and int(r[3]) > 4 for r in rows) and
         len({r[1] for r in rows}) == 1, 'both say how many bytes and messages', rows)
    t.ok(all(int(r[4]) > 0 and int(r[6]) >= int(r[4]) for r in rows),
         'doorbells were rung, each of them a system call at most', rows)
    t.ok(rows and int(rows[0][5]) > 0, 'interrupts were taken', rows)
    t.ok(re.search(r'round trip, 32 bytes, polling +p50 +[\d.]+ us +p99', d.text) and
         re.search(r'bare cache-line exchange beside it +p50 .*ratio', d.text),
         'round trips stand beside the bare exchange', d.text[-2000:])
    t.ok(re.search(r"went away after \d+ bytes.*is dead: exited.*'guest1' \(a guest\) has joined"
                   r'.*MiB were there already', d.text, re.S),
         'the stream outlives a killed guest, and portalctl top shows what happened', d.text[-4000:])
    stamps = [float(s) for s in re.findall(r'(?m)^\[ *([\d.]+) s\]', d.text)]
    gaps = [b - a for a, b in zip(stamps, stamps[1:])]
    t.ok(gaps and max(gaps) < 30, 'it never falls silent for half a minute',
         max(gaps, default=0))
    t.equal(d.left_behind(), [], 'nothing is left')
    t.equal(sorted(set(os.listdir('/dev/shm')) - shm), [], 'nothing new in /dev/shm')


def interrupted(t, moment, **env):
    shm = set(os.listdir('/dev/shm'))
    d = Demo(DEMO_SKIP_DEPS='1', **env)
    there = d.until(re.escape(moment), WHOLE_S)
    if not there:
        d.end(1)
        t.ok(False, 'Ctrl-C at "%s": the demo comes so far' % moment, d.text[-3000:])
        return
    os.killpg(d.p.pid, signal.SIGINT)
    code = d.end(60)
    t.equal(code, 130, 'Ctrl-C at "%s" ends it with 130 within a minute' % moment)
    t.ok('Traceback' not in d.text, '... without a traceback', d.text[-3000:])
    # A killed QEMU takes a moment to be gone.
    end = time.monotonic() + 60
    while d.left_behind() and time.monotonic() < end:
        time.sleep(0.1)
    t.equal(d.left_behind(), [], '... and nothing is left')
    t.equal(sorted(set(os.listdir('/dev/shm')) - shm), [], '... nor anything in /dev/shm')


def bad_input(t):
    with tempfile.TemporaryDirectory() as tmp:
        for env, word in (({'TRANSPORT': 'pigeon'}, 'TRANSPORT=pigeon'),
                          ({'KERNEL': '2.4'}, 'KERNEL=2.4'),
                          ({'FILE': tmp + '/none'}, 'no such regular file'),
                          ({'FILE': tmp}, 'no such regular file')):
            r = subprocess.run([DEMO], env=dict(os.environ, **env), text=True, timeout=120,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            t.ok(r.returncode == 2 and word in r.stdout and r.stdout.count('\n') == 1,
                 '%s=%s: one line, status 2' % next(iter(env.items())), r.stdout)


def main():
    with Tap() as t:
        bad_input(t)
        whole(t)
        for moment in MOMENTS:
            interrupted(t, moment)


if __name__ == '__main__':
    main()
