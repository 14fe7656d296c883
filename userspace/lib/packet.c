// SPDX-License-Identifier: MIT
/*
 * Channels over VMBus's packet rings (vmportal_packet.h): what in a region's channel the
 * lanes and the handshake are. Sleeping is wait.c's; the order that it needs, and its
 * proof: tests/model/packet.pml.
 */
#include <linux/portal_vmbus.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "channel.h"

#define W(x)	((uint64_t *)&(x))

/* ---- Opening ---------------------------------------------------------------- */

static int claim(struct vmp_channel *ch)
{
	struct vmp *p = ch->p;
	uint64_t bit = UINT64_C(1) << ch->vector;
	int r = -EBUSY;

	pthread_mutex_lock(&p->lock);
	if (!(p->packet_vectors & bit)) {
		r = p->ops->packets(p, ch->vector, &ch->pk->rings);
		if (!r)
			p->packet_vectors |= bit;
	} else {
		vmp_fail(r, "%s: the packet rings of vector %u are in use by another channel of this portal; close that first",
			 p->info.identity, ch->vector);
	}
	store_relaxed(&ch->generation, p->info.generation);
	pthread_mutex_unlock(&p->lock);
	return r;
}

int packet_open(struct vmp_channel *ch)
{
	struct packets *pk = calloc(1, sizeof(*pk));
	const struct vmp_rings *g;
	int r;

	if (!pk)
		return vmp_fail(-ENOMEM, "vmp_channel_open: out of memory");
	ch->pk = pk;
	ch->me = &pk->self;
	ch->peer = &pk->other;
	store_relaxed(W(ch->me->incarnation), ch->inc);
	pk->header = (size_t)sysconf(_SC_PAGESIZE);
	g = &pk->rings;
	r = claim(ch);
	if (r)
		return r;
	r = vmpk_tx_init(&pk->tx, g->send, g->send_data, g->send_size);
	if (!r)
		r = vmpk_rx_init(&pk->rx, g->recv, g->recv_data, g->recv_size);
	if (r)
		return vmp_fail(r, "%s: the packet rings of vector %u hold no possible indices: a program or the host broke them; bind the device anew",
				ch->p->info.identity, ch->vector);
	pk->masked = true;
	return 0;
}

void packet_close(struct vmp_channel *ch)
{
	struct packets *pk = ch->pk;
	struct vmp *p = ch->p;

	if (pk->rings.send) {
		/* Rings that were taken away must not be touched. */
		if (ch->pid == getpid() && pk->rx.ring && !load_relaxed(&ch->dead) &&
		    !packet_check(ch)) {
			packet_flush(ch);
			/* The next user, or the kernel, begins where we ended, and is signalled. */
			if (vmpk_give(&pk->rx) == 1)
				vmp_ring(p, pk->rings.host, ch->vector);
			vmpk_unmask(&pk->rx);
		}
		if (vmp_mapped_here(p)) {
			vmp_unmap_twice(pk->rings.send, pk->header, pk->rings.send_size);
			vmp_unmap_twice(pk->rings.recv, pk->header, pk->rings.recv_size);
		}
		pthread_mutex_lock(&p->lock);
		p->packet_vectors &= ~(UINT64_C(1) << ch->vector);
		pthread_mutex_unlock(&p->lock);
	}
	free(pk);
	ch->pk = NULL;
}

int packet_check(struct vmp_channel *ch)
{
	uint32_t now;
	int r = vmp_refresh(ch->p);

	if (r)
		return r;
	pthread_mutex_lock(&ch->p->lock);
	now = ch->p->info.generation;
	pthread_mutex_unlock(&ch->p->lock);
	return now == load_relaxed(&ch->generation) ? 0 : -ECONNRESET;
}

/* ---- Signals ---------------------------------------------------------------- */

static void signal_host(struct vmp_channel *ch)
{
	int r;

	__atomic_fetch_add(&ch->doorbells, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&ch->ring_syscalls, 1, __ATOMIC_RELAXED);
	r = vmp_ring(ch->p, ch->pk->rings.host, ch->vector);
	if (r == -ENODEV)
		chan_die(ch, r);
}

