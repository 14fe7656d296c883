// SPDX-License-Identifier: MIT
/* portalctl send: a file, or standard input, to portalctl recv. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "stream.h"

#define IDLE_MS	5000	/* how often a slow input sends IDLE */

static uint64_t rate;	/* bytes a second; 0: as many as can be */

static error_t send_parse(int key, char *arg, struct argp_state *st)
{
	if (key != 'r')
		return stream_parse(key, arg, st);
	if (!parse_size(arg, &rate) || !rate)
		argp_error(st, "--rate wants bytes a second, like 10M, not \"%s\"", arg);
	return 0;
}

static int open_input(struct stream *s)
{
	struct stat sb;
	const char *base;

	s->fd = STDIN_FILENO;
	if (!s->file || !strcmp(s->file, "-")) {
		if (isatty(STDIN_FILENO))
			return fail(EX_MISUSE, "nothing to send: give a FILE, or pipe something "
				    "into standard input");
		strcpy(s->name, "-");
	} else {
		s->fd = open(s->file, O_RDONLY | O_CLOEXEC);
		if (s->fd < 0)
			return fail(EX_OPEN, "%s: %s", s->file, strerror(errno));
		base = strrchr(s->file, '/');
		base = base ? base + 1 : s->file;
		clean_text(s->name, sizeof(s->name), base, strlen(base));
	}
	if (fstat(s->fd, &sb))
		return fail(EX_OPEN, "%s: %s", s->name, strerror(errno));
	if (S_ISDIR(sb.st_mode))
		return fail(EX_OPEN, "%s is a directory; send an archive: tar c %s | portalctl send",
			    s->file, s->file);
	if (S_ISREG(sb.st_mode)) {
		off_t at = lseek(s->fd, 0, SEEK_CUR);

		s->begin = at > 0 && at <= sb.st_size ? at : 0;
		s->size = sb.st_size - s->begin;
	} else if (s->resume) {
		return fail(EX_MISUSE, "--resume: %s cannot be read again from its middle; give a "
			    "regular FILE", s->name);
	}
	return 0;
}

/* Says why an exchange with the other end failed; it may have told us itself. */
static int explain(struct stream *s, int err)
{
	struct frame f;
	ssize_t n;
	int code;

	if (err == -EINTR && interrupted()) {
		frame_fail(s->link.ch, KIND_STREAM, EX_PEER, "interrupted by its user");
		return fail(EX_PEER, "interrupted after %llu bytes", (unsigned long long)s->done);
	}
	n = vmp_recv(s->link.ch, s->buf, sizeof(f) + FRAME_TEXT, 0);
	if (n >= 0) {
		code = frame_parse(s->buf, n, KIND_STREAM, &f);
		if (code)
			return code;
	}
	if (s->resume && (err == -EPIPE || err == -ECONNRESET))
		return STREAM_LOST;
	if (err == -ETIMEDOUT)
		return fail(EX_PEER, "the other end took nothing for %d s; %llu bytes were sent. Is "
			    "it still running?", s->place.timeout_ms / 1000,
			    (unsigned long long)s->done);
	if (err == -EPIPE || err == -ECONNRESET)
		return fail(EX_PEER, "the other end went away after %llu bytes; run both again",
			    (unsigned long long)s->done);
	return fail_vmp(err);
}

/* Waits for one frame of the given type. */
static int expect(struct stream *s, enum frame_type type, struct frame *f)
{
	ssize_t n = vmp_recv(s->link.ch, s->buf, sizeof(*f) + FRAME_TEXT, s->place.timeout_ms);
	int code;

	if (n < 0)
		return explain(s, n);
	code = frame_parse(s->buf, n, KIND_STREAM, f);
	if (code)
		return code;
	if (f->type != type)
		return fail(EX_PROTO, "the other end answered out of turn (frame %u); is it "
			    "\"portalctl recv\"?", f->type);
	return 0;
}

/* A whole chunk unless the input ends; keeps the other end awake meanwhile. */
static ssize_t fill(struct stream *s, char *to, size_t len)
{
	size_t got = 0;

	while (got < len) {
		struct pollfd p = { .fd = s->fd, .events = POLLIN };
		ssize_t n;

		n = s->size == SIZE_UNKNOWN ? poll(&p, 1, IDLE_MS) : 1;
		if (!n) {
			int err = frame_send(s->link.ch, KIND_STREAM, FRAME_IDLE, s->done, NULL, 0,
					     s->place.timeout_ms);
			if (err)
				return err;
			continue;
		}
		if (n > 0)
			n = read(s->fd, to + got, len - got);
		if (!n)
			break;
		if (n < 0 && errno == EINTR && !interrupted())
			continue;
		if (n < 0)
			return -errno;
		got += n;
	}
	return got;
}

/* Small enough for ten a second, so that neither end waits long for the other. */
static uint32_t rated_chunk(const struct stream *s)
{
	uint32_t chunk = stream_chunk(s);

	if (rate && chunk > rate / 10)
		chunk = rate / 10 ? rate / 10 : 1;
	return chunk;
}

/* Sleeps until @bytes that began at @since are due. A signal ends it early. */
static void pace(uint64_t since, uint64_t bytes)
{
	uint64_t due = since + (uint64_t)((double)bytes * 1e9 / rate);
	uint64_t now = now_ns();
	struct timespec t;

	if (!rate || due <= now)
		return;
	t.tv_sec = (due - now) / 1000000000;
	t.tv_nsec = (due - now) % 1000000000;
	nanosleep(&t, NULL);
}

