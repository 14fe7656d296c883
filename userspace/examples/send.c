/* SPDX-License-Identifier: MIT */
/* send URI TEXT...: send each TEXT as a message. Side 0. */
#include <stdio.h>
#include <string.h>
#include <vmportal.h>

int main(int argc, char **argv)
{
	struct vmp_channel *ch;
	struct vmp *p;
	int i, r;

	if (argc < 3 || vmp_open(&p, argv[1], 0) || vmp_channel_open(&ch, p, NULL)) {
		fprintf(stderr, "send: %s\n", argc < 3 ? "send URI TEXT..." : vmp_errmsg());
		return 1;
	}
	for (i = 2, r = 0; i < argc && !r; i++)
		r = vmp_send(ch, argv[i], strlen(argv[i]), 0, 10000);
	if (r)
		fprintf(stderr, "send: %s\n", vmp_errmsg());
	vmp_channel_close(ch);
	vmp_close(p);
	return r ? 1 : 0;
}
