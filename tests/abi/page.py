#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""page.py: the places that portal-layout(5) gives, as C that compiles if they are right.

A place is 'member " (offset, bytes)' or 'member " (offset, number x bytes)'; whose member it
is says the section.
"""
import os
import re
import sys

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../userspace/man/portal-layout.5')
STRUCTS = {'.SH SUPERBLOCK': 'super', '.SH PEERS': 'peer', '.SH SESSIONS': 'session',
           '.SH DIRECTORY': 'directory', '.SS Locks': 'lock', '.SH OBJECTS AND USES': 'object',
           'A use is': 'use', '.SH CHANNELS BY NAME': 'hub', '.BR 256 ": struct portal_hub_lane': 'hub_lane'}
LEAST = 65      # places: else it is this program that does not find them


def places(lines):
    """(line number, struct, member, offset, bytes)"""
    struct = None
    for number, line in enumerate(lines, 1):
        if re.match(r'\.S[HS] ', line):
            struct = None
        for begin, name in STRUCTS.items():
            if line.startswith(begin):
                struct = name
        for member, offset, n, each in re.findall(r'(\w+) " \((\d+), (\d+)(?: x (\d+))?', line):
            if struct:
                yield number, struct, member, int(offset), int(n) * int(each or 1)


def main():
    with open(PAGE, encoding='utf-8') as f:
        found = list(places(f))
    missing = set(STRUCTS.values()) - {p[1] for p in found}
    if len(found) < LEAST or missing:
        sys.exit('portal-layout.5: %d places found, not %d or more; no place in %s' % (len(found), LEAST, missing))
    print('#include <stddef.h>\n#include <linux/portal_layout.h>')
    for number, struct, member, offset, size in found:
        print('#line %d "portal-layout.5"' % number)
        print('_Static_assert(offsetof(struct portal_%s, %s) == %d && sizeof(((struct portal_%s *)0)->%s) == %d, "%s");'
              % (struct, member, offset, struct, member, size, member))


if __name__ == '__main__':
    main()
