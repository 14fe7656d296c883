// SPDX-License-Identifier: MIT
/*
 * Channels by name whose ends are declared dead by mistake, and go on: what is their
 * successors' by then stays as it is.
 */
#include "hubs.h"

/* ---- With what they know ------------------------------------------------------------ */

/* Nobody has told @u that its session is over, and its end is nobody's affair. */
static void declare_dead(struct user *u)
{
	uint64_t token = u->p->token;

	house_store_life(life_low(token), life_sequence(token), PORTAL_LIFE_DEAD);
	u->p->priv = NULL;
}

/* A hub whose sender has died, which it has told of, and whose lane it would reset now. */
static struct user a_hub_behind_time(void)
{
	struct user h = hub(VMP_HUB_EVENTS), a = producer();

	expect_event(&h, VMP_FROM_CAME);
	pair(&h, &a);
	perish(&a);
	expect_event(&h, VMP_FROM_DEAD);
	return h;
}

/* The next hub has given its lane to another: that stays, and so does the hub. */
static void a_hub_by_mistake(void **state)
{
	struct user h = a_hub_behind_time(), g, b;
	uint32_t lane = 0;
	struct vmp_from from;
	char buf[257];
	ssize_t n;

	while (!row(lane)->owner)
		lane++;
	declare_dead(&h);
	g = hub(0);
	/* It frees the lane. */
	expect_nothing(&g);
	b = producer();
	assert_int_equal(row(lane)->owner, b.p->token);
	pair(&g, &b);
	n = get(&h, buf, &from, 100);
	assert_int_equal(n, -ESTALE);
	leave(&h);
	assert_int_equal(head()->consumer, g.p->token);
	send_text(&b, "well");
	expect(&g, "well");
	leave(&b);
	leave(&g);
}

/* What it has read and not released is its successor's, and so is the lane's position. */
static void a_reader_by_mistake(void **state)
{
	struct user h = hub(0), a = producer(), g;
	struct vmp_from from;
	const void *ptr;
	uint64_t was, shown;
	char buf[257];

	pair(&h, &a);
	send_text(&a, "one");
	send_text(&a, "two");
	send_text(&a, "three");
	from = expect(&h, "one");
	assert_int_equal(vmp_hub_peek(h.h, &ptr, &from, 0), 3);
	declare_dead(&h);
	g = hub(0);
	was = side(from.lane, 0)->consumed;
	shown = side(from.lane, 0)->shown;
	assert_int_equal(vmp_hub_release(h.h), -ESTALE);
	assert_int_equal(vmp_hub_peek(h.h, &ptr, &from, 0), -ESTALE);
	assert_int_equal(get(&h, buf, &from, 0), -ESTALE);
	assert_int_equal(side(0, 0)->consumed + side(1, 0)->consumed, was);
	assert_int_equal(side(0, 0)->shown + side(1, 0)->shown, shown);
	leave(&h);
	expect_flagged(&g, "two", VMP_FROM_AGAIN | VMP_FROM_INHERITED);
	expect_flagged(&g, "three", VMP_FROM_INHERITED);
	leave(&a);
	leave(&g);
}

/* What it has not looked at yet is its successor's, too. */
static void a_late_look_by_mistake(void **state)
{
	struct user h = hub(0), a = producer(), g;
	struct vmp_from from;
	const void *ptr;

	pair(&h, &a);
	send_text(&a, "one");
	declare_dead(&h);
	g = hub(0);
	assert_int_equal(vmp_hub_peek(g.h, &ptr, &from, 0), 3);
	side(from.lane, 0)->shown = 0;
	ends_with((int)vmp_hub_peek(h.h, &ptr, NULL, 0), -ESTALE, "is over");
	assert_int_equal(side(from.lane, 0)->shown, 0);
	assert_int_equal(vmp_hub_release(g.h), 0);
	leave(&h);
	leave(&a);
	leave(&g);
}

/* A sender: what it says of its lane is not said of the next one's. */
static void a_sender_by_mistake(void **state)
{
	struct user h = hub(0), a = producer(), b;
	struct vmp_from from;
	char buf[257];

	pair(&h, &a);
	declare_dead(&a);
	house_changed();
	assert_int_equal(get(&h, buf, &from, 30), -ETIMEDOUT);
	b = producer();
	pair(&h, &b);
	send_text(&b, "well");
	from = expect(&h, "well");
	/* The one for whom it was taken has left, too, and his word is there still. */
	vmp_channel_close(b.ch);
	b.ch = NULL;
	leave(&a);
	assert_int_equal(row(from.lane)->left, b.p->token);
	assert_int_equal(get(&h, buf, &from, 30), -ETIMEDOUT);
	assert_int_equal(row(0)->owner | row(1)->owner, 0);
	leave(&b);
	leave(&h);
}

