/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/*
 * The bytes that machines agree on: of a channel, first, and further down those of a
 * managed portal's superblock, tables and directory. All of it is little-endian.
 *
 * Channels
 *
 * A channel lies in an area of a portal's region, [offset, offset + length), which
 * begins at a multiple of 4096. Both ends have agreed on offset and length, and on
 * who is side 0 and who is side 1.
 *
 *	offset				struct portal_chan_side of side 0
 *	offset + 2048			struct portal_chan_side of side 1
 *	offset + 4096			lane 0: messages from side 0 to side 1
 *	offset + 4096 + capacity	lane 1: messages from side 1 to side 0
 *
 * The capacity is the largest power of two with 4096 + 2 * capacity <= length, but
 * at most 2^31. A lane is the ring of vmportal_ring.h. Little-endian throughout.
 *
 * Every word has one writer, for ever: side s writes its own structure and its own
 * lane. Whatever the memory held before is harmless; all zeroes mean "nobody".
 *
 * Handshake. Let x be this side's incarnation and y the other's, both random; the
 * pair's nonce is made of both (below). Each side, in any order, when it looks:
 *
 *  open	incarnation = 0; then all other words of its structure are set to their
 *		first values, consumed = 0 among them; then incarnation = x.
 *  ack		it sees incarnation y: ready = 0, then ack = y. From here on it reads
 *		no record of an older pair, nor ever did as x.
 *  ready	it sees ack == x: the other side reads no old record, so the lane is
 *		its own: it zeroes the lane's first header, ask = 0; then ready = nonce.
 *  live	it sees ready == nonce: the other's lane holds records of this pair only;
 *		live = nonce. It may read. It is bound to y: if y's word changes from now
 *		on, it drains what y had committed and then reports a reset.
 *  send	it sees live == nonce: whatever it commits now, y reads or y dies.
 *
 * While not live, a side that sees another incarnation starts over at ack with the
 * same x. Once live it never acknowledges another: that needs a new x. So nobody
 * writes to a lane that is still being read, no record of an old incarnation has a
 * valid tag in a new pair, and no committed record is lost while its reader lives.
 *
 * End. closed = x after the last commit. The other side that finds a header of 0
 * loads closed (acquire) and then the header anew: only 0 is the end. It loads
 * incarnation before closed: a side that closed and opened again did close.
 *
 * Death. An id may be leased again, and who is told of deaths by id is told late. So a
 * server (portald) numbers its leases, never the same number twice, and tells a lease's
 * number with its beginning and its end; a side that holds one says it in tenure, before
 * incarnation = x. It speaks for the address as long as that incarnation lasts.
 *
 * Sleep. A side that will sleep for messages stores a non-zero number to rx_armed
 * (for room: tx_armed), one that neither it nor a predecessor of its used before (it
 * counts from a random one), then a full fence, then looks a last time; it alone
 * stores 0 again when it is awake. The other side publishes (a record; consumed),
 * then a full fence, then loads the word: if it is neither 0 nor the number that it
 * rang for last, it stores it to rx_rung (tx_rung) of its own structure and rings
 * the address. So one arm gets at most one ring, and a sleeper that was woken by a
 * doorbell and finds its number in rx_rung knows that rings reach it; until then it
 * sleeps with a timeout.
 */
#ifndef _UAPI_LINUX_PORTAL_LAYOUT_H
#define _UAPI_LINUX_PORTAL_LAYOUT_H

#include <linux/types.h>

#define PORTAL_CHAN_MAGIC	0x56504d43U	/* "CMPV" */
#define PORTAL_CHAN_VERSION	1U		/* other numbers: not this layout */
#define PORTAL_CHAN_ALIGN	4096U		/* of an area's offset */
#define PORTAL_CHAN_MIN		65536U		/* of an area's length */
#define PORTAL_CHAN_SIDE_SIZE	2048U

/* portal_chan_side.address: peer id, vector, and how this side waits. */
#define PORTAL_CHAN_PEER_SHIFT		0	/* 32 bits; all ones: none */
#define PORTAL_CHAN_VECTOR_SHIFT	32	/* 16 bits */
#define PORTAL_CHAN_DOORBELL		(1ULL << 48) /* it may arm, and wants to be rung */

/*
 * Blocks that are written at different times, or read by different threads of the
 * other side, lie 128 bytes apart: processors fetch lines in pairs.
 */
