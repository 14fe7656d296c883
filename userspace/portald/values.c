// SPDX-License-Identifier: MIT
/*
 * The keys of a portal and how their values read; conf_set() is their only
 * way in, whether from a file or from the command line.
 */
#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <lib/layout.h>

#include "config.h"

int err_set(struct err *e, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	return -1;
}

/* "64M" -> bytes; 0 if it is no size. */
static uint64_t parse_size(const char *s)
{
	static const char unit[] = "KMGT";
	unsigned int shift = 0;
	const char *u;
	uint64_t v;
	char *end;

	if (!isdigit((unsigned char)*s))
		return 0;
	errno = 0;
	v = strtoull(s, &end, 10);
	if (errno)
		return 0;
	if (*end) {
		u = strchr(unit, toupper((unsigned char)*end));
		if (!u || (end[1] && strcasecmp(end + 1, "iB") != 0))
			return 0;
		shift = 10 * (unsigned int)(u - unit + 1);
	}
	return v > UINT64_MAX >> shift ? 0 : v << shift;
}

static void format_size(char *buf, size_t len, uint64_t v)
{
	static const char unit[] = "\0KMGT";
	unsigned int i = 0;

	while (v >= 1024 && v % 1024 == 0 && i < 4) {
		v /= 1024;
		i++;
	}
	snprintf(buf, len, "%" PRIu64 "%.1s", v, unit + i);
}

static int set_size(void *to, const char *val, unsigned int min, unsigned int max,
		    struct err *e)
{
	uint64_t v = parse_size(val), low;
	char a[24], b[24];

	if (!v)
		return err_set(e, "size: '%s' is not a size: give bytes, or a number with K, M, G or T",
			       val);
	if (v < SIZE_MIN)
		return err_set(e, "size: %s is too small: 64K is the least", val);
	if (v > SIZE_MAX_)
		return err_set(e, "size: %s is too large: 1T is the most", val);
	if (v & (v - 1)) {
		low = 1ULL << (63 - __builtin_clzll(v));
		format_size(a, sizeof(a), low);
		format_size(b, sizeof(b), low << 1);
		return err_set(e, "size: %s is not a power of two, which QEMU needs for a PCI BAR: take %s or %s",
			       val, a, b);
	}
	*(uint64_t *)to = v;
	return 0;
}

static int parse_number(const char *val, int base, unsigned long *out)
{
	char *end;

	if (!isdigit((unsigned char)*val))
		return -1;
	errno = 0;
	*out = strtoul(val, &end, base);
	return errno || *end ? -1 : 0;
}

static int set_number(void *to, const char *val, unsigned int min, unsigned int max,
		      struct err *e)
{
	unsigned long v;

	if (parse_number(val, 10, &v) < 0 || v < min || v > max)
		return err_set(e, "'%s' is not a number from %u to %u", val, min, max);
	*(unsigned int *)to = (unsigned int)v;
	return 0;
}

static int set_mode(void *to, const char *val, unsigned int min, unsigned int max,
		    struct err *e)
{
	unsigned long v;

	if (parse_number(val, 8, &v) < 0 || v > max)
		return err_set(e, "'%s' is not an octal mode such as 0660", val);
	*(unsigned int *)to = (unsigned int)v;
	return 0;
}

static int parse_bool(const char *val)
{
	static const char *const yes[] = { "yes", "true", "on", "1" };
	static const char *const no[] = { "no", "false", "off", "0" };
	size_t i;

	for (i = 0; i < 4; i++) {
		if (strcasecmp(val, yes[i]) == 0)
			return 1;
		if (strcasecmp(val, no[i]) == 0)
			return 0;
	}
	return -1;
}

static int set_bool(void *to, const char *val, unsigned int min, unsigned int max,
		    struct err *e)
{
	int v = parse_bool(val);

	if (v < 0)
		return err_set(e, "'%s' is neither yes nor no", val);
	*(unsigned int *)to = (unsigned int)v;
	return 0;
}

static int set_hugepages(void *to, const char *val, unsigned int min, unsigned int max,
			 struct err *e)
{
	int b = parse_bool(val);
	uint64_t v = b >= 0 ? (uint64_t)b : parse_size(val);

	if (b < 0 && (v < 65536 || (v & (v - 1))))
		return err_set(e, "'%s': give yes, no, or a page size such as 2M or 1G", val);
	*(uint64_t *)to = v;
	return 0;
}

static int set_owner(void *to, const char *val, unsigned int min, unsigned int max,
		     struct err *e)
{
	struct passwd *pw = getpwnam(val);
	unsigned long v;

	if (pw)
		v = pw->pw_uid;
	else if (parse_number(val, 10, &v) < 0 || v >= UINT_MAX)
		return err_set(e, "this machine has no user '%s': correct it, or create it with useradd",
			       val);
	*(uid_t *)to = (uid_t)v;
	return 0;
}

static int set_group(void *to, const char *val, unsigned int min, unsigned int max,
		     struct err *e)
{
	struct group *gr = getgrnam(val);
	unsigned long v;

	if (gr)
		v = gr->gr_gid;
	else if (parse_number(val, 10, &v) < 0 || v >= UINT_MAX)
		return err_set(e, "this machine has no group '%s': correct it, or create it with groupadd",
			       val);
	*(gid_t *)to = (gid_t)v;
	return 0;
}

