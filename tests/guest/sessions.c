// SPDX-License-Identifier: MIT
/*
 * sessions DEVICE OTHER: sessions of a managed portal: who has one, and when it is over.
 *
 * OTHER shows the same memory, and is raw: through it this program looks at the tables as
 * another machine would. It formats the region, and leaves DEVICE raw. (Rows of machines:
 * peers.c.) TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "children.h"
#include "machine.h"

#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static char *self;

static void *map(int file, uint64_t offset, int prot)
{
	return mmap(NULL, page, prot, MAP_SHARED, file, (off_t)offset);
}

static bool dead_within(uint64_t token, int ms)
{
	return UNTIL(token_state(tables, token) == PORTAL_LIFE_DEAD, ms);
}

/* ---- Processes that do one thing --------------------------------------------------- */

static uint64_t own_file(int file)
{
	(void)file;
	return token_of(open_portal(device, O_RDWR));
}

static uint64_t error_of(int file)
{
	return session(file, 0, PORTAL_SESSION_SILENT, NULL) ? errno : 0;
}

/* ---- Begin, again, end ---------------------------------------------------------------- */

static void test_arguments(void)
{
	int ro = open_portal(device, O_RDONLY), wo = open_portal(device, O_WRONLY);
	struct portal_info i = get_info(fd);

	fails(session(fd, 2, PORTAL_SESSION_SILENT, NULL), EOPNOTSUPP, "an undefined flag");
	fails(session(ro, 0, PORTAL_SESSION_SILENT, NULL), EACCES, "a read-only file");
	fails(session(wo, 0, PORTAL_SESSION_SILENT, NULL), EACCES, "a write-only file");
	fails(session(fd, 0, i.vectors, NULL), EINVAL, "the vector behind the last");
	fails(session(fd, 0, 0xfffffffe, NULL), EINVAL, "vector 2^32-2");
	fails(session(fd, PORTAL_SESSION_END, 0, NULL), ENOENT, "an end without a begin");
	close(ro);
	close(wo);
}

static uint64_t fdinfo_token(int file)
{
	unsigned long long token = 0;
	char text[1000];
	ssize_t n;
	int about;

	snprintf(text, sizeof(text), "/proc/self/fdinfo/%d", file);
	about = open(text, O_RDONLY);
	n = read(about, text, sizeof(text) - 1);
	close(about);
	text[n < 0 ? 0 : n] = 0;
	if (strstr(text, "portal-session:"))
		sscanf(strstr(text, "portal-session:"), "portal-session: %llu", &token);
	return token;
}

static void test_begin(void)
{
	int again = open_portal(device, O_RDWR);
	int w = plain_window(fd, PORTAL_WINDOW_WRITE, DATA, PORTAL_UNIT);
	volatile struct portal_session *row;
	struct portal_session_begin b, c;

	if (!ok(!session(fd, 0, PORTAL_SESSION_SILENT, &b) && b.token, "a session"))
		exit(done());
	row = session_row(tables, b.token & 0xffff);
	ok(b.incarnation == super_good(0).incarnation, "the superblock's incarnation");
	ok(b.peer && (b.token & 0xffff) / SUPER_SESSIONS == b.peer, "in this machine's block");
	ok(alive(b.token), "its row is alive");
	ok(row->pid == (uint32_t)getpid() && row->uid == getuid() &&
	   !strcmp((char *)row->name, "sessions"), "and says whose it is");
	ok(row->claim == peer_row(tables, b.peer)->claim && row->address == get_info(fd).peer_id,
	   "of which life of this machine");
	ok(row->vector == PORTAL_VECTOR_NONE, "not to be rung");
	ok(!session(fd, 0, 0, &c) && c.token == b.token && row->vector == 0, "a vector later");
	ok(!session(again, 0, 1, &c) && c.token == b.token && row->vector == 0,
	   "by another file: the same, with the first vector");
	ok(!session(w, 0, PORTAL_SESSION_SILENT, &c) && c.token == b.token, "by a window, too");
	fails(session(w, 0, 0, NULL), EINVAL, "a vector that the window does not have");
	ok(fdinfo_token(fd) == b.token && fdinfo_token(w) == b.token, "which /proc/self/fdinfo shows");

	ok(!session(fd, PORTAL_SESSION_END, 0, NULL) && alive(b.token), "one file needs it no more");
	close(w);
	ok(alive(b.token), "a window is closed");
	close(again);
	ok(token_state(tables, b.token) == PORTAL_LIFE_DEAD, "the last file is closed: over");
	ok(!session(fd, 0, PORTAL_SESSION_SILENT, &c) && c.token != b.token && alive(c.token),
	   "the next is another");
	ok((c.token & 0xffff) != (b.token & 0xffff) || c.token > b.token, "of a higher sequence");
	ok(!session(fd, PORTAL_SESSION_END, 0, NULL) &&
	   token_state(tables, c.token) == PORTAL_LIFE_DEAD, "over, because it says so");
	fails(session(fd, PORTAL_SESSION_END, 0, NULL), ENOENT, "twice");
}

