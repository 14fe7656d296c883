// SPDX-License-Identifier: MIT
/*
 * Sessions of the host's processes, and how their end is known.
 *
 * A lifeline is a memfd of one page, with a lock (flock) that belongs to the one
 * description of it that its process gets. That description lives as long as the process's
 * mapping of it, or as it waits in the socket. When it is gone the lock is free, which
 * proves the end; inotify tells us when to look. The kernel tells inotify a moment before
 * it gives the lock up, so that one look may come too early: there is always another.
 *
 * A process that exits has given up all its mappings, the region's too, when one of
 * them is given up for good: no store of its is possible any more. Whether it closes the
 * socket, or children keep it, is another matter. One that closes the portal unmaps the
 * region first.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "managed.h"
#include "store.h"

#define LOOK_USEC	2000	/* from one look to the next ... */
#define LOOKS		50	/* ... that many times; then at each heartbeat */

/* ---- Rows -------------------------------------------------------------------- */

static bool alive(const struct portal_session *t)
{
	return life_low(t->life) == PORTAL_LIFE_ALIVE;
}

unsigned int sessions_alive(const struct managed *m)
{
	unsigned int n = 0;
	uint32_t i;

	for (i = 0; i < m->super.sessions; i++)
		n += alive(&m->truth->session[i]);
	return n;
}

/* A free row, or -EUSERS. */
static int find_row(const struct managed *m)
{
	const struct portal_session *t = m->truth->session, *best = NULL;
	uint32_t i;

	/* The one that was used the least, so that all wear alike. */
	for (i = 0; i < m->super.sessions; i++)
		if (!alive(&t[i]) && life_sequence(t[i].life) < PORTAL_SEQUENCE_MAX &&
		    (!best || life_sequence(t[i].life) < life_sequence(best->life)))
			best = &t[i];
	return best ? (int)(best - t) : -EUSERS;
}

static void begin(struct managed *m, uint32_t i, const struct client *c, uint32_t vector)
{
	struct portal_session *t = &m->truth->session[i];
	uint64_t n = (life_sequence(t->life) + 1) << PORTAL_SLOT_BITS;
	struct portal_session s = {
		.claim = m->truth->row.claim, .address = c->id, .vector = vector,
		.pid = (uint32_t)c->pid, .uid = (uint32_t)c->uid,
	};
	struct timespec now;
	size_t at;

	clock_gettime(CLOCK_REALTIME, &now);
	s.started = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	snprintf(s.name, sizeof(s.name), "%s", c->comm);
	/* First the number, which is not used again, whatever happens now. */
	kept_store(&t->life, n | PORTAL_LIFE_JOINING);
	put_session(m, i, 0, n | PORTAL_LIFE_JOINING);
	vmpr_full_fence();
	for (at = 8; at < sizeof(s); at += 8) {
		store_word((char *)t + at, load_word((const char *)&s + at));
		put_session(m, i, at, load_word((const char *)&s + at));
	}
	kept_store(&t->life, n | PORTAL_LIFE_ALIVE);
	put_session(m, i, 0, t->life);
}

static void end(struct managed *m, uint32_t i)
{
	struct portal_session *t = &m->truth->session[i];

	kept_store(&t->life, life_sequence(t->life) << PORTAL_SLOT_BITS | PORTAL_LIFE_DEAD);
	put_session(m, i, 0, t->life);
}

/* ---- Lifelines --------------------------------------------------------------- */

static int open_anew(int memfd)
{
	char path[40];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", memfd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	close(fd);
	return -EBUSY;
}

/* Nobody has the process's description any more. Whoever asks has the lock then. */
static bool ended(const struct client *c)
{
	return c->session_told && flock(c->lifeline, LOCK_EX | LOCK_NB) == 0;
}

/* Hears of the end of the descriptions of memfd @fd. */
static int watch_lifeline(struct managed *m, struct client *c, int fd)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	c->watch = inotify_add_watch(m->lifelines, path, IN_CLOSE);
	return c->watch < 0 ? -errno : 0;
}

