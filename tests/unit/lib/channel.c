// SPDX-License-Identifier: MIT
/* Channels: handshake, restart, closing, waiting, in one process. */
#include "test.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/portal_layout.h>
#include <vmportal.h>

#define SIZE (256 << 10)

struct ends {
	struct vmp *p[2];
	struct vmp_channel *ch[2];
	struct vmp_channel *dead[2];
};

static struct vmp_channel *open_side(struct ends *e, unsigned int side, uint32_t flags)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .side = side, .flags = flags };

	assert_int_equal(vmp_channel_open(&e->ch[side], e->p[side], &o), 0);
	return e->ch[side];
}

/* Forget an end without a word, as by a crash; its memory is freed by done(). */
static void crash(struct ends *e, unsigned int side)
{
	e->dead[side] = e->ch[side];
	e->ch[side] = NULL;
}

static void portals(struct ends *e, unsigned int vectors)
{
	memset(e, 0, sizeof(*e));
	assert_int_equal(vmp_pair(e->p, SIZE, vectors), 0);
}

/* Each step of the handshake is one call that does not wait. */
static int meet(struct ends *e)
{
	int i, r0 = -EAGAIN, r1 = -EAGAIN;

	for (i = 0; i < 10 && (r0 == -EAGAIN || r1 == -EAGAIN); i++) {
		r0 = vmp_channel_connect(e->ch[0], 0);
		r1 = vmp_channel_connect(e->ch[1], 0);
	}
	return r0 ? r0 : r1;
}

static void both(struct ends *e, unsigned int vectors)
{
	portals(e, vectors);
	open_side(e, 0, 0);
	open_side(e, 1, 0);
	assert_int_equal(meet(e), 0);
}

static void done(struct ends *e)
{
	int i;

	for (i = 0; i < 2; i++) {
		/* Overtaken by its successor: it writes nothing. */
		vmp_channel_close(e->dead[i]);
		vmp_channel_close(e->ch[i]);
		vmp_close(e->p[i]);
	}
}

static void say(struct vmp_channel *ch, const char *s)
{
	assert_int_equal(vmp_send(ch, s, strlen(s), 0, 0), 0);
}

static void hear(struct vmp_channel *ch, const char *s)
{
	char buf[100] = "";

	assert_int_equal(vmp_recv(ch, buf, sizeof(buf), 0), strlen(s));
	assert_string_equal(buf, s);
}

static int nothing(struct vmp_channel *ch)
{
	char c;

	return (int)vmp_recv(ch, &c, 1, 0);
}

static void either_order(void **state)
{
	struct ends e;
	unsigned int first;

	for (first = 0; first < 2; first++) {
		portals(&e, 1);
		open_side(&e, first, 0);
		assert_int_equal(vmp_send(e.ch[first], "x", 1, 0, 0), -EAGAIN);
		assert_int_equal(nothing(e.ch[first]), -EAGAIN);
		assert_int_equal(vmp_channel_connect(e.ch[first], 0), -EAGAIN);
		open_side(&e, !first, 0);
		assert_int_equal(meet(&e), 0);
		say(e.ch[0], "from 0");
		say(e.ch[1], "from 1");
		hear(e.ch[1], "from 0");
		hear(e.ch[0], "from 1");
		done(&e);
	}
}

/* Whatever the memory held: noise, all ones, and the remains of a real channel. */
static void stale_memory(void **state)
{
	struct rng g = { 3 };
	struct ends e;
	size_t size, i;
	void *base;
	int kind;

	for (kind = 0; kind < 4; kind++) {
		portals(&e, 1);
		vmp_map(e.p[0], &base, &size);
		if (kind == 3) {
			open_side(&e, 0, 0);
			open_side(&e, 1, 0);
			assert_int_equal(meet(&e), 0);
			for (i = 0; i < 100; i++)
				say(e.ch[0], "old");
			crash(&e, 0);
			crash(&e, 1);
		}
		for (i = 0; kind < 3 && i < size / 8; i++)
			((uint64_t *)base)[i] = kind == 0 ? rnd(&g) : kind == 1 ? UINT64_MAX :
				i / 8 + (rnd(&g) << 32 | 0x80000000);
		open_side(&e, 0, 0);
		assert_int_equal(nothing(e.ch[0]), -EAGAIN);
		open_side(&e, 1, 0);
		assert_int_equal(meet(&e), 0);
		assert_int_equal(nothing(e.ch[0]), -EAGAIN);
		assert_int_equal(nothing(e.ch[1]), -EAGAIN);
		say(e.ch[0], "new");
		hear(e.ch[1], "new");
		done(&e);
	}
}

