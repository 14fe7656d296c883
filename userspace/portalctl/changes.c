// SPDX-License-Identifier: MIT
/*
 * The difference of two looks at a managed portal's tables. Whatever came and went in
 * between shows by the numbers of its row, if it was the last one there.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "changes.h"

struct tell {
	change_fn fn;
	void *arg;
};

__attribute__((format(printf, 6, 7)))
static void tell(const struct tell *t, const char *what, uint32_t slot, uint32_t peer, uint64_t token,
		 const char *fmt, ...)
{
	struct change c = { .what = what, .slot = slot, .peer = peer, .token = token };
	va_list ap;

	if (!t->fn)
		return;
	va_start(ap, fmt);
	vsnprintf(c.text, sizeof(c.text), fmt, ap);
	va_end(ap);
	t->fn(t->arg, &c);
}

/* ---- Machines ------------------------------------------------------------------- */

static bool peer_is_there(const struct vmp_peer *p)
{
	return p->state == VMP_STATE_ALIVE || p->state == VMP_STATE_SUSPECT || p->state == VMP_STATE_ASLEEP;
}

static void peer_end(const struct tell *t, const struct vmp_peer *was, const struct vmp_peer *now)
{
	if (now->reason && now->sequence == was->sequence)
		tell(t, "peer-dead", was->slot, was->slot, 0, "peer %u '%s' is dead: %s", was->slot, was->name,
		     reason_name(now->reason));
	else
		tell(t, "peer-left", was->slot, was->slot, 0, "peer %u '%s' has left", was->slot, was->name);
}

static void peer_change(const struct tell *t, const struct vmp_peer *was, const struct vmp_peer *now)
{
	bool another = was->incarnation != now->incarnation || was->sequence != now->sequence;

	if (peer_is_there(was) && (!peer_is_there(now) || another))
		peer_end(t, was, now);
	else if (!peer_is_there(was) && !peer_is_there(now) && now->sequence > was->sequence &&
		 now->state == VMP_STATE_DEAD)
		tell(t, "peer-left", now->slot, now->slot, 0, "peer %u '%s' has come and gone", now->slot, now->name);
	if (peer_is_there(now) && (!peer_is_there(was) || another))
		tell(t, "peer-joined", now->slot, now->slot, 0, "peer %u '%s' (%s) has joined", now->slot,
		     now->name, now->kind == 2 ? "the host" : "a guest");
	if (!peer_is_there(now) || (now->state == was->state && !another))
		return;
	if (now->state == VMP_STATE_SUSPECT)
		tell(t, "peer-suspect", now->slot, now->slot, 0, "peer %u '%s' is suspect: %s", now->slot,
		     now->name, now->reason ? reason_name(now->reason) : "no reason given");
	else if (now->state == VMP_STATE_ASLEEP)
		tell(t, "peer-asleep", now->slot, now->slot, 0, "peer %u '%s' is asleep", now->slot, now->name);
	else if (peer_is_there(was) && !another)
		tell(t, "peer-alive", now->slot, now->slot, 0, "peer %u '%s' is well again", now->slot, now->name);
}

static void look_at_peers(struct look *k, const struct tell *t)
{
	struct vmp_peer now;

	for (uint32_t i = 0; i < k->l.peers; i++) {
		if (vmp_get_peer(k->p, i, &now, sizeof(now)))
			continue;
		/* One that is just writing its row is looked at when it is done. */
		if (now.state == VMP_STATE_JOINING && peer_is_there(&k->peers[i]))
			now.state = VMP_STATE_DEAD;
		peer_change(t, &k->peers[i], &now);
		if (now.heartbeat != k->peers[i].heartbeat || now.sequence != k->peers[i].sequence)
			k->since[i] = now_ns();
		k->peers[i] = now;
	}
}

/* ---- Processes ------------------------------------------------------------------- */

