// SPDX-License-Identifier: MIT
/*
 * Sleeping and waking. The contract is in linux/portal_layout.h ("Sleep"), its proof
 * in tests/model/wake.pml. In short: arm, fence, look again, sleep; the other side
 * publishes, fences, looks whether we are armed.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"
#include "named.h"

/*
 * Where there is no doorbell sleeps grow by a half to POLL_SOON, then by a 32nd: whoever
 * comes while we wait is noticed late by half of our wait so far, by 4 ms at most within
 * 0.4 s, and by 16 ms ever. At POLL_LAST that is 63 looks a second, 0.1 to 0.3 % of a CPU.
 */
#define POLL_FIRST	(50 * US)
#define POLL_SOON	(4 * MS)
#define POLL_LAST	(16 * MS)
/* How often a device that is rung is asked whether it was reset, too. */
#define LOOK_EVERY	(10 * MS)
/* Adaptive spinning stays between these. */
#define SPIN_FIRST	(20 * US)
#define SPIN_LEAST	(1 * US)
#define SPIN_MOST	(50 * US)
#define COPY_MOST	(500 * US)

#define CW(x)	((const uint64_t *)&(x))

void wait_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("isb" ::: "memory");
#endif
}

/* ---- Ringing --------------------------------------------------------------- */

void chan_ring_at(struct vmp_channel *ch, uint64_t address)
{
	int r;

	if (!(address & PORTAL_CHAN_DOORBELL) || !(ch->p->info.caps & VMP_CAP_RING))
		return;
	__atomic_fetch_add(&ch->doorbells, 1, __ATOMIC_RELAXED);
	if (!(ch->p->info.caps & VMP_CAP_DOORBELL_PAGE))
		__atomic_fetch_add(&ch->ring_syscalls, ch->p->ops->ring_calls ? : 1,
				   __ATOMIC_RELAXED);
	r = vmp_ring(ch->p, (uint32_t)(address >> PORTAL_CHAN_PEER_SHIFT),
		     (uint32_t)(address >> PORTAL_CHAN_VECTOR_SHIFT) & 0xffff);
	/* A peer that is not there (yet) sleeps with a timeout. */
	if (r == -ENODEV)
		chan_die(ch, r);
}

void chan_hail(struct vmp_channel *ch)
{
	/* A hub that has not opened our lane, or not yet, has said elsewhere where to ring it. */
	if (ch->hub && !load_acquire(CW(ch->peer->incarnation))) {
		chan_ring_at(ch, load_acquire(CW(ch->hub->address)));
		return;
	}
	/* Nor does a lane's owner until he has said who he is: that is who had it before. */
	if (ch->peer_token && !ch->row && load_acquire(CW(ch->peer->token)) != ch->peer_token)
		return;
	/* Old memory names nobody whom we should disturb. */
	if (load_acquire(CW(ch->peer->hello)) == CHAN_HELLO)
		chan_ring_at(ch, load_acquire(CW(ch->peer->address)));
}

void chan_ring(struct vmp_channel *ch, enum dir d, uint64_t epoch)
{
	uint64_t *say = (uint64_t *)(d == RX ? &ch->me->rx_rung : &ch->me->tx_rung);

	store_relaxed(&ch->rung[d], epoch);
	/* Before the doorbell: the sleeper looks for its number when it is awake. */
	chan_say(ch, say, epoch);
	chan_hail(ch);
}

/* ---- Looking --------------------------------------------------------------- */

