/* SPDX-License-Identifier: MIT */
/*
 * A formatted region with somebody in it, for the tests and the fuzzer of the layout:
 * written from the specification, not by the code that is tested.
 */
#ifndef TESTS_UNIT_LIB_LAYOUT_FIX_H
#define TESTS_UNIT_LIB_LAYOUT_FIX_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <lib/layout.h>

#define FIX_SIZE	(512U << 10)
#define FIX_SESSIONS	8U
#define GUEST_CLAIM	(9ULL << 32 | 0x1234)	/* address 8 */
#define DEAD_CLAIM	(10ULL << 32 | 0x77)

struct fix {
	char *base;
	struct portal_super *s;		/* in the region */
	struct portal_super good;	/* as formatted */
	struct portal_peer *peer;
	struct portal_session *session;
	struct portal_directory *dir;
	struct portal_object *object;
	struct portal_use *use;
	uint64_t *pending;
	char *data;
};

static inline uint64_t fix_life(uint64_t sequence, uint32_t low)
{
	return sequence << 16 | low;
}

static inline void fix_format(struct fix *f)
{
	struct portal_super s = { .incarnation = 0x1234567, .uuid = { 1, 2, 3 }, .name = "fix" };

	memset(f->base, 0, FIX_SIZE);
	if (layout_plan(&s, FIX_SIZE, 8, FIX_SESSIONS, 16) || layout_write(f->base, &s, 0))
		abort();
	f->good = s;
	f->s = (struct portal_super *)(void *)f->base;
	f->peer = (struct portal_peer *)(void *)(f->base + s.area[0].offset);
	f->session = (struct portal_session *)(void *)(f->base + s.area[1].offset);
	f->dir = (struct portal_directory *)(void *)(f->base + s.area[2].offset);
	f->object = (struct portal_object *)(void *)(f->base + s.area[3].offset);
	f->use = (struct portal_use *)(void *)(f->base + s.area[4].offset);
	f->pending = (uint64_t *)(void *)(f->base + s.area[5].offset);
	f->data = f->base + s.area[6].offset;
}

/* Exactly as long as it says, so that a sanitizer sees each step beyond. */
static inline void fix_new(struct fix *f)
{
	void *m;

	if (posix_memalign(&m, 4096, FIX_SIZE))
		abort();
	f->base = m;
	fix_format(f);
}

static inline void fix_object(struct fix *f, unsigned int row, uint32_t low, unsigned int unit,
			      unsigned int units, const char *name)
{
	struct portal_object *o = &f->object[row];

	o->life = fix_life(1, low);
	o->kind = PORTAL_KIND_RAW;
	o->offset = f->good.area[6].offset + unit * PORTAL_UNIT;
	o->length = units * PORTAL_UNIT;
	o->size = o->length - 10;
	o->mode = 0600;
	o->creator = 3ULL << 16 | FIX_SESSIONS;
	strcpy(o->name, name);
}

/* A host; a guest with two sessions; one proven dead; one that has left. Objects. */
static inline void fix_populate(struct fix *f)
{
	unsigned int i;

	for (i = 0; i < 4; i++) {
		f->peer[i].life = fix_life(i + 1, i == 3 ? PORTAL_LIFE_DEAD : PORTAL_LIFE_ALIVE);
		f->peer[i].incarnation = 1000 + i;
		f->peer[i].kind = i ? PORTAL_PEER_GUEST : PORTAL_PEER_HOST;
		f->peer[i].vectors = 4;
		f->peer[i].notice = PORTAL_VECTOR_NONE;
		f->peer[i].heartbeat_ms = 1000;
		f->peer[i].heartbeat = 77;
		strcpy(f->peer[i].name, "machine");
	}
	f->peer[0].claim = 5;
	f->peer[1].claim = GUEST_CLAIM;
	f->peer[2].claim = f->peer[2].dead = DEAD_CLAIM;
	f->peer[2].reason = PORTAL_REASON_EXITED;
	for (i = 0; i < 3; i++) {
		struct portal_session *s = &f->session[FIX_SESSIONS + i];

		s->life = fix_life(3, i == 1 ? PORTAL_LIFE_DEAD : PORTAL_LIFE_ALIVE);
		s->claim = GUEST_CLAIM;
		s->address = 8;
		s->vector = 1;
		s->pid = 100 + i;
		strcpy(s->name, "worker");
	}
	f->dir->lock.count = 5;
	f->dir->lock.previous = 2ULL << 16 | (FIX_SESSIONS + 1);
	f->dir->generation = 4;
	f->dir->watcher[0] = 3ULL << 16 | FIX_SESSIONS;
	fix_object(f, 0, PORTAL_OBJECT_NAMED, 0, 1, "alpha");
	fix_object(f, 1, PORTAL_OBJECT_UNLINKED, 1, 2, "alpha");
	fix_object(f, 2, PORTAL_OBJECT_FREE, 1, 2, "gone");
	fix_object(f, 3, PORTAL_OBJECT_NAMED, 3, 1, "beta");
	for (i = 0; i < 2; i++) {
		f->use[i].object = 1ULL << 16 | i;
		f->use[i].token = 3ULL << 16 | (FIX_SESSIONS + 2 * i);
	}
	f->pending[16] = 1;	/* a row is 128 bytes: the guest's first session */
}

/* A lock that is held, and a change of two stores that is under way: to what is there. */
static inline void fix_redo(struct fix *f)
{
	struct portal_redo *r = &f->dir->redo;

	f->dir->lock.owner = 3ULL << 16 | FIX_SESSIONS;
	r->state = 6;
	r->count = 2;
	r->store[0].offset = f->good.area[3].offset + 8;
	r->store[0].value = PORTAL_KIND_RAW;
	r->store[1].offset = f->good.area[4].offset;
	r->store[1].value = f->use[0].object;
	r->checksum = layout_redo_checksum(r);
}

static inline void fix_seal(struct fix *f)
{
	f->s->checksum = layout_super_checksum(f->s);
}

#endif /* TESTS_UNIT_LIB_LAYOUT_FIX_H */
