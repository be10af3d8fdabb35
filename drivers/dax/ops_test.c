// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the dax operations, included by ops.c.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/range.h>
#include <linux/sizes.h>
#include <linux/workqueue.h>

/*
 * The window that a caller under dax_read_lock() is in when it has seen the
 * device alive and kill_dax() has cleared that since: dax_direct_access() does
 * not look again, so the operations must.
 */
static void dev_dax_test_dying_device(struct kunit *test)
{
	struct dax_device *dax_dev;
	struct dev_dax *dev_dax;
	unsigned long pfn;
	void *kaddr;

	dev_dax = kunit_kzalloc(test, sizeof(*dev_dax), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, dev_dax);
	dax_dev = alloc_dax(dev_dax, &dev_dax_ops);
	if (PTR_ERR_OR_ZERO(dax_dev) == -EOPNOTSUPP)
		kunit_skip(test, "no dax operations with an aliasing data cache");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dax_dev);

	/* An empty device that is alive: the offset is out of range. */
	KUNIT_EXPECT_EQ(test, -EFAULT,
			dev_dax_ops.direct_access(dax_dev, 0, 1, DAX_ACCESS,
						  &kaddr, &pfn));

	kill_dax(dax_dev);
	KUNIT_EXPECT_EQ(test, -ENXIO,
			dev_dax_ops.direct_access(dax_dev, 0, 1, DAX_ACCESS,
						  &kaddr, &pfn));
	KUNIT_EXPECT_EQ(test, -ENXIO,
			dev_dax_ops.zero_page_range(dax_dev, 0, 1));

	put_dax(dax_dev);
}

struct dev_dax_test_kill {
	struct work_struct work;
	struct completion done;
	struct dax_device *dax_dev;
};

static void dev_dax_test_kill_work(struct work_struct *work)
{
	struct dev_dax_test_kill *kill =
		container_of(work, struct dev_dax_test_kill, work);

	dax_claims_kill(kill->dax_dev);
	complete(&kill->done);
}

/*
 * Who finds a claim alive in a read section is not to find the device dead
 * further on, and to fail with the error of a device instead of a claim.
 */
static void dev_dax_test_kill_waits(struct kunit *test)
{
	struct dev_dax_test_kill kill;
	int id;

	kill.dax_dev = alloc_dax(NULL, NULL);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, kill.dax_dev);
	init_completion(&kill.done);
	INIT_WORK_ONSTACK(&kill.work, dev_dax_test_kill_work);

	id = dax_read_lock();
	schedule_work(&kill.work);
	KUNIT_EXPECT_EQ(test, 0,
			wait_for_completion_timeout(&kill.done, HZ / 10));
	dax_read_unlock(id);
	flush_work(&kill.work);
	KUNIT_EXPECT_TRUE(test, completion_done(&kill.done));
	destroy_work_on_stack(&kill.work);

	kill_dax(kill.dax_dev);
	put_dax(kill.dax_dev);
}

/* Two ranges that are adjacent on the device and nowhere else. */
static void dev_dax_test_ranges(struct kunit *test)
{
	struct dev_dax_range ranges[] = {
		{
			.pgoff = 0,
			.range = DEFINE_RANGE(SZ_4G, SZ_4G + SZ_2M - 1),
		}, {
			.pgoff = PHYS_PFN(SZ_2M),
			.range = DEFINE_RANGE(SZ_2G, SZ_2G + SZ_4M - 1),
		},
	};
	const pgoff_t second = PHYS_PFN(SZ_2M), end = PHYS_PFN(SZ_4M + SZ_2M);
	struct dax_device *dax_dev;
	struct dev_dax *dev_dax;
	unsigned long pfn;

	dev_dax = kunit_kzalloc(test, sizeof(*dev_dax), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, dev_dax);
	dev_dax->nr_range = ARRAY_SIZE(ranges);
	dev_dax->ranges = ranges;
	dax_dev = alloc_dax(dev_dax, &dev_dax_ops);
	if (PTR_ERR_OR_ZERO(dax_dev) == -EOPNOTSUPP)
		kunit_skip(test, "no dax operations with an aliasing data cache");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dax_dev);

	/* Short count at the end of a range. */
	KUNIT_EXPECT_EQ(test, 1,
			dev_dax_ops.direct_access(dax_dev, second - 1, end,
						  DAX_ACCESS, NULL, &pfn));
	KUNIT_EXPECT_EQ(test, PHYS_PFN(SZ_4G + SZ_2M) - 1, pfn);
	KUNIT_EXPECT_EQ(test, PHYS_PFN(SZ_4M),
			dev_dax_ops.direct_access(dax_dev, second, end,
						  DAX_ACCESS, NULL, &pfn));
	KUNIT_EXPECT_EQ(test, PHYS_PFN(SZ_2G), pfn);
	KUNIT_EXPECT_EQ(test, 2,
			dev_dax_ops.direct_access(dax_dev, second, 2,
						  DAX_ACCESS, NULL, &pfn));
	KUNIT_EXPECT_EQ(test, -EFAULT,
			dev_dax_ops.direct_access(dax_dev, end, 1, DAX_ACCESS,
						  NULL, &pfn));

	kill_dax(dax_dev);
	put_dax(dax_dev);
}