static void session_change(const struct tell *t, const struct vmp_session *was, const struct vmp_session *now)
{
	bool same = was->token == now->token;

	if (was->state == VMP_STATE_ALIVE && (now->state != VMP_STATE_ALIVE || !same))
		tell(t, "session-ended", was->slot, was->peer, was->token, "session 0x%" PRIx64
		     " of peer %u has ended: %s, pid %u", was->token, was->peer, was->name, was->pid);
	if (now->state == VMP_STATE_DEAD && !same)
		tell(t, "session-ended", now->slot, now->peer, now->token, "session 0x%" PRIx64
		     " of peer %u has come and gone: %s, pid %u", now->token, now->peer, now->name, now->pid);
	if (now->state == VMP_STATE_ALIVE && (was->state != VMP_STATE_ALIVE || !same))
		tell(t, "session-began", now->slot, now->peer, now->token, "session 0x%" PRIx64
		     " of peer %u has begun: %s, pid %u", now->token, now->peer, now->name, now->pid);
}

static void look_at_sessions(struct look *k, const struct tell *t)
{
	struct vmp_session now;

	for (uint32_t i = 0; i < k->l.area[1].count; i++) {
		if (vmp_get_session(k->p, i, &now, sizeof(now)))
			continue;
		session_change(t, &k->sessions[i], &now);
		k->sessions[i] = now;
	}
}

/* ---- Objects ------------------------------------------------------------------------ */

static bool is_named(const struct vmp_object *o)
{
	return o->state == VMP_OBJECT_NAMED;
}

static void object_change(const struct tell *t, const struct vmp_object *was, const struct vmp_object *now)
{
	bool same = was->id == now->id;

	if (is_named(was) && !(is_named(now) && same))
		tell(t, "object-unlinked", was->row, UINT32_MAX, was->id, "object '%s' is unlinked", was->name);
	if (object_lives(was) && !is_named(was) && !(object_lives(now) && same))
		tell(t, "object-freed", was->row, UINT32_MAX, was->id, "object '%s', unlinked, is free", was->name);
	if (!object_lives(now) && !same && now->id)
		tell(t, "object-freed", now->row, UINT32_MAX, now->id, "object '%s' has come and gone", now->name);
	if (is_named(now) && !(is_named(was) && same))
		tell(t, "object-made", now->row, UINT32_MAX, now->id, "object '%s' is made: %" PRIu64 " bytes",
		     now->name, now->bytes);
}

static void look_at_objects(struct look *k, const struct tell *t)
{
	struct vmp_object now;

	for (uint32_t i = 0; i < k->l.objects; i++) {
		if (vmp_get_object(k->p, i, &now, sizeof(now)))
			continue;
		object_change(t, &k->objects[i], &now);
		k->objects[i] = now;
	}
}

/* ---- All of it ------------------------------------------------------------------------ */

int look_again(struct look *k, change_fn fn, void *arg)
{
	struct tell t = { fn, arg };
	struct vmp_info info;
	int err = vmp_get_info(k->p, &info, sizeof(info));	/* an unplugged one reads as zeroes */

	if (!err)
		err = vmp_get_layout(k->p, &k->l, sizeof(k->l));
	if (err)
		return fail_vmp(err);
	look_at_peers(k, &t);
	look_at_sessions(k, &t);
	look_at_objects(k, &t);
	return EX_DONE;
}

int look_first(struct look *k, struct vmp *p)
{
	int err;

	memset(k, 0, sizeof(*k));
	k->p = p;
	err = vmp_get_layout(p, &k->l, sizeof(k->l));
	if (err)
		return fail_vmp(err);
	k->peers = calloc(k->l.peers, sizeof(*k->peers));
	k->since = calloc(k->l.peers, sizeof(*k->since));
	k->sessions = calloc(k->l.area[1].count, sizeof(*k->sessions));
	k->objects = calloc(k->l.objects, sizeof(*k->objects));
	if (!k->peers || !k->since || !k->sessions || !k->objects) {
		look_free(k);
		return fail(EX_LOCAL, "out of memory");
	}
	return look_again(k, NULL, NULL);
}

void look_free(struct look *k)
{
	free(k->peers);
	free(k->since);
	free(k->sessions);
	free(k->objects);
	memset(k, 0, sizeof(*k));
}
