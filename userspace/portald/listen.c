// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "listen.h"
#include "log.h"
#include "store.h"

#define BACKLOG 64
#define PASSED_MAX 128

/* What systemd passed: the portal's name, and which of its two sockets. */
static struct {
	int fd, type;
	char name[NAME_LEN_MAX + 1];
} passed[PASSED_MAX];
static int npassed;

static int inherit_one(int fd, const char *label, struct err *e)
{
	const char *dot = strrchr(label, '.');
	int type;
	size_t n;

	/* What an earlier portald left. */
	if (store_inherit(fd, label))
		return 0;
	if (sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) > 0)
		type = SOCK_STREAM;
	else if (sd_is_socket_unix(fd, SOCK_SEQPACKET, 1, NULL, 0) > 0)
		type = SOCK_SEQPACKET;
	else
		return err_set(e, "socket activation: '%s' is neither ListenStream= (QEMU) nor ListenSequentialPacket= (processes) on a path",
			       label);
	/* "demo.ivshmem", "demo.sock", or "demo": the type tells which. */
	n = dot && (!strcmp(dot, ".ivshmem") || !strcmp(dot, ".sock")) ?
	    (size_t)(dot - label) : strlen(label);
	if (n > NAME_LEN_MAX || npassed == PASSED_MAX)
		return err_set(e, "socket activation: '%s': FileDescriptorName= must be the portal's NAME",
			       label);
	memcpy(passed[npassed].name, label, n);
	passed[npassed].name[n] = '\0';
	passed[npassed].type = type;
	passed[npassed++].fd = fd;
	return fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ?
	       err_set(e, "socket activation: %s", strerror(errno)) : 0;
}

int listen_inherit(struct err *e)
{
	char **names = NULL;
	int i, n, ret = 0;

	n = sd_listen_fds_with_names(1, &names);
	if (n < 0)
		return err_set(e, "socket activation: LISTEN_FDS: %s", strerror(-n));
	for (i = 0; i < n; i++) {
		if (ret == 0)
			ret = inherit_one(SD_LISTEN_FDS_START + i, names[i], e);
		free(names[i]);
	}
	free(names);
	return ret;
}

static int take_passed(const char *name, int type)
{
	int i;

	for (i = 0; i < npassed; i++)
		if (passed[i].fd >= 0 && passed[i].type == type &&
		    strcmp(passed[i].name, name) == 0) {
			int fd = passed[i].fd;

			passed[i].fd = -1;
			return fd;
		}
	return -1;
}

const char *listen_left_over(void)
{
	int i;

	for (i = 0; i < npassed; i++)
		if (passed[i].fd >= 0)
			return passed[i].name;
	return NULL;
}

const char *listen_dir(const char *dir)
{
	const char *env = getenv("RUNTIME_DIRECTORY");
	static char buf[256];

	if (dir)
		return dir;
	if (env && *env == '/' && !strchr(env, ':'))
		return env;
	env = getenv("XDG_RUNTIME_DIR");
	if (geteuid() == 0 || !env || *env != '/')
		return "/run/vmportal";
	snprintf(buf, sizeof(buf), "%s/vmportal", env);
	return buf;
}

int listen_make_dir(const char *dir, struct err *e)
{
	struct stat st;

	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		return err_set(e, "%s: cannot make this directory for the sockets: %s; run as its owner, or give --socket-dir",
			       dir, strerror(errno));
	if (stat(dir, &st) < 0 || !S_ISDIR(st.st_mode))
		return err_set(e, "%s: not a directory; give another --socket-dir", dir);
	if (access(dir, W_OK | X_OK) < 0)
		return err_set(e, "%s: not writable: %s; run as its owner, or give --socket-dir",
			       dir, strerror(errno));
	return 0;
}

int listen_path(char *buf, size_t len, const char *dir, const char *name,
		const char *suffix, struct err *e)
{
	size_t max = sizeof(((struct sockaddr_un *)0)->sun_path);
	int n = snprintf(buf, len, "%s/%s.%s", dir, name, suffix);

	if (n < 0 || (size_t)n >= len || (size_t)n >= max)
		return err_set(e, "%s/%s.%s: longer than the %zu bytes of a socket's path; give a shorter --socket-dir",
			       dir, name, suffix, max - 1);
	return 0;
}

static int read_pid(int fd)
{
	char buf[16] = "";

	return pread(fd, buf, sizeof(buf) - 1, 0) > 0 ? atoi(buf) : 0;
}

/* NAME.lock, locked; its last holder's pid in l->stale_pid. */
static int take_lock(struct listening *l, const char *name, struct err *e)
{
	struct stat a, b;
	int fd, pid;

	for (;;) {
		fd = open(l->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
		if (fd < 0)
			return err_set(e, "%s: %s%s", l->lock_path, strerror(errno),
				       errno == EACCES ? "; another user's portald left it: remove it" :
							 "");
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			pid = read_pid(fd);
			close(fd);
			return err_set(e, "portal '%s' is in use by pid %d (%s): stop that portald, or choose another name",
				       name, pid, l->lock_path);
		}
		/* Its last holder may have unlinked it between our open and flock. */
		if (stat(l->lock_path, &a) == 0 && fstat(fd, &b) == 0 &&
		    a.st_ino == b.st_ino && a.st_dev == b.st_dev)
			break;
		close(fd);
	}
	l->stale_pid = read_pid(fd);
	if (ftruncate(fd, 0) < 0 || dprintf(fd, "%d\n", (int)getpid()) < 0) {
		err_set(e, "%s: %s", l->lock_path, strerror(errno));
		close(fd);
		return -1;
	}
	l->lock = fd;
	return 0;
}

