/* SPDX-License-Identifier: MIT */
/*
 * Crash tests of managed portals. Workers, each a process, do random operations on one
 * portal; a driver kills them, stops them and lets them go on, at random moments and at
 * the library's marked steps; what they saw and did is noted in a ledger, by which it
 * is judged whether anything was lost, torn, done twice, or waited for too long.
 *
 *	crash.c		the command
 *	plan.c		who does what and how he ends: by seed and number, so it can be repeated
 *	drive.c		starts workers and ends them; everybody's deadlines
 *	work.c		a worker's life; send.c, lock.c, object.c, window.c: what it does
 *	message.c	what is sent
 *	stall.c		how late the machine itself makes everybody
 *	mistake.c	machines that are declared dead by mistake
 *	judge.c		findings, and the judgement at the end
 *
 * The ledger is an object of the portal itself, so that workers of all machines share it:
 * a portal that loses it has failed anyway.
 */
#ifndef TESTS_CRASH_H
#define TESTS_CRASH_H

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <lib/hub.h>

#define CHANNELS	2U
#define LOCKS		3U
#define NAMES		8U	/* of objects that come and go */
#define STREAMS		200000U
#define FINDINGS	32U
#define SLOTS		32U	/* workers of one driver at a time */
#define MISTAKES	64U
#define MISTAKEN	64U	/* sessions of one, and objects */

#define CHANNEL_LANES	10U
#define CHANNEL_BYTES	8192U
#define OBJECT_MOST	4U	/* units of 64 KiB */

/*
 * Longest waits that are promised (portal-layout(5), "WHO WAITS HOW LONG"), in milliseconds.
 * Nothing is forgiven but what the machine itself made somebody late by (stall.c), and
 * LOOK_MS, before which nobody asks how that stands.
 */
#define CALL_MS		2000	/* the timeout that we give to calls */
#define DIRECTORY_MS	10000	/* a call that changes the directory */
#define DEATH_MS	2000	/* until the death of a process is proven */
#define LOOK_MS		100

/* What a worker is at, by which progress is counted. */
enum op { OP_OPEN, OP_SEND, OP_HUB, OP_LOCK, OP_OBJECT, OP_WINDOW, OPS };
extern const char *const op_name[OPS];

/* How a life ends. */
enum fate { FATE_KILL, FATE_STEP, FATE_STOP, FATE_STOP_STEP, FATE_FORK, FATE_EXEC, FATE_EXIT, FATES };
extern const char *const fate_name[FATES];

/* Steps of the workers' own, beside the library's. */
enum own_step {
	OWN_NOTED = STEPS,	/* a message was noted, and is not released */
	OWN_RESERVED,		/* a message is half there, and not committed */
	OWN_SENT,		/* through a window; that it is, is not noted */
	OWN_HALF,		/* under a lock, half of the change is made */
	OWN_FILLED,		/* an object is half full */
	OWN_STEPS
};

/**
 * struct stream - what one sender's end sends, in one life of it
 * @token: its session; @life: the worker
 * @before: the session's previous stream to the same channel, plus 1, 0: none
 * @committed: messages that it was told are; the next may be, too
 * @vouched: how many those were when it was declared dead by mistake
 * @doubt: its lane broke as one may (mistake.c): nothing more is asked
 * @next: the number of the message that a hub wants next; those below are done
 */
struct stream {
	uint64_t token;
	uint32_t life, channel;
	uint32_t before;
	_Atomic uint32_t committed, next;
	uint32_t vouched;
	_Atomic uint32_t doubt;
};

struct place { uint64_t offset, end; };

/**
 * struct mistake - a machine that is declared dead while it stands still, and goes on (mistake.c)
 * @over: its processes store no more
 * @token: their sessions; @place: of what they have open; @object: what lay there when it was over
 * @lock, @lane: which may be in disorder, or break
 */
struct mistake {
	_Atomic uint32_t over, nobjects;
	uint32_t peer, ntokens, nplaces;
	uint64_t token[MISTAKEN], object[MISTAKEN];
	struct place place[MISTAKEN];
	_Atomic uint32_t lock[LOCKS], lane[CHANNELS][CHANNEL_LANES];
};

/* A lock and what it protects, in the object "locks". */
struct guarded {
	struct portal_lock lock;
	uint64_t first;
	uint64_t pad1[15];
	uint64_t second;
	uint64_t pad2[15];
};

/**
 * struct ledger - the object "ledger"
 * @stop: come to an end
 * @holder: by lock: the token that has it, as its owner wrote it, 0 before it unlocks
 * @done, @repairs: by lock: increments that were made; how often the owner was dead
 * @ops: finished operations
 * @windowed: messages that came through windows; @cut_off: ends of their senders that were
 *	judged
 * @fates: of processes of the host, and of guests: how many met each
 * @steps: by step: how many were killed there; how many were stopped there and went on
 */
struct ledger {
	uint64_t seed;
	_Atomic uint32_t stop, nstreams, nfindings, flagged, redelivered;
	_Atomic uint64_t holder[LOCKS], done[LOCKS], repairs[LOCKS];
	_Atomic uint64_t ops[OPS];
	_Atomic uint64_t windowed, cut_off;
	_Atomic uint64_t fates[2][FATES];
	_Atomic uint64_t steps[2][OWN_STEPS];
	char finding[FINDINGS][480];
	_Atomic uint32_t nmistakes;
	struct mistake mistake[MISTAKES];
	struct stream stream[STREAMS];
};

/* What it does; the first of each channel keeps it going. The last two: where windows are. */
enum role { ROLE_HUB, ROLE_SEND, ROLE_LOCK, ROLE_OBJECT, ROLE_ALL, ROLE_HOLD, ROLE_WINDOW, ROLES };
extern const char *const role_name[ROLES];