/* A device with memory, and a provider that may be able to repair it. */
#define TEST_ORDER	3
#define TEST_PAGES	BIT(TEST_ORDER)

struct dev_dax_test_repair {
	struct dax_region region;
	struct dev_dax_range ranges[2];
	struct dev_dax dev_dax;
	struct dax_device *dax_dev;
	void *mem;
};

/*
 * What the provider is asked to clear, how much of it works, and where there is
 * an error meanwhile.
 */
static phys_addr_t fake_phys;
static long fake_cleared;
static int fake_calls;
static struct dax_device *fake_error_dev;
static pgoff_t fake_error;

static long fake_clear_poison(struct device *dev, phys_addr_t phys,
			      unsigned int len)
{
	fake_calls++;
	fake_phys = phys;
	if (fake_error_dev)
		dax_poison_add(fake_error_dev, fake_error, 1);
	return fake_cleared;
}

static void dev_dax_test_free(void *mem)
{
	free_pages((unsigned long)mem, TEST_ORDER);
}

static void dev_dax_test_kill(void *dax_dev)
{
	kill_dax(dax_dev);
	dax_poison_forget(dax_dev);
	put_dax(dax_dev);
}

/* The second half of the memory comes first. */
static struct dev_dax_test_repair *dev_dax_test_repairable(struct kunit *test)
{
	struct dev_dax_test_repair *t;
	phys_addr_t phys;

	t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t);
	t->mem = (void *)__get_free_pages(GFP_KERNEL, TEST_ORDER);
	KUNIT_ASSERT_NOT_NULL(test, t->mem);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test,
							   dev_dax_test_free,
							   t->mem));
	memset(t->mem, 0xff, TEST_PAGES * PAGE_SIZE);

	phys = virt_to_phys(t->mem);
	for (int i = 0; i < 2; i++) {
		u64 start = phys + (1 - i) * PFN_PHYS(TEST_PAGES / 2);

		t->ranges[i].pgoff = i * TEST_PAGES / 2;
		t->ranges[i].range =
			DEFINE_RANGE(start, start + PFN_PHYS(TEST_PAGES / 2) - 1);
	}
	t->region.clear_poison = fake_clear_poison;
	t->dev_dax.region = &t->region;
	t->dev_dax.nr_range = 2;
	t->dev_dax.ranges = t->ranges;

	t->dax_dev = alloc_dax(&t->dev_dax, &dev_dax_ops);
	if (PTR_ERR_OR_ZERO(t->dax_dev) == -EOPNOTSUPP)
		kunit_skip(test, "no dax operations with an aliasing data cache");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, t->dax_dev);
	t->dev_dax.dax_dev = t->dax_dev;
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test,
							   dev_dax_test_kill,
							   t->dax_dev));
	fake_calls = 0;
	fake_cleared = PAGE_SIZE;
	fake_error_dev = NULL;
	return t;
}

static u8 *dev_dax_test_page(struct dev_dax_test_repair *t, pgoff_t pgoff)
{
	return t->mem + PFN_PHYS((pgoff + TEST_PAGES / 2) % TEST_PAGES);
}

static void dev_dax_test_expect(struct kunit *test, struct dev_dax_test_repair *t,
				pgoff_t pgoff, u8 val)
{
	KUNIT_EXPECT_NULL_MSG(test, memchr_inv(dev_dax_test_page(t, pgoff), val,
					       PAGE_SIZE),
			      "page %lu", pgoff);
}

