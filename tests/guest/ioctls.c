// SPDX-License-Identifier: MIT
/*
 * ioctls [DEVICE]: every kind of wrong call, and that right ones still work after it.
 *
 * Built for 32 and 64 bits: the contract is the same for both. TAP; exit status 0
 * if all went well, 1 otherwise.
 */
#include "guest.h"

#include <sys/uio.h>
#include <termios.h>

static const char *device;
static int fd;
static struct portal_info info;
static long page;

static void layouts(void)
{
	ok(sizeof(struct portal_info) == 160 && sizeof(struct portal_ring) == 16 &&
	   sizeof(struct portal_eventfd) == 16 && sizeof(struct portal_file) == 8 &&
	   sizeof(struct portal_window) == 48 && sizeof(struct portal_packets) == 48 &&
	   sizeof(struct portal_set_mode) == 16 &&
	   sizeof(struct portal_event) == 16, "sizes of the structures (%zu-bit caller)",
	   8 * sizeof(void *));
}

static void not_ours(void)
{
	struct portal_info i = { .size = sizeof(i) };

	fails(ioctl(fd, _IO(PORTAL_IOCTL_TYPE, 0x40), &i), ENOTTY, "unknown number");
	fails(ioctl(fd, _IO(PORTAL_IOCTL_TYPE, 9), &i), ENOTTY, "first unknown number");
	fails(ioctl(fd, _IO(PORTAL_IOCTL_TYPE, 0xff), &i), ENOTTY, "last number");
	fails(ioctl(fd, _IO(0xBA, 0), &i), ENOTTY, "another driver's type");
	fails(ioctl(fd, _IOWR(PORTAL_IOCTL_TYPE, 0, struct portal_info), &i), ENOTTY,
	      "a size in the number");
	fails(ioctl(fd, TCGETS, &i), ENOTTY, "a terminal's ioctl");
}

/* A page followed by one that cannot be read; returns the end of the page. */
static char *cliff(void)
{
	char *p = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p + 2 * page, page, PROT_NONE))
		die("cliff");
	return p + 2 * page;
}

static void pointers(void)
{
	struct portal_info *i;
	char *end = cliff();

	fails(ioctl(fd, PORTAL_INFO, NULL), EFAULT, "null pointer");
	fails(ioctl(fd, PORTAL_INFO, end), EFAULT, "unreadable pointer");
	fails(ioctl(fd, PORTAL_INFO, (void *)-16L), EFAULT, "kernel address");

	i = (void *)(end - sizeof(*i));
	i->size = sizeof(*i);
	ok(!ioctl(fd, PORTAL_INFO, i), "structure that ends where the page does");
	i = (void *)(end - sizeof(*i) + 8);
	i->size = sizeof(*i);
	fails(ioctl(fd, PORTAL_INFO, i), EFAULT, "structure that ends beyond");
	i = (void *)(end - sizeof(*i));
	i->size = sizeof(*i) + 8;
	fails(ioctl(fd, PORTAL_INFO, i), EFAULT, "longer structure whose excess is unreadable");
	memset((void *)i, 0, sizeof(*i));
	i->size = sizeof(*i);
	mprotect(end - page, page, PROT_READ);
	fails(ioctl(fd, PORTAL_INFO, i), EFAULT, "result into read-only memory");
	mprotect(end - page, page, PROT_READ | PROT_WRITE);

	i = (void *)(end - sizeof(*i) - 3);
	memcpy((void *)i, &(uint32_t){ sizeof(*i) }, sizeof(uint32_t));
	ok(!ioctl(fd, PORTAL_INFO, i), "unaligned structure");
	munmap(end - 2 * page, 3 * page);
}

static const struct {
	const char *name;
	unsigned long cmd;
	uint32_t size;
} calls[] = {
	{ "PORTAL_INFO", PORTAL_INFO, sizeof(struct portal_info) },
	{ "PORTAL_RING", PORTAL_RING, sizeof(struct portal_ring) },
	{ "PORTAL_EVENTFD", PORTAL_EVENTFD, sizeof(struct portal_eventfd) },
	{ "PORTAL_FILE", PORTAL_FILE, sizeof(struct portal_file) },
	{ "PORTAL_WINDOW", PORTAL_WINDOW, sizeof(struct portal_window) },
	{ "PORTAL_PACKETS", PORTAL_PACKETS, sizeof(struct portal_packets) },
};

