// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test module: a virtio-pmem device that says and does what no real one would, or what
 * QEMU's does not. It has no memory: where it says that memory is nobody may look.
 *
 * Parameters at load: what the device says of itself. Afterwards in
 * /sys/module/fakepmem/parameters/:
 *
 * answer	what comes of a flush: "now" succeeds, "fail" fails, "slow" succeeds
 *		later, "hold" is not answered, "twice" is returned twice, "garbage"
 *		returns a request that there never was
 * order	written: "answer" answers what is held, wherever its memory is now;
 *		"give-up" needs a reset, and says so; "forget" was reset by somebody;
 *		"freeze" and "restore" as on suspend; "move" lies elsewhere from now on
 * flushes	how many were asked for
 */
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <linux/workqueue.h>

#include <uapi/linux/virtio_pmem.h>

#define SHMEM_FEATURE	0	/* VIRTIO_PMEM_F_SHMEM_REGION */
#define SLOW		(10 * HZ)	/* by when what is to be seen meanwhile is over */

static unsigned long long start = 0x200000000, size = 0x1000000;
module_param(start, ullong, 0444);
module_param(size, ullong, 0444);
static unsigned long long shm_start, shm_size;
module_param(shm_start, ullong, 0444);
module_param(shm_size, ullong, 0444);
static bool shm, no_config, no_queue;
module_param(shm, bool, 0444);
MODULE_PARM_DESC(shm, "offers the feature that memory is shared memory region 0");
module_param(no_config, bool, 0444);
module_param(no_queue, bool, 0444);
static unsigned int queue = 16;
module_param(queue, uint, 0444);

static char answer[16] = "now";
module_param_string(answer, answer, sizeof(answer), 0644);
static unsigned int flushes;
module_param(flushes, uint, 0444);

static struct platform_device *parent;

/**
 * struct fake - the one device
 * @vdev: as its driver sees it
 * @status: virtio's
 * @vq: the driver's end
 * @pages: of the ring
 * @ring: the device's end
 * @seen: requests taken from @ring
 * @held: where the answer of the request that was not answered goes
 * @head: that request
 * @work: answers
 */
static struct fake {
	struct virtio_device vdev;
	u8 status;
	struct virtqueue *vq;
	void *pages;
	struct vring ring;
	u16 seen;
	struct virtio_pmem_resp *held;
	u16 head;
	struct delayed_work work;
} *fake;

/* Returns request @head to the driver. */
static void give(u16 head)
{
	struct vring *r = &fake->ring;
	u16 idx = le16_to_cpu((__force __le16)r->used->idx);
	vring_used_elem_t *e = &r->used->ring[idx % r->num];

	e->id = (__force __virtio32)cpu_to_le32(head);
	e->len = (__force __virtio32)cpu_to_le32(sizeof(struct virtio_pmem_resp));
	/* The element before the index that says it is there. */
	virt_wmb();
	r->used->idx = (__force __virtio16)cpu_to_le16(idx + 1);
}

static void give_and_interrupt(u16 head)
{
	unsigned long flags;

	give(head);
	local_irq_save(flags);
	vring_interrupt(0, fake->vq);
	local_irq_restore(flags);
}

static void serve(u16 head)
{
	struct vring_desc *d = &fake->ring.desc[head];
	u16 next = le16_to_cpu((__force __le16)d->next);
	u64 where = le64_to_cpu((__force __le64)fake->ring.desc[next].addr);
	struct virtio_pmem_resp *resp = phys_to_virt(where);

	flushes++;
	if (!strncmp(answer, "hold", 4)) {
		fake->held = resp;
		fake->head = head;
		return;
	}
	if (!strncmp(answer, "garbage", 7)) {
		give_and_interrupt(fake->ring.num + 7);
		return;
	}
	resp->ret = cpu_to_le32(!strncmp(answer, "fail", 4));
	if (!strncmp(answer, "twice", 5))
		give(head);
	give_and_interrupt(head);
}

static void fake_work(struct work_struct *work)
{
	struct vring *r = &fake->ring;

	while (fake->seen != le16_to_cpu((__force __le16)READ_ONCE(r->avail->idx))) {
		/* The index before what it counts. */
		virt_rmb();
		serve(le16_to_cpu((__force __le16)r->avail->ring[fake->seen++ % r->num]));
	}
}

static bool fake_notify(struct virtqueue *vq)
{
	/* A device that was reset hears nothing. */
	if (fake->status & VIRTIO_CONFIG_S_DRIVER_OK)
		schedule_delayed_work(&fake->work, strncmp(answer, "slow", 4) ? 0 : SLOW);
	return true;
}

static void fake_get(struct virtio_device *vdev, unsigned int offset, void *buf, unsigned int len)
{
	struct virtio_pmem_config config = {
		.start = cpu_to_le64(start),
		.size = cpu_to_le64(size),
	};

	if (offset + len <= sizeof(config))
		memcpy(buf, (u8 *)&config + offset, len);
}

static u8 fake_get_status(struct virtio_device *vdev)
{
	return fake->status;
}

