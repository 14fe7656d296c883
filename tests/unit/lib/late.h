/* SPDX-License-Identifier: MIT */
/*
 * For how long this machine has stood still for everybody, as where a hypervisor, or other
 * processes, take the processors away: what is promised "at once" is not blamed for that.
 */
#ifndef TESTS_UNIT_LIB_LATE_H
#define TESTS_UNIT_LIB_LATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#define LATE_EVERY_US	5000
#define LATE_US		20000	/* what is less is a scheduler's everyday life */

static _Atomic int64_t late_total, late_due;

static inline int64_t late_now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* A thread that wants to run often is late when all are. */
static inline void *late_meter(void *unused)
{
	(void)unused;
	for (;;) {
		int64_t late;

		atomic_store(&late_due, late_now_us() + LATE_EVERY_US);
		usleep(LATE_EVERY_US);
		late = late_now_us() - atomic_load(&late_due);
		if (late > LATE_US)
			atomic_fetch_add(&late_total, late);
	}
	return NULL;
}

/* From here on it is measured. Not in a child: the meter is its parent's. 0 or -errno. */
static inline int late_begin(void)
{
	pthread_t t;

	atomic_store(&late_due, late_now_us() + LATE_EVERY_US);
	return -pthread_create(&t, NULL, late_meter, NULL);
}

static inline int64_t late_us(void)
{
	int64_t late = late_now_us() - atomic_load(&late_due);

	return atomic_load(&late_total) + (late > LATE_US ? late : 0);
}

/* Time by a clock that stands still when this machine does; it begins with the first call. */
static inline int64_t ran_us(void)
{
	static bool begun;

	if (!begun)
		begun = !late_begin();
	return late_now_us() - late_us();
}

#endif /* TESTS_UNIT_LIB_LATE_H */
