// SPDX-License-Identifier: MIT
/* Objects by name: by the rules, by threads, watched, and over hostile bytes. */
#include "names.h"

#include <poll.h>
#include <pthread.h>
#include <sys/timerfd.h>

/* ---- By the rules ----------------------------------------------------------------- */

static void life_of_an_object(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	struct vmp_named *n, *m;
	struct vmp_object o;
	size_t bytes;
	char *a, *b;

	refuse(p, "table", 0, 0, -ENOENT, "there is no 'table'");
	memset(house_data(p, 0), 0xee, 4 * UNIT);
	n = open_named(p, "table", VMP_CREATE, UNIT + 1);
	a = vmp_named_data(n, &bytes);
	assert_int_equal(bytes, UNIT + 1);
	assert_true(!a[0] && !memcmp(a, a + 1, 2 * UNIT - 1));
	strcpy(a, "for the other");
	m = open_named(q, "table", VMP_CREATE, 100);
	b = vmp_named_data(m, &bytes);
	assert_int_equal(bytes, UNIT + 1);
	assert_string_equal(b, "for the other");
	refuse(q, "table", VMP_CREATE | VMP_EXCL, 100, -EEXIST, "there already");
	refuse(q, "table", 0, UNIT + 2, -ERANGE, "65537 bytes");
	assert_int_equal(vmp_named_info(m, &o, sizeof(o)), 0);
	assert_int_equal(o.state, VMP_OBJECT_NAMED);
	assert_int_equal(o.mode, 0600);
	assert_int_equal(o.creator, p->token);
	assert_string_equal(o.name, "table");
	assert_int_equal(uses_there(p), 2);
	house_check(p);
	/* It has no users, but a name. */
	assert_int_equal(vmp_named_close(n), 0);
	assert_int_equal(vmp_named_close(m), 0);
	assert_int_equal(objects_there(p), 1);
	assert_int_equal(uses_there(p), 0);
	n = open_named(p, "table", 0, 0);
	assert_string_equal(vmp_named_data(n, NULL), "for the other");
	/* It has no name, but a user. Another one may have the name by now. */
	assert_int_equal(vmp_named_unlink(q, "table"), 0);
	ends_with(vmp_named_unlink(q, "table"), -ENOENT, "there is no");
	assert_int_equal(vmp_named_info(n, &o, sizeof(o)), 0);
	assert_int_equal(o.state, VMP_OBJECT_UNLINKED);
	m = open_named(q, "table", VMP_CREATE | VMP_EXCL, 1);
	assert_true(vmp_named_data(m, NULL) != vmp_named_data(n, NULL));
	assert_string_equal(vmp_named_data(n, NULL), "for the other");
	assert_int_equal(objects_there(p), 2);
	house_check(p);
	assert_int_equal(vmp_named_close(n), 0);
	assert_int_equal(objects_there(p), 1);
	assert_int_equal(vmp_named_unlink(p, "table"), 0);
	assert_int_equal(vmp_named_close(m), 0);
	assert_int_equal(objects_there(p), 0);
	house_check(p);
	vmp_close(q);
	vmp_close(p);
}

static void ephemeral(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	struct vmp_named *n = open_named(p, "brief", VMP_CREATE | VMP_EPHEMERAL, 10), *m;

	m = open_named(q, "brief", 0, 0);
	assert_int_equal(vmp_named_close(n), 0);
	assert_int_equal(objects_there(p), 1);
	assert_int_equal(vmp_named_close(m), 0);
	assert_int_equal(objects_there(p), 0);
	refuse(p, "brief", 0, 0, -ENOENT, NULL);
	/* Its last user dies. */
	n = open_named(q, "brief", VMP_CREATE | VMP_EPHEMERAL, 10);
	house_leave(q);
	free(n);
	house_check(p);
	refuse(p, "brief", 0, 0, -ENOENT, NULL);
	assert_int_equal(objects_there(p), 0);
	/* Of two, one closes and one dies, of an object whose name is gone. */
	q = house_open();
	n = open_named(p, "long", VMP_CREATE, 10);
	m = open_named(q, "long", 0, 0);
	assert_int_equal(vmp_named_unlink(p, "long"), 0);
	assert_int_equal(vmp_named_close(n), 0);
	assert_int_equal(objects_there(p), 1);
	house_leave(q);
	free(m);
	assert_int_equal(vmp_named_close(open_named(p, "next", VMP_CREATE | VMP_EPHEMERAL, 10)), 0);
	assert_int_equal(objects_there(p), 0);
	house_check(p);
	vmp_close(p);
}

