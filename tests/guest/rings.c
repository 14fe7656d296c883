// SPDX-License-Identifier: MIT
/*
 * rings SIDE DEVICE [OFFSET]: rings between two machines, counted at both ends.
 *
 * One runs on each machine, SIDE 0 and 1; "rings both A B" runs both over a
 * loopback pair. They speak through a page of the region at OFFSET (default 0),
 * which must hold zeroes and be nobody else's. n rings come as 1 to n events
 * (eventfd and MSI-X coalesce), never 0, never on another vector; with an answer to
 * each, one ring is one event. TAP from each side; exit status 0 if all went well,
 * 1 otherwise.
 */
#include "guest.h"

#include <sys/wait.h>
#include <time.h>

#define ACKED	300	/* rounds per vector */
#define BURST	1000
#define PATIENCE_MS	PATIENT_MS	/* for the other machine, however slow */
#define SETTLE_MS	300	/* in which a stray event would show */
#define DRAIN_MS	3000	/* in which what was rung comes, if the machines are busy */

/* Each word on its own pair of cache lines; the other side only reads it. */
struct side {
	uint32_t here __attribute__((aligned(128)));
	uint32_t peer_id;
	uint32_t vectors;
	uint32_t step __attribute__((aligned(128)));
};

struct board {
	struct side side[2];
};

static struct board *board;
static int fd, me, peer_vectors, my_vectors;
static uint32_t peer;
static uint32_t step;
static int efds[2048];

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static bool wait_word(uint32_t *word, uint32_t value)
{
	long end = now_ms() + PATIENCE_MS;

	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) < value) {
		if (now_ms() > end)
			return false;
		usleep(200);
	}
	return true;
}

/* Both sides have come this far. */
static void meet(const char *what)
{
	__atomic_store_n(&board->side[me].step, ++step, __ATOMIC_RELEASE);
	if (!wait_word(&board->side[!me].step, step))
		die(what);
}

