// SPDX-License-Identifier: MIT
/* A managed portal that is formatted anew while processes have it open. */
#include "house.h"

#include <vmportal_hub.h>

/* What somebody has who does not know that the portal is formatted anew. */
struct holder {
	struct vmp *p;
	struct vmp_named *n;
	struct vmp_hub *h;
	struct vmp_channel *ch;
	uint64_t token;
};

static void hold(struct holder *o, struct vmp *p, const char *object, const char *hub)
{
	o->p = p;
	assert_int_equal(vmp_join(p, &o->token), 0);
	assert_int_equal(vmp_named_open(&o->n, p, object, VMP_CREATE, 100, 0600), 0);
	assert_int_equal(vmp_hub_open(&o->h, p, hub, NULL), 0);
	assert_int_equal(vmp_lock(p, house_data(p, 0), 0), 0);
	assert_int_equal(vmp_unlock(p, house_data(p, 0)), 0);
}

#define ANEW	"open it anew"

/* Whatever needs a session. */
static void gets_nothing_any_more(struct holder *o)
{
	struct vmp_channel *ch;
	struct vmp_named *n;
	struct vmp_hub *h;

	ends_with(vmp_join(o->p, NULL), -ESTALE, ANEW);
	ends_with(vmp_lock(o->p, house_data(o->p, 0), 1000), -ESTALE, ANEW);
	ends_with(vmp_named_open(&n, o->p, "new", VMP_CREATE, 1, 0), -ESTALE, ANEW);
	ends_with(vmp_named_unlink(o->p, "old"), -ESTALE, ANEW);
	ends_with(vmp_hub_open(&h, o->p, "new", NULL), -ESTALE, ANEW);
	ends_with(vmp_channel_named(&ch, o->p, "new", NULL, 1000), -ESTALE, ANEW);
}

/* Whatever it had open. */
static void has_nothing_any_more(struct holder *o)
{
	struct vmp_object info;
	char buf[8];

	ends_with((int)vmp_hub_recv(o->h, buf, sizeof(buf), NULL, 5000), -ESTALE, ANEW);
	ends_with((int)vmp_recv(o->ch, buf, sizeof(buf), 5000), -ESTALE, ANEW);
	ends_with(vmp_send(o->ch, "x", 1, 0, 1000), -ESTALE, ANEW);
	ends_with(vmp_named_info(o->n, &info, sizeof(info)), -ESTALE, ANEW);
	ends_with(vmp_named_close(o->n), -ESTALE, ANEW);
	vmp_channel_close(o->ch);
	vmp_hub_close(o->h);
}

/* What goes by the tables as they were when the portal was opened. */
static void knows_other_tables(struct vmp *p, uint64_t token)
{
	struct vmp_channel *ch;
	struct vmp_session s;
	struct vmp_layout l;
	struct vmp_peer peer;

	ends_with(vmp_get_layout(p, &l, sizeof(l)), -ESTALE, ANEW);
	ends_with(vmp_get_peer(p, 0, &peer, sizeof(peer)), -ESTALE, ANEW);
	ends_with(vmp_get_session(p, 0, &s, sizeof(s)), -ESTALE, ANEW);
	ends_with(vmp_token_state(p, token), -ESTALE, ANEW);
	ends_with(vmp_watch_fd(p), -ESTALE, ANEW);
	ends_with(vmp_watch_clear(p), -ESTALE, ANEW);
	ends_with(vmp_fence(p, 1), -ESTALE, ANEW);
	ends_with(vmp_unlock(p, house_data(p, 0)), -ESTALE, ANEW);
	ends_with(vmp_channel_open(&ch, p, NULL), -ESTALE, ANEW);
}

/* Closed and opened anew, all is well; portald's rows are there again at its next beat. */
static void opened_anew(void)
{
	struct vmp *p = house_open();
	struct vmp_peer peer = { 0 };
	struct vmp_named *n;
	int64_t t = now_us();

	if (!house.real) {
		/* Those who have closed have ended their sessions, by these tables. */
		memset(house_row(0), 0, HOUSE_SESSIONS * sizeof(struct portal_session));
		house_join();
	}
	do {
		assert_int_equal(vmp_get_peer(p, 0, &peer, sizeof(peer)), 0);
		assert_true(now_us() - t < PATIENCE_MS * INT64_C(1000));
	} while (peer.state != VMP_STATE_ALIVE);
	assert_int_equal(vmp_join(p, NULL), 0);
	assert_int_equal(vmp_named_open(&n, p, "new", VMP_CREATE | VMP_EXCL, 1, 0600), 0);
	assert_int_equal(vmp_named_close(n), 0);
	house_check(p);
	vmp_close(p);
}

