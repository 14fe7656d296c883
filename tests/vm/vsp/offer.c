// SPDX-License-Identifier: MIT
/*
 * Rescind and offer at run time, which QEMU's VMBus has no call for: messages of our
 * own, posted to the guest by a SINT route of our own. QEMU's bus does not notice; its
 * channels are closed by the guest as ever, and opened again after the next offer.
 *
 * While our route exists KVM tells it, and no longer QEMU's, when the guest has taken a
 * message: a bus that waits for that would wait for ever. So both are made to look again
 * every few milliseconds; to look in vain does no harm. When ours goes, KVM must be told
 * of the routes that are left, which QEMU forgets (kvm_irqchip_release_virq()).
 *
 * A host rescinds when no access to the guest's pages is left, because the guest frees
 * them at once: clients go first ("rescind now" is the host that does not care).
 */
#include "vsp.h"
#include "block/aio.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"

/* Where the guest gets its messages: Linux connects on CPU 0. */
#define MESSAGE_VP		0

#define KICK_MS			10
/* How often QEMU's route is looked after when our messages are gone, before ours goes. */
#define LAST_KICKS		5

/* From the timer, while there is a route of ours. */
static void kick(void *opaque)
{
	struct vsp *p = opaque;
	bool busy = !g_queue_is_empty(p->messages);

	p->kicks = busy ? 0 : p->kicks + 1;
	/* Not ours at the end: what a kick set off must not outlive the route. */
	private_kick(p, busy ? p->route : NULL);
	if (p->kicks > LAST_KICKS)
		offer_close(p);
	else
		timer_mod(p->kicker, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + KICK_MS);
}

static void post_next(void *opaque);

/* A message was delivered, or the guest's slot was taken: both go on from the loop. */
static void posted(void *opaque, int status)
{
	struct vsp *p = opaque;

	if (status && status != -EAGAIN)
		vsp_log(p, "a message could not be delivered: %s", strerror(-status));
	if (status != -EAGAIN)
		g_free(g_queue_pop_head(p->messages));
	aio_bh_schedule_oneshot(qemu_get_aio_context(), post_next, p);
}

static void post_next(void *opaque)
{
	struct vsp *p = opaque;
	struct hyperv_message *m = g_queue_peek_head(p->messages);

	if (m && p->route && hyperv_post_msg(p->route, m) == -EAGAIN)
		aio_bh_schedule_oneshot(qemu_get_aio_context(), post_next, p);
}

void offer_close(struct vsp *p)
{
	if (!p->route)
		return;
	timer_del(p->kicker);
	hyperv_sint_route_unref(p->route);
	p->route = NULL;
	private_commit_routes();
	private_kick(p, NULL);
}

int offer_post(struct vsp *p, const void *payload, uint32_t size, char *err)
{
	struct hyperv_message *m = g_new0(struct hyperv_message, 1);
	bool idle = g_queue_is_empty(p->messages);

	m->header.message_type = HV_MESSAGE_VMBUS;
	m->header.payload_size = ROUND_UP(size, 8);
	memcpy(m->payload, payload, size);
	if (!p->route)
		p->route = hyperv_sint_route_new(MESSAGE_VP, VMBUS_SINT, posted, p);
	if (!p->route) {
		g_free(m);
		return vsp_fail(err, -ENOMEM, "no SINT route");
	}
	g_queue_push_tail(p->messages, m);
	if (!p->kicker)
		p->kicker = timer_new_ms(QEMU_CLOCK_REALTIME, kick, p);
	kick(p);
	if (idle)
		aio_bh_schedule_oneshot(qemu_get_aio_context(), post_next, p);
	return 0;
}

/* One channel; of a subchannel the guest's device is none the worse. */
int offer_rescind_one(struct vsp *p, uint32_t index, char *err)
{
	vmbus_message_rescind_channel_offer m = {
		.header.message_type = VMBUS_MSG_RESCIND_CHANNELOFFER,
		.child_relid = private_relid(p->ch[index].vc),
	};

	return offer_post(p, &m, sizeof(m), err);
}

/* Subchannels first: the primary one takes the device with it. */
static int rescind(struct vsp *p, char *err)
{
	int r = 0;
	uint32_t i;

	p->rescind_waits = false;
	p->offered = false;
	for (i = p->nch; i-- && !r;)
		r = offer_rescind_one(p, i, err);
	vsp_log(p, "rescinded");
	return r;
}

int offer_rescind(struct vsp *p, bool now, char *err)
{
	if (!p->offered || p->rescind_waits)
		return vsp_fail(err, -EALREADY, "it is rescinded already");
	p->rescind_waits = !now;
	session_close(p);
	if (now)
		return rescind(p, err);
	if (p->state == VSP_CLOSED)
		offer_left(p);
	return 0;
}

void offer_left(struct vsp *p)
{
	char err[VSP_ERR];

	if (p->rescind_waits && rescind(p, err) < 0)
		vsp_log(p, "rescind: %s", err);
}

/*
 * The guest has released the one before. Of a subchannel whose opening a rescind ended
 * that may be all that it said; a host takes it for the closing, but QEMU's bus does not
 * know the message, and would not hear of another opening.
 */
int offer_one(struct vsp *p, uint32_t index, char *err)
{
	VMBusDeviceClass *k = VMBUS_DEVICE_GET_CLASS(p);
	/* Little-endian GUIDs on the bus. */
	QemuUUID class = qemu_uuid_bswap(k->classid);
	QemuUUID instance = qemu_uuid_bswap(p->parent.instanceid);
	vmbus_message_offer_channel m = {
		.header.message_type = VMBUS_MSG_OFFERCHANNEL,
		.child_relid = private_relid(p->ch[index].vc),
		.connection_id = CONNECTION_ID(private_relid(p->ch[index].vc)),
		.channel_flags = k->channel_flags,
		.sub_channel_index = index,
		.interrupt_flags = VMBUS_OFFER_INTERRUPT_DEDICATED,
	};

	if (index)
		private_close(p->ch[index].vc);
	memcpy(m.type_uuid, &class, sizeof(class));
	memcpy(m.instance_uuid, &instance, sizeof(instance));
	return offer_post(p, &m, sizeof(m), err);
}

void offer_take_subs(struct vsp *p)
{
	char err[VSP_ERR];
	uint32_t i;

	for (i = 1; p->offered && i < p->nch; i++) {
		struct channel *c = &p->ch[i];

		if (c->taken)
			continue;
		c->taken = true;
		private_set_offered(c->vc, false);
		if (offer_rescind_one(p, i, err) < 0)
			vsp_log(p, "take-subs: %s", err);
	}
}

/* With a new session; the bus has done it if it was begun anew, after hibernation. */
void offer_give_subs(struct vsp *p)
{
	char err[VSP_ERR];
	uint32_t i;

	for (i = 1; i < p->nch; i++) {
		struct channel *c = &p->ch[i];

		if (c->taken && !private_offered(c->vc)) {
			private_set_offered(c->vc, true);
			if (offer_one(p, i, err) < 0)
				vsp_log(p, "take-subs: %s", err);
		}
		c->taken = false;
	}
}

int offer_again(struct vsp *p, char *err)
{
	int r = 0;
	uint32_t i;

	if (p->offered)
		return vsp_fail(err, -EALREADY, "it is offered already");
	for (i = 0; i < p->nch && !r; i++) {
		p->ch[i].taken = false;
		r = offer_one(p, i, err);
	}
	p->offered = !r;
	return r;
}
