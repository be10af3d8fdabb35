// SPDX-License-Identifier: GPL-2.0
/*
 * Devices of a dynamic dax region: what may change while a driver is bound,
 * what a failed probe leaves behind, and that a deleted device is gone.
 *
 *   DAX_TEST_DEV=/dev/dax0.0 ./dax_dynamic_test
 *
 * The device names the region and is not used itself: each test makes a small
 * device of its own in the free part of the region, which loses its contents.
 */
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "dax_utils.h"
#include "kselftest_harness.h"

#define SZ_2M		(2UL << 20)
#define DEV_SIZE	(16UL << 20)
#define FAILSLAB	"/sys/kernel/debug/failslab"
#define FAIL_NTH	"/proc/thread-self/fail-nth"
/* Far more than the allocations of one bind. */
#define FAIL_NTH_MAX	200

#define DYNAMIC_HINT							\
	"boot with memmap=2G%%6G-1+0xefffffff dax_hmem.region_idle=1 on a " \
	"machine with 8G of memory, and set DAX_TEST_DEV=/dev/dax0.0"

FIXTURE(dynamic)
{
	char region[PATH_MAX];
	char dev[64];
	bool new_id;
};

FIXTURE_VARIANT(dynamic)
{
	const char *drv;
};

FIXTURE_VARIANT_ADD(dynamic, devdax)
{
	.drv = DAX_DRIVER,
};

FIXTURE_VARIANT_ADD(dynamic, fsdev)
{
	.drv = FSDEV_DRIVER,
};

static int region_write(const char *region, const char *attr, const char *val)
{
	char path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s/%s", region, attr);
	return write_file(path, val);
}

static int region_read(const char *region, const char *attr, char *buf,
		       size_t size)
{
	char path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s/%s", region, attr);
	return read_file(path, buf, size);
}

static int set_size(const char *dev, unsigned long long size)
{
	char buf[32];

	snprintf(buf, sizeof(buf), "%llu", size);
	return dax_write(dev, "size", buf);
}

/* A new device of DEV_SIZE, without a driver; its name goes to @dev. */
static int create_dev(const char *region, char *dev, size_t size)
{
	int r;

	r = region_write(region, "create", "1");
	if (r)
		return r;
	r = region_read(region, "create", dev, size);
	if (r)
		return r;
	return set_size(dev, DEV_SIZE);
}

static int delete_dev(const char *region, const char *dev)
{
	int r;

	r = dax_unbind(dev);
	if (!r)
		r = set_size(dev, 0);
	if (!r)
		r = region_write(region, "delete", dev);
	return r;
}

FIXTURE_SETUP(dynamic)
{
	const char *dev = dax_test_dev();
	char path[PATH_MAX], buf[64];

	if (!dev)
		SKIP(return, DYNAMIC_HINT);
	if (geteuid())
		SKIP(return, "must be run as root");
	snprintf(path, sizeof(path), DAX_BUS "/devices/%s/../dax_region", dev);
	if (!realpath(path, self->region) ||
	    region_read(self->region, "create", buf, sizeof(buf)))
		SKIP(return, "%s is not in a dynamic region: " DYNAMIC_HINT,
		     dev);
	if (region_read(self->region, "available_size", buf, sizeof(buf)) ||
	    strtoull(buf, NULL, 0) < 4 * DEV_SIZE)
		SKIP(return, "no %luM free in the region of %s: daxctl destroy-device",
		     4 * DEV_SIZE >> 20, dev);
	if (!dax_have_driver(variant->drv))
		SKIP(return, "needs the driver: modprobe %s", variant->drv);

	ASSERT_EQ(0, create_dev(self->region, self->dev, sizeof(self->dev)));
}

FIXTURE_TEARDOWN(dynamic)
{
	if (!*self->dev)
		return;
	if (self->new_id)
		dax_drv_write(variant->drv, "remove_id", self->dev);
	EXPECT_EQ(0, delete_dev(self->region, self->dev));
}

/* Ranges are added to a device without a driver only. */
TEST_F(dynamic, mapping_while_bound)
{
	unsigned long long end, size = dax_read_num(self->dev, "size");
	char range[64];

	/* The range that follows the device, to be sure that it is free. */
	end = dax_read_num(self->dev, "mapping0/end");
	ASSERT_NE(0, end);
	snprintf(range, sizeof(range), "%llx-%llx", end + 1, end + SZ_2M);
	if (dax_write(self->dev, "mapping", range))
		SKIP(return, "the range %s is in use", range);
	ASSERT_EQ(size + SZ_2M, dax_read_num(self->dev, "size"));
	ASSERT_EQ(0, set_size(self->dev, size));

	ASSERT_EQ(0, dax_bind(self->dev, variant->drv, &self->new_id));
	EXPECT_EQ(-EBUSY, dax_write(self->dev, "mapping", range));
	EXPECT_EQ(size, dax_read_num(self->dev, "size"));
	EXPECT_EQ(-EBUSY, set_size(self->dev, size + SZ_2M));

	/* Nothing of it may stay behind. */
	ASSERT_EQ(0, dax_unbind(self->dev));
	EXPECT_EQ(0, dax_write(self->dev, "mapping", range));
	EXPECT_EQ(size + SZ_2M, dax_read_num(self->dev, "size"));
	ASSERT_EQ(0, dax_bind(self->dev, variant->drv, &self->new_id));
}

