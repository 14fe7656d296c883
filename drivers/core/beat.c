// SPDX-License-Identifier: GPL-2.0-only
/*
 * The heartbeat of this machine in a managed portal: what others did to its rows is put
 * right, and that the row was lost is found out.
 */
#include <linux/dev_printk.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/workqueue.h>

#include "core.h"
#include "trace.h"

#define PORTAL_HEARTBEAT_MIN	100
#define PORTAL_HEARTBEAT_MAX	60000

unsigned int portal_heartbeat_ms = 1000;

static int portal_set_heartbeat(const char *text, const struct kernel_param *kp)
{
	unsigned int ms;
	int ret = kstrtouint(text, 0, &ms);

	if (ret)
		return ret;
	if (ms && (ms < PORTAL_HEARTBEAT_MIN || ms > PORTAL_HEARTBEAT_MAX)) {
		pr_err("portal: heartbeat_ms=%u: give %u to %u, or 0 for none\n", ms,
		       PORTAL_HEARTBEAT_MIN, PORTAL_HEARTBEAT_MAX);
		return -EINVAL;
	}
	portal_heartbeat_ms = ms;
	return 0;
}

static const struct kernel_param_ops portal_heartbeat_ops = {
	.set = portal_set_heartbeat,
	.get = param_get_uint,
};

module_param_cb(heartbeat_ms, &portal_heartbeat_ops, &portal_heartbeat_ms, 0444);
MODULE_PARM_DESC(heartbeat_ms, "milliseconds between two heartbeats in a managed portal, 100 to 60000, or 0 for none (default 1000)");

/* Whoever has no heart looks at others' all the same. */
unsigned long portal_beat_period(void)
{
	return max(msecs_to_jiffies(portal_heartbeat_ms ?: 1000), 1UL);
}

/*
 * Mappings of files that reach nothing any more are taken away, and whoever watches is woken.
 * Lets go of the lock for a while; nothing of the old life may be left that a beat, which
 * alone joins anew, could meet. The write lock waits for callbacks, none of which waits long:
 * flushes have a lock of their own.
 */
void portal_take_away(struct portal *p)
{
	struct portal_self *self = &p->self;

	/* Faults that did not see that are over when the write lock was had. Then zap. */
	self->zapping++;
	mutex_unlock(&self->lock);
	down_write(&p->lock);
	up_write(&p->lock);
	portal_zap(p);
	mutex_lock(&self->lock);
	self->zapping--;
	portal_changed(p, 1);
}

/*
 * The row is another's, or nobody's: sessions are over, unsaid, and the files that had
 * them reach nothing any more. Lets go of the lock for a while.
 */
void portal_lost(struct portal *p, const char *why)
{
	struct portal_self *self = &p->self;

	dev_warn_ratelimited(portal_where(p),
			     "slot %u %s: all sessions are over, and this machine joins anew\n",
			     self->slot, why);
	trace_portal_lost(p->number, self->slot, self->claim);
	portal_sessions_stale(p);
	portal_self_forget(p);
	/* What was heard there was this machine's own heart. */
	portal_watch_reset(p, self->slot);
	portal_take_away(p);
}

/*
 * Each word that is not as it must be is stored again; a word to whoever administers. @claim:
 * what stood in the row when it was judged; not ours: that is overwritten, and nothing that
 * came later.
 */
static void portal_put_right(struct portal *p, u64 claim)
{
	struct portal_self *self = &p->self;
	struct portal_peer *at = portal_peer_at(p, self->slot);
	unsigned int n = 0;

	if (claim != self->claim) {
		/* Whoever is faster is heard at the next beat. */
		n += portal_word_swap(p, &at->claim, cpu_to_le64(claim),
				      cpu_to_le64(self->claim));
		if (!n)
			return;
		/* Ends of sessions could not be said meanwhile: of any. */
		n += portal_sessions_put(p, 0, self->layout.sessions);
	}
	if (READ_ONCE(at->life) != self->row.life) {
		if (!portal_life_put(p, &at->life, le64_to_cpu(self->row.life),
				     le64_to_cpu(self->row.life)))
			return;
		n++;
	}
	n += portal_row_put(p);
	n += portal_sessions_put(p, self->next_row, PORTAL_ROWS_A_BEAT);
	self->next_row += PORTAL_ROWS_A_BEAT;
	if (self->next_row >= self->layout.sessions)
		self->next_row = 0;
	if (!n)
		return;
	dev_warn_ratelimited(portal_where(p),
			     "another machine overwrote %u words of this machine's rows; put right\n",
			     n);
	trace_portal_repair(p->number, self->slot, n);
	portal_changed(p, 1);
}

