// SPDX-License-Identifier: MIT
/*
 * Starts workers and ends them, and looks at the clock: for calls that take too long, for
 * deaths that nobody proves, for a portal on which nothing goes on.
 */
#include <sys/mman.h>
#include <sys/wait.h>

#include "crash.h"

#define CHECK_EVERY	250	/* kills */
#define STALLED_MS	15000
#define TELL_EVERY_MS	5000

/**
 * struct worker - one of them, as its driver has it
 * @state: it runs; it is stopped; it was killed; its session is to end
 * @due: when to do what its plan says next, in microseconds
 * @went_on_ms: the last time that it was let go on
 * @died_ms: when it ended, or became another program
 * @gone: its process was reaped
 */
enum state { EMPTY, RUNS, STANDS, DYING, MOURNED };

struct worker {
	struct slot *slot;
	struct plan plan;
	pid_t pid;
	enum state state;
	int64_t due, went_on_ms, died_ms;
	bool gone;
};

struct driver {
	struct world *w;
	const struct drive *d;
	struct slot *slots;
	int fd;
	struct worker worker[SLOTS];
	uint32_t next, kills, stops, checked;
	uint32_t fates[FATES];
	int64_t longest[OPS], proof, slack;
	char whose[160];
	uint64_t seen[OPS];
	int64_t moved[OPS];
};

static int64_t us_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000;
}

/* ---- One worker -------------------------------------------------------------------- */

static void spawn(struct driver *v, uint32_t i)
{
	struct worker *k = &v->worker[i];
	char seed[24], life[16], slot[16], fd[16], stop[16];

	make_plan(&k->plan, v->w->ledger->seed, v->next++, i, v->d->stop_ms);
	memset(k->slot, 0, sizeof(*k->slot));
	k->slot->life = k->plan.life;
	snprintf(seed, sizeof(seed), "%llu", (unsigned long long)v->w->ledger->seed);
	snprintf(life, sizeof(life), "%u", k->plan.life);
	snprintf(slot, sizeof(slot), "%u", i);
	snprintf(fd, sizeof(fd), "%d", v->fd);
	snprintf(stop, sizeof(stop), "%d", v->d->stop_ms);
	k->pid = vfork();
	if (!k->pid) {
		execl("/proc/self/exe", "crash", "work", v->w->uri, seed, life, slot, fd, stop, (char *)NULL);
		_exit(127);
	}
	k->state = RUNS;
	k->gone = false;
	k->went_on_ms = 0;
	k->due = us_now() + k->plan.delay_us;
}

static void send_kill(struct driver *v, struct worker *k)
{
	kill(k->pid, SIGKILL);
	kill(k->pid, SIGCONT);
	k->state = DYING;
}

/* What its plan says, once it has come to where it begins. */
static void act(struct driver *v, struct worker *k)
{
	enum fate f = k->plan.fate;

	if (k->state == STANDS) {
		v->stops++;
		k->went_on_ms = ms_now();
		kill(k->pid, SIGCONT);
		k->state = RUNS;
		k->plan.fate = FATE_KILL;
		k->due = us_now() + 20000 + k->plan.delay_us;
		return;
	}
	if (f == FATE_KILL || f == FATE_FORK) {
		/* A child that outlives it is made after the session is. */
		if (f == FATE_FORK && !atomic_load(&k->slot->token))
			return;
		send_kill(v, k);
	} else if (f == FATE_STOP) {
		kill(k->pid, SIGSTOP);
		k->state = STANDS;
		k->due = us_now() + k->plan.stop_ms * INT64_C(1000);
	}
}

/* Its session is over within the time. */
static void mourn(struct driver *v, struct worker *k)
{
	uint64_t token = atomic_load(&k->slot->token);
	int64_t waited = ms_now() - k->died_ms;
	char plan[160];

	if (token && vmp_token_state(v->w->p, token) != VMP_STATE_DEAD) {
		if (waited < DEATH_MS + v->slack)
			return;
		say_plan(&k->plan, plan, sizeof(plan));
		finding(v->w, "%s: session %#llx is not known to be dead after %lld ms", plan,
			(unsigned long long)token, (long long)waited);
	}
	if (token && waited > v->proof) {
		v->proof = waited;
		say_plan(&k->plan, v->whose, sizeof(v->whose));
	}
	k->state = k->gone ? EMPTY : DYING;
	if (!k->gone)
		k->plan.fate = FATE_EXIT;
}

static void ended(struct driver *v, struct worker *k, int status)
{
	char plan[160];

	say_plan(&k->plan, plan, sizeof(plan));
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
		v->kills++;
		v->fates[k->plan.fate]++;
	} else if (WIFSIGNALED(status)) {
		finding(v->w, "%s: signal %d", plan, WTERMSIG(status));
	} else if (WEXITSTATUS(status)) {
		finding(v->w, "%s: exit status %d", plan, WEXITSTATUS(status));
	}
	k->gone = true;
	if (k->state == MOURNED)
		return;
	k->died_ms = ms_now();
	k->state = MOURNED;
}

static void reap(struct driver *v)
{
	int status;
	uint32_t i;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
		for (i = 0; i < v->d->workers && (v->worker[i].pid != pid || v->worker[i].gone); i++)
			;
		if (i == v->d->workers)
			continue;
		if (!WIFSTOPPED(status)) {
			ended(v, &v->worker[i], status);
		} else if (v->worker[i].state == RUNS) {
			v->worker[i].state = STANDS;
			v->worker[i].due = us_now() + v->worker[i].plan.stop_ms * INT64_C(1000);
		}
	}
}

