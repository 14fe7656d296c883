/* SPDX-License-Identifier: MIT */
/*
 * VMP_CH_PACKETS against a host that breaks the rules: -EPROTO, for good, and nothing
 * worse. With an argument, a number of seconds: random words of both rings change all
 * the time (tests/fuzz/packets-fuzz).
 */
#include <pthread.h>

#include "rig.h"

#define SIZE 8192U

static struct rig g;

static int up(void **state)
{
	rig_up(&g, SIZE);
	return 0;
}

static int down(void **state)
{
	rig_down(&g);
	return 0;
}

static _Atomic uint32_t *word(int ring, int w)
{
	return (_Atomic uint32_t *)(void *)rig_page(&g, ring) + w;
}

static void *sleeps(void *arg)
{
	char b[SIZE];

	return (void *)(intptr_t)vmp_recv(arg, b, sizeof(b), PATIENCE_MS);
}

/* An index of the host's that cannot be: in its own ring, in ours. */
static void indices(void **state)
{
	static const uint32_t bad[] = { 1, 4, 12, SIZE, SIZE + 8, 0x7ffffff8, 0x80000000, UINT32_MAX };
	struct vmp_channel *ch;
	char b[SIZE];
	pthread_t t;
	size_t i;
	void *r;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		rig_reset(&g, 0);
		ch = rig_open(&g, 0, 0);
		atomic_store(word(1, H_WRITE), bad[i]);
		assert_int_equal(vmp_recv(ch, b, sizeof(b), 0), -EPROTO);
		atomic_store(word(1, H_WRITE), 0);
		assert_int_equal(vmp_recv(ch, b, sizeof(b), 0), -EPROTO);
		assert_int_equal(vmp_send(ch, b, 8, 0, 0), -EPROTO);
		vmp_channel_close(ch);

		rig_reset(&g, 0);
		ch = rig_open(&g, 0, 0);
		pthread_create(&t, NULL, sleeps, ch);
		while (!vmp_send(ch, b, 1000, 0, 0))
			;
		atomic_store(word(0, H_READ), bad[i]);
		assert_int_equal(vmp_send(ch, b, 1000, 0, 0), -EPROTO);
		/* The other direction's sleeper hears of it. */
		pthread_join(t, &r);
		assert_int_equal((intptr_t)r, -EPROTO);
		vmp_channel_close(ch);

		/* What is broken before we begin. */
		rig_reset(&g, 0);
		atomic_store(word(0, H_WRITE), bad[i]);
		assert_int_equal(vmp_channel_open(&ch, g.p[0], &(struct vmp_channel_opts)
				 { .size = sizeof(struct vmp_channel_opts), .flags = VMP_CH_PACKETS }), -EPROTO);
	}
}

/* read_index back, or beyond what was written; our own indices changed. */
static void indices_that_lie(void **state)
{
	struct vmp_channel *ch = rig_open(&g, 0, 0);
	char b[SIZE];

	memset(b, 0, sizeof(b));
	assert_int_equal(vmp_send(ch, b, 1000, 0, 0), 0);
	atomic_store(word(0, H_READ), 2048);
	assert_int_equal(vmp_send(ch, b, 8000, 0, 0), -EPROTO);
	vmp_channel_close(ch);

	rig_reset(&g, 0);
	ch = rig_open(&g, 0, 0);
	assert_int_equal(vmp_send(ch, b, 1000, 0, 0), 0);
	atomic_store(word(0, H_READ), 1024);
	assert_int_equal(vmp_send(ch, b, 7200, 0, 0), 0);
	atomic_store(word(0, H_READ), 1016);
	assert_int_equal(vmp_send(ch, b, 1000, 0, 0), -EPROTO);
	vmp_channel_close(ch);

	rig_reset(&g, 0);
	ch = rig_open(&g, 0, 0);
	atomic_store(word(0, H_WRITE), 64);
	assert_int_equal(vmp_send(ch, b, 8, 0, 0), -EPROTO);
	vmp_channel_close(ch);

	rig_reset(&g, 0);
	ch = rig_open(&g, 0, 0);
	atomic_store(word(1, H_READ), 64);
	assert_int_equal(vmp_recv(ch, b, 8, 0), -EPROTO);
	vmp_channel_close(ch);
}

