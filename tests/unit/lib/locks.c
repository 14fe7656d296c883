// SPDX-License-Identifier: MIT
/* Robust locks between processes that die, stop, and overwrite. */
#include "house.h"
#include "late.h"

/* ---- One process --------------------------------------------------------------- */

static void by_itself(void **state)
{
	struct vmp *p = house_open();
	struct portal_lock *l = house_data(p, 0);

	ends_with(vmp_unlock(p, l), -EPERM, "does not have the lock");
	assert_int_equal(vmp_lock(p, l, 0), 0);
	assert_int_equal(l->owner, p->token);
	assert_int_equal(l->count, 1);
	ends_with(vmp_lock(p, l, -1), -EDEADLK, "already");
	ends_with(vmp_lock_repaired(p, (char *)l + 128), -EPERM, "does not have the lock");
	assert_int_equal(vmp_unlock(p, l), 0);
	assert_int_equal(l->owner, 0);
	ends_with(vmp_unlock(p, l), -EPERM, "does not have the lock");
	assert_int_equal(vmp_lock(p, l, 0), 0);
	assert_int_equal(l->count, 2);
	assert_int_equal(vmp_unlock(p, l), 0);
	house_check(p);
	vmp_close(p);
}

static void places(void **state)
{
	struct vmp *p = house_open(), *r = house_open_with(VMP_RDONLY), *m;
	char *at = house_data(p, 0);
	uint64_t start, length;

	vmp_data(p, &start, &length);
	ends_with(vmp_lock(p, at + 32, 0), -EINVAL, "multiple of 64");
	ends_with(vmp_lock(p, at - 64, 0), -EINVAL, "lies in the data");
	ends_with(vmp_lock(p, at + length - 64, 0), -EINVAL, "lies in the data");
	ends_with(vmp_lock(p, NULL, 0), -EINVAL, "lies in the data");
	assert_int_equal(vmp_lock(p, at + length - 128, 0), 0);
	assert_int_equal(vmp_unlock(p, at + length - 128), 0);
	ends_with(vmp_unlock(p, at + 1), -EINVAL, NULL);
	ends_with(vmp_lock_repaired(p, at + 1), -EINVAL, NULL);
	ends_with(vmp_lock(r, house_data(r, 0), 0), -EACCES, "read-only");
	vmp_close(r);
	vmp_close(p);
	assert_int_equal(vmp_open(&m, "memfd:size=1M", 0), 0);
	ends_with(vmp_lock(m, m->base, 0), -ENODATA, "not a managed portal");
	assert_int_equal(vmp_format(m, NULL), 0);
	ends_with(vmp_lock(m, house_data(m, 0), 0), -EOPNOTSUPP, "/dev/portalN");
	vmp_close(m);
}

/* ---- Several -------------------------------------------------------------------- */

#define ROUNDS	(SANITIZED ? 500 : 3000)

static int counts(void *arg)
{
	struct vmp *p = house_open();
	struct portal_lock *l = house_data(p, 0);
	volatile uint64_t *n = (uint64_t *)house_data(p, 4096);
	int i;

	for (i = 0; i < ROUNDS; i++) {
		uint64_t was;

		if (vmp_lock(p, l, PATIENCE_MS))
			return 1;
		was = n[0];
		if (n[8] != was)
			return 2;
		n[8] = was + 1;
		if (i % 64 == 0)
			usleep(50);
		n[0] = was + 1;
		if (vmp_unlock(p, l))
			return 3;
	}
	vmp_close(p);
	return 0;
}

/* More of them than there are places for waiters: nobody is forgotten, nobody waits long. */
static void exclusion(void **state)
{
	enum { MANY = 12 };
	struct vmp *p = house_open();
	struct portal_lock *l = house_data(p, 0);
	pid_t pid[MANY];
	int i;

	for (i = 0; i < MANY; i++)
		pid[i] = house_spawn(counts, NULL, -1, 0);
	for (i = 0; i < MANY; i++)
		assert_int_equal(house_reap(pid[i]), 0);
	assert_int_equal(*(uint64_t *)house_data(p, 4096), MANY * ROUNDS);
	assert_int_equal(l->owner, 0);
	assert_int_equal(l->count, MANY * ROUNDS);
	for (i = 0; i < 8; i++)
		assert_int_equal(l->waiter[i], 0);
	house_check(p);
	vmp_close(p);
}

