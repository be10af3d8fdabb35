// SPDX-License-Identifier: GPL-2.0
/*
 * Claims: who owns which part of a device-dax instance
 *
 * The dax core knows one holder of a whole dax_device, a file system.  A claim
 * is a holder of a range of a device that is bound to device_dax, and there
 * may be many.  Exclusive claims keep everybody else out of their range,
 * shared claims only want to be told when the device goes away.
 *
 * Lifetime.  A claim pins the dax_device's inode and the struct device, so
 * that its pointers stay valid, but neither the driver nor the open file that
 * it was made through, and never the device's liveness: unbind does not wait
 * for owners, it revokes.
 *
 * Revocation.  kill_dev_dax() first turns off new claims and marks all claims
 * dead, in one critical section, then calls the owners one after the other,
 * and only then kills the dax_device.  So an owner finds the device alive in
 * its callback, and whoever tests dax_claim_dead() finds it true before
 * the callback began.  In a dax read section that has found it false the device
 * stays alive until the section ends.  A claim is off the list once it is
 * revoked; the device that is bound the next time starts with none.
 *
 * Mappings and pins.  device_dax checks dax_range_check() when it maps and,
 * because a mapping may be older than a claim, at each fault.  dax_claim()
 * makes the claim visible first, then looks for VMAs, then for references to
 * pages, see pins.c:
 *
 *  - A VMA that enters i_mmap after the look has its faults refused: each of
 *    them finds the claim.  A VMA that is there makes the claim fail, whether
 *    its faults saw the claim or not.
 *
 *  - A VMA that has left i_mmap has no page mapped: munmap() waits for faults
 *    that are under way, and takes the pages out before the VMA.  That also
 *    orders what these faults recorded before the look at it.
 *
 *  - munmap() drops the reference of a mapping after it has flushed the TLBs.
 *    A CPU that still has a stale translation shows as a pin.
 *
 *  - A pin that was taken through such a mapping counts from before the mapping
 *    gave up its reference, so the look at the count finds one or the other.
 *    GUP-fast adds to the count before it looks at the page table again: if its
 *    addition comes after our look, then the entry was gone before, and it
 *    takes back what it added.
 *
 *  - Without a mapping only who has a pin can make another one.
 *
 * Faults in the range of a claim that is not decided yet are repeated, for the
 * claim may fail, and nobody is to get SIGBUS for a claim that was refused.
 *
 * So a count of one stays one until the claim ends.  Who pins through the
 * mapping of a guest_memfd holds a reference that may outlive the claim; that
 * is recorded too, for the next one to find.
 *
 * Memory errors.  The page is recorded (see poison.c) before its owners are
 * told: an owner that takes its mappings away then, and looks at the record
 * whenever it makes one, is left with none.
 *
 * Locks: device_lock, dax_region_rwsem, mf_mutex -> dax_claims.call_lock ->
 * (locks that owners take in their callbacks) -> dax_claims.lock
 */
#include <linux/dax.h>
#include <linux/debugfs.h>
#include <linux/device.h>
#include <linux/overflow.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include "dax-private.h"
#include "bus.h"

#define CREATE_TRACE_POINTS
#include <trace/events/dax.h>

#define trace_claim(event, claim)					\
	trace_##event(dev_name(&dax_claim_dev_dax(claim)->dev),		\
		      (claim)->ops->name,				\
		      (claim)->kind == DAX_CLAIM_SHARED,		\
		      (claim)->pgoff, (claim)->nr_pages)

void dax_claims_init(struct dax_claims *claims)
{
	spin_lock_init(&claims->lock);
	INIT_LIST_HEAD(&claims->list);
	mutex_init(&claims->call_lock);
}

static bool claim_overlaps(const struct dax_claim *claim, pgoff_t pgoff,
			   unsigned long nr_pages)
{
	return pgoff < claim->pgoff + claim->nr_pages &&
	       claim->pgoff < pgoff + nr_pages;
}

/**
 * dax_range_check - does somebody own a part of this range exclusively
 * @dax_dev: the device
 * @pgoff: first page
 * @nr_pages: number of pages
 *
 * For the paths by which user space gets at the memory without a claim.
 *
 * Return: 0; -EBUSY if they have to stay away; -EAGAIN if somebody is in
 * dax_claim(), and may fail because of what the caller has.
 */
