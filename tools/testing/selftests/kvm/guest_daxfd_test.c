// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guest memory from a device-DAX instance, by both ways that lead there:
 * KVM_CREATE_GUEST_MEMFD with GUEST_MEMFD_FLAG_BACKING_FD ("create"), and a
 * memslot with KVM_MEM_GUEST_DAXFD ("short").
 *
 * DESTROYS THE CONTENTS of the device that -d or GUEST_DAXFD_DEV names.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/capability.h>
#include <linux/falloc.h>
#include <linux/sizes.h>
#include <linux/stddef.h>

/* Needs stddef.h, which the tools' own linux/types.h does not include. */
#include <linux/io_uring.h>

#include "daxfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#include "kvm_test_harness.h"

#define DECOY_DATA	0xdec0dec0dec0dec0ULL

#define PROVIDER_DRIVER	"/sys/bus/nd/drivers/dax_pmem"

#define LOOP_MS		500
#define LOOP_TIMEOUT	120

/* Skips the test if the device does not hold as many ranges. */
static bool has_units(struct __test_metadata *_metadata, u64 nr)
{
	if (nr_units < nr)
		SKIP(return false, "%s holds %lu ranges of %lu MiB, not %lu", dax.name,
		     nr_units, unit_size >> 20, nr);

	return true;
}

/* Returns 0 if the range can be mapped, else -errno. */
static int try_mmap(int fd, int flags, u64 offset, u64 len)
{
	void *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, offset);

	if (mem == MAP_FAILED)
		return -errno;

	kvm_munmap(mem, len);
	return 0;
}

static int try_mmap_dax(u64 offset, u64 len)
{
	int fd = dax_dev_open(&dax);
	int r = try_mmap(fd, MAP_SHARED, offset, len);

	kvm_close(fd);
	return r;
}

/* For loops that end after a while, but run once at least. */
static bool time_is_left(u64 *start)
{
	if (*start)
		return now_ms() - *start < LOOP_MS;

	*start = now_ms();
	return true;
}

/*
 * Capabilities, flags and fields
 */

FIXTURE(api) {
	struct kvm_vm *vm;
	int dax_fd;
};

FIXTURE_SETUP(api)
{
	dax_dev_restore(&dax);
	self->vm = vm_create_barebones();
	self->dax_fd = dax_dev_open(&dax);
}

FIXTURE_TEARDOWN_PARENT(api)
{
	check_after_test();
}

static const u64 daxfd_flags = CREATE_FLAGS | GUEST_MEMFD_FLAG_WRITE |
				GUEST_MEMFD_FLAG_KEEP_DATA;

TEST_F(api, capabilities)
{
	u64 gmem_flags = vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS);

	TEST_ASSERT_EQ(kvm_check_cap(KVM_CAP_GUEST_DAXFD), 1);
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_GUEST_DAXFD), 1);
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_GUEST_DAXFD_FLAGS),
		       daxfd_flags);
	TEST_ASSERT_EQ(gmem_flags & (GUEST_MEMFD_FLAG_BACKING_FD |
				     GUEST_MEMFD_FLAG_KEEP_DATA), 0);
}

#ifdef __x86_64__
TEST_F(api, capabilities_sw_protected)
{
	struct kvm_vm *vm;

	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM)))
		SKIP(return, "KVM lacks CONFIG_KVM_SW_PROTECTED_VM");

	/* Private memory is all that it can have, unless it can be converted. */
	vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	TEST_ASSERT_EQ(vm_check_cap(vm, KVM_CAP_GUEST_DAXFD), 1);
	TEST_ASSERT_EQ(vm_check_cap(vm, KVM_CAP_GUEST_DAXFD_FLAGS),
		       kvm_has_gmem_attributes() ? daxfd_flags :
						   GUEST_MEMFD_FLAG_MMAP);
}
#endif

static bool flags_are_valid(u64 flags)
{
	if (flags & ~(daxfd_flags | GUEST_MEMFD_FLAG_BACKING_FD))
		return false;

	return !(flags & GUEST_MEMFD_FLAG_KEEP_DATA) ||
	       flags & GUEST_MEMFD_FLAG_INIT_SHARED;
}

static void check_flags(int vm_fd, int dax_fd, u64 flags)
{
	int r = gmem_create(vm_fd, flags, dax_fd, 0, unit_size);

	if (!flags_are_valid(flags)) {
		TEST_ASSERT(r == -EINVAL, "flags 0x%lx: expected EINVAL, got %d",
			    flags, r);
		return;
	}

	TEST_ASSERT(r >= 0, "flags 0x%lx: expected success, got %d", flags, r);
	kvm_close(r);
}

TEST_F(api, each_flag)
{
	int i;

	check_flags(self->vm->fd, self->dax_fd, 0);
	for (i = 0; i < 64; i++)
		check_flags(self->vm->fd, self->dax_fd, 1ULL << i);
}

TEST_F(api, each_pair_of_flags)
{
	int i, j;

	for (i = 0; i < 64; i++) {
		for (j = 0; j < i; j++)
			check_flags(self->vm->fd, self->dax_fd,
				    1ULL << i | 1ULL << j);
	}
}

TEST_F(api, each_subset_of_known_flags)
{
	u64 flags;

	for (flags = 0; flags < 2 * GUEST_MEMFD_FLAG_KEEP_DATA; flags++)
		check_flags(self->vm->fd, self->dax_fd, flags);
	check_flags(self->vm->fd, self->dax_fd, ~0ULL);
}

#ifdef __x86_64__
TEST_F(api, flags_sw_protected)
{
	const u64 private = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_BACKING_FD;
	struct kvm_vm *vm;
	u64 flags;
	int fd;

	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM)))
		SKIP(return, "KVM lacks CONFIG_KVM_SW_PROTECTED_VM");

	vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	for (flags = 0; flags < 2 * GUEST_MEMFD_FLAG_KEEP_DATA; flags++) {
		if (kvm_has_gmem_attributes() || !(flags & ~private)) {
			check_flags(vm->fd, self->dax_fd, flags);
			continue;
		}
		fd = gmem_create(vm->fd, flags, self->dax_fd, 0, unit_size);
		TEST_ASSERT(fd == -EINVAL, "flags 0x%lx: expected EINVAL, got %d",
			    flags, fd);
	}
}
#endif

TEST_F(api, keep_data_needs_backing)
{
	struct kvm_create_guest_memfd args = {
		.size = unit_size,
		.flags = GUEST_MEMFD_FLAG_KEEP_DATA,
		.backing_fd = self->dax_fd,
	};

	TEST_ASSERT_ERR(__gmem_create(self->vm->fd, &args), EINVAL);
	args.flags |= CREATE_FLAGS;
	TEST_ASSERT_ERR(__gmem_create(self->vm->fd, &args), EINVAL);
}

TEST_F(api, keep_data_needs_init_shared)
{
	TEST_ASSERT_ERR(gmem_create(self->vm->fd, GUEST_MEMFD_FLAG_KEEP_DATA,
				    self->dax_fd, 0, unit_size), EINVAL);
	TEST_ASSERT_ERR(gmem_create(self->vm->fd, GUEST_MEMFD_FLAG_KEEP_DATA |
						  GUEST_MEMFD_FLAG_MMAP,
				    self->dax_fd, 0, unit_size), EINVAL);
}

TEST_F(api, struct_layout)
{
	TEST_ASSERT_EQ(sizeof(struct kvm_create_guest_memfd), 64);
	TEST_ASSERT_EQ(offsetof(struct kvm_create_guest_memfd, backing_fd), 16);
	TEST_ASSERT_EQ(offsetof(struct kvm_create_guest_memfd, pad), 20);
	TEST_ASSERT_EQ(offsetof(struct kvm_create_guest_memfd, backing_offset), 24);
	TEST_ASSERT_EQ(offsetof(struct kvm_create_guest_memfd, reserved), 32);
	TEST_ASSERT_EQ(GUEST_DAXFD_FLAG_MMAP, GUEST_MEMFD_FLAG_MMAP);
}

/* All bytes of pad and reserved, one at a time, with one bit and with all. */
TEST_F(api, reserved_must_be_zero)
{
	struct kvm_create_guest_memfd args;
	u8 *bytes = (u8 *)&args;
	size_t i;

	for (i = 0; i < sizeof(args); i++) {
		if (i < offsetof(struct kvm_create_guest_memfd, pad) ||
		    (i >= offsetof(struct kvm_create_guest_memfd, backing_offset) &&
		     i < offsetof(struct kvm_create_guest_memfd, reserved)))
			continue;

		memset(&args, 0, sizeof(args));
		args.size = unit_size;
		args.flags = GUEST_MEMFD_FLAG_BACKING_FD | CREATE_FLAGS;
		args.backing_fd = self->dax_fd;
		bytes[i] = 1;
		TEST_ASSERT_ERR(__gmem_create(self->vm->fd, &args), EINVAL);
		bytes[i] = 0xff;
		TEST_ASSERT_ERR(__gmem_create(self->vm->fd, &args), EINVAL);
	}
}

TEST_F(api, fields_ignored_without_backing)
{
	struct kvm_create_guest_memfd args;
	int fd;

	memset(&args, 0xff, sizeof(args));
	args.size = page_size;
	args.flags = 0;
	fd = __gmem_create(self->vm->fd, &args);
	TEST_ASSERT(fd >= 0, "Creating a guest_memfd failed: %d", fd);
	kvm_close(fd);
}

static int slot_with_flags(int vm_fd, int fd, u32 flags)
{
	return slot_set(vm_fd, MEM_SLOT(0), flags, MEM_GPA(0), SLOT_SIZE, NULL,
			fd, 0);
}

TEST_F(api, slot_flag_combinations)
{
	const u32 others[] = {
		KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY,
		KVM_MEM_GUEST_MEMFD | KVM_MEM_LOG_DIRTY_PAGES,
		KVM_MEM_GUEST_MEMFD | KVM_MEM_READONLY,
		KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY,
		KVM_MEM_GUEST_MEMFD | KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(others); i++)
		TEST_ASSERT_ERR(slot_with_flags(self->vm->fd, self->dax_fd,
						KVM_MEM_GUEST_DAXFD | others[i]),
				EINVAL);

	/* Not even if the other flag's file would do. */
	i = gmem_create(self->vm->fd, CREATE_FLAGS, self->dax_fd, 0, unit_size);
	TEST_ASSERT_ERR(slot_with_flags(self->vm->fd, i, KVM_MEM_GUEST_DAXFD |
							 KVM_MEM_GUEST_MEMFD),
			EINVAL);
	kvm_close(i);
}

/* Bits 16 and up are KVM's own, also the one that marks a slot of this kind. */
TEST_F(api, slot_unknown_flags)
{
	int i;

	for (i = 4; i < 32; i++) {
		TEST_ASSERT_ERR(slot_with_flags(self->vm->fd, self->dax_fd,
						KVM_MEM_GUEST_DAXFD | 1U << i),
				EINVAL);
		TEST_ASSERT_ERR(slot_with_flags(self->vm->fd, self->dax_fd,
						1U << i), EINVAL);
	}
}

/* The older ioctl has no field for the file. */
TEST_F(api, slot_flag_in_old_ioctl)
{
	TEST_ASSERT_EQ(__vm_set_user_memory_region(self->vm, MEM_SLOT(0),
						   KVM_MEM_GUEST_DAXFD, MEM_GPA(0),
						   SLOT_SIZE, NULL), -1);
	TEST_ASSERT_EQ(errno, EINVAL);
}

#ifdef __x86_64__
TEST_F(api, short_way_sw_protected)
{
	struct kvm_vm *vm;

	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM)))
		SKIP(return, "KVM lacks CONFIG_KVM_SW_PROTECTED_VM");

	vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	TEST_ASSERT_ERR(slot_with_flags(vm->fd, self->dax_fd, KVM_MEM_GUEST_DAXFD),
			kvm_has_gmem_attributes() ? 0 : EINVAL);
}
#endif

/*
 * Who may claim what: the rules that hold for all kinds of claims
 */

DAXFD_FIXTURE(claim)
FIXTURE_VARIANT_ADD(claim, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(claim, create_keep) { .path = PATH_create_keep };
FIXTURE_VARIANT_ADD(claim, short) { .path = PATH_short };

TEST_F(claim, fd_not_open)
{
	int fd = kvm_dup(self->c.dax_fd);

	kvm_close(fd);
	TEST_ASSERT_ERR(claim(&self->c, 0, fd, 0, unit_size), EBADF);
	TEST_ASSERT_ERR(claim(&self->c, 0, -1, 0, unit_size), EBADF);
	TEST_ASSERT_ERR(claim(&self->c, 0, INT_MAX, 0, unit_size), EBADF);
}

TEST_F(claim, fd_only_a_path)
{
	int fd = __dax_dev_open(&dax, O_PATH);

	TEST_ASSERT_ERR(claim(&self->c, 0, fd, 0, unit_size), EBADF);
}

TEST_F(claim, fd_not_dax)
{
	char name[] = "/tmp/guest_daxfd_test.XXXXXX";
	int fds[16], nr = 0, i;

	fds[nr++] = mkstemp(name);
	unlink(name);
	TEST_ASSERT(!ftruncate(fds[0], unit_size), "ftruncate() failed");
	fds[nr++] = open("/dev/null", O_RDWR);
	fds[nr++] = open("/dev/zero", O_RDWR);
	fds[nr++] = open("/", O_RDONLY | O_DIRECTORY);
	fds[nr++] = kvm_memfd_alloc(unit_size, false);
	fds[nr++] = kvm_new_eventfd();
	TEST_ASSERT(!pipe(&fds[nr]), "pipe() failed");
	nr += 2;
	fds[nr++] = open_kvm_dev_path_or_exit();
	fds[nr++] = kvm_dup(self->c.vm->fd);
	fds[nr++] = kvm_dup(self->c.vcpu->fd);
	fds[nr++] = vm_create_guest_memfd(self->c.vm, unit_size, 0);
	fds[nr++] = vm_create_guest_memfd(self->c.vm, unit_size, CREATE_FLAGS);

	for (i = 0; i < nr; i++) {
		TEST_ASSERT(fds[i] >= 0, "fd %d was not opened", i);
		TEST_ASSERT_ERR(claim(&self->c, 0, fds[i], 0, unit_size), EINVAL);
	}
}

/* A guest_memfd over this very device is not device-DAX either. */
TEST_F(claim, fd_dax_guest_memfd)
{
	int fd = gmem_create(self->c.vm->fd, CREATE_FLAGS, self->c.dax_fd,
			     unit_offset(0), unit_size);

	TEST_ASSERT(fd >= 0, "Creating a guest_memfd failed: %d", fd);
	TEST_ASSERT_ERR(claim(&self->c, 0, fd, 0, unit_size), EINVAL);
	kvm_close(fd);
}

TEST_F(claim, fd_without_read_or_write)
{
	int rd = __dax_dev_open(&dax, O_RDONLY);
	int wr = __dax_dev_open(&dax, O_WRONLY);

	TEST_ASSERT_ERR(claim(&self->c, 0, rd, 0, unit_size), EACCES);
	TEST_ASSERT_ERR(claim(&self->c, 0, wr, 0, unit_size), EACCES);
}

/* The unit in which offsets and sizes are counted. */
static u64 claim_granule(const struct path *path)
{
	return path->daxfd ? page_size : dax.align;
}

TEST_F(claim, offset_unaligned)
{
	u64 granule = claim_granule(self->c.path), offset;

	for (offset = 1; offset < granule; offset <<= 1)
		TEST_ASSERT_ERR(claim(&self->c, 0, self->c.dax_fd, offset,
				      granule), EINVAL);
	TEST_ASSERT_ERR(claim(&self->c, 0, self->c.dax_fd, granule - 1, granule),
			EINVAL);
}

TEST_F(claim, size_unaligned)
{
	u64 granule = claim_granule(self->c.path), size;

	for (size = 1; size < granule; size <<= 1)
		TEST_ASSERT_ERR(claim(&self->c, 0, self->c.dax_fd, 0, size), EINVAL);
	TEST_ASSERT_ERR(claim(&self->c, 0, self->c.dax_fd, 0, granule - 1), EINVAL);
	TEST_ASSERT_ERR(claim(&self->c, 0, self->c.dax_fd, 0, granule + 1), EINVAL);
}

TEST_F(claim, smallest)
{
	u64 granule = claim_granule(self->c.path);

	TEST_ASSERT_OK(claim(&self->c, 0, self->c.dax_fd, dax.size - granule,
			     granule));
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), granule);
	unclaim(&self->c, 0);
}

TEST_F(claim, size_zero)
{
	TEST_ASSERT_ERR(claim(&self->c, 0, self->c.dax_fd, 0, 0), EINVAL);
	TEST_ASSERT_ERR(claim(&self->c, 0, self->c.dax_fd, unit_size, 0), EINVAL);
}

