// SPDX-License-Identifier: MIT
/*
 * mapping [DEVICE [OTHER]]: what may be mapped, how, and what a mapping does.
 *
 * OTHER is the other end of a loopback pair, or "-" for none: then what is stored
 * through one must be seen through the other. Writes to the region; nobody else may
 * use it. TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "guest.h"

#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define FAULT_PAGES	512	/* what one fault maps at least, where so much is there */

static const char *device;
static int rw, ro;
static struct portal_info info;
static size_t page, size;

static void *map_at(int fd, size_t len, int prot, int flags, uint64_t offset)
{
	return mmap(NULL, len, prot, flags, fd, offset);
}

static void refused(int fd, size_t len, int prot, int flags, uint64_t offset, int error,
		    const char *name)
{
	void *map = map_at(fd, len, prot, flags, offset);

	fails(map == MAP_FAILED ? -1 : 0, error, name);
	if (map != MAP_FAILED)
		munmap(map, len);
}

static void bounds(void)
{
	const int both = PROT_READ | PROT_WRITE;
	char *map = map_at(rw, size, both, MAP_SHARED, 0);
	size_t last = size - page;

	ok(map != MAP_FAILED && !touch(map, 1, NULL) && !touch(map + size - 4, 2, NULL),
	   "the whole region, its first and its last word");
	munmap(map, size);
	map = map_at(rw, page, both, MAP_SHARED, last);
	ok(map != MAP_FAILED && *(volatile uint32_t *)(map + page - 4) == 2, "the last page alone");
	munmap(map, page);

	refused(rw, size + page, both, MAP_SHARED, 0, EINVAL, "a page more than the region");
	refused(rw, 2 * page, both, MAP_SHARED, last, EINVAL, "the last page and one more");
	refused(rw, 2 * page, both, MAP_SHARED, size, EINVAL, "two pages behind the region");
	/* Packet rings are there, which this file has not taken. */
	refused(rw, page, both, MAP_SHARED, size + 16 * page,
		info.caps & PORTAL_CAP_PACKETS ? EACCES : EINVAL, "far behind the region");
	refused(rw, page, both, MAP_SHARED, 1ULL << 43, EINVAL, "at 8 TiB");
	refused(rw, page, both, MAP_SHARED, page / 2, EINVAL, "at half a page");
	if (sizeof(long) == 8) {
		map = map_at(rw, page, both, MAP_SHARED, INT64_MAX & -page);
		ok(map == MAP_FAILED && (errno == EINVAL || errno == EOVERFLOW),
		   "at the end of all offsets");
		map = map_at(rw, page, both, MAP_SHARED, (uint64_t)-page);
		ok(map == MAP_FAILED && (errno == EINVAL || errno == EOVERFLOW),
		   "at an offset that would wrap");
	}
}

static void kinds(void)
{
	int wo = open_portal(device, O_WRONLY);
	char *map;

	refused(rw, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0, EINVAL, "MAP_PRIVATE");
	refused(rw, page, PROT_READ, MAP_PRIVATE, 0, EINVAL, "MAP_PRIVATE, reading");
	refused(ro, page, PROT_READ, MAP_PRIVATE, 0, EINVAL, "MAP_PRIVATE of a read-only file");
	refused(wo, page, PROT_WRITE, MAP_SHARED, 0, EACCES, "a write-only file");
	refused(wo, page, PROT_NONE, MAP_SHARED, 0, EACCES, "a write-only file, PROT_NONE");
	refused(ro, page, PROT_READ | PROT_WRITE, MAP_SHARED, 0, EACCES,
		"a read-only file for writing");
	close(wo);

	map = map_at(ro, page, PROT_READ, MAP_SHARED, 0);
	ok(map != MAP_FAILED && !touch(map, -1, NULL), "a read-only file for reading");
	fails(mprotect(map, page, PROT_READ | PROT_WRITE), EACCES, "and mprotect() to writing");
	ok(touch(map, 1, NULL) == SIGSEGV, "a store to it is a SIGSEGV");
	munmap(map, page);
	map = map_at(ro, page, PROT_NONE, MAP_SHARED, 0);
	fails(mprotect(map, page, PROT_WRITE), EACCES, "mprotect() from PROT_NONE to writing");
	munmap(map, page);

	map = map_at(rw, page, PROT_READ, MAP_SHARED, 0);
	ok(!touch(map, -1, NULL) && touch(map, 1, NULL) == SIGSEGV,
	   "a full file mapped for reading only reads");
	ok(!mprotect(map, page, PROT_READ | PROT_WRITE) && !touch(map, 1, NULL),
	   "until mprotect() lets it write");
	ok(!mprotect(map, page, PROT_READ) && touch(map, 1, NULL) == SIGSEGV,
	   "and takes that back");
	munmap(map, page);
}

