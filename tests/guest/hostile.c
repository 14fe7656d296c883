// SPDX-License-Identifier: MIT
/*
 * hostile DEVICE OTHER: this machine's row in a managed portal, when others write there what
 * they like, or what a copy of it would.
 *
 * OTHER shows the same memory, and is raw: through it this program is another machine. It
 * formats the region, and leaves DEVICE raw. heartbeat_ms (of portal.ko) is best 100. (An
 * honest one: peers.c.) TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "machine.h"

#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>

/*
 * Asks again and again, while this machine is declared dead again and again. No token may
 * be given twice: its row's sequences only rise.
 */
static int asks_again(void)
{
	uint64_t last[SUPER_PEERS * SUPER_SESSIONS] = { 0 };
	unsigned int n = 0;
	double end;

	for (end = now() + 25 * beat_ms / 1000.0; now() < end;) {
		int file = open_portal(device, O_RDWR);
		uint64_t token = token_of(file);

		if (token && token <= last[token & 0x7f]) {
			printf("# %#llx after %#llx\n", (unsigned long long)token,
			       (unsigned long long)last[token & 0x7f]);
			return 1;
		}
		if (token) {
			last[token & 0x7f] = token;
			n++;
		}
		close(file);
	}
	printf("# %u sessions meanwhile\n", n);
	return n < 3;
}

static void test_declared_often(void)
{
	volatile struct portal_peer *row = own();
	unsigned int claims = 0, slot = own_slot();
	uint64_t last = row->claim;
	int status;
	double end;
	pid_t pid = fork();

	if (!pid)
		_exit(asks_again());
	for (end = now() + 20 * beat_ms / 1000.0; now() < end;) {
		uint64_t claim = row->claim;

		claims += claim != last;
		last = claim;
		row->dead = claim;
		if (info.vectors)
			ring(other, info.peer_id, info.vectors - 1);
		usleep(500);
	}
	ok(claims > 3 && claims <= 24, "declared dead all the time, and rung: it joins anew at its beats only (%u in 20)", claims);
	waitpid(pid, &status, 0);
	ok(!status, "no token is given twice");
	ok(UNTIL(own_slot() == slot && state_of(row->life) == PORTAL_LIFE_ALIVE, 5000), "then it lives");
	settle();
	close(fd);
	fd = open_portal(device, O_RDWR);
}

/*
 * A claim that is seen once, and goes by itself; and one more, later, which is stored right behind
 * a beat: for how many beats it stands there. Negative: who stores it came too late for that, as a
 * busy machine lets him.
 */
static double later(volatile struct portal_peer *row, uint64_t strange, uint64_t claim)
{
	double looked, next, stored;
	uint64_t last;

	do {
		row->claim = strange;
		usleep(1300 * beat_ms);
	} while (!__sync_bool_compare_and_swap(&row->claim, strange, claim));
	/* Two beats without one; the second comes after the last look that does not see it. */
	last = row->heartbeat;
	if (!UNTIL(row->heartbeat != last, 20 * beat_ms))
		return 0;
	next = now();
	last = row->heartbeat;
	do {
		looked = next;
		usleep(1000);
		next = now();
	} while (row->heartbeat == last);
	row->claim = strange;
	stored = now();
	if (!UNTIL(row->claim == claim, 20 * beat_ms))
		return 0;
	return (stored - looked) * 1000 < 0.3 * beat_ms ? (now() - stored) * 1000 / beat_ms : -1;
}