TEST_F(claim, past_the_end)
{
	u64 granule = claim_granule(self->c.path);
	int fd = self->c.dax_fd;

	TEST_ASSERT_ERR(claim(&self->c, 0, fd, dax.size, granule), EINVAL);
	TEST_ASSERT_ERR(claim(&self->c, 0, fd, dax.size + granule, granule), EINVAL);
	TEST_ASSERT_ERR(claim(&self->c, 0, fd, dax.size - granule, 2 * granule),
			EINVAL);
	TEST_ASSERT_ERR(claim(&self->c, 0, fd, 0, dax.size + granule), EINVAL);
	TEST_ASSERT_ERR(claim(&self->c, 0, fd, granule, dax.size), EINVAL);
}

TEST_F(claim, overflow)
{
	u64 granule = claim_granule(self->c.path);
	int fd = self->c.dax_fd, i;

	TEST_ASSERT_ERR(claim(&self->c, 0, fd, -granule, granule), EINVAL);
	TEST_ASSERT_ERR(claim(&self->c, 0, fd, -granule, 2 * granule), EINVAL);
	TEST_ASSERT_ERR(claim(&self->c, 0, fd, 0, -granule), EINVAL);
	TEST_ASSERT_ERR(claim(&self->c, 0, fd, granule, -granule), EINVAL);
	for (i = 0; i < 64; i++) {
		if (1ULL << i <= dax.size)
			continue;
		TEST_ASSERT_ERR(claim(&self->c, 0, fd, 1ULL << i, granule), EINVAL);
		TEST_ASSERT_ERR(claim(&self->c, 0, fd, 0, 1ULL << i), EINVAL);
	}
}

TEST_F(claim, whole_device)
{
	TEST_ASSERT_OK(claim(&self->c, 0, self->c.dax_fd, 0, dax.size));
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), dax.size);
	unclaim(&self->c, 0);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
}

/* The one that comes second is below, then above. */
TEST_F(claim, side_by_side)
{
	int first;

	if (!has_units(_metadata, 2))
		return;

	for (first = 0; first < 2; first++) {
		TEST_ASSERT_OK(claim_unit(&self->c, first));
		TEST_ASSERT_OK(claim_unit(&self->c, !first));
		TEST_ASSERT_EQ(dax_dev_claimed(&dax), 2 * unit_size);
		unclaim(&self->c, first);
		TEST_ASSERT_EQ(dax_dev_claimed(&dax), unit_size);
		unclaim(&self->c, !first);
		TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
	}
}

TEST_F(claim, again_and_again)
{
	int i;

	for (i = 0; i < 50; i++) {
		TEST_ASSERT_OK(claim_unit(&self->c, 0));
		unclaim(&self->c, 0);
	}
	assert_device_is_free();
}

TEST_F(claim, refusal_leaves_nothing)
{
	TEST_ASSERT_ERR(claim(&self->c, 0, self->c.dax_fd, 1, unit_size), EINVAL);
	TEST_ASSERT_ERR(claim(&self->c, 0, self->c.dax_fd, dax.size, unit_size),
			EINVAL);
	assert_device_is_free();
	reopen(&self->c);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	unclaim(&self->c, 0);
}

TEST_F(claim, device_fd_may_be_closed)
{
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	kvm_free_fd(self->c.dax_fd);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), unit_size);
	unclaim(&self->c, 0);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
}

TEST_F(claim, device_not_bound)
{
	unbind();
	TEST_ASSERT_ERR(claim_unit(&self->c, 0), ENODEV);
	rebind();
}

TEST_F(claim, device_bound_anew)
{
	unbind();
	rebind();
	TEST_ASSERT_ERR(claim_unit(&self->c, 0), ENODEV);
	TEST_ASSERT_ERR(do_fallocate(self->c.dax_fd, FALLOC_FL_KEEP_SIZE, 0,
				     page_size), ENODEV);

	reopen(&self->c);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	unclaim(&self->c, 0);
}

/* Another driver gets the device by way of unbind only. */
TEST_F(claim, other_driver_wants_it)
{
	if (!dax_driver_exists(DAX_DRIVER_FSDEV))
		SKIP(return, "There is no driver %s (CONFIG_DEV_DAX_FSDEV)",
		     DAX_DRIVER_FSDEV);

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_OK(dax_dev_bind(&dax, DAX_DRIVER_FSDEV));
	TEST_ASSERT(dax_dev_is_bound(&dax, DAX_DRIVER_DEVICE),
		    "%s took %s away", DAX_DRIVER_FSDEV, dax.name);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), unit_size);
	dax_dev_unbind(&dax, DAX_DRIVER_FSDEV);
	unclaim(&self->c, 0);
}

static void bind_fsdev(void)
{
	unbind();
	TEST_ASSERT_OK(dax_dev_bind(&dax, DAX_DRIVER_FSDEV));
	TEST_ASSERT(dax_dev_is_bound(&dax, DAX_DRIVER_FSDEV),
		    "%s is not bound to %s", dax.name, DAX_DRIVER_FSDEV);
}

/* With a file from before, and with one of the other driver's. */
TEST_F(claim, bound_to_fsdev)
{
	int fd;

	if (!dax_driver_exists(DAX_DRIVER_FSDEV))
		SKIP(return, "There is no driver %s (CONFIG_DEV_DAX_FSDEV)",
		     DAX_DRIVER_FSDEV);

	bind_fsdev();
	TEST_ASSERT_ERR(claim_unit(&self->c, 0), EBUSY);
	fd = dax_dev_open(&dax);
	TEST_ASSERT_ERR(claim(&self->c, 0, fd, 0, unit_size), EBUSY);
	kvm_close(fd);
	dax_dev_restore(&dax);

	reopen(&self->c);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	unclaim(&self->c, 0);
}

static bool has_debugfs(struct __test_metadata *_metadata)
{
	if (access("/sys/kernel/debug/dax", F_OK) &&
	    mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL))
		SKIP(return false, "debugfs cannot be mounted: %s", strerror(errno));

	return true;
}

TEST_F(claim, debugfs_lists_it)
{
	const char *kind = self->c.path->daxfd ? "shared" : "exclusive";

	if (!has_debugfs(_metadata))
		return;

	TEST_ASSERT(!claims_list_has(kind), "A claim before there is one");
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT(claims_list_has(kind), "The claim is not in the list");
	unclaim(&self->c, 0);
	TEST_ASSERT(!claims_list_has(kind), "A claim after the last one");
}

TEST_F(claim, leaks_no_fd)
{
	int before = kvm_dup(self->c.dax_fd), after;

	kvm_close(before);
	TEST_ASSERT_ERR(claim(&self->c, 0, self->c.dax_fd, 1, unit_size), EINVAL);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	unclaim(&self->c, 0);
	after = kvm_dup(self->c.dax_fd);
	TEST_ASSERT_EQ(after, before);
	kvm_close(after);
}

/*
 * Exclusive claims against everything else
 */

DAXFD_FIXTURE(exclusive)
FIXTURE_VARIANT_ADD(exclusive, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(exclusive, create_keep) { .path = PATH_create_keep };

TEST_F(exclusive, same_range)
{
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_ERR(claim(&self->c, 1, self->c.dax_fd, unit_offset(0),
			      unit_size), EBUSY);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), unit_size);
	unclaim(&self->c, 0);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	unclaim(&self->c, 0);
}

TEST_F(exclusive, overlaps)
{
	u64 granule = dax.align, last = unit_size - granule;

	if (!has_units(_metadata, 2))
		return;

	TEST_ASSERT_OK(claim(&self->c, 0, self->c.dax_fd, 0, unit_size));
	TEST_ASSERT_ERR(claim(&self->c, 1, self->c.dax_fd, 0, granule), EBUSY);
	TEST_ASSERT_ERR(claim(&self->c, 1, self->c.dax_fd, last, granule), EBUSY);
	TEST_ASSERT_ERR(claim(&self->c, 1, self->c.dax_fd, last, 2 * granule), EBUSY);
	TEST_ASSERT_ERR(claim(&self->c, 1, self->c.dax_fd, 0, dax.size), EBUSY);
	TEST_ASSERT_OK(claim(&self->c, 1, self->c.dax_fd, unit_size, granule));
	unclaim(&self->c, 1);
	unclaim(&self->c, 0);
}

TEST_F(exclusive, other_vm)
{
	struct ctx other;

	ctx_clone(&other, &self->c);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_ERR(claim_unit(&other, 0), EBUSY);
	unclaim(&self->c, 0);
	TEST_ASSERT_OK(claim_unit(&other, 0));
	ctx_free(&other);
}

TEST_F(exclusive, other_process)
{
	pid_t pid = vmm_start(&self->c);

	TEST_ASSERT_ERR(claim_unit(&self->c, 0), EBUSY);
	vmm_kill(pid);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	unclaim(&self->c, 0);
}

/* The other way to claim, in the same VM. */
static int claim_shared(struct ctx *c, u64 offset, u64 size)
{
	return slot_set(c->vm->fd, MEM_SLOT(2), KVM_MEM_GUEST_DAXFD, MEM_GPA(2),
			size, NULL, c->dax_fd, offset);
}

TEST_F(exclusive, then_shared)
{
	u64 last = unit_offset(0) + unit_size - page_size;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_ERR(claim_shared(&self->c, unit_offset(0), unit_size), EBUSY);
	TEST_ASSERT_ERR(claim_shared(&self->c, last, page_size), EBUSY);
	unclaim(&self->c, 0);
	TEST_ASSERT_OK(claim_shared(&self->c, unit_offset(0), unit_size));
}

TEST_F(exclusive, shared_first)
{
	u64 last = unit_offset(0) + unit_size - page_size;

	TEST_ASSERT_OK(claim_shared(&self->c, last, page_size));
	TEST_ASSERT_ERR(claim_unit(&self->c, 0), EBUSY);
	TEST_ASSERT_OK(slot_delete(self->c.vm->fd, MEM_SLOT(2)));
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	unclaim(&self->c, 0);
}

TEST_F(exclusive, beside_shared)
{
	if (!has_units(_metadata, 2))
		return;

	TEST_ASSERT_OK(claim_shared(&self->c, unit_offset(1), unit_size));
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 2 * unit_size);
	unclaim(&self->c, 0);
}

TEST_F(exclusive, mapped_first)
{
	u64 *mem = dax_dev_mmap(&dax, unit_offset(0), unit_size);

	WRITE_ONCE(*mem, HOST_DATA);
	TEST_ASSERT_ERR(claim_unit(&self->c, 0), EBUSY);
	dax_dev_munmap(&dax, mem, unit_offset(0), unit_size);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	unclaim(&self->c, 0);
}

/* A mapping counts from mmap() on, not from its first fault. */
TEST_F(exclusive, mapped_but_not_touched)
{
	u64 *mem = dax_dev_mmap(&dax, unit_offset(0), dax.align);

	TEST_ASSERT_ERR(claim_unit(&self->c, 0), EBUSY);
	dax_dev_munmap(&dax, mem, unit_offset(0), dax.align);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	unclaim(&self->c, 0);
}

TEST_F(exclusive, mapped_elsewhere)
{
	u64 *mem;

	if (!has_units(_metadata, 2))
		return;

	mem = dax_dev_mmap(&dax, unit_offset(1), unit_size);
	WRITE_ONCE(*mem, HOST_DATA);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	WRITE_ONCE(*mem, OLD_DATA);
	unclaim(&self->c, 0);
	TEST_ASSERT_EQ(READ_ONCE(*mem), OLD_DATA);
	dax_dev_munmap(&dax, mem, unit_offset(1), unit_size);
}

/* What an unbind has taken from a process keeps nobody else out. */
TEST_F(exclusive, mapped_before_rebind)
{
	u64 *mem = dax_dev_mmap(&dax, unit_offset(0), unit_size);

	TEST_ASSERT(host_can_write(mem), "The host cannot write");
	unbind();
	rebind();
	reopen(&self->c);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT(!host_can_read(mem), "Read of what is claimed");
	unclaim(&self->c, 0);
	TEST_ASSERT(!host_can_read(mem), "Read of what is not claimed any more");
	dax_dev_munmap(&dax, mem, unit_offset(0), unit_size);
}

/* A child inherits the mapping, and goes on when the parent has unmapped it. */
TEST_F(exclusive, mapped_by_other_process)
{
	u64 *mem = dax_dev_mmap(&dax, unit_offset(0), unit_size);
	pid_t pid = fork();
	int status;

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}

	dax_dev_munmap(&dax, mem, unit_offset(0), unit_size);
	TEST_ASSERT_ERR(claim_unit(&self->c, 0), EBUSY);
	kill(pid, SIGKILL);
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	unclaim(&self->c, 0);
}

/* A partial munmap() takes the right part away. */
TEST_F(exclusive, mapping_shrinks)
{
	u8 *mem;

	if (!has_units(_metadata, 2))
		return;

	mem = dax_dev_mmap(&dax, 0, 2 * unit_size);
	TEST_ASSERT_ERR(claim(&self->c, 0, self->c.dax_fd, unit_size, unit_size),
			EBUSY);
	dax_dev_munmap(&dax, mem + unit_size, unit_size, unit_size);
	TEST_ASSERT_OK(claim(&self->c, 0, self->c.dax_fd, unit_size, unit_size));
	TEST_ASSERT_ERR(claim(&self->c, 1, self->c.dax_fd, 0, unit_size), EBUSY);
	unclaim(&self->c, 0);
	dax_dev_munmap(&dax, mem, 0, unit_size);
}

TEST_F(exclusive, refuses_mmap)
{
	u64 offset = unit_offset(0);

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_ERR(try_mmap_dax(offset, unit_size), EBUSY);
	TEST_ASSERT_ERR(try_mmap_dax(offset, dax.align), EBUSY);
	TEST_ASSERT_ERR(try_mmap_dax(offset + unit_size - dax.align, dax.align),
			EBUSY);
	TEST_ASSERT_ERR(try_mmap_dax(0, nr_units * unit_size), EBUSY);
	unclaim(&self->c, 0);
	TEST_ASSERT_OK(try_mmap_dax(offset, unit_size));
}

TEST_F(exclusive, refuses_mmap_of_open_file)
{
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_ERR(try_mmap(self->c.dax_fd, MAP_SHARED, unit_offset(0),
				 unit_size), EBUSY);
	unclaim(&self->c, 0);
}

TEST_F(exclusive, allows_mmap_beside_it)
{
	if (!has_units(_metadata, 2))
		return;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_OK(try_mmap_dax(unit_offset(1), unit_size));
	dax_dev_write(&dax, unit_offset(1), HOST_DATA);
	TEST_ASSERT_EQ(dax_dev_read(&dax, unit_offset(1)), HOST_DATA);
	unclaim(&self->c, 0);
}

/* mremap() grows a mapping without asking the driver. */
TEST_F(exclusive, refuses_fault_of_grown_mapping)
{
	u8 *mem, *grown;

	if (!has_units(_metadata, 2))
		return;

	dax_dev_fill(&dax, unit_size, page_size, OLD_DATA);
	mem = dax_dev_mmap(&dax, 0, unit_size);
	TEST_ASSERT_OK(claim(&self->c, 0, self->c.dax_fd, unit_size, unit_size));
	grown = mremap(mem, unit_size, 2 * unit_size, MREMAP_MAYMOVE);
	if (grown != MAP_FAILED) {
		TEST_ASSERT(host_can_read(grown), "The part outside is lost");
		TEST_ASSERT(!host_can_read(grown + unit_size), "Read");
		TEST_ASSERT(!host_can_write(grown + unit_size), "Write");
		TEST_ASSERT(!host_can_read(grown + 2 * unit_size - page_size),
			    "Read of the last page");
	}
	unclaim(&self->c, 0);
}

TEST_F(exclusive, refuses_fallocate)
{
	u64 offset = unit_offset(0), last = offset + unit_size - page_size;
	int fd = self->c.dax_fd;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_ERR(do_fallocate(fd, FALLOC_PUNCH, offset, page_size), EBUSY);
	TEST_ASSERT_ERR(do_fallocate(fd, FALLOC_PUNCH, last, page_size), EBUSY);
	TEST_ASSERT_ERR(do_fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
				     offset, page_size), EBUSY);
	unclaim(&self->c, 0);
	TEST_ASSERT_OK(do_fallocate(fd, FALLOC_PUNCH, offset, page_size));
}

TEST_F(exclusive, allows_fallocate_beside_it)
{
	if (!has_units(_metadata, 2))
		return;

	dax_dev_write(&dax, unit_offset(1), OLD_DATA);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_OK(do_fallocate(self->c.dax_fd, FALLOC_PUNCH, unit_offset(1),
				    page_size));
	TEST_ASSERT_EQ(dax_dev_read(&dax, unit_offset(1)), 0);
	unclaim(&self->c, 0);
}

/* A file that is still mapped is a claim still, without its descriptor. */
TEST_F(exclusive, guest_memfd_mapping_holds_it)
{
	u64 *mem;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	mem = kvm_mmap(unit_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       self->c.gmem[0]);
	kvm_free_fd(self->c.gmem[0]);
	WRITE_ONCE(*mem, HOST_DATA);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), unit_size);
	TEST_ASSERT_ERR(claim_unit(&self->c, 0), EBUSY);
	kvm_munmap(mem, unit_size);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
}

