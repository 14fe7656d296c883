// SPDX-License-Identifier: MIT
/* portalctl watch: doorbells as they come. portalctl ring: ring one. */
#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "frame.h"

#define MAX_VECTORS	2048
#define CHECK_MS	1000	/* how often to ask whether the portal is still there */

struct watch {
	const char *uri;
	bool json;
	uint32_t count;		/* stop after so many events; 0: never */
	uint32_t timeout_s;	/* stop after so long without one; 0: never */
	uint64_t seen;
};

static const struct argp_option watch_options[] = {
	{ "count", 'c', "N", 0, "Stop after N doorbells (default: never)", 0 },
	{ "timeout", 't', "SECONDS", 0, "Stop, with status 3, after so long without one (default: "
	  "never)", 0 },
	{ "json", 'j', NULL, 0, "Print a JSON object on a line for each", 0 },
	{ 0 }
};

static error_t parse_watch(int key, char *arg, struct argp_state *st)
{
	struct watch *w = st->input;

	switch (key) {
	case 'c':
		if (!parse_u32(arg, &w->count))
			argp_error(st, "--count wants a number, not \"%s\"", arg);
		return 0;
	case 't':
		if (!parse_u32(arg, &w->timeout_s))
			argp_error(st, "--timeout wants seconds, not \"%s\"", arg);
		return 0;
	case 'j':
		w->json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (st->arg_num)
			argp_error(st, "one URI at a time");
		w->uri = arg;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static void print_event(struct watch *w, uint32_t vector, uint64_t count)
{
	struct timespec ts;
	struct tm tm;
	char when[32];

	clock_gettime(CLOCK_REALTIME, &ts);
	localtime_r(&ts.tv_sec, &tm);
	strftime(when, sizeof(when), "%H:%M:%S", &tm);
	w->seen += count;
	if (w->json)
		printf("{\"time\":%lld.%06ld,\"vector\":%u,\"count\":%llu}\n", (long long)ts.tv_sec,
		       ts.tv_nsec / 1000, vector, (unsigned long long)count);
	else
		printf("%s.%06ld  vector %u  %llu\n", when, ts.tv_nsec / 1000, vector,
		       (unsigned long long)count);
	fflush(stdout);
}

static int watch_loop(struct watch *w, struct vmp *p, struct pollfd *fds, uint32_t n)
{
	uint64_t last = now_ns();
	struct vmp_info info;

	for (;;) {
		int ready = poll(fds, n, CHECK_MS), err;

		if (interrupted())
			return EX_DONE;
		if (ready < 0 && errno != EINTR)
			return fail(EX_LOCAL, "poll: %s", strerror(errno));
		for (uint32_t v = 0; v < n && ready > 0; v++) {
			uint64_t count;

			if (fds[v].revents & POLLIN &&
			    read(fds[v].fd, &count, sizeof(count)) == sizeof(count)) {
				print_event(w, v, count);
				last = now_ns();
			}
		}
		/* A revoked portal signals every vector once: that is no doorbell to wait for. */
		err = vmp_get_info(p, &info, sizeof(info));
		if (err)
			return fail_vmp(err);
		if (w->count && w->seen >= w->count)
			return EX_DONE;
		if (w->timeout_s && now_ns() - last >= w->timeout_s * 1000000000ULL)
			return fail(EX_PEER, "no doorbell for %u s", w->timeout_s);
	}
}

static int watch_portal(struct watch *w, struct vmp *p)
{
	struct pollfd *fds;
	struct vmp_info info;
	uint32_t n, watched = 0;
	int err = vmp_get_info(p, &info, sizeof(info));

	if (err)
		return fail_vmp(err);
	n = info.vectors < MAX_VECTORS ? info.vectors : MAX_VECTORS;
	if (!n || !(info.caps & VMP_CAP_EVENTS))
		return fail(EX_OPEN, "%s has no doorbells to watch (transport %s)", w->uri,
			    info.transport);
	fds = calloc(n, sizeof(*fds));
	if (!fds)
		return fail(EX_LOCAL, "out of memory");
	for (uint32_t v = 0; v < n && err >= 0; v++) {
		fds[v].fd = v < info.first_vector ? -EACCES : vmp_eventfd(p, v);
		fds[v].events = POLLIN;
		watched += fds[v].fd >= 0;
		/* A window may have gaps; poll() passes over what is negative. */
		if (fds[v].fd < 0 && (!(info.caps & VMP_CAP_WINDOW) || fds[v].fd != -EACCES))
			err = fds[v].fd;
	}
	if (err < 0) {
		err = fail_vmp(err);
	} else {
		if (info.peer_id != VMP_PEER_NONE)
			fprintf(stderr, "watching %u vectors; ring them as peer %u\n", watched,
				info.peer_id);
		err = watch_loop(w, p, fds, n);
	}
	free(fds);
	return err;
}

static int run_watch(int argc, char **argv)
{
	static const struct argp argp = {
		watch_options, parse_watch, "[URI]", "Print each doorbell as it comes: time, vector, "
		"how many were counted (rings coalesce).\v" EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct watch w = { .uri = default_uri() };
	struct vmp *p;
	int code;

	parse_args(&argp, argc, argv, &w);
	catch_signals();
	if (vmp_open(&p, w.uri, VMP_RDONLY))
		return fail(EX_OPEN, "%s", vmp_errmsg());
	code = watch_portal(&w, p);
	vmp_close(p);
	die_of_signal();
	return code;
}

struct ring {
	const char *uri;
	uint32_t num[2];	/* peer, vector */
	unsigned int have;
};

static error_t parse_ring(int key, char *arg, struct argp_state *st)
{
	struct ring *r = st->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (!st->arg_num && is_uri(arg)) {
			r->uri = arg;
			return 0;
		}
		if (r->have == 2 || !parse_u32(arg, &r->num[r->have]))
			argp_error(st, "PEER and VECTOR are numbers; \"%s\"?", arg);
		r->have++;
		return 0;
	case ARGP_KEY_END:
		if (!r->have)
			argp_error(st, "whom to ring? Give the PEER's id");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static int run_ring(int argc, char **argv)
{
	static const struct argp argp = {
		NULL, parse_ring, "[URI] PEER [VECTOR]", "Ring a doorbell of another peer (vector 0 "
		"unless given).\v" EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct ring r = { .uri = default_uri() };
	struct vmp *p;
	int err;

	parse_args(&argp, argc, argv, &r);
	if (vmp_open(&p, r.uri, 0))
		return fail(EX_OPEN, "%s", vmp_errmsg());
	err = vmp_ring(p, r.num[0], r.num[1]);
	if (err == -ENXIO)
		err = fail(EX_PEER, "%s", vmp_errmsg());
	else if (err)
		err = fail_vmp(err);
	vmp_close(p);
	return err;
}

const struct command cmd_watch = { "watch", "print doorbells as they come", run_watch };
const struct command cmd_ring = { "ring", "ring a doorbell", run_ring };
