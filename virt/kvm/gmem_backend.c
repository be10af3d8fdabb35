// SPDX-License-Identifier: GPL-2.0-only
/*
 * guest_memfd on memory that is not page cache
 *
 * A guest_memfd that was created with GUEST_MEMFD_FLAG_BACKING_FD, or behind a
 * KVM_MEM_GUEST_DAXFD memslot, has a backend, found by asking each registered
 * one about the file that user space named.  Everything else about it is as for
 * any guest_memfd: this file is entered where guest_memfd.c would otherwise
 * turn to the page cache.
 *
 * Two kinds of files have a backend:
 *
 *  - those with a file descriptor.  As always, the file pins the VM.
 *
 *  - those behind a KVM_MEM_GUEST_DAXFD memslot.  Nobody else can get at such a
 *    file, and it must not keep the VM alive, as only the VM can close it.  So the
 *    memslot owns the file and file->kvm holds no reference.  Freeing the
 *    memslot and destroying the VM detach the file first; release of a detached
 *    file touches no VM.  Whoever gets at file->kvm by way of the inode, that is
 *    a backend whose memory goes away, takes a reference first and skips a
 *    VM that is being destroyed: its vCPUs cannot run any more.  That reference
 *    may turn out to be the last one, and is dropped by a work item: destroying
 *    the VM takes slots_lock, and a backend comes with locks of its own.
 *
 * Locks: registry_lock is innermost.  slots_lock -> invalidate_lock ->
 * mmu_lock as in guest_memfd.c; backends are called with invalidate_lock held or
 * take it themselves, see struct guest_memfd_backend_ops.
 */
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/guest_memfd.h>
#include <linux/kmod.h>
#include <linux/kvm_host.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "gmem_attributes.h"
#include "guest_memfd.h"

/*
 * Windows that tests want to stay open for a while, in milliseconds: a VM that
 * is being destroyed, a file that is about to give its memory back, memory that
 * nobody has mapped any more and that is about to go, or to become a hole.
 */
static unsigned int gmem_delay_vm_destroy;
static unsigned int gmem_delay_release;
static unsigned int gmem_delay_zap;
static unsigned int gmem_delay_hole;

#ifdef CONFIG_KVM_GUEST_DAXFD_DELAY
module_param(gmem_delay_vm_destroy, uint, 0644);
module_param(gmem_delay_release, uint, 0644);
module_param(gmem_delay_zap, uint, 0644);
module_param(gmem_delay_hole, uint, 0644);
#endif

static void gmem_delay(const unsigned int *ms)
{
	if (IS_ENABLED(CONFIG_KVM_GUEST_DAXFD_DELAY))
		msleep(READ_ONCE(*ms));
}

static struct workqueue_struct *gmem_put_wq;

struct gmem_put {
	struct work_struct work;
	struct kvm *kvm;
};

static void gmem_put_kvm_work(struct work_struct *work)
{
	struct gmem_put *put = container_of(work, struct gmem_put, work);

	kvm_put_kvm(put->kvm);
	kfree(put);
}

/* Drop a reference, the last one maybe, under whatever locks. */
static void gmem_put_kvm(struct kvm *kvm)
{
	/* Taking memory away cannot fail, and a VM must not leak. */
	struct gmem_put *put = kmalloc_obj(*put, GFP_KERNEL | __GFP_NOFAIL);

	INIT_WORK(&put->work, gmem_put_kvm_work);
	put->kvm = kvm;
	queue_work(gmem_put_wq, &put->work);
}

int kvm_gmem_backend_init(void)
{
	gmem_put_wq = alloc_workqueue("kvm_gmem_put", WQ_UNBOUND, 0);
	return gmem_put_wq ? 0 : -ENOMEM;
}

/* Waits for the last VM to be gone: its end is code of this module. */
void kvm_gmem_backend_exit(void)
{
	destroy_workqueue(gmem_put_wq);
}

struct gmem_backend {
	const struct guest_memfd_backend_ops *ops;
	struct list_head entry;
};

static DEFINE_MUTEX(registry_lock);
static LIST_HEAD(registry);