/*
 * Exclusive claims against pins: references to pages that outlive the mapping
 * through which they were taken
 */

DAXFD_FIXTURE(pins)
FIXTURE_VARIANT_ADD(pins, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(pins, create_keep) { .path = PATH_create_keep };

/* A page of the device, pinned and not mapped. */
static int pin_dax(u64 offset)
{
	u64 *mem = dax_dev_mmap(&dax, offset, page_size);
	int fd = pin(mem);

	dax_dev_munmap(&dax, mem, offset, page_size);
	return fd;
}

static void claim_must_fail(struct ctx *c, u64 offset, u64 size)
{
	TEST_ASSERT_ERR(claim(c, 0, c->dax_fd, offset, size), EBUSY);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
}

static void claim_must_work(struct ctx *c, u64 offset, u64 size)
{
	TEST_ASSERT_OK(claim(c, 0, c->dax_fd, offset, size));
	unclaim(c, 0);
}

TEST_F(pins, first_page)
{
	int fd = pin_dax(unit_offset(0));

	claim_must_fail(&self->c, unit_offset(0), unit_size);
	kvm_close(fd);
	claim_must_work(&self->c, unit_offset(0), unit_size);
}

TEST_F(pins, last_page)
{
	int fd = pin_dax(unit_offset(0) + unit_size - page_size);

	claim_must_fail(&self->c, unit_offset(0), unit_size);
	kvm_close(fd);
	claim_must_work(&self->c, unit_offset(0), unit_size);
}

/* A pin has no owner: who has it can pass it on. */
TEST_F(pins, passed_on)
{
	int fd = pin_dax(unit_offset(0)), fds[2];

	TEST_ASSERT(!pipe2(fds, O_CLOEXEC), "pipe2() failed");
	TEST_ASSERT_EQ(tee(fd, fds[1], page_size, 0), page_size);
	kvm_close(fd);
	claim_must_fail(&self->c, unit_offset(0), unit_size);
	kvm_close(fds[1]);
	kvm_close(fds[0]);
	claim_must_work(&self->c, unit_offset(0), unit_size);
}

/* The unit of pins is the unit of claims, the alignment. */
TEST_F(pins, only_pinned_part)
{
	u64 offset = 2 * unit_size - dax.align;
	int fd;

	if (!has_units(_metadata, 2))
		return;

	dax_dev_fill(&dax, offset - dax.align, 2 * dax.align, OLD_DATA);
	fd = pin_dax(offset);
	claim_must_fail(&self->c, offset, dax.align);
	claim_must_work(&self->c, 0, offset);
	kvm_close(fd);
	claim_must_work(&self->c, offset, dax.align);
}

TEST_F(pins, elsewhere)
{
	int fd;

	if (!has_units(_metadata, 2))
		return;

	fd = pin_dax(unit_offset(1));
	claim_must_work(&self->c, unit_offset(0), unit_size);
	kvm_close(fd);
}

/* Shared claims do not mind. */
TEST_F(pins, shared_claim)
{
	int fd = pin_dax(unit_offset(0));

	TEST_ASSERT_OK(claim_shared(&self->c, unit_offset(0), unit_size));
	kvm_close(fd);
}

/* Pages that were mapped and are not any more are as good as any. */
TEST_F(pins, not_pinned)
{
	dax_dev_fill(&dax, unit_offset(0), unit_size, OLD_DATA);
	claim_must_work(&self->c, unit_offset(0), unit_size);
}

/* Not for direct I/O that is over in a moment, but for long. */
TEST_F(pins, registered_buffer)
{
	struct io_uring_params params = {};
	struct iovec iov = { .iov_len = dax.align };
	u64 offset = unit_offset(0);
	int fd, i;

	fd = syscall(__NR_io_uring_setup, 1, &params);
	if (fd < 0)
		SKIP(return, "io_uring_setup() failed: %s", strerror(errno));

	iov.iov_base = dax_dev_mmap(&dax, offset, dax.align);
	TEST_ASSERT(!syscall(__NR_io_uring_register, fd, IORING_REGISTER_BUFFERS,
			     &iov, 1), "Registering the buffer failed: %d", errno);
	dax_dev_munmap(&dax, iov.iov_base, offset, dax.align);
	claim_must_fail(&self->c, offset, unit_size);

	TEST_ASSERT(!syscall(__NR_io_uring_register, fd,
			     IORING_UNREGISTER_BUFFERS, NULL, 0),
		    "Unregistering the buffer failed: %d", errno);
	/* The pages may be released a little later. */
	for (i = 0; i < 100; i++) {
		if (!claim(&self->c, 0, self->c.dax_fd, offset, unit_size))
			break;
		usleep(20000);
	}
	TEST_ASSERT(i < 100, "The range stays pinned");
	unclaim(&self->c, 0);
	kvm_close(fd);
}

/* What mremap() adds to a mapping was never asked for in mmap(). */
TEST_F(pins, grown_mapping)
{
	u8 *mem, *grown;
	int fd;

	if (!has_units(_metadata, 2))
		return;

	mem = dax_dev_mmap(&dax, 0, unit_size);
	grown = mremap(mem, unit_size, 2 * unit_size, MREMAP_MAYMOVE);
	TEST_ASSERT(grown != MAP_FAILED, "mremap() failed: %d", errno);
	fd = pin(grown + unit_size);
	kvm_munmap(grown, 2 * unit_size);

	claim_must_fail(&self->c, unit_size, unit_size);
	claim_must_work(&self->c, 0, unit_size);
	kvm_close(fd);
	claim_must_work(&self->c, unit_size, unit_size);
}

/* The mapping of a guest_memfd can be pinned like any; the pin may outlive it. */
TEST_F(pins, outlives_guest_memfd)
{
	u64 *mem;
	int fd;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	mem = kvm_mmap(unit_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       self->c.gmem[0]);
	fd = pin((u8 *)mem + unit_size - page_size);
	kvm_munmap(mem, unit_size);
	unclaim(&self->c, 0);

	claim_must_fail(&self->c, unit_offset(0), unit_size);
	kvm_close(fd);
	claim_must_work(&self->c, unit_offset(0), unit_size);
}

static int bind_device(void)
{
	return dax_dev_bind(&dax, DAX_DRIVER_DEVICE);
}

/* Nobody can take pins back: unbind leaves the memory, and lets nobody have it. */
static void bind_with_pin(int (*bind)(void), int fd)
{
	int r, i;

	TEST_ASSERT_ERR(bind(), EBUSY);
	TEST_ASSERT_ERR(bind(), EBUSY);
	kvm_close(fd);

	for (i = 0; i < 100; i++) {
		r = bind();
		if (r != -EBUSY)
			break;
		usleep(100000);
	}
	TEST_ASSERT_OK(r);
}

static void unbind_with_pin(int fd)
{
	unbind();
	bind_with_pin(bind_device, fd);
}

TEST_F(pins, unbind)
{
	unbind_with_pin(pin_dax(unit_offset(0) + unit_size - page_size));

	/* The next binding knows of no pin. */
	reopen(&self->c);
	claim_must_work(&self->c, unit_offset(0), unit_size);
}

TEST_F(pins, unbind_under_guest_memfd)
{
	u64 *mem;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	mem = kvm_mmap(unit_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       self->c.gmem[0]);
	unbind_with_pin(pin(mem));
	TEST_ASSERT(!host_can_read(mem), "A read after unbind");
	kvm_munmap(mem, unit_size);
}

/* The device of libnvdimm that provides the memory */
static char provider[32];

static int provider_write(const char *attr)
{
	char path[64];
	int fd, r;

	snprintf(path, sizeof(path), PROVIDER_DRIVER "/%s", attr);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = write(fd, provider, strlen(provider)) < 0 ? -errno : 0;
	kvm_close(fd);
	return r;
}

static int bind_provider(void)
{
	return provider_write("bind");
}

/* Struct pages of pinned pages may stand in memory that is not the device's. */
TEST_F(pins, provider_goes)
{
	char link[PATH_MAX], real[PATH_MAX];
	int fd;

	snprintf(link, sizeof(link), "/sys/bus/dax/devices/%s/..", dax.name);
	TEST_ASSERT(realpath(link, real), "There is no %s", link);
	snprintf(provider, sizeof(provider), "%.31s", strrchr(real, '/') + 1);
	snprintf(link, sizeof(link), PROVIDER_DRIVER "/%s", provider);
	if (access(link, F_OK))
		SKIP(return, "The device is not on an NVDIMM");

	fd = pin_dax(unit_offset(0));
	unbind();
	TEST_ASSERT_OK(provider_write("unbind"));
	bind_with_pin(bind_provider, fd);

	reopen(&self->c);
	claim_must_work(&self->c, unit_offset(0), unit_size);
}

/* What another process cannot read either, in whatever mapping there is. */
static void assert_no_remote_read(void *mem)
{
	u64 val = 0;
	struct iovec local = { .iov_base = &val, .iov_len = sizeof(val) };
	struct iovec remote = { .iov_base = mem, .iov_len = sizeof(val) };
	int status, fd;
	pid_t pid;

	TEST_ASSERT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), -1);

	fd = open("/proc/self/mem", O_RDWR);
	TEST_ASSERT(fd >= 0, "Opening /proc/self/mem failed: %d", errno);
	TEST_ASSERT_EQ(pread(fd, &val, sizeof(val), (uintptr_t)mem), -1);
	TEST_ASSERT_EQ(pwrite(fd, &val, sizeof(val), (uintptr_t)mem), -1);
	kvm_close(fd);

	pid = fork();
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	errno = 0;
	ptrace(PTRACE_PEEKDATA, pid, mem, NULL);
	TEST_ASSERT_EQ(errno, EIO);
	kill(pid, SIGKILL);
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT_ERR(try_pin(mem), EFAULT);
}

/* A mapping that was made beside the range and has grown into it. */
TEST_F(pins, stray_mapping)
{
	u8 *mem, *grown;

	if (!has_units(_metadata, 2))
		return;

	dax_dev_fill(&dax, unit_size, page_size, OLD_DATA);
	mem = dax_dev_mmap(&dax, 0, unit_size);
	TEST_ASSERT_OK(claim(&self->c, 0, self->c.dax_fd, unit_size, unit_size));
	grown = mremap(mem, unit_size, 2 * unit_size, MREMAP_MAYMOVE);
	TEST_ASSERT(grown != MAP_FAILED, "mremap() failed: %d", errno);
	assert_no_remote_read(grown + unit_size);
	unclaim(&self->c, 0);
}

/*
 * Host and guest see the same memory, and it is the device's
 */

DAXFD_FIXTURE(data)
FIXTURE_VARIANT_ADD(data, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(data, create_keep) { .path = PATH_create_keep };
FIXTURE_VARIANT_ADD(data, short) { .path = PATH_short };

/* Offsets of a slot at which things could go wrong. */
static const u64 probes[] = {
	0,
	8,
	ZERO_SIZE - 8,
	ZERO_SIZE,
	ZERO_SIZE + SZ_64K,
	SLOT_SIZE - 8,
};

TEST_F(data, host_to_guest)
{
	u64 *mem;
	int i;

	mem_add(&self->c, 0);
	mem = host_map(&self->c, 0);
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		WRITE_ONCE(mem[probes[i] / 8], HOST_DATA + i);
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0) + probes[i]),
			       HOST_DATA + i);
	host_unmap(&self->c, 0, mem);
}

TEST_F(data, guest_to_host)
{
	u64 *mem;
	int i;

	mem_add(&self->c, 0);
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		guest_write(self->c.vcpu, MEM_GPA(0) + probes[i], GUEST_DATA + i);
	mem = host_map(&self->c, 0);
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		TEST_ASSERT_EQ(READ_ONCE(mem[probes[i] / 8]), GUEST_DATA + i);
	host_unmap(&self->c, 0, mem);
}

/* Both have the page mapped while it changes, several times. */
TEST_F(data, back_and_forth)
{
	u64 *mem;
	u64 i;

	mem_add(&self->c, 0);
	mem = host_map(&self->c, 0);
	for (i = 0; i < 16; i++) {
		WRITE_ONCE(*mem, HOST_DATA + i);
		TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), HOST_DATA + i);
		guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA + i);
		TEST_ASSERT_EQ(READ_ONCE(*mem), GUEST_DATA + i);
	}
	host_unmap(&self->c, 0, mem);
}

/* No two pages are the same memory, in any part of the slot. */
TEST_F(data, every_page)
{
	u64 nr = SLOT_SIZE / self->c.vm->page_size, i;
	u64 *mem;

	mem_add(&self->c, 0);
	TEST_ASSERT_OK(guest_do(self->c.vcpu, GUEST_FILL, MEM_GPA(0), GUEST_DATA, nr));
	mem = host_map(&self->c, 0);
	for (i = 0; i < nr; i++) {
		u64 offset = i * self->c.vm->page_size;

		TEST_ASSERT_EQ(READ_ONCE(mem[offset / 8]),
			       (MEM_GPA(0) + offset) ^ GUEST_DATA);
	}
	host_unmap(&self->c, 0, mem);
	TEST_ASSERT_OK(guest_do(self->c.vcpu, GUEST_CHECK, MEM_GPA(0), GUEST_DATA, nr));
}

/* A slot that is as small as can be, and congruent with no larger page. */
TEST_F(data, one_page_slot)
{
	gpa_t gpa = MEM_GPA(0) + 7 * page_size;
	u64 offset = SLOT_OFFSET + 3 * page_size;
	struct ctx *c = &self->c;
	u64 *mem;
	int r;

	if (c->path->daxfd) {
		r = slot_set(c->vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_DAXFD, gpa,
			     page_size, NULL, c->dax_fd, unit_offset(0) + offset);
	} else {
		TEST_ASSERT_OK(claim_unit(c, 0));
		r = slot_set(c->vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_MEMFD, gpa,
			     page_size, NULL, c->gmem[0], offset);
	}
	TEST_ASSERT_OK(r);
	virt_map(c->vm, gpa, gpa, 1);
	guest_write(c->vcpu, gpa, GUEST_DATA);

	mem = host_map(c, 0);
	TEST_ASSERT_EQ(READ_ONCE(mem[3 * page_size / 8]), GUEST_DATA);
	WRITE_ONCE(mem[3 * page_size / 8], HOST_DATA);
	TEST_ASSERT_EQ(guest_read(c->vcpu, gpa), HOST_DATA);
	host_unmap(c, 0, mem);
}

/* The device's file is only the name of the range. */
TEST_F(data, device_fd_closed)
{
	mem_add(&self->c, 0);
	kvm_free_fd(self->c.dax_fd);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), GUEST_DATA);
	self->c.dax_fd = dax_dev_open(&dax);
}

/* Two slots over two ranges: two claims on one device. */
TEST_F(data, two_ranges)
{
	if (!has_units(_metadata, 2))
		return;

	mem_add(&self->c, 0);
	mem_add(&self->c, 1);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	guest_write(self->c.vcpu, MEM_GPA(1), ~GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(1)), ~GUEST_DATA);
	mem_del(&self->c, 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(1)), ~GUEST_DATA);
}

/* Two slots over one range's halves. */
TEST_F(data, two_slots)
{
	struct ctx *c = &self->c;
	int r, i, fd;
	u32 flags;
	u64 base;

	if (!c->path->daxfd)
		TEST_ASSERT_OK(claim_unit(c, 0));
	flags = c->path->daxfd ? KVM_MEM_GUEST_DAXFD : KVM_MEM_GUEST_MEMFD;
	base = c->path->daxfd ? slot_offset(0) : SLOT_OFFSET;
	fd = c->path->daxfd ? c->dax_fd : c->gmem[0];
	for (i = 0; i < 2; i++) {
		r = slot_set(c->vm->fd, MEM_SLOT(i), flags, MEM_GPA(i), ZERO_SIZE,
			     NULL, fd, base + i * ZERO_SIZE);
		TEST_ASSERT_OK(r);
		mem_map(c, i);
		guest_write(c->vcpu, MEM_GPA(i), GUEST_DATA + i);
	}
	for (i = 0; i < 2; i++) {
		TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(i)), GUEST_DATA + i);
		TEST_ASSERT_OK(slot_delete(c->vm->fd, MEM_SLOT(i)));
	}

	/* One slot over both, the halves where they belong. */
	TEST_ASSERT_OK(__mem_slot(c, 0, NULL));
	for (i = 0; i < 2; i++)
		TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0) + i * ZERO_SIZE),
			       GUEST_DATA + i);
}

TEST_F(data, two_vms)
{
	struct ctx other;

	if (!has_units(_metadata, 2))
		return;

	ctx_clone(&other, &self->c);
	mem_add(&self->c, 0);
	mem_add(&other, 1);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	guest_write(other.vcpu, MEM_GPA(1), ~GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), GUEST_DATA);
	ctx_free(&self->c);
	TEST_ASSERT_EQ(guest_read(other.vcpu, MEM_GPA(1)), ~GUEST_DATA);
	ctx_free(&other);
}

