# SPDX-License-Identifier: MIT
"""Producing TAP: each check is a test point, and the plan is checked.

    with Tap(3) as t:               # or Tap() for a plan at the end
        t.ok(cond, 'what must hold', 'diagnostics if it does not')
        t.skip('what', 'why')
An exception ends the run: it becomes a failing point with its text, and the
exit status is 1.
"""
import sys
import traceback

from .cache import LabError


class Tap:
    def __init__(self, plan=None, out=sys.stdout):
        self.plan = plan
        self.count = 0
        self.failed = 0
        self.out = out

    def __enter__(self):
        if self.plan is not None:
            self._print('1..%d' % self.plan)
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None and issubclass(kind, (KeyboardInterrupt,
                                                  SystemExit)):
            return False
        if kind is not None:
            if issubclass(kind, LabError):
                text = str(error)
            else:
                text = ''.join(traceback.format_exception(kind, error, trace))
            self.ok(False, 'runs to its end', text)
        if self.plan is None:
            self._print('1..%d' % self.count)
        elif self.plan != self.count:
            self.diag('planned %d tests, ran %d' % (self.plan, self.count))
            self.failed += 1
        sys.exit(1 if self.failed else 0)

    def _print(self, text):
        print(text, file=self.out, flush=True)

    def diag(self, text):
        for line in str(text).rstrip('\n').splitlines():
            self._print('# ' + line)

    def ok(self, good, name, why=''):
        self.count += 1
        if not good:
            self.failed += 1
        self._print('%sok %d - %s' % ('' if good else 'not ', self.count,
                                      str(name).replace('#', '')))
        if not good and why:
            self.diag(why)
        return bool(good)

    def equal(self, got, want, name):
        return self.ok(got == want, name, 'got  %r\nwant %r' % (got, want))

    def skip(self, name, why):
        self.count += 1
        self._print('ok %d - %s # SKIP %s' % (self.count, name, why))

    def nested(self, output, prefix, status=0):
        """Take over the points of another TAP producer's output; an exit
        status, a missing or a wrong plan is a failing point of its own."""
        plan = points = 0
        for line in output.splitlines():
            words = line.split(None, 1)
            if line.startswith('1..'):
                plan = int(line[3:].split()[0])
                if plan == 0:
                    self.skip(prefix, line.partition('#')[2] or 'no tests')
            elif line.startswith(('ok ', 'not ok ')):
                points += 1
                good = words[0] == 'ok'
                rest = line[3:] if good else line[7:]
                name = rest.lstrip('0123456789').lstrip(' -')
                self.count += 1
                todo = '# TODO' in name
                if not good and not todo:
                    self.failed += 1
                self._print('%sok %d - %s: %s' % ('' if good else 'not ',
                                                  self.count, prefix, name))
            elif line.strip():
                self._print(line if line.startswith('#') else '# ' + line)
        if plan != points or (plan == 0 and points == 0 and
                              '1..0' not in output):
            # Killed, maybe by its own alarm: where it was then is of use.
            self.ok(False, prefix + ': keeps its plan',
                    'planned %d, saw %d; exit status %d; last: %s' % (
                        plan, points, status, output.splitlines()[-1:]))
        if status and not self.failed:
            self.ok(False, prefix + ': exit status', 'status %d' % status)