struct portal_chan_side {
	/* 0: the handshake; written seldom */
	__aligned_u64 hello;		/* magic | version << 32 */
	__aligned_u64 capacity;		/* of each lane */
	__aligned_u64 incarnation;	/* random; 0: nobody */
	__aligned_u64 ack;		/* incarnation that this side pairs with */
	__aligned_u64 ready;		/* nonce: this side's lane is fresh */
	__aligned_u64 live;		/* nonce: this side reads the other's lane */
	__aligned_u64 closed;		/* incarnation that has closed */
	__aligned_u64 address;		/* PORTAL_CHAN_* */
	__aligned_u64 tenure;		/* of the peer id in address, by its server; 0: none */
	__aligned_u64 token;		/* in channels by name: the session; else 0 */
	__u8 reserved0[48];
	/* 128: by the receiving thread, every 1/8 of the capacity; by a hub, always */
	__aligned_u64 consumed;		/* position in the other side's lane */
	__aligned_u64 shown;		/* a hub has shown what is before this; else 0 */
	__u8 reserved1[112];
	/* 256: by the receiving thread, when it sleeps */
	__aligned_u64 rx_armed;		/* sleeps for messages */
	__u8 reserved2[120];
	/* 384: by the sending thread, when there is no room */
	__aligned_u64 ask;		/* position of the other side it waits for */
	__aligned_u64 tx_armed;		/* sleeps for room */
	__u8 reserved3[112];
	/* 512: by either thread, when it rings */
	__aligned_u64 rx_rung;		/* the other's rx_armed it rang for last */
	__aligned_u64 tx_rung;		/* the other's tx_armed it rang for last */
	__u8 reserved4[112];
	/* 640: not written */
	__u8 reserved5[1408];
};

/*
 * The pair's nonce, of the incarnations of side 0 (a) and side 1 (b), modulo 2^64:
 *
 *	n = a * 0x9e3779b97f4a7c15 ^ rotl(b, 32) * 0xc2b2ae3d27d4eb4f
 *	n = (n ^ n >> 29) * 0xbf58476d1ce4e5b9
 *	n = n ^ n >> 32, and 1 if that is 0
 *
 * The lanes' nonces: low 32 bits of n for lane 0, high 32 bits for lane 1.
 */

/*
 * Managed portals
 *
 * A region that begins with a superblock. portal-layout(5) is the specification: each
 * field's unit, writer, reader, order, and what a reader does with a broken value.
 *
 *	superblock	4096 bytes, never changed after formatting	\
 *	peers		a row for each machine				 > protected
 *	sessions	a fixed block of rows for each peer's processes	/
 *	directory	a lock, a redo record				\
 *	objects		a row for each named object			 |
 *	uses		a row for each open of an object by a session	 > writable
 *	pending		hints: whom a doorbell is for			 |
 *	data		the objects, in units of 64 KiB			/
 *
 * The protected part ends at a multiple of 64 KiB. User space maps it read-only: kernels
 * (and portald) write it, each its own rows. So one writer stands behind each row, but
 * for the three words at the beginning of a peer's.
 *
 * Tokens, lives. A token names a session for ever, relative to the superblock's
 * incarnation: sequence << 16 | slot, sequence from 1. A life word is what a slot says
 * of itself: sequence << 16 | state. All zeroes: nobody, nothing, gone, free.
 *
 * Rows are read like this: life (acquire), the rest, an acquire fence, life again; when
 * that is the same, the rest belonged to it. They are written like this: life =
 * (n + 1, JOINING), a release fence, the rest, life = (n + 1, ALIVE) (release).
 */
#define PORTAL_MAGIC		0x4c4154524f504d56ULL	/* "VMPORTAL" */
#define PORTAL_MAGIC_FORMATTING	0x544d524f46504d56ULL	/* "VMPFORMT": not done, or cut off */
#define PORTAL_LAYOUT_VERSION	1U
#define PORTAL_SUPER_SIZE	4096U
#define PORTAL_AREA_ALIGN	4096U		/* of each area's offset */
#define PORTAL_UNIT		65536U		/* of the protected part, of the data, of objects */
#define PORTAL_LAYOUT_MIN	196608U		/* the smallest region that can be formatted */

#define PORTAL_INCOMPAT_KNOWN	0ULL		/* feature bits of version 1: none yet */
#define PORTAL_COMPAT_KNOWN	0ULL

