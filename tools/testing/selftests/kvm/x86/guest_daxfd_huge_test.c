// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sizes of the mappings of device-DAX memory in guests, as KVM counts them, and
 * of user mappings, by the number of faults.
 *
 * What must be mapped how is worked out here, from the physical extents that
 * fdinfo shows and from where the memslot is.
 *
 * DESTROYS THE CONTENTS of the device that -d or GUEST_DAXFD_DEV names.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daxfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"
#include "vmx.h"

#include "kvm_test_harness.h"

#define HARD_OFFLINE	"/sys/devices/system/memory/hard_offline_page"
#define NX_HUGE_PAGES	"/sys/module/kvm/parameters/nx_huge_pages"

#define SLOT		MEM_SLOT(0)
#define WINDOW		MEM_GPA(0)
#define WINDOW_SIZE	(8ULL * SZ_1G)

#define PAGES_PER_1G	(SZ_1G / SZ_4K)
#define BLOCKS_PER_1G	(SZ_1G / SZ_2M)
#define DELAY_MS	1000
/* Seconds: initialising a gigabyte takes an emulated CPU a while. */
#define TIMEOUT		120

/* Physical memory of the device. */
static struct dax_extent extents[MAX_EXTENTS];
static int nr_extents;

/* Offset of the first whole 1G of physical memory, and of the first 2M. */
static u64 giga, mega;
static bool has_giga, has_mega;

static const u64 sizes[] = { SZ_1G, SZ_2M, SZ_4K };

/* The first piece of physical memory that is aligned to its size. */
static bool find_aligned(u64 size, u64 *offset)
{
	int i;

	for (i = 0; i < nr_extents; i++) {
		u64 skip = -extents[i].phys & (size - 1);

		if (extents[i].size < size || extents[i].size - size < skip)
			continue;
		*offset = extents[i].offset + skip;
		return true;
	}
	return false;
}

static const struct dax_extent *extent_of(u64 offset)
{
	int i;

	for (i = 0; i < nr_extents - 1; i++) {
		if (offset - extents[i].offset < extents[i].size)
			break;
	}
	return &extents[i];
}

static u64 phys_of(u64 offset)
{
	const struct dax_extent *e = extent_of(offset);

	return e->phys + offset - e->offset;
}

static void learn_device(void)
{
	int vm_fd = ioctl(open_kvm_dev_path_or_exit(), KVM_CREATE_VM, VM_TYPE_DEFAULT);
	int dax_fd = dax_dev_open(&dax);
	int fd = gmem_create(vm_fd, CREATE_FLAGS | GUEST_MEMFD_FLAG_KEEP_DATA,
			     dax_fd, 0, dax.size);

	TEST_ASSERT(fd >= 0, "Claiming the device failed: %d", fd);
	nr_extents = fdinfo_extents(fd, extents, MAX_EXTENTS);
	TEST_ASSERT(nr_extents, "The file shows no extents");
	TEST_ASSERT_EQ(extents[nr_extents - 1].offset +
		       extents[nr_extents - 1].size, dax.size);
	kvm_close(fd);
	kvm_close(dax_fd);
	kvm_close(vm_fd);
	has_giga = find_aligned(SZ_1G, &giga);
	has_mega = find_aligned(SZ_2M, &mega);
}

/*
 * A memslot over a part of the device: all of the device is claimed, so that
 * offsets of the file are offsets of the device.
 */
struct place {
	u64 offset;
	gpa_t gpa;
	u64 size;
	void *hva;
};

/* The largest mapping at @gpa, if all of it is initialised. */
static u64 largest_at(const struct place *p, gpa_t gpa)
{
	u64 offset = p->offset + gpa - p->gpa;
	const struct dax_extent *e = extent_of(offset);
	u64 phys = phys_of(offset);
	int i;

	for (i = 0; sizes[i] > SZ_4K; i++) {
		u64 in = gpa & (sizes[i] - 1);

		if ((phys & (sizes[i] - 1)) != in)
			continue;
		if (gpa - p->gpa < in || p->gpa + p->size - (gpa - in) < sizes[i])
			continue;
		if (phys - e->phys < in ||
		    e->phys + e->size - (phys - in) < sizes[i])
			continue;
		break;
	}
	return sizes[i];
}

/* @gpa is congruent with physical memory, but for @shift. */
static struct place place_at(u64 offset, u64 size, u64 shift)
{
	return (struct place) {
		.offset = offset,
		.gpa = WINDOW + SZ_1G + (phys_of(offset) + shift) % SZ_1G,
		.size = size,
	};
}

static int slot_add(struct ctx *c, const struct place *p)
{
	if (c->path->daxfd)
		return slot_set(c->vm->fd, SLOT, KVM_MEM_GUEST_DAXFD, p->gpa,
				p->size, p->hva, c->dax_fd, p->offset);
	return slot_set(c->vm->fd, SLOT, KVM_MEM_GUEST_MEMFD, p->gpa, p->size,
			p->hva, c->gmem[0], p->offset);
}

static void slot_del(struct ctx *c)
{
	TEST_ASSERT_OK(slot_delete(c->vm->fd, SLOT));
}

static void place(struct ctx *c, const struct place *p)
{
	TEST_ASSERT_OK(slot_add(c, p));
	if (c->path->vm_type && !kvm_has_gmem_attributes())
		vm_mem_set_private(c->vm, p->gpa, p->size);

	/*
	 * Deleting another slot may have unmapped all memory.  Have the guest
	 * use its code and data, so that nothing but the slot is mapped later on.
	 */
	for (int i = 0; i < 2; i++)
		guest_read(c->vcpus[i], (gva_t)&dax);
}

/*
 * What KVM counts
 */

struct counts {
	u64 pages[ARRAY_SIZE(sizes)];
	u64 faults;
};

static struct counts count(struct kvm_vcpu *vcpu)
{
	return (struct counts) {
		.pages = {
			vm_get_stat(vcpu->vm, pages_1g),
			vm_get_stat(vcpu->vm, pages_2m),
			vm_get_stat(vcpu->vm, pages_4k),
		},
		.faults = vcpu_get_stat(vcpu, pf_fixed),
	};
}

