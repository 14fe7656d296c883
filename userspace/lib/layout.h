/* SPDX-License-Identifier: MIT */
/*
 * A managed portal's bytes (linux/portal_layout.h, portal-layout(5)): laying them out,
 * believing them, finding what is wrong with them. On plain memory, without a portal and
 * without texts for users, so that the library and portald share it.
 *
 * The region is hostile. What is read of it is copied first, once; a superblock that
 * layout_parse() has accepted is such a copy, and what it says about places is true of
 * a region of the size that was given: no row of it lies outside.
 */
#ifndef VMP_LAYOUT_H
#define VMP_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/portal_layout.h>

/* What can be wrong: the name that users see, and a sentence. In the order of the man page. */
#define LAYOUT_DAMAGES(D) \
	D(FORMATTING, "format-unfinished", "somebody formats it now, or was cut off: format it again") \
	D(SUPER_MAGIC, "superblock-magic", "the first eight bytes are not VMPORTAL; the rest is in order") \
	D(SUPER_CHECKSUM, "superblock-checksum", "its checksum does not fit its bytes") \
	D(SUPER_VERSION, "superblock-version", "not a version of the layout that is known here") \
	D(SUPER_SIZE, "superblock-size", "more than the region has, or not whole units of 64 KiB") \
	D(SUPER_PROTECTED, "superblock-protected", "the protected part is not whole units of 64 KiB within the region") \
	D(SUPER_INCARNATION, "superblock-incarnation", "is 0") \
	D(SUPER_UUID, "superblock-uuid", "is all 0") \
	D(SUPER_NAME, "superblock-name", "not a zero-padded text") \
	D(SUPER_CREATOR, "superblock-creator", "not a zero-padded text") \
	D(SUPER_COUNTS, "superblock-counts", "a number of rows that cannot be, or not that of the area") \
	D(SUPER_RESERVED, "superblock-reserved", "a reserved byte is not 0") \
	D(AREA_PLACE, "area-place", "not aligned, not behind the area before it, or beyond the end") \
	D(AREA_SHAPE, "area-shape", "row size, count and length do not fit each other or this version") \
	D(AREA_UNKNOWN, "area-unknown", "an area that this version does not have") \
	D(GAP, "gap", "a byte that belongs to no area is not 0") \
	D(PEER_EMPTY, "peer-empty", "nobody ever used the row, but it is not all 0") \
	D(PEER_LIFE, "peer-life", "no such state, or not with this sequence") \
	D(PEER_JOINING, "peer-joining", "somebody has begun to join and does not go on") \
	D(PEER_CLAIM, "peer-claim", "it lives without a claim, or the claim is malformed") \
	D(PEER_VERDICT, "peer-verdict", "a verdict that names no claim, or a reason without one") \
	D(PEER_INCARNATION, "peer-incarnation", "is 0") \
	D(PEER_KIND, "peer-kind", "not a kind of peer, or not one for this slot") \
	D(PEER_NOTICE, "peer-notice", "a vector that it does not have") \
	D(PEER_NAME, "peer-name", "not a zero-padded text") \
	D(PEER_RESERVED, "peer-reserved", "a reserved byte is not 0") \
	D(PEER_DUPLICATE, "peer-duplicate", "another row that lives has the same doorbell address") \
	D(SESSION_EMPTY, "session-empty", "nobody ever used the row, but it is not all 0") \
	D(SESSION_LIFE, "session-life", "no such state, or not with this sequence") \
	D(SESSION_JOINING, "session-joining", "a session was begun and does not go on") \
	D(SESSION_CLAIM, "session-claim", "malformed: it names no life of a machine") \
	D(SESSION_PEER, "session-peer", "its machine's row was never used") \
	D(SESSION_ADDRESS, "session-address", "not the doorbell address of its machine") \
	D(SESSION_VECTOR, "session-vector", "a vector that its machine does not have") \
	D(SESSION_NAME, "session-name", "not a zero-padded text") \
	D(SESSION_RESERVED, "session-reserved", "a reserved byte is not 0") \
	D(DIRECTORY_EMPTY, "directory-empty", "there was never a session, but it is not all 0") \
	D(DIRECTORY_RESERVED, "directory-reserved", "a reserved byte is not 0") \
	D(DIRECTORY_GENERATION, "directory-generation", "odd, as during a change, but nobody holds the lock") \
	D(DIRECTORY_WATCHER, "directory-watcher", "a token that was never given out") \
	D(LOCK_OWNER, "lock-owner", "a token that was never given out") \
	D(LOCK_PREVIOUS, "lock-previous", "a token that was never given out") \
	D(LOCK_WAITER, "lock-waiter", "a token that was never given out") \
	D(LOCK_FLAGS, "lock-flags", "unknown flags") \
	D(LOCK_BROKEN, "lock-broken", "an owner died and nobody could repair what it protects") \
	D(LOCK_RESERVED, "lock-reserved", "a reserved byte is not 0") \
	D(REDO_ORPHAN, "redo-orphan", "a change is under way, but nobody holds the lock") \
	D(REDO_STATE, "redo-state", "not the generation that comes next") \
	D(REDO_COUNT, "redo-count", "no store, or more than there is room for") \
	D(REDO_CHECKSUM, "redo-checksum", "its checksum does not fit its stores") \
	D(REDO_STORE, "redo-store", "a store outside objects and uses, or not to a multiple of 8") \
	D(REDO_RESERVED, "redo-reserved", "a reserved byte is not 0") \
	D(OBJECT_EMPTY, "object-empty", "nobody ever used the row, but it is not all 0") \
	D(OBJECT_LIFE, "object-life", "no such state, or not with this sequence") \
	D(OBJECT_KIND, "object-kind", "not a kind of object") \
	D(OBJECT_PLACE, "object-place", "not whole units of 64 KiB within the data") \
	D(OBJECT_SIZE, "object-size", "more bytes than it has room for") \
	D(OBJECT_MODE, "object-mode", "more than 0777, or unknown flags") \
	D(OBJECT_CREATOR, "object-creator", "a token that was never given out") \
	D(OBJECT_PARAM, "object-param", "a parameter that its kind does not have") \
	D(OBJECT_NAME, "object-name", "no name: empty, not zero-padded text, with a '/', '.' or '..'") \
	D(OBJECT_RESERVED, "object-reserved", "a reserved byte is not 0") \
	D(OBJECT_DUPLICATE, "object-duplicate", "another object has the same name") \
	D(OBJECT_OVERLAP, "object-overlap", "another object has some of the same bytes") \
	D(USE_EMPTY, "use-empty", "the row is free, but not all 0") \
	D(USE_OBJECT, "use-object", "there is no such object") \
	D(USE_TOKEN, "use-token", "a token that was never given out") \
	D(USE_RESERVED, "use-reserved", "unknown flags, or a reserved byte is not 0") \
	D(PENDING, "pending", "a hint for a session that there never was") \
	/* From here on: leftovers, which the next user clears away. */ \
	D(NOTE_PEER, "peer-left", "proven dead; the row is free for the next") \
	D(NOTE_SESSION, "session-left", "its machine is gone; so is it") \
	D(NOTE_LOCK, "lock-left", "its owner is dead; the next locker finishes what it began") \
	D(NOTE_OBJECT, "object-left", "nobody has it open, and it has no name that lasts; the next change frees it") \
	D(NOTE_USE, "use-left", "its session is dead; the next change frees it") \
	D(NOTE_BUSY, "directory-busy", "it changed all the time: names and places were not compared")

