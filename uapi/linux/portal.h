/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/*
 * The ioctl contract of /dev/portalN.
 *
 * A portal is memory that two or more machines see at once, plus doorbells.
 * open(2), mmap(2), poll(2), read(2) and the ioctls below are all of it:
 *
 * open(O_RDWR)    may map read-write and ring doorbells.
 * open(O_RDONLY)  may map read-only only, for ever (mprotect(2) included), and
 *                 never rings; it may wait for doorbells.
 * mmap()          offsets 0 .. region_size-1 are the region; MAP_SHARED only.
 *                 Offset portal_info.doorbell_offset is the doorbell page, where
 *                 there is one. What PORTAL_PACKETS returns are the offsets of
 *                 packet rings. A portal may have no region at all (region_size 0).
 *                 Of a managed portal (portal_info.mode) a mapping that reaches the first
 *                 protected_size bytes is read-only, for ever (EACCES); and no mapping
 *                 that is made of it, doorbell page included, is inherited by
 *                 fork(2), as if by MADV_DONTFORK, for good.
 * fd passing      PORTAL_WINDOW makes a file that reaches less: a part of the region,
 *                 some vectors, some doorbells. It can be given to a process that
 *                 may not open /dev/portalN.
 * poll()          POLLIN: read() would return a doorbell's event. POLLPRI: it would
 *                 return a PORTAL_EVENT_CHANGE. POLLHUP|POLLERR: the portal is gone.
 * read()          returns whole struct portal_event records, as many as fit; that of a
 *                 change first. Blocks unless O_NONBLOCK (-EAGAIN).
 * fsync()         and fdatasync(), msync(MS_SYNC): with PORTAL_CAP_FLUSH, what was
 *                 stored before is on the host's disk when they return 0. EIO: it may
 *                 be lost; store it again. Each open file hears once of every flush
 *                 that failed, whoever asked for it. Without that capability EINVAL.
 *                 MAP_SYNC with MAP_SHARED_VALIDATE is refused (EOPNOTSUPP): stores
 *                 alone never reach a disk.
 *
 * Every ioctl takes a pointer to a structure whose first member is its size as
 * the caller knows it. A longer structure than the kernel's is accepted if the
 * excess is zero (-E2BIG otherwise); a shorter one if it covers the first
 * version's members (-EINVAL otherwise), the rest is taken as zero. Outputs are
 * written up to the caller's size. Reserved members and undefined flags must be
 * zero (-EOPNOTSUPP for flags, -EINVAL for reserved members).
 *
 * Errors, the same for every ioctl, mmap() and read():
 *
 * ENOTTY      not an ioctl of this file
 * EINVAL      size too small, reserved member set, vector or offset out of
 *             range, unaligned, MAP_PRIVATE, a read() of less than one record
 * E2BIG       size larger than known and the excess is not zero, or than a page
 * EOPNOTSUPP  undefined flag, or the portal has no such feature (see caps)
 * EFAULT      the pointer is bad
 * EACCES      the file was not opened for this (read-only file), or is a window
 *             that does not include it; mmap(), PORTAL_WINDOW: writable over the
 *             protected part of a managed portal
 * EPERM       the caller lacks the privilege that is named at the ioctl; open(): the
 *             portal reaches all memory of this machine (a VMBus device of another
 *             class), and that needs CAP_SYS_RAWIO
 * ENXIO       no such peer, or no such vector of that peer, where the transport can
 *             tell; open(): there is no such portal
 * EBADF       the descriptor given inside the structure is not open or not an
 *             eventfd (EINVAL)
 * ENODATA, EUCLEAN, EPROTONOSUPPORT  see PORTAL_SET_MODE
 * EUSERS, ESTALE, ENOENT  see PORTAL_SESSION, PORTAL_FENCE; ESTALE of mmap(),
 *             PORTAL_WINDOW and PORTAL_SESSION: this machine was fenced, turned out to
 *             be a copy, or found another region, or the region formatted anew, and the
 *             file is from before; open the portal again
 * EBUSY       the state named at the ioctl forbids it now
 * ENOMEM      out of memory
 * EINTR       a signal came first (restarted where SA_RESTART says so)
 * EAGAIN      O_NONBLOCK, and nothing to read; PORTAL_FENCE: try again
 * ENODEV      the portal is gone: unplugged, unbound, rescinded. Mappings give
 *             SIGBUS, or a zeroed page if PORTAL_FILE_ZERO_ON_REVOKE was set
 *
 * All integers are in the machine's own byte order; the layout is the same for
 * 32-bit and 64-bit callers.
 */
