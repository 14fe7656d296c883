/* SPDX-License-Identifier: MIT */
/*
 * VMP_CH_PACKETS: channels over VMBus's packet rings, against a model of the host
 * (hostring.h) and against each other.
 */
#include <linux/portal_vmbus.h>
#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>

#include "rig.h"

#define SIZE 8192U

static struct rig g;

static int up(void **state)
{
	rig_up(&g, SIZE);
	return 0;
}

static int down(void **state)
{
	rig_down(&g);
	return 0;
}

/* ---- Formats and signals ------------------------------------------------------ */

/* Each offset, each length around it: written here, read there, and the other way. */
static void wraps_at_every_offset(void **state)
{
	unsigned char out[512], in[512];
	struct host_packet hp = { .type = 6 };
	struct host_ring to, from;
	struct vmp_channel *ch;
	uint32_t at, len;

	for (at = 0; at < SIZE; at += 8) {
		rig_reset(&g, at);
		ch = rig_open(&g, 0, 0);
		rig_host(&g, &to, &from);
		for (len = at % 13; len < 300; len += 37) {
			pattern(out, len, at + len);
			assert_int_equal(vmp_send(ch, out, len, 0, 0), 0);
			memset(in, 0x5a, sizeof(in));
			assert_int_equal(host_recv(&from, &hp, in, sizeof(in)), (len + 7) / 8 * 8);
			assert_true(is_pattern(in, len, at + len));
			for (; len % 8 && hp.len > len; hp.len--)
				assert_int_equal(in[hp.len - 1], 0);
			assert_int_equal(hp.type, 6);
			assert_int_equal(hp.id, 0);
			host_done(&from);

			hp = (struct host_packet){ .type = 6, .len = len };
			assert_true(host_send(&to, &hp, out) >= 0);
			assert_int_equal(vmp_recv(ch, in, sizeof(in), 0), (len + 7) / 8 * 8);
			assert_true(is_pattern(in, len, at + len));
		}
		vmp_channel_close(ch);
	}
}

/* The host is signalled when, and only when, the protocol says so. */
static void signals_as_a_producer(void **state)
{
	struct vmp_channel *ch = rig_open(&g, 0, 0);
	struct host_ring to, from;
	struct host_packet hp;
	char b[64];
	int i;

	rig_host(&g, &to, &from);
	vmp_send(ch, "12345678", 8, 0, 0);
	assert_int_equal(rig_signals(&g, 1), 1);
	vmp_send(ch, "12345678", 8, 0, 0);
	assert_int_equal(rig_signals(&g, 1), 1);	/* it was not empty */
	assert_int_equal(host_recv(&from, &hp, b, sizeof(b)), 8);
	host_done(&from);
	vmp_send(ch, "12345678", 8, 0, 0);
	assert_int_equal(rig_signals(&g, 1), 1);	/* nor now */
	while (host_recv(&from, &hp, b, sizeof(b)) >= 0)
		host_done(&from);
	atomic_store(&from.w[H_MASK], 1);
	vmp_send(ch, "12345678", 8, 0, 0);
	assert_int_equal(rig_signals(&g, 1), 1);	/* masked */
	atomic_store(&from.w[H_MASK], 0);
	while (host_recv(&from, &hp, b, sizeof(b)) >= 0)
		host_done(&from);
	vmp_send(ch, "12345678", 8, 0, 0);
	assert_int_equal(rig_signals(&g, 1), 2);
	while (host_recv(&from, &hp, b, sizeof(b)) >= 0)
		host_done(&from);
	/* A batch is one event, and is seen as a whole. */
	for (i = 0; i < 10; i++)
		vmp_send(ch, "12345678", 8, VMP_MORE, 0);
	assert_true(host_nothing(&from));
	assert_int_equal(rig_signals(&g, 1), 2);
	assert_int_equal(vmp_flush(ch), 0);
	assert_int_equal(rig_signals(&g, 1), 3);
	for (i = 0; host_recv(&from, &hp, b, sizeof(b)) >= 0; i++)
		host_done(&from);
	assert_int_equal(i, 10);
	assert_int_equal(vmp_flush(ch), 0);
	assert_int_equal(rig_signals(&g, 1), 3);
	/* A batch that ends in a packet without VMP_MORE needs no flush. */
	vmp_send(ch, "12345678", 8, VMP_MORE, 0);
	vmp_send(ch, "12345678", 8, 0, 0);
	assert_int_equal(rig_signals(&g, 1), 4);
	/* Any wait, a receiver's too, flushes; the host has not read: no signal. */
	vmp_send(ch, "12345678", 8, VMP_MORE, 0);
	assert_int_equal(vmp_recv(ch, b, sizeof(b), 1), -ETIMEDOUT);
	for (i = 0; host_recv(&from, &hp, b, sizeof(b)) >= 0; i++)
		;
	assert_int_equal(i, 3);
	assert_int_equal(rig_signals(&g, 1), 4);
	vmp_channel_close(ch);
}

