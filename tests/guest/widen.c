// SPDX-License-Identifier: MIT
/*
 * widen DEVICE: every way to get more out of a window than was put into it.
 *
 * Each must fail, or give no more than the window has. (What a window is: window.c; an
 * outsider who uses one: sandbox.c.) Runs as root, for whom files and capabilities are no
 * obstacle: what keeps a window small is the window alone. Writes to the region; nobody
 * else may use it. TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "confined.h"

#include <dirent.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <sys/file.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

static int refused(void *map)
{
	return map == MAP_FAILED ? -1 : 0;
}

/* ---- Mappings --------------------------------------------------------------------- */

/* Every offset that there could be, from 0 to far behind the region. */
static void all_offsets(void)
{
	size_t far = 2 * size + 16 * page, wrong = 0, offset;
	uint64_t bit;

	for (offset = 0; offset < far; offset += page) {
		char *m = map_at(win, page, PROT_READ, MAP_SHARED, offset);

		wrong += (m != MAP_FAILED) != (offset < length);
		if (m == MAP_FAILED)
			continue;
		wrong += *(volatile uint32_t *)m != INSIDE + (at + offset) / page;
		munmap(m, page);
	}
	ok(!wrong, "mmap() at each offset up to %zu: the window's own, no other", far);
	for (wrong = 0, bit = page; bit; bit <<= 1) {
		char *m = map_at(win, page, PROT_READ, MAP_SHARED, bit);

		wrong += bit >= length && m != MAP_FAILED;
		if (m != MAP_FAILED)
			munmap(m, page);
		m = map_at(win, page, PROT_READ, MAP_SHARED, -bit);
		wrong += m != MAP_FAILED;
		if (m != MAP_FAILED)
			munmap(m, page);
	}
	ok(!wrong, "and at each power of two, above and below 0");
}

static void odd_mappings(void)
{
	char *m;

	fails(refused(map_at(win, 2 * page, BOTH, MAP_SHARED | MAP_GROWSDOWN, 0)), EINVAL,
	      "MAP_GROWSDOWN");
	fails(refused(map_at(win, page, BOTH, MAP_PRIVATE, 0)), EINVAL, "MAP_PRIVATE");
	fails(refused(map_at(win_ro, page, PROT_READ, MAP_PRIVATE, 0)), EINVAL,
	      "MAP_PRIVATE of a read-only one");
	ok(map_at(win, 2 * MiB, BOTH, MAP_SHARED | MAP_HUGETLB, 0) == MAP_FAILED, "MAP_HUGETLB");
	m = map_at(win, length, BOTH, MAP_SHARED | MAP_POPULATE | MAP_LOCKED, 0);
	ok(m == MAP_FAILED || harmless(m, 0), "MAP_POPULATE, MAP_LOCKED");
	if (m != MAP_FAILED)
		munmap(m, length);
	m = map_at(win, length + page, BOTH, MAP_SHARED | MAP_POPULATE, 0);
	ok(m == MAP_FAILED, "MAP_POPULATE of a page more");
}

