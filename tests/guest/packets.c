// SPDX-License-Identifier: MIT
/*
 * VMBus's packet rings through the library, in a guest, against portal-vsp (tests/vm/vsp)
 * and QEMU's own ring code:
 *
 *	packets URI[#VECTOR] TEST [N]	URI is /dev/portalN or uio:/dev/uioN
 *
 *	echo N		N packets of random sizes out, and as many back, at once
 *	polled N	the same by an end that never sleeps
 *	wrap		each offset at which a packet can wrap, both ways (service echo)
 *	sink N		N packets out as a sink checks them
 *	full N		out until no room is left ("full"), then N more when there is again
 *	source N MIN MAX SEED MS	says "ready", waits MS, so that the host's ring is full,
 *			then takes N packets of a source and checks them
 *	completions N	each packet wants a completion, and gets it once (service echo)
 *	answer N	takes N packets of a source that wants completions; sends them
 *
 * TAP on stdout; the script that runs it (tests/vm/vmbus_packets.py) tells the VSP what
 * to be.
 */
#include <pthread.h>

#include "vmbus.h"

#define PATIENCE_MS	60000
#define LEN_MAX		3000U

static struct vmp_channel *ch;
static uint32_t most;		/* bytes, of packets of random sizes */

static void tell(const char *what, uint32_t n, double took)
{
	struct vmp_stats st;

	vmp_channel_stats(ch, &st, sizeof(st));
	printf("# %s: %u packets in %.2f s; sent %llu, received %llu; %.4f signals per packet, %llu sleeps, %llu wake-ups\n",
	       what, n, took, (unsigned long long)st.sent, (unsigned long long)st.received,
	       (double)st.doorbells / (double)(st.sent + st.received + !st.sent),
	       (unsigned long long)st.sleeps, (unsigned long long)st.wakeups);
}

/* ---- echo ------------------------------------------------------------------------ */

static void *echo_sender(void *arg)
{
	uint32_t n = *(uint32_t *)arg, i;
	struct rng r = { 4711 };
	uint8_t *b = malloc(most);
	int e;

	for (i = 0; i < n; i++) {
		uint32_t len = below(&r, most);

		pattern(b, len, i, 0);
		e = vmp_send(ch, b, len, below(&r, 3) ? 0 : VMP_MORE, PATIENCE_MS);
		if (e) {
			printf("# packet %u: send: %d %s\n", i, e, vmp_errmsg());
			break;
		}
	}
	vmp_flush(ch);
	free(b);
	return (void *)(uintptr_t)i;
}

static void test_echo(uint32_t n)
{
	struct rng r = { 4711 };
	uint8_t *b = malloc(most + 8);
	double began = seconds();
	uint32_t i, bad = 0;
	pthread_t t;
	void *sent;

	pthread_create(&t, NULL, echo_sender, &n);
	for (i = 0; i < n; i++) {
		uint32_t len = below(&r, most);
		ssize_t got = vmp_recv(ch, b, most + 8, PATIENCE_MS);

		below(&r, 3);
		if (got < 0) {
			printf("# packet %u: receive: %zd %s\n", i, got, vmp_errmsg());
			break;
		}
		bad += got != (ssize_t)((len + 7) & ~7U) || !is_pattern(b, len, i, 0);
	}
	pthread_join(t, &sent);
	ok((uintptr_t)sent == n, "%u packets of 0 to %u bytes sent", n, most - 1);
	ok(i == n && !bad, "all came back, in order, as they were (%u of %u, %u wrong)", i, n, bad);
	tell("echo", n, seconds() - began);
	free(b);
}

/* ---- wrap ------------------------------------------------------------------------ */

/* One packet of @len there and back. */
static bool around(uint32_t len, uint32_t seq)
{
	static uint8_t b[LEN_MAX + 8];
	ssize_t n;

	pattern(b, len, seq, 3);
	if (vmp_send(ch, b, len, 0, PATIENCE_MS))
		give_up("send");
	memset(b, 0, len);
	n = vmp_recv(ch, b, sizeof(b), PATIENCE_MS);
	return n == (ssize_t)((len + 7) & ~7U) && is_pattern(b, len, seq, 3);
}

/*
 * Bring the ring that is at @pos of @size to @goal bytes before its end. Packets take
 * 24 bytes and more, in steps of 8.
 */
static void move_to(const uint32_t *pos, uint32_t size, uint32_t goal)
{
	for (;;) {
		uint32_t away = (2 * size - goal - *pos) % size;
		uint32_t step = away > 2024 ? 1024 : away;

		if (!away)
			return;
		if (step < 24)
			step = 1024;	/* once around */
		if (!around(step - 24, 0))
			give_up("echo");
	}
}

static void test_wrap(uint32_t unused)
{
	const struct packets *pk = ch->pk;
	uint32_t at, bad = 0, n = 0;
	int way;

	(void)unused;
	for (way = 0; way < 2; way++)
		for (at = 8; at <= 24 + 104; at += 8, n++) {
			if (way)
				move_to(&pk->rx.pos, pk->rx.size, at);
			else
				move_to(&pk->tx.pos, pk->tx.size, at);
			bad += !around(104, n);
		}
	ok(!bad, "%u packets wrapped at each of their bytes 8, 16 ... 128, %u out and %u back", n, n / 2, n / 2);
	tell("wrap", n, 0);
}

/* ---- One way ----------------------------------------------------------------------- */

static bool send_pattern(uint32_t seq, int timeout_ms, struct rng *r)
{
	static uint8_t b[LEN_MAX];
	uint32_t len = 8 + below(r, most - 8);

	pattern(b, len, seq, 0);
	return !vmp_send(ch, b, len, seq % 7 ? VMP_MORE : 0, timeout_ms);
}