/**
 * struct plan - a life, as it is decided before it begins
 * @channel: for hubs
 * @after: occurrences of @step to let pass
 * @delay_us: until it is killed or stopped; @stop_ms: until it goes on
 * @ops: so many operations at most
 */
struct plan {
	uint32_t life;
	enum role role;
	enum fate fate;
	uint32_t channel;
	int step, after;
	int64_t delay_us;
	int stop_ms;
	int ops;
};

/**
 * struct slot - a worker as its driver sees it, in memory that they share
 * @plan: its life
 * @token: its session, 0: not yet
 * @since: when the operation began (milliseconds, monotonic), 0: none; @limit: how long
 *	it may take
 * @step: the one that it was killed or stopped at, plus 1
 * @forked: it has left a child; @execed: it is about to become another program
 * @said: what a process says that ends with an error and has no ledger
 */
struct slot {
	struct plan plan;
	_Atomic uint64_t token, since;
	_Atomic uint32_t op, limit, step, forked, execed;
	char said[160];
};

struct rng { uint64_t s; };
uint64_t rnd(struct rng *r);
uint64_t below(struct rng *r, uint64_t n);

void make_plan(struct plan *p, uint64_t seed, uint32_t life, uint32_t slot, int stop_ms, bool windows);
bool some_step_is_missing(struct ledger *g, bool windows);
void deal_a_step(struct plan *p, struct rng *r, uint32_t slot, struct ledger *g, bool windows);
extern const char *const step_name[OWN_STEPS];
void say_plan(const struct plan *p, char *buf, size_t size);

void at_step(int step);

/*
 * What a process has open. @windowed: the object for windows, "": there are none; @window:
 * to whom nothing else is given: its descriptor; @machine_step: the step at which the whole
 * machine is to end, or to stop, plus 1; @machine_port: by which; @machine: a
 * slot of nobody's, whose @step says that it has.
 */
struct world {
	const char *uri;
	char windowed[32];
	int window, machine_step;
	unsigned short machine_port;
	struct slot *machine;
	struct vmp *p;
	uint64_t token;
	struct vmp_named *book, *locks;
	struct ledger *ledger;
	struct guarded *guarded;
	struct slot *slot;
	struct plan plan;
	struct rng rng;
	const char *mutant;
};

static inline int64_t us_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000;
}

static inline int64_t ms_now(void)
{
	return us_now() / 1000;
}

/* Is this a process of a guest? */
static inline unsigned int in_guest(const struct world *w)
{
	return strncmp(w->uri, "unix:", 5) != 0;
}

/* Of ten thousand. */
static inline bool mutant(struct world *w, const char *name, unsigned int chance)
{
	return w->mutant && !strcmp(w->mutant, name) && below(&w->rng, 10000) < chance;
}

/* An operation that may take @limit_ms begins; it has ended. */
void begin(struct world *w, enum op op, int limit_ms);
void finish(struct world *w);

/* Something is wrong: noted with this life's plan, once for all machines. */
void finding(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

bool is_mistaken(struct ledger *g, uint64_t token);
bool lock_in_doubt(struct world *w, uint32_t lock);
bool lane_in_doubt(struct world *w, uint32_t channel, uint32_t lane);
void lane_is_clean(struct world *w, uint32_t channel, uint32_t lane);
bool object_in_doubt(struct world *w, const struct vmp_object *o);
void streams_in_doubt(struct world *w, uint64_t token, uint32_t channel);
int mistake(const char *uri, uint32_t peer, bool over);

/* Open the portal and what all share; @make: and make that. */
int open_world(struct world *w, const char *uri, bool make);
void close_world(struct world *w);

int work(struct world *w);
int idle(void);
void may_end_machine(struct world *w);
void leave_a_child(struct world *w);
void become_another(struct world *w, int program);
void do_send(struct world *w);
void do_hub(struct world *w);
void do_lock(struct world *w);
void do_object(struct world *w);

#define PAYLOAD_MOST	1500U

/* @reply: an answer is wanted. */
struct message {
	uint32_t magic, stream, seq, reply;
	uint32_t len, sum;
	uint8_t payload[];
};

void fill_message(struct message *m, uint32_t stream, uint32_t seq, uint32_t len, bool reply);
bool whole_message(const struct message *m, size_t n);

/* Windows: the driver makes their object, if there are windows, and a window for each sender. */
int make_windowed(struct world *w, struct vmp_named **n);
int a_window(struct world *w, struct vmp_named *n);
int work_window(struct world *w);
void do_hold(struct world *w);

/* For how long the machine has stood still for everybody, since stall_begin(). */
int stall_begin(void);
int64_t stalled_ms(void);

/* For how long a process has run, and waited for a processor; -1: nobody counts that. */
int64_t busy_ms(pid_t pid);

/* Read one message of a hub, judge it, note it. As vmp_hub_peek(). */
ssize_t read_message(struct world *w, struct vmp_hub *h, uint32_t channel, int timeout_ms);

/**
 * struct drive - how to
 * @kills: until so many, or @seconds are over; @steps: and until somebody was killed at each
 *	step, and stopped
 * @base: lives are numbered from here on; @workers at a time
 * @stop_ms: how long somebody is stopped, at least; @slowly: they live so many times longer
 */
struct drive {
	uint32_t kills, base, workers;
	int seconds, stop_ms, slowly;
	bool steps;
};

int drive(struct world *w, const struct drive *d);

/* All is over: what was committed was consumed, and the directory is in order. */
void judge_end(struct world *w);
void judge_tables(struct world *w);
int tell_findings(struct world *w);

#endif /* TESTS_CRASH_H */
