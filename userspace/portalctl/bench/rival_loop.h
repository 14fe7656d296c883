/* SPDX-License-Identifier: MIT */
/*
 * The loops of a rival. The includer defines RIVAL_PUSH(mem, m) and RIVAL_POP(mem,
 * m), which return true when it was done; valid C and C++.
 */
#include <errno.h>

#define RIVAL_CLOCK_EVERY	64	/* messages between looks at the clock */

static inline bool rival_stuck(const struct rival_run *run, uint32_t *spins)
{
	return !(++*spins & 0xffff) && run->now() > run->deadline_ns;
}

static inline __attribute__((always_inline))
int64_t rival_produce(void *mem, struct rival_run *run, bool fenced)
{
	uint64_t start = run->now();
	struct msg64 m = { { 0, 0, 0, 0, 0, 0, 0, 0 } };
	uint32_t spins = 0;
	bool last = false;

	for (uint64_t n = 0;; n++) {
		if (n % RIVAL_CLOCK_EVERY == 0) {
			uint64_t now = run->now();

			if (n % RATE_STRETCH == 0 && run->n_marks < RATE_MARKS)
				run->marks[run->n_marks++] = now;
			last = now - start >= run->window_ns;
		}
		m.w[0] = last ? UINT64_MAX : n;
		m.w[7] = n;
		while (!RIVAL_PUSH(mem, &m))
			if (rival_stuck(run, &spins))
				return -ETIMEDOUT;
		if (fenced) {
			__atomic_thread_fence(__ATOMIC_SEQ_CST);
			/* The flag is never up here: the rival is spared the doorbell. */
			if (__atomic_load_n(run->flag, __ATOMIC_RELAXED))
				return -EBADMSG;
		}
		if (last)
			return n + 1;
	}
}

static int64_t rival_produce_plain(void *mem, struct rival_run *run)
{
	return rival_produce(mem, run, false);
}

static int64_t rival_produce_fenced(void *mem, struct rival_run *run)
{
	return rival_produce(mem, run, true);
}

static int64_t rival_consume(void *mem, const struct rival_run *run)
{
	struct msg64 m;
	uint32_t spins = 0;

	for (uint64_t n = 0;; n++) {
		while (!RIVAL_POP(mem, &m))
			if (rival_stuck(run, &spins))
				return -ETIMEDOUT;
		if (m.w[7] != n)
			return -EBADMSG;
		if (m.w[0] == UINT64_MAX)
			return n + 1;
	}
}
