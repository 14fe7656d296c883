# SPDX-License-Identifier: MIT
"""The tables of a managed portal, as the host reads them (portal-layout(5))."""
import os
import struct
import time

from .cache import LabError

PEER, SESSION = 512, 128            # bytes of a row
ALIVE, ASLEEP, DEAD = 2, 3, 4       # states of a life word
SILENT, FENCED = 5, 4               # reasons


class Tables:
    """Of a portald, by its own descriptor; or of a region (lab.portal.Region)."""

    def __init__(self, server=None, region=None):
        if region:
            self.fd = region.fd
        else:
            self._find(server)
        self.peers, self.block = struct.unpack('<2I', self.read(176, 8))
        self.peers_at, = struct.unpack('<Q', self.read(192, 8))
        self.sessions_at, = struct.unpack('<Q', self.read(192 + 24, 8))

    def _find(self, server):
        base = '/proc/%d/fd' % server.process.pid
        for fd in os.listdir(base):
            path = os.path.join(base, fd)
            if os.readlink(path).startswith('/memfd:'):
                self.fd = os.open(path, os.O_RDWR)
                if self.read(0, 8) == b'VMPORTAL':
                    break
                os.close(self.fd)
        else:
            raise LabError('portald holds no memfd with a superblock')

    def read(self, offset, length):
        return os.pread(self.fd, length, offset)

    def word(self, slot, offset):
        return struct.unpack('<Q', self.read(self.peers_at + slot * PEER + offset, 8))[0]

    def put(self, slot, offset, value):
        os.pwrite(self.fd, struct.pack('<Q', value), self.peers_at + slot * PEER + offset)

    def claim(self, slot):
        return self.word(slot, 0)

    def dead(self, slot):
        return self.word(slot, 8)

    def suspect(self, slot):
        return self.word(slot, 16)

    def reason(self, slot):
        return self.word(slot, 24) & 0xffffffff

    def state(self, slot):
        return self.word(slot, 128) & 0xffff

    def sequence(self, slot):
        return self.word(slot, 128) >> 16

    def incarnation(self, slot):
        return self.word(slot, 136)

    def heartbeat(self, slot):
        return self.word(slot, 256)

    def says(self, slot, claim):
        """How the machine stands that has made this claim: "alive", "suspect", "dead"."""
        if self.claim(slot) != claim or self.dead(slot) == claim or self.state(slot) == DEAD:
            return 'dead'
        if self.suspect(slot) == claim or self.state(slot) == ASLEEP:
            return 'suspect'
        return 'alive'

    def token(self, token):
        """What the table says of a token."""
        life, claim = struct.unpack('<2Q', self.read(
            self.sessions_at + (token & 0xffff) * SESSION, 16))
        if life >> 16 != token >> 16 or claim != self.claim((token & 0xffff) // self.block):
            return DEAD
        return life & 0xffff


# What has to come may take its time on a busy machine; who waits in vain waits once.
PATIENT = 120


def until(condition, seconds=PATIENT):
    """How long it took, or None."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > seconds:
            return None
        time.sleep(0.02)
    return time.monotonic() - begin
