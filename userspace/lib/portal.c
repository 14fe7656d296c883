// SPDX-License-Identifier: MIT
/* Portals: what is the same whatever carries them. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "efd.h"
#include "internal.h"

/* Of those whose memory a child has too. */
static const uint64_t everywhere = 1;

/* A page of our own that fork() leaves empty in a child. */
static int mark_here(struct vmp *p)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uint64_t *here = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (here == MAP_FAILED)
		return -1;
	if (madvise(here, page, MADV_WIPEONFORK)) {
		munmap(here, page);
		return -1;
	}
	*here = 1;
	p->here = here;
	return 0;
}

struct vmp *vmp_alloc(const struct vmp_ops *ops, unsigned int flags)
{
	struct vmp *p = calloc(1, sizeof(*p));
	unsigned int i;

	if (!p || (ops->own_process && mark_here(p))) {
		free(p);
		return NULL;
	}
	if (!p->here)
		p->here = &everywhere;
	p->ops = ops;
	p->flags = flags;
	p->pid = getpid();
	p->state_fd = -1;
	p->notice = vmp_efd_new();
	p->info.peer_id = VMP_PEER_NONE;
	strncpy(p->info.transport, ops->transport, sizeof(p->info.transport) - 1);
	for (i = 0; i < VMP_MAX_VECTORS; i++)
		p->efd[i] = -1;
	p->bell = p->watch = p->watch_clock = p->watch_place = -1;
	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->joining, NULL);
	return p;
}

void vmp_free(struct vmp *p)
{
	unsigned int i;

	vmp_hold_errmsg(true);
	if (vmp_mapped_here(p))
		vmp_session_leave(p);
	if (p->watch >= 0)
		close(p->watch);
	/* In a child it may have been left out, and what is there now is not ours. */
	if (p->mapped && vmp_mapped_here(p))
		munmap(p->base, p->mapped);
	if (!p->ops->keeps_eventfds)
		for (i = 0; i < VMP_MAX_VECTORS; i++)
			if (p->efd[i] >= 0)
				close(p->efd[i]);
	if (p->notice >= 0)
		close(p->notice);
	if (p->ops->close)
		p->ops->close(p);
	pthread_mutex_destroy(&p->lock);
	pthread_mutex_destroy(&p->joining);
	free(p->super);
	free(p->heard);
	if (p->here != &everywhere)
		munmap((void *)(uintptr_t)p->here, (size_t)sysconf(_SC_PAGESIZE));
	free(p);
	vmp_hold_errmsg(false);
}

int vmp_not_a_child(const struct vmp *p)
{
	return vmp_mapped_here(p) ? 0 :
		vmp_fail(-EBUSY, "%s %s: belongs to the process that opened it, and this is its child: open it anew",
			 p->info.transport, p->info.identity);
}

int vmp_no_child(struct vmp *p, void *base, size_t size, const char *what)
{
	if (!p->ops->own_process || !madvise(base, size, MADV_DONTFORK))
		return 0;
	return vmp_fail(-errno, "%s: cannot keep its memory from child processes: %s", what,
			strerror(errno));
}

/* At @at, or where the kernel likes. The protected part first, for who maps all chooses the place. */
static void *map_parts(struct vmp *p, int fd, void *at, uint64_t size)
{
	int how = MAP_SHARED | (at ? MAP_FIXED : 0), err;
	int prot = PROT_READ | (p->flags & VMP_RDONLY ? 0 : PROT_WRITE);
	uint64_t fixed = p->protected_size;
	char *base = mmap(at, size, fixed ? PROT_READ : prot, how, fd, 0);

	if (base == MAP_FAILED || !fixed || fixed >= size || prot == PROT_READ)
		return base;
	if (mmap(base + fixed, size - fixed, prot, MAP_SHARED | MAP_FIXED, fd, (off_t)fixed) !=
	    MAP_FAILED)
		return base;
	err = errno;
	if (!at)
		munmap(base, size);
	errno = err;
	return MAP_FAILED;
}

int vmp_map_again(struct vmp *p, int fd, const char *what)
{
	if (map_parts(p, fd, p->base, p->mapped) == MAP_FAILED)
		return vmp_fail(-errno, "%s: cannot map it again: %s", what, strerror(errno));
	return vmp_no_child(p, p->base, p->mapped, what);
}

int vmp_map_fd(struct vmp *p, int fd, uint64_t size, const char *what)
{
	void *base;
	int r;

	if (size > SIZE_MAX / 2)
		return vmp_fail(-ENOMEM, "%s: %" PRIu64 " bytes do not fit into this process's address space",
				what, size);
	base = map_parts(p, fd, NULL, size);
	if (base == MAP_FAILED)
		return vmp_fail(-errno, "%s: cannot map %" PRIu64 " bytes: %s", what, size,
				strerror(errno));
	p->base = base;
	p->mapped = size;
	p->info.size = size;
	r = vmp_no_child(p, base, size, what);
	return r ? r : vmp_fix_mode(p, fd);
}