/* Is it worth trying again in direction @d? */
bool chan_look(struct vmp_channel *ch, enum dir d, uint64_t need)
{
	int stage = load_acquire(&ch->stage);

	if (unlikely(ch->pk))
		return packet_look(ch, d, need);

	/* A receiver too goes all the way: only then does it trust its doorbell. */
	if (stage != STAGE_SEND) {
		if (chan_step(ch))
			return true;
		stage = load_acquire(&ch->stage);
		if (d == TX)
			return stage == STAGE_SEND || chan_peer_state(ch);
		if (stage == STAGE_OPEN)
			return false;
	}
	if (d == RX) {
		struct vmpr_rx *r = &ch->rx.ring;

		if (load_acquire((const uint64_t *)(const void *)(r->data + (r->pos & (r->cap - 1)))))
			return true;
	} else {
		struct vmpr_tx *t = &ch->tx.ring;

		if (vmpr_tx_refresh(t) || t->pos + need + VMPR_LINE <= t->limit)
			return true;
	}
	return chan_peer_state(ch) != 0;
}

/*
 * Spin for a bounded time; true: chan_look() was. Without a doorbell on either side the
 * whole wait is this and short sleeps.
 */
static bool spin(struct vmp_channel *ch, enum dir d, uint64_t need, int64_t limit)
{
	struct waiter *w = chan_waiter(ch, d);
	int64_t start = 0, t;
	unsigned int i;

	for (i = 1;; i++) {
		if (chan_look(ch, d, need)) {
			if (start && w->spin_ns < SPIN_MOST)
				w->spin_ns += w->spin_ns / 8;
			return true;
		}
		/* A sender that needs room which we hold back. */
		if (d == RX && load_relaxed(&ch->stage) != STAGE_OPEN && vmpr_answer(&ch->rx.ring))
			chan_notify(ch, TX);
		wait_relax();
		if (i % 32)
			continue;
		t = now_ns();
		if (!start)
			start = t;
		else if (t - start >= limit)
			return false;
	}
}

/* ---- Sleeping -------------------------------------------------------------- */

void wait_arm(struct vmp_channel *ch, enum dir d)
{
	struct waiter *w = chan_waiter(ch, d);
	uint64_t n = w->epoch + 1;

	if (!n)
		n = 1;
	store_relaxed(&w->epoch, n);
	if (!chan_is_ours(ch))
		return;
	vmp_step(STEP_ARMS);
	/*
	 * If it is a successor's by now it keeps its ring: a number is a number to whoever
	 * rings, and the address is the successor's. Only we could clear it: see below.
	 */
	store_relaxed(w->armed, n);
}

/*
 * A successor that sleeps has a number of its own there; or, if we stopped in wait_arm(), ours.
 * Then the side was its own before it armed, and a fence ago for us: we see that here. Pairs
 * with the fences in take_over() (hub.c) and begin() (hub_producer.c).
 */
void wait_disarm(struct vmp_channel *ch, enum dir d)
{
	struct waiter *w = chan_waiter(ch, d);

	if (!ch->lease) {
		store_relaxed(w->armed, 0);
		return;
	}
	if (!chan_is_ours(ch))
		return;
	vmp_step(STEP_DISARMS);
	hand_on(w->armed, w->epoch, 0);
}

static void chan_arm(struct vmp_channel *ch, enum dir d, uint64_t need)
{
	wait_arm(ch, d);
	if (unlikely(ch->pk)) {
		packet_arm(ch, d, need);
		return;
	}
	/* Pairs with the fence in chan_notify(). */
	vmpr_full_fence();
}

static void chan_disarm(struct vmp_channel *ch, enum dir d)
{
	wait_disarm(ch, d);
	if (unlikely(ch->pk))
		packet_disarm(ch, d);
}

/* epoll_wait() with nanoseconds where the kernel can (5.11), else rounded up to ms. */
static int epoll_ns(int ep, struct epoll_event *ev, int n, int64_t ns)
{
#ifdef SYS_epoll_pwait2
	static int missing;
	struct timespec ts = { ns / (1000 * MS), ns % (1000 * MS) };
	int r;

	if (ns != FOR_EVER && ns && ns % MS && !load_relaxed(&missing)) {
		r = (int)syscall(SYS_epoll_pwait2, ep, ev, n, &ts, NULL, 0);
		/* EPERM: a seccomp filter that is older than the call. */
		if (r >= 0 || (errno != ENOSYS && errno != EPERM))
			return r;
		store_relaxed(&missing, 1);
	}
#endif
	if (ns == FOR_EVER)
		return epoll_wait(ep, ev, n, -1);
	return epoll_wait(ep, ev, n, ns / MS >= INT_MAX ? INT_MAX : (int)((ns + MS - 1) / MS));
}

