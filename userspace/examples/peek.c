/* SPDX-License-Identifier: MIT */
/* peek URI: print the messages where they lie, without a copy. Side 1. */
#include <errno.h>
#include <stdio.h>
#include <vmportal.h>

int main(int argc, char **argv)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .side = 1 };
	struct vmp_channel *ch;
	const void *at;
	struct vmp *p;
	ssize_t n;

	if (argc < 2 || vmp_open(&p, argv[1], 0) || vmp_channel_open(&ch, p, &o)) {
		fprintf(stderr, "peek: %s\n", argc < 2 ? "peek URI" : vmp_errmsg());
		return 1;
	}
	while ((n = vmp_peek(ch, &at, 10000)) >= 0) {
		printf("%.*s\n", (int)n, (const char *)at);
		vmp_release(ch);
	}
	vmp_channel_close(ch);
	vmp_close(p);
	return n != -EPIPE;
}
