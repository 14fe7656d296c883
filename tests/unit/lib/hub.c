// SPDX-License-Identifier: MIT
/*
 * Channels by name, by sessions of one process: who takes and leaves a lane, and when; who
 * sleeps and is woken. The house decides who is dead.
 */
#include <poll.h>
#include <pthread.h>

#include "hubs.h"

/* ---- One after the other -------------------------------------------------------- */

static void there_and_back(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), a = producer(), b = producer();
	struct vmp_from from;
	char buf[32];

	assert_int_equal(vmp_channel_peer_state(a.ch), VMP_STATE_NONE);
	from = expect_event(&h, VMP_FROM_CAME);
	expect_event(&h, VMP_FROM_CAME);
	pair(&h, &a);
	pair(&h, &b);
	assert_int_equal(vmp_channel_peer_state(a.ch), VMP_STATE_ALIVE);
	send_text(&a, "one");
	from = expect(&h, "one");
	assert_int_equal(from.token, a.p->token);
	assert_int_equal(vmp_hub_reply(h.h, &from, "two", 3, 0, 0), 0);
	assert_int_equal(vmp_recv(b.ch, buf, sizeof(buf), 0), -EAGAIN);
	assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 0), 3);
	send_text(&b, "three");
	from = expect(&h, "three");
	assert_int_equal(from.token, b.p->token);
	/* Closed: what it sent comes first, and its lane is somebody else's then. */
	send_text(&b, "four");
	leave(&b);
	expect(&h, "four");
	from = expect_event(&h, VMP_FROM_LEFT);
	assert_int_equal(vmp_hub_reply(h.h, &from, "?", 1, 0, 0), -ESTALE);
	expect_nothing(&h);
	assert_int_equal(row(from.lane)->owner, 0);
	assert_int_equal(row(from.lane)->left, 0);
	assert_int_equal(side(from.lane, 0)->live, 0);
	assert_int_equal(side(from.lane, 0)->incarnation, 0);
	leave(&h);
	assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 0), -EPIPE);
	leave(&a);
	assert_int_equal(head()->consumer, 0);
}

/* Nobody is told of events who has not asked; the sender's end is not mistaken for one. */
static void messages_alone(void **state)
{
	struct user h = hub(0), a = producer();
	const void *ptr;
	char buf[8];

	pair(&h, &a);
	send_text(&a, "");
	send_text(&a, "x");
	assert_int_equal(vmp_hub_recv(h.h, buf, sizeof(buf), NULL, 0), 0);
	assert_int_equal(vmp_hub_recv(h.h, buf, 0, NULL, 0), -EMSGSIZE);
	assert_int_equal(vmp_hub_release(h.h), 0);
	assert_int_equal(vmp_hub_release(h.h), -EINVAL);
	leave(&a);
	assert_int_equal(vmp_hub_peek(h.h, &ptr, NULL, 20), -ETIMEDOUT);
	assert_int_equal(row(0)->owner, 0);
	leave(&h);
	h = hub(VMP_HUB_EVENTS);
	assert_int_equal(vmp_hub_recv(h.h, buf, sizeof(buf), NULL, 0), -EINVAL);
	leave(&h);
}

/* So many lanes; the first sender over waits for one that was read to its end. */
static void no_lane_too_many(void **state)
{
	struct user h = hub(0), u[LANES], more = new_user();
	uint32_t i;

	for (i = 0; i < LANES; i++) {
		u[i] = producer();
		pair(&h, &u[i]);
	}
	assert_int_equal(try_channel(&more), -EUSERS);
	assert_non_null(strstr(vmp_errmsg(), "all 8 lanes"));
	send_text(&u[3], "last");
	leave(&u[3]);
	assert_int_equal(try_channel(&more), -EUSERS);
	expect(&h, "last");
	assert_int_equal(try_channel(&more), -EUSERS);
	expect_nothing(&h);
	open_channel(&more);
	pair(&h, &more);
	send_text(&more, "next");
	expect(&h, "next");
	leave(&more);
	for (i = 0; i < LANES; i++)
		if (i != 3)
			leave(&u[i]);
	leave(&h);
}

