// SPDX-License-Identifier: MIT
/* Moving messages: send and receive, copied or in place. */
#include <string.h>

#include "channel.h"

#define CW(x)	((const uint64_t *)&(x))

_Static_assert(VMPR_AGAIN == -EAGAIN && VMPR_INVAL == -EINVAL && VMPR_PROTO == -EPROTO &&
	       VMPR_MSGSIZE == -EMSGSIZE, "the ring's errors are errnos");

/* ---- Sending ---------------------------------------------------------------- */

/* Room for @len bytes, without waiting; -EAGAIN has no text yet. */
static int tx_try(struct vmp_channel *ch, uint64_t len, void **ptr)
{
	int r = 0;

	/* Pairs with the store in chan_step(): the ring is set up. */
	if (load_acquire(&ch->stage) != STAGE_SEND)
		r = chan_step(ch);
	if (r)
		return r;
	r = chan_peer_state(ch);
	if (r)
		return chan_fail(ch, r);
	if (load_acquire(&ch->stage) != STAGE_SEND)
		return -EAGAIN;
	r = vmpr_reserve(&ch->tx.ring, len, ptr);
	return r == -EPROTO ? chan_broken(ch) : r;
}

static int too_long(struct vmp_channel *ch, size_t len)
{
	return vmp_fail(-EMSGSIZE, "a message of %zu bytes is longer than this channel's %zu; give the channel more memory, or split it",
			len, vmp_channel_max(ch));
}

uint64_t chan_need(const struct vmp_channel *ch, size_t len)
{
	const struct vmpr_tx *t = &ch->tx.ring;
	uint64_t rec = vmpr_record(len);
	uint64_t rest = ch->cap - (t->pos & (ch->cap - 1));

	return rec <= rest ? rec : rest + rec;
}

/* Not at once: what is amiss, or how long to wait. */
static __attribute__((noinline))
int reserve_slowly(struct vmp_channel *ch, void **ptr, size_t len, int timeout_ms)
{
	struct patience pt = { .timeout_ms = timeout_ms };
	int r = vmp_not_a_child(ch->p);

	if (r)
		return r;
	if (ch->pk)
		return packet_reserve(ch, ptr, 0, len, timeout_ms);
	if (len > vmp_channel_max(ch))
		return too_long(ch, len);
	for (;;) {
		r = tx_try(ch, len, ptr);
		if (r != -EAGAIN)
			return r;
		r = chan_wait(ch, TX, chan_need(ch, len), &pt);
		if (r)
			return r;
	}
}

/*
 * This process has the memory, and the other end is as it was when we met: all that a
 * sender looks at each time.
 */
static inline bool peer_is_well(const struct vmp_channel *ch)
{
	/* Pairs with the store in chan_step(): the ring is set up. */
	return *ch->here && load_acquire(&ch->stage) == STAGE_SEND &&
	       load_relaxed(CW(ch->peer->incarnation)) == ch->peer_inc &&
	       load_relaxed(CW(ch->peer->closed)) != ch->peer_inc &&
	       !(load_relaxed(&ch->peer_gone) | load_relaxed(&ch->dead));
}

static inline __attribute__((always_inline))
int reserve(struct vmp_channel *ch, void **ptr, size_t len, int timeout_ms)
{
	if (likely(peer_is_well(ch) && !vmpr_reserve(&ch->tx.ring, len, ptr)))
		return 0;
	return reserve_slowly(ch, ptr, len, timeout_ms);
}

VMP_API int vmp_reserve(struct vmp_channel *ch, void **ptr, size_t len, int timeout_ms)
{
	return reserve(ch, ptr, len, timeout_ms);
}

/* The record is published; tell the other end, or note that it is owed. */
static inline void committed(struct vmp_channel *ch, size_t len, unsigned int flags)
{
	count(&ch->tx.n.messages, 1);
	count(&ch->tx.n.bytes, len);
	if (flags & VMP_MORE) {
		/* Pairs with the exchange in chan_flush(): not before the record. */
		store_release(&ch->owe, 1);
	} else {
		store_relaxed(&ch->owe, 0);
		chan_notify(ch, RX);
	}
}

/* Whose lane it is may have changed since there was room: with its user in between, for long. */
static __attribute__((noinline)) int not_ours(struct vmp_channel *ch)
{
	int r = chan_judge_peer(ch);

	return chan_fail(ch, r ? r : -EPROTO);
}

VMP_API int vmp_commit(struct vmp_channel *ch, size_t len, unsigned int flags)
{
	if (unlikely(flags & ~VMP_MORE))
		return vmp_fail(-EINVAL, "vmp_commit: undefined flags 0x%x", flags);
	if (unlikely(!*ch->here))
		return vmp_not_a_child(ch->p);
	if (unlikely(ch->pk))
		return packet_commit_plain(ch, len, flags);
	if (unlikely(!chan_is_ours(ch)))
		return not_ours(ch);
	if (unlikely(load_acquire(&ch->stage) != STAGE_SEND || vmpr_commit(&ch->tx.ring, len)))
		return vmp_fail(-EINVAL, "vmp_commit: %zu bytes, but fewer were reserved, or none", len);
	committed(ch, len, flags);
	return 0;
}

VMP_API int vmp_send(struct vmp_channel *ch, const void *buf, size_t len,
		     unsigned int flags, int timeout_ms)
{
	void *ptr;
	int r;

	if (unlikely(flags & ~VMP_MORE))
		return vmp_fail(-EINVAL, "vmp_send: undefined flags 0x%x", flags);
	r = reserve(ch, &ptr, len, timeout_ms);
	if (unlikely(r))
		return r;
	if (len)
		memcpy(ptr, buf, len);
	if (unlikely(ch->pk))
		return packet_commit_plain(ch, len, flags);
	vmpr_commit(&ch->tx.ring, len);
	committed(ch, len, flags);
	return 0;
}