TEST_F(data, two_vcpus)
{
	struct kvm_vcpu *vcpus[2];
	struct runner runners[ARRAY_SIZE(vcpus)];
	struct ctx *c = &self->c;
	u64 *mem;
	int i;

	kvm_vm_free(c->vm);
	c->vm = vm_create_for(c->path, ARRAY_SIZE(vcpus), vcpus);
	mem_add(c, 0);
	for (i = 0; i < ARRAY_SIZE(vcpus); i++)
		runner_start(&runners[i], vcpus[i], MEM_GPA(0) + i * ZERO_SIZE, 16);
	for (i = 0; i < ARRAY_SIZE(vcpus); i++)
		runner_stop(&runners[i]);

	mem = host_map(c, 0);
	for (i = 0; i < ARRAY_SIZE(vcpus); i++)
		TEST_ASSERT_EQ(READ_ONCE(mem[i * ZERO_SIZE / 8]),
			       guest_cmd(vcpus[i])->rounds - 1);
	host_unmap(c, 0, mem);
}

TEST_F(data, slot_made_anew)
{
	struct ctx *c = &self->c;
	int i;

	mem_add(c, 0);
	for (i = 0; i < 4; i++) {
		guest_write(c->vcpu, MEM_GPA(0) + ZERO_SIZE, GUEST_DATA + i);
		TEST_ASSERT_OK(slot_delete(c->vm->fd, MEM_SLOT(0)));
		TEST_ASSERT_OK(__mem_slot(c, 0, NULL));
		TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0) + ZERO_SIZE),
			       GUEST_DATA + i);
	}
}

/* With userspace_addr as it should be, beside 0 that all others use. */
TEST_F(data, userspace_addr)
{
	struct ctx *c = &self->c;
	u64 *mem;

	if (!c->path->daxfd)
		TEST_ASSERT_OK(claim_unit(c, 0));
	mem = host_map(c, 0);
	TEST_ASSERT_OK(__mem_slot(c, 0, mem));
	mem_map(c, 0);
	WRITE_ONCE(mem[ZERO_SIZE / 8], HOST_DATA);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0) + ZERO_SIZE), HOST_DATA);
	guest_write(c->vcpu, MEM_GPA(0), GUEST_DATA);
	TEST_ASSERT_EQ(READ_ONCE(*mem), GUEST_DATA);

	/* KVM follows no change of that mapping. */
	host_unmap(c, 0, mem);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0)), GUEST_DATA);
}

TEST_F(data, userspace_addr_decoy)
{
	u64 guest_page = self->c.vm->page_size, i;
	struct ctx *c = &self->c;
	u64 *decoy, *mem;

	decoy = kvm_mmap(SLOT_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (i = 0; i < SLOT_SIZE / 8; i++)
		decoy[i] = DECOY_DATA;

	TEST_ASSERT_OK(__mem_add(c, 0, decoy));
	mem_map(c, 0);
	mem = host_map(c, 0);
	for (i = 0; i < SLOT_SIZE; i += guest_page)
		WRITE_ONCE(mem[i / 8], (MEM_GPA(0) + i) ^ HOST_DATA);

	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_CHECK, MEM_GPA(0), HOST_DATA,
				SLOT_SIZE / guest_page));
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		guest_write(c->vcpu, MEM_GPA(0) + probes[i], GUEST_DATA);
	for (i = 0; i < SLOT_SIZE / 8; i++)
		TEST_ASSERT_EQ(READ_ONCE(decoy[i]), DECOY_DATA);
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		TEST_ASSERT_EQ(READ_ONCE(mem[probes[i] / 8]), GUEST_DATA);
	host_unmap(c, 0, mem);
	kvm_munmap(decoy, SLOT_SIZE);
}

#ifdef __x86_64__
/* String I/O is emulated: KVM itself reads the byte, at userspace_addr. */
static void emulated_read(struct ctx *c, void *hva, u64 offset)
{
	if (!c->path->daxfd && c->gmem[0] < 0)
		TEST_ASSERT_OK(claim_unit(c, 0));
	TEST_ASSERT_OK(__mem_slot(c, 0, hva));
	mem_map(c, 0);
	guest_write(c->vcpu, MEM_GPA(0) + offset, GUEST_DATA);
	guest_prepare(c->vcpu, GUEST_OUTS, MEM_GPA(0) + offset, 0, 1);
	vcpu_run(c->vcpu);
}

TEST_F(data, kvm_reads_at_userspace_addr)
{
	struct ctx *c = &self->c;
	struct kvm_run *run;
	void *mem;

	if (!c->path->daxfd)
		TEST_ASSERT_OK(claim_unit(c, 0));
	mem = host_map(c, 0);
	emulated_read(c, mem, SZ_1M);

	run = c->vcpu->run;
	TEST_ASSERT_KVM_EXIT_REASON(c->vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(run->io.port, OUTS_PORT);
	TEST_ASSERT_EQ(*((u8 *)run + run->io.data_offset), (u8)GUEST_DATA);
	host_unmap(c, 0, mem);
}

/*
 * Without a mapping there is memory for the guest, but not for KVM.  Address 0
 * stands for that: what the process has mapped at the addresses that follow is
 * none of the guest's.
 */
TEST_F(data, kvm_reads_without_userspace_addr)
{
	struct ctx *c = &self->c;
	struct kvm_run *run;
	void *low;

	low = mmap((void *)SZ_1M, page_size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	TEST_ASSERT(low == (void *)SZ_1M, "Mapping address 0x%x failed", SZ_1M);
	memset(low, 0xaa, page_size);
	emulated_read(c, NULL, SZ_1M);

	run = c->vcpu->run;
	TEST_ASSERT_KVM_EXIT_REASON(c->vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT_EQ(run->mmio.phys_addr, MEM_GPA(0) + SZ_1M);
	TEST_ASSERT(!run->mmio.is_write, "Expected a read");
}
#endif

/*
 * Life and death: what is closed, killed or unbound in whichever order
 */

DAXFD_FIXTURE(life)
FIXTURE_VARIANT_ADD(life, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(life, create_keep) { .path = PATH_create_keep };
FIXTURE_VARIANT_ADD(life, short) { .path = PATH_short };
#ifdef __x86_64__
FIXTURE_VARIANT_ADD(life, sw_protected) { .path = PATH_sw_protected };
#endif

enum obj {
	OBJ_DAX,
	OBJ_MEM,	/* guest_memfd; with the short way a mapping of /dev/dax */
	OBJ_SLOT,
	OBJ_VCPU,
	OBJ_VM,
	NR_OBJS,
};

struct objs {
	const struct path *path;
	int fds[NR_OBJS];
	void *mem;
};

/* A VM without a program: 120 of them are made. */
static void objs_open(struct objs *o, int kvm_fd)
{
	struct kvm_memory_attributes attrs = {
		.address = MEM_GPA(0),
		.size = SLOT_SIZE,
		.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
	};
	struct kvm_pre_fault_memory range = {
		.gpa = MEM_GPA(0),
		.size = page_size,
	};
	int vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, o->path->vm_type);

	TEST_ASSERT(vm_fd >= 0, "KVM_CREATE_VM failed");
	o->fds[OBJ_VM] = vm_fd;
	o->fds[OBJ_VCPU] = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	TEST_ASSERT(o->fds[OBJ_VCPU] >= 0, "KVM_CREATE_VCPU failed");
	o->fds[OBJ_DAX] = dax_dev_open(&dax);

	if (o->path->daxfd) {
		o->mem = dax_dev_mmap(&dax, slot_offset(0), SLOT_SIZE);
		TEST_ASSERT_OK(slot_set(vm_fd, MEM_SLOT(0), KVM_MEM_GUEST_DAXFD,
					MEM_GPA(0), SLOT_SIZE, o->mem,
					o->fds[OBJ_DAX], slot_offset(0)));
	} else {
		o->fds[OBJ_MEM] = gmem_create(vm_fd, o->path->flags,
					      o->fds[OBJ_DAX], unit_offset(0),
					      unit_size);
		TEST_ASSERT(o->fds[OBJ_MEM] >= 0, "Creating a guest_memfd failed: %d",
			    o->fds[OBJ_MEM]);
		TEST_ASSERT_OK(slot_set(vm_fd, MEM_SLOT(0), KVM_MEM_GUEST_MEMFD,
					MEM_GPA(0), SLOT_SIZE, NULL,
					o->fds[OBJ_MEM], SLOT_OFFSET));
	}

	if (o->path->vm_type && !kvm_has_gmem_attributes())
		TEST_ASSERT_OK(ioctl(vm_fd, KVM_SET_MEMORY_ATTRIBUTES, &attrs));

	/* Leaves something to unmap where KVM has it; without, it is no worse. */
	ioctl(o->fds[OBJ_VCPU], KVM_PRE_FAULT_MEMORY, &range);
}

static void objs_close(struct objs *o, enum obj obj)
{
	if (obj == OBJ_MEM && o->path->daxfd)
		dax_dev_munmap(&dax, o->mem, slot_offset(0), SLOT_SIZE);
	else if (obj != OBJ_SLOT)
		kvm_free_fd(o->fds[obj]);
	else if (o->fds[OBJ_VM] >= 0)
		/* Without the VM's descriptor it goes with the VM. */
		TEST_ASSERT_OK(slot_delete(o->fds[OBJ_VM], MEM_SLOT(0)));
}

/* Heap's algorithm: fn sees each order of the elements once. */
static void permute(int *order, int n, void (*fn)(int *order, void *arg), void *arg)
{
	int i, other, tmp;

	if (n == 1) {
		fn(order, arg);
		return;
	}

	for (i = 0; i < n; i++) {
		permute(order, n - 1, fn, arg);
		other = n % 2 ? 0 : i;
		tmp = order[other];
		order[other] = order[n - 1];
		order[n - 1] = tmp;
	}
}

struct close_order {
	const struct path *path;
	int kvm_fd;
	int nr;
};

static void check_close_order(int *order, void *arg)
{
	struct close_order *co = arg;
	struct objs o = { .path = co->path };
	int i;

	objs_open(&o, co->kvm_fd);
	for (i = 0; i < NR_OBJS; i++)
		objs_close(&o, order[i]);

	TEST_ASSERT(!dax_dev_claimed(&dax), "Claim left by order %d %d %d %d %d",
		    order[0], order[1], order[2], order[3], order[4]);
	co->nr++;
}

TEST_F_TIMEOUT(life, every_close_order, LOOP_TIMEOUT)
{
	int order[NR_OBJS] = { OBJ_DAX, OBJ_MEM, OBJ_SLOT, OBJ_VCPU, OBJ_VM };
	struct close_order co = {
		.path = self->c.path,
		.kvm_fd = open_kvm_dev_path_or_exit(),
	};

	permute(order, NR_OBJS, check_close_order, &co);
	TEST_ASSERT_EQ(co.nr, 120);
	assert_device_is_free();
}

TEST_F(life, reusable_after_use)
{
	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	ctx_free(&self->c);
	assert_device_is_free();
}

TEST_F(life, unbind_of_running_guest)
{
	struct runner runner;

	mem_add(&self->c, 0);
	runner_start(&runner, self->c.vcpu, MEM_GPA(0), 16);
	unbind();
	TEST_ASSERT_ERR(runner_join(&runner), EFAULT);
	assert_memory_fault(self->c.vcpu, MEM_GPA(0), 16 * page_size);
}

TEST_F(life, unbind_of_idle_guest)
{
	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	unbind();
	guest_must_fault(self->c.vcpu, MEM_GPA(0));
}

TEST_F(life, unbind_before_first_touch)
{
	mem_add(&self->c, 0);
	unbind();
	guest_must_fault(self->c.vcpu, MEM_GPA(0) + ZERO_SIZE);
}

TEST_F(life, rebind_revives_nothing)
{
	struct runner runner;
	int i;

	mem_add(&self->c, 0);
	runner_start(&runner, self->c.vcpu, MEM_GPA(0), 16);
	unbind();
	TEST_ASSERT_ERR(runner_join(&runner), EFAULT);
	rebind();
	for (i = 0; i < 3; i++) {
		TEST_ASSERT_ERR(guest_run(self->c.vcpu), EFAULT);
		assert_memory_fault(self->c.vcpu, MEM_GPA(0), 16 * page_size);
	}
}

/* What is dead counts no more: the range is free for the next. */
TEST_F(life, claim_after_rebind)
{
	struct ctx other;

	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	unbind();
	rebind();
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);

	ctx_clone(&other, &self->c);
	mem_add(&other, 0);
	guest_write(other.vcpu, MEM_GPA(0), ~GUEST_DATA);
	guest_must_fault(self->c.vcpu, MEM_GPA(0));
	TEST_ASSERT_EQ(guest_read(other.vcpu, MEM_GPA(0)), ~GUEST_DATA);

	/* The end of the dead one does nothing to the living. */
	ctx_free(&self->c);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax),
		       other.path->daxfd ? SLOT_SIZE : unit_size);
	TEST_ASSERT_EQ(guest_read(other.vcpu, MEM_GPA(0)), ~GUEST_DATA);
	ctx_free(&other);
}

/* In the same VM, at the same addresses. */
TEST_F(life, slot_replaced_after_rebind)
{
	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	unbind();
	guest_must_fault(self->c.vcpu, MEM_GPA(0));
	rebind();
	mem_del(&self->c, 0);

	reopen(&self->c);
	mem_add(&self->c, 0);
	TEST_ASSERT_OK(guest_run(self->c.vcpu));
	guest_write(self->c.vcpu, MEM_GPA(0), ~GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), ~GUEST_DATA);
}

TEST_F(life, unbind_twice)
{
	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	unbind();
	rebind();
	unbind();
	guest_must_fault(self->c.vcpu, MEM_GPA(0));
	rebind();
}

TEST_F(life, unbind_kills_all_claims)
{
	struct ctx other;

	if (!has_units(_metadata, 2))
		return;

	ctx_clone(&other, &self->c);
	mem_add(&self->c, 0);
	mem_add(&other, 1);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	guest_write(other.vcpu, MEM_GPA(1), GUEST_DATA);
	unbind();
	guest_must_fault(self->c.vcpu, MEM_GPA(0));
	guest_must_fault(other.vcpu, MEM_GPA(1));
	ctx_free(&other);
}

TEST_F(life, freed_while_not_bound)
{
	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	unbind();
	ctx_free(&self->c);
	rebind();
	assert_device_is_free();
}

TEST_F(life, slot_deleted_while_not_bound)
{
	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	unbind();
	mem_del(&self->c, 0);
	rebind();
	assert_device_is_free();
}

/* Memory of another kind, and the rest of the VM, live on. */
TEST_F(life, vm_survives_unbind)
{
	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	unbind();
	guest_must_fault(self->c.vcpu, MEM_GPA(0));
	mem_del(&self->c, 0);
	vm_userspace_mem_region_add(self->c.vm, VM_MEM_SRC_ANONYMOUS, MEM_GPA(3),
				    MEM_SLOT(3), 1, 0);
	virt_map(self->c.vm, MEM_GPA(3), MEM_GPA(3), 1);
	rebind();
	reopen(&self->c);
	mem_add(&self->c, 0);
	TEST_ASSERT_OK(guest_run(self->c.vcpu));
	guest_write(self->c.vcpu, MEM_GPA(3), GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(3)), GUEST_DATA);
}

TEST_F(life, pre_fault)
{
	u64 left;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "KVM has no KVM_PRE_FAULT_MEMORY here (no two-dimensional paging)");

	mem_add(&self->c, 0);
	TEST_ASSERT_OK(pre_fault(self->c.vcpu, MEM_GPA(0), SLOT_SIZE, &left));
	TEST_ASSERT_EQ(left, 0);
	guest_write(self->c.vcpu, MEM_GPA(0) + ZERO_SIZE, GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0) + ZERO_SIZE), GUEST_DATA);
}

TEST_F(life, pre_fault_after_unbind)
{
	u64 left;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "KVM has no KVM_PRE_FAULT_MEMORY here (no two-dimensional paging)");

	mem_add(&self->c, 0);
	unbind();
	TEST_ASSERT_ERR(pre_fault(self->c.vcpu, MEM_GPA(0), SLOT_SIZE, &left), EFAULT);
	TEST_ASSERT_EQ(left, SLOT_SIZE);
	rebind();
	TEST_ASSERT_ERR(pre_fault(self->c.vcpu, MEM_GPA(0), SLOT_SIZE, &left), EFAULT);
}

TEST_F(life, sigkill)
{
	vmm_kill(vmm_start(&self->c));
	assert_device_is_free();
}

TEST_F(life, sigkill_after_unbind)
{
	pid_t pid = vmm_start(&self->c);

	unbind();
	vmm_kill(pid);
	rebind();
	assert_device_is_free();
}

TEST_F(life, sigkill_after_rebind)
{
	pid_t pid = vmm_start(&self->c);

	unbind();
	rebind();
	vmm_kill(pid);
	assert_device_is_free();
}

/* vCPUs are closed when the guest runs on in no thread; the VM goes last. */
TEST_F(life, slot_outlives_vm_fd)
{
	struct ctx *c = &self->c;

	mem_add(c, 0);
	guest_write(c->vcpu, MEM_GPA(0), GUEST_DATA);
	kvm_free_fd(c->vm->fd);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0)), GUEST_DATA);
	unbind();
	guest_must_fault(c->vcpu, MEM_GPA(0));
}

