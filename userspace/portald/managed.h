/* SPDX-License-Identifier: MIT */
/*
 * A managed portal's tables (portal-layout(5)), as portald has to do with them: it is
 * the machine in slot 0, for the host's processes, whose sessions are its rows; and it
 * watches the others.
 *
 * What is in the tables is advertisement, and anybody may scribble there. The truth
 * about our rows is in struct truth, which nobody else has; the rows are written from it,
 * and put right at each heartbeat.
 */
#ifndef PORTALD_MANAGED_H
#define PORTALD_MANAGED_H

#include <vmportal_ring.h>	/* the fence */

#include <lib/layout.h>

#include "portal.h"

/**
 * struct truth - what is true of our rows, and of the superblock
 * @super: as it was written
 * @row: all but the three words that belong to everybody
 * @session: rows of block 0
 */
struct truth {
	struct portal_super super;
	struct portal_peer row;
	struct portal_session session[];
};

/**
 * struct sight - how another machine's row was seen last
 * @claim ... @changes: its words
 * @beat_at: when its heart was seen to beat, CLOCK_MONOTONIC, microseconds
 * @looks: beats of our own since
 * @told: when the log last said that it stands still, and that it beats again
 */
struct sight {
	uint64_t claim, dead, suspect, life, changes, heartbeat;
	uint64_t beat_at;
	uint32_t looks;
	uint64_t told[2];
};

/* The places of our rows: ours; nobody's yet, for it is being formatted; others'. */
enum places { PLACES_OURS, PLACES_UNMADE, PLACES_OTHERS };
#define PLACES 3

/**
 * struct managed - the tables of a managed portal
 * @super: its superblock, believed; only the places of it, when others have formatted it anew
 * @region: mapped
 * @aside, @aside_len: what stands for it then (managed_rows())
 * @away: what became of our rows' places, when it was formatted anew, or is being
 * @spoilt: an incarnation that stood in a superblock that is none, as if it had been
 * @sums: how many more of those may be looked at before the next heartbeat
 * @own: the eventfds of our own id: who changes a row rings the first of them
 * @sight: of each slot
 * @looked: when that was
 * @ghosts: guests without connection, whose processes are watched (warden.c)
 * @lifelines: inotify: one of them may have ended
 * @beat, @rung, @pause: the heart; somebody rang; and shall not at once again
 * @ended, @looking: a lifeline has perhaps ended; we look
 * @repaired: when the log last said that our rows had been overwritten
 * @told: and what became of the places
 * @told_away: that they are not ours was the last of that
 */
struct managed {
	struct portal *portal;
	struct portal_super super;
	void *region, *aside;
	size_t aside_len;
	enum places away;
	uint64_t spoilt;
	unsigned int sums;
	struct truth *truth;
	struct efds *own;
	struct sight *sight;
	uint64_t looked;
	struct client_list ghosts;
	int lifelines;
	sd_event_source *beat, *rung, *pause, *ended, *looking;
	uint64_t repaired, told[PLACES];
	bool told_away;
};

/* A word of a row, whatever its type. */
typedef uint64_t __attribute__((may_alias)) row_word;

static inline uint64_t load_word(const void *word)
{
	return __atomic_load_n((const row_word *)word, __ATOMIC_RELAXED);
}

static inline void store_word(void *word, uint64_t v)
{
	__atomic_store_n((row_word *)word, v, __ATOMIC_RELEASE);
}

static inline bool swap_word(void *word, uint64_t was, uint64_t to)
{
	return __atomic_compare_exchange_n((row_word *)word, &was, to, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_RELAXED);
}

/* Joins as slot 0; 0, or -1 and @e. */
int managed_open(struct portal *p, struct err *e);

/* After everybody was restored: goes on. */
void managed_resume(struct managed *m);

/*
 * Leaves, unless the next portald goes on. Processes that have it mapped still are told
 * of, for they may still store.
 */
void managed_close(struct managed *m, bool keep);

/* A row of ours, or a verdict, was stored: counts it, tells machines and processes. */
void managed_changed(struct managed *m);

/* Is the portal being formatted, or was it, since we last knew? */
static inline bool managed_formatted(struct managed *m)
{
	return layout_formatted(m->region, m->truth->super.incarnation, &m->spoilt, &m->sums);
}

/*
 * Where our rows' places are ours. Else all that is stored there goes to memory that nobody
 * sees, from the first store on: when each of them finds out does not matter. To be asked for each
 * word, for we may be stopped between any two.
 */
