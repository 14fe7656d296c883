// SPDX-License-Identifier: MIT
/*
 * portalctl bind: make a virtio-pmem device a portal. portalctl unbind: give it back.
 * Devices of VMBus: bind_vmbus.c.
 *
 * A virtio-pmem device is a disk to everybody else. So bind first makes sure that nobody
 * uses it (use.c), and holds every disk on it exclusively until virtio_pmem has let go:
 * who wants to mount it meanwhile cannot.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bind.h"
#include "tool.h"
#include "use.h"

#define BUS		"/sys/bus/virtio/"
#define OURS		"portal_pmem"
#define STOCK		"virtio_pmem"
#define PMEM_ID		0x1b
#define NAME_LEN	32
#define TRIES		3

extern char **environ;

enum { OPT_REGION = 0x100, OPT_RING, OPT_CLASS };

bool read_line(const char *path, char *buf, size_t cap)
{
	FILE *f = fopen(path, "re");
	bool good = f && fgets(buf, (int)cap, f);

	if (f)
		fclose(f);
	if (good)
		buf[strcspn(buf, "\n")] = '\0';
	return good;
}

int write_name(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		err = -errno;
	close(fd);
	return err;
}

/* Writes a device's name to an attribute of a driver. */
static int tell_driver(const char *driver, const char *attr, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), BUS "drivers/%s/%s", driver, attr);
	return write_name(path, name);
}

static bool driver_there(const char *driver)
{
	char path[128];

	snprintf(path, sizeof(path), BUS "drivers/%s", driver);
	return !access(path, F_OK);
}

/* The driver of virtio device @name, or "". */
static const char *driver_of(const char *name)
{
	static char target[PATH_MAX];
	char path[128];
	ssize_t n;

	snprintf(path, sizeof(path), BUS "devices/%s/driver", name);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return "";
	target[n] = '\0';
	return strrchr(target, '/') ? strrchr(target, '/') + 1 : target;
}

static bool is_virtio_name(const char *s, size_t len)
{
	return len > 6 && len < NAME_LEN && !strncmp(s, "virtio", 6) &&
	       strspn(s + 6, "0123456789") == len - 6;
}

/* The virtioN that a path in /sys goes through. */
static bool name_in_path(const char *path, char *name)
{
	for (const char *p = path; (p = strchr(p, '/')); ) {
		size_t len = strcspn(++p, "/");

		if (is_virtio_name(p, len)) {
			snprintf(name, NAME_LEN, "%.*s", (int)len, p);
			return true;
		}
	}
	return false;
}

/* By the device node of a disk, a DAX device, or a portal. */
static bool name_of_node(const char *node, char *name)
{
	char path[128], real[PATH_MAX];
	struct stat st;

	if (stat(node, &st) || !(S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode)))
		return false;
	snprintf(path, sizeof(path), "/sys/dev/%s/%u:%u", S_ISBLK(st.st_mode) ? "block" : "char",
		 major(st.st_rdev), minor(st.st_rdev));
	return realpath(path, real) && name_in_path(real, name);
}

/* By the PCI device it sits on. */
static bool name_of_pci(const char *address, char *name)
{
	char pattern[128];
	glob_t g;
	bool good;

	if (strlen(address) > 32 || strspn(address, "0123456789abcdef:.") != strlen(address))
		return false;
	snprintf(pattern, sizeof(pattern), "/sys/bus/pci/devices/%s/virtio[0-9]*", address);
	good = !glob(pattern, 0, NULL, &g);
	if (good) {
		good = name_in_path(g.gl_pathv[0], name);
		globfree(&g);
	}
	return good;
}

/* What the user named, as the virtio bus calls it. An exit code with the text printed. */
static int resolve(const char *what, char *name)
{
	char path[128], id[32];

	if (*what == '/') {
		if (access(what, F_OK))
			return fail(EX_OPEN, "%s: %s", what, strerror(errno));
		if (!name_of_node(what, name))
			return fail(EX_MISUSE, "%s is not on a virtio device", what);
	} else if (is_virtio_name(what, strlen(what))) {
		snprintf(name, NAME_LEN, "%s", what);
	} else if (!name_of_pci(what, name)) {
		return fail(EX_MISUSE, "%s: no such device; give /dev/pmemN, virtioN (ls "
			    BUS "devices) or a PCI address like 0000:00:04.0", what);
	}

	snprintf(path, sizeof(path), BUS "devices/%s/device", name);
	if (!read_line(path, id, sizeof(id)))
		return fail(EX_OPEN, "%s: no such virtio device; ls " BUS "devices", name);
	if (strtoul(id, NULL, 16) != PMEM_ID)
		return fail(EX_MISUSE, "%s is a virtio device of id %s, not a virtio-pmem (0x%04x)",
			    name, id, PMEM_ID);
	return EX_DONE;
}

