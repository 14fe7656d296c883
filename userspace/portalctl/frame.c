// SPDX-License-Identifier: MIT
/* Frames: what is exchanged is checked here, whoever sent it. */
#include <endian.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "frame.h"

_Static_assert(sizeof(struct frame) == 24, "struct frame is 24 bytes on the wire");

void frame_make(struct frame *f, enum frame_kind kind, enum frame_type type, uint64_t a)
{
	memset(f, 0, sizeof(*f));
	f->magic = htole32(FRAME_MAGIC);
	f->version = FRAME_VERSION;
	f->kind = kind;
	f->type = type;
	f->a = htole64(a);
}

int frame_send(struct vmp_channel *ch, enum frame_kind kind, enum frame_type type,
	       uint64_t a, const void *body, size_t len, int timeout_ms)
{
	return frame_send_two(ch, kind, type, a, 0, body, len, timeout_ms);
}

int frame_send_two(struct vmp_channel *ch, enum frame_kind kind, enum frame_type type,
		   uint64_t a, uint64_t b, const void *body, size_t len, int timeout_ms)
{
	struct {
		struct frame f;
		char body[FRAME_TEXT];
	} m;

	if (len > sizeof(m.body))
		len = sizeof(m.body);
	frame_make(&m.f, kind, type, a);
	m.f.b = htole64(b);
	if (len)
		memcpy(m.body, body, len);
	return vmp_send(ch, &m, sizeof(m.f) + len, 0, timeout_ms);
}

void clean_text(char *dst, size_t cap, const char *src, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len && n + 1 < cap && src[i]; i++)
		dst[n++] = src[i] >= ' ' && src[i] <= '~' ? src[i] : '?';
	dst[n] = 0;
}

static const char *kind_name(unsigned int kind)
{
	switch (kind) {
	case KIND_STREAM:
		return "send or recv";
	case KIND_PING:
		return "ping";
	case KIND_BENCH:
		return "bench";
	}
	return "a command that this version does not know";
}

int frame_parse(const void *msg, size_t len, enum frame_kind kind, struct frame *f)
{
	char text[FRAME_TEXT + 1];

	if (len >= sizeof(*f))
		memcpy(f, msg, sizeof(*f));
	if (len < sizeof(*f) || le32toh(f->magic) != FRAME_MAGIC)
		return fail(EX_PROTO, "the other end is not portalctl: another program has "
			    "this channel (or give both ends the same --offset and --length)");
	if (f->version != FRAME_VERSION)
		return fail(EX_PROTO, "the other end's portalctl speaks version %u, this one "
			    "version %u: install the same version on both machines",
			    f->version, FRAME_VERSION);
	f->a = le64toh(f->a);
	f->b = le64toh(f->b);
	if (f->type == FRAME_FAIL) {
		clean_text(text, sizeof(text), (const char *)msg + sizeof(*f), len - sizeof(*f));
		return fail(f->a >= EX_MISUSE && f->a <= EX_LOCAL ? (int)f->a : EX_PROTO,
			    "the other end gave up: %s", *text ? text : "no reason given");
	}
	if (f->kind != kind)
		return fail(EX_PROTO, "the other end runs portalctl %s, this one %s",
			    kind_name(f->kind), kind_name(kind));
	return 0;
}

void frame_fail(struct vmp_channel *ch, enum frame_kind kind, enum exit_code code,
		const char *text)
{
	frame_send(ch, kind, FRAME_FAIL, code, text, strlen(text), 1000);
}

static volatile sig_atomic_t caught;

/*
 * A signal ends a call only while it sleeps. One that comes a moment before would be
 * noticed at the timeout, or never; so from then on an alarm knocks every second.
 */
static void on_signal(int sig)
{
	caught = sig;
	alarm(1);
}

static void on_alarm(int sig)
{
	alarm(1);
}

void catch_signals(void)
{
	struct sigaction sa = { .sa_handler = on_signal };

	/* Once: a second signal ends the process at once. */
	sa.sa_flags = SA_RESETHAND;
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sa = (struct sigaction){ .sa_handler = on_alarm };
	sigaction(SIGALRM, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
}

bool interrupted(void)
{
	return caught;
}

void die_of_signal(void)
{
	if (!caught)
		return;
	signal(caught, SIG_DFL);
	raise(caught);
}
