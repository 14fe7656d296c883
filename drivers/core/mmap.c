// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mappings of the region, of the doorbell page and of packet rings.
 *
 * Nothing is mapped at mmap(): a fault inserts entries, and only while the
 * portal is live, so that revocation has one place to close (main.c). Entries
 * are special (VM_PFNMAP): no struct page is counted, and pinning such memory
 * (O_DIRECT, RDMA) gives EFAULT, for nothing pinned could be revoked.
 *
 * A mapping is always shared. do_mmap() takes VM_SHARED and VM_MAYWRITE from a
 * mapping through a read-only file and leaves VM_MAYSHARE; so that flag tells
 * MAP_SHARED from MAP_PRIVATE, and mprotect() cannot make it writable later.
 */
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sched/signal.h>
#include <linux/string.h>

#include "core.h"
#include "trace.h"

/* Entries that one fault inserts at most: a page table's worth with 4 KiB pages. */
#define PORTAL_FAULT_PAGES	512

/* Its vm_private_data is the struct portal_writer that it is counted with, or NULL. */
static struct portal_handle *vma_to_handle(const struct vm_area_struct *vma)
{
	return vma->vm_file->private_data;
}

/*
 * The byte of the region that @addr shows. It lies within the file's part, because
 * portal_mmap_region() saw to it for the whole VMA, and a VMA never grows: what it
 * becomes by munmap() and mprotect() is a part of it, with the offset to match; mremap()
 * may move or shrink it, but of VM_DONTEXPAND and VM_PFNMAP makes no larger one, and no second.
 */
static u64 portal_vma_offset(const struct vm_area_struct *vma, unsigned long addr)
{
	return vma_to_handle(vma)->offset + ((u64)vma->vm_pgoff << PAGE_SHIFT) +
	       (addr - vma->vm_start);
}

static bool portal_is_region(const struct portal *p, u64 offset)
{
	return offset < p->size;
}

/*
 * The physical page behind @offset, whose bounds portal_mmap() has checked. Inside
 * portal_enter(): where rings are changes during a pause.
 */
static unsigned long portal_pfn(const struct portal *p, u64 offset)
{
	const struct portal_piece *piece;

	if (portal_is_region(p, offset)) {
		piece = portal_piece_at(p, offset);
		return PHYS_PFN(piece->start + (offset - piece->offset));
	}
	if (offset - portal_doorbell_offset(p) < PAGE_SIZE)
		return PHYS_PFN(p->doorbell_page);
	return PHYS_PFN(portal_rings_phys(p, offset));
}

/*
 * After revocation. The zeroed page is ordinary memory of this kernel, so it
 * takes the ordinary protection, not the VMA's, which may be uncached or
 * decrypted. It lives as long as the file, which the VMA holds.
 */
static vm_fault_t portal_fault_dead(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct portal_handle *h = vma_to_handle(vma);

	if (!h->zero_page)
		return VM_FAULT_SIGBUS;
	return vmf_insert_pfn_prot(vma, vmf->address & PAGE_MASK, page_to_pfn(h->zero_page),
				   vm_get_page_prot(vma->vm_flags));
}

/*
 * Inserts the neighbours of a page that has just been mapped: what lies in the
 * same aligned block of PORTAL_FAULT_PAGES, in this VMA and in the same page
 * table. Failure does not matter. Returns how many.
 */
static unsigned long portal_fault_around(struct vm_fault *vmf, struct portal *p)
{
	const unsigned long block = min(PMD_SIZE, PORTAL_FAULT_PAGES * PAGE_SIZE);
	struct vm_area_struct *vma = vmf->vma;
	unsigned long here = vmf->address & PAGE_MASK;
	unsigned long start = max(vma->vm_start, here & ~(block - 1));
	unsigned long last = min(vma->vm_end - 1, here | (block - 1));
	unsigned long addr, n = 0;

	for (addr = start; addr < last; addr += PAGE_SIZE) {
		if (addr == here)
			continue;
		if (vmf_insert_pfn(vma, addr, portal_pfn(p, portal_vma_offset(vma, addr))) !=
		    VM_FAULT_NOPAGE)
			break;
		n++;
	}
	return n;
}

