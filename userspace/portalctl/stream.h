/* SPDX-License-Identifier: MIT */
/* What portalctl send and recv have in common: digest, progress, going on, result. */
#ifndef PORTALCTL_STREAM_H
#define PORTALCTL_STREAM_H

#include <nettle/sha2.h>

#include "frame.h"

#define CHUNK_DEFAULT	(256U << 10)
#define CHUNK_MAX	(64U << 20)

/* In place of an exit code: the other end is gone, and --resume waits for the next. */
#define STREAM_LOST	(-1)

/**
 * struct stream - one transfer, seen from either end
 * @resume: go on when the other end comes again, from what has arrived
 * @show: print progress and a summary on stderr
 * @by_name: lines as messages of a channel by name, and nothing else here; or NULL
 * @who: print whose a line is; @count: so many lines, 0: without end
 * @size: what the sender announced, or SIZE_UNKNOWN
 * @begin: where in the input the first byte is
 * @done: bytes of the stream that this end has sent, or has
 * @had: of these, what the receiver had already when the other end came
 * @skipped: bytes that were not sent again, @resumed: how often
 */
struct stream {
	struct place place;
	struct link link;
	const char *file;	/* NULL or "-": standard input or output */
	bool json, sha256, show, show_set, resume, who;
	uint32_t chunk, count;
	const char *by_name;

	int fd;
	char name[FRAME_TEXT + 1];
	uint64_t size;
	off_t begin;
	uint64_t done, had;
	uint64_t skipped;
	unsigned int resumed;
	uint64_t start_ns, end_ns, shown_ns;
	struct sha256_ctx hash;
	uint8_t digest[SHA256_DIGEST_SIZE];
	char *buf;		/* header and one chunk */
	size_t cap;		/* of recv's buf: the longest message it takes */
};

extern const struct argp stream_argp;	/* child: --json --sha256 --progress --chunk */

void stream_init(struct stream *s, uint32_t default_side);
/* Of send and recv; their positional arguments are [URI] [FILE|-]. */
error_t stream_parse(int key, char *arg, struct argp_state *st);
/* Largest DATA body for this channel: several must fit into the ring. */
uint32_t stream_chunk(const struct stream *s);

/*
 * Hash the first @len bytes of the file @fd from @from on, of which the stream has then
 * @s->done. 0 or -errno: -ENODATA: there are fewer.
 */
int stream_hash(struct stream *s, int fd, off_t from, uint64_t len);

/*
 * One exchange with each other end that comes, until one is no STREAM_LOST: the exit code
 * of @transfer. @who: the command to start there.
 */
int stream_run(struct stream *s, const char *who, int (*transfer)(struct stream *s));

void progress(struct stream *s, const char *verb);
/* Last progress line, --json object and --sha256 line. */
void report(struct stream *s, const char *verb, const char *past);

/* ---- byname.c ---- */

int send_by_name(struct stream *s);
int recv_by_name(struct stream *s);

#endif /* PORTALCTL_STREAM_H */
