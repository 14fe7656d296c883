// SPDX-License-Identifier: MIT
/*
 * A hand on a portal: does what it is told, one line at a time, and answers each
 * line with one line. So a test can hold files and mappings open in a guest
 * while it pulls the device from under them.
 *
 *	open PATH rw|ro		open it, non-blocking
 *	zero			PORTAL_FILE_ZERO_ON_REVOKE
 *	map LEN rw|ro [OFFSET]	mmap the region (LEN 0: all of it)
 *	get OFFSET		read a 64-bit word
 *	put OFFSET VALUE	write one
 *	fill OFFSET LEN SEED	write a pattern
 *	check OFFSET LEN SEED	look for the pattern
 *	info			PORTAL_INFO
 *	ring PEER VECTOR [N]	PORTAL_RING, N times
 *	bind VECTOR		an eventfd for the vector
 *	wait VECTOR MS		wait for its eventfd, read it
 *	echo VECTOR PEER V2 N	N times: wait for VECTOR, ring PEER's V2; each wake
 *				must be one event
 *	poll MS			poll() the file
 *	read			read() events
 *	session VECTOR		PORTAL_SESSION; VECTOR -1: silent. Token and slot
 *	over			its end
 *	fence SLOT CLAIM	PORTAL_FENCE
 *	change MS		wait for POLLPRI, read() all there is
 *	fork			a child that keeps the mapping
 *	child get OFFSET	what the child reads there
 *	unmap | close | exit
 *
 * Answers: "ok ...", "err ENODEV", "sigbus", "timeout".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/portal.h>

#define VECTORS	64

static int fd = -1;
static int efds[VECTORS];
static volatile uint8_t *map;
static size_t map_len;
static int child = -1;		/* socket to the forked child */
static sigjmp_buf bus;
static volatile sig_atomic_t guarded;

static const char *name_of(int err)
{
	static char number[16];
	static const struct { int err; const char *name; } names[] = {
		{ ENODEV, "ENODEV" }, { ENXIO, "ENXIO" }, { EINVAL, "EINVAL" },
		{ EACCES, "EACCES" }, { EPERM, "EPERM" }, { EBUSY, "EBUSY" },
		{ EAGAIN, "EAGAIN" }, { ENOENT, "ENOENT" }, { ENOTTY, "ENOTTY" },
		{ EOPNOTSUPP, "EOPNOTSUPP" }, { EFAULT, "EFAULT" }, { EBADF, "EBADF" },
		{ ENOMEM, "ENOMEM" }, { E2BIG, "E2BIG" }, { EIO, "EIO" },
		{ ENODATA, "ENODATA" }, { EUSERS, "EUSERS" }, { ESTALE, "ESTALE" },
		{ EUCLEAN, "EUCLEAN" },
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].err == err)
			return names[i].name;
	snprintf(number, sizeof(number), "%d", err);
	return number;
}

static void result(int ret)
{
	if (ret < 0)
		printf("err %s\n", name_of(errno));
	else
		printf("ok %d\n", ret);
}

static void on_bus(int sig)
{
	(void)sig;
	if (!guarded)
		_exit(99);
	siglongjmp(bus, 1);
}

