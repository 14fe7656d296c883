// SPDX-License-Identifier: GPL-2.0-only
/*
 * The handshake's packets in the primary channel's rings, while the kernel alone has
 * them: from the opening until LIVE.
 *
 * Not by the bus's own functions: those of older kernels believe the indices, and keep
 * a place of their own in the ring (hv_ring_buffer_info.priv_read_index). Each word
 * that the host can write is read once and checked. The bus maps a ring's data twice
 * in succession, so a packet is contiguous wherever it begins.
 */
#include <linux/compiler.h>
#include <linux/kernel.h>
#include <linux/string.h>

#include <asm/barrier.h>

#include "vmbus.h"

/* How long a wait goes without a look at what does not wake it: rescind, lost signals. */
#define VBP_LOOK	(HZ / 10)

/* Behind each packet: where it began, in the upper half. */
#define VBP_TRAILER	sizeof(u64)

static bool vbp_index_valid(const struct hv_ring_buffer_info *ring, u32 index)
{
	return index < ring->ring_datasize && IS_ALIGNED(index, sizeof(u64));
}

static int vbp_broken(struct vbp *vbp, const char *what, u32 value)
{
	dev_err(&vbp->dev->device, "handshake: the host breaks the protocol: %s %#x\n", what,
		value);
	return -EPROTO;
}

/* Sleeps for a signal or a while. -ENODEV, or -ETIMEDOUT: not in time. */
static int vbp_wait(struct vbp *vbp, const u32 *word, u32 is, unsigned long deadline)
{
	if (vbp_rescinded(vbp))
		return -ENODEV;
	if (time_after(jiffies, deadline))
		return -ETIMEDOUT;
	/* A word that the host changes all the time is never waited for. */
	cond_resched();
	wait_event_timeout(vbp->wait, READ_ONCE(*word) != is || vbp_rescinded(vbp), VBP_LOOK);
	return 0;
}

/* Waits until there is room; one byte stays free, for full is not to look like empty. */
static int vbp_room(struct vbp *vbp, u32 need, u32 *write_index)
{
	struct hv_ring_buffer_info *ring = &vbp_primary(vbp)->outbound;
	unsigned long deadline = jiffies + vbp_patience();
	int ret;

	for (;;) {
		u32 write = READ_ONCE(ring->ring_buffer->write_index);
		u32 read = READ_ONCE(ring->ring_buffer->read_index);

		if (!vbp_index_valid(ring, write))
			return vbp_broken(vbp, "write index", write);
		if (!vbp_index_valid(ring, read))
			return vbp_broken(vbp, "read index", read);
		if ((write >= read ? ring->ring_datasize - (write - read) : read - write) > need) {
			*write_index = write;
			return 0;
		}
		ret = vbp_wait(vbp, &ring->ring_buffer->read_index, read, deadline);
		if (ret)
			return ret;
	}
}

/* One message, as an in-band packet. Signals always: there are few. */
int vbp_send(struct vbp *vbp, const void *msg, u32 size)
{
	struct vmbus_channel *channel = vbp_primary(vbp);
	struct hv_ring_buffer_info *ring = &channel->outbound;
	u32 padded = ALIGN(size, sizeof(u64));
	struct vmpacket_descriptor desc = {
		.type = VM_PKT_DATA_INBAND,
		.offset8 = sizeof(desc) / 8,
		.len8 = (sizeof(desc) + padded) / 8,
		.trans_id = PORTAL_VMBUS_CONTROL,
	};
	u32 total = sizeof(desc) + padded + VBP_TRAILER;
	u32 write = 0;
	u64 trailer;
	u8 *at;
	int ret;

	ret = vbp_room(vbp, total, &write);
	if (ret)
		return ret;
	trailer = (u64)write << 32;
	at = ring->ring_buffer->buffer + write;
	memcpy(at, &desc, sizeof(desc));
	memset(at + sizeof(desc), 0, padded);
	memcpy(at + sizeof(desc), msg, size);
	memcpy(at + sizeof(desc) + padded, &trailer, sizeof(trailer));

	write += total;
	if (write >= ring->ring_datasize)
		write -= ring->ring_datasize;
	/* The packet before its index, for another machine. */
	virt_store_release(&ring->ring_buffer->write_index, write);
	/* The index before the signal. */
	virt_mb();
	vmbus_setevent(channel);
	return 0;
}

