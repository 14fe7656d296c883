// SPDX-License-Identifier: MIT
/* A server on the socket that is not portald, or a bad one. */
#include "backends.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vmportal.h>

#include "portald/proto.h"

struct act {
	const char *word;
	int err;
	void (*play)(int sock);
};

static void send_msg(int sock, struct pd_msg m, size_t len, const int *fds, unsigned int n)
{
	union { char buf[CMSG_SPACE(sizeof(int) * 80)]; struct cmsghdr align; } u = { { 0 } };
	struct iovec v = { &m, len };
	struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1 };
	struct cmsghdr *c;

	if (n) {
		h.msg_control = u.buf;
		h.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
	}
	sendmsg(sock, &h, MSG_NOSIGNAL);
}

static int region(size_t size, bool seal)
{
	int fd = memfd_create("r", MFD_ALLOW_SEALING);

	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	if (seal)
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
	return fd;
}

static void welcome(int sock, size_t announced, size_t real, bool seal)
{
	int fd = region(real, seal);

	send_msg(sock, (struct pd_msg){ .type = PD_WELCOME, .id = 1, .arg = 2, .value = announced },
		 sizeof(struct pd_msg), &fd, 1);
	close(fd);
}

static void play_silence(int sock) { }
static void play_hangup(int sock) { shutdown(sock, SHUT_RDWR); }
static void play_short(int sock) { send_msg(sock, (struct pd_msg){ .type = PD_WELCOME }, 20, NULL, 0); }
static void play_no_region(int sock)
{
	send_msg(sock, (struct pd_msg){ .type = PD_WELCOME, .value = 4096 }, sizeof(struct pd_msg), NULL, 0);
}
static void play_refuse(int sock)
{
	send_msg(sock, (struct pd_msg){ .type = PD_REFUSE, .arg = EBUSY, .text = "all taken\n\033[31m" },
		 sizeof(struct pd_msg), NULL, 0);
}
static void play_too_short(int sock) { welcome(sock, 1 << 20, 4096, true); }
static void play_shrinkable(int sock) { welcome(sock, 4096, 4096, false); }
static void play_no_eventfd(int sock)
{
	int fd = open("/dev/zero", O_RDONLY);

	welcome(sock, 4096, 4096, true);
	send_msg(sock, (struct pd_msg){ .type = PD_PEER, .id = 1 }, sizeof(struct pd_msg), &fd, 1);
	close(fd);
}
static void play_vectors(int sock)
{
	int fd = eventfd(0, 0);

	welcome(sock, 4096, 4096, true);
	send_msg(sock, (struct pd_msg){ .type = PD_PEER, .id = 1, .arg = 7 }, sizeof(struct pd_msg), &fd, 1);
	close(fd);
}
static void play_high_id(int sock)
{
	welcome(sock, 4096, 4096, true);
	send_msg(sock, (struct pd_msg){ .type = PD_PEER, .id = 1U << 31 }, sizeof(struct pd_msg), NULL, 0);
}
static void play_unknown(int sock)
{
	welcome(sock, 4096, 4096, true);
	send_msg(sock, (struct pd_msg){ .type = 77 }, sizeof(struct pd_msg), NULL, 0);
}
static void play_gone(int sock)
{
	welcome(sock, 4096, 4096, true);
	send_msg(sock, (struct pd_msg){ .type = PD_GONE, .id = 1, .arg = 1U << 16 },
		 sizeof(struct pd_msg), NULL, 0);
}
static void play_gone_tenures(int sock)
{
	welcome(sock, 4096, 4096, true);
	send_msg(sock, (struct pd_msg){ .type = PD_GONE, .id = 1, .arg = 2, .value = 3 },
		 sizeof(struct pd_msg), NULL, 0);
}
static void play_twice(int sock)
{
	int fd = eventfd(0, 0), i;

	welcome(sock, 4096, 4096, true);
	for (i = 0; i < 2; i++)
		send_msg(sock, (struct pd_msg){ .type = PD_PEER, .id = 5 }, sizeof(struct pd_msg), &fd, 1);
	close(fd);
}

/* Nothing in it but descriptors: the end of the stream, and they are not kept. */
static void play_empty(int sock)
{
	int fd[32], i;

	welcome(sock, 4096, 4096, true);
	for (i = 0; i < 32; i++)
		fd[i] = eventfd(0, 0);
	send_msg(sock, (struct pd_msg){ 0 }, 0, fd, 32);
	for (i = 0; i < 32; i++)
		close(fd[i]);
}

/* Chatter without end in place of READY. */
static void play_chatter(int sock)
{
	int64_t until = now_us() + 13000000;
	struct pd_msg m = { .type = PD_GONE, .id = 3 };

	welcome(sock, 4096, 4096, true);
	while (now_us() < until && send(sock, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m))
		;
}

