/* SPDX-License-Identifier: MIT */
/* poll URI: print the messages from an event loop of one's own. Side 1. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <vmportal.h>

static int print(void *arg, const void *msg, size_t len)
{
	return printf("%.*s\n", (int)len, (const char *)msg) < 0;
}

int main(int argc, char **argv)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .side = 1 };
	struct vmp_channel *ch;
	struct vmp *p;
	int n;

	if (argc < 2 || vmp_open(&p, argv[1], 0) || vmp_channel_open(&ch, p, &o))
		return fprintf(stderr, "poll: %s\n", argc < 2 ? "poll URI" : vmp_errmsg());
	while ((n = vmp_poll(ch, print, NULL, 64)) >= 0)
		if (n == 0)
			poll(&(struct pollfd){ vmp_channel_fd(ch), POLLIN, 0 }, 1, -1);
	return n != -EPIPE;
}
