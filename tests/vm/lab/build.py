# SPDX-License-Identifier: MIT
"""Modules and small programs, built for a kernel outside the source tree.

What is built is kept by a hash of its sources: a second test that wants the
same modules gets them at once, and a changed source is never overlooked.
"""
import glob
import hashlib
import os
import re
import shutil

from . import roots
from .cache import LabError, ROOT, building, cache_dir, lock, run, say

# All that the modules are made of, relative to the top of the repository.
MODULE_SOURCES = ['Kbuild', 'Makefile', 'drivers', 'uapi', 'dkms.conf']
SOURCE_NAMES = re.compile(r'(Kbuild|Makefile|dkms\.conf|.*\.(c|h|S|sh|mk|in))$'
                          r'|^[^.]*$')
KEEP = 3        # results per kernel and directory


def _sources(top, parts):
    found = []
    for part in parts:
        path = os.path.join(top, part)
        if os.path.isfile(path):
            found.append(part)
        for base, dirs, files in os.walk(path):
            dirs[:] = sorted(d for d in dirs if not d.startswith('.'))
            found += [os.path.relpath(os.path.join(base, f), top)
                      for f in sorted(files)
                      if SOURCE_NAMES.match(f) and not f.endswith('.mod.c')
                      and f not in ('modules.order', 'Module.symvers')]
    return found


def _digest(top, files, extra):
    h = hashlib.sha256(extra.encode())
    for name in files:
        h.update(name.encode() + b'\0')
        with open(os.path.join(top, name), 'rb') as f:
            h.update(hashlib.sha256(f.read()).digest())
    return h.hexdigest()[:16]


def make_vars(k):
    """Command-line variables for a build against kernel k."""
    v = ['KDIR=' + k.headers, 'CC=' + k.gcc,
         # BTF of modules needs pahole and vmlinux; nothing of ours needs it.
         'CONFIG_DEBUG_INFO_BTF_MODULES=']
    if k.arch == 'arm64':
        v += ['ARCH=arm64', 'CROSS_COMPILE=aarch64-linux-gnu-',
              'CC=aarch64-linux-gnu-' + k.gcc]
    return v


def modules(k, top=ROOT, parts=None, target='modules', more=(), tolerate=False):
    """Build the modules in top against k; return the paths of the .ko files.

    W=1 always, and any line that says "warning" is an error (LabError carries
    the compiler's text). A top without a Makefile that knows KDIR= may give
    its own target: None builds by Kbuild alone. tolerate: warnings do not fail
    the build; log_of() has them.
    """
    parts = MODULE_SOURCES if parts is None else parts
    files = _sources(top, parts)
    if not any(os.path.basename(f) in ('Kbuild', 'Makefile') for f in files):
        raise LabError('%s has no Kbuild: nothing to build' % top)
    variables = make_vars(k) + list(more)
    key = _digest(top, files, repr((top, target, variables)))
    name = os.path.basename(top) or 'modules'
    base = cache_dir('modules', k.release)
    path = os.path.join(base, '%s-%s' % (name, key))
    with lock('modules-%s-%s' % (k.release, key)):
        if not os.path.isdir(path):
            with building(path) as tmp:
                for f in files:
                    to = os.path.join(tmp, f)
                    os.makedirs(os.path.dirname(to), exist_ok=True)
                    shutil.copy(os.path.join(top, f), to)
                _build_in(k, tmp, target, variables, tolerate)
        os.utime(path)
        old = sorted(glob.glob(os.path.join(base, name + '-*')),
                     key=os.path.getmtime)[:-KEEP]
        for d in old:
            shutil.rmtree(d, ignore_errors=True)
    found = sorted(glob.glob(os.path.join(path, '**', '*.ko'), recursive=True))
    if not found:
        raise LabError('the build for %s made no module' % k.release)
    return found


def log_of(ko):
    """The build log that belongs to a .ko that modules() returned."""
    d = os.path.dirname(ko)
    while not os.path.exists(os.path.join(d, 'build.log')):
        d = os.path.dirname(d)
    with open(os.path.join(d, 'build.log')) as f:
        return f.read()


def _build_in(k, tmp, target, variables, tolerate):
    say('building modules for ' + k.release)
    if target is None:
        argv = ['make', '-C', k.headers, 'M=' + tmp, 'W=1'] + variables
        argv += ['modules']
    else:
        argv = ['make', target, 'W=1', 'V=0'] + variables
    if k.root:
        root = roots.root(k.root, k.gcc)
        p = roots.enter(root, argv, tmp)
    else:
        p = run(argv, cwd=tmp, check=False)
    text = p.stdout.replace(tmp + '/', '')
    with open(os.path.join(tmp, 'build.log'), 'w') as f:
        f.write(text)
    if p.returncode:
        raise LabError('modules for %s: make failed (%d):\n%s' % (
            k.release, p.returncode, text[-6000:]))
    bad = [line for line in text.splitlines() if harmful(line)]
    if bad and not tolerate:
        raise LabError('modules for %s: warnings:\n%s' % (
            k.release, '\n'.join(bad)[:6000]))


# kbuild's own remarks about the machine, not about the code that is built.
_REMARKS = re.compile(
    r'(compiler|pahole version) differs from the one used to build the kernel'
    r'|Skipping BTF generation|^\s*The kernel was built by|^\s*You are using')


def harmful(line):
    """Whether a line of a build log is a warning about our sources."""
    return bool(re.search(r'\bwarning\b', line, re.I)) and \
        not _REMARKS.search(line)


def program(source, arch='amd64', libs=(), flags=()):
    """Compile one C file to a static program; return its path."""
    cc = {'amd64': 'gcc', 'arm64': 'aarch64-linux-gnu-gcc'}[arch]
    cmd = [cc, '-std=gnu11', '-O2', '-g', '-Wall', '-Wextra', '-Wshadow',
           '-Wstrict-prototypes', '-Wmissing-prototypes', '-Werror',
           '-static', '-I' + os.path.join(ROOT, 'uapi')] + list(flags)
    key = _digest(os.path.dirname(source), [os.path.basename(source)],
                  repr((cmd, libs)))
    path = os.path.join(cache_dir('programs', arch), '%s-%s' % (
        os.path.basename(source).rsplit('.', 1)[0], key))
    with lock('program-' + os.path.basename(path)):
        if not os.path.exists(path):
            tmp = '%s.%d' % (path, os.getpid())
            run(cmd + ['-o', tmp, source] + list(libs))
            os.rename(tmp, path)
    return path
