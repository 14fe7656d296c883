/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Differences of the virtio bus, for the transports on it; beside compat.h, so
 * that no other file sees a bus header.
 */
#ifndef _PORTAL_COMPAT_VIRTIO_H
#define _PORTAL_COMPAT_VIRTIO_H

#include <linux/version.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>

/*
 * The one answer whose wrong "no" would compile, and then lack what newer kernels do
 * about late interrupts. No kernel since has lost the function.
 */
#if !defined(PORTAL_HAVE_VIRTIO_RESET_DEVICE) && LINUX_VERSION_CODE >= KERNEL_VERSION(5, 18, 0)
#error "virtio_reset_device() was not found: probe.sh could not compile linux/virtio_config.h"
#endif

/* A function of its own since 5.18. */
static inline void portal_virtio_reset(struct virtio_device *vdev)
{
#ifdef PORTAL_HAVE_VIRTIO_RESET_DEVICE
	virtio_reset_device(vdev);
#else
	vdev->config->reset(vdev);
#endif
}

/* The members are there with CONFIG_PM only, until 6.12. */
#ifdef CONFIG_PM
#define PORTAL_COMPAT_VIRTIO_PM(_freeze, _restore)	.freeze = (_freeze), .restore = (_restore),
#else
#define PORTAL_COMPAT_VIRTIO_PM(_freeze, _restore)
#endif

/* The bus tells of resets (sysfs, errors) since 6.16; before, nobody does. */
#ifdef PORTAL_HAVE_VIRTIO_RESET_PREPARE
#define PORTAL_COMPAT_VIRTIO_RESET(_prepare, _done)	\
	.reset_prepare = (_prepare), .reset_done = (_done),
#else
#define PORTAL_COMPAT_VIRTIO_RESET(_prepare, _done)
#endif

#endif /* _PORTAL_COMPAT_VIRTIO_H */
