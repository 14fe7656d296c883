/* SPDX-License-Identifier: MIT */
/*
 * What a client has yet to be told. An item is one fact; how many messages it
 * takes is for the client's protocol to know. A peer's eventfds are referenced,
 * not duplicated, and an announcement of which nothing was sent is simply taken
 * back when its peer leaves: QEMU is told nothing of it, a process just the end,
 * for it may have met that peer in shared memory. So a client that does not read
 * holds, beyond the eventfds of live peers, those of one peer (the item half
 * sent), whatever the others do; and ends side by side become one, so that its
 * items are bounded by live peers + peers it was told about + host ids.
 */
#ifndef PORTALD_SENDQ_H
#define PORTALD_SENDQ_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "efds.h"

enum item_kind {
	ITEM_VERSION,		/* guest */
	ITEM_ID,		/* guest */
	ITEM_REGION,		/* both: guest -1 + fd, process WELCOME + fd */
	ITEM_PEER,		/* both; id, efds */
	ITEM_READY,		/* process */
	ITEM_GONE,		/* both; id */
	ITEM_SESSION,		/* process */
	ITEM_REFUSAL,		/* process: no session; id: errno */
	ITEM_FENCE,		/* process; id: slot; last: errno; tenure: claim */
	ITEM_CHANGE,		/* process */
};

struct item {
	TAILQ_ENTRY(item) link;
	enum item_kind kind;
	uint32_t id;
	uint32_t last;		/* GONE: of guests, all from id to this one */
	uint64_t tenure;	/* PEER, GONE of a host id; 0: a guest's */
	unsigned int next;	/* PEER: the vector to send next */
	struct efds *efds;	/* PEER: held */
};

struct sendq {
	TAILQ_HEAD(item_list, item) items;
	unsigned int len;
};

void sendq_init(struct sendq *q);
void sendq_clear(struct sendq *q);

/* 0 or -ENOMEM; takes a reference on @efds (NULL unless PEER). */
int sendq_push(struct sendq *q, enum item_kind kind, uint32_t id, uint64_t tenure,
	       struct efds *efds);

struct item *sendq_head(struct sendq *q);
void sendq_pop(struct sendq *q);

/* Peer @id has left: the client was never told of it (true: nothing to say). */
bool sendq_withdraw(struct sendq *q, uint32_t id);

/* The same for a process: of what it was never told it is told the end (true). */
bool sendq_turn(struct sendq *q, uint32_t id);

#endif
