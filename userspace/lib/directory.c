// SPDX-License-Identifier: MIT
/*
 * The directory of a managed portal (portal-layout(5), "DIRECTORY";
 * tests/model/directory.pml): one lock, one record of the change that is being made.
 *
 * The record is written while its state is 0; with the state the change is decided. Whoever
 * holds the lock then stores it, as often as it takes: the holder, or, when that one is
 * dead, the next. So a change is made whole or not at all, whenever who makes it dies.
 *
 * What is there was written by others. Rows are copied, the copy is checked; the record of
 * a dead one is followed only if all of it is in order. Each loop is bounded by the
 * superblock's counts.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vmportal_ring.h>

#include "directory.h"

static uint64_t *word(__le64 *shared)
{
	return (uint64_t *)shared;
}

struct portal_object *dir_object(const struct dir *d, uint32_t row)
{
	return layout_row(d->p->base, d->s, PORTAL_AREA_OBJECTS, row);
}

struct portal_use *dir_use(const struct dir *d, uint32_t row)
{
	return layout_row(d->p->base, d->s, PORTAL_AREA_USES, row);
}

/* ---- Changes ------------------------------------------------------------------- */

void dir_put(struct dir *d, __le64 *at, uint64_t value)
{
	struct portal_redo_store *s = &d->store[d->count++];

	s->offset = (uint64_t)((char *)at - (char *)d->p->base);
	s->value = value;
}

/* Steps 5 to 8: @r is a copy, and in order. */
static void apply(struct dir *d, const struct portal_redo *r)
{
	uint32_t i;

	/* Each store is a release: none is seen before the generation is odd. */
	__atomic_store_n(word(&d->shared->generation), r->state - 1, __ATOMIC_RELEASE);
	vmp_step(STEP_CHANGE_BEGUN);
	for (i = 0; i < r->count; i++) {
		__atomic_store_n(word((__le64 *)(void *)((char *)d->p->base + r->store[i].offset)),
				 r->store[i].value, __ATOMIC_RELEASE);
		vmp_step(STEP_CHANGE_STORE);
	}
	__atomic_store_n(word(&d->shared->generation), r->state, __ATOMIC_RELEASE);
	vmp_step(STEP_CHANGE_DONE);
	__atomic_store_n(word(&d->shared->redo.state), 0, __ATOMIC_RELEASE);
	vmp_step(STEP_CHANGE_CLEARED);
	d->changed = true;
}

static int have_lock(const struct dir *d)
{
	int r = vmp_session_check(d->p);

	return r || __atomic_load_n(word(&d->shared->lock.owner), __ATOMIC_RELAXED) == d->p->token ? r :
		vmp_fail(-ESTALE, "%s %s: this process's session was declared dead while it changed the directory; close the portal and open it anew",
			 d->p->info.transport, d->p->info.identity);
}

int dir_commit(struct dir *d)
{
	struct portal_redo *to = &d->shared->redo, r = { .count = d->count };
	uint32_t i;
	int ret;

	memcpy(r.store, d->store, d->count * sizeof(r.store[0]));
	r.state = (__atomic_load_n(word(&d->shared->generation), __ATOMIC_RELAXED) | 1) + 1;
	r.checksum = layout_redo_checksum(&r);
	d->count = 0;
	vmp_step(STEP_CHANGE_FILLED);
	if (!r.state)
		return vmp_fail(-EPROTO, "%s %s: the directory's generation was overwritten",
				d->p->info.transport, d->p->info.identity);
	ret = have_lock(d);
	if (ret)
		return ret;
	for (i = 0; i < r.count; i++) {
		__atomic_store_n(word(&to->store[i].offset), r.store[i].offset, __ATOMIC_RELAXED);
		__atomic_store_n(word(&to->store[i].value), r.store[i].value, __ATOMIC_RELAXED);
	}
	__atomic_store_n((uint32_t *)&to->count, r.count, __ATOMIC_RELAXED);
	__atomic_store_n((uint32_t *)&to->checksum, r.checksum, __ATOMIC_RELAXED);
	vmp_step(STEP_CHANGE_RECORDED);
	/* Decided; who sees this sees the record, and the rows that were filled. */
	__atomic_store_n(word(&to->state), r.state, __ATOMIC_RELEASE);
	vmp_step(STEP_CHANGE_COMMITTED);
	apply(d, &r);
	return 0;
}

