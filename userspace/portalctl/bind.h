/* SPDX-License-Identifier: MIT */
/* What binding has in common, whatever the bus (bind.c); and VMBus's (bind_vmbus.c). */
#ifndef PORTALCTL_BIND_H
#define PORTALCTL_BIND_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * struct bind_args - what the user said
 * @device: the device, or NULL with @class_id alone
 * @class_id: VMBus: a class GUID for the driver to take
 * @region, @ring: VMBus: bytes, 0: the driver's default
 * @region_set: --region was given, so that 0 means none
 * @force: even if somebody uses it
 */
struct bind_args {
	const char *device;
	const char *class_id;
	uint64_t region, ring;
	bool region_set;
	bool force;
};

/* The first line of a file, without its newline; false: there is none. */
bool read_line(const char *path, char *buf, size_t cap);

/* Write @text to a file of sysfs in one go: 0 or -errno. */
int write_name(const char *path, const char *text);

/* modprobe @module unless @driver (a directory in sysfs) is there. 0, or an exit code. */
int load_module(const char *driver, const char *module);

/* Prints the portal of the device @dir in sysfs. An exit code. */
int print_portal(const char *dir);

/* Does @what name a VMBus device: a GUID, or the /dev/portalN of one? Then its GUID. */
bool vmbus_device(const char *what, char *guid, size_t cap);

int bind_vmbus(const struct bind_args *a, const char *guid);
int unbind_vmbus(const char *guid, bool force);

#endif /* PORTALCTL_BIND_H */
