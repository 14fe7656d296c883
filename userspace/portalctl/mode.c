// SPDX-License-Identifier: MIT
/* portalctl mode: whether a device's kernel takes a portal for raw or for managed. */
#include <errno.h>
#include <string.h>

#include "tool.h"

struct args {
	const char *uri, *mode;
};

static error_t parse(int key, char *arg, struct argp_state *st)
{
	struct args *a = st->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (st->arg_num == 0)
			a->uri = arg;
		else if (st->arg_num == 1)
			a->mode = arg;
		else
			argp_error(st, "too many arguments");
		return 0;
	case ARGP_KEY_END:
		if (a->mode && strcmp(a->mode, "raw") && strcmp(a->mode, "managed"))
			argp_error(st, "'%s' is neither raw nor managed", a->mode);
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static int show(struct vmp *p)
{
	struct vmp_info i;
	int err = vmp_get_info(p, &i, sizeof(i));

	if (err)
		return fail_vmp(err);
	puts(i.mode == VMP_MODE_MANAGED ? "managed" : "raw");
	return EX_DONE;
}

static int change(struct vmp *p, const char *mode)
{
	int err = vmp_set_mode(p, strcmp(mode, "raw") ? VMP_MODE_MANAGED : VMP_MODE_RAW);

	if (err == -ENODATA)
		return fail(EX_REFUSED, "%s", vmp_errmsg());
	return err ? fail_vmp(err) : EX_DONE;
}

static int run(int argc, char **argv)
{
	static const struct argp argp = {
		NULL, parse, "[URI [raw|managed]]", "Print how a portal is taken, or have its kernel take "
		"it otherwise: bytes that change never do that. Needs root, and that nobody has the "
		"portal mapped.\v" EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct args a = { .uri = DEFAULT_URI };
	struct vmp *p;
	int code;

	parse_args(&argp, argc, argv, &a);
	if (a.mode && strncmp(a.uri, "/dev/", 5))
		return fail(EX_MISUSE, "%s: only the kernel of a /dev/portalN keeps a mode; others look when they open it",
			    a.uri);
	if (vmp_open(&p, a.uri, a.mode ? 0 : VMP_RDONLY))
		return fail(EX_OPEN, "%s", vmp_errmsg());
	code = a.mode ? change(p, a.mode) : show(p);
	vmp_close(p);
	return code;
}

const struct command cmd_mode = { "mode", "raw or managed, and to change it", run };
