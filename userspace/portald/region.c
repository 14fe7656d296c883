// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <lib/layout.h>

#include "region.h"

/* The size of the system's default huge page, 0 if there is none. */
static uint64_t default_hugepage(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kb = 0;
	char line[128];

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Hugepagesize: %llu kB", &kb) == 1)
			break;
	fclose(f);
	return kb << 10;
}

static long hugepage_count(uint64_t page, const char *what)
{
	char path[128];
	long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/%s",
		 page >> 10, what);
	f = fopen(path, "re");
	if (!f)
		return -1;
	if (fscanf(f, "%ld", &n) != 1)
		n = -1;
	fclose(f);
	return n;
}

static int too_few(const struct portal_conf *p, uint64_t page, struct err *e)
{
	long spare = hugepage_count(page, "free_hugepages"), total, held;
	uint64_t need = p->size / page;

	held = hugepage_count(page, "resv_hugepages");
	total = hugepage_count(page, "nr_hugepages");
	spare -= held > 0 ? held : 0;
	return err_set(e, "hugepages: %" PRIu64 " pages of %" PRIu64 " kB needed, %ld spare: echo %" PRIu64 " > /sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/nr_hugepages, or hugepages = no",
		       need, page >> 10, spare > 0 ? spare : 0,
		       need + (uint64_t)(total > 0 ? total : 0) -
		       (uint64_t)(spare > 0 ? spare : 0), page >> 10);
}

/* The flags of memfd_create() for @p's pages; -1 and @e if there are no such pages. */
static int page_flags(const struct portal_conf *p, uint64_t *page, struct err *e)
{
	if (!p->hugepages)
		return 0;
	*page = p->hugepages == 1 ? default_hugepage() : p->hugepages;
	if (!*page || hugepage_count(*page, "nr_hugepages") < 0)
		return err_set(e, "hugepages: this kernel has no huge pages of %" PRIu64 " kB (ls /sys/kernel/mm/hugepages): choose another size, or hugepages = no",
			       *page >> 10);
	if (p->size < *page)
		return err_set(e, "hugepages: the portal is smaller than one page of %" PRIu64 " kB: make it larger, or hugepages = no",
			       *page >> 10);
	return (int)(MFD_HUGETLB |
		     (unsigned int)__builtin_ctzll(*page) << MFD_HUGE_SHIFT);
}

static int reserve_huge(int fd, const struct portal_conf *p, uint64_t page, struct err *e)
{
	/*
	 * A shared mapping reserves all its huge pages, and the reservation stays
	 * with the file: no guest gets SIGBUS later for want of a page.
	 */
	void *map = mmap(NULL, p->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		return too_few(p, page, e);
	munmap(map, p->size);
	return 0;
}

static int name_layout(struct portal_super *s, const struct portal_conf *p, struct err *e)
{
	struct timespec now;

	do {
		if (getrandom(&s->incarnation, sizeof(s->incarnation), 0) < 0 ||
		    getrandom(s->uuid, sizeof(s->uuid), 0) < 0)
			return err_set(e, "getrandom: %s", strerror(errno));
	} while (!s->incarnation);
	s->uuid[6] = (s->uuid[6] & 0x0f) | 0x40;	/* RFC 9562: version 4 */
	s->uuid[8] = (s->uuid[8] & 0x3f) | 0x80;
	strcpy(s->name, p->name);
	snprintf(s->creator, sizeof(s->creator), "portald %s", VMP_VERSION);
	clock_gettime(CLOCK_REALTIME, &now);
	s->created = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	return 0;
}

/* Lays the fresh region out as portal-layout(5) has it; nobody else has it yet. */
static int format(int fd, const struct portal_conf *p, struct err *e)
{
	struct portal_super s = { 0 };
	void *map;
	int ret;

	/* conf_finish() has made sure that there is room. */
	if (layout_plan(&s, p->size, conf_peers(p), p->sessions, 0) < 0)
		return err_set(e, "managed: no room for the tables");
	if (name_layout(&s, p, e) < 0)
		return -1;
	/* All of it: a mapping of huge pages has whole ones. */
	map = mmap(NULL, p->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return err_set(e, "managed: cannot map the region: %s", strerror(errno));
	ret = layout_write(map, &s, 0);
	munmap(map, p->size);
	return ret < 0 ? err_set(e, "managed: the region is not fresh") : 0;
}

static int set_up(int fd, const struct portal_conf *p, uint64_t page, struct err *e)
{
	/*
	 * 0600: who got a read-only descriptor must not be able to open it for
	 * writing through /proc/self/fd (a memfd is born 0777).
	 */
	if (ftruncate(fd, (off_t)p->size) < 0 || fchmod(fd, 0600) < 0)
		return err_set(e, "cannot make a region of %" PRIu64 " bytes: %s",
			       p->size, strerror(errno));
	if (page && reserve_huge(fd, p, page, e) < 0)
		return -1;
	if (p->prealloc && fallocate(fd, 0, 0, (off_t)p->size) < 0)
		return err_set(e, "prealloc: no room for %" PRIu64 " bytes: %s; free some memory, or prealloc = no",
			       p->size, strerror(errno));
	if (p->managed && format(fd, p, e) < 0)
		return -1;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_set(e, "cannot seal the region: %s", strerror(errno));
	return 0;
}

int region_create(const struct portal_conf *p, struct err *e)
{
	char name[NAME_LEN_MAX + 16];
	uint64_t page = 0;
	int flags, fd;

	flags = page_flags(p, &page, e);
	if (flags < 0)
		return -1;
	snprintf(name, sizeof(name), "vmportal-%s", p->name);
	fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | (unsigned int)flags);
	if (fd < 0)
		return err_set(e, "memfd_create: %s", strerror(errno));
	if (set_up(fd, p, page, e) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

int region_reopen_rdonly(int fd)
{
	char path[40];
	int ro;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	return ro < 0 ? -errno : ro;
}
