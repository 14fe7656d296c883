/* SPDX-License-Identifier: MIT */
#ifndef PORTALD_SERVE_H
#define PORTALD_SERVE_H

#include "config.h"

struct serve_args {
	struct config *config;
	const char *file;	/* read again at SIGHUP; NULL: no file */
	const char *only;	/* serve just this section, NULL: all */
	const char *dir;	/* --socket-dir, NULL: the file's or the default */
};

/* Serves until SIGTERM or SIGINT; returns an exit code. */
int serve(const struct serve_args *args);

#endif
