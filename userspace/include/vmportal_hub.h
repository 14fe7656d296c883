/* SPDX-License-Identifier: MIT */
/*
 * libvmportal: channels by name. A part of <vmportal.h>, which includes it, and whose
 * rules of returns and timeouts hold here too.
 */
#ifndef VMPORTAL_HUB_H
#define VMPORTAL_HUB_H

#include <vmportal.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * A channel by name is an object of a managed portal's directory: any number of processes,
 * on any of its machines, send; one receives, through a hub (struct vmp_hub). A sender
 * opens it by vmp_channel_named() and has an ordinary struct vmp_channel, whose other end
 * is the hub; the receiver need know nobody beforehand.
 *
 *	struct vmp_hub *h;				struct vmp_channel *ch;
 *	struct vmp_from from;
 *
 *	vmp_hub_open(&h, p, "jobs", NULL);		vmp_channel_named(&ch, p, "jobs", NULL, -1);
 *	n = vmp_hub_recv(h, buf, cap, &from, -1);	vmp_send(ch, "do", 2, 0, -1);
 *	vmp_hub_reply(h, &from, "did", 3, 0, -1);	n = vmp_recv(ch, buf, cap, -1);
 *
 * Each sender has a lane of its own. Its messages come in order, also across its close and
 * open; between lanes the hub takes turns. What a sender had committed when it closed, or
 * died, is read first; then its lane is free for others.
 *
 * When the hub's process closes it, or dies, senders get -EPIPE, or -ECONNRESET, close, and
 * open anew. The name stays, and so does what was committed and not released: whoever
 * opens the hub next gets it, each message once, but that the one that was just being looked
 * at may have been seen before: it is flagged VMP_FROM_AGAIN. Nobody loses a lane, and no
 * hub its name, because somebody is suspect: only because he is proven dead.
 */

struct vmp_hub;

/* vmp_hub_opts.flags */
#define VMP_HUB_EVENTS		(1U << 0) /* tell of senders too, not of messages alone */
#define VMP_HUB_NO_SLEEP	(1U << 1) /* this end never sleeps: it polls */
#define VMP_HUB_EPHEMERAL	(1U << 2) /* the name goes when its last user does */

/**
 * struct vmp_hub_opts - how a hub is made, and how it waits
 * @size: sizeof(struct vmp_hub_opts) as the caller was compiled
 * @flags: VMP_HUB_*
 * @lanes: how many senders at a time, at most 1024; 0: 16
 * @vector: receive vector to sleep on; channels may share it, for a few more wake-ups
 * @capacity: bytes that each lane holds, each way, rounded up to a power of two; 0: 16 KiB.
 *	A message may have 7/16 of it
 * @mode: of the name, if it is made: 0 .. 0777, as advice; 0: 0600
 * @spin_us: how long to spin before sleeping, microseconds; 0: adaptive
 *
 * @lanes, @capacity, @mode and VMP_HUB_EPHEMERAL are for a name that does not exist yet;
 * one that does keeps its own.
 */
struct vmp_hub_opts {
	uint32_t size;
	uint32_t flags;
	uint32_t lanes;
	uint32_t vector;
	uint64_t capacity;
	uint32_t mode;
	uint32_t spin_us;
};

/**
 * vmp_hub_open() - receive by a name
 * @o: NULL: all defaults, vector 0 (of a window, its first)
 *
 * Makes the object if there is none. Needs a session: see vmp_join() for its errors. -EBUSY:
 * another process receives by this name, and is not known to be dead; or this one does.
 * -EPROTOTYPE: the name is no channel's; -ENOSPC: no room in the portal; -EPROTONOSUPPORT:
 * it is of another version.
 */
int vmp_hub_open(struct vmp_hub **h, struct vmp *p, const char *name, const struct vmp_hub_opts *o);

/* Senders get -EPIPE. What they have sent waits for the next hub. NULL is allowed. */
void vmp_hub_close(struct vmp_hub *h);

/* vmp_from.event */
#define VMP_FROM_MESSAGE	0
#define VMP_FROM_CAME		1 /* a sender has opened the channel */
#define VMP_FROM_SUSPECT	2 /* its machine is suspect: it may go on at any time */
#define VMP_FROM_BACK		3 /* not any more */
#define VMP_FROM_BROKEN		4 /* -EPROTO: it broke the protocol, and has to open anew */
#define VMP_FROM_LEFT		5 /* it has closed; all that it sent was read */
#define VMP_FROM_DEAD		6 /* it is dead; all that it had committed was read */

