// SPDX-License-Identifier: MIT
/* portalctl format: make a portal a managed one. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mapped.h"
#include "tool.h"

struct args {
	const char *uri;
	struct vmp_format_opts o;
	unsigned int force;
	bool json;
};

static const struct argp_option options[] = {
	{ "peers", 'p', "N", 0, "Machines at most, the host included (16)", 0 },
	{ "sessions", 's', "N", 0, "Sessions of each (64, fewer in a small region)", 0 },
	{ "objects", 'o', "N", 0, "Named objects (one for each 64 KiB, 1024 at most)", 0 },
	{ "name", 'n', "NAME", 0, "What to call it", 0 },
	{ "uuid", 'u', "UUID", 0, "Its uuid (default: random)", 0 },
	{ "force", 'f', NULL, 0, "Even if something is there; twice: even if peers are alive or "
	  "other processes have it mapped", 0 },
	{ "json", 'j', NULL, 0, "Print JSON", 0 },
	{ 0 }
};

/* "01234567-89ab-cdef-0123-456789abcdef", dashes optional. */
static bool parse_uuid(const char *s, uint8_t *uuid)
{
	unsigned int n = 0, v;

	for (; *s; s++) {
		if (*s == '-')
			continue;
		if (n == 32 || !strchr("0123456789abcdefABCDEF", *s))
			return false;
		v = *s <= '9' ? *s - '0' : (*s | 0x20) - 'a' + 10;
		uuid[n / 2] = n % 2 ? uuid[n / 2] | v : v << 4;
		n++;
	}
	return n == 32;
}