/* The size of the mapping that an access made; 0 if there was one. */
static u64 touch_as(struct kvm_vcpu *vcpu, enum guest_op op, gpa_t gpa)
{
	struct counts before = count(vcpu), after;
	u64 size = 0;
	int i;

	TEST_ASSERT_OK(guest_do(vcpu, op, gpa, GUEST_DATA, 1));
	after = count(vcpu);
	TEST_ASSERT(after.faults - before.faults <= 1, "%lu faults at 0x%lx",
		    after.faults - before.faults, gpa);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		if (after.pages[i] > before.pages[i]) {
			TEST_ASSERT(!size, "Mapped at 0x%lx as 0x%lx and 0x%lx",
				    gpa, size, sizes[i]);
			size = sizes[i];
		}
	}
	TEST_ASSERT_EQ(after.faults - before.faults, size ? 1 : 0);
	return size;
}

static u64 touch(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	return touch_as(vcpu, GUEST_READ, gpa);
}

/*
 * The guest's own page tables map the window by pages of 1G, so that they need no
 * memory of their own, and are not what limits the size.
 */
static void huge_setup(struct __test_metadata *_metadata, struct ctx *c)
{
	if (!kvm_cpu_has(X86_FEATURE_GBPAGES))
		SKIP(return, "The CPU has no pages of 1G");
	if (!has_mega)
		SKIP(return, "%s has no 2M that are aligned", dax.name);

	virt_map_level(c->vm, WINDOW, WINDOW, WINDOW_SIZE, PG_LEVEL_1G);
	if (!c->path->daxfd)
		TEST_ASSERT_OK(claim(c, 0, c->dax_fd, 0, dax.size));
}

static bool needs_giga(struct __test_metadata *_metadata)
{
	if (!has_giga)
		SKIP(return false, "%s has no 1G that is aligned", dax.name);
	return true;
}

/*
 * Where nothing has to be initialised, the extent and the memslot decide.
 */

DAXFD_FIXTURE_WITH(keep, 2, huge_setup(_metadata, &self->c), check_after_test())
FIXTURE_VARIANT_ADD(keep, create_keep) { .path = PATH_create_keep };
FIXTURE_VARIANT_ADD(keep, short) { .path = PATH_short };

static void check_place(struct ctx *c, const struct place *p)
{
	const u64 at[] = { 0, p->size - page_size, p->size / 2, SZ_2M, SZ_1G };
	gpa_t gpa, mapped[ARRAY_SIZE(at)], end[ARRAY_SIZE(at)];
	int i, j, nr = 0;
	u64 size, expected;

	place(c, p);
	for (i = 0; i < ARRAY_SIZE(at); i++) {
		if (at[i] >= p->size)
			continue;
		gpa = (p->gpa + at[i]) & ~(page_size - 1);
		expected = largest_at(p, gpa);
		for (j = 0; j < nr; j++) {
			if (gpa >= mapped[j] && gpa < end[j])
				expected = 0;
		}
		size = touch(c->vcpu, gpa);
		TEST_ASSERT(size == expected,
			    "0x%lx (offset 0x%lx, phys 0x%lx; slot at 0x%lx + 0x%lx): mapped as 0x%lx, not 0x%lx",
			    gpa, p->offset + gpa - p->gpa,
			    phys_of(p->offset + gpa - p->gpa), p->gpa, p->size,
			    size, expected);
		if (size) {
			mapped[nr] = gpa & ~(size - 1);
			end[nr] = mapped[nr] + size;
			nr++;
		}
	}
	slot_del(c);
}

static void check_places(struct ctx *c, u64 shift)
{
	const u64 starts[] = { 0, SZ_4K, SZ_2M - SZ_4K, SZ_2M, SZ_1G - SZ_2M };
	const u64 lens[] = { SZ_4K, SZ_2M - SZ_4K, SZ_2M, SZ_2M + SZ_4K, SZ_4M,
			     SZ_1G - SZ_4K, SZ_1G, SZ_1G + SZ_4K,
			     SZ_1G + 3ULL * SZ_2M };
	u64 base = has_giga ? giga : mega;
	struct place p;
	int i, j;

	for (i = 0; i < ARRAY_SIZE(starts); i++) {
		for (j = 0; j < ARRAY_SIZE(lens); j++) {
			if (base + starts[i] + lens[j] > dax.size)
				continue;
			p = place_at(base + starts[i], lens[j], shift);
			check_place(c, &p);
		}
	}
}

TEST_F(keep, congruent)
{
	check_places(&self->c, 0);
}

TEST_F(keep, off_by_a_page)
{
	check_places(&self->c, SZ_4K);
	check_places(&self->c, SZ_1G - SZ_4K);
}

TEST_F(keep, off_by_2m)
{
	check_places(&self->c, SZ_2M);
	check_places(&self->c, SZ_1G - SZ_2M);
}

TEST_F(keep, off_by_almost_2m)
{
	check_places(&self->c, SZ_2M - SZ_4K);
	check_places(&self->c, SZ_512M + SZ_1M);
}

/* From the first page of the device to the last one, over all its extents. */
TEST_F(keep, whole_device)
{
	struct ctx *c = &self->c;
	struct place p = place_at(0, min_t(u64, dax.size, 4ULL * SZ_1G), 0);
	u64 size;
	gpa_t gpa;

	place(c, &p);
	for (gpa = p.gpa; gpa < p.gpa + p.size; gpa = (gpa & ~(size - 1)) + size) {
		size = largest_at(&p, gpa);
		TEST_ASSERT_EQ(touch(c->vcpu, gpa), size);
	}
}

/* The user address of a slot without user memory is nobody's business. */
TEST_F(keep, odd_userspace_addr)
{
	u64 base = has_giga ? giga : mega;
	struct place p = place_at(base, has_giga ? SZ_1G : SZ_2M, 0);
	struct ctx *c = &self->c;

	p.hva = kvm_mmap(SZ_4M, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	p.hva = (void *)(((u64)p.hva | (SZ_2M - 1)) + 1 + SZ_4K);
	place(c, &p);
	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa + SZ_1M), p.size);
}

TEST_F(keep, one_fault_per_1g)
{
	struct ctx *c = &self->c;
	struct counts before, after;
	struct place p;

	if (!needs_giga(_metadata))
		return;

	p = place_at(giga, SZ_1G, 0);
	place(c, &p);
	before = count(c->vcpu);
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_FILL, p.gpa, GUEST_DATA, PAGES_PER_1G));
	after = count(c->vcpu);
	TEST_ASSERT_EQ(after.faults - before.faults, 1);
	TEST_ASSERT_EQ(after.pages[0] - before.pages[0], 1);
	TEST_ASSERT_EQ(after.pages[1], before.pages[1]);
	TEST_ASSERT_EQ(after.pages[2], before.pages[2]);
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_CHECK, p.gpa, GUEST_DATA, PAGES_PER_1G));
}

