// SPDX-License-Identifier: MIT
/*
 * window DEVICE: what a window is: which bytes it shows, whom it may ring, what it hears,
 * how long it lives. (What it can be made to reach beyond: widen.c.)
 *
 * Writes to the region; nobody else may use it. Needs a region of 512 KiB, and for the
 * doorbells two vectors. TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "guest.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define K64	65536UL

static const char *device;
static int rw, ro, wo;
static struct portal_info info;
static size_t page, size;
static volatile uint32_t *whole;

static void *map_at(int fd, size_t len, int prot, uint64_t offset)
{
	return mmap(NULL, len, prot, MAP_SHARED, fd, offset);
}

static void unmappable(int fd, size_t len, int prot, uint64_t offset, int error, const char *name)
{
	void *map = map_at(fd, len, prot, offset);

	fails(map == MAP_FAILED ? -1 : 0, error, name);
	if (map != MAP_FAILED)
		munmap(map, len);
}

/* What stands in the first word of each page, if nobody wrote there since. */
static uint32_t mark(size_t offset)
{
	return 0xa5000000u + offset / page;
}

static void set_marks(void)
{
	size_t at;

	for (at = 0; at < size; at += page)
		whole[at / 4] = mark(at);
}

/* Every page of the window is the right one of the region. */
static bool shows(int fd, size_t offset, size_t length)
{
	volatile uint32_t *m = map_at(fd, length, PROT_READ, 0);
	size_t at, wrong = 0;

	if (m == MAP_FAILED)
		return false;
	for (at = 0; at < length; at += page)
		wrong += m[at / 4] != mark(offset + at);
	munmap((void *)m, length);
	return !wrong;
}

static void asking(void)
{
	static const uint32_t none[1];
	struct portal_window w = { .size = sizeof(w), .length = K64 };
	uint64_t end = size / K64 * K64;

	fails(plain_window(rw, 2, 0, K64), EOPNOTSUPP, "flag 2");
	fails(plain_window(rw, 0x80000001, 0, K64), EOPNOTSUPP, "a known and an unknown flag");
	fails(plain_window(rw, 0, 0, 0), EINVAL, "length 0");
	fails(plain_window(rw, 0, 4096, K64), EINVAL, "offset 4096");
	fails(plain_window(rw, 0, 0, 4096), EINVAL, "length 4096");
	fails(plain_window(rw, 0, K64 / 2, K64), EINVAL, "offset 32 KiB");
	fails(plain_window(rw, 0, 0, end + K64), EINVAL, "64 KiB more than the region");
	fails(plain_window(rw, 0, end, K64), EINVAL, "behind the region");
	fails(plain_window(rw, 0, end - K64, 2 * K64), EINVAL, "64 KiB across its end");
	fails(plain_window(rw, 0, 0, -K64), EINVAL, "nearly 2^64 bytes");
	fails(plain_window(rw, 0, -K64, 2 * K64), EINVAL, "offset and length that wrap");
	fails(plain_window(rw, 0, -K64, K64), EINVAL, "offset and length whose sum is 0");
	fails(plain_window(rw, 0, 1ULL << 63, K64), EINVAL, "offset 2^63");

	fails(plain_window(ro, PORTAL_WINDOW_WRITE, 0, K64), EACCES,
	      "a writing window of a read-only file");
	fails(plain_window(wo, 0, 0, K64), EACCES, "a reading window of a write-only file");
	fails(plain_window(wo, PORTAL_WINDOW_WRITE, 0, K64), EACCES,
	      "any window of a write-only file");

	if (!info.vectors) {
		fails(window(rw, 0, 0, K64, none, 1, NULL, 0), EOPNOTSUPP, "vectors of none");
		fails(window(rw, 1, 0, K64, NULL, 0, (void *)none, 1), EOPNOTSUPP, "doorbells of none");
		return;
	}
	w.nr_vectors = 1;
	fails(ioctl(rw, PORTAL_WINDOW, &w), EFAULT, "vectors at a null pointer");
	w.vectors = UINT64_MAX - 7;
	fails(ioctl(rw, PORTAL_WINDOW, &w), EFAULT, "vectors at the end of all addresses");
	w.vectors = 1ULL << 47;
	fails(ioctl(rw, PORTAL_WINDOW, &w), EFAULT, "vectors at a kernel's address");
	w.nr_vectors = info.vectors + 1;
	fails(ioctl(rw, PORTAL_WINDOW, &w), EINVAL, "more vectors than there are");
	w.nr_vectors = UINT32_MAX;
	fails(ioctl(rw, PORTAL_WINDOW, &w), EINVAL, "2^32-1 vectors");
	fails(window(rw, 0, 0, K64, &info.vectors, 1, NULL, 0), EINVAL, "the vector behind the last");
	fails(window(rw, 0, 0, K64, (uint32_t[]){ UINT32_MAX }, 1, NULL, 0), EINVAL,
	      "vector PORTAL_ANY");

	w = (struct portal_window) { .size = sizeof(w), .length = K64, .flags = 1, .nr_bells = 1 };
	fails(ioctl(rw, PORTAL_WINDOW, &w), EFAULT, "doorbells at a null pointer");
	w.nr_bells = PORTAL_WINDOW_MAX_BELLS + 1;
	fails(ioctl(rw, PORTAL_WINDOW, &w), EINVAL, "257 doorbells");
	w.nr_bells = UINT32_MAX;
	fails(ioctl(rw, PORTAL_WINDOW, &w), EINVAL, "2^32-1 doorbells");
	fails(window(rw, 0, 0, K64, NULL, 0, &(struct portal_bell){ 0, 0 }, 1), EINVAL,
	      "doorbells of a read-only window");
}

