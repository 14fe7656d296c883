// SPDX-License-Identifier: MIT
/* Sessions: this process's, others', and their ends, whichever way. */
#include "forbid.h"
#include "house.h"
#include "late.h"

#include <poll.h>
#include <pthread.h>

static void joining(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	uint64_t a = 0, again = 0, b;
	struct vmp_session s;

	assert_int_equal(vmp_join(p, &a), 0);
	assert_int_equal(vmp_join(p, &again), 0);
	assert_int_equal(vmp_join(p, NULL), 0);
	assert_true(a && a == again);
	assert_int_equal(vmp_join(q, &b), 0);
	assert_true(a != b);
	assert_int_equal(vmp_token_state(p, a), VMP_STATE_ALIVE);
	assert_int_equal(vmp_token_state(p, b), VMP_STATE_ALIVE);
	assert_int_equal(vmp_get_session(p, a & 0xffff, &s, sizeof(s)), 0);
	assert_int_equal(s.token, a);
	assert_int_equal(s.pid, getpid());
	assert_int_equal(s.state, VMP_STATE_ALIVE);
	assert_int_equal(s.vector, 0);
	house_leave(q);
	assert_int_equal(vmp_token_state(p, b), VMP_STATE_DEAD);
	/* Its row is another's: it stays dead, for ever. */
	q = house_open();
	assert_int_equal(vmp_join(q, &again), 0);
	assert_true(again != b);
	assert_int_equal(vmp_token_state(p, b), VMP_STATE_DEAD);
	assert_int_equal(vmp_token_state(p, again), VMP_STATE_ALIVE);
	ends_with(vmp_token_state(p, 0), -ESTALE, "never given out");
	ends_with(vmp_token_state(p, again + (1 << 16)), -ESTALE, "never given out");
	ends_with(vmp_token_state(p, a | 0xffff), -ESTALE, "never given out");
	ends_with(vmp_token_state(p, UINT64_MAX), -ESTALE, "never given out");
	house_check(p);
	vmp_close(q);
	vmp_close(p);
}

static void refused_to(void **state)
{
	struct vmp *p = house_open_with(VMP_RDONLY), *m, *pair[2];

	ends_with(vmp_join(p, NULL), -EACCES, "read-only");
	assert_int_equal(vmp_token_state(p, 1 << 16), -ESTALE);
	vmp_close(p);
	assert_int_equal(vmp_open(&m, "memfd:size=1M", 0), 0);
	ends_with(vmp_join(m, NULL), -ENODATA, "not a managed portal");
	ends_with(vmp_token_state(m, 1), -ENODATA, NULL);
	ends_with(vmp_watch_fd(m), -ENODATA, NULL);
	ends_with(vmp_fence(m, 0), -ENODATA, NULL);
	assert_int_equal(vmp_format(m, NULL), 0);
	ends_with(vmp_join(m, NULL), -EOPNOTSUPP, "/dev/portalN");
	vmp_close(m);
	assert_int_equal(vmp_pair(pair, 1 << 20, 1), 0);
	assert_int_equal(vmp_format(pair[0], NULL), 0);
	ends_with(vmp_join(pair[0], NULL), -EOPNOTSUPP, "portald");
	vmp_close(pair[0]);
	vmp_close(pair[1]);
}

/* More than there are rows: the next gets -EUSERS; when one ends there is room again. */
static void no_more_rows(void **state)
{
	struct vmp *p[HOUSE_SESSIONS], *one = house_open();
	unsigned int i;

	for (i = 0; i < HOUSE_SESSIONS; i++) {
		p[i] = house_open();
		assert_int_equal(vmp_join(p[i], NULL), 0);
	}
	ends_with(vmp_join(one, NULL), -EUSERS, "no free row");
	vmp_close(p[7]);
	assert_int_equal(vmp_join(one, NULL), 0);
	assert_int_equal(one->token & 0xffff, 7);
	for (i = 0; i < HOUSE_SESSIONS; i++)
		if (i != 7)
			vmp_close(p[i]);
	vmp_close(one);
}

