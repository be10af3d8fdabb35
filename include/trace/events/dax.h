/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dax

#if !defined(_TRACE_DAX_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_DAX_H

#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(dax_claim_class,
	TP_PROTO(const char *device, const char *owner, bool shared,
		 pgoff_t pgoff, unsigned long nr_pages),
	TP_ARGS(device, owner, shared, pgoff, nr_pages),

	TP_STRUCT__entry(
		__string(device, device)
		__string(owner, owner)
		__field(bool, shared)
		__field(pgoff_t, pgoff)
		__field(unsigned long, nr_pages)
	),

	TP_fast_assign(
		__assign_str(device);
		__assign_str(owner);
		__entry->shared = shared;
		__entry->pgoff = pgoff;
		__entry->nr_pages = nr_pages;
	),

	TP_printk("%s %s %s pgoff %#lx nr_pages %#lx", __get_str(device),
		  __entry->shared ? "shared" : "exclusive", __get_str(owner),
		  __entry->pgoff, __entry->nr_pages)
);

#define DEFINE_DAX_CLAIM_EVENT(name)					\
DEFINE_EVENT(dax_claim_class, name,					\
	TP_PROTO(const char *device, const char *owner, bool shared,	\
		 pgoff_t pgoff, unsigned long nr_pages),		\
	TP_ARGS(device, owner, shared, pgoff, nr_pages))

/* Somebody became the holder of a range. */
DEFINE_DAX_CLAIM_EVENT(dax_claim);
/* The owner gave the range back, or what was left of it after a revoke. */
DEFINE_DAX_CLAIM_EVENT(dax_unclaim);
/* The device goes away: before and after the owner was told. */
DEFINE_DAX_CLAIM_EVENT(dax_revoke);
DEFINE_DAX_CLAIM_EVENT(dax_revoked);

/* Pages have a memory error, nobody was told yet. */
TRACE_EVENT(dax_poison,
	TP_PROTO(const char *device, pgoff_t pgoff, unsigned long nr_pages),
	TP_ARGS(device, pgoff, nr_pages),

	TP_STRUCT__entry(
		__string(device, device)
		__field(pgoff_t, pgoff)
		__field(unsigned long, nr_pages)
	),

	TP_fast_assign(
		__assign_str(device);
		__entry->pgoff = pgoff;
		__entry->nr_pages = nr_pages;
	),

	TP_printk("%s pgoff %#lx nr_pages %#lx", __get_str(device),
		  __entry->pgoff, __entry->nr_pages)
);

#endif /* _TRACE_DAX_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
