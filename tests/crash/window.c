// SPDX-License-Identifier: MIT
/*
 * A channel through a window of a device. Its sender is a process that has the window and
 * nothing else: another user, without privileges, in an empty root. Its receiver has the
 * whole portal. Both are killed and stopped. Who is told that the other end has died or was
 * opened anew has read all that it committed, each message once.
 *
 * What they note lies behind the channel, in an object that their driver makes: so the
 * sender can note it, too. How often the receiver's end was opened is counted; from one
 * opening to the next it meets one opening of the sender's at most, which is one stream.
 */
#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "crash.h"

#define CHANNEL_PART	PORTAL_UNIT
#define WINDOW_STREAMS	12000U
#define WINDOW_NAME	"window"
#define NOBODY		65534
#define EMPTY_ROOT	"/tmp/crash-empty"
#define HOLDER_VECTOR	1U
#define SENDER_VECTOR	2U

/* @opening: which opening of the receiver's end it met, once that has answered; 0: before. */
struct sent {
	uint32_t life;
	_Atomic uint32_t opening, committed, next;
};

struct windowed {
	uint8_t channel[CHANNEL_PART];
	_Atomic uint32_t openings, nsent;
	struct sent sent[WINDOW_STREAMS];
};

#define WINDOW_BYTES	((sizeof(struct windowed) + PORTAL_UNIT - 1) / PORTAL_UNIT * PORTAL_UNIT)

/* ---- The driver's part ------------------------------------------------------------ */

int make_windowed(struct world *w, struct vmp_named **n)
{
	if (!w->p->ops->window)
		return 0;
	/* Whose it is, is in its name. */
	snprintf(w->windowed, sizeof(w->windowed), WINDOW_NAME "%llx", (unsigned long long)w->token);
	return vmp_named_open(n, w->p, w->windowed, VMP_CREATE | VMP_EXCL | VMP_EPHEMERAL, WINDOW_BYTES, 0600);
}

int a_window(struct world *w, struct vmp_named *n)
{
	struct vmp_window_opts o = { .size = sizeof(o), .length = WINDOW_BYTES, .peer = VMP_PEER_ANY };
	struct vmp_object object;
	int r = vmp_named_info(n, &object, sizeof(object));

	if (r)
		return r;
	o.offset = object.offset;
	if (w->p->info.vectors > SENDER_VECTOR) {
		o.wait = 1U << SENDER_VECTOR;
		o.ring = 1U << HOLDER_VECTOR;
	}
	return vmp_window(w->p, &o);
}

/* ---- The receiver ------------------------------------------------------------------- */

static struct vmp_object held;

/* It may lie where a machine that was declared dead by mistake had something. */
#define judged(w, ...) (object_in_doubt(w, &held) ? (void)0 : finding(w, __VA_ARGS__))

/* It was told that the other end is another, or gone: all that it sent is read. */
static void judge_opening(struct world *w, struct windowed *o, uint32_t opening)
{
	uint32_t n = atomic_load(&o->nsent), committed, next;

	n = n < WINDOW_STREAMS ? n : WINDOW_STREAMS;
	while (n--) {
		struct sent *s = &o->sent[n];

		if (atomic_load(&s->opening) != opening)
			continue;
		atomic_fetch_add(&w->ledger->cut_off, 1);
		committed = atomic_load(&s->committed);
		next = atomic_load(&s->next);
		if (next < committed || next > committed + 1)
			judged(w, "window: stream %u (life %u): %u messages were committed, %u came", n, s->life, committed, next);
		return;
	}
}

static void judge_message(struct world *w, struct windowed *o, const struct message *m, size_t n)
{
	struct sent *s;
	uint32_t next;

	if (!whole_message(m, n) || m->stream >= atomic_load(&o->nsent) || m->stream >= WINDOW_STREAMS) {
		judged(w, "window: a torn message of %zu bytes", n);
		return;
	}
	s = &o->sent[m->stream];
	next = atomic_load(&s->next);
	if (m->seq != next)
		judged(w, "window: message %u of stream %u (life %u) comes where %u is wanted", m->seq, m->stream, s->life, next);
	atomic_store(&s->next, m->seq + 1);
	atomic_fetch_add(&w->ledger->windowed, 1);
}

