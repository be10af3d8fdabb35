// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit test of how large guest mappings of a guest_memfd may be, included by
 * guest_memfd.c.
 *
 * The ends of a memslot are looked at by the MMU of x86 as well, and nobody
 * can ask without a fault: so ask the functions.
 */
#include <kunit/test.h>

#define TEST_GFN	(4ULL << PUD_ORDER)
#define TEST_PFN	(7ULL << PUD_ORDER)
#define NR_PMD		BIT_ULL(PMD_ORDER)
#define NR_PUD		BIT_ULL(PUD_ORDER)

static void gmem_order_test_slot(struct kunit *test)
{
	struct kvm_memory_slot slot = {
		.base_gfn = TEST_GFN,
		.npages = 2 * NR_PUD,
	};
	const struct {
		s64 base, end;	/* of the memslot, from where it should be */
		gfn_t gfn, pfn;
		int max_order, order;
	} cases[] = {
		{ 0, 0, 0, 0, PUD_ORDER, PUD_ORDER },
		{ 0, 0, 0, 0, PMD_ORDER, PMD_ORDER },
		{ 0, 0, 0, 0, 0, 0 },
		{ 0, 0, 5, 5, PUD_ORDER, PUD_ORDER },
		{ 0, 0, 2 * NR_PUD - 1, NR_PUD - 1, PUD_ORDER, PUD_ORDER },
		/* gfn and pfn are not congruent */
		{ 0, 0, 5, 6, PUD_ORDER, 0 },
		{ 0, 0, 5, 5 + NR_PMD, PUD_ORDER, PMD_ORDER },
		{ 0, 0, 5, 5 + NR_PMD / 2, PUD_ORDER, 0 },
		{ 0, 0, 5, 5 + NR_PUD / 2, PUD_ORDER, PMD_ORDER },
		/* the memslot starts within the block, or ends there */
		{ 1, 0, 5, 5, PUD_ORDER, 0 },
		{ 1, 0, NR_PMD, NR_PMD, PUD_ORDER, PMD_ORDER },
		{ 1, 0, NR_PUD, NR_PUD, PUD_ORDER, PUD_ORDER },
		{ NR_PMD, 0, NR_PMD, NR_PMD, PUD_ORDER, PMD_ORDER },
		{ 0, -1, 2 * NR_PUD - 2, NR_PUD - 2, PUD_ORDER, 0 },
		{ 0, -1, 2 * NR_PUD - NR_PMD - 1, NR_PUD - NR_PMD - 1,
		  PUD_ORDER, PMD_ORDER },
		{ 0, -1, NR_PUD - 1, NR_PUD - 1, PUD_ORDER, PUD_ORDER },
	};

	for (int i = 0; i < ARRAY_SIZE(cases); i++) {
		slot.base_gfn = TEST_GFN + cases[i].base;
		slot.npages = 2 * NR_PUD + cases[i].end - cases[i].base;
		KUNIT_EXPECT_EQ_MSG(test, cases[i].order,
				    kvm_gmem_slot_order(&slot,
							TEST_GFN + cases[i].gfn,
							TEST_PFN + cases[i].pfn,
							cases[i].max_order),
				    "case %d", i);
	}
}

static int gmem_order_test_result;

static int gmem_order_test_max_order(struct inode *inode, pgoff_t index,
				     unsigned long *pfn)
{
	*pfn = TEST_PFN + index;
	return gmem_order_test_result;
}

static void gmem_order_test_release(struct inode *inode)
{
}

static const struct guest_memfd_backend_ops gmem_order_test_ops = {
	.name = "test",
	.max_order = gmem_order_test_max_order,
	.release = gmem_order_test_release,
};

static int gmem_order_test_ask(struct kvm *kvm, struct kvm_memory_slot *slot,
			       gfn_t gfn, kvm_pfn_t *pfn)
{
	int order;

	KVM_MMU_LOCK(kvm);
	order = kvm_gmem_max_order(kvm, slot, gfn, pfn);
	KVM_MMU_UNLOCK(kvm);
	return order;
}

/* A VM with a file, of which the memslot has the second half. */
static struct kvm *gmem_order_test_init(struct kunit *test,
					struct kvm_memory_slot *slot)
{
	struct file *file;
	struct kvm *kvm;

	if (!kvm_gmem_mnt)
		kunit_skip(test, "KVM cannot be used here");

	kvm = kunit_kzalloc(test, sizeof(*kvm), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, kvm);
	KVM_MMU_LOCK_INIT(kvm);
	mutex_init(&kvm->slots_lock);
	file = kvm_gmem_create_file(kvm, PFN_PHYS(2 * NR_PUD), 0, true);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);

	*slot = (struct kvm_memory_slot){
		.base_gfn = TEST_GFN,
		.npages = NR_PUD,
		.gmem.file = file,
		.gmem.pgoff = NR_PUD,
	};
	gmem_order_test_result = PUD_ORDER;
	return kvm;
}

