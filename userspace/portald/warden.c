// SPDX-License-Identifier: MIT
/*
 * The warden: what became of guests' machines, as the host can prove it.
 *
 * A machine's row has a claim with the id that we gave to its QEMU. When that process has
 * ended, and with it the connection, the machine is dead: nobody stores for it any more.
 * When only the connection is lost, it is suspect, and its process is watched on: a client
 * without connection, in m->ghosts, for as long as it lives, whatever its guest claims or
 * gives up meanwhile. There are max_guests of them at most; those without a claim make room.
 * When the process that connected has ended and the connection lives, somebody else has it,
 * who may have the memory, too: nothing is proven by its end any more.
 *
 * That a connection has ended is seen at our end of it, POLLHUP: all on the other side have
 * closed theirs (a process's are closed before its pidfd tells its end), or one of them has shut
 * it down, which is for all. When it is we who cut it, it has not ended in this sense: the other
 * side is told the end (SHUT_WR), and our end is kept as long as the process is watched, so that
 * it tells when the last of them has closed it, or, with the process's end, that somebody has not.
 */
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "efds.h"
#include "log.h"
#include "managed.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define TRIES 64
#define TELL_USEC (60 * USEC_PER_SEC)

/* ---- The process ------------------------------------------------------------- */

static short events(const struct client *c)
{
	struct pollfd f = { c->fd, POLLRDHUP, 0 };

	return poll(&f, 1, 0) == 1 ? f.revents : 0;
}

/* The other side has ended the connection. We close a ghost's when it has. */
static bool hung_up(const struct client *c)
{
	return (c->ghost && c->fd < 0) || events(c) & (POLLHUP | POLLERR);
}

/* The process that connected; -1: not to be had. */
static int open_process(const struct client *c)
{
	socklen_t len = sizeof(int);
	int fd = -1;

	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERPIDFD, &fd, &len) == 0)
		return fd;
	if (errno != ENOPROTOOPT)
		return -1;
	/* Before Linux 6.5. The number is still its own if its socket is open afterwards. */
	fd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	if (fd >= 0 && hung_up(c)) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool process_ended(const struct client *c)
{
	struct pollfd f = { c->pidfd, POLLIN, 0 };

	return c->pidfd >= 0 && poll(&f, 1, 0) == 1 && f.revents & POLLIN;
}

/* ---- Verdicts ---------------------------------------------------------------- */

static uint64_t usec_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * USEC_PER_SEC + (uint64_t)t.tv_nsec / 1000;
}

/*
 * Stores a verdict on the claim in @slot, if it is there still. The word is looked at before
 * the claim: a verdict on a later claim is not replaced by ours.
 */
static bool verdict(struct managed *m, uint32_t slot, size_t word, uint64_t claim)
{
	unsigned int tries;
	uint64_t was;

	for (tries = 0; tries < TRIES; tries++) {
		was = load_word((char *)peer_row(m, slot) + word);
		if (load_word(&peer_row(m, slot)->claim) != claim)
			return false;
		if (was == claim || swap_word((char *)peer_row(m, slot) + word, was, claim))
			return true;
	}
	/* Somebody flips it, who breaks all promises. */
	__atomic_exchange_n((row_word *)((char *)peer_row(m, slot) + word), claim, __ATOMIC_SEQ_CST);
	return true;
}

/* So with its reason. *was: what stood there. */
static bool give_reason(struct managed *m, uint32_t slot, uint64_t claim, uint32_t reason,
			uint32_t *was)
{
	unsigned int tries;

	for (tries = 0; tries < TRIES; tries++) {
		*was = load_reason(m, slot);
		if (load_word(&peer_row(m, slot)->claim) != claim)
			return false;
		if (*was == reason || swap_reason(m, slot, *was, reason))
			return true;
	}
	*was = __atomic_exchange_n(reason_at(m, slot), reason, __ATOMIC_SEQ_CST);
	return true;
}

/*
 * The reason first: whoever hears a suspect's heart takes back what was for silence. Afterwards
 * it may be gone: a machine that has just made this claim took it for an earlier one's
 * (portal_slot_take() in drivers/core/peers.c), or a warden of that put his own there first. Then
 * it is given again, and the verdict looked at once more. One that comes to nothing leaves no
 * reason with whoever is there now.
 */
static bool pronounce(struct managed *m, uint32_t slot, uint64_t claim, bool dead, uint32_t reason)
{
	size_t word = dead ? offsetof(struct portal_peer, dead) : offsetof(struct portal_peer, suspect);
	bool passed = false;
	unsigned int tries;
	uint32_t was;

	for (tries = 0; tries < TRIES; tries++) {
		if (!give_reason(m, slot, claim, reason, &was))
			break;
		/* Before we look whether it is a suspect already: see heard(). */
		vmpr_full_fence();
		if (!verdict(m, slot, word, claim)) {
			if (was != reason)
				swap_reason(m, slot, reason, PORTAL_REASON_NONE);
			break;
		}
		passed = true;
		if (load_reason(m, slot) == reason)
			break;
	}
	return passed;
}

