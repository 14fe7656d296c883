// SPDX-License-Identifier: MIT
/* Numbered messages with a sum, into a channel by name; and reading them. */
#include "crash.h"

static const char *channel_name(uint32_t channel)
{
	static char name[16];

	snprintf(name, sizeof(name), "channel%u", channel);
	return name;
}

/* ---- Sending --------------------------------------------------------------------- */

/* By channel, this session's last stream, plus 1. */
static uint32_t last_stream[CHANNELS];

static struct stream *new_stream(struct world *w, uint32_t channel, uint32_t *id)
{
	struct stream *s;

	*id = atomic_fetch_add(&w->ledger->nstreams, 1);
	if (*id >= STREAMS)
		return NULL;
	s = &w->ledger->stream[*id];
	s->token = w->token;
	s->life = w->plan.life;
	s->channel = channel;
	s->before = last_stream[channel];
	last_stream[channel] = *id + 1;
	return s;
}

static bool expected(int r)
{
	/* Who was stopped in a system call hears of it (signal(7)). */
	return r == -ETIMEDOUT || r == -ECONNRESET || r == -EPIPE || r == -EINTR;
}

static int send_one(struct world *w, struct vmp_channel *ch, uint32_t id, uint32_t seq, bool reply)
{
	union {
		struct message m;
		uint8_t room[sizeof(struct message) + PAYLOAD_MOST];
	} u;
	uint32_t len = (uint32_t)below(&w->rng, below(&w->rng, 8) ? 60 : PAYLOAD_MOST);
	size_t size = sizeof(u.m) + len;
	void *ptr;
	int r;

	fill_message(&u.m, id, seq, len, reply);
	if (mutant(w, "torn", 30) && len)
		u.m.payload[len / 2] ^= 1;
	if (below(&w->rng, 2))
		return vmp_send(ch, &u, size, below(&w->rng, 3) ? 0 : VMP_MORE, CALL_MS);
	r = vmp_reserve(ch, &ptr, size + below(&w->rng, 100), CALL_MS);
	if (r)
		return r;
	memcpy(ptr, &u, size / 2);
	at_step(OWN_RESERVED);
	memcpy((char *)ptr + size / 2, (char *)&u + size / 2, size - size / 2);
	return vmp_commit(ch, size, 0);
}

static int take_reply(struct world *w, struct vmp_channel *ch, uint32_t id, uint32_t seq)
{
	uint32_t got[2];
	ssize_t n = vmp_recv(ch, got, sizeof(got), CALL_MS);

	if (n < 0)
		return (int)n;
	if ((n != sizeof(got) || got[0] != id || got[1] != seq) &&
	    !lane_in_doubt(w, w->ledger->stream[id].channel, CHANNEL_LANES))
		finding(w, "the answer to message %u of stream %u is to %u of %u (%zd bytes)", seq, id, got[1], got[0], n);
	return 0;
}

static void send_some(struct world *w, struct vmp_channel *ch, uint32_t channel)
{
	uint32_t id, seq, n = 1 + (uint32_t)below(&w->rng, 30);
	struct stream *s = new_stream(w, channel, &id);
	bool reply;
	int r = 0;

	for (seq = 0; s && seq < n && !r; seq++) {
		begin(w, OP_SEND, 2 * CALL_MS);
		reply = !below(&w->rng, 10);
		r = send_one(w, ch, id, seq, reply);
		if (!r) {
			atomic_store(&s->committed, seq + 1);
			if (mutant(w, "twice", 50))
				send_one(w, ch, id, seq, false);
		}
		if (!r && reply)
			r = take_reply(w, ch, id, seq);
		finish(w);
	}
	if (!r)
		r = vmp_flush(ch);
	if (!r || expected(r))
		return;
	if (lane_in_doubt(w, channel, CHANNEL_LANES))
		streams_in_doubt(w, w->token, channel);
	else
		finding(w, "sending: %d %s", r, vmp_errmsg());
}

void do_send(struct world *w)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .vector = 1 };
	uint32_t channel = (uint32_t)below(&w->rng, CHANNELS);
	struct vmp_channel *ch;
	int r;

	begin(w, OP_SEND, CALL_MS + DIRECTORY_MS);
	r = vmp_channel_named(&ch, w->p, channel_name(channel), &o, CALL_MS);
	if (r && r != -ETIMEDOUT && r != -EINTR)
		finding(w, "opening %s to send: %d %s", channel_name(channel), r, vmp_errmsg());
	finish(w);
	if (r)
		return;
	send_some(w, ch, channel);
	begin(w, OP_SEND, DIRECTORY_MS);
	vmp_channel_close(ch);
	finish(w);
}

/* ---- Receiving ------------------------------------------------------------------- */