int dax_range_check(struct dax_device *dax_dev, pgoff_t pgoff,
		    unsigned long nr_pages)
{
	struct dax_claims *claims = &dax_dev->claims;
	struct dax_claim *claim;

	/* A claim that is being added now looks for our VMA afterwards. */
	if (list_empty_careful(&claims->list))
		return 0;

	guard(spinlock)(&claims->lock);
	list_for_each_entry(claim, &claims->list, entry) {
		if (claim->kind == DAX_CLAIM_EXCLUSIVE &&
		    claim_overlaps(claim, pgoff, nr_pages))
			return claim->undecided ? -EAGAIN : -EBUSY;
	}
	return 0;
}
EXPORT_SYMBOL_GPL(dax_range_check);

/*
 * Does a process have a part of the range mapped through the character device?
 * Mappings of an earlier binding are without pages, and their faults fail.
 */
static bool dax_range_mapped(struct dax_device *dax_dev, pgoff_t pgoff,
			     unsigned long nr_pages)
{
	struct address_space *mapping = dax_dev->inode.i_mapping;
	struct vm_area_struct *vma;
	struct rb_node *node;
	bool mapped = false;

	/* Few processes map one device: no need for the tree's order. */
	i_mmap_lock_read(mapping);
	for (node = rb_first_cached(&mapping->i_mmap); node && !mapped;
	     node = rb_next(node)) {
		vma = rb_entry(node, struct vm_area_struct, shared.rb);
		mapped = dax_file_current(dax_dev, vma->vm_file) &&
			 vma->vm_pgoff < pgoff + nr_pages &&
			 pgoff < vma->vm_pgoff + vma_pages(vma);
	}
	i_mmap_unlock_read(mapping);
	return mapped;
}

/* The claim is visible: can anybody still get at its range, but its owner? */
static int dax_claim_decide(struct dax_claim *claim)
{
	int rc;

	if (claim->kind != DAX_CLAIM_EXCLUSIVE)
		return 0;
	if (dax_range_mapped(claim->dax_dev, claim->pgoff, claim->nr_pages))
		return -EBUSY;
	rc = dax_range_pinned(claim->dax_dev, claim->pgoff, claim->nr_pages);
	if (rc)
		return rc;

	guard(spinlock)(&claim->dax_dev->claims.lock);
	claim->undecided = false;
	return 0;
}

static int dax_claim_add(struct dax_claim *claim)
{
	struct dax_claims *claims = &claim->dax_dev->claims;
	struct list_head *pos = &claims->list;
	struct dax_claim *other;

	guard(spinlock)(&claims->lock);
	if (!claims->enabled)
		return -ENODEV;
	if (claim->dax_dev->holder_data)
		return -EBUSY;

	list_for_each_entry(other, &claims->list, entry) {
		if (claim_overlaps(other, claim->pgoff, claim->nr_pages) &&
		    (other->kind == DAX_CLAIM_EXCLUSIVE ||
		     claim->kind == DAX_CLAIM_EXCLUSIVE))
			return -EBUSY;
		if (other->pgoff <= claim->pgoff)
			pos = &other->entry;
	}
	list_add(&claim->entry, pos);
	return 0;
}

static void dax_claim_del(struct dax_claim *claim)
{
	struct dax_claims *claims = &claim->dax_dev->claims;

	/*
	 * Wait for callbacks, which end without anything that we could hold. If
	 * the claim is dead by then, dax_claims_kill() took it off the list.
	 */
	guard(mutex)(&claims->call_lock);
	guard(spinlock)(&claims->lock);
	list_del_init(&claim->entry);
}

static int dax_claim_check(struct dax_claim *claim, struct dev_dax *dev_dax,
			   struct file *file, u64 offset, u64 size)
{
	struct device_driver *drv = dev_dax->dev.driver;
	u64 granule = PAGE_SIZE, end;

	if (!drv)
		return -ENODEV;
	if (to_dax_drv(drv)->type != DAXDRV_DEVICE_TYPE)
		return -EBUSY;
	if (!dax_file_current(dev_dax->dax_dev, file))
		return -ENODEV;

	/* Its ranges and its alignment are constant while it is bound. */
	if (claim->kind == DAX_CLAIM_EXCLUSIVE)
		granule = dev_dax->align;
	if (!size || !IS_ALIGNED(offset | size, granule))
		return -EINVAL;
	if (check_add_overflow(offset, size, &end) ||
	    end > PFN_PHYS(dev_dax_pages(dev_dax)))
		return -EINVAL;
	return 0;
}

