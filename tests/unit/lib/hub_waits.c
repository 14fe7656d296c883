// SPDX-License-Identifier: MIT
/*
 * A hub's sleeps, and its senders': who is woken, by what, and who is not; in a call and by
 * the descriptor.
 */
#include <poll.h>
#include <pthread.h>
#include <sys/timerfd.h>

#include "hubs.h"
#include "late.h"

/* Of the machine that falls silent, and of portald; and what a busy machine may take besides. */
#define HEART_MS 600
#define HEARTBEAT "--heartbeat=600"
#define BUSY_US 500000
/* A death that is proven is told at once. */
#define AT_ONCE_US 500000

struct reader { struct user h; int left, result; };

static void *read_some(void *arg)
{
	struct reader *r = arg;
	struct vmp_from from;
	char buf[257];

	while (r->left) {
		ssize_t n = get(&r->h, buf, &from, PATIENCE_MS);

		if (n < 0) {
			r->result = (int)n;
			break;
		}
		__atomic_sub_fetch(&r->left, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* How often the descriptor is readable within @ms, for a loop that receives; by naps, some 25. */
static int woken_in(struct user *h, int ms)
{
	struct pollfd f = { vmp_hub_fd(h->h), POLLIN, 0 };
	int64_t until = now_us() + ms * 1000;
	struct vmp_from from;
	char buf[257];
	int n = 0;

	while (now_us() < until)
		if (poll(&f, 1, (int)((until - now_us()) / 1000 + 1)) == 1) {
			n++;
			assert_int_equal(get(h, buf, &from, 0), -EAGAIN);
		}
	return n;
}

/* One that sleeps for all is woken by each; and when nobody has anything, it sleeps. */
static void one_sleep_for_all(void **state)
{
	struct reader r = { .h = hub(0), .left = 200 };
	struct user u[3];
	struct vmp_stats a, b;
	struct vmp_from from;
	char buf[257];
	pthread_t t;
	int i;

	for (i = 0; i < 3; i++)
		u[i] = producer();
	pthread_create(&t, NULL, read_some, &r);
	for (i = 0; i < 3; i++)
		assert_int_equal(vmp_channel_connect(u[i].ch, PATIENCE_MS), 0);
	for (i = 0; i < 200; i++) {
		if (i % 5 == 0)
			usleep(3000);
		send_text(&u[i % 3], "x");
	}
	pthread_join(t, NULL);
	assert_int_equal(r.result, 0);
	assert_int_equal(r.left, 0);
	vmp_hub_stats(r.h.h, &a, sizeof(a));
	assert_int_equal(a.received, 200);
	assert_int_equal(get(&r.h, buf, &from, 300), -ETIMEDOUT);
	vmp_hub_stats(r.h.h, &b, sizeof(b));
	/* One sleep, and perhaps another; not a nap every 20 ms. */
	assert_true(b.sleeps - a.sleeps <= 3);
	/* Who is awake is not rung: the last of a hundred in a row cost one ring, or none. */
	vmp_channel_stats(u[0].ch, &a, sizeof(a));
	for (i = 0; i < 100; i++)
		send_text(&u[0], "y");
	vmp_channel_stats(u[0].ch, &b, sizeof(b));
	assert_true(b.doorbells - a.doorbells <= 1);
	for (i = 0; i < 3; i++)
		leave(&u[i]);
	leave(&r.h);
}

/* A ring that is lost, as devices lose them while nobody is connected: was it rung again? */
static bool a_lost_ring(void)
{
	struct reader r = { .h = hub(0), .left = 1 };
	uint64_t address = head()->address;
	struct user a = new_user();
	int64_t start;
	pthread_t t;
	uint32_t i;
	bool soon;

	assert_true(address & PORTAL_CHAN_DOORBELL);
	/* What it is told of a new session ends a sleep, too. */
	assert_int_equal(vmp_join(a.p, NULL), 0);
	pthread_create(&t, NULL, read_some, &r);
	usleep(100000);
	head()->address = 0;
	/* Lanes that nobody has had yet: no hub has said there where to ring it. */
	for (i = 0; i < LANES; i++)
		side(i, 0)->hello = 0;
	open_channel(&a);
	usleep(50000);
	head()->address = address;
	start = now_us();
	assert_int_equal(vmp_send(a.ch, "x", 1, 0, 3000), 0);
	/* Or has the hub looked by itself? */
	soon = now_us() - start < 500000;
	pthread_join(t, NULL);
	assert_int_equal(r.result, 0);
	leave(&a);
	leave(&r.h);
	return soon;
}

static void a_ring_is_lost(void **state)
{
	int i;

	/* On a busy machine not each time. */
	for (i = 0; i < 5; i++)
		if (a_lost_ring())
			return;
	fail_msg("the hub was not rung again");
}

/* Where to ring is overwritten for good: the hub puts it right, and hears of who comes. */
static void an_address_is_lost(void **state)
{
	struct reader r = { .h = hub(0), .left = 2 };
	uint64_t address = head()->address;
	struct user a = new_user(), b = new_user();
	pthread_t t;
	int i;

	/* Nor is there any other change that it hears of. */
	assert_int_equal(vmp_join(a.p, NULL), 0);
	assert_int_equal(vmp_join(b.p, NULL), 0);
	pthread_create(&t, NULL, read_some, &r);
	usleep(100000);
	head()->address = 0;
	open_channel(&a);
	assert_int_equal(vmp_send(a.ch, "x", 1, 0, PATIENCE_MS), 0);
	for (i = 0; i < PATIENCE_MS && __atomic_load_n((uint64_t *)&head()->address, __ATOMIC_SEQ_CST) != address; i++)
		usleep(1000);
	assert_int_equal(head()->address, address);
	/* The same beside one whom it hears. */
	head()->address = 0;
	open_channel(&b);
	assert_int_equal(vmp_send(b.ch, "x", 1, 0, PATIENCE_MS), 0);
	pthread_join(t, NULL);
	assert_int_equal(r.result, 0);
	leave(&a);
	leave(&b);
	leave(&r.h);
}

/* The same by the descriptor, which is readable about once a second if nobody comes. */
static void an_address_is_lost_by_descriptor(void **state)
{
	struct user h = hub(0), a;
	struct pollfd f = { vmp_hub_fd(h.h), POLLIN, 0 };
	struct vmp_from from;
	char buf[257];
	ssize_t n;
	int i;

	assert_true(woken_in(&h, 2500) <= 4);
	head()->address = 0;
	a = producer();
	for (i = 0; i < 200; i++) {
		n = get(&h, buf, &from, 0);
		if (n == 1)
			break;
		assert_int_equal(n, -EAGAIN);
		n = vmp_send(a.ch, "x", 1, 0, 0);
		assert_true(!n || n == -EAGAIN);
		assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	}
	assert_int_equal(n, 1);
	leave(&a);
	leave(&h);
}

/* A hub that is never idle hears of a death all the same. */
static void busy_and_told(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), a = producer(), b = producer();
	struct vmp_from from;
	char buf[257];
	int64_t t;
	int i;

	expect_event(&h, VMP_FROM_CAME);
	expect_event(&h, VMP_FROM_CAME);
	pair(&h, &a);
	pair(&h, &b);
	t = ran_us();
	perish(&b);
	/* There is always more. */
	for (i = 0; i < 100; i++)
		send_text(&a, "x");
	for (i = 0; i < 2000; i++) {
		assert_true(get(&h, buf, &from, 0) >= 0);
		if (from.event)
			break;
		send_text(&a, "y");
		if (i % 64 == 0)
			usleep(1100);
	}
	assert_int_equal(from.event, VMP_FROM_DEAD);
	assert_true(ran_us() - t < AT_ONCE_US);
	leave(&a);
	leave(&h);
}

/* The same by the descriptor; a death, too, makes it readable. */
static void by_descriptor(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), a = producer();
	struct pollfd f = { vmp_hub_fd(h.h), POLLIN, 0 };
	struct vmp_from from = { .event = 99 };
	int64_t until = now_us() + PATIENCE_MS * 1000, died = 0;
	int messages = 0, i = 0;
	char buf[257];
	ssize_t n;

	assert_true(f.fd >= 0);
	while (from.event != VMP_FROM_DEAD && now_us() < until) {
		n = get(&h, buf, &from, 0);
		if (n == -EAGAIN) {
			from.event = 99;
			if (a.ch && !vmp_send(a.ch, "x", 1, 0, 0) && ++i == 50) {
				died = ran_us();
				perish(&a);
			}
			assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
			continue;
		}
		assert_true(n >= 0);
		messages += !from.event;
	}
	assert_int_equal(from.event, VMP_FROM_DEAD);
	assert_true(ran_us() - died < AT_ONCE_US);
	assert_int_equal(messages, 50);
	leave(&h);
}

struct victim { pid_t pid; int64_t killed; };

static int sends_and_stays(void *arg)
{
	struct user u = producer();

	if (vmp_send(u.ch, "x", 1, 0, PATIENCE_MS))
		return 1;
	pause();
	return 2;
}

static void *kills(void *arg)
{
	struct victim *v = arg;

	/* The hub sleeps by then. */
	usleep(100000);
	v->killed = ran_us();
	kill(v->pid, SIGKILL);
	return NULL;
}

/* A process that is killed: a hub that sleeps, in a call or by the descriptor, is told at once. */
static void a_sender_is_killed(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS);
	struct pollfd f = { vmp_hub_fd(h.h), POLLIN, 0 };
	struct vmp_from from;
	struct victim v;
	pthread_t th;
	char buf[257];
	int64_t told;
	ssize_t n;
	int way;

	for (way = 0; way < 2; way++) {
		v.pid = house_spawn(sends_and_stays, NULL, -1, 0);
		expect(&h, "x");
		pthread_create(&th, NULL, kills, &v);
		while ((n = get(&h, buf, &from, way ? 0 : PATIENCE_MS)) == -EAGAIN)
			assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
		told = ran_us();
		pthread_join(th, NULL);
		assert_int_equal(n, 0);
		assert_int_equal(from.event, VMP_FROM_DEAD);
		if (told - v.killed > AT_ONCE_US)
			fail_msg("told of it %ld us after the kill", (long)(told - v.killed));
		assert_int_equal(house_reap(v.pid), -SIGKILL);
	}
	leave(&h);
}

