// SPDX-License-Identifier: MIT
/* The consumer of a channel by name: what its user calls. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "hub.h"

#define CW(x)	((const uint64_t *)&(x))

_Static_assert(sizeof(struct portal_hub) == 256 && sizeof(struct portal_hub_lane) == 128,
	       "a hub's header and its rows");
_Static_assert(PORTAL_HUB_CAPACITY_MIN >= VMPR_CAP_MIN && PORTAL_HUB_CAPACITY_MAX == VMPR_CAP_MAX,
	       "a lane is a ring");

/* So many messages and events of one lane, while others may wait. */
#define RUN	16U
/* Who is never idle looks at the tables each so many messages. */
#define LOOK	64U

/* ---- Opening and closing ----------------------------------------------------- */

/* Each that fails was somebody else's; so many at a time are nobody's who means well. */
#define TRIES	64

/* Nobody receives by this name, or somebody who is dead: 0, or why not. */
static int take_over(struct vmp_hub *h)
{
	uint64_t *word = (uint64_t *)&h->head->consumer;
	uint64_t was = load_acquire(word);
	int state, tries = 0;

	do {
		if (tries++ == TRIES)
			return vmp_fail(-EPROTO, "%s: another program writes over the word that says who receives by this name",
					h->p->info.identity);
		/* A token that never was is nobody's. */
		state = was ? vmp_token_state(h->p, was) : VMP_STATE_DEAD;
		if (was == h->place.token)
			return vmp_fail(-EBUSY, "%s: this process receives by this name already", h->p->info.identity);
		if (state >= 0 && state != VMP_STATE_DEAD)
			return vmp_fail(-EBUSY, "%s: another process (session %#" PRIx64 ") receives by this name%s", h->p->info.identity,
					was, state == VMP_STATE_SUSPECT ? "; its machine is suspect, but not known to be dead" : "");
		/* Pairs with the store in vmp_hub_close(): what it did is seen. */
	} while (!__atomic_compare_exchange_n(word, &was, h->place.token, false, __ATOMIC_ACQ_REL,
					      __ATOMIC_ACQUIRE));
	/* Pairs with the fence between wait_arm() and wait_disarm(), of who had it before. */
	vmpr_full_fence();
	vmp_step(STEP_HUB_TAKEN);
	store_relaxed((uint64_t *)&h->head->count, load_relaxed(CW(h->head->count)) + 1);
	return 0;
}

static void free_hub(struct vmp_hub *h)
{
	hub_waits_close(h);
	free(h->lane);
	free(h);
}

static int new_hub(struct vmp_hub **out, struct vmp *p, const struct hub_place *at,
		   const struct vmp_hub_opts *o)
{
	struct vmp_hub *h = calloc(1, sizeof(*h));
	char *object = (char *)p->base + at->offset;
	uint32_t i;

	if (h)
		h->lane = calloc(at->lanes, sizeof(*h->lane));
	if (!h || !h->lane) {
		free(h);
		return vmp_fail(-ENOMEM, "vmp_hub_open: out of memory");
	}
	/* What another hub's user has kept of a sender names none of ours. */
	if (getrandom(&h->serial, sizeof(h->serial), 0) < 0) {
		free(h->lane);
		free(h);
		return vmp_fail(-errno, "getrandom: %s", strerror(errno));
	}
	h->p = p;
	h->pid = getpid();
	h->place = *at;
	h->head = (struct portal_hub *)(void *)object;
	h->flags = o->flags;
	h->lanes = at->lanes;
	h->opts.size = sizeof(h->opts);
	h->opts.vector = o->vector;
	h->opts.spin_us = o->spin_us;
	h->opts.flags = o->flags & VMP_HUB_NO_SLEEP ? VMP_CH_NO_SLEEP : 0;
	for (i = 0; i < h->lanes; i++) {
		h->lane[i].row = hub_row(object, i);
		h->lane[i].area = hub_area(object, at->lanes, at->capacity, i);
	}
	*out = h;
	return 0;
}

int hub_open_at(struct vmp_hub **out, struct vmp *p, const struct hub_place *at,
		const struct vmp_hub_opts *o)
{
	struct vmp_hub *h = NULL;
	int r = new_hub(&h, p, at, o);

	if (r)
		return r;
	r = hub_waits_init(h);
	if (!r)
		r = take_over(h);
	if (r) {
		free_hub(h);
		return r;
	}
	hub_set_address(h);
	hub_lanes_adopt(h);
	/* Who died before we had his name in our list: nobody tells of that again. */
	hub_judge(h);
	*out = h;
	return 0;
}

