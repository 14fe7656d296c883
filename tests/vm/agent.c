// SPDX-License-Identifier: MIT
/*
 * The guest's /init: prepares a bare machine, then takes commands from the host.
 *
 * The control channel is a serial port of its own (argument vmportal.control=
 * of the kernel's command line, default ttyS1), in raw mode. Both directions
 * carry frames: a line of text, then as many bytes as the line says.
 *
 *	host to guest
 *	S id len\n<script>	start /bin/sh -c script, in its own process group
 *	I id len\n<bytes>	to its standard input; len 0 closes it
 *	K id signal\n		kill its process group
 *	F path mode len\n<bytes> write a file
 *	P n\n			are you there?
 *	Q\n			sync, say goodbye, power off
 *
 *	guest to host
 *	H release\n		hello: the machine is ready
 *	O id len\n<bytes>	output (stdout and stderr in one)
 *	X id status\n		ended: exit code, or 128 + signal
 *	P n\n			here I am
 *	R path errno\n		the file is written
 *	B\n			goodbye, the last word before power off
 *
 * X is sent when the process has exited and its output has been sent; a
 * grandchild that keeps the pipe open delays it by DRAIN_MS at most.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define JOBS		64
#define LINE		4096
#define FRAME_MAX	(64 << 20)
#define DRAIN_MS	200

struct job {
	int used;
	unsigned int id;
	pid_t pid;
	int out;		/* read end of stdout and stderr, or -1 */
	int in;			/* write end of stdin, or -1 */
	int exited;
	int status;
	int64_t drain_until;	/* ms; once exited, when to stop waiting for EOF */
};

static struct job jobs[JOBS];
static int control = -1;
static int sigpipe[2];

static void die(const char *what)
{
	fprintf(stderr, "agent: %s: %s\n", what, strerror(errno));
	sync();
	reboot(RB_POWER_OFF);
	_exit(1);
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static void write_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;		/* the host is gone: it kills us */
		p += n;
		len -= n;
	}
}

static void __attribute__((format(printf, 1, 2))) reply(const char *fmt, ...)
{
	char line[LINE + 64];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	write_all(control, line, n);
}