static void bytes(void)
{
	int w = plain_window(rw, PORTAL_WINDOW_WRITE, 2 * K64, 3 * K64), r, inner;
	struct portal_info i;
	volatile uint32_t *m;

	if (!ok(w >= 0, "a window of 192 KiB at 128 KiB"))
		return;
	ok(fcntl(w, F_GETFD) == FD_CLOEXEC && (fcntl(w, F_GETFL) & O_ACCMODE) == O_RDWR,
	   "close-on-exec, read-write");
	i = get_info(w);
	ok(i.region_size == 3 * K64, "region_size is the window's (%llu)",
	   (unsigned long long)i.region_size);
	ok(i.flags == PORTAL_INFO_WINDOW && !info.flags, "it is a window, and says so");
	ok(!i.vectors && !i.first_vector && !(i.caps & (PORTAL_CAP_EVENTS | PORTAL_CAP_DOORBELL)),
	   "no vector and no doorbell that was not asked for");
	ok(!i.doorbell_offset && !i.doorbell_format && !i.doorbell_register &&
	   !(i.caps & PORTAL_CAP_DOORBELL_PAGE), "and no doorbell page");
	ok(!strcmp(i.identity, info.identity) && i.peer_id == info.peer_id &&
	   i.cache == info.cache && i.generation == info.generation, "else as the portal says");

	set_marks();
	ok(shows(w, 2 * K64, 3 * K64), "each page of it is the right one");
	m = map_at(w, page, PROT_READ | PROT_WRITE, 3 * K64 - page);
	ok(m != MAP_FAILED && *m == mark(5 * K64 - page), "its last page alone");
	m[0] = 4711;
	ok(whole[(5 * K64 - page) / 4] == 4711, "a store arrives where it belongs");
	munmap((void *)m, page);
	set_marks();

	unmappable(w, 3 * K64 + page, PROT_READ, 0, EINVAL, "a page more than the window");
	unmappable(w, 2 * page, PROT_READ, 3 * K64 - page, EINVAL, "the last page and one more");
	unmappable(w, page, PROT_READ, 3 * K64, EINVAL, "the page behind it");
	unmappable(w, page, PROT_READ, size, EINVAL, "where the region has its doorbell page");
	m = map_at(w, page, PROT_READ, -2 * K64);
	ok(m == MAP_FAILED && (errno == EINVAL || errno == EOVERFLOW),
	   "the region's first page, as an offset below 0");

	inner = plain_window(w, 0, K64, K64);
	ok(inner >= 0 && shows(inner, 3 * K64, K64), "a window of the window");
	fails(plain_window(w, 0, 2 * K64, 2 * K64), EINVAL, "one that ends behind it");
	fails(plain_window(w, 0, 3 * K64, K64), EINVAL, "one behind it");
	fails(plain_window(w, 0, -K64, K64), EINVAL, "one before it");
	fails(plain_window(w, 0, 0, size / K64 * K64), EINVAL, "the whole region through it");
	fails(plain_window(inner, 0, 0, 3 * K64), EINVAL, "back to the first window's size");
	fails(plain_window(inner, 1, 0, K64), EACCES, "writing, through a reading one");

	r = plain_window(ro, 0, 2 * K64, K64);
	ok(r >= 0 && shows(r, 2 * K64, K64) && (fcntl(r, F_GETFL) & O_ACCMODE) == O_RDONLY,
	   "a read-only window");
	unmappable(r, page, PROT_READ | PROT_WRITE, 0, EACCES, "mapping it for writing");
	m = map_at(r, page, PROT_READ, 0);
	fails(mprotect((void *)m, page, PROT_READ | PROT_WRITE), EACCES, "mprotect() to writing");
	ok(touch(m, 1, NULL) == SIGSEGV, "a store to it is a SIGSEGV");
	munmap((void *)m, page);
	fails(mmap(NULL, page, PROT_READ, MAP_PRIVATE, r, 0) == MAP_FAILED ? -1 : 0, EINVAL,
	      "MAP_PRIVATE");
	close(inner);
	close(r);
	close(w);
}

