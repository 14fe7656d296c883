// SPDX-License-Identifier: MIT
/*
 * Bytes a second through a region, beside memcpy():
 *
 *	regionbench recv URI		takes what comes, until its end
 *	regionbench send URI [ROUNDS]	windows of a stream and of memcpy() take turns
 *
 * A message is copied into the region and out of it: where both ends share one
 * processor, half of what memcpy() alone does there is the limit, and the ratio to it is
 * printed. TAP, figures as diagnostics.
 *
 *	regionbench hv_sock		whether the host answers AF_VSOCK at all
 */
#include <sys/socket.h>
#include <linux/vm_sockets.h>

#include "vmbus.h"

#define WINDOW_S	0.4
#define ROUNDS		9
#define MESSAGE		(128 << 10)

static uint8_t from[MESSAGE], to[MESSAGE];

static struct vmp_channel *open_region(const char *uri, uint32_t side)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .side = side };
	struct vmp_channel *ch;
	struct vmp *p;

	if (vmp_open(&p, uri, 0) || vmp_channel_open(&ch, p, &o) ||
	    vmp_channel_connect(ch, 20000))
		give_up(uri);
	return ch;
}

static int receive(const char *uri)
{
	struct vmp_channel *ch = open_region(uri, 1);
	ssize_t n;

	do {
		n = vmp_recv(ch, to, sizeof(to), 20000);
	} while (n >= 0);
	ok(n == -EPIPE, "the stream came to its end");
	vmp_channel_close(ch);
	return done();
}

static double stream(struct vmp_channel *ch)
{
	double began = seconds(), now;
	uint64_t n = 0;

	do {
		if (vmp_send(ch, from, MESSAGE, 0, 20000))
			give_up("send");
		n += MESSAGE;
		now = seconds();
	} while (now - began < WINDOW_S);
	return (double)n / (now - began) / 1e6;
}

static double alone(void)
{
	double began = seconds(), now;
	uint64_t n = 0;

	do {
		memcpy(to, from, MESSAGE);
		__asm__ volatile("" : : "r"(to) : "memory");
		n += MESSAGE;
		now = seconds();
	} while (now - began < WINDOW_S);
	return (double)n / (now - began) / 1e6;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static int send_all(const char *uri, int rounds)
{
	struct vmp_channel *ch = open_region(uri, 0);
	double ratio[64], rate[64], copy[64];
	int i;

	stream(ch);
	for (i = 0; i < rounds; i++) {
		rate[i] = stream(ch);
		copy[i] = alone();
		ratio[i] = rate[i] / (copy[i] / 2);
	}
	qsort(ratio, (size_t)rounds, sizeof(*ratio), by_value);
	qsort(rate, (size_t)rounds, sizeof(*rate), by_value);
	qsort(copy, (size_t)rounds, sizeof(*copy), by_value);
	printf("# region, messages of %d KiB: %.1f MB/s; memcpy() alone %.1f MB/s; median ratio to half of it %.2f\n",
	       MESSAGE >> 10, rate[rounds / 2], copy[rounds / 2], ratio[rounds / 2]);
	ok(true, "%d windows of each", rounds);
	vmp_channel_close(ch);
	return done();
}

/* Its VSP would be the hypervisor's own: there is nothing of ours in it. */
static int hv_sock(void)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST,
				 .svm_port = 5000 };
	int s = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), r;

	if (s < 0)
		die("socket(AF_VSOCK)");
	r = connect(s, (struct sockaddr *)&a, sizeof(a));
	printf("# hv_sock: connect to the host: %s\n", r ? strerror(errno) : "done");
	ok(true, "hv_sock was tried");
	return done();
}

int main(int argc, char **argv)
{
	int rounds = argc > 3 ? atoi(argv[3]) : ROUNDS;

	start(120);
	if (argc == 2 && !strcmp(argv[1], "hv_sock"))
		return hv_sock();
	if (argc < 3 || rounds < 1 || rounds > 64)
		return 2;
	return strcmp(argv[1], "recv") ? send_all(argv[2], rounds) : receive(argv[2]);
}