static void test_mapped_end(void)
{
	uint64_t token = token_of(fd);
	char *m = map(fd, DATA, PROT_READ | PROT_WRITE);
	char *t = map(fd, 0, PROT_READ);

	fails(session(fd, PORTAL_SESSION_END, 0, NULL), EBUSY, "the end, while mapped writable");
	ok(alive(token), "alive still");
	munmap(m, page);
	ok(!session(fd, PORTAL_SESSION_END, 0, NULL), "tables may stay mapped");
	ok(token_state(tables, token) == PORTAL_LIFE_DEAD, "over");
	munmap(t, page);
}

/* A mapping holds the file, so its session: close() alone ends nothing. */
static void test_closed_but_mapped(void)
{
	int file = open_portal(device, O_RDWR);
	uint64_t token = token_of(file);
	char *m = map(file, DATA, PROT_READ | PROT_WRITE);

	close(file);
	ok(alive(token), "closed, but mapped: alive");
	*m = 1;
	munmap(m, page);
	ok(dead_within(token, 2000), "unmapped: over");
}

/* The row speaks for the process, so a mapping by whatever file holds the session. */
static void test_other_files(void)
{
	int a = open_portal(device, O_RDWR), b = open_portal(device, O_RDWR), c;
	uint64_t token = token_of(a);
	char *m = map(b, DATA, PROT_READ | PROT_WRITE), *n;
	int w;

	*m = 1;
	close(a);
	usleep(300000);
	ok(alive(token), "what asked is closed, another file is mapped writable: alive");
	c = open_portal(device, O_RDWR);
	ok(token_of(c) == token, "who asks again has the same");
	close(c);
	ok(alive(token), "closed again: alive");
	munmap(m, page);
	ok(dead_within(token, 3000), "unmapped: over, though the other file is open");

	w = plain_window(b, PORTAL_WINDOW_WRITE, DATA, PORTAL_UNIT);
	m = map(w, 0, PROT_READ);
	n = map(b, DATA, PROT_READ | PROT_WRITE);
	a = open_portal(device, O_RDWR);
	token = token_of(a);
	fails(session(a, PORTAL_SESSION_END, 0, NULL), EBUSY, "mapped before, through others: no end");
	munmap(n, page);
	fails(session(a, PORTAL_SESSION_END, 0, NULL), EBUSY, "nor through a window that could be made writable");
	close(a);
	close(w);
	usleep(300000);
	ok(alive(token), "all are closed that asked, and the window: alive");
	munmap(m, page);
	ok(dead_within(token, 3000), "the window unmapped: over");
	close(b);
}

