// SPDX-License-Identifier: MIT
/* portalctl rm: take names away. */
#include <errno.h>

#include "tables.h"

struct args {
	struct one_portal portal;	/* first: parse_one_portal() */
	char **names;
};

static const struct argp_option options[] = {
	{ "force", 'f', NULL, 0, "No error if there is no such object", 0 },
	{ 0 }
};

static error_t parse(int key, char *arg, struct argp_state *st)
{
	struct args *a = st->input;

	if (key == ARGP_KEY_ARG && (st->arg_num || !is_uri(arg))) {
		/* This one and those behind it. */
		a->names = st->argv + st->next - 1;
		st->next = st->argc;
		return 0;
	}
	if (key == ARGP_KEY_END && !a->names)
		argp_error(st, "remove what? Give the NAME of an object");
	return parse_one_portal(key, arg, st);
}

static int run(int argc, char **argv)
{
	static const struct argp argp = {
		options, parse, "[URI] NAME...", "Unlink objects of a managed portal: their names are free "
		"at once; whoever has one open keeps it, and its memory is free when the last of them has "
		"closed it or has died.\v" EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct args a = { .portal.uri = default_uri() };
	struct vmp_layout l;
	struct vmp *p;
	int code, err;

	parse_args(&argp, argc, argv, &a);
	code = open_managed(&p, a.portal.uri, 0, &l);
	if (code)
		return code;
	for (char **name = a.names; *name; name++) {
		err = vmp_named_unlink(p, *name);
		if (err == -ENOENT && a.portal.force)
			continue;
		/* The others are removed all the same, as by rm(1). */
		if (err == -ENOENT)
			code = fail(EX_REFUSED, "%s", vmp_errmsg());
		else if (err)
			code = fail_vmp(err);
		if (err && err != -ENOENT)
			break;
	}
	vmp_close(p);
	return code;
}

const struct command cmd_rm = { "rm", "unlink objects", run };
