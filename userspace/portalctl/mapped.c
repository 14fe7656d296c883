// SPDX-License-Identifier: MIT
/*
 * Who has mapped the memory of an open portal. Its own mapping in /proc/self/maps says
 * which file that is; the maps of the other processes say who has it, too. A machine
 * shows as its QEMU. What cannot be looked at (another user's process) is counted.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mapped.h"

struct file {
	unsigned int major, minor;
	uint64_t inode;
};

/* One line of a maps file; false: it maps no file. */
static bool parse_line(const char *line, uint64_t *start, uint64_t *end, struct file *f)
{
	return sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*s %x:%x %" SCNu64, start, end,
		      &f->major, &f->minor, &f->inode) == 5 && f->inode;
}

static bool same(const struct file *a, const struct file *b)
{
	return a->inode == b->inode && a->major == b->major && a->minor == b->minor;
}

/* The file behind address @base of this process. */
static bool own_file(const void *base, struct file *f)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	uint64_t start, end;
	char line[512];
	bool hit = false;

	while (maps && !hit && fgets(line, sizeof(line), maps))
		hit = parse_line(line, &start, &end, f) && start <= (uintptr_t)base &&
		      (uintptr_t)base < end;
	if (maps)
		fclose(maps);
	return hit;
}

/* 1: process @pid maps @f, 0: not (or no more there), -1: that is not to be seen. */
static int maps_file(const char *pid, const struct file *f)
{
	uint64_t start, end;
	struct file g;
	char path[64], line[512];
	int hit = 0;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%.20s/maps", pid);
	maps = fopen(path, "re");
	if (!maps)
		return errno == EACCES || errno == EPERM ? -1 : 0;
	errno = 0;
	while (!hit && fgets(line, sizeof(line), maps))
		hit = parse_line(line, &start, &end, &g) && same(f, &g);
	if (!hit && (errno == EACCES || errno == EPERM))
		hit = -1;
	fclose(maps);
	return hit;
}

static void name_of(const char *pid, char *buf, size_t cap)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
	f = fopen(path, "re");
	if (!f || !fgets(buf, (int)cap, f))
		snprintf(buf, cap, "?");
	buf[strcspn(buf, "\n")] = '\0';
	for (char *c = buf; *c; c++)
		if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f)
			*c = '?';
	if (f)
		fclose(f);
}

int mapped_by_others(struct vmp *p, struct mapped *m)
{
	struct dirent *e;
	struct file f;
	void *base;
	DIR *d;

	memset(m, 0, sizeof(*m));
	if (vmp_map(p, &base, NULL) || !own_file(base, &f))
		return -1;
	d = opendir("/proc");
	if (!d)
		return -1;
	while ((e = readdir(d))) {
		if (!isdigit((unsigned char)*e->d_name) || strtol(e->d_name, NULL, 10) == getpid())
			continue;
		switch (maps_file(e->d_name, &f)) {
		case 1:
			if (!m->count++) {
				m->pid = strtol(e->d_name, NULL, 10);
				name_of(e->d_name, m->name, sizeof(m->name));
			}
			break;
		case -1:
			m->unseen++;
		}
	}
	closedir(d);
	return 0;
}
