/* SPDX-License-Identifier: MIT */
/*
 * The other side of a packet ring, as a VMBus host does it, written apart from
 * vmportal_packet.h and in another manner: free-running 64-bit counters, byte by byte
 * modulo the size, sequentially consistent throughout, no double mapping.
 */
#ifndef TESTS_UNIT_LIB_HOSTRING_H
#define TESTS_UNIT_LIB_HOSTRING_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct host_ring {
	_Atomic uint32_t *w;	/* the header page, word by word */
	unsigned char *data;
	uint32_t size;
	uint64_t head, tail;	/* written, read; mod size they are the indices */
};

enum { H_WRITE, H_READ, H_MASK, H_PENDING, H_FEATURES = 16 };

struct host_packet {
	uint16_t type, flags;
	uint64_t id;
	uint32_t extra;		/* bytes of descriptor beyond 16 */
	uint32_t len;		/* bytes behind the first 16, extra included */
};

static inline void host_ring_init(struct host_ring *r, void *page, void *data, uint32_t size)
{
	r->w = page;
	r->data = data;
	r->size = size;
	r->head = atomic_load(&r->w[H_WRITE]);
	r->tail = atomic_load(&r->w[H_READ]);
	if (r->head < r->tail)
		r->head += size;
}

static inline void host_put(struct host_ring *r, uint64_t at, const void *from, uint32_t n)
{
	const unsigned char *c = from;
	uint32_t i;

	for (i = 0; i < n; i++)
		r->data[(at + i) % r->size] = c[i];
}

static inline void host_take(struct host_ring *r, uint64_t at, void *to, uint32_t n)
{
	unsigned char *c = to;
	uint32_t i;

	for (i = 0; i < n; i++)
		c[i] = r->data[(at + i) % r->size];
}

/* What the consumer has read, as a counter. */
static inline uint64_t host_their_tail(const struct host_ring *r)
{
	uint64_t t = r->head - r->head % r->size + atomic_load(&r->w[H_READ]);

	return t > r->head ? t - r->size : t;
}

static inline uint32_t host_room(const struct host_ring *r)
{
	return r->size - (uint32_t)(r->head - host_their_tail(r));
}

static inline uint32_t host_bytes(uint32_t len)
{
	return 16 + (len + 7) / 8 * 8 + 8;
}

/* -1: no room, and the wish is told. Else whether to signal. */
static inline int host_send(struct host_ring *r, const struct host_packet *p, const void *body)
{
	uint32_t n = host_bytes(p->len);
	uint16_t d[4] = { p->type, (uint16_t)(2 + p->extra / 8), (uint16_t)((n - 8) / 8), p->flags };
	uint64_t old = r->head, trail = (old % r->size) << 32, none = 0;

	if (host_room(r) <= n) {
		atomic_store(&r->w[H_PENDING], n);
		if (host_room(r) <= n)
			return -1;
	}
	atomic_store(&r->w[H_PENDING], 0);
	host_put(r, old, d, 8);
	host_put(r, old + 8, &p->id, 8);
	if (p->len)
		host_put(r, old + n - 16, &none, 8);
	host_put(r, old + 16, body, p->len);
	host_put(r, old + n - 8, &trail, 8);
	r->head += n;
	atomic_store(&r->w[H_WRITE], (uint32_t)(r->head % r->size));
	if (atomic_load(&r->w[H_MASK]))
		return 0;
	return atomic_load(&r->w[H_READ]) == old % r->size;
}

static inline bool host_nothing(const struct host_ring *r)
{
	return atomic_load(&r->w[H_WRITE]) == r->tail % r->size;
}

/* Bytes of body, or -1: nothing there. The room is given back by host_done(). */
static inline int host_recv(struct host_ring *r, struct host_packet *p, void *body, uint32_t cap)
{
	uint32_t there = (atomic_load(&r->w[H_WRITE]) + r->size - (uint32_t)(r->tail % r->size)) % r->size;
	uint64_t trail;
	uint16_t d[4];

	if (!there)
		return -1;
	assert(there >= 24 && there % 8 == 0);
	host_take(r, r->tail, d, 8);
	host_take(r, r->tail + 8, &p->id, 8);
	p->type = d[0];
	p->flags = d[3];
	p->extra = d[1] * 8U - 16;
	p->len = d[2] * 8U - 16;
	assert(d[1] >= 2 && d[2] >= d[1] && p->len <= cap && p->len + 24 <= there);
	host_take(r, r->tail + 16, body, p->len);
	host_take(r, r->tail + 16 + p->len, &trail, 8);
	assert(trail == (r->tail % r->size) << 32);
	r->tail += p->len + 24;
	return (int)p->len;
}

/* Give back what was read; whether to signal. */
static inline bool host_done(struct host_ring *r)
{
	uint32_t old = atomic_exchange(&r->w[H_READ], (uint32_t)(r->tail % r->size)), want, room;
	uint32_t got = (uint32_t)((r->tail + r->size - old) % r->size);

	if (!(atomic_load(&r->w[H_FEATURES]) & 1))
		return false;
	want = atomic_load(&r->w[H_PENDING]);
	if (!want)
		return false;
	room = r->size - (uint32_t)((atomic_load(&r->w[H_WRITE]) + r->size - r->tail % r->size) % r->size);
	return room > want && room - got <= want;
}

#endif /* TESTS_UNIT_LIB_HOSTRING_H */
