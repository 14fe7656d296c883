// SPDX-License-Identifier: MIT
/* portalctl check: find and name what is wrong with a managed portal's tables. */
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <string.h>

#include "tool.h"

#define SHOWN	100	/* lines, without --all */

struct result {
	struct json_object *rows;	/* NULL: print lines */
	unsigned int shown, most, damages, notes;
};

static const struct argp_option options[] = {
	{ "all", 'a', NULL, 0, "All of what is found, not only the first 100", 0 },
	{ "json", 'j', NULL, 0, "Print JSON", 0 },
	{ 0 }
};

static struct json_object *damage_json(const struct vmp_damage *d)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "name", json_object_new_string(d->name));
	json_object_object_add(o, "text", json_object_new_string(d->text));
	json_object_object_add(o, "where", json_object_new_string(d->where));
	if (d->index != UINT32_MAX)
		json_object_object_add(o, "index", json_object_new_int64(d->index));
	json_object_object_add(o, "offset", json_object_new_uint64(d->offset));
	json_object_object_add(o, "value", json_object_new_uint64(d->value));
	json_object_object_add(o, "damage", json_object_new_boolean(!d->note));
	return o;
}

static void found(void *arg, const struct vmp_damage *d)
{
	struct result *r = arg;
	char which[24] = "";

	r->damages += !d->note;
	r->notes += !!d->note;
	if (r->shown >= r->most)
		return;
	r->shown++;
	if (r->rows) {
		json_object_array_add(r->rows, damage_json(d));
		return;
	}
	if (d->index != UINT32_MAX)
		snprintf(which, sizeof(which), " %u", d->index);
	printf("%s%s: %s%s: %s (byte %" PRIu64 ": 0x%" PRIx64 ")\n", d->note ? "note: " : "",
	       d->name, d->where, which, d->text, d->offset, d->value);
}

static int verdict(const struct one_portal *a, const struct result *r)
{
	struct json_object *o;

	if (a->json) {
		o = json_object_new_object();
		json_object_object_add(o, "uri", json_object_new_string(a->uri));
		json_object_object_add(o, "clean", json_object_new_boolean(!r->damages));
		json_object_object_add(o, "damages", json_object_new_int64(r->damages));
		json_object_object_add(o, "notes", json_object_new_int64(r->notes));
		json_object_object_add(o, "found", json_object_get(r->rows));
		print_json(o);
		json_object_put(o);
	} else {
		if (r->shown < r->damages + r->notes)
			printf("and %u more; --all shows them\n", r->damages + r->notes - r->shown);
		printf("%s: %s", a->uri, r->damages ? "damaged" : "clean");
		if (r->damages)
			printf(", in %u places", r->damages);
		if (r->notes)
			printf(", %u leftovers that the next user clears away", r->notes);
		putchar('\n');
	}
	return r->damages ? EX_PROTO : EX_DONE;
}

static int run(int argc, char **argv)
{
	static const struct argp argp = {
		options, parse_one_portal, "[URI]", "Check the tables of a managed portal; portal-layout(5) names "
		"every damage. Changes nothing, and may run while the portal is in use. Status 0: clean, "
		"4: damaged, 6: not a managed portal.\v" EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct one_portal a = { .uri = default_uri() };
	struct result r = { .most = SHOWN };
	struct vmp *p;
	int err;

	parse_args(&argp, argc, argv, &a);
	if (vmp_open(&p, a.uri, VMP_RDONLY | VMP_ZERO_ON_REVOKE))
		return fail(EX_OPEN, "%s", vmp_errmsg());
	if (a.all)
		r.most = UINT32_MAX;
	if (a.json)
		r.rows = json_object_new_array();
	err = vmp_check(p, found, &r);
	if (err == -ENODATA)
		err = fail(EX_REFUSED, "%s", vmp_errmsg());
	else if (err < 0)
		err = fail_vmp(err);
	else
		err = verdict(&a, &r);
	json_object_put(r.rows);
	vmp_close(p);
	return err;
}

const struct command cmd_check = { "check", "find damage in a managed portal", run };
