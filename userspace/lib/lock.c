// SPDX-License-Identifier: MIT
/*
 * Robust locks (portal-layout(5), "Locks"; tests/model/lock.pml).
 *
 * The owner's token is the lock. Who finds a dead session's there puts his own in its
 * place, and has inherited: the dead store nothing any more, and what they stored is
 * visible to who saw them dead. A suspect may go on in the midst of a store at any time:
 * its lock stays its own for as long as it likes, and costs the others their timeouts.
 *
 * What a zombie, stopped for however long, can do when it goes on: if only suspect, it
 * still is the owner. If its session was ended by its kernel or portald, it does not go on.
 * If an administrator declared its machine dead who was wrong, it may store until its
 * kernel has read of it (a heartbeat); it does not unlock what is another's, for that is a
 * compare-and-swap too, and is told so then; but nothing can call back its stores. The flags
 * are changed likewise, from what stood there before it saw itself in the owner's place. They
 * do not say whose they are: stopped just there, it can still say of what its heir is repairing
 * that nobody did (which the heir takes back, saying that he has: if he dies first, it stands, and
 * the lock is lost), or that somebody did (if the heir does not say so, the next is not told); and
 * of what its heir has repaired, that it is to be (which who takes the lock next takes back). An
 * heir whose word meets a late one just then says his again.
 *
 * Waking, as everywhere: the waiter leaves its token in a place, a fence, looks again,
 * sleeps; who unlocks stores, a fence, rings all places. A waiter alone clears its place,
 * while it lives; a dead one's is cleared, or taken, by whoever comes across it.
 * Deaths wake by the change of the tables. Whoever has no place, or no doorbell, and
 * whatever goes wrong with either, looks by the clock.
 *
 * Nothing here allocates memory or takes a mutex, but for what ringing takes.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include <vmportal_ring.h>

#include "named.h"

_Static_assert(sizeof(struct portal_lock) == VMP_LOCK_SIZE, "locks");

#define PLACES		8
#define LOOKS		100	/* before going to sleep */
#define NAP_RUNG_MS	100	/* who has a place and a doorbell */
#define NAP_FIRST_MS	1	/* who has not: growing to */
#define NAP_LAST_MS	16

_Static_assert(sizeof(((struct portal_lock *)0)->waiter) == PLACES * 8, "places");

/**
 * struct lock_wait - a call of vmp_lock() that has to wait
 * @token: ours
 * @until: CLOCK_MONOTONIC milliseconds when it gives up
 * @set: of vmp_session_set(), or -1: not yet, or none to be had
 * @place: among the waiters, or -1
 * @nap: how long it sleeps next without a place
 */
struct lock_wait {
	uint64_t token;
	int64_t until;
	int set;
	int place;
	int nap;
};

static uint64_t *word(__le64 *shared)
{
	return (uint64_t *)shared;
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("isb" ::: "memory");
#endif
}

/* ---- Letting go ---------------------------------------------------------------- */

static void ring_waiters(struct vmp *p, struct portal_lock *l)
{
	/* Pairs with the fence in sleep_once(): we see its place, or it sees the lock free. */
	vmpr_full_fence();
	vmp_ring_sessions(p, l->waiter, PLACES);
}

/* Whoever declared us dead may have been wrong: what is another's by now stays his. */
static int release(struct vmp *p, struct portal_lock *l)
{
	uint64_t ours = p->token;

	if (!__atomic_compare_exchange_n(word(&l->owner), &ours, 0, false, __ATOMIC_RELEASE,
					 __ATOMIC_RELAXED))
		return vmp_fail(-EPERM, "%s %s: this process does not have the lock (any more): owner %#" PRIx64,
				p->info.transport, p->info.identity, ours);
	vmp_step(STEP_LOCK_FREED);
	ring_waiters(p, l);
	return 0;
}

static bool is_ours(struct vmp *p, struct portal_lock *l)
{
	uint64_t token = vmp_token(p);

	return token && __atomic_load_n(word(&l->owner), __ATOMIC_RELAXED) == token;
}

/* Before the look at whose it is: what a later owner says is not what is changed. */
static uint32_t flags_of(struct portal_lock *l)
{
	return __atomic_load_n((uint32_t *)&l->flags, __ATOMIC_ACQUIRE);
}

/* A late word of a dead one's may come in between: each says one. Nobody well says so many. */
#define FLAG_TRIES	8

/*
 * The flags without @clear, and with @set; -EPERM, if it is not ours (any more). What is
 * repaired is visible to who finds the flag gone, for he finds it locked or free.
 */
static int change_flags(struct vmp *p, struct portal_lock *l, uint32_t clear, uint32_t set)
{
	uint32_t was;
	int tries;

	for (tries = 0; tries < FLAG_TRIES; tries++) {
		was = flags_of(l);
		if (!is_ours(p, l))
			return -EPERM;
		vmp_step(STEP_LOCK_FLAGS);
		if (__atomic_compare_exchange_n((uint32_t *)&l->flags, &was, (was & ~clear) | set, false,
						__ATOMIC_RELEASE, __ATOMIC_RELAXED))
			return 0;
	}
	return -EPROTO;
}

