// SPDX-License-Identifier: MIT
/*
 * Channels by name whose ends die: what was committed is read once, by whoever comes next,
 * and a lane is nobody else's before.
 */
#include "hubs.h"

/* ---- The next hub ----------------------------------------------------------------- */

/* Whether it closes or dies: what was committed is the next one's. */
static void handed_over(void **state)
{
	struct user h, g, a, b, c;
	struct vmp_from from;
	const void *ptr;
	char buf[8];
	int how;

	for (how = 0; how < 2; how++) {
		h = hub(0);
		a = producer();
		b = producer();
		pair(&h, &a);
		pair(&h, &b);
		send_text(&a, "a1");
		send_text(&a, "a2");
		send_text(&a, "a3");
		expect(&h, "a1");
		send_text(&b, "b1");
		/* Looking at a2 or b1, it dies. */
		assert_int_equal(vmp_hub_peek(h.h, &ptr, &from, 0), 2);
		assert_memory_equal(ptr, "a2", 2);
		if (how)
			leave(&h);
		else
			perish(&h);
		/* Who does not know it yet goes on. */
		if (!how)
			send_text(&a, "a4");
		g = hub(VMP_HUB_EVENTS);
		from = expect_event(&g, VMP_FROM_CAME);
		assert_int_equal(from.flags, VMP_FROM_INHERITED);
		assert_int_equal(vmp_send(a.ch, "?", 1, 0, 0), how ? -EPIPE : -ECONNRESET);
		assert_int_equal(vmp_recv(b.ch, buf, sizeof(buf), 0), how ? -EPIPE : -ECONNRESET);
		vmp_channel_close(a.ch);
		open_channel(&a);
		c = producer();
		from = expect_flagged(&g, "a2", VMP_FROM_AGAIN | VMP_FROM_INHERITED);
		assert_int_equal(vmp_hub_reply(g.h, &from, "?", 1, 0, 0), -ESTALE);
		expect_flagged(&g, "a3", VMP_FROM_INHERITED);
		if (!how)
			expect_flagged(&g, "a4", VMP_FROM_INHERITED);
		/* All that is left, in whatever order: b1, its end and a's; a and c anew. */
		leave(&b);
		while (vmp_hub_recv(g.h, buf, sizeof(buf), &from, 50) >= 0)
			;
		pair(&g, &a);
		pair(&g, &c);
		send_text(&a, "a5");
		from = expect(&g, "a5");
		assert_int_equal(vmp_hub_reply(g.h, &from, "yes", 3, 0, 0), 0);
		assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 0), 3);
		leave(&a);
		leave(&c);
		leave(&g);
	}
}

/* The hub is bound, its sender not yet: the next hub does not court it, so it must know. */
static void between_two_words(void **state)
{
	struct user h = hub(0), a = new_user(), g;
	struct vmp_from from;
	char buf[8];

	open_channel(&a);
	assert_int_equal(vmp_hub_recv(h.h, buf, sizeof(buf), &from, 0), -EAGAIN);
	while (!h.h->lane[life_low(a.p->token) % LANES].ch->told_live) {
		assert_int_equal(vmp_channel_connect(a.ch, 0), -EAGAIN);
		assert_false(a.ch->told_live);
		assert_int_equal(vmp_hub_recv(h.h, buf, sizeof(buf), &from, 0), -EAGAIN);
	}
	assert_true(a.ch->told_ready);
	perish(&h);
	g = hub(0);
	assert_int_equal(vmp_hub_recv(g.h, buf, sizeof(buf), &from, 0), -EAGAIN);
	assert_int_equal(vmp_channel_connect(a.ch, 100), -ECONNRESET);
	vmp_channel_close(a.ch);
	open_channel(&a);
	pair(&g, &a);
	leave(&a);
	leave(&g);
}