/* Held by a mapping alone, of a file that is closed with it: nobody else has the portal then. */
static uint64_t maps_another(int file)
{
	uint64_t token;

	file = open_portal(device, O_RDWR);
	token = token_of(file);
	if (map(open_portal(device, O_RDWR), DATA, PROT_READ | PROT_WRITE) == MAP_FAILED)
		return 0;
	close(file);
	return token;
}

static void test_other_files_killed(void)
{
	struct child c = start_child(maps_another, -1);

	usleep(300000);
	ok(alive(c.token), "a process that has mapped another file than it asked by: alive");
	end_child(&c, true);
	ok(token_state(tables, c.token) == PORTAL_LIFE_DEAD, "killed: over");
}

/* ---- One process ------------------------------------------------------------------------ */

static uint64_t maps_writable(int file)
{
	void *m = map(file, DATA, PROT_READ | PROT_WRITE);

	return m == MAP_FAILED ? errno : 0;
}

static uint64_t maps_readable(int file)
{
	char *m = map(file, DATA, PROT_READ);

	if (m == MAP_FAILED)
		return errno;
	return mprotect(m, page, PROT_READ | PROT_WRITE) ? 0 : 1;
}

static char *inherited;

static uint64_t touches_inherited(int file)
{
	uint32_t got;

	(void)file;
	return touch(inherited, -1, &got);
}

static void test_exclusive(void)
{
	int file = open_portal(device, O_RDWR);
	struct child c;

	ok(alive(token_of(file)), "a session, and a mapping");
	inherited = map(file, DATA, PROT_READ | PROT_WRITE);
	*inherited = 1;
	c = start_child(touches_inherited, file);
	ok(c.token == SIGSEGV, "a mapping is not inherited by fork()");
	end_child(&c, false);
	fails(madvise(inherited, page, MADV_DOFORK), EINVAL, "nor made so: MADV_DOFORK");
	munmap(inherited, page);

	c = start_child(maps_writable, file);
	ok(c.token == EACCES, "another process may not map that file writable");
	end_child(&c, false);
	c = start_child(maps_readable, file);
	ok(c.token == 0, "but readable, for good");
	end_child(&c, false);
	c = start_child(error_of, file);
	ok(c.token == EBUSY, "nor ask for a session through it");
	end_child(&c, false);
	ok(!session(file, PORTAL_SESSION_END, 0, NULL), "over");

	c = start_child(maps_writable, file);
	ok(c.token == 0, "without a session another process may map it");
	fails(session(file, 0, PORTAL_SESSION_SILENT, NULL), EBUSY, "and then no session begins");
	end_child(&c, true);
	ok(token_of(file) != 0, "until that one is gone");
	ok(!session(file, PORTAL_SESSION_END, 0, NULL), "over");

	/* The one that mapped it first goes first. */
	c = start_child(maps_writable, file);
	inherited = map(file, DATA, PROT_READ | PROT_WRITE);
	end_child(&c, true);
	ok(token_of(file) != 0, "two map it, one goes: the other may ask");
	munmap(inherited, page);
	close(file);
}

/* ---- Every way to end -------------------------------------------------------------------- */

/* The file is the parent's, who keeps it. */
static void test_kill(void)
{
	int file = open_portal(device, O_RDWR), i;

	for (i = 0; i < 2; i++) {
		struct child c = start_child(token_of, file);

		ok(alive(c.token), "a child asks through a file of its parent's");
		end_child(&c, i);
		ok(token_state(tables, c.token) == PORTAL_LIFE_DEAD, "over when it %s, though the file is open",
		   i ? "was killed" : "exits");
	}
	ok(token_of(file) != 0, "then its parent may ask through that file");
	close(file);
}

static uint64_t with_grandchild(int file)
{
	uint64_t token = token_of(file);

	if (!fork()) {
		/* Holds descriptors and all; ends by the pipe. */
		close(STDOUT_FILENO);
		sleep(30);
		_exit(0);
	}
	return token;
}

