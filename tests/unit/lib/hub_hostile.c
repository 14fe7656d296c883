// SPDX-License-Identifier: MIT
/*
 * Somebody writes whatever he likes over a channel by name: errors, never a crash, a hang, or
 * an access outside; and it is good again when he stops and all have opened it anew.
 */
#include <pthread.h>

#include "hubs.h"
#include "late.h"

/* What may stand there that is not just any number. */
static uint64_t a_word(struct rng *r)
{
	static const uint64_t some[] = {
		0, 1, 2, UINT64_MAX, 1ULL << 63, 64, CAP, CAP - 64, 2 * CAP, PORTAL_HUB_RESET,
		CHAN_HELLO, 1ULL << 48, 0xffff, 1ULL << 16, 1ULL << 16 | 1, 1ULL << 16 | 2,
		2ULL << 16, 0xffffffffffff0000,
	};
	uint64_t w;

	switch (below(r, 3)) {
	case 0:
		return rnd(r);
	case 1:
		return some[below(r, sizeof(some) / sizeof(some[0]))];
	default:
		/* Of somewhere else in the same object. */
		layout_copy(&w, object() + 8 * below(r, layout_hub_size(LANES, CAP) / 8), 8);
		return w;
	}
}

/* Where: the header, a lane's row, a side; seldom a ring. */
static uint64_t *a_place(struct rng *r)
{
	uint32_t lane = (uint32_t)below(r, LANES);
	char *at;

	switch (below(r, 8)) {
	case 0:
		at = object();
		return (uint64_t *)(void *)at + below(r, sizeof(struct portal_hub) / 8);
	case 1: case 2:
		return (uint64_t *)(void *)row(lane) + below(r, 2);
	case 3: case 4: case 5:
		return (uint64_t *)(void *)side(lane, (uint32_t)below(r, 2)) + below(r, 68);
	default:
		at = hub_area(object(), LANES, CAP, lane);
		return (uint64_t *)(void *)(at + 4096) + below(r, 2 * CAP / 8);
	}
}

static void scribble(struct rng *r)
{
	__atomic_store_n(a_place(r), a_word(r), __ATOMIC_RELAXED);
}

static bool allowed(ssize_t r)
{
	return r >= 0 || r == -EAGAIN || r == -ETIMEDOUT || r == -EPROTO || r == -ECONNRESET ||
	       r == -EPIPE || r == -EBUSY || r == -ESTALE || r == -EUSERS || r == -EPROTONOSUPPORT ||
	       r == -EMSGSIZE;
}

static void check(ssize_t r, const char *what)
{
	if (!allowed(r))
		fail_msg("%s: %zd %s", what, r, vmp_errmsg());
}

static void use_sender(struct user *u, struct rng *r)
{
	static char text[2000];
	char buf[2000];
	int n;

	if (!u->ch) {
		check(try_channel(u), "open");
		return;
	}
	n = vmp_send(u->ch, text, below(r, sizeof(text)), 0, (int)below(r, 2));
	check(n, "send");
	check(vmp_recv(u->ch, buf, sizeof(buf), 0), "recv");
	n = vmp_channel_peer_state(u->ch);
	check(n, "peer");
	if (!below(r, 20)) {
		vmp_channel_close(u->ch);
		u->ch = NULL;
	}
}

static void use_hub(struct user *u, struct rng *r)
{
	struct vmp_from from;
	char buf[4000];
	ssize_t n;

	if (!u->h) {
		check(try_hub(u, below(r, 2) ? VMP_HUB_EVENTS : 0), "hub");
		return;
	}
	if (!below(r, 10))
		vmp_hub_fd(u->h);
	n = vmp_hub_recv(u->h, buf, sizeof(buf), &from, (int)below(r, 3));
	check(n, "hub's recv");
	if (n >= 0 && !from.event)
		check(vmp_hub_reply(u->h, &from, buf, (size_t)n, 0, (int)below(r, 2)), "reply");
	if (n == -EPROTO || n == -ENODEV || !below(r, 50)) {
		vmp_hub_close(u->h);
		u->h = NULL;
	}
}

/* Afterwards: all zeroes are a good hub, as it was made; nothing of before is held on to. */
static void good_again(void)
{
	struct user h, a;

	memset(object(), 0, layout_hub_size(LANES, CAP));
	h = hub(0);
	a = producer();
	pair(&h, &a);
	send_text(&a, "well");
	expect(&h, "well");
	leave(&a);
	leave(&h);
}

static void scribbled_over(void **state)
{
	struct rng r = { 20261128 };
	struct user h = new_user(), u[3];
	int64_t t = ran_us();
	unsigned int i, round;

	for (i = 0; i < 3; i++)
		u[i] = new_user();
	for (round = 0; round < (SANITIZED ? 3000 : 20000); round++) {
		if (!below(&r, 200))
			memset(object(), 0, layout_hub_size(LANES, CAP));
		for (i = (unsigned int)below(&r, 4); i; i--)
			scribble(&r);
		if (below(&r, 2))
			use_hub(&h, &r);
		else
			use_sender(&u[below(&r, 3)], &r);
	}
	assert_true(ran_us() - t < ALARM_S * INT64_C(1000000) / 2);
	for (i = 0; i < 3; i++)
		leave(&u[i]);
	leave(&h);
	good_again();
}

static atomic_bool stop;

static void *scribbler(void *arg)
{
	struct rng *r = arg;

	while (!atomic_load(&stop)) {
		scribble(r);
		if (!below(r, 64))
			sched_yield();
	}
	return NULL;
}