VMP_API void vmp_hub_close(struct vmp_hub *h)
{
	struct vmp_named *named;

	if (!h)
		return;
	vmp_hold_errmsg(true);
	named = h->place.named;
	hub_lanes_close(h, h->pid == getpid());
	if (h->pid == getpid()) {
		vmp_step(STEP_HUB_CLOSED);
		hand_on((uint64_t *)&h->head->consumer, h->place.token, 0);
	}
	free_hub(h);
	hub_let_go(named);
	vmp_hold_errmsg(false);
}

/* ---- Receiving ---------------------------------------------------------------- */

/* The next lane's turn, if this one has had enough. */
static void take_turns(struct vmp_hub *h, uint32_t lane)
{
	if (lane != h->at) {
		h->at = lane;
		h->run = 0;
	}
	if (++h->run >= RUN) {
		h->at = (lane + 1) % h->lanes;
		h->run = 0;
	}
}

/* As lane_next(), of any lane. */
static int64_t next(struct vmp_hub *h, const void **ptr, struct vmp_from *from)
{
	int64_t n, none = -EAGAIN;
	uint32_t i, k = h->at;

	if (unlikely(!vmp_mapped_here(h->p)))
		return vmp_not_a_child(h->p);
	if (unlikely(h->err))
		return vmp_fail(h->err, "%s: this hub has failed before", h->p->info.identity);
	if (h->shown) {
		*from = h->last;
		return chan_try(h->shown->ch, ptr);
	}
	if (unlikely(!hub_is_ours(h))) {
		h->err = hub_judge(h);
		if (h->err)
			return h->err;
	}
	if (unlikely(h->moved - h->looked >= LOOK)) {
		h->looked = h->moved;
		if (hub_poll_tables(h))
			return h->err;
	}
	for (i = 0; i < h->lanes; i++, k = k + 1 == h->lanes ? 0 : k + 1) {
		n = lane_next(h, &h->lane[k], ptr, from);
		if (n == -EAGAIN)
			continue;
		/* Not the others' fault. */
		if (n == -ENOMEM) {
			none = n;
			continue;
		}
		if (n < 0) {
			h->err = (int)n;
			return n;
		}
		/* Those who come and go all the time hold up nobody's messages, either. */
		take_turns(h, k);
		if (from->event == VMP_FROM_MESSAGE) {
			h->shown = &h->lane[k];
			h->last = *from;
		}
		return n;
	}
	return none;
}

static ssize_t peek(struct vmp_hub *h, const void **ptr, struct vmp_from *from, int timeout_ms)
{
	struct patience pt = { .timeout_ms = timeout_ms };
	int64_t n;
	int r;

	for (;;) {
		n = next(h, ptr, from);
		if (n != -EAGAIN)
			return (ssize_t)n;
		r = hub_wait(h, &pt);
		if (r)
			return r;
	}
}

VMP_API ssize_t vmp_hub_peek(struct vmp_hub *h, const void **ptr, struct vmp_from *from,
			     int timeout_ms)
{
	struct vmp_from nobody;

	if (!from && h->flags & VMP_HUB_EVENTS)
		return vmp_fail(-EINVAL, "with VMP_HUB_EVENTS, from must not be NULL: nothing else tells an event from a message");
	return peek(h, ptr, from ? from : &nobody, timeout_ms);
}

/* 0; or it is not, for it is the next hub's. */
static int consumed(struct vmp_hub *h)
{
	struct vmp_channel *ch = h->shown->ch;
	struct vmpr_rx *r = &ch->rx.ring;

	if (unlikely(!hub_is_ours(h))) {
		h->err = hub_judge(h);
		if (h->err)
			return h->err;
	}
	count(&h->n.messages, 1);
	count(&h->n.bytes, r->len);
	h->moved++;
	h->shown = NULL;
	if (vmpr_release(r) == 1)
		chan_notify(ch, TX);
	else
		/*
		 * At once, for our successor; the sender, who need not know, is told as
		 * ever. Pairs with the load in vmpr_tx_refresh(), should it look.
		 */
		store_release(r->cons, r->pos);
	vmp_step(STEP_LANE_CONSUMED);
	return 0;
}

VMP_API int vmp_hub_release(struct vmp_hub *h)
{
	if (!vmp_mapped_here(h->p))
		return vmp_not_a_child(h->p);
	if (!h->shown)
		return vmp_fail(-EINVAL, "vmp_hub_release: no message was peeked");
	return consumed(h);
}