#define PORTAL_MAX_PEERS	4096U
#define PORTAL_MAX_SESSIONS	65536U		/* in all: a token's slot has 16 bits */
#define PORTAL_MAX_OBJECTS	65536U
#define PORTAL_MAX_USES		1048576U
#define PORTAL_LAYOUT_NAME	64U		/* bytes of a name, with the terminating 0 */

#define PORTAL_SLOT_BITS	16
#define PORTAL_SEQUENCE_MAX	0xffffffffffffULL /* a slot that reached it is never used again */

/* portal_super.area[] */
#define PORTAL_AREA_PEERS	0
#define PORTAL_AREA_SESSIONS	1
#define PORTAL_AREA_DIRECTORY	2
#define PORTAL_AREA_OBJECTS	3
#define PORTAL_AREA_USES	4
#define PORTAL_AREA_PENDING	5
#define PORTAL_AREA_DATA	6
#define PORTAL_AREAS		7		/* of version 1 */
#define PORTAL_AREA_SLOTS	16		/* the rest: zero */

/* A piece of the region: count rows of stride bytes. */
struct portal_area {
	__le64 offset;		/* from the start of the region */
	__le64 length;		/* stride * count */
	__le32 stride;
	__le32 count;
};

struct portal_super {
	__le64 magic;		/* PORTAL_MAGIC; stored last, by release */
	__le32 checksum;	/* CRC-32C of all 4096 bytes, these four taken as zero */
	__le32 version;		/* PORTAL_LAYOUT_VERSION */
	__le64 incompat;	/* features: who does not know one keeps off */
	__le64 compat;		/* features: who does not know one may ignore it */
	__le64 size;		/* bytes laid out; at most the region's, a multiple of 64 KiB */
	__le64 protected_size;	/* bytes that user space never maps writable */
	__le64 incarnation;	/* random, new at each formatting, never 0 */
	__le64 created;		/* by the formatter's clock, nanoseconds since 1970 */
	__u8 uuid[16];		/* random, or given; never all 0 */
	char name[64];		/* UTF-8, zero-padded, may be empty */
	char creator[32];	/* what formatted it, for people */
	__le32 peers;		/* rows of the peer table */
	__le32 sessions;	/* session rows in each peer's block */
	__u8 reserved0[8];
	struct portal_area area[PORTAL_AREA_SLOTS];
	__u8 reserved1[3520];
};

/* The low 16 bits of a life word. */
#define PORTAL_LIFE_NONE	0	/* never used; the sequence is 0 too */
#define PORTAL_LIFE_JOINING	1	/* being filled: nobody yet */
#define PORTAL_LIFE_ALIVE	2
#define PORTAL_LIFE_ASLEEP	3	/* peers: suspended, and said so */
#define PORTAL_LIFE_DEAD	4	/* no store by it is possible any more (portal.h); free */

/* portal_peer.kind */
#define PORTAL_PEER_GUEST	1	/* a kernel's portal device */
#define PORTAL_PEER_HOST	2	/* portald, for the processes of its host: slot 0 */

#define PORTAL_PEER_SLOT_HOST	0	/* nobody else claims it */
#define PORTAL_VECTOR_NONE	0xffffffffU
#define PORTAL_ADDRESS_NONE	0xffffffffU

/*
 * One machine's row. Slot i's sessions are rows i * sessions and on of their table.
 *
 * claim: address + 1 << 32 | 32 random bits; address: the peer id that doorbells are
 * rung by, address + 1 is 0 for who has none. A claim is made by compare-and-swap, of 0,
 * or of a claim that is dead, or that has one's own address (it is one's own, from before
 * a reboot) and says that it is dead or asleep, or has been silent. It ends by a store of
 * 0, after life = (n, DEAD).
 *
 * dead, suspect: a claim that is proven dead, or under suspicion. By wardens (portald;
 * a kernel for an administrator), by compare-and-swap, while that claim stands.
 */
struct portal_peer {
	/* 0: many writers */
	__le64 claim;
	__le64 dead;
	__le64 suspect;
	__le32 reason;		/* of the last verdict: PORTAL_REASON_*, for people */
	__u8 reserved0[100];
	/* 128: the claimant alone, from here on */
	__le64 life;
	__le64 incarnation;	/* random at each boot, probe, resume; never 0 */
	__le32 kind;		/* PORTAL_PEER_* */
	__le32 vectors;		/* doorbells that it receives */
	__le32 notice;		/* the one to ring when a table has changed, or NONE */
	__le32 heartbeat_ms;	/* between two heartbeats; 0: it has none */
	__le64 joined;		/* by its own clock, nanoseconds since 1970 */
	__le64 features;	/* what its software can do; 0 in version 1 */
	__u8 machine[16];	/* what tells it from others, or 0: a hint */
	char name[64];		/* its host name: UTF-8, zero-padded */
	/* 256: at its rate */
	__le64 heartbeat;	/* counts up; the observer takes the time */
	__le64 changes;		/* counts changes of its row and of its sessions */
	__u8 reserved1[240];
};

