// SPDX-License-Identifier: MIT
/*
 * managed DEVICE [OTHER]       the mode, and what it forbids
 * managed --is MODE DEVICE     the mode is raw, managed or damaged, and means it
 *
 * The first formats the region itself, from portal-layout(5), and leaves it raw and zero.
 * OTHER shows the same memory, and is raw. The second is for a device that was formatted
 * before it was probed; it changes nothing.
 */
#include "super.h"

#include <sys/wait.h>

#define PROTECTED	SUPER_PROTECTED

static int fd;
static uint64_t size;
static long page;

/* ---- A superblock of our own ---------------------------------------------------- */

static struct portal_super good(void)
{
	return super_good(size);
}

static void *map(int file, uint64_t offset, uint64_t len, int prot)
{
	return mmap(NULL, len, prot, MAP_SHARED, file, (off_t)offset);
}

/* Whether it can be mapped; unmapped again. */
static int maps(int file, uint64_t offset, uint64_t len, int prot)
{
	void *m = map(file, offset, len, prot);

	return m == MAP_FAILED ? -1 : munmap(m, len);
}

/* Through a file that may write; no mapping stays. */
static void put(struct portal_super *s, bool seal)
{
	void *m = map(fd, 0, PORTAL_SUPER_SIZE, PROT_READ | PROT_WRITE);

	if (m == MAP_FAILED)
		die("mmap of the superblock");
	if (seal)
		super_seal(s);
	memcpy(m, s, sizeof(*s));
	munmap(m, PORTAL_SUPER_SIZE);
}

/* ---- Who may, and when ------------------------------------------------------------ */

static void test_arguments(const char *device)
{
	struct portal_set_mode m = { .size = sizeof(m), .flags = 1 };
	int ro = open_portal(device, O_RDONLY), w = plain_window(fd, PORTAL_WINDOW_WRITE, 0, 65536);
	int status;
	pid_t pid;

	fails(ioctl(fd, PORTAL_SET_MODE, &m), EOPNOTSUPP, "an undefined flag");
	m = (struct portal_set_mode){ .size = sizeof(m), .reserved = 1 };
	fails(ioctl(fd, PORTAL_SET_MODE, &m), EINVAL, "a reserved member");
	fails(set_mode(fd, 2), EINVAL, "an undefined mode");
	fails(set_mode(ro, PORTAL_MODE_RAW), EACCES, "a read-only file");
	fails(set_mode(w, PORTAL_MODE_RAW), EACCES, "a window");
	close(ro);
	close(w);
	pid = fork();
	if (!pid) {
		if (setuid(65534))
			_exit(2);
		_exit(set_mode(fd, PORTAL_MODE_RAW) == -1 && errno == EPERM ? 0 : 1);
	}
	waitpid(pid, &status, 0);
	ok(status == 0, "without CAP_SYS_ADMIN: EPERM");
}

/* Tables that kernels write lie in the protected part, whatever a superblock says. */
static void test_places(void)
{
	static const struct {
		const char *name;
		unsigned int area;
		struct portal_area to;
	} bad[] = {
		{ "peers over the superblock", PORTAL_AREA_PEERS, { 0, 4096, 512, 8 } },
		{ "peers at an odd place", PORTAL_AREA_PEERS, { 4096 + 512, 4096, 512, 8 } },
		{ "peers of another size", PORTAL_AREA_PEERS, { 4096, 2048, 256, 8 } },
		{ "fewer peers than rows", PORTAL_AREA_PEERS, { 4096, 3584, 512, 7 } },
		{ "peers whose length is not theirs", PORTAL_AREA_PEERS, { 4096, 8192, 512, 8 } },
		{ "peers behind the protected part", PORTAL_AREA_PEERS, { PROTECTED, 4096, 512, 8 } },
		{ "sessions over the peers", PORTAL_AREA_SESSIONS, { 4096, 16384, 128, 128 } },
		{ "sessions across the end of the protected part", PORTAL_AREA_SESSIONS,
		  { PROTECTED - 4096, 16384, 128, 128 } },
		{ "sessions behind the region", PORTAL_AREA_SESSIONS, { 1ULL << 40, 16384, 128, 128 } },
		{ "sessions at 2^64", PORTAL_AREA_SESSIONS, { -4096ULL, 16384, 128, 128 } },
		{ "sessions whose rows are another size", PORTAL_AREA_SESSIONS, { 8192, 16384, 256, 64 } },
	};
	struct portal_super s;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		s = good(), s.area[bad[i].area] = bad[i].to;
		put(&s, true);
		fails(set_mode(fd, PORTAL_MODE_MANAGED), EUCLEAN, bad[i].name);
	}
	s = good(), s.peers = 0;
	put(&s, true);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EUCLEAN, "no peers");
	s = good(), s.sessions = 0x20000000;
	put(&s, true);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EUCLEAN, "more sessions than 32 bits count");
}

