// SPDX-License-Identifier: MIT
/*
 * What no real machine does on demand: a device that is reset just as it is rung, two
 * threads that find it out at once, a system that refuses random numbers or a system
 * call. The device here is one of the library's own backends, of this test's making.
 */
#include "forbid.h"
#include "test.h"

#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/portal_layout.h>

#include "lib/internal.h"

#define SIZE (256 << 10)

/*
 * Two machines on one bus of doorbells: end 0's is a device whose id changes when it is
 * reset. Rings to an id that nobody has are lost, as by a device.
 */
static struct bus {
	uint32_t id[2];
	uint32_t generation[2];
	int bell[2];
	int reset_by_ring;	/* the next ring of end 0 finds it reset */
	int refreshes;
	uint32_t gone;		/* of either end, as the other is told */
	void (*rung)(unsigned int i);
} bus;

struct end { unsigned int i; };

static void reset(unsigned int i)
{
	__atomic_fetch_add(&bus.id[i], 10, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&bus.generation[i], 1, __ATOMIC_SEQ_CST);
}

static void wake(unsigned int i)
{
	uint64_t one = 1;

	assert_int_equal(write(bus.bell[i], &one, sizeof(one)), sizeof(one));
}

static int bus_ring(struct vmp *p, uint32_t peer, uint32_t vector)
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		if (__atomic_load_n(&bus.id[i], __ATOMIC_SEQ_CST) != peer)
			continue;
		if (bus.rung)
			bus.rung(i);
		/* Both events are one to who looks afterwards. */
		if (i == 0 && __atomic_exchange_n(&bus.reset_by_ring, 0, __ATOMIC_SEQ_CST))
			reset(0);
		wake(i);
	}
	return 0;
}

static int bus_eventfd(struct vmp *p, uint32_t vector)
{
	return bus.bell[((struct end *)p->priv)->i];
}

static int bus_refresh(struct vmp *p)
{
	unsigned int i = ((struct end *)p->priv)->i;

	p->info.peer_id = __atomic_load_n(&bus.id[i], __ATOMIC_SEQ_CST);
	p->info.generation = __atomic_load_n(&bus.generation[i], __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&bus.refreshes, 1, __ATOMIC_SEQ_CST);
	return 0;
}

static uint32_t bus_gone(struct vmp *p, uint32_t peer, uint64_t tenure)
{
	return __atomic_load_n(&bus.gone, __ATOMIC_SEQ_CST);
}

static const struct vmp_ops bus_ops = {
	.transport = "bus",
	.ring = bus_ring,
	.eventfd = bus_eventfd,
	.refresh = bus_refresh,
	.gone = bus_gone,
	.keeps_eventfds = true,
};

struct scene {
	struct end end[2];
	struct vmp *p[2];
	struct vmp_channel *ch[2];
	struct portal_chan_side *side;
	void *mem;
};

static void set_scene_with(struct scene *s, uint32_t gone)
{
	unsigned int i;

	memset(&bus, 0, sizeof(bus));
	bus.gone = gone;
	s->mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(s->mem, MAP_FAILED);
	s->side = s->mem;
	for (i = 0; i < 2; i++) {
		struct vmp_channel_opts o = { .size = sizeof(o), .side = i, .spin_us = 1 };

		s->end[i].i = i;
		bus.id[i] = i + 1;
		bus.bell[i] = eventfd(0, EFD_NONBLOCK);
		s->p[i] = vmp_alloc(&bus_ops, 0);
		assert_non_null(s->p[i]);
		s->p[i]->priv = &s->end[i];
		s->p[i]->base = s->mem;
		s->p[i]->info.size = SIZE;
		s->p[i]->info.vectors = 1;
		s->p[i]->info.peer_id = bus.id[i];
		s->p[i]->info.caps = VMP_CAP_RING | VMP_CAP_EVENTS;
		assert_int_equal(vmp_channel_open(&s->ch[i], s->p[i], &o), 0);
	}
	for (i = 0; i < 20; i++)
		vmp_channel_connect(s->ch[i & 1], 0);
	assert_int_equal(vmp_channel_connect(s->ch[0], 0), 0);
	assert_int_equal(vmp_channel_connect(s->ch[1], 0), 0);
}

