/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/*
 * The bytes that the two ends of a channel agree on.
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
	__u8 reserved0[64];
	/* 128: by the receiving thread, every 1/8 of the capacity */
	__aligned_u64 consumed;		/* position in the other side's lane */
	__u8 reserved1[120];
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

#endif /* _UAPI_LINUX_PORTAL_LAYOUT_H */
