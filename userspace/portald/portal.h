/* SPDX-License-Identifier: MIT */
/*
 * One region and everybody on it. struct portal and struct client are what this
 * process knows; what a restart hands over is in kept memory (kept.h), and in the
 * store the descriptors (store.h).
 *
 * Two kinds of client, one table of operations each: a guest is a QEMU on
 * NAME.ivshmem, its id is fresh and never comes again; a process is one on
 * NAME.sock, which leases a host id. QEMU hears of all host ids when it
 * connects, and never of their leases; processes hear of who is really there.
 *
 * One thread. A client that fails while others are being told something is only
 * marked; the reaper, at the end of the round, removes it and tells the others.
 */
#ifndef PORTALD_PORTAL_H
#define PORTALD_PORTAL_H

#include <sys/queue.h>
#include <systemd/sd-event.h>

#include "config.h"
#include "efds.h"
#include "kept.h"
#include "listen.h"
#include "sendq.h"

#define NOBODY UINT32_MAX
#define USEC_PER_SEC 1000000ULL

struct portal;
struct client;
struct managed;

struct client_ops {
	const char *noun;			/* "guest", "process" */
	int (*start)(struct client *c);		/* just accepted; 0 or -errno */
	void (*input)(struct client *c);	/* readable */
	void (*stalled)(struct client *c);	/* has read nothing for stall_timeout */
	/* One message of @it, the first of its queue, by kept_send(); 0 or -errno. */
	int (*send)(struct client *c, const struct item *it);
	/* How many messages @it is. */
	unsigned int (*messages)(const struct client *c, const struct item *it);
};

struct client {
	TAILQ_ENTRY(client) link;
	struct portal *portal;
	const struct client_ops *ops;
	struct kept_client *k;		/* its record, NULL: a process before its hello */
	struct mmsghdr *out;		/* what it is being sent, kept */
	uint64_t gen;			/* of its record, also when that is free again */
	int fd;
	uint32_t id;			/* NOBODY until it has one */
	bool member;			/* is there: it was announced to others */
	bool restored;
	bool asked;			/* restored, and its request in the socket was begun */
	bool busy;			/* is not sent to, for its request is still in the socket */
	bool deaf;			/* did not read, so it is told nothing more */
	bool doomed;
	bool rdonly;			/* may not write, nor ring */
	uint64_t tenure;		/* of its lease, 0: a guest */
	struct efds *efds;		/* its receive eventfds */
	/* managed, a process (session.c) */
	uint32_t session;		/* its row */
	bool had_session;		/* it has asked, and got one */
	bool session_told;		/* and has the lifeline */
	int lifeline;			/* memfd, -1: it has no session that lives */
	int watch;			/* inotify's, of that */
	unsigned int looks;		/* at it, soon */
	bool lingers;			/* doomed, but its session is not over */
	bool unwatched;			/* and nobody can tell when it will be */
	bool change_last;		/* the last message sent was CHANGE */
	/* managed, a guest (warden.c) */
	int pidfd;			/* of its process, or -1 */
	sd_event_source *process;
	bool outlived;			/* its connection has outlived its process */
	bool ghost;			/* it has no connection any more, or one that we cut */
	uint64_t suspect_told;		/* when the log last said that it is suspect */
	int pid, uid;
	char comm[24];
	char why[192];			/* doomed: the reason, "" for a plain close */
	struct sendq q;
	sd_event_source *io;
	sd_event_source *timer;
	uint64_t deadline;		/* hello, or stall: cut then; 0: none */
	uint64_t retry;			/* try to send again then; 0: no */
	uint64_t since;			/* CLOCK_MONOTONIC, microseconds */
};

TAILQ_HEAD(client_list, client);

/* One of the host's fixed ids. */
struct slot {
	struct efds *efds;
	struct client *holder;		/* the longest free (kept_map.freed) is leased first */
};

struct acceptor {
	struct portal *portal;
	const struct client_ops *ops;
	sd_event_source *io;
	sd_event_source *timer;		/* paused: no tokens, or no descriptors */
	uint64_t tokens;		/* microseconds saved up for connects */
	uint64_t refilled;
	bool starved;			/* said so already */
};

struct portal {
	struct portal *next;
	struct portal_conf conf;
	sd_event *event;
	struct listening l;
	struct acceptor accept_guest, accept_host;
	int region;
	struct kept_map kept;
	struct slot *slots;		/* conf_host_ids() of them */
	struct client **guest;		/* by id */
	struct managed *managed;	/* NULL: raw */
	bool restoring;			/* nobody is sent anything: see restore.c */
	struct client_list clients;
	unsigned int guests, processes, others;	/* others: no hello yet */
	sd_event_source *reaper;
	void (*changed)(void *arg);	/* somebody came or went */
	void *changed_arg;
};

