// SPDX-License-Identifier: MIT
/*
 * Who does what, and how he ends: by the seed and his number. But a third is dealt steps at
 * which nobody has ended, or stood still, so far: no step is so rare that it never comes about.
 */
#include "crash.h"

const char *const op_name[OPS] = { "open", "send", "hub", "lock", "object", "window" };
const char *const fate_name[FATES] = {
	"killed", "killed at a step", "stopped", "stopped at a step", "killed after a fork",
	"became another program", "ended"
};
const char *const role_name[ROLES] = {
	"hub", "sender", "locker", "object's user", "all",
	"window's receiver", "sender through a window"
};

/* What those who end at a step were just doing. */
const char *const step_name[OWN_STEPS] = {
	[STEP_LOCK_PLACED] = "waiting for a lock", [STEP_LOCK_TAKEN] = "has a lock",
	[STEP_LOCK_INHERITED] = "has inherited a lock", [STEP_LOCK_FREED] = "has freed a lock",
	[STEP_LOCK_FLAGS] = "says how a lock stands", [STEP_LOCK_NOTED] = "counts who had a lock",
	[STEP_CHANGE_FILLED] = "change: filled", [STEP_CHANGE_RECORDED] = "change: recorded",
	[STEP_CHANGE_COMMITTED] = "change: committed", [STEP_CHANGE_BEGUN] = "change: begun",
	[STEP_CHANGE_STORE] = "change: a store", [STEP_CHANGE_DONE] = "change: done",
	[STEP_CHANGE_CLEARED] = "change: cleared", [STEP_OBJECT_PLACED] = "object: placed",
	[STEP_OBJECT_PIECE] = "object: a piece", [STEP_OBJECT_ZEROED] = "object: zeroed",
	[STEP_OBJECT_OPEN] = "object: open",
	[STEP_HUB_TAKEN] = "hub: taken", [STEP_HUB_CLOSED] = "hub: closed",
	[STEP_LANE_TAKEN] = "lane: taken", [STEP_LANE_OPEN] = "lane: open",
	[STEP_LANE_CLOSED] = "lane: closed", [STEP_LANE_LEFT] = "lane: left",
	[STEP_LANE_INHERITED] = "lane: inherited", [STEP_LANE_SHOWN] = "lane: shown",
	[STEP_LANE_CONSUMED] = "lane: consumed", [STEP_SAYS] = "hub, lane: a word", [STEP_ARMS] = "arms",
	[STEP_DISARMS] = "disarms", [STEP_LANE_OVER] = "lane: over", [STEP_LANE_EMPTY] = "lane: empty",
	[STEP_LANE_RESET] = "lane: reset", [STEP_LANE_CLEARED] = "lane: cleared",
	[OWN_NOTED] = "message noted", [OWN_RESERVED] = "message half written",
	[OWN_SENT] = "message sent",
	[OWN_HALF] = "half of a change under a lock", [OWN_FILLED] = "object half full",
};

uint64_t rnd(struct rng *r)
{
	r->s ^= r->s >> 12;
	r->s ^= r->s << 25;
	r->s ^= r->s >> 27;
	return r->s * UINT64_C(2685821657736338717);
}

uint64_t below(struct rng *r, uint64_t n)
{
	return rnd(r) % n;
}

/* Weights, of a hundred. */
static enum fate a_fate(struct rng *r)
{
	static const unsigned char weight[FATES] = { 42, 39, 3, 2, 5, 4, 5 };
	unsigned int n = (unsigned int)below(r, 100), i;

	for (i = 0; n >= weight[i]; i++)
		n -= weight[i];
	return (enum fate)i;
}

/* What a life seldom comes by: others must have died in the right moment. */
static const int rare[] = {
	STEP_LOCK_INHERITED, STEP_LOCK_FLAGS, STEP_HUB_TAKEN, STEP_HUB_CLOSED, STEP_LANE_INHERITED,
	STEP_LANE_SHOWN, STEP_LANE_EMPTY, STEP_LANE_RESET, STEP_LANE_CLEARED,
};

#define RARE	(sizeof(rare) / sizeof(rare[0]))

static bool is_rare(int step)
{
	unsigned int i;

	for (i = 0; i < RARE && rare[i] != step; i++)
		;
	return i < RARE;
}

static int a_step(struct rng *r, enum role role)
{
	static const int own[] = { [ROLE_HUB] = OWN_NOTED, OWN_RESERVED, OWN_HALF, OWN_FILLED };

	if (role < ROLE_ALL && !below(r, 6))
		return own[role];
	switch (role) {
	case ROLE_HUB:
		/* Its own: hubs', and lanes' from the inherited on. */
		return below(r, 4) ? STEP_LANE_INHERITED + (int)below(r, STEP_DISARMS - STEP_LANE_INHERITED + 1) :
			STEP_HUB_TAKEN + (int)below(r, 2);
	case ROLE_SEND:
		return !below(r, 4) ? STEP_ARMS + (int)below(r, 2) :
			STEP_LANE_TAKEN + (int)below(r, STEP_LANE_LEFT - STEP_LANE_TAKEN + 1);
	case ROLE_LOCK:
		return !below(r, 3) ? below(r, 2) ? STEP_LOCK_FLAGS : STEP_LOCK_INHERITED :
			STEP_LOCK_PLACED + (int)below(r, STEP_LOCK_FREED - STEP_LOCK_PLACED + 1);
	case ROLE_OBJECT:
		return below(r, 4) ? STEP_CHANGE_FILLED + (int)below(r, STEP_OBJECT_OPEN - STEP_CHANGE_FILLED + 1) :
			STEP_LOCK_PLACED + (int)below(r, STEP_LOCK_FREED - STEP_LOCK_PLACED + 1);
	case ROLE_HOLD:
		return OWN_NOTED;
	case ROLE_WINDOW:
		return below(r, 2) ? OWN_RESERVED : OWN_SENT;
	default:
		return below(r, 2) ? rare[below(r, RARE)] : (int)below(r, OWN_STEPS);
	}
}

