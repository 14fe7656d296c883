// SPDX-License-Identifier: GPL-2.0-only
/*
 * The session with the host of a device of our class: linux/portal_vmbus.h from the
 * guest's side. Whatever the host sends is copied first and checked before use.
 */
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "vmbus.h"

/* Longest message of the host: REFUSE. */
union vbp_message {
	struct portal_vmbus_header header;
	struct portal_vmbus_welcome welcome;
	struct portal_vmbus_refuse refuse;
	struct portal_vmbus_plain plain;
};

static void vbp_header(struct portal_vmbus_header *h, u16 type, u16 size)
{
	h->magic = cpu_to_le32(PORTAL_VMBUS_MAGIC);
	h->type = cpu_to_le16(type);
	h->size = cpu_to_le16(size);
}

static int vbp_wrong(struct vbp *vbp, const char *what, u64 value)
{
	dev_err(&vbp->dev->device, "handshake: the host breaks the protocol: %s %llu\n", what,
		value);
	return -EPROTO;
}

/* The errno that the host names, if it is one; its words, as far as they are ASCII. */
static int vbp_refused(struct vbp *vbp, const struct portal_vmbus_refuse *refuse)
{
	size_t len = strnlen(refuse->text, sizeof(refuse->text)), i;
	char text[sizeof(refuse->text)];
	u32 error = le32_to_cpu(refuse->error);

	for (i = 0; i < len; i++)
		text[i] = refuse->text[i] < ' ' || refuse->text[i] > '~' ? '?' : refuse->text[i];
	dev_err(&vbp->dev->device, "the host refuses (error %u): %.*s\n", error, (int)len, text);
	return error && error <= 133 ? -(int)error : -EPROTO;
}

/* Waits for the host's message of @type and @size. */
static int vbp_expect(struct vbp *vbp, union vbp_message *msg, u16 type, u16 size)
{
	u32 padded = 0;
	u16 is;
	int ret;

	memset(msg, 0, sizeof(*msg));
	ret = vbp_receive(vbp, msg, sizeof(*msg), &padded);
	if (ret == -ETIMEDOUT)
		dev_err(&vbp->dev->device, "the host does not answer (waiting for message %u)\n",
			type);
	if (ret)
		return ret;
	if (padded < sizeof(msg->header))
		return vbp_wrong(vbp, "a message of bytes", padded);
	if (le32_to_cpu(msg->header.magic) != PORTAL_VMBUS_MAGIC)
		return vbp_wrong(vbp, "magic", le32_to_cpu(msg->header.magic));
	is = le16_to_cpu(msg->header.type);
	if (is == PORTAL_VMBUS_REFUSE && type != PORTAL_VMBUS_BYE_ACK)
		size = sizeof(msg->refuse);
	else if (is != type)
		return vbp_wrong(vbp, "message type", is);
	if (le16_to_cpu(msg->header.size) != size || padded != ALIGN(size, sizeof(u64)))
		return vbp_wrong(vbp, "message size", le16_to_cpu(msg->header.size));
	return is == type ? 0 : vbp_refused(vbp, &msg->refuse);
}

static int vbp_expect_plain(struct vbp *vbp, u16 type)
{
	union vbp_message msg;
	int ret;

	ret = vbp_expect(vbp, &msg, type, sizeof(msg.plain));
	if (!ret && msg.plain.reserved)
		ret = vbp_wrong(vbp, "reserved member", le64_to_cpu(msg.plain.reserved));
	return ret;
}

static int vbp_hello(struct vbp *vbp)
{
	struct portal_vmbus_hello hello = {
		.min_version = cpu_to_le32(PORTAL_VMBUS_VERSION),
		.max_version = cpu_to_le32(PORTAL_VMBUS_VERSION),
		.features = cpu_to_le64(PORTAL_VMBUS_PACKETS |
					(vbp->region_size ? PORTAL_VMBUS_REGION : 0)),
		.region_size = cpu_to_le64(vbp->region_size),
		.vectors = cpu_to_le32(PORTAL_VMBUS_MAX_VECTORS),
	};

	vbp_header(&hello.header, PORTAL_VMBUS_HELLO, sizeof(hello));
	return vbp_send(vbp, &hello, sizeof(hello));
}

static int vbp_welcome_check(struct vbp *vbp, const struct vbp_welcome *w)
{
	u64 known = PORTAL_VMBUS_PACKETS | (vbp->region_size ? PORTAL_VMBUS_REGION : 0);

	if (w->features & ~known)
		return vbp_wrong(vbp, "WELCOME with features", w->features);
	if (w->region_size > vbp->region_size || w->region_size % PORTAL_VMBUS_ALIGN ||
	    !w->region_size != !(w->features & PORTAL_VMBUS_REGION))
		return vbp_wrong(vbp, "WELCOME with region_size", w->region_size);
	if (!w->features)
		return vbp_wrong(vbp, "WELCOME with features", w->features);
	if (!w->channels || w->channels > PORTAL_VMBUS_MAX_VECTORS)
		return vbp_wrong(vbp, "WELCOME with channels", w->channels);
	if (!w->max_peers || w->max_peers > PORTAL_VMBUS_MAX_PEERS)
		return vbp_wrong(vbp, "WELCOME with max_peers", w->max_peers);
	if (w->peer_id >= w->max_peers)
		return vbp_wrong(vbp, "WELCOME with peer_id", w->peer_id);
	return 0;
}

