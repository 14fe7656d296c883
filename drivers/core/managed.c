// SPDX-License-Identifier: GPL-2.0-only
/*
 * The mode: is the region all the applications', or does it begin with tables?
 *
 * The superblock says so, once: when the portal is added, or when an administrator asks
 * (PORTAL_SET_MODE). Bytes that change later change nothing: the mode and the size of the
 * protected part are this kernel's from then on.
 *
 * Of a managed portal no mapping that is or could become writable reaches the
 * protected part. mode_lock makes that true across a change of the mode: mmap.c looks
 * at the protected size and counts a mapping that could write in one step, and the mode
 * changes in one step with a look at that count. A superblock that says that
 * it is one but cannot be relied on protects all of the region: it can be looked at, and
 * nothing is lost.
 *
 * Only bytes of portal_layout.h are read, through the core's own mapping; none is written.
 */
#include <linux/dev_printk.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/slab.h>
#include <linux/string.h>

#include <linux/portal_layout.h>

#include "core.h"

/*
 * CRC-32C, by halves of a byte: once in a portal's life. The kernel's own is a module
 * with a driver behind it in many configurations.
 */
static u32 portal_crc32c(u32 crc, const void *data, size_t len)
{
	const u8 *c = data;
	unsigned int i;

	crc = ~crc;
	while (len--) {
		crc ^= *c++;
		for (i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

static u32 portal_super_checksum(const struct portal_super *s)
{
	const size_t at = offsetof(struct portal_super, checksum);
	const size_t behind = at + sizeof(s->checksum);
	static const u8 zero[sizeof(s->checksum)];
	u32 crc;

	crc = portal_crc32c(0, s, at);
	crc = portal_crc32c(crc, zero, sizeof(zero));
	return portal_crc32c(crc, (const u8 *)s + behind, sizeof(*s) - behind);
}

/* Copied once, word by word: others may write meanwhile, and only the copy is judged. */
static void portal_super_copy(struct portal_super *s, const void *from)
{
	const u64 *word = from;
	u64 *to = (u64 *)s;
	size_t i;

	for (i = 0; i < sizeof(*s) / sizeof(*to); i++)
		to[i] = READ_ONCE(word[i]);
}

/*
 * The protected part must end on a page here, too. 0, -ENODATA, -EUCLEAN, or
 * -EPROTONOSUPPORT, as PORTAL_SET_MODE has them.
 */
static int portal_super_judge(const struct portal *p, const struct portal_super *s)
{
	u64 size = le64_to_cpu(s->size), protected = le64_to_cpu(s->protected_size);

	if (le64_to_cpu(s->magic) == PORTAL_MAGIC_FORMATTING)
		return -EUCLEAN;
	if (le64_to_cpu(s->magic) != PORTAL_MAGIC)
		return -ENODATA;
	if (le32_to_cpu(s->checksum) != portal_super_checksum(s))
		return -EUCLEAN;
	if (le32_to_cpu(s->version) != PORTAL_LAYOUT_VERSION)
		return -EPROTONOSUPPORT;
	if (le64_to_cpu(s->incompat) & ~PORTAL_INCOMPAT_KNOWN)
		return -EPROTONOSUPPORT;
	if (size > p->size || !IS_ALIGNED(size, PORTAL_UNIT))
		return -EUCLEAN;
	if (!protected || protected >= size || !IS_ALIGNED(protected, PORTAL_UNIT))
		return -EUCLEAN;
	return IS_ALIGNED(protected, PAGE_SIZE) ? 0 : -EPROTONOSUPPORT;
}

/* The caller is before portal_add()'s end, or inside portal_enter(). */
static int portal_super_read(const struct portal *p, u64 *protected)
{
	struct portal_super *s;
	void *at;
	int ret;

	BUILD_BUG_ON(sizeof(*s) != PORTAL_SUPER_SIZE);
	/* A piece is whole pages, so the superblock is in the first. */
	if (p->size < PORTAL_LAYOUT_MIN)
		return -ENODATA;
	s = kmalloc(sizeof(*s), GFP_KERNEL);
	at = portal_region_look(p);
	if (!s || !at) {
		portal_region_unlook(p, at);
		kfree(s);
		return -ENOMEM;
	}
	portal_super_copy(s, at);
	portal_region_unlook(p, at);
	ret = portal_super_judge(p, s);
	*protected = ret ? 0 : le64_to_cpu(s->protected_size);
	if (ret == -EPROTONOSUPPORT)
		dev_warn(p->dev.parent ?: &p->dev,
			 "layout of version %u with features %#llx, of which this module knows version %u and %#llx\n",
			 le32_to_cpu(s->version), le64_to_cpu(s->incompat),
			 PORTAL_LAYOUT_VERSION, PORTAL_INCOMPAT_KNOWN);
	kfree(s);
	return ret;
}

/* Nobody has the portal yet. */
void portal_mode_probe(struct portal *p)
{
	int ret = portal_super_read(p, &p->protected_size);

	if (ret == -ENODATA)
		return;
	p->mode = PORTAL_MODE_MANAGED;
	if (ret) {
		p->protected_size = p->size;
		dev_warn(p->dev.parent ?: &p->dev,
			 "managed, but its superblock is damaged, or newer (%d): all of it is read-only; 'portalctl check' says how\n",
			 ret);
	}
}

/*
 * Makes room for a mapping of @len bytes at @start of the region that is writable, or
 * could be made so (@now: it is already). *@may: whether it may ever be; if so it is
 * counted, until portal_mode_unmap(). -EACCES: it is, and must not be.
 */
int portal_mode_map(struct portal *p, u64 start, bool now, bool *may)
{
	int ret = 0;

	spin_lock(&p->mode_lock);
	if (start >= p->protected_size) {
		p->nr_writable++;
		*may = true;
	} else {
		*may = false;
		ret = now ? -EACCES : 0;
	}
	spin_unlock(&p->mode_lock);
	return ret;
}

/* Another mapping like one that was counted: a part of it, or a child's. */
void portal_mode_map_again(struct portal *p)
{
	spin_lock(&p->mode_lock);
	p->nr_writable++;
	spin_unlock(&p->mode_lock);
}

void portal_mode_unmap(struct portal *p)
{
	spin_lock(&p->mode_lock);
	p->nr_writable--;
	spin_unlock(&p->mode_lock);
}

/* What the mode is now; *@protected: and from where on mappings may be writable. */
u32 portal_mode_get(struct portal *p, u64 *protected)
{
	u32 mode;

	spin_lock(&p->mode_lock);
	mode = p->mode;
	*protected = p->protected_size;
	spin_unlock(&p->mode_lock);
	return mode;
}

/* Inside portal_enter(). */
int portal_mode_set(struct portal *p, u32 mode)
{
	u64 protected = 0;
	int ret = 0;

	if (mode == PORTAL_MODE_MANAGED)
		ret = portal_super_read(p, &protected);
	if (ret)
		return ret;

	spin_lock(&p->mode_lock);
	if (p->nr_writable) {
		ret = -EBUSY;
	} else {
		p->mode = mode;
		p->protected_size = protected;
	}
	spin_unlock(&p->mode_lock);
	return ret;
}
