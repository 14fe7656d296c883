/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/*
 * A portal on VMBus: what a guest's portal_vmbus.ko and the host's service (VSP) say
 * to each other. For hosts in any language: everything is little-endian, naturally
 * aligned, without implicit padding. Pages are VMBus pages of 4096 bytes, whatever
 * the guest's page size is.
 *
 * The host offers a device of class PORTAL_VMBUS_CLASS with one instance GUID per
 * portal, which stays the same for as long as the portal is the same, and as many
 * subchannels (sub_channel_index 1, 2 ...) as it wants. Vector v of the portal is the
 * channel with that index, 0 the primary one; a signal on the channel, in either
 * direction, is a doorbell on vector v, and is also what the packet rings of that
 * channel need. Signals have no sender: who is signalled looks at everything.
 *
 * Messages travel as in-band packets (VM_PKT_DATA_INBAND, no flags) on the primary
 * channel; the payload begins with a struct portal_vmbus_header. The guest's have the
 * transaction id PORTAL_VMBUS_CONTROL, which no application's packet may have; a host's
 * may have any, for not every host can choose it (Windows' KMCL).
 *
 *	guest				host
 *	opens the primary channel
 *	HELLO				(first ends what is left of an older session)
 *					WELCOME, or REFUSE: closing follows
 *	opens the subchannels
 *	MEMORY, as often as needed	(may look at the pages from here on)
 *	READY
 *					LIVE, or REFUSE
 *	---- from here on every byte of every packet ring is the applications' ----
 *	closes all channels		stops touching rings, cuts off its clients
 *	opens the primary channel
 *	BYE
 *					BYE_ACK, when no access is left
 *	tears the GPADLs down, closes
 *
 * The host's states:
 *
 *	state	event			next	what the host does
 *	CLOSED	primary opened		OPEN
 *	OPEN	HELLO, acceptable	GREETED	WELCOME
 *	OPEN	BYE			OPEN	BYE_ACK
 *	OPEN	anything else		OPEN	REFUSE
 *	GREETED	MEMORY			GREETED	remembers; nothing is mapped twice
 *	GREETED	READY, complete		LIVE	LIVE; clients may come
 *	GREETED	anything else		ENDING	REFUSE
 *	LIVE	application's packets	LIVE
 *	any	primary closed, reset	ENDING	clients are told and cut off
 *	any	host wants to rescind	ENDING	likewise; rescinds when no access is left
 *	ENDING	primary opened		ENDING	answers to HELLO or BYE when in OPEN
 *	ENDING	no access is left	CLOSED	if the primary is closed
 *					OPEN	if it was opened in ENDING
 *					ENDING	otherwise, until it is closed
 *
 * What comes by the primary channel is the guest's kernel's word from its opening until
 * LIVE, a REFUSE in GREETED, or a rescind. After that nothing is believed, in no state,
 * until the channel was closed and opened again: processes of the guest have the rings,
 * or had them, and the guest that hears of a rescind gives the memory away at once.
 *
 * "No access is left" means that no process on the host can reach the pages: its
 * mappings are gone, not merely told to go. A host that cannot force its clients
 * waits for them, and does not answer; the guest then keeps the pages out of use, and
 * their GPADLs as they are, until a later session of the same instance has its BYE_ACK
 * or WELCOME, each of which says that no access to anything older is left; then it tears
 * them down. The channel is closed and opened
 * between LIVE and BYE, because after LIVE the rings hold whatever
 * processes wrote to them: nothing in them can be told from a forgery. A host that
 * sees a control message in LIVE ignores it or takes it as a broken session.
 *
 * Rescind: a host ends all access before it rescinds the primary channel. There is
 * nobody to say BYE to any more, and the guest frees the pages at once; and from the
 * rescind on the host believes nothing in the rings of before. Subchannels are rescinded,
 * all of them in one go, when the primary channel was closed and before the host answers
 * the next BYE or HELLO, or before the primary one is rescinded; they are offered again
 * with the next WELCOME. A guest whose host never does the former cannot hibernate.
 *
 * Suspend and hibernation are an end (BYE) and a new session with new GPADLs.
 *
 * What the guest checks (-EPROTO, with one line in its kernel log): magic, type and
 * size of each message, reserved fields zero, version among those offered, features
 * a subset of those offered, region_size at most what it wanted and a multiple of
 * PORTAL_VMBUS_ALIGN, channels 1 .. vectors, peer_id < max_peers <=
 * PORTAL_VMBUS_MAX_PEERS, sub_channel_index without gap or repetition; ring
 * indices (within the ring, multiples of 8) and packet lengths. It waits for no
 * answer longer than its module's timeout (10 seconds, unless told otherwise).
 *
 * What the host checks: the same of HELLO (min_version <= max_version, vectors >= 1,
 * region_size a multiple of PORTAL_VMBUS_ALIGN); MEMORY: count within the message,
 * first_page equal to the pages named so far, each GPADL known to the bus, of this
 * channel, named once, and of exactly so many pages, the sum not above the
 * region_size granted; READY: the sums. It refuses packets of type
 * VM_PKT_DATA_USING_GPA_DIRECT and its like for ever: they name guest memory that is
 * not the portal's. Ring indices and lengths are read once and checked, in LIVE too:
 * there they come from processes.
 */