/* A call with the given size in a buffer of zeroes, but for one byte at mark. */
static int sized(unsigned long cmd, uint32_t size, long mark)
{
	char *buf = calloc(2, page + 4096);
	int ret, saved;

	memcpy(buf, &size, sizeof(size));
	if (mark >= 0)
		buf[mark] = 1;
	if (cmd == PORTAL_EVENTFD)
		((struct portal_eventfd *)(void *)buf)->fd = -1;
	ret = ioctl(fd, cmd, buf);
	saved = errno;
	free(buf);
	errno = saved;
	return ret;
}

static void sizes(void)
{
	char name[80];
	size_t i;

	for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		uint32_t size = calls[i].size;
		static const uint32_t small[] = { 0, 1, 4 };
		size_t k;

		for (k = 0; k < sizeof(small) / sizeof(small[0]); k++) {
			snprintf(name, sizeof(name), "%s of size %u", calls[i].name, small[k]);
			fails(sized(calls[i].cmd, small[k], -1), EINVAL, name);
		}
		/* PORTAL_INFO has grown since its first version. */
		snprintf(name, sizeof(name), "%s one byte too short", calls[i].name);
		fails(sized(calls[i].cmd, (calls[i].cmd == PORTAL_INFO ? 144 : size) - 1, -1), EINVAL,
		      name);
		snprintf(name, sizeof(name), "%s longer, not zero at its end", calls[i].name);
		fails(sized(calls[i].cmd, size + 64, size + 63), E2BIG, name);
		snprintf(name, sizeof(name), "%s longer, not zero at once", calls[i].name);
		fails(sized(calls[i].cmd, size + 1, size), E2BIG, name);
		snprintf(name, sizeof(name), "%s longer than a page", calls[i].name);
		fails(sized(calls[i].cmd, page + 1, -1), E2BIG, name);
		snprintf(name, sizeof(name), "%s of size 0xffffffff", calls[i].name);
		fails(sized(calls[i].cmd, 0xffffffff, -1), E2BIG, name);
	}
	ok(!sized(PORTAL_INFO, sizeof(info) + 8, -1), "PORTAL_INFO from a later header is understood");
	ok(!sized(PORTAL_INFO, page, -1), "PORTAL_INFO of a page is understood");
	ok(!sized(PORTAL_INFO, 144, -1), "PORTAL_INFO of the first version is understood");
	ok(!sized(PORTAL_FILE, sizeof(struct portal_file) + 8, -1),
	   "PORTAL_FILE from a later header is understood");
}

/* What comes out lies within the caller's structure, and size is the caller's. */
static void output(void)
{
	struct {
		struct portal_info i;
		uint64_t behind[2];
	} s;

	memset(&s, 0, sizeof(s));
	s.behind[1] = 0x5555;
	s.i.size = sizeof(s.i) + 8;
	ok(!ioctl(fd, PORTAL_INFO, &s) && !s.behind[0] && s.behind[1] == 0x5555 &&
	   s.i.size == sizeof(s.i) + 8, "nothing is written beyond what the kernel knows");
	ok(s.i.api_version >= 1, "api_version");
	ok((s.i.region_size || (s.i.caps & PORTAL_CAP_PACKETS)) && s.i.region_size % page == 0,
	   "region_size is pages: %llu",
	   (unsigned long long)s.i.region_size);
	ok(s.i.mode == PORTAL_MODE_RAW, "mode is raw");
	ok(memchr(s.i.transport, 0, sizeof(s.i.transport)) && s.i.transport[0], "transport: %s",
	   s.i.transport);
	ok(memchr(s.i.identity, 0, sizeof(s.i.identity)) && s.i.identity[0], "identity: %s",
	   s.i.identity);
	ok(!(s.i.caps & PORTAL_CAP_EVENTS) == !s.i.vectors, "caps agree with vectors (%u)",
	   s.i.vectors);
	ok(!(s.i.caps & PORTAL_CAP_DOORBELL_PAGE) == !s.i.doorbell_format,
	   "caps agree with doorbell_format");
}

