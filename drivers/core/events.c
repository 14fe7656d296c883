// SPDX-License-Identifier: GPL-2.0-only
/*
 * Events: from a doorbell that arrived to whoever waits for it.
 *
 * A vector counts its events. A file is readable when the count of an unbound
 * vector differs from what the file saw last, so an interrupt costs the same
 * however many files are open, but for those with an eventfd: these are on the
 * vector's list, and each is signalled.
 *
 * Everything about a (file, vector) pair is under the vector's lock, portal_event()
 * included. So an event falls either before or after each bind, unbind and
 * read, is seen exactly once by each file, and an eventfd is never signalled
 * after it was unbound.
 *
 * Counts wrap: only their difference is used, and 2^64 events between two looks
 * of one file do not happen (on a 32-bit kernel 2^32 would read as none at that
 * one moment, and as one after the next event).
 */
#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "core.h"
#include "trace.h"

int portal_vectors_init(struct portal *p, u32 count)
{
	u32 i;

	if (!count)
		return 0;

	p->vectors = kvcalloc(count, sizeof(*p->vectors), GFP_KERNEL);
	if (!p->vectors)
		return -ENOMEM;

	for (i = 0; i < count; i++) {
		spin_lock_init(&p->vectors[i].lock);
		init_waitqueue_head(&p->vectors[i].windows);
		INIT_LIST_HEAD(&p->vectors[i].bindings);
	}
	p->nr_vectors = count;
	return 0;
}

/* Counts an event and tells the eventfds. False: the vector is closed. */
static bool portal_vector_fire(struct portal_vector *vec, bool last)
{
	struct portal_handle_vector *fv;
	unsigned long flags;
	bool open;

	spin_lock_irqsave(&vec->lock, flags);
	open = !vec->closed;
	if (open) {
		vec->closed = last;
		WRITE_ONCE(vec->count, vec->count + 1);
		list_for_each_entry(fv, &vec->bindings, node)
			portal_eventfd_signal(fv->ctx);
	}
	spin_unlock_irqrestore(&vec->lock, flags);
	return open;
}

void portal_event(struct portal *p, u32 vector)
{
	struct portal_vector *vec;

	if (vector >= p->nr_vectors)
		return;

	vec = &p->vectors[vector];
	if (!portal_vector_fire(vec, false))
		return;
	trace_portal_interrupt(p->number, vector, READ_ONCE(vec->count));
	if (vector == READ_ONCE(p->self.notice))
		portal_look_soon(p);

	/*
	 * The barrier in wq_has_sleeper() orders the count before the look at either
	 * queue; it pairs with the one between queueing and looking at the count
	 * in portal_poll(), in wait_event() and in portal_window_wait().
	 */
	if (wq_has_sleeper(&p->wait))
		wake_up_interruptible_poll(&p->wait, EPOLLIN | EPOLLRDNORM);
	/* By the same barrier. */
	if (waitqueue_active(&vec->windows))
		wake_up_interruptible_poll(&vec->windows, EPOLLIN | EPOLLRDNORM);
}
EXPORT_SYMBOL_GPL(portal_event);

/*
 * One event on each vector that no doorbell caused; if @last, also the last one
 * ever, for after this an eventfd can be bound no more. The caller wakes
 * all.
 */
void portal_vectors_signal(struct portal *p, bool last)
{
	u32 i;

	for (i = 0; i < p->nr_vectors; i++) {
		portal_vector_fire(&p->vectors[i], last);
		cond_resched();
	}
}

/* After a change of the state: every waiter looks again. */
void portal_wake_all(struct portal *p)
{
	u32 i;

	wake_up_all(&p->wait);
	wake_up_all(&p->windows);
	for (i = 0; i < p->nr_vectors; i++)
		wake_up_all(&p->vectors[i].windows);
}

/* What was before the open is none of this file's business. */
void portal_handle_vectors_init(struct portal_handle *h)
{
	struct portal *p = h->portal;
	u32 i;

	for (i = 0; i < h->nr_vectors; i++)
		h->vectors[i].seen = READ_ONCE(p->vectors[i].count);
}

void portal_handle_vectors_exit(struct portal_handle *h)
{
	u32 i;

	for (i = 0; i < h->nr_vectors; i++)
		portal_bind(h, i, NULL);
}

