// SPDX-License-Identifier: GPL-2.0-only
/*
 * User memory: the ioctls and read(). Nothing else in the core copies from or to
 * a process, and nothing here does so with a lock held.
 *
 * An ioctl's structure is copied in whole by its table entry, handed to the
 * function, and copied out if the table says so. A caller's structure may be
 * shorter or longer than ours (linux/portal.h says how).
 */
#include <linux/capability.h>
#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "core.h"
#include "trace.h"

/* Records that one round of read() copies. */
#define PORTAL_READ_BATCH	16

union portal_args {
	u32 size;
	struct portal_info info;
	struct portal_ring ring;
	struct portal_eventfd eventfd;
	struct portal_file file;
	struct portal_window window;
	struct portal_packets packets;
	struct portal_set_mode set_mode;
	struct portal_session_begin session;
	struct portal_fence fence;
};

/* What a file's PORTAL_INFO promises: of the portal's, what a window includes. */
static u32 portal_handle_caps(const struct portal_handle *h)
{
	u32 caps = h->portal->caps;

	if (h->window)
		caps &= ~(PORTAL_CAP_DOORBELL_PAGE | PORTAL_CAP_PACKETS);
	if (!h->nr_bells)
		caps &= ~PORTAL_CAP_DOORBELL;
	if (!h->nr_vectors)
		caps &= ~PORTAL_CAP_EVENTS;
	return caps;
}

/* A window that does not begin where the region does has no superblock. */
static void portal_handle_mode(const struct portal_handle *h, struct portal_info *info)
{
	u64 protected;

	info->mode = portal_mode_get(h->portal, &protected);
	if (h->offset)
		info->mode = PORTAL_MODE_RAW;
	info->protected_size = 0;
	if (protected > h->offset)
		info->protected_size = min(protected - h->offset, h->length);
}

/* ops->peer_id is the one part that may change, so it is asked each time. */
static int portal_ioctl_info(struct file *file, union portal_args *args)
{
	struct portal_handle *h = file->private_data;
	struct portal *p = h->portal;
	struct portal_info *info = &args->info;
	int ret;

	ret = portal_enter(p);
	if (ret)
		return ret;
	info->peer_id = portal_peer_id(p);
	portal_leave(p);

	info->api_version = PORTAL_API_VERSION;
	info->caps = portal_handle_caps(h);
	info->region_size = h->length;
	info->doorbell_offset = 0;
	portal_handle_mode(h, info);
	info->cache = p->cache;
	info->vectors = h->nr_vectors;
	info->first_vector = h->first_vector;
	info->max_peers = p->max_peers;
	info->doorbell_format = PORTAL_DOORBELL_NONE;
	info->doorbell_register = 0;
	if (info->caps & PORTAL_CAP_DOORBELL_PAGE) {
		info->doorbell_offset = portal_doorbell_offset(p);
		info->doorbell_format = p->doorbell_format;
		info->doorbell_register = p->doorbell_register;
	}
	info->generation = atomic_read(&p->generation);
	memcpy(info->transport, p->transport, sizeof(info->transport));
	memcpy(info->identity, p->identity, sizeof(info->identity));
	info->flags = h->window ? PORTAL_INFO_WINDOW : 0;
	return 0;
}

/*
 * What the caller stored to the region before is to be seen by a peer that saw the
 * doorbell.
 */
static int portal_ioctl_ring(struct file *file, union portal_args *args)
{
	struct portal_handle *h = file->private_data;
	struct portal *p = h->portal;
	struct portal_ring *ring = &args->ring;
	int ret;

	if (ring->flags)
		return -EOPNOTSUPP;
	if (!(file->f_mode & FMODE_WRITE))
		return -EACCES;
	/* Not p->ops: that is the transport's, which may be gone before portal_enter(). */
	if (!(portal_handle_caps(h) & PORTAL_CAP_DOORBELL))
		return -EOPNOTSUPP;
	if (!portal_may_ring(h, ring->peer, ring->vector))
		return -EACCES;

	ret = portal_enter(p);
	if (ret)
		return ret;
	/* Not smp_mb(): the peer is another machine. Pairs with its look at the region. */
	virt_mb();
	ret = p->ops->ring(p->priv, ring->peer, ring->vector);
	portal_leave(p);

	trace_portal_doorbell(p->number, ring->peer, ring->vector, ret);
	return ret;
}

static int portal_ioctl_eventfd(struct file *file, union portal_args *args)
{
	struct portal_handle *h = file->private_data;
	struct portal_eventfd *efd = &args->eventfd;
	u32 nr = h->nr_vectors;
	struct eventfd_ctx *ctx = NULL;
	u32 vector;
	int ret;

	if (efd->flags)
		return -EOPNOTSUPP;
	if (!(file->f_mode & FMODE_READ))
		return -EACCES;
	if (!nr)
		return -EOPNOTSUPP;
	if (efd->vector >= nr)
		return -EINVAL;
	vector = array_index_nospec(efd->vector, nr);
	if (!h->vectors[vector].mine)
		return -EACCES;

	if (efd->fd != -1) {
		ctx = eventfd_ctx_fdget(efd->fd);
		if (IS_ERR(ctx))
			return PTR_ERR(ctx);
	}
	ret = portal_bind(h, vector, ctx);
	if (ret)
		eventfd_ctx_put(ctx);
	return ret;
}

