/* SPDX-License-Identifier: MIT */
/*
 * The listening sockets: from systemd where it passed them, else bound here.
 * NAME.lock, held by flock() and holding our pid, keeps two daemons from serving
 * one name and tells, at the next start, that the last one did not end cleanly.
 */
#ifndef PORTALD_LISTEN_H
#define PORTALD_LISTEN_H

#include <sys/un.h>

#include "config.h"

struct listen_end {
	int fd;
	bool bound;		/* by us: unlink at the end */
	bool kept;		/* an earlier portald's */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

struct listening {
	struct listen_end guest;	/* NAME.ivshmem, SOCK_STREAM */
	struct listen_end host;		/* NAME.sock, SOCK_SEQPACKET */
	int lock;
	char lock_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int stale_pid;			/* of a daemon that left no clean end, else 0 */
};

/* Collects what systemd passed; 0, or -1 and @e. Call once, before any open. */
int listen_inherit(struct err *e);

/* Names that systemd passed sockets for and nobody has opened: NULL if none. */
const char *listen_left_over(void);

/* Where the sockets live: @dir or the default of this user, in a static buffer. */
const char *listen_dir(const char *dir);

/* Makes @dir where it is missing; 0, or -1 and @e. */
int listen_make_dir(const char *dir, struct err *e);

int listen_open(struct listening *l, const struct portal_conf *p, const char *dir,
		struct err *e);
/* @keep: the next portald goes on with them. */
void listen_close(struct listening *l, const char *name, bool keep);

/* Path of a socket of NAME: @suffix "ivshmem" or "sock"; -1 and @e if too long. */
int listen_path(char *buf, size_t len, const char *dir, const char *name,
		const char *suffix, struct err *e);

#endif
