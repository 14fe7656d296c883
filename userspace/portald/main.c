// SPDX-License-Identifier: MIT
/* Options and subcommands of portald(8). */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "keeper.h"
#include "log.h"
#include "query.h"
#include "serve.h"
#include "store.h"

#define EXIT_BAD_USAGE 2

/* libc looks for this name in the program, which is built with hidden symbols. */
__attribute__((visibility("default")))
const char *argp_program_version = "portald " VMP_VERSION;

enum {
	OPT_NAME = 0x100, OPT_SOCKET_DIR, OPT_ONLY, OPT_CHECK, OPT_JSON, OPT_JSON_LOG, OPT_KEEP,
	OPT_KEY,	/* and above: an option that is a key of portald.conf */
};

/* --NAME that go to conf_set(); their order is that of OPT_KEY + n. */
static const char *const key_options[] = {
	"size", "vectors", "host-peers", "max-guests", "hugepages", "prealloc", "owner",
	"group", "mode", "stall-timeout", "connect-rate", "first-guest-id", "managed", "sessions",
	"heartbeat",
};

static const struct argp_option options[] = {
	{ NULL, 0, NULL, 0, "What to serve:", 1 },
	{ "config", 'c', "FILE", 0, "Serve the portals of FILE (" CONF_DEFAULT ")", 1 },
	{ "only", OPT_ONLY, "NAME", 0, "Of that file, serve portal NAME alone", 1 },
	{ "socket-dir", OPT_SOCKET_DIR, "DIR", 0,
	  "Where NAME.ivshmem and NAME.sock are (/run/vmportal; without privileges "
	  "$XDG_RUNTIME_DIR/vmportal)", 1 },
	{ "check-config", OPT_CHECK, NULL, 0,
	  "Say whether the configuration is right, and end", 1 },
	{ "keep", OPT_KEEP, NULL, 0,
	  "Keep all descriptors in a process of their own, and start anew what is killed", 1 },
	{ "json-log", OPT_JSON_LOG, NULL, 0, "Log lines are JSON objects", 1 },
	{ NULL, 0, NULL, 0, "One portal without a file (as the keys of portald.conf(5)):", 2 },
	{ "name", OPT_NAME, "NAME", 0, "Serve a portal NAME", 2 },
	{ "size", OPT_KEY + 0, "SIZE", 0, "Its size, a power of two: 64M", 2 },
	{ "vectors", OPT_KEY + 1, "N", 0, "Doorbells of each peer (4)", 2 },
	{ "host-peers", OPT_KEY + 2, "N", 0, "Processes of the host at a time (8)", 2 },
	{ "max-guests", OPT_KEY + 3, "N", 0, "Guests at a time (up to 64)", 2 },
	{ "hugepages", OPT_KEY + 4, "yes|SIZE", OPTION_ARG_OPTIONAL, "Use huge pages", 2 },
	{ "prealloc", OPT_KEY + 5, "yes|no", OPTION_ARG_OPTIONAL, "Allocate all memory now", 2 },
	{ "owner", OPT_KEY + 6, "USER", 0, "Owner of the sockets", 2 },
	{ "group", OPT_KEY + 7, "GROUP", 0, "Group of the sockets", 2 },
	{ "mode", OPT_KEY + 8, "MODE", 0, "Mode of the sockets (0660)", 2 },
	{ "stall-timeout", OPT_KEY + 9, "S", 0,
	  "Cut a client that reads nothing for S seconds (30)", 2 },
	{ "connect-rate", OPT_KEY + 10, "N", 0, "Connects per second, 0 for no limit (50)", 2 },
	{ "first-guest-id", OPT_KEY + 11, "ID", OPTION_HIDDEN, NULL, 2 },
	{ "managed", OPT_KEY + 12, "yes|no", OPTION_ARG_OPTIONAL,
	  "Lay it out as a managed portal, portal-layout(5)", 2 },
	{ "sessions", OPT_KEY + 13, "N", 0, "managed: sessions of each machine (64, or what fits)", 2 },
	{ "heartbeat", OPT_KEY + 14, "MS", 0, "managed: milliseconds between heartbeats (1000)", 2 },
	{ NULL, 0, NULL, 0, "status:", 3 },
	{ "json", OPT_JSON, NULL, 0, "Print JSON", 3 },
	{ NULL, 0, NULL, 0, "Help:", -1 },
	{ NULL, 0, NULL, 0, NULL, 0 },
};

struct args {
	struct config config;
	const char *name, *file, *only, *dir;
	const char *words[2];
	unsigned int nwords;
	bool check, json, json_log, keep;
	/* Keys may stand before --name. */
	struct { const char *key, *value; } keys[64];
	unsigned int nkeys;
};

static error_t add_key(struct args *a, struct argp_state *state, int n, const char *value)
{
	if (a->nkeys == sizeof(a->keys) / sizeof(a->keys[0])) {
		argp_error(state, "too many options");
		return EINVAL;
	}
	a->keys[a->nkeys].key = key_options[n];
	a->keys[a->nkeys++].value = value ? value : "yes";
	return 0;
}

