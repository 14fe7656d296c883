// SPDX-License-Identifier: MIT
/*
 * pmem TEST DEVICE [ARG]: a portal whose memory is a file of the host.
 *
 *	pmem basic DEVICE	what it can do, and what it refuses
 *	pmem flush DEVICE N	N threads flush at one time: all succeed
 *	pmem fail DEVICE N	the same, and each gets EIO
 *	pmem gone DEVICE N CMD	the same; while they wait, CMD takes the portal away
 *	pmem stops DEVICE N CMD	the same, but CMD has the device stop: each gets EIO
 *	pmem told DEVICE	who hears of a flush that fails; says when, and reads a line
 *	pmem faults DEVICE	touches every page of 1 GiB and counts faults
 *	pmem nap US		does nothing but sleep so long, again and again (no TAP)
 *	pmem cpu SECONDS CMD...	CMD's use of the processor, while it waits (no TAP)
 *
 * TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "guest.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE	0x03
#endif
#ifndef MAP_SYNC
#define MAP_SYNC		0x80000
#endif

#define GIB		(1UL << 30)
#define MIB		(1UL << 20)
#define FAULTS_MAX	512		/* 2 MiB each */
#define GONE_MAX_MS	60000
/* The driver's grace for the device is 10 seconds: less than that, by what a busy machine needs. */
#define WAKE_MAX_MS	7000
#define STOPS_MAX_MS	9500		/* it looks every two seconds */
#define MAX_THREADS	1024

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int basic(const char *device)
{
	int fd = open_portal(device, O_RDWR), ro = open_portal(device, O_RDONLY);
	struct portal_info info = get_info(fd);
	int efd = eventfd(0, 0);
	char *m;

	ok(!strcmp(info.transport, "pmem"), "the transport is pmem");
	ok(!strncmp(info.identity, "virtio-", 7), "the identity is %s", info.identity);
	ok(info.caps & PORTAL_CAP_FLUSH, "it can flush");
	ok(!(info.caps & (PORTAL_CAP_DOORBELL | PORTAL_CAP_DOORBELL_PAGE | PORTAL_CAP_EVENTS)) &&
	   !info.vectors, "it has no doorbells, and says so");
	ok(info.peer_id == PORTAL_PEER_NONE && !info.max_peers, "it has no ids");
	ok(info.cache == PORTAL_CACHE_WRITE_BACK, "memory is write-back");
	fails(ring(fd, 0, 0), EOPNOTSUPP, "ringing");
	fails(bind_eventfd(fd, 0, efd), EOPNOTSUPP, "binding an eventfd");
	ok(!wait_for(fd, POLLIN, 0), "poll() waits for nothing");

	m = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
	fails(m == MAP_FAILED ? -1 : 0, EOPNOTSUPP, "MAP_SHARED_VALIDATE|MAP_SYNC");
	m = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_SYNC, fd, 0);
	ok(m != MAP_FAILED, "MAP_SHARED ignores MAP_SYNC, by the kernel's rules");
	munmap(m, MIB);
	m = mmap(NULL, info.region_size, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE, fd, 0);
	ok(m != MAP_FAILED, "MAP_SHARED_VALIDATE alone maps");

	m[0]++;
	m[info.region_size - 1]++;
	ok(!fsync(fd), "fsync()");
	ok(!fdatasync(fd), "fdatasync()");
	ok(!msync(m, info.region_size, MS_SYNC), "msync(MS_SYNC)");
	ok(!msync(m, info.region_size, MS_ASYNC), "msync(MS_ASYNC)");
	ok(!fsync(ro), "fsync() by who may only read");
	return done();
}

/* Threads that flush once, at one time. */

static pthread_barrier_t together;
static int flush_fd;
static long landed[MAX_THREADS];	/* when, ms */

static pthread_t threads[MAX_THREADS];
static int errors[MAX_THREADS], launched, back;

