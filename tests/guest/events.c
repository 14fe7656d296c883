// SPDX-License-Identifier: MIT
/*
 * events [A [B]]: rings, poll(), read() and eventfds over two ends in one kernel.
 *
 * A and B are the ends of a loopback pair, where a ring is an event before the
 * ioctl returns; so every count here is exact. (rings.c is for two machines.) TAP;
 * exit status 0 if all went well, 1 otherwise.
 */
#include "guest.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static int a, b;
static struct portal_info info;
static const char *path_a;

/* Rings A's vector from B. */
static void ring_a(uint32_t vector)
{
	if (ring(b, info.peer_id, vector))
		die("PORTAL_RING");
}

static int fresh(void)
{
	return open_portal(path_a, O_RDONLY | O_NONBLOCK);
}

/* Exactly these events, in any order, are to be read: counts[v] on vector v. */
static bool reads_exactly(int fd, const uint64_t *counts)
{
	struct portal_event ev[2048];
	ssize_t n = read(fd, ev, sizeof(ev));
	uint64_t seen[2048] = { 0 };
	uint32_t v;
	int i;

	if (n < 0)
		n = 0;
	for (i = 0; i < (int)(n / sizeof(ev[0])); i++) {
		if (ev[i].type != PORTAL_EVENT_DOORBELL || ev[i].vector >= info.vectors)
			return false;
		seen[ev[i].vector] += ev[i].count;
	}
	for (v = 0; v < info.vectors; v++) {
		if (seen[v] != counts[v]) {
			printf("# vector %u: %llu, not %llu\n", v, (unsigned long long)seen[v],
			       (unsigned long long)counts[v]);
			return false;
		}
	}
	return true;
}

static void plain(void)
{
	uint64_t counts[2048] = { 0 };
	int first = fresh(), second, v, wrong = 0;

	ok(!wait_for(first, POLLIN, 0), "a fresh file has nothing to read");
	for (v = 0; v < (int)info.vectors; v++) {
		counts[v] = 1;
		ring_a(v);
		wrong += !(wait_for(first, POLLIN, 0) & POLLIN) || !reads_exactly(first, counts);
		wrong += wait_for(first, POLLIN, 0) != 0;
		counts[v] = 0;
	}
	ok(!wrong, "one acknowledged ring is one event, on its vector alone (%u vectors)",
	   info.vectors);

	for (v = 0; v < 1000; v++)
		ring_a(v % info.vectors);
	for (v = 0; v < 1000; v++)
		counts[v % info.vectors]++;
	second = fresh();
	ok(reads_exactly(first, counts), "1000 rings are 1000 events");
	memset(counts, 0, sizeof(counts));
	ok(reads_exactly(second, counts), "what came before its open a file does not see");
	counts[0] = 1;
	ring_a(0);
	ok(reads_exactly(first, counts) && reads_exactly(second, counts),
	   "each file gets each event");
	counts[0] = 0;
	ok(reads_exactly(b, counts), "the ringing end gets none");
	if (ring(b, 1 - info.peer_id, info.vectors - 1))
		die("ring oneself");
	counts[info.vectors - 1] = 1;
	ok(reads_exactly(b, counts), "it may ring itself");
	counts[info.vectors - 1] = 0;
	ok(reads_exactly(first, counts), "which the other does not see");
	close(first);
	close(second);
}

static void fairness(void)
{
	struct portal_event ev;
	int fd = fresh();
	uint32_t v, got = 0;

	for (v = 0; v < info.vectors; v++)
		ring_a(v);
	for (v = 0; v < info.vectors; v++) {
		ring_a(0);
		if (read(fd, &ev, sizeof(ev)) == sizeof(ev) && ev.vector == v)
			got++;
	}
	ok(got == info.vectors, "a busy vector 0 starves no other");
	close(fd);
}

