// SPDX-License-Identifier: MIT
/*
 * Who uses the disks and other nodes of a device.
 *
 * The kernel's own users (file systems, swap, device mapper, md) claim a disk, and
 * so do we: O_EXCL fails while they have it, and keeps them off afterwards. Those who
 * merely opened it are found in /proc, loop devices in /sys. What cannot be seen: a
 * user inside the kernel that claims nothing (a storage target).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <glob.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "use.h"

#define RETRIES		20
#define RETRY_US	100000

/**
 * struct node - a device node that sysfs knows
 * @path: its place in sysfs, where its attribute "dev" is
 * @dev: in /dev
 * @rdev: its number
 * @block: a disk or a partition; @part: the latter
 */
struct node {
	char path[PATH_MAX];
	char dev[128];
	dev_t rdev;
	bool block;
	bool part;
};

static int __attribute__((format(printf, 3, 4)))
because(struct use *u, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(u->why, sizeof(u->why), fmt, ap);
	va_end(ap);
	return err;
}

/* Last component of what symbolic link @dir/@name points to. */
static bool link_name(const char *dir, const char *name, char *buf, size_t cap)
{
	char path[PATH_MAX + 32], target[PATH_MAX];
	ssize_t n;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return false;
	target[n] = '\0';
	snprintf(buf, cap, "%.60s", strrchr(target, '/') ? strrchr(target, '/') + 1 : target);
	return true;
}

/* Fills @node from the directory @path, whose uevent names number and node. */
static bool read_node(struct node *node, const char *path)
{
	unsigned int maj = 0, min = 0;
	char file[PATH_MAX + 16], line[256], subsystem[64];
	FILE *f;

	memset(node, 0, sizeof(*node));
	snprintf(node->path, sizeof(node->path), "%s", path);
	snprintf(file, sizeof(file), "%s/uevent", path);
	f = fopen(file, "re");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (!strncmp(line, "DEVNAME=", 8))
			snprintf(node->dev, sizeof(node->dev), "/dev/%.120s", line + 8);
		sscanf(line, "MAJOR=%u", &maj);
		sscanf(line, "MINOR=%u", &min);
	}
	fclose(f);
	node->rdev = makedev(maj, min);
	node->block = link_name(path, "subsystem", subsystem, sizeof(subsystem)) &&
		      !strcmp(subsystem, "block");
	snprintf(file, sizeof(file), "%s/partition", path);
	node->part = !access(file, F_OK);
	return node->dev[0] && maj;
}

/* In words: the process that has @rdev open or mapped, by the links in /proc/PID/@sub. */
static bool process_has(const struct dirent *pid, const char *sub, dev_t rdev, bool block)
{
	char path[PATH_MAX];
	struct dirent *e;
	bool found = false;
	struct stat st;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%s/%s", pid->d_name, sub);
	d = opendir(path);
	while (d && !found && (e = readdir(d))) {
		snprintf(path, sizeof(path), "/proc/%s/%s/%s", pid->d_name, sub, e->d_name);
		found = !stat(path, &st) && st.st_rdev == rdev &&
			(block ? S_ISBLK(st.st_mode) : S_ISCHR(st.st_mode));
	}
	if (d)
		closedir(d);
	return found;
}

/* udev looks at each disk that appears, and is done soon. */
static bool is_udev(const char *comm)
{
	return !strcmp(comm, "(udev-worker)") || !strcmp(comm, "systemd-udevd");
}

static int find_opener(struct use *u, const struct node *node, bool *passes)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	char path[300], comm[32] = "?";
	FILE *f;
	int err = 0;

	if (!d)
		return because(u, -errno, "/proc: %s: cannot see who uses %s", strerror(errno),
			       node->dev);
	while (!err && (e = readdir(d))) {
		if (strspn(e->d_name, "0123456789") != strlen(e->d_name) ||
		    atoi(e->d_name) == getpid())
			continue;
		if (!process_has(e, "fd", node->rdev, node->block) &&
		    !process_has(e, "map_files", node->rdev, node->block))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", e->d_name);
		f = fopen(path, "re");
		if (f && fgets(comm, sizeof(comm), f))
			comm[strcspn(comm, "\n")] = '\0';
		if (f)
			fclose(f);
		*passes = is_udev(comm);
		err = because(u, -EBUSY, "%s is open in process %s (%s); end it first", node->dev,
			      e->d_name, comm);
	}
	closedir(d);
	return err;
}