/* vmp_from.flags */
#define VMP_FROM_AGAIN		(1U << 0) /* a hub before this one may have seen this message */
#define VMP_FROM_INHERITED	(1U << 1) /* sent to a hub before this one: nobody hears a reply */

/**
 * struct vmp_from - whose message, or what happened to whom
 * @event: VMP_FROM_*
 * @flags: VMP_FROM_*
 * @token: the sender's session, see vmp_token_state()
 * @serial: which sender's end: never the same twice of one hub
 * @lane: its number, below vmp_hub_opts.lanes: an index for tables of one's own
 */
struct vmp_from {
	uint32_t event;
	uint32_t flags;
	uint64_t token;
	uint64_t serial;
	uint32_t lane;
	uint32_t reserved;
};

/**
 * vmp_hub_recv() - copy the next message out, of whichever sender
 * @from: whose it is; may be NULL, but not with VMP_HUB_EVENTS
 *
 * Its length. With VMP_HUB_EVENTS also 0 for an event: from->event says.
 * -EMSGSIZE: longer than @cap (it stays); -EAGAIN has armed vmp_hub_fd(); -ESTALE: this
 * process's session is over; -EPROTO: the hub's own words were overwritten.
 */
ssize_t vmp_hub_recv(struct vmp_hub *h, void *buf, size_t cap, struct vmp_from *from,
		     int timeout_ms);

/*
 * The same in place, as vmp_peek(): until vmp_hub_release(), which an event does not need.
 * A hub that ends in between has not consumed it: the next one gets it, flagged. So has one
 * whose release fails: it was declared dead (by mistake) and has a successor.
 */
ssize_t vmp_hub_peek(struct vmp_hub *h, const void **ptr, struct vmp_from *from, int timeout_ms);
int vmp_hub_release(struct vmp_hub *h);

/* Called by vmp_hub_poll() per message and event; return non-zero to stop. */
typedef int (*vmp_hub_fn)(void *arg, const struct vmp_from *from, const void *msg, size_t len);

/* As vmp_poll(): how many messages and events were handled, without waiting. */
int vmp_hub_poll(struct vmp_hub *h, vmp_hub_fn fn, void *arg, unsigned int limit);

/**
 * vmp_hub_reply() - send to whom a message came from
 * @to: of the message
 *
 * As vmp_send(). -ESTALE: that sender's end is gone, or has never heard of this hub.
 * -EAGAIN has armed vmp_hub_fd(), for who has asked for it.
 */
int vmp_hub_reply(struct vmp_hub *h, const struct vmp_from *to, const void *buf, size_t len,
		  unsigned int flags, int timeout_ms);

/* As vmp_channel_fd(): one descriptor for all senders. */
int vmp_hub_fd(struct vmp_hub *h);

/* Sums over all lanes since vmp_hub_open(); as vmp_channel_stats(). */
void vmp_hub_stats(const struct vmp_hub *h, struct vmp_stats *st, size_t st_size);

/**
 * vmp_channel_named() - send by a name
 * @o: NULL, or options of which vector, flags (VMP_CH_NO_SLEEP) and spin_us count; side,
 *	offset and length are 0
 * @timeout_ms: how long to wait for the name, and for a free lane; not for the hub: what
 *	needs it waits by itself
 *
 * -ENOENT: nobody has made that name; -EUSERS: it has no free lane (a dead sender's is freed
 * by the hub); -ETIMEDOUT: still so. Or as vmp_hub_open(). The channel ends with
 * vmp_channel_close(). Its -ECONNRESET: the hub's process died: close, and open anew.
 */
int vmp_channel_named(struct vmp_channel **ch, struct vmp *p, const char *name,
		      const struct vmp_channel_opts *o, int timeout_ms);

/*
 * How the session at the other end of a channel by name stands: VMP_STATE_ALIVE, _SUSPECT,
 * _DEAD, or _NONE: there is none yet. When to ask: vmp_watch_fd() is readable within three
 * heartbeats of the hub's machine falling silent, and when it beats again; no call on the channel
 * fails because of that. (Death ends them: -ECONNRESET.) With portald gone only who asks hears it,
 * and has to ask from time to time: see vmp_token_state().
 */
int vmp_channel_peer_state(struct vmp_channel *ch);

#ifdef __cplusplus
}
#endif

#endif /* VMPORTAL_HUB_H */
