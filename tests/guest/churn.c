// SPDX-License-Identifier: MIT
/*
 * churn SECONDS GO BACK DEVICE...: everything at once, while portals come and go.
 *
 * Processes and threads open, map, touch, fork, ring, bind, read, poll and close at
 * random; meanwhile GO and BACK take the portals away and bring them back, over and
 * over. Any result that the contract allows is right; the kernel's log is the
 * judge. TAP: that everybody got work done; exit status 0 or 1.
 */
#include "guest.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#define PROCESSES	4
#define THREADS		2

/* Work done, shared by all; "ended" are the portals that went under somebody. */
struct tally {
	unsigned long opened, windows, mapped, touched, bus, rung, read, bound, forked, ended, peeked, pinned;
};

static struct tally *tally;
static char **devices;
static int nr_devices;
static volatile bool *over;	/* shared by all */
static int mem;	/* /proc/self/mem, of each process its own */

#define COUNT(what)	__atomic_fetch_add(&tally->what, 1, __ATOMIC_RELAXED)

static __thread unsigned int seed;
static __thread sigjmp_buf jump;
static __thread volatile sig_atomic_t armed;

static unsigned int dice(unsigned int n)
{
	return (unsigned int)rand_r(&seed) % n;
}

static void on_bus(int sig)
{
	(void)sig;
	if (!armed)
		_exit(1);
	armed = 0;
	siglongjmp(jump, 1);
}

static void touch_some(volatile uint32_t *m, size_t words, bool write)
{
	volatile int i;

	if (sigsetjmp(jump, 1)) {
		COUNT(bus);
		return;
	}
	armed = 1;
	for (i = 0; i < 64; i++) {
		size_t at = dice(words);

		if (write && dice(2))
			m[at] = at;
		else
			(void)m[at];
	}
	armed = 0;
	COUNT(touched);
}

