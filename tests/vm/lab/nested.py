# SPDX-License-Identifier: MIT
"""A machine with a KVM that is real, on one that has none, and guests in it.

L1 is a Guest under TCG with an emulated AMD-V, its file system holding QEMU;
L2 a guest that L1's kernel runs by KVM. L1 has one CPU: TCG's nested paging
is reliable so, and it makes no difference to what KVM does with ioeventfd and
irqfd.
"""
import os
import re

from . import qemu
from .cache import LabError, say
from .guest import Guest
from .initramfs import Initramfs

# SeaBIOS, and what lets it boot -kernel.
FIRMWARE = ['bios-256k.bin', 'kvmvapic.bin', 'linuxboot_dma.bin']

L1_ACCEL = ['-accel', 'tcg,thread=multi', '-cpu', 'EPYC,+svm,+npt', '-smp', '1']

# L2's second serial port is a shell, and its QEMU's standard input and output.
L2_INIT = '''#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
stty -F /dev/ttyS1 raw -echo
# By a pipe: on a terminal the shell would prompt and edit lines. Not by cat,
# which waits for a whole buffer.
exec </dev/ttyS1 >/dev/ttyS1 2>&1
echo "~ready~"
exec setsid sh -c 'dd bs=4096 2>/dev/null | sh'
'''


def l2_initramfs(kernel):
    fs = Initramfs(kernel)
    fs.file('/init', L2_INIT, 0o755)
    return fs


def l1_initramfs(kernel, guests):
    """L1's file system: KVM's modules, QEMU, and for each L2 of guests, {name:
    (kernel, initrd)}, what it boots from, in /l2/NAME."""
    fs = Initramfs(kernel)
    fs.modules(names=['kvm-amd', 'virtio_pci', 'virtio_console'])
    binary, extra = qemu.find('amd64')
    fs.program(binary, '/bin/qemu-system-x86_64')
    places = extra[1::2] or ['/usr/share/qemu', '/usr/share/seabios']
    for name in FIRMWARE:
        found = [os.path.join(p, name) for p in places
                 if os.path.exists(os.path.join(p, name))]
        if not found:
            raise LabError('%s is not in %s; run tests/deps/install' % (
                name, ' '.join(places)))
        fs.copy(os.path.realpath(found[0]), '/firmware/' + name, 0o644)
    for l2, (l2_kernel, l2_initrd) in guests.items():
        fs.copy(l2_kernel.image, '/l2/%s/vmlinuz' % l2, 0o644)
        fs.copy(l2_initrd, '/l2/%s/initrd' % l2, 0o644)
    return fs


def start_l1(kernel, initrd, memory='1536M', devices=()):
    """The Guest that is L1, with a working /dev/kvm."""
    l1 = Guest('l1', kernel, initrd, devices, memory=memory, accel=L1_ACCEL)
    try:
        l1.run('modprobe kvm-amd && test -w /dev/kvm')
    except BaseException:
        l1.kill()
        raise
    return l1


class L2:
    """A guest of L1; what it is told runs in its shell, one at a time."""

    def __init__(self, l1, name, devices, memory=192):
        self.l1 = l1
        self.name = name
        self.count = 0
        self.log_path = '/tmp/%s.console' % name
        # debug-threads names the threads, which L1's trace then shows.
        self.job = l1.start(
            'exec qemu-system-x86_64 -L /firmware -name {n},debug-threads=on '
            '-accel kvm -cpu host -machine pc,hpet=off -m {m} -smp 1 '
            '-nodefaults -no-user-config -display none -no-reboot '
            '-kernel /l2/l2/vmlinuz -initrd /l2/l2/initrd -append "console=ttyS0 '
            'quiet panic=-1 panic_on_warn=1 mitigations=off" '
            '-serial file:{log} -chardev stdio,id=ctl,signal=off '
            '-serial chardev:ctl {d}'.format(n=name, m=memory, d=devices,
                                             log=self.log_path))

    def wait_boot(self, timeout=120):
        self.job.expect('~ready~', timeout)
        say('%s is up, under KVM' % self.name)
        text = self.l1.run("pidof qemu-system-x86_64").split()
        for pid in text:
            words = self.l1.run('tr "\\0" " " </proc/%s/cmdline' % pid)
            if '-name %s,' % self.name in words:
                self.pid = int(pid)
        self.vcpu = int(self.l1.run(
            "grep -l 'CPU 0/KVM' /proc/%d/task/*/comm" % self.pid
        ).split('/')[4])

    def start(self, script):
        """Begin a command: a job as a Guest's, one at a time."""
        self.count += 1
        self.job.send('( %s\n) </dev/null 2>&1; echo "~%d $?~"\n' % (
            script, self.count))
        return L2Job(self, self.count, script)

    def call(self, script, timeout=60):
        job = self.start(script)
        return job.wait(timeout), job.text()

    def run(self, script, timeout=60):
        status, text = self.call(script, timeout)
        if status:
            raise LabError('%s: "%s" failed (%d):\n%s\n-- console:\n%s' % (
                self.name, script[:300], status, text[-2000:], self.log()))
        return text

    def log(self):
        return self.l1.call('tail -c 2000 ' + self.log_path)[1]

    def stat(self, name):
        """One of KVM's own counters for this machine."""
        return int(self.l1.run('cat /sys/kernel/debug/kvm/%d-*/%s' % (
            self.pid, name)))

    def main_loop_wakeups(self):
        """How often QEMU's main thread went to sleep so far: each event that
        it must handle wakes it."""
        text = self.l1.run('cat /proc/%d/status' % self.pid)
        return int(re.search(r'(?m)^voluntary_ctxt_switches:\s*(\d+)',
                             text).group(1))

    def power_off(self, timeout=30):
        """Its QEMU's exit code."""
        self.job.send('poweroff -f\n')
        return self.job.wait(timeout)


class L2Job:
    def __init__(self, guest, number, script):
        self.guest = guest
        self.number = number
        self.output = ''

    def wait(self, timeout=60):
        """The exit code; the output is in .text()."""
        m = self.guest.job.expect(r'(?s)(.*?)~%d (\d+)~' % self.number,
                                  timeout)
        self.output = m.group(1).decode(errors='replace').strip()
        return int(m.group(2))

    def text(self):
        return self.output


class Trace:
    """Events of L1's kernel while the block runs, as (comm, pid, event, text);
    QEMU's thread names are the comms."""

    def __init__(self, l1, events):
        self.l1 = l1
        self.events = events
        self.found = []

    def _tracing(self, commands):
        return self.l1.run('cd /sys/kernel/tracing && ' + commands)

    def __enter__(self):
        # A clone keeps its parent's name until it is given its own.
        self._tracing('echo 0 >tracing_on; echo 16384 >buffer_size_kb; '
                      'echo >trace; ' + ''.join(
                          'echo 1 >events/%s/enable; ' % e
                          for e in self.events) + 'echo 1 >tracing_on')
        return self

    def __exit__(self, *unused):
        text = self._tracing('echo 0 >tracing_on; ' + ''.join(
            'echo 0 >events/%s/enable; ' % e for e in self.events) +
            'grep -v "^#" trace; echo >trace')
        line = re.compile(r'^\s*(.*)-(\d+)\s+\[\d+\]\s+\S+\s+[\d.]+: '
                          r'(\w+): (.*)$')
        for row in text.splitlines():
            m = line.match(row)
            if m:
                self.found.append((m.group(1), int(m.group(2)), m.group(3),
                                   m.group(4)))
        return False
