/* SPDX-License-Identifier: MIT */
/*
 * A managed portal whose sessions are processes of this test. Either a real portald keeps
 * the tables, or the test does itself ("a house"): then it decides when a death is proven,
 * and who is suspect.
 */
#ifndef TESTS_UNIT_LIB_HOUSE_H
#define TESTS_UNIT_LIB_HOUSE_H

#include "daemon.h"

#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include <lib/efd.h>
#include <lib/named.h>

#define HOUSE_SIZE	(4U << 20)
#define HOUSE_SESSIONS	32U
#define HOUSE_CLAIM	0x5a5aULL	/* no address */

/**
 * struct house - the portal
 * @real: portald keeps it; @server: its process
 * @fd, @base, @s: the region, mapped, and its superblock (without portald)
 * @bell, @change: eventfds by row: a session's doorbell; that a table has changed
 * @gone: unplugged, for this process
 * @busy: pid of whoever writes a row (shared by all processes), or 0
 */
struct house {
	bool real, gone;
	pid_t server;
	int fd;
	char *base;
	struct portal_super s;
	int bell[HOUSE_SESSIONS], change[HOUSE_SESSIONS];
	atomic_int *busy;
};

static struct house house;

/* What a process that is to die does it at; see vmp_step(). */
static int house_die_at = -1, house_die_after;

/* What happens at a step, before it is gone on from, when it was passed so often; once. */
static int house_act_at = -1, house_act_after;
static void (*house_act)(void);

void vmp_step(enum vmp_step s)
{
	if ((int)s == house_act_at && !house_act_after--) {
		house_act_at = -1;
		house_act_after = 0;
		house_act();
	}
	if ((int)s == house_die_at && !house_die_after--)
		kill(getpid(), SIGKILL);
}

/* ---- Without portald ------------------------------------------------------------- */

static struct portal_session *house_row(uint32_t slot)
{
	return layout_row(house.base, &house.s, PORTAL_AREA_SESSIONS, slot);
}

static struct portal_peer *house_peer(void)
{
	return layout_row(house.base, &house.s, PORTAL_AREA_PEERS, 0);
}

static inline void house_changed(void)
{
	unsigned int i;

	__atomic_add_fetch((uint64_t *)&house_peer()->changes, 1, __ATOMIC_SEQ_CST);
	for (i = 0; i < HOUSE_SESSIONS; i++)
		vmp_efd_signal(house.change[i], false);
}

static inline void house_store_life(uint32_t slot, uint64_t sequence, uint32_t state)
{
	__atomic_store_n((uint64_t *)&house_row(slot)->life, sequence << 16 | state, __ATOMIC_SEQ_CST);
}

static uint32_t house_life(uint32_t slot, uint64_t *sequence)
{
	uint64_t life = __atomic_load_n((uint64_t *)&house_row(slot)->life, __ATOMIC_SEQ_CST);

	*sequence = life_sequence(life);
	return life_low(life);
}

/*
 * To write a row. Whoever was killed in the midst of that has left one half written, which no
 * kernel does: it is a dead one's.
 */
static inline void house_begin_row(void)
{
	int owner = 0, pid = getpid();
	uint64_t n;
	uint32_t i;

	while (!atomic_compare_exchange_strong(house.busy, &owner, pid)) {
		if (kill(owner, 0) && atomic_compare_exchange_strong(house.busy, &owner, pid))
			break;
		usleep(100);
		owner = 0;
	}
	for (i = 0; owner && i < HOUSE_SESSIONS; i++)
		if (house_life(i, &n) == PORTAL_LIFE_JOINING) {
			house_row(i)->claim = house_peer()->claim;
			house_store_life(i, n, PORTAL_LIFE_DEAD);
		}
}

static inline int house_session(struct vmp *p, uint32_t vector, uint64_t *token)
{
	struct portal_session *row;
	uint64_t n = 0;
	uint32_t i;

	house_begin_row();
	for (i = 0; i < HOUSE_SESSIONS && house_life(i, &n) == PORTAL_LIFE_ALIVE; i++)
		;
	if (i < HOUSE_SESSIONS) {
		row = house_row(i);
		house_store_life(i, n + 1, PORTAL_LIFE_JOINING);
		row->claim = house_peer()->claim;
		row->address = i;
		row->vector = vector;
		row->pid = (uint32_t)getpid();
		house_store_life(i, n + 1, PORTAL_LIFE_ALIVE);
		*token = (n + 1) << 16 | i;
		p->priv = (void *)(uintptr_t)*token;
		p->info.peer_id = i;
	}
	atomic_store(house.busy, 0);
	if (i == HOUSE_SESSIONS)
		return vmp_fail(-EUSERS, "house: no free row");
	/* The bell was made before the row was known. */
	dup2(house.bell[i], p->bell >= 0 ? p->bell : p->efd[0]);
	house_changed();
	return 0;
}

