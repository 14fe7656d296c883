// SPDX-License-Identifier: MIT
/* portalctl exec: run a command that reaches a part of a portal and nothing else of it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

#define COMMAND_FD	3

/* Exit codes as env(1), nice(1) and their kin have them. */
#define EX_CANNOT_RUN	126
#define EX_NOT_FOUND	127

enum { OPT_WINDOW = 0x100, OPT_WAIT, OPT_RING, OPT_PEER };

struct args {
	const char *uri;
	struct vmp_window_opts window;
	char **command;
};

static const struct argp_option options[] = {
	{ "window", OPT_WINDOW, "OFFSET:LENGTH[:ro]", 0, "What part of the region: multiples of "
	  "64K; ro: to read only", 0 },
	{ "wait", OPT_WAIT, "VECTORS", 0, "Own vectors that it may wait for, e.g. 1,3-5 (default "
	  "none)", 0 },
	{ "ring", OPT_RING, "VECTORS", 0, "Vectors of others that it may ring (default none)", 0 },
	{ "peer", OPT_PEER, "ID", 0, "Ring only this peer (default: any)", 0 },
	{ 0 }
};

/* "65536:1M" or "64K:1M:ro". */
static bool parse_window(const char *s, struct vmp_window_opts *w)
{
	const char *colon = strchr(s, ':');
	char offset[32], length[32];
	size_t n;

	if (!colon || (size_t)(colon - s) >= sizeof(offset))
		return false;
	memcpy(offset, s, colon - s);
	offset[colon - s] = 0;
	n = strcspn(colon + 1, ":");
	if (n >= sizeof(length))
		return false;
	memcpy(length, colon + 1, n);
	length[n] = 0;
	s = colon + 1 + n;
	w->flags = *s ? VMP_WINDOW_RDONLY : 0;
	return (!*s || !strcmp(s, ":ro")) && parse_size(offset, &w->offset) &&
	       parse_size(length, &w->length);
}

/* "0,2-4": bits of vectors below 64. */
static bool parse_vectors(const char *s, uint64_t *bits)
{
	do {
		unsigned long from, to;
		char *end;

		if (*s < '0' || *s > '9')
			return false;
		from = to = strtoul(s, &end, 10);
		if (*end == '-' && end[1] >= '0' && end[1] <= '9')
			to = strtoul(end + 1, &end, 10);
		if (from > to || to > 63)
			return false;
		for (; from <= to; from++)
			*bits |= UINT64_C(1) << from;
		s = end;
	} while (*s++ == ',');
	return !s[-1];
}

static error_t parse(int key, char *arg, struct argp_state *st)
{
	struct args *a = st->input;

	switch (key) {
	case OPT_WINDOW:
		if (!parse_window(arg, &a->window))
			argp_error(st, "--window wants OFFSET:LENGTH or OFFSET:LENGTH:ro, not \"%s\"", arg);
		return 0;
	case OPT_WAIT:
		if (!parse_vectors(arg, &a->window.wait))
			argp_error(st, "--wait wants vectors below 64, e.g. 0,2-4, not \"%s\"", arg);
		return 0;
	case OPT_RING:
		if (!parse_vectors(arg, &a->window.ring))
			argp_error(st, "--ring wants vectors below 64, e.g. 0,2-4, not \"%s\"", arg);
		return 0;
	case OPT_PEER:
		if (!parse_u32(arg, &a->window.peer))
			argp_error(st, "--peer wants a number, not \"%s\"", arg);
		return 0;
	case ARGP_KEY_ARG:
		if (!a->uri && is_uri(arg)) {
			a->uri = arg;
			return 0;
		}
		/* All that follows is the command's, its options too. */
		a->command = st->argv + st->next - 1;
		st->next = st->argc;
		return 0;
	case ARGP_KEY_END:
		if (!a->window.length)
			argp_error(st, "which part? --window=OFFSET:LENGTH, e.g. --window=64K:1M");
		if (!a->command)
			argp_error(st, "what shall be run? Give a COMMAND");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

/* A window of the portal, nothing else of which is open afterwards; or -1, said why. */
static int window_of(const struct args *a, enum exit_code *code)
{
	struct vmp *p;
	int fd;

	if (vmp_open(&p, a->uri, a->window.flags & VMP_WINDOW_RDONLY ? VMP_RDONLY : 0)) {
		*code = fail(EX_OPEN, "%s", vmp_errmsg());
		return -1;
	}
	fd = vmp_window(p, &a->window);
	if (fd < 0)
		*code = fail(fd == -EINVAL ? EX_MISUSE : EX_OPEN, "%s", vmp_errmsg());
	vmp_close(p);
	return fd;
}

/* The command must not inherit what the window was made from, if that was passed to us. */
static void forget(const char *uri)
{
	if (!strncmp(uri, "fd:", 3))
		fcntl(atoi(uri + 3), F_SETFD, FD_CLOEXEC);
}

static int run_exec(int argc, char **argv)
{
	static const struct argp argp = {
		options, parse, "[URI] [--] COMMAND [ARGUMENT...]",
		"Run COMMAND with a window of the portal as descriptor 3 and VMPORTAL_URI=fd:3 in its "
		"environment. Nothing makes that reach more than is said here. Take away by other "
		"means (setpriv, bwrap, systemd) what COMMAND could otherwise open itself.\v"
		"Exit status: that of COMMAND; 126 it cannot be run; 127 it is not there; otherwise: "
		EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct args a = { .window = { .size = sizeof(a.window), .peer = VMP_PEER_ANY } };
	enum exit_code code = EX_LOCAL;
	char uri[16];
	int fd, err;

	argp_err_exit_status = EX_MISUSE;
	if (argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &a))
		return fail(EX_LOCAL, "out of memory");
	if (!a.uri)
		a.uri = default_uri();
	fd = window_of(&a, &code);
	if (fd < 0)
		return code;
	forget(a.uri);
	if (fd == COMMAND_FD ? fcntl(fd, F_SETFD, 0) : dup2(fd, COMMAND_FD) < 0)
		return fail(EX_LOCAL, "descriptor %d: %s", COMMAND_FD, strerror(errno));
	snprintf(uri, sizeof(uri), "fd:%d", COMMAND_FD);
	if (setenv("VMPORTAL_URI", uri, 1))
		return fail(EX_LOCAL, "out of memory");
	execvp(a.command[0], a.command);
	err = errno;
	fail(EX_LOCAL, "%s: %s", a.command[0], strerror(err));
	return err == ENOENT ? EX_NOT_FOUND : EX_CANNOT_RUN;
}

const struct command cmd_exec = { "exec", "run a command confined to a window", run_exec };
