/* SPDX-License-Identifier: MIT */
/*
 * Prints size and offsets of every public structure; compiled as C and as C++, for
 * 64 and for 32 bits, and compared with layout.expected (abi.t).
 */
#include <stddef.h>
#include <stdio.h>

#include <linux/portal.h>
#include <linux/portal_layout.h>
#include <linux/portal_vmbus.h>
#include <vmportal.h>
#include <vmportal_packet.h>
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
	M(portal_info, first_vector); M(portal_info, flags);
	M(portal_info, protected_size);
	S(portal_ring);
	M(portal_ring, size); M(portal_ring, flags); M(portal_ring, peer); M(portal_ring, vector);
	S(portal_eventfd);
	M(portal_eventfd, size); M(portal_eventfd, flags); M(portal_eventfd, vector);
	M(portal_eventfd, fd);
	S(portal_file);
	M(portal_file, size); M(portal_file, flags);
	S(portal_bell);
	M(portal_bell, peer); M(portal_bell, vector);
	S(portal_window);
	M(portal_window, size); M(portal_window, flags); M(portal_window, offset);
	M(portal_window, length); M(portal_window, vectors); M(portal_window, bells);
	M(portal_window, nr_vectors); M(portal_window, nr_bells);
	S(portal_set_mode);
	M(portal_set_mode, mode);
	S(portal_session_begin);
	M(portal_session_begin, size); M(portal_session_begin, flags);
	M(portal_session_begin, vector); M(portal_session_begin, peer);
	M(portal_session_begin, token); M(portal_session_begin, incarnation);
	S(portal_fence);
	M(portal_fence, size); M(portal_fence, flags); M(portal_fence, slot); M(portal_fence, claim);
	V(PORTAL_SESSION); V(PORTAL_SESSION_END); V(PORTAL_SESSION_SILENT);
	V(PORTAL_FENCE); V(PORTAL_FENCE_SUSPECT); V(PORTAL_EVENT_CHANGE);
	S(portal_event);
	M(portal_event, type); M(portal_event, vector); M(portal_event, count);
	S(portal_packets);
	M(portal_packets, size); M(portal_packets, flags); M(portal_packets, vector);
	M(portal_packets, reserved); M(portal_packets, send_offset);
	M(portal_packets, send_size); M(portal_packets, recv_offset);
	M(portal_packets, recv_size);
	V(PORTAL_PACKETS); V(PORTAL_CAP_FLUSH); V(PORTAL_CAP_PACKETS);
	V(PORTAL_INFO); V(PORTAL_RING); V(PORTAL_EVENTFD); V(PORTAL_FILE);
	V(PORTAL_WINDOW); V(PORTAL_WINDOW_WRITE); V(PORTAL_WINDOW_ALIGN); V(PORTAL_WINDOW_MAX_BELLS);
	V(PORTAL_ANY); V(PORTAL_INFO_WINDOW);
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
	M(portal_chan_side, tenure); M(portal_chan_side, token);
	M(portal_chan_side, consumed); M(portal_chan_side, shown); M(portal_chan_side, rx_armed); M(portal_chan_side, ask);
	M(portal_chan_side, tx_armed); M(portal_chan_side, rx_rung); M(portal_chan_side, tx_rung);
	V(PORTAL_CHAN_MAGIC); V(PORTAL_CHAN_VERSION); V(PORTAL_CHAN_DOORBELL);
	V(PORTAL_CHAN_ALIGN); V(PORTAL_CHAN_MIN);
	V(VMPR_VALID); V(VMPR_PAD); V(VMPR_LEN); V(VMPR_LINE); V(VMPR_HEADER);
	V(VMPR_CAP_MIN); V(VMPR_CAP_MAX);
	V(vmpr_header(0x1240, 0x5eedf00d, 56)); V(vmpr_record(56)); V(vmpr_record(57));
	V(vmpr_max(65536));
}

