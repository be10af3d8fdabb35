// SPDX-License-Identifier: GPL-2.0
/*
 * fallocate() on a device-dax character device
 *
 * The memory is always there, so allocating is no work, and a hole is memory
 * that reads as zero.  Works in units of the page size whatever the alignment
 * of the device is: only mappings have to be aligned.
 *
 * A shared claim for the time of the call keeps exclusive owners away, and
 * tells when the device goes away.
 */
#include <linux/dax.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include "dax-private.h"

/* How much to zero before looking for signals and for unbind */
#define DAX_ZERO_CHUNK	PHYS_PFN(SZ_2M)

static const struct dax_claim_ops dax_fallocate_claim_ops = {
	.name = "fallocate",
};

static int dax_zero_claimed(struct dax_claim *claim)
{
	pgoff_t pgoff = claim->pgoff, end = pgoff + claim->nr_pages;
	unsigned long nr;
	int id, rc;

	for (; pgoff < end; pgoff += nr) {
		if (fatal_signal_pending(current))
			return -EINTR;

		nr = min(end - pgoff, DAX_ZERO_CHUNK);
		id = dax_read_lock();
		rc = dax_claim_dead(claim) ? -ENODEV :
			dev_dax_zero(claim->dax_dev, pgoff, nr);
		dax_read_unlock(id);
		if (rc)
			return rc;
		cond_resched();
	}
	return 0;
}

/**
 * dev_dax_fallocate - fallocate file operation of device_dax
 * @file: open /dev/daxX.Y
 * @mode: FALLOC_FL_KEEP_SIZE alone checks the range and changes nothing;
 *	together with FALLOC_FL_PUNCH_HOLE or FALLOC_FL_ZERO_RANGE it zeroes,
 *	durably where the region is persistent
 * @offset: in bytes, a multiple of the page size
 * @len: in bytes, likewise
 *
 * Return: 0, or -EOPNOTSUPP for other modes, -EINVAL for a range that is not
 * page aligned or not on the device, -EBUSY under an exclusive claim, -ENODEV
 * when the device is, or is being, unbound, -EINTR after a fatal signal, -EIO
 * at a page with a memory error that cannot be repaired.
 */
long dev_dax_fallocate(struct file *file, int mode, loff_t offset, loff_t len)
{
	struct dax_claim claim = {
		.ops = &dax_fallocate_claim_ops,
		.kind = DAX_CLAIM_SHARED,
	};
	int rc;

	if (mode != FALLOC_FL_KEEP_SIZE &&
	    mode != (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE) &&
	    mode != (FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE))
		return -EOPNOTSUPP;

	rc = dax_claim(&claim, file, offset, len);
	if (rc)
		return rc;
	if (mode != FALLOC_FL_KEEP_SIZE)
		rc = dax_zero_claimed(&claim);
	dax_unclaim(&claim);
	return rc;
}
