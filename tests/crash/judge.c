// SPDX-License-Identifier: MIT
/* What is judged by who looks on, and at the end. */
#include "crash.h"

static void damage(void *arg, const struct vmp_damage *d)
{
	struct world *w = arg;

	if (!d->note)
		finding(w, "damage: %s %u: %s: %s (%#llx at %#llx)", d->where, d->index, d->name, d->text,
			(unsigned long long)d->value, (unsigned long long)d->offset);
}

void judge_tables(struct world *w)
{
	int r = 0, i;

	/* What is just being done is none; it is not done for so long. */
	for (i = 0; i < 3; i++) {
		r = vmp_check(w->p, NULL, NULL);
		if (r <= 0)
			break;
	}
	if (r)
		vmp_check(w->p, damage, w);
	if (r < 0)
		finding(w, "checking: %s", vmp_errmsg());
}

/* ---- At the end ------------------------------------------------------------------ */

/* All that is there, and a lane has no owner any more. */
static void drain(struct world *w, uint32_t channel)
{
	struct vmp_hub_opts o = { .size = sizeof(o), .flags = VMP_HUB_EVENTS, .lanes = CHANNEL_LANES,
				  .capacity = CHANNEL_BYTES };
	struct vmp_hub *h;
	char name[16];
	uint32_t i;
	ssize_t n;
	int r;

	snprintf(name, sizeof(name), "channel%u", channel);
	r = vmp_hub_open(&h, w->p, name, &o);
	if (r) {
		finding(w, "the last hub of %s: %d %s", name, r, vmp_errmsg());
		return;
	}
	do {
		n = read_message(w, h, channel, 500);
	} while (n >= 0);
	if (n != -ETIMEDOUT)
		finding(w, "the last hub of %s: %zd %s", name, n, vmp_errmsg());
	for (i = 0; i < h->lanes; i++)
		if (h->lane[i].row->owner)
			finding(w, "%s: lane %u is %#llx's still", name, i,
				(unsigned long long)h->lane[i].row->owner);
	vmp_hub_close(h);
}

static void judge_streams(struct world *w)
{
	uint32_t i, n = atomic_load(&w->ledger->nstreams), committed, next;

	for (i = 0; i < n && i < STREAMS; i++) {
		const struct stream *s = &w->ledger->stream[i];

		if (atomic_load(&s->doubt))
			continue;
		committed = atomic_load(&s->committed);
		next = atomic_load(&s->next);
		/* It may have died between the message and its note. */
		if (next < (is_mistaken(w->ledger, s->token) ? s->vouched : committed) || next > committed + 1)
			finding(w, "stream %u (life %u): %u messages were committed, %u came", i, s->life,
				committed, next);
	}
}

static void judge_locks(struct world *w)
{
	uint32_t i;
	int r;

	for (i = 0; i < LOCKS; i++) {
		struct guarded *g = &w->guarded[i];
		uint64_t done = atomic_load(&w->ledger->done[i]);

		r = vmp_lock(w->p, &g->lock, CALL_MS);
		if (r == -EOWNERDEAD) {
			g->second = g->first;
			atomic_fetch_add(&w->ledger->repairs[i], 1);
			r = vmp_lock_repaired(w->p, &g->lock);
		}
		if (r)
			finding(w, "lock %u at the end: %d %s", i, r, vmp_errmsg());
		if (g->first != g->second || g->first < done ||
		    g->first > done + atomic_load(&w->ledger->repairs[i]))
			finding(w, "lock %u: %llu and %llu where %llu increments were made", i, (unsigned long long)g->first,
				(unsigned long long)g->second, (unsigned long long)done);
		vmp_unlock(w->p, &g->lock);
	}
}

/* Nothing is left of the dead, and all the memory that nobody has can be had. */
static void judge_directory(struct world *w)
{
	uint64_t used = 0, offset, length;
	struct vmp_object o;
	struct vmp_named *n;
	char name[16];
	uint32_t i;
	int r;

	for (i = 0; i < NAMES + CHANNELS; i++) {
		snprintf(name, sizeof(name), "%s%u", i < NAMES ? "object" : "channel", i < NAMES ? i : i - NAMES);
		r = vmp_named_unlink(w->p, name);
		if (r && r != -ENOENT)
			finding(w, "unlinking '%s': %d %s", name, r, vmp_errmsg());
	}
	for (i = 0; !vmp_get_object(w->p, i, &o, sizeof(o)); i++) {
		if (o.state < VMP_OBJECT_MAKING || o.state > VMP_OBJECT_UNLINKED)
			continue;
		used += o.length;
		if (strcmp(o.name, "ledger") && strcmp(o.name, "locks"))
			finding(w, "object '%s' (%#llx) is left, in state %u", o.name, (unsigned long long)o.id, o.state);
	}
	if (vmp_data(w->p, &offset, &length))
		return;
	r = vmp_named_open(&n, w->p, "the rest", VMP_CREATE | VMP_EXCL, length - used, 0600);
	if (r)
		finding(w, "%llu of %llu bytes are free, but cannot be had: %s", (unsigned long long)(length - used),
			(unsigned long long)length, vmp_errmsg());
	else
		vmp_named_close(n);
	vmp_named_unlink(w->p, "the rest");
	judge_tables(w);
}

void judge_end(struct world *w)
{
	uint32_t i;

	for (i = 0; i < CHANNELS; i++)
		drain(w, i);
	judge_streams(w);
	judge_locks(w);
	judge_directory(w);
}

/* Of all machines together. Who became another program was not killed, but is gone as well. */
static void tell_kills(const struct ledger *g)
{
	static const char *const whose[] = { "the host's", "guests'" };
	static const char *const how[] = { "killed", "stopped" };
	int i, f;

	for (i = 0; i < 2; i++) {
		printf("# %s processes: %llu kills", whose[i], (unsigned long long)
		       (g->fates[i][FATE_KILL] + g->fates[i][FATE_STEP] + g->fates[i][FATE_FORK]));
		for (f = 0; f <= FATE_EXEC; f++)
			printf("; %llu %s", (unsigned long long)g->fates[i][f], fate_name[f]);
		printf("\n");
	}
	printf("# through windows: %llu messages; %llu ends of senders were judged\n", (unsigned long long)g->windowed,
	       (unsigned long long)g->cut_off);
	for (i = 0; i < 2; i++) {
		printf("# %s at:", how[i]);
		for (f = 0; f < OWN_STEPS; f++)
			printf("%s %llu '%s'", f ? "," : "", (unsigned long long)g->steps[i][f], step_name[f]);
		printf("\n");
	}
}

int tell_findings(struct world *w)
{
	uint32_t i, n = atomic_load(&w->ledger->nfindings);

	tell_kills(w->ledger);

	for (i = 0; i < n && i < FINDINGS; i++)
		printf("# seed %llu: %s\n", (unsigned long long)w->ledger->seed, w->ledger->finding[i]);
	if (n > FINDINGS)
		printf("# and %u more\n", n - FINDINGS);
	return n != 0;
}
