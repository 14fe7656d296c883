// SPDX-License-Identifier: MIT
/*
 * One-way rate of 64-byte messages beside rings of others. The sender takes the time
 * of each stretch of RATE_STRETCH messages, several times what the ring holds, so
 * that it goes at the receiver's pace; the window's figure is their median. What a
 * busy machine does to a few stretches does not count then.
 */
#include <string.h>

#include "bench.h"
#include "rival.h"

#define BURST		32	/* messages to a vmp_flush() */
#define CLOCK_EVERY	64	/* messages between looks at the clock */

_Static_assert(RATE_SLOTS == RIVAL_SLOTS, "rings of equally many messages");

/* From marks to the window's figure; too few of them: 0, and the whole window counts. */
static double stretch_median(struct bench *b, const uint64_t *marks, size_t n)
{
	if (n < 4)
		return 0;
	for (size_t i = 1; i < n; i++)
		b->batch[i - 1] = (double)(marks[i] - marks[i - 1]) / RATE_STRETCH;
	sort_double(b->batch, n - 1);
	return b->batch[rank(n - 1, 50)];
}

static inline __attribute__((always_inline))
int produce_vmp(struct bench *b, struct sample *s, unsigned int burst)
{
	uint64_t start = now_ns();
	struct msg64 m = { { 0 } };
	bool last = false;
	size_t marks = 0;
	int err;

	for (uint64_t n = 0;; n++) {
		if (n % CLOCK_EVERY == 0) {
			uint64_t now = now_ns();

			if (n % RATE_STRETCH == 0 && marks < RATE_MARKS)
				b->lat[marks++] = now;
			last = now - start >= b->window_ns;
		}
		m.w[0] = last ? STOP : n;
		m.w[7] = n;
		err = vmp_send(b->ch, &m, sizeof(m),
			       burst > 1 && !last && (n + 1) % burst ? VMP_MORE : 0, b->step_ms);
		if (err)
			return err;
		if (last) {
			s->ops = n + 1;
			s->ns = stretch_median(b, b->lat, marks);
			return 0;
		}
	}
}

static int lead_each(struct bench *b, struct sample *s)
{
	return produce_vmp(b, s, 1);
}

static int lead_burst(struct bench *b, struct sample *s)
{
	return produce_vmp(b, s, BURST);
}

static int follow_recv(struct bench *b)
{
	struct msg64 m;
	ssize_t got;

	for (uint64_t n = 0;; n++) {
		got = vmp_recv(b->ch, &m, sizeof(m), b->step_ms);
		if (got < 0)
			return got;
		if (got != sizeof(m) || m.w[7] != n)
			return -EBADMSG;
		if (m.w[0] == STOP)
			return 0;
	}
}

/* ---- rivals ---- */

static void *rival_mem(struct bench *b)
{
	/* The first line is the sleeper's flag. */
	return b->scratch + 4096;
}

_Static_assert(RATE_MARKS <= MAX_LATENCIES, "marks are kept where round trips are");

static void rival_setup(const struct bench *b, struct rival_run *run)
{
	run->marks = b->lat;
	run->n_marks = 0;
	run->window_ns = b->window_ns;
	run->deadline_ns = b->deadline_ns;
	run->flag = (const uint32_t *)b->scratch;
	run->now = now_ns;
}

static void rival_reset(struct bench *b, const struct rival *r)
{
	memset(b->scratch, 0, 4096);
	r->init(rival_mem(b));
	atomic_thread_fence(memory_order_seq_cst);
}

static int rival_lead(struct bench *b, struct sample *s, const struct rival *r, bool fenced)
{
	struct rival_run run;
	int64_t n;

	rival_setup(b, &run);
	n = (fenced ? r->produce_fenced : r->produce)(rival_mem(b), &run);
	if (n < 0)
		return n;
	s->ops = n;
	s->ns = stretch_median(b, run.marks, run.n_marks);
	return 0;
}

static int rival_follow(struct bench *b, const struct rival *r)
{
	struct rival_run run;
	int64_t n;

	rival_setup(b, &run);
	n = r->consume(rival_mem(b), &run);
	return n < 0 ? n : 0;
}

/* A contender for each of a rival's two ways. */
#define RIVAL(r)								\
static void reset_##r(struct bench *b) { rival_reset(b, &rival_##r); }		\
static int lead_##r(struct bench *b, struct sample *s)				\
{										\
	return rival_lead(b, s, &rival_##r, false);				\
}										\
static int lead_fenced_##r(struct bench *b, struct sample *s)			\
{										\
	return rival_lead(b, s, &rival_##r, true);				\
}										\
static int follow_##r(struct bench *b) { return rival_follow(b, &rival_##r); }

/* Rivals trust their shared indices, so they only run between our own processes. */
#ifdef HAVE_CK
RIVAL(ck)
static const struct contender ck = { "ck_ring", reset_ck, lead_ck, follow_ck, true, false };
static const struct contender ck_fenced = { "ck_ring + fence and flag", reset_ck,
					    lead_fenced_ck, follow_ck, true, false };
#define CK(x)	&x,
#else
#define CK(x)
#endif

#ifdef HAVE_BOOST
RIVAL(boost)
static const struct contender boost = { "boost spsc_queue", reset_boost, lead_boost,
					follow_boost, true, false };
static const struct contender boost_fenced = { "boost spsc_queue + fence and flag", reset_boost,
					       lead_fenced_boost, follow_boost, true, false };
#define BOOST(x)	&x,
#else
#define BOOST(x)
#endif

static const struct contender each = { "vmp_send/vmp_recv", NULL, lead_each, follow_recv, false, false };
static const struct contender burst = { "vmp_send(VMP_MORE) by 32/vmp_recv", NULL, lead_burst,
					follow_recv, false, false };

const struct bench_case case_rate_spin = {
	.key = "rate-spin", .title = "64 B one way, ends that never sleep", .unit = UNIT_RATE,
	.aim = 1, .flags = VMP_CH_NO_SLEEP, .c = { &each, CK(ck) BOOST(boost) },
};

const struct bench_case case_rate_batch = {
	.key = "rate-batch", .title = "64 B one way, may sleep, in batches", .unit = UNIT_RATE,
	.aim = 1, .c = { &burst, CK(ck) BOOST(boost) },
};

const struct bench_case case_rate_solo = {
	.key = "rate-solo", .title = "64 B one way, may sleep, each alone", .unit = UNIT_RATE,
	.aim = 1, .c = { &each, CK(ck_fenced) BOOST(boost_fenced) },
};