static void doorbell_page(void)
{
	const int both = PROT_READ | PROT_WRITE;
	volatile uint32_t *map;

	if (!(info.caps & PORTAL_CAP_DOORBELL_PAGE)) {
		refused(rw, page, both, MAP_SHARED, size, EINVAL, "the doorbell page of none");
		return;
	}
	refused(ro, page, PROT_READ, MAP_SHARED, info.doorbell_offset, EACCES,
		"the doorbell page through a read-only file");
	refused(rw, 2 * page, both, MAP_SHARED, info.doorbell_offset, EINVAL,
		"two doorbell pages");
	refused(rw, page, both, MAP_PRIVATE, info.doorbell_offset, EINVAL,
		"a private doorbell page");
	map = map_at(rw, page, both, MAP_SHARED, info.doorbell_offset);
	ok((void *)map != MAP_FAILED, "the doorbell page");
	if (info.doorbell_format == PORTAL_DOORBELL_IVSHMEM && info.vectors) {
		map[info.doorbell_register / 4] = info.peer_id << 16;
		ok(wait_for(rw, POLLIN, 5000) & POLLIN, "a store to it rings");
		ok(read(rw, (struct portal_event[1]){}, sizeof(struct portal_event)) ==
		   sizeof(struct portal_event), "and is read");
	}
	munmap((void *)map, page);
}

static void moving(void)
{
	const int both = PROT_READ | PROT_WRITE;
	char *map = map_at(rw, 4 * page, both, MAP_SHARED, 0), *to;
	void *grown;
	uint32_t got = 0;

	touch(map, 17, NULL);
	touch(map + 3 * page, 18, NULL);
	grown = mremap(map, 4 * page, 8 * page, MREMAP_MAYMOVE);
	ok(grown == MAP_FAILED, "mremap() does not make it longer");
	to = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ok(mremap(map, 4 * page, 4 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to &&
	   !touch(to + 3 * page, -1, &got) && got == 18, "mremap() moves it");
	ok(!munmap(to + page, page) && !touch(to, -1, &got) && got == 17 &&
	   !touch(to + 3 * page, -1, &got) && got == 18, "a hole in its middle leaves the rest");
	ok(mremap(to + 2 * page, 2 * page, page, 0) == to + 2 * page, "mremap() shortens it");
	munmap(to, 4 * page);
	grown = mremap(map_at(rw, page, PROT_READ, MAP_SHARED, 0), 0, size + page, MREMAP_MAYMOVE);
	ok(grown == MAP_FAILED, "mremap() of length 0 does not reach beyond");
}

/* What the kernel says of the mapping at addr: the VmFlags of smaps. */
static bool vm_flags(void *addr, char *flags, size_t len)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long from, to;
	bool here = false, found = false;
	char line[512];

	while (f && !found && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			here = from <= (unsigned long)addr && (unsigned long)addr < to;
		if (here && !strncmp(line, "VmFlags:", 8)) {
			snprintf(flags, len, "%s", line + 8);
			flags[strcspn(flags, "\n")] = 0;
			found = true;
		}
	}
	if (f)
		fclose(f);
	return found;
}

static void flags(void)
{
	char *map = map_at(ro, page, PROT_READ, MAP_SHARED, 0);
	char said[512];

	if (!vm_flags(map, said, sizeof(said))) {
		skip("flags of a mapping", "no /proc/self/smaps");
	} else {
		ok(strstr(said, " pf") && strstr(said, " de") && strstr(said, " dd") &&
		   strstr(said, " ms") && !strstr(said, " mw"),
		   "no pages, no growth, no core dump, shared, never writable:%s", said);
	}
	munmap(map, page);
}