static void set_scene(struct scene *s)
{
	set_scene_with(s, 0);
}

static void end_scene(struct scene *s)
{
	unsigned int i;

	/* The second to close rings the first. */
	for (i = 0; i < 2; i++)
		vmp_channel_close(s->ch[i]);
	for (i = 0; i < 2; i++) {
		vmp_free(s->p[i]);
		close(bus.bell[i]);
	}
	munmap(s->mem, SIZE);
}

static uint32_t published_id(const struct scene *s)
{
	return (uint32_t)__atomic_load_n(&s->side[0].address, __ATOMIC_SEQ_CST);
}

static struct portal_chan_side *seen_side;
static uint64_t seen_rung;

static void see_rung(unsigned int i)
{
	seen_rung = __atomic_load_n(&seen_side[!i].rx_rung, __ATOMIC_ACQUIRE);
}

static void told_gone(struct scene *s, uint32_t n)
{
	__atomic_store_n(&bus.gone, n, __ATOMIC_SEQ_CST);
	vmp_notice(s->p[0]);
}

/* A machine that nobody told of is told of at last: that is no death. Its death is one. */
static void a_row_comes_late(void **state)
{
	struct scene s;
	char c;

	set_scene_with(&s, 1);
	told_gone(&s, 0);
	assert_int_equal(vmp_recv(s.ch[0], &c, 1, 50), -ETIMEDOUT);
	assert_int_equal(vmp_send(s.ch[0], "x", 1, 0, 0), 0);
	assert_int_equal(vmp_recv(s.ch[1], &c, 1, PATIENCE_MS), 1);
	told_gone(&s, 1);
	assert_int_equal(vmp_recv(s.ch[0], &c, 1, PATIENCE_MS), -ECONNRESET);
	end_scene(&s);
}

/* Who is rung finds the reason when it looks: it is there before the doorbell is. */
static void reason_before_the_ring(void **state)
{
	struct scene s;
	char c;

	set_scene(&s);
	seen_side = s.side;
	assert_true(vmp_channel_fd(s.ch[0]) >= 0);
	while (vmp_recv(s.ch[0], &c, 1, 0) >= 0)
		;
	assert_true(s.side[0].rx_armed != 0);
	bus.rung = see_rung;
	assert_int_equal(vmp_send(s.ch[1], "x", 1, 0, 0), 0);
	bus.rung = NULL;
	assert_int_equal(seen_rung, s.side[0].rx_armed);
	end_scene(&s);
}

struct reader { struct vmp_channel *ch; int left, result; };