int wait_collect(int ep, int64_t ns)
{
	struct epoll_event ev[4];
	int bits = 0, n, i;

	n = epoll_ns(ep, ev, 4, ns);
	if (n < 0)
		return -errno;
	for (i = 0; i < n; i++)
		bits |= (int)ev[i].data.u32;
	return bits;
}

/* The portal's state descriptor spoke. */
static int state_changed(struct vmp_channel *ch)
{
	int r = ch->p->ops->service ? ch->p->ops->service(ch->p) : 0;

	return r ? r : chan_judge_peer(ch);
}

/* Has the device been reset, has our id changed? */
static int look_at_device(struct vmp_channel *ch)
{
	uint32_t now;
	int r;

	if (!ch->p->ops->refresh)
		return 0;
	store_relaxed(&ch->look_due, 0);
	store_relaxed(&ch->looked_at, now_ns());
	/* Both threads may come here: the older answer must not be published last. */
	pthread_mutex_lock(&ch->lock);
	r = ch->pk ? packet_check(ch) : vmp_refresh(ch->p);
	pthread_mutex_lock(&ch->p->lock);
	now = ch->p->info.generation;
	pthread_mutex_unlock(&ch->p->lock);
	if (!r && !ch->pk && now != load_relaxed(&ch->generation)) {
		store_relaxed(&ch->trusted, 0);
		store_relaxed(&ch->introduced, 0);
		chan_set_address(ch);
	}
	pthread_mutex_unlock(&ch->lock);
	return r;
}

/*
 * A doorbell that the other end says it rang may have been a reset's as well: the two
 * are one event to who sleeps. A look each time would cost more than the wake-up, so it
 * may be put off, until the next bell or the end of a sleep that is a short one.
 */
static int look_now_and_then(struct vmp_channel *ch, bool rung)
{
	if (!ch->p->ops->refresh || (!rung && !load_relaxed(&ch->look_due)))
		return 0;
	if (now_ns() - load_relaxed(&ch->looked_at) >= LOOK_EVERY)
		return look_at_device(ch);
	store_relaxed(&ch->look_due, 1);
	return 0;
}

/* What the events mean, or that there were none: 0, or a final error. */
static int woken(struct vmp_channel *ch, enum dir d, int bits)
{
	struct waiter *w = chan_waiter(ch, d);
	const uint64_t *rung = CW(*(d == RX ? &ch->peer->rx_rung : &ch->peer->tx_rung));
	int r = 0;

	if (bits & (int)WOKE_TABLES)
		wait_tables_seen(ch->p, ch->watch);
	if (bits & (int)(WOKE_STATE | WOKE_TABLES))
		r = state_changed(ch);
	if (!r && bits & (int)WOKE_BELL) {
		/* Its words for the arm that this ended: rings do reach us. */
		if (w->epoch && load_acquire(rung) == w->epoch) {
			store_relaxed(&ch->trusted, 1);
			r = look_now_and_then(ch, true);
		} else {
			r = look_at_device(ch);
		}
		count(&chan_counts(ch, d)->wakeups, 1);
		w->nap_ns = 0;
	} else if (!r) {
		r = look_now_and_then(ch, false);
	}
	return r ? chan_fail(ch, r) : 0;
}

bool chan_packet_naps = true;

/*
 * How long the next sleep may be. For ever only if whoever has something for us can
 * ring us and has shown it.
 */