/* It came whole, it is the one that was wanted, or was seen and says so. */
static bool judge_message(struct world *w, const struct message *m, size_t n, const struct vmp_from *from,
			  uint32_t channel)
{
	uint32_t nstreams = atomic_load(&w->ledger->nstreams), next;
	struct stream *s;

	/* What it has peeked at is another's to note. */
	if (is_mistaken(w->ledger, w->token))
		return false;
	if (!whole_message(m, n) || m->stream >= nstreams || m->stream >= STREAMS) {
		if (lane_in_doubt(w, channel, from->lane))
			streams_in_doubt(w, from->token, channel);
		else
			finding(w, "a torn message of %zu bytes in lane %u of session %#llx", n, from->lane,
			(unsigned long long)from->token);
		return false;
	}
	s = &w->ledger->stream[m->stream];
	if (s->token != from->token || s->channel != channel) {
		finding(w, "message %u of stream %u comes by another's lane (session %#llx, not %#llx)", m->seq,
			m->stream, (unsigned long long)from->token, (unsigned long long)s->token);
		return false;
	}
	next = atomic_load(&s->next);
	if (from->flags & VMP_FROM_AGAIN)
		atomic_fetch_add(&w->ledger->flagged, 1);
	if (m->seq == next) {
		atomic_store(&s->next, next + 1);
	} else if (atomic_load(&s->doubt) || lane_in_doubt(w, channel, from->lane)) {
		streams_in_doubt(w, from->token, channel);
	} else if (m->seq + 1 == next && from->flags & VMP_FROM_AGAIN) {
		atomic_fetch_add(&w->ledger->redelivered, 1);
		return true;
	} else {
		finding(w, "message %u of stream %u (life %u) %s: %u was wanted, flags %#x", m->seq, m->stream, s->life,
			m->seq < next ? "comes again" : "comes, but others are lost", next, from->flags);
		atomic_store(&s->next, m->seq + 1);
	}
	if (!m->seq && s->before) {
		const struct stream *b = &w->ledger->stream[s->before - 1];

		if (atomic_load(&b->next) < atomic_load(&b->committed) && !atomic_load(&b->doubt) &&
		    !is_mistaken(w->ledger, b->token))
			finding(w, "stream %u overtakes stream %u of the same session", m->stream, s->before - 1);
	}
	return true;
}

static void judge_event(struct world *w, const struct vmp_from *from, uint32_t channel)
{
	int state = vmp_token_state(w->p, from->token);

	if (from->event == VMP_FROM_DEAD && state != VMP_STATE_DEAD)
		finding(w, "the hub says that session %#llx is dead; the table says %d", (unsigned long long)from->token, state);
	if (from->event == VMP_FROM_BROKEN && lane_in_doubt(w, channel, from->lane))
		streams_in_doubt(w, from->token, channel);
	else if (from->event == VMP_FROM_BROKEN)
		finding(w, "a broken lane, of session %#llx", (unsigned long long)from->token);
	if (from->event == VMP_FROM_BROKEN || from->event == VMP_FROM_DEAD || from->event == VMP_FROM_LEFT)
		lane_is_clean(w, channel, from->lane);
}

ssize_t read_message(struct world *w, struct vmp_hub *h, uint32_t channel, int timeout_ms)
{
	struct vmp_from from;
	const void *ptr;
	const struct message *m;
	ssize_t n = vmp_hub_peek(h, &ptr, &from, timeout_ms);
	uint32_t answer[2];
	bool good;
	int r;

	if (n < 0)
		return n;
	if (from.event) {
		judge_event(w, &from, channel);
		return n;
	}
	m = ptr;
	if (mutant(w, "lose", 20)) {
		vmp_hub_release(h);
		return n;
	}
	good = judge_message(w, m, (size_t)n, &from, channel);
	at_step(OWN_NOTED);
	answer[0] = m->stream;
	answer[1] = m->seq;
	r = good && m->reply ? vmp_hub_reply(h, &from, answer, sizeof(answer), 0, CALL_MS) : 0;
	if (r && !expected(r) && r != -ESTALE && !lane_in_doubt(w, channel, from.lane))
		finding(w, "answering: %d %s", r, vmp_errmsg());
	vmp_hub_release(h);
	return n;
}

/* A hub that gives a lane to the next one before its owner has let go. */
static void reuse_early(struct world *w, struct vmp_hub *h)
{
	struct lane *l = &h->lane[below(&w->rng, h->lanes)];

	if (mutant(w, "early", 500) && l->state == LANE_OPEN)
		l->row->owner = 0;
}

void do_hub(struct world *w)
{
	uint32_t channel = w->plan.role == ROLE_HUB ? w->plan.channel : (uint32_t)below(&w->rng, CHANNELS);
	struct vmp_hub_opts o = { .size = sizeof(o), .flags = VMP_HUB_EVENTS, .lanes = CHANNEL_LANES,
				  .capacity = CHANNEL_BYTES };
	int64_t until = ms_now() + (int64_t)below(&w->rng, 300);
	struct vmp_hub *h;
	ssize_t n = 0;
	int r;

	begin(w, OP_HUB, DIRECTORY_MS);
	r = vmp_hub_open(&h, w->p, channel_name(channel), &o);
	if (r && r != -EBUSY && r != -EINTR)
		finding(w, "opening the hub of %s: %d %s", channel_name(channel), r, vmp_errmsg());
	finish(w);
	if (r) {
		usleep(2000);
		return;
	}
	while (ms_now() < until && !atomic_load(&w->ledger->stop)) {
		begin(w, OP_HUB, 2 * CALL_MS);
		reuse_early(w, h);
		n = read_message(w, h, channel, 50);
		if (n < 0 && n != -ETIMEDOUT && n != -EINTR) {
			finding(w, "receiving: %zd %s", n, vmp_errmsg());
			break;
		}
		finish(w);
	}
	begin(w, OP_HUB, DIRECTORY_MS);
	vmp_hub_close(h);
	finish(w);
}
