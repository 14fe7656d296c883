# SPDX-License-Identifier: MIT
"""Debian packages of any suite, fetched and unpacked but never installed.

A private APT (own sources, lists, cache) leaves the machine's own untouched;
APT verifies signatures and checksums as ever. Debian's index sometimes names
a file that is gone already: download() then raises Gone, and the caller takes
a neighbour.
"""
import functools
import glob
import os
import re
import time

from .cache import LabError, cache_dir, lock, run, say

KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'

# Suite, where, architectures. Newest kernels and QEMU live in the later ones;
# arm64 is needed for the cross build and the mixed pair only.
SUITES = [
    ('bullseye', 'main', 'amd64'),
    ('bullseye-security', 'security', 'amd64'),
    ('bookworm', 'main', 'amd64,arm64'),
    ('bookworm-security', 'security', 'amd64,arm64'),
    ('bookworm-backports', 'main', 'amd64'),
    ('trixie', 'main', 'amd64'),
    ('trixie-backports', 'main', 'amd64'),
    ('sid', 'main', 'amd64'),
]

INDEX_MAX_AGE = 24 * 3600


class Gone(LabError):
    """The index names the package, but the mirror has it no more."""


def mirrors():
    """The machine's own mirrors, so that a local one or a proxy is used."""
    found = {}
    files = ['/etc/apt/sources.list'] + glob.glob('/etc/apt/sources.list.d/*')
    for path in files:
        try:
            text = open(path, errors='replace').read()
        except OSError:
            continue
        text = re.sub(r'(?m)^\s*#.*$', '', text)
        for uri in re.findall(r'\b(?:https?|file|mirror\+\w+):/\S+', text):
            uri = uri.rstrip('/')
            if uri.endswith('/debian'):
                found.setdefault('main', uri)
            elif uri.endswith('/debian-security'):
                found.setdefault('security', uri)
    found.setdefault('main', 'http://deb.debian.org/debian')
    found.setdefault('security', re.sub('/debian$', '/debian-security',
                                        found['main']))
    return found


@functools.lru_cache(None)
def _config():
    """Write the private configuration; return its path."""
    base = cache_dir('apt')
    cache_dir('apt', 'lists', 'partial')
    cache_dir('apt', 'archives', 'partial')
    m = mirrors()
    sources = ''.join('deb [arch=%s signed-by=%s] %s %s main\n' %
                      (arch, KEYRING, m[where], suite)
                      for suite, where, arch in SUITES)
    config = '''\
#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Post-Invoke;
#clear APT::Architectures;
APT::Architectures { "amd64"; "arm64"; };
APT::Default-Release "";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Etc::sourcelist "%(b)s/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "%(b)s/lists";
Dir::State::status "%(b)s/status";
Dir::Cache "%(b)s";
Dir::Cache::archives "%(b)s/archives";
Dir::Cache::pkgcache "%(b)s/pkgcache.bin";
Dir::Cache::srcpkgcache "";
''' % {'b': base}
    for name, text in (('sources.list', sources), ('apt.conf', config),
                       ('status', '')):
        path = os.path.join(base, name)
        if not os.path.exists(path) or open(path).read() != text:
            with open(path, 'w') as f:
                f.write(text)
    return os.path.join(base, 'apt.conf')


def _stamp():
    return os.path.join(cache_dir('apt'), 'updated')


def update(force=False):
    """Fetch the index unless it is a day old at most."""
    config = _config()
    with lock('apt'):
        try:
            age = time.time() - os.stat(_stamp()).st_mtime
        except OSError:
            age = None
        if age is not None and age < (60 if force else INDEX_MAX_AGE):
            return
        say('fetching the package index of Debian bullseye to sid (80 MB once)')
        p = run(['apt-get', '-c', config, '-q', 'update'], check=False)
        if p.returncode or re.search(r'(?m)^[EW]: (Failed|The repository)',
                                     p.stdout):
            if age is None:
                raise LabError('no package index: check the network and %s\n%s'
                               % (config, p.stdout[-2000:]))
            say('the index could not be refreshed; using the one at hand')
        with open(_stamp(), 'w'):
            pass
    names.cache_clear()
    show.cache_clear()


def _cache_tool(*args):
    return run(['apt-cache', '-c', _config()] + list(args), check=False).stdout


