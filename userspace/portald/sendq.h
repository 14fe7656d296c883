/* SPDX-License-Identifier: MIT */
/*
 * What a client has yet to be told. An item is one fact; how many messages it takes is
 * for the client's protocol to know. It names its peer and holds nothing of it: an
 * announcement whose peer leaves before it was sent is taken back. QEMU is told nothing
 * of that one (of a half-told one: the end), a process just the end, for it may have met
 * that peer in shared memory. Ends side by side become one, so that a client's items are
 * bounded by live peers + peers it was told about + host ids.
 *
 * The queue lies in kept memory (kept.h), and whatever instruction portald is killed at,
 * it is whole: an item is written before the control word counts it, and every change is
 * one store of one word (where it takes two, the first alone means the same, and
 * sendq_repair() finishes). An item that is taken back becomes a hole that still says
 * whose it was.
 */
#ifndef PORTALD_SENDQ_H
#define PORTALD_SENDQ_H

#include <stdbool.h>
#include <stdint.h>

enum item_kind {
	ITEM_HOLE,
	ITEM_VERSION,		/* guest */
	ITEM_ID,		/* guest */
	ITEM_REGION,		/* both: guest -1 + fd, process WELCOME + fd */
	ITEM_PEER,		/* both; id */
	ITEM_READY,		/* process */
	ITEM_GONE,		/* both; id */
	ITEM_SESSION,		/* process */
	ITEM_REFUSAL,		/* process: no session; id: errno */
	ITEM_FENCE,		/* process; id: slot; last: errno; tenure: claim */
	ITEM_CHANGE,		/* process */
};

/* An item, taken apart. All but tenure are below 65536, next below 256. */
struct item {
	enum item_kind kind;
	uint32_t id;
	uint32_t last;		/* GONE: of guests, all from id to this one */
	uint64_t tenure;	/* PEER, GONE of a host id; 0: a guest's */
	unsigned int next;	/* PEER: the vector to send next */
};

struct kept_item {
	uint64_t word;		/* kind, next, id, last */
	uint64_t tenure;
};

/**
 * struct sendq - a queue
 * @ctl: kept: which half, head and tail in it
 * @half: kept: two arrays of @cap; one is in use, the other to move to
 * @len: items that are no holes
 */
struct sendq {
	uint64_t *ctl;
	struct kept_item *half[2];
	uint32_t cap;
	unsigned int len;
};

/* @ctl as it is, so that this also takes over what was kept. */
void sendq_init(struct sendq *q, uint64_t *ctl, struct kept_item *items, uint32_t cap);
/* May @ctl and @items have been written by what is below? @vectors: of each peer. */
bool sendq_possible(uint64_t ctl, const struct kept_item *items, uint32_t cap, unsigned int vectors);
void sendq_clear(struct sendq *q);

/* 0 or -ENOBUFS. */
int sendq_push(struct sendq *q, const struct item *it);

/* The first; false: empty. */
bool sendq_head(struct sendq *q, struct item *it);
/* One message of the first was sent, the last one of it if @done. */
void sendq_sent(struct sendq *q, bool done);
/* Names the message that is the next to be sent; not 0. */
uint64_t sendq_place(const struct sendq *q);

/* Is there one of this kind? */
bool sendq_has(const struct sendq *q, enum item_kind kind);
/* How many answers to requests are there? */
unsigned int sendq_answers(const struct sendq *q);
/* Is there an announcement of this peer? */
bool sendq_has_peer(const struct sendq *q, uint32_t id, uint64_t tenure);

/*
 * Peer @id (of @tenure) has left: for a guest, or for a process. Done twice, it is as if
 * done once, if nothing was sent meanwhile.
 */
int sendq_end_guest(struct sendq *q, uint32_t id);
int sendq_end_process(struct sendq *q, uint32_t id, uint64_t tenure);

/* Finishes what was begun when portald was killed; of a process's queue. */
void sendq_repair(struct sendq *q);

#endif