/* However much one sends, the others have their turn. */
static void turns(void **state)
{
	struct user h = hub(0), u[LANES];
	unsigned int had[LANES] = { 0 }, i, k, n = 0;
	struct vmp_from from;
	char buf[257];

	for (i = 0; i < LANES; i++) {
		u[i] = producer();
		pair(&h, &u[i]);
	}
	for (i = 0; i < LANES; i++)
		for (k = 0; k < 40; k++)
			send_text(&u[i], "m");
	for (n = 0; n < 40 * LANES; n++) {
		assert_int_equal(get(&h, buf, &from, 0), 1);
		had[from.lane]++;
		for (i = 0; i < LANES; i++)
			if (had[from.lane] > had[i] + 16 && had[i] < 40)
				fail_msg("lane %u has had %u messages, lane %u %u", from.lane,
					 had[from.lane], i, had[i]);
	}
	for (i = 0; i < LANES; i++)
		leave(&u[i]);
	leave(&h);
}

/* A sender's messages come in order, also when it closes and opens anew, and again. */
static void in_order(void **state)
{
	struct user h = hub(0), a = producer();
	struct vmp_from from;
	char text[16], buf[257];
	int i, k, next = 0;

	for (i = 0; i < 60; i++) {
		/* Its second end is not met before the first is read. */
		while (vmp_channel_connect(a.ch, 0))
			if (get(&h, buf, &from, 0) >= 0)
				assert_int_equal(atoi(buf), next++);
		/* More than are read in one turn. */
		for (k = 0; k < 20; k++) {
			snprintf(text, sizeof(text), "%d", 20 * i + k);
			send_text(&a, text);
		}
		vmp_channel_close(a.ch);
		open_channel(&a);
		/* Some are left for later. */
		while (i % 4 == 3 && get(&h, buf, &from, 5) >= 0)
			assert_int_equal(atoi(buf), next++);
	}
	while (get(&h, buf, &from, 5) >= 0)
		assert_int_equal(atoi(buf), next++);
	assert_int_equal(next, 1200);
	leave(&a);
	leave(&h);
}

/* ---- Death and suspicion --------------------------------------------------------- */

static void a_sender_dies(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), a = producer(), b;
	struct vmp_from from;
	uint64_t token = a.p->token;
	void *ptr;

	expect_event(&h, VMP_FROM_CAME);
	pair(&h, &a);
	send_text(&a, "one");
	send_text(&a, "two");
	/* A third that was never committed. */
	assert_int_equal(vmp_reserve(a.ch, &ptr, 5, 0), 0);
	memcpy(ptr, "three", 5);
	perish(&a);
	from = expect(&h, "one");
	expect(&h, "two");
	assert_int_equal(row(from.lane)->owner, token);
	from = expect_event(&h, VMP_FROM_DEAD);
	assert_int_equal(from.token, token);
	expect_nothing(&h);
	assert_int_equal(row(from.lane)->owner, 0);
	b = producer();
	from = expect_event(&h, VMP_FROM_CAME);
	assert_int_equal(from.token, b.p->token);
	leave(&b);
	leave(&h);
}

static struct user *leaving;

/* What a lane was just found to be, and then it is not that any more. */
int64_t __real_chan_try(struct vmp_channel *ch, const void **ptr);
int64_t __wrap_chan_try(struct vmp_channel *ch, const void **ptr)
{
	int64_t n = __real_chan_try(ch, ptr);
	struct user *u = leaving;

	if (n == -EAGAIN && u) {
		leaving = NULL;
		send_text(u, "last words");
		leave(u);
	}
	return n;
}

/* A message and an end between the look at the lane and the look at its owner. */
static void last_words(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), a;

	a = producer();
	expect_event(&h, VMP_FROM_CAME);
	pair(&h, &a);
	leaving = &a;
	expect(&h, "last words");
	expect_event(&h, VMP_FROM_LEFT);
	expect_nothing(&h);
	leave(&h);
}

static void suspect(bool yes)
{
	house_peer()->suspect = yes ? house_peer()->claim : 0;
	house_changed();
}

