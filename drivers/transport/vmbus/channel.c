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

#include "vmbus.h"

/* Until vmbus_close() has returned; the portal is put after that only. */
static void vbp_on_signal(void *context)
{
	struct vbp_channel *c = context;
	struct portal *p = READ_ONCE(c->vbp->portal);

	if (p)
		portal_event(p, c->index);
	wake_up(&c->vbp->wait);
}

/*
 * The primary one, and with it all subchannels. Also after an opening that failed, for
 * the bus keeps callback and context of that; then it forgets them and does no more. The
 * channel is then as we found it: the next driver may sleep in its callback.
 */
static void vbp_close_primary(struct vbp *vbp)
{
	struct vmbus_channel *channel = vbp_primary(vbp);

	vmbus_close(channel);
	set_channel_read_mode(channel, vbp->callback_mode);
	channel->low_latency = vbp->low_latency;
}

/* Rings are new, zeroed and empty at each opening. */
int vbp_open_channel(struct vbp *vbp, u32 index, struct vmbus_channel *channel)
{
	struct vbp_channel *c = &vbp->channels[index];
	int ret;

	c->vbp = vbp;
	c->index = index;
	if (!index) {
		vbp->callback_mode = channel->callback_mode;
		vbp->low_latency = channel->low_latency;
	}
	set_channel_read_mode(channel, HV_CALL_ISR);
	/* A doorbell that waits for the monitor page's next look would be no doorbell. */
	channel->low_latency = true;

	ret = vmbus_open(channel, vbp->ring_size, vbp->ring_size, NULL, 0, vbp_on_signal, c);
	if (ret) {
		dev_err(&vbp->dev->device, "channel %u with two rings of %u bytes cannot be opened: %d\n",
			index, vbp->ring_size, ret);
		if (!index)
			vbp_close_primary(vbp);
		return ret;
	}
	c->rings.send = page_to_phys(channel->ringbuffer_page);
	c->rings.recv = c->rings.send +
			((phys_addr_t)channel->ringbuffer_send_offset << PAGE_SHIFT);
	c->rings.shared = portal_vmbus_decrypted(&channel->ringbuffer_gpadlhandle, true);
	WRITE_ONCE(c->channel, channel);
	return 0;
}

static void vbp_drop_subchannels(struct vbp *vbp)
{
	u32 i;

	for (i = 1; i < ARRAY_SIZE(vbp->channels); i++) {
		if (vbp->channels[i].found)
			kobject_put(&vbp->channels[i].found->kobj);
		vbp->channels[i].found = NULL;
	}
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
static int vbp_find_subchannels(struct vbp *vbp)
{
	struct list_head *head = &vbp_primary(vbp)->sc_list, *at, *next;
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
		if (index >= vbp->given.channels)
			continue;
		n++;
		if (index && vbp->channels[index].found == sc)
			continue;
		if (!index || vbp->channels[index].found) {
			ret = -EPROTO;
			break;
		}
		if (kobject_get_unless_zero(&sc->kobj))
			vbp->channels[index].found = sc;
	}
	rcu_read_unlock();
	if (ret)
		dev_err(&vbp->dev->device, "the host offers subchannel %u twice\n", index);
	return ret ? ret : n < vbp->given.channels;
}

/* All that the host granted. It may offer them later than the device; not much later. */
int vbp_open_subchannels(struct vbp *vbp)
{
	unsigned long deadline = vbp_deadline();
	u32 i;
	int ret;

	if (vbp->given.channels == 1)
		return 0;
	while ((ret = vbp_find_subchannels(vbp)) == 1) {
		if (vbp_rescinded(vbp))
			return -ENODEV;
		if (time_after(jiffies, deadline)) {
			dev_err(&vbp->dev->device, "the host granted %u channels, but has not offered them all\n",
				vbp->given.channels);
			return -EPROTO;
		}
		msleep(20);
	}
	for (i = 1; !ret && i < vbp->given.channels; i++)
		ret = vbp->channels[i].found ?
		      vbp_open_channel(vbp, i, vbp->channels[i].found) : -ENODEV;
	return ret;
}

/*
 * All of them, at any stage of opening; no callback runs any more. Subchannels go with
 * the primary one. The bus may have given a rescinded subchannel back when this returns.
 */
void vbp_close_channels(struct vbp *vbp)
{
	u32 i;

	if (!vbp->channels[0].channel)
		return;
	vbp_close_primary(vbp);
	for (i = 0; i < ARRAY_SIZE(vbp->channels); i++)
		WRITE_ONCE(vbp->channels[i].channel, NULL);
	vbp_drop_subchannels(vbp);
}
