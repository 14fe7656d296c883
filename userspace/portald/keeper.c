// SPDX-License-Identifier: MIT
/*
 * The keeper speaks systemd's protocol (sd_notify(3): FDSTORE, FDSTOREREMOVE), as far as
 * store.c does, so that there is one mechanism; by a socket that only it and its daemon have.
 * It is tiny, and touches nothing that a client sent, so that there is little in it to fail:
 * a daemon can be replaced under it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "keeper.h"
#include "log.h"
#include "store.h"

#ifdef PORTALD_STEPS
#define AGAIN_MS	5	/* where it is killed at each step */
#else
#define AGAIN_MS	100	/* before the daemon is started again, if it had come up; */
#endif
#define AGAIN_MAX_MS	5000	/* if not: twice as long each time */
#define NAME_MAX_	256
#define FIRST_FD	3	/* SD_LISTEN_FDS_START */

struct stored {
	int fd;
	char name[NAME_MAX_];
};

static struct {
	char exe[4096];
	char **argv;
	int daemon, signals;	/* the socket to the one that runs, or -1 */
	pid_t child;		/* 0: none runs */
	bool ready, ever;	/* it has come up; any of them has */
	bool stopping;
	int wait_ms;
	struct stored *stored;
	unsigned int n;
} k;

/* ---- What is kept ------------------------------------------------------------ */

static void add(int fd, const char *name)
{
	struct stored *more = realloc(k.stored, (k.n + 1) * sizeof(*more));

	if (!more) {
		log_line(LOG_ERR, NULL, "keeper: out of memory: '%s' is not kept", name);
		close(fd);
		return;
	}
	k.stored = more;
	k.stored[k.n].fd = fd;
	snprintf(k.stored[k.n++].name, sizeof(more->name), "%s", name);
}

static void drop(const char *name)
{
	unsigned int i;

	for (i = 0; i < k.n;)
		if (strcmp(k.stored[i].name, name) == 0) {
			close(k.stored[i].fd);
			k.stored[i] = k.stored[--k.n];
		} else {
			i++;
		}
}

/* ---- What the daemon says ---------------------------------------------------- */

static bool says(const char *text, const char *line)
{
	const char *at = strstr(text, line);

	return at && (at == text || at[-1] == '\n');
}

static void obey(const char *text, int fd)
{
	const char *name = strstr(text, "FDNAME=");
	char buf[NAME_MAX_] = "";

	if (name)
		snprintf(buf, sizeof(buf), "%.*s", (int)strcspn(name + 7, "\n"), name + 7);
	if (says(text, "FDSTOREREMOVE=1")) {
		drop(buf);
	} else if (says(text, "FDSTORE=1") && fd >= 0) {
		add(fd, buf);
		return;
	} else {
		k.ready = k.ready || says(text, "READY=1");
		k.ever = k.ever || k.ready;
		sd_notify(0, text);	/* to our own manager, if there is one */
	}
	if (fd >= 0)
		close(fd);
}

/* One message; false: there is none. */
static bool listen_once(void)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} ctl;
	char text[4096];
	struct iovec iov = { text, sizeof(text) - 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = ctl.buf, .msg_controllen = sizeof(ctl),
	};
	struct cmsghdr *cm;
	ssize_t n;
	int fd = -1;

	n = recvmsg(k.daemon, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EINTR;
	if (n == 0) {		/* it has ended, or will hear no more of us */
		close(k.daemon);
		k.daemon = -1;
		return false;
	}
	text[n] = '\0';
	cm = CMSG_FIRSTHDR(&msg);
	if (cm && cm->cmsg_level == SOL_SOCKET && cm->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(cm), sizeof(fd));
	obey(text, fd);
	return true;
}

/* ---- The daemon's lives ------------------------------------------------------ */

/* In the child: what is kept becomes descriptors 3 and on, as systemd passes them. */
static bool pass_on(void)
{
	unsigned int i, len = 0;
	char *names = malloc(k.n * NAME_MAX_ + 1), num[16];	/* gone with exec */

	if (!k.n)
		return unsetenv("LISTEN_FDS") == 0;
	if (!names)
		return false;
	/* Out of the way first. */
	for (i = 0; i < k.n; i++) {
		k.stored[i].fd = fcntl(k.stored[i].fd, F_DUPFD_CLOEXEC, FIRST_FD + (int)k.n);
		if (k.stored[i].fd < 0)
			return false;
		len += (unsigned int)sprintf(names + len, "%s%s", i ? ":" : "", k.stored[i].name);
	}
	for (i = 0; i < k.n; i++)
		if (dup2(k.stored[i].fd, FIRST_FD + (int)i) < 0)
			return false;
	snprintf(num, sizeof(num), "%u", k.n);
	setenv("LISTEN_FDS", num, 1);
	setenv("LISTEN_FDNAMES", names, 1);
	snprintf(num, sizeof(num), "%d", (int)getpid());
	setenv("LISTEN_PID", num, 1);
	return true;
}

