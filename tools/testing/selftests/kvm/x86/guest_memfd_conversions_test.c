// SPDX-License-Identifier: GPL-2.0-only
/*
 * Conversion of memory between shared and private in place, that is
 * KVM_SET_MEMORY_ATTRIBUTES2 on a guest_memfd: on page cache, and on device-DAX
 * if -d or GUEST_DAXFD_DEV names a device, in units of its alignment.
 *
 * Needs kvm.gmem_in_place_conversion=1.  DESTROYS THE CONTENTS of the device.
 * Each case of fixture storm takes the time that -s gives in seconds (20).
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/kvm_para.h>
#include <linux/sizes.h>
#include <linux/stddef.h>

/* Needs stddef.h, which the tools' own linux/types.h does not include. */
#include <linux/io_uring.h>

#include "daxfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#include "kvm_test_harness.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE

/* What a file has: units of conversion, which are numbered. */
#define NR_UNITS	8
#define MIN_UNITS	4

#define LOOP_TIMEOUT	120

#define PATH_cache(f)		{ .vm_type = KVM_X86_SW_PROTECTED_VM,		\
				  .page_cache = true, .flags = (f) }
#define PATH_dax(f)		{ .vm_type = KVM_X86_SW_PROTECTED_VM,		\
				  .flags = (f) }
#define PATH_dax_keep		PATH_dax(CREATE_FLAGS | GUEST_MEMFD_FLAG_KEEP_DATA)

/*
 * A guest_memfd of as many units, all of it mapped if that can be, and a memslot
 * over all but the first one: offsets in the file and in the memslot differ.
 */
struct target {
	struct ctx c;
	u64 dev_offset;	/* on the device, if there is one */
	u64 unit;
	u64 nr;
	u64 size;
	int fd;
	char *mem;
};

static u64 *at(struct target *t, u64 offset)
{
	return (u64 *)(t->mem + offset);
}

static gpa_t gpa_of(struct target *t, u64 offset)
{
	TEST_ASSERT(offset >= t->unit && offset < t->size, "Not in the memslot");
	return MEM_GPA(0) + offset - t->unit;
}

static void target_open(struct target *t)
{
	TEST_ASSERT_OK(claim(&t->c, 0, t->c.dax_fd, t->dev_offset, t->size));
	t->fd = t->c.gmem[0];
	if (t->c.path->flags & GUEST_MEMFD_FLAG_MMAP)
		t->mem = kvm_mmap(t->size, PROT_READ | PROT_WRITE, MAP_SHARED,
				  t->fd);
}

static void target_close(struct target *t)
{
	if (t->c.path->flags & GUEST_MEMFD_FLAG_MMAP)
		kvm_munmap(t->mem, t->size);
	unclaim(&t->c, 0);
}

/* Where user space would have memory that is not in the file. */
static int add_slot_at(struct target *t, void *hva)
{
	return slot_set(t->c.vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_MEMFD, MEM_GPA(0),
			t->size - t->unit, hva, t->fd, t->unit);
}

static int add_slot(struct target *t)
{
	return add_slot_at(t, NULL);
}

/* Large pages of the guest's own, so that they need no memory. */
static void map_slot(struct target *t)
{
	virt_map_level(t->c.vm, MEM_GPA(0), MEM_GPA(0), align_up(t->size, SZ_2M),
		       PG_LEVEL_2M);
}

static const char *target_setup(struct target *t, const struct path *path)
{
	if (!path->page_cache && !have_device())
		return "No device";

	ctx_setup(&t->c, path, 2);
	t->unit = page_size;
	t->nr = NR_UNITS;
	t->size = t->nr * t->unit;
	if (!path->page_cache) {
		t->unit = dax.align;
		t->nr = min_t(u64, NR_UNITS, dax.size / dax.align);
		t->size = max_t(u64, t->nr * t->unit, MIN_UNIT);
		t->dev_offset = dax.size / 2 < t->size ? 0 : t->size;
	}
	target_open(t);
	TEST_ASSERT_OK(add_slot(t));
	map_slot(t);

	return NULL;
}

/* Another file with the same memory, once the one before is closed. */
static void target_reopen(struct target *t)
{
	target_open(t);
	TEST_ASSERT_OK(slot_delete(t->c.vm->fd, MEM_SLOT(0)));
	TEST_ASSERT_OK(add_slot(t));
}

/* What a device had before, in the first and the last page of each unit. */
static void soil_device(struct target *t)
{
	u64 i;

	if (t->c.path->page_cache)
		return;

	target_close(t);
	for (i = 0; i < t->nr; i++) {
		dax_dev_fill(&dax, t->dev_offset + i * t->unit, page_size, OLD_DATA);
		dax_dev_fill(&dax, t->dev_offset + (i + 1) * t->unit - page_size,
			     page_size, OLD_DATA);
	}
	target_reopen(t);
}

/*
 * Conversions, of @nr units from @first on, and what they lead to
 */

/* error_offset is about what is in use, and nothing else is said there. */
static int try_attributes(struct target *t, u64 first, u64 nr, u64 attributes)
{
	u64 error_offset;
	int r;

	r = __gmem_set_attributes(t->fd, first * t->unit, nr * t->unit, attributes,
				  &error_offset) ? -errno : 0;
	if (r == -EAGAIN)
		TEST_ASSERT(error_offset - first * t->unit < nr * t->unit,
			    "0x%lx is not in the range", error_offset);
	else
		TEST_ASSERT(error_offset == ~0ULL, "Error %d at 0x%lx", r,
			    error_offset);
	return r;
}

static int try_private(struct target *t, u64 first, u64 nr)
{
	return try_attributes(t, first, nr, PRIVATE);
}

static int try_shared(struct target *t, u64 first, u64 nr)
{
	return try_attributes(t, first, nr, 0);
}

static void make_private(struct target *t, u64 first, u64 nr)
{
	TEST_ASSERT_OK(try_private(t, first, nr));
}

static void make_shared(struct target *t, u64 first, u64 nr)
{
	TEST_ASSERT_OK(try_shared(t, first, nr));
}

/* The first page, one in the middle, and the last one; they may be the same. */
static u64 probe(struct target *t, u64 i, int n)
{
	const u64 probes[] = { 0, (t->unit / 2) & -page_size, t->unit - page_size };

	return i * t->unit + probes[n];
}

#define NR_PROBES	3

static void check_access(struct target *t, u64 i, bool shared)
{
	int n;

	for (n = 0; n < NR_PROBES; n++) {
		u64 offset = probe(t, i, n), val;

		TEST_ASSERT(host_access(at(t, offset), &val, false) == shared,
			    "Unit %lu (0x%lx) is %s", i, offset,
			    shared ? "private" : "shared");
		/* What stands there stays there. */
		if (!shared)
			val = HOST_DATA;
		TEST_ASSERT(host_access(at(t, offset), &val, true) == shared,
			    "Unit %lu (0x%lx) can%s be written", i, offset,
			    shared ? "not" : "");
	}
}

static void check_shared(struct target *t, u64 first, u64 nr)
{
	u64 i;

	for (i = first; i < first + nr; i++)
		check_access(t, i, true);
}

static void check_private(struct target *t, u64 first, u64 nr)
{
	u64 i;

	for (i = first; i < first + nr; i++)
		check_access(t, i, false);
}

static void check_fdinfo(struct target *t, u64 nr_private)
{
	TEST_ASSERT_EQ(fdinfo_number(t->fd, "private"), nr_private * t->unit);
	TEST_ASSERT_EQ(fdinfo_number(t->fd, "shared"),
		       t->size - nr_private * t->unit);
}

static void host_fill(struct target *t, u64 i, u64 val)
{
	int n;

	for (n = 0; n < NR_PROBES; n++)
		WRITE_ONCE(*at(t, probe(t, i, n)), val + probe(t, i, n));
}

static void host_check(struct target *t, u64 i, u64 val)
{
	int n;

	for (n = 0; n < NR_PROBES; n++)
		TEST_ASSERT_EQ(READ_ONCE(*at(t, probe(t, i, n))),
			       val + probe(t, i, n));
}

static void host_check_zero(struct target *t, u64 i)
{
	int n;

	for (n = 0; n < NR_PROBES; n++)
		TEST_ASSERT_EQ(READ_ONCE(*at(t, probe(t, i, n))), 0);
}

static void guest_fill(struct target *t, u64 i, u64 val)
{
	int n;

	for (n = 0; n < NR_PROBES; n++)
		guest_write(t->c.vcpu, gpa_of(t, probe(t, i, n)),
			    val + probe(t, i, n));
}

static void guest_check(struct target *t, u64 i, u64 val)
{
	int n;

	for (n = 0; n < NR_PROBES; n++)
		TEST_ASSERT_EQ(guest_read(t->c.vcpu, gpa_of(t, probe(t, i, n))),
			       val + probe(t, i, n));
}

static void guest_check_zero(struct target *t, u64 i)
{
	int n;

	for (n = 0; n < NR_PROBES; n++)
		TEST_ASSERT_EQ(guest_read(t->c.vcpu, gpa_of(t, probe(t, i, n))), 0);
}

/*
 * Capabilities, and who can be asked for what
 */

FIXTURE(api) {
	struct kvm_vm *vm;
	int fd;
};

FIXTURE_SETUP(api)
{
	self->vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	self->fd = vm_create_guest_memfd(self->vm, 2 * page_size, CREATE_FLAGS);
}

FIXTURE_TEARDOWN(api)
{
	kvm_close(self->fd);
	kvm_vm_free(self->vm);
}

TEST_F(api, numbers)
{
	TEST_ASSERT_EQ(KVM_SET_MEMORY_ATTRIBUTES2, 0xc080aed2);
	TEST_ASSERT_EQ(sizeof(struct kvm_memory_attributes2), 128);
	TEST_ASSERT_EQ(offsetof(struct kvm_memory_attributes2, address), 0);
	TEST_ASSERT_EQ(offsetof(struct kvm_memory_attributes2, offset), 0);
	TEST_ASSERT_EQ(offsetof(struct kvm_memory_attributes2, size), 8);
	TEST_ASSERT_EQ(offsetof(struct kvm_memory_attributes2, attributes), 16);
	TEST_ASSERT_EQ(offsetof(struct kvm_memory_attributes2, flags), 24);
	TEST_ASSERT_EQ(offsetof(struct kvm_memory_attributes2, error_offset), 32);
	TEST_ASSERT_EQ(offsetof(struct kvm_memory_attributes2, reserved), 40);
}

TEST_F(api, capabilities)
{
	struct kvm_vm *vm = vm_create_barebones();

	TEST_ASSERT_EQ(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), PRIVATE);
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES),
		       PRIVATE);
	TEST_ASSERT_EQ(vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), 0);

	/* It is the one or the other. */
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_MEMORY_ATTRIBUTES), 0);
	TEST_ASSERT_EQ(vm_check_cap(vm, KVM_CAP_MEMORY_ATTRIBUTES), 0);
	TEST_ASSERT(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS) &
		    GUEST_MEMFD_FLAG_INIT_SHARED, "No INIT_SHARED");
	kvm_vm_free(vm);
}

TEST_F(api, other_files)
{
	struct kvm_memory_attributes2 attr2 = {
		.size = page_size, .attributes = PRIVATE,
	};
	struct kvm_memory_attributes attr = {
		.size = page_size, .attributes = PRIVATE,
	};

	TEST_ASSERT_EQ(ioctl(self->vm->fd, KVM_SET_MEMORY_ATTRIBUTES, &attr), -1);
	TEST_ASSERT_EQ(errno, ENOTTY);
	attr.attributes = 0;
	TEST_ASSERT_EQ(ioctl(self->vm->fd, KVM_SET_MEMORY_ATTRIBUTES, &attr), -1);
	TEST_ASSERT_EQ(errno, ENOTTY);
	TEST_ASSERT_EQ(ioctl(self->vm->fd, KVM_SET_MEMORY_ATTRIBUTES2, &attr2), -1);
	TEST_ASSERT_EQ(errno, ENOTTY);
	TEST_ASSERT_EQ(ioctl(self->vm->kvm_fd, KVM_SET_MEMORY_ATTRIBUTES2, &attr2), -1);
}

