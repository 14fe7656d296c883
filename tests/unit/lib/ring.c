// SPDX-License-Identifier: MIT
/* The ring alone, on plain memory: <vmportal_ring.h>. */
#include "test.h"

#include <vmportal_ring.h>

#define NONCE 0x5eedf00dU

struct ring {
	unsigned char *mem;
	uint64_t cap;
	uint64_t cons, ask;
	struct vmpr_tx tx;
	struct vmpr_rx rx;
};

/* A ring over memory filled by @fill, both ends at position @pos. */
static void ring_at(struct ring *r, uint64_t cap, uint64_t pos, int fill)
{
	r->cap = cap;
	r->mem = aligned_alloc(64, cap);
	assert_non_null(r->mem);
	memset(r->mem, fill, cap);
	assert_int_equal(vmpr_tx_init(&r->tx, r->mem, cap, &r->cons, &r->ask, NONCE), 0);
	assert_int_equal(vmpr_rx_init(&r->rx, r->mem, cap, &r->cons, &r->ask, NONCE), 0);
	r->cons = pos;
	r->tx.pos = pos;
	r->tx.limit = pos + cap;
	r->tx.cleared = pos + VMPR_LINE;
	*vmpr_tx_header(&r->tx, pos) = 0;
	r->rx.pos = r->rx.end = r->rx.published = pos;
}

static void ring_free(struct ring *r)
{
	free(r->mem);
}

static int put(struct ring *r, uint64_t len, uint64_t seed)
{
	void *p = NULL;
	int e = vmpr_reserve(&r->tx, len, &p);

	if (e)
		return e;
	assert_int_equal((uintptr_t)p % 8, 0);
	assert_true((unsigned char *)p >= r->mem && (unsigned char *)p + len <= r->mem + r->cap);
	pattern(p, len, seed);
	return vmpr_commit(&r->tx, len);
}

/* Receive one message and check it all. */
static void get(struct ring *r, uint64_t len, uint64_t seed)
{
	const void *p = NULL;

	assert_int_equal(vmpr_peek(&r->rx, &p), len);
	assert_true((const unsigned char *)p + len <= r->mem + r->cap);
	assert_true(is_pattern(p, len, seed));
	assert_true(vmpr_release(&r->rx) >= 0);
}

static int64_t peek(struct ring *r)
{
	const void *p = NULL;

	return vmpr_peek(&r->rx, &p);
}

static void every_size(void **state)
{
	static const uint64_t caps[] = { 1024, 2048, 4096, 65536 };
	struct ring r;
	uint64_t len, i;

	for (i = 0; i < 4; i++) {
		ring_at(&r, caps[i], 0, 0xff);
		for (len = 0; len <= vmpr_max(caps[i]); len += len < 5000 ? 1 : 61) {
			assert_int_equal(put(&r, len, len), 0);
			get(&r, len, len);
			assert_int_equal(peek(&r), VMPR_AGAIN);
		}
		assert_int_equal(put(&r, vmpr_max(caps[i]) + 1, 0), VMPR_MSGSIZE);
		assert_int_equal(put(&r, UINT64_MAX, 0), VMPR_MSGSIZE);
		ring_free(&r);
	}
}

static void bad_capacities(void **state)
{
	static const uint64_t caps[] = { 0, 64, 512, 1023, 1025, 3072, UINT64_C(1) << 32, UINT64_MAX };
	struct vmpr_tx t;
	struct vmpr_rx x;
	uint64_t mem[8] = { 0 }, w = 0;
	size_t i;

	for (i = 0; i < sizeof(caps) / sizeof(caps[0]); i++) {
		assert_int_equal(vmpr_tx_init(&t, mem, caps[i], &w, &w, 1), VMPR_INVAL);
		assert_int_equal(vmpr_rx_init(&x, mem, caps[i], &w, &w, 1), VMPR_INVAL);
	}
}

/* From each line of the lane, a record of each number of lines: pads included. */
static void wrap_at_every_offset(void **state)
{
	const uint64_t cap = 2048;
	uint64_t start, lines;
	struct ring r;

	for (start = 0; start < cap; start += 64) {
		for (lines = 1; lines * 64 - 8 <= vmpr_max(cap); lines++) {
			ring_at(&r, cap, start + 5 * cap, 0xa5);
			assert_int_equal(put(&r, lines * 64 - 8, lines), 0);
			assert_int_equal(put(&r, 3, 99), 0);
			get(&r, lines * 64 - 8, lines);
			get(&r, 3, 99);
			assert_int_equal(peek(&r), VMPR_AGAIN);
			ring_free(&r);
		}
	}
}