/**
 * guest_memfd_register_backend - offer memory to guest_memfd
 * @ops: functions of the backend
 *
 * Return: 0 or -ENOMEM.
 */
int guest_memfd_register_backend(const struct guest_memfd_backend_ops *ops)
{
	struct gmem_backend *backend = kzalloc_obj(*backend);

	if (!backend)
		return -ENOMEM;

	backend->ops = ops;
	guard(mutex)(&registry_lock);
	list_add_tail(&backend->entry, &registry);
	return 0;
}
EXPORT_SYMBOL_NS_GPL(guest_memfd_register_backend, "GUEST_MEMFD");

/**
 * guest_memfd_unregister_backend - no new guest_memfd will use the backend
 * @ops: as it was registered
 *
 * Those that use it keep its module loaded, so call this at module exit.
 */
void guest_memfd_unregister_backend(const struct guest_memfd_backend_ops *ops)
{
	struct gmem_backend *backend, *tmp;

	guard(mutex)(&registry_lock);
	list_for_each_entry_safe(backend, tmp, &registry, entry) {
		if (backend->ops == ops) {
			list_del(&backend->entry);
			kfree(backend);
		}
	}
}
EXPORT_SYMBOL_NS_GPL(guest_memfd_unregister_backend, "GUEST_MEMFD");

/* The backend for a file, with a reference to its module, or NULL. */
static const struct guest_memfd_backend_ops *gmem_backend_get(struct file *file)
{
	struct gmem_backend *backend;

	guard(mutex)(&registry_lock);
	list_for_each_entry(backend, &registry, entry) {
		if (backend->ops->match(file) &&
		    try_module_get(backend->ops->owner))
			return backend->ops;
	}
	return NULL;
}

static bool gmem_has_backends(void)
{
	guard(mutex)(&registry_lock);
	return !list_empty(&registry);
}

bool __weak kvm_arch_supports_gmem_backing(struct kvm *kvm)
{
	return true;
}

/**
 * kvm_gmem_supports_backing - can this VM have memory from a backend?
 * @kvm: the VM, or NULL to ask for any VM
 *
 * The first call loads the module of a backend if none is there yet.
 *
 * Return: true if it can.
 */
bool kvm_gmem_supports_backing(struct kvm *kvm)
{
	static unsigned long requested;

	if (kvm && !kvm_arch_supports_gmem_backing(kvm))
		return false;
	if (!gmem_has_backends() && !test_and_set_bit(0, &requested))
		request_module(GUEST_MEMFD_BACKEND_ALIAS);
	return gmem_has_backends();
}

u64 kvm_gmem_get_backing_flags(struct kvm *kvm)
{
	u64 flags;

	if (!kvm_gmem_supports_backing(kvm))
		return 0;

	/* It needs INIT_SHARED: contents that are kept are shared at first. */
	flags = kvm_gmem_get_supported_flags(kvm);
	if (flags & GUEST_MEMFD_FLAG_INIT_SHARED)
		flags |= GUEST_MEMFD_FLAG_KEEP_DATA;
	return flags;
}

static int gmem_attach_backend(struct file *file, struct file *backing,
			       u64 offset, unsigned int flags)
{
	const struct guest_memfd_backend_ops *ops;
	struct inode *inode = file_inode(file);
	int r;

	ops = gmem_backend_get(backing);
	if (!ops)
		return -EINVAL;

	/* The guest reads and writes, whatever the memslot is used for. */
	r = -EACCES;
	if ((backing->f_mode & (FMODE_READ | FMODE_WRITE)) ==
	    (FMODE_READ | FMODE_WRITE))
		r = ops->attach(inode, backing, offset, i_size_read(inode),
				flags);
	if (r) {
		module_put(ops->owner);
		return r;
	}

	GMEM_I(inode)->backend = ops;
	return 0;
}