static void managed(void)
{
	S(portal_area);
	M(portal_area, offset); M(portal_area, length); M(portal_area, stride); M(portal_area, count);
	S(portal_super);
	M(portal_super, magic); M(portal_super, checksum); M(portal_super, version);
	M(portal_super, incompat); M(portal_super, compat); M(portal_super, size);
	M(portal_super, protected_size); M(portal_super, incarnation); M(portal_super, created);
	M(portal_super, uuid); M(portal_super, name); M(portal_super, creator);
	M(portal_super, peers); M(portal_super, sessions); M(portal_super, reserved0);
	M(portal_super, area); M(portal_super, reserved1);
	S(portal_peer);
	M(portal_peer, claim); M(portal_peer, dead); M(portal_peer, suspect);
	M(portal_peer, reason); M(portal_peer, reserved0); M(portal_peer, life);
	M(portal_peer, incarnation); M(portal_peer, kind); M(portal_peer, vectors);
	M(portal_peer, notice); M(portal_peer, heartbeat_ms); M(portal_peer, joined);
	M(portal_peer, features); M(portal_peer, machine); M(portal_peer, name);
	M(portal_peer, heartbeat); M(portal_peer, changes); M(portal_peer, reserved1);
	S(portal_session);
	M(portal_session, life); M(portal_session, claim); M(portal_session, address);
	M(portal_session, vector); M(portal_session, pid); M(portal_session, uid);
	M(portal_session, started); M(portal_session, features); M(portal_session, name);
	M(portal_session, reserved);
	V(PORTAL_MAGIC); V(PORTAL_MAGIC_FORMATTING); V(PORTAL_LAYOUT_VERSION);
	V(PORTAL_SUPER_SIZE); V(PORTAL_AREA_ALIGN); V(PORTAL_UNIT); V(PORTAL_LAYOUT_MIN);
	V(PORTAL_MAX_PEERS); V(PORTAL_MAX_SESSIONS); V(PORTAL_MAX_OBJECTS); V(PORTAL_MAX_USES);
	V(PORTAL_SLOT_BITS); V(PORTAL_SEQUENCE_MAX); V(PORTAL_AREAS); V(PORTAL_AREA_SLOTS);
	V(PORTAL_LIFE_NONE); V(PORTAL_LIFE_JOINING); V(PORTAL_LIFE_ALIVE);
	V(PORTAL_LIFE_ASLEEP); V(PORTAL_LIFE_DEAD); V(PORTAL_REASON_SILENT);
}

static void directory(void)
{
	S(portal_lock);
	M(portal_lock, owner); M(portal_lock, previous); M(portal_lock, count);
	M(portal_lock, flags); M(portal_lock, waiter); M(portal_lock, reserved1);
	S(portal_redo_store);
	S(portal_redo);
	M(portal_redo, state); M(portal_redo, checksum); M(portal_redo, count);
	M(portal_redo, reserved); M(portal_redo, store);
	S(portal_directory);
	M(portal_directory, lock); M(portal_directory, generation); M(portal_directory, watcher);
	M(portal_directory, reserved1); M(portal_directory, redo); M(portal_directory, reserved2);
	S(portal_object);
	M(portal_object, life); M(portal_object, kind); M(portal_object, format);
	M(portal_object, offset); M(portal_object, length); M(portal_object, size);
	M(portal_object, mode); M(portal_object, flags); M(portal_object, creator);
	M(portal_object, created); M(portal_object, param); M(portal_object, name);
	M(portal_object, reserved);
	S(portal_use);
	M(portal_use, object); M(portal_use, token); M(portal_use, flags);
	S(portal_hub);
	M(portal_hub, consumer); M(portal_hub, address); M(portal_hub, count);
	S(portal_hub_lane);
	M(portal_hub_lane, owner); M(portal_hub_lane, left);
	V(PORTAL_HUB_FORMAT); V(PORTAL_HUB_RESET); V(PORTAL_HUB_LANES);
	V(PORTAL_HUB_CAPACITY_MIN); V(PORTAL_HUB_CAPACITY_MAX);
	V(PORTAL_REDO_STORES); V(PORTAL_LOCK_BROKEN); V(PORTAL_LOCK_REPAIR); V(PORTAL_OBJECT_EPHEMERAL);
	V(PORTAL_OBJECT_NONE); V(PORTAL_OBJECT_MAKING); V(PORTAL_OBJECT_NAMED); V(PORTAL_OBJECT_UNLINKED);
	V(PORTAL_OBJECT_FREE); V(PORTAL_KIND_RAW); V(PORTAL_KIND_CHANNEL);
}