#ifndef _UAPI_LINUX_PORTAL_VMBUS_H
#define _UAPI_LINUX_PORTAL_VMBUS_H

#include <linux/types.h>

/* The class (interface type), as text and as the arguments of GUID_INIT(). */
#define PORTAL_VMBUS_CLASS	"888b0701-2231-4fd5-9e9e-d5d6d0788d82"
#define PORTAL_VMBUS_CLASS_INIT						\
	0x888b0701, 0x2231, 0x4fd5, 0x9e, 0x9e, 0xd5, 0xd6, 0xd0, 0x78, 0x8d, 0x82

#define PORTAL_VMBUS_VERSION	1U

/* The transaction id of each of the guest's control messages, and of nothing else. */
#define PORTAL_VMBUS_CONTROL	0x4c4154524f504d56ULL	/* "VMPORTAL" */

#define PORTAL_VMBUS_MAGIC	0x54524f50U		/* "PORT" */

#define PORTAL_VMBUS_PAGE	4096U			/* bytes of a page here */
#define PORTAL_VMBUS_ALIGN	65536U			/* of a region's size */
#define PORTAL_VMBUS_MAX_PEERS	65536U
#define PORTAL_VMBUS_MAX_VECTORS 64U			/* channels of a device */
#define PORTAL_VMBUS_MAX_PIECES	128U			/* in one MEMORY message */
#define PORTAL_VMBUS_MAX_GPADL	1024U			/* pages in one GPADL: 4 MiB */

/* portal_vmbus_header.type */
#define PORTAL_VMBUS_HELLO	1U	/* guest to host: struct portal_vmbus_hello */
#define PORTAL_VMBUS_WELCOME	2U	/* host to guest: struct portal_vmbus_welcome */
#define PORTAL_VMBUS_REFUSE	3U	/* host to guest: struct portal_vmbus_refuse */
#define PORTAL_VMBUS_MEMORY	4U	/* guest to host: struct portal_vmbus_memory */
#define PORTAL_VMBUS_READY	5U	/* guest to host: struct portal_vmbus_ready */
#define PORTAL_VMBUS_LIVE	6U	/* host to guest: struct portal_vmbus_plain */
#define PORTAL_VMBUS_BYE	7U	/* guest to host: struct portal_vmbus_plain */
#define PORTAL_VMBUS_BYE_ACK	8U	/* host to guest: struct portal_vmbus_plain */

/* features */
#define PORTAL_VMBUS_REGION	0x1ULL	/* memory shared by GPADL */
#define PORTAL_VMBUS_PACKETS	0x2ULL	/* somebody serves the packet rings in LIVE */

