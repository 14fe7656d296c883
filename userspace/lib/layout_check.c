// SPDX-License-Identifier: MIT
/*
 * What can be wrong with the tables of a managed portal.
 *
 * Others may change what is looked at. So a row is copied, judged, and if anything is
 * wrong with it copied again: only what still stands there is reported. Every loop is
 * bounded by the counts that layout_parse() has accepted, every wait by patience.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "layout_check.h"

const char *layout_damage_name(enum layout_damage id)
{
#define NAME(id, name, text) name,
	static const char *const names[] = { LAYOUT_DAMAGES(NAME) };

	return names[id];
}

const char *layout_damage_text(enum layout_damage id)
{
#define TEXT(id, name, text) text,
	static const char *const texts[] = { LAYOUT_DAMAGES(TEXT) };

	return texts[id];
}

void check_found(struct check *c, enum layout_damage id, size_t at, uint64_t value)
{
	if (c->nfound < CHECK_FOUND)
		c->found[c->nfound++] = (struct layout_finding) {
			.id = id, .where = c->where, .index = c->index,
			.offset = c->at + at, .value = value,
		};
}

void check_flush(struct check *c)
{
	unsigned int i;

	for (i = 0; i < c->nfound; i++) {
		c->damages += c->found[i].id < DAMAGE_FIRST_NOTE;
		c->fn(c->arg, &c->found[i]);
	}
	c->nfound = 0;
}

size_t check_zero(struct check *c, enum layout_damage id, const void *row, size_t from, size_t to)
{
	const unsigned char *b = row;
	size_t i;

	/* A feature that may be ignored may have what was reserved. */
	if (c->s.compat & ~PORTAL_COMPAT_KNOWN)
		return 0;
	for (i = from; i < to; i++)
		if (b[i]) {
			check_found(c, id, i, b[i]);
			return i;
		}
	return 0;
}

bool check_token(struct check *c, enum layout_damage id, size_t at, uint64_t token)
{
	if (layout_token(c->base, &c->s, token) != TOKEN_NEVER)
		return true;
	check_found(c, id, at, token);
	return false;
}

/* Whether somebody who has begun to join should be given more time. */
static bool joining(struct check *c)
{
	static const struct timespec moment = { .tv_nsec = 20000000 };

	if (c->nfound > 1 || !c->patience ||
	    (c->found[0].id != DAMAGE_PEER_JOINING && c->found[0].id != DAMAGE_SESSION_JOINING))
		return false;
	c->patience--;
	nanosleep(&moment, NULL);
	return true;
}

void check_read(struct check *c, unsigned int a, uint32_t i, void *to, size_t n, size_t life_at)
{
	const struct portal_directory *d = layout_row(c->base, &c->s, PORTAL_AREA_DIRECTORY, 0);
	uint64_t at = c->s.area[a].offset + (uint64_t)i * c->s.area[a].stride;
	struct portal_redo r;
	uint32_t k;

	layout_read(to, layout_row(c->base, &c->s, a, i), n, life_at);
	if ((a != PORTAL_AREA_OBJECTS && a != PORTAL_AREA_USES) ||
	    !__atomic_load_n((const uint64_t *)&d->redo.state, __ATOMIC_ACQUIRE))
		return;
	layout_copy(&r, &d->redo, sizeof(r));
	if (!layout_redo_is_good(&c->s, &r, __atomic_load_n((const uint64_t *)&d->generation, __ATOMIC_RELAXED)))
		return;
	for (k = 0; k < r.count; k++)
		if (r.store[k].offset >= at && r.store[k].offset - at < n)
			memcpy((char *)to + (r.store[k].offset - at), &r.store[k].value, 8);
}

typedef void (*judge_fn)(struct check *c, const void *row);

