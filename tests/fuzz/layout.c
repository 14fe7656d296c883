// SPDX-License-Identifier: MIT
/*
 * layout [SECONDS [SEED]] - hostile bytes where a managed portal's tables are.
 *
 * A region with somebody in it is changed at random places by random and by telling
 * values, mostly with checksums that fit; then all that the library does with it is
 * done: looking, and using, as a process with a session. Built with ASan and UBSan: the
 * region is an allocation of exactly its length. What never may be: an access outside, a
 * store to the protected part, a wait, a clean verdict over a region that nobody has used
 * but for the change. TAP.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <lib/named.h>

#include "../unit/lib/layout_fix.h"

static uint64_t seed;

static uint64_t rnd(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return seed * UINT64_C(2685821657736338717);
}

static uint64_t below(uint64_t n)
{
	return rnd() % n;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t telling(const struct fix *f)
{
	static const uint64_t words[] = {
		0, 1, 2, 7, 255, 4095, 4096, 65535, 65536, 65537, 1 << 20, UINT32_MAX,
		1ULL << 32, INT64_MAX, 1ULL << 63, UINT64_MAX, UINT64_MAX - 65535,
		PORTAL_MAGIC_FORMATTING,
	};

	switch (below(5)) {
	case 0:
		return rnd();
	case 1:		/* near a place */
		return f->good.area[below(PORTAL_AREAS)].offset + below(3) * 8 - 8;
	case 2:		/* a life, a token, a use */
		return below(6) << 16 | below(70);
	case 3:		/* two halves */
		return words[below(12)] << 32 | words[below(12)];
	default:
		return words[below(sizeof(words) / sizeof(words[0]))];
	}
}

/* Whether the superblock was given a checksum that fits. */
static bool mutate(struct fix *f)
{
	uint64_t meta = layout_meta_size(&f->good), at, v;
	unsigned int n = 1 + (unsigned int)below(8), i;

	for (i = 0; i < n; i++) {
		unsigned int a = (unsigned int)below(PORTAL_AREAS + 2);

		if (a >= PORTAL_AREAS)
			at = below(a == PORTAL_AREAS ? 400 : meta);
		else if (a == PORTAL_AREA_DATA)
			at = below(meta);
		else	/* mostly among the rows that are used */
			at = f->good.area[a].offset + below(5) * f->good.area[a].stride +
			     below(f->good.area[a].stride);
		if (at >= meta)
			continue;
		if (below(2)) {
			f->base[at] ^= 1 << below(8);
			continue;
		}
		v = telling(f);
		at &= ~7ULL;
		memcpy(f->base + at, &v, below(3) ? 8 : 4);
	}
	if (f->dir->redo.count <= PORTAL_REDO_STORES && below(4))
		f->dir->redo.checksum = layout_redo_checksum(&f->dir->redo);
	if (!below(4))
		return false;
	fix_seal(f);
	return true;
}

static void ignore(void *arg, const struct vmp_damage *d)
{
	unsigned int *n = arg;

	*n += (unsigned int)strlen(d->name) + (unsigned int)strlen(d->text) +
	      (unsigned int)strlen(d->where);
	if (d->offset >= FIX_SIZE)
		abort();
}

static void check_texts(const char *s, size_t size)
{
	if (!layout_is_text(s, size))
		abort();
}

/* All that can be asked. */
static int ask(struct fix *f)
{
	struct vmp_layout l;
	struct vmp_session s;
	struct vmp_object o;
	struct vmp_channel *ch;
	unsigned int n = 0;
	struct vmp_peer peer;
	struct vmp_use u;
	struct vmp *p;
	uint32_t i;
	int ret;

	if (vmp_attach(&p, f->base, FIX_SIZE, NULL, NULL, 0, VMP_PEER_NONE))
		abort();
	if (!vmp_get_layout(p, &l, sizeof(l))) {
		check_texts(l.name, sizeof(l.name));
		check_texts(l.creator, sizeof(l.creator));
		for (i = 0; !vmp_get_peer(p, i, &peer, sizeof(peer)); i++)
			check_texts(peer.name, sizeof(peer.name));
		for (i = 0; !vmp_get_session(p, i, &s, sizeof(s)); i++)
			check_texts(s.name, sizeof(s.name));
		for (i = 0; !vmp_get_object(p, i, &o, sizeof(o)); i++)
			check_texts(o.name, sizeof(o.name));
		for (i = 0; !vmp_get_use(p, i, &u, sizeof(u)); i++)
			n += u.object != 0;
	}
	ret = vmp_check(p, ignore, &n);
	if (!vmp_channel_open(&ch, p, NULL))
		vmp_channel_close(ch);
	vmp_close(p);
	return ret;
}

/* ---- Using it -------------------------------------------------------------------- */

/* Our own rows, which a kernel would write, at the places that were believed. */
static int begin_session(struct vmp *p, uint32_t vector, uint64_t *token)
{
	struct portal_peer *peer = layout_row(p->base, p->super, PORTAL_AREA_PEERS, 0);
	struct portal_session *s = layout_row(p->base, p->super, PORTAL_AREA_SESSIONS, 0);
	uint64_t n = life_sequence(s->life) % PORTAL_SEQUENCE_MAX + 1;

	peer->claim = s->claim = 5;
	peer->dead = peer->suspect = 0;
	peer->life = fix_life(1, PORTAL_LIFE_ALIVE);
	s->address = 0;
	s->vector = vector;
	s->life = fix_life(n, PORTAL_LIFE_ALIVE);
	*token = n << 16;
	return 0;
}

