// SPDX-License-Identifier: MIT
/*
 * Managed portals: the mode, formatting, and looking at the tables.
 *
 * The mode is what the superblock said when the portal was opened (or formatted through
 * this object). Places come from that copy, so that whatever is written to the region
 * later cannot lead an access outside.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "layout.h"

_Static_assert(VMP_AREAS == PORTAL_AREAS, "all areas are shown");
_Static_assert(VMP_STATE_NONE == PORTAL_LIFE_NONE && VMP_STATE_JOINING == PORTAL_LIFE_JOINING &&
	       VMP_STATE_ALIVE == PORTAL_LIFE_ALIVE && VMP_STATE_ASLEEP == PORTAL_LIFE_ASLEEP &&
	       VMP_STATE_DEAD == PORTAL_LIFE_DEAD, "states are those of the layout");
_Static_assert(VMP_OBJECT_NAMED == PORTAL_OBJECT_NAMED &&
	       VMP_OBJECT_UNLINKED == PORTAL_OBJECT_UNLINKED, "so are those of objects");

/* ---- The mode ---------------------------------------------------------------- */

/*
 * The first bytes of the region. Of a file by pread(), which makes no page where there is
 * a hole; of a device through a pipe: when it is unplugged at this moment that is EFAULT,
 * a look would be SIGBUS.
 */
static bool first_bytes(struct vmp *p, int fd, void *buf)
{
	struct stat st;
	int pipes[2];
	bool good;

	if (fd < 0) {
		layout_copy(buf, p->base, PORTAL_SUPER_SIZE);
		return true;
	}
	if (!fstat(fd, &st) && S_ISREG(st.st_mode))
		return pread(fd, buf, PORTAL_SUPER_SIZE, 0) == PORTAL_SUPER_SIZE;
	if (pipe2(pipes, O_CLOEXEC | O_NONBLOCK))
		return false;
	good = write(pipes[1], p->base, PORTAL_SUPER_SIZE) == PORTAL_SUPER_SIZE &&
	       read(pipes[0], buf, PORTAL_SUPER_SIZE) == PORTAL_SUPER_SIZE;
	close(pipes[0]);
	close(pipes[1]);
	return good;
}

/*
 * The first @bytes of our mapping are read-only. Where no kernel sees to it: a stray store
 * of this process would make the living dead, for everybody. Memory of the caller's own is
 * his affair; a huge page cannot be divided (EINVAL). 0 or -ENOMEM.
 */
static int guard(struct vmp *p, uint64_t bytes)
{
	char *base = p->base;

	if (p->ops->set_mode || p->flags & VMP_RDONLY || !p->mapped)
		return 0;
	if (bytes < p->guarded) {
		if (mprotect(base + bytes, p->guarded - bytes, PROT_READ | PROT_WRITE))
			return vmp_fail(-ENOMEM, "%s %s: cannot make its tables writable: %s", p->info.transport,
					p->info.identity, strerror(errno));
	} else if (bytes > p->guarded && mprotect(base, bytes, PROT_READ)) {
		return errno == EINVAL ? 0 :
			vmp_fail(-ENOMEM, "%s %s: cannot map its tables read-only: %s", p->info.transport,
				 p->info.identity, strerror(errno));
	}
	p->guarded = bytes;
	return 0;
}

/* Of a superblock that says where its tables are. */
static uint64_t tables(const struct portal_super *s, int err)
{
	return s && (!err || err == -EREMCHG) ? s->protected_size : 0;
}

/*
 * Other tables, or none: a session, and a place, in those that there were are nothing in
 * these. 0, or -ENOMEM: they can be written by mistake, but are in force.
 */
static int set_mode(struct vmp *p, struct portal_super *s, int err)
{
	__atomic_store_n(&p->token, 0, __ATOMIC_RELEASE);
	p->watch_place = -1;
	free(p->super);
	free(p->heard);
	p->heard = NULL;
	p->super = s;
	p->super_err = err;
	__atomic_store_n(&p->spoilt, 0, __ATOMIC_RELAXED);
	pthread_mutex_lock(&p->lock);
	p->info.mode = s ? VMP_MODE_MANAGED : VMP_MODE_RAW;
	pthread_mutex_unlock(&p->lock);
	return guard(p, tables(s, err));
}

