// SPDX-License-Identifier: MIT
/*
 * What a process asks portald for, of a managed portal: its session, a verdict; and the
 * word that a table has changed.
 *
 * Any thread may read the answer, for all read the one socket: it is left in the client.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "efd.h"
#include "layout.h"
#include "unix.h"

#define ANSWER_MS	10000
#define SLICE_MS	20	/* another thread may have read the answer while we went to sleep */
#define LIFELINE_SIZE	4096U

/*
 * From here on this address space alone holds the lifeline. A thread that forks between the
 * packet's arrival and madvice gives a child a copy: then the session ends with that, too.
 */
static int take_lifeline(struct client *c, struct packet *k)
{
	void *at;

	if (c->lifeline || k->nfd != 1 || !k->m.value)
		return vmp_fail(-EPROTO, "a session with %u lifelines", k->nfd);
	at = mmap(NULL, LIFELINE_SIZE, PROT_NONE, MAP_SHARED, k->fd[0], 0);
	if (at == MAP_FAILED)
		return vmp_fail(-EPROTO, "the lifeline cannot be mapped: %s", strerror(errno));
	if (!madvise(at, LIFELINE_SIZE, MADV_DONTFORK)) {
		c->lifeline = at;
		c->token = k->m.value;
		return 0;
	}
	vmp_fail(-EPROTO, "the lifeline cannot be kept from child processes: %s", strerror(errno));
	munmap(at, LIFELINE_SIZE);
	return -EPROTO;
}

int vmp_unix_answer(struct client *c, struct packet *k)
{
	int r = 0;

	if (k->m.type == PD_CHANGE) {
		if (k->nfd)
			return vmp_fail(-EPROTO, "a change with %u descriptors", k->nfd);
		vmp_efd_signal(c->news, false);
		return 0;
	}
	if (k->m.type != c->question.type)
		return vmp_fail(-EPROTO, "an answer (type %u) to no question", k->m.type);
	if (k->m.type == PD_SESSION && !k->m.arg)
		r = take_lifeline(c, k);
	else if (k->nfd)
		r = vmp_fail(-EPROTO, "an answer with %u descriptors", k->nfd);
	if (r)
		return r;
	c->question.type = 0;
	c->answer = k->m;
	c->answer.text[sizeof(c->answer.text) - 1] = 0;
	return 0;
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

/* Lock held, and given up while waiting. 0, or why there is no answer. */
static int await(struct client *c, int64_t until)
{
	struct pollfd f = { c->sock, POLLIN, 0 };

	for (;;) {
		vmp_unix_catch_up(c);
		if (c->answer.type)
			return 0;
		if (c->sock < 0)
			return vmp_fail(-ENOTCONN, "unix:%s: portald is gone; close the portal and open it anew", c->path);
		if (now_ms() > until)
			return vmp_fail(-ETIMEDOUT, "unix:%s: portald does not answer", c->path);
		pthread_mutex_unlock(&c->lock);
		poll(&f, 1, SLICE_MS);
		pthread_mutex_lock(&c->lock);
	}
}

/* Lock held. */
static int put_question(struct client *c, const struct pd_msg *q)
{
	if (c->question.type)
		return memcmp(&c->question, q, sizeof(*q)) ?
			vmp_fail(-EBUSY, "unix:%s: portald has not answered an earlier question yet", c->path) : 0;
	if (c->sock < 0)
		return vmp_fail(-ENOTCONN, "unix:%s: portald is gone; close the portal and open it anew", c->path);
	c->answer.type = 0;
	c->question = *q;
	if (send(c->sock, q, sizeof(*q), MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(*q))
		return 0;
	c->question.type = 0;
	return vmp_fail(-errno, "unix:%s: asking portald: %s", c->path, strerror(errno));
}

/* Ask the server, and wait. 0, or the error it answers; c->answer is the answer. Asking held. */
static int ask(struct client *c, const struct pd_msg *q)
{
	int r;

	pthread_mutex_lock(&c->lock);
	r = put_question(c, q);
	if (!r)
		r = await(c, now_ms() + ANSWER_MS);
	pthread_mutex_unlock(&c->lock);
	if (!r && c->answer.arg)
		r = vmp_fail(c->answer.arg < 4096 ? -(int)c->answer.arg : -EPROTO, "unix:%s: %s", c->path,
			     c->answer.text);
	return r;
}

/* An answer that came when nobody waited for it any more is one all the same. Asking held. */
static bool has_session(struct client *c, uint64_t *token)
{
	bool has;

	pthread_mutex_lock(&c->lock);
	vmp_unix_catch_up(c);
	has = c->lifeline;
	*token = c->token;
	if (!has && c->question.type != PD_SESSION)
		c->tables = c->p->super->incarnation;
	pthread_mutex_unlock(&c->lock);
	return has;
}

/*
 * A connection has one session, and a token is good for one formatting: we may have
 * formatted the portal ourselves since.
 */
static int other_tables(struct client *c)
{
	return vmp_fail(-ESTALE, "unix:%s: was formatted anew since this process joined it; close it and open it anew",
			c->path);
}

int vmp_unix_session(struct vmp *p, uint32_t vector, uint64_t *token)
{
	struct pd_msg q = { .type = PD_SESSION, .arg = vector };
	struct client *c = p->priv;
	int r;

	if (c->machine)
		return vmp_fail(-EOPNOTSUPP, "unix:%s: served by a machine, not by portald: it has no sessions", c->path);
	r = vmp_same_tables(p);
	if (r)
		return r;
	pthread_mutex_lock(&c->asking);
	r = has_session(c, token) ? 0 : ask(c, &q);
	if (!r && c->tables != p->super->incarnation)
		r = other_tables(c);
	if (!r)
		*token = c->token;
	pthread_mutex_unlock(&c->asking);
	return r;
}

int vmp_unix_fence(struct vmp *p, uint32_t slot, uint64_t claim)
{
	struct pd_msg q = { .type = PD_FENCE, .id = slot, .value = claim };
	struct client *c = p->priv;
	int r;

	if (c->machine)
		return vmp_fail(-EOPNOTSUPP, "unix:%s: served by a machine, not by portald: it fences nobody", c->path);
	pthread_mutex_lock(&c->asking);
	r = ask(c, &q);
	pthread_mutex_unlock(&c->asking);
	return r;
}

void vmp_unix_end_session(struct client *c)
{
	if (c->lifeline)
		munmap(c->lifeline, LIFELINE_SIZE);
	c->lifeline = NULL;
}

/* The socket for what nobody has read yet, the eventfd for what another thread has. */
int vmp_unix_watch(struct vmp *p, int set)
{
	struct client *c = p->priv;
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET };

	if (epoll_ctl(set, EPOLL_CTL_ADD, p->state_fd, &ev) ||
	    epoll_ctl(set, EPOLL_CTL_ADD, c->news, &ev))
		return vmp_fail(-errno, "unix:%s: epoll_ctl: %s", c->path, strerror(errno));
	return 0;
}

void vmp_unix_watched(struct vmp *p)
{
	struct client *c = p->priv;

	pthread_mutex_lock(&c->lock);
	vmp_unix_catch_up(c);
	pthread_mutex_unlock(&c->lock);
}

/* Nobody may be asleep who would have read it: look. */
bool vmp_unix_lost(struct vmp *p)
{
	struct client *c = p->priv;
	bool lost;

	pthread_mutex_lock(&c->lock);
	vmp_unix_catch_up(c);
	lost = c->sock < 0;
	pthread_mutex_unlock(&c->lock);
	return lost;
}
