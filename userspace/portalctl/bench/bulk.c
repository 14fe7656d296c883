// SPDX-License-Identifier: MIT
/*
 * 1 MiB messages. Two ways, each beside the same work over bare memory:
 *
 * copy: vmp_send() copies from private memory, vmp_recv() copies into private
 *	memory. The limit is memcpy() into one of BULK_SLOTS bare buffers and
 *	memcpy() out of it by the other process, a flag for each buffer.
 * place: the sender copies into the reserved message, the receiver reads one word
 *	of every cache line in place. The limit is the same over bare buffers.
 */
#include <string.h>

#include "bench.h"

struct slot_flag {
	_Atomic uint64_t n;	/* messages written to, or read from, this buffer */
} __attribute__((aligned(128)));

struct bare_bulk {
	struct slot_flag full[BULK_SLOTS], empty[BULK_SLOTS];
};

static char *slot_data(struct bench *b, unsigned int i)
{
	return b->scratch + SMALL_SCRATCH + i * BULK_MSG;
}

static void reset_bulk(struct bench *b)
{
	memset(b->scratch, 0, sizeof(struct bare_bulk));
	atomic_thread_fence(memory_order_seq_cst);
}

#define BULK_STRETCH	8	/* messages timed together: twice round the ring */

/*
 * As with small messages: the window's figure is the median stretch. @t: time of
 * the last mark.
 */
static void bulk_mark(struct bench *b, uint64_t n, uint64_t now, uint64_t *t, size_t *marks)
{
	if (n % BULK_STRETCH)
		return;
	if (n && *marks < MAX_LATENCIES)
		b->batch[(*marks)++] = (double)(now - *t) / BULK_STRETCH;
	*t = now;
}

static double bulk_median(struct bench *b, size_t marks)
{
	if (marks < 3)
		return 0;
	sort_double(b->batch, marks);
	return b->batch[rank(marks, 50)];
}

/* Reads what a user of a message would: something of every line. */
static uint64_t touch(const char *p, size_t len)
{
	uint64_t sum = 0, w;

	for (size_t i = 0; i < len; i += 64) {
		w = *(const volatile uint64_t *)(p + i);
		sum += w;
	}
	return sum;
}

static volatile uint64_t sink;

/* Every message's last word but one is 0, or STOP in the last message. */
#define MARK(p)		((uint64_t *)((p) + BULK_MSG - 64))

static int lead_bare_bulk(struct bench *b, struct sample *s)
{
	struct bare_bulk *f = (struct bare_bulk *)b->scratch;
	uint64_t start = now_ns(), t = start, now;
	uint32_t spins = 0;
	bool last = false;
	size_t marks = 0;

	for (uint64_t n = 0; !last; n++) {
		unsigned int i = n % BULK_SLOTS;

		now = now_ns();
		bulk_mark(b, n, now, &t, &marks);
		last = now - start >= b->window_ns;
		while (atomic_load_explicit(&f->empty[i].n, memory_order_acquire) != n / BULK_SLOTS)
			if (bench_stuck(b, &spins))
				return -ETIMEDOUT;
		*MARK(b->src) = last ? STOP : 0;
		memcpy(slot_data(b, i), b->src, BULK_MSG);
		atomic_store_explicit(&f->full[i].n, n / BULK_SLOTS + 1, memory_order_release);
		s->ops = n + 1;
	}
	s->ns = bulk_median(b, marks);
	return 0;
}

static inline __attribute__((always_inline)) int follow_bare_bulk(struct bench *b, bool copy)
{
	struct bare_bulk *f = (struct bare_bulk *)b->scratch;
	uint32_t spins = 0;
	uint64_t mark;

	for (uint64_t n = 0;; n++) {
		unsigned int i = n % BULK_SLOTS;

		while (atomic_load_explicit(&f->full[i].n, memory_order_acquire) !=
		       n / BULK_SLOTS + 1)
			if (bench_stuck(b, &spins))
				return -ETIMEDOUT;
		if (copy)
			memcpy(b->dst, slot_data(b, i), BULK_MSG);
		else
			sink = touch(slot_data(b, i), BULK_MSG);
		mark = *(volatile uint64_t *)MARK(slot_data(b, i));
		atomic_store_explicit(&f->empty[i].n, n / BULK_SLOTS + 1, memory_order_release);
		if (mark == STOP)
			return 0;
	}
}