static void bindings(void)
{
	uint64_t none[2048] = { 0 }, one[2048] = { 1 };
	int first = fresh(), second = fresh();
	int e1 = eventfd(0, EFD_NONBLOCK), e2 = eventfd(0, EFD_NONBLOCK), closed;

	ok(!bind_eventfd(first, 0, e1), "bind");
	ring_a(0);
	ok(count_of(e1) == 1 && !count_of(e1), "one ring is one count");
	ok(reads_exactly(first, none) && !wait_for(first, POLLIN, 0),
	   "its file is silent for that vector");
	ok(reads_exactly(second, one), "another file is not");
	ring_a(0);
	ring_a(0);
	ring_a(0);
	ok(count_of(e1) == 3, "three rings are three counts");
	if (info.vectors > 1) {
		ring_a(1);
		ok(!count_of(e1), "another vector's ring is no count");
		one[0] = 0;
		one[1] = 1;
		ok(reads_exactly(first, one), "and comes by read()");
		ok(!bind_eventfd(first, 1, e1), "one eventfd on two vectors");
		ring_a(0);
		ring_a(1);
		ok(count_of(e1) == 2, "gets the rings of both");
		bind_eventfd(first, 1, -1);
	}

	ok(!bind_eventfd(second, 0, e2), "another file binds the same vector");
	count_of(e2);	/* what it had not read before */
	ring_a(0);
	ok(count_of(e1) == 1 && count_of(e2) == 1, "both eventfds get the ring");
	bind_eventfd(second, 0, -1);
	ok(!bind_eventfd(first, 0, e2), "a second eventfd in place of the first");
	ring_a(0);
	ok(!count_of(e1) && count_of(e2) == 1, "only the second gets the ring");

	bind_eventfd(first, 0, -1);
	ring_a(0);
	memset(one, 0, sizeof(one));
	one[0] = 1;
	ok(!count_of(e2) && reads_exactly(first, one), "after unbinding, read() gets it");
	ring_a(0);
	ring_a(0);
	ok(!bind_eventfd(first, 0, e1) && count_of(e1) == 1,
	   "what was not read yet goes over to the eventfd, as one count");
	bind_eventfd(first, 0, -1);
	ok(reads_exactly(first, none), "and is read no more");

	closed = dup(e1);
	bind_eventfd(first, 0, closed);
	close(closed);
	ring_a(0);
	ok(count_of(e1) == 1, "the descriptor may be closed after binding");
	close(first);
	ring_a(0);
	ok(!count_of(e1), "a closed file's binding is gone");
	close(second);
	close(e1);
	close(e2);
}

#define BINDINGS	1024
#define USER_BINDINGS	256
#define USERS		(BINDINGS / USER_BINDINGS)

/* Another user, or with 0 the one who runs this; the kernel looks at who opens. */
static int fresh_of(uid_t user)
{
	int fd;

	if (seteuid(user))
		die("seteuid");
	fd = fresh();
	if (seteuid(0))
		die("seteuid");
	return fd;
}

/*
 * So many files may bind one vector, for an interrupt signals them all; and so many of
 * one user, for there are others.
 */
static void many_bindings(void)
{
	struct rlimit lim = { 4096, 4096 };
	static int fds[USERS + 1][USER_BINDINGS + 1];
	int efd = eventfd(0, EFD_NONBLOCK), bound[USERS + 1] = { 0 }, error[USERS + 1] = { 0 };
	int u, n, full = 0;
	struct stat st;

	if (setrlimit(RLIMIT_NOFILE, &lim) || geteuid() || stat(path_a, &st)) {
		skip("many files bind one vector", "needs RLIMIT_NOFILE, and to be root");
		return;
	}
	if (chmod(path_a, 0666))
		die("chmod");
	for (u = 0; u <= USERS; u++) {
		for (n = 0; n <= USER_BINDINGS; n++) {
			fds[u][n] = fresh_of(u ? 1000 + u : 0);
			if (!bind_eventfd(fds[u][n], 0, efd))
				bound[u]++;
			else
				error[u] = errno;
		}
		full += bound[u] == USER_BINDINGS && error[u] == EBUSY;
	}
	ok(full == USERS, "of each user %d files bind one vector, then EBUSY", USER_BINDINGS);
	ok(!bound[USERS] && error[USERS] == EBUSY, "of all users %d", BINDINGS);
	ring_a(0);
	ok(count_of(efd) == BINDINGS, "each gets the ring");
	ok(!bind_eventfd(fds[0][0], 0, efd), "one of them may bind anew");
	bind_eventfd(fds[0][1], 0, -1);
	ok(!bind_eventfd(fds[USERS][0], 0, efd), "and where one unbinds another may bind");
	ok(bind_eventfd(fds[0][1], 0, efd) == -1 && errno == EBUSY, "who unbound comes too late");
	bind_eventfd(fds[1][0], 0, -1);
	ok(bind_eventfd(fds[2][USER_BINDINGS], 0, efd) == -1 && errno == EBUSY,
	   "where there is room again a user has not more than his own");
	for (u = 0; u <= USERS; u++)
		for (n = 0; n <= USER_BINDINGS; n++)
			close(fds[u][n]);
	chmod(path_a, st.st_mode & 07777);
	close(efd);
}

