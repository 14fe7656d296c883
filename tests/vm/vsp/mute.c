// SPDX-License-Identifier: MIT
/*
 * A host that answers nothing: QEMU's bus believes that a message of its own is on its
 * way to the guest, and does nothing until that has arrived. Requests of the guest wait
 * in its queue, rings and signals work as ever, and so do messages of our own (offer.c).
 *
 * It speaks again when a message has arrived: one that Linux takes and ignores. If the
 * answer to an opening was under way, the bus then believes that this was it, so that
 * one is sent by us.
 */
#include "vsp.h"

int mute_begin(struct vsp *p, char *err)
{
	if (p->muted)
		return vsp_fail(err, -EALREADY, "it is mute already");
	if (!private_mute(p))
		return vsp_fail(err, -EBUSY, "the bus is saying something");
	p->muted = true;
	vsp_log(p, "mute");
	return 0;
}

int mute_end(struct vsp *p, char *err)
{
	/* A message that only hosts receive. */
	vmbus_message_header noise = { .message_type = VMBUS_MSG_OPENCHANNEL };
	struct hyperv_message m = {
		.header.message_type = HV_MESSAGE_VMBUS,
		.header.payload_size = ROUND_UP(sizeof(noise), 8),
	};
	vmbus_message_open_result late;
	int r;

	if (!p->muted)
		return vsp_fail(err, -EALREADY, "it speaks already");
	p->muted = false;
	vsp_log(p, "speaks again");
	memcpy(m.payload, &noise, sizeof(noise));
	r = private_open_result(p, &late) ? offer_post(p, &late, sizeof(late), err) : 0;
	return r ? r : private_speak(p, &m, err);
}

/* As a lie that is told now; the bus cannot be busy where these are. */
void mute_if(struct vsp *p, const char *lie)
{
	char err[VSP_ERR];

	if (lying(p, lie) && mute_begin(p, err) < 0)
		vsp_log(p, "%s: %s", lie, err);
}