/* One end is opened anew without closing: the other drains, then hears of it. */
static void restart_of_one_end(void **state)
{
	unsigned int who;
	struct ends e;

	for (who = 0; who < 2; who++) {
		both(&e, 1);
		say(e.ch[who], "before");
		say(e.ch[!who], "lost");
		crash(&e, who);
		open_side(&e, who, 0);
		assert_int_equal(vmp_send(e.ch[who], "x", 1, 0, 0), -EAGAIN);
		assert_int_equal(vmp_send(e.ch[!who], "x", 1, 0, 0), -ECONNRESET);
		hear(e.ch[!who], "before");
		assert_int_equal(nothing(e.ch[!who]), -ECONNRESET);
		assert_int_equal(nothing(e.ch[!who]), -ECONNRESET);
		vmp_channel_close(e.ch[!who]);
		open_side(&e, !who, 0);
		assert_int_equal(meet(&e), 0);
		assert_int_equal(nothing(e.ch[0]), -EAGAIN);
		assert_int_equal(nothing(e.ch[1]), -EAGAIN);
		say(e.ch[who], "after");
		hear(e.ch[!who], "after");
		done(&e);
	}
}

/* Any number of restarts of either end, at any step of the handshake. */
static void restarts_at_every_step(void **state)
{
	struct rng g = { 11 };
	struct ends e;
	int round, i, k;

	for (round = 0; round < 300; round++) {
		portals(&e, round & 1);
		open_side(&e, 0, 0);
		open_side(&e, 1, 0);
		for (i = 0; i < 30; i++) {
			k = (int)below(&g, 2);
			switch (below(&g, 5)) {
			case 0:
				vmp_channel_close(e.ch[k]);
				open_side(&e, k, 0);
				break;
			case 1:
				vmp_send(e.ch[k], "old", 3, 0, 0);
				break;
			default:
				vmp_channel_connect(e.ch[k], 0);
			}
		}
		/* Whatever happened: opened anew, both meet and nothing old comes. */
		for (k = 0; k < 2; k++) {
			vmp_channel_close(e.ch[k]);
			open_side(&e, k, 0);
		}
		assert_int_equal(meet(&e), 0);
		say(e.ch[0], "new");
		hear(e.ch[1], "new");
		assert_int_equal(nothing(e.ch[0]), -EAGAIN);
		done(&e);
	}
}

static void close_then_drain(void **state)
{
	struct ends e;

	both(&e, 1);
	say(e.ch[0], "one");
	say(e.ch[0], "two");
	vmp_channel_close(e.ch[0]);
	e.ch[0] = NULL;
	assert_int_equal(vmp_send(e.ch[1], "x", 1, 0, 0), -EPIPE);
	hear(e.ch[1], "one");
	hear(e.ch[1], "two");
	assert_int_equal(nothing(e.ch[1]), -EPIPE);
	assert_int_equal(nothing(e.ch[1]), -EPIPE);
	done(&e);
}

/* Closed and opened again before the other end looked: it is a close all the same. */
static void close_open_then_drain(void **state)
{
	struct ends e;

	both(&e, 1);
	say(e.ch[0], "one");
	vmp_channel_close(e.ch[0]);
	open_side(&e, 0, 0);
	hear(e.ch[1], "one");
	assert_int_equal(nothing(e.ch[1]), -EPIPE);
	vmp_channel_close(e.ch[1]);
	open_side(&e, 1, 0);
	assert_int_equal(meet(&e), 0);
	done(&e);
}

/* A sender that closes as soon as it could send: its message arrives. */
static void send_and_leave(void **state)
{
	struct ends e;
	int i;

	portals(&e, 1);
	open_side(&e, 1, 0);
	open_side(&e, 0, 0);
	for (i = 0; i < 10 && vmp_channel_connect(e.ch[0], 0); i++)
		vmp_channel_connect(e.ch[1], 0);
	say(e.ch[0], "short visit");
	vmp_channel_close(e.ch[0]);
	open_side(&e, 0, 0);	/* and the next visitor is there already */
	hear(e.ch[1], "short visit");
	assert_int_equal(nothing(e.ch[1]), -EPIPE);
	done(&e);
}

