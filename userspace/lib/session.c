// SPDX-License-Identifier: MIT
/*
 * Sessions: this process's own, how others' stand, how they are rung; and watching the
 * tables. Who ends a session, and how that is known, is the backends' affair.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <vmportal_ring.h>

#include "named.h"

#define WATCHERS	32
#define SILENT_BEATS	3	/* that a heart stands still for; nobody listens to others than: */
#define HEART_MIN_MS	100
#define HEART_MAX_MS	60000
#define LOOK_EVERY_S	1	/* at objects, for who is no watcher */
#define LOOK_SLOWLY_S	10	/* for who is one: anybody may overwrite its place, or lose its ring */

_Static_assert(sizeof(((struct portal_directory *)0)->watcher) == WATCHERS * 8, "watchers");

/* ---- This process's ----------------------------------------------------------- */

/* Why this portal object can have none, or 0. */
static int may_join(struct vmp *p)
{
	uint64_t at, n;
	int r = vmp_managed(p);

	if (!r)
		r = vmp_data(p, &at, &n);
	if (r)
		return r;
	if (p->flags & VMP_RDONLY)
		return vmp_fail(-EACCES, "%s %s: opened read-only; a session can store",
				p->info.transport, p->info.identity);
	if (!p->ops->session)
		return vmp_fail(-EOPNOTSUPP, "%s %s: nobody would tell others when this process dies; use /dev/portalN, or portald's unix:",
				p->info.transport, p->info.identity);
	return 0;
}

static int join(struct vmp *p)
{
	uint32_t vector = PORTAL_VECTOR_NONE;
	uint64_t token = 0;
	int bell = -1, r;

	if (p->info.caps & VMP_CAP_EVENTS) {
		vector = p->info.first_vector;
		bell = vmp_eventfd(p, vector);
		if (bell < 0)
			return bell;
	}
	r = p->ops->session(p, vector, &token);
	if (r)
		return r;
	if (layout_token(p->base, p->super, token) == TOKEN_NEVER) {
		r = vmp_same_tables(p);
		return r ? r : vmp_fail(-EPROTO, "%s %s: was given a session that is not in its table (token %#" PRIx64 "): if it was formatted with other numbers of machines or sessions, stop its server and start it",
					p->info.transport, p->info.identity, token);
	}
	p->bell = bell;
	/* Who sees the token sees the rest. */
	__atomic_store_n(&p->token, token, __ATOMIC_RELEASE);
	return 0;
}

VMP_API int vmp_join(struct vmp *p, uint64_t *token)
{
	int r = vmp_not_a_child(p);

	if (!r && !vmp_token(p)) {
		r = may_join(p);
		if (r)
			return r;
		pthread_mutex_lock(&p->joining);
		if (!p->token)
			r = join(p);
		pthread_mutex_unlock(&p->joining);
	}
	if (!r)
		r = vmp_same_tables(p);
	if (!r && token)
		*token = p->token;
	return r;
}

static bool rows_say_alive(struct vmp *p)
{
	uint32_t slot = life_low(p->token);
	const struct portal_session *s = layout_row(p->base, p->super, PORTAL_AREA_SESSIONS, slot);
	const struct portal_peer *peer = layout_row(p->base, p->super, PORTAL_AREA_PEERS,
						    slot / p->super->sessions);
	uint64_t alive = life_sequence(p->token) << PORTAL_SLOT_BITS | PORTAL_LIFE_ALIVE;
	uint64_t claim = __atomic_load_n(&s->claim, __ATOMIC_RELAXED);

	return __atomic_load_n(&s->life, __ATOMIC_RELAXED) == alive &&
	       claim == __atomic_load_n(&peer->claim, __ATOMIC_RELAXED) &&
	       claim != __atomic_load_n(&peer->dead, __ATOMIC_RELAXED);
}

int vmp_session_check(struct vmp *p)
{
	int r = vmp_same_tables(p);

	/* Whose rows are written anew there may be right again. */
	if (r || rows_say_alive(p))
		return r;
	/* The zeroes of a device that was unplugged say nothing. */
	r = vmp_refresh(p);
	return r ? r : vmp_fail(-ESTALE, "%s %s: this process's session is over: its machine was declared dead, or came back as another; close the portal and open it anew",
			p->info.transport, p->info.identity);
}

