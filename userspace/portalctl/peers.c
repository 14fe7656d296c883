// SPDX-License-Identifier: MIT
/* portalctl peers: the machines and processes of a managed portal. */
#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <string.h>

#include "changes.h"
#include "frame.h"

struct args {
	struct one_portal portal;	/* first: parse_one_portal() */
	bool watch;
};

static const struct argp_option options[] = {
	{ "all", 'a', NULL, 0, "Those too that are dead", 0 },
	{ "watch", 'w', NULL, 0, "Print them again whenever something has changed", 0 },
	{ "json", 'j', NULL, 0, "Print JSON", 0 },
	{ 0 }
};

static const struct column peer_columns[] = {
	{ "slot", "PEER", COL_NUMBER }, { "state", "STATE", COL_TEXT }, { "reason", "WHY", COL_TEXT },
	{ "kind", "KIND", COL_TEXT }, { "address", "ID", COL_NUMBER }, { "heartbeat", "BEATS", COL_NUMBER },
	{ "joined", "JOINED", COL_TEXT }, { "name", "NAME", COL_TEXT },
}, session_columns[] = {
	{ "peer", "PEER", COL_NUMBER }, { "state", "STATE", COL_TEXT }, { "token", "SESSION", COL_TEXT },
	{ "pid", "PID", COL_NUMBER }, { "uid", "UID", COL_NUMBER }, { "started", "STARTED", COL_TEXT },
	{ "name", "COMMAND", COL_TEXT },
};

static error_t parse(int key, char *arg, struct argp_state *st)
{
	struct args *a = st->input;

	if (key != 'w')
		return parse_one_portal(key, arg, st);
	a->watch = true;
	return 0;
}

/* Takes @rows; those that are not dead, unless all are wanted. */
static struct json_object *choose(struct json_object *rows, bool all)
{
	struct json_object *chosen = json_object_new_array(), *o, *v;

	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		o = json_object_array_get_idx(rows, i);
		json_object_object_get_ex(o, "state", &v);
		if (all || strcmp(json_object_get_string(v), "dead"))
			json_object_array_add(chosen, json_object_get(o));
	}
	json_object_put(rows);
	return chosen;
}

static void print_rows(struct json_object *rows, const struct column *cols, size_t n)
{
	if (json_object_array_length(rows))
		print_table(rows, cols, n);
}

/* A line of JSON for each look, if there are several. */
static void print(struct vmp *p, const struct args *a, const struct vmp_layout *l)
{
	struct json_object *peers = choose(peers_json(p, l), a->portal.all);
	struct json_object *sessions = choose(sessions_json(p, l), a->portal.all);
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "peers", peers);
	json_object_object_add(o, "sessions", sessions);
	if (a->portal.json && a->watch) {
		puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	} else if (a->portal.json) {
		print_json(o);
	} else {
		print_rows(peers, peer_columns, sizeof(peer_columns) / sizeof(*peer_columns));
		if (json_object_array_length(sessions))
			putchar('\n');
		print_rows(sessions, session_columns, sizeof(session_columns) / sizeof(*session_columns));
		if (a->watch)
			putchar('\n');
	}
	fflush(stdout);
	json_object_put(o);
}

/* Of machines and processes; objects are not shown here. */
static void count(void *arg, const struct change *c)
{
	unsigned int *n = arg;

	*n += c->peer != UINT32_MAX;
}

static int watch_on(struct look *k, const struct args *a, int fd)
{
	struct pollfd f = { fd, POLLIN, 0 };
	unsigned int changes = 1;
	int err;

	for (;;) {
		if (changes)
			print(k->p, a, &k->l);
		if (poll(&f, 1, -1) < 0 && errno != EINTR)
			return fail(EX_LOCAL, "poll: %s", strerror(errno));
		if (interrupted())
			return EX_DONE;
		/* What comes from here on is told again. */
		err = vmp_watch_clear(k->p);
		if (err)
			return fail_vmp(err);
		changes = 0;
		err = look_again(k, count, &changes);
		if (err)
			return err;
	}
}

static int watch(struct vmp *p, const struct args *a)
{
	int fd = vmp_watch_fd(p), code;
	struct look k;

	if (fd < 0)
		return fail_vmp(fd);
	code = look_first(&k, p);
	if (!code)
		code = watch_on(&k, a, fd);
	look_free(&k);
	return code;
}

static int run(int argc, char **argv)
{
	static const struct argp argp = {
		options, parse, "[URI]", "The machines of a managed portal, and their processes that use "
		"it. A peer is alive; or suspect, when its connection or its heart gives no sign; or asleep; "
		"or dead, which is proven.\v" EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct args a = { .portal.uri = default_uri() };
	struct vmp_layout l;
	struct vmp *p;
	int code;

	parse_args(&argp, argc, argv, &a);
	code = open_managed(&p, a.portal.uri, VMP_RDONLY | VMP_ZERO_ON_REVOKE, &l);
	if (code)
		return code;
	if (a.watch) {
		catch_signals();
		code = watch(p, &a);
	} else {
		print(p, &a, &l);
	}
	vmp_close(p);
	die_of_signal();
	return code;
}

const struct command cmd_peers = { "peers", "machines and processes of a managed portal", run };
