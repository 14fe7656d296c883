// SPDX-License-Identifier: MIT
/*
 * portalctl recv: what portalctl send sends, into a file or to standard output.
 *
 * A file appears under its name only when it is whole and its digest is right;
 * until then, and after a failure, it is FILE.part. With --resume that is where the next
 * stream goes on, if the sender finds that it has the same bytes there.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stream.h"

static char part[PATH_MAX];	/* name while incomplete; empty: written directly */

static int open_part(struct stream *s)
{
	struct stat sb;
	int err;

	if (snprintf(part, sizeof(part), "%s.part", s->file) >= (int)sizeof(part))
		return fail(EX_OPEN, "%s: %s", s->file, strerror(ENAMETOOLONG));
	s->fd = open(part, (s->resume ? O_RDWR : O_WRONLY | O_TRUNC) | O_CREAT | O_CLOEXEC, 0666);
	if (s->fd < 0)
		return fail(EX_OPEN, "%s: %s", part, strerror(errno));
	if (!s->resume)
		return 0;
	err = fstat(s->fd, &sb) ? -errno : stream_hash(s, s->fd, 0, sb.st_size);
	if (!err && lseek(s->fd, s->done, SEEK_SET) < 0)
		err = -errno;
	return err ? fail(EX_OPEN, "%s: %s", part, strerror(-err)) : 0;
}

static int open_output(struct stream *s)
{
	struct stat sb;

	s->fd = STDOUT_FILENO;
	if (s->resume && (!s->file || !strcmp(s->file, "-")))
		return fail(EX_MISUSE, "--resume goes on with FILE.part: give a FILE");
	if (!s->file || !strcmp(s->file, "-")) {
		if (isatty(STDOUT_FILENO))
			return fail(EX_MISUSE, "not onto a terminal: give a FILE, or redirect "
				    "standard output");
		if (s->json)
			return fail(EX_MISUSE, "--json and the data would both go to standard "
				    "output: give a FILE");
		return 0;
	}
	/* Devices and pipes are written directly; there is nothing to rename. */
	if (!stat(s->file, &sb) && !S_ISREG(sb.st_mode)) {
		if (s->resume)
			return fail(EX_MISUSE, "--resume: %s is no regular file", s->file);
		s->fd = open(s->file, O_WRONLY | O_CLOEXEC);
		if (s->fd < 0)
			return fail(EX_OPEN, "%s: %s", s->file, strerror(errno));
		return 0;
	}
	return open_part(s);
}

static void say_rest(const struct stream *s)
{
	if (*part && s->done)
		fprintf(stderr, "portalctl: what arrived is in %s\n", part);
	else if (*part)
		unlink(part);
}

static int explain(struct stream *s, int err)
{
	unsigned long long done = s->done;

	if (err == -EINTR && interrupted()) {
		frame_fail(s->link.ch, KIND_STREAM, EX_PEER, "interrupted by its user");
		return fail(EX_PEER, "interrupted after %llu bytes", done);
	}
	if (s->resume && (err == -EPIPE || err == -ECONNRESET))
		return STREAM_LOST;
	if (err == -ETIMEDOUT)
		return fail(EX_PEER, "the other end sent nothing for %d s, %llu bytes arrived. Is it "
			    "still running?", s->place.timeout_ms / 1000, done);
	if (err == -EPIPE || err == -ECONNRESET)
		return fail(EX_PEER, "the other end went away after %llu bytes; run both again", done);
	return fail_vmp(err);
}

/* Fails on both ends with one text. */
static int refuse(struct stream *s, enum exit_code code, const char *text)
{
	frame_fail(s->link.ch, KIND_STREAM, code, text);
	return fail(code, "%s", text);
}

