/* SPDX-License-Identifier: MIT */
/*
 * A channel, as its files see it: handshake.c pairs the two ends, wait.c sleeps and
 * wakes, message.c moves messages, channel.c opens and closes. The bytes and the
 * protocol are those of linux/portal_layout.h and vmportal_ring.h.
 *
 * Threads: one sends (tx), one receives (rx); either may find the other end gone, or
 * do a step of the handshake. What both touch is under @lock or atomic.
 */
#ifndef VMP_CHANNEL_H
#define VMP_CHANNEL_H

#include <linux/portal_layout.h>
#include <stdalign.h>
#include <time.h>

#include "internal.h"
#include "vmportal_packet.h"
#include "vmportal_ring.h"

/* portal_chan_side.hello of this version of the layout. */
#define CHAN_HELLO	((uint64_t)PORTAL_CHAN_MAGIC | (uint64_t)PORTAL_CHAN_VERSION << 32)

#define load_acquire	vmpr_load_acquire
#define load_relaxed	vmpr_load_relaxed
#define store_release	vmpr_store_release
#define store_relaxed	vmpr_store_relaxed

#define likely(x)	__builtin_expect(!!(x), 1)
#define unlikely(x)	__builtin_expect(!!(x), 0)

/*
 * A word that says whose something is, from @own to @then; false: it is somebody else's.
 * Never by a plain store: whoever was declared dead by mistake goes on for a while, and what
 * he let go of may have another owner by now.
 */
