// SPDX-License-Identifier: MIT
/* Objects by name: by those who die at every step, and by many at once. */
#include "names.h"

/* ---- Deaths -------------------------------------------------------------------------- */

/* Each operation, and each of its steps. */
static int a_life(void *arg)
{
	struct vmp *p = house_open();
	struct vmp_named *a, *b, *c, *kept;

	if (vmp_named_open(&a, p, "victim", VMP_CREATE | VMP_EXCL, 3 * UNIT, 0600))
		return 1;
	memset(vmp_named_data(a, NULL), 0x77, 3 * UNIT);
	if (vmp_named_open(&b, p, "victim", 0, 0, 0) || vmp_named_open(&kept, p, "kept", 0, 0, 0) ||
	    vmp_named_open(&c, p, "brief", VMP_CREATE | VMP_EPHEMERAL, 1, 0))
		return 2;
	return vmp_named_close(b) || vmp_named_unlink(p, "victim") || vmp_named_close(c) ||
	       vmp_named_close(a) || vmp_named_close(kept) ? 3 : 0;
}

/* What the others hold is as it was; what the dead had can be had anew, zeroed. */
static void goes_on(struct vmp *p, const char *kept)
{
	struct vmp_named *n;
	unsigned int left;

	house_check(p);
	n = open_named(p, "victim", VMP_CREATE, 1);
	assert_true(n->size == 1 || n->size == 3 * UNIT);
	left = objects_there(p);
	assert_true(left == 2);
	assert_int_equal(vmp_named_unlink(p, "victim"), 0);
	assert_int_equal(vmp_named_close(n), 0);
	house_check(p);
	assert_int_equal(objects_there(p), 1);
	assert_int_equal(uses_there(p), 1);
	assert_true(is_pattern(kept, 2 * UNIT, 42));
}

static void at_each_step(void **state)
{
	struct vmp *p = house_open();
	struct vmp_named *n = open_named(p, "kept", VMP_CREATE, 2 * UNIT);
	char *kept = vmp_named_data(n, NULL);
	int step, after, r, deaths = 0;

	pattern(kept, 2 * UNIT, 42);
	for (step = STEP_LOCK_TAKEN; step < STEPS; step++)
		for (after = 0;; after++) {
			r = house_reap(house_spawn(a_life, NULL, step, after));
			if (r != -SIGKILL)
				break;
			deaths++;
			goes_on(p, kept);
		}
	assert_int_equal(r, 0);
	print_message("# %d deaths\n", deaths);
	assert_true(deaths > 80);
	vmp_named_close(n);
	vmp_close(p);
}

static int finishes(void *arg)
{
	struct vmp *p = house_open();

	return vmp_named_unlink(p, "kept") ? 1 : 0;
}

/* Who finishes a dead one's change dies of it too, at each step; and another finishes that. */
static void at_each_step_of_finishing(void **state)
{
	struct vmp *p = house_open();
	int first, second, r;

	for (first = STEP_CHANGE_COMMITTED; first <= STEP_CHANGE_DONE; first++)
		for (second = STEP_LOCK_TAKEN; second <= STEP_CHANGE_CLEARED; second++) {
			vmp_named_close(open_named(p, "kept", VMP_CREATE, UNIT));
			assert_int_equal(house_reap(house_spawn(finishes, NULL, first, 0)), -SIGKILL);
			house_check(p);
			r = house_reap(house_spawn(finishes, NULL, second, 0));
			assert_true(r == -SIGKILL || r == 1);
			house_check(p);
			/* It was decided when the first one died. */
			refuse(p, "kept", 0, 0, -ENOENT, NULL);
			house_check(p);
			assert_int_equal(objects_there(p), 0);
		}
	vmp_close(p);
}

/* ---- Many at once ---------------------------------------------------------------------- */