/* Congruent modulo 2M and no more: one fault for each 2M, and none beside. */
TEST_F(keep, one_fault_per_2m)
{
	struct ctx *c = &self->c;
	struct counts before, after;
	struct place p;
	u64 nr;

	p = place_at(mega, (dax.size - mega) & ~(SZ_2M - 1ULL), SZ_2M);
	p.size = min_t(u64, p.size, extent_of(mega)->size) & ~(SZ_2M - 1ULL);
	p.size = min_t(u64, p.size, SZ_1G);
	nr = p.size / SZ_2M;
	place(c, &p);
	before = count(c->vcpu);
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_FILL, p.gpa, GUEST_DATA,
				p.size / page_size));
	after = count(c->vcpu);
	TEST_ASSERT_EQ(after.faults - before.faults, nr);
	TEST_ASSERT_EQ(after.pages[0], before.pages[0]);
	TEST_ASSERT_EQ(after.pages[1] - before.pages[1], nr);
	TEST_ASSERT_EQ(after.pages[2], before.pages[2]);
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_CHECK, p.gpa, GUEST_DATA,
				p.size / page_size));
}

TEST_F(keep, pre_fault)
{
	struct ctx *c = &self->c;
	struct counts before, after;
	struct place p;
	u64 left;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "KVM has no KVM_PRE_FAULT_MEMORY here (no two-dimensional paging)");
	if (!needs_giga(_metadata))
		return;

	p = place_at(giga, SZ_1G, 0);
	place(c, &p);
	before = count(c->vcpu);
	TEST_ASSERT_OK(pre_fault(c->vcpu, p.gpa, p.size, &left));
	after = count(c->vcpu);
	TEST_ASSERT_EQ(after.pages[0] - before.pages[0], 1);
	TEST_ASSERT_EQ(after.pages[1], before.pages[1]);
	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa + SZ_512M), 0);
}

/* Two vCPUs at once, each on its half, see one memory. */
struct half {
	struct kvm_vcpu *vcpu;
	gpa_t gpa;
	u64 nr;
};

static void *fill_half(void *arg)
{
	struct half *half = arg;

	TEST_ASSERT_OK(guest_do(half->vcpu, GUEST_FILL, half->gpa, GUEST_DATA,
				half->nr));
	return NULL;
}

TEST_F(keep, two_vcpus)
{
	struct ctx *c = &self->c;
	struct half halves[2];
	pthread_t threads[2];
	struct counts before, after;
	struct place p;
	int i;

	if (!needs_giga(_metadata))
		return;

	p = place_at(giga, SZ_1G, 0);
	place(c, &p);
	before = count(c->vcpu);
	for (i = 0; i < 2; i++) {
		halves[i] = (struct half) {
			c->vcpus[i], p.gpa + i * SZ_512M, PAGES_PER_1G / 2,
		};
		kvm_pthread_create(&threads[i], NULL, fill_half, &halves[i]);
	}
	for (i = 0; i < 2; i++)
		kvm_pthread_join(threads[i], NULL);
	after = count(c->vcpu);
	TEST_ASSERT_EQ(after.pages[0] - before.pages[0], 1);
	TEST_ASSERT_EQ(after.pages[1], before.pages[1]);
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_CHECK, p.gpa, GUEST_DATA, PAGES_PER_1G));
}

/*
 * A page with a memory error is what no mapping may contain.
 */

static void poison(u64 phys)
{
	FILE *f = fopen(HARD_OFFLINE, "w");

	TEST_ASSERT(f, "Opening " HARD_OFFLINE " failed");
	fprintf(f, "0x%lx", phys);
	TEST_ASSERT(!fclose(f), "Simulating a memory error failed");
}

TEST_F(keep, poison_in_a_mapping)
{
	struct ctx *c = &self->c;
	u64 bad = 3ULL * SZ_2M + SZ_1M;
	struct place p;

	if (!needs_giga(_metadata))
		return;

	p = place_at(giga, SZ_1G, 0);
	place(c, &p);
	guest_write(c->vcpu, p.gpa + bad - page_size, GUEST_DATA);
	guest_write(c->vcpu, p.gpa + bad + page_size, GUEST_DATA);
	TEST_ASSERT_EQ(vm_get_stat(c->vm, pages_1g), 1);
	poison(phys_of(giga + bad));

	/* All of it was unmapped.  Its 2M come back as pages, others as 2M. */
	TEST_ASSERT_EQ(vm_get_stat(c->vm, pages_1g), 0);
	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa + bad - page_size), SZ_4K);
	TEST_ASSERT_EQ(guest_cmd(c->vcpu)->val, GUEST_DATA);
	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa + bad + page_size), SZ_4K);
	TEST_ASSERT_EQ(guest_cmd(c->vcpu)->val, GUEST_DATA);
	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa + bad - SZ_2M), SZ_2M);
	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa + bad + SZ_2M), SZ_2M);
	TEST_ASSERT_ERR(guest_do(c->vcpus[1], GUEST_READ, p.gpa + bad, 0, 1),
			EHWPOISON);
	assert_memory_fault(c->vcpus[1], p.gpa + bad, page_size);
	slot_del(c);

	/* Binding the device anew forgets the error. */
	ctx_free(c);
	unbind();
	rebind();
}

/* A guest goes on using what is next to the page, all the time. */
TEST_F(keep, poison_beside_a_guest)
{
	struct ctx *c = &self->c;
	u64 bad = 3ULL * SZ_2M + SZ_1M;
	struct runner runner;
	struct place p;
	int i;

	if (!needs_giga(_metadata))
		return;

	p = place_at(giga, SZ_1G, 0);
	place(c, &p);
	runner_start(&runner, c->vcpu, p.gpa + bad + page_size, 8);
	for (i = 0; i < 8; i++) {
		poison(phys_of(giga + bad - i * page_size));
		TEST_ASSERT_EQ(vm_get_stat(c->vm, pages_1g), 0);
	}
	runner_stop(&runner);

	for (i = 0; i < 2; i++) {
		TEST_ASSERT_ERR(guest_do(c->vcpus[i], GUEST_READ,
					 p.gpa + bad - i * page_size, 0, 1), EHWPOISON);
		assert_memory_fault(c->vcpus[i], p.gpa + bad - i * page_size,
				    page_size);
	}
	slot_del(c);
	ctx_free(c);
	unbind();
	rebind();
}

/*
 * What is not initialised must not be mapped with what is.
 */