/* Locks, tells how long after the time that stands in the data it had it, unlocks. */
static int takes_the_time(void *arg)
{
	struct vmp *p = house_open();
	struct portal_lock *l = house_data(p, 0);
	_Atomic int64_t *t = house_data(p, 4096);
	int r = vmp_lock(p, l, PATIENCE_MS);

	t[1] = now_us() - t[0];
	t[2] = r;
	return r == -EOWNERDEAD ? vmp_lock_repaired(p, l) || vmp_unlock(p, l) : r || vmp_unlock(p, l);
}

static void until_it_waits(struct portal_lock *l)
{
	int i;

	for (i = 0; i < 2000 && !__atomic_load_n((uint64_t *)&l->waiter[0], __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	assert_true(i < 2000);
	usleep(20000);
}

/*
 * Whether who waits is woken by @ends_it, which says in the data when it was. Several times: a
 * look by the clock comes soon enough once, but not always. And again: a busy machine makes who
 * is woken late for a while, but the clock does so each time.
 */
static bool is_woken(struct vmp *p, void (*ends_it)(struct vmp *p))
{
	_Atomic int64_t *t = house_data(p, 4096);
	int late = 3, round, i;

	for (round = 0; round < 6 && late > 2; round++)
		for (i = late = 0; i < 8; i++) {
			ends_it(p);
			late += t[1] > 20000;
		}
	return late <= 2;
}

static void it_is_unlocked(struct vmp *p)
{
	struct portal_lock *l = house_data(p, 0);
	_Atomic int64_t *t = house_data(p, 4096);
	pid_t pid;

	assert_int_equal(vmp_lock(p, l, 0), 0);
	pid = house_spawn(takes_the_time, NULL, -1, 0);
	until_it_waits(l);
	t[0] = now_us();
	assert_int_equal(vmp_unlock(p, l), 0);
	assert_int_equal(house_reap(pid), 0);
}

static void an_unlock_wakes(void **state)
{
	struct vmp *p = house_open();

	assert_true(is_woken(p, it_is_unlocked));
	vmp_close(p);
}

static int locks_and_stays(void *arg)
{
	struct vmp *p = house_open();
	int r = vmp_lock(p, house_data(p, 0), PATIENCE_MS);

	if (r)
		return r;
	pause();
	return 0;
}

static void until_it_is_locked(struct portal_lock *l)
{
	int i;

	for (i = 0; i < 2000 && !__atomic_load_n((uint64_t *)&l->owner, __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	assert_true(i < 2000);
}

static void its_owner_dies(struct vmp *p)
{
	struct portal_lock *l = house_data(p, 0);
	_Atomic int64_t *t = house_data(p, 4096);
	pid_t owner = house_spawn(locks_and_stays, NULL, -1, 0), pid;

	until_it_is_locked(l);
	pid = house_spawn(takes_the_time, NULL, -1, 0);
	until_it_waits(l);
	kill(owner, SIGKILL);
	t[0] = now_us();
	assert_int_equal(house_reap(owner), -SIGKILL);
	assert_int_equal(house_reap(pid), 0);
	assert_int_equal(t[2], -EOWNERDEAD);
}

static void a_death_wakes(void **state)
{
	struct vmp *p = house_open();

	assert_true(is_woken(p, its_owner_dies));
	house_check(p);
	vmp_close(p);
}

/* ---- Deaths ---------------------------------------------------------------------- */

static int locks_repairs_unlocks(void *arg)
{
	struct vmp *p = house_open();
	struct portal_lock *l = house_data(p, 0);
	int r = vmp_lock(p, l, PATIENCE_MS);

	if (r == -EOWNERDEAD)
		r = vmp_lock_repaired(p, l);
	return r || vmp_unlock(p, l);
}

/* At each step, the lock free before or a dead one's: who comes next learns what it must. */
static void a_death_at_each_step(void **state)
{
	struct vmp *p = house_open();
	struct portal_lock *l = house_data(p, 0);
	int step, inherited, r;
	uint64_t who;

	for (step = STEP_LOCK_TAKEN; step <= STEP_LOCK_FREED; step++)
		for (inherited = 0; inherited < 2; inherited++) {
			if (!inherited && (step == STEP_LOCK_INHERITED || step == STEP_LOCK_FLAGS))
				continue;
			memset(l, 0, sizeof(*l));
			if (inherited)
				assert_int_equal(house_reap(house_spawn(locks_repairs_unlocks, NULL,
									STEP_LOCK_TAKEN, 0)), -SIGKILL);
			assert_int_equal(house_reap(house_spawn(locks_repairs_unlocks, NULL, step, 0)),
					 -SIGKILL);
			who = l->owner;
			assert_true((step == STEP_LOCK_FREED) == !who);
			r = vmp_lock(p, l, 0);
			assert_int_equal(r, who ? -EOWNERDEAD : 0);
			if (who) {
				assert_int_equal(l->previous, who);
				assert_int_equal(vmp_lock_repaired(p, l), 0);
			}
			assert_int_equal(vmp_unlock(p, l), 0);
			assert_int_equal(vmp_lock(p, l, 0), 0);
			assert_int_equal(vmp_unlock(p, l), 0);
			assert_int_equal(l->flags, 0);
		}
	house_check(p);
	vmp_close(p);
}

/* Who waits and dies leaves its place to others; whoever unlocks is not held up. */
static void a_waiter_dies(void **state)
{
	struct vmp *p = house_open();
	struct portal_lock *l = house_data(p, 0);
	pid_t pid;
	int i;

	assert_int_equal(vmp_lock(p, l, 0), 0);
	for (i = 0; i < 20; i++)
		assert_int_equal(house_reap(house_spawn(locks_repairs_unlocks, NULL, STEP_LOCK_PLACED, 0)),
				 -SIGKILL);
	for (i = 0; i < 8; i++)
		assert_true(!l->waiter[i] || vmp_token_state(p, l->waiter[i]) == VMP_STATE_DEAD);
	pid = house_spawn(locks_repairs_unlocks, NULL, -1, 0);
	for (i = 0; i < 2000 && (!l->waiter[0] || vmp_token_state(p, l->waiter[0]) == VMP_STATE_DEAD); i++)
		usleep(1000);
	assert_true(i < 2000);
	assert_int_equal(vmp_unlock(p, l), 0);
	assert_int_equal(house_reap(pid), 0);
	vmp_close(p);
}

static void nobody_repaired(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	struct portal_lock *l = house_data(p, 0);
	pid_t pid = house_spawn(locks_and_stays, NULL, -1, 0);

	until_it_is_locked(l);
	kill(pid, SIGKILL);
	house_reap(pid);
	ends_with(vmp_lock(p, l, 0), -EOWNERDEAD, "repair");
	assert_int_equal(vmp_unlock(p, l), 0);
	ends_with(vmp_lock(p, l, -1), -ENOTRECOVERABLE, "without vmp_lock_repaired()");
	ends_with(vmp_lock(q, house_data(q, 0), -1), -ENOTRECOVERABLE, NULL);
	assert_int_equal(l->owner, 0);
	vmp_close(q);
	vmp_close(p);
}

static struct vmp *by_mistake, *heir;
static bool heir_repairs;

static void an_heir_comes(void)
{
	uint64_t token = by_mistake->token;
	struct portal_lock *l;

	house_store_life(life_low(token), life_sequence(token), PORTAL_LIFE_DEAD);
	by_mistake->priv = NULL;
	heir = house_open();
	l = house_data(heir, 0);
	assert_int_equal(vmp_lock(heir, l, 0), -EOWNERDEAD);
	if (!heir_repairs)
		return;
	assert_int_equal(vmp_lock_repaired(heir, l), 0);
	assert_int_equal(vmp_unlock(heir, l), 0);
}

/* Who was declared dead by mistake says of a lock that is his heir's: nothing that counts. */
static void said_by_mistake(void **state)
{
	struct portal_lock *l;
	int round, i;

	/* As it inherits; as it unlocks without repair; and the same, before the heir has repaired. */
	for (round = 0; round < 3; round++) {
		by_mistake = house_open();
		l = house_data(by_mistake, 0);
		memset(l, 0, sizeof(*l));
		assert_int_equal(house_reap(house_spawn(locks_repairs_unlocks, NULL, STEP_LOCK_TAKEN, 0)),
				 -SIGKILL);
		if (round)
			assert_int_equal(vmp_lock(by_mistake, l, 0), -EOWNERDEAD);
		heir_repairs = round < 2;
		house_act = an_heir_comes;
		house_act_at = STEP_LOCK_FLAGS;
		if (!round)
			assert_int_equal(vmp_lock(by_mistake, l, 0), -EOWNERDEAD);
		ends_with(vmp_unlock(by_mistake, l), -EPERM, "does not have the lock");
		assert_int_equal(house_act_at, -1);
		vmp_close(by_mistake);
		l = house_data(heir, 0);
		if (!heir_repairs) {
			assert_int_equal(vmp_lock_repaired(heir, l), 0);
			assert_int_equal(vmp_unlock(heir, l), 0);
		}
		for (i = 0; i < 2; i++) {
			assert_int_equal(vmp_lock(heir, l, 0), 0);
			assert_int_equal(vmp_unlock(heir, l), 0);
			assert_int_equal(l->flags, 0);
		}
		house_check(heir);
		vmp_close(heir);
	}
}

static struct portal_lock *lock_said_of;
static uint32_t late_word;

/* From what stood there before the heir had it. */
static void a_late_word_comes(void)
{
	lock_said_of->flags = late_word;
}

static struct portal_lock *to_be_repaired(struct vmp *p, int dies_at)
{
	struct portal_lock *l = house_data(p, 0);

	memset(l, 0, sizeof(*l));
	assert_int_equal(house_reap(house_spawn(locks_repairs_unlocks, NULL, STEP_LOCK_TAKEN, 0)), -SIGKILL);
	if (dies_at >= 0)
		assert_int_equal(house_reap(house_spawn(locks_repairs_unlocks, NULL, dies_at, 0)), -SIGKILL);
	lock_said_of = l;
	return l;
}

static void comes_late(uint32_t word)
{
	late_word = word;
	house_act = a_late_word_comes;
	house_act_at = STEP_LOCK_FLAGS;
}

/* A word of a dead one's comes when the heir is about to say his: his stands. */
static void said_in_the_midst(void **state)
{
	struct vmp *p = house_open();
	struct portal_lock *l = to_be_repaired(p, -1);

	/* That nobody repaired, when the heir has. */
	assert_int_equal(vmp_lock(p, l, 0), -EOWNERDEAD);
	comes_late(PORTAL_LOCK_BROKEN);
	assert_int_equal(vmp_lock_repaired(p, l), 0);
	assert_int_equal(house_act_at, -1);
	assert_int_equal(l->flags, 0);
	assert_int_equal(vmp_unlock(p, l), 0);
	assert_int_equal(vmp_lock(p, l, 0), 0);
	assert_int_equal(vmp_unlock(p, l), 0);
	/* That somebody did, when the heir has not. */
	l = to_be_repaired(p, -1);
	assert_int_equal(vmp_lock(p, l, 0), -EOWNERDEAD);
	comes_late(0);
	assert_int_equal(vmp_unlock(p, l), 0);
	assert_int_equal(house_act_at, -1);
	assert_int_equal(vmp_lock(p, l, 0), -ENOTRECOVERABLE);
	/* The same, when the heir has just come. */
	l = to_be_repaired(p, STEP_LOCK_INHERITED);
	comes_late(0);
	assert_int_equal(vmp_lock(p, l, 0), -EOWNERDEAD);
	assert_int_equal(house_act_at, -1);
	assert_int_equal(l->flags, PORTAL_LOCK_REPAIR);
	vmp_close(p);
}

static void words_come_for_ever(void)
{
	lock_said_of->flags ^= 1U << 31;
	house_act_at = STEP_LOCK_FLAGS;
}

static void said_without_end(void **state)
{
	struct vmp *p = house_open();
	struct portal_lock *l = to_be_repaired(p, -1);

	assert_int_equal(vmp_lock(p, l, 0), -EOWNERDEAD);
	house_act = words_come_for_ever;
	house_act_at = STEP_LOCK_FLAGS;
	ends_with(vmp_lock_repaired(p, l), -EPROTO, "writes over");
	assert_int_equal(vmp_unlock(p, l), 0);
	house_act_at = -1;
	assert_int_equal(l->owner, 0);
	vmp_close(p);
}

/* What is said of who had it is the heir's by then. */
static void noted_by_mistake(void **state)
{
	struct portal_lock *l;
	uint64_t token;

	by_mistake = house_open();
	l = to_be_repaired(by_mistake, -1);
	assert_int_equal(vmp_join(by_mistake, &token), 0);
	heir_repairs = false;
	house_act = an_heir_comes;
	house_act_at = STEP_LOCK_NOTED;
	assert_int_equal(vmp_lock(by_mistake, l, 0), -EOWNERDEAD);
	assert_int_equal(house_act_at, -1);
	assert_int_equal(l->previous, token);
	/* Who died first did so before it was counted. */
	assert_int_equal(l->count, 1);
	vmp_close(by_mistake);
	vmp_close(heir);
}

/* ---- Tables that are gone --------------------------------------------------------- */

static struct portal_super *tables(void)
{
	return (struct portal_super *)(void *)house.base;
}

static void become(uint64_t incarnation)
{
	tables()->incarnation = incarnation;
	tables()->checksum = layout_super_checksum(tables());
}

static bool stored;

static void it_stored(void)
{
	stored = true;
}

/* Where the lock was is now somebody's, who has a 0 there. */
static void formatted_anew(void)
{
	become(tables()->incarnation + 1);
	memset(lock_said_of, 0, sizeof(*lock_said_of));
	house_act = it_stored;
	house_act_at = STEP_LOCK_TAKEN;
}

static int wakes_soon(void *arg)
{
	usleep(50000);
	house_changed();
	return 0;
}

/* While it sleeps: all places are others' bytes. */
static void formatted_in_its_sleep(struct vmp *p)
{
	become(tables()->incarnation + 1);
	memset(lock_said_of->waiter, 0, sizeof(lock_said_of->waiter));
}

static uint64_t old_tables, who_waits;

/* Each time that it was about to take a place. */
static void has_it_a_place(void)
{
	if (tables()->incarnation != old_tables && lock_said_of->waiter[0] == who_waits)
		stored = true;
	house_act_at = STEP_LOCK_PLACED;
}

/* Who waits for a lock stores nothing where it lay. */
static void a_lock_of_other_tables(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	struct vmp_ops ops = house_ops;
	pid_t pid;
	int i;

	ops.watched = formatted_in_its_sleep;
	lock_said_of = house_data(p, 0);
	old_tables = tables()->incarnation;
	assert_int_equal(vmp_join(q, &who_waits), 0);
	assert_int_equal(vmp_lock(p, lock_said_of, 0), 0);
	stored = false;
	house_act = formatted_anew;
	house_act_at = STEP_LOCK_PLACED;
	ends_with(vmp_lock(q, house_data(q, 0), 1000), -ESTALE, "formatted anew");
	house_act_at = -1;
	assert_false(stored);
	become(old_tables);
	assert_int_equal(vmp_lock(p, lock_said_of, 0), 0);
	/* All places are taken. */
	for (i = 0; i < 8; i++)
		lock_said_of->waiter[i] = p->token;
	house_act = has_it_a_place;
	house_act_at = STEP_LOCK_PLACED;
	q->ops = &ops;
	pid = house_spawn(wakes_soon, NULL, -1, 0);
	ends_with(vmp_lock(q, house_data(q, 0), PATIENCE_MS), -ESTALE, "formatted anew");
	house_act_at = -1;
	assert_false(stored);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	become(old_tables);
	q->ops = &house_ops;
	vmp_close(q);
	vmp_close(p);
}

/* ---- Suspicion, and worse --------------------------------------------------------- */

static void suspicion(void **state)
{
	struct vmp *p = house_open();
	struct portal_lock *l = house_data(p, 0);
	pid_t pid = house_spawn(locks_and_stays, NULL, -1, 0);
	int64_t t, ran;

	until_it_is_locked(l);
	ends_with(vmp_lock(p, l, 0), -EAGAIN, NULL);
	ends_with(vmp_lock(p, l, 30), -ETIMEDOUT, "is alive");
	house_peer()->suspect = HOUSE_CLAIM;
	assert_int_equal(vmp_token_state(p, l->owner), VMP_STATE_SUSPECT);
	t = now_us();
	ran = ran_us();
	ends_with(vmp_lock(p, l, 250), -ETIMEDOUT, "is suspect");
	assert_true(now_us() - t >= 249000 && ran_us() - ran < 2000000);
	assert_true(l->owner && !l->previous);
	kill(pid, SIGKILL);
	house_reap(pid);
	ends_with(vmp_lock(p, l, 0), -EOWNERDEAD, NULL);
	vmp_close(p);
}

/* Declared dead by mistake, it goes on: what is another's by now stays his. */
static void a_zombie(void **state)
{
	struct vmp *p = house_open(), *zombie = house_open();
	struct portal_lock *l = house_data(p, 0);
	struct portal_lock *lz = house_data(zombie, 0);
	uint64_t n;

	assert_int_equal(vmp_lock(zombie, lz, 0), 0);
	house_life(life_low(zombie->token), &n);
	house_store_life(life_low(zombie->token), n, PORTAL_LIFE_DEAD);
	assert_int_equal(vmp_token_state(p, zombie->token), VMP_STATE_DEAD);
	ends_with(vmp_lock(p, l, 0), -EOWNERDEAD, NULL);
	ends_with(vmp_unlock(zombie, lz), -EPERM, NULL);
	ends_with(vmp_lock_repaired(zombie, lz), -EPERM, NULL);
	assert_int_equal(l->owner, p->token);
	assert_int_equal(vmp_lock_repaired(p, l), 0);
	assert_int_equal(vmp_unlock(p, l), 0);
	/* And it gets nothing any more. */
	ends_with(vmp_lock(zombie, lz, 0), -ESTALE, "is over");
	assert_int_equal(l->owner, 0);
	/* Nor does it free what a dead one left locked: the next is to be told. */
	assert_int_equal(house_reap(house_spawn(locks_repairs_unlocks, NULL, STEP_LOCK_TAKEN, 0)), -SIGKILL);
	ends_with(vmp_lock(zombie, lz, 0), -ESTALE, "is over");
	ends_with(vmp_lock(p, l, 0), -EOWNERDEAD, NULL);
	assert_int_equal(vmp_lock_repaired(p, l), 0);
	assert_int_equal(vmp_unlock(p, l), 0);
	vmp_close(zombie);
	vmp_close(p);
}

static void overwritten(void **state)
{
	struct vmp *p = house_open();
	struct portal_lock *l = house_data(p, 0);
	const uint64_t never[] = { 1, 0xffff, UINT64_MAX, 77ULL << 16, p->super->sessions * 2 | 1 << 16 };
	size_t i;

	for (i = 0; i < sizeof(never) / sizeof(never[0]); i++) {
		l->owner = never[i];
		ends_with(vmp_lock(p, l, -1), -EPROTO, "overwritten");
	}
	vmp_close(p);
}

static int scribbles(void *arg)
{
	struct rng r = { 4711 };
	struct vmp *p = house_open();
	_Atomic uint64_t *w = house_data(p, 0);
	unsigned int n = 0;

	vmp_join(p, NULL);
	for (;;) {
		/* Garbage, tokens that are someone's, nobody. */
		w[below(&r, 16)] = below(&r, 2) ? rnd(&r) : below(&r, 2) ? below(&r, 40) << 16 | below(&r, 4) : 0;
		if (!(++n % 256))
			usleep(1);
	}
	return 0;
}

/* Whatever stands there: an answer within the time, and nothing else happens. */
static void scribbled(void **state)
{
	pid_t pid = house_spawn(scribbles, NULL, -1, 0);
	struct vmp *p = house_open();
	struct portal_lock *l = house_data(p, 0);
	int64_t end, t;
	int i, r, n = 0;

	for (end = now_us() + 1500000; now_us() < end; n++) {
		t = ran_us();
		r = vmp_lock(p, l, n % 3 * 5);
		if (r == -EOWNERDEAD)
			vmp_lock_repaired(p, l);
		assert_true(ran_us() - t < 2000000);
		vmp_unlock(p, l);
		/* What it says of tokens is an answer, too. */
		for (i = 0; i < 8; i++)
			vmp_ring_session(p, l->waiter[i]);
	}
	assert_true(n > 10);
	kill(pid, SIGKILL);
	house_reap(pid);
	house_check(p);
	vmp_close(p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		in_house(by_itself),
		in_real(by_itself),
		in_house(places),
		in_house(exclusion),
		in_real(exclusion),
		in_house(an_unlock_wakes),
		in_real(an_unlock_wakes),
		in_house(a_death_wakes),
		in_real(a_death_wakes),
		in_house(a_death_at_each_step),
		in_real(a_death_at_each_step),
		in_house(a_waiter_dies),
		in_real(a_waiter_dies),
		in_house(nobody_repaired),
		in_house(said_by_mistake),
		in_house(said_in_the_midst),
		in_house(said_without_end),
		in_house(noted_by_mistake),
		in_house(a_lock_of_other_tables),
		in_real(nobody_repaired),
		in_house(suspicion),
		in_house(a_zombie),
		in_house(overwritten),
		in_house(scribbled),
		in_real(scribbled),
	};

	find_portald(argv[0]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
