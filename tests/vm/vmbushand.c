// SPDX-License-Identifier: MIT
/*
 * A hand on a VMBus channel's rings, in a guest, by uio_hv_generic: it sends packets
 * of any kind and puts anything into the indices, one order a line, one line an answer.
 *
 *	vmbushand /dev/uio0
 *	send TYPE FLAGS TRANSACTION HEX	a packet; "-" for no payload
 *	desc TYPE HEX HEX		a packet with a descriptor part before the payload
 *	raw HEX				bytes put into the ring as they are
 *	recv MS				the next packet: "ok TYPE FLAGS TRANSACTION HEX"
 *	index send|recv write|read N	set an index
 *	get send|recv			"ok WRITE READ MASK PENDING FEATURES SIZE"
 *	signal				tell the host
 *
 * Answers: "ok ...", "err WHY", "timeout".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096U
#define PACKET_MAX	65536U
#define LINE_MAX_	(2 * PACKET_MAX + 256)

struct ring {
	volatile uint32_t write, read, mask, pending;
	uint32_t reserved[12];
	volatile uint32_t features;
};

struct packet {
	uint16_t type, offset8, len8, flags;
	uint64_t transaction;
};

static int uio;
static struct ring *rings[2];	/* send, recv */
static uint8_t *data[2];
static uint32_t size;		/* of either data area */

/* uio_hv_generic maps both rings as map 0: send first, each with its header page. */
static int map_rings(const char *dev)
{
	char path[128], text[64] = "";
	unsigned long long total;
	uint8_t *base;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/class/uio/%s/maps/map0/size", strrchr(dev, '/') + 1);
	f = fopen(path, "re");
	if (!f || !fgets(text, sizeof(text), f))
		return -1;
	fclose(f);
	total = strtoull(text, NULL, 0);
	uio = open(dev, O_RDWR | O_CLOEXEC);
	if (uio < 0 || !total)
		return -1;
	base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_SHARED, uio, 0);
	if (base == MAP_FAILED)
		return -1;
	size = total / 2 - PAGE;
	for (int i = 0; i < 2; i++) {
		rings[i] = (struct ring *)(base + i * (total / 2));
		data[i] = base + i * (total / 2) + PAGE;
	}
	return 0;
}

/* Enables the interrupt, and signals the host where the channel has no monitor page. */
static void signal_host(void)
{
	int32_t on = 1;

	if (write(uio, &on, sizeof(on)) != sizeof(on))
		printf("err signal: %s\n", strerror(errno));
}

static void copy_in(uint32_t at, const void *from, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		data[0][(at + i) % size] = ((const uint8_t *)from)[i];
}

static void put(const void *from, uint32_t n)
{
	uint32_t at = rings[0]->write;

	copy_in(at, from, n);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	rings[0]->write = (at + n) % size;
	signal_host();
	puts("ok");
}

static int unhex(const char *hex, uint8_t *out, uint32_t room)
{
	uint32_t n = 0;
	unsigned int v;

	if (!strcmp(hex, "-"))
		return 0;
	for (; hex[0] && hex[1]; hex += 2) {
		if (n == room || sscanf(hex, "%2x", &v) != 1)
			return -1;
		out[n++] = v;
	}
	return hex[0] ? -1 : (int)n;
}

/* A whole packet: header, descriptor, payload, padding, the trailing indices. */
static void send_packet(struct packet h, const char *desc, const char *payload)
{
	static uint8_t buf[PACKET_MAX];
	uint32_t at = sizeof(h);
	uint64_t trailer = (uint64_t)rings[0]->write << 32;
	int n = unhex(desc, buf + at, sizeof(buf) - at - 64);

	if (n >= 0) {
		at = (at + n + 7) & ~7U;
		h.offset8 = at / 8;
		n = unhex(payload, buf + at, sizeof(buf) - at - 64);
	}
	if (n < 0) {
		puts("err hex");
		return;
	}
	memset(buf + at + n, 0, 8);
	at = (at + n + 7) & ~7U;
	h.len8 = at / 8;
	memcpy(buf, &h, sizeof(h));
	memcpy(buf + at, &trailer, sizeof(trailer));
	put(buf, at + sizeof(trailer));
}

static void take(int ms)
{
	struct ring *r = rings[1];
	struct packet h;
	struct timespec ts = { 0, 1000000 };
	uint32_t at, i;

	for (; r->write == r->read && ms > 0; ms--)
		nanosleep(&ts, NULL);
	if (r->write == r->read) {
		puts("timeout");
		return;
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	at = r->read;
	for (i = 0; i < sizeof(h); i++)
		((uint8_t *)&h)[i] = data[1][(at + i) % size];
	if (at >= size || h.offset8 < 2 || h.offset8 > h.len8) {
		printf("err a packet of %u and %u words at %u\n", h.offset8, h.len8, at);
		return;
	}
	printf("ok %u %u %llu ", h.type, h.flags, (unsigned long long)h.transaction);
	for (i = 8 * h.offset8; i < 8U * h.len8; i++)
		printf("%02x", data[1][(at + i) % size]);
	puts("");
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	r->read = (at + 8 * h.len8 + 8) % size;
	signal_host();
}

static void set_index(const char *which, const char *what, uint32_t v)
{
	struct ring *r = rings[!strcmp(which, "recv")];

	if (!strcmp(what, "write"))
		r->write = v;
	else
		r->read = v;
	puts("ok");
}

static void obey(char *line)
{
	static char a[LINE_MAX_], b[LINE_MAX_];
	static uint8_t bytes[PACKET_MAX];
	unsigned long long t;
	unsigned int x, y;
	int n;

	if (sscanf(line, "send %u %u %llu %s", &x, &y, &t, a) == 4) {
		send_packet((struct packet){ .type = x, .flags = y, .transaction = t }, "-", a);
	} else if (sscanf(line, "desc %u %s %s", &x, a, b) == 3) {
		send_packet((struct packet){ .type = x, .transaction = 1 }, a, b);
	} else if (sscanf(line, "raw %s", a) == 1) {
		n = unhex(a, bytes, sizeof(bytes));
		if (n < 0)
			puts("err hex");
		else
			put(bytes, n);
	} else if (sscanf(line, "recv %u", &x) == 1) {
		take(x);
	} else if (sscanf(line, "index %7s %7s %u", a, b, &x) == 3) {
		set_index(a, b, x);
	} else if (sscanf(line, "get %7s", a) == 1) {
		struct ring *r = rings[!strcmp(a, "recv")];

		printf("ok %u %u %u %u %u %u\n", r->write, r->read, r->mask, r->pending,
		       r->features, size);
	} else if (!strncmp(line, "signal", 6)) {
		signal_host();
		puts("ok");
	} else {
		puts("err no such order");
	}
}

int main(int argc, char **argv)
{
	static char line[LINE_MAX_];

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc != 2 || map_rings(argv[1])) {
		printf("err %s: %s\n", argc == 2 ? argv[1] : "usage: vmbushand /dev/uioN",
		       strerror(errno));
		return 1;
	}
	puts("ready");
	while (fgets(line, sizeof(line), stdin) && strcmp(line, "exit\n"))
		obey(line);
	return 0;
}
