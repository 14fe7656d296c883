// SPDX-License-Identifier: MIT
/*
 * sandbox DEVICE [OTHER]: a process that has nothing but one window uses a channel
 * through it, and reaches nothing else.
 *
 * It is another user, without capabilities or new privileges, in a root directory that
 * is empty, in a mount name space of its own, and a seccomp filter keeps it from opening
 * anything. Its window comes by SCM_RIGHTS. The other end of the channel is opened on
 * OTHER (the other end of a loopback pair, or DEVICE itself). Uses libvmportal at both
 * ends. Writes to the region; nobody else may use it. TAP; exit status 0 or 1.
 */
#include "guest.h"

#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <vmportal.h>

#ifndef SYS_openat2
#define SYS_openat2	437
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open	434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd	438
#endif

#define K64		65536UL
#define AT		(2 * K64)	/* the window, in the region */
#define LENGTH		(4 * K64)
#define NOBODY		65534
#define MESSAGES	400
#define SLOW		40	/* of them, so far apart that the receiver sleeps */
#define CANARY		0x5a

static const char *device, *other;
static struct portal_info info;
static bool bells;	/* doorbells, and a vector for each end */
static pid_t parent;

/* What the confined process found: "1 name", "0 name" or "s name" lines, which become points. */
static FILE *report;

static void tell(bool good, const char *name)
{
	fprintf(report, "%d %s (errno %d)\n", good, name, errno);
	fflush(report);
}

static void relay(FILE *f)
{
	char line[256];

	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		errno = 0;
		if (line[0] == 's')
			skip(line + 2, "this kernel has none");
		else
			ok(line[0] == '1', "%s", line + 2);
	}
}

static bool send_fd(int sock, int fd)
{
	char byte = 'w', room[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = "";
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room,
			    .msg_controllen = sizeof(room) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	return sendmsg(sock, &m, 0) == 1;
}

static int receive_fd(int sock)
{
	char byte, room[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room,
			    .msg_controllen = sizeof(room) };
	struct cmsghdr *c;
	int fd;

	if (recvmsg(sock, &m, MSG_CMSG_CLOEXEC) != 1)
		return -1;
	c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

/* ---- Confinement ------------------------------------------------------------------ */

#define REFUSE(nr)								\
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1),			\
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)

/* Whatever opens, or reaches into another process. */
static int filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
#ifdef SYS_open
		REFUSE(SYS_open), REFUSE(SYS_creat),
#endif
		REFUSE(SYS_openat), REFUSE(SYS_openat2), REFUSE(SYS_open_by_handle_at),
		REFUSE(SYS_socket), REFUSE(SYS_connect), REFUSE(SYS_ptrace),
		REFUSE(SYS_process_vm_readv), REFUSE(SYS_process_vm_writev),
		REFUSE(SYS_pidfd_getfd), REFUSE(SYS_execve), REFUSE(SYS_execveat),
		REFUSE(SYS_mount), REFUSE(SYS_unshare), REFUSE(SYS_setns),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(code) / sizeof(code[0]), code };

	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static int become_nobody(void)
{
	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY))
		return -1;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* An empty root, of which even the directory may not be written. */
static int empty_root(void)
{
	if (unshare(CLONE_NEWNS))
		return -1;
	mkdir("/tmp", 01777);
	mkdir("/tmp/empty", 0555);
	/* The initial root of a guest is shared with nobody; elsewhere it may be. */
	mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	return chroot("/tmp/empty") || chdir("/") ? -1 : 0;
}

/* All descriptors but these two and the standard ones. */
static void close_others(int a, int b)
{
	int fd;

	for (fd = 3; fd < 256; fd++)
		if (fd != a && fd != b)
			close(fd);
}

/* ---- Inside ----------------------------------------------------------------------- */

/* Only as another user: the device and the parent are in sight, and out of reach. */
static void peek_around(int sock, int parents_fd)
{
	char path[64];
	int fd = receive_fd(sock), pidfd;

	tell(fd >= 0 && get_info(fd).region_size == LENGTH, "another user has the window");
	tell(open(device, O_RDONLY) < 0 && errno == EACCES, "he may not open the device");
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", parent, parents_fd);
	tell(open(path, O_RDWR) < 0, "nor the device's file of the process that made it");
	snprintf(path, sizeof(path), "/proc/%d/mem", parent);
	tell(open(path, O_RDWR) < 0, "nor its memory");
	tell(ptrace(PTRACE_ATTACH, parent, 0, 0) < 0 && errno == EPERM, "nor trace it");
	pidfd = syscall(SYS_pidfd_open, parent, 0);
	tell(syscall(SYS_pidfd_getfd, pidfd, parents_fd, 0) < 0, "nor take its descriptor");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	tell(open(path, O_RDWR) < 0 && open(path, O_RDONLY) < 0, "nor open the window again");
}