TEST_F(api, other_ioctls)
{
	struct kvm_memory_attributes attr = {
		.size = page_size, .attributes = PRIVATE,
	};

	TEST_ASSERT_EQ(ioctl(self->fd, KVM_SET_MEMORY_ATTRIBUTES, &attr), -1);
	TEST_ASSERT_EQ(errno, ENOTTY);
	TEST_ASSERT_EQ(ioctl(self->fd, KVM_CREATE_VM, 0), -1);
	TEST_ASSERT_EQ(errno, ENOTTY);
	TEST_ASSERT_EQ(fdinfo_number(self->fd, "private"), 0);
}

/* No VM without private memory, whatever the arguments are. */
TEST_F(api, vm_without_private_memory)
{
	struct kvm_vm *vm = vm_create_barebones();
	int fd = vm_create_guest_memfd(vm, page_size, CREATE_FLAGS);

	TEST_ASSERT_EQ(__gmem_set_private(fd, 0, page_size, NULL), -1);
	TEST_ASSERT_EQ(errno, EINVAL);
	/* Not even what it is already. */
	TEST_ASSERT_EQ(__gmem_set_shared(fd, 0, page_size, NULL), -1);
	TEST_ASSERT_EQ(errno, EINVAL);
	kvm_close(fd);
	kvm_vm_free(vm);
}

/*
 * Arguments
 */

TARGET_FIXTURE(args)
FIXTURE_VARIANT_ADD(args, page_cache) { .path = PATH_cache(CREATE_FLAGS) };
FIXTURE_VARIANT_ADD(args, create) { .path = PATH_dax(CREATE_FLAGS) };
FIXTURE_VARIANT_ADD(args, create_keep) { .path = PATH_dax_keep };

/* A request that is wrong changes nothing, not even itself. */
static void check_invalid(struct target *t, const struct kvm_memory_attributes2 *bad)
{
	struct kvm_memory_attributes2 attr = *bad;
	int r;

	attr.error_offset = 0x1234;
	r = ioctl(t->fd, KVM_SET_MEMORY_ATTRIBUTES2, &attr) ? -errno : 0;
	TEST_ASSERT(r == -EINVAL, "0x%llx + 0x%llx to 0x%llx, flags 0x%llx: got %d",
		    bad->offset, bad->size, bad->attributes, bad->flags, r);
	TEST_ASSERT_EQ(attr.error_offset, 0x1234);
	attr.error_offset = bad->error_offset;
	TEST_ASSERT(!memcmp(&attr, bad, sizeof(attr)), "The request was changed");
}

static struct kvm_memory_attributes2 good_request(struct target *t)
{
	return (struct kvm_memory_attributes2) {
		.offset = t->unit,
		.size = t->unit,
		.attributes = PRIVATE,
	};
}

TEST_F(args, flags)
{
	struct kvm_memory_attributes2 attr;
	int i;

	for (i = 0; i < 64; i++) {
		attr = good_request(&self->t);
		attr.flags = 1ULL << i;
		check_invalid(&self->t, &attr);
	}
	check_fdinfo(&self->t, 0);
}

TEST_F(args, reserved)
{
	struct kvm_memory_attributes2 attr;
	int i;

	for (i = 0; i < ARRAY_SIZE(attr.reserved); i++) {
		attr = good_request(&self->t);
		attr.reserved[i] = 1;
		check_invalid(&self->t, &attr);
		attr.reserved[i] = 1ULL << 63;
		check_invalid(&self->t, &attr);
	}
	check_fdinfo(&self->t, 0);
}

TEST_F(args, attributes)
{
	struct kvm_memory_attributes2 attr;
	int i;

	for (i = 0; i < 64; i++) {
		if (1ULL << i == PRIVATE)
			continue;
		attr = good_request(&self->t);
		attr.attributes = 1ULL << i;
		check_invalid(&self->t, &attr);
		attr.attributes |= PRIVATE;
		check_invalid(&self->t, &attr);
	}
	check_fdinfo(&self->t, 0);
}

static void check_ranges(struct target *t)
{
	const u64 unit = t->unit, size = t->size;
	const struct {
		u64 offset, size;
	} bad[] = {
		{ 0, 0 }, { unit, 0 }, { size, 0 },
		{ 0, 1 }, { 1, unit }, { 1, unit - 1 }, { 0, unit - 1 },
		{ 0, unit + 1 }, { unit - 1, 1 }, { unit / 2, unit },
		{ unit / 2, unit / 2 }, { 0, unit / 2 }, { 0, unit + unit / 2 },
		{ unit / 2, 2 * unit },
		{ size, unit }, { size + unit, unit }, { 0, size + unit },
		{ unit, size }, { size - unit, 2 * unit },
		{ -unit, unit }, { -unit, 2 * unit }, { unit, -unit },
		{ 0, -unit }, { 1ULL << 63, unit }, { unit, 1ULL << 63 },
	};
	struct kvm_memory_attributes2 attr = {};
	int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		attr.offset = bad[i].offset;
		attr.size = bad[i].size;
		attr.attributes = PRIVATE;
		check_invalid(t, &attr);
		/* Nor if there is nothing to do. */
		attr.attributes = 0;
		check_invalid(t, &attr);
	}
}

TEST_F(args, ranges)
{
	struct target *t = &self->t;

	host_fill(t, 1, HOST_DATA);
	check_ranges(t);
	check_fdinfo(t, 0);
	check_shared(t, 0, t->nr);

	make_private(t, 0, 1);
	check_ranges(t);
	check_fdinfo(t, 1);
	check_private(t, 0, 1);
	check_shared(t, 1, t->nr - 1);
	host_check(t, 1, HOST_DATA);
}

/* A device of large pages is converted by them, and not by pages of 4K. */
TEST_F(args, page_of_a_unit)
{
	struct target *t = &self->t;
	int err = t->unit == page_size ? 0 : EINVAL;

	TEST_ASSERT_ERR(__gmem_set_private(t->fd, t->unit, page_size, NULL) ?
			-errno : 0, err);
	TEST_ASSERT_ERR(__gmem_set_private(t->fd, 2 * t->unit - page_size,
					   page_size, NULL) ? -errno : 0, err);
	check_fdinfo(t, err ? 0 : 1);
}

TEST_F(args, bad_address)
{
	struct kvm_memory_attributes2 *attr;
	struct target *t = &self->t;
	char *page;

	page = kvm_mmap(2 * page_size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1);
	TEST_ASSERT(!mprotect(page + page_size, page_size, PROT_NONE),
		    "mprotect() failed");
	/* Its last bytes are nowhere. */
	attr = (void *)(page + page_size - sizeof(*attr) + 8);
	attr->offset = 0;
	attr->size = t->unit;
	attr->attributes = PRIVATE;
	attr->flags = 0;

	TEST_ASSERT_EQ(ioctl(t->fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL), -1);
	TEST_ASSERT_EQ(errno, EFAULT);
	TEST_ASSERT_EQ(ioctl(t->fd, KVM_SET_MEMORY_ATTRIBUTES2, page + page_size), -1);
	TEST_ASSERT_EQ(errno, EFAULT);
	TEST_ASSERT_EQ(ioctl(t->fd, KVM_SET_MEMORY_ATTRIBUTES2, attr), -1);
	TEST_ASSERT_EQ(errno, EFAULT);
	check_fdinfo(t, 0);
}

/* What is not written to can be read-only: a request that is granted, or invalid. */
TEST_F(args, read_only)
{
	struct kvm_memory_attributes2 *attr;
	struct target *t = &self->t;
	int fd;

	attr = kvm_mmap(page_size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1);
	*attr = good_request(t);
	TEST_ASSERT(!mprotect(attr, page_size, PROT_READ), "mprotect() failed");
	TEST_ASSERT_EQ(ioctl(t->fd, KVM_SET_MEMORY_ATTRIBUTES2, attr), 0);
	check_fdinfo(t, 1);
	make_shared(t, 1, 1);

	TEST_ASSERT(!mprotect(attr, page_size, PROT_READ | PROT_WRITE),
		    "mprotect() failed");
	attr->size++;
	TEST_ASSERT(!mprotect(attr, page_size, PROT_READ), "mprotect() failed");
	TEST_ASSERT_EQ(ioctl(t->fd, KVM_SET_MEMORY_ATTRIBUTES2, attr), -1);
	TEST_ASSERT_EQ(errno, EINVAL);
	TEST_ASSERT(!mprotect(attr, page_size, PROT_READ | PROT_WRITE),
		    "mprotect() failed");
	attr->size--;
	TEST_ASSERT(!mprotect(attr, page_size, PROT_READ), "mprotect() failed");

	host_fill(t, 1, HOST_DATA);
	fd = pin(at(t, t->unit));
	TEST_ASSERT_EQ(ioctl(t->fd, KVM_SET_MEMORY_ATTRIBUTES2, attr), -1);
	TEST_ASSERT_EQ(errno, EFAULT);
	check_fdinfo(t, 0);
	host_check(t, 1, HOST_DATA);
	kvm_close(fd);
}

/*
 * What memory is, and what is in it
 */

TARGET_FIXTURE(data)
FIXTURE_VARIANT_ADD(data, page_cache) { .path = PATH_cache(CREATE_FLAGS) };
FIXTURE_VARIANT_ADD(data, create) { .path = PATH_dax(CREATE_FLAGS) };
FIXTURE_VARIANT_ADD(data, create_keep) { .path = PATH_dax_keep };

/* There and back, whoever wrote last; what was there stays there. */
static void check_round_trip(struct target *t, u64 i)
{
	host_fill(t, i, HOST_DATA);
	guest_check(t, i, HOST_DATA);
	guest_fill(t, i, GUEST_DATA);
	host_check(t, i, GUEST_DATA);

	make_private(t, i, 1);
	check_private(t, i, 1);
	guest_check(t, i, GUEST_DATA);
	guest_fill(t, i, ~GUEST_DATA);
	check_private(t, i, 1);

	make_shared(t, i, 1);
	host_check(t, i, ~GUEST_DATA);
	host_fill(t, i, ~HOST_DATA);
	guest_check(t, i, ~HOST_DATA);
}

TEST_F(data, init_shared)
{
	struct target *t = &self->t;

	check_fdinfo(t, 0);
	TEST_ASSERT_EQ(fdinfo_number(t->fd, "granularity"), t->unit);
	check_shared(t, 0, t->nr);
	check_round_trip(t, 1);
	check_round_trip(t, t->nr - 1);
	check_round_trip(t, 1);
	check_fdinfo(t, 0);
}

/* Each one, and no other. */
TEST_F(data, indexing)
{
	struct target *t = &self->t;
	u64 i;

	for (i = 0; i < t->nr; i++)
		host_fill(t, i, HOST_DATA);
	for (i = 0; i < t->nr; i++) {
		make_private(t, i, 1);
		check_shared(t, 0, i);
		check_private(t, i, 1);
		check_shared(t, i + 1, t->nr - i - 1);
		check_fdinfo(t, 1);
		make_shared(t, i, 1);
	}
	for (i = 0; i < t->nr; i++) {
		make_private(t, 0, t->nr);
		make_shared(t, i, 1);
		check_private(t, 0, i);
		check_shared(t, i, 1);
		check_private(t, i + 1, t->nr - i - 1);
		check_fdinfo(t, t->nr - 1);
		make_shared(t, 0, t->nr);
	}
	for (i = 0; i < t->nr; i++)
		host_check(t, i, HOST_DATA);
}

