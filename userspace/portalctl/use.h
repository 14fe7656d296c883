/* SPDX-License-Identifier: MIT */
/* Who uses the disks and other nodes of a device. */
#ifndef PORTALCTL_USE_H
#define PORTALCTL_USE_H

#define USE_MAX_NODES	64

/**
 * struct use - the nodes of one device
 * @why: who uses them, and what to do; one line without a newline
 * @fd: disks, held exclusively; @n of them
 */
struct use {
	char why[512];
	int fd[USE_MAX_NODES];
	int n;
};

/*
 * Looks at every node below the device @dir in sysfs, and claims its disks. 0, or -EBUSY
 * (or another -errno if that cannot be found out) with @why. Needs root. The caller
 * releases it in any case.
 */
int use_claim(struct use *u, const char *dir);
void use_release(struct use *u);

#endif /* PORTALCTL_USE_H */
