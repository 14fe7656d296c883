// SPDX-License-Identifier: MIT
/*
 * resource FILE COMMAND: who has mapped a device's memory by sysfs when a driver
 * comes (COMMAND) finds his own bytes afterwards, or SIGBUS, but never somebody
 * else's. FILE is .../resource2. TAP.
 */
#include "guest.h"

int main(int argc, char **argv)
{
	const uint32_t mine = 0x12345678;
	volatile uint32_t *m;
	uint32_t got = 0;
	int fd, sig;

	if (argc != 3) {
		fprintf(stderr, "usage: resource FILE COMMAND\n");
		return 2;
	}
	start(60);
	fd = open_portal(argv[1], O_RDWR);
	m = mmap(NULL, sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED)
		die("mmap");
	m[0] = mine;
	ok(m[0] == mine, "the memory is there");
	ok(system(argv[2]) == 0, "%s", argv[2]);
	sig = touch(m, -1, &got);
	ok(sig == SIGBUS || (!sig && got == mine), "a mapping of %s: %s (%#x)", argv[1],
	   sig ? "SIGBUS" : "its bytes", got);
	return done();
}