/* While they are at it. A call with a timeout ends about then, whatever he does. */
static void at_the_same_time(void **state)
{
	struct rng r = { 99 }, his = { 12345 };
	struct user h = new_user(), u[2];
	int64_t t, until = now_us() + (SANITIZED ? 6 : 4) * 1000000;
	struct vmp_from from;
	unsigned int i;
	char buf[4000];
	pthread_t th;

	for (i = 0; i < 2; i++)
		u[i] = new_user();
	atomic_store(&stop, false);
	pthread_create(&th, NULL, scribbler, &his);
	while (now_us() < until) {
		use_hub(&h, &r);
		for (i = 0; i < 2; i++)
			use_sender(&u[i], &r);
		if (!h.h || below(&r, 50))
			continue;
		t = ran_us();
		while (vmp_hub_recv(h.h, buf, sizeof(buf), &from, 20) >= 0 && ran_us() - t < 20000)
			;
		assert_true(ran_us() - t < 1000000);
	}
	atomic_store(&stop, true);
	pthread_join(th, NULL);
	for (i = 0; i < 2; i++)
		leave(&u[i]);
	leave(&h);
	good_again();
}

/* A word that breaks one lane breaks that one, with an event; it is good again after both. */
static void one_lane_alone(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), a = producer(), b = producer();
	struct vmp_from from;
	uint32_t lane;

	from = expect_event(&h, VMP_FROM_CAME);
	lane = from.token == a.p->token ? from.lane : 1000;
	from = expect_event(&h, VMP_FROM_CAME);
	lane = from.token == a.p->token ? from.lane : lane;
	pair(&h, &a);
	pair(&h, &b);
	*(uint64_t *)(void *)((char *)hub_area(object(), LANES, CAP, lane) + 4096 + CAP) = 0x1234;
	from = expect_event(&h, VMP_FROM_BROKEN);
	assert_int_equal(from.token, a.p->token);
	send_text(&b, "not I");
	expect(&h, "not I");
	expect_nothing(&h);
	assert_int_equal(row(lane)->owner, a.p->token);
	assert_int_equal(vmp_send(a.ch, "?", 1, 0, 0), -ECONNRESET);
	vmp_channel_close(a.ch);
	open_channel(&a);
	expect_event(&h, VMP_FROM_CAME);
	pair(&h, &a);
	send_text(&a, "well");
	expect(&h, "well");
	/* Another's name over its lane. */
	row(from.lane)->owner = 77ULL << 16;
	leave(&a);
	leave(&b);
	leave(&h);
	good_again();
}

/* A position that was overwritten is not believed: nothing is read there. */
static void no_position(void **state)
{
	static const uint64_t wrong[] = { CAP / 2 - 1, CAP - 1, CAP - 8, UINT64_MAX };
	struct user h, a;
	struct vmp_from from;
	unsigned int i;

	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		h = hub(VMP_HUB_EVENTS);
		a = producer();
		pair(&h, &a);
		send_text(&a, "x");
		from = expect(&h, "x");
		perish(&h);
		side(from.lane, 0)->consumed = wrong[i];
		h = hub(VMP_HUB_EVENTS);
		expect_event(&h, VMP_FROM_CAME);
		expect_event(&h, VMP_FROM_BROKEN);
		assert_int_equal(vmp_send(a.ch, "?", 1, 0, 0), -ECONNRESET);
		leave(&a);
		expect_nothing(&h);
		assert_int_equal(row(from.lane)->owner, 0);
		leave(&h);
	}
	good_again();
}

/* Of an owner that never was nothing is read, and nothing told; the lane is free again. */
static void no_owner(void **state)
{
	struct user h = hub(0), a = producer();
	struct vmp_from from;
	uint32_t lane;

	pair(&h, &a);
	send_text(&a, "whose?");
	for (lane = 0; row(lane)->owner != a.p->token; lane++)
		;
	perish(&h);
	row(lane)->owner = 77ULL << 16;
	h = hub(VMP_HUB_EVENTS);
	expect_nothing(&h);
	assert_int_equal(row(lane)->owner, 0);
	assert_int_equal(side(lane, 0)->live, 0);
	/* The same while it is there. */
	vmp_channel_close(a.ch);
	row(lane)->owner = 78ULL << 16;
	expect_nothing(&h);
	assert_int_equal(row(lane)->owner, 0);
	open_channel(&a);
	from = expect_event(&h, VMP_FROM_CAME);
	assert_int_equal(from.token, a.p->token);
	leave(&a);
	leave(&h);
	good_again();
}

/* A name that was overwritten: the hub ends, and says why. */
static void another_hub(void **state)
{
	struct user h = hub(0);
	char buf[8];

	head()->consumer = 1234;
	house_changed();
	assert_int_equal(vmp_hub_recv(h.h, buf, sizeof(buf), NULL, 1000), -EPROTO);
	assert_non_null(strstr(vmp_errmsg(), "another program"));
	assert_int_equal(vmp_hub_recv(h.h, buf, sizeof(buf), NULL, 0), -EPROTO);
	leave(&h);
	assert_int_equal(head()->consumer, 1234);
	good_again();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		in_house(scribbled_over),
		in_house(at_the_same_time),
		in_house(one_lane_alone),
		in_house(no_position),
		in_house(no_owner),
		in_house(another_hub),
	};

	alarm(ALARM_S);
	return cmocka_run_group_tests_name("hub_hostile", tests, NULL, NULL);
}
