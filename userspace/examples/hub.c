/* SPDX-License-Identifier: MIT */
/* hub URI NAME COUNT: answer COUNT messages that any processes send by that name. */
#include <stdio.h>
#include <stdlib.h>
#include <vmportal.h>

int main(int argc, char **argv)
{
	struct vmp_from from;
	struct vmp_hub *h;
	struct vmp *p;
	char buf[4096];
	ssize_t n;
	int left;

	if (argc < 4 || vmp_open(&p, argv[1], 0) || vmp_hub_open(&h, p, argv[2], NULL)) {
		fprintf(stderr, "hub: %s\n", argc < 4 ? "hub URI NAME COUNT" : vmp_errmsg());
		return 1;
	}
	for (left = atoi(argv[3]); left > 0; left--) {
		n = vmp_hub_recv(h, buf, sizeof(buf), &from, 10000);
		if (n < 0)
			break;
		printf("%.*s\n", (int)n, buf);
		vmp_hub_reply(h, &from, "done", 4, 0, 1000);
	}
	vmp_hub_close(h);
	vmp_close(p);
	return left > 0;
}
