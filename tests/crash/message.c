// SPDX-License-Identifier: MIT
/* Messages that say which they are, and whether they are whole. */
#include "crash.h"

#define MESSAGE_MAGIC	0x4d534743U

static uint8_t pattern(uint32_t stream, uint32_t seq, uint32_t i)
{
	return (uint8_t)(stream * 131 + seq * 29 + i * 7 + (i >> 8));
}

static uint32_t sum_of(const uint8_t *at, uint32_t len)
{
	uint32_t h = 2166136261U, i;

	for (i = 0; i < len; i++)
		h = (h ^ at[i]) * 16777619U;
	return h;
}

void fill_message(struct message *m, uint32_t stream, uint32_t seq, uint32_t len, bool reply)
{
	uint32_t i;

	*m = (struct message){ MESSAGE_MAGIC, stream, seq, reply, len, 0 };
	for (i = 0; i < len; i++)
		m->payload[i] = pattern(stream, seq, i);
	m->sum = sum_of(m->payload, len);
}

bool whole_message(const struct message *m, size_t n)
{
	return n >= sizeof(*m) && m->magic == MESSAGE_MAGIC && m->len == n - sizeof(*m) &&
	       sum_of(m->payload, m->len) == m->sum;
}
