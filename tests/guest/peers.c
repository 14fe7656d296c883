// SPDX-License-Identifier: MIT
/*
 * peers DEVICE OTHER: this machine's row in a managed portal, and what it makes of others'.
 *
 * OTHER shows the same memory, and is raw: through it this program is another machine,
 * an honest one (for one that is not: hostile.c). It formats the region, and
 * leaves DEVICE raw. heartbeat_ms (of portal.ko) is best 100. (Sessions: sessions.c.)
 * TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "machine.h"

#include <sys/utsname.h>
#include <sys/wait.h>

/* ---- The row --------------------------------------------------------------------- */

static void test_row(void)
{
	volatile struct portal_peer *row = own();
	struct utsname name;
	char text[64];

	uname(&name);
	ok(own_slot() > 0, "it has a slot, and not the host's (%u)", own_slot());
	ok(row->claim >> 32 == (info.peer_id == PORTAL_PEER_NONE ? 0 : info.peer_id + 1) &&
	   (uint32_t)row->claim, "the claim has its address (%#llx)", (unsigned long long)row->claim);
	ok(state_of(row->life) == PORTAL_LIFE_ALIVE && row->life >> PORTAL_SLOT_BITS, "it lives");
	ok(row->incarnation && row->kind == PORTAL_PEER_GUEST && row->joined && !row->features,
	   "as a guest");
	ok(row->vectors == info.vectors &&
	   row->notice == (info.vectors ? info.vectors - 1 : PORTAL_VECTOR_NONE),
	   "to be told by its last vector");
	ok(!strncmp((char *)row->name, name.nodename, 63), "by its name (%s)", (char *)row->name);
	attribute("incarnation", text, sizeof(text));
	ok(strtoull(text, NULL, 16) == super_good(0).incarnation, "sysfs: the superblock's incarnation");
	attribute("sessions", text, sizeof(text));
	ok(!strcmp(text, "0"), "sysfs: no session");
	ok(token_of(fd), "a session");
	attribute("sessions", text, sizeof(text));
	ok(!strcmp(text, "1"), "sysfs: one");
	ok(!session(fd, PORTAL_SESSION_END, 0, NULL), "over");
	beat_ms = row->heartbeat_ms;
	read_text("/sys/module/portal/parameters/heartbeat_ms", text, sizeof(text));
	ok(beat_ms == atoi(text), "heartbeat_ms is the module's (%d)", beat_ms);
}

/*
 * Never too many. But a machine that stands still loses beats, and its clock goes on: of several
 * times the best counts.
 */
static void test_heartbeat(void)
{
	volatile struct portal_peer *row = own();
	uint64_t from, n = 0;
	double start_at, beats = 1;
	int i;

	for (i = 0; i < 10 && n < beats * 0.7 - 1 + !i; i++) {
		start_at = now();
		from = row->heartbeat;
		usleep(20 * beat_ms * 1000);
		n = row->heartbeat - from;
		beats = (now() - start_at) * 1000 / beat_ms;
		if (n > beats * 1.1 + 1)
			break;
	}
	ok(n >= beats * 0.7 - 1 && n <= beats * 1.1 + 1, "%llu beats where %.1f are due",
	   (unsigned long long)n, beats);
}

/* ---- Watching ----------------------------------------------------------------------- */