#ifndef _UAPI_LINUX_PORTAL_H
#define _UAPI_LINUX_PORTAL_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * Unassigned in Documentation/userspace-api/ioctl/ioctl-number.rst up to Linux 7.2,
 * where the nearest is 0xBA (liveupdate.h, since 6.19).
 */
#define PORTAL_IOCTL_TYPE	0xBE

/* Version of this contract; it grows with each addition. */
#define PORTAL_API_VERSION	4	/* 2: PORTAL_PACKETS, PORTAL_WINDOW; 3: PORTAL_SET_MODE;
					 * 4: PORTAL_SESSION, PORTAL_FENCE, PORTAL_EVENT_CHANGE
					 */

#define PORTAL_TRANSPORT_LEN	16	/* with the terminating 0 */
#define PORTAL_IDENTITY_LEN	64	/* with the terminating 0 */

/* No such peer; also the id of a portal that has none. */
#define PORTAL_PEER_NONE	0xffffffffU

/* portal_info.caps: what the portal can do. */
#define PORTAL_CAP_DOORBELL		0x1ULL /* PORTAL_RING works */
#define PORTAL_CAP_DOORBELL_PAGE	0x2ULL /* doorbell_offset is valid */
#define PORTAL_CAP_EVENTS		0x4ULL /* vectors > 0: PORTAL_EVENTFD, poll, read */
#define PORTAL_CAP_LARGE_PAGES		0x8ULL /* mappings use PMD entries (mostly 2 MiB) */
#define PORTAL_CAP_FLUSH		0x10ULL /* fsync(), fdatasync(), msync() reach a disk */
#define PORTAL_CAP_PACKETS		0x20ULL /* PORTAL_PACKETS works for every vector */

/*
 * portal_info.mode: fixed by the superblock when the portal appears, or later by
 * PORTAL_SET_MODE; never because bytes changed.
 */
#define PORTAL_MODE_RAW		0	/* the region is all the applications' */
#define PORTAL_MODE_MANAGED	1	/* it begins with tables: linux/portal_layout.h */

/* portal_info.cache: how region mappings are cached, as the CPU really does it. */
#define PORTAL_CACHE_UNKNOWN	0
#define PORTAL_CACHE_WRITE_BACK	1
#define PORTAL_CACHE_UNCACHED	2	/* degraded: an MTRR overrides; see dmesg */

/* portal_info.doorbell_format: what to store to the doorbell page. */
#define PORTAL_DOORBELL_NONE	0
/*
 * One 32-bit store of (peer << 16 | vector) at byte doorbell_register of the
 * page; ivshmem's Doorbell register (QEMU, docs/specs/ivshmem-spec.rst). The vector
 * must be below 256: QEMU looks at 8 bits of it.
 */
#define PORTAL_DOORBELL_IVSHMEM	1

/* portal_info.flags */
#define PORTAL_INFO_WINDOW	0x1U	/* the file was made by PORTAL_WINDOW */

