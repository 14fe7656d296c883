// SPDX-License-Identifier: MIT
/*
 * What packets cost, by two drivers and one ring code:
 *
 *	vmbusbench URI URI2 [ROUNDS]	each is /dev/portalN or uio:/dev/uioN, and an echo
 *
 * Windows of both are interleaved in one run; what is printed is the median of the
 * windows, and the ratio. TAP, figures as diagnostics.
 */
#include "vmbus.h"

#define WINDOW_S	0.4
#define ROUNDS		9
#define BATCH		64

struct side {
	const char *uri;
	struct vmp_channel *ch;
	double rtt[64], rate[64], signals[64], bulk[64];
};

static uint64_t doorbells(const struct vmp_channel *ch)
{
	struct vmp_stats st;

	vmp_channel_stats(ch, &st, sizeof(st));
	return st.doorbells;
}

static void get(struct vmp_channel *ch, uint8_t *b, size_t cap)
{
	if (vmp_recv(ch, b, cap, 20000) < 0)
		give_up("receive");
}

static void put(struct vmp_channel *ch, const uint8_t *b, size_t len, unsigned int flags)
{
	if (vmp_send(ch, b, len, flags, 20000))
		give_up("send");
}

/* One at a time: seconds each. */
static double round_trips(struct vmp_channel *ch)
{
	double began = seconds(), now;
	uint8_t b[32] = { 0 };
	uint32_t n = 0;

	do {
		put(ch, b, sizeof(b), 0);
		get(ch, b, sizeof(b));
		n++;
		now = seconds();
	} while (now - began < WINDOW_S);
	return (now - began) / n;
}

/* Batches of @len bytes there and back; packets a second, and signals for each of them. */
static double batches(struct vmp_channel *ch, uint32_t len, double *signals)
{
	double began = seconds(), now;
	uint64_t bells = doorbells(ch);
	static uint8_t b[4096];
	uint32_t n = 0, i;

	do {
		for (i = 0; i < BATCH; i++)
			put(ch, b, len, i < BATCH - 1 ? VMP_MORE : 0);
		for (i = 0; i < BATCH; i++)
			get(ch, b, sizeof(b));
		n += BATCH;
		now = seconds();
	} while (now - began < WINDOW_S);
	if (signals)
		*signals = (double)(doorbells(ch) - bells) / n;
	return n / (now - began);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *v, int n)
{
	qsort(v, (size_t)n, sizeof(*v), by_value);
	return v[n / 2];
}

static void row(const char *what, double a, double b)
{
	printf("# %-34s %12.3f %12.3f   %.2f\n", what, a, b, a / b);
}

int main(int argc, char **argv)
{
	int rounds = argc > 3 ? atoi(argv[3]) : ROUNDS, i, k;
	struct side s[2];

	start(300);
	if (argc < 3 || rounds < 1 || rounds > 64)
		return 2;
	for (k = 0; k < 2; k++) {
		s[k].uri = argv[1 + k];
		s[k].ch = open_packets(s[k].uri, 0, 0);
		round_trips(s[k].ch);
	}
	for (i = 0; i < rounds; i++)
		for (k = 0; k < 2; k++) {
			struct side *d = &s[(k + i) % 2];

			d->rtt[i] = round_trips(d->ch) * 1e6;
			d->rate[i] = batches(d->ch, 32, &d->signals[i]) / 1e3;
			d->bulk[i] = batches(d->ch, 880, NULL) * 880 / 1e6;
		}
	printf("# %-34s %12s %12s   ratio\n", "median of windows", s[0].uri, s[1].uri);
	row("round trip, 32 bytes, us", median(s[0].rtt, rounds), median(s[1].rtt, rounds));
	row("echoed, batches of 64, 1000/s", median(s[0].rate, rounds), median(s[1].rate, rounds));
	row("signals per packet sent", median(s[0].signals, rounds), median(s[1].signals, rounds));
	row("880 bytes each way, MB/s", median(s[0].bulk, rounds), median(s[1].bulk, rounds));
	ok(true, "%d windows of each", rounds);
	for (k = 0; k < 2; k++)
		vmp_channel_close(s[k].ch);
	return done();
}