static int64_t next_nap(struct vmp_channel *ch, struct waiter *w)
{
	int64_t first = ch->bells && !ch->pk ? NAP_FIRST : POLL_FIRST;
	int64_t last = ch->bells ? NAP_LAST : POLL_LAST;
	int64_t ns, more;

	/*
	 * A host's signal is there from the start. But for room: QEMU (7.2 to 11) does
	 * not signal room when it has emptied the ring, so a sender looks by itself too.
	 */
	if (ch->pk && ch->bells && (w == &ch->rx.w || !chan_packet_naps))
		return FOR_EVER;
	if (ch->bells && load_relaxed(&ch->trusted) && load_relaxed(&ch->stage) == STAGE_SEND)
		return load_relaxed(&ch->look_due) ? LOOK_EVERY : FOR_EVER;
	ns = w->nap_ns ? w->nap_ns : first;
	more = ch->bells || ns < POLL_SOON ? ns / 2 : ns / 32;
	w->nap_ns = ns + more < last ? ns + more : last;
	return ns;
}

/* What is owed to the other side before this one sleeps; after the fence. */
void chan_before_sleep(struct vmp_channel *ch, bool published)
{
	uint64_t n;

	if (!load_relaxed(&ch->peer_bells))
		return;
	if (published) {
		n = load_relaxed(CW(ch->peer->tx_armed));
		if (n && n != load_relaxed(&ch->rung[TX]))
			chan_ring(ch, TX, n);
	}
	/* Once, for nothing: so that a peer that sleeps may trust its doorbell. */
	if (!load_relaxed(&ch->introduced)) {
		n = load_relaxed(CW(ch->peer->rx_armed));
		if (n && n != load_relaxed(&ch->rung[RX])) {
			store_relaxed(&ch->introduced, 1);
			chan_ring(ch, RX, n);
		}
	}
}

/* Give back what was read; true if there was something. */
bool chan_publish(struct vmp_channel *ch, enum dir d)
{
	if (d != RX || load_relaxed(&ch->stage) == STAGE_OPEN ||
	    ch->rx.ring.published == ch->rx.ring.pos)
		return false;
	vmpr_publish(&ch->rx.ring);
	return true;
}

/* Nobody answers the handshake: perhaps he sleeps, and the first ring was dropped. */
static void hail_again(struct vmp_channel *ch, const struct waiter *w)
{
	int64_t after = ch->flags & VMP_CH_NO_SLEEP ? NAP_LAST : 8 * MS;

	if (load_relaxed(&ch->stage) != STAGE_SEND && w->nap_ns >= after &&
	    (ch->hub || load_relaxed(CW(ch->peer->incarnation))))
		chan_hail(ch);
}

/*
 * What a wait takes at least when the other end is just copying a long message, as
 * long as the last one or as the room that we need: at 8 bytes a nanosecond.
 */
static int64_t copy_ns(const struct vmp_channel *ch, enum dir d, uint64_t need)
{
	int64_t ns = (int64_t)((d == TX ? need : ch->rx.ring.len) / 8);

	return ns < COPY_MOST ? ns : COPY_MOST;
}

static void adapt(struct waiter *w, int64_t slept, int64_t copy)
{
	if (slept < 2 * (SPIN_MOST + copy))
		w->spin_ns = w->spin_ns * 2 < SPIN_MOST ? w->spin_ns * 2 : SPIN_MOST;
	else
		w->spin_ns = w->spin_ns / 2 > SPIN_LEAST ? w->spin_ns / 2 : SPIN_LEAST;
}

