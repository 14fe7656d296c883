// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "kept.h"
#include "portal.h"
#include "store.h"

#define PREFIX "vmportal/"
#define AGAIN_S 2
/*
 * All names pass to the next portald in one variable of its environment, which is at most
 * 128 KiB; and systemd keeps as many as the units say, and drops what is more unasked.
 */
#define STORED_MAX 4096U
#ifdef PORTALD_STEPS
#define NAMES_MAX 2000U
#else
#define NAMES_MAX 120000U
#endif
#define BUNDLE_MAX 128U		/* the kernel's limit is 253 */

static bool manager;
static int keeper = -1;

/* What was passed to this process, by name. */
static struct passed {
	int fd;
	char *name;
} *passed;
static unsigned int npassed;

/* What the manager has, by name. */
static struct {
	char **name;
	unsigned int n;
	size_t bytes;
} stored;

static bool is_stored(const char *name, unsigned int *i)
{
	for (*i = 0; *i < stored.n; ++*i)
		if (strcmp(stored.name[*i], name) == 0)
			return true;
	return false;
}

static int note(const char *name)
{
	char **more;

	if (stored.n >= STORED_MAX || stored.bytes + strlen(name) + 1 > NAMES_MAX)
		return -ENOSPC;
	more = realloc(stored.name, (stored.n + 1) * sizeof(*more));
	if (more)
		stored.name = more;
	if (!more || !(stored.name[stored.n] = strdup(name)))
		return -ENOMEM;
	stored.n++;
	stored.bytes += strlen(name) + 1;
	return 0;
}

static void forget(const char *name)
{
	unsigned int i;

	if (!is_stored(name, &i))
		return;
	stored.bytes -= strlen(name) + 1;
	free(stored.name[i]);
	stored.name[i] = stored.name[--stored.n];
}

void store_init(void)
{
	const char *env = getenv(STORE_KEEPER);

	if (env && fcntl(atoi(env), F_SETFD, FD_CLOEXEC) == 0)
		keeper = atoi(env);
	unsetenv(STORE_KEEPER);
	env = getenv("NOTIFY_SOCKET");
	manager = keeper >= 0 || (env && *env);
}

bool store_on(void)
{
	return manager;
}

bool store_waits(void)
{
	const char *pid = getenv("LISTEN_PID"), *names = getenv("LISTEN_FDNAMES");

	/* Taken from the environment already, or not yet. */
	bool any = npassed || (pid && atoi(pid) == (int)getpid() && names && strstr(names, PREFIX));

	if (any || (manager && keeper < 0))
		sleep(AGAIN_S);
	return any;
}

int store_keeper(void)
{
	return keeper;
}

void store_lost(void)
{
	close(keeper);
	keeper = -1;
	manager = false;
}

/* ---- Bundles ----------------------------------------------------------------- */

/* A socket in whose queue they are; or -errno. */
static int bundle(const int *fds, unsigned int n)
{
	int pair[2], ret;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	ret = send_with_fds(pair[0], "b", 1, fds, n);
	close(pair[0]);
	if (ret == 0)
		return pair[1];
	close(pair[1]);
	return ret;
}

/* They stay in the queue, for the next. */
static unsigned int unbundle(int sock, int *fds, unsigned int max)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(BUNDLE_MAX * sizeof(int))];
	} ctl;
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = ctl.buf, .msg_controllen = CMSG_SPACE(max * sizeof(int)),
	};
	struct cmsghdr *cm;
	unsigned int n;

	if (max > BUNDLE_MAX || recvmsg(sock, &msg, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1)
		return 0;
	cm = CMSG_FIRSTHDR(&msg);
	if (!cm || cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS)
		return 0;
	n = (unsigned int)((cm->cmsg_len - CMSG_LEN(0)) / sizeof(int));
	memcpy(fds, CMSG_DATA(cm), n * sizeof(int));
	return n;
}

/* ---- To the manager ---------------------------------------------------------- */

