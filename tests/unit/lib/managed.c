// SPDX-License-Identifier: MIT
/* Managed portals through the public header: mode, formatting, looking, channels. */
#include "forbid.h"
#include "test.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vmportal.h>

#include "layout_fix.h"

static struct vmp *open_memfd(int fd, unsigned int flags)
{
	struct vmp *p;
	char uri[32];

	snprintf(uri, sizeof(uri), "memfd:fd=%d", fd);
	assert_int_equal(vmp_open(&p, uri, flags), 0);
	return p;
}

static int new_memfd(size_t size)
{
	int fd = memfd_create("managed", MFD_CLOEXEC);

	assert_true(fd >= 0 && !ftruncate(fd, (off_t)size));
	return fd;
}

static uint32_t mode(struct vmp *p)
{
	struct vmp_info i;

	assert_int_equal(vmp_get_info(p, &i, sizeof(i)), 0);
	return i.mode;
}

static char *base_of(struct vmp *p)
{
	void *base;

	assert_int_equal(vmp_map(p, &base, NULL), 0);
	return base;
}

/* Another process's mapping, so to speak: what the library does to its own is not done here. */
static char *another_mapping(int fd)
{
	char *base = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	assert_ptr_not_equal(base, MAP_FAILED);
	return base;
}

static void note_name(void *arg, const struct vmp_damage *d)
{
	const char **name = arg;

	if (name && !d->note)
		*name = d->name;
}

static int count_names(struct vmp *p, const char **name)
{
	return vmp_check(p, note_name, name);
}

static void test_format(void **state)
{
	struct vmp_format_opts o = { .size = sizeof(o), .peers = 4, .sessions = 8, .objects = 16,
				     .name = "demo", .uuid = { 9, 9 } };
	int fd = new_memfd(1 << 20);
	struct vmp *p = open_memfd(fd, 0), *q;
	const char *name = NULL;
	struct vmp_layout l;

	assert_int_equal(mode(p), VMP_MODE_RAW);
	assert_int_equal(vmp_get_layout(p, &l, sizeof(l)), -ENODATA);
	assert_int_equal(count_names(p, &name), -ENODATA);
	assert_int_equal(vmp_format(p, &o), 0);
	assert_int_equal(mode(p), VMP_MODE_MANAGED);
	assert_int_equal(vmp_get_layout(p, &l, sizeof(l)), 0);
	assert_int_equal(l.peers, 4);
	assert_int_equal(l.sessions, 8);
	assert_int_equal(l.objects, 16);
	assert_string_equal(l.name, "demo");
	assert_memory_equal(l.uuid, o.uuid, 16);
	assert_int_equal(l.protected_size % 65536, 0);
	assert_int_equal(l.area[6].offset % 65536, 0);
	assert_true(l.incarnation && l.created);
	assert_int_equal(count_names(p, &name), 0);
	q = open_memfd(fd, VMP_RDONLY);
	assert_int_equal(mode(q), VMP_MODE_MANAGED);
	assert_int_equal(count_names(q, &name), 0);
	assert_int_equal(vmp_format(q, &o), -EACCES);
	vmp_close(q);
	vmp_close(p);
	close(fd);
}

