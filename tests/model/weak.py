#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""weak.py [TEST...] - the orders that the protocols rely on, on weak memory.

Each weak/TEST.litmus is one exchange between machines, stripped to its loads, stores and
fences; herd7 runs it through every execution that C11's memory model (RC11), or arm64's,
allows. The outcome in "exists" must never come; with one order weakened, as each MUT line
says (name | text | what stands in its place), it must. TAP on stdout.

herd7 is Debian's, of a suite with a newer C library than the machine's: it is fetched and
unpacked with that library, and run by its loader.
"""
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'vm'))
from lab import debs                                    # noqa: E402
from lab.cache import LabError, building, cache_dir, lock   # noqa: E402
from lab.tap import Tap                                 # noqa: E402

MODELS = {'C': 'rc11.cat', 'AArch64': 'aarch64.cat'}
PACKAGES = ('herdtools7', 'libc6', 'libgmp10')
LIMIT_S = 240


def herd():
    """The command that runs herd7."""
    files = [debs.download(p) for p in PACKAGES]
    key = os.path.basename(files[0])[:-4] + '-' + os.path.basename(files[1])[:-4]
    path = os.path.join(cache_dir('herd'), key)
    with lock('herd-' + key):
        if not os.path.isdir(path):
            with building(path) as tmp:
                for f in files:
                    debs.unpack(f, tmp)
    usr = os.path.join(path, 'usr')
    lib = os.path.join(usr, 'lib', 'x86_64-linux-gnu')
    return [os.path.join(lib, 'ld-linux-x86-64.so.2'), '--library-path', lib,
            os.path.join(usr, 'bin', 'herd7'),
            '-set-libdir', os.path.join(usr, 'share', 'herdtools7', 'herd')]


def observe(command, text):
    """("Never", "Sometimes" or "Always", executions, all that herd7 said)."""
    with tempfile.NamedTemporaryFile('w', suffix='.litmus') as f:
        f.write(text)
        f.flush()
        p = subprocess.run(command + ['-model', MODELS[text.split()[0]], f.name], text=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=LIMIT_S)
    found = re.search(r'(?m)^Observation \S+ (\w+) (\d+) (\d+)$', p.stdout)
    if p.returncode or not found or re.search(r'(?m)^Warning', p.stdout):
        return None, 0, p.stdout
    return found.group(1), int(found.group(2)) + int(found.group(3)), p.stdout


def mutations(text):
    """(name, the text with it) of each MUT line; None in place of a text it cannot change."""
    head, body = text.split('*)', 1)
    for line in re.findall(r'(?m)^ \* MUT (.*)$', head):
        name, old, new = (part.strip() for part in line.split('|'))
        yield name, head + '*)' + body.replace(old, new, 1) if old in body else None


def check(t, command, name):
    with open(os.path.join(HERE, 'weak', name + '.litmus')) as f:
        text = f.read()
    seen, runs, said = observe(command, text)
    t.ok(seen == 'Never' and runs > 1, '%s: never, in %d executions' % (name, runs), said)
    for mutation, changed in mutations(text):
        seen, runs, said = observe(command, changed) if changed else (None, 0, 'no such text')
        t.ok(seen in ('Sometimes', 'Always'), '%s: %s is caught' % (name, mutation), said)


def main():
    names = sys.argv[1:] or sorted(f[:-7] for f in os.listdir(HERE + '/weak')
                                   if f.endswith('.litmus'))
    with Tap() as t:
        try:
            command = herd()
        except LabError as e:
            t.ok(False, 'herd7 can be had', str(e))
            return
        for name in names:
            check(t, command, name)


main()
