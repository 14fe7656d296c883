#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Two guests under a real KVM: ioeventfd and irqfd at work.

L0 is QEMU's TCG with an emulated AMD-V, L1 a stock Debian kernel with kvm_amd
and our portald, L2 two guests with our modules. Under TCG alone QEMU handles
each doorbell itself; under KVM the kernel takes the store (ioeventfd) and
injects the interrupt (irqfd), and QEMU must not be woken. L1's KVM counts and
traces what happened; a ring to nobody, which QEMU does handle, shows that the
counters count.

About 40 seconds; both levels run the same kernel.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import build, guest, kernels, nested, portal, qemu  # noqa: E402
from lab.cache import say  # noqa: E402
from lab.tap import Tap  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
KERNEL = '6.1'
REGION = 16 << 20
RINGS = 2000
NOBODY = 60000          # a peer id that portald has not given to anyone
VECTOR = 2
LOAD = ('for d in /sys/bus/pci/devices/*; do '
        '[ "$(cat $d/vendor $d/device)" = "0x1af4\n0x1110" ] && '
        'modprobe "$(cat $d/modalias)"; done; test -c /dev/portal0')
EVENTS = ['kvm/kvm_userspace_exit', 'kvm/kvm_msi_set_irq']
# Exits to QEMU, and wake-ups of its main loop, that timers and the console
# cause while RINGS doorbells are rung.
NOISE = RINGS // 5


def initrds(k, user):
    """L2's and L1's file systems."""
    fs = nested.l2_initramfs(k)
    fs.modules(build.modules(k))
    fs.copy(portal.portalctl_static(), '/bin/portalctl', 0o755)
    fs.copy(build.program(os.path.join(HERE, 'peer.c')), '/bin/peer', 0o755)
    fs.copy(portal.guard_program(), '/bin/guard', 0o755)
    fs.copy(k.image, '/root/file', 0o644)
    l2 = os.path.join(qemu.workdir(), 'l2')
    fs.write(l2)
    fs = nested.l1_initramfs(k, {'l2': (k, l2)})
    fs.program(os.path.join(user, 'bin/portald'), '/bin/portald')
    l1 = os.path.join(qemu.workdir(), 'l1')
    fs.write(l1)
    return l1


def start_portald(l1):
    job = l1.start('mkdir -p /run/vmportal && exec portald --name n --size %d '
                   '--vectors 4 --socket-dir /run/vmportal' % REGION)
    l1.run('i=0; while [ ! -S /run/vmportal/n.ivshmem ] && [ $i -lt 1200 ]; '
           'do i=$((i+1)); usleep 100000; done; test -S /run/vmportal/n.ivshmem')
    return job


def start_l2(l1, name):
    return nested.L2(l1, name, '-chardev socket,id=iv,path=/run/vmportal/'
                     'n.ivshmem -device ivshmem-doorbell,chardev=iv,vectors=4')


class Counts:
    """What KVM and QEMU did for both guests while the block ran."""

    def __init__(self, guests):
        self.guests = guests

    def _now(self):
        return {g.name: (g.stat('mmio_exits'), g.main_loop_wakeups())
                for g in self.guests}

    def __enter__(self):
        self.before = self._now()
        return self

    def __exit__(self, *unused):
        after = self._now()
        self.mmio = {n: after[n][0] - self.before[n][0] for n in after}
        self.wakeups = {n: after[n][1] - self.before[n][1] for n in after}
        return False

    def __str__(self):
        return ', '.join('%s: %d MMIO exits to QEMU, %d wake-ups of its main '
                         'loop' % (n, self.mmio[n], self.wakeups[n])
                         for n in self.mmio)


def both(a, b, script_a, script_b, timeout=90):
    jobs = [a.start(script_a), b.start(script_b)]
    status = [j.wait(timeout) for j in jobs]
    return status, [j.text() for j in jobs]


def check_counters(t, a, b):
    """A ring to nobody has no ioeventfd: QEMU must see each one."""
    with Counts([a, b]) as c:
        a.run('peer ring %d 0 %d' % (NOBODY, RINGS))
    t.ok(RINGS <= c.mmio['a'] <= RINGS + NOISE,
         'control: %d rings to nobody are %d exits to QEMU' % (
             RINGS, c.mmio['a']), c)