/* Positions whose line number leaves 32 bits, and 64-bit neighbours. */
static void positions_grow(void **state)
{
	static const uint64_t pos[] = { (UINT64_C(1) << 38) - 256, (UINT64_C(1) << 32) - 128,
					UINT64_C(1) << 62 };
	struct ring r;
	uint64_t i, k;

	for (k = 0; k < 3; k++) {
		ring_at(&r, 1024, pos[k], 0xff);
		for (i = 0; i < 100; i++) {
			assert_int_equal(put(&r, i, i), 0);
			get(&r, i, i);
		}
		ring_free(&r);
	}
}

static void full_and_free_again(void **state)
{
	struct ring r;
	uint64_t n = 0, i;

	ring_at(&r, 1024, 0, 0xff);
	while (!put(&r, 56, n))
		n++;
	/* One line stays free. */
	assert_int_equal(n, 1024 / 64 - 1);
	assert_int_equal(put(&r, 0, 0), VMPR_AGAIN);
	assert_true(r.ask > 0);
	/* The first eighth comes back by itself: two records of one line. */
	get(&r, 56, 0);
	get(&r, 56, 1);
	assert_int_equal(r.cons, 128);
	assert_int_equal(put(&r, 56, n), 0);
	assert_int_equal(put(&r, 56, n + 1), 0);
	assert_int_equal(put(&r, 56, 0), VMPR_AGAIN);
	for (i = 2; i < n + 2; i++)
		get(&r, 56, i);
	assert_int_equal(peek(&r), VMPR_AGAIN);
	ring_free(&r);
}

static void zero_length(void **state)
{
	struct ring r;
	const void *p = NULL;

	/* At position 0 with nonce 0 a header would be 0 but for the valid bit. */
	ring_at(&r, 1024, 0, 0);
	r.tx.nonce = r.rx.nonce = 0;
	assert_int_equal(put(&r, 0, 0), 0);
	assert_int_equal(vmpr_peek(&r.rx, &p), 0);
	assert_int_equal(vmpr_release(&r.rx), 0);
	assert_int_equal(peek(&r), VMPR_AGAIN);
	ring_free(&r);
}

static void misuse(void **state)
{
	struct ring r;
	void *p = NULL;

	ring_at(&r, 1024, 0, 0);
	assert_int_equal(vmpr_commit(&r.tx, 0), VMPR_INVAL);
	assert_int_equal(vmpr_release(&r.rx), VMPR_INVAL);
	assert_int_equal(vmpr_reserve(&r.tx, 10, &p), 0);
	assert_int_equal(vmpr_commit(&r.tx, 11), VMPR_INVAL);
	assert_int_equal(vmpr_commit(&r.tx, 10), 0);
	assert_int_equal(vmpr_commit(&r.tx, 0), VMPR_INVAL);
	assert_int_equal(peek(&r), 10);
	assert_int_equal(peek(&r), 10);
	assert_int_equal(vmpr_release(&r.rx), 0);
	assert_int_equal(vmpr_release(&r.rx), VMPR_INVAL);
	ring_free(&r);
}

/* Fill a payload with what would be the right header of each of its lines. */
static void forge(struct ring *r, void *p, uint64_t len)
{
	uint64_t *w = p, off = 8, i;

	for (i = 0; i < len / 8; i++, off += 8)
		w[i] = vmpr_header(r->tx.pos + (off & ~UINT64_C(63)), NONCE, 8);
}

/*
 * A reservation that is cut short, or replaced, leaves bytes behind that may look
 * like headers. None may be taken for one.
 */
static void reservation_cut_short(void **state)
{
	const uint64_t cap = 2048;
	uint64_t first, len, start;
	struct ring r;
	void *p = NULL;

	for (start = 0; start < cap; start += 64)
		for (first = 0; first <= vmpr_max(cap); first += 56)
			for (len = 0; len <= first; len += 120) {
				ring_at(&r, cap, start, 0);
				/* Once with the headers cleared far ahead by a short message. */
				if (len % 240 == 0) {
					assert_int_equal(put(&r, 8, 1), 0);
					get(&r, 8, 1);
				}
				assert_int_equal(vmpr_reserve(&r.tx, first, &p), 0);
				forge(&r, p, first);
				if (len % 240)	/* replaced */
					assert_int_equal(vmpr_reserve(&r.tx, len, &p), 0);
				assert_int_equal(vmpr_commit(&r.tx, len), 0);
				assert_int_equal(peek(&r), len);
				assert_true(vmpr_release(&r.rx) >= 0);
				assert_int_equal(peek(&r), VMPR_AGAIN);
				assert_int_equal(put(&r, 1, 1), 0);
				get(&r, 1, 1);
				assert_int_equal(peek(&r), VMPR_AGAIN);
				ring_free(&r);
			}
}

