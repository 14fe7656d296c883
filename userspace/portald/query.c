// SPDX-License-Identifier: MIT
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "listen.h"
#include "proto.h"
#include "query.h"

#define TIMEOUT_S 5
#define STATUS_MAX (16U << 20)

const char *query_dir(const char *dir, const char *name)
{
	static const char *const system_dir = "/run/vmportal";
	char path[512];

	if (dir)
		return dir;
	dir = listen_dir(NULL);
	snprintf(path, sizeof(path), "%s/%s.sock", dir, name);
	if (access(path, F_OK) < 0) {	/* an ordinary user asks about the system's */
		snprintf(path, sizeof(path), "%s/%s.sock", system_dir, name);
		if (access(path, F_OK) == 0)
			return system_dir;
	}
	return dir;
}

static int dial(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct timeval tv = { .tv_sec = TIMEOUT_S };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	memcpy(sa.sun_path, path, strlen(path) + 1);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

/* One packet and at most one descriptor (-1: none); 0 or -errno. */
static int receive(int sock, struct pd_msg *m, int *fd)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} ctl;
	struct iovec iov = { .iov_base = m, .iov_len = sizeof(*m) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = ctl.buf, .msg_controllen = sizeof(ctl.buf),
	};
	struct cmsghdr *cm;
	ssize_t n;

	*fd = -1;
	n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno;
	cm = CMSG_FIRSTHDR(&msg);
	if (cm && cm->cmsg_level == SOL_SOCKET && cm->cmsg_type == SCM_RIGHTS &&
	    cm->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(cm), sizeof(int));
	return n == sizeof(*m) ? 0 : -EPROTO;
}

static struct json_object *parse(int fd, uint64_t len)
{
	struct json_object *o = NULL;
	struct stat st;
	char *text;

	if (fd < 0 || !len || len > STATUS_MAX || fstat(fd, &st) < 0 ||
	    (uint64_t)st.st_size < len)
		return NULL;
	text = malloc(len + 1);
	if (!text)
		return NULL;
	if (pread(fd, text, len, 0) == (ssize_t)len) {
		text[len] = '\0';
		o = json_tokener_parse(text);
	}
	free(text);
	return o;
}

static struct json_object *exchange(int sock, const char *path, int *err, struct err *e)
{
	struct pd_msg m = {
		.type = htole32(PD_STATUS), .id = htole32(PD_MAGIC), .arg = htole32(PD_VERSION),
	};
	struct json_object *o = NULL;
	int fd = -1;

	*err = send(sock, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m) ? 0 : -errno;
	if (*err == 0)
		*err = receive(sock, &m, &fd);
	m.text[sizeof(m.text) - 1] = '\0';
	if (*err < 0) {
		err_set(e, "%s: no answer: %s", path, strerror(-*err));
	} else if (le32toh(m.type) == PD_REFUSE) {
		*err = -EPROTO;
		err_set(e, "%s: refused: %s", path, m.text);
	} else {
		o = parse(fd, le64toh(m.value));
		if (!o) {
			*err = -EPROTO;
			err_set(e, "%s: its answer makes no sense; is it a portald of this version?",
				path);
		}
	}
	if (fd >= 0)
		close(fd);
	return o;
}

struct json_object *query_status(const char *dir, const char *name, int *err, struct err *e)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	struct json_object *o;
	int sock;

	*err = -EINVAL;
	if (listen_path(path, sizeof(path), query_dir(dir, name), name, "sock", e) < 0)
		return NULL;
	sock = dial(path);
	if (sock < 0) {
		*err = sock;
		if (sock == -ENOENT || sock == -ECONNREFUSED)
			err_set(e, "%s: nobody serves portal '%s' there: start portald, or give its --socket-dir",
				path, name);
		else if (sock == -EACCES)
			err_set(e, "%s: no permission: you must be its owner or in its group (owner, group, mode in portald.conf)",
				path);
		else
			err_set(e, "%s: %s", path, strerror(-sock));
		return NULL;
	}
	o = exchange(sock, path, err, e);
	close(sock);
	return o;
}

static int64_t num(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(o, key, &v) ? json_object_get_int64(v) : 0;
}

static const char *str(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : "?";
}

static void print_table(struct json_object *o)
{
	struct json_object *peers = NULL, *c;
	size_t i;

	printf("%s: %" PRId64 " KiB, %" PRId64 " vectors, served by pid %" PRId64
	       " for %" PRId64 " s\n", str(o, "name"), num(o, "size") >> 10,
	       num(o, "vectors"), num(o, "pid"), num(o, "uptime_s"));
	printf("guests %" PRId64 " of %" PRId64 " (next id %" PRId64 "), processes %" PRId64
	       " of %" PRId64 "\n", num(o, "guests"), num(o, "max_guests"),
	       num(o, "next_guest_id"), num(o, "processes"), num(o, "host_peers"));
	if (!json_object_object_get_ex(o, "peers", &peers) ||
	    !json_object_array_length(peers))
		return;
	printf("\n%6s  %-8s %8s  %-16s %10s %7s\n", "ID", "KIND", "PID", "COMMAND",
	       "SECONDS", "QUEUED");
	for (i = 0; i < json_object_array_length(peers); i++) {
		c = json_object_array_get_idx(peers, i);
		printf("%6" PRId64 "  %-8s %8" PRId64 "  %-16s %10" PRId64 " %7" PRId64 "\n",
		       num(c, "id"), str(c, "kind"), num(c, "pid"), str(c, "command"),
		       num(c, "connected_s"), num(c, "queued"));
	}
}

int cmd_status(const char *dir, const char *name, bool json)
{
	struct json_object *o;
	struct err e;
	int err;

	o = query_status(dir, name, &err, &e);
	if (!o) {
		fprintf(stderr, "portald: %s\n", e.text);
		return 1;
	}
	if (json)
		puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
						       JSON_C_TO_STRING_SPACED |
						       JSON_C_TO_STRING_NOSLASHESCAPE));
	else
		print_table(o);
	json_object_put(o);
	return fflush(stdout) == 0 ? 0 : 1;
}
