/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Differences of the virtio bus, for the transports on it; beside compat.h, so
 * that no other file sees a bus header.
 */
#ifndef _PORTAL_COMPAT_VIRTIO_H
#define _PORTAL_COMPAT_VIRTIO_H

#include <linux/virtio.h>
#include <linux/virtio_config.h>

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