static inline bool hand_on(uint64_t *word, uint64_t own, uint64_t then)
{
	return __atomic_compare_exchange_n(word, &own, then, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Directions; also index of what a waiter waits for. */
enum dir { RX, TX };

/* How far the pair is; only grows. */
enum stage {
	STAGE_OPEN,	/* looking for the other end */
	STAGE_LIVE,	/* may receive; bound to this peer incarnation */
	STAGE_SEND,	/* may send too */
};

#define US	INT64_C(1000)
#define MS	(1000 * US)
#define FOR_EVER INT64_MAX

/* Timed sleeps until the doorbell has proved itself, and while unconnected. */
#define NAP_FIRST	(1 * MS)
#define NAP_LAST	(20 * MS)

/* Why a sleep ended, as bits in epoll_event.data. */
#define WOKE_BELL	1U
#define WOKE_STATE	2U
#define WOKE_TIMER	4U
#define WOKE_TABLES	8U

/**
 * struct waiter - one direction's sleeps; used by that direction's thread
 * @ep: epoll set of its own: doorbell and state descriptor, both edge-triggered, so
 *	that nobody reads the eventfd and no thread takes another's event away
 * @armed: the shared word that says "ring me"
 * @epoch: number of the last arm; begins where no number was used before
 * @kicked: last arm for which the other direction has passed on an event
 * @nap_ns: next timed sleep; @nap_pos: where the ring was, for waits by descriptor
 * @spin_ns: how long to spin before a sleep
 * @polls: calls that found nothing and did not wait; @next_look: when the next of
 *	them looks at the portal's state
 */
struct waiter {
	int ep;
	uint64_t *armed;
	uint64_t epoch;
	uint64_t kicked;
	int64_t nap_ns;
	uint64_t nap_pos;
	int64_t spin_ns;
	unsigned int polls;
	int64_t next_look;
};

/* Counted by the thread of the direction, read by any. */
struct counts {
	uint64_t messages, bytes;
	uint64_t wakeups, sleeps, syscalls;
};

/**
 * struct packets - what a channel has in place of a region: VMBus's packet rings
 * @rings: where they are; @header: bytes of a header page as mapped
 * @tx, @rx: the two ends; each is its direction's, but what vmpk_publish() touches
 * @ready: committed packets end here; stored by the sender
 * @batch: something may have been committed and not be published: whoever publishes
 *	holds the channel's lock. The sender's
 * @masked: we have set the interrupt mask. The receiver's
 * @self, @other: stand in for what is in the region otherwise; nobody else sees them
 */
struct packets {
	struct vmp_rings rings;
	size_t header;
	struct vmpk_tx tx;
	struct vmpk_rx rx;
	uint32_t ready;
	bool batch;
	bool masked;
	struct portal_chan_side self, other;
};

/**
 * struct vmp_channel - one end
 * @here: the portal's: 0 in a child that has none of the memory below
 * @pk: packet rings: no lanes then, and no handshake; or NULL
 * @me, @peer: the two control structures; only our own is written
 * @lane_out, @lane_in: ring memory
 * @inc: this end's incarnation
 * @spin_fixed: the opener's spin time, 0: adaptive
 * @pid: of the process that opened it
 * @token: our session, in a channel by name; else 0
 * @lease: then the word that says that our side is ours, for as long as it is @token: a hub's
 *	consumer, a lane's owner; else NULL
 * @hub, @row, @named: a producer's: the hub's words, its lane's row, and the object that
 *	they are in; else NULL
 * @watch: then also a set (epoll) that is ready when a table has changed; else -1
 * @bells: this end can be rung and may sleep
 * @timer, @ufd: behind vmp_channel_fd(), -1 until asked for; @timer_on: it will fire
 *
 * Under @lock until @stage is STAGE_LIVE, constant from then on: @peer_inc, @nonce,
 * @told_ready, @told_live, @peer_id, @peer_tenure, @peer_token (the other end's session; to
 * a hub the lane's owner, from the start). Under @lock for good: @gone_before.
 *
 * Under @lock: @hails (that the handshake may still do at once), @hails_at (when it was
 * given some last).
 *
 * Atomic: @stage; @generation (of the device, when the address was published);
 * @looked_at (when it was asked for last); @look_due (it should be asked again); @dead
 * (final error of the channel); @peer_bells (the other end may arm); @peer_gone (portald,
 * or the session table, said so); @trusted (a doorbell of the peer has come through); @introduced (we rang the
 * peer once so that it may trust); @owe (sent with VMP_MORE, nobody rung yet); @rung
 * (last epoch of the peer rung for, per direction); @doorbells.
 */
struct vmp_channel {
	struct vmp *p;
	const uint64_t *here;
	struct packets *pk;
	struct portal_chan_side *me;
	const struct portal_chan_side *peer;
	unsigned char *lane_out;
	const unsigned char *lane_in;
	uint64_t cap;
	uint64_t inc;
	uint32_t side;
	uint32_t vector;
	uint32_t flags;
	int64_t spin_fixed;
	pid_t pid;
	uint64_t token;
	const uint64_t *lease;
	const struct portal_hub *hub;
	struct portal_hub_lane *row;
	struct vmp_named *named;
	int watch;
	bool bells;
	int timer;
	int timer_on;
	int ufd;

	pthread_mutex_t lock;
	uint64_t peer_inc;
	uint64_t nonce;
	bool told_ready, told_live;
	uint32_t generation;
	uint32_t peer_id;
	uint64_t peer_tenure;
	uint64_t peer_token;
	uint32_t gone_before;
	unsigned int hails;
	int64_t hails_at;

	int stage;
	int dead;
	int look_due;
	int64_t looked_at;
	int peer_bells;
	int peer_gone;
	int trusted;
	int introduced;
	int owe;
	uint64_t rung[2];
	uint64_t doorbells;
	uint64_t ring_syscalls;

	struct {
		alignas(128) struct vmpr_tx ring;
		struct waiter w;
		struct counts n;
	} tx;
	struct {
		alignas(128) struct vmpr_rx ring;
		struct waiter w;
		struct counts n;
	} rx;
};

/* Thread-private counters that others may read. */
static inline void count(uint64_t *n, uint64_t by)
{
	store_relaxed(n, load_relaxed(n) + by);
}

static inline struct waiter *chan_waiter(struct vmp_channel *ch, enum dir d)
{
	return d == RX ? &ch->rx.w : &ch->tx.w;
}

static inline struct counts *chan_counts(struct vmp_channel *ch, enum dir d)
{
	return d == RX ? &ch->rx.n : &ch->tx.n;
}

/* ---- channel.c ---- */

/* The options as this version knows them, and whether they can be: 0 or -EINVAL. */
int chan_read_opts(struct vmp_channel_opts *o, const struct vmp_channel_opts *from);

/* A channel with its options alone, not in any memory yet; an incarnation. */
int chan_alloc(struct vmp_channel **ch, struct vmp *p, const struct vmp_channel_opts *o);

/* It is side @side of the area at @area, with lanes of @cap bytes. */
void chan_lay_out(struct vmp_channel *ch, void *area, uint64_t cap, uint32_t side);

/*
 * Whoever was declared dead by mistake goes on, until he looks here, in what may be his
 * successor's by now: no longer than from this look to the store behind it.
 */
static inline bool chan_is_ours(const struct vmp_channel *ch)
{
	return !ch->lease || load_relaxed(ch->lease) == ch->token;
}

/*
 * A word of what is ours for as long as @lease is @token becomes @then, unless somebody else
 * has it: whoever stopped anywhere in here, for however long, changes nothing of his
 * successor's.
 */
void lease_say(const uint64_t *lease, uint64_t token, uint64_t *word, uint64_t then);

/* A word of our own side. */
static inline void chan_say(struct vmp_channel *ch, uint64_t *word, uint64_t then)
{
	if (ch->lease)
		lease_say(ch->lease, ch->token, word, then);
	else
		store_release(word, then);
}

/* Say in its own words that this end has closed, and stores nothing more. */
void chan_say_closed(struct vmp_channel *ch);
void chan_free(struct vmp_channel *ch);

/* ---- handshake.c ---- */

/* Publish this end: from now on the other may find it; and tell it, if it is there. */
void chan_announce(struct vmp_channel *ch);
void chan_begin(struct vmp_channel *ch);

/* Has the other end died, as far as is known now? Then it is noted. 0, -EPROTO or -ESTALE. */
int chan_judge_peer(struct vmp_channel *ch);

/* One step of the handshake: 0, or the channel's final error. */
int chan_step(struct vmp_channel *ch);

/*
 * The other end as it is now: 0 alive, -EPIPE closed, -ECONNRESET another incarnation
 * or dead; -EBUSY: our own side was taken by another; -ENODEV. To be followed by one
 * more look at the ring, for what was committed before.
 */
int chan_peer_state(struct vmp_channel *ch);

/* The channel has ended by @err; who sleeps in its other direction hears of it. */
void chan_die(struct vmp_channel *ch, int err);

/*
 * Nobody has paired with us: -EPROTONOSUPPORT, with its text, if what stands on the
 * other side cannot (perhaps it is long gone), else 0.
 */
int chan_mismatch(struct vmp_channel *ch);

/* The text for a final error, which is returned. */
int chan_fail(struct vmp_channel *ch, int err);

/* A rule of the ring was broken: why (-EPROTO, or a reset or loss that explains it). */
int chan_broken(struct vmp_channel *ch);

/* Publish this end's doorbell address. */
void chan_set_address(struct vmp_channel *ch);

/* ---- wait.c ---- */

/* A blocking call's patience; timeout_ms as in vmportal.h. */
struct patience {
	int timeout_ms;
	bool started;
	bool spun;
	int64_t deadline;
};

/* Senders of packets look for room now and then; tests of the signals say false. */
extern bool chan_packet_naps;

/* Waiters that cannot sleep yet; then, sets to sleep on. */
void chan_waiters_start(struct vmp_channel *ch);
int chan_waiters_init(struct vmp_channel *ch);
void chan_waiters_close(struct vmp_channel *ch);

/*
 * A set that wakes for @vector, if @bells, for the portal's state, and for @watch, if it is
 * not -1; or -errno.
 */
int wait_set(struct vmp *p, bool bells, uint32_t vector, int watch);

/* A set that is ready when a table has changed, and to take notice of that; or -errno. */
int wait_tables(struct vmp *p);
void wait_tables_seen(struct vmp *p, int watch);

/* Wait for events of @ep for @ns: WOKE_ bits, or -errno. */
int wait_collect(int ep, int64_t ns);

/* Have @fd wake @ep by @bit, once for each event. */
int wait_watch(int ep, int fd, uint32_t events, uint32_t bit);

/*
 * The word that says "ring me": a number of this sleep's own, to be followed by a full fence;
 * and 0 again, if that number still stands there and the side is ours.
 */
void wait_arm(struct vmp_channel *ch, enum dir d);
void wait_disarm(struct vmp_channel *ch, enum dir d);

/* What a hub does for each of its lanes when it waits itself; see sleep_once(). */
bool chan_look(struct vmp_channel *ch, enum dir d, uint64_t need);
bool chan_publish(struct vmp_channel *ch, enum dir d);
void chan_before_sleep(struct vmp_channel *ch, bool published);
void wait_relax(void);

/*
 * Nothing to do in direction @d: wait. 0: look again. -EAGAIN (the channel's fd is
 * armed, if there is one), -ETIMEDOUT, -EINTR, or a final error.
 * @need: TX: bytes that do not fit now.
 */
int chan_wait(struct vmp_channel *ch, enum dir d, uint64_t need, struct patience *pt);

/* Ring at @address, of a side or of a hub. */
void chan_ring_at(struct vmp_channel *ch, uint64_t address);

/* Ring the peer at its address, whether it is armed or not. */
void chan_hail(struct vmp_channel *ch);

/* The peer armed @epoch for @d: ring it, once. */
void chan_ring(struct vmp_channel *ch, enum dir d, uint64_t epoch);

/* What the peer waits for in @d was published: ring it if it sleeps. */
static inline void chan_notify(struct vmp_channel *ch, enum dir d)
{
	const uint64_t *word = (const uint64_t *)(d == RX ? &ch->peer->rx_armed : &ch->peer->tx_armed);
	uint64_t n;

	if (!load_relaxed(&ch->peer_bells))
		return;
	/* Pairs with the fence after wait_arm(): we see its number, or it our store. */
	vmpr_full_fence();
	n = load_relaxed(word);
	if (unlikely(n && n != load_relaxed(&ch->rung[d])))
		chan_ring(ch, d, n);
}

/* ---- message.c ---- */

/* The next message, without waiting: its length, -EAGAIN without a text, or an error. */
int64_t chan_try(struct vmp_channel *ch, const void **ptr);

/* What vmpr_reserve() may need at most for @len: the record, and a pad before it. */
uint64_t chan_need(const struct vmp_channel *ch, size_t len);

/* ---- packet.c ---- */

int packet_open(struct vmp_channel *ch);
void packet_close(struct vmp_channel *ch);

/* One message, without waiting: payload bytes, or -EAGAIN with no text yet. */
int64_t packet_try(struct vmp_channel *ch, const void **ptr);
int packet_release(struct vmp_channel *ch);

int packet_reserve(struct vmp_channel *ch, void **ptr, uint32_t extra, size_t len, int timeout_ms);
int packet_commit(struct vmp_channel *ch, const struct vmpk_desc *d, uint32_t extra, size_t len,
		  unsigned int flags);

/* An ordinary message is an in-band packet, which nobody has to answer. */
static inline int packet_commit_plain(struct vmp_channel *ch, size_t len, unsigned int flags)
{
	struct vmpk_desc d = { .type = VMPK_DATA_INBAND };

	return packet_commit(ch, &d, 0, len, flags);
}

/* What is committed and owed: publish it, and signal if need be. 0, or a final error. */
int packet_flush(struct vmp_channel *ch);

/* Worth trying again in direction @d? */
bool packet_look(struct vmp_channel *ch, enum dir d, uint64_t need);

/* Before a sleep: "signal me", and a full fence; after it. */
void packet_arm(struct vmp_channel *ch, enum dir d, uint64_t need);
void packet_disarm(struct vmp_channel *ch, enum dir d);

/* Are the rings those that we knew? 0, -ECONNRESET after a reset, -ENODEV. */
int packet_check(struct vmp_channel *ch);

/* ---- All ---- */

/* What is owed for VMP_MORE. */
static inline void chan_flush(struct vmp_channel *ch)
{
	if (unlikely(ch->pk)) {
		packet_flush(ch);
		return;
	}
	/* The other thread's debt, perhaps: with it we see, and pass on, its record. */
	if (load_relaxed(&ch->owe) && __atomic_exchange_n(&ch->owe, 0, __ATOMIC_ACQ_REL))
		chan_notify(ch, RX);
}

#endif /* VMP_CHANNEL_H */