int vmp_session_same(struct vmp *p, uint64_t token)
{
	/* Another, or none: it was through @p that they were. */
	return vmp_token(p) == token ? vmp_same_tables(p) :
		vmp_fail(-ESTALE, "%s %s: was formatted anew, or taken for raw, while this process had a session; close the portal and open it anew",
			 p->info.transport, p->info.identity);
}

/* ---- Others' ------------------------------------------------------------------- */

bool vmp_deserted(struct vmp *p)
{
	return p->ops->lost && p->ops->lost(p);
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/*
 * Nobody tells of deaths any more, nor, for all we know, of silence. Of this host's processes
 * nothing is known then; of a machine we hear the heart ourselves. As any observer
 * (portal_silent() in drivers/core/watch.c), with a look each HEAR_EVERY from who sleeps.
 */
static bool silent(struct vmp *p, uint32_t slot, const struct portal_peer *peer)
{
	int64_t looks = 2 * HEAR_EVERY - HEAR_EVERY / 8, now = now_ns();
	int64_t most = peer->heartbeat_ms * INT64_C(1000000) * SILENT_BEATS - looks;
	struct heard *h;
	bool silent = true;

	if (peer->kind == PORTAL_PEER_HOST || peer->heartbeat_ms < HEART_MIN_MS ||
	    peer->heartbeat_ms > HEART_MAX_MS)
		return true;
	pthread_mutex_lock(&p->lock);
	if (!p->heard)
		p->heard = calloc(p->super->peers, sizeof(*p->heard));
	if (p->heard) {
		h = &p->heard[slot];
		if (!h->at || h->claim != peer->claim || h->beat != peer->heartbeat)
			*h = (struct heard) { peer->claim, peer->heartbeat, now };
		silent = now - h->at >= (most > looks ? most : looks);
	}
	pthread_mutex_unlock(&p->lock);
	return silent;
}

VMP_API int vmp_token_state(struct vmp *p, uint64_t token)
{
	struct portal_peer peer;
	int r = vmp_managed(p);

	if (!r)
		r = vmp_same_tables(p);
	if (r)
		return r;
	switch (layout_token_of(p->base, p->super, token, &peer)) {
	case TOKEN_DEAD:
		return VMP_STATE_DEAD;
	case TOKEN_NEVER:
		return vmp_fail(-ESTALE, "%s %s: token %#" PRIx64 " was never given out", p->info.transport,
				p->info.identity, token);
	default:
		break;
	}
	/* The same look as the one that found it alive. */
	if (peer.claim == peer.suspect || life_low(peer.life) == PORTAL_LIFE_ASLEEP)
		return VMP_STATE_SUSPECT;
	return token != p->token && vmp_deserted(p) && silent(p, life_low(token) / p->super->sessions, &peer) ?
		VMP_STATE_SUSPECT : VMP_STATE_ALIVE;
}

const char *vmp_token_text(struct vmp *p, uint64_t token)
{
	int state = token ? vmp_token_state(p, token) : VMP_STATE_NONE;

	if ((state == VMP_STATE_ALIVE || state == VMP_STATE_SUSPECT) && vmp_deserted(p))
		return "perhaps dead: portald, which would tell, is gone; close the portal and open it anew";
	return state == VMP_STATE_SUSPECT ?
		"suspect: its machine gives no sign of life; 'portalctl fence' declares it dead" : "alive";
}

static uint64_t *pending_word(struct vmp *p, uint32_t slot, uint64_t *bit)
{
	uint64_t *row = layout_row(p->base, p->super, PORTAL_AREA_PENDING, slot / p->super->sessions);
	uint32_t n = slot % p->super->sessions;

	*bit = UINT64_C(1) << n % 64;
	return row + n / 64;
}

void vmp_pending_clear(struct vmp *p)
{
	uint64_t bit, *word = pending_word(p, life_low(p->token), &bit);

	if (__atomic_load_n(word, __ATOMIC_RELAXED) & bit)
		__atomic_fetch_and(word, ~bit, __ATOMIC_SEQ_CST);
}

int vmp_ring_session(struct vmp *p, uint64_t token)
{
	uint32_t slot = life_low(token);
	struct portal_session row;
	uint64_t bit, *word;

	if (layout_token(p->base, p->super, token) != TOKEN_ALIVE)
		return vmp_fail_quickly(-ESTALE, "this session is over");
	layout_read(&row, layout_row(p->base, p->super, PORTAL_AREA_SESSIONS, slot), sizeof(row), 0);
	if (life_sequence(row.life) != life_sequence(token))
		return vmp_fail_quickly(-ESTALE, "this session is over");
	if (row.vector == PORTAL_VECTOR_NONE || row.address == PORTAL_ADDRESS_NONE)
		return vmp_fail_quickly(-ENXIO, "this session has no doorbell");
	word = pending_word(p, slot, &bit);
	__atomic_fetch_or(word, bit, __ATOMIC_SEQ_CST);
	return vmp_ring(p, row.address, row.vector);
}

void vmp_ring_sessions(struct vmp *p, void *places, unsigned int n)
{
	uint64_t *place = places, token;
	unsigned int i;

	vmp_hold_errmsg(true);
	for (i = 0; i < n; i++) {
		token = __atomic_load_n(&place[i], __ATOMIC_RELAXED);
		if (token && vmp_ring_session(p, token) == -ESTALE)
			__atomic_compare_exchange_n(&place[i], &token, 0, false, __ATOMIC_RELAXED,
						    __ATOMIC_RELAXED);
	}
	vmp_hold_errmsg(false);
}

/* ---- Sleeping -------------------------------------------------------------------- */

static int add(int set, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET };

	/* It may be in it already. */
	if (fd >= 0 && epoll_ctl(set, EPOLL_CTL_ADD, fd, &ev) && errno != EEXIST)
		return vmp_fail(-errno, "epoll_ctl: %s", strerror(errno));
	return 0;
}