static void dev_dax_test_record(struct kunit *test)
{
	struct dax_device *dax_dev = dev_dax_test_repairable(test)->dax_dev;

	KUNIT_EXPECT_EQ(test, 8, dax_poison_find(dax_dev, 0, 8));
	dax_poison_add(dax_dev, 3, 1);
	dax_poison_add(dax_dev, 3, 1);
	dax_poison_add(dax_dev, 5, 2);
	KUNIT_EXPECT_EQ(test, 3, dax_poison_count(dax_dev, 0, 8));
	KUNIT_EXPECT_EQ(test, 1, dax_poison_count(dax_dev, 6, 2));
	KUNIT_EXPECT_EQ(test, 3, dax_poison_find(dax_dev, 0, 8));
	KUNIT_EXPECT_EQ(test, 3, dax_poison_find(dax_dev, 0, 3));
	KUNIT_EXPECT_EQ(test, 5, dax_poison_find(dax_dev, 4, 8));
	KUNIT_EXPECT_EQ(test, 7, dax_poison_find(dax_dev, 7, 0));
	KUNIT_EXPECT_FALSE(test, dax_poisoned(dax_dev, 0, 3));
	KUNIT_EXPECT_TRUE(test, dax_poisoned(dax_dev, 0, 4));
	KUNIT_EXPECT_FALSE(test, dax_poisoned(dax_dev, 4, 1));
	KUNIT_EXPECT_FALSE(test, dax_poisoned(dax_dev, 3, 0));

	dax_poison_del(dax_dev, 3, dax_poison_get(dax_dev, 3));
	KUNIT_EXPECT_FALSE(test, dax_poisoned(dax_dev, 0, 5));
	dax_poison_forget(dax_dev);
	KUNIT_EXPECT_FALSE(test, dax_poisoned(dax_dev, 0, 8));
}

/* Access ends before the page, except in order to recover it. */
static void dev_dax_test_poison_access(struct kunit *test)
{
	struct dax_device *dax_dev = dev_dax_test_repairable(test)->dax_dev;

	dax_poison_add(dax_dev, 2, 1);
	KUNIT_EXPECT_EQ(test, 2,
			dev_dax_ops.direct_access(dax_dev, 0, TEST_PAGES,
						  DAX_ACCESS, NULL, NULL));
	KUNIT_EXPECT_EQ(test, -EHWPOISON,
			dev_dax_ops.direct_access(dax_dev, 2, TEST_PAGES,
						  DAX_ACCESS, NULL, NULL));
	KUNIT_EXPECT_EQ(test, TEST_PAGES / 2 - 2,
			dev_dax_ops.direct_access(dax_dev, 2, TEST_PAGES,
						  DAX_RECOVERY_WRITE, NULL,
						  NULL));
	KUNIT_EXPECT_EQ(test, 1,
			dev_dax_ops.direct_access(dax_dev, 3, TEST_PAGES,
						  DAX_ACCESS, NULL, NULL));
}

static int dev_dax_test_zero_good(struct dax_device *dax_dev, pgoff_t pgoff,
				  unsigned long nr_pages)
{
	int id = dax_read_lock(), rc;

	rc = dev_dax_zero_good(dax_dev, pgoff, nr_pages);
	dax_read_unlock(id);
	return rc;
}

static void dev_dax_test_zero_skips(struct kunit *test)
{
	struct dev_dax_test_repair *t = dev_dax_test_repairable(test);

	dax_poison_add(t->dax_dev, 0, 1);
	dax_poison_add(t->dax_dev, 3, 2);
	KUNIT_EXPECT_EQ(test, 0,
			dev_dax_test_zero_good(t->dax_dev, 0, TEST_PAGES));
	KUNIT_EXPECT_EQ(test, 0, fake_calls);
	for (pgoff_t i = 0; i < TEST_PAGES; i++)
		dev_dax_test_expect(test, t, i, i == 0 || i == 3 || i == 4 ?
				    0xff : 0);
}

