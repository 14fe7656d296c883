/* SPDX-License-Identifier: MIT */
/*
 * A superblock of a managed portal, from portal-layout(5): for programs that format a
 * region themselves, and know where its tables are.
 */
#ifndef VMPORTAL_TESTS_SUPER_H
#define VMPORTAL_TESTS_SUPER_H

#include "guest.h"

#include <linux/portal_layout.h>

#define SUPER_PROTECTED	65536u	/* of super_good()'s */
#define SUPER_PEERS	8u
#define SUPER_SESSIONS	16u	/* rows in each peer's block */

static MAYBE uint32_t super_crc32c(const void *data, size_t len)
{
	const unsigned char *c = data;
	uint32_t crc = ~0u;
	int i;

	while (len--) {
		crc ^= *c++;
		for (i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

static MAYBE void super_seal(struct portal_super *s)
{
	s->checksum = 0;
	s->checksum = super_crc32c(s, sizeof(*s));
}

static MAYBE void super_area(struct portal_super *s, unsigned int i, uint64_t offset,
			     uint32_t stride, uint32_t count)
{
	s->area[i] = (struct portal_area){ offset, (uint64_t)stride * count, stride, count };
}

/* For a region of so many bytes, 256 KiB at least; not sealed. */
static MAYBE struct portal_super super_good(uint64_t bytes)
{
	struct portal_super s = {
		.magic = PORTAL_MAGIC, .version = PORTAL_LAYOUT_VERSION,
		.size = bytes / PORTAL_UNIT * PORTAL_UNIT, .protected_size = SUPER_PROTECTED,
		.incarnation = 0x1234567890abcdef, .uuid = { 1 },
		.peers = SUPER_PEERS, .sessions = SUPER_SESSIONS,
	};

	super_area(&s, PORTAL_AREA_PEERS, 4096, 512, SUPER_PEERS);
	super_area(&s, PORTAL_AREA_SESSIONS, 8192, 128, SUPER_PEERS * SUPER_SESSIONS);
	super_area(&s, PORTAL_AREA_DIRECTORY, SUPER_PROTECTED, 4096, 1);
	super_area(&s, PORTAL_AREA_OBJECTS, SUPER_PROTECTED + 4096, 256, 16);
	super_area(&s, PORTAL_AREA_USES, SUPER_PROTECTED + 8192, 32, 16);
	super_area(&s, PORTAL_AREA_PENDING, SUPER_PROTECTED + 12288, 128, SUPER_PEERS);
	super_area(&s, PORTAL_AREA_DATA, 2 * PORTAL_UNIT, PORTAL_UNIT, s.size / PORTAL_UNIT - 2);
	return s;
}

static MAYBE int set_mode(int file, uint32_t mode)
{
	struct portal_set_mode m = { .size = sizeof(m), .mode = mode };

	return ioctl(file, PORTAL_SET_MODE, &m);
}

/* ---- The tables, through a mapping that may write them --------------------------------- */

static MAYBE volatile struct portal_peer *peer_row(void *region, unsigned int slot)
{
	return (volatile struct portal_peer *)((char *)region + 4096) + slot;
}

/* By its number in the whole table: the low 16 bits of a token. */
static MAYBE volatile struct portal_session *session_row(void *region, unsigned int row)
{
	return (volatile struct portal_session *)((char *)region + 8192) + row;
}

static MAYBE unsigned int state_of(uint64_t life)
{
	return life & 0xffff;
}

/* What the table says of a token: PORTAL_LIFE_*; DEAD too if it is another's, or 0. */
static MAYBE unsigned int token_state(void *region, uint64_t token)
{
	uint64_t life = session_row(region, token & 0xffff)->life;

	if (life >> PORTAL_SLOT_BITS != token >> PORTAL_SLOT_BITS)
		return life >> PORTAL_SLOT_BITS > token >> PORTAL_SLOT_BITS ? PORTAL_LIFE_DEAD : 0;
	return state_of(life);
}

/* Formats the region of a raw portal that nobody has mapped, and makes it managed. */
static MAYBE void make_managed(int fd)
{
	uint64_t bytes = get_info(fd).region_size;
	struct portal_super s = super_good(bytes);
	char *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (m == MAP_FAILED)
		die("mmap of a raw region");
	memset(m, 0, SUPER_PROTECTED + PORTAL_UNIT);
	super_seal(&s);
	memcpy(m, &s, sizeof(s));
	munmap(m, bytes);
	if (set_mode(fd, PORTAL_MODE_MANAGED))
		die("PORTAL_SET_MODE");
}

/* PORTAL_SESSION; the answer in *b, if there is one. */
static MAYBE int session(int fd, uint32_t flags, uint32_t vector, struct portal_session_begin *b)
{
	struct portal_session_begin mine;

	b = b ? b : &mine;
	*b = (struct portal_session_begin){ .size = sizeof(*b), .flags = flags, .vector = vector };
	return ioctl(fd, PORTAL_SESSION, b);
}

/* The token, or 0. */
static MAYBE uint64_t token_of(int fd)
{
	struct portal_session_begin b;

	return session(fd, 0, PORTAL_SESSION_SILENT, &b) ? 0 : b.token;
}

/*
 * Whether this kernel can have sessions: it can tell an mm's end. Where it cannot, that is
 * what PORTAL_SESSION says, and the rest of a test is told to be left out.
 */
static MAYBE bool has_sessions(int fd)
{
	FILE *symbols = fopen("/proc/kallsyms", "r");
	bool found = false;
	char line[300];

	while (symbols && fgets(line, sizeof(line), symbols))
		found = found || strstr(line, " mmu_notifier_put\n");
	if (symbols)
		fclose(symbols);
	if (found)
		return true;
	fails(session(fd, 0, PORTAL_SESSION_SILENT, NULL), EOPNOTSUPP, "a session, without MMU notifiers");
	skip("sessions", "this kernel has no MMU notifiers (CONFIG_INTEL_IOMMU_SVM, CONFIG_KVM select them)");
	return false;
}

/* Writable, as another machine can, through the other portal's file: that one is raw. */
static MAYBE void *map_tables(int file)
{
	void *tables = mmap(NULL, SUPER_PROTECTED, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

	if (tables == MAP_FAILED)
		die("mmap of the other portal");
	return tables;
}

#endif /* VMPORTAL_TESTS_SUPER_H */
