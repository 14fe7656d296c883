# SPDX-License-Identifier: MIT
"""Our user space for arm64, built on this machine.

The compiler and the C library come as Debian's cross packages; what else we
link with is unpacked from Debian's own arm64 packages into a sysroot in the
cache. Programs for guests are static: a guest has no libraries.
"""
import hashlib
import os

from . import debs
from .cache import LabError, ROOT, building, cache_dir, lock, run, say

TRIPLET = 'aarch64-linux-gnu'

# What portald and portalctl link with, and what that needs in its turn.
PACKAGES = ['libjson-c-dev', 'libjson-c5', 'nettle-dev', 'libnettle8',
            'libinih-dev', 'libinih1', 'libsystemd-dev', 'libsystemd0',
            'libcap2', 'libgcrypt20', 'libgpg-error0', 'liblz4-1', 'liblzma5',
            'libzstd1']


def sysroot():
    """The directory with the arm64 libraries and their headers."""
    key = hashlib.sha256(repr(PACKAGES).encode()).hexdigest()[:12]
    path = os.path.join(cache_dir('sysroots'), 'arm64-' + key)
    with lock('sysroot-arm64'):
        if not os.path.isdir(path):
            with building(path) as tmp:
                for package in PACKAGES:
                    debs.unpack(debs.download(package + ':arm64'), tmp)
    return path


def make_vars():
    """Variables for make that cross-build user space."""
    root = sysroot()
    libs = [os.path.join(root, d, TRIPLET) for d in ('usr/lib', 'lib')]
    wrapper = os.path.join(cache_dir('sysroots'), 'pkg-config-arm64')
    text = ('#!/bin/sh\n'
            'export PKG_CONFIG_SYSROOT_DIR=%s PKG_CONFIG_PATH=\n'
            'export PKG_CONFIG_LIBDIR=%s/pkgconfig:%s/usr/share/pkgconfig\n'
            'exec pkg-config "$@"\n' % (root, libs[0], root))
    with lock('sysroot-arm64'):
        if not os.path.exists(wrapper) or open(wrapper).read() != text:
            with open(wrapper, 'w') as f:
                f.write(text)
            os.chmod(wrapper, 0o755)
    return ['CROSS_COMPILE=%s-' % TRIPLET, 'PKG_CONFIG=' + wrapper,
            'SYSROOT=' + root,
            'LDFLAGS=' + ' '.join('-L%s -Wl,-rpath-link,%s' % (d, d)
                                  for d in libs)]


def userspace(targets=('all', 'portalctl-static')):
    """(directory, make's output) of our user space for arm64."""
    # One for each tree: make compares times, not contents.
    name = 'user-arm64-' + hashlib.sha256(ROOT.encode()).hexdigest()[:8]
    out = cache_dir(name)
    with lock(name):
        say('cross-building user space for arm64')
        p = run(['nice', 'make', '-j2', '-C', os.path.join(ROOT, 'userspace'),
                 'O=' + out] + make_vars() + list(targets), timeout=600)
    return out, p.stdout


def program(name):
    """The path of a program of ours for arm64, static."""
    out, _ = userspace(['portalctl-static'])
    path = os.path.join(out, 'bin', name + '.static')
    if not os.path.exists(path):
        raise LabError('user space for arm64 has no %s.static' % name)
    return path