static void dev_dax_test_zero_repairs(struct kunit *test)
{
	struct dev_dax_test_repair *t = dev_dax_test_repairable(test);

	dax_poison_add(t->dax_dev, 5, 1);
	KUNIT_EXPECT_EQ(test, 0,
			dev_dax_ops.zero_page_range(t->dax_dev, 0, TEST_PAGES));
	KUNIT_EXPECT_EQ(test, 1, fake_calls);
	KUNIT_EXPECT_EQ(test, virt_to_phys(dev_dax_test_page(t, 5)), fake_phys);
	KUNIT_EXPECT_FALSE(test, dax_poisoned(t->dax_dev, 0, TEST_PAGES));
	for (pgoff_t i = 0; i < TEST_PAGES; i++)
		dev_dax_test_expect(test, t, i, 0);
}

/* Refused, or half done: the page stays as it is, and on record. */
static void dev_dax_test_zero_fails(struct kunit *test)
{
	const long cleared[] = { -ENXIO, 0, PAGE_SIZE / 2 };
	struct dev_dax_test_repair *t = dev_dax_test_repairable(test);

	dax_poison_add(t->dax_dev, 1, 1);
	for (int i = 0; i <= ARRAY_SIZE(cleared); i++) {
		if (i < ARRAY_SIZE(cleared))
			fake_cleared = cleared[i];
		else
			t->region.clear_poison = NULL;
		KUNIT_EXPECT_EQ(test, -EIO,
				dev_dax_ops.zero_page_range(t->dax_dev, 0, 3));
		KUNIT_EXPECT_TRUE(test, dax_poisoned(t->dax_dev, 1, 1));
	}
	KUNIT_EXPECT_EQ(test, ARRAY_SIZE(cleared), fake_calls);
	dev_dax_test_expect(test, t, 0, 0);
	dev_dax_test_expect(test, t, 1, 0xff);
	dev_dax_test_expect(test, t, 2, 0xff);
}

static int dev_dax_test_do_wipe(struct dax_device *dax_dev)
{
	int id = dax_read_lock(), rc;

	rc = dev_dax_wipe(dax_dev, 0, TEST_PAGES);
	dax_read_unlock(id);
	return rc;
}

/* What cannot be repaired keeps nobody from wiping the rest. */
static void dev_dax_test_wipe(struct kunit *test)
{
	struct dev_dax_test_repair *t = dev_dax_test_repairable(test);

	dax_poison_add(t->dax_dev, 2, 1);
	fake_cleared = -EIO;
	KUNIT_EXPECT_EQ(test, 0, dev_dax_test_do_wipe(t->dax_dev));
	KUNIT_EXPECT_EQ(test, 1, fake_calls);
	KUNIT_EXPECT_TRUE(test, dax_poisoned(t->dax_dev, 2, 1));
	for (pgoff_t i = 0; i < TEST_PAGES; i++)
		dev_dax_test_expect(test, t, i, i == 2 ? 0xff : 0);

	fake_cleared = PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, 0, dev_dax_test_do_wipe(t->dax_dev));
	KUNIT_EXPECT_EQ(test, 2, fake_calls);
	KUNIT_EXPECT_FALSE(test, dax_poisoned(t->dax_dev, 2, 1));
	dev_dax_test_expect(test, t, 2, 0);
}

/* An error that comes while the one before is cleared is not cleared with it. */
static void dev_dax_test_error_in_repair(struct kunit *test)
{
	struct dev_dax_test_repair *t = dev_dax_test_repairable(test);

	dax_poison_add(t->dax_dev, 1, 1);
	fake_error_dev = t->dax_dev;
	fake_error = 1;
	KUNIT_EXPECT_EQ(test, 0,
			dev_dax_ops.zero_page_range(t->dax_dev, 0, TEST_PAGES));
	KUNIT_EXPECT_TRUE(test, dax_poisoned(t->dax_dev, 1, 1));
	KUNIT_EXPECT_EQ(test, 1, dax_poison_count(t->dax_dev, 0, TEST_PAGES));

	/* One of another page does not stand in the way. */
	fake_error = 2;
	KUNIT_EXPECT_EQ(test, 0,
			dev_dax_ops.zero_page_range(t->dax_dev, 0, 2));
	KUNIT_EXPECT_FALSE(test, dax_poisoned(t->dax_dev, 0, 2));
	KUNIT_EXPECT_TRUE(test, dax_poisoned(t->dax_dev, 2, 1));
	KUNIT_EXPECT_EQ(test, 2, fake_calls);
}

