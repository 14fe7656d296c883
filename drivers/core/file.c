// SPDX-License-Identifier: GPL-2.0-only
/* Open files, of /dev/portalN and windows: their life, and the table of what they can do. */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/slab.h>

#include "core.h"

/*
 * A file's own part, which reaches nothing yet, with a reference to @p. @nr_vectors is
 * at most the portal's; both counts are bounded. NULL: no memory.
 */
struct portal_handle *portal_handle_new(struct portal *p, u32 nr_vectors, u32 nr_bells)
{
	struct portal_handle *h;

	h = kvzalloc(struct_size(h, vectors, nr_vectors) + nr_bells * sizeof(*h->bells),
		     GFP_KERNEL_ACCOUNT);
	if (!h)
		return NULL;
	get_device(&p->dev);
	h->portal = p;
	h->nr_vectors = nr_vectors;
	h->nr_bells = nr_bells;
	h->bells = (void *)&h->vectors[nr_vectors];
	spin_lock_init(&h->lock);
	h->epoch = READ_ONCE(p->epoch);
	h->changes = READ_ONCE(p->changes);
	portal_handle_vectors_init(h);
	return h;
}

void portal_handle_free(struct portal_handle *h)
{
	struct portal *p = h->portal;

	portal_session_release(h);
	portal_rings_release(h);
	portal_handle_vectors_exit(h);
	if (h->zero_page)
		__free_page(h->zero_page);
	kvfree(h);
	put_device(&p->dev);
}

/* Makes @file, which nobody else has yet, @h's. */
void portal_handle_attach(struct portal_handle *h, struct file *file)
{
	h->owner = file->f_cred->euid;
	file->private_data = h;
	file->f_mapping = h->portal->inode->i_mapping;
	/* Failed flushes from here on; open(2) looked at the node's own mapping. */
	file->f_wb_err = filemap_sample_wb_err(file->f_mapping);
	/* A stream: no position, so no lseek() and no pread(). Never fails. */
	stream_open(file_inode(file), file);
}

/* The window that is everything. */
static struct portal_handle *portal_handle_whole(struct portal *p)
{
	struct portal_handle *h = portal_handle_new(p, p->nr_vectors, 1);
	u32 i;

	if (!h)
		return NULL;
	h->length = p->size;
	h->bells[0] = (struct portal_bell) { PORTAL_ANY, PORTAL_ANY };
	for (i = 0; i < h->nr_vectors; i++)
		h->vectors[i].mine = true;
	return h;
}

static int portal_open(struct inode *inode, struct file *file)
{
	struct portal *p = portal_number_get(iminor(inode));
	struct portal_handle *h;

	if (!p)
		return -ENXIO;
	if ((p->flags & PORTAL_DESC_RAWIO) && !capable(CAP_SYS_RAWIO)) {
		put_device(&p->dev);
		return -EPERM;
	}

	h = portal_handle_whole(p);
	put_device(&p->dev);
	if (!h)
		return -ENOMEM;
	portal_handle_attach(h, file);
	return 0;
}

/*
 * The last reference to the file went, thus no mapping, no call and no poll is
 * left: each holds one. The zeroed page is in no page table any more, because a
 * VMA drops its file only after its entries are gone from every TLB.
 */
static int portal_release(struct inode *inode, struct file *file)
{
	portal_handle_free(file->private_data);
	return 0;
}

void portal_flush_failed(struct portal *p)
{
	mapping_set_error(p->inode->i_mapping, -EIO);
}
EXPORT_SYMBOL_GPL(portal_flush_failed);

/*
 * What offsets are asked for makes no difference: a device flushes all it has.
 * The wait may be as long as the host's disk takes; what ends it is in portal.h.
 *
 * A flush that failed for somebody else may have lost what was stored through this
 * file, and no later flush brings it back: so it fails here too, once.
 */
static int portal_fsync(struct file *file, loff_t start, loff_t end, int datasync)
{
	struct portal_handle *h = file->private_data;
	struct portal *p = h->portal;
	int ret, earlier;

	ret = portal_enter_flush(p);
	if (ret)
		return ret;
	ret = p->ops->flush ? p->ops->flush(p->priv) : -EINVAL;
	portal_leave_flush(p);
	if (ret && portal_is_dead(p))
		return -ENODEV;
	/* Who was killed, say, has not been told. */
	if (ret && ret != -EIO)
		return ret;
	earlier = file_check_and_advance_wb_err(file);
	return ret ? ret : earlier;
}

const struct file_operations portal_fops = {
	.owner = THIS_MODULE,
	.open = portal_open,
	.release = portal_release,
	.read = portal_read,
	.poll = portal_poll,
	.unlocked_ioctl = portal_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = portal_mmap,
	.fsync = portal_fsync,
	.get_unmapped_area = portal_get_unmapped_area,
	.show_fdinfo = portal_show_fdinfo,
};
