// SPDX-License-Identifier: MIT
/* portalctl list: the portals of this machine. portalctl info: one of them. */
#include <dirent.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

#define MAX_PORTALS	4096

static error_t parse_list(int key, char *arg, struct argp_state *st)
{
	struct one_portal *a = st->input;

	switch (key) {
	case 'j':
		a->json = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(st, "list takes no arguments; \"portalctl info %s\"?", arg);
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static int query(const char *uri, struct vmp_info *info)
{
	struct vmp *p;
	int err = vmp_open(&p, uri, VMP_RDONLY);

	if (err)
		return err;
	err = vmp_get_info(p, info, sizeof(*info));
	vmp_close(p);
	return err;
}

static const struct column list_columns[] = {
	{ "device", "DEVICE", COL_TEXT },
	{ "transport", "TRANSPORT", COL_TEXT },
	{ "size", "SIZE", COL_SIZE },
	{ "vectors", "VECTORS", COL_NUMBER },
	{ "peer_id", "ID", COL_NUMBER },
	{ "identity", "IDENTITY", COL_TEXT },
	{ "error", "", COL_TEXT },
};

/* The numbers N of /dev/portalN, ascending; how many. */
static size_t find_portals(uint64_t *nums, size_t cap)
{
	DIR *d = opendir("/dev");
	struct dirent *e;
	size_t n = 0;

	while (d && (e = readdir(d)) && n < cap) {
		char *end;

		if (strncmp(e->d_name, "portal", 6) || e->d_name[6] < '0' || e->d_name[6] > '9')
			continue;
		nums[n] = strtoul(e->d_name + 6, &end, 10);
		if (!*end)
			n++;
	}
	if (d)
		closedir(d);
	sort_u64(nums, n);
	return n;
}

static struct json_object *list_rows(size_t *failed)
{
	struct json_object *rows = json_object_new_array(), *row;
	static uint64_t nums[MAX_PORTALS];
	size_t n = find_portals(nums, MAX_PORTALS);

	*failed = 0;
	for (size_t i = 0; i < n; i++) {
		struct vmp_info info;
		char dev[40];

		snprintf(dev, sizeof(dev), "/dev/portal%u", (unsigned int)nums[i]);
		if (query(dev, &info)) {
			row = json_object_new_object();
			json_object_object_add(row, "error", json_object_new_string(vmp_errmsg()));
			(*failed)++;
		} else {
			row = info_json(&info);
		}
		json_object_object_add(row, "device", json_object_new_string(dev));
		json_object_array_add(rows, row);
	}
	return rows;
}

static int run_list(int argc, char **argv)
{
	static const struct argp argp = {
		one_portal_options, parse_list, NULL, "The portals of this machine: transport, size, "
		"vectors, doorbell id and identity of each /dev/portalN.\v" EXIT_CODES_DOC,
		NULL, NULL, NULL
	};
	struct one_portal a = { 0 };
	struct json_object *rows;
	size_t n, failed;

	parse_args(&argp, argc, argv, &a);
	rows = list_rows(&failed);
	n = json_object_array_length(rows);
	if (a.json)
		print_json(rows);
	else if (n)
		print_table(rows, list_columns, failed ? 7 : 6);
	json_object_put(rows);
	if (!n)
		fprintf(stderr, "portalctl: no /dev/portalN on this machine; is the device there "
			"(lspci -d 1af4:1110) and the module loaded (modprobe portal_ivshmem)?\n");
	return failed ? EX_OPEN : EX_DONE;
}

static const struct column info_columns[] = {
	{ "uri", "URI", COL_TEXT },
	{ "transport", "transport", COL_TEXT },
	{ "identity", "identity", COL_TEXT },
	{ "size", "size", COL_SIZE },
	{ "peer_id", "id", COL_NUMBER },
	{ "max_peers", "ids below", COL_NUMBER },
	{ "vectors", "vectors", COL_NUMBER },
	{ "caps", "can", COL_TEXT },
	{ "generation", "generation", COL_NUMBER },
	{ "mode", "mode", COL_TEXT },
};

static int run_info(int argc, char **argv)
{
	static const struct argp argp = {
		one_portal_options, parse_one_portal, "[URI]", "What one portal is.\v" EXIT_CODES_DOC,
		NULL, NULL, NULL
	};
	struct one_portal a = { .uri = default_uri() };
	struct json_object *o;
	struct vmp_info info;

	parse_args(&argp, argc, argv, &a);
	if (query(a.uri, &info))
		return fail(EX_OPEN, "%s", vmp_errmsg());
	o = info_json(&info);
	if (!o)
		return fail(EX_LOCAL, "out of memory");
	json_object_object_add(o, "uri", json_object_new_string(a.uri));
	if (a.json)
		print_json(o);
	else
		print_record(o, info_columns, sizeof(info_columns) / sizeof(*info_columns));
	json_object_put(o);
	return EX_DONE;
}

const struct command cmd_list = { "list", "the portals of this machine", run_list };
const struct command cmd_info = { "info", "what one portal is", run_info };
