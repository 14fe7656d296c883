// SPDX-License-Identifier: MIT
/*
 * No wake-up is ever lost: two ends that sleep whenever they can, in threads, in
 * processes, on descriptors, for messages and for room. Each wait is trusted for
 * ever once doorbells have proved themselves, so that one lost wake-up is a hang,
 * which the alarm ends.
 */
#include "test.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vmportal.h>

#define SIZE (64 << 10)

struct party {
	struct vmp *p;
	unsigned int side, rounds;
	size_t len;
	bool by_fd, tight;
	uint64_t seed;
	int result;
};

static const unsigned int scale = SANITIZED ? 10 : 1;

/* What a test may take, sanitizers included. */
static void limit(void)
{
	alarm(ALARM_S);
}

static int wait_fd(struct vmp_channel *ch)
{
	struct pollfd f = { vmp_channel_fd(ch), POLLIN, 0 };

	return poll(&f, 1, PATIENCE_MS) == 1 ? 0 : -ETIMEDOUT;
}

static int send_one(const struct party *a, struct vmp_channel *ch, const void *buf, size_t len)
{
	int r;

	if (!a->by_fd)
		return vmp_send(ch, buf, len, 0, PATIENCE_MS);
	while ((r = vmp_send(ch, buf, len, 0, 0)) == -EAGAIN)
		if ((r = wait_fd(ch)))
			return r;
	return r;
}

static ssize_t recv_one(const struct party *a, struct vmp_channel *ch, void *buf, size_t cap)
{
	ssize_t r;

	if (!a->by_fd)
		return vmp_recv(ch, buf, cap, PATIENCE_MS);
	while ((r = vmp_recv(ch, buf, cap, 0)) == -EAGAIN)
		if ((r = wait_fd(ch)))
			return r;
	return r;
}

/*
 * Take a break: now and then so long that the other end goes to sleep; or, in a tight
 * game, always about as long as it takes the other end to arm, so that its arming and
 * our publishing meet. (Without the full fences it mostly hangs within seconds; the proof is the model.)
 */
static void dawdle(const struct party *a, struct rng *g)
{
	struct timespec t;
	int64_t end;

	if (!a->tight) {
		if (!below(g, 50))
			usleep((useconds_t)below(g, 300));
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &t);
	end = t.tv_nsec + (int64_t)below(g, 6000);
	do {
		clock_gettime(CLOCK_MONOTONIC, &t);
	} while (t.tv_nsec < end && end - t.tv_nsec < 6001);
}