static int portal_ioctl_file(struct file *file, union portal_args *args)
{
	struct portal_handle *h = file->private_data;
	struct page *page = NULL;
	int ret = 0;

	if (args->file.flags & ~PORTAL_FILE_ZERO_ON_REVOKE)
		return -EOPNOTSUPP;
	if (args->file.flags & PORTAL_FILE_ZERO_ON_REVOKE) {
		page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
		if (!page)
			return -ENOMEM;
	}

	/* Faults read zero_page without the lock: it must not change once there can be any. */
	spin_lock(&h->lock);
	if (h->mapped)
		ret = -EBUSY;
	else
		swap(h->zero_page, page);
	spin_unlock(&h->lock);

	if (page)
		__free_page(page);
	return ret;
}

/* Counts are bounded before anything is copied. Returns the new descriptor. */
static int portal_ioctl_window(struct file *file, union portal_args *args)
{
	struct portal_handle *h = file->private_data;
	struct portal_window *w = &args->window;
	struct portal_bell *bells = NULL;
	u32 *vectors = NULL;
	int ret;

	if (w->flags & ~PORTAL_WINDOW_WRITE)
		return -EOPNOTSUPP;
	if ((w->nr_vectors && !h->nr_vectors) ||
	    (w->nr_bells && !(portal_handle_caps(h) & PORTAL_CAP_DOORBELL)))
		return -EOPNOTSUPP;
	if (w->nr_vectors > h->nr_vectors || w->nr_bells > PORTAL_WINDOW_MAX_BELLS)
		return -EINVAL;

	if (w->nr_vectors) {
		vectors = memdup_user(u64_to_user_ptr(w->vectors),
				      array_size(w->nr_vectors, sizeof(*vectors)));
		if (IS_ERR(vectors))
			return PTR_ERR(vectors);
	}
	if (w->nr_bells) {
		bells = memdup_user(u64_to_user_ptr(w->bells),
				    array_size(w->nr_bells, sizeof(*bells)));
		if (IS_ERR(bells)) {
			kfree(vectors);
			return PTR_ERR(bells);
		}
	}
	ret = portal_window_open(file, w, vectors, bells);
	kfree(bells);
	kfree(vectors);
	return ret;
}

static int portal_ioctl_packets(struct file *file, union portal_args *args)
{
	const fmode_t both = FMODE_READ | FMODE_WRITE;
	struct portal_handle *h = file->private_data;

	if (args->packets.flags)
		return -EOPNOTSUPP;
	if (args->packets.reserved)
		return -EINVAL;
	if ((file->f_mode & both) != both || h->window)
		return -EACCES;
	if (!(h->portal->caps & PORTAL_CAP_PACKETS))
		return -EOPNOTSUPP;
	if (args->packets.vector >= h->portal->nr_vectors)
		return -EINVAL;
	return portal_rings_take(h, &args->packets);
}

static int portal_ioctl_set_mode(struct file *file, union portal_args *args)
{
	const fmode_t both = FMODE_READ | FMODE_WRITE;
	struct portal_handle *h = file->private_data;

	if (args->set_mode.flags)
		return -EOPNOTSUPP;
	if (args->set_mode.reserved || args->set_mode.mode > PORTAL_MODE_MANAGED)
		return -EINVAL;
	if ((file->f_mode & both) != both || h->window)
		return -EACCES;
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;

	return portal_mode_set(h->portal, args->set_mode.mode);
}

static int portal_ioctl_session(struct file *file, union portal_args *args)
{
	const fmode_t both = FMODE_READ | FMODE_WRITE;
	struct portal_handle *h = file->private_data;
	struct portal_session_begin *a = &args->session;

	if (a->flags & ~PORTAL_SESSION_END)
		return -EOPNOTSUPP;
	if ((file->f_mode & both) != both)
		return -EACCES;
	if (!(a->flags & PORTAL_SESSION_END) && a->vector != PORTAL_SESSION_SILENT) {
		if (a->vector >= h->nr_vectors)
			return -EINVAL;
		a->vector = array_index_nospec(a->vector, h->nr_vectors);
		if (!h->vectors[a->vector].mine)
			return -EACCES;
	}
	return portal_session(h, a);
}

static int portal_ioctl_fence(struct file *file, union portal_args *args)
{
	const fmode_t both = FMODE_READ | FMODE_WRITE;
	struct portal_handle *h = file->private_data;
	struct portal *p = h->portal;
	int ret;

	if (args->fence.flags & ~PORTAL_FENCE_SUSPECT)
		return -EOPNOTSUPP;
	if (args->fence.reserved)
		return -EINVAL;
	if ((file->f_mode & both) != both || h->window)
		return -EACCES;
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;

	ret = portal_self_lock(p);
	if (ret)
		return ret;
	ret = p->self.error ?: portal_fence(p, &args->fence);
	portal_self_unlock(p);
	return ret;
}