/* ---- Ends ------------------------------------------------------------------------ */

static uint64_t *told(struct vmp *p)
{
	return house_data(p, 0);
}

static void becomes_dead(struct vmp *p, uint64_t token, int64_t within_us)
{
	int64_t t = ran_us();

	while (vmp_token_state(p, token) != VMP_STATE_DEAD) {
		if (ran_us() - t > within_us)
			fail_msg("session %#lx is not dead", (unsigned long)token);
		usleep(1000);
	}
}

static uint64_t until_told(struct vmp *p)
{
	uint64_t token;
	int i;

	for (i = 0; i < 5000 && !__atomic_load_n(told(p), __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	token = __atomic_load_n(told(p), __ATOMIC_SEQ_CST);
	assert_int_equal(vmp_token_state(p, token), VMP_STATE_ALIVE);
	__atomic_store_n(told(p), 0, __ATOMIC_SEQ_CST);
	return token;
}

/* A child that lives on, in its parent's group, with all that it inherited. */
static int forks_and_stays(void *arg)
{
	struct vmp *p = house_open();
	uint64_t token;
	pid_t child;
	int status;

	if (vmp_join(p, &token))
		return 1;
	/* A child has no session through its parent's portal. */
	child = fork();
	if (!child) {
		p->token = 0;
		_exit(vmp_join(p, NULL) == -EBUSY && strstr(vmp_errmsg(), "its child") ? 7 : 0);
	}
	if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7)
		return 2;
	if (!fork()) {
		prctl(PR_SET_PDEATHSIG, 0);
		pause();
		_exit(0);
	}
	__atomic_store_n(told(p), token, __ATOMIC_SEQ_CST);
	pause();
	return 0;
}

static int execs(void *arg)
{
	struct vmp *p = house_open();
	uint64_t token;

	if (vmp_join(p, &token))
		return 1;
	__atomic_store_n(told(p), token, __ATOMIC_SEQ_CST);
	/* Until its parent has seen that it lives. */
	while (__atomic_load_n(told(p), __ATOMIC_SEQ_CST))
		usleep(1000);
	execl("/bin/sleep", "sleep", "30", (char *)NULL);
	return 2;
}

static int stays(void *arg)
{
	struct vmp *p = house_open();
	uint64_t token;

	if (vmp_join(p, &token))
		return 1;
	__atomic_store_n(told(p), token, __ATOMIC_SEQ_CST);
	pause();
	return 0;
}

static bool has_mapped(const char *what)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	bool found = false;

	while (f && fgets(line, sizeof(line), f))
		found |= strstr(line, what) != NULL;
	if (f)
		fclose(f);
	return found;
}

static int cannot_keep_it(void *arg)
{
	struct vmp *p = house_open();

	if (forbid(SYS_madvise, EINVAL) || !vmp_join(p, NULL))
		return 1;
	return has_mapped("vmportal-lifeline") ? 2 : 0;
}

static int keeps_it(void *arg)
{
	return vmp_join(house_open(), NULL) || !has_mapped("vmportal-lifeline");
}

/* A lifeline that children would have too is none, and is not left mapped. */
static void no_lifeline(void **state)
{
	assert_int_equal(house_reap(house_spawn(keeps_it, NULL, -1, 0)), 0);
	assert_int_equal(house_reap(house_spawn(cannot_keep_it, NULL, -1, 0)), 0);
}

/* Whatever copies of whatever a child has; whether it is stopped or not. */
static void ends(void **state)
{
	struct vmp *p = house_open();
	uint64_t token;
	pid_t pid;

	pid = house_spawn(forks_and_stays, NULL, -1, 0);
	setpgid(pid, pid);
	token = until_told(p);
	kill(pid, SIGKILL);
	becomes_dead(p, token, 2000000);
	kill(-pid, SIGKILL);
	house_reap(pid);

	pid = house_spawn(execs, NULL, -1, 0);
	token = until_told(p);
	becomes_dead(p, token, 2000000);
	assert_int_equal(kill(pid, 0), 0);
	kill(pid, SIGKILL);
	house_reap(pid);

	pid = house_spawn(stays, NULL, -1, 0);
	token = until_told(p);
	kill(pid, SIGSTOP);
	usleep(300000);
	assert_int_equal(vmp_token_state(p, token), VMP_STATE_ALIVE);
	kill(pid, SIGCONT);
	kill(pid, SIGTERM);
	becomes_dead(p, token, 2000000);
	house_reap(pid);
	house_check(p);
	vmp_close(p);
}