/* All ranges over a file in which every other one is private. */
TEST_F(data, ranges)
{
	struct target *t = &self->t;
	u64 first, nr, i;

	for (first = 0; first < t->nr; first++) {
		for (nr = 1; nr <= t->nr - first; nr++) {
			bool private = (first + nr) % 2;

			for (i = 0; i < t->nr; i += 2)
				make_private(t, i, 1);
			for (i = 1; i < t->nr; i += 2)
				make_shared(t, i, 1);
			if (private)
				make_private(t, first, nr);
			else
				make_shared(t, first, nr);
			for (i = 0; i < t->nr; i++) {
				bool in = i >= first && i < first + nr;

				TEST_ASSERT(host_can_read(at(t, i * t->unit)) ==
					    (in ? !private : i % 2),
					    "Unit %lu after unit %lu + %lu",
					    i, first, nr);
			}
		}
	}
}

TEST_F(data, before_allocation)
{
	struct target *t = &self->t;

	make_private(t, 1, 1);
	guest_fill(t, 1, GUEST_DATA);
	check_private(t, 1, 1);
	make_shared(t, 1, 1);
	host_check(t, 1, GUEST_DATA);

	make_private(t, 2, t->nr - 2);
	make_shared(t, 2, t->nr - 2);
	host_fill(t, t->nr - 1, HOST_DATA);
	guest_check(t, t->nr - 1, HOST_DATA);
}

/* Over memory that is there, and memory that is not. */
TEST_F(data, unallocated)
{
	struct target *t = &self->t;
	u64 i;

	for (i = 0; i < t->nr; i += 2)
		host_fill(t, i, HOST_DATA);
	make_private(t, 0, t->nr);
	check_private(t, 0, t->nr);
	for (i = 1; i < t->nr; i += 4)
		guest_fill(t, i, GUEST_DATA);
	make_shared(t, 0, t->nr);
	for (i = 0; i < t->nr; i += 2)
		host_check(t, i, HOST_DATA);
	for (i = 1; i < t->nr; i += 4)
		host_check(t, i, GUEST_DATA);
}

TEST_F(data, holes)
{
	struct target *t = &self->t;
	u64 unit = t->unit;

	host_fill(t, 0, HOST_DATA);
	host_fill(t, 1, HOST_DATA);
	make_private(t, 1, 1);
	TEST_ASSERT_OK(punch(&t->c, 0, 2 * unit));
	check_fdinfo(t, 1);
	check_shared(t, 0, 1);
	check_private(t, 1, 1);
	host_check_zero(t, 0);
	guest_check_zero(t, 1);

	/* A part of a unit. */
	guest_fill(t, 1, GUEST_DATA);
	TEST_ASSERT_OK(punch(&t->c, unit, page_size));
	check_private(t, 1, 1);
	TEST_ASSERT_EQ(guest_read(t->c.vcpu, gpa_of(t, unit)), 0);
	make_shared(t, 1, 1);
	TEST_ASSERT_EQ(*at(t, unit), 0);
	if (unit > page_size)
		TEST_ASSERT_EQ(*at(t, 2 * unit - page_size),
			       GUEST_DATA + 2 * unit - page_size);

	/* Nothing was kept for later. */
	make_private(t, 1, 1);
	TEST_ASSERT_OK(punch(&t->c, unit, unit));
	make_shared(t, 1, 1);
	host_check_zero(t, 1);
}

TEST_F(data, allocate)
{
	struct target *t = &self->t;

	make_private(t, 1, 1);
	TEST_ASSERT_OK(do_fallocate(t->fd, FALLOC_FL_KEEP_SIZE, 0, t->size));
	check_fdinfo(t, 1);
	check_private(t, 1, 1);
	check_shared(t, 2, t->nr - 2);
}

static long nr_faults(void)
{
	struct rusage usage;

	TEST_ASSERT(!getrusage(RUSAGE_SELF, &usage), "getrusage() failed");
	return usage.ru_minflt;
}

/* What is mapped beside it stays there: pages, and the PMDs of large units. */
TEST_F(data, siblings)
{
	struct target *t = &self->t;
	long faults = nr_faults();
	u64 i, offset;

	for (offset = 0; offset < t->nr * t->unit; offset += t->unit / 2)
		*at(t, offset) = HOST_DATA + offset;
	if (t->unit == SZ_2M && thp_is_on())
		TEST_ASSERT(nr_faults() - faults < 2 * t->nr, "No PMDs");
	for (i = 0; i < t->nr; i++) {
		make_private(t, i, 1);
		for (offset = 0; offset < t->nr * t->unit; offset += t->unit / 2) {
			if (offset / t->unit <= i)
				TEST_ASSERT(!host_can_read(at(t, offset)),
					    "A read at 0x%lx", offset);
			else
				TEST_ASSERT_EQ(*at(t, offset), HOST_DATA + offset);
		}
	}
}

TEST_F(data, all_mappings)
{
	struct target *t = &self->t;
	u64 *other, *page;
	int fd;

	fd = kvm_dup(t->fd);
	other = kvm_mmap(t->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	page = __kvm_mmap(page_size, PROT_READ, MAP_SHARED, fd, t->unit);
	host_fill(t, 1, HOST_DATA);
	TEST_ASSERT_EQ(other[t->unit / 8], HOST_DATA + t->unit);
	TEST_ASSERT_EQ(*page, HOST_DATA + t->unit);
	make_private(t, 1, 1);
	TEST_ASSERT(!host_can_read(&other[t->unit / 8]), "A read of private memory");
	TEST_ASSERT(!host_can_read(page), "A read of private memory");
	TEST_ASSERT(host_can_read(other), "No read of shared memory");
	/* A new one is no better. */
	kvm_munmap(page, page_size);
	page = __kvm_mmap(page_size, PROT_READ, MAP_SHARED, fd, t->unit);
	TEST_ASSERT(!host_can_read(page), "A read of private memory");
	make_shared(t, 1, 1);
	TEST_ASSERT_EQ(*page, HOST_DATA + t->unit);
	kvm_munmap(page, page_size);
	kvm_munmap(other, t->size);
	kvm_close(fd);
}

/* The kernel's own ways to user memory are no way to private memory. */
TEST_F(data, no_other_way)
{
	struct target *t = &self->t;
	u64 val, *mem = at(t, t->unit);
	struct iovec local = { .iov_base = &val, .iov_len = sizeof(val) };
	struct iovec remote = { .iov_base = mem, .iov_len = sizeof(val) };
	int fds[2];

	host_fill(t, 1, HOST_DATA);
	TEST_ASSERT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0),
		       sizeof(val));
	make_private(t, 1, 1);
	TEST_ASSERT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), -1);
	TEST_ASSERT_EQ(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), -1);
	TEST_ASSERT_ERR(try_pin(mem), EFAULT);
	TEST_ASSERT(!pipe(fds), "pipe() failed");
	TEST_ASSERT_EQ(write(fds[1], mem, sizeof(val)), -1);
	TEST_ASSERT_EQ(errno, EFAULT);
	TEST_ASSERT_EQ(write(fds[1], &val, sizeof(val)), sizeof(val));
	TEST_ASSERT_EQ(read(fds[0], mem, sizeof(val)), -1);
	TEST_ASSERT_EQ(errno, EFAULT);
	guest_check(t, 1, HOST_DATA);
}

TEST_F(data, forked)
{
	struct target *t = &self->t;
	int up[2], down[2], status;
	char c = 0;
	pid_t pid;

	TEST_ASSERT(!pipe(up) && !pipe(down), "pipe() failed");
	host_fill(t, 1, HOST_DATA);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		host_check(t, 1, HOST_DATA);
		TEST_ASSERT_EQ(write(up[1], &c, 1), 1);
		TEST_ASSERT_EQ(read(down[0], &c, 1), 1);
		check_private(t, 1, 1);
		check_shared(t, 2, t->nr - 2);
		TEST_ASSERT_EQ(write(up[1], &c, 1), 1);
		TEST_ASSERT_EQ(read(down[0], &c, 1), 1);
		host_check(t, 1, HOST_DATA);
		_exit(0);
	}
	TEST_ASSERT_EQ(read(up[0], &c, 1), 1);
	make_private(t, 1, 1);
	check_private(t, 1, 1);
	TEST_ASSERT_EQ(write(down[1], &c, 1), 1);
	TEST_ASSERT_EQ(read(up[0], &c, 1), 1);
	make_shared(t, 1, 1);
	TEST_ASSERT_EQ(write(down[1], &c, 1), 1);
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT(WIFEXITED(status) && !WEXITSTATUS(status), "The child failed: 0x%x",
		    status);
}

/* References that wait in some CPU's list for the LRU, and mean nothing. */
TEST_F(data, locked)
{
	struct target *t = &self->t;
	int i;

	for (i = 0; i < 20; i++) {
		TEST_ASSERT(!mlock(at(t, t->unit), t->unit), "mlock() failed");
		host_fill(t, 1, HOST_DATA);
		make_private(t, 1, 1);
		check_private(t, 1, 1);
		TEST_ASSERT(!munlock(at(t, t->unit), t->unit), "munlock() failed");
		make_shared(t, 1, 1);
		host_check(t, 1, HOST_DATA);
	}
}

/* Two CPUs that the test may use; false if there is but one. */
static bool two_cpus(int cpus[2])
{
	cpu_set_t set;
	int i, nr = 0;

	TEST_ASSERT(!sched_getaffinity(0, sizeof(set), &set),
		    "sched_getaffinity() failed");
	for (i = 0; i < CPU_SETSIZE && nr < 2; i++) {
		if (CPU_ISSET(i, &set))
			cpus[nr++] = i;
	}
	return nr == 2;
}

struct filler {
	struct target *t;
	u64 unit;
	int cpu;
};

static void *fill_thread(void *arg)
{
	struct filler *filler = arg;

	pin_self_to_cpu(filler->cpu);
	host_fill(filler->t, filler->unit, HOST_DATA);
	return NULL;
}

/* As above, but the list is that of a CPU which the converter is not on. */
TEST_F(data, filled_elsewhere)
{
	struct filler filler = { .t = &self->t };
	struct target *t = &self->t;
	pthread_t thread;
	int cpus[2];

	if (!two_cpus(cpus))
		SKIP(return, "There is one CPU only");

	pin_self_to_cpu(cpus[0]);
	filler.cpu = cpus[1];
	/* The list may be full, and empty, after one of them. */
	for (filler.unit = 0; filler.unit < t->nr; filler.unit++) {
		kvm_pthread_create(&thread, NULL, fill_thread, &filler);
		kvm_pthread_join(thread, NULL);
		make_private(t, filler.unit, 1);
	}
	make_shared(t, 0, t->nr);
	host_check(t, 1, HOST_DATA);
}

/* It is the file that knows, not the memslot. */
TEST_F(data, slots_come_and_go)
{
	struct target *t = &self->t;
	int vm_fd = t->c.vm->fd;

	guest_fill(t, 1, GUEST_DATA);
	make_private(t, 1, 1);
	TEST_ASSERT_OK(slot_delete(vm_fd, MEM_SLOT(0)));
	check_private(t, 1, 1);
	make_private(t, 2, 1);
	make_shared(t, 1, 1);
	host_check(t, 1, GUEST_DATA);
	make_private(t, 1, 1);
	TEST_ASSERT_OK(add_slot(t));
	check_private(t, 1, 2);
	guest_check(t, 1, GUEST_DATA);
	make_shared(t, 1, 2);
	host_check(t, 1, GUEST_DATA);
}

TEST_F(data, pre_fault)
{
	struct target *t = &self->t;
	u64 left;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "KVM has no KVM_PRE_FAULT_MEMORY here");

	host_fill(t, 1, HOST_DATA);
	make_private(t, 2, 1);
	TEST_ASSERT_OK(pre_fault(t->c.vcpu, MEM_GPA(0), t->size - t->unit, &left));
	TEST_ASSERT_EQ(left, 0);
	guest_check(t, 1, HOST_DATA);
	check_private(t, 2, 1);
}

