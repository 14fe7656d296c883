// SPDX-License-Identifier: MIT
/* portalctl ping: round trips of one message at a time. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frame.h"

#define PING_MAX	(1U << 20)
#define COUNT_MAX	(10U << 20)

enum { OPT_ECHO = 0x200, OPT_FOREVER };

struct ping {
	struct place place;
	struct link link;
	bool echo, forever, json;
	uint32_t count, size, interval_ms;
	char *buf;
	uint64_t *rtt;		/* nanoseconds, count of them */
	uint32_t done;
};

static const struct argp_option options[] = {
	{ "count", 'c', "N", 0, "Round trips (default 1000)", 0 },
	{ "size", 's', "BYTES", 0, "Bytes in a message, 24 .. 1M (default 32)", 0 },
	{ "interval", 'i', "MS", 0, "Milliseconds between round trips (default 0)", 0 },
	{ "echo", OPT_ECHO, NULL, 0, "Be the other side: send back what comes, until ping ends", 0 },
	{ "forever", OPT_FOREVER, NULL, 0, "With --echo: wait for the next ping afterwards", 0 },
	{ "json", 'j', NULL, 0, "Print the result as JSON", 0 },
	{ 0 }
};

static error_t parse(int key, char *arg, struct argp_state *st)
{
	struct ping *p = st->input;

	switch (key) {
	case ARGP_KEY_INIT:
		st->child_inputs[0] = &p->place;
		return 0;
	case 'c':
		if (!parse_u32(arg, &p->count) || !p->count || p->count > COUNT_MAX)
			argp_error(st, "--count wants 1 .. 10M, not \"%s\"", arg);
		return 0;
	case 's':
		if (!parse_u32(arg, &p->size) || p->size < sizeof(struct frame) ||
		    p->size > PING_MAX)
			argp_error(st, "--size wants 24 .. 1M, not \"%s\"", arg);
		return 0;
	case 'i':
		if (!parse_u32(arg, &p->interval_ms))
			argp_error(st, "--interval wants milliseconds, not \"%s\"", arg);
		return 0;
	case OPT_ECHO:
		p->echo = true;
		return 0;
	case OPT_FOREVER:
		p->forever = true;
		return 0;
	case 'j':
		p->json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (st->arg_num)
			argp_error(st, "one URI at a time");
		p->place.uri = arg;
		return 0;
	case ARGP_KEY_END:
		if (!p->place.side_set)
			p->place.ch.side = p->echo;
		/* The host's service is the echo; its packets' lengths are multiples of 8. */
		if (p->place.ch.flags & VMP_CH_PACKETS && p->echo)
			argp_error(st, "--echo is the other side, and that is the host's with --packets");
		if (p->place.ch.flags & VMP_CH_PACKETS)
			p->size = (p->size + 7) & ~7U;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static int explain(struct ping *p, int err)
{
	if (err == -EINTR && interrupted())
		return fail(EX_PEER, "interrupted after %u round trips", p->done);
	if (err == -ETIMEDOUT)
		return fail(EX_PEER, "no answer for %d s after %u round trips; is \"portalctl ping "
			    "--echo\" still running?", p->place.timeout_ms / 1000, p->done);
	if (err == -EPIPE || err == -ECONNRESET)
		return fail(EX_PEER, "the other end went away after %u round trips", p->done);
	return fail_vmp(err);
}

static int round_trip(struct ping *p)
{
	uint64_t start = now_ns();
	struct frame f;
	ssize_t n;
	int code;

	frame_make(&f, KIND_PING, FRAME_PING, p->done);
	memcpy(p->buf, &f, sizeof(f));
	n = vmp_send(p->link.ch, p->buf, p->size, 0, p->place.timeout_ms);
	if (!n)
		n = vmp_recv(p->link.ch, p->buf, PING_MAX, p->place.timeout_ms);
	if (n < 0)
		return explain(p, n);
	p->rtt[p->done] = now_ns() - start;
	code = frame_parse(p->buf, n, KIND_PING, &f);
	if (code)
		return code;
	if (f.type != FRAME_PING || f.a != p->done || n != p->size)
		return fail(EX_PROTO, "what came back is not what was sent (round trip %u)", p->done);
	p->done++;
	return 0;
}

static double us(const struct ping *p, double pct)
{
	return p->rtt[rank(p->done, pct)] / 1e3;
}

static void print_result(struct ping *p)
{
	sort_u64(p->rtt, p->done);
	if (p->json) {
		struct json_object *o = json_object_new_object();

		json_object_object_add(o, "uri", json_object_new_string(p->place.uri));
		json_object_object_add(o, "count", json_object_new_int64(p->done));
		json_object_object_add(o, "size", json_object_new_int64(p->size));
		json_object_object_add(o, "min_us", json_object_new_double(us(p, 0)));
		json_object_object_add(o, "p50_us", json_object_new_double(us(p, 50)));
		json_object_object_add(o, "p99_us", json_object_new_double(us(p, 99)));
		json_object_object_add(o, "max_us", json_object_new_double(us(p, 100)));
		add_stats(o, p->link.ch);
		print_json(o);
		json_object_put(o);
	} else {
		printf("%u round trips of %u bytes: min %.2f  p50 %.2f  p99 %.2f  max %.2f us\n",
		       p->done, p->size, us(p, 0), us(p, 50), us(p, 99), us(p, 100));
	}
}

static int run_asker(struct ping *p)
{
	struct timespec pause = { p->interval_ms / 1000, p->interval_ms % 1000 * 1000000L };
	int code = 0;

	p->rtt = calloc(p->count, sizeof(*p->rtt));
	if (!p->rtt)
		return fail(EX_LOCAL, "out of memory");
	code = link_wait(&p->link, &p->place, "ping --echo");
	while (!code && p->done < p->count) {
		code = round_trip(p);
		if (!code && p->interval_ms)
			nanosleep(&pause, NULL);
	}
	if (p->done)
		print_result(p);
	free(p->rtt);
	return code;
}

/* Sends everything back until the other end closes. */
static int run_echo(struct ping *p)
{
	struct frame f;
	ssize_t n;
	int code = link_wait(&p->link, &p->place, "ping");

	if (code)
		return code;
	for (;;) {
		n = vmp_recv(p->link.ch, p->buf, PING_MAX, p->place.timeout_ms);
		if (n == -EPIPE || n == -ECONNRESET)
			return 0;
		if (n < 0)
			return explain(p, n);
		code = frame_parse(p->buf, n, KIND_PING, &f);
		if (code) {
			frame_fail(p->link.ch, KIND_PING, code, "it runs ping --echo");
			return code;
		}
		n = vmp_send(p->link.ch, p->buf, n, 0, p->place.timeout_ms);
		if (n == -EPIPE || n == -ECONNRESET)
			return 0;
		if (n)
			return explain(p, n);
		p->done++;
	}
}

static int run_ping(int argc, char **argv)
{
	static const struct argp_child children[] = { { &place_argp, 0, NULL, 0 }, { 0 } };
	static const struct argp argp = {
		options, parse, "[URI]", "Time round trips to \"portalctl ping --echo\" on the other "
		"machine; with --packets, to an echo service of a VMBus host.\v" EXIT_CODES_DOC, children, NULL, NULL
	};
	struct ping p = { .count = 1000, .size = 32 };
	int code;

	place_init(&p.place, 0);
	parse_args(&argp, argc, argv, &p);
	catch_signals();
	p.buf = calloc(1, PING_MAX);
	if (!p.buf)
		return fail(EX_LOCAL, "out of memory");
	do {
		code = link_open(&p.link, &p.place);
		if (code)
			break;
		code = p.echo ? run_echo(&p) : run_asker(&p);
		link_close(&p.link);
	} while (p.echo && p.forever && !interrupted() && (code == EX_DONE || code == EX_PEER));
	free(p.buf);
	die_of_signal();
	return code;
}

const struct command cmd_ping = { "ping", "time round trips", run_ping };
