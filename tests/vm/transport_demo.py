#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""transport_demo.py pmem|vmbus: make demo TRANSPORT=... runs to its end and prints the
table that demo.py knows; Ctrl-C leaves nothing."""
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import demo as default_demo  # noqa: E402
from lab.cache import ROOT  # noqa: E402
from lab.tap import Tap  # noqa: E402

# Rows of the table, whether there are doorbells, and a moment for Ctrl-C.
TRANSPORTS = {
    'pmem': (['guest -> guest', 'guest -> host'], False, 'guest1: /dev/portal0 is'),
    'vmbus': (['guest -> host', 'host -> guest'], True, 'booting a guest there'),
}
WHOLE_S = 1200


def whole(t, transport, names, bells):
    p = subprocess.run(['make', '-s', '-C', ROOT, 'demo', 'TRANSPORT=' + transport], text=True,
                       timeout=WHOLE_S, stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if not t.ok(p.returncode == 0 and re.search(r'SHA-256 \w+\.\.\. the same at', p.stdout),
                'the main job over ' + transport, p.stdout[-3000:]):
        return
    rows = re.findall(r'(?m)^  (\w+ -> \w+) +(\d+) +([\d.]+) +(\d+) +(\d+) +(\d+) +(\d+)$',
                      p.stdout)
    t.equal([r[0] for r in rows], names, 'the table has its two rows')
    t.ok(len({r[1] for r in rows}) == 1 and int(rows[0][1]) > 1000000,
         'both say how many bytes', rows)
    t.ok(all((int(r[4]) > 0) == bells for r in rows),
         'doorbells are rung' if bells else 'no doorbells are rung', rows)
    t.ok(re.search(r'bare cache-line exchange beside it +p50 .*ratio', p.stdout) and
         re.search(r'round trip, both ends asleep +p50 +[\d.]+ us', p.stdout),
         'round trips stand beside the bare exchange', p.stdout[-2000:])


def main():
    transport = sys.argv[1]
    names, bells, moment = TRANSPORTS[transport]
    with Tap() as t:
        whole(t, transport, names, bells)
        default_demo.interrupted(t, moment, TRANSPORT=transport)


main()
