#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portal-vsp against a guest that says what it likes.

The guest is no portal_vmbus: uio_hv_generic gives a process the primary
channel's rings, and that process sends right and wrong messages, packets that
name other memory, and broken indices. The host must answer each wrong one by
REFUSE or by nothing, and go on: afterwards a right handshake comes to LIVE.
What is in the rings when the device is rescinded is nobody's word. About 40 seconds.
"""
import json
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import build, hand, qemu, vmbus  # noqa: E402
from lab import kernels  # noqa: E402
from lab.tap import Tap  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
# Since 6.12 uio_hv_generic signals the host for a channel without monitor page (and
# oopses when there is a subchannel that nobody opened: one channel here).
KERNEL = '6.12'
CLASS = '888b0701-2231-4fd5-9e9e-d5d6d0788d82'
MAGIC = 0x54524f50
CONTROL = 0x4c4154524f504d56
INBAND, GPA_DIRECT, COMPLETION = 6, 9, 11
HELLO, WELCOME, REFUSE, MEMORY, READY, LIVE, BYE, BYE_ACK = range(1, 9)
REGION, PACKETS = 1, 2
ENOENT, EPROTO, EPROTONOSUPPORT = 2, 71, 93


def message(kind, body, magic=MAGIC, size=None):
    size = 8 + len(body) if size is None else size
    return struct.pack('<IHH', magic, kind, size) + body


def hello(low=1, high=1, features=PACKETS, size=0, vectors=1, reserved=0,
          **header):
    return message(HELLO, struct.pack('<IIQQII', low, high, features, size,
                                      vectors, reserved), **header)


def memory(first, pieces, reserved=0, count=None, **header):
    return message(MEMORY, struct.pack(
        '<QII', first, len(pieces) if count is None else count, reserved) +
        b''.join(struct.pack('<II', *p) for p in pieces), **header)


def ready(pages=0, pieces=0, channels=1):
    return message(READY, struct.pack('<QII', pages, pieces, channels))


PLAIN = bytes(8)


class Wire(hand.Hand):
    """The guest's process at the rings."""

    def put(self, payload, transaction=CONTROL, kind=INBAND, flags=0):
        self.must('send %d %d %d %s' % (kind, flags, transaction,
                                        payload.hex() or '-'))

    def take(self, ms=3000):
        """(type, transaction, payload) of the next packet, or None."""
        words = self.say('recv %d' % ms).split()
        if words[0] != 'ok':
            return None
        return int(words[1]), int(words[3]), bytes.fromhex(
            words[4] if len(words) > 4 else '')

    def answer_to(self, payload, ms=3000):
        """(message type, the rest) that the host answers with."""
        self.put(payload)
        got = self.take(ms)
        if got is None or got[1] != CONTROL:
            return None, got
        return struct.unpack_from('<H', got[2], 4)[0], got[2][8:]

    def refused(self, payload):
        """The errno of a REFUSE; anything else as it is."""
        kind, rest = self.answer_to(payload)
        if kind != REFUSE:
            return 'message %s' % kind
        return struct.unpack_from('<I', rest)[0]


class Host:
    def __init__(self, g):
        self.g = g

    def status(self):
        return json.loads(self.g.vsp('status'))


WRONG_HELLOS = [
    ('versions in the wrong order', dict(low=2, high=1), EPROTO),
    ('only newer versions', dict(low=2, high=9), EPROTONOSUPPORT),
    ('no vector', dict(vectors=0), EPROTO),
    ('65 vectors', dict(vectors=65), EPROTO),
    ('a region without the feature', dict(size=65536), EPROTO),
    ('the feature without a region', dict(features=REGION), EPROTO),
    ('a region of 4 KiB', dict(features=REGION, size=4096), EPROTO),
    ('a reserved field', dict(reserved=1), EPROTO),
    ('a wrong magic', dict(magic=MAGIC ^ 1), EPROTO),
]


