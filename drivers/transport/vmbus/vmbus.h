/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of portal_vmbus.ko share. Objects, order and trust are described at
 * the top of main.c.
 */
#ifndef _PORTAL_VMBUS_INTERNAL_H
#define _PORTAL_VMBUS_INTERNAL_H

#include <linux/hyperv.h>
#include <linux/jiffies.h>
#include <linux/types.h>
#include <linux/wait.h>

#include <linux/portal.h>
#include <linux/portal_vmbus.h>

#include "../../compat/vmbus.h"
#include "../../portal.h"

#define VBP_NAME	"portal_vmbus"

struct vbp;

/**
 * struct vbp_channel - one channel of a device
 * @vbp: the device
 * @index: 0: the primary one; else the sub_channel_index. The vector
 * @channel: the bus's; NULL while it is not open
 * @found: a subchannel that the host has offered, with a reference, until channels close
 * @rings: where its packet rings are while it is open
 */
struct vbp_channel {
	struct vbp *vbp;
	u32 index;
	struct vmbus_channel *channel;
	struct vmbus_channel *found;
	struct portal_rings rings;
};

/**
 * struct vbp_piece - pages that are one GPADL
 * @page: the first of 1 << @order, contiguous
 * @order: of the allocation
 * @gpadl: theirs, while @established
 * @established: the host has it
 * @lost: it may still be decrypted, so it is nobody's any more
 */
struct vbp_piece {
	struct page *page;
	unsigned int order;
	struct vmbus_gpadl gpadl;
	bool established;
	bool lost;
};

/**
 * struct vbp_memory - the region
 * @pieces: in order of offset, the largest first
 * @nr: how many
 * @size: their bytes
 */
struct vbp_memory {
	struct vbp_piece *pieces;
	u32 nr;
	u64 size;
};

/* What the host granted, checked; see struct portal_vmbus_welcome. */
struct vbp_welcome {
	u64 features;
	u64 region_size;
	u32 channels;
	u32 peer_id;
	u32 max_peers;
};

/**
 * struct vbp - one device
 * @dev: it
 * @ours: of our class: there is a handshake, a region, and the rings are harmless
 * @ring_size: bytes of each packet ring, header page included
 * @region_size: bytes that we ask for
 * @portal: its portal; read by interrupts, NULL until there is one
 * @wait: woken by each signal
 * @given: what the host granted; of a foreign class one channel and peer 0
 * @channels: all that may be open
 * @memory: the region
 * @exposed: the host was told of the memory and has not said that it let go
 * @was_open: channels were open when the device was suspended
 * @callback_mode: the primary channel's before we opened it
 * @low_latency: likewise
 * @read_index: where the handshake's next packet begins in the ring from the host
 */
struct vbp {
	struct hv_device *dev;
	bool ours;
	u32 ring_size;
	u64 region_size;
	struct portal *portal;
	wait_queue_head_t wait;
	struct vbp_welcome given;
	struct vbp_channel channels[PORTAL_VMBUS_MAX_VECTORS];
	struct vbp_memory memory;
	bool exposed;
	bool was_open;
	enum hv_callback_mode callback_mode;
	bool low_latency;
	u32 read_index;
};

static inline struct vmbus_channel *vbp_primary(const struct vbp *vbp)
{
	return vbp->dev->channel;
}

/* The host took the device away: nothing is answered any more. */
static inline bool vbp_rescinded(const struct vbp *vbp)
{
	return READ_ONCE(vbp_primary(vbp)->rescind);
}

/* main.c */
unsigned long vbp_deadline(void);

/* channel.c */
int vbp_open_channel(struct vbp *vbp, u32 index, struct vmbus_channel *channel);
int vbp_open_subchannels(struct vbp *vbp);
void vbp_close_channels(struct vbp *vbp);

/* packet.c */
int vbp_send(struct vbp *vbp, const void *msg, u32 size);
int vbp_receive(struct vbp *vbp, void *msg, u32 room, u32 *size);

/* session.c */
int vbp_session_begin(struct vbp *vbp);
int vbp_session_again(struct vbp *vbp);
void vbp_session_end(struct vbp *vbp);

/* memory.c */
int vbp_memory_alloc(struct vbp *vbp, u64 size);
void vbp_memory_free(struct vbp *vbp);
int vbp_memory_share(struct vbp *vbp);
void vbp_memory_unshare(struct vbp *vbp);
bool vbp_memory_decrypted(const struct vbp *vbp);
void vbp_quarantine_release(const guid_t *instance);
void vbp_quarantine_exit(void);

/* config.c */
extern const struct attribute_group *vbp_driver_groups[];
int vbp_config_init(void);
void vbp_config_exit(void);
void vbp_config_find(const guid_t *instance, u32 *ring, u64 *region);

#endif /* _PORTAL_VMBUS_INTERNAL_H */