/* What is refused, and that nothing was changed then. */
static void test_refused(void **state)
{
	struct vmp_format_opts o = { .size = sizeof(o) }, bad;
	int fd = new_memfd(1 << 20);
	struct vmp *p = open_memfd(fd, 0), *small = NULL;
	char *other = another_mapping(fd);
	struct portal_peer *peer;
	struct vmp_layout l, m;

	bad = o, bad.size = 8;
	assert_int_equal(vmp_format(p, &bad), -EINVAL);
	bad = o, bad.flags = 4;
	assert_int_equal(vmp_format(p, &bad), -EINVAL);
	bad = o, bad.reserved = 1;
	assert_int_equal(vmp_format(p, &bad), -EINVAL);
	bad = o, memset(bad.name, 'x', 64);
	assert_int_equal(vmp_format(p, &bad), -ENAMETOOLONG);
	assert_non_null(strstr(vmp_errmsg(), "63 bytes"));
	bad = o, bad.name[0] = 'x', bad.name[1] = '\n';
	assert_int_equal(vmp_format(p, &bad), -EINVAL);
	bad = o, bad.name[0] = 'x', bad.name[63] = 'x';
	assert_int_equal(vmp_format(p, &bad), -EINVAL);
	bad = o, bad.peers = 5000;
	assert_int_equal(vmp_format(p, &bad), -EINVAL);
	bad = o, bad.peers = 100, bad.sessions = 600;
	assert_int_equal(vmp_format(p, &bad), -EFBIG);
	assert_int_equal(vmp_open(&small, "memfd:size=128K", 0), 0);
	assert_int_equal(vmp_format(small, &o), -EFBIG);
	assert_non_null(strstr(vmp_errmsg(), "192K"));
	vmp_close(small);

	base_of(p)[5000] = 1;
	assert_int_equal(vmp_format(p, &o), -ENOTEMPTY);
	base_of(p)[5000] = 0;
	base_of(p)[(1 << 20) - 1] = 7;	/* the data are nobody's business */
	assert_int_equal(vmp_format(p, &o), 0);
	assert_int_equal(base_of(p)[(1 << 20) - 1], 7);
	assert_int_equal(vmp_get_layout(p, &l, sizeof(l)), 0);
	assert_int_equal(vmp_format(p, &o), -EEXIST);

	peer = (struct portal_peer *)(void *)(other + l.area[0].offset) + 1;
	peer->claim = 1ULL << 32 | 5;
	peer->life = 1 << 16 | PORTAL_LIFE_ALIVE;
	o.flags = VMP_FORMAT_FORCE;
	assert_int_equal(vmp_format(p, &o), -EBUSY);
	assert_int_equal(vmp_get_layout(p, &m, sizeof(m)), 0);
	assert_int_equal(m.incarnation, l.incarnation);
	peer->dead = peer->claim;
	assert_int_equal(vmp_format(p, &o), 0);
	assert_int_equal(vmp_get_layout(p, &m, sizeof(m)), 0);
	assert_true(m.incarnation != l.incarnation);
	munmap(other, 1 << 20);
	vmp_close(p);
	close(fd);
}

/* Bytes that change later change neither the mode nor where anything is. */
static void test_mode_stays(void **state)
{
	int fd = new_memfd(1 << 20);
	struct vmp *raw = open_memfd(fd, 0), *p = open_memfd(fd, 0);
	struct vmp_channel_opts c = { .size = sizeof(c) };
	struct vmp_channel *ch;
	struct vmp_layout l;
	struct vmp_peer peer;

	assert_int_equal(vmp_format(p, NULL), 0);
	assert_int_equal(mode(raw), VMP_MODE_RAW);
	assert_int_equal(vmp_get_layout(raw, &l, sizeof(l)), -ENODATA);
	assert_int_equal(vmp_get_layout(p, &l, sizeof(l)), 0);
	memset(base_of(raw), 0xff, 1 << 20);
	assert_int_equal(mode(p), VMP_MODE_MANAGED);
	assert_int_equal(vmp_get_peer(p, l.peers - 1, &peer, sizeof(peer)), 0);
	assert_int_equal(vmp_get_peer(p, l.peers, &peer, sizeof(peer)), -EINVAL);
	assert_int_equal(vmp_check(p, NULL, NULL), -ENODATA);
	assert_int_equal(vmp_channel_open(&ch, raw, &c), 0);
	vmp_channel_close(ch);
	assert_int_equal(vmp_set_mode(raw, VMP_MODE_MANAGED), -ENODATA);
	assert_int_equal(vmp_set_mode(raw, 2), -EINVAL);
	assert_int_equal(vmp_set_mode(p, VMP_MODE_RAW), 0);
	assert_int_equal(mode(p), VMP_MODE_RAW);
	assert_int_equal(vmp_format(p, &(struct vmp_format_opts){ .size = sizeof(struct vmp_format_opts),
								  .flags = VMP_FORMAT_FORCE }), 0);
	assert_int_equal(mode(raw), VMP_MODE_RAW);
	assert_int_equal(vmp_set_mode(raw, VMP_MODE_MANAGED), 0);
	assert_int_equal(mode(raw), VMP_MODE_MANAGED);
	vmp_close(raw);
	vmp_close(p);
	close(fd);
}

