/* SPDX-License-Identifier: MIT */
/*
 * What to serve: from portald.conf(5), one section per portal, or from the
 * command line, whose options have the same names and go through the same checks.
 */
#ifndef PORTALD_CONFIG_H
#define PORTALD_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CONF_DEFAULT	"/etc/vmportal/portald.conf"
#define NAME_LEN_MAX	32
#define SIZE_MIN	(64ULL << 10)	/* a 64 KiB page: no guest maps less of a BAR */
#define SIZE_MAX_	(1ULL << 40)
#define VECTORS_MAX	64
#define HOST_PEERS_MAX	256
/*
 * Ids are 16 bits in the doorbell register. 65535 itself stays unused, so that
 * it can mean "nobody" everywhere.
 */
#define ID_END		65535U
/*
 * Each (peer, vector) is a descriptor in every QEMU, and 1024 is the usual limit
 * there. A QEMU at its limit gets the message without the descriptor and takes
 * it for a peer that left.
 */
#define QEMU_FDS	900U

/* One line for a human: what, where, what to do. */
struct err {
	char text[384];
};

/* Writes e->text; returns -1, so that a caller may return it. */
int err_set(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

struct portal_conf {
	struct portal_conf *next;
	char name[NAME_LEN_MAX + 1];
	char where[128];	/* "FILE:LINE" or "command line" */
	uint64_t seen;		/* bit n: key n of the table was given */
	uint64_t size;
	unsigned int vectors;
	unsigned int host_peers;
	unsigned int max_guests;
	unsigned int first_guest_id;
	unsigned int stall_timeout;	/* seconds */
	unsigned int connect_rate;	/* per second, 0: no limit */
	uint64_t hugepages;		/* page size, 1: the system's default, 0: none */
	unsigned int prealloc;		/* bool */
	unsigned int managed;		/* bool: laid out by portal-layout(5) */
	unsigned int sessions;		/* of each machine, 0: what fits */
	unsigned int heartbeat;		/* managed: milliseconds */
	unsigned int session_rows;	/* derived: sessions, or what fits; 0: raw */
	uid_t owner;			/* -1: leave */
	gid_t group;			/* -1: leave */
	unsigned int mode;
};

struct config {
	char *socket_dir;		/* NULL: the default */
	struct portal_conf *portals;	/* in the file's order */
};

/* A name becomes a QEMU id, a file name and a libvirt name: 0, or -1 and @e. */
int conf_check_name(const char *name, struct err *e);

/* A conf with defaults, appended to @c; NULL and @e on a bad or duplicate name. */
struct portal_conf *conf_add(struct config *c, const char *name, const char *where,
			     struct err *e);

/* Sets one key; '-' and '_' are the same in @key. */
int conf_set(struct portal_conf *p, const char *key, const char *value, struct err *e);

/* What can be checked only when all keys are known; fills derived defaults. */
int conf_finish(struct portal_conf *p, struct err *e);

/* Reads @path into @c; 0, or -1 and @e ("FILE:LINE: ..."). -ENOENT if absent. */
int conf_load(struct config *c, const char *path, struct err *e);

void conf_free(struct config *c);

/* Machines that a managed portal @p has slots for. */
unsigned int conf_peers(const struct portal_conf *p);

/* The host's ids: of its processes, and of portald itself where it is a machine. */
unsigned int conf_host_ids(const struct portal_conf *p);

/* Descriptors that portal @p may need at most. */
unsigned int conf_fds(const struct portal_conf *p);

/* Same portal, same settings? Tells a reload what it cannot change. */
bool conf_same(const struct portal_conf *a, const struct portal_conf *b);

#endif
