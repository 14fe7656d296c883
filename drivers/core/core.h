/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the core's files share. Objects, lock order and references are described
 * at the top of main.c.
 */
#ifndef _PORTAL_CORE_H
#define _PORTAL_CORE_H

#include <linux/cache.h>
#include <linux/device.h>
#include <linux/hashtable.h>
#include <linux/list.h>
#include <linux/mm_types.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/uidgid.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include <linux/portal.h>
#include <linux/portal_layout.h>

#include "../portal.h"

struct address_space;
struct eventfd_ctx;
struct file;
struct inode;
struct poll_table_struct;
struct portal_process;
struct portal_row;
struct portal_seen;
struct portal_writer;
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

/* Doorbell addresses (peer ids) that machines can have: QEMU's, and no transport has more. */
#define PORTAL_MAX_ADDRESSES	65536

/* Rows of sessions that one heartbeat compares with the truth. */
#define PORTAL_ROWS_A_BEAT	4096

/* Minor numbers, thus portals at one time. */
#define PORTAL_MAX_NUMBERS	256

/* Whose this machine's row is (peers.c). */
enum portal_row_state {
	PORTAL_ROW_MINE,
	PORTAL_ROW_SPOILT,	/* the claim is overwritten with one that cannot have come about */
	PORTAL_ROW_LOST,	/* another machine's, nobody's, or a copy's, too */
};

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

/**
 * struct portal_layout - where a managed portal's tables are, by its superblock
 * @incarnation: what tokens are relative to
 * @protected_size: bytes that hold the tables, and that no mapping may write
 * @peers_at: byte offset of the table of peers
 * @sessions_at: and of that of sessions
 * @peers: rows of the table of peers
 * @sessions: rows of each peer's block of sessions
 * @uuid: with the rest, tells whether a superblock is still the same
 */
struct portal_layout {
	u64 incarnation;
	u64 protected_size;
	u64 peers_at;
	u64 sessions_at;
	u32 peers;
	u32 sessions;
	u8 uuid[16];
};

/**
 * struct portal_self - this machine's part in a managed portal (self.c, peers.c, beat.c,
 *	sessions.c, watch.c)
 * @lock: everything here, and every store to the tables
 * @reach: the region may be touched, and callbacks be called
 * @error: why there are no tables: -ENODATA (raw), -EUCLEAN, -EOPNOTSUPP ...; 0: there are
 * @said: what the superblock said when the mode was found or set: 0, or @error's
 * @layout: where the tables are; all 0: raw, or nobody knows
 * @joined: this machine has a row
 * @doubled: somebody else lives under its claim, or did: nothing is stored any more
 * @full: there was no free one, and that was said
 * @ring: something changed that other machines have not been rung for
 * @slot: which row
 * @strange: another machine's claim stood in its row at the last beat
 * @zapping: so many take mappings of before away; it does not join until they have
 * @spoilt: an incarnation that stood in the superblock, which was damaged, since the last
 *	heartbeat (layout.c)
 * @nr_spoilt: how often one was found since the last heartbeat
 * @last_slot: which it had last, whose sequences are known; 0: none
 * @address: this machine's peer id, as the claim has it
 * @claim: the word that makes the row its own
 * @row: what the row must say from life on
 * @rows: what each row of its block of sessions must say (sessions.c)
 * @next_row: the first to be compared at the next heartbeat
 * @mms: processes that have a session, or had one, by their mm (sessions.c)
 * @processes: those that have one, by portal_process.node
 * @nr_processes: how many
 * @nr_windows: those begun by windows
 * @nr_unasked: those that no file holds any more, but mappings do
 * @seen: other machines' rows, as they were at the last look (watch.c)
 * @rung: addresses that were rung in this round
 * @notice: the vector that says that tables have changed, or PORTAL_VECTOR_NONE; read
 *	in interrupts
 * @next_look: jiffies; not sooner; read in interrupts
 * @next_windows: jiffies; windows are not woken sooner for changes
 * @windows_due: there was one since they were
 * @beat: at each heartbeat
 * @look: when there is something to be seen or told
 * @tell: when windows are to be woken later
 */
struct portal_self {
	struct mutex lock;	/* see above */
	bool reach;
	int error;
	int said;
	struct portal_layout layout;
	bool joined;
	bool doubled;
	bool strange;
	bool full;
	bool ring;
	unsigned int zapping;
	u64 spoilt;
	unsigned int nr_spoilt;
	u32 slot;
	u32 last_slot;
	u32 address;
	u64 claim;
	struct portal_peer row;
	struct portal_row *rows;
	u32 next_row;
	DECLARE_HASHTABLE(mms, 8);
	struct list_head processes;
	u32 nr_processes;
	u32 nr_windows;
	u32 nr_unasked;
	struct portal_seen *seen;
	unsigned long *rung;
	u32 notice;
	unsigned long next_look;
	unsigned long next_windows;
	bool windows_due;
	struct delayed_work beat;
	struct delayed_work look;
	struct delayed_work tell;
};

