// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the dax operations, included by ops.c.
 */
#include <kunit/test.h>
#include <linux/range.h>
#include <linux/sizes.h>

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
	KUNIT_EXPECT_EQ(test, 0,
			dev_dax_ops.recovery_write(dax_dev, 0, NULL, PAGE_SIZE,
						   NULL));

	kill_dax(dax_dev);
	put_dax(dax_dev);
}

static struct kunit_case dev_dax_test_cases[] = {
	KUNIT_CASE(dev_dax_test_ranges),
	KUNIT_CASE(dev_dax_test_dying_device),
	{}
};

static struct kunit_suite dev_dax_test_suite = {
	.name = "dax_ops",
	.test_cases = dev_dax_test_cases,
};

kunit_test_suite(dev_dax_test_suite);
