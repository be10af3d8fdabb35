// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which pages of a guest_memfd are shared, and which are private
 *
 * A maple tree of the inode has the attributes of each page of the file, as
 * ranges: every page is in one, and neighbours differ.  So a range of pages is
 * uniform if the one that its first page is in does not end before it does.
 * Holes and the page cache have no influence on attributes.
 *
 * Locks: mapping->invalidate_lock is held exclusively to change the tree, which
 * is walked under RCU.  What a reader finds holds as long as it has
 * invalidate_lock, or until somebody else invalidates the range.
 *
 * Conversion changes attributes, with the lock held exclusively from beginning to
 * end.  Before pages become private, user mappings are removed, and no other
 * reference to a page may be left: none that is good for access comes back
 * without the lock.  Guests lose their mappings next, in the same invalidation
 * in which the tree is changed: a fault that looked before maps nothing.
 */
#include <linux/kvm_host.h>
#include <linux/maple_tree.h>
#include <linux/moduleparam.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/swap.h>
#include <linux/uaccess.h>

#include <trace/events/kvm.h>

#include "gmem_attributes.h"
#include "guest_memfd.h"

#ifdef CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES
/* Is private what a guest_memfd, or what its VM, says is private? */
bool __ro_after_init gmem_in_place_conversion;
EXPORT_SYMBOL_FOR_KVM_INTERNAL(gmem_in_place_conversion);
module_param(gmem_in_place_conversion, bool, 0444);
#endif

void kvm_gmem_attributes_setup(struct inode *inode)
{
	struct maple_tree *mt = &GMEM_I(inode)->attributes;

	mt_init_flags(mt, MT_FLAGS_LOCK_EXTERN | MT_FLAGS_USE_RCU);
	mt_set_external_lock(mt, &inode->i_data.invalidate_lock);
}

/* All pages of a new file start with the same @attributes. */
int kvm_gmem_attributes_init(struct inode *inode, u64 attributes)
{
	MA_STATE(mas, &GMEM_I(inode)->attributes, 0,
		 (i_size_read(inode) >> PAGE_SHIFT) - 1);
	int r;

	filemap_invalidate_lock(inode->i_mapping);
	r = mas_store_gfp(&mas, xa_mk_value(attributes), GFP_KERNEL_ACCOUNT);
	filemap_invalidate_unlock(inode->i_mapping);

	return r;
}

/* The lock is not there yet if the inode was never complete. */
void kvm_gmem_attributes_destroy(struct inode *inode)
{
	struct maple_tree *mt = &GMEM_I(inode)->attributes;

	if (mtree_empty(mt))
		return;

	filemap_invalidate_lock(inode->i_mapping);
	__mt_destroy(mt);
	filemap_invalidate_unlock(inode->i_mapping);
}

/*
 * The attributes of the page at @index, and the last page of those from there on
 * that have the same ones.  What is not in the file is not for user space.
 */
u64 kvm_gmem_get_attributes(struct inode *inode, pgoff_t index, pgoff_t *last)
{
	MA_STATE(mas, &GMEM_I(inode)->attributes, index, index);
	void *entry;

	guard(rcu)();

	entry = mas_walk(&mas);
	if (last)
		*last = mas.last;
	return entry ? xa_to_value(entry) : KVM_MEMORY_ATTRIBUTE_PRIVATE;
}

/* Equal neighbours are one range, which ends at or behind the last page. */
bool kvm_gmem_range_has_attributes(struct inode *inode, pgoff_t start,
				   pgoff_t end, u64 attributes)
{
	pgoff_t last;

	return kvm_gmem_get_attributes(inode, start, &last) == attributes &&
	       last >= end - 1;
}

/* How many pages are private?  Takes long if many ranges are. */
pgoff_t kvm_gmem_nr_private(struct inode *inode)
{
	MA_STATE(mas, &GMEM_I(inode)->attributes, 0, 0);
	pgoff_t nr_pages = 0;
	void *entry;

	lockdep_assert_held(&inode->i_mapping->invalidate_lock);

	mas_for_each(&mas, entry, ULONG_MAX) {
		if (xa_to_value(entry) & KVM_MEMORY_ATTRIBUTE_PRIVATE)
			nr_pages += mas.last - mas.index + 1;
		cond_resched();
	}
	return nr_pages;
}

