/* SPDX-License-Identifier: MIT */
/*
 * The message ring alone: one producer, one consumer, messages of any length, over
 * memory that two machines share. Freestanding: no operating system, no allocation,
 * no other header than <stddef.h> and <stdint.h>; C11 and C++. libvmportal's
 * channels are two of these and a handshake (linux/portal_layout.h).
 *
 * Bytes. A lane is a power of two of bytes, VMPR_CAP_MIN .. VMPR_CAP_MAX, 64-byte
 * aligned. Positions are free-running 64-bit byte counts; the place of position p
 * is p % capacity. Records are 64-byte aligned and never wrap: a pad record fills
 * the end. A record is a little-endian u64 header and its payload right behind it,
 * rounded up to 64 bytes, so that a payload of up to 56 bytes is one cache line:
 *
 *	bits 63..32  tag: low 32 bits of (position / 64), XOR the lane's nonce
 *	bit  31      1: a header is never 0
 *	bit  30      pad: no message
 *	bits 29..0   payload bytes; 8 + length is at most half the capacity
 *
 * Order. A header of 0 means "nothing yet". Before the producer stores the header
 * at p (release), the header word at the record's end is 0; so whatever the memory
 * held before, the consumer finds 0 or the header that belongs there, and anything
 * else proves that the producer broke the rules. The consumer (acquire) then reads
 * the payload; it stores its position (release) when it is through; the producer
 * loads that (acquire) before it writes there again. The consumer needs no write
 * access to the data, nor the producer to the position.
 *
 * Trust. Each shared word is read once, checked, and only the copy is used. A
 * producer that lies costs the consumer -EPROTO or wrong bytes inside a payload,
 * never an access outside the lane; a consumer that lies costs the producer -EPROTO.
 * Both errors are final for the ring (err).
 *
 * Threads: one may use a struct vmpr_tx and one a struct vmpr_rx. They sleep and
 * wake by means of their own; see vmpr_full_fence() for the order that needs.
 */
#ifndef VMPORTAL_RING_H
#define VMPORTAL_RING_H

#include <stddef.h>
#include <stdint.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the shared bytes are little-endian; this header does not convert"
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define VMPR_LINE	64U
#define VMPR_HEADER	8U
#define VMPR_CAP_MIN	1024U
#define VMPR_CAP_MAX	(UINT64_C(1) << 31)

#define VMPR_VALID	(UINT64_C(1) << 31)
#define VMPR_PAD	(UINT64_C(1) << 30)
#define VMPR_LEN	(VMPR_PAD - 1)

/* Results; the numbers are Linux's negative errnos. */
#define VMPR_AGAIN	(-11)	/* nothing there, or no room, yet */
#define VMPR_INVAL	(-22)	/* the caller's mistake */
#define VMPR_PROTO	(-71)	/* the other side broke the rules */
#define VMPR_MSGSIZE	(-90)	/* longer than vmpr_max() */

/*
 * The producer keeps the header words of this many lines ahead of it zero. It
 * writes them right after it has published a record, while nobody waits for it;
 * the line that the consumer polls is then never written twice, and the store
 * that publishes finds no cache miss before it in the store buffer. It asks for as
 * many lines again beyond those. The numbers are measured: fewer lines are too late,
 * more are taken from a consumer that still reads near them.
 */
#ifndef VMPR_AHEAD
#define VMPR_AHEAD	10U
#endif
/* Top up when fewer lines than this are left. */
#ifndef VMPR_AHEAD_LOW
#define VMPR_AHEAD_LOW	2U
#endif

/* A compiler without these builtins defines its own four before including this. */
#ifndef vmpr_load_acquire
#define vmpr_load_acquire(p)		__atomic_load_n((p), __ATOMIC_ACQUIRE)
#define vmpr_load_relaxed(p)		__atomic_load_n((p), __ATOMIC_RELAXED)
#define vmpr_store_release(p, v)	__atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define vmpr_store_relaxed(p, v)	__atomic_store_n((p), (v), __ATOMIC_RELAXED)
#endif

