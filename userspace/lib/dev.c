// SPDX-License-Identifier: MIT
/* /dev/portalN: the only file that opens it, and that knows its ioctls. */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/portal.h>
#include <linux/portal_layout.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "efd.h"
#include "internal.h"
#include "layout.h"
#include "vmportal_packet.h"

#define MODES_SINCE	3	/* portal_info.api_version of the first kernel that has modes */

/**
 * struct dev - an open portal device
 * @fd: the device
 * @modes: its kernel knows of modes
 * @page: its doorbell page, or NULL; @page_size bytes
 * @doorbell: the register in it
 */
struct dev {
	int fd;
	bool modes;
	void *page;
	size_t page_size;
	uint32_t *doorbell;
};

static int dev_ring(struct vmp *p, uint32_t peer, uint32_t vector)
{
	struct dev *d = p->priv;
	struct portal_ring r = { .size = sizeof(r), .peer = peer, .vector = vector };

	if (d->doorbell && peer <= 0xffff && vector <= 0xffff) {
		/*
		 * Stores to memory before it must be seen by who gets the interrupt:
		 * a full fence orders them before this store, which goes to a
		 * device (x86 keeps the order; arm64's fence is dmb, and the register
		 * is in a hypervisor's hands, which exits for it).
		 */
		vmpr_full_fence();
		*(volatile uint32_t *)d->doorbell = peer << 16 | vector;
		return 0;
	}
	if (!ioctl(d->fd, PORTAL_RING, &r))
		return 0;
	return vmp_fail(-errno, "%s: ring peer %u vector %u: %s", p->info.identity, peer,
			vector, strerror(errno));
}

static int dev_eventfd(struct vmp *p, uint32_t vector)
{
	struct dev *d = p->priv;
	struct portal_eventfd e = { .size = sizeof(e), .vector = vector };
	int r;

	e.fd = vmp_efd_new();
	if (e.fd < 0)
		return e.fd;
	if (!ioctl(d->fd, PORTAL_EVENTFD, &e))
		return e.fd;
	r = vmp_fail(-errno, "%s: vector %u: cannot bind an eventfd: %s%s", p->info.identity,
		     vector, strerror(errno), errno == EACCES && p->info.caps & VMP_CAP_WINDOW ?
		     ": it is not one of this window's" : "");
	close(e.fd);
	return r;
}

/* The kernel's answer, as far as it may change while the portal is open. */
static int dev_refresh(struct vmp *p)
{
	struct dev *d = p->priv;
	struct portal_info i = { .size = sizeof(i) };

	if (ioctl(d->fd, PORTAL_INFO, &i))
		return vmp_fail(errno == EIO ? -ENODEV : -errno, "%s: %s%s", p->info.identity, strerror(errno),
				errno == ENODEV ? ": the device was unplugged or unbound" : "");
	p->info.peer_id = i.peer_id;
	p->info.max_peers = i.max_peers;
	p->info.generation = i.generation;
	return 0;
}

static int dev_service(struct vmp *p)
{
	return vmp_refresh(p);
}

/* A ring's header is a page of this kernel's, as in struct hv_ring_buffer. */
static void *map_ring(int fd, uint64_t offset, uint64_t size, void **data, uint32_t *data_size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *ring;

	if (size <= page || size - page > VMPK_SIZE_MAX) {
		errno = EPROTO;
		return NULL;
	}
	ring = vmp_map_twice(fd, offset, page, size - page);
	if (ring) {
		*data = (char *)ring + page;
		*data_size = (uint32_t)(size - page);
	}
	return ring;
}

static int dev_packets(struct vmp *p, uint32_t vector, struct vmp_rings *r)
{
	struct portal_packets k = { .size = sizeof(k), .vector = vector };
	struct dev *d = p->priv;
	int err;

	if (ioctl(d->fd, PORTAL_PACKETS, &k))
		return vmp_fail(-errno, "%s: packet rings of vector %u: %s", p->info.identity, vector,
				errno == EBUSY ? "another program has them" : strerror(errno));
	r->send = map_ring(d->fd, k.send_offset, k.send_size, &r->send_data, &r->send_size);
	r->recv = map_ring(d->fd, k.recv_offset, k.recv_size, &r->recv_data, &r->recv_size);
	/* The other side is everybody who is not us. */
	r->host = !p->info.peer_id;
	if (r->send && r->recv &&
	    !vmp_no_child(p, r->send, k.send_size + r->send_size, p->info.identity) &&
	    !vmp_no_child(p, r->recv, k.recv_size + r->recv_size, p->info.identity))
		return 0;
	err = errno;
	if (r->send)
		vmp_unmap_twice(r->send, (size_t)sysconf(_SC_PAGESIZE), r->send_size);
	if (r->recv)
		vmp_unmap_twice(r->recv, (size_t)sysconf(_SC_PAGESIZE), r->recv_size);
	r->send = r->recv = NULL;
	return vmp_fail(-err, "%s: cannot map the packet rings of vector %u: %s", p->info.identity,
			vector, strerror(err));
}

