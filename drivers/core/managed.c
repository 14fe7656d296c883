// SPDX-License-Identifier: GPL-2.0-only
/*
 * The mode: is the region all the applications', or does it begin with tables?
 *
 * The superblock says so, once: when the portal is added, or when an administrator asks
 * (PORTAL_SET_MODE). Bytes that change later change nothing: the mode and the size of the
 * protected part are this kernel's from then on. (But a machine that wakes up from
 * hibernation may find another region, and judges anew: portal_layout_differs(). And a region
 * that was formatted anew is read-only from then on: portal_self_formatted().)
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
#include <linux/rbtree.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "core.h"

/**
 * struct portal_mapper - a process that has writable mappings, through whatever files
 * @node: in portal.mappers, by @mm
 * @mm: compared only; a mapping is left, so no other has its address
 * @writers: its struct portal_writer
 */
struct portal_mapper {
	struct hlist_node node;
	const struct mm_struct *mm;
	struct list_head writers;
};

/**
 * struct portal_writer - one process's writable mappings through one file
 * @of_file: in @h's tree, by the address of @mapper's mm
 * @of_mapper: in @mapper's list
 * @mapper: the process
 * @h: the file, which each of the mappings holds
 * @nr: how many mappings
 *
 * vm_private_data of each of these mappings, and of no other. A process may have very many
 * files, and a file be very many processes', and everybody's next mapping waits for who looks
 * for one of these: so a file has a tree. All of it under portal.mode_lock.
 */
struct portal_writer {
	struct rb_node of_file;
	struct list_head of_mapper;
	struct portal_mapper *mapper;
	struct portal_handle *h;
	unsigned int nr;
};

/*
 * Nobody has the portal yet. The region may be touched from here on. 0, or -ENOMEM: there is
 * no room to look.
 */
int portal_mode_probe(struct portal *p)
{
	struct portal_layout layout = { };
	int ret;

	mutex_lock(&p->self.lock);
	p->self.reach = true;
	ret = portal_layout_read(p, &layout);
	if (ret != -ENOMEM)
		portal_mode_found(p, ret, &layout);
	mutex_unlock(&p->self.lock);
	return ret == -ENOMEM ? ret : 0;
}

/* As below; who is there, if anybody, has left. */
static void portal_mode_take(struct portal *p, int ret, u64 protected)
{
	spin_lock(&p->mode_lock);
	p->mode = ret == -ENODATA ? PORTAL_MODE_RAW : PORTAL_MODE_MANAGED;
	p->protected_size = protected;
	if (ret)
		p->protected_size = ret == -ENODATA ? 0 : p->size;
	spin_unlock(&p->mode_lock);

	p->self.error = ret;
	p->self.said = ret;
	memset(&p->self.layout, 0, sizeof(p->self.layout));
}

/*
 * What a look at the superblock gave becomes the mode; @ret and @layout are
 * portal_layout_read()'s. Under self.lock. No mapping can write, or it is stale.
 */
void portal_mode_found(struct portal *p, int ret, const struct portal_layout *layout)
{
	portal_mode_take(p, ret, layout->protected_size);
	if (!ret)
		portal_self_start(p, layout);
	else if (ret != -ENODATA)
		dev_warn(portal_where(p),
			 "managed, but its superblock is damaged, or newer (%d): all of it is read-only; 'portalctl check' says how\n",
			 ret);
}

/*
 * There is another superblock, which was not looked at: until an administrator has that done,
 * all of the region is read-only, as if it were damaged. Under self.lock.
 */
void portal_mode_gone(struct portal *p)
{
	portal_mode_take(p, -EUCLEAN, 0);
}

static struct portal_mapper *portal_mapper_find(const struct portal *p, const struct mm_struct *mm)
{
	struct portal_mapper *m;

	hash_for_each_possible(p->mappers, m, node, (unsigned long)mm) {
		if (m->mm == mm)
			return m;
	}
	return NULL;
}

/*
 * Under mode_lock. Where @mm's writer is in @h's tree, or, below *@parent, would have to be:
 * NULL stands there then.
 */
