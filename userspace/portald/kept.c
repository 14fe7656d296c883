// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kept.h"
#include "managed.h"

/*
 * "PVMKEPT4". Another version's memory has another number: whoever changes anything that
 * lies there, or what it means, changes this.
 */
#define MAGIC 0x345450454b4d5650ULL
_Static_assert(sizeof(struct kept) == 120 && sizeof(struct kept_client) == 104 &&
	       sizeof(struct kept_item) == 16 && sizeof(struct truth) == 4096 + 512 &&
	       sizeof(struct portal_session) == 128, "the kept memory is another: so is MAGIC");

#define TRIES 10U			/* in a row: whatever kills them is in what they take over */
#define SPARE 24U			/* who is accepted before those who go are removed */

/* ---- Places ------------------------------------------------------------------ */

static size_t round_up(size_t v)
{
	return (v + 4095) / 4096 * 4096;
}

/* Sets the numbers, and where each part begins; how long all of it is. */
static size_t plan(struct kept_map *k, const struct portal_conf *c, char *base)
{
	uint32_t ids = conf_host_ids(c);
	size_t at = round_up(sizeof(struct kept));

	/* Guests that are there, and as many whose process alone is watched. */
	k->n = 2 * c->max_guests + 1 + ids + SPARE;
	/* What client_push() bears, and as much again, so that moving is seldom. */
	k->cap = 2 * (4 * (c->max_guests + ids) + 64) + 16;
	k->head = (struct kept *)base;
	k->truth = (struct truth *)(base + at);
	at += round_up(c->managed ? sizeof(struct truth) + c->session_rows * sizeof(struct portal_session) : 0);
	k->freed = (uint64_t *)(base + at);
	at += round_up(ids * sizeof(k->freed[0]));
	k->out = (struct mmsghdr *)(base + at);
	at += round_up(k->n * sizeof(k->out[0]));
	k->client = (struct kept_client *)(base + at);
	at += round_up(k->n * sizeof(k->client[0]));
	k->items = (struct kept_item *)(base + at);
	return at + round_up((size_t)k->n * 2 * k->cap * sizeof(k->items[0]));
}

static int map(struct kept_map *k, int fd, const struct portal_conf *conf, size_t size)
{
	char *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (base == MAP_FAILED)
		return -errno;
	plan(k, conf, base);
	k->fd = fd;
	/* As far as this user may: see kept.h. */
	mlock(k->out, k->n * sizeof(k->out[0]));
	return 0;
}

int kept_create(struct kept_map *k, const struct portal_conf *conf)
{
	size_t size = plan(k, conf, NULL);
	int fd = memfd_create("vmportal-kept", MFD_CLOEXEC | MFD_ALLOW_SEALING), ret;

	if (fd < 0)
		return -errno;
	ret = ftruncate(fd, (off_t)size) < 0 || fchmod(fd, 0600) < 0 ||
	      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ?
	      -errno : map(k, fd, conf, size);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	*k->head = (struct kept){
		.magic = MAGIC, .size = size,
		.next_gen = 1, .next_id = conf->first_guest_id, .next_tenure = 1,
		.conf = {
			.size = conf->size, .vectors = conf->vectors, .host_peers = conf->host_peers,
			.max_guests = conf->max_guests, .first_guest_id = conf->first_guest_id,
			.managed = conf->managed, .session_rows = conf->session_rows,
		},
	};
	return 0;
}

static bool is_text(const uint64_t *magic)
{
	const unsigned char *c = (const unsigned char *)magic;
	unsigned int i;

	for (i = 0; i < sizeof(*magic); i++)
		if (c[i] < ' ' || c[i] > '~')
			return false;
	return true;
}

int kept_adopt(struct kept_map *k, int fd, struct portal_conf *conf, struct err *e)
{
	struct portal_conf old = *conf;
	struct kept head;
	struct stat st;
	int ret;

	if (fstat(fd, &st) < 0 || pread(fd, &head, sizeof(head), 0) != sizeof(head))
		return err_set(e, "its memory cannot be read");
	if (head.magic != MAGIC)
		return err_set(e, "its memory is another version's (%.8s, and this one's is %.8s)",
			       is_text(&head.magic) ? (const char *)&head.magic : "?",
			       (const char *)&(uint64_t){ MAGIC });
	if (!head.complete)
		return err_set(e, "it was not there yet when it ended");
	old.size = head.conf.size;
	old.vectors = head.conf.vectors;
	old.host_peers = head.conf.host_peers;
	old.max_guests = head.conf.max_guests;
	old.first_guest_id = head.conf.first_guest_id;
	old.managed = head.conf.managed;
	old.session_rows = head.conf.session_rows;
	if (head.size != (uint64_t)st.st_size || plan(k, &old, NULL) != head.size)
		return err_set(e, "its memory is damaged");
	ret = map(k, fd, &old, head.size);
	if (ret < 0)
		return err_set(e, "its memory cannot be mapped: %s", strerror(-ret));
	if (k->head->tries >= TRIES) {
		munmap(k->head, k->head->size);
		k->head = NULL;
		return err_set(e, "%u starts in a row have ended while they took it over", TRIES);
	}
	kept_store(&k->head->tries, k->head->tries + 1);
	*conf = old;
	return 0;
}