/* A consumer that has read everything never keeps a producer waiting. */
static void laziness_is_bounded(void **state)
{
	struct rng g = { 7 };
	struct ring r;
	int i;

	ring_at(&r, 4096, 0, 0);
	for (i = 0; i < 20000; i++) {
		uint64_t len = below(&g, vmpr_max(4096) + 1);

		/* Nothing but vmpr_release() ever gives back. */
		assert_int_equal(put(&r, len, i), 0);
		get(&r, len, i);
	}
	ring_free(&r);
}

/* What the producer asks for is given back at once, and no more than once. */
static void ask_and_answer(void **state)
{
	struct ring r;
	int i;

	ring_at(&r, 65536, 0, 0);
	for (i = 0; i < 3; i++)
		assert_int_equal(put(&r, 20000, i), 0);
	get(&r, 20000, 0);
	assert_int_equal(r.cons, 20032);
	assert_int_equal(put(&r, 500, 3), 0);
	get(&r, 20000, 1);
	get(&r, 20000, 2);
	get(&r, 500, 3);
	assert_true(r.cons < r.rx.pos);
	assert_int_equal(vmpr_answer(&r.rx), 0);
	r.ask = r.rx.pos;
	assert_int_equal(vmpr_answer(&r.rx), 1);
	assert_int_equal(r.cons, r.rx.pos);
	assert_int_equal(vmpr_answer(&r.rx), 0);
	r.ask = UINT64_MAX;	/* a lie: nothing to give */
	assert_int_equal(vmpr_answer(&r.rx), 0);
	ring_free(&r);
}

/* Each bit of a header flipped: refused, or a length within bounds. */
static void corrupt_header(void **state)
{
	struct ring r;
	const void *p = NULL;
	int64_t n;
	int bit;

	for (bit = 0; bit < 64; bit++) {
		ring_at(&r, 4096, 1024, 0);
		assert_int_equal(put(&r, 100, 1), 0);
		*(uint64_t *)(void *)(r.mem + 1024) ^= UINT64_C(1) << bit;
		n = vmpr_peek(&r.rx, &p);
		if (bit >= 11) {
			assert_int_equal(n, VMPR_PROTO);
			/* For ever, even if it is repaired. */
			*(uint64_t *)(void *)(r.mem + 1024) ^= UINT64_C(1) << bit;
			assert_int_equal(peek(&r), VMPR_PROTO);
		} else {
			assert_true(n == VMPR_PROTO || (n >= 0 && n <= 2040));
		}
		ring_free(&r);
	}
}

/* Lengths that reach beyond the lane's end or half the capacity, pads that are none. */
static void corrupt_length(void **state)
{
	static const struct { uint64_t pos, bits; } bad[] = {
		{ 0, 2041 },			/* more than half */
		{ 0, 4088 }, { 0, VMPR_LEN },
		{ 4032, 57 }, { 3008, 1081 },	/* beyond the end */
		{ 0, VMPR_PAD | 4088 },		/* a pad of the whole lane */
		{ 0, VMPR_PAD | 56 },		/* a pad in the middle */
		{ 4032, VMPR_PAD | 55 }, { 4032, VMPR_PAD }, { 4032, VMPR_PAD | 120 },
	};
	struct ring r;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ring_at(&r, 4096, bad[i].pos, 0);
		*(uint64_t *)(void *)(r.mem + bad[i].pos) =
			vmpr_header(bad[i].pos, NONCE, bad[i].bits);
		assert_int_equal(peek(&r), VMPR_PROTO);
		ring_free(&r);
	}
}