static int set_fail_nth(int fd, int n)
{
	char buf[16];
	int len;

	len = snprintf(buf, sizeof(buf), "%d", n);
	return pwrite(fd, buf, len, 0) == len ? 0 : -errno;
}

/* What is left to count down: 0 when an allocation was failed. */
static int get_fail_nth(int fd)
{
	char buf[16] = {};

	if (pread(fd, buf, sizeof(buf) - 1, 0) <= 0)
		return -EIO;
	return atoi(buf);
}

/*
 * Fail the first allocation of a bind, then the second, and so on. After each
 * failure the device must be as it was before. The end is where the range
 * could be reserved (before: -EBUSY): what follows is memory hotplug, which
 * WARNs when it has no memory.
 */
TEST_F_TIMEOUT(dynamic, failed_probe, 120)
{
	char ignore[8], verbose[16];
	int fd, n, left, r, failed = 0;
	bool busy = false;

	fd = open(FAIL_NTH, O_RDWR);
	if (fd < 0 || read_file(FAILSLAB "/ignore-gfp-wait", ignore,
				sizeof(ignore)))
		SKIP(return, "needs debugfs and CONFIG_FAULT_INJECTION_DEBUG_FS, FAILSLAB");
	ASSERT_EQ(0, read_file(FAILSLAB "/verbose", verbose, sizeof(verbose)));

	/* Also makes the driver match the device, where it has to be told. */
	EXPECT_EQ(0, dax_bind(self->dev, variant->drv, &self->new_id));
	EXPECT_EQ(0, dax_unbind(self->dev));

	EXPECT_EQ(0, write_file(FAILSLAB "/ignore-gfp-wait", "N"));
	EXPECT_EQ(0, write_file(FAILSLAB "/verbose", "0"));
	for (n = 1; n < FAIL_NTH_MAX; n++) {
		if (set_fail_nth(fd, n))
			break;
		r = dax_drv_write(variant->drv, "bind", self->dev);
		left = get_fail_nth(fd);
		set_fail_nth(fd, 0);
		if (left)
			break;
		failed += !!r;
		if (!r)
			EXPECT_EQ(0, dax_unbind(self->dev));
		if (r == -EBUSY)
			busy = true;
		else if (busy)
			break;
	}
	write_file(FAILSLAB "/ignore-gfp-wait", ignore);
	write_file(FAILSLAB "/verbose", verbose);
	close(fd);
	TH_LOG("%d allocations failed in turn, %d binds failed", n, failed);
	EXPECT_TRUE(busy);

	EXPECT_EQ(0, dax_bind(self->dev, variant->drv, &self->new_id));
	fd = dax_open_dev(self->dev);
	EXPECT_LE(0, fd);
	close(fd);
}

/* The minor number of a device is free again when nothing refers to it. */
static int dev_minor(const char *dev)
{
	char path[PATH_MAX];
	struct stat st;

	snprintf(path, sizeof(path), "/dev/%s", dev);
	return stat(path, &st) ? -errno : minor(st.st_rdev);
}

/* The minor that the next device gets; the device is deleted again. */
static int next_minor(const char *region)
{
	char dev[64];
	int r, m;

	r = create_dev(region, dev, sizeof(dev));
	if (r)
		return r;
	m = dev_minor(dev);
	r = delete_dev(region, dev);
	return r ?: m;
}

/*
 * The device is freed when it is deleted and its last file is closed: not
 * before, and not later, however often it was bound in between.
 */
TEST_F_TIMEOUT(dynamic, delete_while_open, 120)
{
	int old, fd, i, was, m = 0;

	was = dev_minor(self->dev);
	ASSERT_LE(0, was);
	ASSERT_EQ(0, dax_bind(self->dev, variant->drv, &self->new_id));
	old = dax_open_dev(self->dev);
	ASSERT_LE(0, old);
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, dax_unbind(self->dev));
		ASSERT_EQ(0, dax_bind(self->dev, variant->drv,
				      &self->new_id));
		fd = dax_open_dev(self->dev);
		EXPECT_LE(0, fd);
		close(fd);
	}

	if (self->new_id)
		dax_drv_write(variant->drv, "remove_id", self->dev);
	self->new_id = false;
	ASSERT_EQ(0, delete_dev(self->region, self->dev));
	EXPECT_EQ(-ENOENT, dax_open_dev(self->dev));
	EXPECT_NE(was, next_minor(self->region));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, SZ_2M, PROT_READ, MAP_SHARED, old, 0));
	close(old);
	*self->dev = '\0';

	/* The last reference goes with an RCU grace period. */
	for (i = 0; i < 50; i++) {
		m = next_minor(self->region);
		if (m == was)
			break;
		usleep(100 * 1000);
	}
	EXPECT_EQ(was, m);
}

TEST_HARNESS_MAIN
