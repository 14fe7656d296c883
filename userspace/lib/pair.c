// SPDX-License-Identifier: MIT
/*
 * Both ends in one process (or a parent and its child): anonymous memory and
 * eventfds. Each end holds its own descriptors, so that either may be closed first.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "efd.h"
#include "internal.h"

/* @other: duplicates of the other end's eventfds; @own: given to vmp.efd on demand */
struct pair {
	unsigned int n;
	int own[VMP_MAX_VECTORS];
	int other[VMP_MAX_VECTORS];
};

static int pair_ring(struct vmp *p, uint32_t peer, uint32_t vector)
{
	struct pair *d = p->priv;

	if (peer > 1)
		return vmp_fail(-ENXIO, "pair: there are only peers 0 and 1, not %u", peer);
	if (vector >= d->n)
		return vmp_fail(-EINVAL, "pair: no vector %u; there are %u", vector, d->n);
	return vmp_efd_signal(peer == p->info.peer_id ? d->own[vector] : d->other[vector], false);
}

static int pair_eventfd(struct vmp *p, uint32_t vector)
{
	return ((struct pair *)p->priv)->own[vector];
}

static void pair_close(struct vmp *p)
{
	struct pair *d = p->priv;
	unsigned int i;

	for (i = 0; i < d->n; i++) {
		if (d->own[i] >= 0)
			close(d->own[i]);
		if (d->other[i] >= 0)
			close(d->other[i]);
	}
	free(d);
}

static const struct vmp_ops pair_ops = {
	.transport = "pair",
	.ring = pair_ring,
	.eventfd = pair_eventfd,
	.close = pair_close,
	.keeps_eventfds = true,
};

static struct vmp *pair_end(int fd, uint64_t size, unsigned int vectors, unsigned int id)
{
	struct pair *d = calloc(1, sizeof(*d));
	struct vmp *p;
	unsigned int i;

	if (!d)
		return NULL;
	d->n = vectors;
	for (i = 0; i < vectors; i++)
		d->own[i] = d->other[i] = -1;
	p = vmp_alloc(&pair_ops, 0);
	if (!p) {
		free(d);
		return NULL;
	}
	p->priv = d;
	p->info.peer_id = id;
	p->info.max_peers = 2;
	p->info.vectors = vectors;
	p->info.caps = VMP_CAP_WRITE_BACK |
		       (vectors ? VMP_CAP_RING | VMP_CAP_EVENTS : 0);
	snprintf(p->info.identity, sizeof(p->info.identity), "pair");
	if (vmp_map_fd(p, fd, size, "pair")) {
		vmp_free(p);
		return NULL;
	}
	return p;
}

/* Each vector of each end: one eventfd, and a duplicate for the other end. */
static int pair_wire(struct vmp *p[2], unsigned int vectors)
{
	struct pair *d[2] = { p[0]->priv, p[1]->priv };
	unsigned int i, e;

	for (i = 0; i < vectors; i++) {
		for (e = 0; e < 2; e++) {
			d[e]->own[i] = vmp_efd_new();
			if (d[e]->own[i] < 0)
				return d[e]->own[i];
			d[!e]->other[i] = vmp_efd_dup(d[e]->own[i]);
			if (d[!e]->other[i] < 0)
				return d[!e]->other[i];
		}
	}
	return 0;
}

VMP_API int vmp_pair(struct vmp *p[2], size_t size, unsigned int vectors)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	int fd, r = -ENOMEM;

	if (!p)
		return vmp_fail(-EINVAL, "vmp_pair: p must not be NULL");
	p[0] = p[1] = NULL;
	if (!size || size > SIZE_MAX / 2 || vectors > VMP_MAX_VECTORS)
		return vmp_fail(-EINVAL, "vmp_pair: a size above 0 and 0 to %u vectors, please", VMP_MAX_VECTORS);
	size = (size + page - 1) / page * page;
	fd = memfd_create("vmportal-pair", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)size)) {
		r = vmp_fail(-errno, "vmp_pair: cannot make %zu bytes: %s", size, strerror(errno));
		goto out;
	}
	p[0] = pair_end(fd, size, vectors, 0);
	p[1] = p[0] ? pair_end(fd, size, vectors, 1) : NULL;
	r = p[1] ? pair_wire(p, vectors) : vmp_fail(-ENOMEM, "vmp_pair: out of memory for %zu bytes", size);
	if (r) {
		vmp_close(p[0]);
		vmp_close(p[1]);
		p[0] = p[1] = NULL;
	}
out:
	if (fd >= 0)
		close(fd);
	return r;
}