/* ---- The clock --------------------------------------------------------------------- */

static void watch(struct driver *v, struct worker *k)
{
	int64_t since = (int64_t)atomic_load(&k->slot->since), now = ms_now(), took;
	uint32_t op = atomic_load(&k->slot->op), limit = atomic_load(&k->slot->limit);
	char plan[160];

	if (!since || k->state != RUNS || op >= OPS)
		return;
	if (since < k->went_on_ms)
		since = k->went_on_ms;
	took = now - since;
	if (took > v->longest[op])
		v->longest[op] = took;
	/* Others may have been stopped, and hold what it waits for: that is its limit's affair. */
	if (took <= limit + v->slack || since != (int64_t)atomic_load(&k->slot->since))
		return;
	say_plan(&k->plan, plan, sizeof(plan));
	finding(v->w, "%s: has been at '%s' for %lld ms; %u are promised", plan, op_name[op], (long long)took, limit);
	send_kill(v, k);
}

static void progress(struct driver *v)
{
	int64_t now = ms_now();
	uint32_t op;

	for (op = 0; op < OPS; op++) {
		uint64_t n = atomic_load(&v->w->ledger->ops[op]);

		if (n != v->seen[op] || !v->moved[op])
			v->moved[op] = now;
		v->seen[op] = n;
		if (now - v->moved[op] > STALLED_MS + v->slack) {
			finding(v->w, "nobody has come through '%s' for %lld ms", op_name[op],
				(long long)(now - v->moved[op]));
			v->moved[op] = now;
		}
	}
}

static void tell(struct driver *v, int64_t began)
{
	const struct ledger *g = v->w->ledger;

	printf("# %u of %u kills, %lld s; %u stops; %llu messages read, %u flagged, %u again; %llu locks, %llu objects\n", v->kills,
	       v->d->kills, (long long)(ms_now() - began) / 1000, v->stops, (unsigned long long)g->ops[OP_HUB],
	       g->flagged, g->redelivered, (unsigned long long)g->ops[OP_LOCK], (unsigned long long)g->ops[OP_OBJECT]);
	fflush(stdout);
}

/* ---- All of them --------------------------------------------------------------------- */

static void turn(struct driver *v, bool more)
{
	uint32_t i;

	reap(v);
	for (i = 0; i < v->d->workers; i++) {
		struct worker *k = &v->worker[i];

		if (k->state == EMPTY && more)
			spawn(v, i);
		if (k->state == RUNS && atomic_load(&k->slot->execed) && !k->gone) {
			k->died_ms = ms_now();
			k->state = MOURNED;
		}
		if (k->state == MOURNED)
			mourn(v, k);
		if ((k->state == RUNS || k->state == STANDS) && us_now() >= k->due)
			act(v, k);
		watch(v, k);
	}
	if (v->kills - v->checked >= CHECK_EVERY) {
		v->checked = v->kills;
		judge_tables(v->w);
	}
	progress(v);
}

static bool anybody(struct driver *v, bool kill_them)
{
	bool some = false;
	uint32_t i;

	for (i = 0; i < v->d->workers; i++) {
		struct worker *k = &v->worker[i];

		some |= k->state != EMPTY;
		if (kill_them && (k->state == RUNS || k->state == STANDS))
			send_kill(v, k);
	}
	return some;
}

static void sum_up(struct driver *v)
{
	uint32_t i;

	printf("# %u kills:", v->kills);
	for (i = 0; i < FATES; i++)
		if (v->fates[i])
			printf(" %u %s;", v->fates[i], fate_name[i]);
	printf(" %u stops\n# the longest, in ms: a death's proof %lld, of %s", v->stops, (long long)v->proof,
	       v->whose);
	for (i = 0; i < OPS; i++)
		printf(", %s %lld", op_name[i], (long long)v->longest[i]);
	printf("\n");
	fflush(stdout);
}

static volatile sig_atomic_t enough;

static void stop_soon(int sig)
{
	enough = sig;
}

int drive(struct world *w, const struct drive *d)
{
	static struct driver v;
	const char *scale = getenv("VMPORTAL_TIMEOUT_SCALE");
	int64_t began = ms_now(), told = began;
	uint32_t i;

	v = (struct driver){ .w = w, .d = d, .next = d->base };
	v.slack = 3000 * (scale && atoi(scale) > 0 ? atoi(scale) : 1);
	v.fd = memfd_create("slots", 0);
	if (v.fd < 0 || ftruncate(v.fd, SLOTS * sizeof(*v.slots)))
		return -errno;
	v.slots = mmap(NULL, SLOTS * sizeof(*v.slots), PROT_READ | PROT_WRITE, MAP_SHARED, v.fd, 0);
	if (v.slots == MAP_FAILED)
		return -errno;
	for (i = 0; i < d->workers; i++)
		v.worker[i].slot = &v.slots[i];
	signal(SIGTERM, stop_soon);
	signal(SIGINT, stop_soon);
	while (!enough && v.kills < d->kills && ms_now() - began < d->seconds * INT64_C(1000) &&
	       !atomic_load(&w->ledger->stop) && !atomic_load(&w->ledger->nfindings)) {
		turn(&v, true);
		if (ms_now() - told >= TELL_EVERY_MS) {
			told = ms_now();
			tell(&v, began);
		}
		usleep(500);
	}
	told = ms_now();
	while (anybody(&v, ms_now() - told > 1000)) {
		turn(&v, false);
		usleep(500);
	}
	tell(&v, began);
	sum_up(&v);
	close(v.fd);
	return 0;
}