#define LAYOUT_DAMAGE_ID(id, name, text) DAMAGE_##id,
enum layout_damage { LAYOUT_DAMAGES(LAYOUT_DAMAGE_ID) DAMAGE_COUNT };

/* From here on notes. */
#define DAMAGE_FIRST_NOTE	DAMAGE_NOTE_PEER

/**
 * struct layout_finding - one thing that is wrong
 * @id: what
 * @where: "superblock", "area", "peer" ...
 * @index: which of them: slot or row; UINT32_MAX: there is one only
 * @offset: byte of the region where it shows
 * @value: what stands there
 */
struct layout_finding {
	enum layout_damage id;
	const char *where;
	uint32_t index;
	uint64_t offset;
	uint64_t value;
};

const char *layout_damage_name(enum layout_damage id);
const char *layout_damage_text(enum layout_damage id);

static inline uint64_t life_sequence(uint64_t life)
{
	return life >> PORTAL_SLOT_BITS;
}

/* Of a life word the state, of a token the slot, of a use the row. */
static inline uint32_t life_low(uint64_t life)
{
	return life & 0xffff;
}

/* Of a claim; PORTAL_ADDRESS_NONE for who has none. */
static inline uint32_t claim_address(uint64_t claim)
{
	return (uint32_t)(claim >> 32) - 1;
}

/* Where the channel areas of a channel by name with so many lanes begin. */
static inline uint64_t layout_hub_areas(uint64_t lanes)
{
	uint64_t rows = sizeof(struct portal_hub) + lanes * sizeof(struct portal_hub_lane);

	return (rows + PORTAL_CHAN_ALIGN - 1) / PORTAL_CHAN_ALIGN * PORTAL_CHAN_ALIGN;
}

/* Bytes of one of them. */
static inline uint64_t layout_hub_area(uint64_t capacity)
{
	return 2 * PORTAL_CHAN_SIDE_SIZE + 2 * capacity;
}

/* Bytes of a channel by name; 0: there are none with such parameters. */
static inline uint64_t layout_hub_size(uint64_t lanes, uint64_t capacity)
{
	if (!lanes || lanes > PORTAL_HUB_LANES || capacity < PORTAL_HUB_CAPACITY_MIN ||
	    capacity > PORTAL_HUB_CAPACITY_MAX || capacity & (capacity - 1))
		return 0;
	return layout_hub_areas(lanes) + lanes * layout_hub_area(capacity);
}