static int receive_one(struct world *w, struct windowed *o, struct vmp_channel *ch)
{
	const struct message *m;
	uint32_t answer[2];
	const void *ptr;
	ssize_t n;
	int r = 0;

	begin(w, OP_WINDOW, 2 * CALL_MS);
	n = vmp_peek(ch, &ptr, 50);
	if (n >= 0) {
		m = ptr;
		if (!mutant(w, "unseen", 200))
			judge_message(w, o, m, (size_t)n);
		at_step(OWN_NOTED);
		answer[0] = m->stream;
		answer[1] = m->seq;
		if (m->reply)
			r = vmp_send(ch, answer, sizeof(answer), 0, CALL_MS);
		vmp_release(ch);
	}
	finish(w);
	return n < 0 ? (int)n : r;
}

void do_hold(struct world *w)
{
	struct vmp_channel_opts opts = { .size = sizeof(opts), .length = CHANNEL_PART, .vector = HOLDER_VECTOR };
	int64_t until = ms_now() + 2000;
	struct vmp_channel *ch;
	struct vmp_named *n;
	struct windowed *o;
	uint32_t opening;
	int r;

	begin(w, OP_WINDOW, 2 * DIRECTORY_MS);
	if (w->p->info.vectors <= HOLDER_VECTOR)
		opts.vector = 0;
	r = vmp_named_open(&n, w->p, w->windowed, 0, 0, 0);
	if (!r)
		r = vmp_named_info(n, &held, sizeof(held));
	opts.offset = held.offset;
	o = r ? NULL : vmp_named_data(n, NULL);
	opening = r ? 0 : atomic_fetch_add(&o->openings, 1) + 1;
	if (!r)
		r = vmp_channel_open(&ch, w->p, &opts);
	finish(w);
	if (r == -EINTR)
		return;
	/* With who made it, whose machine was declared dead by mistake, and goes on. */
	if (r == -ENOENT && is_mistaken(w->ledger, strtoull(w->windowed + strlen(WINDOW_NAME), NULL, 16)))
		return;
	if (r) {
		judged(w, "window: opening it to receive: %d %s", r, vmp_errmsg());
		return;
	}
	do {
		r = receive_one(w, o, ch);
	} while ((!r || r == -ETIMEDOUT || r == -EINTR) && ms_now() < until && !atomic_load(&w->ledger->stop));
	if (r == -ECONNRESET || r == -EPIPE)
		judge_opening(w, o, opening);
	else if (r && r != -ETIMEDOUT && r != -EINTR)
		judged(w, "window: receiving: %d %s", r, vmp_errmsg());
	begin(w, OP_WINDOW, DIRECTORY_MS);
	vmp_channel_close(ch);
	vmp_named_close(n);
	finish(w);
}

/* ---- The sender ------------------------------------------------------------------------ */

static int wrong(struct world *w, const char *what, int r)
{
	snprintf(w->slot->said, sizeof(w->slot->said), "%s: %d %s", what, r, r < 0 ? vmp_errmsg() : strerror(r));
	return 1;
}