/* Read exactly len bytes of a frame; the host sends whole frames. */
static void read_all(void *data, size_t len)
{
	char *p = data;

	while (len) {
		ssize_t n = read(control, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			die("control channel");
		p += n;
		len -= n;
	}
}

static void read_line(char *line)
{
	size_t n = 0;

	for (;;) {
		read_all(line + n, 1);
		if (line[n] == '\n')
			break;
		if (++n == LINE - 1)
			die("line too long");
	}
	line[n] = 0;
}

static struct job *job_by_id(unsigned int id)
{
	for (int i = 0; i < JOBS; i++)
		if (jobs[i].used && jobs[i].id == id)
			return &jobs[i];
	return NULL;
}

static void job_end(struct job *j)
{
	if (j->out >= 0)
		close(j->out);
	if (j->in >= 0)
		close(j->in);
	reply("X %u %d\n", j->id, j->status);
	j->used = 0;
}

static void child(const char *script, int in, int out)
{
	sigset_t none;

	setpgid(0, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	dup2(in, 0);
	dup2(out, 1);
	dup2(out, 2);
	execl("/bin/sh", "sh", "-c", script, (char *)NULL);
	_exit(127);
}

static void job_start(unsigned int id, const char *script)
{
	int in[2], out[2];
	struct job *j = NULL;

	for (int i = 0; i < JOBS && !j; i++)
		if (!jobs[i].used)
			j = &jobs[i];
	if (!j || pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC)) {
		reply("X %u 126\n", id);
		return;
	}
	*j = (struct job){ .used = 1, .id = id, .in = in[1], .out = out[0] };
	j->pid = fork();
	if (j->pid == 0)
		child(script, in[0], out[1]);
	close(in[0]);
	close(out[1]);
	if (j->pid < 0) {
		j->status = 126;
		job_end(j);
	}
}

/* Pass output on; at its end, or when there is none left, end the job. */
static void job_output(struct job *j)
{
	static char buf[65536];
	ssize_t n = read(j->out, buf, sizeof(buf));

	if (n > 0) {
		reply("O %u %zd\n", j->id, n);
		write_all(control, buf, n);
		return;
	}
	if (n < 0 && errno == EINTR)
		return;
	close(j->out);
	j->out = -1;
}

static void reap(void)
{
	char drop[64];
	int status;
	pid_t pid;

	while (read(sigpipe[0], drop, sizeof(drop)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (int i = 0; i < JOBS; i++) {
			struct job *j = &jobs[i];

			if (!j->used || j->pid != pid || j->exited)
				continue;
			j->exited = 1;
			j->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) :
							  WEXITSTATUS(status);
			j->drain_until = now_ms() + DRAIN_MS;
		}
	}
}

static void on_child(int sig)
{
	int saved = errno;

	(void)sig;
	if (write(sigpipe[1], "", 1) < 0)
		errno = 0;	/* full: a wake-up is pending anyway */
	errno = saved;
}

static void write_file(const char *path, unsigned int mode, size_t len)
{
	char *data = malloc(len + 1);
	int fd, err = 0;

	if (!data)
		die("out of memory");
	read_all(data, len);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	if (fd < 0) {
		err = errno;
	} else {
		write_all(fd, data, len);
		fchmod(fd, mode);
		close(fd);
	}
	free(data);
	reply("R %s %d\n", path, err);
}

static void quit(void)
{
	sync();
	reply("B\n");
	tcdrain(control);
	reboot(RB_POWER_OFF);
	_exit(0);
}

static void command(void)
{
	char line[LINE], path[LINE];
	unsigned int id, arg, len;
	struct job *j;

	read_line(line);
	if (sscanf(line, "S %u %u", &id, &len) == 2 && len < FRAME_MAX) {
		char *script = calloc(1, len + 1);

		if (!script)
			die("out of memory");
		read_all(script, len);
		job_start(id, script);
		free(script);
	} else if (sscanf(line, "I %u %u", &id, &len) == 2 && len <= LINE) {
		read_all(path, len);
		j = job_by_id(id);
		if (!j || j->in < 0)
			return;
		if (len)
			write_all(j->in, path, len);
		if (len)
			return;
		close(j->in);
		j->in = -1;
	} else if (sscanf(line, "K %u %u", &id, &arg) == 2) {
		j = job_by_id(id);
		if (j && !j->exited)
			kill(-j->pid, arg);
	} else if (sscanf(line, "F %s %o %u", path, &arg, &len) == 3 &&
		   len < FRAME_MAX) {
		write_file(path, arg, len);
	} else if (line[0] == 'P') {
		reply("%s\n", line);
	} else if (line[0] == 'Q') {
		quit();
	} else {
		errno = EPROTO;
		die(line);
	}
}

static void mount_one(const char *type, const char *where, const char *opts)
{
	mkdir(where, 0755);
	if (mount(type, where, type, 0, opts) && errno != EBUSY)
		fprintf(stderr, "agent: %s: %s\n", where, strerror(errno));
}

static void prepare(void)
{
	mount_one("proc", "/proc", NULL);
	mount_one("sysfs", "/sys", NULL);
	mount_one("devtmpfs", "/dev", NULL);
	mount_one("tmpfs", "/tmp", "mode=1777");
	mount_one("tmpfs", "/run", NULL);
	mount_one("tmpfs", "/dev/shm", "mode=1777");
	mount_one("devpts", "/dev/pts", "ptmxmode=666");
	mount_one("debugfs", "/sys/kernel/debug", NULL);
	mount_one("tracefs", "/sys/kernel/tracing", NULL);
	if (access("/dev/fd", F_OK) && symlink("/proc/self/fd", "/dev/fd"))
		fprintf(stderr, "agent: /dev/fd: %s\n", strerror(errno));
	setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin", 1);
	setenv("HOME", "/tmp", 1);
	/* The initramfs may bring steps of its own: modules for the console. */
	if (!access("/init.d/start", X_OK) && system("/init.d/start"))
		fprintf(stderr, "agent: /init.d/start failed\n");
}

/* Open the control port: it may take a while to appear (a module, a bus). */
static void open_control(void)
{
	char path[128] = "/dev/ttyS1", cmdline[4096], *p;
	struct termios t;
	int fd, n, tries;

	fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : (int)read(fd, cmdline, sizeof(cmdline) - 1);
	if (fd >= 0)
		close(fd);
	cmdline[n > 0 ? n : 0] = 0;
	p = strstr(cmdline, "vmportal.control=");
	if (p)
		sscanf(p, "vmportal.control=%100s", path);
	if (path[0] != '/') {
		memmove(path + 5, path, strlen(path) + 1);
		memcpy(path, "/dev/", 5);
	}
	for (tries = 0; tries < 200; tries++) {
		control = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (control >= 0)
			break;
		usleep(50000);
	}
	if (control < 0)
		die(path);
	if (!tcgetattr(control, &t)) {
		cfmakeraw(&t);
		cfsetspeed(&t, B115200);
		t.c_cflag |= CLOCAL | CREAD;
		t.c_cflag &= ~CRTSCTS;
		tcsetattr(control, TCSANOW, &t);
		tcflush(control, TCIOFLUSH);
	}
}

static void loop(void)
{
	struct pollfd fds[JOBS + 2];
	struct job *who[JOBS + 2];

	for (;;) {
		int n = 2, wait = -1;

		fds[0] = (struct pollfd){ .fd = control, .events = POLLIN };
		fds[1] = (struct pollfd){ .fd = sigpipe[0], .events = POLLIN };
		for (int i = 0; i < JOBS; i++) {
			struct job *j = &jobs[i];

			if (!j->used)
				continue;
			if (j->exited)
				wait = 20;
			if (j->out < 0)
				continue;
			who[n] = j;
			fds[n++] = (struct pollfd){ .fd = j->out, .events = POLLIN };
		}
		if (poll(fds, n, wait) < 0 && errno != EINTR)
			die("poll");
		for (int i = 2; i < n; i++)
			if (fds[i].revents)
				job_output(who[i]);
		if (fds[1].revents & POLLIN)
			reap();
		for (int i = 0; i < JOBS; i++) {
			struct job *j = &jobs[i];

			if (j->used && j->exited &&
			    (j->out < 0 || now_ms() > j->drain_until))
				job_end(j);
		}
		if (fds[0].revents & POLLIN)
			command();
		else if (fds[0].revents)
			die("control channel lost");
	}
}

int main(void)
{
	struct sigaction sa = { .sa_handler = on_child, .sa_flags = SA_RESTART | SA_NOCLDSTOP };
	struct utsname u;

	prepare();
	if (pipe2(sigpipe, O_NONBLOCK | O_CLOEXEC))
		die("pipe");
	sigaction(SIGCHLD, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	open_control();
	uname(&u);
	reply("H %s\n", u.release);
	loop();
}