/* Judges row @i of area @a of which @n bytes count, with its life word at @life_at. */
static void check_row(struct check *c, unsigned int a, uint32_t i, size_t n, size_t life_at,
		      judge_fn judge)
{
	uint64_t row[2][sizeof(struct portal_directory) / 8];
	unsigned int tries, wait = 25;

	c->index = i;
	c->at = c->s.area[a].offset + (uint64_t)i * c->s.area[a].stride;
	for (tries = 0; tries < 64; tries++) {
		c->nfound = 0;
		check_read(c, a, i, row[0], n, life_at);
		judge(c, row[0]);
		if (!c->nfound)
			return;
		if (wait && joining(c)) {
			wait--;
			continue;
		}
		check_read(c, a, i, row[1], n, life_at);
		if (!memcmp(row[0], row[1], n))
			break;
	}
	check_flush(c);
}

static void check_area(struct check *c, unsigned int a, const char *where, size_t n,
		       size_t life_at, judge_fn judge)
{
	uint32_t i;

	c->where = where;
	for (i = 0; i < c->s.area[a].count; i++)
		check_row(c, a, i, n, life_at, judge);
}

/* ---- Peers ------------------------------------------------------------------- */

#define AT(member) offsetof(struct portal_peer, member)

/* A claim or a verdict: 0, or its random half is not 0. */
static bool claim_formed(uint64_t claim)
{
	return !claim || (uint32_t)claim;
}

static void judge_claims(struct check *c, const struct portal_peer *p)
{
	if (!claim_formed(p->claim))
		check_found(c, DAMAGE_PEER_CLAIM, AT(claim), p->claim);
	if (!claim_formed(p->dead))
		check_found(c, DAMAGE_PEER_VERDICT, AT(dead), p->dead);
	if (!claim_formed(p->suspect))
		check_found(c, DAMAGE_PEER_VERDICT, AT(suspect), p->suspect);
	if (p->reason > PORTAL_REASON_SILENT || (p->reason && !p->dead && !p->suspect))
		check_found(c, DAMAGE_PEER_VERDICT, AT(reason), p->reason);
	check_zero(c, DAMAGE_PEER_RESERVED, p, AT(reserved0), AT(life));
	check_zero(c, DAMAGE_PEER_RESERVED, p, AT(reserved1), sizeof(*p));
	if (p->claim && p->claim == p->dead)
		check_found(c, DAMAGE_NOTE_PEER, AT(dead), p->dead);
}

static void judge_peer_said(struct check *c, const struct portal_peer *p)
{
	bool host = c->index == PORTAL_PEER_SLOT_HOST;

	if (!p->incarnation)
		check_found(c, DAMAGE_PEER_INCARNATION, AT(incarnation), 0);
	if (p->kind != (host ? PORTAL_PEER_HOST : PORTAL_PEER_GUEST))
		check_found(c, DAMAGE_PEER_KIND, AT(kind), p->kind);
	if (p->notice != PORTAL_VECTOR_NONE && p->notice >= p->vectors)
		check_found(c, DAMAGE_PEER_NOTICE, AT(notice), p->notice);
	if (!layout_is_text(p->name, sizeof(p->name)))
		check_found(c, DAMAGE_PEER_NAME, AT(name), 0);
}

static void judge_peer(struct check *c, const void *row)
{
	const struct portal_peer *p = row;
	uint32_t state = life_low(p->life);
	bool dead = p->claim && p->claim == p->dead;

	if (!p->claim && !p->life) {
		check_zero(c, DAMAGE_PEER_EMPTY, p, 0, sizeof(*p));
		return;
	}
	judge_claims(c, p);
	if (state > PORTAL_LIFE_DEAD || !state != !life_sequence(p->life)) {
		check_found(c, DAMAGE_PEER_LIFE, AT(life), p->life);
		return;
	}
	switch (state) {
	case PORTAL_LIFE_NONE:
		check_zero(c, DAMAGE_PEER_EMPTY, p, AT(life), sizeof(*p));
		/* fall through */
	case PORTAL_LIFE_JOINING:
		if (!dead)
			check_found(c, DAMAGE_PEER_JOINING, AT(life), p->life);
		break;
	case PORTAL_LIFE_ALIVE:
	case PORTAL_LIFE_ASLEEP:
		if (!p->claim)
			check_found(c, DAMAGE_PEER_CLAIM, AT(claim), 0);
		/* fall through */
	default:
		judge_peer_said(c, p);
	}
}

