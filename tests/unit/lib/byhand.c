// SPDX-License-Identifier: MIT
/*
 * The other end, word by word: this test writes side 1 of linux/portal_layout.h itself,
 * and looks at what a real end 0 answers at each step, and at what it does not.
 */
#include "test.h"

#include <pthread.h>
#include <unistd.h>

#include <linux/portal_layout.h>
#include <vmportal.h>
#include <vmportal_ring.h>

#define SIZE	(64 << 10)
#define CAP	16384
#define HELLO	((uint64_t)PORTAL_CHAN_MAGIC | (uint64_t)PORTAL_CHAN_VERSION << 32)

#define RACE_US	1500000		/* for what happens between two instructions */

#define SET(word, value)	__atomic_store_n((uint64_t *)&(word), (value), __ATOMIC_RELEASE)
#define GET(word)		__atomic_load_n((uint64_t *)&(word), __ATOMIC_ACQUIRE)

struct hand {
	struct vmp *p[2];
	struct vmp_channel *ch;
	volatile struct portal_chan_side *us, *me;	/* the library's, the test's */
	unsigned char *base;
};

/* End 0 is open; nothing stands on side 1 yet. */
static void begin_with(struct hand *h, uint32_t flags)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .spin_us = 1, .flags = flags };
	void *base;

	alarm(ALARM_S);
	assert_int_equal(vmp_pair(h->p, SIZE, 1), 0);
	vmp_map(h->p[1], &base, NULL);
	h->base = base;
	h->us = base;
	h->me = h->us + 1;
	assert_int_equal(vmp_channel_open(&h->ch, h->p[0], &o), 0);
}

static void begin(struct hand *h)
{
	begin_with(h, 0);
}

static void finish(struct hand *h)
{
	vmp_channel_close(h->ch);
	vmp_close(h->p[0]);
	vmp_close(h->p[1]);
}

static int step(struct hand *h)
{
	return vmp_channel_connect(h->ch, 0);
}

/* All but the incarnation. */
static void introduce(struct hand *h)
{
	SET(h->me->hello, HELLO);
	SET(h->me->capacity, CAP);
	SET(h->me->address, 1 | PORTAL_CHAN_DOORBELL);
}

/* Be @y, and go all the way. */
static void meet(struct hand *h, uint64_t y)
{
	uint64_t nonce;

	SET(h->me->incarnation, 0);
	SET(h->me->ready, 0);
	SET(h->me->live, 0);
	SET(h->me->consumed, 0);
	introduce(h);
	SET(h->me->ack, GET(h->us->incarnation));
	SET(h->me->incarnation, y);
	assert_int_equal(step(h), -EAGAIN);
	assert_int_equal(GET(h->us->ack), y);
	nonce = GET(h->us->ready);
	assert_true(nonce != 0);
	SET(h->me->ready, nonce);
	SET(h->me->live, nonce);
	assert_int_equal(step(h), 0);
	assert_int_equal(GET(h->us->live), nonce);
}

/* The header of the first record of our lane. */
static uint64_t *first_header(struct hand *h)
{
	return (uint64_t *)(void *)(h->base + PORTAL_CHAN_ALIGN + CAP);
}

static uint64_t a_message(struct hand *h, uint64_t len)
{
	return vmpr_header(0, (uint32_t)(GET(h->us->ready) >> 32), len);
}

static unsigned int doorbells(struct hand *h)
{
	struct vmp_stats st;

	vmp_channel_stats(h->ch, &st, sizeof(st));
	return (unsigned int)st.doorbells;
}

/* How often it sleeps in 200 ms in which nothing comes. */
static unsigned int naps(struct hand *h)
{
	struct vmp_stats a, b;
	char c;

	vmp_channel_stats(h->ch, &a, sizeof(a));
	assert_int_equal(vmp_recv(h->ch, &c, 1, 200), -ETIMEDOUT);
	vmp_channel_stats(h->ch, &b, sizeof(b));
	return (unsigned int)(b.sleeps - a.sleeps);
}