static void looking(void)
{
	S(vmp_hub_opts);
	M(vmp_hub_opts, flags); M(vmp_hub_opts, lanes); M(vmp_hub_opts, vector);
	M(vmp_hub_opts, capacity); M(vmp_hub_opts, mode); M(vmp_hub_opts, spin_us);
	S(vmp_from);
	M(vmp_from, event); M(vmp_from, flags); M(vmp_from, token); M(vmp_from, serial);
	M(vmp_from, lane);
	S(vmp_format_opts);
	M(vmp_format_opts, uuid); M(vmp_format_opts, name);
	S(vmp_layout);
	M(vmp_layout, size); M(vmp_layout, peers); M(vmp_layout, generation);
	M(vmp_layout, lock_flags); M(vmp_layout, uuid); M(vmp_layout, name);
	M(vmp_layout, creator); M(vmp_layout, area);
	S(vmp_peer);
	M(vmp_peer, vectors); M(vmp_peer, sequence); M(vmp_peer, changes); M(vmp_peer, name);
	S(vmp_session);
	M(vmp_session, vector); M(vmp_session, token); M(vmp_session, name);
	S(vmp_object);
	M(vmp_object, mode); M(vmp_object, id); M(vmp_object, created); M(vmp_object, name);
	S(vmp_use);
	V(offsetof(struct vmp_damage, index) - 3 * sizeof(void *));
	V(VMP_FORMAT_FORCE); V(VMP_FORMAT_IN_USE); V(VMP_AREAS); V(VMP_LAYOUT_DAMAGED);
	V(VMP_MODE_RAW); V(VMP_MODE_MANAGED); V(VMP_STATE_SUSPECT);
}

static void vmbus(void)
{
	S(portal_vmbus_header);
	M(portal_vmbus_header, magic); M(portal_vmbus_header, type);
	M(portal_vmbus_header, size);
	S(portal_vmbus_hello);
	M(portal_vmbus_hello, header); M(portal_vmbus_hello, min_version);
	M(portal_vmbus_hello, max_version); M(portal_vmbus_hello, features);
	M(portal_vmbus_hello, region_size); M(portal_vmbus_hello, vectors);
	M(portal_vmbus_hello, reserved);
	S(portal_vmbus_welcome);
	M(portal_vmbus_welcome, header); M(portal_vmbus_welcome, version);
	M(portal_vmbus_welcome, channels); M(portal_vmbus_welcome, features);
	M(portal_vmbus_welcome, region_size); M(portal_vmbus_welcome, peer_id);
	M(portal_vmbus_welcome, max_peers);
	S(portal_vmbus_refuse);
	M(portal_vmbus_refuse, header); M(portal_vmbus_refuse, error);
	M(portal_vmbus_refuse, text);
	S(portal_vmbus_piece);
	M(portal_vmbus_piece, gpadl); M(portal_vmbus_piece, pages);
	S(portal_vmbus_memory);
	M(portal_vmbus_memory, header); M(portal_vmbus_memory, first_page);
	M(portal_vmbus_memory, count); M(portal_vmbus_memory, reserved);
	M(portal_vmbus_memory, pieces);
	S(portal_vmbus_ready);
	M(portal_vmbus_ready, header); M(portal_vmbus_ready, pages);
	M(portal_vmbus_ready, pieces); M(portal_vmbus_ready, channels);
	S(portal_vmbus_plain);
	M(portal_vmbus_plain, header); M(portal_vmbus_plain, reserved);
	V(PORTAL_VMBUS_VERSION); V(PORTAL_VMBUS_CONTROL); V(PORTAL_VMBUS_MAGIC);
	V(PORTAL_VMBUS_PAGE); V(PORTAL_VMBUS_ALIGN); V(PORTAL_VMBUS_MAX_PEERS);
	V(PORTAL_VMBUS_MAX_VECTORS); V(PORTAL_VMBUS_MAX_PIECES); V(PORTAL_VMBUS_MAX_GPADL);
	V(PORTAL_VMBUS_HELLO); V(PORTAL_VMBUS_WELCOME); V(PORTAL_VMBUS_REFUSE);
	V(PORTAL_VMBUS_MEMORY); V(PORTAL_VMBUS_READY); V(PORTAL_VMBUS_LIVE);
	V(PORTAL_VMBUS_BYE); V(PORTAL_VMBUS_BYE_ACK);
	V(PORTAL_VMBUS_REGION); V(PORTAL_VMBUS_PACKETS);
	printf("PORTAL_VMBUS_CLASS %s\n", PORTAL_VMBUS_CLASS);
}

