/* SPDX-License-Identifier: MIT */
/*
 * libvmportal: shared memory between machines.
 *
 * A portal (struct vmp) is memory that two or more machines see at once, plus
 * doorbells. A channel (struct vmp_channel) is a two-way stream of messages
 * in a part of it. The same calls work whatever carries the portal.
 *
 *	struct vmp *p;
 *	struct vmp_channel *ch;
 *
 *	vmp_open(&p, "/dev/portal0", 0);
 *	vmp_channel_open(&ch, p, NULL);
 *	vmp_send(ch, "hello", 5, 0, -1);
 *	vmp_channel_close(ch);
 *	vmp_close(p);
 *
 * Returns: 0 or a count on success, a negative errno on failure; the text behind
 * the last failure of this thread is in vmp_errmsg(). Each call's comment names
 * the errors that are its own; any call that touches the portal may also return
 *
 *	-ENODEV	     the portal is gone: the device was unplugged or unbound (a server
 *		     that ends leaves memory and doorbells as they are)
 *	-EPROTO	     the other side broke the protocol of this channel; it stays
 *		     broken until both ends have opened it anew
 *	-ECONNRESET  the other side opened the channel anew, or died where that is
 *		     known; what it had sent was delivered first. Close and open
 *	-EBUSY	     another program has opened this side of the channel too. Noticed
 *		     by who waits or receives; a sender may have written into what is
 *		     now the other's: two openers of one side must not be
 *
 * Timeouts are milliseconds: 0 does not wait (-EAGAIN), negative waits for ever,
 * otherwise -ETIMEDOUT (or -EPROTONOSUPPORT: on the other side stands an end of another
 * version of the layout, or of another length). A signal handler that runs while a call sleeps gives -EINTR;
 * one that runs before the call has gone to sleep, or while it spins, does not.
 *
 * Threads: a struct vmp may be used by any number of threads at once; but vmp_format(),
 * vmp_set_mode() and vmp_close() are for when no other thread is in a call with it. On a
 * channel one thread may send while another receives; two threads must not use
 * the same direction at once (vmp_channel_connect() counts as sending). Closing is for
 * when no other thread is in a call: a sleeper cannot be called off, so give it a
 * timeout, or a message. Nothing here starts threads or installs signal
 * handlers; send and receive allocate nothing.
 *
 * fork(): a channel, and a portal of vmp_open(), belong to the process that opened
 * them. A child may close what it inherited, which only frees, and should, or exec():
 * while it holds portald's socket, the parent's death is not told. The memory of a device
 * or of portald is not mapped in a child (MADV_DONTFORK; an access is SIGSEGV), so that
 * nobody stores there after the death of the process that is known to the others; every
 * call on an inherited portal, channel, hub or object that would look there, ring, or wait gives
 * -EBUSY. A file's and a memfd's is, as by mmap(2). Both ends of vmp_pair() may be shared out
 * among parent and child before channels are opened.
 */
#ifndef VMPORTAL_H
#define VMPORTAL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VMP_PEER_NONE	UINT32_MAX
#define VMP_PEER_ANY	UINT32_MAX	/* in vmp_window_opts */

struct vmp;
struct vmp_channel;

/* ---- Portals ------------------------------------------------------------ */

/* vmp_open() flags */
#define VMP_RDONLY		(1U << 0) /* map read-only; ringing gives -EACCES */
#define VMP_ZERO_ON_REVOKE	(1U << 1) /* a zeroed page in place of SIGBUS, where the transport can */

/**
 * vmp_open() - open a portal
 * @p: set on success; the caller owns it until vmp_close()
 * @uri: what to open:
 *	"/dev/portalN"			a portal device of this machine
 *	"unix:/run/vmportal/NAME.sock"	portald's region, as a process of its host
 *	"file:PATH[?size=BYTES]"	a file shared by processes of this machine (no
 *					doorbells); size= makes or grows it; refused
 *					(-EOPNOTSUPP) where mappings are not coherent:
 *					9p, FUSE, NFS, SMB
 *	"fd:N"				a portal's open file that was passed on: a window of
 *					vmp_window(), or of a device itself. N stays the
 *					caller's. One vmp_open() for each file: eventfds are
 *					the file's, and it has one for each vector
 *	"memfd:fd=N" or "memfd:size=BYTES" anonymous memory, inherited or fresh (no
 *					doorbells)
 *	BYTES may end in K, M or G (powers of 1024). Who may shorten the file or memfd
 *	can end its users by SIGBUS, and so can a full file system, for a file made by
 *	size= has holes; portald's memory is sealed against it.
 * @flags: VMP_*
 *
 * -EINVAL: a URI that is none of these, or undefined flags. -ENOTTY: a file that
 * is not a portal. -ENXIO/-ENOENT: no such device (module not loaded?).
 * -ECONNREFUSED: nobody serves that socket. -EACCES: no permission. -EPROTO: the
 * server speaks another version. vmp_errmsg() says what to do about it.
 */