/* A host that waits for room is signalled once, by the read that makes it. */
static void signals_as_a_consumer(void **state)
{
	struct host_packet hp = { .type = 6, .len = 1000 };
	struct vmp_channel *ch = rig_open(&g, 0, 0);
	unsigned char body[SIZE] = { 0 };
	struct host_ring to, from;
	unsigned int was;
	int i, n = 0;

	rig_host(&g, &to, &from);
	while (host_send(&to, &hp, body) >= 0)
		n++;
	assert_int_equal(n, (SIZE - 1) / host_bytes(1000));
	was = rig_signals(&g, 1);
	assert_int_equal(vmp_recv(ch, body, sizeof(body), 0), 1000);
	assert_int_equal(rig_signals(&g, 1), was + 1);
	/* It does not come at once; meanwhile more room is no news. */
	assert_int_equal(vmp_recv(ch, body, sizeof(body), 0), 1000);
	assert_int_equal(rig_signals(&g, 1), was + 1);
	/* It wants more than one read gives: not before it is there. */
	hp.len = 5500;
	assert_int_equal(host_send(&to, &hp, body), -1);
	was = rig_signals(&g, 1);
	for (i = 0; rig_signals(&g, 1) == was && i < n; i++) {
		assert_true(host_room(&to) <= host_bytes(5500));
		assert_int_equal(vmp_recv(ch, body, sizeof(body), 0), 1000);
	}
	assert_true(i > 1);
	assert_true(host_room(&to) > host_bytes(5500));
	assert_true(host_room(&to) - host_bytes(1000) <= host_bytes(5500));
	assert_true(host_send(&to, &hp, body) >= 0);
	/* A host that does not wait hears nothing. */
	was = rig_signals(&g, 1);
	while (vmp_recv(ch, body, sizeof(body), 0) >= 0)
		;
	assert_int_equal(rig_signals(&g, 1), was);
	assert_int_equal(atomic_load(&to.w[H_READ]), atomic_load(&to.w[H_WRITE]));
	/* One that does not know pending_send_sz polls. */
	hp.len = 1000;
	while (host_send(&to, &hp, body) >= 0)
		;
	atomic_store(&to.w[H_FEATURES], 0);
	while (vmp_recv(ch, body, sizeof(body), 0) >= 0)
		;
	assert_int_equal(rig_signals(&g, 1), was);
	vmp_channel_close(ch);
}

/* What a blocked sender asks for is told, and is right for '>' and '>=' alike. */
static void full_and_room(void **state)
{
	struct vmp_channel *ch = rig_open(&g, 0, 0);
	unsigned char body[2048] = { 0 };
	struct host_ring to, from;
	struct host_packet hp;
	uint32_t want, free;
	int n = 0;

	rig_host(&g, &to, &from);
	assert_true(vmp_channel_fd(ch) >= 0);
	while (!vmp_send(ch, body, 1000, 0, 0))
		n++;
	assert_int_equal(n, (SIZE - 1) / host_bytes(1000));
	want = atomic_load(&from.w[H_PENDING]);
	/* Free space is a multiple of 8: '> want', '>= want' and 'it fits' are one. */
	for (free = 0; free <= SIZE; free += 8) {
		assert_int_equal(free > want, free > host_bytes(1000));
		assert_int_equal(free >= want, free > host_bytes(1000));
	}
	assert_int_equal(host_recv(&from, &hp, body, sizeof(body)), 1000);
	assert_true(host_done(&from));
	assert_int_equal(vmp_send(ch, body, 1000, 0, 0), 0);
	assert_int_equal(atomic_load(&from.w[H_PENDING]), 0);
	vmp_channel_close(ch);
}