static int not_ours(struct vmp *p)
{
	return vmp_fail(-EPERM, "%s %s: this process does not have the lock", p->info.transport,
			p->info.identity);
}

int vmp_unlock_at(struct vmp *p, struct portal_lock *l)
{
	uint32_t flags = flags_of(l);

	if (!is_ours(p, l))
		return not_ours(p);
	/* We had to repair it, and did not say so, whatever stands there a moment later. */
	if (flags & PORTAL_LOCK_REPAIR)
		change_flags(p, l, UINT32_MAX, PORTAL_LOCK_BROKEN);
	return release(p, l);
}

int vmp_repaired_at(struct vmp *p, struct portal_lock *l)
{
	/* That nobody did we were told before we had it, or it is not so. */
	int r = change_flags(p, l, PORTAL_LOCK_REPAIR | PORTAL_LOCK_BROKEN, 0);

	if (r == -EPROTO)
		return vmp_fail(r, "%s %s: another program writes over the flags of this lock",
				p->info.transport, p->info.identity);
	return r ? not_ours(p) : 0;
}

/* ---- Getting it ------------------------------------------------------------------ */

/* For who looks into it: how often it was taken, and from whom, if it was a dead one's. */
static void note(struct vmp *p, struct portal_lock *l, uint64_t from)
{
	/* Before the look at whose it is: an heir's is not what is changed. */
	uint64_t count = __atomic_load_n(word(&l->count), __ATOMIC_ACQUIRE);
	uint64_t previous = __atomic_load_n(word(&l->previous), __ATOMIC_ACQUIRE);

	if (!is_ours(p, l))
		return;
	vmp_step(STEP_LOCK_NOTED);
	__atomic_compare_exchange_n(word(&l->count), &count, count + 1, false, __ATOMIC_RELAXED,
				    __ATOMIC_RELAXED);
	if (from)
		__atomic_compare_exchange_n(word(&l->previous), &previous, from, false, __ATOMIC_RELAXED,
					    __ATOMIC_RELAXED);
}

/* The owner is ours; @from: the dead one it was, or 0. */
static int taken(struct vmp *p, struct portal_lock *l, uint64_t from)
{
	uint32_t flags;
	int r;

	vmp_step(STEP_LOCK_TAKEN);
	flags = flags_of(l);
	r = vmp_session_check(p);
	/* Ours is a dead one's again then: the next one inherits it. */
	if (r && from)
		return r;
	if (!r && flags & PORTAL_LOCK_BROKEN)
		r = vmp_fail(-ENOTRECOVERABLE, "%s %s: an owner of this lock died, and who had it then unlocked it without vmp_lock_repaired()",
			     p->info.transport, p->info.identity);
	if (r) {
		release(p, l);
		return r;
	}
	note(p, l, from);
	/* Who had to repair has said that he did, or that he did not: late words of a dead one's. */
	if (!from && flags & PORTAL_LOCK_REPAIR)
		change_flags(p, l, PORTAL_LOCK_REPAIR, 0);
	if (!from)
		return 0;
	change_flags(p, l, 0, PORTAL_LOCK_REPAIR);
	vmp_step(STEP_LOCK_INHERITED);
	return vmp_fail_quickly(-EOWNERDEAD, "the lock's owner died: repair what it protects, and call vmp_lock_repaired()");
}