/*
 * While the portal is paused the fault waits, holding mmap_lock, as a fault that reads
 * from a disk does. (Without .map_pages the kernel takes that before it calls.) A fatal
 * signal ends the wait; then SIGBUS, for a fault taken inside the kernel would else be
 * retried for ever.
 */
static vm_fault_t portal_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct portal *p = vma_to_handle(vma)->portal;
	unsigned long addr = vmf->address & PAGE_MASK;
	u64 offset = portal_vma_offset(vma, addr);
	unsigned long pages = 0;
	vm_fault_t ret;

	switch (portal_enter_killable(p)) {
	case 0:
		if (portal_handle_stale(vma_to_handle(vma))) {
			portal_leave(p);
			ret = portal_fault_dead(vmf);
			break;
		}
		ret = vmf_insert_pfn(vma, addr, portal_pfn(p, offset));
		if (ret == VM_FAULT_NOPAGE)
			pages = 1 + portal_fault_around(vmf, p);
		portal_leave(p);
		break;
	case -ENODEV:
		ret = portal_fault_dead(vmf);
		break;
	default:
		ret = VM_FAULT_SIGBUS;
		break;
	}
	trace_portal_fault(p->number, offset, pages, (__force unsigned int)ret);
	return ret;
}

/*
 * One PMD entry for the whole aligned block around the address, if the VMA covers
 * it and physical memory lies as the entry needs it; else VM_FAULT_FALLBACK, and
 * portal_fault() is asked next. Never a PUD entry: compat.h says why.
 */
static vm_fault_t __maybe_unused portal_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct vm_area_struct *vma = vmf->vma;
	struct portal *p = vma_to_handle(vma)->portal;
	unsigned long addr = vmf->address & PMD_MASK;
	const struct portal_piece *piece;
	u64 offset, inside;
	vm_fault_t ret;

	if (order != PMD_SHIFT - PAGE_SHIFT || addr < vma->vm_start ||
	    vma->vm_end - addr < PMD_SIZE)
		return VM_FAULT_FALLBACK;
	offset = portal_vma_offset(vma, addr);
	if (!portal_is_region(p, offset))
		return VM_FAULT_FALLBACK;

	piece = portal_piece_at(p, offset);
	inside = offset - piece->offset;
	if (piece->len - inside < PMD_SIZE || !IS_ALIGNED(piece->start + inside, PMD_SIZE))
		return VM_FAULT_FALLBACK;

	/*
	 * No wait here: it may be under the VMA's own lock alone, for which others of this process
	 * then wait with more than that, mmap_lock for one.
	 */
	if (portal_enter_now(p))
		return VM_FAULT_FALLBACK;
	ret = VM_FAULT_FALLBACK;
	if (!portal_handle_stale(vma_to_handle(vma)))
		ret = portal_compat_insert_pmd(vmf, PHYS_PFN(piece->start + inside));
	portal_leave(p);

	if (ret != VM_FAULT_FALLBACK)
		trace_portal_fault(p->number, offset, 1UL << order, (__force unsigned int)ret);
	return ret;
}

/*
 * ptrace() and /proc/PID/mem, that is debuggers, which cannot pin such pages.
 * Through the core's own mapping; not for the doorbell page, where a look may
 * have effects, nor for rings, which are no part of it. Returns the bytes copied.
 */