static int ring(struct vmp *p, uint32_t peer, uint32_t vector)
{
	return 0;
}

static const struct vmp_ops user_ops = { .transport = "fuzz", .session = begin_session, .ring = ring };

/* Who holds the lock, or makes an object, and lives, is waited for: that is not our subject. */
static void nobody_to_wait_for(struct vmp *p)
{
	struct portal_directory *d = layout_row(p->base, p->super, PORTAL_AREA_DIRECTORY, 0);
	struct portal_object *o;
	uint32_t i;

	if (layout_token(p->base, p->super, d->lock.owner) == TOKEN_ALIVE)
		d->lock.owner = below(2) ? 0 : 1ULL << 16 | 3;
	for (i = 0; i < p->super->area[PORTAL_AREA_OBJECTS].count; i++) {
		o = layout_row(p->base, p->super, PORTAL_AREA_OBJECTS, i);
		if (life_low(o->life) == PORTAL_OBJECT_MAKING)
			o->life++;
	}
}

static void use_names(struct vmp *p)
{
	static const char *const names[] = { "alpha", "beta", "gone", "new", "x" };
	struct vmp_named *n[3] = { NULL };
	uint64_t tokens[4], at, length;
	struct vmp_object o;
	size_t bytes;
	char *data;
	int i;

	if (vmp_data(p, &at, &length))
		return;
	for (i = 0; i < 3; i++) {
		if (vmp_named_open(&n[i], p, names[below(5)], below(2) ? VMP_CREATE : 0,
				   1 + below(3 * PORTAL_UNIT), 0600))
			continue;
		data = vmp_named_data(n[i], &bytes);
		if (n[i]->offset < at || n[i]->offset - at > length || bytes > length - (n[i]->offset - at))
			abort();
		data[0] = data[bytes - 1] = 1;
		vmp_named_info(n[i], &o, sizeof(o));
		vmp_named_users(n[i], tokens, 4);
	}
	vmp_named_unlink(p, names[below(5)]);
	for (i = 0; i < 3; i++)
		vmp_named_close(n[i]);
}

static void use_lock(struct vmp *p)
{
	uint64_t at, length;
	struct portal_lock *l;
	unsigned int i;

	if (vmp_data(p, &at, &length))
		return;
	l = (struct portal_lock *)(void *)((char *)p->base + at);
	for (i = 0; i < 16; i++)
		if (below(3))
			((uint64_t *)(void *)l)[i] = below(2) ? rnd() : below(4) << 16 | below(20);
	vmp_lock(p, l, below(2) ? 0 : 1);
	if (below(2))
		vmp_lock_repaired(p, l);
	vmp_unlock(p, l);
}

/* As a process with a session. Whether the protected part is as it was. */
static bool use(struct fix *f)
{
	struct vmp *p = vmp_alloc(&user_ops, 0);
	char *was = NULL;
	bool same = true;

	if (!p)
		abort();
	p->base = f->base;
	p->info.size = FIX_SIZE;
	p->info.caps = VMP_CAP_RING;
	if (!vmp_fix_mode(p, -1) && !vmp_join(p, NULL)) {
		nobody_to_wait_for(p);
		was = malloc(p->super->protected_size);
		memcpy(was, f->base, p->super->protected_size);
		use_names(p);
		use_lock(p);
		vmp_watch_fd(p);
		use_names(p);
		vmp_watch_clear(p);
		same = !memcmp(was, f->base, p->super->protected_size);
		free(was);
	}
	vmp_close(p);
	return same;
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 5, end, began, longest = 0;
	unsigned long rounds = 0, clean = 0, raw = 0, missed = 0, stored = 0;
	uint64_t first, meta, from;
	struct fix f;
	char *good;

	seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL) * 2654435761u + 1;
	first = seed;
	fix_new(&f);
	meta = layout_meta_size(&f.good);
	good = malloc(meta);
	for (end = now() + seconds; now() < end; rounds++) {
		bool populated = rounds % 2;
		int ret;

		fix_format(&f);
		if (populated)
			fix_populate(&f);
		if (below(4) == 0 && populated)
			fix_redo(&f);
		memcpy(good, f.base, meta);
		/* A forged superblock is another's; with features of it, so is what was reserved. */
		from = !mutate(&f) ? 0 : f.s->compat ? meta : PORTAL_SUPER_SIZE;
		began = now();
		ret = ask(&f);
		clean += ret == 0;
		raw += ret == -ENODATA;
		if (ret == 0 && !populated && memcmp(good + from, f.base + from, meta - from)) {
			missed++;
			while (good[from] == f.base[from])
				from++;
			printf("# round %lu: byte %llu is %#x, and clean\n", rounds,
			       (unsigned long long)from, (unsigned char)f.base[from]);
		}
		stored += !use(&f);
		if (now() - began > longest)
			longest = now() - began;
	}
	printf("# %lu rounds of seed %#llx, %lu clean, %lu raw, longest %.2f s\n", rounds,
	       (unsigned long long)first, clean, raw, longest);
	printf("1..4\nok 1 - no access outside\n");
	printf("%s 2 - no change of an unused region is clean\n", missed ? "not ok" : "ok");
	printf("%s 3 - bounded: no round took longer than 10 s, and not all were alike\n",
	       longest < 10 && rounds > 50 && clean < rounds ? "ok" : "not ok");
	printf("%s 4 - no store to the protected part\n", stored ? "not ok" : "ok");
	free(good);
	free(f.base);
	return missed || stored || longest >= 10;
}
