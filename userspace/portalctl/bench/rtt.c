// SPDX-License-Identifier: MIT
/*
 * Round trips. The limit of a round trip of 32 bytes is the bare exchange: two
 * fixed lines on separate 128-byte blocks (adjacent lines are fetched in pairs),
 * one for each direction, each written by one side only, payload in the line.
 */
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

#define BATCH		8	/* round trips between looks at the clock */
#define RTT_BYTES	32
#define SETTLE_NS	50000	/* before a wake-up: so long that the other end sleeps for sure */

struct bare_line {
	_Atomic uint64_t seq;
	uint64_t payload[RTT_BYTES / 8];
} __attribute__((aligned(128)));

/*
 * Three quarters of the window in batches, so that the clock costs nothing: its
 * median is the window's figure. The rest singly, for percentiles. A batch of 1 is
 * a wake-up: all singly, each after a pause in which the other end goes to sleep.
 */
static inline __attribute__((always_inline))
int measure(struct bench *b, struct sample *s, unsigned int batch,
	    int (*exchange)(struct bench *b, uint64_t n))
{
	bool settle = batch == 1;
	uint64_t start = now_ns(), t = start, t1, n = 0;
	size_t nb = 0;
	int err = 0;

	while (batch > 1 && t - start < b->window_ns / 4 * 3 && nb < MAX_LATENCIES) {
		for (unsigned int i = 0; i < batch && !err; i++)
			err = exchange(b, ++n);
		if (err)
			return err;
		t1 = now_ns();
		b->batch[nb++] = (double)(t1 - t) / batch;
		t = t1;
	}
	b->nlat = 0;
	/* At least one, however slow this machine is. */
	do {
		for (t1 = t; settle && t - t1 < SETTLE_NS;)
			t = now_ns();
		err = exchange(b, ++n);
		if (err)
			return err;
		t1 = now_ns();
		/* Each holds one reading of the clock, which is dear on emulated machines. */
		b->lat[b->nlat++] = t1 - t > b->clock_ns ? t1 - t - b->clock_ns : 1;
		t = t1;
	} while (t - start < b->window_ns && b->nlat < MAX_LATENCIES);
	if (!nb)
		for (; nb < b->nlat; nb++)
			b->batch[nb] = b->lat[nb];
	sort_double(b->batch, nb);
	s->ns = b->batch[rank(nb, 50)];
	s->ops = n;
	return 0;
}

/* ---- ours ---- */

static int exchange_vmp(struct bench *b, uint64_t n)
{
	uint64_t m[RTT_BYTES / 8] = { n, n, n, n };
	ssize_t got;
	int err = vmp_send(b->ch, m, sizeof(m), 0, b->step_ms);

	if (err)
		return err;
	got = vmp_recv(b->ch, m, sizeof(m), b->step_ms);
	if (got < 0)
		return got;
	return got == sizeof(m) && m[0] == n ? 0 : -EBADMSG;
}

static int stop_vmp(struct bench *b, int err)
{
	uint64_t m[RTT_BYTES / 8] = { STOP };
	int ret = vmp_send(b->ch, m, sizeof(m), 0, b->step_ms);

	return err ? err : ret;
}

static int lead_vmp(struct bench *b, struct sample *s)
{
	return stop_vmp(b, measure(b, s, BATCH, exchange_vmp));
}

static int lead_vmp_singly(struct bench *b, struct sample *s)
{
	return stop_vmp(b, measure(b, s, 1, exchange_vmp));
}

static int follow_vmp(struct bench *b)
{
	uint64_t m[RTT_BYTES / 8];
	ssize_t got;
	int err;

	for (;;) {
		got = vmp_recv(b->ch, m, sizeof(m), b->step_ms);
		if (got != sizeof(m))
			return got < 0 ? got : -EBADMSG;
		if (m[0] == STOP)
			return 0;
		err = vmp_send(b->ch, m, sizeof(m), 0, b->step_ms);
		if (err)
			return err;
	}
}

/* ---- the bare exchange ---- */

static void reset_bare(struct bench *b)
{
	memset(b->scratch, 0, 2 * sizeof(struct bare_line));
	atomic_thread_fence(memory_order_seq_cst);
}

static inline void bare_put(struct bare_line *l, uint64_t seq, const uint64_t *payload)
{
	memcpy(l->payload, payload, RTT_BYTES);
	atomic_store_explicit(&l->seq, seq, memory_order_release);
}

static inline int bare_get(struct bench *b, struct bare_line *l, uint64_t seq, uint64_t *payload)
{
	uint32_t spins = 0;

	while (atomic_load_explicit(&l->seq, memory_order_acquire) != seq)
		if (bench_stuck(b, &spins))
			return -ETIMEDOUT;
	memcpy(payload, l->payload, RTT_BYTES);
	return 0;
}

static int exchange_bare(struct bench *b, uint64_t n)
{
	struct bare_line *l = (struct bare_line *)b->scratch;
	uint64_t m[RTT_BYTES / 8] = { n, n, n, n };
	int err;

	bare_put(&l[0], n, m);
	err = bare_get(b, &l[1], n, m);
	if (err)
		return err;
	return m[0] == n ? 0 : -EBADMSG;
}