/*
 * Hints, which may do nothing. For writing: without it each store to a line that the
 * consumer has read waits for that line in turn, and stores drain in order. x86
 * compilers take PREFETCHW for granted only when told so; x86-64 has it, or a NOP.
 */
#if defined(__GNUC__) && defined(__x86_64__)
#define vmpr_prefetch_write(p)	__asm__ volatile("prefetchw %0" : : "m"(*(const char *)(p)))
#elif defined(__GNUC__)
#define vmpr_prefetch_write(p)	__builtin_prefetch((p), 1)
#else
#define vmpr_prefetch_write(p)	((void)(p))
#endif
#if defined(__GNUC__)
#define vmpr_prefetch_read(p)	__builtin_prefetch(p)
#else
#define vmpr_prefetch_read(p)	((void)(p))
#endif
/*
 * A message costs some hundred instructions in all: what every one needs is inlined,
 * what one in many needs is kept out of its way.
 */
#if defined(__GNUC__)
#define VMPR_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define VMPR_HOT	static inline __attribute__((always_inline))
#define VMPR_COLD	static __attribute__((noinline, unused))
#else
#define VMPR_UNLIKELY(x) (x)
#define VMPR_HOT	static inline
#define VMPR_COLD	static inline
#endif

/**
 * vmpr_full_fence() - order the stores before it with the loads after it
 *
 * Who publishes (a record, a position) and then looks whether the other side
 * sleeps needs it in between; who announces that it will sleep and then looks a
 * last time needs it in between as well. Then at least one of the two sees the
 * other's store, and no wake-up is lost.
 */
