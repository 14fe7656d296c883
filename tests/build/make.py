#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""make.py: the top-level Makefile, as who has just cloned it uses it.

In a copy of the sources. What needs a kernel's headers is in tests/vm/builds.py, DKMS in
tests/vm/dkms_root.py.
"""
import os
import re
import shutil
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, 'tests', 'vm'))
from lab import build, kernels  # noqa: E402
from lab.cache import run  # noqa: E402
from lab.tap import Tap  # noqa: E402

PARTS = ['Kbuild', 'Makefile', 'dkms.conf', 'drivers', 'uapi', 'userspace']
NOWHERE = '/nowhere/build'
COMMAND = re.compile(r'(?m)^\s*(\S*gcc|cc|g\+\+|ar) .*-o ')
INSTALLED = [
    'bin/portalctl', 'bin/portald', 'include/vmportal.h', 'include/vmportal_managed.h', 'include/vmportal_hub.h', 'include/vmportal_ring.h',
    'include/linux/portal.h', 'lib/libvmportal.a', 'lib/libvmportal.so', 'lib/libvmportal.so.0',
    'lib/pkgconfig/vmportal.pc', 'lib/udev/rules.d/60-vmportal.rules',
    'lib/sysusers.d/vmportal.conf', 'lib/systemd/system/portald.service',
    'share/man/man1/portalctl.1', 'share/man/man3/vmportal.3', 'share/man/man4/portal.4',
    'share/man/man8/portald.8',
]


def tree(top):
    return {os.path.relpath(os.path.join(d, f), top)
            for d, _, files in os.walk(top) for f in files}


def main(t):
    with tempfile.TemporaryDirectory(prefix='vmportal-') as d:
        top, dest = d + '/top', d + '/dest'
        os.mkdir(top)
        for part in PARTS:
            run(['cp', '-r', os.path.join(TOP, part), top])
        # Somebody may have built here.
        for name in tree(top):
            if re.search(r'\.(o|ko|mod|cmd|mod\.c)$|portal_config\.h$', name):
                os.remove(os.path.join(top, name))

        def make(*args, check=True):
            return run(['make', '-C', top, 'KDIR=' + NOWHERE] + list(args), check=check)

        version = re.search(r'(?m)^VERSION := (\S+)$', open(top + '/Makefile').read()).group(1)
        holders = [n for n in sorted(tree(top))
                   if version in open(os.path.join(top, n), errors='replace').read()]
        t.equal(holders, ['Makefile'], 'the version stands in one place')

        p = make('-j2')
        said = re.findall(r'(?m)^.*no kernel headers.*$', p.stdout)
        t.ok(len(said) == 1 and NOWHERE in said[0] and 'Install linux-headers-' in said[0],
             'without headers make says which package is missing', p.stdout[-1500:])
        built = tree(top + '/build/user')
        t.ok({'bin/portalctl', 'bin/portald', 'lib/libvmportal.so.0'} <=
             {re.sub(r'(\.so\.0).*', r'\1', n) for n in built},
             'and builds user space', '\n'.join(sorted(built)))
        t.ok(not COMMAND.search(p.stdout), 'quietly', p.stdout[:1500])
        p = make()
        t.ok(not re.search(r'(?m)^\s+(CC|LD|AR)\b', p.stdout), 'once more there is nothing to do',
             p.stdout)
        p = make('modules', check=False)
        t.ok(p.returncode and 'Install linux-headers-' in p.stdout,
             'make modules without headers fails, and says it too', p.stdout)
        os.utime(top + '/userspace/lib/portal.c')
        t.ok(COMMAND.search(make('V=1').stdout), 'V=1 shows the commands')

        before = tree(top)
        make('install', 'PREFIX=/usr', 'DESTDIR=' + dest)
        have = tree(dest)
        t.equal([n for n in INSTALLED if 'usr/' + n not in have], [],
                'make install puts everything below DESTDIR and PREFIX')
        t.equal([n for n in sorted(have) if not n.startswith(('usr/', 'etc/'))], [],
                'and nothing elsewhere there')
        t.equal(sorted(tree(top) - before), [], 'and nothing into the sources')
        said = run([dest + '/usr/bin/portalctl', '--version'],
                   env=dict(os.environ, LD_LIBRARY_PATH=dest + '/usr/lib')).stdout
        t.ok(version in said, 'portalctl --version: %s' % version, said)
        for path in build.modules(kernels.find('6.1')):
            t.equal(run(['modinfo', '-F', 'version', path]).stdout.strip(), version,
                    'version of ' + os.path.basename(path))
        make('clean')
        t.ok(not os.path.exists(top + '/build'), 'make clean leaves nothing')
        shutil.rmtree(dest)


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
