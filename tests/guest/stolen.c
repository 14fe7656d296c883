// SPDX-License-Identifier: MIT
/*
 * stolen [A [B]]: read() of a file that does not block, by two threads that share it, as the other
 * takes the one event that there is. A and B are the ends of a loopback pair, with as many vectors
 * as it can have: to look through them takes long, and the event goes in between. TAP.
 */
#include "guest.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#define READERS	2
#define ROUNDS	2000
#define LIMIT_S	20

static int fd;
static atomic_uint round_now, taken, through;

/* Until one of them has it, nobody sleeps. */
static void one_round(unsigned int n)
{
	struct portal_event ev;

	while (atomic_load(&taken) != n) {
		if (read(fd, &ev, sizeof(ev)) == sizeof(ev))
			atomic_store(&taken, n);
		else if (errno != EAGAIN)
			die("read()");
	}
	atomic_fetch_add(&through, 1);
}

static void *reading(void *arg)
{
	unsigned int n;

	for (n = 1; n <= ROUNDS; n++) {
		while (atomic_load(&round_now) < n)
			sched_yield();
		one_round(n);
	}
	return arg;
}

static bool all_through(unsigned int n)
{
	time_t end = time(NULL) + LIMIT_S;

	while (atomic_load(&through) < n * READERS) {
		if (time(NULL) > end)
			return false;
		sched_yield();
	}
	return true;
}

int main(int argc, char **argv)
{
	int b = open_portal(argc > 2 ? argv[2] : "/dev/portal1", O_RDWR);
	pthread_t thread[READERS];
	struct portal_info info;
	unsigned int n, i;

	start(120);
	fd = open_portal(argc > 1 ? argv[1] : "/dev/portal0", O_RDONLY | O_NONBLOCK);
	info = get_info(fd);
	for (i = 0; i < READERS; i++)
		pthread_create(&thread[i], NULL, reading, NULL);
	for (n = 1; n <= ROUNDS; n++) {
		atomic_store(&round_now, n);
		for (i = rand() % 4; i; i--)
			sched_yield();
		if (ring(b, info.peer_id, info.vectors - 1))
			die("PORTAL_RING");
		if (!all_through(n))
			break;
	}
	ok(n > ROUNDS, "nobody sleeps in a file that does not block, %u times (%u vectors)", n - 1,
	   info.vectors);
	return done();
}
