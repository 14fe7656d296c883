# SPDX-License-Identifier: MIT
"""A guest with portal_vmbus and its host: what the suites of regions and lives share."""
import json
import os
import time

from lab import build, hand, portal, qemu, suite, vmbus
from lab.cache import LabError

HERE = os.path.dirname(os.path.abspath(__file__))
DRIVER = '/sys/bus/vmbus/drivers/portal_vmbus'
INSTANCE = 'd2c5f6a0-7e1b-4a57-8b5e-00000000000%d'
# Seconds of patience with a host that answers: on a busy machine it may take some.
ANSWERS = 30


def libhand():
    """The static program, linked with this tree's library."""
    out = portal.userspace(['portalctl-static'])
    lib = os.path.join(out, 'lib', 'libvmportal.a')
    return build.program(os.path.join(HERE, 'libhand.c'), libs=[lib, '-lpthread'],
                         flags=['-I' + os.path.join(HERE, '../../userspace/include'),
                                # the library is part of what it is made of
                                '-DBUILT=%d' % os.stat(lib).st_mtime_ns])


def programs():
    out = portal.userspace(['portalctl-static'])
    return [(os.path.join(out, 'bin/portalctl.static'), '/bin/portalctl'),
            (libhand(), '/bin/libhand'), (portal.guard_program(), '/bin/guard')]


def initrd(k, names=(), extra=()):
    """Path of a file system for an L2 with our modules and programs, and extra
    static ones."""
    fs = vmbus.initramfs(k, names=names)
    for source, to in programs() + [(hand.program(), '/bin/hand')] + [
            (p, '/bin/' + os.path.basename(p)) for p in extra]:
        fs.copy(source, to, 0o755)
    path = os.path.join(qemu.workdir(), 'l2-' + k.release)
    fs.write(path)
    return path


def start_l1(names=(), memory='2G', extra=()):
    """L1, and in it the file system of L2, named a, with the kernel that the
    command line names."""
    k = suite.kernel()
    return vmbus.start_l1({'a': (k, initrd(k, names, extra))}, programs(), memory)


def guest(l1, **kw):
    kw.setdefault('vsp', '')
    kw['vsp'] = ','.join(filter(None, ['instanceid=' + INSTANCE % 1, kw['vsp']]))
    return vmbus.VmbusGuest(l1, 'a', **kw)


def silent(g):
    """Seconds of patience where the host does not answer, and that is waited for. They
    are real ones, and what it does answer it has to answer in them."""
    return 4 * g.slow


def patience(g, seconds=ANSWERS):
    """How long the driver waits from now on; for channels and GPADLs, from the next bind."""
    g.run('echo %d >/sys/module/portal_vmbus/parameters/timeout' % seconds)


def load(g, region=None, ring=None, timeout=ANSWERS):
    """Load the module; True if there is a /dev/portal0 then."""
    words = ['%s=%s' % (name, value) for name, value in (
        ('region_size', region), ('ring_size', ring), ('timeout', timeout))
        if value]
    g.run('modprobe portal_vmbus ' + ' '.join(words), 120)
    return g.call('test -c /dev/portal0')[0] == 0


def status(g):
    """What the VSP says of itself."""
    return json.loads(g.vsp('status'))


def wait_status(g, timeout=60, **wanted):
    """Wait until the VSP's status has these members."""
    end = time.monotonic() + timeout * g.slow * qemu.PATIENCE
    while True:
        s = status(g)
        if all(s[k] == v for k, v in wanted.items()):
            return s
        if time.monotonic() > end:
            raise LabError('the VSP did not come to %s in %d s: %s' % (
                wanted, timeout, s))
        time.sleep(0.2)


def wait_run(g, script, timeout=60):
    """Wait until a command of the guest succeeds."""
    end = time.monotonic() + timeout * g.slow * qemu.PATIENCE
    while True:
        code, text = g.call(script)
        if not code:
            return text
        if time.monotonic() > end:
            raise LabError('%s: "%s" does not come true in %d s: %s' % (
                g.name, script, timeout, text))
        time.sleep(0.2)


def wait_asked(g):
    """Wait until the driver waits for its worker, which waits for the host."""
    wait_run(g, 'grep -qs " vbl_work+" /proc/[0-9]*/stack')


def wait_channels(g, device, n):
    """
    Wait until the bus shows so many channels of a device. It may come to a subchannel
    before it has made the directory for them: then its own is right in /sys.
    """
    wait_run(g, 'test $(ls -d /sys/bus/vmbus/devices/%s/channels/* /sys/[0-9]* '
             '2>/dev/null | wc -l) = %d' % (device, n))


def client(g, must=True):
    """A hand of the host at the guest's socket."""
    h = hand.Hand(g.l1, program='libhand')
    if must:
        h.must('open unix:' + g.socket)
    return h