static int new_set(void)
{
	int set = epoll_create1(EPOLL_CLOEXEC);

	return set >= 0 ? set : vmp_fail(-errno, "epoll_create1: %s", strerror(errno));
}

int vmp_session_set(struct vmp *p)
{
	int set = new_set(), r;

	if (set < 0)
		return set;
	r = add(set, p->bell);
	if (!r && p->ops->watch)
		r = p->ops->watch(p, set);
	if (!r)
		return set;
	close(set);
	return r;
}

int vmp_session_sleep(struct vmp *p, int set, int ms)
{
	struct epoll_event ev[4];
	int n = epoll_wait(set, ev, 4, ms);

	if (n < 0)
		return errno == EINTR ? vmp_fail_quickly(-EINTR, "interrupted by a signal") :
			vmp_fail(-errno, "epoll_wait: %s", strerror(errno));
	if (!n)
		return 0;
	vmp_pending_clear(p);
	if (p->ops->watched)
		p->ops->watched(p);
	return 1;
}

/* ---- Watching -------------------------------------------------------------------- */

static uint64_t *watcher(struct vmp *p, int i)
{
	struct portal_directory *d = layout_row(p->base, p->super, PORTAL_AREA_DIRECTORY, 0);

	return (uint64_t *)&d->watcher[i];
}

