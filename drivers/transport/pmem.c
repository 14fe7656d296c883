// SPDX-License-Identifier: GPL-2.0-only
/*
 * portal_pmem.ko: portals over virtio-pmem.
 *
 * The device (virtio 1.2, section 5.19) is a piece of guest physical memory that
 * is a file of the host, and one queue for flush requests, each of which makes
 * the host write that file to its disk. Where the memory lies is said by shared
 * memory region 0 if the device offers that feature, else by its config space.
 * There are no doorbells and no peers. The driver never reads or writes the
 * memory.
 *
 * A virtio-pmem device is somebody's disk, until the administrator says otherwise.
 * So there is no module alias, and the driver matches no device: its id table is
 * empty. Nothing is taken when this module is loaded before virtio_pmem, nor when a
 * device appears. What takes one is
 *
 *	echo virtio1 > /sys/bus/virtio/drivers/virtio_pmem/unbind
 *	echo virtio1 > /sys/bus/virtio/drivers/portal_pmem/allow
 *	echo virtio1 > /sys/bus/virtio/drivers/portal_pmem/bind
 *
 * or "portalctl bind", which first makes sure that nobody uses the disk. An allowance
 * is for one device, once: it ends when the device is probed or goes away. While
 * there is one the table matches virtio-pmem, for bind must find a match, and the
 * probe refuses every other device. The virtio bus then leaves FAILED in the device's
 * status, and the next driver would find a device that others have given up; so when we
 * do not take a device after all it is reset.
 *
 * Flushes
 *
 * A flush covers what was stored before it was handed to the device. So whoever comes
 * while one is under way waits for the next one, together with all others who came
 * since: at most one request is on the queue, and n callers cost at most n requests
 * and at least one. A request is memory of its own, counted: one for the queue, until the
 * device has returned it or was reset, and one for each caller that waits, who may be
 * killed meanwhile.
 *
 * A flush that fails may have lost what anybody stored before, and the host tells nobody
 * twice: the next flush may well succeed. So the core is told of each failure, and tells
 * every open file once.
 *
 * A device may stop without a word: somebody resets it behind our back (sysfs, before
 * virtio_pci learned to tell), or it breaks its queue. So whoever waits looks at it now
 * and then.
 *
 * A reset should make the device forget its requests. QEMU (10.0) does not: it answers
 * them when its disk is done, writes into their memory, and puts them on the queue of
 * whichever driver came next, which breaks it; where there is none, its interrupt line is
 * nobody's. So before a reset the request under way gets some seconds to come back, when
 * its callers have their answer already and the portal is gone; and if it does not come
 * back its memory is never used again.
 */
#include <linux/completion.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/ioport.h>
#include <linux/kmemleak.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/refcount.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include <uapi/linux/virtio_pmem.h>

#include <linux/portal.h>

#include "../compat/virtio.h"
#include "../portal.h"

#define PMP_NAME		"portal_pmem"

/* How long a reset waits for a request to come back, see above. */
#define PMP_GRACE		(10 * HZ)

/* How often whoever waits for a flush looks whether the device still works. */
#define PMP_LOOK		(2 * HZ)

/* Feature bit, and the id of the shared memory region; in linux/virtio_pmem.h since 6.9. */
#define PMP_F_SHMEM_REGION	0
#define PMP_SHMEM_REGION_ID	0

/**
 * struct pmp_flush - one flush request
 * @refs: the queue's and each waiting caller's
 * @done: @result is there
 * @result: 0 or -errno
 * @req: read by the device
 * @resp: written by the device; anything but 0 is a failure. In a cache line of its own:
 *	where DMA is not coherent a store beside it would undo the device's
 */
struct pmp_flush {
	refcount_t refs;
	struct completion done;
	int result;
	struct virtio_pmem_req req;
	struct virtio_pmem_resp resp ____cacheline_aligned;
};