#define KEY(name, set, min, max) \
	{ #name, set, offsetof(struct portal_conf, name), min, max }

static const struct key {
	const char *name;
	int (*set)(void *to, const char *val, unsigned int min, unsigned int max,
		   struct err *e);
	size_t offset;
	unsigned int min, max;
} keys[] = {
	KEY(size, set_size, 0, 0),
	KEY(vectors, set_number, 1, VECTORS_MAX),
	KEY(host_peers, set_number, 0, HOST_PEERS_MAX),
	KEY(max_guests, set_number, 1, 4096),
	KEY(first_guest_id, set_number, 0, ID_END),
	KEY(stall_timeout, set_number, 1, 86400),
	KEY(connect_rate, set_number, 0, 1000000),
	KEY(hugepages, set_hugepages, 0, 0),
	KEY(prealloc, set_bool, 0, 0),
	KEY(owner, set_owner, 0, 0),
	KEY(group, set_group, 0, 0),
	KEY(mode, set_mode, 0, 0777),
	KEY(managed, set_bool, 0, 0),
	KEY(sessions, set_number, 1, 65536),
	KEY(heartbeat, set_number, 100, 60000),
};

#define NKEYS (sizeof(keys) / sizeof(keys[0]))

static bool key_eq(const char *a, const char *b)
{
	for (; *a && *b; a++, b++)
		if (*a != *b && !(*a == '-' && *b == '_'))
			return false;
	return *a == *b;
}

static bool given(const struct portal_conf *p, const char *name)
{
	size_t i;

	for (i = 0; i < NKEYS; i++)
		if (strcmp(keys[i].name, name) == 0)
			return p->seen & (1ULL << i);
	return false;
}

int conf_set(struct portal_conf *p, const char *key, const char *value, struct err *e)
{
	struct err inner;
	size_t i;

	for (i = 0; i < NKEYS && !key_eq(key, keys[i].name); i++)
		;
	if (i == NKEYS)
		return err_set(e, "unknown key '%s' (portald.conf(5) lists them)", key);
	if (p->seen & (1ULL << i))
		return err_set(e, "%s is given twice", keys[i].name);
	p->seen |= 1ULL << i;
	if (keys[i].set((char *)p + keys[i].offset, value, keys[i].min, keys[i].max,
			&inner) == 0)
		return 0;
	if (keys[i].set == set_size)	/* its texts name the key */
		return err_set(e, "%s", inner.text);
	return err_set(e, "%s: %s", keys[i].name, inner.text);
}

/* Whether the region has room for its tables. */
static int check_layout(struct portal_conf *p, struct err *e)
{
	struct portal_super s = { 0 };

	if (!p->managed && (given(p, "sessions") || given(p, "heartbeat")))
		return err_set(e, "portal '%s': %s a managed portal's: add managed = yes", p->name,
			       given(p, "sessions") ? "sessions are" : "a heartbeat is");
	if (!p->managed)
		return 0;
	switch (layout_plan(&s, p->size, conf_peers(p), p->sessions, 0)) {
	case 0:
		p->session_rows = s.sessions;
		return 0;
	case -EFBIG:
		return err_set(e, "portal '%s': size is too small for a managed portal with %u guests: make it larger, or max_guests or sessions fewer",
			       p->name, p->max_guests);
	default:
		return err_set(e, "portal '%s': (max_guests + 1) x sessions is above %u, or max_guests above %u", p->name,
			       PORTAL_MAX_SESSIONS, PORTAL_MAX_PEERS - 1);
	}
}

int conf_finish(struct portal_conf *p, struct err *e)
{
	unsigned int room = QEMU_FDS / p->vectors, ids = conf_host_ids(p);

	if (!given(p, "size"))
		return err_set(e, "portal '%s' has no size: add size = 64M (a power of two)",
			       p->name);
	if (!given(p, "max_guests")) {
		p->max_guests = room > ids ? room - ids : 1;
		if (p->max_guests > 64)
			p->max_guests = 64;
	}
	if (!given(p, "first_guest_id"))
		p->first_guest_id = ids;
	if (p->first_guest_id < ids)
		return err_set(e, "portal '%s': first_guest_id %u is inside the host's block 0..%u",
			       p->name, p->first_guest_id, ids - 1);
	return check_layout(p, e);
}

/* Machines: the host, and each guest. */
unsigned int conf_peers(const struct portal_conf *p)
{
	return 1 + p->max_guests;
}

unsigned int conf_host_ids(const struct portal_conf *p)
{
	return p->host_peers + !!p->managed;
}

unsigned int conf_fds(const struct portal_conf *p)
{
	/*
	 * region, kept memory, lock, two listeners, inotify; a socket, a pidfd and the eventfds of
	 * each guest, sockets and pidfds of some whose connection is lost; a socket, the eventfds,
	 * a lifeline and perhaps a read-only region of each process, some who have not said hello
	 * or ask for status; and a gone guest's eventfds may stay in one half-sent announcement
	 * per client.
	 */
	return 6 + p->max_guests * (2 + 2 * p->vectors) + (p->managed ? 2 * conf_peers(p) : 0) +
	       conf_host_ids(p) * (3 + 2 * p->vectors) + 32;
}

bool conf_same(const struct portal_conf *a, const struct portal_conf *b)
{
	return a->size == b->size && a->vectors == b->vectors &&
	       a->host_peers == b->host_peers && a->max_guests == b->max_guests &&
	       a->first_guest_id == b->first_guest_id &&
	       a->stall_timeout == b->stall_timeout &&
	       a->connect_rate == b->connect_rate && a->hugepages == b->hugepages &&
	       a->prealloc == b->prealloc && a->owner == b->owner &&
	       a->group == b->group && a->mode == b->mode && a->managed == b->managed &&
	       a->sessions == b->sessions && a->heartbeat == b->heartbeat;
}
