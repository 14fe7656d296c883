# SPDX-License-Identifier: MIT
"""Where the lab keeps things, who may write there, and how it speaks.

Everything that costs time to fetch or build lives under cache_dir(), outside
the source tree. Writers hold a lock per thing, and make it under a temporary
name that is renamed when it is whole: a reader never meets half a kernel.
"""
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))

_start = time.monotonic()


class LabError(Exception):
    """Something the lab needs is missing or failed: one line for the user."""


def cache_dir(*parts):
    """A directory below the cache; made if it is not there."""
    base = os.environ.get('VMPORTAL_CACHE') or os.path.join(
        os.environ.get('HOME') or '/root', '.cache', 'vmportal')
    path = os.path.join(os.path.abspath(base), *parts)
    os.makedirs(path, exist_ok=True)
    return path


def say(text):
    """A progress line: a TAP comment, so that it may go anywhere. On stderr
    it is seen at once, and TAP on stdout stays clean."""
    print('# [%5.1f s] %s' % (time.monotonic() - _start, text),
          file=sys.stderr, flush=True)


@contextlib.contextmanager
def lock(name, timeout=1800):
    """One process at a time per name; waits at most timeout seconds."""
    path = os.path.join(cache_dir('locks'), name.replace('/', '_'))
    with open(path, 'w') as f:
        end = time.monotonic() + timeout
        told = False
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    raise LabError('%s is locked by another process for more '
                                   'than %d s' % (path, timeout))
                if not told:
                    say('waiting for another process that is at ' + name)
                    told = True
                time.sleep(0.2)
        yield


@contextlib.contextmanager
def building(path):
    """A temporary directory that becomes path if the block succeeds."""
    parent = os.path.dirname(path)
    os.makedirs(parent, exist_ok=True)
    tmp = tempfile.mkdtemp(prefix='.new-', dir=parent)
    os.chmod(tmp, 0o755)
    try:
        yield tmp
        if os.path.isdir(path):
            shutil.rmtree(path)
        os.rename(tmp, path)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def run(argv, timeout=600, check=True, **kw):
    """Run a command, bounded; its output goes into the error if it fails."""
    kw.setdefault('stdout', subprocess.PIPE)
    kw.setdefault('stderr', subprocess.STDOUT)
    try:
        p = subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=timeout,
                           text=True, errors='replace', **kw)
    except FileNotFoundError:
        raise LabError('%s is not installed; run tests/deps/install' % argv[0])
    except subprocess.TimeoutExpired:
        raise LabError('%s took more than %d s' % (' '.join(argv), timeout))
    if check and p.returncode:
        raise LabError('%s failed (%d):\n%s' % (
            ' '.join(argv), p.returncode, (p.stdout or '')[-3000:]))
    return p
