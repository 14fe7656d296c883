/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Differences of VMBus between kernels, for the transport on it; beside compat.h, so
 * that no other file sees a bus header.
 */
#ifndef _PORTAL_COMPAT_VMBUS_H
#define _PORTAL_COMPAT_VMBUS_H

#include <linux/hyperv.h>
#include <linux/set_memory.h>
#include <linux/slab.h>
#include <linux/string.h>

/* A GPADL is a structure since 5.16; before, a handle, and no guest is confidential. */
#ifdef PORTAL_HAVE_VMBUS_GPADL

#include <asm/mshyperv.h>

static inline int portal_vmbus_establish(struct vmbus_channel *channel, void *memory, u32 size,
					 struct vmbus_gpadl *gpadl)
{
	return vmbus_establish_gpadl(channel, memory, size, gpadl);
}

/*
 * A message that could not be posted is no error to newer kernels, which return that of
 * the encryption; but they forget the handle only when the host has answered.
 */
static inline int portal_vmbus_teardown(struct vmbus_channel *channel, struct vmbus_gpadl *gpadl)
{
	int ret = vmbus_teardown_gpadl(channel, gpadl);

	if (!ret && gpadl->gpadl_handle && !READ_ONCE(channel->rescind))
		ret = -EIO;
	return ret;
}

/* The GPADL of a channel's rings, of which the bus then knows nothing. */
static inline void portal_vmbus_ring_take(struct vmbus_channel *channel,
					  struct vmbus_gpadl *gpadl)
{
	*gpadl = channel->ringbuffer_gpadlhandle;
	channel->ringbuffer_gpadlhandle.gpadl_handle = 0;
}

static inline bool portal_vmbus_confidential(void)
{
	return hv_is_isolation_supported();
}

#else /* !PORTAL_HAVE_VMBUS_GPADL */

struct vmbus_gpadl {
	u32 gpadl_handle;
};

static inline int portal_vmbus_establish(struct vmbus_channel *channel, void *memory, u32 size,
					 struct vmbus_gpadl *gpadl)
{
	return vmbus_establish_gpadl(channel, memory, size, &gpadl->gpadl_handle);
}

static inline int portal_vmbus_teardown(struct vmbus_channel *channel, struct vmbus_gpadl *gpadl)
{
	return vmbus_teardown_gpadl(channel, gpadl->gpadl_handle);
}

static inline void portal_vmbus_ring_take(struct vmbus_channel *channel,
					  struct vmbus_gpadl *gpadl)
{
	gpadl->gpadl_handle = channel->ringbuffer_gpadlhandle;
	channel->ringbuffer_gpadlhandle = 0;
}

static inline bool portal_vmbus_confidential(void)
{
	return false;
}

#endif /* PORTAL_HAVE_VMBUS_GPADL */

/* For who ends a GPADL without the bus, which does it else; 0 where there is nothing to do. */
static inline int portal_vmbus_encrypt(void *memory, u64 size)
{
	return set_memory_encrypted((unsigned long)memory, size >> PAGE_SHIFT);
}

/*
 * Whether memory is decrypted now, or may be: then it is mapped so, and not given back
 * to the kernel. Since 6.8, and in stable trees, the structure says so. Before, an
 * error at teardown is all that tells, and outside confidential guests it is all one.
 */
#ifdef PORTAL_HAVE_VMBUS_GPADL_DECRYPTED
#define portal_vmbus_decrypted(_gpadl, _otherwise)	((_gpadl)->decrypted)
#else
#define portal_vmbus_decrypted(_gpadl, _otherwise)	(_otherwise)
#endif

/*
 * The name of the only driver that may have the device, or NULL: any. What was there is
 * given as a copy. The device's lock is held.
 */
#ifdef PORTAL_HAVE_DEVICE_OVERRIDE
static inline char *portal_vmbus_overridden(struct hv_device *dev)
{
	char *name;

	spin_lock(&dev->device.driver_override.lock);
	name = kstrdup(dev->device.driver_override.name, GFP_ATOMIC);
	spin_unlock(&dev->device.driver_override.lock);
	return name;
}

static inline void portal_vmbus_override(struct hv_device *dev, const char *name)
{
	if (device_set_driver_override(&dev->device, name ? name : ""))
		dev_warn(&dev->device, "no memory for the name of a driver\n");
}
#else
static inline char *portal_vmbus_overridden(struct hv_device *dev)
{
	return kstrdup(dev->driver_override, GFP_KERNEL);
}

static inline void portal_vmbus_override(struct hv_device *dev, const char *name)
{
	const char *old = dev->driver_override;

	/* The bus looks at it without the lock, too: what is freed is not there any more. */
	WRITE_ONCE(dev->driver_override, kstrdup(name, GFP_KERNEL));
	kfree(old);
}
#endif

/* Void since 6.3. */
#ifdef PORTAL_HAVE_VMBUS_REMOVE_VOID
#define PORTAL_COMPAT_VMBUS_REMOVE(_name, _fn)		\
static void _name(struct hv_device *dev)		\
{							\
	_fn(dev);					\
}
#else
#define PORTAL_COMPAT_VMBUS_REMOVE(_name, _fn)		\
static int _name(struct hv_device *dev)			\
{							\
	_fn(dev);					\
	return 0;					\
}
#endif

#endif /* _PORTAL_COMPAT_VMBUS_H */