static void full_eventfd(void)
{
	uint64_t most = UINT64_MAX - 1, none[2048] = { 0 }, got = 0;
	int fd = fresh(), efd = eventfd(0, EFD_NONBLOCK);

	bind_eventfd(fd, 0, efd);
	if (write(efd, &most, sizeof(most)) != sizeof(most))
		die("eventfd");
	ring_a(0);
	ring_a(0);
	ok(read(efd, &got, sizeof(got)) == sizeof(got) && got >= most,
	   "a full eventfd holds up nobody");
	ring_a(0);
	ok(count_of(efd) == 1 && reads_exactly(fd, none), "and works again when it was read");
	close(efd);
	close(fd);
}

struct reader {
	pthread_t thread;
	volatile pid_t tid;
	int fd;
	uint64_t events;
	int error;
};

/* Reads until it has the last vector's event, or an error. */
static void *reading(void *arg)
{
	struct reader *r = arg;
	struct portal_event ev;

	r->tid = syscall(SYS_gettid);
	for (;;) {
		if (read(r->fd, &ev, sizeof(ev)) != sizeof(ev)) {
			r->error = errno;
			return NULL;
		}
		r->events += ev.count;
		if (ev.vector == info.vectors - 1)
			return NULL;
	}
}

static volatile sig_atomic_t handled;

static void noted(int sig)
{
	(void)sig;
	handled = 1;
}

static void start_reading(struct reader *r)
{
	r->tid = 0;
	pthread_create(&r->thread, NULL, reading, r);
	if (!UNTIL(is_asleep(r->tid), PATIENT_MS))
		die("a thread that sleeps in read()");
}

static void blocking(void)
{
	struct reader r = { .fd = open_portal(path_a, O_RDONLY) };
	struct sigaction act = { .sa_handler = noted };

	sigaction(SIGUSR1, &act, NULL);
	start_reading(&r);
	ring_a(info.vectors - 1);
	pthread_join(r.thread, NULL);
	ok(r.events == 1 && !r.error, "a ring ends a blocking read()");

	start_reading(&r);
	pthread_kill(r.thread, SIGUSR1);
	pthread_join(r.thread, NULL);
	ok(r.error == EINTR, "so does a signal: EINTR");

	act.sa_flags = SA_RESTART;
	sigaction(SIGUSR1, &act, NULL);
	r = (struct reader){ .fd = r.fd };
	start_reading(&r);
	handled = 0;
	pthread_kill(r.thread, SIGUSR1);
	ok(UNTIL(handled && is_asleep(r.tid), PATIENT_MS), "a signal that restarts what it interrupts");
	ring_a(info.vectors - 1);
	pthread_join(r.thread, NULL);
	ok(r.events == 1 && !r.error, "it goes on waiting");
	close(r.fd);
}

#define READERS	4
#define RINGS	20000

static volatile bool all_rung;

static void *count_events(void *arg)
{
	struct reader *r = arg;
	struct portal_event ev[3];
	ssize_t n;

	while ((n = read(r->fd, ev, sizeof(ev))) > 0 || errno == EAGAIN) {
		if (n < 0) {
			/* There is nothing, and nothing will come. */
			if (!wait_for(r->fd, POLLIN, 100) && all_rung && !wait_for(r->fd, POLLIN, 0))
				return NULL;
			continue;
		}
		for (n /= sizeof(ev[0]); n; n--)
			r->events += ev[n - 1].count;
	}
	r->error = errno;
	return NULL;
}