/* What a dead holder had decided. */
static int finish(struct dir *d)
{
	struct portal_redo r;
	uint64_t generation;

	if (!__atomic_load_n(word(&d->shared->redo.state), __ATOMIC_ACQUIRE))
		return 0;
	layout_copy(&r, &d->shared->redo, sizeof(r));
	generation = __atomic_load_n(word(&d->shared->generation), __ATOMIC_RELAXED);
	if (!layout_redo_is_good(d->s, &r, generation))
		return vmp_fail(-EPROTO, "%s %s: the directory is broken: the change that is under way is none; 'portalctl check' says more, 'portalctl format' makes a new one",
				d->p->info.transport, d->p->info.identity);
	apply(d, &r);
	return 0;
}

/* ---- What the dead have left ------------------------------------------------------ */

static bool is_over(struct vmp *p, const struct portal_super *s, uint64_t token)
{
	/* One that never was is nobody's, either. */
	return layout_token(p->base, s, token) != TOKEN_ALIVE;
}

/* Room for @n more stores. */
static int room(struct dir *d, uint32_t n)
{
	return d->count + n > PORTAL_REDO_STORES ? dir_commit(d) : 0;
}

/* Uses of the dead, and of objects that are not there; the others are counted. */
static int sweep_uses(struct dir *d)
{
	uint32_t i, row, objects = d->s->area[PORTAL_AREA_OBJECTS].count;
	uint64_t judged = 0, life;
	struct portal_use u;
	bool over = false;
	int r = 0;

	for (i = 0; i < d->s->area[PORTAL_AREA_USES].count && !r; i++) {
		layout_copy(&u, dir_use(d, i), sizeof(u));
		if (!u.object)
			continue;
		if (u.token != judged) {
			judged = u.token;
			over = is_over(d->p, d->s, judged);
		}
		row = life_low(u.object);
		life = row < objects ? __atomic_load_n(word(&dir_object(d, row)->life), __ATOMIC_RELAXED) : 0;
		if (!over && layout_object_lives(life) && life_sequence(life) == life_sequence(u.object)) {
			d->users[row] += d->users[row] < 2;
			continue;
		}
		r = room(d, 2);
		dir_put(d, &dir_use(d, i)->object, 0);
		dir_put(d, &dir_use(d, i)->token, 0);
	}
	return r;
}

bool dir_needs_users(uint64_t life, uint32_t flags)
{
	return life_low(life) != PORTAL_OBJECT_NAMED || flags & PORTAL_OBJECT_EPHEMERAL;
}

static int sweep_objects(struct dir *d)
{
	uint32_t i, flags;
	uint64_t life;
	int r = 0;

	for (i = 0; i < d->s->area[PORTAL_AREA_OBJECTS].count && !r; i++) {
		life = __atomic_load_n(word(&dir_object(d, i)->life), __ATOMIC_RELAXED);
		if (d->users[i] || !layout_object_lives(life))
			continue;
		flags = __atomic_load_n((uint32_t *)&dir_object(d, i)->flags, __ATOMIC_RELAXED);
		if (!dir_needs_users(life, flags))
			continue;
		r = room(d, 1);
		dir_put(d, &dir_object(d, i)->life, life_sequence(life) << PORTAL_SLOT_BITS | PORTAL_OBJECT_FREE);
	}
	return r;
}

/* An object is freed in the same change as its last use, or in a later one. */
static int sweep(struct dir *d)
{
	int r = sweep_uses(d);

	if (!r)
		r = sweep_objects(d);
	return r || !d->count ? r : dir_commit(d);
}

/* ---- The lock ----------------------------------------------------------------------- */

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

/* The lock is the process's: another thread of it may be here. */
static int lock(struct dir *d)
{
	static const struct timespec moment = { .tv_nsec = 1000000 };
	int64_t until = now_ms() + DIR_PATIENCE_MS, left;
	int r;

	for (;;) {
		left = until - now_ms();
		r = vmp_lock_at(d->p, &d->shared->lock, left > 0 ? (int)left : 0);
		if (r == -EINTR && left > 0)
			continue;
		if (r != -EDEADLK || left <= 0)
			break;
		nanosleep(&moment, NULL);
	}
	if (r == -EAGAIN || r == -EDEADLK)
		return vmp_fail(-ETIMEDOUT, "%s %s: the directory was locked for %d seconds", d->p->info.transport,
				d->p->info.identity, DIR_PATIENCE_MS / 1000);
	return r;
}

int dir_lock(struct dir *d, struct vmp *p)
{
	int r = vmp_join(p, NULL), locked;

	*d = (struct dir) { .p = p, .s = p->super };
	if (r)
		return r;
	d->shared = layout_row(p->base, p->super, PORTAL_AREA_DIRECTORY, 0);
	d->users = calloc(d->s->area[PORTAL_AREA_OBJECTS].count, 1);
	if (!d->users)
		return vmp_fail(-ENOMEM, "%s %s: out of memory", p->info.transport, p->info.identity);
	locked = lock(d);
	if (locked && locked != -EOWNERDEAD) {
		free(d->users);
		return locked;
	}
	r = finish(d);
	/* A broken one is so by its record, for everybody who comes. */
	if (locked == -EOWNERDEAD)
		vmp_repaired_at(p, &d->shared->lock);
	if (!r)
		r = sweep(d);
	if (r)
		dir_unlock(d);
	return r;
}