@functools.lru_cache(None)
def names(pattern):
    """Package names that match an extended regular expression."""
    update()
    out = _cache_tool('search', '--names-only', pattern)
    return sorted({line.split()[0] for line in out.splitlines() if line})


@functools.lru_cache(None)
def show(package):
    """The package's stanzas, APT's candidate first; [] if unknown.
    package may carry an architecture ("x:arm64")."""
    update()
    result = []
    for stanza in _cache_tool('show', package).split('\n\n'):
        fields = dict(re.findall(r'(?m)^([A-Za-z0-9-]+): (.*)$', stanza))
        if 'Version' in fields:
            result.append(fields)
    return result


def download(package, version=None):
    """Return the path of the package's .deb, fetched if need be."""
    stanzas = [s for s in show(package) if version in (None, s['Version'])]
    if not stanzas:
        raise LabError('Debian has no package %s%s' % (
            package, ' of version ' + version if version else ''))
    s = stanzas[0]
    debs = cache_dir('debs')
    path = os.path.join(debs, '%s_%s_%s.deb' % (
        s['Package'], s['Version'].replace(':', '%3a'), s['Architecture']))
    with lock('deb-' + os.path.basename(path)):
        if os.path.exists(path):
            return path
        say('fetching %s (%.1f MB)' % (os.path.basename(path),
                                       int(s['Size']) / 1e6))
        tmp = cache_dir('debs', 'partial-%d' % os.getpid())
        p = run(['apt-get', '-c', _config(), '-q', 'download',
                 '%s=%s' % (package, s['Version'])], cwd=tmp, check=False)
        got = glob.glob(os.path.join(tmp, '*.deb'))
        if p.returncode == 0 and len(got) == 1:
            os.rename(got[0], path)
        for rest in glob.glob(os.path.join(tmp, '*')):
            os.unlink(rest)
        os.rmdir(tmp)
        if not os.path.exists(path):
            raise Gone('%s could not be fetched:\n%s' % (
                os.path.basename(path), p.stdout[-1000:]))
    return path


def source(package, version, suite):
    """Return the path of the source package's upstream tarball: of this
    version, or of another of the same upstream version."""
    upstream = re.sub(r'^\d+:|-[^-]*$', '', version)
    tarball = os.path.join(cache_dir('debs'),
                           '%s_%s.orig.tar.xz' % (package, upstream))
    with lock('source-' + package):
        if os.path.exists(tarball):
            return tarball
        config = _source_config(suite)
        run(['apt-get', '-c', config, '-q', 'update'])
        text = run(['apt-cache', '-c', config, 'showsrc', package],
                   check=False).stdout
        have = re.findall(r'(?m)^Version: (.*)$', text)
        same = [v for v in have
                if re.sub(r'^\d+:|-[^-]*$', '', v) == upstream]
        if not same:
            raise Gone('%s has no source of %s %s (but of %s); remove what was '
                       'fetched from there before, in %s' % (
                           suite, package, upstream, ', '.join(have) or 'none',
                           cache_dir()))
        tmp = cache_dir('debs', 'partial-%d' % os.getpid())
        say('fetching the source of %s %s' % (package, upstream))
        # The tarball alone: it is what the checksums are about, and mirrors
        # lose the rest sooner.
        run(['apt-get', '-c', config, '-q', 'source', '--download-only',
             '--tar-only', '%s=%s' % (package, same[0])], cwd=tmp)
        os.rename(os.path.join(tmp, os.path.basename(tarball)), tarball)
        os.rmdir(tmp)
    return tarball


def _source_config(suite):
    """A configuration with the source index of one suite only."""
    base = cache_dir('apt-src-' + suite)
    for part in ('lists', 'archives'):
        cache_dir('apt-src-' + suite, part, 'partial')
    with open(_config()) as f:
        text = f.read()
    files = {'apt.conf': text.replace(cache_dir('apt') + '/', base + '/')
             .replace('"%s"' % cache_dir('apt'), '"%s"' % base),
             'sources.list': 'deb-src [signed-by=%s] %s %s main\n' % (
                 KEYRING, mirrors()['main'], suite), 'status': ''}
    for name, content in files.items():
        with open(os.path.join(base, name), 'w') as f:
            f.write(content)
    return os.path.join(base, 'apt.conf')


def unpack(deb, where):
    run(['dpkg', '-x', deb, where])
