// SPDX-License-Identifier: MIT
/* What a child inherits of a portal with portald: it may close it, and no more. */
#include "house.h"

#include <poll.h>
#include <sys/syscall.h>

#include <vmportal_hub.h>

/* The first of @n results that is not what a child is told, or 0. */
static int all_refused(const long *r, size_t n, int base)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (r[i] != -EBUSY)
			return base + (int)i;
	return strstr(vmp_errmsg(), "its child") ? 0 : 1;
}

/* In a child nothing is mapped: each call says so, whether its parent had a session or not. */
static int refused_in_a_child(struct vmp *p, uint64_t token)
{
	struct vmp_named *n;
	struct vmp_hub *h;
	struct vmp_peer peer;
	struct vmp_channel *ch;
	struct vmp_layout l;
	const long r[] = {
		vmp_join(p, &token), vmp_token_state(p, token), vmp_named_open(&n, p, "c", VMP_CREATE, 1, 0),
		vmp_named_unlink(p, "c"), vmp_hub_open(&h, p, "h", NULL), vmp_lock(p, p->base, 0),
		vmp_get_peer(p, 0, &peer, sizeof(peer)), vmp_watch_fd(p), vmp_watch_clear(p), vmp_check(p, NULL, NULL),
		vmp_fence(p, 0), vmp_format(p, NULL), vmp_set_mode(p, VMP_MODE_RAW), vmp_get_layout(p, &l, sizeof(l)),
		vmp_ring(p, 0, 0), vmp_eventfd(p, 0), vmp_eventfd(p, 1), vmp_channel_open(&ch, p, NULL),
	};

	return all_refused(r, sizeof(r) / sizeof(r[0]), 10);
}

static void in_a_child(void **state)
{
	struct vmp *p = house_open();
	uint64_t token = 1 << 16;
	int joined, status;
	pid_t pid;

	for (joined = 0; joined < 2; joined++) {
		pid = fork();
		if (!pid)
			_exit(refused_in_a_child(p, token));
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		assert_int_equal(vmp_join(p, &token), 0);
	}
	assert_true(vmp_watch_fd(p) >= 0);
	assert_int_equal(vmp_watch_clear(p), 0);
	house_leave(p);
}

/* What a child inherits, connected and in the midst of things. */
struct works {
	struct vmp_channel *ch, *to, *named;
	struct vmp_hub *h;
	struct vmp_from from;
	struct vmp_named *n;
};

static int refused_to_a_channel(struct vmp_channel *ch)
{
	const void *msg;
	void *room;
	char c[8];
	const long r[] = {
		/* Reserved, peeked and owed by its parent. */
		vmp_commit(ch, 1, 0), vmp_release(ch), vmp_flush(ch), vmp_channel_connect(ch, 0), vmp_reserve(ch, &room, 1, 0),
		vmp_send(ch, "x", 1, 0, 0), vmp_send(ch, "x", 1, 0, -1), vmp_peek(ch, &msg, 0), vmp_recv(ch, c, sizeof(c), -1),
		vmp_poll(ch, NULL, NULL, 1),
	};

	return all_refused(r, sizeof(r) / sizeof(r[0]), 10);
}

static int refused_to_works(struct works *w)
{
	int failed = refused_to_a_channel(w->ch);
	struct vmp_object o;
	const void *msg;
	char c[8];
	const long r[] = {
		vmp_hub_release(w->h), vmp_hub_recv(w->h, c, sizeof(c), NULL, -1), vmp_hub_peek(w->h, &msg, NULL, 0),
		vmp_hub_poll(w->h, NULL, NULL, 1), vmp_hub_reply(w->h, &w->from, "x", 1, 0, -1),
		vmp_send(w->named, "x", 1, 0, -1), vmp_recv(w->named, c, sizeof(c), -1), vmp_channel_peer_state(w->named),
		vmp_named_info(w->n, &o, sizeof(o)),
	};

	if (!failed)
		failed = all_refused(r, sizeof(r) / sizeof(r[0]), 30);
	/* To close them is always allowed. */
	vmp_channel_close(w->ch);
	vmp_channel_close(w->to);
	vmp_channel_close(w->named);
	vmp_hub_close(w->h);
	return failed || vmp_named_close(w->n);
}

