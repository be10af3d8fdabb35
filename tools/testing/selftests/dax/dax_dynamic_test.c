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
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include "dax_utils.h"
#include "kselftest_harness.h"

#define SZ_2M		(2UL << 20)
#define DEV_SIZE	(16UL << 20)
#define SYSLOG_ACTION_READ_ALL 3
#define UNPIN_SECONDS	10
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

/* A pipe that has a page of the device, which is bound to device_dax, or -errno. */
static int pin_page(const char *dev, off_t offset)
{
	struct iovec iov = { .iov_len = getpagesize() };
	int fd, fds[2], r;

	if (pipe(fds))
		return -errno;
	fd = dax_open_dev(dev);
	iov.iov_base = mmap(NULL, SZ_2M, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			    offset);
	close(fd);
	if (iov.iov_base == MAP_FAILED)
		return -errno;

	*(long *)iov.iov_base = fds[0];
	r = vmsplice(fds[1], &iov, 1, 0) < 0 ? -errno : fds[0];
	munmap(iov.iov_base, SZ_2M);
	close(fds[1]);
	return r;
}

/* 0 as soon as the driver can be bound, or the last error. */
static int bind_in_time(const char *dev, const char *drv)
{
	double end = now() + UNPIN_SECONDS;
	bool new_id = false;
	int r;

	do {
		r = dax_bind(dev, drv, &new_id);
	} while (r && now() < end && !usleep(100 * 1000));
	return r;
}

/* Finds the region of the device; or why there are no SIZE bytes to be had. */
static const char *find_region(char *region, unsigned long size)
{
	const char *dev = dax_test_dev();
	char path[PATH_MAX], buf[64];
	static char reason[256];

	if (!dev)
		return DYNAMIC_HINT;
	if (geteuid())
		return "must be run as root";
	snprintf(path, sizeof(path), DAX_BUS "/devices/%s/../dax_region", dev);
	if (!realpath(path, region) ||
	    region_read(region, "create", buf, sizeof(buf))) {
		snprintf(reason, sizeof(reason),
			 "%s is not in a dynamic region: " DYNAMIC_HINT, dev);
		return reason;
	}
	if (region_read(region, "available_size", buf, sizeof(buf)) ||
	    strtoull(buf, NULL, 0) < size) {
		snprintf(reason, sizeof(reason),
			 "no %luM free in the region of %s: daxctl destroy-device",
			 size >> 20, dev);
		return reason;
	}
	return NULL;
}