/* By another process, so to speak, and by the one that has all of that itself. */
static void formatted_anew(void **state)
{
	struct vmp_format_opts f = {
		.size = sizeof(f), .flags = VMP_FORMAT_FORCE | VMP_FORMAT_IN_USE,
	};
	struct holder a, b;
	struct vmp_layout l;

	hold(&a, house_open(), "a", "to-a");
	hold(&b, house_open(), "b", "to-b");
	assert_int_equal(vmp_channel_named(&a.ch, a.p, "to-b", NULL, 5000), 0);
	assert_int_equal(vmp_channel_named(&b.ch, b.p, "to-a", NULL, 5000), 0);
	assert_int_equal(vmp_get_layout(a.p, &l, sizeof(l)), 0);
	assert_true(vmp_watch_fd(a.p) >= 0);
	f.peers = l.peers;
	f.sessions = l.sessions;
	f.objects = l.objects;
	assert_int_equal(vmp_format(b.p, &f), 0);
	if (!house.real) {
		house_join();
		house_changed();
	}
	knows_other_tables(a.p, b.token);
	gets_nothing_any_more(&a);
	has_nothing_any_more(&a);
	/* Who did it knows the new ones. By portald's word he cannot join twice; if he can, then anew. */
	assert_int_equal(vmp_get_layout(b.p, &l, sizeof(l)), 0);
	if (house.real)
		gets_nothing_any_more(&b);
	else
		assert_int_equal(vmp_join(b.p, NULL), 0);
	has_nothing_any_more(&b);
	vmp_close(a.p);
	vmp_close(b.p);
	opened_anew();
}

/* With tables that are elsewhere: portald goes by those that it has made, and keeps away. */
static void formatted_otherwise(void **state)
{
	struct vmp_format_opts f = {
		.size = sizeof(f), .flags = VMP_FORMAT_FORCE | VMP_FORMAT_IN_USE,
		.peers = 4, .sessions = 8,
	};
	struct vmp *p = house_open();

	assert_int_equal(vmp_format(p, &f), 0);
	vmp_close(p);
	p = house_open();
	ends_with(vmp_join(p, NULL), -EUCLEAN, "stop portald and start it");
	vmp_close(p);
}

/* As somebody has it who stores where he should not. */
static struct portal_super *super_of(struct vmp *p)
{
	size_t size;
	void *base;

	assert_int_equal(vmp_map(p, &base, &size), 0);
	assert_int_equal(mprotect(base, sizeof(struct portal_super), PROT_READ | PROT_WRITE), 0);
	return base;
}

/* Other words in its superblock are no other superblock: whoever uses the portal goes on. */
static void scribbled_on(void **state)
{
	struct vmp *p = house_open();
	struct portal_super *s = super_of(p);
	uint64_t was = s->incarnation, i;
	struct vmp_layout l;
	struct holder o;

	hold(&o, p, "a", "to-a");
	for (i = 1; i < 4; i++) {
		__atomic_store_n(&s->incarnation, was + i, __ATOMIC_RELAXED);
		assert_int_equal(vmp_lock(p, house_data(p, 0), 0), 0);
		assert_int_equal(vmp_unlock(p, house_data(p, 0)), 0);
		assert_int_equal(vmp_get_layout(p, &l, sizeof(l)), 0);
		assert_int_equal(vmp_named_unlink(p, i == 1 ? "a" : "b"), i == 1 ? 0 : -ENOENT);
	}
	__atomic_store_n(&s->incarnation, was, __ATOMIC_RELAXED);
	assert_int_equal(vmp_named_close(o.n), 0);
	vmp_hub_close(o.h);
	house_check(p);
	vmp_close(p);
}

/* While it is formatted, and when it has been, with what is a superblock again. */
static void scribbled_on_and_formatted(void **state)
{
	struct vmp *p = house_open();
	struct portal_super *s = super_of(p);
	struct portal_super new = *s;
	struct vmp_layout l;

	__atomic_store_n(&s->incarnation, s->incarnation + 1, __ATOMIC_RELAXED);
	assert_int_equal(vmp_get_layout(p, &l, sizeof(l)), 0);
	__atomic_store_n(&s->magic, PORTAL_MAGIC_FORMATTING, __ATOMIC_RELAXED);
	ends_with(vmp_get_layout(p, &l, sizeof(l)), -ESTALE, ANEW);
	new.incarnation += 2;
	new.checksum = layout_super_checksum(&new);
	memcpy((char *)s + 8, (char *)&new + 8, sizeof(new) - 8);
	__atomic_store_n(&s->magic, PORTAL_MAGIC, __ATOMIC_RELEASE);
	ends_with(vmp_get_layout(p, &l, sizeof(l)), -ESTALE, ANEW);
	vmp_close(p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		in_house(formatted_anew),
		in_real(formatted_anew),
		in_real(formatted_otherwise),
		in_house(scribbled_on),
		in_real(scribbled_on),
		in_house(scribbled_on_and_formatted),
	};

	find_portald(argv[0]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