static int portal_access(struct vm_area_struct *vma, unsigned long addr, void *buf, int len,
			 int write)
{
	struct portal *p = vma_to_handle(vma)->portal;
	u64 offset = portal_vma_offset(vma, addr);
	const struct portal_piece *piece;
	void *at;
	int ret;

	if (write && !(vma->vm_flags & VM_WRITE))
		return -EACCES;
	if (len <= 0 || !portal_is_region(p, offset))
		return -EIO;
	piece = portal_piece_at(p, offset);
	len = min_t(u64, len, piece->offset + piece->len - offset);
	len = min_t(unsigned long, len, vma->vm_end - addr);

	ret = portal_enter_killable(p);
	if (ret)
		return -EIO;
	ret = -EIO;
	if (piece->kva && !portal_handle_stale(vma_to_handle(vma))) {
		at = piece->kva + (offset - piece->offset);
		if (write)
			memcpy(at, buf, len);
		else
			memcpy(buf, at, len);
		ret = len;
	}
	portal_leave(p);
	return ret;
}

/* Of what has been counted by portal_mode_map() there is one more: a part, or a child's. */
static void portal_vma_open(struct vm_area_struct *vma)
{
	if (vma->vm_flags & VM_MAYWRITE)
		portal_mode_map_again(vma_to_handle(vma), vma->vm_private_data);
}

static void portal_vma_close(struct vm_area_struct *vma)
{
	if (vma->vm_flags & VM_MAYWRITE)
		portal_mode_unmap(vma_to_handle(vma), vma->vm_private_data);
}

/* Of the region. VM_MAYWRITE is what says that it was counted; nothing changes it later. */
static const struct vm_operations_struct portal_region_vm_ops = {
	.open = portal_vma_open,
	.close = portal_vma_close,
	.fault = portal_fault,
	.access = portal_access,
	PORTAL_COMPAT_VM_OPS
};

static const struct vm_operations_struct portal_vm_ops = {
	.fault = portal_fault,
	.access = portal_access,
	PORTAL_COMPAT_VM_OPS
};

static int portal_mmap_doorbell(struct file *file, struct vm_area_struct *vma)
{
	const fmode_t both = FMODE_READ | FMODE_WRITE;

	if (vma_pages(vma) != 1)
		return -EINVAL;
	/* Whoever may not ring by ioctl may not ring by store either. */
	if ((file->f_mode & both) != both)
		return -EACCES;
	vma->vm_page_prot = pgprot_decrypted(pgprot_noncached(vma->vm_page_prot));
	portal_vm_flags_set(vma, VM_IO);
	return 0;
}

/* The file holds the claim as long as this mapping holds the file. */
static int portal_mmap_rings(struct file *file, struct vm_area_struct *vma)
{
	const fmode_t both = FMODE_READ | FMODE_WRITE;
	struct portal_handle *h = file->private_data;
	const struct portal_vector_rings *r;

	r = portal_rings_at(h->portal, portal_vma_offset(vma, vma->vm_start),
			    vma->vm_end - vma->vm_start);
	if (!r)
		return -EINVAL;
	/* Pairs with portal_rings_take(): whoever owns them sees where they are. */
	if ((file->f_mode & both) != both || smp_load_acquire(&r->owner) != h)
		return -EACCES;
	if (r->rings.shared)
		vma->vm_page_prot = pgprot_decrypted(vma->vm_page_prot);
	return 0;
}

/*
 * A mapping that reaches protected bytes is read-only, for ever, and so is one through a file
 * by which another process has a session; any other that is or could become writable is
 * counted. Last in portal_mmap_region(): what is counted is mapped.
 */
static int portal_mmap_protect(struct file *file, struct vm_area_struct *vma)
{
	struct portal_handle *h = file->private_data;
	bool could = file->f_mode & FMODE_WRITE;
	struct portal_writer *w;
	int ret;

	ret = portal_mode_map(h, vma->vm_mm, portal_vma_offset(vma, vma->vm_start), could, &w);
	if (ret < 0)
		return ret;
	vma->vm_private_data = w;
	if (ret)
		return 0;
	portal_vm_flags_clear(vma, VM_MAYWRITE);
	return could && (vma->vm_flags & VM_WRITE) ? -EACCES : 0;
}

