// SPDX-License-Identifier: MIT
/*
 * pause DEVICE COMMAND: what a process feels of a reset or a suspend: nothing but one
 * event on each vector, and a new generation.
 *
 *	pause /dev/portal0 'echo 1 > /sys/class/portal/portal0/device/reset'
 *
 * While COMMAND runs one thread looks at a word of the region all the time, which
 * must never read as the all-ones of a device that does not answer, and another
 * rings. TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "guest.h"

#include <pthread.h>

#define PATTERN		0x50415553u
#define ROUNDS		20

static int fd;
static struct portal_info info;
static volatile uint32_t *region;
static volatile bool stop;
static unsigned long looks, wrong, rings, failed;

static void *look(void *arg)
{
	(void)arg;
	while (!stop) {
		uint32_t seen = region[5];

		looks++;
		wrong += seen != PATTERN;
	}
	return NULL;
}

static void *ringing(void *arg)
{
	(void)arg;
	while (!stop) {
		failed += ring(fd, info.peer_id, 0) != 0;
		rings++;
	}
	return NULL;
}

/* One event on each vector but those that are rung besides. */
static bool one_each(int from, int file)
{
	struct portal_event ev[2048];
	ssize_t n = read(file, ev, sizeof(ev));
	uint32_t counts[2048] = { 0 }, v;
	int i;

	for (i = 0; i < (int)(n / (ssize_t)sizeof(ev[0])); i++)
		counts[ev[i].vector] += ev[i].count;
	for (v = from; v < info.vectors; v++) {
		if (counts[v] != 1)
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	pthread_t looker, ringer;
	int quiet, i, bad = 0;
	uint32_t before;

	if (argc != 3) {
		fprintf(stderr, "usage: pause DEVICE COMMAND\n");
		return 2;
	}
	start(240);
	fd = open_portal(argv[1], O_RDWR);
	quiet = open_portal(argv[1], O_RDONLY | O_NONBLOCK);
	info = get_info(fd);
	region = mmap(NULL, info.region_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (region == MAP_FAILED)
		die("mmap");
	region[5] = PATTERN;
	before = info.generation;

	ok(!system(argv[2]), "%s", argv[2]);
	info = get_info(fd);
	ok(info.generation == before + 1, "a new generation");
	ok(one_each(0, quiet), "one event on each of %u vectors", info.vectors);
	ok(region[5] == PATTERN, "the memory is as it was");
	ok(!(info.caps & PORTAL_CAP_DOORBELL) || !ring(fd, info.peer_id, 0), "ringing works");
	if (info.vectors)
		ok(wait_for(quiet, POLLIN, PATIENT_MS) & POLLIN && read(quiet, (struct portal_event[1]){},
		   sizeof(struct portal_event)) > 0, "and is heard");

	pthread_create(&looker, NULL, look, NULL);
	if (info.caps & PORTAL_CAP_DOORBELL)
		pthread_create(&ringer, NULL, ringing, NULL);
	for (i = 0; i < ROUNDS; i++) {
		bad += system(argv[2]) != 0;
		bad += !one_each(1, quiet);
	}
	stop = true;
	pthread_join(looker, NULL);
	if (info.caps & PORTAL_CAP_DOORBELL)
		pthread_join(ringer, NULL);
	ok(!bad, "%d times more, while it is used", ROUNDS);
	ok(looks && !wrong, "%lu looks, %lu saw anything but the memory", looks, wrong);
	ok(!failed, "%lu rings, %lu failed", rings, failed);
	ok(get_info(fd).generation == before + 1 + ROUNDS, "each is a generation");
	return done();
}