/* Nobody tells it of anything any more: it hears of its own end by itself. */
static void a_reader_of_replies_by_mistake(void **state)
{
	struct user h = hub(0), a = producer();
	char buf[257];

	pair(&h, &a);
	declare_dead(&a);
	house_changed();
	ends_with((int)vmp_recv(a.ch, buf, sizeof(buf), 2000), -ESTALE, "is over");
	ends_with((int)vmp_recv(a.ch, buf, sizeof(buf), 0), -ESTALE, "is over");
	leave(&a);
	leave(&h);
}

/* What it has room for, and has not committed, it does not commit. */
static void a_message_by_mistake(void **state)
{
	struct user h = hub(0), a = producer(), b;
	struct vmp_from from;
	char buf[257];
	void *room;

	pair(&h, &a);
	assert_int_equal(vmp_reserve(a.ch, &room, 4, 0), 0);
	declare_dead(&a);
	house_changed();
	assert_int_equal(get(&h, buf, &from, 30), -ETIMEDOUT);
	b = producer();
	pair(&h, &b);
	send_text(&b, "well");
	ends_with(vmp_commit(a.ch, 4, 0), -ESTALE, "is over");
	expect(&h, "well");
	leave(&a);
	leave(&b);
	leave(&h);
}

/* ---- Stopped anywhere, and they have come ------------------------------------------- */

static struct user zombie, next_hub, sender[LANES];
static uint32_t its_lane, senders;
static uint64_t armed;

static uint32_t lane_of(const struct user *u)
{
	uint32_t i;

	for (i = 0; i < LANES && row(i)->owner != u->p->token; i++)
		;
	assert_true(i < LANES);
	return i;
}

static struct user *last_sender(void)
{
	return &sender[senders - 1];
}

/* The zombie is declared dead; the next hub frees its lane, which somebody takes. */
static void others_come(void)
{
	struct vmp_from from;
	char buf[257];
	int i;

	declare_dead(&zombie);
	next_hub = hub(0);
	for (i = 0; i < 10 && row(its_lane)->owner; i++)
		get(&next_hub, buf, &from, 0);
	for (senders = 0; senders < LANES && !row(its_lane)->owner;)
		sender[senders++] = producer();
	assert_int_equal(row(its_lane)->owner, last_sender()->p->token);
	pair(&next_hub, last_sender());
}

/* The same with the sender that is there already, in the same lane. */
static void another_hub_comes(void)
{
	struct user *u = last_sender();
	struct vmp_from from;
	char buf[257];
	int i, n, r;

	declare_dead(&zombie);
	next_hub = hub(0);
	r = vmp_channel_connect(u->ch, 0);
	for (i = 0; i < 10 && r; i++) {
		if (r != -EAGAIN) {
			vmp_channel_close(u->ch);
			/* The same lane again. */
			for (n = 0; n < 10 && row(its_lane)->owner; n++)
				get(&next_hub, buf, &from, 0);
			open_channel(u);
		}
		get(&next_hub, buf, &from, 0);
		r = vmp_channel_connect(u->ch, 0);
	}
	assert_int_equal(r, 0);
}

/* They hear each other still, and what the hub says of itself is all there. */
static void they_are_well(void)
{
	const struct vmp_channel *ch = next_hub.h->lane[its_lane].ch;
	struct vmp_from from;
	char buf[8];

	assert_int_equal(row(its_lane)->owner, last_sender()->p->token);
	assert_int_equal(head()->consumer, next_hub.p->token);
	assert_int_equal(head()->address, next_hub.h->address);
	assert_int_equal(side(its_lane, 0)->incarnation, ch->inc);
	assert_int_equal(side(its_lane, 0)->live, ch->nonce);
	assert_int_equal(side(its_lane, 0)->token, next_hub.p->token);
	assert_int_equal(side(its_lane, 0)->capacity, CAP);
	send_text(last_sender(), "well");
	from = expect(&next_hub, "well");
	assert_int_equal(from.lane, its_lane);
	assert_int_equal(vmp_hub_reply(next_hub.h, &from, "yes", 3, 0, 0), 0);
	assert_int_equal(vmp_recv(last_sender()->ch, buf, sizeof(buf), 0), 3);
}