/* A guest finds the memory that there is now, and not the device that was not. */
TEST_F(data, where_there_was_nothing)
{
	struct target *t = &self->t;
	struct kvm_vcpu *vcpu = t->c.vcpu;

	host_fill(t, 1, HOST_DATA);
	make_private(t, 1, 1);
	TEST_ASSERT_OK(slot_delete(t->c.vm->fd, MEM_SLOT(0)));
	guest_prepare(vcpu, GUEST_READ, gpa_of(t, t->unit), 0, 1);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT_EQ(vcpu->run->mmio.phys_addr, gpa_of(t, t->unit));
	TEST_ASSERT_OK(guest_run(vcpu));

	TEST_ASSERT_OK(add_slot(t));
	guest_check(t, 1, HOST_DATA);
}

#define MEET_MS	2000

static bool step_convert(struct loop *loop)
{
	struct target *t = container_of(loop->c, struct target, c);
	int r;

	/* For a moment, a fault of the guest has the page. */
	do {
		r = try_private(t, 1, 2);
	} while (r == -EAGAIN);
	TEST_ASSERT_OK(r);
	make_shared(t, 1, 2);
	return true;
}

/* Whatever it is, the guest accesses it as what it is, and goes on. */
TEST_F(data, fault_meets_conversion)
{
	struct target *t = &self->t;
	struct runner runners[2];
	struct loop loop = {};
	int i;

	for (i = 0; i < 2; i++)
		runner_start(&runners[i], t->c.vcpus[i], gpa_of(t, t->unit) + i * 8, 2);
	loop_start(&loop, &t->c, step_convert);
	usleep(MEET_MS * 1000);
	loop_stop(&loop);
	for (i = 0; i < 2; i++) {
		runner_stop(&runners[i]);
		TEST_ASSERT_EQ(at(t, t->unit)[i], guest_cmd(t->c.vcpus[i])->rounds - 1);
	}
}

TEST_F(data, pre_fault_meets_conversion)
{
	struct target *t = &self->t;
	struct loop loop = {};
	u64 start, left;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "KVM has no KVM_PRE_FAULT_MEMORY here");

	loop_start(&loop, &t->c, step_convert);
	for (start = now_ms(); now_ms() - start < MEET_MS; )
		TEST_ASSERT_OK(pre_fault(t->c.vcpu, gpa_of(t, t->unit),
					 2 * t->unit, &left));
	loop_stop(&loop);
}

static u64 nr_guest_faults(struct target *t)
{
	return vcpu_get_stat(t->c.vcpu, pf_fixed);
}

/* Where there is nothing to do, nothing is unmapped. */
TEST_F(data, nothing_to_do)
{
	struct target *t = &self->t;
	u64 guest_faults;
	long faults;

	host_fill(t, 1, HOST_DATA);
	guest_check(t, 1, HOST_DATA);
	guest_faults = nr_guest_faults(t);
	make_shared(t, 1, 1);
	faults = nr_faults();
	make_shared(t, 1, 1);
	READ_ONCE(*at(t, t->unit));
	TEST_ASSERT_EQ(nr_faults(), faults);
	guest_check(t, 1, HOST_DATA);
	TEST_ASSERT_EQ(nr_guest_faults(t), guest_faults);

	make_private(t, 1, 1);
	guest_check(t, 1, HOST_DATA);
	/* This was a conversion. */
	TEST_ASSERT(nr_guest_faults(t) > guest_faults, "It is still mapped");
	guest_faults = nr_guest_faults(t);
	make_private(t, 1, 1);
	guest_check(t, 1, HOST_DATA);
	TEST_ASSERT_EQ(nr_guest_faults(t), guest_faults);

	make_shared(t, 1, 1);
	guest_check(t, 1, HOST_DATA);
	TEST_ASSERT(nr_guest_faults(t) > guest_faults, "It is still mapped");
}

static void guest_convert(struct guest_cmd *cmd)
{
	kvm_hypercall_map_gpa_range(cmd->gpa, cmd->nr_pages * cmd->page_size,
				    cmd->val);
}

/* The guest asks, and the VMM does what it asks for. */
static void convert_for_guest(struct target *t, u64 i, bool private)
{
	struct kvm_vcpu *vcpu = t->c.vcpu;
	struct kvm_run *run = vcpu->run;
	u64 offset, size;

	guest_prepare(vcpu, GUEST_CALL, gpa_of(t, i * t->unit),
		      private ? KVM_MAP_GPA_RANGE_ENCRYPTED :
				KVM_MAP_GPA_RANGE_DECRYPTED, t->unit / page_size);
	guest_cmd(vcpu)->fn = guest_convert;
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_HYPERCALL);
	TEST_ASSERT_EQ(run->hypercall.nr, KVM_HC_MAP_GPA_RANGE);
	offset = run->hypercall.args[0] - MEM_GPA(0) + t->unit;
	size = run->hypercall.args[1] * page_size;
	if (run->hypercall.args[2] & KVM_MAP_GPA_RANGE_ENCRYPTED)
		gmem_set_private(t->fd, offset, size);
	else
		gmem_set_shared(t->fd, offset, size);
	run->hypercall.ret = 0;
	TEST_ASSERT_OK(guest_run(vcpu));
}

TEST_F(data, hypercall)
{
	struct target *t = &self->t;

	vm_enable_cap(t->c.vm, KVM_CAP_EXIT_HYPERCALL, 1 << KVM_HC_MAP_GPA_RANGE);
	host_fill(t, 1, HOST_DATA);
	convert_for_guest(t, 1, true);
	check_private(t, 1, 1);
	guest_check(t, 1, HOST_DATA);
	guest_fill(t, 1, GUEST_DATA);
	convert_for_guest(t, 1, false);
	host_check(t, 1, GUEST_DATA);
	convert_for_guest(t, 1, true);
	check_private(t, 1, 1);
}

/*
 * A memslot without a user mapping has none at 0, either: what the process has
 * there is none of the guest's.  String I/O is emulated, KVM itself reads it.
 */
