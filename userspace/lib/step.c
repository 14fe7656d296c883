// SPDX-License-Identifier: MIT
/* A file of its own: a program that has a vmp_step() does not get this one. */
#include "named.h"

void vmp_step(enum vmp_step s)
{
	(void)s;
}