/**
 * struct portal_vmbus_header - the beginning of each message
 * @magic: PORTAL_VMBUS_MAGIC
 * @type: PORTAL_VMBUS_*
 * @size: bytes of the message with this header; the packet's payload may be longer
 *	only by the padding to a multiple of 8, which is ignored
 */
struct portal_vmbus_header {
	__le32 magic;
	__le16 type;
	__le16 size;
};

/**
 * struct portal_vmbus_hello - what the guest can and wants
 * @header: HELLO
 * @min_version: the oldest version it speaks
 * @max_version: the newest
 * @features: what it can do; the host ignores bits it does not know
 * @region_size: bytes it would like to share, a multiple of PORTAL_VMBUS_ALIGN; 0
 *	without PORTAL_VMBUS_REGION
 * @vectors: channels it can take, the primary one included, 1 ..
 *	PORTAL_VMBUS_MAX_VECTORS
 * @reserved: 0
 */
struct portal_vmbus_hello {
	struct portal_vmbus_header header;
	__le32 min_version;
	__le32 max_version;
	__le64 features;
	__le64 region_size;
	__le32 vectors;
	__le32 reserved;
};

/**
 * struct portal_vmbus_welcome - what the host grants
 * @header: WELCOME
 * @version: one that the guest speaks
 * @channels: that the guest shall open, the primary one included; at most vectors
 * @features: a subset of the guest's
 * @region_size: bytes that the guest shall share, at most what it wanted; not 0 with
 *	PORTAL_VMBUS_REGION, 0 without
 * @peer_id: the guest's own
 * @max_peers: all peer ids are below it
 */
struct portal_vmbus_welcome {
	struct portal_vmbus_header header;
	__le32 version;
	__le32 channels;
	__le64 features;
	__le64 region_size;
	__le32 peer_id;
	__le32 max_peers;
};

/**
 * struct portal_vmbus_refuse - no
 * @header: REFUSE
 * @error: why, a positive errno of Linux: EPROTONOSUPPORT (no common version), EPROTO
 *	(a message is wrong), ENOMEM, EBUSY, EPERM ...; what else is sent reads as EPROTO
 * @text: one line for the guest's log, ASCII, padded with zeroes; need not end in one
 */
struct portal_vmbus_refuse {
	struct portal_vmbus_header header;
	__le32 error;
	char text[84];
};

/**
 * struct portal_vmbus_piece - a GPADL of the primary channel
 * @gpadl: its handle
 * @pages: how many pages it has, 1 .. PORTAL_VMBUS_MAX_GPADL
 */
struct portal_vmbus_piece {
	__le32 gpadl;
	__le32 pages;
};

/**
 * struct portal_vmbus_memory - the next pieces of the region, in order of offset
 * @header: MEMORY; size is that of the pieces used: 24 + 8 * count
 * @first_page: where in the region the first piece begins
 * @count: 1 .. PORTAL_VMBUS_MAX_PIECES
 * @reserved: 0
 * @pieces: the pieces
 */
struct portal_vmbus_memory {
	struct portal_vmbus_header header;
	__le64 first_page;
	__le32 count;
	__le32 reserved;
	struct portal_vmbus_piece pieces[PORTAL_VMBUS_MAX_PIECES];
};

/**
 * struct portal_vmbus_ready - that was all: subchannels are open, memory is named
 * @header: READY
 * @pages: of all pieces: region_size / PORTAL_VMBUS_PAGE
 * @pieces: how many there were
 * @channels: that are open, as WELCOME said
 */
struct portal_vmbus_ready {
	struct portal_vmbus_header header;
	__le64 pages;
	__le32 pieces;
	__le32 channels;
};

/**
 * struct portal_vmbus_plain - LIVE, BYE, BYE_ACK
 * @header: the message
 * @reserved: 0
 */
struct portal_vmbus_plain {
	struct portal_vmbus_header header;
	__le64 reserved;
};

#endif /* _UAPI_LINUX_PORTAL_VMBUS_H */
