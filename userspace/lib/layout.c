// SPDX-License-Identifier: MIT
/*
 * A managed portal's superblock: planning, writing, believing; and how rows are read.
 */
#include <errno.h>
#include <string.h>

#include <vmportal_ring.h>	/* little-endian machines only; the fence */

#include "layout.h"

_Static_assert(sizeof(struct portal_area) == 24, "area");
_Static_assert(sizeof(struct portal_super) == PORTAL_SUPER_SIZE, "superblock");
_Static_assert(offsetof(struct portal_super, area) == 192, "superblock");
_Static_assert(sizeof(struct portal_peer) == 512, "peer");
_Static_assert(offsetof(struct portal_peer, life) == 128, "peer");
_Static_assert(offsetof(struct portal_peer, heartbeat) == 256, "peer");
_Static_assert(sizeof(struct portal_session) == 128, "session");
_Static_assert(sizeof(struct portal_lock) == 128, "lock");
_Static_assert(sizeof(struct portal_redo) == 1024, "redo");
_Static_assert(sizeof(struct portal_directory) == 4096, "directory");
_Static_assert(offsetof(struct portal_directory, redo) == 1024, "directory");
_Static_assert(sizeof(struct portal_object) == 256, "object");
_Static_assert(sizeof(struct portal_use) == 32, "use");

#define DEFAULT_PEERS		16U
#define DEFAULT_SESSIONS	64U
#define DEFAULT_OBJECTS		1024U
#define USES_PER_OBJECT		4U
#define MIN_USES		64U
#define FORMATTED_LOOKS		4	/* at what somebody makes another all the time */

uint32_t layout_crc32c(uint32_t crc, const void *data, size_t len)
{
	static const uint32_t nibble[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
		0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
		0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
		0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};
	const unsigned char *c = data;

	crc = ~crc;
	while (len--) {
		crc ^= *c++;
		crc = crc >> 4 ^ nibble[crc & 15];
		crc = crc >> 4 ^ nibble[crc & 15];
	}
	return ~crc;
}

uint32_t layout_super_checksum(const struct portal_super *s)
{
	static const unsigned char zero[4];
	const char *c = (const char *)s;
	size_t at = offsetof(struct portal_super, checksum);
	uint32_t crc = layout_crc32c(0, c, at);

	crc = layout_crc32c(crc, zero, sizeof(zero));
	return layout_crc32c(crc, c + at + 4, sizeof(*s) - at - 4);
}

/* r->count has been checked. */
uint32_t layout_redo_checksum(const struct portal_redo *r)
{
	uint32_t crc = layout_crc32c(0, &r->state, sizeof(r->state));

	crc = layout_crc32c(crc, &r->count, sizeof(r->count));
	return layout_crc32c(crc, r->store, r->count * sizeof(r->store[0]));
}

/* Bytes of the UTF-8 character at @c, 0 if it is none; @left bytes are there. */
static size_t utf8_length(const unsigned char *c, size_t left)
{
	size_t n = *c < 0x80 ? 1 : *c >> 5 == 6 ? 2 : *c >> 4 == 14 ? 3 : *c >> 3 == 30 ? 4 : 0;
	uint32_t v = *c & (n == 1 ? 0x7f : 0x7f >> n);
	size_t i;

	if (!n || n > left)
		return 0;
	for (i = 1; i < n; i++) {
		if (c[i] >> 6 != 2)
			return 0;
		v = v << 6 | (c[i] & 0x3f);
	}
	if (v < 0x20 || (v >= 0x7f && v < 0xa0) || v > 0x10ffff || (v >= 0xd800 && v < 0xe000))
		return 0;
	return n == 1 || v >= (n == 2 ? 0x80U : n == 3 ? 0x800U : 0x10000U) ? n : 0;
}

bool layout_is_text(const char *s, size_t size)
{
	size_t i = 0, n;

	while (i < size && s[i]) {
		n = utf8_length((const unsigned char *)s + i, size - i);
		if (!n)
			return false;
		i += n;
	}
	if (i == size)
		return false;
	for (; i < size; i++)
		if (s[i])
			return false;
	return true;
}

/* A word of shared memory, whatever structure it belongs to. */
typedef uint64_t __attribute__((may_alias)) shared_word;

