// SPDX-License-Identifier: MIT
/*
 * Instructions for a message: exact, and where no performance counters are (most
 * virtual machines). A child sends and receives messages through both ends of a
 * pair in one thread; this process steps it from mark to mark and counts.
 */
#include <json-c/json.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "rival.h"

#define WARM_UP		200	/* messages before counting: first touches, lazy binding */
#define COUNTED		128
#define PAIR_SIZE	(1UL << 20)
#define STEPS_MAX	(4U << 20)

struct pair {
	struct vmp *p[2];
	struct vmp_channel *ch[2];
};

static int pair_open(struct pair *x, uint32_t flags)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .flags = flags };
	int err = vmp_pair(x->p, PAIR_SIZE, 1);

	for (int i = 0; i < 2 && !err; i++) {
		o.side = i;
		err = vmp_channel_open(&x->ch[i], x->p[i], &o);
	}
	/* Each end notices the other in turn. */
	for (int tries = 0; tries < 100 && !err; tries++) {
		int a = vmp_channel_connect(x->ch[0], 0), c = vmp_channel_connect(x->ch[1], 0);

		if (!a && !c)
			return 0;
		err = a && a != -EAGAIN ? a : c && c != -EAGAIN ? c : 0;
	}
	return err ? err : -ETIMEDOUT;
}

static int pass(struct pair *x, unsigned int n, unsigned int burst, size_t len)
{
	char buf[1024] = { 0 };
	int err = 0;

	for (unsigned int i = 0; i < n && !err; i += burst) {
		for (unsigned int k = 0; k < burst && !err; k++)
			err = vmp_send(x->ch[0], buf, len, k + 1 < burst ? VMP_MORE : 0, 0);
		for (unsigned int k = 0; k < burst && !err; k++)
			err = vmp_recv(x->ch[1], buf, sizeof(buf), 0) == (ssize_t)len ? 0 : -EBADMSG;
	}
	return err;
}

static void mark(void)
{
	raise(SIGSTOP);
}

/* Three marks: nothing between the first two, COUNTED messages between the last. */
static void child(uint32_t flags, unsigned int burst, size_t len)
{
	struct pair x = { .p = { NULL } };
	int err = pair_open(&x, flags);

	if (!err)
		err = pass(&x, WARM_UP - WARM_UP % burst, burst, len);
	if (err || ptrace(PTRACE_TRACEME, 0, NULL, NULL))
		_exit(1);
	mark();
	mark();
	err = pass(&x, COUNTED, burst, len);
	mark();
	_exit(err ? 1 : 0);
}

/* Steps until the next mark: how many instructions, or negative. */
static long steps_to_mark(pid_t pid)
{
	int status;

	for (long n = 0; n < (long)STEPS_MAX; n++) {
		if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) ||
		    waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
			return -1;
		if (WSTOPSIG(status) == SIGSTOP)
			return n;
		if (WSTOPSIG(status) != SIGTRAP)
			return -1;
	}
	return -1;
}

/* Instructions for one message sent and received; negative: this machine forbids it. */
static double count(uint32_t flags, unsigned int burst, size_t len)
{
	pid_t pid = fork();
	long empty = -1, full = -1;
	int status;

	if (pid < 0)
		return -1;
	if (!pid)
		child(flags, burst, len);
	if (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
		empty = steps_to_mark(pid);
		if (empty >= 0)
			full = steps_to_mark(pid);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
	}
	return empty < 0 || full < empty ? -1 : (double)(full - empty) / COUNTED;
}

struct json_object *cost_json(void)
{
	static const struct {
		const char *key, *title;
		uint32_t flags;
		unsigned int burst;
		size_t len;
	} rows[] = {
		{ "spin-32", "32 B, ends that never sleep", VMP_CH_NO_SLEEP, 1, 32 },
		{ "spin-64", "64 B, ends that never sleep", VMP_CH_NO_SLEEP, 1, 64 },
		{ "batch-64", "64 B, may sleep, by 32", 0, 32, 64 },
		{ "solo-64", "64 B, may sleep, each alone", 0, 1, 64 },
	};
	struct json_object *all = json_object_new_array();

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct json_object *j = json_object_new_object();
		double n = count(rows[i].flags, rows[i].burst, rows[i].len);

		json_object_object_add(j, "key", json_object_new_string(rows[i].key));
		json_object_object_add(j, "title", json_object_new_string(rows[i].title));
		json_object_object_add(j, "instructions", n < 0 ? NULL : json_object_new_double(n));
		json_object_array_add(all, j);
	}
	return all;
}

void print_cost(struct json_object *all)
{
	puts("instructions for one message, sent and received (counted by single steps)");
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *j = json_object_array_get_idx(all, i);
		struct json_object *n = json_object_object_get(j, "instructions");

		const char *title = json_object_get_string(json_object_object_get(j, "title"));

		if (n)
			printf("  %-40s %12.1f\n", title, json_object_get_double(n));
		else
			printf("  %-40s %12s\n", title, "n/a: this machine forbids ptrace");
	}
}