/* Suspicion is an event: no lane, no name changes hands. */
static void suspicion_takes_nothing(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), a = producer(), x = new_user();

	expect_event(&h, VMP_FROM_CAME);
	pair(&h, &a);
	suspect(true);
	expect_event(&h, VMP_FROM_SUSPECT);
	assert_int_equal(vmp_channel_peer_state(a.ch), VMP_STATE_SUSPECT);
	expect_nothing(&h);
	assert_int_equal(try_hub(&x, 0), -EBUSY);
	assert_non_null(strstr(vmp_errmsg(), "suspect"));
	send_text(&a, "still here");
	expect(&h, "still here");
	suspect(false);
	expect_event(&h, VMP_FROM_BACK);
	assert_int_equal(try_hub(&x, 0), -EBUSY);
	expect_nothing(&h);
	assert_int_equal(row(0)->owner | row(1)->owner | row(2)->owner, a.p->token);
	leave(&a);
	expect_event(&h, VMP_FROM_LEFT);
	leave(&x);
	leave(&h);
}

/* What nobody has heard of yet and is not so any more, nobody hears of. */
static void suspicion_comes_and_goes(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), a = producer();

	expect_event(&h, VMP_FROM_CAME);
	pair(&h, &a);
	suspect(true);
	assert_int_equal(hub_judge(h.h), 0);
	suspect(false);
	assert_int_equal(hub_judge(h.h), 0);
	expect_nothing(&h);
	suspect(true);
	expect_event(&h, VMP_FROM_SUSPECT);
	suspect(false);
	assert_int_equal(hub_judge(h.h), 0);
	suspect(true);
	assert_int_equal(hub_judge(h.h), 0);
	expect_nothing(&h);
	suspect(false);
	expect_event(&h, VMP_FROM_BACK);
	leave(&a);
	leave(&h);
}

static void one_hub_at_a_time(void **state)
{
	struct user h = hub(0), x = new_user(), again = { .p = h.p };

	assert_int_equal(try_hub(&x, 0), -EBUSY);
	assert_non_null(strstr(vmp_errmsg(), "another process"));
	assert_int_equal(try_hub(&again, 0), -EBUSY);
	assert_non_null(strstr(vmp_errmsg(), "this process"));
	leave(&h);
	assert_int_equal(try_hub(&x, 0), 0);
	assert_int_equal(head()->consumer, x.p->token);
	assert_int_equal(head()->count, 2);
	leave(&x);
}

/* ---- Sleeping ----------------------------------------------------------------------- */

struct reader { struct user h; int left, result; };

