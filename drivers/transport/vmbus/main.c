// SPDX-License-Identifier: GPL-2.0-only
/*
 * portal_vmbus.ko: portals over VMBus, Hyper-V's bus between a guest and its host.
 *
 * Two kinds of device. One of our class (linux/portal_vmbus.h) greets, shares a region
 * of this guest's memory, and has packet rings that its host takes no guest address
 * from; channels are opened when the device is bound. One of any other class, bound by
 * new_id, is a service that the host has anyway: there is no region, the rings are all
 * there is, and a process that takes them begins a conversation of its own: the channel
 * is opened for it and closed after it. A packet can name any page of the guest to such
 * a host, so those portals are root's (PORTAL_DESC_RAWIO).
 *
 * Order
 *
 * probe	session (channels, memory, handshake), then the portal.
 * remove	portal_remove() revokes; session_end, up to which signals may arrive;
 *		portal_put().
 *
 * A rescind is a remove: without a rescind callback the bus itself unregisters the
 * device. Probe, remove, shutdown and suspend to idle have the device's lock, by the driver
 * core. Freeze and thaw, in the noirq phase, have not, and a rescind comes then, too: they
 * take it.
 *
 * Trust
 *
 * The host is believed nothing (session.c, packet.c), and user space less: once it had
 * the rings the kernel looks at them no more, but closes and opens the channel for the
 * last words. Nothing here waits for a silent host for longer than timeout=, nor without
 * an end for one that is slow; what the bus itself waits for without end, a line does
 * (line.c, a module of its own, because it may have to outlive this one).
 */
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uuid.h>

#include "vmbus.h"

static unsigned int timeout = 10;
module_param(timeout, uint, 0644);
MODULE_PARM_DESC(timeout, "seconds to wait for each answer of the host, 1 to 60 (default 10)");

/* Expands what it is given first. */
#define VBP_GUID(...)	GUID_INIT(__VA_ARGS__)

static const guid_t vbp_class = VBP_GUID(PORTAL_VMBUS_CLASS_INIT);

static const struct hv_vmbus_device_id vbp_ids[] = {
	{ .guid = VBP_GUID(PORTAL_VMBUS_CLASS_INIT) },
	{ }
};
MODULE_DEVICE_TABLE(vmbus, vbp_ids);

unsigned long vbp_patience(void)
{
	return clamp(READ_ONCE(timeout), 1U, 60U) * HZ;
}

/*
 * Signals have no address: whoever is not this guest is reached through the host. A ring
 * of one's own is an event here.
 */
static int vbp_ring(void *priv, u32 peer, u32 vector)
{
	struct vbp *vbp = priv;
	struct vmbus_channel *channel;

	if (peer >= vbp->given.max_peers || vector >= vbp->given.channels)
		return -ENXIO;
	vector = array_index_nospec(vector, PORTAL_VMBUS_MAX_VECTORS);
	if (peer == vbp->given.peer_id) {
		portal_event(vbp->portal, vector);
		return 0;
	}
	channel = READ_ONCE(vbp->ringing[vector]);
	if (!channel || READ_ONCE(channel->rescind))
		return -ENXIO;
	vmbus_setevent(channel);
	return 0;
}

static u32 vbp_peer_id(void *priv)
{
	struct vbp *vbp = priv;

	return vbp->given.peer_id;
}

/*
 * Of a foreign class: one channel, opened for whoever takes its rings. The portal's read
 * lock is held: who removes the portal says @ending first.
 */
static int vbp_open_rings(void *priv, u32 vector)
{
	struct vbp *vbp = priv;
	int ret;

	/* One that a pause kept from being closed. */
	vbp_line_end(vbp);
	ret = vbp_line_begin(vbp);
	if (!ret)
		ret = vbp_line_open(vbp, vbp->ring_size, &vbp->ending);
	if (!ret)
		portal_set_rings(vbp->portal, vector, vbl_rings(vbp->line, vector));
	else
		vbp_line_end(vbp);
	return ret;
}

static void vbp_close_rings(void *priv, u32 vector)
{
	vbp_line_end(priv);
}

static const struct portal_ops vbp_ops = {
	.ring = vbp_ring,
	.peer_id = vbp_peer_id,
};

static const struct portal_ops vbp_foreign_ops = {
	.ring = vbp_ring,
	.peer_id = vbp_peer_id,
	.open_rings = vbp_open_rings,
	.close_rings = vbp_close_rings,
};

