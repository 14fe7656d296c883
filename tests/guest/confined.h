/* SPDX-License-Identifier: MIT */
/*
 * A window of the middle of a region, with marks inside and outside, for programs that try
 * to get more out of it than was put into it: widen.c, lent.c.
 */
#ifndef VMPORTAL_TESTS_CONFINED_H
#define VMPORTAL_TESTS_CONFINED_H

#include "guest.h"

#define K64	65536UL
#define MiB	(1UL << 20)
#define BOTH	(PROT_READ | PROT_WRITE)

static const char *device;
static int rw;
static struct portal_info info;
static size_t page, size;
static volatile uint32_t *whole;

/* A window of the middle, and what it must not reach: see set_marks(). */
static size_t at, length;
static int win, win_ro;

#define OUTSIDE	0xbad00000u	/* in the first word of each page outside */
#define INSIDE	0x900d0000u	/* and inside */

static void set_marks(void)
{
	size_t i;

	for (i = 0; i < size; i += page)
		whole[i / 4] = (i >= at && i < at + length ? INSIDE : OUTSIDE) + i / page;
}

/* No page outside has been written. */
static MAYBE bool untouched(void)
{
	size_t i, wrong = 0;

	for (i = 0; i < size; i += page)
		wrong += (i < at || i >= at + length) && whole[i / 4] != OUTSIDE + i / page;
	return !wrong;
}

static MAYBE char *map_at(int fd, size_t len, int prot, int flags, uint64_t offset)
{
	return mmap(NULL, len, prot, flags, fd, offset);
}

/* A page of an address range shows the right word, inside, or cannot be touched. */
static MAYBE bool harmless(char *m, size_t from)
{
	uint32_t got = 0;

	return touch(m, -1, &got) || got == INSIDE + (at + from) / page;
}

/* A read-only window of the same place and length, as far as this process can use it. */
static MAYBE bool confined(int fd)
{
	char *m = map_at(fd, length, PROT_READ, MAP_SHARED, 0);
	bool good = m != MAP_FAILED && harmless(m, 0) && harmless(m + length - page, length - page) &&
		    get_info(fd).region_size == length &&
		    map_at(fd, length + page, PROT_READ, MAP_SHARED, 0) == MAP_FAILED &&
		    map_at(fd, page, BOTH, MAP_SHARED, 0) == MAP_FAILED &&
		    plain_window(fd, 1, 0, K64) < 0 && plain_window(fd, 0, 0, 2 * length) < 0;

	if (m != MAP_FAILED)
		munmap(m, length);
	return good;
}

/* Marks the region and makes the windows. */
static void confine(const char *path)
{
	device = path;
	page = sysconf(_SC_PAGESIZE);
	rw = open_portal(device, O_RDWR);
	info = get_info(rw);
	size = info.region_size;
	whole = mmap(NULL, size, BOTH, MAP_SHARED, rw, 0);
	at = 3 * K64;
	length = 4 * K64;
	if (whole == MAP_FAILED || size < at + length + K64)
		die("a region of 512 KiB is wanted");
	set_marks();
	win = plain_window(rw, PORTAL_WINDOW_WRITE, at, length);
	win_ro = plain_window(rw, 0, at, length);
	if (win < 0 || win_ro < 0)
		die("PORTAL_WINDOW");
	printf("# %s: %s, %zu bytes, caps %#llx\n", device, info.transport, size,
	       (unsigned long long)info.caps);
}

#endif /* VMPORTAL_TESTS_CONFINED_H */
