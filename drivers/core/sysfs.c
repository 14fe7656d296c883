// SPDX-License-Identifier: GPL-2.0-only
/* /sys/class/portal/portalN/: what PORTAL_INFO says, for shell scripts and udev. */
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/sysfs.h>

#include "core.h"

static struct portal *to_portal(struct device *dev)
{
	return container_of(dev, struct portal, dev);
}

const char *portal_cache_name(u32 cache)
{
	switch (cache) {
	case PORTAL_CACHE_WRITE_BACK:
		return "write-back";
	case PORTAL_CACHE_UNCACHED:
		return "uncached";
	default:
		return "unknown";
	}
}

static ssize_t transport_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", to_portal(dev)->transport);
}
static DEVICE_ATTR_RO(transport);

static ssize_t identity_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", to_portal(dev)->identity);
}
static DEVICE_ATTR_RO(identity);

/* Bytes. */
static ssize_t size_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", to_portal(dev)->size);
}
static DEVICE_ATTR_RO(size);

static ssize_t mode_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct portal *p = to_portal(dev);
	u64 protected;

	if (portal_mode_get(p, &protected) == PORTAL_MODE_RAW)
		return sysfs_emit(buf, "raw\n");
	return sysfs_emit(buf, "%s\n", protected < p->size ? "managed" : "damaged");
}
static DEVICE_ATTR_RO(mode);

static ssize_t cache_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", portal_cache_name(to_portal(dev)->cache));
}
static DEVICE_ATTR_RO(cache);

static ssize_t vectors_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", to_portal(dev)->nr_vectors);
}
static DEVICE_ATTR_RO(vectors);

/* 1: open() needs CAP_SYS_RAWIO. udev leaves such a node to root. */
static ssize_t rawio_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", !!(to_portal(dev)->flags & PORTAL_DESC_RAWIO));
}
static DEVICE_ATTR_RO(rawio);

static ssize_t generation_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", (u32)atomic_read(&to_portal(dev)->generation));
}
static DEVICE_ATTR_RO(generation);

/* "none" where this machine has no id. */
static ssize_t peer_id_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct portal *p = to_portal(dev);
	u32 id;
	int ret;

	ret = portal_enter(p);
	if (ret)
		return ret;
	id = portal_peer_id(p);
	portal_leave(p);

	if (id == PORTAL_PEER_NONE)
		return sysfs_emit(buf, "none\n");
	return sysfs_emit(buf, "%u\n", id);
}
static DEVICE_ATTR_RO(peer_id);

/* Of a managed portal: this machine's row in its table of peers. "none": it has none. */
static ssize_t slot_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct portal *p = to_portal(dev);
	int ret;

	mutex_lock(&p->self.lock);
	ret = p->self.joined ? sysfs_emit(buf, "%u\n", p->self.slot) : sysfs_emit(buf, "none\n");
	mutex_unlock(&p->self.lock);
	return ret;
}
static DEVICE_ATTR_RO(slot);

/* Of a managed portal: what tokens are relative to. "none": raw, or damaged. */
static ssize_t incarnation_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct portal *p = to_portal(dev);
	int ret;

	mutex_lock(&p->self.lock);
	ret = p->self.error ? sysfs_emit(buf, "none\n") :
			      sysfs_emit(buf, "%#llx\n", p->self.layout.incarnation);
	mutex_unlock(&p->self.lock);
	return ret;
}
static DEVICE_ATTR_RO(incarnation);

/* Processes of this machine that have a session. */
static ssize_t sessions_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(to_portal(dev)->self.nr_processes));
}
static DEVICE_ATTR_RO(sessions);

static struct attribute *portal_attrs[] = {
	&dev_attr_transport.attr,
	&dev_attr_identity.attr,
	&dev_attr_size.attr,
	&dev_attr_mode.attr,
	&dev_attr_cache.attr,
	&dev_attr_vectors.attr,
	&dev_attr_rawio.attr,
	&dev_attr_generation.attr,
	&dev_attr_peer_id.attr,
	&dev_attr_slot.attr,
	&dev_attr_incarnation.attr,
	&dev_attr_sessions.attr,
	NULL
};

static const struct attribute_group portal_group = {
	.attrs = portal_attrs,
};

const struct attribute_group *portal_groups[] = {
	&portal_group,
	NULL
};