static bool sysfs_says(const char *name, const char *want)
{
	const char *node = strrchr(device, '/');
	char path[128], text[128] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/sys/class/portal/%s/%s", node ? node + 1 : device, name);
	f = fopen(path, "r");
	if (!f || !fgets(text, sizeof(text), f))
		text[0] = 0;
	if (f)
		fclose(f);
	text[strcspn(text, "\n")] = 0;
	return ok(!strcmp(text, want), "sysfs: %s is %s", name, text);
}

/* Who has no program at hand finds the same in sysfs. */
static void sysfs(void)
{
	static const char *const caches[] = { "unknown", "write-back", "uncached" };
	const struct { const char *name; unsigned long long value; } numbers[] = {
		{ "size", info.region_size },
		{ "vectors", info.vectors },
		{ "generation", info.generation },
	};
	char text[32];

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		snprintf(text, sizeof(text), "%llu", numbers[i].value);
		sysfs_says(numbers[i].name, text);
	}
	snprintf(text, sizeof(text), "%u", info.peer_id);
	sysfs_says("peer_id", info.peer_id == PORTAL_PEER_NONE ? "none" : text);
	sysfs_says("transport", info.transport);
	sysfs_says("identity", info.identity);
	sysfs_says("mode", "raw");
	sysfs_says("cache", info.cache < 3 ? caches[info.cache] : "?");
}

static void rings(void)
{
	struct portal_ring r = { .size = sizeof(r), .flags = 1 };
	int ro = open_portal(device, O_RDONLY);

	fails(ioctl(fd, PORTAL_RING, &r), EOPNOTSUPP, "PORTAL_RING with flag 1");
	r.flags = 0x80000000;
	fails(ioctl(fd, PORTAL_RING, &r), EOPNOTSUPP, "PORTAL_RING with flag 1<<31");
	fails(ring(ro, 0, 0), EACCES, "ringing through a read-only file");
	if (!(info.caps & PORTAL_CAP_DOORBELL)) {
		fails(ring(fd, 0, 0), EOPNOTSUPP, "ringing where there are no doorbells");
		close(ro);
		return;
	}
	fails(ring(fd, PORTAL_PEER_NONE, 0), ENXIO, "ringing PORTAL_PEER_NONE");
	fails(ring(fd, 0x10000, 0), ENXIO, "ringing a peer that cannot be");
	fails(ring(fd, 0x80000000, 0), ENXIO, "ringing peer 1<<31");
	fails(ring(fd, info.peer_id, 0x10000), ENXIO, "ringing a vector that cannot be");
	fails(ring(fd, info.peer_id, 0xffffffff), ENXIO, "ringing vector 0xffffffff");
	/* QEMU looks at 8 bits of a vector: what is beyond must not ring another one. */
	fails(ring(fd, info.peer_id, 256 + info.vectors), ENXIO, "ringing a vector beyond all");
	if (!strcmp(info.transport, "ivshmem")) {
		fails(ring(fd, info.peer_id, 256), ENXIO, "ringing vector 256");
		ok(!(wait_for(ro, POLLIN, 500) & POLLIN), "and none of it rang vector 0");
	}
	if (info.peer_id != PORTAL_PEER_NONE)
		ok(!ring(fd, info.peer_id, 0), "ringing oneself");
	close(ro);
}

static void eventfds(void)
{
	struct portal_eventfd e = { .size = sizeof(e), .flags = 2, .fd = -1 };
	int efd = eventfd(0, EFD_CLOEXEC), wo = open_portal(device, O_WRONLY);
	int null = open("/dev/null", O_RDONLY);

	fails(ioctl(fd, PORTAL_EVENTFD, &e), EOPNOTSUPP, "PORTAL_EVENTFD with flag 2");
	fails(bind_eventfd(wo, 0, efd), EACCES, "binding through a write-only file");
	close(wo);
	if (!info.vectors) {
		fails(bind_eventfd(fd, 0, efd), EOPNOTSUPP, "binding where there are no vectors");
		return;
	}
	fails(bind_eventfd(fd, info.vectors, efd), EINVAL, "binding the first vector beyond");
	fails(bind_eventfd(fd, 0xffffffff, efd), EINVAL, "binding vector 0xffffffff");
	fails(bind_eventfd(fd, info.vectors, -1), EINVAL, "unbinding a vector beyond");
	fails(bind_eventfd(fd, 0, -2), EBADF, "binding descriptor -2");
	fails(bind_eventfd(fd, 0, 0x7fffffff), EBADF, "binding a descriptor that is not open");
	fails(bind_eventfd(fd, 0, null), EINVAL, "binding /dev/null");
	fails(bind_eventfd(fd, 0, fd), EINVAL, "binding the portal itself");
	ok(!bind_eventfd(fd, 0, -1), "unbinding where nothing is bound");
	ok(!bind_eventfd(fd, info.vectors - 1, efd), "binding the last vector");
	ok(!bind_eventfd(fd, info.vectors - 1, efd), "binding it again");
	ok(!bind_eventfd(fd, info.vectors - 1, -1), "unbinding it");
	close(efd);
	close(null);
}