/* Until the hub's descriptor has no naps any more: its bell is heard. */
static void trust_each_other(struct user *h, struct user *u)
{
	struct pollfd f = { vmp_hub_fd(h->h), POLLIN, 0 };
	struct vmp_from from;
	char buf[257];
	int i;

	for (i = 0; i < 5; i++) {
		while (get(h, buf, &from, 0) != -EAGAIN)
			;
		send_text(u, "x");
		assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	}
	while (get(h, buf, &from, 0) != -EAGAIN)
		;
	poll(&f, 1, 50);
	while (get(h, buf, &from, 0) != -EAGAIN)
		;
	assert_int_equal(poll(&f, 1, 50), 0);
}

/* Who closes rings: a hub that sleeps for ever hears of it. */
static void a_close_is_heard(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS), a = producer();
	struct pollfd f = { vmp_hub_fd(h.h), POLLIN, 0 };

	expect_event(&h, VMP_FROM_CAME);
	pair(&h, &a);
	trust_each_other(&h, &a);
	vmp_channel_close(a.ch);
	a.ch = NULL;
	assert_int_equal(poll(&f, 1, 500), 1);
	expect_event(&h, VMP_FROM_LEFT);
	leave(&a);
	leave(&h);
}

/* A reply for which there is no room; the descriptor tells when there is. */
static void room_for_a_reply(void **state)
{
	static char big[3000];
	struct user h = hub(0), a = producer();
	struct pollfd f = { vmp_hub_fd(h.h), POLLIN, 0 };
	struct vmp_from from;
	char buf[3000];
	int i, n = 0;

	pair(&h, &a);
	trust_each_other(&h, &a);
	send_text(&a, "more");
	from = expect(&h, "more");
	while (!vmp_hub_reply(h.h, &from, big, sizeof(big), 0, 0))
		n++;
	assert_int_equal(n, 2);
	assert_int_equal(vmp_hub_reply(h.h, &from, big, sizeof(big), 0, 20), -ETIMEDOUT);
	assert_int_equal(vmp_hub_reply(h.h, &from, big, sizeof(big), 0, 0), -EAGAIN);
	/* A sleep in between disarms; whoever waits by the descriptor is armed again. */
	assert_int_equal(vmp_hub_recv(h.h, buf, sizeof(buf), NULL, 20), -ETIMEDOUT);
	while (vmp_hub_recv(h.h, buf, sizeof(buf), NULL, 0) == -EAGAIN && poll(&f, 1, 30))
		;
	for (i = 0; i < n; i++)
		assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 0), sizeof(big));
	assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 20), -ETIMEDOUT);
	assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	assert_int_equal(vmp_hub_reply(h.h, &from, big, sizeof(big), 0, 0), 0);
	leave(&a);
	assert_int_equal(vmp_hub_reply(h.h, &from, "?", 1, 0, 0), -EPIPE);
	leave(&h);
}