/**
 * dax_claim - become a holder of a part of a dax device
 * @claim: to be filled in; @claim->ops and @claim->kind are set by the caller
 * @file: open /dev/daxX.Y that names the device; not needed afterwards
 * @offset: in bytes from the start of the device
 * @size: in bytes
 *
 * @offset and @size are multiples of the alignment of the device for an
 * exclusive claim, of the page size for a shared one.  The owner must be ready
 * for @claim->ops->revoke before the call: make the claim last.
 *
 * Context: may sleep, takes device_lock.
 * Return: 0, or
 * -EINVAL @file is not a dax character device, or the range is not one of it;
 * -ENODEV the device is not bound, is being unbound, or was bound anew since
 *  @file was opened;
 * -EBUSY it is bound to another driver, has a holder, or the range is claimed,
 *  or mapped or pinned (exclusive claims only);
 * -EINTR a signal arrived while somebody was binding or unbinding the device,
 *  or a fatal one while pins were looked for.
 */
int dax_claim(struct dax_claim *claim, struct file *file, u64 offset, u64 size)
{
	struct dax_device *dax_dev = dax_file_device(file);
	struct dev_dax *dev_dax;
	struct device *dev;
	int rc;

	if (!dax_dev)
		return -EINVAL;

	/* Constant, and pinned by way of the cdev that @file holds open. */
	dev_dax = dax_dev->private;
	dev = &dev_dax->dev;

	rc = device_lock_interruptible(dev);
	if (rc)
		return rc;
	rc = dax_claim_check(claim, dev_dax, file, offset, size);
	if (rc)
		goto out_unlock;

	claim->dax_dev = dax_dev;
	claim->pgoff = PHYS_PFN(offset);
	claim->nr_pages = PHYS_PFN(size);
	claim->pid = task_tgid_nr(current);
	claim->dead = false;
	claim->undecided = claim->kind == DAX_CLAIM_EXCLUSIVE;
	INIT_LIST_HEAD(&claim->entry);

	rc = dax_claim_add(claim);
	if (rc)
		goto out_unlock;
	rc = dax_claim_decide(claim);
	if (rc) {
		/* No fault is to wait for the callbacks that keep it listed. */
		scoped_guard(spinlock, &dax_dev->claims.lock)
			claim->kind = DAX_CLAIM_SHARED;
		dax_claim_del(claim);
		goto out_unlock;
	}

	ihold(&dax_dev->inode);
	get_device(dev);
	trace_claim(dax_claim, claim);

out_unlock:
	device_unlock(dev);
	return rc;
}
EXPORT_SYMBOL_GPL(dax_claim);

/**
 * dax_unclaim - end a claim
 * @claim: claim that dax_claim() made, dead or alive
 *
 * Waits for callbacks that are under way, of this owner and of others. Afterwards
 * the dax core does not know @claim any more, and the range is free for others.
 *
 * Context: may sleep; the caller holds nothing that a callback takes.
 */
void dax_unclaim(struct dax_claim *claim)
{
	struct dax_device *dax_dev = claim->dax_dev;
	struct dev_dax *dev_dax = dax_dev->private;

	trace_claim(dax_unclaim, claim);
	dax_claim_del(claim);
	put_device(&dev_dax->dev);
	put_dax(dax_dev);
}
EXPORT_SYMBOL_GPL(dax_unclaim);

/**
 * dax_claim_dev_dax - the dev_dax that a claim is about
 * @claim: claim that stands, or is dead
 *
 * Return: valid until dax_unclaim(), also when the device is gone.
 */
struct dev_dax *dax_claim_dev_dax(struct dax_claim *claim)
{
	return claim->dax_dev->private;
}
EXPORT_SYMBOL_GPL(dax_claim_dev_dax);

/* device_dax is bound: from now on the device can be claimed. */
void dax_claims_enable(struct dax_device *dax_dev)
{
	guard(spinlock)(&dax_dev->claims.lock);
	dax_dev->claims.enabled = true;
}
EXPORT_SYMBOL_GPL(dax_claims_enable);

static void dax_claim_revoke(struct dax_claim *claim)
{
	struct dax_claims *claims = &claim->dax_dev->claims;

	lockdep_assert_held(&claims->lock);

	spin_unlock(&claims->lock);
	trace_claim(dax_revoke, claim);
	if (claim->ops->revoke)
		claim->ops->revoke(claim);
	trace_claim(dax_revoked, claim);
	spin_lock(&claims->lock);

	list_del_init(&claim->entry);
}

