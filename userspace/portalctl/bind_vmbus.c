// SPDX-License-Identifier: MIT
/*
 * portalctl bind and unbind for devices on VMBus: a vmportal device of the host's, which
 * the driver takes by itself, to give it other sizes; or one of another class, so that
 * its service can be driven from user space.
 *
 * The bus's driver_override names the driver for one device, whatever its class, and
 * keeps the others off while the device is nobody's.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "bind.h"
#include "tool.h"
#include "use.h"

#define BUS	"/sys/bus/vmbus/"
#define OURS	"portal_vmbus"
#define DRIVER	BUS "drivers/" OURS
#define GUID	36
/* The class that the driver takes by itself; portal_vmbus.h has it for guests and hosts. */
#define CLASS	"888b0701-2231-4fd5-9e9e-d5d6d0788d82"

static bool is_guid(const char *s)
{
	size_t i;

	for (i = 0; i < GUID; i++)
		if (i == 8 || i == 13 || i == 18 || i == 23 ? s[i] != '-' : !isxdigit((unsigned char)s[i]))
			return false;
	return !s[GUID];
}

/* The device directory of the bus that a path in sysfs goes through. */
static bool guid_in_path(const char *path, char *guid)
{
	const char *p = path;

	while ((p = strchr(p, '/'))) {
		size_t len = strcspn(++p, "/");

		if (len != GUID)
			continue;
		memcpy(guid, p, GUID);
		guid[GUID] = '\0';
		if (is_guid(guid))
			return true;
	}
	return false;
}

bool vmbus_device(const char *what, char *guid, size_t cap)
{
	char path[128], real[PATH_MAX];
	struct stat st;
	size_t i;

	if (cap <= GUID)
		return false;
	if (is_guid(what)) {
		for (i = 0; i <= GUID; i++)
			guid[i] = (char)tolower((unsigned char)what[i]);
		return true;
	}
	if (*what != '/' || stat(what, &st) || !S_ISCHR(st.st_mode))
		return false;
	snprintf(path, sizeof(path), "/sys/dev/char/%u:%u", major(st.st_rdev), minor(st.st_rdev));
	return realpath(path, real) && guid_in_path(real, guid);
}

/* "{GUID}" as sysfs shows it: the class of portals? */
static bool is_portal_class(const char *text)
{
	return *text == '{' && !strncasecmp(text + 1, CLASS, GUID);
}

static void driver_of(const char *dir, char *name, size_t cap)
{
	char path[PATH_MAX], target[PATH_MAX];
	ssize_t n;

	snprintf(path, sizeof(path), "%s/driver", dir);
	n = readlink(path, target, sizeof(target) - 1);
	target[n > 0 ? n : 0] = '\0';
	snprintf(name, cap, "%.60s", strrchr(target, '/') ? strrchr(target, '/') + 1 : target);
}

/* The sizes for the next bind, as the driver's file takes them. */
static int configure(const struct bind_args *a, const char *guid)
{
	char text[160];
	int n, err;

	if (!a->ring && !a->region_set)
		return 0;
	n = snprintf(text, sizeof(text), "%s", guid);
	if (a->ring)
		n += snprintf(text + n, sizeof(text) - n, " ring=%llu", (unsigned long long)a->ring);
	if (a->region_set)
		snprintf(text + n, sizeof(text) - n, " region=%llu", (unsigned long long)a->region);
	err = write_name(DRIVER "/config", text);
	if (err)
		return fail(EX_LOCAL, "%s: " OURS " does not take these sizes: %s (dmesg may say why)",
			    guid, strerror(-err));
	return 0;
}

