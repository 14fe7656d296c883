/* SPDX-License-Identifier: MIT */
/* What layout_check.c (machines, sessions) and layout_names.c (the directory) share. */
#ifndef VMP_LAYOUT_CHECK_H
#define VMP_LAYOUT_CHECK_H

#include "layout.h"

#define CHECK_FOUND	32	/* findings of one row; more say nothing new */

/**
 * struct check - a run of layout_check()
 * @base: the region
 * @s: its superblock, believed
 * @where, @index, @at: the row that is looked at now, and its place in the region
 * @found: what is wrong with it, not told yet
 * @damages: how many were told
 * @patience: waits left for those who are joining
 * @ever: some session row was used once
 */
struct check {
	void *base;
	struct portal_super s;
	layout_finding_fn fn;
	void *arg;
	const char *where;
	uint32_t index;
	uint64_t at;
	struct layout_finding found[CHECK_FOUND];
	unsigned int nfound;
	int damages;
	unsigned int patience;
	bool ever;
};

/* @at: within the row. */
void check_found(struct check *c, enum layout_damage id, size_t at, uint64_t value);
void check_flush(struct check *c);

/* Bytes @from .. @to of @row must be zero. Where the first is that is not, or 0. */
size_t check_zero(struct check *c, enum layout_damage id, const void *row, size_t from, size_t to);

/* @token must have been given out once. */
bool check_token(struct check *c, enum layout_damage id, size_t at, uint64_t token);

/*
 * Copies row @i of area @a, as it is after the change that is under way. A holder of the
 * directory's lock who died in the midst of it left nothing that is wrong.
 */
void check_read(struct check *c, unsigned int a, uint32_t i, void *to, size_t n, size_t life_at);

void check_judge_directory(struct check *c, const void *row);
void check_judge_object(struct check *c, const void *row);
void check_judge_use(struct check *c, const void *row);

/* Objects beside each other: names, places, users. 0 or -ENOMEM. */
int check_objects(struct check *c);

#endif /* VMP_LAYOUT_CHECK_H */