int vmp_open(struct vmp **p, const char *uri, unsigned int flags);

/*
 * Unmaps the region and closes all. Close its channels first. NULL is allowed.
 *
 * While a device's portal is open it may go away: calls then give -ENODEV, but an
 * access of the mapping, the library's own included, is SIGBUS, unless it was opened
 * with VMP_ZERO_ON_REVOKE. A program that must survive unplugging says so, or
 * handles SIGBUS.
 */
void vmp_close(struct vmp *p);

/**
 * vmp_pair() - a portal with two ends in this process
 * @p: two portals over the same fresh anonymous memory, ids 0 and 1, each able to
 *	ring the other's @vectors; both survive fork(), so that parent and child
 *	may keep one each
 * @size: bytes, rounded up to the page size
 * @vectors: 0 .. 64
 */
int vmp_pair(struct vmp *p[2], size_t size, unsigned int vectors);

/**
 * struct vmp_notify_ops - how memory of the caller's own is notified
 * @ring: ring @vector of @peer; 0 or -errno
 * @eventfd: an eventfd-like descriptor that becomes readable when @vector was
 *	rung, or -EOPNOTSUPP; stays the caller's
 *
 * Called by any thread that uses the portal. NULL members: not supported.
 */
struct vmp_notify_ops {
	int (*ring)(void *arg, uint32_t peer, uint32_t vector);
	int (*eventfd)(void *arg, uint32_t vector);
};

/**
 * vmp_attach() - a portal over memory that the caller has mapped
 * @base: page-aligned; stays the caller's, and mapped until vmp_close()
 * @size: bytes
 * @vectors: receive vectors that @ops serves; 0 if @ops is NULL
 * @peer_id: this end's id, or VMP_PEER_NONE
 */
int vmp_attach(struct vmp **p, void *base, size_t size,
	       const struct vmp_notify_ops *ops, void *arg,
	       uint32_t vectors, uint32_t peer_id);

/* vmp_info.caps */
#define VMP_CAP_RING		(1U << 0) /* can ring others */
#define VMP_CAP_EVENTS		(1U << 1) /* can be rung: vmp_eventfd() works */
#define VMP_CAP_DOORBELL_PAGE	(1U << 2) /* rings without a system call */
#define VMP_CAP_LARGE_PAGES	(1U << 3) /* mapped by large pages */
#define VMP_CAP_WRITE_BACK	(1U << 4) /* memory known to be write-back cached */
#define VMP_CAP_PACKETS		(1U << 5) /* VMBus: VMP_CH_PACKETS works, on each vector */
#define VMP_CAP_WINDOW		(1U << 6) /* a part of a portal: see vmp_window() */

/* vmp_info.mode */
#define VMP_MODE_RAW		0 /* the whole region is the applications' */
#define VMP_MODE_MANAGED	1 /* it begins with a superblock and tables: see below */

/**
 * struct vmp_info - what a portal is
 * @size: region size in bytes; 0: no region (some VMBus devices)
 * @peer_id: this end's doorbell address, or VMP_PEER_NONE
 * @max_peers: peer ids are below this; 0: not known
 * @vectors: receive vectors are below this; of a window some may be missing
 * @caps: VMP_CAP_*
 * @generation: counts resumes and resets of the device
 * @mode: VMP_MODE_*: as it was when the portal was opened; bytes that change later do
 *	not change it
 * @transport: "ivshmem", "vmbus", "loopback", "portald", "file", "memfd",
 *	"pair", "attach"
 * @identity: which one of them, e.g. "pci-0000:00:04.0" or a path
 * @first_vector: the lowest receive vector: 0, but for windows
 */
struct vmp_info {
	uint64_t size;
	uint32_t peer_id;
	uint32_t max_peers;
	uint32_t vectors;
	uint32_t caps;
	uint32_t generation;
	uint32_t mode;
	char transport[16];
	char identity[112];
	uint32_t first_vector;
	uint32_t reserved;
};

/**
 * vmp_get_info() - current facts about a portal
 * @info_size: sizeof(struct vmp_info) as the caller was compiled; members the
 *	library does not know are zeroed
 */
