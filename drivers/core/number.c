// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which N a portal gets, and which portal an N means now.
 *
 * A device that comes back with the same identity gets the same N for as long
 * as the module is loaded. There are PORTAL_MAX_NUMBERS; when every one has an
 * identity, the one that has been absent longest is given away.
 *
 * A slot belongs to a portal from portal_number_take() to portal_number_leave(),
 * that is while its name is in sysfs. Files that are still open on a portal
 * after that hold the portal, not the slot, so they block nobody. @portal is
 * what open() finds; it is cleared first thing in a removal.
 */
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "core.h"

struct portal_slot {
	char identity[PORTAL_IDENTITY_LEN];
	struct portal *portal;
	bool taken;
	u64 left;	/* order of leaving: smaller is longer absent */
};

static DEFINE_MUTEX(portal_slots_lock);
static struct portal_slot *portal_slots[PORTAL_MAX_NUMBERS];
static u64 portal_departures;

/* The slot to use for @identity, or a negative errno; under the lock. */
static int portal_slot_choose(const char *identity)
{
	int free = -1, oldest = -1, i;

	for (i = 0; i < PORTAL_MAX_NUMBERS; i++) {
		struct portal_slot *s = portal_slots[i];

		if (!s) {
			if (free < 0)
				free = i;
			continue;
		}
		if (!strcmp(s->identity, identity))
			return s->taken ? -EEXIST : i;
		if (!s->taken && (oldest < 0 || s->left < portal_slots[oldest]->left))
			oldest = i;
	}
	if (free >= 0)
		return free;
	return oldest >= 0 ? oldest : -ENOSPC;
}

/*
 * Gives @p its number; from here on open() finds it. -EEXIST: a portal with this
 * identity is there. -ENOSPC: PORTAL_MAX_NUMBERS portals are there.
 */
int portal_number_take(struct portal *p)
{
	struct portal_slot *s;
	int n;

	mutex_lock(&portal_slots_lock);
	n = portal_slot_choose(p->identity);
	if (n < 0)
		goto out;

	s = portal_slots[n];
	if (!s) {
		s = kzalloc(sizeof(*s), GFP_KERNEL);
		if (!s) {
			n = -ENOMEM;
			goto out;
		}
		portal_slots[n] = s;
	}
	strscpy(s->identity, p->identity, sizeof(s->identity));
	s->taken = true;
	s->portal = p;
	p->number = n;
out:
	mutex_unlock(&portal_slots_lock);
	return n < 0 ? n : 0;
}

/* open() finds it no longer. The number may be another's already: portal_reboot(). */
void portal_number_hide(struct portal *p)
{
	mutex_lock(&portal_slots_lock);
	if (portal_slots[p->number]->portal == p)
		portal_slots[p->number]->portal = NULL;
	mutex_unlock(&portal_slots_lock);
}

/* Its name is free for the next with this identity. */
void portal_number_leave(struct portal *p)
{
	struct portal_slot *s;

	mutex_lock(&portal_slots_lock);
	s = portal_slots[p->number];
	s->taken = false;
	s->left = ++portal_departures;
	mutex_unlock(&portal_slots_lock);
}

/*
 * The portal that @number means, with a reference, or NULL. The reference is
 * safe to take: a portal that is still in its slot has not been removed, so
 * its transport holds one.
 */
struct portal *portal_number_get(unsigned int number)
{
	struct portal *p = NULL;

	if (number >= PORTAL_MAX_NUMBERS)
		return NULL;

	mutex_lock(&portal_slots_lock);
	if (portal_slots[number])
		p = portal_slots[number]->portal;
	if (p)
		get_device(&p->dev);
	mutex_unlock(&portal_slots_lock);
	return p;
}

/* Module exit: no portal is left, and nobody can open any more. */
void portal_number_exit(void)
{
	int i;

	for (i = 0; i < PORTAL_MAX_NUMBERS; i++)
		kfree(portal_slots[i]);
}
