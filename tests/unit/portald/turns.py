# SPDX-License-Identifier: MIT
"""portald's event loop, turn by turn: ptrace(2) stops it as each one begins."""
import ctypes
import os
import platform
import signal
import time

from portaldtest import check
from tables import libc

SEIZE, INTERRUPT, SYSCALL, DETACH, SYSCALL_INFO = 0x4206, 0x4207, 24, 17, 0x420e
TRACESYSGOOD = 1
ENTRY = 1       # ptrace_syscall_info.op
# epoll_wait, epoll_pwait, epoll_pwait2: a turn waits, if only for 0 s, and then has one source dispatched.
WAITS = {'x86_64': (232, 281, 441), 'aarch64': (22, 441)}
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, pid, addr=None, data=None):
    check(libc.ptrace(request, pid, addr, data) >= 0, f'ptrace({request:#x}): {os.strerror(ctypes.get_errno())}')


def stopped(pid, end):
    """The status of its next stop."""
    while time.monotonic() < end:
        got, status = os.waitpid(pid, os.WNOHANG)
        if got:
            check(os.WIFSTOPPED(status), f'portald ended: {status:#x}')
            return status
        time.sleep(0.0005)
    raise AssertionError('portald does not come to its next turn')


def begins_a_turn(pid):
    info = ctypes.create_string_buffer(88)
    ptrace(SYSCALL_INFO, pid, len(info), ctypes.addressof(info))
    return info.raw[0] == ENTRY and \
        int.from_bytes(info.raw[24:32], 'little') in WAITS[platform.machine()]


def each_turn(pid, first, look, seconds=60):
    """Stop portald, do @first, let it go on; @look whenever a turn is over, until that says true."""
    end = time.monotonic() + seconds
    ptrace(SEIZE, pid, None, TRACESYSGOOD)
    ptrace(INTERRUPT, pid)
    stopped(pid, end)
    try:
        first()
        signo, done = 0, False
        while not done:
            ptrace(SYSCALL, pid, None, signo)
            status = stopped(pid, end)
            signo = os.WSTOPSIG(status)
            if signo == signal.SIGTRAP | 0x80:
                done = begins_a_turn(pid) and look()
            # Neither a system call nor a signal: what stopped it at first.
            if signo & ~0x80 == signal.SIGTRAP:
                signo = 0
    finally:
        # Where it stands; if it runs, the test has failed, and the kernel detaches it when we end.
        libc.ptrace(DETACH, pid, None, None)
