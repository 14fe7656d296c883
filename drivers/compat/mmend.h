/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * MMU notifiers, which say when an mm has no user any more. A kernel without them has
 * the calls, and nothing behind them: portal_compat_mm_ends() is false there, and no
 * notifier is ever registered.
 */
#ifndef _PORTAL_COMPAT_MMEND_H
#define _PORTAL_COMPAT_MMEND_H

#include <linux/mmu_notifier.h>

#ifndef CONFIG_MMU_NOTIFIER

struct mmu_notifier;

struct mmu_notifier_ops {
	void (*release)(struct mmu_notifier *mn, struct mm_struct *mm);
	void (*free_notifier)(struct mmu_notifier *mn);
};

struct mmu_notifier {
	const struct mmu_notifier_ops *ops;
	struct mm_struct *mm;
};

static inline int mmu_notifier_register(struct mmu_notifier *mn, struct mm_struct *mm)
{
	return -EOPNOTSUPP;
}

static inline void mmu_notifier_put(struct mmu_notifier *mn)
{
}

#endif /* !CONFIG_MMU_NOTIFIER */

#endif /* _PORTAL_COMPAT_MMEND_H */