/* The longest message goes through an empty ring, and one byte more does not. */
static void the_longest(void **state)
{
	static unsigned char body[SIZE], got[SIZE];
	struct vmp_channel *a = rig_open(&g, 0, 0), *b = rig_open(&g, 1, 0);
	size_t max = vmp_channel_max(a);
	int i;

	assert_int_equal(max, SIZE - 40);
	assert_int_equal(vmp_send(a, body, max + 1, 0, 0), -EMSGSIZE);
	for (i = 0; i < 300; i++) {
		pattern(body, max, (uint64_t)i);
		assert_int_equal(vmp_send(a, body, max, 0, PATIENCE_MS), 0);
		assert_int_equal(vmp_send(a, body, max, 0, 0), -EAGAIN);
		assert_int_equal(vmp_recv(b, got, 8, 0), -EMSGSIZE);
		assert_int_equal(vmp_recv(b, got, sizeof(got), 0), max);
		assert_memory_equal(body, got, max);
		assert_int_equal(vmp_send(a, "x", 1, 0, 0), 0);
		assert_int_equal(vmp_recv(b, got, sizeof(got), 0), 8);
	}
	vmp_channel_close(a);
	vmp_channel_close(b);
}

static void in_place(void **state)
{
	struct vmp_channel *a = rig_open(&g, 0, 0), *b = rig_open(&g, 1, 0);
	struct vmp_packet pkt;
	const void *c;
	void *ptr;

	assert_int_equal(vmp_release(b), -EINVAL);
	assert_int_equal(vmp_commit(a, 0, 0), -EINVAL);
	assert_int_equal(vmp_packet_peeked(b, &pkt), -EINVAL);
	assert_int_equal(vmp_reserve(a, &ptr, 100, 0), 0);
	assert_int_equal((uintptr_t)ptr % 8, 0);
	memcpy(ptr, "reserved", 8);
	assert_int_equal(vmp_commit(a, 101 + 8, 0), -EINVAL);
	assert_int_equal(vmp_commit(a, 8, 0), 0);
	assert_int_equal(vmp_commit(a, 8, 0), -EINVAL);
	assert_int_equal(vmp_peek(b, &c, 0), 8);
	assert_int_equal(vmp_peek(b, &c, 0), 8);
	assert_memory_equal(c, "reserved", 8);
	assert_int_equal(vmp_packet_peeked(b, &pkt), 0);
	assert_int_equal(pkt.type, VMP_PACKET_DATA);
	assert_int_equal(vmp_release(b), 0);
	assert_int_equal(vmp_release(b), -EINVAL);
	assert_int_equal(vmp_recv(b, ptr, 8, 0), -EAGAIN);
	assert_int_equal(vmp_channel_connect(a, 0), 0);
	vmp_channel_close(a);
	vmp_channel_close(b);
}

