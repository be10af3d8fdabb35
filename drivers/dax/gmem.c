// SPDX-License-Identifier: GPL-2.0
/*
 * guest_memfd on device-DAX
 *
 * A guest_memfd that uses this backend has claimed a range of one dax device.
 * Page N of the guest_memfd is page N of the range; nothing is allocated, and
 * the pages are never freed.
 *
 * Contents.  Without KEEP_DATA nobody may see what an earlier owner left, and
 * nobody what this guest leaves.  The range is divided into blocks of 2M of the
 * device, smaller at its ends, with two bits of state each:
 *
 *   ready	zeroed, or written, since it was claimed, or since a hole was
 *		punched that covers all of it; anybody with access may use it
 *   used	was ready, or written in part, at some time: to be wiped before
 *		the claim ends
 *
 * and a third bit, the lock of the block.  A block is zeroed under its lock,
 * once, by whoever needs it first.  It is wiped under its lock too, so when
 * the last close and a revoke meet, no block is left out.
 *
 * write() to a block that is not ready makes it so by zeroing what is not
 * written, under the lock of the block, with page faults disabled.  To a block
 * that is ready it writes like anybody else.  Writers hold invalidate_lock
 * shared, so they are gone before holes are punched and blocks are wiped.
 *
 * A fault zeroes one block, and maps more than that if all of it is ready
 * already: so what a guest has to wait for is bounded.
 *
 * Revocation.  The claim is dead before dax_gmem_revoke() is called.  Host
 * faults test that with invalidate_lock held until the page is mapped,
 * guest faults test it after they sampled kvm->mmu_invalidate_seq.
 * guest_memfd_zap() takes invalidate_lock exclusively and bumps the sequence:
 * what was mapped before is unmapped, and what comes later finds a dead claim.
 * Whoever still zeroes a block then adds nothing to wipe.
 *
 * Memory errors.  A page with an error is left out: it is neither mapped nor
 * zeroed, and a hole in it stays as it is; all others of its block go on as
 * before.  The wipe repairs it where the provider of the memory can.  Otherwise
 * it stays as it is, and since the record belongs to the device, the next
 * guest_memfd does not get the page either.  dax_direct_access() tests the
 * record, in the same places where the claim is tested, and it is complete
 * before dax_gmem_memory_failure() is called: what holds for a claim that is
 * dead holds for a page that is bad.
 *
 * Locks: invalidate_lock of the guest_memfd and dax read sections nest either
 * way; locks of blocks are innermost, and held while a provider repairs pages.
 */
#include <linux/bitmap.h>
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/dax.h>
#include <linux/device.h>
#include <linux/guest_memfd.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uio.h>
#include <linux/userfaultfd_k.h>
#include <linux/wait_bit.h>
#include "dax-private.h"

#define DAX_GMEM_BLOCK_SHIFT	(ilog2(SZ_2M) - PAGE_SHIFT)

/**
 * struct dax_gmem_blocks - state of the blocks of a guest_memfd
 * @nr: number of blocks
 * @ready: initialised and in use
 * @used: to be wiped
 * @lock: lock of the block
 * @unwiped: pages of the blocks in @used
 * @bits: storage of the three
 */
struct dax_gmem_blocks {
	unsigned long nr;
	atomic_long_t unwiped;
	unsigned long *ready;
	unsigned long *used;
	unsigned long *lock;
	unsigned long bits[];
};

/**
 * struct dax_gmem - a guest_memfd with memory of a dax device
 * @claim: the range
 * @inode: of the guest_memfd, which is alive as long as the claim stands
 * @align: of the device, which may have another one after it was unbound
 * @blocks: NULL with KEEP_DATA
 */
struct dax_gmem {
	struct dax_claim claim;
	struct inode *inode;
	unsigned int align;
	struct dax_gmem_blocks *blocks;
};

static pgoff_t dax_gmem_pgoff(struct dax_gmem *gmem, pgoff_t index)
{
	return gmem->claim.pgoff + index;
}

static unsigned long dax_gmem_block(struct dax_gmem *gmem, pgoff_t index)
{
	return (dax_gmem_pgoff(gmem, index) >> DAX_GMEM_BLOCK_SHIFT) -
	       (gmem->claim.pgoff >> DAX_GMEM_BLOCK_SHIFT);
}

