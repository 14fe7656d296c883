// SPDX-License-Identifier: MIT
/*
 * left DEVICE OTHER: a row that a machine claims, and does not join in.
 *
 * Somebody who had the row before, and was declared dead, goes on there, while the machine reads
 * where the sequences of its many sessions go on: it leaves the row, and its claim is not to stay.
 * OTHER shows the same memory, and is raw: through it this program is that other one. It formats
 * the region, and leaves DEVICE raw. Two processors are needed. TAP; exit status 0 if all went
 * well, 1 otherwise.
 */
#include "machine.h"

#include <pthread.h>
#include <stdatomic.h>

#define MANY	8192u	/* sessions of a machine */
#define TRIES	200
#define LATE	50e-6	/* after the claim: what is there is known by then, and the rest not read */

static atomic_bool ready, over;

static void *goes_on(void *row)
{
	volatile struct portal_peer *at = row;
	double seen;

	atomic_store(&ready, true);
	while (!at->claim)
		if (atomic_load(&over))
			return NULL;
	for (seen = now(); now() - seen < LATE;)
		;
	at->heartbeat++;
	return NULL;
}

/* Two peers; the rest is as ever, as far as kernels look. */
static struct portal_super super_of_many(uint64_t bytes)
{
	struct portal_super s = super_good(bytes);

	s.peers = 2;
	s.sessions = MANY;
	super_area(&s, PORTAL_AREA_PEERS, 4096, 512, 2);
	super_area(&s, PORTAL_AREA_SESSIONS, 8192, 128, 2 * MANY);
	s.protected_size = (8192 + 2 * MANY * 128 + PORTAL_UNIT - 1) / PORTAL_UNIT * PORTAL_UNIT;
	super_seal(&s);
	return s;
}

/* Whether it does not join; *claim: what is left in the row. */
static bool joins_not(uint64_t *claim)
{
	volatile struct portal_peer *row = peer_row(tables, 1);
	pthread_t thread;
	bool joined;

	memset((void *)row, 0, sizeof(*row));
	atomic_store(&ready, false);
	atomic_store(&over, false);
	pthread_create(&thread, NULL, goes_on, (void *)row);
	while (!atomic_load(&ready))
		sched_yield();
	if (set_mode(fd, PORTAL_MODE_MANAGED))
		die("PORTAL_SET_MODE");
	*claim = row->claim;
	joined = state_of(row->life) == PORTAL_LIFE_ALIVE;
	atomic_store(&over, true);
	pthread_join(thread, NULL);
	set_mode(fd, PORTAL_MODE_RAW);
	return !joined;
}

int main(int argc, char **argv)
{
	struct portal_super s;
	uint64_t claim = 1;
	int tries;

	device = argc > 1 ? argv[1] : "/dev/portal0";
	start(100);
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		die("two processors");
	fd = open_portal(device, O_RDWR);
	other = open_portal(argc > 2 ? argv[2] : "/dev/portal1", O_RDWR);
	tables = map_tables(other);
	s = super_of_many(get_info(fd).region_size);
	memcpy(tables, &s, sizeof(s));
	for (tries = 0; tries < TRIES && !joins_not(&claim); tries++)
		;
	ok(tries < TRIES, "somebody goes on in the row that it claims (the try of number %d)", tries + 1);
	ok(!claim, "it does not join there, and its claim does not stay (%#llx)",
	   (unsigned long long)claim);
	memset(tables, 0, SUPER_PROTECTED);
	return done();
}
