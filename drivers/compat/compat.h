/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every difference between kernels and architectures, and nothing else; included
 * before the first line of each file of the modules (Kbuild). PORTAL_HAVE_*
 * come from probe.sh, which asks the compiler, because version numbers lie:
 * distributions and stable trees take interfaces from the future and remove old
 * ones.
 */
#ifndef _PORTAL_COMPAT_H
#define _PORTAL_COMPAT_H

#include "portal_config.h"

#include <linux/atomic.h>
#include <linux/crc32.h>
#include <linux/eventfd.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/notifier.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>

/* eventfd_signal() lost its count in 6.8. */
static inline void portal_eventfd_signal(struct eventfd_ctx *ctx)
{
#ifdef PORTAL_HAVE_EVENTFD_SIGNAL_1
	eventfd_signal(ctx);
#else
	eventfd_signal(ctx, 1);
#endif
}

/* vm_flags became read-only in 6.3. */
static inline void portal_vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
#ifdef PORTAL_HAVE_VM_FLAGS_SET
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

static inline void portal_vm_flags_clear(struct vm_area_struct *vma, unsigned long flags)
{
#ifdef PORTAL_HAVE_VM_FLAGS_SET
	vm_flags_clear(vma, flags);
#else
	vma->vm_flags &= ~flags;
#endif
}

/*
 * PMD entries for memory without struct pages: 6.12 and later, and there only
 * where the architecture says so. Before, get_user_pages_fast() takes a PMD entry
 * for pages that it may count (5.10), or the fault handler is never asked (6.1).
 *
 * Never PUD entries, though CONFIG_ARCH_SUPPORTS_PUD_PFNMAP offers them: when
 * mprotect() or munmap() splits a mapping inside such an entry,
 * vma_adjust_trans_huge() looks for a PMD there through mm_find_pmd(), which takes
 * the PUD entry for a page table and walks into the region: an oops for a BAR, and
 * bytes of another machine read as page table entries where it is in the direct
 * map (6.12 to 7.3; "splitting" in tests/guest/mapping.c, with 1 GiB or more).
 */
#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP

#define PORTAL_COMPAT_PMD	1

#define PORTAL_COMPAT_VM_OPS	.huge_fault = portal_huge_fault,

/* pfn_t went in 6.17. */
#ifdef PORTAL_HAVE_INSERT_PFN_ULONG
#define portal_to_pfn(_pfn)	(_pfn)
#else
#include <linux/pfn_t.h>
#define portal_to_pfn(_pfn)	__pfn_to_pfn_t(_pfn, 0)
#endif

static inline vm_fault_t portal_compat_insert_pmd(struct vm_fault *vmf, unsigned long pfn)
{
	return vmf_insert_pfn_pmd(vmf, portal_to_pfn(pfn), vmf->flags & FAULT_FLAG_WRITE);
}

#else /* !CONFIG_ARCH_SUPPORTS_PMD_PFNMAP */

#define PORTAL_COMPAT_PMD	0

#define PORTAL_COMPAT_VM_OPS

static inline vm_fault_t portal_compat_insert_pmd(struct vm_fault *vmf, unsigned long pfn)
{
	return VM_FAULT_FALLBACK;
}

#endif /* CONFIG_ARCH_SUPPORTS_PMD_PFNMAP */

/* A method of the mm until 6.9; a function since, whose mm argument went in 6.19. */
static inline unsigned long portal_compat_unmapped_area(struct file *file, unsigned long addr,
							unsigned long len, unsigned long pgoff,
							unsigned long flags)
{
#if defined(PORTAL_HAVE_MM_GET_UNMAPPED_AREA_5)
	return mm_get_unmapped_area(file, addr, len, pgoff, flags);
#elif defined(PORTAL_HAVE_MM_GET_UNMAPPED_AREA_6)
	return mm_get_unmapped_area(current->mm, file, addr, len, pgoff, flags);
#else
	return current->mm->get_unmapped_area(file, addr, len, pgoff, flags);
#endif
}

/*
 * How a mapping made by memremap(MEMREMAP_WB) is cached: x86 may grant less than
 * what was asked for, and says so only in the page table entry. Write-back is
 * entry 0 of the PAT: none of the three bits. Elsewhere nothing overrides us.
 */
static inline bool portal_compat_is_write_back(void *kva)
{
#ifdef CONFIG_X86
	pteval_t mask = _PAGE_PWT | _PAGE_PCD;
	unsigned int level;
	pte_t *pte;

	pte = lookup_address((unsigned long)kva, &level);
	if (!pte)
		return true;
	mask |= level == PG_LEVEL_4K ? _PAGE_PAT : _PAGE_PAT_LARGE;
	return !(pte_flags(*pte) & mask);
#else
	return true;
#endif
}

/*
 * Whether a page table entry can hold this physical address. x86 ends its tree of
 * resources where the processor's addresses end; arm64 does not, and there the bits
 * above would be taken for attributes.
 */
static inline bool portal_compat_phys_valid(u64 addr)
{
#ifdef CONFIG_ARM64
	if (addr & ~(u64)PHYS_MASK)
		return false;
#endif
	return addr <= iomem_resource.end;
}

/*
 * Compare and swap between machines: a full barrier, and true if the word was @old. x86
 * leaves the lock prefix out where this machine has one processor; others have more.
 */
static inline bool portal_compat_cas64(__le64 *at, __le64 old, __le64 new)
{
	u64 was = (__force u64)old;

#ifdef CONFIG_X86_64
	return sync_cmpxchg((__force u64 *)at, was, (__force u64)new) == was;
#else
	return cmpxchg64((__force u64 *)at, was, (__force u64)new) == was;
#endif
}

static inline bool portal_compat_cas32(__le32 *at, __le32 old, __le32 new)
{
	u32 was = (__force u32)old;

#ifdef CONFIG_X86
	return sync_cmpxchg((__force u32 *)at, was, (__force u32)new) == was;
#else
	return cmpxchg((__force u32 *)at, was, (__force u32)new) == was;
#endif
}

/* CRC-32C without the two inversions, in any context. Under another name until 6.14. */
static inline u32 portal_compat_crc32c(u32 crc, const void *data, size_t len)
{
#ifdef PORTAL_HAVE_CRC32C
	return crc32c(crc, data, len);
#else
	return __crc32c_le(crc, data, len);
#endif
}

/* Since 5.18 a hypervisor's word (VM generation ID) that the machine was copied is passed on. */
static inline int portal_compat_register_copied(struct notifier_block *nb)
{
#ifdef PORTAL_HAVE_VMFORK_NOTIFIER
	return register_random_vmfork_notifier(nb);
#else
	return 0;
#endif
}

static inline void portal_compat_unregister_copied(struct notifier_block *nb)
{
#ifdef PORTAL_HAVE_VMFORK_NOTIFIER
	unregister_random_vmfork_notifier(nb);
#endif
}

/* Whether the end of an mm can be heard: mmend.h. */
static inline bool portal_compat_mm_ends(void)
{
	return IS_ENABLED(CONFIG_MMU_NOTIFIER);
}

#endif /* _PORTAL_COMPAT_H */
