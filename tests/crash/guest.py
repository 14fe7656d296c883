#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""guest.py [KERNEL [KILLS [SECONDS]]] - processes of a guest killed and stopped, and judged: crash.h.

Where the kernel ends the sessions, and nobody else is there: both ends of a loopback pair, in
one guest, are two machines of a managed portal, each with its driver and its workers, those with
windows too. KILLS kills (default 400) in at most SECONDS. CRASH_SEED repeats the choices.
"""
import os
import random
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'vm'))
from lab import portal, suite  # noqa: E402
from lab.tap import Tap  # noqa: E402

KILLS = int(sys.argv[2]) if len(sys.argv) > 2 else 400
SECONDS = int(sys.argv[3]) if len(sys.argv) > 3 else 900
SCALE = max(1, int(os.environ.get('VMPORTAL_TIMEOUT_SCALE', '1')))
SENT = 'message sent'               # a step of who has a window and nothing else
EACH = 2000                         # so many end, and stand still, at each step
LOAD = ('modprobe portal heartbeat_ms=100; modprobe portal_loopback pairs=1 size=32M vectors=4; '
        'portalctl format --sessions 64 --name crash /dev/portal0; portalctl mode /dev/portal1 managed')
# They work in emulation, so that all takes longer.
CRASH = 'exec crash %s -s %d -b %d -k %d -t %d -w 6 -D 8 -S 900 /dev/portal%d'


def blind(t, g, seed):
    """A receiver that overlooks a message now and then is found out."""
    status, said = g.call('export CRASH_MUTANT=unseen; ' + CRASH % ('', seed, 0, 1 << 30, 240 * SCALE, 0), 300 * SCALE)
    t.ok(status == 1 and re.search(r'window: .* (is wanted|were committed)', said),
         'the judge sees what is lost through a window', said[-2000:])


def main():
    seed = int(os.environ.get('CRASH_SEED', random.randrange(1 << 32)))
    k = suite.kernel('6.12')
    out = portal.userspace(['crash-static'])
    rd = suite.initrd(k, user=['portalctl'], extra=[(os.path.join(out, 'tests/crash.static'), '/bin/crash')])
    with Tap() as t, suite.guest('crash', k, rd, memory='320M') as g:
        g.run(LOAD)
        blind(t, g, seed)
        g.run('rmmod portal_loopback; ' + LOAD)
        judge = g.start(CRASH % ('', seed, 0, 1 << 30, 1 << 20, 0))
        judge.expect(r'^# peer', 60)
        other = g.start(CRASH % ('join' + (' -a' if KILLS >= EACH else ''), seed, 1 << 20, KILLS * 2 // 3,
                                 SECONDS * SCALE, 1))
        line = ''
        while not line.startswith('# killed at'):
            line = other.expect(r'^# (\d+ of|killed at).*$', 120).group(0).decode()
            print(line[:150], flush=True)
        judge.kill(15)
        status = judge.wait(120)
        said = judge.text()
        print(''.join('# %s\n' % line.lstrip('# ') for line in said.splitlines()[-12:]))
        t.ok(other.wait(60) == 0 and status == 0, 'nothing is lost, torn, doubled, or waited for too long (seed %d)' % seed,
             said[-4000:] + other.text()[-1000:])
        killed = re.search(r"guests' processes: (\d+) kills(.*)", said)
        t.ok(killed and int(killed.group(1)) >= KILLS, '%d processes were killed' % KILLS, killed and killed.group(0))
        missing = re.findall(r'\b0 ([a-z ]+)', killed.group(2)) if killed else ['all']
        t.ok(not missing, 'in every way that is planned', 'never: ' + ', '.join(missing))
        for how in ('killed', 'stopped'):
            line = re.search('^# %s at:(.*)' % how, said, re.M)
            steps = re.findall(r"(\d+) '([^']+)'", line.group(1) if line else '')
            never = [step for count, step in steps if count == '0' and (KILLS >= EACH or step == SENT)]
            t.ok(steps and not never, '%s at %s' % (how, 'each step' if KILLS >= EACH else "'%s', too" % SENT),
                 'never at: ' + ', '.join(never))
        through = re.search(r'windows: (\d+) messages; (\d+) ends', said)
        t.ok(through and int(through.group(1)) > KILLS and int(through.group(2)) > KILLS // 50,
             'among them such as have a window and nothing else', through and through.group(0))
        g.finish(t)


main()