static void test_watch(void)
{
	struct portal_event ev[8];
	struct pollfd p = { .fd = fd, .events = POLLIN | POLLPRI };
	int second = open_portal(device, O_RDONLY);
	int w = plain_window(fd, 0, 0, PORTAL_UNIT);
	ssize_t n;
	pid_t pid;

	settle();
	ok(poll(&p, 1, 0) == 0, "nothing to see");
	fcntl(fd, F_SETFL, O_NONBLOCK);
	n = read(fd, ev, sizeof(ev));
	fails(n, EAGAIN, "nor to read");
	fcntl(fd, F_SETFL, 0);

	pid = fork();
	if (!pid) {
		token_of(open_portal(device, O_RDWR));
		pause();
		_exit(0);
	}
	ok(poll(&p, 1, PATIENT_MS) == 1 && p.revents == POLLPRI, "a process comes: POLLPRI, not POLLIN");
	n = read(fd, ev, sizeof(ev));
	ok(n == sizeof(ev[0]) && ev[0].type == PORTAL_EVENT_CHANGE && ev[0].vector == 0 && ev[0].count,
	   "which read() returns");
	ok(wait_for(second, POLLPRI, PATIENT_MS) == POLLPRI, "another file hears of it, too");
	ok(wait_for(w, POLLPRI, PATIENT_MS) == POLLPRI, "and a window");
	settle();
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	ok(poll(&p, 1, PATIENT_MS) == 1 && p.revents == POLLPRI, "it is killed: POLLPRI");
	settle();

	pid = fork();
	if (!pid) {
		usleep(200000);
		token_of(open_portal(device, O_RDWR));
		_exit(0);
	}
	n = read(fd, ev, sizeof(ev));
	ok(n >= (ssize_t)sizeof(ev[0]) && ev[0].type == PORTAL_EVENT_CHANGE, "a read() that waits is woken");
	waitpid(pid, NULL, 0);
	close(second);
	close(w);
	settle();
}

/* Its last beat, and that its heart stands still: at which of our beats after it. */
static uint64_t falls_silent(volatile struct portal_peer *row)
{
	uint64_t last;

	take_changes(fd, NULL);
	do {
		last = own()->heartbeat;
		row->heartbeat++;
	} while (own()->heartbeat != last);
	if (wait_for(fd, POLLPRI, PATIENT_MS) != POLLPRI)
		return 0;
	return own()->heartbeat - last;
}

static void test_silence(void)
{
	const uint64_t claim = (uint64_t)(info.max_peers ? info.max_peers : 100) << 32 | 4711;
	volatile struct portal_peer *row = peer_row(tables, PLAYED);
	uint64_t at = 0;
	int i;

	settle();
	play(claim, PORTAL_VECTOR_NONE, beat_ms);
	ok(wait_for(fd, POLLPRI, PATIENT_MS) == POLLPRI, "a machine comes: POLLPRI");
	for (i = 0; i < 20; i++) {
		row->heartbeat++;
		usleep(500 * beat_ms);
	}
	ok(!row->suspect, "it is not suspect while its heart beats");
	/* Too soon is wrong each time; who comes too late may be we who look. */
	at = falls_silent(row);
	for (i = 0; i < 10 && at > 3; i++) {
		row->heartbeat++;
		if (!UNTIL(!row->suspect, 100 * beat_ms))
			break;
		at = falls_silent(row);
	}
	ok(at, "its heart stands still: POLLPRI");
	ok(row->suspect == claim && row->reason == PORTAL_REASON_SILENT, "it is suspect, because silent");
	ok(at == 3, "at the third of our beats after its last (%llu)", (unsigned long long)at);
	ok(row->claim == claim && !row->dead && state_of(row->life) == PORTAL_LIFE_ALIVE,
	   "and no more than that");
	row->heartbeat++;
	ok(UNTIL(!row->suspect, 10 * beat_ms) && !row->reason, "it beats again: no suspicion");
	row->suspect = 1234;
	ok(UNTIL(row->suspect == claim, 20 * beat_ms), "an older life's suspicion does not protect it");
	row->reason = PORTAL_REASON_CUT;
	row->heartbeat++;
	usleep(3000 * beat_ms);
	ok(row->suspect == claim && row->reason == PORTAL_REASON_CUT,
	   "a suspicion of another reason stays, though the heart beats");
	row->suspect = 0;
	ok(UNTIL(row->suspect == claim, 20 * beat_ms) && row->reason == PORTAL_REASON_CUT,
	   "nor is it replaced by silence");
	row->suspect = 0;
	row->reason = 0;
	row->life += PORTAL_LIFE_ASLEEP - PORTAL_LIFE_ALIVE;
	usleep(6000 * beat_ms);
	ok(!row->suspect, "who sleeps is not declared silent");
	row->life += PORTAL_LIFE_ALIVE - PORTAL_LIFE_ASLEEP;
	row->heartbeat_ms = 0;
	usleep(6000 * beat_ms);
	ok(!row->suspect, "nor who has no heart");
	settle();
}

