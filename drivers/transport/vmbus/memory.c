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
 * WELCOME of a later session, a rescind), when their GPADL is torn down, and when they
 * are encrypted again. Without its word they are overdue: nobody's, their GPADLs as they
 * were, until a later session of the same instance gets the word, or the bus says that
 * the device they were lent by was rescinded, which is looked at now and then. Overdue
 * memory holds this module, lest it be forgotten. Pages that could not be encrypted again
 * are lost for ever.
 */
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/gfp.h>
#include <linux/kobject.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uuid.h>

#include "line_internal.h"

/* A GPADL of PORTAL_VMBUS_MAX_GPADL pages. */
#define VBL_MAX_PIECE	((u64)PORTAL_VMBUS_MAX_GPADL * PORTAL_VMBUS_PAGE)

/* Memory that is so scattered that more would be needed is not worth the hypercalls. */
#define VBL_MAX_PIECES	16384

/* How often the overdue is looked at: has its device been rescinded? */
#define VBL_REAP	(2 * HZ)

static LIST_HEAD(vbl_overdue);
static DEFINE_MUTEX(vbl_overdue_lock);

static void vbl_overdue_look(struct work_struct *work);
static DECLARE_DELAYED_WORK(vbl_overdue_work, vbl_overdue_look);

void vbl_piece_free(struct vbl_piece *piece)
{
	if (piece->lost)
		pr_warn_ratelimited(VBL_NAME ": %llu KiB could not be taken back and are lost\n",
				    vbl_piece_size(piece) >> 10);
	else
		__free_pages(piece->page, piece->order);
}

void vbl_memory_free(struct vbl_memory *m)
{
	u32 i;

	for (i = 0; i < m->nr; i++)
		vbl_piece_free(&m->pieces[i]);
	if (m->channel)
		kobject_put(&m->channel->kobj);
	kvfree(m->pieces);
	kfree(m);
}

/* The largest piece that can be had and is not more than @left; nobody is killed for it. */
static bool vbl_piece_alloc(struct vbl_piece *piece, unsigned int *order, u64 left)
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

/* Until it is all there, or -ENOMEM with some of it. */
static int vbl_memory_fill(struct vbl_memory *m, u64 size)
{
	unsigned int order = get_order(max_t(u64, VBL_MAX_PIECE, PAGE_SIZE));

	while (m->size < size) {
		if (m->nr == VBL_MAX_PIECES ||
		    !vbl_piece_alloc(&m->pieces[m->nr], &order, size - m->size))
			return -ENOMEM;
		m->size += vbl_piece_size(&m->pieces[m->nr++]);
		cond_resched();
	}
	return 0;
}

/* Zeroed; not shared with anybody. An ERR_PTR(), or NULL for no bytes. */
struct vbl_memory *vbl_memory_alloc(struct hv_device *dev, u64 size)
{
	struct vbl_memory *m;

	if (!size)
		return NULL;
	m = kzalloc(sizeof(*m), GFP_KERNEL);
	if (!m)
		return ERR_PTR(-ENOMEM);
	m->pieces = kvcalloc(min_t(u64, size >> PAGE_SHIFT, VBL_MAX_PIECES), sizeof(*m->pieces),
			     GFP_KERNEL);
	if (m->pieces && !vbl_memory_fill(m, size))
		return m;
	vbl_memory_free(m);
	dev_err(&dev->device, "no memory for a region of %llu KiB, or too scattered: choose a smaller one, or bind earlier\n",
		size >> 10);
	return ERR_PTR(-ENOMEM);
}
EXPORT_SYMBOL_GPL(vbl_memory_alloc);

static int vbl_piece_share(struct vmbus_channel *channel, struct vbl_piece *piece)
{
	int ret;

	if (piece->lost)
		return -EIO;
	ret = portal_vmbus_establish(channel, page_address(piece->page), vbl_piece_size(piece),
				     &piece->gpadl);
	if (ret) {
		piece->lost = portal_vmbus_decrypted(&piece->gpadl,
						     portal_vmbus_confidential());
		return ret;
	}
	piece->established = true;
	/* What was zero is something else in the clear; also what a session left there. */
	if (portal_vmbus_confidential())
		memset(page_address(piece->page), 0, vbl_piece_size(piece));
	return 0;
}

/* On error some have a GPADL. The bus answers -ENODEV at a rescind. The owner may go. */
int vbl_memory_share(struct vbl *line, struct vbl_memory *m)
{
	struct vmbus_channel *channel = vbl_primary(line);
	u32 i;
	int ret;

	/* Before the first GPADL: in doubt they are of an earlier one. */
	m->epoch = vbl_epoch();
	for (i = 0; i < m->nr; i++) {
		if (READ_ONCE(line->silent))
			return -ENODEV;
		ret = vbl_piece_share(channel, &m->pieces[i]);
		if (ret) {
			dev_err(&line->dev->device, "GPADL %u of %u (%llu KiB) cannot be established: %d\n",
				i, m->nr, vbl_piece_size(&m->pieces[i]) >> 10, ret);
			return ret;
		}
		vbl_answered(line);
		cond_resched();
	}
	return 0;
}

/*
 * What keeps a message from being posted now, be it memory or a host that takes none, is
 * not for ever; and the worker has the time. The bus forgets the handle with the answer.
 */