/* Nobody is acknowledged who could not be a partner. */
static void no_partner(void **state)
{
	struct hand h;

	begin(&h);
	/* No hello of this layout. */
	introduce(&h);
	SET(h.me->hello, HELLO + (UINT64_C(1) << 32));
	SET(h.me->incarnation, 5);
	step(&h);
	assert_int_equal(GET(h.us->ack), 0);
	SET(h.me->hello, 4711);
	step(&h);
	assert_int_equal(GET(h.us->ack), 0);
	/* Other lanes. */
	introduce(&h);
	SET(h.me->capacity, CAP / 2);
	step(&h);
	assert_int_equal(GET(h.us->ack), 0);
	/* It has closed, and we never met. */
	introduce(&h);
	SET(h.me->closed, 5);
	step(&h);
	assert_int_equal(GET(h.us->ack), 0);
	/* But now. */
	SET(h.me->closed, 0);
	step(&h);
	assert_int_equal(GET(h.us->ack), 5);
	/* Not ready: for it has not acknowledged us. */
	assert_int_equal(GET(h.us->ready), 0);
	SET(h.me->ack, GET(h.us->incarnation) + 1);
	step(&h);
	assert_int_equal(GET(h.us->ready), 0);
	assert_int_equal(GET(h.us->live), 0);
	SET(h.me->ack, GET(h.us->incarnation));
	step(&h);
	assert_true(GET(h.us->ready) != 0);
	/* Not live: for its lane is not. */
	assert_int_equal(GET(h.us->live), 0);
	SET(h.me->ready, GET(h.us->ready) + 1);
	step(&h);
	assert_int_equal(GET(h.us->live), 0);
	SET(h.me->ready, GET(h.us->ready));
	step(&h);
	assert_int_equal(GET(h.us->live), GET(h.us->ready));
	/* And it sends nothing before we read. */
	assert_int_equal(vmp_send(h.ch, "x", 1, 0, 0), -EAGAIN);
	SET(h.me->live, GET(h.us->ready));
	assert_int_equal(vmp_send(h.ch, "x", 1, 0, 0), 0);
	finish(&h);
}

/* Whoever comes in the place of one that was courted is met anew. */
static void another_suitor(void **state)
{
	struct hand h;
	uint64_t n;
	int i;

	begin(&h);
	introduce(&h);
	SET(h.me->ack, GET(h.us->incarnation));
	SET(h.me->incarnation, 5);
	step(&h);
	assert_true(GET(h.us->ready) != 0);
	/* The first one waits, is rung so that it may trust its doorbell, rings back. */
	SET(h.me->rx_armed, 77);
	vmp_channel_connect(h.ch, 5);
	assert_int_equal(GET(h.us->rx_rung), 77);
	assert_true(vmp_channel_fd(h.ch) >= 0);
	for (i = 0; i < 3; i++) {
		assert_int_equal(vmp_channel_connect(h.ch, 0), -EAGAIN);
		SET(h.me->tx_rung, GET(h.us->tx_armed));
		vmp_ring(h.p[1], 0, 0);
	}
	assert_int_equal(vmp_channel_connect(h.ch, 0), -EAGAIN);
	/* The second has acknowledged nobody: nothing is ready for it. */
	SET(h.me->rx_armed, 0);
	SET(h.me->ack, 0);
	SET(h.me->incarnation, 6);
	step(&h);
	assert_int_equal(GET(h.us->ack), 6);
	assert_int_equal(GET(h.us->ready), 0);
	assert_int_equal(GET(h.us->rx_rung), 0);
	assert_int_equal(GET(h.us->tx_rung), 0);
	meet(&h, 6);
	/* It sleeps by the same number: that is another sleep, so it is rung. */
	n = doorbells(&h);
	SET(h.me->rx_armed, 77);
	assert_int_equal(vmp_send(h.ch, "x", 1, 0, 0), 0);
	assert_int_equal(doorbells(&h), n + 1);
	assert_int_equal(GET(h.us->rx_rung), 77);
	/* Its doorbell has not proved itself: sleeps end by themselves. */
	assert_true(naps(&h) > 4);
	finish(&h);
}

/* One who is opened anew without end makes us ring only now and then. */
static void suitors_without_end(void **state)
{
	struct hand h;
	unsigned int before;
	int64_t t;
	int i;

	begin(&h);
	introduce(&h);
	before = doorbells(&h);
	t = now_us();
	for (i = 0; i < 2000; i++) {
		SET(h.me->incarnation, (uint64_t)i + 10);
		assert_int_equal(step(&h), -EAGAIN);
		assert_int_equal(GET(h.us->ack), i + 10);
	}
	t = now_us() - t;
	/* Eight at once, then one in four milliseconds. */
	assert_true(doorbells(&h) - before <= 8 + t / 4000 + 1);
	finish(&h);
}

