// SPDX-License-Identifier: MIT
/*
 * A hostile other end: a process that writes into the shared memory whatever hurts
 * most, while this one uses every call. Promised: no crash, no access outside, no
 * hang, no unbounded ringing. Content is not promised.
 */
#include "late.h"
#include "test.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/portal_layout.h>
#include <vmportal.h>
#include <vmportal_ring.h>

#define SIZE (64 << 10)
#define RUN_US (SANITIZED ? 700000 : 1500000)

struct scene {
	struct vmp *p[2];
	struct portal_chan_side *side;	/* [0] ours, [1] the hostile one's */
	unsigned char *base;
	int bell;
	pid_t pid;
};

/* A child that does not outlive us: a test that fails ends without a word to it. */
static pid_t fork_bound(void)
{
	pid_t pid = fork();

	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

typedef void (*attack_fn)(struct scene *s, struct rng *g);

/* Anywhere, anything. */
static void noise(struct scene *s, struct rng *g)
{
	uint64_t at = below(g, SIZE / 8);

	((volatile uint64_t *)s->base)[at] = below(g, 4) ? rnd(g) : 0;
}

/* A well-behaved partner as far as the handshake goes, and lies after that. */
static void polite_liar(struct scene *s, struct rng *g)
{
	volatile struct portal_chan_side *me = &s->side[1], *you = &s->side[0];

	me->hello = (uint64_t)PORTAL_CHAN_MAGIC | (uint64_t)PORTAL_CHAN_VERSION << 32;
	me->capacity = 16384;
	me->address = 1 | PORTAL_CHAN_DOORBELL;
	if (!below(g, 1000) || !me->incarnation)
		me->incarnation = rnd(g) | 1;
	me->ack = you->incarnation;
	me->ready = you->ready;
	me->live = you->ready;
	switch (below(g, 6)) {
	case 0:
		me->consumed = below(g, 3) ? below(g, 1 << 20) & ~UINT64_C(63) : rnd(g);
		break;
	case 1:
		me->ask = below(g, 2) ? rnd(g) : below(g, 1 << 20);
		break;
	case 2:
		me->rx_armed = rnd(g);
		break;
	case 3:
		me->tx_armed = rnd(g);
		break;
	case 4:
		me->rx_rung = you->rx_armed;
		me->tx_rung = you->tx_armed;
		break;
	default:
		me->closed = below(g, 50) ? 0 : me->incarnation;
	}
}

/* Also messages with right tags and wrong everything else, under the reader's eyes. */
static void forger(struct scene *s, struct rng *g)
{
	volatile uint64_t *lane = (volatile uint64_t *)(s->base + PORTAL_CHAN_ALIGN + 16384);
	uint64_t line, lap, nonce;

	polite_liar(s, g);
	nonce = s->side[0].ready >> 32;	/* lane 1's */
	line = below(g, 16384 / 64);
	lap = below(g, 3);
	lane[line * 8] = vmpr_header(lap * 16384 + line * 64, (uint32_t)nonce,
				     below(g, 2) ? rnd(g) & (VMPR_PAD | VMPR_LEN) : below(g, 200));
}

static void start(struct scene *s, attack_fn attack, uint64_t seed)
{
	struct rng g = { seed };
	uint64_t one = 1;
	void *base;
	int i;

	alarm(ALARM_S);
	assert_int_equal(vmp_pair(s->p, SIZE, 1), 0);
	assert_int_equal(vmp_map(s->p[1], &base, NULL), 0);
	s->base = base;
	s->side = base;
	s->bell = vmp_eventfd(s->p[0], 0);
	s->pid = fork_bound();
	assert_true(s->pid >= 0);
	if (s->pid)
		return;
	for (;;) {
		for (i = 0; i < 20; i++)
			attack(s, &g);
		if (!below(&g, 4) && write(s->bell, &one, sizeof(one)) < 0)
			(void)!read(s->bell, &one, sizeof(one));
		if (!below(&g, 50))
			usleep((useconds_t)below(&g, 2000));
	}
}

static void stop(struct scene *s)
{
	int status;

	kill(s->pid, SIGKILL);
	waitpid(s->pid, &status, 0);
	vmp_close(s->p[0]);
	vmp_close(s->p[1]);
}

static int touch(void *arg, const void *msg, size_t len)
{
	const volatile unsigned char *c = msg;
	uint64_t *sum = arg;
	size_t i;

	for (i = 0; i < len; i++)
		*sum += c[i];
	return 0;
}

/* One of the calls; its result is of no interest but for being bounded. */
static void any_call(struct vmp_channel *ch, struct rng *g, uint64_t *sum)
{
	static char buf[SIZE];
	size_t max = vmp_channel_max(ch);
	int t = (int)below(g, 3) - (below(g, 2) ? 0 : 1);
	const void *c;
	ssize_t n;
	void *p;

	if (t < 0)
		t = 1;
	switch (below(g, 8)) {
	case 0:
		vmp_send(ch, buf, below(g, below(g, 2) ? 100 : max + 1),
			 below(g, 2) ? VMP_MORE : 0, t);
		break;
	case 1:
		n = vmp_recv(ch, buf, sizeof(buf), t);
		assert_true(n <= (ssize_t)max + 1024);
		break;
	case 2:
		if (!vmp_reserve(ch, &p, below(g, 1000), t)) {
			memset(p, 1, 16);
			vmp_commit(ch, below(g, 17), 0);
		}
		break;
	case 3:
		n = vmp_peek(ch, &c, t);
		if (n >= 0)
			touch(sum, c, (size_t)n);
		if (n >= 0 && below(g, 2))
			vmp_release(ch);
		break;
	case 4:
		vmp_poll(ch, touch, sum, 20);
		break;
	case 5:
		vmp_channel_connect(ch, t);
		break;
	case 6:
		poll(&(struct pollfd){ vmp_channel_fd(ch), POLLIN, 0 }, 1, 1);
		break;
	default:
		vmp_flush(ch);
	}
}

static void survive(attack_fn attack, uint64_t seed, int *connected)
{
	struct vmp_channel_opts o = { .size = sizeof(o) };
	struct rng g = { seed + 1 };
	struct vmp_channel *ch;
	int64_t end, t, calls = 0;
	struct vmp_stats st;
	struct scene s;
	uint64_t sum = 0;
	int i;

	start(&s, attack, seed);
	for (end = now_us() + RUN_US; now_us() < end;) {
		assert_int_equal(vmp_channel_open(&ch, s.p[0], &o), 0);
		for (i = 0; i < 200; i++, calls++) {
			t = ran_us();
			any_call(ch, &g, &sum);
			assert_true(ran_us() - t < 2000000);
		}
		vmp_channel_stats(ch, &st, sizeof(st));
		if (st.sent + st.received)
			++*connected;
		/* At most one for each thing said, and those of the handshake. */
		assert_true(st.doorbells <= st.sent + st.received + 4 * 200 + 10);
		vmp_channel_close(ch);
	}
	stop(&s);
	fprintf(stderr, "# %lld calls, %d channels exchanged something\n", (long long)calls, *connected);
}

static void against_noise(void **state)
{
	int n = 0;

	survive(noise, 101, &n);
}

static void against_a_polite_liar(void **state)
{
	int n = 0;

	survive(polite_liar, 202, &n);
	assert_true(n > 0);
}

static void against_a_forger(void **state)
{
	int n = 0;

	survive(forger, 303, &n);
	assert_true(n > 0);
}

/* Waiting for ever is the caller's wish; but a broken rule ends it. */
static void a_broken_rule_wakes(void **state)
{
	struct vmp_channel_opts o = { .size = sizeof(o) };
	struct vmp_channel *ch[2];
	struct vmp *p[2];
	uint64_t one = 1;
	int i, status;
	void *base;
	pid_t pid;
	char c;

	alarm(ALARM_S);
	assert_int_equal(vmp_pair(p, SIZE, 1), 0);
	vmp_map(p[0], &base, NULL);
	for (i = 0; i < 2; i++) {
		o.side = i;
		assert_int_equal(vmp_channel_open(&ch[i], p[i], &o), 0);
	}
	for (i = 0; i < 5; i++) {
		vmp_channel_connect(ch[0], 0);
		vmp_channel_connect(ch[1], 0);
	}
	pid = fork_bound();
	if (!pid) {
		usleep(50000);
		*(volatile uint64_t *)((char *)base + PORTAL_CHAN_ALIGN + 16384) = 12345;
		(void)!write(vmp_eventfd(p[0], 0), &one, sizeof(one));
		_exit(0);
	}
	assert_int_equal(vmp_recv(ch[0], &c, 1, -1), -EPROTO);
	assert_int_equal(vmp_recv(ch[0], &c, 1, -1), -EPROTO);
	assert_int_equal(vmp_send(ch[0], &c, 1, 0, -1), -EPROTO);
	waitpid(pid, &status, 0);
	for (i = 0; i < 2; i++) {
		vmp_channel_close(ch[i]);
		vmp_close(p[i]);
	}
}

/* Who is opened anew without end makes us ring only now and then. */
static void against_many_incarnations(void **state)
{
	static const uint32_t flags[] = { 0, VMP_CH_NO_SLEEP };
	struct vmp_channel_opts o = { .size = sizeof(o) };
	struct portal_chan_side *side;
	struct vmp_channel *ch;
	struct vmp_stats st;
	struct vmp *p[2];
	void *base;
	pid_t pid;
	int i;

	alarm(ALARM_S);
	for (i = 0; i < 2; i++) {
		assert_int_equal(vmp_pair(p, SIZE, 1), 0);
		vmp_map(p[0], &base, NULL);
		side = base;
		o.flags = flags[i];
		pid = fork_bound();
		if (!pid) {
			volatile struct portal_chan_side *me = &side[1];

			me->hello = (uint64_t)PORTAL_CHAN_MAGIC | (uint64_t)PORTAL_CHAN_VERSION << 32;
			me->capacity = 16384;
			me->address = 1 | PORTAL_CHAN_DOORBELL;
			for (;;)
				me->incarnation += 2;
		}
		usleep(20000);
		assert_int_equal(vmp_channel_open(&ch, p[0], &o), 0);
		assert_int_equal(vmp_channel_connect(ch, 1000), -ETIMEDOUT);
		vmp_channel_stats(ch, &st, sizeof(st));
		fprintf(stderr, "# flags %u: %llu doorbells in a second\n", o.flags,
			(unsigned long long)st.doorbells);
		assert_true(st.doorbells > 2 && st.doorbells < 1000);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		vmp_channel_close(ch);
		vmp_close(p[0]);
		vmp_close(p[1]);
	}
}

static void *receive_for_ever(void *arg)
{
	intptr_t r;
	char c;

	do {
		r = vmp_recv(arg, &c, 1, -1);
	} while (r >= 0);
	return (void *)r;
}

/* One thread finds the other end lying: the other thread must not sleep on. */
static void a_broken_rule_wakes_the_other_thread(void **state)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .spin_us = 1 };
	struct portal_chan_side *side;
	struct vmp_channel *ch[2];
	static char big[4000];
	struct timespec until;
	struct vmp *p[2];
	pthread_t t;
	void *base, *r;
	int i;

	alarm(ALARM_S);
	assert_int_equal(vmp_pair(p, SIZE, 1), 0);
	vmp_map(p[0], &base, NULL);
	side = base;
	for (i = 0; i < 2; i++) {
		o.side = i;
		assert_int_equal(vmp_channel_open(&ch[i], p[i], &o), 0);
	}
	for (i = 0; i < 5; i++) {
		vmp_channel_connect(ch[0], 0);
		vmp_channel_connect(ch[1], 0);
	}
	pthread_create(&t, NULL, receive_for_ever, ch[0]);
	/* By a few doorbells it learns to sleep for ever. */
	for (i = 0; i < 5; i++) {
		usleep(50000);
		assert_int_equal(vmp_send(ch[1], "", 1, 0, 0), 0);
	}
	usleep(100000);
	side[1].consumed = 12345;
	for (i = 0; i < 10 && !vmp_send(ch[0], big, sizeof(big), 0, 0); i++)
		;
	assert_int_equal(vmp_send(ch[0], big, sizeof(big), 0, 0), -EPROTO);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_MS / 1000;
	assert_int_equal(pthread_timedjoin_np(t, &r, &until), 0);
	assert_int_equal((intptr_t)r, -EPROTO);
	for (i = 0; i < 2; i++) {
		vmp_channel_close(ch[i]);
		vmp_close(p[i]);
	}
}