static inline int house_ring(struct vmp *p, uint32_t peer, uint32_t vector)
{
	return peer < HOUSE_SESSIONS && !vector ? vmp_efd_signal(house.bell[peer], false) :
		vmp_fail(-ENXIO, "house: no such bell");
}

static inline int house_eventfd(struct vmp *p, uint32_t vector)
{
	return vmp_efd_new();
}

/* One for all processes would do for edges; each has its own, as a kernel's file. */
static inline int house_watch(struct vmp *p, int set)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET };

	return epoll_ctl(set, EPOLL_CTL_ADD, house.change[life_low(p->token)], &ev) ? -errno : 0;
}

static inline int house_refresh(struct vmp *p)
{
	return house.gone ? vmp_fail(-ENODEV, "house: gone") : 0;
}

static inline void house_close(struct vmp *p)
{
	uint64_t token = (uintptr_t)p->priv;

	if (token && p->pid == getpid()) {
		house_store_life(life_low(token), life_sequence(token), PORTAL_LIFE_DEAD);
		house_changed();
	}
}

static const struct vmp_ops house_ops = {
	.transport = "house", .ring = house_ring, .eventfd = house_eventfd,
	.refresh = house_refresh, .session = house_session, .watch = house_watch, .close = house_close,
};

/* The machine's row of who lives in it. */
static inline void house_join(void)
{
	house_peer()->claim = HOUSE_CLAIM;
	house_peer()->incarnation = 1;
	house_peer()->kind = PORTAL_PEER_HOST;
	house_peer()->vectors = 1;
	house_peer()->notice = PORTAL_VECTOR_NONE;
	house_peer()->life = 1 << 16 | PORTAL_LIFE_ALIVE;
}

static inline int house_up_here(void)
{
	uint32_t i;

	memset(&house.s, 0, sizeof(house.s));
	house.s.incarnation = 77;
	house.s.uuid[0] = 1;
	house.fd = memfd_create("house", MFD_CLOEXEC);
	if (house.fd < 0 || ftruncate(house.fd, HOUSE_SIZE))
		return -1;
	house.base = mmap(NULL, HOUSE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, house.fd, 0);
	house.busy = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (house.base == MAP_FAILED || house.busy == MAP_FAILED ||
	    layout_plan(&house.s, HOUSE_SIZE, 2, HOUSE_SESSIONS, 16) || layout_write(house.base, &house.s, 0))
		return -1;
	for (i = 0; i < HOUSE_SESSIONS; i++) {
		house.bell[i] = vmp_efd_new();
		house.change[i] = vmp_efd_new();
	}
	house_join();
	return 0;
}

static inline void house_down_here(void)
{
	uint32_t i;

	for (i = 0; i < HOUSE_SESSIONS; i++) {
		close(house.bell[i]);
		close(house.change[i]);
	}
	munmap(house.base, HOUSE_SIZE);
	munmap(house.busy, 4096);
	close(house.fd);
}

/* A call's error, and a word of its text. */
static inline void ends_with(int got, int err, const char *word)
{
	if (got != err || (word && !strstr(vmp_errmsg(), word)))
		fail_msg("%d '%s', not %d with '%s'", got, vmp_errmsg(), err, word ? word : "");
}

/* ---- Either ------------------------------------------------------------------------ */

static inline struct vmp *house_open_with(unsigned int flags)
{
	struct vmp *p;

	if (house.real) {
		if (vmp_open(&p, in_dir("unix:DIR/t.sock"), flags))
			fail_msg("%s", vmp_errmsg());
		return p;
	}
	p = vmp_alloc(&house_ops, flags);
	assert_non_null(p);
	p->info.caps = VMP_CAP_RING | VMP_CAP_EVENTS;
	p->info.vectors = 1;
	assert_int_equal(vmp_map_fd(p, house.fd, HOUSE_SIZE, "house"), 0);
	return p;
}

static inline struct vmp *house_open(void)
{
	return house_open_with(0);
}

/* Somewhere in the data. */
static inline void *house_data(struct vmp *p, uint64_t at)
{
	uint64_t start, length;

	assert_int_equal(vmp_data(p, &start, &length), 0);
	assert_true(at < length);
	return (char *)p->base + start + at;
}

