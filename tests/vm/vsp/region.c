// SPDX-License-Identifier: MIT
/*
 * Guest memory named by GPADLs: found in the file that backs the guest's RAM, so
 * that exactly these pages can be handed to another process as a dma-buf.
 */
#include "vsp.h"
#include "exec/memory.h"
#include "exec/address-spaces.h"

#include <linux/udmabuf.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* A memfd that keeps its size: what is mapped of it cannot go. */
static bool keeps_size(int fd)
{
	int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);

	return seals >= 0 && seals & F_SEAL_SHRINK;
}

/*
 * Append the file's place of one guest page. An offset in the memory is one in the file
 * because it is a memfd: other files may begin anywhere.
 */
static int add_page(GArray *runs, uint64_t gfn, char *err)
{
	MemoryRegionSection s;
	struct run r = { .size = PORTAL_VMBUS_PAGE }, *last;

	if (gfn >> (64 - 12))
		return vsp_fail(err, -EFAULT, "page %#" PRIx64 " is no guest address", gfn);
	s = memory_region_find(get_system_memory(), gfn * PORTAL_VMBUS_PAGE, PORTAL_VMBUS_PAGE);
	if (!s.mr)
		return vsp_fail(err, -EFAULT, "nothing is at guest page %#" PRIx64, gfn);
	r.fd = memory_region_is_ram(s.mr) && !s.readonly && int128_get64(s.size) == r.size ?
		memory_region_get_fd(s.mr) : -1;
	r.offset = s.offset_within_region;
	memory_region_unref(s.mr);
	last = runs->len ? &g_array_index(runs, struct run, runs->len - 1) : NULL;
	if (last && last->fd == r.fd && last->offset + last->size == r.offset) {
		last->size += r.size;
		return 0;
	}
	if (!keeps_size(r.fd))
		return vsp_fail(err, -EFAULT, "guest page %#" PRIx64 " is not RAM backed by a sealed memfd (-object memory-backend-memfd,share=on)",
				gfn);
	g_array_append_val(runs, r);
	return 0;
}

/*
 * Where @gfns are now, of struct run; or NULL. For use at once: when memory is unplugged
 * its file is closed, and the number may be another's.
 */
static GArray *find_runs(const GArray *gfns, char *err)
{
	GArray *runs = g_array_new(false, true, sizeof(struct run));
	uint32_t i;

	for (i = 0; i < gfns->len; i++)
		if (add_page(runs, g_array_index(gfns, uint64_t, i), err)) {
			g_array_free(runs, true);
			return NULL;
		}
	return runs;
}

/* Append the page numbers of a GPADL of @relid; how many they are. */
static int add_gpadl(VMBusChannel *vc, uint32_t id, uint32_t relid, GArray *gfns, char *err)
{
	VMBusGpadl *g = vmbus_get_gpadl(vc, id);
	const uint64_t *named;
	uint32_t n;
	int r;

	if (!g)
		return vsp_fail(err, -ENOENT, "no GPADL %#x", id);
	n = vmbus_gpadl_len(g) / PORTAL_VMBUS_PAGE;
	r = private_gfns(g, id, relid, &named, err);
	if (!r)
		g_array_append_vals(gfns, named, n);
	/*
	 * No reference is kept: the guest may tear its GPADL down whenever it likes, and
	 * a reset of the bus drops QEMU's references whoever else has one. The pages are
	 * guest RAM in any case, and what the dma-buf holds on to.
	 */
	vmbus_put_gpadl(g);
	return r ? r : (int)n;
}

void region_begin(struct region *r, uint64_t pages)
{
	region_drop(r);
	r->want = pages;
	r->gfns = g_array_new(false, true, sizeof(uint64_t));
	r->gpadls = g_array_new(false, true, sizeof(uint32_t));
}

/* The next piece of the region. */
int region_add(struct vsp *p, uint32_t gpadl, uint32_t pages, char *err)
{
	struct region *r = &p->region;
	uint32_t i;
	int n;

	if (!pages || pages > PORTAL_VMBUS_MAX_GPADL || pages > r->want - r->pages)
		return vsp_fail(err, -EPROTO, "a piece of %u pages, with %" PRIu64 " of %" PRIu64 " there",
				pages, r->pages, r->want);
	for (i = 0; i < r->gpadls->len; i++)
		if (g_array_index(r->gpadls, uint32_t, i) == gpadl)
			return vsp_fail(err, -EPROTO, "GPADL %#x is named twice", gpadl);
	n = add_gpadl(p->ch[0].vc, gpadl, p->ch[0].relid, r->gfns, err);
	if (n < 0)
		return n;
	if ((uint32_t)n != pages)
		return vsp_fail(err, -EPROTO, "GPADL %#x has %d pages, not %u", gpadl, n, pages);
	g_array_append_val(r->gpadls, gpadl);
	r->pages += pages;
	return 0;
}

/*
 * share=all-ram: the file behind the guest's RAM, whole. For programs that look into a
 * guest by its addresses; nobody else may be given it (clients.c).
 */
static int share_all(struct region *r, const GArray *runs, char *err)
{
	int file = g_array_index(runs, struct run, 0).fd;
	struct stat st;
	uint32_t i;

	for (i = 1; i < runs->len; i++)
		if (g_array_index(runs, struct run, i).fd != file)
			return vsp_fail(err, -ENOTSUP, "share=all-ram: the guest's RAM is several files");
	r->fd = fcntl(file, F_DUPFD_CLOEXEC, 0);
	if (r->fd < 0 || fstat(r->fd, &st))
		return vsp_fail(err, -errno, "share=all-ram: %s", strerror(errno));
	r->bytes = st.st_size;
	return 0;
}