/* Each message once, however often the hub changes, and whoever is dead by then. */
static void many_hubs(void **state)
{
	struct rng r = { 4711 };
	struct user h = hub(0), u[4];
	unsigned int sent[4] = { 0 }, got[4] = { 0 }, i, k, round;
	bool shown = false;
	struct vmp_from from;
	const void *ptr;
	char text[16];
	ssize_t n;

	for (i = 0; i < 4; i++)
		u[i] = new_user();
	for (round = 0; round < (SANITIZED ? 1000 : 2000); round++) {
		i = (unsigned int)below(&r, 4);
		switch (below(&r, 12)) {
		case 0:
			if (below(&r, 2))
				leave(&h);
			else
				perish(&h);
			h = hub(0);
			break;
		case 1:
			vmp_channel_close(u[i].ch);
			u[i].ch = NULL;
			break;
		case 2: case 3: case 4: case 5:
			if (!u[i].ch && try_channel(&u[i]))
				break;
			snprintf(text, sizeof(text), "%u %u", i, sent[i]);
			n = vmp_send(u[i].ch, text, strlen(text), 0, 0);
			if (!n)
				sent[i]++;
			else if (n != -EAGAIN) {
				vmp_channel_close(u[i].ch);
				u[i].ch = NULL;
			}
			break;
		default:
			n = vmp_hub_peek(h.h, &ptr, &from, 0);
			if (n < 0)
				break;
			memcpy(text, ptr, (size_t)n);
			text[n] = 0;
			if (sscanf(text, "%u %u", &i, &k) != 2 || i > 3 || k != got[i])
				fail_msg("round %u: '%s' where %u was expected", round, text, got[i]);
			if (from.flags & VMP_FROM_AGAIN)
				shown = true;
			if (below(&r, 3)) {
				vmp_hub_release(h.h);
				got[i]++;
			}
		}
	}
	for (i = 0; i < 4; i++)
		leave(&u[i]);
	while (vmp_hub_recv(h.h, text, sizeof(text) - 1, &from, 50) > 0) {
		sscanf(text, "%u %u", &i, &k);
		assert_int_equal(k, got[i]);
		got[i]++;
	}
	for (i = 0; i < 4; i++)
		assert_int_equal(got[i], sent[i]);
	assert_true(shown);
	leave(&h);
	for (i = 0; i < LANES; i++)
		assert_int_equal(row(i)->owner | row(i)->left, 0);
}

/* ---- Deaths at each step ----------------------------------------------------------- */

static int sends(void *arg)
{
	struct user u = new_user();
	int i, n = *(int *)arg;
	char text[16];

	for (i = 0; i < 3; i++) {
		if (try_channel(&u))
			return 1;
		for (; n && i < 2; n--) {
			snprintf(text, sizeof(text), "%d", n);
			if (vmp_send(u.ch, text, strlen(text), 0, PATIENCE_MS))
				return 2;
		}
		vmp_channel_close(u.ch);
	}
	return 0;
}

/* The lane of a sender that died anywhere is the next one's, and was read before. */
static void a_sender_dies_anywhere(void **state)
{
	int step, after, n;
	struct vmp_from from;
	char buf[257];

	for (step = STEP_LANE_TAKEN; step <= STEP_LANE_LEFT; step++) {
		for (after = 0; after < 2; after++) {
			struct user h = hub(VMP_HUB_EVENTS), next;
			uint32_t i;
			pid_t pid;

			n = 4;
			pid = house_spawn(sends, &n, step, after);
			/* Two in the first life, as it closes; it dies in the second. */
			while (get(&h, buf, &from, 20) >= 0 || !waitpid(pid, NULL, WNOHANG))
				;
			house_mourn(pid);
			while (get(&h, buf, &from, 50) >= 0)
				;
			for (i = 0; i < LANES; i++)
				assert_int_equal(row(i)->owner | row(i)->left, 0);
			next = producer();
			pair(&h, &next);
			send_text(&next, "on");
			do {
				assert_true(get(&h, buf, &from, PATIENCE_MS) >= 0);
			} while (from.event);
			assert_string_equal(buf, "on");
			leave(&next);
			leave(&h);
		}
	}
}

/* Read with a note of each message that was consumed, in shared memory. */
static unsigned int *noted;

static int receives(void *arg)
{
	struct user u = new_user();
	struct vmp_from from;
	const void *ptr;
	ssize_t n;

	if (try_hub(&u, 0))
		return 1;
	for (;;) {
		n = vmp_hub_peek(u.h, &ptr, &from, 100);
		if (n < 0)
			break;
		n = atoi(ptr);
		if (n != (ssize_t)*noted && !(from.flags & VMP_FROM_AGAIN && n == (ssize_t)*noted - 1))
			return 2;
		if (n == (ssize_t)*noted)
			++*noted;
		vmp_hub_release(u.h);
	}
	vmp_hub_close(u.h);
	return 0;
}

