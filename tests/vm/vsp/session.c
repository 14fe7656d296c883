// SPDX-License-Identifier: MIT
/*
 * The handshake's state machine, as linux/portal_vmbus.h has it. A message is
 * answered, or the session is over: there is no third thing.
 */
#include "vsp.h"
#include "qemu/timer.h"

/* How often it is looked whether a process that has left still has the memory. */
#define LOOK_MS	20

static const char *const state_names[] = {
	[VSP_CLOSED] = "closed", [VSP_OPEN] = "open", [VSP_GREETED] = "greeted",
	[VSP_LIVE] = "live", [VSP_ENDING] = "ending",
};

const char *session_state(const struct vsp *p)
{
	return state_names[p->state];
}

/* Send one message; fills the header in. False: there was no room, or no channel. */
bool session_send(struct vsp *p, void *msg, uint16_t type, uint16_t size)
{
	struct portal_vmbus_header *h = msg;
	VMBusChannel *vc = p->ch[0].vc;

	p->sending = type;
	h->magic = cpu_to_le32(PORTAL_VMBUS_MAGIC);
	h->type = cpu_to_le16(type);
	h->size = cpu_to_le16(size);
	if (lying(p, "magic"))
		h->magic ^= 1;
	if (lying(p, "type"))
		h->type = cpu_to_le16(99);
	if (lying(p, "size-short"))
		h->size = cpu_to_le16(size - 8);
	if (lying(p, "size-long"))
		h->size = cpu_to_le16(size + 64);
	if (lying(p, "cut"))
		size = sizeof(*h) - 4;
	if (!p->ch[0].open || lying(p, "silence") || vmbus_channel_reserve(vc, 0, size))
		return false;
	if (vmbus_channel_send(vc, lying(p, "packet-type") ? VMBUS_PACKET_COMP :
			       VMBUS_PACKET_DATA_INBAND, NULL, 0, msg, size, false,
			       lying(p, "transaction") ? 1 : PORTAL_VMBUS_CONTROL) < 0)
		return false;
	mute_if(p, "mute");
	return true;
}

static void send_plain(struct vsp *p, uint16_t type)
{
	struct portal_vmbus_plain m = { .reserved = 0 };

	p->sending = type;
	if (lying(p, "reserved"))
		m.reserved = cpu_to_le64(1);
	session_send(p, &m, type, sizeof(m));
	if (lying(p, "twice"))
		session_send(p, &m, type, sizeof(m));
}

/*
 * The session is over, or there was none. It has ended when nobody on the host can reach
 * the pages any more; and as long as rings are open that are not the kernel's alone any
 * more, or in which it broke the protocol, there is nobody to begin another with.
 */
static void end(struct vsp *p)
{
	p->has_pending = false;
	if (p->state == VSP_CLOSED)
		return;
	if (p->state != VSP_ENDING) {
		p->state = VSP_ENDING;
		clients_end(p);
	}
	session_left(p);
}

/* No, and why: what was agreed on is off. */
static void refuse(struct vsp *p, int error, const char *why)
{
	struct portal_vmbus_refuse m = { .error = cpu_to_le32(-error) };

	/* Padded with zeroes; it need not end in one. */
	memcpy(m.text, why, MIN(strlen(why), sizeof(m.text)));
	p->refused++;
	snprintf(p->last_error, sizeof(p->last_error), "%s", why);
	vsp_log(p, "refused in state %s: %s", session_state(p), why);
	session_send(p, &m, PORTAL_VMBUS_REFUSE, sizeof(m));
	if (p->state == VSP_GREETED) {
		p->kernels = false;
		end(p);
	}
}

static void lie_in_welcome(struct vsp *p, struct portal_vmbus_welcome *w)
{
	if (lying(p, "version"))
		w->version = cpu_to_le32(77);
	if (lying(p, "channels-zero"))
		w->channels = 0;
	if (lying(p, "channels-many"))
		w->channels = cpu_to_le32(65);
	if (lying(p, "channels-missing"))
		w->channels = cpu_to_le32(p->nch + 1);
	if (lying(p, "features"))
		w->features |= cpu_to_le64(1ULL << 40);
	if (lying(p, "region-more"))
		w->region_size = cpu_to_le64(le64_to_cpu(w->region_size) + PORTAL_VMBUS_ALIGN);
	if (lying(p, "region-odd"))
		w->region_size = cpu_to_le64(le64_to_cpu(w->region_size) - 4096);
	if (lying(p, "region-zero"))
		w->region_size = 0;
	if (lying(p, "region-unasked"))
		w->features &= ~cpu_to_le64(PORTAL_VMBUS_REGION);
	if (lying(p, "peer-id"))
		w->peer_id = w->max_peers;
	if (lying(p, "peers-many"))
		w->max_peers = cpu_to_le32(0xffffffff);
}