static int make_lifeline(struct managed *m, struct client *c)
{
	int fd = memfd_create("vmportal-lifeline", MFD_CLOEXEC | MFD_ALLOW_SEALING), err;

	/* 0600: not for whoever gets hold of the descriptor to open anew, and keep. */
	if (fd < 0 || ftruncate(fd, 4096) < 0 || fchmod(fd, 0600) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		goto fail;
	err = -watch_lifeline(m, c, fd);
	if (err)
		goto close;
	/* It is served all the same: see session_restore(). */
	err = -store_put(m->portal->conf.name, client_name(c, 'l'), &fd, 1);
	if (err)
		client_log(c, LOG_WARNING, "unkept", "has a session that cannot be kept over a restart of portald: %s",
			   strerror(err));
	c->lifeline = fd;
	return 0;
fail:
	err = errno;
close:
	if (fd >= 0)
		close(fd);
	return -err;
}

static void drop_lifeline(struct managed *m, struct client *c)
{
	inotify_rm_watch(m->lifelines, c->watch);
	close(c->lifeline);
	c->lifeline = -1;
	store_drop(m->portal->conf.name, client_name(c, 'l'));
}

/* What the record says of its session. */
static void note(struct client *c, uint64_t state)
{
	kept_store(&c->k->session, state << 32 | c->session);
}

/* ---- The end ----------------------------------------------------------------- */

static void finish(struct managed *m, struct client *c)
{
	end(m, c->session);
	note(c, KEPT_SESSION_OVER);
	client_log(c, LOG_INFO, "session", "has ended its session (row %u)", c->session);
	drop_lifeline(m, c);
	managed_changed(m);
}

/* Its session is over: so is its connection. One that lingers is doomed already. */
static void cut(struct client *c, const char *why)
{
	client_doom(c, "%s", why);
	sd_event_source_set_enabled(c->portal->reaper, SD_EVENT_ONESHOT);
}

/* Has it ended? */
static void look(struct managed *m, struct client *c)
{
	if (c->looks)
		c->looks--;
	if (!ended(c))
		return;
	finish(m, c);
	cut(c, "");
}

/* Takes what inotify has to say: whom to look at. */
static void listen_to(struct managed *m)
{
	char buf[64 * sizeof(struct inotify_event)] __attribute__((aligned(8)));
	const struct inotify_event *ev;
	struct client *c;
	ssize_t n, at;

	n = read(m->lifelines, buf, sizeof(buf));
	for (at = 0; at < n; at += (ssize_t)(sizeof(*ev) + ev->len)) {
		ev = (const struct inotify_event *)(buf + at);
		if (!(ev->mask & (IN_CLOSE | IN_Q_OVERFLOW)))
			continue;
		TAILQ_FOREACH(c, &m->portal->clients, link)
			if (c->lifeline >= 0 && (c->watch == ev->wd || ev->mask & IN_Q_OVERFLOW))
				c->looks = LOOKS;
	}
}

/*
 * A process can have its lifeline opened and closed as often as it likes. So we listen by
 * the clock while there is something to hear, and each is looked at once a time.
 */
static int on_clock(sd_event_source *s, uint64_t usec, void *arg)
{
	struct managed *m = arg;
	bool more = false;
	struct client *c;

	listen_to(m);
	TAILQ_FOREACH(c, &m->portal->clients, link)
		if (c->lifeline >= 0 && c->looks) {
			look(m, c);
			more = more || (c->lifeline >= 0 && c->looks);
		}
	if (!more)
		return sd_event_source_set_enabled(m->ended, SD_EVENT_ON);
	sd_event_source_set_time_relative(s, LOOK_USEC);
	return sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

/* Looks soon, and some more times. */
static void look_soon(struct managed *m)
{
	sd_event_source_set_enabled(m->ended, SD_EVENT_OFF);
	sd_event_source_set_time_relative(m->looking, 0);
	sd_event_source_set_enabled(m->looking, SD_EVENT_ONESHOT);
}

static int on_ended(sd_event_source *s, int fd, uint32_t revents, void *arg)
{
	look_soon(arg);
	return 0;
}

bool session_over(struct client *c)
{
	struct managed *m = c->portal->managed;

	/* Nobody knows when it ends: so long its id, and its row, are its own. */
	if (c->unwatched)
		return false;
	if (c->lifeline < 0)
		return true;
	/* If it was never told of it, there is no mapping. */
	if (!c->session_told || ended(c)) {
		finish(m, c);
		return true;
	}
	c->looks = LOOKS;
	look_soon(m);
	return false;
}

void sessions_look(struct managed *m)
{
	struct client *c;

	TAILQ_FOREACH(c, &m->portal->clients, link)
		if (c->lifeline >= 0)
			look(m, c);
}

void sessions_disown(struct managed *m, const char *why)
{
	struct client *c;

	TAILQ_FOREACH(c, &m->portal->clients, link) {
		if (c->lifeline < 0 && !c->unwatched)
			continue;
		if (alive(&m->truth->session[c->session]))
			end(m, c->session);
		note(c, KEPT_SESSION_OVER);
		if (c->lifeline >= 0)
			drop_lifeline(m, c);
		/* Nothing is waited for any more: it is over, whoever may store still. */
		c->unwatched = false;
		cut(c, why);
	}
}

/* ---- Asking ------------------------------------------------------------------ */

static int may_have(const struct client *c, uint32_t vector)
{
	if (!c->portal->managed)
		return ENODATA;
	if (c->had_session)
		return EBUSY;
	if (c->portal->managed->away)
		return c->portal->managed->away == PLACES_UNMADE ? ESTALE : EUCLEAN;
	if (c->rdonly)
		return EACCES;
	return vector == PORTAL_VECTOR_NONE || vector < c->portal->conf.vectors ? 0 : EINVAL;
}

/* The row is @c's: it begins, and the answer is queued. Done twice, the second goes on. */
static void give(struct managed *m, struct client *c, uint32_t vector)
{
	if (c->k->session >> 32 != KEPT_SESSION_BEGUN) {
		/* Where the vector is found again. */
		__atomic_store_n(&m->truth->session[c->session].vector, vector, __ATOMIC_SEQ_CST);
		note(c, KEPT_SESSION_BEGUN);
	}
	if (!alive(&m->truth->session[c->session]))
		begin(m, c->session, c, vector);
	if (!sendq_has(&c->q, ITEM_SESSION))
		client_push(c, ITEM_SESSION, 0, 0);
	note(c, KEPT_SESSION_GIVEN);
	client_log(c, LOG_INFO, "session", "has a session (row %u)", c->session);
	managed_changed(m);
}

void session_ask(struct client *c, uint32_t vector)
{
	struct managed *m = c->portal->managed;
	int err, i = 0, ret = 0;

	if (m)
		managed_look(m);
	err = may_have(c, vector);
	if (!err) {
		i = find_row(m);
		ret = i < 0 ? i : make_lifeline(m, c);
		err = -ret;
	}
	if (err) {
		client_push(c, ITEM_REFUSAL, (uint32_t)err, 0);
		return;
	}
	c->had_session = true;
	c->session = (uint32_t)i;
	give(m, c, vector);
}

/*
 * The lifeline of a session that is not over: the one that was kept, or if it could not be,
 * and its process was not told of it yet, a new one, which is as good.
 */
static bool restore_lifeline(struct managed *m, struct client *c, uint64_t state)
{
	bool untold = state == KEPT_SESSION_BEGUN || sendq_has(&c->q, ITEM_SESSION);
	int fd = store_take(c->portal->conf.name, client_name(c, 'l'));

	if (m && c->session < m->super.sessions && state && state != KEPT_SESSION_OVER) {
		if (fd < 0)
			return untold && make_lifeline(m, c) == 0;
		if (watch_lifeline(m, c, fd) == 0) {
			c->lifeline = fd;
			return true;
		}
	}
	if (fd >= 0) {
		close(fd);
		store_drop(c->portal->conf.name, client_name(c, 'l'));
	}
	return false;
}

/* An earlier portald was killed at any point of that. */
void session_restore(struct client *c)
{
	struct managed *m = c->portal->managed;
	uint64_t state = c->k->session >> 32;

	c->session = (uint32_t)c->k->session;
	c->had_session = state;
	/* Its end is the connection's; but a deaf one, who never heard of it, keeps its id. */
	if (state == KEPT_SESSION_OVER && !c->deaf)
		client_doom(c, "%s", "");
	if (!restore_lifeline(m, c, state)) {
		c->unwatched = m && (state == KEPT_SESSION_BEGUN || state == KEPT_SESSION_GIVEN);
		if (c->unwatched)
			client_log(c, LOG_ERR, "session", "has a session that cannot be watched any more (row %u)",
				   c->session);
		return;
	}
	if (state == KEPT_SESSION_BEGUN)
		give(m, c, m->truth->session[c->session].vector);
	c->session_told = !sendq_has(&c->q, ITEM_SESSION);
	if (!alive(&m->truth->session[c->session])) {
		finish(m, c);
		client_doom(c, "%s", "");
	}
	c->looks = LOOKS;
}

uint64_t session_token(const struct client *c)
{
	uint64_t n = life_sequence(c->portal->managed->truth->session[c->session].life);

	return n << PORTAL_SLOT_BITS | c->session;
}

int session_lifeline(struct client *c)
{
	return open_anew(c->lifeline);
}

const char *session_refusal(int err)
{
	switch (err) {
	case ENODATA:
		return "not a managed portal: managed = yes in portald.conf";
	case EBUSY:
		return "one session for each connection";
	case EUCLEAN:
		return "formatted with other numbers of peers or sessions than portald's: stop portald and start it";
	case ESTALE:
		return "is being formatted: close it and open it anew";
	case EACCES:
		return "opened read-only; a session can store";
	case EINVAL:
		return "no such vector";
	case EUSERS:
		return "all session rows of this host are taken: raise sessions in portald.conf";
	case EMFILE:
		return "portald has no descriptor left: raise LimitNOFILE=";
	default:
		return "portald cannot watch this process";
	}
}

/* ---- From and to the rest ---------------------------------------------------- */

int sessions_open(struct managed *m)
{
	sd_event *ev = m->portal->event;
	int ret;

	m->lifelines = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (m->lifelines < 0)
		return -errno;
	ret = sd_event_add_io(ev, &m->ended, m->lifelines, EPOLLIN, on_ended, m);
	if (ret >= 0)
		ret = sd_event_add_time(ev, &m->looking, CLOCK_MONOTONIC, 0, 100, on_clock, m);
	if (ret >= 0)
		ret = sd_event_source_set_enabled(m->looking, SD_EVENT_OFF);
	return ret;
}

void sessions_close(struct managed *m, bool keep)
{
	struct client *c;

	sd_event_source_disable_unref(m->ended);
	sd_event_source_disable_unref(m->looking);
	TAILQ_FOREACH(c, &m->portal->clients, link)
		if (c->lifeline >= 0) {
			close(c->lifeline);
			c->lifeline = -1;
			if (!keep)
				store_drop(m->portal->conf.name, client_name(c, 'l'));
		}
	if (m->lifelines >= 0)
		close(m->lifelines);
}