static void *read_all(void *arg)
{
	struct reader *r = arg;
	char c;

	while (r->left && !r->result) {
		ssize_t n = vmp_recv(r->ch, &c, 1, PATIENCE_MS);

		r->result = n < 0 ? (int)n : 0;
		__atomic_fetch_sub(&r->left, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static bool soon(const struct scene *s, uint32_t id)
{
	int i;

	for (i = 0; i < 1000 && published_id(s) != id; i++)
		usleep(1000);
	return published_id(s) == id;
}

/*
 * A reset and a ring are one event to the sleeper, who takes it for the ring that it
 * is, too. It must find out that its address is another now: nobody else will tell it.
 */
static void reset_behind_a_ring(void **state)
{
	struct reader r = { .left = 60 };
	struct scene s;
	pthread_t t;
	int i;

	alarm(ALARM_S);
	set_scene(&s);
	r.ch = s.ch[0];
	pthread_create(&t, NULL, read_all, &r);
	for (i = 0; i < 60; i++) {
		usleep(i % 3 ? 2000 : 30000);
		/* Trusted by then: it sleeps for ever, and only a ring ends that. */
		if (i == 20 || i == 40) {
			__atomic_store_n(&bus.reset_by_ring, 1, __ATOMIC_SEQ_CST);
			assert_int_equal(vmp_send(s.ch[1], "x", 1, 0, 0), 0);
			assert_true(soon(&s, bus.id[0]));
			continue;
		}
		assert_int_equal(vmp_send(s.ch[1], "x", 1, 0, 0), 0);
	}
	pthread_join(t, NULL);
	assert_int_equal(r.result, 0);
	/* And it does not look more often than it sleeps, nor for ever. */
	i = bus.refreshes;
	assert_true(i < 200);
	end_scene(&s);
}

/* The same for who waits on the descriptor. */
static void reset_behind_a_ring_by_fd(void **state)
{
	struct scene s;
	int fd, i;
	char c;

	alarm(ALARM_S);
	set_scene(&s);
	fd = vmp_channel_fd(s.ch[0]);
	for (i = 0; i < 50; i++) {
		while (vmp_recv(s.ch[0], &c, 1, 0) >= 0)
			;
		if (i == 40)
			__atomic_store_n(&bus.reset_by_ring, 1, __ATOMIC_SEQ_CST);
		assert_int_equal(vmp_send(s.ch[1], "x", 1, 0, 0), 0);
	}
	for (i = 0; i < 100 && published_id(&s) != bus.id[0]; i++) {
		struct timeval tv = { 0, 200000 };
		fd_set set;

		while (vmp_recv(s.ch[0], &c, 1, 0) >= 0)
			;
		FD_ZERO(&set);
		FD_SET(fd, &set);
		if (!select(fd + 1, &set, NULL, NULL, &tv))
			break;
	}
	assert_int_equal(published_id(&s), bus.id[0]);
	end_scene(&s);
}

/* How often it goes to sleep in a fifth of a second in which nothing comes. */
static unsigned int sleeps(struct vmp_channel *ch)
{
	struct vmp_stats a, b;
	char c;

	vmp_channel_stats(ch, &a, sizeof(a));
	assert_int_equal(vmp_recv(ch, &c, 1, 200), -ETIMEDOUT);
	vmp_channel_stats(ch, &b, sizeof(b));
	return (unsigned int)(b.sleeps - a.sleeps);
}

/* Messages that find it asleep: then it has heard its doorbell, and trusts it. */
static void hear_the_bell(struct scene *s)
{
	struct reader r = { .ch = s->ch[0], .left = 20 };
	pthread_t t;
	int i;

	pthread_create(&t, NULL, read_all, &r);
	for (i = 0; i < 20; i++) {
		usleep(5000);
		assert_int_equal(vmp_send(s->ch[1], "x", 1, 0, 0), 0);
	}
	pthread_join(t, NULL);
	assert_int_equal(r.result, 0);
}

/* On a busy machine it may be awake whenever a message comes. */
static bool comes_to_trust(struct scene *s)
{
	int i;

	for (i = 0; i < 20; i++) {
		hear_the_bell(s);
		if (sleeps(s->ch[0]) <= 3)
			return true;
	}
	return false;
}

/*
 * A bell that nobody rang is the device's: it looks, and says the new address at once;
 * and its doorbell has to prove itself anew, until when its sleeps end by themselves.
 */
static void reset_alone(void **state)
{
	struct scene s;
	char c;

	alarm(ALARM_S);
	set_scene(&s);
	assert_true(sleeps(s.ch[0]) > 4);
	assert_true(comes_to_trust(&s));
	reset(0);
	wake(0);
	assert_int_equal(vmp_recv(s.ch[0], &c, 1, 50), -ETIMEDOUT);
	assert_int_equal(published_id(&s), bus.id[0]);
	assert_true(sleeps(s.ch[0]) > 4);
	assert_true(comes_to_trust(&s));
	end_scene(&s);
}

/*
 * A bell is no proof: what says who rang is the number of this very sleep. Anybody who
 * can reach the doorbell rings it here, and the other end says nothing, or what is old.
 */
static void strangers_ring(void **state)
{
	struct scene s;
	char c;
	int i;

	alarm(ALARM_S);
	set_scene(&s);
	for (i = 0; i < 30; i++) {
		s.side[1].rx_rung = s.side[0].rx_armed - (uint64_t)(i % 3);
		wake(0);
		assert_int_equal(vmp_recv(s.ch[0], &c, 1, 3), -ETIMEDOUT);
	}
	assert_true(sleeps(s.ch[0]) > 4);
	end_scene(&s);
}

/* ---- Two threads see two resets: the older answer is not published last. ---- */

static __thread bool slow_here;
static int slow_unlocks, hold_at, overtaken;
static pthread_mutex_t *slow_lock;

int __real_pthread_mutex_unlock(pthread_mutex_t *m);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *m);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *m)
{
	int r = __real_pthread_mutex_unlock(m);

	int i;

	/*
	 * Between what a thread has learnt and what it does with it: until the other
	 * thread has passed by, or cannot.
	 */
	if (slow_here && m == slow_lock &&
	    __atomic_add_fetch(&slow_unlocks, 1, __ATOMIC_SEQ_CST) == hold_at)
		for (i = 0; i < 2000 && !__atomic_load_n(&overtaken, __ATOMIC_SEQ_CST); i++)
			usleep(1000);
	return r;
}

static void *look_slowly(void *arg)
{
	struct scene *s = arg;
	char c;

	slow_here = true;
	/* Out of time when it has looked: it does not look again. */
	vmp_recv(s->ch[0], &c, 1, 30);
	slow_here = false;
	return NULL;
}

static void two_look_at_once(void **state)
{
	struct scene s;
	uint64_t big[500];
	pthread_t t;
	int i;

	alarm(ALARM_S);
	for (hold_at = 1; hold_at <= 3; hold_at++) {
		set_scene(&s);
		slow_lock = &s.p[0]->lock;
		slow_unlocks = overtaken = 0;
		while (!vmp_send(s.ch[0], big, sizeof(big), 0, 0))
			;
		reset(0);
		wake(0);
		pthread_create(&t, NULL, look_slowly, &s);
		/* It is somewhere between the first and the last of its steps. */
		for (i = 0; i < 5000 && __atomic_load_n(&slow_unlocks, __ATOMIC_SEQ_CST) < hold_at; i++)
			usleep(1000);
		reset(0);
		wake(0);
		assert_int_equal(vmp_send(s.ch[0], big, sizeof(big), 0, 60), -ETIMEDOUT);
		__atomic_store_n(&overtaken, 1, __ATOMIC_SEQ_CST);
		pthread_join(t, NULL);
		slow_lock = NULL;
		assert_int_equal(published_id(&s), bus.id[0]);
		end_scene(&s);
	}
}

/* ---- What the system refuses ---- */

static int no_random;

ssize_t __real_getrandom(void *buf, size_t len, unsigned int flags);
ssize_t __wrap_getrandom(void *buf, size_t len, unsigned int flags);
ssize_t __wrap_getrandom(void *buf, size_t len, unsigned int flags)
{
	if (!no_random)
		return __real_getrandom(buf, len, flags);
	errno = EPERM;
	return -1;
}

/* No random numbers: refused, and nothing of the caller's is closed. */
static void no_random_numbers(void **state)
{
	struct vmp_channel *ch = (void *)1;
	struct vmp *p[2];
	int before;

	assert_int_equal(vmp_pair(p, SIZE, 1), 0);
	before = fd_count();
	no_random = 1;
	assert_int_equal(vmp_channel_open(&ch, p[0], NULL), -EPERM);
	no_random = 0;
	assert_null(ch);
	assert_non_null(strstr(vmp_errmsg(), "getrandom"));
	assert_int_equal(fd_count(), before);
	assert_true(fcntl(0, F_GETFD) >= 0);
	vmp_close(p[0]);
	vmp_close(p[1]);
}

/* What a file's file system says of itself, if it is not 0. */
static uint32_t other_fs;

int __real_fstatfs(int fd, struct statfs *s);
int __wrap_fstatfs(int fd, struct statfs *s);
int __wrap_fstatfs(int fd, struct statfs *s)
{
	int r = __real_fstatfs(fd, s);

	if (other_fs)
		s->f_type = (__typeof__(s->f_type))other_fs;
	return r;
}

/*
 * Files whose mappings are not coherent: each by its name. (A real FUSE is mounted in
 * backends.c; servers of the others are not to be had in a unit test.)
 */
static void incoherent_file_systems(void **state)
{
	static const struct { uint32_t magic; const char *name; } fs[] = {
		{ 0x01021997, "is on 9p," }, { 0x6969, "is on NFS," }, { 0xfe534d42, "is on SMB2," },
		{ 0xff534d42, "is on CIFS," }, { 0x517b, "is on SMB," }, { 0x65735546, "is on FUSE," },
	};
	char path[] = "/tmp/vmportal-inner-XXXXXX", uri[80];
	int fd = mkstemp(path);
	struct vmp *p;
	size_t i;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 65536), 0);
	snprintf(uri, sizeof(uri), "file:%s", path);
	for (i = 0; i < sizeof(fs) / sizeof(fs[0]); i++) {
		other_fs = fs[i].magic;
		assert_int_equal(vmp_open(&p, uri, 0), -EOPNOTSUPP);
		assert_non_null(strstr(vmp_errmsg(), fs[i].name));
		assert_non_null(strstr(vmp_errmsg(), "use a file in /dev/shm"));
	}
	other_fs = 0;
	assert_int_equal(vmp_open(&p, uri, 0), 0);
	vmp_close(p);
	close(fd);
	unlink(path);
}