/**
 * struct portal_info - PORTAL_INFO: what this portal is
 * @size: sizeof(struct portal_info), in
 * @api_version: PORTAL_API_VERSION of the kernel
 * @caps: PORTAL_CAP_*
 * @region_size: bytes that mmap() reaches at offset 0; a multiple of the
 *	page size
 * @doorbell_offset: mmap() offset of the doorbell page, one page long
 * @mode: PORTAL_MODE_*
 * @cache: PORTAL_CACHE_*
 * @vectors: receive vectors 0 .. vectors-1; 0: no doorbells can be received
 * @peer_id: this machine's id as a doorbell address, or PORTAL_PEER_NONE
 * @max_peers: peer ids are below this; 0: not known
 * @doorbell_format: PORTAL_DOORBELL_*
 * @doorbell_register: byte offset of the register within the doorbell page
 * @generation: counts resumes and resets since the portal appeared; after a
 *	change every vector got one spurious event, and peers may have missed
 *	rings
 * @transport: "ivshmem", "loopback" ..., NUL-terminated
 * @identity: what makes the number N stable, e.g. "pci-0000:00:04.0"
 * @first_vector: the lowest vector that this file may wait for; 0 but for windows
 * @flags: PORTAL_INFO_*
 * @protected_size: bytes from offset 0 on that no mapping may write, for ever. As much as
 *	region_size: the superblock is damaged, or newer than this kernel
 *
 * Of a window: region_size, caps and vectors are the window's. vectors is the highest
 * that it may wait for, plus 1; there may be gaps (PORTAL_EVENTFD says EACCES). There is
 * no doorbell page.
 *
 * Never fails on a live portal but for EFAULT, EINVAL, E2BIG; EINTR where it is paused.
 */
struct portal_info {
	__u32 size;
	__u32 api_version;
	__aligned_u64 caps;
	__aligned_u64 region_size;
	__aligned_u64 doorbell_offset;
	__u32 mode;
	__u32 cache;
	__u32 vectors;
	__u32 peer_id;
	__u32 max_peers;
	__u32 doorbell_format;
	__u32 doorbell_register;
	__u32 generation;
	char transport[PORTAL_TRANSPORT_LEN];
	char identity[PORTAL_IDENTITY_LEN];
	__u32 first_vector;
	__u32 flags;
	__aligned_u64 protected_size;
};

/**
 * struct portal_ring - PORTAL_RING: ring a doorbell of another peer
 * @size: sizeof(struct portal_ring)
 * @flags: 0
 * @peer: whom to ring; one's own id is allowed
 * @vector: which of the peer's vectors
 *
 * n rings arrive as 1 to n events on that vector, never 0 once the peer is
 * connected, and never on another vector. (Of a managed portal kernels ring too: each
 * other machine's last vector, when tables have changed; and processes hear that as an
 * event.) A ring to a peer that is not
 * connected (yet) is dropped; ENXIO where the transport can tell. Every store
 * to the region before the ioctl is visible to a peer that saw the event.
 * Needs a file opened for writing, and of a window that it includes this doorbell
 * (EACCES).
 */
struct portal_ring {
	__u32 size;
	__u32 flags;
	__u32 peer;
	__u32 vector;
};

/**
 * struct portal_eventfd - PORTAL_EVENTFD: bind an eventfd to a receive vector
 * @size: sizeof(struct portal_eventfd)
 * @flags: 0
 * @vector: below portal_info.vectors; EACCES: not one of this window's
 * @fd: an eventfd(2), or -1 to unbind
 *
 * One eventfd per file and vector: a second bind replaces the first. Many files
 * may bind the same vector; each gets every event. A bound vector
 * makes its file's poll() and read() silent for that vector; events that the file
 * had not read yet signal the eventfd once, at the bind. When the portal
 * goes away or resumes, every bound eventfd is signalled once. The kernel
 * holds its own reference: the descriptor may be closed afterwards.
 * Needs a file opened for reading (EACCES). EBUSY: 1024 files have bound the
 * vector already; 512, and this is a window; or 256 of the same user (who opened the
 * file, or made the window, by his effective id then).
 */
struct portal_eventfd {
	__u32 size;
	__u32 flags;
	__u32 vector;
	__s32 fd;
};

/* portal_file.flags */
#define PORTAL_FILE_ZERO_ON_REVOKE	0x1U