/* One sleep of at most @left ns: 0 look again, -EINTR, or a final error. */
static int sleep_once(struct vmp_channel *ch, enum dir d, uint64_t need, int64_t left)
{
	struct waiter *w = chan_waiter(ch, d);
	struct counts *n = chan_counts(ch, d);
	bool published = chan_publish(ch, d);
	int64_t ns, t;
	int bits;

	if (ch->bells)
		chan_arm(ch, d, need);
	else
		vmpr_full_fence();
	chan_before_sleep(ch, published);
	if (chan_look(ch, d, need)) {
		if (ch->bells)
			chan_disarm(ch, d);
		return 0;
	}
	ns = next_nap(ch, w);
	count(&n->sleeps, 1);
	count(&n->syscalls, 1);
	/* Where the clock is read by a system call, that is a part of what waiting costs. */
	t = ns == FOR_EVER ? now_ns() : 0;
	bits = wait_collect(w->ep, ns < left ? ns : left);
	if (ch->bells)
		chan_disarm(ch, d);
	if (ns == FOR_EVER)
		adapt(w, now_ns() - t, copy_ns(ch, d, need));
	if (bits < 0)
		return bits == -EINTR ? vmp_fail(bits, "interrupted by a signal") :
			vmp_fail(bits, "epoll_wait: %s", strerror(-bits));
	if (!bits)
		hail_again(ch, w);
	return woken(ch, d, bits);
}

static int nothing_now(enum dir d)
{
	return vmp_fail_quickly(-EAGAIN, d == RX ? "no message now" :
				"no room, or no other end, to send to now");
}

/* ---- The descriptor for other people's loops ------------------------------- */

static void set_timer(struct vmp_channel *ch, enum dir d, int64_t ns)
{
	struct itimerspec it = { { 0, 0 }, { ns / (1000 * MS), ns % (1000 * MS) } };

	store_relaxed(&ch->timer_on, ns > 0);
	count(&chan_counts(ch, d)->syscalls, 1);
	timerfd_settime(ch->timer, 0, &it, NULL);
}

/*
 * A call that does not wait found nothing. Clear the descriptor, arm, and look once
 * more: 0 look again, -EAGAIN, or a final error.
 */
static int arm_fd(struct vmp_channel *ch, enum dir d, uint64_t need)
{
	struct waiter *w = chan_waiter(ch, d), *o = chan_waiter(ch, !d);
	const uint64_t *orung = CW(*(d == RX ? &ch->peer->tx_rung : &ch->peer->rx_rung));
	bool published = chan_publish(ch, d);
	uint64_t oe, pos;
	int64_t ns;
	int bits, r;

	count(&chan_counts(ch, d)->syscalls, 1);
	bits = wait_collect(ch->ufd, 0);
	if (bits < 0)
		bits = 0;
	r = woken(ch, d, bits);
	if (r)
		return r;
	if (!bits || bits == (int)WOKE_TIMER)
		hail_again(ch, w);
	if (ch->bells)
		chan_arm(ch, d, need);
	else
		vmpr_full_fence();
	chan_before_sleep(ch, published);
	if (chan_look(ch, d, need))
		return 0;
	pos = d == RX ? ch->rx.ring.pos : ch->tx.ring.pos;
	if (pos != w->nap_pos) {
		/* Something came since the last one: a new wait. */
		w->nap_pos = pos;
		w->nap_ns = 0;
	}
	ns = next_nap(ch, w);
	oe = load_relaxed(&o->epoch);
	if (oe && oe != load_relaxed(&o->kicked) &&
	    (ch->pk ? bits & (int)WOKE_BELL : load_acquire(orung) == oe)) {
		/*
		 * The event that we have just cleared may have been for the other
		 * direction. Once for each of its arms: perhaps nobody wants it.
		 */
		store_relaxed(&o->kicked, oe);
		set_timer(ch, d, 1);
	} else if (ns != FOR_EVER) {
		set_timer(ch, d, ns);
	} else if (load_relaxed(&ch->timer_on)) {
		set_timer(ch, d, 0);
	}
	return nothing_now(d);
}

int wait_watch(int ep, int fd, uint32_t events, uint32_t bit)
{
	struct epoll_event ev = { .events = events | EPOLLET, .data.u32 = bit };

	if (fd >= 0 && epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev))
		return vmp_fail(-errno, "epoll_ctl: %s", strerror(errno));
	return 0;
}

