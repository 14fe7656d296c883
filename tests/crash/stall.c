// SPDX-License-Identifier: MIT
/*
 * How long this machine has kept its processes waiting for a processor: nothing else is
 * forgiven to who is late. A thread that wants to run often is late when all are, as where a
 * hypervisor, or whoever stopped QEMU, takes the processors away; of one process the kernel
 * counts how long it ran, and was kept from it by others.
 */
#include <fcntl.h>

#include "../unit/lib/late.h"
#include "crash.h"

int stall_begin(void)
{
	return late_begin();
}

int64_t stalled_ms(void)
{
	return late_us() / 1000;
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