static void fake_set_status(struct virtio_device *vdev, u8 status)
{
	fake->status = status;
}

/* As QEMU's: what is held is not forgotten. */
static void fake_reset(struct virtio_device *vdev)
{
	fake->status = 0;
	cancel_delayed_work_sync(&fake->work);
}

static void fake_del_vqs(struct virtio_device *vdev)
{
	if (!fake->vq)
		return;
	cancel_delayed_work_sync(&fake->work);
	vring_del_virtqueue(fake->vq);
	free_pages_exact(fake->pages, vring_size(fake->ring.num, PAGE_SIZE));
	fake->vq = NULL;
}

static int fake_find_vqs(struct virtio_device *vdev, unsigned int n, struct virtqueue *vqs[],
			 struct virtqueue_info info[], struct irq_affinity *desc)
{
	if (n != 1 || no_queue)
		return -ENOENT;
	fake->pages = alloc_pages_exact(vring_size(queue, PAGE_SIZE), GFP_KERNEL | __GFP_ZERO);
	if (!fake->pages)
		return -ENOMEM;
	fake->vq = vring_new_virtqueue(0, queue, PAGE_SIZE, vdev, true, false, fake->pages,
				       fake_notify, info[0].callback, info[0].name);
	if (!fake->vq) {
		free_pages_exact(fake->pages, vring_size(queue, PAGE_SIZE));
		return -ENOMEM;
	}
	vring_init(&fake->ring, queue, fake->pages, PAGE_SIZE);
	fake->seen = 0;
	vqs[0] = fake->vq;
	return 0;
}

static u64 fake_get_features(struct virtio_device *vdev)
{
	return BIT_ULL(VIRTIO_F_VERSION_1) | (shm ? BIT_ULL(SHMEM_FEATURE) : 0);
}

static int fake_finalize_features(struct virtio_device *vdev)
{
	vring_transport_features(vdev);
	return 0;
}

static const char *fake_bus_name(struct virtio_device *vdev)
{
	return "fakepmem";
}

static bool fake_get_shm(struct virtio_device *vdev, struct virtio_shm_region *region, u8 id)
{
	region->addr = shm_start;
	region->len = shm_size;
	return shm_size;
}

static struct virtio_config_ops fake_config = {
	.get = fake_get,
	.get_status = fake_get_status,
	.set_status = fake_set_status,
	.reset = fake_reset,
	.find_vqs = fake_find_vqs,
	.del_vqs = fake_del_vqs,
	.get_features = fake_get_features,
	.finalize_features = fake_finalize_features,
	.bus_name = fake_bus_name,
	.get_shm_region = fake_get_shm,
};

static int order_set(const char *text, const struct kernel_param *kp)
{
	if (!fake)
		return -ENODEV;
	if (sysfs_streq(text, "answer")) {
		if (!fake->held)
			return -ENOENT;
		fake->held->ret = 0;
		fake->held = NULL;
		if (fake->vq)
			give_and_interrupt(fake->head);
		return 0;
	}
	if (sysfs_streq(text, "give-up")) {
		fake->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
		virtio_config_changed(&fake->vdev);
		return 0;
	}
	if (sysfs_streq(text, "forget")) {
		fake->status = 0;
		return 0;
	}
	if (sysfs_streq(text, "freeze"))
		return virtio_device_freeze(&fake->vdev);
	if (sysfs_streq(text, "restore"))
		return virtio_device_restore(&fake->vdev);
	if (sysfs_streq(text, "move")) {
		start += 0x200000;
		return 0;
	}
	return -EINVAL;
}

static const struct kernel_param_ops order_ops = {
	.set = order_set,
};
module_param_cb(order, &order_ops, NULL, 0200);

static void fake_release(struct device *dev)
{
	kfree(fake);
	fake = NULL;
}

static int __init fake_init(void)
{
	int ret;

	fake = kzalloc(sizeof(*fake), GFP_KERNEL);
	if (!fake)
		return -ENOMEM;
	INIT_DELAYED_WORK(&fake->work, fake_work);
	if (no_config)
		fake_config.get = NULL;

	parent = platform_device_register_simple("fakepmem", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(parent)) {
		kfree(fake);
		return PTR_ERR(parent);
	}
	fake->vdev.id.device = VIRTIO_ID_PMEM;
	fake->vdev.id.vendor = VIRTIO_DEV_ANY_ID;
	fake->vdev.config = &fake_config;
	fake->vdev.dev.parent = &parent->dev;
	fake->vdev.dev.release = fake_release;
	ret = register_virtio_device(&fake->vdev);
	if (ret) {
		put_device(&fake->vdev.dev);
		platform_device_unregister(parent);
	}
	return ret;
}
module_init(fake_init);

static void __exit fake_exit(void)
{
	unregister_virtio_device(&fake->vdev);
	platform_device_unregister(parent);
}
module_exit(fake_exit);

MODULE_DESCRIPTION("a virtio-pmem device that cannot be trusted");
MODULE_LICENSE("GPL");
