// SPDX-License-Identifier: GPL-2.0-only
/*
 * portal_vmbus_line.ko: the bus side of portal_vmbus.ko, and what outlives it.
 *
 * Why it is there
 *
 * A driver can ask the bus to open and close a channel, and to establish and tear down a
 * GPADL. Each of these waits for the host, uninterruptibly and without an end unless the
 * host answers or rescinds; and there is no other way, for nothing of the bus's messages
 * is exported. So a worker asks and waits, and portal_vmbus waits for the worker, no
 * longer than it likes. If the host stays silent, the worker is left with all that the
 * host may still have: rings, GPADLs, pages. It winds them up when the host answers or
 * rescinds the device. Until then this module cannot be unloaded, for the worker returns
 * to it; portal_vmbus can, at any time, and so does portal.
 *
 * It also keeps the memory that a host answered about, but did not let go of (memory.c).
 *
 * Objects and references
 *
 * struct vbl		a line. Its owner is a device of portal_vmbus, from vbl_begin()
 *			to vbl_end(); then it is the worker's. It holds the device (which
 *			holds its channels) and this module. A device has one at a time.
 * struct vbl_memory	a region: its owner's, then the line's, which frees it or makes it
 *			overdue.
 *
 * The owner never calls a line from two places at once. What the worker does for it is
 * one thing at a time; for a rescind wakes but one who waits for a channel. So root should
 * not write to a channel's "cpu" in sysfs meanwhile, which may wait, too. Nor does the
 * primary channel's rescind wake who waits for a subchannel: that one's own does, and
 * hosts rescind it first.
 *
 * Locks
 *
 * vbl_lines_lock	the list of lines. A leaf.
 * vbl.lock		what is asked, and who waits. A leaf.
 * vbl.signal_lock	terms.signal; in hard interrupts, inside the bus's own lock of
 *			the channel. A leaf but for what the signal takes.
 * overdue		memory.c.
 */
#include <linux/device.h>
#include <linux/freezer.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "line_internal.h"

/* What a worker may be asked. */
enum {
	VBL_NOTHING,
	VBL_OPEN,
	VBL_OPEN_SUBCHANNELS,
	VBL_CLOSE,
	VBL_SHARE,
	VBL_UNSHARE,
	VBL_LET_GO,
	VBL_END,
};

static const char *const vbl_names[] = {
	[VBL_OPEN] = "open a channel",
	[VBL_OPEN_SUBCHANNELS] = "open subchannels",
	[VBL_CLOSE] = "take rings back",
	[VBL_SHARE] = "establish a GPADL",
	[VBL_UNSHARE] = "tear down a GPADL",
	[VBL_LET_GO] = "tear down an older GPADL",
	[VBL_END] = "take memory back",
};

/* How long a wait goes without a look at what does not wake it. */
#define VBL_LOOK	(HZ / 10)

static LIST_HEAD(vbl_lines);
static DEFINE_MUTEX(vbl_lines_lock);
static struct workqueue_struct *vbl_workqueue;

static void vbl_put(struct vbl *line)
{
	if (!refcount_dec_and_test(&line->refs))
		return;
	put_device(&line->dev->device);
	kfree_rcu(line, rcu);
	/* The worker's last steps: vbl_exit() waits for them. */
	module_put(THIS_MODULE);
}

static int vbl_do_open_subchannels(struct vbl *line)
{
	int ret = 0;
	u32 i;

	for (i = 1; !ret && i < line->channels_wanted; i++) {
		if (READ_ONCE(line->silent))
			return -ENODEV;
		ret = vbl_subchannel_open(line, i);
	}
	return ret;
}

/*
 * Any driver may have the device again, if root has not said otherwise meanwhile. Nobody
 * who has its lock waits for us. The line is in the list until we have the lock: else who
 * has it now could begin another, and take our mark for what said before who may.
 */
static void vbl_unkeep(struct vbl *line)
{
	char *name;

	device_lock(&line->dev->device);
	name = portal_vmbus_overridden(line->dev);
	if (name && !strcmp(name, VBP_NAME))
		portal_vmbus_override(line->dev, line->override);
	mutex_lock(&vbl_lines_lock);
	list_del(&line->node);
	mutex_unlock(&vbl_lines_lock);
	device_unlock(&line->dev->device);
	kfree(name);
	kfree(line->override);
}

static void vbl_leave(struct vbl *line)
{
	bool kept;

	mutex_lock(&vbl_lines_lock);
	kept = line->kept;
	if (!kept)
		list_del(&line->node);
	mutex_unlock(&vbl_lines_lock);
	if (kept)
		vbl_unkeep(line);
}

/* Everything goes: the owner has gone. */
static void vbl_do_end(struct vbl *line)
{
	struct vbl_memory *m = line->last;

	if (m && !line->exposed)
		vbl_memory_unshare(line, m);
	vbl_channels_close(line);
	if (m)
		vbl_memory_end(line->dev, m, line->exposed);
	vbl_overdue_reap();
	vbl_leave(line);
	if (line->silent)
		dev_info(&line->dev->device, "the host has answered after all: the line to it is closed\n");
}

