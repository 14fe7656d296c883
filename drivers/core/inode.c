// SPDX-License-Identifier: GPL-2.0-only
/*
 * One address_space per portal.
 *
 * A device node's own inode will not do: there may be many nodes of one portal
 * (a container's, a new one after a revocation), and each has its own mapping.
 * So each portal gets an anonymous inode on a file system that is mounted
 * nowhere, and each file's f_mapping is set to that inode's at open. Then one
 * unmap_mapping_range() reaches every mapping of the portal, and no other's.
 */
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pseudo_fs.h>

#include "core.h"

/* "prtl" */
#define PORTAL_FS_MAGIC	0x7072746c

static int portal_fs_mount_count;
static struct vfsmount *portal_fs_mount;

static int portal_fs_init_context(struct fs_context *fc)
{
	return init_pseudo(fc, PORTAL_FS_MAGIC) ? 0 : -ENOMEM;
}

/* Not registered: only simple_pin_fs() below mounts it. */
static struct file_system_type portal_fs_type = {
	.name = "portal",
	.owner = THIS_MODULE,
	.init_fs_context = portal_fs_init_context,
	.kill_sb = kill_anon_super,
};

/* Each inode pins the mount, which is gone with the last portal. */
struct inode *portal_inode_new(void)
{
	struct inode *inode;
	int ret;

	ret = simple_pin_fs(&portal_fs_type, &portal_fs_mount, &portal_fs_mount_count);
	if (ret)
		return ERR_PTR(ret);

	inode = alloc_anon_inode(portal_fs_mount->mnt_sb);
	if (IS_ERR(inode))
		simple_release_fs(&portal_fs_mount, &portal_fs_mount_count);
	return inode;
}

void portal_inode_free(struct inode *inode)
{
	iput(inode);
	simple_release_fs(&portal_fs_mount, &portal_fs_mount_count);
}
