/* SPDX-License-Identifier: MIT */
/* The subcommands that serve nothing: status, qemu-args, libvirt-xml. */
#ifndef PORTALD_QUERY_H
#define PORTALD_QUERY_H

#include <json-c/json.h>

#include "config.h"

/*
 * The status of portal @name as its running portald tells it: an object that the
 * caller puts, or NULL and @e. *@err: -errno, -ENOENT or -ECONNREFUSED if nobody
 * serves it.
 */
struct json_object *query_status(const char *dir, const char *name, int *err, struct err *e);

/* Each prints to stdout and returns an exit code; @dir NULL: found by itself. */
int cmd_status(const char *dir, const char *name, bool json);

enum paste { PASTE_QEMU, PASTE_LIBVIRT };
int cmd_paste(enum paste form, const struct config *c, const char *dir, const char *name);

/* The directory of the sockets of @name: given, where one is, or the default. */
const char *query_dir(const char *dir, const char *name);

#endif
