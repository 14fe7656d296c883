# SPDX-License-Identifier: MIT
"""Debian kernels, unpacked side by side: image, modules, headers, kbuild.

find("6.1") resolves to the newest ABI of that series whose image and headers
can both be had ("6.1.0-56"), find("newest") to the newest of all suites. What
a name resolved to is kept for a week, so that a run does not change kernels
half way, and works without a network.
"""
import functools
import glob
import json
import os
import re
import shutil
import time

from . import debs
from .cache import LabError, building, cache_dir, lock, run, say

NAME_MAX_AGE = 7 * 24 * 3600

# The series that the project promises to work with, oldest first.
SERIES = ['5.10', '6.1', '6.12', 'newest']


class Kernel:
    """One unpacked kernel. All paths are absolute."""

    def __init__(self, abi, flavour):
        self.abi = abi                  # "6.1.0-56", "7.3.4+deb13"
        self.flavour = flavour          # "cloud-amd64", "amd64", "arm64" ...
        self.release = abi + '-' + flavour      # uname -r
        self.arch = 'arm64' if 'arm64' in flavour else 'amd64'
        self.dir = os.path.join(cache_dir('kernels'), self.release)

    def _one(self, *patterns):
        for pattern in patterns:
            found = sorted(glob.glob(os.path.join(self.dir, pattern)))
            if found:
                return found[0]
        raise LabError('%s has no %s' % (self.dir, patterns[0]))

    @property
    def image(self):
        return self._one('boot/vmlinuz-*', 'usr/lib/modules/*/vmlinuz*')

    @property
    def modules(self):
        """The directory that holds kernel/ and modules.dep."""
        return os.path.dirname(self._one('lib/modules/*/modules.dep',
                                         'usr/lib/modules/*/modules.dep'))

    @property
    def headers(self):
        """What KDIR is to be."""
        return os.path.join(self.dir, 'usr/src/linux-headers-' + self.release)

    @property
    def version(self):
        return tuple(int(n) for n in re.match(r'(\d+)\.(\d+)',
                                              self.abi).groups())

    @property
    def root(self):
        """The suite whose root file system its host tools need; None: here.
        They are linked with the libc of the release they were built for."""
        m = re.search(r'\+deb(\d+)', self.abi)
        return {None: None, '12': None, '13': 'trixie'}.get(
            m and m.group(1), 'sid')

    @property
    def gcc(self):
        """The compiler to build modules with."""
        if self.root is None:
            return 'gcc-12'
        return open(os.path.join(self.dir, 'gcc')).read().strip()

    def config(self, option):
        """"y", "m", a value, or None if not set."""
        return _config(os.path.join(self.headers, '.config')).get(option)


@functools.lru_cache(None)
def _config(path):
    return dict(re.findall(r'(?m)^CONFIG_(\w+)=(.*)$', open(path).read()))


def _version_key(abi):
    """Sorts ABIs as versions: 6.12.90+deb12 < 6.12.90+deb12.1 < 6.12.111."""
    return [int(n) for n in re.findall(r'\d+', abi)]


def _image_packages(abi, flavour):
    """Names of the packages that make up the image, or None.
    Since 6.19 it comes in parts; a fresh kernel is first there unsigned."""
    suffix = ':arm64' if 'arm64' in flavour else ''
    modules = 'linux-modules-%s-%s%s' % (abi, flavour, suffix)
    for binary in ('linux-binary-', 'linux-binary-unsigned-'):
        name = '%s%s-%s%s' % (binary, abi, flavour, suffix)
        if debs.show(name) and debs.show(modules):
            return [name, modules]
    for unsigned in ('', '-unsigned'):
        name = 'linux-image-%s-%s%s%s' % (abi, flavour, unsigned, suffix)
        if debs.show(name) and not debs.show(modules):
            return [name]
    return None


def candidates(series, flavour):
    """ABIs of the series with image and headers, newest first."""
    suffix = '-' + flavour
    pattern = r'^linux-headers-[0-9][0-9.+a-z-]*-%s$' % flavour
    abis = [n[len('linux-headers-'):-len(suffix)] for n in debs.names(pattern)]
    abis = [a for a in abis if re.fullmatch(r'[0-9.]+(-[0-9]+|\+deb[0-9.]+)', a)]
    if series != 'newest':
        abis = [a for a in abis if a == series or
                re.match(re.escape(series) + r'[.+-]', a)]
    # deb13 and later need a root file system; do with this one's if we can.
    if series == '6.12':
        abis = [a for a in abis if '+deb12' in a] or abis
    abis.sort(key=_version_key, reverse=True)
    return [a for a in abis if _image_packages(a, flavour)]


