/* SPDX-License-Identifier: MIT */
/* window DEVICE COMMAND...: run COMMAND with 1 MiB of the portal as "fd:3", and nothing else. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <vmportal.h>

int main(int argc, char **argv)
{
	/* It may wait for vector 1, and ring vector 0 of whoever is there. */
	struct vmp_window_opts o = { .size = sizeof(o), .offset = VMP_WINDOW_ALIGN, .length = 1 << 20,
				     .wait = 1 << 1, .ring = 1 << 0, .peer = VMP_PEER_ANY };
	struct vmp *p;
	int fd;

	if (argc < 3 || vmp_open(&p, argv[1], 0) || (fd = vmp_window(p, &o)) < 0) {
		fprintf(stderr, "window: %s\n", argc < 3 ? "window DEVICE COMMAND..." : vmp_errmsg());
		return 1;
	}
	vmp_close(p);
	if (dup2(fd, 3) == 3 && !setenv("VMPORTAL_URI", "fd:3", 1))
		execvp(argv[2], argv + 2);
	perror(argv[2]);
	return 1;
}