/* A place among the watchers that is free, or a dead one's; or -1. */
static int take_place(struct vmp *p)
{
	uint64_t was;
	int i;

	for (i = 0; i < WATCHERS; i++) {
		was = __atomic_load_n(watcher(p, i), __ATOMIC_RELAXED);
		if (was && layout_token(p->base, p->super, was) == TOKEN_ALIVE)
			continue;
		if (__atomic_compare_exchange_n(watcher(p, i), &was, p->token, false,
						__ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
			return i;
	}
	return -1;
}

/*
 * Whatever does not tell us is looked at by the clock. A place among the watchers that is
 * not ours any more is taken anew. Lock held.
 */
static int keep_watch(struct vmp *p)
{
	struct itimerspec every = { 0 };

	if (p->watch_place >= 0 &&
	    __atomic_load_n(watcher(p, p->watch_place), __ATOMIC_RELAXED) != p->token)
		p->watch_place = -1;
	if (p->watch_place < 0 && vmp_token(p) && p->bell >= 0 && !add(p->watch, p->bell))
		p->watch_place = take_place(p);
	every.it_value.tv_sec = p->ops->watch && p->watch_place >= 0 ? LOOK_SLOWLY_S : LOOK_EVERY_S;
	every.it_interval = every.it_value;
	if (timerfd_settime(p->watch_clock, 0, &every, NULL))
		return vmp_fail(-errno, "timerfd: %s", strerror(errno));
	return 0;
}

/* Lock held. */
static int fill_watch(struct vmp *p)
{
	int r = p->ops->watch ? p->ops->watch(p, p->watch) : 0;

	if (r)
		return r;
	p->watch_clock = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (p->watch_clock < 0)
		return vmp_fail(-errno, "timerfd: %s", strerror(errno));
	r = add(p->watch, p->watch_clock);
	return r ? r : keep_watch(p);
}

/* Lock held. */
static int watch(struct vmp *p)
{
	int r;

	p->watch = new_set();
	r = p->watch < 0 ? p->watch : fill_watch(p);
	if (!r)
		return 0;
	if (p->watch_clock >= 0)
		close(p->watch_clock);
	if (p->watch >= 0)
		close(p->watch);
	p->watch_clock = p->watch = -1;
	return r;
}

VMP_API int vmp_watch_fd(struct vmp *p)
{
	int r = vmp_managed(p);

	if (r)
		return r;
	/* A session is for the objects only; why there is none does not matter. */
	vmp_join(p, NULL);
	if (vmp_token(p))
		r = vmp_same_tables(p);
	if (r)
		return r;
	pthread_mutex_lock(&p->lock);
	if (p->watch < 0)
		r = watch(p);
	if (!r)
		r = p->watch;
	pthread_mutex_unlock(&p->lock);
	return r;
}

VMP_API int vmp_watch_clear(struct vmp *p)
{
	struct epoll_event ev[8];
	int fd, r = vmp_managed(p);

	/* Who has no session stores nothing below, and may have a device that is gone. */
	if (!r && vmp_token(p))
		r = vmp_same_tables(p);
	if (r)
		return r;
	pthread_mutex_lock(&p->lock);
	fd = p->watch;
	pthread_mutex_unlock(&p->lock);
	if (fd < 0)
		return vmp_fail(-EINVAL, "vmp_watch_clear: vmp_watch_fd() comes first");
	if (epoll_wait(fd, ev, 8, 0) < 0 && errno != EINTR)
		return vmp_fail(-errno, "epoll_wait: %s", strerror(errno));
	if (vmp_token(p))
		vmp_pending_clear(p);
	if (p->ops->watched)
		p->ops->watched(p);
	/* Before the caller looks: what it does not see, we are told. */
	pthread_mutex_lock(&p->lock);
	r = keep_watch(p);
	pthread_mutex_unlock(&p->lock);
	return r;
}

void vmp_session_leave(struct vmp *p)
{
	uint64_t ours = p->token;

	/* A hint: not worth touching the region of a device that was unplugged. */
	if (p->watch_place >= 0 && !vmp_refresh(p))
		__atomic_compare_exchange_n(watcher(p, p->watch_place), &ours, 0, false,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	p->watch_place = -1;
	if (p->watch_clock >= 0)
		close(p->watch_clock);
	p->watch_clock = -1;
}

/* ---- Verdicts -------------------------------------------------------------------- */

VMP_API int vmp_fence(struct vmp *p, uint32_t slot)
{
	struct portal_peer row;
	int r = vmp_managed(p);

	if (!r)
		r = vmp_same_tables(p);
	if (r)
		return r;
	if (slot >= p->super->peers)
		return vmp_fail(-EINVAL, "%s %s: no peer %u; there are slots 0 to %u", p->info.transport,
				p->info.identity, slot, p->super->peers - 1);
	layout_copy(&row, layout_row(p->base, p->super, PORTAL_AREA_PEERS, slot), sizeof(row));
	if (!row.claim || row.claim == row.dead)
		return vmp_fail(-ESRCH, "%s %s: peer %u is not there, or known to be dead", p->info.transport,
				p->info.identity, slot);
	if (!p->ops->fence)
		return vmp_fail(-EOPNOTSUPP, "%s %s: nobody here can declare a machine dead; use /dev/portalN, or portald's unix:",
				p->info.transport, p->info.identity);
	return p->ops->fence(p, slot, row.claim);
}