/**
 * struct pmp - one device
 * @vdev: it
 * @portal: its portal
 * @memory: where the memory is
 * @vq: flush requests; NULL while suspended
 * @broken_work: looks at the device after it has said that something changed
 * @returned: a request came back
 * @lock: the rest, and adding to @vq; taken in interrupts
 * @stopped: what flushes return without asking the device: 0, -EIO or -ENODEV
 * @flying: the request on the queue, or NULL
 * @next: the request to follow, for callers that came too late for @flying; or NULL
 */
struct pmp {
	struct virtio_device *vdev;
	struct portal *portal;
	struct portal_extent memory;
	struct virtqueue *vq;
	struct work_struct broken_work;
	wait_queue_head_t returned;
	spinlock_t lock;	/* see above */
	int stopped;
	struct pmp_flush *flying;
	struct pmp_flush *next;
};

static void pmp_flush_put(struct pmp_flush *f)
{
	if (f && refcount_dec_and_test(&f->refs))
		kfree(f);
}

/* Under the lock. The first answer counts: after a stop the device's may still come. */
static void pmp_flush_complete(struct pmp *pmp, struct pmp_flush *f, int result)
{
	if (completion_done(&f->done))
		return;
	if (result == -EIO)
		portal_flush_failed(pmp->portal);
	f->result = result;
	complete_all(&f->done);
}

static struct pmp_flush *pmp_flush_new(void)
{
	struct pmp_flush *f = kzalloc(sizeof(*f), GFP_KERNEL);

	if (!f)
		return NULL;
	refcount_set(&f->refs, 1);
	init_completion(&f->done);
	f->req.type = cpu_to_le32(VIRTIO_PMEM_REQ_TYPE_FLUSH);
	/* A device that says nothing has flushed nothing. */
	f->resp.ret = cpu_to_le32(~0U);
	return f;
}

/* Hands @next to the device, under the lock. True: notify the device, outside it. */
static bool pmp_submit(struct pmp *pmp)
{
	struct pmp_flush *f = pmp->next;
	struct scatterlist out, in, *sgs[] = { &out, &in };

	pmp->next = NULL;
	sg_init_one(&out, &f->req, sizeof(f->req));
	sg_init_one(&in, &f->resp, sizeof(f->resp));
	/* Room there is: nothing else is on the queue. A broken queue, or no bounce buffer. */
	if (virtqueue_add_sgs(pmp->vq, sgs, 1, 1, f, GFP_ATOMIC)) {
		pmp_flush_complete(pmp, f, -EIO);
		pmp_flush_put(f);
		return false;
	}
	pmp->flying = f;
	return virtqueue_kick_prepare(pmp->vq);
}

/*
 * From now on flushes return @error, and so do those that wait. What is on the
 * queue stays the device's until pmp_close_queue(). Returns whether they worked until
 * now; that it is gone is the last word.
 */
static bool pmp_stop(struct pmp *pmp, int error)
{
	unsigned long flags;
	bool worked;

	spin_lock_irqsave(&pmp->lock, flags);
	worked = !pmp->stopped;
	if (pmp->stopped != -ENODEV)
		pmp->stopped = error;
	if (pmp->flying)
		pmp_flush_complete(pmp, pmp->flying, error);
	if (pmp->next) {
		pmp_flush_complete(pmp, pmp->next, error);
		pmp_flush_put(pmp->next);
		pmp->next = NULL;
	}
	spin_unlock_irqrestore(&pmp->lock, flags);
	return worked;
}

/* Any context. */
static void pmp_give_up(struct pmp *pmp, const char *why)
{
	if (pmp_stop(pmp, -EIO))
		dev_err(&pmp->vdev->dev, "the device has given up (%s): the memory stays, but flushes fail; unbind and bind it\n",
			why);
}

/* A device that is no more has all ones in its status. Asking may sleep on some buses. */
static void pmp_look(struct pmp *pmp)
{
	u8 status = pmp->vdev->config->get_status(pmp->vdev);

	if (status & VIRTIO_CONFIG_S_NEEDS_RESET)
		pmp_give_up(pmp, "it needs a reset");
	else if (!(status & VIRTIO_CONFIG_S_DRIVER_OK))
		pmp_give_up(pmp, "somebody has reset it");
}

