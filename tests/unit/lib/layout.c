// SPDX-License-Identifier: MIT
/*
 * The layout of managed portals: formatting, believing, and every damage by its name.
 *
 * The table at the end of "Damages" has one way to inflict each damage that
 * lib/layout.h names; whoever adds a name without one is stopped by the compiler.
 */
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include <vmportal.h>

#include "layout_fix.h"

static struct fix f;

static int fresh(void **state)
{
	fix_format(&f);
	return 0;
}

static int populated(void **state)
{
	fix_format(&f);
	fix_populate(&f);
	return 0;
}

/* ---- Plans ------------------------------------------------------------------- */

static void test_crc(void **state)
{
	assert_int_equal(layout_crc32c(0, "123456789", 9), 0xe3069283);
	assert_int_equal(layout_crc32c(layout_crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
}

static void test_text(void **state)
{
	static const struct { const char *text; bool good; } cases[] = {
		{ "", true }, { "plain", true }, { "gr\xc3\xbc\xc3\x9f", true },
		{ "\xe2\x82\xac", true }, { "\xf0\x9f\x9a\xaa", true },
		{ "\x1b[2J", false }, { "a\nb", false }, { "\x7f", false }, { "\xc2\x9b", false },
		{ "\xc0\xaf", false }, { "\xe0\x80\xaf", false }, { "\xed\xa0\x80", false },
		{ "\xf4\x90\x80\x80", false }, { "\xff", false }, { "\x80", false },
		{ "cut\xe2\x82", false },
	};
	char buf[16];
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memset(buf, 0, sizeof(buf));
		strcpy(buf, cases[i].text);
		if (layout_is_text(buf, sizeof(buf)) != cases[i].good)
			fail_msg("case %zu", i);
	}
	memset(buf, 'x', sizeof(buf));
	assert_false(layout_is_text(buf, sizeof(buf)));
	memset(buf, 0, sizeof(buf));
	buf[9] = 'x';
	assert_false(layout_is_text(buf, sizeof(buf)));
}

/* Every plan that can be made is one that is believed, whatever the numbers. */
static void test_plans(void **state)
{
	struct rng r = { 7 };
	unsigned int i, made = 0, refused = 0;

	for (i = 0; i < 20000; i++) {
		uint64_t size = i & 1 ? below(&r, 1 << 21) : 1ULL << below(&r, 41);
		uint32_t peers = (uint32_t)below(&r, i % 7 ? 70 : 5000);
		uint32_t sessions = (uint32_t)below(&r, i % 5 ? 65 : 70000);
		uint32_t objects = (uint32_t)below(&r, i % 3 ? 100 : 70000);
		struct portal_super s = { .incarnation = 1, .uuid = { 1 } }, copy;
		int err = layout_plan(&s, size, peers, sessions, objects);

		if (err) {
			assert_true(err == -EFBIG || err == -EINVAL);
			refused++;
			continue;
		}
		s.magic = PORTAL_MAGIC;
		s.checksum = layout_super_checksum(&s);
		assert_int_equal(layout_parse(&s, size, &copy, NULL, NULL), 0);
		assert_true(!peers || s.peers == peers);
		assert_true(!sessions || s.sessions == sessions);
		made++;
	}
	assert_true(made > 2000 && refused > 2000);
}

static void test_smallest(void **state)
{
	struct portal_super s = { 0 };

	assert_int_equal(layout_plan(&s, PORTAL_LAYOUT_MIN, 0, 0, 0), 0);
	assert_int_equal(s.area[PORTAL_AREA_DATA].count, 1);
	memset(&s, 0, sizeof(s));
	assert_int_equal(layout_plan(&s, PORTAL_LAYOUT_MIN - 1, 0, 0, 0), -EFBIG);
	assert_int_equal(layout_plan(&s, 1 << 20, PORTAL_MAX_PEERS + 1, 0, 0), -EINVAL);
	assert_int_equal(layout_plan(&s, 1 << 30, 4096, 17, 0), -EINVAL);
	assert_int_equal(layout_plan(&s, 0, 0, 0, 0), -EFBIG);
}

/* ---- Damages ------------------------------------------------------------------ */

struct seen {
	unsigned int count[DAMAGE_COUNT];
	struct layout_finding last;
	int damages;
};

static void see(void *arg, const struct layout_finding *fd)
{
	struct seen *s = arg;

	assert_true(fd->offset < FIX_SIZE);
	s->count[fd->id]++;
	s->damages += fd->id < DAMAGE_FIRST_NOTE;
	s->last = *fd;
}

static struct seen look(unsigned int patience, int *ret)
{
	struct seen s = { .damages = 0 };

	*ret = layout_check(f.base, FIX_SIZE, patience, see, &s);
	if (*ret >= 0)
		assert_int_equal(*ret, s.damages);
	return s;
}

#define INFLICT(id, ...) static void inflict_##id(void) { __VA_ARGS__ }
#define IN_SUPER(id, ...) static void inflict_##id(void) { __VA_ARGS__ fix_seal(&f); }

INFLICT(FORMATTING, f.s->magic = PORTAL_MAGIC_FORMATTING;)
INFLICT(SUPER_MAGIC, f.s->magic ^= 1ULL << 40;)
INFLICT(SUPER_CHECKSUM, f.s->checksum ^= 1;)
IN_SUPER(SUPER_VERSION, f.s->version = 2;)
IN_SUPER(SUPER_SIZE, f.s->size += PORTAL_UNIT;)
IN_SUPER(SUPER_PROTECTED, f.s->protected_size -= 4096;)
IN_SUPER(SUPER_INCARNATION, f.s->incarnation = 0;)
IN_SUPER(SUPER_UUID, memset(f.s->uuid, 0, 16);)
IN_SUPER(SUPER_NAME, f.s->name[60] = 'x';)
IN_SUPER(SUPER_CREATOR, memset(f.s->creator, 'x', 32);)
IN_SUPER(SUPER_COUNTS, f.s->sessions++;)
IN_SUPER(SUPER_RESERVED, f.s->reserved1[3519] = 1;)
IN_SUPER(AREA_PLACE, f.s->area[3].offset += 1024;)
IN_SUPER(AREA_SHAPE, f.s->area[4].length += 32;)
IN_SUPER(AREA_UNKNOWN, f.s->area[7].count = 1;)
INFLICT(GAP, f.base[f.good.protected_size - 1] = 1;)
INFLICT(PEER_EMPTY, f.peer[5].name[3] = 'x';)
INFLICT(PEER_LIFE, f.peer[1].life = fix_life(2, 9);)
INFLICT(PEER_JOINING, f.peer[1].life = fix_life(3, PORTAL_LIFE_JOINING);)
INFLICT(PEER_CLAIM, f.peer[0].claim = 0;)
INFLICT(PEER_VERDICT, f.peer[3].reason = PORTAL_REASON_CUT;)
INFLICT(PEER_INCARNATION, f.peer[3].incarnation = 0;)
INFLICT(PEER_KIND, f.peer[2].kind = PORTAL_PEER_HOST;)
INFLICT(PEER_NOTICE, f.peer[1].notice = 4;)
INFLICT(PEER_NAME, f.peer[1].name[2] = '\n';)
INFLICT(PEER_RESERVED, f.peer[1].reserved1[239] = 1;)
INFLICT(PEER_DUPLICATE, f.peer[2].claim = GUEST_CLAIM + 1; f.session[2].life = 0;)
INFLICT(SESSION_EMPTY, f.session[20].pid = 1;)
INFLICT(SESSION_LIFE, f.session[FIX_SESSIONS + 1].life = fix_life(3, PORTAL_LIFE_ASLEEP);)
INFLICT(SESSION_JOINING, f.session[FIX_SESSIONS + 1].life = fix_life(4, PORTAL_LIFE_JOINING);)
INFLICT(SESSION_CLAIM, f.session[FIX_SESSIONS + 1].claim = 7ULL << 32;)
INFLICT(SESSION_PEER, f.session[FIX_SESSIONS * 6] = f.session[FIX_SESSIONS];)
INFLICT(SESSION_ADDRESS, f.session[FIX_SESSIONS].address = 9;)
INFLICT(SESSION_VECTOR, f.session[FIX_SESSIONS].vector = 4;)
INFLICT(SESSION_NAME, f.session[FIX_SESSIONS].name[31] = 'x';)
INFLICT(SESSION_RESERVED, f.session[FIX_SESSIONS].reserved[47] = 1;)
INFLICT(DIRECTORY_EMPTY, fix_format(&f); f.dir->generation = 2;)
INFLICT(DIRECTORY_RESERVED, f.dir->reserved2[2047] = 1;)
INFLICT(DIRECTORY_GENERATION, f.dir->generation = 5;)
INFLICT(DIRECTORY_WATCHER, f.dir->watcher[31] = 4ULL << 16 | FIX_SESSIONS;)
INFLICT(LOCK_OWNER, f.dir->lock.owner = 1ULL << 16 | 64;)
INFLICT(LOCK_PREVIOUS, f.dir->lock.previous = FIX_SESSIONS;)
INFLICT(LOCK_WAITER, f.dir->lock.waiter[7] = 1;)
INFLICT(LOCK_FLAGS, f.dir->lock.flags = 4;)
INFLICT(LOCK_BROKEN, f.dir->lock.flags = PORTAL_LOCK_BROKEN;)
INFLICT(LOCK_RESERVED, f.dir->lock.reserved1[31] = 1;)
INFLICT(REDO_ORPHAN, fix_redo(&f); f.dir->lock.owner = 0;)
INFLICT(REDO_STATE, fix_redo(&f); f.dir->redo.state = 8;
	f.dir->redo.checksum = layout_redo_checksum(&f.dir->redo);)
INFLICT(REDO_COUNT, fix_redo(&f); f.dir->redo.count = PORTAL_REDO_STORES + 1;)
INFLICT(REDO_CHECKSUM, fix_redo(&f); f.dir->redo.store[1].value++;)
INFLICT(REDO_STORE, fix_redo(&f); f.dir->redo.store[0].offset = f.good.area[2].offset;
	f.dir->redo.checksum = layout_redo_checksum(&f.dir->redo);)
INFLICT(REDO_RESERVED, f.dir->redo.reserved[15] = 1;)
INFLICT(OBJECT_EMPTY, fix_format(&f); f.object[15].reserved[63] = 1;)
INFLICT(OBJECT_LIFE, f.object[2].life = fix_life(1, 5);)
INFLICT(OBJECT_KIND, f.object[0].kind = 3;)
INFLICT(OBJECT_PLACE, f.object[3].offset = FIX_SIZE - PORTAL_UNIT; f.object[3].length *= 2;)
INFLICT(OBJECT_SIZE, f.object[3].size = f.object[3].length + 1;)
INFLICT(OBJECT_MODE, f.object[3].mode = 01000;)
INFLICT(OBJECT_CREATOR, f.object[3].creator = 0;)
INFLICT(OBJECT_PARAM, f.object[3].param[7] = 1;)
INFLICT(OBJECT_NAME, strcpy(f.object[3].name, "a/b");)
INFLICT(OBJECT_RESERVED, f.object[3].reserved[0] = 1;)
INFLICT(OBJECT_DUPLICATE, memset(f.object[3].name, 0, 64); strcpy(f.object[3].name, "alpha");)
INFLICT(OBJECT_OVERLAP, f.object[3].offset -= PORTAL_UNIT;)
INFLICT(USE_EMPTY, f.use[10].token = 1;)
INFLICT(USE_OBJECT, f.use[1].object = 2ULL << 16 | 1; f.object[1].life = fix_life(1, PORTAL_OBJECT_FREE);)
INFLICT(USE_TOKEN, f.use[0].token = 4ULL << 16 | FIX_SESSIONS;)
INFLICT(USE_RESERVED, f.use[0].reserved[11] = 1;)
INFLICT(PENDING, f.pending[16] |= 8;)
INFLICT(NOTE_PEER, f.peer[1].dead = GUEST_CLAIM; f.peer[1].reason = PORTAL_REASON_EXITED;)
INFLICT(NOTE_SESSION, f.peer[1].claim++;)
INFLICT(NOTE_LOCK, f.dir->lock.owner = 3ULL << 16 | (FIX_SESSIONS + 1);)
INFLICT(NOTE_OBJECT, memset(&f.use[1], 0, sizeof(f.use[1]));)
INFLICT(NOTE_USE, f.use[0].token = 1ULL << 16 | FIX_SESSIONS;)

static _Atomic bool stop;

static void *busy(void *arg)
{
	while (!atomic_load(&stop))
		__atomic_fetch_add(&f.dir->generation, 2, __ATOMIC_RELEASE);
	return NULL;
}

static void inflict_NOTE_BUSY(void)
{
	/* See test_busy(): nothing that stands still is busy. */
}

static void (*const inflict[])(void) = {
#define ROW(id, name, text) [DAMAGE_##id] = inflict_##id,
	LAYOUT_DAMAGES(ROW)
};

static void test_clean(void **state)
{
	struct seen s;
	int ret;

	fix_format(&f);
	s = look(0, &ret);
	assert_int_equal(ret, 0);
	fix_populate(&f);
	s = look(0, &ret);
	if (ret)
		fail_msg("%s at %#llx", layout_damage_name(s.last.id), (unsigned long long)s.last.offset);
	assert_int_equal(s.count[DAMAGE_NOTE_PEER], 1);
	fix_redo(&f);
	s = look(0, &ret);
	assert_int_equal(ret, 0);
	/* Stored, and not cleared yet. */
	f.dir->generation = f.dir->redo.state;
	s = look(0, &ret);
	assert_int_equal(ret, 0);
}

/* Rows are judged as they will be when the change that is under way has been made. */
static void test_half_a_change(void **state)
{
	struct seen s;
	int ret;

	fix_format(&f);
	fix_populate(&f);
	fix_redo(&f);
	f.dir->generation = 5;
	f.object[0].kind = 0;
	f.use[0].object = 0;
	s = look(0, &ret);
	assert_int_equal(ret, 0);
	/* One that cannot be will not be made. */
	f.dir->redo.checksum++;
	s = look(0, &ret);
	assert_int_equal(s.count[DAMAGE_REDO_CHECKSUM], 1);
	assert_int_equal(s.count[DAMAGE_OBJECT_KIND], 1);
	assert_int_equal(s.count[DAMAGE_USE_EMPTY], 1);
}

/* Each damage is seen, under its name, and nothing else is. */
static void test_damages(void **state)
{
	unsigned int id, other;
	struct seen s;
	int ret;

	for (id = 0; id < DAMAGE_COUNT; id++) {
		if (id == DAMAGE_NOTE_BUSY)
			continue;
		fix_format(&f);
		fix_populate(&f);
		inflict[id]();
		s = look(2, &ret);
		if (!s.count[id] || (id < DAMAGE_FIRST_NOTE) != (ret > 0))
			fail_msg("%s is not seen: %d, last %s", layout_damage_name(id), ret,
				 layout_damage_name(s.last.id));
		for (other = 0; other < DAMAGE_FIRST_NOTE; other++)
			if (other != id && s.count[other])
				fail_msg("%s is taken for %s", layout_damage_name(id), layout_damage_name(other));
	}
}

/* A channel by name has two parameters, which fit each other and the object. */
static void test_hubs(void **state)
{
	static const struct {
		uint64_t lanes, capacity, size, third;
		bool good;
	} cases[] = {
		{ 3, 4096, 40960, 0, true },
		{ 3, 4096, 40959, 0, false },
		{ 3, 8192, 65536, 0, true },
		{ 4, 8192, 65536, 0, false },
		{ 0, 4096, 65536, 0, false },
		{ 1025, 4096, 65536, 0, false },
		{ 1ULL << 63, 4096, 65536, 0, false },
		{ 1, 2048, 65536, 0, false },
		{ 1, 12288, 65536, 0, false },
		{ 1, 1ULL << 32, 65536, 0, false },
		{ 3, 4096, 40960, 1, false },
	};
	struct portal_object *o = &f.object[3];
	struct seen s;
	unsigned int i;
	int ret;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		fix_format(&f);
		fix_populate(&f);
		o->kind = PORTAL_KIND_CHANNEL;
		o->format = PORTAL_HUB_FORMAT;
		o->size = cases[i].size;
		o->param[0] = cases[i].lanes;
		o->param[1] = cases[i].capacity;
		o->param[2] = cases[i].third;
		s = look(0, &ret);
		if (ret != !cases[i].good || (ret && !s.count[DAMAGE_OBJECT_PARAM]))
			fail_msg("case %u: %d damages", i, ret);
		/* Another version's are its own. */
		o->format++;
		s = look(0, &ret);
		assert_int_equal(ret, 0);
	}
}