static void arguments(void **state)
{
	static const char *const bad[] = { "", ".", "..", "a/b", "/", "a\nb", "\xff", "\x7f" };
	struct vmp *p = house_open(), *r = house_open_with(VMP_RDONLY), *m;
	char name[70] = "";
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		refuse(p, bad[i], VMP_CREATE, 1, -EINVAL, "name");
		ends_with(vmp_named_unlink(p, bad[i]), -EINVAL, "name");
	}
	memset(name, 'x', 64);
	refuse(p, name, VMP_CREATE, 1, -ENAMETOOLONG, "63 bytes");
	ends_with(vmp_named_unlink(p, name), -ENAMETOOLONG, "63 bytes");
	name[63] = 0;
	assert_int_equal(vmp_named_close(open_named(p, name, VMP_CREATE, 1)), 0);
	assert_int_equal(vmp_named_unlink(p, name), 0);
	refuse(p, "x", 8, 1, -EINVAL, "undefined flags");
	refuse(p, "x", VMP_EXCL, 1, -EINVAL, "VMP_CREATE");
	refuse(p, "x", VMP_EPHEMERAL, 1, -EINVAL, "VMP_CREATE");
	refuse(p, "x", VMP_CREATE, 0, -EINVAL, "one byte");
	{
		struct vmp_named *n;

		ends_with(vmp_named_open(&n, p, "x", VMP_CREATE, 1, 01000), -EINVAL, "0777");
		ends_with(vmp_named_open(&n, NULL, "x", 0, 1, 0), -EINVAL, "NULL");
	}
	refuse(r, "x", VMP_CREATE, 1, -EACCES, "read-only");
	assert_int_equal(vmp_named_close(NULL), 0);
	assert_int_equal(vmp_open(&m, "memfd:size=1M", 0), 0);
	refuse(m, "x", VMP_CREATE, 1, -ENODATA, "not a managed");
	vmp_format(m, NULL);
	refuse(m, "x", VMP_CREATE, 1, -EOPNOTSUPP, "portald");
	vmp_close(m);
	vmp_close(r);
	vmp_close(p);
}

/* Who died as a waiter or watcher is rung no more, and is no other failure's reason. */
static void the_dead_are_not_rung(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	struct portal_directory *d = layout_row(p->base, p->super, PORTAL_AREA_DIRECTORY, 0);
	uint64_t dead;

	assert_int_equal(vmp_join(q, &dead), 0);
	house_leave(q);
	d->lock.waiter[3] = dead;
	d->watcher[5] = dead;
	refuse(p, "nothere", 0, 0, -ENOENT, "nothere");
	assert_int_equal(d->lock.waiter[3], 0);
	assert_int_equal(vmp_named_close(open_named(p, "here", VMP_CREATE, 1)), 0);
	assert_int_equal(d->watcher[5], 0);
	d->watcher[5] = dead;
	d->lock.waiter[3] = dead;
	refuse(p, "here", VMP_CREATE | VMP_EXCL, 1, -EEXIST, "here");
	assert_int_equal(vmp_named_unlink(p, "here"), 0);
	assert_int_equal(d->watcher[5], 0);
	vmp_close(p);
}

static void lose_the_lock(void)
{
	struct portal_directory *d = layout_row(house.base, &house.s, PORTAL_AREA_DIRECTORY, 0);

	d->lock.owner = 0;
}

static void lose_the_object(void)
{
	struct portal_object *o = layout_row(house.base, &house.s, PORTAL_AREA_OBJECTS, 0);

	o->life = 0;
	house_lose_uses();
}

static void declare_host_dead(void)
{
	house_peer()->dead = HOUSE_CLAIM;
}

