// SPDX-License-Identifier: MIT
/*
 * joiner URI - a process with a session, by the library, which does what it is told line
 * by line and answers each line with one.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <vmportal.h>

static struct vmp *portal;

static void join(void)
{
	uint64_t token;
	int r = vmp_join(portal, &token);

	if (r)
		printf("error %d %s\n", r, vmp_errmsg());
	else
		printf("token %" PRIu64 "\n", token);
}

/* A child that has the socket and all other descriptors, and lives. */
static void fork_child(void)
{
	pid_t pid = fork();

	if (!pid) {
		for (;;)
			pause();
	}
	printf("child %d\n", (int)pid);
}

/* Is a change told within @ms? */
static void await_change(int ms)
{
	struct pollfd f = { vmp_watch_fd(portal), POLLIN, 0 };

	if (f.fd < 0) {
		printf("error %d %s\n", f.fd, vmp_errmsg());
		return;
	}
	puts(poll(&f, 1, ms) == 1 ? "changed" : "quiet");
	vmp_watch_clear(portal);
}

static void obey(char *line)
{
	unsigned long long n = strchr(line, ' ') ? strtoull(strchr(line, ' '), NULL, 0) : 0;
	int r;

	if (!strncmp(line, "join", 4)) {
		join();
	} else if (!strncmp(line, "fork", 4)) {
		fork_child();
	} else if (!strncmp(line, "exec", 4)) {
		puts("exec");
		fflush(stdout);
		execlp("sleep", "sleep", "1000", NULL);
	} else if (!strncmp(line, "close", 5)) {
		vmp_close(portal);
		portal = NULL;
		puts("closed");
	} else if (!strncmp(line, "state", 5)) {
		printf("state %d\n", vmp_token_state(portal, n));
	} else if (!strncmp(line, "fence", 5)) {
		r = vmp_fence(portal, (uint32_t)n);
		printf("fence %d %s\n", r, r ? vmp_errmsg() : "");
	} else if (!strncmp(line, "await", 5)) {
		await_change((int)n);
	} else {
		puts("what?");
	}
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char line[128];

	if (argc != 2 || vmp_open(&portal, argv[1], 0)) {
		printf("error %s\n", vmp_errmsg());
		return 1;
	}
	join();
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		obey(line);
	return 0;
}
