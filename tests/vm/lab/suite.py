# SPDX-License-Identifier: MIT
"""What most test scripts begin with: a kernel, and a file system for guests."""
import glob
import os
import sys

from . import build, hand, kernels, portal, qemu
from .cache import ROOT, cache_dir, lock, run
from .debugkernel import DebugKernel
from .guest import Guest
from .initramfs import Initramfs


def kernel(default='6.1'):
    """The kernel that the command line names: a series, SERIES/FLAVOUR, or
    "debug"."""
    word = sys.argv[1] if len(sys.argv) > 1 else default
    if word == 'debug':
        return DebugKernel()
    series, _, flavour = word.partition('/')
    return kernels.find(series, flavour or 'cloud-amd64')


def guest_programs():
    """Paths of the static programs of tests/guest."""
    name = portal.of_this_tree('guest')
    out = cache_dir(name)
    with lock(name):
        run(['make', '-s', '-C', os.path.join(ROOT, 'tests', 'guest'),
             'O=' + out])
    # Only those that this source has: the cache may hold older ones.
    listed = run(['make', '-s', '-C', os.path.join(ROOT, 'tests', 'guest'),
                  'O=' + out, '-n', '-B']).stdout
    return sorted(p for p in glob.glob(out + '/*')
                  if os.access(p, os.X_OK) and '-o %s ' % p in listed + ' ')


def initrd(k, programs=False, user=(), names=(), extra=(), system=()):
    """Path of an initramfs with our modules, the hand and the guard, and by
    wish tests/guest's programs, programs of our user space, modules of
    the kernel, extra (source, path) pairs, and programs of this machine."""
    fs = Initramfs(k)
    fs.modules(build.modules(k), names=names)
    fs.copy(hand.program(k.arch), '/bin/hand', 0o755)
    fs.copy(portal.guard_program(k.arch), '/bin/guard', 0o755)
    if programs:
        for p in guest_programs():
            fs.copy(p, '/bin/' + os.path.basename(p), 0o755)
    if user:
        out = portal.userspace()
        for name in user:
            fs.program(os.path.join(out, 'bin', name),
                       libraries=[os.path.join(out, 'lib')])
    for program in system:
        fs.program(os.path.realpath(program), program)
    for source, to in extra:
        fs.copy(source, to, 0o755)
    path = os.path.join(qemu.workdir(), 'initrd-%s-%d' % (
        k.release, len(os.listdir(qemu.workdir()))))
    fs.write(path)
    return path


def guest(name, k, rd, devices=(), **kw):
    kw.setdefault('slow', getattr(k, 'slow', 1))
    kw.setdefault('memory', '512M' if kw['slow'] > 1 else '256M')
    return Guest(name, k, rd, devices=devices, **kw)
