// SPDX-License-Identifier: MIT
/*
 * The life of a hub's lanes, as the consumer leads it; the protocol and why it is right:
 * linux/portal_layout.h ("Channels by name"), tests/model/lane.pml, hub.pml and zombie.pml.
 *
 * Here alone a lane is taken from anybody: from who has left it, or is proven dead, and
 * after a look at the lane that came later than that knowledge and found nothing.
 */
#include <string.h>
#include <sys/random.h>

#include "hub.h"

#define W(x)	((uint64_t *)&(x))
#define CW(x)	((const uint64_t *)&(x))

static inline void tell(struct vmp_hub *h, struct lane *l, unsigned int event)
{
	if (h->flags & VMP_HUB_EVENTS)
		l->tell |= 1U << event;
}

/* Suspect, or not any more. Who has not heard of the one need not hear of the other. */
static void tell_suspicion(struct vmp_hub *h, struct lane *l, bool suspect)
{
	unsigned int untold = 1U << (suspect ? VMP_FROM_BACK : VMP_FROM_SUSPECT);

	l->suspect = suspect;
	if (l->tell & untold)
		l->tell &= ~untold;
	else
		tell(h, l, suspect ? VMP_FROM_SUSPECT : VMP_FROM_BACK);
}

static struct portal_chan_side *our_side(struct lane *l)
{
	return l->area;
}

/*
 * One that has closed may have the same lane again, from our successor: its word does not tell.
 * But who sees that one sees the successor, too; it gets its lane back.
 */
static bool take_for_reset(struct vmp_hub *h, struct lane *l)
{
	uint64_t *owner = W(l->row->owner);

	vmp_step(STEP_LANE_OVER);
	if (!hand_on(owner, l->owner, PORTAL_HUB_RESET))
		return false;
	if (hub_is_ours(h))
		return true;
	hand_on(owner, PORTAL_HUB_RESET, l->owner);
	return false;
}

/*
 * Nobody has this lane any more, and all of it was read: it is the next one's. If somebody
 * else stands there by now (we have a successor, he did this, and we do not know it yet),
 * nothing is touched; it is looked at as if new.
 */
static void reset(struct vmp_hub *h, struct lane *l)
{
	struct portal_chan_side *me = our_side(l);
	uint64_t left = load_acquire(CW(l->row->left));

	if (hub_is_ours(h) && take_for_reset(h, l)) {
		vmp_step(STEP_LANE_RESET);
		hub_say(h, W(me->rx_armed), 0);
		hub_say(h, W(me->tx_armed), 0);
		hub_say(h, W(me->incarnation), 0);
		/* From here on nothing is left to inherit. */
		hub_say(h, W(me->live), 0);
		vmp_step(STEP_LANE_EMPTY);
		/* Whoever comes after us finds it being reset, and does all of this. */
		if (hub_is_ours(h))
			hand_on(W(l->row->left), left, 0);
		vmp_step(STEP_LANE_CLEARED);
		/* Pairs with the exchange in hub_channel_at(). */
		if (hub_is_ours(h))
			hand_on(W(l->row->owner), PORTAL_HUB_RESET, 0);
	}
	if (l->ch) {
		hub_add_stats(&h->gone, l->ch);
		chan_free(l->ch);
	}
	l->ch = NULL;
	l->owner = 0;
	l->state = LANE_FREE;
}

/* The owner will store nothing more there; all that it stored is visible. */
static bool over(const struct lane *l)
{
	/* Pairs with the stores in hub_leave(), and with the end of a session. */
	return l->dead || load_acquire(CW(l->row->left)) == l->owner ||
	       (l->ch && load_acquire(&l->ch->peer_gone));
}

static bool died(const struct lane *l)
{
	return l->dead || (l->ch && load_relaxed(&l->ch->peer_gone));
}

static void end(struct vmp_hub *h, struct lane *l, unsigned int event)
{
	tell(h, l, event);
	l->state = LANE_ENDED;
	/* Who waits for room here need not wait any longer. */
	if (l->room)
		h->tell_room = true;
	hub_need_no_room(h, l);
	if (event != VMP_FROM_BROKEN)
		return;
	/* So that it hears of it. */
	hub_say(h, W(our_side(l)->incarnation), 0);
	vmpr_full_fence();
	chan_hail(l->ch);
}

/* ---- Opening --------------------------------------------------------------- */

static int new_end(struct vmp_hub *h, struct lane *l)
{
	int r = chan_alloc(&l->ch, h->p, &h->opts);

	if (r)
		return r;
	l->ch->bells = h->bells;
	l->ch->token = h->place.token;
	l->ch->lease = hub_lease(h);
	l->ch->peer_token = l->owner;
	chan_lay_out(l->ch, l->area, h->place.capacity, 0);
	chan_waiters_start(l->ch);
	return 0;
}

static void came(struct vmp_hub *h, struct lane *l)
{
	l->state = LANE_OPEN;
	tell(h, l, VMP_FROM_CAME);
	if (l->suspect)
		tell(h, l, VMP_FROM_SUSPECT);
}