static void test_superblocks(void)
{
	struct portal_super s = { 0 };

	put(&s, false);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), ENODATA, "no superblock");
	s = good();
	put(&s, true);
	s.checksum ^= 1;
	put(&s, false);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EUCLEAN, "a checksum that does not fit");
	s = good(), s.magic = PORTAL_MAGIC_FORMATTING;
	put(&s, true);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EUCLEAN, "not finished");
	s = good(), s.version = 2;
	put(&s, true);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EPROTONOSUPPORT, "another version");
	s = good(), s.incompat = 1ULL << 40;
	put(&s, true);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EPROTONOSUPPORT, "an unknown feature");
	s = good(), s.size += PORTAL_UNIT;
	put(&s, true);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EUCLEAN, "larger than the region");
	s = good(), s.protected_size = s.size;
	put(&s, true);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EUCLEAN, "all of it protected");
	s = good(), s.protected_size = 0;
	put(&s, true);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EUCLEAN, "nothing protected");
	s = good(), s.protected_size = PROTECTED + 4096;
	put(&s, true);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EUCLEAN, "no whole unit protected");
	s = good(), s.incarnation = 0;
	put(&s, true);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EUCLEAN, "no incarnation");
	test_places();
	ok(get_info(fd).mode == PORTAL_MODE_RAW && !get_info(fd).protected_size, "still raw");
	s = good();
	put(&s, true);
}

static void test_busy(const char *device)
{
	int ro = open_portal(device, O_RDONLY), status;
	char *m = map(fd, 0, 4 * page, PROT_READ | PROT_WRITE);
	pid_t pid;

	fails(set_mode(fd, PORTAL_MODE_MANAGED), EBUSY, "mapped writable");
	munmap(m + page, page);
	munmap(m, page);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EBUSY, "a part of it left");
	pid = fork();
	if (!pid) {
		pause();
		_exit(0);
	}
	munmap(m, 4 * page);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EBUSY, "mapped by a child");
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	m = map(fd, 0, page, PROT_READ);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EBUSY, "mapped read-only, and could be made writable");
	munmap(m, page);
	m = map(ro, 0, page, PROT_READ);
	ok(!set_mode(fd, PORTAL_MODE_MANAGED), "mapped through a read-only file: no hindrance");
	munmap(m, page);
	close(ro);
}

/* ---- What is forbidden -------------------------------------------------------------- */

static void test_mappings(int file, const char *what, uint64_t protected)
{
	const int rw = PROT_READ | PROT_WRITE;
	uint64_t whole = size / page * page;
	uint32_t got;
	char *m;

	ok(!maps(file, 0, whole, PROT_READ), "%s: all of it, read-only", what);
	fails(maps(file, 0, whole, rw), EACCES, "all of it, writable");
	fails(maps(file, 0, page, rw), EACCES, "the first page, writable");
	fails(maps(file, 0, page, PROT_WRITE), EACCES, "write-only");
	fails(maps(file, protected - page, 2 * page, rw), EACCES, "the last page and one behind it");
	ok(!maps(file, protected, whole - protected, rw), "%s: all behind it, writable", what);

	m = map(file, 0, whole, PROT_READ);
	fails(mprotect(m, whole, rw), EACCES, "mprotect of a read-only mapping");
	fails(mprotect(m, page, rw), EACCES, "mprotect of its first page");
	fails(mprotect(m + protected, page, rw), EACCES, "mprotect of what lies behind, but in the same mapping");
	ok(touch(m, -1, &got) == 0 && touch(m, 5, &got) == SIGSEGV, "%s: a store is SIGSEGV", what);
	munmap(m, whole);
	m = map(file, protected, page, PROT_READ);
	ok(!mprotect(m, page, rw) && touch(m, 5, &got) == 0, "%s: mprotect of what lies behind alone", what);
	munmap(m, page);
	m = map(file, protected, 2 * page, rw);
	ok(remap_file_pages(m, page, 0, 0, 0) == -1, "%s: remap_file_pages() to the first page", what);
	ok(mremap(m, 2 * page, 4 * page, MREMAP_MAYMOVE) == MAP_FAILED, "%s: mremap() to more", what);
	munmap(m, 2 * page);
	fails(mmap(NULL, page, rw, MAP_PRIVATE, file, 0) == MAP_FAILED ? -1 : 0, EINVAL, "MAP_PRIVATE");
}

