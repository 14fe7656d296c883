// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test module, arm64: what memory type does a user mapping really have?
 *
 * /sys/kernel/debug/memattr: write an address of the caller's own (hex), read one
 * line back. It holds two independent answers: the page-table entry, decoded by
 * hand against MAIR_EL1, and what the CPU itself makes of the address (AT S1E0R,
 * whose result is in PAR_EL1). The page must have been touched before.
 *
 * /sys/kernel/debug/memattr_control: the same for three kernel mappings whose
 * type is known: it shows that the decoding can tell them apart.
 */
#include <linux/debugfs.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include <asm/barrier.h>
#include <asm/sysreg.h>

#define DESC_ATTRINDX(d)	(((d) >> 2) & 7)	/* AttrIndx[2:0], stage 1 */
#define PAR_F			BIT_ULL(0)		/* the translation failed */
#define PAR_SH(par)		(((par) >> 7) & 3)	/* 2 outer, 3 inner */
#define PAR_ATTR(par)		((par) >> 56)

struct answer {
	char text[256];
	size_t len;
};

/* The leaf entry for va, and at which level it was found; 0: not mapped. */
static u64 leaf(struct mm_struct *mm, unsigned long va, const char **level)
{
	pgd_t *pgd = pgd_offset(mm, va);
	p4d_t *p4d;
	pud_t *pud;
	pmd_t *pmd;

	if (pgd_none(READ_ONCE(*pgd)))
		return 0;
	p4d = p4d_offset(pgd, va);
	if (p4d_none(READ_ONCE(*p4d)))
		return 0;
	pud = pud_offset(p4d, va);
	*level = "pud";
	if (pud_none(READ_ONCE(*pud)) || pud_leaf(READ_ONCE(*pud)))
		return pud_val(READ_ONCE(*pud));
	pmd = pmd_offset(pud, va);
	*level = "pmd";
	if (pmd_none(READ_ONCE(*pmd)) || pmd_leaf(READ_ONCE(*pmd)))
		return pmd_val(READ_ONCE(*pmd));
	*level = "pte";
	return pte_val(READ_ONCE(*pte_offset_kernel(pmd, va)));
}

/* Any exception may change PAR_EL1, so none may come in between. */
static u64 translate(unsigned long va, bool user)
{
	unsigned long flags;
	u64 par;

	local_irq_save(flags);
	if (user)
		asm volatile("at s1e0r, %0" : : "r" (va) : "memory");
	else
		asm volatile("at s1e1r, %0" : : "r" (va) : "memory");
	isb();
	par = read_sysreg(par_el1);
	local_irq_restore(flags);
	return par;
}

static ssize_t ask(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	struct answer *a = file->private_data;
	const char *level = "none";
	u64 va, desc, mair, par;
	int ret;

	ret = kstrtou64_from_user(buf, count, 16, &va);
	if (ret)
		return ret;
	if (va >= TASK_SIZE)
		return -EINVAL;
	mmap_read_lock(current->mm);
	desc = leaf(current->mm, va, &level);
	par = translate(va, true);
	mmap_read_unlock(current->mm);
	mair = read_sysreg(mair_el1);
	a->len = scnprintf(a->text, sizeof(a->text),
			   "level=%s desc=%llx attrindx=%llu mair=%llx attr=%02llx fault=%llu cpu_attr=%02llx sh=%llu\n",
			   level, desc, DESC_ATTRINDX(desc), mair,
			   (mair >> (8 * DESC_ATTRINDX(desc))) & 0xff,
			   par & PAR_F, PAR_ATTR(par), PAR_SH(par));
	*pos = 0;
	return count;
}

static ssize_t answer(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	struct answer *a = file->private_data;

	return simple_read_from_buffer(buf, count, pos, a->text, a->len);
}

static int ask_open(struct inode *inode, struct file *file)
{
	struct answer *a = kzalloc(sizeof(*a), GFP_KERNEL);

	file->private_data = a;
	return a ? 0 : -ENOMEM;
}

static int ask_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static const struct file_operations ask_fops = {
	.owner = THIS_MODULE,
	.open = ask_open,
	.release = ask_release,
	.write = ask,
	.read = answer,
};

/* The type of a fresh kernel mapping of page; nothing is read through it. */
static u64 known_type(struct page *page, pgprot_t prot)
{
	void *va = vmap(&page, 1, VM_MAP, prot);
	u64 par;

	if (!va)
		return ~0ULL;
	par = translate((unsigned long)va, false);
	vunmap(va);
	return par & PAR_F ? ~0ULL : PAR_ATTR(par);
}

static int control_open(struct inode *inode, struct file *file)
{
	struct page *page;
	struct answer *a;

	a = kzalloc(sizeof(*a), GFP_KERNEL);
	page = alloc_page(GFP_KERNEL);
	if (!a || !page) {
		kfree(a);
		if (page)
			__free_page(page);
		return -ENOMEM;
	}
	a->len = scnprintf(a->text, sizeof(a->text),
			   "normal=%02llx writecombine=%02llx device=%02llx\n",
			   known_type(page, PAGE_KERNEL),
			   known_type(page, pgprot_writecombine(PAGE_KERNEL)),
			   known_type(page, pgprot_noncached(PAGE_KERNEL)));
	__free_page(page);
	file->private_data = a;
	return 0;
}

static const struct file_operations control_fops = {
	.owner = THIS_MODULE,
	.open = control_open,
	.release = ask_release,
	.read = answer,
};

static struct dentry *files[2];

static int __init memattr_init(void)
{
	files[0] = debugfs_create_file("memattr", 0600, NULL, NULL, &ask_fops);
	files[1] = debugfs_create_file("memattr_control", 0400, NULL, NULL, &control_fops);
	return 0;
}

static void __exit memattr_exit(void)
{
	debugfs_remove(files[0]);
	debugfs_remove(files[1]);
}

module_init(memattr_init);
module_exit(memattr_exit);
MODULE_DESCRIPTION("Memory type of user mappings, for tests");
MODULE_LICENSE("GPL");
