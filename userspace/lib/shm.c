// SPDX-License-Identifier: MIT
/*
 * Regions without doorbells: a file, or anonymous memory behind a descriptor.
 * Waiting on them is polling.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "internal.h"

static const struct vmp_ops file_ops = { .transport = "file" };
static const struct vmp_ops memfd_ops = { .transport = "memfd" };

/*
 * File systems where two openers of a file, on two machines or through a server,
 * do not share pages: each has its own cache, and a write-back of one rolls back
 * what the other wrote. Numbers: statfs(2).
 */
static const struct {
	uint32_t magic;
	const char *name;
} incoherent[] = {
	{ 0x01021997, "9p" },
	{ 0x65735546, "FUSE" },
	{ 0x6969, "NFS" },
	{ 0x517b, "SMB" },
	{ 0xfe534d42, "SMB2" },
	{ 0xff534d42, "CIFS" },
	{ 0x5346414f, "AFS" },
	{ 0x73757245, "Coda" },
	{ 0x00c36400, "Ceph" },
};

static int check_coherent(int fd, const char *path)
{
	struct statfs fs;
	size_t i;

	if (fstatfs(fd, &fs))
		return vmp_fail(-errno, "%s: statfs: %s", path, strerror(errno));
	for (i = 0; i < sizeof(incoherent) / sizeof(incoherent[0]); i++)
		if ((uint32_t)fs.f_type == incoherent[i].magic)
			return vmp_fail(-EOPNOTSUPP,
					"%s is on %s, where mappings are not coherent between machines: it would read stale and lose writes; use a file in /dev/shm, or a portal device",
					path, incoherent[i].name);
	return 0;
}

static uint64_t page_round(uint64_t n)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	return (n + page - 1) / page * page;
}

/* Make the portal over @fd, which stays the caller's. */
static int map_shm(struct vmp **out, const struct vmp_ops *ops, int fd, uint64_t size,
		   unsigned int flags, const char *what)
{
	struct vmp *p = vmp_alloc(ops, flags);
	int r;

	if (!p)
		return vmp_fail(-ENOMEM, "%s: out of memory", what);
	r = vmp_map_fd(p, fd, size, what);
	if (r) {
		vmp_free(p);
		return r;
	}
	p->info.caps = VMP_CAP_WRITE_BACK;
	snprintf(p->info.identity, sizeof(p->info.identity), "%s", what);
	*out = p;
	return 0;
}

/*
 * Make @fd at least @size bytes. Not by ftruncate(), if it can be helped: between the
 * look and the call another opener may have made it larger, and mapped it, and would
 * die of SIGBUS. Only the last page is allocated.
 */
static int grow(int fd, uint64_t size)
{
	off_t page = (off_t)page_round(1);

	if (!fallocate(fd, 0, (off_t)size - page, page))
		return 0;
	return errno == EOPNOTSUPP || errno == ENOSYS ? ftruncate(fd, (off_t)size) : -1;
}

/* The size of what is there; made larger to @want if that is not 0. */
static int fit(int fd, uint64_t want, unsigned int flags, const char *what, uint64_t *size)
{
	struct stat st;

	if (fstat(fd, &st))
		return vmp_fail(-errno, "%s: fstat: %s", what, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return vmp_fail(-EINVAL, "%s is not a regular file; a portal device is opened as /dev/portalN",
				what);
	if (want > INT64_MAX - page_round(1))
		return vmp_fail(-EINVAL, "%s: no file has %" PRIu64 " bytes", what, want);
	want = page_round(want);
	if ((uint64_t)st.st_size < want) {
		if (flags & VMP_RDONLY)
			return vmp_fail(-EINVAL, "%s has %" PRIu64 " bytes, fewer than the %" PRIu64 " asked for, and read-only cannot grow it",
					what, (uint64_t)st.st_size, want);
		if (grow(fd, want))
			return vmp_fail(-errno, "%s: cannot make it %" PRIu64 " bytes: %s", what,
					want, strerror(errno));
		st.st_size = (off_t)want;
	}
	/* Whole pages: behind the end of the file there is SIGBUS. */
	*size = want ? want : (uint64_t)st.st_size / page_round(1) * page_round(1);
	if (!*size)
		return vmp_fail(-EINVAL, "%s is smaller than a page; give its size, e.g. size=16M", what);
	return 0;
}

int vmp_open_file(struct vmp **out, const char *rest, unsigned int flags)
{
	char path[4096], what[108];
	const char *q = strstr(rest, "?size=");
	size_t n = q ? (size_t)(q - rest) : strlen(rest);
	uint64_t want = 0, size;
	int fd, r;

	if (!n || n >= sizeof(path))
		return vmp_fail(-EINVAL, "'file:%s': a path belongs behind file:", rest);
	memcpy(path, rest, n);
	path[n] = 0;
	if (q && (r = vmp_parse_size(q + 6, &want)))
		return r;
	/* Before an empty file is made for it. */
	if (want > INT64_MAX - page_round(1))
		return vmp_fail(-EINVAL, "file:%s: no file has %" PRIu64 " bytes", path, want);
	fd = open(path, (flags & VMP_RDONLY ? O_RDONLY : O_RDWR | (q ? O_CREAT : 0)) |
		  O_CLOEXEC | O_NONBLOCK, 0600);
	if (fd < 0)
		return vmp_fail(-errno, "file:%s: %s%s", path, strerror(errno),
				errno != ENOENT ? "" : q ? "; it is opened read-only, which does not make it" :
				"; ?size=BYTES makes it");
	snprintf(what, sizeof(what), "%.*s", (int)sizeof(what) - 1, path);
	r = check_coherent(fd, path);
	if (!r)
		r = fit(fd, want, flags, what, &size);
	if (!r)
		r = map_shm(out, &file_ops, fd, size, flags, what);
	close(fd);
	return r;
}

int vmp_open_memfd(struct vmp **out, const char *rest, unsigned int flags)
{
	char what[64];
	uint64_t size;
	char *end;
	long n;
	int fd, r;

	if (!strncmp(rest, "size=", 5)) {
		r = vmp_parse_size(rest + 5, &size);
		if (r)
			return r;
		fd = memfd_create("vmportal", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		if (fd < 0)
			return vmp_fail(-errno, "memfd:%s: memfd_create: %s", rest, strerror(errno));
		snprintf(what, sizeof(what), "memfd:size=%" PRIu64, size);
		r = fit(fd, size, 0, what, &size);
		if (!r)
			r = map_shm(out, &memfd_ops, fd, size, flags, what);
		close(fd);
		return r;
	}
	if (strncmp(rest, "fd=", 3))
		return vmp_fail(-EINVAL, "'memfd:%s': use memfd:size=BYTES or memfd:fd=N", rest);
	errno = 0;
	n = strtol(rest + 3, &end, 10);
	if (errno || end == rest + 3 || *end || n < 0 || n > INT32_MAX)
		return vmp_fail(-EINVAL, "'memfd:%s': fd= takes the number of an open descriptor", rest);
	if (fcntl((int)n, F_GETFD) < 0)
		return vmp_fail(-EBADF, "memfd:fd=%ld: no such open descriptor in this process", n);
	snprintf(what, sizeof(what), "memfd:fd=%ld", n);
	r = check_coherent((int)n, what);
	if (!r)
		r = fit((int)n, 0, flags, what, &size);
	return r ? r : map_shm(out, &memfd_ops, (int)n, size, flags, what);
}
