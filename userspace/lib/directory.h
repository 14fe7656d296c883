/* SPDX-License-Identifier: MIT */
/* Changing the directory of a managed portal: its lock, its redo record, its garbage. */
#ifndef VMP_DIRECTORY_H
#define VMP_DIRECTORY_H

#include "named.h"

#define DIR_PATIENCE_MS	10000	/* for who changes it now; vmportal_managed.h promises it */

/**
 * struct dir - the directory, while we hold its lock
 * @users: for each row of objects how often it is open, by those who live: 0, 1, 2 (or
 *	more), as of dir_lock()
 * @changed: something was committed: watchers are to be rung
 * @store, @count: the change that is being put together
 */
struct dir {
	struct vmp *p;
	const struct portal_super *s;
	struct portal_directory *shared;
	uint8_t *users;
	bool changed;
	struct portal_redo_store store[PORTAL_REDO_STORES];
	uint32_t count;
};

/*
 * Lock, finish the change of a dead one, clear what the dead have left open. On an error
 * it is not locked. -EPROTO: what is under way is not a change that can be.
 */
int dir_lock(struct dir *d, struct vmp *p);
void dir_unlock(struct dir *d);

/* To the change: @value to @word, which is one of objects or uses. */
void dir_put(struct dir *d, __le64 *word, uint64_t value);

/* Make the change, whole. -ESTALE: we do not have the lock any more. */
int dir_commit(struct dir *d);

/* Rows; @row is below the area's count. */
struct portal_object *dir_object(const struct dir *d, uint32_t row);
struct portal_use *dir_use(const struct dir *d, uint32_t row);

/* Whether an object of this life and flags is freed when nobody has it open. */
bool dir_needs_users(uint64_t life, uint32_t flags);

/*
 * The row that has @name, named or being made: its number and a checked copy of it; or
 * -ENOENT; -EPROTO: it is there, and not in order.
 */
int64_t dir_find(struct dir *d, const char name[64], struct portal_object *copy);

/* A row that is free, or -ENOSPC with a text. */
int64_t dir_free_object(struct dir *d);
int64_t dir_free_use(struct dir *d);

/* First place in the data where @length bytes are free: 0, -ENOSPC or -ENOMEM. */
int dir_place(struct dir *d, uint64_t length, uint64_t *offset);

#endif /* VMP_DIRECTORY_H */
