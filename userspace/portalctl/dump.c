// SPDX-License-Identifier: MIT
/* portalctl dump: all that a managed portal's tables say. */
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tool.h"

/* ---- To JSON ------------------------------------------------------------------- */

static void add_u64(struct json_object *o, const char *key, uint64_t v)
{
	json_object_object_add(o, key, json_object_new_uint64(v));
}

static void add_text(struct json_object *o, const char *key, const char *s)
{
	json_object_object_add(o, key, json_object_new_string(s));
}

/* Tokens, incarnations: as people compare them, and as no reader of JSON rounds them. */
static void add_hex(struct json_object *o, const char *key, uint64_t v)
{
	char text[24];

	if (!v)
		return;
	snprintf(text, sizeof(text), "0x%" PRIx64, v);
	add_text(o, key, text);
}

static void add_time(struct json_object *o, const char *key, uint64_t ns)
{
	time_t t = (time_t)(ns / 1000000000);
	char text[32];
	struct tm tm;

	if (ns && gmtime_r(&t, &tm) && strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm))
		add_text(o, key, text);
}

static void add_uuid(struct json_object *o, const char *key, const uint8_t *u, bool dashes)
{
	char text[40];
	size_t at = 0;

	for (unsigned int i = 0; i < 16; i++)
		at += snprintf(text + at, sizeof(text) - at, "%s%02x",
			       dashes && i >= 4 && i <= 10 && i % 2 == 0 ? "-" : "", u[i]);
	add_text(o, key, text);
}

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

static struct json_object *directory_json(const struct vmp_layout *l)
{
	struct json_object *o = json_object_new_object();

	add_u64(o, "generation", l->generation);
	add_hex(o, "lock_owner", l->lock_owner);
	add_hex(o, "lock_previous", l->lock_previous);
	add_u64(o, "lock_count", l->lock_count);
	add_u64(o, "lock_flags", l->lock_flags);
	add_u64(o, "redo", l->redo);
	add_u64(o, "redo_count", l->redo_count);
	return o;
}

static const char *state_name(uint32_t state)
{
	static const char *const names[] = { "none", "joining", "alive", "asleep", "dead", "suspect" };

	return state < sizeof(names) / sizeof(*names) ? names[state] : "?";
}

static struct json_object *peer_json(const struct vmp_peer *p)
{
	static const char *const reasons[] = { "none", "exited", "cut", "rescinded", "fenced" };
	struct json_object *o = json_object_new_object();

	add_u64(o, "slot", p->slot);
	add_text(o, "state", state_name(p->state));
	add_text(o, "kind", p->kind == 1 ? "guest" : p->kind == 2 ? "host" : "?");
	if (p->address != VMP_PEER_NONE)
		add_u64(o, "address", p->address);
	add_u64(o, "vectors", p->vectors);
	if (p->notice != UINT32_MAX)
		add_u64(o, "notice", p->notice);
	if (p->reason)
		add_text(o, "reason", p->reason < 5 ? reasons[p->reason] : "?");
	add_u64(o, "sequence", p->sequence);
	add_hex(o, "incarnation", p->incarnation);
	add_time(o, "joined", p->joined);
	add_u64(o, "heartbeat", p->heartbeat);
	add_u64(o, "heartbeat_ms", p->heartbeat_ms);
	add_u64(o, "changes", p->changes);
	add_uuid(o, "machine", p->machine, false);
	add_text(o, "name", p->name);
	return o;
}

static struct json_object *session_json(const struct vmp_session *s)
{
	struct json_object *o = json_object_new_object();

	add_u64(o, "slot", s->slot);
	add_u64(o, "peer", s->peer);
	add_text(o, "state", state_name(s->state));
	add_hex(o, "token", s->token);
	if (s->address != VMP_PEER_NONE)
		add_u64(o, "address", s->address);
	if (s->vector != UINT32_MAX)
		add_u64(o, "vector", s->vector);
	add_u64(o, "pid", s->pid);
	add_u64(o, "uid", s->uid);
	add_time(o, "started", s->started);
	add_text(o, "name", s->name);
	return o;
}

static struct json_object *object_json(const struct vmp_object *ob)
{
	struct json_object *o = json_object_new_object();
	char mode[16];

	snprintf(mode, sizeof(mode), "%04o", ob->mode);
	add_u64(o, "row", ob->row);
	add_hex(o, "id", ob->id);
	add_text(o, "state", ob->state == VMP_OBJECT_NAMED ? "named" : "unlinked");
	add_text(o, "kind", ob->kind == 1 ? "raw" : ob->kind == 2 ? "channel" : "?");
	add_u64(o, "format", ob->format);
	add_u64(o, "offset", ob->offset);
	add_u64(o, "length", ob->length);
	add_u64(o, "bytes", ob->bytes);
	add_text(o, "mode", mode);
	add_u64(o, "flags", ob->flags);
	add_hex(o, "creator", ob->creator);
	add_time(o, "created", ob->created);
	json_object_object_add(o, "users", json_object_new_array());
	add_text(o, "name", ob->name);
	return o;
}

/* ---- All rows that were ever used ------------------------------------------------ */

static struct json_object *peers_json(struct vmp *p, const struct vmp_layout *l)
{
	struct json_object *rows = json_object_new_array();
	struct vmp_peer peer;

	for (uint32_t i = 0; i < l->peers; i++)
		if (!vmp_get_peer(p, i, &peer, sizeof(peer)) && peer.state != VMP_STATE_NONE)
			json_object_array_add(rows, peer_json(&peer));
	return rows;
}

static struct json_object *sessions_json(struct vmp *p, const struct vmp_layout *l)
{
	struct json_object *rows = json_object_new_array();
	struct vmp_session s;

	for (uint32_t i = 0; i < l->area[1].count; i++)
		if (!vmp_get_session(p, i, &s, sizeof(s)) && s.state != VMP_STATE_NONE)
			json_object_array_add(rows, session_json(&s));
	return rows;
}

/* Each with the tokens of who has it open. */
static struct json_object *objects_json(struct vmp *p, const struct vmp_layout *l)
{
	struct json_object *rows = json_object_new_array(), *users, *o;
	struct json_object **at = calloc(l->objects, sizeof(*at));
	uint64_t *ids = calloc(l->objects, sizeof(*ids));
	struct vmp_object ob;
	struct vmp_use u;
	char token[24];

	for (uint32_t i = 0; at && ids && i < l->objects; i++) {
		if (vmp_get_object(p, i, &ob, sizeof(ob)) ||
		    (ob.state != VMP_OBJECT_NAMED && ob.state != VMP_OBJECT_UNLINKED))
			continue;
		at[i] = object_json(&ob);
		ids[i] = ob.id;
		json_object_array_add(rows, at[i]);
	}
	for (uint32_t i = 0; at && ids && i < l->uses; i++) {
		if (vmp_get_use(p, i, &u, sizeof(u)) || !u.object)
			continue;
		o = (u.object & 0xffff) < l->objects ? at[u.object & 0xffff] : NULL;
		if (!o || ids[u.object & 0xffff] != u.object)
			continue;
		snprintf(token, sizeof(token), "0x%" PRIx64, u.token);
		json_object_object_get_ex(o, "users", &users);
		json_object_array_add(users, json_object_new_string(token));
	}
	free(at);
	free(ids);
	return rows;
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
