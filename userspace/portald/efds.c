// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "efds.h"

struct efds *efds_new(unsigned int n)
{
	struct efds *e = malloc(sizeof(*e) + n * sizeof(e->fd[0]));

	if (!e)
		return NULL;
	e->refs = 1;
	for (e->n = 0; e->n < n; e->n++) {
		e->fd[e->n] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (e->fd[e->n] < 0) {
			int err = errno;

			efds_put(e);
			errno = err;
			return NULL;
		}
	}
	return e;
}

struct efds *efds_get(struct efds *e)
{
	e->refs++;
	return e;
}

void efds_put(struct efds *e)
{
	unsigned int i;

	if (!e || --e->refs)
		return;
	for (i = 0; i < e->n; i++)
		close(e->fd[i]);
	free(e);
}

void efds_drain(struct efds *e)
{
	unsigned int i;
	uint64_t v;

	/* One read takes all there is; a peer that rings on cannot hold us here. */
	for (i = 0; i < e->n; i++)
		while (read(e->fd[i], &v, sizeof(v)) < 0 && errno == EINTR)
			;
}