static void gmem_order_test_no_fault(struct kunit *test)
{
	struct kvm_memory_slot slot;
	struct kvm *kvm = gmem_order_test_init(test, &slot);
	struct file *file = slot.gmem.file;
	kvm_pfn_t pfn;

	/* The page cache, and no file at all. */
	KUNIT_EXPECT_EQ(test, 0, gmem_order_test_ask(kvm, &slot, TEST_GFN, &pfn));
	KUNIT_EXPECT_TRUE(test, is_error_pfn(pfn));
	GMEM_I(file_inode(file))->backend = &gmem_order_test_ops;
	slot.gmem.file = NULL;
	KUNIT_EXPECT_EQ(test, 0, gmem_order_test_ask(kvm, &slot, TEST_GFN, &pfn));
	KUNIT_EXPECT_TRUE(test, is_error_pfn(pfn));

	slot.gmem.file = file;
	KUNIT_EXPECT_EQ(test, PUD_ORDER,
			gmem_order_test_ask(kvm, &slot, TEST_GFN + 5, &pfn));
	KUNIT_EXPECT_EQ(test, TEST_PFN + NR_PUD + 5, pfn);
	slot.npages--;
	KUNIT_EXPECT_EQ(test, PMD_ORDER,
			gmem_order_test_ask(kvm, &slot, TEST_GFN, &pfn));
	gmem_order_test_result = -EFAULT;
	KUNIT_EXPECT_EQ(test, 0, gmem_order_test_ask(kvm, &slot, TEST_GFN, &pfn));
	KUNIT_EXPECT_TRUE(test, is_error_pfn(pfn));

	kvm_gmem_put_file(kvm, file);
}

static void gmem_order_test_set_attributes(struct kunit *test, struct file *file,
					   pgoff_t start, pgoff_t end,
					   u64 attributes)
{
	MA_STATE(mas, &GMEM_I(file_inode(file))->attributes, start, end - 1);

	filemap_invalidate_lock(file->f_mapping);
	KUNIT_EXPECT_EQ(test, 0, mas_store_gfp(&mas, xa_mk_value(attributes),
					       GFP_KERNEL));
	filemap_invalidate_unlock(file->f_mapping);
}

/* No mapping has shared and private pages, but others next to it may. */
static void gmem_order_test_attributes(struct kunit *test)
{
	const struct {
		pgoff_t start, end;	/* of the shared pages */
		gfn_t gfn;
		int order;
	} cases[] = {
		{ 0, 0, 5, PUD_ORDER },
		{ 0, 2 * NR_PUD, 5, PUD_ORDER },
		{ NR_PUD, 2 * NR_PUD, 5, PUD_ORDER },
		{ 0, NR_PUD, 5, PUD_ORDER },
		{ NR_PUD, NR_PUD + 1, 5, 0 },
		{ NR_PUD, NR_PUD + 1, 0, 0 },
		{ NR_PUD, NR_PUD + 1, NR_PMD, PMD_ORDER },
		{ NR_PUD + NR_PMD - 1, NR_PUD + NR_PMD, 5, 0 },
		{ NR_PUD + NR_PMD - 1, NR_PUD + NR_PMD, NR_PMD, PMD_ORDER },
		{ NR_PUD + NR_PMD, NR_PUD + 2 * NR_PMD, 5, PMD_ORDER },
		{ NR_PUD + NR_PMD, NR_PUD + 2 * NR_PMD, NR_PMD, PMD_ORDER },
		{ 2 * NR_PUD - 1, 2 * NR_PUD, 5, PMD_ORDER },
		{ 2 * NR_PUD - 1, 2 * NR_PUD, NR_PUD - 2, 0 },
	};
	struct kvm_memory_slot slot;
	struct kvm *kvm = gmem_order_test_init(test, &slot);
	struct file *file = slot.gmem.file;
	kvm_pfn_t pfn;

	GMEM_I(file_inode(file))->backend = &gmem_order_test_ops;

	for (int i = 0; i < ARRAY_SIZE(cases); i++) {
		gmem_order_test_set_attributes(test, file, 0, 2 * NR_PUD,
					       KVM_MEMORY_ATTRIBUTE_PRIVATE);
		if (cases[i].end)
			gmem_order_test_set_attributes(test, file,
						       cases[i].start,
						       cases[i].end, 0);
		KUNIT_EXPECT_EQ_MSG(test, cases[i].order,
				    gmem_order_test_ask(kvm, &slot,
							TEST_GFN + cases[i].gfn,
							&pfn),
				    "case %d", i);
	}

	/* What is being invalidated stays as it is. */
	gmem_order_test_set_attributes(test, file, 0, 2 * NR_PUD, 0);
	kvm->mmu_invalidate_in_progress = 1;
	kvm->mmu_invalidate_range_start = TEST_GFN;
	kvm->mmu_invalidate_range_end = TEST_GFN + NR_PMD;
	KUNIT_EXPECT_EQ(test, 0, gmem_order_test_ask(kvm, &slot, TEST_GFN, &pfn));
	kvm->mmu_invalidate_in_progress = 0;
	KUNIT_EXPECT_EQ(test, PUD_ORDER,
			gmem_order_test_ask(kvm, &slot, TEST_GFN, &pfn));

	kvm_gmem_put_file(kvm, file);
}

static struct kunit_case gmem_order_test_cases[] = {
	KUNIT_CASE(gmem_order_test_slot),
	KUNIT_CASE(gmem_order_test_no_fault),
	KUNIT_CASE(gmem_order_test_attributes),
	{}
};

static struct kunit_suite gmem_order_test_suite = {
	.name = "kvm_gmem_order",
	.test_cases = gmem_order_test_cases,
};

kunit_test_suite(gmem_order_test_suite);