static error_t parse_opt(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case 'c':
		a->file = arg;
		return 0;
	case OPT_ONLY:
		a->only = arg;
		return 0;
	case OPT_SOCKET_DIR:
		a->dir = arg;
		return 0;
	case OPT_CHECK:
		a->check = true;
		return 0;
	case OPT_JSON:
		a->json = true;
		return 0;
	case OPT_JSON_LOG:
		a->json_log = true;
		return 0;
	case OPT_KEEP:
		a->keep = true;
		return 0;
	case OPT_NAME:
		if (a->name)
			argp_error(state, "--name: one portal only; use a configuration file for more");
		a->name = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (a->nwords == 2)
			argp_error(state, "'%s': one word too many", arg);
		a->words[a->nwords++] = arg;
		return 0;
	default:
		if (key >= OPT_KEY && key < OPT_KEY + (int)(sizeof(key_options) /
							    sizeof(key_options[0])))
			return add_key(a, state, key - OPT_KEY, arg);
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse_opt,
	.args_doc = "\nqemu-args NAME\nlibvirt-xml NAME\nstatus NAME",
	.doc = "Serve shared memory and doorbells to QEMU guests and to processes of this host.\v"
	       "qemu-args and libvirt-xml print what QEMU and libvirt need to join portal NAME; "
	       "status prints who is on it.\n\n"
	       "  portald --name demo --size 64M\n"
	       "  qemu-system-x86_64 ... $(portald qemu-args demo)",
};

static int fail(const char *text)
{
	log_line(LOG_ERR, NULL, "%s", text);
	return EXIT_BAD_USAGE;
}

static int configure_named(struct args *a, struct err *e)
{
	struct portal_conf *p;
	struct err inner;
	unsigned int i;

	if (a->file || a->only)
		return err_set(e, "--name describes a portal without a file: leave out --config and --only");
	p = conf_add(&a->config, a->name, "command line", &inner);
	if (!p)
		return err_set(e, "--name: %s", inner.text);
	for (i = 0; i < a->nkeys; i++)
		if (conf_set(p, a->keys[i].key, a->keys[i].value, &inner) < 0)
			return err_set(e, "--%s", inner.text);
	return conf_finish(p, e);
}

/* The portals to serve: from --name and its options, or from the file. */
static int configure(struct args *a, bool file_may_miss, struct err *e)
{
	int ret;

	if (a->name)
		return configure_named(a, e);
	if (a->nkeys)
		return err_set(e, "--%s needs --name", a->keys[0].key);
	ret = conf_load(&a->config, a->file ? a->file : CONF_DEFAULT, e);
	if (ret == -ENOENT && !a->file)
		return file_may_miss ? 0 :
		       err_set(e, "no %s: write one (portald.conf(5)), or give --name and --size",
			       CONF_DEFAULT);
	if (!a->file)
		a->file = CONF_DEFAULT;
	return ret < 0 ? -1 : 0;
}

static int command(struct args *a)
{
	bool status = strcmp(a->words[0], "status") == 0;
	bool qemu = strcmp(a->words[0], "qemu-args") == 0;
	struct err e;

	if (!status && !qemu && strcmp(a->words[0], "libvirt-xml") != 0) {
		err_set(&e, "'%s' is no command: qemu-args, libvirt-xml, status, or none to serve",
			a->words[0]);
		return fail(e.text);
	}
	if (a->nwords < 2) {
		err_set(&e, "%s: which portal? %s NAME", a->words[0], a->words[0]);
		return fail(e.text);
	}
	if (conf_check_name(a->words[1], &e) < 0 || configure(a, true, &e) < 0)
		return fail(e.text);
	if (status)
		return cmd_status(a->dir ? a->dir : a->config.socket_dir, a->words[1], a->json);
	return cmd_paste(qemu ? PASTE_QEMU : PASTE_LIBVIRT, &a->config, a->dir, a->words[1]);
}

static int daemon_main(struct args *a)
{
	struct serve_args s = { .config = &a->config };
	const struct portal_conf *p;
	struct err e;

	if (configure(a, false, &e) < 0) {
		fail(e.text);
		return store_waits() ? EXIT_FAILURE : EXIT_BAD_USAGE;
	}
	if (a->check) {
		for (p = a->config.portals; p; p = p->next)
			printf("%s: %lu KiB, %u vectors, host ids %u, %u guests at most\n", p->name,
			       (unsigned long)(p->size >> 10), p->vectors, p->host_peers,
			       p->max_guests);
		return fflush(stdout) == 0 ? 0 : 1;
	}
	s.file = a->name ? NULL : a->file;
	s.only = a->only;
	s.dir = a->dir;
	return serve(&s);
}

int main(int argc, char **argv)
{
	struct args a = { .nwords = 0 };
	int ret;

	store_init();
	argp_err_exit_status = EXIT_BAD_USAGE;
	ret = argp_parse(&argp, argc, argv, 0, NULL, &a);
	log_init(a.json_log);
	/* The keeper's daemon has the same command line, and a keeper. */
	if (ret == 0)
		ret = a.nwords ? command(&a) : a.keep && !a.check && store_keeper() < 0 ? keep(argv) :
		      daemon_main(&a);
	conf_free(&a.config);
	return ret;
}
