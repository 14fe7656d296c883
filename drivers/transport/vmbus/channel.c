// SPDX-License-Identifier: GPL-2.0-only
/*
 * Channels: opening and closing them, and the signals that arrive.
 *
 * The callback runs in the bus's interrupt handler (HV_CALL_ISR): the other modes mask
 * interrupts in the ring's header, which is user space's. It reads no ring.
 */
#include <linux/delay.h>
#include <linux/kobject.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/poison.h>
#include <linux/rcupdate.h>

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
 * Rings are new, zeroed and empty at each opening. If it fails, the bus keeps callback
 * and context until vbl_channels_close().
 */
int vbl_channel_open(struct vbl *line, u32 index, struct vmbus_channel *channel)
{
	struct vbl_channel *c = &line->channels[index];
	u32 size = line->terms.ring_size;
	int ret;

	vbl_channel_prepare(line, channel);
	ret = vmbus_open(channel, size, size, NULL, 0, vbl_on_signal, c);
	if (ret) {
		dev_err(&line->dev->device, "channel %u with two rings of %u bytes cannot be opened: %d\n",
			index, size, ret);
		return ret;
	}
	c->rings.send = page_to_phys(channel->ringbuffer_page);
	c->rings.recv = c->rings.send +
			((phys_addr_t)channel->ringbuffer_send_offset << PAGE_SHIFT);
	c->rings.shared = portal_vmbus_decrypted(&channel->ringbuffer_gpadlhandle, true);
	c->channel = channel;
	vbl_answered(line);
	return 0;
}

/*
 * Looks once for those that are new; 1: not all are there yet.
 *
 * Without the bus's lock, which nobody outside it can take. The list grows at its end.
 * A host that rescinds one has it taken off, whereupon its next is LIST_POISON1, and
 * freed after a grace period: so each next is looked at before it is followed, and a
 * walk that meets one that is gone begins anew later. Our reference is then all that
 * holds it, and opening it fails. probe_done says that the bus has finished with a
 * newcomer.
 */
static int vbl_look_for_subchannels(struct vbl *line, u32 channels)
{
	struct list_head *head = &vbl_primary(line)->sc_list, *at, *next;
	struct vmbus_channel *sc;
	u32 index = 0, n = 1;
	int ret = 0;

	rcu_read_lock();
	for (at = READ_ONCE(head->next); at != head; at = next) {
		next = READ_ONCE(at->next);
		if (next == LIST_POISON1) {
			n = 0;
			break;
		}
		sc = list_entry(at, struct vmbus_channel, sc_list);
		if (!READ_ONCE(sc->probe_done) || READ_ONCE(sc->rescind))
			continue;
		index = sc->offermsg.offer.sub_channel_index;
		if (index >= channels)
			continue;
		n++;
		if (index && line->channels[index].found == sc)
			continue;
		if (!index || line->channels[index].found) {
			ret = -EPROTO;
			break;
		}
		if (kobject_get_unless_zero(&sc->kobj))
			line->channels[index].found = sc;
	}
	rcu_read_unlock();
	if (ret)
		dev_err(&line->dev->device, "the host offers subchannel %u twice\n", index);
	return ret ? ret : n < channels;
}

/* All that the host granted. It may offer them later than the device; not much later. */
int vbl_find_subchannels(struct vbl *line, u32 channels)
{
	unsigned long deadline = jiffies + line->terms.patience;
	int ret;

	while ((ret = vbl_look_for_subchannels(line, channels)) == 1) {
		if (READ_ONCE(vbl_primary(line)->rescind))
			return -ENODEV;
		if (time_after(jiffies, deadline)) {
			dev_err(&line->dev->device, "the host granted %u channels, but has not offered them all\n",
				channels);
			return -EPROTO;
		}
		msleep(20);
	}
	return ret;
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
	channel->ringbuffer_page = NULL;
}

/* @closed: the bus has told the host, which therefore uses the ring no more. */
static void vbl_ring_give_back(struct vbl_channel *c, bool closed)
{
	if (!closed)
		c->ring.lost = true;
	else
		vbl_piece_unshare(c->channel, &c->ring);
	vbl_piece_free(&c->ring);
	vbl_answered(c->line);
}

/*
 * All channels, at any stage of opening; no callback runs any more. Closing the primary
 * one closes the subchannels, and is a matter of telling the host; then the rings'
 * GPADLs are waited for. The bus may have given a rescinded subchannel back meanwhile.
 * The primary one is then as we found it: the next driver may sleep in its callback.
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
	ret = vmbus_disconnect_ring(primary);
	/* Of the rings only our mappings are left to it; of subchannels it has done so. */
	if (line->channels[0].channel && !ret)
		vmbus_free_ring(primary);
	set_channel_read_mode(primary, line->callback_mode);
	primary->low_latency = line->low_latency;
	line->touched = false;

	for (i = 0; i < ARRAY_SIZE(line->channels); i++) {
		struct vbl_channel *c = &line->channels[i];

		if (c->channel)
			vbl_ring_give_back(c, !c->channel->outbound.ring_buffer);
		c->channel = NULL;
		if (c->found)
			kobject_put(&c->found->kobj);
		c->found = NULL;
	}
}