/* Region, sockets, ids; NULL and @e. @dir: where the sockets go. */
struct portal *portal_open(const struct portal_conf *conf, const char *dir,
			   sd_event *event, struct err *e);
/* @keep: everything stays as it is, for the next portald. */
void portal_close(struct portal *p, bool keep);

uint64_t now_usec(struct portal *p);

/*
 * A guest gets doorbells and a place (-EUSERS, -ENOSPC: ids are used up), and then an id,
 * a new one; a process a place and an id, leased (-EBUSY).
 */
int portal_admit_guest(struct portal *p, struct client *c);
void portal_number_guest(struct portal *p, struct client *c);
int portal_lease(struct portal *p, struct client *c);

/* Queues the peers that @c should know; all ids of the host, or only leased ones. */
int portal_tell_peers(struct portal *p, struct client *c, bool all_host_ids);

/* The guest with @id, if it is there; NULL. The doorbells of whoever has @id; NULL. */
struct client *portal_guest(struct portal *p, uint32_t id);
struct efds *portal_efds(struct portal *p, uint32_t id);

/* @c has its id, and its greeting waits: counts it and tells everybody else. */
void portal_joined(struct portal *p, struct client *c);

/* Counts @c, and enters it under its id. */
void portal_count(struct portal *p, struct client *c);

/* Removes those who are doomed, and tells the others. */
void portal_reap(struct portal *p);

/* Guest ids begin again if many are used, and nobody can have any of them. */
void portal_restart_ids(struct portal *p);

/* Everybody is sent what waits. */
void portal_flush(struct portal *p);

/* restore.c: those whom an earlier portald served; 0 or -errno. */
int portal_restore(struct portal *p);
/* For that: the greeting of one that has its id. */
int guest_greet(struct client *c);
int host_greet(struct client *c);

/* client.c */
/* A log line "KIND ID TEXT (pid, command)" about @c. */
void client_log(const struct client *c, int prio, const char *event, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
void client_new(struct acceptor *a, int fd);
/* Not yet watched, in no list; NULL: out of memory. */
struct client *client_alloc(struct portal *p, const struct client_ops *ops, int fd);
int client_watch(struct client *c);
/* Gives its descriptors to the store. */
int client_keep(struct client *c);
void client_free(struct client *c);
int client_push(struct client *c, enum item_kind kind, uint32_t id, uint64_t tenure);
int client_push_item(struct client *c, const struct item *it);
/* "c.GEN", "l.GEN": in a static buffer. */
const char *client_name(const struct client *c, char kind);
/* Frees it as client_free(), but it goes on with the next portald. */
void client_leave(struct client *c);
/* Closes its connection, and all that belongs to that. */
void client_disconnect(struct client *c);
/* The same as it is seen from the other side; our end is kept, to see when that has closed its. */
void client_cut(struct client *c);
void client_flush(struct client *c);
void client_deadline(struct client *c, uint64_t usec);	/* absolute, 0: none */
/*
 * A process that does not read: it is told nothing more, and sees the end of the
 * connection when it reads at last. It keeps its id until it closes its socket,
 * for it may still be using the eventfds, and two must not read from one.
 */
void client_deafen(struct client *c);
/* To be removed soon; @fmt "" is a plain close, else the reason for the log. */
void client_doom(struct client *c, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* What a message with descriptors points to. */
struct send_parts {
	struct iovec iov;
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE((VECTORS_MAX + 2) * sizeof(int))];
	} ctl;
};

void send_prepare(struct send_parts *s, struct msghdr *msg, const void *buf, size_t len,
		  const int *fds, unsigned int n);

/* One message with @n descriptors: 0 or -errno (-EAGAIN, -ETOOMANYREFS: later). */
int send_with_fds(int sock, const void *buf, size_t len, const int *fds, unsigned int n);

/* accept.c */
int acceptor_open(struct acceptor *a, struct portal *p, int fd,
		  const struct client_ops *ops);
void acceptor_close(struct acceptor *a);

extern const struct client_ops guest_ops;	/* guest.c */
extern const struct client_ops host_ops;	/* host.c */

/* Tells @c that the tables changed, unless it has yet to read that they did. */
void host_change(struct client *c);

/* status.c: the state as JSON in a sealed memfd, its length in *len; or -errno. */
int status_memfd(struct portal *p, uint64_t *len);

#endif
