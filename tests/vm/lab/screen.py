# SPDX-License-Identifier: MIT
"""A program that draws on a terminal, and what stands there."""
import fcntl
import os
import pty
import re
import struct
import termios
import threading

from . import qemu

ROWS, COLUMNS = 24, 100


class Screen:
    """A program on a terminal of its own, which draws from the upper left corner each time
    (ESC [ H), as portalctl top does."""

    def __init__(self, argv):
        self.fd, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', ROWS, COLUMNS, 0, 0))
        self.process = qemu.spawn(argv, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.text = b''
        # A terminal that nobody reads would stop who draws on it.
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        try:
            while True:
                # Two pictures are enough: the last whole one is among them.
                self.text = (self.text + os.read(self.fd, 65536))[-65536:]
        except OSError:
            pass

    def lines(self):
        """The last whole picture."""
        pictures = self.text.decode(errors='replace').split('\x1b[H')
        whole = [p for p in pictures[1:] if '\x1b[J' in p] or ['']
        return re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', whole[-1]).rstrip().splitlines()

    def key(self, c):
        os.write(self.fd, c.encode())

    def end(self, timeout=10):
        """Its exit status, after 'q'."""
        self.key('q')
        status = qemu.stop(self.process, timeout)
        os.close(self.fd)
        return status
