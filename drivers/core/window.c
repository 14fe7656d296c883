// SPDX-License-Identifier: GPL-2.0-only
/*
 * Windows: files that reach a part of what another file reaches.
 *
 * A window is an open file like any other, with a smaller part of the region, fewer
 * vectors and fewer doorbells in its portal_handle. All of these are set here, before
 * anybody has the file, and never change; and nothing else makes a handle but open().
 * So whatever a process does with a window, it cannot reach more than was checked here:
 * that each part of the new one is a part of the old one.
 *
 * Its inode is the one that all anonymous files share. Opening that again, by
 * /proc/self/fd or /proc/self/map_files, is ENXIO: there is no open() behind it. Its
 * f_mapping is the portal's, so that revocation reaches it as it does all others.
 *
 * It holds the portal, not the file that it was made from.
 */
#include <linux/anon_inodes.h>
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/seq_file.h>

#include "core.h"

/* Is every doorbell of @inner one of @outer? */
static bool portal_bell_covers(const struct portal_bell *outer, const struct portal_bell *inner)
{
	return (outer->peer == PORTAL_ANY || outer->peer == inner->peer) &&
	       (outer->vector == PORTAL_ANY || outer->vector == inner->vector);
}

/* By one rule: each vector that there is, listed one by one, is still not PORTAL_ANY. */
static bool portal_bell_allowed(const struct portal_handle *h, const struct portal_bell *bell)
{
	u32 i;

	for (i = 0; i < h->nr_bells; i++) {
		if (portal_bell_covers(&h->bells[i], bell))
			return true;
	}
	return false;
}

bool portal_may_ring(const struct portal_handle *h, u32 peer, u32 vector)
{
	const struct portal_bell bell = { peer, vector };

	return portal_bell_allowed(h, &bell);
}

/* Within the part of @h, and in whole pages. */
static int portal_window_check_part(const struct portal_handle *h, const struct portal_window *w)
{
	const u64 align = max_t(u64, PORTAL_WINDOW_ALIGN, PAGE_SIZE);
	u64 protected;

	if (!w->length || !IS_ALIGNED(w->offset | w->length, align))
		return -EINVAL;
	if (w->length > h->length || w->offset > h->length - w->length)
		return -EINVAL;
	/* mmap() would say so; here who asks learns it at once. */
	portal_mode_get(h->portal, &protected);
	if (w->flags & PORTAL_WINDOW_WRITE && h->offset + w->offset < protected)
		return -EACCES;
	return 0;
}

static int portal_window_check_bells(struct file *file, const struct portal_window *w,
				     const u32 *vectors, const struct portal_bell *bells)
{
	const struct portal_handle *h = file->private_data;
	u32 i;

	for (i = 0; i < w->nr_vectors; i++) {
		u32 vector = vectors[i];

		if (vector >= h->nr_vectors)
			return -EINVAL;
		vector = array_index_nospec(vector, h->nr_vectors);
		if (!h->vectors[vector].mine)
			return -EACCES;
	}
	if (w->nr_bells && !(w->flags & PORTAL_WINDOW_WRITE))
		return -EINVAL;
	for (i = 0; i < w->nr_bells; i++) {
		if (!portal_bell_allowed(h, &bells[i]))
			return -EACCES;
	}
	return 0;
}

/* @w has been checked. */
static struct portal_handle *portal_window_handle(const struct portal_handle *parent,
						  const struct portal_window *w,
						  const u32 *vectors,
						  const struct portal_bell *bells)
{
	u32 first = 0, end = 0, i;
	struct portal_handle *h;

	for (i = 0; i < w->nr_vectors; i++) {
		first = i ? min(first, vectors[i]) : vectors[i];
		end = max(end, vectors[i] + 1);
	}
	h = portal_handle_new(parent->portal, end, w->nr_bells);
	if (!h)
		return NULL;
	h->window = true;
	/* As stale as its parent, if that happens now. */
	h->epoch = READ_ONCE(parent->epoch);
	h->offset = parent->offset + w->offset;
	h->length = w->length;
	h->first_vector = first;
	for (i = 0; i < w->nr_vectors; i++)
		h->vectors[vectors[i]].mine = true;
	for (i = 0; i < w->nr_bells; i++)
		h->bells[i] = bells[i];
	return h;
}

/*
 * Makes a window of @file, with the lists that @w counts. Returns a descriptor, or a
 * negative errno. A portal that goes meanwhile leaves a window as dead as any file.
 */
int portal_window_open(struct file *file, const struct portal_window *w, const u32 *vectors,
		       const struct portal_bell *bells)
{
	const bool write = w->flags & PORTAL_WINDOW_WRITE;
	const fmode_t needed = FMODE_READ | (write ? FMODE_WRITE : 0);
	struct portal_handle *parent = file->private_data, *h;
	struct file *window;
	int fd, ret;

	if ((file->f_mode & needed) != needed)
		return -EACCES;
	if (portal_handle_stale(parent))
		return -ESTALE;
	ret = portal_window_check_part(parent, w);
	if (!ret)
		ret = portal_window_check_bells(file, w, vectors, bells);
	if (ret)
		return ret;

	h = portal_window_handle(parent, w, vectors, bells);
	if (!h)
		return -ENOMEM;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		ret = fd;
		goto err_handle;
	}
	window = anon_inode_getfile("[portal]", &portal_fops, h, write ? O_RDWR : O_RDONLY);
	if (IS_ERR(window)) {
		ret = PTR_ERR(window);
		goto err_fd;
	}
	portal_handle_attach(h, window);
	fd_install(fd, window);
	return fd;

err_fd:
	put_unused_fd(fd);
err_handle:
	portal_handle_free(h);
	return ret;
}

static void portal_show_number(struct seq_file *m, u32 n)
{
	if (n == PORTAL_ANY)
		seq_putc(m, '*');
	else
		seq_printf(m, "%u", n);
}

/* As "0-2 5 ", and so is what follows. */
static void portal_show_vectors(struct seq_file *m, const struct portal_handle *h)
{
	u32 i, first;

	for (i = 0; i < h->nr_vectors; i++) {
		if (!h->vectors[i].mine)
			continue;
		first = i;
		while (i + 1 < h->nr_vectors && h->vectors[i + 1].mine)
			i++;
		seq_printf(m, first == i ? "%u " : "%u-%u ", first, i);
	}
}

static void portal_show_bells(struct seq_file *m, const struct portal_handle *h)
{
	u32 i;

	for (i = 0; i < h->nr_bells; i++) {
		portal_show_number(m, h->bells[i].peer);
		seq_putc(m, ':');
		portal_show_number(m, h->bells[i].vector);
		seq_putc(m, ' ');
	}
}

/* /proc/PID/fdinfo: what this file is and reaches. */
void portal_show_fdinfo(struct seq_file *m, struct file *file)
{
	const struct portal_handle *h = file->private_data;

	seq_printf(m, "portal:\t%d%s\n", h->portal->number,
		   portal_is_dead(h->portal) ? " (gone)" : "");
	seq_printf(m, "portal-offset:\t%llu\nportal-length:\t%llu\nportal-rights:\t%s%s\n",
		   h->offset, h->length, file->f_mode & FMODE_READ ? "r" : "",
		   file->f_mode & FMODE_WRITE ? "w" : "");
	seq_puts(m, "portal-vectors:\t");
	portal_show_vectors(m, h);
	seq_puts(m, "\nportal-bells:\t");
	if (file->f_mode & FMODE_WRITE)
		portal_show_bells(m, h);
	seq_putc(m, '\n');
	portal_session_show(m, file->private_data);
}