static void serve_and_hang_up(int sock)
{
	struct pd_msg hello;
	int fd[2] = { eventfd(0, EFD_NONBLOCK), eventfd(0, EFD_NONBLOCK) };

	(void)!recv(sock, &hello, sizeof(hello), 0);
	welcome(sock, 65536 + 4096, 65536 + 4096, true);
	send_msg(sock, (struct pd_msg){ .type = PD_PEER, .id = 1 }, sizeof(struct pd_msg), fd, 2);
	send_msg(sock, (struct pd_msg){ .type = PD_READY }, sizeof(struct pd_msg), NULL, 0);
	usleep(100000);
	shutdown(sock, SHUT_WR);
	usleep(100000);
}

static void play_unasked(int sock)
{
	int fd = region(4096, true);

	welcome(sock, 4096, 4096, true);
	send_msg(sock, (struct pd_msg){ .type = PD_SESSION, .value = 1 << 16 }, sizeof(struct pd_msg),
		 &fd, 1);
	close(fd);
}
static void play_unasked_fence(int sock)
{
	welcome(sock, 4096, 4096, true);
	send_msg(sock, (struct pd_msg){ .type = PD_FENCE }, sizeof(struct pd_msg), NULL, 0);
}

static int listen_at(const char *path, int type)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int l = socket(AF_UNIX, type, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	assert_int_equal(bind(l, (struct sockaddr *)&a, sizeof(a)), 0);
	listen(l, 5);
	return l;
}

static void perform_once(const int *a)
{
	extern const struct act acts[];
	int sock = accept(a[0], NULL, NULL);
	struct pd_msg hello;

	if (recv(sock, &hello, sizeof(hello), 0) == sizeof(hello))
		acts[a[1]].play(sock);
	/* The client must end it, or be out of patience. */
	while (recv(sock, &hello, sizeof(hello), 0) > 0)
		;
	close(sock);
}

static void *perform(void *arg)
{
	extern const struct act acts[];
	int *a = arg, again;

	perform_once(a);
	/* Hung up on before the first word it comes five times more: portald may be back. */
	for (again = 0; acts[a[1]].play == play_hangup && again < 5; again++)
		perform_once(a);
	return NULL;
}

extern const struct act acts[];
const struct act acts[] = {
	{ "try again", -EPROTO, play_hangup },
	{ "not portald's protocol", -EPROTO, play_short },
	{ "not portald's", -EPROTO, play_no_region },
	{ "all taken??[31m", -EBUSY, play_refuse },
	{ "not as many", -EPROTO, play_too_short },
	{ "not sealed", -EPROTO, play_shrinkable },
	{ "broke the protocol", -EPROTO, play_no_eventfd },
	{ "broke the protocol", -EPROTO, play_vectors },
	{ "broke the protocol", -EPROTO, play_high_id },
	{ "broke the protocol", -EPROTO, play_unknown },
	{ "broke the protocol", -EPROTO, play_twice },
	{ "broke the protocol", -EPROTO, play_gone },
	{ "broke the protocol", -EPROTO, play_gone_tenures },
	{ "answer (type", -EPROTO, play_unasked },
	{ "answer (type", -EPROTO, play_unasked_fence },
	{ "hung up during the greeting", -EPROTO, play_empty },
	{ "does not come to an end", -ETIMEDOUT, play_chatter },
	{ "not back yet after a restart", -ETIMEDOUT, play_silence },
};

static void hostile_servers(void **state)
{
	int before = fd_count(), arg[2];
	pthread_t t;

	arg[0] = listen_at(in_dir("DIR/bad.sock"), SOCK_SEQPACKET);
	/* The last takes all of the client's patience, 10 seconds: once is enough. */
	for (arg[1] = 0; arg[1] < (int)(sizeof(acts) / sizeof(acts[0])) - SANITIZED; arg[1]++) {
		pthread_create(&t, NULL, perform, arg);
		refused(in_dir("unix:DIR/bad.sock"), 0, acts[arg[1]].err, acts[arg[1]].word);
		pthread_join(t, NULL);
	}
	close(arg[0]);
	refused(in_dir("unix:DIR/bad.sock"), 0, -ECONNREFUSED, "nobody serves");
	unlink(in_dir("DIR/bad.sock"));
	arg[0] = listen_at(in_dir("DIR/bad.sock"), SOCK_STREAM);
	refused(in_dir("unix:DIR/bad.sock"), 0, -EPROTO, "ivshmem");
	close(arg[0]);
	assert_int_equal(fd_count(), before);
}

/*
 * portald hangs up on a client that it is angry with, and goes on: the client keeps its
 * socket, and so its id, for as long as it may be rung by it.
 */