/**
 * struct portal_ioctl_op - one ioctl
 * @size: of the structure as this kernel knows it
 * @min_size: of its first version
 * @out: the structure is copied out on success
 * @fn: called with the structure; size is the caller's. What it returns is the ioctl's
 *	result; not 0 means that nothing is copied out
 */
struct portal_ioctl_op {
	u32 size;
	u32 min_size;
	bool out;
	int (*fn)(struct file *file, union portal_args *args);
};

#define IOCTL_OP(_cmd, _fn, _struct, _last, _out)				\
	[_IOC_NR(_cmd)] = {							\
		.size = sizeof(_struct) +					\
			BUILD_BUG_ON_ZERO(sizeof(_struct) > sizeof(union portal_args)), \
		.min_size = offsetofend(_struct, _last),			\
		.out = (_out),							\
		.fn = (_fn),							\
	}

static const struct portal_ioctl_op portal_ioctl_ops[] = {
	IOCTL_OP(PORTAL_INFO, portal_ioctl_info, struct portal_info, identity, true),
	IOCTL_OP(PORTAL_RING, portal_ioctl_ring, struct portal_ring, vector, false),
	IOCTL_OP(PORTAL_EVENTFD, portal_ioctl_eventfd, struct portal_eventfd, fd, false),
	IOCTL_OP(PORTAL_FILE, portal_ioctl_file, struct portal_file, flags, false),
	IOCTL_OP(PORTAL_WINDOW, portal_ioctl_window, struct portal_window, nr_bells, false),
	IOCTL_OP(PORTAL_PACKETS, portal_ioctl_packets, struct portal_packets, recv_size, true),
	IOCTL_OP(PORTAL_SET_MODE, portal_ioctl_set_mode, struct portal_set_mode, reserved, false),
	IOCTL_OP(PORTAL_SESSION, portal_ioctl_session, struct portal_session_begin, incarnation,
		 true),
	IOCTL_OP(PORTAL_FENCE, portal_ioctl_fence, struct portal_fence, claim, false),
};

long portal_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct portal_handle *h = file->private_data;
	void __user *user = (void __user *)arg;
	const struct portal_ioctl_op *op;
	unsigned int nr = _IOC_NR(cmd);
	union portal_args args;
	u32 size;
	int ret;

	if (nr >= ARRAY_SIZE(portal_ioctl_ops) || cmd != _IO(PORTAL_IOCTL_TYPE, nr))
		return -ENOTTY;
	op = &portal_ioctl_ops[array_index_nospec(nr, ARRAY_SIZE(portal_ioctl_ops))];
	if (!op->fn)
		return -ENOTTY;
	if (portal_is_dead(h->portal))
		return -ENODEV;

	if (get_user(size, (u32 __user *)user))
		return -EFAULT;
	if (size < op->min_size)
		return -EINVAL;
	/* No structure of ours will be a page; this bounds the search for a non-zero byte. */
	if (size > PAGE_SIZE)
		return -E2BIG;

	memset(&args, 0, sizeof(args));
	ret = copy_struct_from_user(&args, op->size, user, size);
	if (ret)
		return ret;
	args.size = size;	/* not what another thread has put there since */

	ret = op->fn(file, &args);
	if (ret || !op->out)
		return ret;
	return copy_to_user(user, &args, min(size, op->size)) ? -EFAULT : 0;
}

/*
 * Records that a bad pointer kept from the reader are given back, so that no
 * event is lost but by reading it.
 */
ssize_t portal_read(struct file *file, char __user *buf, size_t len, loff_t *pos)
{
	struct portal_handle *h = file->private_data;
	struct portal_event ev[PORTAL_READ_BATCH];
	/*
	 * One record per vector, and one of changes: no more, or rings as fast as we read
	 * would keep us here.
	 */
	size_t room = min_t(size_t, len / sizeof(ev[0]), h->nr_vectors + 1);
	size_t done = 0;
	u64 protected;

	if (!h->nr_vectors && portal_mode_get(h->portal, &protected) == PORTAL_MODE_RAW)
		return portal_is_dead(h->portal) ? -ENODEV : -EOPNOTSUPP;
	if (!room)
		return -EINVAL;

	while (done < room) {
		int n, ret;

		if (portal_is_dead(h->portal))
			return done ? done * sizeof(ev[0]) : -ENODEV;

		n = portal_collect(h, ev, min_t(size_t, room - done, ARRAY_SIZE(ev)));
		if (n && copy_to_user(buf + done * sizeof(ev[0]), ev, n * sizeof(ev[0]))) {
			portal_give_back(h, ev, n);
			return done ? done * sizeof(ev[0]) : -EFAULT;
		}
		done += n;
		if (n == ARRAY_SIZE(ev))
			continue;
		if (done)
			break;
		/* Not if there is one by now: another thread may take it, and this one sleep. */
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		ret = portal_wait_readable(h);
		if (ret)
			return ret;
	}
	return done * sizeof(ev[0]);
}
