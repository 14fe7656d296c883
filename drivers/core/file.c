// SPDX-License-Identifier: GPL-2.0-only
/* Open files of /dev/portalN: their life, and the table of what they can do. */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "core.h"

static int portal_open(struct inode *inode, struct file *file)
{
	struct portal *p = portal_number_get(iminor(inode));
	struct portal_handle *h;

	if (!p)
		return -ENXIO;

	h = kvzalloc(struct_size(h, vectors, p->nr_vectors), GFP_KERNEL_ACCOUNT);
	if (!h) {
		put_device(&p->dev);
		return -ENOMEM;
	}
	h->portal = p;
	spin_lock_init(&h->lock);
	portal_handle_vectors_init(h);

	file->private_data = h;
	file->f_mapping = p->inode->i_mapping;
	/* A stream: no position, so no lseek() and no pread(). */
	return stream_open(inode, file);
}

/*
 * The last reference to the file went, thus no mapping, no call and no poll is
 * left: each holds one. The zeroed page is in no page table any more, because a
 * VMA drops its file only after its entries are gone from every TLB.
 */
static int portal_release(struct inode *inode, struct file *file)
{
	struct portal_handle *h = file->private_data;
	struct portal *p = h->portal;

	portal_handle_vectors_exit(h);
	if (h->zero_page)
		__free_page(h->zero_page);
	kvfree(h);
	put_device(&p->dev);
	return 0;
}

/*
 * What offsets are asked for makes no difference: a device flushes all it has.
 * The wait may be as long as the host's disk takes; what ends it is in portal.h.
 */
static int portal_fsync(struct file *file, loff_t start, loff_t end, int datasync)
{
	struct portal_handle *h = file->private_data;
	struct portal *p = h->portal;
	int ret;

	ret = portal_enter(p);
	if (ret)
		return ret;
	ret = p->ops->flush ? p->ops->flush(p->priv) : -EINVAL;
	portal_leave(p);
	return ret && portal_is_dead(p) ? -ENODEV : ret;
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
};