static int check_hello(const struct portal_vmbus_hello *h, char *err)
{
	uint32_t min = le32_to_cpu(h->min_version), max = le32_to_cpu(h->max_version);
	uint32_t vectors = le32_to_cpu(h->vectors);
	uint64_t size = le64_to_cpu(h->region_size);
	bool region = le64_to_cpu(h->features) & PORTAL_VMBUS_REGION;

	if (h->reserved || min > max || !vectors || vectors > PORTAL_VMBUS_MAX_VECTORS ||
	    size % PORTAL_VMBUS_ALIGN || region != (size != 0))
		return vsp_fail(err, -EPROTO, "HELLO: versions %u..%u, %u vectors, region %" PRIu64 ", reserved %#x",
				min, max, vectors, size, le32_to_cpu(h->reserved));
	if (min > PORTAL_VMBUS_VERSION || max < PORTAL_VMBUS_VERSION)
		return vsp_fail(err, -EPROTONOSUPPORT, "this host speaks version %u", PORTAL_VMBUS_VERSION);
	return 0;
}

static void take_hello(struct vsp *p, const struct portal_vmbus_hello *h)
{
	struct portal_vmbus_welcome w = { .version = cpu_to_le32(PORTAL_VMBUS_VERSION) };
	uint64_t size = MIN(le64_to_cpu(h->region_size), p->max_region);
	char err[VSP_ERR];
	int r = check_hello(h, err);

	if (!r && lying(p, "refuse"))
		r = vsp_fail(err, -EPERM, "a refusal that was ordered\x01\xff, with bytes that are no text and a length beyond what fits");
	if (r) {
		refuse(p, r, err);
		return;
	}
	size -= size % PORTAL_VMBUS_ALIGN;
	p->features = le64_to_cpu(h->features) & PORTAL_VMBUS_PACKETS;
	if (size)
		p->features |= PORTAL_VMBUS_REGION;
	w.features = cpu_to_le64(p->features);
	w.region_size = cpu_to_le64(size);
	w.channels = cpu_to_le32(MIN(le32_to_cpu(h->vectors), p->nch));
	/* Ids below host_peers are leased to the host's processes. */
	w.peer_id = cpu_to_le32(p->host_peers);
	w.max_peers = cpu_to_le32(p->host_peers + 1);
	region_begin(&p->region, size / PORTAL_VMBUS_PAGE);
	p->state = VSP_GREETED;
	offer_give_subs(p);
	lie_in_welcome(p, &w);
	if (lying(p, "live-early"))
		send_plain(p, PORTAL_VMBUS_LIVE);
	session_send(p, &w, PORTAL_VMBUS_WELCOME, sizeof(w));
	if (lying(p, "welcome-twice"))
		session_send(p, &w, PORTAL_VMBUS_WELCOME, sizeof(w));
}

static void take_memory(struct vsp *p, const struct portal_vmbus_memory *m, uint32_t size)
{
	uint32_t count = le32_to_cpu(m->count), i;
	char err[VSP_ERR];
	int r = 0;

	if (m->reserved || !count || count > PORTAL_VMBUS_MAX_PIECES ||
	    size != offsetof(struct portal_vmbus_memory, pieces) + count * sizeof(m->pieces[0]) ||
	    le64_to_cpu(m->first_page) != p->region.pages)
		r = vsp_fail(err, -EPROTO, "MEMORY: %u pieces in %u bytes from page %" PRIu64 ", of %" PRIu64,
			     count, size, le64_to_cpu(m->first_page), p->region.pages);
	for (i = 0; i < count && !r; i++)
		r = region_add(p, le32_to_cpu(m->pieces[i].gpadl),
			       le32_to_cpu(m->pieces[i].pages), err);
	if (r)
		refuse(p, r, err);
}

static void take_ready(struct vsp *p, const struct portal_vmbus_ready *m)
{
	uint32_t i, open = 0;
	char err[VSP_ERR];
	int r = 0;

	for (i = 0; i < p->nch; i++)
		open += p->ch[i].open;
	if (le64_to_cpu(m->pages) != p->region.pages || p->region.pages != p->region.want ||
	    le32_to_cpu(m->pieces) != p->region.gpadls->len || le32_to_cpu(m->channels) > open)
		r = vsp_fail(err, -EPROTO, "READY: %" PRIu64 " pages in %u pieces, %u channels; %" PRIu64 " of %" PRIu64 " in %u, %u are there",
			     le64_to_cpu(m->pages), le32_to_cpu(m->pieces), le32_to_cpu(m->channels),
			     p->region.pages, p->region.want, p->region.gpadls->len, open);
	if (!r && p->region.want)
		r = region_share(p, err);
	if (r) {
		refuse(p, r, err);
		return;
	}
	p->state = VSP_LIVE;
	p->kernels = false;
	p->sessions++;
	vsp_log(p, "live: %" PRIu64 " KiB in %u GPADLs and %u runs, %u channels",
		p->region.pages * 4, p->region.gpadls->len, p->region.runs, open);
	send_plain(p, PORTAL_VMBUS_LIVE);
	/* From the main loop: this may be inside the primary channel's ring. */
	for (i = 0; i < p->nch; i++)
		if (p->ch[i].open)
			vmbus_channel_notify_host(p->ch[i].vc);
}