static void same_side_twice(void **state)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .side = 0 };
	struct vmp_channel *second;
	struct ends e;

	both(&e, 1);
	assert_int_equal(vmp_channel_open(&second, e.p[1], &o), 0);
	assert_int_equal(nothing(e.ch[0]), -EBUSY);
	assert_non_null(strstr(vmp_errmsg(), "side 0"));
	vmp_channel_close(second);
	done(&e);
}

static void bad_options(void **state)
{
	static const struct { struct vmp_channel_opts o; int err; } bad[] = {
		{ { .size = 8 }, -EINVAL },
		{ { .side = 2 }, -EINVAL },
		{ { .offset = 64 }, -EINVAL },
		{ { .offset = SIZE }, -EINVAL },
		{ { .offset = UINT64_MAX - 4095 }, -EINVAL },
		{ { .offset = 4096, .length = SIZE }, -EINVAL },
		{ { .length = UINT64_MAX }, -EINVAL },
		{ { .length = 65535 }, -EINVAL },
		{ { .vector = 1 }, -EINVAL },
		{ { .vector = 65536, .flags = VMP_CH_NO_SLEEP }, -EINVAL },
		{ { .size = 39 }, -EINVAL },
		{ { .flags = 4 }, -EINVAL },
		{ { .flags = VMP_CH_PACKETS }, -EOPNOTSUPP },
		{ { .reserved = 1 }, -EINVAL },
	};
	struct vmp_channel_opts o;
	struct vmp_channel *ch;
	struct ends e;
	size_t i;

	portals(&e, 1);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		o = bad[i].o;
		if (!o.size)
			o.size = sizeof(o);
		assert_int_equal(vmp_channel_open(&ch, e.p[0], &o), bad[i].err);
		assert_null(ch);
		assert_true(strlen(vmp_errmsg()) > 10);
	}
	done(&e);
}

/* Channels side by side in one region do not touch each other. */
static void areas(void **state)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .length = 64 << 10 };
	struct vmp_channel *ch[4][2];
	struct ends e;
	char s[40];
	int i, k;

	portals(&e, 4);
	for (i = 0; i < 4; i++)
		for (k = 0; k < 2; k++) {
			o.side = k;
			o.vector = i;
			o.offset = i * o.length;
			assert_int_equal(vmp_channel_open(&ch[i][k], e.p[k], &o), 0);
		}
	for (i = 0; i < 4; i++) {
		e.ch[0] = ch[i][0];
		e.ch[1] = ch[i][1];
		assert_int_equal(meet(&e), 0);
		assert_int_equal(vmp_channel_max(ch[i][0]), 16384 / 16 * 7 - 8);
	}
	for (k = 0; k < 1000; k++)
		for (i = 0; i < 4; i++) {
			snprintf(s, sizeof(s), "%d in %d", k, i);
			say(ch[i][k & 1], s);
			hear(ch[i][!(k & 1)], s);
		}
	for (i = 0; i < 4; i++)
		for (k = 0; k < 2; k++)
			vmp_channel_close(ch[i][k]);
	e.ch[0] = e.ch[1] = NULL;
	done(&e);
}

static void timeouts(void **state)
{
	unsigned int vectors;
	struct ends e;
	int64_t t;
	char c;

	for (vectors = 0; vectors < 2; vectors++) {
		portals(&e, vectors);
		open_side(&e, 0, 0);
		t = now_us();
		assert_int_equal(vmp_channel_connect(e.ch[0], 30), -ETIMEDOUT);
		assert_true(now_us() - t >= 30000);
		open_side(&e, 1, 0);
		assert_int_equal(meet(&e), 0);
		t = now_us();
		assert_int_equal(vmp_recv(e.ch[0], &c, 1, 30), -ETIMEDOUT);
		assert_true(now_us() - t >= 30000);
		assert_int_equal(nothing(e.ch[0]), -EAGAIN);
		while (!vmp_send(e.ch[0], state, 0, 0, 0))
			;
		t = now_us();
		assert_int_equal(vmp_send(e.ch[0], "x", 1, 0, 30), -ETIMEDOUT);
		assert_true(now_us() - t >= 30000);
		done(&e);
	}
}

static void on_alarm(int sig)
{
}

static void signals_interrupt(void **state)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	struct ends e;
	char c;

	sigaction(SIGALRM, &sa, NULL);
	both(&e, 1);
	/* Again and again: one that comes between two sleeps ends none. */
	ualarm(20000, 20000);
	assert_int_equal(vmp_recv(e.ch[0], &c, 1, PATIENCE_MS), -EINTR);
	ualarm(0, 0);
	done(&e);
}