static void test_names(void **state)
{
	unsigned int a, b;

	for (a = 0; a < DAMAGE_COUNT; a++)
		for (b = 0; b < a; b++)
			assert_string_not_equal(layout_damage_name(a), layout_damage_name(b));
}

static void test_busy(void **state)
{
	int64_t end = now_us() + PATIENCE_MS * 1000;
	bool said = false;
	struct seen s;
	pthread_t t;
	int ret;

	atomic_store(&stop, false);
	assert_int_equal(pthread_create(&t, NULL, busy, NULL), 0);
	while (!said && now_us() < end) {
		s = look(0, &ret);
		assert_int_equal(ret, 0);
		said = s.count[DAMAGE_NOTE_BUSY];
	}
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	assert_true(said);
}

/* Who joins is given time, and is no damage once it is there. */
static void *join_late(void *arg)
{
	struct timespec t = { .tv_nsec = 60000000 };

	nanosleep(&t, NULL);
	__atomic_store_n(&f.peer[1].life, fix_life(3, PORTAL_LIFE_ALIVE), __ATOMIC_RELEASE);
	return NULL;
}

static void test_joining(void **state)
{
	pthread_t t;
	int ret;

	f.peer[1].life = fix_life(3, PORTAL_LIFE_JOINING);
	assert_int_equal(pthread_create(&t, NULL, join_late, NULL), 0);
	look(100, &ret);
	pthread_join(t, NULL);
	assert_int_equal(ret, 0);
}

