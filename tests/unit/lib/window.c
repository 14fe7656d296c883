// SPDX-License-Identifier: MIT
/*
 * Windows, as far as they need no device (what they do is tests/guest/sandbox.c): what may
 * be asked for, which portals have none, and descriptors that are no portal.
 */
#include "backends.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

static const char *fd_uri(int fd)
{
	static char uri[32];

	snprintf(uri, sizeof(uri), "fd:%d", fd);
	return uri;
}

static void descriptors(void **state)
{
	int memory = memfd_create("x", MFD_CLOEXEC), efd = eventfd(0, EFD_CLOEXEC), pair[2];
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), null_ro = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int closed = dup(null), before;

	close(closed);
	before = fd_count();
	refused("fd:", 0, -EINVAL, "number of an open descriptor");
	refused("fd:x", 0, -EINVAL, "number of an open descriptor");
	refused("fd:-1", 0, -EINVAL, "number of an open descriptor");
	refused("fd: 3", 0, -EINVAL, "number of an open descriptor");
	refused("fd:3x", 0, -EINVAL, "number of an open descriptor");
	refused("fd:99999999999999999999", 0, -EINVAL, "number of an open descriptor");
	refused("fd:4294967299", 0, -EINVAL, "number of an open descriptor");
	refused(fd_uri(closed), 0, -EBADF, "no such open descriptor");
	refused(fd_uri(memory), 0, -ENOTTY, "memfd:fd=");
	refused(fd_uri(efd), 0, -ENOTTY, "not a portal");
	refused(fd_uri(null), 0, -ENOTTY, "not a portal");
	refused(fd_uri(null), VMP_ZERO_ON_REVOKE, -ENOTTY, "not a portal");
	refused(fd_uri(null_ro), 0, -EACCES, "VMP_RDONLY");
	refused(fd_uri(null_ro), VMP_RDONLY, -ENOTTY, "not a portal");
	assert_int_equal(fd_count(), before);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	refused(fd_uri(pair[0]), 0, -ENOTTY, "not a portal");
	/* What failed to open is the caller's still. */
	assert_true(fcntl(null, F_GETFD) >= 0 && fcntl(efd, F_GETFD) >= 0 && fcntl(memory, F_GETFD) >= 0);
	close(memory);
	close(efd);
	close(null);
	close(null_ro);
	close(pair[0]);
	close(pair[1]);
}

static void failing(struct vmp *p, const struct vmp_window_opts *o, int err, const char *text)
{
	int got = vmp_window(p, o);

	if (got != err || !strstr(vmp_errmsg(), text))
		fail_msg("%d '%s', not %d with '%s'", got, vmp_errmsg(), err, text);
}

static void only_devices(void **state)
{
	const struct vmp_window_opts o = { .size = sizeof(o), .length = 65536 };
	static char memory[65536] __attribute__((aligned(65536)));
	struct vmp *pair[2], *p;

	assert_int_equal(vmp_open(&p, "memfd:size=1M", 0), 0);
	failing(p, &o, -EOPNOTSUPP, "holds all of it");
	vmp_close(p);
	assert_int_equal(vmp_pair(pair, 1 << 20, 2), 0);
	failing(pair[0], &o, -EOPNOTSUPP, "only devices have windows");
	vmp_close(pair[0]);
	vmp_close(pair[1]);
	assert_int_equal(vmp_attach(&p, memory, sizeof(memory), NULL, NULL, 0, VMP_PEER_NONE), 0);
	failing(p, &o, -EOPNOTSUPP, "only devices have windows");
	vmp_close(p);
}

static void options(void **state)
{
	struct { struct vmp_window_opts o; uint32_t more[2]; } w = { .o = { .size = sizeof(w.o), .length = 65536 } };
	struct vmp *p;

	assert_int_equal(vmp_open(&p, "memfd:size=1M", 0), 0);
	failing(NULL, &w.o, -EINVAL, "NULL");
	failing(p, NULL, -EINVAL, "NULL");
	w.o.size = sizeof(w.o) - 1;
	failing(p, &w.o, -EINVAL, "size");
	w.o.size = 0;
	failing(p, &w.o, -EINVAL, "size");
	w.o.size = 1 << 20;
	failing(p, &w.o, -EINVAL, "size");
	w.o.size = sizeof(w);
	failing(p, &w.o, -EOPNOTSUPP, "only devices");
	w.more[1] = 1;
	failing(p, &w.o, -EINVAL, "does not know");
	w.more[1] = 0;
	w.o.flags = 2;
	failing(p, &w.o, -EINVAL, "undefined flags");
	w.o.flags = 0;
	w.o.reserved = 1;
	failing(p, &w.o, -EINVAL, "reserved");
	w.o.reserved = 0;
	w.o.flags = VMP_WINDOW_RDONLY;
	w.o.ring = 1;
	failing(p, &w.o, -EINVAL, "cannot ring");
	vmp_close(p);
}

/* What a portal that is no window says of itself. */
static void facts(void **state)
{
	struct vmp_info i;
	struct vmp *p[2];

	assert_int_equal(vmp_pair(p, 1 << 20, 2), 0);
	memset(&i, 0xff, sizeof(i));
	assert_int_equal(vmp_get_info(p[0], &i, sizeof(i)), 0);
	assert_int_equal(i.first_vector, 0);
	assert_int_equal(i.reserved, 0);
	assert_false(i.caps & VMP_CAP_WINDOW);
	/* A caller of the first version has no such member. */
	memset(&i, 0xff, sizeof(i));
	assert_int_equal(vmp_get_info(p[0], &i, 160), 0);
	assert_int_equal(i.first_vector, UINT32_MAX);
	vmp_close(p[0]);
	vmp_close(p[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(descriptors),
		cmocka_unit_test(only_devices),
		cmocka_unit_test(options),
		cmocka_unit_test(facts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
