// SPDX-License-Identifier: MIT
/* The state of a portal as JSON, in the form that portald(8) documents. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "managed.h"

static void add_int(struct json_object *o, const char *key, uint64_t v)
{
	json_object_object_add(o, key, json_object_new_int64((int64_t)v));
}

static struct json_object *client_json(const struct client *c, uint64_t now)
{
	struct json_object *o = json_object_new_object();

	add_int(o, "id", c->id);
	json_object_object_add(o, "kind", json_object_new_string(c->ops->noun));
	add_int(o, "pid", (uint64_t)c->pid);
	add_int(o, "uid", (uint64_t)c->uid);
	json_object_object_add(o, "command", json_object_new_string(c->comm));
	add_int(o, "connected_s", (now - c->since) / USEC_PER_SEC);
	add_int(o, "queued", c->q.len);
	return o;
}

static void add_text(struct json_object *o, const char *key, const char *s)
{
	json_object_object_add(o, key, json_object_new_string(s));
}

static const char *machine_state(const struct portal_peer *r)
{
	switch (life_low(r->life)) {
	case PORTAL_LIFE_NONE:
	case PORTAL_LIFE_JOINING:
		return r->claim && r->claim == r->dead ? "dead" : "joining";
	case PORTAL_LIFE_ALIVE:
		return r->claim == r->dead ? "dead" : r->claim == r->suspect ? "suspect" : "alive";
	case PORTAL_LIFE_ASLEEP:
		return r->claim == r->dead ? "dead" : "asleep";
	default:
		return "dead";
	}
}

/* By their own word, but for the verdicts. */
static struct json_object *machines_json(struct managed *m)
{
	static const char *const reasons[] = {
		"none", "exited", "cut", "rescinded", "fenced", "silent",
	};
	struct json_object *all = json_object_new_array(), *o;
	struct portal_peer r;
	uint32_t slot;

	for (slot = 0; slot < m->super.peers; slot++) {
		layout_read(&r, peer_row(m, slot), sizeof(r), offsetof(struct portal_peer, life));
		if (!r.claim)
			continue;
		o = json_object_new_object();
		add_int(o, "slot", slot);
		add_text(o, "state", machine_state(&r));
		add_text(o, "reason", r.reason < 6 ? reasons[r.reason] : "?");
		add_int(o, "id", claim_address(r.claim));
		add_text(o, "name", layout_is_text(r.name, sizeof(r.name)) ? r.name : "?");
		add_int(o, "heartbeat", r.heartbeat);
		json_object_array_add(all, o);
	}
	return all;
}

static struct json_object *sessions_json(struct portal *p)
{
	struct json_object *all = json_object_new_array(), *o;
	struct client *c;

	TAILQ_FOREACH(c, &p->clients, link) {
		if (c->lifeline < 0)
			continue;
		o = json_object_new_object();
		add_int(o, "token", session_token(c));
		add_int(o, "id", c->id);
		add_int(o, "pid", (uint64_t)c->pid);
		add_int(o, "uid", (uint64_t)c->uid);
		add_text(o, "command", c->comm);
		json_object_object_add(o, "connected", json_object_new_boolean(!c->lingers));
		json_object_array_add(all, o);
	}
	return all;
}

static struct json_object *portal_json(struct portal *p)
{
	struct json_object *o = json_object_new_object(), *peers = json_object_new_array();
	struct client *c;
	uint64_t now = now_usec(p);

	json_object_object_add(o, "name", json_object_new_string(p->conf.name));
	add_int(o, "pid", (uint64_t)getpid());
	json_object_object_add(o, "version", json_object_new_string(VMP_VERSION));
	add_int(o, "uptime_s", (now - p->kept.head->started) / USEC_PER_SEC);
	json_object_object_add(o, "qemu_socket", json_object_new_string(p->l.guest.path));
	json_object_object_add(o, "host_socket", json_object_new_string(p->l.host.path));
	add_int(o, "size", p->conf.size);
	add_int(o, "vectors", p->conf.vectors);
	json_object_object_add(o, "managed", json_object_new_boolean(p->conf.managed));
	add_int(o, "hugepages", p->conf.hugepages);
	add_int(o, "host_peers", p->conf.host_peers);
	add_int(o, "max_guests", p->conf.max_guests);
	add_int(o, "next_guest_id", p->kept.head->next_id);
	add_int(o, "guests", p->guests);
	add_int(o, "processes", p->processes);
	add_int(o, "guests_total", p->kept.head->total_guests);
	add_int(o, "processes_total", p->kept.head->total_processes);
	TAILQ_FOREACH(c, &p->clients, link)
		if (c->member && !c->doomed)
			json_object_array_add(peers, client_json(c, now));
	json_object_object_add(o, "peers", peers);
	if (p->managed) {
		json_object_object_add(o, "machines", machines_json(p->managed));
		json_object_object_add(o, "sessions", sessions_json(p));
	}
	return o;
}

static int write_all(int fd, const char *s, size_t len)
{
	ssize_t n;

	while (len) {
		n = write(fd, s, len);
		if (n < 0)
			return -errno;
		s += n;
		len -= (size_t)n;
	}
	return 0;
}

int status_memfd(struct portal *p, uint64_t *len)
{
	struct json_object *o = portal_json(p);
	const char *s = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
							  JSON_C_TO_STRING_SPACED |
							  JSON_C_TO_STRING_NOSLASHESCAPE);
	int fd, ret;

	fd = memfd_create("vmportal-status", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	ret = fd < 0 ? -errno : write_all(fd, s, strlen(s));
	*len = strlen(s);
	json_object_put(o);
	if (ret == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE |
					       F_SEAL_SEAL) < 0)
		ret = -errno;
	if (ret < 0 && fd >= 0)
		close(fd);
	return ret < 0 ? ret : fd;
}