/* ---- Bells, verdicts -------------------------------------------------------------- */

static void ringing(void **state)
{
	struct vmp *p = house_open(), *q = house_open();
	struct pollfd f;
	uint64_t *pending, token, n;
	int set;

	vmp_join(p, NULL);
	vmp_join(q, &token);
	set = vmp_session_set(q);
	while (vmp_session_sleep(q, set, 50) > 0)
		;
	f = (struct pollfd) { set, POLLIN, 0 };
	assert_int_equal(poll(&f, 1, 0), 0);
	assert_int_equal(vmp_ring_session(p, token), 0);
	pending = layout_row(p->base, p->super, PORTAL_AREA_PENDING, 0);
	assert_true(*pending >> (token & 63) & 1);
	assert_int_equal(vmp_session_sleep(q, set, 1000), 1);
	assert_false(*pending >> (token & 63) & 1);
	assert_int_equal(vmp_session_sleep(q, set, 20), 0);
	close(set);
	house_leave(q);
	assert_int_equal(vmp_ring_session(p, token), -ESTALE);
	assert_int_equal(vmp_ring_session(p, 0), -ESTALE);
	assert_int_equal(vmp_ring_session(p, UINT64_MAX), -ESTALE);
	/* Silent ones are not rung, and nothing is left for them. */
	if (!house.real) {
		house_row(life_low(p->token))->vector = PORTAL_VECTOR_NONE;
		n = *pending;
		assert_int_equal(vmp_ring_session(p, p->token), -ENXIO);
		assert_int_equal(*pending, n);
	}
	vmp_close(p);
}

/* Another machine's row, as its kernel would write it. */
static uint64_t invent_guest(struct vmp *p, uint64_t claim)
{
	struct portal_peer *g = house_table(p, PORTAL_AREA_PEERS, 1);
	struct portal_session *s = house_table(p, PORTAL_AREA_SESSIONS, p->super->sessions);

	g->claim = claim;
	g->incarnation = 9;
	g->kind = PORTAL_PEER_GUEST;
	g->vectors = 1;
	g->notice = PORTAL_VECTOR_NONE;
	g->life = 1 << 16 | PORTAL_LIFE_ALIVE;
	s->claim = claim;
	s->address = claim_address(claim);
	s->vector = PORTAL_VECTOR_NONE;
	s->life = 1 << 16 | PORTAL_LIFE_ALIVE;
	return 1 << 16 | p->super->sessions;
}

static void suspicion(void **state)
{
	struct vmp *p = house_open();
	uint64_t claim = 60ULL << 32 | 7, token = invent_guest(p, claim);
	struct portal_peer *g = house_table(p, PORTAL_AREA_PEERS, 1);

	assert_int_equal(vmp_token_state(p, token), VMP_STATE_ALIVE);
	g->suspect = claim + 1;		/* an earlier machine was */
	assert_int_equal(vmp_token_state(p, token), VMP_STATE_ALIVE);
	g->suspect = claim;
	assert_int_equal(vmp_token_state(p, token), VMP_STATE_SUSPECT);
	g->suspect = 0;
	g->life = 1 << 16 | PORTAL_LIFE_ASLEEP;
	assert_int_equal(vmp_token_state(p, token), VMP_STATE_SUSPECT);
	g->life = 1 << 16 | PORTAL_LIFE_ALIVE;
	g->dead = claim;
	assert_int_equal(vmp_token_state(p, token), VMP_STATE_DEAD);
	g->dead = claim + 1;
	assert_int_equal(vmp_token_state(p, token), VMP_STATE_ALIVE);
	g->claim = claim + 1;
	assert_int_equal(vmp_token_state(p, token), VMP_STATE_DEAD);
	vmp_close(p);
}

