// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stddef.h>

#include "kept.h"
#include "sendq.h"

/* ---- Words ------------------------------------------------------------------- */

static uint64_t pack(const struct item *it)
{
	return (uint64_t)it->kind | (uint64_t)it->next << 8 | (uint64_t)it->id << 16 |
	       (uint64_t)it->last << 32;
}

static struct item unpack(const struct kept_item *k)
{
	return (struct item){
		.kind = k->word & 0xff, .next = k->word >> 8 & 0xff, .id = k->word >> 16 & 0xffff,
		.last = k->word >> 32 & 0xffff, .tenure = k->tenure,
	};
}

static unsigned int which(const struct sendq *q)
{
	return *q->ctl >> 63;
}

static uint32_t head(const struct sendq *q)
{
	return *q->ctl >> 32 & 0x7fffffff;
}

static uint32_t tail(const struct sendq *q)
{
	return (uint32_t)*q->ctl;
}

static uint64_t ctl(unsigned int half, uint32_t h, uint32_t t)
{
	return (uint64_t)half << 63 | (uint64_t)h << 32 | t;
}

static struct kept_item *at(const struct sendq *q, uint32_t i)
{
	return &q->half[which(q)][i];
}

static void change(struct kept_item *k, const struct item *it)
{
	kept_store(&k->word, pack(it));
}

/* Taken back; whose it was stays to be read. */
static void make_hole(struct sendq *q, struct kept_item *k)
{
	struct item it = unpack(k);

	it.kind = ITEM_HOLE;
	change(k, &it);
	q->len--;
}

/* ---- The queue --------------------------------------------------------------- */

static void count(struct sendq *q)
{
	uint32_t i;

	q->len = 0;
	for (i = head(q); i < tail(q); i++)
		q->len += unpack(at(q, i)).kind != ITEM_HOLE;
}

void sendq_init(struct sendq *q, uint64_t *word, struct kept_item *items, uint32_t cap)
{
	q->ctl = word;
	q->half[0] = items;
	q->half[1] = items + cap;
	q->cap = cap;
	count(q);
}

bool sendq_possible(uint64_t word, const struct kept_item *items, uint32_t cap, unsigned int vectors)
{
	struct sendq q = { .ctl = &word, .half = { (void *)items, (void *)(items + cap) }, .cap = cap };
	struct item it;
	uint32_t i;

	if (head(&q) > tail(&q) || tail(&q) > cap)
		return false;
	for (i = head(&q); i < tail(&q); i++) {
		it = unpack(at(&q, i));
		if (it.kind > ITEM_CHANGE || it.next >= vectors)
			return false;
	}
	return true;
}

void sendq_clear(struct sendq *q)
{
	if (!q->ctl)
		return;
	kept_store(q->ctl, ctl(which(q), 0, 0));
	q->len = 0;
}

/* To the other half, without holes. */
static void move(struct sendq *q)
{
	unsigned int other = !which(q);
	uint32_t i, n = 0;

	for (i = head(q); i < tail(q); i++)
		if (unpack(at(q, i)).kind != ITEM_HOLE)
			q->half[other][n++] = *at(q, i);
	kept_store(q->ctl, ctl(other, 0, n));
}

int sendq_push(struct sendq *q, const struct item *it)
{
	struct kept_item *k;

	if (head(q) == tail(q) && tail(q))
		kept_store(q->ctl, ctl(which(q), 0, 0));
	if (tail(q) == q->cap)
		move(q);
	if (tail(q) == q->cap)
		return -ENOBUFS;
	k = at(q, tail(q));
	k->tenure = it->tenure;
	kept_store(&k->word, pack(it));
	kept_store(q->ctl, ctl(which(q), head(q), tail(q) + 1));
	q->len++;
	return 0;
}

bool sendq_head(struct sendq *q, struct item *it)
{
	uint32_t i = head(q);

	while (i < tail(q) && unpack(at(q, i)).kind == ITEM_HOLE)
		i++;
	if (i != head(q))
		kept_store(q->ctl, ctl(which(q), i, tail(q)));
	if (i == tail(q))
		return false;
	*it = unpack(at(q, i));
	return true;
}

void sendq_sent(struct sendq *q, bool done)
{
	struct item it = unpack(at(q, head(q)));

	if (done) {
		kept_store(q->ctl, ctl(which(q), head(q) + 1, tail(q)));
		q->len--;
		return;
	}
	it.next++;
	change(at(q, head(q)), &it);
}

uint64_t sendq_place(const struct sendq *q)
{
	return ((uint64_t)head(q) << 8 | unpack(at(q, head(q))).next) + 1;
}

bool sendq_has(const struct sendq *q, enum item_kind kind)
{
	uint32_t i;

	for (i = head(q); i < tail(q); i++)
		if (unpack(at(q, i)).kind == kind)
			return true;
	return false;
}

unsigned int sendq_answers(const struct sendq *q)
{
	unsigned int n = 0;
	enum item_kind kind;
	uint32_t i;

	for (i = head(q); i < tail(q); i++) {
		kind = unpack(at(q, i)).kind;
		n += kind == ITEM_SESSION || kind == ITEM_REFUSAL || kind == ITEM_FENCE;
	}
	return n;
}

