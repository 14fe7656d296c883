#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Configuration, command line, and what portald says about bad input: one line
that names the place and the remedy, and a non-zero exit code."""
import os
import stat
import subprocess
import xml.etree.ElementTree

from portaldtest import *

point = Tap()
DIR_GONE = '/nonexistent/dir'


def one_line(r, code, *texts):
    equal(r.returncode, code, f'exit code of: {r.stderr!r}')
    lines = r.stderr.rstrip('\n').split('\n')
    check(len(lines) == 1, f'{len(lines)} lines: {r.stderr!r}')
    check(lines[0].startswith('portald: '), lines[0])
    for t in texts:
        check(t in lines[0], f'{t!r} is not in {lines[0]!r}')


def with_file(stack, text, *args):
    path = os.path.join(scratch(stack), 'portald.conf')
    with open(path, 'w') as f:
        f.write(text)
    return run('--config', path, '--check-config', *args), path


OPTIONS = [
    (['--size', '48M'], ['not a power of two', '32M', '64M']),
    (['--size', '4K'], ['too small', '64K']),
    (['--size', '2T'], ['too large']),
    (['--size', 'big'], ["'big' is not a size"]),
    (['--size', '-1'], ['is not a size']),
    (['--size', '99999999999999999999999'], ['is not a size']),
    (['--size', '18446744073709551615T'], ['is not a size']),
    ([], ['no size', 'power of two']),
    (['--size', '1M', '--size', '2M'], ['size is given twice']),
    (['--size', '1M', '--vectors', '0'], ['vectors', '1 to 64']),
    (['--size', '1M', '--vectors', '65'], ['vectors', '1 to 64']),
    (['--size', '1M', '--vectors', 'four'], ['vectors', "'four'"]),
    (['--size', '1M', '--vectors', '4294967300'], ['vectors']),
    (['--size', '1M', '--host-peers', '257'], ['host_peers', '0 to 256']),
    (['--size', '1M', '--first-guest-id', '3'], ['inside the host\'s block 0..7']),
    (['--size', '1M', '--group', 'no-such-group'], ["group 'no-such-group'", 'groupadd']),
    (['--size', '1M', '--owner', 'no-such-user'], ["user 'no-such-user'"]),
    (['--size', '1M', '--mode', '999'], ['octal mode']),
    (['--size', '1M', '--mode', '7777'], ['octal mode']),
    (['--size', '1M', '--hugepages=3M'], ['hugepages', '2M']),
    (['--size', '1M', '--config', '/dev/null'], ['leave out --config']),
    (['--size', '1M', '--managed=perhaps'], ['managed', 'neither yes nor no']),
    (['--size', '1M', '--sessions', '4'], ['sessions', 'managed = yes']),
    (['--size', '1M', '--managed', '--sessions', '0'], ['sessions', '1 to 65536']),
    (['--size', '128K', '--managed'], ['too small for a managed portal']),
    (['--size', '1M', '--managed', '--sessions', '500'], ['too small', 'sessions fewer']),
    (['--size', '1G', '--managed', '--sessions', '5000'], ['(max_guests + 1) x sessions', '65536']),
]


@point('bad options: one line each, exit 2')
def _(stack):
    for args, texts in OPTIONS:
        one_line(run('--name', 'demo', *args, '--check-config'), 2, *texts)
    one_line(run('--size', '1M'), 2, '--size needs --name')
    for name in ('', '9x', 'a/b', 'a b', 'x' * 33, '../x', "a'b", 'a,b'):
        one_line(run('--name', name, '--size', '1M', '--check-config'), 2,
                 "is not a portal's name")
    one_line(run('frobnicate', 'demo'), 2, 'is no command')
    one_line(run('status'), 2, 'which portal?')
    if not os.path.exists('/etc/vmportal/portald.conf'):
        one_line(run('--check-config'), 2, '/etc/vmportal/portald.conf', '--name')


@point('bad files: FILE:LINE, exit 2')
def _(stack):
    cases = [
        ('[demo]\nsize = 1M\n\ncolour = red\n', 4, ["unknown key 'colour'"]),
        ('[demo]\nsize = 3M\n', 2, ['power of two']),
        ('[demo]\nvectors = 4\n', 1, ['no size']),
        ('[demo]\n', 1, ['no size']),
        ('[demo]\nsize = 1M\n[demo]\nsize = 1M\n', 3, ['is there already', ':1)']),
        ('# c\nsize = 1M\n', 2, ['before the first']),
        ('[demo]\nsize = 1M\nnonsense\n', 3, ['neither']),
        ('[demo]\nsize = 1M\nsize = 2M\n', 3, ['twice']),
        ('[demo]\nsize = 1M # one\n', 2, ['not a size']),
        ('[de mo]\nsize = 1M\n', 1, ["portal's name"]),
        ('[demo\nsize = 1M\n', 1, ['section']),
        ('[demo]\nowner = ' + 'x' * 300 + '\n', 2, ['too long']),
        ('[' + 'x' * 60 + ']\nsize = 1M\n', 1, ["portal's name"]),
        ('[' + 'x' * 100 + ']\nsize = 1M\n', 1, ['section']),
        ('socket_dir = relative\n', 1, ['absolute']),
        ('[demo]\nsize = 1M\n  vectors = 99\n', 3, ['1 to 64']),
        ('[demo]\nsize = 1M\ngroup = no-such-group\n', 3, ['no group']),
    ]
    for text, line, texts in cases:
        r, path = with_file(stack, text)
        one_line(r, 2, f'{path}:{line}: ', *texts)
    one_line(run('--config', DIR_GONE, '--check-config'), 2, DIR_GONE, 'No such file')
    d = scratch(stack)
    one_line(run('--config', d, '--check-config'), 2, d, 'Is a directory')


@point('a good file, with everything in it')
def _(stack):
    r, _ = with_file(stack, '''; comment
socket_dir = /tmp/somewhere
[one]
size = 64M
vectors = 8
host_peers = 2
max_guests = 3
stall_timeout = 10
connect_rate = 0
hugepages = no
prealloc = yes
owner = root
group = root
mode = 0666
managed = yes
sessions = 12
# another
[two]
  size=1GiB ; indented, and a comment
''')
    equal((r.returncode, r.stderr), (0, ''), 'result')
    equal(r.stdout.split('\n')[:2], ['one: 65536 KiB, 8 vectors, host ids 2, 3 guests at most',
          'two: 1048576 KiB, 4 vectors, host ids 8, 64 guests at most'], 'printed')


@point('the default of max_guests leaves QEMU within the usual limit of descriptors')
def _(stack):
    for vectors, host, want in ((1, 8, 64), (16, 8, 48), (64, 8, 6), (64, 13, 1), (64, 200, 1)):
        r = run('--name', 'x', '--size', '1M', '--vectors', str(vectors), '--host-peers',
                str(host), '--check-config')
        check(f' {want} guests at most' in r.stdout, r.stdout + r.stderr)


@point('directories: made, refused, too long')
def _(stack):
    base = scratch(stack)
    d = Daemon(stack, directory=os.path.join(base, 'new'))
    d.guest()
    one_line(run('--name', 'x', '--size', '1M', '--socket-dir', DIR_GONE), 1, DIR_GONE,
             'cannot make')
    path = os.path.join(base, 'file')
    open(path, 'w').close()
    one_line(run('--name', 'x', '--size', '1M', '--socket-dir', path), 1, 'not a directory')
    long = os.path.join(base, 'y' * 100)
    os.mkdir(long)
    one_line(run('--name', 'x', '--size', '1M', '--socket-dir', long), 1, 'longer than the 107')
    if os.geteuid() != 0:
        os.mkdir(os.path.join(base, 'ro'), 0o555)
        one_line(run('--name', 'x', '--size', '1M', '--socket-dir', os.path.join(base, 'ro')),
                 1, 'not writable')
        return
    os.chmod(base, 0o755)
    os.mkdir(os.path.join(base, 'ro'), 0o755)
    r = subprocess.run([portald_path(), '--name', 'x', '--size', '1M', '--socket-dir',
                        os.path.join(base, 'ro')], stderr=subprocess.PIPE, text=True,
                       timeout=PATIENT, preexec_fn=lambda: os.setuid(61234))
    one_line(r, 1, 'not writable')


@point('owner, group and mode of the sockets')
def _(stack):
    d = Daemon(stack)
    for s in ('ivshmem', 'sock'):
        equal(stat.S_IMODE(os.stat(d.sock(s)).st_mode), 0o660, 'default mode')
    if os.geteuid() != 0:
        raise Skip('giving sockets away needs root')
    d = Daemon(stack, '--owner', '1234', '--group', 'daemon', '--mode', '0606')
    import grp
    for s in ('ivshmem', 'sock'):
        st = os.stat(d.sock(s))
        equal((st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)),
              (1234, grp.getgrnam('daemon').gr_gid, 0o606), s)


@point('without privileges: $XDG_RUNTIME_DIR/vmportal, and all of it works')
def _(stack):
    if os.geteuid() != 0:
        raise Skip('needs root, to become another user')
    base = scratch(stack)
    os.chown(base, 61234, 61234)
    env = dict(os.environ, XDG_RUNTIME_DIR=base)

    def drop():
        os.setgroups([])
        os.setgid(61234)
        os.setuid(61234)
    p = subprocess.Popen([portald_path(), '--name', 'mine', '--size', '1M'], env=env,
                         preexec_fn=drop, stderr=subprocess.PIPE, text=True)
    stack.callback(p.stderr.close)
    stack.callback(p.wait, 5)
    stack.callback(p.terminate)
    check('serving' in p.stderr.readline(), 'does not serve')
    g = Guest(os.path.join(base, 'vmportal', 'mine.ivshmem'))
    r = subprocess.run([portald_path(), 'status', 'mine'], env=env, preexec_fn=drop,
                       stdout=subprocess.PIPE, text=True, timeout=PATIENT)
    check('guests 1 of' in r.stdout, r.stdout)
    g.close()


@point('huge pages: used where there are some, else an error that says how to get them')
def _(stack):
    sys_dir = '/sys/kernel/mm/hugepages'
    sizes = os.listdir(sys_dir) if os.path.isdir(sys_dir) else []
    if not sizes:
        r = run('--name', 'x', '--size', '4M', '--hugepages', '--socket-dir', scratch(stack))
        one_line(r, 1, 'no huge pages', 'hugepages = no')
        return
    d = scratch(stack)
    r = run('--name', 'x', '--size', '1T', '--hugepages=2M', '--socket-dir', d)
    one_line(r, 1, '524288 pages of 2048 kB needed', 'nr_hugepages', 'hugepages = no')
    r = run('--name', 'x', '--size', '1M', '--hugepages=2M', '--socket-dir', d)
    one_line(r, 1, 'smaller than one page')
    r = run('--name', 'x', '--size', '1G', '--hugepages=64M', '--socket-dir', d)
    one_line(r, 1, 'no huge pages of 65536 kB')
    free = f'{sys_dir}/hugepages-2048kB/'
    old = open(free + 'nr_hugepages').read()
    try:
        with open(free + 'nr_hugepages', 'w') as f:
            f.write(str(int(old) + 4))
        stack.callback(lambda: open(free + 'nr_hugepages', 'w').write(old))
    except OSError as e:
        raise Skip(f'errors seen; the pages themselves not: {e}')
    if int(open(free + 'free_hugepages').read()) < 4:
        raise Skip('errors seen; the pages themselves not: no four free ones')
    d = Daemon(stack, '--hugepages=2M', size='8M')
    equal(os.fstat(d.guest().region).st_blksize, 2 << 20, 'page size')
    equal(int(open(free + 'resv_hugepages').read()), 4, 'pages reserved')


@point('prealloc takes the memory at the start')
def _(stack):
    d = Daemon(stack, '--prealloc', size='4M')
    equal(os.fstat(d.guest().region).st_blocks * 512, 4 << 20, 'allocated')
    d = Daemon(stack, size='4M')
    equal(os.fstat(d.guest().region).st_blocks, 0, 'allocated without it')


@point('qemu-args and libvirt-xml: from the daemon, from the file, or not at all')
def _(stack):
    d = Daemon(stack, '--vectors', '7')
    r = run('qemu-args', 'demo', '--socket-dir', d.dir)
    want = f'-chardev socket,path={d.dir}/demo.ivshmem,id=vmportal-demo ' \
           '-device ivshmem-doorbell,chardev=vmportal-demo,vectors=7\n'
    equal((r.returncode, r.stdout), (0, want), 'of a running one')
    r = run('libvirt-xml', 'demo', '--socket-dir', d.dir)
    x = xml.etree.ElementTree.fromstring(r.stdout)
    equal((x.tag, x.find('server').get('path'), x.find('msi').get('vectors'),
           x.find('model').get('type')),
          ('shmem', d.sock('ivshmem'), '7', 'ivshmem-doorbell'), 'libvirt')
    path = os.path.join(d.dir, 'c.conf')
    with open(path, 'w') as f:
        f.write('socket_dir = /tmp/a,b&c\n[idle]\nsize = 1M\nvectors = 9\n')
    r = run('libvirt-xml', 'idle', '--config', path)
    x = xml.etree.ElementTree.fromstring(r.stdout)
    equal((x.find('server').get('path'), x.find('msi').get('vectors')),
          ('/tmp/a,b&c/idle.ivshmem', '9'), 'of one that does not run')
    one_line(run('qemu-args', 'idle', '--config', path), 1, 'take apart')
    with open(path, 'w') as f:
        f.write('socket_dir = /tmp/a,b\n[idle]\nsize = 1M\n')
    r = run('qemu-args', 'idle', '--config', path)
    check('path=/tmp/a,,b/idle.ivshmem,id=' in r.stdout, r.stdout)
    one_line(run('qemu-args', 'nobody', '--socket-dir', d.dir), 1, 'nobody serves')
    one_line(run('status', 'nobody', '--socket-dir', d.dir), 1, 'nobody serves')
    one_line(run('status', '../../etc/passwd', '--socket-dir', d.dir), 2, "portal's name")


@point('--help and --version')
def _(stack):
    r = run('--help')
    equal((r.returncode, r.stderr), (0, ''), '--help')
    for word in ('--socket-dir', 'qemu-args NAME', 'libvirt-xml', 'status'):
        check(word in r.stdout, word)
    check(all(len(s) <= 80 for s in r.stdout.split('\n')), 'wider than a terminal')
    r = run('--version')
    check(r.returncode == 0 and r.stdout.startswith('portald '), r.stdout)
    r = run('--no-such-option')
    equal(r.returncode, 2, 'exit code')


point.run()
