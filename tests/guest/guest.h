/* SPDX-License-Identifier: MIT */
/*
 * What the guest programs share: TAP, and small helpers around /dev/portalN.
 * Header only; every program is one file. A wait has a limit everywhere: alarm()
 * in start(), and poll() with a timeout.
 */
#ifndef VMPORTAL_TESTS_GUEST_H
#define VMPORTAL_TESTS_GUEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/portal.h>

#define MAYBE __attribute__((unused))

static int tap_count, tap_failed;

/*
 * So long one waits for what has to come at once: a machine that others keep from running may
 * take its time, and only a test that fails waits for all of it.
 */
#define PATIENT_MS	60000

/* A test that hangs comes to an end; GUEST_SLOW: so many times slower is this kernel than others. */
static void start(unsigned int limit_s)
{
	const char *slow = getenv("GUEST_SLOW");

	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	/* Four times, for the machine has others to serve. */
	alarm(4 * limit_s * (slow ? (unsigned int)atoi(slow) : 1));
}

static bool __attribute__((format(printf, 2, 3))) ok(bool good, const char *fmt, ...)
{
	int saved = errno;
	va_list ap;

	printf("%sok %d - ", good ? "" : "not ", ++tap_count);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	if (!good) {
		tap_failed++;
		printf("# errno %d: %s\n", saved, strerror(saved));
	}
	return good;
}

static MAYBE void skip(const char *name, const char *why)
{
	printf("ok %d - %s # SKIP %s\n", ++tap_count, name, why);
}

/* A call that returned ret must have failed with error. */
static MAYBE bool fails(long ret, int error, const char *name)
{
	int saved = errno;
	bool good = ret == -1 && saved == error;

	ok(good, "%s: %s", name, strerror(error));
	if (!good)
		printf("# returned %ld, errno %d (%s), expected %d\n", ret, saved,
		       strerror(saved), error);
	return good;
}

static int done(void)
{
	printf("1..%d\n", tap_count);
	return tap_failed != 0;
}

static MAYBE void __attribute__((noreturn)) die(const char *what)
{
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(1);
}

static MAYBE int open_portal(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0)
		die(path);
	return fd;
}

static MAYBE struct portal_info get_info(int fd)
{
	struct portal_info info = { .size = sizeof(info) };

	if (ioctl(fd, PORTAL_INFO, &info))
		die("PORTAL_INFO");
	return info;
}

static MAYBE int ring(int fd, uint32_t peer, uint32_t vector)
{
	struct portal_ring r = { .size = sizeof(r), .peer = peer, .vector = vector };

	return ioctl(fd, PORTAL_RING, &r);
}

static MAYBE int bind_eventfd(int fd, uint32_t vector, int efd)
{
	struct portal_eventfd e = { .size = sizeof(e), .vector = vector, .fd = efd };

	return ioctl(fd, PORTAL_EVENTFD, &e);
}

static MAYBE int set_flags(int fd, uint32_t flags)
{
	struct portal_file f = { .size = sizeof(f), .flags = flags };

	return ioctl(fd, PORTAL_FILE, &f);
}

/* A window of fd, as PORTAL_WINDOW returns it. */
static MAYBE int window(int fd, uint32_t flags, uint64_t offset, uint64_t length,
			const uint32_t *vectors, uint32_t nr_vectors,
			const struct portal_bell *bells, uint32_t nr_bells)
{
	struct portal_window w = {
		.size = sizeof(w), .flags = flags, .offset = offset, .length = length,
		.vectors = (uintptr_t)vectors, .nr_vectors = nr_vectors,
		.bells = (uintptr_t)bells, .nr_bells = nr_bells,
	};

	return ioctl(fd, PORTAL_WINDOW, &w);
}

/* One without doorbells. */
static MAYBE int plain_window(int fd, uint32_t flags, uint64_t offset, uint64_t length)
{
	return window(fd, flags, offset, length, NULL, 0, NULL, 0);
}

/* Of a thread, or a process, as in /proc/PID/stat; 0 of one that is not there, or has no number yet. */
static MAYBE char state_of_thread(pid_t tid)
{
	char path[64], text[256] = "";
	const char *behind;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", (int)tid, (int)tid);
	f = tid ? fopen(path, "r") : NULL;
	if (f && !fgets(text, sizeof(text), f))
		text[0] = 0;
	if (f)
		fclose(f);
	behind = strrchr(text, ')');
	return behind && behind[1] ? behind[2] : 0;
}

/* Whether it sleeps until something wakes it. */
static MAYBE bool is_asleep(pid_t tid)
{
	return state_of_thread(tid) == 'S';
}

/* Evaluates a condition every few milliseconds, for so long; what a machine stood still does not count. */
#define UNTIL(condition, ms) ({						\
	int left_ = (ms);						\
									\
	while (!(condition) && left_ > 0) {				\
		usleep(5000);						\
		left_ -= 5;						\
	}								\
	(condition);							\
})

/* revents within ms, or 0. */
static MAYBE short wait_for(int fd, short events, int ms)
{
	struct pollfd p = { .fd = fd, .events = events };

	return poll(&p, 1, ms) == 1 ? p.revents : 0;
}

/* An eventfd's count, 0 if it has none. */
static MAYBE uint64_t count_of(int efd)
{
	uint64_t n = 0;

	if (!(wait_for(efd, POLLIN, 0) & POLLIN) || read(efd, &n, sizeof(n)) != sizeof(n))
		return 0;
	return n;
}

static sigjmp_buf fault_jump;

static void on_fault(int sig)
{
	siglongjmp(fault_jump, sig);
}

/*
 * Loads from, or if value is not negative stores to, an address: 0 and the word in
 * *got, or the signal that came of it.
 */
static MAYBE int touch(volatile void *at, long value, uint32_t *got)
{
	struct sigaction act = { .sa_handler = on_fault }, bus, segv;
	volatile uint32_t *word = at;
	int sig;

	sigaction(SIGBUS, &act, &bus);
	sigaction(SIGSEGV, &act, &segv);
	sig = sigsetjmp(fault_jump, 1);
	if (!sig) {
		uint32_t seen;

		if (value >= 0)
			*word = value;
		seen = *word;
		if (got)
			*got = seen;
	}
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	return sig;
}

#endif /* VMPORTAL_TESTS_GUEST_H */
