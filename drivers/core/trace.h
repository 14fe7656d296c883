/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints: /sys/kernel/tracing/events/portal/. "portal" is N of
 * /dev/portalN. No strings, so that nothing here depends on the kernel.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM portal

#if !defined(_PORTAL_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _PORTAL_TRACE_H

#include <linux/tracepoint.h>

/* A doorbell was rung by system call; not those rung through the doorbell page. */
TRACE_EVENT(portal_doorbell,
	TP_PROTO(int portal, u32 peer, u32 vector, int result),
	TP_ARGS(portal, peer, vector, result),
	TP_STRUCT__entry(
		__field(int, portal)
		__field(u32, peer)
		__field(u32, vector)
		__field(int, result)
	),
	TP_fast_assign(
		__entry->portal = portal;
		__entry->peer = peer;
		__entry->vector = vector;
		__entry->result = result;
	),
	TP_printk("portal=%d peer=%u vector=%u result=%d",
		  __entry->portal, __entry->peer, __entry->vector, __entry->result)
);

/* A doorbell arrived; count is the vector's, this one included. */
TRACE_EVENT(portal_interrupt,
	TP_PROTO(int portal, u32 vector, unsigned long count),
	TP_ARGS(portal, vector, count),
	TP_STRUCT__entry(
		__field(int, portal)
		__field(u32, vector)
		__field(unsigned long, count)
	),
	TP_fast_assign(
		__entry->portal = portal;
		__entry->vector = vector;
		__entry->count = count;
	),
	TP_printk("portal=%d vector=%u count=%lu",
		  __entry->portal, __entry->vector, __entry->count)
);

/* A page fault: pages is how many the fault made present, 0 if it failed. */
TRACE_EVENT(portal_fault,
	TP_PROTO(int portal, u64 offset, unsigned long pages, unsigned int result),
	TP_ARGS(portal, offset, pages, result),
	TP_STRUCT__entry(
		__field(int, portal)
		__field(u64, offset)
		__field(unsigned long, pages)
		__field(unsigned int, result)
	),
	TP_fast_assign(
		__entry->portal = portal;
		__entry->offset = offset;
		__entry->pages = pages;
		__entry->result = result;
	),
	TP_printk("portal=%d offset=%#llx pages=%lu result=%#x",
		  __entry->portal, __entry->offset, __entry->pages, __entry->result)
);

/* The portal was taken away from user space. */
TRACE_EVENT(portal_revoke,
	TP_PROTO(int portal),
	TP_ARGS(portal),
	TP_STRUCT__entry(
		__field(int, portal)
	),
	TP_fast_assign(
		__entry->portal = portal;
	),
	TP_printk("portal=%d", __entry->portal)
);

/* A process's session began, or ended: no store by it is possible any more. */
TRACE_EVENT(portal_session,
	TP_PROTO(int portal, u64 token, bool begun),
	TP_ARGS(portal, token, begun),
	TP_STRUCT__entry(
		__field(int, portal)
		__field(u64, token)
		__field(bool, begun)
	),
	TP_fast_assign(
		__entry->portal = portal;
		__entry->token = token;
		__entry->begun = begun;
	),
	TP_printk("portal=%d token=%#llx begun=%d",
		  __entry->portal, __entry->token, __entry->begun)
);

/* This machine was declared dead, or another has its row. */
TRACE_EVENT(portal_lost,
	TP_PROTO(int portal, u32 slot, u64 claim),
	TP_ARGS(portal, slot, claim),
	TP_STRUCT__entry(
		__field(int, portal)
		__field(u32, slot)
		__field(u64, claim)
	),
	TP_fast_assign(
		__entry->portal = portal;
		__entry->slot = slot;
		__entry->claim = claim;
	),
	TP_printk("portal=%d slot=%u claim=%#llx",
		  __entry->portal, __entry->slot, __entry->claim)
);

/* Words of this machine's rows were overwritten by another, and put right. */
TRACE_EVENT(portal_repair,
	TP_PROTO(int portal, u32 slot, u32 words),
	TP_ARGS(portal, slot, words),
	TP_STRUCT__entry(
		__field(int, portal)
		__field(u32, slot)
		__field(u32, words)
	),
	TP_fast_assign(
		__entry->portal = portal;
		__entry->slot = slot;
		__entry->words = words;
	),
	TP_printk("portal=%d slot=%u words=%u",
		  __entry->portal, __entry->slot, __entry->words)
);

#endif /* _PORTAL_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
