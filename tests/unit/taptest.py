# SPDX-License-Identifier: MIT
"""Test points in Python: functions that raise on failure, printed as TAP.

    point = Tap()

    @point('what holds')
    def _(stack):           # an ExitStack that ends with the point
        check(...)

    point.run()             # arguments: only points whose name holds one of them
"""
import contextlib
import os
import shutil
import sys
import tempfile
import time
import traceback

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), '../vm'))
from lab.late import Stall          # noqa: E402


class Skip(Exception):
    """Not possible here: why."""


class Tap:
    """@explain: called after a failed point for more lines about it;
    @forget: called after each point."""

    def __init__(self, explain=lambda: [], forget=lambda: None):
        self.points, self.explain, self.forget = [], explain, forget

    def __call__(self, name):
        def add(fn):
            self.points.append((name, fn))
            return fn
        return add

    def one(self, fn):
        """'ok', what is behind the name, and lines that explain."""
        try:
            with contextlib.ExitStack() as stack:
                fn(stack)
            return 'ok', '', []
        except Skip as e:
            return 'ok', f' # SKIP {e}', []
        except Exception:               # noqa: any failure is a failed point
            return 'not ok', '', traceback.format_exc().rstrip().split('\n') + self.explain()
        finally:
            self.forget()

    def run(self):
        only, failed = sys.argv[1:], 0
        print(f'1..{len(self.points)}', flush=True)
        for i, (name, fn) in enumerate(self.points, 1):
            if only and not any(o in name for o in only):
                ok, tail, lines = 'ok', ' # SKIP not selected', []
            else:
                ok, tail, lines = self.one(fn)
            failed += ok != 'ok'
            print(f'{ok} {i} - {name}{tail}')
            for line in lines:
                print('# ' + line)
            sys.stdout.flush()
        sys.exit(1 if failed else 0)


def bail(text):
    print('Bail out! ' + text)
    sys.exit(1)


def check(cond, text='check failed'):
    if not cond:
        raise AssertionError(text)


def equal(got, want, what=''):
    if got != want:
        raise AssertionError(f'{what}: got {got!r}, want {want!r}')


# Seconds for what has to come, on a machine that has much else to do: who waits in vain does so once.
PATIENT = int(os.environ.get('VMPORTAL_PATIENCE', '60'))
_stall = None


def ran():
    """Seconds by a clock that stands still when this machine does: for what is promised "at once"."""
    global _stall
    if _stall is None:
        _stall = Stall()
    return time.monotonic() - _stall.so_far()


def wait_for(fn, what, seconds=PATIENT):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        v = fn()
        if v:
            return v
        time.sleep(0.01)
    raise AssertionError('waited in vain for ' + what)


def scratch(stack, prefix='vmportal-test-'):
    d = tempfile.mkdtemp(prefix=prefix)
    stack.callback(shutil.rmtree, d, ignore_errors=True)
    return d