static int64_t cpu_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000;
}

/* Fill @u's way back. How many there were. */
static int fill(struct user *h, const struct vmp_from *from, const char *big, size_t size)
{
	int r, n = 0;

	while (!(r = vmp_hub_reply(h->h, from, big, size, 0, 0)))
		n++;
	assert_int_equal(r, -EAGAIN);
	return n;
}

/* Of room that is there and was told of nobody hears again, nor does it keep one awake. */
static void room_is_told_once(void **state)
{
	static char big[3000];
	struct user h = hub(VMP_HUB_EVENTS), a = producer();
	struct pollfd f = { vmp_hub_fd(h.h), POLLIN, 0 };
	struct vmp_from from;
	char buf[3000];
	int64_t cpu;
	int n, way;

	pair(&h, &a);
	/* So that no nap ends by itself. */
	trust_each_other(&h, &a);
	send_text(&a, "more");
	from = expect(&h, "more");
	for (way = 0; way < 6; way++) {
		n = fill(&h, &from, big, sizeof(big));
		while (n--)
			assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 0), sizeof(big));
		assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 20), -ETIMEDOUT);
		switch (way) {
		case 0:
			/* By a call that waits; then, by a reply that found it by itself. */
			cpu = cpu_us();
			assert_int_equal(get(&h, buf, &from, 300), -ETIMEDOUT);
			assert_true(cpu_us() - cpu < 100000);
			break;
		case 1:
			break;
		default:
			/*
			 * The ring for it was cleared by a call that found no message. Several
			 * times, for once a second it looks by itself.
			 */
			assert_int_equal(get(&h, buf, &from, 0), -EAGAIN);
			assert_int_equal(poll(&f, 1, 300), 1);
		}
		assert_true(woken_in(&h, 300) <= 40);
		assert_int_equal(vmp_hub_reply(h.h, &from, big, 100, 0, 0), 0);
		assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), PATIENCE_MS), 100);
		assert_true(woken_in(&h, 300) <= 40);
	}
	/* Whoever waits for room of one who dies need not wait any longer. */
	fill(&h, &from, big, sizeof(big));
	perish(&a);
	assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	expect_event(&h, VMP_FROM_DEAD);
	assert_int_equal(get(&h, buf, &from, 0), -EAGAIN);
	assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	leave(&h);
}