static error_t parse(int key, char *arg, struct argp_state *st)
{
	struct args *a = st->input;
	uint32_t *number = NULL;

	switch (key) {
	case 'p':
		number = &a->o.peers;
		break;
	case 's':
		number = &a->o.sessions;
		break;
	case 'o':
		number = &a->o.objects;
		break;
	case 'n':
		if (strlen(arg) >= sizeof(a->o.name))
			argp_error(st, "--name: at most %zu bytes", sizeof(a->o.name) - 1);
		strncpy(a->o.name, arg, sizeof(a->o.name) - 1);
		return 0;
	case 'u':
		if (!parse_uuid(arg, a->o.uuid))
			argp_error(st, "--uuid: '%s' is not 32 hexadecimal digits", arg);
		return 0;
	case 'f':
		a->force++;
		return 0;
	case 'j':
		a->json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (st->arg_num)
			argp_error(st, "one URI at a time");
		a->uri = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		/* What destroys has no default. */
		argp_error(st, "which portal?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	if (!parse_u32(arg, number) || !*number)
		argp_error(st, "'%s' is not a number above 0", arg);
	return 0;
}

/* How many rows there are of each kind that somebody uses. */
static void count_rows(struct vmp *p, const struct vmp_layout *l, unsigned int *peers,
		       unsigned int *objects)
{
	struct vmp_object o;
	struct vmp_peer peer;

	*peers = *objects = 0;
	for (uint32_t i = 0; i < l->peers; i++)
		if (!vmp_get_peer(p, i, &peer, sizeof(peer)))
			*peers += peer.state == VMP_STATE_ALIVE || peer.state == VMP_STATE_ASLEEP ||
				  peer.state == VMP_STATE_SUSPECT;
	for (uint32_t i = 0; i < l->objects; i++)
		if (!vmp_get_object(p, i, &o, sizeof(o)))
			*objects += o.state == VMP_OBJECT_NAMED || o.state == VMP_OBJECT_UNLINKED;
}

/* What formatting would destroy, or has destroyed, as far as it can be told. */
static void describe(struct vmp *p, char *buf, size_t cap)
{
	unsigned int peers, objects;
	struct vmp_layout l;

	if (vmp_get_layout(p, &l, sizeof(l))) {
		snprintf(buf, cap, "what the beginning of the region holds");
		return;
	}
	count_rows(p, &l, &peers, &objects);
	snprintf(buf, cap, "managed portal '%s' (uuid %02x%02x%02x%02x...) with %u peers that are not dead and %u objects",
		 l.name, l.uuid[0], l.uuid[1], l.uuid[2], l.uuid[3], peers, objects);
}

static int check_mapped(struct vmp *p, const struct args *a)
{
	struct mapped m;

	if (a->force > 1)
		return EX_DONE;
	if (mapped_by_others(p, &m)) {
		fprintf(stderr, "portalctl: %s: cannot find out who else has it mapped (/proc/self/maps)\n",
			a->uri);
		return EX_DONE;
	}
	if (m.count)
		return fail(EX_REFUSED, "%s: %u other process%s it mapped, pid %ld (%s) for one: end them first, or give --force twice",
			    a->uri, m.count, m.count == 1 ? " has" : "es have", m.pid, m.name);
	/* Root sees what it may; who denies it that is out of reach for others' portals, too. */
	if (m.unseen && geteuid())
		fprintf(stderr, "portalctl: %s: %u processes of other users were not looked at; root sees whether they have it mapped\n",
			a->uri, m.unseen);
	return EX_DONE;
}

static int explain(int err, const struct args *a, const char *what)
{
	switch (err) {
	case -EEXIST:
	case -ENOTEMPTY:
		return fail(EX_REFUSED, "%s; --force destroys %s", vmp_errmsg(), what);
	case -EBUSY:
		return fail(EX_REFUSED, "%s; --force given twice destroys %s all the same", vmp_errmsg(), what);
	case -EFBIG:
		return fail(EX_MISUSE, "%s", vmp_errmsg());
	default:
		return fail_vmp(err);
	}
}

static int report(struct vmp *p, const struct args *a, const char *destroyed)
{
	struct json_object *o;
	struct vmp_layout l;
	char text[24];
	struct vmp_info info;
	int err = vmp_get_info(p, &info, sizeof(info));

	if (!err && info.mode == VMP_MODE_RAW) {
		printf("%s: formatted; its kernel takes it for raw until the device is bound anew (%s)\n",
		       a->uri, vmp_errmsg());
		return EX_DONE;
	}
	if (!err)
		err = vmp_get_layout(p, &l, sizeof(l));
	if (err)
		return fail_vmp(err);
	if (!a->json) {
		printf("%s: a managed portal for %u machines with %u sessions each, %u objects, %s of data\n",
		       a->uri, l.peers, l.sessions, l.objects,
		       human_size(text, sizeof(text), l.area[6].length));
		return EX_DONE;
	}
	o = layout_json(&l);
	json_object_object_add(o, "uri", json_object_new_string(a->uri));
	if (*destroyed)
		json_object_object_add(o, "destroyed", json_object_new_string(destroyed));
	print_json(o);
	json_object_put(o);
	return EX_DONE;
}

static int run(int argc, char **argv)
{
	static const struct argp argp = {
		options, parse, "URI", "Lay a portal's region out as a managed one: superblock, tables "
		"of peers and sessions, directory (portal-layout(5)). Data are left as they are. Refused "
		"if anything is there, or anybody has it mapped.\v" EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct args a = { .o.size = sizeof(a.o) };
	char what[256] = "";
	struct vmp *p;
	int code, err;

	parse_args(&argp, argc, argv, &a);
	err = vmp_open(&p, a.uri, 0);
	if (err)
		return fail(EX_OPEN, "%s", vmp_errmsg());
	code = check_mapped(p, &a);
	if (code) {
		vmp_close(p);
		return code;
	}
	describe(p, what, sizeof(what));
	a.o.flags = (a.force ? VMP_FORMAT_FORCE : 0) | (a.force > 1 ? VMP_FORMAT_IN_USE : 0);
	err = vmp_format(p, &a.o);
	code = err ? explain(err, &a, what) : report(p, &a, a.force ? what : "");
	vmp_close(p);
	return code;
}

const struct command cmd_format = { "format", "make a portal a managed one", run };
