// SPDX-License-Identifier: GPL-2.0-only
/*
 * Bugs on demand: shows that a debug kernel's checkers see what they should.
 *
 * Writing a name to /sys/kernel/debug/seeded/bug commits that bug, once, where
 * a checker that works reports it and a kernel without checkers survives it.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/uaccess.h>

static struct dentry *dir;
static DEFINE_MUTEX(lock_a);
static DEFINE_MUTEX(lock_b);
static DEFINE_SPINLOCK(spin);

static noinline void bug_abba(void)
{
	mutex_lock(&lock_a);
	mutex_lock(&lock_b);
	mutex_unlock(&lock_b);
	mutex_unlock(&lock_a);

	mutex_lock(&lock_b);
	mutex_lock(&lock_a);
	mutex_unlock(&lock_a);
	mutex_unlock(&lock_b);
}

static noinline void bug_sleep(void)
{
	spin_lock(&spin);
	might_sleep();
	spin_unlock(&spin);
}

static noinline void bug_uaf(void)
{
	char *p = kmalloc(64, GFP_KERNEL);

	if (!p)
		return;
	OPTIMIZER_HIDE_VAR(p);
	kfree(p);
	WRITE_ONCE(p[8], 1);
}

static noinline void bug_oob(void)
{
	char *p = kmalloc(60, GFP_KERNEL);

	if (!p)
		return;
	OPTIMIZER_HIDE_VAR(p);
	WRITE_ONCE(p[61], 1);
	kfree(p);
}

static noinline void bug_leak(void)
{
	int i;

	/* Some: one may be found by chance in a stale register. */
	for (i = 0; i < 8; i++) {
		void *p = kmalloc(1000, GFP_KERNEL);

		OPTIMIZER_HIDE_VAR(p);
	}
}

static noinline void bug_shift(void)
{
	int by = 70, one = 1;

	OPTIMIZER_HIDE_VAR(by);
	OPTIMIZER_HIDE_VAR(one);
	one <<= by;
	OPTIMIZER_HIDE_VAR(one);
}

static const struct {
	const char *name;
	void (*commit)(void);
} bugs[] = {
	{ "abba", bug_abba },
	{ "sleep", bug_sleep },
	{ "uaf", bug_uaf },
	{ "oob", bug_oob },
	{ "leak", bug_leak },
	{ "shift", bug_shift },
};

static ssize_t bug_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)
{
	char name[16] = { };
	size_t i;

	if (len >= sizeof(name))
		return -EINVAL;
	if (copy_from_user(name, buf, len))
		return -EFAULT;
	for (i = 0; i < ARRAY_SIZE(bugs); i++) {
		if (!strcmp(strim(name), bugs[i].name)) {
			bugs[i].commit();
			return len;
		}
	}
	return -ENOENT;
}

static const struct file_operations bug_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = bug_write,
};

static int __init seeded_init(void)
{
	dir = debugfs_create_dir("seeded", NULL);
	debugfs_create_file("bug", 0200, dir, NULL, &bug_fops);
	return 0;
}
module_init(seeded_init);

static void __exit seeded_exit(void)
{
	debugfs_remove_recursive(dir);
}
module_exit(seeded_exit);

MODULE_DESCRIPTION("Seeded bugs for the debug kernel's checkers");
MODULE_LICENSE("GPL");
