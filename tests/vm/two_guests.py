#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""two_guests.py [KERNEL]: two guests and a process of the host on one region.

portald serves it. Locked adds by all three; rings counted at both ends; files in
both directions and to the host; a hundred peers that come and go meanwhile; and
portald killed in the middle of a stream: who was connected goes on.
"""
import os
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import qemu, portal, suite  # noqa: E402
from lab.cache import LabError  # noqa: E402
from lab.hand import Hand  # noqa: E402
from lab.tap import Tap  # noqa: E402

REGION = 16 << 20
VECTORS = 4
FILE = 3 << 20
REJOINS = 100
ALIAS = ('for d in /sys/bus/pci/devices/*; do case $(cat $d/vendor)$(cat '
         '$d/device) in 0x1af40x1110) modprobe $(cat $d/modalias);; esac; done; '
         'ls /dev/portal0')
# Beyond the channel that portalctl uses by default, and what the guard needs.
RINGS_AT = 12 << 20


def region_path(server):
    """portald's memfd, by its own descriptor."""
    base = '/proc/%d/fd' % server.process.pid
    for fd in os.listdir(base):
        link = os.readlink(os.path.join(base, fd))
        if link.startswith('/memfd:') and \
           os.stat(os.path.join(base, fd)).st_size == REGION:
            return os.path.join(base, fd)
    raise LabError('portald holds no memfd of %d bytes' % REGION)


def rings(t, a, b):
    jobs = [g.start('rings %d /dev/portal0 %d' % (side, RINGS_AT))
            for side, g in enumerate((a, b))]
    for g, j in zip((a, b), jobs):
        status = j.wait(240)
        t.nested(j.text(), '%s: rings' % g.name, status)


def digest(g, path):
    return g.run('sha256sum ' + path).split()[0]


def stream(t, a, b):
    """A file from guest to guest; afterwards back to the host's process."""
    recv = b.start('portalctl recv -q -t 240 /dev/portal0 /tmp/got')
    send = a.start('portalctl send -q -t 240 /dev/portal0 /tmp/file')
    status = [send.wait(120), recv.wait(120)]
    t.ok(status == [0, 0] and digest(a, '/tmp/file') == digest(b, '/tmp/got'),
         'a file goes from guest to guest unchanged',
         '%s %s %s' % (status, send.text(), recv.text()))


def stream_to_host(t, b, server):
    got = os.path.join(server.dir, 'got')
    recv = qemu.spawn([portal.portalctl_static(), 'recv', '-q', '-t',
                       '240', server.uri, got], stdout=subprocess.PIPE,
                      stderr=subprocess.STDOUT, text=True)
    send = b.start('portalctl send -q -t 240 /dev/portal0 /tmp/got')
    status = send.wait(120)
    said, _ = recv.communicate(timeout=240)
    sums = [digest(b, '/tmp/got')]
    if os.path.exists(got):
        sums.append(subprocess.run(['sha256sum', got], text=True,
                                   stdout=subprocess.PIPE).stdout.split()[0])
    t.ok(status == 0 and recv.returncode == 0 and sums[0] == sums[-1] and
         len(sums) == 2, 'and from the guest to a process of the host',
         '%s %s %s\n%s\n%s' % (status, recv.returncode, sums, send.text(), said))


def join(server):
    """As QEMU joins: version, then our id, then the region; (socket, id)."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(120)
    s.connect(server.guest_socket)
    values = []
    while len(values) < 3:
        data, fds, _, _ = socket.recv_fds(s, 8, 1)
        for fd in fds:
            os.close(fd)
        if len(data) != 8:
            raise LabError('portald hung up: %r after %r' % (data, values))
        values.append(struct.unpack('<q', data)[0])
    if values[0] != 0 or values[2] != -1:
        raise LabError('not the ivshmem protocol: %r' % values)
    return s, values[1]


def bounce(t, a, b, what, rounds=200):
    """Acknowledged rings between the guests, each exactly one event."""
    ha, hb = Hand(a, '/dev/portal0'), Hand(b, '/dev/portal0')
    ids = [h.info()['peer'] for h in (ha, hb)]
    ha.must('bind 1')
    hb.must('bind 1')
    # Told to wait first; the ring that begins is ours.
    hb.ask('echo 1 %s 1 %d' % (ids[0], rounds))
    ha.must('ring %s 1' % ids[1])
    ha.ask('echo 1 %s 1 %d' % (ids[1], rounds - 1))
    said = [hb.answer(120), ha.answer(120)]
    t.ok(said == ['ok %d' % rounds, 'ok %d' % (rounds - 1)],
         '%s: %d acknowledged rings are one event each' % (what, rounds), said)
    # Each left one more ring pending, at most, and nothing on other vectors.
    for h in (ha, hb):
        h.end()


def churn(t, a, b, server):
    ids, began = [], time.monotonic()
    for n in range(REJOINS):
        s, ident = join(server)
        ids.append(ident)
        s.close()
        if n % 25 == 12:
            bounce(t, a, b, 'after %d peers came and went' % (n + 1), 50)
    t.ok(len(ids) == REJOINS and all(x < y for x, y in zip(ids, ids[1:])),
         '%d peers join and leave; ids only grow' % REJOINS, ids)
    t.ok(a.alive() and b.alive() and time.monotonic() - began < 600,
         'both guests live on')


def kill_in_mid_stream(t, a, b, server):
    a.run('dd if=/dev/urandom of=/tmp/big bs=1M count=24 2>/dev/null', 120)
    recv = b.start('portalctl recv -q -t 240 /dev/portal0 /tmp/got')
    send = a.start('portalctl send -q -t 240 /dev/portal0 /tmp/big')
    b.run('i=0; while [ $i -lt 3000 ]; do i=$((i+1)); [ -s /tmp/got ] && exit 0; '
          'usleep 20000; done; exit 1')
    sending = a.alive() and send.status is None     # (the pong brings news)
    server.kill()
    status = [send.wait(180), recv.wait(180)]
    t.ok(sending, 'portald is killed in the middle of a stream')
    t.ok(status == [0, 0] and digest(a, '/tmp/big') == digest(b, '/tmp/got'),
         'the stream goes on without it and arrives unchanged',
         '%s %s %s' % (status, send.text(), recv.text()))
    bounce(t, a, b, 'without portald')
    p = subprocess.run([portal.portalctl_static(), 'info', server.uri],
                       text=True, stdin=subprocess.DEVNULL, timeout=240,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    t.ok(p.returncode != 0 and len(p.stdout.strip().splitlines()) == 1,
         'a newcomer is told in one line that nobody serves', p.stdout)


def main(t):
    k = suite.kernel()
    server = portal.Portald('%dM' % (REGION >> 20), vectors=VECTORS, name='two')
    rd = suite.initrd(k, programs=True, extra=[
        (portal.portalctl_static(), '/bin/portalctl')])
    with suite.guest('a', k, rd, server.doorbell(), memory='384M') as a, \
            suite.guest('b', k, rd, server.doorbell(), memory='384M') as b:
        for g in (a, b):
            t.ok(g.call(ALIAS)[0] == 0, '%s: the alias loads the module' % g.name)
        portal.guard(t, [a, b], size=REGION, path=region_path(server))
        a.run('dd if=/dev/urandom of=/tmp/file bs=64k count=%d 2>/dev/null' % (
            FILE >> 16))
        rings(t, a, b)
        stream(t, a, b)
        stream_to_host(t, b, server)
        churn(t, a, b, server)
        kill_in_mid_stream(t, a, b, server)
        a.finish(t)
        b.finish(t)


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