DAXFD_FIXTURE_WITH(zero, 2, huge_setup(_metadata, &self->c), check_after_test())
FIXTURE_VARIANT_ADD(zero, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(zero, sw_protected) { .path = PATH_sw_protected };

static void soil(struct ctx *c, const struct place *p, u64 offset, u64 len)
{
	unclaim(c, 0);
	dax_dev_fill(&dax, (p->offset + offset) / dax.align * dax.align,
		     max_t(u64, len, dax.align), OLD_DATA);
	TEST_ASSERT_OK(claim(c, 0, c->dax_fd, 0, dax.size));
}

/* The shadow MMU keeps a page table that a huge page replaced, for later. */
static bool replaced_is_unmapped(void)
{
	return kvm_is_tdp_enabled();
}

TEST_F_TIMEOUT(zero, lazily_by_2m, TIMEOUT)
{
	struct ctx *c = &self->c;
	struct counts before, after;
	struct place p;

	if (!needs_giga(_metadata))
		return;

	p = place_at(giga, SZ_1G, 0);
	soil(c, &p, 0, SZ_2M);
	place(c, &p);
	before = count(c->vcpu);
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_FILL, p.gpa, GUEST_DATA, PAGES_PER_1G));
	after = count(c->vcpu);
	/* The last block makes all of it ready, and is mapped with all of it. */
	TEST_ASSERT_EQ(after.faults - before.faults, BLOCKS_PER_1G);
	TEST_ASSERT_EQ(after.pages[0] - before.pages[0], 1);
	TEST_ASSERT_EQ(after.pages[2], before.pages[2]);
	if (replaced_is_unmapped())
		TEST_ASSERT_EQ(after.pages[1], before.pages[1]);
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_CHECK, p.gpa, GUEST_DATA, PAGES_PER_1G));
}

TEST_F_TIMEOUT(zero, fault_shows_no_old_data, TIMEOUT)
{
	struct ctx *c = &self->c;
	struct place p = place_at(mega, SZ_2M, 0);

	soil(c, &p, 0, SZ_2M);
	place(c, &p);
	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa + SZ_1M), SZ_2M);
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_READ, p.gpa, 0, 1));
	TEST_ASSERT_EQ(guest_cmd(c->vcpu)->val, 0);
	TEST_ASSERT_EQ(guest_read(c->vcpu, p.gpa + SZ_2M - page_size), 0);
}

TEST_F_TIMEOUT(zero, allocated_in_one, TIMEOUT)
{
	struct ctx *c = &self->c;
	struct counts before, after;
	struct place p;

	if (!needs_giga(_metadata))
		return;

	p = place_at(giga, SZ_1G, 0);
	place(c, &p);
	TEST_ASSERT_OK(do_fallocate(c->gmem[0], FALLOC_FL_KEEP_SIZE, giga, SZ_1G));
	before = count(c->vcpu);
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_FILL, p.gpa, GUEST_DATA, PAGES_PER_1G));
	after = count(c->vcpu);
	TEST_ASSERT_EQ(after.faults - before.faults, 1);
	TEST_ASSERT_EQ(after.pages[0] - before.pages[0], 1);
}

/* All but a block is ready: nothing larger than a block, and then all. */
TEST_F_TIMEOUT(zero, all_but_one_block, TIMEOUT)
{
	struct ctx *c = &self->c;
	u64 last = SZ_1G - SZ_2M;
	struct place p;

	if (!needs_giga(_metadata))
		return;

	p = place_at(giga, SZ_1G, 0);
	soil(c, &p, last, SZ_2M);
	place(c, &p);
	TEST_ASSERT_OK(do_fallocate(c->gmem[0], FALLOC_FL_KEEP_SIZE, giga, last));
	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa), SZ_2M);
	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa + last - page_size), SZ_2M);
	/* It is zeroed by its own first fault, which then finds all ready. */
	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa + last), SZ_1G);
	TEST_ASSERT_EQ(guest_cmd(c->vcpu)->val, 0);
	if (replaced_is_unmapped())
		TEST_ASSERT_EQ(vm_get_stat(c->vm, pages_2m), 0);
}

/* A hole in 1G that is ready and mapped as one; next to it there is data. */
static struct place place_with_hole(struct ctx *c, u64 hole, u64 len)
{
	struct place p = place_at(giga, SZ_1G, 0);

	place(c, &p);
	TEST_ASSERT_OK(do_fallocate(c->gmem[0], FALLOC_FL_KEEP_SIZE, giga, SZ_1G));
	TEST_ASSERT_EQ(touch_as(c->vcpu, GUEST_WRITE, p.gpa + hole), SZ_1G);
	guest_write(c->vcpu, p.gpa + hole - page_size, GUEST_DATA);
	guest_write(c->vcpu, p.gpa + hole + len, GUEST_DATA);

	TEST_ASSERT_OK(do_fallocate(c->gmem[0], FALLOC_PUNCH, giga + hole, len));
	TEST_ASSERT_EQ(vm_get_stat(c->vm, pages_1g), 0);
	return p;
}

/* A hole of a block makes it a block that is not ready. */
TEST_F_TIMEOUT(zero, hole_of_a_block, TIMEOUT)
{
	struct ctx *c = &self->c;
	u64 hole = 7ULL * SZ_2M;
	struct place p;

	if (!needs_giga(_metadata))
		return;

	p = place_with_hole(c, hole, SZ_2M);
	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa + hole - page_size), SZ_2M);
	TEST_ASSERT_EQ(guest_cmd(c->vcpu)->val, GUEST_DATA);
	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa + hole), SZ_1G);
	TEST_ASSERT_EQ(guest_cmd(c->vcpu)->val, 0);
	TEST_ASSERT_EQ(guest_read(c->vcpu, p.gpa + hole + SZ_2M), GUEST_DATA);
}

/* A hole of a page is zeroed where it is; all of it stays ready. */
TEST_F_TIMEOUT(zero, hole_of_a_page, TIMEOUT)
{
	struct ctx *c = &self->c;
	u64 hole = 7ULL * SZ_2M + SZ_64K;
	struct place p;

	if (!needs_giga(_metadata))
		return;

	p = place_with_hole(c, hole, page_size);
	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa + hole), SZ_1G);
	TEST_ASSERT_EQ(guest_cmd(c->vcpu)->val, 0);
	TEST_ASSERT_EQ(guest_read(c->vcpu, p.gpa + hole - page_size), GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(c->vcpu, p.gpa + hole + page_size), GUEST_DATA);
}

/*
 * While a hole is made, an access next to it must not map the hole again.
 */
struct punch {
	int fd;
	u64 offset;
	u64 len;
	bool done;
};

