// SPDX-License-Identifier: MIT
/*
 * How the two ends of a channel find each other; the protocol and why it is right:
 * linux/portal_layout.h, tests/model/handshake.pml.
 */
#include <inttypes.h>

#include "channel.h"
#include "named.h"

/* __aligned_u64 is unsigned long long, uint64_t unsigned long: same bytes. */
#define W(x)	((uint64_t *)&(x))
#define CW(x)	((const uint64_t *)&(x))

static uint64_t rotl(uint64_t x, int n)
{
	return x << n | x >> (64 - n);
}

static uint64_t pair_nonce(uint64_t inc0, uint64_t inc1)
{
	uint64_t n = inc0 * UINT64_C(0x9e3779b97f4a7c15) ^
		     rotl(inc1, 32) * UINT64_C(0xc2b2ae3d27d4eb4f);

	n = (n ^ n >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
	n ^= n >> 32;
	return n ? n : 1;
}

static uint32_t lane_nonce(uint64_t nonce, uint32_t lane)
{
	return lane ? (uint32_t)(nonce >> 32) : (uint32_t)nonce;
}

void chan_set_address(struct vmp_channel *ch)
{
	uint64_t a;

	pthread_mutex_lock(&ch->p->lock);
	a = (uint64_t)ch->p->info.peer_id << PORTAL_CHAN_PEER_SHIFT;
	store_relaxed(&ch->generation, ch->p->info.generation);
	pthread_mutex_unlock(&ch->p->lock);
	a |= (uint64_t)ch->vector << PORTAL_CHAN_VECTOR_SHIFT;
	if (ch->bells)
		a |= PORTAL_CHAN_DOORBELL;
	chan_say(ch, W(ch->me->address), a);
}

void chan_announce(struct vmp_channel *ch)
{
	struct portal_chan_side *me = ch->me;

	/*
	 * "Gone" first: an end that is still bound to our predecessor and sees one of
	 * the first values below (acquire) must also see that the incarnation changed,
	 * lest it takes a position that went back for a broken rule.
	 */
	chan_say(ch, W(me->incarnation), 0);
	chan_say(ch, W(me->ready), 0);
	chan_say(ch, W(me->live), 0);
	chan_say(ch, W(me->ack), 0);
	chan_say(ch, W(me->consumed), 0);
	chan_say(ch, W(me->shown), 0);
	chan_say(ch, W(me->rx_armed), 0);
	chan_say(ch, W(me->tx_armed), 0);
	chan_say(ch, W(me->ask), 0);
	chan_say(ch, W(me->rx_rung), 0);
	chan_say(ch, W(me->tx_rung), 0);
	chan_say(ch, W(me->hello), CHAN_HELLO);
	chan_say(ch, W(me->capacity), ch->cap);
	chan_say(ch, W(me->tenure), ch->p->tenure);
	chan_say(ch, W(me->token), ch->token);
	chan_set_address(ch);
	/* Pairs with the loads in chan_step(): what is above is seen with it. */
	chan_say(ch, W(me->incarnation), ch->inc);
}

void chan_begin(struct vmp_channel *ch)
{
	chan_announce(ch);
	/* If the other end is there, or slept through our predecessor's end, it hears. */
	chan_hail(ch);
	chan_step(ch);
}

/*
 * The same by the session table; or -ESTALE, if that is another by now, or our own session is
 * over. A token that was never given out is no end's.
 */
static int judge_session(struct vmp_channel *ch)
{
	int state = vmp_session_same(ch->p, ch->token);

	/* Nobody tells one who was declared dead anything more: it is told here, or never. */
	if (!state)
		state = vmp_session_check(ch->p);
	if (state)
		return state;
	if (ch->row && load_relaxed(CW(ch->row->owner)) != ch->token)
		return -EPROTO;
	if (!ch->peer_token)
		return 0;
	state = vmp_token_state(ch->p, ch->peer_token);
	if (state == VMP_STATE_DEAD)
		store_release(&ch->peer_gone, 1);
	return state < 0 ? -EPROTO : 0;
}

/* The same by what the backend counts. Less than before: only now somebody would tell its end. */
static void judge_machine(struct vmp_channel *ch)
{
	uint32_t n = vmp_gone(ch->p, ch->peer_id, ch->peer_tenure);

	if ((int32_t)(n - ch->gone_before) > 0)
		store_release(&ch->peer_gone, 1);
	else
		ch->gone_before = n;
}

int chan_judge_peer(struct vmp_channel *ch)
{
	bool was = load_relaxed(&ch->peer_gone);
	int r = 0;

	pthread_mutex_lock(&ch->lock);
	if (ch->token)
		r = judge_session(ch);
	else if (ch->peer_inc)
		judge_machine(ch);
	pthread_mutex_unlock(&ch->lock);
	/* Whoever took the word of it must pass it on. */
	if (ch->token && load_relaxed(&ch->peer_gone) != was)
		vmp_notice(ch->p);
	return r;
}

/* Forget a partner with whom nothing was exchanged, and take @y. */
static void court(struct vmp_channel *ch, uint64_t y)
{
	uint64_t a;

	chan_say(ch, W(ch->me->ready), 0);
	/* Its sleeps are not its predecessor's, and our doorbell has to prove itself anew. */
	chan_say(ch, W(ch->me->rx_rung), 0);
	chan_say(ch, W(ch->me->tx_rung), 0);
	store_relaxed(&ch->rung[RX], 0);
	store_relaxed(&ch->rung[TX], 0);
	store_relaxed(&ch->introduced, 0);
	store_relaxed(&ch->trusted, 0);
	ch->told_ready = false;
	ch->peer_inc = y;
	ch->nonce = ch->side ? pair_nonce(y, ch->inc) : pair_nonce(ch->inc, y);
	/* Of a successor of @y? Then @y's ready, which it withdrew before, is not seen. */
	a = load_acquire(CW(ch->peer->address));
	ch->peer_id = (uint32_t)(a >> PORTAL_CHAN_PEER_SHIFT);
	ch->peer_tenure = load_acquire(CW(ch->peer->tenure));
	ch->gone_before = vmp_gone(ch->p, ch->peer_id, ch->peer_tenure);
	if (ch->row)
		ch->peer_token = load_acquire(CW(ch->peer->token));
	store_relaxed(&ch->peer_gone, 0);
	store_relaxed(&ch->peer_bells, !!(a & PORTAL_CHAN_DOORBELL) &&
		      ch->p->info.caps & VMP_CAP_RING);
	/* We read nothing of an older pair, nor did we ever: see bind(). */
	chan_say(ch, W(ch->me->ack), y);
}

/* The other end reads nothing old: our lane is ours, or another's by now, who has begun in it. */
static void tell_ready(struct vmp_channel *ch)
{
	chan_say(ch, W(ch->me->ask), 0);
	/* No nonce is used twice: what stands there is not changed if it is another's message. */
	chan_say(ch, (uint64_t *)(void *)ch->lane_out, 0);
	vmpr_tx_begin(&ch->tx.ring, ch->lane_out, ch->cap, CW(ch->peer->consumed),
		     W(ch->me->ask), lane_nonce(ch->nonce, ch->side));
	ch->told_ready = true;
	chan_say(ch, W(ch->me->ready), ch->nonce);
}

/* The other end's lane is fresh: we may read, and are bound to it for good. */
static void bind(struct vmp_channel *ch)
{
	vmpr_rx_init(&ch->rx.ring, ch->lane_in, ch->cap, W(ch->me->consumed),
		     CW(ch->peer->ask), lane_nonce(ch->nonce, !ch->side));
	ch->told_live = true;
	chan_say(ch, W(ch->me->live), ch->nonce);
	/* Pairs with the load in chan_try(): the ring is set up. */
	store_release(&ch->stage, STAGE_LIVE);
}

/* The incarnation that the other side's structure speaks for now, 0: nobody to pair with. */
static uint64_t suitor(struct vmp_channel *ch)
{
	uint64_t y = load_acquire(CW(ch->peer->incarnation));

	if (!y || load_acquire(CW(ch->peer->hello)) != CHAN_HELLO ||
	    load_acquire(CW(ch->peer->capacity)) != ch->cap)
		return 0;
	/* Closed: only worth it if it may have sent to us before. */
	if (load_acquire(CW(ch->peer->closed)) == y && y != ch->peer_inc)
		return 0;
	return y;
}

/*
 * A producer that is not bound yet, and whose consumer was, and died: the successor reads
 * what there may be in this lane, and nobody will ever court us here. (Nobody else is at
 * once gone and live: see "Hand-over" in linux/portal_layout.h.)
 */
static bool handed_over(const struct vmp_channel *ch)
{
	return ch->row && ch->told_ready && !ch->told_live &&
	       !load_acquire(CW(ch->peer->incarnation)) &&
	       load_acquire(CW(ch->peer->live)) == ch->nonce;
}

/* One round; returns whether anything was said. Lock held. */
static bool advance(struct vmp_channel *ch)
{
	bool said = false;
	uint64_t y;

	if (!ch->told_live) {
		y = suitor(ch);
		if (!y)
			return false;
		if (y != ch->peer_inc) {
			court(ch, y);
			said = true;
		}
		if (!ch->told_ready) {
			if (load_acquire(CW(ch->peer->ack)) != ch->inc)
				return said;
			tell_ready(ch);
			said = true;
		}
		if (load_acquire(CW(ch->peer->ready)) != ch->nonce)
			return said;
		bind(ch);
		/* It may have died before we knew it: nobody tells of that again. */
		if (ch->row)
			judge_session(ch);
		said = true;
	}
	if (load_acquire(CW(ch->peer->live)) == ch->nonce)
		/* Pairs with the load in tx_try(). */
		store_release(&ch->stage, STAGE_SEND);
	return said;
}

/*
 * Each word of the handshake hails the other end. One that changes its incarnation
 * without end must not make us ring, whom it names, without end: so many at once, then
 * one every some milliseconds. Who is not hailed finds out by himself: nobody sleeps for
 * ever before the handshake is through. Lock held.
 */
#define HAILS		8U
#define HAIL_EVERY_NS	INT64_C(4000000)

static bool may_hail(struct vmp_channel *ch)
{
	int64_t now = now_ns(), n = (now - ch->hails_at) / HAIL_EVERY_NS;

	if (n) {
		ch->hails = n < HAILS - ch->hails ? ch->hails + (unsigned int)n : HAILS;
		ch->hails_at = now;
	}
	if (!ch->hails)
		return false;
	ch->hails--;
	return true;
}

int chan_step(struct vmp_channel *ch)
{
	bool said = false;
	int r;

	pthread_mutex_lock(&ch->lock);
	r = load_relaxed(&ch->dead);
	if (!r && load_relaxed(CW(ch->me->incarnation)) != ch->inc)
		r = -EBUSY;
	if (!r && handed_over(ch))
		r = -ECONNRESET;
	if (!r && ch->stage != STAGE_SEND)
		said = advance(ch) && may_hail(ch);
	pthread_mutex_unlock(&ch->lock);
	if (said)
		chan_hail(ch);
	return r ? chan_fail(ch, r) : 0;
}

int chan_peer_state(struct vmp_channel *ch)
{
	uint64_t y;

	if (load_relaxed(&ch->dead))
		return load_relaxed(&ch->dead);
	if (load_relaxed(CW(ch->me->incarnation)) != ch->inc)
		return -EBUSY;
	if (load_acquire(&ch->stage) == STAGE_OPEN)
		return 0;
	/*
	 * In this order: an end that closed and was opened anew stored closed before
	 * it stored incarnation. Both pair with release stores, so that what was
	 * committed before is seen by the caller's last look.
	 */
	y = load_acquire(CW(ch->peer->incarnation));
	if (load_acquire(CW(ch->peer->closed)) == ch->peer_inc)
		return -EPIPE;
	if (y != ch->peer_inc || load_acquire(&ch->peer_gone))
		return -ECONNRESET;
	return 0;
}

void chan_die(struct vmp_channel *ch, int err)
{
	if (!__atomic_exchange_n(&ch->dead, err, __ATOMIC_ACQ_REL))
		vmp_notice(ch->p);
}

int chan_mismatch(struct vmp_channel *ch)
{
	uint64_t hello = load_acquire(CW(ch->peer->hello));
	uint64_t cap = load_acquire(CW(ch->peer->capacity));

	if (!load_acquire(CW(ch->peer->incarnation)) || (uint32_t)hello != PORTAL_CHAN_MAGIC)
		return 0;
	if (hello != CHAN_HELLO)
		return vmp_fail(-EPROTONOSUPPORT, "%s: the other end speaks version %u of the channel's layout, this one version %u: update the older of the two",
				ch->p->info.identity, (uint32_t)(hello >> 32), PORTAL_CHAN_VERSION);
	if (cap != ch->cap)
		return vmp_fail(-EPROTONOSUPPORT, "%s: the other end has opened lanes of %" PRIu64 " bytes, this one of %" PRIu64 ": give both the same offset and length",
				ch->p->info.identity, cap, ch->cap);
	return 0;
}

int chan_fail(struct vmp_channel *ch, int err)
{
	const char *who = ch->p->info.identity;
	int r;

	/* A region that was taken away shows zeroes or garbage: that comes first. */
	if (err != -EPIPE) {
		r = vmp_refresh(ch->p);
		if (r == -ENODEV)
			err = r;
	}
	if (err == -EPROTO || err == -EBUSY || err == -ENODEV || err == -ESTALE ||
	    (err == -ECONNRESET && ch->pk))
		chan_die(ch, err);
	if (ch->pk && err == -EPROTO)
		return vmp_fail(err, "%s: the host broke VMBus's rules in a packet ring of vector %u, or somebody else writes there; bind the device anew",
				who, ch->vector);
	if (ch->pk && err == -ECONNRESET)
		return vmp_fail(err, "%s: the packet rings were set up anew (suspend, reset); close this channel and open it again",
				who);
	switch (err) {
	case -EPIPE:
		return vmp_fail(err, "%s: the other end has closed the channel", who);
	case -ECONNRESET:
		return vmp_fail(err, "%s: the other end %s; close this end and open it again", who,
				load_relaxed(&ch->peer_gone) ? "has died" : "was opened anew");
	case -EBUSY:
		return vmp_fail(err, "%s: another program has opened side %u of this channel; one end opens side 0, the other side 1",
				who, ch->side);
	case -ENODEV:
		return vmp_fail(err, "%s: the portal is gone (unplugged or unbound)", who);
	case -ESTALE:
		/* Whose session is over has his own text. */
		if (vmp_session_check(ch->p) == err)
			return err;
		return vmp_fail(err, "%s: the portal was formatted anew, and this channel is none of its channels by name any more; close the portal and open it anew",
				who);
	case -EPROTO:
		return vmp_fail(err, "%s: what stands in shared memory is no message of this channel: the other side broke the protocol, or somebody else writes there; both ends must open it again",
				who);
	default:
		return vmp_fail(err, "%s: channel failed", who);
	}
}

int chan_broken(struct vmp_channel *ch)
{
	int s = ch->pk ? packet_check(ch) : chan_peer_state(ch);

	return chan_fail(ch, s && s != -EPIPE ? s : -EPROTO);
}