/* First page of a block, in pages of the guest_memfd. */
static pgoff_t dax_gmem_block_start(struct dax_gmem *gmem, unsigned long block)
{
	pgoff_t first = gmem->claim.pgoff;
	pgoff_t start;

	start = ((first >> DAX_GMEM_BLOCK_SHIFT) + block) << DAX_GMEM_BLOCK_SHIFT;
	return max(start, first) - first;
}

static pgoff_t dax_gmem_block_end(struct dax_gmem *gmem, unsigned long block)
{
	return min(dax_gmem_block_start(gmem, block + 1), gmem->claim.nr_pages);
}

static unsigned long dax_gmem_block_pages(struct dax_gmem *gmem,
					  unsigned long block)
{
	return dax_gmem_block_end(gmem, block) -
	       dax_gmem_block_start(gmem, block);
}

static struct dax_gmem_blocks *dax_gmem_alloc_blocks(struct dax_gmem *gmem)
{
	unsigned long nr = dax_gmem_block(gmem, gmem->claim.nr_pages - 1) + 1;
	struct dax_gmem_blocks *blocks;
	size_t longs = BITS_TO_LONGS(nr);

	blocks = kvzalloc(struct_size(blocks, bits, 3 * longs),
			  GFP_KERNEL_ACCOUNT);
	if (!blocks)
		return NULL;
	blocks->nr = nr;
	blocks->ready = blocks->bits;
	blocks->used = blocks->bits + longs;
	blocks->lock = blocks->bits + 2 * longs;
	return blocks;
}

static int dax_gmem_lock_block(struct dax_gmem_blocks *blocks,
			       unsigned long block, unsigned int state)
{
	return wait_on_bit_lock(&blocks->lock[BIT_WORD(block)],
				block % BITS_PER_LONG, state);
}

static void dax_gmem_unlock_block(struct dax_gmem_blocks *blocks,
				  unsigned long block)
{
	clear_and_wake_up_bit(block % BITS_PER_LONG,
			      &blocks->lock[BIT_WORD(block)]);
}

/* In a dax read section; at most a block at a time. */
static int dax_gmem_zero(struct dax_gmem *gmem, pgoff_t start, pgoff_t end)
{
	return dev_dax_zero_good(gmem->claim.dax_dev,
				 dax_gmem_pgoff(gmem, start), end - start);
}

/* With the lock of the block, like the following. */
static void dax_gmem_set_used(struct dax_gmem *gmem, unsigned long block)
{
	struct dax_gmem_blocks *blocks = gmem->blocks;

	if (!test_and_set_bit(block, blocks->used))
		atomic_long_add(dax_gmem_block_pages(gmem, block),
				&blocks->unwiped);
}

static void dax_gmem_set_ready(struct dax_gmem *gmem, unsigned long block)
{
	/* Who sees the block ready sees its contents. */
	smp_mb__before_atomic();
	set_bit(block, gmem->blocks->ready);
}

/* Make a block usable.  In a dax read section, with the claim alive. */
static int dax_gmem_ready_block(struct dax_gmem *gmem, unsigned long block)
{
	struct dax_gmem_blocks *blocks = gmem->blocks;
	int rc;

	/* Pairs with the barrier in dax_gmem_set_ready(). */
	if (test_bit_acquire(block, blocks->ready))
		return 0;

	rc = dax_gmem_lock_block(blocks, block, TASK_KILLABLE);
	if (rc)
		return -EINTR;
	if (!test_bit(block, blocks->ready)) {
		rc = dax_gmem_zero(gmem, dax_gmem_block_start(gmem, block),
				   dax_gmem_block_end(gmem, block));
		if (!rc) {
			dax_gmem_set_used(gmem, block);
			dax_gmem_set_ready(gmem, block);
		}
	}
	dax_gmem_unlock_block(blocks, block);
	return rc;
}

/* Make all blocks usable that have a page from @start to @end, likewise. */
static int dax_gmem_ready(struct dax_gmem *gmem, pgoff_t start, pgoff_t end)
{
	unsigned long block, last;
	int rc = 0;

	if (!gmem->blocks)
		return 0;

	last = dax_gmem_block(gmem, end - 1);
	for (block = dax_gmem_block(gmem, start); !rc && block <= last; block++)
		rc = dax_gmem_ready_block(gmem, block);
	return rc;
}