TEST_F(data, no_user_mapping)
{
	struct target *t = &self->t;
	struct kvm_vcpu *vcpu = t->c.vcpu;
	const gpa_t gpa = gpa_of(t, 2 * t->unit);
	void *low = (void *)t->unit;

	TEST_ASSERT(mmap(low, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE |
			 MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == low,
		    "Mapping address %p failed", low);
	memset(low, 0xaa, page_size);
	guest_write(vcpu, gpa, GUEST_DATA);
	guest_prepare(vcpu, GUEST_OUTS, gpa, 0, 1);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT_EQ(vcpu->run->mmio.phys_addr, gpa);
	TEST_ASSERT(!vcpu->run->mmio.is_write, "Expected a read");
	kvm_munmap(low, page_size);
}

/*
 * Memory that is private at first
 */

TARGET_FIXTURE(private)
FIXTURE_VARIANT_ADD(private, page_cache) { .path = PATH_cache(GUEST_MEMFD_FLAG_MMAP) };
FIXTURE_VARIANT_ADD(private, create) { .path = PATH_dax(GUEST_MEMFD_FLAG_MMAP) };

TEST_F(private, init_private)
{
	struct target *t = &self->t;

	TEST_ASSERT_EQ(fdinfo_number(t->fd, "private"), t->size);
	TEST_ASSERT_EQ(fdinfo_number(t->fd, "shared"), 0);
	check_private(t, 0, t->nr);
	guest_fill(t, 1, GUEST_DATA);
	check_private(t, 0, t->nr);

	make_shared(t, 1, 1);
	check_private(t, 0, 1);
	check_private(t, 2, t->nr - 2);
	host_check(t, 1, GUEST_DATA);
	check_round_trip(t, 1);

	make_private(t, 1, 1);
	TEST_ASSERT_EQ(fdinfo_number(t->fd, "private"), t->size);
	check_private(t, 0, t->nr);
	guest_check(t, 1, ~HOST_DATA);
}

TEST_F(private, before_allocation)
{
	struct target *t = &self->t;
	u64 i;

	make_shared(t, 1, 1);
	check_private(t, 0, 1);
	check_private(t, 2, t->nr - 2);
	host_check_zero(t, 1);
	host_fill(t, 1, HOST_DATA);
	guest_check(t, 1, HOST_DATA);
	make_private(t, 1, 1);
	check_private(t, 0, t->nr);
	guest_check(t, 1, HOST_DATA);

	make_shared(t, 0, t->nr);
	for (i = 2; i < t->nr; i++)
		host_check_zero(t, i);
}

/* What was on the device before is nobody's business, whoever comes first. */
TEST_F(private, shows_no_old_data)
{
	struct target *t = &self->t;
	u64 i, j;

	soil_device(t);
	guest_write(t->c.vcpu, gpa_of(t, t->unit) + 8, GUEST_DATA);
	make_shared(t, 0, t->nr);
	for (i = 0; i < t->nr; i++) {
		u64 *first = at(t, i * t->unit);
		u64 *last = at(t, (i + 1) * t->unit - page_size);

		for (j = 0; j < page_size / 8; j++) {
			TEST_ASSERT_EQ(first[j], i == 1 && j == 1 ? GUEST_DATA : 0);
			if (first != last)
				TEST_ASSERT_EQ(last[j], 0);
		}
	}
}

TEST_F(private, two_vcpus)
{
	struct target *t = &self->t;

	guest_fill(t, 1, GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(t->c.vcpus[1], gpa_of(t, t->unit)),
		       GUEST_DATA + t->unit);
	make_shared(t, 1, 1);
	TEST_ASSERT_EQ(guest_read(t->c.vcpus[1], gpa_of(t, t->unit)),
		       GUEST_DATA + t->unit);
	host_check(t, 1, GUEST_DATA);
}

/*
 * Memory that somebody holds
 */

TARGET_FIXTURE(pins)
FIXTURE_VARIANT_ADD(pins, page_cache) { .path = PATH_cache(CREATE_FLAGS) };
FIXTURE_VARIANT_ADD(pins, create) { .path = PATH_dax(CREATE_FLAGS) };
FIXTURE_VARIANT_ADD(pins, create_keep) { .path = PATH_dax_keep };

static void check_in_use(struct target *t, u64 first, u64 nr, u64 pinned)
{
	struct kvm_memory_attributes2 attr = {
		.offset = first * t->unit,
		.size = nr * t->unit,
		.attributes = PRIVATE,
		/* It need not be anything in particular. */
		.error_offset = 0x5a5a,
	};
	struct kvm_memory_attributes2 old = attr;

	TEST_ASSERT_EQ(ioctl(t->fd, KVM_SET_MEMORY_ATTRIBUTES2, &attr), -1);
	TEST_ASSERT_EQ(errno, EAGAIN);
	TEST_ASSERT_EQ(attr.error_offset, pinned * t->unit);
	attr.error_offset = old.error_offset;
	TEST_ASSERT(!memcmp(&attr, &old, sizeof(attr)), "The request was changed");
}

/* @fd pins a page of unit @i, and nothing else does. */
static void check_pinned(struct target *t, u64 i, int fd)
{
	u64 first;

	for (first = 0; first <= i; first++)
		check_in_use(t, first, t->nr - first, i);
	check_in_use(t, i, 1, i);
	check_in_use(t, 0, i + 1, i);
	check_fdinfo(t, 0);
	check_shared(t, 0, t->nr);
	host_check(t, i, HOST_DATA);

	/* What is beside it is free. */
	if (i) {
		make_private(t, 0, i);
		check_private(t, 0, i);
		check_shared(t, i, t->nr - i);
		/* To be shared nobody has to let go. */
		make_shared(t, 0, t->nr);
	}
	if (i < t->nr - 1) {
		make_private(t, i + 1, t->nr - i - 1);
		check_private(t, i + 1, t->nr - i - 1);
		check_shared(t, 0, i + 1);
		make_shared(t, i, t->nr - i);
	}

	kvm_close(fd);
	make_private(t, 0, t->nr);
	check_private(t, 0, t->nr);
	make_shared(t, 0, t->nr);
	host_check(t, i, HOST_DATA);
}

TEST_F(pins, each)
{
	struct target *t = &self->t;
	u64 i;
	int n;

	for (i = 0; i < t->nr; i++) {
		host_fill(t, i, HOST_DATA);
		for (n = 0; n < NR_PROBES; n++)
			check_pinned(t, i, pin(at(t, probe(t, i, n))));
	}
}

/* The first one that is in the way is named. */
TEST_F(pins, first_of_two)
{
	struct target *t = &self->t;
	int fd1, fd2;

	host_fill(t, 1, HOST_DATA);
	host_fill(t, t->nr - 1, HOST_DATA);
	fd1 = pin(at(t, 2 * t->unit - page_size));
	fd2 = pin(at(t, (t->nr - 1) * t->unit));
	check_in_use(t, 0, t->nr, 1);
	kvm_close(fd1);
	check_in_use(t, 0, t->nr, t->nr - 1);
	kvm_close(fd2);
	make_private(t, 0, t->nr);
}

/* All, or nothing: what is private stays so, as does what is not. */
TEST_F(pins, all_or_nothing)
{
	struct target *t = &self->t;
	u64 last = t->nr - 1, i;
	int fd;

	for (i = 0; i < t->nr; i++)
		host_fill(t, i, HOST_DATA);
	make_private(t, 0, 1);
	fd = pin(at(t, last * t->unit));
	check_in_use(t, 0, t->nr, last);
	check_fdinfo(t, 1);
	check_private(t, 0, 1);
	check_shared(t, 1, last);
	for (i = 1; i < t->nr; i++) {
		host_check(t, i, HOST_DATA);
		guest_check(t, i, HOST_DATA);
	}
	kvm_close(fd);
	make_private(t, 0, t->nr);
	check_private(t, 0, t->nr);
	for (i = 1; i < t->nr; i++)
		guest_check(t, i, HOST_DATA);
}

/* Who asks for what is there already need not look for references. */
TEST_F(pins, nothing_to_do)
{
	struct target *t = &self->t;
	int fd;

	make_private(t, 0, 1);
	host_fill(t, 1, HOST_DATA);
	fd = pin(at(t, t->unit));
	make_private(t, 0, 1);
	make_shared(t, 1, 1);
	make_shared(t, 0, 2);
	check_shared(t, 0, 2);
	kvm_close(fd);
}

/* What can be seen through the pin is what the file has, before and after. */
TEST_F(pins, remains_the_same_page)
{
	struct target *t = &self->t;
	u64 buf[page_size / 8];
	int fd;

	host_fill(t, 1, HOST_DATA);
	fd = pin(at(t, t->unit));
	check_in_use(t, 1, 1, 1);
	WRITE_ONCE(*at(t, t->unit), GUEST_DATA);
	TEST_ASSERT_EQ(read(fd, buf, page_size), page_size);
	TEST_ASSERT_EQ(buf[0], GUEST_DATA);
	/* Whoever has read all of a pipe has no page of it. */
	make_private(t, 1, 1);
	kvm_close(fd);
}

/* A pin for long, which is counted elsewhere than other references. */
TEST_F(pins, registered_buffer)
{
	struct iovec iov = { .iov_len = self->t.unit };
	struct io_uring_params params = {};
	struct target *t = &self->t;
	int fd, i;

	fd = syscall(__NR_io_uring_setup, 1, &params);
	if (fd < 0)
		SKIP(return, "io_uring_setup() failed: %s", strerror(errno));

	host_fill(t, 1, HOST_DATA);
	iov.iov_base = at(t, t->unit);
	TEST_ASSERT(!syscall(__NR_io_uring_register, fd, IORING_REGISTER_BUFFERS,
			     &iov, 1), "Registering the buffer failed: %d", errno);
	check_in_use(t, 0, t->nr, 1);
	check_in_use(t, 1, 1, 1);
	make_private(t, 2, 1);
	check_fdinfo(t, 1);
	host_check(t, 1, HOST_DATA);

	TEST_ASSERT(!syscall(__NR_io_uring_register, fd,
			     IORING_UNREGISTER_BUFFERS, NULL, 0),
		    "Unregistering the buffer failed: %d", errno);
	/* The pages may be released a little later. */
	for (i = 0; i < 100 && try_private(t, 0, t->nr); i++)
		usleep(20000);
	check_private(t, 0, t->nr);
	kvm_close(fd);
}

/* Only once somebody has let go, and by then it has happened to nobody. */
TEST_F(pins, try_again)
{
	struct target *t = &self->t;
	u64 error_offset, done = 0;
	int fds[2], i = 0, r;

	host_fill(t, 1, HOST_DATA);
	host_fill(t, 2, HOST_DATA);
	fds[0] = pin(at(t, t->unit));
	fds[1] = pin(at(t, 2 * t->unit));
	while (done < t->nr * t->unit) {
		r = __gmem_set_private(t->fd, done, t->nr * t->unit - done,
				       &error_offset);
		if (!r)
			break;
		TEST_ASSERT_EQ(errno, EAGAIN);
		TEST_ASSERT(error_offset >= done && i < 2, "No progress");
		if (error_offset > done)
			gmem_set_private(t->fd, done, error_offset - done);
		done = error_offset;
		kvm_close(fds[i++]);
	}
	check_private(t, 0, t->nr);
	check_fdinfo(t, t->nr);
}

/*
 * write()
 */

#define WRITE_FLAGS	(CREATE_FLAGS | GUEST_MEMFD_FLAG_WRITE)

TARGET_FIXTURE(write)
FIXTURE_VARIANT_ADD(write, page_cache) { .path = PATH_cache(WRITE_FLAGS) };
FIXTURE_VARIANT_ADD(write, create) { .path = PATH_dax(WRITE_FLAGS) };
FIXTURE_VARIANT_ADD(write, create_keep) {
	.path = PATH_dax(WRITE_FLAGS | GUEST_MEMFD_FLAG_KEEP_DATA)
};

static long do_pwrite(struct target *t, u64 *buf, u64 len, u64 offset)
{
	ssize_t r = pwrite(t->fd, buf, len, offset);

	return r < 0 ? -errno : r;
}

TEST_F(write, private)
{
	struct target *t = &self->t;
	u64 unit = t->unit, *src, i;

	src = kvm_mmap(2 * page_size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (i = 0; i < 2 * page_size / 8; i++)
		src[i] = HOST_DATA + i;

	host_fill(t, 1, GUEST_DATA);
	make_private(t, 1, 1);
	TEST_ASSERT_EQ(do_pwrite(t, src, page_size, unit), -EACCES);
	TEST_ASSERT_EQ(do_pwrite(t, src, page_size, 2 * unit - page_size), -EACCES);
	guest_check(t, 1, GUEST_DATA);

	/* Up to the first page that is private, and no further. */
	TEST_ASSERT_EQ(do_pwrite(t, src, 2 * page_size, unit - page_size), page_size);
	TEST_ASSERT(!memcmp(at(t, unit - page_size), src, page_size), "Not written");
	TEST_ASSERT_EQ(do_pwrite(t, src, 2 * page_size, 2 * unit - page_size), -EACCES);
	guest_check(t, 1, GUEST_DATA);
	TEST_ASSERT_EQ(do_pwrite(t, src, page_size, 2 * unit), page_size);

	make_shared(t, 1, 1);
	host_check(t, 1, GUEST_DATA);
	TEST_ASSERT_EQ(do_pwrite(t, src, page_size, unit), page_size);
	TEST_ASSERT(!memcmp(at(t, unit), src, page_size), "Not written");
	make_private(t, 1, 1);
	TEST_ASSERT_EQ(guest_read(t->c.vcpu, gpa_of(t, unit)), src[0]);
	kvm_munmap(src, 2 * page_size);
}

/*
 * Memory that user space cannot map: what is shared is in the file all the same
 */

#define UNMAPPED_FLAGS	(GUEST_MEMFD_FLAG_INIT_SHARED | GUEST_MEMFD_FLAG_WRITE)

TARGET_FIXTURE(unmapped)
FIXTURE_VARIANT_ADD(unmapped, page_cache) { .path = PATH_cache(UNMAPPED_FLAGS) };
FIXTURE_VARIANT_ADD(unmapped, create) { .path = PATH_dax(UNMAPPED_FLAGS) };
FIXTURE_VARIANT_ADD(unmapped, create_keep) {
	.path = PATH_dax(UNMAPPED_FLAGS | GUEST_MEMFD_FLAG_KEEP_DATA)
};

/* Of the same size as the memslot, and with other data than the file has. */
static char *decoy_alloc(struct target *t)
{
	char *decoy;
	int n;

	decoy = kvm_mmap(t->size - t->unit, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	for (n = 0; n < NR_PROBES; n++)
		*(u64 *)(decoy + probe(t, 0, n)) = OLD_DATA;
	return decoy;
}

static void decoy_check(struct target *t, const char *decoy)
{
	int n;

	for (n = 0; n < NR_PROBES; n++)
		TEST_ASSERT_EQ(*(u64 *)(decoy + probe(t, 0, n)), OLD_DATA);
}

TEST_F(unmapped, userspace_addr)
{
	struct target *t = &self->t;
	char *decoy = decoy_alloc(t);
	u64 *src;
	int n;

	TEST_ASSERT_OK(slot_delete(t->c.vm->fd, MEM_SLOT(0)));
	TEST_ASSERT_OK(add_slot_at(t, decoy));

	src = kvm_mmap(page_size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (n = 0; n < NR_PROBES; n++) {
		*src = HOST_DATA + probe(t, 1, n);
		TEST_ASSERT_EQ(do_pwrite(t, src, page_size, probe(t, 1, n)),
			       page_size);
	}
	kvm_munmap(src, page_size);

	guest_check(t, 1, HOST_DATA);
	make_private(t, 1, 1);
	check_fdinfo(t, 1);
	guest_check(t, 1, HOST_DATA);
	guest_fill(t, 1, GUEST_DATA);
	make_shared(t, 1, 1);
	check_fdinfo(t, 0);
	guest_check(t, 1, GUEST_DATA);
	guest_fill(t, 1, ~GUEST_DATA);
	make_private(t, 1, 1);
	guest_check(t, 1, ~GUEST_DATA);

	decoy_check(t, decoy);
	TEST_ASSERT_OK(slot_delete(t->c.vm->fd, MEM_SLOT(0)));
	kvm_munmap(decoy, t->size - t->unit);
}

/*
 * Memory with an error
 */

TARGET_FIXTURE_WITH(poison, check_after_errors())
FIXTURE_VARIANT_ADD(poison, page_cache) { .path = PATH_cache(CREATE_FLAGS) };
FIXTURE_VARIANT_ADD(poison, create) { .path = PATH_dax(CREATE_FLAGS) };
FIXTURE_VARIANT_ADD(poison, create_keep) { .path = PATH_dax_keep };

/* Whoever dealt with the error still has the page, and never gives it back. */
static void check_poison_in_use(struct target *t, u64 i)
{
	check_in_use(t, 0, t->nr, i);
	check_in_use(t, i, 1, i);
	check_fdinfo(t, 0);
	make_private(t, i + 1, 1);
	make_shared(t, i + 1, 1);
	TEST_ASSERT(!host_can_read(at(t, i * t->unit)), "The error is gone");

	/* This has the file forget the page, and then the user mapping, too. */
	TEST_ASSERT_OK(punch(&t->c, i * t->unit, t->unit));
	TEST_ASSERT(!madvise(at(t, i * t->unit), t->unit, MADV_DONTNEED),
		    "madvise() failed");
}

TEST_F(poison, there_and_back)
{
	struct target *t = &self->t;
	u64 bad = probe(t, 2, 1);

	host_fill(t, 1, HOST_DATA);
	host_fill(t, 2, HOST_DATA);
	host_fill(t, 3, HOST_DATA);
	inject_error(at(t, bad));
	if (t->c.path->page_cache)
		check_poison_in_use(t, 2);

	make_private(t, 0, t->nr);
	check_private(t, 0, t->nr);
	check_fdinfo(t, t->nr);
	guest_check(t, 1, HOST_DATA);
	guest_check(t, 3, HOST_DATA);
	make_shared(t, 0, t->nr);
	check_fdinfo(t, 0);
	host_check(t, 1, HOST_DATA);
	host_check(t, 3, HOST_DATA);
	if (t->c.path->page_cache) {
		host_check_zero(t, 2);
		return;
	}

	/* Of a device, the page is what it was: lost, whoever's it is. */
	TEST_ASSERT(!host_can_read(at(t, bad)), "The error is gone");
	make_private(t, 2, 1);
	TEST_ASSERT_ERR(guest_do(t->c.vcpu, GUEST_READ, gpa_of(t, bad), 0, 1),
			EHWPOISON);
}

/*
 * What becomes of it on the device
 */

TARGET_FIXTURE(device)
FIXTURE_VARIANT_ADD(device, create) { .path = PATH_dax(CREATE_FLAGS) };
FIXTURE_VARIANT_ADD(device, create_keep) { .path = PATH_dax_keep };

static bool is_kept(struct target *t)
{
	return t->c.path->flags & GUEST_MEMFD_FLAG_KEEP_DATA;
}

static void check_left(struct target *t, u64 i, u64 val)
{
	int n;

	for (n = 0; n < NR_PROBES; n++) {
		u64 offset = probe(t, i, n);

		TEST_ASSERT_EQ(dax_dev_read(&dax, t->dev_offset + offset),
			       is_kept(t) ? val + offset : 0);
	}
}

TEST_F(device, left_behind)
{
	struct target *t = &self->t;

	guest_fill(t, 1, GUEST_DATA);
	guest_fill(t, 2, GUEST_DATA);
	make_private(t, 1, 1);
	guest_fill(t, 1, ~GUEST_DATA);
	host_fill(t, 0, HOST_DATA);
	target_close(t);
	check_left(t, 0, HOST_DATA);
	check_left(t, 1, ~GUEST_DATA);
	check_left(t, 2, GUEST_DATA);
	assert_device_is_free();
}

/* A conversion leaves nothing behind that keeps the device. */
TEST_F(device, free_after_conversions)
{
	struct target *t = &self->t;
	u64 i, offset;

	for (offset = 0; offset < t->nr * t->unit; offset += t->unit / 2)
		*at(t, offset) = HOST_DATA;
	for (i = 0; i < t->nr; i++)
		make_private(t, i, 1);
	make_shared(t, 0, t->nr);
	for (offset = 0; offset < t->nr * t->unit; offset += t->unit / 2)
		TEST_ASSERT_EQ(*at(t, offset), HOST_DATA);
	make_private(t, 1, 2);
	target_close(t);
	assert_device_is_free();
}

TEST_F(device, no_way_around)
{
	struct target *t = &self->t;
	int fd = dax_dev_open(&dax);

	make_private(t, 0, t->nr);
	TEST_ASSERT_EQ(mmap(NULL, t->unit, PROT_READ, MAP_SHARED, fd, t->dev_offset),
		       MAP_FAILED);
	TEST_ASSERT_EQ(errno, EBUSY);
	make_shared(t, 0, t->nr);
	TEST_ASSERT_EQ(mmap(NULL, t->unit, PROT_READ, MAP_SHARED, fd, t->dev_offset),
		       MAP_FAILED);
	TEST_ASSERT_EQ(errno, EBUSY);
	kvm_close(fd);
}

static void check_dead(struct target *t)
{
	TEST_ASSERT_ERR(try_private(t, 1, 1), ENODEV);
	TEST_ASSERT_ERR(try_private(t, 0, t->nr), ENODEV);
	TEST_ASSERT_ERR(try_shared(t, 0, t->nr), ENODEV);
	TEST_ASSERT_EQ(fdinfo_number(t->fd, "granularity"), 0);
	check_private(t, 0, t->nr);
}

/* The second is private.  A vCPU that has faulted once is good for no other. */
static void check_dead_for_guests(struct target *t)
{
	guest_must_fault(t->c.vcpus[0], gpa_of(t, t->unit));
	TEST_ASSERT_EQ(t->c.vcpus[0]->run->memory_fault.flags, 0);
	guest_must_fault(t->c.vcpus[1], gpa_of(t, 2 * t->unit));
	TEST_ASSERT_EQ(t->c.vcpus[1]->run->memory_fault.flags,
		       KVM_MEMORY_EXIT_FLAG_PRIVATE);
}

TEST_F(device, dead)
{
	struct target *t = &self->t;

	guest_fill(t, 1, GUEST_DATA);
	guest_fill(t, 2, GUEST_DATA);
	make_private(t, 0, 1);
	make_private(t, 2, 1);
	unbind();
	check_dead(t);
	check_dead_for_guests(t);
	rebind();
	check_dead(t);
	check_dead_for_guests(t);
}

/* The device comes back, and shows what it should of what was there. */
static void start_again(struct target *t)
{
	rebind();
	target_close(t);
	reopen(&t->c);
	if (!is_kept(t))
		dax_dev_check(&dax, t->dev_offset + t->unit, page_size, 0);
	target_reopen(t);
}

static void *convert_until_dead(void *arg)
{
	struct loop *loop = arg;
	struct target *t = container_of(loop->c, struct target, c);
	int r;

	do {
		r = try_private(t, 0, t->nr);
		if (!r)
			r = try_shared(t, 1, t->nr - 1);
		/* Another thread may be about to map a page. */
		if (r == -EAGAIN)
			r = 0;
		WRITE_ONCE(loop->rounds, loop->rounds + 1);
	} while (!r);
	TEST_ASSERT_EQ(r, -ENODEV);
	return NULL;
}

TEST_F_TIMEOUT(device, unbind_in_a_loop, LOOP_TIMEOUT)
{
	struct target *t = &self->t;
	struct loop loop = {};
	int i;

	for (i = 0; i < 5; i++) {
		guest_fill(t, 1, GUEST_DATA);
		__loop_start(&loop, &t->c, convert_until_dead);
		loop_wait(&loop);
		usleep(i * 3000);
		unbind();
		loop_stop(&loop);
		check_private(t, 0, t->nr);
		start_again(t);
	}
}

/*
 * A hole has invalidate_lock for so long.  Who converts meanwhile has found the
 * device alive, and waits.
 */
#define HOLE_MS	2000

static char state_of(pid_t pid)
{
	char path[64], state;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	TEST_ASSERT(f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1,
		    "Reading %s failed", path);
	fclose(f);
	return state;
}

/* A process that is in @fn, where it sleeps and no signal wakes it. */
static pid_t start_sleeper(struct target *t, void (*fn)(struct target *t))
{
	pid_t pid = fork();
	char state;

	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn(t);
		_exit(0);
	}
	while ((state = state_of(pid)) != 'D') {
		TEST_ASSERT(state != 'Z', "The process did not wait");
		usleep(1000);
	}
	return pid;
}

static int end_of(pid_t pid)
{
	int status;

	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	return status;
}

static void punch_for_long(struct target *t)
{
	int r = punch(&t->c, 0, t->unit);

	TEST_ASSERT(!r || r == -ENODEV, "Unexpected error %d", r);
}

static void convert_killed(struct target *t)
{
	make_private(t, 1, t->nr - 1);
}

/* A fatal signal ends the look for references, and nothing has changed. */
TEST_F(device, killed)
{
	struct target *t = &self->t;
	pid_t puncher, pid;

	if (!delay_set("hole", HOLE_MS))
		SKIP(return, "The kernel lacks CONFIG_KVM_GUEST_DAXFD_DELAY");
	host_fill(t, 1, HOST_DATA);
	puncher = start_sleeper(t, punch_for_long);
	pid = start_sleeper(t, convert_killed);
	delay_set("hole", 0);
	kill(pid, SIGKILL);
	TEST_ASSERT_EQ(end_of(puncher), 0);
	TEST_ASSERT_EQ(end_of(pid), SIGKILL);
	check_fdinfo(t, 0);
	check_shared(t, 1, t->nr - 1);
	host_check(t, 1, HOST_DATA);
	make_private(t, 0, t->nr);
}

/* With this error, no part of the range is to blame. */
static void convert_dying(struct target *t)
{
	struct kvm_memory_attributes2 attr = good_request(t);

	attr.error_offset = 0x1234;
	TEST_ASSERT_EQ(ioctl(t->fd, KVM_SET_MEMORY_ATTRIBUTES2, &attr), -1);
	TEST_ASSERT_EQ(errno, ENODEV);
	TEST_ASSERT_EQ(attr.error_offset, 0x1234);
}

TEST_F(device, dies_meanwhile)
{
	struct target *t = &self->t;
	pid_t puncher, pid;

	if (!delay_set("hole", HOLE_MS))
		SKIP(return, "The kernel lacks CONFIG_KVM_GUEST_DAXFD_DELAY");
	puncher = start_sleeper(t, punch_for_long);
	pid = start_sleeper(t, convert_dying);
	delay_set("hole", 0);
	unbind();
	TEST_ASSERT_EQ(end_of(puncher), 0);
	TEST_ASSERT_EQ(end_of(pid), 0);
	TEST_ASSERT_EQ(fdinfo_number(t->fd, "private"), 0);
	rebind();
}

static void check_boundary(struct target *t, u64 last)
{
	int fd;

	host_fill(t, last, HOST_DATA);
	host_fill(t, last + 1, HOST_DATA + 1);
	make_private(t, last, 2);
	check_private(t, last, 2);
	check_shared(t, last - 1, 1);
	make_shared(t, last, 1);
	check_private(t, last + 1, 1);
	make_shared(t, last + 1, 1);
	host_check(t, last, HOST_DATA);
	host_check(t, last + 1, HOST_DATA + 1);

	fd = pin(at(t, probe(t, last + 1, 2)));
	check_in_use(t, last, 2, last + 1);
	check_shared(t, last, 2);
	kvm_close(fd);
	fd = pin(at(t, probe(t, last, 0)));
	check_in_use(t, last, 2, last);
	make_private(t, last + 1, 1);
	kvm_close(fd);
	make_private(t, last, 1);
	check_private(t, last, 2);
}

static void open_all(struct target *t)
{
	target_close(t);
	t->dev_offset = 0;
	t->size = dax.size & -dax.align;
	t->nr = t->size / t->unit;
	target_open(t);
}

TEST_F(device, all_of_it)
{
	struct target *t = &self->t;

	open_all(t);
	check_boundary(t, t->nr / 2);
}

TEST_F(device, pieces)
{
	struct dax_extent extents[MAX_EXTENTS];
	struct target *t = &self->t;
	int i, nr;

	open_all(t);
	nr = fdinfo_extents(t->fd, extents, MAX_EXTENTS);
	if (nr == 1)
		SKIP(return, "%s has one range only", dax.name);

	for (i = 1; i < nr; i++)
		check_boundary(t, extents[i].offset / t->unit - 1);
}

/*
 * Sizes of guest mappings: as large as the memory allows where all of it is
 * the same
 */

TARGET_FIXTURE(huge)
FIXTURE_VARIANT_ADD(huge, create) { .path = PATH_dax(CREATE_FLAGS) };
FIXTURE_VARIANT_ADD(huge, create_keep) { .path = PATH_dax_keep };

#define NR_BLOCKS	3

/* A memslot over blocks that can be mapped as a whole. */
static u64 place_blocks(struct target *t)
{
	struct dax_extent extents[MAX_EXTENTS];
	u64 skip = 0, size = NR_BLOCKS * SZ_2M;
	int i, nr;

	nr = fdinfo_extents(t->fd, extents, MAX_EXTENTS);
	for (i = 0; i < nr; i++) {
		skip = -extents[i].phys & (SZ_2M - 1);
		if (extents[i].size >= skip + size)
			break;
	}
	TEST_ASSERT(i < nr, "No 2M that are aligned");
	TEST_ASSERT_OK(slot_delete(t->c.vm->fd, MEM_SLOT(0)));
	TEST_ASSERT_OK(slot_set(t->c.vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_MEMFD,
				MEM_GPA(0), size, NULL, t->fd,
				extents[i].offset + skip));
	TEST_ASSERT_OK(do_fallocate(t->fd, FALLOC_FL_KEEP_SIZE, 0, t->size));
	/* Deleting a slot may have unmapped the guest's code and data as well. */
	guest_read(t->c.vcpu, (gva_t)&page_size);
	return extents[i].offset + skip;
}

/* How large a mapping an access makes; 0 if there is one. */
static u64 touch(struct target *t, u64 offset)
{
	struct kvm_vm *vm = t->c.vm;
	u64 pages_4k = vm_get_stat(vm, pages_4k);
	u64 pages_2m = vm_get_stat(vm, pages_2m);

	guest_read(t->c.vcpu, MEM_GPA(0) + offset);
	TEST_ASSERT_EQ(vm_get_stat(vm, pages_1g), 0);
	if (vm_get_stat(vm, pages_2m) > pages_2m)
		return SZ_2M;
	return vm_get_stat(vm, pages_4k) > pages_4k ? SZ_4K : 0;
}

static void check_blocks(struct target *t, u64 size0, u64 size1, u64 size2)
{
	TEST_ASSERT_EQ(touch(t, SZ_1M), size0);
	TEST_ASSERT_EQ(touch(t, SZ_2M + SZ_1M), size1);
	TEST_ASSERT_EQ(touch(t, 2 * SZ_2M + SZ_1M), size2);
}

TEST_F(huge, one_page)
{
	struct target *t = &self->t;
	u64 base = place_blocks(t), page;

	if (t->unit != page_size)
		SKIP(return, "%s is not converted by pages", dax.name);

	check_blocks(t, SZ_2M, SZ_2M, SZ_2M);
	for (page = SZ_2M; page < 2 * SZ_2M; page += SZ_2M - page_size) {
		gmem_set_private(t->fd, base + page, page_size);
		check_blocks(t, 0, SZ_4K, 0);
		TEST_ASSERT_EQ(touch(t, page), SZ_4K);
		gmem_set_shared(t->fd, base + page, page_size);
		/* Pages that are mapped stay so until somebody takes them away. */
		TEST_ASSERT_EQ(touch(t, page), SZ_2M);
		check_blocks(t, 0, 0, 0);
	}

	/* A page on either side: two blocks. */
	gmem_set_private(t->fd, base + SZ_2M - page_size, 2 * page_size);
	check_blocks(t, SZ_4K, SZ_4K, 0);
}

static void wait_for_guest(struct kvm_vcpu *vcpu)
{
	struct guest_cmd *cmd = guest_cmd(vcpu);
	u64 rounds = READ_ONCE(cmd->rounds);

	while (READ_ONCE(cmd->rounds) < rounds + 2)
		;
}

/* A fault that meets a conversion does not make a large mapping of both kinds. */
TEST_F(huge, meets_conversion)
{
	struct target *t = &self->t;
	u64 page = place_blocks(t) + SZ_2M, start, pages_2m;
	struct kvm_vm *vm = t->c.vm;
	struct runner runners[2];
	int i;

	if (t->unit != page_size)
		SKIP(return, "%s is not converted by pages", dax.name);

	gmem_set_private(t->fd, page, page_size);
	for (i = 0; i < 2; i++)
		runner_start(&runners[i], t->c.vcpus[i],
			     MEM_GPA(0) + SZ_2M + i * 8, 1);
	pages_2m = vm_get_stat(vm, pages_2m);
	for (start = now_ms(); now_ms() - start < 2 * MEET_MS; ) {
		gmem_set_shared(t->fd, page, page_size);
		for (i = 0; i < 2; i++)
			wait_for_guest(t->c.vcpus[i]);
		TEST_ASSERT_EQ(vm_get_stat(vm, pages_2m), pages_2m + 1);
		gmem_set_private(t->fd, page, page_size);
		for (i = 0; i < 2; i++)
			wait_for_guest(t->c.vcpus[i]);
		TEST_ASSERT_EQ(vm_get_stat(vm, pages_2m), pages_2m);
	}
	for (i = 0; i < 2; i++)
		runner_stop(&runners[i]);
}

TEST_F(huge, whole_blocks)
{
	struct target *t = &self->t;
	u64 base = place_blocks(t);

	if (t->unit > SZ_2M)
		SKIP(return, "%s is not converted by 2M", dax.name);

	check_blocks(t, SZ_2M, SZ_2M, SZ_2M);
	gmem_set_private(t->fd, base + SZ_2M, SZ_2M);
	check_blocks(t, 0, SZ_2M, 0);
	gmem_set_private(t->fd, base, SZ_2M);
	check_blocks(t, SZ_2M, 0, 0);
	gmem_set_shared(t->fd, base, 2 * SZ_2M);
	check_blocks(t, SZ_2M, SZ_2M, 0);
}

/*
 * KVM_MEM_GUEST_DAXFD: all of it is shared, for there is no file to convert
 */

FIXTURE(short_way) {
	struct ctx c;
};

FIXTURE_SETUP(short_way)
{
	static const struct path path = PATH_sw_protected_short;

	if (!have_device())
		SKIP(return, "No device");
	ctx_setup(&self->c, &path, 1);
}

FIXTURE_TEARDOWN_PARENT(short_way)
{
	check_after_test();
}

TEST_F(short_way, shared)
{
	struct ctx *c = &self->c;
	u64 *mem;

	dax_dev_fill(&dax, slot_offset(0), SLOT_SIZE, OLD_DATA);
	mem_add(c, 0);
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0)), OLD_DATA);
	mem = host_map(c, 0);
	mem[1] = HOST_DATA;
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0) + 8), HOST_DATA);
	guest_write(c->vcpu, MEM_GPA(0) + SLOT_SIZE - 8, GUEST_DATA);
	TEST_ASSERT_EQ(mem[SLOT_SIZE / 8 - 1], GUEST_DATA);
	host_unmap(c, 0, mem);
	mem_del(c, 0);
	TEST_ASSERT_EQ(dax_dev_read(&dax, slot_offset(0) + SLOT_SIZE - 8),
		       GUEST_DATA);
}