/**
 * struct portal_file - PORTAL_FILE: choose how this open file behaves
 * @size: sizeof(struct portal_file)
 * @flags: PORTAL_FILE_*: with PORTAL_FILE_ZERO_ON_REVOKE, every page of every
 *	mapping through this file becomes one and the same page, zeroed, once the
 *	portal is gone, in place of SIGBUS. It is ordinary memory of this kernel: what is
 *	stored to it is seen by users of this file, at every page of their mappings,
 *	and by nobody else, here or on another machine
 *
 * EBUSY: the file has been mapped already.
 */
struct portal_file {
	__u32 size;
	__u32 flags;
};

/**
 * struct portal_packets - PORTAL_PACKETS: take a vector's packet rings for this file
 * @size: sizeof(struct portal_packets), in
 * @flags: 0
 * @vector: below portal_info.vectors
 * @reserved: 0
 * @send_offset: mmap() offset of the ring to the other side, out
 * @send_size: its bytes with the header page, a multiple of the page size, out
 * @recv_offset: of the ring from the other side, out
 * @recv_size: its bytes, out
 *
 * A ring is what VMBus defines (struct hv_ring_buffer): one page of control words,
 * then data to the end. Pages are those of this kernel: with larger ones than 4096
 * bytes the header's page is as large, and all of it but the first 4096 bytes is
 * nothing. A mapping lies within one ring. Data is best mapped twice in succession:
 * reserve addresses, then mmap() the ring and, at offset + one page, its data again
 * with MAP_FIXED. The file is signalled on the vector as for a doorbell, and signals
 * the other side by PORTAL_RING of any peer but its own with this vector.
 *
 * One open file at a time has the rings of a vector (EBUSY: another has them). It
 * keeps them until its last reference goes, that is the last descriptor, mapping and
 * running call; asking again gives the same answer. Needs a file opened for reading
 * and writing, not a window (EACCES), as does each mapping, and mapping without this
 * call gives EACCES. The rings are as the last user left them, indices included; a portal that
 * has CAP_SYS_RAWIO as a condition begins a new conversation with empty rings at each
 * such call, and may fail with what the bus says (ENODEV, EAGAIN, ENOMEM). After a
 * change of portal_info.generation rings are empty and begin anew.
 */
struct portal_packets {
	__u32 size;
	__u32 flags;
	__u32 vector;
	__u32 reserved;
	__aligned_u64 send_offset;
	__aligned_u64 send_size;
	__aligned_u64 recv_offset;
	__aligned_u64 recv_size;
};

/* portal_window.flags */
#define PORTAL_WINDOW_WRITE	0x1U

#define PORTAL_WINDOW_ALIGN	65536	/* or the page size, where that is larger */
#define PORTAL_WINDOW_MAX_BELLS	256

/* In portal_bell: each peer, each vector. */
#define PORTAL_ANY		0xffffffffU

/**
 * struct portal_bell - doorbells that a window may ring
 * @peer: of this peer, or PORTAL_ANY. A peer that starts anew may get another id
 * @vector: this vector, or PORTAL_ANY
 */
struct portal_bell {
	__u32 peer;
	__u32 vector;
};

/**
 * struct portal_window - PORTAL_WINDOW: make a file that reaches less than this one
 * @size: sizeof(struct portal_window)
 * @flags: PORTAL_WINDOW_WRITE: read-write; without it read-only, as if by O_RDONLY
 * @offset: where its part begins in what this file reaches; a multiple of
 *	PORTAL_WINDOW_ALIGN
 * @length: bytes, a multiple of PORTAL_WINDOW_ALIGN, not 0
 * @vectors: address of @nr_vectors __u32: vectors that it may wait for. They keep their
 *	numbers, which are what other machines ring
 * @bells: address of @nr_bells struct portal_bell: doorbells that it may ring, each
 *	allowed if any of them says so
 * @nr_vectors: at most portal_info.vectors; 0: it waits for none
 * @nr_bells: at most PORTAL_WINDOW_MAX_BELLS; 0: it rings none (but that the tables of a
 *	managed portal have changed, by a session of its holder's, is told as always)
 *
 * Returns a new descriptor, close-on-exec, which may be passed on (SCM_RIGHTS). Its
 * mmap() offsets begin at 0. Nothing makes it reach more; PORTAL_WINDOW of a window
 * makes another that reaches no more than the first. It is a file of its own, which
 * lives on when this one is closed: with eventfds, unread events and PORTAL_FILE flags of
 * its own (so a process that shall wait gets a window of its own). It ends with
 * the portal only; to end it sooner, end its holders.
 *
 * EINVAL: beyond the end of what this file reaches, unaligned, bells in a read-only
 * window. EACCES: this file is not open for as much, or may not wait for such a vector or
 * ring such a doorbell itself. EOPNOTSUPP: the portal has no vectors, or no doorbells.
 */
