# SPDX-License-Identifier: MIT
"""The udev rule for virtio-pmem that we supply as an example, in a booted Debian whose
administrator has enabled it: the named device is a portal from the beginning, every
other one a disk. A part of dkms_root.py, for the second boot of its image."""
import os
import shutil

import pmemlab
from lab import guest, portal, qemu
from lab.cache import ROOT, run

RULE = 'userspace/udev/61-vmportal-pmem.rules.example'
NAMED = '0000:00:04.0'          # in the rule
OTHER, KEPT = '0000:00:05.0', '0000:00:06.0'
SIZE = 64 << 20
CMDLINE = 'vmportal.report=pmem'

# Chosen by CMDLINE. "rule" says what came of each device.
REPORT = r'''#!/bin/sh
grep -q vmportal.report=pmem /proc/cmdline || exec /usr/local/sbin/vmportal-dkms-report
PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH LC_ALL=C
rules=/etc/udev/rules.d/61-vmportal-pmem.rules
pci=/sys/bus/pci/devices
say() { echo "$*" | tr '\n' '|'; echo; }
driver() { basename "$(readlink $pci/$1/virtio*/driver)"; }
node() { basename $(echo $pci/$1/virtio*/portal/portal* \
	$pci/$1/virtio*/ndbus*/region*/namespace*/block/pmem* | tr ' ' '\n' | grep -v '\*'); }
settled() { udevadm settle -t 20; i=0
	while [ -z "$(node $1)" ] && [ $i -lt 1200 ]; do i=$((i+1)); sleep 0.1; done
	udevadm settle -t 20; }
state() { settled $1; say $2 "$(driver $1) $(node $1 | tr -d 0-9)"; }
again() { echo 1 > $pci/$1/remove; echo 1 > /sys/bus/pci/rescan; }
said() { journalctl -b -o cat --no-pager | grep -c "portalctl.*is mounted on /mnt"; }

state NAMED boot_named
say access "$(stat -L -c '%a %U:%G' /dev/portal/virtio-NAMED)"
state OTHER boot_other
state KEPT boot_kept
say file "$(mount /dev/$(node KEPT) /mnt && cat /mnt/file)"
umount /mnt

mv $rules /root/rule
udevadm control --reload
again NAMED
state NAMED without

# The administrator names the disk with a file system: while it is mounted, and then not.
sed s/NAMED/KEPT/ /root/rule > $rules
udevadm control --reload
mount /dev/$(node KEPT) /mnt
udevadm trigger -w -c add $pci/KEPT/virtio*
state KEPT mounted
sleep 1
say said "$(said)"
umount /mnt
udevadm trigger -w -c add $pci/KEPT/virtio*
state KEPT unmounted
state OTHER still_other
dmesg | sed 's/^/log /'
'''


def report():
    return REPORT.replace('NAMED', NAMED).replace('OTHER', OTHER).replace('KEPT', KEPT)


def prepare(c):
    """The rule as it is, and portalctl where it says."""
    shutil.copy(portal.portalctl_static(), c.path('/usr/local/bin/portalctl'))
    with open(os.path.join(ROOT, RULE)) as f:
        c.write('/etc/udev/rules.d/61-vmportal-pmem.rules', f.read())


def disks():
    """QEMU arguments: empty, empty, with a file system."""
    argv = []
    files = os.path.join(qemu.workdir(), 'files')
    os.mkdir(files)
    with open(os.path.join(files, 'file'), 'w') as f:
        f.write('kept\n')
    for n, address in enumerate((NAMED, OTHER, KEPT)):
        d = pmemlab.Disk(SIZE)
        if address == KEPT:
            run(['mke2fs', '-q', '-F', '-b', '4096', '-d', files, d.path])
        more = d.device('pm%d' % n)
        more[-1] += ',addr=' + address.split(':')[2].split('.')[0]
        argv += more
    return argv


def check(t, r, log):
    t.equal(r.get('boot_named'), 'portal_pmem portal',
            'udev rule: the named device comes up as a portal')
    t.equal(r.get('access'), '660 root:portal', 'udev rule: for the group, by its place')
    t.equal((r.get('boot_other'), r.get('boot_kept')), ('virtio_pmem pmem',) * 2,
            'udev rule: who is not named stays a disk')
    t.equal(r.get('file'), 'kept', 'udev rule: and keeps its file system')
    t.equal(r.get('without'), 'virtio_pmem pmem',
            'without the rule the same device is a disk')
    t.equal(r.get('mounted'), 'virtio_pmem pmem',
            'udev rule: a mounted disk that is named stays a disk')
    t.ok(int(r.get('said', 0)) == 1, 'udev rule: and the journal says who uses it',
         r.get('said'))
    t.equal(r.get('unmounted'), 'portal_pmem portal',
            'udev rule: unmounted and named, it is a portal, whatever is on it')
    t.equal(r.get('still_other'), 'virtio_pmem pmem', 'udev rule: the other one never was')
    bad = guest.bad_lines('\n'.join(log))
    t.ok(log and not bad, 'udev rule: the kernel log holds no complaint', '\n'.join(bad))