int vmp_fix_mode(struct vmp *p, int fd)
{
	uint64_t first[PORTAL_SUPER_SIZE / 8];
	struct portal_super *s;
	int err;

	/* A window's first bytes are the applications', unless the kernel protects them. */
	if (p->info.caps & VMP_CAP_WINDOW && !p->protected_size)
		return 0;
	if (p->info.size < PORTAL_LAYOUT_MIN || !first_bytes(p, fd, first))
		return 0;
	/* layout_parse() would also recognise one that has only lost its magic. */
	if (first[0] != PORTAL_MAGIC && first[0] != PORTAL_MAGIC_FORMATTING)
		return 0;
	s = malloc(sizeof(*s));
	if (!s)
		return vmp_fail(-ENOMEM, "%s %s: out of memory", p->info.transport, p->info.identity);
	err = layout_parse(first, p->info.size, s, NULL, NULL);
	if (err == -ENODATA) {
		free(s);
		s = NULL;
	}
	return set_mode(p, s, err);
}

int vmp_obey_mode(struct vmp *p, bool managed)
{
	struct portal_super *s = NULL;

	/* A window of tables and not of all that they speak of is just memory. */
	if (!managed || (p->info.caps & VMP_CAP_WINDOW && (!p->super || p->super_err))) {
		return set_mode(p, NULL, 0);
	}
	if (p->super && (p->super_err || p->super->protected_size == p->protected_size))
		return 0;
	/* The kernel saw a superblock that is not there any more, or not so. */
	s = calloc(1, sizeof(*s));
	if (!s)
		return vmp_fail(-ENOMEM, "%s %s: out of memory", p->info.transport, p->info.identity);
	return set_mode(p, s, -EUCLEAN);
}

static int unknown_features(struct vmp *p, uint64_t incompat)
{
	return vmp_fail(-EPROTONOSUPPORT, "%s %s: its layout has features that this version does not know (bits 0x%" PRIx64 "); update libvmportal",
			p->info.transport, p->info.identity, (uint64_t)(incompat & ~PORTAL_INCOMPAT_KNOWN));
}

int vmp_managed(struct vmp *p)
{
	int r = vmp_not_a_child(p);

	if (r)
		return r;
	if (!p->super)
		return vmp_fail(-ENODATA, "%s %s: not a managed portal; 'portalctl format' makes it one",
				p->info.transport, p->info.identity);
	if (p->super_err == -EPROTONOSUPPORT)
		return unknown_features(p, p->super->incompat);
	/* Of vmp_obey_mode(): who looks at the bytes sees nothing wrong. */
	if (p->super_err == -EUCLEAN && !p->super->magic)
		return vmp_fail(-EUCLEAN, "%s %s: its kernel knows other tables than there are now, or none; 'portalctl mode URI managed' has it look anew",
				p->info.transport, p->info.identity);
	if (p->super_err == -EUCLEAN)
		return vmp_fail(-EUCLEAN, "%s %s: its superblock is damaged; 'portalctl check' says how, 'portalctl format --force' makes a new one",
				p->info.transport, p->info.identity);
	return 0;
}

/* What somebody has merely scribbled over the superblock changes nothing. */
int vmp_same_tables(struct vmp *p)
{
	/* With one that vmp_obey_mode() made up nobody knows. */
	if (!p->super || !p->super->magic)
		return vmp_fail(-ESTALE, "%s %s: is not taken for a managed portal any more; close it and open it anew",
				p->info.transport, p->info.identity);
	if (!layout_formatted(p->base, p->super->incarnation, &p->spoilt, NULL))
		return 0;
	return vmp_fail(-ESTALE, "%s %s: was formatted anew since it was opened; close it and open it anew",
			p->info.transport, p->info.identity);
}

int vmp_data(struct vmp *p, uint64_t *offset, uint64_t *length)
{
	int r = p->super ? vmp_managed(p) : vmp_not_a_child(p);

	*offset = 0;
	*length = p->info.size;
	if (r || !p->super)
		return r;
	if (p->super_err)
		return vmp_fail(-EUCLEAN, "%s %s: its superblock is damaged; 'portalctl check' says how",
				p->info.transport, p->info.identity);
	*offset = p->super->area[PORTAL_AREA_DATA].offset;
	*length = p->super->area[PORTAL_AREA_DATA].length;
	return 0;
}

