// SPDX-License-Identifier: MIT
/*
 * swarm DEVICE GO BACK: a thousand windows, and the portal goes under all of them.
 *
 * GO and BACK are shell commands as for revoke.c. Windows are mapped, bound, forked and
 * waited for when GO runs; others are being made at that moment. Nothing of the device
 * is open but windows. TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "guest.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define K64	65536UL
#define MANY	1000
#define GO_LIMIT_MS	PATIENT_MS	/* a removal that waits for user space takes for ever */

static const char *device;
static size_t page, size;
static struct portal_info info;
static int root, windows[MANY];
static volatile uint32_t *maps[MANY];

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void room_for_descriptors(void)
{
	struct rlimit r = { 4 * MANY, 4 * MANY };

	if (setrlimit(RLIMIT_NOFILE, &r))
		die("setrlimit");
}

/* One window after another, each made of a window, all over the region. */
static void make_all(void)
{
	uint32_t vector = info.vectors - 1, n = info.vectors && info.caps & PORTAL_CAP_DOORBELL;
	size_t parts = size / K64, made = 0, i;

	for (i = 0; i < MANY; i++) {
		int all = window(root, i % 2, 0, parts * K64, &vector, n, NULL, 0);

		windows[i] = window(all, i % 2, i % parts * K64, K64, &vector, n, NULL, 0);
		close(all);
		made += windows[i] >= 0;
		if (i % 5 == 0)
			set_flags(windows[i], PORTAL_FILE_ZERO_ON_REVOKE);
		maps[i] = mmap(NULL, K64, PROT_READ | (i % 2 ? PROT_WRITE : 0), MAP_SHARED,
			       windows[i], 0);
		if ((void *)maps[i] == MAP_FAILED)
			die("mmap");
		/* Some are there before, some after. */
		if (i % 3)
			(void)*maps[i];
	}
	ok(made == MANY, "%d windows of windows, each mapped", MANY);
}

/* A signal reaches each of them, once. */
static void hear(void)
{
	struct epoll_event ev = { .events = EPOLLIN }, got[64];
	int ep = epoll_create1(EPOLL_CLOEXEC), n, i, total = 0, wrong = 0;

	if (!info.vectors || !(info.caps & PORTAL_CAP_DOORBELL)) {
		skip("one ring is heard by all", "no doorbells");
		close(ep);
		return;
	}
	for (i = 0; i < MANY; i++) {
		ev.data.u32 = i;
		epoll_ctl(ep, EPOLL_CTL_ADD, windows[i], &ev);
	}
	ring(root, info.peer_id, info.vectors - 1);
	while (total < MANY && (n = epoll_wait(ep, got, 64, PATIENT_MS)) > 0) {
		for (i = 0; i < n; i++) {
			struct portal_event e;

			wrong += read(windows[got[i].data.u32], &e, sizeof(e)) != sizeof(e) ||
				 e.vector != info.vectors - 1 || e.count != 1;
			total++;
		}
	}
	ok(total == MANY && !wrong, "one ring is heard by all, once each (%d)", total);
	ok(epoll_wait(ep, got, 64, 300) == 0, "and then all is quiet");
	close(ep);
}

static volatile unsigned long made_so_far[2];

/* Makes, maps and drops windows of one until that is dead. */
static void *maker(void *arg)
{
	volatile unsigned long *so_far = arg;
	unsigned long n = 0;

	for (;;) {
		int fd = plain_window(root, n & 1, 0, K64);
		volatile uint32_t *m;

		if (fd < 0) {
			n = errno == ENODEV ? n : 0;
			break;
		}
		m = mmap(NULL, K64, PROT_READ, MAP_SHARED, fd, 0);
		if ((void *)m == MAP_FAILED) {
			n = errno == ENODEV ? n : 0;
			close(fd);
			break;
		}
		close(fd);
		/* madvise() faults without a signal if it is too late. */
		madvise((void *)m, K64, MADV_WILLNEED);
		munmap((void *)m, K64);
		*so_far = ++n;
	}
	return (void *)n;
}

static int status_of(pid_t child)
{
	int status = -1;

	waitpid(child, &status, 0);
	return status;
}

