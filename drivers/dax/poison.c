// SPDX-License-Identifier: GPL-2.0
/*
 * Poison: which pages of a device have a memory error
 *
 * A flag of struct page would not do.  device_dax has compound pages of the
 * alignment of the device, and the struct pages of their tails are shared: the
 * flag can only stand for all of the 2M or 1G.  Users that map smaller pages,
 * or none, lose 4K when 4K are bad.
 *
 * A page is recorded before anybody is told about it, so whoever looks at the
 * record after he was told finds it there.  It is forgotten when the page is
 * repaired, or with the binding of the driver: when memory_failure() can no
 * longer come.
 *
 * Errors are rare, so all of this is built for an empty record.
 */
#include <linux/atomic.h>
#include <linux/dax.h>
#include <linux/device.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/xarray.h>
#include <trace/events/dax.h>
#include "dax-private.h"

/* Which error it is: a page may get another one while it is repaired. */
static atomic_long_t dax_poison_nr;

void dax_poison_init(struct dax_device *dax_dev)
{
	xa_init(&dax_dev->poison);
}

/**
 * dax_poison_add - record pages with a memory error
 * @dax_dev: the device
 * @pgoff: first page
 * @nr_pages: number of pages
 *
 * Cannot fail, since nobody could do without: the page would be mapped again.
 *
 * Context: may sleep.
 */
void dax_poison_add(struct dax_device *dax_dev, pgoff_t pgoff,
		    unsigned long nr_pages)
{
	struct dev_dax *dev_dax = dax_dev->private;

	trace_dax_poison(dev_name(&dev_dax->dev), pgoff, nr_pages);
	for (; nr_pages; nr_pages--, pgoff++)
		xa_store(&dax_dev->poison, pgoff,
			 xa_mk_value(atomic_long_inc_return(&dax_poison_nr)),
			 GFP_KERNEL | __GFP_NOFAIL);
}

/**
 * dax_poison_find - find the first page with a memory error
 * @dax_dev: the device
 * @pgoff: first page
 * @nr_pages: number of pages
 *
 * Return: offset of a page in the range, or of the first page behind it if all
 * of them are good.
 */
pgoff_t dax_poison_find(struct dax_device *dax_dev, pgoff_t pgoff,
			unsigned long nr_pages)
{
	unsigned long index = pgoff, end = pgoff + nr_pages;

	if (nr_pages && xa_find(&dax_dev->poison, &index, end - 1, XA_PRESENT))
		return index;
	return end;
}
EXPORT_SYMBOL_GPL(dax_poison_find);

/**
 * dax_poison_count - count pages with a memory error
 * @dax_dev: the device
 * @pgoff: first page
 * @nr_pages: number of pages
 *
 * Return: how many pages of the range have one.
 */
unsigned long dax_poison_count(struct dax_device *dax_dev, pgoff_t pgoff,
			       unsigned long nr_pages)
{
	unsigned long index, count = 0;
	void *entry;

	xa_for_each_range(&dax_dev->poison, index, entry, pgoff,
			  pgoff + nr_pages - 1)
		count++;
	return count;
}
EXPORT_SYMBOL_GPL(dax_poison_count);

/**
 * dax_poison_get - a page is about to be repaired
 * @dax_dev: the device
 * @pgoff: the page
 *
 * Return: the error, for dax_poison_del()
 */
void *dax_poison_get(struct dax_device *dax_dev, pgoff_t pgoff)
{
	return xa_load(&dax_dev->poison, pgoff);
}

/**
 * dax_poison_del - a page is repaired
 * @dax_dev: the device
 * @pgoff: the page
 * @error: what dax_poison_get() returned before the repair: if there is
 *	another one since, that stays on record
 */
void dax_poison_del(struct dax_device *dax_dev, pgoff_t pgoff, void *error)
{
	xa_cmpxchg(&dax_dev->poison, pgoff, error, NULL, 0);
}

/**
 * dax_poison_forget - the driver is unbound, and whatever comes starts anew
 * @dax_dev: the device
 */
void dax_poison_forget(struct dax_device *dax_dev)
{
	xa_destroy(&dax_dev->poison);
}
EXPORT_SYMBOL_GPL(dax_poison_forget);

static pgoff_t dev_dax_pfn_to_pgoff(struct dev_dax *dev_dax, unsigned long pfn)
{
	for (int i = 0; i < dev_dax->nr_range; i++) {
		struct dev_dax_range *dax_range = &dev_dax->ranges[i];
		unsigned long start = PHYS_PFN(dax_range->range.start);

		if (in_range(pfn, start, PHYS_PFN(range_len(&dax_range->range))))
			return dax_range->pgoff + pfn - start;
	}
	return -1;
}

/*
 * Called under a reference to the pgmap, so that @owner does not go away.
 * -EOPNOTSUPP makes memory_failure() go on to the processes that have mapped
 * the page by way of /dev/daxX.Y.
 */
static int dev_dax_memory_failure(struct dev_pagemap *pgmap, unsigned long pfn,
				  unsigned long nr_pages, int mf_flags)
{
	struct dev_dax *dev_dax = pgmap->owner;
	struct dax_device *dax_dev = dev_dax->dax_dev;
	pgoff_t pgoff = -1;
	bool claimed;
	int id;

	/* The ranges are constant while it is alive; a pinned pgmap outlives it. */
	id = dax_read_lock();
	if (dax_alive(dax_dev))
		pgoff = dev_dax_pfn_to_pgoff(dev_dax, pfn);
	/* In here, so that the record of a later binding is left alone. */
	if (pgoff != -1)
		dax_poison_add(dax_dev, pgoff, nr_pages);
	dax_read_unlock(id);

	/* A pgmap may start before the device does. */
	if (pgoff == -1)
		return -EOPNOTSUPP;

	/*
	 * Who missed the record: let faults make the mapping that has to go,
	 * and let zeroing end before the page leaves the direct map.
	 */
	dax_synchronize();
	claimed = dax_claims_memory_failure(dax_dev, pgoff, nr_pages);
	if (!claimed)
		return dax_holder_notify_failure(dax_dev, PFN_PHYS(pgoff),
						 PFN_PHYS(nr_pages), mf_flags);
	if (dax_range_check(dax_dev, pgoff, nr_pages) == -EBUSY)
		return 0;

	/* Others may have mapped what is shared, if anybody ever has. */
	return pfn_folio(pfn)->mapping ? -EOPNOTSUPP : 0;
}

/* Of the core, since a pgmap with pinned pages outlives the driver's module. */
const struct dev_pagemap_ops dev_dax_pagemap_ops = {
	.memory_failure = dev_dax_memory_failure,
};
EXPORT_SYMBOL_GPL(dev_dax_pagemap_ops);
