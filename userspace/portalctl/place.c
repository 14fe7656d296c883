// SPDX-License-Identifier: MIT
/* Where a channel lies, the same options in every subcommand that has one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

enum { OPT_OFFSET = 0x100, OPT_LENGTH, OPT_SIDE, OPT_VECTOR, OPT_SPIN, OPT_NEVER, OPT_PACKETS };

static const struct argp_option options[] = {
	{ NULL, 0, NULL, 0, "Where the channel lies (the same on both ends, but for --side):", 10 },
	{ "offset", OPT_OFFSET, "BYTES", 0, "Start of the channel in the region (default 0)", 10 },
	{ "length", OPT_LENGTH, "BYTES", 0, "Its length (default: to the end of the region)", 10 },
	{ "side", OPT_SIDE, "0|1", 0, "Which end this is; the defaults of a command and of its "
	  "counterpart fit together", 10 },
	{ "vector", OPT_VECTOR, "N", 0, "Doorbell vector to sleep on (default 0; "
	  "of a window, its first)", 10 },
	{ "packets", OPT_PACKETS, NULL, 0, "VMBus: not in the region, but by the packet rings of "
	  "--vector, to the host's service", 10 },
	{ NULL, 0, NULL, 0, "How to wait:", 11 },
	{ "spin-us", OPT_SPIN, "N", 0, "Spin N microseconds before sleeping (default: adaptive)", 11 },
	{ "never-sleep", OPT_NEVER, NULL, 0, "Poll always: fastest, takes a whole CPU", 11 },
	{ "timeout", 't', "SECONDS", 0, "Give up when the other end does nothing for so long "
	  "(default 60; 0: never)", 11 },
	{ 0 }
};

static error_t parse(int key, char *arg, struct argp_state *st)
{
	struct place *pl = st->input;
	uint32_t v;

	switch (key) {
	case OPT_OFFSET:
		if (!parse_size(arg, &pl->ch.offset) || pl->ch.offset % 4096)
			argp_error(st, "--offset wants a multiple of 4096, not \"%s\"", arg);
		return 0;
	case OPT_LENGTH:
		if (!parse_size(arg, &pl->ch.length) || pl->ch.length < 65536)
			argp_error(st, "--length wants at least 64K, not \"%s\"", arg);
		return 0;
	case OPT_SIDE:
		if (!parse_u32(arg, &v) || v > 1)
			argp_error(st, "--side is 0 or 1, not \"%s\"", arg);
		pl->ch.side = v;
		pl->side_set = true;
		return 0;
	case OPT_VECTOR:
		if (!parse_u32(arg, &pl->ch.vector))
			argp_error(st, "--vector wants a number, not \"%s\"", arg);
		pl->vector_set = true;
		return 0;
	case OPT_SPIN:
		if (!parse_u32(arg, &pl->ch.spin_us))
			argp_error(st, "--spin-us wants a number, not \"%s\"", arg);
		/* 0 means "adaptive" to the library; whoever says 0 here wants no spinning. */
		if (!pl->ch.spin_us)
			pl->ch.spin_us = 1;
		return 0;
	case OPT_NEVER:
		pl->ch.flags |= VMP_CH_NO_SLEEP;
		return 0;
	case OPT_PACKETS:
		pl->ch.flags |= VMP_CH_PACKETS;
		return 0;
	case ARGP_KEY_END:
		if (!(pl->ch.flags & VMP_CH_PACKETS))
			return 0;
		if (pl->side_set || pl->ch.offset || pl->ch.length)
			argp_error(st, "--packets goes without --offset, --length and --side");
		return 0;
	case 't':
		if (!parse_u32(arg, &v) || v > INT32_MAX / 1000)
			argp_error(st, "--timeout wants seconds, not \"%s\"", arg);
		pl->timeout_ms = v ? (int)v * 1000 : -1;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

const struct argp place_argp = { options, parse, NULL, NULL, NULL, NULL, NULL };

void place_init(struct place *pl, uint32_t default_side)
{
	memset(pl, 0, sizeof(*pl));
	pl->uri = default_uri();
	pl->ch.size = sizeof(pl->ch);
	pl->ch.side = default_side;
	pl->timeout_ms = 60000;
}

int link_open(struct link *l, const struct place *pl)
{
	struct vmp_channel_opts o = pl->ch;
	struct vmp_info info;
	int err;

	memset(l, 0, sizeof(*l));
	/* The rings have no sides: the other end is the host. */
	if (o.flags & VMP_CH_PACKETS)
		o.side = 0;
	/* A device may go at any time: an error of the next call is better than SIGBUS. */
	err = vmp_open(&l->p, pl->uri, VMP_ZERO_ON_REVOKE);
	if (err)
		return fail(EX_OPEN, "%s", vmp_errmsg());
	if (!pl->vector_set && !vmp_get_info(l->p, &info, sizeof(info)))
		o.vector = info.first_vector;
	err = vmp_channel_open(&l->ch, l->p, &o);
	if (err) {
		fail(EX_OPEN, "%s", vmp_errmsg());
		vmp_close(l->p);
		l->p = NULL;
		return err == -EINVAL ? EX_MISUSE : EX_OPEN;
	}
	return 0;
}

int link_wait(struct link *l, const struct place *pl, const char *who)
{
	int err = vmp_channel_connect(l->ch, pl->timeout_ms);

	if (err == -ETIMEDOUT)
		return fail(EX_PEER, "%s: nobody came to side %u within %d s; start "
			    "\"portalctl %s\" on the other machine, or raise --timeout",
			    pl->uri, !pl->ch.side, pl->timeout_ms / 1000, who);
	if (err)
		return fail_vmp(err);
	return 0;
}

void link_close(struct link *l)
{
	vmp_channel_close(l->ch);
	vmp_close(l->p);
	memset(l, 0, sizeof(*l));
}

const struct argp_option one_portal_options[] = {
	{ "json", 'j', NULL, 0, "Print JSON", 0 },
	{ 0 }
};

error_t parse_one_portal(int key, char *arg, struct argp_state *st)
{
	struct one_portal *a = st->input;

	switch (key) {
	case 'j':
		a->json = true;
		return 0;
	case 'a':
		a->all = true;
		return 0;
	case 'f':
		a->force = true;
		return 0;
	case ARGP_KEY_ARG:
		if (st->arg_num)
			argp_error(st, "one URI at a time");
		a->uri = arg;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

void parse_args(const struct argp *argp, int argc, char **argv, void *input)
{
	argp_err_exit_status = EX_MISUSE;
	if (argp_parse(argp, argc, argv, 0, NULL, input))
		exit(fail(EX_LOCAL, "out of memory"));
}