/* ---- Formatting -------------------------------------------------------------- */

/* The structure as this version knows it; what the caller does not know of it is 0. */
static int format_opts(const struct vmp_format_opts *in, struct vmp_format_opts *o)
{
	memset(o, 0, sizeof(*o));
	if (in && in->size < sizeof(*o))
		return vmp_fail(-EINVAL, "vmp_format: size %u is not that of struct vmp_format_opts", in->size);
	if (in)
		memcpy(o, in, sizeof(*o));
	if (o->flags & ~(VMP_FORMAT_FORCE | VMP_FORMAT_IN_USE) || o->reserved)
		return vmp_fail(-EINVAL, "vmp_format: undefined flags 0x%x, or reserved is not 0", o->flags);
	if (!memchr(o->name, 0, sizeof(o->name)))
		return vmp_fail(-ENAMETOOLONG, "vmp_format: a name has at most 63 bytes");
	if (!layout_is_text(o->name, sizeof(o->name)))
		return vmp_fail(-EINVAL, "vmp_format: a name is UTF-8 without control characters, and zeroes behind it");
	return 0;
}

static unsigned int living_peers(struct vmp *p, const struct portal_super *s)
{
	unsigned int n = 0;
	struct portal_peer row;
	uint32_t i;

	for (i = 0; i < s->peers; i++) {
		layout_read(&row, layout_row(p->base, s, PORTAL_AREA_PEERS, i), sizeof(row),
			    offsetof(struct portal_peer, life));
		n += row.claim && row.claim != row.dead && life_low(row.life) != PORTAL_LIFE_DEAD;
	}
	return n;
}

/* Whether what is there may be overwritten; @new: what is to come. */
static int may_format(struct vmp *p, const struct vmp_format_opts *o,
		      const struct portal_super *new)
{
	struct portal_super old;
	uint64_t word, at;
	unsigned int n;
	int err;

	err = layout_parse(p->base, p->info.size, &old, NULL, NULL);
	n = !err || err == -EREMCHG ? living_peers(p, &old) : 0;
	if (n && !(o->flags & VMP_FORMAT_IN_USE))
		return vmp_fail(-EBUSY, "%s %s: %u peers are there that are not known to be dead", p->info.transport,
				p->info.identity, n);
	if (o->flags & VMP_FORMAT_FORCE)
		return 0;
	if (err == -EPROTONOSUPPORT)
		return vmp_fail(-EEXIST, "%s %s: is formatted already, with features that this version does not know (bits 0x%" PRIx64 ")",
				p->info.transport, p->info.identity,
				(uint64_t)(old.incompat & ~PORTAL_INCOMPAT_KNOWN));
	if (err != -ENODATA)
		return vmp_fail(-EEXIST, "%s %s: is formatted already%s", p->info.transport, p->info.identity,
				err ? ", though damaged or by another version" : "");
	for (at = 0; at < layout_meta_size(new); at += 8) {
		layout_copy(&word, (char *)p->base + at, 8);
		if (word)
			return vmp_fail(-ENOTEMPTY, "%s %s: is not empty: byte %" PRIu64 " and perhaps others up to %" PRIu64 " would be overwritten",
					p->info.transport, p->info.identity, at, layout_meta_size(new));
	}
	return 0;
}

static int fill_in(struct portal_super *s, const struct vmp_format_opts *o)
{
	static const uint8_t none[16];
	struct timespec now;

	do {
		if (getrandom(&s->incarnation, sizeof(s->incarnation), 0) < 0 ||
		    getrandom(s->uuid, sizeof(s->uuid), 0) < 0)
			return vmp_fail(-errno, "getrandom: %s", strerror(errno));
	} while (!s->incarnation);
	s->uuid[6] = (s->uuid[6] & 0x0f) | 0x40;	/* RFC 9562: version 4 */
	s->uuid[8] = (s->uuid[8] & 0x3f) | 0x80;
	if (memcmp(o->uuid, none, sizeof(none)))
		memcpy(s->uuid, o->uuid, sizeof(s->uuid));
	memcpy(s->name, o->name, sizeof(s->name));
	snprintf(s->creator, sizeof(s->creator), "libvmportal %s", VMP_VERSION);
	clock_gettime(CLOCK_REALTIME, &now);
	s->created = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	return 0;
}