static int dev_window(struct vmp *p, const struct vmp_window_opts *o)
{
	struct portal_bell bells[64];
	uint32_t vectors[64], v;
	struct portal_window w = {
		.size = sizeof(w), .offset = o->offset, .length = o->length,
		.flags = o->flags & VMP_WINDOW_RDONLY ? 0 : PORTAL_WINDOW_WRITE,
		.vectors = (uintptr_t)vectors, .bells = (uintptr_t)bells,
	};
	struct dev *d = p->priv;
	int fd;

	for (v = 0; v < 64; v++) {
		if (o->wait >> v & 1)
			vectors[w.nr_vectors++] = v;
		if (o->ring >> v & 1)
			bells[w.nr_bells++] = (struct portal_bell){ o->peer, v };
	}
	fd = ioctl(d->fd, PORTAL_WINDOW, &w);
	if (fd >= 0)
		return fd;
	switch (errno) {
	case EACCES:
		return vmp_fail(-EACCES, "%s: a window cannot be given more than this file has itself: %s",
				p->info.identity, fcntl(d->fd, F_GETFL) & O_RDWR ?
				"it may not wait for such a vector, or ring such a doorbell" :
				"it was opened read-only");
	case ENOTTY:
		return vmp_fail(-EOPNOTSUPP, "%s: its kernel module has no windows yet; update vmportal-dkms",
				p->info.identity);
	default:
		return vmp_fail(-errno, "%s: window of %" PRIu64 " bytes at %" PRIu64 ": %s",
				p->info.identity, o->length, o->offset, strerror(errno));
	}
}

/* What the kernel has fixed, if it knows of modes at all. */
static int obey(struct vmp *p, const struct portal_info *i)
{
	struct dev *d = p->priv;

	d->modes = i->api_version >= MODES_SINCE;
	if (!d->modes)
		return 0;
	return vmp_obey_mode(p, i->mode == PORTAL_MODE_MANAGED);
}

/*
 * ivshmem tells a guest nothing of others' ends; a managed portal's tables do. Machines of
 * which there is no row are gone from the beginning: processes of the host, who stay so, and
 * those that found the table full, who may get a row later, and die only after that.
 */
static uint32_t dev_gone(struct vmp *p, uint32_t peer, uint64_t tenure)
{
	if (!p->super || p->super_err || peer == VMP_PEER_NONE)
		return 0;
	return !layout_lives(p->base, p->super, peer);
}

/*
 * The region must not be mapped writable meanwhile, not even by us. Then it is mapped
 * again at the same place, whatever came of it.
 */
static int dev_set_mode(struct vmp *p, bool managed)
{
	struct dev *d = p->priv;
	struct portal_set_mode m = {
		.size = sizeof(m), .mode = managed ? PORTAL_MODE_MANAGED : PORTAL_MODE_RAW,
	};
	struct portal_info i = { .size = sizeof(i) };
	int r = 0;

	if (!d->modes)
		return 0;
	if (mmap(p->base, p->mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
		 -1, 0) == MAP_FAILED)
		return vmp_fail(-errno, "%s: cannot unmap it: %s", p->info.identity, strerror(errno));
	if (ioctl(d->fd, PORTAL_SET_MODE, &m))
		r = vmp_fail(errno == ENOTTY ? -EOPNOTSUPP : -errno,
			     "%s: the kernel does not take it for %s: %s%s", p->info.identity,
			     managed ? "managed" : "raw", strerror(errno),
			     errno == EBUSY ? ": it is mapped elsewhere" :
			     errno == EPERM ? ": that takes root" : "");
	if (!ioctl(d->fd, PORTAL_INFO, &i))
		p->protected_size = i.protected_size;
	if (vmp_map_again(p, d->fd, p->info.identity))
		return -ENODEV;
	return r;
}