struct portal {
	struct device dev;
	const struct portal_ops *ops;	/* the transport's, as is priv: */
	void *priv;			/* only inside portal_enter() */
	struct inode *inode;		/* its i_mapping is every file's f_mapping */

	struct rw_semaphore lock;	/* state; read-held in callbacks and PTE inserts */
	struct rw_semaphore flush_lock;	/* read-held in ops->flush, which may wait for a disk */
	enum portal_state state;	/* read without the lock where only a hint is needed */
	bool added;			/* portal_add() succeeded; transport's context only */
	int number;
	u32 caps;
	u32 flags;			/* PORTAL_DESC_* */
	u32 cache;			/* PORTAL_CACHE_* */
	u32 max_peers;
	atomic_t generation;

	struct portal_self self;
	unsigned long changes;		/* of the tables, as watchers count them */
	u64 epoch;			/* files of another one reach nothing any more */

	spinlock_t mode_lock;		/* the next four, and epochs; taken under mmap_lock */
	u32 mode;			/* PORTAL_MODE_* */
	u64 protected_size;		/* bytes that no mapping may write; 0: raw */
	unsigned int nr_writable;	/* mappings of the region that are or could become so, but
					 * those of files that are stale
					 */
	DECLARE_HASHTABLE(mappers, 8);	/* whose they are (managed.c) */

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
 * @epoch: portal.epoch when it was made, or 0: it reaches nothing any more, as if the
 *	portal were gone
 * @writers: who has mapped the region through this file so that it is or could become
 *	writable, of a managed portal (managed.c); portal.mode_lock, as for the next two
 * @nr_writable: how many such mappings there are, of a raw one, too
 * @mm: the one process that may have such mappings, or NULL
 * @process: the session that it holds, or NULL; portal.self.lock
 * @session_node: in portal_process.files while it holds one
 * @changes: portal.changes when this file last looked; written under @lock
 * @lock: @mapped, @zero_page
 * @mapped: a mapping was made through this file at some time
 * @zero_page: what its mappings show after revocation, or NULL for SIGBUS.
 *	Never changes once @mapped is set
 * @next: vector where the next read() begins to look, so that no vector starves
 * @first_vector: the lowest that it may wait for, or 0
 * @nr_vectors: the highest, plus 1
 * @vectors: so many; under the vector's lock
 *
 * What it reaches and may ring and read or write (file->f_mode) never changes, but that it
 * may come to nothing. Each mm here is compared only.
 */
struct portal_handle {
	struct portal *portal;
	bool window;
	u64 offset;
	u64 length;
	struct portal_bell *bells;
	u32 nr_bells;
	kuid_t owner;
	u64 epoch;
	struct rb_root writers;
	unsigned int nr_writable;
	const struct mm_struct *mm;
	struct portal_process *process;
	struct list_head session_node;
	unsigned long changes;
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
int portal_enter_now(struct portal *p);
void portal_leave(struct portal *p);
int portal_enter_flush(struct portal *p);
void portal_leave_flush(struct portal *p);
void portal_wait_callbacks(struct portal *p);

static inline bool portal_is_dead(const struct portal *p)
{
	return READ_ONCE(p->state) == PORTAL_DEAD;
}

/* It is of before this machine was fenced, or woke up somewhere else. */
static inline bool portal_handle_stale(const struct portal_handle *h)
{
	return READ_ONCE(h->epoch) != READ_ONCE(h->portal->epoch);
}

/* Whom log messages are about. */
static inline struct device *portal_where(struct portal *p)
{
	return p->dev.parent ?: &p->dev;
}

static inline u64 portal_doorbell_offset(const struct portal *p)
{
	return p->size;
}

u32 portal_peer_id(struct portal *p);
bool portal_hibernates(void);
bool portal_gives_way(void);

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
int portal_mode_probe(struct portal *p);
void portal_mode_found(struct portal *p, int ret, const struct portal_layout *layout);
void portal_mode_gone(struct portal *p);
int portal_mode_map(struct portal_handle *h, const struct mm_struct *mm, u64 start, bool could,
		    struct portal_writer **w);
void portal_mode_map_again(struct portal_handle *h, struct portal_writer *w);
void portal_mode_unmap(struct portal_handle *h, struct portal_writer *w);
bool portal_mode_alone(struct portal_handle *h, const struct mm_struct *mm, bool own);
void portal_mode_disown(struct portal_handle *h);
bool portal_mode_maps(struct portal *p, const struct mm_struct *mm, struct portal_process *over);
void portal_mode_end(struct portal_handle *h);
void portal_mode_end_all(struct portal *p);
void portal_mode_stale(struct portal *p, const struct mm_struct *mm);
u32 portal_mode_get(struct portal *p, u64 *protected);
int portal_mode_set(struct portal *p, u32 mode);

/* layout.c */
int portal_layout_read(struct portal *p, struct portal_layout *l);
bool portal_layout_mapped(const struct portal *p, const struct portal_layout *l);
bool portal_layout_gone(struct portal *p);
bool portal_word_swap(struct portal *p, __le64 *at, __le64 old, __le64 new);
struct portal_peer *portal_peer_at(const struct portal *p, u32 slot);
struct portal_session *portal_session_at(const struct portal *p, u32 row);
unsigned int portal_words_put(void *to, const void *from, size_t len);

/* peers.c; under self.lock */
extern unsigned int portal_heartbeat_ms;
u64 portal_life(u64 sequence, u32 state);
bool portal_claim_valid(const struct portal *p, u64 claim);
void portal_text_put(char *to, const char *from, size_t room);
bool portal_life_ahead(u64 there, u64 here);
bool portal_life_put(struct portal *p, __le64 *at, u64 known, u64 life);
enum portal_row_state portal_row_claimed(struct portal *p, u64 *claim);
enum portal_row_state portal_row_look(struct portal *p, u64 *claim);
bool portal_row_mine(struct portal *p);
void portal_row_changed(struct portal *p);
bool portal_row_live(struct portal *p, u32 state);
unsigned int portal_row_put(struct portal *p);
void portal_row_begin(struct portal *p);
void portal_row_end(struct portal *p);
bool portal_row_catch_up(struct portal *p);
void portal_join(struct portal *p);

/* beat.c; under self.lock but for the work */
unsigned long portal_beat_period(void);
void portal_take_away(struct portal *p);
void portal_lost(struct portal *p, const char *why);
void portal_beat_work(struct work_struct *work);
void portal_look_work(struct work_struct *work);

/* self.c; under self.lock but for the last three blocks */
extern struct workqueue_struct *portal_wq;
void portal_self_start(struct portal *p, const struct portal_layout *layout);
void portal_self_forget(struct portal *p);
void portal_self_leave(struct portal *p);
bool portal_self_formatted(struct portal *p);

int portal_self_lock(struct portal *p);
void portal_self_unlock(struct portal *p);

void portal_self_init(struct portal *p);
void portal_self_remove(struct portal *p);
void portal_self_pause(struct portal *p);
void portal_self_resume(struct portal *p);
void portal_self_copied(struct portal *p);
void portal_self_give_way(struct portal *p);
void portal_self_exit(struct portal *p);

int portal_self_module_init(void);
void portal_self_module_exit(void);

/* watch.c; under self.lock but for portal_look_soon() */
int portal_watch_alloc(struct portal *p);
void portal_watch_free(struct portal *p);
void portal_watch_reset(struct portal *p, u32 slot);
void portal_watch_reset_all(struct portal *p);
int portal_heart(struct portal *p, u32 slot, u64 claim);
void portal_look_soon(struct portal *p);
void portal_tell_work(struct work_struct *work);
void portal_look(struct portal *p, bool beat);
void portal_changed(struct portal *p, unsigned int n);
unsigned int portal_ring_all(struct portal *p);
int portal_fence(struct portal *p, const struct portal_fence *f);

/* sessions.c; under self.lock but for the last block */
int portal_sessions_alloc(struct portal *p);
void portal_sessions_free(struct portal *p);
void portal_sessions_adopt(struct portal *p, bool again);
bool portal_sessions_ahead(struct portal *p, u32 first, u32 n);
unsigned int portal_sessions_put(struct portal *p, u32 first, u32 n);
void portal_sessions_end(struct portal *p);
void portal_sessions_stale(struct portal *p);
void portal_sessions_idle(struct portal *p);
void portal_session_over(struct portal *p, struct portal_process *s);

int portal_session(struct portal_handle *h, struct portal_session_begin *a);
void portal_session_release(struct portal_handle *h);
void portal_session_show(struct seq_file *m, struct portal_handle *h);
void portal_sessions_module_exit(void);

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
bool portal_has_changed(struct portal_handle *h);
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