/* Channels lie in the data, and nowhere else. */
static void test_channels(void **state)
{
	int fd = new_memfd(1 << 20);
	struct vmp *p = open_memfd(fd, 0), *q;
	struct vmp_channel_opts c = { .size = sizeof(c), .side = 1 };
	struct vmp_channel *a, *b;
	char *other = another_mapping(fd);
	struct vmp_layout l;
	const char *name;
	char buf[8];
	int i;

	assert_int_equal(vmp_format(p, NULL), 0);
	q = open_memfd(fd, 0);
	assert_int_equal(vmp_get_layout(p, &l, sizeof(l)), 0);
	assert_int_equal(vmp_channel_open(&a, p, NULL), 0);
	assert_int_equal(vmp_channel_open(&b, q, &c), 0);
	/* Each look is a step of the handshake. */
	for (i = 0; i < 10 && vmp_channel_connect(a, 0); i++)
		assert_int_equal(vmp_recv(b, buf, 8, 0), -EAGAIN);
	assert_int_equal(vmp_send(a, "hello", 5, 0, PATIENCE_MS), 0);
	assert_int_equal(vmp_recv(b, buf, 8, PATIENCE_MS), 5);
	vmp_channel_close(a);
	vmp_channel_close(b);
	assert_int_equal(count_names(p, &name), 0);
	c.offset = 4096;
	assert_int_equal(vmp_channel_open(&a, q, &c), -EACCES);
	c.offset = l.area[6].offset - 4096;
	assert_int_equal(vmp_channel_open(&a, q, &c), -EACCES);
	c.offset = l.area[6].offset;
	c.length = l.area[6].length + 4096;
	assert_int_equal(vmp_channel_open(&a, q, &c), -EINVAL);
	vmp_close(q);
	/* Damaged, or from the future: opened for a look, but for nothing else. */
	other[20] ^= 1;
	q = open_memfd(fd, 0);
	assert_int_equal(vmp_channel_open(&a, q, NULL), -EUCLEAN);
	assert_int_equal(vmp_get_layout(q, &l, sizeof(l)), 0);
	assert_int_equal(l.flags, VMP_LAYOUT_DAMAGED);
	assert_true(count_names(q, &name) > 0);
	assert_string_equal(name, "superblock-checksum");
	vmp_close(q);
	munmap(other, 1 << 20);
	vmp_close(p);
	close(fd);
}

#define says_which(call) do { \
	assert_int_equal(call, -EPROTONOSUPPORT); \
	assert_non_null(strstr(vmp_errmsg(), "0x10")); \
} while (0)

static void test_future(void **state)
{
	int fd = new_memfd(1 << 20);
	struct vmp *p = open_memfd(fd, 0), *q;
	struct vmp_channel *ch;
	struct portal_super *s;
	struct vmp_layout l;

	assert_int_equal(vmp_format(p, NULL), 0);
	s = (struct portal_super *)(void *)another_mapping(fd);
	s->incompat = 0x10;
	s->checksum = layout_super_checksum(s);
	q = open_memfd(fd, 0);
	says_which(vmp_channel_open(&ch, q, NULL));
	says_which(vmp_get_layout(q, &l, sizeof(l)));
	says_which(vmp_check(q, NULL, NULL));
	says_which(vmp_set_mode(q, VMP_MODE_MANAGED));
	munmap(s, 1 << 20);
	vmp_close(q);
	vmp_close(p);
	close(fd);
}

/* ---- Who can store where --------------------------------------------------------- */

/* A stray store reaches the data, not the tables. */
static void guarded(struct vmp *p, bool yes)
{
	struct vmp_layout l;

	assert_int_equal(vmp_get_layout(p, &l, sizeof(l)), 0);
	assert_int_equal(can_store(base_of(p)), !yes);
	assert_int_equal(can_store(base_of(p) + l.protected_size - 8), !yes);
	assert_true(can_store(base_of(p) + l.protected_size));
	assert_true(can_store(base_of(p) + (1 << 20) - 8));
}

/* Somebody else formats at the same moment. */
static bool overtaken;