FIXTURE_SETUP(dynamic)
{
	const char *reason = find_region(self->region, 4 * DEV_SIZE);

	if (reason)
		SKIP(return, "%s", reason);
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

/* What comes behind 16M of the region is not aligned to 1G, however large. */
TEST_F(dynamic, misaligned)
{
	bool devdax = !strcmp(variant->drv, DAX_DRIVER), new_id = false;
	char dev[64];
	int r;

	ASSERT_EQ(0, region_write(self->region, "create", "1"));
	ASSERT_EQ(0, region_read(self->region, "create", dev, sizeof(dev)));
	ASSERT_EQ(0, dax_write(dev, "align", "1073741824"));
	r = set_size(dev, 1UL << 30);
	if (r || dax_read_num(dev, "mapping0/start") % (1UL << 30) == 0) {
		delete_dev(self->region, dev);
		SKIP(return, "the region has no 1G free, or only aligned ones");
	}

	EXPECT_EQ(devdax ? -EINVAL : 0, dax_bind(dev, variant->drv, &new_id));
	if (new_id)
		dax_drv_write(variant->drv, "remove_id", dev);
	ASSERT_EQ(0, dax_unbind(dev));
	ASSERT_EQ(0, dax_write(dev, "align", "2097152"));
	new_id = false;
	EXPECT_EQ(0, dax_bind(dev, variant->drv, &new_id));
	if (new_id)
		dax_drv_write(variant->drv, "remove_id", dev);
	EXPECT_EQ(0, delete_dev(self->region, dev));
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
	EXPECT_EQ(-EBUSY, dax_write(self->dev, "align", "4096"));

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
 * failure the device must be as it was before. A pinned page makes the bind
 * end with -EBUSY where it reserves the range: what follows is memory hotplug,
 * which WARNs when it has no memory.
 */
TEST_F_TIMEOUT(dynamic, failed_probe, 120)
{
	char ignore[8], verbose[16];
	int fd, n, left, pipe, r = 0, failed = 0;
	bool new_id = false;

	fd = open(FAIL_NTH, O_RDWR);
	if (fd < 0 || read_file(FAILSLAB "/ignore-gfp-wait", ignore,
				sizeof(ignore)))
		SKIP(return, "needs debugfs and CONFIG_FAULT_INJECTION_DEBUG_FS, FAILSLAB");
	ASSERT_EQ(0, read_file(FAILSLAB "/verbose", verbose, sizeof(verbose)));

	/* Also makes the driver match the device, where it has to be told. */
	EXPECT_EQ(0, dax_bind(self->dev, variant->drv, &self->new_id));
	EXPECT_EQ(0, dax_unbind(self->dev));
	EXPECT_EQ(0, dax_bind(self->dev, DAX_DRIVER, &new_id));
	pipe = pin_page(self->dev, 0);
	ASSERT_LE(0, pipe);
	EXPECT_EQ(0, dax_unbind(self->dev));

	EXPECT_EQ(0, write_file(FAILSLAB "/ignore-gfp-wait", "N"));
	EXPECT_EQ(0, write_file(FAILSLAB "/verbose", "0"));
	for (n = 1; n < FAIL_NTH_MAX; n++) {
		if (set_fail_nth(fd, n))
			break;
		r = dax_drv_write(variant->drv, "bind", self->dev);
		left = get_fail_nth(fd);
		set_fail_nth(fd, 0);
		if (left || !r)
			break;
		failed++;
	}
	write_file(FAILSLAB "/ignore-gfp-wait", ignore);
	write_file(FAILSLAB "/verbose", verbose);
	close(fd);
	TH_LOG("%d allocations failed in turn", failed);
	EXPECT_LT(0, failed);
	EXPECT_GT(FAIL_NTH_MAX, n);
	EXPECT_EQ(-EBUSY, r);

	close(pipe);
	EXPECT_EQ(0, bind_in_time(self->dev, variant->drv));
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

/*
 * A page of a device of its own is pinned when the device is unbound
 */

#define KMEM_DRIVER	"kmem"
/* Holds a memory block, which kmem needs, wherever it starts. */
#define PINNED_SIZE	(256UL << 20)

FIXTURE(pinned)
{
	char region[PATH_MAX];
	char dev[64];
	bool new_id;
	unsigned long size;
	/* a pipe that has the page */
	int pipe;
};

FIXTURE_SETUP(pinned)
{
	const char *reason = find_region(self->region, PINNED_SIZE);

	if (reason)
		SKIP(return, "%s", reason);

	ASSERT_EQ(0, create_dev(self->region, self->dev, sizeof(self->dev)));
	ASSERT_EQ(0, set_size(self->dev, PINNED_SIZE));
	ASSERT_EQ(0, dax_bind(self->dev, DAX_DRIVER, &self->new_id));
	self->pipe = pin_page(self->dev, PINNED_SIZE - SZ_2M);
	ASSERT_LE(0, self->pipe);
}

FIXTURE_TEARDOWN(pinned)
{
	if (!*self->dev)
		return;
	dax_drv_write(FSDEV_DRIVER, "remove_id", self->dev);
	dax_drv_write(KMEM_DRIVER, "remove_id", self->dev);
	EXPECT_EQ(0, delete_dev(self->region, self->dev));
}

/* The pin is as good as before. */
static void check_page(struct __test_metadata *_metadata, int pipe)
{
	long val = -1;

	EXPECT_EQ(sizeof(val), read(pipe, &val, sizeof(val)));
	EXPECT_EQ(pipe, val);
}

/* How often the kernel's log says that one page of the device is pinned. */
static int nr_reports(const char *dev)
{
	static char log[1 << 20];
	char *line, *next = log;
	int nr = 0, len;

	len = klogctl(SYSLOG_ACTION_READ_ALL, log, sizeof(log) - 1);
	log[len < 0 ? 0 : len] = '\0';
	while ((line = strsep(&next, "\n")))
		nr += strstr(line, dev) && strstr(line, ": 1 pages of ");
	return nr;
}

TEST_F_TIMEOUT(pinned, no_driver_until_released, 120)
{
	int reports = nr_reports(self->dev);

	ASSERT_EQ(0, dax_unbind(self->dev));
	EXPECT_EQ(reports + 1, nr_reports(self->dev));
	EXPECT_EQ(-EBUSY, dax_bind(self->dev, DAX_DRIVER, &self->new_id));
	EXPECT_NE(0, dax_bind(self->dev, FSDEV_DRIVER, &self->new_id));
	EXPECT_NE(0, dax_bind(self->dev, KMEM_DRIVER, &self->new_id));
	/* The kernel looks again and again. */
	sleep(3);
	EXPECT_EQ(reports + 1, nr_reports(self->dev));
	EXPECT_EQ(-EBUSY, dax_bind(self->dev, DAX_DRIVER, &self->new_id));
	check_page(_metadata, self->pipe);
	close(self->pipe);
	EXPECT_EQ(0, bind_in_time(self->dev, DAX_DRIVER));
}

/* The memory that kmem did not get is good RAM afterwards. */
TEST_F_TIMEOUT(pinned, kmem_when_released, 120)
{
	if (!dax_have_driver(KMEM_DRIVER))
		SKIP(return, "needs the driver: modprobe kmem");

	ASSERT_EQ(0, dax_unbind(self->dev));
	EXPECT_NE(0, dax_bind(self->dev, KMEM_DRIVER, &self->new_id));
	close(self->pipe);
	ASSERT_EQ(0, bind_in_time(self->dev, KMEM_DRIVER));
	EXPECT_EQ(0, dax_write(self->dev, "state", "unplugged"));
}

/* The memory stays reserved, whatever becomes of the device. */
TEST_F_TIMEOUT(pinned, delete_and_create, 120)
{
	char dev[64];

	ASSERT_EQ(0, delete_dev(self->region, self->dev));
	ASSERT_EQ(0, create_dev(self->region, dev, sizeof(dev)));
	strcpy(self->dev, dev);
	ASSERT_EQ(0, set_size(dev, PINNED_SIZE));
	EXPECT_EQ(-EBUSY, dax_bind(dev, DAX_DRIVER, &self->new_id));
	check_page(_metadata, self->pipe);
	close(self->pipe);
	EXPECT_EQ(0, bind_in_time(dev, DAX_DRIVER));
}

TEST_HARNESS_MAIN
