// SPDX-License-Identifier: GPL-2.0
/*
 * References to the pages of a device-dax instance
 *
 * The pages of a device that is bound to device_dax have a reference count of
 * one, and one more for each mapping.  What is above that are pins: direct
 * I/O, registered buffers, pipes.  A pin outlives the mapping that it was
 * taken through, and nobody can revoke it.
 *
 * Only what was mapped can be pinned.  Each fault of a user mapping records
 * its part of the device before it maps a page, with a bit for one 1024th of
 * the device, and only these parts are looked at.  Not mmap() records it:
 * mremap() makes a mapping larger without asking the driver.
 *
 * Compound pages are looked at once, at their head.
 *
 * Unbind.  It cannot wait for pins, but whoever drops a pin needs the struct
 * page.  So struct dax_memmap, which owns the pgmap and the memory regions, may
 * outlive the binding: while it is on dax_pinned_memmaps the memory stays
 * mapped in the kernel, and reserved, so that no driver can have it.  No
 * page that is not pinned at unbind can be pinned later.  So looking at one
 * page is enough until that one is free, and no page is looked at twice.
 *
 * Lock: dax_pinned_lock, inside device_lock and dax_region_rwsem.
 */
#include <linux/bitmap.h>
#include <linux/cleanup.h>
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/ioport.h>
#include <linux/kref.h>
#include <linux/log2.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include "bus.h"
#include "dax-private.h"

/* How long unbind waits for I/O that is about to end */
#define DAX_UNPIN_GRACE_MS	1000
#define DAX_UNPIN_POLL_MS	10

/* How often to look for the end of pins that unbind did not wait for */
#define DAX_PINNED_POLL		HZ

static DEFINE_MUTEX(dax_pinned_lock);
static LIST_HEAD(dax_pinned_memmaps);
static void dax_pinned_poll(struct work_struct *work);
static DECLARE_DELAYED_WORK(dax_pinned_work, dax_pinned_poll);

/**
 * struct dax_memmap - what makes the memory of a device usable
 * @ref: of the binding, and of dax_pinned_memmaps
 * @dev_dax: the device, referenced: its name is that of the regions, and a
 *	static pgmap is part of it
 * @pgmap: static, or allocated for this binding
 * @own_pgmap: the latter
 * @nr_regions: memory regions of @pgmap that are requested
 * @mapped: where there may be pins, from unbind on
 * @pgoff: no page before this one is pinned
 * @entry: in dax_pinned_memmaps
 * @frozen: ranges of the device, which may be resized once it is unbound, as
 *	dax_pgoff_to_phys() wants to have them; nothing else of it is set
 * @ranges: array of @frozen
 */
struct dax_memmap {
	struct kref ref;
	struct dev_dax *dev_dax;
	struct dev_pagemap *pgmap;
	bool own_pgmap;
	int nr_regions;
	struct dax_mapped mapped;
	pgoff_t pgoff;
	struct list_head entry;
	struct dev_dax frozen;
	struct dev_dax_range ranges[];
};

/* The device is being bound: nothing of it has been mapped yet. */
static void dax_mapped_init(struct dev_dax *dev_dax)
{
	struct dax_mapped *mapped = &dev_dax->dax_dev->claims.mapped;
	unsigned long per_bit;

	per_bit = DIV_ROUND_UP(dev_dax_pages(dev_dax), DAX_MAPPED_BITS);
	mapped->shift = order_base_2(max(per_bit, PHYS_PFN(dev_dax->align)));
	bitmap_zero(mapped->bits, DAX_MAPPED_BITS);
}

/**
 * dax_mapped_add - record that a page is about to be mapped
 * @dax_dev: the device
 * @pgoff: page of it, which exists
 *
 * To be called by the fault handler of a user mapping, before the page can be
 * reached through the mapping.
 */
void dax_mapped_add(struct dax_device *dax_dev, pgoff_t pgoff)
{
	struct dax_mapped *mapped = &dax_dev->claims.mapped;
	unsigned long bit = pgoff >> mapped->shift;

	/* Most faults find it set: leave the cache line shared. */
	if (!test_bit(bit, mapped->bits))
		set_bit(bit, mapped->bits);
}
EXPORT_SYMBOL_GPL(dax_mapped_add);