static void do_open(const char *path, const char *mode)
{
	fd = open(path, (strcmp(mode, "ro") ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		printf("err %s\n", name_of(errno));
	else
		printf("ok\n");
}

static int get_info(struct portal_info *info)
{
	memset(info, 0, sizeof(*info));
	info->size = sizeof(*info);
	return ioctl(fd, PORTAL_INFO, info);
}

static void do_info(void)
{
	struct portal_info i;

	if (get_info(&i) < 0) {
		printf("err %s\n", name_of(errno));
		return;
	}
	printf("ok size=%llu peer=%d vectors=%u max_peers=%u caps=%#llx cache=%u mode=%u generation=%u doorbell_offset=%#llx transport=%s identity=%s\n",
	       (unsigned long long)i.region_size, (int)i.peer_id, i.vectors, i.max_peers,
	       (unsigned long long)i.caps, i.cache, i.mode, i.generation,
	       (unsigned long long)i.doorbell_offset, i.transport, i.identity);
}

static void do_map(size_t len, const char *mode, off_t offset)
{
	struct portal_info i;
	void *p;

	if (!len) {
		if (get_info(&i) < 0) {
			printf("err %s\n", name_of(errno));
			return;
		}
		len = i.region_size;
	}
	p = mmap(NULL, len, PROT_READ | (strcmp(mode, "ro") ? PROT_WRITE : 0), MAP_SHARED, fd, offset);
	if (p == MAP_FAILED) {
		printf("err %s\n", name_of(errno));
		return;
	}
	map = p;
	map_len = len;
	printf("ok %zu\n", len);
}

/* The memory commands, each of which may meet SIGBUS. */
static void do_memory(const char *what, uint64_t off, uint64_t a, uint64_t b)
{
	if (!map || off + 8 > map_len) {
		printf("err EINVAL\n");
		return;
	}
	guarded = 1;
	if (sigsetjmp(bus, 1)) {
		guarded = 0;
		printf("sigbus\n");
		return;
	}
	if (!strcmp(what, "get")) {
		printf("ok %llu\n", (unsigned long long)*(volatile uint64_t *)(map + off));
	} else if (!strcmp(what, "put")) {
		*(volatile uint64_t *)(map + off) = a;
		printf("ok\n");
	} else {
		uint64_t bad = 0;

		for (uint64_t i = 0; i + 8 <= a && off + i + 8 <= map_len; i += 8) {
			volatile uint64_t *p = (volatile uint64_t *)(map + off + i);
			uint64_t want = (i + b) * 0x9e3779b97f4a7c15ULL;

			if (!strcmp(what, "fill"))
				*p = want;
			else
				bad += *p != want;
		}
		printf("ok %llu\n", (unsigned long long)bad);
	}
	guarded = 0;
}

static int ring(uint32_t peer, uint32_t vector)
{
	struct portal_ring r = { .size = sizeof(r), .peer = peer, .vector = vector };

	return ioctl(fd, PORTAL_RING, &r);
}

static void do_bind(unsigned int vector)
{
	struct portal_eventfd e = { .size = sizeof(e), .vector = vector };

	if (vector >= VECTORS) {
		printf("err EINVAL\n");
		return;
	}
	if (efds[vector] < 0)
		efds[vector] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	e.fd = efds[vector];
	result(ioctl(fd, PORTAL_EVENTFD, &e));
}

/* The number of events on a vector, -1 after ms without any. */
static int64_t wait_vector(unsigned int vector, int ms)
{
	struct pollfd p = { .fd = efds[vector], .events = POLLIN };
	uint64_t n;

	if (poll(&p, 1, ms) <= 0 || read(efds[vector], &n, sizeof(n)) != sizeof(n))
		return -1;
	return n;
}

static void do_echo(unsigned int vector, uint32_t peer, uint32_t to, unsigned int rounds)
{
	for (unsigned int i = 0; i < rounds; i++) {
		int64_t n = wait_vector(vector, 20000);

		if (n != 1) {
			printf("err round %u: %lld events\n", i, (long long)n);
			return;
		}
		if (ring(peer, to) < 0) {
			printf("err %s\n", name_of(errno));
			return;
		}
	}
	printf("ok %u\n", rounds);
}

static void do_poll(int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (poll(&p, 1, ms) <= 0) {
		printf("timeout\n");
		return;
	}
	printf("ok%s%s%s\n", p.revents & POLLIN ? " IN" : "", p.revents & POLLHUP ? " HUP" : "",
	       p.revents & POLLERR ? " ERR" : "");
}

static void do_read(void)
{
	struct portal_event ev[16];
	ssize_t n = read(fd, ev, sizeof(ev));

	if (n < 0) {
		printf("err %s\n", name_of(errno));
		return;
	}
	printf("ok");
	for (size_t i = 0; i < n / sizeof(ev[0]); i++)
		printf(" %u:%llu", ev[i].vector, (unsigned long long)ev[i].count);
	printf("\n");
}

static void do_session(uint32_t flags, uint32_t vector)
{
	struct portal_session_begin b = { .size = sizeof(b), .flags = flags, .vector = vector };

	if (ioctl(fd, PORTAL_SESSION, &b) < 0)
		printf("err %s\n", name_of(errno));
	else
		printf("ok %llu %u\n", (unsigned long long)b.token, b.peer);
}

static void do_fence(uint32_t slot, uint64_t claim)
{
	struct portal_fence f = { .size = sizeof(f), .slot = slot, .claim = claim };

	result(ioctl(fd, PORTAL_FENCE, &f));
}

/* How many changes; whatever else there is to read goes, too. */
static void do_change(int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLPRI };
	struct portal_event ev[16];
	uint64_t changes = 0;
	ssize_t n;

	if (poll(&p, 1, ms) <= 0) {
		printf("timeout\n");
		return;
	}
	while ((n = read(fd, ev, sizeof(ev))) > 0) {
		for (size_t i = 0; i < n / sizeof(ev[0]); i++)
			changes += ev[i].type == PORTAL_EVENT_CHANGE ? ev[i].count : 0;
	}
	printf("ok %llu\n", (unsigned long long)changes);
}

/* The child sends what it reads at the offsets it is asked for; ~0: SIGBUS. */
static void child_main(int s)
{
	uint64_t off, val;

	while (read(s, &off, sizeof(off)) == sizeof(off)) {
		guarded = 1;
		val = ~0ULL;
		if (!sigsetjmp(bus, 1))
			val = *(volatile uint64_t *)(map + off);
		guarded = 0;
		if (write(s, &val, sizeof(val)) != sizeof(val))
			break;
	}
	_exit(0);
}

static void do_fork(void)
{
	int s[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s)) {
		printf("err %s\n", name_of(errno));
		return;
	}
	fflush(stdout);
	if (fork() == 0) {
		close(s[0]);
		child_main(s[1]);
	}
	close(s[1]);
	child = s[0];
	printf("ok\n");
}

