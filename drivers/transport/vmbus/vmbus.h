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

#include "line.h"

/* 8 KiB cannot greet. */
#define VBP_MIN_RING	max(PAGE_SIZE * 2, 16384UL)

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
 * @line: to the host: of a session, or of the process that has a foreign class's rings
 * @ringing: the channels that can be signalled; they outlive the portal's callbacks
 * @memory: the region, or NULL
 * @exposed: the host was told of the memory and has not said that it let go
 * @ending: nobody wants to wait for the host
 * @gone: the portal has been removed, though the device is still bound
 * @was_open: channels were open when the device was suspended
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
	struct vbl *line;
	struct vmbus_channel *ringing[PORTAL_VMBUS_MAX_VECTORS];
	struct vbl_memory *memory;
	bool exposed;
	bool ending;
	bool gone;
	bool was_open;
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
unsigned long vbp_patience(void);

/* packet.c */
int vbp_send(struct vbp *vbp, const void *msg, u32 size);
int vbp_receive(struct vbp *vbp, void *msg, u32 room, u32 *size);

/* session.c */
int vbp_line_begin(struct vbp *vbp);
int vbp_line_open(struct vbp *vbp, u32 ring_size, const bool *stop);
void vbp_line_end(struct vbp *vbp);
int vbp_session_begin(struct vbp *vbp);
int vbp_session_again(struct vbp *vbp);
bool vbp_session_pause(struct vbp *vbp);
void vbp_session_end(struct vbp *vbp);

/* config.c */
extern const struct attribute_group *vbp_driver_groups[];
int vbp_config_init(void);
void vbp_config_exit(void);
void vbp_config_find(const guid_t *instance, u32 *ring, u64 *region);

#endif /* _PORTAL_VMBUS_INTERNAL_H */