static inline void *managed_rows(struct managed *m)
{
	return m->away || managed_formatted(m) ? m->aside : m->region;
}

/* The row of machine @slot. */
static inline struct portal_peer *peer_row(struct managed *m, uint32_t slot)
{
	return layout_row(managed_rows(m), &m->super, PORTAL_AREA_PEERS, slot);
}

/* Of our sessions. */
static inline struct portal_session *session_row(struct managed *m, uint32_t i)
{
	return layout_row(managed_rows(m), &m->super, PORTAL_AREA_SESSIONS, i);
}

/*
 * Words of our row, and of our sessions'. To look is a part of each store; the one that we are
 * stopped before still comes late.
 */
static inline void put_peer(struct managed *m, size_t at, uint64_t v)
{
	store_word((char *)peer_row(m, 0) + at, v);
}

static inline void put_session(struct managed *m, uint32_t i, size_t at, uint64_t v)
{
	store_word((char *)session_row(m, i) + at, v);
}

/* The reason of a verdict, which stands beside words of 8 bytes. */
static inline uint32_t *reason_at(struct managed *m, uint32_t slot)
{
	return (uint32_t *)&peer_row(m, slot)->reason;
}

static inline uint32_t load_reason(struct managed *m, uint32_t slot)
{
	return __atomic_load_n(reason_at(m, slot), __ATOMIC_ACQUIRE);
}

static inline bool swap_reason(struct managed *m, uint32_t slot, uint32_t was, uint32_t to)
{
	return __atomic_compare_exchange_n(reason_at(m, slot), &was, to, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_RELAXED);
}

/*
 * The heart of the suspect with @claim was heard: takes the suspicion back, if it was for
 * silence, or is half stored. As any observer may. A warden may give his reason at any moment,
 * and find that the suspicion stands already (pronounce()): so either he finds that it does not,
 * or his reason is seen here, and it is put back.
 */
static inline bool heard(struct managed *m, uint32_t slot, uint64_t claim)
{
	uint32_t was = load_reason(m, slot);

	if (was && was != PORTAL_REASON_SILENT)
		return false;
	if (was && !swap_reason(m, slot, was, PORTAL_REASON_NONE))
		return false;
	if (!swap_word(&peer_row(m, slot)->suspect, claim, 0))
		return false;
	vmpr_full_fence();
	was = load_reason(m, slot);
	if (!was || was == PORTAL_REASON_SILENT)
		return true;
	swap_word(&peer_row(m, slot)->suspect, 0, claim);
	return false;
}

/* Before anything that is to last: was it formatted? Then what that means is done. */
void managed_look(struct managed *m);

/* session.c */
int sessions_open(struct managed *m);
/* @keep: everything stays as it is, for the next portald. */
void sessions_close(struct managed *m, bool keep);
/* How many of our processes' sessions are not over. */
unsigned int sessions_alive(const struct managed *m);
/* All are dead: the claim that they stood for is, or the tables are gone. Their clients are cut. */
void sessions_disown(struct managed *m, const char *why);
/* At each heartbeat: at all of them, whatever was heard. */
void sessions_look(struct managed *m);
/* @c asks for one: it gets an answer. */
void session_ask(struct client *c, uint32_t vector);
/* @c was restored: so is its session. */
void session_restore(struct client *c);
/* For the answer: its token; a new lifeline, or -errno; why there is none. */
uint64_t session_token(const struct client *c);
int session_lifeline(struct client *c);
const char *session_refusal(int err);
/* @c's connection is over: is its session (if it has one), too? */
bool session_over(struct client *c);

/* warden.c */
/* A guest has come: watches its process. */
void warden_watch(struct client *c);
/*
 * It has left, and others know: a verdict on its machine. It is freed, or kept without its
 * connection as long as its process lives.
 */
void warden_part(struct client *c);
/* At each heartbeat: whoever of them has a new claim is suspect, too. */
void wardens_look(struct managed *m);
void wardens_close(struct managed *m, bool keep);
/* One that lost its connection before a restart. */
void warden_restore(struct client *c);
/* @c wants a machine declared dead: it gets an answer. */
void warden_ask(struct client *c, uint32_t slot, uint64_t claim);
const char *warden_refusal(int err);

/* observe.c */
/* Looks at all other machines' rows; at a heartbeat silence is judged. */
void observe(struct managed *m, bool beat);
/* Tells all processes to look. */
void tell_change(struct portal *p);

#endif
