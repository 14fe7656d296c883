// SPDX-License-Identifier: MIT
/* What portalctl send and recv have in common: options, progress, going on, result. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>
#include <unistd.h>

#include "stream.h"

#define SHOW_EVERY_NS	200000000ULL	/* on a terminal */
#define LOG_EVERY_NS	1000000000ULL	/* with --progress and no terminal: a line each */

enum { OPT_CHUNK = 0x200, OPT_SHA, OPT_PROGRESS, OPT_RESUME };

static const struct argp_option options[] = {
	{ "json", 'j', NULL, 0, "Print the result as JSON", 0 },
	{ "sha256", OPT_SHA, NULL, 0, "Print the digest as sha256sum(1) does", 0 },
	{ "progress", OPT_PROGRESS, NULL, 0, "Show progress on standard error, terminal or not", 0 },
	{ "quiet", 'q', NULL, 0, "Show no progress", 0 },
	{ "resume", OPT_RESUME, NULL, 0, "If the other end goes away, wait until it comes again, and "
	  "go on where it stopped; recv: also from FILE.part", 0 },
	{ "name", 'n', "NAME", 0, "Each line is a message of the channel of that name on a managed portal: "
	  "many may send, one receives", 0 },
	{ "chunk", OPT_CHUNK, "BYTES", 0, "Bytes in one message (default 256K, or a quarter of "
	  "the longest that fits)", 0 },
	{ 0 }
};