TEST_F(short_way, unbind)
{
	struct ctx *c = &self->c;

	mem_add(c, 0);
	guest_write(c->vcpu, MEM_GPA(0), GUEST_DATA);
	unbind();
	guest_must_fault(c->vcpu, MEM_GPA(0));
	rebind();
	guest_must_fault(c->vcpu, MEM_GPA(0));
}

/*
 * Each subset of the flags, and one more that nobody knows
 */

FIXTURE(flags) {
	struct kvm_vm *vm;
	int dax_fd;
};

FIXTURE_VARIANT(flags) {
	unsigned long vm_type;
	bool dax;
};

FIXTURE_SETUP(flags)
{
	if (variant->dax && !have_device())
		SKIP(return, "No device");
	self->vm = vm_create_barebones_type(variant->vm_type);
	self->dax_fd = variant->dax ? dax_dev_open(&dax) : -1;
	if (variant->dax)
		dax_dev_fill(&dax, 0, page_size, OLD_DATA);
}

FIXTURE_TEARDOWN_PARENT(flags)
{
	check_after_test();
}

FIXTURE_VARIANT_ADD(flags, page_cache) { .vm_type = VM_TYPE_DEFAULT };
FIXTURE_VARIANT_ADD(flags, page_cache_sw) { .vm_type = KVM_X86_SW_PROTECTED_VM };
FIXTURE_VARIANT_ADD(flags, dax) { .vm_type = VM_TYPE_DEFAULT, .dax = true };
FIXTURE_VARIANT_ADD(flags, dax_sw) {
	.vm_type = KVM_X86_SW_PROTECTED_VM, .dax = true
};