void make_plan(struct plan *p, uint64_t seed, uint32_t life, uint32_t slot, int stop_ms, bool windows)
{
	struct rng r = { seed * UINT64_C(0x9e3779b97f4a7c15) + (life + 1) * UINT64_C(0xc2b2ae3d27d4eb4f) };
	int i;

	memset(p, 0, sizeof(*p));
	for (i = 0; i < 4; i++)
		rnd(&r);
	p->life = life;
	/* Somebody is always about to receive. */
	p->channel = slot % CHANNELS;
	p->role = slot < CHANNELS ? ROLE_HUB : (enum role)below(&r, ROLE_ALL + 1);
	/* And through windows, one at each end. */
	if (windows && slot >= CHANNELS && slot < CHANNELS + 2)
		p->role = slot == CHANNELS ? ROLE_HOLD : ROLE_WINDOW;
	p->fate = a_fate(&r);
	p->step = a_step(&r, p->role);
	p->after = (int)below(&r, is_rare(p->step) ? 1 : below(&r, 4) ? 4 : 40);
	p->delay_us = (int64_t)below(&r, below(&r, 4) ? 25000 : 150000);
	p->stop_ms = stop_ms + (int)below(&r, (uint64_t)stop_ms);
	p->ops = 5 + (int)below(&r, 60);
	if (is_rare(p->step))
		p->ops *= 5;
	/* It is to see others end. */
	if (p->role == ROLE_HOLD)
		p->delay_us *= 8, p->after *= 8;
}

/* ---- Dealt out ----------------------------------------------------------------------- */

/* Whose life comes by it. */
static enum role whose(int step)
{
	if (step <= STEP_LOCK_FREED || step == OWN_HALF)
		return ROLE_LOCK;
	if (step <= STEP_OBJECT_OPEN || step == OWN_FILLED)
		return ROLE_OBJECT;
	if (step == OWN_SENT)
		return ROLE_WINDOW;
	if ((step >= STEP_LANE_TAKEN && step <= STEP_LANE_LEFT) || step == STEP_ARMS || step == STEP_DISARMS ||
	    step == OWN_RESERVED)
		return ROLE_SEND;
	return ROLE_HUB;
}

/* Nobody was killed there so far; @stops: nobody was stopped. */
static bool is_missing(struct ledger *g, bool stops, int step, bool windows)
{
	return !atomic_load(&g->steps[stops][step]) && (windows || whose(step) != ROLE_WINDOW);
}

bool some_step_is_missing(struct ledger *g, bool windows)
{
	int i;

	for (i = 0; i < 2 * OWN_STEPS && !is_missing(g, i % 2, i / 2, windows); i++)
		;
	return i < 2 * OWN_STEPS;
}

/*
 * One of those that are missing; who is to be there in any case has his own alone. Who stands
 * still holds others up, so that fewer do.
 */
void deal_a_step(struct plan *p, struct rng *r, uint32_t slot, struct ledger *g, bool windows)
{
	uint32_t fixed = windows ? CHANNELS + 2 : CHANNELS, n = 0;
	bool stops = !(p->life % 9);
	enum role role = p->role;
	int step;

	if (p->life % 3)
		return;
	for (step = 0; step < OWN_STEPS; step++) {
		if (!is_missing(g, stops, step, windows) ||
		    (slot < fixed ? whose(step) != role : whose(step) == ROLE_WINDOW))
			continue;
		/* Each of @n so far with the same chance. */
		if (below(r, ++n))
			continue;
		p->role = whose(step);
		p->fate = stops ? FATE_STOP_STEP : FATE_STEP;
		p->step = step;
	}
	if (!n)
		return;
	p->after = 0;
	p->ops = (5 + (int)below(r, 60)) * (is_rare(p->step) ? 5 : 1);
}

void say_plan(const struct plan *p, char *buf, size_t size)
{
	const char *step = step_name[p->step] ? step_name[p->step] : "?";

	if (p->fate == FATE_STEP || p->fate == FATE_STOP_STEP)
		snprintf(buf, size, "life %u (%s, %s: '%s', %d times before)", p->life, role_name[p->role],
			 fate_name[p->fate], step, p->after);
	else
		snprintf(buf, size, "life %u (%s, %s)", p->life, role_name[p->role], fate_name[p->fate]);
}