/* Sends back what comes, until the other end closes. */
static void echo(struct vmp_channel *ch)
{
	static char buf[65536];
	unsigned int n = 0;
	ssize_t len;

	while ((len = vmp_recv(ch, buf, sizeof(buf), 20000)) >= 0) {
		if (vmp_send(ch, buf, len, 0, 20000))
			break;
		n++;
	}
	tell(len == -EPIPE && n == MESSAGES, "confined: echoes all messages through the window");
	if (len != -EPIPE || n != MESSAGES)
		fprintf(report, "0 after %u: %zd, %s\n", n, len, vmp_errmsg());
}

/* It may ring vector 0 of everybody, and nothing else. */
static void ring_all(int fd)
{
	uint32_t peer, vector, wrong = 0;

	for (peer = 0; peer < 20; peer++) {
		for (vector = 0; vector < 20; vector++) {
			bool rang = !ring(fd, peer, vector);

			wrong += vector ? rang || errno != EACCES : !rang && errno != ENXIO;
		}
	}
	tell(!wrong, "confined: rings what it was given, and nothing else");
}

static void confined(int sock)
{
	struct vmp_window_opts wider = { .size = sizeof(wider), .length = 2 * LENGTH };
	struct vmp_channel *ch;
	struct vmp_info i;
	struct vmp *p;
	char uri[16];
	void *base;
	size_t size;
	int fd;

	tell(open(device, O_RDONLY) < 0, "confined: there is no device");
	fd = receive_fd(sock);
	snprintf(uri, sizeof(uri), "fd:%d", fd);
	if (vmp_open(&p, uri, 0) || vmp_channel_open(&ch, p, &(struct vmp_channel_opts){
			.size = sizeof(struct vmp_channel_opts), .side = 1, .vector = bells })) {
		fprintf(report, "0 confined: %s\n", vmp_errmsg());
		return;
	}
	vmp_get_info(p, &i, sizeof(i));
	tell(i.caps & VMP_CAP_WINDOW && i.size == LENGTH && i.first_vector == (bells ? 1 : 0) &&
	     i.mode == VMP_MODE_RAW, "confined: fd:N is a window of the size given");
	tell(vmp_window(p, &wider) == -EINVAL, "confined: no window of it is wider");
	if (bells) {
		struct vmp_channel *none;

		wider.length = K64;
		wider.wait = 1;
		tell(vmp_window(p, &wider) == -EACCES, "confined: nor hears more");
		tell(vmp_channel_open(&none, p, &(struct vmp_channel_opts){
				.size = sizeof(struct vmp_channel_opts), .side = 1 }) == -EACCES &&
		     strstr(vmp_errmsg(), "window"), "confined: nor sleeps on another vector");
		wider.wait = 0;
		wider.ring = 2;
		wider.peer = VMP_PEER_ANY;
		tell(vmp_window(p, &wider) == -EACCES, "confined: nor rings more");
	}
	echo(ch);
	if (bells) {
		struct vmp_stats st;

		vmp_channel_stats(ch, &st, sizeof(st));
		tell(st.wakeups && st.doorbells, "confined: slept, was woken, and rang");
		ring_all(fd);
	}
	vmp_channel_close(ch);
	/* Every byte that it can reach. */
	vmp_map(p, &base, &size);
	memset(base, 0xff, size);
	vmp_close(p);
	tell(size == LENGTH, "confined: overwrites all of its window");
}

/* ---- Outside ---------------------------------------------------------------------- */

static int make_window(void)
{
	struct vmp_window_opts o = {
		.size = sizeof(o), .offset = AT, .length = LENGTH, .peer = VMP_PEER_ANY,
		.wait = bells ? 2 : 0, .ring = bells ? 1 : 0,
	};
	struct vmp *p;
	int fd;

	if (vmp_open(&p, device, 0)) {
		printf("# %s\n", vmp_errmsg());
		die(device);
	}
	fd = vmp_window(p, &o);
	ok(fd >= 0, "vmp_window(): %s", fd < 0 ? vmp_errmsg() : "a descriptor");
	/* It needs neither the portal nor its maker. */
	vmp_close(p);
	return fd;
}