static int portal_mmap_region(struct file *file, struct vm_area_struct *vma)
{
	struct portal_handle *h = file->private_data;
	unsigned long pages = h->length >> PAGE_SHIFT;
	struct portal *p = h->portal;
	int ret;

	/* Neither subtraction can wrap: pgoff < pages at the second. */
	if (vma->vm_pgoff >= pages || vma_pages(vma) > pages - vma->vm_pgoff)
		return -EINVAL;
	if (!(p->flags & PORTAL_DESC_RAM) || (p->flags & PORTAL_DESC_SHARED))
		vma->vm_page_prot = pgprot_decrypted(vma->vm_page_prot);
	/* Where the administrator leaves large entries to those who ask, this asks. */
	if (p->caps & PORTAL_CAP_LARGE_PAGES)
		portal_vm_flags_set(vma, VM_HUGEPAGE);
	ret = portal_mmap_protect(file, vma);
	if (!ret)
		vma->vm_ops = &portal_region_vm_ops;
	return ret;
}

int portal_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct portal_handle *h = file->private_data;
	struct portal *p = h->portal;
	u64 protected;
	int ret;

	if (portal_is_dead(p))
		return -ENODEV;
	if (portal_handle_stale(h))
		return -ESTALE;
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	/*
	 * What the architecture refuses (tags, of arm64) mmap() refuses after this, and kernels
	 * before 6.1 do not call ->close then: what was counted would stay so.
	 */
	if (!arch_validate_flags(vma->vm_flags))
		return -EINVAL;
	vma->vm_private_data = NULL;
	vma->vm_ops = &portal_vm_ops;

	/* A register page rings whom it likes, so a window never has it. */
	if (!h->window && p->doorbell_page &&
	    vma->vm_pgoff == portal_doorbell_offset(p) >> PAGE_SHIFT)
		ret = portal_mmap_doorbell(file, vma);
	else if (!h->window && p->rings &&
		 vma->vm_pgoff > portal_doorbell_offset(p) >> PAGE_SHIFT)
		ret = portal_mmap_rings(file, vma);
	else
		ret = portal_mmap_region(file, vma);
	if (ret)
		return ret;

	if (!(file->f_mode & FMODE_WRITE))
		portal_vm_flags_clear(vma, VM_MAYWRITE);
	/*
	 * Not inherited. One that could write is counted, and told apart by that: then the mode
	 * may have been found another meanwhile, behind a reset.
	 */
	if (vma->vm_private_data || portal_mode_get(p, &protected) == PORTAL_MODE_MANAGED)
		portal_vm_flags_set(vma, VM_DONTCOPY | VM_IO);
	portal_vm_flags_set(vma, VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);

	spin_lock(&h->lock);
	h->mapped = true;
	spin_unlock(&h->lock);
	return 0;
}

/*
 * An address that agrees with the region's offset modulo PMD_SIZE: where large entries can be
 * had, so that portal_huge_fault() can do its work, and elsewhere so that no fault's
 * block is cut in two. Only where the caller leaves the choice to us.
 */
unsigned long portal_get_unmapped_area(struct file *file, unsigned long addr, unsigned long len,
				       unsigned long pgoff, unsigned long flags)
{
	struct portal_handle *h = file->private_data;
	unsigned long area, offset = h->offset + (pgoff << PAGE_SHIFT);

	if (!addr && !(flags & MAP_FIXED) && len >= PMD_SIZE && len <= ULONG_MAX - PMD_SIZE) {
		area = portal_compat_unmapped_area(file, 0, len + PMD_SIZE, pgoff, flags);
		if (!IS_ERR_VALUE(area))
			return area + ((offset - area) & ~PMD_MASK);
	}
	return portal_compat_unmapped_area(file, addr, len, pgoff, flags);
}

/*
 * Removes every entry of every mapping of the portal. The caller has changed
 * the state first, so that none comes back.
 */
void portal_zap(struct portal *p)
{
	unmap_mapping_range(p->inode->i_mapping, 0, 0, 1);
}