int __real_layout_write(void *base, struct portal_super *s, uint64_t was);
int __wrap_layout_write(void *base, struct portal_super *s, uint64_t was)
{
	return overtaken ? -EBUSY : __real_layout_write(base, s, was);
}

static void test_guarded(void **state)
{
	struct vmp_format_opts small = { .size = sizeof(small), .flags = VMP_FORMAT_FORCE, .peers = 2, .sessions = 2 },
			       large = { .size = sizeof(large), .flags = VMP_FORMAT_FORCE, .peers = 64, .sessions = 64 };
	int fd = new_memfd(1 << 20);
	struct vmp *p = open_memfd(fd, 0), *q;
	uint64_t is;
	struct vmp_layout l;

	assert_true(can_store(base_of(p)));
	assert_int_equal(vmp_format(p, &small), 0);
	guarded(p, true);
	assert_int_equal(vmp_get_layout(p, &l, sizeof(l)), 0);
	is = l.protected_size;
	/* Refused, or done: guarded afterwards, and no more than the tables. */
	assert_int_equal(vmp_format(p, NULL), -EEXIST);
	guarded(p, true);
	overtaken = true;
	assert_int_equal(vmp_format(p, &small), -EBUSY);
	overtaken = false;
	guarded(p, true);
	assert_int_equal(vmp_format(p, &large), 0);
	guarded(p, true);
	assert_int_equal(vmp_get_layout(p, &l, sizeof(l)), 0);
	assert_true(l.protected_size > is);
	q = open_memfd(fd, 0);
	guarded(q, true);
	vmp_close(q);
	assert_int_equal(vmp_format(p, &small), 0);
	guarded(p, true);
	/* What is raw is the application's. */
	assert_int_equal(vmp_set_mode(p, VMP_MODE_RAW), 0);
	assert_true(can_store(base_of(p)));
	assert_int_equal(vmp_set_mode(p, VMP_MODE_MANAGED), 0);
	guarded(p, true);
	/* Opened read-only it stays so, in whatever mode. */
	q = open_memfd(fd, VMP_RDONLY);
	assert_int_equal(vmp_set_mode(q, VMP_MODE_RAW), 0);
	assert_false(can_store(base_of(q)));
	vmp_close(q);
	vmp_close(p);
	close(fd);
}

/* The ends of a pair have each their own; memory of the caller's own is his affair. */
static void test_guarded_of_others(void **state)
{
	struct vmp *pair[2], *p;
	char *other;
	int fd;

	assert_int_equal(vmp_pair(pair, 1 << 20, 1), 0);
	assert_int_equal(vmp_format(pair[0], NULL), 0);
	guarded(pair[0], true);
	assert_int_equal(vmp_set_mode(pair[1], VMP_MODE_MANAGED), 0);
	guarded(pair[1], true);
	vmp_close(pair[0]);
	vmp_close(pair[1]);

	fd = new_memfd(1 << 20);
	other = another_mapping(fd);
	assert_int_equal(vmp_attach(&p, other, 1 << 20, NULL, NULL, 0, VMP_PEER_NONE), 0);
	assert_int_equal(vmp_format(p, NULL), 0);
	guarded(p, false);
	vmp_close(p);
	/* Damaged, but its places are known; or beyond recognition. */
	other[20] ^= 1;
	p = open_memfd(fd, 0);
	guarded(p, true);
	vmp_close(p);
	other[0] ^= 1;
	p = open_memfd(fd, 0);
	assert_true(can_store(base_of(p)));
	vmp_close(p);
	munmap(other, 1 << 20);
	close(fd);
}

/* In a child whose mprotect() fails by @err: what becomes of opening it, and its tables. */
static int opened_without(int fd, unsigned int err, bool *guards)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		struct vmp *p;
		char uri[32];
		int r;

		snprintf(uri, sizeof(uri), "memfd:fd=%d", fd);
		if (forbid(SYS_mprotect, err))
			_exit(100);
		r = vmp_open(&p, uri, 0);
		if (r && !strstr(vmp_errmsg(), "cannot map its tables read-only"))
			_exit(101);
		_exit(r ? -r : can_store(base_of(p)) ? 0 : 99);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	*guards = WEXITSTATUS(status) == 99;
	return *guards ? 0 : WEXITSTATUS(status);
}

