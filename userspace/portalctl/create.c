// SPDX-License-Identifier: MIT
/* portalctl create: make an object. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>

#include "tables.h"

struct create {
	const char *uri, *name;
	uint64_t bytes;
	uint32_t mode;
	unsigned int have;
	bool json, exist_ok;
};

static const struct argp_option options[] = {
	{ "mode", 'm', "OCTAL", 0, "Advice to others, as of a file (0600)", 0 },
	{ "exist-ok", 'e', NULL, 0, "No error if it is there, and large enough", 0 },
	{ "json", 'j', NULL, 0, "Print JSON: what was made, or found", 0 },
	{ 0 }
};

static error_t parse_arg(struct create *c, char *arg, struct argp_state *st)
{
	if (!st->arg_num && is_uri(arg)) {
		c->uri = arg;
		return 0;
	}
	c->have++;
	if (c->have == 1)
		c->name = arg;
	else if (c->have > 2)
		argp_error(st, "too many arguments: a NAME and its BYTES");
	else if (!parse_size(arg, &c->bytes) || !c->bytes)
		argp_error(st, "BYTES is a number above 0, also 64K or 16M, not \"%s\"", arg);
	return 0;
}

static error_t parse_create(int key, char *arg, struct argp_state *st)
{
	struct create *c = st->input;
	char *end;

	switch (key) {
	case 'm':
		c->mode = strtoul(arg, &end, 8);
		if (*arg < '0' || *arg > '7' || *end || c->mode > 0777)
			argp_error(st, "--mode is an octal number up to 0777, not \"%s\"", arg);
		return 0;
	case 'e':
		c->exist_ok = true;
		return 0;
	case 'j':
		c->json = true;
		return 0;
	case ARGP_KEY_ARG:
		return parse_arg(c, arg, st);
	case ARGP_KEY_END:
		if (c->have < 2)
			argp_error(st, "create what? Give a NAME and its BYTES");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

/* What is there, or is not there, is the caller's affair: status 6. */
static int fail_name(int err)
{
	return err == -EEXIST || err == -ENOENT || err == -EPROTOTYPE || err == -ERANGE ?
		fail(EX_REFUSED, "%s", vmp_errmsg()) : fail_vmp(err);
}

static void print_made(const struct vmp_object *ob)
{
	struct json_object *o = json_object_new_object();

	add_text(o, "name", ob->name);
	add_hex(o, "id", ob->id);
	add_u64(o, "offset", ob->offset);
	add_u64(o, "length", ob->length);
	add_u64(o, "bytes", ob->bytes);
	print_json(o);
	json_object_put(o);
}

static int create(struct vmp *p, const struct create *c)
{
	struct vmp_object o;
	struct vmp_named *n;
	int err = vmp_named_open(&n, p, c->name, VMP_CREATE | (c->exist_ok ? 0 : VMP_EXCL), c->bytes,
				 c->mode);

	if (err)
		return fail_name(err);
	err = vmp_named_info(n, &o, sizeof(o));
	if (!err && c->json)
		print_made(&o);
	if (!err)
		err = vmp_named_close(n);
	return err ? fail_vmp(err) : EX_DONE;
}

static int run_create(int argc, char **argv)
{
	static const struct argp argp = {
		options, parse_create, "[URI] NAME BYTES", "Make an object in a managed portal: BYTES of "
		"zeroes with a NAME, for any process of any machine to open. It is there until \"portalctl "
		"rm\", whoever uses it.\v" EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct create c = { .uri = default_uri(), .mode = 0600 };
	struct vmp_layout l;
	struct vmp *p;
	int code;

	parse_args(&argp, argc, argv, &c);
	code = open_managed(&p, c.uri, 0, &l);
	if (code)
		return code;
	code = create(p, &c);
	vmp_close(p);
	return code;
}

const struct command cmd_create = { "create", "make an object", run_create };
