// SPDX-License-Identifier: GPL-2.0
/*
 * dax_operations of a dev_dax, zeroing of its memory and writing to it
 *
 * A dev_dax is a list of physical ranges.  They need not be adjacent, so an
 * offset is translated each time it is used; no address of one range says
 * anything about another one.  The ranges cannot change while a driver is
 * bound.
 *
 * Everything here runs in a dax read section (dax_read_lock()).  That keeps
 * the memory mapped, but not the device alive: kill_dax() clears DAXDEV_ALIVE
 * before it waits for the readers, from then on dax_get_private() is NULL.
 */
#include <linux/dax.h>
#include <linux/libnvdimm.h>
#include <linux/set_memory.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include "dax-private.h"
#include "bus.h"

/*
 * Pages from @pgoff to the end of the physical range that it lies in, 0 when
 * the device has no such page.
 */
static unsigned long dev_dax_range_avail(struct dev_dax *dev_dax, pgoff_t pgoff)
{
	for (int i = 0; i < dev_dax->nr_range; i++) {
		struct dev_dax_range *dax_range = &dev_dax->ranges[i];
		unsigned long nr = PHYS_PFN(range_len(&dax_range->range));

		if (in_range(pgoff, dax_range->pgoff, nr))
			return dax_range->pgoff + nr - pgoff;
	}
	return 0;
}

static long dev_dax_direct_access(struct dax_device *dax_dev, pgoff_t pgoff,
				  long nr_pages, enum dax_access_mode mode,
				  void **kaddr, unsigned long *pfn)
{
	struct dev_dax *dev_dax = dax_get_private(dax_dev);
	unsigned long avail;
	phys_addr_t phys;

	if (!dev_dax)
		return -ENXIO;

	phys = dax_pgoff_to_phys(dev_dax, pgoff, PAGE_SIZE);
	if (phys == -1) {
		dev_dbg(&dev_dax->dev, "pgoff (%#lx) out of range\n", pgoff);
		return -EFAULT;
	}

	if (kaddr)
		*kaddr = __va(phys);
	if (pfn)
		*pfn = PHYS_PFN(phys);

	avail = min_t(unsigned long, dev_dax_range_avail(dev_dax, pgoff),
		      nr_pages);
	if (mode == DAX_RECOVERY_WRITE || !avail)
		return avail;

	avail = dax_poison_find(dax_dev, pgoff, avail) - pgoff;
	return avail ?: -EHWPOISON;
}

static bool dev_dax_persistent(struct dev_dax *dev_dax)
{
	return dev_dax->region->res.flags & IORESOURCE_DAX_PERSISTENT;
}

/* Make stores to persistent memory durable; nothing to do for other memory. */
static void dev_dax_persist(struct dev_dax *dev_dax, void *kaddr, size_t len)
{
	if (!dev_dax_persistent(dev_dax))
		return;

	arch_wb_cache_pmem(kaddr, len);
	/* Order the write-back before whatever reports success. */
	pmem_wmb();
}

/*
 * Copy, durably where the memory is persistent: past the caches if the
 * architecture can, that costs less than to write them back.
 */
static size_t dev_dax_copy_from_iter(struct dev_dax *dev_dax, void *kaddr,
				     size_t bytes, struct iov_iter *from)
{
	if (!dev_dax_persistent(dev_dax))
		return _copy_from_iter(kaddr, bytes, from);

	bytes = _copy_from_iter_flushcache(kaddr, bytes, from);
	if (!IS_ENABLED(CONFIG_ARCH_HAS_UACCESS_FLUSHCACHE))
		arch_wb_cache_pmem(kaddr, bytes);
	pmem_wmb();
	return bytes;
}

/*
 * Have the provider of the memory repair a page, and zero it: what it contains
 * after that is anybody's guess.  Only then may others see it.
 */
static int dev_dax_repair(struct dev_dax *dev_dax, pgoff_t pgoff)
{
	struct dax_region *region = dev_dax->region;
	phys_addr_t phys = dax_pgoff_to_phys(dev_dax, pgoff, PAGE_SIZE);
	void *error = dax_poison_get(dev_dax->dax_dev, pgoff);

	if (phys == -1 || !region->clear_poison)
		return -EIO;
	if (region->clear_poison(region->dev, phys, PAGE_SIZE) != PAGE_SIZE)
		return -EIO;

	/* A machine check took it out of the direct map. */
	clear_mce_nospec(PHYS_PFN(phys));
	memset(__va(phys), 0, PAGE_SIZE);
	dev_dax_persist(dev_dax, __va(phys), PAGE_SIZE);
	dax_poison_del(dev_dax->dax_dev, pgoff, error);
	return 0;
}

/* What to do about a page with a memory error */
#define DAX_ZERO_REPAIR	BIT(0)	/* zero it, if the provider can repair it */
#define DAX_ZERO_SKIP	BIT(1)	/* go on if it is not repaired */