static struct portal_extent *vbp_extents(const struct vbp *vbp)
{
	struct portal_extent *e;
	u32 i;

	e = kvcalloc(vbp->memory->nr, sizeof(*e), GFP_KERNEL);
	for (i = 0; e && i < vbp->memory->nr; i++) {
		e[i].start = page_to_phys(vbp->memory->pieces[i].page);
		e[i].len = vbl_piece_size(&vbp->memory->pieces[i]);
	}
	return e;
}

/* Where each vector's rings are; all zero without a line. */
static struct portal_rings *vbp_rings(const struct vbp *vbp)
{
	struct portal_rings *r;
	u32 i;

	r = kcalloc(vbp->given.channels, sizeof(*r), GFP_KERNEL);
	for (i = 0; r && vbp->line && i < vbp->given.channels; i++)
		r[i] = *vbl_rings(vbp->line, i);
	return r;
}

static struct portal *vbp_portal_alloc(struct vbp *vbp)
{
	bool packets = vbp->given.features & PORTAL_VMBUS_PACKETS;
	struct portal_extent *extents = NULL;
	struct portal_rings *rings = NULL;
	char identity[PORTAL_IDENTITY_LEN];
	struct portal_desc desc = {
		.ops = vbp->ours ? &vbp_ops : &vbp_foreign_ops,
		.parent = &vbp->dev->device,
		.transport = "vmbus",
		.identity = identity,
		.nr_extents = vbp->memory ? vbp->memory->nr : 0,
		.vectors = vbp->given.channels,
		.max_peers = vbp->given.max_peers,
		.flags = PORTAL_DESC_RAM |
			 (vbl_memory_decrypted(vbp->memory) ? PORTAL_DESC_SHARED : 0) |
			 (vbp->ours ? 0 : PORTAL_DESC_RAWIO),
	};
	struct portal *p = ERR_PTR(-ENOMEM);

	snprintf(identity, sizeof(identity), "vmbus-%pUl", &vbp->dev->dev_instance);
	if (vbp->memory) {
		extents = vbp_extents(vbp);
		if (!extents)
			goto out;
	}
	if (packets) {
		rings = vbp_rings(vbp);
		if (!rings)
			goto out;
		desc.send_size = vbp->ring_size;
		desc.recv_size = vbp->ring_size;
	}
	desc.extents = extents;
	desc.rings = rings;
	p = portal_alloc(&desc, vbp);
out:
	kfree(rings);
	kvfree(extents);
	return p;
}

static int vbp_portal_add(struct vbp *vbp)
{
	struct portal *p;
	int ret;

	p = vbp_portal_alloc(vbp);
	if (IS_ERR(p))
		return PTR_ERR(p);
	WRITE_ONCE(vbp->portal, p);
	ret = portal_add(p);
	if (ret)
		return ret;
	if (vbp->ours)
		dev_info(&vbp->dev->device, "portal%d: %llu KiB, %u channels, peer %u\n",
			 portal_number(p), vbp->memory ? vbp->memory->size >> 10 : 0,
			 vbp->given.channels, vbp->given.peer_id);
	else
		dev_info(&vbp->dev->device, "portal%d: the service %pUl, for CAP_SYS_RAWIO\n",
			 portal_number(p), &vbp->dev->dev_type);
	return 0;
}

/* What a session and a portal have left, at any stage. */
static void vbp_free(struct vbp *vbp)
{
	vbp_session_end(vbp);
	if (vbp->portal)
		portal_put(vbp->portal);
	kfree(vbp);
}

/* No callback runs any more, nor did one that waited for the host keep us. */
static void vbp_revoke(struct vbp *vbp)
{
	WRITE_ONCE(vbp->ending, true);
	vbp->gone = true;
	portal_remove(vbp->portal);
}

/*
 * The bus makes the channel's object right after it has registered the device, which is
 * when a probe can begin. What is overdue needs one. A probe beside the bus, as ours
 * normally is, sees it come; one in its way comes again.
 */
static int vbp_wait_channel(struct hv_device *dev)
{
	unsigned int looks = 50;

	/* The object before the flag. */
	while (!smp_load_acquire(&dev->channel->probe_done)) {
		if (!looks--)
			return -EPROBE_DEFER;
		msleep(20);
	}
	return 0;
}

/*
 * What another driver left: uio_hv_generic its callback, for whose data it would take ours,
 * and which may have been unloaded. Without one the bus unregisters a device that is
 * rescinded. Nobody sets them while the device is ours.
 */