/* The other side of the channel: whole, as far as it goes. */
static bool converse(void)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .offset = AT, .length = LENGTH };
	static char out[28000], in[28000];
	struct vmp_channel *ch;
	struct vmp *p;
	unsigned int i, wrong = 0;

	if (vmp_open(&p, other, 0) || vmp_channel_open(&ch, p, &o)) {
		printf("# %s\n", vmp_errmsg());
		return false;
	}
	for (i = 0; i < MESSAGES && !wrong; i++) {
		size_t len = i * 7919 % sizeof(out);
		ssize_t got;

		memset(out, i + 1, len);
		if (i < SLOW)
			usleep(5000);
		wrong += vmp_send(ch, out, len, 0, 20000) != 0;
		got = vmp_recv(ch, in, sizeof(in), 20000);
		wrong += got != (ssize_t)len || memcmp(in, out, len);
	}
	if (wrong)
		printf("# message %u: %s\n", i, vmp_errmsg());
	vmp_channel_close(ch);
	vmp_close(p);
	return !wrong;
}

static size_t changed(const unsigned char *m, size_t from, size_t to)
{
	size_t n = 0;

	for (; from < to; from++)
		n += m[from] != CANARY;
	return n;
}

/* Runs inside() in a child with a socket; its report is relayed; the child's status. */
static pid_t spawn(bool jail, int fd, FILE **from)
{
	int pair[2], pipes[2];
	pid_t child;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || pipe(pipes))
		die("socketpair");
	child = fork();
	if (child) {
		close(pair[1]);
		close(pipes[1]);
		ok(send_fd(pair[0], fd), "the window is passed on");
		close(pair[0]);
		*from = fdopen(pipes[0], "r");
		return child;
	}
	close_others(pair[1], pipes[1]);
	report = fdopen(pipes[1], "w");
	alarm(4 * 90);
	if ((jail && empty_root()) || become_nobody()) {
		tell(false, "the confinement");
		_exit(1);
	}
	if (jail && filter()) {
		if (errno != EINVAL)
			tell(false, "a seccomp filter");
		else
			fprintf(report, "s a seccomp filter\n");
	}
	if (jail)
		confined(pair[1]);
	else
		peek_around(pair[1], fd);
	_exit(0);
}

static int status_of(pid_t child)
{
	int status = -1;

	waitpid(child, &status, 0);
	return status;
}

int main(int argc, char **argv)
{
	unsigned char *whole;
	int fd, listen;
	FILE *from;
	size_t size;
	pid_t child;

	start(120);
	device = argc > 1 ? argv[1] : "/dev/portal0";
	other = argc > 2 ? argv[2] : device;
	parent = getpid();
	listen = open_portal(other, O_RDWR | O_NONBLOCK);
	info = get_info(listen);
	bells = info.vectors >= 2 && info.caps & PORTAL_CAP_DOORBELL;
	size = info.region_size;
	if (size < AT + LENGTH)
		die("the region is too small");
	whole = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, listen, 0);
	if (whole == MAP_FAILED)
		die("mmap");
	memset(whole, CANARY, size);

	fd = make_window();
	child = spawn(false, fd, &from);
	relay(from);
	ok(!status_of(child), "another user ends");

	child = spawn(true, fd, &from);
	ok(converse(), "%d messages to a confined process and back", MESSAGES);
	relay(from);
	ok(!status_of(child), "the confined process ends");
	ok(!changed(whole, 0, AT) && !changed(whole, AT + LENGTH, size),
	   "outside its window no byte has changed");
	ok(changed(whole, AT, AT + LENGTH) == LENGTH, "and inside each");
	if (bells) {
		struct portal_event ev[16];
		ssize_t n = wait_for(listen, POLLIN, 300) ? read(listen, ev, sizeof(ev)) : 0;
		size_t i, strays = 0;

		/* Where both ends are one portal, the window's own vector is heard too. */
		for (i = 0; n > 0 && i < n / sizeof(ev[0]); i++)
			strays += ev[i].vector > (strcmp(device, other) ? 0 : 1);
		ok(n > 0 && !strays, "no vector was rung that it may not ring");
	} else {
		skip("no vector was rung that it may not ring", "no doorbells, or one vector only");
	}
	close(fd);
	return done();
}
