// SPDX-License-Identifier: MIT
/* Slot 0: joining, the heart, putting right what was overwritten, leaving. */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <systemd/sd-id128.h>
#include <time.h>
#include <unistd.h>

#include "efds.h"
#include "log.h"
#include "managed.h"

#define REPAIRED_USEC	(60 * USEC_PER_SEC)	/* between two lines about it */
#define SPOILT_A_BEAT	16	/* superblocks that are none: as many are looked at */
#define CLAIMS		16			/* of whom each is judged at once, by somebody hostile */
#define RUNG_USEC	2000			/* who rings without end is heard so often */

/* Our part of the row: from here to its end. */
#define OURS offsetof(struct portal_peer, life)

static uint64_t life(uint64_t sequence, uint32_t state)
{
	return sequence << PORTAL_SLOT_BITS | state;
}

static int random_word(__le64 *v)
{
	do {
		if (getrandom(v, sizeof(*v), 0) != sizeof(*v))
			return -errno;
	} while (!*v || !(uint32_t)*v);
	return 0;
}

/* ---- Joining and leaving ----------------------------------------------------- */

/*
 * Nobody else claims slot 0, so that whatever claim stands there is an earlier portald's,
 * or scribble; and a reason there, a verdict's on that. Or on ours already: then it has another.
 */
static int make_claim(struct managed *m)
{
	uint32_t address = m->portal->conf.host_peers, why;
	unsigned int claims = 0;
	__le64 claim;

	do {
		if (random_word(&claim) < 0)
			return -errno;
		claim = (uint64_t)(address + 1) << 32 | (uint32_t)claim;
		kept_store(&m->truth->row.claim, claim);
		/* Whatever stands there is not another's: the slot is ours alone. */
		__atomic_exchange_n((row_word *)&peer_row(m, 0)->claim, claim, __ATOMIC_SEQ_CST);
		why = load_reason(m, 0);
		/* As portal_slot_take() in drivers/core/peers.c, which says why. */
	} while (++claims < CLAIMS && why && swap_reason(m, 0, why, PORTAL_REASON_NONE) &&
		 (load_word(&peer_row(m, 0)->dead) == claim ||
		  load_word(&peer_row(m, 0)->suspect) == claim));
	return 0;
}

static void describe(struct managed *m)
{
	struct portal_peer *t = &m->truth->row;
	struct timespec now;
	sd_id128_t id;

	clock_gettime(CLOCK_REALTIME, &now);
	t->kind = PORTAL_PEER_HOST;
	t->vectors = m->portal->conf.vectors;
	t->notice = 0;
	t->heartbeat_ms = m->portal->conf.heartbeat;
	t->joined = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	/* This machine's, for this purpose only. */
	if (sd_id128_get_machine_app_specific(SD_ID128_MAKE(5c, 1f, a3, 0e, 77, 42, 4d, 0c, 9b, 61,
							    e8, 35, 6a, d2, 18, f4), &id) >= 0)
		memcpy(t->machine, id.bytes, sizeof(t->machine));
	memset(t->name, 0, sizeof(t->name));
	if (gethostname(t->name, sizeof(t->name) - 1) < 0 ||
	    !layout_is_text(t->name, sizeof(t->name)))
		memset(t->name, 0, sizeof(t->name));
}

/* Words of our row from @from on, from the truth. */
static void write_row(struct managed *m, size_t from)
{
	char *t = (char *)&m->truth->row;
	size_t at;

	for (at = from; at < sizeof(m->truth->row); at += 8)
		put_peer(m, at, load_word(t + at));
}

/*
 * The first join of this portald: numbers go on from where the rows are, which an earlier
 * one may have left. No process that had a session then is still served.
 */
static void take_over(struct managed *m)
{
	struct portal_session *t;
	uint32_t i;

	for (i = 0; i < m->super.sessions; i++) {
		t = &m->truth->session[i];
		layout_read(t, session_row(m, i), sizeof(*t), 0);
		if (life_sequence(t->life))
			t->life = life(life_sequence(t->life), PORTAL_LIFE_DEAD);
	}
	kept_store(&m->truth->row.life, load_word(&peer_row(m, 0)->life));
}

/* No session of before is alive, whatever their rows say. */
static void bury_sessions(struct managed *m)
{
	uint32_t i;

	for (i = 0; i < m->super.sessions; i++)
		put_session(m, i, 0, m->truth->session[i].life);
}

