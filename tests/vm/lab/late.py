# SPDX-License-Identifier: MIT
"""By how much a busy machine makes everybody late: what a promised time is not blamed for."""
import os
import threading
import time


class Stall(threading.Thread):
    """By how much this machine itself makes everybody late: a thread that wants to run often."""

    def __init__(self):
        super().__init__(daemon=True)
        self.total, self.due = 0, time.monotonic()
        self.start()

    def run(self):
        while True:
            self.due = time.monotonic() + 0.02
            time.sleep(0.02)
            late = time.monotonic() - self.due
            if late > 0.02:
                self.total += late

    def so_far(self):
        late = time.monotonic() - self.due
        return self.total + (late if late > 0.02 else 0)


def kept(pid):
    """Seconds for which threads of a process that could run had to wait for a processor."""
    total = 0
    for thread in os.listdir('/proc/%d/task' % pid):
        try:
            with open('/proc/%d/task/%s/schedstat' % (pid, thread)) as f:
                total += int(f.read().split()[1])
        except FileNotFoundError:
            pass                        # it has ended
    return total / 1e9


class Clock:
    """Seconds from its beginning, as if these processes, and this one, had always run when they
    could: what they waited for a processor does not count."""

    def __init__(self, *pids):
        self.pids = pids + (os.getpid(),)
        self.before, self.began = self._kept(), time.monotonic()

    def _kept(self):
        return sum(kept(pid) for pid in self.pids)

    def took(self):
        """(seconds so, seconds by the clock on the wall)"""
        wall = time.monotonic() - self.began
        return wall - (self._kept() - self.before), wall