/* portal_peer.reason */
#define PORTAL_REASON_NONE	0
#define PORTAL_REASON_EXITED	1	/* portald saw its QEMU's process end */
#define PORTAL_REASON_CUT	2	/* connection lost, or cut (suspect) */
#define PORTAL_REASON_RESCINDED	3	/* the bus said so */
#define PORTAL_REASON_FENCED	4	/* an administrator said so */
#define PORTAL_REASON_SILENT	5	/* its heart stands still: who sees it beat takes it back */

/*
 * One process's use of a portal. It is dead when life says so, or carries a higher
 * sequence than the token, or its claim is not that of its peer's row any more, or is
 * the one that is dead there.
 */
struct portal_session {
	__le64 life;
	__le64 claim;		/* its machine's, when it began */
	__le32 address;		/* peer id to ring it by; or PORTAL_ADDRESS_NONE */
	__le32 vector;		/* to ring it by, or PORTAL_VECTOR_NONE */
	__le32 pid;		/* in its machine, for people */
	__le32 uid;
	__le64 started;		/* by its machine's clock, nanoseconds since 1970 */
	__le64 features;	/* 0 in version 1 */
	char name[32];		/* its command: zero-padded */
	__u8 reserved[48];
};

/* portal_lock.flags */
#define PORTAL_LOCK_BROKEN	0x1U	/* unlocked without repair: -ENOTRECOVERABLE for ever */
#define PORTAL_LOCK_REPAIR	0x2U	/* taken from a dead owner, and not repaired yet */

/*
 * A robust lock, anywhere in the writable part. owner goes from 0 to a token, and from
 * the token of a session that is dead to another's, by compare-and-swap; back to 0 by
 * release, by its owner.
 */
struct portal_lock {
	__le64 owner;		/* token; 0: free */
	__le64 previous;	/* the dead owner it was taken from last */
	__le64 count;		/* how often it was taken; the owner writes it */
	__le32 flags;
	__u8 reserved0[4];
	__le64 waiter[8];	/* tokens of who wants to be rung, 0: free; hints */
	__u8 reserved1[32];
};

/* One store of a change: value to the eight bytes at offset, in objects or uses. */
struct portal_redo_store {
	__le64 offset;		/* from the start of the region, a multiple of 8 */
	__le64 value;
};

#define PORTAL_REDO_STORES	62U

/*
 * The change that the lock's holder is making. state = the generation after it, stored
 * last (release): from then on the change will be made, by the holder or by the next.
 */
struct portal_redo {
	__le64 state;		/* 0: none */
	__le32 checksum;	/* CRC-32C of state, count, and stores up to count */
	__le32 count;		/* 1 .. PORTAL_REDO_STORES */
	__u8 reserved[16];
	struct portal_redo_store store[PORTAL_REDO_STORES];
};

/* The directory's own block; the lock's holder writes all but lock and watcher. */
struct portal_directory {
	struct portal_lock lock;
	__le64 generation;	/* even; odd while a change is being stored */
	__u8 reserved0[120];
	__le64 watcher[32];	/* tokens of who is rung at a change, 0: free; hints */
	__u8 reserved1[512];
	struct portal_redo redo;
	__u8 reserved2[2048];
};

/* The low 16 bits of portal_object.life. */
#define PORTAL_OBJECT_NONE	0	/* never used; the sequence is 0 too */
#define PORTAL_OBJECT_MAKING	1	/* has its name and place, and is zeroed by its creator */
#define PORTAL_OBJECT_NAMED	2
#define PORTAL_OBJECT_UNLINKED	3	/* lives until its last user is out or dead */
#define PORTAL_OBJECT_FREE	4

/* portal_object.kind */
#define PORTAL_KIND_RAW		1	/* bytes; the directory knows no more */
#define PORTAL_KIND_CHANNEL	2	/* lanes; begins with a header of its own */

/* portal_object.flags */
#define PORTAL_OBJECT_EPHEMERAL	0x1U	/* unlinked by itself when its last user goes */

