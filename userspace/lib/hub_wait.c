// SPDX-License-Identifier: MIT
/*
 * A hub's sleeps: one for all lanes. It arms each of them, then one fence, then looks at
 * each a last time; senders ring as they ring any channel's other end (wait.c). Who takes a
 * lane, or leaves it, rings without being asked.
 */
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "hub.h"

#define W(x)	((uint64_t *)&(x))
#define CW(x)	((const uint64_t *)&(x))

#define SPIN_FIRST	(20 * US)
#define SPIN_LEAST	(1 * US)
#define SPIN_MOST	(50 * US)
/* Where there is no doorbell, see wait.c. */
#define POLL_FIRST	(50 * US)
#define POLL_LAST	(16 * MS)
#define LOOK_EVERY	(10 * MS)

/* Nobody answers the handshake for so long: he is rung again. */
#define HAIL_AFTER	(8 * MS)
/*
 * The longest sleep while a lane is free: whoever takes it rings until he is heard, but
 * others may have overwritten where.
 */
#define LONGEST		(1000 * MS)

static bool look(struct vmp_hub *h)
{
	uint32_t i;

	for (i = 0; i < h->lanes; i++)
		if (lane_look(h, &h->lane[i]))
			return true;
	return false;
}

#define for_each_open(h, l) \
	for ((l) = (h)->lane; (l) < (h)->lane + (h)->lanes; (l)++) \
		if ((l)->state == LANE_OPEN)

/*
 * As chan_publish(). The position stands already, but behind a pad; or we have a successor,
 * whose it is.
 */
static bool give_back(struct vmp_hub *h, struct lane *l)
{
	struct vmpr_rx *r = &l->ch->rx.ring;

	if (load_relaxed(&l->ch->stage) == STAGE_OPEN || r->published == r->pos)
		return false;
	r->published = r->pos;
	/* Pairs with the load in vmpr_tx_refresh(), as in vmpr_publish(). */
	hub_say(h, r->cons, r->pos);
	return true;
}

/* What senders ask to be given back: as vmpr_answer(). */
static void answer(struct vmp_hub *h)
{
	struct lane *l;
	uint64_t ask;

	for_each_open(h, l) {
		const struct vmpr_rx *r = &l->ch->rx.ring;

		if (load_relaxed(&l->ch->stage) == STAGE_OPEN)
			continue;
		ask = load_relaxed(r->ask);
		if (r->published < ask && ask <= r->pos && give_back(h, l))
			chan_notify(l->ch, TX);
	}
}

static bool spin(struct vmp_hub *h, int64_t limit)
{
	int64_t start = now_ns();
	unsigned int i;

	for (i = 1;; i++) {
		if (look(h))
			return true;
		answer(h);
		wait_relax();
		if (!(i % 8) && now_ns() - start >= limit)
			return false;
	}
}

/* ---- Arming ----------------------------------------------------------------- */

/* All that is owed, all that is armed, and one fence. */
static void arm(struct vmp_hub *h)
{
	struct lane *l;

	hub_say(h, W(h->head->address), h->address);
	for_each_open(h, l) {
		chan_flush(l->ch);
		l->published = give_back(h, l);
		if (!h->bells)
			continue;
		wait_arm(l->ch, RX);
		if (l->room)
			wait_arm(l->ch, TX);
	}
	/* Pairs with the fence in chan_notify(). */
	vmpr_full_fence();
	for_each_open(h, l)
		chan_before_sleep(l->ch, l->published);
}

static void disarm(struct vmp_hub *h)
{
	struct lane *l;

	if (!h->bells)
		return;
	/* Not of room: whoever gives it rings the descriptor as well. */
	for_each_open(h, l)
		wait_disarm(l->ch, RX);
}

/* ---- Room for replies -------------------------------------------------------- */

void hub_need_no_room(struct vmp_hub *h, struct lane *l)
{
	if (l->room && h->bells)
		wait_disarm(l->ch, TX);
	l->room = 0;
}

