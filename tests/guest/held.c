// SPDX-License-Identifier: MIT
/*
 * held DEVICE GO BACK: a fault that is between its look at the portal and its page
 * table entry when the portal goes (GO), and comes back (BACK). The module hinder holds
 * it there. The removal must wait for the fault, or find its entry: else a mapping of
 * what is no longer ours would stay. TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "hinder.h"

#include <pthread.h>
#include <sys/wait.h>

#define LARGE		(4UL << 20)

static void *toucher(void *map)
{
	return (void *)(intptr_t)touch(map, -1, NULL);
}

/*
 * A process of its own runs the command: this one's fault has its mmap_lock, for which
 * fork(), and thus system(), would wait.
 */
struct helper {
	pid_t pid;
	int to, from;
};

static struct helper helper_start(const char *command)
{
	struct helper h;
	int to[2], from[2], status;
	char c = 0;

	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		die("pipe2");
	h = (struct helper){ .to = to[1], .from = from[0], .pid = fork() };
	if (h.pid)
		return h;
	if (read(to[0], &c, 1) != 1)
		_exit(1);
	status = system(command) != 0;
	_exit(write(from[1], status ? "1" : "0", 1) != 1);
}

/* Whether the command succeeded. */
static bool helper_run(const struct helper *h)
{
	char c = '1';

	if (write(h->to, "", 1) != 1 || read(h->from, &c, 1) != 1)
		die("the helper");
	return c == '0';
}

static void helper_end(const struct helper *h)
{
	close(h->to);
	close(h->from);
	waitpid(h->pid, NULL, 0);
}

static void held(const char *device, const char *go, const char *back, size_t len,
		 const char *entry)
{
	struct helper h = helper_start(go);
	int fd = open_portal(device, O_RDWR), n;
	char *map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	pthread_t thread;

	if (map == MAP_FAILED)
		die("mmap");
	hinder_set(HINDER "armed", "1");
	pthread_create(&thread, NULL, toucher, map);
	ok(comes_to_wait(), "%s: a fault is in the middle", entry);
	ok(helper_run(&h) && !waits(), "%s: %s: the fault was over by then",
	   entry, go);
	pthread_join(thread, NULL);
	helper_end(&h);
	ok(touch(map, -1, NULL) == SIGBUS, "%s: its entry did not stay", entry);
	ok(touch(map + len - sizeof(uint32_t), -1, NULL) == SIGBUS, "%s: nor another", entry);
	munmap(map, len);
	close(fd);
	ok(!system(back), "%s: it comes back: %s", entry, back);
	for (n = 0; n < PATIENT_MS / 100 && access(device, F_OK); n++)
		usleep(100000);
}

int main(int argc, char **argv)
{
	struct portal_info info;
	int fd;

	if (argc != 4) {
		fprintf(stderr, "usage: held DEVICE GO BACK\n");
		return 2;
	}
	start(150);
	if (access(HINDER "armed", F_OK))
		die("the module hinder is not loaded");
	fd = open_portal(argv[1], O_RDWR);
	info = get_info(fd);
	close(fd);
	held(argv[1], argv[2], argv[3], sysconf(_SC_PAGESIZE), "one page");
	if (info.caps & PORTAL_CAP_LARGE_PAGES && info.region_size >= LARGE)
		held(argv[1], argv[2], argv[3], LARGE, "a large entry");
	else
		skip("a large entry", "this portal has none");
	return done();
}
