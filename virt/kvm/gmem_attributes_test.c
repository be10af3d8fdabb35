// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit test of the attributes of a guest_memfd, included by gmem_attributes.c.
 *
 * An inode that is no file of anybody has the tree, and an array has what should
 * be in it.
 */
#include <kunit/test.h>

#define NR_PAGES	40
#define NR_ROUNDS	3000

struct gmem_attributes_test {
	struct gmem_inode gi;
	u64 expected[NR_PAGES];
};

static struct inode *gmem_attributes_test_inode(struct kunit *test,
						struct gmem_attributes_test *t)
{
	struct inode *inode = &t->gi.vfs_inode;

	inode_init_once(inode);
	inode->i_mapping = &inode->i_data;
	inode->i_mapping->host = inode;
	init_rwsem(&inode->i_mapping->invalidate_lock);
	inode->i_size = NR_PAGES * PAGE_SIZE;
	INIT_LIST_HEAD(&t->gi.gmem_file_list);

	kvm_gmem_attributes_setup(inode);
	KUNIT_ASSERT_EQ(test, 0, kvm_gmem_attributes_init(inode, 0));
	return inode;
}

static void gmem_attributes_test_set(struct kunit *test,
				     struct gmem_attributes_test *t,
				     pgoff_t start, pgoff_t end, u64 attributes)
{
	struct inode *inode = &t->gi.vfs_inode;
	pgoff_t error_index;

	filemap_invalidate_lock(inode->i_mapping);
	KUNIT_EXPECT_EQ(test, 0, kvm_gmem_set_attributes(inode, start, end,
							 attributes,
							 &error_index));
	filemap_invalidate_unlock(inode->i_mapping);

	while (start < end)
		t->expected[start++] = attributes;
}

/* Every page has attributes, and a range of them ends only where they change. */
static bool gmem_attributes_test_check(struct gmem_attributes_test *t)
{
	struct inode *inode = &t->gi.vfs_inode;
	pgoff_t index, last, end = NR_PAGES - 1, nr_private = 0;
	bool ok = true;

	for (index = NR_PAGES; index--;) {
		if (t->expected[index] != t->expected[end])
			end = index;
		nr_private += !!t->expected[index];
		ok &= kvm_gmem_get_attributes(inode, index, &last) ==
		      t->expected[index] && last == end;
		ok &= kvm_gmem_range_has_attributes(inode, index, end + 1,
						    t->expected[index]);
		ok &= !kvm_gmem_range_has_attributes(inode, index, end + 2,
						     t->expected[index]);
	}

	filemap_invalidate_lock_shared(inode->i_mapping);
	ok &= kvm_gmem_nr_private(inode) == nr_private;
	filemap_invalidate_unlock_shared(inode->i_mapping);

	/* Nobody may have what is not there. */
	return ok && kvm_gmem_get_attributes(inode, NR_PAGES, NULL) ==
		     KVM_MEMORY_ATTRIBUTE_PRIVATE;
}

static void gmem_attributes_test_ranges(struct kunit *test)
{
	struct gmem_attributes_test *t;
	struct inode *inode;
	u32 random = 1;

	t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t);
	inode = gmem_attributes_test_inode(test, t);
	KUNIT_EXPECT_TRUE(test, gmem_attributes_test_check(t));

	for (int i = 0; i < NR_ROUNDS; i++) {
		pgoff_t start, end;
		u64 attributes;

		/* Always the same sequence; the upper bits are good enough. */
		random = random * 1664525 + 1013904223;
		start = (random >> 24) % NR_PAGES;
		end = start + 1 + (random >> 16 & 0xff) % (NR_PAGES - start);
		/* Small ones more often, so that there are many. */
		if (random >> 12 & 3)
			end = min(end, start + 3);
		attributes = random >> 11 & 1 ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0;

		gmem_attributes_test_set(test, t, start, end, attributes);
		KUNIT_ASSERT_TRUE_MSG(test, gmem_attributes_test_check(t),
				      "round %d: [%lu, %lu) is %llx", i, start,
				      end, attributes);
	}

	kvm_gmem_attributes_destroy(inode);
}

/* Nobody else sends signals to the thread of a test. */
static int gmem_attributes_test_convert_killed(struct inode *inode)
{
	pgoff_t error_index;
	int r;

	sigaddset(&current->pending.signal, SIGKILL);
	set_thread_flag(TIF_SIGPENDING);

	filemap_invalidate_lock(inode->i_mapping);
	r = kvm_gmem_set_attributes(inode, 0, NR_PAGES,
				    KVM_MEMORY_ATTRIBUTE_PRIVATE, &error_index);
	filemap_invalidate_unlock(inode->i_mapping);

	clear_thread_flag(TIF_SIGPENDING);
	sigdelset(&current->pending.signal, SIGKILL);
	return r;
}

/* A fatal signal ends the look at pages, and then nothing has changed. */
static void gmem_attributes_test_killed(struct kunit *test)
{
	struct gmem_attributes_test *t;
	struct inode *inode;
	struct folio *folio;

	t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t);
	inode = gmem_attributes_test_inode(test, t);

	/* There is a page to look at, and nobody uses it. */
	folio = folio_alloc(GFP_KERNEL, 0);
	KUNIT_ASSERT_NOT_NULL(test, folio);
	KUNIT_ASSERT_EQ(test, 0, xa_err(xa_store_irq(&inode->i_data.i_pages, 0,
						     folio, GFP_KERNEL)));

	KUNIT_EXPECT_EQ(test, -EINTR, gmem_attributes_test_convert_killed(inode));
	KUNIT_EXPECT_TRUE(test, gmem_attributes_test_check(t));

	gmem_attributes_test_set(test, t, 0, NR_PAGES,
				 KVM_MEMORY_ATTRIBUTE_PRIVATE);
	KUNIT_EXPECT_TRUE(test, gmem_attributes_test_check(t));

	xa_erase_irq(&inode->i_data.i_pages, 0);
	folio_put(folio);
	kvm_gmem_attributes_destroy(inode);
}

static struct kunit_case gmem_attributes_test_cases[] = {
	KUNIT_CASE(gmem_attributes_test_ranges),
	KUNIT_CASE(gmem_attributes_test_killed),
	{}
};

static struct kunit_suite gmem_attributes_test_suite = {
	.name = "kvm_gmem_attributes",
	.test_cases = gmem_attributes_test_cases,
};

kunit_test_suite(gmem_attributes_test_suite);
