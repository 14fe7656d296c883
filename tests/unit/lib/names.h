/* SPDX-License-Identifier: MIT */
/* What the tests of objects by name share. */
#ifndef TESTS_UNIT_LIB_NAMES_H
#define TESTS_UNIT_LIB_NAMES_H

#include "house.h"

#define UNIT	65536U

static inline struct vmp_named *open_named(struct vmp *p, const char *name, unsigned int flags, uint64_t bytes)
{
	struct vmp_named *n;
	int r = vmp_named_open(&n, p, name, flags, bytes, 0600);

	if (r)
		fail_msg("%s: %d %s", name, r, vmp_errmsg());
	return n;
}

static inline void refuse(struct vmp *p, const char *name, unsigned int flags, uint64_t bytes, int err,
		   const char *word)
{
	struct vmp_named *n = (void *)1;

	ends_with(vmp_named_open(&n, p, name, flags, bytes, 0600), err, word);
	assert_null(n);
}

static inline unsigned int objects_there(struct vmp *p)
{
	struct vmp_object o;
	unsigned int i, n = 0;

	for (i = 0; !vmp_get_object(p, i, &o, sizeof(o)); i++)
		n += o.state >= VMP_OBJECT_MAKING && o.state <= VMP_OBJECT_UNLINKED;
	return n;
}

static inline unsigned int uses_there(struct vmp *p)
{
	struct vmp_use u;
	unsigned int i, n = 0;

	for (i = 0; !vmp_get_use(p, i, &u, sizeof(u)); i++)
		n += u.object != 0;
	return n;
}

#endif /* TESTS_UNIT_LIB_NAMES_H */