/* And nobody has a lane then. */
static void they_leave(void)
{
	struct vmp_from from;
	char buf[257];
	uint32_t i;
	int n;

	while (senders)
		leave(&sender[--senders]);
	for (i = 0; i < LANES; i++)
		for (n = 0; row(i)->owner; n++) {
			assert_true(n < 100);
			get(&next_hub, buf, &from, 0);
		}
	leave(&next_hub);
}

static void act_at(int step, int after, void (*act)(void))
{
	house_act = act;
	house_act_at = step;
	house_act_after = after;
}

/* In the middle of giving the lane back. */
static void a_reset_by_mistake(void **state)
{
	static const struct {
		int step, after;
	} at[] = {
		{ STEP_LANE_OVER, 0 }, { STEP_LANE_RESET, 0 }, { STEP_SAYS, 0 }, { STEP_SAYS, 1 },
		{ STEP_LANE_EMPTY, 0 }, { STEP_LANE_CLEARED, 0 },
	};
	struct vmp_from from;
	unsigned int i;
	char buf[257];

	for (i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		zombie = a_hub_behind_time();
		for (its_lane = 0; !row(its_lane)->owner; its_lane++)
			;
		act_at(at[i].step, at[i].after, others_come);
		assert_int_equal(get(&zombie, buf, &from, 100), -ESTALE);
		assert_int_equal(house_act_at, -1);
		leave(&zombie);
		they_are_well();
		they_leave();
	}
}

static bool comes_and_leaves;

/* The next hub frees the lane, which the sender that had it takes again. */
static void the_same_comes(void)
{
	struct vmp_from from;
	char buf[257];
	int i;

	declare_dead(&zombie);
	next_hub = hub(0);
	for (i = 0; i < 10 && row(its_lane)->owner; i++)
		get(&next_hub, buf, &from, 0);
	open_channel(last_sender());
	assert_int_equal(lane_of(last_sender()), its_lane);
	pair(&next_hub, last_sender());
	if (!comes_and_leaves)
		return;
	vmp_channel_close(last_sender()->ch);
	last_sender()->ch = NULL;
}

/* The same, when its words tell the next use of the lane from this one by nothing. */
static void a_reset_for_the_same(void **state)
{
	static const struct {
		int step;
		bool leaves;
	} at[] = {
		{ STEP_LANE_OVER, false }, { STEP_LANE_RESET, false }, { STEP_LANE_EMPTY, false },
		{ STEP_LANE_CLEARED, false }, { STEP_LANE_EMPTY, true }, { STEP_LANE_CLEARED, true },
	};
	struct vmp_from from;
	unsigned int i;
	char buf[257];

	for (i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		zombie = hub(0);
		sender[0] = producer();
		senders = 1;
		its_lane = lane_of(&sender[0]);
		pair(&zombie, &sender[0]);
		vmp_channel_close(sender[0].ch);
		sender[0].ch = NULL;
		comes_and_leaves = at[i].leaves;
		act_at(at[i].step, 0, the_same_comes);
		assert_int_equal(get(&zombie, buf, &from, 100), -ESTALE);
		assert_int_equal(house_act_at, -1);
		leave(&zombie);
		if (!comes_and_leaves)
			they_are_well();
		they_leave();
	}
}

static struct vmp *next;

/* The next hub is there, and does the same: it stands just where the zombie does. */
static void another_resets_it(void)
{
	uint64_t token;

	declare_dead(&zombie);
	next = house_open();
	assert_int_equal(vmp_join(next, &token), 0);
	head()->consumer = token;
}

/* Nobody gets the lane before who resets it now is through. */
static void a_reset_under_way(void **state)
{
	struct vmp_from from;
	uint64_t left;
	char buf[257];

	zombie = a_hub_behind_time();
	for (its_lane = 0; !row(its_lane)->owner; its_lane++)
		;
	left = row(its_lane)->left = row(its_lane)->owner;
	act_at(STEP_LANE_EMPTY, 0, another_resets_it);
	assert_int_equal(get(&zombie, buf, &from, 100), -ESTALE);
	assert_int_equal(house_act_at, -1);
	assert_int_equal(row(its_lane)->owner, PORTAL_HUB_RESET);
	assert_int_equal(row(its_lane)->left, left);
	leave(&zombie);
	vmp_close(next);
	next_hub = hub(0);
	they_leave();
}

/*
 * A hub opens the lane of a sender, and others act at the word number @after that it says. False:
 * it says no such.
 */
