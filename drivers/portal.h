/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The contract between the core (portal.ko) and its transports.
 *
 * A transport describes a piece of memory and its doorbells in a struct
 * portal_desc, and supplies the few callbacks of struct portal_ops. The core
 * owns everything a process can hold on to: device node, files, mappings,
 * eventfds. So a transport may go at any time: after portal_remove() no
 * callback runs or will ever run, no mapping reaches the region, and the
 * transport may free all it has; nothing waits for user space. (Of processors: what
 * root has let a device reach by VFIO's DMA mappings, no driver can take back.)
 *
 * Life of a portal, in the order of a transport's probe and remove:
 *
 *	p = portal_alloc(&desc, priv);	// p counts references from here on
 *	request_irq(...);		// handlers may call portal_event(p, v)
 *	portal_add(p);			// node and sysfs appear; callbacks may run
 *	...
 *	portal_remove(p);		// node gone, revoked, callbacks drained
 *	free_irq(...);			// portal_event() is still allowed until here
 *	portal_put(p);			// the core frees p with its last open file
 */
#ifndef _PORTAL_H
#define _PORTAL_H

#include <linux/bits.h>
#include <linux/types.h>

struct device;
struct portal;

/* Highest vector count that a portal can have: MSI-X's own limit. */
#define PORTAL_MAX_VECTORS	2048

/**
 * struct portal_ops - what a transport does for the core
 * @ring: ring @vector of @peer. Called in process context with the portal's
 *	read lock held or its own part's (remove and pause wait for both), so it must not
 *	wait for another machine or for user space. May be called concurrently. The core has
 *	executed a full barrier after the caller's stores. Returns 0, -ENXIO for
 *	a peer or vector that certainly does not exist, or another -errno.
 *	NULL: no doorbells can be rung.
 * @peer_id: this machine's id now, or PORTAL_PEER_NONE. Same context as @ring.
 *	NULL: PORTAL_PEER_NONE.
 * @open_rings: begin a new conversation on @vector's packet rings, for a process that
 *	has just taken them; nobody has them mapped, so portal_set_rings() is allowed.
 *	Process context, read lock held; never called twice for a vector without
 *	@close_rings between, except that a @close_rings may be left out during a
 *	pause. It may wait for the host, killable and for a bounded time, provided that
 *	the transport ends the wait before it calls portal_remove() or portal_pause().
 *	Returns 0 or -errno, which the process gets; -ERESTARTSYS if it is being frozen
 *	and has been waiting. NULL: rings stay as they are.
 * @close_rings: the process and its mappings are gone. Same context. NULL: as above.
 * @flush: for fsync(), fdatasync() and msync(): put what was stored to the region
 *	before on stable storage. Process context, concurrently, under a read lock that
 *	remove and pause alone wait for. It may wait for the device, killable, provided
 *	that the transport ends every such wait before it calls portal_remove() or
 *	portal_pause(). Returns 0, -EIO if it is not certain that all arrived, -ENODEV if
 *	the device went, or
 *	-ERESTARTSYS after a fatal signal. Each failure of the device, whether anybody
 *	waits for it or not, is told by portal_flush_failed() too. NULL: the region is
 *	as volatile as memory.
 */
struct portal_ops {
	int (*ring)(void *priv, u32 peer, u32 vector);
	u32 (*peer_id)(void *priv);
	int (*open_rings)(void *priv, u32 vector);
	void (*close_rings)(void *priv, u32 vector);
	int (*flush)(void *priv);
};

/**
 * struct portal_extent - a physically contiguous piece of the region
 * @start: physical address, page-aligned
 * @len: bytes, a multiple of the page size
 */
struct portal_extent {
	phys_addr_t start;
	u64 len;
};

/**
 * struct portal_rings - the packet rings of one vector
 * @send: physical address of the ring to the other side: a header page, then data,
 *	contiguous pages of this kernel's RAM
 * @recv: of the ring from the other side
 * @shared: they are mapped decrypted in a confidential guest
 */
struct portal_rings {
	phys_addr_t send;
	phys_addr_t recv;
	bool shared;
};

/* portal_desc.flags */

/* Extents are this kernel's own RAM in the direct map. */
#define PORTAL_DESC_RAM		BIT(0)
/* With PORTAL_DESC_RAM: a host shares them, so a confidential guest has decrypted them. */
#define PORTAL_DESC_SHARED	BIT(1)
/* Who uses it reaches all memory of this machine: open() needs CAP_SYS_RAWIO. */
#define PORTAL_DESC_RAWIO	BIT(2)

/**
 * struct portal_desc - what a transport has
 * @ops: callbacks; must outlive portal_remove()
 * @parent: the bus device, or NULL for a portal of no bus. Must exist until
 *	portal_remove(); from portal_add() to then the portal holds a reference
 * @transport: short name, at most PORTAL_TRANSPORT_LEN - 1 characters
 * @identity: stable name of the place, e.g. "pci-0000:00:04.0"; a device that
 *	comes back with it gets the same N
 * @extents: the region's pieces in order of offset; copied by the core. BARs and
 *	other device memory must never have been given struct pages for this
 * @nr_extents: 0: no region, which only a portal with @rings may have
 * @vectors: receive vectors, 0 .. PORTAL_MAX_VECTORS
 * @max_peers: peer ids are below this; 0: not known
 * @flags: PORTAL_DESC_*
 * @rings: packet rings, one for each vector; copied. Needs @ops->ring. NULL: none.
 *	With @ops->open_rings what they say does not matter
 * @send_size: bytes of each ring to the other side, header page included, at least two
 *	pages and whole ones
 * @recv_size: of each ring from the other side
 * @doorbell_page: physical address of a page that user space may map to ring
 *	without a system call, or 0. The transport vouches that the whole page
 *	belongs to it and that nothing but ringing can be done through it
 * @doorbell_format: PORTAL_DOORBELL_*
 * @doorbell_register: byte offset of the register within that page
 */
struct portal_desc {
	const struct portal_ops *ops;
	struct device *parent;
	const char *transport;
	const char *identity;
	const struct portal_extent *extents;
	unsigned int nr_extents;
	u32 vectors;
	u32 max_peers;
	u32 flags;
	const struct portal_rings *rings;
	u32 send_size;
	u32 recv_size;
	phys_addr_t doorbell_page;
	u32 doorbell_format;
	u32 doorbell_register;
};

/**
 * portal_alloc() - make a portal that nobody can see yet
 * @desc: checked here in full (alignment, overflow, counts); copied
 * @priv: handed to each callback
 *
 * May sleep. Returns the portal with one reference, owned by the transport, or
 * an ERR_PTR().
 */
struct portal *portal_alloc(const struct portal_desc *desc, void *priv);

/**
 * portal_add() - show the portal to user space
 *
 * May sleep. Takes the write-back reservation over the region, gives the number
 * N, makes /dev/portalN. Callbacks may run before it returns. On error they run
 * no more, and all that may be done with the portal is portal_put().
 *
 * Returns 0, -EEXIST if a portal with this identity is there, -ENOSPC if there
 * are too many portals, or another -errno.
 */
int portal_add(struct portal *p);

/**
 * portal_remove() - take the portal away from user space, at once
 *
 * May sleep, but waits only for callbacks that are running, never for user
 * space. Of a managed portal it rings others that this machine has left, so the region
 * and callbacks must still work, or at least do no harm. Afterwards: no callback, no
 * mapping (SIGBUS or zero page), -ENODEV from every call, every sleeper woken with POLLHUP.
 */
void portal_remove(struct portal *p);

/* Drop the transport's reference. After this p must not be used. May sleep. */
void portal_put(struct portal *p);

/**
 * portal_event() - a doorbell arrived on @vector
 *
 * Any context but NMI, hard interrupts included (on PREEMPT_RT: threaded ones, which is
 * what handlers are there unless they ask for IRQF_NO_THREAD); from before portal_add() until
 * portal_put(). An out-of-range vector is ignored.
 */
void portal_event(struct portal *p, u32 vector);

/**
 * portal_flush_failed() - something that was stored before may be lost
 *
 * Any context but NMI, until portal_put(). Every file that is open now gets -EIO from
 * its next fsync() (or from that which is under way), once, as files on disks do.
 */
void portal_flush_failed(struct portal *p);

/**
 * portal_pause() - the device is about to be reset or suspended
 *
 * Process context; may sleep, but waits only for callbacks that are running. Before the
 * device is touched: it rings others, as portal_remove() does.
 * Afterwards, until portal_resume() or portal_remove(): no callback, no mapping;
 * whoever rings or touches a mapping waits. Keep it short.
 */
void portal_pause(struct portal *p);

/**
 * portal_resume() - the device came back from suspend or reset
 *
 * Process context. The device works already, for callbacks are called. Counts a generation
 * and gives each vector one spurious event, because rings may have been lost meanwhile;
 * then whoever waits goes on.
 */
void portal_resume(struct portal *p);

/**
 * portal_is_write_back() - would device memory be mapped write-back?
 * @start: physical address, page-aligned; nobody's RAM
 *
 * May sleep. For a transport that can place its memory elsewhere if not.
 */
bool portal_is_write_back(phys_addr_t start);

/**
 * portal_set_rings() - the rings of a vector lie elsewhere now, or anew
 *
 * Only while nobody can have them mapped: in ops->open_rings of this vector, or
 * between portal_pause() and portal_resume(). Their sizes stay.
 */
void portal_set_rings(struct portal *p, u32 vector, const struct portal_rings *rings);

/* N of /dev/portalN, for log messages; -1 before portal_add(). */
int portal_number(const struct portal *p);

#endif /* _PORTAL_H */