static void *punch_thread(void *arg)
{
	struct punch *punch = arg;

	TEST_ASSERT_OK(do_fallocate(punch->fd, FALLOC_PUNCH, punch->offset,
				    punch->len));
	WRITE_ONCE(punch->done, true);
	return NULL;
}

static void check_sibling(struct ctx *c, const struct place *p, u64 hole,
			  u64 len, u64 sibling)
{
	struct punch punch = {
		.fd = c->gmem[0],
		.offset = p->offset + hole,
		.len = len,
	};
	u64 start = now_ms(), before;
	pthread_t thread;

	TEST_ASSERT_OK(do_fallocate(c->gmem[0], FALLOC_FL_KEEP_SIZE, p->offset,
				    p->size));
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_FILL, p->gpa + hole, GUEST_DATA,
				len / page_size));
	delay_set("hole", DELAY_MS);
	kvm_pthread_create(&thread, NULL, punch_thread, &punch);
	/* Until the hole is unmapped, and is going to be zeroed. */
	while (vm_get_stat(c->vm, pages_1g) && now_ms() - start < 10 * DELAY_MS)
		usleep(1000);

	before = now_ms();
	guest_write(c->vcpus[1], p->gpa + sibling, GUEST_DATA);
	TEST_ASSERT(READ_ONCE(punch.done) || now_ms() - before >= DELAY_MS / 4,
		    "Mapped while the hole is made");
	kvm_pthread_join(thread, NULL);
	delay_set("hole", 0);

	TEST_ASSERT_EQ(guest_read(c->vcpu, p->gpa + hole), 0);
	TEST_ASSERT_EQ(guest_read(c->vcpu, p->gpa + hole + len - page_size), 0);
	TEST_ASSERT_EQ(guest_read(c->vcpu, p->gpa + sibling), GUEST_DATA);
}

static void check_siblings(struct __test_metadata *_metadata, struct ctx *c)
{
	struct place p;

	if (!needs_giga(_metadata))
		return;
	if (!delay_set("hole", 0))
		SKIP(return, "KVM lacks CONFIG_KVM_GUEST_DAXFD_DELAY");

	p = place_at(giga, SZ_1G, 0);
	place(c, &p);
	check_sibling(c, &p, 0, SZ_2M, SZ_1G - page_size);
	check_sibling(c, &p, SZ_1G - SZ_2M, SZ_2M, SZ_1G - SZ_2M - page_size);
	check_sibling(c, &p, 9ULL * SZ_2M, SZ_2M, 8ULL * SZ_2M);
	/* The hole of a page: a sibling far away, and in the same 2M. */
	check_sibling(c, &p, SZ_64K, page_size, SZ_512M);
	check_sibling(c, &p, SZ_64K, page_size, SZ_64K + page_size);
}

TEST_F_TIMEOUT(zero, sibling_of_a_hole, TIMEOUT)
{
	check_siblings(_metadata, &self->c);
}

DAXFD_FIXTURE_WITH(keep_hole, 2, huge_setup(_metadata, &self->c), check_after_test())
FIXTURE_VARIANT_ADD(keep_hole, create_keep) { .path = PATH_create_keep };

TEST_F_TIMEOUT(keep_hole, sibling_of_a_hole, TIMEOUT)
{
	check_siblings(_metadata, &self->c);
}

static void *allocate_thread(void *arg)
{
	struct punch *range = arg;

	TEST_ASSERT_OK(do_fallocate(range->fd, FALLOC_FL_KEEP_SIZE,
				    range->offset, range->len));
	return NULL;
}

/* Several allocate, a guest uses the memory: nobody's stores are zeroed. */
TEST_F_TIMEOUT(zero, allocated_by_many, TIMEOUT)
{
	struct ctx *c = &self->c;
	struct punch range;
	pthread_t threads[3];
	struct place p;
	int i;

	if (!needs_giga(_metadata))
		return;

	p = place_at(giga, SZ_1G, 0);
	place(c, &p);
	range = (struct punch) { .fd = c->gmem[0], .offset = giga, .len = SZ_1G };
	for (i = 0; i < ARRAY_SIZE(threads); i++)
		kvm_pthread_create(&threads[i], NULL, allocate_thread, &range);
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_FILL, p.gpa, GUEST_DATA, PAGES_PER_1G));
	for (i = 0; i < ARRAY_SIZE(threads); i++)
		kvm_pthread_join(threads[i], NULL);
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_CHECK, p.gpa, GUEST_DATA, PAGES_PER_1G));
}

/*
 * User mappings: a PMD where that is what the device's folios are, never more
 */

#define HOST_SIZE	(4ULL * SZ_2M)

static const struct path create_path = PATH_create;

FIXTURE(host) {
	struct ctx c;
	u64 *mem;
};

FIXTURE_SETUP(host)
{
	if (!has_mega || mega + HOST_SIZE > dax.size)
		SKIP(return, "%s has no 2M that are aligned", dax.name);

	ctx_setup(&self->c, &create_path, 1);
	TEST_ASSERT_OK(claim(&self->c, 0, self->c.dax_fd, 0, dax.size));
	self->mem = __kvm_mmap(HOST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			       self->c.gmem[0], mega);
}

FIXTURE_TEARDOWN_PARENT(host)
{
	check_after_test();
	assert_device_is_free();
}

static u64 *host_page(u64 *mem, u64 i)
{
	return mem + i * page_size / sizeof(*mem);
}

static long nr_faults(void)
{
	struct rusage usage;

	TEST_ASSERT(!getrusage(RUSAGE_SELF, &usage), "getrusage() failed");
	return usage.ru_minflt;
}

/* The number of faults that it takes to write to all pages of a range. */
static long host_fill(u64 *mem, u64 first, u64 nr)
{
	long before = nr_faults();
	u64 i;

	for (i = first; i < first + nr; i++)
		WRITE_ONCE(*host_page(mem, i), HOST_DATA + i);
	return nr_faults() - before;
}

static void host_check(u64 *mem, u64 first, u64 nr)
{
	u64 i;

	for (i = first; i < first + nr; i++)
		TEST_ASSERT_EQ(READ_ONCE(*host_page(mem, i)), HOST_DATA + i);
}

static sigjmp_buf sigsegv_jmpbuf;

static void sigsegv(int signum)
{
	siglongjmp(sigsegv_jmpbuf, 1);
}

static bool faults_with_sigsegv(u64 *mem)
{
	struct sigaction sa = { .sa_handler = sigsegv };

	sigaction(SIGSEGV, &sa, NULL);
	if (sigsetjmp(sigsegv_jmpbuf, 1))
		return true;
	READ_ONCE(*mem);
	return false;
}

