// SPDX-License-Identifier: MIT
/*
 * Starts workers and ends them, and looks at the clock: for calls that take too long, for
 * deaths that nobody proves, for a portal on which nothing goes on.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "crash.h"

#define CHECK_EVERY	250	/* kills */
#define STALLED_MS	(3 * DIRECTORY_MS / 2)
#define TELL_EVERY_MS	5000

/**
 * struct worker - one of them, as its driver has it
 * @state: it runs; it is stopped; it was killed; its session is to end
 * @due: when to do what its plan says next, in microseconds
 * @went_on_ms: the last time that it was let go on
 * @at: since when it has been at the operation that is looked at closely; when that began,
 *	and how busy it had been then, and how late the machine
 * @died_ms: when it ended, or became another program; @died_late: how late the machine was
 * @gone: its process was reaped
 */
enum state { EMPTY, RUNS, STANDS, DYING, MOURNED };

struct worker {
	struct slot *slot;
	struct plan plan;
	pid_t pid;
	enum state state;
	int64_t due, went_on_ms;
	struct { int64_t since, look, busy, late; } at;
	int64_t died_ms, died_late;
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
	int64_t longest[OPS], proof;
	char whose[160];
	uint64_t seen[OPS];
	int64_t moved[OPS];
	struct vmp_named *windowed;
};

/* ---- One worker -------------------------------------------------------------------- */

/*
 * The worker's part of the life that is planned; @window: its descriptor, or -1.
 *
 * Until it has a group of its own, what is to end the driver reaches it as well: a
 * terminal's Ctrl-C, or a signal to the job. It is the driver that ends it.
 */
static void become(struct driver *v, uint32_t slot, int window)
{
	char text[4][24];
	sigset_t drivers;

	sigemptyset(&drivers);
	sigaddset(&drivers, SIGTERM);
	sigaddset(&drivers, SIGINT);
	sigprocmask(SIG_BLOCK, &drivers, NULL);
	snprintf(text[0], sizeof(text[0]), "%llu", (unsigned long long)v->w->ledger->seed);
	snprintf(text[1], sizeof(text[1]), "%u", slot);
	snprintf(text[2], sizeof(text[2]), "%d", v->fd);
	snprintf(text[3], sizeof(text[3]), "%d", window);
	if (window >= 0)
		fcntl(window, F_SETFD, 0);
	execl("/proc/self/exe", "crash", "work", v->w->uri, text[0], text[1], text[2], v->w->windowed, text[3], (char *)NULL);
	_exit(127);
}

static pid_t start(struct driver *v, uint32_t slot, int window)
{
	pid_t pid = vfork();

	if (!pid)
		become(v, slot, window);
	return pid;
}

static void spawn(struct driver *v, uint32_t i)
{
	struct worker *k = &v->worker[i];
	int window = -1;

	make_plan(&k->plan, v->w->ledger->seed, v->next++, i, v->d->stop_ms, *v->w->windowed);
	if (!v->w->mutant)
		deal_a_step(&k->plan, &v->w->rng, i, v->w->ledger, *v->w->windowed);
	k->plan.delay_us *= v->d->slowly;
	if (k->plan.role == ROLE_WINDOW) {
		window = a_window(v->w, v->windowed);
		if (window < 0)
			finding(v->w, "a window: %d %s", window, vmp_errmsg());
	}
	memset(k->slot, 0, sizeof(*k->slot));
	k->slot->plan = k->plan;
	k->pid = start(v, i, window);
	if (window >= 0)
		close(window);
	k->state = RUNS;
	k->gone = false;
	k->went_on_ms = k->at.since = 0;
	k->due = us_now() + k->plan.delay_us;
}

static void send_kill(struct driver *v, struct worker *k)
{
	kill(k->pid, SIGKILL);
	kill(k->pid, SIGCONT);
	k->state = DYING;
}

/*
 * It has met this fate. If that is at a step, and it did not come there (it ends itself then,
 * elsewhere), it is @else_ that it met.
 */