/* The next frame; IDLE ones are skipped. *@len: bytes behind the header. */
static int next(struct stream *s, size_t cap, struct frame *f, size_t *len)
{
	ssize_t n;
	int code;

	memset(f, 0, sizeof(*f));
	do {
		n = vmp_recv(s->link.ch, s->buf, cap, s->place.timeout_ms);
		if (n < 0)
			return explain(s, n);
		code = frame_parse(s->buf, n, KIND_STREAM, f);
		if (code) {
			/* The other end learns it by our version or kind in the header. */
			if (f->type != FRAME_FAIL)
				frame_fail(s->link.ch, KIND_STREAM, code,
					   "it did not understand this end");
			return code;
		}
	} while (f->type == FRAME_IDLE);
	*len = n - sizeof(*f);
	return 0;
}

static int write_all(int fd, const char *p, size_t len)
{
	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR && !interrupted())
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= n;
	}
	return 0;
}

/* The sender does not have what we have: all of it comes anew. */
static int start_over(struct stream *s)
{
	sha256_init(&s->hash);
	s->done = s->had = 0;
	return ftruncate(s->fd, 0) || lseek(s->fd, 0, SEEK_SET) < 0 ? -errno : 0;
}

static int cannot_write(struct stream *s, int err)
{
	frame_fail(s->link.ch, KIND_STREAM, EX_LOCAL, "it could not write its output");
	return fail(EX_LOCAL, "%s: %s", *part ? part : "output", strerror(-err));
}

/* The first frame behind ACCEPT says whether the sender goes on behind what we had. */
static int settle_start(struct stream *s, const struct frame *f)
{
	int err;

	if (!f->a && s->had) {
		err = start_over(s);
		if (err)
			return cannot_write(s, err);
	}
	s->skipped += s->had;
	s->had = 0;
	return 0;
}

static int take_data(struct stream *s, const struct frame *f, size_t len)
{
	const char *body = s->buf + sizeof(*f);
	int code, err;

	code = settle_start(s, f);
	if (code)
		return code;
	if (f->a != s->done || len > s->size - s->done)
		return refuse(s, EX_PROTO, "the stream is corrupt: a chunk is out of order");
	sha256_update(&s->hash, len, (const uint8_t *)body);
	err = write_all(s->fd, body, len);
	if (err)
		return cannot_write(s, err);
	s->done += len;
	progress(s, "receiving");
	return 0;
}

static int finish(struct stream *s, const struct frame *f, size_t len)
{
	int code, err;

	/* Perhaps there was no DATA: all was here, or the stream is empty. */
	code = settle_start(s, f);
	if (code)
		return code;
	sha256_digest(&s->hash, sizeof(s->digest), s->digest);
	if (f->a != s->done || (s->size != SIZE_UNKNOWN && s->size != s->done))
		return refuse(s, EX_PROTO, "the stream is corrupt: bytes are missing");
	if (len != sizeof(s->digest) ||
	    memcmp(s->buf + sizeof(*f), s->digest, sizeof(s->digest)))
		return refuse(s, EX_PROTO, "the stream is corrupt: the SHA-256 of what arrived differs");
	if (*part && rename(part, s->file)) {
		err = errno;
		frame_fail(s->link.ch, KIND_STREAM, EX_LOCAL, "it could not write its output");
		return fail(EX_LOCAL, "%s: %s", s->file, strerror(err));
	}
	err = frame_send(s->link.ch, KIND_STREAM, FRAME_DONE, s->done, NULL, 0, s->place.timeout_ms);
	s->end_ns = now_ns();
	/* The data is here and right, whether or not the sender hears of it. */
	if (err)
		explain(s, err);
	report(s, "receiving", "received");
	return EX_DONE;
}

/* Says what is here already, to a sender that can make use of it. */
static int accept_offer(struct stream *s, const struct frame *f)
{
	uint8_t digest[SHA256_DIGEST_SIZE];
	struct sha256_ctx so_far;
	int err;

	s->had = 0;
	if (s->done && !(f->b & FRAME_CAN_RESUME)) {
		err = start_over(s);
		if (err)
			return cannot_write(s, err);
	}
	s->had = s->done;
	so_far = s->hash;
	sha256_digest(&so_far, sizeof(digest), digest);
	err = frame_send(s->link.ch, KIND_STREAM, FRAME_ACCEPT, s->done, digest,
			 s->done ? sizeof(digest) : 0, s->place.timeout_ms);
	return err ? explain(s, err) : 0;
}