static bool dax_gmem_is_ready(struct dax_gmem *gmem, pgoff_t start, pgoff_t end)
{
	struct dax_gmem_blocks *blocks = gmem->blocks;
	unsigned long last;

	if (!blocks)
		return true;

	last = dax_gmem_block(gmem, end - 1);
	if (find_next_zero_bit(blocks->ready, last + 1,
			       dax_gmem_block(gmem, start)) <= last)
		return false;

	/* Pairs with the barrier in dax_gmem_set_ready(). */
	smp_rmb();
	return true;
}

static void dax_gmem_wipe_block(struct dax_gmem *gmem, unsigned long block)
{
	unsigned long nr = dax_gmem_block_pages(gmem, block);
	struct dax_gmem_blocks *blocks = gmem->blocks;

	dax_gmem_lock_block(blocks, block, TASK_UNINTERRUPTIBLE);
	if (test_bit(block, blocks->used) &&
	    !dev_dax_wipe(gmem->claim.dax_dev,
			  dax_gmem_pgoff(gmem, dax_gmem_block_start(gmem, block)),
			  nr)) {
		clear_bit(block, blocks->used);
		atomic_long_sub(nr, &blocks->unwiped);
	}
	dax_gmem_unlock_block(blocks, block);
}

/*
 * Nobody uses the memory any more.  Revoke and release may both be here: each
 * goes through all blocks, and waits for the one that the other has locked.
 * Once the claim is dead only revoke may go on.  It returns before the device
 * is gone, whereas release may find it bound again and used by somebody else.
 */
static void dax_gmem_wipe(struct dax_gmem *gmem, bool revoke)
{
	struct dax_gmem_blocks *blocks = READ_ONCE(gmem->blocks);
	unsigned long block;
	int id;

	if (!blocks)
		return;
	for_each_set_bit(block, blocks->used, blocks->nr) {
		id = dax_read_lock();
		if (revoke || !dax_claim_dead(&gmem->claim))
			dax_gmem_wipe_block(gmem, block);
		dax_read_unlock(id);
		cond_resched();
	}
}

static void dax_gmem_revoke(struct dax_claim *claim)
{
	struct dax_gmem *gmem = container_of(claim, struct dax_gmem, claim);

	guest_memfd_zap(gmem->inode);
	dax_gmem_wipe(gmem, true);
}

static u64 dax_gmem_unwiped(struct dax_claim *claim)
{
	struct dax_gmem *gmem = container_of(claim, struct dax_gmem, claim);
	struct dax_gmem_blocks *blocks = READ_ONCE(gmem->blocks);

	return blocks ? PFN_PHYS(atomic_long_read(&blocks->unwiped)) : 0;
}

static void dax_gmem_memory_failure(struct dax_claim *claim, pgoff_t pgoff,
				    unsigned long nr_pages)
{
	struct dax_gmem *gmem = container_of(claim, struct dax_gmem, claim);
	pgoff_t start = pgoff - claim->pgoff;

	guest_memfd_zap_range(gmem->inode, start, start + nr_pages);
}

static const struct dax_claim_ops dax_gmem_claim_ops = {
	.name = "guest_memfd",
	.revoke = dax_gmem_revoke,
	.unwiped = dax_gmem_unwiped,
	.memory_failure = dax_gmem_memory_failure,
};

static bool dax_gmem_match(struct file *backing)
{
	return dax_file_device(backing);
}

static int dax_gmem_attach(struct inode *inode, struct file *backing,
			   u64 offset, u64 size, unsigned int flags)
{
	struct dax_gmem_blocks *blocks;
	struct dax_gmem *gmem;
	int rc;

	gmem = kzalloc_obj(*gmem, GFP_KERNEL_ACCOUNT);
	if (!gmem)
		return -ENOMEM;

	gmem->inode = inode;
	gmem->claim.ops = &dax_gmem_claim_ops;
	gmem->claim.kind = flags & GUEST_MEMFD_BACKEND_SHARED ?
			   DAX_CLAIM_SHARED : DAX_CLAIM_EXCLUSIVE;
	inode->i_private = gmem;

	rc = dax_claim(&gmem->claim, backing, offset, size);
	if (rc)
		goto err_free;

	/* Once the device can be aligned otherwise, the claim is dead. */
	gmem->align = dax_claim_dev_dax(&gmem->claim)->align;

	if (!(flags & (GUEST_MEMFD_BACKEND_KEEP_DATA |
		       GUEST_MEMFD_BACKEND_SHARED))) {
		/* Bounded now that the range is known to be on the device. */
		blocks = dax_gmem_alloc_blocks(gmem);
		if (!blocks) {
			rc = -ENOMEM;
			goto err_unclaim;
		}
		/* A revoke that comes earlier finds nothing to wipe. */
		smp_store_release(&gmem->blocks, blocks);
	}
	return 0;

err_unclaim:
	dax_unclaim(&gmem->claim);
err_free:
	inode->i_private = NULL;
	kfree(gmem);
	return rc;
}

