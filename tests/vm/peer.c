// SPDX-License-Identifier: MIT
/*
 * peer: what one machine of a pair does on /dev/portal0 in the tests of unusual
 * pairs (nested KVM, x86_64 with arm64). Both architectures run this source.
 *
 *	peer id				print this machine's peer id
 *	peer pagesize			print the page size
 *	peer ring PEER VECTOR N		ring N times, wait for nothing
 *	peer bounce SIDE PEER VECTOR N HOW
 *					N acknowledged rings each way; HOW is "ioctl"
 *					or "page": a store to the doorbell page
 *	peer bell			print 1 if there is a doorbell page, else 0
 *	peer fence SIDE OFFSET N MODE	Dekker's entry, N rounds, in a zero page at
 *					OFFSET; MODE is "full" or "none": with or
 *					without the fence
 *	peer pages			TAP: page size, offsets, odd addresses
 *	peer attr			TAP, arm64 with memattr.ko: memory type
 *
 * Exit status: 0 done, 1 a check failed, 2 wrong usage, 3 the portal failed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/portal.h>

#define DEVICE		"/dev/portal0"
#define WAIT_MS		60000	/* for the other machine, anywhere */
#define LINE		128	/* two cache lines: no false sharing, no prefetch pairs */
#define ENOUGH		20	/* misses */
#define FENCE_SECONDS	8	/* a busy host may give each round a time slice */

static int tests, failures;

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *fmt, ...)
{
	int saved = errno;
	va_list ap;

	fputs("peer: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, ": %s\n", strerror(saved));
	exit(3);
}

static void ok(int good, const char *name)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++tests, name);
	failures += !good;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static int open_portal(int flags)
{
	int fd = open(DEVICE, flags | O_CLOEXEC);

	if (fd < 0)
		die("%s", DEVICE);
	return fd;
}

static struct portal_info info(int fd)
{
	struct portal_info i = { .size = sizeof(i) };

	if (ioctl(fd, PORTAL_INFO, &i))
		die("PORTAL_INFO");
	return i;
}

static unsigned char *map_region(int fd, int prot, uint64_t *size)
{
	struct portal_info i = info(fd);
	void *p = mmap(NULL, i.region_size, prot, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		die("mmap of %llu bytes", (unsigned long long)i.region_size);
	*size = i.region_size;
	return p;
}

/* ---- Doorbells ----------------------------------------------------------- */

static void ring(int fd, uint32_t peer, uint32_t vector)
{
	struct portal_ring r = { .size = sizeof(r), .peer = peer, .vector = vector };

	if (ioctl(fd, PORTAL_RING, &r))
		die("ring of peer %u vector %u", peer, vector);
}

/* Events on vector, at least one; any other vector is an error. */
static uint64_t events(int fd, uint32_t vector)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct portal_event e[8];
	uint64_t n = 0;
	ssize_t got;

	errno = ETIMEDOUT;
	if (poll(&p, 1, WAIT_MS) != 1)
		die("no event on vector %u in %d ms", vector, WAIT_MS);
	got = read(fd, e, sizeof(e));
	if (got <= 0)
		die("read");
	for (size_t k = 0; k < got / sizeof(e[0]); k++) {
		if (e[k].type == PORTAL_EVENT_DOORBELL && e[k].vector != vector) {
			errno = EPROTO;
			die("an event on vector %u, none was expected", e[k].vector);
		}
		n += e[k].count;
	}
	return n;
}

static int do_ring(uint32_t peer, uint32_t vector, long n)
{
	int fd = open_portal(O_RDWR);

	for (long k = 0; k < n; k++)
		ring(fd, peer, vector);
	printf("rang %ld\n", n);
	return 0;
}

static volatile uint32_t *map_bell(int fd)
{
	struct portal_info i = info(fd);
	unsigned char *p;

	errno = EOPNOTSUPP;
	if (!(i.caps & PORTAL_CAP_DOORBELL_PAGE) || i.doorbell_format != PORTAL_DOORBELL_IVSHMEM)
		die("doorbell page");
	p = mmap(NULL, sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		 i.doorbell_offset);
	if (p == MAP_FAILED)
		die("mmap of the doorbell page");
	return (volatile uint32_t *)(p + i.doorbell_register);
}