static int run_transfer(struct stream *s)
{
	struct frame f;
	size_t cap = s->cap, len;
	int code;

	code = next(s, cap, &f, &len);
	if (code)
		return code;
	if (f.type != FRAME_OFFER)
		return refuse(s, EX_PROTO, "the stream did not begin with an offer; is the other end "
			      "\"portalctl send\"?");
	s->size = f.a;
	clean_text(s->name, sizeof(s->name), s->buf + sizeof(f), len);
	code = accept_offer(s, &f);
	if (code)
		return code;
	if (!s->start_ns)
		s->start_ns = now_ns();
	for (;;) {
		code = next(s, cap, &f, &len);
		if (code)
			return code;
		if (f.type == FRAME_END)
			return finish(s, &f, len);
		if (f.type != FRAME_DATA)
			return refuse(s, EX_PROTO, "the stream is corrupt: unknown frame");
		code = take_data(s, &f, len);
		if (code)
			return code;
		/* A signal may come when nothing waits that it could interrupt. */
		if (interrupted())
			return explain(s, -EINTR);
	}
}

static error_t recv_parse(int key, char *arg, struct argp_state *st)
{
	struct stream *s = st->input;

	switch (key) {
	case 'c':
		if (!parse_u32(arg, &s->count) || !s->count)
			argp_error(st, "--count wants a number of lines, not \"%s\"", arg);
		return 0;
	case 'w':
		s->who = true;
		return 0;
	case ARGP_KEY_END:
		if (!s->by_name && (s->count || s->who))
			argp_error(st, "--count and --who go with --name");
		if (s->by_name && s->file && strcmp(s->file, "-"))
			argp_error(st, "--name prints to standard output: redirect it to \"%s\"", s->file);
	}
	return stream_parse(key, arg, st);
}

static int run_recv(int argc, char **argv)
{
	static const struct argp_child children[] = {
		{ &stream_argp, 0, NULL, 0 }, { &place_argp, 0, NULL, 0 }, { 0 }
	};
	static const struct argp_option options[] = {
		{ "count", 'c', "N", 0, "With --name: so many lines, then end", 0 },
		{ "who", 'w', NULL, 0, "With --name: the sender's session before each line", 0 },
		{ 0 }
	};
	static const struct argp argp = {
		options, recv_parse, "[URI] [FILE|-]", "Receive what \"portalctl send\" sends, into FILE "
		"(default: standard output), and check its SHA-256. FILE appears when it is whole; "
		"until then it is FILE.part.\v" EXIT_CODES_DOC, children, NULL, NULL
	};
	static struct stream s;
	int code;

	stream_init(&s, 1);
	parse_args(&argp, argc, argv, &s);
	catch_signals();
	if (s.by_name) {
		code = recv_by_name(&s);
		die_of_signal();
		return code;
	}
	code = link_open(&s.link, &s.place);
	if (code)
		return code;
	s.cap = vmp_channel_max(s.link.ch);
	if (s.cap > CHUNK_MAX + sizeof(struct frame))
		s.cap = CHUNK_MAX + sizeof(struct frame);
	s.buf = malloc(s.cap);
	if (!s.buf)
		code = fail(EX_LOCAL, "out of memory");
	if (!code)
		code = open_output(&s);
	if (!code)
		code = stream_run(&s, "send", run_transfer);
	if (code)
		say_rest(&s);
	link_close(&s.link);
	free(s.buf);
	die_of_signal();
	return code;
}

const struct command cmd_recv = { "recv", "receive what send sends", run_recv };
