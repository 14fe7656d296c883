/* SPDX-License-Identifier: MIT */
/*
 * The eventfds of one peer, one per vector. Held by the peer and by every
 * announcement not yet sent; closed with the last of them.
 */
#ifndef PORTALD_EFDS_H
#define PORTALD_EFDS_H

struct efds {
	unsigned int refs;
	unsigned int n;
	int fd[];
};

struct efds *efds_new(unsigned int n);	/* NULL: errno (EMFILE, ENOMEM) */
struct efds *efds_get(struct efds *e);
void efds_put(struct efds *e);		/* NULL is allowed */
void efds_drain(struct efds *e);	/* forget rings nobody has heard */

#endif