def check_hello(t, w):
    for name, fields, error in WRONG_HELLOS:
        t.equal(w.refused(hello(**fields)), error, 'HELLO with %s is refused' %
                name)
    t.equal(w.refused(hello() + bytes(8)), EPROTO,
            'HELLO in a packet that is longer is refused')
    t.equal(w.refused(message(HELLO, bytes(16))), EPROTO,
            'a HELLO that is cut is refused')
    for kind in (0, WELCOME, LIVE, BYE_ACK, 99):
        t.equal(w.refused(message(kind, PLAIN)), EPROTO,
                'message %d, which no guest sends, is refused' % kind)
    t.equal(w.refused(b''), EPROTO, 'an empty control packet is refused')
    t.equal(w.refused(memory(0, [(1, 1)])), EPROTO,
            'MEMORY before HELLO is refused')
    t.equal(w.refused(ready()), EPROTO, 'READY before HELLO is refused')
    t.equal(w.answer_to(message(BYE, PLAIN))[0], BYE_ACK,
            'BYE with nothing to end is answered')


def greet(w, pages):
    return w.answer_to(hello(features=REGION | PACKETS, size=pages * 4096))[0]


def check_memory(t, g, w, gpadl, pages):
    """gpadl: one of this channel's, larger than a piece may be."""
    wrong = [
        ('a GPADL that is not there', memory(0, [(gpadl + 77, 16)]), ENOENT),
        ('the wrong number of pages', memory(0, [(gpadl, 16)]), EPROTO),
        ('a piece that is too large', memory(0, [(gpadl, pages)]), EPROTO),
        ('no pages', memory(0, [(gpadl, 0)]), EPROTO),
        ('a hole before it', memory(1, [(gpadl, 16)]), EPROTO),
        ('no pieces', memory(0, []), EPROTO),
        ('a count beyond the message', memory(0, [(gpadl, 16)], count=3),
         EPROTO),
        ('129 pieces', memory(0, [(gpadl, 1)] * 129), EPROTO),
        ('a count of 2^32 - 1', memory(0, [(gpadl, 1)], count=0xffffffff),
         EPROTO),
        ('a reserved field', memory(0, [(gpadl, 16)], reserved=1), EPROTO),
        ('READY instead', ready(), EPROTO),
        ('a second HELLO instead', hello(), EPROTO),
    ]
    for name, msg, error in wrong:
        t.equal(greet(w, 2048), WELCOME, 'HELLO is welcome')
        t.equal(w.refused(msg), error, 'MEMORY: %s is refused' % name)
        w.put(hello())
        w.put(message(BYE, PLAIN))
        t.equal(w.take(200), None, 'and nothing is believed any more')
        w = once_more(g, w)
    return w


def check_live(t, g, w, host):
    kind, rest = w.answer_to(hello(vectors=5, features=PACKETS | 1 << 40))
    version, channels, features, size, peer, peers = struct.unpack_from(
        '<IIQQII', rest)
    t.equal((kind, version, channels, features, size), (WELCOME, 1, 1, PACKETS,
                                                        0),
            'WELCOME grants what is there, and knows no feature 40')
    t.ok(peer < peers <= 65536, 'and an id of %d below %d' % (peer, peers))
    t.equal(w.refused(ready(channels=2)), EPROTO,
            'READY with channels that are not open is refused')
    w = once_more(g, w)
    t.equal(w.answer_to(hello())[0], WELCOME, 'a new HELLO on a channel that was opened '
            'again is welcome')
    t.equal(w.answer_to(ready())[0], LIVE, 'READY: LIVE')
    t.equal(host.status()['state'], 'live', 'the host says so, too')
    return w


def check_packets(t, w, host):
    for size in (0, 8, 1000, 2000):
        payload = bytes(i & 255 for i in range(size))
        w.put(payload, transaction=7)
        t.equal(w.take(), (INBAND, 7, payload),
                'a packet of %d bytes is echoed' % size)
    w.put(b'12345678', transaction=9, flags=1)
    t.equal(w.take(), (COMPLETION, 9, b'12345678'),
            'one that asks for a completion gets it, with its transaction id')
    # one range of one page: page 1 of the guest
    desc = struct.pack('<II', 0, 1) + struct.pack('<IIQ', 4096, 0, 1)
    w.must('desc %d %s %s' % (GPA_DIRECT, desc.hex(), b'stealing'.hex()))
    w.put(message(BYE, PLAIN))
    w.put(b'still me', transaction=3)
    t.equal(w.take(), (INBAND, 3, b'still me'), 'a packet that names guest '
            'pages, and a control message in LIVE, are not answered')
    c = host.status()['channels'][0]
    t.equal((c['gpa_direct'], c['foreign']), (1, 1), 'and are counted')


