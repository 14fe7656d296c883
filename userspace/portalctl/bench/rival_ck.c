// SPDX-License-Identifier: MIT
/* Concurrency Kit's ck_ring, its typed single-producer single-consumer form. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <ck_ring.h>

#include "rival.h"

CK_RING_PROTOTYPE(msg64, msg64)

struct ck_mem {
	struct ck_ring ring;
	struct msg64 slot[RIVAL_SLOTS] __attribute__((aligned(128)));
} __attribute__((aligned(128)));

#define RIVAL_PUSH(mem, m) \
	CK_RING_ENQUEUE_SPSC(msg64, &((struct ck_mem *)(mem))->ring, ((struct ck_mem *)(mem))->slot, m)
#define RIVAL_POP(mem, m) \
	CK_RING_DEQUEUE_SPSC(msg64, &((struct ck_mem *)(mem))->ring, ((struct ck_mem *)(mem))->slot, m)

#include "rival_loop.h"

static void ck_init(void *mem)
{
	struct ck_mem *c = mem;

	memset(c, 0, sizeof(*c));
	ck_ring_init(&c->ring, RIVAL_SLOTS);
}

const struct rival rival_ck = {
	.name = "ck_ring", .bytes = sizeof(struct ck_mem), .init = ck_init,
	.produce = rival_produce_plain, .produce_fenced = rival_produce_fenced,
	.consume = rival_consume,
};
