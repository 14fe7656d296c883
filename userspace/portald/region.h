/* SPDX-License-Identifier: MIT */
#ifndef PORTALD_REGION_H
#define PORTALD_REGION_H

#include "config.h"

/*
 * The shared memory of portal @p: a memfd of its size, sealed against shrinking
 * (a peer's mapping can never turn into SIGBUS), growing and further seals.
 * Returns the descriptor, or -1 and @e.
 */
int region_create(const struct portal_conf *p, struct err *e);

/* The same memory, opened read-only: a new descriptor, or -errno. */
int region_reopen_rdonly(int fd);

#endif
