/* SPDX-License-Identifier: MIT */
/*
 * One line per event on stderr, in the form its reader wants:
 *
 *	portald: demo: guest 9 joined (pid 123, qemu-system-x86)
 *	<6>demo: guest 9 joined ...		stderr is the journal
 *	{"time":...,"level":"info","portal":"demo","message":"guest 9 joined ..."}
 */
#ifndef PORTALD_LOG_H
#define PORTALD_LOG_H

#include <stdbool.h>
#include <syslog.h>

/* Detects the journal; @json overrides it. */
void log_init(bool json);

/* @portal may be NULL: the line concerns all of them. @prio: LOG_ERR .. LOG_DEBUG. */
void log_line(int prio, const char *portal, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
