// SPDX-License-Identifier: MIT
/*
 * vspctl SOCKET WORD...: give portal-vsp a command, print its answer.
 * Exit status: 0 done, 1 refused (the answer says why), 2 no VSP there.
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* The VSP answers at once; a wait of its own has a bound of its own. */
#define ANSWER_S	60

static int complain(const char *path, const char *what)
{
	fprintf(stderr, "vspctl: %s: ", path);
	perror(what);
	return 2;
}

int main(int argc, char **argv)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct timeval tv = { .tv_sec = ANSWER_S };
	char buf[65536];
	size_t len = 0;
	ssize_t n;
	int s, i;

	if (argc < 3 || strlen(argv[1]) >= sizeof(a.sun_path)) {
		fprintf(stderr, "usage: vspctl SOCKET WORD...\n");
		return 2;
	}
	strcpy(a.sun_path, argv[1]);
	for (i = 2; i < argc; i++)
		len += snprintf(buf + len, len < sizeof(buf) ? sizeof(buf) - len : 0, "%s%s",
				i > 2 ? " " : "", argv[i]);
	s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (s < 0 || setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) ||
	    connect(s, (struct sockaddr *)&a, sizeof(a)) || len >= sizeof(buf) ||
	    send(s, buf, len, 0) < 0)
		return complain(argv[1], "no VSP");
	n = recv(s, buf, sizeof(buf) - 1, 0);
	if (n <= 0)
		return complain(argv[1], "no answer");
	buf[n] = 0;
	fputs(buf + (strncmp(buf, "ok ", 3) ? 0 : 3), stdout);
	fputs("\n", stdout);
	return strncmp(buf, "ok", 2) ? 1 : 0;
}
