/* SPDX-License-Identifier: MIT */
/* Who has mapped the memory of a portal. */
#ifndef PORTALCTL_MAPPED_H
#define PORTALCTL_MAPPED_H

#include "tool.h"

/**
 * struct mapped - other processes that have mapped a portal's memory
 * @count: how many; @pid, @name: the first of them
 * @unseen: processes that this one may not look at
 */
struct mapped {
	unsigned int count, unseen;
	long pid;
	char name[24];
};

/* 0, or -1: it cannot be found out at all. */
int mapped_by_others(struct vmp *p, struct mapped *m);

#endif /* PORTALCTL_MAPPED_H */
