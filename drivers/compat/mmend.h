/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * MMU notifiers, which say when an mm has no user any more. A kernel without them
 * (CONFIG_MMU_NOTIFIER; KVM and others select it) has their types and no calls:
 * portal_compat_mm_ends() is false there, and no notifier is ever registered.
 */
#ifndef _PORTAL_COMPAT_MMEND_H
#define _PORTAL_COMPAT_MMEND_H

#include <linux/mmu_notifier.h>

#ifndef CONFIG_MMU_NOTIFIER

static inline int mmu_notifier_register(struct mmu_notifier *mn, struct mm_struct *mm)
{
	return -EOPNOTSUPP;
}

static inline void mmu_notifier_put(struct mmu_notifier *mn)
{
}

#endif /* !CONFIG_MMU_NOTIFIER */

#endif /* _PORTAL_COMPAT_MMEND_H */
