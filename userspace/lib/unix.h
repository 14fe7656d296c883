/* SPDX-License-Identifier: MIT */
/* What the files of the unix: backend share: the connection to portald. */
#ifndef VMP_UNIX_H
#define VMP_UNIX_H

#include "internal.h"
#include "portald/proto.h"

/**
 * struct bells - eventfds of one peer, -1 where there is none
 * @refs: the peer's, and those of threads that ring right now, without the lock: a
 *	number must not become another file's under their hands
 */
struct bells {
	unsigned int refs;
	int fd[VMP_MAX_VECTORS];
};

/**
 * struct peer - a machine or process beyond the server
 * @here: between its PEER and its GONE
 * @gone: how often it left
 * @tenure: the last that began or ended; @ended: the last that ended; 0: a guest
 * @bells: to ring its vectors; NULL: none yet
 */
struct peer {
	bool here;
	uint32_t gone;
	uint64_t tenure, ended;
	struct bells *bells;
};

/**
 * struct client - the connection
 * @sock: -1 once it is lost; the descriptor stays open as the portal's state_fd, for
 *	our id is ours, and others may ring us by it, as long as it is
 * @machine: the server is the machine beyond it: PD_MACHINE
 * @unheard: it was lost before the server said anything
 * @id: our own
 * @own: eventfds that others ring us by
 * @peers: by id, @npeers entries
 * @lock: for all that changes after the greeting, but for what has @asking
 * @news: an eventfd, never read: a row of the tables has changed
 * @lifeline: one page; its mapping is our session; NULL: we have none
 * @token: that session's; @tables: the incarnation of the superblock that it was asked for by
 * @asking: held by who has asked the server something, and waits for the answer
 * @question: that is not answered yet, type 0: none; one that waited in vain may go on
 * @answer: to the last; its type is 0 until it has come
 */
struct client {
	struct vmp *p;
	int sock;
	bool machine, unheard;
	char path[108];
	uint32_t id;
	uint32_t vectors;
	int own[VMP_MAX_VECTORS];
	struct peer *peers;
	uint32_t npeers;
	pthread_mutex_t lock;
	int news;
	void *lifeline;
	uint64_t token, tables;
	pthread_mutex_t asking;
	struct pd_msg question, answer;
};

/* What came with one packet. */
struct packet {
	struct pd_msg m;
	int fd[PD_MAX_FDS];
	unsigned int nfd;
};

/* Read what the server has said, without waiting. Lock held. */
void vmp_unix_catch_up(struct client *c);

/* unix_ask.c */
/* An answer, or CHANGE: 0, or the error that ends the connection. Lock held. */
int vmp_unix_answer(struct client *c, struct packet *k);
void vmp_unix_end_session(struct client *c);
int vmp_unix_session(struct vmp *p, uint32_t vector, uint64_t *token);
int vmp_unix_fence(struct vmp *p, uint32_t slot, uint64_t claim);
int vmp_unix_watch(struct vmp *p, int set);
void vmp_unix_watched(struct vmp *p);
bool vmp_unix_lost(struct vmp *p);

#endif /* VMP_UNIX_H */