/* ---- Sessions ----------------------------------------------------------------- */

/* Why the kernel refuses what is about sessions. */
static int explain_session(struct vmp *p, const char *what, int err)
{
	const char *why = strerror(err);

	switch (err) {
	case ENOTTY:
		return vmp_fail(-EOPNOTSUPP, "%s: its kernel module has no sessions yet; update vmportal-dkms",
				p->info.identity);
	case EBUSY:
		why = "another process has one through the same open file, or maps it writable; open the device anew";
		break;
	case EOPNOTSUPP:
		why = "this kernel cannot tell when a process ends";
		break;
	case EUSERS:
		why = "no free row in the tables: 'portalctl peers' shows who has them; format with more";
		break;
	case ESTALE:
		why = "this machine was declared dead, or woke up as another, or the portal was formatted anew; close it and open it anew";
		break;
	case EPERM:
		why = "that takes root (CAP_SYS_ADMIN)";
		break;
	default:
		break;
	}
	return vmp_fail(-err, "%s: %s: %s", p->info.identity, what, why);
}

static int dev_session(struct vmp *p, uint32_t vector, uint64_t *token)
{
	struct portal_session_begin s = { .size = sizeof(s), .vector = vector };
	struct dev *d = p->priv;

	if (ioctl(d->fd, PORTAL_SESSION, &s))
		return explain_session(p, "session", errno);
	if (s.incarnation != p->super->incarnation)
		return vmp_fail(-ESTALE, "%s: was formatted anew since it was opened; close it and open it anew",
				p->info.identity);
	*token = s.token;
	return 0;
}

/*
 * Nobody here reads PORTAL_EVENT_CHANGE. What was read once is gone for everybody who has the
 * file, and epoll asks it again before it wakes anybody, so that all sleepers but one would
 * never hear. EPOLLPRI stays up that way, from the first change on; the kernel wakes at each,
 * and with EPOLLET that is an event, in every set, of every portal object on that file.
 */
static int dev_watch(struct vmp *p, int set)
{
	struct epoll_event ev = { .events = EPOLLPRI | EPOLLET };
	struct dev *d = p->priv;

	if (epoll_ctl(set, EPOLL_CTL_ADD, d->fd, &ev))
		return vmp_fail(-errno, "%s: epoll_ctl: %s", p->info.identity, strerror(errno));
	return 0;
}

static int dev_fence(struct vmp *p, uint32_t slot, uint64_t claim)
{
	struct portal_fence f = { .size = sizeof(f), .slot = slot, .claim = claim };
	struct dev *d = p->priv;

	if (!ioctl(d->fd, PORTAL_FENCE, &f))
		return 0;
	if (errno == ESTALE)
		return vmp_fail(-ESTALE, "%s: peer %u is not the machine that it was a moment ago: look again",
				p->info.identity, slot);
	return explain_session(p, "fence", errno);
}

static void dev_close(struct vmp *p)
{
	struct dev *d = p->priv;

	if (d->page && vmp_mapped_here(p))
		munmap(d->page, d->page_size);
	if (d->fd >= 0)
		close(d->fd);
	free(d);
}

static const struct vmp_ops dev_ops = {
	.transport = "device",
	.ring = dev_ring,
	.eventfd = dev_eventfd,
	.refresh = dev_refresh,
	.service = dev_service,
	.packets = dev_packets,
	.window = dev_window,
	.set_mode = dev_set_mode,
	.gone = dev_gone,
	.session = dev_session,
	.watch = dev_watch,
	.fence = dev_fence,
	.close = dev_close,
	.own_process = true,
};

static int module_there(void)
{
	return !access("/sys/class/portal", F_OK);
}

