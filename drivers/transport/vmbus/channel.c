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

/* More than a bus can have: a list that is being changed may lead in circles. */
#define VBL_MAX_SUBCHANNELS	4096

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
 * A subchannel that is rescinded while it is being opened stays with the bus, which has
 * said that it may go, but waits for that word at each closing again. As an open one it
 * is closed once, and gone. The bus sets the flag before it looks at the state.
 */
static void vbl_subchannel_failed(struct vmbus_channel *channel)
{
	struct vmbus_gpadl gone;

	/* Its new state before our look at the flag. */
	smp_mb();
	if (!READ_ONCE(channel->rescind))
		return;
	portal_vmbus_ring_take(channel, &gone);
	WRITE_ONCE(channel->state, CHANNEL_OPENED_STATE);
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
	vbl_answered(line);
	return 0;
}

static void vbl_found_put(struct vbl_channel *c)
{
	if (c->found)
		kobject_put(&c->found->kobj);
	c->found = NULL;
}

/*
 * Our reference keeps the directory of a rescinded one in sysfs, whose name a successor
 * may have to have.
 */
static void vbl_found_put_rescinded(struct vbl *line)
{
	u32 i;

	for (i = 0; i < ARRAY_SIZE(line->channels); i++) {
		struct vbl_channel *c = &line->channels[i];

		if (c->found && READ_ONCE(c->found->rescind))
			vbl_found_put(c);
	}
}

/*
 * Looks once for those that are new; 1: not all are there yet.
 *
 * Without the bus's lock, which nobody outside it can take. The list grows at its end.
 * A host that rescinds one has it taken off, whereupon its next is LIST_POISON1, and
 * freed after a grace period: so each next is looked at before it is followed, and a
 * walk that meets one that is gone begins anew later. One that we have found goes at the
 * next look, or opening it fails. probe_done says that the bus has finished with a
 * newcomer.
 */
static int vbl_look_for_subchannels(struct vbl *line, u32 channels)
{
	struct list_head *head = &vbl_primary(line)->sc_list, *at, *next;
	u32 index = 0, n = 1, steps = 0;
	struct vmbus_channel *sc, *found;
	int ret = 0;

	vbl_found_put_rescinded(line);
	rcu_read_lock();
	/* Each link before what is behind it. */
	at = smp_load_acquire(&head->next);
	for (; at != head; at = next) {
		/* Likewise. */
		next = smp_load_acquire(&at->next);
		if (next == LIST_POISON1 || ++steps > VBL_MAX_SUBCHANNELS) {
			n = 0;
			break;
		}
		sc = list_entry(at, struct vmbus_channel, sc_list);
		if (!READ_ONCE(sc->probe_done) || READ_ONCE(sc->rescind))
			continue;
		index = sc->offermsg.offer.sub_channel_index;
		if (index >= channels)
			continue;
		found = line->channels[index].found;
		if (!index || (found && found != sc && !READ_ONCE(found->rescind))) {
			ret = -EPROTO;
			break;
		}
		if (!found && kobject_get_unless_zero(&sc->kobj))
			line->channels[index].found = sc;
		if (line->channels[index].found == sc)
			n++;
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
	c->ring.lost = false;
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
	c->channel = NULL;
}

/* Also what only was to be opened. Rescinded ones do not wait, and have successors. */
static void vbl_channels_give_back(struct vbl *line, bool rescinded)
{
	u32 i;

	for (i = 0; i < ARRAY_SIZE(line->channels); i++) {
		struct vbl_channel *c = &line->channels[i];
		struct vmbus_channel *channel = c->channel ? c->channel : c->found;

		if (!channel || (rescinded && !READ_ONCE(channel->rescind)))
			continue;
		if (c->channel)
			vbl_ring_give_back(c, !channel->outbound.ring_buffer);
		vbl_found_put(c);
	}
}

/*
 * All channels, at any stage of opening; no callback runs any more. Closing the primary
 * one closes the subchannels, and is a matter of telling the host; then the rings'
 * GPADLs are waited for. The bus may have given a rescinded subchannel back meanwhile.
 * The primary one is then as we found it: the next driver may sleep in its callback.
 * Subchannels keep the mode; whoever opens one sets it.
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

	vbl_channels_give_back(line, true);
	vbl_channels_give_back(line, false);
}