static void sizes(void **state)
{
	static char big[SIZE], back[SIZE];
	struct ends e;
	size_t max, len;
	const void *p;
	void *q;

	both(&e, 1);
	max = vmp_channel_max(e.ch[0]);
	for (len = 0; len <= max; len = len * 2 + 1) {
		pattern(big, len, len);
		assert_int_equal(vmp_send(e.ch[0], big, len, 0, 0), 0);
		if (len)
			assert_int_equal(vmp_recv(e.ch[1], back, len - 1, 0), -EMSGSIZE);
		assert_int_equal(vmp_peek(e.ch[1], &p, 0), len);
		assert_true(is_pattern(p, len, len));
		assert_int_equal(vmp_recv(e.ch[1], back, len, 0), len);
		assert_true(is_pattern(back, len, len));
	}
	assert_int_equal(vmp_send(e.ch[0], big, max, 0, 0), 0);
	assert_int_equal(vmp_recv(e.ch[1], back, max, 0), max);
	assert_int_equal(vmp_send(e.ch[0], big, max + 1, 0, 0), -EMSGSIZE);
	assert_int_equal(vmp_reserve(e.ch[0], &q, max + 1, -1), -EMSGSIZE);
	assert_int_equal(vmp_send(e.ch[0], big, 1, 4, 0), -EINVAL);
	assert_int_equal(vmp_commit(e.ch[0], 0, 0), -EINVAL);
	assert_int_equal(vmp_release(e.ch[0]), -EINVAL);
	done(&e);
}

static void in_place(void **state)
{
	struct ends e;
	const void *p;
	void *q;

	both(&e, 1);
	assert_int_equal(vmp_reserve(e.ch[0], &q, 100, 0), 0);
	memcpy(q, "hello", 5);
	assert_int_equal(nothing(e.ch[1]), -EAGAIN);
	assert_int_equal(vmp_commit(e.ch[0], 101, 0), -EINVAL);
	assert_int_equal(vmp_commit(e.ch[0], 5, 0), 0);
	assert_int_equal(vmp_peek(e.ch[1], &p, 0), 5);
	assert_memory_equal(p, "hello", 5);
	assert_int_equal(vmp_release(e.ch[1]), 0);
	assert_int_equal(vmp_release(e.ch[1]), -EINVAL);
	done(&e);
}

struct tally { int n, stop_at; };

static int tally(void *arg, const void *msg, size_t len)
{
	struct tally *t = arg;

	return ++t->n == t->stop_at;
}

static void poll_function(void **state)
{
	struct tally t = { 0, 0 };
	struct ends e;
	int i;

	both(&e, 1);
	assert_int_equal(vmp_poll(e.ch[1], tally, &t, 10), 0);
	assert_int_equal(vmp_poll(e.ch[1], tally, &t, 0), -EINVAL);
	for (i = 0; i < 25; i++)
		say(e.ch[0], "m");
	assert_int_equal(vmp_poll(e.ch[1], tally, &t, 10), 10);
	t.stop_at = 13;
	assert_int_equal(vmp_poll(e.ch[1], tally, &t, 10), 3);
	t.stop_at = 0;
	vmp_channel_close(e.ch[0]);
	e.ch[0] = NULL;
	assert_int_equal(vmp_poll(e.ch[1], tally, &t, 100), 12);
	assert_int_equal(vmp_poll(e.ch[1], tally, &t, 100), -EPIPE);
	assert_int_equal(t.n, 25);
	done(&e);
}

static bool readable(int fd, int ms)
{
	struct pollfd f = { fd, POLLIN, 0 };

	return poll(&f, 1, ms) == 1;
}

/* -EAGAIN has armed and cleared the descriptor; what comes next makes it readable. */
static void descriptor(void **state)
{
	unsigned int vectors;
	struct ends e;
	int fd, i;

	for (vectors = 0; vectors < 2; vectors++) {
		portals(&e, vectors);
		open_side(&e, 1, 0);
		fd = vmp_channel_fd(e.ch[1]);
		assert_true(fd >= 0);
		assert_int_equal(vmp_channel_fd(e.ch[1]), fd);
		assert_true(readable(fd, PATIENCE_MS));
		open_side(&e, 0, 0);
		assert_int_equal(meet(&e), 0);
		for (i = 0; i < 50; i++) {
			while (nothing(e.ch[1]) != -EAGAIN)
				;
			/* Spurious readiness is allowed, but not without end. */
			if (vectors && i > 25) {
				assert_false(readable(fd, 5));
			}
			say(e.ch[0], "!");
			assert_true(readable(fd, PATIENCE_MS));
			hear(e.ch[1], "!");
		}
		vmp_channel_close(e.ch[0]);
		e.ch[0] = NULL;
		assert_true(readable(fd, PATIENCE_MS));
		assert_int_equal(nothing(e.ch[1]), -EPIPE);
		done(&e);
	}
}

