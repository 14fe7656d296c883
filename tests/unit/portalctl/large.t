#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""portalctl send and recv: more than 32 bits can count, and progress all the way."""
import re

from ctltest import *

point = Tap()
SIZE = (4 << 30) + 12345


@point('4 GiB and some: counted right, progress shown, digest checked, by both ends')
def _(stack):
    uri, d = region(stack, '16M')
    with open(d + '/in', 'wb') as f:
        f.truncate(SIZE)                # holes: the bytes are read all the same
        f.seek(SIZE - 5)
        f.write(b'tail!')
    rx = Ctl(stack, 'recv', uri, '/dev/null', '--json', '--progress', '-t', '60')
    tx = Ctl(stack, 'send', uri, d + '/in', '--json', '--progress', '-t', '60')
    equal(tx.end(600), 0, 'send')
    equal(rx.end(600), 0, 'recv')
    sent, got = json.loads(tx.out), json.loads(rx.out)
    equal((sent['bytes'], got['bytes']), (SIZE, SIZE), 'bytes')
    equal(sent['sha256'], got['sha256'], 'digest')
    for what, text in (('sending', tx.err.decode()), ('receiving', rx.err.decode())):
        shares = [int(p) for p in re.findall(r'%s .* of 4\.0 GiB +(\d+)%%' % what, text)]
        check(len(shares) > 3 and shares == sorted(shares) and shares[-1] == 100, text[-600:])


point.run()
