/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of portal_vmbus_line.ko share; objects and locks are described at the
 * top of line.c.
 */
#ifndef _PORTAL_VMBUS_LINE_INTERNAL_H
#define _PORTAL_VMBUS_LINE_INTERNAL_H

#include <linux/completion.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include <linux/portal_vmbus.h>

#include "line.h"

#define VBL_NAME	"portal_vmbus_line"

/**
 * struct vbl_channel - one channel of a line
 * @line: the line
 * @index: 0: the primary one; else the sub_channel_index
 * @channel: the bus's, which has it until it is closed; NULL while it is not open
 * @rings: where its packet rings are while it is open
 * @ring: their memory, after the channel has been closed
 */
struct vbl_channel {
	struct vbl *line;
	u32 index;
	struct vmbus_channel *channel;
	struct portal_rings rings;
	struct vbl_piece ring;
};

/**
 * struct vbl - a line: the bus side of one session with the host of a device
 * @refs: the owner's, until vbl_end() returns, and the worker's, until all is wound up
 * @rcu: an interrupt that began before the channel went may yet come with it
 * @node: in the list of lines
 * @dev: the device, with a reference
 * @terms: see there; signal is NULL once it may not be called any more
 * @signal_lock: terms.signal; taken in interrupts
 * @work: runs what is asked, one thing at a time
 * @lock: the next four
 * @asked: what the worker has to do, or does
 * @silent: the owner waits for nothing any more
 * @ended: nor does he want it: the worker goes on to the end by itself
 * @result: of what was asked
 * @done: it was answered
 * @answers: that the host gave; only differences count
 * @ring_size: bytes of each packet ring that is opened, header page included
 * @channels_wanted: for VBL_OPEN_SUBCHANNELS
 * @memory: for VBL_SHARE and VBL_UNSHARE
 * @last: for VBL_END: memory to be rid of, or NULL
 * @exposed: for VBL_END: the host may still reach it
 * @touched: the primary channel was opened or tried to be
 * @kept: no other driver may have the device: the worker is still at it
 * @override: what said before who may, or NULL
 * @callback_mode: the primary channel's before
 * @low_latency: likewise
 * @channels: all that may be open
 */
struct vbl {
	refcount_t refs;
	struct rcu_head rcu;
	struct list_head node;
	struct hv_device *dev;
	struct vbl_terms terms;
	spinlock_t signal_lock;		/* see above */
	struct work_struct work;
	spinlock_t lock;		/* see above */
	unsigned int asked;
	bool silent;
	bool ended;
	int result;
	struct completion done;
	unsigned int answers;
	u32 ring_size;
	u32 channels_wanted;
	struct vbl_memory *memory;
	struct vbl_memory *last;
	bool exposed;
	bool touched;
	bool kept;
	char *override;
	enum hv_callback_mode callback_mode;
	bool low_latency;
	struct vbl_channel channels[PORTAL_VMBUS_MAX_VECTORS];
};

static inline struct vmbus_channel *vbl_primary(const struct vbl *line)
{
	return line->dev->channel;
}

/* The host answered: whoever waits has patience again. */
static inline void vbl_answered(struct vbl *line)
{
	WRITE_ONCE(line->answers, line->answers + 1);
}

/* channel.c; in the line's worker */
int vbl_channel_open(struct vbl *line, u32 index, struct vmbus_channel *channel);
void vbl_channels_close(struct vbl *line);

/* subchannel.c; likewise, but for the search */
int vbl_find_subchannels(struct vbl *line, u32 channels);
struct vmbus_channel *vbl_subchannel_get(struct vbl_channel *c, bool opened);
int vbl_subchannel_open(struct vbl *line, u32 index);
void vbl_subchannel_failed(struct vmbus_channel *channel);
void vbl_subchannels_settle(struct vbl *line);

/* memory.c; in the line's worker */
int vbl_memory_share(struct vbl *line, struct vbl_memory *m);
void vbl_memory_unshare(struct vbl *line, struct vbl_memory *m);
void vbl_piece_unshare(struct vmbus_channel *channel, struct vbl_piece *piece);
void vbl_piece_forget(struct vbl_piece *piece);
void vbl_piece_free(struct vbl_piece *piece);
void vbl_memory_free(struct vbl_memory *m);
void vbl_overdue_let_go(struct vbl *line);
void vbl_overdue_reap(void);
bool vbl_overdue_any(void);
void vbl_overdue_exit(void);

/* hibernate.c */
unsigned int vbl_epoch(void);
int vbl_hibernate_init(void);
void vbl_hibernate_exit(void);

#endif /* _PORTAL_VMBUS_LINE_INTERNAL_H */
