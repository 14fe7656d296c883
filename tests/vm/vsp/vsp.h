/* SPDX-License-Identifier: MIT */
/*
 * portal-vsp: the host's end of a portal on VMBus, as a device type for an
 * unmodified QEMU. README.md says what it does; the protocol with the guest is in
 * linux/portal_vmbus.h, that with processes of the host in portald/proto.h.
 *
 *	vsp.c		the device: properties, channels opened and closed, dispatch
 *	session.c	the handshake's state machine
 *	region.c	GPADLs to memory of this process, and to a dma-buf
 *	private.c	what QEMU's VMBus does not tell
 *	clients.c	processes of the host
 *	bells.c		their doorbells
 *	service.c	who serves the packet rings: echo, sink, source
 *	lies.c		what a host must not do, by name, for the guest's tests
 *	mute.c		a host that says nothing
 *	offer.c		rescind and offer, which QEMU's VMBus cannot
 *	control.c	commands of the tests
 *
 * Everything runs in QEMU's main loop, under its big lock. Everything that comes
 * from the guest or from a client is hostile: it is copied once, checked, and only
 * the copy is used.
 */
#ifndef PORTAL_VSP_H
#define PORTAL_VSP_H

#include "qemu/osdep.h"
#include "hw/hyperv/vmbus.h"
#include "hw/hyperv/hyperv.h"
#include "hw/hyperv/hyperv-proto.h"

#include <linux/portal_vmbus.h>

#define VSP_CLIENTS_MAX	32U
#define VSP_ERR		160	/* a reason, in one line */

/* As QEMU numbers them (VMBUS_CHAN_CONNECTION_OFFSET). */
#define CONNECTION_ID(relid)	(16 + (relid))

/* In the order of the handshake; see linux/portal_vmbus.h. */
enum vsp_state {
	VSP_CLOSED,
	VSP_OPEN,
	VSP_GREETED,
	VSP_LIVE,
	VSP_ENDING,		/* clients may still reach the pages */
};

/**
 * struct run - a stretch of guest memory
 * @fd: the file that backs it (QEMU's, not ours to close)
 * @offset: in the file, bytes
 * @size: bytes
 */
struct run {
	int fd;
	uint64_t offset;
	uint64_t size;
};

/**
 * struct region - what the guest shares by GPADLs
 * @want: pages that WELCOME granted
 * @pages: named so far
 * @gfns: of uint64_t: these pages' numbers, in order of offset
 * @runs: how many stretches of the guest's memory they are; 0 until READY
 * @gpadls: of uint32_t: the handles, each once
 * @fd: what processes get: a dma-buf of exactly these pages (or, by share=all-ram,
 *	the file that is all of the guest's RAM); -1 until READY
 * @bytes: of @fd
 */
struct region {
	uint64_t want;
	uint64_t pages;
	GArray *gfns;
	uint32_t runs;
	GArray *gpadls;
	int fd;
	uint64_t bytes;
};

/**
 * struct rings - a channel's ring memory in this process, while it is open
 * @send: what the guest sends by: a header of one page, and the data
 * @recv: what it receives by
 */
struct rings {
	void *base;
	size_t size;
	vmbus_ring_buffer *send, *recv;
	uint8_t *send_data, *recv_data;
	uint32_t send_len, recv_len;
};

/* How the packets of a channel are served. */
enum vsp_service {
	VSP_ECHO,	/* each comes back; one that asks for a completion by that */
	VSP_SINK,	/* content is checked and counted */
	VSP_DEAF,	/* nothing is read: the guest's ring fills */
};

/* A source: packets from the host, as room permits. */
struct source {
	uint64_t left;		/* packets still to be sent */
	uint32_t seq;
	uint32_t min, max;	/* bytes of payload */
	uint32_t seed;
	bool complete;		/* ask for completions */
};

/**
 * struct channel - one channel of the device
 * @vc: QEMU's; valid always
 * @relid: its id on the bus, from QEMU's private prefix; known once it was open
 * @taken: rescinded until the next session
 * @broken: what the guest put in the ring cannot be followed: it is left alone
 * @blocked: a packet stays in the ring because there is no room for its answer
 */
struct channel {
	struct vsp *vsp;
	VMBusChannel *vc;
	uint32_t index;
	uint32_t relid;
	struct rings rings;
	bool open;
	bool taken;
	bool broken;
	bool blocked;
	enum vsp_service service;
	struct source source;
	struct {
		uint64_t packets, bytes, bad, gpa_direct, control, foreign;
		uint64_t completions_asked, completions, sent, echoed;
		uint64_t bells_in, bells_out, notifies;
	} n;
};

/* A host process, or a seat for one. */
struct client {
	struct vsp *vsp;
	uint32_t id;
	int sock;		/* -1: the seat is free */
	uint64_t tenure;	/* of this lease; never used twice */
	bool rdonly;		/* it rings nobody */
	bool greeted;		/* it has the region and is told of others */
	bool mute;		/* its stream was ended; we wait for it to close */
	int *bells;		/* eventfds, one per vector: the seat's, for ever */
};

struct vsp {
	VMBusDevice parent;
	/* properties */
	uint16_t nch;
	uint32_t host_peers;
	uint64_t max_region;
	char *socket;
	char *control;
	char *share;
	char *lie;
	bool all_ram;		/* share=all-ram */
	bool take_subs;		/* rescind the subchannels when the primary one is closed */

