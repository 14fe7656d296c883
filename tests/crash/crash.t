#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""crash.t [KILLS [SECONDS]] - processes of a host killed and stopped, and judged: crash.h.

First that the judge sees what is wrong when something is: workers that lose a message, send
one twice, and so on. Then KILLS kills (3000; at most SECONDS, 700, which a busy machine may take), while portald, under its
keeper, is killed every second or so. TAP on stdout; a failure says the seed, CRASH_SEED
repeats its choices.
"""
import concurrent.futures
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OUT = os.environ.get('VMPORTAL_UNIT_OUT', os.path.join(TOP, 'build/user'))
KILLS = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
SECONDS = int(sys.argv[2]) if len(sys.argv) > 2 else 700
SCALE = max(1, int(os.environ.get('VMPORTAL_TIMEOUT_SCALE', '1')))

# What workers do wrong (and the driver, who keeps a use), and the judge's word for it.
MUTANTS = [
    ('lose', 'others are lost|were committed|overtakes'), ('twice', 'comes again'), ('torn', 'a torn message'),
    ('early', 'lane|no message of this channel|overtakes|were committed'), ('unlocked', 'under the lock'), ('zombie', 'has bytes of'),
    ('slow', "has waited in 'object'"), ('late', "has waited in 'lock'"), ('proof', 'is not known to be dead after'),
    ('leak', "object 'leaked' .* is left"), ('use', "object 'object0' .* is left"),
]
# These are seen at the end alone, which comes after so many kills.
AT_THE_END, ENOUGH = ('leak', 'use'), 60

# Steps of processes that only guests have: those with windows (guest.py).
ELSEWHERE = ('message sent',)


class Portald:
    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix='vmportal-crash-')
        self.log = open(os.path.join(self.dir, 'log'), 'w+')
        self.process = subprocess.Popen(
            [OUT + '/bin/portald', '--name=t', '--size=64M', '--vectors=2', '--managed',
             '--host-peers=100', '--sessions=100', '--heartbeat=100', '--connect-rate=0', '--keep',
             '--socket-dir=' + self.dir], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        path = self.dir + '/t.sock'
        for _ in range(3000 * SCALE):
            if os.path.exists(path) or self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.uri = 'unix:' + path
        return self

    def child(self):
        """The portald that serves now; the process that we have started keeps its descriptors."""
        pid = self.process.pid
        with open('/proc/%d/task/%d/children' % (pid, pid)) as f:
            return [int(word) for word in f.read().split()]

    def killer(self, done, count):
        """Kill it now and then, until done is set; count[0] says how often."""
        while not done.wait(random.uniform(0.3, 2)):
            for pid in self.child():
                os.kill(pid, signal.SIGKILL)
                count[0] += 1

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60 * SCALE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)


def crash(kills, seconds, mutant=None, show=False):
    """(exit status, output)"""
    env = dict(os.environ, CRASH_MUTANT=mutant) if mutant else os.environ
    seed = os.environ.get('CRASH_SEED')
    count, done = [0], threading.Event()
    with Portald() as server:
        argv = [OUT + '/tests/crash', '-k', str(kills), '-t', str(seconds * SCALE)] + ([] if mutant else ['-a'])
        p = subprocess.Popen(argv + (['-s', seed] if seed and not mutant else []) + [server.uri], env=env, text=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = []
        killer = threading.Thread(target=server.killer, args=(done, count))
        if show:
            killer.start()
        for line in p.stdout:
            said.append(line)
            if show:
                sys.stdout.write(line if line.startswith('#') else '# ' + line)
                sys.stdout.flush()
        status = p.wait()
        done.set()
        if show:
            killer.join()
            with open(os.path.join(server.dir, 'log')) as f:
                log = f.read()
            if status:
                print(''.join('# portald: %s\n' % line for line in log.splitlines()[-20:]))
        return status, ''.join(said), count[0]


def main():
    r = subprocess.run(['make', '-s', '-C', TOP + '/userspace', 'O=' + OUT, 'all', 'crash'],
                       stdout=sys.stderr)
    print('1..%d' % (len(MUTANTS) + 6))
    if r.returncode:
        print('not ok 1 - it builds')
        return 1
    bad = n = 0
    # They wait more than they work.
    threads = concurrent.futures.ThreadPoolExecutor(4)
    runs = [threads.submit(crash, ENOUGH if mutant in AT_THE_END else 100000, 160, mutant) for mutant, _ in MUTANTS]
    for n, (mutant, word) in enumerate(MUTANTS, 1):
        status, said, _ = runs[n - 1].result()
        good = status == 1 and re.search(word, said)
        bad += not good
        print('%s %d - the judge sees workers with the fault "%s"' % ('ok' if good else 'not ok', n, mutant))
        if not good:
            print(''.join('# %s\n' % line for line in said.splitlines()[-10:]))
        sys.stdout.flush()
    status, said, restarts = crash(KILLS, SECONDS, show=True)
    done = [int(line.split()[1]) for line in said.splitlines() if ' kills: ' in line]
    print('%s %d - nothing is lost, torn, doubled, or waited for too long' % ('not ok' if status else 'ok', n + 1))
    enough = done and done[0] >= KILLS
    print('%s %d - %d processes were killed' % ('ok' if enough else 'not ok', n + 2, KILLS))
    if not enough:
        print('# %s in %d s' % (done, SECONDS * SCALE))
    print('%s %d - so was portald, %d times' % ('ok' if restarts else 'not ok', n + 3, restarts))
    ways = re.search("the host's processes: (.*)", said)
    missing = re.findall(r'\b0 ([a-z ]+)', ways.group(1)) if ways else ['all']
    print('%s %d - in every way that is planned' % ('not ok' if missing else 'ok', n + 4))
    for way in missing:
        print('# never: ' + way)
    for n, how in enumerate(('killed', 'stopped'), n + 5):
        line = re.search('^# %s at:(.*)' % how, said, re.M)
        steps = [(int(count), step) for count, step in re.findall(r"(\d+) '([^']+)'", line.group(1) if line else '')
                 if step not in ELSEWHERE]
        never = [step for count, step in steps if not count]
        bad += bool(never or not steps)
        print('%s %d - they were %s at each of %d steps' % ('not ok' if never or not steps else 'ok', n, how, len(steps)))
        for step in never:
            print('# never at: ' + step)
    return 1 if bad or status or not enough or not restarts or missing else 0


sys.exit(main())