static int same_object(void *arg)
{
	struct vmp *p = house_open();
	struct vmp_named *n;
	uint64_t at, length;

	vmp_data(p, &at, &length);
	/* More than half: a second one would find no room. */
	if (vmp_named_open(&n, p, "big", VMP_CREATE, length / 4 * 3, 0600))
		return 1;
	__atomic_add_fetch((uint64_t *)vmp_named_data(n, NULL), 1, __ATOMIC_SEQ_CST);
	return vmp_named_close(n) ? 2 : 0;
}

static void all_open_the_same(void **state)
{
	struct vmp *p = house_open();
	struct vmp_named *n;
	pid_t pid[6];
	int i, round;

	for (round = 0; round < 5; round++) {
		for (i = 0; i < 6; i++)
			pid[i] = house_spawn(same_object, NULL, -1, 0);
		for (i = 0; i < 6; i++)
			assert_int_equal(house_reap(pid[i]), 0);
		n = open_named(p, "big", 0, 0);
		assert_int_equal(*(uint64_t *)vmp_named_data(n, NULL), 6);
		vmp_named_unlink(p, "big");
		vmp_named_close(n);
	}
	house_check(p);
	vmp_close(p);
}

/* Who makes it dies before it is done: who waits for it makes it. */
static void a_maker_dies(void **state)
{
	struct vmp *p = house_open();
	pid_t maker, pid;
	struct vmp_object o;
	int i;

	maker = fork();
	if (!maker) {
		struct named_spec s = { .name = "big", .flags = VMP_CREATE, .bytes = 10,
					.kind = PORTAL_KIND_RAW, .init = (void *)pause };
		struct vmp_named *n;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(vmp_named_make(&n, house_open(), &s));
	}
	for (i = 0; i < 1000 && (vmp_get_object(p, 0, &o, sizeof(o)) || o.state != VMP_OBJECT_MAKING); i++)
		usleep(1000);
	assert_true(i < 1000);
	refuse(p, "big", VMP_CREATE | VMP_EXCL, 1, -EEXIST, NULL);
	pid = house_spawn(same_object, NULL, -1, 0);
	usleep(50000);
	house_check(p);
	kill(maker, SIGKILL);
	assert_int_equal(house_reap(maker), -SIGKILL);
	assert_int_equal(house_reap(pid), 0);
	house_check(p);
	vmp_close(p);
}

/* Opens, fills, checks, closes, unlinks at random; what it makes by EXCL is its own. */
static int lives_randomly(void *arg)
{
	struct rng r = { (uintptr_t)arg * 77 + 1 };
	struct vmp *p = house_open();
	struct vmp_named *n;
	char name[16];
	size_t bytes;
	int i, e;

	for (i = 0; i < 100000; i++) {
		snprintf(name, sizeof(name), "n%u", (unsigned int)below(&r, 6));
		e = vmp_named_open(&n, p, name, below(&r, 3) ? VMP_CREATE | VMP_EXCL : below(&r, 2) ? VMP_CREATE :
				   VMP_CREATE | VMP_EPHEMERAL, 1 + below(&r, 3 * UNIT), 0600);
		if (e == -EEXIST || e == -ENOSPC || e == -ERANGE)
			continue;
		if (e) {
			print_error("open: %d %s\n", e, vmp_errmsg());
			return 1;
		}
		vmp_named_data(n, &bytes);
		/* Nobody stores to what has the name no more but us, who made it. */
		if (n->creator == p->token) {
			e = vmp_named_unlink(p, name);
			if (e && e != -ENOENT)
				return 2;
			pattern(vmp_named_data(n, NULL), bytes, n->id);
			if (!below(&r, 4))
				usleep((useconds_t)below(&r, 2000));
			if (!is_pattern(vmp_named_data(n, NULL), bytes, n->id) && !e)
				return 3;
		}
		e = vmp_named_close(n);
		if (e)
			return 4;
	}
	return 0;
}

