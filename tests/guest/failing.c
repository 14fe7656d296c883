// SPDX-License-Identifier: MIT
/*
 * failing module FILE PARAMETERS | failing bind ADDRESS | failing file DEVICE |
 * failing managed DEVICE: every allocation fails once.
 *
 * Does one thing over and over, with its first allocation failing, then its second,
 * and so on until it is done without a failure (/proc/self/fail-nth; the kernel
 * needs CONFIG_FAULT_INJECTION and failslab). Each round must either work or fail
 * and leave nothing behind; whether it left something, kmemleak and the end of the
 * test say. TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "super.h"

#include <sys/syscall.h>

#define DRIVER		"/sys/bus/pci/drivers/portal_ivshmem"
#define FAILSLAB	"/sys/kernel/debug/failslab"
#define ROUNDS		5000

static const char *subject, *parameters;

static int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -1;
	ret = write(fd, text, strlen(text));
	close(fd);
	return ret < 0 ? -1 : 0;
}

/* Arms the nth allocation of this thread; nth 0 disarms. True: it was hit meanwhile. */
static bool arm(int nth)
{
	static int fd = -1;
	char text[16] = "";

	if (fd < 0)
		fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (nth) {
		snprintf(text, sizeof(text), "%d", nth);
		if (pwrite(fd, text, strlen(text), 0) < 0)
			die("fail-nth");
		return false;
	}
	if (pread(fd, text, sizeof(text) - 1, 0) < 0)
		die("fail-nth");
	if (pwrite(fd, "0", 1, 0) < 0)
		die("fail-nth");
	return strtol(text, NULL, 0) == 0;
}

/* Each: 0 done, and undone again; -1 failed. */
static int load(void)
{
	int fd = open(subject, O_RDONLY | O_CLOEXEC);
	int ret = syscall(SYS_finit_module, fd, parameters, 0);

	close(fd);
	return ret;
}

static void unload(void)
{
	if (syscall(SYS_delete_module, "portal_loopback", O_NONBLOCK))
		die("delete_module");
}

static int bind_driver(void)
{
	return put(DRIVER "/bind", subject);
}

static void unbind_driver(void)
{
	if (put(DRIVER "/unbind", subject))
		die("unbind");
}

static int use_file(void)
{
	int fd = open(subject, O_RDWR | O_CLOEXEC), efd, ret = -1;
	struct portal_info info = { .size = sizeof(info) };
	struct pollfd p = { .fd = fd, .events = POLLIN };
	volatile char *map;

	if (fd < 0)
		return -1;
	efd = eventfd(0, EFD_CLOEXEC);
	if (efd < 0 || ioctl(fd, PORTAL_INFO, &info) ||
	    (info.vectors && bind_eventfd(fd, 0, efd)) ||
	    set_flags(fd, PORTAL_FILE_ZERO_ON_REVOKE) || poll(&p, 1, 0) < 0)
		goto out;
	map = mmap(NULL, info.region_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		goto out;
	map[0] = 1;
	munmap((void *)map, info.region_size);
	ret = 0;
out:
	if (efd >= 0)
		close(efd);
	close(fd);
	return ret;
}

/* Two files of one session, and what each has mapped. */
static int use_session(int fd)
{
	int w = plain_window(fd, PORTAL_WINDOW_WRITE, SUPER_PROTECTED, PORTAL_UNIT), ret = -1;
	volatile char *a = MAP_FAILED, *b = MAP_FAILED;
	struct pollfd p = { .fd = w, .events = POLLPRI };

	if (w < 0)
		return -1;
	if (session(w, 0, PORTAL_SESSION_SILENT, NULL) || session(fd, 0, PORTAL_SESSION_SILENT, NULL) ||
	    poll(&p, 1, 0) < 0)
		goto out;
	a = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, w, 0);
	b = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, SUPER_PROTECTED);
	if (a == MAP_FAILED || b == MAP_FAILED)
		goto out;
	b[0] = 1;
	/* Half of it goes: the rest is a mapping of its own. */
	ret = munmap((void *)b, 4096);
out:
	if (a != MAP_FAILED)
		munmap((void *)a, 4096);
	if (b != MAP_FAILED)
		munmap((void *)b, 8192);
	close(w);
	return ret;
}

/* The superblock is there; the portal is raw before and after. */
static int use_managed(void)
{
	int fd = open(subject, O_RDWR | O_CLOEXEC), ret = -1;

	if (fd < 0)
		return -1;
	if (!set_mode(fd, PORTAL_MODE_MANAGED)) {
		ret = use_session(fd);
		if (set_mode(fd, PORTAL_MODE_RAW))
			die("back to raw");
	}
	close(fd);
	return ret;
}

static void undone(void)
{
}

static const struct {
	const char *word;
	int (*make)(void);
	void (*undo)(void);
} kinds[] = {
	{ "module", load, unload },
	{ "bind", bind_driver, unbind_driver },
	{ "file", use_file, undone },
	{ "managed", use_managed, undone },
};

int main(int argc, char **argv)
{
	int n, failed = 0, kind = -1, ret;
	bool hit = true;

	for (n = 0; argc > 2 && n < 4; n++) {
		if (!strcmp(argv[1], kinds[n].word))
			kind = n;
	}
	if (kind < 0) {
		fprintf(stderr, "usage: failing module FILE PARAMETERS | bind ADDRESS | file DEVICE | managed DEVICE\n");
		return 2;
	}
	start(500);
	subject = argv[2];
	parameters = argc > 3 ? argv[3] : "";
	if (access("/proc/thread-self/fail-nth", F_OK) ||
	    put(FAILSLAB "/ignore-gfp-wait", "N") || put(FAILSLAB "/verbose", "0")) {
		printf("1..0 # SKIP this kernel injects no failures\n");
		return 0;
	}

	if (kinds[kind].make == use_managed) {
		int fd = open_portal(subject, O_RDWR);

		make_managed(fd);
		if (!has_sessions(fd)) {
			set_mode(fd, PORTAL_MODE_RAW);
			return done();
		}
		if (set_mode(fd, PORTAL_MODE_RAW))
			die("back to raw");
		close(fd);
	}
	for (n = 1; hit && n < ROUNDS; n++) {
		arm(n);
		ret = kinds[kind].make();
		hit = arm(0);
		if (!ret)
			kinds[kind].undo();
		else
			failed++;
	}
	put(FAILSLAB "/ignore-gfp-wait", "Y");
	ok(!hit, "%s: %d allocations failed in turn, then none", argv[1], n - 2);
	ok(failed > 0, "%d of these rounds failed, as they may", failed);
	ok(!kinds[kind].make(), "it works afterwards");
	kinds[kind].undo();
	return done();
}