def check_doorbells(t, l1, a, b, how):
    """how: by the ioctl, or by a store from user space to the doorbell page."""
    ids = [g.run('peer id') for g in (a, b)]
    took = [portal.interrupts(g) for g in (a, b)]
    with Counts([a, b]) as c, nested.Trace(l1, EVENTS) as trace:
        status, text = both(a, b, *(
            'peer bounce %d %s %d %d %s' % (side, ids[1 - side], VECTOR, RINGS,
                                            how) for side in (0, 1)))
    took = [portal.interrupts(g) - n for g, n in zip((a, b), took)]
    seen = [int(s.split('seen ')[1]) if 'seen ' in s else None for s in text]
    t.diag(c)
    t.ok(all(n is not None and n >= RINGS for n in seen), 'by %s: each of %d '
         'acknowledged rings each way arrives' % (how, RINGS),
         '%s\n%s' % (status, '\n'.join(text)))
    # An interrupt that is being injected while L1 leaves its guest may be
    # injected again: a KVM that itself is emulated does so once in a while.
    # The driver's part is exact: one event for each interrupt.
    t.equal(seen, took, 'each interrupt is one event')
    t.ok(all(RINGS <= n <= RINGS + 4 for n in took),
         'and %d interrupts each way' % RINGS, took)
    t.ok(max(c.mmio.values()) < NOISE, 'ioeventfd: the stores do not exit to '
         'QEMU (%s for %d rings each)' % (sorted(c.mmio.values()), RINGS), c)
    t.ok(max(c.wakeups.values()) < NOISE, 'irqfd: the interrupts do not wake '
         'QEMU (%s)' % sorted(c.wakeups.values()), c)
    check_trace(t, trace.found, {a.vcpu: 'a', b.vcpu: 'b'})


def check_trace(t, found, vcpus):
    """Who put the interrupts in, and who left for user space, by thread."""
    injected, mmio = {}, 0
    for comm, pid, event, text in found:
        if event == 'kvm_msi_set_irq':
            who = 'a vCPU' if pid in vcpus else comm
            injected[who] = injected.get(who, 0) + 1
        elif 'MMIO' in text:
            mmio += 1
    t.diag('interrupts injected by %s; %d exits for MMIO' % (injected, mmio))
    kernel = sum(n for who, n in injected.items() if
                 who == 'a vCPU' or who.startswith('kworker'))
    t.ok(kernel >= 2 * RINGS, "irqfd: the ringing guest's own CPU thread, or "
         'a kernel worker, injects them', injected)
    t.ok(mmio < 2 * NOISE, 'ioeventfd: the trace agrees', mmio)


def check_file(t, source, sink):
    """A stream sleeps and rings as it likes: still nothing goes to QEMU."""
    took = [portal.interrupts(g) for g in (source, sink)]
    with Counts([source, sink]) as c:
        recv = sink.start('portalctl recv -q -t 60 /dev/portal0 /tmp/got')
        send = source.start('portalctl send -q -t 60 /dev/portal0 /root/file')
        status = [send.wait(120), recv.wait(120)]
    took = [portal.interrupts(g) - n for g, n in zip((source, sink), took)]
    sums = [g.call('sha256sum ' + f)[1].split(' ')[0] for g, f in
            ((source, '/root/file'), (sink, '/tmp/got'))]
    t.ok(status == [0, 0] and sums[0] == sums[1] and len(sums[0]) == 64,
         'a file of %s bytes arrives unchanged' % source.run(
             'stat -c %s /root/file'),
         '%s\n%s\n%s\n%s' % (status, sums, send.text(), recv.text()))
    t.ok(sum(took) > 0 and max(c.mmio.values()) < NOISE,
         'its doorbells (%d interrupts) do not go by QEMU either' % sum(took),
         '%s\n%s' % (took, c))


def finish(t, g):
    status, text = g.call('rmmod portal_ivshmem && rmmod portal')
    t.ok(status == 0, '%s: modules unload' % g.name, text)
    # Each byte of L2's serial port costs a millisecond: not the whole log.
    bad = guest.bad_lines(g.run("dmesg | grep -iE '%s' || :" %
                               guest.BAD_LOG.pattern))
    t.ok(not bad, '%s: the kernel log holds no complaint' % g.name,
         '\n'.join(bad))
    t.equal(g.power_off(), 0, '%s: powers off when told' % g.name)


def main():
    with Tap() as t:
        k = kernels.find(KERNEL)
        user = portal.userspace()
        initrd = initrds(k, user)
        say('starting L1')
        with nested.start_l1(k, initrd) as l1:
            server = start_portald(l1)
            a, b = start_l2(l1, 'a'), start_l2(l1, 'b')
            for g in (a, b):
                g.wait_boot()
                status, text = g.call(LOAD)
                t.ok(status == 0, '%s: the alias loads the module, '
                     '/dev/portal0 appears' % g.name, text)
            portal.guard(t, [a, b], size=REGION)
            say('counting exits')
            check_counters(t, a, b)
            for how in ('ioctl', 'page'):
                check_doorbells(t, l1, a, b, how)
            say('sending a file')
            check_file(t, a, b)
            say('switching all off')
            for g in (a, b):
                finish(t, g)
            server.kill(15)
            t.equal(server.wait(20), 0, 'portald ends when told')
            l1.finish(t)


main()