/* Types, flags, ids, longer descriptors; completions both ways. */
static void descriptors(void **state)
{
	struct vmp_packet q = { .type = VMP_PACKET_DATA, .flags = VMP_PACKET_WANT_COMPLETION, .id = 0x1122334455667788 };
	struct vmp_channel *ch = rig_open(&g, 0, 0);
	struct host_packet hp = { 0 };
	struct host_ring to, from;
	struct vmp_packet a;
	unsigned char b[64];

	rig_host(&g, &to, &from);
	assert_int_equal(vmp_packet_send(ch, &q, "question", 8, 0, 0), 0);
	assert_int_equal(host_recv(&from, &hp, b, sizeof(b)), 8);
	host_done(&from);
	assert_int_equal(hp.type, 6);
	assert_int_equal(hp.flags, 1);
	assert_int_equal(hp.id, q.id);
	hp = (struct host_packet){ .type = 11, .id = hp.id, .len = 3 };
	assert_true(host_send(&to, &hp, "yes") >= 0);
	assert_int_equal(vmp_packet_recv(ch, &a, b, sizeof(b), 0), 8);
	assert_int_equal(a.type, VMP_PACKET_COMPLETION);
	assert_int_equal(a.id, q.id);
	assert_int_equal(a.flags, 0);
	assert_string_equal((char *)b, "yes");

	hp = (struct host_packet){ .type = 6, .flags = 1, .id = 7, .len = 0 };
	assert_true(host_send(&to, &hp, NULL) >= 0);
	assert_int_equal(vmp_packet_recv(ch, &a, b, sizeof(b), 0), 0);
	assert_int_equal(a.flags & VMP_PACKET_WANT_COMPLETION, 1);
	assert_int_equal(vmp_packet_complete(ch, a.id, "ok", 2, 0, 0), 0);
	assert_int_equal(host_recv(&from, &hp, b, sizeof(b)), 8);
	host_done(&from);
	assert_int_equal(hp.type, 11);
	assert_int_equal(hp.id, 7);

	/* A longer descriptor: 8 bytes of it, 16 of payload. */
	q = (struct vmp_packet){ .type = 8, .extra = 8, .id = 9 };
	assert_int_equal(vmp_packet_send(ch, &q, "EXTRAEXTpayloadPAYLOAD..", 24, 0, 0), 0);
	assert_int_equal(host_recv(&from, &hp, b, sizeof(b)), 24);
	host_done(&from);
	assert_int_equal(hp.extra, 8);
	assert_int_equal(hp.type, 8);
	assert_memory_equal(b, "EXTRAEXTpayloadPAYLOAD..", 24);
	hp = (struct host_packet){ .type = 7, .extra = 8, .id = 3, .len = 24 };
	assert_true(host_send(&to, &hp, "EXTRAEXTpayloadPAYLOAD..") >= 0);
	assert_int_equal(vmp_packet_recv(ch, &a, b, 16, 0), -EMSGSIZE);
	assert_int_equal(vmp_packet_recv(ch, &a, b, sizeof(b), 0), 24);
	assert_int_equal(a.extra, 8);
	assert_memory_equal(b, "EXTRAEXTpayloadPAYLOAD..", 24);
	/* Ordinary calls see the payload alone. */
	assert_true(host_send(&to, &hp, "EXTRAEXTpayloadPAYLOAD..") >= 0);
	assert_int_equal(vmp_recv(ch, b, sizeof(b), 0), 16);
	assert_memory_equal(b, "payloadPAYLOAD..", 16);

	/* The driver's own id is nobody else's. */
	q = (struct vmp_packet){ .type = 6, .id = PORTAL_VMBUS_CONTROL };
	assert_int_equal(vmp_packet_send(ch, &q, b, 24, 0, 0), -EINVAL);
	q.id++;
	q.extra = 4;
	assert_int_equal(vmp_packet_send(ch, &q, b, 24, 0, 0), -EINVAL);
	q.extra = 32;
	assert_int_equal(vmp_packet_send(ch, &q, b, 24, 0, 0), -EINVAL);
	vmp_channel_close(ch);
}

/* ---- Two sides at once ---------------------------------------------------------- */

#define MANY (SANITIZED ? 20000U : 100000U)

struct side {
	struct vmp_channel *ch;
	uint64_t seed;
	uint32_t most;
};