static void test_debugger(void)
{
	int mem = open("/proc/self/mem", O_RDWR);
	char *m = map(fd, 0, page, PROT_READ);
	uint64_t word = 0;

	ok(mem >= 0 && pread(mem, &word, 8, (uintptr_t)m) == 8 && word == PORTAL_MAGIC,
	   "/proc/self/mem reads the superblock");
	ok(pwrite(mem, &word, 8, (uintptr_t)m) == -1, "and does not write it");
	close(mem);
	munmap(m, page);
}

static void test_windows(void)
{
	int w, w2;

	fails(plain_window(fd, PORTAL_WINDOW_WRITE, 0, 2 * PROTECTED), EACCES,
	      "a writable window over the protected part");
	w = plain_window(fd, 0, 0, 2 * PROTECTED);
	ok(w >= 0 && get_info(w).mode == PORTAL_MODE_MANAGED && get_info(w).protected_size == PROTECTED,
	   "a read-only window over it knows what it sees");
	fails(maps(w, 0, page, PROT_READ | PROT_WRITE), EACCES, "and does not map it writable");
	fails(plain_window(w, PORTAL_WINDOW_WRITE, 0, PROTECTED), EACCES, "nor does a window of it");
	close(w);
	w = plain_window(fd, PORTAL_WINDOW_WRITE, PROTECTED, PROTECTED);
	ok(w >= 0 && get_info(w).mode == PORTAL_MODE_RAW && !get_info(w).protected_size &&
	   !maps(w, 0, PROTECTED, PROT_READ | PROT_WRITE), "a window behind it is just memory");
	w2 = plain_window(w, PORTAL_WINDOW_WRITE, 0, PROTECTED);
	ok(w2 >= 0 && !maps(w2, 0, page, PROT_READ | PROT_WRITE), "and so is one of it");
	close(w2);
	close(w);
}

/* A window from the time before has no right to more than any file. */
static void test_old_window(int w)
{
	fails(maps(w, 0, page, PROT_READ | PROT_WRITE), EACCES, "a window from when it was raw");
	ok(!maps(w, PROTECTED, page, PROT_READ | PROT_WRITE), "and what lies behind");
}

static void test_later_bytes(const char *other)
{
	int raw = open_portal(other, O_RDWR);
	char *m = map(raw, 0, PORTAL_SUPER_SIZE, PROT_READ | PROT_WRITE);

	if (m == MAP_FAILED) {
		ok(false, "the other one is raw");
		return;
	}
	memset(m, 0xff, PORTAL_SUPER_SIZE);
	ok(get_info(fd).mode == PORTAL_MODE_MANAGED && get_info(fd).protected_size == PROTECTED,
	   "bytes that change later do not change the mode");
	fails(maps(fd, 0, page, PROT_READ | PROT_WRITE), EACCES, "nor what it forbids");
	ok(get_info(raw).mode == PORTAL_MODE_RAW, "and the other one is raw as ever");
	munmap(m, PORTAL_SUPER_SIZE);
	close(raw);
}

static void test_back(void)
{
	struct portal_super none = { 0 };
	char *m = map(fd, PROTECTED, page, PROT_READ | PROT_WRITE);

	fails(set_mode(fd, PORTAL_MODE_RAW), EBUSY, "back to raw while mapped writable");
	munmap(m, page);
	ok(!set_mode(fd, PORTAL_MODE_RAW) && get_info(fd).mode == PORTAL_MODE_RAW &&
	   !get_info(fd).protected_size, "back to raw");
	ok(!maps(fd, 0, size / page * page, PROT_READ | PROT_WRITE), "and all of it is writable");
	put(&none, false);
}

/* Whether a child can touch it. */
static bool child_has(void *m)
{
	int status = -1;
	uint32_t got;
	pid_t pid = fork();

	if (!pid)
		_exit(touch(m, -1, &got) == SIGSEGV);
	waitpid(pid, &status, 0);
	return status != 0x100;
}