static void vbp_inherit(struct vmbus_channel *channel)
{
	vmbus_set_chn_rescind_callback(channel, NULL);
	channel->change_target_cpu_callback = NULL;
}

static int vbp_probe(struct hv_device *dev, const struct hv_vmbus_device_id *id)
{
	struct vbp *vbp;
	int ret;

	/*
	 * A line of before keeps the device for this driver, by its name alone; but one of
	 * another class is bound to it only if somebody asks, by new_id.
	 */
	if (vbl_owed(dev)) {
		dev_err(&dev->device, "the host still owes an answer to what it was asked before\n");
		return -EBUSY;
	}
	vbp_inherit(dev->channel);
	ret = vbp_wait_channel(dev);
	if (ret)
		return ret;
	vbp = kzalloc(sizeof(*vbp), GFP_KERNEL);
	if (!vbp)
		return -ENOMEM;
	vbp->dev = dev;
	vbp->ours = guid_equal(&dev->dev_type, &vbp_class);
	init_waitqueue_head(&vbp->wait);
	vbp_config_find(&dev->dev_instance, &vbp->ring_size, &vbp->region_size);

	if (vbp->ours)
		ret = vbp_session_begin(vbp);
	else
		vbp->given = (struct vbp_welcome) {
			.features = PORTAL_VMBUS_PACKETS,
			.channels = 1,
			.peer_id = PORTAL_PEER_NONE,
			.max_peers = 1,
		};
	if (!ret)
		ret = vbp_portal_add(vbp);
	if (ret) {
		vbp_free(vbp);
		vbl_keep(dev);
		return ret;
	}
	hv_set_drvdata(dev, vbp);
	return 0;
}

/* Unbind, module unload, rescind. Nothing here waits for user space. */
static void vbp_drop(struct hv_device *dev)
{
	struct vbp *vbp = hv_get_drvdata(dev);

	vbp_revoke(vbp);
	vbp_free(vbp);
	vbl_keep(dev);
	hv_set_drvdata(dev, NULL);
}

PORTAL_COMPAT_VMBUS_REMOVE(vbp_remove, vbp_drop)

/*
 * Reboot and kexec: the next kernel knows nothing of what this one shares. Files may
 * stay open, so the portal and what its callbacks had stay too.
 */
static void vbp_shutdown(struct hv_device *dev)
{
	struct vbp *vbp = hv_get_drvdata(dev);

	vbp_revoke(vbp);
	if (vbp->line && !vbp_session_pause(vbp))
		vbp_session_end(vbp);
	if (vbp->memory)
		vbl_memory_forget(vbp->memory);
}

/* A foreign service begins anew if a process had its rings; the process sees that. */
static int vbp_restart(struct vbp *vbp)
{
	int ret;

	if (vbp->ours)
		return vbp_session_again(vbp);
	ret = vbp_line_begin(vbp);
	return ret ? ret : vbp_line_open(vbp, vbp->ring_size, NULL);
}

/* On failure the portal is gone, so that nobody waits for it; binding anew helps. */
static int vbp_again(struct vbp *vbp)
{
	u32 i;
	int ret;

	ret = vbp->was_open ? vbp_restart(vbp) : 0;
	if (ret) {
		vbp_revoke(vbp);
		vbp_session_end(vbp);
		return ret;
	}
	if (vbp->line && vbp->given.features & PORTAL_VMBUS_PACKETS) {
		for (i = 0; i < vbp->given.channels; i++)
			portal_set_rings(vbp->portal, i, vbl_rings(vbp->line, i));
	}
	portal_resume(vbp->portal);
	return 0;
}

/*
 * The bus waits, without an end, for the subchannels to be taken away when the primary
 * one is closed, before it ends its connection: rather not begin.
 */
static bool vbp_subchannels_gone(struct hv_device *dev)
{
	unsigned long deadline = jiffies + vbp_patience();
	struct list_head *list = &dev->channel->sc_list;

	while (READ_ONCE(list->next) != list) {
		if (time_after(jiffies, deadline))
			return false;
		msleep(20);
	}
	return true;
}

/* Nothing that a session of the device, or of another, has left is in the way. */
static int vbp_may_freeze(struct hv_device *dev)
{
	int ret = vbl_may_hibernate();

	if (!ret && !vbp_subchannels_gone(dev)) {
		dev_err(&dev->device, "the host does not take the subchannels away: no hibernation\n");
		ret = -EBUSY;
	}
	return ret;
}