static void hello_to_hub(struct works *w)
{
	const void *msg;
	int i;

	for (i = 0; i < 10 && vmp_send(w->named, "hub", 3, 0, 0); i++)
		assert_int_equal(vmp_hub_recv(w->h, NULL, 0, NULL, 0), -EAGAIN);
	assert_int_equal(vmp_hub_peek(w->h, &msg, &w->from, PATIENCE_MS), 3);
}

/* fork(), or the same without what the C library does at it. */
static pid_t fork_by(bool hand)
{
	return hand ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();
}

/* A child touches nothing of what its parent is doing, which goes on. */
static void works_in_a_child(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	struct vmp_channel_opts o = { .size = sizeof(o), .length = 65536 };
	struct works w;
	const void *msg;
	void *room;
	int status, hand;
	pid_t pid;
	char c[8];

	/* The names first: the channel by hand lies where they are not. */
	assert_int_equal(vmp_hub_open(&w.h, p, "h", NULL), 0);
	assert_int_equal(vmp_channel_named(&w.named, q, "h", NULL, 0), 0);
	assert_int_equal(vmp_named_open(&w.n, p, "n", VMP_CREATE, 100, 0600), 0);
	o.offset = HOUSE_SIZE - 65536;
	assert_int_equal(vmp_channel_open(&w.ch, p, &o), 0);
	o.side = 1;
	assert_int_equal(vmp_channel_open(&w.to, q, &o), 0);
	meet(w.ch, w.to);
	hello_to_hub(&w);
	assert_int_equal(vmp_send(w.to, "peek", 4, 0, 0), 0);
	assert_int_equal(vmp_peek(w.ch, &msg, 0), 4);
	assert_int_equal(vmp_send(w.ch, "owed", 4, VMP_MORE, 0), 0);
	assert_int_equal(vmp_reserve(w.ch, &room, 1, 0), 0);
	for (hand = 0; hand < 2; hand++) {
		pid = fork_by(hand);
		if (!pid)
			_exit(refused_to_works(&w));
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
	memcpy(room, "y", 1);
	assert_int_equal(vmp_commit(w.ch, 1, 0), 0);
	assert_int_equal(vmp_release(w.ch), 0);
	assert_int_equal(vmp_recv(w.to, c, sizeof(c), 0), 4);
	assert_int_equal(vmp_recv(w.to, c, sizeof(c), 0), 1);
	assert_int_equal(vmp_hub_release(w.h), 0);
	assert_int_equal(vmp_hub_reply(w.h, &w.from, "yes", 3, 0, PATIENCE_MS), 0);
	assert_int_equal(vmp_recv(w.named, c, sizeof(c), PATIENCE_MS), 3);
	vmp_channel_close(w.ch);
	vmp_channel_close(w.to);
	vmp_channel_close(w.named);
	vmp_hub_close(w.h);
	assert_int_equal(vmp_named_close(w.n), 0);
	vmp_close(q);
	house_leave(p);
}

/* What portald says is said to the parent: a child takes none of it out of the socket. */
static void a_child_reads_nothing(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	struct pollfd f = { .fd = p->state_fd, .events = POLLIN };
	uint32_t id = q->info.peer_id;
	int status;
	pid_t pid;

	while (vmp_ring(p, id, 0))
		usleep(1000);
	vmp_close(q);
	assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	pid = fork();
	if (!pid)
		_exit(vmp_ring(p, 77, 0) == -EBUSY ? 0 : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	/* Who is not known makes it read. */
	assert_int_equal(vmp_ring(p, 77, 0), -ENXIO);
	assert_int_equal(vmp_ring(p, id, 0), -ENXIO);
	vmp_close(p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		in_real(in_a_child),
		in_real(works_in_a_child),
		in_real(a_child_reads_nothing),
	};

	find_portald(argv[0]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