/* Tell the device, if it is there still. The queue is not deleted while callers are about. */
static void pmp_notify(struct pmp *pmp)
{
	if (!virtqueue_notify(pmp->vq))
		pmp_give_up(pmp, "it cannot be told of a flush");
}

/* The queue's interrupt. After pmp_stop() the callers have their answer already. */
static void pmp_flush_done(struct virtqueue *vq)
{
	struct pmp *pmp = vq->vdev->priv;
	struct pmp_flush *f;
	unsigned long flags;
	bool notify = false;
	unsigned int len;

	spin_lock_irqsave(&pmp->lock, flags);
	while ((f = virtqueue_get_buf(vq, &len))) {
		pmp->flying = NULL;
		pmp_flush_complete(pmp, f, le32_to_cpu(f->resp.ret) ? -EIO : 0);
		pmp_flush_put(f);
	}
	if (!pmp->flying && pmp->next)
		notify = pmp_submit(pmp);
	wake_up(&pmp->returned);
	spin_unlock_irqrestore(&pmp->lock, flags);

	if (notify)
		pmp_notify(pmp);
	/* Nothing will come back from this queue any more. */
	if (virtqueue_is_broken(vq))
		pmp_give_up(pmp, "it returned what it was not given");
}

/* Which request covers the caller; *spare is used for it if there is none yet. */
static struct pmp_flush *pmp_join(struct pmp *pmp, struct pmp_flush **spare)
{
	struct pmp_flush *f;
	bool notify = false;

	spin_lock_irq(&pmp->lock);
	if (pmp->stopped) {
		f = ERR_PTR(pmp->stopped);
	} else {
		if (!pmp->next)
			swap(pmp->next, *spare);
		f = pmp->next;
		refcount_inc(&f->refs);
		if (!pmp->flying)
			notify = pmp_submit(pmp);
	}
	spin_unlock_irq(&pmp->lock);

	if (notify)
		pmp_notify(pmp);
	return f;
}

/* Killable only: fsync() is not restarted by those who call it. */
static int pmp_flush_wait(struct pmp *pmp, struct pmp_flush *f)
{
	long left;

	while (!(left = wait_for_completion_killable_timeout(&f->done, PMP_LOOK)))
		pmp_look(pmp);
	return left < 0 ? left : f->result;
}

static int pmp_flush(void *priv)
{
	struct pmp_flush *spare, *f;
	struct pmp *pmp = priv;
	int ret;

	spare = pmp_flush_new();
	if (!spare)
		return -ENOMEM;
	/*
	 * The caller's stores before the request, whoever hands it over: to the host, so
	 * not smp_mb(). What follows is ordered by the lock and the queue's own barriers.
	 */
	virt_mb();
	f = pmp_join(pmp, &spare);
	pmp_flush_put(spare);
	if (IS_ERR(f))
		return PTR_ERR(f);

	ret = pmp_flush_wait(pmp, f);
	pmp_flush_put(f);
	return ret;
}

static const struct portal_ops pmp_ops = {
	.flush = pmp_flush,
};

/* The device may have given up: an interrupt says no more than this. */
static void pmp_config_changed(struct virtio_device *vdev)
{
	struct pmp *pmp = vdev->priv;

	schedule_work(&pmp->broken_work);
}

static void pmp_broken(struct work_struct *work)
{
	pmp_look(container_of(work, struct pmp, broken_work));
}

static int pmp_find_memory(struct virtio_device *vdev, struct portal_extent *memory)
{
	u64 start, len;

	if (virtio_has_feature(vdev, PMP_F_SHMEM_REGION)) {
		struct virtio_shm_region region;

		if (!virtio_get_shm_region(vdev, &region, PMP_SHMEM_REGION_ID)) {
			dev_err(&vdev->dev, "shared memory region %u, the memory, is not there\n",
				PMP_SHMEM_REGION_ID);
			return -ENXIO;
		}
		start = region.addr;
		len = region.len;
	} else {
		if (!vdev->config->get) {
			dev_err(&vdev->dev, "the device says nowhere where its memory is\n");
			return -EINVAL;
		}
		virtio_cread_le(vdev, struct virtio_pmem_config, start, &start);
		virtio_cread_le(vdev, struct virtio_pmem_config, size, &len);
	}

	if (len < PAGE_SIZE || !PAGE_ALIGNED(start) || start + len - 1 < start ||
	    !portal_compat_phys_valid(start + len - 1)) {
		dev_err(&vdev->dev, "memory at %#llx, %#llx bytes, cannot be mapped: give the host's file a size that is a multiple of 2 MiB\n",
			start, len);
		return -EINVAL;
	}
	memory->start = start;
	memory->len = len & PAGE_MASK;
	return 0;
}