static void run_daemon(int keeper)
{
	char num[16];
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* Out of the way of those that are passed on. */
	snprintf(num, sizeof(num), "%d", fcntl(keeper, F_DUPFD, FIRST_FD + (int)k.n));
	setenv(STORE_KEEPER, num, 1);
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
	if (pass_on())
		execv(k.exe, k.argv);
	log_line(LOG_ERR, NULL, "keeper: cannot start %s: %s", k.exe, strerror(errno));
	_exit(1);
}

static void start(void)
{
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		log_line(LOG_ERR, NULL, "keeper: socketpair: %s", strerror(errno));
		return;
	}
	pid = fork();
	if (pid == 0)
		run_daemon(pair[1]);
	close(pair[1]);
	if (pid < 0) {
		log_line(LOG_ERR, NULL, "keeper: fork: %s", strerror(errno));
		close(pair[0]);
		return;
	}
	k.daemon = pair[0];
	k.child = pid;
	k.ready = false;
}

/* The daemon is gone: an exit code, or -1: it is started again, after k.wait_ms. */
static int ended(int status)
{
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
	pid_t pid = k.child;

	while (listen_once())	/* its last words */
		;
	if (k.daemon >= 0)
		close(k.daemon);
	k.daemon = -1;
	k.child = 0;
	/* As long as anything is kept the next one may have more luck, or a better configuration. */
	if (k.stopping || !k.ever || (WIFEXITED(status) && (code == 2 || code == 0) && !k.n))
		return code;
	k.wait_ms = k.ready || !k.wait_ms ? AGAIN_MS : k.wait_ms * 2;
	if (k.wait_ms > AGAIN_MAX_MS)
		k.wait_ms = AGAIN_MAX_MS;
	if (WIFSIGNALED(status))
		log_line(LOG_WARNING, NULL, "keeper: portald (pid %d) was killed by signal %d: starting it again, with %u descriptors",
			 (int)pid, WTERMSIG(status), k.n);
	else if (code)
		log_line(LOG_WARNING, NULL, "keeper: portald (pid %d) failed: starting it again, with %u descriptors",
			 (int)pid, k.n);
	return -1;
}

/* SIGCHLD and those that are for the daemon; an exit code, or -1. */
static int on_signal(void)
{
	struct signalfd_siginfo si;
	int status;

	if (read(k.signals, &si, sizeof(si)) != sizeof(si))
		return -1;
	switch (si.ssi_signo) {
	case SIGCHLD:
		if (k.child && waitpid(k.child, &status, WNOHANG) == k.child)
			return ended(status);
		return -1;
	case SIGTERM:
	case SIGINT:
		k.stopping = true;
		if (!k.child)
			return 0;
		kill(k.child, SIGINT);	/* for good: see serve.c */
		return -1;
	default:
		if (k.child)
			kill(k.child, (int)si.ssi_signo);
		return -1;
	}
}

/* ---- All of it --------------------------------------------------------------- */

static int set_up(char **argv)
{
	struct rlimit rl;
	sigset_t set;
	ssize_t n = readlink("/proc/self/exe", k.exe, sizeof(k.exe) - 1);

	if (n < 0)
		return -errno;
	k.exe[n] = '\0';
	k.argv = argv;
	/* As many as the daemon may have. */
	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	k.daemon = -1;
	k.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return k.signals < 0 ? -errno : 0;
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

int keep(char **argv)
{
	struct pollfd f[2] = { { .events = POLLIN }, { .events = POLLIN } };
	int64_t again = 0;
	int code = set_up(argv), wait;

	if (code < 0) {
		log_line(LOG_ERR, NULL, "keeper: %s", strerror(-code));
		return 1;
	}
	f[1].fd = k.signals;
	for (;;) {
		if (!k.child && now_ms() >= again) {
			start();
			again = now_ms() + AGAIN_MAX_MS;
		}
		f[0].fd = k.daemon;
		wait = k.child ? -1 : (int)(again - now_ms());
		if (poll(f, 2, !k.child && wait < 0 ? 0 : wait) < 0)
			continue;
		if (f[0].revents)
			listen_once();
		if (!f[1].revents)
			continue;
		code = on_signal();
		if (code >= 0)
			return code;
		if (!k.child)
			again = now_ms() + k.wait_ms;
	}
}
