// SPDX-License-Identifier: MIT
/* The tables of a managed portal as JSON. */
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <time.h>

#include "tables.h"

void add_u64(struct json_object *o, const char *key, uint64_t v)
{
	json_object_object_add(o, key, json_object_new_uint64(v));
}

void add_text(struct json_object *o, const char *key, const char *s)
{
	json_object_object_add(o, key, json_object_new_string(s));
}

/* Tokens, incarnations: as people compare them, and as no reader of JSON rounds them. */
void add_hex(struct json_object *o, const char *key, uint64_t v)
{
	char text[24];

	if (!v)
		return;
	snprintf(text, sizeof(text), "0x%" PRIx64, v);
	add_text(o, key, text);
}

void add_time(struct json_object *o, const char *key, uint64_t ns)
{
	time_t t = (time_t)(ns / 1000000000);
	char text[32];
	struct tm tm;

	if (ns && gmtime_r(&t, &tm) && strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm))
		add_text(o, key, text);
}

void add_uuid(struct json_object *o, const char *key, const uint8_t *u, bool dashes)
{
	char text[40];
	size_t at = 0;

	for (unsigned int i = 0; i < 16; i++)
		at += snprintf(text + at, sizeof(text) - at, "%s%02x",
			       dashes && i >= 4 && i <= 10 && i % 2 == 0 ? "-" : "", u[i]);
	add_text(o, key, text);
}

struct json_object *directory_json(const struct vmp_layout *l)
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

const char *state_name(uint32_t state)
{
	static const char *const names[] = { "none", "joining", "alive", "asleep", "dead", "suspect" };

	return state < sizeof(names) / sizeof(*names) ? names[state] : "?";
}

const char *reason_name(uint32_t reason)
{
	static const char *const names[] = { "none", "exited", "cut", "rescinded", "fenced", "silent" };

	return reason < sizeof(names) / sizeof(*names) ? names[reason] : "?";
}

static struct json_object *peer_json(const struct vmp_peer *p)
{
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
		add_text(o, "reason", reason_name(p->reason));
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
	add_text(o, "state", ob->state == VMP_OBJECT_NAMED ? "named" :
		 ob->state == VMP_OBJECT_MAKING ? "being made" : "unlinked");
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

int open_managed(struct vmp **p, const char *uri, unsigned int flags, struct vmp_layout *l)
{
	int err;

	if (vmp_open(p, uri, flags))
		return fail(EX_OPEN, "%s", vmp_errmsg());
	err = vmp_get_layout(*p, l, sizeof(*l));
	if (!err)
		return EX_DONE;
	err = err == -ENODATA ? fail(EX_REFUSED, "%s", vmp_errmsg()) : fail_vmp(err);
	vmp_close(*p);
	return err;
}

/* ---- All rows that were ever used ------------------------------------------------ */

struct json_object *peers_json(struct vmp *p, const struct vmp_layout *l)
{
	struct json_object *rows = json_object_new_array();
	struct vmp_peer peer;

	for (uint32_t i = 0; i < l->peers; i++)
		if (!vmp_get_peer(p, i, &peer, sizeof(peer)) && peer.state != VMP_STATE_NONE)
			json_object_array_add(rows, peer_json(&peer));
	return rows;
}

struct json_object *sessions_json(struct vmp *p, const struct vmp_layout *l)
{
	struct json_object *rows = json_object_new_array();
	struct vmp_session s;

	for (uint32_t i = 0; i < l->area[1].count; i++)
		if (!vmp_get_session(p, i, &s, sizeof(s)) && s.state != VMP_STATE_NONE)
			json_object_array_add(rows, session_json(&s));
	return rows;
}

/* Each with the tokens of who has it open. */
struct json_object *objects_json(struct vmp *p, const struct vmp_layout *l)
{
	struct json_object *rows = json_object_new_array(), *users, *o;
	struct json_object **at = calloc(l->objects, sizeof(*at));
	uint64_t *ids = calloc(l->objects, sizeof(*ids));
	struct vmp_object ob;
	struct vmp_use u;
	char token[24];

	for (uint32_t i = 0; at && ids && i < l->objects; i++) {
		if (vmp_get_object(p, i, &ob, sizeof(ob)) || !object_lives(&ob))
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
