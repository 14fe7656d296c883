// SPDX-License-Identifier: MIT
/*
 * lent DEVICE: a window that is handed to other parts of the kernel, which open files again,
 * or read and write them, for whoever asks.
 *
 * Each must refuse it, or give no more than the window has; widen.c has the ways that lead
 * through the window itself. Each is tried with an ordinary file first: one that this kernel
 * does not have is left out, and said so. Runs as root. Writes to the region; nobody else may
 * use it. TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "confined.h"

#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/loop.h>
#include <linux/udmabuf.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define FILE_ITSELF	"/tmp/ordinary"
#define PLACE		"/tmp/place"

/* open_tree(2), move_mount(2); their names are in one header or another. */
#define TREE_CLONE	1
#define MOVE_FROM_EMPTY	4

static int ordinary;	/* a file that all of them take */
static char buf[65536];

static void make_ordinary(void)
{
	mkdir("/tmp", 0777);
	if (close(open(FILE_ITSELF, O_CREAT | O_RDWR, 0600)) || close(open(PLACE, O_CREAT | O_RDWR, 0600)))
		die("/tmp");
	ordinary = memfd_create("ordinary", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (ordinary < 0 || write(ordinary, buf, sizeof(buf)) != sizeof(buf) ||
	    fcntl(ordinary, F_ADD_SEALS, F_SEAL_SHRINK))
		die("memfd");
}

/* With an ordinary file it does not work: that says nothing of windows. */
static void absent(const char *name, const char *what)
{
	char why[120];

	snprintf(why, sizeof(why), "%s: %s", what, strerror(errno));
	skip(name, why);
}

/* Built in, or not there: what it is for says so. */
static void load(const char *module)
{
	char command[64];

	snprintf(command, sizeof(command), "modprobe %s 2>/dev/null", module);
	if (system(command))
		printf("# no module %s\n", module);
}

/* Whoever has the read-only window again by this path has what it gives. */
static bool no_wider(const char *path)
{
	static const int how[] = { O_RDONLY, O_RDWR, O_WRONLY };
	size_t i, wrong = 0;

	for (i = 0; i < sizeof(how) / sizeof(how[0]); i++) {
		int fd = open(path, how[i] | O_NONBLOCK | O_CLOEXEC);

		if (fd < 0)
			continue;
		wrong += !confined(fd);
		close(fd);
	}
	return !wrong;
}

/* ---- Opened again ------------------------------------------------------------------- */

static void bound(void)
{
	char path[64];
	bool mounted;

	if (mount(FILE_ITSELF, PLACE, NULL, MS_BIND, NULL)) {
		absent("a bind mount", "no file can be mounted");
		return;
	}
	umount(PLACE);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", win_ro);
	mounted = !mount(path, PLACE, NULL, MS_BIND, NULL);
	ok(!mounted || no_wider(PLACE), "a bind mount of /proc/self/fd/N%s", mounted ? "" : " is refused");
	if (mounted)
		umount2(PLACE, MNT_DETACH);
}

static int open_tree_at(int dir, const char *path, unsigned int flags)
{
	return syscall(SYS_open_tree, dir, path, flags | O_CLOEXEC);
}

static bool moved(int tree)
{
	return !syscall(SYS_move_mount, tree, "", AT_FDCWD, PLACE, MOVE_FROM_EMPTY);
}

static void grafted(void)
{
	int tree = open_tree_at(AT_FDCWD, FILE_ITSELF, TREE_CLONE);
	size_t wrong = 0, trees = 0;
	unsigned int clone;
	char path[64];

	if (tree < 0 || !moved(tree)) {
		absent("open_tree(), move_mount()", "no file can be mounted so");
		return;
	}
	umount(PLACE);
	close(tree);
	for (clone = 0; clone <= TREE_CLONE; clone++) {
		tree = open_tree_at(win_ro, "", clone | AT_EMPTY_PATH);
		if (tree < 0)
			continue;
		trees++;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", tree);
		wrong += !no_wider(path);
		if (moved(tree)) {
			wrong += !no_wider(PLACE);
			umount2(PLACE, MNT_DETACH);
		}
		close(tree);
	}
	ok(!wrong, "open_tree(), move_mount(): %zu trees of it, none that opens it wider", trees);
}

/* What a listener gets of whatever has happened so far: how many files, how many not confined. */
static void heard(int listener, unsigned int *files, unsigned int *wide, bool window)
{
	struct fanotify_event_metadata ev[16], *e;
	ssize_t n;
	int tries;

	*files = *wide = 0;
	/* One that could not be opened again is an error of read(), once. */
	for (tries = 0; tries < 32; tries++) {
		n = read(listener, ev, sizeof(ev));
		if (n < 0 && errno == EAGAIN)
			break;
		for (e = ev; n > 0 && FAN_EVENT_OK(e, n); e = FAN_EVENT_NEXT(e, n)) {
			if (e->fd < 0)
				continue;
			++*files;
			*wide += window ? !confined(e->fd) : (fcntl(e->fd, F_GETFL) & O_ACCMODE) == O_RDWR;
			close(e->fd);
		}
	}
}

/* The kernel opens what is spoken of for who listens, in the way that he wants. */
static void listened(void)
{
	const uint64_t all = FAN_OPEN | FAN_ACCESS | FAN_MODIFY | FAN_CLOSE;
	int listener = fanotify_init(FAN_CLASS_CONTENT | FAN_NONBLOCK | FAN_CLOEXEC, O_RDWR);
	unsigned int files, wide, marks = 0;
	char path[64];

	if (listener < 0 || fanotify_mark(listener, FAN_MARK_ADD, all, AT_FDCWD, FILE_ITSELF)) {
		absent("fanotify", "none here (CONFIG_FANOTIFY)");
		return;
	}
	close(open(FILE_ITSELF, O_RDONLY));
	heard(listener, &files, &wide, false);
	ok(files && wide == files, "fanotify: who listens has an ordinary file writable");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", win_ro);
	marks += !fanotify_mark(listener, FAN_MARK_ADD, all, win_ro, NULL);
	marks += !fanotify_mark(listener, FAN_MARK_ADD, all, AT_FDCWD, path);
	marks += !fanotify_mark(listener, FAN_MARK_ADD | FAN_MARK_MOUNT, all, win_ro, NULL);
	marks += !fanotify_mark(listener, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, all, win_ro, NULL);
	/* One that comes and goes, and what reading and mapping is. */
	close(plain_window(rw, 0, at, length));
	ok(confined(win_ro) && read(win_ro, buf, sizeof(buf)) <= 0, "it is used meanwhile");
	heard(listener, &files, &wide, true);
	ok(!wide, "fanotify: %u marks, %u files, none wider", marks, files);
	close(listener);
}

static void executed(void)
{
	char *none[] = { NULL };
	int status = -1;
	pid_t pid = fork();

	if (!pid) {
		syscall(SYS_execveat, win, "", none, none, AT_EMPTY_PATH);
		_exit(errno == EACCES ? 7 : 1);
	}
	waitpid(pid, &status, 0);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 7, "execveat(): %s", strerror(EACCES));
}

