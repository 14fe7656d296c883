// SPDX-License-Identifier: MIT
/*
 * Is this machine one in which atomics and fences work between machines?
 *
 *	guard add PATH OFFSET PARTIES COUNT
 *	guard fence PATH OFFSET ME ROUNDS
 *
 * An emulator may compile locked instructions and fences to nothing when it
 * believes that it runs a single CPU; every test of shared memory that passes
 * there would prove nothing. PATH is /dev/portalN or a file, OFFSET a page in
 * it that holds zeroes and is nobody else's.
 *
 * add: each of PARTIES processes, wherever it runs, adds one COUNT times to the
 * same word by a locked instruction, and then prints the sum.
 *
 * fence: Dekker's pattern by two parties, ME 0 and 1: store own flag, full
 * fence, load the other's. Both missing the other's store in one round is
 * impossible with fences. Prints the misses.
 *
 * Exit status: 0 as it must be, 3 wrong sum or a miss, 4 the others did not
 * come within WAIT_S, 2 wrong usage or no such memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define WAIT_S	90

/* Each word on a pair of cache lines of its own. */
struct board {
	uint64_t arrived __attribute__((aligned(128)));
	uint64_t word __attribute__((aligned(128)));
	uint64_t done __attribute__((aligned(128)));
	struct {
		uint64_t flag __attribute__((aligned(128)));
		uint64_t at __attribute__((aligned(128)));
		uint64_t seen[2];
	} side[2];
};

static time_t deadline;

static void spin(unsigned int *n)
{
	/* Parties may outnumber CPUs: let the others run now and then. */
	if (++*n % 64 == 0)
		sched_yield();
	if (*n % 4096 == 0 && time(NULL) > deadline) {
		fprintf(stderr, "guard: the others did not come within %d s\n", WAIT_S);
		exit(4);
	}
}

static void wait_for(const uint64_t *p, uint64_t least)
{
	unsigned int n = 0;

	while (__atomic_load_n(p, __ATOMIC_ACQUIRE) < least)
		spin(&n);
}

static int add(struct board *b, uint64_t parties, uint64_t count)
{
	uint64_t sum;

	__atomic_fetch_add(&b->arrived, 1, __ATOMIC_SEQ_CST);
	wait_for(&b->arrived, parties);
	for (uint64_t i = 0; i < count; i++)
		__atomic_fetch_add(&b->word, 1, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&b->done, 1, __ATOMIC_SEQ_CST);
	wait_for(&b->done, parties);
	sum = __atomic_load_n(&b->word, __ATOMIC_SEQ_CST);
	printf("sum %llu of %llu\n", (unsigned long long)sum,
	       (unsigned long long)(parties * count));
	return sum == parties * count ? 0 : 3;
}

static int fence(struct board *b, int me, uint64_t rounds)
{
	uint64_t misses = 0;

	for (uint64_t i = 1; i <= rounds; i++) {
		uint64_t seen;

		/* Both begin a round at once; neither is ever two ahead. */
		__atomic_store_n(&b->side[me].flag, i, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		seen = __atomic_load_n(&b->side[!me].flag, __ATOMIC_RELAXED);
		b->side[me].seen[i & 1] = seen;
		__atomic_store_n(&b->side[me].at, i, __ATOMIC_RELEASE);
		wait_for(&b->side[!me].at, i);
		if (seen < i && b->side[!me].seen[i & 1] < i)
			misses++;
	}
	printf("misses %llu of %llu\n", (unsigned long long)misses,
	       (unsigned long long)rounds);
	return misses ? 3 : 0;
}

int main(int argc, char **argv)
{
	long page = sysconf(_SC_PAGESIZE);
	struct board *b;
	int fd;

	if (argc != 6) {
		fprintf(stderr, "usage: guard add PATH OFFSET PARTIES COUNT | guard fence PATH OFFSET ME ROUNDS\n");
		return 2;
	}
	fd = open(argv[2], O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		fprintf(stderr, "guard: %s: %s\n", argv[2], strerror(errno));
		return 2;
	}
	b = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, strtoull(argv[3], NULL, 0));
	if (b == MAP_FAILED) {
		fprintf(stderr, "guard: %s: mmap: %s\n", argv[2], strerror(errno));
		return 2;
	}
	deadline = time(NULL) + WAIT_S;
	if (!strcmp(argv[1], "add"))
		return add(b, strtoull(argv[4], NULL, 0), strtoull(argv[5], NULL, 0));
	if (!strcmp(argv[1], "fence"))
		return fence(b, !!atoi(argv[4]), strtoull(argv[5], NULL, 0));
	fprintf(stderr, "guard: %s: unknown\n", argv[1]);
	return 2;
}
