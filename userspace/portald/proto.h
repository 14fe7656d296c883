/* SPDX-License-Identifier: MIT */
/*
 * What portald and a process on its host say to each other on
 * /run/vmportal/NAME.sock (QEMU speaks the ivshmem protocol, on its own socket
 * NAME.ivshmem).
 *
 * AF_UNIX, SOCK_SEQPACKET: one message per packet, a fixed struct pd_msg, little-
 * endian, descriptors beside it by SCM_RIGHTS. The client speaks first:
 *
 *	client			portald
 *	HELLO			WELCOME + memfd		(or REFUSE with a text)
 *				PEER + eventfds		(one or more for each peer; the
 *							client's own id first: its
 *							receive eventfds)
 *				READY			(all present peers were told)
 *	...			PEER, GONE		(as machines come and go)
 *				CHANGE			(managed: a row of the tables changed)
 *	SESSION			SESSION + lifeline	(managed: at most once)
 *	FENCE			FENCE			(managed: root, or portald's user)
 *
 * Closing the socket returns its id, unless it has a session, which ends first.
 *
 * Ids: 0 .. host_peers-1 are the host's, leased to its processes and leased again
 * when they are gone; ids of guests grow, and begin again only after the last
 * guest has left (and was reported GONE). So an id means the same peer from its
 * PEER to its GONE and no longer. PEER and GONE are about those who are really
 * there: guests, and processes that hold a lease. A process that has just got an
 * id may find its eventfds rung for its predecessor: wake-ups are hints.
 *
 * Each lease has a tenure, a number that grows from lease to lease and is never
 * used twice; a guest's is 0. Processes tell each other theirs in shared memory:
 * who met one there knows whether the GONE that he reads, perhaps late, is that
 * one's. Of a peer that came and went before the client was told only the GONE
 * is: it may stand for all guests from id to arg, or for all tenures of id up to
 * value.
 *
 * A client that leaves too much unread for too long finds the end of the stream
 * when it reads at last. It keeps its id, and may be rung, until it closes its own
 * end: so it must not close (or shut down) the socket while it uses its eventfds.
 *
 * A session is one address space's use of the portal, and ends when that can store no
 * more: the lifeline is a description of its own of a one-page memfd. The client maps it
 * (shared, MADV_DONTFORK) and closes the descriptor; the end of that mapping, by
 * munmap() after the region's, by exec or exit, is the session's. Whoever else has the
 * socket, or the eventfds, does not matter. The end of the session is the end of the
 * connection too. Until the client has taken the lifeline out of the socket, the socket
 * keeps it.
 *
 * CHANGE says: look at the tables. Of several changes before the client reads it is told
 * once; it looks after it has read.
 *
 * In place of HELLO a client may send STATUS (same members, flags 0). The answer is
 * one STATUS with a sealed memfd that holds value bytes of JSON (see portald(8)),
 * and the end of the connection. It takes no id.
 * Each side treats the other as hostile: lengths, types, counts and the number
 * of descriptors are checked, and anything else ends the connection.
 */
#ifndef PORTALD_PROTO_H
#define PORTALD_PROTO_H

#include <stdint.h>

#define PD_MAGIC	0x44504d56U	/* "VMPD" */
#define PD_VERSION	2U
#define PD_MAX_FDS	64U		/* descriptors in one message */

enum pd_type {
	PD_HELLO = 1,	/* magic in id, version in arg, PD_RDONLY in flags */
	PD_WELCOME,	/* id: the client's; arg: vectors; value: region size; fd: region;
			 * flags: PD_MACHINE */
	PD_PEER,	/* id: peer; arg: vector of the first fd; value: tenure; fds: eventfds
			 * to ring it (none for a read-only client, except its own) */
	PD_READY,
	PD_GONE,	/* id .. arg left; value: tenure (then arg is id) */
	PD_REFUSE,	/* arg: errno; text says why and what to do */
	PD_STATUS,	/* request as HELLO; answer: value bytes of JSON in the fd */
	PD_SESSION,	/* request: arg: vector to be rung by, or all ones; answer: value: token;
			 * fd: lifeline; or arg: errno, and text */
	PD_CHANGE,
	PD_FENCE,	/* request: id: slot; value: the claim that is meant; answer: the same, and
			 * arg: errno or 0, and text */
};

#define PD_RDONLY	(1U << 0)	/* HELLO.flags: a read-only region */
#define PD_MACHINE	(1U << 1)	/* WELCOME.flags: the server is the machine whose memory
					 * this is (a guest's QEMU), not a go-between: the end of
					 * the stream is the end of all peers */

struct pd_msg {
	uint32_t type;
	uint32_t id;
	uint32_t arg;
	uint32_t flags;
	uint64_t value;
	char text[104];		/* NUL-terminated: REFUSE, errors; else zeroes */
};

_Static_assert(sizeof(struct pd_msg) == 128, "pd_msg is 128 bytes on the wire");

#endif /* PORTALD_PROTO_H */
