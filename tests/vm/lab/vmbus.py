# SPDX-License-Identifier: MIT
"""A VMBus host without Hyper-V: guests whose hv_vmbus is the stock one.

L1 (lab.nested) runs QEMU with KVM's Hyper-V enlightenments and vmbus-bridge;
tests/vm/vsp, preloaded, adds the device type portal-vsp to it. L2 is an
ordinary Guest:

    with vmbus.start_l1({'a': (k, initrd)}) as l1, \\
            vmbus.VmbusGuest(l1, 'a', channels=3) as g:
        g.run('modprobe portal_vmbus')
        l1.run('portalctl info unix:' + g.socket)
        g.vsp('rescind')            # a command for the VSP
        g.finish(t)
        l1.finish(t)

L2's control channel is a virtio port all the way: a serial port's byte costs a
guest under nested KVM a millisecond.
"""
import os
import re
import subprocess

from . import build, kernels, nested, qemu, vsp
from .cache import LabError
from .guest import CMDLINE, Guest
from .initramfs import Initramfs

# L1 needs kvm_amd and udmabuf, whatever L2 runs.
L1_KERNEL = '6.12'
# hv-stimer makes timers go wrong on a debug kernel. Without kvm=off Linux takes
# KVM's signature for its hypervisor, and hv_vmbus finds none of its own.
CPU = ('host,kvm=off,hv-relaxed,hv-vapic,hv-time,hv-vpindex,hv-runtime,'
       'hv-synic,hv-frequencies,hv-spinlocks=0x1fff')
PORT = '/dev/vport0p1'
# What L2's QEMU may say: the VSP's own log, and warnings about CPUs.
QUIET = re.compile('^portal-vsp: |: warning: ')
MODULES = ['virtio_pci', 'virtio_console', 'hv_vmbus']
# Before the agent opens its port; hv_vmbus is loaded by what depends on it.
L2_START = '''#!/bin/sh
for m in virtio_pci virtio_console hv_vmbus; do modprobe -q $m; done
exit 0
'''
# Regions up to a gigabyte, in pieces down to 64 KiB.
UDMABUF = ('cd /sys/module/udmabuf/parameters && echo 1024 >size_limit_mb && '
           'echo 16384 >list_limit')


def initramfs(kernel, names=(), own=True):
    """What an L2 boots from: our modules (unless not own), others by name, and
    what these and the port need."""
    fs = Initramfs(kernel)
    fs.modules(build.modules(kernel) if own else (),
               names=MODULES + list(names))
    fs.file('/init.d/start', L2_START, 0o755)
    return fs


def start_l1(guests, extra=(), memory='2G'):
    """The Guest that is L1. guests: {name: (kernel, initrd)}, what L2s there
    may be. extra: (source, path) of more static programs."""
    k = kernels.find(L1_KERNEL)
    fs = nested.l1_initramfs(k, guests)
    built = vsp.build()
    fs.program(os.path.join(built, 'portal-vsp.so'), '/lib/portal-vsp.so')
    fs.copy(os.path.join(built, 'vspctl'), '/bin/vspctl', 0o755)
    for source, to in extra:
        fs.copy(source, to, 0o755)
    initrd = os.path.join(qemu.workdir(), 'l1-%d' % len(
        os.listdir(qemu.workdir())))
    fs.write(initrd)
    path = initrd + '.port'
    listener = qemu.listener(path)
    l1 = nested.start_l1(k, initrd, memory, [
        '-device', 'virtio-serial-pci',
        '-chardev', 'socket,id=l2,path=' + path,
        '-device', 'virtserialport,chardev=l2,nr=1,name=l2'])
    try:
        listener.settimeout(10)
        l1.port, _ = listener.accept()
        listener.close()
        l1.kernels = {name: of[0] for name, of in guests.items()}
        l1.run('test -c %s && %s' % (PORT, UDMABUF))
    except BaseException:
        l1.kill()
        raise
    return l1


class _Process:
    """A job of L1, seen as the Popen that a Guest expects."""

    def __init__(self, job):
        self.job = job

    @property
    def returncode(self):
        return self.job.status

    def poll(self):
        if self.job.status is None:
            try:
                self.job.guest.alive()      # takes in what L1 has to say
            except (LabError, OSError):
                self.job.status = -1        # gone, and L2 with it
        return self.job.status

    def wait(self, timeout=20):
        try:
            return self.job.wait(timeout)
        except LabError:
            raise subprocess.TimeoutExpired('L2', timeout)

    def kill(self):
        self.job.kill()