static void ring_by(int fd, volatile uint32_t *bell, uint32_t peer, uint32_t vector)
{
	if (bell)
		*bell = peer << 16 | vector;
	else
		ring(fd, peer, vector);
}

/*
 * Side 1 says that it listens by the word at LINE, so that side 0's first ring
 * is not an earlier file's. Each ring is answered before the next: exactly one
 * event each.
 */
static int do_bounce(int side, uint32_t peer, uint32_t vector, long n, int by_page)
{
	int fd = open_portal(O_RDWR | O_NONBLOCK);
	volatile uint32_t *bell = by_page ? map_bell(fd) : NULL;
	uint64_t size, seen = 0;
	unsigned char *base = map_region(fd, PROT_READ | PROT_WRITE, &size);
	_Atomic uint32_t *listens = (void *)(base + LINE);
	double end = now() + WAIT_MS / 1000;

	if (side == 1) {
		atomic_store(listens, 1);
	} else {
		while (!atomic_load(listens) && now() < end)
			usleep(1000);
		atomic_store(listens, 0);
	}
	for (long k = 0; k < n; k++) {
		if (side == 0)
			ring_by(fd, bell, peer, vector);
		seen += events(fd, vector);
		if (side == 1)
			ring_by(fd, bell, peer, vector);
	}
	printf("rang %ld seen %llu\n", n, (unsigned long long)seen);
	return seen != (uint64_t)n;
}

/* ---- Memory between the two machines ------------------------------------- */

struct fence_line {
	_Alignas(LINE) _Atomic uint64_t arrived;	/* this side is at round n */
	_Alignas(LINE) _Atomic uint64_t flag;		/* this side wants in, round n */
	_Alignas(LINE) _Atomic uint64_t verdict;	/* n * 2 + saw the other's flag */
};

static int wait_for(_Atomic uint64_t *word, uint64_t least, double end)
{
	for (unsigned int spins = 0; atomic_load(word) < least; spins++)
		if ((spins & 0xfff) == 0xfff && now() > end)
			return 0;
	return 1;
}

/*
 * Each side raises its flag, then looks at the other's. With full fences at least
 * one of them sees the other; without, a store may wait in a store buffer while
 * the load runs ahead, and both see nothing: a miss.
 */
static int do_fence(int side, uint64_t offset, uint64_t rounds, int full)
{
	uint64_t size, misses = 0, n;
	unsigned char *base = map_region(open_portal(O_RDWR), PROT_READ | PROT_WRITE, &size);
	struct fence_line *l = (void *)(base + offset);
	struct fence_line *mine = &l[side], *other = &l[!side];
	double end = now() + FENCE_SECONDS + WAIT_MS / 1000;

	for (n = 1; n <= rounds; n++) {
		uint64_t saw;

		atomic_store(&mine->arrived, n);
		if (!wait_for(&other->arrived, n, end))
			break;
		if (n == 1)
			end = now() + FENCE_SECONDS;
		atomic_store_explicit(&mine->flag, n, memory_order_relaxed);
		if (full)
			atomic_thread_fence(memory_order_seq_cst);
		else
			atomic_signal_fence(memory_order_seq_cst);
		saw = atomic_load_explicit(&other->flag, memory_order_relaxed) >= n;
		atomic_store(&mine->verdict, n * 2 + saw);
		if (!wait_for(&other->verdict, n * 2, end))
			break;
		/* The other may be a round ahead in arrived, never in verdict. */
		misses += !saw && !(atomic_load(&other->verdict) & 1);
		/* Both count the same, so both stop here. */
		if (misses >= ENOUGH || now() > end)
			break;
	}
	printf("rounds %llu misses %llu\n", (unsigned long long)(n - 1),
	       (unsigned long long)misses);
	return 0;
}

/* ---- Page size and memory type ------------------------------------------- */