/* No mapping that was made of it is a child's, and none can be made so. */
static void test_inherited(void)
{
	struct portal_info i = get_info(fd);
	const struct {
		const char *what;
		uint64_t offset;
		int prot;
	} all[] = {
		{ "its tables", 0, PROT_READ },
		{ "what lies behind", PROTECTED, PROT_READ | PROT_WRITE },
		{ "the doorbell page", i.doorbell_offset, PROT_READ | PROT_WRITE },
	};
	size_t n, most = 2 + !!(i.caps & PORTAL_CAP_DOORBELL_PAGE);
	uint32_t got;
	char *m;

	for (n = 0; n < most; n++) {
		m = map(fd, all[n].offset, page, all[n].prot);
		ok(touch(m, -1, &got) == 0 && !child_has(m), "not inherited by fork(): %s", all[n].what);
		fails(madvise(m, page, MADV_DOFORK), EINVAL, "nor made so");
		munmap(m, page);
	}
}

/* A session, and a change that is told, with or without vectors. */
static void test_session(const char *device)
{
	int watch = open_portal(device, O_RDONLY);
	struct portal_session_begin b;
	struct portal_event ev = { 0 };

	if (!has_sessions(fd)) {
		close(watch);
		return;
	}
	ok(!session(fd, 0, PORTAL_SESSION_SILENT, &b) && b.token && b.peer, "a session");
	ok(wait_for(watch, POLLPRI, PATIENT_MS) & POLLPRI, "of which others hear");
	ok(read(watch, &ev, sizeof(ev)) == sizeof(ev) && ev.type == PORTAL_EVENT_CHANGE && ev.count,
	   "by read()");
	ok(!session(fd, PORTAL_SESSION_END, 0, NULL), "over");
	close(watch);
}

static int all(const char *device, const char *other)
{
	int w;

	fd = open_portal(device, O_RDWR);
	size = get_info(fd).region_size;
	ok(get_info(fd).mode == PORTAL_MODE_RAW, "raw at first");
	test_arguments(device);
	test_superblocks();
	w = plain_window(fd, PORTAL_WINDOW_WRITE, 0, 2 * PROTECTED);
	test_busy(device);
	ok(get_info(fd).mode == PORTAL_MODE_MANAGED && get_info(fd).protected_size == PROTECTED, "managed");
	test_mappings(fd, "managed", PROTECTED);
	test_debugger();
	test_inherited();
	test_session(device);
	test_windows();
	test_old_window(w);
	close(w);
	if (other)
		test_later_bytes(other);
	test_back();
	return done();
}

static int is(const char *mode, const char *device)
{
	struct portal_info i;

	fd = open_portal(device, O_RDWR);
	i = get_info(fd);
	size = i.region_size;
	if (!strcmp(mode, "raw")) {
		ok(i.mode == PORTAL_MODE_RAW && !i.protected_size, "raw");
		ok(!maps(fd, 0, page, PROT_READ | PROT_WRITE), "writable from the first page on");
		fails(session(fd, 0, PORTAL_SESSION_SILENT, NULL), ENODATA, "no sessions");
	} else if (!strcmp(mode, "managed")) {
		ok(i.mode == PORTAL_MODE_MANAGED && i.protected_size && i.protected_size < size, "managed");
		test_mappings(fd, "as probed", i.protected_size);
		test_session(device);
	} else {
		ok(i.mode == PORTAL_MODE_MANAGED && i.protected_size == size, "managed, and damaged");
		ok(!maps(fd, 0, size, PROT_READ), "it can be looked at");
		fails(session(fd, 0, PORTAL_SESSION_SILENT, NULL), EUCLEAN, "no sessions");
		fails(maps(fd, 0, page, PROT_READ | PROT_WRITE), EACCES, "not written at its beginning");
		fails(maps(fd, size - page, page, PROT_READ | PROT_WRITE), EACCES, "nor at its end");
		fails(plain_window(fd, PORTAL_WINDOW_WRITE, size - 65536, 65536), EACCES, "nor by a window");
	}
	return done();
}

int main(int argc, char **argv)
{
	page = sysconf(_SC_PAGESIZE);
	start(100);
	if (argc == 4 && !strcmp(argv[1], "--is"))
		return is(argv[2], argv[3]);
	return all(argc > 1 ? argv[1] : "/dev/portal0", argc > 2 ? argv[2] : NULL);
}
