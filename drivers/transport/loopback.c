// SPDX-License-Identifier: GPL-2.0-only
/*
 * portal_loopback.ko: pairs of portals inside one kernel.
 *
 * Each pair is one piece of kernel memory seen by two portals, back to back: two
 * processes, or two halves of a test, are each other's peer 0 and 1, without a
 * second machine. portal0 and portal1 are the first pair's ends, and so on, on
 * a machine that has no other portals.
 *
 *	modprobe portal_loopback pairs=2 size=16M vectors=8
 *
 * Unloading revokes, whoever has them open.
 */
#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>

#include <linux/portal.h>

#include "../portal.h"

#define LBP_MAX_PAIRS	64
#define LBP_MAX_SIZE	BIT_ULL(40)

/* Memory comes in pieces of this, that is one PMD entry on most machines, or smaller. */
#define LBP_PIECE_SIZE	(2UL << 20)

static unsigned int pairs = 1;
module_param(pairs, uint, 0444);
MODULE_PARM_DESC(pairs, "pairs of portals, 1 to 64 (default 1)");

static char *size = "1M";
module_param(size, charp, 0444);
MODULE_PARM_DESC(size, "bytes of each pair's region, with K, M or G; a multiple of the page size (default 1M)");

static unsigned int vectors = 4;
module_param(vectors, uint, 0444);
MODULE_PARM_DESC(vectors, "receive vectors of each portal, 0 to 2048 (default 4)");

struct lbp_pair;

struct lbp_end {
	struct lbp_pair *pair;
	u32 id;
	struct portal *portal;
};

/**
 * struct lbp_pair - two portals over one region
 * @ends: allocated both before either is added, so that each may ring the other
 *	for as long as its own callbacks run
 * @extents: the memory
 * @nr_extents: how many
 */
struct lbp_pair {
	struct lbp_end ends[2];
	struct portal_extent *extents;
	unsigned int nr_extents;
};

static struct lbp_pair *lbp_pairs;

/*
 * The other end may have been removed already; portal_event() is allowed until
 * its portal_put(), which comes only after both are removed.
 */
static int lbp_ring(void *priv, u32 peer, u32 vector)
{
	struct lbp_end *end = priv;

	if (peer >= ARRAY_SIZE(end->pair->ends) || vector >= vectors)
		return -ENXIO;
	portal_event(end->pair->ends[peer].portal, vector);
	return 0;
}

static u32 lbp_peer_id(void *priv)
{
	struct lbp_end *end = priv;

	return end->id;
}

static const struct portal_ops lbp_ops = {
	.ring = lbp_ring,
	.peer_id = lbp_peer_id,
};

/* Without vectors there is nothing to ring. */
static const struct portal_ops lbp_ops_silent = {
	.peer_id = lbp_peer_id,
};

static void lbp_free_memory(struct lbp_pair *pair)
{
	unsigned int i;

	for (i = 0; i < pair->nr_extents; i++)
		free_pages_exact(phys_to_virt(pair->extents[i].start), pair->extents[i].len);
	kvfree(pair->extents);
}

/* The largest pieces that can be had, zeroed. */
static int lbp_alloc_memory(struct lbp_pair *pair, u64 bytes)
{
	u64 piece = max_t(u64, LBP_PIECE_SIZE, PAGE_SIZE);
	u64 max_extents = bytes >> PAGE_SHIFT;

	pair->extents = kvcalloc(max_extents, sizeof(*pair->extents), GFP_KERNEL);
	if (!pair->extents)
		return -ENOMEM;

	while (bytes) {
		struct portal_extent *e = &pair->extents[pair->nr_extents];
		gfp_t gfp = GFP_KERNEL | __GFP_ZERO;
		void *memory;

		while (piece > bytes)
			piece /= 2;
		piece = max_t(u64, piece, PAGE_SIZE);
		if (piece > PAGE_SIZE)
			gfp |= __GFP_NORETRY | __GFP_NOWARN;

		memory = alloc_pages_exact(piece, gfp);
		if (memory) {
			e->start = virt_to_phys(memory);
			e->len = piece;
			pair->nr_extents++;
			bytes -= piece;
		} else if (piece > PAGE_SIZE) {
			piece /= 2;
		} else {
			return -ENOMEM;
		}
	}
	return 0;
}