/* A machine goes and comes: nobody has suspected it at any time. */
static void *comes_and_goes(void *arg)
{
	struct portal_peer *g = arg;
	uint64_t claim = g->claim;
	int i;

	for (i = 0; i < 400000; i++)
		__atomic_store_n((uint64_t *)&g->claim, i & 1 ? claim : 0, __ATOMIC_SEQ_CST);
	return NULL;
}

static void gone_between_two_looks(void **state)
{
	struct vmp *p = house_open();
	uint64_t token = invent_guest(p, 60ULL << 32 | 7);
	pthread_t t;
	int i, seen[VMP_STATE_SUSPECT + 1] = { 0 };

	pthread_create(&t, NULL, comes_and_goes, house_table(p, PORTAL_AREA_PEERS, 1));
	for (i = 0; i < 100000; i++)
		seen[vmp_token_state(p, token)]++;
	pthread_join(t, NULL);
	assert_int_equal(seen[VMP_STATE_SUSPECT], 0);
	assert_int_equal(seen[VMP_STATE_ALIVE] + seen[VMP_STATE_DEAD], i);
	vmp_close(p);
}

static int holds_the_lock(void *arg)
{
	struct vmp *p = house_open();
	uint64_t token;

	if (vmp_join(p, &token) || vmp_lock(p, house_data(p, 4096), 0))
		return 1;
	__atomic_store_n(told(p), token, __ATOMIC_SEQ_CST);
	pause();
	return 0;
}

/* Who would say that a machine is silent may be gone as well: it is heard, as long as it beats. */
static void hears_by_itself(struct vmp *p, uint64_t guest)
{
	volatile struct portal_peer *g = house_table(p, PORTAL_AREA_PEERS, 1);
	int64_t t = 0, ran = 0;
	int i;

	g->heartbeat_ms = 100;
	for (i = 0; i < 12; i++) {
		g->heartbeat++;
		t = now_us();
		ran = ran_us();
		assert_int_equal(vmp_token_state(p, guest), VMP_STATE_ALIVE);
		usleep(50000);
	}
	while (vmp_token_state(p, guest) == VMP_STATE_ALIVE && now_us() - t < PATIENCE_MS * INT64_C(1000))
		usleep(5000);
	t = now_us() - t;
	ran = ran_us() - ran;
	if (t < 187500 || ran > 2000000)
		fail_msg("suspect after %ld us, in %ld of which this machine ran", (long)t, (long)ran);
	assert_int_equal(vmp_token_state(p, guest), VMP_STATE_SUSPECT);
	g->heartbeat++;
	assert_int_equal(vmp_token_state(p, guest), VMP_STATE_ALIVE);
	g->heartbeat_ms = 60000;
	assert_int_equal(vmp_token_state(p, guest), VMP_STATE_ALIVE);
	g->heartbeat_ms = 0xffffffff;
	assert_int_equal(vmp_token_state(p, guest), VMP_STATE_SUSPECT);
}

/* Nobody tells of deaths any more: that is said, to who asks and to who waits in vain. */
static void portald_is_gone(void **state)
{
	struct vmp *p = house_open(), *late = house_open();
	uint64_t token, ours, guest = invent_guest(p, 60ULL << 32 | 7);
	pid_t pid = house_spawn(holds_the_lock, NULL, -1, 0);

	token = until_told(p);
	assert_int_equal(vmp_join(p, &ours), 0);
	ends_with(vmp_lock(p, house_data(p, 4096), 50), -ETIMEDOUT, "is alive");
	house_without_portald();
	end(pid, SIGKILL);
	assert_int_equal(vmp_token_state(p, token), VMP_STATE_SUSPECT);
	assert_int_equal(vmp_token_state(p, ours), VMP_STATE_ALIVE);
	/* One without a heart nobody can hear. */
	assert_int_equal(vmp_token_state(p, guest), VMP_STATE_SUSPECT);
	hears_by_itself(p, guest);
	ends_with(vmp_join(late, NULL), -ENOTCONN, "portald is gone");
	ends_with(vmp_fence(p, 1), -ENOTCONN, "portald is gone");
	vmp_close(late);
	ends_with(vmp_lock(p, house_data(p, 4096), 50), -ETIMEDOUT, "portald, which would tell, is gone");
	vmp_close(p);
}