static void note_fate(struct driver *v, struct worker *k, enum fate f, enum fate else_)
{
	uint32_t step = atomic_exchange(&k->slot->step, 0);

	if ((f == FATE_STEP || f == FATE_STOP_STEP) && (!step || step > OWN_STEPS))
		f = else_;
	else if (f == FATE_STEP || f == FATE_STOP_STEP)
		atomic_fetch_add(&v->w->ledger->steps[f == FATE_STOP_STEP][step - 1], 1);
	v->fates[f]++;
	atomic_fetch_add(&v->w->ledger->fates[in_guest(v->w)][f], 1);
}

/* What its plan says, once it has come to where it begins. */
static void act(struct driver *v, struct worker *k)
{
	enum fate f = k->plan.fate;

	if (k->state == STANDS) {
		v->stops++;
		note_fate(v, k, f, FATE_STOP);
		k->went_on_ms = ms_now();
		kill(k->pid, SIGCONT);
		k->state = RUNS;
		k->plan.fate = FATE_KILL;
		k->due = us_now() + 20000 + k->plan.delay_us;
		return;
	}
	if (f == FATE_KILL || f == FATE_FORK) {
		if (f == FATE_FORK && !atomic_load(&k->slot->forked))
			return;
		send_kill(v, k);
	} else if (f == FATE_STOP) {
		kill(k->pid, SIGSTOP);
		k->state = STANDS;
		k->due = us_now() + k->plan.stop_ms * INT64_C(1000);
	}
}

/* It has ended, or is another program. */
static void begin_mourning(struct worker *k)
{
	k->died_ms = ms_now();
	k->died_late = stalled_ms();
	k->state = MOURNED;
}

/* Its session is over within the time. */
static void mourn(struct driver *v, struct worker *k)
{
	uint64_t token = atomic_load(&k->slot->token);
	int64_t late = stalled_ms() - k->died_late, waited = ms_now() - k->died_ms;
	char plan[160];

	if (token && vmp_token_state(v->w->p, token) != VMP_STATE_DEAD) {
		if (waited <= DEATH_MS + late)
			return;
		say_plan(&k->plan, plan, sizeof(plan));
		finding(v->w, "%s: session %#llx is not known to be dead after %lld ms, %lld of which the machine stood still",
			plan, (unsigned long long)token, (long long)waited, (long long)late);
	}
	if (token && waited > v->proof) {
		v->proof = waited;
		say_plan(&k->plan, v->whose, sizeof(v->whose));
	}
	k->state = k->gone ? EMPTY : DYING;
	if (!k->gone)
		k->plan.fate = FATE_EXIT;
}

/* What a sender through a window meets there may be a mistaken one's. */
static bool window_in_doubt(struct driver *v)
{
	struct vmp_object o;

	return !vmp_named_info(v->windowed, &o, sizeof(o)) && object_in_doubt(v->w, &o);
}

static void ended(struct driver *v, struct worker *k, int status)
{
	char plan[160];

	say_plan(&k->plan, plan, sizeof(plan));
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
		v->kills++;
		note_fate(v, k, k->plan.fate == FATE_STEP || k->plan.fate == FATE_FORK ? k->plan.fate : FATE_KILL,
			  FATE_KILL);
	} else if (WIFSIGNALED(status)) {
		finding(v->w, "%s: signal %d", plan, WTERMSIG(status));
	} else if (WEXITSTATUS(status) && !(k->plan.role == ROLE_WINDOW && window_in_doubt(v))) {
		finding(v->w, "%s: exit status %d %s", plan, WEXITSTATUS(status), k->slot->said);
	}
	k->gone = true;
	if (k->state != MOURNED)
		begin_mourning(k);
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

/*
 * For how long it has waited in its operation. Time in which it ran, or was kept from running,
 * is none; that is counted from the first look on that finds it there for LOOK_MS, and if that
 * comes later it is we who were kept.
 */
static int64_t waited_ms(struct worker *k, int64_t since)
{
	int64_t now = ms_now(), waited, busy = 0;

	if (now - since < LOOK_MS)
		return 0;
	if (k->at.since != since) {
		k->at.since = since;
		k->at.look = now;
		k->at.busy = busy_ms(k->pid);
		k->at.late = stalled_ms();
	}
	if (k->at.busy >= 0)
		busy = busy_ms(k->pid) - k->at.busy;
	waited = LOOK_MS + now - k->at.look - (stalled_ms() - k->at.late);
	return waited - (busy > 0 ? busy : 0);
}