static void ask_child(uint64_t off)
{
	uint64_t val;

	if (write(child, &off, sizeof(off)) != sizeof(off) ||
	    read(child, &val, sizeof(val)) != sizeof(val))
		printf("err child\n");
	else if (val == ~0ULL)
		printf("sigbus\n");
	else
		printf("ok %llu\n", (unsigned long long)val);
}

static void obey(char *line)
{
	struct portal_file f = { .size = sizeof(f), .flags = PORTAL_FILE_ZERO_ON_REVOKE };
	unsigned long long n[4] = { 0, 0, 0, 1 };
	char what[32] = "", s1[256] = "", s2[32] = "";
	int ret = 0;

	sscanf(line, "%31s %255s %31s", what, s1, s2);
	sscanf(line, "%*s %lli %lli %lli %lli", (long long *)&n[0], (long long *)&n[1],
	       (long long *)&n[2], (long long *)&n[3]);
	if (!strcmp(what, "open")) {
		do_open(s1, s2);
	} else if (!strcmp(what, "zero")) {
		result(ioctl(fd, PORTAL_FILE, &f));
	} else if (!strcmp(what, "map")) {
		sscanf(line, "%*s %*s %*s %lli", (long long *)&n[2]);
		do_map(n[0], s2, n[2]);
	} else if (!strcmp(what, "get") || !strcmp(what, "put") || !strcmp(what, "fill") ||
		   !strcmp(what, "check")) {
		do_memory(what, n[0], n[1], n[2]);
	} else if (!strcmp(what, "info")) {
		do_info();
	} else if (!strcmp(what, "ring")) {
		for (n[2] = n[2] ? n[2] : 1; n[2] && ret >= 0; n[2]--)
			ret = ring(n[0], n[1]);
		result(ret);
	} else if (!strcmp(what, "bind")) {
		do_bind(n[0]);
	} else if (!strcmp(what, "wait") && n[0] < VECTORS) {
		long long got = wait_vector(n[0], n[1]);

		if (got < 0)
			printf("timeout\n");
		else
			printf("ok %lld\n", got);
	} else if (!strcmp(what, "echo") && n[0] < VECTORS) {
		do_echo(n[0], n[1], n[2], n[3]);
	} else if (!strcmp(what, "poll")) {
		do_poll(n[0]);
	} else if (!strcmp(what, "read")) {
		do_read();
	} else if (!strcmp(what, "session")) {
		do_session(0, n[0]);
	} else if (!strcmp(what, "over")) {
		do_session(PORTAL_SESSION_END, 0);
	} else if (!strcmp(what, "fence")) {
		do_fence(n[0], n[1]);
	} else if (!strcmp(what, "change")) {
		do_change(n[0]);
	} else if (!strcmp(what, "fork")) {
		do_fork();
	} else if (!strcmp(what, "child")) {
		sscanf(line, "child get %lli", (long long *)&n[0]);
		ask_child(n[0]);
	} else if (!strcmp(what, "unmap")) {
		result(munmap((void *)(uintptr_t)map, map_len));
		map = NULL;
	} else if (!strcmp(what, "close")) {
		result(close(fd));
		fd = -1;
	} else if (!strcmp(what, "exit")) {
		printf("ok\n");
		exit(0);
	} else {
		printf("err unknown: %s\n", what);
	}
}

int main(void)
{
	struct sigaction sa = { .sa_handler = on_bus };
	char line[512];

	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGBUS, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < VECTORS; i++)
		efds[i] = -1;
	printf("ready\n");
	while (fgets(line, sizeof(line), stdin))
		obey(line);
	return 0;
}
