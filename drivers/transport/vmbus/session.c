// SPDX-License-Identifier: GPL-2.0-only
/*
 * The session with the host of a device of our class: linux/portal_vmbus.h from the
 * guest's side. Whatever the host sends is copied first and checked before use.
 */
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
	vbp_quarantine_release(&vbp->dev->dev_instance);
	return 0;
}

/* Names the pieces, as many in a message as fit. */
static int vbp_name_memory(struct vbp *vbp)
{
	struct portal_vmbus_memory *msg;
	u64 page = 0;
	u32 i, k, n;
	int ret = 0;

	msg = kzalloc(sizeof(*msg), GFP_KERNEL);
	if (!msg)
		return -ENOMEM;
	for (i = 0; !ret && i < vbp->memory.nr; i += n) {
		u32 size;

		n = min(vbp->memory.nr - i, PORTAL_VMBUS_MAX_PIECES);
		size = offsetof(struct portal_vmbus_memory, pieces) + n * sizeof(msg->pieces[0]);
		vbp_header(&msg->header, PORTAL_VMBUS_MEMORY, size);
		msg->first_page = cpu_to_le64(page);
		msg->count = cpu_to_le32(n);
		for (k = 0; k < n; k++) {
			const struct vbp_piece *piece = &vbp->memory.pieces[i + k];
			u32 pages = (PAGE_SIZE << piece->order) / PORTAL_VMBUS_PAGE;

			msg->pieces[k].gpadl = cpu_to_le32(piece->gpadl.gpadl_handle);
			msg->pieces[k].pages = cpu_to_le32(pages);
			page += pages;
		}
		vbp->exposed = true;
		ret = vbp_send(vbp, msg, size);
	}
	kfree(msg);
	return ret;
}

static int vbp_ready(struct vbp *vbp)
{
	struct portal_vmbus_ready ready = {
		.pages = cpu_to_le64(vbp->memory.size / PORTAL_VMBUS_PAGE),
		.pieces = cpu_to_le32(vbp->memory.nr),
		.channels = cpu_to_le32(vbp->given.channels),
	};
	int ret;

	vbp_header(&ready.header, PORTAL_VMBUS_READY, sizeof(ready));
	ret = vbp_send(vbp, &ready, sizeof(ready));
	return ret ? ret : vbp_expect_plain(vbp, PORTAL_VMBUS_LIVE);
}

static int vbp_open_primary(struct vbp *vbp)
{
	vbp->read_index = 0;
	return vbp_open_channel(vbp, 0, vbp_primary(vbp));
}

/* From WELCOME to LIVE, with memory that is there. */
static int vbp_session_share(struct vbp *vbp)
{
	int ret;

	ret = vbp_open_subchannels(vbp);
	if (!ret)
		ret = vbp_memory_share(vbp);
	if (!ret)
		ret = vbp_name_memory(vbp);
	if (!ret)
		ret = vbp_ready(vbp);
	return ret;
}

/*
 * Up to LIVE: channels open, memory allocated and shared. On error nothing is left but
 * what vbp_session_end() and vbp_memory_free() undo.
 */
int vbp_session_begin(struct vbp *vbp)
{
	int ret;

	ret = vbp_open_primary(vbp);
	if (!ret)
		ret = vbp_greet(vbp, &vbp->given);
	if (!ret)
		ret = vbp_memory_alloc(vbp, vbp->given.region_size);
	return ret ? ret : vbp_session_share(vbp);
}

/* After vbp_session_end(), with the same memory, for the same portal. */
int vbp_session_again(struct vbp *vbp)
{
	struct vbp_welcome w;
	int ret;

	ret = vbp_open_primary(vbp);
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
	return vbp_session_share(vbp);
}

/*
 * BYE on new rings: what processes wrote to the old ones cannot be mistaken for the
 * host's word.
 */
static int vbp_bye(struct vbp *vbp)
{
	struct portal_vmbus_plain bye = { 0 };
	int ret;

	ret = vbp_open_primary(vbp);
	if (ret)
		return ret;
	vbp_header(&bye.header, PORTAL_VMBUS_BYE, sizeof(bye));
	ret = vbp_send(vbp, &bye, sizeof(bye));
	return ret ? ret : vbp_expect_plain(vbp, PORTAL_VMBUS_BYE_ACK);
}

/*
 * At any stage; user space has been revoked. Channels are closed, GPADLs torn down, and
 * vbp->exposed says whether the host may yet reach the memory. A host that rescinds has
 * let go before.
 */
void vbp_session_end(struct vbp *vbp)
{
	vbp_close_channels(vbp);
	if (vbp->exposed && (vbp_rescinded(vbp) || !vbp_bye(vbp) || vbp_rescinded(vbp)))
		vbp->exposed = false;
	vbp_memory_unshare(vbp);
	vbp_close_channels(vbp);
	if (!vbp->exposed)
		vbp_quarantine_release(&vbp->dev->dev_instance);
}