static int plan(struct vmp *p, const struct vmp_format_opts *o, struct portal_super *s)
{
	int r = layout_plan(s, p->info.size, o->peers, o->sessions, o->objects);

	if (r == -EFBIG)
		return vmp_fail(r, "%s %s: %" PRIu64 " bytes are too small for that many peers, sessions and objects%s",
				p->info.transport, p->info.identity, p->info.size,
				p->info.size < PORTAL_LAYOUT_MIN ? "; 192K is the least" : "");
	if (r)
		return vmp_fail(r, "vmp_format: at most %u peers, %u sessions in all, %u objects",
				PORTAL_MAX_PEERS, PORTAL_MAX_SESSIONS, PORTAL_MAX_OBJECTS);
	return 0;
}

VMP_API int vmp_format(struct vmp *p, const struct vmp_format_opts *in)
{
	struct vmp_format_opts o;
	struct portal_super *s;
	uint64_t was;
	int r = format_opts(in, &o);

	if (!r)
		r = vmp_not_a_child(p);
	if (r)
		return r;
	if (p->flags & VMP_RDONLY)
		return vmp_fail(-EACCES, "%s %s: opened read-only", p->info.transport, p->info.identity);
	s = calloc(1, sizeof(*s));
	if (!s)
		return vmp_fail(-ENOMEM, "vmp_format: out of memory");
	r = plan(p, &o, s);
	if (!r) {
		layout_copy(&was, p->base, sizeof(was));
		r = may_format(p, &o, s);
	}
	if (!r)
		r = fill_in(s, &o);
	/* A kernel that protects the tables must let go of them first. */
	if (!r && p->protected_size)
		r = p->ops->set_mode(p, false);
	if (!r)
		r = guard(p, 0);
	if (!r && layout_write(p->base, s, was))
		r = vmp_fail(-EBUSY, "%s %s: somebody else writes to its beginning at this moment",
			     p->info.transport, p->info.identity);
	if (r) {
		free(s);
		guard(p, tables(p->super, p->super_err));
		return r;
	}
	r = set_mode(p, s, 0);
	if (p->ops->set_mode && p->ops->set_mode(p, true))
		vmp_obey_mode(p, false);
	return r;
}

VMP_API int vmp_set_mode(struct vmp *p, uint32_t mode)
{
	struct portal_super *s;
	int r = vmp_not_a_child(p);

	if (mode > VMP_MODE_MANAGED)
		return vmp_fail(-EINVAL, "vmp_set_mode: no such mode: %u", mode);
	if (r)
		return r;
	if (mode == VMP_MODE_RAW) {
		r = p->ops->set_mode ? p->ops->set_mode(p, false) : 0;
		return r ? r : set_mode(p, NULL, 0);
	}
	s = malloc(sizeof(*s));
	if (!s)
		return vmp_fail(-ENOMEM, "vmp_set_mode: out of memory");
	r = layout_parse(p->base, p->info.size, s, NULL, NULL);
	if (r == -EPROTONOSUPPORT)
		unknown_features(p, s->incompat);
	else if (r)
		r = vmp_fail(r == -EREMCHG ? -EUCLEAN : r, "%s %s: %s", p->info.transport,
			     p->info.identity, r == -ENODATA ? "has no superblock; 'portalctl format' makes one" :
			     "its superblock is damaged; 'portalctl check' says how");
	if (!r && p->ops->set_mode)
		r = p->ops->set_mode(p, true);
	if (!r)
		return set_mode(p, s, 0);
	free(s);
	return r;
}

/* ---- Looking ----------------------------------------------------------------- */

/* Strangers' text: what is not UTF-8, or would move a terminal's cursor, becomes '?'. */
static void text_out(char *to, const char *from, size_t size)
{
	size_t i;

	memcpy(to, from, size);
	to[size - 1] = 0;
	i = strlen(to);
	memset(to + i, 0, size - i);
	if (layout_is_text(to, size))
		return;
	for (i = 0; to[i]; i++)
		if ((unsigned char)to[i] < ' ' || (unsigned char)to[i] >= 0x7f)
			to[i] = '?';
}

