// SPDX-License-Identifier: GPL-2.0-only
/*
 * The region: pages of this kernel, a GPADL for each piece, and what becomes of pages
 * that the host may still have.
 *
 * A piece is one allocation, thus contiguous in the direct map. GPADLs are made of it
 * and not of a vmalloc() mapping, because a confidential guest decrypts and encrypts by
 * that address. The largest pieces come first, so that each lies at a multiple of its
 * size in the region, and large page table entries fit.
 *
 * Pages that a host was told of are freed when it has said that it let go (BYE_ACK, the
 * WELCOME of a later session, a rescind), and when they are encrypted again. Without its
 * word they go to the quarantine: nobody's, until a later session of the same instance
 * gets the word. Pages that could not be encrypted again are lost for ever.
 */
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uuid.h>

#include "vmbus.h"

/* A GPADL of PORTAL_VMBUS_MAX_GPADL pages. */
#define VBP_MAX_PIECE	((u64)PORTAL_VMBUS_MAX_GPADL * PORTAL_VMBUS_PAGE)

/* Memory that is so scattered that more would be needed is not worth the hypercalls. */
#define VBP_MAX_PIECES	16384

/* Memory that the host of an instance may still reach. */
struct vbp_quarantine {
	struct list_head node;
	guid_t instance;
	struct vbp_memory memory;
};

static LIST_HEAD(vbp_quarantine);
static DEFINE_MUTEX(vbp_quarantine_lock);

static u64 vbp_piece_size(const struct vbp_piece *piece)
{
	return PAGE_SIZE << piece->order;
}

static void vbp_pieces_free(struct vbp_memory *m)
{
	u64 lost = 0;
	u32 i;

	for (i = 0; i < m->nr; i++) {
		if (m->pieces[i].lost)
			lost += vbp_piece_size(&m->pieces[i]);
		else
			__free_pages(m->pieces[i].page, m->pieces[i].order);
	}
	if (lost)
		pr_warn(VBP_NAME ": %llu KiB could not be encrypted again and are lost\n",
			lost >> 10);
	kvfree(m->pieces);
	*m = (struct vbp_memory) { 0 };
}

/* The largest piece that can be had and is not more than @left; nobody is killed for it. */
static bool vbp_piece_alloc(struct vbp_piece *piece, unsigned int *order, u64 left)
{
	while ((PAGE_SIZE << *order) > left)
		--*order;
	for (;; --*order) {
		gfp_t gfp = GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN;

		gfp |= *order ? __GFP_NORETRY : __GFP_RETRY_MAYFAIL;
		piece->page = alloc_pages(gfp, *order);
		piece->order = *order;
		if (piece->page || !*order)
			return piece->page;
	}
}

/* Zeroed. On error nothing is held. */
int vbp_memory_alloc(struct vbp *vbp, u64 size)
{
	unsigned int order = get_order(max_t(u64, VBP_MAX_PIECE, PAGE_SIZE));
	struct vbp_memory *m = &vbp->memory;

	if (!size)
		return 0;
	m->pieces = kvcalloc(min_t(u64, size >> PAGE_SHIFT, VBP_MAX_PIECES), sizeof(*m->pieces),
			     GFP_KERNEL);
	if (!m->pieces)
		return -ENOMEM;
	while (m->size < size) {
		if (m->nr == VBP_MAX_PIECES ||
		    !vbp_piece_alloc(&m->pieces[m->nr], &order, size - m->size)) {
			dev_err(&vbp->dev->device, "no memory for a region of %llu KiB, or too scattered: choose a smaller one, or bind earlier\n",
				size >> 10);
			vbp_pieces_free(m);
			return -ENOMEM;
		}
		m->size += vbp_piece_size(&m->pieces[m->nr++]);
		cond_resched();
	}
	return 0;
}

static void vbp_quarantine_add(struct vbp *vbp)
{
	struct vbp_quarantine *q = kzalloc(sizeof(*q), GFP_KERNEL);

	dev_warn(&vbp->dev->device, "the host has not confirmed that it let go of %llu KiB: they stay out of use until it does when the device is bound again\n",
		 vbp->memory.size >> 10);
	/* Without memory for the note they are out of use for ever. */
	if (!q)
		return;
	q->instance = vbp->dev->dev_instance;
	q->memory = vbp->memory;
	mutex_lock(&vbp_quarantine_lock);
	list_add(&q->node, &vbp_quarantine);
	mutex_unlock(&vbp_quarantine_lock);
}

/* The host has let go of all that it ever had of this instance. */
void vbp_quarantine_release(const guid_t *instance)
{
	struct vbp_quarantine *q, *next;

	mutex_lock(&vbp_quarantine_lock);
	list_for_each_entry_safe(q, next, &vbp_quarantine, node) {
		if (!guid_equal(&q->instance, instance))
			continue;
		list_del(&q->node);
		vbp_pieces_free(&q->memory);
		kfree(q);
	}
	mutex_unlock(&vbp_quarantine_lock);
}

/* Module exit: the notes go, the pages stay where nobody finds them. */
void vbp_quarantine_exit(void)
{
	struct vbp_quarantine *q, *next;

	list_for_each_entry_safe(q, next, &vbp_quarantine, node) {
		pr_warn(VBP_NAME ": %llu KiB of instance %pUl, which its host may still reach, are lost until reboot\n",
			q->memory.size >> 10, &q->instance);
		kvfree(q->memory.pieces);
		kfree(q);
	}
}

/* After vbp_session_end(), and after nobody can map it. */
void vbp_memory_free(struct vbp *vbp)
{
	if (!vbp->memory.nr)
		return;
	if (vbp->exposed)
		vbp_quarantine_add(vbp);
	else
		vbp_pieces_free(&vbp->memory);
	vbp->memory = (struct vbp_memory) { 0 };
}

/* A GPADL for each piece; on error some have one. The bus answers -ENODEV at a rescind. */
int vbp_memory_share(struct vbp *vbp)
{
	u32 i;
	int ret;

	for (i = 0; i < vbp->memory.nr; i++) {
		struct vbp_piece *piece = &vbp->memory.pieces[i];

		if (piece->lost)
			return -EIO;
		ret = portal_vmbus_establish(vbp_primary(vbp), page_address(piece->page),
					     vbp_piece_size(piece), &piece->gpadl);
		if (ret) {
			dev_err(&vbp->dev->device, "GPADL %u of %u (%llu KiB) cannot be established: %d\n",
				i, vbp->memory.nr, vbp_piece_size(piece) >> 10, ret);
			piece->lost = portal_vmbus_decrypted(&piece->gpadl, false);
			return ret;
		}
		piece->established = true;
		cond_resched();
	}
	return 0;
}

void vbp_memory_unshare(struct vbp *vbp)
{
	u32 i;

	for (i = 0; i < vbp->memory.nr; i++) {
		struct vbp_piece *piece = &vbp->memory.pieces[i];

		if (!piece->established)
			continue;
		piece->established = false;
		if (portal_vmbus_teardown(vbp_primary(vbp), &piece->gpadl) ||
		    portal_vmbus_decrypted(&piece->gpadl, false))
			piece->lost = true;
		cond_resched();
	}
}

/* How user space is to map it; the same for all pieces of a guest. */
bool vbp_memory_decrypted(const struct vbp *vbp)
{
	return vbp->memory.nr && portal_vmbus_decrypted(&vbp->memory.pieces[0].gpadl, true);
}