/*
 * Without KEEP_DATA nobody reads what another left
 */

DAXFD_FIXTURE(zero)
FIXTURE_VARIANT_ADD(zero, create) { .path = PATH_create };
#ifdef __x86_64__
FIXTURE_VARIANT_ADD(zero, sw_protected) { .path = PATH_sw_protected };
#endif

static void fill_slot_range(u64 val)
{
	dax_dev_fill(&dax, slot_offset(0), SLOT_SIZE, val);
}

static void guest_write_probes(struct ctx *c)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(probes); i++)
		guest_write(c->vcpu, MEM_GPA(0) + probes[i], GUEST_DATA);
}

TEST_F(zero, guest_reads_zero)
{
	u64 offset;

	fill_slot_range(OLD_DATA);
	mem_add(&self->c, 0);
	for (offset = 0; offset < SLOT_SIZE; offset += SZ_256K)
		TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0) + offset), 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0) + SLOT_SIZE - 8), 0);
}

/* Zeroing for a late page takes nothing away from an early one. */
TEST_F(zero, only_once)
{
	struct ctx *c = &self->c;
	u64 offset;

	fill_slot_range(OLD_DATA);
	mem_add(c, 0);
	guest_write(c->vcpu, MEM_GPA(0), GUEST_DATA);
	guest_write(c->vcpu, MEM_GPA(0) + ZERO_SIZE, GUEST_DATA);
	for (offset = page_size; offset < SLOT_SIZE; offset += SZ_512K)
		TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0) + offset), 0);

	/* Nor does a new slot, whose page tables are empty. */
	TEST_ASSERT_OK(slot_delete(c->vm->fd, MEM_SLOT(0)));
	TEST_ASSERT_OK(__mem_slot(c, 0, NULL));
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0)), GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0) + ZERO_SIZE), GUEST_DATA);
}

/* Whatever stands beside the range is someone else's. */
TEST_F(zero, neighbours_are_left_alone)
{
	u64 edge = unit_size;

	if (!has_units(_metadata, 2))
		return;

	dax_dev_fill(&dax, edge - page_size, 2 * page_size, OLD_DATA);
	fill_slot_range(OLD_DATA);
	mem_add(&self->c, 0);
	guest_write_probes(&self->c);
	TEST_ASSERT_OK(do_fallocate(self->c.gmem[0], FALLOC_FL_KEEP_SIZE, 0,
				    ZERO_SIZE));
	dax_dev_check(&dax, edge - page_size, page_size, OLD_DATA);
	mem_del(&self->c, 0);
	dax_dev_check(&dax, edge - page_size, page_size, OLD_DATA);
}

TEST_F(zero, wiped_at_last_close)
{
	fill_slot_range(OLD_DATA);
	mem_add(&self->c, 0);
	guest_write_probes(&self->c);
	mem_del(&self->c, 0);
	dax_dev_check(&dax, slot_offset(0), SLOT_SIZE, 0);
}

/* Closing is what counts, not the slot. */
TEST_F(zero, wiped_at_close_under_slot)
{
	fill_slot_range(OLD_DATA);
	mem_add(&self->c, 0);
	guest_write_probes(&self->c);
	kvm_free_fd(self->c.gmem[0]);
	dax_dev_check(&dax, slot_offset(0), SLOT_SIZE, 0);
	guest_must_fault(self->c.vcpu, MEM_GPA(0));
}

TEST_F(zero, wiped_at_sigkill)
{
	pid_t pid;

	fill_slot_range(OLD_DATA);
	pid = vmm_start(&self->c);
	vmm_kill(pid);
	dax_dev_check(&dax, slot_offset(0), SLOT_SIZE, 0);
}

TEST_F(zero, wiped_by_unbind_of_running_guest)
{
	struct runner runner;

	fill_slot_range(OLD_DATA);
	mem_add(&self->c, 0);
	guest_write_probes(&self->c);
	runner_start(&runner, self->c.vcpu, MEM_GPA(0), 16);
	unbind();
	TEST_ASSERT_ERR(runner_join(&runner), EFAULT);
	rebind();
	dax_dev_check(&dax, slot_offset(0), SLOT_SIZE, 0);
}

/* Revoke has wiped; the last close must not do so again, to the next owner. */
TEST_F(zero, wiped_once)
{
	mem_add(&self->c, 0);
	guest_write_probes(&self->c);
	unbind();
	rebind();
	fill_slot_range(HOST_DATA);
	mem_del(&self->c, 0);
	dax_dev_check(&dax, slot_offset(0), SLOT_SIZE, HOST_DATA);
}

TEST_F(zero, next_owner_reads_zero)
{
	struct ctx other;

	ctx_clone(&other, &self->c);
	mem_add(&self->c, 0);
	guest_write_probes(&self->c);
	mem_del(&self->c, 0);
	mem_add(&other, 0);
	TEST_ASSERT_EQ(guest_read(other.vcpu, MEM_GPA(0)), 0);
	TEST_ASSERT_EQ(guest_read(other.vcpu, MEM_GPA(0) + ZERO_SIZE), 0);
	ctx_free(&other);
}

/* The last block of a device may be smaller than the others. */
TEST_F(zero, end_of_device)
{
	u64 start = (dax.size - ZERO_SIZE) & ~(dax.align - 1);
	u64 size = dax.size - start;
	u64 offset = size - page_size;
	struct ctx *c = &self->c;

	dax_dev_fill(&dax, start + offset, page_size, OLD_DATA);
	TEST_ASSERT_OK(claim(c, 0, c->dax_fd, start, size));
	TEST_ASSERT_OK(slot_set(c->vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_MEMFD,
				MEM_GPA(0), page_size, NULL, c->gmem[0], offset));
	mem_map(c, 0);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0)), 0);
	guest_write(c->vcpu, MEM_GPA(0), GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0)), GUEST_DATA);
	mem_del(c, 0);
	dax_dev_check(&dax, start + offset, page_size, 0);
}

TEST_F(zero, wiped_after_allocation)
{
	fill_slot_range(OLD_DATA);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_OK(do_fallocate(self->c.gmem[0], FALLOC_FL_KEEP_SIZE,
				    SLOT_OFFSET, SLOT_SIZE));
	unclaim(&self->c, 0);
	dax_dev_check(&dax, slot_offset(0), SLOT_SIZE, 0);
}

/*
 * With KEEP_DATA, and always with the short way, the contents stay
 */

DAXFD_FIXTURE(keep)
FIXTURE_VARIANT_ADD(keep, create_keep) { .path = PATH_create_keep };
FIXTURE_VARIANT_ADD(keep, short) { .path = PATH_short };

TEST_F(keep, guest_reads_old_data)
{
	int i;

	fill_slot_range(OLD_DATA);
	mem_add(&self->c, 0);
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0) + probes[i]),
			       OLD_DATA);
}

/* Each page is where its offset says, on the device and in the guest. */
TEST_F(keep, every_page)
{
	u64 nr = SLOT_SIZE / self->c.vm->page_size, i;
	u64 *mem = dax_dev_mmap(&dax, slot_offset(0), SLOT_SIZE);

	for (i = 0; i < nr; i++) {
		u64 offset = i * self->c.vm->page_size;

		mem[offset / 8] = (MEM_GPA(0) + offset) ^ OLD_DATA;
	}
	dax_dev_munmap(&dax, mem, slot_offset(0), SLOT_SIZE);

	mem_add(&self->c, 0);
	TEST_ASSERT_OK(guest_do(self->c.vcpu, GUEST_CHECK, MEM_GPA(0), OLD_DATA, nr));
}

static void check_kept(u64 val)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(probes); i++)
		TEST_ASSERT_EQ(dax_dev_read(&dax, slot_offset(0) + probes[i]), val);
}

TEST_F(keep, after_close)
{
	fill_slot_range(OLD_DATA);
	mem_add(&self->c, 0);
	guest_write_probes(&self->c);
	ctx_free(&self->c);
	check_kept(GUEST_DATA);
	TEST_ASSERT_EQ(dax_dev_read(&dax, slot_offset(0) + SZ_1M), OLD_DATA);
}

TEST_F(keep, after_sigkill)
{
	pid_t pid;

	fill_slot_range(OLD_DATA);
	pid = vmm_start(&self->c);
	vmm_kill(pid);
	TEST_ASSERT_EQ(dax_dev_read(&dax, slot_offset(0)), GUEST_DATA);
	TEST_ASSERT_EQ(dax_dev_read(&dax, slot_offset(0) + SZ_1M), OLD_DATA);
}

TEST_F(keep, after_unbind_of_running_guest)
{
	struct runner runner;

	fill_slot_range(OLD_DATA);
	mem_add(&self->c, 0);
	guest_write_probes(&self->c);
	runner_start(&runner, self->c.vcpu, MEM_GPA(0) + SZ_1M, 4);
	unbind();
	TEST_ASSERT_ERR(runner_join(&runner), EFAULT);
	rebind();
	check_kept(GUEST_DATA);
}

TEST_F(keep, next_guest_reads_it)
{
	struct ctx other;
	int i;

	ctx_clone(&other, &self->c);
	mem_add(&self->c, 0);
	guest_write_probes(&self->c);
	mem_del(&self->c, 0);
	mem_add(&other, 0);
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		TEST_ASSERT_EQ(guest_read(other.vcpu, MEM_GPA(0) + probes[i]),
			       GUEST_DATA);
	ctx_free(&other);
}

/*
 * The guest_memfd as a file
 */

DAXFD_FIXTURE(gmem)
FIXTURE_VARIANT_ADD(gmem, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(gmem, create_keep) { .path = PATH_create_keep };

/* The whole file. */
static u64 *gmem_mmap(struct ctx *c, int n)
{
	return kvm_mmap(unit_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->gmem[n]);
}

TEST_F(gmem, stat)
{
	struct stat st;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT(!fstat(self->c.gmem[0], &st), "fstat() failed");
	TEST_ASSERT_EQ(st.st_size, unit_size);
	TEST_ASSERT(S_ISREG(st.st_mode), "mode 0%o", st.st_mode);
	unclaim(&self->c, 0);
}

TEST_F(gmem, no_read_write_truncate)
{
	char buf[64] = {};

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_EQ(read(self->c.gmem[0], buf, sizeof(buf)), -1);
	TEST_ASSERT_EQ(pread(self->c.gmem[0], buf, sizeof(buf), 0), -1);
	TEST_ASSERT_EQ(write(self->c.gmem[0], buf, sizeof(buf)), -1);
	TEST_ASSERT_EQ(pwrite(self->c.gmem[0], buf, sizeof(buf), 0), -1);
	TEST_ASSERT_EQ(ftruncate(self->c.gmem[0], 2 * unit_size), -1);
	TEST_ASSERT_EQ(ftruncate(self->c.gmem[0], 0), -1);
	unclaim(&self->c, 0);
}

TEST_F(gmem, mmap_twice)
{
	u64 *a, *b;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	a = gmem_mmap(&self->c, 0);
	b = __kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       self->c.gmem[0], ZERO_SIZE + page_size);
	a[(ZERO_SIZE + page_size) / 8] = HOST_DATA;
	TEST_ASSERT_EQ(READ_ONCE(*b), HOST_DATA);
	WRITE_ONCE(*b, ~HOST_DATA);
	TEST_ASSERT_EQ(READ_ONCE(a[(ZERO_SIZE + page_size) / 8]), ~HOST_DATA);
	kvm_munmap(b, page_size);
	kvm_munmap(a, unit_size);
	unclaim(&self->c, 0);
}

TEST_F(gmem, mmap_private)
{
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_ERR(try_mmap(self->c.gmem[0], MAP_PRIVATE, 0, page_size), EINVAL);
	unclaim(&self->c, 0);
}

TEST_F(gmem, mmap_without_flag)
{
	u64 flags = self->c.path->flags & ~GUEST_MEMFD_FLAG_MMAP;
	int fd = gmem_create(self->c.vm->fd, flags, self->c.dax_fd,
			     unit_offset(0), unit_size);

	TEST_ASSERT(fd >= 0, "Creating a guest_memfd failed: %d", fd);
	TEST_ASSERT_ERR(try_mmap(fd, MAP_SHARED, 0, page_size), ENODEV);
	kvm_close(fd);
}

TEST_F(gmem, sigbus_past_the_end)
{
	u8 *mem;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	mem = kvm_mmap(unit_size + 2 * page_size, PROT_READ | PROT_WRITE,
		       MAP_SHARED, self->c.gmem[0]);
	TEST_ASSERT(host_can_write(mem + unit_size - 8), "The last page");
	TEST_ASSERT(!host_can_read(mem + unit_size), "A read past the end");
	TEST_ASSERT(!host_can_write(mem + unit_size + page_size),
		    "A write past the end");
	TEST_ASSERT(host_can_read(mem + unit_size - 8), "The last page, again");
	kvm_munmap(mem, unit_size + 2 * page_size);
	unclaim(&self->c, 0);
}

TEST_F(gmem, fork_shares_it)
{
	int status;
	pid_t pid;
	u64 *mem;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	mem = gmem_mmap(&self->c, 0);
	WRITE_ONCE(mem[0], HOST_DATA);
	pid = fork();
	if (!pid) {
		if (READ_ONCE(mem[0]) != HOST_DATA)
			_exit(1);
		WRITE_ONCE(mem[0], ~HOST_DATA);
		WRITE_ONCE(mem[ZERO_SIZE / 8], HOST_DATA);
		_exit(0);
	}
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT_EQ(status, 0);
	TEST_ASSERT_EQ(READ_ONCE(mem[0]), ~HOST_DATA);
	TEST_ASSERT_EQ(READ_ONCE(mem[ZERO_SIZE / 8]), HOST_DATA);
	kvm_munmap(mem, unit_size);
	unclaim(&self->c, 0);
}

TEST_F(gmem, slot_out_of_range)
{
	struct ctx *c = &self->c;

	TEST_ASSERT_OK(claim_unit(c, 0));
	TEST_ASSERT_ERR(slot_set(c->vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_MEMFD,
				 MEM_GPA(0), SLOT_SIZE, NULL, c->gmem[0],
				 unit_size - SLOT_SIZE + page_size), EINVAL);
	TEST_ASSERT_ERR(slot_set(c->vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_MEMFD,
				 MEM_GPA(0), unit_size + page_size, NULL,
				 c->gmem[0], 0), EINVAL);
	TEST_ASSERT_ERR(slot_set(c->vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_MEMFD,
				 MEM_GPA(0), page_size, NULL, c->gmem[0],
				 unit_size), EINVAL);
	unclaim(c, 0);
}

TEST_F(gmem, slots_overlap_in_file)
{
	struct ctx *c = &self->c;

	mem_add(c, 0);
	TEST_ASSERT_ERR(slot_set(c->vm->fd, MEM_SLOT(1), KVM_MEM_GUEST_MEMFD,
				 MEM_GPA(1), ZERO_SIZE, NULL, c->gmem[0],
				 SLOT_OFFSET + SLOT_SIZE - page_size), EEXIST);
	guest_write(c->vcpu, MEM_GPA(0), GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0)), GUEST_DATA);
}

TEST_F(gmem, slot_flags)
{
	struct ctx *c = &self->c;

	TEST_ASSERT_OK(claim_unit(c, 0));
	TEST_ASSERT_ERR(slot_with_flags(c->vm->fd, c->gmem[0], KVM_MEM_GUEST_MEMFD |
					KVM_MEM_LOG_DIRTY_PAGES), EINVAL);
	TEST_ASSERT_ERR(slot_with_flags(c->vm->fd, c->gmem[0], KVM_MEM_GUEST_MEMFD |
					KVM_MEM_READONLY), EINVAL);
	unclaim(c, 0);
}

TEST_F(gmem, bound_to_its_vm)
{
	struct ctx other;

	ctx_clone(&other, &self->c);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_ERR(slot_with_flags(other.vm->fd, self->c.gmem[0],
					KVM_MEM_GUEST_MEMFD), EINVAL);
	ctx_free(&other);
	unclaim(&self->c, 0);
}

TEST_F(gmem, allocate)
{
	u64 *mem;

	fill_slot_range(OLD_DATA);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	mem = gmem_mmap(&self->c, 0);
	TEST_ASSERT_OK(do_fallocate(self->c.gmem[0], FALLOC_FL_KEEP_SIZE,
				    SLOT_OFFSET, SLOT_SIZE));
	if (self->c.path->flags & GUEST_MEMFD_FLAG_KEEP_DATA)
		TEST_ASSERT_EQ(READ_ONCE(mem[SLOT_OFFSET / 8]), OLD_DATA);
	else
		TEST_ASSERT_EQ(READ_ONCE(mem[SLOT_OFFSET / 8]), 0);

	/* What is there stays, the second time. */
	WRITE_ONCE(mem[SLOT_OFFSET / 8], HOST_DATA);
	TEST_ASSERT_OK(do_fallocate(self->c.gmem[0], FALLOC_FL_KEEP_SIZE,
				    SLOT_OFFSET, SLOT_SIZE));
	TEST_ASSERT_EQ(READ_ONCE(mem[SLOT_OFFSET / 8]), HOST_DATA);
	kvm_munmap(mem, unit_size);
	unclaim(&self->c, 0);
}