/* As much of @from as the caller knows; the rest of what it knows is 0. */
static int give(void *to, size_t to_size, const void *from, size_t from_size)
{
	memset(to, 0, to_size);
	memcpy(to, from, to_size < from_size ? to_size : from_size);
	return 0;
}

/* Row @row of area @a, copied; @n bytes, its life word at @life_at. */
static int get_row(struct vmp *p, unsigned int a, uint32_t row, void *to, size_t n, size_t life_at)
{
	int r = vmp_managed(p);

	if (!r)
		r = vmp_same_tables(p);
	if (r)
		return r;
	if (row >= p->super->area[a].count)
		return vmp_fail(-EINVAL, "%s %s: no row %u; there are %u", p->info.transport,
				p->info.identity, row, p->super->area[a].count);
	layout_read(to, layout_row(p->base, p->super, a, row), n, life_at);
	return 0;
}

static void directory_out(struct vmp_layout *l, const struct portal_directory *d)
{
	l->generation = d->generation;
	l->lock_owner = d->lock.owner;
	l->lock_previous = d->lock.previous;
	l->lock_count = d->lock.count;
	l->lock_flags = d->lock.flags;
	l->redo = d->redo.state;
	l->redo_count = d->redo.state ? d->redo.count : 0;
}

VMP_API int vmp_get_layout(struct vmp *p, struct vmp_layout *out, size_t size)
{
	struct vmp_layout l = { .flags = p->super_err ? VMP_LAYOUT_DAMAGED : 0 };
	const struct portal_super *s = p->super;
	struct portal_directory d;
	unsigned int a;
	int r = get_row(p, PORTAL_AREA_DIRECTORY, 0, &d, sizeof(d),
			offsetof(struct portal_directory, generation));

	if (r)
		return r;
	l.version = s->version;
	l.size = s->size;
	l.protected_size = s->protected_size;
	l.incarnation = s->incarnation;
	l.created = s->created;
	l.incompat = s->incompat;
	l.compat = s->compat;
	l.peers = s->peers;
	l.sessions = s->sessions;
	l.objects = s->area[PORTAL_AREA_OBJECTS].count;
	l.uses = s->area[PORTAL_AREA_USES].count;
	memcpy(l.uuid, s->uuid, sizeof(l.uuid));
	text_out(l.name, s->name, sizeof(l.name));
	text_out(l.creator, s->creator, sizeof(l.creator));
	for (a = 0; a < VMP_AREAS; a++) {
		l.area[a].offset = s->area[a].offset;
		l.area[a].length = s->area[a].length;
		l.area[a].stride = s->area[a].stride;
		l.area[a].count = s->area[a].count;
	}
	directory_out(&l, &d);
	return give(out, size, &l, sizeof(l));
}

/* What its words say together; a state that there is not is nobody's. */
static uint32_t peer_state(const struct portal_peer *row)
{
	uint32_t state = life_low(row->life);

	if (state > PORTAL_LIFE_DEAD)
		return VMP_STATE_NONE;
	if (!row->claim)
		return state ? VMP_STATE_DEAD : VMP_STATE_NONE;
	if (row->claim == row->dead)
		return VMP_STATE_DEAD;
	if (state == PORTAL_LIFE_DEAD || !state)
		return VMP_STATE_JOINING;	/* claimed, and nothing more yet */
	if (row->claim == row->suspect && state == PORTAL_LIFE_ALIVE)
		return VMP_STATE_SUSPECT;
	return state;
}

VMP_API int vmp_get_peer(struct vmp *p, uint32_t slot, struct vmp_peer *out, size_t size)
{
	struct portal_peer row;
	struct vmp_peer peer = { .slot = slot };
	int r = get_row(p, PORTAL_AREA_PEERS, slot, &row, sizeof(row),
			offsetof(struct portal_peer, life));

	if (r)
		return r;
	peer.state = peer_state(&row);
	peer.kind = row.kind;
	peer.address = claim_address(row.claim);
	peer.vectors = row.vectors;
	peer.notice = row.notice;
	peer.heartbeat_ms = row.heartbeat_ms;
	peer.reason = row.reason;
	peer.sequence = life_sequence(row.life);
	peer.incarnation = row.incarnation;
	peer.joined = row.joined;
	peer.heartbeat = row.heartbeat;
	peer.changes = row.changes;
	memcpy(peer.machine, row.machine, sizeof(peer.machine));
	text_out(peer.name, row.name, sizeof(peer.name));
	return give(out, size, &peer, sizeof(peer));
}