static void answer_bye(struct vsp *p)
{
	vsp_log(p, "bye");
	send_plain(p, PORTAL_VMBUS_BYE_ACK);
}

/* HELLO or BYE, when no access to older pages is left. */
static void begin(struct vsp *p, const struct portal_vmbus_header *h)
{
	if (le16_to_cpu(h->type) == PORTAL_VMBUS_BYE)
		answer_bye(p);
	else
		take_hello(p, (const struct portal_vmbus_hello *)h);
}

/* The size that a message of this type must have; 0: not one that a guest sends. */
static uint32_t right_size(uint16_t type, uint32_t size)
{
	switch (type) {
	case PORTAL_VMBUS_HELLO:
		return sizeof(struct portal_vmbus_hello);
	case PORTAL_VMBUS_MEMORY:
		return MAX(size, offsetof(struct portal_vmbus_memory, pieces) + 8);
	case PORTAL_VMBUS_READY:
		return sizeof(struct portal_vmbus_ready);
	case PORTAL_VMBUS_BYE:
		return sizeof(struct portal_vmbus_plain);
	}
	return 0;
}

static void dispatch(struct vsp *p, const void *msg, uint16_t type, uint32_t size)
{
	bool first = type == PORTAL_VMBUS_HELLO || type == PORTAL_VMBUS_BYE;

	if (first && p->state == VSP_ENDING && !p->has_pending) {
		memcpy(&p->pending, msg, size);
		p->has_pending = true;
	} else if (first && p->state == VSP_OPEN) {
		begin(p, msg);
	} else if (type == PORTAL_VMBUS_MEMORY && p->state == VSP_GREETED) {
		take_memory(p, msg, size);
	} else if (type == PORTAL_VMBUS_READY && p->state == VSP_GREETED) {
		take_ready(p, msg);
	} else {
		char err[VSP_ERR];

		vsp_fail(err, -EPROTO, "message %u does not belong in state %s", type,
			 session_state(p));
		refuse(p, -EPROTO, err);
	}
}

void session_message(struct vsp *p, const void *msg, uint32_t len)
{
	struct portal_vmbus_header h;
	char err[VSP_ERR];

	memset(&h, 0, sizeof(h));
	memcpy(&h, msg, MIN(len, sizeof(h)));
	h.size = le16_to_cpu(h.size);
	h.type = le16_to_cpu(h.type);
	if (len < sizeof(h) || h.magic != cpu_to_le32(PORTAL_VMBUS_MAGIC) ||
	    h.size != right_size(h.type, h.size) || ROUND_UP(h.size, 8U) != len ||
	    h.size > sizeof(struct portal_vmbus_memory)) {
		vsp_fail(err, -EPROTO, "a message of type %u, size %u in %u bytes, magic %#x",
			 h.type, h.size, len, le32_to_cpu(h.magic));
		refuse(p, -EPROTO, err);
		return;
	}
	dispatch(p, msg, h.type, h.size);
}

void session_open(struct vsp *p)
{
	/* A guest that is about to hear of a rescind gives away its pages when it has. */
	p->kernels = p->offered && !p->rescind_waits;
	if (p->state == VSP_CLOSED)
		p->state = p->kernels ? VSP_OPEN : VSP_ENDING;
}

void session_close(struct vsp *p)
{
	p->kernels = false;
	end(p);
}

/* Whether nobody can reach the pages any more; then what waited for that goes on. */
static bool over(struct vsp *p)
{
	/* A closed socket is not the end of a mapping. */
	if (clients_count(p) || region_in_use(p))
		return false;
	region_drop(&p->region);
	if (!p->ch[0].open)
		p->state = VSP_CLOSED;
	else if (p->kernels)
		p->state = VSP_OPEN;
	if (p->has_pending && p->state == VSP_OPEN) {
		p->has_pending = false;
		begin(p, &p->pending.header);
	}
	offer_left(p);
	return true;
}

static void look_again(struct vsp *p)
{
	timer_mod(p->waiter, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + LOOK_MS);
}

void session_left(struct vsp *p)
{
	if (p->state != VSP_ENDING || over(p))
		return;
	if (clients_count(p))
		vsp_log(p, "ending: waiting for %u clients", clients_count(p));
	else
		vsp_log(p, "ending: a process that has left still has the memory");
	look_again(p);
}

void session_look(void *opaque)
{
	struct vsp *p = opaque;

	/* The end of a mapping tells nobody. */
	if (p->state == VSP_ENDING && !over(p))
		look_again(p);
}