/* Full: the sender's descriptor becomes readable when there is room. */
static void descriptor_for_room(void **state)
{
	struct ends e;
	char buf[1000];
	int fd, n = 0, i, r;

	both(&e, 1);
	fd = vmp_channel_fd(e.ch[0]);
	for (i = 0; i < 20; i++) {
		while (!(r = vmp_send(e.ch[0], buf, sizeof(buf), 0, 0)))
			n++;
		assert_int_equal(r, -EAGAIN);
		assert_int_equal(nothing(e.ch[0]), -EAGAIN);
		while (vmp_recv(e.ch[1], buf, sizeof(buf), 0) >= 0)
			n--;
		assert_int_equal(n, 0);
		/* Eats the event, which was the sender's: it is not lost for him. */
		if (i & 1)
			assert_int_equal(nothing(e.ch[0]), -EAGAIN);
		assert_true(readable(fd, PATIENCE_MS));
	}
	done(&e);
}

/* VMP_MORE rings nobody; the flush, or a call that waits, does, and once. */
static void batches(void **state)
{
	struct vmp_stats before, after;
	struct ends e;
	int fd, i, k;

	both(&e, 1);
	fd = vmp_channel_fd(e.ch[1]);
	for (k = 0; k < 3; k++) {
		while (nothing(e.ch[1]) != -EAGAIN)
			;
		readable(fd, 30);	/* first rounds: the path is not yet trusted */
	}
	for (k = 0; k < 10; k++) {
		while (nothing(e.ch[1]) != -EAGAIN)
			;
		vmp_channel_stats(e.ch[0], &before, sizeof(before));
		for (i = 0; i < 20; i++)
			assert_int_equal(vmp_send(e.ch[0], "m", 1, VMP_MORE, 0), 0);
		vmp_channel_stats(e.ch[0], &after, sizeof(after));
		assert_int_equal(after.doorbells, before.doorbells);
		if (k & 1)
			assert_int_equal(vmp_flush(e.ch[0]), 0);
		else
			assert_int_equal(nothing(e.ch[0]), -EAGAIN);
		vmp_channel_stats(e.ch[0], &after, sizeof(after));
		assert_int_equal(after.doorbells, before.doorbells + 1);
		assert_int_equal(vmp_flush(e.ch[0]), 0);
		vmp_channel_stats(e.ch[0], &after, sizeof(after));
		assert_int_equal(after.doorbells, before.doorbells + 1);
		assert_int_equal(after.sent, before.sent + 20);
		assert_true(readable(fd, PATIENCE_MS));
		for (i = 0; i < 20; i++)
			hear(e.ch[1], "m");
	}
	done(&e);
}

/*
 * An end that died after it had been rung: what it armed last must not keep the other
 * end from ringing its successor.
 */
static void successor_is_rung(void **state)
{
	struct vmp_stats before, after;
	struct ends e;
	int i, n;

	for (n = 1; n < 20; n++) {
		portals(&e, 1);
		open_side(&e, 0, 0);
		open_side(&e, 1, 0);
		/* Waits in its event loop; the other end rings it, to introduce itself. */
		assert_true(vmp_channel_fd(e.ch[1]) >= 0);
		for (i = 0; i < 10; i++)
			assert_int_equal(nothing(e.ch[1]), -EAGAIN);
		vmp_channel_connect(e.ch[0], 5);
		crash(&e, 1);
		open_side(&e, 1, 0);
		assert_int_equal(meet(&e), 0);
		assert_true(vmp_channel_fd(e.ch[1]) >= 0);
		for (i = 0; i < n; i++)
			assert_int_equal(nothing(e.ch[1]), -EAGAIN);
		vmp_channel_stats(e.ch[0], &before, sizeof(before));
		say(e.ch[0], "!");
		vmp_channel_stats(e.ch[0], &after, sizeof(after));
		assert_int_equal(after.doorbells, before.doorbells + 1);
		hear(e.ch[1], "!");
		done(&e);
	}
}