static void take_note(struct vmp_hub *h, struct lane *l, uint64_t owner)
{
	l->owner = owner;
	l->serial = ++h->serial;
	l->again = 0;
	l->tell = 0;
	l->dead = l->suspect = l->adopted = l->inherited = false;
	l->room = 0;
	l->state = LANE_TAKEN;
}

/* Somebody has taken it. */
static void arrive(struct vmp_hub *h, struct lane *l, uint64_t owner)
{
	int state;

	take_note(h, l, owner);
	/* Our predecessor was just doing it; or an owner that never was, who sent nothing. */
	state = owner == PORTAL_HUB_RESET ? -ESTALE : vmp_token_state(h->p, owner);
	if (state < 0) {
		reset(h, l);
		return;
	}
	l->dead = state == VMP_STATE_DEAD;
	l->suspect = state == VMP_STATE_SUSPECT;
}

/*
 * A sender that has closed and opened anew: its first lane comes first. It let go of that
 * before it took this one, so we know.
 */
static bool comes_later(const struct vmp_hub *h, const struct lane *l)
{
	uint32_t i;

	for (i = 0; i < h->lanes; i++) {
		const struct lane *o = &h->lane[i];

		if (o != l && o->state == LANE_OPEN && o->owner == l->owner && over(o))
			return true;
	}
	return false;
}

static int open_lane(struct vmp_hub *h, struct lane *l)
{
	int r = new_end(h, l);

	if (r)
		return r;
	came(h, l);
	chan_begin(l->ch);
	return 0;
}

/*
 * Our predecessor has read here, and is dead or has closed. We go on in its place, but only
 * to read: what it wrote to the other lane, and how far, it alone knew.
 */
static int inherit(struct vmp_hub *h, struct lane *l, uint64_t nonce)
{
	struct portal_chan_side *me = our_side(l);
	struct vmp_channel *ch;
	uint64_t pos = load_acquire(CW(me->consumed));
	int r = new_end(h, l);

	if (r)
		return r;
	ch = l->ch;
	l->inherited = true;
	l->again = load_acquire(CW(me->shown));
	ch->inc = 0;
	ch->nonce = nonce;
	ch->told_ready = ch->told_live = true;
	/* Its word for as long as it owns the lane. */
	ch->peer_inc = load_acquire(CW(ch->peer->incarnation));
	vmpr_rx_init(&ch->rx.ring, ch->lane_in, ch->cap, W(me->consumed), CW(ch->peer->ask),
		     (uint32_t)(nonce >> 32));
	/* Nobody's position: nothing is read there, nor is the place looked at. */
	if (pos % VMPR_LINE)
		ch->rx.ring.err = VMPR_PROTO;
	else
		ch->rx.ring.pos = ch->rx.ring.end = ch->rx.ring.published = pos;
	store_relaxed(&ch->peer_bells, h->bells && ch->p->info.caps & VMP_CAP_RING);
	hub_say(h, W(me->rx_armed), 0);
	hub_say(h, W(me->tx_armed), 0);
	chan_set_address(ch);
	store_release(&ch->stage, STAGE_LIVE);
	came(h, l);
	/* The pair is over; the other end hears of it, if it is awake, or now. */
	hub_say(h, W(me->incarnation), 0);
	vmp_step(STEP_LANE_INHERITED);
	vmpr_full_fence();
	chan_hail(ch);
	return 0;
}

/* Whose lanes are these, that were here before us? */
void hub_lanes_adopt(struct vmp_hub *h)
{
	uint64_t owner, nonce;
	uint32_t i;

	for (i = 0; i < h->lanes; i++) {
		struct lane *l = &h->lane[i];

		owner = load_acquire(CW(l->row->owner));
		if (!owner)
			continue;
		arrive(h, l, owner);
		l->adopted = true;
		nonce = load_acquire(CW(our_side(l)->live));
		/* Out of memory: tried again when it is its turn. */
		if (l->state == LANE_TAKEN && nonce)
			inherit(h, l, nonce);
	}
}

void hub_lanes_close(struct vmp_hub *h, bool ours)
{
	uint32_t i;

	for (i = 0; i < h->lanes; i++) {
		struct lane *l = &h->lane[i];

		if (!l->ch)
			continue;
		if (ours && l->state == LANE_OPEN && !l->inherited &&
		    load_relaxed(CW(our_side(l)->incarnation)) == l->ch->inc) {
			chan_say_closed(l->ch);
			vmpr_full_fence();
			chan_hail(l->ch);
		}
		chan_free(l->ch);
		l->ch = NULL;
	}
}

/* ---- Reading ---------------------------------------------------------------- */

static void say(const struct vmp_hub *h, const struct lane *l, unsigned int event,
		struct vmp_from *from)
{
	memset(from, 0, sizeof(*from));
	from->event = event;
	from->token = l->owner;
	from->serial = l->serial;
	from->lane = (uint32_t)(l - h->lane);
	if (l->inherited)
		from->flags |= VMP_FROM_INHERITED;
}

