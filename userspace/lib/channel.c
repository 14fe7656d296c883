// SPDX-License-Identifier: MIT
/* Channels: opening, closing, and what can be asked of them. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "channel.h"
#include "hub.h"

_Static_assert(sizeof(struct portal_chan_side) == PORTAL_CHAN_SIDE_SIZE, "side's size");
_Static_assert(2 * PORTAL_CHAN_SIDE_SIZE <= PORTAL_CHAN_ALIGN, "both sides in the first page");
_Static_assert(offsetof(struct portal_chan_side, consumed) == 128, "blocks are 128 apart");
_Static_assert(offsetof(struct portal_chan_side, rx_armed) == 256, "blocks are 128 apart");
_Static_assert(offsetof(struct portal_chan_side, ask) == 384, "blocks are 128 apart");
_Static_assert(offsetof(struct portal_chan_side, rx_rung) == 512, "blocks are 128 apart");

/* The options of the first version; no caller has fewer. */
#define OPTS_SIZE_0	40U
#define OPTS_SIZE_MOST	4096U
_Static_assert(sizeof(struct vmp_channel_opts) >= OPTS_SIZE_0, "options only grow");

/* Copy what the caller's version of the options has; the rest is 0. */
int chan_read_opts(struct vmp_channel_opts *o, const struct vmp_channel_opts *from)
{
	memset(o, 0, sizeof(*o));
	if (!from)
		return 0;
	if (from->size < OPTS_SIZE_0 || from->size > OPTS_SIZE_MOST)
		return vmp_fail(-EINVAL, "vmp_channel_open: opts.size must be sizeof(struct vmp_channel_opts)");
	if (from->size > sizeof(*o)) {
		const char *c = (const char *)from;
		uint32_t i;

		for (i = sizeof(*o); i < from->size; i++)
			if (c[i])
				return vmp_fail(-EINVAL, "vmp_channel_open: an option that this version of libvmportal does not know");
	}
	memcpy(o, from, from->size < sizeof(*o) ? from->size : sizeof(*o));
	if (o->flags & ~(VMP_CH_NO_SLEEP | VMP_CH_PACKETS) || o->reserved)
		return vmp_fail(-EINVAL, "vmp_channel_open: undefined flags 0x%x, or reserved is not 0", o->flags);
	if (o->vector > 0xffff)
		return vmp_fail(-EINVAL, "vmp_channel_open: vector %u: they are below 65536", o->vector);
	if (o->side > 1)
		return vmp_fail(-EINVAL, "vmp_channel_open: side %u: one end is side 0, the other side 1", o->side);
	return 0;
}

/* The largest power of two of which two fit. */
static uint64_t lane_capacity(uint64_t length)
{
	uint64_t cap = VMPR_CAP_MIN;

	while (cap < VMPR_CAP_MAX && PORTAL_CHAN_ALIGN + 4 * cap <= length)
		cap *= 2;
	return cap;
}

/* Packet rings are somewhere else, and have no sides. */
static int check_packets(const struct vmp *p, const struct vmp_channel_opts *o)
{
	if (o->side || o->offset || o->length)
		return vmp_fail(-EINVAL, "vmp_channel_open: with VMP_CH_PACKETS, side, offset and length are 0: the rings are not in the region");
	if (!(p->info.caps & VMP_CAP_PACKETS) || !p->ops->packets)
		return vmp_fail(-EOPNOTSUPP, "%s %s: this portal has no packet rings; only VMBus (portal_vmbus) has",
				p->info.transport, p->info.identity);
	if (o->vector >= p->info.vectors || o->vector >= VMP_MAX_VECTORS)
		return vmp_fail(-EINVAL, "%s: no vector %u; it has %u", p->info.identity, o->vector, p->info.vectors);
	return 0;
}