void kept_close(struct kept_map *k)
{
	if (!k->head)
		return;
	munmap(k->head, k->head->size);
	close(k->fd);
	k->head = NULL;
}

/* ---- Records ----------------------------------------------------------------- */

void kept_bind(struct kept_map *k, struct client *c, uint32_t i)
{
	c->k = &k->client[i];
	c->out = &k->out[i];
	sendq_init(&c->q, &c->k->queue, k->items + (size_t)i * 2 * k->cap, k->cap);
}

int kept_attach(struct kept_map *k, struct client *c)
{
	struct kept_client *r;
	uint32_t i;

	for (i = 0; i < k->n && k->client[i].state != KEPT_FREE; i++)
		;
	if (i == k->n)
		return -ENOSPC;
	r = &k->client[i];
	memset(r, 0, sizeof(*r));
	r->gen = k->head->next_gen;
	kept_store(&k->head->next_gen, r->gen + 1);
	r->flags = c->ops == &guest_ops ? KEPT_GUEST : 0;
	r->id = NOBODY;
	c->gen = r->gen;
	r->since = c->since;
	r->pid = c->pid;
	r->uid = c->uid;
	memcpy(r->comm, c->comm, sizeof(r->comm));
	kept_bind(k, c, i);
	return 0;
}

void kept_detach(struct client *c)
{
	if (c->k)
		kept_store32(&c->k->state, KEPT_FREE);
	c->k = NULL;
	c->q.ctl = NULL;
}

bool kept_possible(const struct kept_map *k, const struct portal_conf *conf, uint32_t i)
{
	const struct kept_client *c = &k->client[i];
	uint32_t row = (uint32_t)c->session, state = c->session >> 32;

	if (c->state > KEPT_GHOST || c->flags & ~KEPT_FLAGS || state > KEPT_SESSION_OVER ||
	    (state && (!conf->managed || row >= conf->session_rows)))
		return false;
	/* A process has its id from the beginning. */
	if (!(c->flags & KEPT_GUEST) && (c->state == KEPT_GHOST || c->state == KEPT_NEW ||
					 c->id >= conf->host_peers))
		return false;
	if (c->flags & KEPT_GUEST && c->state != KEPT_NEW &&
	    (c->id >= ID_END || c->id < conf_host_ids(conf)))
		return false;
	return sendq_possible(c->queue, k->items + (size_t)i * 2 * k->cap, k->cap, conf->vectors);
}

/* ---- Sending ----------------------------------------------------------------- */

int kept_send(struct client *c, const void *buf, size_t len, const int *fds, unsigned int n)
{
	struct send_parts parts;
	int ret;

	send_prepare(&parts, &c->out->msg_hdr, buf, len, fds, n);
	c->out->msg_len = 0;
	kept_store(&c->k->sending, sendq_place(&c->q));
	do
		ret = sendmmsg(c->fd, c->out, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (ret < 0 && errno == EINTR);
	kept_step();
	if (ret < 0) {
		ret = -errno;
		kept_store(&c->k->sending, 0);
		return ret;
	}
	/* 8 bytes on a stream and a packet are one buffer each: all or nothing. */
	return c->out->msg_len == len ? 0 : -EIO;
}

void kept_sent(struct client *c)
{
	kept_store(&c->k->sending, 0);
}

bool kept_was_sent(const struct client *c)
{
	return c->k->sending && c->k->sending == sendq_place(&c->q) && c->out->msg_len;
}

/* ---- Requests ---------------------------------------------------------------- */

void kept_request(struct client *c)
{
	c->out->msg_len = 0;
	kept_store(&c->k->request, 1 + sendq_answers(&c->q));
}

int kept_take(struct client *c)
{
	char buf[1];
	struct iovec iov = { buf, sizeof(buf) };
	int ret;

	c->out->msg_hdr = (struct msghdr){ .msg_iov = &iov, .msg_iovlen = 1 };
	do
		ret = recvmmsg(c->fd, c->out, 1, MSG_DONTWAIT | MSG_TRUNC, NULL);
	while (ret < 0 && errno == EINTR);
	kept_step();
	return ret < 0 ? -errno : 0;
}

void kept_request_done(struct client *c)
{
	kept_store(&c->k->request, 0);
}

bool kept_is_begun(const struct client *c)
{
	return c->k->request && !c->out->msg_len;
}

bool kept_is_answered(const struct client *c)
{
	return sendq_answers(&c->q) >= c->k->request;
}

#ifdef PORTALD_STEPS
/*
 * The file that is named in the environment has a number, or nothing: that many steps from
 * where this is seen, the process kills itself. The number is taken out of it.
 */
void kept_step(void)
{
	static int fd = -2;
	static long left;
	char buf[16] = "";

	if (fd == -2)
		fd = getenv("PORTALD_DIE") ? open(getenv("PORTALD_DIE"), O_RDWR | O_CLOEXEC) : -1;
	if (fd < 0)
		return;
	if (!left && pread(fd, buf, sizeof(buf) - 1, 0) > 0) {
		left = atol(buf);
		if (ftruncate(fd, 0) < 0)
			abort();
	}
	if (left && --left == 0)
		kill(getpid(), SIGKILL);
}
#endif