static struct rb_node **portal_writer_place(struct portal_handle *h, const struct mm_struct *mm,
					    struct rb_node **parent)
{
	struct rb_node **at = &h->writers.rb_node;

	*parent = NULL;
	while (*at) {
		const struct mm_struct *its;

		its = rb_entry(*at, struct portal_writer, of_file)->mapper->mm;
		if (its == mm)
			break;
		*parent = *at;
		at = mm < its ? &(*at)->rb_left : &(*at)->rb_right;
	}
	return at;
}

static void portal_writer_free(struct portal_writer *w)
{
	if (w)
		kfree(w->mapper);
	kfree(w);
}

/* With a mapper, in case that there is none yet. */
static struct portal_writer *portal_writer_new(struct portal_handle *h, const struct mm_struct *mm)
{
	struct portal_writer *w = kzalloc(sizeof(*w), GFP_KERNEL_ACCOUNT);

	if (!w)
		return NULL;
	w->h = h;
	w->mapper = kzalloc(sizeof(*w->mapper), GFP_KERNEL_ACCOUNT);
	if (!w->mapper) {
		kfree(w);
		return NULL;
	}
	w->mapper->mm = mm;
	INIT_LIST_HEAD(&w->mapper->writers);
	return w;
}

/*
 * Under mode_lock. One more mapping; @w: its process's, or NULL in a raw portal. Through a file
 * that is stale nothing is written: what is mapped so keeps nobody from changing the mode.
 */
static void portal_mode_count(struct portal_handle *h, struct portal_writer *w)
{
	h->nr_writable++;
	if (!portal_handle_stale(h))
		h->portal->nr_writable++;
	if (w)
		w->nr++;
}

/*
 * Under mode_lock. What counts @mm's mappings through @new's file: one that there is, or @new.
 * *@mapper: what of @new is not needed.
 */
static struct portal_writer *portal_writer_take(struct portal_writer *new,
						const struct mm_struct *mm,
						struct portal_mapper **mapper)
{
	struct portal_handle *h = new->h;
	struct portal *p = h->portal;
	struct rb_node **at, *parent;
	struct portal_mapper *m;

	at = portal_writer_place(h, mm, &parent);
	if (*at)
		return rb_entry(*at, struct portal_writer, of_file);
	m = portal_mapper_find(p, mm);
	if (m) {
		*mapper = new->mapper;
		new->mapper = m;
	} else {
		hash_add(p->mappers, &new->mapper->node, (unsigned long)mm);
	}
	list_add(&new->of_mapper, &new->mapper->writers);
	rb_link_node(&new->of_file, parent, at);
	rb_insert_color(&new->of_file, &h->writers);
	return new;
}

/*
 * Makes room for a mapping by @mm, through @h, that begins at @start of the region; @could: by
 * the file's rights it is writable, or could be made so. Returns 1 if it may, and is counted,
 * as *@w's, until portal_mode_unmap(); 0, or -ENOMEM.
 */
int portal_mode_map(struct portal_handle *h, const struct mm_struct *mm, u64 start, bool could,
		    struct portal_writer **w)
{
	struct portal_mapper *spare = NULL;
	struct portal_writer *new;
	struct portal *p = h->portal;
	int ret = 0;

	*w = NULL;
	if (!could)
		return 0;
	new = portal_writer_new(h, mm);
	if (!new)
		return -ENOMEM;
	spin_lock(&p->mode_lock);
	if (start >= p->protected_size && (!h->mm || h->mm == mm)) {
		if (p->mode == PORTAL_MODE_MANAGED)
			*w = portal_writer_take(new, mm, &spare);
		portal_mode_count(h, *w);
		ret = 1;
	}
	spin_unlock(&p->mode_lock);
	if (*w != new)
		portal_writer_free(new);
	kfree(spare);
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
	struct portal_mapper *m = NULL;