static int vbl_do(struct vbl *line, unsigned int asked)
{
	switch (asked) {
	case VBL_OPEN:
		return vbl_channel_open(line, 0, vbl_primary(line));
	case VBL_OPEN_SUBCHANNELS:
		return vbl_do_open_subchannels(line);
	case VBL_CLOSE:
		vbl_channels_close(line);
		return 0;
	case VBL_SHARE:
		return vbl_memory_share(line, line->memory);
	case VBL_UNSHARE:
		vbl_memory_unshare(line, line->memory);
		return 0;
	case VBL_LET_GO:
		vbl_overdue_let_go(line);
		return 0;
	default:
		vbl_do_end(line);
		return 0;
	}
}

/* What was asked; and the end, if the owner had no patience and has gone meanwhile. */
static void vbl_work(struct work_struct *work)
{
	struct vbl *line = container_of(work, struct vbl, work);
	unsigned int asked = READ_ONCE(line->asked), next;

	for (;;) {
		int result = vbl_do(line, asked);

		spin_lock(&line->lock);
		next = line->ended && asked != VBL_END ? VBL_END : VBL_NOTHING;
		line->asked = next;
		line->result = result;
		if (!next)
			complete(&line->done);
		spin_unlock(&line->lock);
		if (!next)
			break;
		asked = next;
	}
	if (asked == VBL_END)
		vbl_put(line);
}

/* Nobody waits any more, if the worker has not ended this very moment. */
static bool vbl_give_up(struct vbl *line, const char *why)
{
	unsigned int asked;

	spin_lock(&line->lock);
	asked = line->asked;
	WRITE_ONCE(line->silent, asked);
	spin_unlock(&line->lock);
	if (asked)
		dev_warn(&line->dev->device, "%s to \"%s\": what it may still have is kept until it answers or takes the device away\n",
			 why, vbl_names[asked]);
	return asked;
}

/* Why the caller is not to wait any more, or 0. */
static int vbl_stopped(const bool *stop, bool killable)
{
	if ((stop && READ_ONCE(*stop)) || (killable && fatal_signal_pending(current)))
		return -ENODEV;
	/* Who sleeps here keeps the machine from sleeping. The signal restarts the call. */
	if (killable && freezing(current) && signal_pending(current))
		return -ERESTARTSYS;
	return 0;
}

/* Waits for the worker, which waits for the host. */
static int vbl_wait(struct vbl *line, const bool *stop, bool killable)
{
	unsigned int seen = READ_ONCE(line->answers), now;
	unsigned long began = jiffies, since = began;
	int stopped;

	while (!wait_for_completion_timeout(&line->done, VBL_LOOK)) {
		now = READ_ONCE(line->answers);
		if (now != seen)
			since = jiffies;
		seen = now;
		if (time_after(jiffies, since + line->terms.patience) ||
		    time_after(jiffies, began + VBL_SLOW * line->terms.patience)) {
			if (vbl_give_up(line, "the host does not answer"))
				return -ETIMEDOUT;
			continue;
		}
		stopped = vbl_stopped(stop, killable);
		if (stopped && vbl_give_up(line, "the host was not waited for"))
			return stopped;
	}
	return line->result;
}

static int vbl_ask(struct vbl *line, unsigned int what, const bool *stop, bool killable)
{
	if (line->silent)
		return -ETIMEDOUT;
	spin_lock(&line->lock);
	reinit_completion(&line->done);
	line->asked = what;
	spin_unlock(&line->lock);
	queue_work(vbl_workqueue, &line->work);
	return vbl_wait(line, stop, killable);
}

int vbl_open(struct vbl *line, u32 ring_size, const bool *stop)
{
	if (!line->silent)
		line->ring_size = ring_size;
	return vbl_ask(line, VBL_OPEN, stop, stop);
}
EXPORT_SYMBOL_GPL(vbl_open);

int vbl_open_subchannels(struct vbl *line, u32 channels)
{
	int ret;

	if (channels == 1)
		return 0;
	ret = vbl_find_subchannels(line, channels);
	line->channels_wanted = channels;
	return ret ? ret : vbl_ask(line, VBL_OPEN_SUBCHANNELS, NULL, false);
}
EXPORT_SYMBOL_GPL(vbl_open_subchannels);

int vbl_close(struct vbl *line)
{
	return vbl_ask(line, VBL_CLOSE, NULL, false);
}
EXPORT_SYMBOL_GPL(vbl_close);

int vbl_share(struct vbl *line, struct vbl_memory *m)
{
	if (!m)
		return 0;
	line->memory = m;
	return vbl_ask(line, VBL_SHARE, NULL, false);
}
EXPORT_SYMBOL_GPL(vbl_share);

int vbl_unshare(struct vbl *line, struct vbl_memory *m)
{
	if (!m)
		return 0;
	line->memory = m;
	return vbl_ask(line, VBL_UNSHARE, NULL, false);
}
EXPORT_SYMBOL_GPL(vbl_unshare);