/* It was not there when we armed: is it now? Once, then it is for the user to try. */
static void look_for_room(struct vmp_hub *h)
{
	struct lane *l;

	for_each_open(h, l)
		if (l->room && chan_look(l->ch, TX, l->room)) {
			hub_need_no_room(h, l);
			h->tell_room = true;
		}
}

/* ---- Waking ------------------------------------------------------------------ */

void hub_set_address(struct vmp_hub *h)
{
	uint64_t a;

	pthread_mutex_lock(&h->p->lock);
	a = (uint64_t)h->p->info.peer_id << PORTAL_CHAN_PEER_SHIFT;
	h->generation = h->p->info.generation;
	pthread_mutex_unlock(&h->p->lock);
	a |= (uint64_t)h->opts.vector << PORTAL_CHAN_VECTOR_SHIFT;
	if (h->bells)
		a |= PORTAL_CHAN_DOORBELL;
	h->address = a;
	hub_say(h, W(h->head->address), a);
}

/* Has the device been reset, has our id changed? Not more often than it is worth. */
static int look_at_device(struct vmp_hub *h)
{
	struct lane *l;
	uint32_t now;
	int r;

	if (!h->p->ops->refresh)
		return 0;
	h->look_due = now_ns() - h->looked_at < LOOK_EVERY;
	if (h->look_due)
		return 0;
	h->looked_at = now_ns();
	r = vmp_refresh(h->p);
	pthread_mutex_lock(&h->p->lock);
	now = h->p->info.generation;
	pthread_mutex_unlock(&h->p->lock);
	if (r || now == h->generation)
		return r;
	hub_set_address(h);
	for_each_open(h, l) {
		store_relaxed(&l->ch->trusted, 0);
		store_relaxed(&l->ch->introduced, 0);
		chan_set_address(l->ch);
	}
	return 0;
}

/* Whose ring was it? Those who say so have shown that their rings reach us. */
static void rung(struct vmp_hub *h)
{
	struct lane *l;

	for_each_open(h, l) {
		const struct portal_chan_side *peer = l->ch->peer;
		const struct waiter *w = &l->ch->rx.w;

		if (w->epoch && load_acquire(CW(peer->rx_rung)) == w->epoch)
			store_relaxed(&l->ch->trusted, 1);
	}
}

static int woken(struct vmp_hub *h, int bits)
{
	int r = 0;

	if (bits & (int)WOKE_TABLES)
		wait_tables_seen(h->p, h->watch);
	if (bits & (int)(WOKE_STATE | WOKE_TABLES) || h->deserted) {
		if (h->p->ops->service)
			r = h->p->ops->service(h->p);
		h->deserted = vmp_deserted(h->p);
		if (!r)
			r = hub_judge(h);
	}
	if (bits & (int)WOKE_BELL) {
		rung(h);
		count(&h->n.wakeups, 1);
		h->nap_ns = 0;
	}
	if (!r && (bits & (int)WOKE_BELL || h->look_due))
		r = look_at_device(h);
	if (r)
		h->err = r;
	return r;
}

/* ---- Sleeping ---------------------------------------------------------------- */

/*
 * How long, if whoever has something for us can ring us and has shown it: for ever, if no
 * others can come. 0: not all have.
 */
static int64_t all_trusted(struct vmp_hub *h)
{
	const struct lane *l;
	/* Nobody wakes us for a heart that stands still. */
	int64_t longest = h->deserted ? HEAR_EVERY : LONGEST, ns = h->deserted ? HEAR_EVERY : FOR_EVER;

	if (!h->bells)
		return 0;
	for (l = h->lane; l < h->lane + h->lanes; l++) {
		/* What a sender does last it rings for; but that ring may be lost. */
		if (l->state == LANE_ENDED || l->state == LANE_TAKEN)
			return 0;
		if (l->state == LANE_OPEN && (!load_relaxed(&l->ch->trusted) ||
					      load_relaxed(&l->ch->stage) != STAGE_SEND))
			return 0;
		if (l->state == LANE_FREE)
			ns = longest;
	}
	return ns;
}