int vmp_get_info(struct vmp *p, struct vmp_info *info, size_t info_size);

/**
 * vmp_map() - the whole region
 * @base: set to its address; the same at every call; valid until vmp_close()
 * @size: set to its size, may be NULL
 *
 * Read-only for VMP_RDONLY. Of a managed portal the tables (vmp_layout.protected_size) are
 * read-only too: a store there is SIGSEGV. A device's kernel sees to that, for everybody;
 * elsewhere the library does, for this process: what others map is their affair, and so are
 * memory of vmp_attach(), and huge pages, which cannot be divided.
 * -EOPNOTSUPP: the portal has no region. What it holds may change at any time by any peer.
 */
int vmp_map(struct vmp *p, void **base, size_t *size);

/**
 * vmp_ring() - ring @vector of @peer
 *
 * All stores before the call are visible to whoever sees the event. Rings
 * coalesce: n rings arrive as 1 to n events. The processes of one portald are one
 * trust group for this: each holds the eventfds of all, and one that keeps another's
 * full at the right instants delays who rings there. A peer that is not connected is
 * not reached; -ENXIO where that is known. -EOPNOTSUPP: no doorbells.
 */
int vmp_ring(struct vmp *p, uint32_t peer, uint32_t vector);

/**
 * vmp_eventfd() - a descriptor that is readable when @vector was rung
 *
 * Non-blocking, the library's own (do not close it): read(2) 8 bytes to clear it.
 * One per vector and portal. -EOPNOTSUPP: no doorbells; -EINVAL: no such vector.
 */
int vmp_eventfd(struct vmp *p, uint32_t vector);

/* ---- Windows ------------------------------------------------------------ */

/* vmp_window_opts.flags */
#define VMP_WINDOW_RDONLY	(1U << 0) /* reads only, and rings nobody */

#define VMP_WINDOW_ALIGN	65536U

/**
 * struct vmp_window_opts - what a window reaches
 * @size: sizeof(struct vmp_window_opts) as the caller was compiled
 * @flags: VMP_WINDOW_*
 * @offset: bytes from the start of the portal (or window), a multiple of VMP_WINDOW_ALIGN
 * @length: bytes, a multiple of VMP_WINDOW_ALIGN, not 0
 * @wait: receive vectors that its holder may wait for: bit v is vector v. They keep their
 *	numbers. A channel needs its own
 * @ring: vectors of others that its holder may ring: bit v is vector v
 * @peer: of this peer only, or VMP_PEER_ANY: a guest that starts anew has another id
 */
struct vmp_window_opts {
	uint32_t size;
	uint32_t flags;
	uint64_t offset;
	uint64_t length;
	uint64_t wait;
	uint64_t ring;
	uint32_t peer;
	uint32_t reserved;
};

/**
 * vmp_window() - a descriptor that reaches only a part of a portal
 *
 * For a process that shall not have the rest: pass it on (SCM_RIGHTS, or fork() and
 * exec()), and open it there as "fd:N". The kernel confines its holder: no call makes it
 * reach more. Offsets in it, those of channels included, count from its start. It lives
 * on when @p is closed; make one for each process.
 *
 * The descriptor, close-on-exec, the caller's; or -EINVAL (beyond @p, unaligned, no such
 * vector), -EACCES (@p itself may not do as much, or a managed portal's tables lie
 * there), -EOPNOTSUPP (only devices have windows: who holds the memory file of a
 * host's process holds all of it).
 */
int vmp_window(struct vmp *p, const struct vmp_window_opts *o);

/* ---- Channels ----------------------------------------------------------- */

/* vmp_channel_opts.flags */
#define VMP_CH_NO_SLEEP	(1U << 0) /* this end never sleeps: it polls, and needs no doorbell */
#define VMP_CH_PACKETS	(1U << 1) /* over VMBus's packet rings of @vector, to the host's service */

/**
 * struct vmp_channel_opts - where a channel lies and how it waits
 * @size: sizeof(struct vmp_channel_opts) as the caller was compiled; later versions
 *	take earlier ones' as if the rest were 0
 * @side: 0 or 1: the two ends differ in it; which is which is for the
 *	applications to agree on
 * @offset: bytes from the start of the region, a multiple of 4096. On a managed portal
 *	within the data; 0 stands for where they begin
 * @length: bytes, at least 64 KiB; 0: to the end of the region (of the data). Both ends
 *	must give the same offset and length
 * @vector: receive vector to sleep on (one channel per vector), below 65536; with
 *	VMP_CH_PACKETS also whose rings: 0 the device's primary channel, then subchannels
 * @flags: VMP_CH_*
 * @spin_us: how long to spin before sleeping, microseconds; 0: adaptive
 */