static int confine(void)
{
	if (mkdir(EMPTY_ROOT, 0555) && errno != EEXIST)
		return errno;
	if (chroot(EMPTY_ROOT) || chdir("/") || setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return errno;
	/* Another user's processes lose it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return 0;
}

/* It has the window and no more. */
static const char *reaches(struct vmp *p, int fd)
{
	if (p->info.size != WINDOW_BYTES)
		return "more bytes than its window's";
	if (open("/dev/portal0", O_RDWR) >= 0)
		return "the whole portal";
	if (mmap(NULL, PORTAL_UNIT, PROT_READ, MAP_SHARED, fd, WINDOW_BYTES) != MAP_FAILED)
		return "what lies behind its window";
	return NULL;
}

static struct sent *new_sent(struct world *w, struct windowed *o, uint32_t *id)
{
	struct sent *s;

	*id = atomic_fetch_add(&o->nsent, 1);
	if (*id >= WINDOW_STREAMS)
		return NULL;
	s = &o->sent[*id];
	s->life = w->plan.life;
	return s;
}

static int send_one(struct world *w, struct vmp_channel *ch, uint32_t id, uint32_t seq, bool reply)
{
	union {
		struct message m;
		uint8_t room[sizeof(struct message) + PAYLOAD_MOST];
	} u;
	uint32_t len = (uint32_t)below(&w->rng, below(&w->rng, 8) ? 60 : PAYLOAD_MOST), got[2];
	size_t size = sizeof(u.m) + len;
	void *ptr;
	ssize_t n;
	int r;

	fill_message(&u.m, id, seq, len, reply);
	r = vmp_reserve(ch, &ptr, size, CALL_MS);
	if (r)
		return r;
	memcpy(ptr, &u, size / 2);
	at_step(OWN_RESERVED);
	memcpy((char *)ptr + size / 2, (char *)&u + size / 2, size - size / 2);
	r = vmp_commit(ch, size, below(&w->rng, 3) ? 0 : VMP_MORE);
	at_step(OWN_SENT);
	if (r || !reply)
		return r;
	n = vmp_recv(ch, got, sizeof(got), CALL_MS);
	if (n >= 0 && (n != sizeof(got) || got[0] != id || got[1] != seq))
		return -EBADMSG;
	return n < 0 ? (int)n : 0;
}

/* One opening of its end. */
static int send_stream(struct world *w, struct windowed *o, struct vmp *p)
{
	struct vmp_channel_opts opts = { .size = sizeof(opts), .side = 1, .length = CHANNEL_PART,
					 .vector = p->info.first_vector };
	uint32_t id, seq, n = 1 + (uint32_t)below(&w->rng, 60), opening;
	struct vmp_channel *ch;
	struct sent *s;
	int r;

	begin(w, OP_WINDOW, CALL_MS);
	r = vmp_channel_open(&ch, p, &opts);
	if (r)
		return r;
	r = vmp_channel_connect(ch, CALL_MS);
	opening = atomic_load(&o->openings);
	s = r ? NULL : new_sent(w, o, &id);
	finish(w);
	for (seq = 0; s && seq < n && !r; seq++) {
		begin(w, OP_WINDOW, 2 * CALL_MS);
		r = send_one(w, ch, id, seq, !seq || !below(&w->rng, 10));
		if (!r)
			atomic_store(&s->committed, seq + 1);
		/* Who answers was there when we looked, so nobody had opened it after him. */
		if (!r && !seq)
			atomic_store(&s->opening, opening);
		finish(w);
	}
	begin(w, OP_WINDOW, CALL_MS);
	vmp_channel_close(ch);
	finish(w);
	return r == -ECONNRESET || r == -EPIPE || r == -ETIMEDOUT || r == -EINTR ? 0 : r;
}

int work_window(struct world *w)
{
	int program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), i, r = confine();
	const char *more;
	struct windowed *o;
	struct vmp *p;
	char uri[16];
	void *base;

	if (r || program < 0)
		return wrong(w, "it cannot be confined", r ? r : EBADF);
	snprintf(uri, sizeof(uri), "fd:%d", w->window);
	begin(w, OP_OPEN, CALL_MS);
	r = vmp_open(&p, uri, 0);
	finish(w);
	if (r)
		return wrong(w, "opening its window", r);
	more = reaches(p, w->window);
	if (more)
		return wrong(w, more, EEXIST);
	r = vmp_map(p, &base, NULL);
	if (r)
		return wrong(w, "mapping its window", r);
	o = base;
	if (w->plan.fate == FATE_FORK)
		leave_a_child(w);
	for (i = 0; i < w->plan.ops; i++) {
		r = send_stream(w, o, p);
		if (r)
			return wrong(w, "sending", r);
		if (w->plan.fate == FATE_EXEC && i >= w->plan.after)
			become_another(w, program);
	}
	begin(w, OP_OPEN, CALL_MS);
	if (w->plan.fate != FATE_EXIT)
		kill(getpid(), SIGKILL);
	vmp_close(p);
	return 0;
}
