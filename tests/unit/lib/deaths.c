// SPDX-License-Identifier: MIT
/* Deaths as portald tells them: heard by everybody, and of nobody else. */
#include "daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <lib/internal.h>

/* A process that dies: the sleeper hears it from portald, after all that it had sent. */
static void death_of_a_process(void **state)
{
	const char *uri = in_dir("unix:DIR/t.sock");
	struct vmp_channel_opts o = { .size = sizeof(o) };
	struct vmp_channel *ch;
	pid_t server = start_portald(), pid;
	struct vmp *p;
	char buf[20];
	int i;

	pid = fork();
	if (!pid) {
		o.side = 1;
		if (vmp_open(&p, uri, 0) || vmp_channel_open(&ch, p, &o) ||
		    vmp_channel_connect(ch, PATIENCE_MS))
			_exit(1);
		for (i = 0; i < 10; i++)
			vmp_send(ch, "last words", 10, 0, -1);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(vmp_open(&p, uri, 0), 0);
	assert_int_equal(vmp_channel_open(&ch, p, &o), 0);
	for (i = 0; i < 10; i++)
		assert_int_equal(vmp_recv(ch, buf, sizeof(buf), PATIENCE_MS), 10);
	assert_int_equal(vmp_recv(ch, buf, sizeof(buf), PATIENCE_MS), -ECONNRESET);
	assert_non_null(strstr(vmp_errmsg(), "died"));
	assert_int_equal(vmp_send(ch, buf, 1, 0, PATIENCE_MS), -ECONNRESET);
	waitpid(pid, NULL, 0);
	vmp_channel_close(ch);
	vmp_close(p);
	end(server, SIGTERM);
}

/* The death of a process is not that of the next one with its id. */
static void an_id_comes_back(void **state)
{
	const char *uri = in_dir("unix:DIR/t.sock");
	pid_t server = start_portald_with("--host-peers=2", NULL);
	struct vmp *s, *p1, *p2;
	struct vmp_channel *ch, *c1, *c2;
	struct vmp_info info;
	uint32_t id;
	char buf[8];

	assert_int_equal(vmp_open(&s, uri, 0), 0);
	assert_int_equal(vmp_open(&p1, uri, 0), 0);
	vmp_get_info(p1, &info, sizeof(info));
	id = info.peer_id;
	ch = side_of(s, 0);
	c1 = side_of(p1, 1);
	meet(ch, c1);
	/* s knows the first one; it is told of the end, but does not read it yet. */
	assert_int_equal(vmp_ring(s, id, 0), 0);
	die(p1, c1, 1);
	assert_int_equal(vmp_open(&p2, uri, 0), 0);
	vmp_get_info(p2, &info, sizeof(info));
	assert_int_equal(info.peer_id, id);
	c2 = side_of(p2, 1);
	assert_int_equal(vmp_recv(ch, buf, sizeof(buf), 0), -ECONNRESET);
	vmp_channel_close(ch);
	ch = side_of(s, 0);
	meet(ch, c2);
	assert_int_equal(vmp_recv(ch, buf, sizeof(buf), 100), -ETIMEDOUT);
	assert_int_equal(vmp_send(c2, "alive", 5, 0, 0), 0);
	assert_int_equal(vmp_recv(ch, buf, sizeof(buf), 100), 5);
	/* And when it goes, that is heard. */
	die(p2, c2, 1);
	assert_int_equal(vmp_recv(ch, buf, sizeof(buf), PATIENCE_MS), -ECONNRESET);
	vmp_channel_close(ch);
	vmp_close(s);
	end(server, SIGTERM);
}

/* Mapped, for all that the kernel says. */
static bool is_mapped(const void *at)
{
	unsigned char v;

	return !mincore((void *)(uintptr_t)at, 4096, &v);
}

/*
 * A child does not inherit what its parent has mapped; closing what it did inherit leaves
 * alone what is mapped in that place now, and its parent's portal.
 */
static void a_child_has_no_region(void **state)
{
	const char *uri = in_dir("unix:DIR/t.sock"), *file = in_dir("file:DIR/inherited?size=64K");
	pid_t server = start_portald(), pid;
	struct vmp *p, *q, *pair[2];
	void *base, *pb, *fb;
	char *again;
	int status;
	size_t size;

	assert_int_equal(vmp_open(&p, uri, 0), 0);
	assert_int_equal(vmp_open(&q, file, 0), 0);
	assert_int_equal(vmp_pair(pair, 65536, 1), 0);
	vmp_map(p, &base, &size);
	vmp_map(pair[0], &pb, NULL);
	vmp_map(q, &fb, NULL);
	assert_true(is_mapped(base));
	pid = fork();
	if (!pid) {
		if (is_mapped(base) || !is_mapped(pb) || !is_mapped(fb))
			_exit(1);
		again = mmap(base, size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		if (again != base)
			_exit(2);
		again[5] = 5;
		vmp_close(p);
		vmp_close(pair[0]);
		_exit(is_mapped(base) && again[5] == 5 && !is_mapped(pb) ? 0 : 3);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(is_mapped(base));
	vmp_close(p);
	assert_false(is_mapped(base));
	vmp_close(q);
	vmp_close(pair[0]);
	vmp_close(pair[1]);
	end(server, SIGTERM);
}

/* Who polls and never sleeps hears of a death as well. */
static void death_heard_by_who_polls(void **state)
{
	const char *uri = in_dir("unix:DIR/t.sock");
	pid_t server = start_portald();
	struct vmp_channel *ch, *c1;
	struct vmp *s, *p1;
	int64_t until;
	char c;
	int r;

	assert_int_equal(vmp_open(&s, uri, 0), 0);
	assert_int_equal(vmp_open(&p1, uri, 0), 0);
	ch = side_of(s, 0);
	c1 = side_of(p1, 1);
	meet(ch, c1);
	die(p1, c1, 1);
	until = now_us() + PATIENCE_MS * INT64_C(1000);
	do {
		r = (int)vmp_recv(ch, &c, 1, 0);
	} while (r == -EAGAIN && now_us() < until);
	assert_int_equal(r, -ECONNRESET);
	vmp_channel_close(ch);
	vmp_close(s);
	end(server, SIGTERM);
}

/* Whoever reads of a death passes it on to all who sleep: it may not concern him. */
static void a_death_of_another(void **state)
{
	const char *uri = in_dir("unix:DIR/t.sock");
	pid_t server = start_portald();
	struct vmp_channel *ch, *c1;
	struct vmp *s, *p1, *dies;
	struct pollfd notice;
	int64_t until;
	uint64_t n;
	char c;

	assert_int_equal(vmp_open(&s, uri, 0), 0);
	assert_int_equal(vmp_open(&p1, uri, 0), 0);
	assert_int_equal(vmp_open(&dies, uri, 0), 0);
	ch = side_of(s, 0);
	c1 = side_of(p1, 1);
	meet(ch, c1);
	until = now_us() + 100000;
	while (now_us() < until)
		assert_int_equal(vmp_recv(ch, &c, 1, 0), -EAGAIN);
	notice = (struct pollfd){ s->notice, POLLIN, 0 };
	(void)!read(s->notice, &n, sizeof(n));
	assert_int_equal(poll(&notice, 1, 0), 0);
	vmp_close(dies);
	until = now_us() + PATIENCE_MS * INT64_C(1000);
	while (!poll(&notice, 1, 0) && now_us() < until)
		assert_int_equal(vmp_recv(ch, &c, 1, 0), -EAGAIN);
	assert_int_equal(poll(&notice, 1, 0), 1);
	vmp_channel_close(ch);
	vmp_channel_close(c1);
	vmp_close(s);
	vmp_close(p1);
	end(server, SIGTERM);
}

/*
 * So many processes that what portald has to tell @s of them does not fit into its
 * socket, nor into what it reads at once. @n of them, to be closed by the caller.
 */
static void crowd(struct vmp **p, int n, const char *uri)
{
	int i;

	for (i = 0; i < n; i++)
		/* Read-only: they are not given the eventfds of all the others. */
		assert_int_equal(vmp_open(&p[i], uri, VMP_RDONLY), 0);
}

#define CROWD 250

struct late {
	pid_t server;
	struct vmp *s, *p1, *p2, *others[CROWD];
	struct vmp_channel *ch, *c2;
	uint32_t id;
};

/*
 * s has left unread that p1 died and that p2 has its id now, behind a crowd of others;
 * portald is stopped, so that it stays so; and s and p2 have met in shared memory.
 */
static void set_late(struct late *l)
{
	const char *uri = in_dir("unix:DIR/t.sock");
	struct rlimit fds = { 4096, 4096 };
	struct vmp_info info;

	setrlimit(RLIMIT_NOFILE, &fds);
	l->server = start_portald_with("--host-peers=252", "--connect-rate=0");
	assert_int_equal(vmp_open(&l->s, uri, 0), 0);
	assert_int_equal(vmp_open(&l->p1, uri, 0), 0);
	vmp_get_info(l->p1, &info, sizeof(info));
	l->id = info.peer_id;
	/* s knows the first one. */
	assert_int_equal(vmp_ring(l->s, l->id, 0), 0);
	crowd(l->others, CROWD, uri);
	die(l->p1, side_of(l->p1, 1), 1);
	assert_int_equal(vmp_open(&l->p2, uri, 0), 0);
	vmp_get_info(l->p2, &info, sizeof(info));
	assert_int_equal(info.peer_id, l->id);
	kill(l->server, SIGSTOP);
	l->c2 = side_of(l->p2, 1);
	l->ch = side_of(l->s, 0);
	meet(l->ch, l->c2);
}

static void end_late(struct late *l)
{
	int i;

	vmp_channel_close(l->ch);
	vmp_close(l->s);
	for (i = 0; i < CROWD; i++)
		vmp_close(l->others[i]);
	end(l->server, SIGTERM);
}

/* A death that is told late, when its id has another holder, is not the other's. */
static void a_death_told_late(void **state)
{
	struct late l;
	char buf[8];

	set_late(&l);
	kill(l.server, SIGCONT);
	assert_int_equal(vmp_recv(l.ch, buf, sizeof(buf), 300), -ETIMEDOUT);
	assert_int_equal(vmp_send(l.c2, "alive", 5, 0, 0), 0);
	assert_int_equal(vmp_recv(l.ch, buf, sizeof(buf), PATIENCE_MS), 5);
	/* And when it goes, that is heard. */
	die(l.p2, l.c2, 1);
	assert_int_equal(vmp_recv(l.ch, buf, sizeof(buf), PATIENCE_MS), -ECONNRESET);
	end_late(&l);
}

/* One who was met in memory dies before it was announced: heard all the same. */
static void a_death_before_the_announcement(void **state)
{
	struct late l;
	char buf[8];

	set_late(&l);
	die(l.p2, l.c2, 1);
	kill(l.server, SIGCONT);
	assert_int_equal(vmp_recv(l.ch, buf, sizeof(buf), PATIENCE_MS), -ECONNRESET);
	assert_non_null(strstr(vmp_errmsg(), "died"));
	end_late(&l);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(death_of_a_process),
		cmocka_unit_test(an_id_comes_back),
		cmocka_unit_test(death_heard_by_who_polls),
		cmocka_unit_test(a_death_of_another),
		cmocka_unit_test(a_child_has_no_region),
		cmocka_unit_test(a_death_told_late),
		cmocka_unit_test(a_death_before_the_announcement),
	};

	alarm(ALARM_S);
	find_portald(argv[0]);
	return cmocka_run_group_tests_name("deaths", tests, set_up, tear_down);
}