/* SIGBUS, or zeroes for those that chose so. */
static size_t wrong_maps(void)
{
	size_t i, wrong = 0;

	for (i = 0; i < MANY; i++) {
		uint32_t got = 1;
		int sig = touch(maps[i] + page / 4 * (i % (K64 / page)), -1, &got);

		wrong += i % 5 ? sig != SIGBUS : sig || got;
	}
	return wrong;
}

static void dead_windows(void)
{
	struct portal_info gone = { .size = sizeof(gone) };
	size_t i, wrong = 0;

	ok(!wrong_maps(), "each mapping gives SIGBUS, or zeroes");
	for (i = 0; i < MANY; i++)
		wrong += wait_for(windows[i], POLLIN, 0) != (POLLHUP | POLLERR) ||
			 plain_window(windows[i], 0, 0, K64) != -1 || errno != ENODEV ||
			 ioctl(windows[i], PORTAL_INFO, &gone) != -1 || errno != ENODEV ||
			 mmap(NULL, page, PROT_READ, MAP_SHARED, windows[i], 0) != MAP_FAILED ||
			 errno != ENODEV;
	ok(!wrong, "each file: POLLHUP, ENODEV, no windows of it");
}

int main(int argc, char **argv)
{
	int fd, tell[2], i, status;
	pthread_t makers[2];
	unsigned long made = 0;
	bool stopped = true;
	pid_t child;
	long took;
	char c;

	if (argc != 4) {
		fprintf(stderr, "usage: swarm DEVICE GO BACK\n");
		return 2;
	}
	start(150);
	device = argv[1];
	page = sysconf(_SC_PAGESIZE);
	room_for_descriptors();
	fd = open_portal(device, O_RDWR);
	info = get_info(fd);
	size = info.region_size;
	root = window(fd, 1, 0, size / K64 * K64, &(uint32_t){ info.vectors - 1 },
		      info.vectors && info.caps & PORTAL_CAP_DOORBELL,
		      &(struct portal_bell){ PORTAL_ANY, PORTAL_ANY },
		      !!(info.caps & PORTAL_CAP_DOORBELL));
	close(fd);
	if (root < 0)
		die("PORTAL_WINDOW");
	make_all();
	hear();

	/* A child with all of them, which touches its mappings only afterwards. */
	if (pipe2(tell, O_CLOEXEC))
		die("pipe");
	child = fork();
	if (!child) {
		close(tell[1]);
		_exit(read(tell[0], &c, 1) != 0 || wrong_maps());
	}
	close(tell[0]);
	for (i = 0; i < 2; i++)
		pthread_create(&makers[i], NULL, maker, (void *)&made_so_far[i]);
	UNTIL(made_so_far[0] && made_so_far[1], PATIENT_MS);
	usleep(300000);
	took = now_ms();
	status = system(argv[2]);
	took = now_ms() - took;
	ok(!status && took < GO_LIMIT_MS, "it goes in %ld ms: %s", took, argv[2]);
	for (i = 0; i < 2; i++) {
		void *n;

		pthread_join(makers[i], &n);
		stopped = stopped && n;
		made += (unsigned long)n;
	}
	ok(stopped, "who was making windows got ENODEV, after %lu", made);
	dead_windows();
	fails(syscall(SYS_delete_module, "portal", O_NONBLOCK), EWOULDBLOCK,
	      "windows alone keep portal.ko");
	close(tell[1]);
	status = status_of(child);
	ok(!status, "a child that was forked before finds the same (%#x)", status);

	ok(!system(argv[3]), "it comes back: %s", argv[3]);
	for (i = 0; i < PATIENT_MS / 100 && access(device, F_OK); i++)
		usleep(100000);
	fd = open_portal(device, O_RDWR);
	ok(plain_window(fd, 1, 0, K64) >= 0, "and has windows");
	ok(!wrong_maps() && plain_window(root, 0, 0, K64) == -1, "old ones stay dead");
	close(fd);
	for (i = 0; i < MANY; i++) {
		munmap((void *)maps[i], K64);
		close(windows[i]);
	}
	return done();
}
