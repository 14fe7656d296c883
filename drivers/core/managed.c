// SPDX-License-Identifier: GPL-2.0-only
/*
 * The mode: is the region all the applications', or does it begin with tables?
 *
 * The superblock says so, once: when the portal is added, or when an administrator asks
 * (PORTAL_SET_MODE). Bytes that change later change nothing: the mode and the size of the
 * protected part are this kernel's from then on. (But a machine that wakes up from
 * hibernation may find another region. If it knew the old one's superblock, it judges anew:
 * portal_self_resume().)
 *
 * Of a managed portal no mapping that is or could become writable reaches the
 * protected part. mode_lock makes that true across a change of the mode: mmap.c looks
 * at the protected size and counts a mapping that could write in one step, and the mode
 * changes in one step with a look at that count. A superblock that says that
 * it is one but cannot be relied on protects all of the region: it can be looked at, and
 * nothing is lost.
 *
 * And a mapping of a managed portal belongs to one process: fork() does not copy it, for
 * good (VM_DONTCOPY, and VM_IO, for which madvise() refuses MADV_DOFORK). So what a
 * process could write is counted by process and file (struct portal_writer): a session
 * (sessions.c) is not over while its process can write through any file of the portal,
 * whether that file asked for it or not.
 */
#include <linux/dev_printk.h>
#include <linux/hashtable.h>
#include <linux/kernel.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "core.h"

/**
 * struct portal_writer - one process's writable mappings through one file
 * @node: in portal.writers, by @mm
 * @h: the file, which each of the mappings holds
 * @mm: the process. Compared only; a mapping is left, so no other has its address
 * @nr: how many mappings
 *
 * Under portal.mode_lock. vm_private_data of each of these mappings, and of no other.
 */
struct portal_writer {
	struct hlist_node node;
	struct portal_handle *h;
	const struct mm_struct *mm;
	unsigned int nr;
};

/* Nobody has the portal yet. The region may be touched from here on. */
void portal_mode_probe(struct portal *p)
{
	struct portal_layout layout = { };
	int ret;

	mutex_lock(&p->self.lock);
	p->self.reach = true;
	ret = portal_layout_read(p, &layout);
	portal_mode_found(p, ret, &layout);
	mutex_unlock(&p->self.lock);
}

/*
 * What a look at the superblock gave becomes the mode; @ret and @layout are
 * portal_layout_read()'s. Under self.lock. No mapping can write, or it is stale.
 */
void portal_mode_found(struct portal *p, int ret, const struct portal_layout *layout)
{
	spin_lock(&p->mode_lock);
	p->mode = ret == -ENODATA ? PORTAL_MODE_RAW : PORTAL_MODE_MANAGED;
	p->protected_size = layout->protected_size;
	if (ret)
		p->protected_size = ret == -ENODATA ? 0 : p->size;
	spin_unlock(&p->mode_lock);

	p->self.error = ret;
	memset(&p->self.layout, 0, sizeof(p->self.layout));
	if (!ret)
		portal_self_start(p, layout);
	else if (ret != -ENODATA)
		dev_warn(portal_where(p),
			 "managed, but its superblock is damaged, or newer (%d): all of it is read-only; 'portalctl check' says how\n",
			 ret);
}

/* Under mode_lock. NULL: @mm has nothing mapped writable through @h. */
static struct portal_writer *portal_writer_find(const struct portal_handle *h,
						const struct mm_struct *mm)
{
	struct portal_writer *w;

	hash_for_each_possible(h->portal->writers, w, node, (unsigned long)mm) {
		if (w->mm == mm && w->h == h)
			return w;
	}
	return NULL;
}

/* Under mode_lock. One more mapping; @w: its process's, or NULL in a raw portal. */
static void portal_mode_count(struct portal_handle *h, struct portal_writer *w)
{
	h->portal->nr_writable++;
	h->nr_writable++;
	if (w)
		w->nr++;
}

/* Under mode_lock. Of a managed portal: *@w is @mm's, which may be the new one it was. */
static void portal_writer_take(struct portal_handle *h, const struct mm_struct *mm,
			       struct portal_writer **w)
{
	struct portal_writer *old = portal_writer_find(h, mm), *new = *w;

	if (old) {
		*w = old;
		return;
	}
	new->h = h;
	new->mm = mm;
	hash_add(h->portal->writers, &new->node, (unsigned long)mm);
}