static void test_sink(uint32_t n)
{
	double began = seconds();
	struct rng r = { 5 };
	uint32_t i;

	for (i = 0; i < n && send_pattern(i, PATIENCE_MS, &r); i++)
		;
	ok(i == n && !vmp_flush(ch), "%u packets sent", n);
	/* The script looks when we have gone: what the host has not read must stay. */
	tell("sink", n, seconds() - began);
}

static void test_full(uint32_t n)
{
	struct rng r = { 5 };
	uint32_t i, before;
	bool good = true;

	for (i = 0; send_pattern(i, 0, &r); i++)
		;
	ok(i > 5, "the ring fills");
	printf("# full after %u packets\nfull\n", i);
	before = i;
	/* The one that did not fit, once more, with the same length. */
	r.s = 5;
	for (i = 0; i < before; i++)
		below(&r, most - 8);
	for (; i < before + n && good; i++)
		good = send_pattern(i, PATIENCE_MS, &r);
	ok(good && !vmp_flush(ch), "%u more when the host reads again", n);
	printf("sent %u\n", before + n);
	tell("full", before + n, 0);
}

static void test_source(char **arg)
{
	uint32_t n = (uint32_t)atoi(arg[0]), min = (uint32_t)atoi(arg[1]), max = (uint32_t)atoi(arg[2]);
	uint32_t seed = (uint32_t)atoi(arg[3]), i, bad = 0, len;
	uint8_t *b = malloc(max + 8);
	double began;
	ssize_t got;

	printf("ready\n");
	usleep((useconds_t)atoi(arg[4]) * 1000);
	began = seconds();
	for (i = 0; i < n; i++) {
		len = min + (max > min ? next_random(seed + i) % (max - min + 1) : 0);
		got = vmp_recv(ch, b, max + 8, PATIENCE_MS);
		if (got < 0) {
			printf("# packet %u: %zd %s\n", i, got, vmp_errmsg());
			break;
		}
		bad += got != (ssize_t)((len + 7) & ~7U) || !is_pattern(b, len, i, seed);
	}
	ok(i == n && !bad, "%u packets of %u to %u bytes from the host (%u wrong)", n, min, max, bad);
	ok(vmp_recv(ch, b, max + 8, 100) == -ETIMEDOUT, "and no more");
	tell("source", n, seconds() - began);
	free(b);
}

/* ---- Completions -------------------------------------------------------------------- */

#define WINDOW	64U

static uint64_t id_of(uint32_t i)
{
	return (uint64_t)i * UINT64_C(0x9e3779b97f4a7c15) >> 1;
}

static void test_completions(uint32_t n)
{
	struct vmp_packet q = { .type = VMP_PACKET_DATA, .flags = VMP_PACKET_WANT_COMPLETION }, a;
	uint32_t sent = 0, done = 0, bad = 0;
	uint8_t b[512];

	while (done < n) {
		while (sent < n && sent - done < WINDOW) {
			uint32_t len = 8 + sent % 300;

			q.id = id_of(sent);
			pattern(b, len, sent, 1);
			if (vmp_packet_send(ch, &q, b, len, 0, PATIENCE_MS))
				give_up("send");
			sent++;
		}
		if (vmp_packet_recv(ch, &a, b, sizeof(b), PATIENCE_MS) < 0)
			give_up("receive");
		bad += a.type != VMP_PACKET_COMPLETION || a.id != id_of(done) || a.extra ||
		       !is_pattern(b, 8 + done % 300, done, 1);
		done++;
	}
	ok(!bad, "%u completions, each with its request's transaction id (%u wrong)", n, bad);
	tell("completions", n, 0);
}

static void test_answer(uint32_t n)
{
	struct vmp_packet q;
	uint32_t i, bad = 0;
	uint8_t b[8192];

	printf("ready\n");
	for (i = 0; i < n; i++) {
		if (vmp_packet_recv(ch, &q, b, sizeof(b), PATIENCE_MS) < 0)
			give_up("receive");
		bad += !(q.flags & VMP_PACKET_WANT_COMPLETION) || q.id != i + 1;
		if (vmp_packet_complete(ch, q.id, NULL, 0, 0, PATIENCE_MS))
			give_up("complete");
	}
	ok(!bad, "%u requests of the host answered (%u wrong)", n, bad);
	tell("answer", n, 0);
}

static const struct {
	const char *name;
	void (*run)(uint32_t n);
	uint32_t flags;
} tests[] = {
	{ "echo", test_echo, 0 }, { "polled", test_echo, VMP_CH_NO_SLEEP },
	{ "wrap", test_wrap, 0 }, { "sink", test_sink, 0 }, { "full", test_full, 0 },
	{ "completions", test_completions, 0 }, { "answer", test_answer, 0 },
	{ "source", NULL, 0 },
};

int main(int argc, char **argv)
{
	uint32_t n = argc > 3 ? (uint32_t)atoi(argv[3]) : 0, vector = 0;
	char *mark;
	size_t i;

	start(500);
	if (argc < 3)
		return 2;
	mark = strchr(argv[1], '#');
	if (mark) {
		vector = (uint32_t)atoi(mark + 1);
		*mark = '\0';
	}
	for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		if (strcmp(tests[i].name, argv[2]))
			continue;
		ch = open_packets(argv[1], vector, tests[i].flags);
		most = vmp_channel_max(ch) / 2 < LEN_MAX ? (uint32_t)vmp_channel_max(ch) / 2 : LEN_MAX;
		printf("# rings of %u and %u bytes\n", ch->pk->tx.size, ch->pk->rx.size);
		if (tests[i].run)
			tests[i].run(n);
		else if (argc > 7)
			test_source(argv + 3);
		vmp_channel_close(ch);
		return done();
	}
	return 2;
}
