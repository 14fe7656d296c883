// SPDX-License-Identifier: MIT
/*
 * What a host must not do, by name. Those of the handshake are told when it comes to
 * them ("NAME", or "NAME@live" for one message only); those of the rings at once.
 */
#include "vsp.h"

/* In messages; session.c tells them. "transaction" is none: a host may. */
static const char *const handshake_lies[] = {
	"magic", "type", "size-short", "size-long", "cut", "packet-type", "transaction",
	"reserved", "twice", "silence", "refuse", "version", "channels-zero", "channels-many",
	"channels-missing", "features", "region-more", "region-odd", "region-zero",
	"region-unasked", "peer-id", "peers-many", "live-early", "welcome-twice", "open",
	/* from then on the bus answers nothing (mute.c) */
	"mute", "mute-open", "mute-open-sub", "mute-close",
};

static const struct {
	const char *name;
	uint16_t type;
} messages[] = {
	{ "welcome", PORTAL_VMBUS_WELCOME }, { "refuse", PORTAL_VMBUS_REFUSE },
	{ "live", PORTAL_VMBUS_LIVE }, { "bye-ack", PORTAL_VMBUS_BYE_ACK },
};

/* The name before "@"; *@type is the message after it, 0: any. */
static size_t split(const char *lie, uint16_t *type)
{
	const char *at = strchr(lie, '@');
	size_t i;

	*type = at ? 0xffff : 0;
	for (i = 0; at && i < ARRAY_SIZE(messages); i++)
		if (!strcmp(at + 1, messages[i].name))
			*type = messages[i].type;
	return at ? (size_t)(at - lie) : strlen(lie);
}

static bool is(const char *lie, size_t len, const char *name)
{
	return strlen(name) == len && !memcmp(lie, name, len);
}

bool lie_known(const char *lie)
{
	uint16_t type;
	size_t len = split(lie, &type), i;

	for (i = 0; i < ARRAY_SIZE(handshake_lies); i++)
		if (is(lie, len, handshake_lies[i]))
			return type != 0xffff;
	return false;
}

bool lying(struct vsp *p, const char *name)
{
	uint16_t type;
	size_t len;

	if (!p->lie)
		return false;
	len = split(p->lie, &type);
	if (!is(p->lie, len, name) || (type && type != p->sending))
		return false;
	if (strcmp(name, "silence")) {
		g_free(p->lie);
		p->lie = NULL;
	}
	return true;
}

/* A packet's header, in the ring that the guest receives by, where it reads next. */
static void raw_packet(struct channel *c, uint16_t type, uint16_t offset8, uint16_t len8,
		       uint32_t bytes)
{
	struct rings *r = &c->rings;
	vmbus_packet_hdr h = { .type = type, .offset_qwords = offset8, .len_qwords = len8,
			       .transaction_id = 1 };
	uint32_t at = qatomic_read(&r->recv->write_index), i;

	for (i = 0; i < sizeof(h) && at < r->recv_len; i++)
		r->recv_data[(at + i) % r->recv_len] = ((uint8_t *)&h)[i];
	qatomic_store_release(&r->recv->write_index, (at + bytes) % r->recv_len);
}

static void flood(struct channel *c)
{
	unsigned int i;

	for (i = 0; i < 10000; i++)
		guest_ring(c->vsp, c->index);
}

static bool lie_index(struct channel *c, const char *name)
{
	struct rings *r = &c->rings;

	if (!strcmp(name, "write-index-beyond"))
		qatomic_set(&r->recv->write_index, r->recv_len + 8);
	else if (!strcmp(name, "write-index-odd"))
		qatomic_set(&r->recv->write_index, r->recv->write_index ^ 4);
	else if (!strcmp(name, "read-index-beyond"))
		qatomic_set(&r->send->read_index, r->send_len + 8);
	else if (!strcmp(name, "read-index-odd"))
		qatomic_set(&r->send->read_index, r->send->read_index ^ 4);
	else
		return false;
	return true;
}

static bool lie_packet(struct channel *c, const char *name)
{
	if (!strcmp(name, "length-zero"))
		raw_packet(c, VMBUS_PACKET_DATA_INBAND, 2, 0, 32);
	else if (!strcmp(name, "length-huge"))
		raw_packet(c, VMBUS_PACKET_DATA_INBAND, 2, 0xffff, 32);
	else if (!strcmp(name, "length-beyond"))
		raw_packet(c, VMBUS_PACKET_DATA_INBAND, 2, 5, 32);
	else if (!strcmp(name, "offset-zero"))
		raw_packet(c, VMBUS_PACKET_DATA_INBAND, 0, 3, 32);
	else if (!strcmp(name, "offset-beyond"))
		raw_packet(c, VMBUS_PACKET_DATA_INBAND, 4, 3, 32);
	else if (!strcmp(name, "packet-cut"))
		raw_packet(c, VMBUS_PACKET_DATA_INBAND, 2, 3, 8);
	else
		return false;
	return true;
}

static bool lie_else(struct channel *c, const char *name)
{
	if (!strcmp(name, "flood"))
		flood(c);
	else if (!strcmp(name, "noise-packet"))
		raw_packet(c, 0x77, 2, 3, 32);
	else if (!strcmp(name, "pending-huge"))
		qatomic_set(&c->rings.recv->pending_send_sz, 0xffffffff);
	else if (!strcmp(name, "mask"))
		qatomic_set(&c->rings.send->interrupt_mask, 0xffffffff);
	else if (!strcmp(name, "feature-bits"))
		qatomic_set(&c->rings.recv->feature_bits, 0xffffffff);
	else
		return false;
	return true;
}

int lie_now(struct channel *c, const char *name, char *err)
{
	if (!c->open)
		return vsp_fail(err, -ENOTCONN, "channel %u is closed", c->index);
	if (!lie_index(c, name) && !lie_packet(c, name) && !lie_else(c, name))
		return vsp_fail(err, -EINVAL, "no lie is named %s", name);
	guest_ring(c->vsp, c->index);
	return 0;
}