/* Rows that live with the same doorbell address; quadratic, in at most 4096 rows. */
static void check_addresses(struct check *c)
{
	struct portal_peer p, q;
	uint32_t i, j;

	for (i = 1; i < c->s.peers; i++) {
		layout_read(&p, layout_row(c->base, &c->s, PORTAL_AREA_PEERS, i), sizeof(p), AT(life));
		if (life_low(p.life) != PORTAL_LIFE_ALIVE || p.claim == p.dead ||
		    claim_address(p.claim) == PORTAL_ADDRESS_NONE)
			continue;
		for (j = 0; j < i; j++) {
			layout_copy(&q, layout_row(c->base, &c->s, PORTAL_AREA_PEERS, j), AT(incarnation));
			if (life_low(q.life) != PORTAL_LIFE_ALIVE || q.claim == q.dead ||
			    claim_address(q.claim) != claim_address(p.claim))
				continue;
			c->index = i;
			c->at = c->s.area[PORTAL_AREA_PEERS].offset + i * sizeof(p);
			check_found(c, DAMAGE_PEER_DUPLICATE, AT(claim), p.claim);
			check_flush(c);
			break;
		}
	}
}

#undef AT

/* ---- Sessions ---------------------------------------------------------------- */

#define AT(member) offsetof(struct portal_session, member)

/* What must fit the row of its machine. */
static void judge_session_peer(struct check *c, const struct portal_session *s)
{
	struct portal_peer p;

	layout_read(&p, layout_row(c->base, &c->s, PORTAL_AREA_PEERS, c->index / c->s.sessions),
		    sizeof(p), offsetof(struct portal_peer, life));
	if (!life_sequence(p.life)) {
		check_found(c, DAMAGE_SESSION_PEER, AT(claim), s->claim);
		return;
	}
	if (life_low(s->life) != PORTAL_LIFE_ALIVE)
		return;
	if (s->claim != p.claim || s->claim == p.dead) {
		check_found(c, DAMAGE_NOTE_SESSION, AT(life), s->life);
		return;
	}
	if (p.kind == PORTAL_PEER_GUEST && s->address != claim_address(p.claim))
		check_found(c, DAMAGE_SESSION_ADDRESS, AT(address), s->address);
	if (s->vector != PORTAL_VECTOR_NONE && s->vector >= p.vectors)
		check_found(c, DAMAGE_SESSION_VECTOR, AT(vector), s->vector);
}

static void judge_session(struct check *c, const void *row)
{
	const struct portal_session *s = row;
	uint32_t state = life_low(s->life);

	if (!s->life) {
		check_zero(c, DAMAGE_SESSION_EMPTY, s, 0, sizeof(*s));
		return;
	}
	c->ever = true;
	check_zero(c, DAMAGE_SESSION_RESERVED, s, AT(reserved), sizeof(*s));
	if (state > PORTAL_LIFE_DEAD || state == PORTAL_LIFE_ASLEEP ||
	    !state || !life_sequence(s->life)) {
		check_found(c, DAMAGE_SESSION_LIFE, AT(life), s->life);
		return;
	}
	judge_session_peer(c, s);
	if (state == PORTAL_LIFE_JOINING) {
		check_found(c, DAMAGE_SESSION_JOINING, AT(life), s->life);
		return;
	}
	if (!s->claim || !claim_formed(s->claim))
		check_found(c, DAMAGE_SESSION_CLAIM, AT(claim), s->claim);
	if (!layout_is_text(s->name, sizeof(s->name)))
		check_found(c, DAMAGE_SESSION_NAME, AT(name), 0);
}

