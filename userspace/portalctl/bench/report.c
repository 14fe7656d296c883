// SPDX-License-Identifier: MIT
/* From windows to figures: medians, ratios of neighbours, their spread. */
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static void add_double(struct json_object *o, const char *key, double v)
{
	json_object_object_add(o, key, json_object_new_double(v));
}

static void add_text(struct json_object *o, const char *key, const char *v)
{
	json_object_object_add(o, key, json_object_new_string(v));
}

/* What a nanosecond figure is in the case's own unit. */
static double in_unit(const struct bench_case *c, double ns)
{
	switch (c->unit) {
	case UNIT_RATE:
		return 1e9 / ns;
	case UNIT_BYTES:
		return BULK_MSG * 1e9 / ns;
	default:
		return ns;
	}
}

static const char *unit_name(const struct bench_case *c)
{
	return c->unit == UNIT_RATE ? "messages/s" : c->unit == UNIT_BYTES ? "bytes/s" : "ns";
}

static struct json_object *figure(const struct outcome *o, size_t i)
{
	struct json_object *j = json_object_new_object();
	double *v = calloc(o->windows, sizeof(*v));

	if (!v)
		return j;
	for (size_t w = 0; w < o->windows; w++)
		v[w] = in_unit(o->c, o->value[i][w]);
	sort_double(v, o->windows);
	add_text(j, "name", o->c->c[i]->name);
	add_double(j, "median", v[rank(o->windows, 50)]);
	if (o->nlat[i]) {
		add_double(j, "p50_ns", o->lat[i][rank(o->nlat[i], 50)]);
		add_double(j, "p99_ns", o->lat[i][rank(o->nlat[i], 99)]);
		add_double(j, "max_ns", o->lat[i][o->nlat[i] - 1]);
	}
	free(v);
	return j;
}

/* Ours beside contender @i, one ratio for each round. */
static void add_ratio(struct json_object *j, const struct outcome *o, size_t i)
{
	struct json_object *r = json_object_new_object();
	double *v = calloc(o->windows, sizeof(*v)), med;

	if (!v)
		return;
	for (size_t w = 0; w < o->windows; w++)
		v[w] = o->c->unit == UNIT_NS ? o->value[0][w] / o->value[i][w] :
			o->value[i][w] / o->value[0][w];
	sort_double(v, o->windows);
	med = v[rank(o->windows, 50)];
	add_double(r, "median", med);
	add_double(r, "p10", v[rank(o->windows, 10)]);
	add_double(r, "p90", v[rank(o->windows, 90)]);
	json_object_object_add(j, "ratio", r);
	if (!o->c->c[i]->scale)
		json_object_object_add(j, "reached", json_object_new_boolean(
				       o->c->at_most ? med <= o->c->aim : med >= o->c->aim));
	free(v);
}

struct json_object *outcome_json(struct outcome *o)
{
	struct json_object *j = json_object_new_object(), *beside = json_object_new_array();
	struct json_object *per = json_object_new_object();

	for (size_t i = 0; i < o->n; i++)
		sort_u64(o->lat[i], o->nlat[i]);
	add_text(j, "key", o->c->key);
	add_text(j, "title", o->c->title);
	add_text(j, "unit", unit_name(o->c));
	json_object_object_add(j, "windows", json_object_new_int64(o->windows));
	json_object_object_add(j, "ours", figure(o, 0));
	for (size_t i = 1; i < o->n; i++) {
		struct json_object *f = figure(o, i);

		add_ratio(f, o, i);
		json_object_array_add(beside, f);
	}
	json_object_object_add(j, "beside", beside);
	add_double(j, "aim", o->c->aim);
	add_text(j, "aim_is", o->c->at_most ? "at most" : "at least");
	json_object_object_add(j, "messages", json_object_new_uint64(o->messages));
	json_object_object_add(j, "doorbells", json_object_new_uint64(o->both.doorbells));
	json_object_object_add(j, "syscalls", json_object_new_uint64(o->both.syscalls));
	if (o->messages) {
		add_double(per, "doorbells", (double)o->both.doorbells / o->messages);
		add_double(per, "syscalls", (double)o->both.syscalls / o->messages);
	}
	json_object_object_add(j, "per_message", per);
	return j;
}

static double get_double(struct json_object *o, const char *key)
{
	return json_object_get_double(json_object_object_get(o, key));
}

static const char *get_text(struct json_object *o, const char *key)
{
	return json_object_get_string(json_object_object_get(o, key));
}

static void print_figure(struct json_object *f, const char *unit, const char *mark)
{
	double v = get_double(f, "median");
	char buf[40];

	if (!strcmp(unit, "ns"))
		snprintf(buf, sizeof(buf), v < 10000 ? "%.0f ns" : "%.1f us",
			 v < 10000 ? v : v / 1e3);
	else if (!strcmp(unit, "messages/s"))
		snprintf(buf, sizeof(buf), "%.2f M/s", v / 1e6);
	else
		snprintf(buf, sizeof(buf), "%.2f GB/s", v / 1e9);
	printf("  %-40s %12s", get_text(f, "name"), buf);
	if (json_object_object_get(f, "p50_ns") && json_object_object_get(f, "p99_ns"))
		printf("  p50 %.2f p99 %.2f us", get_double(f, "p50_ns") / 1e3,
		       get_double(f, "p99_ns") / 1e3);
	printf("%s\n", mark);
}

void print_outcome(struct json_object *j)
{
	struct json_object *beside = json_object_object_get(j, "beside");
	struct json_object *per = json_object_object_get(j, "per_message");
	const char *unit = get_text(j, "unit");

	printf("%s\n", get_text(j, "title"));
	print_figure(json_object_object_get(j, "ours"), unit, "");
	for (size_t i = 0; i < json_object_array_length(beside); i++) {
		struct json_object *f = json_object_array_get_idx(beside, i);
		struct json_object *r = json_object_object_get(f, "ratio");
		struct json_object *reached = json_object_object_get(f, "reached");
		char mark[120], aim[60] = "";

		if (reached)
			snprintf(aim, sizeof(aim), ", aim %s %.2f%s", get_text(j, "aim_is"),
				 get_double(j, "aim"),
				 json_object_get_boolean(reached) ? "" : ": missed");
		snprintf(mark, sizeof(mark), "  ratio %.2f (%.2f .. %.2f)%s",
			 get_double(r, "median"), get_double(r, "p10"), get_double(r, "p90"), aim);
		print_figure(f, unit, mark);
	}
	printf("  per message: %.3f system calls, %.3f doorbells\n",
	       get_double(per, "syscalls"), get_double(per, "doorbells"));
	fflush(stdout);
}

void outcome_free(struct outcome *o)
{
	for (size_t i = 0; i < MAX_RIVALS; i++) {
		free(o->value[i]);
		free(o->lat[i]);
	}
}