struct vmp_channel_opts {
	uint32_t size;
	uint32_t side;
	uint64_t offset;
	uint64_t length;
	uint32_t vector;
	uint32_t flags;
	uint32_t spin_us;
	uint32_t reserved;
};

/**
 * vmp_channel_open() - open one end of a channel
 * @o: NULL: side 0, the whole region, vector 0 (of a window, its first)
 *
 * Returns at once; the two ends find each other in either order, and whatever the
 * memory held before. Calls below wait for the other end as for anything else.
 * -EINVAL: options that do not fit; -EACCES: portal opened VMP_RDONLY, or the channel
 * would lie over a managed portal's tables; -EUCLEAN: a managed portal that is damaged;
 * -EPROTONOSUPPORT: one with features that this library does not know.
 * -EOPNOTSUPP: the portal has no region, or, with VMP_CH_PACKETS, no packet rings.
 * -EBUSY: another program, or channel, has these packet rings.
 */
int vmp_channel_open(struct vmp_channel **ch, struct vmp *p,
		     const struct vmp_channel_opts *o);

/*
 * Tells the other end (it reads what was sent, then gets -EPIPE), then frees.
 * NULL is allowed.
 */
void vmp_channel_close(struct vmp_channel *ch);

/* Wait until the other end is there: 0, or -ETIMEDOUT, -EAGAIN. The sending direction's. */
int vmp_channel_connect(struct vmp_channel *ch, int timeout_ms);

/* Longest message in bytes that this channel can carry. */
size_t vmp_channel_max(const struct vmp_channel *ch);

/* vmp_send() and vmp_commit() flags */
#define VMP_MORE	(1U << 0) /* more follows at once: do not wake the other end yet */

/**
 * vmp_send() - copy a message into the channel
 *
 * 0, or -EMSGSIZE (longer than vmp_channel_max()), -EPIPE (the other end closed),
 * -EAGAIN/-ETIMEDOUT (no room).
 * After VMP_MORE, call vmp_flush() before going idle; any call that waits
 * flushes by itself.
 */
int vmp_send(struct vmp_channel *ch, const void *buf, size_t len,
	     unsigned int flags, int timeout_ms);

/**
 * vmp_recv() - copy the next message out
 *
 * Its length, which may be 0. -EMSGSIZE: longer than @cap (it stays; see
 * vmp_peek()). -EPIPE: the other end closed and all has been read. -EAGAIN has
 * armed vmp_channel_fd().
 */
ssize_t vmp_recv(struct vmp_channel *ch, void *buf, size_t cap, int timeout_ms);

/**
 * vmp_reserve() - room for a message, written in place
 * @ptr: set to at least @len writable bytes, 8-byte aligned
 *
 * Nothing is seen by the other end before vmp_commit(). One reservation at a
 * time; a new one replaces it. Errors as vmp_send().
 */
int vmp_reserve(struct vmp_channel *ch, void **ptr, size_t len, int timeout_ms);

/* Send the reserved message, @len at most what was reserved. -EINVAL: more, or none. */
int vmp_commit(struct vmp_channel *ch, size_t len, unsigned int flags);

/**
 * vmp_peek() - the next message, in place
 * @ptr: set to the message's bytes in shared memory: **they may change while you
 *	look**; read each once, check, then use
 *
 * Its length; the same message until vmp_release(). Errors as vmp_recv().
 */
ssize_t vmp_peek(struct vmp_channel *ch, const void **ptr, int timeout_ms);

/* Done with the peeked message: its room may be used anew. -EINVAL: none peeked. */
int vmp_release(struct vmp_channel *ch);

/* Wake the other end for what was sent with VMP_MORE. */
int vmp_flush(struct vmp_channel *ch);

/* Called by vmp_poll() per message; return non-zero to stop (the message is consumed). */
typedef int (*vmp_msg_fn)(void *arg, const void *msg, size_t len);

/**
 * vmp_poll() - handle up to @limit waiting messages in place, without waiting
 *
 * How many were handled; 0 has armed vmp_channel_fd(). The bytes may change under
 * @fn, as with vmp_peek(). @fn must not close the channel nor receive from it. Errors
 * as vmp_recv() but for -EAGAIN; -EINVAL: @limit is 0.
 */
int vmp_poll(struct vmp_channel *ch, vmp_msg_fn fn, void *arg, unsigned int limit);