/* Nobody who waits for the host keeps us. */
static void vbp_pause(struct vbp *vbp)
{
	WRITE_ONCE(vbp->ending, true);
	portal_pause(vbp->portal);
	WRITE_ONCE(vbp->ending, false);
}

/*
 * Hibernation. User space is frozen. The region's pages stay, channels and their rings
 * go. With an error there is no hibernation: an answer that is owed never comes to who
 * has hibernated.
 */
static int vbp_freeze(struct vbp *vbp)
{
	if (vbp->gone)
		return vbp_may_freeze(vbp->dev);
	vbp_pause(vbp);
	vbp->was_open = vbp->line;
	if ((vbp->line && !vbp_session_pause(vbp)) || vbl_owed(vbp->dev)) {
		dev_err(&vbp->dev->device, "the host owes an answer: no hibernation, and the portal is gone\n");
		vbp_revoke(vbp);
		vbp_session_end(vbp);
		return -EBUSY;
	}
	if (vbp->exposed && vbl_restoring())
		dev_err(&vbp->dev->device, "the host has not let go of memory that an image is to be read into\n");
	else if (!vbp_may_freeze(vbp->dev))
		return 0;
	vbp_again(vbp);
	return -EBUSY;
}

/*
 * The bus has ended all GPADLs. (Or, if somebody else did not want to hibernate, it has
 * not: then those that a host had not let go of are left with it; see hibernate.c.)
 */
static int vbp_thaw(struct vbp *vbp)
{
	if (vbp->gone)
		return 0;
	if (vbp->memory)
		vbl_memory_forget(vbp->memory);
	return vbp_again(vbp);
}

/*
 * The device may have been removed meanwhile, or the removal has to wait. What it left is
 * asked for here, too: the lines' own device (hibernate.c) may have been asked before.
 */
static int vbp_suspend(struct hv_device *dev)
{
	struct vbp *vbp;
	int ret;

	device_lock(&dev->device);
	vbp = hv_get_drvdata(dev);
	ret = vbp ? vbp_freeze(vbp) : vbp_may_freeze(dev);
	device_unlock(&dev->device);
	return ret;
}

static int vbp_resume(struct hv_device *dev)
{
	struct vbp *vbp;
	int ret;

	device_lock(&dev->device);
	vbp = hv_get_drvdata(dev);
	ret = vbp ? vbp_thaw(vbp) : 0;
	device_unlock(&dev->device);
	return ret;
}

/*
 * Suspend to idle. Host and bus go on and notice nothing, so the session stays; but who
 * is in it is told that this machine sleeps. The device's lock is held.
 */
static int vbp_idle(struct device *device)
{
	struct vbp *vbp = hv_get_drvdata(device_to_hv_device(device));

	if (!vbp->gone)
		vbp_pause(vbp);
	return 0;
}

static int vbp_wake(struct device *device)
{
	struct vbp *vbp = hv_get_drvdata(device_to_hv_device(device));

	if (!vbp->gone)
		portal_resume(vbp->portal);
	return 0;
}

/* Asked where the bus has nothing of its own, which it has for hibernation alone. */
static const struct dev_pm_ops vbp_pm_ops = {
	.suspend = vbp_idle,
	.resume = vbp_wake,
};

static struct hv_driver vbp_driver = {
	.name = VBP_NAME,
	.id_table = vbp_ids,
	.probe = vbp_probe,
	.remove = vbp_remove,
	.shutdown = vbp_shutdown,
	.suspend = vbp_suspend,
	.resume = vbp_resume,
	.driver = {
		/* A host that is silent holds up no other device of the bus. */
		.probe_type = PROBE_PREFER_ASYNCHRONOUS,
		.groups = vbp_driver_groups,
		.pm = &vbp_pm_ops,
	},
};

static int __init vbp_init(void)
{
	int ret;

	ret = vbp_config_init();
	if (ret)
		return ret;
	return vmbus_driver_register(&vbp_driver);
}
module_init(vbp_init);

static void __exit vbp_exit(void)
{
	vmbus_driver_unregister(&vbp_driver);
	vbp_config_exit();
}
module_exit(vbp_exit);

MODULE_DESCRIPTION("Portals over VMBus: Hyper-V's packet rings, and memory shared with its host");
MODULE_LICENSE("GPL");
MODULE_VERSION(PORTAL_VERSION);
