// SPDX-License-Identifier: MIT
/*
 * Each way to open a portal but the device (that is tests/guest), and what is said
 * when it cannot be: the real portald, files, memory.
 */
#include "backends.h"
#include "daemon.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/portal_layout.h>
#include <vmportal.h>

static void bad_uris(void **state)
{
	refused("", 0, -EINVAL, "/dev/portalN");
	refused("portal0", 0, -EINVAL, "names no portal");
	refused("http://x", 0, -EINVAL, "names no portal");
	refused("memfd:size=1M", 1U << 30, -EINVAL, "undefined flags");
	refused("memfd:", 0, -EINVAL, "size=BYTES");
	refused("memfd:size=", 0, -EINVAL, "number of bytes");
	refused("memfd:size=-1", 0, -EINVAL, "number of bytes");
	refused("memfd:size=1Q", 0, -EINVAL, "K, M or G");
	refused("memfd:size=99999999999G", 0, -EINVAL, "K, M or G");
	refused("memfd:size=0", 0, -EINVAL, "at least one page");
	refused("memfd:fd=999", 0, -EBADF, "no such open descriptor");
	refused("memfd:fd=x", 0, -EINVAL, "fd=");
	refused("file:", 0, -EINVAL, "path");
	assert_int_equal(vmp_open(NULL, "memfd:size=1M", 0), -EINVAL);
}

static void what_is_no_device(void **state)
{
	int fd;

	refused("/dev/portal77", 0, -ENOENT, "portal");
	refused("/dev/null", 0, -ENOTTY, "not a portal");
	refused("/", VMP_RDONLY, -ENOTTY, "not a portal");
	refused(in_dir("DIR/nothing"), 0, -ENOENT, "nothing");
	fd = open(in_dir("DIR/regular"), O_CREAT | O_RDWR, 0600);
	close(fd);
	refused(in_dir("DIR/regular"), 0, -ENOTTY, "file:");
	/* The classic: something made a file where the device should be. */
	fd = open("/dev/portal9", O_CREAT | O_EXCL | O_RDWR, 0600);
	if (fd < 0) {
		print_message("# /dev/portal9 cannot be made here: %s\n", strerror(errno));
		return;
	}
	close(fd);
	refused("/dev/portal9", 0, -ENOTTY, "regular file, not a device");
	unlink("/dev/portal9");
}

/* Two portals over the same bytes exchange a message. */
static void exchange(struct vmp *a, struct vmp *b)
{
	struct vmp_channel_opts o = { .size = sizeof(o) };
	struct vmp_channel *ch[2];
	char buf[8];
	int i;

	assert_int_equal(vmp_channel_open(&ch[0], a, &o), 0);
	o.side = 1;
	assert_int_equal(vmp_channel_open(&ch[1], b, &o), 0);
	for (i = 0; i < 6; i++) {
		vmp_channel_connect(ch[0], 0);
		vmp_channel_connect(ch[1], 0);
	}
	assert_int_equal(vmp_send(ch[0], "hi", 3, 0, 1000), 0);
	assert_int_equal(vmp_recv(ch[1], buf, sizeof(buf), 1000), 3);
	vmp_channel_close(ch[0]);
	vmp_channel_close(ch[1]);
}

static void files(void **state)
{
	const char *uri = in_dir("file:DIR/region?size=256K");
	struct vmp_channel *ch;
	struct vmp_info info;
	struct vmp *a, *b, *ro;
	int before = fd_count();
	void *base;

	refused(in_dir("file:DIR/region"), 0, -ENOENT, "size=");
	refused(in_dir("file:DIR/region?size=1M"), VMP_RDONLY, -ENOENT, "region");
	assert_int_equal(vmp_open(&a, uri, 0), 0);
	assert_int_equal(vmp_open(&b, in_dir("file:DIR/region"), 0), 0);
	exchange(a, b);
	assert_int_equal(vmp_get_info(a, &info, sizeof(info)), 0);
	assert_int_equal(info.size, 256 << 10);
	assert_string_equal(info.transport, "file");
	assert_int_equal(info.vectors, 0);
	assert_int_equal(vmp_ring(a, 0, 0), -EOPNOTSUPP);
	assert_int_equal(vmp_eventfd(a, 0), -EOPNOTSUPP);
	assert_int_equal(vmp_open(&ro, in_dir("file:DIR/region"), VMP_RDONLY), 0);
	assert_int_equal(vmp_map(ro, &base, NULL), 0);
	assert_int_equal(vmp_channel_open(&ch, ro, NULL), -EACCES);
	assert_int_equal(mprotect(base, 4096, PROT_READ | PROT_WRITE), -1);
	vmp_close(ro);
	vmp_close(a);
	vmp_close(b);
	assert_int_equal(truncate(in_dir("DIR/region"), 100), 0);
	refused(in_dir("file:DIR/region"), 0, -EINVAL, "smaller than a page");
	refused(in_dir("file:DIR"), VMP_RDONLY, -EINVAL, "not a regular file");
	refused("file:/dev/null", 0, -EINVAL, "not a regular file");
	assert_int_equal(fd_count(), before);
}