/* A claim with @id that is not known to be dead; *slot: of which machine. 0: none. */
static uint64_t find_claim(struct managed *m, uint32_t id, uint32_t *slot)
{
	uint64_t claim;

	for (; *slot < m->super.peers; ++*slot) {
		claim = load_word(&peer_row(m, *slot)->claim);
		if (claim && claim_address(claim) == id &&
		    load_word(&peer_row(m, *slot)->dead) != claim)
			return claim;
	}
	return 0;
}

/*
 * Of all rows that have its id: an honest machine has one. How many; the first of them. @again:
 * a suspicion that was perhaps told before, which is told once.
 */
static unsigned int pronounce_all(struct managed *m, const struct client *c, bool dead, bool again,
				  uint32_t *first)
{
	unsigned int n = 0;
	uint64_t claim;
	uint32_t slot;

	for (slot = 1; (claim = find_claim(m, c->id, &slot)); slot++) {
		if (again && load_word(&peer_row(m, slot)->suspect) == claim &&
		    load_reason(m, slot) == PORTAL_REASON_CUT)
			continue;
		if (!pronounce(m, slot, claim, dead, dead ? PORTAL_REASON_EXITED : PORTAL_REASON_CUT))
			continue;
		if (!n++)
			*first = slot;
	}
	return n;
}

/* Its guest can take a suspicion back, and get it again, at each beat: a line once a minute. */
static void say(struct client *c, bool dead, uint32_t slot, uint64_t seen)
{
	uint64_t now = usec_now();

	if (!dead && c->suspect_told && now - c->suspect_told < TELL_USEC)
		return;
	c->suspect_told = now;
	client_log(c, dead ? LOG_NOTICE : LOG_WARNING, dead ? "dead" : "suspect",
		   "is %s, slot %u: %s; told %u us after it was seen", dead ? "dead" : "suspect", slot,
		   dead ? "its process has ended" :
		   c->outlived ? "its connection is lost" : "its connection is lost, its process lives",
		   (unsigned int)(now - seen));
}

/*
 * Its machine may have joined tables that were made since we last looked, and whoever is told
 * of is not watched any more: so this host joins them first.
 */
static void judge(struct managed *m, struct client *c, bool dead, bool again)
{
	uint64_t seen = now_usec(m->portal);
	uint32_t slot = 0;

	managed_look(m);
	if (!pronounce_all(m, c, dead, again, &slot))
		return;
	managed_changed(m);
	say(c, dead, slot, seen);
	observe(m, false);
}

/* ---- Those without connection ------------------------------------------------ */

/* It may live, and nobody will know when it does not: its id is never another's. */
static void free_unproven(struct client *c)
{
	uint64_t *above = &c->portal->kept.head->unproven;

	if (*above <= c->id)
		kept_store(above, c->id + 1);
	client_free(c);
}

static void drop_ghost(struct managed *m, struct client *c, bool dead)
{
	TAILQ_REMOVE(&m->ghosts, c, link);
	if (dead)
		client_free(c);
	else
		free_unproven(c);
}

/* Its process has ended, the connection has not. */
static void outlive(struct client *c)
{
	c->outlived = true;
	kept_store32(&c->k->flags, c->k->flags | KEPT_OUTLIVED);
	client_log(c, LOG_WARNING, "outlived",
		   "has lost the process that connected, and not the connection: somebody else has it; its death cannot be proven");
}

static int on_process(sd_event_source *s, int fd, uint32_t revents, void *arg)
{
	struct client *c = arg;
	struct managed *m = c->portal->managed;
	bool over = hung_up(c);

	sd_event_source_set_enabled(s, SD_EVENT_OFF);
	if (!over)
		outlive(c);
	else if (c->ghost)
		judge(m, c, true, false);
	else
		client_doom(c, "%s", "");
	if (!c->ghost)
		return 0;
	drop_ghost(m, c, over);
	portal_restart_ids(m->portal);
	return 0;
}

void warden_watch(struct client *c)
{
	if (!c->portal->managed)
		return;
	if (c->pidfd < 0)
		c->pidfd = open_process(c);
	if (c->pidfd < 0 ||
	    sd_event_add_io(c->portal->event, &c->process, c->pidfd, EPOLLIN, on_process, c) < 0)
		client_log(c, LOG_WARNING, "unwatched",
			   "cannot be watched: %s; its death cannot be proven",
			   c->pidfd < 0 ? "no pidfd of its process" : "out of memory");
	/* Its connection's end is seen first: then this is asked. */
	else
		sd_event_source_set_priority(c->process, SD_EVENT_PRIORITY_NORMAL + 5);
}

