// SPDX-License-Identifier: MIT
/* Channels by name: the object that they are, found or made, for both ends. */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "hub.h"

#define LANES		16U
#define CAPACITY	(16U << 10)
#define MODE		0600U

/* Naps of who waits for a name, or for a lane. */
#define WAIT_FIRST	(1 * MS)
#define WAIT_LAST	(20 * MS)
/* And the name is looked up again so often, for who waits for a lane. */
#define FIND_EVERY	(1000 * MS)

void hub_let_go(struct vmp_named *n)
{
	/* What made us let go of it is the reason. */
	vmp_hold_errmsg(true);
	vmp_named_close(n);
	vmp_hold_errmsg(false);
}

/* What the object says of itself, checked. */
static int place_of(struct hub_place *at, struct vmp *p, struct vmp_named *n)
{
	uint64_t size = layout_hub_size(n->param[0], n->param[1]);

	if (n->format != PORTAL_HUB_FORMAT)
		return vmp_fail(-EPROTONOSUPPORT, "%s: '%s' is a channel of version %u, this library knows version %u", p->info.identity,
				n->name, n->format, PORTAL_HUB_FORMAT);
	if (!size || size > n->size)
		return vmp_fail(-EPROTO, "%s: '%s' says that it has %" PRIu64 " lanes of %" PRIu64 " bytes, which cannot be: 'portalctl check'",
				p->info.identity, n->name, (uint64_t)n->param[0], (uint64_t)n->param[1]);
	at->offset = n->offset;
	at->lanes = (uint32_t)n->param[0];
	at->capacity = n->param[1];
	at->named = n;
	return 0;
}

static int find(struct hub_place *at, struct vmp *p, struct named_spec *s)
{
	struct vmp_named *n;
	int r = vmp_join(p, &at->token);

	if (!r)
		r = vmp_named_make(&n, p, s);
	if (r)
		return r;
	r = place_of(at, p, n);
	if (r)
		hub_let_go(n);
	return r;
}

/* ---- The hub ------------------------------------------------------------------ */

#define HUB_FLAGS	(VMP_HUB_EVENTS | VMP_HUB_NO_SLEEP | VMP_HUB_EPHEMERAL)

static int read_opts(struct vmp_hub_opts *o, const struct vmp_hub_opts *in, const struct vmp *p)
{
	uint64_t cap = PORTAL_HUB_CAPACITY_MIN;

	memset(o, 0, sizeof(*o));
	o->vector = p->info.first_vector;
	if (in && in->size < sizeof(*o))
		return vmp_fail(-EINVAL, "vmp_hub_open: opts.size must be sizeof(struct vmp_hub_opts)");
	if (in)
		memcpy(o, in, sizeof(*o));
	o->lanes = o->lanes ? o->lanes : LANES;
	o->capacity = o->capacity ? o->capacity : CAPACITY;
	o->mode = o->mode ? o->mode : MODE;
	while (cap < o->capacity && cap < PORTAL_HUB_CAPACITY_MAX)
		cap *= 2;
	if (o->flags & ~HUB_FLAGS)
		return vmp_fail(-EINVAL, "vmp_hub_open: undefined flags 0x%x", o->flags);
	if (o->lanes > PORTAL_HUB_LANES || o->capacity > PORTAL_HUB_CAPACITY_MAX)
		return vmp_fail(-EINVAL, "vmp_hub_open: %u lanes of %" PRIu64 " bytes: at most %u, of %u", o->lanes,
				o->capacity, PORTAL_HUB_LANES, PORTAL_HUB_CAPACITY_MAX);
	o->capacity = cap;
	if (o->vector > 0xffff || (p->info.vectors && o->vector >= p->info.vectors && !(o->flags & VMP_HUB_NO_SLEEP)))
		return vmp_fail(-EINVAL, "%s: no vector %u; it has %u", p->info.identity, o->vector, p->info.vectors);
	return 0;
}

