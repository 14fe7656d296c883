// SPDX-License-Identifier: GPL-2.0-only
/*
 * portal.ko: the life of a portal.
 *
 * Objects
 *
 * struct portal       a region and its doorbells, as one transport device has
 *                     them. Lives from portal_alloc() until the last reference
 *                     goes; is dead (revoked) from portal_remove() on.
 * struct portal_self   this machine's part in a managed portal: its row, sessions, what it
 *                     saw of others. A part of struct portal (self.c and what it names).
 * struct portal_process  a process that uses a managed portal, and its session (sessions.c).
 * struct portal_handle  an open file, of open() or of PORTAL_WINDOW (window.c), and what
 *                     of the portal it reaches. Belongs to the struct file.
 * portal_slot         the number N and the identity it is remembered by;
 *                     lives as long as the module (number.c).
 * inode               the portal's one address_space (inode.c).
 *
 * References
 *
 * A portal is counted by its struct device: one for the transport, from
 * portal_alloc() to portal_put(), and one for each open file. A VMA holds its
 * file, and so does every running call; hence no VMA, no call and no eventfd
 * binding outlives the portal, and portal_dev_release() can free everything
 * without asking. The memory that is mapped is not the portal's but the
 * transport's: portal_remove() makes sure that nothing reaches it any more.
 * portal.ko is held by each open file (fops.owner), by each transport module
 * (symbols) and by each portal's inode (its file system's owner); its exit thus
 * finds no portal. A transport module is held by nobody.
 *
 * A process (struct portal_process) is known to its portal until the mm ends, or this machine
 * takes part no more, and holds the mm, not the portal. Its end may come at any time, and
 * asks for the portal (sessions.c). portal_exit() waits for the last to be freed.
 *
 * Locks, outer to inner
 *
 * portal_slots_lock   the table of numbers (number.c). A leaf.
 * self.lock           mutex: this machine's part in a managed portal (struct portal_self),
 *                     and every store to its tables. Not where mmap_lock is taken: a fault
 *                     holds that during a pause, whose end needs self.lock. portal.lock nests
 *                     inside, and so do mode_lock, portal_process_lock, and the MMU
 *                     notifiers' locks. Taken by an mm's end, maybe in exec(), under its
 *                     exec_update_lock, which nobody takes who has this one.
 * portal.rings_lock   who owns which packet rings (rings.c); portal.lock nests inside.
 * mmap_lock           of whoever maps and faults, by the caller.
 * portal.lock         rwsem. Read: "the portal is live and stays so", held
 *                     across transport callbacks and across the insertion of
 *                     page table entries. Write: to change the state, for a
 *                     moment, with nothing taken inside. User memory is never
 *                     touched under it: that could fault, thus take mmap_lock.
 * portal.flush_lock   rwsem. Read: the same, for ops->flush alone, which may wait for a
 *                     disk. Write: to wait for these, with nothing else held.
 * portal_handle.lock    mapped, zero_page, changes. A leaf.
 * portal.mode_lock    the mode, and how many mappings could write (managed.c). A leaf.
 * portal_process_lock spinlock: which portal a session is of (sessions.c). A leaf.
 * portal_vector.lock  spinlock, taken in hard interrupts; eventfds' own locks
 *                     nest inside. Not inside any of the above spinlocks.
 *
 * Revocation
 *
 * portal_remove() marks the portal dead under the write lock. A fault holds the
 * read lock from its look at the state until its entries are inserted, so
 * once the write lock was had, no entry can appear, and one
 * unmap_mapping_range() removes those that are there, forked children's
 * included (a fork copies the parent's entries after its VMA has been linked
 * behind the parent's, so the walk meets the child after the parent). The same
 * goes for callbacks: each runs inside portal_enter() and portal_leave().
 * Neither waits for user space: a fault or a callback under the lock sleeps for
 * the memory allocator, or in open_rings and close_rings for a transport's host,
 * for as long as the transport bounds it. Then vectors are closed, and
 * whoever sleeps is woken.
 *
 * A pause (reset, suspend) does the same with a state that ends.
 *
 * Of a managed portal the machine's row is told before a pause, and after a revocation, when
 * no store is possible any more: portal_self_pause(), portal_self_remove(). From there
 * on the region is not touched and no callback is called, by whatever work is left
 * (self.reach, under self.lock). Files alone can be revoked, too: those that had a session when
 * this machine was declared dead (portal_handle.epoch, beat.c).
 */