/* Somebody who wants to be told: the other end of the loopback, by its last vector. */
static void test_notice(void)
{
	const uint64_t claim = (uint64_t)(get_info(other).peer_id + 1) << 32 | 9;
	uint64_t rings;
	int i;

	if (!info.vectors || get_info(other).peer_id == PORTAL_PEER_NONE) {
		skip("who wants to be told is rung", "no doorbells");
		return;
	}
	play(claim, 1, 0);
	/* And more rows that say the same: the address is rung once for all that. */
	for (i = 6; i < (int)SUPER_PEERS; i++) {
		peer_row(tables, i)->claim = claim + i;
		peer_row(tables, i)->notice = 1;
	}
	settle();
	take_changes(other, &rings);
	ok(token_of(fd) && wait_for(other, POLLIN, PATIENT_MS) == POLLIN, "a session: who wants to be told is rung");
	usleep(200000);
	take_changes(other, &rings);
	ok(rings == 1, "once, though three rows say so (%llu)", (unsigned long long)rings);
	ok(!session(fd, PORTAL_SESSION_END, 0, NULL) && wait_for(other, POLLIN, PATIENT_MS) == POLLIN,
	   "its end: likewise");
	for (i = PLAYED; i < (int)SUPER_PEERS; i++)
		memset((void *)peer_row(tables, i), 0, 512);
	settle();
	take_changes(other, &rings);
	/* It tells us, by our own notice vector: a look at once, long before the next beat. */
	peer_row(tables, PLAYED)->claim = claim;
	ring(other, info.peer_id, info.vectors - 1);
	ok(wait_for(fd, POLLPRI, PATIENT_MS) & POLLPRI, "rung by another: a look, and POLLPRI");
	memset((void *)peer_row(tables, PLAYED), 0, 512);
	settle();
}

/* ---- Verdicts ---------------------------------------------------------------------------- */

static void test_fence_arguments(void)
{
	int ro = open_portal(device, O_RDONLY), w = plain_window(fd, PORTAL_WINDOW_WRITE, DATA, PORTAL_UNIT);
	struct portal_fence f = { .size = sizeof(f), .reserved = 1, .slot = PLAYED, .claim = 1 };
	int status;
	pid_t pid;

	fails(fence(fd, 2, PLAYED, 1), EOPNOTSUPP, "fence: an undefined flag");
	fails(ioctl(fd, PORTAL_FENCE, &f), EINVAL, "fence: a reserved member");
	fails(fence(ro, 0, PLAYED, 1), EACCES, "fence: a read-only file");
	fails(fence(w, 0, PLAYED, 1), EACCES, "fence: a window");
	fails(fence(fd, 0, SUPER_PEERS, 1), ENXIO, "fence: no such row");
	fails(fence(fd, 0, 0xffffffff, 1), ENXIO, "fence: row 2^32-1");
	fails(fence(fd, 0, PLAYED, 0), ESTALE, "fence: no claim");
	fails(fence(fd, 0, PLAYED, 1), ESTALE, "fence: a claim that does not stand");
	pid = fork();
	if (!pid)
		_exit(setuid(65534) || fence(fd, 0, PLAYED, 1) != -1 || errno != EPERM);
	waitpid(pid, &status, 0);
	ok(!status, "fence: without CAP_SYS_ADMIN: EPERM");
	close(ro);
	close(w);
}