/* Events from one's own rings: allowed with one's own id on every transport. */
static bool hears(int fd, uint32_t vector)
{
	struct portal_event ev[8];
	ssize_t n;

	if (!(wait_for(fd, POLLIN, PATIENT_MS) & POLLIN))
		return false;
	n = read(fd, ev, sizeof(ev));
	return n == sizeof(ev[0]) && ev[0].vector == vector && ev[0].count >= 1;
}

static void hearing(void)
{
	uint32_t last = info.vectors - 1, set[] = { last, last };
	int w = window(rw, 0, 0, K64, set, 2, NULL, 0);
	int twin = window(ro, 0, K64, K64, set, 1, NULL, 0), efd = eventfd(0, EFD_NONBLOCK);
	struct portal_info i;
	uint32_t v;

	if (!ok(w >= 0 && twin >= 0, "windows that wait for vector %u", last))
		return;
	i = get_info(w);
	ok(i.vectors == last + 1 && i.first_vector == last && i.caps & PORTAL_CAP_EVENTS,
	   "their info says so: from %u, below %u", i.first_vector, i.vectors);
	for (v = 0; v < last; v++)
		ring(rw, info.peer_id, v);
	ok(!(wait_for(w, POLLIN, 300) & POLLIN), "rings on other vectors are not heard");
	ring(rw, info.peer_id, last);
	ok(hears(w, last), "one on this vector is");
	ok(hears(twin, last), "by each window");
	ok(!(wait_for(w, POLLIN, 300) & POLLIN), "once");
	fcntl(w, F_SETFL, O_NONBLOCK);
	fails(read(w, &(struct portal_event){}, sizeof(struct portal_event)), EAGAIN, "read() then");

	fails(bind_eventfd(w, 0, efd), EACCES, "binding another vector");
	fails(bind_eventfd(w, 0, -1), EACCES, "unbinding another vector");
	fails(bind_eventfd(w, last + 1, efd), EINVAL, "binding one behind the last");
	ok(!bind_eventfd(w, last, efd), "binding its own");
	ring(rw, info.peer_id, last);
	ok(wait_for(efd, POLLIN, PATIENT_MS) & POLLIN, "wakes the eventfd");
	ok(hears(twin, last), "while the other window reads");
	close(efd);

	v = window(w, 0, 0, K64, set, 1, NULL, 0);
	ok((int)v >= 0, "a window of the window, with its vector");
	close(v);
	set[1] = 0;
	fails(window(w, 0, 0, K64, set, 2, NULL, 0), EACCES, "with another as well");
	close(w);
	v = window(rw, 0, 0, K64, NULL, 0, NULL, 0);
	fails(read(v, &(struct portal_event){}, sizeof(struct portal_event)), EOPNOTSUPP,
	      "read() of a window that waits for none");
	fails(bind_eventfd(v, 0, -1), EOPNOTSUPP, "PORTAL_EVENTFD of it");
	fails(window(v, 0, 0, K64, set, 1, NULL, 0), EOPNOTSUPP, "a window of it with a vector");
	close(v);
	close(twin);
}

