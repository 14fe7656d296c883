/* SPDX-License-Identifier: MIT */
/*
 * Rings of others, as one-way streams of 64-byte messages. Each implementation
 * is compiled with its own loops (rival_loop.h), so that nothing of ours stands
 * between them and their best.
 */
#ifndef PORTALCTL_RIVAL_H
#define PORTALCTL_RIVAL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RIVAL_SLOTS	1024
#define RATE_STRETCH	4096	/* messages timed together: several times round the ring */
#define RATE_MARKS	65536	/* stretches in a window at most */

struct msg64 {
	uint64_t w[8];
};

/*
 * What a loop needs to know: no struct bench in C++. @marks: the time at each
 * stretch's end, RATE_MARKS of them at most; @n_marks: how many there are.
 */
struct rival_run {
	uint64_t window_ns, deadline_ns;
	const uint32_t *flag;	/* the sleeper's flag, on a line of its own */
	uint64_t (*now)(void);
	uint64_t *marks;
	size_t n_marks;
};

/**
 * struct rival - a ring in given memory (128-byte aligned)
 * @produce: sends until the window ends, then a message whose w[0] is ~0; how
 *	many, or a negative errno
 * @produce_fenced: the same, each message followed by what a sender to a
 *	receiver that may sleep has to do: a full fence and a look at its flag
 * @consume: receives until w[0] is ~0; how many, or -EBADMSG if one is wrong
 */
struct rival {
	const char *name;
	size_t bytes;
	void (*init)(void *mem);
	int64_t (*produce)(void *mem, struct rival_run *run);
	int64_t (*produce_fenced)(void *mem, struct rival_run *run);
	int64_t (*consume)(void *mem, const struct rival_run *run);
};

extern const struct rival rival_ck, rival_boost;

#ifdef __cplusplus
}
#endif

#endif /* PORTALCTL_RIVAL_H */
