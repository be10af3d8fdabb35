/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __DAX_CLAIM_H__
#define __DAX_CLAIM_H__

#include <linux/bitmap.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/types.h>

struct dax_claim;
struct dax_device;
struct dev_dax;
struct device;
struct file;

/**
 * enum dax_claim_kind - who else may use a claimed range
 * @DAX_CLAIM_EXCLUSIVE: nobody.  Other claims, mmap() and fallocate() of the
 *	character device fail, a mapping that exists nevertheless gets SIGBUS.
 * @DAX_CLAIM_SHARED: other shared claims, and mappings and pins of the
 *	character device
 */
enum dax_claim_kind {
	DAX_CLAIM_EXCLUSIVE,
	DAX_CLAIM_SHARED,
};

/**
 * struct dax_claim_ops - what the dax core tells the owner of a claim
 * @name: what kind of owner it is, for debugfs and tracing
 * @revoke: the device goes away; may be NULL for an owner that looks at
 *	dax_claim_dead() often enough.  Called at most once, with the claim dead
 *	already and the device still alive: dax_direct_access() works until
 *	revoke returns, and never again for this claim.  When it returns
 *	nobody must be able to reach the memory any more.
 *
 *	Context: may sleep.  device_lock or dax_region_rwsem is held, so it
 *	must not wait for them, for a dax_srcu grace period or for dax_unclaim()
 *	of the same claim.  May be called as soon as dax_claim() made the claim
 *	visible, that is, before dax_claim() returns.
 * @unwiped: bytes that the owner has still to wipe before it lets go, for
 *	debugfs; may be NULL.  Quick: it is called with a spinlock held, from the
 *	moment that the claim is visible.
 * @memory_failure: pages of the claim have a memory error, and are on record
 *	(dax_poison_find()) already; NULL for an owner that does not care.  When
 *	it returns, nobody must be able to reach the pages by way of the owner.
 *	Called in the same context as @revoke, and never at the same time, but
 *	under a reference to the pgmap, which unbind waits for.
 */
struct dax_claim_ops {
	const char *name;
	void (*revoke)(struct dax_claim *claim);
	u64 (*unwiped)(struct dax_claim *claim);
	void (*memory_failure)(struct dax_claim *claim, pgoff_t pgoff,
			       unsigned long nr_pages);
};

/**
 * struct dax_claim - holder of a part of one dax device
 * @ops: set by the owner
 * @kind: set by the owner
 * @pgoff: first page, from the start of the device
 * @nr_pages: size of the claim
 * @dead: the device is going, or has gone, away.  Sticky: a device that is
 *	bound again is not the one that was claimed.  Set before @revoke of
 *	@ops is called.
 * @undecided: dax_claim() is still looking for mappings and pins
 * @dax_dev: claimed device
 * @pid: who made the claim, as debugfs shows it
 * @entry: in the device's list, ordered by @pgoff; empty once the claim is
 *	revoked
 */
struct dax_claim {
	const struct dax_claim_ops *ops;
	enum dax_claim_kind kind;

	/* set by dax_claim(), constant while the claim stands */
	pgoff_t pgoff;
	unsigned long nr_pages;
	struct dax_device *dax_dev;
	pid_t pid;

	bool dead;
	bool undecided;
	struct list_head entry;
};

/* The more, the less of a large device is looked at for one mapped page. */
#define DAX_MAPPED_BITS 1024

/**
 * struct dax_mapped - parts of a device that have been mapped since it was bound
 * @shift: log2 of the number of pages for which a bit stands
 * @bits: set by faults, never cleared
 */
struct dax_mapped {
	unsigned int shift;
	DECLARE_BITMAP(bits, DAX_MAPPED_BITS);
};

/**
 * struct dax_claims - the claims of one dax_device
 * @lock: protects @list, @enabled, and the state of the claims; also taken to
 *	install a holder.  Innermost, not held across callbacks.
 * @list: claims that are not revoked, ordered by pgoff
 * @enabled: device_dax is bound and nobody began to kill the device
 * @call_lock: held while owners are called, and to take a claim off @list: an
 *	owner that was called is still there.  Makes a second kill_dev_dax() wait
 *	for the callbacks of the first one, since they need a device that is
 *	alive.  Taken inside device_lock, dax_region_rwsem and the mf_mutex of
 *	memory_failure(), outside of all locks of the owners.
 * @mapped: where there may be pins
 */
struct dax_claims {
	/* protects list, enabled and each claim's dead */
	spinlock_t lock;
	struct list_head list;
	bool enabled;
	/* held while owners are called */
	struct mutex call_lock;
	struct dax_mapped mapped;
};

int dax_claim(struct dax_claim *claim, struct file *file, u64 offset, u64 size);
void dax_unclaim(struct dax_claim *claim);
struct dev_dax *dax_claim_dev_dax(struct dax_claim *claim);

static inline bool dax_claim_dead(const struct dax_claim *claim)
{
	return READ_ONCE(claim->dead);
}

/* for the drivers and the core of the dax bus */
void dax_claims_init(struct dax_claims *claims);
int dax_range_check(struct dax_device *dax_dev, pgoff_t pgoff,
		    unsigned long nr_pages);
void dax_mapped_add(struct dax_device *dax_dev, pgoff_t pgoff);
int dax_range_pinned(struct dax_device *dax_dev, pgoff_t pgoff,
		     unsigned long nr_pages);
int dax_find_in_use(struct dax_device *dax_dev, pgoff_t pgoff,
		    unsigned long nr_pages, pgoff_t *in_use);
void dax_claims_enable(struct dax_device *dax_dev);
void dax_claims_kill(struct dax_device *dax_dev);
bool dax_claims_memory_failure(struct dax_device *dax_dev, pgoff_t pgoff,
			       unsigned long nr_pages);
u64 dax_claimed_size(struct dax_device *dax_dev);
void dax_claims_debugfs_init(void);
void dax_claims_debugfs_exit(void);
#endif /* __DAX_CLAIM_H__ */
