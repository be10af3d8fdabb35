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
#include <linux/dax.h>
#include <linux/device.h>
#include <linux/xarray.h>
#include <trace/events/dax.h>
#include "dax-private.h"

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
		xa_store(&dax_dev->poison, pgoff, xa_mk_value(0),
			 GFP_KERNEL | __GFP_NOFAIL);
}
EXPORT_SYMBOL_GPL(dax_poison_add);

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
 * dax_poison_del - a page is repaired
 * @dax_dev: the device
 * @pgoff: the page
 */
void dax_poison_del(struct dax_device *dax_dev, pgoff_t pgoff)
{
	xa_erase(&dax_dev->poison, pgoff);
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