static void test_fence_other(void)
{
	volatile struct portal_peer *row = peer_row(tables, PLAYED);

	play(4711, PORTAL_VECTOR_NONE, 0);
	settle();
	ok(!fence(fd, PORTAL_FENCE_SUSPECT, PLAYED, 4711) && row->suspect == 4711 && !row->dead &&
	   row->reason == PORTAL_REASON_FENCED, "another is declared suspect");
	ok(wait_for(fd, POLLPRI, PATIENT_MS) == POLLPRI, "POLLPRI");
	ok(!fence(fd, 0, PLAYED, 4711) && row->dead == 4711 && row->reason == PORTAL_REASON_FENCED,
	   "another is declared dead");
	ok(row->claim == 4711, "its claim is left to who takes the row");
	memset((void *)row, 0, 512);
	settle();
}

static uint32_t got;

/* Where large entries are to be had, if anywhere. */
#define LARGE_AT	(2UL << 20)
#define LARGE		(4UL << 20)

static char *map_large(int file)
{
	if (info.region_size < LARGE_AT + LARGE)
		return MAP_FAILED;
	return mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, LARGE_AT);
}

static bool any_there(char *m, size_t len)
{
	size_t i;

	for (i = 0; i < len; i += page) {
		if (touch(m + i, 8, &got) != SIGBUS)
			return true;
	}
	return false;
}

/* Whether a debugger reads or writes @m, whose bytes @raw shows, too. */
static bool debugger_reaches(char *m, volatile char *raw)
{
	int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	char was = *raw, byte = was + 1;
	bool reaches;

	reaches = pread(mem, &byte, 1, (uintptr_t)m) != -1;
	byte = was + 1;
	reaches |= pwrite(mem, &byte, 1, (uintptr_t)m) != -1;
	close(mem);
	return mem < 0 || reaches || *raw != was;
}

/* A process with a session and a mapping, which are taken from it; says how, by bits. */
static int fenced_process(void)
{
	int file = open_portal(device, O_RDWR), silent = open_portal(device, O_RDWR), w, wrong = 0;
	uint64_t token = token_of(file), claim = own()->claim;
	char *m = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, file, DATA);
	char *ro = mmap(NULL, page, PROT_READ, MAP_SHARED, open_portal(device, O_RDONLY), 0);
	char *m2 = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, silent, DATA);
	char *raw = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, other, DATA);
	char *large = map_large(file);
	volatile struct portal_peer *row = own();

	w = plain_window(file, PORTAL_WINDOW_WRITE, DATA, PORTAL_UNIT);
	wrong |= !token || touch(m, 7, &got) || token_of(w) != token || *raw != 7;
	wrong |= large != MAP_FAILED && (touch(large, 7, &got) || touch(large + LARGE - 4, 7, &got));
	wrong |= (fence(fd, 0, own_slot(), claim) != 0) << 1;
	wrong |= (!UNTIL(own_slot() && own()->claim != claim &&
			 state_of(own()->life) == PORTAL_LIFE_ALIVE, 5000)) << 2;
	wrong |= (touch(m, 8, &got) != SIGBUS) << 3;
	wrong |= (mmap(NULL, page, PROT_READ, MAP_SHARED, file, DATA) != MAP_FAILED || errno != ESTALE) << 4;
	wrong |= (session(file, 0, PORTAL_SESSION_SILENT, NULL) != -1 || errno != ESTALE) << 5;
	wrong |= (plain_window(file, 0, 0, PORTAL_UNIT) != -1 || errno != ESTALE) << 6;
	wrong |= (touch(ro, -1, &got) != 0) << 7;
	/* By its claim, or its state: dead to who holds it. */
	wrong |= (token_state(tables, token) == PORTAL_LIFE_ALIVE &&
		  session_row(tables, token & 0xffff)->claim == row->claim) << 8;
	wrong |= (token_of(open_portal(device, O_RDWR)) == 0) << 9;
	wrong |= (session(w, 0, PORTAL_SESSION_SILENT, NULL) != -1 || errno != ESTALE) << 10;
	/* A file that has not asked, but by which the process could write. */
	wrong |= (touch(m2, 8, &got) != SIGBUS) << 11;
	wrong |= (mmap(NULL, page, PROT_READ, MAP_SHARED, silent, DATA) != MAP_FAILED || errno != ESTALE) << 12;
	wrong |= (large != MAP_FAILED && any_there(large, LARGE)) << 13;
	wrong |= debugger_reaches(m, raw) << 14;
	printf("# fenced: %#x\n", wrong);
	return wrong;
}

