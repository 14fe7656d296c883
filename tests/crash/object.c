// SPDX-License-Identifier: MIT
/*
 * Objects that come and go. Who makes one fills it with its token; a byte that is neither 0
 * nor of that was written by somebody whose object this is not, or not any more.
 */
#include "crash.h"

static void check(struct world *w, const struct vmp_object *o, const uint64_t *at, size_t words)
{
	size_t i;
	uint64_t v;

	for (i = 0; i < words; i++) {
		v = __atomic_load_n(&at[i], __ATOMIC_RELAXED);
		if (!v || v == o->creator)
			continue;
		if (object_in_doubt(w, o))
			return;
		finding(w, "object '%s' (%#llx) of session %#llx has bytes of %#llx at %zu", o->name,
			(unsigned long long)o->id, (unsigned long long)o->creator, (unsigned long long)v, 8 * i);
		return;
	}
}

static void fill(struct world *w, uint64_t *at, size_t words)
{
	size_t i;

	for (i = 0; i < words; i += 8) {
		__atomic_store_n(&at[i], w->token, __ATOMIC_RELAXED);
		if (i == words / 16 * 8)
			at_step(OWN_FILLED);
	}
}

static void use(struct world *w, struct vmp_named *n)
{
	struct vmp_object o;
	size_t bytes;
	uint64_t *at = vmp_named_data(n, &bytes);

	if (vmp_named_info(n, &o, sizeof(o))) {
		finding(w, "an object that is open: %s", vmp_errmsg());
		return;
	}
	check(w, &o, at, bytes / 8);
	if (o.creator != w->token)
		return;
	fill(w, at, bytes / 8);
	if (!below(&w->rng, 4))
		usleep((useconds_t)below(&w->rng, 3000));
	check(w, &o, at, bytes / 8);
}

/* One that nobody takes away. */
static void leak(struct world *w)
{
	struct vmp_named *n;

	if (!vmp_named_open(&n, w->p, "leaked", VMP_CREATE, 1, 0600))
		vmp_named_close(n);
}

void do_object(struct world *w)
{
	static const unsigned int how[] = {
		0, VMP_CREATE, VMP_CREATE | VMP_EXCL, VMP_CREATE | VMP_EPHEMERAL,
	};
	unsigned int flags = how[below(&w->rng, 4)];
	struct vmp_named *n;
	uint64_t *old;
	char name[16];
	int r;

	if (mutant(w, "leak", 10000))
		leak(w);
	snprintf(name, sizeof(name), "object%u", (unsigned int)below(&w->rng, NAMES));
	begin(w, OP_OBJECT, DIRECTORY_MS);
	r = vmp_named_open(&n, w->p, name, flags, flags ? 1 + below(&w->rng, OBJECT_MOST * PORTAL_UNIT) : 0, 0600);
	/* What the machine makes us late by is forgiven. */
	if (mutant(w, "slow", 1000))
		usleep(DIRECTORY_MS * 3 / 2 * 1000);
	finish(w);
	if (!r) {
		use(w, n);
		old = vmp_named_data(n, NULL);
		begin(w, OP_OBJECT, DIRECTORY_MS);
		r = vmp_named_close(n);
		finish(w);
		if (r)
			finding(w, "closing '%s': %d %s", name, r, vmp_errmsg());
		if (mutant(w, "zombie", 500)) {
			usleep(20000);
			fill(w, old, 1000);
		}
	} else if (r != -ENOENT && r != -EEXIST && r != -ERANGE && r != -EINTR) {
		finding(w, "opening '%s' (%#x): %d %s", name, flags, r, vmp_errmsg());
	}
	if (below(&w->rng, 2))
		return;
	begin(w, OP_OBJECT, DIRECTORY_MS);
	r = vmp_named_unlink(w->p, name);
	finish(w);
	if (r && r != -ENOENT && r != -EINTR)
		finding(w, "unlinking '%s': %d %s", name, r, vmp_errmsg());
}
