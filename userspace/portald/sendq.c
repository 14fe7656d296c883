// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>

#include "sendq.h"

void sendq_init(struct sendq *q)
{
	TAILQ_INIT(&q->items);
	q->len = 0;
}

static void item_free(struct sendq *q, struct item *it)
{
	TAILQ_REMOVE(&q->items, it, link);
	q->len--;
	efds_put(it->efds);
	free(it);
}

void sendq_clear(struct sendq *q)
{
	struct item *it;

	while ((it = TAILQ_FIRST(&q->items)))
		item_free(q, it);
}

int sendq_push(struct sendq *q, enum item_kind kind, uint32_t id, uint64_t tenure,
	       struct efds *efds)
{
	struct item *it = malloc(sizeof(*it));

	if (!it)
		return -ENOMEM;
	it->kind = kind;
	it->id = it->last = id;
	it->tenure = tenure;
	it->next = 0;
	it->efds = efds ? efds_get(efds) : NULL;
	TAILQ_INSERT_TAIL(&q->items, it, link);
	q->len++;
	return 0;
}

struct item *sendq_head(struct sendq *q)
{
	return TAILQ_FIRST(&q->items);
}

void sendq_pop(struct sendq *q)
{
	item_free(q, TAILQ_FIRST(&q->items));
}

/*
 * The announcement of the peer that leaves, NULL if it was sent, or begun. The newest
 * first: a host id comes back, so that "PEER 2, GONE 2, PEER 2" may all wait here, and
 * only the last one is of that peer.
 */
static struct item *unsent(struct sendq *q, uint32_t id)
{
	struct item *it;

	TAILQ_FOREACH_REVERSE(it, &q->items, item_list, link)
		if (it->kind == ITEM_PEER && it->id == id)
			return it->next ? NULL : it;
	return NULL;
}

bool sendq_withdraw(struct sendq *q, uint32_t id)
{
	struct item *it = unsent(q, id);

	if (it)
		item_free(q, it);
	return it;
}

/* Ends of guests whose ids follow each other are one item: @b goes into @a. */
static bool join(struct sendq *q, struct item *a, struct item *b)
{
	if (!a || !b || a->kind != ITEM_GONE || b->kind != ITEM_GONE || a->tenure ||
	    b->tenure || a->last + 1 != b->id)
		return false;
	a->last = b->last;
	item_free(q, b);
	return true;
}

bool sendq_turn(struct sendq *q, uint32_t id)
{
	struct item *it = unsent(q, id), *o;

	if (!it)
		return false;
	/* An end of an earlier tenure that waits speaks for this one too. */
	for (o = TAILQ_PREV(it, item_list, link); it->tenure && o;
	     o = TAILQ_PREV(o, item_list, link))
		if (o->kind == ITEM_GONE && o->id == id) {
			o->tenure = it->tenure;
			item_free(q, it);
			return true;
		}
	efds_put(it->efds);
	it->efds = NULL;
	it->kind = ITEM_GONE;
	o = TAILQ_PREV(it, item_list, link);
	if (join(q, o, it))
		it = o;
	join(q, it, TAILQ_NEXT(it, link));
	return true;
}