static int64_t next_nap(struct vmp_hub *h)
{
	int64_t last = h->bells ? NAP_LAST : POLL_LAST, ns = all_trusted(h);

	if (ns)
		return h->look_due ? LOOK_EVERY : ns;
	ns = h->nap_ns ? h->nap_ns : h->bells ? NAP_FIRST : POLL_FIRST;
	h->nap_ns = ns + ns / 2 < last ? ns + ns / 2 : last;
	return ns;
}

static void hail_again(struct vmp_hub *h)
{
	struct lane *l;

	if (h->nap_ns < HAIL_AFTER)
		return;
	for_each_open(h, l)
		if (load_relaxed(&l->ch->stage) != STAGE_SEND)
			chan_hail(l->ch);
}

static int sleep_once(struct vmp_hub *h, int64_t left)
{
	int64_t ns, t;
	int bits;

	arm(h);
	if (look(h)) {
		disarm(h);
		return 0;
	}
	ns = next_nap(h);
	count(&h->n.sleeps, 1);
	count(&h->n.syscalls, 1);
	t = now_ns();
	bits = wait_collect(h->ep, ns < left ? ns : left);
	disarm(h);
	if (bits < 0)
		return bits == -EINTR ? vmp_fail(bits, "interrupted by a signal") :
			vmp_fail(bits, "a hub's sleep failed");
	if (ns >= HEAR_EVERY) {
		h->spin_ns = now_ns() - t < 2 * SPIN_MOST ? h->spin_ns * 2 : h->spin_ns / 2;
		h->spin_ns = h->spin_ns > SPIN_MOST ? SPIN_MOST : h->spin_ns < SPIN_LEAST ? SPIN_LEAST : h->spin_ns;
	}
	if (!bits)
		hail_again(h);
	return woken(h, bits);
}

/* ---- The descriptor ------------------------------------------------------------ */

static void set_timer(struct vmp_hub *h, int64_t ns)
{
	struct itimerspec it = { { 0, 0 }, { ns / (1000 * MS), ns % (1000 * MS) } };

	h->timer_ns = ns;
	count(&h->n.syscalls, 1);
	timerfd_settime(h->timer, 0, &it, NULL);
}

static int nothing_now(void)
{
	return vmp_fail_quickly(-EAGAIN, "no message now");
}

/* Clear the descriptor, arm, look once more: 0 look again, -EAGAIN, or a final error. */
static int arm_fd(struct vmp_hub *h)
{
	int bits = wait_collect(h->ufd, 0), r;
	int64_t ns;

	count(&h->n.syscalls, 1);
	if (bits < 0)
		bits = 0;
	if (bits & (int)WOKE_TIMER)
		h->timer_ns = 0;
	r = woken(h, bits);
	if (r)
		return r;
	if (!bits || bits == (int)WOKE_TIMER)
		hail_again(h);
	arm(h);
	look_for_room(h);
	if (look(h))
		return 0;
	if (h->moved != h->nap_moved) {
		h->nap_moved = h->moved;
		h->nap_ns = 0;
	}
	ns = next_nap(h);
	if (h->tell_room) {
		/* What woke him may be what we have just cleared. */
		h->tell_room = false;
		set_timer(h, 1);
	} else if (ns == FOR_EVER) {
		if (h->timer_ns)
			set_timer(h, 0);
	} else if (ns < HEAR_EVERY || !h->timer_ns || ns < h->timer_ns) {
		/* A long one may end early: no call for each message. */
		set_timer(h, ns);
	}
	return nothing_now();
}

