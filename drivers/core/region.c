// SPDX-License-Identifier: GPL-2.0-only
/*
 * The region: its pieces, and how the CPU caches them.
 *
 * On x86 the page attribute of a mapping of device memory is not what the
 * mapper asks for but what the memory type table says (pat_memtype_list in
 * debugfs); where it says nothing, the answer is uncached. So for as long as a
 * portal can be mapped the core holds a write-back mapping of its own over the
 * region: that is the reservation, and user mappings follow it. What the table
 * granted is read back from that mapping, for an MTRR or an earlier uncached
 * mapping (somebody's resource2 in sysfs) overrides us. Elsewhere the mapping
 * costs some page tables, in large entries, and serves vm_ops->access.
 *
 * On its own account the kernel reads the superblock through it and, of a managed portal,
 * reads and writes the two tables that are kernels' (layout.c); no more.
 */
#include <linux/dev_printk.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/slab.h>

#include "core.h"

/* Bytes of @e: page-aligned, not empty, nowhere wrapping. */
static bool portal_extent_valid(const struct portal_extent *e, u32 flags)
{
	u64 end;

	if (!e->len || !PAGE_ALIGNED(e->start) || !IS_ALIGNED(e->len, PAGE_SIZE))
		return false;
	if (check_add_overflow((u64)e->start, e->len - 1, &end) || !portal_compat_phys_valid(end))
		return false;
	return !(flags & PORTAL_DESC_RAM) || (pfn_valid(PHYS_PFN(e->start)) &&
					      pfn_valid(PHYS_PFN(end)));
}

/* What user space addresses is a file offset; the doorbell page comes behind the region. */
static bool portal_size_valid(u64 size)
{
	return size <= (u64)MAX_LFS_FILESIZE - PAGE_SIZE &&
	       (size >> PAGE_SHIFT) < ULONG_MAX;
}

/*
 * True if offset and physical address agree modulo PMD_SIZE everywhere that a block
 * of this size could be mapped, and there is such a block.
 */
static bool portal_region_congruent(const struct portal *p)
{
	const unsigned long size = PMD_SIZE;
	bool any = false;
	unsigned int i;

	for (i = 0; i < p->nr_pieces; i++) {
		const struct portal_piece *piece = &p->pieces[i];

		if (piece->len < size)
			continue;
		if ((piece->start ^ piece->offset) & (size - 1))
			return false;
		any = any || ALIGN(piece->offset, size) + size <= piece->offset + piece->len;
	}
	return any;
}

int portal_region_init(struct portal *p, const struct portal_desc *desc)
{
	unsigned int i;

	if (!desc->nr_extents)
		return 0;
	if (!desc->extents)
		return -EINVAL;

	p->pieces = kvcalloc(desc->nr_extents, sizeof(*p->pieces), GFP_KERNEL);
	if (!p->pieces)
		return -ENOMEM;
	p->nr_pieces = desc->nr_extents;

	for (i = 0; i < desc->nr_extents; i++) {
		const struct portal_extent *e = &desc->extents[i];

		if (!portal_extent_valid(e, desc->flags))
			return -EINVAL;
		p->pieces[i].offset = p->size;
		p->pieces[i].start = e->start;
		p->pieces[i].len = e->len;
		if (check_add_overflow(p->size, e->len, &p->size) || !portal_size_valid(p->size))
			return -EINVAL;
	}

	if (PORTAL_COMPAT_PMD && portal_region_congruent(p))
		p->caps |= PORTAL_CAP_LARGE_PAGES;
	return 0;
}

/* Device memory is shared with the host, thus decrypted, in a confidential guest. */
static void *portal_memremap(phys_addr_t start, u64 len)
{
	return len > SIZE_MAX ? NULL : memremap(start, len, MEMREMAP_WB | MEMREMAP_DEC);
}

bool portal_is_write_back(phys_addr_t start)
{
	void *kva = portal_memremap(start, PAGE_SIZE);
	bool ret;

	if (!kva)
		return false;
	ret = portal_compat_is_write_back(kva);
	memunmap(kva);
	return ret;
}
EXPORT_SYMBOL_GPL(portal_is_write_back);

/*
 * A portal without a reservation is of use still, only slower; so this cannot
 * fail, but says what came of it.
 */
void portal_region_reserve(struct portal *p)
{
	struct device *where = portal_where(p);
	unsigned int i;

	p->cache = PORTAL_CACHE_WRITE_BACK;
	for (i = 0; i < p->nr_pieces; i++) {
		struct portal_piece *piece = &p->pieces[i];

		if (p->flags & PORTAL_DESC_RAM) {
			piece->kva = phys_to_virt(piece->start);
			continue;
		}

		piece->kva = portal_memremap(piece->start, piece->len);
		if (!piece->kva) {
			p->cache = PORTAL_CACHE_UNKNOWN;
			dev_warn(where, "no room to reserve %#llx bytes as write-back: mappings may be slow\n",
				 piece->len);
			return;
		}
		if (!portal_compat_is_write_back(piece->kva)) {
			p->cache = PORTAL_CACHE_UNCACHED;
			dev_warn(where, "memory at %pa is uncached and slow: an MTRR or an earlier mapping says so; place the BAR above 4 GiB, and load this module before others map it\n",
				 &piece->start);
			return;
		}
	}
}

/*
 * The region's first page, for a look: in the core's own mapping, or, where there is no
 * room for that, in one that portal_region_unlook() ends. NULL: there is no room at all.
 */
void *portal_region_look(const struct portal *p)
{
	if (p->pieces[0].kva)
		return p->pieces[0].kva;
	return portal_memremap(p->pieces[0].start, PAGE_SIZE);
}

void portal_region_unlook(const struct portal *p, void *at)
{
	if (at && at != p->pieces[0].kva)
		memunmap(at);
}

/* Nobody can be inside portal_enter() or a fault any more. */
void portal_region_unreserve(struct portal *p)
{
	unsigned int i;

	for (i = 0; i < p->nr_pieces; i++) {
		if (p->pieces[i].kva && !(p->flags & PORTAL_DESC_RAM))
			memunmap(p->pieces[i].kva);
		p->pieces[i].kva = NULL;
	}
}

/* The piece that holds @offset, which is below the region's size. */
const struct portal_piece *portal_piece_at(const struct portal *p, u64 offset)
{
	unsigned int low = 0, high = p->nr_pieces;

	/* Invariant: pieces[low].offset <= offset < pieces[high].offset. */
	while (high - low > 1) {
		unsigned int middle = low + (high - low) / 2;

		if (p->pieces[middle].offset <= offset)
			low = middle;
		else
			high = middle;
	}
	return &p->pieces[low];
}