static void test_fenced(void)
{
	int status;
	pid_t pid;

	settle();
	pid = fork();
	if (!pid)
		_exit(fenced_process() != 0);
	waitpid(pid, &status, 0);
	ok(!status, "declared dead itself: mappings SIGBUS, of large entries and for a debugger, too; files ESTALE, tables and new files work; joined anew");
	ok(take_changes(fd, NULL), "and a change is told");
	settle();
}

/* ---- Another layout -------------------------------------------------------------------------- */

/* As rows these are of a strange claim, with lives to be put right. */
#define STRANGE	1

static void test_formatted(bool finished)
{
	const char *what = finished ? "formatted anew" : "being formatted";
	int file = open_portal(device, O_RDWR), ro = open_portal(device, O_RDONLY);
	char *m = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, file, DATA);
	char *look = mmap(NULL, page, PROT_READ, MAP_SHARED, ro, DATA);
	uint64_t token = token_of(file);

	ok(token && !touch(m, 7, &got) && !touch(look, -1, &got), "%s: a session before", what);
	settle();
	format_anew(STRANGE, finished);
	/* Or it has seen it by now. */
	ok(fence(fd, 0, PLAYED, 1) == -1 && (errno == ESTALE || errno == EUCLEAN),
	   "%s: no verdict where the tables were", what);
	fails(session(file, PORTAL_SESSION_END, 0, NULL), ESTALE, "no session's end");
	fails(session(file, 0, PORTAL_SESSION_SILENT, NULL), ESTALE, "no token of what is no more");
	ok(UNTIL(is_damaged(), 10 * beat_ms) && !own_slot(), "%s: it has no slot", what);
	ok(touch(m, 8, &got) == SIGBUS && touch(look, -1, &got) == SIGBUS, "%s: what was mapped is taken away",
	   what);
	fails(session(file, 0, PORTAL_SESSION_SILENT, NULL), ESTALE, "its file is of before");
	munmap(m, page);
	munmap(look, page);
	close(ro);
	close(file);
	file = open_portal(device, O_RDWR);
	fails(session(file, 0, PORTAL_SESSION_SILENT, NULL), EUCLEAN, "and a new one");
	m = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, file, info.region_size - page);
	ok(m == MAP_FAILED && errno == EACCES, "%s: nothing is written", what);
	close(file);
	usleep(5000 * beat_ms);
	ok(tables_are(STRANGE), "%s: not a word is stored where the tables were", what);
	if (!finished) {
		ok(!set_mode(fd, PORTAL_MODE_RAW), "raw");
		memset(tables, 0, SUPER_PROTECTED);
	}
	close(fd);
	fd = open_portal(device, O_RDWR);
	if (!finished) {
		munmap(tables, SUPER_PROTECTED);
		make_managed(fd);
		tables = map_tables(other);
	} else {
		memset((char *)tables + PORTAL_SUPER_SIZE, 0, SUPER_PROTECTED - PORTAL_SUPER_SIZE);
		ok(!set_mode(fd, PORTAL_MODE_MANAGED), "it takes the new tables when it is told so");
	}
	ok(own_slot() == 1 && token_of(fd), "and gives sessions");
	settle();
}

/*
 * It is told to take the new tables before it has seen that there are some, while a process that
 * does not care has mapped what was before.
 */
