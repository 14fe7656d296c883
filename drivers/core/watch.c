// SPDX-License-Identifier: GPL-2.0-only
/*
 * Other machines' rows in a managed portal's tables: what changed, who is silent, who is to
 * be told; and the verdicts that this machine passes.
 *
 * Nothing here believes a row, beyond what an administrator's word or a clock of our own
 * says: rows are looked at, and whoever watches is woken when they differ from the last
 * look. A look is one pass over the table: at each heartbeat, and besides, when somebody
 * rang the notice vector, not before a while has passed since the last look of either kind
 * (portal_self.next_look). So neither rings nor rows that never stand still make more than
 * so many looks, wake-ups and rings a second. In one round each address is rung once,
 * whatever rows say. Windows, whose holders put as many waiters there as they like, are woken
 * more seldom.
 *
 * All under self.lock, with the region in reach.
 */
#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/workqueue.h>

#include "core.h"

/* Between two looks, at least; and a millisecond more for each so many rings. */
#define PORTAL_LOOK_MS		20
#define PORTAL_RINGS_A_MS	8

/* A heart that stood still for so many of its beats, and of our looks, is silent. */
#define PORTAL_SILENT_BEATS	3
#define PORTAL_SILENT_LOOKS	2
/* We look once in a beat of our own; two clocks differ by less than this part of that. */
#define PORTAL_CLOCKS_DIFFER	8

/* Between two times that windows are woken. */
#define PORTAL_WINDOWS_MS	100

/* How often a verdict is tried that others' keep from being stored. */
#define PORTAL_VERDICT_TRIES	16

/* What heartbeat_ms may say; others have no heart. */
#define PORTAL_HEART_MIN_MS	10
#define PORTAL_HEART_MAX_MS	60000

/**
 * struct portal_seen - what the last look found in a row
 * @claim: and the next five: words of the row
 * @dead: who was proven dead
 * @suspect: who is under suspicion
 * @life: what it says of itself
 * @changes: what it counts
 * @heartbeat: and this
 * @since: when the heart was seen to beat last, by our clock
 * @looks: beats of our own since
 * @beats: it was seen to beat under this claim
 */
struct portal_seen {
	u64 claim;
	u64 dead;
	u64 suspect;
	u64 life;
	u64 changes;
	u64 heartbeat;
	u64 since;
	u32 looks;
	bool beats;
};

int portal_watch_alloc(struct portal *p)
{
	struct portal_self *self = &p->self;

	self->seen = kvcalloc(self->layout.peers, sizeof(*self->seen), GFP_KERNEL);
	self->rung = kvcalloc(BITS_TO_LONGS(PORTAL_MAX_ADDRESSES), sizeof(long), GFP_KERNEL);
	if (self->seen && self->rung)
		return 0;
	portal_watch_free(p);
	return -ENOMEM;
}

void portal_watch_free(struct portal *p)
{
	kvfree(p->self.seen);
	kvfree(p->self.rung);
	p->self.seen = NULL;
	p->self.rung = NULL;
}

/* What was heard of this row's heart is of no account; it is listened to from now on. */
void portal_watch_reset(struct portal *p, u32 slot)
{
	struct portal_seen *s = &p->self.seen[slot];

	s->since = ktime_get_ns();
	s->looks = 0;
	s->beats = false;
}

/* Nobody's silence is counted from before: this machine was not there to hear. */
void portal_watch_reset_all(struct portal *p)
{
	u32 slot;

	for (slot = 0; slot < p->self.layout.peers; slot++)
		portal_watch_reset(p, slot);
}

/* Any context but NMI. */
void portal_look_soon(struct portal *p)
{
	unsigned long now = jiffies, next = READ_ONCE(p->self.next_look);

	queue_delayed_work(portal_wq, &p->self.look,
			   time_before(now, next) ? next - now : 0);
}

/* What windows have not been told of: now, or when that is due. */
static void portal_tell_windows(struct portal *p)
{
	struct portal_self *self = &p->self;
	unsigned long now = jiffies;

	if (!self->windows_due)
		return;
	if (time_before(now, self->next_windows)) {
		queue_delayed_work(portal_wq, &self->tell, self->next_windows - now);
		return;
	}
	self->windows_due = false;
	/* Pairs with the barrier in portal_poll(), and that of portal_window_wait(). */
	if (!wq_has_sleeper(&p->windows))
		return;
	self->next_windows = now + msecs_to_jiffies(PORTAL_WINDOWS_MS);
	wake_up_interruptible_poll(&p->windows, EPOLLPRI);
}