struct portal_window {
	__u32 size;
	__u32 flags;
	__aligned_u64 offset;
	__aligned_u64 length;
	__aligned_u64 vectors;
	__aligned_u64 bells;
	__u32 nr_vectors;
	__u32 nr_bells;
};

/**
 * struct portal_set_mode - PORTAL_SET_MODE: make a portal raw or managed
 * @size: sizeof(struct portal_set_mode)
 * @flags: 0
 * @mode: PORTAL_MODE_*; PORTAL_MODE_MANAGED reads the superblock anew
 * @reserved: 0
 *
 * Needs CAP_SYS_ADMIN (EPERM) and a file of open(O_RDWR) (EACCES). EBUSY: the region is
 * mapped somewhere so that it is writable, or could be made so by mprotect(2); what is
 * mapped read-only through a file opened for writing could. Files that give ESTALE do not
 * count. ENODATA: there is no
 * superblock; EUCLEAN: it is damaged, or not finished (of other ioctls, too: others have
 * formatted the region anew); EPROTONOSUPPORT: it is of another version, or has features
 * that this kernel does not know (dmesg has the number).
 */
struct portal_set_mode {
	__u32 size;
	__u32 flags;
	__u32 mode;
	__u32 reserved;
};

/* portal_session_begin.flags */
#define PORTAL_SESSION_END	0x1U	/* this file needs it no more */

/* portal_session_begin.vector: it is not to be rung */
#define PORTAL_SESSION_SILENT	0xffffffffU

/**
 * struct portal_session_begin - PORTAL_SESSION: this process's session with a managed portal
 * @size: sizeof(struct portal_session_begin), in
 * @flags: 0, or PORTAL_SESSION_END
 * @vector: which of this file's vectors it wants to be rung by, or PORTAL_SESSION_SILENT.
 *	The first ask that names one decides. Not looked at with PORTAL_SESSION_END
 * @peer: this machine's slot in the table of peers, out
 * @token: names the session for ever, out
 * @incarnation: the superblock's, which the token is relative to, out
 *
 * A session is one process's (one address space's) use of a portal: a row in the region
 * (linux/portal_layout.h) that says to every machine whether a store by this process is
 * still possible. There is one for each process and portal: a second ask, by whatever file of
 * that portal, windows included, gives the same token, and that file holds the session
 * too. It ends when the last file that asked is released or has said PORTAL_SESSION_END,
 * and the process has the portal mapped nowhere, by whatever file, so that it is writable or
 * could be (if it had: some heartbeat after it has not any more);
 * when the process ends, whichever way, execve(2) included, that is when no thread is left
 * that shares its memory; or with the portal. Who has copies of the descriptor does not
 * matter. After its end, and after all that this process stored, its row says "dead", and
 * then the other machines are rung.
 *
 * What it stored is what processors stored through mappings that it had while the session
 * lasted. It does not stop devices that it lets write to such a mapping (VFIO's DMA, shared
 * virtual addressing): stop these first. What it maps afterwards, and another
 * portal of the same memory, are not the session's.
 *
 * A machine that has just come, or been declared dead, may have to find out whether it can
 * have a row: then this waits, at most six of its heartbeats, or five seconds if that is
 * longer (EINTR; EUSERS: it has none by then).
 *
 * Needs a file opened for reading and writing, or a window that is so (EACCES). While
 * one process has a session through a file, others may not map it writable (EACCES), nor ask
 * through it (EBUSY; nor do they while any other process has it mapped so that it is
 * writable or could be). PORTAL_SESSION_END: EBUSY: no other file holds the session, and this
 * process has the portal so mapped; ENOENT: this file has not asked.
 *
 * ENODATA: the portal is raw. EUCLEAN, EPROTONOSUPPORT: as of PORTAL_SET_MODE.
 * EUSERS: no free row for one more session of this machine (windows leave half of
 * them to files of open(), and files that one user but root opened, or windows that he
 * made, leave three quarters to others'), or there was none in the table of peers for
 * this machine.
 * EOPNOTSUPP: this kernel cannot tell a process's end (it has no MMU notifiers), or
 * cannot store 64 bits at once, or has no room to map the tables.
 */