static void test_repair(void)
{
	volatile struct portal_peer *row = own();
	const uint64_t claim = row->claim, life = row->life, beats = row->heartbeat;
	const uint64_t strange = (info.max_peers ? info.max_peers : 100ULL) << 32 | 5;
	uint64_t token = token_of(fd);
	volatile struct portal_session *s = session_row(tables, token & 0xffff);
	const uint32_t pid = s->pid;
	const uint64_t its = s->life;
	double last;
	int i;

	settle();
	row->notice = 12345;
	row->name[0] = 1;
	row->heartbeat = 0;
	s->pid = 1;
	ok(UNTIL(row->notice != 12345 && row->name[0] != 1 && s->pid == pid &&
		 row->heartbeat > beats, 10 * beat_ms), "scribbled over: put right");
	ok(wait_for(fd, POLLPRI, PATIENT_MS) & POLLPRI, "POLLPRI");
	settle();
	s->life = its + 1;
	row->life = life + 1;
	ok(UNTIL(s->life == its && row->life == life, 10 * beat_ms), "lives: put right");
	row->claim = 0;
	ok(UNTIL(row->claim == claim, 10 * beat_ms), "the claim, emptied: put right");
	row->claim = 0xfffffff000000001;
	ok(UNTIL(row->claim == claim, 10 * beat_ms), "the claim, of no address that there is: put right");
	last = now();
	row->claim = strange;
	ok(UNTIL(row->claim == claim, 20 * beat_ms), "the claim, of another machine, for no reason: put right");
	last = (now() - last) * 1000 / beat_ms;
	ok(last > 0.95, "not before it stood there for a beat (%.2f)", last);
	for (i = 0, last = -1; i < 50 && last < 0; i++)
		last = later(row, strange, claim);
	/* The next beat saw it, the one after that put it right. */
	ok(last > 1.5, "one that goes by itself; one more, later, is not put right before it stood there for a beat, either (%.2f)", last);
	ok(token_state(tables, token) == PORTAL_LIFE_ALIVE && token_of(fd) == token,
	   "the session is the same");
	memset(tables, 0xff, SUPER_PROTECTED);
	usleep(3000 * beat_ms);
	memset(tables, 0, SUPER_PROTECTED);
	usleep(3000 * beat_ms);
	ok(UNTIL(own_slot() && state_of(own()->life) == PORTAL_LIFE_ALIVE, 5000), "all ones, then all zeroes: it is there again");
	session(fd, PORTAL_SESSION_END, 0, NULL);
	close(fd);
	fd = open_portal(device, O_RDWR);
	settle();
}

/*
 * What this machine counts has been counted on: by a copy of it, or by itself, before it was
 * put back to an older state. All that these said stands: what is over is over, and no
 * token is given again.
 */
static const struct {
	const char *what;
	uint64_t beats, lives, sequences;
	bool left, over;
} copies[] = {
	{ "a heart that beat on", .beats = 1000 },
	{ "a later life", .lives = 1 },
	{ "a later session", .sequences = 1 },
	{ "a session that is over", .over = true },
	{ "a machine that has left", .left = true },
	{ "one that went on for long, and has left", 1000, 0, 5, true, true },
	{ "one that was another life, and has left", 1000, 3, 5, true, true },
};

static void test_copied(void)
{
	unsigned int i;

	for (i = 0; i < sizeof(copies) / sizeof(copies[0]); i++) {
		int file = open_portal(device, O_RDWR), again;
		uint64_t token = token_of(file), claim = own()->claim, next, life;
		volatile struct portal_session *s = session_row(tables, token & 0xffff);
		volatile struct portal_peer *row = own();

		settle();
		life = s->life + (copies[i].sequences << PORTAL_SLOT_BITS);
		if (copies[i].over)
			life += PORTAL_LIFE_DEAD - PORTAL_LIFE_ALIVE;
		s->life = life;
		row->heartbeat += copies[i].beats;
		row->life += (copies[i].lives << PORTAL_SLOT_BITS) +
			     (copies[i].left ? PORTAL_LIFE_DEAD - PORTAL_LIFE_ALIVE : 0);
		if (copies[i].left)
			row->claim = 0;
		ok(UNTIL(own_slot() && own()->claim && own()->claim != claim &&
			 state_of(own()->life) == PORTAL_LIFE_ALIVE, 100 * beat_ms),
		   "%s under its claim: it joins anew", copies[i].what);
		fails(session(file, 0, PORTAL_SESSION_SILENT, NULL), ESTALE, "its sessions are over");
		ok(s->life >> PORTAL_SLOT_BITS >= life >> PORTAL_SLOT_BITS &&
		   !(copies[i].over && alive(token)), "what stood there is not taken back");
		again = open_portal(device, O_RDWR);
		next = token_of(again);
		ok(next && ((next & 0xffff) != (token & 0xffff) ||
			    next >> PORTAL_SLOT_BITS > life >> PORTAL_SLOT_BITS),
		   "new ones have tokens that nobody gave");
		close(file);
		close(again);
	}
	close(fd);
	fd = open_portal(device, O_RDWR);
	settle();
}

