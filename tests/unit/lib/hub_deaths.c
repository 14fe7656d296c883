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

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		in_house(handed_over),
		in_house(between_two_words),
		in_house(many_hubs),
		in_house(a_sender_dies_anywhere),
		in_house(a_hub_dies_anywhere),
		with_portald(handed_over),
		with_portald(many_hubs),
		with_portald(a_sender_dies_anywhere),
		with_portald(a_hub_dies_anywhere),
	};

	alarm(ALARM_S);
	find_portald(argv[0]);
	return cmocka_run_group_tests_name("hub_deaths", tests, set_up, tear_down);
}
