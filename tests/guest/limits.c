// SPDX-License-Identifier: MIT
/*
 * limits DEVICE OTHER: what a session costs where there is none, and where sequences end.
 *
 * OTHER shows the same memory, and is raw. It formats the region, and leaves DEVICE raw.
 * "limits --leave DEVICE": processes with sessions are killed, and it ends at once, so that
 * the driver can be unloaded right behind them; it leaves DEVICE managed.
 * TAP but for that; exit status 0 if all went well, 1 otherwise.
 */
#include "children.h"
#include "machine.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>

static uint64_t file_session(int file)
{
	struct portal_session_begin b;

	(void)file;
	return session(open_portal(device, O_RDWR), 0, PORTAL_SESSION_SILENT, &b) ? errno : b.token;
}

/* So many get one, and the next does not. Leaves them there. */
static unsigned int fill(struct child *c)
{
	unsigned int n;

	for (n = 0; n <= SUPER_SESSIONS; n++) {
		c[n] = start_child(file_session, fd);
		if (c[n].token == EUSERS) {
			end_child(&c[n], false);
			break;
		}
	}
	return n;
}

#define AREAS	4000u

/* So many mappings that no two are one. */
static void many_areas(void)
{
	unsigned int i;
	char *m = mmap(NULL, 2 * AREAS * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (m == MAP_FAILED)
		die("mmap");
	for (i = 1; i < 2 * AREAS; i += 2) {
		if (mprotect(m + i * page, page, PROT_READ))
			die("mprotect");
	}
}

/* What it is told, who asks in vain. */
static int why;

static double asks_in_vain(int file)
{
	double from = 1000 * now();
	int i;

	for (i = 0; i < 100; i++) {
		if (session(file, 0, PORTAL_SESSION_SILENT, NULL) != -1 || errno != why)
			die("to ask in vain");
	}
	return 1000 * now() - from;
}

/* The least of so many times: who measures is not alone. No more of them than are needed. */
static double best(double (*fn)(int file), int file, int times, double enough)
{
	double least = 1e9, took;
	int i;

	for (i = 0; i < times && least >= enough; i++) {
		took = fn(file);
		least = took < least ? took : least;
	}
	return least;
}

#define FIRST	5	/* what others are compared with: each of so many counts */
#define MORE	50	/* and so many may be spoilt, by a machine that others keep busy */

/* Where nothing comes of it the mm's locks are not taken: who may ask may ask often. */
static uint64_t asks_dearly(int file)
{
	double few = best(asks_in_vain, file, FIRST, 0), many;

	many_areas();
	many = best(asks_in_vain, file, MORE, 10 * few + 5);
	printf("# 100 times %s: %.1f ms, with %u areas %.1f ms\n", strerror(why), few, AREAS, many);
	return many < 10 * few + 5;
}

/* Every other session ends by its word, the rest when the file is closed. */
static double begins_and_ends(int file)
{
	double from = 1000 * now();
	int i;

	for (i = 0; i < 100; i++) {
		file = open_portal(device, O_RDWR);
		if (!token_of(file) || (i & 1 && session(file, PORTAL_SESSION_END, 0, NULL)))
			die("a session");
		close(file);
	}
	return 1000 * now() - from;
}

/* They are taken once, however often a process begins and ends. */
static uint64_t begins_dearly(int file)
{
	double few = best(begins_and_ends, file, FIRST, 0), many;

	many_areas();
	many = best(begins_and_ends, file, MORE, 10 * few + 5);
	printf("# 100 sessions: %.1f ms, with %u areas %.1f ms\n", few, AREAS, many);
	return many < 10 * few + 5;
}

static volatile int alarms;

static void on_alarm(int sig)
{
	(void)sig;
	alarms++;
}

/* A signal comes so many microseconds from now. 0: and it has a session after that; 1: before. */
static int begins_amid_signal(double us)
{
	struct sigaction act = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	int file = open_portal(device, O_RDWR), ret;
	struct itimerval once = { };

	once.it_value.tv_usec = us < 999999 ? us : 999999;
	sigaction(SIGALRM, &act, NULL);
	setitimer(ITIMER_REAL, &once, NULL);
	ret = session(file, 0, PORTAL_SESSION_SILENT, NULL) ? errno : !alarms;
	if (ret > 1)
		printf("# after %.0f us: %s\n", us, strerror(ret));
	return ret;
}

#define SIGNALS	20

/* Microseconds of a process' first session, which takes long with so many areas. */
static double first_session(int file)
{
	double *took = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), us;
	pid_t pid = fork();

	if (!pid) {
		file = open_portal(device, O_RDWR);
		*took = 1000000 * now();
		if (!token_of(file))
			_exit(1);
		*took = 1000000 * now() - *took;
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	us = *took;
	munmap(took, page);
	return us ? us : 1e9;
}

/* Each time by another process. @amid: how many signals came before it had one. */
static int begins_amid_signals(double took, int *amid)
{
	int i, status, wrong = 0;
	pid_t pid;

	*amid = 0;
	for (i = 1; i <= SIGNALS; i++) {
		pid = fork();
		if (!pid)
			_exit(begins_amid_signal(took * i / SIGNALS + 1));
		waitpid(pid, &status, 0);
		wrong += !WIFEXITED(status) || WEXITSTATUS(status) > 1;
		*amid += !status;
	}
	return wrong;
}

static uint64_t asks_amid_signals(int file)
{
	int i, wrong = 0, amid = 0;
	double took;

	many_areas();
	took = best(first_session, file, FIRST, 0);
	/* On a busy machine many may come too late, or too soon. */
	for (i = 0; i < 10 && !wrong && amid <= SIGNALS / 4; i++)
		wrong = begins_amid_signals(took, &amid);
	printf("# a session begins in %.1f ms; %d signals came meanwhile\n", took / 1000, amid);
	return !wrong && amid > SIGNALS / 4;
}

static void test_costs(void)
{
	struct child c[SUPER_SESSIONS + 1], one;
	unsigned int n = fill(c);
	char *m;

	why = EUSERS;
	one = start_child(asks_dearly, fd);
	ok(one.token, "who finds no row pays nothing for the size of his memory");
	end_child(&one, true);
	while (n)
		end_child(&c[--n], true);
	why = EBUSY;
	m = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, DATA);
	one = start_child(asks_dearly, fd);
	ok(one.token && m != MAP_FAILED, "nor who asks by a file that another process has mapped");
	end_child(&one, true);
	munmap(m, page);
	one = start_child(begins_dearly, -1);
	ok(one.token, "who begins and ends it again and again pays once");
	end_child(&one, true);
	one = start_child(asks_amid_signals, -1);
	ok(one.token, "signals that are to restart a call restart this one");
	end_child(&one, true);
}

