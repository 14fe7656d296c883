// SPDX-License-Identifier: MIT
/*
 * frozen DEVICE OTHER FREEZE RESTORE: who touches a portal that is paused waits, and with him
 * those of his process who need the locks that he holds; but nobody else.
 *
 * FREEZE and RESTORE are commands that pause DEVICE, of 2 MiB at least, and end that. OTHER
 * is a managed portal, on which sessions are asked for meanwhile: for these the kernel takes
 * all locks of a process, and one lock for all processes that do so. DEVICE is managed, too. TAP; exit status 0 if
 * all went well, 1 otherwise.
 */
#include "super.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define BLOCK	(2UL << 20)

static const char *other;
static volatile char *block;
static int go_touch[2], go_ask[2], go_stranger[2];
/* Shared by all processes here. */
static volatile struct { pid_t toucher, asker; bool touched, asked; } *done_so_far;

static void wait_for_word(const int *pipe_)
{
	char byte;

	if (read(pipe_[0], &byte, 1) != 1)
		_exit(1);
}

static void say(const int *pipe_)
{
	if (write(pipe_[1], "", 1) != 1)
		die("write");
}

static void *touches(void *arg)
{
	done_so_far->toucher = syscall(SYS_gettid);
	wait_for_word(go_touch);
	(void)block[0];
	done_so_far->touched = true;
	return arg;
}

static void *asks(void *arg)
{
	done_so_far->asker = syscall(SYS_gettid);
	wait_for_word(go_ask);
	done_so_far->asked = token_of(open_portal(other, O_RDWR)) != 0;
	return arg;
}

/* A thread that waits, for whatever it may be. */
static bool stands(pid_t tid)
{
	return state_of_thread(tid) == 'S' || state_of_thread(tid) == 'D';
}

/* A whole block at an address where one entry can map it. */
static volatile char *map_block(int fd)
{
	char *room = mmap(NULL, 2 * BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *at = (char *)(((uintptr_t)room + BLOCK - 1) & ~(BLOCK - 1));

	return mmap(at, BLOCK, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
}

/* A process of its own: who touches keeps it from making threads, children, and much else. */
static void __attribute__((noreturn)) toucher(const char *device)
{
	pthread_t a, b;

	alarm(4 * PATIENT_MS / 1000);
	block = map_block(open_portal(device, O_RDONLY));
	if (block == MAP_FAILED)
		_exit(1);
	pthread_create(&a, NULL, touches, NULL);
	pthread_create(&b, NULL, asks, NULL);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	_exit(!done_so_far->touched || !done_so_far->asked);
}

static void __attribute__((noreturn)) stranger(void)
{
	wait_for_word(go_stranger);
	alarm(PATIENT_MS / 1000);
	_exit(!token_of(open_portal(other, O_RDWR)));
}

static pid_t child_of(pid_t pid)
{
	if (pid < 0)
		die("fork");
	return pid;
}

static void test_waits(const char *device, const char *freeze, const char *restore)
{
	int status = -1;
	pid_t a, b;

	a = child_of(fork());
	if (!a)
		toucher(device);
	b = child_of(fork());
	if (!b)
		stranger();
	ok(UNTIL(stands(done_so_far->toucher) && stands(done_so_far->asker), PATIENT_MS), "threads of one process");
	ok(!system(freeze), "%s", freeze);
	say(go_touch);
	usleep(300000);
	UNTIL(stands(done_so_far->toucher), PATIENT_MS);
	say(go_ask);
	usleep(300000);
	UNTIL(stands(done_so_far->asker), PATIENT_MS);
	ok(!done_so_far->touched && !done_so_far->asked, "who touches it waits, and who needs all his locks");
	say(go_stranger);
	waitpid(b, &status, 0);
	ok(!status, "another process gets a session meanwhile");
	ok(!system(restore), "%s", restore);
	status = -1;
	waitpid(a, &status, 0);
	ok(!status, "then both go on");
}

/* Asks for sessions, and ends them, before all others that want the processor. */
static void asks_first(const char *device)
{
	const struct sched_param most = { .sched_priority = 50 };
	int fd = open_portal(device, O_RDWR);

	if (sched_setscheduler(0, SCHED_FIFO, &most))
		_exit(1);
	for (;;) {
		session(fd, 0, PORTAL_SESSION_SILENT, NULL);
		session(fd, PORTAL_SESSION_END, 0, NULL);
		usleep(100);
	}
}

#define ROUNDS	20

/* Seconds of pausing it again and again, or a negative number. */
static long pauses(const char *freeze, const char *restore)
{
	struct timespec a, b;
	int i, wrong = 0;

	clock_gettime(CLOCK_MONOTONIC, &a);
	for (i = 0; i < ROUNDS; i++)
		wrong += system(freeze) || system(restore);
	clock_gettime(CLOCK_MONOTONIC, &b);
	return wrong ? -1 : b.tv_sec - a.tv_sec;
}

/* Who pauses it has a lower priority, and must come to do so: who asks sleeps. */
static void test_realtime(const char *device, const char *freeze, const char *restore)
{
	long alone = pauses(freeze, restore), took;
	pid_t pid = fork();

	if (!pid)
		asks_first(device);
	took = pauses(freeze, restore);
	ok(!kill(pid, 0) && alone >= 0 && took >= 0 && took < 3 * alone + ROUNDS / 2,
	   "paused %d times under a real-time process that asks for sessions (%ld s, without it %ld)", ROUNDS,
	   took, alone);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fprintf(stderr, "usage: frozen DEVICE OTHER FREEZE RESTORE\n");
		return 2;
	}
	start(100);
	other = argv[2];
	done_so_far = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (done_so_far == MAP_FAILED || pipe(go_touch) || pipe(go_ask) || pipe(go_stranger))
		die("mmap, pipe");
	test_waits(argv[1], argv[3], argv[4]);
	test_realtime(argv[1], argv[3], argv[4]);
	return done();
}