static void put_descriptor(uint32_t at, uint16_t type, uint16_t offset8, uint16_t len8)
{
	uint16_t d[8] = { type, offset8, len8 };

	memcpy(rig_page(&g, 1) + RIG_PAGE + at, d, sizeof(d));
}

static void lengths(void **state)
{
	static const struct { uint16_t offset8, len8; uint32_t there; int64_t want; } c[] = {
		{ 2, 2, 24, 0 },
		{ 2, 3, 32, 8 },
		{ 3, 3, 32, 0 },
		{ 3, 3, 64, 0 },
		{ 2, 0xffff, 8184, -EPROTO },	/* longer than what is there */
		{ 2, 3, 24, -EPROTO },
		{ 2, 1, 24, -EPROTO },		/* shorter than a descriptor */
		{ 2, 0, 24, -EPROTO },
		{ 0, 3, 32, -EPROTO },		/* payload inside the descriptor */
		{ 1, 3, 32, -EPROTO },
		{ 4, 3, 32, -EPROTO },		/* or behind the end */
		{ 0xffff, 3, 32, -EPROTO },
		{ 0, 0, 32, -EPROTO },
		{ 2, 2, 8, -EPROTO },		/* write_index inside a descriptor */
		{ 2, 2, 16, -EPROTO },
	};
	struct vmp_channel *ch;
	uint32_t base;
	char b[SIZE];
	size_t i;

	for (base = 0; base < SIZE; base += SIZE - 8)
		for (i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
			rig_reset(&g, base);
			ch = rig_open(&g, 0, 0);
			memset(rig_page(&g, 1) + RIG_PAGE, 0, SIZE);
			put_descriptor(0, 6, c[i].offset8, c[i].len8);
			if (base) {
				/* It wraps in the middle of its descriptor. */
				uint16_t d[4] = { 6, c[i].offset8, c[i].len8 };

				memset(rig_page(&g, 1) + RIG_PAGE, 0, 16);
				memcpy(rig_page(&g, 1) + RIG_PAGE + base, d, 8);
			}
			atomic_store(word(1, H_WRITE), (base + c[i].there) % SIZE);
			if (vmp_recv(ch, b, sizeof(b), 0) != c[i].want)
				fail_msg("case %zu at %u", i, base);
			vmp_channel_close(ch);
		}
}

/* Lengths that change after the look: the first reading counts. */
static void changed_after_peek(void **state)
{
	struct vmp_channel *ch = rig_open(&g, 0, 0);
	const void *p;

	put_descriptor(0, 6, 2, 10);
	atomic_store(word(1, H_WRITE), 88);
	assert_int_equal(vmp_peek(ch, &p, 0), 64);
	put_descriptor(0, 6, 2, 0xffff);
	assert_int_equal(vmp_peek(ch, &p, 0), 64);
	assert_int_equal(vmp_release(ch), 0);
	assert_int_equal(atomic_load(word(1, H_READ)), 88);
	assert_int_equal(vmp_peek(ch, &p, 0), -EAGAIN);
	vmp_channel_close(ch);
}

/* pending_send_sz without end: never more signals than reads. */
static void wishes_without_end(void **state)
{
	struct vmp_channel *ch = rig_open(&g, 0, 0);
	struct host_packet hp = { .type = 6, .len = 8 };
	struct host_ring to, from;
	unsigned char b[64];
	uint32_t i, n = 0;

	rig_host(&g, &to, &from);
	for (i = 0; i < 20000; i++) {
		assert_true(host_send(&to, &hp, "12345678") >= 0);
		atomic_store(&to.w[H_PENDING], i % 3 ? SIZE - 8 - (i % 512) * 8 : UINT32_MAX);
		assert_int_equal(vmp_recv(ch, b, sizeof(b), 0), 8);
		n++;
		assert_int_equal(vmp_recv(ch, b, sizeof(b), 0), -EAGAIN);
	}
	assert_true(rig_signals(&g, 1) <= n);
	vmp_channel_close(ch);
}

/* ---- Random words, all the time ------------------------------------------------------ */

static atomic_bool stop;

