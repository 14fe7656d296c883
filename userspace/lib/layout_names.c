// SPDX-License-Identifier: MIT
/* What can be wrong with the directory of a managed portal. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <vmportal_ring.h>

#include "layout_check.h"

/* ---- The lock and the change that is under way -------------------------------- */

#define AT(member) offsetof(struct portal_directory, member)

static void judge_lock(struct check *c, const struct portal_directory *d)
{
	const struct portal_lock *l = &d->lock;
	unsigned int i;

	if (l->owner && check_token(c, DAMAGE_LOCK_OWNER, AT(lock.owner), l->owner) &&
	    layout_token(c->base, &c->s, l->owner) == TOKEN_DEAD)
		check_found(c, DAMAGE_NOTE_LOCK, AT(lock.owner), l->owner);
	if (l->previous)
		check_token(c, DAMAGE_LOCK_PREVIOUS, AT(lock.previous), l->previous);
	for (i = 0; i < 8; i++)
		if (l->waiter[i])
			check_token(c, DAMAGE_LOCK_WAITER, AT(lock.waiter) + 8 * i, l->waiter[i]);
	if (l->flags & ~(PORTAL_LOCK_BROKEN | PORTAL_LOCK_REPAIR))
		check_found(c, DAMAGE_LOCK_FLAGS, AT(lock.flags), l->flags);
	else if (l->flags & PORTAL_LOCK_BROKEN)
		check_found(c, DAMAGE_LOCK_BROKEN, AT(lock.flags), l->flags);
	check_zero(c, DAMAGE_LOCK_RESERVED, d, AT(lock.reserved0), AT(lock.waiter));
	check_zero(c, DAMAGE_LOCK_RESERVED, d, AT(lock.reserved1), AT(generation));
}

static bool redo_target(const struct portal_super *s, uint64_t offset)
{
	unsigned int a;

	for (a = PORTAL_AREA_OBJECTS; a <= PORTAL_AREA_USES; a++)
		if (offset >= s->area[a].offset && offset - s->area[a].offset < s->area[a].length)
			return !(offset % 8);
	return false;
}

bool layout_redo_is_good(const struct portal_super *s, const struct portal_redo *r,
			 uint64_t generation)
{
	uint32_t i;

	if (!r->state || (r->state != generation && r->state != (generation | 1) + 1) ||
	    !r->count || r->count > PORTAL_REDO_STORES || layout_redo_checksum(r) != r->checksum)
		return false;
	for (i = 0; i < r->count; i++)
		if (!redo_target(s, r->store[i].offset))
			return false;
	return true;
}

static void judge_redo(struct check *c, const struct portal_directory *d)
{
	const struct portal_redo *r = &d->redo;
	uint32_t i;

	check_zero(c, DAMAGE_REDO_RESERVED, d, AT(redo.reserved), AT(redo.store));
	if (!r->state)
		return;
	if (!d->lock.owner)
		check_found(c, DAMAGE_REDO_ORPHAN, AT(redo.state), r->state);
	/* It is what the generation is until the record is cleared. */
	if (r->state != d->generation && r->state != (d->generation | 1) + 1)
		check_found(c, DAMAGE_REDO_STATE, AT(redo.state), r->state);
	if (!r->count || r->count > PORTAL_REDO_STORES) {
		check_found(c, DAMAGE_REDO_COUNT, AT(redo.count), r->count);
		return;
	}
	if (layout_redo_checksum(r) != r->checksum)
		check_found(c, DAMAGE_REDO_CHECKSUM, AT(redo.checksum), r->checksum);
	for (i = 0; i < r->count; i++)
		if (!redo_target(&c->s, r->store[i].offset)) {
			check_found(c, DAMAGE_REDO_STORE, AT(redo.store) + i * sizeof(r->store[0]),
				    r->store[i].offset);
			return;
		}
}

void check_judge_directory(struct check *c, const void *row)
{
	const struct portal_directory *d = row;
	unsigned int i;

	c->index = UINT32_MAX;
	if (!c->ever) {
		check_zero(c, DAMAGE_DIRECTORY_EMPTY, d, 0, sizeof(*d));
		return;
	}
	judge_lock(c, d);
	if (d->generation & 1 && !d->lock.owner)
		check_found(c, DAMAGE_DIRECTORY_GENERATION, AT(generation), d->generation);
	for (i = 0; i < 32; i++)
		if (d->watcher[i])
			check_token(c, DAMAGE_DIRECTORY_WATCHER, AT(watcher) + 8 * i, d->watcher[i]);
	check_zero(c, DAMAGE_DIRECTORY_RESERVED, d, AT(reserved0), AT(watcher));
	check_zero(c, DAMAGE_DIRECTORY_RESERVED, d, AT(reserved1), AT(redo));
	check_zero(c, DAMAGE_DIRECTORY_RESERVED, d, AT(reserved2), sizeof(*d));
	judge_redo(c, d);
}