/* A guest_memfd file with @size bytes at @offset of the open file @backing_fd. */
static struct file *gmem_create_backed_file(struct kvm *kvm, u64 size, u64 flags,
					    unsigned int backing_fd, u64 offset,
					    bool slot_owned)
{
	unsigned int backend_flags = 0;
	struct file *backing, *file;
	int r;

	if ((loff_t)size <= 0 || !PAGE_ALIGNED(size))
		return ERR_PTR(-EINVAL);

	if (flags & GUEST_MEMFD_FLAG_KEEP_DATA)
		backend_flags |= GUEST_MEMFD_BACKEND_KEEP_DATA;
	if (slot_owned)
		backend_flags |= GUEST_MEMFD_BACKEND_SHARED;

	backing = fget(backing_fd);
	if (!backing)
		return ERR_PTR(-EBADF);

	file = kvm_gmem_create_file(kvm, size, flags, slot_owned);
	if (IS_ERR(file))
		goto out;

	r = gmem_attach_backend(file, backing, offset, backend_flags);
	if (r) {
		kvm_gmem_put_file(kvm, file);
		file = ERR_PTR(r);
	}
out:
	fput(backing);
	return file;
}

int kvm_gmem_create_backed(struct kvm *kvm, struct kvm_create_guest_memfd *args)
{
	struct file *file;
	int fd;

	if (!kvm_gmem_supports_backing(kvm))
		return -EOPNOTSUPP;

	if (args->flags & ~(kvm_gmem_get_backing_flags(kvm) |
			    GUEST_MEMFD_FLAG_BACKING_FD))
		return -EINVAL;
	if ((args->flags & GUEST_MEMFD_FLAG_KEEP_DATA) &&
	    !(args->flags & GUEST_MEMFD_FLAG_INIT_SHARED))
		return -EINVAL;
	if (args->pad || memchr_inv(args->reserved, 0, sizeof(args->reserved)))
		return -EINVAL;

	fd = get_unused_fd_flags(0);
	if (fd < 0)
		return fd;

	file = gmem_create_backed_file(kvm, args->size, args->flags,
				       args->backing_fd, args->backing_offset,
				       false);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}

	fd_install(fd, file);
	return fd;
}

/*
 * Turn a KVM_MEM_GUEST_DAXFD region into a KVM_MEM_GUEST_MEMFD region and make
 * the file for it.  Returns NULL when the memslot is to be deleted.
 */
struct file *kvm_gmem_create_for_slot(struct kvm *kvm,
				      struct kvm_userspace_memory_region2 *mem)
{
	const u64 flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED |
			  GUEST_MEMFD_FLAG_BACKING_FD |
			  GUEST_MEMFD_FLAG_KEEP_DATA;
	struct file *file = NULL;

	/* Shared memory is all that it can provide, and nobody can convert it. */
	if (mem->flags != KVM_MEM_GUEST_DAXFD ||
	    !kvm_arch_supports_gmem_init_shared(kvm))
		return ERR_PTR(-EINVAL);

	if (mem->memory_size) {
		if (!kvm_gmem_supports_backing(kvm))
			return ERR_PTR(-EOPNOTSUPP);
		file = gmem_create_backed_file(kvm, mem->memory_size, flags,
					       mem->guest_memfd,
					       mem->guest_memfd_offset, true);
	}

	mem->flags = KVM_MEM_GUEST_MEMFD;
	mem->guest_memfd_offset = 0;
	return file;
}

/*
 * The VM is being destroyed.  Its memslots stay until the MMU is gone; take
 * their files away from those who find the VM through a file.
 */
void kvm_gmem_detach_vm(struct kvm *kvm)
{
	struct kvm_memory_slot *slot;
	int bkt;

	gmem_delay(&gmem_delay_vm_destroy);

	guard(mutex)(&kvm->slots_lock);
	for (int i = 0; i < kvm_arch_nr_memslot_as_ids(kvm); i++) {
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, i)) {
			if (slot->flags & KVM_MEMSLOT_GMEM_OWNED)
				kvm_gmem_unbind(slot);
		}
	}
}

/**
 * guest_memfd_range_is_shared - may user space map all of these pages?
 * @inode: inode of the guest_memfd
 * @start: first page
 * @end: first page behind the range
 *
 * Context: invalidate_lock is held, and for as long as the answer matters.
 *
 * Return: false if a page is private, or not in the file.
 */