static int open_by_process(struct use *u, const struct node *node)
{
	bool passes = false;
	int err = find_opener(u, node, &passes);

	for (int i = 0; i < RETRIES && err && passes; i++) {
		usleep(RETRY_US);
		passes = false;
		err = find_opener(u, node, &passes);
	}
	return err;
}

static int used_by_loop(struct use *u, const struct node *node)
{
	char path[PATH_MAX];
	int err = 0;
	glob_t g;

	if (glob("/sys/block/loop*/loop/backing_file", 0, NULL, &g))
		return 0;
	for (size_t i = 0; !err && i < g.gl_pathc; i++) {
		FILE *f = fopen(g.gl_pathv[i], "re");
		struct stat st;

		if (f && fgets(path, sizeof(path), f)) {
			path[strcspn(path, "\n")] = '\0';
			if (!stat(path, &st) && S_ISBLK(st.st_mode) && st.st_rdev == node->rdev)
				err = because(u, -EBUSY, "%s is behind a loop device; losetup -d it first",
					      node->dev);
		}
		if (f)
			fclose(f);
	}
	globfree(&g);
	return err;
}

static bool mounted(struct use *u, const struct node *node)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[PATH_MAX], where[1024];
	unsigned int maj, min;
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%*u %*u %u:%u %*s %1023s", &maj, &min, where) == 3 &&
			makedev(maj, min) == node->rdev;
	if (f)
		fclose(f);
	if (found)
		because(u, 0, "%s is mounted on %.300s; umount it first", node->dev, where);
	return found;
}