/* A debugger's way in, and the ways that pin pages. */
static void strangers(void)
{
	int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC), pipes[2];
	char *map = map_at(rw, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	char *shut = map_at(ro, page, PROT_READ, MAP_SHARED, 0);
	struct iovec iov = { map, page };
	uint32_t word = 0;

	touch(map + 64, 0x1234, NULL);
	ok(pread(mem, &word, 4, (off_t)(uintptr_t)(map + 64)) == 4 && word == 0x1234, "a debugger reads it");
	word = 0x4321;
	ok(pwrite(mem, &word, 4, (off_t)(uintptr_t)(map + 64)) == 4 && !touch(map + 64, -1, &word) &&
	   word == 0x4321, "a debugger writes it");
	word = 0x9999;
	ok(pwrite(mem, &word, 4, (off_t)(uintptr_t)(shut + 64)) != 4 && !touch(map + 64, -1, &word) &&
	   word == 0x4321, "a debugger does not write through a read-only file");
	close(mem);

	if (pipe(pipes))
		die("pipe");
	fails(vmsplice(pipes[1], &iov, 1, 0), EFAULT, "pinning it");
	ok(write(pipes[1], map + 64, 4) == 4 && read(pipes[0], &word, 4) == 4 && word == 0x4321,
	   "write() from it");
	ok(write(pipes[1], &(uint32_t){ 5 }, 4) == 4 && read(pipes[0], map + 64, 4) == 4 &&
	   !touch(shut + 64, -1, &word) && word == 5, "read() into it");
	close(pipes[0]);
	close(pipes[1]);
	munmap(map, 2 * page);
	munmap(shut, page);
}