static void *sends(void *arg)
{
	struct side *s = arg;
	struct rng r = { s->seed };
	unsigned char *b = malloc(s->most);
	uint32_t i;

	for (i = 0; i < MANY; i++) {
		size_t len = below(&r, s->most);

		pattern(b, len, i);
		assert_int_equal(vmp_send(s->ch, b, len, below(&r, 3) ? 0 : VMP_MORE, PATIENCE_MS), 0);
	}
	assert_int_equal(vmp_flush(s->ch), 0);
	free(b);
	return NULL;
}

static void *receives(void *arg)
{
	struct side *s = arg;
	struct rng r = { s->seed };
	unsigned char *b = malloc(s->most + 8);
	uint32_t i;

	for (i = 0; i < MANY; i++) {
		size_t len = below(&r, s->most);

		below(&r, 3);
		assert_int_equal(vmp_recv(s->ch, b, s->most + 8, PATIENCE_MS), (len + 7) / 8 * 8);
		assert_true(is_pattern(b, len, i));
	}
	free(b);
	return NULL;
}

static void tell(const char *what, const struct vmp_channel *ch)
{
	struct vmp_stats st;

	vmp_channel_stats(ch, &st, sizeof(st));
	print_message("# %s: %lu sent, %lu received, %.3f signals per packet, %lu sleeps\n",
		      what, (unsigned long)st.sent, (unsigned long)st.received,
		      (double)st.doorbells / (double)(st.sent + st.received),
		      (unsigned long)st.sleeps);
}