VMP_API int vmp_flush(struct vmp_channel *ch)
{
	if (unlikely(!*ch->here))
		return vmp_not_a_child(ch->p);
	chan_flush(ch);
	return load_relaxed(&ch->dead) ? chan_fail(ch, load_relaxed(&ch->dead)) : 0;
}

/* ---- Receiving -------------------------------------------------------------- */

/* No message where one is expected: is that the end? */
static int64_t rx_empty(struct vmp_channel *ch, const void **ptr)
{
	int s = chan_peer_state(ch);
	int64_t n;

	if (!s)
		return -EAGAIN;
	/* Whatever it had committed before it ended is visible now; only 0 is the end. */
	n = s == -EBUSY || s == -ENODEV ? -EAGAIN : vmpr_peek(&ch->rx.ring, ptr);
	if (n >= 0)
		return n;
	return chan_fail(ch, n == -EPROTO && s == -EPIPE ? -EPROTO : s);
}

int64_t chan_try(struct vmp_channel *ch, const void **ptr)
{
	int64_t n;
	int r;

	/* Pairs with the store in bind(): the ring is set up. */
	if (unlikely(load_acquire(&ch->stage) == STAGE_OPEN)) {
		if (ch->pk)
			return packet_try(ch, ptr);
		r = chan_step(ch);
		if (r)
			return r;
		if (load_acquire(&ch->stage) == STAGE_OPEN)
			return -EAGAIN;
	}
	n = vmpr_peek(&ch->rx.ring, ptr);
	if (likely(n >= 0))
		return n;
	return n == -EAGAIN ? rx_empty(ch, ptr) : chan_broken(ch);
}

static __attribute__((noinline))
ssize_t peek_slowly(struct vmp_channel *ch, const void **ptr, int timeout_ms)
{
	struct patience pt = { .timeout_ms = timeout_ms };
	int64_t n;
	int r = vmp_not_a_child(ch->p);

	if (r)
		return r;
	for (;;) {
		n = chan_try(ch, ptr);
		if (n != -EAGAIN)
			return (ssize_t)n;
		r = chan_wait(ch, RX, 0, &pt);
		if (r)
			return r;
	}
}

static inline __attribute__((always_inline))
ssize_t peek(struct vmp_channel *ch, const void **ptr, int timeout_ms)
{
	int64_t n;

	/* Pairs with the store in bind(): the ring is set up. */
	if (likely(*ch->here && load_acquire(&ch->stage) != STAGE_OPEN)) {
		n = vmpr_peek(&ch->rx.ring, ptr);
		if (likely(n >= 0))
			return (ssize_t)n;
	}
	return peek_slowly(ch, ptr, timeout_ms);
}

VMP_API ssize_t vmp_peek(struct vmp_channel *ch, const void **ptr, int timeout_ms)
{
	return peek(ch, ptr, timeout_ms);
}

static inline void consumed(struct vmp_channel *ch, uint64_t len)
{
	count(&ch->rx.n.messages, 1);
	count(&ch->rx.n.bytes, len);
	if (unlikely(ch->pk))
		packet_release(ch);
	else if (unlikely(vmpr_release(&ch->rx.ring) == 1))
		chan_notify(ch, TX);
}

VMP_API int vmp_release(struct vmp_channel *ch)
{
	struct vmpr_rx *r = &ch->rx.ring;

	if (unlikely(!*ch->here))
		return vmp_not_a_child(ch->p);
	if (unlikely(ch->pk)) {
		if (!ch->pk->rx.bytes)
			return vmp_fail(-EINVAL, "vmp_release: no message was peeked");
		consumed(ch, (ch->pk->rx.desc.len8 - ch->pk->rx.desc.offset8) * 8U);
		return 0;
	}
	if (unlikely(load_acquire(&ch->stage) == STAGE_OPEN || r->end == r->pos))
		return vmp_fail(-EINVAL, "vmp_release: no message was peeked");
	consumed(ch, r->len);
	return 0;
}

VMP_API ssize_t vmp_recv(struct vmp_channel *ch, void *buf, size_t cap, int timeout_ms)
{
	const void *ptr;
	ssize_t n = peek(ch, &ptr, timeout_ms);

	if (unlikely(n < 0))
		return n;
	if (unlikely((size_t)n > cap))
		return vmp_fail(-EMSGSIZE, "the next message has %zd bytes, the buffer %zu; it waits", n, cap);
	if (n)
		memcpy(buf, ptr, (size_t)n);
	consumed(ch, (uint64_t)n);
	return n;
}

VMP_API int vmp_poll(struct vmp_channel *ch, vmp_msg_fn fn, void *arg, unsigned int limit)
{
	struct patience pt = { .timeout_ms = 0 };
	unsigned int done = 0;
	const void *ptr;
	int64_t n;
	int stop, r;

	if (!limit)
		return vmp_fail(-EINVAL, "vmp_poll: a limit of 0 would handle nothing");
	if (!*ch->here)
		return vmp_not_a_child(ch->p);
	while (done < limit && done < INT32_MAX) {
		n = chan_try(ch, &ptr);
		if (n == -EAGAIN && !done) {
			r = chan_wait(ch, RX, 0, &pt);
			if (r)
				return r == -EAGAIN ? 0 : r;
			continue;
		}
		if (n < 0)
			/* What was handled comes first; the error comes again. */
			return done || n == -EAGAIN ? (int)done : (int)n;
		stop = fn(arg, ptr, (size_t)n);
		consumed(ch, (uint64_t)n);
		done++;
		if (stop)
			break;
	}
	return (int)done;
}