/* Nobody has come for its lock yet: it decides nothing all the same. */
static void the_dead_decide_nothing(void **state)
{
	struct vmp *p = house_open();
	struct portal_directory *d = layout_row(p->base, p->super, PORTAL_AREA_DIRECTORY, 0);
	uint64_t generation;

	assert_int_equal(vmp_join(p, NULL), 0);
	generation = d->generation;
	house_act = declare_host_dead;
	house_act_at = STEP_CHANGE_FILLED;
	refuse(p, "new", VMP_CREATE, 1, -ESTALE, "is over");
	assert_int_equal(d->redo.state, 0);
	assert_int_equal(d->generation, generation);
	house_peer()->dead = 0;
	refuse(p, "new", 0, 0, -ENOENT, "new");
	house_check(p);
	vmp_close(p);
}

/* What another has open is not closed with one's own, whatever has become of that. */
static void anothers_use(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	struct vmp_named *mine = open_named(p, "one", VMP_CREATE, 1), *his = open_named(q, "one", 0, 0);
	struct portal_use *u = layout_row(p->base, p->super, PORTAL_AREA_USES, mine->use);

	u->token = his->p->token;
	ends_with(vmp_named_close(mine), -ESTALE, "nothing says");
	assert_int_equal(u->object, his->id);
	assert_int_equal(vmp_named_close(his), 0);
	vmp_close(q);
	vmp_close(p);
}

/* What fails while a failure is cleared away is not its reason. */
static void the_first_reason(void **state)
{
	struct vmp *p = house_open();

	house_act = lose_the_lock;
	house_act_at = STEP_CHANGE_FILLED;
	/* It cannot unlock what is not its own any more, either. */
	refuse(p, "new", VMP_CREATE, 1, -ESTALE, "while it changed the directory");
	house_act = lose_the_object;
	house_act_at = STEP_OBJECT_ZEROED;
	/* Nor say that it does not use what is not there. */
	refuse(p, "new", VMP_CREATE, 1, -EPROTO, "overwritten while it was made");
	vmp_close(p);
}

/* All of the data can be had, first fit, and the tables have an end too. */
static void until_it_is_full(void **state)
{
	struct vmp *p = house_open();
	uint64_t at, length, units, i;
	struct vmp_named *n[16], *hole, *many[128];
	char name[16];

	vmp_data(p, &at, &length);
	units = length / UNIT;
	refuse(p, "all", VMP_CREATE, length + 1, -ENOSPC, "more than the data has");
	n[0] = open_named(p, "all", VMP_CREATE, length);
	refuse(p, "more", VMP_CREATE, 1, -ENOSPC, "in one piece");
	assert_int_equal(vmp_named_unlink(p, "all"), 0);
	assert_int_equal(vmp_named_close(n[0]), 0);
	for (i = 0; i < 16; i++) {
		snprintf(name, sizeof(name), "%u", (unsigned int)i);
		n[i] = open_named(p, name, VMP_CREATE, i == 3 ? 2 * UNIT : UNIT);
		assert_int_equal(n[i]->offset, at + UNIT * (i > 3 ? i + 1 : i));
	}
	refuse(p, "more", VMP_CREATE, 1, -ENOSPC, "has 16 objects");
	for (i = 0; i < 4; i += 3) {
		vmp_named_unlink(p, i ? "3" : "0");
		assert_int_equal(vmp_named_close(n[i]), 0);
	}
	/* Two holes; the first is too small for the first, which leaves it for the second. */
	hole = open_named(p, "two", VMP_CREATE, 2 * UNIT);
	assert_int_equal(hole->offset, at + 3 * UNIT);
	vmp_named_unlink(p, "two");
	vmp_named_close(hole);
	hole = open_named(p, "rest", VMP_CREATE, (units - 17) * UNIT);
	assert_int_equal(hole->offset, at + 17 * UNIT);
	house_check(p);
	vmp_named_close(hole);
	for (i = 0; i < 128; i++)
		if (vmp_named_open(&many[i], p, "rest", 0, 0, 0))
			break;
	ends_with(-ENOSPC, -ENOSPC, "table of uses is full");
	assert_int_equal(i, p->super->area[PORTAL_AREA_USES].count - 14);
	while (i--)
		assert_int_equal(vmp_named_close(many[i]), 0);
	for (i = 1; i < 16; i++)
		if (i != 3)
			assert_int_equal(vmp_named_close(n[i]), 0);
	house_check(p);
	vmp_close(p);
}

