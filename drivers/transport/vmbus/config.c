// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sizes: for all devices by module parameters, for one by
 * /sys/bus/vmbus/drivers/portal_vmbus/config. A line of it is
 *
 *	INSTANCE-GUID [ring=SIZE] [region=SIZE]
 *
 * which holds for that instance from the next time that it is bound; a GUID alone ends
 * what was said of it. Sizes are bytes, with K, M or G.
 */
#include <linux/bits.h>
#include <linux/device.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/uuid.h>

#include "vmbus.h"

/* Both rings of a channel are one allocation, which has a limit. */
#define VBP_MAX_RING	(2UL << 20)

/* What the largest pieces make, as many as memory.c has of them. */
#define VBP_MAX_REGION	BIT_ULL(36)

/* Lines, so that what is read fits one page. */
#define VBP_MAX_CONFIGS	32

static char *ring_size = "128K";
module_param(ring_size, charp, 0444);
MODULE_PARM_DESC(ring_size, "bytes of each packet ring with its header page, 16K to 2M (default 128K)");

static char *region_size = "16M";
module_param(region_size, charp, 0444);
MODULE_PARM_DESC(region_size, "bytes of memory to share with the host, a multiple of 64K; 0: none (default 16M)");

struct vbp_config {
	struct list_head node;
	guid_t instance;
	bool has_ring, has_region;
	u64 ring;
	u64 region;
};

static LIST_HEAD(vbp_configs);
static unsigned int vbp_nr_configs;
static DEFINE_MUTEX(vbp_config_lock);

static u64 vbp_default_ring, vbp_default_region;

static bool vbp_parse_size(const char *text, u64 *size)
{
	char *end;

	/* It wraps silently: no more digits, and no larger unit, than can be meant. */
	*size = memparse(text, &end);
	return end != text && !*end && strlen(text) <= 11 && !strpbrk(text, "TtPpEe");
}

static bool vbp_ring_valid(u64 size)
{
	return size >= VBP_MIN_RING && size <= VBP_MAX_RING && IS_ALIGNED(size, PAGE_SIZE);
}

static bool vbp_region_valid(u64 size)
{
	return size <= VBP_MAX_REGION && IS_ALIGNED(size, PORTAL_VMBUS_ALIGN) &&
	       IS_ALIGNED(size, PAGE_SIZE);
}

static struct vbp_config *vbp_config_lookup(const guid_t *instance)
{
	struct vbp_config *c;

	list_for_each_entry(c, &vbp_configs, node) {
		if (guid_equal(&c->instance, instance))
			return c;
	}
	return NULL;
}

/* What to use for @instance at a bind. */
void vbp_config_find(const guid_t *instance, u32 *ring, u64 *region)
{
	const struct vbp_config *c;

	mutex_lock(&vbp_config_lock);
	c = vbp_config_lookup(instance);
	*ring = c && c->has_ring ? c->ring : vbp_default_ring;
	*region = c && c->has_region ? c->region : vbp_default_region;
	mutex_unlock(&vbp_config_lock);
}

static ssize_t config_show(struct device_driver *drv, char *buf)
{
	const struct vbp_config *c;
	ssize_t len = 0;

	mutex_lock(&vbp_config_lock);
	list_for_each_entry(c, &vbp_configs, node) {
		len += sysfs_emit_at(buf, len, "%pUl", &c->instance);
		if (c->has_ring)
			len += sysfs_emit_at(buf, len, " ring=%llu", c->ring);
		if (c->has_region)
			len += sysfs_emit_at(buf, len, " region=%llu", c->region);
		len += sysfs_emit_at(buf, len, "\n");
	}
	mutex_unlock(&vbp_config_lock);
	return len;
}

/* One line into @c. */
static int vbp_config_parse(char *line, struct vbp_config *c)
{
	char *word = strsep(&line, " \t");

	if (!word || guid_parse(word, &c->instance) || word[UUID_STRING_LEN])
		return -EINVAL;
	while ((word = strsep(&line, " \t"))) {
		if (!*word)
			continue;
		if (!strncmp(word, "ring=", 5)) {
			c->has_ring = true;
			if (!vbp_parse_size(word + 5, &c->ring) || !vbp_ring_valid(c->ring))
				return -EINVAL;
		} else if (!strncmp(word, "region=", 7)) {
			c->has_region = true;
			if (!vbp_parse_size(word + 7, &c->region) || !vbp_region_valid(c->region))
				return -EINVAL;
		} else {
			return -EINVAL;
		}
	}
	return 0;
}

/* Takes the place of what was said of the instance; @c becomes the list's, or not. */
static int vbp_config_put(struct vbp_config *c)
{
	bool says = c->has_ring || c->has_region;
	struct vbp_config *old;
	int ret = 0;

	mutex_lock(&vbp_config_lock);
	old = vbp_config_lookup(&c->instance);
	if (old) {
		list_del(&old->node);
		kfree(old);
		vbp_nr_configs--;
	}
	if (says && vbp_nr_configs == VBP_MAX_CONFIGS) {
		ret = -ENOSPC;
	} else if (says) {
		list_add_tail(&c->node, &vbp_configs);
		vbp_nr_configs++;
	}
	mutex_unlock(&vbp_config_lock);
	if (ret || !says)
		kfree(c);
	return ret;
}

static ssize_t config_store(struct device_driver *drv, const char *buf, size_t count)
{
	struct vbp_config *c;
	char *line;
	int ret;

	line = kstrndup(buf, count, GFP_KERNEL);
	c = kzalloc(sizeof(*c), GFP_KERNEL);
	ret = line && c ? vbp_config_parse(strim(line), c) : -ENOMEM;
	kfree(line);
	if (ret)
		kfree(c);
	else
		ret = vbp_config_put(c);
	return ret ? ret : count;
}
static DRIVER_ATTR_RW(config);

static struct attribute *vbp_driver_attrs[] = {
	&driver_attr_config.attr,
	NULL
};

static const struct attribute_group vbp_driver_group = {
	.attrs = vbp_driver_attrs,
};

const struct attribute_group *vbp_driver_groups[] = {
	&vbp_driver_group,
	NULL
};

int vbp_config_init(void)
{
	if (!vbp_parse_size(ring_size, &vbp_default_ring) || !vbp_ring_valid(vbp_default_ring)) {
		pr_err(VBP_NAME ": ring_size=%s: give a multiple of %lu from %lu to %lu\n",
		       ring_size, PAGE_SIZE, VBP_MIN_RING, VBP_MAX_RING);
		return -EINVAL;
	}
	if (!vbp_parse_size(region_size, &vbp_default_region) ||
	    !vbp_region_valid(vbp_default_region)) {
		pr_err(VBP_NAME ": region_size=%s: give a multiple of 64K, at most 64G\n",
		       region_size);
		return -EINVAL;
	}
	return 0;
}

/* After the driver is unregistered. */
void vbp_config_exit(void)
{
	struct vbp_config *c, *next;

	list_for_each_entry_safe(c, next, &vbp_configs, node)
		kfree(c);
}