static void both_ways(struct rig *rig, uint32_t flags)
{
	struct vmp_channel *ch[2] = { rig_open(rig, 0, flags), rig_open(rig, 1, flags) };
	struct side s[2] = { { ch[0], 11, 700 }, { ch[1], 12, 700 } };
	struct side o[2] = { { ch[1], 11, 700 }, { ch[0], 12, 700 } };
	pthread_t t[4];
	int i;

	for (i = 0; i < 2; i++) {
		pthread_create(&t[2 * i], NULL, sends, &s[i]);
		pthread_create(&t[2 * i + 1], NULL, receives, &o[i]);
	}
	for (i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	for (i = 0; i < 2; i++) {
		tell(flags & VMP_CH_NO_SLEEP ? "no sleep" : "sleeping", ch[i]);
		vmp_channel_close(ch[i]);
	}
}

static void two_ends(void **state)
{
	both_ways(&g, 0);
}

/* Two processes; the one end never sleeps. */
static void two_processes(void **state)
{
	struct side s;
	int status;
	pid_t child = fork();

	if (!child) {
		s = (struct side){ rig_open(&g, 1, 0), 5, 3000 };
		receives(&s);
		s.seed = 6;
		sends(&s);
		vmp_channel_close(s.ch);
		_exit(0);
	}
	s = (struct side){ rig_open(&g, 0, VMP_CH_NO_SLEEP), 5, 3000 };
	sends(&s);
	s.seed = 6;
	receives(&s);
	tell("processes", s.ch);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	vmp_channel_close(s.ch);
}

/* A host: sleeps on its eventfd when it has nothing to do, echoes with random batches. */
static void *host_echo(void *arg)
{
	struct host_ring to, from;
	struct rng r = { 99 };
	struct host_packet hp;
	static unsigned char b[SIZE];
	uint32_t done = 0;
	int have = -1, s;
	struct pollfd f = { g.efd[1], POLLIN, 0 };
	uint64_t n;

	rig_host(&g, &to, &from);
	while (done < MANY) {
		if (have < 0) {
			have = host_recv(&from, &hp, b, sizeof(b));
			/* Back at once, or in batches, but before it sleeps. */
			if ((have < 0 || below(&r, 2)) && host_done(&from))
				rig_signal(&g, 0);
		}
		if (have >= 0) {
			s = host_send(&to, &hp, b);
			if (s == 1)
				rig_signal(&g, 0);
			if (s >= 0) {
				have = -1;
				done++;
				continue;
			}
			if (host_done(&from))
				rig_signal(&g, 0);
		} else if (!host_nothing(&from)) {
			continue;
		}
		assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
		assert_int_equal(read(f.fd, &n, 8), 8);
	}
	if (host_done(&from))
		rig_signal(&g, 0);
	return NULL;
}

/* 100,000 packets out, and as many back, through the model; it may sleep, so may we. */
static void against_the_model(void **state)
{
	struct vmp_channel *ch = rig_open(&g, 0, 0);
	struct side s = { ch, 31, 900 };
	pthread_t t[2];

	pthread_create(&t[0], NULL, host_echo, NULL);
	pthread_create(&t[1], NULL, sends, &s);
	receives(&s);
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	tell("model", ch);
	vmp_channel_close(ch);
}

/* ---- Waiting -------------------------------------------------------------------- */

/* An idle receiver sleeps, masked no longer; the signal ends that, and it polls again. */
static void idle_is_cheap(void **state)
{
	struct vmp_channel *ch = rig_open(&g, 0, 0);
	struct host_packet hp = { .type = 6, .len = 8 };
	struct host_ring to, from;
	struct vmp_stats st;
	char b[8];

	rig_host(&g, &to, &from);
	assert_int_equal(atomic_load(&to.w[H_MASK]), 1);
	assert_int_equal(vmp_recv(ch, b, 8, 200), -ETIMEDOUT);
	vmp_channel_stats(ch, &st, sizeof(st));
	assert_true(st.sleeps <= 2);
	assert_int_equal(st.doorbells, 0);
	assert_int_equal(vmp_channel_fd(ch) >= 0, 1);
	assert_int_equal(vmp_recv(ch, b, 8, 0), -EAGAIN);
	assert_int_equal(atomic_load(&to.w[H_MASK]), 0);
	assert_int_equal(host_send(&to, &hp, "12345678"), 1);
	assert_int_equal(vmp_recv(ch, b, 8, 0), 8);
	assert_int_equal(atomic_load(&to.w[H_MASK]), 1);
	vmp_channel_close(ch);
	/* Whoever comes next is signalled. */
	assert_int_equal(atomic_load(&to.w[H_MASK]), 0);
}

static bool readable(int fd, int ms)
{
	struct pollfd f = { fd, POLLIN, 0 };

	return poll(&f, 1, ms) == 1;
}

/* One descriptor, both directions; what one call clears is not lost for the other. */
static void the_descriptor(void **state)
{
	struct vmp_channel *a = rig_open(&g, 0, 0), *b = rig_open(&g, 1, 0);
	static unsigned char body[2000];
	int fd = vmp_channel_fd(a), i;

	assert_true(fd >= 0 && readable(fd, 1000));
	assert_int_equal(vmp_recv(a, body, sizeof(body), 0), -EAGAIN);
	assert_false(readable(fd, 50));
	vmp_send(b, "x", 1, 0, 0);
	assert_true(readable(fd, 1000));
	assert_int_equal(vmp_recv(a, body, sizeof(body), 0), 8);
	for (i = 0; i < 50; i++) {
		while (!vmp_send(a, body, sizeof(body), 0, 0))
			;
		while (vmp_recv(b, body, sizeof(body), 0) >= 0)
			;
		/* This may eat the event: it is meant for the sender. */
		assert_int_equal(vmp_recv(a, body, sizeof(body), 0), -EAGAIN);
		assert_true(readable(fd, 1000));
	}
	vmp_channel_close(a);
	vmp_channel_close(b);
}

static int count_bytes(void *arg, const void *msg, size_t len)
{
	*(size_t *)arg += len;
	return 0;
}

static void polled(void **state)
{
	struct vmp_channel *a = rig_open(&g, 0, 0), *b = rig_open(&g, 1, 0);
	size_t got = 0;
	int i;

	assert_int_equal(vmp_poll(b, count_bytes, &got, 10), 0);
	for (i = 0; i < 25; i++)
		assert_int_equal(vmp_send(a, "12345678", 8, 0, 0), 0);
	assert_int_equal(vmp_poll(b, count_bytes, &got, 10), 10);
	assert_int_equal(vmp_poll(b, count_bytes, &got, 100), 15);
	assert_int_equal(got, 25 * 8);
	vmp_channel_close(a);
	vmp_channel_close(b);
}

static void *flush_by_waiting(void *arg)
{
	char b[8];

	return (void *)(intptr_t)vmp_recv(arg, b, sizeof(b), PATIENCE_MS);
}

/* The receiving thread publishes what the sending thread owes, and neither goes back. */
static void debts_of_another_thread(void **state)
{
	struct vmp_channel *a = rig_open(&g, 0, 0), *b = rig_open(&g, 1, 0);
	unsigned char body[64], got[64];
	pthread_t t;
	void *r;
	int i, round;

	for (round = 0; round < (SANITIZED ? 200 : 2000); round++) {
		pthread_create(&t, NULL, flush_by_waiting, a);
		for (i = 0; i < 8; i++) {
			pattern(body, 40, (uint64_t)(round * 8 + i));
			assert_int_equal(vmp_send(a, body, 40, i % 3 == 2 ? 0 : VMP_MORE, PATIENCE_MS), 0);
		}
		vmp_flush(a);
		for (i = 0; i < 8; i++) {
			assert_int_equal(vmp_recv(b, got, sizeof(got), PATIENCE_MS), 40);
			assert_true(is_pattern(got, 40, (uint64_t)(round * 8 + i)));
		}
		assert_int_equal(vmp_send(b, "12345678", 8, 0, 0), 0);
		pthread_join(t, &r);
		assert_int_equal((intptr_t)r, 8);
	}
	vmp_channel_close(a);
	vmp_channel_close(b);
}

/* ---- Life ------------------------------------------------------------------------- */

static void refusals(void **state)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .flags = VMP_CH_PACKETS };
	struct vmp_packet pkt = { .type = 6 };
	struct vmp_channel *ch, *second;
	struct vmp *pair[2];
	void *base;

	assert_int_equal(vmp_pair(pair, 1 << 20, 1), 0);
	assert_int_equal(vmp_channel_open(&ch, pair[0], &o), -EOPNOTSUPP);
	assert_non_null(strstr(vmp_errmsg(), "packet rings"));
	assert_int_equal(vmp_channel_open(&ch, pair[0], NULL), 0);
	assert_int_equal(vmp_packet_send(ch, &pkt, "x", 1, 0, 0), -EOPNOTSUPP);
	assert_int_equal(vmp_packet_recv(ch, &pkt, &base, 8, 0), -EOPNOTSUPP);
	assert_int_equal(vmp_packet_complete(ch, 1, "x", 1, 0, 0), -EOPNOTSUPP);
	assert_int_equal(vmp_packet_peeked(ch, &pkt), -EOPNOTSUPP);
	vmp_channel_close(ch);
	vmp_close(pair[0]);
	vmp_close(pair[1]);

	/* No region here. */
	assert_int_equal(vmp_map(g.p[0], &base, NULL), -EOPNOTSUPP);
	assert_int_equal(vmp_channel_open(&ch, g.p[0], NULL), -EOPNOTSUPP);
	o.side = 1;
	assert_int_equal(vmp_channel_open(&ch, g.p[0], &o), -EINVAL);
	o = (struct vmp_channel_opts){ .size = sizeof(o), .flags = VMP_CH_PACKETS, .length = 65536 };
	assert_int_equal(vmp_channel_open(&ch, g.p[0], &o), -EINVAL);
	o = (struct vmp_channel_opts){ .size = sizeof(o), .flags = VMP_CH_PACKETS, .vector = 1 };
	assert_int_equal(vmp_channel_open(&ch, g.p[0], &o), -EINVAL);
	o.vector = 0;
	assert_int_equal(vmp_channel_open(&ch, g.p[0], &o), 0);
	assert_int_equal(vmp_channel_open(&second, g.p[0], &o), -EBUSY);
	vmp_channel_close(ch);
	assert_int_equal(vmp_channel_open(&ch, g.p[0], &o), 0);
	vmp_channel_close(ch);
	g.p[0]->flags |= VMP_RDONLY;
	assert_int_equal(vmp_channel_open(&ch, g.p[0], &o), -EACCES);
	g.p[0]->flags = 0;
}