/* It is there, or it is made; somebody else may be doing either just now. */
static int find_or_make(struct hub_place *at, struct vmp *p, const char *name,
			const struct vmp_hub_opts *o)
{
	struct named_spec s = {
		.name = name,
		.kind = PORTAL_KIND_CHANNEL, .format = PORTAL_HUB_FORMAT,
		.param = { o->lanes, o->capacity },
		.mode = o->mode,
	};
	int r, tries;

	for (tries = 0; tries < 16; tries++) {
		s.flags = 0;
		s.bytes = 0;
		r = find(at, p, &s);
		if (r != -ENOENT)
			return r;
		s.flags = VMP_CREATE | VMP_EXCL | (o->flags & VMP_HUB_EPHEMERAL ? VMP_EPHEMERAL : 0);
		s.bytes = layout_hub_size(o->lanes, o->capacity);
		r = find(at, p, &s);
		if (r != -EEXIST)
			return r;
	}
	return r;
}

VMP_API int vmp_hub_open(struct vmp_hub **h, struct vmp *p, const char *name,
			 const struct vmp_hub_opts *opts)
{
	struct vmp_hub_opts o;
	struct hub_place at;
	int r;

	if (!h || !p || !name)
		return vmp_fail(-EINVAL, "vmp_hub_open: h, p and name must not be NULL");
	*h = NULL;
	r = read_opts(&o, opts, p);
	if (!r)
		r = find_or_make(&at, p, name, &o);
	if (r)
		return r;
	r = hub_open_at(h, p, &at, &o);
	if (r)
		hub_let_go(at.named);
	return r;
}

/* ---- A producer ---------------------------------------------------------------- */

static int check_opts(struct vmp_channel_opts *o, const struct vmp_channel_opts *in, const struct vmp *p)
{
	int r = chan_read_opts(o, in);

	if (r)
		return r;
	if (!in)
		o->vector = p->info.first_vector;
	if (o->side || o->offset || o->length || o->flags & VMP_CH_PACKETS)
		return vmp_fail(-EINVAL, "vmp_channel_named: side, offset and length are 0, and there are no packets: the name says where it is");
	if (p->info.vectors && o->vector >= p->info.vectors && !(o->flags & VMP_CH_NO_SLEEP))
		return vmp_fail(-EINVAL, "%s: no vector %u; it has %u", p->info.identity, o->vector, p->info.vectors);
	return 0;
}

static void take_a_nap(int64_t *nap)
{
	struct timespec t = { .tv_nsec = *nap };

	nanosleep(&t, NULL);
	*nap = *nap + *nap / 2 < WAIT_LAST ? *nap + *nap / 2 : WAIT_LAST;
}

/*
 * Once the name is found, wait for a lane there until @until: to find it costs two changes
 * of the directory. But not long: it may be another object's by then.
 */
static int open_once(struct vmp_channel **ch, struct vmp *p, const char *name,
		     const struct vmp_channel_opts *o, int64_t until, int64_t *nap)
{
	struct named_spec s = { .name = name, .kind = PORTAL_KIND_CHANNEL };
	int64_t anew = now_ns() + FIND_EVERY;
	struct hub_place at;
	int r = find(&at, p, &s);

	if (r)
		return r;
	r = hub_channel_at(ch, p, &at, o);
	while (r == -EUSERS && now_ns() < until && now_ns() < anew) {
		take_a_nap(nap);
		r = hub_channel_at(ch, p, &at, o);
	}
	if (r)
		hub_let_go(at.named);
	return r;
}

VMP_API int vmp_channel_named(struct vmp_channel **ch, struct vmp *p, const char *name,
			      const struct vmp_channel_opts *opts, int timeout_ms)
{
	int64_t until = timeout_ms < 0 ? FOR_EVER : now_ns() + timeout_ms * MS, nap = WAIT_FIRST;
	struct vmp_channel_opts o;
	int r;

	if (!ch || !p || !name)
		return vmp_fail(-EINVAL, "vmp_channel_named: ch, p and name must not be NULL");
	*ch = NULL;
	r = check_opts(&o, opts, p);
	/* Whoever has no session now will have none later. */
	if (!r)
		r = vmp_join(p, NULL);
	if (r)
		return r;
	for (;;) {
		r = open_once(ch, p, name, &o, until, &nap);
		if ((r != -ENOENT && r != -EUSERS) || !timeout_ms)
			return r;
		if (now_ns() >= until)
			return vmp_fail(-ETIMEDOUT, "%s: '%s': %s for %d ms", p->info.identity, name,
					r == -ENOENT ? "nobody has opened a hub by this name" : "no free lane", timeout_ms);
		take_a_nap(&nap);
	}
}