void *vmp_map_twice(int fd, uint64_t offset, size_t header, size_t size)
{
	const int prot = PROT_READ | PROT_WRITE, how = MAP_SHARED | MAP_FIXED;
	char *at = mmap(NULL, header + 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int err;

	if (at == MAP_FAILED)
		return NULL;
	if (mmap(at, header + size, prot, how, fd, (off_t)offset) == MAP_FAILED ||
	    mmap(at + header + size, size, prot, how, fd, (off_t)(offset + header)) == MAP_FAILED) {
		err = errno;
		munmap(at, header + 2 * size);
		errno = err;
		return NULL;
	}
	return at;
}

void vmp_unmap_twice(void *ring, size_t header, size_t size)
{
	munmap(ring, header + 2 * size);
}

int vmp_parse_size(const char *s, uint64_t *size)
{
	unsigned long long n;
	unsigned int shift = 0;
	char *end;

	errno = 0;
	n = strtoull(s, &end, 0);
	if (*s < '0' || *s > '9' || errno)
		return vmp_fail(-EINVAL, "size '%s' is not a number of bytes; write e.g. 16777216 or 16M", s);
	switch (*end) {
	case 'k': case 'K': shift = 10; end++; break;
	case 'm': case 'M': shift = 20; end++; break;
	case 'g': case 'G': shift = 30; end++; break;
	default: break;
	}
	if (*end || n > UINT64_MAX >> shift)
		return vmp_fail(-EINVAL, "size '%s' is not a number of bytes; it may end in K, M or G", s);
	if (!n)
		return vmp_fail(-EINVAL, "size '%s': a region has at least one page", s);
	*size = (uint64_t)n << shift;
	return 0;
}

static bool starts(const char *s, const char *with, const char **rest)
{
	size_t n = strlen(with);

	if (strncmp(s, with, n))
		return false;
	*rest = s + n;
	return true;
}

VMP_API int vmp_open(struct vmp **p, const char *uri, unsigned int flags)
{
	const char *rest;

	if (!p || !uri)
		return vmp_fail(-EINVAL, "vmp_open: p and uri must not be NULL");
	*p = NULL;
	if (flags & ~(VMP_RDONLY | VMP_ZERO_ON_REVOKE))
		return vmp_fail(-EINVAL, "vmp_open: undefined flags 0x%x", flags);
	if (starts(uri, "unix:", &rest))
		return vmp_open_unix(p, rest, flags);
	if (starts(uri, "file:", &rest))
		return vmp_open_file(p, rest, flags);
	if (starts(uri, "memfd:", &rest))
		return vmp_open_memfd(p, rest, flags);
	if (starts(uri, "fd:", &rest))
		return vmp_open_fd(p, rest, flags);
	if (*uri == '/')
		return vmp_open_dev(p, uri, flags);
	return vmp_fail(-EINVAL,
			"'%s' names no portal; use /dev/portalN, unix:PATH, file:PATH?size=BYTES, memfd:size=BYTES or fd:N",
			uri);
}

VMP_API void vmp_close(struct vmp *p)
{
	if (p)
		vmp_free(p);
}

int vmp_refresh(struct vmp *p)
{
	int r = 0;

	if (p->ops->refresh) {
		pthread_mutex_lock(&p->lock);
		r = p->ops->refresh(p);
		pthread_mutex_unlock(&p->lock);
	}
	return r;
}

void vmp_notice(struct vmp *p)
{
	if (p->notice >= 0)
		vmp_efd_signal(p->notice, false);
}

uint32_t vmp_gone(struct vmp *p, uint32_t peer, uint64_t tenure)
{
	return p->ops->gone ? p->ops->gone(p, peer, tenure) : 0;
}

VMP_API int vmp_get_info(struct vmp *p, struct vmp_info *info, size_t info_size)
{
	int r = vmp_refresh(p);

	if (r)
		return r;
	memset(info, 0, info_size);
	pthread_mutex_lock(&p->lock);
	memcpy(info, &p->info, info_size < sizeof(p->info) ? info_size : sizeof(p->info));
	pthread_mutex_unlock(&p->lock);
	return 0;
}

VMP_API int vmp_map(struct vmp *p, void **base, size_t *size)
{
	if (!p->info.size)
		return vmp_fail(-EOPNOTSUPP, "%s %s: this portal has no region to map",
				p->info.transport, p->info.identity);
	*base = p->base;
	if (size)
		*size = p->info.size;
	return 0;
}

VMP_API int vmp_ring(struct vmp *p, uint32_t peer, uint32_t vector)
{
	if (!p->ops->ring || !(p->info.caps & VMP_CAP_RING))
		return vmp_fail(-EOPNOTSUPP, "%s %s: this portal has no doorbells to ring",
				p->info.transport, p->info.identity);
	if (p->flags & VMP_RDONLY)
		return vmp_fail(-EACCES, "%s %s: opened read-only; only a writer may ring",
				p->info.transport, p->info.identity);
	/* A doorbell page is not mapped in a child; a server's words are for its parent. */
	if (!vmp_mapped_here(p))
		return vmp_not_a_child(p);
	return p->ops->ring(p, peer, vector);
}

VMP_API int vmp_eventfd(struct vmp *p, uint32_t vector)
{
	int fd;

	if (!p->ops->eventfd || !(p->info.caps & VMP_CAP_EVENTS))
		return vmp_fail(-EOPNOTSUPP, "%s %s: this portal receives no doorbells",
				p->info.transport, p->info.identity);
	if (vector >= p->info.vectors || vector >= VMP_MAX_VECTORS)
		return vmp_fail(-EINVAL, "%s %s: no vector %u; it has %u", p->info.transport,
				p->info.identity, vector, p->info.vectors);
	/* A device's file has one for each vector: a child's would be in its parent's place. */
	if (!vmp_mapped_here(p))
		return vmp_not_a_child(p);
	pthread_mutex_lock(&p->lock);
	fd = p->efd[vector];
	if (fd < 0) {
		fd = p->ops->eventfd(p, vector);
		if (fd >= 0)
			p->efd[vector] = fd;
	}
	pthread_mutex_unlock(&p->lock);
	return fd;
}