/* ---- Read and written for others ------------------------------------------------------ */

struct uring {
	int fd;
	struct io_uring_params p;
	char *sq, *cq;
	struct io_uring_sqe *sqe;
};

static void *ring_map(const struct uring *u, size_t len, uint64_t what)
{
	void *m = mmap(NULL, len, BOTH, MAP_SHARED | MAP_POPULATE, u->fd, (off_t)what);

	if (m == MAP_FAILED)
		die("mmap of io_uring");
	return m;
}

static bool uring_open(struct uring *u)
{
	int files[] = { win, win_ro, ordinary };

	u->p = (struct io_uring_params){ 0 };
	u->fd = syscall(SYS_io_uring_setup, 4, &u->p);
	if (u->fd < 0)
		return false;
	u->sq = ring_map(u, u->p.sq_off.array + u->p.sq_entries * sizeof(uint32_t), IORING_OFF_SQ_RING);
	u->cq = ring_map(u, u->p.cq_off.cqes + u->p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
	u->sqe = ring_map(u, u->p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	return !syscall(SYS_io_uring_register, u->fd, IORING_REGISTER_FILES, files, 3);
}

/* What came of it; 0, too, if nothing did. */
static int request(const struct uring *u, unsigned int op, int file, void *to, uint64_t offset)
{
	unsigned int *tail = (void *)(u->sq + u->p.sq_off.tail), *head = (void *)(u->cq + u->p.cq_off.head);
	unsigned int *array = (void *)(u->sq + u->p.sq_off.array), at_cq;
	struct io_uring_cqe *cqe = (void *)(u->cq + u->p.cq_off.cqes);
	static uint64_t number;

	u->sqe[0] = (struct io_uring_sqe){ .opcode = op, .flags = IOSQE_FIXED_FILE, .fd = file, .off = offset,
					   .addr = (uintptr_t)to, .len = page, .user_data = ++number };
	array[*tail & (u->p.sq_entries - 1)] = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, u->fd, 1, 0, 0, NULL, 0) != 1)
		return -errno;
	while (wait_for(u->fd, POLLIN, PATIENT_MS / 10)) {
		at_cq = *head & (u->p.cq_entries - 1);
		__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
		if (cqe[at_cq].user_data == number)
			return cqe[at_cq].res;
	}
	return 0;
}