/* A named object. Changed under the directory's lock, by redo. */
struct portal_object {
	__le64 life;		/* sequence << 16 | PORTAL_OBJECT_* */
	__le32 kind;
	__le32 format;		/* version of the kind's own bytes */
	__le64 offset;		/* from the start of the region, a multiple of 64 KiB */
	__le64 length;		/* a multiple of 64 KiB, not 0 */
	__le64 size;		/* bytes asked for, at most length */
	__le32 mode;		/* 0 .. 0777: advice among holders of the region */
	__le32 flags;
	__le64 creator;		/* token */
	__le64 created;		/* by its clock, nanoseconds since 1970 */
	__le64 param[8];	/* the kind's; 0 for PORTAL_KIND_RAW */
	char name[64];		/* UTF-8 without '/', zero-padded; stays when it is free */
	__u8 reserved[64];
};

/* One session has one object open. */
struct portal_use {
	__le64 object;		/* sequence << 16 | row; 0: free */
	__le64 token;
	__le32 flags;		/* 0 in version 1 */
	__u8 reserved[12];
};

/*
 * Channels by name
 *
 * An object of PORTAL_KIND_CHANNEL: many producers, one consumer (the hub). format is 1,
 * param[0] the number of lanes, param[1] the capacity of each one's two rings: a power of
 * two from 4096 to 2^31. All zeroes, as the object is made, are a hub with nobody in it.
 *
 *	0	struct portal_hub
 *	256	struct portal_hub_lane for each lane
 *	L	channel areas, each 4096 + 2 * capacity bytes: a producer is side 1,
 *		the consumer side 0. L: the next multiple of 4096
 *
 * Consumer. consumer goes from 0, or from the token of a session that is dead, to the
 * consumer's by compare-and-swap, and from that to 0 when it leaves. Nobody else writes a
 * side 0.
 *
 * A lane's life, by its owner word:
 *
 *  take	0 -> the producer's token, by compare-and-swap. Then it opens side 1.
 *  open	The consumer sees it and opens side 0; from here on it is any channel. Each
 *		side's token says which session it is: proven death is -ECONNRESET.
 *  leave	The producer has closed side 1, and stores nothing there any more:
 *		left -> its token (release), while it is the owner.
 *  reset	The consumer has seen left (acquire), or that the owner is dead (acquire),
 *		and *then* found a header of 0: owner -> PORTAL_HUB_RESET, incarnation = 0,
 *		live = 0 of side 0, left -> 0, owner -> 0 (release), in this order.
 *
 * Each "->" is a compare-and-swap, from what was seen there before: a machine that was
 * declared dead by mistake may go on for a while, and must not take what is another's now.
 * (How the words of a side are stored, so that it does not change its successor's:
 * portal-layout(5).)
 *
 * So a lane has one producer session and one consumer session at a time, and goes to
 * another only when both have let go of it, or are dead. Suspicion changes nothing.
 *
 * Hand-over. Of a lane whose side 0 has live != 0, a predecessor has read; records up to
 * consumed are done, the rest is the successor's to read, under the nonce that live
 * is. Those below shown may have been seen before. It stores incarnation = 0, so that the
 * producer learns that the pair is over; reads on until that one has left or is dead; and
 * resets the lane. A lane whose live is 0 has nothing in it: it is opened as if new.
 * Owners that never were, or PORTAL_HUB_RESET: reset it, nothing is read.
 */
struct portal_hub {
	/* 0: many writers */
	__aligned_u64 consumer;		/* token; 0: nobody */
	__u8 reserved0[120];
	/* 128: the consumer alone */
	__aligned_u64 address;		/* PORTAL_CHAN_*: to ring when a lane was taken */
	__aligned_u64 count;		/* of consumers so far */
	__u8 reserved1[112];
};

struct portal_hub_lane {
	__aligned_u64 owner;		/* token; 0: free; PORTAL_HUB_RESET */
	__aligned_u64 left;		/* owner: stores nothing there any more */
	__u8 reserved[112];
};

#define PORTAL_HUB_FORMAT	1U
#define PORTAL_HUB_RESET	1ULL		/* no token: sequences begin with 1 */
#define PORTAL_HUB_LANES	1024U		/* at most */
#define PORTAL_HUB_CAPACITY_MIN	4096U
#define PORTAL_HUB_CAPACITY_MAX	0x80000000U

#endif /* _UAPI_LINUX_PORTAL_LAYOUT_H */
