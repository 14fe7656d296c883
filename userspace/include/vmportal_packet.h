/* SPDX-License-Identifier: MIT */
/*
 * VMBus's packet rings alone, either end of them, as Hyper-V and its guests define
 * them. Freestanding: no operating system, no allocation; C11 and C++. libvmportal's
 * VMP_CH_PACKETS channels are one producer and one consumer of these.
 *
 * Bytes. A ring is a header page and, behind it, the data: a multiple of 4096 bytes,
 * no power of two in general. The data must be mapped twice, back to back, so that a
 * packet that wraps lies in one piece. Indices are byte offsets into the data, modulo its
 * size, multiples of 8; write_index == read_index is "empty", so a ring is never filled
 * to the last byte. All is little-endian. A packet is
 *
 *	descriptor	{ u16 type, offset8, len8, flags; u64 transaction id }
 *	more of it	up to offset8 * 8 bytes from the start, for some types
 *	payload		up to len8 * 8 bytes from the start: its length is known in
 *			units of 8 bytes only, the rest is zero
 *	trailer		u64: where this packet began, in the upper half. Not every
 *			host writes it, so nobody may rely on it
 *
 * Who writes what. In the header of a ring the producer writes write_index,
 * pending_send_sz and feature_bits, the consumer read_index and interrupt_mask.
 *
 * Signals. The producer signals when it publishes into a ring that was empty and whose
 * interrupt_mask is 0; the consumer sets that mask while it looks by itself, and before
 * it sleeps it clears the mask, fences, and looks once more. A producer that found no
 * room stores what it needs in pending_send_sz, fences, and looks once more; the
 * consumer signals when a read made free space pass that number. Hyper-V throttles
 * guests that signal otherwise. Proof: tests/model/packet.pml.
 *
 * Trust. As in vmportal_ring.h: each shared word is read once, checked, and only the
 * copy is used; a liar costs the other end VMPR_PROTO, for ever (err), or wrong bytes
 * inside a payload, never an access outside the ring. An end's own index is compared
 * with what it stored: a ring that was initialised anew under it is such an error too.
 *
 * Threads: one may use a struct vmpk_tx and one a struct vmpk_rx; vmpk_publish() may be
 * another's than the producer's, as long as two do not run at once.
 */
#ifndef VMPORTAL_PACKET_H
#define VMPORTAL_PACKET_H

#include "vmportal_ring.h"