static void dax_gmem_release(struct inode *inode)
{
	struct dax_gmem *gmem = inode->i_private;

	dax_gmem_wipe(gmem, false);
	dax_unclaim(&gmem->claim);
	kvfree(gmem->blocks);
	inode->i_private = NULL;
	kfree(gmem);
}

static long dax_gmem_direct_access(struct dax_gmem *gmem, pgoff_t index,
				   long nr_pages, unsigned long *pfn)
{
	return dax_direct_access(gmem->claim.dax_dev,
				 dax_gmem_pgoff(gmem, index), nr_pages,
				 DAX_ACCESS, NULL, pfn);
}

/*
 * Could the block of 2^@order pages around the page at @index, which is @pfn,
 * be mapped as a whole?  All of it must be ours, in one piece in physical memory
 * and without a memory error.  That the device has a large alignment does not
 * tell: it is one of sizes and of offsets.
 */
static bool dax_gmem_has_block(struct dax_gmem *gmem, pgoff_t index,
			       unsigned long pfn, int order, pgoff_t *start)
{
	unsigned long nr_pages = 1UL << order;
	pgoff_t before = pfn & (nr_pages - 1);

	if (before > index ||
	    gmem->claim.nr_pages - (index - before) < nr_pages)
		return false;

	*start = index - before;
	return dax_gmem_direct_access(gmem, *start, nr_pages, NULL) == nr_pages;
}

/*
 * The page at @index, initialised.  In a dax read section.  The result is good
 * until the guest_memfd is zapped.
 */
static int dax_gmem_lookup(struct dax_gmem *gmem, pgoff_t index,
			   unsigned long *pfn)
{
	pgoff_t start;
	long avail;

	if (dax_claim_dead(&gmem->claim))
		return -ENODEV;
	avail = dax_gmem_direct_access(gmem, index, 1, pfn);
	if (avail < 0)
		return avail;

	/*
	 * As much as a block, aligned as a mapping needs it: where physical
	 * memory and the offsets of the device differ, that is a part of two.
	 */
	if (dax_gmem_has_block(gmem, index, *pfn, DAX_GMEM_BLOCK_SHIFT, &start))
		return dax_gmem_ready(gmem, start,
				      start + (1UL << DAX_GMEM_BLOCK_SHIFT));
	return dax_gmem_ready(gmem, index, index + 1);
}

/* The largest order at which the page at @index may be mapped, likewise. */
static int dax_gmem_order(struct dax_gmem *gmem, pgoff_t index,
			  unsigned long pfn)
{
	pgoff_t start;
	int order;

	for (order = PUD_ORDER; order; order = guest_memfd_order_below(order)) {
		if (dax_gmem_has_block(gmem, index, pfn, order, &start) &&
		    dax_gmem_is_ready(gmem, start, start + (1UL << order)))
			break;
	}
	return order;
}

static int dax_gmem_get_pfn(struct inode *inode, pgoff_t index,
			    unsigned long *pfn, int *max_order)
{
	struct dax_gmem *gmem = inode->i_private;
	int id, rc;

	id = dax_read_lock();
	rc = dax_gmem_lookup(gmem, index, pfn);
	*max_order = rc ? 0 : dax_gmem_order(gmem, index, *pfn);
	dax_read_unlock(id);
	return rc;
}

static int dax_gmem_max_order(struct inode *inode, pgoff_t index,
			      unsigned long *pfn)
{
	struct dax_gmem *gmem = inode->i_private;
	int id, order = -EFAULT;

	id = dax_read_lock();
	if (!dax_claim_dead(&gmem->claim) &&
	    dax_gmem_direct_access(gmem, index, 1, pfn) == 1)
		order = dax_gmem_order(gmem, index, *pfn);
	dax_read_unlock(id);
	return order;
}

