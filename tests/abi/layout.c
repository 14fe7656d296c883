/* SPDX-License-Identifier: MIT */
/*
 * Prints size and offsets of every public structure; compiled as C and as C++, for
 * 64 and for 32 bits, and compared with layout.expected (abi.t).
 */
#include <stddef.h>
#include <stdio.h>

#include <linux/portal.h>
#include <linux/portal_layout.h>
#include <vmportal.h>
#include <vmportal_ring.h>

#define S(type) printf("%s %u\n", #type, (unsigned int)sizeof(struct type))
#define M(type, member) printf("%s.%s %u\n", #type, #member, (unsigned int)offsetof(struct type, member))
#define V(value) printf("%s 0x%llx\n", #value, (unsigned long long)(value))

static void kernel(void)
{
	S(portal_info);
	M(portal_info, size); M(portal_info, api_version); M(portal_info, caps);
	M(portal_info, region_size); M(portal_info, doorbell_offset); M(portal_info, mode);
	M(portal_info, cache); M(portal_info, vectors); M(portal_info, peer_id);
	M(portal_info, max_peers); M(portal_info, doorbell_format);
	M(portal_info, doorbell_register); M(portal_info, generation);
	M(portal_info, transport); M(portal_info, identity);
	S(portal_ring);
	M(portal_ring, size); M(portal_ring, flags); M(portal_ring, peer); M(portal_ring, vector);
	S(portal_eventfd);
	M(portal_eventfd, size); M(portal_eventfd, flags); M(portal_eventfd, vector);
	M(portal_eventfd, fd);
	S(portal_file);
	M(portal_file, size); M(portal_file, flags);
	S(portal_event);
	M(portal_event, type); M(portal_event, vector); M(portal_event, count);
	V(PORTAL_INFO); V(PORTAL_RING); V(PORTAL_EVENTFD); V(PORTAL_FILE);
	V(PORTAL_PEER_NONE); V(PORTAL_API_VERSION);
	V(PORTAL_CAP_DOORBELL); V(PORTAL_CAP_DOORBELL_PAGE); V(PORTAL_CAP_EVENTS);
	V(PORTAL_CAP_LARGE_PAGES); V(PORTAL_FILE_ZERO_ON_REVOKE);
}

static void shared(void)
{
	S(portal_chan_side);
	M(portal_chan_side, hello); M(portal_chan_side, capacity);
	M(portal_chan_side, incarnation); M(portal_chan_side, ack); M(portal_chan_side, ready);
	M(portal_chan_side, live); M(portal_chan_side, closed); M(portal_chan_side, address);
	M(portal_chan_side, consumed); M(portal_chan_side, rx_armed); M(portal_chan_side, ask);
	M(portal_chan_side, tx_armed); M(portal_chan_side, rx_rung); M(portal_chan_side, tx_rung);
	V(PORTAL_CHAN_MAGIC); V(PORTAL_CHAN_VERSION); V(PORTAL_CHAN_DOORBELL);
	V(PORTAL_CHAN_ALIGN); V(PORTAL_CHAN_MIN);
	V(VMPR_VALID); V(VMPR_PAD); V(VMPR_LEN); V(VMPR_LINE); V(VMPR_HEADER);
	V(VMPR_CAP_MIN); V(VMPR_CAP_MAX);
	V(vmpr_header(0x1240, 0x5eedf00d, 56)); V(vmpr_record(56)); V(vmpr_record(57));
	V(vmpr_max(65536));
}

static void library(void)
{
	S(vmp_info);
	M(vmp_info, size); M(vmp_info, peer_id); M(vmp_info, max_peers); M(vmp_info, vectors);
	M(vmp_info, caps); M(vmp_info, generation); M(vmp_info, reserved);
	M(vmp_info, transport); M(vmp_info, identity);
	S(vmp_channel_opts);
	M(vmp_channel_opts, size); M(vmp_channel_opts, side); M(vmp_channel_opts, offset);
	M(vmp_channel_opts, length); M(vmp_channel_opts, vector); M(vmp_channel_opts, flags);
	M(vmp_channel_opts, spin_us); M(vmp_channel_opts, reserved);
	S(vmp_stats);
	M(vmp_stats, sent); M(vmp_stats, sent_bytes); M(vmp_stats, received);
	M(vmp_stats, received_bytes); M(vmp_stats, doorbells); M(vmp_stats, wakeups);
	M(vmp_stats, sleeps); M(vmp_stats, syscalls);
	V(VMP_PEER_NONE); V(VMP_RDONLY); V(VMP_ZERO_ON_REVOKE); V(VMP_CH_NO_SLEEP); V(VMP_MORE);
	V(VMP_CAP_RING); V(VMP_CAP_EVENTS); V(VMP_CAP_DOORBELL_PAGE); V(VMP_CAP_LARGE_PAGES);
	V(VMP_CAP_WRITE_BACK);
}

int main(void)
{
	kernel();
	shared();
	library();
	return 0;
}
