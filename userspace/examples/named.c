/* SPDX-License-Identifier: MIT */
/* named URI NAME TEXT: send TEXT by that name and print the answer. */
#include <stdio.h>
#include <string.h>
#include <vmportal.h>

int main(int argc, char **argv)
{
	struct vmp_channel *ch;
	struct vmp *p;
	char buf[4096];
	ssize_t n = -1;

	if (argc < 4 || vmp_open(&p, argv[1], 0) ||
	    vmp_channel_named(&ch, p, argv[2], NULL, 10000)) {
		fprintf(stderr, "named: %s\n", argc < 4 ? "named URI NAME TEXT" : vmp_errmsg());
		return 1;
	}
	if (!vmp_send(ch, argv[3], strlen(argv[3]), 0, 10000))
		n = vmp_recv(ch, buf, sizeof(buf), 10000);
	if (n < 0)
		fprintf(stderr, "named: %s\n", vmp_errmsg());
	else
		printf("%.*s\n", (int)n, buf);
	vmp_channel_close(ch);
	vmp_close(p);
	return n < 0;
}