static void *flush(void *arg)
{
	int *error = arg;

	pthread_barrier_wait(&together);
	*error = fsync(flush_fd) ? errno : 0;
	landed[error - errors] = now_ms();
	if (__atomic_add_fetch(&back, 1, __ATOMIC_ACQ_REL) == launched)
		printf("# all have come back\n");
	return NULL;
}

static void launch(const char *device, int n)
{
	pthread_attr_t attr;

	if (n < 1 || n > MAX_THREADS)
		die("number of threads");
	launched = n;
	flush_fd = open_portal(device, O_RDWR);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	pthread_barrier_init(&together, NULL, n + 1);
	for (int i = 0; i < n; i++) {
		errors[i] = -1;
		errno = pthread_create(&threads[i], &attr, flush, &errors[i]);
		if (errno)
			die("pthread_create");
	}
	pthread_barrier_wait(&together);
}

/* How many ended with @error. */
static int land(int n, int error)
{
	int hits = 0;

	for (int i = 0; i < n; i++) {
		pthread_join(threads[i], NULL);
		hits += errors[i] == error;
		if (errors[i] != error && i - hits < 3)
			printf("# thread %d: %s\n", i, strerror(errors[i]));
	}
	return hits;
}

static int flush_all(const char *device, int n, int error)
{
	long began = now_ms();

	launch(device, n);
	ok(land(n, error) == n, "%d flushes at one time: %s", n,
	   error ? strerror(error) : "all succeed");
	printf("# %ld ms\n", now_ms() - began);
	return done();
}

/* The device does not answer; then it goes. */
static int gone(const char *device, int n, const char *command)
{
	long began, last = 0;
	int hits = 0;

	launch(device, n);
	usleep(300000);
	for (int i = 0; i < n; i++)
		hits += errors[i] == -1;
	ok(hits == n, "%d flushes wait for the device", n);
	began = now_ms();
	ok(!system(command), "the portal is taken away");
	ok(now_ms() - began < GONE_MAX_MS, "which does not wait for them (%ld ms)",
	   now_ms() - began);
	ok(land(n, ENODEV) == n, "each gets ENODEV");
	for (int i = 0; i < n; i++)
		last = landed[i] > last ? landed[i] : last;
	ok(last - began < WAKE_MAX_MS, "within %ld ms of the order", last - began);
	fails(fsync(flush_fd), ENODEV, "fsync() afterwards");
	return done();
}

/* The device does not answer; then it breaks, or is reset. */
static int stops(const char *device, int n, const char *command)
{
	long began;

	launch(device, n);
	usleep(300000);
	began = now_ms();
	ok(!system(command), "%s", command);
	ok(land(n, EIO) == n, "%d flushes that waited: EIO", n);
	ok(now_ms() - began < STOPS_MAX_MS, "within %ld ms", now_ms() - began);
	fails(fsync(flush_fd), EIO, "fsync() afterwards");
	return done();
}

static void agree(const char *what)
{
	char line[16];

	printf("%s\n", what);
	if (!fgets(line, sizeof(line), stdin))
		die("stdin");
}

/* Whoever was there when it failed, once; as files on disks do. */
static int told(const char *device)
{
	int a = open_portal(device, O_RDWR), b = open_portal(device, O_RDWR), c;

	agree("# fail");
	fails(fsync(a), EIO, "fsync() that fails");
	agree("# work");
	ok(!fsync(a), "who was told, and stored again, succeeds");
	c = open_portal(device, O_RDWR);
	ok(!fsync(c), "who came later has lost nothing");
	fails(fsync(b), EIO, "who may have lost something without waiting");
	ok(!fsync(b), "hears of it once");
	return done();
}

/* Faults, and the memory of page tables in KiB, as the kernel counts them. */
static long faults_so_far(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_minflt + u.ru_majflt;
}

