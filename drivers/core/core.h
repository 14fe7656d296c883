/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the core's files share. Objects, lock order and references are described
 * at the top of main.c.
 */
#ifndef _PORTAL_CORE_H
#define _PORTAL_CORE_H

#include <linux/cache.h>
#include <linux/device.h>
#include <linux/list.h>
#include <linux/mm_types.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/uidgid.h>
#include <linux/wait.h>

#include <linux/portal.h>

#include "../portal.h"

struct address_space;
struct eventfd_ctx;
struct file;
struct inode;
struct poll_table_struct;
struct seq_file;

/*
 * Eventfds on one vector: all are signalled with interrupts off, in some 100 us if
 * each has a waiter. How many wait for one eventfd, or in a wait queue, is the kernel's
 * ordinary business, bounded for each user (fs.epoll.max_user_watches). Whoever has one
 * window can make more, so windows leave half to files of open().
 */
#define PORTAL_MAX_BINDINGS	1024
#define PORTAL_MAX_WINDOW_BINDINGS	(PORTAL_MAX_BINDINGS / 2)

/* And those of one user are fewer: no single one keeps the others out. */
#define PORTAL_MAX_USER_BINDINGS	256

/* Minor numbers, thus portals at one time. */
#define PORTAL_MAX_NUMBERS	256

enum portal_state {
	PORTAL_LIVE,	/* callbacks run, faults map */
	PORTAL_PAUSED,	/* reset or suspended: both wait */
	PORTAL_DEAD,	/* for ever */
};

/**
 * struct portal_piece - an extent of the region and where it lies in it
 * @offset: byte offset of the piece in the region
 * @len: bytes
 * @start: physical address
 * @kva: the kernel's own mapping, which is the memtype reservation; NULL if
 *	there is none (RAM needs none)
 */
struct portal_piece {
	u64 offset;
	u64 len;
	phys_addr_t start;
	void *kva;
};

/**
 * struct portal_vector - one receive vector
 * @lock: the rest, and portal_handle_vector of every file; taken in interrupts
 * @bindings: eventfds, through portal_handle_vector.node
 * @nr_bindings: how many
 * @count: events ever; read without the lock too. Only differences count
 * @closed: the portal is gone and the last signal was given
 * @windows: where windows that have this vector wait for it. Not in portal.wait: a window's
 *	holder may put as many waiters there as he likes, and each is a burden for the
 *	interrupt; it shall be one of his own vectors'. Nor does he feel others' events
 */
struct portal_vector {
	spinlock_t lock;	/* see above */
	struct list_head bindings;
	unsigned int nr_bindings;
	unsigned long count;
	bool closed;
	wait_queue_head_t windows;
} ____cacheline_aligned_in_smp;

/**
 * struct portal_vector_rings - a vector's packet rings
 * @rings: where they are; changes only while nobody can have them mapped
 * @owner: the file that has them, or NULL. Written under portal.rings_lock; a file
 *	finds itself here without it
 */
struct portal_vector_rings {
	struct portal_rings rings;
	struct portal_handle *owner;
};

struct portal {
	struct device dev;
	const struct portal_ops *ops;	/* the transport's, as is priv: */
	void *priv;			/* only inside portal_enter() */
	struct inode *inode;		/* its i_mapping is every file's f_mapping */

	struct rw_semaphore lock;	/* state; read-held in callbacks and PTE inserts */
	enum portal_state state;	/* read without the lock where only a hint is needed */
	bool added;			/* portal_add() succeeded; transport's context only */
	int number;
	u32 caps;
	u32 flags;			/* PORTAL_DESC_* */
	u32 cache;			/* PORTAL_CACHE_* */
	u32 max_peers;
	atomic_t generation;

	spinlock_t mode_lock;		/* the next three; taken under mmap_lock */
	u32 mode;			/* PORTAL_MODE_* */
	u64 protected_size;		/* bytes that no mapping may write; 0: raw */
	unsigned int nr_writable;	/* mappings of the region that are or could become so */

	u64 size;
	unsigned int nr_pieces;
	struct portal_piece *pieces;	/* in order of offset, without gaps */

	struct mutex rings_lock;	/* who owns which rings */
	struct portal_vector_rings *rings;	/* one per vector, or NULL */
	u32 send_size;
	u32 recv_size;

	phys_addr_t doorbell_page;
	u32 doorbell_format;
	u32 doorbell_register;

	u32 nr_vectors;
	struct portal_vector *vectors;
	wait_queue_head_t wait;		/* for events, for the end of a pause */
	wait_queue_head_t windows;	/* of windows, for the end of the portal */

	char transport[PORTAL_TRANSPORT_LEN];
	char identity[PORTAL_IDENTITY_LEN];
};

/**
 * struct portal_handle_vector - what one open file knows of one vector
 * @mine: it may wait for this one; never changes
 * @seen: the vector's count when this file last looked
 * @ctx: the eventfd bound, or NULL
 * @node: in portal_vector.bindings while @ctx is set
 */
struct portal_handle_vector {
	bool mine;
	unsigned long seen;
	struct eventfd_ctx *ctx;
	struct list_head node;
};

