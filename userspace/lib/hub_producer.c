// SPDX-License-Identifier: MIT
/*
 * A producer of a channel by name: it takes a lane, and lets go of it. In between it has an
 * ordinary channel (channel.c), whose other end is the hub.
 */
#include <unistd.h>

#include "hub.h"

#define W(x)	((uint64_t *)&(x))
#define CW(x)	((const uint64_t *)&(x))

/* A lane that was free, from somewhere on; NULL: none is. */
static struct portal_hub_lane *take_lane(const struct hub_place *at, void *object, uint32_t *lane)
{
	/* Two that come at once do not try the same ones. */
	uint32_t i, k = life_low(at->token) % at->lanes;
	struct portal_hub_lane *row;
	uint64_t none;

	for (i = 0; i < at->lanes; i++, k = (k + 1) % at->lanes) {
		row = hub_row(object, k);
		none = 0;
		if (load_relaxed(CW(row->owner)))
			continue;
		/* Pairs with the last store of reset() in hub_lane.c: it is empty. */
		if (__atomic_compare_exchange_n(W(row->owner), &none, at->token, false,
						__ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
			*lane = k;
			return row;
		}
	}
	return NULL;
}

/* It is there; the hub, if there is one, hears of it. */
static int begin(struct vmp_channel *ch)
{
	int r = chan_waiters_init(ch);

	if (r)
		return r;
	chan_announce(ch);
	vmp_step(STEP_LANE_OPEN);
	/* Also pairs with that between wait_arm() and wait_disarm(), of who had it before. */
	vmpr_full_fence();
	chan_ring_at(ch, load_acquire(CW(ch->hub->address)));
	return chan_step(ch);
}

int hub_channel_at(struct vmp_channel **out, struct vmp *p, const struct hub_place *at,
		   const struct vmp_channel_opts *o)
{
	void *object = (char *)p->base + at->offset;
	struct vmp_channel *ch;
	uint32_t lane = 0;
	int r;

	*out = NULL;
	r = chan_alloc(&ch, p, o);
	if (r)
		return r;
	ch->token = at->token;
	ch->hub = object;
	ch->watch = wait_tables(p);
	if (ch->watch < 0) {
		r = ch->watch;
		chan_free(ch);
		return r;
	}
	ch->row = take_lane(at, object, &lane);
	if (!ch->row) {
		chan_free(ch);
		return vmp_fail(-EUSERS, "%s: all %u lanes of this channel are taken", p->info.identity, at->lanes);
	}
	ch->lease = CW(ch->row->owner);
	vmp_step(STEP_LANE_TAKEN);
	chan_lay_out(ch, hub_area(object, at->lanes, at->capacity, lane), at->capacity, 1);
	r = begin(ch);
	if (r) {
		vmp_channel_close(ch);
		return r;
	}
	ch->named = at->named;
	*out = ch;
	return 0;
}

/*
 * We store nothing there any more. The lane may be another's, if we were declared dead by
 * mistake: what he has said after we looked whose it is stays.
 */
static void say_left(struct portal_hub_lane *row, uint64_t token)
{
	uint64_t was;
	int tries;

	for (tries = 0; tries < 4; tries++) {
		was = load_acquire(CW(row->left));
		/* Pairs with the load in over() in hub_lane.c. */
		if (load_relaxed(CW(row->owner)) != token || hand_on(W(row->left), was, token))
			return;
	}
}

void hub_leave(struct vmp_channel *ch)
{
	if (ch->pid == getpid()) {
		vmp_step(STEP_LANE_CLOSED);
		say_left(ch->row, ch->token);
		vmp_step(STEP_LANE_LEFT);
		vmpr_full_fence();
		chan_ring_at(ch, load_acquire(CW(ch->hub->address)));
	}
	hub_let_go(ch->named);
}

VMP_API int vmp_channel_peer_state(struct vmp_channel *ch)
{
	uint64_t token;

	if (!ch->row)
		return vmp_fail(-EINVAL, "vmp_channel_peer_state: not a channel by name");
	pthread_mutex_lock(&ch->lock);
	token = ch->peer_token;
	pthread_mutex_unlock(&ch->lock);
	return token ? vmp_token_state(ch->p, token) : VMP_STATE_NONE;
}