static void *grow_file(void *arg)
{
	struct vmp *p = NULL;

	vmp_open(&p, arg, 0);
	return p;
}

/* Openers who make a file larger never make it smaller for one another. */
static void files_only_grow(void **state)
{
	char small[512], large[512];
	struct vmp *p[2];
	struct stat st;
	pthread_t t;
	int i;

	snprintf(small, sizeof(small), "%s", in_dir("file:DIR/grown?size=64K"));
	snprintf(large, sizeof(large), "%s", in_dir("file:DIR/grown?size=1M"));
	for (i = 0; i < 3000; i++) {
		unlink(in_dir("DIR/grown"));
		pthread_create(&t, NULL, grow_file, i & 1 ? small : large);
		p[0] = grow_file(i & 1 ? large : small);
		pthread_join(t, (void **)&p[1]);
		assert_non_null(p[0]);
		assert_non_null(p[1]);
		assert_int_equal(stat(in_dir("DIR/grown"), &st), 0);
		assert_int_equal(st.st_size, 1 << 20);
		vmp_close(p[0]);
		vmp_close(p[1]);
	}
	refused(in_dir("file:DIR/huge?size=18446744073709551615"), 0, -EINVAL, "no file has");
	assert_int_equal(access(in_dir("DIR/huge"), F_OK), -1);
	refused(in_dir("file:DIR/grown?size=18446744073709551615"), 0, -EINVAL, "no file has");
}

static void memfds(void **state)
{
	int before = fd_count(), fd = memfd_create("x", 0);
	struct vmp *a, *b;
	char uri[40];

	snprintf(uri, sizeof(uri), "memfd:fd=%d", fd);
	refused(uri, 0, -EINVAL, "smaller than a page");
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	assert_int_equal(vmp_open(&a, uri, 0), 0);
	assert_int_equal(vmp_open(&b, uri, 0), 0);
	close(fd);
	exchange(a, b);
	vmp_close(a);
	vmp_close(b);
	assert_int_equal(vmp_open(&a, "memfd:size=64K", 0), 0);
	vmp_close(a);
	assert_int_equal(fd_count(), before);
}

/*
 * A real FUSE mount, just real enough to open one file of it: this process is its
 * server. FUSE stands for all file systems whose mappings are not coherent.
 */
static void serve_fuse(int fd)
{
	static char in[1 << 17];
	struct { struct fuse_out_header h; char body[256]; } out;
	struct fuse_in_header *q = (void *)in;
	struct fuse_init_out *init = (void *)out.body;
	struct fuse_entry_out *entry = (void *)out.body;
	struct fuse_attr_out *attr = (void *)out.body;
	size_t len;

	while (read(fd, in, sizeof(in)) > 0) {
		memset(&out, 0, sizeof(out));
		len = 0;
		switch (q->opcode) {
		case FUSE_INIT:
			*init = (struct fuse_init_out){ .major = 7, .minor = 31, .max_write = 4096 };
			len = sizeof(*init);
			break;
		case FUSE_LOOKUP:
			entry->nodeid = 2;
			entry->attr = (struct fuse_attr){ .ino = 2, .size = 65536, .nlink = 1, .mode = S_IFREG | 0666 };
			len = sizeof(*entry);
			break;
		case FUSE_GETATTR:
			attr->attr = (struct fuse_attr){ .ino = q->nodeid, .size = 65536, .nlink = 1,
				.mode = q->nodeid == 1 ? S_IFDIR | 0777 : S_IFREG | 0666 };
			len = sizeof(*attr);
			break;
		case FUSE_OPEN:
			len = sizeof(struct fuse_open_out);
			break;
		case FUSE_STATFS:
			len = sizeof(struct fuse_statfs_out);
			break;
		case FUSE_RELEASE:
		case FUSE_FLUSH:
			break;
		case FUSE_FORGET:
			continue;
		default:
			out.h.error = -ENOSYS;
		}
		out.h.unique = q->unique;
		out.h.len = (uint32_t)(sizeof(out.h) + len);
		(void)!write(fd, &out, out.h.len);
	}
}

