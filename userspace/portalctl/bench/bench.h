/* SPDX-License-Identifier: MIT */
/*
 * portalctl bench: figures beside their limits.
 *
 * Two processes, or two machines, share one region. The leader (side 0) decides;
 * the follower obeys. A case has contenders: ours first, then its limit or its
 * rivals. They run in short windows of one run, A B, B A, A B ..., and each round
 * gives one ratio of neighbours in time: what moves a virtual CPU about moves
 * both. What is printed is the median of those ratios and their p10 .. p90.
 *
 * The range of the region is divided alike on both ends:
 *
 *	0		control channel: commands and answers (never sleeps)
 *	CONTROL_LEN	the channel under test, opened anew for each case
 *	end - scratch	bare memory for limits and rivals
 */
#ifndef PORTALCTL_BENCH_H
#define PORTALCTL_BENCH_H

#include <errno.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "../tool.h"

#define CONTROL_LEN	(64UL << 10)
#define SMALL_SCRATCH	(256UL << 10)
#define BULK_MSG	(1UL << 20)
#define BULK_SLOTS	4
#define BULK_CHANNEL	(10UL << 20)	/* two lanes, each of some BULK_SLOTS messages */
#define BULK_SCRATCH	(SMALL_SCRATCH + BULK_SLOTS * BULK_MSG)
#define BULK_REGION	(CONTROL_LEN + BULK_CHANNEL + BULK_SCRATCH)	/* below 15 MiB */
#define SMALL_CHANNEL	(320UL << 10)	/* some 1024 records of 64 bytes in each lane */
#define RATE_SLOTS	1024		/* slots of a rival's ring: as many messages */
#define STOP		UINT64_MAX	/* first word of the last message of a window */
#define MAX_RIVALS	4
#define MAX_LATENCIES	(1U << 20)

struct bench;

/**
 * struct sample - what one window gave
 * @ns: nanoseconds per round trip or message
 * @ops: how many there were
 */
struct sample {
	double ns;
	uint64_t ops;
};

/**
 * struct contender - one way of doing what a case measures
 * @name: as printed
 * @reset: leader, before each window, while the follower waits; may be NULL
 * @lead: leader's half of one window of b->window_ns
 * @follow: follower's half, until it is told to stop; NULL: it only waits
 * @local: needs both ends in one machine
 * @scale: does less than a message needs; shown for the scale, without an aim
 */
struct contender {
	const char *name;
	void (*reset)(struct bench *b);
	int (*lead)(struct bench *b, struct sample *s);
	int (*follow)(struct bench *b);
	bool local;
	bool scale;
};

enum unit { UNIT_NS, UNIT_RATE, UNIT_BYTES };

/**
 * struct bench_case - one figure
 * @aim: ratio to reach; @at_most: no more than that, otherwise no less. Ratios of
 *	UNIT_NS are time / time, the others speed / speed: ours first
 * @bulk: needs BULK_REGION
 */
struct bench_case {
	const char *key, *title;
	enum unit unit;
	double aim;
	bool at_most, bulk;
	uint32_t flags, spin_us;	/* of the channel under test */
	const struct contender *c[MAX_RIVALS];	/* ours first, NULL ends */
};

struct bench {
	struct place place;
	const char *uri2;	/* the follower's, when both ends are here */
	const char *only;	/* comma-separated keys, or NULL */
	bool json, quick, remote, nopin;
	uint32_t windows, window_ms;

	unsigned int side;
	struct vmp *p;
	struct vmp_channel *ctl, *ch;
	uint32_t peer_id, peer_vector;	/* the other end's, for the bare doorbell */
	char *scratch;
	size_t range, scratch_len;
	uint64_t window_ns, deadline_ns;
	int step_ms;		/* that one call may wait in a window: STEP_MS or --timeout */
	uint64_t clock_ns;	/* what reading the clock takes */
	int efd[2];		/* bare eventfds, rung for side 0 and side 1 */
	pid_t child;
	char *src, *dst;	/* BULK_MSG each, private */

	uint64_t *lat;		/* round trips of this window, nanoseconds */
	size_t nlat;
	double *batch;
};

extern const struct bench_case *const bench_cases[];
extern const size_t n_bench_cases;
extern const struct bench_case case_rtt, case_wake, case_rate_spin, case_rate_batch,
	case_rate_solo, case_bulk_copy, case_bulk_place;

/* Spins a while between looks at the clock; true: the other end is stuck. */
static inline bool bench_stuck(const struct bench *b, uint32_t *spins)
{
	return !(++*spins & 0xffff) && now_ns() > b->deadline_ns;
}

/* Without --timeout. */
#define STEP_MS	10000

/* ---- control.c: commands between the two ends ---- */

enum bench_cmd { CMD_OPEN = 1, CMD_RUN, CMD_CLOSE, CMD_QUIT };

/* The follower's counts, when a case is closed. */
struct bench_counts {
	uint64_t sent, received, doorbells, wakeups, syscalls;
};

int control_open(struct bench *b);
/* Leader: has the follower do @cmd and waits for its answer, or READY for CMD_RUN. */
int control_ask(struct bench *b, enum bench_cmd cmd, uint32_t icase, uint32_t icont,
		struct bench_counts *counts);
/* Leader: the follower's half of the window is over. */
int control_done(struct bench *b);
/* Follower: obeys until CMD_QUIT. */
int control_serve(struct bench *b);
int channel_open(struct bench *b, const struct bench_case *c);
void channel_counts(const struct bench *b, struct bench_counts *n);

/* ---- report.c ---- */

/**
 * struct outcome - all windows of one case
 * @value: [contender][window], nanoseconds per op
 * @lat: per contender, sorted round trips
 */
struct outcome {
	const struct bench_case *c;
	size_t n, windows;
	double *value[MAX_RIVALS];
	uint64_t *lat[MAX_RIVALS];
	size_t nlat[MAX_RIVALS];
	uint64_t messages;	/* through the channel, both directions */
	struct bench_counts both;
};

struct json_object;
struct json_object *outcome_json(struct outcome *o);
void print_outcome(struct json_object *j);
void outcome_free(struct outcome *o);

/* ---- cost.c: instructions by single steps ---- */
struct json_object *cost_json(void);
void print_cost(struct json_object *j);

#endif /* PORTALCTL_BENCH_H */
