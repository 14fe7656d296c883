// SPDX-License-Identifier: MIT
/*
 * How long this machine has kept its processes waiting for a processor: nothing else is
 * forgiven to who is late. A thread that wants to run often is late when all are, as where a
 * hypervisor, or whoever stopped QEMU, takes the processors away; of one process the kernel
 * counts how long it ran, and was kept from it by others.
 */
#include <fcntl.h>
#include <pthread.h>

#include "crash.h"

#define EVERY_US	10000
#define LATE_US		20000	/* what is less is a scheduler's everyday life */

static _Atomic int64_t total_us, due_us;

static void *meter(void *unused)
{
	(void)unused;
	for (;;) {
		int64_t late;

		atomic_store(&due_us, us_now() + EVERY_US);
		usleep(EVERY_US);
		late = us_now() - atomic_load(&due_us);
		if (late > LATE_US)
			atomic_fetch_add(&total_us, late);
	}
	return NULL;
}

int stall_begin(void)
{
	pthread_t t;
	int r;

	atomic_store(&due_us, us_now() + EVERY_US);
	r = pthread_create(&t, NULL, meter, NULL);
	return r ? -r : 0;
}

int64_t stalled_ms(void)
{
	int64_t late = us_now() - atomic_load(&due_us);

	return (atomic_load(&total_us) + (late > LATE_US ? late : 0)) / 1000;
}

int64_t busy_ms(pid_t pid)
{
	unsigned long long ran, waited;
	char path[40], text[100];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return -1;
	text[n] = 0;
	if (sscanf(text, "%llu %llu", &ran, &waited) != 2)
		return -1;
	return (int64_t)((ran + waited) / 1000000);
}