static void incoherent_files(void **state)
{
	int fd = open("/dev/fuse", O_RDWR);
	char opts[100];
	pid_t pid;

	snprintf(opts, sizeof(opts), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	mkdir(in_dir("DIR/fuse"), 0700);
	if (fd < 0 || mount("test", in_dir("DIR/fuse"), "fuse", MS_NOSUID | MS_NODEV, opts)) {
		print_message("# no FUSE mount here (%s): needs root and /dev/fuse\n", strerror(errno));
		skip();
	}
	pid = fork();
	if (!pid) {
		serve_fuse(fd);
		_exit(0);
	}
	close(fd);
	refused(in_dir("file:DIR/fuse/region"), 0, -EOPNOTSUPP, "not coherent");
	refused(in_dir("file:DIR/fuse/region?size=1M"), 0, -EOPNOTSUPP, "is on FUSE");
	umount2(in_dir("DIR/fuse"), MNT_DETACH);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* ---- attach ---------------------------------------------------------------- */

static int my_fd[2], my_rings;

static int my_ring(void *arg, uint32_t peer, uint32_t vector)
{
	uint64_t one = 1;

	assert_ptr_equal(arg, &my_rings);
	my_rings++;
	return write(my_fd[peer & 1], &one, sizeof(one)) == sizeof(one) ? 0 : -EIO;
}

static int my_eventfd0(void *arg, uint32_t vector)
{
	return my_fd[0];
}

static int my_eventfd1(void *arg, uint32_t vector)
{
	return my_fd[1];
}

static void attached(void **state)
{
	struct vmp_notify_ops ops[2] = { { my_ring, my_eventfd0 }, { my_ring, my_eventfd1 } };
	struct vmp *p[2], *q;
	void *m;
	int i;

	m = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_int_equal(vmp_attach(&q, (char *)m + 8, 4096, NULL, NULL, 0, 0), -EINVAL);
	assert_int_equal(vmp_attach(&q, m, 0, NULL, NULL, 0, 0), -EINVAL);
	assert_int_equal(vmp_attach(&q, m, 4096, NULL, NULL, 1, 0), -EINVAL);
	for (i = 0; i < 2; i++) {
		my_fd[i] = eventfd(0, EFD_NONBLOCK);
		assert_int_equal(vmp_attach(&p[i], m, 1 << 20, &ops[i], &my_rings, 1, i), 0);
	}
	exchange(p[0], p[1]);
	assert_true(my_rings > 0);
	for (i = 0; i < 2; i++) {
		vmp_close(p[i]);
		assert_true(fcntl(my_fd[i], F_GETFD) >= 0);	/* still ours */
		close(my_fd[i]);
	}
	/* Without any: it polls. */
	assert_int_equal(vmp_attach(&p[0], m, 1 << 20, NULL, NULL, 0, VMP_PEER_NONE), 0);
	assert_int_equal(vmp_attach(&p[1], m, 1 << 20, NULL, NULL, 0, VMP_PEER_NONE), 0);
	exchange(p[0], p[1]);
	vmp_close(p[0]);
	vmp_close(p[1]);
	munmap(m, 1 << 20);
}

static void pairs(void **state)
{
	int before = fd_count(), fd;
	struct vmp *p[2];
	uint64_t n;

	assert_int_equal(vmp_pair(p, 0, 1), -EINVAL);
	assert_int_equal(vmp_pair(p, 4096, 65), -EINVAL);
	assert_int_equal(vmp_pair(p, 100000, 3), 0);
	fd = vmp_eventfd(p[1], 2);
	assert_int_equal(read(fd, &n, 8), -1);
	assert_int_equal(vmp_ring(p[0], 1, 2), 0);
	assert_int_equal(vmp_ring(p[0], 1, 2), 0);
	assert_int_equal(read(fd, &n, 8), 8);
	assert_int_equal(n, 2);
	assert_int_equal(vmp_ring(p[0], 2, 0), -ENXIO);
	assert_int_equal(vmp_ring(p[0], 1, 3), -EINVAL);
	assert_int_equal(vmp_eventfd(p[0], 3), -EINVAL);
	/* A full counter neither blocks nor fails. */
	n = UINT64_MAX - 1;
	assert_int_equal(write(fd, &n, 8), 8);
	assert_int_equal(vmp_ring(p[0], 1, 2), 0);
	vmp_close(p[0]);
	exchange(p[1], p[1]);
	vmp_close(p[1]);
	assert_int_equal(fd_count(), before);
}

/* ---- portald ---------------------------------------------------------------- */

static void through_portald(void **state)
{
	const char *uri = in_dir("unix:DIR/t.sock");
	struct vmp *a, *b, *ro;
	struct vmp_info ia, ib;
	int before = fd_count();
	pid_t pid = start_portald();
	uint64_t n;
	struct pollfd f;

	assert_int_equal(vmp_open(&a, uri, 0), 0);
	assert_int_equal(vmp_open(&b, uri, 0), 0);
	assert_int_equal(vmp_get_info(a, &ia, sizeof(ia)), 0);
	assert_int_equal(vmp_get_info(b, &ib, sizeof(ib)), 0);
	assert_string_equal(ia.transport, "portald");
	assert_int_equal(ia.size, 1 << 20);
	assert_int_equal(ia.vectors, 2);
	assert_true(ia.peer_id != ib.peer_id);
	/* a was told of b after its own greeting; the ring finds out. */
	assert_int_equal(vmp_ring(a, ib.peer_id, 1), 0);
	f = (struct pollfd){ vmp_eventfd(b, 1), POLLIN, 0 };
	assert_int_equal(poll(&f, 1, PATIENCE_MS), 1);
	assert_int_equal(read(f.fd, &n, 8), 8);
	assert_int_equal(vmp_ring(b, ia.peer_id, 0), 0);
	assert_int_equal(vmp_ring(b, 500, 0), -ENXIO);
	exchange(a, b);
	assert_int_equal(vmp_open(&ro, uri, VMP_RDONLY), 0);
	assert_true(vmp_ring(ro, ia.peer_id, 0) < 0);
	vmp_close(ro);
	/* SIGKILL of the server: what was connected goes on. */
	end(pid, SIGKILL);
	exchange(a, b);
	assert_int_equal(vmp_ring(a, ib.peer_id, 1), 0);
	vmp_close(a);
	vmp_close(b);
	refused(uri, 0, -ECONNREFUSED, "start portald");
	unlink(in_dir("DIR/t.sock"));
	refused(uri, 0, -ENOENT, "no such socket");
	assert_int_equal(fd_count(), before);
}

/* A peer makes its eventfd blocking, and fills it: ringing it must not block. */
static void a_doorbell_that_blocks(void **state)
{
	const char *uri = in_dir("unix:DIR/t.sock");
	pid_t server = start_portald();
	uint64_t full = UINT64_MAX - 1, n;
	struct vmp_info info;
	struct vmp *a, *b;
	struct pollfd f;
	int fd;

	assert_int_equal(vmp_open(&a, uri, 0), 0);
	assert_int_equal(vmp_open(&b, uri, 0), 0);
	vmp_get_info(b, &info, sizeof(info));
	fd = vmp_eventfd(b, 0);
	assert_int_equal(vmp_ring(a, info.peer_id, 0), 0);
	assert_int_equal(read(fd, &n, 8), 8);
	assert_int_equal(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK), 0);
	assert_int_equal(write(fd, &full, 8), 8);
	assert_int_equal(vmp_ring(a, info.peer_id, 0), 0);
	f = (struct pollfd){ fd, POLLIN | POLLOUT, 0 };
	assert_int_equal(poll(&f, 1, 0), 1);
	/* It was emptied and rung: an edge, also for who sleeps and does not read. */
	assert_int_equal(f.revents, POLLIN | POLLOUT);
	vmp_close(a);
	vmp_close(b);
	end(server, SIGTERM);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_uris),
		cmocka_unit_test(what_is_no_device),
		cmocka_unit_test(files),
		cmocka_unit_test(files_only_grow),
		cmocka_unit_test(incoherent_files),
		cmocka_unit_test(memfds),
		cmocka_unit_test(attached),
		cmocka_unit_test(pairs),
		cmocka_unit_test(through_portald),
		cmocka_unit_test(a_doorbell_that_blocks),
	};

	alarm(ALARM_S);
	find_portald(argv[0]);
	return cmocka_run_group_tests_name("backends", tests, set_up, tear_down);
}