/* @text, and @fd if it is one; 0 or -errno. Waits for a keeper that is slow to read. */
static int tell(const char *text, int fd)
{
	struct send_parts parts;
	struct msghdr msg;
	ssize_t n;

	if (keeper < 0) {
		n = sd_pid_notify_with_fds(0, 0, text, &fd, fd >= 0);
		return n < 0 ? (int)n : 0;
	}
	send_prepare(&parts, &msg, text, strlen(text), &fd, fd >= 0);
	do
		n = sendmsg(keeper, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	/* It has ended: whoever watches its socket says so. */
	return n >= 0 || errno == EPIPE || errno == ECONNRESET ? 0 : -errno;
}

void store_say(const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (!manager)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	tell(text, -1);
}

int store_put(const char *portal, const char *what, const int *fds, unsigned int n)
{
	char text[160], name[128];
	int fd = fds[0], ret;

	if (!manager)
		return 0;
	snprintf(name, sizeof(name), PREFIX "%s/%s", portal, what);
	ret = note(name);
	if (ret < 0)
		return ret;
	if (n > 1) {
		fd = bundle(fds, n);
		if (fd < 0)
			return fd;
	}
	/* FDPOLL=0: it is for us to say when one is of no use any more. */
	snprintf(text, sizeof(text), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
	ret = tell(text, fd);
	if (n > 1)
		close(fd);
	kept_step();
	if (ret < 0)
		forget(name);
	return ret;
}

static void drop(const char *name)
{
	forget(name);
	store_say("FDSTOREREMOVE=1\nFDNAME=%s", name);
}

void store_drop(const char *portal, const char *what)
{
	char name[128];

	if (!manager)
		return;
	snprintf(name, sizeof(name), PREFIX "%s/%s", portal, what);
	drop(name);
	kept_step();
}

/* ---- From the manager -------------------------------------------------------- */

bool store_inherit(int fd, const char *name)
{
	struct passed *more;

	if (strncmp(name, PREFIX, strlen(PREFIX)) != 0)
		return false;
	more = realloc(passed, (npassed + 1) * sizeof(*passed));
	if (more)
		passed = more;
	if (!more || !(passed[npassed].name = strdup(name + strlen(PREFIX)))) {
		close(fd);
		return true;
	}
	passed[npassed++].fd = fd;
	note(name);
	return true;
}

int store_take(const char *portal, const char *what)
{
	char name[128];
	unsigned int i;
	int fd;

	snprintf(name, sizeof(name), "%s/%s", portal, what);
	for (i = 0; i < npassed; i++)
		if (passed[i].fd >= 0 && strcmp(passed[i].name, name) == 0) {
			fd = passed[i].fd;
			passed[i].fd = -1;
			return fd;
		}
	return -1;
}

unsigned int store_take_bundle(const char *portal, const char *what, int *fds, unsigned int max)
{
	int sock = store_take(portal, what);
	unsigned int n = 0;

	/* A single one was not bundled. */
	if (sock >= 0 && max == 1) {
		fds[0] = sock;
		return 1;
	}
	if (sock >= 0) {
		n = unbundle(sock, fds, max);
		close(sock);
	}
	return n;
}

static bool is_of(const struct passed *p, const char *portal)
{
	size_t len = portal ? strlen(portal) : 0;

	return !portal || (strncmp(p->name, portal, len) == 0 && p->name[len] == '/');
}

bool store_had(const char *portal)
{
	unsigned int i;

	for (i = 0; i < npassed; i++)
		if (is_of(&passed[i], portal))
			return true;
	return false;
}

unsigned int store_sweep(const char *portal)
{
	unsigned int i, n = 0;
	char name[128];

	for (i = 0; i < npassed; i++) {
		if (passed[i].fd < 0 || !is_of(&passed[i], portal))
			continue;
		snprintf(name, sizeof(name), PREFIX "%s", passed[i].name);
		drop(name);
		close(passed[i].fd);
		passed[i].fd = -1;
		n++;
	}
	return n;
}
