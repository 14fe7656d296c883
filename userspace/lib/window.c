// SPDX-License-Identifier: MIT
/* Windows: descriptors that reach a part of a portal; the kernel does the confining. */
#include <inttypes.h>
#include <string.h>

#include "internal.h"

/* What the caller's version of the options has; the rest is 0. */
static int read_opts(struct vmp_window_opts *o, const struct vmp_window_opts *from)
{
	const char *c = (const char *)from;
	uint32_t i;

	memset(o, 0, sizeof(*o));
	if (from->size < sizeof(*o) || from->size > 4096)
		return vmp_fail(-EINVAL, "vmp_window: size %u is not that of struct vmp_window_opts", from->size);
	for (i = sizeof(*o); i < from->size; i++)
		if (c[i])
			return vmp_fail(-EINVAL, "vmp_window: an option that this version of libvmportal does not know");
	memcpy(o, from, sizeof(*o));
	if (o->flags & ~VMP_WINDOW_RDONLY || o->reserved)
		return vmp_fail(-EINVAL, "vmp_window: undefined flags 0x%x, or reserved is not 0", o->flags);
	if (o->flags & VMP_WINDOW_RDONLY && o->ring)
		return vmp_fail(-EINVAL, "vmp_window: who may only read cannot ring; leave out ring, or VMP_WINDOW_RDONLY");
	return 0;
}

static int check_part(struct vmp *p, const struct vmp_window_opts *o)
{
	uint64_t first, length;
	int r;

	if (!o->length || (o->offset | o->length) % VMP_WINDOW_ALIGN)
		return vmp_fail(-EINVAL, "vmp_window: offset %" PRIu64 " and length %" PRIu64 " must be multiples of %u, and length not 0",
				o->offset, o->length, VMP_WINDOW_ALIGN);
	if (o->offset > p->info.size || o->length > p->info.size - o->offset)
		return vmp_fail(-EINVAL, "vmp_window: offset %" PRIu64 " and length %" PRIu64 " reach beyond the %" PRIu64 " bytes of %s",
				o->offset, o->length, p->info.size, p->info.identity);
	if (p->info.mode != VMP_MODE_MANAGED || o->flags & VMP_WINDOW_RDONLY)
		return 0;
	r = vmp_data(p, &first, &length);
	if (r)
		return r;
	if (o->offset < first)
		return vmp_fail(-EACCES, "vmp_window: offset %" PRIu64 " is among the tables of a managed portal, whose data begin at %" PRIu64,
				o->offset, first);
	return 0;
}

VMP_API int vmp_window(struct vmp *p, const struct vmp_window_opts *opts)
{
	struct vmp_window_opts o;
	int r;

	if (!p || !opts)
		return vmp_fail(-EINVAL, "vmp_window: p and o must not be NULL");
	r = read_opts(&o, opts);
	if (r)
		return r;
	if (!p->ops->window)
		return vmp_fail(-EOPNOTSUPP, "%s %s: only devices have windows; whoever holds this memory's file holds all of it, so make one region for each group that trusts one another",
				p->info.transport, p->info.identity);
	r = check_part(p, &o);
	if (r)
		return r;
	if (o.wait && !(p->info.caps & VMP_CAP_EVENTS))
		return vmp_fail(-EOPNOTSUPP, "%s: no vectors to wait for", p->info.identity);
	if (o.ring && !(p->info.caps & VMP_CAP_RING))
		return vmp_fail(-EOPNOTSUPP, "%s: no doorbells to ring", p->info.identity);
	if (p->info.vectors < 64 && o.wait >> p->info.vectors)
		return vmp_fail(-EINVAL, "%s: vector %d is not there; its vectors are below %u", p->info.identity,
				63 - __builtin_clzll(o.wait), p->info.vectors);
	return p->ops->window(p, &o);
}