static error_t parse(int key, char *arg, struct argp_state *st)
{
	struct stream *s = st->input;

	switch (key) {
	case 'j':
		s->json = true;
		return 0;
	case OPT_SHA:
		s->sha256 = true;
		return 0;
	case OPT_RESUME:
		s->resume = true;
		return 0;
	case 'q':
	case OPT_PROGRESS:
		s->show = key == OPT_PROGRESS;
		s->show_set = true;
		return 0;
	case 'n':
		s->by_name = arg;
		return 0;
	case OPT_CHUNK:
		if (!parse_u32(arg, &s->chunk) || !s->chunk || s->chunk > CHUNK_MAX)
			argp_error(st, "--chunk wants 1 .. 64M, not \"%s\"", arg);
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

const struct argp stream_argp = { options, parse, NULL, NULL, NULL, NULL, NULL };

void stream_init(struct stream *s, uint32_t default_side)
{
	memset(s, 0, sizeof(*s));
	place_init(&s->place, default_side);
	s->fd = -1;
	s->size = SIZE_UNKNOWN;
	s->show = isatty(STDERR_FILENO);
	sha256_init(&s->hash);
}

static error_t stream_end(struct stream *s, struct argp_state *st)
{
	if (s->by_name && (s->json || s->sha256 || s->resume || s->chunk || s->place.side_set ||
			   s->place.ch.offset || s->place.ch.length))
		argp_error(st, "--name sends lines, and the name says where: without --json, --sha256, "
			   "--resume, --chunk, --side, --offset and --length");
	if (s->place.ch.flags & VMP_CH_PACKETS)
		argp_error(st, "packet rings lead to the host's service, which is no portalctl; "
			   "without --packets the stream goes through the region");
	return 0;
}

static error_t stream_arg(struct stream *s, char *arg, struct argp_state *st)
{
	if (st->arg_num == 0 && is_uri(arg)) {
		s->place.uri = arg;
		return 0;
	}
	if (s->file)
		argp_error(st, "one FILE at a time, and a URI before it (/dev/portalN, unix:..., "
			   "file:..., memfd:...); \"%s\"?", arg);
	s->file = arg;
	return 0;
}

error_t stream_parse(int key, char *arg, struct argp_state *st)
{
	struct stream *s = st->input;

	switch (key) {
	case ARGP_KEY_INIT:
		st->child_inputs[0] = s;
		st->child_inputs[1] = &s->place;
		return 0;
	case ARGP_KEY_END:
		return stream_end(s, st);
	case ARGP_KEY_ARG:
		return stream_arg(s, arg, st);
	}
	return ARGP_ERR_UNKNOWN;
}

int stream_hash(struct stream *s, int fd, off_t from, uint64_t len)
{
	uint64_t at = 0;
	uint8_t buf[65536];
	ssize_t n;

	sha256_init(&s->hash);
	for (; at < len; at += n) {
		n = pread(fd, buf, len - at < sizeof(buf) ? len - at : sizeof(buf), from + at);
		if (n < 0 && errno == EINTR && !interrupted()) {
			n = 0;
			continue;
		}
		if (n <= 0)
			return n ? -errno : -ENODATA;
		if (interrupted())
			return -EINTR;
		sha256_update(&s->hash, n, buf);
	}
	s->done = len;
	return 0;
}

/* Like vmp_channel_close() and a new start: what the old pair knew is gone. */
static int again(struct stream *s)
{
	fprintf(stderr, "portalctl: the other end went away after %llu bytes; waiting for it to come "
		"again\n", (unsigned long long)s->done);
	s->resumed++;
	link_close(&s->link);
	return link_open(&s->link, &s->place);
}

int stream_run(struct stream *s, const char *who, int (*transfer)(struct stream *s))
{
	int code;

	while (!(code = link_wait(&s->link, &s->place, who))) {
		code = transfer(s);
		if (code != STREAM_LOST)
			return code;
		code = again(s);
		if (code)
			return code;
	}
	return code;
}

uint32_t stream_chunk(const struct stream *s)
{
	size_t max = vmp_channel_max(s->link.ch) - sizeof(struct frame);
	uint32_t chunk = s->chunk;

	if (chunk)
		return chunk < max ? chunk : max;
	return CHUNK_DEFAULT < max / 4 ? CHUNK_DEFAULT : max / 4;
}

static void line(struct stream *s, const char *verb, bool last)
{
	double sec = (s->shown_ns - s->start_ns) / 1e9;
	char done[24], size[24], rate[24];
	bool tty = isatty(STDERR_FILENO);

	human_size(done, sizeof(done), s->done);
	human_size(rate, sizeof(rate), sec > 0 ? s->done / sec : 0);
	if (s->size != SIZE_UNKNOWN)
		fprintf(stderr, "%s%s %s of %s  %3.0f%%  %s/s%s", tty ? "\r" : "", verb, done,
			human_size(size, sizeof(size), s->size),
			s->size ? 100.0 * s->done / s->size : 100.0, rate, tty ? "\033[K" : "");
	else
		fprintf(stderr, "%s%s %s  %s/s%s", tty ? "\r" : "", verb, done, rate,
			tty ? "\033[K" : "");
	if (last || !tty)
		fputc('\n', stderr);
	fflush(stderr);
}

void progress(struct stream *s, const char *verb)
{
	uint64_t now, every;

	if (!s->show)
		return;
	now = now_ns();
	every = isatty(STDERR_FILENO) ? SHOW_EVERY_NS : LOG_EVERY_NS;
	if (now - s->shown_ns < every)
		return;
	s->shown_ns = now;
	line(s, verb, false);
}

static void hex(char *dst, const uint8_t *src, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sprintf(dst + 2 * i, "%02x", src[i]);
}

void report(struct stream *s, const char *verb, const char *past)
{
	char digest[2 * SHA256_DIGEST_SIZE + 1], size[24], rate[24];
	double sec = (s->end_ns - s->start_ns) / 1e9;
	struct vmp_stats st;

	vmp_channel_stats(s->link.ch, &st, sizeof(st));
	hex(digest, s->digest, sizeof(s->digest));
	if (s->show) {
		s->shown_ns = s->end_ns;
		line(s, verb, true);
		fprintf(stderr, "%s %s in %.2f s, %s/s: %llu messages, %llu doorbells, %llu "
			"system calls\n", past, human_size(size, sizeof(size), s->done), sec,
			human_size(rate, sizeof(rate), sec > 0 ? s->done / sec : 0),
			(unsigned long long)(st.sent + st.received),
			(unsigned long long)st.doorbells, (unsigned long long)st.syscalls);
	}
	if (s->json) {
		struct json_object *o = json_object_new_object();

		json_object_object_add(o, "uri", json_object_new_string(s->place.uri));
		json_object_object_add(o, "name", json_object_new_string(s->name));
		json_object_object_add(o, "bytes", json_object_new_uint64(s->done));
		json_object_object_add(o, "seconds", json_object_new_double(sec));
		json_object_object_add(o, "sha256", json_object_new_string(digest));
		json_object_object_add(o, "resumed", json_object_new_int64(s->resumed));
		json_object_object_add(o, "skipped", json_object_new_uint64(s->skipped));
		add_stats(o, s->link.ch);
		print_json(o);
		json_object_put(o);
	}
	if (s->sha256)
		fprintf(s->fd == STDOUT_FILENO ? stderr : stdout, "%s  %s\n", digest,
			s->file ? s->file : "-");
}
