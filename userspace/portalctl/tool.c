// SPDX-License-Identifier: MIT
/* Messages, exit codes, numbers: what every subcommand needs. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tool.h"

int fail(enum exit_code code, const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("portalctl: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return code;
}

enum exit_code exit_of(int err)
{
	switch (-err) {
	case ETIMEDOUT:
	case EAGAIN:
	case EPIPE:
	case ECONNRESET:
	case ENODEV:
		return EX_PEER;
	case EPROTO:
	case EPROTONOSUPPORT:
	case EBADMSG:
	case EMSGSIZE:
	case EUCLEAN:
		return EX_PROTO;
	case EINVAL:
		return EX_MISUSE;
	default:
		return EX_LOCAL;
	}
}

int fail_vmp(int err)
{
	const char *msg = vmp_errmsg();

	return fail(exit_of(err), "%s", *msg ? msg : strerror(-err));
}

bool parse_size(const char *s, uint64_t *v)
{
	unsigned int shift = 0;
	char *end;

	if (*s < '0' || *s > '9')
		return false;
	errno = 0;
	*v = strtoull(s, &end, 0);
	if (errno || end == s)
		return false;
	switch (*end) {
	case 'G':
	case 'g':
		shift += 10;
		/* fall through */
	case 'M':
	case 'm':
		shift += 10;
		/* fall through */
	case 'K':
	case 'k':
		shift += 10;
		end++;
	}
	if (*end || *v > UINT64_MAX >> shift)
		return false;
	*v <<= shift;
	return true;
}

bool parse_u32(const char *s, uint32_t *v)
{
	uint64_t big;

	if (!parse_size(s, &big) || big > UINT32_MAX)
		return false;
	*v = big;
	return true;
}

char *human_size(char *buf, size_t cap, uint64_t bytes)
{
	static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double v = bytes;
	size_t u = 0;

	while (v >= 1024 && u + 1 < sizeof(unit) / sizeof(*unit)) {
		v /= 1024;
		u++;
	}
	snprintf(buf, cap, v == (uint64_t)v ? "%.0f %s" : "%.1f %s", v, unit[u]);
	return buf;
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

const char *default_uri(void)
{
	const char *uri = getenv("VMPORTAL_URI");

	return uri && *uri ? uri : DEFAULT_URI;
}

bool is_uri(const char *s)
{
	static const char *const prefix[] = { "/dev/portal", "unix:", "file:", "memfd:", "fd:" };

	for (size_t i = 0; i < sizeof(prefix) / sizeof(*prefix); i++)
		if (!strncmp(s, prefix[i], strlen(prefix[i])))
			return true;
	return false;
}

static int cmp_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static int cmp_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

void sort_u64(uint64_t *v, size_t n)
{
	qsort(v, n, sizeof(*v), cmp_u64);
}

void sort_double(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), cmp_double);
}

size_t rank(size_t n, double p)
{
	/* Nearest rank: the smallest value that p percent are not above. */
	double r = p / 100.0 * n;
	size_t i = (size_t)r;

	if (i < r)
		i++;
	if (i)
		i--;
	return i < n ? i : n - 1;
}
