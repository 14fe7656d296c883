// SPDX-License-Identifier: MIT
/*
 * knock SOCKET - a guest as portald sees it: connects as QEMU does, and says each message
 * that comes, its number and whether a descriptor was beside it; "end" at the end.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	union { struct cmsghdr align; char buf[CMSG_SPACE(sizeof(int))]; } ctl;
	int64_t word;
	struct iovec v = { &word, sizeof(word) };
	ssize_t n;

	if (argc != 2)
		return 2;
	strncpy(a.sun_path, argv[1], sizeof(a.sun_path) - 1);
	if (connect(s, (struct sockaddr *)&a, sizeof(a))) {
		perror(argv[1]);
		return 1;
	}
	for (;;) {
		struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &ctl,
				    .msg_controllen = sizeof(ctl) };
		struct cmsghdr *c;
		int fd;

		n = recvmsg(s, &h, MSG_WAITALL);
		if (n != sizeof(word))
			break;
		c = CMSG_FIRSTHDR(&h);
		printf("%" PRId64 "%s ", word, c ? "+" : "");
		if (c) {
			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
			close(fd);
		}
		fflush(stdout);
	}
	printf("end\n");
	return 0;
}