static int __dev_dax_zero(struct dax_device *dax_dev, pgoff_t pgoff,
			  size_t nr_pages, unsigned int flags)
{
	struct dev_dax *dev_dax = dax_get_private(dax_dev);
	void *kaddr;
	long avail;
	int rc;

	if (!dev_dax)
		return -ENXIO;

	for (; nr_pages; nr_pages -= avail, pgoff += avail) {
		avail = dev_dax_direct_access(dax_dev, pgoff, nr_pages,
					      DAX_ACCESS, &kaddr, NULL);
		if (avail == -EHWPOISON) {
			rc = flags & DAX_ZERO_REPAIR ?
				dev_dax_repair(dev_dax, pgoff) : -EIO;
			if (rc && !(flags & DAX_ZERO_SKIP))
				return rc;
			avail = 1;
			continue;
		}
		if (avail < 0)
			return avail;
		memset(kaddr, 0, PFN_PHYS(avail));
		dev_dax_persist(dev_dax, kaddr, PFN_PHYS(avail));
	}
	return 0;
}

static int dev_dax_zero_page_range(struct dax_device *dax_dev, pgoff_t pgoff,
				   size_t nr_pages)
{
	return __dev_dax_zero(dax_dev, pgoff, nr_pages, DAX_ZERO_REPAIR);
}

/*
 * Writing over poison does not clear it, only the provider of the memory can.
 * Nothing is written where it does not, or where that would lose the rest of
 * a page.
 */
static size_t dev_dax_recovery_write(struct dax_device *dax_dev, pgoff_t pgoff,
				     void *addr, size_t bytes,
				     struct iov_iter *iter)
{
	struct dev_dax *dev_dax = dax_get_private(dax_dev);
	size_t offset = offset_in_page(addr);
	pgoff_t bad, end;
	void *kaddr;
	long avail;

	if (!dev_dax)
		return 0;

	avail = dev_dax_direct_access(dax_dev, pgoff, PFN_UP(offset + bytes),
				      DAX_RECOVERY_WRITE, &kaddr, NULL);
	if (avail <= 0)
		return 0;
	bytes = min(bytes, PFN_PHYS(avail) - offset);

	end = pgoff + avail;
	for (bad = dax_poison_find(dax_dev, pgoff, avail); bad < end;
	     bad = dax_poison_find(dax_dev, bad + 1, end - bad - 1)) {
		if (offset || !PAGE_ALIGNED(bytes))
			return 0;
		if (dev_dax_repair(dev_dax, bad))
			return 0;
	}

	return dev_dax_copy_from_iter(dev_dax, kaddr + offset, bytes, iter);
}

static const struct dax_operations dev_dax_ops = {
	.direct_access = dev_dax_direct_access,
	.zero_page_range = dev_dax_zero_page_range,
	.recovery_write = dev_dax_recovery_write,
};

static void dev_dax_clear_ops(void *data)
{
	struct dev_dax *dev_dax = data;

	dax_set_ops(dev_dax->dax_dev, NULL);
}

/**
 * devm_dev_dax_set_ops - give a dev_dax its dax_operations while it is bound
 * @dev_dax: device in probe, dead until run_dax()
 *
 * To be called before run_dax() and before the action that runs
 * kill_dev_dax(), so that the operations go away only after the last reader.
 *
 * Where data caches alias, the kernel's view of the memory would not be
 * coherent with a user mapping: the device works without operations there, as
 * it always did, and dax_direct_access() fails with -EOPNOTSUPP.
 *
 * Return: 0, -EBUSY when the dax_device has operations already, -ENOMEM.
 */
int devm_dev_dax_set_ops(struct dev_dax *dev_dax)
{
	int rc;

	if (cpu_dcache_is_aliasing())
		return 0;

	rc = dax_set_ops(dev_dax->dax_dev, &dev_dax_ops);
	if (rc)
		return rc;
	return devm_add_action_or_reset(&dev_dax->dev, dev_dax_clear_ops,
					dev_dax);
}
EXPORT_SYMBOL_GPL(devm_dev_dax_set_ops);

/**
 * dev_dax_zero - zero pages of a device-dax instance
 * @dax_dev: dax_device of the instance
 * @pgoff: first page, in pages from the start of the device
 * @nr_pages: how many; the caller splits long ranges so that it can
 *	      reschedule and look for signals in between
 *
 * Unlike dax_zero_page_range(), takes more than one page and crosses from one
 * physical range of the device to the next.  Zeroes are durable on return
 * where the region is persistent.
 *
 * Context: may sleep; in a dax read section.
 * Return: 0, -ENXIO when the device is dying, -EFAULT past its end,
 * -EOPNOTSUPP when it has no dax_operations, -EIO at a page with a memory
 * error that could not be repaired; what comes before that page is zeroed.
 */