static int check_area(struct vmp *p, struct vmp_channel_opts *o)
{
	uint64_t first, length;
	int r;

	if (!p->info.size)
		return vmp_fail(-EOPNOTSUPP, "%s %s: this portal has no region; open the channel with VMP_CH_PACKETS",
				p->info.transport, p->info.identity);
	r = vmp_data(p, &first, &length);
	if (!r && p->super)
		r = vmp_same_tables(p);
	if (r)
		return r;
	if (!o->offset)
		o->offset = first;
	if (o->offset % PORTAL_CHAN_ALIGN)
		return vmp_fail(-EINVAL, "vmp_channel_open: offset %" PRIu64 " is not a multiple of %u",
				o->offset, PORTAL_CHAN_ALIGN);
	if (o->offset < first)
		return vmp_fail(-EACCES, "vmp_channel_open: offset %" PRIu64 " is among the tables of a managed portal, whose data begin at %" PRIu64,
				o->offset, first);
	if (o->offset > first + length || o->length > first + length - o->offset)
		return vmp_fail(-EINVAL, "vmp_channel_open: offset %" PRIu64 " and length %" PRIu64 " reach beyond the region's %" PRIu64 " bytes",
				o->offset, o->length, first + length);
	if (!o->length)
		o->length = first + length - o->offset;
	if (o->length < PORTAL_CHAN_MIN)
		return vmp_fail(-EINVAL, "vmp_channel_open: %" PRIu64 " bytes are too small for a channel, which takes at least %u: make the region, or the length, larger",
				o->length, PORTAL_CHAN_MIN);
	return 0;
}

static int new_incarnation(uint64_t *inc)
{
	ssize_t n;

	do {
		n = getrandom(inc, sizeof(*inc), 0);
		if (n < 0 && errno != EINTR)
			return vmp_fail(-errno, "getrandom: %s", strerror(errno));
	} while (n != sizeof(*inc) || !*inc);
	return 0;
}

void chan_lay_out(struct vmp_channel *ch, void *area, uint64_t cap, uint32_t s)
{
	unsigned char *lanes = (unsigned char *)area + PORTAL_CHAN_ALIGN;
	struct portal_chan_side *side = area;

	ch->side = s;
	ch->cap = cap;
	ch->me = &side[s];
	ch->peer = &side[!s];
	ch->lane_out = lanes + s * cap;
	ch->lane_in = lanes + !s * cap;
}

void chan_free(struct vmp_channel *ch)
{
	chan_waiters_close(ch);
	if (ch->pk)
		packet_close(ch);
	pthread_mutex_destroy(&ch->lock);
	free(ch);
}

int chan_alloc(struct vmp_channel **out, struct vmp *p, const struct vmp_channel_opts *o)
{
	struct vmp_channel *ch = aligned_alloc(128, (sizeof(*ch) + 127) / 128 * 128);
	int r;

	*out = NULL;
	if (!ch)
		return vmp_fail(-ENOMEM, "%s: out of memory for a channel", p->info.identity);
	memset(ch, 0, sizeof(*ch));
	ch->rx.w.ep = ch->tx.w.ep = ch->ufd = ch->timer = ch->watch = -1;
	ch->pid = getpid();
	pthread_mutex_init(&ch->lock, NULL);
	ch->p = p;
	ch->here = p->here;
	ch->flags = o->flags;
	ch->vector = o->vector;
	ch->spin_fixed = (int64_t)o->spin_us * 1000;
	ch->bells = p->info.caps & VMP_CAP_EVENTS && !(o->flags & VMP_CH_NO_SLEEP) &&
		    (p->info.peer_id != VMP_PEER_NONE || o->flags & VMP_CH_PACKETS);
	r = new_incarnation(&ch->inc);
	if (r)
		chan_free(ch);
	else
		*out = ch;
	return r;
}

VMP_API int vmp_channel_open(struct vmp_channel **out, struct vmp *p,
			     const struct vmp_channel_opts *opts)
{
	struct vmp_channel_opts o;
	struct vmp_channel *ch;
	int r;

	if (!out || !p)
		return vmp_fail(-EINVAL, "vmp_channel_open: ch and p must not be NULL");
	*out = NULL;
	r = chan_read_opts(&o, opts);
	if (!opts)
		o.vector = p->info.first_vector;
	if (!r)
		r = vmp_not_a_child(p);
	if (!r)
		r = o.flags & VMP_CH_PACKETS ? check_packets(p, &o) : check_area(p, &o);
	if (r)
		return r;
	if (p->flags & VMP_RDONLY)
		return vmp_fail(-EACCES, "%s was opened read-only: a channel's both ends write", p->info.identity);
	if (p->info.vectors && o.vector >= p->info.vectors && !(o.flags & VMP_CH_NO_SLEEP))
		return vmp_fail(-EINVAL, "%s: no vector %u; it has %u", p->info.identity, o.vector, p->info.vectors);
	r = chan_alloc(&ch, p, &o);
	if (r)
		return r;
	if (!(o.flags & VMP_CH_PACKETS))
		chan_lay_out(ch, (char *)p->base + o.offset, lane_capacity(o.length), o.side);
	else
		r = packet_open(ch);
	if (!r)
		r = chan_waiters_init(ch);
	if (r) {
		chan_free(ch);
		return r;
	}
	if (!ch->pk)
		chan_begin(ch);
	*out = ch;
	return 0;
}

