// SPDX-License-Identifier: MIT
/*
 * Channels by name, by sessions of one process: who takes and leaves a lane, and when. The
 * house decides who is dead. Who sleeps and is woken: hub_waits.c.
 */
#include <pthread.h>

#include "hubs.h"
#include "late.h"

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

/* What an earlier hub's user has kept is nobody's address: not the next one's, nor its own. */
static void old_addresses(void **state)
{
	struct user h = hub(0), a = producer(), b;
	struct vmp_from from, next, old;

	pair(&h, &a);
	send_text(&a, "for the first hub");
	from = expect(&h, "for the first hub");
	vmp_channel_close(a.ch);
	a.ch = NULL;
	expect_nothing(&h);
	leave(&h);
	h = hub(0);
	b = producer();
	pair(&h, &b);
	send_text(&b, "b's");
	next = expect(&h, "b's");
	/* Had it taken the lane that the other one had: */
	old = from;
	old.lane = next.lane;
	assert_int_equal(vmp_hub_reply(h.h, &old, "?", 1, 0, 0), -ESTALE);
	old.serial = next.serial;
	assert_int_equal(vmp_hub_reply(h.h, &old, "?", 1, 0, 0), -ESTALE);
	leave(&b);
	expect_nothing(&h);
	/* The same session, in the same lane of this hub: another channel all the same. */
	open_channel(&a);
	pair(&h, &a);
	send_text(&a, "again");
	next = expect(&h, "again");
	assert_int_equal(next.token, from.token);
	assert_int_equal(next.lane, from.lane);
	assert_int_equal(vmp_hub_reply(h.h, &from, "?", 1, 0, 0), -ESTALE);
	assert_int_equal(vmp_hub_reply(h.h, &next, "!", 1, 0, 0), 0);
	leave(&a);
	leave(&h);
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

/* As soon as a sender that comes and goes all the time can, it is gone, or here again. */
static void come_and_go(struct user *u, const struct vmp_from *from)
{
	unsigned int i;

	for (i = 0; i < 4; i++) {
		if (u[i].ch && from->event == VMP_FROM_CAME && from->token == u[i].p->token) {
			vmp_channel_close(u[i].ch);
			u[i].ch = NULL;
		}
		if (!u[i].ch && try_channel(&u[i]))
			u[i].ch = NULL;
	}
}

/* However many come and go in lanes before it, whoever has sent something has its turn. */
static void turns_with_events(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), u[LANES];
	struct vmp_from from;
	unsigned int i, n;
	char buf[257];

	/* All lanes are taken: those four change places among each other, before the fifth. */
	for (i = 0; i < LANES; i++) {
		u[i] = new_user();
		assert_int_equal(vmp_join(u[i].p, NULL), 0);
	}
	open_channel(&u[4]);
	pair(&h, &u[4]);
	for (i = 0; i < LANES; i++)
		if (i != 4)
			open_channel(&u[i]);
	for (n = 0; n < 200; n++) {
		if (n == 5)
			send_text(&u[4], "patient");
		assert_true(get(&h, buf, &from, 1000) >= 0);
		if (from.event == VMP_FROM_MESSAGE)
			break;
		come_and_go(u, &from);
	}
	if (n > 5 + 40)
		fail_msg("%u events came before the message", n - 5);
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

	for (i = 0; i < 12; i++) {
		/* Its second end is not met before the first is read. */
		while (vmp_channel_connect(a.ch, 0))
			if (get(&h, buf, &from, 0) >= 0)
				assert_int_equal(atoi(buf), next++);
		/* Of many turns. */
		for (k = 0; k < 100; k++) {
			snprintf(text, sizeof(text), "%d", 100 * i + k);
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
	int64_t t;
	void *ptr;

	expect_event(&h, VMP_FROM_CAME);
	pair(&h, &a);
	send_text(&a, "one");
	send_text(&a, "two");
	/* A third that was never committed. */
	assert_int_equal(vmp_reserve(a.ch, &ptr, 5, 0), 0);
	memcpy(ptr, "three", 5);
	t = ran_us();
	perish(&a);
	from = expect(&h, "one");
	expect(&h, "two");
	assert_int_equal(row(from.lane)->owner, token);
	from = expect_event(&h, VMP_FROM_DEAD);
	assert_true(ran_us() - t < 500000);
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

/* Whoever looks whether a consumer is dead finds another name there afterwards: so often. */
static int flips;

/* Or that nobody has anything open; once. */
static bool lose_uses;

int __real_vmp_token_state(struct vmp *p, uint64_t token);
int __wrap_vmp_token_state(struct vmp *p, uint64_t token)
{
	if (lose_uses)
		house_lose_uses();
	lose_uses = false;
	if (flips) {
		flips--;
		head()->consumer = head()->consumer == 5ULL << 16 ? 6ULL << 16 : 5ULL << 16;
	}
	return __real_vmp_token_state(p, token);
}

/* The word for who receives changes all the time: an error, and no end of tries. */
static void a_word_that_changes(void **state)
{
	struct user x = new_user();

	head()->consumer = 6ULL << 16;
	flips = 100000;
	assert_int_equal(try_hub(&x, 0), -EPROTO);
	assert_non_null(strstr(vmp_errmsg(), "another program writes"));
	assert_true(flips > 90000);
	flips = 3;
	assert_int_equal(try_hub(&x, 0), 0);
	assert_int_equal(head()->consumer, x.p->token);
	leave(&x);
}

/* Of the ends that are made from now on, the second alone finds memory; -1: all do. */
static int ends = -1;

int __real_chan_alloc(struct vmp_channel **ch, struct vmp *p, const struct vmp_channel_opts *o);
int __wrap_chan_alloc(struct vmp_channel **ch, struct vmp *p, const struct vmp_channel_opts *o)
{
	if (ends >= 0 && ends++ != 1)
		return vmp_fail(-ENOMEM, "no memory for this one");
	return __real_chan_alloc(ch, p, o);
}

/* One lane for which there is no memory does not hide the others, nor is it lost. */
static void no_memory_for_one(void **state)
{
	struct user h = hub(0), a = producer(), b = producer();
	struct vmp_from from;
	char buf[257];

	ends = 0;
	pair(&h, &b);
	send_text(&b, "from b");
	from = expect(&h, "from b");
	assert_int_equal(from.token, b.p->token);
	assert_int_equal(get(&h, buf, &from, 0), -ENOMEM);
	ends = -1;
	pair(&h, &a);
	send_text(&a, "from a");
	expect(&h, "from a");
	leave(&a);
	leave(&b);
	leave(&h);
}

/* Who had a lane before is not rung for the next one, who has not said yet who he is. */
static void old_owner_sleeps(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), a = producer(), b = new_user();
	struct vmp_stats before, after;
	struct vmp_from from;
	uint32_t lane;

	from = expect_event(&h, VMP_FROM_CAME);
	lane = from.lane;
	pair(&h, &a);
	vmp_channel_close(a.ch);
	a.ch = NULL;
	expect_event(&h, VMP_FROM_LEFT);
	expect_nothing(&h);
	assert_int_equal(row(lane)->owner, 0);
	assert_int_equal(vmp_join(b.p, NULL), 0);
	vmp_hub_stats(h.h, &before, sizeof(before));
	row(lane)->owner = b.p->token;
	expect_event(&h, VMP_FROM_CAME);
	expect_nothing(&h);
	vmp_hub_stats(h.h, &after, sizeof(after));
	assert_int_equal(after.doorbells, before.doorbells);
	leave(&b);
	leave(&a);
	leave(&h);
}

/* ---- By name ------------------------------------------------------------------------- */

static void *open_late(void *arg)
{
	struct vmp_hub_opts o = { .size = sizeof(o), .lanes = 2 };
	struct user *u = arg;

	usleep(50000);
	return (void *)(intptr_t)vmp_hub_open(&u->h, u->p, "late", &o);
}

static uint64_t dir_changes(const struct vmp *p)
{
	const struct portal_directory *d = layout_row(p->base, p->super, PORTAL_AREA_DIRECTORY, 0);

	return d->generation;
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

	ends_with(vmp_channel_named(&a.ch, a.p, "jobs", NULL, 0), -ENOENT, NULL);
	ends_with(vmp_channel_named(&a.ch, a.p, "jobs", NULL, 30), -ETIMEDOUT, "nobody has opened a hub");
	assert_int_equal(vmp_hub_open(&h.h, h.p, "jobs", &o), 0);
	ends_with(vmp_hub_open(&b.h, b.p, "jobs", NULL), -EBUSY, "receives by this name");
	ends_with(vmp_named_open(&n, b.p, "jobs", 0, 0, 0), -EPROTOTYPE, NULL);
	ends_with(vmp_channel_named(&a.ch, a.p, "jobs", &co, 0), -EINVAL, "side, offset and length");
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
	ends_with(vmp_hub_open(&h.h, h.p, "raw", NULL), -EPROTOTYPE, NULL);
	ends_with(vmp_channel_named(&b.ch, b.p, "raw", NULL, 0), -EPROTOTYPE, NULL);
	assert_int_equal(vmp_named_close(n), 0);
	o.lanes = 2000;
	ends_with(vmp_hub_open(&h.h, h.p, "jobs", &o), -EINVAL, "at most 1024");
	o.lanes = 5;
	o.flags = 1U << 20;
	ends_with(vmp_hub_open(&h.h, h.p, "jobs", &o), -EINVAL, "undefined flags");
	o.flags = 0;
	o.vector = 99;
	ends_with(vmp_hub_open(&h.h, h.p, "jobs", &o), -EINVAL, "no vector 99");
	o.vector = 0;
	o.lanes = 1024;
	o.capacity = 1U << 30;
	ends_with(vmp_hub_open(&h.h, h.p, "huge", &o), -ENOSPC, NULL);
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
	ends_with(vmp_named_open(&n, h.p, "jobs", 0, 0, 0), -ENOENT, NULL);
	house_check(h.p);
	leave(&h);
}

/* What the directory says of it is checked before it is used. */
static void not_as_it_says(void **state)
{
	struct vmp_hub_opts o = { .size = sizeof(o), .lanes = 2 };
	struct portal_object *row = layout_row(house.base, &house.s, PORTAL_AREA_OBJECTS, 0);
	struct user h = new_user();

	assert_int_equal(vmp_hub_open(&h.h, h.p, "jobs", &o), 0);
	vmp_hub_close(h.h);
	h.h = NULL;
	assert_string_equal(row->name, "jobs");
	row->format++;
	ends_with(vmp_hub_open(&h.h, h.p, "jobs", &o), -EPROTONOSUPPORT, "version 2");
	ends_with(vmp_channel_named(&h.ch, h.p, "jobs", NULL, 0), -EPROTONOSUPPORT, "version 2");
	row->format--;
	row->param[0] = 1024;
	ends_with(vmp_hub_open(&h.h, h.p, "jobs", &o), -EPROTO, "1024 lanes");
	row->param[0] = 2;
	row->param[1]--;
	ends_with(vmp_channel_named(&h.ch, h.p, "jobs", NULL, 0), -EPROTO, "cannot be");
	row->param[1]++;
	assert_int_equal(vmp_hub_open(&h.h, h.p, "jobs", &o), 0);
	leave(&h);
}

/* Who waits for a lane does not change the directory all the time. */
static void waits_for_a_lane(void **state)
{
	struct vmp_hub_opts o = { .size = sizeof(o), .lanes = 1 };
	struct user h = new_user(), a = new_user(), late = new_user();
	uint64_t changes;

	assert_int_equal(vmp_hub_open(&h.h, h.p, "jobs", &o), 0);
	assert_int_equal(vmp_channel_named(&a.ch, a.p, "jobs", NULL, 0), 0);
	changes = dir_changes(h.p);
	ends_with(vmp_channel_named(&late.ch, late.p, "jobs", NULL, 400), -ETIMEDOUT, "no free lane");
	/* It comes and goes; perhaps at the very end once more. */
	assert_true(dir_changes(h.p) - changes <= 2 * 2 * 2);
	/* It is found where it was sought first. */
	vmp_channel_close(a.ch);
	a.ch = NULL;
	expect_nothing(&h);
	assert_int_equal(vmp_channel_named(&late.ch, late.p, "jobs", NULL, PATIENCE_MS), 0);
	pair(&h, &late);
	leave(&late);
	leave(&a);
	leave(&h);
}

/* Nor does letting go of a name that cannot be had for another reason. */
static void letting_go_says_nothing(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	struct vmp_hub *h, *no;

	assert_int_equal(vmp_hub_open(&h, p, "name", NULL), 0);
	lose_uses = true;
	ends_with(vmp_hub_open(&no, q, "name", NULL), -EBUSY, "another process");
	assert_false(lose_uses);
	vmp_hub_close(h);
	vmp_close(p);
	vmp_close(q);
}

static uint32_t lane_of(const struct user *u)
{
	uint32_t i = 0;

	while (row(i)->owner != u->p->token)
		i++;
	return i;
}

/* The text is the failed call's still when all is closed that it failed for. */
static void closing_says_nothing(void **state)
{
	struct user h = hub(0), a = producer(), x = new_user();
	const uint64_t nowhere = PORTAL_CHAN_DOORBELL | 77ULL << PORTAL_CHAN_PEER_SHIFT;

	pair(&h, &a);
	assert_true(vmp_watch_fd(x.p) >= 0);
	ends_with(try_hub(&x, 0), -EBUSY, "another process");
	/* Nobody is there to be rung. */
	head()->address = nowhere;
	side(lane_of(&a), 0)->address = nowhere;
	vmp_channel_close(a.ch);
	a.ch = NULL;
	ends_with(-EBUSY, -EBUSY, "another process");
	open_channel(&a);
	pair(&h, &a);
	ends_with(try_hub(&x, 0), -EBUSY, "another process");
	side(lane_of(&a), 1)->address = nowhere;
	vmp_hub_close(h.h);
	h.h = NULL;
	ends_with(-EBUSY, -EBUSY, "another process");
	/* Nor can its place among the watchers be cleared. */
	assert_true(x.p->watch_place >= 0);
	house.gone = true;
	vmp_close(x.p);
	house.gone = false;
	ends_with(-EBUSY, -EBUSY, "another process");
	leave(&a);
	leave(&h);
}

static void without_sessions(void **state)
{
	struct vmp_channel *ch = (void *)1;
	struct vmp_hub *h = (void *)1;
	struct vmp *p;

	assert_int_equal(vmp_open(&p, "memfd:size=1M", 0), 0);
	ends_with(vmp_hub_open(&h, p, "x", NULL), -ENODATA, "not a managed portal");
	assert_null(h);
	ends_with(vmp_channel_named(&ch, p, "x", NULL, -1), -ENODATA, "not a managed portal");
	assert_null(ch);
	assert_int_equal(vmp_format(p, NULL), 0);
	ends_with(vmp_hub_open(&h, p, "x", NULL), -EOPNOTSUPP, "/dev/portalN");
	ends_with(vmp_channel_named(&ch, p, "x", NULL, -1), -EOPNOTSUPP, "/dev/portalN");
	vmp_close(p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		in_house(there_and_back),
		in_house(old_addresses),
		in_house(messages_alone),
		in_house(no_lane_too_many),
		in_house(turns),
		in_house(turns_with_events),
		in_house(in_order),
		in_house(a_sender_dies),
		in_house(last_words),
		in_house(suspicion_takes_nothing),
		in_house(suspicion_comes_and_goes),
		in_house(one_hub_at_a_time),
		in_house(a_word_that_changes),
		in_house(no_memory_for_one),
		in_house(old_owner_sleeps),
		in_house(by_name),
		in_house(waits_for_a_lane),
		in_house(not_as_it_says),
		with_portald(there_and_back),
		with_portald(a_sender_dies),
		with_portald(by_name),
		in_house(letting_go_says_nothing),
		in_house(closing_says_nothing),
		cmocka_unit_test(without_sessions),
	};

	alarm(ALARM_S);
	find_portald(argv[0]);
	return cmocka_run_group_tests_name("hub", tests, set_up, tear_down);
}