class VmbusGuest(Guest):
    """A guest of L1 with a portal-vsp device; one at a time in an L1.

    vsp: more of the device's properties. socket: where host processes (in L1)
    open the other end; control: where vspctl speaks to the VSP. reboots: its
    QEMU outlives its end, so that reset() is possible. ram: more of its memory's
    properties."""

    def __init__(self, l1, name, channels=1, vcpus=1, memory=512, vsp='',
                 cmdline='', more='', reboots=False, ram='', **kw):
        self.l1 = l1
        self.socket = '/run/%s.sock' % name
        self.control = '/run/%s.ctl' % name
        self.devices = ('-device vmbus-bridge -device portal-vsp,id=vsp,'
                        'channels=%d,socket=%s,control=%s%s %s' % (
                            channels, self.socket, self.control,
                            vsp and ',' + vsp, more))
        self.vcpus = vcpus
        self.ram = ram and ',' + ram
        self.reboots = reboots
        self.ended = False
        self.allow = None       # a pattern of what its QEMU may say besides
        kernel = l1.kernels[name]
        kw.setdefault('slow', getattr(kernel, 'slow', 1))
        super().__init__(name, kernel, None, memory=memory, cmdline=cmdline,
                         **kw)

    def _start(self, base, initrd, devices, memory, cmdline, *unused):
        """As Guest's, in L1."""
        self.restart = (base, initrd, devices, memory, cmdline)
        port = self.kernel.config('VIRTIO_CONSOLE')
        self.console = '/tmp/%s.console' % self.name
        self.errors = os.devnull
        append = ['console=ttyS0 quiet', 'vmportal.control=' + (
            'vport0p1' if port else 'ttyS1'), CMDLINE, cmdline]
        self._drain()
        script = (
            'exec env LD_PRELOAD=/lib/portal-vsp.so qemu-system-x86_64 '
            '-L /firmware -name {n} -accel kvm -cpu {cpu} -smp {smp} '
            '-machine pc,hpet=off,memory-backend=ram -m {m} '
            '-object memory-backend-memfd,id=ram,size={m}M,share=on{ram} '
            '-nodefaults -no-user-config -display none {end} '
            '-kernel /l2/{n}/vmlinuz -initrd /l2/{n}/initrd '
            '-append "{append}" -serial file:{log} '
            '-chardev pipe,id=ctl,path={port} {ctl} {devices}').format(
                n=self.name, cpu=CPU, smp=self.vcpus, m=memory, port=PORT, ram=self.ram,
                append=' '.join(filter(None, append)), log=self.console,
                ctl='-device virtio-serial-pci -device virtserialport,'
                'chardev=ctl,nr=1' if port else '-serial chardev:ctl',
                devices=self.devices, end='' if self.reboots else '-no-reboot')
        self.job = self.l1.start(script)
        self.process = _Process(self.job)
        self.sock = self.l1.port

    def _idle(self, what):
        """L2's end is not the end of the port: that is L1's."""
        if self.process.poll() is None:
            return
        if self.ended:
            raise self._lost('the guest died while waiting for ' + what)
        self.ended = True       # its last words may be on their way

    def _drain(self):
        """Forget what an earlier L2 left in the port."""
        self.l1.port.settimeout(0.05)
        try:
            while self.l1.port.recv(65536):
                pass
        except OSError:
            pass

    def vsp(self, command, timeout=30):
        """Give the VSP a command; its answer."""
        return self.l1.run('vspctl %s %s' % (self.control, command), timeout)

    def reset(self, boot_timeout=120):
        """As if its power had failed: it boots again, in the same QEMU."""
        self.jobs = {}
        self.hello = None
        self._buffer = b''
        self.vsp('reset')
        self._pump(lambda: self.hello, boot_timeout, 'boot')

    def boot_again(self, boot_timeout=120):
        """It has powered itself off, and its QEMU has ended: another QEMU. Returns the
        jobs of before, for wake_up()."""
        self.process.wait(60 * self.slow)
        jobs = self.jobs
        self.jobs = {}
        self.hello = None
        self._buffer = b''
        self.ended = False
        self._start(*self.restart)
        self._pump(lambda: self.hello, boot_timeout, 'boot')
        return jobs

    def wake_up(self, resume, jobs):
        """The script makes this machine the one of before, with its jobs."""
        self.start(resume)      # its end is never heard of
        self.jobs.update(jobs)

    def log(self):
        try:
            text = self.l1.call('tail -c 4000 ' + self.console)[1]
        except (LabError, OSError) as e:
            text = 'L1 does not answer: %s\n' % e
        return text + '\n-- QEMU in L1: ' + self.job.text()[-1500:]

    def finish(self, t, unload=('portal_vmbus', 'portal_vmbus_line', 'portal'), timeout=60):
        super().finish(t, unload, timeout)
        bad = [line for line in self.job.text().splitlines()
               if not QUIET.search(line) and
               not (self.allow and re.search(self.allow, line))]
        t.ok(not bad, self.name + ': its QEMU has no complaint',
             '\n'.join(bad))