static void *vandal(void *arg)
{
	struct rng r = { (uintptr_t)arg | 1 };
	uint64_t n = 0;

	while (!atomic_load(&stop)) {
		int ring = (int)below(&r, 2);
		uint32_t v = (uint32_t)rnd(&r);

		/* Payload that changes while it is copied is no race that we could mend. */
#if defined(__SANITIZE_THREAD__)
		switch (below(&r, 3)) {
#else
		switch (below(&r, 6)) {
#endif
		case 0: atomic_store(word(ring, (int)below(&r, 17)), v); break;
		case 1: atomic_store(word(1, H_WRITE), v % SIZE & ~7U); break;
		case 2: atomic_store(word(0, H_READ), v % SIZE & ~7U); break;
		case 3: put_descriptor(v % (SIZE - 16) & ~7U, 6, (uint16_t)(2 + v % 2), (uint16_t)(2 + below(&r, 30))); break;
		case 4: atomic_store((_Atomic uint32_t *)(void *)(rig_page(&g, ring) + RIG_PAGE) + v % (SIZE / 4), (uint32_t)rnd(&r)); break;
		default: break;
		}
		if (!below(&r, 6))
			rig_signal(&g, 0);
		/* Both what lasts and what is gone at once. */
		if (!(++n % 64))
			usleep(1);
	}
	return NULL;
}

static bool documented(int64_t r)
{
	return r >= 0 || r == -EAGAIN || r == -ETIMEDOUT || r == -EPROTO || r == -ECONNRESET ||
	       r == -EMSGSIZE || r == -EINVAL;
}

static void *user_sends(void *arg)
{
	struct rng r = { 3 };
	static char b[SIZE];
	int i, k;

	for (i = 0; i < 200; i++) {
		k = vmp_send(arg, b, below(&r, SIZE), below(&r, 2) ? VMP_MORE : 0, (int)below(&r, 3));
		assert_true(documented(k));
		if (k == -EPROTO)
			break;
	}
	return NULL;
}

static void any_words_for(unsigned int seconds)
{
	int64_t end = now_us() + (int64_t)seconds * 1000000;
	uint64_t opens = 0, proto = 0, packets = 0;
	struct vmp_channel *ch;
	static char b[SIZE];
	struct rng r = { 77 };
	pthread_t v[2], t;
	int64_t k;
	int i;

	atomic_store(&stop, false);
	for (i = 0; i < 2; i++)
		pthread_create(&v[i], NULL, vandal, (void *)(uintptr_t)(i * 2 + 12345));
	while (now_us() < end) {
		struct vmp_channel_opts o = { .size = sizeof(o), .spin_us = 1,
			.flags = VMP_CH_PACKETS | (below(&r, 4) ? 0 : VMP_CH_NO_SLEEP) };
		struct vmp_packet pkt;

		k = vmp_channel_open(&ch, g.p[0], &o);
		if (k) {
			assert_int_equal(k, -EPROTO);
			rig_reset(&g, (uint32_t)below(&r, SIZE / 8) * 8);
			continue;
		}
		opens++;
		if (below(&r, 2))
			assert_true(vmp_channel_fd(ch) >= 0);
		pthread_create(&t, NULL, user_sends, ch);
		for (i = 0, k = 0; i < 200 && k != -EPROTO; i++) {
			k = below(&r, 2) ? vmp_recv(ch, b, sizeof(b), (int)below(&r, 3)) :
				vmp_packet_recv(ch, &pkt, b, sizeof(b), 0);
			assert_true(documented(k));
			packets += k >= 0;
		}
		proto += k == -EPROTO;
		pthread_join(t, NULL);
		vmp_channel_close(ch);
	}
	atomic_store(&stop, true);
	for (i = 0; i < 2; i++)
		pthread_join(v[i], NULL);
	print_message("# %lu opens, %lu packets taken for such, %lu ended by -EPROTO\n",
		      (unsigned long)opens, (unsigned long)packets, (unsigned long)proto);
	assert_true(opens && proto);
}

static unsigned int fuzz_seconds = 2;

static void any_words(void **state)
{
	any_words_for(fuzz_seconds);
}

int main(int argc, char **argv)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up, down)
	const struct CMUnitTest tests[] = {
		T(indices), T(indices_that_lie), T(lengths), T(changed_after_peek),
		T(wishes_without_end), T(any_words),
	};

	if (argc > 1)
		fuzz_seconds = (unsigned int)atoi(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