/*
 * How many hold what is shared, by the kernel's count: each descriptor, on its way in a
 * socket, too, and each mapping is one; ours is. 0: it is not known.
 */
static uint64_t holders(const struct region *r)
{
	g_autofree char *path = g_strdup_printf("/proc/self/fdinfo/%d", r->fd);
	g_autofree char *text = NULL;
	const char *at;

	if (!g_file_get_contents(path, &text, NULL, NULL))
		return 0;
	at = strstr(text, "\ncount:");
	return at ? g_ascii_strtoull(at + strlen("\ncount:"), NULL, 10) : 0;
}

/* A dma-buf of exactly these pages, in this order. */
static int share_gpadls(struct region *r, const GArray *runs, char *err)
{
	struct udmabuf_create_list *list;
	uint32_t i;
	int dev, e;

	dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return vsp_fail(err, -errno, "/dev/udmabuf: %s", strerror(errno));
	list = g_malloc0(sizeof(*list) + runs->len * sizeof(list->list[0]));
	list->flags = UDMABUF_FLAGS_CLOEXEC;
	list->count = runs->len;
	for (i = 0; i < runs->len; i++) {
		const struct run *run = &g_array_index(runs, struct run, i);

		list->list[i].memfd = run->fd;
		list->list[i].offset = run->offset;
		list->list[i].size = run->size;
	}
	r->fd = ioctl(dev, UDMABUF_CREATE_LIST, list);
	e = errno;
	g_free(list);
	close(dev);
	if (r->fd < 0)
		return vsp_fail(err, -e, "udmabuf of %" PRIu64 " pages in %u runs: %s (see size_limit_mb and list_limit in /sys/module/udmabuf/parameters)",
				r->pages, runs->len, strerror(e));
	r->bytes = r->pages * PORTAL_VMBUS_PAGE;
	return 0;
}

int region_share(struct vsp *p, char *err)
{
	struct region *r = &p->region;
	GArray *runs = find_runs(r->gfns, err);
	int ret;

	if (!runs)
		return -EFAULT;
	r->runs = runs->len;
	ret = p->all_ram ? share_all(r, runs, err) : share_gpadls(r, runs, err);
	g_array_free(runs, true);
	if (ret || p->all_ram || holders(r) == 1)
		return ret;
	close(r->fd);
	r->fd = -1;
	return vsp_fail(err, -ENOTSUP, "/proc/self/fdinfo does not count who holds a dma-buf");
}

bool region_in_use(const struct vsp *p)
{
	return p->region.fd >= 0 && !p->all_ram && holders(&p->region) != 1;
}

void region_drop(struct region *r)
{
	if (r->fd >= 0)
		close(r->fd);
	if (r->gfns)
		g_array_free(r->gfns, true);
	if (r->gpadls)
		g_array_free(r->gpadls, true);
	*r = (struct region){ .fd = -1 };
}

/* Map @runs one after the other. */
static void *map_runs(GArray *runs, size_t *size)
{
	uint8_t *base, *at;
	uint32_t i;

	for (*size = 0, i = 0; i < runs->len; i++)
		*size += g_array_index(runs, struct run, i).size;
	base = mmap(NULL, *size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED)
		return NULL;
	for (at = base, i = 0; i < runs->len; i++) {
		const struct run *run = &g_array_index(runs, struct run, i);

		if (mmap(at, run->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 run->fd, run->offset) == MAP_FAILED) {
			munmap(base, *size);
			return NULL;
		}
		at += run->size;
	}
	return base;
}

int rings_map(struct channel *c, struct rings *r, char *err)
{
	GArray *gfns = g_array_new(false, true, sizeof(uint64_t)), *runs = NULL;
	uint32_t gpadl, split;
	int n;

	private_rings(c->vc, &gpadl, &split);
	n = add_gpadl(c->vc, gpadl, c->relid, gfns, err);
	*r = (struct rings){ 0 };
	/* A header and a page of data are the least of each; any @split may come. */
	if (n >= 0 && (n < 4 || split < 2 || split > (uint32_t)n - 2))
		n = vsp_fail(err, -EPROTO, "rings of %d pages, the second from page %u", n, split);
	if (n >= 0) {
		runs = find_runs(gfns, err);
		n = runs ? n : -EFAULT;
	}
	g_array_free(gfns, true);
	if (n < 0)
		return n;
	r->base = map_runs(runs, &r->size);
	g_array_free(runs, true);
	if (!r->base)
		return vsp_fail(err, -ENOMEM, "the rings cannot be mapped");
	r->send = r->base;
	r->send_data = (uint8_t *)r->base + PORTAL_VMBUS_PAGE;
	r->send_len = (split - 1) * PORTAL_VMBUS_PAGE;
	r->recv = (void *)((uint8_t *)r->base + (size_t)split * PORTAL_VMBUS_PAGE);
	r->recv_data = (uint8_t *)r->recv + PORTAL_VMBUS_PAGE;
	r->recv_len = ((uint32_t)n - split - 1) * PORTAL_VMBUS_PAGE;
	return 0;
}

void rings_unmap(struct rings *r)
{
	if (r->base)
		munmap(r->base, r->size);
	r->base = NULL;
}