static inline void house_damage(void *arg, const struct vmp_damage *d)
{
	if (!d->note)
		print_error("damage: %s %u: %s (%#lx: %#lx)\n", d->where, d->index, d->name,
			    (unsigned long)d->offset, (unsigned long)d->value);
}

/*
 * A row of the tables, to be written as by its machine's kernel: what a process has mapped
 * of them is read-only. With portald @p's may be written from then on.
 */
static inline void *house_table(struct vmp *p, unsigned int area, uint32_t row)
{
	if (!house.real)
		return layout_row(house.base, &house.s, area, row);
	assert_int_equal(mprotect(p->base, p->super->protected_size, PROT_READ | PROT_WRITE), 0);
	return layout_row(p->base, p->super, area, row);
}

/* Somebody overwrites what says who has what open. */
static inline void house_lose_uses(void)
{
	const struct portal_area *a = &house.s.area[PORTAL_AREA_USES];

	memset(house.base + a->offset, 0, a->length);
}

/* The tables are in order. */
static inline void house_check(struct vmp *p)
{
	assert_int_equal(vmp_check(p, house_damage, NULL), 0);
}

/* Run @fn in a process of its own; it dies at occurrence @after + 1 of @step, if not -1. */
static inline pid_t house_spawn(int (*fn)(void *arg), void *arg, int step, int after)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	alarm(ALARM_S);
	house_die_at = step;
	house_die_after = after;
	_exit(fn(arg));
}

/* The death of @pid, who has ended, is proven; with portald, wait until it is. */
static inline void house_mourn(pid_t pid)
{
	struct vmp *p = house.real ? house_open() : NULL;
	struct vmp_session s;
	uint64_t n;
	uint32_t i;
	int tries = 0;

	if (!house.real && atomic_load(house.busy) == pid) {
		house_begin_row();
		atomic_store(house.busy, 0);
	}
	for (i = 0; i < (house.real ? p->super->sessions : HOUSE_SESSIONS); i++) {
		if (!house.real) {
			if (house_row(i)->pid == (uint32_t)pid && house_life(i, &n) == PORTAL_LIFE_ALIVE)
				house_store_life(i, n, PORTAL_LIFE_DEAD);
			continue;
		}
		while (!vmp_get_session(p, i, &s, sizeof(s)) && s.pid == (uint32_t)pid &&
		       s.state != VMP_STATE_DEAD && tries++ < 1000)
			usleep(5000);
		assert_true(tries < 1000);
	}
	if (house.real)
		vmp_close(p);
	else
		house_changed();
}

/* Close @p; its session is over then. */
static inline void house_leave(struct vmp *p)
{
	uint64_t token = p->token;
	struct vmp *q = house.real ? house_open() : NULL;
	int tries = 0;

	vmp_close(p);
	while (q && vmp_token_state(q, token) != VMP_STATE_DEAD && tries++ < 1000)
		usleep(5000);
	assert_true(tries < 1000);
	vmp_close(q);
}

/* Wait for the end of @pid; its exit status, or -signal. Its death is proven then. */
static inline int house_reap(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	house_mourn(pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static inline int house_up(void **state)
{
	(void)state;
	house.real = false;
	return house_up_here();
}

static inline int house_down(void **state)
{
	(void)state;
	house_down_here();
	return 0;
}

static inline int house_up_real(void **state)
{
	const char *sock = in_dir("DIR/t.sock");

	(void)state;
	house.real = true;
	house.server = fork();
	if (!house.server) {
		int null = open("/dev/null", O_RDWR);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(null, 1);
		dup2(null, 2);
		execl(portald, portald, "--name=t", "--size=4M", "--vectors=2", "--host-peers=48",
		      "--connect-rate=0", "--managed", "--heartbeat=200", in_dir("--socket-dir=DIR"),
		      (char *)NULL);
		_exit(127);
	}
	await_portald(sock);
	return house.server > 0 ? 0 : -1;
}

static inline int house_down_real(void **state)
{
	(void)state;
	end(house.server, SIGTERM);
	return 0;
}

/* From here on there is none, and nobody comes again. */
static inline void house_without_portald(void)
{
	end(house.server, SIGKILL);
	unlink(in_dir("DIR/t.sock"));
	/* For who takes the house down. */
	house.server = fork();
	while (!house.server) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pause();
	}
}

#define in_house(test)	cmocka_unit_test_setup_teardown(test, house_up, house_down)
/* The same with portald. */
#define in_real(test)	{ #test " with portald", test, house_up_real, house_down_real, NULL }

#endif /* TESTS_UNIT_LIB_HOUSE_H */