/* One CPU for each end, where there are two. */
static void pin(unsigned int side)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(side, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static struct vmp_channel *join(struct party *a, int *r)
{
	/* One microsecond: it sleeps nearly always. */
	struct vmp_channel_opts o = { .size = sizeof(o), .side = a->side, .spin_us = 1 };
	struct vmp_channel *ch;

	*r = vmp_channel_open(&ch, a->p, &o);
	if (!*r)
		*r = vmp_channel_connect(ch, PATIENCE_MS);
	return ch;
}

/* Ball game: each message is answered by one. */
static int ping_pong(struct party *a)
{
	struct rng g = { a->seed + a->side + 1 };
	struct vmp_channel *ch;
	char buf[64];
	unsigned int i;
	int r;

	if (a->tight)
		pin(a->side);
	ch = join(a, &r);
	for (i = 0; !r && i < a->rounds; i++) {
		if (a->side == (i & 1)) {
			pattern(buf, sizeof(buf), i);
			dawdle(a, &g);
			r = send_one(a, ch, buf, sizeof(buf));
		} else {
			r = (int)recv_one(a, ch, buf, sizeof(buf));
			if (r >= 0)
				r = r == sizeof(buf) && is_pattern(buf, sizeof(buf), i) ? 0 : -EBADMSG;
		}
	}
	vmp_channel_close(ch);
	return r;
}

/* A stream that is larger than the lane: both wait for each other in turn. */
static int stream(struct party *a)
{
	struct rng g = { a->seed + a->side + 1 }, lens = { a->seed + 77 };
	static __thread char buf[SIZE];
	struct vmp_channel *ch;
	unsigned int i;
	size_t len;
	int r;

	ch = join(a, &r);
	for (i = 0; !r && i < a->rounds; i++) {
		len = below(&lens, a->len + 1);
		dawdle(a, &g);
		if (a->side == 0) {
			pattern(buf, len, i);
			r = send_one(a, ch, buf, len);
		} else {
			r = (int)recv_one(a, ch, buf, sizeof(buf));
			if (r >= 0)
				r = r == (int)len && is_pattern(buf, len, i) ? 0 : -EBADMSG;
		}
	}
	/* Closing at once must not lose what is still in the lane. */
	if (!r && a->side == 1 && recv_one(a, ch, buf, sizeof(buf)) != -EPIPE)
		r = -EBADMSG;
	vmp_channel_close(ch);
	return r;
}

typedef int (*game_fn)(struct party *a);

struct thread { struct party *a; game_fn game; };

static void *run(void *arg)
{
	struct thread *t = arg;

	t->a->result = t->game(t->a);
	if (t->a->result)
		fprintf(stderr, "# side %u: %d %s\n", t->a->side, t->a->result, vmp_errmsg());
	return NULL;
}

static void in_threads(game_fn game, struct party like, unsigned int vectors)
{
	struct party a[2] = { like, like };
	struct thread t[2] = { { &a[0], game }, { &a[1], game } };
	struct vmp *p[2];
	pthread_t id[2];
	int i;

	limit();
	assert_int_equal(vmp_pair(p, SIZE, vectors), 0);
	for (i = 0; i < 2; i++) {
		a[i].p = p[i];
		a[i].side = i;
		a[i].rounds /= scale;
		assert_int_equal(pthread_create(&id[i], NULL, run, &t[i]), 0);
	}
	for (i = 0; i < 2; i++)
		pthread_join(id[i], NULL);
	vmp_close(p[0]);
	vmp_close(p[1]);
	assert_int_equal(a[0].result, 0);
	assert_int_equal(a[1].result, 0);
}

static void in_processes(game_fn game, struct party like, unsigned int vectors)
{
	struct thread t = { &like, game };
	struct vmp *p[2];
	int status, me;
	pid_t pid;

	limit();
	like.rounds /= scale;
	assert_int_equal(vmp_pair(p, SIZE, vectors), 0);
	pid = fork();
	me = pid == 0;
	alarm(ALARM_S);	/* not inherited */
	vmp_close(p[!me]);
	like.p = p[me];
	like.side = me;
	run(&t);
	vmp_close(p[me]);
	if (!pid)
		_exit(like.result ? 1 : 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(like.result, 0);
	assert_int_equal(status, 0);
}

static void threads_ping_pong(void **state)
{
	in_threads(ping_pong, (struct party){ .rounds = 40000, .seed = 1 }, 1);
}

static void processes_ping_pong(void **state)
{
	in_processes(ping_pong, (struct party){ .rounds = 40000, .seed = 2 }, 1);
}

static void threads_ping_pong_by_fd(void **state)
{
	in_threads(ping_pong, (struct party){ .rounds = 20000, .seed = 3, .by_fd = true }, 1);
}

static void processes_ping_pong_by_fd(void **state)
{
	in_processes(ping_pong, (struct party){ .rounds = 20000, .seed = 4, .by_fd = true }, 1);
}

static void processes_tight(void **state)
{
	cpu_set_t all;

	sched_getaffinity(0, sizeof(all), &all);
	in_processes(ping_pong, (struct party){ .rounds = 120000, .seed = 20, .tight = true }, 1);
	sched_setaffinity(0, sizeof(all), &all);
}

static void threads_stream(void **state)
{
	in_threads(stream, (struct party){ .rounds = 30000, .seed = 5, .len = 100 }, 1);
	in_threads(stream, (struct party){ .rounds = 10000, .seed = 6, .len = 7160 }, 1);
}

static void processes_stream(void **state)
{
	in_processes(stream, (struct party){ .rounds = 30000, .seed = 7, .len = 100 }, 1);
	in_processes(stream, (struct party){ .rounds = 10000, .seed = 8, .len = 7160 }, 1);
}

static void processes_stream_by_fd(void **state)
{
	in_processes(stream, (struct party){ .rounds = 10000, .seed = 9, .len = 7160, .by_fd = true }, 1);
}

/* Without doorbells: naps instead of sleeps. */
static void without_doorbells(void **state)
{
	in_threads(ping_pong, (struct party){ .rounds = 2000, .seed = 10 }, 0);
	in_processes(stream, (struct party){ .rounds = 4000, .seed = 11, .len = 7160 }, 0);
	in_processes(ping_pong, (struct party){ .rounds = 200, .seed = 12, .by_fd = true }, 0);
}

/* One thread sends and another receives on the same end, both sleeping. */
struct half { struct vmp_channel *ch; unsigned int n; int result; };

static void *half_send(void *arg)
{
	struct half *h = arg;
	char buf[1500];
	unsigned int i;

	for (i = 0; i < h->n && !h->result; i++) {
		pattern(buf, sizeof(buf), i);
		h->result = vmp_send(h->ch, buf, i % sizeof(buf), i & 4 ? VMP_MORE : 0, PATIENCE_MS);
	}
	vmp_flush(h->ch);
	return NULL;
}

static void *half_recv(void *arg)
{
	struct half *h = arg;
	char buf[1500];
	unsigned int i;

	for (i = 0; i < h->n && !h->result; i++) {
		ssize_t n = vmp_recv(h->ch, buf, sizeof(buf), PATIENCE_MS);

		h->result = n < 0 ? (int)n : n == (ssize_t)(i % sizeof(buf)) &&
			is_pattern(buf, (size_t)n, i) ? 0 : -EBADMSG;
	}
	return NULL;
}

static void two_threads_on_each_end(void **state)
{
	struct vmp *p[2];
	struct vmp_channel *ch[2];
	struct half h[4];
	pthread_t t[4];
	int i;

	limit();
	assert_int_equal(vmp_pair(p, SIZE, 1), 0);
	for (i = 0; i < 2; i++) {
		struct vmp_channel_opts o = { .size = sizeof(o), .side = i, .spin_us = 1 };

		assert_int_equal(vmp_channel_open(&ch[i], p[i], &o), 0);
	}
	for (i = 0; i < 4; i++) {
		h[i] = (struct half){ ch[i / 2], 30000 / scale, 0 };
		pthread_create(&t[i], NULL, i & 1 ? half_recv : half_send, &h[i]);
	}
	for (i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(h[i].result, 0);
	}
	for (i = 0; i < 2; i++) {
		vmp_channel_close(ch[i]);
		vmp_close(p[i]);
	}
}

/* A sleeper hears that the other end closes, or is opened anew. */
static void ends_wake_sleepers(void **state)
{
	struct vmp_channel_opts o = { .size = sizeof(o) };
	struct vmp_channel *ch;
	struct vmp *p[2];
	pid_t pid;
	int i, status;
	char c;

	limit();
	for (i = 0; i < 20; i++) {
		assert_int_equal(vmp_pair(p, SIZE, 1), 0);
		pid = fork();
		if (!pid) {
			o.side = 1;
			if (vmp_channel_open(&ch, p[1], &o) || vmp_channel_connect(ch, PATIENCE_MS))
				_exit(1);
			usleep(30000);
			if (i & 1)	/* as after a crash */
				vmp_channel_open(&ch, p[1], &o);
			else
				vmp_channel_close(ch);
			_exit(0);
		}
		o.side = 0;
		assert_int_equal(vmp_channel_open(&ch, p[0], &o), 0);
		assert_int_equal(vmp_recv(ch, &c, 1, PATIENCE_MS), i & 1 ? -ECONNRESET : -EPIPE);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		vmp_channel_close(ch);
		vmp_close(p[0]);
		vmp_close(p[1]);
	}
}

/* An end that waits for long costs next to nothing, with and without doorbells. */
static void idle_is_cheap(void **state)
{
	struct vmp_channel_opts o = { .size = sizeof(o) };
	struct timespec a, b;
	struct vmp_channel *ch;
	struct vmp *p[2];
	const double most = scale > 1 ? 10 : 1;
	unsigned int vectors, i;
	double share;
	char c;

	limit();
	for (vectors = 0; vectors < 2; vectors++) {
		assert_int_equal(vmp_pair(p, SIZE, vectors), 0);
		assert_int_equal(vmp_channel_open(&ch, p[0], &o), 0);
		vmp_recv(ch, &c, 1, 50);
		/* Others who use the processor make ours slower: of some seconds the best. */
		for (i = 0, share = 100; i < 10 && share >= most; i++) {
			clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
			assert_int_equal(vmp_recv(ch, &c, 1, 1000), -ETIMEDOUT);
			clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
			share = (b.tv_sec - a.tv_sec) * 100.0 + (b.tv_nsec - a.tv_nsec) / 1e7;
		}
		fprintf(stderr, "# idle, %u vectors: %.2f %% of a CPU\n", vectors, share);
		assert_true(share < most);
		vmp_channel_close(ch);
		vmp_close(p[0]);
		vmp_close(p[1]);
	}
}

/*
 * Connected, and only one end ever sends: between messages neither sleeps twice nor
 * rings, whichever was there first.
 */
static void idle_one_way_is_cheap(void **state)
{
	struct vmp_stats st[2][2];
	struct vmp_channel *ch[2];
	struct half h;
	struct vmp *p[2];
	unsigned int first;
	pthread_t t;
	int i, k;

	limit();
	for (first = 0; first < 2; first++) {
		assert_int_equal(vmp_pair(p, SIZE, 1), 0);
		for (i = 0; i < 2; i++) {
			struct vmp_channel_opts o = { .size = sizeof(o), .side = i ^ first };

			assert_int_equal(vmp_channel_open(&ch[i ^ first], p[i ^ first], &o), 0);
		}
		h = (struct half){ ch[1], 60, 0 };
		pthread_create(&t, NULL, half_recv, &h);
		assert_int_equal(vmp_channel_connect(ch[0], PATIENCE_MS), 0);
		for (i = 0; i < 60; i++) {
			char buf[100];

			pattern(buf, sizeof(buf), i);
			if (i == 59) {
				/* By now each has heard the other's doorbell; and both are asleep. */
				for (k = 0; k < PATIENCE_MS; k++) {
					vmp_channel_stats(ch[1], &st[0][1], sizeof(st[0][1]));
					if (st[0][1].received == 59)
						break;
					usleep(1000);
				}
				usleep(200000);
				for (k = 0; k < 2; k++)
					vmp_channel_stats(ch[k], &st[0][k], sizeof(st[0][k]));
				usleep(1000000);
				for (k = 0; k < 2; k++)
					vmp_channel_stats(ch[k], &st[1][k], sizeof(st[1][k]));
			}
			usleep(5000);
			assert_int_equal(vmp_send(ch[0], buf, i, 0, PATIENCE_MS), 0);
		}
		pthread_join(t, NULL);
		assert_int_equal(h.result, 0);
		for (k = 0; k < 2; k++) {
			assert_true(st[1][k].sleeps - st[0][k].sleeps <= 1);
			assert_int_equal(st[1][k].doorbells, st[0][k].doorbells);
			vmp_channel_close(ch[k]);
			vmp_close(p[k]);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(threads_ping_pong),
		cmocka_unit_test(processes_ping_pong),
		cmocka_unit_test(threads_ping_pong_by_fd),
		cmocka_unit_test(processes_ping_pong_by_fd),
		cmocka_unit_test(processes_tight),
		cmocka_unit_test(threads_stream),
		cmocka_unit_test(processes_stream),
		cmocka_unit_test(processes_stream_by_fd),
		cmocka_unit_test(without_doorbells),
		cmocka_unit_test(two_threads_on_each_end),
		cmocka_unit_test(ends_wake_sleepers),
		cmocka_unit_test(idle_is_cheap),
		cmocka_unit_test(idle_one_way_is_cheap),
	};

	return cmocka_run_group_tests_name("wake", tests, NULL, NULL);
}
