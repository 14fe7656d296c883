// SPDX-License-Identifier: MIT
/*
 * A process on the host: portald's client (protocol: portald/proto.h).
 *
 * The server is not trusted with more than the memory: every packet is checked, and
 * one that breaks the protocol ends the connection. After a lost connection what
 * was there stays usable, memory and doorbells, for the machines beyond it go on;
 * nobody tells any more who comes and goes.
 */
#include <inttypes.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/un.h>
#include <time.h>
#include <fcntl.h>
#include <unistd.h>

#include "efd.h"
#include "unix.h"

#define GREET_MS	10000	/* for the server to tell everything at connect */
#define AGAIN		5U	/* connects within that time, if the server hangs up without a word: */
#define AGAIN_MS	10	/* after so long, then twice as long */
#define MAX_PEERS	65536U
#define READS_AT_ONCE	256	/* packets read in one go: a flood must not hold us up */

static void drop_fds(struct packet *k)
{
	while (k->nfd)
		close(k->fd[--k->nfd]);
}

/* Take the descriptors out of @h. */
static void take_fds(struct msghdr *h, struct packet *k)
{
	struct cmsghdr *c;
	size_t n, i;

	for (c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (k->nfd < PD_MAX_FDS)
				k->fd[k->nfd++] = fd;
			else
				close(fd);
		}
	}
}