static vm_fault_t dax_gmem_map_page(struct dax_gmem *gmem, struct vm_fault *vmf,
				    unsigned long pfn)
{
	/*
	 * userfaultfd was asked before, and could not have the page: it had an
	 * error, or was not shared.  The fault is repeated, and reported.
	 */
	if (userfaultfd_minor(vmf->vma))
		return VM_FAULT_NOPAGE;

	/* Another fault was faster.  It held invalidate_lock exclusively. */
	if (pmd_trans_huge(*vmf->pmd))
		return VM_FAULT_NOPAGE;

	/* A pin of the page may outlive the guest_memfd. */
	dax_mapped_add(gmem->claim.dax_dev, dax_gmem_pgoff(gmem, vmf->pgoff));
	return vmf_insert_page_mkwrite(vmf, pfn_to_page(pfn),
				       vmf->flags & FAULT_FLAG_WRITE);
}

/*
 * The caller maps the page before it drops invalidate_lock.  Revocation, memory
 * errors and holes wait for that, and take the mapping away again.
 */
static struct folio *dax_gmem_get_folio(struct inode *inode, pgoff_t index)
{
	struct dax_gmem *gmem = inode->i_private;
	struct folio *folio;
	unsigned long pfn;
	int id, rc;

	lockdep_assert_held(&inode->i_mapping->invalidate_lock);

	id = dax_read_lock();
	rc = dax_gmem_lookup(gmem, index, &pfn);
	dax_read_unlock(id);
	if (rc)
		return ERR_PTR(rc);

	/* Only devices that are aligned throughout have large folios. */
	folio = pfn_folio(pfn);
	if (WARN_ON_ONCE(folio_file_page(folio, index) != pfn_to_page(pfn)))
		return ERR_PTR(-EFAULT);

	/* A pin of the page may outlive the guest_memfd. */
	dax_mapped_add(gmem->claim.dax_dev, dax_gmem_pgoff(gmem, index));
	folio_get(folio);
	folio_lock(folio);
	return folio;
}