VMP_API ssize_t vmp_hub_recv(struct vmp_hub *h, void *buf, size_t cap, struct vmp_from *from,
			     int timeout_ms)
{
	const void *ptr;
	ssize_t n = vmp_hub_peek(h, &ptr, from, timeout_ms);
	int r;

	if (n < 0 || !h->shown)
		return n;
	if ((size_t)n > cap)
		return vmp_fail(-EMSGSIZE, "the next message has %zd bytes, the buffer %zu; it waits", n, cap);
	if (n)
		memcpy(buf, ptr, (size_t)n);
	r = consumed(h);
	return r ? r : n;
}

VMP_API int vmp_hub_poll(struct vmp_hub *h, vmp_hub_fn fn, void *arg, unsigned int limit)
{
	struct patience pt = { .timeout_ms = 0 };
	unsigned int done = 0;
	struct vmp_from from;
	const void *ptr;
	int64_t n;
	int stop, r;

	if (!limit)
		return vmp_fail(-EINVAL, "vmp_hub_poll: a limit of 0 would handle nothing");
	while (done < limit && done < INT32_MAX) {
		ptr = NULL;
		n = next(h, &ptr, &from);
		if (n == -EAGAIN && !done) {
			r = hub_wait(h, &pt);
			if (r)
				return r == -EAGAIN ? 0 : r;
			continue;
		}
		if (n < 0)
			return done || n == -EAGAIN ? (int)done : (int)n;
		stop = fn(arg, &from, from.event ? NULL : ptr, (size_t)n);
		r = h->shown ? consumed(h) : 0;
		if (r)
			return r;
		done++;
		if (stop)
			break;
	}
	return (int)done;
}

/* ---- Answering ---------------------------------------------------------------- */

static struct lane *whose(struct vmp_hub *h, const struct vmp_from *to)
{
	struct lane *l = to->lane < h->lanes ? &h->lane[to->lane] : NULL;

	if (!l || l->serial != to->serial || l->owner != to->token || l->state != LANE_OPEN || l->inherited)
		return NULL;
	return l;
}

VMP_API int vmp_hub_reply(struct vmp_hub *h, const struct vmp_from *to, const void *buf, size_t len,
			  unsigned int flags, int timeout_ms)
{
	struct lane *l = whose(h, to);
	struct vmp_channel *ch;
	int r = vmp_not_a_child(h->p);

	if (r)
		return r;
	if (h->err)
		return vmp_fail(h->err, "%s: this hub has failed before", h->p->info.identity);
	if (!l)
		return vmp_fail(-ESTALE, "%s: whoever sent this is gone, or sent it to a hub before this one",
				h->p->info.identity);
	ch = l->ch;
	if (timeout_ms && ch->tx.w.ep < 0 && !(ch->flags & VMP_CH_NO_SLEEP)) {
		r = wait_set(h->p, h->bells, h->opts.vector, h->watch);
		if (r < 0)
			return r;
		ch->tx.w.ep = r;
	}
	hub_need_no_room(h, l);
	r = vmp_send(ch, buf, len, flags, timeout_ms);
	if (r != -EAGAIN || h->ufd < 0 || !hub_want_room(h, l, len))
		return r;
	return vmp_send(ch, buf, len, flags, 0);
}

void hub_add_stats(struct vmp_stats *sum, const struct vmp_channel *ch)
{
	struct vmp_stats one;

	vmp_channel_stats(ch, &one, sizeof(one));
	sum->sent += one.sent;
	sum->sent_bytes += one.sent_bytes;
	sum->doorbells += one.doorbells;
	sum->wakeups += one.wakeups;
	sum->sleeps += one.sleeps;
	sum->syscalls += one.syscalls;
}

VMP_API void vmp_hub_stats(const struct vmp_hub *h, struct vmp_stats *st, size_t st_size)
{
	struct vmp_stats sum = h->gone;
	uint32_t i;

	for (i = 0; i < h->lanes; i++) {
		if (h->lane[i].ch)
			hub_add_stats(&sum, h->lane[i].ch);
	}
	sum.received = h->n.messages;
	sum.received_bytes = h->n.bytes;
	sum.wakeups += h->n.wakeups;
	sum.sleeps += h->n.sleeps;
	sum.syscalls += h->n.syscalls;
	memset(st, 0, st_size);
	memcpy(st, &sum, st_size < sizeof(sum) ? st_size : sizeof(sum));
}