static bool swapped(struct use *u, const struct node *node)
{
	FILE *f = fopen("/proc/swaps", "re");
	char line[PATH_MAX], path[1024];
	bool found = false;
	struct stat st;

	while (f && !found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%1023s", path) == 1 && !stat(path, &st) &&
			S_ISBLK(st.st_mode) && st.st_rdev == node->rdev;
	if (f)
		fclose(f);
	if (found)
		because(u, 0, "%s is swap space; swapoff it first", node->dev);
	return found;
}

/* What a holder is called: md7 (md), or dm-0 with the name that its maker gave it. */
static void name_holder(const char *holder, char *buf, size_t cap)
{
	char path[PATH_MAX], name[128] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/sys/block/%.64s/dm/name", holder);
	f = fopen(path, "re");
	if (f && fgets(name, sizeof(name), f))
		name[strcspn(name, "\n")] = '\0';
	if (f)
		fclose(f);
	if (name[0])
		snprintf(buf, cap, "/dev/%.64s (%s, device mapper)", holder, name);
	else
		snprintf(buf, cap, "/dev/%.64s%s", holder,
			 strncmp(holder, "md", 2) ? "" : " (md)");
}

static bool held(struct use *u, const struct node *node)
{
	char path[PATH_MAX + 16], who[256];
	struct dirent *e;
	bool found = false;
	DIR *d;

	snprintf(path, sizeof(path), "%s/holders", node->path);
	d = opendir(path);
	while (d && !found && (e = readdir(d)))
		if (e->d_name[0] != '.') {
			found = true;
			name_holder(e->d_name, who, sizeof(who));
			because(u, 0, "%s is part of %s; take it out first", node->dev, who);
		}
	if (d)
		closedir(d);
	return found;
}

/* Somebody's disk: why, as far as can be seen. */
static bool explain(struct use *u, const struct node *node)
{
	return mounted(u, node) || swapped(u, node) || held(u, node);
}

/* The same for the partitions of a disk that is not to be had. */
static bool explain_parts(struct use *u, const struct node *disk)
{
	char pattern[PATH_MAX + 16];
	struct node part;
	bool found = false;
	glob_t g;

	snprintf(pattern, sizeof(pattern), "%s/*/partition", disk->path);
	if (glob(pattern, 0, NULL, &g))
		return false;
	for (size_t i = 0; !found && i < g.gl_pathc; i++) {
		*strrchr(g.gl_pathv[i], '/') = '\0';
		found = read_node(&part, g.gl_pathv[i]) && explain(u, &part);
	}
	globfree(&g);
	return found;
}

/* The disk, exclusively; -ESTALE: another disk, or a file, has its name. */
static int open_disk(const struct node *node)
{
	int fd = open(node->dev, O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return -errno;
	if (!fstat(fd, &st) && S_ISBLK(st.st_mode) && st.st_rdev == node->rdev)
		return fd;
	close(fd);
	return -ESTALE;
}

static int claim_disk(struct use *u, const struct node *node)
{
	int fd = open_disk(node);

	/* A disk that has just come may have to wait for its node, or an old one's end. */
	for (int i = 0; i < RETRIES && (fd == -ESTALE || fd == -ENOENT || fd == -ENXIO); i++) {
		usleep(RETRY_US);
		fd = open_disk(node);
	}
	if (fd >= 0 && u->n < USE_MAX_NODES) {
		u->fd[u->n++] = fd;
		return 0;
	}
	if (fd >= 0) {
		close(fd);
		return because(u, -EBUSY, "%s: too many disks on one device", node->dev);
	}
	if (explain(u, node) || explain_parts(u, node))
		return -EBUSY;
	if (fd == -EBUSY)
		return because(u, fd, "%s is in use by a partition, or a file system of another namespace",
			       node->dev);
	return because(u, fd, "%s: %s: cannot make sure that nobody uses it", node->dev,
		       fd == -ESTALE ? "not the node of this disk, but another or a file" : strerror(-fd));
}

/* Persistent memory that was added to the system's own. */
static int check_memory(struct use *u, const struct node *node)
{
	char driver[64];

	if (node->block || !link_name(node->path, "driver", driver, sizeof(driver)) ||
	    strcmp(driver, "kmem"))
		return 0;
	return because(u, -EBUSY, "%s is part of the system's memory (dax kmem); daxctl offline-memory it first",
		       node->dev);
}

static int claim_node(struct use *u, const char *path)
{
	struct node node;
	int err;

	if (!read_node(&node, path))
		return 0;
	err = check_memory(u, &node);
	if (!err && node.part && explain(u, &node))
		err = -EBUSY;
	if (!err && node.block)
		err = used_by_loop(u, &node);
	if (!err)
		err = open_by_process(u, &node);
	/* A claim of the disk is one of all its partitions. */
	if (!err && node.block && !node.part)
		err = claim_disk(u, &node);
	return err;
}

int use_claim(struct use *u, const char *dir)
{
	char real[PATH_MAX];
	char *paths[] = { real, NULL };
	FTSENT *e;
	int err = 0;
	FTS *fts;

	memset(u, 0, sizeof(*u));
	if (!realpath(dir, real))
		return because(u, -errno, "%s: %s", dir, strerror(errno));
	fts = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	if (!fts)
		return because(u, -errno, "%s: %s", real, strerror(errno));
	while (!err && (e = fts_read(fts))) {
		if (e->fts_info != FTS_F || strcmp(e->fts_name, "dev"))
			continue;
		e->fts_path[e->fts_pathlen - 4] = '\0';
		err = claim_node(u, e->fts_path);
		e->fts_path[e->fts_pathlen - 4] = '/';
	}
	fts_close(fts);
	return err;
}

void use_release(struct use *u)
{
	while (u->n)
		close(u->fd[--u->n]);
}