/* ---- Planning and writing ---------------------------------------------------- */

static uint64_t round_up(uint64_t v, uint64_t to)
{
	return (v + to - 1) / to * to;
}

static uint64_t set_area(struct portal_super *s, unsigned int a, uint64_t at, uint32_t stride,
			 uint64_t count)
{
	s->area[a].offset = round_up(at, PORTAL_AREA_ALIGN);
	s->area[a].stride = stride;
	s->area[a].count = (uint32_t)count;
	s->area[a].length = stride * count;
	return s->area[a].offset + s->area[a].length;
}

static uint32_t pending_stride(uint32_t sessions)
{
	return (uint32_t)round_up((sessions + 7) / 8, 128);
}

/* A sixteenth of the region for sessions, if that gives each peer at least four. */
static uint32_t choose_sessions(uint64_t size, uint32_t peers)
{
	uint32_t n = DEFAULT_SESSIONS;

	while (n > 4 && (n * (uint64_t)peers > PORTAL_MAX_SESSIONS ||
			 n * (uint64_t)peers * sizeof(struct portal_session) > size / 16))
		n /= 2;
	return n;
}

int layout_plan(struct portal_super *s, uint64_t size, uint32_t peers, uint32_t sessions,
		uint32_t objects)
{
	uint64_t at, uses;

	size = size / PORTAL_UNIT * PORTAL_UNIT;
	peers = peers ? peers : DEFAULT_PEERS;
	if (peers > PORTAL_MAX_PEERS)
		return -EINVAL;
	sessions = sessions ? sessions : choose_sessions(size, peers);
	if (sessions > PORTAL_MAX_SESSIONS || sessions * (uint64_t)peers > PORTAL_MAX_SESSIONS)
		return -EINVAL;
	if (!objects) {
		objects = size / PORTAL_UNIT < DEFAULT_OBJECTS ? size / PORTAL_UNIT : DEFAULT_OBJECTS;
		objects = objects < 16 ? 16 : objects;
	}
	if (objects > PORTAL_MAX_OBJECTS)
		return -EINVAL;
	uses = (uint64_t)objects * USES_PER_OBJECT;
	uses = uses < MIN_USES ? MIN_USES : uses;

	s->version = PORTAL_LAYOUT_VERSION;
	s->peers = peers;
	s->sessions = sessions;
	at = set_area(s, PORTAL_AREA_PEERS, PORTAL_SUPER_SIZE, sizeof(struct portal_peer), peers);
	at = set_area(s, PORTAL_AREA_SESSIONS, at, sizeof(struct portal_session),
		      (uint64_t)peers * sessions);
	s->protected_size = round_up(at, PORTAL_UNIT);
	at = set_area(s, PORTAL_AREA_DIRECTORY, s->protected_size,
		      sizeof(struct portal_directory), 1);
	at = set_area(s, PORTAL_AREA_OBJECTS, at, sizeof(struct portal_object), objects);
	at = set_area(s, PORTAL_AREA_USES, at, sizeof(struct portal_use), uses);
	at = set_area(s, PORTAL_AREA_PENDING, at, pending_stride(sessions), peers);
	at = round_up(at, PORTAL_UNIT);
	if (at >= size || (size - at) / PORTAL_UNIT > UINT32_MAX)
		return -EFBIG;
	s->size = size;
	set_area(s, PORTAL_AREA_DATA, at, PORTAL_UNIT, (size - at) / PORTAL_UNIT);
	return 0;
}