/**
 * vmp_channel_fd() - one descriptor for poll, epoll, io_uring
 *
 * Readable (POLLIN) when a call that said -EAGAIN (or vmp_poll() that said 0) is
 * worth repeating; that call clears it. Spurious readiness is possible. For one
 * event loop: when it is readable, repeat every call that said so, in either
 * direction. The library's own.
 */
int vmp_channel_fd(struct vmp_channel *ch);

/**
 * struct vmp_stats - counts since vmp_channel_open(), this end only
 *
 * @syscalls counts the library's own system calls for this channel, doorbells
 * and waits included.
 */
struct vmp_stats {
	uint64_t sent, sent_bytes;
	uint64_t received, received_bytes;
	uint64_t doorbells;	/* rung by this end */
	uint64_t wakeups;	/* sleeps that ended by an event */
	uint64_t sleeps;	/* times this end went to sleep */
	uint64_t syscalls;
};

void vmp_channel_stats(const struct vmp_channel *ch, struct vmp_stats *st,
		       size_t st_size);

/* ---- Packets: what VMBus has beyond messages ------------------------------ */

/*
 * A channel of VMP_CH_PACKETS carries the packets that every VMBus device speaks, between
 * this program and the service on the host. All calls above work on it: a message is an
 * in-band data packet with transaction id 0. Differences: a packet's length is a multiple
 * of 8 bytes (shorter ones arrive with zeroes behind them); -EPIPE does not occur; after
 * -EPROTO the device must be bound anew; -ECONNRESET: the machine was suspended, close and
 * open again, what was in the rings is lost; what was sent with VMP_MORE is seen by the
 * host only after the flush.
 */

/* vmp_packet.type: those in use today; others pass as they are */
#define VMP_PACKET_DATA		6	/* in-band data */
#define VMP_PACKET_COMPLETION	11	/* the answer to VMP_PACKET_WANT_COMPLETION */

/* vmp_packet.flags */
#define VMP_PACKET_WANT_COMPLETION 1	/* the receiver answers with the same id */

/**
 * struct vmp_packet - a packet's descriptor
 * @type: VMP_PACKET_*
 * @flags: VMP_PACKET_WANT_COMPLETION or 0; as received, all 16 bits
 * @extra: how many bytes at the start of the buffer belong to the descriptor, a multiple
 *	of 8; 0 for the types above
 * @id: transaction id, the sender's choice; a completion bears that of its request
 */
struct vmp_packet {
	uint16_t type;
	uint16_t flags;
	uint32_t extra;
	uint64_t id;
};

/**
 * vmp_packet_send() - send a packet with a descriptor of the caller's own
 * @len: bytes at @buf, @pkt->extra included
 *
 * As vmp_send(). A type that names pages of this machine's memory makes the host use
 * them. -EINVAL too for the one id that the driver keeps for itself
 * (PORTAL_VMBUS_CONTROL in linux/portal_vmbus.h). -EOPNOTSUPP: not a channel of VMP_CH_PACKETS.
 */
int vmp_packet_send(struct vmp_channel *ch, const struct vmp_packet *pkt,
		    const void *buf, size_t len, unsigned int flags, int timeout_ms);

/* Answer a packet that wanted it: @id is the packet's. Counts as sending. */
int vmp_packet_complete(struct vmp_channel *ch, uint64_t id, const void *buf, size_t len,
			unsigned int flags, int timeout_ms);

/* As vmp_recv(), and say what packet it was; @pkt->extra bytes come first. */
ssize_t vmp_packet_recv(struct vmp_channel *ch, struct vmp_packet *pkt,
			void *buf, size_t cap, int timeout_ms);

/* What packet it is that vmp_peek() shows (without its extra bytes). -EINVAL: none. */
int vmp_packet_peeked(struct vmp_channel *ch, struct vmp_packet *pkt);

/* ---- About the library -------------------------------------------------- */

/*
 * One line about this thread's last failed call: what, where, what to do. Never NULL. Ask
 * before the thread's next call: one that succeeds may have tried something that did not.
 * Closing leaves it as it is, but for vmp_named_close() that fails.
 */
const char *vmp_errmsg(void);

/* Of the library that is loaded: "MAJOR.MINOR.PATCH". */
const char *vmp_version(void);

#ifdef __cplusplus
}
#endif

/* Formatting, tables, sessions, locks, objects by name. */
#include <vmportal_managed.h>
/* Channels by name: many senders, one receiver. */
#include <vmportal_hub.h>

#endif /* VMPORTAL_H */
