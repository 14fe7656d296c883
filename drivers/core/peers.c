// SPDX-License-Identifier: GPL-2.0-only
/*
 * This machine's row in a managed portal's tables: what is stored there, and where it may be.
 *
 * Tables advertise; the truth is in struct portal_self, which nobody else can reach.
 * At each heartbeat what others have overwritten is put right (beat.c). Three words are not
 * this machine's alone: claim, dead and suspect. From them it may learn that it lost its
 * row (portal_row_state()), and then it stores nothing to it any more.
 *
 * Lost: somebody declared this machine dead, or another machine has the row. While this
 * one stood still for a long time, say. Or this machine is there twice: it was copied,
 * or put back to an older state. Its sessions are over, and what its processes
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
#include <linux/siphash.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/utsname.h>
#include <linux/uuid.h>
#include <linux/workqueue.h>

#include "core.h"
#include "trace.h"

/* ---- Words ----------------------------------------------------------------------- */

u64 portal_life(u64 sequence, u32 state)
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

/*
 * Whose the row is. Who took it did so because this claim had been proven dead, and
 * began a life there with a higher sequence, and may be dead already. A word that
 * cannot have come about like this is no machine's.
 */
enum portal_row_state portal_row_look(struct portal *p)
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

void portal_row_live(struct portal *p, u32 state)
{
	struct portal_peer *at = portal_peer_at(p, p->self.slot);
	u64 sequence = le64_to_cpu(p->self.row.life) >> PORTAL_SLOT_BITS;

	p->self.row.life = cpu_to_le64(portal_life(sequence, state));
	/* Release: what was stored before belongs to this life. Pairs with readers' acquire. */
	virt_store_release(&at->life, p->self.row.life);
}

/* From the incarnation on to the changes: what lies between is the machine's alone. */
unsigned int portal_row_put(struct portal *p)
{
	const size_t from = offsetof(struct portal_peer, incarnation);
	const size_t to = offsetofend(struct portal_peer, changes);

	return portal_words_put((u8 *)portal_peer_at(p, p->self.slot) + from,
				(u8 *)&p->self.row + from, to - from);
}

/*
 * The kernel shows the machine's UUID to root alone; here everybody reads, on every
 * machine. So 64 bits that it leads to, and that do not lead back.
 */
static void portal_machine_put(u8 *to, const uuid_t *machine)
{
	static const siphash_key_t key = { { 0x706f7274616c0001, 0x6d616368696e6500 } };
	__le64 hash = cpu_to_le64(siphash(machine, sizeof(*machine), &key));

	memcpy(to, &hash, sizeof(hash));
}

/* The name without a lock: utsname's is not for modules. It is for people, and soon right. */
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
	row->heartbeat_ms = cpu_to_le32(portal_heartbeat_ms);
	row->joined = cpu_to_le64(ktime_get_real_ns());
	if (uuid && !uuid_parse(uuid, &machine))
		portal_machine_put(row->machine, &machine);
	strscpy(name, init_utsname()->nodename, sizeof(name));
	portal_text_put(row->name, name, sizeof(row->name));
}

/* A new life in the row that this machine has, with sessions as they are. */
void portal_row_begin(struct portal *p)
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

/*
 * After a pause, in a row that was mine throughout. The pause may have been a hibernation,
 * whose image is of before what was stored last: sequences go on from there. False: they
 * cannot.
 */
bool portal_row_catch_up(struct portal *p)
{
	const struct portal_peer *at = portal_peer_at(p, p->self.slot);
	struct portal_peer *row = &p->self.row;
	u64 life = max(le64_to_cpu(READ_ONCE(at->life)), le64_to_cpu(row->life));

	if (life >> PORTAL_SLOT_BITS >= PORTAL_SEQUENCE_MAX ||
	    portal_sessions_ahead(p, 0, p->self.layout.sessions))
		return false;
	row->life = cpu_to_le64(life);
	row->heartbeat = cpu_to_le64(max(le64_to_cpu(READ_ONCE(at->heartbeat)),
					 le64_to_cpu(row->heartbeat)));
	row->changes = cpu_to_le64(max(le64_to_cpu(READ_ONCE(at->changes)),
				       le64_to_cpu(row->changes)));
	return true;
}

/* ---- Joining and leaving ------------------------------------------------------------ */

/*
 * Whether a row whose claim has this machine's address is its own of before: a reset, say,
 * of which it could not tell. Two machines do not have one address at one time; but whoever
 * gives them out may have begun anew, and then the other may still store. So what says that
 * it lives must have been still for as long as it takes to be suspect. 1, 0, or -EAGAIN.
 */