/* ---- Threads, kinds ---------------------------------------------------------- */

static void *a_thread(void *arg)
{
	struct vmp *p = arg;
	struct vmp_named *n;
	intptr_t bad = 0;
	char name[16];
	int i;

	/* One object for all of them, one for each. */
	snprintf(name, sizeof(name), "%lx", (unsigned long)pthread_self() & 0xffffffff);
	for (i = 0; i < 100 && !bad; i++) {
		bad = vmp_named_open(&n, p, i % 2 ? "all" : name, VMP_CREATE | VMP_EPHEMERAL, 100, 0) ||
		      vmp_named_close(n);
		if (bad)
			print_error("%s\n", vmp_errmsg());
	}
	return (void *)bad;
}

/* The lock is the process's: its threads wait for each other. */
static void threads(void **state)
{
	struct vmp *p = house_open();
	pthread_t t[4];
	void *bad;
	int i;

	for (i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, a_thread, p), 0);
	for (i = 0; i < 4; i++) {
		pthread_join(t[i], &bad);
		assert_null(bad);
	}
	assert_int_equal(objects_there(p), 0);
	assert_int_equal(uses_there(p), 0);
	house_check(p);
	vmp_close(p);
}

/* One that comes while another is just changing something. */
static void a_thread_waits(void **state)
{
	struct vmp *p = house_open();
	struct portal_directory *d = layout_row(p->base, p->super, PORTAL_AREA_DIRECTORY, 0);
	pthread_t t;
	void *bad;

	assert_int_equal(vmp_join(p, NULL), 0);
	assert_int_equal(vmp_lock_at(p, &d->lock, 0), 0);
	pthread_create(&t, NULL, a_thread, p);
	usleep(100000);
	assert_int_equal(objects_there(p), 0);
	assert_int_equal(vmp_unlock_at(p, &d->lock), 0);
	pthread_join(t, &bad);
	assert_null(bad);
	vmp_close(p);
}

static int fills(void *arg, void *data, const struct vmp_named *n)
{
	struct vmp_object o;

	/* Nobody can open it yet; it is zeroed already. */
	assert_int_equal(vmp_get_object(n->p, life_low(n->id), &o, sizeof(o)), 0);
	assert_int_equal(o.state, VMP_OBJECT_MAKING);
	assert_int_equal(((char *)data)[n->size - 1], 0);
	strcpy(data, arg);
	return *(char *)arg ? 0 : -EIO;
}

/* An object of a kind with contents of its own, as the library makes channels of. */
static void another_kind(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	struct named_spec s = { .name = "kind", .flags = VMP_CREATE | VMP_EXCL, .bytes = 2 * UNIT,
				.kind = PORTAL_KIND_CHANNEL, .format = 1, .param = { 2, 4096 },
				.init = fills, .arg = (void *)"header" };
	struct vmp_named *n, *m;
	uint64_t tokens[3];

	memset(house_data(p, 0), 0xee, 2 * UNIT);
	assert_int_equal(vmp_named_make(&n, p, &s), 0);
	assert_string_equal(vmp_named_data(n, NULL), "header");
	refuse(q, "kind", 0, 0, -EPROTOTYPE, "a channel");
	s.flags = 0;
	assert_int_equal(vmp_named_make(&m, q, &s), 0);
	assert_int_equal(m->format, 1);
	assert_int_equal(m->param[1], 4096);
	assert_int_equal(vmp_named_users(m, tokens, 3), 2);
	assert_int_equal(tokens[0] + tokens[1], p->token + q->token);
	vmp_named_close(m);
	assert_int_equal(vmp_named_users(n, tokens, 3), 1);
	assert_int_equal(vmp_named_unlink(p, "kind"), 0);
	vmp_named_close(n);
	/* It could not be filled in: there is none. */
	s.flags = VMP_CREATE;
	s.arg = (void *)"";
	assert_int_equal(vmp_named_make(&n, p, &s), -EIO);
	assert_int_equal(objects_there(p), 0);
	assert_int_equal(uses_there(p), 0);
	vmp_named_close(open_named(p, "plain", VMP_CREATE, 1));
	s.name = "plain";
	ends_with(vmp_named_make(&n, p, &s), -EPROTOTYPE, "no channel");
	vmp_close(q);
	vmp_close(p);
}