static u64 faults_per_2m(void)
{
	return dax.align == SZ_2M && thp_is_on() ? 1 : SZ_2M / page_size;
}

TEST_F(host, aligned_address)
{
	if (!thp_configured())
		SKIP(return, "The kernel has no transparent huge pages");

	TEST_ASSERT_EQ(((u64)self->mem - mega) % SZ_2M, 0);
}

TEST_F(host, faults)
{
	TEST_ASSERT_EQ(host_fill(self->mem, 0, HOST_SIZE / page_size),
		       HOST_SIZE / SZ_2M * faults_per_2m());
	TEST_ASSERT_EQ(host_fill(self->mem, 0, HOST_SIZE / page_size), 0);
	host_check(self->mem, 0, HOST_SIZE / page_size);
}

/* The read fault comes first, and the write finds it mapped. */
TEST_F(host, read_then_write)
{
	long before = nr_faults();

	TEST_ASSERT_EQ(READ_ONCE(self->mem[0]), 0);
	WRITE_ONCE(self->mem[0], HOST_DATA);
	TEST_ASSERT(nr_faults() - before <= 2, "%ld faults", nr_faults() - before);
	host_check(self->mem, 0, 1);
}

/* A mapping that does not hold all of the 2M gets pages of it. */
TEST_F(host, part_of_2m)
{
	const u64 nr = SZ_2M / page_size;
	u64 *mem;

	mem = __kvm_mmap(SZ_2M, PROT_READ | PROT_WRITE, MAP_SHARED,
			 self->c.gmem[0], mega + page_size);
	TEST_ASSERT_EQ(host_fill(mem, 0, nr), nr);
	host_check(mem, 0, nr);
	TEST_ASSERT_EQ(READ_ONCE(*host_page(self->mem, 1)), HOST_DATA);
	kvm_munmap(mem, SZ_2M);
}

/* An address that was asked for may not be aligned as the memory is. */
TEST_F(host, odd_address)
{
	const u64 nr = SZ_2M / page_size;
	void *area, *mem;

	area = kvm_mmap(3 * SZ_2M, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	mem = (void *)((((u64)area | (SZ_2M - 1)) + 1) + page_size);
	TEST_ASSERT(mmap(mem, SZ_2M, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 self->c.gmem[0], mega) == mem, "mmap() failed");
	TEST_ASSERT_EQ(host_fill(mem, 0, nr), nr);
	host_check(self->mem, 0, nr);
}

TEST_F(host, hole_of_a_page)
{
	const u64 nr = SZ_2M / page_size, hole = nr + 5;

	host_fill(self->mem, 0, 3 * nr);
	TEST_ASSERT_OK(do_fallocate(self->c.gmem[0], FALLOC_PUNCH,
				    mega + hole * page_size, page_size));
	TEST_ASSERT_EQ(READ_ONCE(*host_page(self->mem, hole)), 0);
	host_check(self->mem, 0, hole);
	host_check(self->mem, hole + 1, 3 * nr - hole - 1);
}

TEST_F(host, unmapped_in_the_middle)
{
	const u64 nr = SZ_2M / page_size, hole = nr + 5;

	host_fill(self->mem, 0, 3 * nr);
	kvm_munmap(host_page(self->mem, hole), page_size);
	TEST_ASSERT(faults_with_sigsegv(host_page(self->mem, hole)),
		    "What was unmapped can be read");
	host_check(self->mem, 0, hole);
	host_check(self->mem, hole + 1, 3 * nr - hole - 1);
}

TEST_F(host, protected_in_the_middle)
{
	const u64 nr = SZ_2M / page_size, ro = nr + 5;

	host_fill(self->mem, 0, 3 * nr);
	TEST_ASSERT(!mprotect(host_page(self->mem, ro), page_size, PROT_READ),
		    "mprotect() failed");
	host_check(self->mem, 0, 3 * nr);
	TEST_ASSERT(!mprotect(host_page(self->mem, ro), page_size,
			      PROT_READ | PROT_WRITE), "mprotect() failed");
	host_fill(self->mem, 0, 3 * nr);
	host_check(self->mem, 0, 3 * nr);
}

TEST_F(host, forked)
{
	const u64 nr = SZ_2M / page_size;
	int status;
	pid_t pid;

	host_fill(self->mem, 0, nr);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		host_check(self->mem, 0, nr);
		host_fill(self->mem, nr, nr);
		_exit(0);
	}
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT_EQ(status, 0);
	host_check(self->mem, nr, nr);
}

/* A guest and its host see the same memory, whatever maps it how. */
TEST_F(host, with_a_guest)
{
	struct place p = place_at(mega, HOST_SIZE, 0);
	struct ctx *c = &self->c;
	u64 i, nr = HOST_SIZE / page_size;

	virt_map_level(c->vm, WINDOW, WINDOW, WINDOW_SIZE, PG_LEVEL_1G);
	TEST_ASSERT_OK(slot_add(c, &p));
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_FILL, p.gpa, GUEST_DATA, nr));
	for (i = 0; i < nr; i++)
		TEST_ASSERT_EQ(READ_ONCE(*host_page(self->mem, i)),
			       GUEST_DATA ^ (p.gpa + i * page_size));
	host_fill(self->mem, 0, nr);
	TEST_ASSERT_EQ(guest_read(c->vcpu, p.gpa + (nr - 1) * page_size),
		       HOST_DATA + nr - 1);
}

/*
 * Faults of pages and of all of it meet: neither must find what it does not
 * expect, and no store is lost.
 */
struct filler {
	u64 *mem;
	u64 first;
	bool stop;
};

static void *filler_thread(void *arg)
{
	const u64 nr = SZ_2M / page_size / 2;
	struct filler *filler = arg;

	while (!READ_ONCE(filler->stop)) {
		host_fill(filler->mem, filler->first, nr);
		host_check(filler->mem, filler->first, nr - 1);
	}
	return NULL;
}

static void fillers_run(u64 *mem, void (*disturb)(u64 *mem, int fd), int fd)
{
	struct filler fillers[2] = {
		{ .mem = mem, .first = 0 },
		{ .mem = mem, .first = SZ_2M / page_size / 2 },
	};
	pthread_t threads[2];
	u64 start = now_ms();
	int i;

	for (i = 0; i < 2; i++)
		kvm_pthread_create(&threads[i], NULL, filler_thread, &fillers[i]);
	while (now_ms() - start < 2 * DELAY_MS)
		disturb(mem, fd);
	for (i = 0; i < 2; i++)
		WRITE_ONCE(fillers[i].stop, true);
	for (i = 0; i < 2; i++)
		kvm_pthread_join(threads[i], NULL);
}

