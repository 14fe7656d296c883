/* SPDX-License-Identifier: MIT */
/*
 * Packet rings in plain memory: a portal of the library's own kind on one side or both,
 * and a plain mapping for whoever plays the host.
 */
#ifndef TESTS_UNIT_LIB_RIG_H
#define TESTS_UNIT_LIB_RIG_H

#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hostring.h"
#include "lib/channel.h"
#include "lib/efd.h"
#include "test.h"

#define RIG_PAGE 4096U

/* Shared with children: what must be one for all of them. */
struct rig_shared {
	_Atomic unsigned int signals[2];	/* that reached end 0, end 1 */
	_Atomic uint32_t generation;
	_Atomic int gone;
};

struct rig {
	struct vmp *p[2];
	int fd, efd[2];
	uint32_t size;
	unsigned char *plain;	/* header and data of ring 0 (0 to 1), then of ring 1 */
	struct rig_shared *s;
};

static inline unsigned char *rig_page(const struct rig *g, int ring)
{
	return g->plain + (size_t)ring * (RIG_PAGE + g->size);
}

static int rig_packets(struct vmp *p, uint32_t vector, struct vmp_rings *r)
{
	struct rig *g = p->priv;
	uint64_t at[2] = { 0, RIG_PAGE + g->size };
	uint32_t me = p->info.peer_id;

	(void)vector;
	r->send = vmp_map_twice(g->fd, at[me], RIG_PAGE, g->size);
	r->recv = vmp_map_twice(g->fd, at[!me], RIG_PAGE, g->size);
	assert_non_null(r->send);
	assert_non_null(r->recv);
	r->send_data = (char *)r->send + RIG_PAGE;
	r->recv_data = (char *)r->recv + RIG_PAGE;
	r->send_size = r->recv_size = g->size;
	r->host = !me;
	return 0;
}

static void rig_signal(struct rig *g, int end)
{
	atomic_fetch_add(&g->s->signals[end], 1);
	vmp_efd_signal(g->efd[end], false);
}

static int rig_ring(struct vmp *p, uint32_t peer, uint32_t vector)
{
	struct rig *g = p->priv;

	(void)vector;
	if (atomic_load(&g->s->gone))
		return vmp_fail(-ENODEV, "rig: gone");
	rig_signal(g, (int)peer);
	return 0;
}

static int rig_eventfd(struct vmp *p, uint32_t vector)
{
	(void)vector;
	return ((struct rig *)p->priv)->efd[p->info.peer_id];
}

static int rig_refresh(struct vmp *p)
{
	struct rig *g = p->priv;

	p->info.generation = atomic_load(&g->s->generation);
	return atomic_load(&g->s->gone) ? vmp_fail(-ENODEV, "rig: gone") : 0;
}

static const struct vmp_ops rig_ops = {
	.transport = "rig",
	.ring = rig_ring,
	.eventfd = rig_eventfd,
	.refresh = rig_refresh,
	.packets = rig_packets,
	.keeps_eventfds = true,
};

/* The kernel's part: both rings empty, and both sides know pending_send_sz. */
static void rig_reset(struct rig *g, uint32_t index)
{
	int i;

	for (i = 0; i < 2; i++) {
		_Atomic uint32_t *w = (_Atomic uint32_t *)(void *)rig_page(g, i);

		memset(rig_page(g, i), 0, RIG_PAGE);
		atomic_store(&w[H_WRITE], index);
		atomic_store(&w[H_READ], index);
		atomic_store(&w[H_FEATURES], 1);
	}
}

static void rig_up(struct rig *g, uint32_t size)
{
	size_t all = 2 * (size_t)(RIG_PAGE + size);
	int i;

	memset(g, 0, sizeof(*g));
	g->size = size;
	g->fd = memfd_create("rig", MFD_CLOEXEC);
	assert_true(g->fd >= 0 && !ftruncate(g->fd, (off_t)all));
	g->plain = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd, 0);
	g->s = mmap(NULL, sizeof(*g->s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(g->plain != MAP_FAILED && g->s != MAP_FAILED);
	rig_reset(g, 0);
	for (i = 0; i < 2; i++) {
		g->efd[i] = vmp_efd_new();
		g->p[i] = vmp_alloc(&rig_ops, 0);
		assert_non_null(g->p[i]);
		g->p[i]->priv = g;
		g->p[i]->info.peer_id = (uint32_t)i;
		g->p[i]->info.vectors = 1;
		g->p[i]->info.caps = VMP_CAP_RING | VMP_CAP_EVENTS | VMP_CAP_PACKETS;
	}
}

static void rig_down(struct rig *g)
{
	int i;

	for (i = 0; i < 2; i++) {
		vmp_close(g->p[i]);
		close(g->efd[i]);
	}
	munmap(g->plain, 2 * (size_t)(RIG_PAGE + g->size));
	munmap(g->s, sizeof(*g->s));
	close(g->fd);
}

static struct vmp_channel *rig_open(struct rig *g, int end, uint32_t flags)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .flags = VMP_CH_PACKETS | flags };
	struct vmp_channel *ch;
	int r = vmp_channel_open(&ch, g->p[end], &o);

	if (r)
		fail_msg("vmp_channel_open: %d %s", r, vmp_errmsg());
	return ch;
}

/* The host's two rings, as @end 1 has them: out is ring 1, in is ring 0. */
static inline void rig_host(struct rig *g, struct host_ring *out, struct host_ring *in)
{
	host_ring_init(out, rig_page(g, 1), rig_page(g, 1) + RIG_PAGE, g->size);
	host_ring_init(in, rig_page(g, 0), rig_page(g, 0) + RIG_PAGE, g->size);
}

static inline unsigned int rig_signals(const struct rig *g, int end)
{
	return atomic_load(&g->s->signals[end]);
}

#endif /* TESTS_UNIT_LIB_RIG_H */