static void files(void)
{
	int f = open_portal(device, O_RDWR);
	void *map;

	fails(set_flags(f, 2), EOPNOTSUPP, "PORTAL_FILE with flag 2");
	fails(set_flags(f, 0x80000001), EOPNOTSUPP, "PORTAL_FILE with a known and an unknown flag");
	ok(!set_flags(f, PORTAL_FILE_ZERO_ON_REVOKE), "ZERO_ON_REVOKE");
	ok(!set_flags(f, PORTAL_FILE_ZERO_ON_REVOKE), "ZERO_ON_REVOKE again");
	ok(!set_flags(f, 0), "and off");
	map = mmap(NULL, page, PROT_READ, MAP_SHARED, f, 0);
	if (map == MAP_FAILED)
		die("mmap");
	fails(set_flags(f, PORTAL_FILE_ZERO_ON_REVOKE), EBUSY, "PORTAL_FILE while mapped");
	munmap(map, page);
	fails(set_flags(f, PORTAL_FILE_ZERO_ON_REVOKE), EBUSY, "PORTAL_FILE after it was mapped");
	close(f);
}

static int take_rings(int f, struct portal_packets *r)
{
	r->size = sizeof(*r);
	return ioctl(f, PORTAL_PACKETS, r);
}

static bool maps(int f, uint64_t offset, size_t len, int prot, int want)
{
	void *map = mmap(NULL, len, prot, MAP_SHARED, f, (off_t)offset);
	int e = map == MAP_FAILED ? errno : 0;

	if (!e)
		munmap(map, len);
	return e == want;
}

/* Who may map which part of the rings of vector 0. */
static void rings_mapped(int ro)
{
	struct portal_packets r = { 0 }, again = { 0 }, other = { 0 };
	const int rw = PROT_READ | PROT_WRITE;
	int f = open_portal(device, O_RDWR);
	void *map;

	ok(!take_rings(f, &r) && r.send_size >= 2 * (size_t)page &&
	   r.recv_size >= 2 * (size_t)page &&
	   r.send_size % page == 0 && r.recv_size % page == 0, "PORTAL_PACKETS");
	ok(!take_rings(f, &again) && again.send_offset == r.send_offset &&
	   again.recv_offset == r.recv_offset, "again, with the same answer");
	fails(take_rings(fd, &other), EBUSY, "another file has the rings");
	ok(maps(f, r.send_offset, r.send_size, rw, 0), "map the ring for sending");
	ok(maps(f, r.send_offset + page, r.send_size - page, rw, 0), "its data");
	ok(maps(f, r.recv_offset, r.recv_size, PROT_READ, 0), "the other, to read");
	ok(maps(f, r.send_offset, r.send_size + page, rw, EINVAL), "not both at once");
	ok(maps(f, r.recv_offset, r.recv_size + page, rw, EINVAL), "not beyond the end");
	ok(maps(f, r.send_offset - page, page, rw, info.caps & PORTAL_CAP_DOORBELL_PAGE ? 0 : EINVAL),
	   "not before the beginning");
	ok(maps(f, r.send_offset + info.vectors * (r.send_size + r.recv_size), page, rw, EINVAL),
	   "not behind the last vector's");
	if (info.vectors > 1)
		ok(maps(f, r.recv_offset + r.recv_size, page, rw, EACCES), "not another vector's");
	ok(maps(fd, r.send_offset, r.send_size, rw, EACCES), "not without the claim");
	ok(maps(ro, r.send_offset, r.send_size, PROT_READ, EACCES), "nor a read-only file");

	map = mmap(NULL, page, rw, MAP_SHARED, f, (off_t)r.send_offset);
	if (map == MAP_FAILED)
		die("mmap");
	close(f);
	fails(take_rings(fd, &other), EBUSY, "a mapping holds the claim");
	munmap(map, page);
	f = open_portal(device, O_RDWR);
	ok(!take_rings(f, &other), "which ends with the last mapping");
	close(f);
}