/* Trust is for the whole pair only: a receiver that may not send yet still naps. */
static void trust_takes_two(void **state)
{
	struct hand h;
	uint64_t nonce;
	int i;
	char c;

	begin(&h);
	introduce(&h);
	SET(h.me->ack, GET(h.us->incarnation));
	SET(h.me->incarnation, 5);
	step(&h);
	nonce = GET(h.us->ready);
	SET(h.me->ready, nonce);
	step(&h);
	assert_int_equal(GET(h.us->live), nonce);
	assert_true(vmp_channel_fd(h.ch) >= 0);
	for (i = 0; i < 3; i++) {
		assert_int_equal(vmp_recv(h.ch, &c, 1, 0), -EAGAIN);
		SET(h.me->rx_rung, GET(h.us->rx_armed));
		vmp_ring(h.p[1], 0, 0);
	}
	assert_int_equal(vmp_recv(h.ch, &c, 1, 0), -EAGAIN);
	assert_true(naps(&h) > 4);
	SET(h.me->live, nonce);
	assert_int_equal(step(&h), 0);
	assert_true(naps(&h) <= 2);
	finish(&h);
}

/* What a predecessor left in our own words is gone before anybody may look. */
static void a_clean_start(void **state)
{
	volatile struct portal_chan_side *u;
	struct hand h;
	struct vmp_channel_opts o = { .size = sizeof(o) };

	begin(&h);
	vmp_channel_close(h.ch);
	u = h.us;
	SET(u->hello, 1);
	SET(u->ack, 2);
	SET(u->ready, 3);
	SET(u->live, 4);
	SET(u->consumed, 64);
	SET(u->rx_armed, 5);
	SET(u->tx_armed, 6);
	SET(u->ask, 7);
	SET(u->rx_rung, 8);
	SET(u->tx_rung, 9);
	SET(u->tenure, 10);
	assert_int_equal(vmp_channel_open(&h.ch, h.p[0], &o), 0);
	assert_int_equal(GET(u->hello), HELLO);
	assert_int_equal(GET(u->capacity), CAP);
	assert_int_equal(GET(u->ack) | GET(u->ready) | GET(u->live) | GET(u->consumed), 0);
	assert_int_equal(GET(u->rx_armed) | GET(u->tx_armed) | GET(u->ask), 0);
	assert_int_equal(GET(u->rx_rung) | GET(u->tx_rung) | GET(u->tenure), 0);
	finish(&h);
}

struct watcher {
	struct hand h;
	uint64_t old;
	int stop;
	uint64_t seen;	/* words of the new one under the old one's name */
	uint64_t looks;
};

static void *watch_start(void *arg)
{
	struct watcher *w = arg;
	volatile struct portal_chan_side *u = w->h.us;
	uint64_t old, c;

	while (!__atomic_load_n(&w->stop, __ATOMIC_RELAXED)) {
		old = GET(w->old);
		c = GET(u->consumed);
		if (!c && old && GET(u->incarnation) == old && GET(w->old) == old)
			w->seen++;
		w->looks++;
	}
	return NULL;
}

/*
 * "Gone" comes first: nobody sees the first words of an end under the name of its
 * predecessor, to whom he may still be bound.
 */