/* Who reads the memory of a process in one stretch, over the end of a mapping. */
static void over_the_end(void)
{
	int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC), status;
	uint32_t *bytes = calloc(2, page), word;
	char *all, *map;
	pid_t child;

	if (size < 2 * page) {
		skip("a debugger at the end of a mapping", "the region is one page");
		return;
	}
	all = map_at(rw, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	map = map_at(rw, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	touch(all + page, 0xaaaa, NULL);
	if (mmap(map + page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		 -1, 0) == MAP_FAILED)
		die("mmap");
	touch(map + page, 0xbbbb, NULL);
	ok(pread(mem, bytes, 2 * page, (uintptr_t)map) == (ssize_t)(2 * page) &&
	   bytes[page / 4] == 0xbbbb, "a debugger reads beyond a mapping what is there");
	bytes[page / 4] = 0xcccc;
	ok(pwrite(mem, bytes, 2 * page, (uintptr_t)map) == (ssize_t)(2 * page) &&
	   !touch(all + page, -1, &word) && word == 0xaaaa &&
	   !touch(map + page, -1, &word) && word == 0xcccc, "and writes nothing else");
	munmap(map + page, page);
	ok(pread(mem, bytes, 2 * page, (uintptr_t)map) == (ssize_t)page,
	   "a debugger gets one page where the next is not mapped");

	child = fork();
	if (!child) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
		die("the traced child");
	errno = 0;
	ptrace(PTRACE_PEEKDATA, child, map + page - sizeof(long), NULL);
	ok(!errno, "ptrace() reads the last word");
	errno = 0;
	fails(ptrace(PTRACE_PEEKDATA, child, map + page - sizeof(long) / 2, NULL), EIO,
	      "ptrace() over the end");
	ptrace(PTRACE_KILL, child, NULL, NULL);
	waitpid(child, &status, 0);
	munmap(map, page);
	munmap(all, 2 * page);
	close(mem);
	free(bytes);
}

static void forking(void)
{
	volatile uint32_t *map = map_at(rw, page, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	int status = -1;
	pid_t child;

	map[0] = 100;
	child = fork();
	if (!child) {
		if (map[0] != 100)
			_exit(1);
		map[1] = 101;
		_exit(0);
	}
	waitpid(child, &status, 0);
	ok(status == 0 && map[1] == 101, "a forked child shares it");
	munmap((void *)map, page);
}

static long faults(void)
{
	struct rusage r;

	getrusage(RUSAGE_SELF, &r);
	return r.ru_minflt + r.ru_majflt;
}

/* Touches each page of a new mapping. */
static void few_faults(bool write)
{
	size_t pages = size / page, i;
	volatile char *map = map_at(write ? rw : ro, size, PROT_READ | (write ? PROT_WRITE : 0),
				    MAP_SHARED, 0);
	long before, n, most = 2 + (pages + FAULT_PAGES - 1) / FAULT_PAGES;

	before = faults();
	for (i = 0; i < pages; i++) {
		if (write)
			map[i * page] = i;
		else
			(void)map[i * page];
	}
	n = faults() - before;
	ok(n <= most, "%s %zu pages in order takes %ld faults, at most %ld",
	   write ? "writing" : "reading", pages, n, most);
	munmap((void *)map, size);
}

/* Parts of a mapping that may be one entry, taken out of its middle. */
static void splitting(void)
{
	const int both = PROT_READ | PROT_WRITE;
	char *map = map_at(rw, size, both, MAP_SHARED, 0), *middle = map + size / 2;
	struct iovec iov = { map, size };
	uint32_t got = 0;
	int status = -1, pipes[2];
	pid_t child;

	if (size < 8 * page) {
		skip("splitting a mapping", "the region is too small");
		munmap(map, size);
		return;
	}
	touch(map, 31, NULL);
	touch(middle, 32, NULL);
	touch(middle + page, 33, NULL);
	ok(!mprotect(middle, page, PROT_READ) && touch(middle, 1, NULL) == SIGSEGV &&
	   !touch(middle, -1, &got) && got == 32 && !touch(middle + page, 34, NULL) &&
	   !touch(map, 35, NULL), "mprotect() of one page of a large mapping");
	if (pipe(pipes))
		die("pipe");
	fails(vmsplice(pipes[1], &iov, 1, 0), EFAULT, "pinning a large mapping");
	close(pipes[0]);
	close(pipes[1]);
	child = fork();
	if (!child)
		_exit(touch(middle + page, -1, &got) || got != 34 || touch(map, -1, &got) ||
		      got != 35 || touch(middle, 1, NULL) != SIGSEGV);
	waitpid(child, &status, 0);
	ok(!status, "a child inherits it so");
	ok(!munmap(middle + page, page) && touch(middle + page, -1, NULL) == SIGSEGV &&
	   !touch(middle, -1, &got) && got == 32 && !touch(middle + 2 * page, 36, NULL),
	   "munmap() of one page of it");
	ok(!mprotect(map, size / 2 + page, both) && !touch(middle, 37, NULL),
	   "mprotect() back");
	munmap(map, size);
}

static void alignment(void)
{
	size_t large = 2 << 20;
	char *map = map_at(rw, size, PROT_READ, MAP_SHARED, 0);

	if (!(info.caps & PORTAL_CAP_LARGE_PAGES) || page != 4096 || sizeof(long) < 8)
		skip("the address suits large entries", "none here");
	else
		ok((uintptr_t)map % large == 0, "the address suits large entries: %p", (void *)map);
	munmap(map, size);
}

static void other_end(const char *path)
{
	int fd = open_portal(path, O_RDWR);
	volatile uint32_t *a = map_at(rw, size, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	volatile uint32_t *b = map_at(fd, size, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	size_t words = size / 4, i, wrong = 0;

	for (i = 0; i < words; i++)
		a[i] = i * 2654435761u;
	for (i = 0; i < words; i++)
		wrong += b[i] != (uint32_t)(i * 2654435761u);
	ok(!wrong, "the other end sees each word (%zu) where it was stored", words);
	munmap((void *)a, size);
	munmap((void *)b, size);
	close(fd);
}

int main(int argc, char **argv)
{
	start(120);
	device = argc > 1 ? argv[1] : "/dev/portal0";
	page = sysconf(_SC_PAGESIZE);
	rw = open_portal(device, O_RDWR);
	ro = open_portal(device, O_RDONLY);
	info = get_info(rw);
	size = info.region_size;
	printf("# %s: %s, %zu bytes, caps %#llx\n", device, info.transport, size,
	       (unsigned long long)info.caps);

	bounds();
	kinds();
	doorbell_page();
	moving();
	flags();
	strangers();
	over_the_end();
	forking();
	few_faults(false);
	few_faults(true);
	splitting();
	alignment();
	if (argc > 2 && strcmp(argv[2], "-"))
		other_end(argv[2]);
	else
		skip("the other end", "none named");
	return done();
}