static size_t dev_dax_test_write(struct dev_dax_test_repair *t, pgoff_t pgoff,
				 size_t offset, void *buf, size_t bytes)
{
	struct kvec kvec = { .iov_base = buf, .iov_len = bytes };
	struct iov_iter iter;

	iov_iter_kvec(&iter, ITER_SOURCE, &kvec, 1, bytes);
	return dev_dax_ops.recovery_write(t->dax_dev, pgoff,
					  dev_dax_test_page(t, pgoff) + offset,
					  bytes, &iter);
}

static void dev_dax_test_recovery_write(struct kunit *test)
{
	struct dev_dax_test_repair *t = dev_dax_test_repairable(test);
	void *buf = kunit_kzalloc(test, 2 * PAGE_SIZE, GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, buf);
	memset(buf, 0x55, 2 * PAGE_SIZE);

	/* No error: any part of a page will do. */
	KUNIT_EXPECT_EQ(test, 8, dev_dax_test_write(t, 0, 16, buf, 8));
	KUNIT_EXPECT_EQ(test, 0x55, dev_dax_test_page(t, 0)[16]);
	KUNIT_EXPECT_EQ(test, 0xff, dev_dax_test_page(t, 0)[15]);
	KUNIT_EXPECT_EQ(test, 0xff, dev_dax_test_page(t, 0)[24]);

	/* The provider does not repair it, or not all of it. */
	dax_poison_add(t->dax_dev, 6, 1);
	fake_cleared = -EIO;
	KUNIT_EXPECT_EQ(test, 0,
			dev_dax_test_write(t, 5, 0, buf, 2 * PAGE_SIZE));
	fake_cleared = PAGE_SIZE / 2;
	KUNIT_EXPECT_EQ(test, 0, dev_dax_test_write(t, 6, 0, buf, PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 2, fake_calls);
	dev_dax_test_expect(test, t, 5, 0xff);
	dev_dax_test_expect(test, t, 6, 0xff);

	/* It would, but the rest of the page would be lost. */
	fake_cleared = PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, 0, dev_dax_test_write(t, 6, 0, buf, 8));
	KUNIT_EXPECT_EQ(test, 0,
			dev_dax_test_write(t, 6, 8, buf, PAGE_SIZE - 8));
	KUNIT_EXPECT_EQ(test, 2, fake_calls);

	KUNIT_EXPECT_EQ(test, 2 * PAGE_SIZE,
			dev_dax_test_write(t, 5, 0, buf, 2 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 3, fake_calls);
	KUNIT_EXPECT_EQ(test, virt_to_phys(dev_dax_test_page(t, 6)), fake_phys);
	KUNIT_EXPECT_FALSE(test, dax_poisoned(t->dax_dev, 6, 1));
	dev_dax_test_expect(test, t, 5, 0x55);
	dev_dax_test_expect(test, t, 6, 0x55);

	/* Not across the end of a range, nor of the device. */
	KUNIT_EXPECT_EQ(test, PAGE_SIZE,
			dev_dax_test_write(t, TEST_PAGES / 2 - 1, 0, buf,
					   2 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 0,
			dev_dax_test_write(t, TEST_PAGES, 0, buf, PAGE_SIZE));
}

static ssize_t dev_dax_test_fill(struct dev_dax_test_repair *t, pgoff_t pgoff,
				 unsigned long nr_pages, struct iov_iter *iter,
				 struct kvec *kvec)
{
	iov_iter_kvec(iter, ITER_SOURCE, kvec, 1, kvec->iov_len);
	return dev_dax_write(t->dax_dev, pgoff, nr_pages, iter);
}

static void dev_dax_test_write_pages(struct kunit *test)
{
	struct dev_dax_test_repair *t = dev_dax_test_repairable(test);
	struct kvec kvec = { .iov_len = TEST_PAGES * PAGE_SIZE };
	struct iov_iter iter;

	kvec.iov_base = kunit_kzalloc(test, kvec.iov_len, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, kvec.iov_base);
	memset(kvec.iov_base, 0x55, kvec.iov_len);

	/* Across the end of a range, which is not the end of its memory. */
	KUNIT_EXPECT_EQ(test, 2 * PAGE_SIZE,
			dev_dax_test_fill(t, TEST_PAGES / 2 - 1, 2, &iter, &kvec));
	KUNIT_EXPECT_EQ(test, kvec.iov_len - 2 * PAGE_SIZE, iov_iter_count(&iter));
	dev_dax_test_expect(test, t, TEST_PAGES / 2 - 2, 0xff);
	dev_dax_test_expect(test, t, TEST_PAGES / 2 - 1, 0x55);
	dev_dax_test_expect(test, t, TEST_PAGES / 2, 0x55);
	dev_dax_test_expect(test, t, TEST_PAGES / 2 + 1, 0xff);

	/* Past the end of the device. */
	KUNIT_EXPECT_EQ(test, PAGE_SIZE,
			dev_dax_test_fill(t, TEST_PAGES - 1, 2, &iter, &kvec));
	KUNIT_EXPECT_EQ(test, -EFAULT,
			dev_dax_test_fill(t, TEST_PAGES, 1, &iter, &kvec));

	/* A source that ends in a page is not one that fills it. */
	kvec.iov_len = PAGE_SIZE + 8;
	KUNIT_EXPECT_EQ(test, PAGE_SIZE,
			dev_dax_test_fill(t, 0, 2, &iter, &kvec));
	KUNIT_EXPECT_EQ(test, 8, iov_iter_count(&iter));
	kvec.iov_len = 8;
	KUNIT_EXPECT_EQ(test, 0, dev_dax_test_fill(t, 2, 1, &iter, &kvec));
	KUNIT_EXPECT_EQ(test, 8, iov_iter_count(&iter));

	kill_dax(t->dax_dev);
	KUNIT_EXPECT_EQ(test, -ENXIO, dev_dax_test_fill(t, 0, 1, &iter, &kvec));
}

static void dev_dax_test_write_repairs(struct kunit *test)
{
	struct dev_dax_test_repair *t = dev_dax_test_repairable(test);
	struct kvec kvec = { .iov_len = 3 * PAGE_SIZE };
	struct iov_iter iter;

	kvec.iov_base = kunit_kzalloc(test, kvec.iov_len, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, kvec.iov_base);
	memset(kvec.iov_base, 0x55, kvec.iov_len);

	dax_poison_add(t->dax_dev, 5, 1);
	fake_cleared = -EIO;
	KUNIT_EXPECT_EQ(test, PAGE_SIZE,
			dev_dax_test_fill(t, 4, 3, &iter, &kvec));
	KUNIT_EXPECT_EQ(test, 2 * PAGE_SIZE, iov_iter_count(&iter));
	KUNIT_EXPECT_EQ(test, -EIO, dev_dax_test_fill(t, 5, 3, &iter, &kvec));
	KUNIT_EXPECT_EQ(test, 3 * PAGE_SIZE, iov_iter_count(&iter));
	KUNIT_EXPECT_TRUE(test, dax_poisoned(t->dax_dev, 5, 1));
	dev_dax_test_expect(test, t, 4, 0x55);
	dev_dax_test_expect(test, t, 5, 0xff);
	dev_dax_test_expect(test, t, 6, 0xff);

	fake_cleared = PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, 3 * PAGE_SIZE,
			dev_dax_test_fill(t, 4, 3, &iter, &kvec));
	KUNIT_EXPECT_EQ(test, virt_to_phys(dev_dax_test_page(t, 5)), fake_phys);
	KUNIT_EXPECT_FALSE(test, dax_poisoned(t->dax_dev, 5, 1));
	for (int i = 4; i < 7; i++)
		dev_dax_test_expect(test, t, i, 0x55);
}

static struct kunit_case dev_dax_test_cases[] = {
	KUNIT_CASE(dev_dax_test_ranges),
	KUNIT_CASE(dev_dax_test_dying_device),
	KUNIT_CASE(dev_dax_test_kill_waits),
	KUNIT_CASE(dev_dax_test_record),
	KUNIT_CASE(dev_dax_test_poison_access),
	KUNIT_CASE(dev_dax_test_zero_skips),
	KUNIT_CASE(dev_dax_test_zero_repairs),
	KUNIT_CASE(dev_dax_test_zero_fails),
	KUNIT_CASE(dev_dax_test_wipe),
	KUNIT_CASE(dev_dax_test_error_in_repair),
	KUNIT_CASE(dev_dax_test_recovery_write),
	KUNIT_CASE(dev_dax_test_write_pages),
	KUNIT_CASE(dev_dax_test_write_repairs),
	{}
};

static struct kunit_suite dev_dax_test_suite = {
	.name = "dax_ops",
	.test_cases = dev_dax_test_cases,
};

kunit_test_suite(dev_dax_test_suite);