static void id_is_kept_to_the_end(void **state)
{
	const char *uri = in_dir("unix:DIR/bad2.sock");
	struct vmp_channel *ch;
	struct pollfd f;
	int l, s, fl, looked[2];
	struct vmp *p;
	pid_t pid;
	char c;

	assert_int_equal(pipe(looked), 0);
	l = listen_at(uri + 5, SOCK_SEQPACKET);
	pid = fork();
	if (!pid) {
		alarm(ALARM_S);
		s = accept(l, NULL, NULL);
		serve_and_hang_up(s);
		/* The client may end its own side only when it closes the portal. */
		fl = (int)recv(s, &c, 1, MSG_DONTWAIT);
		if (!(fl < 0 && errno == EAGAIN))
			_exit(1);
		usleep(300000);
		fl = (int)recv(s, &c, 1, MSG_DONTWAIT);
		if (!(fl < 0 && errno == EAGAIN))
			_exit(2);
		if (write(looked[1], "", 1) != 1)
			_exit(4);
		_exit(recv(s, &c, 1, 0) == 0 ? 0 : 3);
	}
	assert_int_equal(vmp_open(&p, uri, 0), 0);
	ch = side_of(p, 0);
	close(looked[1]);
	f = (struct pollfd){ looked[0], POLLIN, 0 };
	do {
		assert_int_equal(vmp_recv(ch, &c, 1, 100), -ETIMEDOUT);
	} while (!poll(&f, 1, 0));
	close(looked[0]);
	vmp_channel_close(ch);
	vmp_close(p);
	assert_int_equal(waitpid(pid, &fl, 0), pid);
	assert_int_equal(fl, 0);
	close(l);
}

static void *serve_late(void *arg)
{
	int *l = arg, s = accept(*l, NULL, NULL);

	close(s);
	usleep(2500000);
	s = accept(*l, NULL, NULL);
	serve_and_hang_up(s);
	close(s);
	return NULL;
}

/* A portald that is killed when it has accepted, and takes its time to come again. */
static void cut_before_the_first_word(void **state)
{
	const char *uri = in_dir("unix:DIR/late.sock");
	struct vmp *p;
	pthread_t t;
	int l;

	l = listen_at(uri + 5, SOCK_SEQPACKET);
	pthread_create(&t, NULL, serve_late, &l);
	assert_int_equal(vmp_open(&p, uri, 0), 0);
	vmp_close(p);
	pthread_join(t, NULL);
	close(l);
}

/* Two clients, and for the first of them much to read at once. */
struct two {
	int l, sock[2], go[2];
};

static void *serve_two(void *arg)
{
	struct two *t = arg;
	int fd = region(1 << 20, true), big = 4 << 20, bell[2], i;
	struct pd_msg m;

	for (i = 0; i < 2; i++) {
		bell[0] = eventfd(0, EFD_NONBLOCK);
		bell[1] = eventfd(0, EFD_NONBLOCK);
		t->sock[i] = accept(t->l, NULL, NULL);
		setsockopt(t->sock[i], SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof(big));
		(void)!recv(t->sock[i], &m, sizeof(m), 0);
		send_msg(t->sock[i], (struct pd_msg){ .type = PD_WELCOME, .id = i + 1, .arg = 2,
			 .value = 1 << 20 }, sizeof(m), &fd, 1);
		send_msg(t->sock[i], (struct pd_msg){ .type = PD_PEER, .id = i + 1, .value = i + 1 },
			 sizeof(m), bell, 2);
		send_msg(t->sock[i], (struct pd_msg){ .type = PD_READY }, sizeof(m), NULL, 0);
		close(bell[0]);
		close(bell[1]);
	}
	(void)!read(t->go[0], &i, 1);
	for (i = 0; i < 1000; i++)
		send_msg(t->sock[0], (struct pd_msg){ .type = PD_READY }, sizeof(m), NULL, 0);
	send_msg(t->sock[0], (struct pd_msg){ .type = PD_GONE, .id = 2, .arg = 2, .value = 2 },
		 sizeof(m), NULL, 0);
	close(fd);
	return NULL;
}

/* A sleeper reads all that there is, though not all at once. */
static void much_to_read(void **state)
{
	const char *uri = in_dir("unix:DIR/two.sock");
	struct vmp_channel *ch[2];
	struct vmp *p[2];
	struct two t;
	pthread_t id;
	char c;
	int i;

	t.l = listen_at(uri + 5, SOCK_SEQPACKET);
	assert_int_equal(pipe(t.go), 0);
	pthread_create(&id, NULL, serve_two, &t);
	for (i = 0; i < 2; i++)
		assert_int_equal(vmp_open(&p[i], uri, 0), 0);
	for (i = 0; i < 2; i++)
		ch[i] = side_of(p[i], (unsigned int)i);
	for (i = 0; i < 10; i++)
		vmp_channel_connect(ch[i & 1], 0);
	assert_int_equal(vmp_channel_connect(ch[0], 0), 0);
	assert_int_equal(write(t.go[1], "x", 1), 1);
	pthread_join(id, NULL);
	assert_int_equal(vmp_recv(ch[0], &c, 1, PATIENCE_MS), -ECONNRESET);
	for (i = 0; i < 2; i++) {
		vmp_channel_close(ch[i]);
		vmp_close(p[i]);
		close(t.sock[i]);
		close(t.go[i]);
	}
	close(t.l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hostile_servers),
		cmocka_unit_test(id_is_kept_to_the_end),
		cmocka_unit_test(cut_before_the_first_word),
		cmocka_unit_test(much_to_read),
	};

	alarm(ALARM_S);
	return cmocka_run_group_tests_name("servers", tests, set_up, tear_down);
}