/* HELLO and WELCOME. The host has thereby let go of all that was before. */
static int vbp_greet(struct vbp *vbp, struct vbp_welcome *w)
{
	union vbp_message msg;
	int ret;

	ret = vbp_hello(vbp);
	if (!ret)
		ret = vbp_expect(vbp, &msg, PORTAL_VMBUS_WELCOME, sizeof(msg.welcome));
	if (ret)
		return ret;
	if (le32_to_cpu(msg.welcome.version) != PORTAL_VMBUS_VERSION)
		return vbp_wrong(vbp, "WELCOME with version", le32_to_cpu(msg.welcome.version));
	w->features = le64_to_cpu(msg.welcome.features);
	w->region_size = le64_to_cpu(msg.welcome.region_size);
	w->channels = le32_to_cpu(msg.welcome.channels);
	w->peer_id = le32_to_cpu(msg.welcome.peer_id);
	w->max_peers = le32_to_cpu(msg.welcome.max_peers);
	ret = vbp_welcome_check(vbp, w);
	if (ret)
		return ret;
	vbp->exposed = false;
	return vbl_let_go(vbp->line);
}

/* Names the pieces, as many in a message as fit. */
static int vbp_name_memory(struct vbp *vbp)
{
	unsigned long deadline = jiffies + VBL_SLOW * vbp_patience();
	struct portal_vmbus_memory *msg;
	u64 page = 0;
	u32 i, k, n;
	int ret = 0;

	if (!vbp->memory)
		return 0;
	msg = kzalloc(sizeof(*msg), GFP_KERNEL);
	if (!msg)
		return -ENOMEM;
	for (i = 0; !ret && i < vbp->memory->nr; i += n) {
		u32 size;

		n = min(vbp->memory->nr - i, PORTAL_VMBUS_MAX_PIECES);
		size = offsetof(struct portal_vmbus_memory, pieces) + n * sizeof(msg->pieces[0]);
		vbp_header(&msg->header, PORTAL_VMBUS_MEMORY, size);
		msg->first_page = cpu_to_le64(page);
		msg->count = cpu_to_le32(n);
		for (k = 0; k < n; k++) {
			const struct vbl_piece *piece = &vbp->memory->pieces[i + k];
			u32 pages = (PAGE_SIZE << piece->order) / PORTAL_VMBUS_PAGE;

			msg->pieces[k].gpadl = cpu_to_le32(piece->gpadl.gpadl_handle);
			msg->pieces[k].pages = cpu_to_le32(pages);
			page += pages;
		}
		vbp->exposed = true;
		/* One that reads each of them late has no more time than one that answers so. */
		ret = time_after(jiffies, deadline) ? -ETIMEDOUT : vbp_send(vbp, msg, size);
	}
	kfree(msg);
	return ret;
}

static int vbp_ready(struct vbp *vbp)
{
	struct portal_vmbus_ready ready = {
		.channels = cpu_to_le32(vbp->given.channels),
	};
	int ret;

	if (vbp->memory) {
		ready.pages = cpu_to_le64(vbp->memory->size / PORTAL_VMBUS_PAGE);
		ready.pieces = cpu_to_le32(vbp->memory->nr);
	}
	vbp_header(&ready.header, PORTAL_VMBUS_READY, sizeof(ready));
	ret = vbp_send(vbp, &ready, sizeof(ready));
	return ret ? ret : vbp_expect_plain(vbp, PORTAL_VMBUS_LIVE);
}

/* What can be signalled: all channels that are open, or none any more. */
static void vbp_ringing(struct vbp *vbp, bool open)
{
	u32 i;

	for (i = 0; i < ARRAY_SIZE(vbp->ringing); i++)
		WRITE_ONCE(vbp->ringing[i], open ? vbl_channel(vbp->line, i) : NULL);
}

static void vbp_on_signal(void *arg, u32 index)
{
	struct vbp *vbp = arg;
	struct portal *p = READ_ONCE(vbp->portal);

	if (p)
		portal_event(p, index);
	wake_up(&vbp->wait);
}

int vbp_line_begin(struct vbp *vbp)
{
	const struct vbl_terms terms = {
		.patience = vbp_patience(),
		.signal = vbp_on_signal,
		.arg = vbp,
	};
	struct vbl *line = vbl_begin(vbp->dev, &terms);

	if (IS_ERR(line))
		return PTR_ERR(line);
	vbp->line = line;
	return 0;
}