bool packet_look(struct vmp_channel *ch, enum dir d, uint64_t need)
{
	struct packets *pk = ch->pk;

	if (load_relaxed(&ch->dead))
		return true;
	if (d == RX)
		return vmpk_rx_ready(&pk->rx);
	return vmpk_tx_refresh(&pk->tx) || vmpk_fits(&pk->tx, (uint32_t)need);
}

/* What is there is found by the look that follows. */
void packet_arm(struct vmp_channel *ch, enum dir d, uint64_t need)
{
	struct packets *pk = ch->pk;

	if (d == RX) {
		pk->masked = false;
		vmpk_unmask(&pk->rx);
	} else {
		vmpk_want(&pk->tx, (uint32_t)need);
	}
}

/* A wish for room stays until there was enough: vmpk_reserve(). */
void packet_disarm(struct vmp_channel *ch, enum dir d)
{
	if (d == RX && !ch->pk->masked) {
		ch->pk->masked = true;
		vmpk_mask(&ch->pk->rx);
	}
}

/* ---- Sending ---------------------------------------------------------------- */

/* After vmpk_publish() said @r. */
static int published(struct vmp_channel *ch, int r)
{
	if (r == 1)
		signal_host(ch);
	return r < 0 ? chan_broken(ch) : 0;
}

/*
 * Packets are committed one by one, and published by the batch: the ring's empty to
 * non-empty is one event then, as VMBus wants it, and so is the signal. Any thread may
 * come here for what the sender owes. While something is owed, @batch is set, and the
 * sender too publishes under the lock; so nobody takes write_index back.
 */
int packet_flush(struct vmp_channel *ch)
{
	struct packets *pk = ch->pk;
	int r = 0;

	if (!load_relaxed(&ch->owe))
		return 0;
	pthread_mutex_lock(&ch->lock);
	/* Pairs with the store in packet_commit(): with the debt we see its packet. */
	if (__atomic_exchange_n(&ch->owe, 0, __ATOMIC_ACQ_REL))
		r = vmpk_publish(&pk->tx, load_acquire(&pk->ready));
	pthread_mutex_unlock(&ch->lock);
	return published(ch, r);
}

int packet_commit(struct vmp_channel *ch, const struct vmpk_desc *d, uint32_t extra, size_t len,
		  unsigned int flags)
{
	struct packets *pk = ch->pk;
	int r;

	if (vmpk_commit(&pk->tx, d, extra, len))
		return vmp_fail(-EINVAL, "vmp_commit: %zu bytes, but fewer were reserved, or none", len);
	count(&ch->tx.n.messages, 1);
	count(&ch->tx.n.bytes, len);
	if (flags & VMP_MORE) {
		pk->batch = true;
		store_release(&pk->ready, pk->tx.pos);
		store_release(&ch->owe, 1);
		return 0;
	}
	if (pk->batch) {
		pthread_mutex_lock(&ch->lock);
		store_relaxed(&ch->owe, 0);
		r = vmpk_publish(&pk->tx, pk->tx.pos);
		pthread_mutex_unlock(&ch->lock);
		pk->batch = false;
	} else {
		r = vmpk_publish(&pk->tx, pk->tx.pos);
	}
	return published(ch, r);
}

int packet_reserve(struct vmp_channel *ch, void **ptr, uint32_t extra, size_t len, int timeout_ms)
{
	struct patience pt = { .timeout_ms = timeout_ms };
	struct packets *pk = ch->pk;
	int r;

	for (;;) {
		if (load_relaxed(&ch->dead))
			return chan_fail(ch, load_relaxed(&ch->dead));
		r = vmpk_reserve(&pk->tx, extra, len, ptr);
		if (likely(!r))
			return 0;
		if (r == -EPROTO)
			return chan_broken(ch);
		if (r == -EMSGSIZE)
			return vmp_fail(r, "a message of %zu bytes is longer than the %u that fit into this packet ring; give the device larger rings, or split it",
					len + extra, vmpk_max(pk->tx.size, extra));
		if (r != -EAGAIN)
			return vmp_fail(r, "a descriptor's extra bytes must be a multiple of 8, not %u", extra);
		r = chan_wait(ch, TX, vmpk_bytes(extra, (uint32_t)len), &pt);
		if (r)
			return r;
	}
}

/* ---- Receiving -------------------------------------------------------------- */