int layout_write(void *base, struct portal_super *s, uint64_t was)
{
	shared_word *magic = base;

	if (!__atomic_compare_exchange_n(magic, &was, PORTAL_MAGIC_FORMATTING, false,
					 __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
		return -EBUSY;
	/* Who sees any of the stores below sees that it is being formatted. */
	vmpr_full_fence();
	s->magic = PORTAL_MAGIC;
	s->checksum = 0;
	s->checksum = layout_super_checksum(s);
	memset((char *)base + sizeof(*s), 0, layout_meta_size(s) - sizeof(*s));
	memcpy((char *)base + 8, (char *)s + 8, sizeof(*s) - 8);
	/* Who sees the magic sees all of the above. */
	__atomic_store_n(magic, PORTAL_MAGIC, __ATOMIC_RELEASE);
	return 0;
}

/* ---- Reading ----------------------------------------------------------------- */

void layout_copy(void *to, const void *from, size_t n)
{
	const shared_word *f = from;
	uint64_t word;
	size_t i;

	for (i = 0; i < n / 8; i++) {
		word = __atomic_load_n(&f[i], __ATOMIC_RELAXED);
		memcpy((char *)to + i * 8, &word, 8);
	}
}

/* Whether the checksum fits. */
static bool fits(const void *super)
{
	struct portal_super s;

	layout_copy(&s, super, sizeof(s));
	return layout_super_checksum(&s) == s.checksum;
}

/*
 * Whoever formats swaps the magic first, and stores it last. So if the magic is right after the
 * incarnation was read, all is there that goes with that one, unless it goes again: it may be
 * remembered that they do not fit. And then it is looked once more, for it may have gone. As
 * portal_layout_gone() in drivers/core/layout.c.
 */
bool layout_formatted(const void *super, uint64_t known, uint64_t *spoilt, unsigned int *sums)
{
	const shared_word *magic = super;
	const shared_word *at = magic + offsetof(struct portal_super, incarnation) / 8;
	uint64_t was = __atomic_load_n(magic, __ATOMIC_ACQUIRE), incarnation;
	unsigned int looks;

	for (looks = 0; looks < FORMATTED_LOOKS && was == PORTAL_MAGIC; looks++) {
		incarnation = __atomic_load_n(at, __ATOMIC_ACQUIRE);
		if (incarnation == known || (sums && !*sums) ||
		    incarnation == __atomic_load_n(spoilt, __ATOMIC_RELAXED))
			return false;
		was = __atomic_load_n(magic, __ATOMIC_ACQUIRE);
		if (was != PORTAL_MAGIC)
			break;
		if (fits(super))
			return true;
		__atomic_store_n(spoilt, incarnation, __ATOMIC_RELAXED);
		if (sums)
			--*sums;
		vmpr_full_fence();	/* no fence of less that all checkers know */
		was = __atomic_load_n(magic, __ATOMIC_ACQUIRE);
	}
	return was == PORTAL_MAGIC_FORMATTING;
}

void layout_read(void *to, const void *from, size_t n, size_t life_at)
{
	const shared_word *life = (const shared_word *)(const void *)((const char *)from + life_at);
	uint64_t before, after;
	int i;

	for (i = 0; i < 16; i++) {
		before = __atomic_load_n(life, __ATOMIC_ACQUIRE);
		layout_copy(to, from, n);
		vmpr_full_fence();	/* no fence of less that all checkers know */
		after = __atomic_load_n(life, __ATOMIC_RELAXED);
		memcpy((char *)to + life_at, &after, sizeof(after));
		if (before == after)
			return;
	}
}

bool layout_lives(void *base, const struct portal_super *s, uint32_t address)
{
	const struct portal_peer *p;
	uint64_t claim;
	uint32_t i;

	for (i = 0; i < s->peers; i++) {
		p = layout_row(base, s, PORTAL_AREA_PEERS, i);
		claim = __atomic_load_n(&p->claim, __ATOMIC_ACQUIRE);
		/* Pairs with the verdict: who sees it sees what was stored before. */
		if (claim && claim_address(claim) == address &&
		    __atomic_load_n(&p->dead, __ATOMIC_ACQUIRE) != claim)
			return true;
	}
	return false;
}

enum layout_token layout_token(void *base, const struct portal_super *s, uint64_t token)
{
	struct portal_peer p;

	return layout_token_of(base, s, token, &p);
}

enum layout_token layout_token_of(void *base, const struct portal_super *s, uint64_t token,
				  struct portal_peer *p)
{
	struct portal_session ss;
	uint32_t slot = life_low(token);

	if (slot >= s->area[PORTAL_AREA_SESSIONS].count || !life_sequence(token))
		return TOKEN_NEVER;
	layout_read(&ss, layout_row(base, s, PORTAL_AREA_SESSIONS, slot), sizeof(ss), 0);
	if (life_sequence(ss.life) < life_sequence(token))
		return TOKEN_NEVER;
	if (life_sequence(ss.life) > life_sequence(token) || life_low(ss.life) != PORTAL_LIFE_ALIVE)
		return TOKEN_DEAD;
	layout_copy(p, layout_row(base, s, PORTAL_AREA_PEERS, slot / s->sessions), sizeof(*p));
	/* Who sees the verdict sees what was stored before it: tests/model/weak/token.litmus. */
	vmpr_full_fence();
	return ss.claim == p->claim && ss.claim != p->dead ? TOKEN_ALIVE : TOKEN_DEAD;
}

/* ---- Believing a superblock -------------------------------------------------- */

struct parse {
	const struct portal_super *s;
	uint64_t size;
	layout_finding_fn fn;
	void *arg;
	bool damaged;	/* something is wrong */
	bool lost;	/* and its places cannot be relied on */
};

static void found(struct parse *p, enum layout_damage id, uint64_t offset, uint64_t value)
{
	struct layout_finding f = {
		.id = id, .where = "superblock", .index = UINT32_MAX, .offset = offset, .value = value,
	};

	if (id == DAMAGE_AREA_PLACE || id == DAMAGE_AREA_SHAPE || id == DAMAGE_AREA_UNKNOWN) {
		f.where = "area";
		f.index = (uint32_t)((offset - offsetof(struct portal_super, area)) /
				     sizeof(struct portal_area));
	}
	p->damaged = true;
	if (p->fn)
		p->fn(p->arg, &f);
}

static void lost(struct parse *p, enum layout_damage id, uint64_t offset, uint64_t value)
{
	found(p, id, offset, value);
	p->lost = true;
}

#define AT(member) offsetof(struct portal_super, member)

static void parse_texts(struct parse *p)
{
	static const __u8 none[16];
	const struct portal_super *s = p->s;
	size_t i;

	if (!s->incarnation)
		found(p, DAMAGE_SUPER_INCARNATION, AT(incarnation), 0);
	if (!memcmp(s->uuid, none, sizeof(none)))
		found(p, DAMAGE_SUPER_UUID, AT(uuid), 0);
	if (!layout_is_text(s->name, sizeof(s->name)))
		found(p, DAMAGE_SUPER_NAME, AT(name), 0);
	if (!layout_is_text(s->creator, sizeof(s->creator)))
		found(p, DAMAGE_SUPER_CREATOR, AT(creator), 0);
	if (s->compat & ~PORTAL_COMPAT_KNOWN)
		return;		/* of features that are ignored here */
	for (i = 0; i < sizeof(s->reserved0); i++)
		if (s->reserved0[i]) {
			found(p, DAMAGE_SUPER_RESERVED, AT(reserved0) + i, s->reserved0[i]);
			return;
		}
	for (i = 0; i < sizeof(s->reserved1); i++)
		if (s->reserved1[i]) {
			found(p, DAMAGE_SUPER_RESERVED, AT(reserved1) + i, s->reserved1[i]);
			return;
		}
}

/* The row size that area @a has in version 1, and the highest number of rows. */
static uint32_t area_shape(const struct portal_super *s, unsigned int a, uint32_t *max)
{
	static const struct { uint32_t stride, max; } shape[PORTAL_AREAS] = {
		{ sizeof(struct portal_peer), PORTAL_MAX_PEERS },
		{ sizeof(struct portal_session), PORTAL_MAX_SESSIONS },
		{ sizeof(struct portal_directory), 1 },
		{ sizeof(struct portal_object), PORTAL_MAX_OBJECTS },
		{ sizeof(struct portal_use), PORTAL_MAX_USES },
		{ 0, PORTAL_MAX_PEERS },
		{ PORTAL_UNIT, UINT32_MAX },
	};

	*max = shape[a].max;
	return a == PORTAL_AREA_PENDING ? pending_stride(s->sessions) : shape[a].stride;
}

/*
 * Areas follow each other in the order of their numbers. Nothing below overflows: an
 * offset is compared with the size before anything is added to it, and a length is the
 * product of two 32-bit numbers.
 */
static void parse_areas(struct parse *p)
{
	const struct portal_super *s = p->s;
	uint64_t end = PORTAL_SUPER_SIZE, at, low, high;
	uint32_t stride, max;
	unsigned int a;

	for (a = 0; a < PORTAL_AREAS; a++) {
		const struct portal_area *r = &s->area[a];

		at = AT(area) + a * sizeof(*r);
		stride = area_shape(s, a, &max);
		if (r->stride != stride || !r->count || r->count > max ||
		    r->length != (uint64_t)r->stride * r->count) {
			lost(p, DAMAGE_AREA_SHAPE, at, r->count);
			return;
		}
		low = a <= PORTAL_AREA_SESSIONS ? 0 : s->protected_size;
		high = a <= PORTAL_AREA_SESSIONS ? s->protected_size : s->size;
		if (r->offset < end || r->offset < low || r->offset > high ||
		    r->length > high - r->offset ||
		    r->offset % (a == PORTAL_AREA_DATA ? PORTAL_UNIT : PORTAL_AREA_ALIGN)) {
			lost(p, DAMAGE_AREA_PLACE, at, r->offset);
			return;
		}
		end = r->offset + r->length;
	}
	if (s->compat & ~PORTAL_COMPAT_KNOWN)
		return;		/* areas of features that are ignored here */
	for (; a < PORTAL_AREA_SLOTS; a++)
		if (s->area[a].offset || s->area[a].length || s->area[a].stride || s->area[a].count)
			found(p, DAMAGE_AREA_UNKNOWN, AT(area) + a * sizeof(s->area[0]),
			      s->area[a].offset);
}

static void parse_places(struct parse *p)
{
	const struct portal_super *s = p->s;

	if (s->size > p->size || s->size % PORTAL_UNIT || s->size < PORTAL_LAYOUT_MIN) {
		lost(p, DAMAGE_SUPER_SIZE, AT(size), s->size);
		return;
	}
	if (s->protected_size % PORTAL_UNIT || !s->protected_size || s->protected_size >= s->size) {
		lost(p, DAMAGE_SUPER_PROTECTED, AT(protected_size), s->protected_size);
		return;
	}
	/* Within their ranges neither product overflows. */
	if (!s->peers || s->peers > PORTAL_MAX_PEERS || !s->sessions ||
	    s->sessions > PORTAL_MAX_SESSIONS ||
	    s->peers != s->area[PORTAL_AREA_PEERS].count ||
	    s->peers != s->area[PORTAL_AREA_PENDING].count ||
	    (uint64_t)s->peers * s->sessions != s->area[PORTAL_AREA_SESSIONS].count) {
		lost(p, DAMAGE_SUPER_COUNTS, AT(peers), s->peers);
		return;
	}
	parse_areas(p);
}

/* 0 if there is a superblock to look at, whatever its state. */
static int parse_magic(struct parse *p, struct portal_super *s)
{
	uint64_t was = s->magic;

	if (was == PORTAL_MAGIC)
		return 0;
	if (was == PORTAL_MAGIC_FORMATTING) {
		lost(p, DAMAGE_FORMATTING, 0, was);
		return -EUCLEAN;
	}
	s->magic = PORTAL_MAGIC;
	if (layout_super_checksum(s) == s->checksum) {
		found(p, DAMAGE_SUPER_MAGIC, 0, was);
		return 0;
	}
	s->magic = was;
	return -ENODATA;
}

int layout_parse(const void *super, uint64_t size, struct portal_super *s,
		 layout_finding_fn fn, void *arg)
{
	struct parse p = { .s = s, .size = size, .fn = fn, .arg = arg };
	int ret;

	memset(s, 0, sizeof(*s));
	if (size < PORTAL_LAYOUT_MIN)
		return -ENODATA;
	layout_read(s, super, sizeof(*s), 0);
	ret = parse_magic(&p, s);
	if (ret)
		return ret;
	if (layout_super_checksum(s) != s->checksum)
		found(&p, DAMAGE_SUPER_CHECKSUM, AT(checksum), s->checksum);
	if (s->version != PORTAL_LAYOUT_VERSION) {
		lost(&p, DAMAGE_SUPER_VERSION, AT(version), s->version);
		return -EUCLEAN;
	}
	/* Whoever knows the feature knows what else is different; a bad checksum knows nothing. */
	if (s->incompat & ~PORTAL_INCOMPAT_KNOWN && !p.damaged)
		return -EPROTONOSUPPORT;
	parse_texts(&p);
	parse_places(&p);
	if (p.lost)
		return -EUCLEAN;
	return p.damaged ? -EREMCHG : 0;
}
