// SPDX-License-Identifier: MIT
/*
 * Machines that are declared dead while they stand still, and go on. Until their kernel has
 * read of it, with its next heartbeat, their processes store what they were about to (portal(4),
 * PORTAL_FENCE). The library looks first, and changes nothing of another's; but to what a
 * program stores through a pointer nobody can say that it is over. That, and the one store of
 * portal-layout(5), "CHANNELS BY NAME", is forgiven, where one of them can make it:
 *
 *	what a lock protects that one of them had: until their memory was taken away, when
 *	it is put in order;
 *	objects where one lay that they had open: such as were there by then;
 *	a lane of theirs, or of a channel whose hub was one of them: until it has come to an
 *	end since.
 *
 * That they go on is noted before they are declared dead, by "crash mistake", and that they
 * store no more by "crash over". Who has the directory's lock is not declared dead: what it
 * protects nobody could put in order.
 */
#include "crash.h"

#define HAS_THE_DIRECTORY	3	/* exit status, for machines.py */

static struct mistake *nth(struct ledger *g, uint32_t i)
{
	return i < atomic_load(&g->nmistakes) && i < MISTAKES ? &g->mistake[i] : NULL;
}

/* ---- What is forgiven ------------------------------------------------------------------- */

static bool has(const struct mistake *m, uint64_t token)
{
	uint32_t i;

	for (i = 0; i < m->ntokens && m->token[i] != token; i++)
		;
	return token && i < m->ntokens;
}

bool is_mistaken(struct ledger *g, uint64_t token)
{
	struct mistake *m;
	uint32_t i;

	for (i = 0; (m = nth(g, i)); i++)
		if (has(m, token))
			return true;
	return false;
}

bool lock_in_doubt(struct world *w, uint32_t lock)
{
	struct mistake *m;
	uint32_t i;

	for (i = 0; (m = nth(w->ledger, i)); i++)
		if (atomic_load(&m->lock[lock]))
			return true;
	return false;
}

/* @lane: CHANNEL_LANES: any of them. */
bool lane_in_doubt(struct world *w, uint32_t channel, uint32_t lane)
{
	struct mistake *m;
	uint32_t i, k;

	for (i = 0; (m = nth(w->ledger, i)); i++)
		for (k = 0; k < CHANNEL_LANES; k++)
			if ((k == lane || lane == CHANNEL_LANES) && atomic_load(&m->lane[channel][k]))
				return true;
	return false;
}

/* A stream has come to its end there, and the lane is reset. */
void lane_is_clean(struct world *w, uint32_t channel, uint32_t lane)
{
	struct mistake *m;
	uint32_t i;

	for (i = 0; (m = nth(w->ledger, i)); i++)
		if (atomic_load(&m->over) && lane < CHANNEL_LANES)
			atomic_store(&m->lane[channel][lane], 0);
}

static bool lies_there(const struct mistake *m, const struct vmp_object *o)
{
	uint32_t i;

	for (i = 0; i < m->nplaces; i++)
		if (o->offset < m->place[i].end && m->place[i].offset < o->offset + o->length)
			return true;
	return false;
}

bool object_in_doubt(struct world *w, const struct vmp_object *o)
{
	struct mistake *m;
	uint32_t i, k, n;

	for (i = 0; (m = nth(w->ledger, i)); i++) {
		if (!atomic_load(&m->over)) {
			if (lies_there(m, o))
				return true;
			continue;
		}
		n = atomic_load(&m->nobjects);
		for (k = 0; k < n; k++)
			if (m->object[k] == o->id)
				return true;
	}
	return false;
}

/* Of a sender whose lane broke. */
void streams_in_doubt(struct world *w, uint64_t token, uint32_t channel)
{
	uint32_t i, n = atomic_load(&w->ledger->nstreams);

	for (i = 0; i < n && i < STREAMS; i++)
		if (w->ledger->stream[i].token == token && w->ledger->stream[i].channel == channel)
			atomic_store(&w->ledger->stream[i].doubt, 1);
}

/* ---- What they have ----------------------------------------------------------------------- */

static void note_tokens(struct world *w, struct mistake *m)
{
	uint32_t i, first = m->peer * w->p->super->sessions;
	struct vmp_session s;

	for (i = first; i < first + w->p->super->sessions && m->ntokens < MISTAKEN; i++)
		if (!vmp_get_session(w->p, i, &s, sizeof(s)) && s.state != VMP_STATE_DEAD && s.token)
			m->token[m->ntokens++] = s.token;
}

/* Asked before anything is opened by name, which that lock is for, too. 1, 0, or -errno. */
static int has_the_directory(const char *uri, uint32_t peer)
{
	struct mistake m = { .peer = peer };
	const struct portal_directory *d;
	struct world w = { 0 };
	int r = vmp_open(&w.p, uri, 0);

	if (r)
		return r;
	r = vmp_join(w.p, NULL);
	if (!r) {
		note_tokens(&w, &m);
		d = layout_row(w.p->base, w.p->super, PORTAL_AREA_DIRECTORY, 0);
		r = has(&m, __atomic_load_n(&d->lock.owner, __ATOMIC_ACQUIRE));
	}
	vmp_close(w.p);
	return r;
}