/* Several threads on one file share its events; each is counted once. */
static void sharing(void)
{
	struct reader r[READERS] = { 0 };
	int fd = fresh(), i;
	uint64_t sum = 0;

	for (i = 0; i < READERS; i++) {
		r[i].fd = fd;
		pthread_create(&r[i].thread, NULL, count_events, &r[i]);
	}
	for (i = 0; i < RINGS; i++)
		ring_a(i % info.vectors);
	all_rung = true;
	for (i = 0; i < READERS; i++) {
		pthread_join(r[i].thread, NULL);
		sum += r[i].events;
	}
	ok(sum == RINGS, "%d threads read %d events once each: %llu", READERS, RINGS,
	   (unsigned long long)sum);
	close(fd);
}

static volatile bool stop;

/* Binds and unbinds while rings arrive; what the eventfd got, and the last of it. */
static void *rebind(void *arg)
{
	struct reader *r = arg;
	int efd = eventfd(0, EFD_NONBLOCK);

	while (!stop) {
		bind_eventfd(r->fd, 0, efd);
		bind_eventfd(r->fd, 0, -1);
		r->events += count_of(efd);
	}
	r->events += count_of(efd);
	close(efd);
	return NULL;
}

/*
 * No event may be lost while a binding comes and goes. With read() besides the
 * binding thread each event comes by one of two ways; what was not read before a
 * bind comes as one count, so events may merge, but there is one after the last
 * ring, and never more than rings.
 */
static void rebinding(void)
{
	struct reader r = { .fd = fresh() };
	struct portal_event ev;
	uint64_t total = 0;
	int i, lost = 0;

	pthread_create(&r.thread, NULL, rebind, &r);
	for (i = 0; i < RINGS; i++) {
		ring_a(0);
		if (read(r.fd, &ev, sizeof(ev)) == sizeof(ev))
			total += ev.count;
	}
	stop = true;
	pthread_join(r.thread, NULL);
	if (read(r.fd, &ev, sizeof(ev)) == sizeof(ev))
		total += ev.count;
	total += r.events;
	ok(total && total <= RINGS, "binding amid rings: %llu events of %d rings, not more",
	   (unsigned long long)total, RINGS);

	/* One at a time: each must come by one way or the other. */
	r.events = 0;
	stop = false;
	for (i = 0; i < 2000; i++) {
		int efd = eventfd(0, EFD_NONBLOCK);

		if (i & 1)
			ring_a(0);
		bind_eventfd(r.fd, 0, efd);
		if (!(i & 1))
			ring_a(0);
		bind_eventfd(r.fd, 0, -1);
		lost += count_of(efd) != 1;
		close(efd);
	}
	ok(!lost, "a ring before or after a bind is one count, 2000 times");
	close(r.fd);
}

static void epolls(void)
{
	int ep = epoll_create1(EPOLL_CLOEXEC), fd = fresh(), i, good = 0;
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET };

	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
	for (i = 0; i < 100; i++) {
		ring_a(0);
		good += epoll_wait(ep, &ev, 1, PATIENT_MS) == 1 && epoll_wait(ep, &ev, 1, 0) == 0;
	}
	ok(good == 100, "edge-triggered epoll: each ring is an edge");
	close(fd);
	close(ep);
}

int main(int argc, char **argv)
{
	start(120);
	path_a = argc > 1 ? argv[1] : "/dev/portal0";
	a = open_portal(path_a, O_RDWR | O_NONBLOCK);
	b = open_portal(argc > 2 ? argv[2] : "/dev/portal1", O_RDWR | O_NONBLOCK);
	info = get_info(a);
	if (strcmp(info.transport, "loopback") || info.vectors < 1) {
		printf("1..0 # SKIP %s is no loopback with vectors: rings are not exact there\n",
		       path_a);
		return 0;
	}
	plain();
	fairness();
	bindings();
	many_bindings();
	full_eventfd();
	blocking();
	sharing();
	rebinding();
	epolls();
	return done();
}