static void test_formatted_unseen(void)
{
	int file = open_portal(device, O_RDWR), second = open_portal(device, O_RDWR);
	char *m = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, file, DATA), *m2;

	ok(token_of(file) && !touch(m, 7, &got), "a session, and a mapping");
	m2 = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, second, DATA);
	settle();
	format_anew(0, true);
	ok(!set_mode(fd, PORTAL_MODE_MANAGED) && own_slot() == 1,
	   "formatted anew, and told so at once: what is mapped keeps nobody from the new tables");
	ok(touch(m, 8, &got) == SIGBUS && touch(m2, 8, &got) == SIGBUS, "it is taken away");
	fails(session(file, 0, PORTAL_SESSION_SILENT, NULL), ESTALE, "its file is of before");
	munmap(m2, page);
	close(second);
	close(fd);
	fd = open_portal(device, O_RDWR);
	m2 = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, DATA);
	ok(token_of(fd) && !touch(m2, 7, &got), "a new one has a session, and a mapping");
	fails(set_mode(fd, PORTAL_MODE_RAW), EBUSY, "which counts");
	ok(!fence(fd, 0, own_slot(), own()->claim) && UNTIL(touch(m2, 8, &got) == SIGBUS, 5000),
	   "declared dead: it is taken away, too");
	second = open_portal(device, O_RDWR);
	ok(!set_mode(second, PORTAL_MODE_RAW), "and counts no more");
	munmap(m, page);
	munmap(m2, page);
	close(file);
	close(fd);
	fd = second;
	m = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, DATA);
	fails(set_mode(fd, PORTAL_MODE_MANAGED), EBUSY, "one of now counts, when those are gone");
	munmap(m, page);
	ok(!set_mode(fd, PORTAL_MODE_MANAGED) && own_slot(), "and managed again");
	settle();
}

/* It is looked at when only the incarnation of the new superblock is there yet. */
static void test_half_there(void)
{
	struct portal_super s = super_good(info.region_size);
	volatile struct portal_super *there = tables;

	s.incarnation += 4711;
	super_seal(&s);
	there->incarnation = s.incarnation;
	usleep(3500 * beat_ms);
	ok(own_slot() && !is_damaged(), "half of another superblock is none");
	there->checksum = s.checksum;
	ok(UNTIL(is_damaged(), 10 * beat_ms) && !own_slot(), "all of it is one");
	s = super_good(info.region_size);
	super_seal(&s);
	memset(tables, 0, SUPER_PROTECTED);
	memcpy(tables, &s, sizeof(s));
	close(fd);
	fd = open_portal(device, O_RDWR);
	ok(!set_mode(fd, PORTAL_MODE_MANAGED) && own_slot(), "and back");
	settle();
}

/* It says another incarnation, but nobody formatted it. */
static void test_overwritten(void)
{
	volatile struct portal_super *s = tables;
	uint64_t token = token_of(fd), beats;
	int i;

	for (i = 1; i < 40; i++) {
		s->incarnation += i;
		beats = own()->heartbeat;
		if (token_of(fd) != token)
			break;
	}
	ok(i == 40 && UNTIL(own()->heartbeat > beats + 3, 10 * beat_ms) && !is_damaged() && alive(token),
	   "a superblock that is overwritten: the session goes on");
	s->incarnation = super_good(0).incarnation;
	settle();
}

/* ---- Leaving ------------------------------------------------------------------------------------- */

/* A row with its address that is said to live: whether it is its own after a while, in beats. */
static bool takes_over(volatile struct portal_peer *row, uint64_t claim, double *took)
{
	bool good;

	row->claim = claim;
	row->life = 20 << 16 | PORTAL_LIFE_ALIVE;
	row->heartbeat_ms = beat_ms;
	*took = now();
	good = ok(!set_mode(fd, PORTAL_MODE_MANAGED) && !own_slot() && row->claim == claim,
		  "one that is said to live is not, at once");
	good = token_of(fd) && own_slot() == 6 && row->life >> 16 == 21 && good;
	*took = (now() - *took) * 1000 / beat_ms;
	set_mode(fd, PORTAL_MODE_RAW);
	return good;
}

