// SPDX-License-Identifier: MIT
/*
 * Doorbells: eventfds. A client has the same open file, and may have made it blocking,
 * or may empty or fill it between a look and what follows; O_NONBLOCK and poll() promise
 * nothing, and QEMU's main loop, which is the guest's, must not sleep. So a bell is read
 * with RWF_NOWAIT. Writing has no such thing; but the kernel itself never waits when it
 * signals an eventfd, which it does at the end of an asynchronous operation.
 */
#include "vsp.h"

#include <linux/aio_abi.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>

/**
 * struct ringer - what rings
 * @aio: the kernel's context
 * @null: /dev/null, which is read at once
 */
struct ringer {
	aio_context_t aio;
	int null;
};

int *bells_new(uint32_t n, char *err)
{
	int *b = g_new(int, n);
	uint32_t i;

	for (i = 0; i < n; i++) {
		b[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (b[i] < 0)
			vsp_fail(err, -errno, "eventfd: %s", strerror(errno));
	}
	return b;
}

void bells_free(int *b, uint32_t n)
{
	uint32_t i;

	for (i = 0; b && i < n; i++)
		if (b[i] >= 0)
			close(b[i]);
	g_free(b);
}

struct ringer *ringer_new(char *err)
{
	struct ringer *r = g_new0(struct ringer, 1);

	r->null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (r->null < 0 || syscall(SYS_io_setup, 8, &r->aio))
		vsp_fail(err, -errno, "asynchronous reading of /dev/null: %s", strerror(errno));
	return r;
}

void ringer_free(struct ringer *r)
{
	if (!r)
		return;
	syscall(SYS_io_destroy, r->aio);
	if (r->null >= 0)
		close(r->null);
	g_free(r);
}

void bell_ring(struct ringer *r, int bell)
{
	char none;
	struct iocb read = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = r->null,
		.aio_buf = (uintptr_t)&none,
		.aio_nbytes = 1,
		.aio_flags = IOCB_FLAG_RESFD,
		.aio_resfd = bell,
	}, *list = &read;
	struct io_event done;

	/* It has ended when this returns. */
	if (syscall(SYS_io_submit, r->aio, 1, &list) == 1)
		syscall(SYS_io_getevents, r->aio, 1, 1, &done, NULL);
}

bool bell_take(int bell)
{
	uint64_t n;
	struct iovec v = { &n, sizeof(n) };

	return preadv2(bell, &v, 1, -1, RWF_NOWAIT) == sizeof(n);
}