static void *read_some(void *arg)
{
	struct reader *r = arg;
	struct vmp_from from;
	char buf[257];

	while (r->left) {
		ssize_t n = get(&r->h, buf, &from, PATIENCE_MS);

		if (n < 0) {
			r->result = (int)n;
			break;
		}
		__atomic_sub_fetch(&r->left, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* One that sleeps for all is woken by each; and when nobody has anything, it sleeps. */
static void one_sleep_for_all(void **state)
{
	struct reader r = { .h = hub(0), .left = 200 };
	struct user u[3];
	struct vmp_stats a, b;
	struct vmp_from from;
	char buf[257];
	pthread_t t;
	int i;

	for (i = 0; i < 3; i++)
		u[i] = producer();
	pthread_create(&t, NULL, read_some, &r);
	for (i = 0; i < 3; i++)
		assert_int_equal(vmp_channel_connect(u[i].ch, PATIENCE_MS), 0);
	for (i = 0; i < 200; i++) {
		if (i % 5 == 0)
			usleep(3000);
		send_text(&u[i % 3], "x");
	}
	pthread_join(t, NULL);
	assert_int_equal(r.result, 0);
	assert_int_equal(r.left, 0);
	vmp_hub_stats(r.h.h, &a, sizeof(a));
	assert_int_equal(a.received, 200);
	assert_int_equal(get(&r.h, buf, &from, 300), -ETIMEDOUT);
	vmp_hub_stats(r.h.h, &b, sizeof(b));
	/* One sleep, and perhaps another; not a nap every 20 ms. */
	assert_true(b.sleeps - a.sleeps <= 3);
	/* Who is awake is not rung: the last of a hundred in a row cost one ring, or none. */
	vmp_channel_stats(u[0].ch, &a, sizeof(a));
	for (i = 0; i < 100; i++)
		send_text(&u[0], "y");
	vmp_channel_stats(u[0].ch, &b, sizeof(b));
	assert_true(b.doorbells - a.doorbells <= 1);
	for (i = 0; i < 3; i++)
		leave(&u[i]);
	leave(&r.h);
}

/* A ring that is lost, as devices lose them while nobody is connected: rung again. */
static void a_ring_is_lost(void **state)
{
	struct reader r = { .h = hub(0), .left = 1 };
	uint64_t address = head()->address;
	struct user a = new_user();
	pthread_t t;

	assert_true(address & PORTAL_CHAN_DOORBELL);
	/* What it is told of a new session ends a sleep, too. */
	assert_int_equal(vmp_join(a.p, NULL), 0);
	pthread_create(&t, NULL, read_some, &r);
	usleep(100000);
	head()->address = 0;
	open_channel(&a);
	usleep(50000);
	head()->address = address;
	assert_int_equal(vmp_send(a.ch, "x", 1, 0, 3000), 0);
	pthread_join(t, NULL);
	assert_int_equal(r.result, 0);
	leave(&a);
	leave(&r.h);
}

/* A hub that is never idle hears of a death all the same. */
static void busy_and_told(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), a = producer(), b = producer();
	struct vmp_from from;
	char buf[257];
	int i;

	expect_event(&h, VMP_FROM_CAME);
	expect_event(&h, VMP_FROM_CAME);
	pair(&h, &a);
	pair(&h, &b);
	perish(&b);
	/* There is always more. */
	for (i = 0; i < 100; i++)
		send_text(&a, "x");
	for (i = 0; i < 2000; i++) {
		assert_true(get(&h, buf, &from, 0) >= 0);
		if (from.event)
			break;
		send_text(&a, "y");
		if (i % 64 == 0)
			usleep(1100);
	}
	assert_int_equal(from.event, VMP_FROM_DEAD);
	leave(&a);
	leave(&h);
}

/* The same by the descriptor; a death, too, makes it readable. */
static void by_descriptor(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), a = producer();
	struct pollfd f = { vmp_hub_fd(h.h), POLLIN, 0 };
	struct vmp_from from = { .event = 99 };
	int64_t until = now_us() + PATIENCE_MS * 1000;
	int messages = 0, i = 0;
	char buf[257];
	ssize_t n;

	assert_true(f.fd >= 0);
	while (from.event != VMP_FROM_DEAD && now_us() < until) {
		n = get(&h, buf, &from, 0);
		if (n == -EAGAIN) {
			from.event = 99;
			if (a.ch && !vmp_send(a.ch, "x", 1, 0, 0) && ++i == 50)
				perish(&a);
			assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
			continue;
		}
		assert_true(n >= 0);
		messages += !from.event;
	}
	assert_int_equal(from.event, VMP_FROM_DEAD);
	assert_int_equal(messages, 50);
	leave(&h);
}

/* Until the hub's descriptor has no naps any more: its bell is heard. */
static void trust_each_other(struct user *h, struct user *u)
{
	struct pollfd f = { vmp_hub_fd(h->h), POLLIN, 0 };
	struct vmp_from from;
	char buf[257];
	int i;

	for (i = 0; i < 5; i++) {
		while (get(h, buf, &from, 0) != -EAGAIN)
			;
		send_text(u, "x");
		assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	}
	while (get(h, buf, &from, 0) != -EAGAIN)
		;
	poll(&f, 1, 50);
	while (get(h, buf, &from, 0) != -EAGAIN)
		;
	assert_int_equal(poll(&f, 1, 50), 0);
}

/* Who closes rings: a hub that sleeps for ever hears of it. */
static void a_close_is_heard(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), a = producer();
	struct pollfd f = { vmp_hub_fd(h.h), POLLIN, 0 };

	expect_event(&h, VMP_FROM_CAME);
	pair(&h, &a);
	trust_each_other(&h, &a);
	vmp_channel_close(a.ch);
	a.ch = NULL;
	assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	expect_event(&h, VMP_FROM_LEFT);
	leave(&a);
	leave(&h);
}