#define WINDOWS	6000

/* Has a session that no file holds but mappings do, by very many windows. */
static uint64_t maps_often(int file)
{
	struct rlimit r = { 2 * WINDOWS, 2 * WINDOWS };
	int i, w;

	if (setrlimit(RLIMIT_NOFILE, &r))
		die("setrlimit");
	file = open_portal(device, O_RDWR);
	if (!token_of(file))
		return 0;
	for (i = 0; i < WINDOWS; i++) {
		w = plain_window(file, PORTAL_WINDOW_WRITE, 2 * PORTAL_UNIT, PORTAL_UNIT);
		if (w < 0 || mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, w, 0) == MAP_FAILED)
			return 0;
		close(w);
	}
	close(file);
	return 1;
}

/* Milliseconds of opening and closing it. */
static double opens(int file)
{
	double from = 1000 * now();
	int k;

	(void)file;
	for (k = 0; k < 50; k++)
		close(open_portal(device, O_RDWR));
	return (1000 * now() - from) / 50;
}

static void test_many_windows(void)
{
	double before = best(opens, -1, FIRST, 0), after;
	struct child c = start_child(maps_often, -1);

	ok(c.token, "a process maps %u windows, and closes all files", WINDOWS);
	after = best(opens, -1, MORE, 3 * before);
	ok(after < 3 * before, "which is no burden for who opens and closes it: %.3f ms, before %.3f",
	   after, before);
	end_child(&c, true);
}

#define SHARERS	25
#define SHARED	6000

static int shared[SHARED];

static uint64_t maps_shared(int file)
{
	int i;

	(void)file;
	for (i = 0; i < SHARED; i++) {
		if (mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, shared[i], 0) == MAP_FAILED)
			return 0;
	}
	return 1;
}

/* Microseconds of mapping it writable, and unmapping it. */
static double maps(int file)
{
	double from = 1e6 * now();
	int k;

	for (k = 0; k < 100; k++)
		munmap(mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, file, DATA), page);
	return (1e6 * now() - from) / 100;
}