struct portal_session_begin {
	__u32 size;
	__u32 flags;
	__u32 vector;
	__u32 peer;
	__aligned_u64 token;
	__aligned_u64 incarnation;
};

/* portal_fence.flags */
#define PORTAL_FENCE_SUSPECT	0x1U	/* suspect, not dead */

/**
 * struct portal_fence - PORTAL_FENCE: declare a machine dead
 * @size: sizeof(struct portal_fence)
 * @flags: 0, or PORTAL_FENCE_SUSPECT
 * @slot: its row in the table of peers; one's own is allowed
 * @reserved: 0
 * @claim: which life of that slot is meant: portal_peer.claim, not 0
 *
 * For an administrator who knows that the machine does not run, or that it must not store
 * any more: its sessions are dead to everybody from now on, and what they held is
 * others'. A kernel that finds itself fenced takes all mappings away of files that had asked
 * for a session, or by which a process that had one could write, at its next heartbeat or
 * sooner, and joins anew.
 *
 * Needs CAP_SYS_ADMIN (EPERM) and a file of open(O_RDWR) (EACCES). ENODATA, EUCLEAN,
 * EPROTONOSUPPORT, EOPNOTSUPP: as of PORTAL_SESSION. ENXIO: there is no such row. ESTALE:
 * that claim is not the row's any more. EAGAIN: other machines pass verdicts on that row all
 * the time, and this one's was not stored.
 */
struct portal_fence {
	__u32 size;
	__u32 flags;
	__u32 slot;
	__u32 reserved;
	__aligned_u64 claim;
};

/* Numbers only: the size travels in the structure. */
#define PORTAL_INFO	_IO(PORTAL_IOCTL_TYPE, 0x00)
#define PORTAL_RING	_IO(PORTAL_IOCTL_TYPE, 0x01)
#define PORTAL_EVENTFD	_IO(PORTAL_IOCTL_TYPE, 0x02)
#define PORTAL_FILE	_IO(PORTAL_IOCTL_TYPE, 0x03)
#define PORTAL_PACKETS	_IO(PORTAL_IOCTL_TYPE, 0x04)
#define PORTAL_WINDOW	_IO(PORTAL_IOCTL_TYPE, 0x05)
#define PORTAL_SET_MODE	_IO(PORTAL_IOCTL_TYPE, 0x06)
#define PORTAL_SESSION	_IO(PORTAL_IOCTL_TYPE, 0x07)
#define PORTAL_FENCE	_IO(PORTAL_IOCTL_TYPE, 0x08)

/* portal_event.type */
#define PORTAL_EVENT_DOORBELL	1
/*
 * Of a managed portal: rows of the tables of peers and sessions have changed: a machine or
 * a process came or went, is suspect, or is no more. Who wants to know which looks.
 */
#define PORTAL_EVENT_CHANGE	2

/**
 * struct portal_event - what read() returns
 * @type: PORTAL_EVENT_*; skip types that you do not know
 * @vector: PORTAL_EVENT_DOORBELL: the vector; else 0
 * @count: events on this vector, or changes, since this file last read them, at least 1
 */
struct portal_event {
	__u32 type;
	__u32 vector;
	__aligned_u64 count;
};

#endif /* _UAPI_LINUX_PORTAL_H */