static pgoff_t dax_next_pin_of_part(struct dev_dax *dev_dax, pgoff_t pgoff,
				    pgoff_t end)
{
	struct folio *folio;
	phys_addr_t phys;

	for (; pgoff < end; pgoff += folio_nr_pages(folio)) {
		phys = dax_pgoff_to_phys(dev_dax, pgoff, PAGE_SIZE);
		folio = pfn_folio(PHYS_PFN(phys));
		if (folio_ref_count(folio) > 1)
			return pgoff;
		cond_resched();
	}
	return end;
}

/* The first page from @pgoff on that is pinned, @end if there is none. */
static pgoff_t dax_next_pin(struct dev_dax *dev_dax,
			    const struct dax_mapped *mapped,
			    pgoff_t pgoff, pgoff_t end)
{
	unsigned long bit = pgoff >> mapped->shift;
	unsigned long last = (end - 1) >> mapped->shift;
	pgoff_t part_end;

	for_each_set_bit_from(bit, mapped->bits, last + 1) {
		pgoff = max(pgoff, bit << mapped->shift);
		part_end = min(end, (bit + 1) << mapped->shift);
		pgoff = dax_next_pin_of_part(dev_dax, pgoff, part_end);
		if (pgoff < part_end)
			return pgoff;
	}
	return end;
}

/**
 * dax_find_in_use - find a page that somebody has a reference to
 * @dax_dev: device that is bound to device_dax
 * @pgoff: first page, a multiple of the alignment of the device
 * @nr_pages: number of pages, likewise
 * @in_use: the first page of the first folio with a reference, @pgoff + @nr_pages
 *	if there is none
 *
 * For whoever has the device locked, or owns an exclusive claim that contains
 * the range and is in a dax read section in which the claim was alive.  No page
 * can become mapped meanwhile; a mapping that is left counts.  What was never
 * mapped costs nothing.
 *
 * Return: 0, -EINTR after a fatal signal.
 */
