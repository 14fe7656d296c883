#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""vmbus_packets.py [KERNEL | debug] [portal|uio] [VCPUS]: VMBus's packet rings through the library.

In a guest, against portal-vsp, that is QEMU's own ring code: 100,000 packets each way
of random sizes, rings full in both directions, each offset at which a packet can wrap,
completions both ways, a region's ring and packet rings at once; what was signalled is
printed. Then QEMU's hv-balloon, which is nobody's of ours, is driven up to an agreed
version. uio: the same rings by uio_hv_generic and a handshake of the program's own.
"""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import vmbuslab  # noqa: E402
from lab import qemu, suite, vmbus  # noqa: E402
from lab.tap import Tap  # noqa: E402

CLASS = '888b0701-2231-4fd5-9e9e-d5d6d0788d82'
BALLOON = '525074dc-8985-46e2-8057-a307dc18a502'
MANY = 100000
RING = 64 << 10         # small, so that it fills and wraps often


class Lab:
    """A guest, its VSP, and how its packet rings are opened."""

    def __init__(self, t, g, uio):
        self.t, self.g, self.uio = t, g, uio
        self.uri = 'uio:/dev/uio0' if uio else '/dev/portal0'

    def channel(self, v=0):
        return json.loads(self.g.vsp('status'))['channels'][v]

    def fresh(self):
        """A new session, and an echo. uio's channel must be closed and opened."""
        if self.uio:
            self.g.run('cd /sys/bus/vmbus/drivers/uio_hv_generic; d=$(ls | grep -e "-.*-"); '
                       'if [ "$d" ]; then echo $d >unbind; echo $d >bind; '
                       'else echo %s >new_id; fi; i=0; while [ ! -c /dev/uio0 ] && '
                       '[ $i -lt 50 ]; do i=$((i+1)); usleep 100000; done; '
                       'test -c /dev/uio0' % CLASS)
        self.service('echo')

    def service(self, what, v=0):
        self.g.vsp('service %d %s' % (v, what))

    def start(self, test, *args, v=0):
        uri = self.uri + ('#%d' % v if v else '')
        return self.g.start('packets "%s" %s' % (uri, ' '.join(map(str, (test,) + args))))

    def finish(self, job, name, timeout=200):
        status = job.wait(timeout)
        self.t.nested(job.text(), name, status)

    def run(self, test, *args, v=0, timeout=200):
        self.finish(self.start(test, *args, v=v), test + (' %d' % v if v else ''), timeout)