static int need_root(void)
{
	if (!geteuid())
		return EX_DONE;
	return fail(EX_LOCAL, "only root can bind and unbind drivers, and see who uses a device");
}

/* A rule of udev has no PATH, and the default one no sbin. */
static const char *const modprobes[] = { "modprobe", "/sbin/modprobe", "/usr/sbin/modprobe" };

int load_module(const char *driver, const char *module)
{
	char *argv[] = { (char []){ "modprobe" }, (char *)(uintptr_t)module, NULL };
	int status;
	pid_t pid;

	for (size_t i = 0; i < sizeof(modprobes) / sizeof(modprobes[0]); i++) {
		if (!access(driver, F_OK))
			return EX_DONE;
		if (!posix_spawnp(&pid, modprobes[i], NULL, NULL, argv, environ)) {
			waitpid(pid, &status, 0);
			break;
		}
	}
	if (!access(driver, F_OK))
		return EX_DONE;
	return fail(EX_OPEN, "the module %s is not loaded, and modprobe %s did not help", module, module);
}

int print_portal(const char *dir)
{
	char pattern[PATH_MAX];
	glob_t g;

	snprintf(pattern, sizeof(pattern), "%s/portal/portal[0-9]*", dir);
	if (glob(pattern, 0, NULL, &g))
		return fail(EX_LOCAL, "%s is bound, but has no portal; see dmesg", strrchr(dir, '/') + 1);
	printf("/dev/%s\n", strrchr(g.gl_pathv[0], '/') + 1);
	globfree(&g);
	return EX_DONE;
}

/* From nobody to our driver; 0 or -errno. */
static int hand_over(const char *name)
{
	int err = tell_driver(OURS, "allow", name);

	if (err)
		return err;
	err = tell_driver(OURS, "bind", name);
	if (err)
		tell_driver(OURS, "allow", "\n");
	return err;
}

/* Away from virtio_pmem, if nobody uses it. An exit code with the text printed. */
static int take_from_stock(const char *name)
{
	struct use use;
	char dir[128];
	int err;

	snprintf(dir, sizeof(dir), BUS "devices/%s", name);
	if (use_claim(&use, dir)) {
		use_release(&use);
		return fail(EX_LOCAL, "%s; nothing was changed", use.why);
	}
	err = tell_driver(STOCK, "unbind", name);
	use_release(&use);
	if (err)
		return fail(EX_LOCAL, "%s: cannot unbind it from " STOCK ": %s", name,
			    strerror(-err));
	return EX_DONE;
}

static int do_bind(const char *name)
{
	const char *driver;
	char dir[128];
	int code, err = 0;

	snprintf(dir, sizeof(dir), BUS "devices/%s", name);
	/* Binds nothing by itself: that is the module's promise. */
	if (load_module(BUS "drivers/" OURS, OURS))
		return EX_OPEN;
	for (int i = 0; i < TRIES; i++) {
		driver = driver_of(name);
		if (!strcmp(driver, OURS))
			return print_portal(dir);
		if (*driver && strcmp(driver, STOCK))
			return fail(EX_LOCAL, "%s belongs to the driver %s; unbind it from there first",
				    name, driver);
		code = *driver ? take_from_stock(name) : EX_DONE;
		if (code)
			return code;
		err = hand_over(name);
		if (!err)
			return print_portal(dir);
		/* Who loads virtio_pmem at this moment is quicker: once more. */
		if (strcmp(driver_of(name), STOCK))
			break;
	}
	if (driver_there(STOCK))
		tell_driver(STOCK, "bind", name);
	return fail(EX_LOCAL, "%s: " OURS " does not take it: %s (dmesg says why); it is %s's again",
		    name, strerror(-err), *driver_of(name) ? driver_of(name) : "nobody");
}

