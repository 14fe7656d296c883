# SPDX-License-Identifier: MIT
"""The VMBus host of tests/vm/vsp: a shared object for an unmodified QEMU.

It is compiled against the headers of the very QEMU that loads it, out of the
source package of the same upstream version. QEMU's configure is not needed:
what its headers want generated are the QAPI types (a second of Python) and a
handful of definitions.
"""
import glob
import hashlib
import os
import re
import shutil

from . import debs, qemu
from .cache import LabError, ROOT, building, cache_dir, lock, run, say

SOURCE = os.path.join(ROOT, 'tests', 'vm', 'vsp')
# What is needed of the source package: headers, and what generates headers.
WANTED = ['include', 'qapi', 'scripts', 'linux-headers', 'target/i386',
          'host/include']
CONFIG_HOST = ['CONFIG_LINUX', 'CONFIG_POSIX', 'CONFIG_EVENTFD',
               'CONFIG_IOVEC', 'CONFIG_MEMFD', 'HOST_X86_64']
CONFIG_TARGET = ['TARGET_X86_64', 'TARGET_I386']


def version():
    """(binary, Debian version) of the QEMU that the lab runs."""
    binary, _ = qemu.find('amd64')
    text = run([binary, '--version']).stdout
    m = re.search(r'\(Debian (\S+)\)', text)
    if not m:
        raise LabError('%s is not Debian\'s QEMU: no source package has its '
                       'headers (unset QEMU_AMD64, or remove it)' % binary)
    return binary, m.group(1)


def headers():
    """The directory of the QEMU's headers, with the generated ones in gen/."""
    _, v = version()
    suite = 'bookworm-backports' if '~bpo12' in v else 'trixie'
    path = os.path.join(cache_dir('qemu-headers'), re.sub(r'[^\w.+]', '-', v))
    with lock('qemu-headers'):
        if os.path.isdir(path):
            return path
        tar = debs.source('qemu', v, suite)
        with building(path) as tmp:
            say('unpacking the headers of QEMU ' + v)
            run(['tar', '-C', tmp, '--strip-components=1', '-xf', tar,
                 '--wildcards', '--no-wildcards-match-slash'] +
                ['*/' + w for w in WANTED])
            gen = tmp + '/gen/qapi'
            os.makedirs(gen)
            run(['python3', tmp + '/scripts/qapi-gen.py', '-b', '-o', gen,
                 tmp + '/qapi/qapi-schema.json'])
            for f in glob.glob(gen + '/*'):
                if not f.endswith('.h'):
                    os.unlink(f)
            for name, words in (('config-host.h', CONFIG_HOST),
                                ('config-target.h', CONFIG_TARGET)):
                with open(tmp + '/gen/' + name, 'w') as f:
                    f.writelines('#define %s 1\n' % w for w in words)
    return path


def _key(directory):
    h = hashlib.sha256(directory.encode())
    files = sorted(glob.glob(SOURCE + '/*.[ch]') + [SOURCE + '/Makefile'])
    for f in files + [os.path.join(ROOT, 'uapi/linux/portal_vmbus.h'),
                      os.path.join(ROOT, 'userspace/portald/proto.h')]:
        with open(f, 'rb') as data:
            h.update(os.path.basename(f).encode() + b'\0' + data.read())
    return h.hexdigest()[:16]


def build():
    """The directory with portal-vsp.so and the program vspctl."""
    directory = headers()
    path = os.path.join(cache_dir('vsp'), _key(directory))
    with lock('vsp'):
        if not os.path.isdir(path):
            with building(path) as tmp:
                run(['make', '-s', '-j2', '-C', SOURCE, 'O=' + tmp,
                     'QEMU_HEADERS=' + directory])
            old = sorted(glob.glob(cache_dir('vsp') + '/*'),
                         key=os.path.getmtime)[:-4]
            for d in old:
                shutil.rmtree(d, ignore_errors=True)
    return path
