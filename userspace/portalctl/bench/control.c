// SPDX-License-Identifier: MIT
/* Commands of the leader to the follower, over a channel of their own. */
#include <string.h>
#include <sys/wait.h>

#include "../frame.h"
#include "bench.h"

#define ASK_MS	20000

struct command_msg {
	struct frame f;
	uint32_t cmd, icase, icont, window_us;
	uint64_t range;		/* both ends must divide the region alike */
	uint32_t peer_id, vector;
};

struct answer_msg {
	struct frame f;
	int32_t status;
	uint32_t ready;
	uint32_t peer_id, vector;
	struct bench_counts counts;
};

/* A dead child is told at once; a machine that is silent after a while. */
static ssize_t wait_msg(struct bench *b, void *buf, size_t cap, int ms)
{
	ssize_t n = -ETIMEDOUT;
	int status;

	for (int waited = 0; waited < ms && n == -ETIMEDOUT; waited += 500) {
		n = vmp_recv(b->ctl, buf, cap, 500);
		if (n == -ETIMEDOUT && b->child > 0 &&
		    waitpid(b->child, &status, WNOHANG) == b->child) {
			b->child = 0;
			return -EPIPE;
		}
	}
	return n;
}

static int ask_ms(const struct bench *b)
{
	return b->step_ms < STEP_MS ? b->step_ms : ASK_MS;
}

int control_open(struct bench *b)
{
	struct vmp_channel_opts o = b->place.ch;
	struct vmp_info info;
	int err = vmp_get_info(b->p, &info, sizeof(info));

	if (err)
		return err;
	b->peer_id = info.peer_id;
	o.side = b->side;
	o.length = CONTROL_LEN;
	o.flags = VMP_CH_NO_SLEEP;
	err = vmp_channel_open(&b->ctl, b->p, &o);
	if (err)
		return err;
	return vmp_channel_connect(b->ctl, b->remote ? b->place.timeout_ms : ASK_MS);
}

int channel_open(struct bench *b, const struct bench_case *c)
{
	struct vmp_channel_opts o = b->place.ch;
	int err;

	o.side = b->side;
	o.offset += CONTROL_LEN;
	o.length = c->bulk ? BULK_CHANNEL : SMALL_CHANNEL;
	o.flags = c->flags;
	o.spin_us = c->spin_us;
	err = vmp_channel_open(&b->ch, b->p, &o);
	if (err)
		return err;
	return vmp_channel_connect(b->ch, b->step_ms);
}

void channel_counts(const struct bench *b, struct bench_counts *n)
{
	struct vmp_stats st;

	vmp_channel_stats(b->ch, &st, sizeof(st));
	n->sent = st.sent;
	n->received = st.received;
	n->doorbells = st.doorbells;
	n->wakeups = st.wakeups;
	n->syscalls = st.syscalls;
}

static int take_answer(struct bench *b, struct answer_msg *a, int ms)
{
	ssize_t n = wait_msg(b, a, sizeof(*a), ms);

	if (n < 0)
		return n;
	if (n != sizeof(*a) || frame_parse(a, n, KIND_BENCH, &a->f))
		return -EPROTO;
	return a->status < 0 && a->status > -4096 ? a->status : 0;
}

int control_ask(struct bench *b, enum bench_cmd cmd, uint32_t icase, uint32_t icont,
		struct bench_counts *counts)
{
	struct vmp_info info = { .peer_id = VMP_PEER_NONE };
	struct command_msg m = {
		.cmd = cmd, .icase = icase, .icont = icont, .window_us = b->window_ns / 1000,
		.range = b->range, .vector = b->place.ch.vector,
	};
	struct answer_msg a;
	int err;

	vmp_get_info(b->p, &info, sizeof(info));
	m.peer_id = info.peer_id;
	frame_make(&m.f, KIND_BENCH, FRAME_OFFER, 0);
	err = vmp_send(b->ctl, &m, sizeof(m), 0, b->step_ms);
	if (err || cmd == CMD_QUIT)
		return err;
	/* Opening waits for us to open as well: the answer comes after our own. */
	if (cmd == CMD_OPEN) {
		err = channel_open(b, bench_cases[icase]);
		if (err)
			return err;
	}
	err = take_answer(b, &a, ask_ms(b));
	if (err)
		return err;
	b->peer_id = a.peer_id;
	b->peer_vector = a.vector;
	if (counts)
		*counts = a.counts;
	return 0;
}

int control_done(struct bench *b)
{
	struct answer_msg a;

	return take_answer(b, &a, ask_ms(b));
}

static int answer(struct bench *b, int status, bool ready, const struct bench_counts *counts)
{
	struct vmp_info info = { .peer_id = VMP_PEER_NONE };
	struct answer_msg a = { .status = status, .ready = ready, .vector = b->place.ch.vector };

	vmp_get_info(b->p, &info, sizeof(info));
	a.peer_id = info.peer_id;
	if (counts)
		a.counts = *counts;
	frame_make(&a.f, KIND_BENCH, FRAME_ACCEPT, 0);
	return vmp_send(b->ctl, &a, sizeof(a), 0, b->step_ms);
}

static int serve_run(struct bench *b, const struct command_msg *m)
{
	const struct bench_case *c = bench_cases[m->icase];
	const struct contender *t = m->icont < MAX_RIVALS ? c->c[m->icont] : NULL;
	int err;

	if (!t || (t->local && b->remote) || !b->ch)
		return answer(b, -EPROTO, false, NULL);
	b->window_ns = m->window_us * 1000ULL;
	b->deadline_ns = now_ns() + b->window_ns + b->step_ms * 1000000ULL;
	b->peer_id = m->peer_id;
	b->peer_vector = m->vector;
	err = answer(b, 0, true, NULL);
	if (err)
		return err;
	return answer(b, t->follow ? t->follow(b) : 0, false, NULL);
}

static int serve_one(struct bench *b, const struct command_msg *m)
{
	struct bench_counts counts = { 0 };
	int err;

	if (m->icase >= n_bench_cases || m->range != b->range)
		return answer(b, m->range != b->range ? -EMSGSIZE : -EPROTO, false, NULL);
	switch (m->cmd) {
	case CMD_OPEN:
		vmp_channel_close(b->ch);
		b->ch = NULL;
		err = bench_cases[m->icase]->bulk && b->range < BULK_REGION ? -EPROTO :
		      channel_open(b, bench_cases[m->icase]);
		return answer(b, err, false, NULL);
	case CMD_RUN:
		return serve_run(b, m);
	case CMD_CLOSE:
		if (b->ch)
			channel_counts(b, &counts);
		vmp_channel_close(b->ch);
		b->ch = NULL;
		return answer(b, 0, false, &counts);
	}
	return answer(b, -EPROTO, false, NULL);
}

int control_serve(struct bench *b)
{
	struct command_msg m;
	ssize_t n;
	int err;

	do {
		n = wait_msg(b, &m, sizeof(m), ASK_MS * 3);
		if (n < 0)
			return n;
		if (n != sizeof(m) || frame_parse(&m, n, KIND_BENCH, &m.f))
			return -EPROTO;
		if (m.cmd == CMD_QUIT)
			return 0;
		err = serve_one(b, &m);
	} while (!err);
	return err;
}