static void packets(void)
{
	struct portal_packets r = { .flags = 1 };
	int ro = open_portal(device, O_RDONLY);

	fails(take_rings(fd, &r), EOPNOTSUPP, "PORTAL_PACKETS with a flag");
	r = (struct portal_packets) { .reserved = 1 };
	fails(take_rings(fd, &r), EINVAL, "PORTAL_PACKETS with a reserved member set");
	r = (struct portal_packets) { 0 };
	fails(take_rings(ro, &r), EACCES, "PORTAL_PACKETS on a read-only file");
	r = (struct portal_packets) { .vector = info.vectors };
	if (info.caps & PORTAL_CAP_PACKETS) {
		fails(take_rings(fd, &r), EINVAL, "PORTAL_PACKETS of no vector");
		rings_mapped(ro);
	} else {
		fails(take_rings(fd, &r), EOPNOTSUPP, "PORTAL_PACKETS where there are none");
		ok(maps(fd, info.region_size + page, page, PROT_READ, EINVAL), "nor any to map");
	}
	close(ro);
}

static void reads(void)
{
	struct portal_event ev[2];
	int wo = open_portal(device, O_WRONLY);
	int ro = open_portal(device, O_RDONLY | O_NONBLOCK);
	char *end = cliff();

	fails(read(wo, ev, sizeof(ev)), EBADF, "read() of a write-only file");
	fails(write(fd, ev, sizeof(ev)), EINVAL, "write()");
	fails(lseek(fd, 0, SEEK_SET), ESPIPE, "lseek()");
	fails(pread(fd, ev, sizeof(ev), 0), ESPIPE, "pread()");
	if (!info.vectors) {
		fails(read(ro, ev, sizeof(ev)), EOPNOTSUPP, "read() where there are no vectors");
		goto out;
	}
	fails(read(ro, ev, 0), EINVAL, "read() of nothing");
	fails(read(ro, ev, sizeof(ev[0]) - 1), EINVAL, "read() of less than a record");
	/* rings() rang; between machines that may take its time. */
	while (wait_for(ro, POLLIN, 300) && read(ro, ev, sizeof(ev)) > 0)
		;
	fails(read(ro, ev, sizeof(ev)), EAGAIN, "read() without events");
	if (info.peer_id == PORTAL_PEER_NONE)
		goto out;
	if (ring(fd, info.peer_id, 0) || !(wait_for(ro, POLLIN, PATIENT_MS) & POLLIN)) {
		ok(false, "ring oneself and see it");
		goto out;
	}
	fails(read(ro, end, sizeof(ev)), EFAULT, "read() to a bad pointer");
	ok(wait_for(ro, POLLIN, 0) & POLLIN, "the event is still there");
	ok(read(ro, end - sizeof(ev[0]) - 1, sizeof(ev)) == sizeof(ev[0]),
	   "it comes to an unaligned buffer with room for one");
	fails(read(ro, ev, sizeof(ev)), EAGAIN, "and is there no more");
out:
	munmap(end - 2 * page, 3 * page);
	close(wo);
	close(ro);
}

int main(int argc, char **argv)
{
	start(60);
	device = argc > 1 ? argv[1] : "/dev/portal0";
	page = sysconf(_SC_PAGESIZE);
	fd = open_portal(device, O_RDWR);
	info = get_info(fd);
	printf("# %s: %s, %s, %u vectors\n", device, info.transport, info.identity, info.vectors);

	layouts();
	not_ours();
	pointers();
	sizes();
	output();
	sysfs();
	rings();
	eventfds();
	if (info.region_size)
		files();
	packets();
	reads();
	ok(!memcmp(info.identity, get_info(fd).identity, sizeof(info.identity)),
	   "the portal is as it was");
	return done();
}
