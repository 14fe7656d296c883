/* SPDX-License-Identifier: MIT */
/* eventfds, as doorbells of processes. */
#ifndef VMP_EFD_H
#define VMP_EFD_H

#include <stdbool.h>

/* A fresh one, non-blocking; or -errno with a text. */
int vmp_efd_new(void);

/* Another descriptor of the same; or -errno with a text. */
int vmp_efd_dup(int fd);

/*
 * Make it readable; does not block, whoever of those it is @shared with (strangers) made
 * it blocking; two system calls then. The library's sleepers wait for edges and do not
 * read; so a counter that is full (about 2^64 rings, or one hostile write) is
 * emptied by the ringer, and written to once more.
 */
int vmp_efd_signal(int fd, bool shared);

/* Is @fd, which a stranger sent, really an eventfd? 0, or -EPROTO with a text. */
int vmp_efd_check(int fd);

#endif /* VMP_EFD_H */