/* Not by the next look: that must not be put off for it. */
void portal_tell_work(struct work_struct *work)
{
	struct portal *p = container_of(to_delayed_work(work), struct portal, self.tell);

	mutex_lock(&p->self.lock);
	portal_tell_windows(p);
	mutex_unlock(&p->self.lock);
}

/* Whoever watches has something to look at. */
void portal_changed(struct portal *p, unsigned int n)
{
	WRITE_ONCE(p->changes, p->changes + n);
	/* Pairs with the one in portal_poll(), and those of wait_event() and kin. */
	if (wq_has_sleeper(&p->wait))
		wake_up_interruptible_poll(&p->wait, EPOLLPRI);
	p->self.windows_due = true;
	portal_tell_windows(p);
}

/* ---- Verdicts ------------------------------------------------------------------------ */

/*
 * Puts @claim into @word of its row, while it stands there. 0: there it is; 1: there it was.
 * -ESTALE: it does not stand any more. -EAGAIN: others pass verdicts all the time.
 *
 * What was there is read before the claim. So if the row goes to another machine after that,
 * for which there must have been a verdict, the swap fails: an older verdict never takes
 * a newer one's place.
 */
static int portal_verdict(struct portal *p, struct portal_peer *at, __le64 *word, u64 claim)
{
	__le64 was, new = cpu_to_le64(claim);
	int i;

	for (i = 0; i < PORTAL_VERDICT_TRIES; i++) {
		/* Acquire: the claim is looked at after it. */
		was = virt_load_acquire(word);
		if (READ_ONCE(at->claim) != new)
			return -ESTALE;
		if (was == new)
			return 1;
		if (portal_word_swap(p, word, was, new))
			return 0;
	}
	return -EAGAIN;
}

/*
 * Suspect, because silent. A reason that another gives, maybe meanwhile, stands: his suspicion is
 * not to be taken back by who hears the heart. One of an earlier claim is there no more.
 */
static bool portal_suspect(struct portal *p, struct portal_peer *at, u64 claim)
{
	if (portal_verdict(p, at, &at->suspect, claim))
		return false;
	portal_compat_cas32(&at->reason, 0, cpu_to_le32(PORTAL_REASON_SILENT));
	return true;
}

/*
 * One that was passed because of silence is taken back by who hears the heart. Another may give
 * his reason at any moment, and then find that the suspicion stands, and needs no word of his:
 * so either he finds that it does not, or his reason is seen here, and it is put back.
 * (Who gives one and ends before he looks leaves a suspicion of silence that is not taken back.)
 */
static void portal_heard(struct portal *p, struct portal_peer *at, u64 claim)
{
	__le32 silent = cpu_to_le32(PORTAL_REASON_SILENT), reason = READ_ONCE(at->reason);

	if (reason && reason != silent)
		return;
	if (reason && !portal_compat_cas32(&at->reason, silent, 0))
		return;
	/* A full barrier, which pairs with the one in portal_pronounce(). */
	if (!portal_word_swap(p, &at->suspect, cpu_to_le64(claim), 0))
		return;
	reason = READ_ONCE(at->reason);
	if (reason && reason != silent)
		portal_word_swap(p, &at->suspect, 0, cpu_to_le64(claim));
}

/*
 * Known three of its beats after its last, not later: that one came up to a look before it was
 * seen, and the next look is one away; so when two looks less have passed. Nor before two looks
 * have: from a heart as fast as ours two beats did not come then. Who stood still himself for
 * long has not looked, so both the looks and the time count.
 */
static bool portal_silent(const struct portal_seen *s, u32 ms, u64 now)
{
	u64 look = jiffies_to_nsecs(portal_beat_period());
	u64 looks = PORTAL_SILENT_LOOKS * look - look / PORTAL_CLOCKS_DIFFER;
	u64 still = now - s->since;

	return ms >= PORTAL_HEART_MIN_MS && ms <= PORTAL_HEART_MAX_MS &&
	       s->looks >= PORTAL_SILENT_LOOKS && still >= looks &&
	       still + looks >= (u64)PORTAL_SILENT_BEATS * ms * NSEC_PER_MSEC;
}

/*
 * Listens to a heart. @s is what was seen last, @new now. True: it was declared suspect
 * because it is silent.
 */