void vbl_piece_unshare(struct vmbus_channel *channel, struct vbl_piece *piece)
{
	int ret;

	if (!piece->established)
		return;
	piece->established = false;
	for (;;) {
		ret = portal_vmbus_teardown(channel, &piece->gpadl);
		if (!ret || !piece->gpadl.gpadl_handle || READ_ONCE(channel->rescind))
			break;
		msleep(100);
	}
	if (ret || portal_vmbus_decrypted(&piece->gpadl, false))
		piece->lost = true;
}

/* Of the line's channel; what was overdue has its own, and needs no line if it is gone. */
void vbl_memory_unshare(struct vbl *line, struct vbl_memory *m)
{
	struct vmbus_channel *channel = m->channel ? m->channel : vbl_primary(line);
	u32 i;

	for (i = 0; i < m->nr; i++) {
		vbl_piece_unshare(channel, &m->pieces[i]);
		if (line)
			vbl_answered(line);
		cond_resched();
	}
	if (m->channel)
		kobject_put(&m->channel->kobj);
	m->channel = NULL;
}

/* There is nothing to tear down; the memory is the guest's alone again in its page tables. */
void vbl_piece_forget(struct vbl_piece *piece)
{
	if (piece->established && portal_vmbus_decrypted(&piece->gpadl, true) &&
	    portal_vmbus_encrypt(page_address(piece->page), vbl_piece_size(piece)))
		piece->lost = true;
	piece->established = false;
}

/* The bus has ended all GPADLs by itself, in hibernation, or its host will. */
void vbl_memory_forget(struct vbl_memory *m)
{
	u32 i;

	for (i = 0; i < m->nr; i++)
		vbl_piece_forget(&m->pieces[i]);
}
EXPORT_SYMBOL_GPL(vbl_memory_forget);

/* How user space is to map it; the same for all pieces of a guest. */
bool vbl_memory_decrypted(const struct vbl_memory *m)
{
	return m && portal_vmbus_decrypted(&m->pieces[0].gpadl, true);
}
EXPORT_SYMBOL_GPL(vbl_memory_decrypted);

static void vbl_overdue_add(struct hv_device *dev, struct vbl_memory *m)
{
	dev_warn(&dev->device, "the host has not confirmed that it let go of %llu KiB: they stay out of use until it does when the device is bound again\n",
		 m->size >> 10);
	m->instance = dev->dev_instance;
	/*
	 * The channel by its own reference: the device's would keep its successor from
	 * being offered.
	 */
	kobject_get(&dev->channel->kobj);
	m->channel = dev->channel;
	__module_get(THIS_MODULE);
	mutex_lock(&vbl_overdue_lock);
	list_add(&m->node, &vbl_overdue);
	mutex_unlock(&vbl_overdue_lock);
	queue_delayed_work(system_freezable_wq, &vbl_overdue_work, VBL_REAP);
}

/* Memory that is not wanted any more; if the host may still reach it, with its GPADLs. */
void vbl_memory_end(struct hv_device *dev, struct vbl_memory *m, bool exposed)
{
	if (exposed)
		vbl_overdue_add(dev, m);
	else
		vbl_memory_free(m);
}
EXPORT_SYMBOL_GPL(vbl_memory_end);

/* Takes one off the list that the host of @instance, or of a rescinded device, had. */
static struct vbl_memory *vbl_overdue_take(const guid_t *instance)
{
	struct vbl_memory *m, *found = NULL;

	mutex_lock(&vbl_overdue_lock);
	list_for_each_entry(m, &vbl_overdue, node) {
		if (instance ? guid_equal(&m->instance, instance) :
			       READ_ONCE(m->channel->rescind)) {
			found = m;
			list_del(&m->node);
			break;
		}
	}
	mutex_unlock(&vbl_overdue_lock);
	return found;
}

static void vbl_overdue_free(struct vbl *line, struct vbl_memory *m)
{
	/* Of what is gone nobody would answer the end. */
	if (m->epoch != vbl_epoch())
		vbl_memory_forget(m);
	vbl_memory_unshare(line, m);
	vbl_memory_free(m);
	module_put(THIS_MODULE);
}

/* The host has let go of all that it ever had of the line's instance. */
void vbl_overdue_let_go(struct vbl *line)
{
	struct vbl_memory *m;

	while ((m = vbl_overdue_take(&line->dev->dev_instance)))
		vbl_overdue_free(line, m);
}

/* A device that was rescinded has had all access ended before, and answers nothing. */
void vbl_overdue_reap(void)
{
	struct vbl_memory *m;

	while ((m = vbl_overdue_take(NULL))) {
		pr_info(VBL_NAME ": the host took the device of %llu KiB away: they are free again\n",
			m->size >> 10);
		vbl_overdue_free(NULL, m);
	}
}

bool vbl_overdue_any(void)
{
	bool any;

	mutex_lock(&vbl_overdue_lock);
	any = !list_empty(&vbl_overdue);
	mutex_unlock(&vbl_overdue_lock);
	return any;
}

/* Nobody else may be there to notice. */
static void vbl_overdue_look(struct work_struct *work)
{
	vbl_overdue_reap();
	if (vbl_overdue_any())
		queue_delayed_work(system_freezable_wq, &vbl_overdue_work, VBL_REAP);
}

/* Nothing is overdue, but who freed the last may still be there. */
void vbl_overdue_exit(void)
{
	cancel_delayed_work_sync(&vbl_overdue_work);
}
