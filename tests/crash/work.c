// SPDX-License-Identifier: MIT
/* A worker's life. */
#include <fcntl.h>
#include <stdarg.h>
#ifdef __x86_64__
#include <sys/io.h>
#endif
#include <sys/prctl.h>
#include <sys/wait.h>

#include "crash.h"

static struct world *self;

/* Where QEMU has its isa-debug-exit, and pvpanic, by which it stands still. */
#define MACHINE_EXIT	0xf4
#define MACHINE_STOP	0x505

void may_end_machine(struct world *w)
{
	const char *step = getenv("CRASH_MACHINE_STEP");

	w->machine_step = step ? atoi(step) + 1 : 0;
	w->machine_port = getenv("CRASH_MACHINE_STOP") ? MACHINE_STOP : MACHINE_EXIT;
#ifdef __x86_64__
	if (step && ioperm(w->machine_port, 1, 1)) {
		fprintf(stderr, "crash: ioperm: %s\n", strerror(errno));
		exit(1);
	}
#endif
}

/* In the midst of this instruction. */
static void end_machine(struct world *w)
{
#ifdef __x86_64__
	if (!atomic_exchange(&w->machine->step, 1))
		outb(w->machine_port == MACHINE_STOP ? 1 : 42, w->machine_port);
#endif
	w->machine_step = 0;
}

/* The library's marked steps; see plan.c for who ends where. */
void vmp_step(enum vmp_step s)
{
	at_step((int)s);
}

void at_step(int s)
{
	struct plan *p = self ? &self->plan : NULL;

	if (p && s + 1 == self->machine_step && !below(&self->rng, 3))
		end_machine(self);
	if (!p || s != p->step || (p->fate != FATE_STEP && p->fate != FATE_STOP_STEP))
		return;
	if (p->after--)
		return;
	atomic_store(&self->slot->step, (uint32_t)s + 1);
	if (p->fate == FATE_STEP)
		kill(getpid(), SIGKILL);
	p->fate = FATE_EXIT;
	raise(SIGSTOP);
}

void begin(struct world *w, enum op op, int limit_ms)
{
	if (!w->slot)
		return;
	atomic_store(&w->slot->op, op);
	atomic_store(&w->slot->limit, (uint32_t)limit_ms);
	atomic_store(&w->slot->since, (uint64_t)ms_now());
}

void finish(struct world *w)
{
	if (!w->slot)
		return;
	atomic_store(&w->slot->since, 0);
	if (w->ledger)
		atomic_fetch_add(&w->ledger->ops[atomic_load(&w->slot->op)], 1);
}

void finding(struct world *w, const char *fmt, ...)
{
	char text[300], plan[160];
	va_list ap;
	uint32_t i;

	/* It sees what others make of what it had, and is told that its session is over. */
	if (is_mistaken(w->ledger, w->token))
		return;
	i = atomic_fetch_add(&w->ledger->nfindings, 1);
	if (i >= FINDINGS)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	say_plan(&w->plan, plan, sizeof(plan));
	snprintf(w->ledger->finding[i], sizeof(w->ledger->finding[i]), "%s: %s", w->slot ? plan : "the judge", text);
}

/* ---- What all share -------------------------------------------------------------- */

static int open_one(struct world *w, struct vmp_named **n, const char *name, bool make, size_t size)
{
	return vmp_named_open(n, w->p, name, make ? VMP_CREATE | VMP_EXCL : 0, size, 0600);
}

int open_world(struct world *w, const char *uri, bool make)
{
	int r;

	w->uri = uri;
	r = vmp_open(&w->p, uri, 0);
	if (!r)
		r = vmp_join(w->p, &w->token);
	if (!r && w->slot)
		atomic_store(&w->slot->token, w->token);
	if (!r)
		r = open_one(w, &w->book, "ledger", make, sizeof(*w->ledger));
	if (!r)
		r = open_one(w, &w->locks, "locks", make, LOCKS * sizeof(*w->guarded));
	if (r)
		return r;
	w->ledger = vmp_named_data(w->book, NULL);
	w->guarded = vmp_named_data(w->locks, NULL);
	return 0;
}

void close_world(struct world *w)
{
	vmp_named_close(w->locks);
	vmp_named_close(w->book);
	vmp_close(w->p);
}

/* ---- A life ------------------------------------------------------------------------ */

int idle(void)
{
	usleep(300000);
	return 0;
}

/* A child with all descriptors, that lives longer than we do. */
void leave_a_child(struct world *w)
{
	pid_t pid = fork();

	if (pid) {
		atomic_store(&w->slot->forked, 1);
		return;
	}
	prctl(PR_SET_PDEATHSIG, 0);
	usleep(400000);
	_exit(0);
}

/* A child with a session of its own, which lives longer than we do and is taken for ours. */
static void outlive(struct world *w)
{
	if (fork())
		return;
	self = NULL;
	open_world(w, w->uri, false);
	usleep(2 * DEATH_MS * 1000);
	_exit(0);
}

/* @program: our own, open. */
void become_another(struct world *w, int program)
{
	char *argv[] = { "crash", "idle", NULL }, *none[] = { NULL };

	atomic_store(&w->slot->execed, 1);
	fexecve(program, argv, none);
	_exit(9);
}

static void one_op(struct world *w)
{
	enum role role = w->plan.role;

	if (role == ROLE_ALL)
		role = ROLE_HUB + (enum role)below(&w->rng, ROLE_ALL);
	switch (role) {
	case ROLE_HUB:
		do_hub(w);
		break;
	case ROLE_SEND:
		do_send(w);
		break;
	case ROLE_LOCK:
		do_lock(w);
		break;
	case ROLE_HOLD:
		do_hold(w);
		break;
	default:
		do_object(w);
	}
}

int work(struct world *w)
{
	int i, r;

	self = w;
	if (w->plan.role == ROLE_WINDOW)
		return work_window(w);
	begin(w, OP_OPEN, 2 * DIRECTORY_MS);
	r = open_world(w, w->uri, false);
	if (r) {
		fprintf(stderr, "crash: life %u: %d %s\n", w->plan.life, r, vmp_errmsg());
		return 1;
	}
	finish(w);
	if (w->plan.fate == FATE_FORK)
		leave_a_child(w);
	if (mutant(w, "proof", 2000))
		outlive(w);
	for (i = 0; i < w->plan.ops && !atomic_load(&w->ledger->stop); i++) {
		one_op(w);
		if (w->plan.fate == FATE_EXEC && i >= w->plan.after)
			become_another(w, open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	}
	begin(w, OP_OPEN, 2 * DIRECTORY_MS);
	if (w->plan.fate == FATE_EXIT)
		close_world(w);
	else
		/* It did not come to what was planned. */
		kill(getpid(), SIGKILL);
	return 0;
}
