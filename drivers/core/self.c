// SPDX-License-Identifier: GPL-2.0-only
/*
 * This machine's part in a managed portal, along with the portal's own life: when it
 * begins and ends, sleeps and wakes up, and turns out to be a copy.
 */
#include <linux/dev_printk.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/workqueue.h>

#include "core.h"
#include "trace.h"

struct workqueue_struct *portal_wq;

/* A managed portal, whose tables nobody has looked at yet. */
void portal_self_start(struct portal *p, const struct portal_layout *layout)
{
	struct portal_self *self = &p->self;

	self->layout = *layout;
	self->last_slot = 0;
	self->spoilt = 0;
	self->full = false;
	self->error = portal_compat_mm_ends() && IS_ENABLED(CONFIG_64BIT) &&
		      portal_layout_mapped(p, layout) ? 0 : -EOPNOTSUPP;
	if (!self->error)
		self->error = portal_sessions_alloc(p) ?: portal_watch_alloc(p);
	if (self->error) {
		dev_warn(portal_where(p), "managed, but this machine takes no part (%d)\n",
			 self->error);
		return;
	}
	portal_join(p);
	queue_delayed_work(portal_wq, &self->beat, portal_beat_period());
}

/* No store to the row from here on, and no process has a session. */
void portal_self_forget(struct portal *p)
{
	p->self.joined = false;
	WRITE_ONCE(p->self.notice, PORTAL_VECTOR_NONE);
	portal_sessions_end(p);
}

/* Mappings that matter have been revoked. Tables are looked at no more. */
void portal_self_leave(struct portal *p)
{
	struct portal_self *self = &p->self;

	portal_sessions_end(p);
	if (portal_row_mine(p)) {
		portal_row_end(p);
		portal_ring_all(p);
	}
	portal_self_forget(p);
	portal_sessions_free(p);
	portal_watch_free(p);
	self->error = -ENODATA;
}

void portal_self_init(struct portal *p)
{
	struct portal_self *self = &p->self;

	mutex_init(&self->lock);
	hash_init(self->mms);
	INIT_LIST_HEAD(&self->processes);
	INIT_DELAYED_WORK(&self->beat, portal_beat_work);
	INIT_DELAYED_WORK(&self->look, portal_look_work);
	INIT_DELAYED_WORK(&self->tell, portal_tell_work);
	self->error = -ENODATA;
	self->notice = PORTAL_VECTOR_NONE;
	/* Not 0, which may lie ahead: jiffies begin below it. */
	self->next_look = jiffies;
	self->next_windows = jiffies;
	/* Files begin with it; one that has another is from before. */
	p->epoch = 1;
}

/* Nobody has the portal any more; a ring that came late may have left work behind. */
void portal_self_exit(struct portal *p)
{
	cancel_delayed_work_sync(&p->self.beat);
	cancel_delayed_work_sync(&p->self.look);
	cancel_delayed_work_sync(&p->self.tell);
	portal_sessions_free(p);
	portal_watch_free(p);
}

/**
 * portal_self_lock() - take self.lock, with the region in reach
 * @p: the portal
 *
 * For system calls: waits for the end of a pause. Returns 0, -ENODEV, or -ERESTARTSYS.
 */
int portal_self_lock(struct portal *p)
{
	int ret;

	for (;;) {
		ret = portal_enter(p);
		if (ret)
			return ret;
		portal_leave(p);
		mutex_lock(&p->self.lock);
		if (p->self.reach)
			return 0;
		/*
		 * A pause or the end has begun, and will be seen in a moment. Not by
		 * cond_resched(): whoever is to make it seen may have a lower priority.
		 */
		mutex_unlock(&p->self.lock);
		schedule_timeout_interruptible(1);
		if (signal_pending(current))
			return -ERESTARTSYS;
	}
}

void portal_self_unlock(struct portal *p)
{
	mutex_unlock(&p->self.lock);
}

/* For ever. Mappings have been revoked. The row is not touched during a pause: it says so. */
void portal_self_remove(struct portal *p)
{
	mutex_lock(&p->self.lock);
	portal_self_leave(p);
	p->self.reach = false;
	mutex_unlock(&p->self.lock);
}

void portal_self_pause(struct portal *p)
{
	mutex_lock(&p->self.lock);
	if (portal_row_mine(p)) {
		portal_row_live(p, PORTAL_LIFE_ASLEEP);
		portal_row_changed(p);
		portal_ring_all(p);
	}
	p->self.reach = false;
	mutex_unlock(&p->self.lock);
}

/*
 * Another region than before, after hibernation: what is mapped where was decided by the
 * old one. So no file of before reaches anything any more.
 */
static void portal_self_elsewhere(struct portal *p, int ret, const struct portal_layout *layout)
{
	dev_warn(portal_where(p), "another region than before the pause (%d): open it again\n",
		 ret);
	portal_self_forget(p);
	portal_self_leave(p);
	portal_mode_found(p, ret, layout);
	/* Only now: a file of this epoch is judged by this layout. */
	portal_mode_end_all(p);
	/* Who watches is to look: at another region, or that there is nothing to be seen. */
	portal_changed(p, 1);
}

