// SPDX-License-Identifier: MIT
/* The device: what it is told at birth, and what the bus calls. */
#include "vsp.h"
#include "qemu/module.h"
#include "qapi/error.h"
#include "hw/qdev-properties.h"
#include "qemu/timer.h"

#include <dlfcn.h>

#define TYPE_VSP	"portal-vsp"
/* No driver's. */
#define FOREIGN_CLASS	"0e1a5c52-6d0b-4f0e-9c43-3f1f8a6b7d21"

void vsp_log(struct vsp *p, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "portal-vsp: %s: ", p->parent.parent.id ?: "vsp");
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
}

/* A reason into @err (VSP_ERR bytes); @code. */
int vsp_fail(char *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err, VSP_ERR, fmt, ap);
	va_end(ap);
	return code;
}

static struct vsp *vsp_of(VMBusDevice *d)
{
	return container_of(d, struct vsp, parent);
}

static struct channel *channel_of(VMBusChannel *vc)
{
	return &vsp_of(vmbus_channel_device(vc))->ch[vmbus_channel_idx(vc)];
}

/*
 * Something happened on a channel: packets came, there is room for packets, or the
 * guest rang. Nobody can tell which, so all of it is looked at.
 */
static void channel_notify(VMBusChannel *vc)
{
	struct channel *c = channel_of(vc);

	if (!c->open)
		return;
	c->n.notifies++;
	service_run(c);
	if (c->vsp->state == VSP_LIVE)
		clients_ring(c->vsp, c->index);
}

static int channel_open(VMBusChannel *vc)
{
	struct channel *c = channel_of(vc);
	char err[VSP_ERR];
	int r;

	c->relid = private_relid(vc);
	if (lying(c->vsp, "open"))
		return -EPERM;
	r = rings_map(c, &c->rings, err);
	if (r < 0) {
		vsp_log(c->vsp, "channel %u: %s", c->index, err);
		return r;
	}
	c->open = true;
	if (!c->index)
		c->vsp->kernels = true;
	mute_if(c->vsp, c->index ? "mute-open-sub" : "mute-open");
	service_reset(c);
	if (!c->index)
		session_open(c->vsp);
	return 0;
}

static void channel_close(VMBusChannel *vc)
{
	struct channel *c = channel_of(vc);

	if (!c->open)
		return;
	c->open = false;
	mute_if(c->vsp, "mute-close");
	rings_unmap(&c->rings);
	if (!c->index) {
		session_close(c->vsp);
		if (c->vsp->take_subs)
			offer_take_subs(c->vsp);
	}
}

/*
 * Of the device, when its last channel is closed, or of the whole bus, which then offers
 * all that it has to the next guest, whatever the last one was told.
 */
static void vsp_reset(VMBusDevice *d)
{
	if (bus_is_in_reset(qdev_get_parent_bus(&d->parent)))
		vsp_of(d)->offered = true;
}

static uint16_t num_channels(VMBusDevice *d)
{
	return vsp_of(d)->nch;
}

static int check_properties(struct vsp *p, char *err)
{
	if (p->nch > PORTAL_VMBUS_MAX_VECTORS)
		return vsp_fail(err, -EINVAL, "at most %u channels", PORTAL_VMBUS_MAX_VECTORS);
	if (!p->host_peers || p->host_peers > VSP_CLIENTS_MAX)
		return vsp_fail(err, -EINVAL, "host-peers: 1 to %u", VSP_CLIENTS_MAX);
	if (p->lie && !lie_known(p->lie))
		return vsp_fail(err, -EINVAL, "lie: there is none named %s", p->lie);
	p->all_ram = p->share && !strcmp(p->share, "all-ram");
	if (p->share && !p->all_ram && strcmp(p->share, "gpadls"))
		return vsp_fail(err, -EINVAL, "share: gpadls, or all-ram");
	return private_check(p, err);
}