/* A reply for which there is no room; the descriptor tells when there is. */
static void room_for_a_reply(void **state)
{
	static char big[3000];
	struct user h = hub(0), a = producer();
	struct pollfd f = { vmp_hub_fd(h.h), POLLIN, 0 };
	struct vmp_from from;
	char buf[3000];
	int i, n = 0;

	pair(&h, &a);
	trust_each_other(&h, &a);
	send_text(&a, "more");
	from = expect(&h, "more");
	while (!vmp_hub_reply(h.h, &from, big, sizeof(big), 0, 0))
		n++;
	assert_int_equal(n, 2);
	assert_int_equal(vmp_hub_reply(h.h, &from, big, sizeof(big), 0, 20), -ETIMEDOUT);
	assert_int_equal(vmp_hub_reply(h.h, &from, big, sizeof(big), 0, 0), -EAGAIN);
	while (vmp_hub_recv(h.h, buf, sizeof(buf), NULL, 0) == -EAGAIN && poll(&f, 1, 30))
		;
	for (i = 0; i < n; i++)
		assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 0), sizeof(big));
	assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 20), -ETIMEDOUT);
	assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	assert_int_equal(vmp_hub_reply(h.h, &from, big, sizeof(big), 0, 0), 0);
	leave(&a);
	assert_int_equal(vmp_hub_reply(h.h, &from, "?", 1, 0, 0), -EPIPE);
	leave(&h);
}

static int64_t cpu_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000;
}

/* How often the descriptor is readable within @ms, for a loop that receives; by naps, some 25. */
static int woken_in(struct user *h, int ms)
{
	struct pollfd f = { vmp_hub_fd(h->h), POLLIN, 0 };
	int64_t until = now_us() + ms * 1000;
	struct vmp_from from;
	char buf[257];
	int n = 0;

	while (now_us() < until)
		if (poll(&f, 1, (int)((until - now_us()) / 1000 + 1)) == 1) {
			n++;
			assert_int_equal(get(h, buf, &from, 0), -EAGAIN);
		}
	return n;
}

/* Fill @u's way back. How many there were. */
static int fill(struct user *h, const struct vmp_from *from, const char *big, size_t size)
{
	int r, n = 0;

	while (!(r = vmp_hub_reply(h->h, from, big, size, 0, 0)))
		n++;
	assert_int_equal(r, -EAGAIN);
	return n;
}

/* Of room that is there and was told of nobody hears again, nor does it keep one awake. */
static void room_is_told_once(void **state)
{
	static char big[3000];
	struct user h = hub(VMP_HUB_EVENTS), a = producer();
	struct pollfd f = { vmp_hub_fd(h.h), POLLIN, 0 };
	struct vmp_from from;
	char buf[3000];
	int64_t cpu;
	int n, way;

	pair(&h, &a);
	send_text(&a, "more");
	from = expect(&h, "more");
	for (way = 0; way < 3; way++) {
		n = fill(&h, &from, big, sizeof(big));
		while (n--)
			assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 0), sizeof(big));
		assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 20), -ETIMEDOUT);
		switch (way) {
		case 0:
			/* By a call that waits; then, by a reply that found it by itself. */
			cpu = cpu_us();
			assert_int_equal(get(&h, buf, &from, 300), -ETIMEDOUT);
			assert_true(cpu_us() - cpu < 100000);
			break;
		case 1:
			/* The ring for it was cleared by a call that found no message. */
			assert_int_equal(get(&h, buf, &from, 0), -EAGAIN);
			assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
			break;
		default:
			break;
		}
		assert_true(woken_in(&h, 300) <= 40);
		assert_int_equal(vmp_hub_reply(h.h, &from, big, 100, 0, 0), 0);
		assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), PATIENCE_MS), 100);
		assert_true(woken_in(&h, 300) <= 40);
	}
	/* Whoever waits for room of one who dies need not wait any longer. */
	fill(&h, &from, big, sizeof(big));
	perish(&a);
	assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	expect_event(&h, VMP_FROM_DEAD);
	assert_int_equal(get(&h, buf, &from, 0), -EAGAIN);
	assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	leave(&h);
}