static void ringing(void)
{
	uint32_t me = info.peer_id, last = info.vectors - 1;
	struct portal_bell one[] = { { me, last } }, any_peer[] = { { PORTAL_ANY, last } };
	struct portal_bell any_vector[] = { { me, PORTAL_ANY } }, all[] = { { PORTAL_ANY, PORTAL_ANY } };
	int w = window(rw, 1, 0, K64, NULL, 0, one, 1), v, listen;
	struct portal_bell many[PORTAL_WINDOW_MAX_BELLS];
	size_t k;

	listen = open_portal(device, O_RDONLY | O_NONBLOCK);
	if (!ok(w >= 0 && get_info(w).caps & PORTAL_CAP_DOORBELL, "a window that may ring %u:%u", me, last))
		return;
	ok(!ring(w, me, last) && hears(listen, last), "it rings");
	fails(ring(w, me, 0), EACCES, "another vector");
	fails(ring(w, me + 1, last), EACCES, "another peer");
	fails(ring(w, me ^ 1, last), EACCES, "the other peer");
	fails(ring(w, PORTAL_ANY, last), EACCES, "peer PORTAL_ANY");
	fails(ring(w, me, PORTAL_ANY), EACCES, "vector PORTAL_ANY");
	fails(ring(w, me + 0x10000, last), EACCES, "a peer of more bits");
	fails(ring(w, me, last + 0x100), EACCES, "a vector of more bits");
	ok(!(wait_for(listen, POLLIN, 300) & POLLIN), "and nothing of it is heard");
	fails(window(w, 1, 0, K64, NULL, 0, any_peer, 1), EACCES, "a window of it for any peer");
	fails(window(w, 1, 0, K64, NULL, 0, any_vector, 1), EACCES, "for any vector");
	fails(window(w, 1, 0, K64, NULL, 0, all, 1), EACCES, "for all");
	fails(window(w, 1, 0, K64, NULL, 0, (struct portal_bell[]){ one[0], { me, 0 } }, 2), EACCES,
	      "for its own and another");
	v = window(w, 1, 0, K64, NULL, 0, one, 1);
	ok(v >= 0 && !ring(v, me, last) && hears(listen, last), "for its own");
	close(v);
	v = plain_window(w, 1, 0, K64);
	fails(ring(v, me, last), EOPNOTSUPP, "for none, which rings none");
	close(v);
	v = plain_window(w, 0, 0, K64);
	fails(ring(v, me, last), EACCES, "a read-only one rings none");
	close(v);
	close(w);

	w = window(rw, 1, 0, K64, NULL, 0, any_peer, 1);
	ok(!ring(w, me, last) && hears(listen, last), "one vector of any peer");
	fails(ring(w, me, 0), EACCES, "another vector of one");
	fails(ring(w, PORTAL_ANY, last), ENXIO, "of the peer that does not exist");
	fails(window(w, 1, 0, K64, NULL, 0, any_vector, 1), EACCES, "a window of it for any vector");
	v = window(w, 1, 0, K64, NULL, 0, one, 1);
	ok(v >= 0, "for one peer");
	close(v);
	close(w);
	w = window(rw, 1, 0, K64, NULL, 0, any_vector, 1);
	ok(!ring(w, me, last) && hears(listen, last) && !ring(w, me, 0) && hears(listen, 0),
	   "any vector of one peer");
	fails(ring(w, me ^ 1, 0), EACCES, "a vector of another");
	close(w);
	for (k = 0; k < PORTAL_WINDOW_MAX_BELLS; k++)
		many[k] = (struct portal_bell){ 1000, k };
	many[k - 1] = one[0];
	w = window(rw, 1, 0, K64, NULL, 0, many, PORTAL_WINDOW_MAX_BELLS);
	ok(w >= 0 && !ring(w, me, last) && hears(listen, last), "256 doorbells: the last counts too");
	fails(ring(w, me, info.vectors), EACCES, "none that is not listed");
	close(w);
	close(listen);
}

/*
 * Processes, not threads: a wait for a thread is a futex(2), which a 32-bit program does not
 * have where the kernel keeps no 32-bit time (CONFIG_COMPAT_32BIT_TIME).
 */
struct sleeper {
	int fd;
	bool polls;
	pid_t pid;
};

/* Ends with 0 when an event woke it. */
static void sleep_in(struct sleeper *s)
{
	struct portal_event ev;

	s->pid = fork();
	if (s->pid)
		return;
	alarm(4 * PATIENT_MS / 1000);
	if (s->polls)
		_exit(!(wait_for(s->fd, POLLIN, 2 * PATIENT_MS) & POLLIN));
	_exit(read(s->fd, &ev, sizeof(ev)) != sizeof(ev));
}