int dax_find_in_use(struct dax_device *dax_dev, pgoff_t pgoff,
		    unsigned long nr_pages, pgoff_t *in_use)
{
	struct dax_mapped *mapped = &dax_dev->claims.mapped;
	pgoff_t end = pgoff + nr_pages, part_end;

	for (; pgoff < end; pgoff = part_end) {
		part_end = min(end, round_up(pgoff + 1, 1UL << mapped->shift));
		*in_use = dax_next_pin(dax_dev->private, mapped, pgoff, part_end);
		if (*in_use < part_end)
			return 0;
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	*in_use = end;
	return 0;
}
EXPORT_SYMBOL_GPL(dax_find_in_use);

/**
 * dax_range_pinned - does anybody have a reference to a page of this range
 * @dax_dev: device that is bound to device_dax and locked
 * @pgoff: first page, a multiple of the alignment of the device
 * @nr_pages: number of pages, likewise
 *
 * The caller has made sure that the range is not mapped, and that no page of
 * it can be mapped meanwhile.  What was never mapped costs nothing.
 *
 * Return: 0, -EBUSY if there is one, -EINTR after a fatal signal.
 */
int dax_range_pinned(struct dax_device *dax_dev, pgoff_t pgoff,
		     unsigned long nr_pages)
{
	pgoff_t in_use;
	int rc;

	rc = dax_find_in_use(dax_dev, pgoff, nr_pages, &in_use);
	if (rc)
		return rc;
	return in_use < pgoff + nr_pages ? -EBUSY : 0;
}

static void dax_memmap_release(struct kref *ref)
{
	struct dax_memmap *memmap = container_of(ref, struct dax_memmap, ref);
	struct dev_dax *dev_dax = memmap->dev_dax;

	/*
	 * A static pgmap lives on, and is ours as long as the regions are: take
	 * away what was set, now that memunmap_pages() has waited for
	 * memory_failure().
	 */
	if (memmap->nr_regions) {
		memmap->pgmap->ops = NULL;
		memmap->pgmap->owner = NULL;
	}

	while (memmap->nr_regions--) {
		struct range *range = &memmap->pgmap->ranges[memmap->nr_regions];

		release_mem_region(range->start, range_len(range));
	}
	/* The region of the device may be gone. */
	if (memmap->own_pgmap)
		kfree(memmap->pgmap);
	put_device(&dev_dax->dev);
	kfree(memmap);
}

static void dax_memmap_put(void *data)
{
	struct dax_memmap *memmap = data;

	kref_put(&memmap->ref, dax_memmap_release);
}

static struct dev_pagemap *dax_alloc_pgmap(struct dev_dax *dev_dax)
{
	struct dev_pagemap *pgmap;

	pgmap = kzalloc(struct_size(pgmap, ranges, dev_dax->nr_range - 1),
			GFP_KERNEL);
	if (!pgmap)
		return NULL;
	pgmap->nr_range = dev_dax->nr_range;
	for (int i = 0; i < dev_dax->nr_range; i++)
		pgmap->ranges[i] = dev_dax->ranges[i].range;
	return pgmap;
}

static struct dax_memmap *dax_memmap_alloc(struct dev_dax *dev_dax)
{
	int nr_range = dev_dax->nr_range;
	struct dax_memmap *memmap;

	memmap = kzalloc_flex(*memmap, ranges, nr_range);
	if (!memmap)
		return NULL;
	memmap->own_pgmap = !static_dev_dax(dev_dax);
	memmap->pgmap = memmap->own_pgmap ? dax_alloc_pgmap(dev_dax) :
					    dev_dax->pgmap;
	if (!memmap->pgmap) {
		kfree(memmap);
		return NULL;
	}
	kref_init(&memmap->ref);
	memcpy(memmap->ranges, dev_dax->ranges,
	       nr_range * sizeof(*memmap->ranges));
	memmap->frozen.nr_range = nr_range;
	memmap->frozen.ranges = memmap->ranges;
	memmap->dev_dax = dev_dax;
	get_device(&dev_dax->dev);
	return memmap;
}

/**
 * devm_dax_memmap_request - reserve the memory of a device, and get a pgmap
 * @dev_dax: device in probe
 *
 * Everything that has to do with the pgmap is to be undone by actions that are
 * registered later than this, since they run earlier.
 *
 * Return: what devm_dax_memmap_map() wants; -EBUSY if somebody else has a part
 * of the memory, which may be an earlier binding; -ENOMEM.
 */
struct dax_memmap *devm_dax_memmap_request(struct dev_dax *dev_dax)
{
	struct device *dev = &dev_dax->dev;
	struct dax_memmap *memmap;
	int rc, i;

	memmap = dax_memmap_alloc(dev_dax);
	if (!memmap)
		return ERR_PTR(-ENOMEM);
	rc = devm_add_action_or_reset(dev, dax_memmap_put, memmap);
	if (rc)
		return ERR_PTR(rc);

	/* A static pgmap begins with what the provider needs for struct pages. */
	for (i = 0; i < memmap->pgmap->nr_range; i++) {
		struct range *range = &memmap->pgmap->ranges[i];

		if (!request_mem_region(range->start, range_len(range),
					dev_name(dev))) {
			dev_warn(dev, "mapping%d: %#llx-%#llx could not reserve range\n",
				 i, range->start, range->end);
			return ERR_PTR(-EBUSY);
		}
		memmap->nr_regions++;
	}
	return memmap;
}
EXPORT_SYMBOL_GPL(devm_dax_memmap_request);

struct dev_pagemap *dax_memmap_pgmap(struct dax_memmap *memmap)
{
	return memmap->pgmap;
}
EXPORT_SYMBOL_GPL(dax_memmap_pgmap);

static bool dax_memmap_pinned(struct dax_memmap *memmap, struct dev_dax *dev_dax)
{
	pgoff_t end = dev_dax_pages(dev_dax);

	memmap->pgoff = dax_next_pin(dev_dax, &memmap->mapped, memmap->pgoff,
				     end);
	return memmap->pgoff < end;
}

static void dax_memmap_report(struct dax_memmap *memmap)
{
	struct dev_dax *dev_dax = memmap->dev_dax;
	pgoff_t pgoff, end = dev_dax_pages(dev_dax);
	unsigned long nr = 0;

	for (pgoff = memmap->pgoff; pgoff < end;
	     pgoff += PHYS_PFN(dev_dax->align)) {
		pgoff = dax_next_pin(dev_dax, &memmap->mapped, pgoff, end);
		nr += pgoff < end;
	}
	dev_warn(&dev_dax->dev,
		 "%lu pages of %u bytes are pinned, the first is pfn %#lx: the memory cannot be used until they are released\n",
		 nr, dev_dax->align,
		 PHYS_PFN(dax_pgoff_to_phys(dev_dax, memmap->pgoff, PAGE_SIZE)));
}

/* Leave the memory as it is, and end it when the last pin is gone. */
static void dax_memmap_defer(struct dax_memmap *memmap)
{
	dax_memmap_report(memmap);

	kref_get(&memmap->ref);
	__module_get(THIS_MODULE);
	guard(mutex)(&dax_pinned_lock);
	list_add_tail(&memmap->entry, &dax_pinned_memmaps);
	schedule_delayed_work(&dax_pinned_work, DAX_PINNED_POLL);
}

static void dax_pinned_poll(struct work_struct *work)
{
	struct dax_memmap *memmap, *next;
	LIST_HEAD(unpinned);

	scoped_guard(mutex, &dax_pinned_lock) {
		list_for_each_entry_safe(memmap, next, &dax_pinned_memmaps,
					 entry) {
			if (!dax_memmap_pinned(memmap, &memmap->frozen))
				list_move_tail(&memmap->entry, &unpinned);
		}
		if (!list_empty(&dax_pinned_memmaps))
			schedule_delayed_work(&dax_pinned_work,
					      DAX_PINNED_POLL);
	}

	list_for_each_entry_safe(memmap, next, &unpinned, entry) {
		dev_info(&memmap->dev_dax->dev,
			 "no page is pinned any more\n");
		memunmap_pages(memmap->pgmap);
		dax_memmap_put(memmap);
		module_put(THIS_MODULE);
	}
}

/* Nobody can map or claim a page any more: the dax_device is dead. */
static void dax_memmap_unmap(void *data)
{
	struct dax_memmap *memmap = data;
	struct dev_dax *dev_dax = memmap->dev_dax;
	int ms;

	memmap->mapped = dev_dax->dax_dev->claims.mapped;

	/* GUP-fast may be about to take back a reference: it runs with IRQs off. */
	synchronize_rcu();

	for (ms = 0; dax_memmap_pinned(memmap, dev_dax); ms += DAX_UNPIN_POLL_MS) {
		if (ms >= DAX_UNPIN_GRACE_MS) {
			dax_memmap_defer(memmap);
			return;
		}
		msleep(DAX_UNPIN_POLL_MS);
	}
	memunmap_pages(memmap->pgmap);
}

/**
 * devm_dax_memmap_map - map the memory of a device, with struct pages
 * @memmap: with its pgmap set up
 *
 * Unlike with devm_memremap_pages(), the pages are there as long as somebody
 * refers to them.
 *
 * Return: 0 or -errno
 */
int devm_dax_memmap_map(struct dax_memmap *memmap)
{
	struct dev_dax *dev_dax = memmap->dev_dax;
	struct device *dev = &dev_dax->dev;
	void *addr;

	dax_mapped_init(dev_dax);
	addr = memremap_pages(memmap->pgmap, dev_to_node(dev));
	if (IS_ERR(addr))
		return PTR_ERR(addr);
	return devm_add_action_or_reset(dev, dax_memmap_unmap, memmap);
}
EXPORT_SYMBOL_GPL(devm_dax_memmap_map);

/* A memmap that is pinned has a reference to the module: there is none. */
void dax_pins_exit(void)
{
	cancel_delayed_work_sync(&dax_pinned_work);
}