/* ---- Ends -------------------------------------------------------------------- */

/*
 * The announcement of a peer, or (@holes) what is left of it. The newest first: a host id
 * comes back, so that "PEER 2, GONE 2, PEER 2" may all wait here, and only the last one is
 * of that peer. Its index, or -1.
 */
static int64_t find_peer(const struct sendq *q, uint32_t id, uint64_t tenure, bool holes)
{
	struct item it;
	int64_t i;

	for (i = (int64_t)tail(q) - 1; i >= (int64_t)head(q); i--) {
		it = unpack(at(q, (uint32_t)i));
		if ((it.kind == ITEM_PEER || (holes && it.kind == ITEM_HOLE)) && it.id == id &&
		    it.tenure == tenure)
			return i;
	}
	return -1;
}

bool sendq_has_peer(const struct sendq *q, uint32_t id, uint64_t tenure)
{
	return find_peer(q, id, tenure, false) >= 0;
}

/* An end that waits and speaks for this one: of a guest by its range, of a host id by its tenure. */
static int64_t find_end(const struct sendq *q, uint32_t id, uint64_t tenure)
{
	struct item it;
	uint32_t i;

	for (i = head(q); i < tail(q); i++) {
		it = unpack(at(q, i));
		if (it.kind == ITEM_GONE && it.id <= id && id <= it.last &&
		    (!tenure || (it.id == id && it.tenure >= tenure)))
			return i;
	}
	return -1;
}

int sendq_end_guest(struct sendq *q, uint32_t id)
{
	int64_t i = find_peer(q, id, 0, true);
	const struct item gone = { .kind = ITEM_GONE, .id = id, .last = id };
	struct item it = { .kind = ITEM_HOLE };
	int ret = 0;

	if (i >= 0)
		it = unpack(at(q, (uint32_t)i));
	/* Of one that it never heard of, nothing; of one that it knows, or half knows, the end. */
	if ((i < 0 || it.next) && find_end(q, id, 0) < 0)
		ret = sendq_push(q, &gone);
	/* The push may have moved it. */
	i = find_peer(q, id, 0, false);
	if (i >= 0)
		make_hole(q, at(q, (uint32_t)i));
	return ret;
}

/* Ends of guests whose ids follow each other are one item: @b goes into @a. */
static bool join(struct sendq *q, int64_t a, int64_t b)
{
	struct item x, y;

	if (a < 0 || b < 0)
		return false;
	x = unpack(at(q, (uint32_t)a));
	y = unpack(at(q, (uint32_t)b));
	if (x.kind != ITEM_GONE || y.kind != ITEM_GONE || x.tenure || y.tenure ||
	    x.last + 1 < y.id || x.id > y.id)
		return false;
	if (y.last > x.last) {
		x.last = y.last;
		change(at(q, (uint32_t)a), &x);
	}
	make_hole(q, at(q, (uint32_t)b));
	return true;
}

/* The next one that is no hole, from @i in the direction of @step; -1: none. */
static int64_t neighbour(const struct sendq *q, int64_t i, int step)
{
	for (i += step; i >= (int64_t)head(q) && i < (int64_t)tail(q); i += step)
		if (unpack(at(q, (uint32_t)i)).kind != ITEM_HOLE)
			return i;
	return -1;
}

/* The announcement at @i, of which nothing was sent, becomes the end of that peer. */
static void turn(struct sendq *q, int64_t i)
{
	struct item it = unpack(at(q, (uint32_t)i)), o;
	int64_t j;

	/* An end of an earlier tenure that waits speaks for this one too. */
	for (j = i - 1; it.tenure && j >= (int64_t)head(q); j--) {
		o = unpack(at(q, (uint32_t)j));
		if (o.kind != ITEM_GONE || o.id != it.id)
			continue;
		kept_store(&at(q, (uint32_t)j)->tenure, it.tenure);
		make_hole(q, at(q, (uint32_t)i));
		return;
	}
	it.kind = ITEM_GONE;
	it.last = it.id;
	change(at(q, (uint32_t)i), &it);
	j = neighbour(q, i, -1);
	if (join(q, j, i))
		i = j;
	join(q, i, neighbour(q, i, 1));
}

int sendq_end_process(struct sendq *q, uint32_t id, uint64_t tenure)
{
	const struct item gone = { .kind = ITEM_GONE, .id = id, .last = id, .tenure = tenure };
	int64_t i = find_peer(q, id, tenure, false);

	if (find_end(q, id, tenure) >= 0) {
		if (i >= 0)
			make_hole(q, at(q, (uint32_t)i));
		return 0;
	}
	if (i < 0)
		return sendq_push(q, &gone);
	turn(q, i);
	return 0;
}

void sendq_repair(struct sendq *q)
{
	int64_t i, next;

	count(q);
	for (i = neighbour(q, (int64_t)head(q) - 1, 1); i >= 0; i = next) {
		next = neighbour(q, i, 1);
		while (next >= 0 && join(q, i, next))
			next = neighbour(q, i, 1);
	}
}
