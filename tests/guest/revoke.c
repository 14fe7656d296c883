// SPDX-License-Identifier: MIT
/*
 * revoke DEVICE GO BACK: what a process feels when its portal goes, and comes back.
 *
 * GO is a shell command that takes the portal away, BACK one that brings it back:
 *	revoke /dev/portal0 'rmmod portal_loopback' 'modprobe portal_loopback'
 *	revoke /dev/portal0 'echo 0000:00:04.0 > .../portal_ivshmem/unbind' ...
 * Everything is open, mapped, bound, forked and asleep when GO runs, and GO may wait
 * for none of it. TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "guest.h"

#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>

#define GO_LIMIT_MS	PATIENT_MS	/* a removal that waits for user space takes for ever */

static const char *device;
static size_t page, size;
static struct portal_info info;

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static volatile uint32_t *map(int fd, int prot)
{
	void *m = mmap(NULL, size, prot, MAP_SHARED, fd, 0);

	if (m == MAP_FAILED)
		die("mmap");
	return m;
}

/* A thread that sleeps in the kernel until the portal goes. */
struct sleeper {
	pthread_t thread;
	int fd;
	int result;
	int error;
};

static void *sleep_in_read(void *arg)
{
	struct sleeper *s = arg;
	struct portal_event ev;

	s->result = read(s->fd, &ev, sizeof(ev));
	s->error = errno;
	return NULL;
}

static void *sleep_in_poll(void *arg)
{
	struct sleeper *s = arg;

	s->result = wait_for(s->fd, POLLIN, 3 * PATIENT_MS);
	return NULL;
}

static void *sleep_in_eventfd(void *arg)
{
	struct sleeper *s = arg;
	uint64_t n = 0;

	s->result = read(s->fd, &n, sizeof(n)) == sizeof(n) ? (int)n : -1;
	return NULL;
}

/* Stores and loads all over the region until a signal comes. */
static void *hammer(void *arg)
{
	volatile uint32_t *m = arg;
	size_t i = 0;

	for (;;) {
		m[i] = i;
		i = (i + 1031) % (size / 4);
	}
	return NULL;
}

/*
 * A child with mappings of its parent's: one that faults them in only after the
 * portal went. Reports by its exit status: 0 all well.
 */
static pid_t forked(volatile uint32_t *bus, volatile uint32_t *zero, int *tell)
{
	int fds[2], up[2];
	uint32_t got = 1;
	char c;
	pid_t child;

	if (pipe(fds) || pipe(up))
		die("pipe");
	child = fork();
	if (child) {
		close(fds[0]);
		close(up[1]);
		*tell = fds[1];
		if (read(up[0], &c, 1) != 1)
			die("what the child says");
		close(up[0]);
		return child;
	}
	close(fds[1]);
	bus[1] = 7;
	if (write(up[1], "", 1) != 1)
		_exit(9);
	if (read(fds[0], &c, 1) < 0)
		_exit(9);
	if (touch(bus + 1, -1, NULL) != SIGBUS)
		_exit(1);
	if (touch(bus + size / 8, 5, NULL) != SIGBUS)
		_exit(2);
	if (touch(zero + 1, -1, &got) || got)
		_exit(3);
	_exit(0);
}

/* A child that is in the middle of faults when the portal goes: SIGBUS ends it. */
static pid_t hammering(int fd)
{
	pid_t child = fork();

	if (!child) {
		volatile uint32_t *m;
		pthread_t t;

		for (;;) {
			m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			if (m == MAP_FAILED)
				_exit(errno == ENODEV ? 42 : 1);
			if (!pthread_create(&t, NULL, hammer, (void *)m))
				pthread_detach(t);
			usleep(1000);
			if (fork() == 0)
				hammer((void *)m);
		}
	}
	return child;
}

static int status_of(pid_t child)
{
	int status = -1;

	return waitpid(child, &status, 0) == child ? status : -1;
}