static int send_data(struct stream *s)
{
	uint32_t chunk = rated_chunk(s);
	char *body = s->buf + sizeof(struct frame);
	uint64_t began = now_ns(), from = s->done;
	struct frame f;
	ssize_t n;
	int err;

	for (;;) {
		size_t want = chunk;

		/* A signal may come when nothing waits that it could interrupt. */
		if (interrupted())
			return explain(s, -EINTR);
		/* What was announced is what is sent: a growing file is cut there. */
		if (s->size != SIZE_UNKNOWN && s->size - s->done < want)
			want = s->size - s->done;
		n = want ? fill(s, body, want) : 0;
		if (n < 0) {
			if (n == -EINTR)
				return explain(s, n);
			frame_fail(s->link.ch, KIND_STREAM, EX_LOCAL, "it could not read its input");
			return fail(EX_LOCAL, "%s: %s", s->name, strerror(-n));
		}
		if (!n)
			break;
		sha256_update(&s->hash, n, (uint8_t *)body);
		frame_make(&f, KIND_STREAM, FRAME_DATA, s->done);
		memcpy(s->buf, &f, sizeof(f));
		err = vmp_send(s->link.ch, s->buf, sizeof(f) + n, 0, s->place.timeout_ms);
		if (err)
			return explain(s, err);
		s->done += n;
		progress(s, "sending");
		pace(began, s->done - from);
	}
	if (s->size != SIZE_UNKNOWN && s->done != s->size) {
		frame_fail(s->link.ch, KIND_STREAM, EX_LOCAL, "its file was truncated while it was sent");
		return fail(EX_LOCAL, "%s was truncated while it was sent: %llu of %llu bytes",
			    s->name, (unsigned long long)s->done, (unsigned long long)s->size);
	}
	return 0;
}

/*
 * The receiver has so many bytes: if they are our first, as their digest says, the stream
 * goes on behind them, else from its beginning. Its digest is in s->buf behind the frame.
 */
static int go_on(struct stream *s, const struct frame *f)
{
	uint8_t digest[SHA256_DIGEST_SIZE];
	struct sha256_ctx whole;
	int err = 0;

	s->done = 0;
	if (s->size != SIZE_UNKNOWN && f->a <= s->size)
		err = stream_hash(s, s->fd, s->begin, f->a);
	if (err == -EINTR)
		return explain(s, err);
	if (!err && s->done) {
		whole = s->hash;
		sha256_digest(&whole, sizeof(digest), digest);
	}
	if (err || !s->done || memcmp(digest, s->buf + sizeof(*f), sizeof(digest))) {
		sha256_init(&s->hash);
		s->done = 0;
	}
	s->skipped += s->done;
	if (s->size != SIZE_UNKNOWN && lseek(s->fd, s->begin + s->done, SEEK_SET) < 0) {
		frame_fail(s->link.ch, KIND_STREAM, EX_LOCAL, "it could not read its input");
		return fail(EX_LOCAL, "%s: %s", s->name, strerror(errno));
	}
	return 0;
}

static int run_transfer(struct stream *s)
{
	bool regular = s->size != SIZE_UNKNOWN;
	struct frame f;
	int err, code;

	err = frame_send_two(s->link.ch, KIND_STREAM, FRAME_OFFER, s->size,
			     regular ? FRAME_CAN_RESUME : 0, s->name, strlen(s->name),
			     s->place.timeout_ms);
	if (err)
		return explain(s, err);
	code = expect(s, FRAME_ACCEPT, &f);
	if (!code && regular)
		code = go_on(s, &f);
	if (code)
		return code;
	if (!s->start_ns)
		s->start_ns = now_ns();
	code = send_data(s);
	if (code)
		return code;
	sha256_digest(&s->hash, sizeof(s->digest), s->digest);
	err = frame_send(s->link.ch, KIND_STREAM, FRAME_END, s->done, s->digest,
			 sizeof(s->digest), s->place.timeout_ms);
	if (err)
		return explain(s, err);
	code = expect(s, FRAME_DONE, &f);
	if (code)
		return code;
	s->end_ns = now_ns();
	if (f.a != s->done)
		return fail(EX_PROTO, "the other end counted %llu bytes, %llu were sent",
			    (unsigned long long)f.a, (unsigned long long)s->done);
	report(s, "sending", "sent");
	return EX_DONE;
}

static int run_send(int argc, char **argv)
{
	static const struct argp_child children[] = {
		{ &stream_argp, 0, NULL, 0 }, { &place_argp, 0, NULL, 0 }, { 0 }
	};
	static const struct argp_option options[] = {
		{ "rate", 'r', "BYTES", 0, "Send no more than so many bytes a second", 0 },
		{ 0 }
	};
	static const struct argp argp = {
		options, send_parse, "[URI] [FILE|-]", "Send a file (default: standard input) to \"portalctl "
		"recv\" on the other machine, which checks its SHA-256 and says so.\v"
		EXIT_CODES_DOC, children, NULL, NULL
	};
	static struct stream s;
	int code;

	stream_init(&s, 0);
	parse_args(&argp, argc, argv, &s);
	catch_signals();
	code = open_input(&s);
	if (!code && s.by_name) {
		if (rate)
			code = fail(EX_MISUSE, "--rate is for streams, not with --name");
		else
			code = send_by_name(&s);
		die_of_signal();
	}
	if (code || s.by_name)
		return code;
	code = link_open(&s.link, &s.place);
	if (code)
		return code;
	s.buf = calloc(1, sizeof(struct frame) + FRAME_TEXT + stream_chunk(&s));
	if (!s.buf)
		code = fail(EX_LOCAL, "out of memory");
	if (!code)
		code = stream_run(&s, "recv", run_transfer);
	link_close(&s.link);
	free(s.buf);
	die_of_signal();
	return code;
}

const struct command cmd_send = { "send", "send a file or standard input", run_send };