/* ---- Whatever stands there ------------------------------------------------------ */

static bool verdict_is_clean(void)
{
	int ret;

	look(0, &ret);
	return ret == 0;
}

/* In a region that nobody has used yet every byte before the data is accounted for. */
static void test_every_byte(void **state)
{
	uint64_t at, meta = layout_meta_size(&f.good);
	unsigned int step = SANITIZED ? 61 : 7;
	struct rng r = { 3 };

	for (at = 0; at < meta; at += at < PORTAL_SUPER_SIZE ? 1 : 1 + below(&r, 2 * step)) {
		unsigned char was = f.base[at];

		f.base[at] ^= 1 << below(&r, 8);
		if (verdict_is_clean())
			fail_msg("byte %llu", (unsigned long long)at);
		f.base[at] = was;
	}
	assert_true(verdict_is_clean());
}

static void test_tokens(void **state)
{
	const uint64_t alive = 3ULL << 16 | FIX_SESSIONS;
	struct portal_super *s = &f.good;

	assert_int_equal(layout_token(f.base, s, alive), TOKEN_ALIVE);
	assert_int_equal(layout_token(f.base, s, alive + 1), TOKEN_DEAD);
	assert_int_equal(layout_token(f.base, s, alive - (1 << 16)), TOKEN_DEAD);
	assert_int_equal(layout_token(f.base, s, alive + (1 << 16)), TOKEN_NEVER);
	assert_int_equal(layout_token(f.base, s, 0), TOKEN_NEVER);
	assert_int_equal(layout_token(f.base, s, FIX_SESSIONS), TOKEN_NEVER);
	assert_int_equal(layout_token(f.base, s, 1ULL << 16 | 64), TOKEN_NEVER);
	/* A verdict on its machine, and a new claim, are its death; suspicion is not. */
	f.peer[1].suspect = GUEST_CLAIM;
	assert_int_equal(layout_token(f.base, s, alive), TOKEN_ALIVE);
	f.peer[1].dead = GUEST_CLAIM;
	assert_int_equal(layout_token(f.base, s, alive), TOKEN_DEAD);
	f.peer[1].dead = GUEST_CLAIM - 1;
	assert_int_equal(layout_token(f.base, s, alive), TOKEN_ALIVE);
	f.peer[1].claim++;
	assert_int_equal(layout_token(f.base, s, alive), TOKEN_DEAD);
}

