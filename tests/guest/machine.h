/* SPDX-License-Identifier: MIT */
/*
 * A machine's row in a managed portal, as a program in it sees it that can also write the
 * tables, through OTHER's mapping, as another machine would.
 */
#ifndef VMPORTAL_TESTS_MACHINE_H
#define VMPORTAL_TESTS_MACHINE_H

#include "super.h"

#include <time.h>

#define DATA	(2 * PORTAL_UNIT)

/* A row that this program plays, of an address that no transport has given out. */
#define PLAYED	5u

static const char *device;
static int fd, other;
static MAYBE long page;
static MAYBE int beat_ms;
static void *tables;
static MAYBE struct portal_info info;

static MAYBE double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static MAYBE void read_text(const char *path, char *text, size_t room)
{
	int file = open(path, O_RDONLY);
	ssize_t n = read(file, text, room - 1);

	close(file);
	text[n > 0 ? n - (text[n - 1] == '\n') : 0] = 0;
}

static MAYBE void attribute(const char *name, char *text, size_t room)
{
	char path[200];

	snprintf(path, sizeof(path), "/sys/class/portal/%s/%s", strrchr(device, '/') + 1, name);
	read_text(path, text, room);
}

static MAYBE bool alive(uint64_t token)
{
	return token && token_state(tables, token) == PORTAL_LIFE_ALIVE;
}

/* The slot, by what sysfs says; 0: none. */
static MAYBE unsigned int own_slot(void)
{
	char text[64];

	attribute("slot", text, sizeof(text));
	return strtoul(text, NULL, 10);
}

static MAYBE volatile struct portal_peer *own(void)
{
	return peer_row(tables, own_slot());
}

/* Reads what there is: how many changes; doorbells too if rings is given. */
static MAYBE uint64_t take_changes(int file, uint64_t *rings)
{
	struct portal_event ev[64];
	uint64_t n = 0;
	ssize_t got;

	if (rings)
		*rings = 0;
	fcntl(file, F_SETFL, O_NONBLOCK);
	while ((got = read(file, ev, sizeof(ev))) > 0) {
		for (ssize_t i = 0; i < got / (ssize_t)sizeof(ev[0]); i++) {
			if (ev[i].type == PORTAL_EVENT_CHANGE)
				n += ev[i].count;
			else if (rings)
				*rings += ev[i].count;
		}
	}
	fcntl(file, F_SETFL, 0);
	return n;
}

/* Until nothing has changed for a while. */
static MAYBE void settle(void)
{
	int i;

	for (i = 0; i < 50; i++) {
		usleep(2000 * beat_ms);
		if (!take_changes(fd, NULL))
			return;
	}
	ok(false, "the tables come to rest");
}

static MAYBE int fence(int file, uint32_t flags, uint32_t slot, uint64_t claim)
{
	struct portal_fence f = { .size = sizeof(f), .flags = flags, .slot = slot, .claim = claim };

	return ioctl(file, PORTAL_FENCE, &f);
}

/* Another machine's row, without a heart, or this program is that. */
static MAYBE void play(uint64_t claim, uint32_t notice, uint32_t heartbeat_ms)
{
	volatile struct portal_peer *row = peer_row(tables, PLAYED);

	row->claim = claim;
	row->incarnation = 77;
	row->kind = PORTAL_PEER_GUEST;
	row->heartbeat_ms = heartbeat_ms;
	row->notice = notice;
	row->vectors = info.vectors;
	row->heartbeat++;
	__atomic_store_n(&row->life, (row->life >> 16 << 16) + (1 << 16) + PORTAL_LIFE_ALIVE,
			 __ATOMIC_RELEASE);
}

/* Whether each word of the tables is @word. */
static MAYBE bool tables_are(uint64_t word)
{
	const volatile uint64_t *at = tables;
	unsigned int i;

	for (i = PORTAL_SUPER_SIZE / 8; i < SUPER_PROTECTED / 8; i++) {
		if (at[i] != word)
			return false;
	}
	return true;
}

/* It does not rely on the superblock, or not any more. */
static MAYBE bool is_damaged(void)
{
	char text[64];

	attribute("mode", text, sizeof(text));
	return !strcmp(text, "damaged");
}

/* Somebody begins to format the region, or has done so; but the tables are all @word. */
static MAYBE void format_anew(uint64_t word, bool finished)
{
	struct portal_super s = super_good(info.region_size);
	volatile uint64_t *at = tables;
	unsigned int i;

	at[0] = PORTAL_MAGIC_FORMATTING;
	__sync_synchronize();
	for (i = PORTAL_SUPER_SIZE / 8; i < SUPER_PROTECTED / 8; i++)
		at[i] = word;
	if (!finished)
		return;
	s.incarnation = ((volatile struct portal_super *)tables)->incarnation + 1;
	super_seal(&s);
	memcpy((char *)tables + 8, (char *)&s + 8, sizeof(s) - 8);
	__atomic_store_n(&at[0], PORTAL_MAGIC, __ATOMIC_RELEASE);
}

static pid_t began;

/* A device's memory outlives its driver: who probes it next is to find nothing. */
static void wipe(void)
{
	if (getpid() != began)
		return;
	set_mode(fd, PORTAL_MODE_RAW);
	memset(tables, 0, SUPER_PROTECTED);
}

/*
 * DEVICE, formatted and managed until this program ends; OTHER, which shows the same memory
 * and is raw, with the tables writable. False: this kernel has no sessions, and all that it
 * can say is said.
 */
static MAYBE bool begin(int argc, char **argv, unsigned int limit_s)
{
	page = sysconf(_SC_PAGESIZE);
	device = argc > 1 ? argv[1] : "/dev/portal0";
	start(limit_s);
	fd = open_portal(device, O_RDWR);
	other = open_portal(argc > 2 ? argv[2] : "/dev/portal1", O_RDWR);
	info = get_info(fd);
	fails(session(fd, 0, PORTAL_SESSION_SILENT, NULL), ENODATA, "a raw portal has no sessions");
	make_managed(fd);
	tables = map_tables(other);
	began = getpid();
	atexit(wipe);
	if (!has_sessions(fd)) {
		ok(!set_mode(fd, PORTAL_MODE_RAW) && !own_slot(), "raw");
		return false;
	}
	beat_ms = own()->heartbeat_ms;
	return true;
}

#endif /* VMPORTAL_TESTS_MACHINE_H */
