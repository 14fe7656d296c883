/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The contract between portal_vmbus.ko and portal_vmbus_line.ko, which talks to the bus
 * for it and can wait for a host longer than it. Described at the top of line.c.
 */
#ifndef _PORTAL_VMBUS_LINE_H
#define _PORTAL_VMBUS_LINE_H

#include <linux/hyperv.h>
#include <linux/list.h>
#include <linux/types.h>
#include <linux/uuid.h>

#include "../../compat/vmbus.h"
#include "../../portal.h"

/* The driver, whose devices are kept for it. */
#define VBP_NAME	"portal_vmbus"

/* How often a host that does answer may use up nearly all patience with one thing asked. */
#define VBL_SLOW	4

struct vbl;

/**
 * struct vbl_piece - pages that are one GPADL
 * @page: the first of 1 << @order, contiguous
 * @order: of the allocation
 * @gpadl: theirs, while @established
 * @established: the host has it
 * @lost: it may still be decrypted, or the host's, so it is nobody's any more
 */
struct vbl_piece {
	struct page *page;
	unsigned int order;
	struct vmbus_gpadl gpadl;
	bool established;
	bool lost;
};

/**
 * struct vbl_memory - a region
 * @pieces: in order of offset, the largest first
 * @nr: how many
 * @size: their bytes
 * @epoch: the bus's when their GPADLs were established; see hibernate.c
 * @channel: whose GPADLs they are, with a reference, while it is overdue; or NULL
 * @node: likewise
 * @instance: likewise: whose it was
 *
 * Not to be touched while a call of the line has it.
 */
struct vbl_memory {
	struct vbl_piece *pieces;
	u32 nr;
	u64 size;
	unsigned int epoch;
	struct vmbus_channel *channel;
	struct list_head node;
	guid_t instance;
};

static inline u64 vbl_piece_size(const struct vbl_piece *piece)
{
	return PAGE_SIZE << piece->order;
}

/**
 * struct vbl_terms - what a line is begun with
 * @patience: how long each answer of the host is waited for, jiffies
 * @signal: called in hard interrupts for each signal of channel @index, from the
 *	opening until vbl_end() begins
 * @arg: for it
 */
struct vbl_terms {
	unsigned long patience;
	void (*signal)(void *arg, u32 index);
	void *arg;
};

/**
 * vbl_begin() - a line for a device that is bound to the caller
 *
 * -EBUSY: the host has not yet answered what an earlier line of it asked.
 */
struct vbl *vbl_begin(struct hv_device *dev, const struct vbl_terms *terms);

/*
 * What is asked of the host. Each returns when it has answered, and at the latest when it
 * has been silent for the line's patience, or slow for four times as long; then it is
 * -ETIMEDOUT, from this and from each later call, and all that is left to do is vbl_end().
 *
 * vbl_open:	the primary channel, with rings that are new and empty, of @ring_size bytes
 *		each, header page included. @stop, if not NULL: give up once it is true or
 *		the process is being killed; or frozen, then with -ERESTARTSYS
 * vbl_open_subchannels: those with the indices 1 .. @channels - 1, with rings of that size
 * vbl_close:	all channels
 * vbl_share:	a GPADL for each piece; on error some have one. Zeroed where the
 *		decryption made garbage of it
 * vbl_unshare:	tear them down
 * vbl_let_go:	the host said that it has nothing any more: the overdue memory of
 *		this instance is freed
 */
int vbl_open(struct vbl *line, u32 ring_size, const bool *stop);
int vbl_open_subchannels(struct vbl *line, u32 channels);
int vbl_close(struct vbl *line);
int vbl_share(struct vbl *line, struct vbl_memory *m);
int vbl_unshare(struct vbl *line, struct vbl_memory *m);
int vbl_let_go(struct vbl *line);

/* The host owed an answer for too long. */
bool vbl_silent(const struct vbl *line);

/* The worker of an earlier line of @dev, or of any device, waits for the host alone. */
bool vbl_owed(const struct hv_device *dev);

/*
 * The caller is about to leave @dev, whose lock it holds: no other driver gets it while
 * the worker of a line is at it.
 */
void vbl_keep(struct hv_device *dev);

/* A channel that is open, and its rings. */
struct vmbus_channel *vbl_channel(const struct vbl *line, u32 index);
const struct portal_rings *vbl_rings(const struct vbl *line, u32 index);

/**
 * vbl_end() - the line is not wanted any more
 * @m: memory that is not wanted any more either, or NULL
 * @exposed: the host may still reach it: then it is kept until the host lets go
 * @stop: as vbl_open()'s
 *
 * No signal is given from the beginning of it. Channels are closed, GPADLs torn down,
 * memory freed, before it returns if the host answers, afterwards if it answers later,
 * never if it does not.
 */
void vbl_end(struct vbl *line, struct vbl_memory *m, bool exposed, const bool *stop);

/*
 * hibernate.c: this kernel is about to read an image over all of its memory; and -EBUSY,
 * having said why, if what lines have left must not be there at that or at a hibernation.
 */
bool vbl_restoring(void);
int vbl_may_hibernate(void);

/* memory.c; what a line is not needed for */
struct vbl_memory *vbl_memory_alloc(struct hv_device *dev, u64 size);
void vbl_memory_forget(struct vbl_memory *m);
void vbl_memory_end(struct hv_device *dev, struct vbl_memory *m, bool exposed);
bool vbl_memory_decrypted(const struct vbl_memory *m);

#endif /* _PORTAL_VMBUS_LINE_H */