/* What it answers when nobody waits any more is an answer. */
static void answered_late(void **state)
{
	struct vmp *p = house_open();
	uint64_t token, again;
	int i, r = -EBUSY;

	kill(house.server, SIGSTOP);
	ends_with(vmp_join(p, &token), -ETIMEDOUT, "does not answer");
	kill(house.server, SIGCONT);
	/* Any other call may be the one that reads it. */
	for (i = 0; i < 1000 && r; i++) {
		usleep(i ? 5000 : 300000);
		vmp_ring(p, 77, 0);
		r = vmp_join(p, &token);
		assert_true(!r || r == -EBUSY);
	}
	assert_int_equal(r, 0);
	assert_int_equal(vmp_join(p, &again), 0);
	assert_int_equal(token, again);
	assert_int_equal(vmp_token_state(p, token), VMP_STATE_ALIVE);
	vmp_close(p);
}

/* One question at a time; another one's answer is no answer. */
static void asked_something_else(void **state)
{
	struct vmp *p = house_open();
	uint64_t token;
	int i, r, first;

	invent_guest(p, 60ULL << 32 | 7);
	kill(house.server, SIGSTOP);
	first = vmp_fence(p, 1);
	r = vmp_join(p, &token);
	kill(house.server, SIGCONT);
	ends_with(r, -EBUSY, "earlier question");
	assert_int_equal(first, -ETIMEDOUT);
	/* What it says then is read, and is no session. */
	for (i = 0; i < 1000 && (r = vmp_join(p, &token)) == -EBUSY; i++)
		usleep(5000);
	assert_int_equal(r, 0);
	assert_int_equal(vmp_token_state(p, token), VMP_STATE_ALIVE);
	assert_int_equal(vmp_token_state(p, 1 << 16 | p->super->sessions), VMP_STATE_DEAD);
	vmp_close(p);
}

/* A store that was meant for elsewhere ends its own program, not others' trust in a machine. */
static int stores_astray(void *arg)
{
	struct vmp *p = house_open();
	struct vmp_format_opts o = {
		.size = sizeof(o), .flags = VMP_FORMAT_FORCE | VMP_FORMAT_IN_USE,
	};
	const char *what = arg;
	struct portal_peer *g = layout_row(p->base, p->super, PORTAL_AREA_PEERS, 0);

	/* The tests' own handler would go on with the tests. */
	signal(SIGSEGV, SIG_DFL);
	if (*what == 'f' && vmp_format(p, &o))
		return 1;
	if (*what == 'r')
		return vmp_set_mode(p, VMP_MODE_RAW) || (g->claim++, g->claim == 0);
	if (*what == 'd')
		return (*(char *)house_data(p, 0))++ == 77;
	g->claim++;
	return 2;
}

static void a_stray_store(void **state)
{
	struct vmp *p = house_open();
	uint64_t token;

	assert_int_equal(vmp_join(p, &token), 0);
	assert_int_equal(house_reap(house_spawn(stores_astray, "data", -1, 0)), 0);
	assert_int_equal(house_reap(house_spawn(stores_astray, "row", -1, 0)), 0);
	assert_int_equal(house_reap(house_spawn(stores_astray, "in a row", -1, 0)), -SIGSEGV);
	vmp_close(p);
}