static int join(struct managed *m)
{
	struct portal_peer *t = &m->truth->row;
	uint64_t n;

	if (!t->life)
		take_over(m);
	n = life_sequence(t->life);
	if (n >= PORTAL_SEQUENCE_MAX)
		return -EOVERFLOW;
	if (make_claim(m) < 0 || random_word(&t->incarnation) < 0)
		return -errno;
	kept_store(&t->life, life(n + 1, PORTAL_LIFE_JOINING));
	put_peer(m, OURS, t->life);
	vmpr_full_fence();
	describe(m);
	write_row(m, OURS + 8);
	bury_sessions(m);
	kept_store(&t->life, life(n + 1, PORTAL_LIFE_ALIVE));
	put_peer(m, OURS, t->life);
	managed_changed(m);
	return 0;
}

/*
 * A process of this host that has the memory mapped can store, whether we serve it or not:
 * so long we may not say that its session is dead, nor take the claim away under it. Then
 * we are asleep, and for ever if nobody takes over.
 */
static void leave(struct managed *m)
{
	struct portal_peer *t = &m->truth->row;
	unsigned int alive = sessions_alive(m);
	uint32_t state = alive ? PORTAL_LIFE_ASLEEP : PORTAL_LIFE_DEAD;

	if (alive)
		log_line(LOG_WARNING, m->portal->conf.name,
			 "%u processes of this host still have the memory: their sessions are not declared dead, this host says it is asleep",
			 alive);
	t->life = life(life_sequence(t->life), state);
	put_peer(m, OURS, t->life);
	if (!alive)
		put_peer(m, offsetof(struct portal_peer, claim), 0);
	managed_changed(m);
}

/* ---- The heart --------------------------------------------------------------- */

/* How many words of our row differed from the truth, and are right again. */
static unsigned int repair_peer(struct managed *m, size_t from, size_t to)
{
	const char *truth = (const char *)&m->truth->row;
	unsigned int wrong = 0;
	size_t at;

	for (at = from; at < to; at += 8)
		if (load_word((char *)peer_row(m, 0) + at) != load_word(truth + at)) {
			put_peer(m, at, load_word(truth + at));
			wrong++;
		}
	return wrong;
}

static unsigned int repair_session(struct managed *m, uint32_t i)
{
	const char *truth = (const char *)&m->truth->session[i];
	unsigned int wrong = 0;
	size_t at;

	for (at = 0; at < sizeof(struct portal_session); at += 8)
		if (load_word((char *)session_row(m, i) + at) != load_word(truth + at)) {
			put_session(m, i, at, load_word(truth + at));
			wrong++;
		}
	return wrong;
}

static void repair_all(struct managed *m, bool say)
{
	uint64_t now = now_usec(m->portal);
	unsigned int wrong = 0;
	uint32_t i;

	wrong += repair_peer(m, 0, 8);
	wrong += repair_peer(m, OURS, sizeof(struct portal_peer));
	for (i = 0; i < m->super.sessions; i++)
		wrong += repair_session(m, i);
	if (!wrong)
		return;
	if (say && (!m->repaired || now - m->repaired > REPAIRED_USEC)) {
		m->repaired = now;
		log_line(LOG_WARNING, m->portal->conf.name,
			 "somebody has overwritten %u words of this host's rows in the tables; they are right again",
			 wrong);
	}
	managed_changed(m);
}

/* ---- Formatted anew ---------------------------------------------------------- */

/* Are the tables whole, and our rows at the places of before? */
static enum places find_places(struct managed *m, struct portal_super *s)
{
	static const unsigned int areas[] = { PORTAL_AREA_PEERS, PORTAL_AREA_SESSIONS };
	unsigned int i;

	if (load_word(m->region) == PORTAL_MAGIC_FORMATTING)
		return PLACES_UNMADE;
	if (layout_parse(m->region, m->portal->conf.size, s, NULL, NULL) ||
	    s->peers != m->super.peers || s->sessions != m->super.sessions)
		return PLACES_OTHERS;
	for (i = 0; i < 2; i++)
		if (s->area[areas[i]].offset != m->super.area[areas[i]].offset ||
		    s->area[areas[i]].stride != m->super.area[areas[i]].stride)
			return PLACES_OTHERS;
	return PLACES_OURS;
}