/* Some room is not enough, for the record would not lie in one piece: it is asked for anew. */
static void room_in_parts(void **state)
{
	static char big[3000];
	struct user h = hub(0), a = producer();
	struct pollfd f = { vmp_hub_fd(h.h), POLLIN, 0 };
	struct vmp_from from;
	uint64_t armed;
	char buf[3000];

	pair(&h, &a);
	trust_each_other(&h, &a);
	send_text(&a, "more");
	from = expect(&h, "more");
	woken_in(&h, 100);
	assert_int_equal(woken_in(&h, 200), 0);
	assert_int_equal(fill(&h, &from, big, sizeof(big)), 2);
	assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 0), sizeof(big));
	assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	armed = side(from.lane, 0)->tx_armed;
	assert_int_equal(woken_in(&h, 200), 1);
	assert_true(side(from.lane, 0)->tx_armed && side(from.lane, 0)->tx_armed != armed);
	assert_int_equal(vmp_recv(a.ch, buf, sizeof(buf), 0), sizeof(big));
	assert_int_equal(poll(&f, 1, 500), 1);
	assert_int_equal(vmp_hub_reply(h.h, &from, big, sizeof(big), 0, 0), 0);
	leave(&a);
	leave(&h);
}

static void *send_till_end(void *arg)
{
	static char big[3000];
	struct user *u = arg;
	int r;

	while (!(r = vmp_send(u->ch, big, sizeof(big), 0, PATIENCE_MS)))
		;
	return (void *)(intptr_t)r;
}

