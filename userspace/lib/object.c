// SPDX-License-Identifier: MIT
/*
 * Objects by name. One is made in two changes: the first gives it its name, place and a use
 * by who makes it; then it is zeroed, without the directory's lock, for that may take long;
 * the second lets others open it. Whoever dies in between leaves an object without a user.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "directory.h"

#define NAP_FIRST_MS	1	/* while somebody else makes it */
#define NAP_LAST_MS	50
#define PIECE		(1U << 20) /* is zeroed at a time */

_Static_assert(VMP_NAME_MAX + 1 == PORTAL_LAYOUT_NAME, "names");
_Static_assert(VMP_OBJECT_MAKING == PORTAL_OBJECT_MAKING, "states are those of the layout");

/* ---- What was asked for ------------------------------------------------------------ */

static int check_name(const char *fn, const char *name, char padded[64])
{
	if (!name || !*name)
		return vmp_fail(-EINVAL, "%s: a name has at least one byte", fn);
	if (strlen(name) > VMP_NAME_MAX)
		return vmp_fail(-ENAMETOOLONG, "%s: a name has at most %d bytes; this one has %zu", fn,
				VMP_NAME_MAX, strlen(name));
	memset(padded, 0, PORTAL_LAYOUT_NAME);
	memcpy(padded, name, strlen(name));
	if (layout_is_name(padded))
		return 0;
	return vmp_fail(-EINVAL, "%s: '%s': a name is UTF-8 without '/' and control characters, and not '.' or '..'",
			fn, name);
}

static int check_spec(const struct named_spec *s, char padded[64])
{
	int r = check_name("vmp_named_open", s->name, padded);

	if (r)
		return r;
	if (s->flags & ~(VMP_CREATE | VMP_EXCL | VMP_EPHEMERAL))
		return vmp_fail(-EINVAL, "vmp_named_open: undefined flags 0x%x", s->flags);
	if (s->flags & (VMP_EXCL | VMP_EPHEMERAL) && !(s->flags & VMP_CREATE))
		return vmp_fail(-EINVAL, "vmp_named_open: VMP_EXCL and VMP_EPHEMERAL go with VMP_CREATE");
	if (s->flags & VMP_CREATE && !s->bytes)
		return vmp_fail(-EINVAL, "vmp_named_open: an object that is made has at least one byte");
	if (s->mode > 0777)
		return vmp_fail(-EINVAL, "vmp_named_open: mode 0%o: at most 0777", s->mode);
	return 0;
}

/* ---- Changes, the lock held ---------------------------------------------------------- */

static void take_use(struct dir *d, struct vmp_named *n)
{
	dir_put(d, &dir_use(d, n->use)->token, d->p->token);
	dir_put(d, &dir_use(d, n->use)->object, n->id);
}

static void fill(struct vmp_named *n, const struct portal_object *o, uint32_t row)
{
	n->id = life_sequence(o->life) << PORTAL_SLOT_BITS | row;
	n->kind = o->kind;
	n->format = o->format;
	n->offset = o->offset;
	n->length = o->length;
	n->size = o->size;
	n->creator = o->creator;
	memcpy(n->param, o->param, sizeof(n->param));
}

/* @o: the row @row that has the name. -EAGAIN: it is being made. */
static int open_it(struct dir *d, struct vmp_named *n, const struct named_spec *s,
		   const struct portal_object *o, uint32_t row)
{
	int64_t use;

	if (s->flags & VMP_EXCL)
		return vmp_fail(-EEXIST, "%s %s: '%s' is there already", d->p->info.transport,
				d->p->info.identity, s->name);
	if (o->kind != s->kind)
		return vmp_fail(-EPROTOTYPE, "%s %s: '%s' is %s", d->p->info.transport, d->p->info.identity, s->name,
				o->kind == PORTAL_KIND_CHANNEL ? "a channel" :
				o->kind == PORTAL_KIND_RAW ? "plain bytes, no channel" : "of an unknown kind");
	if (life_low(o->life) == PORTAL_OBJECT_MAKING) {
		n->creator = o->creator;
		return vmp_fail_quickly(-EAGAIN, "it is being made");
	}
	if (o->size < s->bytes)
		return vmp_fail(-ERANGE, "%s %s: '%s' is there, with %" PRIu64 " bytes, not %" PRIu64,
				d->p->info.transport, d->p->info.identity, s->name, (uint64_t)o->size, s->bytes);
	use = dir_free_use(d);
	if (use < 0)
		return (int)use;
	fill(n, o, row);
	n->use = (uint32_t)use;
	take_use(d, n);
	return dir_commit(d);
}

