// SPDX-License-Identifier: MIT
/* Memory and notification of the caller's own. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "internal.h"

struct attach {
	struct vmp_notify_ops ops;
	void *arg;
};

static int attach_ring(struct vmp *p, uint32_t peer, uint32_t vector)
{
	struct attach *a = p->priv;

	return a->ops.ring(a->arg, peer, vector);
}

static int attach_eventfd(struct vmp *p, uint32_t vector)
{
	struct attach *a = p->priv;

	return a->ops.eventfd(a->arg, vector);
}

static void attach_close(struct vmp *p)
{
	free(p->priv);
}

static const struct vmp_ops attach_ops = {
	.transport = "attach",
	.ring = attach_ring,
	.eventfd = attach_eventfd,
	.close = attach_close,
	.keeps_eventfds = true,
};

VMP_API int vmp_attach(struct vmp **out, void *base, size_t size,
		       const struct vmp_notify_ops *ops, void *arg,
		       uint32_t vectors, uint32_t peer_id)
{
	static const struct vmp_notify_ops none;
	struct attach *a;
	struct vmp *p;

	if (!out)
		return vmp_fail(-EINVAL, "vmp_attach: p must not be NULL");
	*out = NULL;
	if (!base || !size || (uintptr_t)base % (uintptr_t)sysconf(_SC_PAGESIZE))
		return vmp_fail(-EINVAL, "vmp_attach: base %p must be page-aligned, and size %zu above 0", base, size);
	if (vectors > VMP_MAX_VECTORS || (vectors && (!ops || !ops->eventfd)))
		return vmp_fail(-EINVAL, "vmp_attach: %u vectors, but at most %u are possible, and ops must serve them",
				vectors, VMP_MAX_VECTORS);
	a = calloc(1, sizeof(*a));
	p = a ? vmp_alloc(&attach_ops, 0) : NULL;
	if (!p) {
		free(a);
		return vmp_fail(-ENOMEM, "vmp_attach: out of memory");
	}
	a->ops = ops ? *ops : none;
	a->arg = arg;
	p->priv = a;
	p->base = base;
	p->info.size = size;
	p->info.peer_id = peer_id;
	p->info.vectors = vectors;
	p->info.caps = (a->ops.ring ? VMP_CAP_RING : 0) | (vectors ? VMP_CAP_EVENTS : 0);
	snprintf(p->info.identity, sizeof(p->info.identity), "%p", base);
	if (vmp_fix_mode(p, -1)) {
		vmp_free(p);
		return -ENOMEM;
	}
	*out = p;
	return 0;
}