/* Who waits in vain for an end that can never pair is told why. */
static void against_ends_that_do_not_fit(void **state)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .side = 1, .length = 65536 };
	struct vmp_channel *ch, *other;
	struct portal_chan_side *side;
	struct vmp *p[2];
	void *base;
	char c;

	assert_int_equal(vmp_pair(p, 256 << 10, 1), 0);
	assert_int_equal(vmp_channel_open(&ch, p[0], NULL), 0);
	assert_int_equal(vmp_channel_open(&other, p[1], &o), 0);
	assert_int_equal(vmp_channel_connect(ch, 20), -EPROTONOSUPPORT);
	assert_non_null(strstr(vmp_errmsg(), "same offset and length"));
	assert_int_equal(vmp_recv(ch, &c, 1, 20), -EPROTONOSUPPORT);
	vmp_channel_close(other);

	assert_int_equal(vmp_map(p[1], &base, NULL), 0);
	side = (struct portal_chan_side *)base + 1;
	side->hello = PORTAL_CHAN_MAGIC | (uint64_t)(PORTAL_CHAN_VERSION + 1) << 32;
	assert_int_equal(vmp_channel_connect(ch, 20), -EPROTONOSUPPORT);
	assert_non_null(strstr(vmp_errmsg(), "version 2"));
	side->hello = 4711;
	assert_int_equal(vmp_channel_connect(ch, 20), -ETIMEDOUT);
	vmp_channel_close(ch);
	vmp_close(p[0]);
	vmp_close(p[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(against_noise),
		cmocka_unit_test(against_a_polite_liar),
		cmocka_unit_test(against_a_forger),
		cmocka_unit_test(a_broken_rule_wakes),
		cmocka_unit_test(against_ends_that_do_not_fit),
		cmocka_unit_test(against_many_incarnations),
		cmocka_unit_test(a_broken_rule_wakes_the_other_thread),
	};

	return cmocka_run_group_tests_name("hostile", tests, NULL, NULL);
}
