#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portald's units as an administrator meets them: installed into a Debian 12,
which is booted with its own systemd.

User and directory by sysusers.d and tmpfiles.d, portald.service with all of its
restrictions (a system call too few, and it would not start), reload, restart
after SIGKILL, and portald@NAME.socket, which starts portald by the first client.

Prints TAP; needs root (mount namespace, chroot). One minute; the first time the
Debian is made, two more.
"""
import glob
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lab import debroot, portal, qemu  # noqa: E402
from lab.cache import LabError, ROOT, run, say  # noqa: E402
from lab.tap import Tap  # noqa: E402

LIBRARIES = ['libinih.so.1', 'libjson-c.so.5', 'libsystemd.so.0']
CONF = '[one]\nsize = 4M\nvectors = 1\nhost_peers = 2\nmanaged = yes\n[two]\nsize = 1M\n'

UNIT = '''\
[Unit]
Description=what became of the portals
After=portald.service multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/vmportal-report
TimeoutStartSec=1500
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
[Install]
WantedBy=graphical.target multi-user.target
'''

# Each line a key and its value. "end" comes last, after everything else.
REPORT = r'''#!/bin/sh
PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH LC_ALL=C
say() { echo "$*" | tr '\n' '|'; echo; }
as() { user=$1; shift
	setpriv --reuid "$user" --regid "$user" --init-groups sh -c "$*" 2>&1; }
prop() { systemctl show -p "$2" --value "$1"; }
active() { for i in $(seq 1200); do
	[ "$(systemctl is-active "$1")" = "$2" ] && break; sleep 0.1; done
	systemctl is-active "$1"; }
say active "$(active portald.service active)"
pid=$(prop portald MainPID)
say user "$(stat -c %U:%G /proc/$pid)"
say confined "$(grep -E '^(Seccomp|NoNewPrivs|CapBnd):' /proc/$pid/status | tr -d '\t')"
say files "$(sed -n 's/^Max open files *\([0-9]*\).*/\1/p' /proc/$pid/limits)"
say directory "$(stat -c '%a %U:%G' /run/vmportal)"
say sockets "$(stat -c '%a %U:%G %n' /run/vmportal/*.ivshmem /run/vmportal/*.sock)"
say member "$(as member portald status one)"
say stranger "$(as stranger portald status one)"
say library "$(as member portalctl info unix:/run/vmportal/two.sock)"
say text "$(prop portald StatusText)"
printf '[three]\nsize = 64K\n' >> /etc/vmportal/portald.conf
systemctl reload portald
for i in $(seq 1200); do [ -S /run/vmportal/three.sock ] && break; sleep 0.1; done
say reload "$(as member portald status three)"
knock /run/vmportal/one.ivshmem > /tmp/first &
for i in $(seq 1200); do grep -q '3+ $' /tmp/first && break; sleep 0.1; done
say greeting "$(cat /tmp/first)"
row() { portalctl dump --json unix:/run/vmportal/one.sock | tr -d '\n ' |
	grep -o '"uuid":"[^"]*"\|"slot":0,[^}]*"incarnation":"[^"]*"' | head -n 2 |
	sed 's/"heartbeat":[0-9]*,//;s/"changes":[0-9]*,//' | tr '\n' ' '; }
say row "$(row)"
for i in 1 2 3 4 5 6 7 8; do
	systemctl kill -s KILL portald
	[ $i -gt 2 ] || sleep 1
	for j in $(seq 1200); do as member portald status one > /dev/null && break; sleep 0.1; done
done
say limit "$(prop portald StartLimitIntervalUSec) $(prop portald@one StartLimitIntervalUSec)"
# under load: two processes, a channel by name, and a guest that is there
printf '[load]\nsize = 4M\nvectors = 2\nmanaged = yes\n' >> /etc/vmportal/portald.conf
systemctl reload portald
uri=unix:/run/vmportal/load.sock
for i in $(seq 1200); do [ -S /run/vmportal/load.sock ] && break; sleep 0.1; done
knock /run/vmportal/load.ivshmem > /tmp/beside &
portalctl recv --name=load $uri > /tmp/got 2> /tmp/got.error &
receiver=$!
i=0
while [ $i -lt 150 ] || [ ! -e /tmp/enough ] && [ $i -lt 3000 ]; do
	seq $((i * 100)) $((i * 100 + 99)); sleep 0.1; i=$((i + 1)); done |
	tee /tmp/sent | portalctl send --name=load $uri > /tmp/sent.error 2>&1 &
sender=$!
deaths=0
sleep 1
while kill -0 $sender 2> /dev/null; do
	systemctl kill -s KILL portald
	deaths=$((deaths + 1))
	[ $deaths -lt 5 ] || : > /tmp/enough
	for j in $(seq 1200); do as member portald status load > /dev/null && break; sleep 0.1; done
	sleep 1
done
wait $sender
say sent "$? $deaths $(cat /tmp/sent.error)"
for j in $(seq 1200); do cmp -s /tmp/sent /tmp/got && break; sleep 0.1; done
say got "$(wc -l < /tmp/sent) $(cmp /tmp/sent /tmp/got 2>&1 && echo alike) $(cat /tmp/got.error)"
# nobody sees the receiver's end: what systemd has kept tells it
systemctl kill -s KILL portald
kill -9 $receiver
echo next | portalctl send --name=load $uri > /tmp/next.error 2>&1 &
for j in $(seq 1200); do
	portalctl recv --name=load --count=1 $uri > /tmp/next 2>> /tmp/next.error && break; sleep 0.1; done
say next "$(cat /tmp/next /tmp/next.error)"
say beside "$(cat /tmp/beside)"
# a configuration that is wrong for a while, and a crash
cp /etc/vmportal/portald.conf /tmp/good.conf
printf '[bad]\nsize = 3M\n' >> /etc/vmportal/portald.conf
systemctl kill -s KILL portald
for i in $(seq 1200); do journalctl -q -u portald | grep -q 'power of two' && break; sleep 0.1; done
cp /tmp/good.conf /etc/vmportal/portald.conf
for j in $(seq 1200); do as member portald status one > /dev/null && break; sleep 0.1; done
say again "$(active portald.service active)"
say restarts "$(prop portald NRestarts)"
say served "$(as member portald status one)"
systemctl restart portald
say upgraded "$(active portald.service active)"
say still "$(as member portald status one)"
say row_after "$(row)"
knock /run/vmportal/one.ivshmem > /tmp/second &
for i in $(seq 1200); do grep -q '4+ $' /tmp/first && break; sleep 0.1; done
say kept "$(cat /tmp/first)"
say later "$(cat /tmp/second)"
systemctl stop portald
for i in $(seq 100); do grep -q ' end$' /tmp/first && break; sleep 0.1; done
say cut "$(cat /tmp/first)"
say stopped "$(ls -A /run/vmportal)."
say socket "$(systemctl start portald@two.socket && active portald@two.socket active)"
say waiting "$(systemctl is-active portald@two.service)"
say owner "$(stat -c '%a %U:%G' /run/vmportal/two.ivshmem /run/vmportal/two.sock)"
say activated "$(as member portald status two)"
say instance "$(active portald@two.service active)"
say instance_user "$(stat -c %U:%G /proc/$(prop portald@two MainPID))"
systemctl stop portald@two.service portald@two.socket
say ended "$(ls -A /run/vmportal)."
say failed "$(systemctl list-units --failed --no-legend 'portald*')."
say security "$(systemd-analyze security --no-pager portald.service | tail -n 1)"
journalctl -o short -u portald -u portald@two --no-pager | sed 's/^/log /'
say warnings "$(journalctl -q -o cat -p warning -u portald --no-pager)"
'''


def prepare(c):
    """portald and portalctl as make install leaves them, two users, a report."""
    make = ['make', '-s', '-C', ROOT + '/userspace', 'DESTDIR=' + c.root]
    run(make + ['install-portald'], timeout=300)
    # the library is tried from a program that needs no shared one
    shutil.copy(portal.portalctl_static(), c.path('/usr/local/bin/portalctl'))
    for name in LIBRARIES:
        if not glob.glob(c.path('/usr/lib/x86_64-linux-gnu/' + name)) and \
           not glob.glob(c.path('/lib/x86_64-linux-gnu/' + name)):
            shutil.copy('/usr/lib/x86_64-linux-gnu/' + name,
                        c.path('/usr/lib/x86_64-linux-gnu/' + name))
    run(['gcc', '-O1', '-static', '-o', c.path('/usr/local/bin/knock'), ROOT + '/tests/vm/knock.c'])
    c.sh('systemd-sysusers && useradd -G vmportal member && useradd stranger')
    c.write('/etc/vmportal/portald.conf', CONF)
    c.report_by(REPORT, UNIT)
    c.sh('systemctl enable portald.service vmportal-report.service')


def check_service(t, r):
    t.equal(r.get('active'), 'active', 'portald.service starts with the system')
    t.equal(r.get('user'), 'vmportal:vmportal', 'as the user sysusers.d made')
    t.equal(r.get('confined'), 'CapBnd:0000000000000000|NoNewPrivs:1|Seccomp:2',
            'without capabilities, with its system calls filtered')
    t.equal(r.get('files'), '65536', 'with room for descriptors')
    t.equal(r.get('directory'), '755 vmportal:vmportal', '/run/vmportal is its own')
    t.equal(r.get('sockets'), '|'.join(
        '660 vmportal:vmportal /run/vmportal/' + s
        for s in ('one.ivshmem', 'two.ivshmem', 'one.sock', 'two.sock')),
        'the sockets are for the group')
    t.ok('guests 0 of 64' in r.get('member', ''), 'a member may ask for its status',
         r.get('member'))
    t.ok('no permission' in r.get('stranger', ''), 'a stranger may not, and is told why',
         r.get('stranger'))
    t.ok('1 MiB' in r.get('library', ''), 'the library opens a portal', r.get('library'))
    t.equal(r.get('text'), '2 portals, 0 guests, 0 processes', 'systemd shows its status')
    t.ok('three: 64 KiB' in r.get('reload', ''), 'reload serves a new section',
         r.get('reload'))


def check_load(t, r):
    """Sessions, doorbells and a lane in use, while portald is killed again and again."""
    sent = re.match(r'0 (\d+)', r.get('sent', ''))
    t.ok(sent and int(sent.group(1)) >= 4,
         'under load, killed %s times: who sends goes on' % (sent and sent.group(1)), r.get('sent'))
    got = re.match(r'(\d+) alike', r.get('got', ''))
    t.ok(got and int(got.group(1)) >= 15000, 'and all of it arrives, once and in order', r.get('got'))
    t.ok(r.get('next', '').startswith('next|') or r.get('next') == 'next',
         'a receiver that died while nobody was there to see it has a successor', r.get('next'))
    beside = r.get('beside', '')
    t.ok(beside.startswith('0') and 'end' not in beside, 'the guest beside them noticed nothing', beside)


def check_end(t, r, log):
    t.ok(r.get('again') == 'active' and int(r.get('restarts', '0')) > 8,
         'it is restarted after SIGKILL, and when its configuration is right again',
         '%s, %s restarts' % (r.get('again'), r.get('restarts')))
    t.equal(r.get('limit'), '0 0', 'however often')
    # version, id, region, the host's ids (two processes', portald's own), itself
    t.equal(r.get('greeting'), '0 3 -1+ 0+ 1+ 2+ 3+ ', 'a guest is greeted')
    t.ok('guests 1 of 64 (next id 4)' in r.get('served', ''), 'and goes on where it was',
         r.get('served'))
    t.ok('guests 1 of 64 (next id 4)' in r.get('still', '') and r.get('upgraded') == 'active',
         'after systemctl restart, too', r.get('still'))
    t.ok(r.get('row') and r.get('row_after') == r.get('row'), "the region and the host's row are the same",
         '%s, then %s' % (r.get('row'), r.get('row_after')))
    t.equal(r.get('kept'), '0 3 -1+ 0+ 1+ 2+ 3+ 4+ ',
            'the guest noticed nothing, and hears of the next one')
    t.equal(r.get('later'), '0 4 -1+ 0+ 1+ 2+ 3+ 4+ ', 'which gets the next id')
    t.ok(r.get('cut', '').endswith(' end'), 'after systemctl stop they are cut', r.get('cut'))
    t.ok('did not end cleanly' not in r.get('warnings', ''), 'nothing was lost', r.get('warnings'))
    t.ok(any(': one: serving 4096 KiB' in s and '<6>' not in s for s in log),
         'the journal has the lines without their priorities', '\n'.join(log))
    t.equal(r.get('stopped'), '.', 'stopped, it leaves nothing')
    t.equal((r.get('socket'), r.get('waiting')), ('active', 'inactive'),
            'portald@two.socket listens, nobody runs')
    t.equal(r.get('owner'), '660 root:vmportal|660 root:vmportal',
            'its sockets are for the group')
    t.ok('two: 1024 KiB' in r.get('activated', ''), 'the first client starts portald',
         r.get('activated'))
    t.equal((r.get('instance'), r.get('instance_user')), ('active', 'vmportal:vmportal'),
            'as portald@two.service')
    t.equal((r.get('ended'), r.get('failed')), ('.', '.'), 'nothing is left, nothing failed')
    level = r.get('security', '').split()
    t.ok(any(w in level for w in ('OK', 'SAFE', 'PERFECT')),
         'systemd-analyze security is content', r.get('security'))


def main():
    try:
        debroot.private_mounts()
    except LabError as e:
        print('1..0 # SKIP %s' % e)
        return
    with Tap() as t:
        c = debroot.Copy(qemu.workdir())
        prepare(c)
        image = os.path.join(qemu.workdir(), 'root.img')
        say('making the disk image')
        c.image(image)
        say('booting it')
        report, log = c.boot(image)
        check_service(t, report)
        check_load(t, report)
        check_end(t, report, log)


main()