/* The row of a living process, or NULL. */
static volatile struct portal_session *find_session(pid_t pid)
{
	unsigned int i;

	for (i = 0; i < SUPER_PEERS * SUPER_SESSIONS; i++) {
		volatile struct portal_session *s = session_row(tables, i);

		if (s->pid == (uint32_t)pid && state_of(s->life) == PORTAL_LIFE_ALIVE)
			return s;
	}
	return NULL;
}

/*
 * The same, in rows that are free, and a process asks before the next beat: whatever it is
 * given, its copy has not given it.
 */
static void test_copied_tokens(void)
{
	uint64_t given[SUPER_SESSIONS], first = token_of(fd) & 0xffff, token;
	volatile struct portal_session *s;
	unsigned int i, twice = 0;
	int status = 0;
	uint64_t life;
	pid_t pid;

	settle();
	first -= first % SUPER_SESSIONS;
	for (i = 0; i < SUPER_SESSIONS; i++) {
		s = session_row(tables, first + i);
		if (state_of(s->life) == PORTAL_LIFE_ALIVE) {
			given[i] = 0;
			continue;
		}
		given[i] = ((s->life >> PORTAL_SLOT_BITS) + 1) << PORTAL_SLOT_BITS | (first + i);
		s->life = given[i] >> PORTAL_SLOT_BITS << PORTAL_SLOT_BITS | PORTAL_LIFE_ALIVE;
	}
	pid = fork();
	if (!pid) {
		token = token_of(open_portal(device, O_RDWR));
		for (i = 0; i < SUPER_SESSIONS; i++)
			twice += token == given[i];
		_exit(!token || twice);
	}
	waitpid(pid, &status, 0);
	ok(!status, "who asks before that is found out gets no token that the copy gave");
	settle();
	pid = fork();
	if (!pid)
		_exit(!token_of(open_portal(device, O_RDWR)) || pause());
	ok(UNTIL(find_session(pid), 5000), "a process with a session");
	s = find_session(pid);
	life = s->life += 5 << PORTAL_SLOT_BITS;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	ok(s->life == life, "whose row says a later one is killed: that word stands (%#llx)",
	   (unsigned long long)s->life);
	settle();
	close(fd);
	fd = open_portal(device, O_RDWR);
	settle();
}

/* Writes what it likes, where it likes, within the protected part; some of it cleverly. */
static void scribble(unsigned int seed)
{
	uint64_t *words = tables;

	for (;;) {
		unsigned int i, slot = rand_r(&seed) % SUPER_PEERS;
		volatile struct portal_peer *row = peer_row(tables, slot);

		for (i = 0; i < 64; i++)
			words[rand_r(&seed) % (SUPER_PROTECTED / 8)] =
				(uint64_t)rand_r(&seed) << 33 ^ rand_r(&seed);
		switch (rand_r(&seed) % 8) {
		case 0:
			row->dead = row->claim;
			break;
		case 1:
			row->claim = (uint64_t)(rand_r(&seed) % 4) << 32 | rand_r(&seed) % 4;
			break;
		case 2:
			row->notice = rand_r(&seed) % 4;
			row->life = (uint64_t)rand_r(&seed) << 16 | PORTAL_LIFE_ALIVE;
			break;
		case 3:
			row->heartbeat_ms = rand_r(&seed) % 200;
			break;
		case 4:
			ring(other, rand_r(&seed) % 2, rand_r(&seed) % 4);
			break;
		case 5:
			session_row(tables, rand_r(&seed) % 128)->life = rand_r(&seed);
			break;
		}
		if (!(rand_r(&seed) % 64))
			sched_yield();
	}
}

/* Sessions come and go all the while, as well as they can. */
static void come_and_go(void)
{
	for (;;) {
		pid_t pid = fork();

		if (!pid) {
			int file = open_portal(device, O_RDWR);
			char *m = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, file, DATA);

			session(file, 0, PORTAL_SESSION_SILENT, NULL);
			if (m != MAP_FAILED)
				touch(m, 1, NULL);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
	}
}

struct watcher {
	int w;
	volatile bool stop;
	unsigned int wakes;
};