#include <linux/cdev.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kdev_t.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/reboot.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/suspend.h>

#include "core.h"
#include "trace.h"

static dev_t portal_devt;
static struct cdev portal_cdev;

/* Nodes are root's, 0600, until udev says otherwise: their memory is strangers' too. */
static struct class portal_class = {
	.name = "portal",
	.dev_groups = portal_groups,
};

static struct portal *to_portal(struct device *dev)
{
	return container_of(dev, struct portal, dev);
}

/* See "References" above for why nothing is left that could use it. */
static void portal_dev_release(struct device *dev)
{
	struct portal *p = to_portal(dev);

	portal_self_exit(p);
	if (p->inode)
		portal_inode_free(p->inode);
	kvfree(p->vectors);
	kvfree(p->rings);
	kvfree(p->pieces);
	kfree(p);
}

/* 0 with the read lock held, -ENODEV, or -EAGAIN: paused. @lock: p->lock or p->flush_lock. */
static int portal_try_enter(struct portal *p, struct rw_semaphore *lock)
{
	enum portal_state state;

	down_read(lock);
	state = READ_ONCE(p->state);
	if (state == PORTAL_LIVE)
		return 0;
	up_read(lock);
	return state == PORTAL_DEAD ? -ENODEV : -EAGAIN;
}

static int portal_enter_by(struct portal *p, struct rw_semaphore *lock)
{
	int ret;

	while ((ret = portal_try_enter(p, lock)) == -EAGAIN) {
		ret = wait_event_interruptible(p->wait, READ_ONCE(p->state) != PORTAL_PAUSED);
		if (ret)
			break;
	}
	return ret;
}

/**
 * portal_enter() - begin a stretch in which the portal stays live
 * @p: the portal
 *
 * Sleeps while the portal is paused. Between this and portal_leave() callbacks
 * may be called, and user memory must not be touched. Returns 0, -ENODEV, or
 * -ERESTARTSYS if a signal came during a pause.
 */
int portal_enter(struct portal *p)
{
	return portal_enter_by(p, &p->lock);
}

/*
 * The same for ops->flush, which may wait for somebody's disk: who changes the state does
 * not wait for it, but portal_wait_callbacks() does.
 */
int portal_enter_flush(struct portal *p)
{
	return portal_enter_by(p, &p->flush_lock);
}

/* The same for faults, which only a fatal signal may end. */
int portal_enter_killable(struct portal *p)
{
	int ret;

	while ((ret = portal_try_enter(p, &p->lock)) == -EAGAIN) {
		ret = wait_event_killable(p->wait, READ_ONCE(p->state) != PORTAL_PAUSED);
		if (ret)
			break;
	}
	return ret;
}

/* The same without a wait: -EAGAIN if it is paused, or about to be. */
int portal_enter_now(struct portal *p)
{
	if (!down_read_trylock(&p->lock))
		return -EAGAIN;
	if (READ_ONCE(p->state) == PORTAL_LIVE)
		return 0;
	up_read(&p->lock);
	return -EAGAIN;
}

/* Ends what portal_enter() began. */
void portal_leave(struct portal *p)
{
	up_read(&p->lock);
}

void portal_leave_flush(struct portal *p)
{
	up_read(&p->flush_lock);
}

/* Inside portal_enter(), or under self.lock with the transport in reach. */
u32 portal_peer_id(struct portal *p)
{
	return p->ops->peer_id ? p->ops->peer_id(p->priv) : PORTAL_PEER_NONE;
}