#ifdef __cplusplus
extern "C" {
#endif

#define VMPK_PAGE	4096U	/* the data's size is a multiple of this */
#define VMPK_DESC	16U	/* bytes of a descriptor */
#define VMPK_TRAILER	8U
#define VMPK_LEN8_MAX	0xffffU	/* longest packet, in units of 8 bytes, trailer not counted */
#define VMPK_SIZE_MAX	(UINT32_C(1) << 30) /* of the data */

/* Types of packets that are in use today; others are handed on as they are. */
#define VMPK_DATA_INBAND	6
#define VMPK_COMPLETION		11

/* Flags of a packet. */
#define VMPK_WANT_COMPLETION	1

/* The other end of this ring knows pending_send_sz. */
#define VMPK_FEAT_PENDING	1U

/* The header page, as far as it is in use. */
struct vmpk_ring {
	uint32_t write_index;
	uint32_t read_index;
	uint32_t interrupt_mask;
	uint32_t pending_send_sz;
	uint32_t reserved[12];
	uint32_t feature_bits;
};

struct vmpk_desc {
	uint16_t type;
	uint16_t offset8;
	uint16_t len8;
	uint16_t flags;
	uint64_t id;
};

/* Bytes from @from forward to @to. */
VMPR_HOT uint32_t vmpk_ahead(uint32_t from, uint32_t to, uint32_t size)
{
	return to >= from ? to - from : size - from + to;
}

VMPR_HOT uint32_t vmpk_wrap(uint32_t index, uint32_t size)
{
	return index >= size ? index - size : index;
}

VMPR_HOT int vmpk_index_ok(uint32_t index, uint32_t size)
{
	return index < size && !(index & 7);
}

static inline int vmpk_size_ok(uint64_t size)
{
	return size && size <= VMPK_SIZE_MAX && !(size % VMPK_PAGE);
}

/*
 * Longest payload of a ring with @size bytes of data, beside @extra bytes of descriptor.
 * 8 bytes short of what fits, so that a wish for room can be told to any consumer: see
 * vmpk_want().
 */
VMPR_HOT uint32_t vmpk_max(uint32_t size, uint32_t extra)
{
	uint32_t max = size - 16 - VMPK_TRAILER;

	if (max > VMPK_LEN8_MAX * 8)
		max = VMPK_LEN8_MAX * 8;
	return max - VMPK_DESC - extra;
}

/* Bytes that a packet takes in the ring; @extra is a multiple of 8. */
VMPR_HOT uint32_t vmpk_bytes(uint32_t extra, uint32_t len)
{
	return VMPK_DESC + extra + ((len + 7) & ~UINT32_C(7)) + VMPK_TRAILER;
}

/* ---- Producer ------------------------------------------------------------- */

/**
 * struct vmpk_tx - the producer's end; all private
 * @ring, @data, @size: the header page, the data (mapped twice), its bytes
 * @pos: where the next packet goes; what is before it may not be published yet
 * @published: write_index as this end stored it; vmpk_publish()'s
 * @read: read_index as last seen
 * @resv: bytes reserved for the next packet, 0: none
 * @asked: what pending_send_sz says
 * @err: 0, or VMPR_PROTO for ever
 */
struct vmpk_tx {
	struct vmpk_ring *ring;
	unsigned char *data;
	uint32_t size;
	uint32_t pos;
	uint32_t published;
	uint32_t read;
	uint32_t resv;
	uint32_t asked;
	int err;
};

/**
 * vmpk_tx_init() - go on where the ring is
 *
 * Nobody else may be producing. VMPR_INVAL: @size cannot be; VMPR_PROTO: the indices
 * that the ring holds cannot be.
 */
static inline int vmpk_tx_init(struct vmpk_tx *t, void *ring, void *data, uint64_t size)
{
	if (!vmpk_size_ok(size))
		return VMPR_INVAL;
	t->ring = (struct vmpk_ring *)ring;
	t->data = (unsigned char *)data;
	t->size = (uint32_t)size;
	t->pos = vmpr_load_relaxed(&t->ring->write_index);
	t->published = t->pos;
	t->read = vmpr_load_acquire(&t->ring->read_index);
	t->resv = 0;
	t->asked = 0;
	t->err = 0;
	if (!vmpk_index_ok(t->pos, t->size) || !vmpk_index_ok(t->read, t->size))
		return VMPR_PROTO;
	vmpr_store_relaxed(&t->ring->pending_send_sz, 0);
	vmpr_store_relaxed(&t->ring->feature_bits, VMPK_FEAT_PENDING);
	return 0;
}

/* Would @bytes fit now, without another look at the consumer? One byte stays free, always. */
VMPR_HOT int vmpk_fits(const struct vmpk_tx *t, uint32_t bytes)
{
	return t->size - vmpk_ahead(t->read, t->pos, t->size) > bytes;
}

/* Look at the consumer's position anew: 0, or VMPR_PROTO. */
static inline int vmpk_tx_refresh(struct vmpk_tx *t)
{
	/* Pairs with the store in vmpk_give(): what it read, it has read. */
	uint32_t r = vmpr_load_acquire(&t->ring->read_index);

	/* Forward only, and not beyond what was written. */
	if (VMPR_UNLIKELY(!vmpk_index_ok(r, t->size) ||
			  vmpk_ahead(t->read, r, t->size) > vmpk_ahead(t->read, t->pos, t->size))) {
		t->err = VMPR_PROTO;
		return VMPR_PROTO;
	}
	t->read = r;
	return 0;
}

/**
 * vmpk_reserve() - room for a packet
 * @extra: bytes of the descriptor beyond the first 16, a multiple of 8; mostly 0
 * @len: bytes of payload, at most vmpk_max()
 * @ptr: set to where @extra, and then the payload, go
 *
 * A later reservation replaces it. VMPR_AGAIN: no room yet; publish what is not yet, and
 * see vmpk_want(). VMPR_MSGSIZE; VMPR_PROTO.
 */
VMPR_HOT int vmpk_reserve(struct vmpk_tx *t, uint32_t extra, uint64_t len, void **ptr)
{
	uint32_t bytes;

	if (VMPR_UNLIKELY(t->err))
		return t->err;
	if (VMPR_UNLIKELY(extra & 7))
		return VMPR_INVAL;
	if (VMPR_UNLIKELY(extra > vmpk_max(t->size, 0) || len > vmpk_max(t->size, extra)))
		return VMPR_MSGSIZE;
	bytes = vmpk_bytes(extra, (uint32_t)len);
	if (!vmpk_fits(t, bytes)) {
		if (vmpk_tx_refresh(t))
			return VMPR_PROTO;
		if (!vmpk_fits(t, bytes))
			return VMPR_AGAIN;
	}
	if (VMPR_UNLIKELY(t->asked)) {
		t->asked = 0;
		vmpr_store_relaxed(&t->ring->pending_send_sz, 0);
	}
	t->resv = bytes;
	*ptr = t->data + t->pos + VMPK_DESC;
	return 0;
}

/**
 * vmpk_commit() - the reserved packet is complete; nobody sees it before vmpk_publish()
 * @d: type, flags and id; the lengths are set here
 *
 * VMPR_INVAL: more than was reserved, or nothing was.
 */
VMPR_HOT int vmpk_commit(struct vmpk_tx *t, const struct vmpk_desc *d, uint32_t extra, uint64_t len)
{
	uint64_t *p = (uint64_t *)(void *)(t->data + t->pos);
	uint32_t bytes, end8, i;

	if (VMPR_UNLIKELY(!t->resv || extra & 7 || len > t->size || extra > t->size))
		return VMPR_INVAL;
	bytes = vmpk_bytes(extra, (uint32_t)len);
	if (VMPR_UNLIKELY(bytes > t->resv))
		return VMPR_INVAL;
	end8 = (bytes - VMPK_TRAILER) / 8;
	for (i = VMPK_DESC + extra + (uint32_t)len; i & 7; i++)
		t->data[t->pos + i] = 0;
	p[0] = (uint64_t)d->type | (uint64_t)(2 + extra / 8) << 16 |
	       (uint64_t)end8 << 32 | (uint64_t)d->flags << 48;
	p[1] = d->id;
	p[end8] = (uint64_t)t->pos << 32;
	t->resv = 0;
	t->pos = vmpk_wrap(t->pos + bytes, t->size);
	return 0;
}

/**
 * vmpk_publish() - show the consumer all packets before @pos, which may be many
 *
 * 1: signal it, it may sleep. 0: it does not. VMPR_PROTO: the ring was changed under us.
 */
static inline int vmpk_publish(struct vmpk_tx *t, uint32_t pos)
{
	uint32_t old = t->published;

	if (pos == old)
		return 0;
	if (VMPR_UNLIKELY(vmpr_load_relaxed(&t->ring->write_index) != old))
		return VMPR_PROTO;
	t->published = pos;
	/* Pairs with the load in vmpk_rx_refresh(): the packets are before it. */
	vmpr_store_release(&t->ring->write_index, pos);
	/* Pairs with the fence in vmpk_unmask(): we see the mask, or it our packets. */
	vmpr_full_fence();
	/* The mask before the index: the consumer stores them the other way round. */
	if (vmpr_load_acquire(&t->ring->interrupt_mask))
		return 0;
	return vmpr_load_relaxed(&t->ring->read_index) == old;
}

/**
 * vmpk_want() - there is no room for @bytes (vmpk_bytes()): ask for a signal
 *
 * 1: there is room now, or an error that vmpk_reserve() will tell. 0: sleep.
 *
 * Linux's consumers signal when free space becomes more than pending_send_sz, QEMU's
 * when it becomes that much; free space is a multiple of 8, and we need more than @bytes:
 * the number in between is right for both.
 */
static inline int vmpk_want(struct vmpk_tx *t, uint32_t bytes)
{
	t->asked = bytes + 4;
	vmpr_store_relaxed(&t->ring->pending_send_sz, t->asked);
	/* Pairs with the fence in vmpk_give(): it sees the wish, or we the room. */
	vmpr_full_fence();
	return vmpk_tx_refresh(t) || vmpk_fits(t, bytes);
}

/* ---- Consumer ------------------------------------------------------------- */

/**
 * struct vmpk_rx - the consumer's end; all private but @desc while a packet is peeked
 * @ring, @data, @size: the header page, the data (mapped twice), its bytes
 * @pos: where the next packet begins
 * @given: read_index as this end stored it
 * @seen: write_index as last seen
 * @bytes: what the peeked packet takes in the ring, 0: none is
 * @desc: its descriptor, checked
 * @err: 0, or VMPR_PROTO for ever
 */
struct vmpk_rx {
	struct vmpk_ring *ring;
	const unsigned char *data;
	uint32_t size;
	uint32_t pos;
	uint32_t given;
	uint32_t seen;
	uint32_t bytes;
	struct vmpk_desc desc;
	int err;
};

/* Go on where the ring is, masked. Errors as vmpk_tx_init(). */
static inline int vmpk_rx_init(struct vmpk_rx *r, void *ring, const void *data, uint64_t size)
{
	if (!vmpk_size_ok(size))
		return VMPR_INVAL;
	r->ring = (struct vmpk_ring *)ring;
	r->data = (const unsigned char *)data;
	r->size = (uint32_t)size;
	r->pos = vmpr_load_relaxed(&r->ring->read_index);
	r->given = r->pos;
	r->seen = r->pos;
	r->bytes = 0;
	r->err = 0;
	if (!vmpk_index_ok(r->pos, r->size))
		return VMPR_PROTO;
	vmpr_store_relaxed(&r->ring->interrupt_mask, 1);
	return 0;
}

/* Look at the producer's position anew: 0, or VMPR_PROTO. */
static inline int vmpk_rx_refresh(struct vmpk_rx *r)
{
	/* Pairs with the store in vmpk_publish(). */
	uint32_t w = vmpr_load_acquire(&r->ring->write_index);

	if (VMPR_UNLIKELY(!vmpk_index_ok(w, r->size) ||
			  vmpr_load_relaxed(&r->ring->read_index) != r->given)) {
		r->err = VMPR_PROTO;
		return VMPR_PROTO;
	}
	r->seen = w;
	return 0;
}

/* Is it worth calling vmpk_peek()? */
static inline int vmpk_rx_ready(const struct vmpk_rx *r)
{
	return r->bytes || r->err || vmpr_load_acquire(&r->ring->write_index) != r->pos;
}

/**
 * vmpk_peek() - the next packet, in place
 * @ptr: set to what follows the first 16 bytes of its descriptor: (desc.offset8 - 2) * 8
 *	bytes more of that, and then the payload. A hostile producer may change both at
 *	any time
 *
 * Bytes of payload; the same packet until vmpk_release(). VMPR_AGAIN: none yet.
 * VMPR_PROTO: what stands there is no packet.
 */
VMPR_HOT int64_t vmpk_peek(struct vmpk_rx *r, const void **ptr)
{
	const uint64_t *p = (const uint64_t *)(const void *)(r->data + r->pos);
	uint32_t there, bytes;
	uint64_t w;

	if (!r->bytes) {
		if (VMPR_UNLIKELY(r->err))
			return r->err;
		if (r->seen == r->pos && vmpk_rx_refresh(r))
			return VMPR_PROTO;
		there = vmpk_ahead(r->pos, r->seen, r->size);
		if (!there)
			return VMPR_AGAIN;
		w = vmpr_load_relaxed(p);
		r->desc.type = (uint16_t)w;
		r->desc.offset8 = (uint16_t)(w >> 16);
		r->desc.len8 = (uint16_t)(w >> 32);
		r->desc.flags = (uint16_t)(w >> 48);
		r->desc.id = vmpr_load_relaxed(p + 1);
		bytes = r->desc.len8 * 8U + VMPK_TRAILER;
		if (VMPR_UNLIKELY(r->desc.offset8 < VMPK_DESC / 8 ||
				  r->desc.len8 < r->desc.offset8 || bytes > there)) {
			r->err = VMPR_PROTO;
			return VMPR_PROTO;
		}
		r->bytes = bytes;
	}
	*ptr = p + 2;
	return (int64_t)(r->desc.len8 - r->desc.offset8) * 8;
}

/**
 * vmpk_give() - give back all that was released
 *
 * 1: signal the producer, which waits for room and has it now; else 0.
 */
static inline int vmpk_give(struct vmpk_rx *r)
{
	uint32_t got = vmpk_ahead(r->given, r->pos, r->size), want, w, room;

	r->given = r->pos;
	/* Pairs with the load in vmpk_tx_refresh(): the reads are before it. */
	vmpr_store_release(&r->ring->read_index, r->pos);
	if (!(vmpr_load_relaxed(&r->ring->feature_bits) & VMPK_FEAT_PENDING))
		return 0;
	/* Pairs with the fence in vmpk_want(): we see the wish, or it the room. */
	vmpr_full_fence();
	/* The wish before the index: the producer stores them the other way round. */
	want = vmpr_load_acquire(&r->ring->pending_send_sz);
	if (!want)
		return 0;
	w = vmpr_load_relaxed(&r->ring->write_index);
	if (!vmpk_index_ok(w, r->size))
		return 0;
	/* Only when this read made the difference. */
	room = r->size - vmpk_ahead(r->pos, w, r->size);
	return room > want && room <= (uint64_t)want + got;
}

/*
 * Done with the peeked packet. 1: signal the producer (as vmpk_give()), 0: no need;
 * VMPR_INVAL: none was peeked. Gives back what was read when nothing is left, when it is
 * an eighth of the ring, or when the producer waits.
 */
VMPR_HOT int vmpk_release(struct vmpk_rx *r)
{
	if (VMPR_UNLIKELY(!r->bytes))
		return VMPR_INVAL;
	r->pos = vmpk_wrap(r->pos + r->bytes, r->size);
	r->bytes = 0;
	if (r->pos == r->seen || vmpk_ahead(r->given, r->pos, r->size) >= r->size / 8 ||
	    VMPR_UNLIKELY(vmpr_load_relaxed(&r->ring->pending_send_sz)))
		return vmpk_give(r);
	return 0;
}

/* We look by ourselves: no signals, please. */
VMPR_HOT void vmpk_mask(struct vmpk_rx *r)
{
	vmpr_store_relaxed(&r->ring->interrupt_mask, 1);
}

/* About to sleep: 1 if there is something, after all (then vmpk_mask()); 0: sleep. */
static inline int vmpk_unmask(struct vmpk_rx *r)
{
	vmpr_store_release(&r->ring->interrupt_mask, 0);
	/* Pairs with the fence in vmpk_publish(). */
	vmpr_full_fence();
	return vmpk_rx_ready(r);
}

#ifdef __cplusplus
}
#endif

#endif /* VMPORTAL_PACKET_H */
