/* SPDX-License-Identifier: MIT */
/*
 * One line per event on stderr, in the form its reader wants:
 *
 *	portald: demo: guest 9 joined (pid 123, qemu-system-x86)
 *	<6>demo: guest 9 joined ...		stderr is the journal
 *	{"time":...,"level":"info","portal":"demo","event":"joined","kind":"guest",
 *	 "id":9,"pid":123,"command":"qemu-system-x86","message":"guest 9 joined ..."}
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

/* A line about one client; a log in JSON has these as members, too. */
struct log_client {
	const char *event;	/* "joined", "left", "cut", "deaf" */
	const char *kind;
	long id;		/* -1: it has none */
	int pid;
	const char *command;
};

void log_client(int prio, const char *portal, const struct log_client *c,
		const char *fmt, ...) __attribute__((format(printf, 4, 5)));

#endif