/* A row that is nobody's is filled in; with the change it lives. */
static void fill_row(struct portal_object *to, const struct portal_object *from)
{
	const uint64_t *f = (const uint64_t *)(const void *)from;
	uint64_t *t = (uint64_t *)(void *)to;
	size_t i;

	_Static_assert(offsetof(struct portal_object, life) == 0, "all but the life word");
	for (i = 1; i < sizeof(*to) / 8; i++)
		__atomic_store_n(&t[i], f[i], __ATOMIC_RELAXED);
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Its first change. 1: it is ours to be made. */
static int place_it(struct dir *d, struct vmp_named *n, const struct named_spec *s)
{
	struct portal_object o = {
		.kind = s->kind, .format = s->format, .size = s->bytes, .mode = s->mode,
		.flags = s->flags & VMP_EPHEMERAL ? PORTAL_OBJECT_EPHEMERAL : 0,
		.creator = d->p->token, .created = now_ns(),
	};
	int64_t row = dir_free_object(d), use = dir_free_use(d);
	uint64_t at, was;
	int r;

	if (row < 0 || use < 0)
		return (int)(row < 0 ? row : use);
	if (s->bytes > d->s->area[PORTAL_AREA_DATA].length)
		return vmp_fail(-ENOSPC, "%s %s: %" PRIu64 " bytes are more than the data has: %" PRIu64,
				d->p->info.transport, d->p->info.identity, s->bytes,
				(uint64_t)d->s->area[PORTAL_AREA_DATA].length);
	o.length = (s->bytes + PORTAL_UNIT - 1) / PORTAL_UNIT * PORTAL_UNIT;
	r = dir_place(d, o.length, &at);
	if (r)
		return r;
	o.offset = at;
	memcpy(o.param, s->param, sizeof(o.param));
	memcpy(o.name, n->name, sizeof(o.name));
	was = __atomic_load_n((uint64_t *)&dir_object(d, (uint32_t)row)->life, __ATOMIC_RELAXED);
	o.life = (life_sequence(was) + 1) << PORTAL_SLOT_BITS | PORTAL_OBJECT_MAKING;
	fill_row(dir_object(d, (uint32_t)row), &o);
	fill(n, &o, (uint32_t)row);
	n->use = (uint32_t)use;
	dir_put(d, &dir_object(d, (uint32_t)row)->life, o.life);
	take_use(d, n);
	r = dir_commit(d);
	return r ? r : 1;
}

/* Our row among the uses, or -ESTALE: somebody has overwritten it. */
static int64_t own_use(struct dir *d, const struct vmp_named *n)
{
	uint32_t i, count = d->s->area[PORTAL_AREA_USES].count, at;
	struct portal_use u;

	for (i = 0; i < count; i++) {
		at = (n->use + i) % count;
		layout_copy(&u, dir_use(d, at), sizeof(u));
		if (u.object == n->id && u.token == d->p->token)
			return at;
	}
	return vmp_fail(-ESTALE, "%s %s: nothing says that this process has '%s' open", d->p->info.transport,
			d->p->info.identity, n->name);
}

/* The use goes, and with it what has no other user and no name that lasts. */
static int drop(struct dir *d, const struct vmp_named *n, bool failed)
{
	struct portal_object *o = dir_object(d, life_low(n->id));
	int64_t use = own_use(d, n);
	struct portal_object copy;

	if (use < 0)
		return (int)use;
	layout_copy(&copy, o, sizeof(copy));
	dir_put(d, &dir_use(d, (uint32_t)use)->object, 0);
	dir_put(d, &dir_use(d, (uint32_t)use)->token, 0);
	if (layout_object_lives(copy.life) && life_sequence(copy.life) == life_sequence(n->id) &&
	    d->users[life_low(n->id)] < 2 && (failed || dir_needs_users(copy.life, copy.flags)))
		dir_put(d, &o->life, life_sequence(n->id) << PORTAL_SLOT_BITS | PORTAL_OBJECT_FREE);
	return dir_commit(d);
}

/* ---- Calls ------------------------------------------------------------------------------ */

/* Its portal may have been formatted through this very object. */
static int same_tables(const struct vmp_named *n)
{
	int r = vmp_managed(n->p);

	return r || n->p->super->incarnation == n->tables ? r :
		vmp_fail(-ESTALE, "%s %s: was formatted anew while '%s' was open; close the portal and open it anew",
			 n->p->info.transport, n->p->info.identity, n->name);
}

static int drop_it(struct vmp_named *n, bool failed)
{
	struct dir d;
	int r = same_tables(n);

	if (!r)
		r = dir_lock(&d, n->p);
	if (r)
		return r;
	r = drop(&d, n, failed);
	dir_unlock(&d);
	return r;
}

/* The second change: others may open it. */
static int name_it(struct vmp_named *n)
{
	struct dir d;
	uint64_t life;
	int r = dir_lock(&d, n->p);

	if (r)
		return r;
	life = __atomic_load_n((uint64_t *)&dir_object(&d, life_low(n->id))->life, __ATOMIC_RELAXED);
	if (life_sequence(life) != life_sequence(n->id) || !layout_object_lives(life)) {
		r = vmp_fail(-EPROTO, "%s %s: '%s' was overwritten while it was made", n->p->info.transport,
			     n->p->info.identity, n->name);
	} else if (life_low(life) == PORTAL_OBJECT_MAKING) {
		/* Else somebody has unlinked it by now, which may happen to any. */
		dir_put(&d, &dir_object(&d, life_low(n->id))->life,
			life_sequence(life) << PORTAL_SLOT_BITS | PORTAL_OBJECT_NAMED);
		r = dir_commit(&d);
	}
	dir_unlock(&d);
	return r;
}

/*
 * It may take long. Whoever is declared dead by mistake meanwhile stops, for the place is another's
 * soon: it loses one piece at most.
 */
static int zero(struct vmp_named *n)
{
	char *data = (char *)n->p->base + n->offset;
	uint64_t done, piece;
	int r = 0;

	for (done = 0; done < n->length && !r; done += piece) {
		piece = n->length - done < PIECE ? n->length - done : PIECE;
		memset(data + done, 0, piece);
		vmp_step(STEP_OBJECT_PIECE);
		r = vmp_session_check(n->p);
	}
	return r;
}

static int finish_making(struct vmp_named *n, const struct named_spec *s)
{
	void *data = (char *)n->p->base + n->offset;
	int r;

	vmp_step(STEP_OBJECT_PLACED);
	r = vmp_session_check(n->p);
	if (!r)
		r = zero(n);
	if (!r && s->init)
		r = s->init(s->arg, data, n);
	vmp_step(STEP_OBJECT_ZEROED);
	if (!r)
		r = name_it(n);
	if (r) {
		vmp_hold_errmsg(true);
		drop_it(n, true);
		vmp_hold_errmsg(false);
	}
	return r;
}

/* One go: 0 it is open, 1 it is to be made, -EAGAIN it is being made by another. */
static int open_or_place(struct vmp_named *n, const struct named_spec *s)
{
	struct portal_object o;
	struct dir d;
	int64_t row;
	int r = dir_lock(&d, n->p);

	if (r)
		return r;
	row = dir_find(&d, n->name, &o);
	if (row >= 0)
		r = open_it(&d, n, s, &o, (uint32_t)row);
	else if (row == -ENOENT && s->flags & VMP_CREATE)
		r = place_it(&d, n, s);
	else
		r = (int)row;
	dir_unlock(&d);
	return r;
}

static int still_making(const struct vmp_named *n)
{
	return vmp_fail(-ETIMEDOUT, "%s %s: '%s' has been in the making for %d seconds, by session %#" PRIx64 ", which is %s",
			n->p->info.transport, n->p->info.identity, n->name, DIR_PATIENCE_MS / 1000, n->creator,
			vmp_token_text(n->p, n->creator));
}

/*
 * We may be rung for anything, and as often as somebody likes; but each look takes the
 * directory's lock: not without a pause.
 */
static int nap(struct vmp *p, int *set, int ms)
{
	static const struct timespec least = { .tv_nsec = 1000000 };

	if (*set < 0)
		*set = vmp_session_set(p);
	if (*set < 0)
		return *set;
	if (nanosleep(&least, NULL))
		return vmp_fail_quickly(-EINTR, "interrupted by a signal");
	return vmp_session_sleep(p, *set, ms);
}

/* While another makes it: its death, or its success, comes soon. */
static int open_patiently(struct vmp_named *n, const struct named_spec *s)
{
	int64_t until = now_ms() + DIR_PATIENCE_MS;
	int set = -1, ms = NAP_FIRST_MS, r;

	for (;;) {
		r = open_or_place(n, s);
		if (r != -EAGAIN)
			break;
		if (now_ms() >= until) {
			r = still_making(n);
			break;
		}
		ms = ms * 2 < NAP_LAST_MS ? ms * 2 : NAP_LAST_MS;
		r = nap(n->p, &set, ms);
		if (r < 0)
			break;
	}
	if (set >= 0)
		close(set);
	return r;
}

int vmp_named_make(struct vmp_named **out, struct vmp *p, const struct named_spec *s)
{
	struct vmp_named *n = calloc(1, sizeof(*n));
	int r;

	*out = NULL;
	if (!n)
		return vmp_fail(-ENOMEM, "vmp_named_open: out of memory");
	n->p = p;
	if (p->super)
		n->tables = p->super->incarnation;
	r = check_spec(s, n->name);
	if (!r)
		r = open_patiently(n, s);
	if (r == 1)
		r = finish_making(n, s);
	if (r) {
		free(n);
		return r;
	}
	vmp_step(STEP_OBJECT_OPEN);
	*out = n;
	return 0;
}

VMP_API int vmp_named_open(struct vmp_named **n, struct vmp *p, const char *name, unsigned int flags,
			   uint64_t bytes, uint32_t mode)
{
	struct named_spec s = { .name = name, .flags = flags, .bytes = bytes, .mode = mode,
				.kind = PORTAL_KIND_RAW };

	if (!n || !p)
		return vmp_fail(-EINVAL, "vmp_named_open: n and p must not be NULL");
	return vmp_named_make(n, p, &s);
}

VMP_API void *vmp_named_data(struct vmp_named *n, size_t *bytes)
{
	if (bytes)
		*bytes = n->size;
	return (char *)n->p->base + n->offset;
}

VMP_API int vmp_named_info(struct vmp_named *n, struct vmp_object *out, size_t size)
{
	struct vmp_object o;
	int r = same_tables(n);

	if (!r)
		r = vmp_get_object(n->p, life_low(n->id), &o, sizeof(o));
	if (r)
		return r;
	if (o.id != n->id || o.state == PORTAL_OBJECT_FREE)
		return vmp_fail(-ESTALE, "%s %s: '%s' is not there any more", n->p->info.transport,
				n->p->info.identity, n->name);
	return vmp_get_object(n->p, life_low(n->id), out, size);
}

VMP_API int vmp_named_close(struct vmp_named *n)
{
	int r;

	if (!n)
		return 0;
	/* In a child there is nothing to be changed, and nothing to be seen. */
	r = vmp_mapped_here(n->p) ? drop_it(n, false) : 0;
	free(n);
	return r;
}

VMP_API int vmp_named_unlink(struct vmp *p, const char *name)
{
	struct portal_object o;
	char padded[64];
	struct dir d;
	int64_t row;
	int r = check_name("vmp_named_unlink", name, padded);

	if (!r)
		r = dir_lock(&d, p);
	if (r)
		return r;
	row = dir_find(&d, padded, &o);
	r = (int)row;
	if (row >= 0) {
		dir_put(&d, &dir_object(&d, (uint32_t)row)->life,
			life_sequence(o.life) << PORTAL_SLOT_BITS |
			(d.users[row] ? PORTAL_OBJECT_UNLINKED : PORTAL_OBJECT_FREE));
		r = dir_commit(&d);
	}
	dir_unlock(&d);
	return r;
}

uint32_t vmp_named_users(struct vmp_named *n, uint64_t *tokens, uint32_t max)
{
	const struct portal_super *s = n->p->super;
	struct portal_use u;
	uint32_t i, count = 0;

	/* No tables any more: vmp_set_mode(). */
	if (!s)
		return 0;
	for (i = 0; i < s->area[PORTAL_AREA_USES].count; i++) {
		layout_copy(&u, layout_row(n->p->base, s, PORTAL_AREA_USES, i), sizeof(u));
		if (u.object != n->id)
			continue;
		if (count < max)
			tokens[count] = u.token;
		count++;
	}
	return count;
}