/* Whatever the hub was just doing when it died, the next one does it. */
static void a_hub_dies_anywhere(void **state)
{
	int step, after, i, status;
	bool all = true;

	noted = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (step = STEP_HUB_TAKEN; step <= STEP_LANE_CLEARED; step++) {
		bool died = false;

		if (step >= STEP_LANE_TAKEN && step <= STEP_LANE_LEFT)
			continue;
		for (after = 0; after < 4; after++) {
			struct user u = new_user();
			char text[16];
			pid_t pid;
			int sent = 0, tries = 0;

			*noted = 0;
			pid = house_spawn(receives, NULL, step, after);
			for (i = 0; i < 3; i++) {
				/* Three ends; each may lose its hub, and be opened anew. */
				while (sent < 5 * (i + 1) && tries < 100) {
					if (!u.ch)
						open_channel(&u);
					snprintf(text, sizeof(text), "%d", sent);
					status = vmp_send(u.ch, text, strlen(text) + 1, 0, 20);
					if (!status) {
						sent++;
					} else if (status != -ETIMEDOUT) {
						vmp_channel_close(u.ch);
						u.ch = NULL;
					}
					tries++;
					if (waitpid(pid, &status, WNOHANG) == pid) {
						died |= WIFSIGNALED(status);
						house_mourn(pid);
						pid = house_spawn(receives, NULL, -1, 0);
					}
				}
				vmp_channel_close(u.ch);
				u.ch = NULL;
			}
			assert_int_equal(sent, 15);
			status = house_reap(pid);
			if (status == -SIGKILL) {
				died = true;
				status = house_reap(house_spawn(receives, NULL, -1, 0));
			}
			if (status || *noted != 15)
				fail_msg("step %d, %d: the hub says %d, %u of 15 came", step, after, status, *noted);
			for (i = 0; i < (int)LANES; i++)
				assert_int_equal(row((uint32_t)i)->owner | row((uint32_t)i)->left, 0);
			leave(&u);
		}
		if (!died && step != STEP_LANE_INHERITED) {
			print_error("nobody died at step %d\n", step);
			all = false;
		}
	}
	assert_true(all);
	munmap(noted, 4096);
}

/* ---- Declared dead by mistake --------------------------------------------------------- */

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
	int i, r;

	declare_dead(&zombie);
	next_hub = hub(0);
	r = vmp_channel_connect(u->ch, 0);
	for (i = 0; i < 10 && r; i++) {
		if (r != -EAGAIN) {
			vmp_channel_close(u->ch);
			while (get(&next_hub, buf, &from, 0) >= 0)
				;
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

static void they_leave(void)
{
	while (senders)
		leave(&sender[--senders]);
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

/* At any word that a hub says when it opens its side. */
static void an_opening_by_mistake(void **state)
{
	struct vmp_from from;
	bool reached = true;
	int after, n;
	char buf[257];

	for (after = 0; reached; after++) {
		zombie = hub(0);
		sender[0] = producer();
		senders = 1;
		its_lane = lane_of(&sender[0]);
		act_at(STEP_SAYS, after, another_hub_comes);
		for (n = 0; n < 10 && house_act_at >= 0; n++) {
			get(&zombie, buf, &from, 0);
			if (house_act_at >= 0)
				vmp_channel_connect(sender[0].ch, 0);
		}
		reached = house_act_at < 0;
		house_act_at = -1;
		if (!reached)
			next_hub = zombie;
		else {
			assert_int_equal(get(&zombie, buf, &from, 100), -ESTALE);
			leave(&zombie);
		}
		they_are_well();
		they_leave();
	}
	/* Incarnation, address, token and what the handshake says, at least. */
	assert_true(after > 6);
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

/*
 * About to say that it sleeps, or not any more: the next hub, which sleeps, is rung. A number
 * that was late may stand there, but none does not.
 */
static void a_sleeping_hub_by_mistake(void **state)
{
	static const int steps[] = { STEP_ARMS, STEP_DISARMS };
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
		act_at(steps[i], 0, others_come_and_the_hub_sleeps);
		assert_int_equal(get(&zombie, buf, &from, 500), -ESTALE);
		assert_int_equal(house_act_at, -1);
		if (steps[i] == STEP_DISARMS)
			assert_int_equal(side(its_lane, 0)->rx_armed, armed);
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
	static const int steps[] = { STEP_ARMS, STEP_DISARMS };
	struct vmp_from from;
	unsigned int i;
	uint64_t rings;
	char buf[257];

	for (i = 0; i < 2; i++) {
		next_hub = hub(0);
		zombie = producer();
		its_lane = lane_of(&zombie);
		pair(&next_hub, &zombie);
		act_at(steps[i], 0, another_sender_comes_and_sleeps);
		assert_true(vmp_recv(zombie.ch, buf, sizeof(buf), 500) < 0);
		assert_int_equal(house_act_at, -1);
		if (steps[i] == STEP_DISARMS)
			assert_int_equal(side(its_lane, 1)->rx_armed, armed);
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
		in_house(handed_over),
		in_house(between_two_words),
		in_house(many_hubs),
		in_house(a_sender_dies_anywhere),
		in_house(a_hub_dies_anywhere),
		in_house(a_hub_by_mistake),
		in_house(a_reader_by_mistake),
		in_house(a_late_look_by_mistake),
		in_house(a_sender_by_mistake),
		in_house(a_reset_by_mistake),
		in_house(an_opening_by_mistake),
		in_house(an_address_by_mistake),
		in_house(a_sleeping_hub_by_mistake),
		in_house(a_sleeping_sender_by_mistake),
		with_portald(handed_over),
		with_portald(many_hubs),
		with_portald(a_sender_dies_anywhere),
		with_portald(a_hub_dies_anywhere),
	};

	alarm(120);
	find_portald(argv[0]);
	return cmocka_run_group_tests_name("hub_deaths", tests, set_up, tear_down);
}
