# SPDX-License-Identifier: MIT
"""What the tests of VMBus's packet rings share: programs, and what guests boot from."""
import os

from lab import portal, qemu, vmbus
from lab.cache import ROOT, cache_dir, lock, run

PROGRAMS = ['packets', 'balloon', 'vmbusbench', 'regionbench']


def programs():
    name = portal.of_this_tree('guest-vmbus')
    out = cache_dir(name)
    with lock(name):
        run(['make', '-s', '-C', os.path.join(ROOT, 'tests', 'guest'), 'O=' + out, 'vmbus'],
            timeout=600)
    return [os.path.join(out, p) for p in PROGRAMS]


def on_the_host(bench=False):
    """Programs for L1: what opens the other end there."""
    out = portal.userspace(['portalctl-static'])
    found = [(os.path.join(out, 'bin', 'portalctl.static'), '/bin/portalctl')]
    return found + [(p, '/bin/' + os.path.basename(p)) for p in programs() if bench]


def initrd(k, names=(), own=True):
    fs = vmbus.initramfs(k, names=list(names), own=own)
    for p in programs():
        fs.copy(p, '/bin/' + os.path.basename(p), 0o755)
    if own:
        out = portal.userspace()
        fs.program(os.path.join(out, 'bin', 'portalctl'),
                   libraries=[os.path.join(out, 'lib')])
    path = os.path.join(qemu.workdir(), 'l2')
    fs.write(path)
    return path