/* Whatever can be done to a part of a mapping; leaves it mapped, elsewhere perhaps. */
static char *twist(char *m, size_t page, size_t n, bool write)
{
	size_t first = dice(n), part = 1 + dice(n - first);
	char *at = m + first * page, *to;
	struct iovec iov = { at, part * page };
	char buf[64];
	int pipes[2];

	switch (dice(6)) {
	case 0:
		mprotect(at, part * page, PROT_NONE);
		mprotect(at, part * page, PROT_READ | (write ? PROT_WRITE : 0));
		break;
	case 1:
		to = mremap(m, n * page, n * page, MREMAP_MAYMOVE | MREMAP_FIXED,
			    mmap(NULL, n * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		if (to != MAP_FAILED)
			m = to;
		break;
	case 2:
		if (!pipe2(pipes, O_NONBLOCK)) {
			if (vmsplice(pipes[1], &iov, 1, 0) != -1 || errno != EFAULT)
				COUNT(pinned);
			close(pipes[0]);
			close(pipes[1]);
		}
		break;
	case 3:
		madvise(at, part * page, MADV_DONTNEED);
		madvise(at, part * page, MADV_WILLNEED);
		break;
	case 4:
		if (pread(mem, buf, sizeof(buf), (off_t)(uintptr_t)at) > 0)
			COUNT(peeked);
		break;
	default:
		break;
	}
	return m;
}

static void use_map(int fd, const struct portal_info *info, bool write)
{
	size_t page = sysconf(_SC_PAGESIZE), pages = info->region_size / page;
	size_t first = dice(pages), n = 1 + dice(pages - first);
	volatile uint32_t *m;
	pid_t child;

	m = mmap(NULL, n * page, PROT_READ | (write ? PROT_WRITE : 0), MAP_SHARED, fd,
		 (off_t)(first * page));
	if (m == MAP_FAILED)
		return;
	COUNT(mapped);
	touch_some(m, n * page / 4, write);
	m = (void *)twist((char *)m, page, n, write);
	touch_some(m, n * page / 4, write);
	if (!dice(20)) {
		child = fork();
		if (!child) {
			touch_some(m, n * page / 4, write);
			_exit(0);
		}
		if (child > 0) {
			waitpid(child, NULL, 0);
			COUNT(forked);
		}
	}
	/* A hole, that another thread's mapping must not fall into: we unmap all of it. */
	if (n > 2 && dice(2))
		mmap((void *)((char *)m + page), page, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	touch_some(m, page / 4, write);
	munmap((void *)m, n * page);
}

static void use_events(int fd, const struct portal_info *info)
{
	struct portal_event ev[4];
	int efd = eventfd(0, EFD_NONBLOCK), ep = epoll_create1(0), i;
	struct epoll_event ee = { .events = EPOLLIN };

	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ee);
	for (i = 0; i < 8; i++) {
		unsigned int v = dice(info->vectors);

		switch (dice(5)) {
		case 0:
			if (!bind_eventfd(fd, v, efd))
				COUNT(bound);
			break;
		case 1:
			bind_eventfd(fd, v, -1);
			break;
		case 2:
			if (!ring(fd, dice(2), v))
				COUNT(rung);
			break;
		case 3:
			if (read(fd, ev, sizeof(ev)) > 0)
				COUNT(read);
			else if (errno == ENODEV)
				COUNT(ended);
			break;
		default:
			epoll_wait(ep, &ee, 1, dice(3));
		}
	}
	close(ep);
	close(efd);
}

/* Puts a window in the place of *fd, and what it is into *info. */
static void use_window(int *fd, struct portal_info *info, bool write)
{
	size_t parts = info->region_size / 65536, first = parts ? dice(parts) : 0;
	struct portal_bell bell = { PORTAL_ANY, dice(4) };
	uint32_t vectors[2] = { dice(info->vectors ? : 1), 0 };
	int w;

	if (!parts)
		return;
	w = window(*fd, write, first * 65536, (1 + dice(parts - first)) * 65536, vectors,
		   info->vectors ? dice(3) : 0, &bell, write && info->caps & PORTAL_CAP_DOORBELL);
	if (w < 0)
		return;
	COUNT(windows);
	close(*fd);
	*fd = w;
	fcntl(w, F_SETFL, O_NONBLOCK);
	if (ioctl(w, PORTAL_INFO, info))
		info->vectors = 0;
}

static void *work(void *arg)
{
	seed = (unsigned int)(uintptr_t)arg;
	while (!*over) {
		struct portal_info info = { .size = sizeof(info) };
		bool write = dice(4);
		int fd = open(devices[dice(nr_devices)], (write ? O_RDWR : O_RDONLY) | O_NONBLOCK);

		if (fd < 0) {
			usleep(1000);
			continue;
		}
		COUNT(opened);
		if (dice(2))
			set_flags(fd, PORTAL_FILE_ZERO_ON_REVOKE);
		if (!ioctl(fd, PORTAL_INFO, &info)) {
			while (dice(2))
				use_window(&fd, &info, write);
			use_map(fd, &info, write);
			if (info.vectors)
				use_events(fd, &info);
		}
		close(fd);
	}
	return NULL;
}

static void process(unsigned int number)
{
	struct sigaction act = { .sa_handler = on_bus, .sa_flags = SA_NODEFER };
	pthread_t threads[THREADS];
	unsigned long i;

	sigaction(SIGBUS, &act, NULL);
	mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	for (i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, work, (void *)(number * 64 + i + 1));
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	_exit(0);
}

static bool all_happened(void)
{
	return tally->opened && tally->windows && tally->mapped && tally->touched && tally->forked &&
	       tally->peeked;
}

int main(int argc, char **argv)
{
	pid_t pids[PROCESSES];
	time_t began;
	int i, status, rounds = 0, wrong = 0;

	if (argc < 5) {
		fprintf(stderr, "usage: churn SECONDS GO BACK DEVICE...\n");
		return 2;
	}
	start(strtoul(argv[1], NULL, 0) + 60);
	began = time(NULL);
	devices = argv + 4;
	nr_devices = argc - 4;
	tally = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		     -1, 0);
	over = mmap(NULL, sizeof(*over), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	for (i = 0; i < PROCESSES; i++) {
		pids[i] = fork();
		if (!pids[i])
			process(i);
	}
	/* And on, on a busy machine, until each has happened. */
	while (time(NULL) - began < strtol(argv[1], NULL, 0) ||
	       ((rounds < 2 || !all_happened()) && time(NULL) - began < 3 * strtol(argv[1], NULL, 0) + 60)) {
		usleep(100000);
		wrong += system(argv[2]) != 0;
		wrong += system(argv[3]) != 0;
		rounds++;
	}
	*over = true;
	for (i = 0; i < PROCESSES; i++) {
		status = -1;
		waitpid(pids[i], &status, 0);
		ok(status == 0, "process %d lived through it (%#x)", i, status);
	}
	ok(!wrong && rounds > 1, "the portals went and came back %d times", rounds);
	ok(all_happened(), "%lu opens, %lu windows, %lu mappings, %lu touched, %lu SIGBUS, %lu forks",
	   tally->opened, tally->windows, tally->mapped, tally->touched, tally->bus, tally->forked);
	ok(!tally->pinned, "%lu looks of a debugger; %lu times pinned, must be 0",
	   tally->peeked, tally->pinned);
	printf("# %lu rings, %lu reads, %lu binds, %lu found themselves without a portal\n",
	       tally->rung, tally->read, tally->bound, tally->ended);
	return done();
}