static vm_fault_t dax_gmem_fault_page(struct vm_fault *vmf)
{
	struct inode *inode = file_inode(vmf->vma->vm_file);
	struct dax_gmem *gmem = inode->i_private;
	vm_fault_t ret = VM_FAULT_SIGBUS;
	unsigned long pfn;
	int id, rc;

	/*
	 * A task that is killed while it waits for a block gets SIGBUS, too:
	 * the kernel may be the one who faults, and would fault for ever.
	 */
	filemap_invalidate_lock_shared(inode->i_mapping);
	id = dax_read_lock();
	rc = -EACCES;
	if (guest_memfd_range_is_shared(inode, vmf->pgoff, vmf->pgoff + 1))
		rc = dax_gmem_lookup(gmem, vmf->pgoff, &pfn);
	if (rc == -EHWPOISON)
		ret = VM_FAULT_HWPOISON;
	else if (!rc)
		ret = dax_gmem_map_page(gmem, vmf, pfn);
	dax_read_unlock(id);
	filemap_invalidate_unlock_shared(inode->i_mapping);
	return ret;
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/* Is all of the PMD in the VMA, shared, and one folio that is initialised? */
static bool dax_gmem_may_map_pmd(struct dax_gmem *gmem, struct vm_fault *vmf,
				 unsigned long pfn)
{
	unsigned long addr = vmf->address & PMD_MASK;
	pgoff_t start;

	return addr >= vmf->vma->vm_start &&
	       vmf->vma->vm_end - addr >= PMD_SIZE &&
	       !((PHYS_PFN(vmf->address) ^ pfn) & ((1UL << PMD_ORDER) - 1)) &&
	       folio_order(pfn_folio(pfn)) == PMD_ORDER &&
	       dax_gmem_has_block(gmem, vmf->pgoff, pfn, PMD_ORDER, &start) &&
	       guest_memfd_range_is_shared(gmem->inode, start,
					   start + (1UL << PMD_ORDER)) &&
	       dax_gmem_is_ready(gmem, start, start + (1UL << PMD_ORDER));
}

/* Initialise the memory, for which other faults need not wait. */
static bool dax_gmem_prepare_pmd(struct vm_fault *vmf)
{
	struct inode *inode = file_inode(vmf->vma->vm_file);
	struct dax_gmem *gmem = inode->i_private;
	unsigned long pfn;
	bool ready;
	int id;

	filemap_invalidate_lock_shared(inode->i_mapping);
	id = dax_read_lock();
	ready = !dax_gmem_lookup(gmem, vmf->pgoff, &pfn) &&
		dax_gmem_may_map_pmd(gmem, vmf, pfn);
	dax_read_unlock(id);
	filemap_invalidate_unlock_shared(inode->i_mapping);
	return ready;
}

static vm_fault_t dax_gmem_map_pmd(struct dax_gmem *gmem, struct vm_fault *vmf)
{
	unsigned long pfn;

	if (dax_claim_dead(&gmem->claim) ||
	    dax_gmem_direct_access(gmem, vmf->pgoff, 1, &pfn) != 1 ||
	    !dax_gmem_may_map_pmd(gmem, vmf, pfn))
		return VM_FAULT_FALLBACK;

	/* Another fault was faster, and mapped a page. */
	if (!pmd_none(*vmf->pmd) && !pmd_trans_huge(*vmf->pmd))
		return VM_FAULT_NOPAGE;

	dax_mapped_add(gmem->claim.dax_dev, dax_gmem_pgoff(gmem, vmf->pgoff));
	return vmf_insert_folio_pmd(vmf, pfn_folio(pfn),
				    vmf->flags & FAULT_FLAG_WRITE);
}

/*
 * Two faults of the same PMD may come by different ways, for a hole or
 * madvise() may empty it in between.  Neither insert_pmd() nor walk_to_pmd()
 * takes that, so a PMD is inserted with invalidate_lock held exclusively, and a
 * page with the lock held shared.
 *
 * Nothing larger is mapped: to unmap a part of a PUD leaks a reference if the VMA
 * is not one of a DAX file.  And no more than what one fault initialises.
 */
static vm_fault_t dax_gmem_fault_pmd(struct vm_fault *vmf, unsigned int order)
{
	struct inode *inode = file_inode(vmf->vma->vm_file);
	vm_fault_t ret;
	int id;

	if (order != PMD_ORDER || PMD_ORDER != DAX_GMEM_BLOCK_SHIFT)
		return VM_FAULT_FALLBACK;
	if (!dax_gmem_prepare_pmd(vmf))
		return VM_FAULT_FALLBACK;

	filemap_invalidate_lock(inode->i_mapping);
	id = dax_read_lock();
	ret = dax_gmem_map_pmd(inode->i_private, vmf);
	dax_read_unlock(id);
	filemap_invalidate_unlock(inode->i_mapping);
	return ret;
}
#else
static vm_fault_t dax_gmem_fault_pmd(struct vm_fault *vmf, unsigned int order)
{
	return VM_FAULT_FALLBACK;
}
#endif

static vm_fault_t dax_gmem_fault(struct vm_fault *vmf, unsigned int order)
{
	return order ? dax_gmem_fault_pmd(vmf, order) : dax_gmem_fault_page(vmf);
}

static int dax_gmem_allocate_block(struct inode *inode, pgoff_t index)
{
	struct dax_gmem *gmem = inode->i_private;
	int id, rc;

	filemap_invalidate_lock_shared(inode->i_mapping);
	id = dax_read_lock();
	rc = dax_claim_dead(&gmem->claim) ? -ENODEV :
		dax_gmem_ready(gmem, index, index + 1);
	dax_read_unlock(id);
	filemap_invalidate_unlock_shared(inode->i_mapping);
	return rc;
}

static int dax_gmem_allocate(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct dax_gmem *gmem = inode->i_private;
	pgoff_t index;
	int rc;

	for (index = start; index < end;
	     index = dax_gmem_block_end(gmem, dax_gmem_block(gmem, index))) {
		if (fatal_signal_pending(current))
			return -EINTR;
		rc = dax_gmem_allocate_block(inode, index);
		if (rc)
			return rc;
		cond_resched();
	}
	return 0;
}

/* Make a part of a block, or all of it, read as zero.  In a dax read section. */
static int dax_gmem_punch_block(struct dax_gmem *gmem, unsigned long block,
				pgoff_t start, pgoff_t end)
{
	struct dax_gmem_blocks *blocks = gmem->blocks;
	int rc;

	if (!blocks)
		return dax_gmem_zero(gmem, start, end);

	rc = dax_gmem_lock_block(blocks, block, TASK_KILLABLE);
	if (rc)
		return -EINTR;
	if (start == dax_gmem_block_start(gmem, block) &&
	    end == dax_gmem_block_end(gmem, block))
		clear_bit(block, blocks->ready);
	else if (test_bit(block, blocks->ready))
		rc = dax_gmem_zero(gmem, start, end);
	dax_gmem_unlock_block(blocks, block);
	return rc;
}

static int dax_gmem_punch_hole(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct dax_gmem *gmem = inode->i_private;
	unsigned long block;
	pgoff_t next;
	int id, rc;

	for (; start < end; start = next) {
		if (fatal_signal_pending(current))
			return -EINTR;

		block = dax_gmem_block(gmem, start);
		next = min(end, dax_gmem_block_end(gmem, block));
		id = dax_read_lock();
		rc = dax_claim_dead(&gmem->claim) ? -ENODEV :
			dax_gmem_punch_block(gmem, block, start, next);
		dax_read_unlock(id);
		if (rc)
			return rc;
		cond_resched();
	}
	return 0;
}

static ssize_t dax_gmem_write_pages(struct dax_gmem *gmem, pgoff_t start,
				    pgoff_t end, struct iov_iter *from)
{
	return dev_dax_write(gmem->claim.dax_dev, dax_gmem_pgoff(gmem, start),
			     end - start, from);
}

/* Write to a block that is not ready, and zero only what is not written. */
static ssize_t dax_gmem_fill_block(struct dax_gmem *gmem, unsigned long block,
				   pgoff_t start, pgoff_t end,
				   struct iov_iter *from)
{
	ssize_t written;
	int rc;

	/* Also if it ends before the first page is complete. */
	dax_gmem_set_used(gmem, block);
	written = dax_gmem_write_pages(gmem, start, end, from);
	if (written <= 0)
		return written;

	rc = dax_gmem_zero(gmem, dax_gmem_block_start(gmem, block), start);
	if (!rc)
		rc = dax_gmem_zero(gmem, start + PHYS_PFN(written),
				   dax_gmem_block_end(gmem, block));
	if (rc) {
		iov_iter_revert(from, written);
		return rc;
	}
	dax_gmem_set_ready(gmem, block);
	return written;
}

/* Write to a part of a block, or all of it, likewise. */
static ssize_t dax_gmem_write_block(struct dax_gmem *gmem, unsigned long block,
				    pgoff_t start, pgoff_t end,
				    struct iov_iter *from)
{
	struct dax_gmem_blocks *blocks = gmem->blocks;
	ssize_t rc;

	/* Pairs with the barrier in dax_gmem_set_ready(). */
	if (!blocks || test_bit_acquire(block, blocks->ready))
		return dax_gmem_write_pages(gmem, start, end, from);

	rc = dax_gmem_lock_block(blocks, block, TASK_KILLABLE);
	if (rc)
		return -EINTR;
	if (test_bit(block, blocks->ready))
		rc = dax_gmem_write_pages(gmem, start, end, from);
	else
		rc = dax_gmem_fill_block(gmem, block, start, end, from);
	dax_gmem_unlock_block(blocks, block);
	return rc;
}

static ssize_t dax_gmem_write(struct inode *inode, pgoff_t start, pgoff_t end,
			      struct iov_iter *from)
{
	struct dax_gmem *gmem = inode->i_private;
	unsigned long block = dax_gmem_block(gmem, start);
	ssize_t rc;
	int id;

	end = min(end, dax_gmem_block_end(gmem, block));
	id = dax_read_lock();
	rc = dax_claim_dead(&gmem->claim) ? -ENODEV :
		dax_gmem_write_block(gmem, block, start, end, from);
	dax_read_unlock(id);
	return rc;
}

/*
 * A folio is as large as the device is aligned, and nobody can tell which part
 * of it somebody refers to.
 */
static unsigned long dax_gmem_granularity(struct inode *inode)
{
	struct dax_gmem *gmem = inode->i_private;

	return dax_claim_dead(&gmem->claim) ? 0 : gmem->align;
}

static int dax_gmem_find_in_use(struct inode *inode, pgoff_t start, pgoff_t end,
				pgoff_t *in_use)
{
	struct dax_gmem *gmem = inode->i_private;
	struct dax_claim *claim = &gmem->claim;
	int id, rc = -ENODEV;

	id = dax_read_lock();
	if (!dax_claim_dead(claim)) {
		rc = dax_find_in_use(claim->dax_dev, dax_gmem_pgoff(gmem, start),
				     end - start, in_use);
		*in_use -= claim->pgoff;
	}
	dax_read_unlock(id);
	return rc;
}

static u64 dax_gmem_initialised(struct dax_gmem *gmem)
{
	struct dax_gmem_blocks *blocks = gmem->blocks;
	unsigned long block;
	u64 nr_pages = 0;

	if (!blocks)
		return PFN_PHYS(gmem->claim.nr_pages);
	for_each_set_bit(block, blocks->ready, blocks->nr)
		nr_pages += dax_gmem_block_pages(gmem, block);
	return PFN_PHYS(nr_pages);
}

static u64 dax_gmem_poisoned(struct dax_gmem *gmem)
{
	struct dax_claim *claim = &gmem->claim;

	/* What the device has on record is no longer about our memory. */
	if (dax_claim_dead(claim))
		return 0;
	return PFN_PHYS(dax_poison_count(claim->dax_dev, claim->pgoff,
					 claim->nr_pages));
}

static void dax_gmem_show_extents(struct seq_file *m, struct dax_gmem *gmem)
{
	pgoff_t index = 0, size = gmem->claim.nr_pages;
	unsigned long pfn;
	long nr;
	int id;

	id = dax_read_lock();
	while (index < size && !dax_claim_dead(&gmem->claim)) {
		/* with the pages that have an error */
		nr = dax_direct_access(gmem->claim.dax_dev,
				       dax_gmem_pgoff(gmem, index),
				       size - index, DAX_RECOVERY_WRITE, NULL,
				       &pfn);
		if (nr < 0)
			break;
		seq_printf(m, "dax-extent:\t%#llx-%#llx\n", PFN_PHYS(pfn),
			   PFN_PHYS(pfn + nr) - 1);
		index += nr;
	}
	dax_read_unlock(id);
}

static void dax_gmem_show_fdinfo(struct seq_file *m, struct inode *inode)
{
	struct dax_gmem *gmem = inode->i_private;
	struct dev_dax *dev_dax = dax_claim_dev_dax(&gmem->claim);

	seq_printf(m, "dax-device:\t%s\n", dev_name(&dev_dax->dev));
	seq_printf(m, "dax-offset:\t%llu\n", PFN_PHYS(gmem->claim.pgoff));
	seq_printf(m, "initialised:\t%llu\n", dax_gmem_initialised(gmem));
	seq_printf(m, "poisoned:\t%llu\n", dax_gmem_poisoned(gmem));
	if (file_ns_capable(m->file, &init_user_ns, CAP_SYS_ADMIN))
		dax_gmem_show_extents(m, gmem);
}

static const struct guest_memfd_backend_ops dax_gmem_ops = {
	.name = "dax",
	.owner = THIS_MODULE,
	.match = dax_gmem_match,
	.attach = dax_gmem_attach,
	.release = dax_gmem_release,
	.get_pfn = dax_gmem_get_pfn,
	.max_order = dax_gmem_max_order,
	.fault = dax_gmem_fault,
	.get_folio = dax_gmem_get_folio,
	.allocate = dax_gmem_allocate,
	.punch_hole = dax_gmem_punch_hole,
	.write = dax_gmem_write,
	.granularity = dax_gmem_granularity,
	.find_in_use = dax_gmem_find_in_use,
	.show_fdinfo = dax_gmem_show_fdinfo,
};

static int __init dax_gmem_init(void)
{
	return guest_memfd_register_backend(&dax_gmem_ops);
}
module_init(dax_gmem_init);

static void __exit dax_gmem_exit(void)
{
	guest_memfd_unregister_backend(&dax_gmem_ops);
}
module_exit(dax_gmem_exit);

MODULE_ALIAS(GUEST_MEMFD_BACKEND_ALIAS);
MODULE_DESCRIPTION("guest_memfd on device-DAX");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("GUEST_MEMFD");
