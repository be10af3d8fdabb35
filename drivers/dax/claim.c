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
 * the callback began.  A claim is off the list once it is revoked; the device
 * that is bound the next time starts with none.
 *
 * Mappings.  device_dax checks dax_range_exclusive() when it maps and, because
 * a mapping may be older than a claim, at each fault.  dax_claim() looks for
 * VMAs after it made the claim visible: a VMA that is in i_mmap by then makes
 * the claim fail, a later one has its faults refused.
 *
 * Locks: device_lock, dax_region_rwsem -> dax_claims.kill_lock -> (locks that
 * owners take in their callback) -> dax_claims.lock
 */
#include <linux/dax.h>
#include <linux/debugfs.h>
#include <linux/device.h>
#include <linux/overflow.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/wait_bit.h>
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
	mutex_init(&claims->kill_lock);
}

static bool claim_overlaps(const struct dax_claim *claim, pgoff_t pgoff,
			   unsigned long nr_pages)
{
	return pgoff < claim->pgoff + claim->nr_pages &&
	       claim->pgoff < pgoff + nr_pages;
}

/**
 * dax_range_exclusive - does somebody own a part of this range exclusively
 * @dax_dev: the device
 * @pgoff: first page
 * @nr_pages: number of pages
 *
 * For the paths by which user space gets at the memory without a claim.
 *
 * Return: true if they have to stay away.
 */
bool dax_range_exclusive(struct dax_device *dax_dev, pgoff_t pgoff,
			 unsigned long nr_pages)
{
	struct dax_claims *claims = &dax_dev->claims;
	struct dax_claim *claim;

	/* A claim that is being added now looks for our VMA afterwards. */
	if (list_empty_careful(&claims->list))
		return false;

	guard(spinlock)(&claims->lock);
	list_for_each_entry(claim, &claims->list, entry) {
		if (claim->kind == DAX_CLAIM_EXCLUSIVE &&
		    claim_overlaps(claim, pgoff, nr_pages))
			return true;
	}
	return false;
}
EXPORT_SYMBOL_GPL(dax_range_exclusive);

/* Does a process have a part of the range mapped through the character device? */
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
		mapped = vma->vm_pgoff < pgoff + nr_pages &&
			 pgoff < vma->vm_pgoff + vma_pages(vma);
	}
	i_mmap_unlock_read(mapping);
	return mapped;
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

static bool dax_claim_try_del(struct dax_claim *claim)
{
	guard(spinlock)(&claim->dax_dev->claims.lock);
	if (!claim->dead)
		list_del_init(&claim->entry);
	return list_empty(&claim->entry);
}

static void dax_claim_del(struct dax_claim *claim)
{
	/*
	 * Once it is dead, only dax_claims_kill() takes the claim off the list,
	 * when the callback is done: the owner leaves the range to the callback
	 * from then on, which may have to wait for those of other claims.
	 * It ends without anything that we could hold.
	 */
	wait_var_event(claim, dax_claim_try_del(claim));
}

static u64 dev_dax_bytes(struct dev_dax *dev_dax)
{
	u64 size = 0;

	for (int i = 0; i < dev_dax->nr_range; i++)
		size += range_len(&dev_dax->ranges[i].range);
	return size;
}

static int dax_claim_check(struct dax_claim *claim, struct dev_dax *dev_dax,
			   u64 offset, u64 size)
{
	struct device_driver *drv = dev_dax->dev.driver;
	u64 granule = PAGE_SIZE, end;

	if (!drv)
		return -ENODEV;
	if (to_dax_drv(drv)->type != DAXDRV_DEVICE_TYPE)
		return -EBUSY;

	/* Its ranges and its alignment are constant while it is bound. */
	if (claim->kind == DAX_CLAIM_EXCLUSIVE)
		granule = dev_dax->align;
	if (!size || !IS_ALIGNED(offset | size, granule))
		return -EINVAL;
	if (check_add_overflow(offset, size, &end) ||
	    end > dev_dax_bytes(dev_dax))
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
 * -ENODEV the device is not bound, or is being unbound;
 * -EBUSY it is bound to another driver, has a holder, or the range is claimed,
 *  or mapped (exclusive claims only);
 * -EINTR a signal arrived while somebody was binding or unbinding the device.
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
	rc = dax_claim_check(claim, dev_dax, offset, size);
	if (rc)
		goto out_unlock;

	claim->dax_dev = dax_dev;
	claim->pgoff = PHYS_PFN(offset);
	claim->nr_pages = PHYS_PFN(size);
	claim->pid = task_tgid_nr(current);
	claim->dead = false;
	INIT_LIST_HEAD(&claim->entry);

	rc = dax_claim_add(claim);
	if (rc)
		goto out_unlock;
	if (claim->kind == DAX_CLAIM_EXCLUSIVE &&
	    dax_range_mapped(dax_dev, claim->pgoff, claim->nr_pages)) {
		dax_claim_del(claim);
		rc = -EBUSY;
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
 * If the device is being killed, waits until the owner's callback is done.
 * Afterwards the dax core does not know @claim any more, and the range is free
 * for others.
 *
 * Context: may sleep; the caller holds nothing that its callback takes.
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
	wake_up_var(claim);
}

/*
 * The device is about to be killed: no more claims, and everybody who has one
 * loses it.  Also waits for a kill that is under way in another task.
 */
void dax_claims_kill(struct dax_device *dax_dev)
{
	struct dax_claims *claims = &dax_dev->claims;
	struct dax_claim *claim;

	guard(mutex)(&claims->kill_lock);
	spin_lock(&claims->lock);
	claims->enabled = false;
	list_for_each_entry(claim, &claims->list, entry)
		WRITE_ONCE(claim->dead, true);
	while ((claim = list_first_entry_or_null(&claims->list,
						 struct dax_claim, entry)))
		dax_claim_revoke(claim);
	spin_unlock(&claims->lock);
}

/* Let a file system hold the device, unless somebody holds a part of it. */
int dax_claims_set_holder(struct dax_device *dax_dev, void *holder)
{
	guard(spinlock)(&dax_dev->claims.lock);
	if (!list_empty(&dax_dev->claims.list))
		return -EBUSY;
	if (cmpxchg(&dax_dev->holder_data, NULL, holder))
		return -EBUSY;
	return 0;
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

		seq_printf(m, "%s %#llx-%#llx %s %s pid %d %s\n", dev_name(dev),
			   start, start + PFN_PHYS(claim->nr_pages) - 1,
			   claim->kind == DAX_CLAIM_SHARED ? "shared" : "exclusive",
			   claim->ops->name, claim->pid,
			   claim->dead ? "dead" : "alive");
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
