// SPDX-License-Identifier: GPL-2.0-only
/*
 * This machine's row in a managed portal's tables: joining, leaving, heartbeat.
 *
 * Tables advertise; the truth is in struct portal_self, which nobody else can reach.
 * At each heartbeat what others have overwritten is put right. Three words are not
 * this machine's alone: claim, dead and suspect. From them it may learn that it lost its
 * row (portal_row_state()), and then it stores nothing to it any more.
 *
 * Lost: somebody declared this machine dead, or another machine has the row. While this
 * one stood still for a long time, say. Its sessions are over, and what its processes
 * reached through the files of these is taken away; then it joins anew, as a new life.
 *
 * self.lock is held by all of this, and self.reach says whether the region may be
 * touched and the transport be called: from portal_add() to portal_remove(), but not
 * during a pause. Both wait for the lock before they let the transport go on.
 *
 * One store of a machine that was stopped right before it, and continued when its row was
 * another's, nobody can prevent; that other machine puts it right.
 */
#include <linux/atomic.h>
#include <linux/ctype.h>
#include <linux/dev_printk.h>
#include <linux/dmi.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/utsname.h>
#include <linux/uuid.h>
#include <linux/workqueue.h>

#include "core.h"
#include "trace.h"

#define PORTAL_HEARTBEAT_MIN	100
#define PORTAL_HEARTBEAT_MAX	60000

static unsigned int heartbeat_ms = 1000;

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
	heartbeat_ms = ms;
	return 0;
}

static const struct kernel_param_ops portal_heartbeat_ops = {
	.set = portal_set_heartbeat,
	.get = param_get_uint,
};

module_param_cb(heartbeat_ms, &portal_heartbeat_ops, &heartbeat_ms, 0444);
MODULE_PARM_DESC(heartbeat_ms, "milliseconds between two heartbeats in a managed portal, 100 to 60000, or 0 for none (default 1000)");

struct workqueue_struct *portal_wq;

/* Whoever has no heart looks at others' all the same. */
static unsigned long portal_beat_period(void)
{
	return max(msecs_to_jiffies(heartbeat_ms ?: 1000), 1UL);
}

/* ---- Words ----------------------------------------------------------------------- */

static u64 portal_life(u64 sequence, u32 state)
{
	return sequence << PORTAL_SLOT_BITS | state;
}

/* Whether a claim is one that a machine on this portal could make. */
bool portal_claim_valid(const struct portal *p, u64 claim)
{
	u64 most = p->max_peers ?: PORTAL_MAX_ADDRESSES;

	return lower_32_bits(claim) && upper_32_bits(claim) <= most;
}

/* A text for people: what is no printable ASCII becomes '?'. */
void portal_text_put(char *to, const char *from, size_t room)
{
	size_t i;

	strscpy_pad(to, from, room);
	for (i = 0; i < room && to[i]; i++) {
		if (!isascii(to[i]) || !isprint(to[i]))
			to[i] = '?';
	}
}

/* ---- The row ---------------------------------------------------------------------- */

enum portal_row_state {
	PORTAL_ROW_MINE,
	PORTAL_ROW_SPOILT,	/* the claim is overwritten with what nobody can have claimed */
	PORTAL_ROW_LOST,
};

/*
 * Whose the row is. Who took it did so because this claim had been proven dead, and
 * began a life there with a higher sequence, and may be dead already. A word that
 * cannot have come about like this is no machine's.
 */
static enum portal_row_state portal_row_look(struct portal *p)
{
	const struct portal_peer *at = portal_peer_at(p, p->self.slot);
	u64 dead = le64_to_cpu(READ_ONCE(at->dead)), claim, life;

	if (dead == p->self.claim)
		return PORTAL_ROW_LOST;
	/* Acquire: whoever took the row began a life after its claim, and is seen below. */
	claim = le64_to_cpu(virt_load_acquire(&at->claim));
	if (claim == p->self.claim)
		return PORTAL_ROW_MINE;
	if (claim && !portal_claim_valid(p, claim))
		return PORTAL_ROW_SPOILT;
	life = le64_to_cpu(READ_ONCE(at->life));
	if (life >> PORTAL_SLOT_BITS > le64_to_cpu(p->self.row.life) >> PORTAL_SLOT_BITS)
		return PORTAL_ROW_LOST;
	return claim && claim == dead ? PORTAL_ROW_LOST : PORTAL_ROW_SPOILT;
}