/* Whether one more file of @h's owner may bind the vector; under its lock. */
static bool portal_may_bind(struct portal_handle *h, u32 vector)
{
	struct portal_vector *vec = &h->portal->vectors[vector];
	const unsigned int most = h->window ? PORTAL_MAX_WINDOW_BINDINGS : PORTAL_MAX_BINDINGS;
	struct portal_handle_vector *fv;
	unsigned int own = 0;

	if (vec->nr_bindings >= most)
		return false;
	if (vec->nr_bindings < PORTAL_MAX_USER_BINDINGS)
		return true;
	list_for_each_entry(fv, &vec->bindings, node) {
		struct portal_handle *other;

		other = container_of(fv - vector, struct portal_handle, vectors[0]);
		own += uid_eq(other->owner, h->owner);
	}
	return own < PORTAL_MAX_USER_BINDINGS;
}

/**
 * portal_bind() - bind an eventfd to a vector, or none
 * @h: the file
 * @vector: one of its own
 * @ctx: a reference, which is consumed on success; NULL to unbind
 *
 * Events that the file has not read yet go over to the eventfd as one signal,
 * so that none is lost between the two ways of waiting. Returns 0, -ENODEV if the
 * portal is gone, or -EBUSY if there are too many, in all or of one user; always 0 for
 * NULL.
 */
int portal_bind(struct portal_handle *h, u32 vector, struct eventfd_ctx *ctx)
{
	struct portal_vector *vec = &h->portal->vectors[vector];
	struct portal_handle_vector *fv = &h->vectors[vector];
	struct eventfd_ctx *old;
	unsigned long flags;
	int ret = 0;

	spin_lock_irqsave(&vec->lock, flags);
	old = fv->ctx;
	if (ctx && vec->closed)
		ret = -ENODEV;
	else if (ctx && !old && !portal_may_bind(h, vector))
		ret = -EBUSY;
	if (ret) {
		spin_unlock_irqrestore(&vec->lock, flags);
		return ret;
	}

	if (old) {
		list_del(&fv->node);
		vec->nr_bindings--;
	} else if (ctx && fv->seen != vec->count) {
		portal_eventfd_signal(ctx);
	}
	if (ctx) {
		list_add_tail(&fv->node, &vec->bindings);
		vec->nr_bindings++;
	}
	/* portal_readable() looks at both without the lock. */
	WRITE_ONCE(fv->seen, vec->count);
	WRITE_ONCE(fv->ctx, ctx);
	spin_unlock_irqrestore(&vec->lock, flags);

	if (old)
		eventfd_ctx_put(old);
	return 0;
}

/* Without locks: true sooner or later than the event, and the waker's barrier sees to "later". */
bool portal_readable(struct portal_handle *h)
{
	struct portal *p = h->portal;
	u32 i;

	for (i = h->first_vector; i < h->nr_vectors; i++) {
		if (h->vectors[i].mine && !READ_ONCE(h->vectors[i].ctx) &&
		    READ_ONCE(h->vectors[i].seen) != READ_ONCE(p->vectors[i].count))
			return true;
	}
	return false;
}

/* Tables changed, which the file has not seen; without the lock as above. */
bool portal_has_changed(struct portal_handle *h)
{
	return READ_ONCE(h->changes) != READ_ONCE(h->portal->changes);
}

static unsigned long portal_take_changes(struct portal_handle *h)
{
	unsigned long n;

	spin_lock(&h->lock);
	n = READ_ONCE(h->portal->changes) - h->changes;
	WRITE_ONCE(h->changes, h->changes + n);
	spin_unlock(&h->lock);
	return n;
}

static void portal_give_back_changes(struct portal_handle *h, unsigned long n)
{
	spin_lock(&h->lock);
	WRITE_ONCE(h->changes, h->changes - n);
	spin_unlock(&h->lock);
	wake_up_interruptible_poll(h->window ? &h->portal->windows : &h->portal->wait, EPOLLPRI);
}

/* Takes the events of one vector; 0: there is none. */
static unsigned long portal_take(struct portal_handle *h, u32 vector)
{
	struct portal_vector *vec = &h->portal->vectors[vector];
	struct portal_handle_vector *fv = &h->vectors[vector];
	unsigned long flags, n = 0;

	if (!fv->mine || READ_ONCE(fv->seen) == READ_ONCE(vec->count))
		return 0;

	spin_lock_irqsave(&vec->lock, flags);
	if (!fv->ctx) {
		n = vec->count - fv->seen;
		WRITE_ONCE(fv->seen, vec->count);
	}
	spin_unlock_irqrestore(&vec->lock, flags);
	return n;
}

/* Takes up to @max events that the file has not seen, changes first, one record per vector. */
int portal_collect(struct portal_handle *h, struct portal_event *ev, int max)
{
	u32 nr = h->nr_vectors;
	u32 start = READ_ONCE(h->next);
	int n = 0;
	u32 i;

	if (max && portal_has_changed(h)) {
		ev[n] = (struct portal_event) {
			.type = PORTAL_EVENT_CHANGE,
			.count = portal_take_changes(h),
		};
		n += !!ev[n].count;
	}
	for (i = 0; i < nr && n < max; i++) {
		u32 vector = (start + i) % nr;
		unsigned long count = portal_take(h, vector);

		if (!count)
			continue;
		ev[n++] = (struct portal_event) {
			.type = PORTAL_EVENT_DOORBELL,
			.vector = vector,
			.count = count,
		};
		WRITE_ONCE(h->next, vector + 1);
	}
	return n;
}

