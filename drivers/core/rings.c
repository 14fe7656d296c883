// SPDX-License-Identifier: GPL-2.0-only
/*
 * Packet rings: pages that a bus defines and two machines fill, one pair of rings
 * for each vector. The kernel reads and writes none of it here.
 *
 * A pair belongs to one open file at a time, for two writers of one index would lose
 * packets. The file keeps it until its last reference goes; since a mapping holds its
 * file, whoever takes the pair next is alone with it, and the transport may even put
 * other pages in its place.
 *
 * mmap() offsets: behind the region and the doorbell page come the rings of vector 0,
 * to the other side and from it, then those of vector 1, and so on.
 */
#include <linux/fs.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/nospec.h>
#include <linux/overflow.h>
#include <linux/slab.h>

#include "core.h"

static u64 portal_rings_offset(const struct portal *p)
{
	return portal_doorbell_offset(p) + PAGE_SIZE;
}

static u64 portal_rings_stride(const struct portal *p)
{
	return (u64)p->send_size + p->recv_size;
}

static bool portal_ring_valid(phys_addr_t start, u32 size)
{
	return PAGE_ALIGNED(start) && pfn_valid(PHYS_PFN(start)) &&
	       pfn_valid(PHYS_PFN(start + size - 1));
}

int portal_rings_init(struct portal *p, const struct portal_desc *desc)
{
	u64 end;
	u32 i;

	if (!desc->rings)
		return 0;
	if (!desc->vectors || !desc->ops->ring)
		return -EINVAL;
	if (!IS_ALIGNED(desc->send_size | desc->recv_size, PAGE_SIZE) ||
	    min(desc->send_size, desc->recv_size) < 2 * PAGE_SIZE)
		return -EINVAL;

	p->rings = kvcalloc(desc->vectors, sizeof(*p->rings), GFP_KERNEL);
	if (!p->rings)
		return -ENOMEM;
	p->send_size = desc->send_size;
	p->recv_size = desc->recv_size;
	for (i = 0; i < desc->vectors; i++) {
		/* Before open_rings() nobody owns them, so nobody maps them. */
		if (!desc->ops->open_rings &&
		    (!portal_ring_valid(desc->rings[i].send, p->send_size) ||
		     !portal_ring_valid(desc->rings[i].recv, p->recv_size)))
			return -EINVAL;
		p->rings[i].rings = desc->rings[i];
	}

	/* The stride is below 2^33, and vectors are few: only the sum can be too much. */
	if (check_add_overflow(portal_rings_offset(p), portal_rings_stride(p) * desc->vectors,
			       &end) ||
	    end > (u64)MAX_LFS_FILESIZE || end >> PAGE_SHIFT >= ULONG_MAX)
		return -EINVAL;
	return 0;
}

void portal_set_rings(struct portal *p, u32 vector, const struct portal_rings *rings)
{
	p->rings[vector].rings = *rings;
}
EXPORT_SYMBOL_GPL(portal_set_rings);

/*
 * Which ring @offset, behind the doorbell page, lies in: the vector, and the byte
 * within its pair. False: beyond the last.
 */
static bool portal_rings_find(const struct portal *p, u64 offset, u32 *vector, u64 *inside)
{
	u64 n = div64_u64_rem(offset - portal_rings_offset(p), portal_rings_stride(p), inside);

	if (n >= p->nr_vectors)
		return false;
	*vector = array_index_nospec((u32)n, p->nr_vectors);
	return true;
}

/* The pair in one ring of which [@offset, @offset + @len) lies whole, or NULL. */
struct portal_vector_rings *portal_rings_at(const struct portal *p, u64 offset, u64 len)
{
	u64 inside;
	u32 vector;

	if (offset < portal_rings_offset(p) || !portal_rings_find(p, offset, &vector, &inside))
		return NULL;
	if (inside < p->send_size ? len > p->send_size - inside :
				    len > portal_rings_stride(p) - inside)
		return NULL;
	return &p->rings[vector];
}

/* Inside portal_enter(). For an @offset that portal_rings_at() has accepted. */
phys_addr_t portal_rings_phys(const struct portal *p, u64 offset)
{
	u32 vector = 0;
	u64 inside = 0;

	portal_rings_find(p, offset, &vector, &inside);
	if (inside < p->send_size)
		return p->rings[vector].rings.send + inside;
	return p->rings[vector].rings.recv + (inside - p->send_size);
}

/* Under the lock, of rings that nobody owns. */
static int portal_rings_open(struct portal *p, u32 vector)
{
	int ret;

	ret = portal_enter(p);
	if (ret)
		return ret;
	if (p->ops->open_rings)
		ret = p->ops->open_rings(p->priv, vector);
	portal_leave(p);
	return ret;
}

/*
 * For PORTAL_PACKETS, whose arguments have been checked but for nospec. The lock is held
 * while the transport talks to its host: others who want rings of this portal wait,
 * killably, and nobody else does.
 */
int portal_rings_take(struct portal_handle *h, struct portal_packets *args)
{
	struct portal *p = h->portal;
	u32 vector = array_index_nospec(args->vector, p->nr_vectors);
	struct portal_vector_rings *r = &p->rings[vector];
	int ret;

	ret = mutex_lock_interruptible(&p->rings_lock);
	if (ret)
		return ret;
	if (!r->owner) {
		ret = portal_rings_open(p, vector);
		if (!ret) {
			/* Where they are before whose: pairs with portal_mmap_rings(). */
			smp_store_release(&r->owner, h);
		}
	} else if (r->owner != h) {
		ret = -EBUSY;
	}
	mutex_unlock(&p->rings_lock);

	args->send_offset = portal_rings_offset(p) + vector * portal_rings_stride(p);
	args->send_size = p->send_size;
	args->recv_offset = args->send_offset + p->send_size;
	args->recv_size = p->recv_size;
	return ret;
}

/*
 * At the last reference of a file. If the portal is paused and we are being killed, the
 * transport is not told; it then begins anew at the next open_rings().
 */
static void portal_rings_close(struct portal *p, u32 vector)
{
	if (portal_enter_killable(p))
		return;
	if (p->ops->close_rings)
		p->ops->close_rings(p->priv, vector);
	portal_leave(p);
}

/*
 * Without the lock, so that who has no rings does not wait for those who talk to the
 * host: only @h itself could make it an owner, and these are its last moments.
 */
static bool portal_rings_owns(const struct portal_handle *h)
{
	const struct portal *p = h->portal;
	u32 i;

	for (i = 0; p->rings && i < p->nr_vectors; i++) {
		if (READ_ONCE(p->rings[i].owner) == h)
			return true;
	}
	return false;
}

void portal_rings_release(struct portal_handle *h)
{
	struct portal *p = h->portal;
	u32 i;

	if (!portal_rings_owns(h))
		return;
	mutex_lock(&p->rings_lock);
	for (i = 0; i < p->nr_vectors; i++) {
		if (p->rings[i].owner != h)
			continue;
		portal_rings_close(p, i);
		WRITE_ONCE(p->rings[i].owner, NULL);
	}
	mutex_unlock(&p->rings_lock);
}
