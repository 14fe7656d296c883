#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""From start to end and start again: signals, crashes, stale sockets, systemd,
and nothing left behind however often clients come and go."""
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import threading
import time

from portaldtest import *

point = Tap()
UNITS = os.path.join(TOP, 'userspace', 'systemd')


def settle(d, watch):
    """All but watch gone, and watch has read everything about them."""
    wait_for(lambda: len(d.status()['peers']) == 1, 'all to be gone')
    last = Guest(d.sock('ivshmem'))
    watch.pump(lambda: watch.knows(last.id))
    last.close()
    watch.pump(lambda: list(watch.peers) == [watch.id])


@point('clients come, go and crash in any order, 100 rounds: no leak of fds or memory')
def _(stack):
    d = Daemon(stack, '--connect-rate', '0')
    rnd = random.Random(1)
    watch = d.process()
    base = rss = None
    for n in range(100):
        here = []
        for _ in range(rnd.randint(2, 8)):
            kind = rnd.randint(0, 4)
            if kind == 0 and len(here) < 7:
                here.append(Process(d.sock('sock')))
            elif kind == 1:     # goes before it has read anything
                Guest(d.sock('ivshmem'), greet=False).close()
            elif kind == 2:     # dies by SIGKILL in mid-greeting
                pid = os.fork()
                if pid == 0:
                    g = Guest(d.sock('ivshmem'), greet=False)
                    g.recv()
                    os.kill(os.getpid(), 9)
                os.waitpid(pid, 0)
            else:
                here.append(Guest(d.sock('ivshmem')))
        rnd.shuffle(here)
        for c in here:
            c.close()
        if n == 20:     # everything that is allocated once has been
            settle(d, watch)
            base, rss = d.nfds(), d.rss_kib()
    settle(d, watch)
    wait_for(lambda: d.nfds() == base, f'{base} descriptors again, now {d.nfds()}')
    check(d.rss_kib() <= rss + 128, f'{rss} KiB grew to {d.rss_kib()} KiB')


@point('SIGTERM and SIGINT: exit 0, sockets gone, said who was left')
def _(stack):
    for sig in (signal.SIGTERM, signal.SIGINT):
        d = Daemon(stack)
        g, h = d.guest(), d.process()
        d.p.send_signal(sig)
        equal(d.exit_code(), 0, 'exit code')
        equal(os.listdir(d.dir), [], 'left behind')
        d.wait_log('ending with 1 guests and 1 processes connected')
        check(g.ended() and h.ended(), 'connections stay')


@point('SIGKILL and a new start: the sockets are replaced, the loss is said')
def _(stack):
    d = Daemon(stack)
    a, b = d.guest(), d.guest()
    a.pump(lambda: a.knows(b.id))
    d.kill()
    equal(sorted(os.listdir(d.dir)), ['demo.ivshmem', 'demo.lock', 'demo.sock'], 'stale')
    e = Daemon(stack, directory=d.dir)
    line = e.wait_log(f'earlier portald (pid {d.pid}) did not end cleanly')
    check('start their QEMU' in line and 'keep exchanging' in line, line)
    ma, mb = a.map(1 << 20), b.map(1 << 20)     # those of before still have each other
    ma[0] = 42
    equal(mb[0], 42, 'the old region')
    ring(a.peers[b.id][0])
    equal(rings(b.peers[b.id][0]), 1, 'the old doorbells')
    c = e.guest()
    equal(c.map(1 << 20)[0], 0, 'the new region')


@point('a second portald for the same name is refused and names the first')
def _(stack):
    d = Daemon(stack)
    g = d.guest()
    e = Daemon(stack, directory=d.dir, wait=False)
    equal(e.exit_code(), 1, 'exit code')
    check(len(e.lines) == 1 and f'in use by pid {d.pid} ({d.dir}/demo.lock)' in e.lines[0],
          str(e.lines))
    h = d.guest()
    g.pump(lambda: g.knows(h.id))


@point('eight started at once over stale sockets: one serves, seven say why not')
def _(stack):
    d = Daemon(stack)
    d.kill()
    for _ in range(3):
        many = [Daemon(stack, directory=d.dir, wait=False) for _ in range(8)]
        wait_for(lambda: sum(e.p.poll() is not None for e in many) == 7, 'seven to end')
        one = next(e for e in many if e.p.poll() is None)
        for e in many:
            if e is not one:
                equal(e.exit_code(), 1, 'exit code')
                check(f'in use by pid' in e.lines[0], str(e.lines))
        one.wait_log('serving')
        one.guest()
        one.process()
        one.kill()


@point('another program on the socket is not thrown out; a stale one of it is')
def _(stack):
    directory = scratch(stack)
    path = os.path.join(directory, 'demo.ivshmem')
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen(1)
    d = Daemon(stack, directory=directory, wait=False)
    equal(d.exit_code(), 1, 'exit code')
    check(f'in use by pid {os.getpid()}' in d.lines[0], d.lines[0])
    equal(os.listdir(directory), ['demo.ivshmem'], 'files')
    s.close()
    Daemon(stack, directory=directory).guest()


@point('another user\'s socket and lock are left alone')
def _(stack):
    if os.geteuid() != 0:
        raise Skip('needs root, to be two users')
    directory = scratch(stack)
    os.chown(directory, 61234, 61234)

    def drop():
        os.setgid(61234)
        os.setuid(61234)
    s = socket.socket(socket.AF_UNIX)
    s.bind(os.path.join(directory, 'demo.ivshmem'))
    os.chmod(os.path.join(directory, 'demo.ivshmem'), 0o600)
    s.listen(1)
    d = Daemon(stack, directory=directory, wait=False, preexec=drop)
    equal(d.exit_code(), 1, 'exit code')
    check("another user's socket" in d.lines[0], d.lines[0])
    equal(os.listdir(directory), ['demo.ivshmem'], 'files')
    s.close()
    os.unlink(os.path.join(directory, 'demo.ivshmem'))
    with open(os.path.join(directory, 'demo.lock'), 'w') as f:
        f.write('1\n')
    os.chmod(os.path.join(directory, 'demo.lock'), 0o600)
    d = Daemon(stack, directory=directory, wait=False, preexec=drop)
    equal(d.exit_code(), 1, 'exit code')
    check('demo.lock: Permission denied; another user' in d.lines[0], d.lines[0])


@point('a file in place of the socket is not removed')
def _(stack):
    directory = scratch(stack)
    path = os.path.join(directory, 'demo.sock')
    with open(path, 'w') as f:
        f.write('precious')
    d = Daemon(stack, directory=directory, wait=False)
    equal(d.exit_code(), 1, 'exit code')
    check('no socket; remove it' in d.lines[0], d.lines[0])
    equal(os.listdir(directory), ['demo.sock'], 'files')


@point('SIGHUP: new sections are served, bad files change nothing, guests stay')
def _(stack):
    d = Daemon(stack, config='[demo]\nsize = 1M\n')
    g = d.guest()

    def reload(text):
        with open(d.config, 'w') as f:
            f.write(text)
        d.p.send_signal(signal.SIGHUP)
    reload('[demo]\nsize = 1M\n[two]\nsize = 2M\n')
    d.wait_log('two: serving')
    h = Guest(os.path.join(d.dir, 'two.ivshmem'))
    equal(os.fstat(h.region).st_size, 2 << 20, 'size of the second')
    h.close()
    reload('[demo]\nsize = 3M\n')
    d.wait_log('reload: nothing changed:')
    reload('[demo]\nsize = 4M\n')
    d.wait_log('demo: reload: changed settings need a restart')
    d.wait_log('two: reload: no longer in the file')
    i = d.guest()
    g.pump(lambda: g.knows(i.id))
    equal(os.fstat(i.region).st_size, 1 << 20, 'size of the first')


@point('two portals of one portald have nothing in common')
def _(stack):
    d = Daemon(stack, config='[demo]\nsize=1M\n[other]\nsize=1M\nvectors=2\nhost_peers=1\n')
    d.wait_log('other: serving')
    a, b = d.guest(), Guest(os.path.join(d.dir, 'other.ivshmem'), vectors=2)
    stack.callback(b.close)
    a.map(1 << 20)[9] = 9
    equal(b.map(1 << 20)[9], 0, 'shared')
    equal(sorted(b.peers), [0, 1], 'peers')


def listeners(directory, name='demo'):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.bind(os.path.join(directory, name + '.ivshmem'))
    s.listen(8)
    t = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    t.bind(os.path.join(directory, name + '.sock'))
    t.listen(8)
    return s, t


def listens(path):
    """Does a socket listen at this path? SO_ACCEPTCON in /proc/net/unix says so."""
    with open('/proc/net/unix', encoding='ascii', errors='replace') as f:
        rows = [line.split() for line in f]
    return any(row[-1] == path and int(row[3], 16) & 0x10000 for row in rows[1:])


def activation(socks, names):
    """Arguments that start portald as systemd does: sockets from fd 3 on."""
    script = 'import os, sys\nos.environ["LISTEN_PID"] = str(os.getpid())\n'
    fds = [s.fileno() for s in socks]
    tmp = [200 + i for i in range(len(fds))]
    for a, b in zip(fds, tmp):
        script += f'os.dup2({a}, {b})\n'
    for i, b in enumerate(tmp):
        script += f'os.dup2({b}, {3 + i})\nos.close({b})\n'
    script += 'os.execv(sys.argv[1], sys.argv[1:])\n'
    env = dict(os.environ, LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
    return dict(launcher=['/usr/bin/python3', '-c', script], env=env, pass_fds=fds)


@point('socket activation: passed sockets are served, by either naming, and left alone')
def _(stack):
    for names in ('demo.ivshmem:demo.sock', 'demo:demo'):
        directory = scratch(stack)
        socks = listeners(directory)
        early = socket.socket(socket.AF_UNIX)   # came before portald did
        early.connect(os.path.join(directory, 'demo.ivshmem'))
        d = Daemon(stack, directory=directory, **activation(socks, names))
        d.guest()
        d.process()
        equal(d.status()['guests'], 2, 'guests')
        d.p.terminate()
        equal(d.exit_code(), 0, 'exit code')
        equal(sorted(os.listdir(directory)), ['demo.ivshmem', 'demo.sock'], 'files')
        early.close()
        for s in socks:
            s.close()


@point('socket activation: a socket that belongs to no portal is an error')
def _(stack):
    directory = scratch(stack)
    socks = listeners(directory, 'nix')
    d = Daemon(stack, directory=directory, wait=False, **activation(socks, 'nix:nix'))
    equal(d.exit_code(), 1, 'exit code')
    check("socket for 'nix'" in d.lines[-1], str(d.lines))
    for s in socks:
        s.close()
    directory = scratch(stack)
    s = socket.socket(socket.AF_INET)
    s.bind(('127.0.0.1', 0))
    s.listen(1)
    d = Daemon(stack, directory=directory, wait=False, **activation([s], 'demo'))
    equal(d.exit_code(), 1, 'exit code')
    check('ListenStream' in d.lines[-1], str(d.lines))
    s.close()


@point('socket activation by systemd-socket-activate')
def _(stack):
    tool = shutil.which('systemd-socket-activate')
    if not tool:
        raise Skip('systemd-socket-activate is not installed')
    directory = scratch(stack)
    path = os.path.join(directory, 'demo.ivshmem')
    p = subprocess.Popen([tool, '-l', path, '--fdname', 'demo.ivshmem', portald_path(),
                          '--socket-dir', directory, '--name', 'demo', '--size', '1M'],
                         stderr=subprocess.PIPE)
    stack.callback(p.stderr.close)
    stack.callback(p.wait, 5)
    stack.callback(p.terminate)
    # It binds first and listens then; a connection between the two is refused.
    wait_for(lambda: listens(path), 'a socket that listens')
    g = Guest(path)
    equal(g.id, 8, 'id')
    g.close()


@point('the service manager is told: READY, STATUS, STOPPING, the watchdog')
def _(stack):
    directory = scratch(stack)
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stack.callback(s.close)
    s.bind(os.path.join(directory, 'notify'))
    s.settimeout(PATIENT)
    said = queue.Queue()

    def listen():       # all the time: portald waits for its manager
        try:
            while True:
                said.put(s.recv(4096).decode())
        except OSError:
            pass
    threading.Thread(target=listen, daemon=True).start()
    d = Daemon(stack, env=dict(os.environ, NOTIFY_SOCKET=os.path.join(directory, 'notify'),
                               WATCHDOG_USEC='400000'))

    def until(text):
        seen = ''
        while text not in seen:
            seen = said.get(timeout=PATIENT)
    until('READY=1')
    d.guest()
    until('STATUS=1 portals, 1 guests, 0 processes')
    until('WATCHDOG=1')
    d.p.send_signal(signal.SIGHUP)
    until('RELOADING=1')
    until('READY=1')
    d.p.terminate()
    until('STOPPING=1')


@point('log lines: plain, as JSON, and with the journal\'s priorities')
def _(stack):
    import json
    d = Daemon(stack)
    d.guest(greet=False)
    me = open('/proc/self/comm').read().strip()
    check(d.wait_log('joined') == f'portald: demo: guest 8 joined (pid {os.getpid()}, {me})',
          d.lines[-1])
    d = Daemon(stack, '--json-log')
    d.guest()
    m = json.loads(d.wait_log('guest 8 joined'))
    me = dict(portal='demo', level='info', event='joined', kind='guest', id=8,
              pid=os.getpid(), command=me)
    equal({k: m[k] for k in me}, me, 'members')
    m = json.loads(d.wait_log('serving'))
    equal(sorted(m), ['level', 'message', 'portal', 'time'], 'members')
    r, w = os.pipe()
    st = os.fstat(w)
    p = subprocess.Popen([portald_path(), '--name', 'x', '--size', '3'], stderr=w,
                         env=dict(os.environ, JOURNAL_STREAM=f'{st.st_dev}:{st.st_ino}'))
    p.wait(5)
    os.close(w)
    text = os.read(r, 4096).decode()
    os.close(r)
    check(text.startswith('<3>') and 'portald:' not in text, text)


@point('a log that nobody reads stops nothing; what was lost is counted')
def _(stack):
    r, w = os.pipe()
    d = scratch(stack)
    p = subprocess.Popen([portald_path(), '--name', 'demo', '--size', '1M', '--vectors', '1',
                          '--connect-rate', '0', '--socket-dir', d], stderr=w)
    stack.callback(p.wait, 5)
    stack.callback(p.terminate)
    os.close(w)
    path = os.path.join(d, 'demo.ivshmem')
    wait_for(lambda: os.path.exists(path), 'the socket')
    for _ in range(1200):   # more than the 64 KiB of a pipe
        Guest(path, vectors=1, timeout=PATIENT).close()
    text = b''
    while len(text) < 60000:
        text += os.read(r, 65536)
    g = Guest(path, vectors=1)
    end = time.monotonic() + PATIENT
    while b'log lines were lost' not in text and time.monotonic() < end:
        text += os.read(r, 65536)
    check(b'log lines were lost' in text, 'not counted')
    os.close(r)
    g.close()


@point('a hostile process name cannot write into the log')
def _(stack):
    d = Daemon(stack)
    pid = os.fork()
    if pid == 0:
        with open('/proc/self/comm', 'w') as f:
            f.write('a\x1b[31m\nb\x07"')
        Guest(d.sock('ivshmem'))
        os._exit(0)
    os.waitpid(pid, 0)
    line = d.wait_log('guest 8 joined')
    check(line.isprintable(), ascii(line))


@point('the units are right in systemd\'s eyes')
def _(stack):
    tool = shutil.which('systemd-analyze')
    if not tool:
        raise Skip('systemd-analyze is not installed')
    directory = scratch(stack)
    for unit in ('portald.service', 'portald@.service', 'portald@.socket'):
        with open(os.path.join(UNITS, unit + '.in')) as f:
            text = f.read().replace('@BINDIR@', os.path.dirname(portald_path()))
        with open(os.path.join(directory, unit.replace('@.', '@demo.')), 'w') as f:
            f.write(text)
    files = [os.path.join(directory, f) for f in sorted(os.listdir(directory))]
    r = subprocess.run([tool, 'verify', '--man=no', *files], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=60)
    ours = [s for s in r.stdout.split('\n') if 'portald' in s]
    check(not ours and r.returncode == 0, r.stdout)


point.run()