/* Whether stores to this machine's rows are its own business now. */
bool portal_row_mine(struct portal *p)
{
	return p->self.reach && p->self.joined && portal_row_look(p) == PORTAL_ROW_MINE;
}

/* After every change that others are to see. They are told soon, all at once. */
void portal_row_changed(struct portal *p)
{
	struct portal_self *self = &p->self;

	le64_add_cpu(&self->row.changes, 1);
	if (portal_row_mine(p)) {
		/* Release: what changed is seen by whoever sees the count. */
		virt_store_release(&portal_peer_at(p, self->slot)->changes, self->row.changes);
	}
	self->ring = true;
	portal_look_soon(p);
}

static void portal_row_live(struct portal *p, u32 state)
{
	struct portal_peer *at = portal_peer_at(p, p->self.slot);
	u64 sequence = le64_to_cpu(p->self.row.life) >> PORTAL_SLOT_BITS;

	p->self.row.life = cpu_to_le64(portal_life(sequence, state));
	/* Release: what was stored before belongs to this life. Pairs with readers' acquire. */
	virt_store_release(&at->life, p->self.row.life);
}

/* From the incarnation on to the changes: what lies between is the machine's alone. */
static unsigned int portal_row_put(struct portal *p)
{
	const size_t from = offsetof(struct portal_peer, incarnation);
	const size_t to = offsetofend(struct portal_peer, changes);

	return portal_words_put((u8 *)portal_peer_at(p, p->self.slot) + from,
				(u8 *)&p->self.row + from, to - from);
}

static void portal_row_fill(struct portal *p)
{
	const char *uuid = dmi_get_system_info(DMI_PRODUCT_UUID);
	struct portal_peer *row = &p->self.row;
	char name[__NEW_UTS_LEN + 1];
	u64 incarnation;
	uuid_t machine;

	do {
		get_random_bytes(&incarnation, sizeof(incarnation));
	} while (!incarnation);
	row->incarnation = cpu_to_le64(incarnation);
	row->kind = cpu_to_le32(PORTAL_PEER_GUEST);
	row->vectors = cpu_to_le32(p->nr_vectors);
	row->notice = cpu_to_le32(p->nr_vectors ? p->nr_vectors - 1 : PORTAL_VECTOR_NONE);
	row->heartbeat_ms = cpu_to_le32(heartbeat_ms);
	row->joined = cpu_to_le64(ktime_get_real_ns());
	if (uuid && !uuid_parse(uuid, &machine))
		export_uuid(row->machine, &machine);
	strscpy(name, init_utsname()->nodename, sizeof(name));
	portal_text_put(row->name, name, sizeof(row->name));
}

/* A new life in the row that this machine has, with sessions as they are. */
static void portal_row_begin(struct portal *p)
{
	struct portal_peer *at = portal_peer_at(p, p->self.slot);
	u64 sequence = le64_to_cpu(p->self.row.life) >> PORTAL_SLOT_BITS;

	portal_row_fill(p);
	p->self.row.life = cpu_to_le64(portal_life(sequence + 1, PORTAL_LIFE_JOINING));
	WRITE_ONCE(at->life, p->self.row.life);
	/* Pairs with the acquire fence before a reader's second look at life. */
	virt_wmb();
	portal_row_put(p);
	portal_sessions_put(p, 0, p->self.layout.sessions);
	portal_row_live(p, PORTAL_LIFE_ALIVE);
	WRITE_ONCE(p->self.notice, le32_to_cpu(p->self.row.notice));
	portal_row_changed(p);
}

/* ---- Joining and leaving ------------------------------------------------------------ */

/* Whether @slot may be claimed. With @own: only if it was this machine's, by its address. */
static bool portal_slot_free(const struct portal *p, u32 slot, bool own, u64 *claim)
{
	const struct portal_peer *at = portal_peer_at(p, slot);
	u64 address = p->self.address == PORTAL_PEER_NONE ? 0 : p->self.address + 1ULL;

	*claim = le64_to_cpu(READ_ONCE(at->claim));
	if (le64_to_cpu(READ_ONCE(at->life)) >> PORTAL_SLOT_BITS >= PORTAL_SEQUENCE_MAX)
		return false;
	if (own)
		return address && *claim >> 32 == address;
	return !*claim || *claim == le64_to_cpu(READ_ONCE(at->dead));
}