#undef AT

/* ---- Objects ------------------------------------------------------------------ */

#define AT(member) offsetof(struct portal_object, member)

bool layout_is_name(const char *name)
{
	return layout_is_text(name, PORTAL_LAYOUT_NAME) && name[0] &&
	       !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

bool layout_object_place(const struct portal_super *s, const struct portal_object *o)
{
	const struct portal_area *d = &s->area[PORTAL_AREA_DATA];

	return o->length && !(o->offset % PORTAL_UNIT) && !(o->length % PORTAL_UNIT) &&
	       o->offset >= d->offset && o->offset - d->offset < d->length &&
	       o->length <= d->length - (o->offset - d->offset);
}

/* The numbers of a channel by name fit each other and the object. */
static bool object_hub(const struct portal_object *o)
{
	uint64_t size = layout_hub_size(o->param[0], o->param[1]);

	return size && size <= o->size;
}

static void judge_object(struct check *c, const struct portal_object *o)
{
	bool known = o->kind == PORTAL_KIND_RAW || o->kind == PORTAL_KIND_CHANNEL;

	if (!known && !(c->s.compat & ~PORTAL_COMPAT_KNOWN))
		check_found(c, DAMAGE_OBJECT_KIND, AT(kind), o->kind);
	if (!layout_object_place(&c->s, o))
		check_found(c, DAMAGE_OBJECT_PLACE, AT(offset), o->offset);
	if (o->size > o->length)
		check_found(c, DAMAGE_OBJECT_SIZE, AT(size), o->size);
	if (o->mode > 0777 || o->flags & ~PORTAL_OBJECT_EPHEMERAL)
		check_found(c, DAMAGE_OBJECT_MODE, AT(mode), o->mode);
	check_token(c, DAMAGE_OBJECT_CREATOR, AT(creator), o->creator);
	if (o->kind == PORTAL_KIND_RAW) {
		check_zero(c, DAMAGE_OBJECT_PARAM, o, AT(format), AT(offset));
		check_zero(c, DAMAGE_OBJECT_PARAM, o, AT(param), AT(name));
	} else if (o->kind == PORTAL_KIND_CHANNEL && o->format == PORTAL_HUB_FORMAT) {
		if (!object_hub(o))
			check_found(c, DAMAGE_OBJECT_PARAM, AT(param), o->param[0]);
		check_zero(c, DAMAGE_OBJECT_PARAM, o, AT(param) + 16, AT(name));
	}
	if (!layout_is_name(o->name))
		check_found(c, DAMAGE_OBJECT_NAME, AT(name), 0);
	check_zero(c, DAMAGE_OBJECT_RESERVED, o, AT(reserved), sizeof(*o));
}

void check_judge_object(struct check *c, const void *row)
{
	const struct portal_object *o = row;
	uint32_t state = life_low(o->life);

	/* Before its first use a row may be prepared by the lock's holder. */
	if (!o->life) {
		if (!c->ever)
			check_zero(c, DAMAGE_OBJECT_EMPTY, o, 0, sizeof(*o));
		return;
	}
	if (!c->ever || !life_sequence(o->life) || !state || state > PORTAL_OBJECT_FREE)
		check_found(c, DAMAGE_OBJECT_LIFE, AT(life), o->life);
	else if (layout_object_lives(o->life))
		judge_object(c, o);
}

void check_judge_use(struct check *c, const void *row)
{
	const struct portal_use *u = row;
	struct portal_object o = { .life = 0 };

	if (!u->object) {
		check_zero(c, DAMAGE_USE_EMPTY, u, 0, sizeof(*u));
		return;
	}
	if (life_low(u->object) < c->s.area[PORTAL_AREA_OBJECTS].count)
		check_read(c, PORTAL_AREA_OBJECTS, life_low(u->object), &o, sizeof(o), 0);
	if (!layout_object_lives(o.life) || life_sequence(o.life) != life_sequence(u->object))
		check_found(c, DAMAGE_USE_OBJECT, offsetof(struct portal_use, object), u->object);
	if (check_token(c, DAMAGE_USE_TOKEN, offsetof(struct portal_use, token), u->token) &&
	    layout_token(c->base, &c->s, u->token) == TOKEN_DEAD)
		check_found(c, DAMAGE_NOTE_USE, offsetof(struct portal_use, token), u->token);
	check_zero(c, DAMAGE_USE_RESERVED, u, offsetof(struct portal_use, flags), sizeof(*u));
}

/* ---- Objects beside each other -------------------------------------------------- */

struct item {
	uint64_t life, offset, length;
	char name[64];
	uint32_t row;
	bool used, lasts;
};

static int by_offset(const void *a, const void *b)
{
	const struct item *x = a, *y = b;

	return x->offset != y->offset ? (x->offset > y->offset) - (x->offset < y->offset) :
	       (x->row > y->row) - (x->row < y->row);
}

static int by_name(const void *a, const void *b)
{
	const struct item *x = a, *y = b;
	int d = memcmp(x->name, y->name, sizeof(x->name));

	return d ? d : (x->row > y->row) - (x->row < y->row);
}

static int by_row(const void *a, const void *b)
{
	const struct item *x = a, *y = b;

	return (x->row > y->row) - (x->row < y->row);
}

static void item_found(struct check *c, enum layout_damage id, const struct item *it, size_t at,
		       uint64_t value)
{
	c->index = it->row;
	c->at = c->s.area[PORTAL_AREA_OBJECTS].offset + (uint64_t)it->row * sizeof(struct portal_object);
	check_found(c, id, at, value);
	check_flush(c);
}

/* Those of the objects that can be compared; how many. */
static size_t collect(struct check *c, struct item *it)
{
	struct portal_object o;
	struct portal_use u;
	struct item *hit, key;
	size_t n = 0;
	uint32_t i;

	for (i = 0; i < c->s.area[PORTAL_AREA_OBJECTS].count; i++) {
		check_read(c, PORTAL_AREA_OBJECTS, i, &o, sizeof(o), 0);
		if (!layout_object_lives(o.life) || !layout_object_place(&c->s, &o))
			continue;
		it[n] = (struct item) { .life = o.life, .offset = o.offset, .length = o.length, .row = i,
					.lasts = life_low(o.life) == PORTAL_OBJECT_NAMED &&
						 !(o.flags & PORTAL_OBJECT_EPHEMERAL) };
		memcpy(it[n++].name, o.name, sizeof(o.name));
	}
	for (i = 0; i < c->s.area[PORTAL_AREA_USES].count; i++) {
		check_read(c, PORTAL_AREA_USES, i, &u, sizeof(u), 0);
		key.row = life_low(u.object);
		hit = u.object ? bsearch(&key, it, n, sizeof(*it), by_row) : NULL;
		if (hit && life_sequence(hit->life) == life_sequence(u.object))
			hit->used = true;
	}
	return n;
}

static void compare(struct check *c, struct item *it, size_t n)
{
	const struct item *last = NULL;
	uint64_t end = 0;
	size_t i;

	for (i = 0; i < n; i++)
		if (!it[i].lasts && !it[i].used)
			item_found(c, DAMAGE_NOTE_OBJECT, &it[i], AT(life), it[i].life);
	qsort(it, n, sizeof(*it), by_offset);
	for (i = 0; i < n; i++) {
		if (it[i].offset < end)
			item_found(c, DAMAGE_OBJECT_OVERLAP, &it[i], AT(offset), it[i].offset);
		if (it[i].offset + it[i].length > end)
			end = it[i].offset + it[i].length;
	}
	qsort(it, n, sizeof(*it), by_name);
	for (i = 0; i < n; i++) {
		if (life_low(it[i].life) == PORTAL_OBJECT_UNLINKED)
			continue;
		if (last && !memcmp(it[i].name, last->name, sizeof(it->name)))
			item_found(c, DAMAGE_OBJECT_DUPLICATE, &it[i], AT(name), 0);
		last = &it[i];
	}
}

static uint64_t generation(const struct check *c)
{
	const struct portal_directory *d = layout_row(c->base, &c->s, PORTAL_AREA_DIRECTORY, 0);

	return __atomic_load_n(&d->generation, __ATOMIC_ACQUIRE);
}

int check_objects(struct check *c)
{
	struct item *it = calloc(c->s.area[PORTAL_AREA_OBJECTS].count, sizeof(*it));
	uint64_t before = 0, after = 1;
	unsigned int tries;
	size_t n = 0;

	if (!it)
		return -ENOMEM;
	c->where = "object";
	for (tries = 0; tries < 16 && before != after; tries++) {
		before = generation(c);
		n = collect(c, it);
		vmpr_full_fence();
		after = generation(c);
	}
	c->index = UINT32_MAX;
	c->at = c->s.area[PORTAL_AREA_DIRECTORY].offset;
	if (before != after)
		check_found(c, DAMAGE_NOTE_BUSY, offsetof(struct portal_directory, generation), after);
	else
		compare(c, it, n);
	check_flush(c);
	free(it);
	return 0;
}
