/* SPDX-License-Identifier: MIT */
/* What portalctl send and recv have in common: digest, progress, result. */
#ifndef PORTALCTL_STREAM_H
#define PORTALCTL_STREAM_H

#include <nettle/sha2.h>

#include "frame.h"

#define CHUNK_DEFAULT	(256U << 10)
#define CHUNK_MAX	(64U << 20)

/**
 * struct stream - one transfer, seen from either end
 * @show: print progress and a summary on stderr
 * @size: what the sender announced, or SIZE_UNKNOWN
 */
struct stream {
	struct place place;
	struct link link;
	const char *file;	/* NULL or "-": standard input or output */
	bool json, sha256, show, show_set;
	uint32_t chunk;

	int fd;
	char name[FRAME_TEXT + 1];
	uint64_t size;
	uint64_t done;
	uint64_t start_ns, end_ns, shown_ns;
	struct sha256_ctx hash;
	uint8_t digest[SHA256_DIGEST_SIZE];
	char *buf;		/* header and one chunk */
};

extern const struct argp stream_argp;	/* child: --json --sha256 --progress --chunk */

void stream_init(struct stream *s, uint32_t default_side);
/* Of send and recv; their positional arguments are [URI] [FILE|-]. */
error_t stream_parse(int key, char *arg, struct argp_state *st);
/* Largest DATA body for this channel: several must fit into the ring. */
uint32_t stream_chunk(const struct stream *s);

void progress(struct stream *s, const char *verb);
/* Last progress line, --json object and --sha256 line. */
void report(struct stream *s, const char *verb, const char *past);

#endif /* PORTALCTL_STREAM_H */
