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
 * What a machine stores that was stopped right before that, behind its last look, and continued
 * when its row was another's, nobody can prevent: what it says of itself, or of one session; never
 * a life, which is swapped. That other machine puts it right.
 *
 * And where the tables are others' by then, a swap of a life is undone (portal_word_swap()), which
 * may come late, too: sequences begin with 1 there, so one of theirs that has ended may be what
 * was stored here, and lives again until its machine's beats come to that row. Without that, one
 * that lives would have ended.
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

/* How often a word is tried that others keep from being stored. */
#define PORTAL_LIFE_TRIES	16

/* ---- Words ----------------------------------------------------------------------- */

u64 portal_life(u64 sequence, u32 state)
{
	return sequence << PORTAL_SLOT_BITS | state;
}

/*
 * Whether @there, a word of this machine's that others can reach, says more than @here,
 * which this machine believes to stand there: a later life, or that this one is over. It did
 * not store that; so another copy of it did, or it itself before it was put back to an
 * older state. Others may have acted on it: it stands for ever.
 */
bool portal_life_ahead(u64 there, u64 here)
{
	u64 a = there >> PORTAL_SLOT_BITS, b = here >> PORTAL_SLOT_BITS;

	if (a != b)
		return a > b;
	return (there & 0xffff) == PORTAL_LIFE_DEAD && (here & 0xffff) != PORTAL_LIFE_DEAD;
}

/**
 * portal_life_put() - store the word of a life
 * @p: the portal
 * @at: where: this machine's row, or one of its sessions'
 * @known: what stands there, as far as this machine knows
 * @life: what is to stand there
 *
 * A full barrier. False: what stands there is ahead, or changes all the time, or is no life any
 * more (portal_layout_gone()); nothing was stored, and the row is lost (portal_row_look()).
 */