/* Each once a minute, but that the end of what was said is said, too. */
static void say_formatted(struct managed *m)
{
	uint64_t now = now_usec(m->portal), last = m->told[m->away];
	const char *name = m->portal->conf.name;

	if (last && now - last < REPAIRED_USEC && (m->away || !m->told_away))
		return;
	m->told[m->away] = now;
	m->told_away = m->away;
	if (m->away == PLACES_OURS)
		log_line(LOG_ERR, name,
			 "somebody has formatted the portal anew: its processes' sessions are over, and this host joins the new tables");
	else if (m->away == PLACES_UNMADE)
		log_line(LOG_ERR, name,
			 "somebody formats the portal: its processes' sessions are over, and this host joins the new tables when they are there; if it stays so, format it again");
	else
		log_line(LOG_ERR, name,
			 "somebody has formatted the portal anew, and not with %u peers and %u sessions at their places: its processes' sessions are over, and portald stores nothing there and gives no more of them, until it is formatted with these numbers, or portald is stopped and started, which makes a new region",
			 m->super.peers, m->super.sessions);
}

/*
 * Nothing of ours is in the new tables. In those that have our places this host joins as
 * another, as after a verdict on it; of others it keeps away. All sessions end before the
 * new incarnation is known, so that a restart on the way ends the rest.
 */
void managed_look(struct managed *m)
{
	enum places found, was = m->away;
	struct portal_super s;
	int ret;

	if (!was && !managed_formatted(m))
		return;
	found = find_places(m, &s);
	if (was && was == found)
		return;
	sessions_disown(m, "the portal was formatted anew");
	m->away = found;
	if (found == PLACES_OURS)
		kept_store(&m->truth->super.incarnation, s.incarnation);
	say_formatted(m);
	/* From one to the other of those that are not ours: nothing to join. */
	if (was && found)
		return;
	ret = join(m);
	if (ret < 0)
		log_line(LOG_ERR, m->portal->conf.name, "cannot join anew: %s", strerror(-ret));
	repair_all(m, false);
}

void managed_resume(struct managed *m)
{
	managed_look(m);
	/* Without complaint: what was not written yet when we were killed. */
	repair_all(m, false);
	sessions_look(m);
	observe(m, false);
	managed_changed(m);
}

/*
 * Somebody has declared this host dead. It is not, but the others may have given to others
 * by now what its processes held: their sessions are over. It comes back as another.
 */
static void fenced(struct managed *m)
{
	uint32_t reason = load_reason(m, 0);
	int ret;

	log_line(LOG_ERR, m->portal->conf.name,
		 "this host was declared dead (reason %u): its processes' sessions are over, and it joins anew",
		 reason);
	sessions_disown(m, "this host was declared dead");
	ret = join(m);
	if (ret < 0)
		log_line(LOG_ERR, m->portal->conf.name, "cannot join anew: %s", strerror(-ret));
}

/* Who took us for silent sees now that we are not. */
static void clear_suspicion(struct managed *m)
{
	uint64_t was = m->truth->row.claim;

	if (load_word(&peer_row(m, 0)->suspect) == was && heard(m, 0, was))
		managed_changed(m);
}