/* Slot 0 is the host's. False: there is none. */
static bool portal_slot_claim(struct portal *p, bool own)
{
	struct portal_self *self = &p->self;
	u32 address = self->address == PORTAL_PEER_NONE ? 0 : self->address + 1, random, slot;
	u64 claim, mine;

	do {
		random = get_random_u32();
	} while (!random);
	mine = (u64)address << 32 | random;
	for (slot = 1; slot < self->layout.peers; slot++) {
		if (!portal_slot_free(p, slot, own, &claim) ||
		    !portal_compat_cas64(&portal_peer_at(p, slot)->claim, cpu_to_le64(claim),
					 cpu_to_le64(mine)))
			continue;
		self->slot = slot;
		self->claim = mine;
		return true;
	}
	return false;
}

/*
 * What the slot says of itself is where its sequences go on, unless this machine had the
 * same one before and knows better.
 */
static void portal_slot_adopt(struct portal *p)
{
	struct portal_self *self = &p->self;
	bool again = self->slot == self->last_slot;
	u64 life = le64_to_cpu(READ_ONCE(portal_peer_at(p, self->slot)->life));
	u64 known = again ? le64_to_cpu(self->row.life) : 0;

	memset(&self->row, 0, sizeof(self->row));
	self->row.life = cpu_to_le64(max(life, known));
	self->row.heartbeat = READ_ONCE(portal_peer_at(p, self->slot)->heartbeat);
	self->row.changes = READ_ONCE(portal_peer_at(p, self->slot)->changes);
	portal_sessions_adopt(p, again);
	self->last_slot = self->slot;
}

/* Nothing is given back if it fails: the next beat tries again. */
static void portal_join(struct portal *p)
{
	struct portal_self *self = &p->self;

	self->address = portal_peer_id(p);
	if (!portal_slot_claim(p, true) && !portal_slot_claim(p, false)) {
		if (!self->full)
			dev_warn_ratelimited(portal_where(p),
					     "no free slot among %u: no process of this machine can have a session; 'portalctl fence' frees those of machines that are no more\n",
					      self->layout.peers - 1);
		self->full = true;
		return;
	}
	self->full = false;
	portal_slot_adopt(p);
	self->joined = true;
	portal_row_begin(p);
}