/* A superblock whose writer was cut off at any word is never believed. */
static void test_cut_off(void **state)
{
	struct portal_super copy;
	size_t n;

	for (n = 8; n < PORTAL_SUPER_SIZE; n += 8) {
		memset(f.base, 0, PORTAL_SUPER_SIZE);
		f.s->magic = PORTAL_MAGIC_FORMATTING;
		memcpy(f.base + 8, (char *)&f.good + 8, n - 8);
		assert_int_equal(layout_parse(f.base, FIX_SIZE, &copy, NULL, NULL), -EUCLEAN);
		f.s->magic = PORTAL_MAGIC;
		/* The good one's last bytes are zero, so that its end is there earlier. */
		if (memcmp(f.base, &f.good, PORTAL_SUPER_SIZE))
			assert_int_not_equal(layout_parse(f.base, FIX_SIZE, &copy, NULL, NULL), 0);
	}
}

/* An area that begins within its part and ends beyond it. */
static void test_beyond(void **state)
{
	static const unsigned int areas[] = { PORTAL_AREA_SESSIONS, PORTAL_AREA_USES, PORTAL_AREA_DATA };
	struct portal_super copy;
	size_t i;

	for (i = 0; i < 3; i++) {
		struct portal_area *a;

		fix_format(&f);
		a = &f.s->area[areas[i]];
		if (areas[i] == PORTAL_AREA_SESSIONS)
			a->offset = f.s->protected_size - 4096;
		else if (areas[i] == PORTAL_AREA_USES)
			a->count = 65536;	/* over the hints and the data */
		else
			a->count++;
		a->length = (uint64_t)a->stride * a->count;
		fix_seal(&f);
		assert_int_equal(layout_parse(f.base, FIX_SIZE, &copy, NULL, NULL), -EUCLEAN);
	}
}