/* Requests may be made when this returns. */
static int pmp_open_queue(struct pmp *pmp)
{
	struct virtio_device *vdev = pmp->vdev;
	struct virtqueue *vq = virtio_find_single_vq(vdev, pmp_flush_done, "flush");

	if (IS_ERR(vq))
		return PTR_ERR(vq);
	/* A request is two descriptors; the virtio core warns of what never fits. */
	if (virtqueue_get_vring_size(vq) < 2) {
		dev_err(&vdev->dev, "a queue of %u cannot hold a flush\n",
			virtqueue_get_vring_size(vq));
		vdev->config->del_vqs(vdev);
		return -EINVAL;
	}
	pmp->vq = vq;
	virtio_device_ready(vdev);
	pmp->stopped = 0;
	return 0;
}

static bool pmp_has_returned(struct pmp *pmp)
{
	return !READ_ONCE(pmp->flying) || virtqueue_is_broken(pmp->vq);
}

/*
 * Nobody is in pmp_flush() any more, and pmp_stop() was called. No interrupt runs
 * after the reset.
 */
static void pmp_close_queue(struct pmp *pmp)
{
	struct virtio_device *vdev = pmp->vdev;

	if (pmp->vq)
		wait_event_timeout(pmp->returned, pmp_has_returned(pmp), PMP_GRACE);
	portal_virtio_reset(vdev);
	cancel_work_sync(&pmp->broken_work);
	if (pmp->flying) {
		dev_warn(&vdev->dev, "a flush did not come back; its memory is given up\n");
		kmemleak_not_leak(pmp->flying);
		pmp->flying = NULL;
	}
	if (pmp->vq)
		vdev->config->del_vqs(vdev);
	pmp->vq = NULL;
}

static struct portal *pmp_alloc_portal(struct pmp *pmp)
{
	char identity[PORTAL_IDENTITY_LEN];
	const struct portal_desc desc = {
		.ops = &pmp_ops,
		.parent = &pmp->vdev->dev,
		.transport = "pmem",
		.identity = identity,
		.extents = &pmp->memory,
		.nr_extents = 1,
	};

	/* virtioN counts devices as they come; what they sit on has a place. */
	snprintf(identity, sizeof(identity), "virtio-%s", dev_name(pmp->vdev->dev.parent));
	return portal_alloc(&desc, pmp);
}

static int pmp_start(struct pmp *pmp)
{
	int ret;

	pmp->portal = pmp_alloc_portal(pmp);
	if (IS_ERR(pmp->portal))
		return PTR_ERR(pmp->portal);
	ret = pmp_open_queue(pmp);
	if (ret)
		goto err_portal;
	ret = portal_add(pmp->portal);
	if (ret)
		goto err_queue;

	dev_info(&pmp->vdev->dev, "portal%d: %llu bytes at %pa\n", portal_number(pmp->portal),
		 pmp->memory.len, &pmp->memory.start);
	return 0;

err_queue:
	pmp_stop(pmp, -ENODEV);
	pmp_close_queue(pmp);
err_portal:
	portal_put(pmp->portal);
	return ret;
}

