/* SPDX-License-Identifier: MIT */
/*
 * The eventfds of one peer, one per vector. Held by the peer and by every
 * announcement not yet sent; closed with the last of them.
 */
#ifndef PORTALD_EFDS_H
#define PORTALD_EFDS_H

#include <stdbool.h>

struct efds {
	unsigned int refs;
	unsigned int n;
	int fd[];
};

struct efds *efds_new(unsigned int n);	/* NULL: errno (EMFILE, ENOMEM) */
struct efds *efds_adopt(const int *fds, unsigned int n);	/* closes them on failure */
struct efds *efds_get(struct efds *e);
void efds_put(struct efds *e);		/* NULL is allowed */
/*
 * Rings one. Somebody may have made it blocking, and fill it just then: only within
 * efds_guard(true) and efds_guard(false), which wake us after a moment.
 */
void efds_ring(const struct efds *e, unsigned int vector);
void efds_guard(bool on);
void efds_drain(struct efds *e);	/* forget rings nobody has heard */

#endif