/* Who decided on what is not there any more changes nothing. */
static void test_two_formatters(void **state)
{
	struct portal_super s = { .incarnation = 9, .uuid = { 9 } };
	char *before = malloc(FIX_SIZE);

	memcpy(before, f.base, FIX_SIZE);
	assert_int_equal(layout_plan(&s, FIX_SIZE, 0, 0, 0), 0);
	assert_int_equal(layout_write(f.base, &s, 0), -EBUSY);
	assert_memory_equal(before, f.base, FIX_SIZE);
	assert_int_equal(layout_write(f.base, &s, PORTAL_MAGIC), 0);
	assert_memory_not_equal(before, f.base, PORTAL_SUPER_SIZE);
	free(before);
}

static void test_features(void **state)
{
	struct portal_super copy;

	f.s->incompat = 1ULL << 5;
	fix_seal(&f);
	assert_int_equal(layout_parse(f.base, FIX_SIZE, &copy, NULL, NULL), -EPROTONOSUPPORT);
	assert_int_equal(copy.incompat, 1ULL << 5);
	/* Compatible ones are ignored, and may have an area of their own. */
	f.s->incompat = 0;
	f.s->compat = 1ULL << 5;
	f.s->area[7].offset = f.good.protected_size - 4096;
	f.s->area[7].length = f.s->area[7].stride = 4096;
	f.s->area[7].count = 1;
	f.base[f.good.protected_size - 1] = 1;
	fix_seal(&f);
	assert_true(verdict_is_clean());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crc),
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_plans),
		cmocka_unit_test(test_smallest),
		cmocka_unit_test(test_clean),
		cmocka_unit_test(test_half_a_change),
		cmocka_unit_test(test_hubs),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_damages),
		cmocka_unit_test_setup(test_busy, populated),
		cmocka_unit_test_setup(test_joining, populated),
		cmocka_unit_test_setup(test_every_byte, fresh),
		cmocka_unit_test_setup(test_tokens, populated),
		cmocka_unit_test_setup(test_cut_off, fresh),
		cmocka_unit_test_setup(test_features, fresh),
		cmocka_unit_test(test_beyond),
		cmocka_unit_test_setup(test_two_formatters, fresh),
	};
	int ret;

	fix_new(&f);
	ret = cmocka_run_group_tests(tests, NULL, NULL);
	free(f.base);
	return ret;
}
