# SPDX-License-Identifier: MIT
"""Root file systems of later Debian releases, for host tools that need them.

The kernel's build tools are linked with their own release's libc, and kbuild
wants the compiler the kernel was built with. root() makes a minimal file
system by debootstrap, once; enter() runs a command in it, with the cache and
nothing else of this machine to be seen, in a mount namespace that ends with
the command.
"""
import os
import shlex
import shutil

from . import debs
from .cache import LabError, building, cache_dir, lock, run, say

PACKAGES = 'make,kmod,libelf1t64,libdw1t64,binutils,sparse'


def root(suite, gcc):
    """The directory of a root file system with this compiler."""
    path = os.path.join(cache_dir('roots'), '%s-%s-2' % (suite, gcc))
    if os.path.isdir(path):
        return path
    if os.getuid() != 0:
        raise LabError('a kernel of %s needs a root file system of its own, '
                       'and making that needs root' % suite)
    with lock('root-' + suite):
        if os.path.isdir(path):
            return path
        say('making a root file system of Debian %s with %s (500 MB, about '
            'a minute, once)' % (suite, gcc))
        with building(path) as tmp:
            keep = cache_dir('debootstrap-' + suite)
            p = run(['debootstrap', '--variant=minbase',
                     '--cache-dir=' + keep, '--keyring=' + debs.KEYRING,
                     '--include=%s,%s' % (PACKAGES, gcc),
                     suite, tmp, debs.mirrors()['main']],
                    timeout=1200, check=False)
            if p.returncode:
                log = os.path.join(tmp, 'debootstrap/debootstrap.log')
                more = open(log).read()[-1500:] if os.path.exists(log) else ''
                raise LabError('debootstrap %s failed:\n%s\n%s' % (
                    suite, p.stdout[-1500:], more))
            shutil.rmtree(keep)
            for junk in ('var/cache/apt/archives', 'usr/share/doc',
                         'var/lib/apt/lists', 'usr/share/locale'):
                shutil.rmtree(os.path.join(tmp, junk), ignore_errors=True)
    return path


def enter(path, argv, cwd, timeout=600):
    """Run argv in the root file system; the cache is at its usual place."""
    cache = cache_dir()
    inside = path + cache
    os.makedirs(inside, exist_ok=True)
    script = ('mount -t proc proc {r}/proc && mount --bind {c} {i} && '
              'exec chroot {r} /usr/bin/env -i PATH=/usr/sbin:/usr/bin '
              'LC_ALL=C sh -c {cmd}').format(
        r=shlex.quote(path), c=shlex.quote(cache), i=shlex.quote(inside),
        cmd=shlex.quote('cd %s && exec %s' % (shlex.quote(cwd),
                                              shlex.join(argv))))
    return run(['unshare', '-m', 'sh', '-c', script], timeout=timeout,
               check=False)
