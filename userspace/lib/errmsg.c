// SPDX-License-Identifier: MIT
/* The text of the last failure, one per thread. */
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

static __thread char text[512];
static __thread const char *last = "no error";

int vmp_fail(int err, const char *fmt, ...)
{
	va_list ap;
	char *c;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* Paths and servers' words are strangers': one line of plain characters. */
	for (c = text; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	last = text;
	return err;
}

int vmp_fail_quickly(int err, const char *literal)
{
	last = literal;
	return err;
}

VMP_API const char *vmp_errmsg(void)
{
	return last;
}

VMP_API const char *vmp_version(void)
{
	return VMP_VERSION;
}
