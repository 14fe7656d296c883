// SPDX-License-Identifier: GPL-2.0-only
/* A user pointer is read as if it were the kernel's: sparse must say so. */
#include <linux/module.h>

static int read_user(const int __user *p)
{
	return *p;
}

static int __init seeded_sparse_init(void)
{
	return read_user(NULL);
}
module_init(seeded_sparse_init);

MODULE_DESCRIPTION("Seeded mistake for sparse; never loaded");
MODULE_LICENSE("GPL");
