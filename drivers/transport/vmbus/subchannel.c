// SPDX-License-Identifier: GPL-2.0-only
/*
 * Subchannels, which the bus lists, and the host gives and takes when it likes.
 */
#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/jiffies.h>
#include <linux/kobject.h>
#include <linux/list.h>
#include <linux/poison.h>
#include <linux/rcupdate.h>

#include "line_internal.h"

/* More than a bus can have: a list that is being changed may lead in circles. */
#define VBL_MAX_SUBCHANNELS	4096

/* So many in succession that find the list as it was: nobody takes anything now. */
#define VBL_QUIET_LOOKS		3

/*
 * The subchannel behind @at; NULL: there is none; -EAGAIN: begin anew, later. Under RCU.
 *
 * Without the bus's lock, which nobody outside it can take. The list grows at its end.
 * A host that rescinds one has it taken off, whereupon its next is LIST_POISON1, and
 * freed after a grace period.
 */
static struct vmbus_channel *vbl_subchannel_next(struct vbl *line, struct list_head **at,
						 u32 *steps)
{
	/* Each link before what is behind it. */
	struct list_head *next = smp_load_acquire(&(*at)->next);

	if (next == LIST_POISON1 || ++*steps > VBL_MAX_SUBCHANNELS)
		return ERR_PTR(-EAGAIN);
	*at = next;
	if (next == &vbl_primary(line)->sc_list)
		return NULL;
	return list_entry(next, struct vmbus_channel, sc_list);
}

/* See vbl_subchannel_get(). */
static struct vmbus_channel *vbl_subchannel_look(struct vbl_channel *c, const void *mark)
{
	struct list_head *at = &vbl_primary(c->line)->sc_list;
	struct vmbus_channel *sc;
	u32 steps = 0;

	rcu_read_lock();
	while ((sc = vbl_subchannel_next(c->line, &at, &steps))) {
		if (IS_ERR(sc))
			break;
		/* probe_done: the bus has finished with a newcomer. */
		if (READ_ONCE(sc->probe_done) && !READ_ONCE(sc->rescind) &&
		    sc->offermsg.offer.sub_channel_index == c->index &&
		    get_per_channel_state(sc) == mark &&
		    kobject_get_unless_zero(&sc->kobj))
			break;
	}
	rcu_read_unlock();
	return sc;
}

/*
 * The subchannel of @c, with a reference: one that is to be opened, or that which was.
 * NULL: it is not there, or not any more. What was opened has a mark: a host may take a
 * channel away and offer another of its name.
 *
 * A reference keeps the directory of a rescinded one in sysfs, whose name its successor
 * has to have, or the bus stumbles. So there is one only while that very channel is
 * waited for, for which its rescind ends the wait.
 */
struct vmbus_channel *vbl_subchannel_get(struct vbl_channel *c, bool opened)
{
	struct vmbus_channel *sc;

	while (IS_ERR(sc = vbl_subchannel_look(c, opened ? c : NULL)))
		msleep(20);
	return sc;
}

/*
 * A subchannel that is rescinded while it is being opened stays with the bus, which has
 * said that it may go, but waits for that word at each closing again. As an open one it
 * is closed once, and gone. The bus sets the flag before it looks at the state; if it
 * comes to look only now, between the end of the opening and this, it takes the channel
 * off by itself, which the host is not told as a closing. So this is not to be late.
 */
void vbl_subchannel_failed(struct vmbus_channel *channel)
{
	struct vmbus_gpadl gone;

	/* Its new state before our look at the flag. */
	smp_mb();
	if (!READ_ONCE(channel->rescind))
		return;
	portal_vmbus_ring_take(channel, &gone);
	WRITE_ONCE(channel->state, CHANNEL_OPENED_STATE);
}

/* Opens one that has been seen. The bus keeps what is open until it is closed. */
int vbl_subchannel_open(struct vbl *line, u32 index)
{
	struct vmbus_channel *sc = vbl_subchannel_get(&line->channels[index], false);
	int ret;

	if (!sc)
		return -ENODEV;
	ret = vbl_channel_open(line, index, sc);
	kobject_put(&sc->kobj);
	return ret;
}

/* Looks once for those with the indices below @channels; 1: not all are there yet. */
static int vbl_look_for_subchannels(struct vbl *line, u32 channels)
{
	DECLARE_BITMAP(seen, PORTAL_VMBUS_MAX_VECTORS) = { };
	struct list_head *at = &vbl_primary(line)->sc_list;
	struct vmbus_channel *sc;
	u32 index, steps = 0;
	int ret = 0;

	rcu_read_lock();
	while (!ret && (sc = vbl_subchannel_next(line, &at, &steps))) {
		if (IS_ERR(sc)) {
			rcu_read_unlock();
			return 1;
		}
		if (!READ_ONCE(sc->probe_done) || READ_ONCE(sc->rescind))
			continue;
		index = sc->offermsg.offer.sub_channel_index;
		if (index < channels && (!index || __test_and_set_bit(index, seen)))
			ret = -EPROTO;
	}
	rcu_read_unlock();
	if (ret)
		dev_err(&line->dev->device, "the host offers subchannel %u twice\n", index);
	return ret ? ret : bitmap_weight(seen, channels) + 1 < channels;
}

/*
 * How many are not open, and whether the bus is doing something to one of them: also to
 * one that is rescinded and looks open, before it has said that it may go.
 */
static u32 vbl_subchannels_idle(struct vbl *line, bool *busy)
{
	struct list_head *at = &vbl_primary(line)->sc_list;
	struct vmbus_channel *sc;
	u32 n = 0, steps = 0;

	*busy = false;
	rcu_read_lock();
	while ((sc = vbl_subchannel_next(line, &at, &steps))) {
		if (IS_ERR(sc)) {
			*busy = true;
			n++;
			break;
		}
		if (READ_ONCE(sc->state) == CHANNEL_OPENED_STATE) {
			if (!READ_ONCE(sc->rescind) || completion_done(&sc->rescind_event))
				continue;
			*busy = true;
		}
		*busy |= READ_ONCE(sc->rescind) || !READ_ONCE(sc->probe_done);
		n++;
	}
	rcu_read_unlock();
	return n;
}

/*
 * Before channels are closed. The bus walks the list then without its lock, and waits for
 * one that is rescinded and was not open: for ever, for it takes such a one off by itself
 * and frees it. A host takes all of them, if any, after the first closing of a session and
 * before it says that it let go: so some of these looks find it at work, or it has done.
 *
 * Who waits for the closing has patience left for the answers to it.
 */
void vbl_subchannels_settle(struct vbl *line)
{
	unsigned long deadline = jiffies + line->terms.patience / 2;
	unsigned int quiet = 0;
	u32 n, last = 0;
	bool busy;

	while (quiet < VBL_QUIET_LOOKS && time_before(jiffies, deadline)) {
		n = vbl_subchannels_idle(line, &busy);
		if (!n)
			return;
		quiet = busy || n != last ? 0 : quiet + 1;
		if (n != last)
			vbl_answered(line);
		last = n;
		msleep(20);
	}
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