/* Unaligned accesses and block zeroing: memory may take them, a device may not. */
static int odd_accesses(unsigned char *base, size_t len)
{
	uint64_t x = 0x0123456789abcdefULL, y;
	unsigned char *copy = malloc(len);

	if (!copy)
		die("malloc");
	memset(base, 0, len);
	for (size_t at = 1; at + sizeof(x) < len; at += 61) {
		memcpy(base + at, &x, sizeof(x));
		memcpy(&y, base + at, sizeof(y));
		if (x != y)
			return 0;
	}
	memcpy(copy, base + 3, len - 3);
	memmove(base + 5, copy, len - 5);
	y = memcmp(base + 5, copy, len - 5);
	memset(base, 0, len);
	free(copy);
	return !y;
}

static int map_fails(int fd, size_t len, uint64_t offset, int want)
{
	void *p = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, offset);

	if (p != MAP_FAILED) {
		munmap(p, len);
		return 0;
	}
	return errno == want;
}

static int do_pages(void)
{
	int fd = open_portal(O_RDWR);
	struct portal_info i = info(fd);
	uint64_t page = sysconf(_SC_PAGESIZE), size, past;
	unsigned char *base, *last;

	printf("# page size %llu, region %llu\n", (unsigned long long)page,
	       (unsigned long long)i.region_size);
	ok(i.region_size && i.region_size % page == 0, "the region is whole pages");
	ok(!(i.caps & PORTAL_CAP_DOORBELL_PAGE) || (i.doorbell_offset % page == 0 &&
	   i.doorbell_offset >= i.region_size), "the doorbell page lies beyond the region");
	base = map_region(fd, PROT_READ | PROT_WRITE, &size);
	last = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, size - page);
	ok(last != MAP_FAILED, "the last page maps by itself");
	if (last != MAP_FAILED) {
		base[size - 1] = 0x5a;
		ok(last[page - 1] == 0x5a, "and is the last page of the whole");
	}
	past = size;
	if (i.caps & PORTAL_CAP_DOORBELL_PAGE && i.doorbell_offset == size)
		past += page;
	ok(map_fails(fd, page, past, EINVAL), "the page after all does not");
	ok(map_fails(fd, 2 * page, size - page, EINVAL), "nor does a mapping across the end");
	if (page > 4096)
		ok(map_fails(fd, 4096, 4096, EINVAL), "an offset inside a page is refused");
	ok(odd_accesses(base, 1 << 20), "unaligned accesses and block zeroing work");
	ok(odd_accesses(base + size - page, page), "in the last page too");
	printf("1..%d\n", tests);
	return failures != 0;
}

#ifdef __aarch64__

#define NORMAL_WB	0xff	/* MAIR: Normal, inner and outer write-back, allocate */

struct memattr {
	char level[8];
	unsigned long long desc, index, mair, attr, fault, cpu, share;
};

static struct memattr ask(const volatile void *va)
{
	int fd = open("/sys/kernel/debug/memattr", O_RDWR | O_CLOEXEC);
	char text[256] = "";
	struct memattr m = { .fault = 1 };

	if (fd < 0)
		die("/sys/kernel/debug/memattr (memattr.ko)");
	snprintf(text, sizeof(text), "%lx", (unsigned long)va);
	if (write(fd, text, strlen(text)) < 0 || pread(fd, text, sizeof(text) - 1, 0) <= 0)
		die("memattr");
	close(fd);
	printf("# %p %s", va, text);
	if (sscanf(text, "level=%7s desc=%llx attrindx=%llu mair=%llx attr=%llx "
		   "fault=%llu cpu_attr=%llx sh=%llu", m.level, &m.desc, &m.index, &m.mair,
		   &m.attr, &m.fault, &m.cpu, &m.share) != 8)
		die("memattr says \"%s\"", text);
	return m;
}

static int is_write_back(const volatile unsigned char *va)
{
	struct memattr m;

	(void)*va;	/* it is there only once it has been touched */
	m = ask(va);
	return !m.fault && m.attr == NORMAL_WB && m.cpu == NORMAL_WB && m.share == 3;
}

