// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test module, x86: a function of the kernel fails, or takes its time.
 *
 * In /sys/module/falter/parameters/:
 *
 * fail	written "FUNCTION SKIP COUNT ERRNO": after SKIP calls, COUNT fail with -ERRNO,
 *	without anything being done
 * delay	written "FUNCTION MS": each call of it takes so much longer; at most six
 *	arguments, and it must be allowed to sleep
 *
 * One function at a time; "" ends it. Which functions: those that return int.
 */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/string.h>

typedef long (*function_t)(long a, long b, long c, long d, long e, long f);

static char symbol[64];
static unsigned int ms;
static int error;
static atomic_t skip, count;
static bool probed;
static DEFINE_MUTEX(lock);
/* Who is in the function by way of ours. One at a time: others are not delayed. */
static struct task_struct *inside;

static int at_entry(struct kprobe *p, struct pt_regs *regs);

static struct kprobe probe = {
	.symbol_name = symbol,
	.pre_handler = at_entry,
};

static long failing(void)
{
	return error;
}

static long slow(long a, long b, long c, long d, long e, long f)
{
	long ret;

	msleep(ms);
	ret = ((function_t)probe.addr)(a, b, c, d, e, f);
	WRITE_ONCE(inside, NULL);
	return ret;
}

static int at_entry(struct kprobe *p, struct pt_regs *regs)
{
	void *instead = failing;

	if (ms) {
		if (READ_ONCE(inside) == current || cmpxchg(&inside, NULL, current))
			return 0;
		instead = slow;
	} else if (atomic_dec_if_positive(&skip) >= 0 || atomic_dec_if_positive(&count) < 0) {
		return 0;
	}
	instruction_pointer_set(regs, (unsigned long)instead);
	return 1;
}

/* What was begun has ended, as the tests wait for it. */
static void end(void)
{
	if (probed)
		unregister_kprobe(&probe);
	probed = false;
	probe.addr = NULL;
	probe.flags = 0;
}

static int begin(void)
{
	int ret = register_kprobe(&probe);

	probed = !ret;
	return ret;
}

static int fail_set(const char *text, const struct kernel_param *kp)
{
	int s = 0, n = 0, ret = 0;

	mutex_lock(&lock);
	end();
	ms = 0;
	if (sscanf(text, "%63s %d %d %d", symbol, &s, &n, &error) == 4) {
		error = -error;
		atomic_set(&skip, s);
		atomic_set(&count, n);
		ret = begin();
	}
	mutex_unlock(&lock);
	return ret;
}

static const struct kernel_param_ops fail_ops = {
	.set = fail_set,
};
module_param_cb(fail, &fail_ops, NULL, 0200);

static int delay_set(const char *text, const struct kernel_param *kp)
{
	int ret = 0;

	mutex_lock(&lock);
	end();
	if (sscanf(text, "%63s %u", symbol, &ms) == 2 && ms)
		ret = begin();
	mutex_unlock(&lock);
	return ret;
}

static const struct kernel_param_ops delay_ops = {
	.set = delay_set,
};
module_param_cb(delay, &delay_ops, NULL, 0200);

static int __init falter_init(void)
{
	return 0;
}
module_init(falter_init);

static void __exit falter_exit(void)
{
	end();
}
module_exit(falter_exit);

MODULE_DESCRIPTION("functions that fail, or take their time");
MODULE_LICENSE("GPL");
