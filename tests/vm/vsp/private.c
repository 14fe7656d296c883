// SPDX-License-Identifier: MIT
/*
 * What QEMU's VMBus keeps to itself, and a host of portals cannot do without: the pages
 * of a GPADL, a channel's number on the bus, where its rings are, and by what route the
 * guest is signalled and told things. These are prefixes of private structures, as in
 * hw/hyperv/vmbus.c and hyperv.c of 10.0. Compare them before adding a version to
 * OUR_QEMU; what other members and public calls can confirm is checked at run time.
 */
#include "vsp.h"
#include "qapi/qapi-commands-control.h"
#include "qapi/qapi-types-control.h"
#include "qemu/event_notifier.h"

#define OUR_QEMU(major, minor)	((major) == 10 && (minor) == 0)

/* struct VMBusGpadl */
struct gpadl {
	uint32_t id;
	uint32_t child_relid;
	uint32_t num_gfns;
	uint32_t seen_gfns;
	uint64_t *gfns;
};

/* struct VMBusChannel; the last ones are right only while the channel is open */
struct chan {
	VMBusDevice *dev;
	uint32_t id;
	uint16_t subchan_idx;
	uint32_t open_id;
	uint32_t target_vp;
	uint32_t ringbuf_gpadl;
	uint32_t ringbuf_send_offset;
	uint8_t offer_state;
	uint8_t state;
	bool is_open;
	VMBusChannelNotifyCb notify_cb;
	EventNotifier notifier;
	VMBus *vmbus;
	HvSintRoute *notify_route;
};

/* struct VMBus */
struct bus {
	BusState parent;
	uint8_t state;
	bool in_progress;
	bool msg_in_progress;
	uint32_t version;
	uint32_t target_vp;
	HvSintRoute *sint_route;
};

/* Its states, and a channel's, of which we know the beginning. */
#define BUS_OPEN_CHANNEL	5
#define CHAN_INIT		0
#define CHAN_OPENING		1
#define CHAN_OPEN		2
#define OFFER_INIT		0
#define OFFER_SENT		2

/* struct HvSintRoute */
struct route {
	uint32_t sint;
	void *synic;
	int gsi;
	EventNotifier set;
	EventNotifier ack;
};

/* Of system/kvm.h, which cannot be had without a whole CPU. */
struct KVMState;
extern struct KVMState *kvm_state;
void kvm_irqchip_commit_routes(struct KVMState *s);

static const struct chan *chan_of(VMBusChannel *vc)
{
	return (const void *)vc;
}

static struct bus *bus_of(struct vsp *p)
{
	return (void *)qdev_get_parent_bus(&p->parent.parent);
}

/* Refuse to run where the prefixes are not known to be right. */
int private_check(struct vsp *p, char *err)
{
	VersionInfo *v = qmp_query_version(NULL);
	int major = v->qemu->major, minor = v->qemu->minor;
	uint32_t i;

	qapi_free_VersionInfo(v);
	if (!OUR_QEMU(major, minor))
		return vsp_fail(err, -ENOTSUP, "this is QEMU %d.%d: compare tests/vm/vsp/private.c with its hw/hyperv, then allow it there",
				major, minor);
	if (p->parent.num_channels != p->nch || p->parent.dma_as != &address_space_memory)
		return vsp_fail(err, -ENOTSUP, "struct VMBusDevice is not that of the headers: build the VSP with this QEMU's");
	for (i = 0; i < p->nch; i++) {
		VMBusChannel *vc = vmbus_device_channel(&p->parent, i);
		const struct chan *c = chan_of(vc);

		if (c->dev != &p->parent || c->subchan_idx != i || vmbus_channel_idx(vc) != i ||
		    c->notify_cb != VMBUS_DEVICE_GET_CLASS(p)->chan_notify_cb ||
		    (const void *)c->vmbus != (const void *)bus_of(p))
			return vsp_fail(err, -ENOTSUP, "struct VMBusChannel is not what tests/vm/vsp/private.c believes");
	}
	return 0;
}

