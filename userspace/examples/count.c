/* SPDX-License-Identifier: MIT */
/* count URI: count up a number that processes of all machines share by its name. */
#include <errno.h>
#include <stdio.h>
#include <vmportal.h>

int main(int argc, char **argv)
{
	struct { char lock[VMP_LOCK_SIZE]; uint64_t n; } *s;
	struct vmp_named *obj;
	struct vmp *p;
	int r;

	if (argc != 2 || vmp_open(&p, argv[1], 0) ||
	    vmp_named_open(&obj, p, "count", VMP_CREATE, sizeof(*s), 0600)) {
		fprintf(stderr, "count: %s\n", argc != 2 ? "count URI" : vmp_errmsg());
		return 1;
	}
	s = vmp_named_data(obj, NULL);
	r = vmp_lock(p, s->lock, 10000);
	if (r == -EOWNERDEAD)	/* one store changes it: it is in order */
		r = vmp_lock_repaired(p, s->lock);
	if (!r) {
		printf("%llu\n", (unsigned long long)++s->n);
		r = vmp_unlock(p, s->lock);
	}
	vmp_named_close(obj);
	vmp_close(p);
	return r ? 1 : 0;
}