static bool flags_are_valid(u64 flags)
{
	u64 known = CREATE_FLAGS | GUEST_MEMFD_FLAG_WRITE;

	if (flags & GUEST_MEMFD_FLAG_BACKING_FD)
		known |= GUEST_MEMFD_FLAG_BACKING_FD;
	if (flags & GUEST_MEMFD_FLAG_BACKING_FD && flags & GUEST_MEMFD_FLAG_INIT_SHARED)
		known |= GUEST_MEMFD_FLAG_KEEP_DATA;
	return !(flags & ~known);
}

/* Contents are what KEEP_DATA says, access is what the others say. */
static void check_file(int fd, u64 flags, u64 size, u64 unit, bool has_private)
{
	bool shared = flags & GUEST_MEMFD_FLAG_INIT_SHARED;
	u64 old = flags & GUEST_MEMFD_FLAG_KEEP_DATA ? OLD_DATA : 0;
	u64 *buf, *mem;
	ssize_t r;

	TEST_ASSERT_EQ(fdinfo_number(fd, "gmem-flags"), flags);
	TEST_ASSERT_EQ(fdinfo_number(fd, "shared"), shared ? size : 0);
	TEST_ASSERT_EQ(fdinfo_number(fd, "private"), shared ? 0 : size);

	mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (flags & GUEST_MEMFD_FLAG_MMAP) {
		TEST_ASSERT(mem != MAP_FAILED, "mmap() failed: %d", errno);
		TEST_ASSERT_EQ(host_can_read(mem), shared);
		if (shared)
			TEST_ASSERT_EQ(*mem, old);
	} else {
		TEST_ASSERT_EQ(mem, MAP_FAILED);
		TEST_ASSERT_EQ(errno, ENODEV);
	}

	buf = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	*buf = old;
	r = pwrite(fd, buf, page_size, 0) < 0 ? -errno : 0;
	TEST_ASSERT_EQ(r, !(flags & GUEST_MEMFD_FLAG_WRITE) ? -ENODEV :
			  shared ? 0 : -EACCES);
	kvm_munmap(buf, page_size);

	r = __gmem_set_attributes(fd, 0, unit, shared ? PRIVATE : 0, NULL) ? -errno : 0;
	TEST_ASSERT_EQ(r, has_private ? 0 : -EINVAL);
	if (mem != MAP_FAILED) {
		TEST_ASSERT_EQ(host_can_read(mem), has_private ? !shared : shared);
		kvm_munmap(mem, size);
	}
}

static void check_flags(struct kvm_vm *vm, int dax_fd, u64 flags, bool has_private)
{
	struct kvm_create_guest_memfd args = {
		.size = dax_fd < 0 ? page_size : unit_size,
		.flags = flags,
	};
	int fd;

	if (flags & GUEST_MEMFD_FLAG_BACKING_FD)
		args.backing_fd = dax_fd;
	fd = __gmem_create(vm->fd, &args);
	if (!flags_are_valid(flags)) {
		TEST_ASSERT(fd == -EINVAL, "flags 0x%lx: expected EINVAL, got %d",
			    flags, fd);
		return;
	}
	TEST_ASSERT(fd >= 0, "flags 0x%lx: expected success, got %d", flags, fd);
	check_file(fd, flags, args.size,
		   flags & GUEST_MEMFD_FLAG_BACKING_FD ? dax.align : page_size,
		   has_private);
	kvm_close(fd);
}

TEST_F(flags, each_subset)
{
	bool has_private = variant->vm_type != VM_TYPE_DEFAULT;
	u64 flags, nr = 0;
	int bit;

	/* A backing is either in all of them, or in none. */
	for (flags = 0; flags < 2 * GUEST_MEMFD_FLAG_KEEP_DATA; flags++) {
		if (!(flags & GUEST_MEMFD_FLAG_BACKING_FD) != !variant->dax)
			continue;
		if (variant->dax)
			dax_dev_fill(&dax, 0, page_size, OLD_DATA);
		check_flags(self->vm, self->dax_fd, flags, has_private);
		nr++;
	}
	TEST_ASSERT_EQ(nr, 32);
	for (bit = 6; bit < 64; bit++) {
		check_flags(self->vm, self->dax_fd, 1ULL << bit, has_private);
		check_flags(self->vm, self->dax_fd, CREATE_FLAGS | 1ULL << bit,
			    has_private);
	}
}