int64_t packet_try(struct vmp_channel *ch, const void **ptr)
{
	struct packets *pk = ch->pk;
	const unsigned char *at;
	const void *p = NULL;
	int64_t n;

	if (unlikely(load_relaxed(&ch->dead)))
		return chan_fail(ch, load_relaxed(&ch->dead));
	n = vmpk_peek(&pk->rx, &p);
	if (n < 0)
		return n == -EAGAIN ? n : chan_broken(ch);
	if (!pk->masked && !(ch->flags & VMP_CH_NO_SLEEP))
		packet_disarm(ch, RX);
	at = p;
	*ptr = at + (pk->rx.desc.offset8 * 8U - VMPK_DESC);
	return n;
}

int packet_release(struct vmp_channel *ch)
{
	int r = vmpk_release(&ch->pk->rx);

	if (r == 1)
		signal_host(ch);
	return r < 0 ? r : 0;
}

/* ---- What only VMBus has ------------------------------------------------------ */

static int packet_call(struct vmp_channel *ch, const char *call)
{
	return ch->pk ? vmp_not_a_child(ch->p) : vmp_fail(-EOPNOTSUPP, "%s: only channels of VMP_CH_PACKETS carry packets", call);
}

VMP_API int vmp_packet_send(struct vmp_channel *ch, const struct vmp_packet *pkt, const void *buf,
			    size_t len, unsigned int flags, int timeout_ms)
{
	struct vmpk_desc d = { .type = pkt->type, .flags = pkt->flags, .id = pkt->id };
	void *ptr;
	int r = packet_call(ch, "vmp_packet_send");

	if (r)
		return r;
	if (flags & ~VMP_MORE)
		return vmp_fail(-EINVAL, "vmp_packet_send: undefined flags 0x%x", flags);
	if (pkt->extra > len)
		return vmp_fail(-EINVAL, "vmp_packet_send: %u bytes of descriptor in a buffer of %zu", pkt->extra, len);
	if (pkt->id == PORTAL_VMBUS_CONTROL)
		return vmp_fail(-EINVAL, "vmp_packet_send: transaction id 0x%llx belongs to the driver's handshake",
				(unsigned long long)pkt->id);
	r = packet_reserve(ch, &ptr, pkt->extra, len - pkt->extra, timeout_ms);
	if (r)
		return r;
	if (len)
		memcpy(ptr, buf, len);
	return packet_commit(ch, &d, pkt->extra, len - pkt->extra, flags);
}

VMP_API int vmp_packet_complete(struct vmp_channel *ch, uint64_t id, const void *buf, size_t len,
				unsigned int flags, int timeout_ms)
{
	struct vmp_packet pkt = { .type = VMP_PACKET_COMPLETION, .id = id };

	return vmp_packet_send(ch, &pkt, buf, len, flags, timeout_ms);
}

static void describe(const struct vmp_channel *ch, struct vmp_packet *pkt)
{
	const struct vmpk_desc *d = &ch->pk->rx.desc;

	pkt->type = d->type;
	pkt->flags = d->flags;
	pkt->extra = d->offset8 * 8U - VMPK_DESC;
	pkt->id = d->id;
}

VMP_API int vmp_packet_peeked(struct vmp_channel *ch, struct vmp_packet *pkt)
{
	int r = packet_call(ch, "vmp_packet_peeked");

	if (r)
		return r;
	if (!ch->pk->rx.bytes)
		return vmp_fail(-EINVAL, "vmp_packet_peeked: no packet was peeked");
	describe(ch, pkt);
	return 0;
}

VMP_API ssize_t vmp_packet_recv(struct vmp_channel *ch, struct vmp_packet *pkt, void *buf, size_t cap,
				int timeout_ms)
{
	const unsigned char *at;
	const void *ptr;
	ssize_t n = packet_call(ch, "vmp_packet_recv");

	if (!n)
		n = vmp_peek(ch, &ptr, timeout_ms);
	if (n < 0)
		return n;
	describe(ch, pkt);
	at = (const unsigned char *)ptr - pkt->extra;
	n += pkt->extra;
	if ((size_t)n > cap)
		return vmp_fail(-EMSGSIZE, "the next packet has %zd bytes, the buffer %zu; it waits", n, cap);
	if (n)
		memcpy(buf, at, (size_t)n);
	vmp_release(ch);
	return n;
}
