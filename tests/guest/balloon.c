// SPDX-License-Identifier: MIT
/*
 * Another's service, driven from user space: QEMU's hv-balloon, a host's end of the
 * dynamic memory protocol that we did not write.
 *
 *	balloon URI	agrees on a version and on capabilities, and reports status
 *
 * The protocol's messages as drivers/hv/hv_balloon.c of Linux describes them: little-endian,
 * a header { u16 type, size; u32 transaction } and the rest. Transaction ids are ours.
 */
#include "vmbus.h"

enum { DM_VERSION_REQUEST = 1, DM_VERSION_RESPONSE, DM_CAPABILITIES_REPORT,
       DM_CAPABILITIES_RESPONSE, DM_STATUS_REPORT };

struct dm_header {
	uint16_t type;
	uint16_t size;
	uint32_t transaction;
};

struct dm_version_request {
	struct dm_header h;
	uint16_t minor, major;
	uint32_t last_attempt;		/* bit 0 */
};

struct dm_capabilities {
	struct dm_header h;
	uint64_t caps;			/* bit 0: balloon; bit 1: hot add */
	uint64_t min_pages;
	uint64_t max_page;
};

struct dm_response {
	struct dm_header h;
	uint64_t accepted;		/* bit 0 */
};

struct dm_status {
	struct dm_header h;
	uint64_t available, committed, page_file, zero_free;
	uint32_t page_file_writes, io_diff;
};

static const struct { uint16_t major, minor; } versions[] = { { 2, 0 }, { 1, 0 }, { 0, 3 } };

/* The answer of type @type to transaction @id: accepted? Bails out if something else comes. */
static bool accepted(struct vmp_channel *ch, uint16_t type, uint32_t id)
{
	union {
		struct dm_response r;
		uint8_t b[4096];
	} u;
	struct vmp_packet pkt;
	ssize_t n = vmp_packet_recv(ch, &pkt, &u, sizeof(u), 10000);

	if (n < 0)
		give_up("no answer");
	printf("# packet of type %u, id %llu, %zd bytes: message type %u, size %u, transaction %u, accepted %llu\n",
	       pkt.type, (unsigned long long)pkt.id, n, u.r.h.type, u.r.h.size, u.r.h.transaction,
	       (unsigned long long)u.r.accepted);
	ok(pkt.type == VMP_PACKET_DATA && n >= (ssize_t)sizeof(u.r) && u.r.h.type == type &&
	   u.r.h.size == sizeof(u.r) && u.r.h.transaction == id && pkt.id == id,
	   "the answer is message %u to transaction %u", type, id);
	return u.r.accepted & 1;
}

static void put(struct vmp_channel *ch, const void *msg, uint32_t len)
{
	struct vmp_packet pkt = { .type = VMP_PACKET_DATA, .id = ((const struct dm_header *)msg)->transaction };

	if (vmp_packet_send(ch, &pkt, msg, len, 0, 5000))
		give_up("send");
}

int main(int argc, char **argv)
{
	struct dm_capabilities caps = { .h = { DM_CAPABILITIES_REPORT, sizeof(caps), 100 }, .max_page = UINT64_MAX };
	struct dm_status status = { .h = { DM_STATUS_REPORT, sizeof(status), 101 },
				    .available = 1000, .committed = 2000 };
	struct vmp_channel *ch;
	bool agreed = false;
	size_t i;

	start(60);
	if (argc != 2)
		return 2;
	setenv("NO_HANDSHAKE", "1", 1);
	ch = open_packets(argv[1], 0, 0);
	for (i = 0; i < sizeof(versions) / sizeof(versions[0]) && !agreed; i++) {
		struct dm_version_request q = {
			.h = { DM_VERSION_REQUEST, sizeof(q), (uint32_t)i + 1 },
			.minor = versions[i].minor, .major = versions[i].major,
			.last_attempt = i == sizeof(versions) / sizeof(versions[0]) - 1,
		};

		put(ch, &q, sizeof(q));
		agreed = accepted(ch, DM_VERSION_RESPONSE, (uint32_t)i + 1);
		printf("# version %u.%u: %s\n", q.major, q.minor, agreed ? "accepted" : "refused");
	}
	ok(agreed, "a version is agreed upon");
	if (agreed) {
		put(ch, &caps, sizeof(caps));
		ok(accepted(ch, DM_CAPABILITIES_RESPONSE, 100), "our capabilities are accepted");
		put(ch, &status, sizeof(status));
		ok(!vmp_flush(ch), "a status report is sent");
	}
	vmp_channel_close(ch);
	return done();
}
