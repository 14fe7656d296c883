// SPDX-License-Identifier: MIT
/* portalctl bench: options, the two ends, the order of windows. */
#include <json-c/json.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include "../frame.h"
#include "bench.h"

#define LAT_PER_CASE	(1U << 20)	/* round trips kept of each contender */

const struct bench_case *const bench_cases[] = {
	&case_rtt, &case_rate_spin, &case_rate_batch, &case_rate_solo,
	&case_bulk_copy, &case_bulk_place, &case_wake,
};
const size_t n_bench_cases = sizeof(bench_cases) / sizeof(*bench_cases);

enum { OPT_QUICK = 0x200, OPT_WINDOWS, OPT_WINDOW_MS, OPT_ONLY, OPT_NOPIN };

static const struct argp_option options[] = {
	{ "json", 'j', NULL, 0, "Print JSON", 0 },
	{ "quick", OPT_QUICK, NULL, 0, "Few short windows: a first look", 0 },
	{ "windows", OPT_WINDOWS, "N", 0, "Windows of each contender (default 60)", 0 },
	{ "window-ms", OPT_WINDOW_MS, "MS", 0, "Length of a window (default 25)", 0 },
	{ "only", OPT_ONLY, "LIST", 0, "Some cases, comma-separated: rtt rate-spin rate-batch "
	  "rate-solo bulk-copy bulk-place wake cost", 0 },
	{ "no-pin", OPT_NOPIN, NULL, 0, "Leave the choice of CPUs to the scheduler", 0 },
	{ 0 }
};

static bool wanted(const struct bench *b, const char *key)
{
	size_t len = strlen(key);

	if (!b->only)
		return true;
	for (const char *p = b->only; *p; p += *p == ',') {
		size_t n = strcspn(p, ",");

		if (n == len && !strncmp(p, key, n))
			return true;
		p += n;
	}
	return false;
}

static bool known_list(const char *list)
{
	char name[32];

	while (*list) {
		size_t n = strcspn(list, ","), i;

		snprintf(name, sizeof(name), "%.*s", (int)n, list);
		for (i = 0; i < n_bench_cases && strcmp(name, bench_cases[i]->key); i++)
			;
		if (i == n_bench_cases && strcmp(name, "cost"))
			return false;
		list += n;
		list += *list == ',';
	}
	return true;
}