def _fetch(k):
    """All packages of a kernel as .deb paths; Gone if one cannot be had."""
    suffix = ':arm64' if k.arch == 'arm64' else ''
    headers = 'linux-headers-%s%s' % (k.release, suffix)
    stanza = debs.show(headers)[0]
    version, depends = stanza['Version'], stanza['Depends']
    kbuild = re.search(r'linux-kbuild-[^ ,]+', depends).group(0)
    gcc = re.search(r'gcc-(\d+)', depends)
    wanted = _image_packages(k.abi, k.flavour) + [
        headers, 'linux-headers-%s-common' % k.abi, kbuild]
    paths = []
    for package in wanted:
        # All of one build, wherever the names alone would allow a mixture.
        same = [s for s in debs.show(package) if s['Version'] == version]
        paths.append(debs.download(package, version if same else None))
    return paths, 'gcc-%s' % (gcc.group(1) if gcc else '12')


def _unpack(k, paths, gcc):
    with building(k.dir) as tmp:
        for deb in paths:
            debs.unpack(deb, tmp)
        with open(os.path.join(tmp, 'gcc'), 'w') as f:
            f.write(gcc + '\n')
        # The headers' Makefile names its common part by absolute path.
        makefile = os.path.join(
            tmp, 'usr/src/linux-headers-%s/Makefile' % k.release)
        text = open(makefile).read()
        with open(makefile, 'w') as f:
            f.write(re.sub(r'(?m)([ =])/usr/src/', r'\1%s/usr/src/' % k.dir,
                           text))
        for base in ('lib/modules', 'usr/lib/modules'):
            d = os.path.join(tmp, base, k.release)
            # Only an image package brings modules.dep by itself, if at all.
            if os.path.isdir(os.path.join(d, 'kernel')) and \
               not os.path.exists(os.path.join(d, 'modules.dep')):
                if base != 'lib/modules':       # where depmod looks
                    os.makedirs(os.path.join(tmp, 'lib'), exist_ok=True)
                    if not os.path.exists(os.path.join(tmp, 'lib/modules')):
                        os.symlink('../usr/lib/modules',
                                   os.path.join(tmp, 'lib/modules'))
                run(['depmod', '-b', tmp, k.release])
        for junk in ('usr/share', 'usr/lib/debug'):
            shutil.rmtree(os.path.join(tmp, junk), ignore_errors=True)


def find(series, flavour='cloud-amd64'):
    """The Kernel for "5.10", "6.1", "6.12", "newest", or an exact ABI."""
    alias = os.path.join(cache_dir('kernels'),
                         'is-%s-%s.json' % (series, flavour))
    remembered = None
    try:
        with open(alias) as f:
            remembered = Kernel(json.load(f)['abi'], flavour)
        if not os.path.isdir(remembered.dir):
            remembered = None
        elif time.time() - os.stat(alias).st_mtime < NAME_MAX_AGE:
            return remembered
    except (OSError, ValueError, KeyError):
        pass
    with lock('kernel-%s-%s' % (series, flavour)):
        try:
            k = _find_new(series, flavour)
        except LabError as e:
            if remembered is None:
                raise
            say('keeping %s: %s' % (remembered.release,
                                    str(e).splitlines()[0]))
            k = remembered
        with open(alias, 'w') as f:
            json.dump({'abi': k.abi}, f)
    return k


def _find_new(series, flavour):
    problem = 'no image with headers in the index'
    for abi in candidates(series, flavour)[:4]:
        k = Kernel(abi, flavour)
        with lock('kernel-' + k.release):
            if os.path.isdir(k.dir):
                return k
            try:
                paths, gcc = _fetch(k)
            except debs.Gone as e:
                say('%s: %s; trying its neighbour' % (
                    k.release, str(e).splitlines()[0]))
                problem = str(e)
                continue
            _unpack(k, paths, gcc)
            return k
    raise LabError('no Debian kernel %s (%s): %s' % (series, flavour, problem))
