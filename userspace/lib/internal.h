/* SPDX-License-Identifier: MIT */
/*
 * What the library's files share. A portal is a region and a struct vmp_ops; the
 * channel layer knows no more of it than this.
 */
#ifndef VMP_INTERNAL_H
#define VMP_INTERNAL_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmportal.h"

#define VMP_API	__attribute__((visibility("default")))

struct portal_super;

#define VMP_MAX_VECTORS	64U	/* receive vectors that one portal object serves */

/**
 * struct vmp_rings - the packet rings of one vector, mapped (see vmp_map_twice())
 * @send, @recv: a header page each; @send_data, @recv_data: behind it
 * @send_size, @recv_size: bytes of data
 * @host: whose doorbell @vector signals the other end
 */
struct vmp_rings {
	void *send, *recv;
	void *send_data, *recv_data;
	uint32_t send_size, recv_size;
	uint32_t host;
};

/**
 * struct vmp_ops - one way to have a portal
 * @transport: its name in vmp_info
 * @ring: ring @vector of @peer; any thread, no lock held; does not block
 * @eventfd: make (or find) the descriptor that is readable when @vector was rung;
 *	called once per vector, lock held; the portal owns it unless @keeps_eventfds
 * @refresh: read again what may change while open (peer id, generation) into the
 *	portal's info; lock held. 0, or -ENODEV when the portal is gone. NULL: nothing
 * @service: the state descriptor is ready (see vmp.state_fd): take notice. 0 or
 *	-ENODEV; does not block; any thread
 * @window: make a window by options that have been checked; a descriptor or -errno.
 *	NULL: there are none
 * @gone: how often @peer has left so far, as far as known; with its tenure (see
 *	linux/portal_layout.h): whether that one has. More than before says that the peer that
 *	there was has died; 1 may become 0 when one of whom nobody told is told of. NULL:
 *	nobody tells
 * @packets: claim and map the packet rings of @vector; lock held. They are unmapped by
 *	vmp_unmap_twice(). NULL: there are none
 * @ring_calls: system calls of one ring, if not 1
 * @set_mode: have the kernel take the portal for managed, or for raw; nothing of it may be
 *	in use. NULL: nobody but us has a mode. -EPERM, -EBUSY: it stays as it is
 * @close: free what the backend holds; the region is unmapped before
 * @session: make this process's session, which others ring by @vector (all ones: not at
 *	all), and say its token. One thread at a time, until it succeeds; no lock held; may
 *	wait for a server. It ends with the process, or by @close, when no store through
 *	this portal is possible any more. NULL: nobody would tell others of its end
 * @watch: add to the epoll set @set what becomes ready when a row of the tables changed,
 *	with EPOLLET. Any thread, several sets. NULL: nobody tells
 * @watched: such a set woke: take notice, so that the next change wakes again; does not
 *	block; any thread. NULL: nothing to do
 * @lost: is who would tell of the ends of the host's sessions gone? Any thread. NULL: never
 * @fence: declare the machine in @slot dead, if its claim is still @claim. NULL: nobody can
 * @own_process: what is mapped is this process's alone: a child does not inherit it, lest
 *	it stores to, or rings, as one who is thought dead
 */
struct vmp_ops {
	const char *transport;
	int (*ring)(struct vmp *p, uint32_t peer, uint32_t vector);
	int (*eventfd)(struct vmp *p, uint32_t vector);
	int (*refresh)(struct vmp *p);
	int (*service)(struct vmp *p);
	int (*window)(struct vmp *p, const struct vmp_window_opts *o);
	uint32_t (*gone)(struct vmp *p, uint32_t peer, uint64_t tenure);
	int (*packets)(struct vmp *p, uint32_t vector, struct vmp_rings *r);
	int (*set_mode)(struct vmp *p, bool managed);
	void (*close)(struct vmp *p);
	int (*session)(struct vmp *p, uint32_t vector, uint64_t *token);
	int (*watch)(struct vmp *p, int set);
	void (*watched)(struct vmp *p);
	bool (*lost)(struct vmp *p);
	int (*fence)(struct vmp *p, uint32_t slot, uint64_t claim);
	bool keeps_eventfds;
	bool own_process;
	unsigned int ring_calls;
};

/* Who sleeps, with portald gone, looks at machines' hearts so often (nanoseconds). */
#define HEAR_EVERY	INT64_C(100000000)

/* A machine's heart as this process has heard it: @beat, first seen at @at. */
struct heard {
	uint64_t claim, beat;
	int64_t at;
};

