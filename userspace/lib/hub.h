/* SPDX-License-Identifier: MIT */
/*
 * Channels by name (linux/portal_layout.h): many producers, one consumer, the hub.
 * hub.c is what its user calls, hub_lane.c the life of a lane, hub_wait.c its sleeps;
 * hub_producer.c is the producer's part; hub_name.c finds the object, for both.
 *
 * A lane's channel is an ordinary one but for its sleeps: it has no descriptors of its
 * own, the hub sleeps for all of them at once.
 *
 * Threads: a hub is used by one at a time.
 */
#ifndef VMP_HUB_H
#define VMP_HUB_H

#include "channel.h"
#include "named.h"

/* As the hub knows it. */
enum lane_state {
	LANE_FREE,	/* nobody had it when we looked */
	LANE_TAKEN,	/* we have not opened our side yet */
	LANE_OPEN,
	LANE_ENDED,	/* read to its end, or broken; its owner has not let go yet */
};

/**
 * struct lane - one producer's
 * @row, @area: its place in the object
 * @ch: our end; NULL before LANE_OPEN
 * @owner: the producer's session; @serial: which use of the lane, of this hub's
 * @again: positions before this may have been shown by our predecessor
 * @tell: events that the user has not been told of: bits 1 << VMP_FROM_*
 * @dead: the owner is, proven; @suspect: as we know and have told
 * @adopted: it had its owner before we came: there may be something to inherit
 * @inherited: we read what our predecessor left, and nobody answers
 * @room: bytes that the user has found no room for, and is to be told when there is; or 0.
 *	That is the descriptor's affair: whoever waits in a call does not look
 * @published: before the last sleep something was given back
 */
struct lane {
	struct portal_hub_lane *row;
	void *area;
	struct vmp_channel *ch;
	uint64_t owner, serial;
	uint64_t again;
	enum lane_state state;
	unsigned int tell;
	bool dead, suspect, adopted, inherited, published;
	uint64_t room;
};

/**
 * struct hub_place - where a channel by name lies
 * @offset: of its object, in the region
 * @lanes, @capacity: its parameters, checked against its size
 * @token: our session
 * @named: the object, open; or NULL
 */
struct hub_place {
	uint64_t offset;
	uint32_t lanes;
	uint64_t capacity;
	uint64_t token;
	struct vmp_named *named;
};

/**
 * struct vmp_hub - the consumer's end
 * @err: its final error
 * @at: the lane whose turn it is; @run: messages and events that it has had in a row
 * @shown: the lane whose message is peeked, or NULL; @last: whose that is
 * @serial: counts uses of lanes, from a random number on
 * @address: where to ring us, as published; @generation: of the device then
 * @ep, @ufd, @timer, @watch: as a channel's; @nap_ns, @spin_ns: as a waiter's
 * @timer_ns: for how long the timer was set last; 0: it will not fire
 * @looked_at, @look_due: as a channel's; @polled_at: the same for the tables
 * @moved: messages read; @nap_moved: of these when the present wait began; @looked: when the
 *	tables were looked at last, for who is never idle
 * @deserted: nobody tells of deaths any more
 * @tell_room: who waits for room in some lane should try again: by the descriptor
 * @gone: counts of ends that are no more
 */
struct vmp_hub {
	struct vmp *p;
	struct hub_place place;
	struct portal_hub *head;
	struct vmp_channel_opts opts;
	unsigned int flags;
	pid_t pid;
	bool bells;
	int err;
	struct lane *lane;
	uint32_t lanes;
	uint32_t at, run;
	struct lane *shown;
	struct vmp_from last;
	uint64_t serial;
	uint64_t address;
	uint32_t generation;
	int ep, ufd, timer, watch;
	bool look_due, tell_room, deserted;
	int64_t timer_ns, nap_ns, spin_ns, looked_at, polled_at;
	uint64_t moved, nap_moved, looked;
	struct counts n;
	struct vmp_stats gone;
};

/* ---- hub.c ---- */

/* The consumer's part, once the place is known; it owns @at->named from then on. */
int hub_open_at(struct vmp_hub **h, struct vmp *p, const struct hub_place *at,
		const struct vmp_hub_opts *o);

void hub_add_stats(struct vmp_stats *sum, const struct vmp_channel *ch);

/* ---- hub_lane.c ---- */

void hub_lanes_adopt(struct vmp_hub *h);
/* Free them; if the hub is ours, and not a parent process's, tell the senders. */
void hub_lanes_close(struct vmp_hub *h, bool ours);

/*
 * The next message or event of @l, without waiting: the message's length (from->event is
 * VMP_FROM_MESSAGE), 0 for an event, -EAGAIN, or the hub's final error.
 */
int64_t lane_next(struct vmp_hub *h, struct lane *l, const void **ptr, struct vmp_from *from);

/* Would lane_next() find something? */
bool lane_look(struct vmp_hub *h, struct lane *l);

/* A table has changed: whose session is dead, suspect? 0, or the hub's final error. */
int hub_judge(struct vmp_hub *h);

/* ---- hub_wait.c ---- */

int hub_waits_init(struct vmp_hub *h);
void hub_waits_close(struct vmp_hub *h);
int hub_wait(struct vmp_hub *h, struct patience *pt);

/* Who does not sleep notices too that a table has changed: once a millisecond. */
int hub_poll_tables(struct vmp_hub *h);

/* Publish where to ring us. */
void hub_set_address(struct vmp_hub *h);

/* There was none for @len bytes in @l: have the descriptor tell when there is. True: there is now. */
bool hub_want_room(struct vmp_hub *h, struct lane *l, size_t len);

/* Nobody waits for room in @l any more. */
void hub_need_no_room(struct vmp_hub *h, struct lane *l);

/* As chan_is_ours(), of all that the consumer alone stores. */
static inline const uint64_t *hub_lease(const struct vmp_hub *h)
{
	return (const uint64_t *)&h->head->consumer;
}

static inline bool hub_is_ours(const struct vmp_hub *h)
{
	return load_relaxed(hub_lease(h)) == h->place.token;
}

/* As chan_say(), where there is no channel, or not yet. */
static inline void hub_say(const struct vmp_hub *h, uint64_t *word, uint64_t then)
{
	lease_say(hub_lease(h), h->place.token, word, then);
}

/* ---- hub_producer.c ---- */

/* The producer's part, as hub_open_at(). -EUSERS: no lane is free. */
int hub_channel_at(struct vmp_channel **ch, struct vmp *p, const struct hub_place *at,
		   const struct vmp_channel_opts *o);

/* A producer stores nothing more in its lane. */
void hub_leave(struct vmp_channel *ch);

/* ---- hub_name.c ---- */

/* Close what was opened for a hub_place; NULL is allowed. */
void hub_let_go(struct vmp_named *n);

static inline struct portal_hub_lane *hub_row(void *object, uint32_t lane)
{
	return (struct portal_hub_lane *)((char *)object + sizeof(struct portal_hub)) + lane;
}

static inline void *hub_area(void *object, uint32_t lanes, uint64_t capacity, uint32_t lane)
{
	return (char *)object + layout_hub_areas(lanes) + lane * layout_hub_area(capacity);
}

#endif /* VMP_HUB_H */