static int lbp_alloc_portals(struct lbp_pair *pair, unsigned int index)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(pair->ends); i++) {
		struct lbp_end *end = &pair->ends[i];
		char identity[PORTAL_IDENTITY_LEN];
		const struct portal_desc desc = {
			.ops = vectors ? &lbp_ops : &lbp_ops_silent,
			.transport = "loopback",
			.identity = identity,
			.extents = pair->extents,
			.nr_extents = pair->nr_extents,
			.vectors = vectors,
			.max_peers = ARRAY_SIZE(pair->ends),
			.flags = PORTAL_DESC_RAM,
		};
		struct portal *p;

		snprintf(identity, sizeof(identity), "loopback-%u.%u", index, i);
		end->pair = pair;
		end->id = i;
		p = portal_alloc(&desc, end);
		if (IS_ERR(p))
			return PTR_ERR(p);
		end->portal = p;
	}
	return 0;
}

static int lbp_pair_init(struct lbp_pair *pair, unsigned int index, u64 bytes)
{
	unsigned int i;
	int ret;

	ret = lbp_alloc_memory(pair, bytes);
	if (ret) {
		pr_err("portal_loopback: no memory for pair %u (%llu bytes); choose a smaller size=\n",
		       index, bytes);
		return ret;
	}
	ret = lbp_alloc_portals(pair, index);
	for (i = 0; !ret && i < ARRAY_SIZE(pair->ends); i++)
		ret = portal_add(pair->ends[i].portal);
	return ret;
}

/* Of a pair at any stage of lbp_pair_init(): the memory is freed after nobody can map it. */
static void lbp_pair_exit(struct lbp_pair *pair)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(pair->ends); i++) {
		if (pair->ends[i].portal)
			portal_remove(pair->ends[i].portal);
	}
	for (i = 0; i < ARRAY_SIZE(pair->ends); i++) {
		if (pair->ends[i].portal)
			portal_put(pair->ends[i].portal);
	}
	lbp_free_memory(pair);
}

static int lbp_parse(u64 *bytes)
{
	char *end;

	*bytes = memparse(size, &end);
	if (end == size || *end || !*bytes || *bytes > LBP_MAX_SIZE || *bytes % PAGE_SIZE) {
		pr_err("portal_loopback: size=%s: give a multiple of %lu, at most 1T\n",
		       size, PAGE_SIZE);
		return -EINVAL;
	}
	if (!pairs || pairs > LBP_MAX_PAIRS) {
		pr_err("portal_loopback: pairs=%u: give 1 to %u\n", pairs, LBP_MAX_PAIRS);
		return -EINVAL;
	}
	if (vectors > PORTAL_MAX_VECTORS) {
		pr_err("portal_loopback: vectors=%u: give 0 to %u\n", vectors, PORTAL_MAX_VECTORS);
		return -EINVAL;
	}
	return 0;
}

static void lbp_exit_pairs(unsigned int n)
{
	while (n)
		lbp_pair_exit(&lbp_pairs[--n]);
	kfree(lbp_pairs);
}

static int __init lbp_init(void)
{
	unsigned int i;
	u64 bytes;
	int ret;

	ret = lbp_parse(&bytes);
	if (ret)
		return ret;

	lbp_pairs = kcalloc(pairs, sizeof(*lbp_pairs), GFP_KERNEL);
	if (!lbp_pairs)
		return -ENOMEM;

	for (i = 0; i < pairs; i++) {
		ret = lbp_pair_init(&lbp_pairs[i], i, bytes);
		if (ret) {
			lbp_exit_pairs(i + 1);
			return ret;
		}
	}
	return 0;
}
module_init(lbp_init);

static void __exit lbp_exit(void)
{
	lbp_exit_pairs(pairs);
}
module_exit(lbp_exit);

MODULE_DESCRIPTION("Portals back to back inside one kernel");
MODULE_LICENSE("GPL");
MODULE_VERSION(PORTAL_VERSION);