TEST_F(gmem, allocate_past_the_end)
{
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_ERR(do_fallocate(self->c.gmem[0], FALLOC_FL_KEEP_SIZE,
				     unit_size, page_size), EINVAL);
	TEST_ASSERT_ERR(do_fallocate(self->c.gmem[0], FALLOC_FL_KEEP_SIZE,
				     unit_size - page_size, 2 * page_size), EINVAL);
	unclaim(&self->c, 0);
}

TEST_F(gmem, fallocate_modes)
{
	const int modes[] = {
		0,
		FALLOC_FL_ZERO_RANGE,
		FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
		FALLOC_FL_PUNCH_HOLE,
		FALLOC_FL_COLLAPSE_RANGE,
		FALLOC_FL_INSERT_RANGE,
		FALLOC_FL_UNSHARE_RANGE,
		FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE,
		FALLOC_PUNCH | FALLOC_FL_ZERO_RANGE,
		1 << 30,
	};
	int i;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		int r = do_fallocate(self->c.gmem[0], modes[i], 0, page_size);

		TEST_ASSERT(r == -EOPNOTSUPP, "mode 0x%x: got %d", modes[i], r);
	}
	unclaim(&self->c, 0);
}

TEST_F(gmem, fallocate_unaligned)
{
	const int modes[] = { FALLOC_PUNCH, FALLOC_FL_KEEP_SIZE };
	int i, fd;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	fd = self->c.gmem[0];
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		TEST_ASSERT_ERR(do_fallocate(fd, modes[i], 1, page_size), EINVAL);
		TEST_ASSERT_ERR(do_fallocate(fd, modes[i], page_size - 1, 1), EINVAL);
		TEST_ASSERT_ERR(do_fallocate(fd, modes[i], 0, page_size + 1), EINVAL);
		TEST_ASSERT_ERR(do_fallocate(fd, modes[i], 0, page_size / 2), EINVAL);
		TEST_ASSERT_ERR(do_fallocate(fd, modes[i], 0, 0), EINVAL);
		TEST_ASSERT_ERR(do_fallocate(fd, modes[i], -page_size, page_size),
				EINVAL);
	}
	unclaim(&self->c, 0);
}

/* A hole in what the guest and the host have mapped; the rest stays. */
static void check_hole(struct ctx *c, u64 start, u64 len)
{
	u64 nr = SLOT_SIZE / c->vm->page_size, offset;
	u64 *mem;

	mem_add(c, 0);
	mem = host_map(c, 0);
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_FILL, MEM_GPA(0), GUEST_DATA, nr));
	WRITE_ONCE(mem[start / 8 + 1], HOST_DATA);
	WRITE_ONCE(mem[(start + len) / 8 - 1], HOST_DATA);

	TEST_ASSERT_OK(punch(c, SLOT_OFFSET + start, len));

	for (offset = 0; offset < SLOT_SIZE; offset += c->vm->page_size) {
		u64 val = (MEM_GPA(0) + offset) ^ GUEST_DATA;

		if (offset >= start && offset < start + len)
			val = 0;
		TEST_ASSERT(READ_ONCE(mem[offset / 8]) == val,
			    "Offset 0x%lx: expected 0x%lx, got 0x%lx", offset, val,
			    mem[offset / 8]);
	}
	for (offset = start; offset < start + len; offset += 8)
		TEST_ASSERT_EQ(READ_ONCE(mem[offset / 8]), 0);

	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0) + start), 0);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0) + start + 8), 0);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0) + start + len - 8), 0);
	if (start)
		TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0) + start - page_size),
			       (MEM_GPA(0) + start - page_size) ^ GUEST_DATA);
	if (start + len < SLOT_SIZE)
		TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0) + start + len),
			       (MEM_GPA(0) + start + len) ^ GUEST_DATA);

	/* It is memory again. */
	guest_write(c->vcpu, MEM_GPA(0) + start, GUEST_DATA);
	TEST_ASSERT_EQ(READ_ONCE(mem[start / 8]), GUEST_DATA);
	host_unmap(c, 0, mem);
}

TEST_F(gmem, hole_of_one_page)
{
	check_hole(&self->c, SZ_64K, page_size);
}

TEST_F(gmem, hole_of_one_block)
{
	check_hole(&self->c, ZERO_SIZE, ZERO_SIZE);
}

TEST_F(gmem, hole_of_all_blocks)
{
	check_hole(&self->c, 0, SLOT_SIZE);
}

TEST_F(gmem, hole_across_blocks)
{
	check_hole(&self->c, ZERO_SIZE - page_size, 2 * page_size);
}

TEST_F(gmem, hole_at_the_end)
{
	u64 last = unit_size - page_size;
	u64 *mem;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	mem = gmem_mmap(&self->c, 0);
	WRITE_ONCE(mem[last / 8], HOST_DATA);
	WRITE_ONCE(mem[last / 8 - 1], HOST_DATA);
	TEST_ASSERT_OK(punch(&self->c, last, 16 * page_size));
	TEST_ASSERT_EQ(READ_ONCE(mem[last / 8]), 0);
	TEST_ASSERT_EQ(READ_ONCE(mem[last / 8 - 1]), HOST_DATA);
	kvm_munmap(mem, unit_size);
	unclaim(&self->c, 0);
}

/* The device goes on behind the file; the hole does not. */
TEST_F(gmem, hole_past_the_end)
{
	u64 last = unit_size - page_size;
	u64 *mem;

	if (!has_units(_metadata, 2))
		return;

	dax_dev_write(&dax, unit_size, OLD_DATA);
	TEST_ASSERT_OK(claim(&self->c, 0, self->c.dax_fd, 0, unit_size));
	mem = gmem_mmap(&self->c, 0);
	WRITE_ONCE(mem[last / 8], HOST_DATA);
	TEST_ASSERT_OK(punch(&self->c, unit_size, page_size));
	TEST_ASSERT_OK(punch(&self->c, unit_size + page_size, unit_size));
	TEST_ASSERT_EQ(READ_ONCE(mem[last / 8]), HOST_DATA);
	TEST_ASSERT_OK(punch(&self->c, last, 2 * page_size));
	TEST_ASSERT_EQ(READ_ONCE(mem[last / 8]), 0);
	kvm_munmap(mem, unit_size);
	unclaim(&self->c, 0);
	TEST_ASSERT_EQ(dax_dev_read(&dax, unit_size), OLD_DATA);
}

/* Never touched, so that there is nothing to zero, or all, with KEEP_DATA. */
TEST_F(gmem, hole_before_first_touch)
{
	fill_slot_range(OLD_DATA);
	mem_add(&self->c, 0);
	TEST_ASSERT_OK(punch(&self->c, SLOT_OFFSET, page_size));
	TEST_ASSERT_OK(punch(&self->c, SLOT_OFFSET + ZERO_SIZE, ZERO_SIZE));
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0) + ZERO_SIZE), 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0) + SLOT_SIZE - 8), 0);
}

TEST_F(gmem, hole_by_madvise)
{
	u64 *mem;

	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	guest_write(self->c.vcpu, MEM_GPA(0) + page_size, GUEST_DATA);
	mem = host_map(&self->c, 0);
	kvm_madvise(mem, page_size, MADV_REMOVE);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0) + page_size), GUEST_DATA);
	host_unmap(&self->c, 0, mem);
}

TEST_F(gmem, dead_host_mapping)
{
	u64 *mem;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	mem = gmem_mmap(&self->c, 0);
	WRITE_ONCE(*mem, HOST_DATA);
	unbind();
	TEST_ASSERT(!host_can_read(mem), "A read after unbind");
	TEST_ASSERT(!host_can_write(mem), "A write after unbind");
	TEST_ASSERT(!host_can_read(mem + ZERO_SIZE / 8), "A read of another page");
	rebind();
	TEST_ASSERT(!host_can_read(mem), "A read after bind");
	kvm_munmap(mem, unit_size);
	unclaim(&self->c, 0);
}

TEST_F(gmem, dead_mmap)
{
	u64 *mem;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	unbind();
	rebind();
	mem = mmap(NULL, page_size, PROT_READ, MAP_SHARED, self->c.gmem[0], 0);
	if (mem != MAP_FAILED)
		TEST_ASSERT(!host_can_read(mem), "A read of a new mapping");
	unclaim(&self->c, 0);
}

TEST_F(gmem, dead_fallocate)
{
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	unbind();
	TEST_ASSERT_ERR(punch(&self->c, 0, page_size), ENODEV);
	TEST_ASSERT_ERR(do_fallocate(self->c.gmem[0], FALLOC_FL_KEEP_SIZE, 0,
				     page_size), ENODEV);
	rebind();
	TEST_ASSERT_ERR(punch(&self->c, 0, page_size), ENODEV);
	TEST_ASSERT_ERR(do_fallocate(self->c.gmem[0], FALLOC_FL_KEEP_SIZE, 0,
				     page_size), ENODEV);
	unclaim(&self->c, 0);
}

/* Whether it can be had or not: it has no memory. */
TEST_F(gmem, dead_new_slot)
{
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	unbind();
	rebind();
	mem_map(&self->c, 0);
	if (!__mem_slot(&self->c, 0, NULL))
		guest_must_fault(self->c.vcpu, MEM_GPA(0));
	unclaim(&self->c, 0);
}

static void assert_fdinfo(int fd, const char *key, const char *expected)
{
	char val[128];

	TEST_ASSERT(fdinfo_get(fd, key, val, sizeof(val)), "fdinfo has no '%s'", key);
	TEST_ASSERT(!strcmp(val, expected), "%s: expected '%s', got '%s'", key,
		    expected, val);
}

TEST_F(gmem, fdinfo)
{
	int fd;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	fd = self->c.gmem[0];
	TEST_ASSERT_EQ(fdinfo_number(fd, "size"), unit_size);
	TEST_ASSERT_EQ(fdinfo_number(fd, "gmem-flags"),
		       self->c.path->flags | GUEST_MEMFD_FLAG_BACKING_FD);
	assert_fdinfo(fd, "backend", "dax");
	assert_fdinfo(fd, "dax-device", dax.name);
	TEST_ASSERT_EQ(fdinfo_number(fd, "dax-offset"), unit_offset(0));
	TEST_ASSERT_EQ(fdinfo_number(fd, "bindings"), 0);
	unclaim(&self->c, 0);
}

TEST_F(gmem, fdinfo_bindings)
{
	mem_add(&self->c, 0);
	TEST_ASSERT_EQ(fdinfo_number(self->c.gmem[0], "bindings"), 1);
	TEST_ASSERT_OK(slot_set(self->c.vm->fd, MEM_SLOT(1), KVM_MEM_GUEST_MEMFD,
				MEM_GPA(1), page_size, NULL, self->c.gmem[0], 0));
	TEST_ASSERT_EQ(fdinfo_number(self->c.gmem[0], "bindings"), 2);
	TEST_ASSERT_OK(slot_delete(self->c.vm->fd, MEM_SLOT(0)));
	TEST_ASSERT_EQ(fdinfo_number(self->c.gmem[0], "bindings"), 1);
}

static void drop_sys_admin(void)
{
	struct __user_cap_header_struct hdr = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	TEST_ASSERT(!syscall(__NR_capget, &hdr, data), "capget() failed");
	data[0].effective &= ~(1U << CAP_SYS_ADMIN);
	TEST_ASSERT(!syscall(__NR_capset, &hdr, data), "capset() failed");
}

/* Physical addresses are for the administrator alone. */
TEST_F(gmem, fdinfo_extents)
{
	char val[128];
	bool found;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	found = fdinfo_get(self->c.gmem[0], "dax-extent", val, sizeof(val));
	TEST_ASSERT(found, "fdinfo has no 'dax-extent' for root");

	drop_sys_admin();
	found = fdinfo_get(self->c.gmem[0], "dax-extent", val, sizeof(val));
	TEST_ASSERT(!found, "fdinfo has '%s' without CAP_SYS_ADMIN", val);
	assert_fdinfo(self->c.gmem[0], "dax-device", dax.name);
	unclaim(&self->c, 0);
}

/* What applies only with KEEP_DATA, or only without it. */

DAXFD_FIXTURE(gmem_zero)
FIXTURE_VARIANT_ADD(gmem_zero, create) { .path = PATH_create };

TEST_F(gmem_zero, host_reads_zero)
{
	u64 *mem, offset;

	fill_slot_range(OLD_DATA);
	mem_add(&self->c, 0);
	mem = host_map(&self->c, 0);
	for (offset = 0; offset < SLOT_SIZE; offset += page_size)
		TEST_ASSERT_EQ(READ_ONCE(mem[offset / 8]), 0);
	host_unmap(&self->c, 0, mem);
}

TEST_F(gmem_zero, host_first_then_guest)
{
	u64 *mem;

	fill_slot_range(OLD_DATA);
	mem_add(&self->c, 0);
	mem = host_map(&self->c, 0);
	WRITE_ONCE(mem[0], HOST_DATA);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), HOST_DATA);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0) + page_size), 0);
	host_unmap(&self->c, 0, mem);
}

TEST_F(gmem_zero, guest_first_then_host)
{
	u64 *mem;

	fill_slot_range(OLD_DATA);
	mem_add(&self->c, 0);
	mem = host_map(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	TEST_ASSERT_EQ(READ_ONCE(mem[0]), GUEST_DATA);
	TEST_ASSERT_EQ(READ_ONCE(mem[page_size / 8]), 0);
	host_unmap(&self->c, 0, mem);
}

TEST_F(gmem_zero, host_data_is_wiped)
{
	u64 *mem;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	mem = host_map(&self->c, 0);
	memset(mem, 0xaa, page_size);
	mem[SLOT_SIZE / 8 - 1] = HOST_DATA;
	host_unmap(&self->c, 0, mem);
	unclaim(&self->c, 0);
	dax_dev_check(&dax, slot_offset(0), SLOT_SIZE, 0);
}

/* The wipe ends with the last user, and that is the mapping. */
TEST_F(gmem_zero, wiped_at_munmap)
{
	u64 *mem;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	mem = host_map(&self->c, 0);
	WRITE_ONCE(mem[0], HOST_DATA);
	kvm_free_fd(self->c.gmem[0]);
	TEST_ASSERT_EQ(READ_ONCE(mem[0]), HOST_DATA);
	host_unmap(&self->c, 0, mem);
	dax_dev_check(&dax, slot_offset(0), page_size, 0);
}

TEST_F(gmem_zero, fdinfo_initialised)
{
	u64 before, after;
	int fd;

	mem_add(&self->c, 0);
	fd = self->c.gmem[0];
	before = fdinfo_number(fd, "initialised");
	TEST_ASSERT_EQ(before, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	after = fdinfo_number(fd, "initialised");
	TEST_ASSERT(after >= page_size && after <= ZERO_SIZE,
		    "0x%lx bytes for one page", after);
	guest_write(self->c.vcpu, MEM_GPA(0) + page_size, GUEST_DATA);
	TEST_ASSERT_EQ(fdinfo_number(fd, "initialised"), after);
	TEST_ASSERT_OK(do_fallocate(fd, FALLOC_FL_KEEP_SIZE, SLOT_OFFSET, SLOT_SIZE));
	TEST_ASSERT_EQ(fdinfo_number(fd, "initialised"), SLOT_SIZE);
}

DAXFD_FIXTURE(gmem_keep)
FIXTURE_VARIANT_ADD(gmem_keep, create_keep) { .path = PATH_create_keep };

TEST_F(gmem_keep, host_reads_old_data)
{
	u64 *mem;
	int i;

	fill_slot_range(OLD_DATA);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	mem = host_map(&self->c, 0);
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		TEST_ASSERT_EQ(READ_ONCE(mem[probes[i] / 8]), OLD_DATA);
	host_unmap(&self->c, 0, mem);
	unclaim(&self->c, 0);
}

/* The device and the file number the same bytes alike, to the last page. */
TEST_F(gmem_keep, offset_is_the_devices)
{
	const u64 offsets[] = {
		0, page_size, ZERO_SIZE - page_size, ZERO_SIZE,
		unit_size - page_size,
	};
	u64 *mem;
	int i;

	for (i = 0; i < ARRAY_SIZE(offsets); i++)
		dax_dev_write(&dax, unit_offset(0) + offsets[i], OLD_DATA + i);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	mem = gmem_mmap(&self->c, 0);
	for (i = 0; i < ARRAY_SIZE(offsets); i++) {
		TEST_ASSERT_EQ(READ_ONCE(mem[offsets[i] / 8]), OLD_DATA + i);
		WRITE_ONCE(mem[offsets[i] / 8], HOST_DATA + i);
	}
	kvm_munmap(mem, unit_size);
	unclaim(&self->c, 0);
	for (i = 0; i < ARRAY_SIZE(offsets); i++)
		TEST_ASSERT_EQ(dax_dev_read(&dax, unit_offset(0) + offsets[i]),
			       HOST_DATA + i);
}

TEST_F(gmem_keep, hole_stays_after_close)
{
	fill_slot_range(OLD_DATA);
	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_OK(punch(&self->c, SLOT_OFFSET + page_size, page_size));
	TEST_ASSERT_OK(punch(&self->c, SLOT_OFFSET + ZERO_SIZE, ZERO_SIZE));
	unclaim(&self->c, 0);

	dax_dev_check(&dax, slot_offset(0), page_size, OLD_DATA);
	dax_dev_check(&dax, slot_offset(0) + page_size, page_size, 0);
	dax_dev_check(&dax, slot_offset(0) + 2 * page_size, page_size, OLD_DATA);
	dax_dev_check(&dax, slot_offset(0) + ZERO_SIZE, ZERO_SIZE, 0);

	mem_add(&self->c, 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), OLD_DATA);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0) + page_size), 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0) + ZERO_SIZE), 0);
}