/* Some room is not enough, for the record would not lie in one piece: it is asked for anew. */
static void room_in_parts(void **state)
{
	static char big[3000];
	struct user h = hub(0), a = producer();
	struct pollfd f = { vmp_hub_fd(h.h), POLLIN, 0 };
	struct vmp_from from;
	char buf[3000];
	int i;

	pair(&h, &a);
	/* Its rings have been heard: nobody takes naps. */
	for (i = 0; i < 3; i++) {
		while (get(&h, buf, &from, 0) != -EAGAIN)
			;
		send_text(&a, "ring");
		assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
		from = expect(&h, "ring");
	}
	woken_in(&h, 100);
	assert_int_equal(woken_in(&h, 200), 0);
	assert_int_equal(fill(&h, &from, big, sizeof(big)), 2);
	assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 0), sizeof(big));
	assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	assert_int_equal(woken_in(&h, 200), 1);
	assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 0), sizeof(big));
	assert_int_equal(poll(&f, 1, 500), 1);
	assert_int_equal(vmp_hub_reply(h.h, &from, big, sizeof(big), 0, 0), 0);
	leave(&a);
	leave(&h);
}

static void *send_till_end(void *arg)
{
	static char big[3000];
	struct user *u = arg;
	int r;

	while (!(r = vmp_send(u->ch, big, sizeof(big), 0, PATIENCE_MS)))
		;
	return (void *)(intptr_t)r;
}

/* A sender that sleeps for room hears of the hub's death at once; and of a new hub. */
static void a_sleeper_hears_of_death(void **state)
{
	struct user h = hub(0), a = producer(), g;
	int64_t t;
	pthread_t th;
	void *r;

	pair(&h, &a);
	pthread_create(&th, NULL, send_till_end, &a);
	usleep(50000);
	t = now_us();
	perish(&h);
	pthread_join(th, &r);
	assert_int_equal((intptr_t)r, -ECONNRESET);
	assert_true(now_us() - t < 500000);
	g = hub(0);
	leave(&a);
	leave(&g);
}

/* ---- By name ------------------------------------------------------------------------- */

static void is(int got, int err, const char *word)
{
	if (got != err || (word && !strstr(vmp_errmsg(), word)))
		fail_msg("%d '%s', not %d with '%s'", got, vmp_errmsg(), err, word ? word : "");
}

static void *open_late(void *arg)
{
	struct vmp_hub_opts o = { .size = sizeof(o), .lanes = 2 };
	struct user *u = arg;

	usleep(50000);
	return (void *)(intptr_t)vmp_hub_open(&u->h, u->p, "late", &o);
}