static void introduce(const char *device, long offset)
{
	struct portal_info info;

	fd = open_portal(device, O_RDWR | O_NONBLOCK);
	info = get_info(fd);
	if (!(info.caps & PORTAL_CAP_DOORBELL) || !info.vectors) {
		printf("1..0 # SKIP %s has no doorbells\n", device);
		exit(0);
	}
	board = mmap(NULL, sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
	if (board == MAP_FAILED)
		die("mmap");
	my_vectors = info.vectors;
	board->side[me].peer_id = info.peer_id;
	board->side[me].vectors = info.vectors;
	__atomic_store_n(&board->side[me].here, 1, __ATOMIC_RELEASE);
	if (!wait_word(&board->side[!me].here, 1))
		die("the other side did not come");
	peer = board->side[!me].peer_id;
	peer_vectors = board->side[!me].vectors;
	printf("# side %d: peer %u with %d vectors, ours %d\n", me, peer, peer_vectors, my_vectors);
}

/* A device drops rings to a peer that it does not know yet: ring until one is answered. */
static bool handshake(void)
{
	long end = now_ms() + PATIENCE_MS;
	uint32_t *heard = &board->side[me].here;
	struct portal_event ev[8];

	while (now_ms() < end) {
		ring(fd, peer, 0);
		if (wait_for(fd, POLLIN, 50) & POLLIN) {
			if (read(fd, ev, sizeof(ev)) > 0)
				__atomic_store_n(heard, 2, __ATOMIC_RELEASE);
		}
		if (__atomic_load_n(heard, __ATOMIC_RELAXED) == 2 &&
		    __atomic_load_n(&board->side[!me].here, __ATOMIC_ACQUIRE) == 2)
			return true;
	}
	return false;
}

static void drain(void)
{
	struct portal_event ev[64];
	int v;

	usleep(DRAIN_MS * 1000);
	while (read(fd, ev, sizeof(ev)) > 0)
		;
	for (v = 0; v < my_vectors; v++) {
		if (efds[v] > 0)
			count_of(efds[v]);
	}
}

/* Waits for events on vector v; their number, and 0 if anything else came. */
static uint64_t events_on(int v)
{
	struct portal_event ev[64];
	uint64_t n = 0;
	ssize_t len;
	int i;

	if (efds[v] > 0)
		return wait_for(efds[v], POLLIN, PATIENCE_MS) ? count_of(efds[v]) : 0;
	if (!(wait_for(fd, POLLIN, PATIENCE_MS) & POLLIN))
		return 0;
	len = read(fd, ev, sizeof(ev));
	for (i = 0; i < (int)(len / (ssize_t)sizeof(ev[0])); i++) {
		if (ev[i].vector != (uint32_t)v)
			return 0;
		n += ev[i].count;
	}
	return n;
}

/* Events that nobody rang for. */
static uint64_t strays(void)
{
	struct portal_event ev[64];
	uint64_t n = 0;
	ssize_t len;
	int v;

	usleep(SETTLE_MS * 1000);
	len = read(fd, ev, sizeof(ev));
	if (len > 0)
		n += len / sizeof(ev[0]);
	for (v = 0; v < my_vectors; v++) {
		if (efds[v] > 0)
			n += count_of(efds[v]);
	}
	return n;
}

/* Side 0 rings, side 1 answers; each ring must be one event. */
static void acknowledged(const char *how)
{
	int v, i, wrong = 0, vectors = my_vectors < peer_vectors ? my_vectors : peer_vectors;

	for (v = 0; v < vectors; v++) {
		for (i = 0; i < ACKED && wrong < 3; i++) {
			if (me == 0)
				ring(fd, peer, v);
			wrong += events_on(v) != 1;
			if (me == 1)
				ring(fd, peer, v);
		}
	}
	ok(!wrong, "%s: %d acknowledged rings on each of %d vectors are one event each", how,
	   ACKED, vectors);
	meet("after acknowledged rings");
	ok(!strays(), "%s: and nothing else came", how);
	meet("after looking for strays");
}

/* Side 0, then side 1, rings without waiting. */
static void burst(const char *how, int ringer)
{
	int v = (my_vectors < peer_vectors ? my_vectors : peer_vectors) - 1, i;
	uint64_t n = 0;
	long end = now_ms() + PATIENCE_MS;

	meet("before a burst");
	if (me == ringer) {
		for (i = 0; i < BURST; i++)
			ring(fd, peer, v);
		meet("after a burst");
		ok(!strays(), "%s: who rings a burst gets nothing", how);
	} else {
		uint32_t *other = &board->side[!me].step;

		while (__atomic_load_n(other, __ATOMIC_ACQUIRE) <= step && now_ms() < end) {
			if (efds[v] > 0)
				n += count_of(efds[v]);
			else if (wait_for(fd, POLLIN, 10) & POLLIN)
				n += events_on(v);
		}
		meet("after a burst");
		usleep(DRAIN_MS / 3 * 1000);
		if (efds[v] > 0)
			n += count_of(efds[v]);
		else if (wait_for(fd, POLLIN, 0) & POLLIN)
			n += events_on(v);
		ok(n >= 1 && n <= BURST, "%s: %d rings are 1 to %d events: %llu", how, BURST, BURST,
		   (unsigned long long)n);
		ok(!strays(), "%s: all on vector %d", how, v);
	}
	meet("after both looked");
}

static int one_side(const char *device, long offset)
{
	int v;

	introduce(device, offset);
	if (!ok(handshake(), "each hears the other"))
		return done();
	meet("after the handshake");
	drain();
	meet("after draining");

	acknowledged("read()");
	burst("read()", 0);
	burst("read()", 1);
	for (v = 0; v < my_vectors; v++) {
		efds[v] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (efds[v] < 0 || bind_eventfd(fd, v, efds[v]))
			die("PORTAL_EVENTFD");
	}
	meet("after binding");
	acknowledged("eventfd");
	burst("eventfd", 0);
	burst("eventfd", 1);
	return done();
}

/* Both sides here; the child's points are told, not counted. */
static int both_sides(char **paths)
{
	int fds[2], status = -1, ret;
	char line[256];
	pid_t child;
	FILE *f;

	if (pipe(fds))
		die("pipe");
	child = fork();
	if (!child) {
		dup2(fds[1], 1);
		close(fds[0]);
		me = 1;
		exit(one_side(paths[1], 0));
	}
	close(fds[1]);
	ret = one_side(paths[0], 0);
	f = fdopen(fds[0], "r");
	while (f && fgets(line, sizeof(line), f))
		printf("# other side: %s", line);
	waitpid(child, &status, 0);
	if (status)
		printf("# the other side failed: %#x\n", status);
	return ret || status;
}

int main(int argc, char **argv)
{
	start(240);
	if (argc == 4 && !strcmp(argv[1], "both"))
		return both_sides(argv + 2);
	if (argc < 3 || (strcmp(argv[1], "0") && strcmp(argv[1], "1"))) {
		fprintf(stderr, "usage: rings 0|1 DEVICE [OFFSET], or rings both A B\n");
		return 2;
	}
	me = argv[1][0] - '0';
	return one_side(argv[2], argc > 3 ? strtol(argv[3], NULL, 0) : 0);
}