/* A window's holder, who looks whenever he is woken. */
static void *watches(void *arg)
{
	struct watcher *me = arg;

	while (!me->stop) {
		if (!(wait_for(me->w, POLLPRI, 100) & POLLPRI))
			continue;
		me->wakes++;
		take_changes(me->w, NULL);
	}
	return NULL;
}

#define ROUNDS	11

static int by_size(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/*
 * Windows are told seldom; but that one of them waits to be told does not put off what others
 * wait for. Each round: they are told of a change; of the next, soon after, they are to be told
 * later; and then comes one more.
 */
static void test_no_delay(void)
{
	struct watcher watcher = { .w = plain_window(fd, 0, 0, PORTAL_UNIT) };
	volatile struct portal_peer *row = peer_row(tables, PLAYED);
	double took[3][ROUNDS];
	pthread_t thread;
	int i, k;

	if (!info.vectors) {
		skip("a change is told at once", "no doorbells");
		return;
	}
	play(4711, PORTAL_VECTOR_NONE, 0);
	settle();
	pthread_create(&thread, NULL, watches, &watcher);
	for (i = 0; i < ROUNDS; i++) {
		usleep(250000);
		take_changes(fd, NULL);
		for (k = 0; k < 3; k++) {
			row->changes++;
			took[k][i] = now();
			ring(other, info.peer_id, info.vectors - 1);
			wait_for(fd, POLLPRI, 1000);
			took[k][i] = (now() - took[k][i]) * 1000;
			take_changes(fd, NULL);
			usleep(25000);
		}
	}
	watcher.stop = true;
	pthread_join(thread, NULL);
	close(watcher.w);
	/*
	 * The median: a heartbeat that comes just then tells it, too. A busy machine needs longer for
	 * the first, of which nobody waits to be told later.
	 */
	for (k = 0; k < 3; k++)
		qsort(took[k], ROUNDS, sizeof(took[k][0]), by_size);
	ok(took[2][ROUNDS / 2] < 15 + 2 * took[0][ROUNDS / 2],
	   "a change is told at once, though a window is to be told later (%.1f ms; the first %.1f)",
	   took[2][ROUNDS / 2], took[0][ROUNDS / 2]);
	memset((void *)row, 0, sizeof(*row));
	settle();
}

static void test_scribble(void)
{
	struct watcher watcher = { .w = plain_window(fd, 0, 0, PORTAL_UNIT) };
	const double most = 6;
	uint64_t wakes = 0;
	pthread_t thread;
	pid_t pids[3];
	double seconds;
	int i;

	for (i = 0; i < 3; i++) {
		pids[i] = fork();
		if (!pids[i]) {
			if (i)
				come_and_go();
			scribble(4711);
		}
	}
	pthread_create(&thread, NULL, watches, &watcher);
	for (seconds = now(); now() < seconds + most;) {
		if (wait_for(fd, POLLPRI, 100) & POLLPRI)
			wakes++;
		take_changes(fd, NULL);
	}
	watcher.stop = true;
	pthread_join(thread, NULL);
	seconds = now() - seconds;
	close(watcher.w);
	for (i = 0; i < 3; i++) {
		kill(pids[i], SIGKILL);
		waitpid(pids[i], NULL, 0);
	}
	ok(wakes && wakes <= seconds * 75, "scribbling for %.1f s: %llu wake-ups, no more than 75 a second",
	   seconds, (unsigned long long)wakes);
	/* Twice: a change between its look and its next poll() is one without a wake-up. */
	ok(watcher.wakes && watcher.wakes <= seconds * 2 * 11,
	   "of a window %u, no more than 10 a second, and what came as it looked", watcher.wakes);
	memset(tables, 0, SUPER_PROTECTED);
	ok(UNTIL(own_slot() && state_of(own()->life) == PORTAL_LIFE_ALIVE, 5000), "then it has a row as ever");
	settle();
	i = open_portal(device, O_RDWR);
	ok(token_of(i) && token_state(tables, token_of(i)) == PORTAL_LIFE_ALIVE, "and gives sessions");
	close(i);
}

int main(int argc, char **argv)
{
	if (!begin(argc, argv, 400))
		return done();
	test_declared_often();
	test_repair();
	test_copied();
	test_copied_tokens();
	test_no_delay();
	test_scribble();
	return done();
}
