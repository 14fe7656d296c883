// SPDX-License-Identifier: MIT
/* Managed portals through the public header: mode, formatting, looking, channels. */
#include "test.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
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
	struct portal_peer *peer;
	struct vmp_layout l, m;

	bad = o, bad.size = 8;
	assert_int_equal(vmp_format(p, &bad), -EINVAL);
	bad = o, bad.flags = 4;
	assert_int_equal(vmp_format(p, &bad), -EINVAL);
	bad = o, bad.reserved = 1;
	assert_int_equal(vmp_format(p, &bad), -EINVAL);
	bad = o, memset(bad.name, 'x', 64);
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

	peer = (struct portal_peer *)(void *)(base_of(p) + l.area[0].offset) + 1;
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
	base_of(p)[20] ^= 1;
	q = open_memfd(fd, 0);
	assert_int_equal(vmp_channel_open(&a, q, NULL), -EUCLEAN);
	assert_int_equal(vmp_get_layout(q, &l, sizeof(l)), 0);
	assert_int_equal(l.flags, VMP_LAYOUT_DAMAGED);
	assert_true(count_names(q, &name) > 0);
	assert_string_equal(name, "superblock-checksum");
	vmp_close(q);
	vmp_close(p);
	close(fd);
}

static void test_future(void **state)
{
	int fd = new_memfd(1 << 20);
	struct vmp *p = open_memfd(fd, 0), *q;
	struct vmp_channel *ch;
	struct portal_super *s;
	struct vmp_layout l;

	assert_int_equal(vmp_format(p, NULL), 0);
	s = (struct portal_super *)(void *)base_of(p);
	s->incompat = 0x10;
	s->checksum = layout_super_checksum(s);
	q = open_memfd(fd, 0);
	assert_int_equal(vmp_channel_open(&ch, q, NULL), -EPROTONOSUPPORT);
	assert_non_null(strstr(vmp_errmsg(), "0x10"));
	assert_int_equal(vmp_get_layout(q, &l, sizeof(l)), -EPROTONOSUPPORT);
	assert_int_equal(vmp_check(q, NULL, NULL), -EPROTONOSUPPORT);
	vmp_close(q);
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
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_holes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