struct slow {
	struct vmp *maker;
	uint64_t waiter;
};

/* It takes its time, and rings who waits for it all the while. */
static int fills_slowly(void *arg, void *data, const struct vmp_named *n)
{
	struct slow *s = arg;
	int64_t until = now_us() + 600000;

	while (now_us() < until) {
		vmp_ring_session(s->maker, s->waiter);
		usleep(20);
	}
	return 0;
}

static void *makes_slowly(void *arg)
{
	struct slow *s = arg;
	struct named_spec spec = { .name = "slow", .flags = VMP_CREATE, .bytes = 1, .init = fills_slowly,
				   .arg = s, .kind = PORTAL_KIND_RAW };
	struct vmp_named *n;
	int r = vmp_named_make(&n, s->maker, &spec);

	vmp_named_close(n);
	return (void *)(intptr_t)r;
}

/* Who waits for an object does so by the clock, however often he is rung. */
static void rung_while_it_is_made(void **state)
{
	struct vmp *p = house_open();
	struct slow s = { .maker = house_open() };
	struct portal_directory *d = layout_row(p->base, p->super, PORTAL_AREA_DIRECTORY, 0);
	struct vmp_named *n;
	uint64_t count;
	pthread_t t;
	void *r;

	assert_int_equal(vmp_join(p, &s.waiter), 0);
	pthread_create(&t, NULL, makes_slowly, &s);
	while (!objects_there(p))
		usleep(1000);
	count = __atomic_load_n((uint64_t *)&d->lock.count, __ATOMIC_RELAXED);
	n = open_named(p, "slow", 0, 0);
	count = __atomic_load_n((uint64_t *)&d->lock.count, __ATOMIC_RELAXED) - count;
	if (count > 700)
		fail_msg("the directory was locked %lu times in 600 ms", (unsigned long)count);
	pthread_join(t, &r);
	assert_null(r);
	vmp_named_close(n);
	vmp_close(s.maker);
	vmp_close(p);
}

/* ---- Watching --------------------------------------------------------------------------- */

static bool readable(int fd, int ms)
{
	struct pollfd f = { fd, POLLIN, 0 };

	return poll(&f, 1, ms) == 1;
}

/* Nothing is left to be told: what came so far is taken. */
static void settle(struct vmp *p, int fd)
{
	int i;

	for (i = 0; i < 20 && readable(fd, 50); i++)
		assert_int_equal(vmp_watch_clear(p), 0);
	assert_true(i < 20);
}

static int creates(void *arg)
{
	struct vmp *p = house_open();
	struct vmp_named *n;

	return vmp_named_open(&n, p, arg, VMP_CREATE, 1, 0);
}

static void watching(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	struct vmp_layout l;
	uint64_t before;
	int fd;

	ends_with(vmp_watch_clear(p), -EINVAL, "vmp_watch_fd");
	fd = vmp_watch_fd(p);
	assert_true(fd >= 0);
	assert_int_equal(vmp_watch_fd(p), fd);
	settle(p, fd);
	/* Someone comes, and goes; an object is made, and unlinked. */
	vmp_join(q, NULL);
	assert_true(readable(fd, SANITIZED ? 600 : 250));
	settle(p, fd);
	vmp_get_layout(p, &l, sizeof(l));
	before = l.generation;
	vmp_named_close(open_named(q, "x", VMP_CREATE, 1));
	assert_true(readable(fd, SANITIZED ? 600 : 250));
	vmp_get_layout(p, &l, sizeof(l));
	assert_true(l.generation > before && !(l.generation & 1));
	settle(p, fd);
	vmp_named_unlink(q, "x");
	assert_true(readable(fd, SANITIZED ? 600 : 250));
	settle(p, fd);
	vmp_close(q);
	assert_true(readable(fd, SANITIZED ? 600 : 250));
	settle(p, fd);
	assert_int_equal(house_reap(house_spawn(creates, (void *)"y", -1, 0)), 0);
	assert_true(readable(fd, SANITIZED ? 600 : 250));
	house_check(p);
	vmp_close(p);
}