/*
 * Memory that is not shared: no mapping reaches it
 */

DAXFD_FIXTURE(private)
FIXTURE_VARIANT_ADD(private, create_private) { .path = PATH_create_private };
#ifdef __x86_64__
FIXTURE_VARIANT_ADD(private, sw_protected_mmap) { .path = PATH_sw_protected_mmap };
#endif

TEST_F(private, host_gets_sigbus)
{
	u8 *mem;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	mem = kvm_mmap(unit_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       self->c.gmem[0]);
	TEST_ASSERT(!host_can_read(mem), "A read of private memory");
	TEST_ASSERT(!host_can_write(mem), "A write of private memory");
	TEST_ASSERT(!host_can_read(mem + unit_size - 8), "A read of the last page");
	kvm_munmap(mem, unit_size);
	unclaim(&self->c, 0);
}

TEST_F(private, host_gets_sigbus_after_guest)
{
	u64 *mem;

	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	mem = host_map(&self->c, 0);
	TEST_ASSERT(!host_can_read(mem), "A read of private memory");
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), GUEST_DATA);
	host_unmap(&self->c, 0, mem);
}

TEST_F(private, no_way_around_by_the_device)
{
	struct kvm_vm *vm = vm_create_barebones();

	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	TEST_ASSERT_ERR(try_mmap_dax(unit_offset(0), unit_size), EBUSY);
	TEST_ASSERT_ERR(slot_set(vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_DAXFD, MEM_GPA(0),
				 page_size, NULL, self->c.dax_fd, slot_offset(0)),
			EBUSY);
}

TEST_F(private, wiped_at_close)
{
	mem_add(&self->c, 0);
	guest_write_probes(&self->c);
	mem_del(&self->c, 0);
	dax_dev_check(&dax, slot_offset(0), SLOT_SIZE, 0);
}

TEST_F(private, punch)
{
	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	guest_write(self->c.vcpu, MEM_GPA(0) + page_size, GUEST_DATA);
	TEST_ASSERT_OK(punch(&self->c, SLOT_OFFSET, page_size));
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0) + page_size), GUEST_DATA);
}

/*
 * KVM_MEM_GUEST_DAXFD
 */

DAXFD_FIXTURE(short_way)
FIXTURE_VARIANT_ADD(short_way, short) { .path = PATH_short };

TEST_F(short_way, slot_is_immutable)
{
	struct ctx *c = &self->c;
	int vm_fd = c->vm->fd, fd = c->dax_fd;
	const u32 flags[] = { 0, KVM_MEM_GUEST_MEMFD, KVM_MEM_GUEST_DAXFD,
			      KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY };
	int i;

	mem_add(c, 0);
	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		TEST_ASSERT_ERR(slot_set(vm_fd, MEM_SLOT(0), flags[i],
					 MEM_GPA(0) + SLOT_SIZE, SLOT_SIZE, NULL,
					 fd, slot_offset(0)), EINVAL);
		TEST_ASSERT_ERR(slot_set(vm_fd, MEM_SLOT(0), flags[i], MEM_GPA(0),
					 SLOT_SIZE / 2, NULL, fd,
					 slot_offset(0)), EINVAL);
		TEST_ASSERT_ERR(slot_set(vm_fd, MEM_SLOT(0), flags[i], MEM_GPA(0),
					 SLOT_SIZE, (void *)SZ_1G, fd,
					 slot_offset(0)), EINVAL);
		TEST_ASSERT_ERR(slot_set(vm_fd, MEM_SLOT(0), flags[i], MEM_GPA(0),
					 SLOT_SIZE, NULL, fd,
					 slot_offset(0) + page_size), EINVAL);
		TEST_ASSERT_ERR(slot_set(vm_fd, MEM_SLOT(0), flags[i], MEM_GPA(0),
					 SLOT_SIZE, NULL, fd, slot_offset(0)), EINVAL);
	}
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), SLOT_SIZE);
	guest_write(c->vcpu, MEM_GPA(0), GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0)), GUEST_DATA);
}

TEST_F(short_way, slot_deleted_with_or_without_flag)
{
	const u32 flags[] = { 0, KVM_MEM_GUEST_DAXFD };
	struct ctx *c = &self->c;
	int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		mem_add(c, 0);
		guest_write(c->vcpu, MEM_GPA(0), GUEST_DATA);
		TEST_ASSERT_OK(slot_set(c->vm->fd, MEM_SLOT(0), flags[i], MEM_GPA(0),
					0, NULL, c->dax_fd, slot_offset(0)));
		TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
	}
}

/* To delete, one needs no file; nor does a bad one get in the way. */
TEST_F(short_way, slot_deleted_without_fd)
{
	struct ctx *c = &self->c;

	mem_add(c, 0);
	TEST_ASSERT_OK(slot_set(c->vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_DAXFD,
				MEM_GPA(0), 0, NULL, -1, 0));
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
}

/* An ordinary slot does not become one over DAX. */
TEST_F(short_way, ordinary_slot_does_not_change)
{
	struct ctx *c = &self->c;
	void *mem = kvm_mmap(SLOT_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);

	TEST_ASSERT_OK(slot_set(c->vm->fd, MEM_SLOT(0), 0, MEM_GPA(0), SLOT_SIZE,
				mem, -1, 0));
	TEST_ASSERT_ERR(__mem_slot(c, 0, mem), EINVAL);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
}

/* Whatever is wrong with the slot, the claim made for it goes again. */
TEST_F(short_way, failed_slot_leaves_nothing)
{
	u32 flags = KVM_MEM_GUEST_DAXFD;
	struct ctx *c = &self->c;
	int vm_fd = c->vm->fd, fd = c->dax_fd, before = kvm_dup(fd), after;
	u64 offset = slot_offset(0);

	kvm_close(before);
	/* Slot 0 is the VM's own memory, from address 0 on. */
	TEST_ASSERT_ERR(slot_set(vm_fd, MEM_SLOT(0), flags, 0, SLOT_SIZE, NULL, fd,
				 offset), EEXIST);
	TEST_ASSERT_ERR(slot_set(vm_fd, MEM_SLOT(0), flags, MEM_GPA(0) + 1, SLOT_SIZE,
				 NULL, fd, offset), EINVAL);
	TEST_ASSERT_ERR(slot_set(vm_fd, MEM_SLOT(0), flags, MEM_GPA(0), SLOT_SIZE,
				 (void *)1, fd, offset), EINVAL);
	TEST_ASSERT_ERR(slot_set(vm_fd, 0xffff, flags, MEM_GPA(0), SLOT_SIZE, NULL,
				 fd, offset), EINVAL);
	TEST_ASSERT_ERR(slot_set(vm_fd, 0xffff0000, flags, MEM_GPA(0), SLOT_SIZE,
				 NULL, fd, offset), EINVAL);
	TEST_ASSERT_ERR(slot_set(vm_fd, MEM_SLOT(0), flags, -SLOT_SIZE, SLOT_SIZE,
				 NULL, fd, offset), EINVAL);
	after = kvm_dup(fd);
	TEST_ASSERT_EQ(after, before);
	kvm_close(after);
	assert_device_is_free();
}

TEST_F(short_way, page_granular)
{
	struct ctx *c = &self->c;

	TEST_ASSERT_OK(slot_set(c->vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_DAXFD,
				MEM_GPA(0), 3 * page_size, NULL, c->dax_fd,
				unit_offset(0) + page_size));
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 3 * page_size);
}

/* Overlaps are counted once. */
TEST_F(short_way, claims_overlap)
{
	struct ctx *c = &self->c;

	mem_add(c, 0);
	TEST_ASSERT_OK(claim_shared(c, slot_offset(0), SLOT_SIZE));
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), SLOT_SIZE);
	TEST_ASSERT_OK(slot_delete(c->vm->fd, MEM_SLOT(2)));
	TEST_ASSERT_OK(claim_shared(c, slot_offset(0) + ZERO_SIZE, SLOT_SIZE));
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), SLOT_SIZE + ZERO_SIZE);
	mem_del(c, 0);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), SLOT_SIZE);
}

/* Two slots of one VM over the same memory. */
TEST_F(short_way, slots_overlap)
{
	struct ctx *c = &self->c;

	mem_add(c, 0);
	TEST_ASSERT_OK(claim_shared(c, slot_offset(0) + ZERO_SIZE, ZERO_SIZE));
	virt_map(c->vm, MEM_GPA(2), MEM_GPA(2), 1);
	guest_write(c->vcpu, MEM_GPA(0) + ZERO_SIZE, GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(2)), GUEST_DATA);
	guest_write(c->vcpu, MEM_GPA(2), ~GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0) + ZERO_SIZE), ~GUEST_DATA);
	mem_del(c, 0);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(2)), ~GUEST_DATA);
}

TEST_F(short_way, vms_share)
{
	struct ctx other;

	ctx_clone(&other, &self->c);
	mem_add(&self->c, 0);
	mem_add(&other, 0);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), SLOT_SIZE);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(other.vcpu, MEM_GPA(0)), GUEST_DATA);
	guest_write(other.vcpu, MEM_GPA(0), ~GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), ~GUEST_DATA);
	ctx_free(&other);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), SLOT_SIZE);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), ~GUEST_DATA);
}

TEST_F(short_way, device_mapped_before)
{
	u64 *mem = dax_dev_mmap(&dax, slot_offset(0), SLOT_SIZE);

	WRITE_ONCE(*mem, HOST_DATA);
	mem_add(&self->c, 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), HOST_DATA);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	TEST_ASSERT_EQ(READ_ONCE(*mem), GUEST_DATA);
	mem_del(&self->c, 0);
	TEST_ASSERT_EQ(READ_ONCE(*mem), GUEST_DATA);
	dax_dev_munmap(&dax, mem, slot_offset(0), SLOT_SIZE);
}

TEST_F(short_way, device_punched)
{
	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	guest_write(self->c.vcpu, MEM_GPA(0) + page_size, GUEST_DATA);
	TEST_ASSERT_OK(do_fallocate(self->c.dax_fd, FALLOC_PUNCH, slot_offset(0),
				    page_size));
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0)), 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpu, MEM_GPA(0) + page_size), GUEST_DATA);
}

TEST_F(short_way, device_mapping_after_unbind)
{
	u64 *mem = dax_dev_mmap(&dax, slot_offset(0), SLOT_SIZE);

	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	TEST_ASSERT_EQ(READ_ONCE(*mem), GUEST_DATA);
	unbind();
	TEST_ASSERT(!host_can_read(mem), "A read after unbind");
	guest_must_fault(self->c.vcpu, MEM_GPA(0));
}

/* Many slots: each has a file that nobody sees. */
TEST_F(short_way, many_slots)
{
	struct ctx *c = &self->c;
	int i, nr = 64;

	for (i = 0; i < nr; i++)
		TEST_ASSERT_OK(slot_set(c->vm->fd, MEM_SLOT(i), KVM_MEM_GUEST_DAXFD,
					MEM_GPA(0) + i * 2 * page_size, page_size,
					NULL, c->dax_fd,
					slot_offset(0) + i * page_size));
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), nr * page_size);
	for (i = 0; i < nr; i += 2)
		TEST_ASSERT_OK(slot_delete(c->vm->fd, MEM_SLOT(i)));
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), nr / 2 * page_size);
	ctx_free(c);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
}

enum teardown {
	DELETE_SLOT,
	FREE_VM,
	UNBIND,
	NR_TEARDOWNS,
};

static void check_teardown_order(int *order, void *arg)
{
	struct ctx c;
	int i;

	ctx_clone(&c, arg);
	mem_add(&c, 0);
	guest_write(c.vcpu, MEM_GPA(0), GUEST_DATA);
	for (i = 0; i < NR_TEARDOWNS; i++) {
		if (order[i] == DELETE_SLOT && c.vm)
			TEST_ASSERT_OK(slot_delete(c.vm->fd, MEM_SLOT(0)));
		else if (order[i] == FREE_VM)
			ctx_free(&c);
		else if (order[i] == UNBIND)
			unbind();
	}
	rebind();
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
}

TEST_F_TIMEOUT(short_way, teardown_orders, LOOP_TIMEOUT)
{
	int order[] = { DELETE_SLOT, FREE_VM, UNBIND };

	permute(order, ARRAY_SIZE(order), check_teardown_order, &self->c);
	assert_device_is_free();
}

/*
 * Everything at once, for a bounded time
 */

DAXFD_FIXTURE(race)
FIXTURE_VARIANT_ADD(race, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(race, create_keep) { .path = PATH_create_keep };
FIXTURE_VARIANT_ADD(race, short) { .path = PATH_short };

static bool step_claim(struct loop *loop)
{
	int fd = __dax_dev_open(&dax, O_RDWR), r;

	if (fd < 0)
		return false;
	r = claim(loop->c, 0, fd, unit_offset(0), unit_size);
	TEST_ASSERT(!r || r == -ENODEV, "Unexpected error %d", r);
	if (!r)
		unclaim(loop->c, 0);
	kvm_close(fd);
	return !r;
}

TEST_F_TIMEOUT(race, claim_against_unbind, LOOP_TIMEOUT)
{
	struct loop loop = {};
	u64 start = 0;

	loop_start(&loop, &self->c, step_claim);
	while (time_is_left(&start)) {
		loop_wait(&loop);
		unbind();
		rebind();
	}
	loop_wait(&loop);
	loop_stop(&loop);
	assert_device_is_free();
}

TEST_F_TIMEOUT(race, guest_against_unbind, LOOP_TIMEOUT)
{
	struct runner runner;
	u64 start = 0;

	while (time_is_left(&start)) {
		struct ctx c;

		ctx_clone(&c, &self->c);
		mem_add(&c, 0);
		runner_start(&runner, c.vcpu, MEM_GPA(0), 64);
		unbind();
		TEST_ASSERT_ERR(runner_join(&runner), EFAULT);
		assert_memory_fault(c.vcpu, MEM_GPA(0), 64 * page_size);
		rebind();
		ctx_free(&c);
	}
	assert_device_is_free();
}

static bool step_slot(struct loop *loop)
{
	int r = __mem_slot(loop->c, 0, NULL);

	TEST_ASSERT(!r || r == -ENODEV, "Unexpected error %d", r);
	if (!r)
		TEST_ASSERT_OK(slot_delete(loop->c->vm->fd, MEM_SLOT(0)));
	return true;
}

TEST_F_TIMEOUT(race, slot_against_unbind, LOOP_TIMEOUT)
{
	struct loop loop = {};
	u64 start = 0;

	while (time_is_left(&start)) {
		struct ctx c;

		ctx_clone(&c, &self->c);
		if (!c.path->daxfd)
			TEST_ASSERT_OK(claim_unit(&c, 0));
		loop_start(&loop, &c, step_slot);
		loop_wait(&loop);
		unbind();
		rebind();
		loop_stop(&loop);
		ctx_free(&c);
	}
	assert_device_is_free();
}

/* Whether there is memory at the moment or not: the vCPU comes back. */
static bool step_run(struct loop *loop)
{
	struct kvm_vcpu *vcpu = loop->c->vcpu;
	int r = _vcpu_run(vcpu) ? errno : 0;

	TEST_ASSERT(!r || r == EFAULT, "Unexpected error %d", r);
	if (r)
		assert_memory_fault(vcpu, MEM_GPA(0), 64 * page_size);
	return true;
}

static void loop_start_guest(struct loop *loop, struct ctx *c)
{
	guest_prepare(c->vcpu, GUEST_SPIN, MEM_GPA(0), 0, 64);
	loop_start(loop, c, step_run);
}

/* The loop's end comes first: a guest that has stopped is run again. */
static void loop_stop_guest(struct loop *loop)
{
	WRITE_ONCE(loop->stop, true);
	WRITE_ONCE(guest_cmd(loop->c->vcpu)->stop, true);
	loop_stop(loop);
}

TEST_F_TIMEOUT(race, guest_against_slot, LOOP_TIMEOUT)
{
	struct loop loop = {};
	u64 start = 0;

	mem_add(&self->c, 0);
	loop_start_guest(&loop, &self->c);
	while (time_is_left(&start)) {
		TEST_ASSERT_OK(slot_delete(self->c.vm->fd, MEM_SLOT(0)));
		TEST_ASSERT_OK(__mem_slot(&self->c, 0, NULL));
		usleep(1000);
	}
	loop_stop_guest(&loop);
}

/* Slot, guest and device, all three. */
TEST_F_TIMEOUT(race, guest_against_slot_and_unbind, LOOP_TIMEOUT)
{
	struct loop run = {}, slot = {};
	u64 start = 0;

	while (time_is_left(&start)) {
		struct ctx c;

		ctx_clone(&c, &self->c);
		mem_add(&c, 0);
		TEST_ASSERT_OK(slot_delete(c.vm->fd, MEM_SLOT(0)));
		loop_start(&slot, &c, step_slot);
		loop_start_guest(&run, &c);
		loop_wait(&slot);
		unbind();
		rebind();
		loop_stop_guest(&run);
		loop_stop(&slot);
		ctx_free(&c);
	}
	assert_device_is_free();
}

static void *close_all(void *arg)
{
	static const enum obj order[] = { OBJ_MEM, OBJ_VCPU, OBJ_VM, OBJ_DAX };
	struct objs *o = arg;
	int i;

	for (i = 0; i < ARRAY_SIZE(order); i++)
		objs_close(o, order[i]);
	return NULL;
}

TEST_F_TIMEOUT(race, close_against_unbind, LOOP_TIMEOUT)
{
	struct objs o = { .path = self->c.path };
	int kvm_fd = open_kvm_dev_path_or_exit();
	pthread_t thread;
	u64 start = 0;

	while (time_is_left(&start)) {
		objs_open(&o, kvm_fd);
		kvm_pthread_create(&thread, NULL, close_all, &o);
		unbind();
		kvm_pthread_join(thread, NULL);
		rebind();
		TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
	}
	assert_device_is_free();
}

TEST_F_TIMEOUT(race, sigkill_against_unbind, LOOP_TIMEOUT)
{
	u64 start = 0, delay = 0;

	while (time_is_left(&start)) {
		pid_t pid = vmm_start(&self->c);
		int status;

		kill(pid, SIGKILL);
		usleep(delay += 500);
		unbind();
		TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
		rebind();
		TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
	}
	assert_device_is_free();
}

static bool step_pre_fault(struct loop *loop)
{
	u64 left;
	int r;

	r = pre_fault(loop->c->vcpu, MEM_GPA(0), SLOT_SIZE, &left);
	TEST_ASSERT(!r || r == -EFAULT, "Unexpected error %d", r);
	return true;
}

TEST_F_TIMEOUT(race, pre_fault_against_unbind, LOOP_TIMEOUT)
{
	struct loop loop = {};

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "KVM has no KVM_PRE_FAULT_MEMORY here (no two-dimensional paging)");

	mem_add(&self->c, 0);
	loop_start(&loop, &self->c, step_pre_fault);
	loop_wait(&loop);
	unbind();
	rebind();
	loop_stop(&loop);
	guest_must_fault(self->c.vcpu, MEM_GPA(0));
}