static void vsp_realize(VMBusDevice *d, Error **errp)
{
	struct vsp *p = vsp_of(d);
	char err[VSP_ERR];
	uint32_t i;

	p->region.fd = p->listener = p->control_listener = -1;
	p->offered = true;
	if (check_properties(p, err) < 0) {
		error_setg(errp, "portal-vsp: %s", err);
		return;
	}
	p->ch = g_new0(struct channel, p->nch);
	for (i = 0; i < p->nch; i++) {
		p->ch[i].vsp = p;
		p->ch[i].index = i;
		p->ch[i].vc = vmbus_device_channel(d, i);
	}
	p->messages = g_queue_new();
	p->waiter = timer_new_ms(QEMU_CLOCK_REALTIME, session_look, p);
	if (clients_listen(p, err) < 0 || control_listen(p, err) < 0)
		error_setg(errp, "portal-vsp: %s", err);
}

static void vsp_unrealize(VMBusDevice *d)
{
	struct vsp *p = vsp_of(d);

	timer_free(p->waiter);
	control_close(p);
	clients_close(p);
	offer_close(p);
	region_drop(&p->region);
	g_queue_free_full(p->messages, g_free);
	g_free(p->ch);
}

static const Property properties[] = {
	DEFINE_PROP_UINT16("channels", struct vsp, nch, 1),
	DEFINE_PROP_UINT32("host-peers", struct vsp, host_peers, 8),
	DEFINE_PROP_SIZE("max-region", struct vsp, max_region, 1ULL << 30),
	DEFINE_PROP_STRING("socket", struct vsp, socket),
	DEFINE_PROP_STRING("control", struct vsp, control),
	DEFINE_PROP_STRING("share", struct vsp, share),
	DEFINE_PROP_STRING("lie", struct vsp, lie),
	DEFINE_PROP_BOOL("take-subs", struct vsp, take_subs, false),
};

static void class_init(ObjectClass *k, void *data)
{
	VMBusDeviceClass *v = VMBUS_DEVICE_CLASS(k);
	DeviceClass *d = DEVICE_CLASS(k);

	(void)data;
	device_class_set_props(d, properties);
	d->desc = "portal: memory shared with processes of the host";
	set_bit(DEVICE_CATEGORY_MISC, d->categories);
	if (qemu_uuid_parse(PORTAL_VMBUS_CLASS, &v->classid))
		abort();
	v->channel_flags = VMBUS_CHANNEL_ENUMERATE_DEVICE_INTERFACE;
	v->num_channels = num_channels;
	v->open_channel = channel_open;
	v->close_channel = channel_close;
	v->chan_notify_cb = channel_notify;
	v->vmdev_realize = vsp_realize;
	v->vmdev_unrealize = vsp_unrealize;
	v->vmdev_reset = vsp_reset;
}

static const TypeInfo vsp_type = {
	.name = TYPE_VSP,
	.parent = TYPE_VMBUS_DEVICE,
	.instance_size = sizeof(struct vsp),
	.class_size = sizeof(VMBusDeviceClass),
	.class_init = class_init,
};

/* A device that is none of ours to the guest: another driver's, or new_id's. */
static void foreign_class_init(ObjectClass *k, void *data)
{
	(void)data;
	if (qemu_uuid_parse(FOREIGN_CLASS, &VMBUS_DEVICE_CLASS(k)->classid))
		abort();
}

static const TypeInfo foreign_type = {
	.name = TYPE_VSP "-foreign",
	.parent = TYPE_VSP,
	.class_init = foreign_class_init,
};

static void register_type(void)
{
	type_register_static(&vsp_type);
	type_register_static(&foreign_type);
}

/*
 * Loaded into whatever LD_PRELOAD is set for: only QEMU has these, and before its
 * main() runs the list of modules is there already.
 */
static void __attribute__((constructor)) loaded(void)
{
	if (dlsym(RTLD_DEFAULT, "vmbus_channel_send"))
		register_module_init(register_type, MODULE_INIT_QOM);
}