/* Anybody may overwrite our place: the clock tells even so, and then it is taken anew. */
static void a_place_is_lost(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	struct portal_directory *d = layout_row(p->base, p->super, PORTAL_AREA_DIRECTORY, 0);
	struct itimerspec clock;
	int fd, i;

	fd = vmp_watch_fd(p);
	vmp_join(q, NULL);
	settle(p, fd);
	assert_int_equal(timerfd_gettime(p->watch_clock, &clock), 0);
	assert_int_equal(clock.it_interval.tv_sec, 10);
	for (i = 0; i < 32; i++)
		d->watcher[i] = 0;
	vmp_named_close(open_named(q, "x", VMP_CREATE, 1));
	assert_false(readable(fd, 100));
	timerfd_settime(p->watch_clock, 0, &(struct itimerspec){ .it_value.tv_nsec = 1 }, NULL);
	assert_true(readable(fd, 1000));
	settle(p, fd);
	vmp_named_unlink(q, "x");
	assert_true(readable(fd, SANITIZED ? 600 : 250));
	vmp_close(q);
	vmp_close(p);
}

/* Who finds no place, or has no session, is told by the clock. */
static void watching_by_the_clock(void **state)
{
	struct vmp *p = house_open(), *m;
	struct portal_directory *d = layout_row(p->base, p->super, PORTAL_AREA_DIRECTORY, 0);
	int fd, i;

	assert_int_equal(vmp_join(p, NULL), 0);
	for (i = 0; i < 32; i++)
		d->watcher[i] = p->token;
	fd = vmp_watch_fd(p);
	vmp_watch_clear(p);
	assert_false(readable(fd, 300));
	assert_true(readable(fd, 1500));
	vmp_close(p);
	assert_int_equal(vmp_open(&m, "memfd:size=1M", 0), 0);
	vmp_format(m, NULL);
	fd = vmp_watch_fd(m);
	assert_true(fd >= 0);
	assert_false(readable(fd, 300));
	assert_true(readable(fd, 1500));
	assert_int_equal(vmp_watch_clear(m), 0);
	assert_false(readable(fd, 300));
	vmp_close(m);
}

/* ---- What others write ------------------------------------------------------------------- */

/* A record that cannot be followed is not, by nobody, and that is said. */
static void a_broken_record(void **state)
{
	struct vmp *p = house_open();
	struct portal_directory *d = layout_row(p->base, p->super, PORTAL_AREA_DIRECTORY, 0);
	uint64_t good = p->super->area[PORTAL_AREA_OBJECTS].offset;
	int i;

	vmp_named_close(open_named(p, "kept", VMP_CREATE, UNIT));
	for (i = 0; i < 6; i++) {
		memset(&d->redo, 0, sizeof(d->redo));
		d->redo.state = d->generation + 2;
		d->redo.count = 1;
		d->redo.store[0].offset = good;
		d->redo.store[0].value = 0x1234;
		if (i == 0)
			d->redo.store[0].offset = p->super->area[PORTAL_AREA_DIRECTORY].offset;
		if (i == 1)
			d->redo.store[0].offset = good + 4;
		if (i == 2)
			d->redo.store[0].offset = p->super->area[PORTAL_AREA_PENDING].offset;
		if (i == 3)
			d->redo.state += 2;
		d->redo.checksum = layout_redo_checksum(&d->redo);
		if (i == 4)
			d->redo.count = PORTAL_REDO_STORES + 1;
		if (i == 5)
			d->redo.checksum++;
		refuse(p, "kept", 0, 0, -EPROTO, "directory is broken");
		ends_with(vmp_named_unlink(p, "kept"), -EPROTO, "directory is broken");
		assert_int_equal(d->lock.owner, 0);
		assert_true(vmp_check(p, NULL, NULL) > 0);
	}
	memset(&d->redo, 0, sizeof(d->redo));
	d->generation = UINT64_MAX - 1;
	refuse(p, "new", VMP_CREATE, 1, -EPROTO, "generation");
	d->generation = 0;
	assert_int_equal(vmp_named_unlink(p, "kept"), 0);
	house_check(p);
	vmp_close(p);
}

