/* SPDX-License-Identifier: MIT */
/*
 * What a restart takes over and descriptors cannot carry: ids, tenures, queues, what was
 * sent to whom, the truth about our rows. It is a memfd of a fixed size for each portal,
 * which the service manager (or keeper.c) has too, together with the descriptors (store.h).
 *
 * It is not a copy that is written now and then, it is where these things are. So it is
 * as it was at the instruction before which portald was killed, and the argument is about
 * the order of stores (all of a single thread, so that program order is all that counts):
 *
 * - A number that must not be used twice (id, tenure, generation, sequence of a session)
 *   is counted on before it is used.
 * - A record, or an item of a queue, is filled before the word that makes it count, which
 *   is one store.
 * - Whoever comes, or leaves, is in a state that says so (KEPT_JOINING, KEPT_LEAVING) until
 *   all others' queues have what they are to be told of it; nothing is sent meanwhile. Who
 *   is found in that state is told of anew: each queue says whether it has it already.
 * - A request is looked at (MSG_PEEK), the record says that it is begun, it is answered into
 *   the queue, taken out of the socket, and the answer is sent after that: nothing is sent
 *   meanwhile, by the next portald neither. So one that was begun is in the socket still,
 *   unless recvmmsg() has said in kept memory that it is taken (as sendmmsg() does, below); and
 *   it has been answered if the queue has one answer more than when it was begun.
 * - A message that is sent must be recorded as sent, and nothing can come between: it goes by
 *   sendmmsg(), whose msg_len the kernel writes before it returns; and that word is kept
 *   memory. A signal, SIGKILL too, is taken when the system call returns. The word was set to
 *   0 before, and kept_client.sending says which message of the queue it is about. (The
 *   kernel's store can fail only if the page has been taken away since it was set to 0, and
 *   the process is being killed at once: outboxes are locked into memory where that is
 *   allowed.)
 * - Verdicts, rows and doorbells may be given twice: they are what they are the second time.
 *
 * Descriptors go to the store before anybody can know of them. A client whose connection was
 * accepted and not yet stored is the one that loses something: it finds the connection
 * closed before it was told anything. The library connects anew; a QEMU that starts at
 * that moment says so and ends.
 */
#ifndef PORTALD_KEPT_H
#define PORTALD_KEPT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "config.h"
#include "sendq.h"

struct client;
struct portal;
struct truth;

enum kept_state {
	KEPT_FREE,
	KEPT_NEW,	/* a guest that has no id yet */
	KEPT_JOINING,	/* it has an id; others' queues may not have it yet */
	KEPT_MEMBER,
	KEPT_LEAVING,	/* others' queues may not have its end yet */
	KEPT_GHOST,	/* a guest without connection, whose process is watched */
};

/* kept_client.flags */
#define KEPT_GUEST	0x1U
#define KEPT_RDONLY	0x2U
#define KEPT_DEAF	0x4U
#define KEPT_DOOMED	0x8U
#define KEPT_OUTLIVED	0x10U
#define KEPT_PIDFD	0x20U	/* one is in its bundle */
#define KEPT_FLAGS	0x3fU	/* all of them */

/* kept_client.session: a row of block 0 in the low half, in the high half: */
#define KEPT_SESSION_BEGUN	1U	/* the row is its own; not answered yet */
#define KEPT_SESSION_GIVEN	2U
#define KEPT_SESSION_OVER	3U

/**
 * struct kept_client - a client
 * @gen: a number that no other ever had: its descriptors' name in the store
 * @queue: of sendq.h
 * @sending: sendq_place() of the message that kept_out's msg_len is about; 0: none
 * @request: the first in the socket was begun, kept_out's msg_len is about that: 1 + answers in
 *	the queue before; 0: none
 */
struct kept_client {
	uint64_t gen;
	uint64_t queue;
	uint64_t sending;
	uint64_t tenure;
	uint64_t since;
	uint64_t session;
	uint32_t state;
	uint32_t flags;
	uint32_t id;
	int32_t pid, uid;
	char comm[24];
	uint64_t request;
};

/**
 * struct kept - the head of the memory
 * @magic, @size: of all of it
 * @complete: all that must be in the store is; before, it is of no use
 * @unproven: above all ids of guests that have left and may live still: see portal.c
 * @tries: starts that have taken it over, and ended before they served
 * @conf: the numbers that everything's size depends on
 */
struct kept {
	uint64_t magic;
	uint64_t size;
	uint64_t complete;
	uint64_t next_gen, next_id, next_tenure;
	uint64_t unproven;
	uint64_t tries;
	uint64_t total_guests, total_processes;
	uint64_t started;
	struct {
		uint64_t size;
		uint32_t vectors, host_peers, max_guests, first_guest_id, managed, session_rows;
	} conf;
};

/**
 * struct kept_map - where its parts are, in this process
 * @fd: the memory
 * @freed: when each of the host's ids was given back
 * @client, @out: @n records, and what they send
 * @items: 2 * @cap for each of them
 */
struct kept_map {
	int fd;
	struct kept *head;
	struct truth *truth;
	uint64_t *freed;
	struct mmsghdr *out;
	struct kept_client *client;
	struct kept_item *items;
	uint32_t n, cap;
};

/* New memory for a portal with these settings, all zero; 0 or -errno. */
int kept_create(struct kept_map *k, const struct portal_conf *conf);
/* Memory of an earlier portald: its settings go to @conf. 0, or -1 and @e: of no use. */
int kept_adopt(struct kept_map *k, int fd, struct portal_conf *conf, struct err *e);
void kept_close(struct kept_map *k);

/* A record for @c, with a generation of its own; 0 or -ENOSPC. */
int kept_attach(struct kept_map *k, struct client *c);
/* Record @i is @c's. */
void kept_bind(struct kept_map *k, struct client *c, uint32_t i);
void kept_detach(struct client *c);
/* Is what record @i says possible? If not, some error of an earlier portald's is in it. */
bool kept_possible(const struct kept_map *k, const struct portal_conf *conf, uint32_t i);

/*
 * One message of @c's queue, the next, with @n descriptors: 0 or -errno (-EAGAIN,
 * -ETOOMANYREFS: later). Afterwards sendq_sent(), then kept_sent().
 */
int kept_send(struct client *c, const void *buf, size_t len, const int *fds, unsigned int n);
void kept_sent(struct client *c);
/* Was the message that was being sent when portald was killed? */
bool kept_was_sent(const struct client *c);

/*
 * The request at the head of @c's socket is begun, and taken: 0 or -errno. Afterwards, or if it
 * was taken already when portald was killed, kept_request_done().
 */
void kept_request(struct client *c);
int kept_take(struct client *c);
void kept_request_done(struct client *c);
/* Is the first in the socket one that was begun? And answered already? */
bool kept_is_begun(const struct client *c);
bool kept_is_answered(const struct client *c);

/*
 * Tests build portald so that it kills itself at any of these, by number: after each store
 * to kept memory, and each system call that others can see.
 */
#ifdef PORTALD_STEPS
void kept_step(void);
#else
static inline void kept_step(void)
{
}
#endif

/* The compiler may not move these about. */
static inline void kept_store(void *to, uint64_t v)
{
	typedef uint64_t __attribute__((may_alias)) word;

	__atomic_store_n((word *)to, v, __ATOMIC_SEQ_CST);
	kept_step();
}

static inline void kept_store32(uint32_t *to, uint32_t v)
{
	__atomic_store_n(to, v, __ATOMIC_SEQ_CST);
	kept_step();
}

#endif