static int on_beat(sd_event_source *s, uint64_t usec, void *arg)
{
	struct managed *m = arg;
	uint64_t next = usec + m->portal->conf.heartbeat * 1000ULL, now = now_usec(m->portal);

	m->sums = SPOILT_A_BEAT;
	managed_look(m);
	m->truth->row.heartbeat++;
	put_peer(m, offsetof(struct portal_peer, heartbeat), m->truth->row.heartbeat);
	if (load_word(&peer_row(m, 0)->dead) == m->truth->row.claim)
		fenced(m);
	repair_all(m, true);
	clear_suspicion(m);
	sessions_look(m);
	wardens_look(m);
	observe(m, true);
	sd_event_source_set_time(s, next > now ? next : now + m->portal->conf.heartbeat * 1000ULL);
	return sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

/* ---- Changes ----------------------------------------------------------------- */

void managed_changed(struct managed *m)
{
	struct portal *p = m->portal;
	struct client *guest;
	uint32_t slot, notice;
	uint64_t claim;

	m->truth->row.changes++;
	put_peer(m, offsetof(struct portal_peer, changes), m->truth->row.changes);
	/* Which vector a machine wants is its word; that it has such an id and vector, ours. */
	efds_guard(true);
	for (slot = 1; slot < m->super.peers; slot++) {
		claim = load_word(&peer_row(m, slot)->claim);
		notice = __atomic_load_n(&peer_row(m, slot)->notice, __ATOMIC_RELAXED);
		if (!claim || notice >= p->conf.vectors)
			continue;
		guest = portal_guest(p, claim_address(claim));
		if (guest)
			efds_ring(guest->efds, notice);
	}
	efds_guard(false);
	tell_change(p);
}

static int on_rung(sd_event_source *s, int fd, uint32_t revents, void *arg)
{
	struct managed *m = arg;

	efds_drain(m->own);
	observe(m, false);
	sd_event_source_set_enabled(s, SD_EVENT_OFF);
	sd_event_source_set_time_relative(m->pause, RUNG_USEC);
	return sd_event_source_set_enabled(m->pause, SD_EVENT_ONESHOT);
}

static int on_pause_over(sd_event_source *s, uint64_t usec, void *arg)
{
	struct managed *m = arg;

	return sd_event_source_set_enabled(m->rung, SD_EVENT_ON);
}

/* ---- From and to the rest of portald ----------------------------------------- */

static int watch(struct managed *m)
{
	sd_event *ev = m->portal->event;
	int ret;

	ret = sd_event_add_time_relative(ev, &m->beat, CLOCK_MONOTONIC,
					 m->portal->conf.heartbeat * 1000ULL, 1000, on_beat, m);
	/* Before others: an observer whose own work delays its heart looks suspect. */
	if (ret >= 0)
		ret = sd_event_source_set_priority(m->beat, SD_EVENT_PRIORITY_NORMAL - 10);
	if (ret >= 0)
		ret = sd_event_add_io(ev, &m->rung, m->own->fd[0], EPOLLIN, on_rung, m);
	if (ret >= 0)
		ret = sd_event_add_time(ev, &m->pause, CLOCK_MONOTONIC, 0, 100, on_pause_over, m);
	if (ret >= 0)
		ret = sd_event_source_set_enabled(m->pause, SD_EVENT_OFF);
	return ret;
}

static void managed_free(struct managed *m, bool keep)
{
	sd_event_source_disable_unref(m->beat);
	sd_event_source_disable_unref(m->rung);
	sd_event_source_disable_unref(m->pause);
	sessions_close(m, keep);
	wardens_close(m, keep);
	if (m->region != MAP_FAILED)
		munmap(m->region, m->portal->conf.size);
	if (m->aside != MAP_FAILED)
		munmap(m->aside, m->aside_len);
	free(m->sight);
	m->portal->managed = NULL;
	free(m);
}

/* Memory for our rows that nobody else sees, at their places: it costs nothing until it is used. */
static int map_aside(struct managed *m)
{
	const struct portal_area *a = m->super.area;
	uint64_t peers = a[PORTAL_AREA_PEERS].offset + a[PORTAL_AREA_PEERS].length;
	uint64_t sessions = a[PORTAL_AREA_SESSIONS].offset + a[PORTAL_AREA_SESSIONS].length;

	m->aside_len = peers > sessions ? peers : sessions;
	m->aside = mmap(NULL, m->aside_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return m->aside == MAP_FAILED ? -errno : 0;
}

int managed_open(struct portal *p, struct err *e)
{
	struct managed *m = calloc(1, sizeof(*m));
	int ret;

	if (!m)
		return err_set(e, "out of memory");
	m->portal = p;
	p->managed = m;
	m->sums = SPOILT_A_BEAT;
	m->lifelines = -1;
	TAILQ_INIT(&m->ghosts);
	m->own = p->slots[p->conf.host_peers].efds;
	m->aside = MAP_FAILED;
	m->region = mmap(NULL, p->conf.size, PROT_READ | PROT_WRITE, MAP_SHARED, p->region, 0);
	if (m->region == MAP_FAILED) {
		err_set(e, "managed: cannot map the region: %s", strerror(errno));
		goto fail;
	}
	m->truth = p->kept.truth;
	/* What anybody has made of it since is no reason not to go on. */
	if (!m->truth->super.magic &&
	    layout_parse(m->region, p->conf.size, &m->truth->super, NULL, NULL) < 0) {
		err_set(e, "managed: the superblock is damaged");
		goto fail;
	}
	m->super = m->truth->super;
	/* Of an earlier portald's row this alone may be another now. */
	m->truth->row.heartbeat_ms = p->conf.heartbeat;
	m->sight = calloc(m->super.peers, sizeof(m->sight[0]));
	ret = m->sight ? map_aside(m) : -ENOMEM;
	if (ret >= 0)
		ret = sessions_open(m);
	if (ret >= 0)
		ret = watch(m);
	/* An earlier portald's row goes on; what it was about to write is put right soon. */
	if (ret >= 0 && life_low(m->truth->row.life) != PORTAL_LIFE_ALIVE)
		ret = join(m);
	if (ret >= 0)
		return 0;
	err_set(e, "managed: cannot join: %s", strerror(-ret));
fail:
	managed_free(m, true);
	return -1;
}

void managed_close(struct managed *m, bool keep)
{
	if (!keep) {
		managed_look(m);
		leave(m);
	}
	managed_free(m, keep);
}
