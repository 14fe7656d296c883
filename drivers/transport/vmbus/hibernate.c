// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hibernation, as far as it concerns what outlives a device's session.
 *
 * The bus ends its connection to the host, at the last moment, and begins another when
 * the machine goes on, also if that is because hibernation failed. With a connection all
 * GPADLs end, and no host answers about one of before: to ask would be to wait without
 * an end. The bus tells nobody when it did so. So there is a device of our own, which is
 * younger than the bus and therefore told to freeze before it, in the same phase, when
 * all else that can fail has mostly been done; from there on an epoch has ended. If it
 * turns out that the bus did not come to it, a GPADL of before is not torn down: its
 * host has said that it let go, and has a number too many until the next connection.
 */
#include <linux/device.h>
#include <linux/err.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/pm.h>
#include <linux/slab.h>
#include <linux/suspend.h>

#include "line_internal.h"

static unsigned int vbl_epochs;
static bool vbl_restores;

unsigned int vbl_epoch(void)
{
	return READ_ONCE(vbl_epochs);
}

bool vbl_restoring(void)
{
	return READ_ONCE(vbl_restores);
}
EXPORT_SYMBOL_GPL(vbl_restoring);

/*
 * The bus forgets what it was asked: no answer could end the wait any more. An image is
 * read over all of this kernel's memory: over what a process of the host may still write
 * to, too.
 */
int vbl_may_hibernate(void)
{
	if (vbl_owed(NULL)) {
		pr_err(VBL_NAME ": a host owes an answer, without which there is no hibernation\n");
		return -EBUSY;
	}
	if (vbl_restoring() && vbl_overdue_any()) {
		pr_err(VBL_NAME ": a host has not let go of memory that an image is to be read into\n");
		return -EBUSY;
	}
	return 0;
}
EXPORT_SYMBOL_GPL(vbl_may_hibernate);

static int vbl_freeze(struct device *dev)
{
	int ret = vbl_may_hibernate();

	if (!ret)
		WRITE_ONCE(vbl_epochs, vbl_epochs + 1);
	return ret;
}

static const struct dev_pm_ops vbl_pm = {
	.freeze_noirq = vbl_freeze,
	.poweroff_noirq = vbl_freeze,
};

static const struct device_type vbl_device_type = {
	.name = VBL_NAME,
	.pm = &vbl_pm,
};

static struct device *vbl_device;

static void vbl_device_release(struct device *dev)
{
	kfree(dev);
}

/* Early, while it is cheap to say no. */
static int vbl_hibernate_notify(struct notifier_block *nb, unsigned long event, void *unused)
{
	int ret;

	if (event == PM_POST_RESTORE)
		WRITE_ONCE(vbl_restores, false);
	if (event != PM_HIBERNATION_PREPARE && event != PM_RESTORE_PREPARE)
		return NOTIFY_DONE;
	WRITE_ONCE(vbl_restores, event == PM_RESTORE_PREPARE);
	ret = vbl_may_hibernate();
	/* Who refuses is not told of the end. */
	if (ret)
		WRITE_ONCE(vbl_restores, false);
	return notifier_from_errno(ret);
}

static struct notifier_block vbl_hibernate_nb = {
	.notifier_call = vbl_hibernate_notify,
};

static int vbl_device_add(void)
{
	int ret;

	vbl_device = kzalloc(sizeof(*vbl_device), GFP_KERNEL);
	if (!vbl_device)
		return -ENOMEM;
	vbl_device->type = &vbl_device_type;
	vbl_device->release = vbl_device_release;
	device_initialize(vbl_device);
	ret = dev_set_name(vbl_device, VBL_NAME);
	if (!ret)
		ret = device_add(vbl_device);
	if (ret)
		put_device(vbl_device);
	return ret;
}

int vbl_hibernate_init(void)
{
	int ret;

	ret = vbl_device_add();
	if (ret)
		return ret;
	ret = register_pm_notifier(&vbl_hibernate_nb);
	if (ret)
		device_unregister(vbl_device);
	return ret;
}

void vbl_hibernate_exit(void)
{
	unregister_pm_notifier(&vbl_hibernate_nb);
	device_unregister(vbl_device);
}