static int follow_bare_copy(struct bench *b)
{
	return follow_bare_bulk(b, true);
}

static int follow_bare_touch(struct bench *b)
{
	return follow_bare_bulk(b, false);
}

/* One process alone: what memcpy() does when nobody else wants the lines. */
static int lead_alone(struct bench *b, struct sample *s)
{
	uint64_t start = now_ns(), t = start, now = start;
	size_t marks = 0;

	for (s->ops = 0; now - start < b->window_ns; s->ops++) {
		memcpy(slot_data(b, s->ops % BULK_SLOTS), b->src, BULK_MSG);
		now = now_ns();
		bulk_mark(b, s->ops, now, &t, &marks);
	}
	s->ns = bulk_median(b, marks);
	return 0;
}

static int lead_copy(struct bench *b, struct sample *s)
{
	uint64_t start = now_ns(), t = start, now;
	bool last = false;
	size_t marks = 0;
	int err;

	for (s->ops = 0; !last; s->ops++) {
		now = now_ns();
		bulk_mark(b, s->ops, now, &t, &marks);
		last = now - start >= b->window_ns;
		*MARK(b->src) = last ? STOP : 0;
		err = vmp_send(b->ch, b->src, BULK_MSG, 0, b->step_ms);
		if (err)
			return err;
	}
	s->ns = bulk_median(b, marks);
	return 0;
}

static int follow_copy(struct bench *b)
{
	ssize_t got;

	do {
		got = vmp_recv(b->ch, b->dst, BULK_MSG, b->step_ms);
		if (got != (ssize_t)BULK_MSG)
			return got < 0 ? got : -EBADMSG;
	} while (*MARK(b->dst) != STOP);
	return 0;
}

static int lead_place(struct bench *b, struct sample *s)
{
	uint64_t start = now_ns(), t = start, now;
	bool last = false;
	size_t marks = 0;
	void *p;
	int err;

	for (s->ops = 0; !last; s->ops++) {
		now = now_ns();
		bulk_mark(b, s->ops, now, &t, &marks);
		last = now - start >= b->window_ns;
		err = vmp_reserve(b->ch, &p, BULK_MSG, b->step_ms);
		if (err)
			return err;
		*MARK(b->src) = last ? STOP : 0;
		memcpy(p, b->src, BULK_MSG);
		err = vmp_commit(b->ch, BULK_MSG, 0);
		if (err)
			return err;
	}
	s->ns = bulk_median(b, marks);
	return 0;
}

static int follow_place(struct bench *b)
{
	const void *p;
	uint64_t mark;
	ssize_t got;
	int err;

	do {
		got = vmp_peek(b->ch, &p, b->step_ms);
		if (got != (ssize_t)BULK_MSG)
			return got < 0 ? got : -EBADMSG;
		sink = touch(p, BULK_MSG);
		mark = *(const volatile uint64_t *)((const char *)p + BULK_MSG - 64);
		err = vmp_release(b->ch);
		if (err)
			return err;
	} while (mark != STOP);
	return 0;
}

static const struct contender copy = { "vmp_send/vmp_recv", NULL, lead_copy, follow_copy, false, false };
static const struct contender bare_copy = { "memcpy in, memcpy out, bare buffers", reset_bulk,
					    lead_bare_bulk, follow_bare_copy, false, false };
static const struct contender alone = { "memcpy, one process alone", NULL, lead_alone, NULL, false, true };
static const struct contender place = { "reserve/commit, peek/release", NULL, lead_place,
					follow_place, false, false };
static const struct contender bare_place = { "memcpy in, read in place, bare buffers", reset_bulk,
					     lead_bare_bulk, follow_bare_touch, false, false };

const struct bench_case case_bulk_copy = {
	.key = "bulk-copy", .title = "1 MiB messages, copied in and out", .unit = UNIT_BYTES,
	.aim = 0.9, .bulk = true, .c = { &copy, &bare_copy, &alone },
};

const struct bench_case case_bulk_place = {
	.key = "bulk-place", .title = "1 MiB messages, in place", .unit = UNIT_BYTES,
	.aim = 0.9, .bulk = true, .c = { &place, &bare_place, &alone },
};