int wait_tables(struct vmp *p)
{
	int ep = epoll_create1(EPOLL_CLOEXEC), r;

	if (ep < 0)
		return vmp_fail(-errno, "epoll_create1: %s", strerror(errno));
	r = p->ops->watch ? p->ops->watch(p, ep) : 0;
	if (!r)
		return ep;
	close(ep);
	return r;
}

void wait_tables_seen(struct vmp *p, int watch)
{
	struct epoll_event ev[4];

	/* Before looking: what changes after that makes it ready again. */
	if (watch >= 0)
		epoll_wait(watch, ev, 4, 0);
	if (p->ops->watched)
		p->ops->watched(p);
}

int wait_set(struct vmp *p, bool bells, uint32_t vector, int watch)
{
	int bell = bells ? vmp_eventfd(p, vector) : -1;
	int ep, r;

	if (bells && bell < 0)
		return bell;
	ep = epoll_create1(EPOLL_CLOEXEC);
	if (ep < 0)
		return vmp_fail(-errno, "epoll_create1: %s", strerror(errno));
	r = wait_watch(ep, bell, EPOLLIN, WOKE_BELL);
	if (!r)
		r = wait_watch(ep, p->state_fd, p->state_events, WOKE_STATE);
	if (!r)
		r = wait_watch(ep, p->notice, EPOLLIN, WOKE_STATE);
	if (!r)
		r = wait_watch(ep, watch, EPOLLIN, WOKE_TABLES);
	if (r) {
		close(ep);
		return r;
	}
	return ep;
}

VMP_API int vmp_channel_fd(struct vmp_channel *ch)
{
	int fd, r = 0;

	pthread_mutex_lock(&ch->lock);
	fd = ch->ufd;
	if (fd >= 0)
		goto out;
	fd = wait_set(ch->p, ch->bells, ch->vector, ch->watch);
	if (fd < 0)
		goto out;
	ch->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (ch->timer < 0)
		r = vmp_fail(-errno, "timerfd_create: %s", strerror(errno));
	else
		r = wait_watch(fd, ch->timer, EPOLLIN, WOKE_TIMER);
	if (r) {
		if (ch->timer >= 0)
			close(ch->timer);
		ch->timer = -1;
		close(fd);
		fd = r;
		goto out;
	}
	/* Readable at once: a call that said -EAGAIN before this armed nothing. */
	timerfd_settime(ch->timer, 0, &(struct itimerspec){ .it_value.tv_nsec = 1 }, NULL);
	store_release(&ch->ufd, fd);
out:
	pthread_mutex_unlock(&ch->lock);
	return fd;
}

void chan_waiters_start(struct vmp_channel *ch)
{
	ch->rx.w.armed = (uint64_t *)&ch->me->rx_armed;
	ch->tx.w.armed = (uint64_t *)&ch->me->tx_armed;
	ch->rx.w.spin_ns = ch->tx.w.spin_ns = SPIN_FIRST;
	/* Random: the other end may have rung for a number of our predecessor's. */
	ch->rx.w.epoch = ch->tx.w.epoch = ch->inc;
}

int chan_waiters_init(struct vmp_channel *ch)
{
	chan_waiters_start(ch);
	ch->rx.w.ep = wait_set(ch->p, ch->bells, ch->vector, ch->watch);
	if (ch->rx.w.ep < 0)
		return ch->rx.w.ep;
	ch->tx.w.ep = wait_set(ch->p, ch->bells, ch->vector, ch->watch);
	return ch->tx.w.ep < 0 ? ch->tx.w.ep : 0;
}

void chan_waiters_close(struct vmp_channel *ch)
{
	int fd[] = { ch->ufd, ch->timer, ch->rx.w.ep, ch->tx.w.ep, ch->watch };
	size_t i;

	for (i = 0; i < sizeof(fd) / sizeof(fd[0]); i++)
		if (fd[i] >= 0)
			close(fd[i]);
}

