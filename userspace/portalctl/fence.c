// SPDX-License-Identifier: MIT
/* portalctl fence: declare a machine dead. */
#include <errno.h>
#include <time.h>

#include "tables.h"

struct args {
	struct one_portal portal;	/* first: parse_one_portal() */
	uint32_t slot;
	bool have;
};

static const struct argp_option options[] = {
	{ "force", 'f', NULL, 0, "Even if its heart beats", 0 },
	{ 0 }
};

static error_t parse(int key, char *arg, struct argp_state *st)
{
	struct args *a = st->input;

	if (key == ARGP_KEY_ARG && (st->arg_num || !is_uri(arg))) {
		if (a->have || !parse_u32(arg, &a->slot))
			argp_error(st, "PEER is one number, of \"portalctl peers\"; \"%s\"?", arg);
		a->have = true;
		return 0;
	}
	if (key == ARGP_KEY_END && !a->have)
		argp_error(st, "which one? Give the number of the PEER (\"portalctl peers\")");
	return parse_one_portal(key, arg, st);
}

/* Does it show signs of life within three of its heartbeats? */
static bool beats(struct vmp *p, const struct vmp_peer *was)
{
	static const struct timespec moment = { .tv_nsec = 20000000 };
	uint64_t until = now_ns() + 3000000ULL * (was->heartbeat_ms < 20000 ? was->heartbeat_ms : 20000);
	struct vmp_peer now;

	while (now_ns() < until) {
		if (vmp_get_peer(p, was->slot, &now, sizeof(now)) || now.sequence != was->sequence ||
		    now.incarnation != was->incarnation)
			return false;
		if (now.heartbeat != was->heartbeat)
			return true;
		nanosleep(&moment, NULL);
	}
	return false;
}

/* Nobody is declared dead by a slip of the finger. */
static int may_fence(struct vmp *p, const struct args *a, const struct vmp_peer *peer)
{
	if (a->portal.force || peer->state != VMP_STATE_ALIVE)
		return EX_DONE;
	if (!peer->heartbeat_ms)
		return fail(EX_REFUSED, "peer %u '%s' is alive, for all that is known (it has no heart to listen to); --force declares it dead",
			    peer->slot, peer->name);
	if (beats(p, peer))
		return fail(EX_REFUSED, "peer %u '%s' is alive: its heart beats; --force declares it dead all the same, and its processes lose the portal",
			    peer->slot, peer->name);
	return EX_DONE;
}

static int fence(struct vmp *p, const struct args *a)
{
	struct vmp_peer peer;
	int err = vmp_get_peer(p, a->slot, &peer, sizeof(peer));

	if (err)
		return fail_vmp(err);
	err = may_fence(p, a, &peer);
	if (err)
		return err;
	err = vmp_fence(p, a->slot);
	if (err == -ESRCH || err == -ESTALE)
		return fail(EX_REFUSED, "%s", vmp_errmsg());
	if (err)
		return fail_vmp(err);
	printf("peer %u '%s' is dead\n", peer.slot, peer.name);
	return EX_DONE;
}

static int run(int argc, char **argv)
{
	static const struct argp argp = {
		options, parse, "[URI] PEER", "Declare a machine dead that is known not to run any more, or must "
		"not touch the portal: what its processes hold is others' from then on. It cannot be taken "
		"back; should it run, its kernel takes the memory from its processes, and it joins anew. "
		"Needs root (or portald's user).\v" EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct args a = { .portal.uri = default_uri() };
	struct vmp_layout l;
	struct vmp *p;
	int code;

	parse_args(&argp, argc, argv, &a);
	code = open_managed(&p, a.portal.uri, 0, &l);
	if (code)
		return code;
	code = fence(p, &a);
	vmp_close(p);
	return code;
}

const struct command cmd_fence = { "fence", "declare a machine dead", run };