/* Why open() failed, and what the user can do. */
static int explain_open(const char *path, int err)
{
	struct stat st;

	switch (err) {
	case ENOENT:
		if (!module_there())
			return vmp_fail(-err, "%s: not there, and the portal module is not loaded: modprobe portal_ivshmem (or portal_loopback)",
					path);
		return vmp_fail(-err, "%s: no such portal; 'portalctl list' shows those that are there, 'lspci -d 1af4:1110' the devices",
				path);
	case ENXIO:
	case ENODEV:
		if (!stat(path, &st) && S_ISSOCK(st.st_mode))
			return vmp_fail(-ENOTTY, "%s is a socket; say unix:%s", path, path);
		return vmp_fail(-err, "%s: the node is there but no device behind it: is the module loaded (modprobe portal_ivshmem)? a stale node can be removed",
				path);
	case EPERM:
		return vmp_fail(-err, "%s: a VMBus device of another class than vmportal's, which can reach all memory of this machine: it takes root (CAP_SYS_RAWIO)",
				path);
	case EACCES:
		return vmp_fail(-err, "%s: permission denied: join the group of the node (usually 'portal'), or open read-only",
				path);
	default:
		return vmp_fail(-err, "%s: %s", path, strerror(err));
	}
}

/* Something that can be opened but is no portal. */
static int check_kind(int fd, const char *path)
{
	struct stat st;

	if (fstat(fd, &st))
		return vmp_fail(-errno, "%s: %s", path, strerror(errno));
	if (S_ISREG(st.st_mode) && !strncmp(path, "/dev/", 5))
		return vmp_fail(-ENOTTY, "%s is a regular file, not a device: something (QEMU, a copy) made it there before the module was loaded; remove it, then: modprobe portal_ivshmem",
				path);
	if (S_ISREG(st.st_mode))
		return vmp_fail(-ENOTTY, "%s is a regular file; to share a file say file:%s", path, path);
	if (S_ISSOCK(st.st_mode))
		return vmp_fail(-ENOTTY, "%s is a socket; say unix:%s", path, path);
	if (!S_ISCHR(st.st_mode))
		return vmp_fail(-ENOTTY, "%s is not a portal device", path);
	return 0;
}

/* The page that rings without a system call: a bonus, its lack is no error. */
static void map_doorbell(struct vmp *p, struct dev *d, const struct portal_info *i)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *m;

	if (!(i->caps & PORTAL_CAP_DOORBELL_PAGE) || p->flags & VMP_RDONLY ||
	    i->doorbell_format != PORTAL_DOORBELL_IVSHMEM ||
	    i->doorbell_register % 4 || i->doorbell_register > page - 4)
		return;
	m = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, (off_t)i->doorbell_offset);
	if (m == MAP_FAILED)
		return;
	if (vmp_no_child(p, m, page, p->info.identity)) {
		munmap(m, page);
		return;
	}
	d->page = m;
	d->page_size = page;
	d->doorbell = (uint32_t *)(void *)((char *)m + i->doorbell_register);
	p->info.caps |= VMP_CAP_DOORBELL_PAGE;
}

static int dev_setup(struct vmp *p, struct dev *d, const char *path)
{
	struct portal_info i = { .size = sizeof(i) };
	struct portal_file f = { .size = sizeof(f), .flags = PORTAL_FILE_ZERO_ON_REVOKE };
	int r;

	if (ioctl(d->fd, PORTAL_INFO, &i))
		return errno == ENOTTY || errno == EINVAL ?
			vmp_fail(-ENOTTY, "%s can be opened, but is not a portal", path) :
			vmp_fail(-errno, "%s: %s", path, strerror(errno));
	if (i.mode > PORTAL_MODE_MANAGED)
		return vmp_fail(-EPROTO, "%s: its kernel module is newer than this library (mode %u); update libvmportal",
				path, i.mode);
	if (p->flags & VMP_ZERO_ON_REVOKE && ioctl(d->fd, PORTAL_FILE, &f))
		return vmp_fail(-errno, "%s: no zeroed page in place of SIGBUS: %s", path, strerror(errno));
	if (!i.region_size && !(i.caps & PORTAL_CAP_PACKETS))
		return vmp_fail(-ENXIO, "%s: its region has no bytes: the BAR was not assigned (see dmesg; on q35 give the port pref64-reserve)",
				path);
	if (i.flags & PORTAL_INFO_WINDOW)
		p->info.caps |= VMP_CAP_WINDOW;
	p->protected_size = i.protected_size;
	r = i.region_size ? vmp_map_fd(p, d->fd, i.region_size, path) : 0;
	if (!r)
		r = obey(p, &i);
	if (r)
		return r;
	p->info.peer_id = i.peer_id;
	p->info.max_peers = i.max_peers;
	p->info.generation = i.generation;
	p->info.vectors = i.caps & PORTAL_CAP_EVENTS ? i.vectors : 0;
	if (i.first_vector >= VMP_MAX_VECTORS)
		p->info.vectors = 0;
	if (p->info.vectors > VMP_MAX_VECTORS)
		p->info.vectors = VMP_MAX_VECTORS;
	if (i.caps & PORTAL_CAP_DOORBELL)
		p->info.caps |= VMP_CAP_RING;
	if (p->info.vectors)
		p->info.caps |= VMP_CAP_EVENTS;
	if (i.caps & PORTAL_CAP_LARGE_PAGES)
		p->info.caps |= VMP_CAP_LARGE_PAGES;
	if (i.caps & PORTAL_CAP_PACKETS && p->info.vectors)
		p->info.caps |= VMP_CAP_PACKETS;
	if (i.cache == PORTAL_CACHE_WRITE_BACK && i.region_size)
		p->info.caps |= VMP_CAP_WRITE_BACK;
	p->info.first_vector = i.first_vector;
	map_doorbell(p, d, &i);
	snprintf(p->info.transport, sizeof(p->info.transport), "%.*s",
		 (int)sizeof(i.transport), i.transport);
	snprintf(p->info.identity, sizeof(p->info.identity), "%.*s",
		 (int)sizeof(i.identity), i.identity);
	p->state_fd = d->fd;
	/*
	 * That it is gone, or its tables changed, see dev_watch(): POLLIN would be doorbells
	 * that nobody bound.
	 */
	p->state_events = EPOLLPRI;
	return 0;
}

