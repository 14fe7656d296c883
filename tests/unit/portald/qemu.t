#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The real client: QEMU's ivshmem-doorbell on portald, driven without a guest by
QEMU's own test protocol, which reads and writes the device's BARs."""
import os
import re
import shutil
import struct
import subprocess

from portaldtest import *
from tables import *

point = Tap()
CACHE = os.environ.get('VMPORTAL_CACHE', os.path.expanduser('~/.cache/vmportal')) + '/qemu'
SLOT = 4
BAR0, BAR1, BAR2 = 0xe0000000, 0xe1000000, 0xe4000000
MSI_TARGET = 0x100000   # RAM: the "interrupt" is a store that can be read back


def find_qemu():
    """$QEMU, the machine's, or the one that the tests with guests have fetched."""
    here = os.environ.get('QEMU') or shutil.which('qemu-system-x86_64')
    if here:
        return [here]
    binary = CACHE + '/usr/bin/qemu-system-x86_64'
    if not os.path.exists(binary):
        raise Skip('no qemu-system-x86_64 here; tests/run vm fetches one')
    return [binary, '-L', CACHE + '/usr/share/qemu', '-L', CACHE + '/usr/share/seabios']


class Qemu:
    """A PC with the device whose processor never starts; the qtest protocol."""

    def __init__(self, stack, d, vectors=4):
        qemu = find_qemu()
        args = run('qemu-args', d.name, '--socket-dir', d.dir).stdout.split()
        check(args[-1].endswith(f'vectors={vectors}'), str(args))
        args[-1] += f',addr={SLOT}'
        self.p = subprocess.Popen(
            [*qemu, '-S', '-accel', 'tcg', '-qtest', 'stdio', '-qtest-log', 'none', '-machine', 'pc', '-m', '16',
             '-display', 'none', '-nodefaults', '-no-user-config', *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=dict(os.environ, MALLOC_PERTURB_='165'))
        stack.callback(self.end)
        self.cmd('endianness')  # up and answering: the device is realized

    def end(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()
        for f in (self.p.stdin, self.p.stdout, self.p.stderr):
            f.close()

    def cmd(self, text):
        self.p.stdin.write(text + '\n')
        self.p.stdin.flush()
        while True:
            line = self.p.stdout.readline()
            if not line:
                raise AssertionError('QEMU ended: ' + self.p.stderr.read())
            if line.startswith('OK'):
                return line.split()[1:]
            check(not line.startswith(('FAIL', 'ERR')), f'{text}: {line}')

    def read(self, addr):
        return int(self.cmd(f'readl {addr:#x}')[0], 0)

    def write(self, addr, value):
        self.cmd(f'writel {addr:#x} {value:#x}')

    def config(self, reg, value=None):
        self.cmd(f'outl 0xcf8 {0x80000000 | SLOT << 11 | reg:#x}')
        if value is None:
            return int(self.cmd('inl 0xcfc')[0], 0)
        self.cmd(f'outl 0xcfc {value:#x}')

    def enable(self, vectors):
        """What firmware and driver do: BARs, bus mastering, MSI-X to RAM."""
        equal(self.config(0), 0x11101af4, 'device')
        self.config(0x10, BAR0)
        self.config(0x14, BAR1)
        self.config(0x18, BAR2)
        self.config(0x1c, 0)
        self.config(4, 6)
        cap = self.config(0x34) & 0xff
        while self.config(cap & ~3) >> 8 * (cap & 3) & 0xff != 0x11:
            cap = self.config(cap) >> 8 & 0xff
            check(cap, 'no MSI-X')
        head = self.config(cap)
        equal((head >> 16 & 0x7ff) + 1, vectors, 'MSI-X vectors')
        self.config(cap, head | 1 << 31)
        for v in range(vectors):
            self.write(BAR1 + 16 * v, MSI_TARGET + 4 * v)
            self.write(BAR1 + 16 * v + 4, 0)
            self.write(BAR1 + 16 * v + 8, 0xab00 + v)
            self.write(BAR1 + 16 * v + 12, 0)

    def ring(self, peer, vector):
        self.write(BAR0 + 12, peer << 16 | vector)

    def interrupts(self, vectors):
        """Which vectors have interrupted since the last call."""
        hit = []
        for v in range(vectors):
            if self.read(MSI_TARGET + 4 * v) == 0xab00 + v:
                hit.append(v)
                self.write(MSI_TARGET + 4 * v, 0)
        return hit


def same_region(q, h):
    m = mmap.mmap(h.region, 1 << 20)
    q.write(BAR2 + 0x1000, 0x12345678)
    equal(struct.unpack_from('<I', m, 0x1000)[0], 0x12345678, 'QEMU wrote')
    struct.pack_into('<I', m, (1 << 20) - 4, 0x9abcdef0)
    equal(q.read(BAR2 + (1 << 20) - 4), 0x9abcdef0, 'the process wrote')


@point('QEMU and a process: region, id, doorbells, interrupts')
def _(stack):
    d = Daemon(stack)
    h = d.process()
    q = Qemu(stack, d)
    q.enable(4)
    h.pump(lambda: h.knows(8))
    equal(q.read(BAR0 + 8), 8, 'IVPosition')
    same_region(q, h)
    for v in range(4):
        q.ring(h.id, v)
        equal([rings(h.peers[h.id][w], 5 if v == w else 0) for w in range(4)],
              [int(v == w) for w in range(4)], f'QEMU rang vector {v}')
        ring(h.peers[8][v])
        got = wait_for(lambda: q.interrupts(4), f'interrupt {v}')
        equal(got, [v], 'interrupts')


@point('a process that comes after QEMU is rung through the id announced before')
def _(stack):
    d = Daemon(stack)
    q = Qemu(stack, d)
    q.enable(4)
    for n in range(3):
        h = d.process()
        equal(h.id, n, 'lease')
        q.ring(h.id, 2)
        equal(rings(h.peers[h.id][2]), 1, 'rung')
        h.close()


@point('two QEMUs ring each other, with 64 vectors too')
def _(stack):
    for vectors in (2, 64):
        d = Daemon(stack, '--vectors', str(vectors))
        a, b = Qemu(stack, d, vectors), Qemu(stack, d, vectors)
        a.enable(vectors)
        b.enable(vectors)
        me, it = a.read(BAR0 + 8), b.read(BAR0 + 8)
        equal(sorted((me, it)), [8, 9], 'ids')
        for v in (0, vectors - 1):
            a.ring(it, v)
            equal(wait_for(lambda: b.interrupts(vectors), 'an interrupt'), [v], 'a to b')
            b.ring(me, v)
            equal(wait_for(lambda: a.interrupts(vectors), 'an interrupt'), [v], 'b to a')


@point('QEMU outlives 100 peers that come and go, its heap checked by malloc')
def _(stack):
    d = Daemon(stack, '--connect-rate', '0')
    q = Qemu(stack, d)
    q.enable(4)
    for n in range(100):
        g = Guest(d.sock('ivshmem'))
        if n % 10 == 0:
            wait_for(lambda: q.ring(g.id, 1) or rings(g.peers[g.id][1], 0), 'a ring')
        g.close()
    h = d.process()
    q.ring(h.id, 3)
    equal(rings(h.peers[h.id][3]), 1, 'still alive and ringing')
    equal(q.read(BAR0 + 8), 8, 'still itself')


@point('QEMU killed: its machine is dead, the others are told, at once')
def _(stack):
    d = Daemon(stack, '--managed', '--max-guests', '6', '--sessions', '10')
    a, q, r = Member(d), Qemu(stack, d), Qemu(stack, d)
    for x in (q, r):
        x.enable(4)
    t = Tables(stack, a)
    a.pump(lambda: a.knows(9) and a.knows(10))
    ids = [x.read(BAR0 + 8) for x in (q, r)]
    m, n = (Machine(t, type('', (), dict(id=i, vectors=4)), s, notice=s)
            for s, i in enumerate(ids, 1))
    r.interrupts(4)
    killed = ran()
    q.p.kill()
    equal(wait_for(m.dead, 'the verdict'), EXITED, 'reason')
    check(2 in wait_for(lambda: r.interrupts(4), 'an interrupt in the other'), 'vector')
    took = ran() - killed
    check(took < 2, f'{took:.3f} s from the kill to the interrupt in the other')
    check(not n.dead() and not n.suspect(), 'the other')
    a.wait_change()
    us = int(re.search('is dead.*told ([0-9]+) us after it was seen', d.wait_log('is dead'))[1])
    check(us < 2000000, f'{us} us from seeing to done')


@point('portald killed: QEMUs that were connected still share memory and doorbells')
def _(stack):
    d = Daemon(stack)
    a, b = Qemu(stack, d), Qemu(stack, d)
    a.enable(4)
    b.enable(4)
    d.kill()
    a.write(BAR2 + 64, 0x5555aaaa)
    equal(b.read(BAR2 + 64), 0x5555aaaa, 'region')
    a.ring(b.read(BAR0 + 8), 1)
    equal(wait_for(lambda: b.interrupts(4), 'an interrupt'), [1], 'doorbell')
    e = Daemon(stack, directory=d.dir)
    c = Qemu(stack, e)
    c.enable(4)
    equal(c.read(BAR2 + 64), 0, 'the new region')


point.run()