def both_ways(lab):
    """100,000 each way, through the echo; and by an end that polls."""
    t = lab.t
    # Who polls on one CPU takes it from the host's other half, the guest's kernel.
    for test, n in (('echo', MANY), ('polled', MANY // 10)):
        lab.fresh()
        before = lab.channel()
        lab.run(test, n)
        if lab.uio:
            continue        # its channel is closed with the file, and counts no more
        c = lab.channel()
        t.equal(c['echoed'] - before['echoed'], n, 'the host echoed %d' % n)
        t.ok(not c['broken'], 'and found no fault with the ring', c)
        signals = c['bells_in'] - before['bells_in'], c['bells_out'] - before['bells_out']
        t.diag('VSP: %d signals in, %d out since the start' % signals)


def wrap(lab):
    lab.fresh()
    lab.run('wrap')
    lab.t.ok(not lab.channel()['broken'], 'the host followed', lab.channel())


def until(lab, done, what):
    qemu.wait_until(done, 20 * lab.g.slow, what)


def full(lab):
    """Out: nobody reads, then somebody does. In: the guest comes late."""
    t = lab.t
    lab.fresh()
    lab.service('deaf')
    job = lab.start('full', 5000)
    job.expect('^full', 60)
    c = lab.channel()
    lab.service('sink')
    lab.finish(job, 'full')
    sent = int(job.text().split('\nsent ')[1].split()[0])
    until(lab, lambda: lab.channel()['packets'] == sent, 'the sink')
    c = lab.channel()
    t.equal((c['packets'], c['bad']), (sent, 0), 'the sink got all %d as they were' % sent)

    lab.fresh()
    lab.service('sink')
    lab.run('sink', MANY)
    until(lab, lambda: lab.channel()['packets'] >= MANY, 'the sink')
    c = lab.channel()
    t.equal((c['packets'], c['bad']), (MANY, 0), 'a sink got %d as they were' % MANY)

    lab.fresh()
    job = lab.start('source', MANY, 8, 2000, 7, 1500)
    job.expect('^ready', 30)
    lab.g.vsp('source 0 %d 8 2000 7' % MANY)
    until(lab, lambda: lab.channel()['guest_receives']['pending'], 'a full ring')
    t.ok(True, 'the host found no room, and asked for a signal')
    lab.finish(job, 'source')
    t.equal(lab.channel()['unsent'], 0, 'the host has sent all')


def completions(lab):
    t = lab.t
    lab.fresh()
    before = lab.channel()
    lab.run('completions', 20000)
    t.equal(lab.channel()['completions_asked'] - before['completions_asked'], 20000,
            'the host was asked for 20000')
    lab.fresh()
    before = lab.channel()
    job = lab.start('answer', 20000)
    job.expect('^ready', 30)
    lab.g.vsp('source 0 20000 8 200 1 comp')
    lab.finish(job, 'answer')
    until(lab, lambda: lab.channel()['completions'] - before['completions'] >= 20000,
          'completions')
    t.equal(lab.channel()['completions'] - before['completions'], 20000,
            'the host got 20000 completions')


def subchannels(lab, n):
    """All vectors' rings at once."""
    jobs = [lab.start('echo', MANY // 10, v=v) for v in range(n)]
    for v, job in enumerate(jobs):
        lab.finish(job, 'vector %d' % v)


def with_region(lab, l1):
    """The region's channel and the packet rings of the same vector, at once."""
    lab.fresh()
    echo = l1.start('portalctl ping --echo unix:' + lab.g.socket)
    ping = lab.g.start('portalctl ping --count 5000 /dev/portal0')
    lab.run('echo', MANY // 4)
    lab.t.equal(ping.wait(60), 0, 'a region ring and a packet ring at once')
    lab.t.diag(ping.text().strip())
    lab.t.equal(echo.wait(60), 0, 'and the host process saw the end')


def portalctl(lab):
    """The command needs no word about the transport."""
    t, g = lab.t, lab.g
    info = json.loads(g.run('portalctl info --json'))
    t.ok('packets' in info['caps'] and info['transport'] == 'vmbus',
         'portalctl info: packets', info)
    text = g.run('portalctl ping --packets --count 500')
    t.ok('500 round trips' in text, 'portalctl ping --packets', text)
    t.diag(text.strip())
    guid = info['identity'].replace('vmbus-', '')
    for words, ring in (('--ring 128K', 128 << 10), ('--ring 64K --region 2M', 64 << 10)):
        t.equal(g.run('portalctl bind %s %s' % (words, guid)).strip(), '/dev/portal0',
                'portalctl bind %s: the same portal' % words)
        text = g.run('packets /dev/portal0 echo 1000')
        t.ok('rings of %d and' % (ring - 4096) in text, 'with rings of that size', text)
    t.equal(json.loads(g.run('portalctl info --json'))['size'], 2 << 20, 'and that region')
    status, text = g.call('portalctl bind --ring 5000 %s 2>&1' % guid)
    t.ok(status == 1, 'a ring of 5000 bytes is refused', text)
    job = g.start('exec sleep 100 </dev/portal0')
    until(lab, lambda: not g.call('pidof sleep')[0], 'sleep')
    status, text = g.call('portalctl unbind %s 2>&1' % guid)
    t.ok(status == 5 and '(sleep)' in text, 'unbind refuses while a process has it', text)
    t.ok('no driver' in g.run('portalctl unbind --force /dev/portal0'), 'and is forced')
    job.kill()
    job.wait(20)
    t.equal(g.run('portalctl bind ' + guid.upper()).strip(), '/dev/portal0', 'and bound again')


def balloon(lab):
    """QEMU's hv-balloon, through whatever opened the other."""
    g = lab.g
    guid = g.run('cd /sys/bus/vmbus/devices; for d in *; do '
                 '! grep -qi %s $d/class_id || echo $d; done' % BALLOON).strip()
    if lab.uio:
        g.run('echo %s >/sys/bus/vmbus/drivers/uio_hv_generic/new_id; i=0; '
              'while [ ! -c /dev/uio1 ] && [ $i -lt 50 ]; do i=$((i+1)); '
              'usleep 100000; done' % BALLOON)
        uri = 'uio:/dev/uio1'
    else:
        uri = g.run('portalctl bind ' + guid).strip()
    status, text = g.call('balloon ' + uri)
    lab.t.nested(text, 'hv-balloon', status)
    if not lab.uio:
        g.run('portalctl unbind ' + uri)


def main():
    words = sys.argv[1:]
    k = suite.kernel('6.12')
    uio = 'uio' in words
    vcpus = 2 if '2' in words else 1
    n = 1 if uio else 4         # that is, three subchannels
    rd = vmbuslab.initrd(k, names=['uio_hv_generic'] if uio else (), own=not uio)
    with Tap() as t, vmbus.start_l1({'a': (k, rd)}, vmbuslab.on_the_host()) as l1, \
            vmbus.VmbusGuest(l1, 'a', channels=n, vcpus=vcpus,
                             more='-device hv-balloon,id=hb') as g:
        if uio:
            g.run('modprobe uio_hv_generic')
        else:
            g.run('modprobe portal_vmbus ring_size=%d region_size=%d' % (RING, 1 << 20))
        lab = Lab(t, g, uio)
        lab.fresh()
        both_ways(lab)
        wrap(lab)
        if not uio:
            full(lab)
            completions(lab)
            subchannels(lab, n)
            with_region(lab, l1)
            portalctl(lab)
        balloon(lab)
        g.finish(t, unload=['uio_hv_generic'] if uio else ('portal_vmbus', 'portal_vmbus_line', 'portal'))
        l1.finish(t)


main()
