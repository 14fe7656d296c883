// SPDX-License-Identifier: MIT
/* portalctl ls: the objects of a managed portal. */
#include <json-c/json.h>
#include <string.h>

#include "tables.h"

static const struct argp_option options[] = {
	{ "all", 'a', NULL, 0, "Those too that are being made, or have no name any more", 0 },
	{ "json", 'j', NULL, 0, "Print JSON", 0 },
	{ 0 }
};

static const struct column columns[] = {
	{ "kind", "KIND", COL_TEXT }, { "bytes", "SIZE", COL_SIZE }, { "mode", "MODE", COL_TEXT },
	{ "opens", "OPEN", COL_NUMBER }, { "created", "CREATED", COL_TEXT }, { "name", "NAME", COL_TEXT },
	{ "state", "STATE", COL_TEXT },
};

/* @rows without those that cannot be opened, unless all are wanted. */
static struct json_object *choose(struct json_object *rows, bool all)
{
	struct json_object *chosen = json_object_new_array(), *o, *v;

	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		o = json_object_array_get_idx(rows, i);
		json_object_object_get_ex(o, "state", &v);
		if (!all && strcmp(json_object_get_string(v), "named"))
			continue;
		json_object_object_get_ex(o, "users", &v);
		add_u64(o, "opens", json_object_array_length(v));
		json_object_array_add(chosen, json_object_get(o));
	}
	return chosen;
}

static int run(int argc, char **argv)
{
	static const struct argp argp = {
		options, parse_one_portal, "[URI]", "The objects of a managed portal: kind, size, mode, how often each "
		"is open, name.\v" EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct one_portal a = { .uri = default_uri() };
	struct json_object *all, *rows;
	struct vmp_layout l;
	struct vmp *p;
	int code;

	parse_args(&argp, argc, argv, &a);
	code = open_managed(&p, a.uri, VMP_RDONLY | VMP_ZERO_ON_REVOKE, &l);
	if (code)
		return code;
	all = objects_json(p, &l);
	rows = choose(all, a.all);
	if (a.json)
		print_json(rows);
	else if (json_object_array_length(rows))
		print_table(rows, columns, sizeof(columns) / sizeof(*columns) - !a.all);
	json_object_put(rows);
	json_object_put(all);
	vmp_close(p);
	return EX_DONE;
}

const struct command cmd_ls = { "ls", "the objects of a managed portal", run };
