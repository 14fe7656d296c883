// SPDX-License-Identifier: MIT
/*
 * The file: libinih parses it; its reader is ours, to know the line number
 * (distributions build libinih without it) and to see sections that have no
 * keys or come twice, which libinih passes over.
 */
#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

static bool name_ok(const char *s)
{
	if (!isalpha((unsigned char)*s) || strlen(s) > NAME_LEN_MAX)
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("-_.", *s))
			return false;
	return true;
}

int conf_check_name(const char *name, struct err *e)
{
	if (name_ok(name))
		return 0;
	return err_set(e, "'%s' is not a portal's name: a letter, then letters, digits, '-', '_', '.', %d at most",
		       name, NAME_LEN_MAX);
}

struct portal_conf *conf_add(struct config *c, const char *name, const char *where,
			     struct err *e)
{
	struct portal_conf **pp, *p;

	if (conf_check_name(name, e) < 0)
		return NULL;
	for (pp = &c->portals; *pp; pp = &(*pp)->next)
		if (strcmp((*pp)->name, name) == 0) {
			err_set(e, "portal '%s' is there already (%s): give each its own name",
				name, (*pp)->where);
			return NULL;
		}
	p = calloc(1, sizeof(*p));
	if (!p) {
		err_set(e, "out of memory");
		return NULL;
	}
	snprintf(p->name, sizeof(p->name), "%s", name);
	snprintf(p->where, sizeof(p->where), "%s", where);
	p->vectors = 4;
	p->host_peers = 8;
	p->stall_timeout = 30;
	p->heartbeat = 1000;
	p->connect_rate = 50;
	p->owner = (uid_t)-1;
	p->group = (gid_t)-1;
	p->mode = 0660;
	*pp = p;
	return p;
}

void conf_free(struct config *c)
{
	struct portal_conf *p;

	while ((p = c->portals)) {
		c->portals = p->next;
		free(p);
	}
	free(c->socket_dir);
	c->socket_dir = NULL;
}

struct load {
	FILE *f;
	const char *path;
	unsigned int line;
	struct config *c;
	struct portal_conf *cur;
	struct err *e;
	bool failed;
};

static void load_fail(struct load *l, const struct err *inner)
{
	if (!l->failed)
		err_set(l->e, "%s:%u: %s", l->path, l->line, inner->text);
	l->failed = true;
}

static void load_section(struct load *l, const char *s)
{
	const char *end = strchr(s, ']');
	char name[64], where[128];
	struct err inner;

	if (!end || (size_t)(end - s) >= sizeof(name)) {
		err_set(&inner, "a section is [NAME], NAME of at most %d characters",
			NAME_LEN_MAX);
		load_fail(l, &inner);
		return;
	}
	memcpy(name, s, (size_t)(end - s));
	name[end - s] = '\0';
	snprintf(where, sizeof(where), "%s:%u", l->path, l->line);
	l->cur = conf_add(l->c, name, where, &inner);
	if (!l->cur)
		load_fail(l, &inner);
}

static char *load_reader(char *buf, int n, void *arg)
{
	struct load *l = arg;
	struct err inner;
	size_t len;
	char *s;

	if (l->failed || !fgets(buf, n, l->f))
		return NULL;
	l->line++;
	len = strlen(buf);
	if (len + 1 == (size_t)n && buf[len - 1] != '\n') {
		err_set(&inner, "the line is too long: %d characters at most", n - 2);
		load_fail(l, &inner);
		return NULL;
	}
	for (s = buf; isspace((unsigned char)*s); s++)
		;
	/* An indented line would continue the one above; nothing here needs that. */
	memmove(buf, s, strlen(s) + 1);
	if (*buf == '[')
		load_section(l, buf + 1);
	return l->failed ? NULL : buf;
}

static int load_key(void *arg, const char *section, const char *key, const char *value)
{
	struct load *l = arg;
	struct err inner;

	if (l->failed)
		return 0;
	if (l->cur) {
		if (conf_set(l->cur, key, value, &inner) == 0)
			return 1;
	} else if (strcmp(key, "socket_dir") != 0) {
		err_set(&inner, "'%s' before the first [NAME]: only socket_dir may stand here",
			key);
	} else if (l->c->socket_dir || *value != '/') {
		err_set(&inner, "socket_dir: give one absolute path, once");
	} else {
		l->c->socket_dir = strdup(value);
		if (l->c->socket_dir)
			return 1;
		err_set(&inner, "out of memory");
	}
	load_fail(l, &inner);
	return 0;
}

int conf_load(struct config *c, const char *path, struct err *e)
{
	struct load l = { .path = path, .c = c, .e = e };
	struct portal_conf *p;
	struct err inner;
	int ret;

	l.f = fopen(path, "re");
	if (!l.f) {
		ret = errno == ENOENT ? -ENOENT : -1;
		err_set(e, "%s: %s", path, strerror(errno));
		return ret;
	}
	ret = ini_parse_stream(load_reader, &l, load_key, &l);
	if (ret > 0 && !l.failed) {
		err_set(&inner, "neither [NAME] nor KEY = VALUE");
		l.line = (unsigned int)ret;
		load_fail(&l, &inner);
	} else if (!l.failed && (ret < 0 || ferror(l.f))) {
		err_set(e, "%s: cannot read it: %s", path, strerror(errno));
		l.failed = true;
	}
	fclose(l.f);
	for (p = c->portals; p && !l.failed; p = p->next)
		if (conf_finish(p, &inner) < 0) {
			err_set(e, "%s: %s", p->where, inner.text);
			l.failed = true;
		}
	return l.failed ? -1 : 0;
}
