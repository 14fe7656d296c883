#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""House rules that a program can check, on the files git knows, as TAP."""
import os
import re
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, 'tests', 'vm'))
from lab.tap import Tap  # noqa: E402

UAPI = '(GPL-2.0-only WITH Linux-syscall-note) OR MIT'
MAX_LINES = 750

# Headers of buses and subsystems that the core must not know.
BUS = re.compile(r'#\s*include\s*<(linux/(pci|virtio|hyperv|acpi|vfio|uio|'
                 r'platform_device|nvdimm|libnvdimm|dax|memremap)[^>]*|'
                 r'asm/mshyperv.h|.*hv[^>]*)>')


def files():
    """What git tracks, and what it would: nobody's file is left out."""
    try:
        out = subprocess.run(
            ['git', '-c', 'safe.directory=*', '-C', TOP, 'ls-files', '-z',
             '--cached', '--others', '--exclude-standard'],
            check=True, capture_output=True).stdout.decode().split('\0')
    except (OSError, subprocess.CalledProcessError):
        out = []        # an unpacked archive
        for base, dirs, names in os.walk(TOP):
            dirs[:] = [d for d in dirs if d not in ('.git', 'build')]
            out += [os.path.relpath(os.path.join(base, n), TOP) for n in names]
    return sorted(f for f in out if f and os.path.isfile(os.path.join(TOP, f)))


def read(name):
    with open(os.path.join(TOP, name), errors='replace') as f:
        return f.read()


def find(names, pattern, strip=False):
    """file:line: text of each match."""
    hits = []
    for name in names:
        text = without_comments(read(name)) if strip else read(name)
        for n, line in enumerate(text.splitlines(), 1):
            if re.search(pattern, line):
                hits.append('%s:%d: %s' % (name, n, line.strip()[:120]))
    return hits


def without_comments(text):
    """C without comments, line numbers kept."""
    def blank(m):
        return re.sub(r'[^\n]', ' ', m.group(0))
    return re.sub(r'/\*.*?\*/|//[^\n]*', blank, text, flags=re.S)


def licence(name):
    """The licence a file must have."""
    if name.startswith('uapi/'):
        return UAPI
    if name.startswith('drivers/') or name in ('Kbuild', 'dkms.conf'):
        return 'GPL-2.0-only'
    return 'MIT'


def kernel_module_dirs(names):
    """Directories of in-kernel test modules: those with a Kbuild."""
    return {os.path.dirname(n) for n in names
            if os.path.basename(n) == 'Kbuild' and n.startswith('tests/')}


# What a managed portal adds to the library.
MANAGED = ['managed', 'session', 'unix_ask', 'lock', 'directory', 'object', 'hub', 'hub_lane',
           'hub_name', 'hub_producer', 'hub_wait']


def errors(names):
    """Errnos that are not in portal-layout(5)'s one table, stand there for nothing, or are in no test."""
    page = read('userspace/man/portal-layout.5')
    table = re.findall(r'^(E[A-Z]+)\t', page[page.index('.SH ERRORS'):], re.M)
    code = ''.join(read('userspace/lib/%s.c' % n) for n in MANAGED)
    given = set(re.findall(r'(?:vmp_fail(?:_quickly)?\(|return |= )-(E[A-Z]+)\b', code))
    # How functions of the library tell each other; ENXIO: a session without a doorbell.
    given -= {'EREMCHG', 'ENXIO', 'EPIPE', 'ECONNRESET', 'ENODEV'}
    tests = ''.join(read(n) for n in names if re.match(r'tests/(unit|guest)/.*\.c$', n))
    # The layout's own, and the kernel's.
    elsewhere = {'EFBIG', 'EUSERS', 'ENODATA', 'EACCES'}
    return (['%s: given, not in the table' % e for e in sorted(given - set(table))] +
            ['%s: in the table twice' % e for e in sorted(set(table)) if table.count(e) > 1] +
            ['%s: in the table, never given' % e for e in sorted(set(table) - given - elsewhere)] +
            ['%s: in no test' % e for e in sorted(set(table)) if not re.search(r'-?\b%s\b' % e, tests)])


def unexplained():
    """Constants of linux/portal.h that are not in portal(4), symbols of the library that are not in
    vmportal(3); and what the pages name that is not there."""
    header, four = read('uapi/linux/portal.h'), read('userspace/man/portal.4')
    # Of numbers and lengths that only a declaration needs.
    constants = set(re.findall(r'^#define (PORTAL_\w+)', header, re.M)) - {
        'PORTAL_IOCTL_TYPE', 'PORTAL_TRANSPORT_LEN', 'PORTAL_IDENTITY_LEN'}
    symbols = set(re.findall(r'^\t(vmp_\w+);', read('userspace/lib/vmportal.map'), re.M))
    three = re.sub(r'\bvmp_get_\*|\bvmp_msg_fn\b', '', read('userspace/man/vmportal.3'))
    named4 = set(re.findall(r'\bPORTAL_[A-Z_]+', four))
    named3 = set(re.findall(r'\bvmp_\w+', re.sub(r'struct vmp_\w+', '', three)))
    return (['there is nothing to look at'] * (len(constants) < 20 or len(symbols) < 20) +
            ['%s: not in portal(4)' % n for n in sorted(constants - named4)] +
            ['%s: portal(4) has it, linux/portal.h has not' % n for n in sorted(named4 - constants)] +
            ['%s: not in vmportal(3)' % n for n in sorted(symbols - named3)] +
            ['%s: vmportal(3) has it, the library has not' % n for n in sorted(named3 - symbols)])