/* A message of another pair or another lap is not delivered. */
static void stale_headers(void **state)
{
	struct ring r;

	ring_at(&r, 1024, 0, 0);
	*(uint64_t *)(void *)r.mem = vmpr_header(0, NONCE ^ 1, 5);
	assert_int_equal(peek(&r), VMPR_PROTO);
	ring_free(&r);
	ring_at(&r, 1024, 1024, 0);
	*(uint64_t *)(void *)r.mem = vmpr_header(0, NONCE, 5);
	assert_int_equal(peek(&r), VMPR_PROTO);
	ring_free(&r);
}

static void corrupt_position(void **state)
{
	static const uint64_t bad[] = { 64 * 1000, 63, 1, UINT64_MAX, UINT64_C(1) << 63, 0 };
	struct ring r;
	size_t i;
	int k, e;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ring_at(&r, 1024, 0, 0);
		for (k = 0; k < 8; k++)
			assert_int_equal(put(&r, 56, k), 0);
		for (k = 0; k < 8; k++)
			get(&r, 56, k);
		assert_int_equal(vmpr_tx_refresh(&r.tx), 0);
		assert_int_equal(r.tx.limit, 512 + 1024);
		r.cons = bad[i];
		for (k = 0, e = 0; k < 32 && !e; k++)
			e = put(&r, 56, k);
		assert_int_equal(e, VMPR_PROTO);
		assert_int_equal(put(&r, 0, 0), VMPR_PROTO);
		ring_free(&r);
	}
}

/* Random traffic against a list of what must come, on memory full of garbage. */
static void against_a_model(void **state)
{
	enum { Q = 4096 };
	static uint64_t lens[Q];
	struct rng g = { 42 };
	struct ring r;
	uint64_t head, tail, len;
	int round, i, e;

	for (round = 0; round < (SANITIZED ? 8 : 40); round++) {
		ring_at(&r, UINT64_C(1024) << below(&g, 5), 64 * below(&g, 1000), 0);
		for (i = 0; i < (int)r.cap; i++)
			r.mem[i] = (unsigned char)rnd(&g);
		*vmpr_tx_header(&r.tx, r.tx.pos) = 0;
		head = tail = 0;
		for (i = 0; i < 20000; i++) {
			if (rnd(&g) & 1) {
				len = below(&g, 3) ? below(&g, 200) : below(&g, vmpr_max(r.cap) + 1);
				if (tail - head == Q)
					continue;
				e = put(&r, len, tail);
				if (!e)
					lens[tail++ % Q] = len;
				else
					assert_int_equal(e, VMPR_AGAIN);
			} else if (head == tail) {
				assert_int_equal(peek(&r), VMPR_AGAIN);
				vmpr_answer(&r.rx);
			} else {
				get(&r, lens[head % Q], head);
				head++;
			}
		}
		ring_free(&r);
	}
}

/* Garbage in place of every shared word, again and again: bounded and inside. */
static void random_headers(void **state)
{
	struct rng g = { 99 };
	struct ring r;
	const void *p = NULL;
	int64_t n;
	int i;

	for (i = 0; i < (SANITIZED ? 40000 : 200000); i++) {
		uint64_t pos = 64 * below(&g, 16), bits = rnd(&g);

		if (i % 1000 == 0) {
			if (i)
				ring_free(&r);
			ring_at(&r, 1024, pos, 0);
		}
		r.rx.err = 0;
		r.rx.pos = r.rx.end = pos;
		*(uint64_t *)(void *)(r.mem + pos) = i & 1 ? bits :
			vmpr_header(pos, NONCE, bits & (VMPR_PAD | 0x7ff));
		n = vmpr_peek(&r.rx, &p);
		if (n >= 0) {
			assert_true(n <= 504);
			assert_true((const unsigned char *)p >= r.mem &&
				    (const unsigned char *)p + n <= r.mem + r.cap);
		}
	}
	ring_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_size),
		cmocka_unit_test(bad_capacities),
		cmocka_unit_test(wrap_at_every_offset),
		cmocka_unit_test(positions_grow),
		cmocka_unit_test(full_and_free_again),
		cmocka_unit_test(zero_length),
		cmocka_unit_test(misuse),
		cmocka_unit_test(reservation_cut_short),
		cmocka_unit_test(laziness_is_bounded),
		cmocka_unit_test(ask_and_answer),
		cmocka_unit_test(corrupt_header),
		cmocka_unit_test(corrupt_length),
		cmocka_unit_test(stale_headers),
		cmocka_unit_test(corrupt_position),
		cmocka_unit_test(against_a_model),
		cmocka_unit_test(random_headers),
	};

	return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