/* Of before a reset, if its heart stands still; else another machine's, which has our address. */
static void test_own_address(void)
{
	volatile struct portal_peer *row = peer_row(tables, 6);
	const uint64_t claim = (info.peer_id + 1ULL) << 32 | 1;
	unsigned int i;
	double took;

	row->claim = claim;
	row->life = 9 << 16 | PORTAL_LIFE_DEAD;
	ok(!set_mode(fd, PORTAL_MODE_MANAGED) && own_slot() == 6 && row->life >> 16 == 10,
	   "a row with its address that is dead is its own");
	set_mode(fd, PORTAL_MODE_RAW);

	ok(takes_over(row, claim, &took), "who asks for a session waits until it has been still for long enough");
	/* Nobody waits for less; where a busy machine makes all of them late, the next time may be better. */
	for (i = 0; i < 5 && took >= 20; i++)
		takes_over(row, claim, &took);
	ok(took > 2.5 && took < 20, "for %.1f beats", took);

	row->claim = claim;
	row->life = 30 << 16 | PORTAL_LIFE_ALIVE;
	set_mode(fd, PORTAL_MODE_MANAGED);
	ok(UNTIL((row->heartbeat++, own_slot()), 30 * beat_ms) && own_slot() != 6 && row->claim == claim,
	   "a heart that beats is another machine's, and a free row is taken");
	set_mode(fd, PORTAL_MODE_RAW);

	for (i = 1; i < SUPER_PEERS; i++) {
		peer_row(tables, i)->dead = 0;
		peer_row(tables, i)->claim = i == 6 ? claim : 4711;
	}
	set_mode(fd, PORTAL_MODE_MANAGED);
	UNTIL((row->heartbeat++, false), 10 * beat_ms);
	ok(!own_slot() && row->claim == claim, "the same, and none is free: it waits");
	ok(UNTIL(own_slot() == 6, 100 * beat_ms) && row->claim != claim,
	   "then that heart stands still: the row is its own");
	set_mode(fd, PORTAL_MODE_RAW);
}

static void test_full(void)
{
	unsigned int i;

	ok(!set_mode(fd, PORTAL_MODE_RAW) && !own_slot(), "raw: no slot");
	memset(tables, 0, SUPER_PROTECTED);
	munmap(tables, SUPER_PROTECTED);
	make_managed(fd);
	ok(own_slot() == 1, "formatted anew: the first slot is free");
	tables = mmap(NULL, SUPER_PROTECTED, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0);
	for (i = 2; i < SUPER_PEERS; i++)
		peer_row(tables, i)->claim = 4711;
	ok(!set_mode(fd, PORTAL_MODE_MANAGED) && own_slot() == 1, "managed anew: it finds its own");
	ok(!set_mode(fd, PORTAL_MODE_RAW), "raw");
	ok(state_of(peer_row(tables, 1)->life) == PORTAL_LIFE_DEAD && !peer_row(tables, 1)->claim,
	   "which it has left");
	peer_row(tables, 1)->claim = 4711;
	ok(!set_mode(fd, PORTAL_MODE_MANAGED) && !own_slot(), "all slots are taken");
	fails(session(fd, 0, PORTAL_SESSION_SILENT, NULL), EUSERS, "no session");
	peer_row(tables, 3)->reason = PORTAL_REASON_EXITED;
	peer_row(tables, 3)->dead = 4711;
	ok(UNTIL(own_slot() == 3, 30 * beat_ms), "one is proven dead: it takes that");
	ok(!peer_row(tables, 3)->reason, "and the reason goes with whom it was given for");
	ok(token_of(fd), "and gives sessions");
	ok(!set_mode(fd, PORTAL_MODE_RAW), "raw");
	if (info.peer_id != PORTAL_PEER_NONE)
		test_own_address();
}

int main(int argc, char **argv)
{
	if (!begin(argc, argv, 500))
		return done();
	test_row();
	test_heartbeat();
	test_watch();
	test_silence();
	test_notice();
	test_fence_arguments();
	test_fence_other();
	test_fenced();
	test_overwritten();
	test_half_there();
	test_formatted_unseen();
	test_formatted(false);
	test_formatted(true);
	test_full();
	return done();
}
