// SPDX-License-Identifier: MIT
/* portalctl dump: all that a managed portal's tables say. */
#include <errno.h>
#include <json-c/json.h>

#include "tables.h"

static struct json_object *areas_json(const struct vmp_layout *l)
{
	static const char *const names[VMP_AREAS] = {
		"peers", "sessions", "directory", "objects", "uses", "pending", "data",
	};
	struct json_object *rows = json_object_new_array(), *o;

	for (unsigned int i = 0; i < VMP_AREAS; i++) {
		o = json_object_new_object();
		add_text(o, "area", names[i]);
		add_u64(o, "offset", l->area[i].offset);
		add_u64(o, "length", l->area[i].length);
		add_u64(o, "stride", l->area[i].stride);
		add_u64(o, "count", l->area[i].count);
		add_text(o, "mapped", l->area[i].offset < l->protected_size ? "read-only" : "writable");
		json_object_array_add(rows, o);
	}
	return rows;
}

struct json_object *layout_json(const struct vmp_layout *l)
{
	struct json_object *o = json_object_new_object();

	add_text(o, "name", l->name);
	add_uuid(o, "uuid", l->uuid, true);
	add_hex(o, "incarnation", l->incarnation);
	add_u64(o, "version", l->version);
	add_hex(o, "incompat", l->incompat);
	add_hex(o, "compat", l->compat);
	json_object_object_add(o, "damaged", json_object_new_boolean(l->flags & VMP_LAYOUT_DAMAGED));
	add_text(o, "creator", l->creator);
	add_time(o, "created", l->created);
	add_u64(o, "size", l->size);
	add_u64(o, "protected", l->protected_size);
	add_u64(o, "peers_max", l->peers);
	add_u64(o, "sessions_max", l->sessions);
	add_u64(o, "objects_max", l->objects);
	add_u64(o, "uses_max", l->uses);
	json_object_object_add(o, "areas", areas_json(l));
	return o;
}

/* ---- As text --------------------------------------------------------------------- */

#define COUNT(a)	(sizeof(a) / sizeof(*(a)))

static const struct column head_columns[] = {
	{ "uri", "URI", COL_TEXT }, { "name", "name", COL_TEXT }, { "uuid", "uuid", COL_TEXT },
	{ "incarnation", "incarnation", COL_TEXT }, { "version", "version", COL_NUMBER },
	{ "incompat", "features needed", COL_TEXT }, { "compat", "features", COL_TEXT },
	{ "damaged", "damaged", COL_TEXT }, { "created", "formatted", COL_TEXT },
	{ "creator", "by", COL_TEXT }, { "size", "size", COL_SIZE },
	{ "protected", "read-only", COL_SIZE },
}, area_columns[] = {
	{ "area", "AREA", COL_TEXT }, { "offset", "OFFSET", COL_NUMBER },
	{ "length", "BYTES", COL_NUMBER }, { "count", "ROWS", COL_NUMBER },
	{ "stride", "EACH", COL_NUMBER }, { "mapped", "MAPPED", COL_TEXT },
}, peer_columns[] = {
	{ "slot", "PEER", COL_NUMBER }, { "state", "STATE", COL_TEXT }, { "kind", "KIND", COL_TEXT },
	{ "address", "ID", COL_NUMBER }, { "vectors", "VECTORS", COL_NUMBER },
	{ "heartbeat", "BEATS", COL_NUMBER }, { "sequence", "LIFE", COL_NUMBER },
	{ "reason", "VERDICT", COL_TEXT }, { "joined", "JOINED", COL_TEXT },
	{ "name", "NAME", COL_TEXT },
}, session_columns[] = {
	{ "slot", "SESSION", COL_NUMBER }, { "peer", "PEER", COL_NUMBER },
	{ "state", "STATE", COL_TEXT }, { "token", "TOKEN", COL_TEXT },
	{ "vector", "VECTOR", COL_NUMBER }, { "pid", "PID", COL_NUMBER },
	{ "uid", "UID", COL_NUMBER }, { "started", "STARTED", COL_TEXT },
	{ "name", "COMMAND", COL_TEXT },
}, object_columns[] = {
	{ "row", "OBJECT", COL_NUMBER }, { "state", "STATE", COL_TEXT }, { "kind", "KIND", COL_TEXT },
	{ "offset", "OFFSET", COL_NUMBER }, { "bytes", "BYTES", COL_NUMBER },
	{ "mode", "MODE", COL_TEXT }, { "users", "USERS", COL_TEXT }, { "name", "NAME", COL_TEXT },
}, directory_columns[] = {
	{ "generation", "directory generation", COL_NUMBER }, { "lock_owner", "lock held by", COL_TEXT },
	{ "lock_previous", "lock inherited from", COL_TEXT }, { "lock_count", "lock taken", COL_NUMBER },
	{ "lock_flags", "lock flags", COL_NUMBER }, { "redo", "change under way", COL_NUMBER },
	{ "redo_count", "its stores", COL_NUMBER },
};

static void print_rows(struct json_object *o, const char *key, const struct column *cols, size_t n)
{
	struct json_object *rows;

	if (!json_object_object_get_ex(o, key, &rows) || !json_object_array_length(rows))
		return;
	putchar('\n');
	print_table(rows, cols, n);
}

static void print_text(struct json_object *o)
{
	struct json_object *dir;

	print_record(o, head_columns, COUNT(head_columns));
	print_rows(o, "areas", area_columns, COUNT(area_columns));
	putchar('\n');
	json_object_object_get_ex(o, "directory", &dir);
	print_record(dir, directory_columns, COUNT(directory_columns));
	print_rows(o, "peers", peer_columns, COUNT(peer_columns));
	print_rows(o, "sessions", session_columns, COUNT(session_columns));
	print_rows(o, "objects", object_columns, COUNT(object_columns));
}

static int dump(struct vmp *p, const struct one_portal *a)
{
	struct json_object *o;
	struct vmp_layout l;
	int err = vmp_get_layout(p, &l, sizeof(l));

	if (err == -ENODATA)
		return fail(EX_REFUSED, "%s", vmp_errmsg());
	if (err)
		return fail_vmp(err);
	o = layout_json(&l);
	add_text(o, "uri", a->uri);
	json_object_object_add(o, "directory", directory_json(&l));
	json_object_object_add(o, "peers", peers_json(p, &l));
	json_object_object_add(o, "sessions", sessions_json(p, &l));
	json_object_object_add(o, "objects", objects_json(p, &l));
	if (a->json)
		print_json(o);
	else
		print_text(o);
	json_object_put(o);
	return EX_DONE;
}

static int run(int argc, char **argv)
{
	static const struct argp argp = {
		one_portal_options, parse_one_portal, "[URI]", "All that the superblock, the tables and the directory of a "
		"managed portal say. It is the machines' word; \"portalctl check\" tells whether it has "
		"its form.\v" EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct one_portal a = { .uri = default_uri() };
	struct vmp *p;
	int code;

	parse_args(&argp, argc, argv, &a);
	if (vmp_open(&p, a.uri, VMP_RDONLY | VMP_ZERO_ON_REVOKE))
		return fail(EX_OPEN, "%s", vmp_errmsg());
	code = dump(p, &a);
	vmp_close(p);
	return code;
}

const struct command cmd_dump = { "dump", "what a managed portal's tables say", run };
