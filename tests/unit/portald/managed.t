#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""managed = yes: the region that portald makes is laid out before anybody sees it."""
import json
import struct

from portaldtest import *

point = Tap()


def ctl(*args):
    path = os.path.join(TOP, 'build', 'user', 'bin', 'portalctl')
    r = subprocess.run([path, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True, timeout=30)
    return r.returncode, r.stdout, r.stderr


def build_ctl():
    r = subprocess.run(['make', '-s', '-C', os.path.join(TOP, 'userspace'), 'portalctl'],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    if r.returncode:
        print('Bail out! portalctl does not build: ' + r.stdout[-200:])
        sys.exit(1)


@point('the region is formatted, clean, and named after the portal')
def _(stack):
    d = Daemon(stack, '--managed', '--max-guests', '6', '--sessions', '10', name='demo')
    g = d.guest()
    m = g.map(1 << 20)
    equal(m[:8], b'VMPORTAL', 'first bytes, as a guest sees them')
    uri = 'unix:' + d.sock('sock')
    equal(ctl('check', uri)[:2], (0, uri + ': clean\n'), 'check')
    s = json.loads(ctl('dump', '--json', uri)[1])
    equal((s['name'], s['peers_max'], s['sessions_max'], s['damaged']), ('demo', 7, 10, False))
    check(s['creator'].startswith('portald '), s['creator'])
    equal(struct.unpack_from('<Q', m, 48)[0] != 0, True, 'incarnation')
    equal(d.status()['managed'], True, 'status')
    d.wait_log('managed')
    m.close()


@point('each region is another incarnation, under another uuid')
def _(stack):
    seen = set()
    for _ in range(3):
        d = Daemon(stack, '--managed')
        s = json.loads(ctl('dump', '--json', 'unix:' + d.sock('sock'))[1])
        seen |= {s['uuid'], s['incarnation']}
        d.p.terminate()
        d.p.wait(10)
    equal(len(seen), 6, 'uuids and incarnations')


@point('without the key the region is raw, and all zero')
def _(stack):
    d = Daemon(stack)
    m = d.guest().map(1 << 20)
    equal(m[:], b'\0' * (1 << 20), 'the region')
    equal(d.status()['managed'], False, 'status')
    uri = 'unix:' + d.sock('sock')
    equal(ctl('check', uri)[0], 6, 'check')
    m.close()


@point('one file, a raw portal and a managed one; huge regions too')
def _(stack):
    d = Daemon(stack, config='[plain]\nsize = 1M\n[tables]\nsize = 1G\nmanaged = yes\n', name=None)
    d.wait_log('tables: serving')
    equal(ctl('check', 'unix:%s/tables.sock' % d.dir)[0], 0, 'tables')
    equal(ctl('check', 'unix:%s/plain.sock' % d.dir)[0], 6, 'plain')


@point('format from the host is refused while a guest is connected and maps it')
def _(stack):
    d = Daemon(stack)
    m = d.guest().map(1 << 20)
    uri = 'unix:' + d.sock('sock')
    code, _out, err = ctl('format', uri)
    equal(code, 6, err)
    check('pid %d' % os.getpid() in err, err)
    m.close()
    equal(ctl('format', uri)[0], 0, 'format')
    equal(ctl('check', uri)[0], 0, 'check')


build_ctl()
point.run()