def check_rings(t, g, w, host):
    """Broken rings: the host leaves the channel alone, and goes on."""
    size = int(w.must('get send').split()[5])
    for name, order in (
            ('a write index beyond the ring', 'index send write %d' % (
                size + 8)),
            ('a length of zero', 'raw ' + struct.pack('<HHHHQQ', INBAND, 2, 0,
                                                      0, 1, 0).hex()),
            ('an offset beyond the length', 'raw ' + struct.pack(
                '<HHHHQQ', INBAND, 9, 2, 0, 1, 0).hex()),
            ('a length beyond what was written', 'raw ' + struct.pack(
                '<HHHHQQ', INBAND, 2, 900, 0, 1, 0).hex()),
            ('a type that nobody knows', 'raw ' + struct.pack(
                '<HHHHQQ', 0x1234, 2, 2, 0, 1, 0).hex())):
        w.must(order)
        w.must('signal')
        t.ok(host.status()['channels'][0]['broken'], name + ': the host '
             'leaves the ring alone', g.vsp('status'))
        w = reopen(g, w)
        t.equal(w.answer_to(hello())[0], WELCOME,
                'and greets the next session')
    return w


def check_rescind(t, g, w, host):
    """A process that has the rings cannot be the kernel when the session was ended by
    the host, and the guest does not know yet."""
    w = once_more(g, w)
    t.equal([w.answer_to(hello())[0], w.answer_to(ready())[0]], [WELCOME, LIVE],
            'once more LIVE')
    # It stays in the ring until somebody looks: after the rescind.
    g.vsp('service 0 deaf')
    w.put(hello())
    g.vsp('rescind')
    g.vsp('service 0 echo')
    qemu.wait_until(lambda: host.status()['channels'][0]['guest_sends']['read'] ==
                    host.status()['channels'][0]['guest_sends']['write'], 10 * g.slow,
                    'the host to look at the ring')
    s = host.status()
    t.equal((s['state'], s['channels'][0]['foreign']), ('ending', 1),
            'a HELLO that was in the ring when the device was rescinded begins nothing')
    # uio_hv_generic of a rescinded device does not close its channel any more.
    w.end()


def gpadl(g):
    """(handle, pages) of the GPADL that uio_hv_generic made for received data."""
    name, size = g.run('cd /sys/class/uio/uio0/maps; d=$(dirname $(grep -l '
                       '^recv: */name)); cat $d/name $d/size').split()
    return int(name.split(':')[1]), int(size, 0) // 4096


def once_more(g, w):
    """Close the channel and open it again: the kernel does for a file of the device."""
    w.end()
    return Wire(g, program='vmbushand /dev/uio0')


def reopen(g, w):
    """Close the channel and open it again: by binding the driver anew."""
    if w:
        w.end()
    g.run('cd /sys/bus/vmbus/drivers/uio_hv_generic; d=$(ls | grep -e "-.*-"); '
          'if [ "$d" ]; then echo $d >unbind; echo $d >bind; '
          'else echo %s >new_id; fi; '
          'i=0; while [ ! -c /dev/uio0 ] && [ $i -lt 50 ]; do i=$((i+1)); '
          'usleep 100000; done; test -c /dev/uio0' % CLASS)
    return Wire(g, program='vmbushand /dev/uio0')


def main():
    k = kernels.find(KERNEL)
    fs = vmbus.initramfs(k, names=['uio_hv_generic'], own=False)
    fs.copy(build.program(os.path.join(HERE, 'vmbushand.c')), '/bin/vmbushand',
            0o755)
    initrd = os.path.join(qemu.workdir(), 'l2')
    fs.write(initrd)
    with Tap() as t, vmbus.start_l1({'a': (k, initrd)}) as l1, \
            vmbus.VmbusGuest(l1, 'a') as g:
        host = Host(g)
        g.run('modprobe uio_hv_generic')
        w = reopen(g, None)
        check_hello(t, w)
        w = check_memory(t, g, w, *gpadl(g))
        w = reopen(g, w)
        w = check_live(t, g, w, host)
        check_packets(t, w, host)
        w = check_rings(t, g, w, host)
        check_rescind(t, g, w, host)
        # 0xd: RELID_RELEASED, which QEMU's bus does not know
        g.allow = r'malformed packet|unexpected msg type|unknown message type 0xd'
        g.finish(t)
        l1.finish(t)


main()
