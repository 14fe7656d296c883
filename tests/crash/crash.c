// SPDX-License-Identifier: MIT
/*
 * crash [OPTIONS] URI - kill and stop processes that use a managed portal, and judge
 *
 * See crash.h. The portal is served, and fresh; "crash join" is for other machines' part.
 */
#include <getopt.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "crash.h"

static int usage(void)
{
	fprintf(stderr, "usage: crash [join] [-k KILLS] [-t SECONDS] [-s SEED] [-w WORKERS] [-b FIRST-LIFE]\n"
		"             [-S STOP-MS] [-D TIMES] [-a] URI\n"
		"       crash steps\n"
		"       crash mistake|over URI PEER\n"
		"  -a: go on until somebody was killed at each step, and stopped\n"
		"  -D: workers are slow, and live so many times longer\n"
		"  join: on a portal where another crash runs already; it judges the end\n");
	return 2;
}

/* crash work URI SEED SLOT FD WINDOWED WINDOW: by the driver. */
static int a_worker(char **argv)
{
	struct world w = { .uri = argv[0], .mutant = getenv("CRASH_MUTANT") };
	uint64_t seed = strtoull(argv[1], NULL, 0);
	uint32_t slot = (uint32_t)strtoul(argv[2], NULL, 0);
	struct slot *slots = mmap(NULL, (SLOTS + 1) * sizeof(*slots), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[3]), 0);

	if (slots == MAP_FAILED || slot >= SLOTS)
		return 2;
	/* A child of init's that ends while one of its group is stopped: SIGHUP for all of it. */
	setsid();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(atoi(argv[3]));
	may_end_machine(&w);
	w.slot = &slots[slot];
	w.machine = &slots[SLOTS];
	w.plan = w.slot->plan;
	w.rng.s = seed ^ (w.plan.life + 1) * UINT64_C(0x9e3779b97f4a7c15);
	snprintf(w.windowed, sizeof(w.windowed), "%s", argv[4]);
	w.window = atoi(argv[5]);
	return work(&w);
}

static int tell_steps(void)
{
	int i;

	for (i = 0; i < OWN_STEPS; i++)
		printf("%s\n", step_name[i]);
	return 0;
}

static uint64_t a_seed(void)
{
	uint64_t s = 0;

	if (getrandom(&s, 4, 0) != 4)
		s = (uint64_t)time(NULL);
	return s;
}

static int run(struct drive *d, const char *uri, uint64_t seed, bool join)
{
	struct world w = { .rng.s = seed | 1, .mutant = getenv("CRASH_MUTANT") };
	int r;

	printf("# seed %llu\n", (unsigned long long)seed);
	fflush(stdout);
	r = open_world(&w, uri, !join);
	if (r) {
		fprintf(stderr, "crash: %s: %d %s\n", uri, r, vmp_errmsg());
		return 2;
	}
	printf("# peer %u\n", life_low(w.token) / w.p->super->sessions);
	fflush(stdout);
	if (!join)
		w.ledger->seed = seed;
	r = drive(&w, d);
	if (r) {
		fprintf(stderr, "crash: %s; the library said last: %s\n", strerror(-r), vmp_errmsg());
		return 2;
	}
	if (!join) {
		atomic_store(&w.ledger->stop, 1);
		judge_end(&w);
	}
	r = tell_findings(&w);
	close_world(&w);
	return r;
}

int main(int argc, char **argv)
{
	struct drive d = { .kills = 1000, .seconds = 60, .workers = 10, .stop_ms = 900, .slowly = 1 };
	struct rlimit no_core = { 0, 0 };
	uint64_t seed = a_seed();
	bool join;
	int c;

	setrlimit(RLIMIT_CORE, &no_core);
	if (argc == 8 && !strcmp(argv[1], "work"))
		return a_worker(argv + 2);
	if (argc == 2 && !strcmp(argv[1], "idle"))
		return idle();
	if (argc == 2 && !strcmp(argv[1], "steps"))
		return tell_steps();
	if (argc == 4 && (!strcmp(argv[1], "mistake") || !strcmp(argv[1], "over")))
		return mistake(argv[2], (uint32_t)strtoul(argv[3], NULL, 0), *argv[1] == 'o');
	join = argc > 1 && !strcmp(argv[1], "join");
	argc -= join;
	argv += join;
	while ((c = getopt(argc, argv, "k:t:s:w:b:S:D:a")) >= 0) {
		switch (c) {
		case 'k': d.kills = (uint32_t)strtoul(optarg, NULL, 0); break;
		case 't': d.seconds = atoi(optarg); break;
		case 's': seed = strtoull(optarg, NULL, 0); break;
		case 'w': d.workers = (uint32_t)strtoul(optarg, NULL, 0); break;
		case 'b': d.base = (uint32_t)strtoul(optarg, NULL, 0); break;
		case 'S': d.stop_ms = atoi(optarg); break;
		case 'D': d.slowly = atoi(optarg); break;
		case 'a': d.steps = true; break;
		default: return usage();
		}
	}
	if (optind != argc - 1 || d.workers < 1 || d.workers > SLOTS || d.stop_ms < 1 || d.slowly < 1)
		return usage();
	return run(&d, argv[optind], seed, join);
}