static void test_living_child(void)
{
	struct child c = start_child(with_grandchild, open_portal(device, O_RDWR));

	ok(alive(c.token), "a process with a child");
	end_child(&c, true);
	ok(token_state(tables, c.token) == PORTAL_LIFE_DEAD, "over when it is killed, though its child lives");
}

static int stray[2];

static uint64_t into_socket(int file)
{
	uint64_t token = token_of(file);
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec byte = { &token, 1 };
	struct msghdr m = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = control,
			    .msg_controllen = sizeof(control) };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);

	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &file, sizeof(int));
	return sendmsg(stray[0], &m, 0) == 1 ? token : 0;
}

static uint64_t into_socket_own(int file)
{
	(void)file;
	return into_socket(open_portal(device, O_RDWR));
}

static void test_stray(void)
{
	struct child c;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, stray))
		die("socketpair");
	c = start_child(into_socket_own, -1);
	ok(alive(c.token), "a descriptor on its way through a socket");
	end_child(&c, true);
	ok(token_state(tables, c.token) == PORTAL_LIFE_DEAD, "over, though nobody will ever receive it");
	close(stray[0]);
	close(stray[1]);
}

/* exec: the program ends, the process and its descriptor do not. */
static void test_exec(void)
{
	int file = open_portal(device, O_RDWR), out[2], in[2];
	uint64_t token[2] = { 0 };
	char number[16];
	pid_t pid;

	fcntl(file, F_SETFD, 0);
	snprintf(number, sizeof(number), "%d", file);
	if (pipe(out) || pipe(in))
		die("pipe");
	pid = fork();
	if (!pid) {
		token[0] = token_of(file);
		if (write(out[1], &token[0], 8) != 8 || dup2(out[1], 1) < 0 || dup2(in[0], 0) < 0)
			_exit(1);
		execl(self, self, "--after-exec", number, NULL);
		_exit(1);
	}
	if (read(out[0], &token[0], 8) != 8 || read(out[0], &token[1], 8) != 8)
		die("what the child says");
	ok(token[0] && token_state(tables, token[0]) == PORTAL_LIFE_DEAD, "over at exec()");
	ok(token[1] && token[1] != token[0] && alive(token[1]), "the new program has one of its own");
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	ok(token_state(tables, token[1]) == PORTAL_LIFE_DEAD, "over");
	close(file);
	close(out[0]), close(out[1]), close(in[0]), close(in[1]);
}

static int after_exec(int file)
{
	uint64_t token = token_of(file);

	if (write(1, &token, 8) != 8)
		return 1;
	return read(0, &token, 1) < 0;
}

/* ---- Threads -------------------------------------------------------------------------------- */

static void *asks(void *file)
{
	uint64_t *token = malloc(sizeof(*token));

	*token = token_of((int)(intptr_t)file);
	return token;
}

static void *sleeps(void *nothing)
{
	sleep(30);
	return nothing;
}

/* The thread that asked ends, then the first thread; one lives on. */
static uint64_t first_thread_ends(int file)
{
	pthread_t t;
	void *token;
	uint64_t got;

	(void)file;
	file = open_portal(device, O_RDWR);
	pthread_create(&t, NULL, asks, (void *)(intptr_t)file);
	pthread_join(t, &token);
	got = *(uint64_t *)token;
	pthread_create(&t, NULL, sleeps, NULL);
	return got;
}

static void test_threads(void)
{
	int out[2];
	uint64_t token = 0;
	pid_t pid;

	if (pipe(out))
		die("pipe");
	pid = fork();
	if (!pid) {
		token = first_thread_ends(-1);
		if (write(out[1], &token, 8) != 8)
			_exit(1);
		syscall(SYS_exit, 0);	/* this thread alone */
	}
	if (read(out[0], &token, 8) != 8)
		die("what the child says");
	usleep(200000);
	ok(alive(token), "the thread that asked ends, and the first one: alive while there is another");
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	ok(token_state(tables, token) == PORTAL_LIFE_DEAD, "over with the last");
	close(out[0]), close(out[1]);
}