static void note_locks(struct world *w, struct mistake *m)
{
	uint32_t i;

	for (i = 0; i < LOCKS; i++)
		m->lock[i] = has(m, __atomic_load_n(&w->guarded[i].lock.owner, __ATOMIC_ACQUIRE));
}

static void note_lanes(struct mistake *m, uint32_t channel, char *at)
{
	const struct portal_hub *hub = (const void *)at;
	const struct portal_hub_lane *lane = (const void *)(at + sizeof(*hub));
	bool all = has(m, __atomic_load_n(&hub->consumer, __ATOMIC_ACQUIRE));
	uint32_t i;

	for (i = 0; i < CHANNEL_LANES; i++)
		m->lane[channel][i] = all || has(m, __atomic_load_n(&lane[i].owner, __ATOMIC_ACQUIRE));
}

static bool used(struct world *w, const struct mistake *m, uint64_t object)
{
	struct vmp_use u;
	uint32_t i;

	for (i = 0; !vmp_get_use(w->p, i, &u, sizeof(u)); i++)
		if (u.object == object && has(m, u.token))
			return true;
	return false;
}

static void note_objects(struct world *w, struct mistake *m)
{
	struct vmp_object o;
	uint32_t i;

	for (i = 0; !vmp_get_object(w->p, i, &o, sizeof(o)); i++) {
		if (o.state < VMP_OBJECT_MAKING || o.state > VMP_OBJECT_UNLINKED)
			continue;
		if (!strcmp(o.name, "channel0") || !strcmp(o.name, "channel1"))
			note_lanes(m, (uint32_t)(o.name[7] - '0'), (char *)w->p->base + o.offset);
		else if (m->nplaces < MISTAKEN && strcmp(o.name, "ledger") && strcmp(o.name, "locks") && used(w, m, o.id))
			m->place[m->nplaces++] = (struct place) { o.offset, o.offset + o.length };
	}
}

/* What they have committed so far is to come. */
static void note_streams(struct world *w, const struct mistake *m)
{
	uint32_t i, n = atomic_load(&w->ledger->nstreams);

	for (i = 0; i < n && i < STREAMS; i++)
		if (has(m, w->ledger->stream[i].token))
			w->ledger->stream[i].vouched = atomic_load(&w->ledger->stream[i].committed);
}

static int note_mistake(struct world *w, uint32_t peer)
{
	uint32_t n = atomic_load(&w->ledger->nmistakes);
	struct mistake m = { .peer = peer };

	if (n >= MISTAKES)
		return 2;
	note_tokens(w, &m);
	note_locks(w, &m);
	note_objects(w, &m);
	note_streams(w, &m);
	/* Machines.py calls us one after the other. */
	w->ledger->mistake[n] = m;
	atomic_store(&w->ledger->nmistakes, n + 1);
	printf("# of the machine in slot %u: %u sessions, %u objects\n", peer, m.ntokens, m.nplaces);
	return 0;
}

/* ---- It is over --------------------------------------------------------------------------- */

static int put_in_order(struct world *w, struct mistake *m, uint32_t i)
{
	struct guarded *g = &w->guarded[i];
	int r = vmp_lock(w->p, &g->lock, 5 * CALL_MS);

	if (r && r != -EOWNERDEAD)
		return r;
	g->second = g->first;
	atomic_store(&w->ledger->done[i], g->first);
	atomic_store(&w->ledger->holder[i], 0);
	atomic_store(&m->lock[i], 0);
	if (r)
		vmp_lock_repaired(w->p, &g->lock);
	return vmp_unlock(w->p, &g->lock);
}

static int end_mistake(struct world *w, uint32_t peer)
{
	struct mistake *m = NULL, *other;
	struct vmp_object o;
	uint32_t i;
	int r = 0;

	for (i = 0; (other = nth(w->ledger, i)); i++)
		if (other->peer == peer && !atomic_load(&other->over))
			m = other;
	if (!m)
		return 2;
	for (i = 0; i < LOCKS && !r; i++)
		if (atomic_load(&m->lock[i]))
			r = put_in_order(w, m, i);
	for (i = 0; !vmp_get_object(w->p, i, &o, sizeof(o)); i++)
		if (o.state >= VMP_OBJECT_MAKING && o.state <= VMP_OBJECT_UNLINKED && lies_there(m, &o) &&
		    m->nobjects < MISTAKEN)
			m->object[m->nobjects++] = o.id;
	atomic_store(&m->over, 1);
	if (r)
		fprintf(stderr, "crash: putting in order what a lock protects: %d %s\n", r, vmp_errmsg());
	return r != 0;
}

/* ---- For machines.py ------------------------------------------------------------------------ */

/*
 * The machine in slot @peer stands still, and is going to be declared dead; or, with @over, its
 * kernel has taken the memory away from the processes that it had then. An exit status.
 */
int mistake(const char *uri, uint32_t peer, bool over)
{
	int r = over ? 0 : has_the_directory(uri, peer);
	struct world w = { 0 };

	if (r > 0)
		return HAS_THE_DIRECTORY;
	if (!r)
		r = open_world(&w, uri, false);
	if (r) {
		fprintf(stderr, "crash: %s: %d %s\n", uri, r, vmp_errmsg());
		return 2;
	}
	r = over ? end_mistake(&w, peer) : note_mistake(&w, peer);
	close_world(&w);
	return r;
}