static void queued(void)
{
	static const unsigned int ops[] = { IORING_OP_READ, IORING_OP_WRITE, IORING_OP_FALLOCATE };
	uint64_t offsets[] = { 0, length, length - page, (uint64_t)-1, -at };
	char *shut = map_at(win_ro, page, PROT_READ, MAP_SHARED, 0);
	size_t i, k, wrong = 0;
	struct uring u;
	int res, file;

	if (!uring_open(&u)) {
		absent("io_uring", "none here (CONFIG_IO_URING)");
		return;
	}
	res = request(&u, IORING_OP_READ, 2, buf, 0);
	if (res != (int)page) {
		errno = -res;
		absent("io_uring", "no reads");
		close(u.fd);
		return;
	}
	for (i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
		for (k = 0; k < sizeof(offsets) / sizeof(offsets[0]); k++)
			for (file = 0; file < 2; file++) {
				res = request(&u, ops[i], file, buf, offsets[k]);
				if (res > 0 || (!res && ops[i] == IORING_OP_FALLOCATE))
					wrong++, printf("# operation %u of file %d: %d\n", ops[i], file, res);
			}
	ok(!wrong && untouched(), "io_uring neither reads nor writes it, as a registered file");
	res = request(&u, IORING_OP_READ, 2, shut, 0);
	ok(res == -EFAULT && harmless(shut, 0), "nor reads anything into a read-only one");
	close(u.fd);
	munmap(shut, page);
}

static int aio(aio_context_t ctx, unsigned int op, int file, void *to, uint64_t offset)
{
	struct iocb cb = { .aio_lio_opcode = op, .aio_fildes = file, .aio_buf = (uintptr_t)to,
			   .aio_nbytes = page, .aio_offset = (int64_t)offset }, *list = &cb;
	struct timespec most = { PATIENT_MS / 10000, 0 };
	struct io_event ev = { 0 };

	if (syscall(SYS_io_submit, ctx, 1, &list) != 1)
		return -errno;
	return syscall(SYS_io_getevents, ctx, 1, 1, &ev, &most) == 1 ? (int)ev.res : 0;
}

static void submitted(void)
{
	char *shut = map_at(win_ro, page, PROT_READ, MAP_SHARED, 0);
	uint64_t offsets[] = { 0, length, length - page };
	aio_context_t ctx = 0;
	size_t i, wrong = 0;
	int file;

	if (syscall(SYS_io_setup, 4, &ctx) || aio(ctx, IOCB_CMD_PREAD, ordinary, buf, 0) != (int)page) {
		absent("io_submit()", "none here (CONFIG_AIO)");
		return;
	}
	for (i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++)
		for (file = 0; file < 2; file++) {
			wrong += aio(ctx, IOCB_CMD_PREAD, file ? win : win_ro, buf, offsets[i]) > 0;
			wrong += aio(ctx, IOCB_CMD_PWRITE, file ? win : win_ro, buf, offsets[i]) > 0;
		}
	ok(!wrong && untouched(), "io_submit() neither reads nor writes it");
	ok(aio(ctx, IOCB_CMD_PREAD, ordinary, shut, 0) == -EFAULT && harmless(shut, 0),
	   "nor reads anything into a read-only one");
	syscall(SYS_io_destroy, ctx);
	munmap(shut, page);
}

/* ---- As another device's memory --------------------------------------------------------- */

/* The next free loop device, or -1. */
static int loop_device(void)
{
	int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC), n = ctl < 0 ? -1 : ioctl(ctl, LOOP_CTL_GET_FREE);
	char path[64];

	close(ctl);
	snprintf(path, sizeof(path), "/dev/loop%d", n);
	return n < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC);
}

static void looped(void)
{
	int first, second;

	load("loop");
	first = loop_device();
	if (first < 0 || ioctl(first, LOOP_SET_FD, ordinary)) {
		absent("LOOP_SET_FD", "no loop devices");
		return;
	}
	second = loop_device();
	fails(ioctl(second, LOOP_SET_FD, win), EINVAL, "LOOP_SET_FD");
	ioctl(first, LOOP_CLR_FD, 0);
	close(second);
	close(first);
}

static int udmabuf(int dev, int file, size_t len)
{
	struct udmabuf_create c = { .memfd = file, .flags = UDMABUF_FLAGS_CLOEXEC, .size = len };

	return ioctl(dev, UDMABUF_CREATE, &c);
}

static void shared_as_dmabuf(void)
{
	int dev, buffer;

	load("udmabuf");
	dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	buffer = dev < 0 ? -1 : udmabuf(dev, ordinary, page);
	if (buffer < 0) {
		absent("UDMABUF_CREATE", "none here (CONFIG_UDMABUF)");
		return;
	}
	ok(udmabuf(dev, win, page) < 0 && udmabuf(dev, win_ro, page) < 0 && udmabuf(dev, win, size) < 0,
	   "UDMABUF_CREATE");
	close(buffer);
	close(dev);
}

int main(int argc, char **argv)
{
	start(120);
	confine(argc > 1 ? argv[1] : "/dev/portal0");
	fcntl(win, F_SETFL, O_NONBLOCK);
	fcntl(win_ro, F_SETFL, O_NONBLOCK);
	make_ordinary();
	bound();
	grafted();
	listened();
	executed();
	queued();
	submitted();
	looped();
	shared_as_dmabuf();
	ok(untouched(), "after all this nothing outside the window has changed");
	return done();
}