/* A managed portal, whose tables nobody has looked at yet. */
void portal_self_start(struct portal *p, const struct portal_layout *layout)
{
	struct portal_self *self = &p->self;

	self->layout = *layout;
	self->last_slot = 0;
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

/* The row says what is true: nobody is here any more, and the slot is free. It is mine. */
static void portal_row_end(struct portal *p)
{
	struct portal_peer *at = portal_peer_at(p, p->self.slot);

	portal_row_live(p, PORTAL_LIFE_DEAD);
	portal_row_changed(p);
	/* Not a store: nobody else's claim is to be undone. */
	portal_compat_cas64(&at->claim, cpu_to_le64(p->self.claim), 0);
}

/* No store to the row from here on, and no process has a session. */
static void portal_self_forget(struct portal *p)
{
	p->self.joined = false;
	WRITE_ONCE(p->self.notice, PORTAL_VECTOR_NONE);
	portal_sessions_end(p);
}

/* Mappings that matter have been revoked. Tables are looked at no more. */
void portal_self_leave(struct portal *p)
{
	struct portal_self *self = &p->self;
	bool mine = portal_row_mine(p);

	portal_sessions_end(p);
	if (mine) {
		portal_row_end(p);
		portal_ring_all(p);
	}
	portal_self_forget(p);
	portal_sessions_free(p);
	portal_watch_free(p);
	self->error = -ENODATA;
}

/* ---- Heartbeat ---------------------------------------------------------------------- */

/*
 * The row is another's, or nobody's: sessions are over, unsaid, and the files that had
 * them reach nothing any more. Lets go of the lock for a while, when nothing of the old life
 * is left that a beat, which alone joins anew, could meet.
 */
static void portal_lost(struct portal *p)
{
	struct portal_self *self = &p->self;

	dev_warn_ratelimited(portal_where(p),
			     "slot %u was declared dead, or taken: all sessions are over, and this machine joins anew\n",
			     self->slot);
	trace_portal_lost(p->number, self->slot, self->claim);
	portal_sessions_stale(p);
	portal_self_forget(p);

	/* Faults that did not see that are over when the write lock was had. Then zap. */
	mutex_unlock(&self->lock);
	down_write(&p->lock);
	up_write(&p->lock);
	portal_zap(p);
	mutex_lock(&self->lock);
	portal_changed(p, 1);
}

/* Each word that is not as it must be is stored again; a word to whoever administers. */
static void portal_put_right(struct portal *p, bool spoilt)
{
	struct portal_self *self = &p->self;
	struct portal_peer *at = portal_peer_at(p, self->slot);
	unsigned int n = 0;

	if (spoilt) {
		u64 claim = le64_to_cpu(READ_ONCE(at->claim));

		/* Whoever is faster is heard at the next beat. */
		n += portal_compat_cas64(&at->claim, cpu_to_le64(claim),
					 cpu_to_le64(self->claim));
		if (!n)
			return;
	}
	n += portal_words_put(&at->life, &self->row.life, sizeof(at->life));
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

static void portal_beat(struct portal *p)
{
	struct portal_self *self = &p->self;
	enum portal_row_state state = PORTAL_ROW_LOST;

	if (self->joined) {
		state = portal_row_look(p);
		if (state == PORTAL_ROW_LOST)
			portal_lost(p);
	}
	/* Which let go of the lock. Joining at beats only, however often it is lost. */
	if (!self->joined && self->reach && !self->error)
		portal_join(p);
	if (state == PORTAL_ROW_LOST)
		return;
	portal_sessions_idle(p);
	portal_put_right(p, state == PORTAL_ROW_SPOILT);
	if (!heartbeat_ms || !portal_row_mine(p))
		return;
	le64_add_cpu(&self->row.heartbeat, 1);
	WRITE_ONCE(portal_peer_at(p, self->slot)->heartbeat, self->row.heartbeat);
}

static void portal_beat_work(struct work_struct *work)
{
	struct portal *p = container_of(to_delayed_work(work), struct portal, self.beat);

	mutex_lock(&p->self.lock);
	if (p->self.reach && !p->self.error) {
		queue_delayed_work(portal_wq, &p->self.beat, portal_beat_period());
		portal_beat(p);
		/* portal_lost() let go of the lock. */
		if (p->self.reach && !p->self.error)
			portal_look(p, true);
	}
	mutex_unlock(&p->self.lock);
}

/* When somebody rang, or something of this machine's has changed. The next beat joins anew. */
static void portal_look_work(struct work_struct *work)
{
	struct portal *p = container_of(to_delayed_work(work), struct portal, self.look);

	mutex_lock(&p->self.lock);
	if (p->self.reach && !p->self.error && p->self.joined &&
	    portal_row_look(p) == PORTAL_ROW_LOST)
		portal_lost(p);
	if (p->self.reach && !p->self.error)
		portal_look(p, false);
	mutex_unlock(&p->self.lock);
}

/* ---- With the portal's own life -------------------------------------------------------- */

void portal_self_init(struct portal *p)
{
	struct portal_self *self = &p->self;

	mutex_init(&self->lock);
	INIT_LIST_HEAD(&self->processes);
	INIT_DELAYED_WORK(&self->beat, portal_beat_work);
	INIT_DELAYED_WORK(&self->look, portal_look_work);
	self->error = -ENODATA;
	self->notice = PORTAL_VECTOR_NONE;
	/* Not 0, which may lie ahead: jiffies begin below it. */
	self->next_look = jiffies;
	/* Files begin with it; one that has another is from before. */
	p->epoch = 1;
}

/* Nobody has the portal any more; a ring that came late may have left work behind. */
void portal_self_exit(struct portal *p)
{
	cancel_delayed_work_sync(&p->self.beat);
	cancel_delayed_work_sync(&p->self.look);
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
		/* A pause or the end has begun, and will be seen in a moment. */
		mutex_unlock(&p->self.lock);
		cond_resched();
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
	WRITE_ONCE(p->epoch, p->epoch + 1);
	portal_mode_found(p, ret, layout);
}

/* Nothing is mapped, and the portal is still paused. */
void portal_self_resume(struct portal *p)
{
	struct portal_self *self = &p->self;
	struct portal_layout layout = { };
	bool mine;
	int ret;

	mutex_lock(&self->lock);
	self->reach = true;
	if (self->error)
		goto out;
	ret = portal_layout_read(p, &layout);
	if (ret || memcmp(&layout, &self->layout, sizeof(layout))) {
		portal_self_elsewhere(p, ret, &layout);
		goto out;
	}
	portal_watch_reset(p);
	mine = portal_row_mine(p);
	if (mine && portal_peer_id(p) == self->address) {
		portal_row_begin(p);
	} else {
		portal_sessions_stale(p);
		portal_sessions_end(p);
		if (mine)
			portal_row_end(p);
		portal_self_forget(p);
		portal_join(p);
	}
	queue_delayed_work(portal_wq, &self->beat, portal_beat_period());
out:
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
