/* SPDX-License-Identifier: MIT */
/*
 * The messages that two portalctl exchange through a channel.
 *
 * Each begins with a struct frame, little-endian; DATA, FAIL and OFFER carry a
 * body behind it.
 *
 *	send			recv
 *	OFFER a=size, b=FRAME_CAN_RESUME, name
 *				ACCEPT a=bytes that it has, SHA-256 of them
 *	DATA a=offset, bytes ...	(from there on if they are the same here, else from 0)
 *	IDLE (input is slow)
 *	END a=total, SHA-256
 *				DONE a=total
 *
 *	ping			ping --echo
 *	PING a=sequence		the same bytes back
 *
 * Either may send FAIL (a=enum exit_code, text) and close. A frame of another
 * version or another command is answered by FAIL, so that both ends can say it.
 * Raise FRAME_VERSION when an old portalctl would misread a new one.
 */
#ifndef PORTALCTL_FRAME_H
#define PORTALCTL_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "tool.h"

#define FRAME_MAGIC	0x43504d56U	/* "VMPC" */
#define FRAME_VERSION	1
#define FRAME_TEXT	200		/* longest text of FAIL, name of OFFER */
#define SIZE_UNKNOWN	UINT64_MAX	/* OFFER of a pipe */
#define FRAME_CAN_RESUME	1	/* OFFER.b: it may be told to go on in the middle */

enum frame_kind { KIND_STREAM = 1, KIND_PING, KIND_BENCH };

enum frame_type {
	FRAME_OFFER = 1, FRAME_ACCEPT, FRAME_DATA, FRAME_IDLE, FRAME_END, FRAME_DONE,
	FRAME_PING, FRAME_FAIL,
};

struct frame {
	uint32_t magic;
	uint8_t version;
	uint8_t kind;
	uint8_t type;
	uint8_t zero;
	uint64_t a;
	uint64_t b;
};

/* Fills in a header, in wire order. */
void frame_make(struct frame *f, enum frame_kind kind, enum frame_type type, uint64_t a);

/* Sends a header and at most FRAME_TEXT bytes of body: 0 or -errno. */
int frame_send(struct vmp_channel *ch, enum frame_kind kind, enum frame_type type,
	       uint64_t a, const void *body, size_t len, int timeout_ms);

/* The same, with both numbers. */
int frame_send_two(struct vmp_channel *ch, enum frame_kind kind, enum frame_type type,
		   uint64_t a, uint64_t b, const void *body, size_t len, int timeout_ms);

/**
 * frame_parse() - check a received message
 * @msg: private memory, not the channel's
 * @f: the header in host order
 *
 * 0, or an exit code with the text printed: not from portalctl, another command
 * or version, or a FAIL (whose text is printed).
 */
int frame_parse(const void *msg, size_t len, enum frame_kind kind, struct frame *f);

/* Tells the other end why this one gives up; best effort, waits at most a second. */
void frame_fail(struct vmp_channel *ch, enum frame_kind kind, enum exit_code code,
		const char *text);

/* Copies text of a stranger with only printable ASCII in it. */
void clean_text(char *dst, size_t cap, const char *src, size_t len);

/*
 * SIGINT and SIGTERM end the library's waits (-EINTR), so that a command can
 * tell the other end before it goes.
 */
void catch_signals(void);
bool interrupted(void);
/* Ends the process by the signal that was caught. */
void die_of_signal(void);

#endif /* PORTALCTL_FRAME_H */