/* 0, -EOWNERDEAD or another end; -EAGAIN: somebody has it. */
static int try_lock(struct vmp *p, struct portal_lock *l)
{
	uint64_t owner = __atomic_load_n(word(&l->owner), __ATOMIC_ACQUIRE);
	/* The directory's own lies elsewhere, perhaps, in new tables: these are somebody's bytes then. */
	int r = vmp_same_tables(p);

	if (r)
		return r;
	if (owner == p->token)
		return vmp_fail(-EDEADLK, "%s %s: this process has the lock already", p->info.transport,
				p->info.identity);
	if (owner)
		switch (layout_token(p->base, p->super, owner)) {
		case TOKEN_ALIVE:
			return -EAGAIN;
		case TOKEN_NEVER:
			r = vmp_same_tables(p);
			return r ? r : vmp_fail(-EPROTO, "%s %s: the lock's owner is %#" PRIx64 ", which is nobody who ever was: its memory was overwritten",
					p->info.transport, p->info.identity, owner);
		default:
			break;
		}
	if (!__atomic_compare_exchange_n(word(&l->owner), &(uint64_t){ owner }, p->token, false,
					 __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return -EAGAIN;
	return taken(p, l, owner);
}

/* ---- Waiting --------------------------------------------------------------------- */

static int take_place(struct vmp *p, struct portal_lock *l)
{
	uint64_t was;
	int i;

	for (i = 0; i < PLACES; i++) {
		was = __atomic_load_n(word(&l->waiter[i]), __ATOMIC_RELAXED);
		if (was && layout_token(p->base, p->super, was) == TOKEN_ALIVE)
			continue;
		if (__atomic_compare_exchange_n(word(&l->waiter[i]), &was, p->token, false,
						__ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
			return i;
	}
	return -1;
}

static void leave_place(struct portal_lock *l, struct lock_wait *w)
{
	/* Unless somebody has overwritten it. */
	if (w->place >= 0)
		__atomic_compare_exchange_n(word(&l->waiter[w->place]), &(uint64_t){ w->token }, 0, false,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	w->place = -1;
}

static int64_t nap_ms(struct vmp *p, struct lock_wait *w)
{
	int64_t ms = NAP_RUNG_MS, left = w->until - now_ms();

	if (w->place < 0 || p->bell < 0 || w->set < 0) {
		ms = w->nap;
		w->nap = w->nap * 2 < NAP_LAST_MS ? w->nap * 2 : NAP_LAST_MS;
	}
	return ms < left ? ms : left;
}

/* Until something may be different: as try_lock(), or -EINTR. */
static int sleep_once(struct vmp *p, struct portal_lock *l, struct lock_wait *w)
{
	struct timespec ts;
	int64_t ms;
	int r = vmp_same_tables(p);

	if (r)
		return r;
	if (w->set < 0)
		w->set = vmp_session_set(p);
	if (w->place < 0)
		w->place = take_place(p, l);
	vmp_step(STEP_LOCK_PLACED);
	/* What the set has heard so far was before this look. */
	if (w->set >= 0) {
		r = vmp_session_sleep(p, w->set, 0);
		if (r < 0)
			return r;
	}
	/* Pairs with the fence in ring_waiters(). */
	vmpr_full_fence();
	r = try_lock(p, l);
	if (r != -EAGAIN)
		return r;
	ms = nap_ms(p, w);
	if (ms <= 0)
		return -EAGAIN;
	if (w->set >= 0) {
		r = vmp_session_sleep(p, w->set, (int)ms);
		return r < 0 ? r : -EAGAIN;
	}
	ts = (struct timespec) { ms / 1000, ms % 1000 * 1000000 };
	return nanosleep(&ts, NULL) && errno == EINTR ?
		vmp_fail_quickly(-EINTR, "interrupted by a signal") : -EAGAIN;
}

static int timed_out(struct vmp *p, struct portal_lock *l, int timeout_ms)
{
	uint64_t owner = __atomic_load_n(word(&l->owner), __ATOMIC_RELAXED);

	return vmp_fail(-ETIMEDOUT, "%s %s: the lock was not free within %d ms; its owner (token %#" PRIx64 ") is %s",
			p->info.transport, p->info.identity, timeout_ms, owner,
			vmp_token_text(p, owner));
}

static int wait_for(struct vmp *p, struct portal_lock *l, int timeout_ms)
{
	struct lock_wait w = {
		.token = p->token, .set = -1, .place = -1, .nap = NAP_FIRST_MS,
		.until = timeout_ms < 0 ? INT64_MAX / 2 : now_ms() + timeout_ms,
	};
	int r = -EAGAIN;

	while (r == -EAGAIN) {
		if (now_ms() >= w.until) {
			r = timed_out(p, l, timeout_ms);
			break;
		}
		r = sleep_once(p, l, &w);
	}
	leave_place(l, &w);
	if (w.set >= 0)
		close(w.set);
	return r;
}

int vmp_lock_at(struct vmp *p, struct portal_lock *l, int timeout_ms)
{
	int i, r;

	for (i = 0; i < LOOKS; i++) {
		r = try_lock(p, l);
		if (r != -EAGAIN)
			return r;
		if (!timeout_ms)
			return vmp_fail_quickly(-EAGAIN, "somebody has the lock");
		relax();
	}
	return wait_for(p, l, timeout_ms);
}

/* ---- For everybody --------------------------------------------------------------- */

/* Whether a lock can lie at @lock; the directory's own is not the caller's. */
static int check_place(struct vmp *p, void *lock)
{
	uint64_t at, length, offset;
	int r = vmp_data(p, &at, &length);

	if (!r && p->super)
		r = vmp_same_tables(p);
	if (r)
		return r;
	offset = (uintptr_t)lock - (uintptr_t)p->base;
	if (offset < at || offset - at > length - VMP_LOCK_SIZE || offset % VMP_LOCK_ALIGN)
		return vmp_fail(-EINVAL, "%s %s: a lock lies in the data (bytes %" PRIu64 " to %" PRIu64 " of the region), at a multiple of %d",
				p->info.transport, p->info.identity, at, at + length, VMP_LOCK_ALIGN);
	return 0;
}

VMP_API int vmp_lock(struct vmp *p, void *lock, int timeout_ms)
{
	int r = vmp_join(p, NULL);

	if (!r)
		r = check_place(p, lock);
	return r ? r : vmp_lock_at(p, lock, timeout_ms);
}

VMP_API int vmp_lock_repaired(struct vmp *p, void *lock)
{
	int r = check_place(p, lock);

	return r ? r : vmp_repaired_at(p, lock);
}

VMP_API int vmp_unlock(struct vmp *p, void *lock)
{
	int r = check_place(p, lock);

	return r ? r : vmp_unlock_at(p, lock);
}