/*
 * Whether somebody else lives under this machine's claim: a copy of it, made while it ran,
 * or it itself before it was put back to an older state. No callback tells of these. A copy
 * that got another address shows by that; else by words that count on (portal_row_look() sees
 * the machine's own): each of the two finds what it did not store.
 */
static bool portal_row_doubled(struct portal *p)
{
	return portal_peer_id(p) != p->self.address ||
	       portal_sessions_ahead(p, p->self.next_row, PORTAL_ROWS_A_BEAT);
}

/* Why the row is lost; NULL: it is not. */
static const char *portal_row_why(struct portal *p, enum portal_row_state state)
{
	if (p->self.doubled)
		return "is another's, too (a copy, or itself of later)";
	return state == PORTAL_ROW_LOST ? "was declared dead, or taken" : NULL;
}

/*
 * Another machine's claim in this one's row may be of one that is about to begin a life
 * there, though nothing says why it may. So it is put right when there is one a beat later,
 * whichever.
 */
static bool portal_row_strange(struct portal *p, u64 claim)
{
	p->self.strange = !p->self.strange && portal_claim_valid(p, claim);
	return p->self.strange;
}

static void portal_beat(struct portal *p)
{
	struct portal_self *self = &p->self;
	enum portal_row_state state = PORTAL_ROW_LOST;
	const char *why;
	u64 claim = 0;

	if (self->joined) {
		state = portal_row_look(p, &claim);
		/* Before anything is put right, whatever became of the claim. */
		if (state != PORTAL_ROW_LOST && portal_row_doubled(p)) {
			self->doubled = true;
			state = PORTAL_ROW_LOST;
		}
		why = portal_row_why(p, state);
		if (why)
			portal_lost(p, why);
	}
	/* Which let go of the lock. Joining at beats only, however often it is lost. */
	if (!self->joined && self->reach && !self->error)
		portal_join(p);
	if (state == PORTAL_ROW_LOST)
		return;
	portal_sessions_idle(p);
	if (state == PORTAL_ROW_MINE)
		self->strange = false;
	else if (portal_row_strange(p, claim))
		return;
	portal_put_right(p, claim);
	if (!portal_heartbeat_ms || !portal_row_mine(p))
		return;
	le64_add_cpu(&self->row.heartbeat, 1);
	WRITE_ONCE(portal_peer_at(p, self->slot)->heartbeat, self->row.heartbeat);
}

void portal_beat_work(struct work_struct *work)
{
	struct portal *p = container_of(to_delayed_work(work), struct portal, self.beat);

	mutex_lock(&p->self.lock);
	/* What is spoilt now may be good then. */
	p->self.spoilt = 0;
	p->self.nr_spoilt = 0;
	if (p->self.reach && !p->self.error && !portal_self_formatted(p)) {
		queue_delayed_work(portal_wq, &p->self.beat, portal_beat_period());
		portal_beat(p);
		/* portal_lost() let go of the lock. */
		if (p->self.reach && !p->self.error && !portal_layout_gone(p))
			portal_look(p, true);
	}
	mutex_unlock(&p->self.lock);
}

/* When somebody rang, or something of this machine's has changed. The next beat joins anew. */
void portal_look_work(struct work_struct *work)
{
	struct portal *p = container_of(to_delayed_work(work), struct portal, self.look);
	const char *why = NULL;
	u64 claim;

	mutex_lock(&p->self.lock);
	if (p->self.reach && !p->self.error && !portal_self_formatted(p) && p->self.joined)
		why = portal_row_why(p, portal_row_look(p, &claim));
	if (why)
		portal_lost(p, why);
	if (p->self.reach && !p->self.error && !portal_layout_gone(p))
		portal_look(p, false);
	mutex_unlock(&p->self.lock);
}