static int pmp_take(struct virtio_device *vdev)
{
	struct pmp *pmp;
	int ret;

	pmp = kzalloc(sizeof(*pmp), GFP_KERNEL);
	if (!pmp)
		return -ENOMEM;
	pmp->vdev = vdev;
	vdev->priv = pmp;
	spin_lock_init(&pmp->lock);
	init_waitqueue_head(&pmp->returned);
	INIT_WORK(&pmp->broken_work, pmp_broken);

	ret = pmp_find_memory(vdev, &pmp->memory);
	if (ret)
		goto err_free;
	if (!request_mem_region(pmp->memory.start, pmp->memory.len, PMP_NAME)) {
		dev_err(&vdev->dev, "memory at %pa belongs to another driver: /proc/iomem says which\n",
			&pmp->memory.start);
		ret = -EBUSY;
		goto err_free;
	}
	ret = pmp_start(pmp);
	if (ret)
		goto err_release;
	return 0;

err_release:
	release_mem_region(pmp->memory.start, pmp->memory.len);
err_free:
	vdev->priv = NULL;
	kfree(pmp);
	return ret;
}

/*
 * Callers that wait for the device get their answer first, so that
 * portal_remove() waits for nobody's disk.
 */
static void pmp_remove(struct virtio_device *vdev)
{
	struct pmp *pmp = vdev->priv;

	pmp_stop(pmp, -ENODEV);
	portal_remove(pmp->portal);
	pmp_close_queue(pmp);
	portal_put(pmp->portal);
	release_mem_region(pmp->memory.start, pmp->memory.len);
	kfree(pmp);
}

/* Before suspend, and before a reset that the bus tells of. */
static int __maybe_unused pmp_freeze(struct virtio_device *vdev)
{
	struct pmp *pmp = vdev->priv;

	pmp_stop(pmp, -EIO);
	portal_pause(pmp->portal);
	pmp_close_queue(pmp);
	return 0;
}

/*
 * After hibernation this may be another machine's idea of the device. If it cannot
 * be had again the portal is dead, for else whoever waits would wait for ever.
 */
static int __maybe_unused pmp_restore(struct virtio_device *vdev)
{
	struct pmp *pmp = vdev->priv;
	struct portal_extent memory;
	int ret;

	ret = pmp_find_memory(vdev, &memory);
	if (!ret && (memory.start != pmp->memory.start || memory.len != pmp->memory.len)) {
		dev_err(&vdev->dev, "the memory came back elsewhere or in another size\n");
		ret = -ENXIO;
	}
	if (!ret)
		ret = pmp_open_queue(pmp);
	if (ret) {
		pmp_stop(pmp, -ENODEV);
		portal_remove(pmp->portal);
		return ret;
	}
	portal_resume(pmp->portal);
	return 0;
}

/* Who may be bound: the name of one device, or "", which keeps the id table empty. */
static DEFINE_MUTEX(pmp_allow_lock);
static char pmp_allowed[32];

/* A device id of 0 ends the table. */
static struct virtio_device_id pmp_ids[] = {
	{ 0, VIRTIO_DEV_ANY_ID },
	{ 0 },
};

/* Under pmp_allow_lock. */
static void pmp_allow(const char *name)
{
	strscpy(pmp_allowed, name, sizeof(pmp_allowed));
	WRITE_ONCE(pmp_ids[0].device, name[0] ? VIRTIO_ID_PMEM : 0);
}

/* Whether @name was allowed, which it is no more. */
static bool pmp_disallow(const char *name)
{
	bool was;

	mutex_lock(&pmp_allow_lock);
	was = !strcmp(pmp_allowed, name);
	if (was)
		pmp_allow("");
	mutex_unlock(&pmp_allow_lock);
	return was;
}

/*
 * One request at a time needs no descriptors elsewhere: nothing to allocate in
 * interrupts, and nothing that a device which is given up could still be reading.
 */
static int pmp_validate(struct virtio_device *vdev)
{
	__virtio_clear_bit(vdev, VIRTIO_RING_F_INDIRECT_DESC);
	return 0;
}

static int pmp_probe(struct virtio_device *vdev)
{
	if (!pmp_disallow(dev_name(&vdev->dev)))
		return -ENODEV;
	return pmp_take(vdev);
}

static ssize_t allow_show(struct device_driver *drv, char *buf)
{
	ssize_t len;

	mutex_lock(&pmp_allow_lock);
	len = sysfs_emit(buf, "%s\n", pmp_allowed);
	mutex_unlock(&pmp_allow_lock);
	return len;
}