	struct channel *ch;
	enum vsp_state state;
	struct region region;
	uint64_t sessions;	/* that went LIVE */
	uint64_t refused;
	uint64_t features;	/* agreed on */
	/* A HELLO or BYE that came while ENDING: answered when access has ended. */
	union {
		struct portal_vmbus_header header;
		struct portal_vmbus_hello hello;
		struct portal_vmbus_plain plain;
	} pending;
	bool has_pending;
	char last_error[VSP_ERR];

	int listener;
	struct client *clients;	/* host_peers of them */
	uint64_t tenures;
	int *guest_bells;	/* eventfds, one per vector: rung by clients */

	int control_listener;
	uint16_t sending;	/* type of the message that is being sent: for lies */
	bool rescind_waits;	/* until the clients have left */
	bool offered;
	bool kernels;		/* what the primary ring says is the guest's kernel's word */
	bool muted;		/* the bus answers nothing */
	HvSintRoute *route;	/* for messages of our own, while there are some */
	GQueue *messages;	/* of struct hyperv_message, not yet taken */
	QEMUTimer *kicker;
	unsigned int kicks;	/* since the last message was taken */
	QEMUTimer *waiter;	/* looks whether the region is still in use */
	struct ringer *ringer;	/* clients.c's */
};

/* vsp.c */
void vsp_log(struct vsp *p, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
int vsp_fail(char *err, int code, const char *fmt, ...) G_GNUC_PRINTF(3, 4);

/* session.c */
void session_open(struct vsp *p);
/* A control message on the primary channel before LIVE: @len bytes of payload. */
void session_message(struct vsp *p, const void *msg, uint32_t len);
/* The primary channel is closed, the guest was reset, or the device is to be rescinded. */
void session_close(struct vsp *p);
/* The last client has left: the end, when its mappings have gone, too. */
void session_left(struct vsp *p);
/* A timer's: session_left(). */
void session_look(void *opaque);
bool session_send(struct vsp *p, void *msg, uint16_t type, uint16_t size);
const char *session_state(const struct vsp *p);

/* region.c: -errno and a reason in @err */
void region_begin(struct region *r, uint64_t pages);
int region_add(struct vsp *p, uint32_t gpadl, uint32_t pages, char *err);
int region_share(struct vsp *p, char *err);
/* Whether somebody else has a descriptor of what was shared, or a mapping. */
bool region_in_use(const struct vsp *p);
void region_drop(struct region *r);
int rings_map(struct channel *c, struct rings *r, char *err);
void rings_unmap(struct rings *r);

/* private.c: -errno and a reason in @err */
int private_check(struct vsp *p, char *err);
int private_gfns(VMBusGpadl *vg, uint32_t id, uint32_t relid, const uint64_t **gfns, char *err);
uint32_t private_relid(VMBusChannel *vc);
void private_rings(VMBusChannel *vc, uint32_t *gpadl, uint32_t *split);
HvSintRoute *private_route(VMBusChannel *vc);
void private_kick(struct vsp *p, HvSintRoute *ours);
void private_commit_routes(void);
bool private_mute(struct vsp *p);
int private_speak(struct vsp *p, struct hyperv_message *m, char *err);
/* Whether the bus has offered a channel since it began; and as if it had, or not. */
bool private_offered(VMBusChannel *vc);
void private_set_offered(VMBusChannel *vc, bool offered);
bool private_open_result(struct vsp *p, vmbus_message_open_result *m);
/* As if the guest had closed a channel that is open. */
void private_close(VMBusChannel *vc);

/* clients.c */
int clients_listen(struct vsp *p, char *err);
void clients_close(struct vsp *p);
/* End all streams; true if no client is left, else session_left() follows. */
bool clients_end(struct vsp *p);
unsigned int clients_count(const struct vsp *p);
void clients_ring(struct vsp *p, uint32_t vector);
void guest_ring(struct vsp *p, uint32_t vector);
int unix_listen(const char *path, char *err);

/* bells.c: eventfds that clients have, too, and may have made blocking */
int *bells_new(uint32_t n, char *err);
void bells_free(int *b, uint32_t n);
struct ringer *ringer_new(char *err);
void ringer_free(struct ringer *r);
void bell_ring(struct ringer *r, int bell);
/* Whether it had been rung; nothing is left. */
bool bell_take(int bell);

/* service.c */
void service_run(struct channel *c);
void service_reset(struct channel *c);

/* mute.c: -errno and a reason in @err */
int mute_begin(struct vsp *p, char *err);
int mute_end(struct vsp *p, char *err);
void mute_if(struct vsp *p, const char *lie);

/* offer.c: -errno and a reason in @err */
int offer_rescind(struct vsp *p, bool now, char *err);
int offer_again(struct vsp *p, char *err);
int offer_rescind_one(struct vsp *p, uint32_t index, char *err);
int offer_one(struct vsp *p, uint32_t index, char *err);
/* take-subs: all subchannels go, and come again. */
void offer_take_subs(struct vsp *p);
void offer_give_subs(struct vsp *p);
/* A message of our own to the guest's bus. */
int offer_post(struct vsp *p, const void *payload, uint32_t size, char *err);
/* The last client has left. */
void offer_left(struct vsp *p);
void offer_close(struct vsp *p);

/* lies.c */
bool lie_known(const char *name);
/* Whether the host is to tell this lie now; each is told once, silence for ever. */
bool lying(struct vsp *p, const char *name);
/* Do to a ring or a signal what @name says, at once; -EINVAL: not such a lie. */
int lie_now(struct channel *c, const char *name, char *err);

/* control.c */
int control_listen(struct vsp *p, char *err);
void control_close(struct vsp *p);

#endif /* PORTAL_VSP_H */
