// SPDX-License-Identifier: MIT
/* The text of the last failure, one per thread. */
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

static __thread char text[512] = "no error";

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
	return err;
}

VMP_API const char *vmp_errmsg(void)
{
	return text;
}

VMP_API const char *vmp_version(void)
{
	return VMP_VERSION;
}
