/* SPDX-License-Identifier: MIT */
/* What has changed in the tables of a managed portal from one look to the next. */
#ifndef PORTALCTL_CHANGES_H
#define PORTALCTL_CHANGES_H

#include "tables.h"

/**
 * struct change - one difference
 * @what: "peer-joined", "session-ended" ...; portalctl.1 lists them
 * @text: a sentence about it
 * @slot: of the peer, the session's, or the object's row
 * @peer: slot of the machine; UINT32_MAX: of none
 * @token: of the session, or the object's id; 0: of none
 */
struct change {
	const char *what;
	char text[240];
	uint32_t slot, peer;
	uint64_t token;
};

typedef void (*change_fn)(void *arg, const struct change *c);

/**
 * struct look - the tables as they were seen last
 * @since: CLOCK_MONOTONIC nanoseconds when each peer's heart was seen to beat last
 */
struct look {
	struct vmp *p;
	struct vmp_layout l;
	struct vmp_peer *peers;
	uint64_t *since;
	struct vmp_session *sessions;
	struct vmp_object *objects;
};

/* All that is there now; nothing is told. 0, or an exit code with the text printed. */
int look_first(struct look *k, struct vmp *p);

/* Look again, and tell @fn of each difference; NULL: of none. The same results. */
int look_again(struct look *k, change_fn fn, void *arg);

void look_free(struct look *k);

#endif /* PORTALCTL_CHANGES_H */
