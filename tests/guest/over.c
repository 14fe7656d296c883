// SPDX-License-Identifier: MIT
/*
 * over DEVICE OTHER: a mapping that is made as a session ends, because nothing is mapped.
 *
 * The module hinder makes the last word of a session take long. Who maps meanwhile must wait
 * for it: a session that others are told is over has nothing mapped writable, from its row's
 * last look at the mappings on. OTHER shows the same memory, and is raw. It formats the region,
 * and leaves DEVICE raw. Two processors are needed. TAP; exit status 0 if all went well, 1
 * otherwise.
 */
#include "machine.h"

#include <pthread.h>

#define HINDER	"/sys/module/hinder/parameters/"

static void set_delay(const char *ms)
{
	int file = open(HINDER "over_ms", O_WRONLY | O_CLOEXEC);

	if (file < 0 || write(file, ms, strlen(ms)) < 0)
		die(HINDER "over_ms");
	close(file);
}

static bool ending(void)
{
	char text[16];

	read_text(HINDER "waiting", text, sizeof(text));
	return atoi(text) > 0;
}

static void *closes(void *file)
{
	close((int)(intptr_t)file);
	return NULL;
}

static void test_mapped_as_it_ends(void)
{
	int file = open_portal(device, O_RDWR), second = open_portal(device, O_RDWR);
	uint64_t token = token_of(file);
	bool seen, lived;
	pthread_t thread;
	double took;
	char *m;

	ok(alive(token), "a session");
	set_delay("3000");
	pthread_create(&thread, NULL, closes, (void *)(intptr_t)file);
	seen = UNTIL(ending(), PATIENT_MS);
	took = now();
	m = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, second, DATA);
	took = now() - took;
	lived = alive(token);
	pthread_join(thread, NULL);
	set_delay("0");
	ok(seen && m != MAP_FAILED, "it ends, and is in the middle, when another file is mapped (%.0f ms)",
	   1000 * took);
	ok(!lived || alive(token), "what is mapped while it lives keeps it alive");
	ok(!alive(token), "and here it was over first");
	munmap(m, page);
	close(second);
}

int main(int argc, char **argv)
{
	page = sysconf(_SC_PAGESIZE);
	device = argc > 1 ? argv[1] : "/dev/portal0";
	start(100);
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		die("two processors");
	fd = open_portal(device, O_RDWR);
	make_managed(fd);
	other = open_portal(argc > 2 ? argv[2] : "/dev/portal1", O_RDWR);
	tables = map_tables(other);
	if (has_sessions(fd))
		test_mapped_as_it_ends();
	ok(!set_mode(fd, PORTAL_MODE_RAW), "raw");
	memset(tables, 0, SUPER_PROTECTED);
	return done();
}
