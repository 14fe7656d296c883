#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""sparse on the modules, with the oldest and the newest kernel, as TAP."""
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(TOP, 'tests', 'vm'))
from lab import build, kernels  # noqa: E402
from lab.tap import Tap  # noqa: E402

# What sparse 0.6.4 cannot parse in the newest headers: an operator, and
# assertions on the length of strings (the compiler has checked these).
CHECK = ['C=2', 'CHECK=sparse', "CF=-D__typeof_unqual__=__typeof__ "
         "'-D_Static_assert(...)='"]

VALID = """#!/bin/sh
# Debian's headers leave the kernel's own out: does the checker run at all?
echo 'int main(void) { return 0; }' | "$@" - >/dev/null 2>&1 && echo 1
"""


def enable(kernel):
    """Supply scripts/checker-valid.sh, without which C=2 is ignored."""
    path = os.path.join(kernel.dir, 'usr/src/linux-headers-%s-common' %
                        kernel.abi, 'scripts/checker-valid.sh')
    if not os.path.exists(path):
        with open(path, 'w') as f:
            f.write(VALID)
        os.chmod(path, 0o755)


def complaints(kernel, **what):
    """sparse's lines about our own files, in a build that is kept apart."""
    enable(kernel)
    kos = build.modules(kernel, more=CHECK, tolerate=True, **what)
    log = build.log_of(kos[0])
    # Other lines are about the kernel's headers, as gcc's are not sparse's.
    ours = [line for line in log.splitlines()
            if re.match(r'[A-Za-z][\w./-]*:\d+:\d+: ', line) and
            re.search(r'\b(warning|error)\b', line)]
    return ours, re.findall(r'(?m)^\s*CHECK\s+(\S+)', log)


def main(t):
    for series in ('5.10', 'newest'):
        k = kernels.find(series)
        seen, _ = complaints(k, top=HERE + '/seeded', parts=['.'], target=None)
        t.ok(any('noderef' in line for line in seen),
             '%s: sparse sees a seeded use of a user pointer' % k.release,
             '\n'.join(seen))
        found, checked = complaints(k)
        t.ok(not found and len(checked) > 5,
             '%s: sparse finds nothing in the modules' % k.release,
             '\n'.join(found) or 'checked: %s' % checked)


if __name__ == '__main__':
    with Tap(4) as tap:
        main(tap)