/*
 * The device is about to be killed: no more claims, and everybody who has one
 * loses it.  Also waits for a kill that is under way in another task.
 */
void dax_claims_kill(struct dax_device *dax_dev)
{
	struct dax_claims *claims = &dax_dev->claims;
	struct dax_claim *claim;

	guard(mutex)(&claims->call_lock);
	spin_lock(&claims->lock);
	claims->enabled = false;
	list_for_each_entry(claim, &claims->list, entry)
		WRITE_ONCE(claim->dead, true);
	while ((claim = list_first_entry_or_null(&claims->list,
						 struct dax_claim, entry)))
		dax_claim_revoke(claim);
	spin_unlock(&claims->lock);

	/* Who has seen a claim alive uses the device until its section ends. */
	dax_synchronize();
}

/**
 * dax_claims_memory_failure - tell the owners of pages that have an error
 * @dax_dev: the device
 * @pgoff: first page, recorded by dax_poison_add()
 * @nr_pages: number of pages
 *
 * Waits for callbacks that are under way.  If the device is being killed that
 * includes wiping its memory, and nobody is left to be told afterwards.
 *
 * Return: true if an owner was told.
 */
bool dax_claims_memory_failure(struct dax_device *dax_dev, pgoff_t pgoff,
			       unsigned long nr_pages)
{
	struct dax_claims *claims = &dax_dev->claims;
	struct dax_claim *claim;
	pgoff_t start, end;
	bool told = false;

	guard(mutex)(&claims->call_lock);
	spin_lock(&claims->lock);
	list_for_each_entry(claim, &claims->list, entry) {
		if (!claim_overlaps(claim, pgoff, nr_pages) ||
		    !claim->ops->memory_failure)
			continue;

		start = max(pgoff, claim->pgoff);
		end = min(pgoff + nr_pages, claim->pgoff + claim->nr_pages);
		/* call_lock keeps it on the list */
		spin_unlock(&claims->lock);
		claim->ops->memory_failure(claim, start, end - start);
		spin_lock(&claims->lock);
		told = true;
	}
	spin_unlock(&claims->lock);
	return told;
}

/* Bytes of the device that are claimed; shared claims may overlap. */
u64 dax_claimed_size(struct dax_device *dax_dev)
{
	struct dax_claims *claims = &dax_dev->claims;
	struct dax_claim *claim;
	pgoff_t from, end = 0;
	u64 nr_pages = 0;

	guard(spinlock)(&claims->lock);
	list_for_each_entry(claim, &claims->list, entry) {
		from = max(end, claim->pgoff);
		end = max(end, claim->pgoff + claim->nr_pages);
		nr_pages += end - min(from, end);
	}
	return PFN_PHYS(nr_pages);
}

static int dax_claims_show_dev(struct device *dev, void *data)
{
	struct dax_claims *claims = &to_dev_dax(dev)->dax_dev->claims;
	struct seq_file *m = data;
	struct dax_claim *claim;

	guard(spinlock)(&claims->lock);
	list_for_each_entry(claim, &claims->list, entry) {
		u64 start = PFN_PHYS(claim->pgoff);

		seq_printf(m, "%s %#llx-%#llx %s %s pid %d %s", dev_name(dev),
			   start, start + PFN_PHYS(claim->nr_pages) - 1,
			   claim->kind == DAX_CLAIM_SHARED ? "shared" : "exclusive",
			   claim->ops->name, claim->pid,
			   claim->dead ? "dead" : "alive");
		if (claim->ops->unwiped)
			seq_printf(m, " unwiped %llu", claim->ops->unwiped(claim));
		seq_putc(m, '\n');
	}
	return 0;
}

static int dax_claims_show(struct seq_file *m, void *data)
{
	return dax_bus_walk(m, dax_claims_show_dev);
}
DEFINE_SHOW_ATTRIBUTE(dax_claims);

static struct dentry *dax_debugfs;

void dax_claims_debugfs_init(void)
{
	dax_debugfs = debugfs_create_dir("dax", NULL);
	debugfs_create_file("claims", 0400, dax_debugfs, NULL, &dax_claims_fops);
}

void dax_claims_debugfs_exit(void)
{
	debugfs_remove(dax_debugfs);
}