/*
 * Callbacks and faults that saw the old state are over when this returns, but for flushes.
 * Dead stays dead.
 */
static void portal_set_state(struct portal *p, enum portal_state state)
{
	down_write(&p->lock);
	if (p->state != PORTAL_DEAD)
		WRITE_ONCE(p->state, state);
	up_write(&p->lock);
}

/* Then flushes that saw the old state are over, too. What ends their waits is in portal.h. */
void portal_wait_callbacks(struct portal *p)
{
	down_write(&p->flush_lock);
	up_write(&p->flush_lock);
}

static bool portal_desc_valid(const struct portal_desc *desc)
{
	if (!desc->ops || !desc->transport || !desc->identity)
		return false;
	if (!desc->transport[0] || strlen(desc->transport) >= PORTAL_TRANSPORT_LEN)
		return false;
	if (!desc->identity[0] || strlen(desc->identity) >= PORTAL_IDENTITY_LEN)
		return false;
	if (desc->vectors > PORTAL_MAX_VECTORS)
		return false;
	if (desc->flags & ~(PORTAL_DESC_RAM | PORTAL_DESC_SHARED | PORTAL_DESC_RAWIO))
		return false;
	if (!desc->nr_extents && !desc->rings)
		return false;
	if (!desc->doorbell_page)
		return desc->doorbell_format == PORTAL_DOORBELL_NONE;
	return desc->ops->ring && PAGE_ALIGNED(desc->doorbell_page) &&
	       desc->doorbell_format != PORTAL_DOORBELL_NONE &&
	       desc->doorbell_register <= PAGE_SIZE - sizeof(u32) &&
	       IS_ALIGNED(desc->doorbell_register, sizeof(u32));
}

static u32 portal_desc_caps(const struct portal_desc *desc)
{
	u32 caps = 0;

	if (desc->ops->ring)
		caps |= PORTAL_CAP_DOORBELL;
	if (desc->doorbell_page)
		caps |= PORTAL_CAP_DOORBELL_PAGE;
	if (desc->vectors)
		caps |= PORTAL_CAP_EVENTS;
	if (desc->ops->flush)
		caps |= PORTAL_CAP_FLUSH;
	if (desc->rings)
		caps |= PORTAL_CAP_PACKETS;
	return caps;
}

struct portal *portal_alloc(const struct portal_desc *desc, void *priv)
{
	struct inode *inode;
	struct portal *p;
	int ret;

	if (!portal_desc_valid(desc))
		return ERR_PTR(-EINVAL);

	p = kzalloc(sizeof(*p), GFP_KERNEL);
	if (!p)
		return ERR_PTR(-ENOMEM);

	/* From here on portal_dev_release() frees whatever there is. */
	device_initialize(&p->dev);
	p->dev.class = &portal_class;
	p->dev.parent = desc->parent;
	p->dev.release = portal_dev_release;

	init_rwsem(&p->lock);
	init_rwsem(&p->flush_lock);
	portal_self_init(p);
	spin_lock_init(&p->mode_lock);
	hash_init(p->mappers);
	mutex_init(&p->rings_lock);
	init_waitqueue_head(&p->wait);
	init_waitqueue_head(&p->windows);
	p->ops = desc->ops;
	p->priv = priv;
	p->number = -1;
	p->caps = portal_desc_caps(desc);
	p->flags = desc->flags;
	p->max_peers = desc->max_peers;
	p->doorbell_page = desc->doorbell_page;
	p->doorbell_format = desc->doorbell_format;
	p->doorbell_register = desc->doorbell_register;
	strscpy(p->transport, desc->transport, sizeof(p->transport));
	strscpy(p->identity, desc->identity, sizeof(p->identity));

	ret = portal_region_init(p, desc);
	if (ret)
		goto err_put;
	ret = portal_vectors_init(p, desc->vectors);
	if (ret)
		goto err_put;
	ret = portal_rings_init(p, desc);
	if (ret)
		goto err_put;