/* The last page of each half may read as zero. */
static void make_hole(u64 *mem, int fd)
{
	TEST_ASSERT_OK(do_fallocate(fd, FALLOC_PUNCH, mega + SZ_2M - page_size,
				    page_size));
}

static void drop_mapping(u64 *mem, int fd)
{
	TEST_ASSERT(!madvise(mem, SZ_2M, MADV_DONTNEED), "madvise() failed");
}

TEST_F(host, while_holes_are_made)
{
	fillers_run(self->mem, make_hole, self->c.gmem[0]);
}

/*
 * With pages it makes vmf_insert_page_mkwrite() fail, for any file: the page
 * table may be freed before the PTE is set.
 */
TEST_F(host, while_it_is_dropped)
{
	if (faults_per_2m() > 1)
		SKIP(return, "User mappings are of pages here");

	fillers_run(self->mem, drop_mapping, -1);
}

/*
 * Both kinds of fault wait for a hole: one that began while huge pages were
 * allowed, and one that began when they no longer were.
 */
static void *write_thread(void *arg)
{
	WRITE_ONCE(*(u64 *)arg, HOST_DATA);
	return NULL;
}

TEST_F(host, both_kinds_at_once)
{
	struct punch punch = {
		.fd = self->c.gmem[0],
		.offset = mega,
		.len = SZ_2M,
	};
	pthread_t threads[3];
	int i;

	if (!delay_set("hole", DELAY_MS))
		SKIP(return, "KVM lacks CONFIG_KVM_GUEST_DAXFD_DELAY");

	for (i = 0; i < 4; i++) {
		kvm_pthread_create(&threads[0], NULL, punch_thread, &punch);
		usleep(DELAY_MS * 1000 / 4);
		kvm_pthread_create(&threads[1], NULL, write_thread,
				   host_page(self->mem, 1));
		usleep(DELAY_MS * 1000 / 4);
		TEST_ASSERT(!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "prctl() failed");
		kvm_pthread_create(&threads[2], NULL, write_thread,
				   host_page(self->mem, 2));
		kvm_pthread_join(threads[0], NULL);
		kvm_pthread_join(threads[1], NULL);
		kvm_pthread_join(threads[2], NULL);
		TEST_ASSERT(!prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), "prctl() failed");
		TEST_ASSERT_EQ(*host_page(self->mem, 1), HOST_DATA);
		TEST_ASSERT_EQ(*host_page(self->mem, 2), HOST_DATA);
		/* With the page table, or the next round has no huge page. */
		drop_mapping(self->mem, -1);
	}
	delay_set("hole", 0);
}

/*
 * The other way round: who wants a page began while nothing was mapped, but
 * waits for the lock behind who wants a PMD.  That one must not come before the
 * second hole: it shares its CPU with who makes that, and is preempted.
 */
static void *punch_fifo_thread(void *arg)
{
	struct sched_param param = { .sched_priority = 1 };

	TEST_ASSERT(!sched_setscheduler(0, SCHED_FIFO, &param),
		    "Becoming a realtime task failed");
	return punch_thread(arg);
}

TEST_F(host, a_page_after_a_pmd)
{
	struct punch holes[] = {
		{ .fd = self->c.gmem[0], .offset = mega, .len = SZ_2M },
		/* Leaves our memory alone, and has it wait all the same. */
		{ .fd = self->c.gmem[0], .offset = mega + SZ_2M, .len = SZ_2M },
	};
	pthread_t threads[4];
	int i, j;

	if (!delay_set("hole", DELAY_MS))
		SKIP(return, "KVM lacks CONFIG_KVM_GUEST_DAXFD_DELAY");

	pin_self_to_cpu(0);
	for (i = 0; i < 3; i++) {
		kvm_pthread_create(&threads[0], NULL, punch_thread, &holes[0]);
		usleep(DELAY_MS * 1000 / 4);
		kvm_pthread_create(&threads[1], NULL, write_thread,
				   host_page(self->mem, 1));
		usleep(DELAY_MS * 1000 / 4);
		kvm_pthread_create(&threads[2], NULL, punch_fifo_thread,
				   &holes[1]);
		kvm_pthread_join(threads[0], NULL);
		/* The memory of the PMD is initialised meanwhile. */
		usleep(DELAY_MS * 1000 / 2);
		TEST_ASSERT(!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "prctl() failed");
		kvm_pthread_create(&threads[3], NULL, write_thread,
				   host_page(self->mem, 2));
		for (j = 1; j < ARRAY_SIZE(threads); j++)
			kvm_pthread_join(threads[j], NULL);
		TEST_ASSERT(!prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), "prctl() failed");
		TEST_ASSERT_EQ(*host_page(self->mem, 1), HOST_DATA);
		TEST_ASSERT_EQ(*host_page(self->mem, 2), HOST_DATA);
		drop_mapping(self->mem, -1);
	}
	delay_set("hole", 0);
}

/*
 * What else limits the size of a mapping
 */

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	TEST_ASSERT(f, "Opening %s failed", path);
	fprintf(f, "%s", text);
	TEST_ASSERT(!fclose(f), "Writing '%s' to %s failed", text, path);
}

static void stop_forcing(void)
{
	write_file(NX_HUGE_PAGES, "auto");
	check_after_test();
}

DAXFD_FIXTURE_WITH(limit, 2, (void)0, stop_forcing())
FIXTURE_VARIANT_ADD(limit, create_keep) { .path = PATH_create_keep };

#define OPCODE_RET	0xc3

/* Pages that are executed are small, if the CPU must be kept from an erratum. */
TEST_F(limit, nx_huge_pages)
{
	struct ctx *c = &self->c;
	struct guest_cmd *cmd;
	struct place p;
	u64 *mem;

	write_file(NX_HUGE_PAGES, "force");
	huge_setup(_metadata, c);
	p = place_at(mega, SZ_2M, 0);
	mem = __kvm_mmap(SZ_2M, PROT_READ | PROT_WRITE, MAP_SHARED, c->gmem[0], mega);
	mem[SZ_64K / sizeof(*mem)] = OPCODE_RET;
	place(c, &p);

	TEST_ASSERT_EQ(touch(c->vcpu, p.gpa), SZ_2M);
	cmd = guest_cmd(c->vcpu);
	cmd->fn = (void *)(p.gpa + SZ_64K);
	TEST_ASSERT_OK(guest_do(c->vcpu, GUEST_CALL, p.gpa, 0, 1));
	TEST_ASSERT_EQ(vm_get_stat(c->vm, pages_2m), 0);
	TEST_ASSERT_EQ(vm_get_stat(c->vm, nx_lpage_splits), 1);
	/* What is read next to it is small as well, and right. */
	mem[SZ_1M / sizeof(*mem)] = 1;
	TEST_ASSERT_EQ(guest_read(c->vcpu, p.gpa + SZ_1M), 1);
	TEST_ASSERT_EQ(vm_get_stat(c->vm, pages_2m), 0);
}