static void gone_comes_first(void **state)
{
	struct vmp_channel_opts o = { .size = sizeof(o) };
	struct watcher w = { .stop = 0 };
	int64_t end = now_us() + RACE_US;
	pthread_t t;
	int i;

	begin(&w.h);
	pthread_create(&t, NULL, watch_start, &w);
	for (i = 0; i < 20000 && (i < 300 || now_us() < end); i++) {
		vmp_channel_close(w.h.ch);
		SET(w.h.us->consumed, 64);
		SET(w.old, GET(w.h.us->incarnation));
		assert_int_equal(vmp_channel_open(&w.h.ch, w.h.p[0], &o), 0);
		SET(w.old, 0);
	}
	__atomic_store_n(&w.stop, 1, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
	assert_int_equal(w.seen, 0);
	assert_true(w.looks > 1000);
	finish(&w.h);
}

/* What was committed last and what was said last, as one. */
struct farewell {
	struct hand *h;
	uint64_t header, y;
	int how, go;
};

static void *say_farewell(void *arg)
{
	struct farewell *f = arg;
	uint64_t header = f->header, y = f->y;
	uint64_t *at = first_header(f->h);
	int how = f->how;

	while (!__atomic_load_n(&f->go, __ATOMIC_ACQUIRE))
		;
	__atomic_store_n(at, header, __ATOMIC_RELEASE);
	if (how)
		SET(f->h->me->closed, y);
	else
		SET(f->h->me->incarnation, y + 1);
	return NULL;
}

/*
 * A message that was committed before the end is read before the end is, however close
 * they were: between the look at the lane and the look at the other side's state.
 */
static void last_words(void **state)
{
	struct vmp_channel_opts o = { .size = sizeof(o) };
	struct hand h;
	struct farewell f = { .h = &h };
	int64_t end = now_us() + RACE_US;
	pthread_t t;
	char c[8];
	int i, k, r;

	begin(&h);
	for (i = 0; i < 6000 && (i < 300 || now_us() < end); i++) {
		vmp_channel_close(h.ch);
		SET(h.me->incarnation, 0);
		assert_int_equal(vmp_channel_open(&h.ch, h.p[0], &o), 0);
		__atomic_store_n(first_header(&h), 0, __ATOMIC_RELAXED);
		meet(&h, (uint64_t)i * 2 + 2);
		f.header = a_message(&h, 3);
		f.y = (uint64_t)i * 2 + 2;
		f.how = i & 1;
		f.go = 0;
		pthread_create(&t, NULL, say_farewell, &f);
		for (k = 0; k < 20; k++)
			assert_int_equal(vmp_recv(h.ch, c, sizeof(c), 0), -EAGAIN);
		__atomic_store_n(&f.go, 1, __ATOMIC_RELEASE);
		while ((r = (int)vmp_recv(h.ch, c, sizeof(c), 0)) == -EAGAIN)
			;
		pthread_join(t, NULL);
		assert_int_equal(r, 3);
		assert_int_equal(vmp_recv(h.ch, c, sizeof(c), 0), f.how ? -EPIPE : -ECONNRESET);
	}
	finish(&h);
}

/* Garbage is a broken rule; garbage of one that was opened anew is that he was. */
static void broken_or_opened_anew(void **state)
{
	struct hand h;
	char c;

	begin(&h);
	meet(&h, 5);
	SET(*first_header(&h), 4711);
	assert_int_equal(vmp_recv(h.ch, &c, 1, 0), -EPROTO);
	finish(&h);

	begin(&h);
	meet(&h, 5);
	SET(*first_header(&h), 4711);
	SET(h.me->incarnation, 6);
	assert_int_equal(vmp_recv(h.ch, &c, 1, 0), -ECONNRESET);
	finish(&h);

	/* One that closed has no excuse. */
	begin(&h);
	meet(&h, 5);
	SET(*first_header(&h), 4711);
	SET(h.me->closed, 5);
	assert_int_equal(vmp_recv(h.ch, &c, 1, 0), -EPROTO);
	finish(&h);

	/* Nor may a sender believe a position that cannot be. */
	begin(&h);
	meet(&h, 5);
	SET(h.me->consumed, 64);
	while (!(c = (char)vmp_send(h.ch, "x", 1, 0, 0)))
		;
	finish(&h);
}

/* Closing gives back what was read, and rings who may wait for that room. */
static void closing_gives_back(void **state)
{
	struct hand h;
	uint64_t n;
	char c[8];
	int fd;

	begin(&h);
	meet(&h, 5);
	SET(*first_header(&h), a_message(&h, 3));
	assert_int_equal(vmp_recv(h.ch, c, sizeof(c), 0), 3);
	assert_int_equal(GET(h.us->consumed), 0);
	fd = vmp_eventfd(h.p[1], 0);
	while (read(fd, &n, sizeof(n)) == sizeof(n))
		;
	vmp_channel_close(h.ch);
	h.ch = NULL;
	assert_int_equal(GET(h.us->consumed), 64);
	assert_int_equal(GET(h.us->closed), GET(h.us->incarnation));
	assert_int_equal(GET(h.us->rx_armed) | GET(h.us->tx_armed), 0);
	assert_int_equal(read(fd, &n, sizeof(n)), sizeof(n));
	finish(&h);
}

/* An end that was overtaken leaves its successor's words alone when it closes. */
static void the_overtaken_is_silent(void **state)
{
	struct hand h;
	uint64_t x;

	begin(&h);
	meet(&h, 5);
	x = GET(h.us->incarnation) + 1;
	SET(h.us->incarnation, x);
	SET(h.us->closed, 0);
	SET(h.us->rx_armed, 9);
	vmp_channel_close(h.ch);
	h.ch = NULL;
	assert_int_equal(GET(h.us->closed), 0);
	assert_int_equal(GET(h.us->rx_armed), 9);
	assert_int_equal(GET(h.us->incarnation), x);
	finish(&h);
}

/* Room that the other end asks for is given when it is asked, awake or not. */
static void room_is_given_when_asked(void **state)
{
	unsigned int how;
	struct hand h;
	uint64_t n;
	char c[8];

	for (how = 0; how < 2; how++) {
		begin(&h);
		meet(&h, 5);
		SET(*first_header(&h), a_message(&h, 3));
		assert_int_equal(vmp_recv(h.ch, c, sizeof(c), 0), 3);
		assert_int_equal(GET(h.us->consumed), 0);
		SET(h.me->ask, 64);
		SET(h.me->tx_armed, 3);
		n = doorbells(&h);
		if (how)
			assert_int_equal(vmp_recv(h.ch, c, sizeof(c), 0), -EAGAIN);
		else
			assert_int_equal(vmp_recv(h.ch, c, sizeof(c), 1), -ETIMEDOUT);
		assert_int_equal(GET(h.us->consumed), 64);
		assert_int_equal(GET(h.us->tx_rung), 3);
		assert_int_equal(doorbells(&h), n + 1);
		/* One ring for one sleep. */
		assert_int_equal(vmp_send(h.ch, "x", 1, 0, 0), 0);
		vmp_recv(h.ch, c, sizeof(c), 1);
		assert_int_equal(doorbells(&h), n + 1);
		finish(&h);
	}
}

/* Room that nobody asked for is given back before a sleep, and a sleeper is rung. */
static void room_is_given_before_a_sleep(void **state)
{
	unsigned int how;
	struct hand h;
	char c[8];

	for (how = 0; how < 3; how++) {
		begin(&h);
		meet(&h, 5);
		if (how)
			assert_true(vmp_channel_fd(h.ch) >= 0);
		SET(*first_header(&h), a_message(&h, 3));
		assert_int_equal(vmp_recv(h.ch, c, sizeof(c), 0), 3);
		assert_int_equal(GET(h.us->consumed), 0);
		SET(h.me->tx_armed, 3);
		if (how == 2)
			assert_int_equal(vmp_recv(h.ch, c, sizeof(c), 0), -EAGAIN);
		else
			assert_int_equal(vmp_recv(h.ch, c, sizeof(c), 1), -ETIMEDOUT);
		assert_int_equal(GET(h.us->consumed), 64);
		assert_int_equal(GET(h.us->tx_rung), 3);
		finish(&h);
	}
	/* Who never sleeps answers while it spins. */
	begin_with(&h, VMP_CH_NO_SLEEP);
	meet(&h, 5);
	SET(*first_header(&h), a_message(&h, 3));
	assert_int_equal(vmp_recv(h.ch, c, sizeof(c), 0), 3);
	SET(h.me->ask, 64);
	assert_int_equal(vmp_recv(h.ch, c, sizeof(c), 3), -ETIMEDOUT);
	assert_int_equal(GET(h.us->consumed), 64);
	finish(&h);
}

/* However much is sent before a sleeper wakes, it is rung once. */
static void one_ring_for_one_sleep(void **state)
{
	struct hand h;
	unsigned int n;
	int i;

	begin(&h);
	meet(&h, 5);
	for (i = 1; i < 4; i++) {
		SET(h.me->rx_armed, 100 + i);
		n = doorbells(&h);
		assert_int_equal(vmp_send(h.ch, "x", 1, 0, 0), 0);
		assert_int_equal(vmp_send(h.ch, "y", 1, 0, 0), 0);
		assert_int_equal(doorbells(&h), n + 1);
		assert_int_equal(GET(h.us->rx_rung), 100 + i);
		SET(h.me->rx_armed, 0);
		assert_int_equal(vmp_send(h.ch, "z", 1, 0, 0), 0);
		assert_int_equal(doorbells(&h), n + 1);
	}
	finish(&h);
}

/* Numbers of sleeps are not those of an end's predecessor. */
static void numbers_are_new(void **state)
{
	struct vmp_channel_opts o = { .size = sizeof(o) };
	uint64_t n, last = 0;
	struct hand h;
	char c;
	int i;

	begin(&h);
	for (i = 0; i < 5; i++) {
		vmp_channel_close(h.ch);
		assert_int_equal(vmp_channel_open(&h.ch, h.p[0], &o), 0);
		assert_true(vmp_channel_fd(h.ch) >= 0);
		assert_int_equal(vmp_recv(h.ch, &c, 1, 0), -EAGAIN);
		n = GET(h.us->rx_armed);
		assert_true(n != 0);
		assert_true(n - last > 1000 && last - n > 1000);
		last = n;
	}
	finish(&h);
}

/* What the sender asks for, waits for, and believes of the reader's position. */
static void a_full_lane(void **state)
{
	static char big[8192];
	struct vmp_stats st;
	struct hand h;
	size_t max;
	int i, r;

	/* Too long is too long, whether the other end is there or not. */
	begin(&h);
	max = vmp_channel_max(h.ch);
	assert_int_equal(max, CAP / 16 * 7 - 8);
	assert_int_equal(vmp_send(h.ch, big, max + 1, 0, 0), -EMSGSIZE);
	assert_non_null(strstr(vmp_errmsg(), "longer than"));
	meet(&h, 5);
	/* Two of the longest; for a third, room for it and for the pad before it. */
	assert_int_equal(vmp_send(h.ch, big, max, 0, 0), 0);
	assert_int_equal(vmp_send(h.ch, big, max, 0, 0), 0);
	assert_int_equal(vmp_send(h.ch, big, max, 0, 0), -EAGAIN);
	assert_int_equal(GET(h.us->ask), 2 * (max + 8) + CAP - 2 * (max + 8) + max + 8 + 64 - CAP);
	finish(&h);

	/* Room for the record alone is no room: it sleeps, and does not spin. */
	begin(&h);
	meet(&h, 5);
	for (i = 0; i < 15; i++)
		assert_int_equal(vmp_send(h.ch, big, 1000, 0, 0), 0);
	SET(h.me->consumed, 1536);
	assert_int_equal(vmp_send(h.ch, big, 2000, 0, 50), -ETIMEDOUT);
	vmp_channel_stats(h.ch, &st, sizeof(st));
	assert_true(st.sleeps > 0);
	SET(h.me->consumed, 2112);
	assert_int_equal(vmp_send(h.ch, big, 2000, 0, 50), 0);
	finish(&h);

	/* A position between two lines is nobody's. */
	begin(&h);
	meet(&h, 5);
	assert_int_equal(vmp_send(h.ch, big, 1000, 0, 0), 0);
	SET(h.me->consumed, 32);
	while (!(r = vmp_send(h.ch, big, max, 0, 0)))
		;
	assert_int_equal(r, -EPROTO);
	finish(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_partner),
		cmocka_unit_test(another_suitor),
		cmocka_unit_test(suitors_without_end),
		cmocka_unit_test(trust_takes_two),
		cmocka_unit_test(a_clean_start),
		cmocka_unit_test(gone_comes_first),
		cmocka_unit_test(last_words),
		cmocka_unit_test(broken_or_opened_anew),
		cmocka_unit_test(closing_gives_back),
		cmocka_unit_test(the_overtaken_is_silent),
		cmocka_unit_test(room_is_given_when_asked),
		cmocka_unit_test(room_is_given_before_a_sleep),
		cmocka_unit_test(one_ring_for_one_sleep),
		cmocka_unit_test(numbers_are_new),
		cmocka_unit_test(a_full_lane),
	};

	return cmocka_run_group_tests_name("byhand", tests, NULL, NULL);
}
