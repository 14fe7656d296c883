#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portalctl format, dump, check: managed portals. Which damages there are, and that each
is named, is the business of tests/unit/lib/layout.c; here is what the command makes of
them. The bytes are written from portal-layout(5)."""
import json
import mmap
import os
import random
import re
import struct
import time

from ctltest import *

point = Tap()
SEED = int(os.environ.get('SEED') or 7)


def made(stack, size='1M', *args):
    """A formatted file; (uri, path)."""
    d = scratch(stack)
    path = d + '/region'
    code, out, err = run('format', *args, 'file:%s?size=%s' % (path, size))
    equal((code, err), (0, ''), 'format')
    return 'file:' + path, path


def dump(uri):
    code, out, err = run('dump', '--json', uri)
    equal((code, err), (0, ''), 'dump')
    return json.loads(out)


def check_json(uri):
    code, out, err = run('check', '--json', '--all', uri)
    equal(err, '', 'check')
    return code, json.loads(out)


def poke(path, offset, data):
    with open(path, 'r+b') as f:
        f.seek(offset)
        f.write(data)


def area(d, name):
    return next(a for a in d['areas'] if a['area'] == name)


@point('format: a clean portal, as asked for')
def _(stack):
    uuid = '01234567-89ab-cdef-0123-456789abcdef'
    uri, path = made(stack, '4M', '--peers', '5', '--sessions', '20', '--objects', '9', '--name',
                     'dem\u00f6', '--uuid', uuid)
    d = dump(uri)
    equal((d['peers_max'], d['sessions_max'], d['objects_max'], d['name'], d['uuid']),
          (5, 20, 9, 'dem\u00f6', uuid))
    equal(area(d, 'sessions')['count'], 100)
    check(d['protected'] % 65536 == 0 and area(d, 'data')['offset'] % 65536 == 0)
    for a in d['areas']:
        equal(a['mapped'], 'read-only' if a['offset'] < d['protected'] else 'writable')
    equal((d['peers'], d['sessions'], d['objects']), ([], [], []))
    equal(run('check', uri), (0, '%s: clean\n' % uri, ''))
    code, out, _e = run('info', uri)
    check(code == 0 and 'managed' in out, out)
    with open(path, 'rb') as f:
        equal(f.read(8), b'VMPORTAL')
    text = run('dump', uri)[1]
    for word in ('dem\u00f6', uuid, 'sessions', 'directory generation'):
        check(word in text, word)


@point('mode: as it is; that of a file is nobody\'s to keep')
def _(stack):
    uri, path = made(stack)
    equal(run('mode', uri), (0, 'managed\n', ''))
    code, out, err = run('mode', uri, 'raw')
    equal((code, out), (1, ''))
    check('/dev/portalN' in err, err)
    equal(run('mode', uri, 'cooked')[0], 1)
    poke(path, 0, b'X')
    equal(run('mode', uri)[1], 'raw\n')


@point('format, --json: what was made, and what was destroyed')
def _(stack):
    uri, path = made(stack, '1M', '--name', 'old')
    first = dump(uri)
    code, out, _e = run('format', '--force', '--json', '--name', 'new', uri)
    d = json.loads(out)
    equal((code, d['name'], d['uri']), (0, 'new', uri))
    check("'old'" in d['destroyed'], d['destroyed'])
    check(d['uuid'] != first['uuid'] and d['incarnation'] != first['incarnation'])


@point('format refuses what is formatted, what is not empty, and says what it would destroy')
def _(stack):
    uri, path = made(stack, '1M', '--name', 'old')
    before = open(path, 'rb').read()
    code, out, err = run('format', uri)
    equal((code, out), (6, ''))
    check("managed portal 'old'" in err and '--force' in err and err.count('\n') == 1, err)
    equal(open(path, 'rb').read(), before, 'bytes after a refusal')
    raw = path + '2'
    with open(raw, 'wb') as f:
        f.truncate(1 << 20)
        f.seek(70000)
        f.write(b'precious')
    code, out, err = run('format', 'file:' + raw)
    equal((code, out), (6, ''))
    check('70000' in err, err)
    equal(run('dump', 'file:' + raw)[0], 6)
    equal(run('check', 'file:' + raw)[0], 6)
    equal(run('format', '--force', 'file:' + raw)[0], 0)
    equal(run('check', 'file:' + raw)[0], 0)


@point('format leaves the data alone')
def _(stack):
    d = scratch(stack)
    path = d + '/region'
    with open(path, 'wb') as f:
        f.truncate(1 << 20)
        f.seek((1 << 20) - 8)
        f.write(b'precious')
    equal(run('format', 'file:' + path)[0], 0)
    equal(open(path, 'rb').read()[-8:], b'precious')


@point('format refuses while another process has it mapped, and while peers live')
def _(stack):
    uri, path = made(stack)
    with open(path, 'r+b') as f, mmap.mmap(f.fileno(), 1 << 20) as m:
        code, out, err = run('format', '--force', uri)
        equal(code, 6, err)
        check('pid %d' % os.getpid() in err and '--force twice' in err, err)
        equal(run('format', '--force', '--force', uri)[0], 0)
    d = dump(uri)
    at = area(d, 'peers')['offset'] + 512
    poke(path, at, struct.pack('<Q', 9 << 32 | 1))
    poke(path, at + 128, struct.pack('<QQIII', 1 << 16 | 2, 77, 1, 0, 0xffffffff))
    code, out, err = run('format', '--force', uri)
    equal(code, 6, err)
    check('1 peers' in err and 'not known to be dead' in err, err)
    equal([(p['slot'], p['state'], p['address']) for p in dump(uri)['peers']], [(1, 'alive', 8)])
    equal(run('format', '-ff', uri)[0], 0)
    equal(dump(uri)['peers'], [])


@point('format: too small, too many, nothing there')
def _(stack):
    d = scratch(stack)
    code, _o, err = run('format', 'file:%s/a?size=128K' % d)
    equal(code, 1, err)
    check('192K' in err, err)
    equal(run('format', '--peers', '4097', 'file:%s/b?size=1M' % d)[0], 1)
    equal(run('format', '--peers', '4096', '--sessions', '17', 'file:%s/b?size=1M' % d)[0], 1)
    equal(run('format', '--sessions', '4000', 'file:%s/b?size=1M' % d)[0], 1)
    equal(run('format', 'file:%s/none' % d)[0], 2)
    equal(run('format', '--name', 'a\x1b[2J', 'file:%s/b?size=1M' % d)[0], 1)


@point('check: each damage by name, place and value; status 4')
def _(stack):
    uri, path = made(stack)
    d = dump(uri)
    at = area(d, 'sessions')['offset'] + 128 * 3 + 100
    poke(path, at, b'\x2a')
    code, r = check_json(uri)
    equal((code, r['clean'], r['damages']), (4, False, 1))
    f = r['found'][0]
    equal((f['name'], f['where'], f['index'], f['offset'], f['value'], f['damage']),
          ('session-empty', 'session', 3, at, 0x2a, True))
    code, out, _e = run('check', uri)
    check(code == 4 and 'session-empty: session 3: ' in out and 'damaged' in out, out)


@point('check: leftovers of the dead are no damage')
def _(stack):
    uri, path = made(stack)
    d = dump(uri)
    at = area(d, 'peers')['offset'] + 512
    claim = struct.pack('<Q', 9 << 32 | 1)
    poke(path, at, claim + claim)
    poke(path, at + 24, struct.pack('<I', 1))
    poke(path, at + 128, struct.pack('<QQIII', 1 << 16 | 2, 77, 1, 0, 0xffffffff))
    code, r = check_json(uri)
    equal((code, r['clean'], r['notes']), (0, True, 1))
    equal(r['found'][0]['name'], 'peer-left')
    equal(dump(uri)['peers'][0]['state'], 'dead')
    equal(dump(uri)['peers'][0]['reason'], 'exited')


@point('a damaged superblock: dump shows what can be found, check says what is wrong')
def _(stack):
    uri, path = made(stack)
    poke(path, 1000, b'x')
    equal(dump(uri)['damaged'], True)
    code, r = check_json(uri)
    equal((code, [f['name'] for f in r['found']]), (4, ['superblock-checksum', 'superblock-reserved']))
    poke(path, 208, struct.pack('<I', 1 << 30))
    code, out, err = run('dump', uri)
    equal((code, out), (4, ''))
    check('damaged' in err, err)
    equal(run('check', uri)[0], 4)
    # Who opens it for a channel is told, and writes nothing.
    before = open(path, 'rb').read()
    code, _o, err = run('ping', '--timeout', '1', '--count', '1', uri)
    check(code == 2 and 'damaged' in err, err)
    equal(open(path, 'rb').read(), before)


@point('an unknown incompatible feature: refused with its number')
def _(stack):
    uri, path = made(stack)
    s = bytearray(open(path, 'rb').read(4096))
    s[8:12] = b'\0' * 4
    s[16:24] = struct.pack('<Q', 1 << 33)
    s[8:12] = struct.pack('<I', crc32c(s))
    poke(path, 0, s)
    for want, c in ((4, ['dump']), (4, ['check']), (2, ['ping', '--timeout', '1']), (6, ['format'])):
        code, _o, err = run(*c, uri)
        equal(code, want, c)
        check('0x200000000' in err, err)


def crc32c(data):
    crc = 0xffffffff
    for b in data:
        crc ^= b
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


@point('every name of a damage is in portal-layout(5)')
def _(stack):
    names = re.findall(r'D\(\w+, "([^"]+)"', open(TOP + '/userspace/lib/layout.h').read())
    page = open(TOP + '/userspace/man/portal-layout.5').read().replace('\\-', '-')
    check(len(names) > 70, names)
    for n in names:
        check(re.search(r'(?m)^%s ' % n, page), n)


@point('the checksum is CRC-32C of the 4096 bytes, its own four taken as zero')
def _(stack):
    equal(crc32c(b'123456789'), 0xe3069283)
    uri, path = made(stack)
    s = bytearray(open(path, 'rb').read(4096))
    want = struct.unpack('<I', s[8:12])[0]
    s[8:12] = b'\0' * 4
    equal(crc32c(s), want)


@point('random bytes anywhere before the data: never a crash, never clean')
def _(stack):
    uri, path = made(stack)
    meta = area(dump(uri), 'data')['offset']
    good = open(path, 'rb').read(meta)
    rnd = random.Random(SEED)
    end = time.monotonic() + 10
    n = 0
    while n < 40 or (n < 400 and time.monotonic() < end):
        bad = bytearray(good)
        for _ in range(rnd.choice([1, 1, 2, 8, 200])):
            at = rnd.randrange(rnd.choice([24, 256, 4096, meta]))
            bad[at] = rnd.choice([0, 1, 2, 255, rnd.randrange(256)])
        if bad == good:
            continue
        n += 1
        poke(path, 0, bad)
        code, out, err = run('check', uri)
        check(code in (4, 6), 'seed %d, round %d: %d %s%s' % (SEED, n, code, out, err))
        code, out, err = run('dump', '--json', uri)
        check(code in (0, 4, 6) and (code or json.loads(out)), '%d %s' % (code, err))
    print('# %d rounds, seed %d' % (n, SEED))


@point('the ends of a stream meet in the data of a managed portal, and the tables stay clean')
def _(stack):
    uri, path = made(stack, '4M')
    d = scratch(stack)
    data = os.urandom(3 << 20)
    with open(d + '/in', 'wb') as f:
        f.write(data)
    r = Ctl(stack, 'recv', uri, d + '/out')
    s = Ctl(stack, 'send', uri, d + '/in')
    s.ok()
    r.ok()
    equal(open(d + '/out', 'rb').read(), data)
    equal(run('check', uri)[0], 0)
    code, _o, err = run('ping', '--timeout', '1', '--offset', '64K', uri)
    check(code != 0 and 'tables' in err, err)


if __name__ == '__main__':
    build('portalctl')
    point.run()
