/* SPDX-License-Identifier: MIT */
/* reserve URI N: write N messages straight into shared memory, in one batch. Side 0. */
#include <stdio.h>
#include <stdlib.h>
#include <vmportal.h>

int main(int argc, char **argv)
{
	struct vmp_channel *ch;
	struct vmp *p;
	void *at;
	int i, r = 0;

	if (argc < 3 || vmp_open(&p, argv[1], 0) || vmp_channel_open(&ch, p, NULL)) {
		fprintf(stderr, "reserve: %s\n", argc < 3 ? "reserve URI N" : vmp_errmsg());
		return 1;
	}
	for (i = 0; i < atoi(argv[2]) && !r; i++) {
		r = vmp_reserve(ch, &at, 32, 10000);
		if (!r)
			r = vmp_commit(ch, (size_t)sprintf(at, "message %d", i), VMP_MORE);
	}
	vmp_flush(ch);
	vmp_channel_close(ch);
	vmp_close(p);
	return r ? 1 : 0;
}