uint32_t layout_crc32c(uint32_t crc, const void *data, size_t len);
uint32_t layout_super_checksum(const struct portal_super *s);
uint32_t layout_redo_checksum(const struct portal_redo *r);

/*
 * Whether @r, a copy, is a change that can be: it leads from @generation to the next, or
 * has just done so, and stores to objects and uses alone.
 */
bool layout_redo_is_good(const struct portal_super *s, const struct portal_redo *r,
			 uint64_t generation);

/* Whether an object with this life word has memory: being made, named, or unlinked. */
static inline bool layout_object_lives(uint64_t life)
{
	return life_low(life) >= PORTAL_OBJECT_MAKING && life_low(life) <= PORTAL_OBJECT_UNLINKED;
}

/* Whether @o, a copy, lies within the data. */
bool layout_object_place(const struct portal_super *s, const struct portal_object *o);

/* Whether @name, 64 bytes, is one that an object can have. */
bool layout_is_name(const char *name);

/* Whether @s is UTF-8 without control characters, and zeroes behind it to @size. */
bool layout_is_text(const char *s, size_t size);

/**
 * layout_plan() - work out where everything goes
 * @s: zeroed; its counts, areas and sizes are set
 * @size: of the region
 * @peers, @sessions, @objects: numbers of rows; 0: what fits the size
 *
 * -EINVAL: numbers that cannot be; -EFBIG: the region is too small for them.
 */
int layout_plan(struct portal_super *s, uint64_t size, uint32_t peers, uint32_t sessions,
		uint32_t objects);

/* Bytes before the data: what formatting overwrites. */
static inline uint64_t layout_meta_size(const struct portal_super *s)
{
	return s->area[PORTAL_AREA_DATA].offset;
}

/**
 * layout_write() - format
 * @base: the region, mapped for writing
 * @s: of layout_plan(), with incarnation, uuid and names; magic and checksum are made here
 * @was: the first eight bytes as the caller saw them when it decided
 *
 * -EBUSY: those bytes have changed since: somebody else writes.
 */
int layout_write(void *base, struct portal_super *s, uint64_t was);

typedef void (*layout_finding_fn)(void *arg, const struct layout_finding *f);

/**
 * layout_parse() - copy and check a superblock
 * @super: its 4096 bytes in the region
 * @size: of the region
 * @s: the copy; only if the result is 0 may it be believed
 * @fn: told what is wrong, once per damage; may be NULL
 *
 * 0; -ENODATA: not formatted; -EPROTONOSUPPORT: unknown incompatible features, see
 * @s->incompat; -EUCLEAN: damaged. -EREMCHG (to layout_check() only): damaged, but its
 * places can be relied on.
 */
int layout_parse(const void *super, uint64_t size, struct portal_super *s,
		 layout_finding_fn fn, void *arg);

/**
 * layout_formatted() - is the region being formatted, or was it since a superblock was believed?
 * @super: its 4096 bytes in the region
 * @known: the incarnation that was believed
 * @spoilt: where one is remembered that stood there in a superblock that is none; 0 at first
 * @sums: how many more checksums may be made, for others may write new incarnations all the
 *	time: with none left, none is believed. NULL: as many as it takes
 *
 * Only a superblock that is one says that it was; other words there change nothing.
 */
bool layout_formatted(const void *super, uint64_t known, uint64_t *spoilt, unsigned int *sums);

/* Copies @n bytes (a multiple of 8) that others may change, each word once. */
void layout_copy(void *to, const void *from, size_t n);

/* Address of row @i of area @a, which is below its count. */
static inline void *layout_row(void *base, const struct portal_super *s, unsigned int a,
			       uint32_t i)
{
	return (char *)base + s->area[a].offset + (uint64_t)i * s->area[a].stride;
}

/*
 * Copies a row with a life word at @life_at, as it was at one moment if that can be had
 * in a few tries.
 */
void layout_read(void *to, const void *from, size_t n, size_t life_at);

/* Is there a machine that lives, or sleeps, and has this doorbell address? */
bool layout_lives(void *base, const struct portal_super *s, uint32_t address);

/* How a token stands: */
enum layout_token { TOKEN_ALIVE, TOKEN_DEAD, TOKEN_NEVER };
enum layout_token layout_token(void *base, const struct portal_super *s, uint64_t token);
/* The same; @p: the machine's row as it was read for that, if it is alive. */
enum layout_token layout_token_of(void *base, const struct portal_super *s, uint64_t token,
				  struct portal_peer *p);

/**
 * layout_check() - find everything that is wrong
 * @base, @size: the region
 * @patience: how many times 20 ms to wait, in all, for those who are joining
 * @fn: told of each, notes included; called in order of offset within each table
 *
 * How many damages there are (notes do not count), or -ENODATA, -EPROTONOSUPPORT, -ENOMEM.
 * May run while others use the region.
 */
int layout_check(void *base, uint64_t size, unsigned int patience, layout_finding_fn fn, void *arg);

#endif /* VMP_LAYOUT_H */