int private_gfns(VMBusGpadl *vg, uint32_t id, uint32_t relid, const uint64_t **gfns, char *err)
{
	const struct gpadl *g = (const void *)vg;
	uint32_t n = vmbus_gpadl_len(vg) / PORTAL_VMBUS_PAGE;

	if (g->id != id || g->num_gfns != n || g->seen_gfns != n)
		return vsp_fail(err, -ENOTSUP, "struct VMBusGpadl is not what tests/vm/vsp/private.c believes");
	if (g->child_relid != relid)
		return vsp_fail(err, -EPROTO, "GPADL %#x is another channel's", id);
	*gfns = g->gfns;
	return 0;
}

uint32_t private_relid(VMBusChannel *vc)
{
	return chan_of(vc)->id;
}

void private_rings(VMBusChannel *vc, uint32_t *gpadl, uint32_t *split)
{
	*gpadl = chan_of(vc)->ringbuf_gpadl;
	*split = chan_of(vc)->ringbuf_send_offset;
}

static bool is_route(const HvSintRoute *r)
{
	return r && ((const struct route *)(const void *)r)->sint == VMBUS_SINT;
}

/*
 * QEMU's own route, not one of ours: KVM tells but one route of a SINT that the guest has
 * taken a message, and it must be the one by which QEMU's bus posts them.
 */
HvSintRoute *private_route(VMBusChannel *vc)
{
	HvSintRoute *r = chan_of(vc)->notify_route;

	return is_route(r) ? r : NULL;
}

/* As if the bus had sent a message that does not arrive. False: it has, and waits for it. */
bool private_mute(struct vsp *p)
{
	struct bus *b = bus_of(p);

	if (b->msg_in_progress)
		return false;
	b->msg_in_progress = true;
	return true;
}

/* And now it arrives: the bus goes on when @m has. */
int private_speak(struct vsp *p, struct hyperv_message *m, char *err)
{
	struct bus *b = bus_of(p);

	if (!is_route(b->sint_route) || hyperv_post_msg(b->sint_route, m))
		return vsp_fail(err, -EIO, "the bus has no way to the guest");
	return 0;
}

bool private_offered(VMBusChannel *vc)
{
	return chan_of(vc)->offer_state == OFFER_SENT;
}

/* One that is not offered is, when the guest asks for all offers again. */
void private_set_offered(VMBusChannel *vc, bool offered)
{
	((struct chan *)(void *)vc)->offer_state = offered ? OFFER_SENT : OFFER_INIT;
}

/* The answer to an opening that the bus is about to give; false: it is not. */
bool private_open_result(struct vsp *p, vmbus_message_open_result *m)
{
	uint32_t i;

	for (i = 0; bus_of(p)->state == BUS_OPEN_CHANNEL && i < p->nch; i++) {
		const struct chan *c = chan_of(p->ch[i].vc);

		if (c->state != CHAN_OPENING)
			continue;
		*m = (vmbus_message_open_result){
			.header.message_type = VMBUS_MSG_OPENCHANNEL_RESULT,
			.child_relid = c->id,
			.open_id = c->open_id,
			.status = !c->is_open,
		};
		return true;
	}
	return false;
}

/* As close_channel() does; whose reference to the rings' GPADL is found by that one's id. */
void private_close(VMBusChannel *vc)
{
	struct chan *c = (void *)vc;
	VMBusGpadl *rings;

	if (c->state != CHAN_OPEN || !c->is_open)
		return;
	VMBUS_DEVICE_GET_CLASS(c->dev)->close_channel(vc);
	hyperv_sint_route_unref(c->notify_route);
	hyperv_set_event_flag_handler(CONNECTION_ID(c->id), NULL);
	event_notifier_set_handler(&c->notifier, NULL);
	event_notifier_cleanup(&c->notifier);
	rings = vmbus_get_gpadl(vc, c->ringbuf_gpadl);
	if (rings) {
		vmbus_put_gpadl(rings);
		vmbus_put_gpadl(rings);
	}
	c->is_open = false;
	c->state = CHAN_INIT;
}

/* As if the guest had taken a message: a route that waits for that looks again. */
void private_kick(struct vsp *p, HvSintRoute *ours)
{
	HvSintRoute *all[] = { bus_of(p)->sint_route, ours };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(all); i++)
		if (is_route(all[i]))
			event_notifier_set(&((struct route *)(void *)all[i])->ack);
}

/* Tell KVM what interrupt routes there are now. */
void private_commit_routes(void)
{
	kvm_irqchip_commit_routes(kvm_state);
}