bool portal_life_put(struct portal *p, __le64 *at, u64 known, u64 life)
{
	__le64 was;
	int i;

	for (i = 0; i < PORTAL_LIFE_TRIES; i++) {
		was = READ_ONCE(*at);
		if (portal_life_ahead(le64_to_cpu(was), known))
			break;
		if (portal_word_swap(p, at, was, cpu_to_le64(life)))
			return true;
	}
	p->self.doubled = true;
	return false;
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
 * Whose claim stands in the row, if that is a row still. Who took it did so because this one
 * had been proven dead, and began a life there with a higher sequence, and may be dead already.
 * Or it was left, by a copy. A word that cannot have come about like this is no machine's.
 * *@claim: which was judged; who is to swap it swaps this one, for another may come at any
 * moment.
 */
enum portal_row_state portal_row_claimed(struct portal *p, u64 *claim)
{
	const struct portal_peer *at = portal_peer_at(p, p->self.slot);
	u64 dead;

	*claim = 0;
	if (portal_layout_gone(p))
		return PORTAL_ROW_LOST;
	dead = le64_to_cpu(READ_ONCE(at->dead));
	if (dead == p->self.claim)
		return PORTAL_ROW_LOST;
	/* Acquire: whoever took the row began a life after its claim, and is seen below. */
	*claim = le64_to_cpu(virt_load_acquire(&at->claim));
	if (*claim == p->self.claim)
		return PORTAL_ROW_MINE;
	if (*claim && !portal_claim_valid(p, *claim))
		return PORTAL_ROW_SPOILT;
	if (portal_life_ahead(le64_to_cpu(READ_ONCE(at->life)), le64_to_cpu(p->self.row.life)))
		return PORTAL_ROW_LOST;
	return *claim && *claim == dead ? PORTAL_ROW_LOST : PORTAL_ROW_SPOILT;
}

/*
 * Whose the row is, for who is about to store there. If what counts on in it has been counted
 * on, somebody else lives, or lived, under this claim.
 */
enum portal_row_state portal_row_look(struct portal *p, u64 *claim)
{
	const struct portal_peer *at = portal_peer_at(p, p->self.slot), *row = &p->self.row;
	enum portal_row_state state = portal_row_claimed(p, claim);
	u64 beats;

	if (state == PORTAL_ROW_LOST || p->self.doubled)
		return PORTAL_ROW_LOST;
	beats = le64_to_cpu(READ_ONCE(at->heartbeat));
	if (state == PORTAL_ROW_MINE &&
	    portal_life_ahead(le64_to_cpu(READ_ONCE(at->life)), le64_to_cpu(row->life)))
		p->self.doubled = true;
	if ((s64)(beats - le64_to_cpu(row->heartbeat)) > 0)
		p->self.doubled = true;
	return p->self.doubled ? PORTAL_ROW_LOST : state;
}

/* Whether stores to this machine's rows are its own business now. */
bool portal_row_mine(struct portal *p)
{
	u64 claim;

	return p->self.reach && p->self.joined && portal_row_look(p, &claim) == PORTAL_ROW_MINE;
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

/* The next state of this life. False: nothing was stored, and the row is lost. */
bool portal_row_live(struct portal *p, u32 state)
{
	u64 known = le64_to_cpu(p->self.row.life);
	u64 life = portal_life(known >> PORTAL_SLOT_BITS, state);

	/* A barrier: what was stored before belongs to this life. Pairs with readers' acquire. */
	if (!portal_life_put(p, &portal_peer_at(p, p->self.slot)->life, known, life))
		return false;
	p->self.row.life = cpu_to_le64(life);
	return true;
}

/*
 * From the incarnation on to the changes: what lies between is the machine's alone. Returns how
 * many words were not as they must be.
 */
unsigned int portal_row_put(struct portal *p)
{
	const size_t from = offsetof(struct portal_peer, incarnation);
	const size_t to = offsetofend(struct portal_peer, changes);

	/* Whoever calls has looked, but maybe long ago. */
	if (!portal_row_mine(p))
		return 0;
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

/*
 * A new life in the row that this machine has, with sessions as they are. If the row turns
 * out to be lost meanwhile, the next beat sees to it.
 */
void portal_row_begin(struct portal *p)
{
	u64 known = le64_to_cpu(p->self.row.life);
	u64 life = portal_life((known >> PORTAL_SLOT_BITS) + 1, PORTAL_LIFE_JOINING);

	portal_row_fill(p);
	/* A barrier, which pairs with the acquire fence before a reader's second look at life. */
	if (!portal_life_put(p, &portal_peer_at(p, p->self.slot)->life, known, life))
		return;
	p->self.row.life = cpu_to_le64(life);
	portal_row_put(p);
	portal_sessions_put(p, 0, p->self.layout.sessions);
	if (!portal_row_live(p, PORTAL_LIFE_ALIVE))
		return;
	WRITE_ONCE(p->self.notice, le32_to_cpu(p->self.row.notice));
	portal_row_changed(p);
}

/*
 * Whether words of the row are ahead as a hibernation explains it: its image is of before what
 * this machine stored last, which was that it sleeps. Any other pause explains nothing.
 */
static bool portal_row_of_image(const struct portal *p)
{
	u64 life = le64_to_cpu(READ_ONCE(portal_peer_at(p, p->self.slot)->life));

	return portal_hibernates() && (life & 0xffff) == PORTAL_LIFE_ASLEEP;
}

/*
 * After a pause, in a row whose claim stood throughout: sequences go on from what was stored
 * last. False: they cannot, or this machine did not store it: a copy of it did, that woke up
 * before. Nothing is stored any more then.
 */
bool portal_row_catch_up(struct portal *p)
{
	const struct portal_peer *at = portal_peer_at(p, p->self.slot);
	struct portal_peer *row = &p->self.row;
	u64 life = max(le64_to_cpu(READ_ONCE(at->life)), le64_to_cpu(row->life)), claim;

	if (life >> PORTAL_SLOT_BITS >= PORTAL_SEQUENCE_MAX)
		return false;
	if (!portal_row_of_image(p) && portal_row_look(p, &claim) != PORTAL_ROW_MINE)
		return false;
	if (portal_sessions_ahead(p, 0, p->self.layout.sessions)) {
		p->self.doubled = true;
		return false;
	}
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

/*
 * In place of @was; false: another was faster. A reason that stands there is of who had the slot
 * before, and would be taken for a warden's: it goes. Or it was a warden's, who has come to this
 * claim already: either he finds that behind his verdict, and gives it again, or the verdict is
 * seen here. Then the claim is given up, for the next one has neither.
 */
static bool portal_slot_take(struct portal *p, u32 slot, u64 was, u64 claim)
{
	struct portal_peer *at = portal_peer_at(p, slot);
	__le64 mine = cpu_to_le64(claim);
	__le32 why;

	if (!portal_word_swap(p, &at->claim, cpu_to_le64(was), mine))
		return false;
	why = READ_ONCE(at->reason);
	/* A full barrier, which pairs with that of a verdict. */
	if (!why || !portal_compat_cas32(&at->reason, why, 0) ||
	    (READ_ONCE(at->dead) != mine && READ_ONCE(at->suspect) != mine))
		return true;
	portal_word_swap(p, &at->claim, mine, 0);
	return false;
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
		if (!ret || !portal_slot_take(p, slot, claim, mine))
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
		portal_word_swap(p, &portal_peer_at(p, self->slot)->claim,
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

/*
 * Before this machine has begun a life there; a machine without an address would not know its
 * claim again. Not if a copy of it has begun one, which lives by that claim.
 */
static void portal_slot_give_back(struct portal *p)
{
	struct portal_peer *at = portal_peer_at(p, p->self.slot);

	if (!portal_life_ahead(le64_to_cpu(READ_ONCE(at->life)), le64_to_cpu(p->self.row.life)))
		portal_word_swap(p, &at->claim, cpu_to_le64(p->self.claim), 0);
}

/* If it fails, the next beat tries again. */
void portal_join(struct portal *p)
{
	struct portal_self *self = &p->self;
	u64 claim;
	int ret;

	if (p->self.zapping || portal_gives_way() || portal_layout_gone(p))
		return;
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
	self->doubled = false;
	/* That takes a while: somebody may have had enough of this claim, or of these tables. */
	if (portal_row_look(p, &claim) != PORTAL_ROW_MINE) {
		portal_slot_give_back(p);
		return;
	}
	self->joined = true;
	self->strange = false;
	portal_row_begin(p);
}

/* The row says what is true: nobody is here any more, and the slot is free. It is mine. */
void portal_row_end(struct portal *p)
{
	struct portal_peer *at = portal_peer_at(p, p->self.slot);

	if (!portal_row_live(p, PORTAL_LIFE_DEAD))
		return;
	portal_row_changed(p);
	/* Not a store: nobody else's claim is to be undone. */
	portal_word_swap(p, &at->claim, cpu_to_le64(p->self.claim), 0);
}