/* How often a process has been put to sleep, -1 if it cannot be said. */
static long sleeps_of(pid_t pid)
{
	char path[64], line[128];
	long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "voluntary_ctxt_switches: %ld", &n);
	if (f)
		fclose(f);
	return n;
}

/* The same, when it has slept for a while. */
static long fast_asleep(pid_t pid)
{
	long n = -1, before;
	int i;

	for (i = 0; i < PATIENT_MS / 100; i++) {
		before = n;
		n = is_asleep(pid) ? sleeps_of(pid) : -1;
		if (n >= 0 && n == before)
			return n;
		usleep(100000);
	}
	return -1;
}

/* Who waits in a window is not woken, not for a moment, by what is none of his. */
static void sleeping(void)
{
	uint32_t last = info.vectors - 1;
	struct sleeper s[2] = { { .polls = false }, { .polls = true } };
	int i, k, status;
	long before[2];

	for (i = 0; i < 2; i++) {
		s[i].fd = window(rw, 0, 0, K64, &last, 1, NULL, 0);
		sleep_in(&s[i]);
	}
	for (i = 0; i < 2; i++)
		before[i] = fast_asleep(s[i].pid);
	for (k = 0; k < 100; k++) {
		ring(rw, info.peer_id, 0);
		usleep(1000);
	}
	for (i = 0; i < 2; i++)
		ok(before[i] >= 0 && sleeps_of(s[i].pid) == before[i] && !waitpid(s[i].pid, &status, WNOHANG),
		   "%s of a window sleeps through others' events (%ld, %ld)",
		   s[i].polls ? "poll()" : "read()", before[i], sleeps_of(s[i].pid));
	ring(rw, info.peer_id, last);
	for (i = 0; i < 2; i++) {
		status = -1;
		waitpid(s[i].pid, &status, 0);
		ok(!status, "and wakes for its own");
		close(s[i].fd);
	}
}

/* Nanoseconds of a ring, at best. */
static long ring_ns(uint32_t vector)
{
	struct timespec a, b;
	long best = -1, ns;
	int i, k;

	for (i = 0; i < 8; i++) {
		clock_gettime(CLOCK_MONOTONIC, &a);
		for (k = 0; k < 25; k++)
			ring(rw, info.peer_id, vector);
		clock_gettime(CLOCK_MONOTONIC, &b);
		ns = ((b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec) / 25;
		if (best < 0 || ns < best)
			best = ns;
	}
	return best;
}

#define WATCHERS	2000

/* Thousands that wait in windows are no burden for vectors that are not theirs. */
static void burdening(void)
{
	uint32_t last = info.vectors - 1;
	struct epoll_event ev = { .events = EPOLLIN };
	struct rlimit r = { 2 * WATCHERS, 2 * WATCHERS };
	static int ep[WATCHERS];
	long before, after, own;
	int w[2], i, added = 0;

	if (strcmp(info.transport, "loopback")) {
		skip("thousands of waiters", "here a ring does not take as long as its event");
		return;
	}
	if (setrlimit(RLIMIT_NOFILE, &r))
		die("setrlimit");
	w[0] = plain_window(rw, 0, 0, K64);
	w[1] = window(rw, 0, 0, K64, &last, 1, NULL, 0);
	before = ring_ns(0);
	for (i = 0; i < WATCHERS; i++) {
		ep[i] = epoll_create1(EPOLL_CLOEXEC);
		added += !epoll_ctl(ep[i], EPOLL_CTL_ADD, w[0], &ev);
		added += !epoll_ctl(ep[i], EPOLL_CTL_ADD, w[1], &ev);
	}
	after = ring_ns(0);
	own = ring_ns(last);
	ok(added == 2 * WATCHERS && after < 20 * before,
	   "%d waiters in windows: a ring takes %ld ns, before %ld, and on their own vector %ld", added,
	   after, before, own);
	for (i = 0; i < WATCHERS; i++)
		close(ep[i]);
	close(w[0]);
	close(w[1]);
}

/* The line of /proc/self/fdinfo that begins with name, without it; "" if there is none. */
static const char *fdinfo(int fd, const char *name)
{
	static char line[512];
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f)) {
		size_t n = strlen(name);

		line[strcspn(line, "\n")] = 0;
		if (!strncmp(line, name, n) && line[n] == ':') {
			fclose(f);
			return line + n + 2;
		}
	}
	if (f)
		fclose(f);
	return "";
}