static void moving(void)
{
	char *m = map_at(win, length, BOTH, MAP_SHARED, 0), *last = m + length - page;
	void *hint = mmap(NULL, size + length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	fails(refused(mremap(last, page, 2 * page, 0)), EFAULT, "mremap() of the last page to two");
	fails(refused(mremap(m, length, size, MREMAP_MAYMOVE)), EFAULT, "mremap() to the region's size");
	fails(refused(mremap(last, page, size, MREMAP_MAYMOVE | MREMAP_FIXED, hint)), EFAULT,
	      "mremap() to a place with room");
	ok(mremap(last, 0, 2 * page, MREMAP_MAYMOVE) == MAP_FAILED, "mremap() of length 0 to two pages");
	ok(mremap(m, 0, size, MREMAP_MAYMOVE) == MAP_FAILED, "mremap() of length 0 to the region's size");
#ifdef MREMAP_DONTUNMAP
	{
		char *twin = mremap(m, length, length, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);

		ok(twin == MAP_FAILED || (harmless(twin, 0) && harmless(twin + length - page, length - page)),
		   "MREMAP_DONTUNMAP");
		if (twin != MAP_FAILED)
			munmap(twin, length);
	}
#endif
	/* In the middle of a mapping, then shortened, then grown again. */
	munmap(m, length);
	m = map_at(win, length, BOTH, MAP_SHARED, 0);
	ok(mremap(m, length, page, 0) == m && mremap(m, page, length, 0) == MAP_FAILED,
	   "mremap() back to what it was before it was shortened");
	munmap(m, length);
	munmap(hint, size + length);
}

/* An old way to change what part of a file a mapping shows. */
static void remapping(void)
{
#ifdef SYS_remap_file_pages
	char *m = map_at(win, length, BOTH, MAP_SHARED, 0);
	size_t wrong = 0, offset;
	long ret = syscall(SYS_remap_file_pages, m, page, 0, 1, 0);

	ok(ret ? harmless(m, 0) : harmless(m, page), "remap_file_pages() within the window");
	for (offset = length; offset < 2 * size; offset += page) {
		ret = syscall(SYS_remap_file_pages, m, page, 0, offset / page, 0);
		wrong += !ret;
	}
	wrong += !syscall(SYS_remap_file_pages, m, page, 0, (size_t)-1 / page, 0);
	wrong += !syscall(SYS_remap_file_pages, m, 2 * page, 0, length / page - 1, 0);
	ok(!wrong, "remap_file_pages() to each page behind it");
	munmap(m, length);
#endif
}

static void protecting(void)
{
	static const int advices[] = {
		MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED, MADV_REMOVE,
		MADV_DONTFORK, MADV_DOFORK, MADV_MERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
		MADV_DODUMP, MADV_FREE, MADV_WIPEONFORK, MADV_KEEPONFORK, 20 /* COLD */, 21 /* PAGEOUT */,
		22 /* POPULATE_READ */, 23 /* POPULATE_WRITE */, 24, 25 /* COLLAPSE */, 102, 103, 104
	};
	/* With a hole behind it that is surely one. */
	char *m = mmap(NULL, length + K64, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t i, wrong = 0;
	int prot;

	if (m == MAP_FAILED || munmap(m + length, K64) ||
	    mmap(m, length, PROT_READ, MAP_SHARED | MAP_FIXED, win_ro, 0) != m)
		die("mmap");
	for (prot = 0; prot < 8; prot++) {
		int ret = mprotect(m, page, prot);

		wrong += prot & PROT_WRITE && !ret;
	}
	ok(!wrong, "mprotect() of a read-only one, to anything that writes");
	mprotect(m, page, PROT_READ);
	ok(mprotect(m, page, BOTH | PROT_GROWSDOWN) && mprotect(m, page, BOTH | PROT_GROWSUP),
	   "mprotect() with PROT_GROWSDOWN, PROT_GROWSUP");
#ifdef SYS_pkey_mprotect
	ok(syscall(SYS_pkey_mprotect, m, page, BOTH, -1) < 0, "pkey_mprotect()");
#endif
	for (i = 0; i < sizeof(advices) / sizeof(advices[0]); i++) {
		madvise(m, length, advices[i]);
		wrong += madvise(m, length + K64, advices[i]) == 0 && touch(m + length, -1, NULL) == 0;
		wrong += touch(m, 1, NULL) != SIGSEGV;
	}
	ok(!wrong && harmless(m, 0), "madvise() of every kind");
	munmap(m, length);
}

/*
 * What lies beside a mapping, in the same block of 2 MiB and in the same page table, is
 * not filled by its faults; and there is no entry, large or small, behind its end.
 */
static void neighbours(int fd, size_t from, size_t len, size_t lead, const char *name)
{
	size_t area = 8 * MiB, i, wrong = 0;
	char *room = mmap(NULL, area, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *m;

	m = (char *)(((uintptr_t)room + 2 * MiB - 1) & -(2 * MiB)) + lead;
	madvise(room, area, MADV_NOHUGEPAGE);
	if (room == MAP_FAILED || mmap(m, len, BOTH, MAP_SHARED | MAP_FIXED, fd, from) != m)
		die("mmap");
	/* Faults from either end, with the neighbours not there yet. */
	wrong += !harmless(m, from) || !harmless(m + len - page, from + len - page);
	for (i = 0; i < len; i += page)
		wrong += !harmless(m + i, from + i);
	ok(!wrong, "%s: each page shows its own", name);
	for (wrong = 0, i = 0; i < area; i += page) {
		volatile uint32_t *w = (volatile uint32_t *)(room + i);

		if (room + i >= m && room + i < m + len)
			continue;
		wrong += *w != 0;
		*w = 0xffffffff;
	}
	ok(!wrong && untouched(), "%s: what lies beside is nothing of the region", name);
	munmap(m + len, page);
	ok(touch(m + len, -1, NULL) == SIGSEGV && !touch(m + len - page, -1, NULL),
	   "%s: a hole behind it is a hole", name);
	/* A part of what may be one large entry. */
	munmap(m, page);
	ok(touch(m, -1, NULL) == SIGSEGV && (len == page || harmless(m + len - page, from + len - page)),
	   "%s: and a hole in it", name);
	munmap(room, area);
}

static void large_entries(void)
{
	size_t last = length - 3 * page;

	neighbours(win, 0, length, 0, "a mapping where a large entry could begin");
	neighbours(win, 0, length, 2 * MiB - length / 2, "across two of them");
	neighbours(win, 0, page, 2 * MiB - page, "the first page, before the end of one");
	neighbours(win, last, 3 * page, K64, "the last three pages");
	if (size >= 8 * MiB) {
		/* 2 MiB and a bit that fit the memory's own blocks, or miss them by 64 KiB. */
		size_t old_at = at, old_length = length;
		int fd;

		at = 2 * MiB;
		length = 2 * MiB + K64;
		set_marks();
		fd = ioctl(rw, PORTAL_WINDOW, &(struct portal_window){ .size = sizeof(struct portal_window),
			   .flags = 1, .offset = at, .length = length });
		neighbours(fd, 0, length, 0, "2 MiB and 64 KiB, in step with the memory");
		neighbours(fd, 0, 2 * MiB, 0, "2 MiB in step");
		neighbours(fd, K64, 2 * MiB, K64, "2 MiB of it, behind its first 64 KiB");
		neighbours(fd, K64, 2 * MiB, 0, "the same out of step");
		close(fd);
		at = 2 * MiB + K64;
		length = 2 * MiB;
		set_marks();
		fd = plain_window(rw, 1, at, length);
		neighbours(fd, 0, length, 0, "a window of 2 MiB out of step");
		neighbours(fd, 0, length, K64, "mapped in step");
		close(fd);
		at = old_at;
		length = old_length;
		set_marks();
	} else {
		skip("windows of 2 MiB", "the region is too small");
	}
}

/* ---- Descriptors ------------------------------------------------------------------ */

static void reopening(void)
{
	static const int how[] = { O_RDONLY, O_RDWR, O_WRONLY, O_RDWR | O_TRUNC, O_RDWR | O_DIRECT };
	char path[64], *m = map_at(win_ro, page, PROT_READ, MAP_SHARED, 0);
	size_t i, wrong = 0;
	DIR *dir;
	int fd, fd2;

	for (i = 0; i < sizeof(how) / sizeof(how[0]); i++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", win_ro);
		wrong += open(path, how[i]) >= 0;
		snprintf(path, sizeof(path), "/dev/fd/%d", win);
		wrong += open(path, how[i]) >= 0;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", win);
	ok(!wrong, "opening it again through /proc/self/fd");
	fd = open(path, O_PATH);
	if (fd >= 0) {
		fails(ioctl(fd, PORTAL_INFO, &info), EBADF, "through O_PATH: ioctl()");
		ok(map_at(fd, page, PROT_READ, MAP_SHARED, 0) == MAP_FAILED, "through O_PATH: mmap()");
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		fd2 = open(path, O_RDWR);
		ok(fd2 < 0 && openat(fd, "", O_RDWR) < 0, "opening that again");
		close(fd);
	}
	wrong = 0;
	dir = opendir("/proc/self/map_files");
	if (dir) {
		snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)m,
			 (unsigned long)m + page);
		ok(open(path, O_RDWR) < 0 && open(path, O_RDONLY) < 0, "through /proc/self/map_files");
		closedir(dir);
	} else {
		skip("through /proc/self/map_files", "this kernel has none");
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", win);
	ok(link(path, "/tmp/window") < 0 &&
	   linkat(AT_FDCWD, path, AT_FDCWD, "/tmp/window", AT_SYMLINK_FOLLOW) < 0 &&
	   linkat(win, "", AT_FDCWD, "/tmp/window", AT_EMPTY_PATH) < 0, "giving it a name");
	ok(openat(win, ".", O_RDWR) < 0 && fchdir(win) < 0, "as a directory");
	munmap(m, page);
}

static void file_calls(void)
{
	struct file_handle *h = calloc(1, sizeof(*h) + 128);
	int mount, fd, fl = fcntl(win_ro, F_GETFL);

	h->handle_bytes = 128;
	ok(name_to_handle_at(win, "", h, &mount, AT_EMPTY_PATH) < 0 ||
	   (fd = open_by_handle_at(win, h, O_RDWR)) < 0, "by file handle");
	free(h);
	fcntl(win_ro, F_SETFL, O_RDWR | O_NONBLOCK);
	ok((fcntl(win_ro, F_GETFL) & O_ACCMODE) == O_RDONLY &&
	   map_at(win_ro, page, BOTH, MAP_SHARED, 0) == MAP_FAILED, "F_SETFL to O_RDWR");
	fcntl(win_ro, F_SETFL, fl);
	ok(fcntl(win, F_ADD_SEALS, 0) < 0 && fcntl(win, F_GET_SEALS) < 0, "seals");
	ok(ftruncate(win, size) < 0 && ftruncate(win, 0) < 0, "ftruncate()");
	ok(fallocate(win, 0, 0, size) < 0 && fallocate(win, 3, 0, length) < 0, "fallocate()");
	posix_fadvise(win, 0, 0, POSIX_FADV_WILLNEED);
	posix_fadvise(win, 0, 0, POSIX_FADV_DONTNEED);
	readahead(win, 0, size);
	sync_file_range(win, 0, size, 7);
	flock(win, LOCK_EX);
	flock(win, LOCK_UN);
	fd = dup(win_ro);
	ok(get_info(fd).region_size == length && map_at(fd, page, BOTH, MAP_SHARED, 0) == MAP_FAILED,
	   "dup()");
	close(fd);
	ok(get_info(win).region_size == length && untouched(), "it is as it was");
}

/* Positions, pipes and copies. */
static void transfers(void)
{
	int pipes[2], mem = memfd_create("m", MFD_CLOEXEC), all = 0;
	char buf[64] = "";
	loff_t pos = 0;
	off_t off = 0;

	if (pipe2(pipes, O_NONBLOCK) || ftruncate(mem, size))
		die("pipe");
	fails(write(win, buf, sizeof(buf)), EINVAL, "write()");
	fails(pwrite(win, buf, sizeof(buf), 0), ESPIPE, "pwrite()");
	fails(pread(win, buf, sizeof(buf), length), ESPIPE, "pread() behind its end");
	fails(lseek(win, 0, SEEK_END), ESPIPE, "lseek()");
	all += sendfile(pipes[1], win, NULL, page) > 0;
	all += sendfile(mem, win, &off, page) > 0;
	all += sendfile(win, mem, NULL, page) > 0;
	ok(!all, "sendfile()");
	fcntl(win, F_SETFL, O_NONBLOCK);
	all += splice(win, NULL, pipes[1], NULL, page, SPLICE_F_NONBLOCK) > 0;
	all += splice(win, &pos, pipes[1], NULL, page, SPLICE_F_NONBLOCK) > 0;
	ok(write(pipes[1], buf, sizeof(buf)) == sizeof(buf) &&
	   splice(pipes[0], NULL, win, NULL, sizeof(buf), SPLICE_F_NONBLOCK) <= 0 && !all, "splice()");
	fcntl(win, F_SETFL, 0);
	all += copy_file_range(win, NULL, mem, NULL, page, 0) > 0;
	all += copy_file_range(mem, NULL, win, NULL, page, 0) > 0;
	ok(!all, "copy_file_range()");
	all += !ioctl(mem, FICLONE, win) || !ioctl(win, FICLONE, mem);
	ok(!all && untouched(), "FICLONE; and nothing outside has changed");
	close(mem);
	close(pipes[0]);
	close(pipes[1]);
}

/* Through memory, as a debugger would. */
static void debugging(void)
{
	char *m = map_at(win, length, BOTH, MAP_SHARED, 0), *shut;
	int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	char *buf = malloc(2 * page), *hole;
	uint32_t word = 0x31337;
	struct iovec local = { buf, 2 * page }, remote = { m + length - page, 2 * page };
	pid_t child;
	int status;

	/* A hole, so that nothing of ours follows. */
	hole = mmap(NULL, length + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(m, length);
	m = mmap(hole, length, BOTH, MAP_SHARED | MAP_FIXED, win, 0);
	munmap(hole + length, 2 * page);
	shut = map_at(win_ro, page, PROT_READ, MAP_SHARED, 0);
	remote.iov_base = m + length - page;

	ok(pread(mem, buf, 2 * page, (uintptr_t)(m + length - page)) <= (ssize_t)page,
	   "/proc/self/mem across its end: at most up to there");
	ok(pread(mem, buf, 4, (uintptr_t)(m + length)) < 0, "/proc/self/mem behind it");
	ok(pwrite(mem, buf, 2 * page, (uintptr_t)(m + length - page)) <= (ssize_t)page && untouched(),
	   "writing there");
	ok(pwrite(mem, &word, 4, (uintptr_t)(shut + 8)) != 4 && whole[at / 4 + 2] != word,
	   "/proc/self/mem does not write a read-only one");
	ok(process_vm_readv(getpid(), &local, 1, &remote, 1, 0) <= (ssize_t)page,
	   "process_vm_readv() across its end");
	memcpy(buf, m + length - page, page);
	ok(process_vm_writev(getpid(), &local, 1, &remote, 1, 0) <= (ssize_t)page && untouched(),
	   "process_vm_writev() there");
	local.iov_len = remote.iov_len = sizeof(word);
	local.iov_base = &word;
	remote.iov_base = shut + 8;
	ok(process_vm_writev(getpid(), &local, 1, &remote, 1, 0) < 0 && whole[at / 4 + 2] != word,
	   "process_vm_writev() does not write a read-only one");
	child = fork();
	if (!child) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		_exit(0);
	}
	waitpid(child, &status, 0);
	errno = 0;
	ok(ptrace(PTRACE_PEEKDATA, child, m + length, 0) == -1 && errno,
	   "ptrace() does not see behind its end in a child");
	ok(ptrace(PTRACE_POKEDATA, child, shut + 8, (long)word) == -1 && whole[at / 4 + 2] != word,
	   "nor writes a read-only one there");
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	close(mem);
	free(buf);
	munmap(m, length);
	munmap(shut, page);
}

/* Ways in for those who bring their own memory. */
static void pinning(void)
{
	char *m = map_at(win, length, BOTH, MAP_SHARED, 0);
	unsigned int params[30] = { 0 };
	struct iovec iov = { m, length };
	int uring = -1, uffd = -1, pipes[2];

#ifdef SYS_io_uring_setup
	uring = syscall(SYS_io_uring_setup, 4, params);
	if (uring >= 0)
		ok(syscall(SYS_io_uring_register, uring, 0 /* BUFFERS */, &iov, 1) < 0,
		   "io_uring does not pin it");
	else
		skip("io_uring does not pin it", "this kernel has none");
	close(uring);
#endif
#ifdef SYS_userfaultfd
	uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (uffd >= 0) {
		struct uffdio_api api = { .api = UFFD_API };
		struct uffdio_register r = { .range = { (uintptr_t)m, length },
					     .mode = UFFDIO_REGISTER_MODE_MISSING };

		ioctl(uffd, UFFDIO_API, &api);
		ok(ioctl(uffd, UFFDIO_REGISTER, &r) < 0, "userfaultfd does not serve its faults");
		r.mode = UFFDIO_REGISTER_MODE_WP;
		ok(ioctl(uffd, UFFDIO_REGISTER, &r) < 0, "nor its write protection");
		close(uffd);
	} else {
		skip("userfaultfd does not serve its faults", "this kernel has none");
	}
#endif
	if (pipe(pipes))
		die("pipe");
	fails(vmsplice(pipes[1], &iov, 1, 0), EFAULT, "vmsplice() does not pin it");
	close(pipes[0]);
	close(pipes[1]);
	munmap(m, length);
	(void)uring;
}

/* ---- ioctls ----------------------------------------------------------------------- */

/* Every number of ours and some of others', with 0, 1 and rubbish in the structure. */
static void all_ioctls(void)
{
	static const unsigned long others[] = {
		FIBMAP, FIGETBSZ, FIONREAD, FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, BLKGETSIZE64,
	};
	uint64_t buf[32];
	unsigned int nr, fill, k;
	size_t wrong = 0;

	for (nr = 0; nr < 256; nr++) {
		unsigned long cmd = _IO(PORTAL_IOCTL_TYPE, nr);
		bool known = cmd == PORTAL_INFO || cmd == PORTAL_RING || cmd == PORTAL_EVENTFD ||
			     cmd == PORTAL_FILE || cmd == PORTAL_WINDOW;

		for (fill = 0; fill < 3; fill++) {
			memset(buf, fill == 2 ? 0xff : fill, sizeof(buf));
			/* Of the known ones window.c and ioctls.c speak. */
			for (k = 16; !known && k <= 256; k += 8) {
				memcpy(buf, &k, sizeof(k));
				if (!ioctl(win, cmd, buf)) {
					printf("# ioctl %#x of size %u works\n", nr, k);
					wrong++;
				}
			}
		}
	}
	ok(!wrong, "no ioctl but those for windows");
	for (k = 0; k < sizeof(others) / sizeof(others[0]); k++) {
		memset(buf, 0, sizeof(buf));
		ioctl(win, others[k], buf);
	}
	ok(get_info(win).region_size == length, "other drivers' ioctls change nothing");
}

static uint64_t fdinfo_number(int fd, const char *name)
{
	unsigned long long n = UINT64_MAX;
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			sscanf(line + strlen(name), ": %llu", &n);
	if (f)
		fclose(f);
	return n;
}

static unsigned int seed = 1;

static uint64_t dice(void)
{
	return (uint64_t)rand_r(&seed) << 42 ^ (uint64_t)rand_r(&seed) << 21 ^ rand_r(&seed);
}

/* A number that is right, nearly right, or anything. */
static uint64_t guess(uint64_t limit)
{
	switch (dice() % 6) {
	case 0:
		return dice() % (limit / K64 + 1) * K64;
	case 1:
		return limit + (dice() % 5 - 2) * K64;
	case 2:
		return -(dice() % 8 * K64);
	case 3:
		return 1ULL << dice() % 64;
	case 4:
		return dice();
	default:
		return dice() & -K64;
	}
}

/* Windows of windows of windows at random: each lies within its parent, and so in win. */
static void random_windows(void)
{
	unsigned int made = 0, wrong = 0, i;
	int parent = dup(win);
	uint64_t from = at, len = length;

	for (i = 0; i < 20000 && !wrong; i++) {
		struct portal_bell bell = { dice() % 3, dice() % 3 };
		uint32_t vector = dice() % 6;
		struct portal_window w = {
			.size = sizeof(w), .flags = dice() % 2, .offset = guess(len), .length = guess(len),
			.vectors = (uintptr_t)&vector, .nr_vectors = dice() % 4 == 0,
			.bells = (uintptr_t)&bell, .nr_bells = dice() % 4 == 0,
		};
		int fd = ioctl(parent, PORTAL_WINDOW, &w);

		if (fd < 0)
			continue;
		made++;
		wrong += w.nr_vectors || w.nr_bells;	/* win has none */
		wrong += fdinfo_number(fd, "portal-offset") != from + w.offset ||
			 fdinfo_number(fd, "portal-length") != w.length ||
			 from + w.offset < at || from + w.offset + w.length > at + length ||
			 w.length > len || get_info(fd).region_size != w.length;
		close(parent);
		parent = fd;
		from += w.offset;
		len = w.length;
		if (len == K64 && dice() % 4 == 0) {
			close(parent);
			parent = dup(win);
			from = at;
			len = length;
		}
	}
	ok(!wrong && made > 100, "20000 random windows of windows: %u made, none wider", made);
	close(parent);
}

/* ---- Other processes -------------------------------------------------------------- */

static int passed(int sock, int fd)
{
	char byte = 0, room[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = "";
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room,
			    .msg_controllen = sizeof(room) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	if (fd < 0) {
		if (recvmsg(sock, &m, 0) != 1 || !(c = CMSG_FIRSTHDR(&m)))
			return -1;
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
		return fd;
	}
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	return sendmsg(sock, &m, 0) == 1 ? 0 : -1;
}

static int status_of(pid_t child)
{
	int status = -1;

	waitpid(child, &status, 0);
	return status;
}

/* In a child of fork(), across exec(), and by a socket: the same window. */
static void others(void)
{
	char number[16], where[16], len[24];
	int pair[2], fd;
	pid_t child = fork();

	if (!child)
		_exit(!confined(win_ro));
	ok(!status_of(child), "fork()");
	child = fork();
	if (!child) {
		fd = dup(win_ro);
		snprintf(number, sizeof(number), "%d", fd);
		snprintf(where, sizeof(where), "%zu", at);
		snprintf(len, sizeof(len), "%zu", length);
		execl("/proc/self/exe", "widen", device, number, where, len, NULL);
		_exit(9);
	}
	ok(!status_of(child), "exec()");
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		die("socketpair");
	child = fork();
	if (!child) {
		fd = passed(pair[1], -1);
		_exit(fd < 0 || !confined(fd));
	}
	ok(!passed(pair[0], win_ro) && !status_of(child), "SCM_RIGHTS");
	close(pair[0]);
	close(pair[1]);
}

/* The child of exec(): "widen DEVICE FD AT LENGTH". */
static int executed(char **argv)
{
	page = sysconf(_SC_PAGESIZE);
	at = strtoul(argv[3], NULL, 0);
	length = strtoul(argv[4], NULL, 0);
	return !confined(atoi(argv[2]));
}

int main(int argc, char **argv)
{
	start(240);
	device = argc > 1 ? argv[1] : "/dev/portal0";
	if (argc == 5)
		return executed(argv);
	confine(device);
	all_offsets();
	odd_mappings();
	moving();
	remapping();
	protecting();
	large_entries();
	reopening();
	file_calls();
	transfers();
	debugging();
	pinning();
	all_ioctls();
	random_windows();
	others();
	ok(untouched(), "after all this nothing outside the window has changed");
	return done();
}