/* ---- Waiting --------------------------------------------------------------- */

/* An end that never sleeps still notices, every so often, that the portal changed. */
static int poll_state(struct vmp_channel *ch, enum dir d)
{
	int bits;

	if (ch->p->state_fd < 0 && ch->watch < 0)
		return 0;
	count(&chan_counts(ch, d)->syscalls, 1);
	bits = wait_collect(chan_waiter(ch, d)->ep, 0);
	return bits > 0 ? woken(ch, d, bits) : 0;
}

/* Not long, where sleeps have been long of late. */
static int64_t spin_limit(const struct vmp_channel *ch, enum dir d, uint64_t need)
{
	int64_t ns = d == RX ? ch->rx.w.spin_ns : ch->tx.w.spin_ns;

	if (ch->spin_fixed)
		return ch->spin_fixed;
	return ns < SPIN_FIRST ? ns : ns + 2 * copy_ns(ch, d, need);
}

/* Who only polls notices too: now and then, at most every millisecond. */
static int polled_in_vain(struct vmp_channel *ch, enum dir d)
{
	struct waiter *w = chan_waiter(ch, d);
	int64_t t;
	int r;

	if ((ch->p->state_fd >= 0 || ch->watch >= 0) && !(++w->polls % 16)) {
		t = now_ns();
		if (t >= w->next_look) {
			w->next_look = t + MS;
			r = poll_state(ch, d);
			if (r)
				return r;
		}
	}
	return nothing_now(d);
}

static int timed_out(struct vmp_channel *ch, int timeout_ms)
{
	int r;

	if (load_relaxed(&ch->stage) != STAGE_OPEN)
		return vmp_fail(-ETIMEDOUT, "%s: nothing within %d ms", ch->p->info.identity, timeout_ms);
	r = chan_mismatch(ch);
	return r ? r : vmp_fail(-ETIMEDOUT, "%s: nothing within %d ms: the other end has not opened the channel (same offset, length, and the other side?)",
				ch->p->info.identity, timeout_ms);
}

int chan_wait(struct vmp_channel *ch, enum dir d, uint64_t need, struct patience *pt)
{
	struct waiter *w = chan_waiter(ch, d);
	int64_t left = FOR_EVER, slice;

	chan_flush(ch);
	if (!pt->timeout_ms) {
		if (load_acquire(&ch->ufd) >= 0)
			return arm_fd(ch, d, need);
		if (d == RX && load_relaxed(&ch->stage) != STAGE_OPEN && vmpr_answer(&ch->rx.ring))
			chan_notify(ch, TX);
		return polled_in_vain(ch, d);
	}
	if (!pt->spun) {
		slice = spin_limit(ch, d, need);
		if (pt->timeout_ms > 0 && slice > pt->timeout_ms * MS)
			slice = pt->timeout_ms * MS;
		pt->spun = true;
		w->nap_ns = 0;
		/* Only a long one can take a part of the timeout that matters. */
		if (slice >= MS) {
			pt->started = true;
			pt->deadline = now_ns() + pt->timeout_ms * MS;
		}
		if (spin(ch, d, need, slice))
			return 0;
	}
	if (pt->timeout_ms > 0) {
		if (!pt->started) {
			pt->started = true;
			pt->deadline = now_ns() + pt->timeout_ms * MS;
		}
		left = pt->deadline - now_ns();
		if (left <= 0)
			return timed_out(ch, pt->timeout_ms);
	}
	if (!(ch->flags & VMP_CH_NO_SLEEP))
		return sleep_once(ch, d, need, left);
	slice = left < MS ? left : MS;
	if (spin(ch, d, need, slice))
		return 0;
	/* It takes no naps, but hails as often as if. */
	w->nap_ns += slice;
	hail_again(ch, w);
	if (w->nap_ns >= NAP_LAST)
		w->nap_ns = 0;
	return poll_state(ch, d);
}