/* Makes the portal of @fd, which is its own from here on. */
static int open_file(struct vmp **out, int fd, const char *path, unsigned int flags)
{
	struct dev *d = calloc(1, sizeof(*d));
	struct vmp *p = d ? vmp_alloc(&dev_ops, flags) : NULL;
	int r;

	if (!p) {
		free(d);
		close(fd);
		return vmp_fail(-ENOMEM, "%s: out of memory", path);
	}
	d->fd = fd;
	p->priv = d;
	r = dev_setup(p, d, path);
	if (r) {
		vmp_free(p);
		return r;
	}
	*out = p;
	return 0;
}

int vmp_open_dev(struct vmp **out, const char *path, unsigned int flags)
{
	int fd, r;

	/* Non-blocking: whatever stands there must not hold us up. */
	fd = open(path, (flags & VMP_RDONLY ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return explain_open(path, errno);
	r = check_kind(fd, path);
	if (r) {
		close(fd);
		return r;
	}
	return open_file(out, fd, path, flags);
}

/* What a descriptor is that is no portal's, and what to say instead. */
static int check_passed(int fd, const char *what, unsigned int flags)
{
	struct stat st;
	int fl = fcntl(fd, F_GETFL);

	if (fl < 0 || fstat(fd, &st))
		return vmp_fail(-errno, "%s: no such open descriptor in this process", what);
	if (S_ISREG(st.st_mode))
		return vmp_fail(-ENOTTY, "%s is a regular file or a memfd; say memfd:fd=%d", what, fd);
	if (S_ISSOCK(st.st_mode) || S_ISFIFO(st.st_mode) || S_ISDIR(st.st_mode))
		return vmp_fail(-ENOTTY, "%s is not a portal", what);
	if ((fl & O_ACCMODE) == O_RDONLY && !(flags & VMP_RDONLY))
		return vmp_fail(-EACCES, "%s may only be read: open it with VMP_RDONLY", what);
	return 0;
}

int vmp_open_fd(struct vmp **out, const char *rest, unsigned int flags)
{
	char what[32], *end;
	int fd, r;
	long n;

	errno = 0;
	n = strtol(rest, &end, 10);
	if (errno || *rest < '0' || *rest > '9' || *end || n > INT32_MAX)
		return vmp_fail(-EINVAL, "'fd:%s': the number of an open descriptor belongs behind fd:", rest);
	snprintf(what, sizeof(what), "fd:%ld", n);
	r = check_passed((int)n, what, flags);
	if (r)
		return r;
	fd = fcntl((int)n, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return vmp_fail(-errno, "%s: dup: %s", what, strerror(errno));
	return open_file(out, fd, what, flags);
}