static void a_stray_store_later(void **state)
{
	/* No tables any more: no house_reap(). */
	int status;
	pid_t pid = house_spawn(stores_astray, "formatted anew", -1, 0);

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void fencing(void **state)
{
	struct vmp *p = house_open();
	uint64_t claim = 60ULL << 32 | 7, token;
	struct vmp_peer peer;

	ends_with(vmp_fence(p, p->super->peers), -EINVAL, "no peer");
	ends_with(vmp_fence(p, 1), -ESRCH, "peer 1 is not there");
	token = invent_guest(p, claim);
	if (!house.real) {
		ends_with(vmp_fence(p, 1), -EOPNOTSUPP, "unix:");
		vmp_close(p);
		return;
	}
	assert_int_equal(vmp_fence(p, 1), 0);
	assert_int_equal(vmp_token_state(p, token), VMP_STATE_DEAD);
	assert_int_equal(vmp_get_peer(p, 1, &peer, sizeof(peer)), 0);
	assert_int_equal(peer.state, VMP_STATE_DEAD);
	assert_int_equal(peer.reason, PORTAL_REASON_FENCED);
	ends_with(vmp_fence(p, 1), -ESRCH, NULL);
	vmp_close(p);
}

/* Formatted anew, or raw from now on: the session was one of other tables. */
static void other_tables(void **state)
{
	struct vmp_format_opts o = {
		.size = sizeof(o), .flags = VMP_FORMAT_FORCE | VMP_FORMAT_IN_USE,
		.peers = 2, .sessions = HOUSE_SESSIONS, .objects = 16,	/* the house's */
	};
	struct vmp *p = house_open();
	uint64_t token, again;

	assert_int_equal(vmp_join(p, &token), 0);
	assert_true(vmp_watch_fd(p) >= 0);
	assert_true(p->watch_place >= 0);
	assert_int_equal(vmp_format(p, &o), 0);
	ends_with(vmp_token_state(p, token), -ESTALE, "never given out");
	assert_int_equal(vmp_watch_clear(p), 0);
	house_store_life(0, 7, PORTAL_LIFE_DEAD);
	assert_int_equal(vmp_join(p, &again), 0);
	assert_true(again != token);
	assert_int_equal(vmp_watch_clear(p), 0);
	assert_true(p->watch_place >= 0);
	assert_int_equal(vmp_set_mode(p, VMP_MODE_RAW), 0);
	ends_with(vmp_lock(p, p->base, 0), -ENODATA, "not a managed portal");
	ends_with(vmp_watch_clear(p), -ENODATA, NULL);
	vmp_close(p);
}

/* Its machine is dead, or another: this process gets nothing, and is told why. */
static void it_is_over(void **state)
{
	struct vmp *p = house_open();
	struct vmp_named *n;

	assert_int_equal(vmp_join(p, NULL), 0);
	assert_int_equal(vmp_session_check(p), 0);
	house_peer()->dead = HOUSE_CLAIM;
	ends_with(vmp_session_check(p), -ESTALE, "is over");
	ends_with(vmp_lock(p, house_data(p, 0), 0), -ESTALE, "is over");
	ends_with(vmp_named_open(&n, p, "x", VMP_CREATE, 1, 0), -ESTALE, "is over");
	house_peer()->dead = 0;
	house_peer()->claim++;
	ends_with(vmp_lock(p, house_data(p, 0), 0), -ESTALE, "is over");
	house.gone = true;
	ends_with(vmp_lock(p, house_data(p, 0), 0), -ENODEV, "gone");
	house.gone = false;
	house_peer()->claim--;
	assert_int_equal(vmp_lock(p, house_data(p, 0), 0), 0);
	assert_int_equal(vmp_unlock(p, house_data(p, 0)), 0);
	vmp_close(p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		in_house(joining),
		in_real(joining),
		in_house(refused_to),
		in_house(no_more_rows),
		in_real(no_lifeline),
		in_real(ends),
		in_house(ringing),
		in_real(ringing),
		in_house(suspicion),
		in_house(gone_between_two_looks),
		in_real(portald_is_gone),
		in_real(answered_late),
		in_real(asked_something_else),
		in_real(a_stray_store),
		in_real(a_stray_store_later),
		in_house(fencing),
		in_real(fencing),
		in_house(it_is_over),
		in_house(other_tables),
	};

	find_portald(argv[0]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