/* One whose machine has no row any more is not missed. */
static void drop_least(struct managed *m)
{
	struct client *c, *least = TAILQ_FIRST(&m->ghosts);
	uint32_t slot;

	TAILQ_FOREACH(c, &m->ghosts, link) {
		slot = 1;
		if (!find_claim(m, c->id, &slot)) {
			drop_ghost(m, c, false);
			return;
		}
	}
	client_log(least, LOG_WARNING, "unwatched",
		   "is not watched any more, for others without connection: its death cannot be proven");
	drop_ghost(m, least, false);
}

/*
 * So that there are never more of them than there may be guests. More than one may be too
 * many: who left as we were killed was restored beside them.
 */
static void make_room(struct managed *m)
{
	struct client *c;
	unsigned int n = 0;

	TAILQ_FOREACH(c, &m->ghosts, link)
		n++;
	for (; n && n >= m->portal->conf.max_guests; n--)
		drop_least(m);
}

/*
 * Will it be known when it is dead? Not of one that has shut down its half of the connection:
 * with ours that would be the end of it, whoever has it still.
 */
static bool provable(const struct client *c)
{
	short seen = events(c);
	bool half = seen & POLLRDHUP && !(seen & (POLLHUP | POLLERR));

	return !c->outlived && c->process && c->fd >= 0 && !half;
}

static void add_ghost(struct managed *m, struct client *c)
{
	if (hung_up(c))
		client_disconnect(c);
	else
		client_cut(c);
	c->ghost = true;
	sd_event_source_set_enabled(c->process, SD_EVENT_ON);
	TAILQ_INSERT_TAIL(&m->ghosts, c, link);
}

void warden_part(struct client *c)
{
	struct managed *m = c->portal->managed;
	/* In this order: what it has closed is closed when it has ended. */
	bool ended = !c->outlived && process_ended(c), over = hung_up(c);

	if (ended && !over)
		outlive(c);
	judge(m, c, ended && over, false);
	if (ended && over) {
		client_free(c);
	} else if (provable(c)) {
		make_room(m);
		add_ghost(m, c);
	} else {
		free_unproven(c);
	}
}

void warden_restore(struct client *c)
{
	struct managed *m = c->portal->managed;

	/* Some cannot be watched: they are here if we were killed as they left. */
	if (!c->outlived && c->pidfd >= 0)
		warden_watch(c);
	/* If that was not told yet. When its process has ended meanwhile, the loop sees it. */
	judge(m, c, false, true);
	if (provable(c))
		add_ghost(m, c);
	else
		free_unproven(c);
}

void wardens_look(struct managed *m)
{
	uint64_t seen = now_usec(m->portal);
	unsigned int n = 0;
	struct client *c;
	uint32_t slot;

	/* However many: the others are told once. */
	TAILQ_FOREACH(c, &m->ghosts, link)
		if (pronounce_all(m, c, false, true, &slot)) {
			say(c, false, slot, seen);
			n++;
		}
	if (n)
		managed_changed(m);
}

void wardens_close(struct managed *m, bool keep)
{
	struct client *c;

	while ((c = TAILQ_FIRST(&m->ghosts))) {
		TAILQ_REMOVE(&m->ghosts, c, link);
		if (keep)
			client_leave(c);
		else
			client_free(c);
	}
}

/* ---- The administrator's ----------------------------------------------------- */

static int fence(struct client *c, uint32_t slot, uint64_t claim)
{
	struct managed *m = c->portal->managed;

	if (!m)
		return ENODATA;
	if (c->uid != 0 && (uid_t)c->uid != geteuid())
		return EPERM;
	managed_look(m);
	if (m->away)
		return m->away == PLACES_UNMADE ? ESTALE : EUCLEAN;
	if (slot == PORTAL_PEER_SLOT_HOST || slot >= m->super.peers || !claim)
		return EINVAL;
	if (!pronounce(m, slot, claim, true, PORTAL_REASON_FENCED))
		return ESTALE;
	managed_changed(m);
	client_log(c, LOG_NOTICE, "fence", "has declared the machine in slot %u dead (id %u)", slot,
		   claim_address(claim));
	observe(m, false);
	return 0;
}

void warden_ask(struct client *c, uint32_t slot, uint64_t claim)
{
	const struct item it = {
		.kind = ITEM_FENCE, .id = slot & 0xffff, .last = (uint32_t)fence(c, slot, claim),
		.tenure = claim,
	};

	client_push_item(c, &it);
}

const char *warden_refusal(int err)
{
	switch (err) {
	case 0:
		return "";
	case ENODATA:
		return "not a managed portal: managed = yes in portald.conf";
	case EPERM:
		return "only root, or portald's own user, may declare a machine dead";
	case EUCLEAN:
		return "formatted with other numbers of peers or sessions than portald's: stop portald and start it";
	case EINVAL:
		return "no such machine; and a host is not declared dead by its own portald";
	default:
		return "that machine is not there any more";
	}
}
