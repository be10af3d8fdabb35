// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of who holds a dax_device, included by super.c.
 */
#include <kunit/test.h>

struct test_holder {
	int notified;
};

static int test_notify_failure(struct dax_device *dax_dev, u64 offset, u64 len,
			       int mf_flags)
{
	struct test_holder *holder = dax_holder(dax_dev);

	holder->notified++;
	return 0;
}

static const struct dax_holder_operations test_holder_ops = {
	.notify_failure = test_notify_failure,
};

static struct dax_device_driver test_fsdev_driver = {
	.type = DAXDRV_FSDEV_TYPE,
};

static struct dax_device_driver test_device_driver = {
	.type = DAXDRV_DEVICE_TYPE,
};

static void test_release(struct device *dev)
{
	/* Is the test's. */
}

struct holder_test {
	struct dev_dax dev_dax;
	struct dax_device *dax_dev;
	struct test_holder a, b;
};

/* A device that looks as if it were bound to fsdev_dax, and is on no bus. */
static int holder_test_init(struct kunit *test)
{
	struct holder_test *ht;

	ht = kunit_kzalloc(test, sizeof(*ht), GFP_KERNEL);
	if (!ht)
		return -ENOMEM;
	ht->dax_dev = alloc_dax(&ht->dev_dax, NULL);
	if (IS_ERR(ht->dax_dev))
		return PTR_ERR(ht->dax_dev);

	ht->dev_dax.dax_dev = ht->dax_dev;
	device_initialize(&ht->dev_dax.dev);
	ht->dev_dax.dev.release = test_release;
	ht->dev_dax.dev.driver = &test_fsdev_driver.drv;
	test->priv = ht;
	return 0;
}

static void holder_test_exit(struct kunit *test)
{
	struct holder_test *ht = test->priv;

	if (!ht)
		return;
	kill_dax(ht->dax_dev);
	put_dax(ht->dax_dev);
	ht->dev_dax.dev.driver = NULL;
	put_device(&ht->dev_dax.dev);
}

static int get_holder(struct holder_test *ht, struct test_holder *holder)
{
	return fs_dax_get(ht->dax_dev, holder, &test_holder_ops);
}

static int notify(struct holder_test *ht)
{
	return dax_holder_notify_failure(ht->dax_dev, 0, PAGE_SIZE, 0);
}

static void holder_test_one(struct kunit *test)
{
	struct holder_test *ht = test->priv;

	KUNIT_EXPECT_EQ(test, -EOPNOTSUPP, notify(ht));
	KUNIT_ASSERT_EQ(test, 0, get_holder(ht, &ht->a));
	KUNIT_EXPECT_EQ(test, -EBUSY, get_holder(ht, &ht->b));
	KUNIT_EXPECT_EQ(test, 0, notify(ht));
	KUNIT_EXPECT_EQ(test, 1, ht->a.notified);
	fs_put_dax(ht->dax_dev, &ht->a);
	KUNIT_EXPECT_EQ(test, -EOPNOTSUPP, notify(ht));

	KUNIT_ASSERT_EQ(test, 0, get_holder(ht, &ht->b));
	KUNIT_EXPECT_EQ(test, 0, notify(ht));
	fs_put_dax(ht->dax_dev, &ht->b);
	KUNIT_EXPECT_EQ(test, 1, ht->a.notified);
	KUNIT_EXPECT_EQ(test, 1, ht->b.notified);
}

static void holder_test_wrong_driver(struct kunit *test)
{
	struct holder_test *ht = test->priv;

	ht->dev_dax.dev.driver = &test_device_driver.drv;
	KUNIT_EXPECT_EQ(test, -EOPNOTSUPP, get_holder(ht, &ht->a));
	ht->dev_dax.dev.driver = NULL;
	KUNIT_EXPECT_EQ(test, -ENODEV, get_holder(ht, &ht->a));
	KUNIT_EXPECT_NULL(test, dax_holder(ht->dax_dev));
}

/*
 * kill_dax() looks for a holder once. One that passed all checks before and
 * comes after that would never hear that the device is gone.
 */
static void holder_test_after_kill(struct kunit *test)
{
	struct holder_test *ht = test->priv;

	kill_dax(ht->dax_dev);
	KUNIT_EXPECT_EQ(test, -ENODEV,
			dev_dax_set_holder(&ht->dev_dax, &ht->a,
					   &test_holder_ops));
	KUNIT_EXPECT_NULL(test, dax_holder(ht->dax_dev));

	run_dax(ht->dax_dev);
	KUNIT_ASSERT_EQ(test, 0, get_holder(ht, &ht->a));
	kill_dax(ht->dax_dev);
	KUNIT_EXPECT_EQ(test, 1, ht->a.notified);
	fs_put_dax(ht->dax_dev, &ht->a);
}

/* The put of a holder that lost its device is nothing to the next holder. */
static void holder_test_stale_put(struct kunit *test)
{
	struct holder_test *ht = test->priv;

	KUNIT_ASSERT_EQ(test, 0, get_holder(ht, &ht->a));
	kill_dax(ht->dax_dev);
	run_dax(ht->dax_dev);
	KUNIT_ASSERT_EQ(test, 0, get_holder(ht, &ht->b));

	fs_put_dax(ht->dax_dev, &ht->a);
	KUNIT_EXPECT_PTR_EQ(test, (void *)&ht->b, dax_holder(ht->dax_dev));
	KUNIT_EXPECT_EQ(test, 0, notify(ht));
	KUNIT_EXPECT_EQ(test, 1, ht->b.notified);
	fs_put_dax(ht->dax_dev, &ht->b);
}

static struct kunit_case holder_test_cases[] = {
	KUNIT_CASE(holder_test_one),
	KUNIT_CASE(holder_test_wrong_driver),
	KUNIT_CASE(holder_test_after_kill),
	KUNIT_CASE(holder_test_stale_put),
	{}
};

static struct kunit_suite holder_test_suite = {
	.name = "dax_holder",
	.init = holder_test_init,
	.exit = holder_test_exit,
	.test_cases = holder_test_cases,
};

kunit_test_suite(holder_test_suite);