/* A sender that sleeps for room hears of the hub's death at once; and of a new hub. */
static void a_sleeper_hears_of_death(void **state)
{
	struct user h = hub(0), a = producer(), g;
	int64_t t;
	pthread_t th;
	void *r;

	pair(&h, &a);
	pthread_create(&th, NULL, send_till_end, &a);
	usleep(50000);
	t = ran_us();
	perish(&h);
	pthread_join(th, &r);
	assert_int_equal((intptr_t)r, -ECONNRESET);
	assert_true(ran_us() - t < AT_ONCE_US);
	g = hub(0);
	leave(&a);
	leave(&g);
}

/* Another machine, whose rows and heart are this test's; its session has a lane of the hub. */
struct other {
	struct portal_peer *row;
	uint64_t token;
	pthread_t heart;
	int64_t last_beat, last_ran;
	bool silent;
};

static void *beats(void *arg)
{
	struct other *o = arg;

	do {
		o->last_beat = now_us();
		o->last_ran = ran_us();
		__atomic_add_fetch((uint64_t *)&o->row->heartbeat, 1, __ATOMIC_SEQ_CST);
		usleep(HEART_MS * 300);
	} while (!__atomic_load_n(&o->silent, __ATOMIC_SEQ_CST));
	return NULL;
}

static void goes_on(struct other *o)
{
	__atomic_store_n(&o->silent, false, __ATOMIC_SEQ_CST);
	pthread_create(&o->heart, NULL, beats, o);
}

static void falls_silent(struct other *o)
{
	__atomic_store_n(&o->silent, true, __ATOMIC_SEQ_CST);
	pthread_join(o->heart, NULL);
}

static void there_is(struct other *o, struct vmp *p)
{
	struct portal_session *s = house_table(p, PORTAL_AREA_SESSIONS, p->super->sessions);
	uint64_t claim = 60ULL << 32 | 7;

	o->row = house_table(p, PORTAL_AREA_PEERS, 1);
	o->token = 1 << 16 | p->super->sessions;
	*o->row = (struct portal_peer) {
		.claim = claim, .incarnation = 9, .kind = PORTAL_PEER_GUEST, .vectors = 1,
		.notice = PORTAL_VECTOR_NONE, .heartbeat_ms = HEART_MS, .life = 1 << 16 | PORTAL_LIFE_ALIVE,
	};
	*s = (struct portal_session) {
		.claim = claim, .address = 59, .vector = PORTAL_VECTOR_NONE,
		.life = 1 << 16 | PORTAL_LIFE_ALIVE,
	};
	goes_on(o);
}

/* As it is promised: after the second beat that does not come, within the third. */
static void in_time(const struct other *o)
{
	int64_t t = now_us() - o->last_beat, ran = ran_us() - o->last_ran;

	if (t < 2000 * HEART_MS || ran > 3000 * HEART_MS + BUSY_US)
		fail_msg("suspect %ld us after its last beat, in %ld of which this machine ran", (long)t, (long)ran);
}

/*
 * A hub that sleeps hears of a machine that falls silent: from portald, within three of its
 * heartbeats (and what a busy machine takes); with portald gone by itself. And that it is back.
 */