static bool stopped_as_it_opens(int after, void (*others)(void))
{
	struct vmp_from from;
	bool reached = false;
	char buf[257];
	int n;

	zombie = hub(0);
	sender[0] = producer();
	senders = 1;
	its_lane = lane_of(&sender[0]);
	act_at(STEP_SAYS, after, others);
	for (n = 0; n < 10 && !reached; n++) {
		get(&zombie, buf, &from, 0);
		reached = house_act_at < 0;
		/* Not what the sender says. */
		house_act_at = -1;
		if (!reached) {
			vmp_channel_connect(sender[0].ch, 0);
			house_act_at = STEP_SAYS;
		}
	}
	house_act_at = -1;
	return reached;
}

/* At any word that a hub says when it opens its side. */
static void an_opening_by_mistake(void **state)
{
	struct vmp_from from;
	bool reached = true;
	char buf[257];
	int after;

	for (after = 0; reached; after++) {
		reached = stopped_as_it_opens(after, another_hub_comes);
		if (reached) {
			assert_int_equal(get(&zombie, buf, &from, 100), -ESTALE);
			leave(&zombie);
		} else {
			next_hub = zombie;
		}
		they_are_well();
		they_leave();
	}
	/* Incarnation, address, token and what the handshake says, at least. */
	assert_true(after > 6);
}

/* The next hub serves the sender to its end, and the lane is free. */
static void others_come_and_go(void)
{
	struct vmp_from from;
	char buf[257];
	int i;

	another_hub_comes();
	vmp_channel_close(last_sender()->ch);
	last_sender()->ch = NULL;
	for (i = 0; i < 10 && row(its_lane)->owner; i++)
		get(&next_hub, buf, &from, 0);
	assert_int_equal(row(its_lane)->owner, 0);
}

/* The same, when what the lane says is again what stood there before: nothing. */
static void an_opening_that_is_over(void **state)
{
	bool reached = true;
	int after;

	for (after = 0; reached; after++) {
		reached = stopped_as_it_opens(after, others_come_and_go);
		house_act_after = 0;
		if (reached) {
			leave(&zombie);
			open_channel(last_sender());
			its_lane = lane_of(last_sender());
			pair(&next_hub, last_sender());
		} else {
			next_hub = zombie;
		}
		they_are_well();
		they_leave();
	}
	assert_true(after > 6);
}

/* The hub gives the lane of the zombie, a sender, to another, which has sent something. */
static void another_sender_comes(void)
{
	struct vmp_from from;
	char buf[257];

	declare_dead(&zombie);
	house_changed();
	while (row(its_lane)->owner)
		get(&next_hub, buf, &from, 1);
	for (senders = 0; senders < LANES && !row(its_lane)->owner;)
		sender[senders++] = producer();
	pair(&next_hub, last_sender());
	send_text(last_sender(), "first");
}

/* A sender, at any word of the handshake, and at the first of its lane. */
static void a_fresh_lane_by_mistake(void **state)
{
	struct vmp_from from;
	bool reached = true;
	int after, n;
	char buf[257];

	for (after = 0; reached; after++) {
		next_hub = hub(0);
		zombie = producer();
		its_lane = lane_of(&zombie);
		/* Both are to be cleared. */
		side(its_lane, 1)->ask = 64;
		*(uint64_t *)(void *)zombie.ch->lane_out = 4711;
		act_at(STEP_SAYS, after, another_sender_comes);
		reached = false;
		for (n = 0; n < 10 && !reached; n++) {
			vmp_channel_connect(zombie.ch, 0);
			reached = house_act_at < 0;
			/* Not what the hub says. */
			house_act_at = -1;
			if (!reached) {
				get(&next_hub, buf, &from, 0);
				house_act_at = STEP_SAYS;
			}
		}
		house_act_at = -1;
		house_act_after = 0;
		if (reached) {
			expect(&next_hub, "first");
			leave(&zombie);
		} else {
			sender[0] = zombie;
			senders = 1;
		}
		they_are_well();
		they_leave();
	}
	/* Whom it courts, its wish, its header, ready and live, at least. */
	assert_true(after > 5);
}

/* Where to ring the hub: it puts right what others have overwritten. */
static void an_address_by_mistake(void **state)
{
	struct user a = producer();
	struct vmp_from from;
	char buf[257];

	zombie = hub(0);
	its_lane = lane_of(&a);
	pair(&zombie, &a);
	perish(&a);
	head()->address = 1;
	act_at(STEP_SAYS, 0, others_come);
	assert_int_equal(get(&zombie, buf, &from, 0), -EAGAIN);
	assert_int_equal(get(&zombie, buf, &from, 100), -ESTALE);
	assert_int_equal(house_act_at, -1);
	they_are_well();
	leave(&zombie);
	they_leave();
}