static error_t parse(int key, char *arg, struct argp_state *st)
{
	struct bench *b = st->input;

	switch (key) {
	case ARGP_KEY_INIT:
		st->child_inputs[0] = &b->place;
		return 0;
	case 'j':
		b->json = true;
		return 0;
	case OPT_QUICK:
		b->quick = true;
		return 0;
	case OPT_WINDOWS:
		if (!parse_u32(arg, &b->windows) || !b->windows || b->windows > 100000)
			argp_error(st, "--windows wants 1 .. 100000, not \"%s\"", arg);
		return 0;
	case OPT_WINDOW_MS:
		if (!parse_u32(arg, &b->window_ms) || !b->window_ms || b->window_ms > 5000)
			argp_error(st, "--window-ms wants 1 .. 5000, not \"%s\"", arg);
		return 0;
	case OPT_ONLY:
		if (!known_list(arg))
			argp_error(st, "--only: unknown case in \"%s\"", arg);
		b->only = arg;
		return 0;
	case OPT_NOPIN:
		b->nopin = true;
		return 0;
	case ARGP_KEY_ARG:
		if (st->arg_num > 1)
			argp_error(st, "two URIs at most");
		*(st->arg_num ? &b->uri2 : &b->place.uri) = arg;
		return 0;
	case ARGP_KEY_END:
		b->remote = b->place.side_set;
		if (b->remote && (b->uri2 || !b->place.uri))
			argp_error(st, "--side is for one URI, with another \"portalctl bench "
				   "--side\" on the other machine");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

/* The n-th CPU this process may use, or the last. */
static void pin(const struct bench *b, int n)
{
	cpu_set_t all, one;
	int last = -1;

	if (b->nopin || b->remote || sched_getaffinity(0, sizeof(all), &all))
		return;
	for (int i = 0; i < CPU_SETSIZE && n >= 0; i++)
		if (CPU_ISSET(i, &all)) {
			last = i;
			n--;
		}
	CPU_ZERO(&one);
	CPU_SET(last, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

/* The median of many; an interruption in between does not count. */
static uint64_t clock_cost(void)
{
	uint64_t v[501], t = now_ns();
	const size_t n = sizeof(v) / sizeof(*v);

	for (size_t i = 0; i < n; i++) {
		v[i] = now_ns() - t;
		t += v[i];
	}
	sort_u64(v, n);
	return v[rank(n, 50)];
}

/* Of a managed portal the data, which offset 0 stands for; *@end: what lies behind the range. */
static int find_data(struct bench *b, size_t *end)
{
	const unsigned int data = VMP_AREAS - 1;
	struct vmp_layout l;
	int err = vmp_get_layout(b->p, &l, sizeof(l));

	if (err == -ENODATA)
		return 0;
	if (err)
		return err;
	if (!b->place.ch.offset)
		b->place.ch.offset = l.area[data].offset;
	*end = l.area[data].offset + l.area[data].length;
	return 0;
}

/* Maps, divides the range, opens the control channel. */
static int prepare(struct bench *b)
{
	size_t size;
	void *base;
	int err = vmp_map(b->p, &base, &size);

	if (!err)
		err = find_data(b, &size);
	if (err)
		return err;
	if (b->place.ch.offset >= size)
		return -EINVAL;
	b->range = size - b->place.ch.offset;
	if (b->place.ch.length && b->place.ch.length < b->range)
		b->range = b->place.ch.length;
	b->scratch_len = b->range >= BULK_REGION ? BULK_SCRATCH : SMALL_SCRATCH;
	if (b->range < CONTROL_LEN + SMALL_CHANNEL + SMALL_SCRATCH)
		return -ENOSPC;
	b->scratch = (char *)base + b->place.ch.offset + ((b->range - b->scratch_len) & ~4095UL);
	b->lat = calloc(MAX_LATENCIES, sizeof(*b->lat));
	b->batch = calloc(MAX_LATENCIES, sizeof(*b->batch));
	b->src = aligned_alloc(4096, BULK_MSG);
	b->dst = aligned_alloc(4096, BULK_MSG);
	if (!b->lat || !b->batch || !b->src || !b->dst)
		return -ENOMEM;
	b->clock_ns = clock_cost();
	b->step_ms = b->place.timeout_ms > 0 && b->place.timeout_ms < STEP_MS ?
		     b->place.timeout_ms : STEP_MS;
	memset(b->src, 1, BULK_MSG);
	memset(b->dst, 2, BULK_MSG);
	return control_open(b);
}

static int explain(const struct bench *b, int err)
{
	switch (err) {
	case -ENOSPC:
		return fail(EX_OPEN, "bench needs a region of %lu KiB at least",
			    (CONTROL_LEN + SMALL_CHANNEL + SMALL_SCRATCH) >> 10);
	case -EINVAL:
		return fail(EX_MISUSE, "--offset lies outside the region");
	case -EMSGSIZE:
		return fail(EX_MISUSE, "the other end sees a range of another size: give both the "
			    "same --offset and --length");
	case -EPIPE:
		return fail(EX_PEER, "the other end of the bench ended early");
	case -ETIMEDOUT:
		if (!b->remote)
			return fail(EX_PEER, "the two processes of the bench lost each other (%s)",
				    vmp_errmsg());
		return fail(EX_PEER, "nobody on side %u; start \"portalctl bench --side %u\" on "
			    "the other machine", !b->side, !b->side);
	}
	return fail(exit_of(err), "bench: %s (%s)", strerror(-err), vmp_errmsg());
}

/* One window of one contender, both halves. */
static int window(struct bench *b, size_t icase, size_t icont, double *ns)
{
	const struct contender *t = bench_cases[icase]->c[icont];
	struct sample s = { 0 };
	uint64_t start;
	int err, done;

	if (t->reset)
		t->reset(b);
	b->nlat = 0;
	b->deadline_ns = now_ns() + b->window_ns + b->step_ms * 1000000ULL;
	err = control_ask(b, CMD_RUN, icase, icont, NULL);
	if (err)
		return err;
	start = now_ns();
	err = t->lead(b, &s);
	done = err == -EPIPE ? 0 : control_done(b);
	if (err || done)
		return err ? err : done;
	*ns = s.ns ? s.ns : (double)(now_ns() - start) / s.ops;
	return 0;
}

static void keep_latencies(const struct bench *b, struct outcome *o, size_t i)
{
	size_t n = b->nlat;

	if (o->nlat[i] + n > LAT_PER_CASE)
		n = LAT_PER_CASE - o->nlat[i];
	memcpy(o->lat[i] + o->nlat[i], b->lat, n * sizeof(*b->lat));
	o->nlat[i] += n;
}

/* The contenders that can run here; ours is the first. */
static size_t fitting(const struct bench *b, const struct bench_case *c, uint32_t *which)
{
	struct vmp_info info;
	size_t n = 0;
	bool bells;

	bells = !vmp_get_info(b->p, &info, sizeof(info)) && info.caps & VMP_CAP_RING &&
		info.caps & VMP_CAP_EVENTS;
	for (uint32_t i = 0; i < MAX_RIVALS && c->c[i]; i++) {
		if (c->c[i]->local && b->remote)
			continue;
		if (!strcmp(c->c[i]->name, "bare doorbells") && !bells)
			continue;
		which[n++] = i;
	}
	return n;
}

static int run_windows(struct bench *b, size_t icase, struct outcome *o, const uint32_t *which)
{
	int err;

	/* The first round warms up and is thrown away. */
	for (size_t w = 0; w <= b->windows; w++) {
		for (size_t k = 0; k < o->n; k++) {
			size_t i = w % 2 ? o->n - 1 - k : k;
			double ns = 0;

			err = window(b, icase, which[i], &ns);
			if (err)
				return err;
			if (!w)
				continue;
			o->value[i][w - 1] = ns;
			keep_latencies(b, o, i);
		}
		if (interrupted())
			return -EINTR;
	}
	return 0;
}

static int run_case(struct bench *b, size_t icase, struct json_object *all)
{
	struct bench_case here = *bench_cases[icase];
	struct outcome o = { .c = &here, .windows = b->windows };
	struct bench_counts mine, theirs = { 0 };
	uint32_t which[MAX_RIVALS];
	struct json_object *j;
	int err;

	o.n = fitting(b, &here, which);
	for (size_t i = 0; i < o.n; i++) {
		here.c[i] = bench_cases[icase]->c[which[i]];
		o.value[i] = calloc(b->windows, sizeof(double));
		o.lat[i] = calloc(LAT_PER_CASE, sizeof(uint64_t));
		if (!o.value[i] || !o.lat[i])
			return -ENOMEM;
	}
	err = control_ask(b, CMD_OPEN, icase, 0, NULL);
	if (!err)
		err = run_windows(b, icase, &o, which);
	if (b->ch)
		channel_counts(b, &mine);
	if (!err)
		err = control_ask(b, CMD_CLOSE, icase, 0, &theirs);
	vmp_channel_close(b->ch);
	b->ch = NULL;
	if (!err) {
		o.messages = mine.sent + theirs.sent;
		o.both.doorbells = mine.doorbells + theirs.doorbells;
		o.both.syscalls = mine.syscalls + theirs.syscalls;
		j = outcome_json(&o);
		json_object_array_add(all, j);
		if (!b->json)
			print_outcome(j);
	}
	outcome_free(&o);
	return err;
}

/* Why a case cannot run here, or NULL. */
static const char *hindrance(const struct bench *b, const struct bench_case *c)
{
	uint32_t which[MAX_RIVALS];

	if (c->bulk && b->range < BULK_REGION)
		return "it needs a region of 15 MiB";
	if (c->unit == UNIT_RATE && b->remote)
		return "its rivals trust their shared memory and run in one machine only";
	if (fitting(b, c, which) < 2)
		return c->unit == UNIT_RATE ?
			"no rival was there when portalctl was built (libck-dev, libboost-dev)" :
			"this portal has no doorbells";
	return NULL;
}

static int lead(struct bench *b, struct json_object *top)
{
	struct json_object *all = json_object_new_array();
	int err = prepare(b);

	json_object_object_add(top, "cases", all);
	for (size_t i = 0; i < n_bench_cases && !err; i++) {
		const char *why;

		if (!wanted(b, bench_cases[i]->key))
			continue;
		why = hindrance(b, bench_cases[i]);
		if (why)
			fprintf(stderr, "portalctl: %s left out: %s\n", bench_cases[i]->key, why);
		else
			err = run_case(b, i, all);
	}
	if (b->ctl)
		control_ask(b, CMD_QUIT, 0, 0, NULL);
	return err;
}

static int follow(struct bench *b)
{
	int err = prepare(b);

	return err ? err : control_serve(b);
}

static void close_all(struct bench *b)
{
	vmp_channel_close(b->ch);
	vmp_channel_close(b->ctl);
	vmp_close(b->p);
	b->ch = b->ctl = NULL;
	b->p = NULL;
}

/* The follower's process: exits here. */
static void run_child(struct bench *b, struct vmp *given)
{
	int err = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	b->side = 1;
	b->p = given;
	b->child = 0;
	pin(b, 1);
	if (!given) {
		err = vmp_open(&b->p, b->uri2 ? b->uri2 : b->place.uri,
			       VMP_ZERO_ON_REVOKE);
		/* One channel to a vector: beside ourselves on one device, take the next. */
		if (!err && !b->uri2)
			b->place.ch.vector++;
	}
	if (!err)
		err = follow(b);
	close_all(b);
	_exit(err ? explain(b, err) : 0);
}

/* Both ends in this machine: over a fresh pair, or over the URIs given. */
static int open_local(struct bench *b)
{
	struct vmp *pair[2] = { NULL, NULL };
	int err = 0;

	b->efd[0] = eventfd(0, EFD_CLOEXEC);
	b->efd[1] = eventfd(0, EFD_CLOEXEC);
	if (b->efd[0] < 0 || b->efd[1] < 0)
		return fail(EX_LOCAL, "eventfd: %s", strerror(errno));
	if (!b->place.uri) {
		err = vmp_pair(pair, BULK_REGION + (1UL << 20), 2);
		if (err)
			return fail_vmp(err);
	}
	fflush(stdout);
	b->child = fork();
	if (b->child < 0)
		return fail(EX_LOCAL, "fork: %s", strerror(errno));
	if (!b->child) {
		vmp_close(pair[0]);
		run_child(b, pair[1]);
	}
	vmp_close(pair[1]);
	b->p = pair[0];
	pin(b, 0);
	if (!b->p && vmp_open(&b->p, b->place.uri, VMP_ZERO_ON_REVOKE))
		return fail(EX_OPEN, "%s", vmp_errmsg());
	return 0;
}

static void reap(struct bench *b)
{
	/* It ends when the control channel closes; a second is a long time for that. */
	for (int i = 0; i < 100 && b->child > 0; i++) {
		if (waitpid(b->child, NULL, WNOHANG) == b->child)
			b->child = 0;
		else
			usleep(10000);
	}
	if (b->child > 0) {
		kill(b->child, SIGKILL);
		waitpid(b->child, NULL, 0);
	}
}

static int run_leader(struct bench *b)
{
	struct json_object *top = json_object_new_object(), *cost;
	int code, err;

	json_object_object_add(top, "version", json_object_new_string(vmp_version()));
	json_object_object_add(top, "uri", json_object_new_string(b->place.uri ? b->place.uri :
								  "memory of two processes"));
	json_object_object_add(top, "window_ms", json_object_new_int64(b->window_ms));
	if (!b->json)
		printf("%s: %u windows of %u ms for each, in turn; ratio: median (p10 .. p90)\n",
		       b->place.uri ? b->place.uri : "memory of two processes", b->windows,
		       b->window_ms);
	err = lead(b, top);
	code = err ? explain(b, err) : 0;
	if (!err && !b->remote && wanted(b, "cost")) {
		cost = cost_json();
		json_object_object_add(top, "cost", cost);
		if (!b->json)
			print_cost(cost);
	}
	if (b->json && !err)
		print_json(top);
	json_object_put(top);
	return code;
}

static int run_remote(struct bench *b)
{
	int err;

	b->side = b->place.ch.side;
	if (vmp_open(&b->p, b->place.uri, VMP_ZERO_ON_REVOKE))
		return fail(EX_OPEN, "%s", vmp_errmsg());
	if (!b->side)
		return run_leader(b);
	err = follow(b);
	return err ? explain(b, err) : 0;
}

static int run_bench(int argc, char **argv)
{
	static const struct argp_child children[] = { { &place_argp, 0, NULL, 0 }, { 0 } };
	static const struct argp argp = {
		options, parse, "[URI [URI2]]", "Figures beside their physical limits and rivals, "
		"measured in short windows in turn. Without a URI: two processes over memory. With "
		"one or two: two processes that open them. With --side: one end, and the same "
		"command with the other --side on the other machine; side 0 prints.\v"
		EXIT_CODES_DOC, children, NULL, NULL
	};
	static struct bench b;
	int code;

	place_init(&b.place, 0);
	b.place.uri = NULL;
	parse_args(&argp, argc, argv, &b);
	if (b.remote && !b.place.uri)
		b.place.uri = default_uri();
	if (!b.windows)
		b.windows = b.quick ? 8 : 60;
	if (!b.window_ms)
		b.window_ms = b.quick ? 15 : 25;
	b.window_ns = b.window_ms * 1000000ULL;
	catch_signals();
	if (b.remote) {
		code = run_remote(&b);
	} else if (sysconf(_SC_NPROCESSORS_ONLN) < 2) {
		return fail(EX_LOCAL, "bench needs two CPUs for its two processes; across machines "
			    "use --side");
	} else {
		code = open_local(&b);
		if (!code)
			code = run_leader(&b);
	}
	close_all(&b);
	reap(&b);
	die_of_signal();
	return code;
}

const struct command cmd_bench = { "bench", "figures beside their physical limits", run_bench };
