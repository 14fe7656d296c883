// SPDX-License-Identifier: MIT
/* portalctl watch: doorbells and changes of tables as they come. portalctl ring: ring one. */
#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "changes.h"
#include "frame.h"

#define MAX_VECTORS	2048
#define CHECK_MS	1000	/* how often to ask whether the portal is still there */

/**
 * struct watch - the arguments, and what is looked at
 * @fds: a vector each, @vectors of them, and then the tables, or -1
 * @k: the tables, if they are watched
 */
struct watch {
	const char *uri;
	bool json;
	uint32_t count;		/* stop after so many events; 0: never */
	uint32_t timeout_s;	/* stop after so long without one; 0: never */
	uint64_t seen;
	struct pollfd *fds;
	uint32_t vectors;
	struct look k;
};

static const struct argp_option watch_options[] = {
	{ "count", 'c', "N", 0, "Stop after N doorbells and changes (default: never)", 0 },
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

/* What every line begins with. */
static void print_time(const struct watch *w)
{
	struct timespec ts;
	struct tm tm;
	char when[32];

	clock_gettime(CLOCK_REALTIME, &ts);
	localtime_r(&ts.tv_sec, &tm);
	strftime(when, sizeof(when), "%H:%M:%S", &tm);
	if (w->json)
		printf("{\"time\":%lld.%06ld,", (long long)ts.tv_sec, ts.tv_nsec / 1000);
	else
		printf("%s.%06ld  ", when, ts.tv_nsec / 1000);
}

static void print_event(struct watch *w, uint32_t vector, uint64_t count)
{
	w->seen += count;
	print_time(w);
	printf(w->json ? "\"vector\":%u,\"count\":%llu}\n" : "vector %u  %llu\n", vector,
	       (unsigned long long)count);
	fflush(stdout);
}

static void print_change(void *arg, const struct change *c)
{
	struct watch *w = arg;
	struct json_object *text;

	w->seen++;
	print_time(w);
	if (w->json) {
		text = json_object_new_string(c->text);
		printf("\"change\":\"%s\",\"row\":%u,", c->what, c->slot);
		if (c->peer != UINT32_MAX)
			printf("\"peer\":%u,", c->peer);
		if (c->token)
			printf("\"token\":\"0x%llx\",", (unsigned long long)c->token);
		printf("\"text\":%s}\n", json_object_to_json_string_ext(text, JSON_C_TO_STRING_NOSLASHESCAPE));
		json_object_put(text);
	} else {
		puts(c->text);
	}
	fflush(stdout);
}

/* What poll() found: 0, or an exit code with the text printed. */
static int take(struct watch *w, struct vmp *p)
{
	uint64_t count;
	int err;

	for (uint32_t v = 0; v < w->vectors; v++)
		if (w->fds[v].revents & POLLIN && read(w->fds[v].fd, &count, sizeof(count)) == sizeof(count))
			print_event(w, v, count);
	if (!(w->fds[w->vectors].revents & POLLIN))
		return EX_DONE;
	err = vmp_watch_clear(p);
	return err ? fail_vmp(err) : look_again(&w->k, print_change, w);
}

static int watch_loop(struct watch *w, struct vmp *p)
{
	uint64_t last = now_ns(), seen;
	struct vmp_info info;

	for (;;) {
		int ready = poll(w->fds, w->vectors + 1, CHECK_MS), err = 0;

		if (interrupted())
			return EX_DONE;
		if (ready < 0 && errno != EINTR)
			return fail(EX_LOCAL, "poll: %s", strerror(errno));
		seen = w->seen;
		if (ready > 0)
			err = take(w, p);
		if (err)
			return err;
		if (seen != w->seen)
			last = now_ns();
		/* A revoked portal signals every vector once: that is no doorbell to wait for. */
		err = vmp_get_info(p, &info, sizeof(info));
		if (err)
			return fail_vmp(err);
		if (w->count && w->seen >= w->count)
			return EX_DONE;
		if (w->timeout_s && now_ns() - last >= w->timeout_s * 1000000000ULL)
			return fail(EX_PEER, "no doorbell%s for %u s", w->k.p ? ", and no change," : "",
				    w->timeout_s);
	}
}

/* How many vectors can be watched, or an exit code with the text printed, negated. */
static int watch_vectors(struct watch *w, struct vmp *p, const struct vmp_info *info)
{
	int watched = 0, fd;

	for (uint32_t v = 0; v < w->vectors; v++) {
		fd = v < info->first_vector ? -EACCES : vmp_eventfd(p, v);
		w->fds[v] = (struct pollfd) { .fd = fd, .events = POLLIN };
		watched += fd >= 0;
		/* A window may have gaps; poll() passes over what is negative. */
		if (fd < 0 && (!(info->caps & VMP_CAP_WINDOW) || fd != -EACCES))
			return -fail_vmp(fd);
	}
	return watched;
}

/* The tables of a managed portal; one that is damaged has none to watch. */
static int watch_tables(struct watch *w, struct vmp *p, const struct vmp_info *info)
{
	int fd = info->mode == VMP_MODE_MANAGED ? vmp_watch_fd(p) : -1;

	w->fds[w->vectors] = (struct pollfd) { .fd = fd, .events = POLLIN };
	return fd >= 0 ? look_first(&w->k, p) : EX_DONE;
}

static int watch_portal(struct watch *w, struct vmp *p)
{
	struct vmp_info info;
	int err = vmp_get_info(p, &info, sizeof(info)), watched;

	if (err)
		return fail_vmp(err);
	if (info.caps & VMP_CAP_EVENTS)
		w->vectors = info.vectors < MAX_VECTORS ? info.vectors : MAX_VECTORS;
	w->fds = calloc(w->vectors + 1, sizeof(*w->fds));
	if (!w->fds)
		return fail(EX_LOCAL, "out of memory");
	watched = watch_vectors(w, p, &info);
	err = watched < 0 ? -watched : watch_tables(w, p, &info);
	if (!err && !w->vectors && w->fds[0].fd < 0)
		err = fail(EX_OPEN, "%s has no doorbells to watch (transport %s), and is not managed", w->uri,
			   info.transport);
	if (!err) {
		if (w->vectors && info.peer_id != VMP_PEER_NONE)
			fprintf(stderr, "watching %d vectors; ring them as peer %u\n", watched, info.peer_id);
		if (w->k.p)
			fprintf(stderr, "watching its tables\n");
		err = watch_loop(w, p);
	}
	look_free(&w->k);
	free(w->fds);
	return err;
}

static int run_watch(int argc, char **argv)
{
	static const struct argp argp = {
		watch_options, parse_watch, "[URI]", "Print each doorbell as it comes: time, vector, "
		"how many were counted (rings coalesce); and, of a managed portal, which machines, "
		"processes and objects come and go.\v" EXIT_CODES_DOC, NULL, NULL, NULL
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

const struct command cmd_watch = { "watch", "print doorbells and changes as they come", run_watch };
const struct command cmd_ring = { "ring", "ring a doorbell", run_ring };