/*
 * Undoes portal_collect() for events that could not be copied to the reader. Who
 * looked in between saw nothing and sleeps: it must look again.
 */
void portal_give_back(struct portal_handle *h, const struct portal_event *ev, int n)
{
	const __poll_t in = EPOLLIN | EPOLLRDNORM;

	for (; n; n--, ev++) {
		struct portal_vector *vec = &h->portal->vectors[ev->vector];
		struct portal_handle_vector *fv = &h->vectors[ev->vector];
		unsigned long flags;

		if (ev->type == PORTAL_EVENT_CHANGE) {
			portal_give_back_changes(h, ev->count);
			continue;
		}
		spin_lock_irqsave(&vec->lock, flags);
		if (!fv->ctx)
			WRITE_ONCE(fv->seen, fv->seen - (unsigned long)ev->count);
		else
			portal_eventfd_signal(fv->ctx);
		spin_unlock_irqrestore(&vec->lock, flags);
		if (h->window)
			wake_up_interruptible_poll(&vec->windows, in);
	}
	if (!h->window)
		wake_up_interruptible_poll(&h->portal->wait, in);
}

/*
 * Sleeps in the queues of a window's own vectors, until there is an event or the portal
 * ends. set_current_state() has the barrier that portal_event() counts on.
 */
static int portal_window_wait(struct portal_handle *h)
{
	struct portal *p = h->portal;
	struct wait_queue_entry *w;
	int ret = 0;
	u32 i;

	w = kvcalloc(h->nr_vectors + 1, sizeof(*w), GFP_KERNEL_ACCOUNT);
	if (!w)
		return -ENOMEM;
	for (i = h->first_vector; i < h->nr_vectors; i++) {
		init_waitqueue_entry(&w[i], current);
		if (h->vectors[i].mine)
			add_wait_queue(&p->vectors[i].windows, &w[i]);
	}
	init_waitqueue_entry(&w[i], current);
	add_wait_queue(&p->windows, &w[i]);

	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (portal_is_dead(p) || portal_readable(h) || portal_has_changed(h))
			break;
		if (signal_pending(current)) {
			ret = -ERESTARTSYS;
			break;
		}
		schedule();
	}
	__set_current_state(TASK_RUNNING);

	remove_wait_queue(&p->windows, &w[h->nr_vectors]);
	for (i = h->first_vector; i < h->nr_vectors; i++) {
		if (h->vectors[i].mine)
			remove_wait_queue(&p->vectors[i].windows, &w[i]);
	}
	kvfree(w);
	return ret;
}

/* 0: there is an event, or was until another thread took it, or the portal is gone. */
int portal_wait_readable(struct portal_handle *h)
{
	struct portal *p = h->portal;

	if (h->window)
		return portal_window_wait(h);
	return wait_event_interruptible(p->wait, portal_is_dead(p) || portal_readable(h) ||
						 portal_has_changed(h));
}

static void portal_poll_queues(struct file *file, struct poll_table_struct *wait)
{
	struct portal_handle *h = file->private_data;
	struct portal *p = h->portal;
	u32 i;

	if (!h->window) {
		poll_wait(file, &p->wait, wait);
		return;
	}
	poll_wait(file, &p->windows, wait);
	for (i = h->first_vector; i < h->nr_vectors; i++) {
		if (h->vectors[i].mine)
			poll_wait(file, &p->vectors[i].windows, wait);
	}
}

__poll_t portal_poll(struct file *file, struct poll_table_struct *wait)
{
	struct portal_handle *h = file->private_data;
	struct portal *p = h->portal;
	__poll_t events = 0;

	portal_poll_queues(file, wait);
	/*
	 * First be in the queue, then look. Pairs with wq_has_sleeper() in
	 * portal_event(); kernels before 6.14 have no barrier in poll_wait().
	 */
	smp_mb();
	if (portal_is_dead(p))
		return EPOLLHUP | EPOLLERR;
	if (!(file->f_mode & FMODE_READ))
		return 0;
	if (portal_readable(h))
		events |= EPOLLIN | EPOLLRDNORM;
	/* Not EPOLLIN: who waits for doorbells does not read what he did not ask for. */
	if (portal_has_changed(h))
		events |= EPOLLPRI;
	return events;
}
