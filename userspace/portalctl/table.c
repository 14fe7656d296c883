// SPDX-License-Identifier: MIT
/* Rows are JSON objects; a table is one way to print them. */
#include <json-c/json.h>
#include <string.h>

#include "tool.h"

static const char *cell(struct json_object *row, const struct column *c, char *buf, size_t cap)
{
	struct json_object *v = NULL;

	if (!json_object_object_get_ex(row, c->key, &v) || !v)
		return "-";
	if (c->kind == COL_SIZE)
		return human_size(buf, cap, json_object_get_uint64(v));
	if (json_object_is_type(v, json_type_array)) {
		size_t at = 0;

		buf[0] = 0;
		for (size_t i = 0; i < json_object_array_length(v) && at < cap; i++)
			at += snprintf(buf + at, cap - at, "%s%s", i ? "," : "",
				       json_object_get_string(json_object_array_get_idx(v, i)));
		return *buf ? buf : "none";
	}
	if (json_object_is_type(v, json_type_double)) {
		snprintf(buf, cap, "%.2f", json_object_get_double(v));
		return buf;
	}
	return json_object_get_string(v);
}

void print_table(struct json_object *rows, const struct column *cols, size_t n)
{
	size_t nrows = json_object_array_length(rows);
	char buf[256];
	int w;

	for (size_t r = 0; r <= nrows; r++) {
		for (size_t c = 0; c < n; c++) {
			const char *text = cols[c].title;
			bool right = cols[c].kind == COL_NUMBER || cols[c].kind == COL_SIZE;

			w = strlen(cols[c].title);
			for (size_t i = 0; i < nrows; i++) {
				int l = strlen(cell(json_object_array_get_idx(rows, i), &cols[c],
						    buf, sizeof(buf)));

				if (l > w)
					w = l;
			}
			if (r)
				text = cell(json_object_array_get_idx(rows, r - 1), &cols[c],
					    buf, sizeof(buf));
			if (c + 1 == n && !right)
				w = 0;	/* no trailing blanks */
			printf("%s%*s", c ? "  " : "", right ? w : -w, text);
		}
		putchar('\n');
	}
}

void print_record(struct json_object *row, const struct column *cols, size_t n)
{
	char buf[256];
	int w = 0;

	for (size_t c = 0; c < n; c++)
		if ((int)strlen(cols[c].title) > w)
			w = strlen(cols[c].title);
	for (size_t c = 0; c < n; c++)
		printf("%-*s  %s\n", w, cols[c].title, cell(row, &cols[c], buf, sizeof(buf)));
}

void print_json(struct json_object *o)
{
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
					    JSON_C_TO_STRING_NOSLASHESCAPE));
	fflush(stdout);
}

static struct json_object *caps_json(uint32_t caps)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} names[] = {
		{ VMP_CAP_RING, "ring" },
		{ VMP_CAP_EVENTS, "events" },
		{ VMP_CAP_DOORBELL_PAGE, "doorbell-page" },
		{ VMP_CAP_LARGE_PAGES, "large-pages" },
		{ VMP_CAP_WRITE_BACK, "write-back" },
		{ VMP_CAP_WINDOW, "window" },
		{ VMP_CAP_PACKETS, "packets" },
	};
	struct json_object *a = json_object_new_array();

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (caps & names[i].bit)
			json_object_array_add(a, json_object_new_string(names[i].name));
	return a;
}

struct json_object *info_json(const struct vmp_info *i)
{
	struct json_object *o = json_object_new_object();

	if (!o)
		return NULL;
	json_object_object_add(o, "transport", json_object_new_string(i->transport));
	json_object_object_add(o, "identity", json_object_new_string(i->identity));
	json_object_object_add(o, "size", json_object_new_uint64(i->size));
	if (i->peer_id != VMP_PEER_NONE)
		json_object_object_add(o, "peer_id", json_object_new_int64(i->peer_id));
	json_object_object_add(o, "max_peers", json_object_new_int64(i->max_peers));
	json_object_object_add(o, "vectors", json_object_new_int64(i->vectors));
	json_object_object_add(o, "caps", caps_json(i->caps));
	json_object_object_add(o, "generation", json_object_new_int64(i->generation));
	json_object_object_add(o, "mode", json_object_new_string(
		i->mode == VMP_MODE_MANAGED ? "managed" : "raw"));
	return o;
}

void add_stats(struct json_object *o, const struct vmp_channel *ch)
{
	struct vmp_stats st;

	vmp_channel_stats(ch, &st, sizeof(st));
	json_object_object_add(o, "sent", json_object_new_uint64(st.sent));
	json_object_object_add(o, "received", json_object_new_uint64(st.received));
	json_object_object_add(o, "doorbells", json_object_new_uint64(st.doorbells));
	json_object_object_add(o, "wakeups", json_object_new_uint64(st.wakeups));
	json_object_object_add(o, "sleeps", json_object_new_uint64(st.sleeps));
	json_object_object_add(o, "syscalls", json_object_new_uint64(st.syscalls));
}
