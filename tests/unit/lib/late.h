/* SPDX-License-Identifier: MIT */
/*
 * Time by a clock that stands still when this machine does: what is promised "at once" is not
 * blamed for what a hypervisor, or other processes, take away.
 */
#ifndef TESTS_UNIT_LIB_LATE_H
#define TESTS_UNIT_LIB_LATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "test.h"

#define LATE_EVERY_US	5000
#define LATE_US		20000	/* what is less is a scheduler's everyday life */

static _Atomic int64_t late_total, late_due;

/* A thread that wants to run often is late when all are. */
static inline void *late_meter(void *unused)
{
	(void)unused;
	for (;;) {
		int64_t late;

		atomic_store(&late_due, now_us() + LATE_EVERY_US);
		usleep(LATE_EVERY_US);
		late = now_us() - atomic_load(&late_due);
		if (late > LATE_US)
			atomic_fetch_add(&late_total, late);
	}
	return NULL;
}

/* Not in a child: the meter is its parent's. */
static inline int64_t ran_us(void)
{
	static bool begun;
	int64_t now, late;
	pthread_t t;

	if (!begun) {
		atomic_store(&late_due, now_us() + LATE_EVERY_US);
		begun = !pthread_create(&t, NULL, late_meter, NULL);
	}
	now = now_us();
	late = now - atomic_load(&late_due);
	return now - atomic_load(&late_total) - (late > LATE_US ? late : 0);
}

#endif /* TESTS_UNIT_LIB_LATE_H */