	inode = portal_inode_new();
	if (IS_ERR(inode)) {
		ret = PTR_ERR(inode);
		goto err_put;
	}
	p->inode = inode;
	return p;

err_put:
	put_device(&p->dev);
	return ERR_PTR(ret);
}
EXPORT_SYMBOL_GPL(portal_alloc);

/* Everything that a process can feel of a removal. */
static void portal_revoke(struct portal *p)
{
	portal_number_hide(p);
	portal_set_state(p, PORTAL_DEAD);
	portal_zap(p);
	portal_vectors_signal(p, true);
	portal_wake_all(p);
	trace_portal_revoke(p->number);
}

int portal_add(struct portal *p)
{
	int ret;

	portal_region_reserve(p);
	ret = portal_mode_probe(p);
	if (ret)
		goto err_unreserve;

	ret = portal_number_take(p);
	if (ret)
		goto err_unreserve;

	p->dev.devt = portal_devt + p->number;
	ret = dev_set_name(&p->dev, "portal%d", p->number);
	if (ret)
		goto err_revoke;

	/* open() finds it already: udev's event comes before device_add() returns. */
	ret = device_add(&p->dev);
	if (ret)
		goto err_revoke;

	p->added = true;
	return 0;

err_revoke:
	portal_revoke(p);
	portal_wait_callbacks(p);
	portal_number_leave(p);
err_unreserve:
	portal_self_remove(p);
	portal_region_unreserve(p);
	return ret;
}
EXPORT_SYMBOL_GPL(portal_add);

void portal_remove(struct portal *p)
{
	if (!p->added)
		return;
	p->added = false;

	portal_revoke(p);
	portal_wait_callbacks(p);
	portal_self_remove(p);
	/* Waits for readers of sysfs attributes, which wait for nobody now. */
	device_del(&p->dev);
	portal_number_leave(p);
	portal_region_unreserve(p);
}
EXPORT_SYMBOL_GPL(portal_remove);

void portal_put(struct portal *p)
{
	put_device(&p->dev);
}
EXPORT_SYMBOL_GPL(portal_put);

void portal_pause(struct portal *p)
{
	portal_self_pause(p);
	portal_set_state(p, PORTAL_PAUSED);
	portal_wait_callbacks(p);
	portal_zap(p);
}
EXPORT_SYMBOL_GPL(portal_pause);

void portal_resume(struct portal *p)
{
	atomic_inc(&p->generation);
	portal_self_resume(p);
	portal_set_state(p, PORTAL_LIVE);
	portal_vectors_signal(p, false);
	portal_wake_all(p);
}
EXPORT_SYMBOL_GPL(portal_resume);

int portal_number(const struct portal *p)
{
	return p->number;
}
EXPORT_SYMBOL_GPL(portal_number);

/* ---- What happens to the machine ------------------------------------------------------ */

/* Calls @fn for each managed portal that there is. */
static void portal_for_managed(void (*fn)(struct portal *p))
{
	struct portal *p;
	u64 protected;
	unsigned int n;

	for (n = 0; n < PORTAL_MAX_NUMBERS; n++) {
		p = portal_number_get(n);
		if (!p)
			continue;
		if (portal_mode_get(p, &protected) == PORTAL_MODE_MANAGED)
			fn(p);
		put_device(&p->dev);
	}
}

/* Not portal_wait_callbacks(): a flush may wait for a disk that does not answer. */
static void portal_go_down(struct portal *p)
{
	portal_revoke(p);
	portal_self_remove(p);
}

static bool portal_hibernating, portal_giving_way;

/* The machine goes down to be woken up again, from an image on its disk; or is woken up. */
bool portal_hibernates(void)
{
	return READ_ONCE(portal_hibernating);
}

/* This kernel is about to load an image, whose kernel goes on in its place. */
bool portal_gives_way(void)
{
	return READ_ONCE(portal_giving_way);
}