static bool portal_listen(struct portal *p, struct portal_peer *at, struct portal_seen *s,
			  const struct portal_seen *new, bool beat)
{
	bool same = s->claim == new->claim && s->life == new->life;

	if (!same || s->heartbeat != new->heartbeat) {
		s->since = new->since;
		s->looks = 0;
		/* The first look at a row is not one that heard anything. */
		s->beats = s->claim == new->claim &&
			   (s->beats || s->heartbeat != new->heartbeat);
		if (same && new->suspect == new->claim)
			portal_heard(p, at, new->claim);
		return false;
	}
	if (!beat)
		return false;
	s->looks++;
	if ((new->life & 0xffff) != PORTAL_LIFE_ALIVE || new->suspect == new->claim ||
	    new->dead == new->claim ||
	    !portal_silent(s, le32_to_cpu(READ_ONCE(at->heartbeat_ms)), new->since))
		return false;
	return portal_suspect(p, at, new->claim);
}

/**
 * portal_heart() - does whoever has this claim live?
 * @p: the portal
 * @slot: the row
 * @claim: as it stands there
 *
 * Returns 1: its heart was seen to beat; 0: it stood still for all of three beats while we
 * looked (one that says that it has none: as long as if it had one a second), longer than a
 * suspicion takes; -EAGAIN: it was not listened to for long enough.
 */
int portal_heart(struct portal *p, u32 slot, u64 claim)
{
	const struct portal_seen *s = &p->self.seen[slot];
	u32 ms = le32_to_cpu(READ_ONCE(portal_peer_at(p, slot)->heartbeat_ms));

	if (s->claim != claim)
		return -EAGAIN;
	if (ms < PORTAL_HEART_MIN_MS || ms > PORTAL_HEART_MAX_MS)
		ms = MSEC_PER_SEC;
	if (s->looks >= PORTAL_SILENT_LOOKS &&
	    ktime_get_ns() - s->since >= (u64)PORTAL_SILENT_BEATS * ms * NSEC_PER_MSEC)
		return 0;
	return s->beats ? 1 : -EAGAIN;
}

/*
 * Gives a reason, in place of any other. What stands there is read before the claim, as above: so
 * none is overwritten that was given to a later claim, but for one that is just the same.
 * *@was: what stood there, @why if nothing was stored: it is there, or others store theirs all the
 * time. False: the claim does not stand any more.
 */
static bool portal_reason_give(struct portal_peer *at, u64 claim, __le32 why, __le32 *was)
{
	int i;

	for (i = 0; i < PORTAL_VERDICT_TRIES; i++) {
		/* Acquire: the claim is looked at after it. */
		*was = virt_load_acquire(&at->reason);
		if (READ_ONCE(at->claim) != cpu_to_le64(claim))
			return false;
		if (*was == why || portal_compat_cas32(&at->reason, *was, why))
			return true;
	}
	*was = why;
	return true;
}

/*
 * A verdict and its reason. 0, -ESTALE, -EAGAIN. If it comes to nothing, a reason that was given
 * stands in a row that is another's by now, or nobody's; so what stood there before is of no
 * account either, unless the claim still stands.
 */
static int portal_pronounce(struct portal *p, struct portal_peer *at, __le64 *word, u64 claim,
			    __le32 why)
{
	bool given;
	__le32 was;
	int ret;

	/* Before the verdict: who hears the heart takes back what is because of silence. */
	if (!portal_reason_give(at, claim, why, &was))
		return -ESTALE;
	given = was != why;
	/* Not smp_mb(): it may be another machine. Pairs with the swap in portal_heard(). */
	virt_mb();
	ret = portal_verdict(p, at, word, claim);
	if (ret >= 0)
		return 0;
	/* Then what stands there is no reason, and somebody else's. */
	if (portal_layout_gone(p))
		return -ESTALE;
	if (READ_ONCE(at->claim) != cpu_to_le64(claim))
		was = 0;
	if (given)
		portal_compat_cas32(&at->reason, why, was);
	return ret;
}

/**
 * portal_fence() - an administrator's verdict
 * @p: the portal, with self.lock held
 * @f: PORTAL_FENCE's; its flags are known ones
 *
 * A machine that claims the slot meanwhile has another claim, so is not meant. One that has just
 * made this claim takes the reason away, and so may a warden of the claim before, who puts his own
 * there first: it is given again then, and the verdict looked at once more. Returns 0, -ENXIO,
 * -ESTALE, -EAGAIN.
 */
