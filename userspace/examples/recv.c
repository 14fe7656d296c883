/* SPDX-License-Identifier: MIT */
/* recv URI: print each message until the other end closes. Side 1. */
#include <errno.h>
#include <stdio.h>
#include <vmportal.h>

int main(int argc, char **argv)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .side = 1 };
	struct vmp_channel *ch;
	struct vmp *p;
	char buf[4096];
	ssize_t n;

	if (argc < 2 || vmp_open(&p, argv[1], 0) || vmp_channel_open(&ch, p, &o)) {
		fprintf(stderr, "recv: %s\n", argc < 2 ? "recv URI" : vmp_errmsg());
		return 1;
	}
	while ((n = vmp_recv(ch, buf, sizeof(buf), 10000)) >= 0)
		printf("%.*s\n", (int)n, buf);
	if (n != -EPIPE)
		fprintf(stderr, "recv: %s\n", vmp_errmsg());
	vmp_channel_close(ch);
	vmp_close(p);
	return n != -EPIPE;
}