int vbl_let_go(struct vbl *line)
{
	return vbl_ask(line, VBL_LET_GO, NULL, false);
}
EXPORT_SYMBOL_GPL(vbl_let_go);

bool vbl_silent(const struct vbl *line)
{
	return line->silent;
}
EXPORT_SYMBOL_GPL(vbl_silent);

bool vbl_owed(const struct hv_device *dev)
{
	struct vbl *line;
	bool owed = false;

	mutex_lock(&vbl_lines_lock);
	list_for_each_entry(line, &vbl_lines, node)
		owed |= READ_ONCE(line->ended) && READ_ONCE(line->silent) &&
			(!dev || line->dev == dev);
	mutex_unlock(&vbl_lines_lock);
	return owed;
}
EXPORT_SYMBOL_GPL(vbl_owed);

/*
 * Another driver would find a channel half open, and take its rings for its own, or lose
 * its own to us.
 */
void vbl_keep(struct hv_device *dev)
{
	struct vbl *line;

	mutex_lock(&vbl_lines_lock);
	list_for_each_entry(line, &vbl_lines, node) {
		if (line->dev != dev || line->kept)
			continue;
		line->kept = true;
		line->override = portal_vmbus_overridden(dev);
		portal_vmbus_override(dev, VBP_NAME);
	}
	mutex_unlock(&vbl_lines_lock);
}
EXPORT_SYMBOL_GPL(vbl_keep);

struct vmbus_channel *vbl_channel(const struct vbl *line, u32 index)
{
	return line->channels[index].channel;
}
EXPORT_SYMBOL_GPL(vbl_channel);

const struct portal_rings *vbl_rings(const struct vbl *line, u32 index)
{
	return &line->channels[index].rings;
}
EXPORT_SYMBOL_GPL(vbl_rings);

static struct vbl *vbl_alloc(struct hv_device *dev, const struct vbl_terms *terms)
{
	struct vbl *line = kzalloc(sizeof(*line), GFP_KERNEL);
	u32 i;

	if (!line)
		return NULL;
	refcount_set(&line->refs, 2);
	line->dev = dev;
	line->terms = *terms;
	spin_lock_init(&line->signal_lock);
	spin_lock_init(&line->lock);
	init_completion(&line->done);
	INIT_WORK(&line->work, vbl_work);
	for (i = 0; i < ARRAY_SIZE(line->channels); i++) {
		line->channels[i].line = line;
		line->channels[i].index = i;
	}
	return line;
}

struct vbl *vbl_begin(struct hv_device *dev, const struct vbl_terms *terms)
{
	struct vbl *line = vbl_alloc(dev, terms), *other;

	if (!line)
		return ERR_PTR(-ENOMEM);
	mutex_lock(&vbl_lines_lock);
	list_for_each_entry(other, &vbl_lines, node) {
		if (other->dev != dev)
			continue;
		mutex_unlock(&vbl_lines_lock);
		kfree(line);
		dev_err(&dev->device, "the host still owes an answer to what it was asked before\n");
		return ERR_PTR(-EBUSY);
	}
	list_add(&line->node, &vbl_lines);
	mutex_unlock(&vbl_lines_lock);
	get_device(&dev->device);
	/* The caller's module has us by our symbols. */
	__module_get(THIS_MODULE);
	return line;
}
EXPORT_SYMBOL_GPL(vbl_begin);

void vbl_end(struct vbl *line, struct vbl_memory *m, bool exposed, const bool *stop)
{
	unsigned long flags;
	bool busy;

	spin_lock_irqsave(&line->signal_lock, flags);
	line->terms.signal = NULL;
	spin_unlock_irqrestore(&line->signal_lock, flags);

	spin_lock(&line->lock);
	/* Not before: the worker may just have finished what nobody waits for any more. */
	reinit_completion(&line->done);
	line->last = m;
	line->exposed = exposed;
	WRITE_ONCE(line->ended, true);
	busy = line->asked;
	if (!busy)
		line->asked = VBL_END;
	spin_unlock(&line->lock);
	if (!busy) {
		queue_work(vbl_workqueue, &line->work);
		/* Longer than that it does not concern the owner. */
		vbl_wait(line, stop, false);
	}
	vbl_put(line);
}
EXPORT_SYMBOL_GPL(vbl_end);

static int __init vbl_init(void)
{
	int ret;

	vbl_workqueue = alloc_workqueue("portal_vmbus", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!vbl_workqueue)
		return -ENOMEM;
	ret = vbl_hibernate_init();
	if (ret)
		destroy_workqueue(vbl_workqueue);
	return ret;
}
module_init(vbl_init);

/* There are no lines, and no memory is overdue: each of them holds the module. */
static void __exit vbl_exit(void)
{
	vbl_overdue_exit();
	vbl_hibernate_exit();
	destroy_workqueue(vbl_workqueue);
}
module_exit(vbl_exit);

MODULE_DESCRIPTION("Portals over VMBus: calls of the bus that a host may leave unanswered");
MODULE_LICENSE("GPL");
MODULE_VERSION(PORTAL_VERSION);
