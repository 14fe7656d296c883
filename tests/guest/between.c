// SPDX-License-Identifier: MIT
/*
 * between DEVICE OTHER: what others do between two steps of this machine in a managed portal,
 * where the module hinder holds it.
 *
 * OTHER shows the same memory, and is raw: through it this program is another machine. It
 * formats the region, and leaves DEVICE raw. heartbeat_ms (of portal.ko) is best 100. TAP;
 * exit status 0 if all went well, 1 otherwise.
 */
#include "machine.h"
#include "hinder.h"

#include <sys/wait.h>

/* Who comes by is held there until he is told to go on, for otherwise a busy machine comes too late. */
static void hold_before(const char *function)
{
	hinder_set(HINDER "ms", "60000");
	hinder_set(HINDER "before", function);
}

/* Soon: what is asked meanwhile waits for it. */
static void go_on(void)
{
	hinder_set(HINDER "ms", "500");
}

/*
 * A strange claim stands in its row for a beat, which is to go at the next. By then it is empty;
 * it has judged that, and stops; another machine takes the row.
 */
static void test_newcomer(void)
{
	const uint64_t claim = (info.max_peers ? info.max_peers : 100ULL) << 32 | 5;
	volatile struct portal_peer *row = own();
	unsigned int slot = own_slot();
	uint64_t beats;

	hinder_set(HINDER "ms", "1");
	hinder_set(HINDER "before", "portal_sessions_idle");
	settle();
	beats = row->heartbeat;
	UNTIL(row->heartbeat != beats, 10 * beat_ms);
	row->claim = claim + 1;
	usleep(1300 * beat_ms);
	row->claim = 0;
	hold_before("portal_sessions_idle");
	ok(comes_to_wait() && !row->claim, "a claim that is overwritten is about to be put right");
	row->claim = claim;
	row->heartbeat_ms = 0;
	row->life += (1 << PORTAL_SLOT_BITS) + PORTAL_LIFE_JOINING - PORTAL_LIFE_ALIVE;
	ok(waits(), "another machine takes the row before that");
	go_on();
	ok(UNTIL(own_slot() && own_slot() != slot, 20000), "it has another row");
	ok(row->claim == claim, "and the other machine keeps its claim (%#llx)",
	   (unsigned long long)row->claim);
	memset((void *)row, 0, sizeof(*row));
	settle();
}

/* It gives way to the kernel of an image, and the tables become smaller under its hands. */
static void test_smaller(void)
{
	struct portal_super s = super_good(info.region_size);
	volatile struct portal_peer *row;
	struct portal_peer before;
	unsigned int i;
	int status;
	pid_t pid;

	if (access("/dev/snapshot", W_OK)) {
		skip("tables that become smaller", "this kernel has no /dev/snapshot");
		return;
	}
	ok(!set_mode(fd, PORTAL_MODE_RAW), "raw");
	for (i = 1; i < SUPER_PEERS - 1; i++)
		peer_row(tables, i)->claim = 4711;
	ok(!set_mode(fd, PORTAL_MODE_MANAGED) && own_slot() == SUPER_PEERS - 1, "in the last row");
	row = own();
	memcpy(&before, (void *)row, sizeof(before));
	hold_before("portal_zap");
	pid = fork();
	if (!pid)
		_exit(open("/dev/snapshot", O_WRONLY) < 0);
	ok(comes_to_wait(), "it gives way to the kernel of an image");
	s.incarnation++;
	s.peers = 2;
	s.sessions = SUPER_SESSIONS;
	super_area(&s, PORTAL_AREA_PEERS, 4096, 512, 2);
	super_area(&s, PORTAL_AREA_SESSIONS, 8192, 128, 2 * SUPER_SESSIONS);
	super_seal(&s);
	memcpy(tables, &s, sizeof(s));
	ok(UNTIL(is_damaged(), 10 * beat_ms) && waits(), "tables with fewer rows meanwhile");
	close(fd);
	fd = open_portal(device, O_RDWR);
	/* No row any more; bytes that say what it said. */
	memcpy((void *)row, &before, sizeof(before));
	go_on();
	ok(!set_mode(fd, PORTAL_MODE_MANAGED) && !waits(), "which it takes when that is over");
	waitpid(pid, &status, 0);
	ok(!status && !memcmp((void *)row, &before, sizeof(before)), "what lies behind them is as it was");
	set_mode(fd, PORTAL_MODE_RAW);
}

/* A child that changes the mode, and is held on its way. */
static pid_t changes_mode(uint32_t mode)
{
	pid_t pid = fork();

	if (!pid)
		_exit(set_mode(fd, mode) != 0);
	return pid;
}

/*
 * The machine stands still before @function, behind its look at the superblock, while others
 * format the region: what it does then is not for these tables.
 */
static void formatted_before(const char *function, pid_t pid, const char *what)
{
	ok(comes_to_wait(), "%s stands still", what);
	format_anew(0, true);
	ok(waits(), "the region is formatted meanwhile");
	go_on();
	ok(UNTIL(!waits(), PATIENT_MS), "it goes on (%s)", function);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	usleep(5000 * beat_ms);
	ok(tables_are(0), "%s: not a word is stored where its tables were", what);
	close(fd);
	fd = open_portal(device, O_RDWR);
}

static void test_formatted(void)
{
	pid_t pid;

	/* Managed still, if there were no tables that become smaller. */
	set_mode(fd, PORTAL_MODE_RAW);
	make_managed(fd);
	hold_before("portal_sessions_idle");
	formatted_before("portal_sessions_idle", 0, "who puts its row right");
	ok(is_damaged(), "it has seen it");

	set_mode(fd, PORTAL_MODE_RAW);
	hold_before("portal_row_begin");
	pid = changes_mode(PORTAL_MODE_MANAGED);
	formatted_before("portal_row_begin", pid, "who begins a life");
	ok(is_damaged(), "it has seen it");

	ok(!set_mode(fd, PORTAL_MODE_MANAGED) && own_slot() == 1, "managed, with these tables");
	hold_before("portal_sessions_end");
	pid = changes_mode(PORTAL_MODE_RAW);
	formatted_before("portal_sessions_end", pid, "who leaves");
	set_mode(fd, PORTAL_MODE_RAW);
}

int main(int argc, char **argv)
{
	if (!begin(argc, argv, 200))
		return done();
	test_newcomer();
	test_smaller();
	test_formatted();
	hinder_set(HINDER "ms", "3000");
	return done();
}