/* Somebody without our lock (another ivshmem server) may be alive on @path. */
static int clear_path(const char *path, int type, struct err *e)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct ucred cred = { .pid = 0 };
	socklen_t len = sizeof(cred);
	struct stat st;
	int fd, ret;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_set(e, "%s: %s", path, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, "%s: there is a file that is no socket; remove it", path);
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(e, "socket: %s", strerror(errno));
	memcpy(sa.sun_path, path, strlen(path) + 1);
	ret = connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;
	if (ret == 0)
		getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
	close(fd);
	if (ret == -EACCES)
		return err_set(e, "%s: another user's socket: stop who serves it, or remove it",
			       path);
	/* EAGAIN: a full backlog, EPROTOTYPE: another kind of socket; both listen. */
	if (ret != -ECONNREFUSED && ret != -ENOENT) {
		char who[32] = "another program";

		if (cred.pid > 0)
			snprintf(who, sizeof(who), "pid %d", (int)cred.pid);
		return err_set(e, "%s: the socket is in use by %s: stop it, or choose another name",
			       path, who);
	}
	if (unlink(path) < 0 && errno != ENOENT)
		return err_set(e, "%s: cannot replace this stale socket: %s", path,
			       strerror(errno));
	return 0;
}

static int bind_end(struct listen_end *end, int type, const struct portal_conf *p,
		    struct err *e)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	mode_t mask;
	int ret;

	if (clear_path(end->path, type, e) < 0)
		return -1;
	end->fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (end->fd < 0)
		return err_set(e, "socket: %s", strerror(errno));
	memcpy(sa.sun_path, end->path, strlen(end->path) + 1);
	mask = umask(0777);	/* nobody connects before owner and mode are set */
	ret = bind(end->fd, (struct sockaddr *)&sa, sizeof(sa));
	umask(mask);
	if (ret < 0)
		return err_set(e, "%s: bind: %s", end->path, strerror(errno));
	end->bound = true;
	if ((p->owner != (uid_t)-1 || p->group != (gid_t)-1) &&
	    lchown(end->path, p->owner, p->group) < 0)
		return err_set(e, "%s: cannot give it to the owner or group asked for: %s; only root, or a member of the group, may",
			       end->path, strerror(errno));
	if (chmod(end->path, p->mode) < 0 || listen(end->fd, BACKLOG) < 0)
		return err_set(e, "%s: %s", end->path, strerror(errno));
	return 0;
}

static int open_end(struct listen_end *end, int type, const struct portal_conf *p,
		    const char *dir, const char *suffix, struct err *e)
{
	struct sockaddr_un sa;
	socklen_t len = sizeof(sa);

	end->fd = take_passed(p->name, type);
	if (end->fd < 0) {
		/* An earlier portald's, with those who wait in it. */
		end->fd = store_take(p->name, suffix);
		end->bound = end->kept = end->fd >= 0;
	}
	if (end->fd < 0) {
		if (listen_path(end->path, sizeof(end->path), dir, p->name, suffix, e) < 0 ||
		    bind_end(end, type, p, e) < 0)
			return -1;
		return store_put(p->name, suffix, &end->fd, 1) < 0 ?
		       err_set(e, "%s: the service manager does not keep it", end->path) : 0;
	}
	/* systemd's socket has systemd's path, owner and mode. */
	if (getsockname(end->fd, (struct sockaddr *)&sa, &len) == 0 &&
	    len > offsetof(struct sockaddr_un, sun_path))
		snprintf(end->path, sizeof(end->path), "%.*s",
			 (int)(len - offsetof(struct sockaddr_un, sun_path)), sa.sun_path);
	return 0;
}

int listen_open(struct listening *l, const struct portal_conf *p, const char *dir,
		struct err *e)
{
	memset(l, 0, sizeof(*l));
	l->guest.fd = l->host.fd = l->lock = -1;
	if (listen_path(l->lock_path, sizeof(l->lock_path), dir, p->name, "lock", e) < 0 ||
	    take_lock(l, p->name, e) < 0 ||
	    open_end(&l->guest, SOCK_STREAM, p, dir, "ivshmem", e) < 0 ||
	    open_end(&l->host, SOCK_SEQPACKET, p, dir, "sock", e) < 0) {
		listen_close(l, p->name, l->guest.kept || l->host.kept);
		return -1;
	}
	return 0;
}

static void close_end(struct listen_end *end, const char *name, const char *suffix, bool keep)
{
	if (end->bound && !keep) {
		unlink(end->path);
		store_drop(name, suffix);
	}
	if (end->fd >= 0)
		close(end->fd);
	end->fd = -1;
	end->bound = false;
}

void listen_close(struct listening *l, const char *name, bool keep)
{
	close_end(&l->guest, name, "ivshmem", keep);
	close_end(&l->host, name, "sock", keep);
	if (l->lock >= 0) {	/* last: whoever gets the lock finds no socket */
		if (!keep)
			unlink(l->lock_path);
		else if (ftruncate(l->lock, 0) < 0)	/* nothing went wrong */
			log_line(LOG_WARNING, name, "%s: %s", l->lock_path, strerror(errno));
		close(l->lock);
	}
	l->lock = -1;
}