/**
 * portal_self_formatted() - if the region was formatted anew, let go of it
 * @p: the portal, with self.lock held; it takes part
 *
 * Others did that, while this machine could not see it, or was not heard. Where its tables were
 * there is something else now, and so where its processes' objects were: no file of before
 * reaches anything any more. Lets go of the lock for a while then. The new tables are
 * taken when an administrator says so, as at any change of the mode, or after hibernation.
 */
bool portal_self_formatted(struct portal *p)
{
	if (!portal_layout_gone(p))
		return false;
	dev_warn(portal_where(p),
		 "the region was formatted anew: all sessions are over, and all of it is read-only; 'portalctl mode /dev/portal%d managed' takes the new tables\n",
		 p->number);
	trace_portal_lost(p->number, p->self.slot, p->self.claim);
	portal_self_forget(p);
	portal_self_leave(p);
	portal_mode_gone(p);
	/* Only now: a file of this epoch maps nothing writable. */
	portal_mode_end_all(p);
	portal_take_away(p);
	return true;
}

/* The region is the same. This machine's row may be another's all the same. */
static void portal_self_awake(struct portal *p)
{
	struct portal_self *self = &p->self;
	bool mine;
	u64 claim;

	mine = portal_row_claimed(p, &claim) == PORTAL_ROW_MINE && !self->doubled &&
	       portal_row_catch_up(p);
	if (mine && portal_peer_id(p) == self->address) {
		portal_row_begin(p);
		return;
	}
	dev_warn(portal_where(p),
		 "slot %u is this machine's no more: all sessions are over, and it joins anew\n",
		 self->slot);
	portal_sessions_stale(p);
	portal_sessions_end(p);
	/* Not if a copy may live there: that one's rows are not this one's to store. */
	if (portal_row_mine(p))
		portal_row_end(p);
	portal_self_forget(p);
	/* Who watches is to look, whether this machine joins now or never. */
	portal_changed(p, 1);
	portal_join(p);
}

/* Whether the superblock, of which @ret and @layout tell, is another than before. */
static bool portal_layout_differs(const struct portal_self *self, int ret,
				  const struct portal_layout *layout)
{
	if (!self->layout.protected_size)
		return ret != self->said;
	return ret || memcmp(layout, &self->layout, sizeof(*layout));
}

/*
 * Nothing is mapped, and the portal is still paused. Of a raw portal, and of one whose
 * superblock cannot be relied on, little says whether the region is the same: that there is a
 * good superblock now, or none. That counts where the machine was down meanwhile, and may have
 * got any region; else such portals stay what they are.
 */
void portal_self_resume(struct portal *p)
{
	struct portal_self *self = &p->self;
	struct portal_layout layout = { };
	int ret;

	mutex_lock(&self->lock);
	/* Revoked meanwhile: for ever. */
	if (portal_is_dead(p))
		goto out;
	self->reach = true;
	if (!self->layout.protected_size && !portal_hibernates())
		goto out;
	ret = portal_layout_read(p, &layout);
	/* No room to look: then this machine takes no part, and has nothing to lose. */
	if (ret == -ENOMEM)
		goto out;
	if (portal_layout_differs(self, ret, &layout)) {
		portal_self_elsewhere(p, ret, &layout);
		goto out;
	}
	if (self->error)
		goto out;
	portal_watch_reset_all(p);
	/* A copy that was made while it slept is not joined. */
	if (self->joined)
		portal_self_awake(p);
	else
		portal_join(p);
	queue_delayed_work(portal_wq, &self->beat, portal_beat_period());
out:
	mutex_unlock(&self->lock);
}

/*
 * The hypervisor says that this machine was copied, or put back to an older state: another one
 * may live under the same claim, and give the same tokens. So this one has a new life.
 */
void portal_self_copied(struct portal *p)
{
	struct portal_self *self = &p->self;

	mutex_lock(&self->lock);
	if (self->joined && self->reach) {
		portal_lost(p, "is another's, too: this machine was copied");
	} else if (self->joined) {
		portal_sessions_stale(p);
		portal_self_forget(p);
		portal_changed(p, 1);
	}
	mutex_unlock(&self->lock);
}

/*
 * Another kernel goes on in this one's place, with a row of its own: this one's would be
 * nobody's for ever. It joins no more, unless that comes to nothing.
 */
void portal_self_give_way(struct portal *p)
{
	struct portal_self *self = &p->self;
	struct portal_layout layout;
	u64 claim;

	mutex_lock(&self->lock);
	if (portal_row_mine(p)) {
		layout = self->layout;
		portal_lost(p, "is given up for that of the image");
		/* Nothing has joined meanwhile: slot and claim are of these tables, if any. */
		if (self->reach && !self->error &&
		    !memcmp(&layout, &self->layout, sizeof(layout)) &&
		    portal_row_look(p, &claim) == PORTAL_ROW_MINE)
			portal_row_end(p);
	}
	mutex_unlock(&self->lock);
}

int __init portal_self_module_init(void)
{
	portal_wq = alloc_workqueue("portal", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	return portal_wq ? 0 : -ENOMEM;
}

void portal_self_module_exit(void)
{
	destroy_workqueue(portal_wq);
	portal_sessions_module_exit();
}
