/* SPDX-License-Identifier: MIT */
/*
 * Processes that do one thing, say what came of it, and live until they are told to end.
 */
#ifndef VMPORTAL_TESTS_CHILDREN_H
#define VMPORTAL_TESTS_CHILDREN_H

#include "guest.h"

#include <sys/wait.h>

struct child {
	pid_t pid;
	int in, out;
	uint64_t token;	/* what it said */
};

/* fn(file) runs in a child, and what it returns is said; it lives until it is told to end. */
static MAYBE struct child start_child(uint64_t (*fn)(int file), int file)
{
	int up[2], down[2];
	struct child c;

	if (pipe2(up, O_CLOEXEC) || pipe2(down, O_CLOEXEC))
		die("pipe2");
	c.pid = fork();
	if (!c.pid) {
		uint64_t token;
		char byte;

		close(up[0]);
		close(down[1]);
		token = fn(file);
		if (write(up[1], &token, sizeof(token)) != sizeof(token))
			_exit(1);
		_exit(read(down[0], &byte, 1) < 0);
	}
	close(up[1]);
	close(down[0]);
	c.in = down[1];
	c.out = up[0];
	c.token = 0;
	if (read(c.out, &c.token, sizeof(c.token)) != sizeof(c.token))
		c.token = 0;
	return c;
}

static MAYBE void end_child(struct child *c, bool kill_it)
{
	/* Not by closing it: children that came later have it, too. */
	if (kill_it || write(c->in, "", 1) != 1)
		kill(c->pid, SIGKILL);
	close(c->in);
	waitpid(c->pid, NULL, 0);
	close(c->out);
}

#endif /* VMPORTAL_TESTS_CHILDREN_H */
