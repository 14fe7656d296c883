// SPDX-License-Identifier: MIT
/*
 * portalctl send --name, recv --name: lines, from any number of senders to one receiver, as
 * messages of a channel by name. No greeting, no digest: a line is one message.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stream.h"

#define CAPACITY	(256U << 10)	/* of each sender, where the receiver makes the name */

/* What is there, or is not, forbids it. */
static int refused(int err)
{
	if (err == -ENODATA || err == -EBUSY || err == -EPROTOTYPE || err == -EOPNOTSUPP || err == -ENOSPC)
		return fail(EX_REFUSED, "%s", vmp_errmsg());
	return fail_vmp(err);
}

/* ---- Sending --------------------------------------------------------------------- */

static int open_sender(struct stream *s)
{
	struct vmp_channel_opts o = s->place.ch;
	int err;

	o.side = 0;
	err = vmp_channel_named(&s->link.ch, s->link.p, s->by_name, &o, s->place.timeout_ms);
	if (err == -ETIMEDOUT)
		return fail(EX_PEER, "%s; start \"portalctl recv --name=%s\"", vmp_errmsg(), s->by_name);
	return err ? refused(err) : 0;
}

/* Sent for good when it is 0: the receiver, or the next one, will print it. */
static int send_line(struct stream *s, const char *line, size_t len)
{
	int code, err;

	for (;;) {
		err = vmp_send(s->link.ch, line, len, 0, s->place.timeout_ms);
		if (err != -EPIPE && err != -ECONNRESET)
			break;
		/* This line was not taken; the next receiver is told it first. */
		vmp_channel_close(s->link.ch);
		s->link.ch = NULL;
		code = open_sender(s);
		if (code)
			return code;
	}
	if (err == -EINTR && interrupted())
		return fail(EX_PEER, "interrupted after %llu lines", (unsigned long long)s->done);
	if (err == -ETIMEDOUT)
		return fail(EX_PEER, "nobody took a line for %d s; %llu were sent. Does \"portalctl recv "
			    "--name=%s\" run?", s->place.timeout_ms / 1000, (unsigned long long)s->done, s->by_name);
	if (err)
		return fail_vmp(err);
	s->done++;
	return 0;
}

int send_by_name(struct stream *s)
{
	FILE *in = s->fd == STDIN_FILENO ? stdin : fdopen(s->fd, "r");
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	int code;

	if (!in)
		return fail(EX_LOCAL, "%s: %s", s->name, strerror(errno));
	if (vmp_open(&s->link.p, s->place.uri, 0))
		return fail(EX_OPEN, "%s", vmp_errmsg());
	code = open_sender(s);
	while (!code && (n = getline(&line, &cap, in)) >= 0) {
		if (n && line[n - 1] == '\n')
			n--;
		code = send_line(s, line, (size_t)n);
	}
	if (!code && ferror(in))
		code = fail(EX_LOCAL, "%s: %s", s->name, strerror(errno));
	free(line);
	link_close(&s->link);
	return code;
}

/* ---- Receiving ------------------------------------------------------------------- */

static int print_line(struct stream *s, const struct vmp_from *from, const char *line, size_t len)
{
	if (s->who && printf("%#llx%s ", (unsigned long long)from->token,
			     from->flags & VMP_FROM_AGAIN ? " (again)" : "") < 0)
		return -errno;
	/* Whole, before it is released: who is killed here has not lost it. */
	if (fwrite(line, 1, len, stdout) != len || putchar('\n') < 0 || fflush(stdout))
		return -errno;
	return 0;
}

static int receive_lines(struct stream *s, struct vmp_hub *h)
{
	struct vmp_from from;
	const void *ptr;
	ssize_t n;
	int err;

	while (!s->count || s->done < s->count) {
		n = vmp_hub_peek(h, &ptr, &from, s->place.timeout_ms);
		if (n == -EINTR && interrupted())
			return fail(EX_PEER, "interrupted after %llu lines", (unsigned long long)s->done);
		if (n == -EINTR)
			continue;
		if (n == -ETIMEDOUT)
			return fail(EX_PEER, "nobody sent a line for %d s; %llu arrived",
				    s->place.timeout_ms / 1000, (unsigned long long)s->done);
		if (n < 0)
			return fail_vmp((int)n);
		err = print_line(s, &from, ptr, (size_t)n);
		if (err)
			return fail(EX_LOCAL, "output: %s", strerror(-err));
		vmp_hub_release(h);
		s->done++;
	}
	return EX_DONE;
}

int recv_by_name(struct stream *s)
{
	struct vmp_hub_opts o = {
		.size = sizeof(o), .vector = s->place.ch.vector, .spin_us = s->place.ch.spin_us,
		.flags = s->place.ch.flags & VMP_CH_NO_SLEEP ? VMP_HUB_NO_SLEEP : 0,
		.capacity = CAPACITY,
	};
	struct vmp_info info;
	struct vmp_hub *h;
	int code, err;

	if (vmp_open(&s->link.p, s->place.uri, 0))
		return fail(EX_OPEN, "%s", vmp_errmsg());
	if (!s->place.vector_set && !vmp_get_info(s->link.p, &info, sizeof(info)))
		o.vector = info.first_vector;
	err = vmp_hub_open(&h, s->link.p, s->by_name, &o);
	if (err == -ENOSPC) {
		/* A small portal. */
		o.capacity = 0;
		o.lanes = 4;
		err = vmp_hub_open(&h, s->link.p, s->by_name, &o);
	}
	code = err ? refused(err) : receive_lines(s, h);
	if (!err)
		vmp_hub_close(h);
	link_close(&s->link);
	return code;
}