/*
 * Conversions under fire: guests, accesses of the host, pins, holes and unbind.
 * In the first page of each unit, each vCPU writes to a word of its own, as do
 * the threads that convert, and others.
 */

#define STORM_ROUND_MS	500

/* The harness wants a limit; who wants one sets it from outside. */
#define STORM_TIMEOUT	(24 * 60 * 60)

#define NR_CONVERTERS	2
#define TOKEN_WORD	2
#define HOST_WORD	3

static unsigned int storm_seconds = 20;

struct storm {
	struct target *t;
	bool owned;	/* units belong to one of the converters */
	bool holes;	/* are punched */
	bool dying;	/* the device may go away */
	bool stop;
	bool private[NR_UNITS];
	u64 tokens[NR_UNITS];
	u64 nr_conversions;
};

struct storm_thread {
	struct storm *s;
	pthread_t thread;
	unsigned int seed;
	int nr;
};

static unsigned int rnd(struct storm_thread *th, unsigned int below)
{
	return rand_r(&th->seed) % below;
}

/* What the owner of a unit knows of it. */
static void storm_check_unit(struct storm_thread *th, u64 i)
{
	struct storm *s = th->s;
	u64 *word = at(s->t, i * s->t->unit) + TOKEN_WORD, val;
	bool readable = host_access(word, &val, false);

	TEST_ASSERT(!readable || !s->private[i], "Unit %lu is not private", i);
	TEST_ASSERT(readable || s->private[i] || s->dying,
		    "Unit %lu is not shared", i);
	if (!readable)
		return;

	TEST_ASSERT(val == s->tokens[i] || (s->holes && !val),
		    "Unit %lu has 0x%lx, not 0x%lx", i, val, s->tokens[i]);
	val = rnd(th, 0x7fffffff);
	if (host_access(word, &val, true))
		s->tokens[i] = val;
}

static void *storm_convert(void *arg)
{
	struct storm_thread *th = arg;
	struct storm *s = th->s;
	struct target *t = s->t;
	u64 half = t->nr / 2, base = 0, len = t->nr, first, nr;
	bool private;
	int r;

	if (s->owned) {
		base = th->nr ? half : 0;
		len = th->nr ? t->nr - half : half;
	}
	while (!READ_ONCE(s->stop)) {
		first = base + rnd(th, len);
		nr = 1 + rnd(th, base + len - first);
		private = rnd(th, 2);
		r = private ? try_private(t, first, nr) : try_shared(t, first, nr);
		TEST_ASSERT(!r || (private && r == -EAGAIN) ||
			    (s->dying && r == -ENODEV),
			    "Unexpected error %d", r);
		if (!r)
			__atomic_fetch_add(&s->nr_conversions, 1, __ATOMIC_RELAXED);
		if (!s->owned || r == -ENODEV)
			continue;
		if (!r)
			memset(&s->private[first], private, nr);
		storm_check_unit(th, base + rnd(th, len));
	}
	return NULL;
}

static u64 *random_page(struct storm_thread *th)
{
	struct target *t = th->s->t;

	return at(t, rnd(th, t->nr) * t->unit +
		     rnd(th, t->unit / page_size) * page_size);
}

static void *storm_access(void *arg)
{
	struct storm_thread *th = arg;
	u64 val;

	while (!READ_ONCE(th->s->stop)) {
		val = rnd(th, 0x7fffffff);
		host_access(random_page(th) + HOST_WORD, &val, rnd(th, 2));
	}
	return NULL;
}

/*
 * As long as somebody has a page, it is shared; except that page cache has
 * another one behind a hole.
 */
static void *storm_pin(void *arg)
{
	struct storm_thread *th = arg;
	struct storm *s = th->s;
	int fd, i;

	while (!READ_ONCE(s->stop)) {
		u64 *page = random_page(th);

		fd = try_pin(page);
		TEST_ASSERT(fd >= 0 || fd == -EFAULT, "Unexpected error %d", fd);
		if (fd < 0)
			continue;
		for (i = rnd(th, 20); i; i--)
			TEST_ASSERT(host_can_read(page) || s->holes || s->dying,
				    "A page was made private while it is pinned");
		kvm_close(fd);
	}
	return NULL;
}

static void *storm_punch(void *arg)
{
	struct storm_thread *th = arg;
	struct storm *s = th->s;
	struct target *t = s->t;
	int r;

	while (!READ_ONCE(s->stop)) {
		u64 first = rnd(th, t->nr), nr = 1 + rnd(th, t->nr - first);

		if (rnd(th, 2))
			r = punch(&t->c, first * t->unit, page_size);
		else
			r = punch(&t->c, first * t->unit, nr * t->unit);
		TEST_ASSERT(!r || (s->dying && r == -ENODEV),
			    "Unexpected error %d", r);
		usleep(rnd(th, 1000));
	}
	return NULL;
}

/* A fault that meets a conversion is nobody's business but KVM's. */
static void *storm_guest(void *arg)
{
	struct storm_thread *th = arg;
	struct storm *s = th->s;
	struct kvm_vcpu *vcpu = s->t->c.vcpus[th->nr];
	int r;

	do {
		r = _vcpu_run(vcpu) ? errno : 0;
		TEST_ASSERT(!r || (s->dying && r == EFAULT),
			    "Unexpected error %d", r);
		if (r)
			assert_memory_fault(vcpu, MEM_GPA(0),
					    s->t->size - s->t->unit);
		/* Where there is no memory any more, it has no end. */
	} while (r && !READ_ONCE(s->stop));
	return NULL;
}

static void storm_prepare_guest(struct storm *s, int i)
{
	struct kvm_vcpu *vcpu = s->t->c.vcpus[i];

	guest_prepare(vcpu, GUEST_SPIN, MEM_GPA(0) + i * 8, 0, s->t->nr - 1);
	guest_cmd(vcpu)->page_size = s->t->unit;
}

#define NR_GUESTS	2

static const struct {
	void *(*fn)(void *arg);
	int nr;
	bool holes;
} storm_threads[] = {
	/* Guests are first: the others find them running. */
	{ storm_guest, 0 },
	{ storm_guest, 1 },
	{ storm_convert, 0 },
	{ storm_convert, 1 },
	{ storm_access },
	{ storm_pin },
	{ storm_punch, .holes = true },
};

static void storm_start(struct storm *s, struct storm_thread *threads)
{
	struct target *t = s->t;
	u64 i;

	for (i = 0; i < t->nr; i++) {
		s->private[i] = false;
		s->tokens[i] = at(t, i * t->unit)[TOKEN_WORD];
	}
	for (i = 0; i < NR_GUESTS; i++)
		storm_prepare_guest(s, i);
	for (i = 0; i < ARRAY_SIZE(storm_threads); i++) {
		threads[i] = (struct storm_thread) {
			.s = s,
			.nr = storm_threads[i].nr,
			.seed = now_ms() * 31 + i,
		};
		if (!storm_threads[i].holes || s->holes)
			kvm_pthread_create(&threads[i].thread, NULL,
					   storm_threads[i].fn, &threads[i]);
		while (i < NR_GUESTS && READ_ONCE(guest_cmd(t->c.vcpus[i])->rounds) < 2)
			usleep(100);
	}
}

static void storm_stop(struct storm *s, struct storm_thread *threads)
{
	int i;

	WRITE_ONCE(s->stop, true);
	for (i = 0; i < NR_GUESTS; i++)
		WRITE_ONCE(guest_cmd(s->t->c.vcpus[i])->stop, true);
	for (i = 0; i < ARRAY_SIZE(storm_threads); i++) {
		if (!storm_threads[i].holes || s->holes)
			kvm_pthread_join(threads[i].thread, NULL);
	}
}

/* All is quiet: what the file says is what is the case. */
static void storm_check(struct storm *s)
{
	struct target *t = s->t;
	u64 nr_private = 0, i;
	bool readable;
	int v;

	for (i = 0; i < t->nr; i++) {
		readable = host_can_read(at(t, i * t->unit));
		TEST_ASSERT(!s->owned || readable == !s->private[i],
			    "Unit %lu is %sreadable", i, readable ? "" : "not ");
		nr_private += !readable;
	}
	check_fdinfo(t, nr_private);
	TEST_ASSERT(s->nr_conversions, "Nothing was converted");

	make_shared(t, 0, t->nr);
	check_fdinfo(t, 0);
	check_shared(t, 0, t->nr);
	for (i = 1; i < t->nr && !s->holes; i++) {
		for (v = 0; v < NR_GUESTS; v++)
			TEST_ASSERT_EQ(at(t, i * t->unit)[v],
				       guest_cmd(t->c.vcpus[v])->rounds - 1);
	}
}

/* For the time that it is told, but one of each kind at least. */
static bool another_round(u64 *end, u64 rounds, u64 kinds)
{
	if (!rounds)
		*end = now_ms() + storm_seconds * 1000ULL;
	return rounds < kinds || now_ms() < *end;
}

TARGET_FIXTURE(storm)
FIXTURE_VARIANT_ADD(storm, page_cache) { .path = PATH_cache(CREATE_FLAGS) };
FIXTURE_VARIANT_ADD(storm, create) { .path = PATH_dax(CREATE_FLAGS) };

TEST_F_TIMEOUT(storm, conversions, STORM_TIMEOUT)
{
	struct storm_thread threads[ARRAY_SIZE(storm_threads)];
	u64 end, rounds, nr_conversions = 0;

	for (rounds = 0; another_round(&end, rounds, 3); rounds++) {
		struct storm s = {
			.t = &self->t,
			.owned = rounds % 3 < 2,
			.holes = rounds % 3 > 0,
		};

		storm_start(&s, threads);
		usleep(STORM_ROUND_MS * 1000);
		storm_stop(&s, threads);
		storm_check(&s);
		nr_conversions += s.nr_conversions;
	}
	printf("# %lu rounds, %lu conversions\n", rounds, nr_conversions);
	fflush(stdout);
}

TARGET_FIXTURE(storm_unbind)
FIXTURE_VARIANT_ADD(storm_unbind, create) { .path = PATH_dax(CREATE_FLAGS) };
FIXTURE_VARIANT_ADD(storm_unbind, create_keep) { .path = PATH_dax_keep };

TEST_F_TIMEOUT(storm_unbind, conversions, STORM_TIMEOUT)
{
	struct storm_thread threads[ARRAY_SIZE(storm_threads)];
	struct target *t = &self->t;
	u64 end, rounds;

	for (rounds = 0; another_round(&end, rounds, 2); rounds++) {
		struct storm s = {
			.t = t,
			.owned = rounds % 2,
			.holes = true,
			.dying = true,
		};

		storm_start(&s, threads);
		usleep(rounds % 7 * 20000);
		unbind();
		check_private(t, 0, t->nr);
		/* Nobody can take a pin back, and nobody gets the memory before. */
		storm_stop(&s, threads);
		check_dead(t);
		start_again(t);
	}
	printf("# %lu rounds\n", rounds);
	fflush(stdout);
}

/* -s SECONDS, which the harness does not know. */
static void seconds_from_args(int *argc, char **argv)
{
	int i, left = 0;

	for (i = 0; i < *argc; i++) {
		if (!strcmp(argv[i], "-s") && i + 1 < *argc)
			storm_seconds = atoi_positive("Seconds", argv[++i]);
		else
			argv[left++] = argv[i];
	}
	argv[left] = NULL;
	*argc = left;
}

int main(int argc, char *argv[])
{
	const char *path = device_from_args(&argc, argv);

	seconds_from_args(&argc, argv);
	require(!access(KVM_DEV_PATH, R_OK | W_OK), "There is no " KVM_DEV_PATH);
	require(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM),
		"KVM has no VMs of type KVM_X86_SW_PROTECTED_VM");
	require(kvm_has_gmem_attributes(), "KVM needs gmem_in_place_conversion=1");

	page_size = getpagesize();
	if (path) {
		require_device(path);
		use_device(path);
		require(dax.size / dax.align >= MIN_UNITS,
			"The device has less than four units of its alignment");
	}
	return test_harness_run(argc, argv);
}