/* A sandbox that is older than epoll_pwait2() says EPERM, an old kernel ENOSYS. */
static void no_epoll_pwait2(void **state)
{
	static const unsigned int errs[] = { EPERM, ENOSYS };
	struct vmp *p[2];
	size_t i;

	assert_int_equal(vmp_pair(p, SIZE, 0), 0);
	for (i = 0; i < 2; i++) {
		pid_t pid = fork();
		int status;

		if (!pid) {
			struct vmp_channel *ch;
			char c;
			int r;

			if (vmp_channel_open(&ch, p[0], NULL) || forbid(SYS_epoll_pwait2, errs[i]))
				_exit(1);
			r = (int)vmp_recv(ch, &c, 1, 30);
			_exit(r == -ETIMEDOUT ? 0 : -r);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
	vmp_close(p[0]);
	vmp_close(p[1]);
}

/* ---- A device's child ---- */

static uint32_t *doorbells;	/* shared with children */

static int count_rings(struct vmp *p, uint32_t peer, uint32_t vector)
{
	(*doorbells)++;
	return 0;
}

static int count_eventfds(struct vmp *p, uint32_t vector)
{
	(*doorbells)++;
	return 0;
}

static const struct vmp_ops devlike_ops = {
	.transport = "devlike", .ring = count_rings, .eventfd = count_eventfds, .keeps_eventfds = true,
	.own_process = true,
};

/* The doorbell page of a device is its opener's: no ring of a child gets as far as that. */
static void no_doorbell_in_a_child(void **state)
{
	struct vmp *p = vmp_alloc(&devlike_ops, 0);
	int status;
	pid_t pid;

	doorbells = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(doorbells, MAP_FAILED);
	p->info.caps = VMP_CAP_RING | VMP_CAP_EVENTS;
	p->info.vectors = 1;
	assert_int_equal(vmp_ring(p, 0, 0), 0);
	pid = fork();
	if (!pid)
		_exit(vmp_ring(p, 0, 0) != -EBUSY || vmp_eventfd(p, 0) != -EBUSY || !strstr(vmp_errmsg(), "its child"));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(*doorbells, 1);
	munmap(doorbells, 4096);
	vmp_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reset_alone),
		cmocka_unit_test(a_row_comes_late),
		cmocka_unit_test(reason_before_the_ring),
		cmocka_unit_test(strangers_ring),
		cmocka_unit_test(reset_behind_a_ring),
		cmocka_unit_test(reset_behind_a_ring_by_fd),
		cmocka_unit_test(two_look_at_once),
		cmocka_unit_test(no_random_numbers),
		cmocka_unit_test(incoherent_file_systems),
		cmocka_unit_test(no_epoll_pwait2),
		cmocka_unit_test(no_doorbell_in_a_child),
	};

	return cmocka_run_group_tests_name("inner", tests, NULL, NULL);
}