/* The public calls, on any portal that has sessions. */
static void by_name(void **state)
{
	struct vmp_hub_opts o = { .size = sizeof(o), .lanes = 3, .capacity = 5000 };
	struct vmp_channel_opts co = { .size = sizeof(co), .side = 1 };
	struct user h = new_user(), a = new_user(), b = new_user();
	struct vmp_named *n;
	struct vmp_from from;
	pthread_t t;
	void *ret;
	char c;

	is(vmp_channel_named(&a.ch, a.p, "jobs", NULL, 0), -ENOENT, NULL);
	is(vmp_channel_named(&a.ch, a.p, "jobs", NULL, 30), -ETIMEDOUT, "nobody has opened a hub");
	assert_int_equal(vmp_hub_open(&h.h, h.p, "jobs", &o), 0);
	is(vmp_hub_open(&b.h, b.p, "jobs", NULL), -EBUSY, "receives by this name");
	is(vmp_named_open(&n, b.p, "jobs", 0, 0, 0), -EPROTOTYPE, NULL);
	is(vmp_channel_named(&a.ch, a.p, "jobs", &co, 0), -EINVAL, "side, offset and length");
	assert_int_equal(vmp_channel_named(&a.ch, a.p, "jobs", NULL, 0), 0);
	assert_int_equal(vmp_channel_max(a.ch), 8192 / 16 * 7 - 8);
	pair(&h, &a);
	send_text(&a, "hello");
	from = expect(&h, "hello");
	assert_int_equal(vmp_hub_reply(h.h, &from, "!", 1, 0, 0), 0);
	assert_int_equal(vmp_recv(a.ch, &c, 1, PATIENCE_MS), 1);
	/* It goes on in the hub's absence; the next one finds the name as it was made. */
	send_text(&a, "left behind");
	vmp_hub_close(h.h);
	assert_int_equal(vmp_named_open(&n, b.p, "raw", VMP_CREATE, 1000, 0600), 0);
	is(vmp_hub_open(&h.h, h.p, "raw", NULL), -EPROTOTYPE, NULL);
	is(vmp_channel_named(&b.ch, b.p, "raw", NULL, 0), -EPROTOTYPE, NULL);
	assert_int_equal(vmp_named_close(n), 0);
	o.lanes = 2000;
	is(vmp_hub_open(&h.h, h.p, "jobs", &o), -EINVAL, "at most 1024");
	o.lanes = 5;
	o.flags = 1U << 20;
	is(vmp_hub_open(&h.h, h.p, "jobs", &o), -EINVAL, "undefined flags");
	o.flags = 0;
	o.vector = 99;
	is(vmp_hub_open(&h.h, h.p, "jobs", &o), -EINVAL, "no vector 99");
	o.vector = 0;
	o.lanes = 1024;
	o.capacity = 1U << 30;
	is(vmp_hub_open(&h.h, h.p, "huge", &o), -ENOSPC, NULL);
	assert_int_equal(vmp_hub_open(&h.h, h.p, "jobs", &o), 0);
	expect_flagged(&h, "left behind", VMP_FROM_INHERITED);
	leave(&h);
	/* Who comes first waits. */
	h = new_user();
	pthread_create(&t, NULL, open_late, &h);
	assert_int_equal(vmp_channel_named(&b.ch, b.p, "late", NULL, PATIENCE_MS), 0);
	pthread_join(t, &ret);
	assert_null(ret);
	pair(&h, &b);
	leave(&b);
	leave(&a);
	vmp_hub_close(h.h);
	h.h = NULL;
	house_check(h.p);
	assert_int_equal(vmp_named_unlink(h.p, "jobs"), 0);
	o.lanes = 2;
	o.capacity = 0;
	o.flags = VMP_HUB_EPHEMERAL;
	assert_int_equal(vmp_hub_open(&h.h, h.p, "jobs", &o), 0);
	vmp_hub_close(h.h);
	h.h = NULL;
	is(vmp_named_open(&n, h.p, "jobs", 0, 0, 0), -ENOENT, NULL);
	house_check(h.p);
	leave(&h);
}

static void without_sessions(void **state)
{
	struct vmp_channel *ch = (void *)1;
	struct vmp_hub *h = (void *)1;
	struct vmp *p;

	assert_int_equal(vmp_open(&p, "memfd:size=1M", 0), 0);
	is(vmp_hub_open(&h, p, "x", NULL), -ENODATA, "not a managed portal");
	assert_null(h);
	is(vmp_channel_named(&ch, p, "x", NULL, -1), -ENODATA, "not a managed portal");
	assert_null(ch);
	assert_int_equal(vmp_format(p, NULL), 0);
	is(vmp_hub_open(&h, p, "x", NULL), -EOPNOTSUPP, "/dev/portalN");
	is(vmp_channel_named(&ch, p, "x", NULL, -1), -EOPNOTSUPP, "/dev/portalN");
	vmp_close(p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		in_house(there_and_back),
		in_house(messages_alone),
		in_house(no_lane_too_many),
		in_house(turns),
		in_house(in_order),
		in_house(a_sender_dies),
		in_house(last_words),
		in_house(suspicion_takes_nothing),
		in_house(suspicion_comes_and_goes),
		in_house(one_hub_at_a_time),
		in_house(one_sleep_for_all),
		in_house(a_ring_is_lost),
		in_house(busy_and_told),
		in_house(by_descriptor),
		in_house(a_close_is_heard),
		in_house(room_for_a_reply),
		in_house(room_is_told_once),
		in_house(room_in_parts),
		in_house(a_sleeper_hears_of_death),
		in_house(by_name),
		with_portald(there_and_back),
		with_portald(a_sender_dies),
		with_portald(one_sleep_for_all),
		with_portald(by_descriptor),
		with_portald(a_sleeper_hears_of_death),
		with_portald(by_name),
		cmocka_unit_test(without_sessions),
	};

	alarm(120);
	find_portald(argv[0]);
	return cmocka_run_group_tests_name("hub", tests, set_up, tear_down);
}