/* The primary channel. @stop: see vbl_open(). */
int vbp_line_open(struct vbp *vbp, u32 ring_size, const bool *stop)
{
	int ret;

	vbp->read_index = 0;
	ret = vbl_open(vbp->line, ring_size, stop);
	if (!ret)
		vbp_ringing(vbp, true);
	return ret;
}

/* Of a foreign class; also if there is none. The host is waited for no longer than @ending. */
void vbp_line_end(struct vbp *vbp)
{
	if (!vbp->line)
		return;
	vbp_ringing(vbp, false);
	vbl_end(vbp->line, NULL, false, &vbp->ending);
	vbp->line = NULL;
}

/* A line with the primary channel open. */
static int vbp_session_open(struct vbp *vbp)
{
	int ret = vbp_line_begin(vbp);

	return ret ? ret : vbp_line_open(vbp, vbp->ring_size, NULL);
}

/* From WELCOME to LIVE, with memory that is there. */
static int vbp_session_share(struct vbp *vbp)
{
	int ret;

	ret = vbl_open_subchannels(vbp->line, vbp->given.channels);
	if (ret)
		return ret;
	vbp_ringing(vbp, true);
	ret = vbl_share(vbp->line, vbp->memory);
	if (!ret)
		ret = vbp_name_memory(vbp);
	if (!ret)
		ret = vbp_ready(vbp);
	return ret;
}

/*
 * Up to LIVE: channels open, memory allocated and shared. On error nothing is left but
 * what vbp_session_end() undoes.
 */
int vbp_session_begin(struct vbp *vbp)
{
	int ret;

	ret = vbp_session_open(vbp);
	if (!ret)
		ret = vbp_greet(vbp, &vbp->given);
	if (ret)
		return ret;
	vbp->memory = vbl_memory_alloc(vbp->dev, vbp->given.region_size);
	if (IS_ERR(vbp->memory)) {
		ret = PTR_ERR(vbp->memory);
		vbp->memory = NULL;
		return ret;
	}
	return vbp_session_share(vbp);
}

/* After vbp_session_pause(), with the same memory, for the same portal. */
int vbp_session_again(struct vbp *vbp)
{
	struct vbp_welcome w;
	int ret;

	ret = vbp_session_open(vbp);
	if (!ret)
		ret = vbp_greet(vbp, &w);
	if (ret)
		return ret;
	if (w.features != vbp->given.features || w.region_size != vbp->given.region_size ||
	    w.channels != vbp->given.channels || w.max_peers != vbp->given.max_peers) {
		dev_err(&vbp->dev->device, "the host offers another portal than before: bind the device anew\n");
		return -EPROTO;
	}
	vbp->given = w;
	/* What a pause had to leave; vbp->exposed is false now. */
	ret = vbl_unshare(vbp->line, vbp->memory);
	return ret ? ret : vbp_session_share(vbp);
}

/*
 * BYE on new rings: what processes wrote to the old ones cannot be mistaken for the
 * host's word. They are small: what needs memory now may not get it.
 */
static int vbp_bye(struct vbp *vbp)
{
	struct portal_vmbus_plain bye = { 0 };
	int ret;

	ret = vbp_line_open(vbp, VBP_MIN_RING, NULL);
	if (ret)
		return ret;
	vbp_header(&bye.header, PORTAL_VMBUS_BYE, sizeof(bye));
	ret = vbp_send(vbp, &bye, sizeof(bye));
	return ret ? ret : vbp_expect_plain(vbp, PORTAL_VMBUS_BYE_ACK);
}

/*
 * At any stage; user space has been revoked. Channels are closed, and vbp->exposed says
 * whether the host may yet reach the memory. A host that rescinds has let go before.
 */
static void vbp_session_close(struct vbp *vbp)
{
	vbp_ringing(vbp, false);
	vbl_close(vbp->line);
	if (vbp->exposed && (vbp_rescinded(vbp) || !vbp_bye(vbp) || vbp_rescinded(vbp)))
		vbp->exposed = false;
	vbp_ringing(vbp, false);
}

/*
 * For hibernation and reboot: the memory stays, for portal and processes have it, and its
 * GPADLs stay if the host has not let go of it. False if it owes an answer to the bus:
 * then the portal must be removed and the session ended.
 */
bool vbp_session_pause(struct vbp *vbp)
{
	vbp_session_close(vbp);
	if (!vbp->exposed)
		vbl_unshare(vbp->line, vbp->memory);
	if (vbl_silent(vbp->line))
		return false;
	vbl_end(vbp->line, NULL, false, NULL);
	vbp->line = NULL;
	return true;
}

/* For ever, at any stage; no signal arrives any more. */
void vbp_session_end(struct vbp *vbp)
{
	if (vbp->line) {
		vbp_session_close(vbp);
		vbl_end(vbp->line, vbp->memory, vbp->exposed, NULL);
	} else if (vbp->memory) {
		vbl_memory_end(vbp->dev, vbp->memory, vbp->exposed);
	}
	vbp->line = NULL;
	vbp->memory = NULL;
}