/* What was read is read, what was only peeked comes again, what was owed is sent. */
static void closed_and_opened(void **state)
{
	struct vmp_channel *a = rig_open(&g, 0, 0), *b = rig_open(&g, 1, 0);
	const void *p;
	char got[8];

	vmp_send(a, "first...", 8, 0, 0);
	vmp_send(a, "second..", 8, VMP_MORE, 0);
	vmp_channel_close(a);
	assert_int_equal(vmp_recv(b, got, 8, 0), 8);
	assert_int_equal(vmp_peek(b, &p, 0), 8);
	vmp_channel_close(b);
	b = rig_open(&g, 1, 0);
	a = rig_open(&g, 0, 0);
	assert_int_equal(vmp_recv(b, got, 8, 0), 8);
	assert_memory_equal(got, "second..", 8);
	vmp_send(a, "third...", 8, 0, 0);
	assert_int_equal(vmp_recv(b, got, 8, 0), 8);
	assert_memory_equal(got, "third...", 8);
	assert_int_equal(vmp_recv(b, got, 8, 0), -EAGAIN);
	vmp_channel_close(a);
	vmp_channel_close(b);
}

static void *sleeper(void *arg)
{
	char b[8];

	return (void *)(intptr_t)vmp_recv(arg, b, sizeof(b), PATIENCE_MS);
}