static long page_tables(void)
{
	FILE *f = fopen("/proc/self/status", "r");
	char line[128];
	long kib = -1;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmPTE: %ld", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

/*
 * From 2 MiB on, so that no entry of 1 GiB fits. A page table of 4 KiB entries is one
 * page for 2 MiB, thus 2 MiB for the whole; 2 MiB entries need none of them.
 */
static int faults(const char *device)
{
	int fd = open_portal(device, O_RDWR);
	struct portal_info info = get_info(fd);
	long before, after, tables;
	volatile char *m;

	m = mmap(NULL, GIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 2 * MIB);
	if (m == MAP_FAILED)
		die("mmap");
	tables = page_tables();
	before = faults_so_far();
	for (size_t i = 0; i < GIB; i += 4096)
		m[i] = 1;
	after = faults_so_far();
	tables = page_tables() - tables;

	ok(after - before <= FAULTS_MAX, "touching 1 GiB costs %ld faults, at most %d",
	   after - before, FAULTS_MAX);
	printf("# %ld KiB of page tables\n", tables);
	if (info.caps & PORTAL_CAP_LARGE_PAGES)
		ok(after - before == FAULTS_MAX && tables < 64,
		   "by %ld entries of 2 MiB: %ld KiB of page tables", after - before, tables);
	else
		ok(tables >= 2048, "by entries of 4 KiB: %ld KiB of page tables", tables);
	return done();
}

/* Nanoseconds that a process has run, by the scheduler's account. */
static long long ran(pid_t pid)
{
	char path[64];
	long long ns = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/schedstat", pid);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%lld", &ns) != 1)
		ns = -1;
	if (f)
		fclose(f);
	return ns;
}

/* How often a process has gone to sleep. */
static long long slept(pid_t pid)
{
	char path[64], line[128];
	long long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "voluntary_ctxt_switches: %lld", &n);
	if (f)
		fclose(f);
	return n;
}

/* "NS MS SLEEPS": what a command that waits used of the processor, in how long. */
static int cpu(int seconds, char **argv)
{
	pid_t child = fork();
	long long used, sleeps;
	long began;

	if (!child) {
		execvp(argv[0], argv);
		_exit(127);
	}
	/* Starting up is not waiting, and spinning comes before sleeping. */
	sleep(2);
	used = ran(child);
	sleeps = slept(child);
	began = now_ms();
	sleep(seconds);
	printf("%lld %ld %lld\n", ran(child) - used, now_ms() - began, slept(child) - sleeps);
	if (waitpid(child, NULL, WNOHANG)) {
		printf("ended early\n");
		return 1;
	}
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return used < 0 || sleeps < 0;
}

/* What no poller can be cheaper than. */
static void nap(long us)
{
	const struct timespec ts = { us / 1000000, us % 1000000 * 1000 };

	for (;;)
		nanosleep(&ts, NULL);
}

int main(int argc, char **argv)
{
	const char *test = argc > 2 ? argv[1] : "";

	start(240);
	if (!strcmp(test, "basic"))
		return basic(argv[2]);
	if (!strcmp(test, "faults"))
		return faults(argv[2]);
	if (!strcmp(test, "flush") && argc == 4)
		return flush_all(argv[2], atoi(argv[3]), 0);
	if (!strcmp(test, "fail") && argc == 4)
		return flush_all(argv[2], atoi(argv[3]), EIO);
	if (!strcmp(test, "gone") && argc == 5)
		return gone(argv[2], atoi(argv[3]), argv[4]);
	if (!strcmp(test, "nap"))
		nap(atol(argv[2]));
	if (!strcmp(test, "stops") && argc == 5)
		return stops(argv[2], atoi(argv[3]), argv[4]);
	if (!strcmp(test, "told") && argc == 3)
		return told(argv[2]);
	if (!strcmp(test, "cpu") && argc > 3)
		return cpu(atoi(argv[2]), argv + 3);
	fprintf(stderr, "usage: see the top of tests/guest/pmem.c\n");
	return 1;
}