static void attr_of(int flags, int prot, const char *how)
{
	int fd = open_portal(flags);
	uint64_t size;
	unsigned char *base = map_region(fd, prot, &size);
	char name[128];

	snprintf(name, sizeof(name), "%s: Normal write-back, inner shareable, everywhere", how);
	ok(is_write_back(base) & is_write_back(base + size / 2) & is_write_back(base + size - 1),
	   name);
	munmap(base, size);
	close(fd);
}

/* Whether the region's first byte is mapped by a large page. */
static int level_of(int fd, size_t size)
{
	volatile unsigned char *base = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

	if (base == MAP_FAILED)
		die("mmap");
	(void)*base;
	return strcmp(ask(base).level, "pte") != 0;
}

static void control(void)
{
	unsigned int normal = 0, combine = 0, device = 0;
	FILE *f = fopen("/sys/kernel/debug/memattr_control", "re");

	if (!f || fscanf(f, "normal=%x writecombine=%x device=%x", &normal, &combine, &device) != 3)
		die("memattr_control");
	fclose(f);
	ok(normal == NORMAL_WB && combine == 0x44 && (device & 0xf0) == 0,
	   "the decoding tells write-back, write-combining and device memory apart");
}

static int do_attr(void)
{
	int fd = open_portal(O_RDWR);
	struct portal_info i = info(fd);
	volatile uint32_t *bell;

	control();
	ok(i.cache == PORTAL_CACHE_WRITE_BACK, "PORTAL_INFO says write-back");
	attr_of(O_RDWR, PROT_READ | PROT_WRITE, "read-write");
	ok(level_of(fd, i.region_size) == !!(i.caps & PORTAL_CAP_LARGE_PAGES),
	   "large pages are used if PORTAL_INFO says so, only then");
	attr_of(O_RDWR, PROT_READ, "read-only mapping");
	attr_of(O_RDONLY, PROT_READ, "read-only file");
	attr_of(O_RDWR | O_SYNC, PROT_READ | PROT_WRITE, "O_SYNC changes nothing");
	if (i.caps & PORTAL_CAP_DOORBELL_PAGE) {
		bell = map_bell(fd);
		(void)*bell;
		ok((ask(bell).cpu & 0xf0) == 0, "the doorbell page is device memory");
	} else {
		printf("ok %d - the doorbell page is device memory # SKIP this device gives none\n",
		       ++tests);
	}
	printf("1..%d\n", tests);
	return failures != 0;
}

#else

static int do_attr(void)
{
	puts("1..0 # SKIP for arm64; x86 is judged by pat_memtype_list");
	return 0;
}

#endif

static int usage(void)
{
	fputs("usage: peer id | pagesize | ring PEER VECTOR N | bounce SIDE PEER VECTOR N HOW |\n"
	      "       bell | fence SIDE OFFSET N full|none | pages | attr\n", stderr);
	return 2;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	unsigned long a[4] = { 0 };

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int k = 2; k < argc && k < 6; k++)
		a[k - 2] = strtoul(argv[k], NULL, 0);
	if (!strcmp(what, "id") && argc == 2) {
		printf("%u\n", info(open_portal(O_RDONLY)).peer_id);
		return 0;
	}
	if (!strcmp(what, "pagesize") && argc == 2) {
		printf("%ld\n", sysconf(_SC_PAGESIZE));
		return 0;
	}
	if (!strcmp(what, "ring") && argc == 5)
		return do_ring(a[0], a[1], a[2]);
	if (!strcmp(what, "bounce") && argc == 7)
		return do_bounce(a[0] != 0, a[1], a[2], a[3], !strcmp(argv[6], "page"));
	if (!strcmp(what, "bell") && argc == 2) {
		printf("%d\n", !!(info(open_portal(O_RDONLY)).caps & PORTAL_CAP_DOORBELL_PAGE));
		return 0;
	}
	if (!strcmp(what, "fence") && argc == 6)
		return do_fence(a[0] != 0, a[1], a[2], !strcmp(argv[5], "full"));
	if (!strcmp(what, "pages") && argc == 2)
		return do_pages();
	if (!strcmp(what, "attr") && argc == 2)
		return do_attr();
	return usage();
}