/*
 * Page tables that KVM shadows may put the pages of a huge page anywhere: those
 * of a guest without nested paging, and the nested page tables of L1.
 */
#define ALIAS	(WINDOW + 64ULL * SZ_1G)
#define NR_ALIAS 4

/* Pages next to each other in virtual memory are 3 pages from each other. */
static gpa_t alias_target(gpa_t gpa, int i)
{
	return gpa + ((i * 3 + 1) % 16) * SZ_4K;
}

TEST_F(limit, small_guest_ptes)
{
	struct ctx *c = &self->c;
	struct place p;
	int i;

	huge_setup(_metadata, c);
	p = place_at(mega, SZ_2M, 0);
	place(c, &p);
	for (i = 0; i < NR_ALIAS; i++)
		virt_pg_map(c->vm, ALIAS + i * SZ_4K, alias_target(p.gpa, i));
	for (i = 0; i < 16; i++)
		guest_write(c->vcpu, p.gpa + i * SZ_4K, p.gpa + i * SZ_4K);
	for (i = 0; i < NR_ALIAS; i++)
		TEST_ASSERT_EQ(guest_read(c->vcpu, ALIAS + i * SZ_4K),
			       alias_target(p.gpa, i));

	/* And the other way round, on memory that nothing maps yet. */
	slot_del(c);
	place(c, &p);
	TEST_ASSERT_EQ(guest_read(c->vcpu, ALIAS), alias_target(p.gpa, 0));
	TEST_ASSERT_EQ(vm_get_stat(c->vm, pages_2m), kvm_is_tdp_enabled() ? 1 : 0);
	for (i = 0; i < NR_ALIAS; i++)
		TEST_ASSERT_EQ(guest_read(c->vcpu, ALIAS + i * SZ_4K),
			       alias_target(p.gpa, i));
}

static void read_aliases(void)
{
	/* The first page says where it is, and by that where the others are. */
	gpa_t gpa = READ_ONCE(*(u64 *)ALIAS);
	bool scattered = gpa % SZ_2M;
	int i;

	for (i = 0; i < NR_ALIAS; i++)
		GUEST_ASSERT_EQ(READ_ONCE(*(u64 *)(ALIAS + i * SZ_4K)), scattered ?
				alias_target(gpa - SZ_4K, i) : gpa + i * SZ_4K);
}

static void l2_code(void)
{
	read_aliases();
	vmcall();
}

static void l1_code(void *data)
{
	if (this_cpu_has(X86_FEATURE_VMX)) {
		struct vmx_pages *vmx = data;

		GUEST_ASSERT(prepare_for_vmx_operation(vmx));
		GUEST_ASSERT(load_vmcs(vmx));
		prepare_vmcs(vmx, l2_code);
		GUEST_ASSERT(!vmlaunch());
		GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
	} else {
		struct svm_test_data *svm = data;

		generic_svm_setup(svm, l2_code);
		run_guest(svm->vmcb, svm->vmcb_gpa);
		GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
	}
	GUEST_DONE();
}

/* In L2, virtual addresses go straight to the aliases; L1 scatters those. */
static void check_nested(int dax_fd, bool scattered)
{
	struct place p;
	struct kvm_vcpu *vcpu;
	gva_t nested_gva = 0;
	struct counts before;
	struct kvm_vm *vm;
	struct ucall uc;
	u64 *mem;
	int fd, i;

	p = place_at(mega, SZ_2M, 0);
	vm = vm_create_with_one_vcpu(&vcpu, l1_code);
	vm_enable_tdp(vm);
	if (kvm_cpu_has(X86_FEATURE_VMX))
		vcpu_alloc_vmx(vm, &nested_gva);
	else
		vcpu_alloc_svm(vm, &nested_gva);
	vcpu_args_set(vcpu, 1, nested_gva);

	fd = gmem_create(vm->fd, CREATE_FLAGS | GUEST_MEMFD_FLAG_KEEP_DATA,
			 dax_fd, 0, dax.size);
	TEST_ASSERT(fd >= 0, "Claiming the device failed: %d", fd);
	mem = __kvm_mmap(SZ_2M, PROT_READ | PROT_WRITE, MAP_SHARED, fd, mega);
	for (i = 0; i < SZ_2M / SZ_4K; i++)
		mem[i * SZ_4K / 8] = p.gpa + i * SZ_4K;
	TEST_ASSERT_OK(slot_set(vm->fd, SLOT, KVM_MEM_GUEST_MEMFD, p.gpa, p.size,
				NULL, fd, mega));

	virt_map(vm, ALIAS, ALIAS, NR_ALIAS);
	tdp_identity_map_default_memslots(vm);
	for (i = 0; i < NR_ALIAS; i++)
		tdp_map(vm, ALIAS + i * SZ_4K, scattered ?
			alias_target(p.gpa, i) : p.gpa + i * SZ_4K, SZ_4K);

	before = count(vcpu);
	vcpu_run(vcpu);
	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT_EQ(uc.cmd, UCALL_DONE);
	/* None of L2's is huge, as none of L1's page table entries is. */
	TEST_ASSERT_EQ(vm_get_stat(vm, pages_2m), before.pages[1]);
	kvm_munmap(mem, SZ_2M);
	kvm_vm_free(vm);
	kvm_close(fd);
}

TEST_F(limit, small_nested_ptes)
{
	if (!kvm_is_tdp_enabled() || !kvm_cpu_has_tdp())
		SKIP(return, "KVM has no nested two-dimensional paging here");
	check_nested(dax_dev_open(&dax), true);
	check_nested(dax_dev_open(&dax), false);
}

int main(int argc, char *argv[])
{
	const char *path = device_from_args(&argc, argv);

	require_device(path);
	require(!access(HARD_OFFLINE, W_OK),
		"There is no " HARD_OFFLINE ": it takes CONFIG_MEMORY_FAILURE and MEMORY_HOTPLUG");

	use_device(path);
	learn_device();
	return test_harness_run(argc, argv);
}
