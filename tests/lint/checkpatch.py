#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""checkpatch.pl --strict on every kernel source file, as TAP.

The script is that of Debian's linux-source package. What it may not complain
about is listed here with the reason.
"""
import glob
import os
import re
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, 'tests', 'vm'))
from lab import debs, debugkernel  # noqa: E402
from lab.cache import building, cache_dir, lock, run, say  # noqa: E402
from lab.tap import Tap  # noqa: E402

# Path prefix -> types of message that do not apply there.
IGNORE = [
    ('', ['FILE_PATH_CHANGES'], 'MAINTAINERS is the kernel tree\'s'),
    ('uapi/', ['BIT_MACRO'], 'BIT() is the kernel\'s, not user space\'s'),
    ('drivers/core/trace.h', ['OPEN_ENDED_LINE', 'PARENTHESIS_ALIGNMENT'],
     'TRACE_EVENT() is laid out like this all over the kernel'),
    ('uapi/linux/portal_vmbus.h', ['COMPLEX_MACRO'], 'a list of arguments'),
    ('drivers/compat/', ['MACRO_ARG_UNUSED', 'MACRO_WITH_FLOW_CONTROL'],
     'a fallback leaves out what an older kernel has no use for; some macros '
     'are whole functions'),
]
FILES = ['scripts/checkpatch.pl', 'scripts/spelling.txt',
         'scripts/const_structs.checkpatch']


def script():
    path = cache_dir() + '/checkpatch'
    with lock('checkpatch'):
        if not os.path.isdir(path):
            deb = debs.download(debugkernel.SOURCE)
            with building(path) as tmp, \
                    tempfile.TemporaryDirectory(prefix='vmportal-') as d:
                say('unpacking checkpatch.pl from ' + os.path.basename(deb))
                debs.unpack(deb, d)
                tar = glob.glob(d + '/usr/src/*.tar.xz')[0]
                run(['tar', '-C', tmp, '--strip-components=1', '-xf', tar,
                     '--wildcards'] + ['*/' + f for f in FILES])
    return path + '/scripts/checkpatch.pl'


def check(path):
    """(whether clean, what it said)"""
    name = os.path.relpath(path, TOP)
    ignore = [kind for prefix, kinds, _ in IGNORE if name.startswith(prefix)
              for kind in kinds]
    p = run(['perl', script(), '--no-tree', '--strict', '--terse', '--no-summary',
             '--show-types', '--ignore', ','.join(ignore), '-f', path],
            cwd=TOP, check=False)
    said = '\n'.join(line.replace(TOP + '/', '')
                     for line in p.stdout.splitlines()
                     if re.match(r'\S+:\d+: ', line))
    return p.returncode == 0 and not said, said or p.stdout


def main(t):
    sources = sorted(
        glob.glob(TOP + '/drivers/**/*.[ch]', recursive=True) +
        glob.glob(TOP + '/uapi/**/*.h', recursive=True) +
        glob.glob(TOP + '/tests/vm/seeded/**/*.c', recursive=True) +
        glob.glob(TOP + '/tests/vm/memattr/*.c'))
    t.ok(len(sources) > 5, 'there are kernel sources to check')
    with tempfile.NamedTemporaryFile('w', suffix='.c') as f:
        f.write('// SPDX-License-Identifier: GPL-2.0-only\n'
                'int bad( int a ){\n  return a ;}\n')
        f.flush()
        t.ok(not check(f.name)[0], 'checkpatch complains about bad style')
    for path in sources:
        good, said = check(path)
        t.ok(good, 'checkpatch --strict: ' + os.path.relpath(path, TOP), said)


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