static int portal_slot_own(struct portal *p, u32 slot, u64 claim)
{
	u32 state = le64_to_cpu(READ_ONCE(portal_peer_at(p, slot)->life)) & 0xffff;
	int ret;

	if (state == PORTAL_LIFE_DEAD || state == PORTAL_LIFE_ASLEEP)
		return 1;
	ret = portal_heart(p, slot, claim);
	if (ret == 1)
		dev_warn_ratelimited(portal_where(p),
				     "slot %u: another machine that lives has this one's peer id %u\n",
				     slot, p->self.address);
	return ret < 0 ? ret : !ret;
}

/* Whether @slot may be claimed: 1, 0, or -EAGAIN. With @own: if it was this machine's. */
static int portal_slot_free(struct portal *p, u32 slot, bool own, u64 *claim)
{
	const struct portal_peer *at = portal_peer_at(p, slot);
	u64 address = p->self.address == PORTAL_PEER_NONE ? 0 : p->self.address + 1ULL;

	*claim = le64_to_cpu(READ_ONCE(at->claim));
	if (le64_to_cpu(READ_ONCE(at->life)) >> PORTAL_SLOT_BITS >= PORTAL_SEQUENCE_MAX)
		return 0;
	if (own && (!address || *claim >> 32 != address))
		return 0;
	if (!*claim || *claim == le64_to_cpu(READ_ONCE(at->dead)))
		return 1;
	return own ? portal_slot_own(p, slot, *claim) : 0;
}

/* Slot 0 is the host's. 1: claimed; 0: there is none; -EAGAIN: who knows at a later beat. */
static int portal_slot_claim(struct portal *p, bool own)
{
	struct portal_self *self = &p->self;
	u32 address = self->address == PORTAL_PEER_NONE ? 0 : self->address + 1, random, slot;
	u64 claim, mine;
	int ret;

	do {
		random = get_random_u32();
	} while (!random);
	mine = (u64)address << 32 | random;
	for (slot = 1; slot < self->layout.peers; slot++) {
		ret = portal_slot_free(p, slot, own, &claim);
		if (ret < 0)
			return ret;
		if (!ret ||
		    !portal_compat_cas64(&portal_peer_at(p, slot)->claim, cpu_to_le64(claim),
					 cpu_to_le64(mine)))
			continue;
		self->slot = slot;
		self->claim = mine;
		return 1;
	}
	return 0;
}

/*
 * What the slot says of itself is where its sequences go on, unless this machine had the
 * same one before and knows better. False: they have come to their end, since they were
 * looked at; the slot is given back. (Rows of sessions that are said to be at theirs are
 * burnt, by whoever wrote that: a machine that may write here may do worse.)
 */
static bool portal_slot_adopt(struct portal *p)
{
	struct portal_self *self = &p->self;
	bool again = self->slot == self->last_slot;
	u64 life = le64_to_cpu(READ_ONCE(portal_peer_at(p, self->slot)->life));
	u64 known = again ? le64_to_cpu(self->row.life) : 0;

	if (max(life, known) >> PORTAL_SLOT_BITS >= PORTAL_SEQUENCE_MAX) {
		portal_compat_cas64(&portal_peer_at(p, self->slot)->claim,
				    cpu_to_le64(self->claim), 0);
		return false;
	}
	memset(&self->row, 0, sizeof(self->row));
	self->row.life = cpu_to_le64(max(life, known));
	self->row.heartbeat = READ_ONCE(portal_peer_at(p, self->slot)->heartbeat);
	self->row.changes = READ_ONCE(portal_peer_at(p, self->slot)->changes);
	portal_sessions_adopt(p, again);
	self->last_slot = self->slot;
	return true;
}

/* Nothing is given back if it fails: the next beat tries again. */
void portal_join(struct portal *p)
{
	struct portal_self *self = &p->self;
	int ret;

	self->address = portal_peer_id(p);
	ret = portal_slot_claim(p, true) ?: portal_slot_claim(p, false);
	if (ret < 0)
		return;
	if (!ret) {
		if (!self->full)
			dev_warn_ratelimited(portal_where(p),
					     "no free slot among %u: no process of this machine can have a session; 'portalctl fence' frees those of machines that are no more\n",
					      self->layout.peers - 1);
		self->full = true;
		return;
	}
	self->full = false;
	if (!portal_slot_adopt(p))
		return;
	self->joined = true;
	self->strange = 0;
	portal_row_begin(p);
}

/* The row says what is true: nobody is here any more, and the slot is free. It is mine. */
void portal_row_end(struct portal *p)
{
	struct portal_peer *at = portal_peer_at(p, p->self.slot);

	portal_row_live(p, PORTAL_LIFE_DEAD);
	portal_row_changed(p);
	/* Not a store: nobody else's claim is to be undone. */
	portal_compat_cas64(&at->claim, cpu_to_le64(p->self.claim), 0);
}