static inline void vmpr_full_fence(void)
{
#if defined(__SANITIZE_THREAD__)
	/*
	 * ThreadSanitizer knows no fences. A locked access to a word of the
	 * thread's own is a full barrier on x86, the only place where we run it,
	 * and makes no happens-before edge that could hide a race.
	 */
	static __thread uint64_t turnstile;

	__atomic_fetch_add(&turnstile, 1, __ATOMIC_SEQ_CST);
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* Bytes that a record with @len payload bytes takes. */
VMPR_HOT uint64_t vmpr_record(uint64_t len)
{
	return (len + VMPR_HEADER + VMPR_LINE - 1) & ~(uint64_t)(VMPR_LINE - 1);
}

/*
 * Longest payload of a lane of @cap bytes: 7/16 of it. The format allows half. But
 * the consumer may sit on up to 1/8 of the capacity that it has read and not yet
 * given back; pad and record of 7/16 fit beside that, so that a producer never
 * waits for a consumer that has read everything.
 */
VMPR_HOT uint64_t vmpr_max(uint64_t cap)
{
	return ((cap / 16 * 7) & ~(uint64_t)(VMPR_LINE - 1)) - VMPR_HEADER;
}

/* Can a lane have this capacity? */
static inline int vmpr_cap_ok(uint64_t cap)
{
	return cap >= VMPR_CAP_MIN && cap <= VMPR_CAP_MAX && !(cap & (cap - 1));
}

/* ---- Producer ------------------------------------------------------------- */

/**
 * struct vmpr_tx - the producer's end; all private but what the pointers name
 * @data: the lane
 * @cons: the consumer's position, which the consumer alone writes
 * @ask: where the producer says which position it waits for; it alone writes it
 * @cap: bytes of the lane
 * @pos: where the next record begins
 * @limit: lines below it are the producer's to write: the consumer's position as
 *	last seen, plus @cap
 * @cleared: the header words of the lines in [@pos, @cleared) are 0
 * @dirty: end of what reservations since the last commit may have written on
 * @resv: payload bytes reserved, plus 1; 0: none
 * @nonce: of this lane and pair
 * @err: 0, or VMPR_PROTO for ever
 */
struct vmpr_tx {
	unsigned char *data;
	const uint64_t *cons;
	uint64_t *ask;
	uint64_t cap;
	uint64_t pos;
	uint64_t limit;
	uint64_t cleared;
	uint64_t dirty;
	uint64_t resv;
	uint32_t nonce;
	int err;
};

VMPR_HOT uint64_t *vmpr_tx_header(const struct vmpr_tx *t, uint64_t pos)
{
	return (uint64_t *)(void *)(t->data + (pos & (t->cap - 1)));
}

/*
 * As vmpr_tx_init(), of a lane whose first header the caller has cleared, and @ask: it stores
 * nothing there.
 */
static inline int vmpr_tx_begin(struct vmpr_tx *t, void *data, uint64_t cap,
				const uint64_t *cons, uint64_t *ask, uint32_t nonce)
{
	if (!vmpr_cap_ok(cap))
		return VMPR_INVAL;
	t->data = (unsigned char *)data;
	t->cons = cons;
	t->ask = ask;
	t->cap = cap;
	t->pos = 0;
	t->limit = cap;
	t->cleared = VMPR_LINE;
	t->dirty = 0;
	t->resv = 0;
	t->nonce = nonce;
	t->err = 0;
	return 0;
}

/**
 * vmpr_tx_init() - begin at position 0
 *
 * Clears the first header. The consumer must not be reading the lane yet, its
 * position must be 0 and the consumer must learn of the start by a release store
 * of the caller's after this. VMPR_INVAL: @cap cannot be a capacity.
 */
static inline int vmpr_tx_init(struct vmpr_tx *t, void *data, uint64_t cap,
			       const uint64_t *cons, uint64_t *ask, uint32_t nonce)
{
	if (vmpr_tx_begin(t, data, cap, cons, ask, nonce))
		return VMPR_INVAL;
	vmpr_store_relaxed(t->ask, 0);
	vmpr_store_relaxed(vmpr_tx_header(t, 0), 0);
	return 0;
}

VMPR_HOT uint64_t vmpr_header(uint64_t pos, uint32_t nonce, uint64_t bits)
{
	return ((uint64_t)((uint32_t)(pos / VMPR_LINE) ^ nonce) << 32) |
		VMPR_VALID | bits;
}

/* Zero the header words of [from, to); the caller checked that to <= limit. */
static inline void vmpr_clear(struct vmpr_tx *t, uint64_t from, uint64_t to)
{
	for (; from < to; from += VMPR_LINE)
		vmpr_store_relaxed(vmpr_tx_header(t, from), 0);
	t->cleared = to;
}

/* Publish the record [pos, end): the next header is 0 before this one is seen. */
VMPR_HOT void vmpr_publish_record(struct vmpr_tx *t, uint64_t end, uint64_t bits)
{
	/* What a reservation wrote beyond the end may look like a header. */
	if (VMPR_UNLIKELY(end < t->dirty))
		t->cleared = end;
	if (VMPR_UNLIKELY(t->cleared < end + VMPR_LINE))
		vmpr_clear(t, t->cleared > end ? t->cleared : end, end + VMPR_LINE);
	/* Pairs with the load in vmpr_peek(): payload and clearing are before it. */
	vmpr_store_release(vmpr_tx_header(t, t->pos), vmpr_header(t->pos, t->nonce, bits));
	t->pos = end;
	t->dirty = end;
}

/* Look at the consumer's position anew: 0, or VMPR_PROTO. */
static inline int vmpr_tx_refresh(struct vmpr_tx *t)
{
	/* Pairs with the store in vmpr_publish(): what it read, it has read. */
	uint64_t c = vmpr_load_acquire(t->cons);

	/* Monotonic, not ahead of what was sent, whole lines. */
	if (VMPR_UNLIKELY(c < t->limit - t->cap || c > t->pos || c % VMPR_LINE)) {
		t->err = VMPR_PROTO;
		return VMPR_PROTO;
	}
	t->limit = c + t->cap;
	return 0;
}

/*
 * Ask the consumer to give back what it has read. It is asked for 1/8 of the lane
 * (it would do so by itself), or for all that was sent if that is less, or for what
 * this record needs if that is more: asking for the least would cost a line
 * transfer for each message while the ring is full.
 */
static inline void vmpr_ask(struct vmpr_tx *t, uint64_t need)
{
	uint64_t must = t->pos + need + VMPR_LINE - t->cap;
	uint64_t want = t->limit - t->cap + t->cap / 8;

	if (want > t->pos)
		want = t->pos;
	if (want < must)
		want = must;
	vmpr_store_relaxed(t->ask, want);
}

/**
 * vmpr_reserve() - room for a message of up to @len bytes
 * @ptr: set to where the payload goes, 8-byte aligned
 *
 * A later reservation replaces it. VMPR_AGAIN: no room yet (the consumer has been
 * asked for it); VMPR_MSGSIZE; VMPR_PROTO.
 */
VMPR_HOT int vmpr_reserve(struct vmpr_tx *t, uint64_t len, void **ptr)
{
	uint64_t rec, rest, need;

	if (VMPR_UNLIKELY(t->err))
		return t->err;
	if (VMPR_UNLIKELY(len > vmpr_max(t->cap)))
		return VMPR_MSGSIZE;
	rec = vmpr_record(len);
	rest = t->cap - (t->pos & (t->cap - 1));
	need = rec <= rest ? rec : rest + rec;
	/* One line stays free: the one behind the record, which is cleared. */
	if (VMPR_UNLIKELY(t->pos + need + VMPR_LINE > t->limit)) {
		if (vmpr_tx_refresh(t))
			return VMPR_PROTO;
		if (t->pos + need + VMPR_LINE > t->limit) {
			vmpr_ask(t, need);
			return VMPR_AGAIN;
		}
	}
	if (VMPR_UNLIKELY(need != rec))
		vmpr_publish_record(t, t->pos + rest, VMPR_PAD | (rest - VMPR_HEADER));
	if (t->dirty < t->pos + rec)
		t->dirty = t->pos + rec;
	t->resv = len + 1;
	*ptr = t->data + (t->pos & (t->cap - 1)) + VMPR_HEADER;
	return 0;
}

/*
 * Clear headers up to VMPR_AHEAD lines on, and ask for the lines behind those, which
 * the next turn clears. Not beyond the limit, where the consumer still reads.
 */
VMPR_COLD void vmpr_run_ahead(struct vmpr_tx *t)
{
	uint64_t to = t->pos + VMPR_AHEAD * VMPR_LINE;
	uint64_t more = to + VMPR_AHEAD * VMPR_LINE;

	if (to > t->limit)
		to = t->limit;
	if (t->cleared < to)
		vmpr_clear(t, t->cleared, to);
	if (more > t->limit)
		more = t->limit;
	for (; to < more; to += VMPR_LINE)
		vmpr_prefetch_write(vmpr_tx_header(t, to));
}

/* Publish the reserved message with @len bytes. VMPR_INVAL: more than reserved. */
VMPR_HOT int vmpr_commit(struct vmpr_tx *t, uint64_t len)
{
	if (VMPR_UNLIKELY(len >= t->resv))
		return VMPR_INVAL;
	t->resv = 0;
	vmpr_publish_record(t, t->pos + vmpr_record(len), len);
	if (VMPR_UNLIKELY(t->cleared < t->pos + VMPR_AHEAD_LOW * VMPR_LINE))
		vmpr_run_ahead(t);
	return 0;
}

/* ---- Consumer ------------------------------------------------------------- */

/**
 * struct vmpr_rx - the consumer's end; all private but what the pointers name
 * @data: the lane, which it only reads
 * @cons: its position as the producer sees it; it alone writes it
 * @ask: the producer's wish for a position
 * @cap: bytes of the lane
 * @pos: where the next record begins
 * @end: end of the peeked record; @pos if none is
 * @published: what @cons says
 * @len: payload bytes of the peeked record
 * @nonce: of this lane and pair
 * @err: 0, or VMPR_PROTO for ever
 */
struct vmpr_rx {
	const unsigned char *data;
	uint64_t *cons;
	const uint64_t *ask;
	uint64_t cap;
	uint64_t pos;
	uint64_t end;
	uint64_t published;
	uint64_t len;
	uint32_t nonce;
	int err;
};

/*
 * Begin at position 0; the caller has stored 0 to @cons before the producer began.
 * VMPR_INVAL: @cap cannot be a capacity.
 */
static inline int vmpr_rx_init(struct vmpr_rx *r, const void *data, uint64_t cap,
			       uint64_t *cons, const uint64_t *ask, uint32_t nonce)
{
	if (!vmpr_cap_ok(cap))
		return VMPR_INVAL;
	r->data = (const unsigned char *)data;
	r->cons = cons;
	r->ask = ask;
	r->cap = cap;
	r->pos = 0;
	r->end = 0;
	r->published = 0;
	r->len = 0;
	r->nonce = nonce;
	r->err = 0;
	return 0;
}

/* Give back all that was released: the producer may write there. */
VMPR_HOT void vmpr_publish(struct vmpr_rx *r)
{
	r->published = r->pos;
	/* Pairs with the load in vmpr_tx_refresh(): the reads are before it. */
	vmpr_store_release(r->cons, r->pos);
}

/*
 * Has the producer asked for what was released? Then give it back: 1, else 0. To be
 * called now and then by who finds the ring empty and does not call vmpr_publish().
 */
VMPR_HOT int vmpr_answer(struct vmpr_rx *r)
{
	uint64_t ask = vmpr_load_relaxed(r->ask);

	/* A false wish costs a store that was due anyway. */
	if (r->published < ask && ask <= r->pos) {
		vmpr_publish(r);
		return 1;
	}
	return 0;
}

/* The header @h at the consumer's position: is it what must be there? */
VMPR_HOT int vmpr_header_ok(const struct vmpr_rx *r, uint64_t h)
{
	uint64_t rest = r->cap - (r->pos & (r->cap - 1));
	uint64_t rec = vmpr_record(h & VMPR_LEN);

	if ((h ^ vmpr_header(r->pos, r->nonce, 0)) & ~(VMPR_PAD | VMPR_LEN))
		return 0;
	if (rec > rest || rec > r->cap / 2)
		return 0;
	return !(h & VMPR_PAD) || (h & VMPR_LEN) == rest - VMPR_HEADER;
}

/**
 * vmpr_peek() - the next message, in place
 * @ptr: set to its bytes, which a hostile producer may change at any time
 *
 * Its length; the same message until vmpr_release(). VMPR_AGAIN: none yet.
 * VMPR_PROTO: what stands there is no header of this ring.
 */
VMPR_HOT int64_t vmpr_peek(struct vmpr_rx *r, const void **ptr)
{
	uint64_t h;

	if (r->end == r->pos) {
		if (VMPR_UNLIKELY(r->err))
			return r->err;
		/* Twice at most: a pad ends at place 0, where no pad can be. */
		for (;;) {
			/* Pairs with the store in vmpr_publish_record(). */
			h = vmpr_load_acquire((const uint64_t *)(const void *)
					      (r->data + (r->pos & (r->cap - 1))));
			if (!h)
				return VMPR_AGAIN;
			if (VMPR_UNLIKELY(!vmpr_header_ok(r, h))) {
				r->err = VMPR_PROTO;
				return VMPR_PROTO;
			}
			if (!(h & VMPR_PAD))
				break;
			r->pos += vmpr_record(h & VMPR_LEN);
			r->end = r->pos;
		}
		r->len = h & VMPR_LEN;
		r->end = r->pos + vmpr_record(r->len);
		/* The rest of a short message comes while the caller prepares its copy. */
		if (r->len > VMPR_LINE - VMPR_HEADER)
			vmpr_prefetch_read(r->data + (r->pos & (r->cap - 1)) + VMPR_LINE);
	}
	*ptr = r->data + (r->pos & (r->cap - 1)) + VMPR_HEADER;
	return (int64_t)r->len;
}

/*
 * Done with the peeked message. 1 if the position was published (the producer may be
 * waiting for it), 0 if not yet; VMPR_INVAL: none was peeked.
 */
VMPR_HOT int vmpr_release(struct vmpr_rx *r)
{
	if (VMPR_UNLIKELY(r->end == r->pos))
		return VMPR_INVAL;
	r->pos = r->end;
	if (VMPR_UNLIKELY(r->pos - r->published >= r->cap / 8)) {
		vmpr_publish(r);
		return 1;
	}
	return vmpr_answer(r);
}

#ifdef __cplusplus
}
#endif

#endif /* VMPORTAL_RING_H */
