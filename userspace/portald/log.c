// SPDX-License-Identifier: MIT
#include <json-c/json.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

static enum { FORM_PLAIN, FORM_JOURNAL, FORM_JSON } form;

/* systemd names the device and inode of the journal's stream in the environment. */
static bool stderr_is_journal(void)
{
	const char *env = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return env && sscanf(env, "%llu:%llu", &dev, &ino) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

void log_init(bool json)
{
	form = json ? FORM_JSON : stderr_is_journal() ? FORM_JOURNAL : FORM_PLAIN;
}

/*
 * A reader of our log that has stopped must not stop us: a line that does not fit
 * now is dropped, and the next one that does says how many were. (POLLOUT on a
 * pipe means room for PIPE_BUF bytes, more than a line has.)
 */
static bool room(void)
{
	static unsigned int lost;
	struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };

	if (poll(&p, 1, 0) == 0) {
		lost++;
		return false;
	}
	if (lost) {
		unsigned int n = lost;

		lost = 0;
		log_line(LOG_WARNING, NULL, "%u log lines were lost: nobody read them", n);
		return room();
	}
	return true;
}

static const char *level_name(int prio)
{
	switch (prio) {
	case LOG_ERR:		return "error";
	case LOG_WARNING:	return "warning";
	case LOG_NOTICE:	return "notice";
	case LOG_DEBUG:		return "debug";
	default:		return "info";
	}
}

static void add_str(struct json_object *o, const char *key, const char *value)
{
	json_object_object_add(o, key, json_object_new_string(value));
}

static void json_line(int prio, const char *portal, const struct log_client *c,
		      const char *text)
{
	struct json_object *o = json_object_new_object();
	struct timespec ts;
	char when[40];
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(when + strlen(when), sizeof(when) - strlen(when), ".%06ldZ",
		 ts.tv_nsec / 1000);
	add_str(o, "time", when);
	add_str(o, "level", level_name(prio));
	if (portal)
		add_str(o, "portal", portal);
	if (c) {
		add_str(o, "event", c->event);
		add_str(o, "kind", c->kind);
		if (c->id >= 0)
			json_object_object_add(o, "id", json_object_new_int64(c->id));
		json_object_object_add(o, "pid", json_object_new_int(c->pid));
		add_str(o, "command", c->command);
	}
	add_str(o, "message", text);
	dprintf(STDERR_FILENO, "%s\n",
		json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN |
						  JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
}

static void put(int prio, const char *portal, const struct log_client *c,
		const char *fmt, va_list ap)
{
	char text[1024];

	if (!room())
		return;
	vsnprintf(text, sizeof(text), fmt, ap);
	/* One write for one line: lines of other processes cannot get between. */
	if (form == FORM_JSON)
		json_line(prio, portal, c, text);
	else if (form == FORM_JOURNAL)
		dprintf(STDERR_FILENO, "<%d>%s%s%s\n", prio, portal ? portal : "",
			portal ? ": " : "", text);
	else
		dprintf(STDERR_FILENO, "portald: %s%s%s\n", portal ? portal : "",
			portal ? ": " : "", text);
}

void log_line(int prio, const char *portal, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(prio, portal, NULL, fmt, ap);
	va_end(ap);
}

void log_client(int prio, const char *portal, const struct log_client *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(prio, portal, c, fmt, ap);
	va_end(ap);
}