DAXFD_FIXTURE(gmem_race)
FIXTURE_VARIANT_ADD(gmem_race, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(gmem_race, create_keep) { .path = PATH_create_keep };

static bool step_hold(struct loop *loop)
{
	int r;

	r = gmem_create(loop->c->vm->fd, loop->c->path->flags,
			loop->c->dax_fd, unit_offset(0), unit_size);
	if (r == -EBUSY)
		return false;
	TEST_ASSERT(r >= 0, "Unexpected error %d", r);
	TEST_ASSERT_EQ(atomic_fetch_add(loop->holders, 1), 0);
	sched_yield();
	atomic_fetch_sub(loop->holders, 1);
	kvm_close(r);
	return true;
}

TEST_F_TIMEOUT(gmem_race, one_holder, LOOP_TIMEOUT)
{
	struct loop loops[2] = {};
	atomic_int holders = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(loops); i++) {
		loops[i].holders = &holders;
		loop_start(&loops[i], &self->c, step_hold);
	}
	usleep(LOOP_MS * 1000);
	for (i = 0; i < ARRAY_SIZE(loops); i++)
		loop_wait(&loops[i]);
	for (i = 0; i < ARRAY_SIZE(loops); i++)
		loop_stop(&loops[i]);
}

/* A claim again and again, against others who hold the range. */
static void claim_against(struct ctx *c, bool (*step)(struct loop *))
{
	u64 start = 0, nr_claims = 0;
	atomic_int holders = 0;
	struct loop loop = { .holders = &holders };

	loop_start(&loop, c, step);
	loop_wait(&loop);
	while (time_is_left(&start) || !nr_claims) {
		int fd = gmem_create(c->vm->fd, c->path->flags, c->dax_fd,
				     unit_offset(0), unit_size);

		if (fd == -EBUSY)
			continue;
		TEST_ASSERT(fd >= 0, "Unexpected error %d", fd);
		TEST_ASSERT_EQ(atomic_load(&holders), 0);
		usleep(200);
		TEST_ASSERT_EQ(atomic_load(&holders), 0);
		kvm_close(fd);
		nr_claims++;
	}
	loop_stop(&loop);
}

/* Unit 0 of the device, or NULL while it is claimed. */
static void *map_unclaimed(struct ctx *c)
{
	void *mem = mmap(NULL, unit_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			 c->dax_fd, unit_offset(0));

	if (mem != MAP_FAILED)
		return mem;
	TEST_ASSERT_EQ(errno, EBUSY);
	return NULL;
}

static bool step_mmap(struct loop *loop)
{
	void *mem = map_unclaimed(loop->c);

	if (!mem)
		return false;
	if (host_can_write(mem)) {
		atomic_fetch_add(loop->holders, 1);
		host_can_write(mem);
		atomic_fetch_sub(loop->holders, 1);
	}
	kvm_munmap(mem, unit_size);
	return true;
}

/*
 * One or the other, never both.  An mmap() that is under way while the range
 * is claimed may still succeed; what it has made is then of no use.
 */
TEST_F_TIMEOUT(gmem_race, claim_against_mmap, LOOP_TIMEOUT)
{
	claim_against(&self->c, step_mmap);
}

static bool step_map(struct loop *loop)
{
	void *mem = map_unclaimed(loop->c);

	if (!mem)
		return false;
	TEST_ASSERT(host_can_write(mem), "SIGBUS for a refused claim");
	kvm_munmap(mem, unit_size);
	return true;
}

/* A claim that is refused does nothing to whoever is the reason, or is not. */
TEST_F_TIMEOUT(gmem_race, refused_claim_against_mmap, LOOP_TIMEOUT)
{
	struct loop map = {};
	u64 start = 0;
	int fd;

	dax_dev_fill(&dax, unit_offset(0), unit_size, OLD_DATA);
	fd = pin_dax(unit_offset(0) + unit_size - page_size);
	loop_start(&map, &self->c, step_map);
	loop_wait(&map);
	while (time_is_left(&start))
		claim_must_fail(&self->c, unit_offset(0), unit_size);
	loop_wait(&map);
	loop_stop(&map);
	kvm_close(fd);
	claim_must_work(&self->c, unit_offset(0), unit_size);
}

static bool step_pin(struct loop *loop)
{
	void *mem = map_unclaimed(loop->c);
	int fd;

	if (!mem)
		return false;
	fd = try_pin(mem);
	kvm_munmap(mem, unit_size);
	if (fd < 0) {
		TEST_ASSERT_EQ(fd, -EFAULT);
		return false;
	}
	atomic_fetch_add(loop->holders, 1);
	usleep(100);
	atomic_fetch_sub(loop->holders, 1);
	kvm_close(fd);
	return true;
}

/* As above, with nothing mapped most of the time. */
TEST_F_TIMEOUT(gmem_race, claim_against_pin, LOOP_TIMEOUT)
{
	claim_against(&self->c, step_pin);
}

static bool step_punch(struct loop *loop)
{
	TEST_ASSERT_OK(punch(loop->c, SLOT_OFFSET, page_size));
	return true;
}

/* Holes in a page that the guest writes; its neighbour must not notice. */
TEST_F_TIMEOUT(gmem_race, punch_against_guest, LOOP_TIMEOUT)
{
	struct loop loop = {};
	struct runner runner;
	u64 start = 0, val;
	u64 *mem;

	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0) + 2 * page_size, GUEST_DATA);
	mem = host_map(&self->c, 0);
	runner_start(&runner, self->c.vcpu, MEM_GPA(0), 2);
	loop_start(&loop, &self->c, step_punch);
	loop_wait(&loop);
	while (time_is_left(&start)) {
		val = READ_ONCE(mem[page_size / 8]);
		TEST_ASSERT_EQ(READ_ONCE(mem[2 * page_size / 8]), GUEST_DATA);
		TEST_ASSERT(READ_ONCE(mem[page_size / 8]) >= val,
			    "The guest's write was lost");
	}
	loop_stop(&loop);
	runner_stop(&runner);
	host_unmap(&self->c, 0, mem);
}

TEST_F_TIMEOUT(gmem_race, punch_against_unbind, LOOP_TIMEOUT)
{
	u64 start = 0;

	while (time_is_left(&start)) {
		struct ctx c;
		int r;

		ctx_clone(&c, &self->c);
		mem_add(&c, 0);
		guest_write(c.vcpu, MEM_GPA(0), GUEST_DATA);
		if (!fork()) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			do {
				r = punch(&c, SLOT_OFFSET, ZERO_SIZE);
			} while (!r);
			_exit(r != -ENODEV);
		}
		usleep(2000);
		unbind();
		TEST_ASSERT(wait(&r) > 0, "wait() failed");
		TEST_ASSERT_EQ(r, 0);
		rebind();
		ctx_free(&c);
	}
	assert_device_is_free();
}

static bool step_touch(struct loop *loop)
{
	host_can_write(loop->mem + loop->rounds % 512 * page_size / 8);
	return true;
}

/* The host's faults, when the memory goes away under them. */
TEST_F_TIMEOUT(gmem_race, touch_against_unbind, LOOP_TIMEOUT)
{
	struct loop loop = {};
	u64 start = 0;

	while (time_is_left(&start)) {
		struct ctx c;

		ctx_clone(&c, &self->c);
		mem_add(&c, 0);
		loop.mem = host_map(&c, 0);
		loop_start(&loop, &c, step_touch);
		loop_wait(&loop);
		unbind();
		rebind();
		loop_stop(&loop);
		host_unmap(&c, 0, loop.mem);
		ctx_free(&c);
	}
	assert_device_is_free();
}

/*
 * Windows that CONFIG_KVM_GUEST_DAXFD_DELAY keeps open
 */

#define DELAY_MS	500

DAXFD_FIXTURE(delay)
FIXTURE_VARIANT_ADD(delay, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(delay, short) { .path = PATH_short };

static bool delay_start(struct __test_metadata *_metadata, const char *window)
{
	if (!delay_set(window, DELAY_MS))
		SKIP(return false, "The kernel lacks CONFIG_KVM_GUEST_DAXFD_DELAY");

	return true;
}

/* The VMM is killed, and unbind comes while a part of it is still there. */
static void unbind_in_window(struct ctx *c, const char *window)
{
	pid_t pid = vmm_start(c);
	int status;

	kill(pid, SIGKILL);
	usleep(DELAY_MS * 1000 / 2);
	unbind();
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	delay_set(window, 0);
	rebind();
	assert_device_is_free();
}

TEST_F(delay, unbind_while_vm_is_destroyed)
{
	if (!delay_start(_metadata, "vm_destroy"))
		return;

	unbind_in_window(&self->c, "vm_destroy");
}

TEST_F(delay, unbind_before_release)
{
	if (!delay_start(_metadata, "release"))
		return;

	unbind_in_window(&self->c, "release");
}

static void *unbind_thread(void *arg)
{
	unbind();
	return NULL;
}

/* The guest has time to touch all of its memory after it was taken away. */
TEST_F(delay, guest_runs_while_revoked)
{
	struct runner runner;

	mem_add(&self->c, 0);
	runner_start(&runner, self->c.vcpu, MEM_GPA(0), 16);
	if (!delay_start(_metadata, "zap"))
		return runner_stop(&runner);

	unbind();
	delay_set("zap", 0);
	TEST_ASSERT_ERR(runner_join(&runner), EFAULT);
	rebind();
	assert_device_is_free();
}

/* What the list of claims says of a range that a device that dies has to wipe. */
static u64 claims_list_unwiped(void)
{
	char line[512], *field;
	u64 unwiped = -1ul;
	FILE *f;

	f = fopen("/sys/kernel/debug/dax/claims", "r");
	TEST_ASSERT(f, "There is no /sys/kernel/debug/dax/claims");
	while (fgets(line, sizeof(line), f)) {
		field = strstr(line, " dead unwiped ");
		if (strstr(line, dax.name) && field)
			unwiped = strtoull(field + strlen(" dead unwiped "), NULL, 0);
	}
	fclose(f);
	return unwiped;
}

/* Memory that was taken away, and is not wiped yet, stays claimed and says so. */
TEST_F(delay, claimed_until_wiped)
{
	pthread_t thread;
	u64 touched;

	if (!has_debugfs(_metadata))
		return;

	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	touched = self->c.path->daxfd ? 0 :
		  fdinfo_number(self->c.gmem[0], "initialised");
	if (touched) {
		/* A block counts once, however often it is zeroed. */
		TEST_ASSERT_OK(punch(&self->c, SLOT_OFFSET, ZERO_SIZE));
		guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);
	}

	if (!delay_start(_metadata, "zap"))
		return;

	TEST_ASSERT(!pthread_create(&thread, NULL, unbind_thread, NULL),
		    "pthread_create() failed");
	usleep(DELAY_MS * 1000 / 2);
	TEST_ASSERT_EQ(claims_list_unwiped(), touched);
	TEST_ASSERT(!pthread_join(thread, NULL), "pthread_join() failed");
	delay_set("zap", 0);
	TEST_ASSERT_EQ(claims_list_unwiped(), -1ul);
	rebind();
}

/* Free unit n of the device while unbind is busy with a claim, then rebind. */
static void free_while_revoked(struct ctx *c, int n)
{
	pthread_t thread;

	TEST_ASSERT(!pthread_create(&thread, NULL, unbind_thread, NULL),
		    "pthread_create() failed");
	usleep(DELAY_MS * 1000 / 2);
	mem_del(c, n);
	TEST_ASSERT(!pthread_join(thread, NULL), "pthread_join() failed");
	delay_set("zap", 0);
	rebind();
}

/*
 * Unit 1 lies below unit 0 and is revoked first.  The claim of unit 0 is dead by
 * then, but its turn has not come.
 */
TEST_F(delay, freed_while_other_is_revoked)
{
	if (!has_units(_metadata, 2))
		return;

	mem_add(&self->c, 0);
	mem_add(&self->c, 1);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);

	if (!delay_start(_metadata, "zap"))
		return;

	free_while_revoked(&self->c, 0);
	if (!self->c.path->daxfd)
		dax_dev_check(&dax, slot_offset(0), page_size, 0);
	mem_del(&self->c, 1);
	assert_device_is_free();
}

/* Whether KVM still knows a VM of this process. */
static bool vm_exists(pid_t pid)
{
	char prefix[16];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(prefix, sizeof(prefix), "%d-", pid);
	dir = opendir("/sys/kernel/debug/kvm");
	TEST_ASSERT(dir, "There is no /sys/kernel/debug/kvm");
	while (!found && (entry = readdir(dir)))
		found = !strncmp(entry->d_name, prefix, strlen(prefix));
	closedir(dir);
	return found;
}

/* Revoke finds the VM alive, and has the last reference to it in the end. */
TEST_F(delay, vm_dies_while_revoked)
{
	pthread_t thread;
	pid_t pid;

	if (!has_debugfs(_metadata))
		return;

	pid = vmm_start(&self->c);
	if (!delay_start(_metadata, "zap"))
		return vmm_kill(pid);

	TEST_ASSERT(vm_exists(pid), "KVM's debugfs does not list VMs");
	TEST_ASSERT(!pthread_create(&thread, NULL, unbind_thread, NULL),
		    "pthread_create() failed");
	usleep(DELAY_MS * 1000 / 2);
	vmm_kill(pid);
	TEST_ASSERT(!pthread_join(thread, NULL), "pthread_join() failed");
	delay_set("zap", 0);

	for (int i = 0; i < 100 && vm_exists(pid); i++)
		usleep(100000);
	TEST_ASSERT(!vm_exists(pid), "The VM outlives its process");
	rebind();
	assert_device_is_free();
}

TEST_F(delay, slot_deleted_while_revoked)
{
	mem_add(&self->c, 0);
	guest_write(self->c.vcpu, MEM_GPA(0), GUEST_DATA);

	if (!delay_start(_metadata, "zap"))
		return;

	free_while_revoked(&self->c, 0);
	assert_device_is_free();
}

int main(int argc, char *argv[])
{
	const char *path = device_from_args(&argc, argv);

	require_device(path);
	use_device(path);
	return test_harness_run(argc, argv);
}
