// SPDX-License-Identifier: MIT
/*
 * Who serves the packet rings: echo, sink, source; and the control messages that
 * come by the primary channel's ring before LIVE. The rings are handled by QEMU's own
 * code (vmbus_channel_*), which is not ours: that the library's rings and these
 * understand each other is a test of both.
 *
 * What a sink checks and a source sends: two u32, bytes of the payload and number of
 * the packet, then bytes payload[i] = (i + 31 * number + seed) & 255; little-endian.
 */
#include "vsp.h"

#define BATCH	4096	/* packets at a time: the main loop has others to serve */

static uint8_t pattern(uint32_t i, uint32_t seq, uint32_t seed)
{
	return i + 31 * seq + seed;
}

/* A step of a generator that a test can repeat (Numerical Recipes' constants). */
static uint32_t next_random(uint32_t x)
{
	return x * 1664525u + 1013904223u;
}

/* Whether a packet is what a sink expects next. */
static bool right(const struct channel *c, const uint8_t *msg, uint32_t len)
{
	uint32_t head[2], i;

	if (len < sizeof(head))
		return false;
	memcpy(head, msg, sizeof(head));
	if (le32_to_cpu(head[0]) > len || ROUND_UP(le32_to_cpu(head[0]), 8) != len ||
	    le32_to_cpu(head[0]) < sizeof(head) ||
	    le32_to_cpu(head[1]) != (uint32_t)c->n.packets)
		return false;
	for (i = sizeof(head); i < le32_to_cpu(head[0]); i++)
		if (msg[i] != pattern(i, c->n.packets, 0))
			return false;
	return true;
}

/* Send a packet back. False: there is no room now; the guest signals when there is. */
static bool answer(struct channel *c, const VMBusChanReq *req, bool payload)
{
	uint32_t len = payload ? req->msglen : 0;

	if (vmbus_channel_reserve(c->vc, 0, len))
		return false;
	c->n.sent++;
	c->n.completions_asked += req->need_comp;
	return vmbus_channel_send(c->vc, req->need_comp ? VMBUS_PACKET_COMP :
				  VMBUS_PACKET_DATA_INBAND, NULL, 0, req->msg, len, false,
				  req->transaction_id) >= 0;
}

/* An application's packet. False: it must stay in the ring for now. */
static bool serve(struct channel *c, const VMBusChanReq *req)
{
	if (req->pkt_type == VMBUS_PACKET_DATA_USING_GPA_DIRECT) {
		/* It names guest pages that nobody shared. Not looked at, ever. */
		c->n.gpa_direct++;
		return !req->need_comp || answer(c, req, false);
	}
	if (req->pkt_type == VMBUS_PACKET_COMP) {
		c->n.completions++;
		return true;
	}
	if (req->transaction_id == PORTAL_VMBUS_CONTROL) {
		/* In LIVE the rings are the applications': nothing is believed. */
		c->n.foreign++;
		return true;
	}
	if (c->service == VSP_ECHO) {
		if (!answer(c, req, true))
			return false;
		c->n.echoed++;
	} else {
		if (req->need_comp && !answer(c, req, false))
			return false;
		c->n.bad += !right(c, req->msg, req->msglen);
	}
	c->n.packets++;
	c->n.bytes += req->msglen;
	return true;
}

static bool take(struct channel *c, const VMBusChanReq *req)
{
	if (c->vsp->state == VSP_LIVE)
		return serve(c, req);
	if (!c->index && c->vsp->kernels && req->pkt_type == VMBUS_PACKET_DATA_INBAND &&
	    req->transaction_id == PORTAL_VMBUS_CONTROL) {
		c->n.control++;
		session_message(c->vsp, req->msg, req->msglen);
	} else {
		c->n.foreign++;
	}
	return true;
}

/* Take what is there; how many packets it was. */
static unsigned int drain(struct channel *c)
{
	unsigned int n = 0;
	VMBusChanReq *req;

	if (vmbus_channel_recv_start(c->vc)) {
		c->broken = true;	/* an index outside the ring */
		return 0;
	}
	c->blocked = false;
	while (n < BATCH && !c->blocked &&
	       (req = vmbus_channel_recv_peek(c->vc, sizeof(*req)))) {
		c->blocked = !take(c, req);
		vmbus_free_req(req);
		if (!c->blocked) {
			vmbus_channel_recv_pop(c->vc);
			n++;
		}
	}
	vmbus_channel_recv_done(c->vc);
	return n;
}

/*
 * Until the ring is seen empty after our read_index was stored: a packet that came
 * before that was not signalled, for the ring was not empty to its sender. And whether
 * what QEMU left in the ring is something that it cannot follow: it does not say so,
 * only the indices do.
 */
static unsigned int drain_all(struct channel *c)
{
	vmbus_ring_buffer *r = c->rings.send;
	unsigned int n = drain(c), more;

	while (n < BATCH && !c->broken && !c->blocked &&
	       qatomic_read(&r->write_index) != qatomic_read(&r->read_index)) {
		more = drain(c);
		if (!more && !c->blocked)
			c->broken = true;
		n += more;
	}
	if (c->broken)
		vsp_log(c->vsp, "channel %u: the guest's ring is broken (indices %u and %u of %u)",
			c->index, qatomic_read(&r->write_index), qatomic_read(&r->read_index),
			c->rings.send_len);
	return n;
}

static void pour(struct channel *c)
{
	struct source *s = &c->source;
	g_autofree uint8_t *msg = s->left ? g_malloc0(s->max + 8) : NULL;
	unsigned int n;

	for (n = 0; s->left && n < BATCH; n++) {
		uint32_t len = s->min + (s->max > s->min ?
					 next_random(s->seed + s->seq) % (s->max - s->min + 1) : 0);
		uint32_t head[2] = { cpu_to_le32(len), cpu_to_le32(s->seq) }, i;

		memcpy(msg, head, sizeof(head));
		for (i = sizeof(head); i < len; i++)
			msg[i] = pattern(i, s->seq, s->seed);
		if (vmbus_channel_reserve(c->vc, 0, len))
			return;
		if (vmbus_channel_send(c->vc, VMBUS_PACKET_DATA_INBAND, NULL, 0, msg, len,
				       s->complete, s->seq + 1) < 0)
			return;
		s->seq++;
		s->left--;
		c->n.sent++;
	}
	/* The rest when the main loop comes round again. */
	if (s->left)
		vmbus_channel_notify_host(c->vc);
}

void service_run(struct channel *c)
{
	bool live = c->vsp->state == VSP_LIVE;

	if (!c->open || c->broken)
		return;
	if ((!live || c->service != VSP_DEAF) && drain_all(c) >= BATCH)
		vmbus_channel_notify_host(c->vc);
	if (c->open && c->vsp->state == VSP_LIVE && c->source.left)
		pour(c);
}

void service_reset(struct channel *c)
{
	memset(&c->source, 0, sizeof(c->source));
	memset(&c->n, 0, sizeof(c->n));
	c->service = VSP_ECHO;
	c->broken = false;
}