int dev_dax_zero(struct dax_device *dax_dev, pgoff_t pgoff,
		 unsigned long nr_pages)
{
	const struct dax_operations *ops = READ_ONCE(dax_dev->ops);

	if (!dax_alive(dax_dev))
		return -ENXIO;
	if (!ops)
		return -EOPNOTSUPP;
	return ops->zero_page_range(dax_dev, pgoff, nr_pages);
}
EXPORT_SYMBOL_GPL(dev_dax_zero);

static int dev_dax_zero_skip(struct dax_device *dax_dev, pgoff_t pgoff,
			     unsigned long nr_pages, unsigned int flags)
{
	if (!dax_alive(dax_dev))
		return -ENXIO;
	if (!READ_ONCE(dax_dev->ops))
		return -EOPNOTSUPP;
	return __dev_dax_zero(dax_dev, pgoff, nr_pages, flags | DAX_ZERO_SKIP);
}

/**
 * dev_dax_zero_good - zero pages, but none that has a memory error
 * @dax_dev: dax_device of the instance, bound to device_dax
 * @pgoff: first page, in pages from the start of the device
 * @nr_pages: how many
 *
 * For an owner whose users do not get at the pages that are left out.
 *
 * Context: as dev_dax_zero()
 * Return: as dev_dax_zero(), but never -EIO.
 */
int dev_dax_zero_good(struct dax_device *dax_dev, pgoff_t pgoff,
		      unsigned long nr_pages)
{
	return dev_dax_zero_skip(dax_dev, pgoff, nr_pages, 0);
}
EXPORT_SYMBOL_GPL(dev_dax_zero_good);

/**
 * dev_dax_wipe - zero what can be zeroed
 * @dax_dev: dax_device of the instance, bound to device_dax
 * @pgoff: first page, in pages from the start of the device
 * @nr_pages: how many
 *
 * For an owner that is about to leave.  A page with a memory error is repaired
 * and zeroed if the provider of the memory can do that, and left alone, and on
 * record, otherwise.
 *
 * Context: as dev_dax_zero()
 * Return: as dev_dax_zero(), but never -EIO.
 */
int dev_dax_wipe(struct dax_device *dax_dev, pgoff_t pgoff,
		 unsigned long nr_pages)
{
	return dev_dax_zero_skip(dax_dev, pgoff, nr_pages, DAX_ZERO_REPAIR);
}
EXPORT_SYMBOL_GPL(dev_dax_wipe);

/**
 * dev_dax_write - fill pages of a device-dax instance
 * @dax_dev: dax_device of the instance, bound to device_dax
 * @pgoff: first page, in pages from the start of the device
 * @nr_pages: how many; the caller splits what takes long
 * @from: where the contents come from, advanced by what is returned
 *
 * Page faults are disabled while @from is read: the caller may hold locks that
 * they would need, and the dax read section stays short.  The page at which a
 * copy ends early is left with anything between its old and its new contents.
 *
 * A page with a memory error is repaired if the provider of the memory can do
 * that.  What is written is durable on return where the region is persistent.
 *
 * Context: as dev_dax_zero()
 * Return: bytes of the pages that were filled, 0 when @from has to be faulted
 * in.  If none was: -ENXIO when the device is dying, -EFAULT past its end,
 * -EOPNOTSUPP when it has no dax_operations, -EIO at a page with a memory
 * error that could not be repaired.
 */
ssize_t dev_dax_write(struct dax_device *dax_dev, pgoff_t pgoff,
		      unsigned long nr_pages, struct iov_iter *from)
{
	struct dev_dax *dev_dax = dax_get_private(dax_dev);
	size_t bytes, copied, done = 0;
	void *kaddr;
	long avail;

	if (!dev_dax)
		return -ENXIO;
	if (!READ_ONCE(dax_dev->ops))
		return -EOPNOTSUPP;

	for (; nr_pages; nr_pages -= avail, pgoff += avail) {
		avail = dev_dax_direct_access(dax_dev, pgoff, nr_pages,
					      DAX_ACCESS, &kaddr, NULL);
		if (avail == -EHWPOISON) {
			avail = dev_dax_repair(dev_dax, pgoff);
			/* It reads as zero now; write to it like to others. */
			if (!avail)
				continue;
		}
		if (avail < 0)
			return done ?: avail;

		bytes = PFN_PHYS(avail);
		pagefault_disable();
		copied = dev_dax_copy_from_iter(dev_dax, kaddr, bytes, from);
		pagefault_enable();

		done += PAGE_ALIGN_DOWN(copied);
		if (copied < bytes) {
			iov_iter_revert(from, offset_in_page(copied));
			break;
		}
	}
	return done;
}
EXPORT_SYMBOL_GPL(dev_dax_write);

#ifdef CONFIG_DAX_KUNIT_TEST
#include "ops_test.c"
#endif
