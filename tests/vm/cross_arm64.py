#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Everything of ours builds for arm64: modules, library, portald, portalctl.

No guest runs here (mixed_arm64.py does that). Modules: pages of 4 and of 16
KiB, W=1, a warning is a failure. Half a minute, the first time two minutes
for what is fetched.
"""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import arm64, build, kernels  # noqa: E402
from lab.cache import LabError, run  # noqa: E402
from lab.tap import Tap  # noqa: E402

KERNELS = [('6.1', 'cloud-arm64'), ('6.12', 'cloud-arm64'),
           ('6.12', 'arm64-16k')]
MODULES = {'portal.ko', 'portal_ivshmem.ko', 'portal_loopback.ko', 'portal_pmem.ko',
           'portal_vmbus.ko', 'portal_vmbus_line.ko'}
ALIAS = 'pci:v00001AF4d00001110sv*sd*bc*sc*i*'
# What must come out of the build, below its directory.
PRODUCTS = ['lib/libvmportal.so', 'lib/libvmportal.a', 'bin/portald',
            'bin/portalctl', 'bin/portalctl.static']


def machine(path):
    """What readelf says of the machine an ELF file (or archive) is for."""
    p = run(['readelf', '-h', path])
    return {line.split(':')[1].strip() for line in p.stdout.splitlines()
            if line.strip().startswith('Machine:')}


def check_modules(t, series, flavour):
    try:
        k = kernels.find(series, flavour)
        paths = build.modules(k)
    except LabError as e:
        t.ok(False, 'modules build for %s/%s' % (series, flavour), e)
        return
    found = {os.path.basename(p): p for p in paths}
    t.ok(MODULES <= set(found) and
         all(machine(p) == {'AArch64'} for p in paths),
         'modules build for %s, without a warning' % k.release, found)
    alias = run(['modinfo', '-F', 'alias', found['portal_ivshmem.ko']]).stdout
    magic = run(['modinfo', '-F', 'vermagic', found['portal.ko']]).stdout
    t.ok(ALIAS in alias.split() and magic.startswith(k.release + ' '),
         'alias and version of those for ' + k.release, alias + magic)


def check_userspace(t):
    try:
        out, text = arm64.userspace()
    except LabError as e:
        t.ok(False, 'user space builds for arm64', e)
        return
    bad = [line for line in text.splitlines() if 'warning' in line]
    t.ok(not bad, 'user space builds for arm64 without a warning',
         '\n'.join(bad))
    for name in PRODUCTS:
        path = os.path.join(out, name)
        there = os.path.exists(path)
        t.ok(there and machine(path) == {'AArch64'}, name + ' is for arm64',
             'not there' if not there else machine(path))
    p = subprocess.run(['readelf', '-lW', os.path.join(
        out, 'bin/portalctl.static')], text=True, stdout=subprocess.PIPE)
    t.ok(p.returncode == 0 and 'INTERP' not in p.stdout,
         'portalctl.static needs no library')


def stores(obj, function):
    """Store instructions of a function, in order: (name, operands)."""
    text = subprocess.run(['aarch64-linux-gnu-objdump', '-d', '--disassemble=' + function, obj],
                          text=True, check=True, stdout=subprocess.PIPE).stdout
    return re.findall(r'\t(st[a-z]*)\t([^\n]*)', text)


def check_order(t):
    """What tests/model shows of release stores, the code has: x86 would hide a lack."""
    out = arm64.userspace()[0]
    found = stores(os.path.join(out, 'obj/lib/handshake.o'), 'chan_announce')
    plain = [s for s in found if s[0] != 'stlr' and '[sp' not in s[1]]
    t.ok(len([s for s in found if s[0] == 'stlr']) >= 14 and not plain,
         'an end announces itself by release stores only', found)
    # The word that says "owed", 32 bits, comes behind the record's header, 64 bits.
    found = [s[1].split(',')[0][0] for s in
             stores(os.path.join(out, 'obj/lib/message.o'), 'vmp_commit') if s[0] == 'stlr']
    t.ok(found[:1] == ['x'] and 'w' in found[1:],
         'a record, and then that its ring is owed, are release stores', found)


def main():
    with Tap() as t:
        for series, flavour in KERNELS:
            check_modules(t, series, flavour)
        check_userspace(t)
        check_order(t)


main()