/* Waits for a packet; how many bytes there are, at least one whole descriptor. */
static int vbp_packet_wait(struct vbp *vbp, u32 *avail)
{
	struct hv_ring_buffer_info *ring = &vbp_primary(vbp)->inbound;
	unsigned long deadline = jiffies + vbp_patience();
	int ret;

	for (;;) {
		/* The index before the packet. */
		u32 write = virt_load_acquire(&ring->ring_buffer->write_index);
		u32 read = vbp->read_index;

		if (!vbp_index_valid(ring, write))
			return vbp_broken(vbp, "write index", write);
		*avail = write >= read ? write - read : ring->ring_datasize - read + write;
		if (*avail >= sizeof(struct vmpacket_descriptor) + VBP_TRAILER)
			return 0;
		if (*avail)
			return vbp_broken(vbp, "a packet cut off after bytes", *avail);
		ret = vbp_wait(vbp, &ring->ring_buffer->write_index, write, deadline);
		if (ret)
			return ret;
	}
}

/*
 * Lengths of the packet in bytes, from our copy of its descriptor. Its transaction id may
 * be any: Windows' KMCL does not let a host choose it, and nothing but our messages
 * travels on this channel now.
 */
static int vbp_packet_check(struct vbp *vbp, const struct vmpacket_descriptor *desc, u32 avail,
			    u32 room)
{
	u32 offset = desc->offset8 * 8, len = desc->len8 * 8;

	if (desc->type != VM_PKT_DATA_INBAND)
		return vbp_broken(vbp, "a packet of type", desc->type);
	if (len + VBP_TRAILER > avail)
		return vbp_broken(vbp, "a packet that is not all there, of bytes", len);
	if (offset < sizeof(*desc) || offset > len)
		return vbp_broken(vbp, "a payload at", offset);
	if (len - offset > room)
		return vbp_broken(vbp, "a message of bytes", len - offset);
	return 0;
}

/*
 * The next message, copied to @msg; @size with the padding. -EPROTO, having said why;
 * -ETIMEDOUT; -ENODEV. @room is below what a packet's length can be by far.
 */
int vbp_receive(struct vbp *vbp, void *msg, u32 room, u32 *size)
{
	struct vmbus_channel *channel = vbp_primary(vbp);
	struct hv_ring_buffer_info *ring = &channel->inbound;
	struct vmpacket_descriptor desc;
	u32 avail, read;
	const u8 *at;
	int ret;

	ret = vbp_packet_wait(vbp, &avail);
	if (ret)
		return ret;
	read = vbp->read_index;
	at = ring->ring_buffer->buffer + read;
	memcpy(&desc, at, sizeof(desc));
	/* The compiler shall not look again: the host may have changed its mind. */
	barrier();
	ret = vbp_packet_check(vbp, &desc, avail, room);
	if (ret)
		return ret;
	*size = desc.len8 * 8 - desc.offset8 * 8;
	memcpy(msg, at + desc.offset8 * 8, *size);
	barrier();

	read += desc.len8 * 8 + VBP_TRAILER;
	if (read >= ring->ring_datasize)
		read -= ring->ring_datasize;
	vbp->read_index = read;
	/* Our reads before the index. */
	virt_mb();
	WRITE_ONCE(ring->ring_buffer->read_index, read);
	/* The index before the look at who waits for room. */
	virt_mb();
	if (READ_ONCE(ring->ring_buffer->pending_send_sz))
		vmbus_setevent(channel);
	return 0;
}