/**
 * struct vmp - an open portal
 * @ops, @priv: the backend and what it keeps
 * @pid: of the process that opened it
 * @here: a word that is 0 in a child, so that no call has to ask the kernel who it is; where a
 *	child has all that its parent has it never is
 * @base: the mapping; @mapped: its length, 0 if it is the caller's own
 * @flags: of vmp_open()
 * @super: of a managed portal: its superblock as it was when the mode was fixed, believed
 *	if @super_err is 0 or -EREMCHG (damaged, but its places are good). NULL: raw
 * @spoilt: an incarnation that stood in a superblock that is none (layout_formatted())
 * @protected_size: bytes that the kernel lets nobody map writable; 0 but for devices
 * @guarded: bytes that we have made read-only ourselves, where no kernel does
 * @info: what vmp_get_info() says; changes under @lock
 * @tenure: the number of our lease of the peer id, 0: it is for ever
 * @state_fd: a descriptor whose readiness means that the portal changed (device
 *	gone, word from portald), or -1
 * @state_events: which EPOLL events of @state_fd to wait for
 * @notice: an eventfd of our own, in every channel's sets: something that a sleeper in
 *	another thread must look at has happened; never read. -1: none could be had
 * @efd: eventfds given out so far, -1 otherwise; written under @lock
 * @joining: held while a session is made
 * @token: of this process's session, 0: none yet; written once, under @joining, until the
 *	tables are others
 * @bell: the eventfd that others ring the session by, or -1; before @token
 * @watch: the set of vmp_watch_fd(), or -1; under @lock
 * @watch_clock: a timer in it, or -1; under @lock
 * @watch_place: our place among the directory's watchers, or -1; under @lock
 * @heard: by slot, once nobody tells any more; or NULL; under @lock
 * @packet_vectors: a bit for each vector whose packet rings a channel has; under @lock
 */
struct vmp {
	const struct vmp_ops *ops;
	void *priv;
	pid_t pid;
	const uint64_t *here;
	void *base;
	size_t mapped;
	unsigned int flags;
	struct portal_super *super;
	int super_err;
	uint64_t spoilt;
	uint64_t protected_size;
	uint64_t guarded;
	struct vmp_info info;
	uint64_t tenure;
	int state_fd;
	uint32_t state_events;
	int notice;
	pthread_mutex_t lock;
	int efd[VMP_MAX_VECTORS];
	uint64_t packet_vectors;
	pthread_mutex_t joining;
	uint64_t token;
	int bell;
	int watch;
	int watch_clock;
	int watch_place;
	struct heard *heard;
};

/* Take down the text for vmp_errmsg() and return @err, which is negative. */
int vmp_fail(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same for what is no failure to a program that polls: @literal is kept as it is. */
int vmp_fail_quickly(int err, const char *literal);

/*
 * From here on failures leave the text as it is, until it is let go as often: what is tried
 * besides, or undone after a failure, is not what the caller has asked for.
 */
void vmp_hold_errmsg(bool hold);

/* Allocate a portal with nothing open, or NULL. vmp_free() undoes all of it. */
struct vmp *vmp_alloc(const struct vmp_ops *ops, unsigned int flags);
void vmp_free(struct vmp *p);

/* Map @size bytes of @fd as the portal's region. */
int vmp_map_fd(struct vmp *p, int fd, uint64_t size, const char *what);

/*
 * Fix the portal's mode by what its superblock says now. @fd: what the region was mapped
 * from, or -1: memory of the caller's own. 0 or -ENOMEM.
 */
int vmp_fix_mode(struct vmp *p, int fd);

/*
 * A kernel has fixed the mode: raw, or managed with so many bytes protected, whatever the
 * region says now.
 */
int vmp_obey_mode(struct vmp *p, bool managed);

/* Map the region of @fd once more at the same place, as p->protected_size says now. */
int vmp_map_again(struct vmp *p, int fd, const char *what);

/* 0 if the superblock can be relied on for places, or an error with its text. */
int vmp_managed(struct vmp *p);

/*
 * A portal that was a managed one: 0 if its tables still are those that @p knows; -ESTALE, with its text, if it
 * was formatted since, or is taken for a raw one. Before whatever goes by them; looks at the region.
 */
int vmp_same_tables(struct vmp *p);

/* Where channels may lie: all of a raw region, the data of a managed one. */
int vmp_data(struct vmp *p, uint64_t *offset, uint64_t *length);

/*
 * Map a packet ring: its header page and @size bytes of data behind it from @offset of
 * @fd, and the data once more right behind. The header's address, or NULL with errno.
 */
void *vmp_map_twice(int fd, uint64_t offset, size_t header, size_t size);
void vmp_unmap_twice(void *ring, size_t header, size_t size);

/* A mapping of @p's: not for children, if its backend says so. 0 or an error. */
int vmp_no_child(struct vmp *p, void *base, size_t size, const char *what);

/* Is it mapped in this process, or is this a child without it? */
static inline bool vmp_mapped_here(const struct vmp *p)
{
	return *p->here;
}

/* 0 if it is mapped here, or -EBUSY with its text. */
int vmp_not_a_child(const struct vmp *p);

/* "64M" -> bytes; -EINVAL with a text. */
int vmp_parse_size(const char *s, uint64_t *size);

/* How often @peer (0/1: with @tenure, if not 0) has left; 0 where nobody tells. */
uint32_t vmp_gone(struct vmp *p, uint32_t peer, uint64_t tenure);

/* Have all sleepers of all channels of this portal look again. */
void vmp_notice(struct vmp *p);

/* Look again at peer id and generation. 0 or -ENODEV. */
int vmp_refresh(struct vmp *p);

/* Take back what the session has put into the region; it is mapped still. */
void vmp_session_leave(struct vmp *p);

/* The backends' ways in; the rest of the URI behind the scheme. */
int vmp_open_dev(struct vmp **out, const char *path, unsigned int flags);
int vmp_open_fd(struct vmp **out, const char *rest, unsigned int flags);
int vmp_open_unix(struct vmp **out, const char *path, unsigned int flags);
int vmp_open_file(struct vmp **out, const char *rest, unsigned int flags);
int vmp_open_memfd(struct vmp **out, const char *rest, unsigned int flags);

#endif /* VMP_INTERNAL_H */