static void describing(void)
{
	struct portal_bell bells[] = { { PORTAL_ANY, 0 }, { 7, PORTAL_ANY } };
	uint32_t set[] = { 0, info.vectors - 1 };
	bool belled = info.vectors >= 3;
	int w = belled ? window(rw, 1, K64, 2 * K64, set, 2, bells, 2) :
			plain_window(rw, 1, K64, 2 * K64);
	char want[64], number[16];
	int r = plain_window(ro, 0, 0, K64);

	snprintf(number, sizeof(number), "%s", device + strcspn(device, "0123456789"));
	ok(!strcmp(fdinfo(w, "portal"), number), "fdinfo: which portal (%s)", fdinfo(w, "portal"));
	ok(!strcmp(fdinfo(w, "portal-offset"), "65536"), "fdinfo: where in it (%s)",
	   fdinfo(w, "portal-offset"));
	ok(!strcmp(fdinfo(w, "portal-length"), "131072"), "fdinfo: how long (%s)",
	   fdinfo(w, "portal-length"));
	ok(!strcmp(fdinfo(w, "portal-rights"), "rw") && !strcmp(fdinfo(r, "portal-rights"), "r"),
	   "fdinfo: rights");
	snprintf(want, sizeof(want), "0 %u ", info.vectors - 1);
	ok(!strcmp(fdinfo(w, "portal-vectors"), belled ? want : ""), "fdinfo: vectors (%s)",
	   fdinfo(w, "portal-vectors"));
	ok(!strcmp(fdinfo(w, "portal-bells"), belled ? "*:0 7:* " : ""), "fdinfo: doorbells (%s)",
	   fdinfo(w, "portal-bells"));
	snprintf(want, sizeof(want), "%zu", size);
	ok(!strcmp(fdinfo(rw, "portal-length"), want) && !strcmp(fdinfo(rw, "portal-bells"), "*:* ") &&
	   !strcmp(fdinfo(ro, "portal-bells"), ""), "fdinfo of the device's own files");
	close(w);
	close(r);
}

/* A window is nobody's but its holder's. */
static void living(void)
{
	int f = open_portal(device, O_RDWR), w = plain_window(f, 1, K64, K64), status = -1;
	volatile uint32_t *m;
	pid_t child;

	set_marks();
	close(f);
	ok(shows(w, K64, K64), "the file that it was made from is closed");
	ok(!set_flags(w, PORTAL_FILE_ZERO_ON_REVOKE) || errno == EBUSY, "PORTAL_FILE of its own");
	m = map_at(w, K64, PROT_READ | PROT_WRITE, 0);
	fails(set_flags(w, PORTAL_FILE_ZERO_ON_REVOKE), EBUSY, "but not once it is mapped");
	close(w);
	ok(m[0] == mark(K64), "its mapping lives when it is closed");
	child = fork();
	if (!child)
		_exit(m[page / 4] != mark(K64 + page));
	waitpid(child, &status, 0);
	ok(!status, "and in a child");
	munmap((void *)m, K64);
	w = plain_window(rw, 1, 0, K64);
	if (info.caps & PORTAL_CAP_FLUSH)
		ok(!fsync(w), "fsync()");
	else
		fails(fsync(w), EINVAL, "fsync() where nothing is flushed");
	close(w);
}

int main(int argc, char **argv)
{
	start(120);
	device = argc > 1 ? argv[1] : "/dev/portal0";
	page = sysconf(_SC_PAGESIZE);
	rw = open_portal(device, O_RDWR);
	ro = open_portal(device, O_RDONLY);
	wo = open_portal(device, O_WRONLY);
	info = get_info(rw);
	size = info.region_size;
	whole = map_at(rw, size, PROT_READ | PROT_WRITE, 0);
	if (whole == MAP_FAILED)
		die("mmap");
	printf("# %s: %s, %zu bytes, %u vectors\n", device, info.transport, size, info.vectors);

	asking();
	bytes();
	if (info.vectors >= 2 && info.caps & PORTAL_CAP_DOORBELL) {
		hearing();
		ringing();
		sleeping();
		burdening();
	} else {
		skip("hearing and ringing", "no doorbells, or one vector only");
	}
	describing();
	living();
	return done();
}
