// SPDX-License-Identifier: GPL-2.0-only
/*
 * Channels: opening and closing them, and the signals that arrive.
 *
 * The callback runs in the bus's interrupt handler (HV_CALL_ISR): the other modes mask
 * interrupts in the ring's header, which is user space's. It reads no ring.
 */
#include <linux/kobject.h>
#include <linux/mm.h>

#include "line_internal.h"

/* Until the channel is closed, which is after the owner has gone if the host is slow. */
static void vbl_on_signal(void *context)
{
	struct vbl_channel *c = context;
	struct vbl *line = c->line;

	spin_lock(&line->signal_lock);
	if (line->terms.signal)
		line->terms.signal(line->terms.arg, c->index);
	spin_unlock(&line->signal_lock);
}

static void vbl_channel_prepare(struct vbl *line, struct vmbus_channel *channel)
{
	if (channel == vbl_primary(line) && !line->touched) {
		line->touched = true;
		line->callback_mode = channel->callback_mode;
		line->low_latency = channel->low_latency;
	}
	set_channel_read_mode(channel, HV_CALL_ISR);
	/* A doorbell that waits for the monitor page's next look would be no doorbell. */
	channel->low_latency = true;
}

/*
 * Rings are new and empty at each opening. If it fails, the bus keeps callback and
 * context until vbl_channels_close().
 */
int vbl_channel_open(struct vbl *line, u32 index, struct vmbus_channel *channel)
{
	struct vbl_channel *c = &line->channels[index];
	u32 size = line->ring_size;
	int ret;

	/* Not offered again after a hibernation: no host knows it, and none would answer. */
	if (channel->offermsg.child_relid == INVALID_RELID)
		return -ENODEV;
	vbl_channel_prepare(line, channel);
	ret = vmbus_open(channel, size, size, NULL, 0, vbl_on_signal, c);
	if (ret) {
		if (index)
			vbl_subchannel_failed(channel);
		dev_err(&line->dev->device, "channel %u with two rings of %u bytes cannot be opened: %d\n",
			index, size, ret);
		return ret;
	}
	c->rings.send = page_to_phys(channel->ringbuffer_page);
	c->rings.recv = c->rings.send +
			((phys_addr_t)channel->ringbuffer_send_offset << PAGE_SHIFT);
	c->rings.shared = portal_vmbus_decrypted(&channel->ringbuffer_gpadlhandle, true);
	c->channel = channel;
	if (index)
		set_per_channel_state(channel, c);
	vbl_answered(line);
	return 0;
}

/*
 * The ring's memory becomes ours. Left with the channel, the bus would wait for the end
 * of its GPADL with its own lock held, without which it can do nothing for anybody: not
 * even take a rescind, which would end the wait.
 */
static void vbl_ring_take(struct vbl_channel *c)
{
	struct vmbus_channel *channel = c->channel;

	c->ring.page = channel->ringbuffer_page;
	c->ring.order = get_order((unsigned long)channel->ringbuffer_pagecount << PAGE_SHIFT);
	portal_vmbus_ring_take(channel, &c->ring.gpadl);
	c->ring.established = true;
	c->ring.lost = false;
	channel->ringbuffer_page = NULL;
}

/*
 * The bus has closed the channel. One that is there still, because nobody has taken it,
 * has told its host so unless it has its mapping yet; then the host may use the ring.
 */
static void vbl_ring_give_back(struct vbl_channel *c, struct vmbus_channel *channel)
{
	if (channel && channel->outbound.ring_buffer)
		c->ring.lost = true;
	else if (channel)
		vbl_piece_unshare(channel, &c->ring);
	else
		vbl_piece_forget(&c->ring);
	vbl_piece_free(&c->ring);
	vbl_answered(c->line);
}

/* A rescinded one is the bus's, which may have given it back already, and has no GPADL. */
static void vbl_subchannel_give_back(struct vbl_channel *c)
{
	struct vmbus_channel *sc = vbl_subchannel_get(c, true);

	vbl_ring_give_back(c, sc);
	if (!sc)
		return;
	set_per_channel_state(sc, NULL);
	kobject_put(&sc->kobj);
}

/*
 * All channels, at any stage of opening; no callback runs any more. Closing the primary
 * one closes the subchannels, and is a matter of telling the host; then the rings'
 * GPADLs are waited for. The primary one is then as we found it: the next driver may
 * sleep in its callback. Subchannels keep the mode; whoever opens one sets it.
 */
void vbl_channels_close(struct vbl *line)
{
	struct vmbus_channel *primary = vbl_primary(line);
	u32 i;
	int ret;

	if (!line->touched)
		return;
	for (i = 0; i < ARRAY_SIZE(line->channels); i++) {
		if (line->channels[i].channel)
			vbl_ring_take(&line->channels[i]);
	}
	vbl_subchannels_settle(line);
	ret = vmbus_disconnect_ring(primary);
	/* Of the rings only our mappings are left to it; of subchannels it has done so. */
	if (line->channels[0].channel && !ret)
		vmbus_free_ring(primary);
	set_channel_read_mode(primary, line->callback_mode);
	primary->low_latency = line->low_latency;
	line->touched = false;

	for (i = 0; i < ARRAY_SIZE(line->channels); i++) {
		struct vbl_channel *c = &line->channels[i];

		if (!c->channel)
			continue;
		if (i)
			vbl_subchannel_give_back(c);
		else
			vbl_ring_give_back(c, primary);
		c->channel = NULL;
	}
}
