/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __LINUX_GUEST_MEMFD_H
#define __LINUX_GUEST_MEMFD_H

#include <linux/bits.h>
#include <linux/mm_types.h>
#include <linux/pgtable.h>
#include <linux/types.h>

struct file;
struct folio;
struct inode;
struct iov_iter;
struct module;
struct seq_file;
struct vm_fault;

/**
 * enum guest_memfd_backend_flags - how a guest_memfd wants its backing memory
 * @GUEST_MEMFD_BACKEND_KEEP_DATA: contents are neither zeroed nor wiped
 * @GUEST_MEMFD_BACKEND_SHARED: others may use the memory at the same time;
 *	implies @GUEST_MEMFD_BACKEND_KEEP_DATA
 */
enum guest_memfd_backend_flags {
	GUEST_MEMFD_BACKEND_KEEP_DATA	= BIT(0),
	GUEST_MEMFD_BACKEND_SHARED	= BIT(1),
};

/**
 * struct guest_memfd_backend_ops - memory of a guest_memfd that is not page cache
 *
 * A guest_memfd names its memory by page offset, a backend knows which memory
 * that is.  guest_memfd owns the user API, the bindings to memslots and the
 * invalidation of guest mappings; a backend owns the contents, and inode->i_private.
 * Page references are never passed: invalidation is what protects a mapping.
 *
 * Each function gets the guest_memfd's inode and offsets that are within its
 * size.  None is called before @attach succeeded or after @release.
 *
 * @name: as fdinfo shows it
 * @owner: module that is pinned as long as a guest_memfd uses the backend
 * @match: is this open file something that the backend can take memory from?
 * @attach: take @size bytes at @offset of @backing for this guest_memfd.  The
 *	inode is complete, and the backend may call guest_memfd_zap() from now
 *	on.  @backing is not needed after the call.  May sleep, no locks are held.
 *	Returns 0 or an errno for user space.
 * @release: the last file is gone, with its bindings and user mappings.  Gives
 *	the memory back.  May sleep, cannot fail, no locks are held.
 * @get_pfn: the page for a guest fault, and the largest order (0, PMD_ORDER or
 *	PUD_ORDER) at which it may be mapped: the block of that order around it,
 *	naturally aligned in physical memory, belongs to this guest_memfd page by
 *	page, has no memory error, and is initialised.  kvm->srcu is held, may
 *	sleep.  A caller may find its result invalidated right away.  Returns 0,
 *	or -EFAULT when the memory is gone, -EHWPOISON, -ENOMEM, -EAGAIN, or
 *	-EINTR for a fatal signal.
 * @max_order: the page and the order that @get_pfn would return if it had
 *	nothing to initialise.  May not sleep.  Returns the order, or -EFAULT.
 * @fault: fault of a user mapping of shared memory, as .huge_fault of
 *	vm_operations_struct; holds mmap_lock or the lock of the VMA.  Takes
 *	invalidate_lock around looking up memory and mapping it, and asks
 *	guest_memfd_range_is_shared() with the lock held.  For @order 0 it may
 *	not return VM_FAULT_FALLBACK.
 * @get_folio: the folio of a page of shared memory, initialised, for a user
 *	mapping that is made by somebody else.  invalidate_lock is held shared
 *	until the page is mapped.  Returns the folio, locked and with a reference,
 *	the page being the one at @index modulo the size of the folio; or
 *	-EHWPOISON, or another error.
 * @allocate: initialise pages ahead of their first use.  May sleep; takes
 *	invalidate_lock (shared) itself.  Returns 0 or an errno for fallocate().
 * @punch_hole: make pages read as zero from now on.  invalidate_lock is held,
 *	user and guest mappings of the pages are gone and cannot come back
 *	before it returns.  Returns 0 or an errno for fallocate().
 * @write: fill pages, as many as can be copied from @from without a page fault
 *	and without taking long.  What of them is not filled, and was not
 *	initialised, reads as zero or stays as it was.  invalidate_lock is held
 *	shared.  Advances @from by the bytes of the pages that were filled and
 *	returns their number, 0 when @from has to be faulted in first, or an
 *	errno for write().
 * @granularity: a power of two; pages become shared or private in units of
 *	this many bytes, aligned to it.  May not sleep.  Returns 0 when the
 *	memory is gone.
 * @find_in_use: look for pages that somebody refers to, by way of a user mapping
 *	that is left or otherwise, now that these pages, whole units of
 *	@granularity, are unmapped.  invalidate_lock is held: no user mapping
 *	of them can come back before this returns.  May sleep.  Returns 0 with
 *	*@in_use the first page that may be used, @end if there is none,
 *	-ENODEV when the memory is gone, or -EINTR for a fatal signal.
 * @show_fdinfo: "key:\tvalue\n" lines
 */
struct guest_memfd_backend_ops {
	const char *name;
	struct module *owner;
	bool (*match)(struct file *backing);
	int (*attach)(struct inode *inode, struct file *backing, u64 offset,
		      u64 size, unsigned int flags);
	void (*release)(struct inode *inode);
	int (*get_pfn)(struct inode *inode, pgoff_t index, unsigned long *pfn,
		       int *max_order);
	int (*max_order)(struct inode *inode, pgoff_t index, unsigned long *pfn);
	vm_fault_t (*fault)(struct vm_fault *vmf, unsigned int order);
	struct folio *(*get_folio)(struct inode *inode, pgoff_t index);
	int (*allocate)(struct inode *inode, pgoff_t start, pgoff_t end);
	int (*punch_hole)(struct inode *inode, pgoff_t start, pgoff_t end);
	ssize_t (*write)(struct inode *inode, pgoff_t start, pgoff_t end,
			 struct iov_iter *from);
	unsigned long (*granularity)(struct inode *inode);
	int (*find_in_use)(struct inode *inode, pgoff_t start, pgoff_t end,
			   pgoff_t *in_use);
	void (*show_fdinfo)(struct seq_file *m, struct inode *inode);
};

/* Page tables know blocks of a PUD's size, of a PMD's size, and single pages. */
static inline int guest_memfd_order_below(int order)
{
	return order > PMD_ORDER ? PMD_ORDER : 0;
}

/* Modules with a backend carry this alias, so that KVM finds them. */
#define GUEST_MEMFD_BACKEND_ALIAS	"guest_memfd-backend"

int guest_memfd_register_backend(const struct guest_memfd_backend_ops *ops);
void guest_memfd_unregister_backend(const struct guest_memfd_backend_ops *ops);
bool guest_memfd_range_is_shared(struct inode *inode, pgoff_t start, pgoff_t end);
void guest_memfd_zap(struct inode *inode);
void guest_memfd_zap_range(struct inode *inode, pgoff_t start, pgoff_t end);

#endif /* __LINUX_GUEST_MEMFD_H */