static int scribbles(void *arg)
{
	struct vmp *p = house_open();
	char *from = layout_row(p->base, p->super, PORTAL_AREA_DIRECTORY, 0);
	uint64_t words = (p->super->area[PORTAL_AREA_DATA].offset -
			  p->super->area[PORTAL_AREA_DIRECTORY].offset) / 8;
	_Atomic uint64_t *w = (void *)from;
	struct rng r = { 31337 };
	uint64_t n = 0, i;

	vmp_join(p, NULL);
	for (;;) {
		i = below(&r, words);
		switch (below(&r, 5)) {
		case 0: w[i] = rnd(&r); break;
		case 1: w[i] = below(&r, 3) << 16 | below(&r, 6); break;
		case 2: w[i] ^= UINT64_C(1) << below(&r, 64); break;
		case 3: w[i] = w[below(&r, words)]; break;
		default: w[i] = 0; break;
		}
		/* Mostly so that something works now and then. */
		if (!(++n % 64)) {
			w[0] = 0;
			w[offsetof(struct portal_directory, redo) / 8] = 0;
			usleep(20);
		}
		if (!(n % 4096))
			memset(from, 0, words * 8);
	}
	return 0;
}

/* Answers within the time, and not a byte outside: what is mapped ends at the region's end. */
static void scribbled(void **state)
{
	pid_t pid = house_spawn(scribbles, NULL, -1, 0);
	struct vmp *p = house_open();
	struct vmp_named *n;
	struct vmp_object o;
	uint64_t tokens[4], at, length;
	int64_t end, t;
	unsigned int rounds = 0, good = 0;
	size_t bytes;
	char *data;

	vmp_data(p, &at, &length);
	for (end = now_us() + 2000000; now_us() < end; rounds++) {
		t = now_us();
		if (!vmp_named_open(&n, p, rounds % 2 ? "a" : "b", VMP_CREATE, 1 + rounds % (2 * UNIT), 0)) {
			good++;
			data = vmp_named_data(n, &bytes);
			assert_true(n->offset >= at && n->offset - at < length &&
				    bytes <= length - (n->offset - at));
			data[0] = data[bytes - 1] = 1;
			vmp_named_info(n, &o, sizeof(o));
			vmp_named_users(n, tokens, 4);
			vmp_named_close(n);
		}
		vmp_named_unlink(p, rounds % 3 ? "a" : "b");
		vmp_check(p, NULL, NULL);
		assert_true(now_us() - t < 35000000);
		if (p->token && vmp_get_layout(p, &(struct vmp_layout){ 0 }, sizeof(struct vmp_layout)))
			fail_msg("%s", vmp_errmsg());
	}
	print_message("# %u rounds, %u opened\n", rounds, good);
	assert_true(rounds > 5 && good > 0);
	kill(pid, SIGKILL);
	house_reap(pid);
	vmp_close(p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		in_house(life_of_an_object),
		in_real(life_of_an_object),
		in_house(ephemeral),
		in_real(ephemeral),
		in_house(arguments),
		in_house(the_dead_are_not_rung),
		in_house(the_dead_decide_nothing),
		in_house(anothers_use),
		in_house(the_first_reason),
		in_house(until_it_is_full),
		in_house(threads),
		in_house(a_thread_waits),
		in_house(another_kind),
		in_house(rung_while_it_is_made),
		in_house(watching),
		in_real(watching),
		in_house(a_place_is_lost),
		in_house(watching_by_the_clock),
		in_house(a_broken_record),
		in_house(scribbled),
		in_real(scribbled),
	};

	find_portald(argv[0]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