/* ---- Asleep ------------------------------------------------------------------------- */

static void others_come_and_the_hub_sleeps(void)
{
	struct vmp_from from;
	char buf[257];

	others_come();
	assert_true(vmp_hub_fd(next_hub.h) >= 0);
	while (get(&next_hub, buf, &from, 0) >= 0)
		;
	armed = side(its_lane, 0)->rx_armed;
	assert_int_not_equal(armed, 0);
}

/* About to say that it sleeps, or not any more. */
static const int says_how_it_sleeps[] = { STEP_ARMS, STEP_DISARMS };

/* It has passed @step. A number that was late may stand there for who sleeps now; none does not. */
static void is_armed_still(unsigned int which, int step)
{
	assert_int_equal(house_act_at, -1);
	if (step == STEP_DISARMS)
		assert_int_equal(side(its_lane, which)->rx_armed, armed);
}

/* The next hub, which sleeps, is rung. */
static void a_sleeping_hub_by_mistake(void **state)
{
	struct vmp_from from;
	unsigned int i;
	uint64_t rings;
	char buf[257];
	struct user a;

	for (i = 0; i < 2; i++) {
		zombie = hub(0);
		a = producer();
		its_lane = lane_of(&a);
		pair(&zombie, &a);
		perish(&a);
		act_at(says_how_it_sleeps[i], 0, others_come_and_the_hub_sleeps);
		assert_int_equal(get(&zombie, buf, &from, 500), -ESTALE);
		is_armed_still(0, says_how_it_sleeps[i]);
		rings = last_sender()->ch->doorbells;
		send_text(last_sender(), "well");
		assert_int_equal(last_sender()->ch->doorbells, rings + 1);
		expect(&next_hub, "well");
		they_are_well();
		leave(&zombie);
		they_leave();
	}
}

/* The hub frees the lane of the zombie, a sender, for another, which sleeps. */
static void another_sender_comes_and_sleeps(void)
{
	struct vmp_from from;
	char buf[257];

	declare_dead(&zombie);
	house_changed();
	while (row(its_lane)->owner)
		get(&next_hub, buf, &from, 1);
	for (senders = 0; senders < LANES && !row(its_lane)->owner;)
		sender[senders++] = producer();
	pair(&next_hub, last_sender());
	assert_true(vmp_channel_fd(last_sender()->ch) >= 0);
	assert_int_equal(vmp_recv(last_sender()->ch, buf, sizeof(buf), 0), -EAGAIN);
	armed = side(its_lane, 1)->rx_armed;
	assert_int_not_equal(armed, 0);
}

static void a_sleeping_sender_by_mistake(void **state)
{
	struct vmp_from from;
	unsigned int i;
	uint64_t rings;
	char buf[257];

	for (i = 0; i < 2; i++) {
		next_hub = hub(0);
		zombie = producer();
		its_lane = lane_of(&zombie);
		pair(&next_hub, &zombie);
		act_at(says_how_it_sleeps[i], 0, another_sender_comes_and_sleeps);
		assert_true(vmp_recv(zombie.ch, buf, sizeof(buf), 500) < 0);
		is_armed_still(1, says_how_it_sleeps[i]);
		leave(&zombie);
		send_text(last_sender(), "ask");
		from = expect(&next_hub, "ask");
		rings = next_hub.h->lane[its_lane].ch->doorbells;
		assert_int_equal(vmp_hub_reply(next_hub.h, &from, "yes", 3, 0, 0), 0);
		assert_int_equal(next_hub.h->lane[its_lane].ch->doorbells, rings + 1);
		assert_int_equal(vmp_recv(last_sender()->ch, buf, sizeof(buf), 0), 3);
		they_are_well();
		they_leave();
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		in_house(a_hub_by_mistake),
		in_house(a_reader_by_mistake),
		in_house(a_late_look_by_mistake),
		in_house(a_sender_by_mistake),
		in_house(a_reader_of_replies_by_mistake),
		in_house(a_message_by_mistake),
		in_house(a_reset_by_mistake),
		in_house(a_reset_for_the_same),
		in_house(a_reset_under_way),
		in_house(an_opening_by_mistake),
		in_house(an_opening_that_is_over),
		in_house(a_fresh_lane_by_mistake),
		in_house(an_address_by_mistake),
		in_house(a_sleeping_hub_by_mistake),
		in_house(a_sleeping_sender_by_mistake),
	};

	alarm(ALARM_S);
	find_portald(argv[0]);
	return cmocka_run_group_tests_name("hub_mistakes", tests, set_up, tear_down);
}