static void watch(struct driver *v, struct worker *k)
{
	int64_t since = (int64_t)atomic_load(&k->slot->since), waited;
	uint32_t op = atomic_load(&k->slot->op), limit = atomic_load(&k->slot->limit);
	char plan[160];

	if (!since || k->state != RUNS || op >= OPS)
		return;
	if (since < k->went_on_ms)
		since = k->went_on_ms;
	waited = waited_ms(k, since);
	if (waited > v->longest[op])
		v->longest[op] = waited;
	/* Others may have been stopped, and hold what it waits for: that is its limit's affair. */
	if (waited <= limit + LOOK_MS || atomic_load(&k->slot->since) > (uint64_t)since)
		return;
	say_plan(&k->plan, plan, sizeof(plan));
	finding(v->w, "%s: has waited in '%s' for %lld ms, of %lld; %u are promised", plan, op_name[op], (long long)waited,
		(long long)(ms_now() - since), limit);
	send_kill(v, k);
}

/* Somebody comes through each operation, while the machine runs. */
static void progress(struct driver *v)
{
	int64_t now = ms_now() - stalled_ms();
	uint32_t op;

	for (op = 0; op < OPS; op++) {
		uint64_t n = atomic_load(&v->w->ledger->ops[op]);

		if (n != v->seen[op] || !v->moved[op] || (op == OP_WINDOW && !*v->w->windowed))
			v->moved[op] = now;
		v->seen[op] = n;
		if (now - v->moved[op] > STALLED_MS) {
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
			note_fate(v, k, FATE_EXEC, FATE_EXEC);
			begin_mourning(k);
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
	printf(" %u stops in all\n# the longest, in ms: a death's proof %lld, of %s", v->stops, (long long)v->proof,
	       v->whose);
	for (i = 0; i < OPS; i++)
		printf(", %s %lld", op_name[i], (long long)v->longest[i]);
	printf("; the machine stood still for %lld%s\n", (long long)stalled_ms(),
	       busy_ms(getpid()) < 0 ? "; no /proc/PID/schedstat: not known who was kept from running" : "");
	fflush(stdout);
}

static bool goes_on(struct driver *v)
{
	struct ledger *g = v->w->ledger;

	return (v->kills < v->d->kills || (v->d->steps && some_step_is_missing(g, *v->w->windowed))) &&
	       !atomic_load(&g->stop) && !atomic_load(&g->nfindings);
}

static volatile sig_atomic_t enough;

static void stop_soon(int sig)
{
	enough = sig;
}

int drive(struct world *w, const struct drive *d)
{
	static struct driver v;
	int64_t began = ms_now(), told = began;
	struct vmp_named *kept;
	uint32_t i;
	int r;

	v = (struct driver){ .w = w, .d = d, .next = d->base };
	r = stall_begin();
	if (!r)
		r = make_windowed(w, &v.windowed);
	if (!r && mutant(w, "use", 10000))
		r = vmp_named_open(&kept, w->p, "object0", VMP_CREATE, 1, 0600);
	if (r)
		return r;
	v.fd = memfd_create("slots", 0);
	if (v.fd < 0 || ftruncate(v.fd, (SLOTS + 1) * sizeof(*v.slots)))
		return -errno;
	v.slots = mmap(NULL, SLOTS * sizeof(*v.slots), PROT_READ | PROT_WRITE, MAP_SHARED, v.fd, 0);
	if (v.slots == MAP_FAILED)
		return -errno;
	for (i = 0; i < d->workers; i++)
		v.worker[i].slot = &v.slots[i];
	signal(SIGTERM, stop_soon);
	signal(SIGINT, stop_soon);
	while (!enough && goes_on(&v) && ms_now() - began < d->seconds * INT64_C(1000)) {
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
	vmp_named_close(v.windowed);
	close(v.fd);
	return 0;
}