/**
 * struct portal_handle - an open file (struct portal_file is an ioctl's)
 * @portal: holds a reference
 * @window: made by PORTAL_WINDOW. A file of open(2) is the window that is everything
 * @offset: where in the region its offset 0 is
 * @length: bytes that it reaches from there; all of it lies within the region
 * @bells: @nr_bells rules: what it may ring; behind @vectors in the same memory
 * @owner: who opened or made it
 * @lock: @mapped, @zero_page
 * @mapped: a mapping was made through this file at some time
 * @zero_page: what its mappings show after revocation, or NULL for SIGBUS.
 *	Never changes once @mapped is set
 * @next: vector where the next read() begins to look, so that no vector starves
 * @first_vector: the lowest that it may wait for, or 0
 * @nr_vectors: the highest, plus 1
 * @vectors: so many; under the vector's lock
 *
 * What it reaches and may ring and read or write (file->f_mode) never changes.
 */
struct portal_handle {
	struct portal *portal;
	bool window;
	u64 offset;
	u64 length;
	struct portal_bell *bells;
	u32 nr_bells;
	kuid_t owner;
	spinlock_t lock;	/* see above */
	bool mapped;
	struct page *zero_page;
	u32 next;
	u32 first_vector;
	u32 nr_vectors;
	struct portal_handle_vector vectors[];
};

/* main.c */
int portal_enter(struct portal *p);
int portal_enter_killable(struct portal *p);
void portal_leave(struct portal *p);

static inline bool portal_is_dead(const struct portal *p)
{
	return READ_ONCE(p->state) == PORTAL_DEAD;
}

static inline u64 portal_doorbell_offset(const struct portal *p)
{
	return p->size;
}

u32 portal_peer_id(struct portal *p);	/* inside portal_enter() */

/* number.c */
int portal_number_take(struct portal *p);
void portal_number_hide(struct portal *p);
void portal_number_leave(struct portal *p);
struct portal *portal_number_get(unsigned int number);
void portal_number_exit(void);

/* inode.c */
struct inode *portal_inode_new(void);
void portal_inode_free(struct inode *inode);

/* file.c */
extern const struct file_operations portal_fops;
struct portal_handle *portal_handle_new(struct portal *p, u32 nr_vectors, u32 nr_bells);
void portal_handle_free(struct portal_handle *h);
void portal_handle_attach(struct portal_handle *h, struct file *file);

/* managed.c */
void portal_mode_probe(struct portal *p);
int portal_mode_map(struct portal *p, u64 start, bool now, bool *may);
void portal_mode_map_again(struct portal *p);
void portal_mode_unmap(struct portal *p);
u32 portal_mode_get(struct portal *p, u64 *protected);
int portal_mode_set(struct portal *p, u32 mode);

/* window.c */
int portal_window_open(struct file *file, const struct portal_window *w, const u32 *vectors,
		       const struct portal_bell *bells);
bool portal_may_ring(const struct portal_handle *h, u32 peer, u32 vector);
void portal_show_fdinfo(struct seq_file *m, struct file *file);

/* ioctl.c */
long portal_ioctl(struct file *file, unsigned int cmd, unsigned long arg);
ssize_t portal_read(struct file *file, char __user *buf, size_t len, loff_t *pos);

/* mmap.c */
int portal_mmap(struct file *file, struct vm_area_struct *vma);
unsigned long portal_get_unmapped_area(struct file *file, unsigned long addr, unsigned long len,
				       unsigned long pgoff, unsigned long flags);
void portal_zap(struct portal *p);

/* events.c */
int portal_vectors_init(struct portal *p, u32 count);
void portal_vectors_signal(struct portal *p, bool last);
void portal_handle_vectors_init(struct portal_handle *h);
void portal_handle_vectors_exit(struct portal_handle *h);
int portal_bind(struct portal_handle *h, u32 vector, struct eventfd_ctx *ctx);
bool portal_readable(struct portal_handle *h);
int portal_wait_readable(struct portal_handle *h);
void portal_wake_all(struct portal *p);
int portal_collect(struct portal_handle *h, struct portal_event *ev, int max);
void portal_give_back(struct portal_handle *h, const struct portal_event *ev, int n);
__poll_t portal_poll(struct file *file, struct poll_table_struct *wait);

/* rings.c */
int portal_rings_init(struct portal *p, const struct portal_desc *desc);
int portal_rings_take(struct portal_handle *h, struct portal_packets *args);
void portal_rings_release(struct portal_handle *h);
struct portal_vector_rings *portal_rings_at(const struct portal *p, u64 offset, u64 len);
phys_addr_t portal_rings_phys(const struct portal *p, u64 offset);

/* region.c */
int portal_region_init(struct portal *p, const struct portal_desc *desc);
void portal_region_reserve(struct portal *p);
void *portal_region_look(const struct portal *p);
void portal_region_unlook(const struct portal *p, void *at);
void portal_region_unreserve(struct portal *p);
const struct portal_piece *portal_piece_at(const struct portal *p, u64 offset);

/* sysfs.c */
extern const struct attribute_group *portal_groups[];
const char *portal_cache_name(u32 cache);

#endif /* _PORTAL_CORE_H */