#undef AT

/* ---- What lies between, and all of it ---------------------------------------- */

/* A hint is for a session that there was; bits beyond the block are for nobody. */
static void check_pending(struct check *c)
{
	const struct portal_area *a = &c->s.area[PORTAL_AREA_PENDING];
	uint64_t word, life;
	uint32_t i, w, b;

	c->where = "pending";
	for (i = 0; i < a->count; i++)
		for (w = 0; w < a->stride / 8; w++) {
			layout_copy(&word, (char *)layout_row(c->base, &c->s, PORTAL_AREA_PENDING, i) +
				    w * 8, 8);
			for (b = 0; b < 64 && word >> b; b++) {
				if (!(word >> b & 1))
					continue;
				life = 0;
				if (w * 64 + b < c->s.sessions)
					layout_copy(&life, layout_row(c->base, &c->s, PORTAL_AREA_SESSIONS,
								      i * c->s.sessions + w * 64 + b), 8);
				if (life)
					continue;
				c->index = i;
				c->at = a->offset + (uint64_t)i * a->stride;
				check_found(c, DAMAGE_PENDING, w * 8, word);
				check_flush(c);
				break;
			}
		}
}

static void check_gap(struct check *c, uint64_t from, uint64_t to)
{
	uint64_t word;

	/* Areas begin at multiples of 4096, and rows are whole words. */
	for (; from < to; from += 8) {
		layout_copy(&word, (char *)c->base + from, 8);
		if (!word)
			continue;
		c->at = from;
		check_found(c, DAMAGE_GAP, 0, word);
		check_flush(c);
		return;
	}
}

static void check_gaps(struct check *c)
{
	uint64_t at = PORTAL_SUPER_SIZE;
	unsigned int a;

	if (c->s.compat & ~PORTAL_COMPAT_KNOWN)
		return;		/* another feature's area may lie there */
	c->where = "gap";
	c->index = UINT32_MAX;
	for (a = 0; a < PORTAL_AREAS; a++) {
		check_gap(c, at, c->s.area[a].offset);
		at = c->s.area[a].offset + c->s.area[a].length;
	}
}

struct counted {
	layout_finding_fn fn;
	void *arg;
	int damages;
};

static void count(void *arg, const struct layout_finding *f)
{
	struct counted *n = arg;

	n->damages++;
	n->fn(n->arg, f);
}

int layout_check(void *base, uint64_t size, unsigned int patience, layout_finding_fn fn, void *arg)
{
	struct counted n = { .fn = fn, .arg = arg };
	struct check c = { .base = base, .fn = fn, .arg = arg, .patience = patience };
	int ret = layout_parse(base, size, &c.s, count, &n);

	if (ret == -EUCLEAN)
		return n.damages;
	if (ret && ret != -EREMCHG)
		return ret;
	c.damages = n.damages;
	check_area(&c, PORTAL_AREA_PEERS, "peer", sizeof(struct portal_peer),
		   offsetof(struct portal_peer, life), judge_peer);
	check_addresses(&c);
	check_area(&c, PORTAL_AREA_SESSIONS, "session", sizeof(struct portal_session), 0, judge_session);
	check_area(&c, PORTAL_AREA_DIRECTORY, "directory", sizeof(struct portal_directory),
		   offsetof(struct portal_directory, generation), check_judge_directory);
	check_area(&c, PORTAL_AREA_OBJECTS, "object", sizeof(struct portal_object), 0,
		   check_judge_object);
	check_area(&c, PORTAL_AREA_USES, "use", sizeof(struct portal_use), 0, check_judge_use);
	check_pending(&c);
	check_gaps(&c);
	ret = check_objects(&c);
	return ret ? ret : c.damages;
}
