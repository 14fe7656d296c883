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

int sendq_push(struct sendq *q, enum item_kind kind, uint32_t id, struct efds *efds)
{
	struct item *it = malloc(sizeof(*it));

	if (!it)
		return -ENOMEM;
	it->kind = kind;
	it->id = id;
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

bool sendq_withdraw(struct sendq *q, uint32_t id)
{
	struct item *it;

	/*
	 * The newest first: a host id comes back, so that "PEER 2, GONE 2, PEER 2"
	 * may all wait here, and only the last one is of the peer that left.
	 */
	TAILQ_FOREACH_REVERSE(it, &q->items, item_list, link) {
		if (it->kind != ITEM_PEER || it->id != id)
			continue;
		if (it->next)
			return false;
		item_free(q, it);
		return true;
	}
	return false;
}