/* 0 if @name is a virtio-pmem device that is there. */
static int pmp_check_name(struct device_driver *drv, const char *name)
{
	struct device *dev = bus_find_device_by_name(drv->bus, NULL, name);
	int ret;

	if (!dev)
		return -ENODEV;
	ret = dev_to_virtio(dev)->id.device == VIRTIO_ID_PMEM ? 0 : -EINVAL;
	put_device(dev);
	return ret;
}

/*
 * The name of a device, or nothing. First allowed, then looked for: should the device
 * go meanwhile, either it is not found any more or its going ends the allowance.
 */
static ssize_t allow_store(struct device_driver *drv, const char *buf, size_t count)
{
	char text[sizeof(pmp_allowed)], *name;
	int ret;

	if (strscpy(text, buf, sizeof(text)) < 0)
		return -EINVAL;
	name = strim(text);

	mutex_lock(&pmp_allow_lock);
	pmp_allow(name);
	mutex_unlock(&pmp_allow_lock);
	if (!name[0])
		return count;

	ret = pmp_check_name(drv, name);
	if (ret)
		pmp_disallow(name);
	return ret ? ret : count;
}
static DRIVER_ATTR_RW(allow);

static struct attribute *pmp_driver_attrs[] = {
	&driver_attr_allow.attr,
	NULL
};
ATTRIBUTE_GROUPS(pmp_driver);

/* As the bus leaves a device that it has found. */
static void pmp_undo_failure(struct virtio_device *vdev)
{
	portal_virtio_reset(vdev);
	virtio_add_status(vdev, VIRTIO_CONFIG_S_ACKNOWLEDGE);
}

static struct virtio_driver pmp_driver;

/*
 * A device that went may give its name to another. One that we did not take after all
 * is to be as new for the next driver; the bus stores FAILED after our probe, and
 * tells of the end of it here, with the device still locked.
 */
static int pmp_bus_event(struct notifier_block *nb, unsigned long event, void *data)
{
	struct device *dev = data;

	if (event == BUS_NOTIFY_REMOVED_DEVICE)
		pmp_disallow(dev_name(dev));
	else if (event == BUS_NOTIFY_DRIVER_NOT_BOUND && dev->driver == &pmp_driver.driver)
		pmp_undo_failure(dev_to_virtio(dev));
	return NOTIFY_DONE;
}

static struct notifier_block pmp_bus_notifier = {
	.notifier_call = pmp_bus_event,
};

static const unsigned int pmp_features[] = {
	PMP_F_SHMEM_REGION,
};

static struct virtio_driver pmp_driver = {
	.driver.name = PMP_NAME,
	.driver.groups = pmp_driver_groups,
	.driver.owner = THIS_MODULE,
	.id_table = pmp_ids,
	.feature_table = pmp_features,
	.feature_table_size = ARRAY_SIZE(pmp_features),
	.validate = pmp_validate,
	.probe = pmp_probe,
	.remove = pmp_remove,
	.config_changed = pmp_config_changed,
	PORTAL_COMPAT_VIRTIO_PM(pmp_freeze, pmp_restore)
	PORTAL_COMPAT_VIRTIO_RESET(pmp_freeze, pmp_restore)
};

static int __init pmp_init(void)
{
	int ret;

	ret = register_virtio_driver(&pmp_driver);
	if (ret)
		return ret;
	ret = bus_register_notifier(pmp_driver.driver.bus, &pmp_bus_notifier);
	if (ret)
		unregister_virtio_driver(&pmp_driver);
	return ret;
}
module_init(pmp_init);

static void __exit pmp_exit(void)
{
	bus_unregister_notifier(pmp_driver.driver.bus, &pmp_bus_notifier);
	unregister_virtio_driver(&pmp_driver);
}
module_exit(pmp_exit);

/* No MODULE_DEVICE_TABLE: see the top. */
MODULE_DESCRIPTION("Portals over virtio-pmem");
MODULE_LICENSE("GPL");
MODULE_VERSION(PORTAL_VERSION);
