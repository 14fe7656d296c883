/* SPDX-License-Identifier: MIT */
/*
 * Packet channels for programs in a guest of a VMBus host: of /dev/portalN, or, as
 * "uio:/dev/uioN", over the rings that uio_hv_generic maps, with the library's own ring
 * and channel code. For that the programs are linked with the archive, and reach into it.
 */
#ifndef VMPORTAL_TESTS_GUEST_VMBUS_H
#define VMPORTAL_TESTS_GUEST_VMBUS_H

#include <time.h>

#include "guest.h"
#include "lib/channel.h"

#include <linux/portal_vmbus.h>

static MAYBE void __attribute__((noreturn)) give_up(const char *what)
{
	printf("Bail out! %s: %s\n", what, vmp_errmsg());
	exit(1);
}

/* ---- uio_hv_generic ------------------------------------------------------------ */

struct uio {
	int fd;
	uint64_t size;		/* of both rings, as map 0 has them: send first */
};

static MAYBE int uio_packets(struct vmp *p, uint32_t vector, struct vmp_rings *r)
{
	struct uio *u = p->priv;
	size_t half = u->size / 2, page = 4096;
	char *at[2];
	int i;

	(void)vector;
	/* uio takes a page number of 0 for map 0 and nothing else: no second piece of it. */
	for (i = 0; i < 2; i++) {
		char *all = mmap(NULL, u->size, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, 0);
		char *to = mmap(NULL, half + (half - page), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		char *ring = all + (i ? half : 0);
		char *again;

		if (all == MAP_FAILED || to == MAP_FAILED)
			die("mmap of the rings");
		/* The same pages twice in a row: move one mapping of each behind the other. */
		again = mmap(NULL, u->size, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, 0);
		if (again == MAP_FAILED ||
		    mremap(ring, half, half, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED ||
		    mremap(again + (i ? half : 0) + page, half - page, half - page,
			   MREMAP_MAYMOVE | MREMAP_FIXED, to + half) == MAP_FAILED)
			die("mremap of the rings");
		at[i] = to;
	}
	r->send = at[0];
	r->recv = at[1];
	r->send_data = at[0] + page;
	r->recv_data = at[1] + page;
	r->send_size = r->recv_size = (uint32_t)(half - page);
	return 0;
}

/* "Enable interrupts" is how a uio's user signals; it clears the mask too. */
static MAYBE int uio_ring(struct vmp *p, uint32_t peer, uint32_t vector)
{
	int32_t on = 1;

	(void)peer;
	(void)vector;
	return write(((struct uio *)p->priv)->fd, &on, sizeof(on)) == sizeof(on) ? 0 :
		vmp_fail(-errno, "uio: %s", strerror(errno));
}

/* Readable at each signal; the library waits for edges and reads nothing. */
static MAYBE int uio_eventfd(struct vmp *p, uint32_t vector)
{
	(void)vector;
	return ((struct uio *)p->priv)->fd;
}

static const struct vmp_ops uio_ops MAYBE = {
	.transport = "uio",
	.ring = uio_ring,
	.eventfd = uio_eventfd,
	.packets = uio_packets,
	.keeps_eventfds = true,
};

static MAYBE uint64_t read_number(const char *path)
{
	FILE *f = fopen(path, "re");
	char text[64] = "";

	if (!f || !fgets(text, sizeof(text), f))
		die(path);
	fclose(f);
	return strtoull(text, NULL, 0);
}

static MAYBE struct vmp *uio_open(const char *dev)
{
	static struct uio u;
	char path[128];
	struct vmp *p;

	snprintf(path, sizeof(path), "/sys/class/uio/%s/maps/map0/size", strrchr(dev, '/') + 1);
	u.size = read_number(path);
	u.fd = open(dev, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (u.fd < 0)
		die(dev);
	p = vmp_alloc(&uio_ops, 0);
	p->priv = &u;
	p->info.vectors = 1;
	p->info.caps = VMP_CAP_RING | VMP_CAP_EVENTS | VMP_CAP_PACKETS;
	return p;
}

/* ---- The handshake, for who has no portal_vmbus to do it ----------------------- */

/* A control message: the library refuses its id to applications. */
static MAYBE void say(struct vmp_channel *ch, uint16_t type, void *msg, uint16_t size)
{
	struct portal_vmbus_header h = { PORTAL_VMBUS_MAGIC, type, size };
	struct vmpk_desc d = { .type = VMPK_DATA_INBAND, .id = PORTAL_VMBUS_CONTROL };
	void *to;

	memcpy(msg, &h, sizeof(h));
	if (packet_reserve(ch, &to, 0, size, 5000))
		give_up("handshake");
	memcpy(to, msg, size);
	if (packet_commit(ch, &d, 0, size, 0))
		give_up("handshake");
}

static MAYBE void hear(struct vmp_channel *ch, uint16_t type)
{
	uint64_t buf[64];
	const struct portal_vmbus_header *h = (const void *)buf;
	ssize_t n = vmp_recv(ch, buf, sizeof(buf), 10000);

	if (n < (ssize_t)sizeof(*h) || h->magic != PORTAL_VMBUS_MAGIC || h->type != type) {
		printf("Bail out! message %d expected, %zd bytes of type %d came\n", type, n,
		       n > 0 ? h->type : 0);
		exit(1);
	}
}

static MAYBE void handshake(struct vmp_channel *ch)
{
	struct portal_vmbus_hello hello = { .min_version = 1, .max_version = 1, .vectors = 1,
					    .features = PORTAL_VMBUS_PACKETS };
	struct portal_vmbus_ready ready = { .channels = 1 };

	say(ch, PORTAL_VMBUS_HELLO, &hello, sizeof(hello));
	hear(ch, PORTAL_VMBUS_WELCOME);
	say(ch, PORTAL_VMBUS_READY, &ready, sizeof(ready));
	hear(ch, PORTAL_VMBUS_LIVE);
}

/* ---- Either ---------------------------------------------------------------------- */

static MAYBE struct vmp_channel *open_packets(const char *uri, uint32_t vector, uint32_t flags)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .vector = vector,
				      .flags = VMP_CH_PACKETS | flags };
	bool uio = !strncmp(uri, "uio:", 4);
	struct vmp_channel *ch;
	struct vmp *p;

	if (uio)
		p = uio_open(uri + 4);
	else if (vmp_open(&p, uri, 0))
		give_up(uri);
	if (vmp_channel_open(&ch, p, &o))
		give_up(uri);
	if (uio && !getenv("NO_HANDSHAKE"))
		handshake(ch);
	return ch;
}

/* Numerical Recipes' generator, as the VSP's source has it; and one for ourselves. */
static MAYBE uint32_t next_random(uint32_t x)
{
	return x * 1664525u + 1013904223u;
}

struct rng { uint64_t s; };

static MAYBE uint32_t below(struct rng *r, uint32_t n)
{
	r->s ^= r->s >> 12;
	r->s ^= r->s << 25;
	r->s ^= r->s >> 27;
	return (uint32_t)((r->s * UINT64_C(2685821657736338717) >> 32) % n);
}

/* Two u32, bytes and number, then bytes: what a sink of the VSP checks, a source sends. */
static MAYBE void pattern(uint8_t *b, uint32_t len, uint32_t seq, uint32_t seed)
{
	uint32_t head[2] = { len, seq }, i;

	for (i = 8; i < len; i++)
		b[i] = (uint8_t)(i + 31 * seq + seed);
	memcpy(b, head, len < 8 ? len : 8);
}

static MAYBE bool is_pattern(const uint8_t *b, uint32_t len, uint32_t seq, uint32_t seed)
{
	uint32_t head[2] = { len, seq }, i;

	if (memcmp(b, head, len < 8 ? len : 8))
		return false;
	for (i = 8; i < len; i++)
		if (b[i] != (uint8_t)(i + 31 * seq + seed))
			return false;
	return true;
}

static MAYBE double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

#endif /* VMPORTAL_TESTS_GUEST_VMBUS_H */