int portal_fence(struct portal *p, const struct portal_fence *f)
{
	bool suspect = f->flags & PORTAL_FENCE_SUSPECT, passed = false;
	__le32 fenced = cpu_to_le32(PORTAL_REASON_FENCED);
	struct portal_peer *at;
	int ret, i;

	if (portal_layout_gone(p))
		return -ESTALE;
	if (f->slot >= p->self.layout.peers)
		return -ENXIO;
	at = portal_peer_at(p, array_index_nospec(f->slot, p->self.layout.peers));
	if (!f->claim)
		return -ESTALE;
	for (i = 0; i < PORTAL_VERDICT_TRIES; i++) {
		ret = portal_pronounce(p, at, suspect ? &at->suspect : &at->dead, f->claim, fenced);
		if (ret)
			break;
		passed = true;
		if (READ_ONCE(at->reason) == fenced)
			break;
	}
	if (!passed)
		return ret;
	p->self.ring = true;
	portal_look_soon(p);
	return 0;
}

/* ---- Looking and telling ---------------------------------------------------------------- */

/* Whether a row differs from what it was when it was looked at last. */
static bool portal_look_at(struct portal *p, u32 slot, bool beat, u64 now)
{
	struct portal_seen *s = &p->self.seen[slot], new = { .since = now };
	struct portal_peer *at = portal_peer_at(p, slot);
	bool differs;

	/* Acquire: the rest is not older than the claim. */
	new.claim = le64_to_cpu(virt_load_acquire(&at->claim));
	/* Nobody's, as before: most of a large table. */
	if (!new.claim && !s->claim)
		return false;
	new.dead = le64_to_cpu(READ_ONCE(at->dead));
	new.suspect = le64_to_cpu(READ_ONCE(at->suspect));
	new.life = le64_to_cpu(READ_ONCE(at->life));
	new.changes = le64_to_cpu(READ_ONCE(at->changes));
	new.heartbeat = le64_to_cpu(READ_ONCE(at->heartbeat));
	differs = s->claim != new.claim || s->dead != new.dead || s->suspect != new.suspect ||
		  s->life != new.life || s->changes != new.changes;
	if (new.claim && portal_listen(p, at, s, &new, beat)) {
		/* Others are told; and the row will differ, once, at the next look. */
		p->self.ring = true;
		portal_look_soon(p);
	}
	new.since = s->since;
	new.looks = s->looks;
	new.beats = s->beats;
	*s = new;
	return differs;
}

/**
 * portal_look() - look at every row, wake who watches, ring who is to be told
 * @p: the portal
 * @beat: at a heartbeat, when silence is judged
 */
void portal_look(struct portal *p, bool beat)
{
	struct portal_self *self = &p->self;
	unsigned int n = 0, rings = 0;
	u64 now = ktime_get_ns();
	u32 slot;

	for (slot = 0; slot < self->layout.peers; slot++) {
		n += portal_look_at(p, slot, beat, now);
		cond_resched();
	}
	if (n)
		portal_changed(p, n);
	if (self->ring)
		rings = portal_ring_all(p);
	WRITE_ONCE(self->next_look,
		   jiffies + msecs_to_jiffies(PORTAL_LOOK_MS + rings / PORTAL_RINGS_A_MS));
}

/* Where a row's machine wants to be rung; false: nowhere. */
static bool portal_notice_of(struct portal *p, u32 slot, u32 *address, u32 *vector)
{
	const struct portal_peer *at = portal_peer_at(p, slot);
	u64 claim = le64_to_cpu(READ_ONCE(at->claim));

	if (!portal_claim_valid(p, claim) || !upper_32_bits(claim) ||
	    claim == le64_to_cpu(READ_ONCE(at->dead)))
		return false;
	*address = upper_32_bits(claim) - 1;
	*vector = le32_to_cpu(READ_ONCE(at->notice));
	return *address < PORTAL_MAX_ADDRESSES && *vector < PORTAL_MAX_VECTORS;
}

/* Each machine that wants to know. Returns how many. What was stored before is seen by them. */
unsigned int portal_ring_all(struct portal *p)
{
	struct portal_self *self = &p->self;
	u32 slot, address, vector;
	unsigned int n = 0;

	self->ring = false;
	if (!p->ops->ring || !self->rung)
		return 0;
	bitmap_zero(self->rung, PORTAL_MAX_ADDRESSES);
	/* Not smp_mb(): they are other machines. */
	virt_mb();
	for (slot = 0; slot < self->layout.peers; slot++) {
		if (!portal_notice_of(p, slot, &address, &vector) ||
		    address == self->address || test_bit(address, self->rung))
			continue;
		__set_bit(address, self->rung);
		p->ops->ring(p->priv, address, vector);
		n++;
		cond_resched();
	}
	return n;
}