/* Windows of one file, mapped by many processes each. */
static void test_many_mappers(void)
{
	struct rlimit r = { 2 * SHARED, 2 * SHARED };
	struct child c[SHARERS];
	double before, after;
	int i, wrong = 0;

	if (setrlimit(RLIMIT_NOFILE, &r))
		die("setrlimit");
	for (i = 0; i < SHARED; i++)
		wrong += (shared[i] = plain_window(fd, PORTAL_WINDOW_WRITE, DATA, PORTAL_UNIT)) < 0;
	before = best(maps, fd, 10 * FIRST, 0);
	for (i = 0; i < SHARERS; i++) {
		c[i] = start_child(maps_shared, -1);
		wrong += !c[i].token;
	}
	ok(!wrong, "%d processes map %d windows each", SHARERS, SHARED);
	after = best(maps, fd, 10 * MORE, 2 * before + 5);
	ok(after < 2 * before + 5, "which is no burden for who maps another file: %.2f us, before %.2f",
	   after, before);
	for (i = 0; i < SHARERS; i++)
		end_child(&c[i], true);
	for (i = 0; i < SHARED; i++)
		close(shared[i]);
}

/*
 * A process that has no session any more, and no file, so that nothing keeps the driver for
 * it: it ends with this one, or when the portal is gone.
 */
static void lives_on(bool longer)
{
	int up[2], file;
	char done = 0;

	if (pipe2(up, O_CLOEXEC))
		die("pipe2");
	if (!fork()) {
		if (!longer)
			prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(fd);
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
		file = open_portal(device, O_RDWR);
		done = token_of(file) != 0;
		close(file);
		if (write(up[1], &done, 1) != 1)
			_exit(1);
		while (!access(device, F_OK))
			usleep(1000);
		_exit(0);
	}
	if (read(up[0], &done, 1) != 1 || !done)
		die("a session of one that lives on");
}

/*
 * Sessions are over at once, what was kept of them is freed later, by the MMU notifiers;
 * and the driver is unloaded in between.
 */
static int leave(const char *path)
{
	struct child c[SUPER_SESSIONS];
	unsigned int i;

	device = path;
	start(400);
	fd = open_portal(device, O_RDWR);
	make_managed(fd);
	if (!token_of(fd))
		return errno != EOPNOTSUPP;
	session(fd, PORTAL_SESSION_END, 0, NULL);
	lives_on(false);
	lives_on(true);
	for (i = 0; i < SUPER_SESSIONS; i++) {
		c[i] = start_child(file_session, -1);
		/* This kernel may have none. */
		if (c[i].token <= 0xffff)
			return c[i].token != EOPNOTSUPP;
	}
	for (i = 0; i < SUPER_SESSIONS; i++)
		end_child(&c[i], true);
	return 0;
}

/* Sequences that have come to their end are of no use, in a machine's row as in a session's. */
static void test_worn(void)
{
	const uint64_t worn = PORTAL_SEQUENCE_MAX << PORTAL_SLOT_BITS | PORTAL_LIFE_DEAD;
	unsigned int i;
	uint64_t token;

	set_mode(fd, PORTAL_MODE_RAW);
	for (i = 1; i < SUPER_PEERS; i++)
		peer_row(tables, i)->life = worn;
	peer_row(tables, 4)->life = worn - (1 << PORTAL_SLOT_BITS);
	for (i = 0; i < SUPER_SESSIONS; i++)
		session_row(tables, 4 * SUPER_SESSIONS + i)->life = i == 9 ? worn - (1 << PORTAL_SLOT_BITS) : worn;
	ok(!set_mode(fd, PORTAL_MODE_MANAGED) && own_slot() == 4 &&
	   peer_row(tables, 4)->life >> PORTAL_SLOT_BITS == PORTAL_SEQUENCE_MAX,
	   "worn rows are left out; one that is good once more is taken (%u)", own_slot());
	token = token_of(fd);
	ok(token >> PORTAL_SLOT_BITS == PORTAL_SEQUENCE_MAX && (token & 0xffff) == 4 * SUPER_SESSIONS + 9,
	   "so is a session's (%#llx)", (unsigned long long)token);
	ok(!session(fd, PORTAL_SESSION_END, 0, NULL), "over");
	fails(session(fd, 0, PORTAL_SESSION_SILENT, NULL), EUSERS, "and then there is none");
	set_mode(fd, PORTAL_MODE_RAW);
	ok(!peer_row(tables, 4)->claim && !set_mode(fd, PORTAL_MODE_MANAGED) && !own_slot(),
	   "left, the machine's row is worn, too: it has none");
	for (i = 1; i < SUPER_PEERS; i++)
		ok(!peer_row(tables, i)->claim && peer_row(tables, i)->life == worn, "row %u is left alone", i);
	set_mode(fd, PORTAL_MODE_RAW);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--leave"))
		return leave(argv[2]);
	if (!begin(argc, argv, 400))
		return done();
	test_costs();
	test_many_windows();
	test_many_mappers();
	test_worn();
	return done();
}
