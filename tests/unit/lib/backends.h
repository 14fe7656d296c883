/* SPDX-License-Identifier: MIT */
/* What the tests of the backends share: a directory, and opening things in it. */
#ifndef TESTS_UNIT_LIB_BACKENDS_H
#define TESTS_UNIT_LIB_BACKENDS_H

#include "test.h"

#include <fcntl.h>
#include <unistd.h>

#include <vmportal.h>

static char dir[] = "/tmp/vmportal-backends-XXXXXX";

/* @text with our directory in place of DIR. */
static inline const char *in_dir(const char *text)
{
	static char buf[8][512];
	static int k;
	char *s = buf[k++ % 8];
	const char *at = strstr(text, "DIR");

	snprintf(s, 512, "%.*s%s%s", (int)(at - text), text, dir, at + 3);
	return s;
}

/* Opening @uri fails with @err, and the text has @word. */
static inline void refused(const char *uri, unsigned int flags, int err, const char *word)
{
	struct vmp *p = (void *)1;
	int r = vmp_open(&p, uri, flags);

	if (r != err || !strstr(vmp_errmsg(), word))
		fail_msg("%s: %d '%s', not %d with '%s'", uri, r, vmp_errmsg(), err, word);
	assert_null(p);
	assert_null(strchr(vmp_errmsg(), '\n'));
}

static inline struct vmp_channel *side_of(struct vmp *p, unsigned int side)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .side = side };
	struct vmp_channel *ch;

	assert_int_equal(vmp_channel_open(&ch, p, &o), 0);
	return ch;
}

static inline int set_up(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static inline int tear_down(void **state)
{
	char cmd[100];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd);
}

#endif /* TESTS_UNIT_LIB_BACKENDS_H */