def main(t):
    names = files()
    c = [n for n in names if n.endswith(('.c', '.h'))]
    drivers = [n for n in c if n.startswith('drivers/')]
    plain = [n for n in drivers if not n.startswith('drivers/compat/')]
    core = [n for n in drivers if n.startswith('drivers/core/')]
    transports = [n for n in drivers if n.startswith('drivers/transport/')]
    t.ok(len(names) > 50 and drivers and core and transports,
         'there is a source tree to look at', '%d files' % len(names))

    in_kernel = kernel_module_dirs(names)
    bad = []
    for n in names:
        if n.startswith('LICENSES/') or os.path.basename(n) in ('LICENSE',
                                                                'COPYING'):
            continue
        m = re.search(r'SPDX-License-Identifier: ([^\n]*?)\s*(\*/|-->)?\n',
                      read(n)[:400] + '\n')
        want = licence(n)
        if os.path.dirname(n) in in_kernel:
            want = 'GPL-2.0-only'
        allowed = {want}
        if n in ('Kbuild', 'dkms.conf') or (os.path.basename(n) == 'Makefile'):
            allowed |= {'MIT', 'GPL-2.0-only'}  # build files may be either
        if n.startswith('drivers/') and not n.endswith(('.c', '.h')):
            allowed |= {'MIT'}
        if not m:
            bad.append(n + ': no SPDX line at its top')
        elif m.group(1) not in allowed:
            bad.append('%s: %s, not %s' % (n, m.group(1), want))
    t.ok(not bad, 'every file names its licence, and the right one',
         '\n'.join(bad))

    t.equal(find(plain, r'LINUX_VERSION_CODE|KERNEL_VERSION\b|UTS_RELEASE',
                 True), [],
            'no kernel version is asked for outside drivers/compat')
    t.equal([h for h in find(plain, r'^\s*#\s*(el)?if(n?def)?\b', True)
             if not re.search(r'#\s*ifndef _[A-Z_]+H$|TRACE_HEADER_MULTI_READ|'
                              r'#\s*if(n?def)? CONFIG_COMPAT$', h)], [],
            'no conditional compilation outside drivers/compat')
    t.equal(find(core, BUS), [], 'the core includes no bus header')
    t.equal(find(transports, r'copy_(to|from)_user|\b[gp]et_user\b|__user\b|'
                 r'struct file\b|vm_area_struct|linux/(fs|cdev|miscdevice)\.h',
                 True), [],
            'transports know no file, no user pointer, no VMA')
    t.equal(find([n for n in drivers if n != 'drivers/core/ioctl.c'],
                 r'copy_\w*(to|from)_user|\b[gp]et_user\(|copy_struct_from',
                 True), [],
            'only ioctl.c copies from and to user memory')
    t.equal(find([n for n in core if not n.endswith(('core/mmap.c', 'core.h'))],
                 r'vmf_insert|struct vm_fault|vm_operations_struct|vm_flags',
                 True), [],
            'only mmap.c touches VMAs')
    t.equal([h for h in find([n for n in c if n.startswith('uapi/')],
                             r'#\s*include')
             if not re.search(r'<linux/(types|ioctl)\.h>', h)], [],
            'uapi headers include linux/types.h and linux/ioctl.h only')
    t.equal(find([n for n in c if n.startswith('userspace/portalctl/')],
                 r'"(lib|\.\./lib)/|linux/portal'), [],
            'portalctl uses the public header only')
    t.equal(['%s: %d lines' % (n, read(n).count('\n')) for n in names
             if n.endswith(('.c', '.h', '.py', '.sh')) and
             read(n).count('\n') > MAX_LINES], [],
            'no source file is longer than %d lines' % MAX_LINES)
    t.equal(errors(names), [], 'portal-layout(5) has all errnos of a managed portal, and each has a test')
    t.equal(unexplained(), [], 'portal(4) explains all of linux/portal.h, vmportal(3) each symbol')
    # Git keeps the mode that an edit may lose; what is built later is not there yet.
    commands = {line.split()[2] for line in read('tests/suites').splitlines()
                if line and not line.startswith('#')}
    t.equal([n for n in sorted(commands & set(names))
             if not os.access(os.path.join(TOP, n), os.X_OK)], [],
            'every script that tests/suites names can be run')
    stale = subprocess.run([os.path.join(TOP, 'tests/mutate/run'), '-c'], capture_output=True, text=True)
    t.ok(stale.returncode == 0, 'every mutant fits the source (tests/mutate)', stale.stdout + stale.stderr)
    # Assembled, so that this file does not find itself.
    local = r'(?<![\w.$/}-])/(%s)/\w' % '|'.join(['wo' + 'rk', 'fa' + 'rm',
                                                 'ho' + 'me'])
    t.equal(find(names, local), [], 'no path of somebody\'s machine is named')
    t.equal(find(c, r'\b(TODO|FIXME|XXX)\b'), [],
            'no unfinished business is left in the sources')
    t.equal(find(c, r'[ \t]+$'), [], 'no trailing blanks')


if __name__ == '__main__':
    with Tap() as tap:
        main(tap)