/* Suspend and resume: the kernel sets the rings up anew and signals once. */
static void reset_underneath(void **state)
{
	struct vmp_channel *ch = rig_open(&g, 0, 0);
	pthread_t t;
	void *r;

	vmp_send(ch, "12345678", 8, 0, 0);
	pthread_create(&t, NULL, sleeper, ch);
	usleep(20000);
	rig_reset(&g, 0);
	atomic_fetch_add(&g.s->generation, 1);
	rig_signal(&g, 0);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, -ECONNRESET);
	assert_int_equal(vmp_send(ch, "x", 1, 0, 0), -ECONNRESET);
	vmp_channel_close(ch);

	/* Who does not sleep finds out by his own index. */
	ch = rig_open(&g, 0, VMP_CH_NO_SLEEP);
	assert_int_equal(vmp_send(ch, "12345678", 8, 0, 0), 0);
	rig_reset(&g, 0);
	atomic_fetch_add(&g.s->generation, 1);
	assert_int_equal(vmp_send(ch, "12345678", 8, 0, 0), -ECONNRESET);
	assert_int_equal(atomic_load((_Atomic uint32_t *)(void *)rig_page(&g, 0)), 0);
	vmp_channel_close(ch);
	ch = rig_open(&g, 0, 0);
	assert_int_equal(vmp_send(ch, "12345678", 8, 0, 0), 0);
	vmp_channel_close(ch);
}

/* Unplugged: sleepers end, and the rest is -ENODEV. */
static void gone(void **state)
{
	struct vmp_channel *ch = rig_open(&g, 0, 0);
	pthread_t t;
	void *r;

	pthread_create(&t, NULL, sleeper, ch);
	usleep(20000);
	atomic_store(&g.s->gone, 1);
	rig_signal(&g, 0);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, -ENODEV);
	assert_int_equal(vmp_send(ch, "x", 1, 0, -1), -ENODEV);
	assert_int_equal(vmp_flush(ch), -ENODEV);
	vmp_channel_close(ch);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up, down)
	const struct CMUnitTest tests[] = {
		T(wraps_at_every_offset), T(signals_as_a_producer), T(signals_as_a_consumer),
		T(full_and_room), T(the_longest), T(in_place), T(descriptors),
		T(two_ends), T(two_processes), T(against_the_model),
		T(idle_is_cheap), T(the_descriptor), T(polled), T(debts_of_another_thread),
		T(refusals), T(closed_and_opened), T(reset_underneath), T(gone),
	};

	/* Both sides keep the rules here: a signal that is missing is a hang. */
	chan_packet_naps = false;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