/* The size of the options is a stranger's number as well. */
static void options_of_any_size(void **state)
{
	struct { struct vmp_channel_opts o; uint64_t more; } later;
	long page = sysconf(_SC_PAGESIZE);
	struct vmp_channel_opts *o;
	struct vmp_channel *ch;
	struct ends e;
	char *m;

	portals(&e, 1);
	/* Of a later version: as long as what we do not know is not asked for. */
	memset(&later, 0, sizeof(later));
	later.o.size = sizeof(later);
	assert_int_equal(vmp_channel_open(&ch, e.p[0], &later.o), 0);
	vmp_channel_close(ch);
	later.more = 1;
	assert_int_equal(vmp_channel_open(&ch, e.p[0], &later.o), -EINVAL);
	assert_non_null(strstr(vmp_errmsg(), "does not know"));
	m = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_int_equal(mprotect(m + page, page, PROT_NONE), 0);
	o = (void *)(m + page - sizeof(*o));
	o->size = 0xfffffff0;
	assert_int_equal(vmp_channel_open(&ch, e.p[0], o), -EINVAL);
	assert_null(ch);
	assert_int_equal(vmp_channel_open(NULL, e.p[0], NULL), -EINVAL);
	munmap(m, 2 * page);
	done(&e);
}

/* A spin that is longer than the timeout does not lengthen it. */
static void spin_within_timeout(void **state)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .spin_us = 2000000 };
	struct ends e;
	int64_t t;
	char c;

	portals(&e, 1);
	assert_int_equal(vmp_channel_open(&e.ch[0], e.p[0], &o), 0);
	t = now_us();
	assert_int_equal(vmp_recv(e.ch[0], &c, 1, 10), -ETIMEDOUT);
	assert_true(now_us() - t >= 10000 && now_us() - t < 1900000);
	done(&e);
}

/* What a child inherited and tidies up is still its parent's. */
static void a_child_closes(void **state)
{
	struct ends e;
	int status;
	pid_t pid;

	both(&e, 1);
	pid = fork();
	if (!pid) {
		vmp_channel_close(e.ch[0]);
		vmp_close(e.p[0]);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(nothing(e.ch[1]), -EAGAIN);
	say(e.ch[0], "still here");
	hear(e.ch[1], "still here");
	done(&e);
}

/* Two ends that never sleep ring nobody and make no system call. */
static void no_sleep(void **state)
{
	struct vmp_stats s;
	struct ends e;
	int i;

	portals(&e, 1);
	open_side(&e, 0, VMP_CH_NO_SLEEP);
	open_side(&e, 1, VMP_CH_NO_SLEEP);
	assert_int_equal(meet(&e), 0);
	for (i = 0; i < 10000; i++) {
		say(e.ch[0], "x");
		hear(e.ch[1], "x");
	}
	for (i = 0; i < 2; i++) {
		vmp_channel_stats(e.ch[i], &s, sizeof(s));
		assert_int_equal(s.syscalls + s.doorbells + s.sleeps, 0);
	}
	assert_int_equal(vmp_recv(e.ch[1], &i, 4, 20), -ETIMEDOUT);
	done(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(either_order),
		cmocka_unit_test(stale_memory),
		cmocka_unit_test(restart_of_one_end),
		cmocka_unit_test(restarts_at_every_step),
		cmocka_unit_test(close_then_drain),
		cmocka_unit_test(close_open_then_drain),
		cmocka_unit_test(send_and_leave),
		cmocka_unit_test(same_side_twice),
		cmocka_unit_test(bad_options),
		cmocka_unit_test(areas),
		cmocka_unit_test(timeouts),
		cmocka_unit_test(signals_interrupt),
		cmocka_unit_test(sizes),
		cmocka_unit_test(in_place),
		cmocka_unit_test(poll_function),
		cmocka_unit_test(descriptor),
		cmocka_unit_test(descriptor_for_room),
		cmocka_unit_test(batches),
		cmocka_unit_test(successor_is_rung),
		cmocka_unit_test(options_of_any_size),
		cmocka_unit_test(spin_within_timeout),
		cmocka_unit_test(a_child_closes),
		cmocka_unit_test(no_sleep),
	};

	return cmocka_run_group_tests_name("channel", tests, NULL, NULL);
}