/*
 * Makes room for a mapping by @mm, through @h, that begins at @start of the region; @could: by
 * the file's rights it is writable, or could be made so. Returns PORTAL_MAP_*, or -ENOMEM:
 * with PORTAL_MAP_WRITE it may, and is counted, as *@w's, until portal_mode_unmap(); with
 * PORTAL_MAP_OWN it is @mm's alone.
 */
int portal_mode_map(struct portal_handle *h, const struct mm_struct *mm, u64 start, bool could,
		    struct portal_writer **w)
{
	struct portal_writer *new = NULL;
	struct portal *p = h->portal;
	int ret = 0;

	*w = NULL;
	if (could) {
		new = kzalloc(sizeof(*new), GFP_KERNEL_ACCOUNT);
		if (!new)
			return -ENOMEM;
	}
	spin_lock(&p->mode_lock);
	if (p->mode == PORTAL_MODE_MANAGED)
		ret |= PORTAL_MAP_OWN;
	if (could && start >= p->protected_size && (!h->mm || h->mm == mm)) {
		if (ret & PORTAL_MAP_OWN) {
			*w = new;
			portal_writer_take(h, mm, w);
		}
		portal_mode_count(h, *w);
		ret |= PORTAL_MAP_WRITE;
	}
	spin_unlock(&p->mode_lock);
	if (*w != new)
		kfree(new);
	return ret;
}

/* Another mapping like one that was counted: a part of it, or, of a raw portal, a child's. */
void portal_mode_map_again(struct portal_handle *h, struct portal_writer *w)
{
	spin_lock(&h->portal->mode_lock);
	portal_mode_count(h, w);
	spin_unlock(&h->portal->mode_lock);
}

void portal_mode_unmap(struct portal_handle *h, struct portal_writer *w)
{
	spin_lock(&h->portal->mode_lock);
	h->portal->nr_writable--;
	h->nr_writable--;
	if (w && --w->nr)
		w = NULL;
	if (w)
		hash_del(&w->node);
	spin_unlock(&h->portal->mode_lock);
	kfree(w);
}

/* Whether @h is @mm's alone from now on, to write through it: until portal_mode_disown(). */
bool portal_mode_own(struct portal_handle *h, const struct mm_struct *mm)
{
	const struct portal_writer *w;
	bool alone;

	spin_lock(&h->portal->mode_lock);
	w = portal_writer_find(h, mm);
	alone = h->nr_writable == (w ? w->nr : 0);
	if (alone)
		h->mm = mm;
	spin_unlock(&h->portal->mode_lock);
	return alone;
}

void portal_mode_disown(struct portal_handle *h)
{
	spin_lock(&h->portal->mode_lock);
	h->mm = NULL;
	spin_unlock(&h->portal->mode_lock);
}

/* Whether @mm could write through any file of the portal. */
bool portal_mode_maps(struct portal *p, const struct mm_struct *mm)
{
	const struct portal_writer *w;
	bool maps = false;

	spin_lock(&p->mode_lock);
	hash_for_each_possible(p->writers, w, node, (unsigned long)mm)
		maps = maps || w->mm == mm;
	spin_unlock(&p->mode_lock);
	return maps;
}

/* Files through which @mm could write reach nothing any more, and never will. */
void portal_mode_stale(struct portal *p, const struct mm_struct *mm)
{
	struct portal_writer *w;

	spin_lock(&p->mode_lock);
	hash_for_each_possible(p->writers, w, node, (unsigned long)mm) {
		if (w->mm == mm)
			WRITE_ONCE(w->h->epoch, 0);
	}
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

/* Under self.lock, where the region may be touched. */
static int portal_mode_change(struct portal *p, u32 mode)
{
	struct portal_layout layout = { };
	int ret = -ENODATA;

	if (mode == PORTAL_MODE_MANAGED) {
		ret = portal_layout_read(p, &layout);
		if (ret)
			return ret;
	}
	/* From here on nobody can map it writable; what others find meanwhile is true. */
	spin_lock(&p->mode_lock);
	if (p->nr_writable) {
		spin_unlock(&p->mode_lock);
		return -EBUSY;
	}
	p->protected_size = p->size;
	spin_unlock(&p->mode_lock);

	portal_self_leave(p);
	portal_mode_found(p, ret, &layout);
	/* Who watches is to look, if only to find that there is nothing to be seen any more. */
	portal_changed(p, 1);
	return 0;
}

int portal_mode_set(struct portal *p, u32 mode)
{
	int ret;

	ret = portal_self_lock(p);
	if (ret)
		return ret;
	ret = portal_mode_change(p, mode);
	portal_self_unlock(p);
	return ret;
}
