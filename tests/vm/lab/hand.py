# SPDX-License-Identifier: MIT
"""A hand on a portal in a guest (tests/vm/hand.c), led from here."""
import os

from . import build
from .cache import ROOT

SOURCE = os.path.join(ROOT, 'tests', 'vm', 'hand.c')


def program(arch='amd64', flags=()):
    return build.program(SOURCE, arch, flags=flags)


class Hand:
    """One process; say() gives an order and returns the answer's line."""

    @classmethod
    def of(cls, job):
        """One that runs already: in a copy of the guest where it began."""
        hand = cls.__new__(cls)
        hand.job = job
        return hand

    def __init__(self, guest, device=None, mode='rw', program='hand'):
        self.job = guest.start('exec ' + program)
        self.job.expect('ready\n', 20)
        if device:
            self.must('open %s %s' % (device, mode))

    def say(self, order, timeout=30):
        self.job.send(order + '\n')
        return self.job.expect(r'^([^\n]*)\n', timeout).group(1).decode()

    def must(self, order, timeout=30):
        """An order that has to succeed; what stands after "ok"."""
        answer = self.say(order, timeout)
        if not answer.startswith('ok'):
            raise AssertionError('%s: %s: %s' % (self.job.guest.name, order,
                                                 answer))
        return answer[3:]

    def info(self):
        return dict(w.split('=', 1) for w in self.must('info').split())

    def ask(self, order):
        """Give an order without waiting; answer() fetches the line."""
        self.job.send(order + '\n')

    def answer(self, timeout=60):
        return self.job.expect(r'^([^\n]*)\n', timeout).group(1).decode()

    def end(self):
        self.job.send('exit\n')
        return self.job.wait(20)