static int portal_power(struct notifier_block *nb, unsigned long action, void *data)
{
	switch (action) {
	case PM_HIBERNATION_PREPARE:
	case PM_POST_HIBERNATION:
		WRITE_ONCE(portal_hibernating, action == PM_HIBERNATION_PREPARE);
		break;
	case PM_RESTORE_PREPARE:
		WRITE_ONCE(portal_giving_way, true);
		portal_for_managed(portal_self_give_way);
		break;
	case PM_POST_RESTORE:
		/* There was none, or it failed: the next beat joins. */
		WRITE_ONCE(portal_giving_way, false);
		break;
	}
	return NOTIFY_DONE;
}

static struct notifier_block portal_power_notifier = {
	.notifier_call = portal_power,
};

/*
 * The machine goes down, or another kernel starts in it (kexec): managed portals are
 * left, so that others need not wait for what will not come. Processes may still run. If it
 * is to be woken up, it sleeps.
 */
static int portal_reboot(struct notifier_block *nb, unsigned long action, void *data)
{
	/* Where power goes without a word to devices, after the image is written. */
	portal_for_managed(portal_hibernates() ? portal_self_pause : portal_go_down);
	return NOTIFY_DONE;
}

static struct notifier_block portal_reboot_notifier = {
	.notifier_call = portal_reboot,
};

static int portal_copied(struct notifier_block *nb, unsigned long action, void *data)
{
	portal_for_managed(portal_self_copied);
	return NOTIFY_DONE;
}

static struct notifier_block portal_copied_notifier = {
	.notifier_call = portal_copied,
};

static void portal_unregister_notifiers(void)
{
	portal_compat_unregister_copied(&portal_copied_notifier);
	unregister_pm_notifier(&portal_power_notifier);
	unregister_reboot_notifier(&portal_reboot_notifier);
}

static int __init portal_register_notifiers(void)
{
	int ret;

	ret = register_reboot_notifier(&portal_reboot_notifier);
	if (!ret)
		ret = register_pm_notifier(&portal_power_notifier);
	if (!ret)
		ret = portal_compat_register_copied(&portal_copied_notifier);
	/* One that was not registered is not there to be taken out, which is all that is said. */
	if (ret)
		portal_unregister_notifiers();
	return ret;
}

static int __init portal_init(void)
{
	int ret;

	ret = portal_self_module_init();
	if (ret)
		return ret;

	ret = class_register(&portal_class);
	if (ret)
		goto err_self;

	ret = alloc_chrdev_region(&portal_devt, 0, PORTAL_MAX_NUMBERS, "portal");
	if (ret)
		goto err_class;

	/*
	 * One cdev for all numbers, not one per portal: an inode caches its cdev,
	 * and a node that outlives a portal (made by mknod in a container, say)
	 * would else reach the dead portal for as long as anyone has it open.
	 */
	cdev_init(&portal_cdev, &portal_fops);
	portal_cdev.owner = THIS_MODULE;
	ret = cdev_add(&portal_cdev, portal_devt, PORTAL_MAX_NUMBERS);
	if (ret)
		goto err_region;
	ret = portal_register_notifiers();
	if (ret)
		goto err_cdev;
	return 0;

err_cdev:
	cdev_del(&portal_cdev);
err_region:
	unregister_chrdev_region(portal_devt, PORTAL_MAX_NUMBERS);
err_class:
	class_unregister(&portal_class);
err_self:
	portal_self_module_exit();
	return ret;
}
module_init(portal_init);

static void __exit portal_exit(void)
{
	portal_unregister_notifiers();
	cdev_del(&portal_cdev);
	unregister_chrdev_region(portal_devt, PORTAL_MAX_NUMBERS);
	class_unregister(&portal_class);
	portal_number_exit();
	portal_self_module_exit();
}
module_exit(portal_exit);

MODULE_DESCRIPTION("Memory and doorbells shared between machines: /dev/portalN");
MODULE_LICENSE("GPL");
MODULE_VERSION(PORTAL_VERSION);
