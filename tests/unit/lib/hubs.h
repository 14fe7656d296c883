/* SPDX-License-Identifier: MIT */
/* Channels by name, for tests: sessions of one process, in a house. */
#ifndef TESTS_UNIT_LIB_HUBS_H
#define TESTS_UNIT_LIB_HUBS_H

#include "house.h"

#include <lib/hub.h>

#define LANES	8U
#define CAP	8192U

/* A session, and what it has open. */
struct user {
	struct vmp *p;
	struct vmp_hub *h;
	struct vmp_channel *ch;
};

static uint64_t hub_offset;

static inline struct hub_place place_of(struct vmp *p)
{
	struct hub_place at = { .lanes = LANES, .capacity = CAP };
	uint64_t length;

	assert_int_equal(vmp_data(p, &at.offset, &length), 0);
	assert_true(layout_hub_size(LANES, CAP) <= length);
	assert_int_equal(vmp_join(p, &at.token), 0);
	return at;
}

static inline struct user new_user(void)
{
	return (struct user){ .p = house_open() };
}

static inline int try_hub(struct user *u, uint32_t flags)
{
	struct vmp_hub_opts o = { .size = sizeof(o), .flags = flags };
	struct hub_place at;
	int r;

	if (house.real) {
		o.lanes = LANES;
		o.capacity = CAP;
		r = vmp_hub_open(&u->h, u->p, "hub", &o);
	} else {
		at = place_of(u->p);
		r = hub_open_at(&u->h, u->p, &at, &o);
	}
	if (!r)
		hub_offset = u->h->place.offset;
	return r;
}

static inline struct user hub(uint32_t flags)
{
	struct user u = new_user();
	int r = try_hub(&u, flags), i;

	/* Portald needs a moment to prove that the last one is dead. */
	for (i = 0; house.real && r == -EBUSY && i < 1000; i++) {
		usleep(1000);
		r = try_hub(&u, flags);
	}
	if (r)
		fail_msg("hub: %d %s", r, vmp_errmsg());
	return u;
}

static inline int try_channel(struct user *u)
{
	struct vmp_channel_opts o = { .size = sizeof(o) };
	struct hub_place at;
	int r = 0, i;

	if (house.real) {
		/* Perhaps its hub is being made. */
		for (i = 0; i < 1000; i++) {
			r = vmp_channel_named(&u->ch, u->p, "hub", &o, 0);
			if (r != -ENOENT)
				break;
			usleep(10000);
		}
	} else {
		at = place_of(u->p);
		r = hub_channel_at(&u->ch, u->p, &at, &o);
	}
	if (!r)
		hub_offset = (uint64_t)((char *)(uintptr_t)u->ch->hub - (char *)u->p->base);
	return r;
}

static inline void open_channel(struct user *u)
{
	int r = try_channel(u);

	if (r)
		fail_msg("channel: %d %s", r, vmp_errmsg());
}

static inline struct user producer(void)
{
	struct user u = new_user();

	open_channel(&u);
	return u;
}

static inline void leave(struct user *u)
{
	vmp_channel_close(u->ch);
	vmp_hub_close(u->h);
	vmp_close(u->p);
	memset(u, 0, sizeof(*u));
}

/* End as by SIGKILL. */
static inline void perish(struct user *u)
{
	if (u->ch) {
		u->ch->pid = 0;
		vmp_channel_close(u->ch);
	}
	if (u->h) {
		u->h->pid = 0;
		vmp_hub_close(u->h);
	}
	vmp_close(u->p);
	memset(u, 0, sizeof(*u));
}

/* What stands in the object, by a mapping that nobody closes. */
static inline char *object(void)
{
	static struct vmp *eye;
	static pid_t of;

	if (!house.real)
		return house.base + house.s.area[PORTAL_AREA_DATA].offset;
	if (of != house.server) {
		vmp_close(eye);
		eye = house_open_with(VMP_RDONLY);
		of = house.server;
	}
	return (char *)eye->base + hub_offset;
}

static inline struct portal_hub *head(void)
{
	return (struct portal_hub *)(void *)object();
}

static inline struct portal_hub_lane *row(uint32_t i)
{
	return hub_row(object(), i);
}

static inline struct portal_chan_side *side(uint32_t lane, uint32_t i)
{
	return (struct portal_chan_side *)hub_area(object(), LANES, CAP, lane) + i;
}

static inline void send_text(struct user *u, const char *text)
{
	int r = vmp_send(u->ch, text, strlen(text), 0, 0);

	if (r)
		fail_msg("'%s': %d %s", text, r, vmp_errmsg());
}

/* Let both ends do what they do without waiting. */
static inline void pair(struct user *h, struct user *u)
{
	struct vmp_from from;
	int i;

	for (i = 0; i < 10 && vmp_channel_connect(u->ch, 0); i++)
		vmp_hub_peek(h->h, &(const void *){ NULL }, &from, 0);
	assert_int_equal(vmp_channel_connect(u->ch, 0), 0);
}

static inline ssize_t get(struct user *h, char *buf, struct vmp_from *from, int ms)
{
	ssize_t n = vmp_hub_recv(h->h, buf, 256, from, ms);

	buf[n > 0 ? n : 0] = 0;
	return n;
}

static inline struct vmp_from expect_flagged(struct user *h, const char *text, uint32_t flags)
{
	struct vmp_from from;
	char buf[257];
	ssize_t n;

	/* In which order the others come is their affair. */
	do {
		n = get(h, buf, &from, PATIENCE_MS);
	} while (!n && from.event == VMP_FROM_CAME);
	if (n < 0 || from.event || strcmp(buf, text) || from.flags != flags)
		fail_msg("'%s' expected, not %zd '%s', event %u, flags %u: %s", text, n, buf,
			 n < 0 ? 0 : from.event, n < 0 ? 0 : from.flags, n < 0 ? vmp_errmsg() : "");
	return from;
}

static inline struct vmp_from expect(struct user *h, const char *text)
{
	return expect_flagged(h, text, 0);
}

static inline struct vmp_from expect_event(struct user *h, uint32_t event)
{
	struct vmp_from from;
	char buf[257];
	ssize_t n = get(h, buf, &from, PATIENCE_MS);

	if (n || from.event != event)
		fail_msg("event %u expected, not %zd '%s', event %u: %s", event, n, buf,
			 n < 0 ? 0 : from.event, n < 0 ? vmp_errmsg() : "");
	return from;
}

static inline void expect_nothing(struct user *h)
{
	struct vmp_from from;
	char buf[257];
	ssize_t n = get(h, buf, &from, 30);

	if (n != -ETIMEDOUT)
		fail_msg("%zd '%s', event %u: %s", n, buf, n < 0 ? 0 : from.event, vmp_errmsg());
}

static inline int hub_up_real(void **state)
{
	(void)state;
	house.real = true;
	house.server = start_portald_with("--managed", "--host-peers=40");
	return house.server > 0 ? 0 : -1;
}

#define with_portald(test) { #test " with portald", test, hub_up_real, house_down_real, NULL }

#endif /* TESTS_UNIT_LIB_HUBS_H */
