// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test module, x86: stands between a fault handler's decision to map a page and the
 * page table entry, for as long as it takes to pull a device away; makes the end of a session
 * slow; and wants memory that is not its own.
 *
 * In /sys/module/hinder/parameters/:
 *
 * armed	so many insertions of entries by a program named "held" are to wait
 * ms		how long each waits, from then on, or from when this was written: who has seen
 *		what he wanted of one that waits for long writes less
 * over_ms	how long each session takes to say that it is over; 0: as ever
 * waiting	how many are waiting now
 * claim	written "START LENGTH": reserves this memory, and gives it back; the
 *		write fails if it is somebody else's
 * before	written the name of a function of the core's that has one argument, a pointer,
 *		and returns nothing: its next call, whoever makes it, is to wait
 *
 * The kernel's function is entered through a kprobe that leads to a function of ours
 * with the same arguments, which sleeps and then calls it. Sleeping is allowed there:
 * the callers hold nothing but locks that sleep.
 */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/ioport.h>
#include <linux/jiffies.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/string.h>

static unsigned int ms = 3000;
static unsigned long ms_written;

static int ms_set(const char *text, const struct kernel_param *kp)
{
	int ret = param_set_uint(text, kp);

	if (!ret)
		WRITE_ONCE(ms_written, jiffies);
	return ret;
}

static const struct kernel_param_ops ms_ops = {
	.set = ms_set,
	.get = param_get_uint,
};
module_param_cb(ms, &ms_ops, &ms, 0644);

static unsigned int over_ms;
module_param(over_ms, uint, 0644);

static atomic_t armed, waiting;

static int counter_set(const char *text, const struct kernel_param *kp)
{
	unsigned int n;
	int ret = kstrtouint(text, 0, &n);

	if (!ret)
		atomic_set(kp->arg, n);
	return ret;
}

static int counter_get(char *buf, const struct kernel_param *kp)
{
	return scnprintf(buf, PAGE_SIZE, "%d\n", atomic_read(kp->arg));
}

static const struct kernel_param_ops counter_ops = {
	.set = counter_set,
	.get = counter_get,
};
module_param_cb(armed, &counter_ops, &armed, 0644);
module_param_cb(waiting, &counter_ops, &waiting, 0444);

static int claim_set(const char *text, const struct kernel_param *kp)
{
	unsigned long long start, len;

	if (sscanf(text, "%lli %lli", &start, &len) != 2)
		return -EINVAL;
	if (!request_mem_region(start, len, "hinder"))
		return -EBUSY;
	release_mem_region(start, len);
	return 0;
}

static const struct kernel_param_ops claim_ops = {
	.set = claim_set,
};
module_param_cb(claim, &claim_ops, NULL, 0200);

static void hinder(void)
{
	unsigned long from = jiffies;

	atomic_inc(&waiting);
	do {
		msleep(20);
		if (time_after(READ_ONCE(ms_written), from))
			from = READ_ONCE(ms_written);
	} while (time_before(jiffies, from + msecs_to_jiffies(READ_ONCE(ms))));
	atomic_dec(&waiting);
}

static vm_fault_t slow_insert_pfn(struct vm_area_struct *vma, unsigned long addr,
				  unsigned long pfn)
{
	hinder();
	return vmf_insert_pfn(vma, addr, pfn);
}

#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
/* Its second argument has had two types of the same size. */
typedef vm_fault_t (*insert_pmd_t)(struct vm_fault *vmf, unsigned long pfn, unsigned long write);

static insert_pmd_t insert_pmd;

static vm_fault_t slow_insert_pmd(struct vm_fault *vmf, unsigned long pfn, unsigned long write)
{
	hinder();
	return insert_pmd(vmf, pfn, write);
}
#endif

/* One at a time, by whoever tests. */
static atomic_t before_armed;
static char before_name[64];
static void (*before)(void *arg);

static void slow_before(void *arg)
{
	hinder();
	before(arg);
}

static int at_before(struct kprobe *p, struct pt_regs *regs)
{
	if (atomic_dec_if_positive(&before_armed) < 0)
		return 0;
	before = (void (*)(void *))p->addr;
	instruction_pointer_set(regs, (unsigned long)slow_before);
	return 1;
}

static struct kprobe probe_before;

static void before_none(void)
{
	if (probe_before.pre_handler)
		unregister_kprobe(&probe_before);
	probe_before = (struct kprobe){ };
}

static int before_set(const char *text, const struct kernel_param *kp)
{
	int ret;

	/* Again the same, and at once: that a kprobe is made takes its time. */
	if (probe_before.pre_handler && sysfs_streq(text, before_name)) {
		atomic_set(&before_armed, 1);
		return 0;
	}
	before_none();
	strscpy(before_name, text, sizeof(before_name));
	probe_before.symbol_name = strim(before_name);
	probe_before.pre_handler = at_before;
	atomic_set(&before_armed, 1);
	ret = register_kprobe(&probe_before);
	if (ret)
		probe_before.pre_handler = NULL;
	return ret;
}

static const struct kernel_param_ops before_ops = {
	.set = before_set,
};
module_param_cb(before, &before_ops, NULL, 0200);

/* Not where a kprobe was optimised: but at a function's entry it is ftrace's, which are not. */
static int lead_to(struct pt_regs *regs, void *instead)
{
	if (strcmp(current->comm, "held") || atomic_dec_if_positive(&armed) < 0)
		return 0;
	instruction_pointer_set(regs, (unsigned long)instead);
	return 1;
}

static int at_insert_pfn(struct kprobe *p, struct pt_regs *regs)
{
	return lead_to(regs, slow_insert_pfn);
}

static struct kprobe probe_pfn = {
	.symbol_name = "vmf_insert_pfn",
	.pre_handler = at_insert_pfn,
};

#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
static int at_insert_pmd(struct kprobe *p, struct pt_regs *regs)
{
	return lead_to(regs, slow_insert_pmd);
}

static struct kprobe probe_pmd = {
	.symbol_name = "vmf_insert_pfn_pmd",
	.pre_handler = at_insert_pmd,
};
#endif

/* Busy: its callers hold a spinlock, which is what is to be seen. */
static int at_session_over(struct kprobe *p, struct pt_regs *regs)
{
	atomic_inc(&waiting);
	mdelay(READ_ONCE(over_ms));
	atomic_dec(&waiting);
	return 0;
}

static struct kprobe probe_over = {
	.symbol_name = "portal:portal_session_over",
	.pre_handler = at_session_over,
};

static struct kprobe *probes[] = {
	&probe_pfn,
	&probe_over,
#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
	&probe_pmd,
#endif
};

static int __init hinder_init(void)
{
#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
	insert_pmd = (insert_pmd_t)(unsigned long)vmf_insert_pfn_pmd;
#endif
	ms_written = jiffies;
	return register_kprobes(probes, ARRAY_SIZE(probes));
}
module_init(hinder_init);

/* Nobody is in our functions: who was has exited, as the tests wait for it. */
static void __exit hinder_exit(void)
{
	before_none();
	unregister_kprobes(probes, ARRAY_SIZE(probes));
}
module_exit(hinder_exit);

MODULE_DESCRIPTION("holds faults, and the core, in the middle");
MODULE_LICENSE("GPL");
