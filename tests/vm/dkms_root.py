#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""DKMS as a user meets it: install into a Debian 12, boot that Debian.

`make dkms-install` runs in a root file system made by debootstrap; the result
becomes a disk image and is booted with its own kernel, initramfs and systemd,
and an ivshmem device that
portald serves. Nothing in it names our modules: udev must load them.
Then `dkms remove` in the running system, and `make dkms-uninstall` in the
root file system, must undo what was done. A second boot of the same image has
virtio-pmem devices, and the udev rule for them (pmem_udev.py).

Prints TAP; needs root (mount namespace, chroot). Two minutes, the first time
two more.
"""
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pmem_udev  # noqa: E402
from lab import build, debroot, guest, portal, qemu  # noqa: E402
from lab.cache import LabError, ROOT, run, say  # noqa: E402
from lab.tap import Tap  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = '/usr/local/src/vmportal'
ALIAS = 'pci:v00001AF4d00001110sv00001AF4sd00001100bc05sc00i00'

UNIT = '''\
[Unit]
Description=what this system made of the portal
After=systemd-udev-trigger.service systemd-udevd.service
DefaultDependencies=no
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/vmportal-report
TimeoutStartSec=140
IgnoreSIGPIPE=no
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
'''

# Each line a key and its value. "end" comes last, after everything else.
REPORT = r'''#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH LC_ALL=C
say() { echo "$*"; }
as() { user=$1; shift
	setpriv --reuid "$user" --regid "$user" --init-groups sh -c "$*" 2>&1; }
say boot "$(cut -d' ' -f1 /proc/uptime)"
i=0
while [ ! -e /dev/portal0 ] && [ $i -lt 1200 ]; do i=$((i+1)); sleep 0.1; done
udevadm settle -t 20
say node "$(stat -c '%F %a %U:%G' /dev/portal0 2>&1)"
say loaded $(sed 's/ .*//' /proc/modules | grep portal | sort)
say file "$(modinfo -F filename portal_ivshmem 2>&1)"
say driver "$(basename "$(readlink /sys/class/portal/portal0/device/driver)")"
say member "$(as member ': <>/dev/portal0 && echo may open')"
say stranger "$(as stranger ': <>/dev/portal0 && echo may open')"
say link "$(readlink -f /dev/portal/*)"
say pages "$(as member '/usr/local/bin/peer pages' | tr '\n' '|')"
say settled "$(cut -d' ' -f1 /proc/uptime)"
say remove "$(dkms remove vmportal/VERSION --all >/tmp/remove 2>&1; echo $?)"
sed 's/^/# dkms: /' /tmp/remove
say status "$(dkms status vmportal 2>&1)"
say left $(find /lib/modules -name 'portal*.ko*')
say resolves "$(modprobe -R ALIAS 2>/dev/null | grep portal)"
say unload "$(rmmod portal_ivshmem 2>&1 && rmmod portal 2>&1; echo $?)"
say node_after "$(stat -c %F /dev/portal0 2>&1)"
dmesg | sed 's/^/log /'
'''


def version():
    with open(os.path.join(ROOT, 'Makefile')) as f:
        return re.search(r'(?m)^VERSION *:?= *(\S+)', f.read()).group(1)


def built_by_kbuild():
    with open(os.path.join(ROOT, 'Kbuild')) as f:
        text = f.read().replace('\\\n', ' ')
    rows = re.findall(r'(?m)^obj-(?:m|\$\(\w+\)) *[:+]?= *(.*)$', text)
    return set(re.findall(r'(\w+)\.o\b', ' '.join(rows)))


def check_install(t, c):
    """make dkms-install, twice; what it left behind."""
    say('make dkms-install for ' + c.release)
    make = 'cd %s && make dkms-install KVER=%s' % (SOURCE, c.release)
    p = c.sh(make, check=False)
    if not t.ok(p.returncode == 0, 'make dkms-install succeeds on Debian 12 '
                'for ' + c.release, p.stdout[-4000:]):
        raise LabError('nothing to boot')
    p = c.sh('dkms status vmportal')
    t.ok(re.search(r'vmportal/%s, %s, x86_64: installed' % (
        re.escape(version()), re.escape(c.release)), p.stdout),
        'dkms status: installed', p.stdout)
    logs = c.sh('cat /var/lib/dkms/vmportal/%s/%s/x86_64/log/make.log' % (
        version(), c.release)).stdout
    bad = [line for line in logs.splitlines() if build.harmful(line)]
    t.ok(not bad, 'DKMS builds without a warning', '\n'.join(bad))
    installed = {f[:-3] for f in os.listdir(c.path(
        '/lib/modules/%s/updates/dkms' % c.release))}
    t.equal(installed, built_by_kbuild(), 'dkms.conf installs all that Kbuild '
            'builds')
    found = c.sh('modprobe -R -S %s %s' % (c.release, ALIAS),
                 check=False).stdout.split()
    # virtio_pci claims all of its vendor's devices, and declines ours.
    t.ok('portal_ivshmem' in found, "the device's alias resolves to "
         'portal_ivshmem', found)
    check_group(t, c, 'make dkms-install')
    # A package has no "make": its group comes from sysusers.d.
    c.sh('groupdel portal && systemd-sysusers')
    check_group(t, c, 'sysusers.d')
    p = c.sh(make, check=False)
    t.ok(p.returncode == 0, 'a second make dkms-install succeeds as well',
         p.stdout[-4000:])


def check_group(t, c, maker):
    group = c.sh('getent group portal', check=False).stdout
    gid = int(group.split(':')[2]) if group else -1
    t.ok(0 < gid < 1000, maker + ' makes the system group "portal"', group)


def named_by_hand(c):
    """Files that would load our modules without udev."""
    return c.sh('grep -rl portal /etc/modules /etc/modules-load.d '
                '/usr/lib/modules-load.d /etc/modprobe.d /lib/modprobe.d '
                '/etc/initramfs-tools 2>/dev/null', check=False).stdout


def prepare_boot(c):
    """Two users, and the unit that reports."""
    c.sh('useradd -G portal member; useradd stranger')
    c.report_by(pmem_udev.report(), UNIT)
    c.write('/usr/local/sbin/vmportal-dkms-report', REPORT.replace(
        'VERSION', version()).replace('ALIAS', ALIAS) + debroot.END, 0o755)
    pmem_udev.prepare(c)
    shutil.copy(build.program(os.path.join(HERE, 'peer.c')),
                c.path('/usr/local/bin/peer'))
    c.sh('ln -sf ../vmportal-report.service /etc/systemd/system/'
         'sysinit.target.wants/')


def check_report(t, r, log):
    t.equal(r.get('node'), 'character special file 660 root:portal',
            'udev loads the module by itself; /dev/portal0 is root:portal 0660')
    t.equal(r.get('loaded'), 'portal portal_ivshmem',
            'portal and portal_ivshmem are loaded, nothing else of ours')
    t.ok('/updates/dkms/' in r.get('file', ''),
         "the module is DKMS's", r.get('file'))
    t.equal(r.get('driver'), 'portal_ivshmem',
            'the portal hangs below its PCI device')
    t.equal(r.get('member'), 'may open', 'a member of group portal may open it')
    t.ok('ermission denied' in r.get('stranger', ''),
         'a user outside the group may not', r.get('stranger'))
    t.equal(r.get('link'), '/dev/portal0',
            'a link in /dev/portal names it by its place')
    t.ok('|1..' in r.get('pages', '') and 'not ok' not in r['pages'],
         'a member maps and uses the region', r.get('pages'))
    t.equal(r.get('remove'), '0', 'dkms remove succeeds in the running system')
    t.ok(r.get('status') == '' and r.get('left') == '' and
         r.get('resolves') == '', 'dkms remove leaves no module, no alias',
         repr({k: r.get(k) for k in ('status', 'left', 'resolves')}))
    t.equal(r.get('unload'), '0', 'the modules unload')
    t.ok('No such file' in r.get('node_after', ''), '/dev/portal0 goes with '
         'them', r.get('node_after'))
    bad = guest.bad_lines('\n'.join(log))
    t.ok(log and not bad, 'the kernel log holds no complaint', '\n'.join(bad))


def check_uninstall(t, c, before):
    """make dkms-uninstall leaves nothing but the group, as packages do."""
    p = c.sh('cd %s && make dkms-uninstall' % SOURCE, check=False)
    t.ok(p.returncode == 0, 'make dkms-uninstall succeeds', p.stdout[-4000:])
    ours = re.compile(r'portal|/usr/src/|/dkms/')
    left = sorted(f for f in c.changes() - before if ours.search(f) and
                  c.exists(f) and not f.startswith((SOURCE, '/etc/')) and
                  not re.search('vmportal-.*report|/local/bin/portalctl', f))
    t.ok(not left, 'make dkms-uninstall leaves no file behind',
         '\n'.join(left))


def main():
    try:
        debroot.private_mounts()
    except LabError as e:
        print('1..0 # SKIP %s' % e)
        return
    with Tap() as t:
        c = debroot.Copy(qemu.workdir())
        before = c.changes()
        source = os.path.join(qemu.workdir(), 'source')
        export(source)
        c.bind(source, SOURCE)
        check_install(t, c)
        t.equal(named_by_hand(c), '', 'no configuration names our modules')
        image = os.path.join(qemu.workdir(), 'root.img')
        prepare_boot(c)
        c.unbind(SOURCE)
        say('making the disk image')
        c.image(image)
        c.bind(source, SOURCE)
        say('booting it')
        server = portal.Portald('4M', vectors=4, name='dkms')
        report, log = c.boot(image, server.doorbell())
        server.stop()
        check_report(t, report, log)
        say('booting it once more, with virtio-pmem')
        report, log = c.boot(image, pmem_udev.disks(), '512M,slots=3,maxmem=16G',
                             pmem_udev.CMDLINE)
        pmem_udev.check(t, report, log)
        os.unlink(image)
        check_uninstall(t, c, before)


def export(where):
    """The source tree as a clone would have it, without build products."""
    p = run(['git', '-C', ROOT, 'ls-files', '-z', '--cached', '--others',
             '--exclude-standard'], check=False)
    if p.returncode:        # not a clone: a tarball has no build products
        shutil.copytree(ROOT, where)
        return
    for name in p.stdout.split('\0'):
        source = os.path.join(ROOT, name)
        if name and not name.startswith('tests/') and os.path.isfile(source):
            to = os.path.join(where, name)
            os.makedirs(os.path.dirname(to), exist_ok=True)
            shutil.copy2(source, to)


main()