void dir_unlock(struct dir *d)
{
	vmp_hold_errmsg(true);
	/* Its fence is between the generation and our look at the watchers. */
	vmp_unlock_at(d->p, &d->shared->lock);
	if (d->changed)
		vmp_ring_sessions(d->p, d->shared->watcher, sizeof(d->shared->watcher) / 8);
	free(d->users);
	d->users = NULL;
	vmp_hold_errmsg(false);
}

/* ---- Looking for something ------------------------------------------------------------ */

int64_t dir_find(struct dir *d, const char name[64], struct portal_object *copy)
{
	uint32_t i, state;
	uint64_t life;

	for (i = 0; i < d->s->area[PORTAL_AREA_OBJECTS].count; i++) {
		life = __atomic_load_n(word(&dir_object(d, i)->life), __ATOMIC_RELAXED);
		state = life_low(life);
		if (state != PORTAL_OBJECT_NAMED && state != PORTAL_OBJECT_MAKING)
			continue;
		layout_copy(copy, dir_object(d, i), sizeof(*copy));
		if (memcmp(copy->name, name, sizeof(copy->name)))
			continue;
		if (copy->life == life && life_sequence(life) && layout_object_place(d->s, copy) &&
		    copy->size <= copy->length)
			return i;
		return vmp_fail(-EPROTO, "%s %s: the directory's row %u ('%s') is damaged: 'portalctl check' says how",
				d->p->info.transport, d->p->info.identity, i, name);
	}
	return vmp_fail(-ENOENT, "%s %s: there is no '%s'", d->p->info.transport, d->p->info.identity, name);
}

int64_t dir_free_object(struct dir *d)
{
	uint32_t i;
	uint64_t life;

	for (i = 0; i < d->s->area[PORTAL_AREA_OBJECTS].count; i++) {
		life = __atomic_load_n(word(&dir_object(d, i)->life), __ATOMIC_RELAXED);
		if (!layout_object_lives(life) && life_sequence(life) < PORTAL_SEQUENCE_MAX)
			return i;
	}
	return vmp_fail(-ENOSPC, "%s %s: the directory is full: it has %u objects; unlink some, or format with more",
			d->p->info.transport, d->p->info.identity, d->s->area[PORTAL_AREA_OBJECTS].count);
}

int64_t dir_free_use(struct dir *d)
{
	uint32_t i;

	for (i = 0; i < d->s->area[PORTAL_AREA_USES].count; i++)
		if (!__atomic_load_n(word(&dir_use(d, i)->object), __ATOMIC_RELAXED))
			return i;
	return vmp_fail(-ENOSPC, "%s %s: the table of uses is full: %u objects are open at once; format with more objects",
			d->p->info.transport, d->p->info.identity, d->s->area[PORTAL_AREA_USES].count);
}

struct extent {
	uint64_t at, end;
};

static int by_place(const void *a, const void *b)
{
	const struct extent *x = a, *y = b;

	return (x->at > y->at) - (x->at < y->at);
}

int dir_place(struct dir *d, uint64_t length, uint64_t *offset)
{
	const struct portal_area *data = &d->s->area[PORTAL_AREA_DATA];
	uint32_t i, n = 0, objects = d->s->area[PORTAL_AREA_OBJECTS].count;
	struct extent *e = calloc(objects, sizeof(*e));
	uint64_t at = data->offset, end = data->offset + data->length;
	struct portal_object o;

	if (!e)
		return vmp_fail(-ENOMEM, "%s %s: out of memory", d->p->info.transport, d->p->info.identity);
	for (i = 0; i < objects; i++) {
		layout_copy(&o, dir_object(d, i), sizeof(o));
		if (layout_object_lives(o.life) && layout_object_place(d->s, &o))
			e[n++] = (struct extent) { o.offset, o.offset + o.length };
	}
	qsort(e, n, sizeof(*e), by_place);
	/* First fit: @at is behind all that has been passed. */
	for (i = 0; i < n && (e[i].at < at || e[i].at - at < length); i++)
		if (e[i].end > at)
			at = e[i].end;
	free(e);
	*offset = at;
	if (length <= end - at)
		return 0;
	return vmp_fail(-ENOSPC, "%s %s: no %" PRIu64 " bytes in one piece are free in the data, which has %" PRIu64,
			d->p->info.transport, d->p->info.identity, length, (uint64_t)data->length);
}