static int do_unbind(const char *name, bool force)
{
	struct use use;
	char dir[128];
	int err;

	snprintf(dir, sizeof(dir), BUS "devices/%s", name);
	if (strcmp(driver_of(name), OURS))
		return fail(EX_MISUSE, "%s is not bound to " OURS " but to %s", name,
			    *driver_of(name) ? driver_of(name) : "no driver");
	if (!force) {
		err = use_claim(&use, dir);
		use_release(&use);
		if (err)
			return fail(EX_LOCAL, "%s; --force takes it away all the same", use.why);
	}
	err = tell_driver(OURS, "unbind", name);
	if (err)
		return fail(EX_LOCAL, "%s: cannot unbind it: %s", name, strerror(-err));
	if (!driver_there(STOCK)) {
		printf("%s: no driver (modprobe " STOCK " makes it a disk again)\n", name);
		return EX_DONE;
	}
	err = tell_driver(STOCK, "bind", name);
	if (err)
		return fail(EX_LOCAL, "%s: " STOCK " does not take it: %s; see dmesg", name,
			    strerror(-err));
	printf("%s: " STOCK "\n", name);
	return EX_DONE;
}

static error_t parse(int key, char *arg, struct argp_state *st)
{
	struct bind_args *a = st->input;

	switch (key) {
	case 'f':
		a->force = true;
		return 0;
	case ARGP_KEY_ARG:
		if (st->arg_num)
			argp_error(st, "one device at a time");
		a->device = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		if (!a->class_id)
			argp_error(st, "which device?");
		return 0;
	case OPT_REGION:
		if (!parse_size(arg, &a->region) || a->region % 65536)
			argp_error(st, "--region wants a multiple of 64K, not \"%s\"", arg);
		a->region_set = true;
		return 0;
	case OPT_RING:
		if (!parse_size(arg, &a->ring) || !a->ring || a->ring % 4096)
			argp_error(st, "--ring wants a multiple of 4096 bytes, not \"%s\"", arg);
		return 0;
	case OPT_CLASS:
		a->class_id = arg;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static int run_bind(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "region", OPT_REGION, "BYTES", 0, "VMBus: how much memory to share with the host, "
		  "a multiple of 64K", 0 },
		{ "ring", OPT_RING, "BYTES", 0, "VMBus: bytes of each packet ring", 0 },
		{ "class", OPT_CLASS, "GUID", 0, "VMBus: take every free device of this class, now "
		  "and later; with DEVICE: only if it is of this class", 0 },
		{ "force", 'f', NULL, 0, "VMBus: even if another driver, or a process, has it", 0 },
		{ 0 }
	};
	static const struct argp argp = {
		options, parse, "DEVICE", "Make a device a portal. DEVICE is a virtio-pmem device "
		"(/dev/pmemN, virtioN or a PCI address), or a device of VMBus (its instance GUID, or "
		"the /dev/portalN that it is). Refused while anybody uses it. Prints the portal.\v"
		EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct bind_args a = { 0 };
	char name[NAME_LEN], guid[40];
	int code;

	parse_args(&argp, argc, argv, &a);
	code = need_root();
	if (!code && (!a.device || vmbus_device(a.device, guid, sizeof(guid))))
		return bind_vmbus(&a, a.device ? guid : NULL);
	if (!code && (a.region_set || a.ring || a.class_id || a.force))
		code = fail(EX_MISUSE, "--region, --ring, --class and --force are for devices of VMBus; "
			    "%s is none", a.device);
	if (!code)
		code = resolve(a.device, name);
	return code ? code : do_bind(name);
}

static int run_unbind(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "force", 'f', NULL, 0, "Even if a process has the portal open: its mappings "
		  "are revoked", 0 },
		{ 0 }
	};
	static const struct argp argp = {
		options, parse, "DEVICE", "Take a portal's device away from it: a virtio-pmem "
		"device is a disk again, a VMBus device its former driver's. DEVICE is /dev/portalN, "
		"virtioN, a PCI address, or a VMBus instance GUID.\v" EXIT_CODES_DOC, NULL, NULL, NULL
	};
	struct bind_args a = { 0 };
	char name[NAME_LEN], guid[40];
	int code;

	parse_args(&argp, argc, argv, &a);
	code = need_root();
	if (!code && vmbus_device(a.device, guid, sizeof(guid)))
		return unbind_vmbus(guid, a.force);
	if (!code)
		code = resolve(a.device, name);
	return code ? code : do_unbind(name, a.force);
}

const struct command cmd_bind = { "bind", "make a device a portal (virtio-pmem, VMBus)", run_bind };
const struct command cmd_unbind = { "unbind", "give it back", run_unbind };