/* Each time that it fails somebody else stored there; so often nobody does who means well. */
#define SAY_TRIES	4

void lease_say(const uint64_t *lease, uint64_t token, uint64_t *word, uint64_t then)
{
	uint64_t was;
	int tries;

	for (tries = 0; tries < SAY_TRIES; tries++) {
		/* Acquire: if this is what a successor has said, so is what is looked at next. */
		was = load_acquire(word);
		if (was == then || load_relaxed(lease) != token)
			return;
		vmp_step(STEP_SAYS);
		if (hand_on(word, was, then))
			return;
	}
}

void chan_say_closed(struct vmp_channel *ch)
{
	if (load_relaxed(&ch->stage) != STAGE_OPEN && !ch->rx.ring.err)
		/* Pairs with the load in vmpr_tx_refresh(), as in vmpr_publish(). */
		chan_say(ch, ch->rx.ring.cons, ch->rx.ring.pos);
	wait_disarm(ch, RX);
	wait_disarm(ch, TX);
	/* Pairs with the load in chan_peer_state(): all commits are before it. */
	chan_say(ch, (uint64_t *)&ch->me->closed, ch->inc);
}

VMP_API void vmp_channel_close(struct vmp_channel *ch)
{
	if (!ch)
		return;
	vmp_hold_errmsg(true);
	/*
	 * Ours still? Then say so; a successor's words are not ours to write, nor, in a
	 * child that inherited the channel, those of the process that opened it.
	 */
	if (!ch->pk && ch->pid == getpid() &&
	    load_relaxed((uint64_t *)&ch->me->incarnation) == ch->inc) {
		chan_say_closed(ch);
		vmpr_full_fence();
		if (ch->peer_inc && !ch->row)
			chan_hail(ch);
	}
	if (ch->row)
		hub_leave(ch);
	chan_free(ch);
	vmp_hold_errmsg(false);
}

VMP_API int vmp_channel_connect(struct vmp_channel *ch, int timeout_ms)
{
	struct patience pt = { .timeout_ms = timeout_ms };
	int r = vmp_not_a_child(ch->p);

	if (r)
		return r;
	for (;;) {
		r = chan_step(ch);
		if (!r && (r = chan_peer_state(ch)))
			r = chan_fail(ch, r);
		/* The other end of packet rings is the host, which is there. */
		if (r || ch->pk || load_acquire(&ch->stage) == STAGE_SEND)
			return r;
		r = chan_wait(ch, TX, 0, &pt);
		if (r)
			return r;
	}
}

VMP_API size_t vmp_channel_max(const struct vmp_channel *ch)
{
	return ch->pk ? vmpk_max(ch->pk->tx.size, 0) : (size_t)vmpr_max(ch->cap);
}

VMP_API void vmp_channel_stats(const struct vmp_channel *ch, struct vmp_stats *st, size_t st_size)
{
	struct vmp_stats s = {
		.sent = load_relaxed(&ch->tx.n.messages),
		.sent_bytes = load_relaxed(&ch->tx.n.bytes),
		.received = load_relaxed(&ch->rx.n.messages),
		.received_bytes = load_relaxed(&ch->rx.n.bytes),
		.doorbells = load_relaxed(&ch->doorbells),
		.wakeups = load_relaxed(&ch->rx.n.wakeups) + load_relaxed(&ch->tx.n.wakeups),
		.sleeps = load_relaxed(&ch->rx.n.sleeps) + load_relaxed(&ch->tx.n.sleeps),
		.syscalls = load_relaxed(&ch->rx.n.syscalls) + load_relaxed(&ch->tx.n.syscalls) +
			    load_relaxed(&ch->ring_syscalls),
	};

	memset(st, 0, st_size);
	memcpy(st, &s, st_size < sizeof(s) ? st_size : sizeof(s));
}