/*
 * Reserve what it takes to give [@start, @end) the same @attributes, neighbours
 * that have them already included: equal neighbours are one range.
 */
static int kvm_gmem_prepare_attributes(struct ma_state *mas, pgoff_t start,
				       pgoff_t end, u64 attributes)
{
	void *entry = xa_mk_value(attributes);

	mas_set(mas, end);
	if (mas_walk(mas) == entry)
		end = mas->last + 1;
	if (start) {
		mas_set(mas, start - 1);
		if (mas_walk(mas) == entry)
			start = mas->index;
	}
	mas_set_range(mas, start, end - 1);
	return mas_preallocate(mas, entry, GFP_KERNEL_ACCOUNT);
}

/*
 * Nobody can map the folio any more, but might somebody still access it?  There
 * is a reference for each page from the page cache, and one of the caller's.
 */
static bool kvm_gmem_folio_in_use(struct folio *folio,
				  enum lru_cache_drained *drained)
{
	if (folio_mapped(folio) || folio_maybe_dma_pinned(folio))
		return true;

	lru_cache_drain_for_folio(folio, 1, drained);
	return folio_ref_count(folio) != folio_nr_pages(folio) + 1;
}

static int kvm_gmem_find_folio_in_use(struct address_space *mapping,
				      pgoff_t start, pgoff_t end,
				      pgoff_t *in_use)
{
	enum lru_cache_drained drained = LRU_CACHE_NOT_DRAINED;
	struct folio_batch fbatch;
	pgoff_t next = start;

	*in_use = end;
	folio_batch_init(&fbatch);
	while (*in_use == end &&
	       filemap_get_folios(mapping, &next, end - 1, &fbatch)) {
		for (int i = 0; i < folio_batch_count(&fbatch); i++) {
			struct folio *folio = fbatch.folios[i];

			if (kvm_gmem_folio_in_use(folio, &drained)) {
				*in_use = max(start, folio->index);
				break;
			}
		}
		folio_batch_release(&fbatch);
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

/*
 * The first page of [start, end) that is in use, @end if there is none.  There
 * may be many to look at, so a fatal signal ends it.
 */
static int kvm_gmem_find_in_use(struct inode *inode, pgoff_t start, pgoff_t end,
				pgoff_t *in_use)
{
	/* What a backend has is not in the page cache. */
	if (GMEM_I(inode)->backend)
		return GMEM_I(inode)->backend->find_in_use(inode, start, end,
							   in_use);

	return kvm_gmem_find_folio_in_use(inode->i_mapping, start, end, in_use);
}

/*
 * Pages become private only when a guest accesses them, but shared right now.
 * No VM that hands pages to firmware has memory of a backend.
 */
static void kvm_gmem_make_shared(struct inode *inode, pgoff_t start, pgoff_t end)
{
#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_CONVERT
	struct folio_batch fbatch;

	folio_batch_init(&fbatch);
	while (filemap_get_folios(inode->i_mapping, &start, end - 1, &fbatch)) {
		for (int i = 0; i < folio_batch_count(&fbatch); i++) {
			struct folio *folio = fbatch.folios[i];

			kvm_arch_gmem_make_shared(folio_pfn(folio),
						  folio_nr_pages(folio));
		}
		folio_batch_release(&fbatch);
		cond_resched();
	}
#endif
}

/*
 * All pages, or none.  Once nothing is left that can fail, guests lose the pages
 * as what they were; they fault on them again when the attributes have changed.
 * Who gets a reference to a page after it was looked at does not get access:
 * faults wait for the lock, and find the page private then.
 */
static int kvm_gmem_set_attributes(struct inode *inode, pgoff_t start,
				   pgoff_t end, u64 attributes,
				   pgoff_t *error_index)
{
	MA_STATE(mas, &GMEM_I(inode)->attributes, start, end - 1);
	bool to_private = attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE;
	int r;

	lockdep_assert_held_write(&inode->i_mapping->invalidate_lock);

	if (kvm_gmem_range_has_attributes(inode, start, end, attributes))
		return 0;

	*error_index = start;
	r = kvm_gmem_prepare_attributes(&mas, start, end, attributes);
	if (r)
		return r;

	if (to_private) {
		unmap_mapping_pages(inode->i_mapping, start, end - start, false);
		r = kvm_gmem_find_in_use(inode, start, end, error_index);
		if (!r && *error_index != end)
			r = -EAGAIN;
		if (r) {
			mas_destroy(&mas);
			return r;
		}
	}

	kvm_gmem_invalidate_start(inode, start, end,
				  to_private ? KVM_FILTER_SHARED :
					       KVM_FILTER_PRIVATE);
	if (!to_private)
		kvm_gmem_make_shared(inode, start, end);
	mas_store_prealloc(&mas, xa_mk_value(attributes));
	kvm_gmem_invalidate_end(inode, start, end);

	return 0;
}

u64 kvm_gmem_supported_attributes(struct kvm *kvm)
{
	if (gmem_in_place_conversion && (!kvm || kvm_arch_has_private_mem(kvm)))
		return KVM_MEMORY_ATTRIBUTE_PRIVATE;

	return 0;
}

/* Pages are converted by so many bytes; 0 when the memory is gone. */
unsigned long kvm_gmem_granularity(struct inode *inode)
{
	const struct guest_memfd_backend_ops *backend = GMEM_I(inode)->backend;

	return backend ? backend->granularity(inode) : PAGE_SIZE;
}

static int kvm_gmem_ioctl_set_attributes(struct file *file,
					 struct kvm_memory_attributes2 __user *argp)
{
	struct gmem_file *f = file->private_data;
	struct inode *inode = file_inode(file);
	struct kvm_memory_attributes2 attrs;
	pgoff_t start, end, error_index;
	u64 size = i_size_read(inode);
	unsigned long granularity;
	int r;

	if (copy_from_user(&attrs, argp, sizeof(attrs)))
		return -EFAULT;

	if (attrs.flags || memchr_inv(attrs.reserved, 0, sizeof(attrs.reserved)))
		return -EINVAL;
	if (!kvm_arch_has_private_mem(f->kvm) ||
	    attrs.attributes & ~KVM_MEMORY_ATTRIBUTE_PRIVATE)
		return -EINVAL;
	if (!attrs.size || !PAGE_ALIGNED(attrs.offset | attrs.size))
		return -EINVAL;
	if (attrs.offset >= size || attrs.size > size - attrs.offset)
		return -EINVAL;

	granularity = kvm_gmem_granularity(inode);
	if (!granularity)
		return -ENODEV;
	if (!IS_ALIGNED(attrs.offset | attrs.size, granularity))
		return -EINVAL;

	start = attrs.offset >> PAGE_SHIFT;
	end = start + (attrs.size >> PAGE_SHIFT);

	filemap_invalidate_lock(inode->i_mapping);
	r = kvm_gmem_set_attributes(inode, start, end, attrs.attributes,
				    &error_index);
	filemap_invalidate_unlock(inode->i_mapping);

	trace_kvm_gmem_set_attributes(inode->i_ino, start, end,
				      attrs.attributes, r);
	/* Other errors are not about a part of the range. */
	if (r != -EAGAIN && r != -ENOMEM)
		return r;

	attrs.error_offset = (u64)error_index << PAGE_SHIFT;
	return copy_to_user(argp, &attrs, sizeof(attrs)) ? -EFAULT : r;
}

long kvm_gmem_ioctl(struct file *file, unsigned int ioctl, unsigned long arg)
{
	if (ioctl != KVM_SET_MEMORY_ATTRIBUTES2 || !gmem_in_place_conversion)
		return -ENOTTY;

	return kvm_gmem_ioctl_set_attributes(file, (void __user *)arg);
}

#ifdef CONFIG_KVM_GUEST_DAXFD_KUNIT_TEST
#include "gmem_attributes_test.c"
#endif
