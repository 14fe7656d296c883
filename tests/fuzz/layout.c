// SPDX-License-Identifier: MIT
/*
 * layout [SECONDS [SEED]] - hostile bytes where a managed portal's tables are.
 *
 * A region with somebody in it is changed at random places by random and by telling
 * values, mostly with a checksum that fits; then all that the library does with it is
 * done. Built with ASan and UBSan: the region is an allocation of exactly its length.
 * What never may be: an access outside, a wait, a clean verdict over a region that
 * nobody has used but for the change. TAP.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vmportal.h>

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

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 5, end, began, longest = 0;
	unsigned long rounds = 0, clean = 0, raw = 0, missed = 0;
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
		if (now() - began > longest)
			longest = now() - began;
		clean += ret == 0;
		raw += ret == -ENODATA;
		if (ret == 0 && !populated && memcmp(good + from, f.base + from, meta - from)) {
			missed++;
			while (good[from] == f.base[from])
				from++;
			printf("# round %lu: byte %llu is %#x, and clean\n", rounds,
			       (unsigned long long)from, (unsigned char)f.base[from]);
		}
	}
	printf("# %lu rounds of seed %#llx, %lu clean, %lu raw, longest %.2f s\n", rounds,
	       (unsigned long long)first, clean, raw, longest);
	printf("1..3\nok 1 - no access outside\n");
	printf("%s 2 - no change of an unused region is clean\n", missed ? "not ok" : "ok");
	printf("%s 3 - bounded: no round took longer than 10 s, and not all were alike\n",
	       longest < 10 && rounds > 50 && clean < rounds ? "ok" : "not ok");
	free(good);
	free(f.base);
	return missed || longest >= 10;
}