/* Away from @driver, unless that would take something away from somebody. */
static int let_go(const char *dir, const char *driver, const char *guid, bool force)
{
	struct use use;
	char path[128];
	int err;

	if (strcmp(driver, OURS) && strcmp(driver, "uio_hv_generic") && !force)
		return fail(EX_LOCAL, "%s belongs to the driver %s; --force takes it away, with whatever depends on it (network, disks, time); nothing was changed",
			    guid, driver);
	if (!force) {
		err = use_claim(&use, dir);
		use_release(&use);
		if (err)
			return fail(EX_LOCAL, "%s; --force takes it away all the same", use.why);
	}
	snprintf(path, sizeof(path), BUS "drivers/%s/unbind", driver);
	err = write_name(path, guid);
	return err ? fail(EX_LOCAL, "%s: cannot unbind it from %s: %s", guid, driver, strerror(-err)) : 0;
}

/* Every free device of a class, now and later. */
static int bind_class(const struct bind_args *a)
{
	int err;

	if (!is_guid(a->class_id))
		return fail(EX_MISUSE, "--class wants a GUID, not \"%s\"", a->class_id);
	if (a->ring || a->region_set)
		return fail(EX_MISUSE, "--ring and --region are one device's: give its instance GUID too");
	err = write_name(DRIVER "/new_id", a->class_id);
	if (err && err != -EEXIST)
		return fail(EX_LOCAL, "%s: " OURS " does not take this class: %s", a->class_id, strerror(-err));
	return EX_DONE;
}

int bind_vmbus(const struct bind_args *a, const char *guid)
{
	char dir[128], path[192], driver[64], class_id[64] = "";
	int code, err;

	code = load_module(DRIVER, OURS);
	if (code)
		return code;
	if (!guid)
		return bind_class(a);
	snprintf(dir, sizeof(dir), BUS "devices/%s", guid);
	snprintf(path, sizeof(path), "%s/class_id", dir);
	if (!read_line(path, class_id, sizeof(class_id)))
		return fail(EX_OPEN, "%s: no such VMBus device; ls " BUS "devices", guid);
	if (a->class_id && (strlen(class_id) < GUID + 2 || strncasecmp(class_id + 1, a->class_id, GUID)))
		return fail(EX_MISUSE, "%s is of class %s, not %s", guid, class_id, a->class_id);
	driver_of(dir, driver, sizeof(driver));
	/* Nothing to change? */
	if (!strcmp(driver, OURS) && !a->ring && !a->region_set)
		return print_portal(dir);
	code = configure(a, guid);
	if (!code && *driver)
		code = let_go(dir, driver, guid, a->force);
	if (code)
		return code;
	snprintf(path, sizeof(path), "%s/driver_override", dir);
	err = write_name(path, OURS);
	if (!err)
		err = write_name(DRIVER "/bind", guid);
	if (!err)
		return print_portal(dir);
	/* Back to whose it was. */
	write_name(path, "\n");
	write_name(BUS "drivers_probe", guid);
	return fail(EX_LOCAL, "%s: " OURS " does not take it: %s; dmesg says why", guid, strerror(-err));
}

int unbind_vmbus(const char *guid, bool force)
{
	char dir[128], path[192], driver[64];
	int code;

	snprintf(dir, sizeof(dir), BUS "devices/%s", guid);
	if (access(dir, F_OK))
		return fail(EX_OPEN, "%s: no such VMBus device; ls " BUS "devices", guid);
	driver_of(dir, driver, sizeof(driver));
	if (strcmp(driver, OURS))
		return fail(EX_MISUSE, "%s is not bound to " OURS " but to %s", guid,
			    *driver ? driver : "no driver");
	code = let_go(dir, driver, guid, force);
	if (code)
		return code;
	snprintf(path, sizeof(path), "%s/driver_override", dir);
	/* Was it taken from another driver? It may have it back; ours would take its own again. */
	if (read_line(path, driver, sizeof(driver)) && !strcmp(driver, OURS)) {
		write_name(path, "\n");
		snprintf(path, sizeof(path), "%s/class_id", dir);
		if (read_line(path, driver, sizeof(driver)) && !is_portal_class(driver))
			write_name(BUS "drivers_probe", guid);
	}
	driver_of(dir, driver, sizeof(driver));
	printf("%s: %s\n", guid, *driver ? driver : "no driver");
	return EX_DONE;
}