static void library(void)
{
	S(vmp_info);
	M(vmp_info, size); M(vmp_info, peer_id); M(vmp_info, max_peers); M(vmp_info, vectors);
	M(vmp_info, caps); M(vmp_info, generation); M(vmp_info, mode);
	M(vmp_info, transport); M(vmp_info, identity);
	M(vmp_info, first_vector);
	S(vmp_channel_opts);
	M(vmp_channel_opts, size); M(vmp_channel_opts, side); M(vmp_channel_opts, offset);
	M(vmp_channel_opts, length); M(vmp_channel_opts, vector); M(vmp_channel_opts, flags);
	M(vmp_channel_opts, spin_us); M(vmp_channel_opts, reserved);
	S(vmp_window_opts);
	M(vmp_window_opts, size); M(vmp_window_opts, flags); M(vmp_window_opts, offset);
	M(vmp_window_opts, length); M(vmp_window_opts, wait); M(vmp_window_opts, ring);
	M(vmp_window_opts, peer); M(vmp_window_opts, reserved);
	S(vmp_stats);
	M(vmp_stats, sent); M(vmp_stats, sent_bytes); M(vmp_stats, received);
	M(vmp_stats, received_bytes); M(vmp_stats, doorbells); M(vmp_stats, wakeups);
	M(vmp_stats, sleeps); M(vmp_stats, syscalls);
	V(VMP_PEER_NONE); V(VMP_RDONLY); V(VMP_ZERO_ON_REVOKE); V(VMP_CH_NO_SLEEP); V(VMP_MORE);
	V(VMP_CAP_RING); V(VMP_CAP_EVENTS); V(VMP_CAP_DOORBELL_PAGE); V(VMP_CAP_LARGE_PAGES);
	V(VMP_CAP_WRITE_BACK); V(VMP_CAP_PACKETS); V(VMP_CH_PACKETS);
	V(VMP_CAP_WINDOW); V(VMP_WINDOW_RDONLY); V(VMP_WINDOW_ALIGN); V(VMP_PEER_ANY);
	S(vmp_packet);
	M(vmp_packet, type); M(vmp_packet, flags); M(vmp_packet, extra); M(vmp_packet, id);
	V(VMP_PACKET_DATA); V(VMP_PACKET_COMPLETION); V(VMP_PACKET_WANT_COMPLETION);
}

/* VMBus's own bytes: not ours to change. */
static void packets(void)
{
	S(vmpk_ring);
	M(vmpk_ring, write_index); M(vmpk_ring, read_index); M(vmpk_ring, interrupt_mask);
	M(vmpk_ring, pending_send_sz); M(vmpk_ring, feature_bits);
	S(vmpk_desc);
	M(vmpk_desc, type); M(vmpk_desc, offset8); M(vmpk_desc, len8); M(vmpk_desc, flags);
	M(vmpk_desc, id);
	V(vmpk_bytes(0, 1)); V(vmpk_max(4096, 0)); V(vmpk_max(1 << 20, 8));
}

int main(void)
{
	kernel();
	shared();
	managed();
	directory();
	vmbus();
	library();
	packets();
	looking();
	return 0;
}
