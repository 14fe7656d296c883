/* SPDX-License-Identifier: MIT */
/* The module hinder (tests/vm/hinder), which holds the kernel in the middle of something. */
#ifndef VMPORTAL_TESTS_HINDER_H
#define VMPORTAL_TESTS_HINDER_H

#include "guest.h"

#define HINDER		"/sys/module/hinder/parameters/"
#define PATIENCE	(PATIENT_MS / 10)

static MAYBE int hinder_number(const char *path)
{
	char text[16] = "";
	int file = open(path, O_RDONLY | O_CLOEXEC);

	if (file < 0 || read(file, text, sizeof(text) - 1) < 0)
		die(path);
	close(file);
	return atoi(text);
}

static MAYBE void hinder_set(const char *path, const char *text)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);

	if (file < 0 || write(file, text, strlen(text)) != (ssize_t)strlen(text))
		die(path);
	close(file);
}

/* One that came by before may not be counted. */
static MAYBE bool comes_to_wait(void)
{
	int n;

	for (n = 0; n < PATIENCE && !hinder_number(HINDER "waiting"); n++)
		usleep(10000);
	return n < PATIENCE;
}

/* Whether it still does. */
static MAYBE bool waits(void)
{
	return hinder_number(HINDER "waiting");
}

#endif /* VMPORTAL_TESTS_HINDER_H */
