// SPDX-License-Identifier: MIT
/* The text of the last failure, one per thread. */
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

static __thread char text[512];
static __thread const char *last = "no error";
static __thread unsigned int held;

int vmp_fail(int err, const char *fmt, ...)
{
	va_list ap;
	char *c;

	if (held)
		return err;
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
	if (!held)
		last = literal;
	return err;
}

void vmp_hold_errmsg(bool hold)
{
	held += hold ? 1 : -1U;
}

VMP_API const char *vmp_errmsg(void)
{
	return last;
}

VMP_API const char *vmp_version(void)
{
	return VMP_VERSION;
}
