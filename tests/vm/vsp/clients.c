// SPDX-License-Identifier: MIT
/*
 * Processes of the host, by portald's protocol (portald/proto.h): the library's
 * unix: backend finds here what it finds at portald, only that the memory is a
 * guest's. Ids 0 .. host_peers-1 are leased to them, host_peers is the guest's.
 *
 * When the guest's session ends, each client is told GONE and its stream is ended.
 * It may still have the memory mapped: a seat is free only when the client has closed
 * its end, and the guest gets its pages back when its mapping is gone, too (session.c).
 */
#include "vsp.h"
#include "qemu/main-loop.h"

#include "portald/proto.h"

#include <sys/socket.h>
#include <sys/un.h>

/* Make @path a listening socket; what an earlier QEMU left there goes. */
int unix_listen(const char *path, char *err)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int s;

	if (strlen(path) >= sizeof(a.sun_path))
		return vsp_fail(err, -ENAMETOOLONG, "%s: too long for a socket", path);
	strcpy(a.sun_path, path);
	s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	unlink(path);
	if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) || chmod(path, 0600) ||
	    listen(s, 16)) {
		int e = errno;

		if (s >= 0)
			close(s);
		return vsp_fail(err, -e, "%s: %s", path, strerror(e));
	}
	return s;
}

/* End the stream: nothing is sent any more, its close is waited for. */
static void hang_up(struct client *c)
{
	c->mute = true;
	shutdown(c->sock, SHUT_WR);
}

/* One message with descriptors. Who does not read is hung up on. */
static void tell(struct client *c, const struct pd_msg *m, const int *fds, unsigned int n)
{
	union {
		char buf[CMSG_SPACE(PD_MAX_FDS * sizeof(int))];
		struct cmsghdr align;
	} u;
	struct iovec v = { (void *)(uintptr_t)m, sizeof(*m) };
	struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1 };

	if (c->mute)
		return;
	if (n) {
		struct cmsghdr *cm;

		memset(&u, 0, sizeof(u));
		h.msg_control = u.buf;
		h.msg_controllen = CMSG_SPACE(n * sizeof(int));
		cm = CMSG_FIRSTHDR(&h);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(cm), fds, n * sizeof(int));
	}
	if (sendmsg(c->sock, &h, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(*m))
		hang_up(c);
}

static void tell_peer(struct client *c, uint32_t id, uint64_t tenure, const int *bells)
{
	struct pd_msg m = { .type = PD_PEER, .id = id, .value = tenure };

	/* nch <= PORTAL_VMBUS_MAX_VECTORS == PD_MAX_FDS: one message holds them */
	tell(c, &m, bells, c->rdonly && id != c->id ? 0 : c->vsp->nch);
}

static void refuse(struct client *c, int error, const char *why)
{
	struct pd_msg m = { .type = PD_REFUSE, .arg = error };

	snprintf(m.text, sizeof(m.text), "%s", why);
	tell(c, &m, NULL, 0);
	hang_up(c);
}

static void welcome(struct client *c)
{
	struct vsp *p = c->vsp;
	struct pd_msg w = { .type = PD_WELCOME, .id = c->id, .arg = p->nch,
			    .value = p->region.bytes,
			    .flags = PD_MACHINE };
	struct pd_msg ready = { .type = PD_READY };
	uint32_t i;

	/* What was rung for a predecessor on this seat. */
	for (i = 0; i < p->nch; i++)
		bell_take(c->bells[i]);
	c->greeted = true;
	c->tenure = ++p->tenures;
	tell(c, &w, &p->region.fd, 1);
	tell_peer(c, c->id, c->tenure, c->bells);
	tell_peer(c, p->host_peers, 0, p->guest_bells);
	for (i = 0; i < p->host_peers; i++) {
		struct client *o = &p->clients[i];

		if (o == c || o->sock < 0 || !o->greeted || o->mute)
			continue;
		tell_peer(c, o->id, o->tenure, o->bells);
		tell_peer(o, c->id, c->tenure, c->bells);
	}
	tell(c, &ready, NULL, 0);
}

/* All of a guest's RAM is for nobody who could not have QEMU's own files. */
static bool may_have(const struct client *c)
{
	struct ucred who;
	socklen_t len = sizeof(who);

	return !c->vsp->all_ram ||
	       (!getsockopt(c->sock, SOL_SOCKET, SO_PEERCRED, &who, &len) &&
		who.uid == geteuid());
}

static void take_hello(struct client *c, const struct pd_msg *m)
{
	if (m->type != PD_HELLO || m->id != PD_MAGIC || m->arg != PD_VERSION)
		refuse(c, EPROTO, "this is portal-vsp, protocol 1 of portald: a HELLO is what it understands");
	else if (m->flags & ~PD_RDONLY)
		refuse(c, EPROTO, "a HELLO with flags that nobody knows");
	else if (!may_have(c))
		refuse(c, EPERM, "all of the guest's RAM is shared here (share=all-ram), with QEMU's own user only");
	else if (c->vsp->state != VSP_LIVE)
		refuse(c, ENODEV, "no guest shares its memory now: load portal_vmbus in the guest");
	else if (!c->vsp->region.pages)
		refuse(c, ENODEV, "the guest shares no memory, only packet rings: see its region_size parameter");
	else {
		/*
		 * A dma-buf cannot be handed out for reading only. Who asks for that may have
		 * it for writing anyway: it can reach this socket.
		 */
		c->rdonly = m->flags & PD_RDONLY;
		welcome(c);
	}
}