bool guest_memfd_range_is_shared(struct inode *inode, pgoff_t start, pgoff_t end)
{
	lockdep_assert_held(&inode->i_mapping->invalidate_lock);

	return kvm_gmem_range_has_attributes(inode, start, end, 0);
}
EXPORT_SYMBOL_NS_GPL(guest_memfd_range_is_shared, "GUEST_MEMFD");

/**
 * guest_memfd_zap_range - take pages of a guest_memfd away from guests and users
 * @inode: inode of the guest_memfd
 * @start: first page
 * @end: first page behind the range
 *
 * For a backend whose memory goes away.  It makes @get_pfn and @fault fail for
 * these pages first: on return there is no mapping, and none can appear.
 *
 * Context: may sleep; takes invalidate_lock, mmu_lock of the VMs and the locks
 * of user mappings, and must not be called with them held.
 */
void guest_memfd_zap_range(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct kvm *kvm = NULL;
	struct gmem_file *f;

	filemap_invalidate_lock(inode->i_mapping);
	kvm_gmem_for_each_file(f, inode) {
		if (f->slot_owned) {
			if (!kvm_get_kvm_safe(f->kvm))
				continue;
			/* It is the only file of its inode. */
			kvm = f->kvm;
		}
		__kvm_gmem_invalidate_start(inode, f, start, end,
					    kvm_gmem_get_invalidate_filter(inode));
		__kvm_gmem_invalidate_end(f, start, end);
	}
	filemap_invalidate_unlock(inode->i_mapping);

	unmap_mapping_pages(inode->i_mapping, start, end - start, true);
	gmem_delay(&gmem_delay_zap);

	if (kvm)
		gmem_put_kvm(kvm);
}
EXPORT_SYMBOL_NS_GPL(guest_memfd_zap_range, "GUEST_MEMFD");

/**
 * guest_memfd_zap - take all memory of a guest_memfd away from guests and users
 * @inode: inode of the guest_memfd
 *
 * See guest_memfd_zap_range().
 */
void guest_memfd_zap(struct inode *inode)
{
	guest_memfd_zap_range(inode, 0, -1ul);
}
EXPORT_SYMBOL_NS_GPL(guest_memfd_zap, "GUEST_MEMFD");

void kvm_gmem_backend_release(struct inode *inode)
{
	const struct guest_memfd_backend_ops *ops = GMEM_I(inode)->backend;

	if (!ops)
		return;

	gmem_delay(&gmem_delay_release);
	ops->release(inode);
	GMEM_I(inode)->backend = NULL;
	module_put(ops->owner);
}

int kvm_gmem_backend_get_pfn(struct inode *inode, pgoff_t index, kvm_pfn_t *pfn,
			     int *max_order)
{
	unsigned long backend_pfn;
	int r;

	r = GMEM_I(inode)->backend->get_pfn(inode, index, &backend_pfn,
					    max_order);
	switch (r) {
	case 0:
		*pfn = backend_pfn;
		return 0;
	case -EHWPOISON:
	case -ENOMEM:
	case -EAGAIN:
	case -EINTR:
		return r;
	default:
		/* Fault handlers of architectures know no other errno. */
		return -EFAULT;
	}
}

int kvm_gmem_backend_allocate(struct inode *inode, pgoff_t start, pgoff_t end)
{
	return GMEM_I(inode)->backend->allocate(inode, start, end);
}

int kvm_gmem_backend_punch_hole(struct inode *inode, pgoff_t start, pgoff_t end)
{
	pgoff_t size = i_size_read(inode) >> PAGE_SHIFT;

	lockdep_assert_held_write(&inode->i_mapping->invalidate_lock);

	/* As on page cache, there is nothing to do past the end. */
	end = min(end, size);
	if (start >= end)
		return 0;

	unmap_mapping_pages(inode->i_mapping, start, end - start, false);
	gmem_delay(&gmem_delay_hole);
	return GMEM_I(inode)->backend->punch_hole(inode, start, end);
}

ssize_t kvm_gmem_backend_write(struct inode *inode, pgoff_t start, pgoff_t end,
			       struct iov_iter *from)
{
	lockdep_assert_held_read(&inode->i_mapping->invalidate_lock);

	return GMEM_I(inode)->backend->write(inode, start, end, from);
}