bool hub_want_room(struct vmp_hub *h, struct lane *l, size_t len)
{
	int64_t ns;

	l->room = chan_need(l->ch, len);
	if (h->bells)
		wait_arm(l->ch, TX);
	/* Pairs with the fence in chan_notify(). */
	vmpr_full_fence();
	if (chan_look(l->ch, TX, l->room)) {
		hub_need_no_room(h, l);
		return true;
	}
	/* Its doorbell has not proved itself, or there is none. */
	ns = next_nap(h);
	if (ns != FOR_EVER && (!h->timer_ns || ns < h->timer_ns))
		set_timer(h, ns);
	return false;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

VMP_API int vmp_hub_fd(struct vmp_hub *h)
{
	int r;

	if (h->ufd >= 0)
		return h->ufd;
	r = wait_set(h->p, h->bells, h->opts.vector, h->watch);
	if (r < 0)
		return r;
	h->ufd = r;
	h->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	r = h->timer < 0 ? vmp_fail(-errno, "timerfd_create: %s", strerror(errno)) : wait_watch(h->ufd, h->timer, EPOLLIN, WOKE_TIMER);
	if (r) {
		close_fd(&h->timer);
		close_fd(&h->ufd);
		return r;
	}
	/* Readable at once: a call that said -EAGAIN before this armed nothing. */
	set_timer(h, 1);
	return h->ufd;
}

/* ---- Waiting ------------------------------------------------------------------- */

int hub_poll_tables(struct vmp_hub *h)
{
	int64_t t = now_ns();
	int bits;

	if (t - h->polled_at < MS)
		return 0;
	h->polled_at = t;
	count(&h->n.syscalls, 1);
	bits = wait_collect(h->ep, 0);
	return bits > 0 ? woken(h, bits) : 0;
}

static int do_not_wait(struct vmp_hub *h, struct patience *pt)
{
	int r;

	if (h->ufd < 0) {
		answer(h);
		r = hub_poll_tables(h);
		return r ? r : nothing_now();
	}
	r = arm_fd(h);
	if (r || !pt->spun) {
		pt->spun = true;
		return r;
	}
	/* There is something each time, and then there is not: later. */
	set_timer(h, 1);
	return nothing_now();
}

int hub_wait(struct vmp_hub *h, struct patience *pt)
{
	int64_t left = FOR_EVER, slice;

	if (!pt->timeout_ms)
		return do_not_wait(h, pt);
	if (!pt->started) {
		pt->started = true;
		pt->deadline = now_ns() + pt->timeout_ms * MS;
	}
	if (pt->timeout_ms > 0) {
		left = pt->deadline - now_ns();
		if (left <= 0)
			return vmp_fail(-ETIMEDOUT, "%s: nothing within %d ms", h->p->info.identity, pt->timeout_ms);
	}
	if (!pt->spun || h->opts.flags & VMP_CH_NO_SLEEP) {
		slice = h->opts.flags & VMP_CH_NO_SLEEP ? MS :
			h->opts.spin_us ? h->opts.spin_us * US : h->spin_ns;
		pt->spun = true;
		h->nap_ns = 0;
		if (spin(h, slice < left ? slice : left))
			return 0;
		return h->opts.flags & VMP_CH_NO_SLEEP ? hub_poll_tables(h) : 0;
	}
	return sleep_once(h, left);
}

int hub_waits_init(struct vmp_hub *h)
{
	h->ep = h->ufd = h->timer = h->watch = -1;
	h->spin_ns = SPIN_FIRST;
	h->bells = h->p->info.caps & VMP_CAP_EVENTS && !(h->opts.flags & VMP_CH_NO_SLEEP) &&
		   h->p->info.peer_id != VMP_PEER_NONE;
	h->watch = wait_tables(h->p);
	if (h->watch < 0)
		return h->watch;
	h->ep = wait_set(h->p, h->bells, h->opts.vector, h->watch);
	return h->ep < 0 ? h->ep : 0;
}

void hub_waits_close(struct vmp_hub *h)
{
	close_fd(&h->ufd);
	close_fd(&h->timer);
	close_fd(&h->ep);
	close_fd(&h->watch);
}