VMP_API int vmp_get_session(struct vmp *p, uint32_t slot, struct vmp_session *out, size_t size)
{
	struct vmp_session s = { .slot = slot };
	struct portal_session row;
	int r = get_row(p, PORTAL_AREA_SESSIONS, slot, &row, sizeof(row), 0);

	if (r)
		return r;
	s.peer = slot / p->super->sessions;
	s.token = life_sequence(row.life) ? life_sequence(row.life) << PORTAL_SLOT_BITS | slot : 0;
	s.state = life_low(row.life);
	if (s.state > PORTAL_LIFE_DEAD)
		s.state = VMP_STATE_NONE;
	if (s.state == PORTAL_LIFE_ALIVE && layout_token(p->base, p->super, s.token) != TOKEN_ALIVE)
		s.state = VMP_STATE_DEAD;
	s.address = row.address;
	s.vector = row.vector;
	s.pid = row.pid;
	s.uid = row.uid;
	s.started = row.started;
	text_out(s.name, row.name, sizeof(s.name));
	return give(out, size, &s, sizeof(s));
}

VMP_API int vmp_get_object(struct vmp *p, uint32_t row, struct vmp_object *out, size_t size)
{
	struct vmp_object o = { .row = row };
	struct portal_object ob;
	int r = get_row(p, PORTAL_AREA_OBJECTS, row, &ob, sizeof(ob), 0);

	if (r)
		return r;
	o.state = life_low(ob.life);
	o.id = life_sequence(ob.life) ? life_sequence(ob.life) << PORTAL_SLOT_BITS | row : 0;
	o.kind = ob.kind;
	o.format = ob.format;
	o.mode = ob.mode;
	o.flags = ob.flags;
	o.offset = ob.offset;
	o.length = ob.length;
	o.bytes = ob.size;
	o.creator = ob.creator;
	o.created = ob.created;
	text_out(o.name, ob.name, sizeof(o.name));
	return give(out, size, &o, sizeof(o));
}

VMP_API int vmp_get_use(struct vmp *p, uint32_t row, struct vmp_use *out, size_t size)
{
	struct portal_use raw;
	struct vmp_use u;
	int r = get_row(p, PORTAL_AREA_USES, row, &raw, sizeof(raw), 0);

	if (r)
		return r;
	u.object = raw.object;
	u.token = raw.token;
	return give(out, size, &u, sizeof(u));
}

#define CHECK_PATIENCE	100	/* times 20 ms, for those who are joining */

struct tell {
	vmp_damage_fn fn;
	void *arg;
};

static void tell(void *arg, const struct layout_finding *f)
{
	struct tell *t = arg;
	struct vmp_damage d = {
		.name = layout_damage_name(f->id), .text = layout_damage_text(f->id),
		.where = f->where, .index = f->index, .note = f->id >= DAMAGE_FIRST_NOTE,
		.offset = f->offset, .value = f->value,
	};

	if (t->fn)
		t->fn(t->arg, &d);
}

VMP_API int vmp_check(struct vmp *p, vmp_damage_fn fn, void *arg)
{
	struct tell t = { .fn = fn, .arg = arg };
	int r = vmp_not_a_child(p);
	uint64_t incompat;

	if (r)
		return r;
	r = layout_check(p->base, p->info.size, CHECK_PATIENCE, tell, &t);
	switch (r) {
	case -ENODATA:
		return vmp_fail(r, "%s %s: not a managed portal", p->info.transport, p->info.identity);
	case -EPROTONOSUPPORT:
		layout_copy(&incompat, (char *)p->base + offsetof(struct portal_super, incompat), 8);
		return unknown_features(p, incompat);
	case -ENOMEM:
		return vmp_fail(r, "%s %s: out of memory", p->info.transport, p->info.identity);
	default:
		return r;
	}
}
