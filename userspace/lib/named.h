/* SPDX-License-Identifier: MIT */
/*
 * Sessions, locks and the directory, for the library's own use: what channels by name
 * are built on.
 */
#ifndef VMP_NAMED_H
#define VMP_NAMED_H

#include "internal.h"
#include "layout.h"

/* ---- Sessions (session.c) ---------------------------------------------------- */

/* Our own, 0: none yet. Whoever has seen it by this may use p->token from then on. */
static inline uint64_t vmp_token(struct vmp *p)
{
	return __atomic_load_n(&p->token, __ATOMIC_ACQUIRE);
}

/*
 * Ring the session of @token by its address and vector, its pending bit set before.
 * 0; -ESTALE: it is over; -ENXIO: it has no doorbell; or what vmp_ring() says.
 */
int vmp_ring_session(struct vmp *p, uint64_t token);

/*
 * Ring all whose tokens are in @n words of the region at @places. Who cannot be rung looks
 * by the clock; who is dead makes room for others. The text of an error stays as it was.
 */
void vmp_ring_sessions(struct vmp *p, void *places, unsigned int n);

/* Nobody tells of deaths any more. */
bool vmp_deserted(struct vmp *p);

/* What a wait that was in vain says of who holds it up: how the session of @token stands. */
const char *vmp_token_text(struct vmp *p, uint64_t token);

/* Take back our pending bit: before looking, whoever was meant. */
void vmp_pending_clear(struct vmp *p);

/* 0, or -ESTALE: this process's session is over, by the word of the tables. Six loads. */
int vmp_session_check(struct vmp *p);

/* 0, or -ESTALE: @token was our session, of tables that were formatted since, by whomever. */
int vmp_session_same(struct vmp *p, uint64_t token);

/*
 * A set (epoll, edges) that wakes for the session's doorbell and for changes of the peers'
 * and sessions' tables; the caller's to close. Joined before. Or -errno.
 */
int vmp_session_set(struct vmp *p);

/*
 * Sleep on such a set, @ms at most: 1 woken, 0 not, -EINTR or another error. Takes notice
 * of what it was woken for; edges only: arm, take what is there (@ms 0), look, sleep.
 */
int vmp_session_sleep(struct vmp *p, int set, int ms);

/* ---- Locks (lock.c) ---------------------------------------------------------- */

/* As the public calls, for any lock in the writable part: @l is a good place. */
int vmp_lock_at(struct vmp *p, struct portal_lock *l, int timeout_ms);
int vmp_repaired_at(struct vmp *p, struct portal_lock *l);
int vmp_unlock_at(struct vmp *p, struct portal_lock *l);

/* ---- Objects (object.c) ------------------------------------------------------ */

/**
 * struct vmp_named - an object that is open
 * @id: sequence << 16 | row of the object
 * @use: our row among the uses
 * @tables: the incarnation of the superblock that both are relative to
 * The rest is the object's row as it was when it was opened; checked.
 */
struct vmp_named {
	struct vmp *p;
	uint64_t id;
	uint32_t use;
	uint64_t tables;
	uint32_t kind, format;
	uint64_t offset, length, size;
	uint64_t creator;
	uint64_t param[8];
	char name[64];
};

/**
 * struct named_spec - what to open, or to make
 * @name, @flags, @bytes, @mode: of vmp_named_open()
 * @kind: PORTAL_KIND_*
 * @format, @param: of one that is made
 * @init: fill in the bytes of one that is made: zeroed, seen by nobody yet. May be NULL;
 *	an error of its own is that of the call, and there is no object
 */
struct named_spec {
	const char *name;
	unsigned int flags;
	uint64_t bytes;
	uint32_t mode;
	uint32_t kind, format;
	uint64_t param[8];
	int (*init)(void *arg, void *data, const struct vmp_named *n);
	void *arg;
};

/* As vmp_named_open(). The object's kind is @spec's; its format and param may be others'. */
int vmp_named_make(struct vmp_named **n, struct vmp *p, const struct named_spec *spec);

/*
 * The tokens of who has @n open, ourselves included (as often as we have), whether alive or
 * dead: up to @max, and how many there are. One look at the whole table of uses, which
 * others may change meanwhile.
 */
uint32_t vmp_named_users(struct vmp_named *n, uint64_t *tokens, uint32_t max);

/* ---- Steps (step.c) ---------------------------------------------------------- */

/*
 * Where a process that dies leaves something behind. Nothing happens there; a test has a
 * vmp_step() of its own in its program, which the archive's then makes way for.
 */
enum vmp_step {
	STEP_LOCK_PLACED,	/* among the waiters; has not looked again yet */
	STEP_LOCK_TAKEN,	/* owner is ours, nothing else is stored */
	STEP_LOCK_NOTED,	/* how often it was taken, and from whom, is about to change */
	STEP_LOCK_INHERITED,	/* from a dead one: previous and flags are stored */
	STEP_LOCK_FLAGS,	/* its flags are about to change */
	STEP_LOCK_FREED,	/* nobody was rung yet */
	STEP_CHANGE_FILLED,	/* rows that are free have new contents */
	STEP_CHANGE_RECORDED,	/* the record is whole, but for its state */
	STEP_CHANGE_COMMITTED,	/* the state stands */
	STEP_CHANGE_BEGUN,	/* the generation is odd */
	STEP_CHANGE_STORE,	/* after each store */
	STEP_CHANGE_DONE,	/* the generation is even */
	STEP_CHANGE_CLEARED,	/* there is no record any more */
	STEP_OBJECT_PLACED,	/* being made, not zeroed */
	STEP_OBJECT_PIECE,	/* a part of it was zeroed */
	STEP_OBJECT_ZEROED,	/* not named */
	STEP_OBJECT_OPEN,	/* in use */
	STEP_HUB_TAKEN,		/* consumer is ours, no lane was looked at */
	STEP_HUB_CLOSED,	/* all lanes are, consumer is ours still */
	STEP_LANE_TAKEN,	/* owner is ours, side 1 is whose it was */
	STEP_LANE_OPEN,		/* side 1 is there, nobody was rung */
	STEP_LANE_CLOSED,	/* side 1 has closed, left is 0 still */
	STEP_LANE_LEFT,		/* nobody was rung */
	STEP_LANE_INHERITED,	/* from a dead hub: its end is gone, ours reads */
	STEP_LANE_SHOWN,	/* and nobody has seen it yet */
	STEP_LANE_CONSUMED,	/* the position stands */
	STEP_SAYS,		/* a word of a hub's or a lane's is about to change */
	STEP_LANE_OVER,		/* read to its end, nothing was stored */
	STEP_LANE_EMPTY,	/* side 0 is gone, left is as it was */
	STEP_LANE_RESET,	/* owner says so, nothing else does */
	STEP_LANE_CLEARED,	/* left is 0, the lane is not free */
	STEP_ARMS,		/* a sleeper is about to say so */
	STEP_DISARMS,		/* it is awake, and about to say so */
	STEPS
};

void vmp_step(enum vmp_step s);

#endif /* VMP_NAMED_H */
