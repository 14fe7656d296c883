/* SPDX-License-Identifier: MIT */
/* A real portald for the tests of the library, and ends that meet and die on it. */
#ifndef TESTS_UNIT_LIB_DAEMON_H
#define TESTS_UNIT_LIB_DAEMON_H

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <linux/portal_layout.h>

#include "backends.h"

static char portald[4096];

/* Beside this program, @argv0, as it was built. */
static inline void find_portald(const char *argv0)
{
	const char *slash = strrchr(argv0, '/');

	snprintf(portald, sizeof(portald), "%.*s/../../bin/portald",
		 slash ? (int)(slash - argv0) : 1, slash ? argv0 : ".");
}

/* Until it accepts connections: the socket is there before it does. */
static inline void await_portald(const char *sock)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int i, fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", sock);
	for (i = 0; i < 500 && connect(fd, (struct sockaddr *)&a, sizeof(a)); i++)
		usleep(20000);
	close(fd);
}

static inline pid_t start_portald_with(const char *option, const char *another)
{
	const char *sock = in_dir("DIR/t.sock");
	pid_t pid = fork();

	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		/* A test that fails ends without us. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(null, 1);
		dup2(null, 2);
		execl(portald, portald, "--name=t", "--size=1M", "--vectors=2",
		      in_dir("--socket-dir=DIR"), option, another, (char *)NULL);
		_exit(127);
	}
	await_portald(sock);
	return pid;
}

static inline pid_t start_portald(void)
{
	return start_portald_with(NULL, NULL);
}

static inline void end(pid_t pid, int sig)
{
	int status;

	kill(pid, sig);
	waitpid(pid, &status, 0);
}

static inline void meet(struct vmp_channel *a, struct vmp_channel *b)
{
	int i;

	for (i = 0; i < 6; i++) {
		vmp_channel_connect(a, 0);
		vmp_channel_connect(b, 0);
	}
	assert_int_equal(vmp_channel_connect(a, 0), 0);
	assert_int_equal(vmp_channel_connect(b, 0), 0);
}

/* End as by SIGKILL: nothing is said, for who was overtaken writes nothing. */
static inline void die(struct vmp *p, struct vmp_channel *ch, unsigned int side)
{
	volatile struct portal_chan_side *s;
	uint64_t was;
	void *base;

	vmp_map(p, &base, NULL);
	s = (struct portal_chan_side *)base + side;
	was = s->incarnation;
	s->incarnation = was + 1;
	vmp_channel_close(ch);
	s->incarnation = was;
	vmp_close(p);
}

#endif /* TESTS_UNIT_LIB_DAEMON_H */