static pid_t *sharer;

static int shares_memory(void *nothing)
{
	(void)nothing;
	sleep(30);
	return 0;
}

/* A process of its own that has the same memory, as after vfork(). */
static uint64_t shared_with(int file)
{
	static char stack[65536] __attribute__((aligned(16)));
	uint64_t token = own_file(file);

	*sharer = clone(shares_memory, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
	return *sharer < 0 ? 0 : token;
}

static void test_shared_memory(void)
{
	struct child c;

	sharer = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	c = start_child(shared_with, -1);
	end_child(&c, true);
	usleep(100000);
	ok(alive(c.token), "killed, but another process has the same memory: alive");
	kill(*sharer, SIGKILL);
	ok(dead_within(c.token, 2000), "over when that is gone");
	munmap(sharer, page);
}

/* Two threads ask at once, again and again: one session each time. */
static void test_race(void)
{
	int i, wrong = 0;

	for (i = 0; i < 200; i++) {
		int a = open_portal(device, O_RDWR), b = open_portal(device, O_RDWR);
		pthread_t t, u;
		void *x, *y;

		pthread_create(&t, NULL, asks, (void *)(intptr_t)a);
		pthread_create(&u, NULL, asks, (void *)(intptr_t)b);
		pthread_join(t, &x);
		pthread_join(u, &y);
		wrong += !*(uint64_t *)x || *(uint64_t *)x != *(uint64_t *)y || !alive(*(uint64_t *)x);
		close(a);
		close(b);
		wrong += token_state(tables, *(uint64_t *)x) != PORTAL_LIFE_DEAD;
		free(x);
		free(y);
	}
	ok(!wrong, "two threads ask at once, 200 times: one session");
}

/* ---- How many ---------------------------------------------------------------------------------- */

static uint64_t window_session(int file)
{
	int w = plain_window(file, PORTAL_WINDOW_WRITE, DATA, PORTAL_UNIT);
	struct portal_session_begin b;

	return session(w, 0, PORTAL_SESSION_SILENT, &b) ? errno : b.token;
}

/* It has the right to the device, too: what a window began counts as the file's from then on. */
static uint64_t window_and_file(int file)
{
	uint64_t token = window_session(file);

	if (token <= 0xffff)
		return token;
	return token_of(open_portal(device, O_RDWR)) == token ? token : 0;
}

static uint64_t file_session(int file)
{
	struct portal_session_begin b;

	(void)file;
	return session(open_portal(device, O_RDWR), 0, PORTAL_SESSION_SILENT, &b) ? errno : b.token;
}

static uint64_t user_session(int file)
{
	return setresuid(65534, 65534, 65534) ? 0 : file_session(file);
}

/* So many get one, and the next does not. Leaves them there. */
static unsigned int fill(struct child *c, unsigned int from, uint64_t (*fn)(int file))
{
	unsigned int n;

	for (n = from; n <= SUPER_SESSIONS; n++) {
		c[n] = start_child(fn, fd);
		if (c[n].token == EUSERS) {
			end_child(&c[n], false);
			break;
		}
	}
	return n;
}

static void test_how_many(void)
{
	struct child c[SUPER_SESSIONS + 1], one;
	unsigned int n, windows, i;
	struct stat node;

	stat(device, &node);
	chmod(device, 0666);
	n = fill(c, 0, user_session);
	chmod(device, node.st_mode & 07777);
	ok(n == SUPER_SESSIONS / 4, "a user who is not root gets a quarter of the rows, then EUSERS (%u)", n);
	one = start_child(file_session, -1);
	ok(one.token > EUSERS, "which keeps nobody else out");
	end_child(&one, true);
	while (n)
		end_child(&c[--n], true);

	windows = fill(c, 0, window_session);
	ok(windows == SUPER_SESSIONS / 2, "windows get half of the rows, then EUSERS (%u)", windows);
	n = fill(c, windows, file_session);
	ok(n == SUPER_SESSIONS, "files get the rest (%u)", n);
	end_child(&c[0], true);
	one = start_child(file_session, -1);
	ok(one.token > EUSERS, "one is gone: one more");
	end_child(&one, true);
	for (i = 1; i < n; i++)
		end_child(&c[i], i & 1);
	for (i = 0, n = 0; i < SUPER_PEERS * SUPER_SESSIONS; i++)
		n += state_of(session_row(tables, i)->life) == PORTAL_LIFE_ALIVE;
	ok(n == 0, "all over: no row is alive (%u)", n);

	n = fill(c, 0, window_and_file);
	ok(n == SUPER_SESSIONS, "who asks by a file, too, takes nothing of the windows' half (%u)", n);
	while (n)
		end_child(&c[--n], true);
	windows = fill(c, 0, window_session);
	ok(windows == SUPER_SESSIONS / 2, "nor leaves them more, or less, when it is gone (%u)", windows);
	while (windows)
		end_child(&c[--windows], true);
}

static void test_churn(void)
{
	uint64_t last[SUPER_PEERS * SUPER_SESSIONS] = { 0 }, token = 0;
	unsigned int i, wrong = 0, out[2];
	const unsigned int most = 1000;

	if (pipe((int *)out))
		die("pipe");
	for (i = 0; i < most; i++) {
		pid_t pid = fork();

		if (!pid) {
			token = own_file(-1);
			_exit(write(out[1], &token, 8) != 8);
		}
		if (read(out[0], &token, 8) != 8)
			token = 0;
		waitpid(pid, NULL, 0);
		wrong += !token || token <= last[token & 0x7f] ||
			 token_state(tables, token) != PORTAL_LIFE_DEAD;
		last[token & 0x7f] = token;
	}
	ok(!wrong, "%u processes come and go: no token is given twice, and each is dead", most);
	close(out[0]);
	close(out[1]);
}

/* ---- Others' words -------------------------------------------------------------------------------- */

static void test_debugger(void)
{
	int file = open_portal(device, O_RDWR);
	char *m = map(file, DATA, PROT_READ | PROT_WRITE);
	int mem = open("/proc/self/mem", O_RDWR);
	char got = 0;

	m[0] = 5;
	ok(pread(mem, &got, 1, (uintptr_t)m) == 1 && got == 5 &&
	   pwrite(mem, "x", 1, (uintptr_t)m) == 1 && m[0] == 'x',
	   "a debugger reads and writes its data as ever");
	close(mem);
	munmap(m, page);
	close(file);
}

static void test_mode(void)
{
	uint64_t token = token_of(fd);
	unsigned int slot = (token & 0xffff) / SUPER_SESSIONS;

	ok(alive(token) && !set_mode(fd, PORTAL_MODE_RAW), "made raw, with a session");
	ok(token_state(tables, token) == PORTAL_LIFE_DEAD, "it is over");
	ok(!peer_row(tables, slot)->claim &&
	   state_of(peer_row(tables, slot)->life) == PORTAL_LIFE_DEAD, "the machine has left");
	fails(session(fd, 0, PORTAL_SESSION_SILENT, NULL), ENODATA, "no sessions of a raw portal");
	fails(session(fd, PORTAL_SESSION_END, 0, NULL), ENODATA, "nor their end");
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--after-exec"))
		return after_exec(atoi(argv[2]));
	self = "/proc/self/exe";
	if (!begin(argc, argv, 300))
		return done();
	test_arguments();
	test_begin();
	test_mapped_end();
	test_closed_but_mapped();
	test_other_files();
	test_other_files_killed();
	test_exclusive();
	test_kill();
	test_living_child();
	test_stray();
	test_exec();
	test_threads();
	test_shared_memory();
	test_race();
	test_how_many();
	test_churn();
	test_debugger();
	test_mode();
	return done();
}
