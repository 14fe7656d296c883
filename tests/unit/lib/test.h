/* SPDX-License-Identifier: MIT */
/* What the library's unit tests share. */
#ifndef TESTS_UNIT_LIB_TEST_H
#define TESTS_UNIT_LIB_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/*
 * Nothing here needs longer, not on a machine that has much else to do, either; a hang is a
 * failure, and says where. A test that does not come to its end by itself is ended after ALARM_S.
 */
#ifndef PATIENCE_MS
#define PATIENCE_MS 60000
#endif
#define ALARM_S 300

/* Sanitizers slow everything down; what they look for shows in fewer rounds. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* xorshift64*: the same numbers at every run. */
struct rng { uint64_t s; };

static inline uint64_t rnd(struct rng *r)
{
	r->s ^= r->s >> 12;
	r->s ^= r->s << 25;
	r->s ^= r->s >> 27;
	return r->s * UINT64_C(2685821657736338717);
}

static inline uint64_t below(struct rng *r, uint64_t n)
{
	return rnd(r) % n;
}

static inline int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000;
}

static inline int fd_count(void)
{
	int n = 0, fd;

	for (fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Content that says which message and which byte it is. */
static inline void pattern(void *buf, size_t len, uint64_t seed)
{
	unsigned char *c = buf;
	size_t i;

	for (i = 0; i < len; i++)
		c[i] = (unsigned char)(seed * 151 + i * 7 + (i >> 8));
}

static inline bool is_pattern(const void *buf, size_t len, uint64_t seed)
{
	const unsigned char *c = buf;
	size_t i;

	for (i = 0; i < len; i++)
		if (c[i] != (unsigned char)(seed * 151 + i * 7 + (i >> 8)))
			return false;
	return true;
}

/* Whether this process could store at @at, 8 bytes, which stay as they are. */
static inline bool can_store(void *at)
{
	int fd[2];
	bool can;

	assert_int_equal(pipe(fd), 0);
	assert_int_equal(write(fd[1], at, 8), 8);
	can = read(fd[0], at, 8) == 8;
	close(fd[0]);
	close(fd[1]);
	return can;
}

#endif /* TESTS_UNIT_LIB_TEST_H */