/* A message is about to be shown. */
static int64_t show(struct vmp_hub *h, struct lane *l, int64_t n, struct vmp_from *from)
{
	const struct vmpr_rx *r = &l->ch->rx.ring;

	say(h, l, VMP_FROM_MESSAGE, from);
	if ((int64_t)(l->again - r->pos) > 0)
		from->flags |= VMP_FROM_AGAIN;
	/* Before it is: who comes after us must know. */
	store_relaxed(W(our_side(l)->shown), r->end);
	vmp_step(STEP_LANE_SHOWN);
	return n;
}

/* Nothing is there, or nothing good: is that the end, and of what kind? */
static int64_t read_on(struct vmp_hub *h, struct lane *l, int64_t n, const void **ptr)
{
	bool end_known = over(l);

	if (n == -ENODEV)
		return n;
	if (n == -EAGAIN && !end_known)
		return n;
	/* Whatever it had committed before that is visible now; only 0 is the end. */
	if (end_known && n != -EPROTO && n != -EBUSY) {
		n = chan_try(l->ch, ptr);
		if (n >= 0)
			return n;
	}
	if (n == -EPIPE || n == -EAGAIN || (n == -ECONNRESET && end_known))
		end(h, l, died(l) ? VMP_FROM_DEAD : VMP_FROM_LEFT);
	else
		end(h, l, VMP_FROM_BROKEN);
	return -EAGAIN;
}

static int64_t next_event(struct vmp_hub *h, struct lane *l, struct vmp_from *from)
{
	unsigned int event = (unsigned int)__builtin_ctz(l->tell);

	l->tell &= ~(1U << event);
	say(h, l, event, from);
	return 0;
}

/* All that a lane goes through without a message. */
static int64_t step_on(struct vmp_hub *h, struct lane *l)
{
	uint64_t owner;
	int r = 0;

	if (l->state == LANE_ENDED && !l->tell && over(l))
		reset(h, l);
	if (l->state == LANE_FREE) {
		owner = load_acquire(CW(l->row->owner));
		if (!owner)
			return 0;
		if (!hub_is_ours(h))
			return hub_judge(h);
		arrive(h, l, owner);
	}
	if (l->state == LANE_TAKEN && !l->tell) {
		uint64_t nonce = load_acquire(CW(our_side(l)->live));

		/* Of a lane that we have seen free it is a late word of a dead one's. */
		if (l->adopted && nonce)
			r = inherit(h, l, nonce);
		else if (over(l))
			reset(h, l);
		else if (!comes_later(h, l))
			r = open_lane(h, l);
	}
	return r;
}

int64_t lane_next(struct vmp_hub *h, struct lane *l, const void **ptr, struct vmp_from *from)
{
	int64_t n;

	if (unlikely(l->state != LANE_OPEN)) {
		n = step_on(h, l);
		if (n)
			return n;
	}
	if (unlikely(l->tell))
		return next_event(h, l, from);
	if (l->state != LANE_OPEN)
		return -EAGAIN;
	n = chan_try(l->ch, ptr);
	if (unlikely(n < 0))
		n = read_on(h, l, n, ptr);
	if (likely(n >= 0))
		return show(h, l, n, from);
	return n == -EAGAIN && l->tell ? next_event(h, l, from) : n;
}

bool lane_look(struct vmp_hub *h, struct lane *l)
{
	if (l->tell)
		return true;
	switch (l->state) {
	case LANE_FREE:
		return load_acquire(CW(l->row->owner)) != 0;
	case LANE_TAKEN:
		return over(l) || !comes_later(h, l);
	case LANE_OPEN:
		return chan_look(l->ch, RX, 0) || over(l);
	default:
		return over(l);
	}
}

/* ---- Judging ---------------------------------------------------------------- */

static void judge_lane(struct vmp_hub *h, struct lane *l)
{
	int state = vmp_token_state(h->p, l->owner);

	if (load_relaxed(CW(l->row->owner)) != l->owner || state < 0) {
		/* Not its word, nor ours: what stands there is looked at as if new. */
		if (l->state == LANE_OPEN)
			end(h, l, VMP_FROM_BROKEN);
		l->dead = true;
		return;
	}
	if (state == VMP_STATE_DEAD) {
		l->dead = true;
	} else if (l->suspect != (state == VMP_STATE_SUSPECT)) {
		tell_suspicion(h, l, !l->suspect);
	}
}

int hub_judge(struct vmp_hub *h)
{
	uint32_t i;
	int r = vmp_session_same(h->p, h->place.token);

	if (r)
		return r;
	for (i = 0; i < h->lanes; i++)
		if (h->lane[i].state != LANE_FREE)
			judge_lane(h, &h->lane[i]);
	r = vmp_session_check(h->p);
	if (!r && !hub_is_ours(h))
		r = vmp_fail(-EPROTO, "%s: another program writes over this hub's own words",
			     h->p->info.identity);
	return r;
}