/* Huge pages cannot be divided, which is no reason not to open it; all else is one. */
static void test_not_guarded(void **state)
{
	int fd = new_memfd(1 << 20);
	struct vmp *p = open_memfd(fd, 0);
	bool guards;

	assert_int_equal(vmp_format(p, NULL), 0);
	assert_int_equal(opened_without(fd, EINVAL, &guards), 0);
	assert_false(guards);
	assert_int_equal(opened_without(fd, ENOMEM, &guards), ENOMEM);
	vmp_close(p);
	close(fd);
}

/* Rows as people see them. */
static void test_rows(void **state)
{
	struct vmp_session s;
	struct vmp_object o;
	struct vmp_peer peer;
	struct vmp_layout l;
	struct vmp_use u;
	struct fix f;
	struct vmp *p;

	fix_new(&f);
	fix_populate(&f);
	fix_redo(&f);
	f.peer[3].name[0] = '\033';
	assert_int_equal(vmp_attach(&p, f.base, FIX_SIZE, NULL, NULL, 0, VMP_PEER_NONE), 0);
	assert_int_equal(mode(p), VMP_MODE_MANAGED);
	assert_int_equal(vmp_get_layout(p, &l, sizeof(l)), 0);
	assert_int_equal(l.generation, 4);
	assert_int_equal(l.redo, 6);
	assert_int_equal(l.redo_count, 2);
	assert_int_equal(l.lock_owner, 3ULL << 16 | FIX_SESSIONS);
	assert_int_equal(vmp_get_peer(p, 1, &peer, sizeof(peer)), 0);
	assert_int_equal(peer.state, VMP_STATE_ALIVE);
	assert_int_equal(peer.address, 8);
	f.peer[1].suspect = GUEST_CLAIM;
	assert_int_equal(vmp_get_peer(p, 1, &peer, sizeof(peer)), 0);
	assert_int_equal(peer.state, VMP_STATE_SUSPECT);
	assert_int_equal(vmp_get_peer(p, 2, &peer, sizeof(peer)), 0);
	assert_int_equal(peer.state, VMP_STATE_DEAD);
	assert_int_equal(vmp_get_peer(p, 3, &peer, sizeof(peer)), 0);
	assert_int_equal(peer.state, VMP_STATE_DEAD);
	assert_string_equal(peer.name, "?achine");
	assert_int_equal(vmp_get_peer(p, 4, &peer, 8), 0);
	assert_int_equal(peer.state, VMP_STATE_NONE);
	assert_int_equal(vmp_get_session(p, FIX_SESSIONS, &s, sizeof(s)), 0);
	assert_int_equal(s.state, VMP_STATE_ALIVE);
	assert_int_equal(s.token, 3ULL << 16 | FIX_SESSIONS);
	assert_int_equal(s.peer, 1);
	f.peer[1].dead = GUEST_CLAIM;
	assert_int_equal(vmp_get_session(p, FIX_SESSIONS, &s, sizeof(s)), 0);
	assert_int_equal(s.state, VMP_STATE_DEAD);
	assert_int_equal(vmp_get_object(p, 0, &o, sizeof(o)), 0);
	assert_string_equal(o.name, "alpha");
	assert_int_equal(o.bytes, o.length - 10);
	assert_int_equal(vmp_get_use(p, 0, &u, sizeof(u)), 0);
	assert_int_equal(u.object, o.id);
	assert_int_equal(vmp_get_use(p, l.uses, &u, sizeof(u)), -EINVAL);
	vmp_close(p);
	free(f.base);
}

/* A look at a file with holes makes no pages. */
static void test_holes(void **state)
{
	int fd = new_memfd(1 << 20);
	struct vmp *p = open_memfd(fd, VMP_RDONLY);
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_blocks, 0);
	vmp_close(p);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_format),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_mode_stays),
		cmocka_unit_test(test_channels),
		cmocka_unit_test(test_future),
		cmocka_unit_test(test_guarded),
		cmocka_unit_test(test_guarded_of_others),
		cmocka_unit_test(test_not_guarded),
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_holes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