static void a_silent_machine(void **state)
{
	struct user h = hub(VMP_HUB_EVENTS);
	struct vmp_from from;
	struct other o;
	char buf[257];
	int i;

	there_is(&o, h.p);
	hub_row((char *)h.p->base + h.h->place.offset, 0)->owner = o.token;
	expect_event(&h, VMP_FROM_CAME);
	assert_int_equal(get(&h, buf, &from, 500), -ETIMEDOUT);
	for (i = 0; i < 2; i++) {
		falls_silent(&o);
		expect_event(&h, VMP_FROM_SUSPECT);
		in_time(&o);
		goes_on(&o);
		expect_event(&h, VMP_FROM_BACK);
		if (!i) {
			house_without_portald();
			assert_int_equal(get(&h, buf, &from, 1500), -ETIMEDOUT);
		}
	}
	falls_silent(&o);
	leave(&h);
}

/* The descriptor of what may have changed tells that the hub stands so. */
static void watched_until(struct user *a, int state)
{
	struct pollfd f = { vmp_watch_fd(a->p), POLLIN, 0 };

	do {
		assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
		assert_int_equal(vmp_watch_clear(a->p), 0);
	} while (vmp_channel_peer_state(a->ch) != state);
}

/* A sender hears of the machine of its hub by the descriptor, as soon; no call of its fails. */
static void a_silent_hub(void **state)
{
	struct user h = hub(0), a = producer();
	struct other o;

	pair(&h, &a);
	there_is(&o, a.p);
	/* As if the hub were there. */
	a.ch->peer_token = o.token;
	assert_true(vmp_watch_fd(a.p) >= 0);
	assert_int_equal(vmp_watch_clear(a.p), 0);
	usleep(HEART_MS * 1000);
	assert_int_equal(vmp_channel_peer_state(a.ch), VMP_STATE_ALIVE);
	falls_silent(&o);
	watched_until(&a, VMP_STATE_SUSPECT);
	in_time(&o);
	send_text(&a, "still here");
	expect(&h, "still here");
	goes_on(&o);
	watched_until(&a, VMP_STATE_ALIVE);
	falls_silent(&o);
	leave(&a);
	leave(&h);
}

static int up_with_a_fast_heart(void **state)
{
	house.real = true;
	house.server = start_portald_with("--managed", HEARTBEAT);
	return house.server > 0 ? 0 : -1;
}

static bool is_lost(struct vmp *p)
{
	return true;
}

/* From the first look on without portald hearts are heard, whatever the timer was set to before. */
static void deserted_by_descriptor(void **state)
{
	struct user h = hub(0);
	struct vmp_ops ops = *h.p->ops;
	struct itimerspec it;
	struct vmp_from from;
	char buf[257];

	assert_true(vmp_hub_fd(h.h) >= 0);
	assert_int_equal(get(&h, buf, &from, 0), -EAGAIN);
	assert_int_equal(timerfd_gettime(h.h->timer, &it), 0);
	assert_true(it.it_value.tv_sec || it.it_value.tv_nsec > 2 * HEAR_EVERY);
	ops.lost = is_lost;
	h.p->ops = &ops;
	house_changed();
	assert_int_equal(get(&h, buf, &from, 0), -EAGAIN);
	assert_int_equal(timerfd_gettime(h.h->timer, &it), 0);
	assert_true(!it.it_value.tv_sec && it.it_value.tv_nsec && it.it_value.tv_nsec <= HEAR_EVERY);
	h.p->ops = &house_ops;
	leave(&h);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		in_house(one_sleep_for_all),
		in_house(a_ring_is_lost),
		in_house(an_address_is_lost),
		in_house(an_address_is_lost_by_descriptor),
		in_house(busy_and_told),
		in_house(by_descriptor),
		in_house(a_close_is_heard),
		in_house(room_for_a_reply),
		in_house(room_is_told_once),
		in_house(room_in_parts),
		in_house(a_sleeper_hears_of_death),
		with_portald(one_sleep_for_all),
		with_portald(by_descriptor),
		with_portald(a_sleeper_hears_of_death),
		with_portald(a_sender_is_killed),
		cmocka_unit_test_setup_teardown(a_silent_machine, up_with_a_fast_heart, house_down_real),
		cmocka_unit_test_setup_teardown(a_silent_hub, up_with_a_fast_heart, house_down_real),
		in_house(deserted_by_descriptor),
	};

	alarm(ALARM_S);
	find_portald(argv[0]);
	return cmocka_run_group_tests_name("hub_waits", tests, set_up, tear_down);
}