static void leave(struct client *c)
{
	struct vsp *p = c->vsp;
	struct pd_msg gone = { .type = PD_GONE, .id = c->id, .arg = c->id, .value = c->tenure };
	bool was_greeted = c->greeted;
	uint32_t i;

	qemu_set_fd_handler(c->sock, NULL, NULL, NULL);
	close(c->sock);
	c->sock = -1;
	c->greeted = c->mute = c->rdonly = false;
	for (i = 0; was_greeted && i < p->host_peers; i++)
		if (p->clients[i].sock >= 0 && p->clients[i].greeted)
			tell(&p->clients[i], &gone, NULL, 0);
	if (p->state == VSP_ENDING && !clients_count(p))
		session_left(p);
}

/* A client spoke, or closed its end. It has one thing to say. */
static void client_read(void *opaque)
{
	struct client *c = opaque;
	struct pd_msg m = { .type = 0 };
	struct iovec v = { &m, sizeof(m) };
	/* No room for control data: descriptors that it sends are dropped. */
	struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1 };
	ssize_t n = recvmsg(c->sock, &h, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		leave(c);
	else if (c->mute)
		return;		/* whatever it says, we only wait for its end */
	else if (c->greeted || n != sizeof(m) || h.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		hang_up(c);
	else
		take_hello(c, &m);
}

static void client_accept(void *opaque)
{
	struct vsp *p = opaque;
	struct client full = { .vsp = p };
	uint32_t i;
	int s = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (s < 0)
		return;
	for (i = 0; i < p->host_peers; i++) {
		struct client *c = &p->clients[i];

		if (c->sock >= 0)
			continue;
		c->sock = s;
		c->greeted = c->mute = c->rdonly = false;
		qemu_set_fd_handler(s, client_read, NULL, c);
		return;
	}
	full.sock = s;
	refuse(&full, EBUSY, "all ids of the host are taken: close a process, or raise host-peers");
	close(s);
}

/* A client rang the guest. */
static void bell_read(void *opaque)
{
	struct channel *c = opaque;

	if (bell_take(c->vsp->guest_bells[c->index]) && c->vsp->state == VSP_LIVE) {
		c->n.bells_out++;
		guest_ring(c->vsp, c->index);
	}
}

void guest_ring(struct vsp *p, uint32_t vector)
{
	struct channel *c = &p->ch[vector];
	HvSintRoute *r = c->open ? private_route(c->vc) : NULL;

	if (r)
		hyperv_set_event_flag(r, c->relid);
}

/* A VMBus signal does not say whom it is for: everybody looks. */
void clients_ring(struct vsp *p, uint32_t vector)
{
	uint32_t i;

	p->ch[vector].n.bells_in++;
	for (i = 0; i < p->host_peers; i++) {
		struct client *c = &p->clients[i];

		if (c->sock >= 0 && c->greeted && !c->mute)
			bell_ring(p->ringer, c->bells[vector]);
	}
}

unsigned int clients_count(const struct vsp *p)
{
	unsigned int n = 0, i;

	/* Who was never greeted never had the memory. */
	for (i = 0; i < p->host_peers; i++)
		n += p->clients && p->clients[i].sock >= 0 && p->clients[i].greeted;
	return n;
}

bool clients_end(struct vsp *p)
{
	struct pd_msg gone = { .type = PD_GONE, .id = p->host_peers, .arg = p->host_peers };
	uint32_t i;

	for (i = 0; i < p->host_peers; i++) {
		struct client *c = &p->clients[i];

		if (c->sock < 0 || !c->greeted)
			continue;
		tell(c, &gone, NULL, 0);
		hang_up(c);
	}
	return !clients_count(p);
}

int clients_listen(struct vsp *p, char *err)
{
	uint32_t i;

	err[0] = 0;
	p->ringer = ringer_new(err);
	p->guest_bells = bells_new(p->nch, err);
	for (i = 0; i < p->nch; i++)
		if (p->guest_bells[i] >= 0)
			qemu_set_fd_handler(p->guest_bells[i], bell_read, NULL, &p->ch[i]);
	p->clients = g_new0(struct client, p->host_peers);
	for (i = 0; i < p->host_peers; i++) {
		p->clients[i].vsp = p;
		p->clients[i].id = i;
		p->clients[i].sock = -1;
		p->clients[i].bells = bells_new(p->nch, err);
	}
	if (err[0])
		return -EMFILE;
	if (!p->socket)
		return 0;
	p->listener = unix_listen(p->socket, err);
	if (p->listener < 0)
		return p->listener;
	qemu_set_fd_handler(p->listener, client_accept, NULL, p);
	return 0;
}

void clients_close(struct vsp *p)
{
	uint32_t i;

	if (p->listener >= 0) {
		qemu_set_fd_handler(p->listener, NULL, NULL, NULL);
		close(p->listener);
		unlink(p->socket);
	}
	for (i = 0; p->clients && i < p->host_peers; i++) {
		struct client *c = &p->clients[i];

		if (c->sock >= 0) {
			qemu_set_fd_handler(c->sock, NULL, NULL, NULL);
			close(c->sock);
		}
		bells_free(c->bells, p->nch);
	}
	for (i = 0; p->guest_bells && i < p->nch; i++)
		if (p->guest_bells[i] >= 0)
			qemu_set_fd_handler(p->guest_bells[i], NULL, NULL, NULL);
	bells_free(p->guest_bells, p->nch);
	ringer_free(p->ringer);
	g_free(p->clients);
}