/* A node of one's own for the same number, as a container's /dev has it. */
static const char *static_node(void)
{
	static const char path[] = "/tmp/portal-node";
	struct stat st;

	mkdir("/tmp", 01777);
	unlink(path);
	if (stat(device, &st) || mknod(path, S_IFCHR | 0600, st.st_rdev))
		return NULL;
	return path;
}

static void dead_file(int fd)
{
	struct portal_info i = { .size = sizeof(i) };
	struct portal_event ev;
	int efd = eventfd(0, EFD_CLOEXEC);

	fails(ioctl(fd, PORTAL_INFO, &i), ENODEV, "PORTAL_INFO");
	fails(ring(fd, 0, 0), ENODEV, "PORTAL_RING");
	fails(bind_eventfd(fd, 0, efd), ENODEV, "PORTAL_EVENTFD");
	fails(set_flags(fd, 0), ENODEV, "PORTAL_FILE");
	fails(ioctl(fd, _IO(PORTAL_IOCTL_TYPE, 99), &i), ENOTTY, "an unknown ioctl still");
	fails(read(fd, &ev, sizeof(ev)), ENODEV, "read()");
	fails(mmap(NULL, page, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0, ENODEV,
	      "mmap()");
	ok(wait_for(fd, POLLIN, 0) == (POLLHUP | POLLERR), "poll(): POLLHUP and POLLERR");
	close(efd);
}

static void dead_maps(volatile uint32_t *bus, volatile uint32_t *ro_bus,
		      volatile uint32_t *zero, volatile uint32_t *ro_zero)
{
	uint32_t got = 1;
	int mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	pid_t child;

	ok(touch(bus, -1, NULL) == SIGBUS && touch(bus, 3, NULL) == SIGBUS &&
	   touch(bus + size / 4 - 1, -1, NULL) == SIGBUS, "a mapping gives SIGBUS");
	ok(touch(ro_bus, -1, NULL) == SIGBUS, "so does a read-only one");
	fails(pread(mem, &got, 4, (off_t)(uintptr_t)bus), EIO, "a debugger's look");
	close(mem);

	ok(!touch(zero, -1, &got) && !got, "with ZERO_ON_REVOKE it reads as zero");
	got = 1;
	ok(!touch(zero + size / 4 - 1, -1, &got) && !got, "at its end too");
	ok(!touch(zero, 11, &got) && got == 11, "and takes stores");
	ok(!touch(ro_zero, -1, &got) && !got, "which another file does not see");
	ok(touch(ro_zero, 3, NULL) == SIGSEGV, "and not through a read-only mapping");

	child = fork();
	if (!child)
		_exit(touch(bus, -1, NULL) != SIGBUS || touch(zero, -1, &got));
	ok(status_of(child) == 0, "a child forked afterwards finds the same");
}

/* The portal is back, and old files are still open. */
static void comes_back(const char *back, const char *node, int old, volatile uint32_t *bus)
{
	volatile uint32_t *m;
	struct portal_info i;
	int fd, n;

	ok(system(back) == 0, "it comes back: %s", back);
	for (n = 0; n < PATIENT_MS / 100 && access(device, F_OK); n++)
		usleep(100000);
	fd = open(device, O_RDWR | O_CLOEXEC);
	if (!ok(fd >= 0, "with the same name, though the old one is still open"))
		return;
	i = get_info(fd);
	ok(!strcmp(i.identity, info.identity), "it is %s", i.identity);
	m = map(fd, PROT_READ | PROT_WRITE);
	ok(!touch(m, 77, NULL), "and may be mapped");
	ok(touch(bus, -1, NULL) == SIGBUS, "the old mapping is as dead as before");
	fails(ring(old, 0, 0), ENODEV, "and the old file");
	if (node) {
		n = open(node, O_RDWR | O_CLOEXEC);
		ok(n >= 0 && !strcmp(get_info(n).identity, info.identity),
		   "a node that was there all the time leads to the new one");
		close(n);
	}
	munmap((void *)m, size);
	close(fd);
}

static void unloading(void)
{
	fails(syscall(SYS_delete_module, "portal", O_NONBLOCK), EWOULDBLOCK,
	      "portal.ko does not unload while it is used");
}

int main(int argc, char **argv)
{
	struct sleeper reader, poller, waiter;
	volatile uint32_t *bus, *ro_bus, *zero, *ro_zero;
	int f, f_ro, f_zero, f_ro_zero, f_sleep, efd = -1, tell, status;
	pid_t child, busy;
	const char *node;
	sigset_t mask;
	long took;

	if (argc != 4) {
		fprintf(stderr, "usage: revoke DEVICE GO BACK\n");
		return 2;
	}
	start(120);
	device = argv[1];
	page = sysconf(_SC_PAGESIZE);

	f = open_portal(device, O_RDWR);
	f_ro = open_portal(device, O_RDONLY);
	f_zero = open_portal(device, O_RDWR);
	f_ro_zero = open_portal(device, O_RDONLY);
	f_sleep = open_portal(device, O_RDWR);
	info = get_info(f);
	size = info.region_size;
	if (set_flags(f_zero, PORTAL_FILE_ZERO_ON_REVOKE) ||
	    set_flags(f_ro_zero, PORTAL_FILE_ZERO_ON_REVOKE))
		die("PORTAL_FILE");
	bus = map(f, PROT_READ | PROT_WRITE);
	ro_bus = map(f_ro, PROT_READ);
	zero = map(f_zero, PROT_READ | PROT_WRITE);
	ro_zero = map(f_ro_zero, PROT_READ);
	bus[0] = 1;
	zero[1] = 2;
	(void)ro_zero[0];
	node = static_node();
	unloading();

	/*
	 * Before the threads are there, for they inherit it: the end of GO's shell would
	 * else wake them by a signal, and hide that the portal did not.
	 */
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, NULL);

	poller = (struct sleeper){ .fd = f_sleep };
	pthread_create(&poller.thread, NULL, sleep_in_poll, &poller);
	if (info.vectors) {
		reader = (struct sleeper){ .fd = f_sleep };
		pthread_create(&reader.thread, NULL, sleep_in_read, &reader);
		efd = eventfd(0, EFD_CLOEXEC);
		bind_eventfd(f, info.vectors - 1, efd);
		waiter = (struct sleeper){ .fd = efd };
		pthread_create(&waiter.thread, NULL, sleep_in_eventfd, &waiter);
	}
	child = forked(bus, zero, &tell);
	busy = hammering(f);
	usleep(300000);

	took = now_ms();
	status = system(argv[2]);
	took = now_ms() - took;
	ok(status == 0 && took < GO_LIMIT_MS, "it goes in %ld ms: %s", took, argv[2]);

	took = now_ms();
	pthread_join(poller.thread, NULL);
	ok(now_ms() - took < GO_LIMIT_MS, "poll() wakes soon");
	ok(poller.result == (POLLHUP | POLLERR), "poll() wakes: POLLHUP and POLLERR");
	if (info.vectors) {
		pthread_join(reader.thread, NULL);
		ok(reader.result == -1 && reader.error == ENODEV, "read() wakes: ENODEV");
		pthread_join(waiter.thread, NULL);
		ok(waiter.result == 1 && !count_of(efd), "a bound eventfd is signalled, once");
	} else {
		skip("read() and eventfd wake", "no vectors");
	}
	dead_file(f);
	dead_maps(bus, ro_bus, zero, ro_zero);
	close(tell);
	status = status_of(child);
	ok(status == 0, "a child that was forked before finds the same (%#x)", status);
	status = status_of(busy);
	ok((WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) ||
	   (WIFEXITED(status) && WEXITSTATUS(status) == 42),
	   "one in the middle of mapping gets SIGBUS or ENODEV (%#x)", status);
	fails(open(device, O_RDWR), ENOENT, "its name is gone");
	if (node)
		fails(open(node, O_RDWR), ENXIO, "a node of one's own leads nowhere");
	else
		skip("a node of one's own leads nowhere", "mknod() failed");

	comes_back(argv[3], node, f, bus);
	if (node)
		unlink(node);
	return done();
}