static void many_live_and_die(void **state)
{
	enum { MANY = 5 };
	struct vmp *p = house_open();
	int64_t end = now_us() + (SANITIZED ? 4000000 : 3000000);
	pid_t pid[MANY];
	struct rng r = { 99 };
	uintptr_t seed = 0;
	int i, deaths = 0, k;
	char name[16];

	for (i = 0; i < MANY; i++)
		pid[i] = house_spawn(lives_randomly, (void *)++seed, -1, 0);
	while (now_us() < end) {
		usleep((useconds_t)below(&r, 20000));
		k = (int)below(&r, MANY);
		kill(pid[k], SIGKILL);
		assert_int_equal(house_reap(pid[k]), -SIGKILL);
		deaths++;
		if (deaths % 8 == 0)
			house_check(p);
		pid[k] = house_spawn(lives_randomly, (void *)++seed, -1, 0);
	}
	for (i = 0; i < MANY; i++) {
		kill(pid[i], SIGKILL);
		assert_int_equal(house_reap(pid[i]), -SIGKILL);
	}
	house_check(p);
	for (i = 0; i < 6; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		vmp_named_unlink(p, name);
	}
	house_check(p);
	assert_int_equal(objects_there(p), 0);
	assert_int_equal(uses_there(p), 0);
	print_message("# %d deaths\n", deaths);
	assert_true(deaths > 20);
	vmp_close(p);
}

/* ---- Declared dead by mistake ---------------------------------------------------------- */

static struct vmp *dead_by_mistake, *another;
static struct vmp_named *in_its_place;

/* Nobody has told it; and its place is another's, who has filled it. */
static void its_place_is_taken(void)
{
	uint64_t token = dead_by_mistake->token;

	house_store_life(life_low(token), life_sequence(token), PORTAL_LIFE_DEAD);
	dead_by_mistake->priv = NULL;
	another = house_open();
	in_its_place = open_named(another, "another", VMP_CREATE, 3U << 20);
	memset(vmp_named_data(in_its_place, NULL), 0x55, 3U << 20);
}

static bool is_filled(const char *data, uint64_t bytes)
{
	uint64_t i;

	for (i = 0; i < bytes && data[i] == 0x55; i++)
		;
	return i == bytes;
}

/* While an object is made, or before: what it would zero next is not its own any more. */
static void made_by_mistake(void **state)
{
	static const int steps[] = { STEP_OBJECT_PLACED, STEP_OBJECT_PIECE };
	unsigned int i;

	for (i = 0; i < 2; i++) {
		dead_by_mistake = house_open();
		house_act = its_place_is_taken;
		house_act_at = steps[i];
		refuse(dead_by_mistake, "new", VMP_CREATE, 3U << 20, -ESTALE, "session is over");
		assert_true(is_filled(vmp_named_data(in_its_place, NULL), 3U << 20));
		vmp_close(dead_by_mistake);
		assert_int_equal(vmp_named_unlink(another, "another"), 0);
		assert_int_equal(vmp_named_close(in_its_place), 0);
		house_check(another);
		vmp_close(another);
	}
}

/* Who has an object open still asks tables that there are not any more. */
static void taken_for_raw(void **state)
{
	struct vmp *p = house_open();
	struct vmp_named *n = open_named(p, "object", VMP_CREATE, 1);

	assert_int_equal(vmp_session_check(p), 0);
	assert_int_equal(vmp_named_users(n, NULL, 0), 1);
	assert_int_equal(vmp_set_mode(p, VMP_MODE_RAW), 0);
	ends_with(vmp_session_check(p), -ESTALE, "open it anew");
	assert_int_equal(vmp_named_users(n, NULL, 0), 0);
	ends_with(vmp_named_close(n), -ENODATA, NULL);
	vmp_close(p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		in_house(at_each_step),
		in_real(at_each_step),
		in_house(at_each_step_of_finishing),
		in_real(at_each_step_of_finishing),
		in_house(all_open_the_same),
		in_real(all_open_the_same),
		in_house(a_maker_dies),
		in_real(a_maker_dies),
		in_house(many_live_and_die),
		in_real(many_live_and_die),
		in_house(made_by_mistake),
		in_house(taken_for_raw),
	};

	find_portald(argv[0]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