static int lead_bare(struct bench *b, struct sample *s)
{
	struct bare_line *l = (struct bare_line *)b->scratch;
	uint64_t m[RTT_BYTES / 8] = { STOP };
	int err = measure(b, s, BATCH, exchange_bare);

	bare_put(&l[0], s->ops + 1, m);
	return err;
}

static int follow_bare(struct bench *b)
{
	struct bare_line *l = (struct bare_line *)b->scratch;
	uint64_t m[RTT_BYTES / 8];
	int err;

	for (uint64_t n = 1;; n++) {
		err = bare_get(b, &l[0], n, m);
		if (err || m[0] == STOP)
			return err;
		bare_put(&l[1], n, m);
	}
}

/* ---- wake-up: bare eventfds, bare doorbells ---- */

static int efd_put(int fd, uint64_t v)
{
	return write(fd, &v, sizeof(v)) == sizeof(v) ? 0 : -errno;
}

static int efd_get(int fd, uint64_t *v)
{
	return read(fd, v, sizeof(*v)) == sizeof(*v) ? 0 : -errno;
}

static int exchange_efd(struct bench *b, uint64_t n)
{
	uint64_t v;
	int err = efd_put(b->efd[1], 1);

	return err ? err : efd_get(b->efd[0], &v);
}

static int lead_efd(struct bench *b, struct sample *s)
{
	int err = measure(b, s, 1, exchange_efd);

	efd_put(b->efd[1], 2);	/* not 1: stop */
	return err;
}

static int follow_efd(struct bench *b)
{
	uint64_t v;
	int err;

	for (;;) {
		err = efd_get(b->efd[1], &v);
		if (err || v != 1)
			return err;
		err = efd_put(b->efd[0], 1);
		if (err)
			return err;
	}
}

/*
 * The region's own doorbells without a message: ring, sleep in poll(), read. What
 * is said beside the ring (a sequence number, so that a spurious event is told
 * from an answer) is in the bare lines.
 */
static int bell_wait(struct bench *b, struct bare_line *l, uint64_t seq)
{
	struct pollfd p = { .fd = vmp_eventfd(b->p, b->place.ch.vector), .events = POLLIN };
	uint64_t v;

	do {
		/* Timed: a device drops rings to a peer that it does not know yet. */
		if (poll(&p, 1, 100) < 0 && errno != EINTR)
			return -errno;
		if (read(p.fd, &v, sizeof(v)) < 0 && errno != EAGAIN)
			return -errno;
		if (now_ns() > b->deadline_ns)
			return -ETIMEDOUT;
	} while (atomic_load_explicit(&l->seq, memory_order_acquire) != seq);
	return 0;
}

static int exchange_bell(struct bench *b, uint64_t n)
{
	struct bare_line *l = (struct bare_line *)b->scratch;
	int err;

	atomic_store_explicit(&l[0].seq, n, memory_order_release);
	err = vmp_ring(b->p, b->peer_id, b->peer_vector);
	return err ? err : bell_wait(b, &l[1], n);
}

static int lead_bell(struct bench *b, struct sample *s)
{
	struct bare_line *l = (struct bare_line *)b->scratch;
	int err = measure(b, s, 1, exchange_bell);

	l[0].payload[0] = STOP;
	atomic_store_explicit(&l[0].seq, s->ops + 1, memory_order_release);
	vmp_ring(b->p, b->peer_id, b->peer_vector);
	return err;
}

static int follow_bell(struct bench *b)
{
	struct bare_line *l = (struct bare_line *)b->scratch;
	int err;

	for (uint64_t n = 1;; n++) {
		err = bell_wait(b, &l[0], n);
		if (err || *(volatile uint64_t *)l[0].payload == STOP)
			return err;
		atomic_store_explicit(&l[1].seq, n, memory_order_release);
		err = vmp_ring(b->p, b->peer_id, b->peer_vector);
		if (err)
			return err;
	}
}

static const struct contender rtt_vmp = { "vmp_send/vmp_recv", NULL, lead_vmp, follow_vmp, false, false };
static const struct contender bare = { "bare cache lines", reset_bare, lead_bare, follow_bare, false, false };
static const struct contender wake_vmp = { "vmp_send/vmp_recv, asleep", NULL, lead_vmp_singly,
					   follow_vmp, false, false };
static const struct contender efd = { "bare eventfds", NULL, lead_efd, follow_efd, true, false };
static const struct contender bell = { "bare doorbells", reset_bare, lead_bell, follow_bell, false, false };

const struct bench_case case_rtt = {
	.key = "rtt", .title = "round trip of 32 B, ends that never sleep", .unit = UNIT_NS,
	.aim = 1.15, .at_most = true, .flags = VMP_CH_NO_SLEEP, .c = { &rtt_vmp, &bare },
};

const struct bench_case case_wake = {
	.key = "wake", .title = "round trip of 32 B, both ends woken from sleep", .unit = UNIT_NS,
	.aim = 1.1, .at_most = true, .spin_us = 1, .c = { &wake_vmp, &efd, &bell },
};