/* One packet: 1, 0 at the end of the connection, -EAGAIN, or -EPROTO. */
static int receive(int sock, struct packet *k)
{
	union {
		char buf[CMSG_SPACE(PD_MAX_FDS * sizeof(int))];
		struct cmsghdr align;
	} u;
	struct iovec v = { &k->m, sizeof(k->m) };
	struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = u.buf,
			    .msg_controllen = sizeof(u.buf) };
	ssize_t n;

	k->nfd = 0;
	do {
		n = recvmsg(sock, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -EAGAIN : errno == ECONNRESET ? 0 : -EPROTO;
	take_fds(&h, k);
	if (n == 0) {
		drop_fds(k);
		return 0;
	}
	if (n == sizeof(k->m) && !(h.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return 1;
	drop_fds(k);
	return -EPROTO;
}

static struct peer *find(struct client *c, uint32_t id)
{
	return id < c->npeers ? &c->peers[id] : NULL;
}

static struct peer *make(struct client *c, uint32_t id)
{
	uint32_t n = c->npeers ? c->npeers : 16;
	struct peer *a;

	if (id >= MAX_PEERS)
		return NULL;
	if (id < c->npeers)
		return &c->peers[id];
	while (n <= id)
		n *= 2;
	a = realloc(c->peers, n * sizeof(*a));
	if (!a)
		return NULL;
	memset(a + c->npeers, 0, (n - c->npeers) * sizeof(*a));
	c->peers = a;
	c->npeers = n;
	return &a[id];
}

static void put_bells(struct bells *b)
{
	uint32_t i;

	if (!b || __atomic_sub_fetch(&b->refs, 1, __ATOMIC_ACQ_REL))
		return;
	for (i = 0; i < VMP_MAX_VECTORS; i++)
		if (b->fd[i] >= 0)
			close(b->fd[i]);
	free(b);
}

static struct bells *new_bells(void)
{
	struct bells *b = malloc(sizeof(*b));

	if (b) {
		b->refs = 1;
		memset(b->fd, 0xff, sizeof(b->fd));
	}
	return b;
}

static void forget(struct peer *x)
{
	put_bells(x->bells);
	x->bells = NULL;
	x->here = false;
}

/* PEER about ourselves: the eventfds that others ring. */
static int take_own(struct client *c, struct packet *k)
{
	uint32_t i;

	for (i = 0; i < k->nfd; i++) {
		uint32_t v = k->m.arg + i;

		if (v >= c->vectors || c->own[v] >= 0)
			return vmp_fail(-EPROTO, "vector %u came twice, or was not announced", v);
		c->own[v] = k->fd[i];
		k->fd[i] = -1;
	}
	c->p->tenure = k->m.value;
	return 0;
}

static int take_peer(struct client *c, struct packet *k)
{
	struct peer *x;
	uint32_t i;

	if (k->m.arg >= VMP_MAX_VECTORS || k->nfd > VMP_MAX_VECTORS - k->m.arg)
		return vmp_fail(-EPROTO, "vectors beyond %u", VMP_MAX_VECTORS);
	for (i = 0; i < k->nfd; i++)
		if (vmp_efd_check(k->fd[i]))
			return -EPROTO;
	if (k->m.id == c->id)
		return take_own(c, k);
	x = make(c, k->m.id);
	if (!x)
		return vmp_fail(-EPROTO, "peer id %u", k->m.id);
	if (!x->bells)
		x->bells = new_bells();
	if (!x->bells)
		return vmp_fail(-ENOMEM, "out of memory");
	for (i = 0; i < k->nfd; i++) {
		if (x->bells->fd[k->m.arg + i] >= 0)
			return vmp_fail(-EPROTO, "an eventfd of peer %u came twice", k->m.id);
		x->bells->fd[k->m.arg + i] = k->fd[i];
		k->fd[i] = -1;
	}
	x->here = true;
	x->tenure = k->m.value;
	return 0;
}

/* One or several are gone, of whom we may not have heard before. */
static int take_gone(struct client *c, const struct pd_msg *m)
{
	uint32_t last = m->arg > m->id ? m->arg : m->id, id;
	struct peer *x;

	if (last >= MAX_PEERS || (m->value && last != m->id))
		return vmp_fail(-EPROTO, "the end of peers %u to %u", m->id, last);
	if (!make(c, last))
		return vmp_fail(-ENOMEM, "out of memory");
	for (id = m->id; id <= last; id++) {
		x = &c->peers[id];
		x->gone++;
		if (m->value)
			x->ended = m->value;
		forget(x);
	}
	/* Whoever reads this may not be whom it concerns. */
	vmp_notice(c->p);
	return 0;
}

/* A packet after WELCOME: 0, 1 for READY, or the error that ends the connection. */
static int handle(struct client *c, struct packet *k)
{
	unsigned int i;
	int r;

	if (k->m.type == PD_PEER) {
		r = take_peer(c, k);
	} else if (k->m.type == PD_GONE && !k->nfd) {
		r = take_gone(c, &k->m);
	} else if (k->m.type == PD_READY && !k->nfd) {
		r = 1;
	} else if (k->m.type == PD_SESSION || k->m.type == PD_FENCE || k->m.type == PD_CHANGE) {
		r = vmp_unix_answer(c, k);
	} else {
		r = vmp_fail(-EPROTO, "a packet of type %u with %u descriptors", k->m.type, k->nfd);
	}
	for (i = 0; i < k->nfd; i++)
		if (k->fd[i] >= 0)
			close(k->fd[i]);
	k->nfd = 0;
	return r;
}

/* The connection is lost. Portald's end is nobody else's; a machine's is. */
static void lose(struct client *c)
{
	uint32_t id;

	c->sock = -1;
	for (id = 0; c->machine && id < c->npeers; id++) {
		struct peer *x = &c->peers[id];

		if (!x->here)
			continue;
		x->gone++;
		x->ended = x->tenure;
		forget(x);
	}
	if (c->machine)
		vmp_notice(c->p);
}

/* Read what the server has said, without waiting. Lock held. */
void vmp_unix_catch_up(struct client *c)
{
	struct packet k;
	int r = 0, n;

	/* What a child reads its parent never hears of. */
	if (!vmp_mapped_here(c->p))
		return;
	for (n = 0; c->sock >= 0; n++) {
		if (n == READS_AT_ONCE) {
			/* Sleepers are woken by what comes, not by what is there. */
			vmp_notice(c->p);
			return;
		}
		r = receive(c->sock, &k);
		if (r == -EAGAIN)
			return;
		if (r > 0)
			r = handle(c, &k) < 0 ? -EPROTO : 1;
		/* Lost, or it talks nonsense: nothing is read any more. */
		if (r <= 0)
			lose(c);
	}
}

static int unix_service(struct vmp *p)
{
	struct client *c = p->priv;

	pthread_mutex_lock(&c->lock);
	vmp_unix_catch_up(c);
	pthread_mutex_unlock(&c->lock);
	return 0;
}

static int unix_ring(struct vmp *p, uint32_t peer, uint32_t vector)
{
	struct client *c = p->priv;
	struct bells *b = NULL;
	int fd = -1, try, r;
	bool lost;

	pthread_mutex_lock(&c->lock);
	for (try = 0; try < 2 && fd < 0 && vector < VMP_MAX_VECTORS; try++) {
		struct peer *x;

		if (try)
			vmp_unix_catch_up(c);
		x = find(c, peer);
		if (peer == c->id)
			fd = c->own[vector];
		else if (x && x->here && x->bells)
			fd = x->bells->fd[vector];
		if (fd >= 0 && peer != c->id) {
			b = x->bells;
			__atomic_add_fetch(&b->refs, 1, __ATOMIC_RELAXED);
		}
	}
	lost = c->sock < 0;
	pthread_mutex_unlock(&c->lock);
	/* Not under the lock: see vmp_efd_signal(). */
	if (fd >= 0)
		r = vmp_efd_signal(fd, true);
	else
		r = vmp_fail(-ENXIO, "unix:%s: no peer %u with a vector %u is connected%s", c->path,
			     peer, vector, lost ? ", and portald is gone" : "");
	put_bells(b);
	return r;
}

static int unix_eventfd(struct vmp *p, uint32_t vector)
{
	struct client *c = p->priv;

	return c->own[vector] >= 0 ? c->own[vector] :
		vmp_fail(-EPROTO, "unix:%s: the server gave no eventfd for vector %u", c->path, vector);
}

static uint32_t unix_gone(struct vmp *p, uint32_t peer, uint64_t tenure)
{
	struct client *c = p->priv;
	struct peer *x;
	uint32_t n;

	pthread_mutex_lock(&c->lock);
	vmp_unix_catch_up(c);
	x = find(c, peer);
	/*
	 * Its predecessors' ends may still be on their way to us, and are not its own: a
	 * tenure tells. A guest's id has no other holder.
	 */
	if (tenure)
		n = x && (x->ended >= tenure || x->tenure > tenure);
	else
		n = x ? x->gone : 0;
	pthread_mutex_unlock(&c->lock);
	return n;
}

static void unix_close(struct vmp *p)
{
	struct client *c = p->priv;
	uint32_t i;

	for (i = 0; i < c->npeers; i++)
		forget(&c->peers[i]);
	free(c->peers);
	/* The region is unmapped: no store of ours any more. In a child it never was ours. */
	if (vmp_mapped_here(p))
		vmp_unix_end_session(c);
	if (c->news >= 0)
		close(c->news);
	for (i = 0; i < VMP_MAX_VECTORS; i++)
		if (c->own[i] >= 0)
			close(c->own[i]);
	if (p->state_fd >= 0)
		close(p->state_fd);
	pthread_mutex_destroy(&c->lock);
	pthread_mutex_destroy(&c->asking);
	free(c);
}

static const struct vmp_ops unix_ops = {
	.transport = "portald",
	.ring = unix_ring,
	.ring_calls = 2,
	.eventfd = unix_eventfd,
	.service = unix_service,
	.gone = unix_gone,
	.close = unix_close,
	.session = vmp_unix_session,
	.watch = vmp_unix_watch,
	.watched = vmp_unix_watched,
	.lost = vmp_unix_lost,
	.fence = vmp_unix_fence,
	.keeps_eventfds = true,
	.own_process = true,
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

/* Wait for a packet until @until: as receive(), or -EINTR. */
static int await(int sock, struct packet *k, int64_t until)
{
	struct pollfd f = { sock, POLLIN, 0 };
	int64_t left;
	int r;

	for (;;) {
		r = receive(sock, k);
		if (r != -EAGAIN)
			return r;
		left = until - now_ms();
		if (left <= 0)
			return -EAGAIN;
		if (poll(&f, 1, (int)left) < 0)
			return -errno;
	}
}

/*
 * The region must stay as long as it is mapped: a memfd that is sealed against
 * shrinking, or a dma-buf, whose size nobody can change.
 */
static bool keeps_size(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct statfs fs;

	if (seals >= 0)
		return seals & F_SEAL_SHRINK;
	return !fstatfs(fd, &fs) && fs.f_type == DMA_BUF_MAGIC;
}

static int check_region(const struct client *c, int fd, uint64_t size)
{
	struct stat st;

	if (fstat(fd, &st) || st.st_size < 0 || (uint64_t)st.st_size < size || !size)
		return vmp_fail(-EPROTO, "unix:%s: the server announced %" PRIu64 " bytes but its memory has not as many",
				c->path, size);
	if (!keeps_size(fd))
		return vmp_fail(-EPROTO, "unix:%s: the server's memory is not sealed against shrinking, so it could crash this process; use portald",
				c->path);
	return 0;
}

static int take_welcome(struct vmp *p, struct client *c, struct packet *k)
{
	int r;

	k->m.text[sizeof(k->m.text) - 1] = 0;
	if (k->m.type == PD_REFUSE)
		return vmp_fail(k->m.arg > 0 && k->m.arg < 4096 ? -(int)k->m.arg : -EPROTO,
				"unix:%s: %s", c->path, k->m.text);
	if (k->m.type != PD_WELCOME || k->nfd != 1 || k->m.arg > VMP_MAX_VECTORS ||
	    k->m.id >= MAX_PEERS)
		return vmp_fail(-EPROTO, "unix:%s: the answer is not portald's (protocol %u)",
				c->path, PD_VERSION);
	c->id = k->m.id;
	c->vectors = k->m.arg;
	c->machine = k->m.flags & PD_MACHINE;
	r = check_region(c, k->fd[0], k->m.value);
	return r ? r : vmp_map_fd(p, k->fd[0], k->m.value, c->path);
}

/* With the reason, if it is known. */
static void broken_greeting(const struct client *c, int r)
{
	char why[160];

	snprintf(why, sizeof(why), "%s", vmp_errmsg());
	vmp_fail(r, "unix:%s: the server broke the protocol during the greeting: %s", c->path, why);
}

static int hung_up(const struct client *c)
{
	return c->unheard ?
		vmp_fail(-EPROTO, "unix:%s: the server hung up before its first word, again and again: portald is just starting (try again), or it is not portald's socket (QEMU's ends in .ivshmem)",
			 c->path) :
		vmp_fail(-EPROTO, "unix:%s: the server hung up during the greeting: portald's log says why", c->path);
}

/* Whether it is talking at this very moment or not. */
static int endless_greeting(const struct client *c)
{
	return vmp_fail(-ETIMEDOUT, "unix:%s: the server's greeting does not come to an end",
			c->path);
}

/* HELLO, and all that the server tells until READY. */
static int greet(struct vmp *p, struct client *c, int64_t until)
{
	struct pd_msg hello = { .type = PD_HELLO, .id = PD_MAGIC, .arg = PD_VERSION,
				.flags = p->flags & VMP_RDONLY ? PD_RDONLY : 0 };
	bool welcome = false;
	struct packet k;
	int r;

	/* Refused at the door (too many clients): the reason may be there to read. */
	if (send(c->sock, &hello, sizeof(hello), MSG_NOSIGNAL) != sizeof(hello) && errno != EPIPE)
		return vmp_fail(-errno, "unix:%s: %s", c->path, strerror(errno));
	for (;;) {
		r = await(c->sock, &k, until);
		if (r == 0 && !welcome)
			c->unheard = true;
		if (r == 0)
			return hung_up(c);
		if (r == -EAGAIN && welcome)
			return endless_greeting(c);
		if (r == -EAGAIN)
			return vmp_fail(-ETIMEDOUT, "unix:%s: the server does not answer: portald is stopped, or not back yet after a restart, or it is not portald's socket (QEMU's ends in .ivshmem)",
					c->path);
		if (r < 0)
			return vmp_fail(r, "unix:%s: %s", c->path, r == -EINTR ? "interrupted" :
					"what the server sends is not portald's protocol");
		if (now_ms() > until) {
			drop_fds(&k);
			return endless_greeting(c);
		}
		if (!welcome) {
			r = take_welcome(p, c, &k);
			drop_fds(&k);
			welcome = true;
		} else {
			r = handle(c, &k);
			if (r < 0)
				broken_greeting(c, r);
		}
		if (r)
			return r < 0 ? r : 0;
	}
}

static int dial(struct client *c, const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct timeval tv = { GREET_MS / 1000, 0 };
	int err;

	if (!*path || strlen(path) >= sizeof(a.sun_path))
		return vmp_fail(-EINVAL, "'unix:%s': a socket's path has 1 to %zu characters", path,
				sizeof(a.sun_path) - 1);
	memcpy(c->path, path, strlen(path) + 1);
	memcpy(a.sun_path, path, strlen(path) + 1);
	c->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (c->sock < 0)
		return vmp_fail(-errno, "unix:%s: socket: %s", path, strerror(errno));
	/* connect() waits while the queue of a server that hangs is full. */
	setsockopt(c->sock, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	if (!connect(c->sock, (struct sockaddr *)&a, sizeof(a)))
		return 0;
	err = errno;
	if (err == ECONNREFUSED)
		return vmp_fail(-err, "unix:%s: nobody serves it: start portald (systemctl start portald)", path);
	if (err == ENOENT)
		return vmp_fail(-err, "unix:%s: no such socket: is portald running, and serving that name?", path);
	if (err == EPROTOTYPE)
		return vmp_fail(-EPROTO, "unix:%s is a stream socket, not portald's; QEMU's socket is NAME.ivshmem, a process uses NAME.sock",
				path);
	if (err == EACCES)
		return vmp_fail(-err, "unix:%s: permission denied: join the socket's group (usually 'portal')", path);
	if (err == EAGAIN || err == ETIMEDOUT)
		return vmp_fail(-ETIMEDOUT, "unix:%s: the server does not accept connections", path);
	return vmp_fail(-err, "unix:%s: %s", path, strerror(err));
}

static int client_start(struct vmp *p, struct client *c, const char *path)
{
	int64_t until = now_ms() + GREET_MS;
	uint32_t i;
	int r;

	c->news = vmp_efd_new();
	r = c->news < 0 ? c->news : dial(c, path);
	if (!r)
		r = greet(p, c, until);
	/*
	 * Cut before the first word: a portald that was killed at that moment. Its socket is
	 * there still if it comes again: who waits in it is served.
	 */
	for (i = 0; r == -EPROTO && c->unheard && i < AGAIN; i++) {
		close(c->sock);
		poll(NULL, 0, AGAIN_MS << i);
		c->unheard = false;
		r = dial(c, path);
		if (!r)
			r = greet(p, c, until);
	}
	p->state_fd = c->sock;
	p->state_events = EPOLLIN;
	if (r)
		return r;
	p->info.peer_id = c->id;
	p->info.max_peers = MAX_PEERS;
	/* As many as came; a read-only client may have got none. */
	for (i = 0; i < c->vectors && c->own[i] >= 0; i++)
		p->info.vectors = i + 1;
	p->info.caps = VMP_CAP_WRITE_BACK | (p->flags & VMP_RDONLY ? 0 : VMP_CAP_RING) |
		       (p->info.vectors ? VMP_CAP_EVENTS : 0);
	snprintf(p->info.identity, sizeof(p->info.identity), "%s", c->path);
	return 0;
}

int vmp_open_unix(struct vmp **out, const char *path, unsigned int flags)
{
	struct client *c = calloc(1, sizeof(*c));
	struct vmp *p = c ? vmp_alloc(&unix_ops, flags) : NULL;
	uint32_t i;
	int r;

	if (!p) {
		free(c);
		return vmp_fail(-ENOMEM, "unix:%s: out of memory", path);
	}
	c->sock = c->news = -1;
	for (i = 0; i < VMP_MAX_VECTORS; i++)
		c->own[i] = -1;
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->asking, NULL);
	p->priv = c;
	c->p = p;
	r = client_start(p, c, path);
	if (r) {
		vmp_free(p);
		return r;
	}
	*out = p;
	return 0;
}