	spin_lock(&h->portal->mode_lock);
	h->nr_writable--;
	if (!portal_handle_stale(h))
		h->portal->nr_writable--;
	if (w && --w->nr)
		w = NULL;
	if (w) {
		rb_erase(&w->of_file, &h->writers);
		list_del(&w->of_mapper);
		if (list_empty(&w->mapper->writers))
			m = w->mapper;
		if (m)
			hash_del(&m->node);
	}
	spin_unlock(&h->portal->mode_lock);
	kfree(m);
	kfree(w);
}

/*
 * Whether nobody but @mm could write through @h. In a managed portal each mapping that could has
 * its process's writer. With @own: and nobody else is to, until portal_mode_disown().
 */
bool portal_mode_alone(struct portal_handle *h, const struct mm_struct *mm, bool own)
{
	const struct rb_node *n;
	bool alone;

	spin_lock(&h->portal->mode_lock);
	n = h->writers.rb_node;
	alone = !n || (!n->rb_left && !n->rb_right &&
		       rb_entry(n, struct portal_writer, of_file)->mapper->mm == mm);
	if (alone && own)
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

/*
 * Under mode_lock. Files that are stale do not count: nothing is mapped through them, from
 * before this machine has a row again (portal_lost()).
 */
static bool portal_mapper_writes(const struct portal_mapper *m)
{
	const struct portal_writer *w;

	list_for_each_entry(w, &m->writers, of_mapper) {
		if (!portal_handle_stale(w->h))
			return true;
	}
	return false;
}

/**
 * portal_mode_maps() - could a process write, through any file of the portal?
 * @p: the portal, with self.lock held
 * @mm: the process
 * @over: if not, its session, whose end is stored at once; or NULL
 *
 * No mapping is made between the look and that store: so whatever is mapped later is mapped
 * after the session's end.
 */
bool portal_mode_maps(struct portal *p, const struct mm_struct *mm, struct portal_process *over)
{
	const struct portal_mapper *m;
	bool maps;

	spin_lock(&p->mode_lock);
	m = portal_mapper_find(p, mm);
	maps = m && portal_mapper_writes(m);
	if (!maps && over)
		portal_session_over(p, over);
	spin_unlock(&p->mode_lock);
	return maps;
}

/* Under mode_lock. */
static void portal_handle_end(struct portal_handle *h)
{
	if (!portal_handle_stale(h))
		h->portal->nr_writable -= h->nr_writable;
	WRITE_ONCE(h->epoch, 0);
}

/* The file reaches nothing any more, and never will. What is mapped is to be zapped. */
void portal_mode_end(struct portal_handle *h)
{
	spin_lock(&h->portal->mode_lock);
	portal_handle_end(h);
	spin_unlock(&h->portal->mode_lock);
}

/* So with all files that there are. */
void portal_mode_end_all(struct portal *p)
{
	spin_lock(&p->mode_lock);
	WRITE_ONCE(p->epoch, p->epoch + 1);
	p->nr_writable = 0;
	spin_unlock(&p->mode_lock);
}

/* And with those through which @mm could write. */
void portal_mode_stale(struct portal *p, const struct mm_struct *mm)
{
	struct portal_mapper *m;
	struct portal_writer *w;

	spin_lock(&p->mode_lock);
	m = portal_mapper_find(p, mm);
	if (m) {
		list_for_each_entry(w, &m->writers, of_mapper)
			portal_handle_end(w->h);
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
	int said = portal_layout_read(p, &layout), ret = said;

	if (mode == PORTAL_MODE_RAW)
		ret = -ENODATA;
	else if (ret)
		return ret;
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
	p->self.said = said;
	/* Who watches is to look, if only to find that there is nothing to be seen any more. */
	portal_changed(p, 1);
	return 0;
}

int portal_mode_set(struct portal *p, u32 mode)
{
	int ret;

	for (;;) {
		ret = portal_self_lock(p);
		if (ret)
			return ret;
		/* What does not count must have been unmapped. */
		if (!p->self.zapping && (p->self.error || !portal_self_formatted(p)))
			break;
		portal_self_unlock(p);
		schedule_timeout_interruptible(1);
		if (signal_pending(current))
			return -ERESTARTSYS;
	}
	ret = portal_mode_change(p, mode);
	portal_self_unlock(p);
	return ret;
}
