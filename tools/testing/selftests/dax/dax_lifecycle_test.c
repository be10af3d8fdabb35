// SPDX-License-Identifier: GPL-2.0
/*
 * Files of /dev/daxX.Y and the driver behind it: what happens to a file when
 * its driver is unbound, the same or another one is bound, and the file is
 * closed after that.
 *
 * The kernel's own checks (KASAN, refcount_t, DEBUG_LIST) see more than this
 * program does: run it on a kernel that has them, and read its log.
 *
 *   DAX_TEST_DEV=/dev/dax0.0 ./dax_lifecycle_test
 *
 * The device's contents are not touched. Its driver is bound again at the end.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "dax_utils.h"
#include "kselftest_harness.h"

/* How long a race runs. The kernel may need seconds for one bind. */
#define RACE_SECONDS	5

FIXTURE(lifecycle)
{
	const char *dev;
	char was[64];
	bool new_id;
	unsigned long align;
};

FIXTURE_VARIANT(lifecycle)
{
	/* bound at first, and after an unbind */
	const char *first;
	const char *second;
};

FIXTURE_VARIANT_ADD(lifecycle, devdax)
{
	.first = DAX_DRIVER,
	.second = DAX_DRIVER,
};

FIXTURE_VARIANT_ADD(lifecycle, fsdev)
{
	.first = FSDEV_DRIVER,
	.second = FSDEV_DRIVER,
};

FIXTURE_VARIANT_ADD(lifecycle, devdax_fsdev)
{
	.first = DAX_DRIVER,
	.second = FSDEV_DRIVER,
};

FIXTURE_VARIANT_ADD(lifecycle, fsdev_devdax)
{
	.first = FSDEV_DRIVER,
	.second = DAX_DRIVER,
};

FIXTURE_SETUP(lifecycle)
{
	self->dev = dax_test_dev();
	if (!self->dev)
		SKIP(return, DAX_TEST_DEV_HINT);
	if (geteuid())
		SKIP(return, "must be run as root");
	if (!dax_read_num(self->dev, "size"))
		SKIP(return, "%s is missing or empty: echo SIZE > /sys/bus/dax/devices/%s/size",
		     self->dev, self->dev);
	if (!dax_have_driver(variant->first) ||
	    !dax_have_driver(variant->second))
		SKIP(return, "needs the drivers %s and %s: modprobe them",
		     variant->first, variant->second);

	self->align = dax_read_num(self->dev, "align");
	dax_driver(self->dev, self->was, sizeof(self->was));
	if (strcmp(self->was, variant->first)) {
		ASSERT_EQ(0, dax_unbind(self->dev));
		ASSERT_EQ(0, dax_bind(self->dev, variant->first,
				      &self->new_id));
	}
}

FIXTURE_TEARDOWN(lifecycle)
{
	char drv[64];

	if (!self->align)
		return;
	dax_driver(self->dev, drv, sizeof(drv));
	if (self->new_id || strcmp(drv, self->was))
		EXPECT_EQ(0, dax_restore(self->dev, self->was, &self->new_id));
}

/* 0, or the errno of an mmap() of the device's first page. Nothing is read. */
static int try_mmap(int fd, unsigned long align)
{
	void *p;

	p = mmap(NULL, align, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return errno;
	munmap(p, align);
	return 0;
}

/* What try_mmap() returns under @drv while it is bound. */
static int mmap_result(const char *drv)
{
	return strcmp(drv, DAX_DRIVER) ? ENODEV : 0;
}

TEST_F(lifecycle, open_unbound)
{
	ASSERT_EQ(0, dax_unbind(self->dev));
	EXPECT_EQ(-ENXIO, dax_open_dev(self->dev));

	ASSERT_EQ(0, dax_bind(self->dev, variant->second, &self->new_id));
}

/* The inode keeps its cdev while a file is open: open() gets further then. */
TEST_F(lifecycle, open_unbound_while_open)
{
	int fd, more;

	fd = dax_open_dev(self->dev);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, dax_unbind(self->dev));

	EXPECT_NE(0, try_mmap(fd, self->align));
	more = dax_open_dev(self->dev);
	EXPECT_EQ(-ENXIO, more);
	/* Without a driver there must be nothing that mmap() could use. */
	if (more >= 0)
		EXPECT_NE(0, try_mmap(more, self->align));
	close(more);
	close(fd);
	EXPECT_EQ(-ENXIO, dax_open_dev(self->dev));

	ASSERT_EQ(0, dax_bind(self->dev, variant->second, &self->new_id));
}

TEST_F_TIMEOUT(lifecycle, close_after_rebind, 120)
{
	int old, fd, i;

	old = dax_open_dev(self->dev);
	ASSERT_LE(0, old);
	ASSERT_EQ(0, dax_unbind(self->dev));
	ASSERT_EQ(0, dax_bind(self->dev, variant->second, &self->new_id));

	/* The close must leave the new registration and the device alone. */
	close(old);
	for (i = 0; i < 3; i++) {
		fd = dax_open_dev(self->dev);
		ASSERT_LE(0, fd);
		EXPECT_EQ(mmap_result(variant->second),
			  try_mmap(fd, self->align));
		close(fd);
	}
	ASSERT_EQ(0, dax_unbind(self->dev));
	EXPECT_EQ(-ENXIO, dax_open_dev(self->dev));

	ASSERT_EQ(0, dax_bind(self->dev, variant->first, &self->new_id));
}

/* open() gives the driver that is bound, whatever files of old ones exist. */
TEST_F_TIMEOUT(lifecycle, open_after_rebind, 120)
{
	int old, fd;

	old = dax_open_dev(self->dev);
	ASSERT_LE(0, old);
	EXPECT_EQ(mmap_result(variant->first), try_mmap(old, self->align));
	ASSERT_EQ(0, dax_unbind(self->dev));
	ASSERT_EQ(0, dax_bind(self->dev, variant->second, &self->new_id));

	fd = dax_open_dev(self->dev);
	ASSERT_LE(0, fd);
	EXPECT_EQ(mmap_result(variant->second), try_mmap(fd, self->align));
	close(old);
	EXPECT_EQ(mmap_result(variant->second), try_mmap(fd, self->align));
	ASSERT_EQ(0, dax_unbind(self->dev));
	EXPECT_NE(0, try_mmap(fd, self->align));
	close(fd);

	ASSERT_EQ(0, dax_bind(self->dev, variant->first, &self->new_id));
}

static sigjmp_buf access_jmpbuf;

static void access_sigbus(int signum)
{
	siglongjmp(access_jmpbuf, 1);
}

/* False on SIGBUS. The page is only read. */
static bool can_read(const char *p)
{
	struct sigaction sa = { .sa_handler = access_sigbus }, old;

	sigaction(SIGBUS, &sa, &old);
	if (sigsetjmp(access_jmpbuf, 1)) {
		sigaction(SIGBUS, &old, NULL);
		return false;
	}
	__atomic_load_n(p, __ATOMIC_RELAXED);
	sigaction(SIGBUS, &old, NULL);
	return true;
}

/* A file is good for the binding that it was opened under, and no other. */
TEST_F_TIMEOUT(lifecycle, file_of_earlier_binding, 120)
{
	bool devdax = !strcmp(variant->first, DAX_DRIVER);
	int old, error = devdax ? ENXIO : ENODEV;
	char *p = MAP_FAILED;

	old = dax_open_dev(self->dev);
	ASSERT_LE(0, old);
	if (devdax) {
		p = mmap(NULL, self->align, PROT_READ, MAP_SHARED, old, 0);
		ASSERT_NE(MAP_FAILED, p);
		EXPECT_TRUE(can_read(p));
	}
	ASSERT_EQ(0, dax_unbind(self->dev));
	EXPECT_EQ(error, try_mmap(old, self->align));
	ASSERT_EQ(0, dax_bind(self->dev, variant->second, &self->new_id));

	EXPECT_EQ(error, try_mmap(old, self->align));
	if (devdax) {
		EXPECT_FALSE(can_read(p));
		munmap(p, self->align);
	}
	close(old);

	ASSERT_EQ(0, dax_unbind(self->dev));
	ASSERT_EQ(0, dax_bind(self->dev, variant->first, &self->new_id));
}

/* One file of each of several bindings, closed in the order of opening. */
TEST_F_TIMEOUT(lifecycle, several_rebinds, 180)
{
	int fd[4], i;

	for (i = 0; i < ARRAY_SIZE(fd); i++) {
		fd[i] = dax_open_dev(self->dev);
		ASSERT_LE(0, fd[i]);
		ASSERT_EQ(0, dax_unbind(self->dev));
		ASSERT_EQ(0, dax_bind(self->dev, i & 1 ? variant->first :
				      variant->second, &self->new_id));
	}
	for (i = 0; i < ARRAY_SIZE(fd); i++)
		close(fd[i]);
	ASSERT_EQ(0, dax_unbind(self->dev));
	EXPECT_EQ(-ENXIO, dax_open_dev(self->dev));
	ASSERT_EQ(0, dax_bind(self->dev, variant->first, &self->new_id));
	fd[0] = dax_open_dev(self->dev);
	ASSERT_LE(0, fd[0]);
	close(fd[0]);
}

struct race {
	const char *dev;
	unsigned long align;
	bool stop;
	unsigned long opened, refused;
	int unexpected;
};

static void *open_loop(void *arg)
{
	struct race *race = arg;
	int fd, r;

	while (!__atomic_load_n(&race->stop, __ATOMIC_RELAXED)) {
		fd = dax_open_dev(race->dev);
		if (fd >= 0) {
			r = try_mmap(fd, race->align);
			close(fd);
			race->opened++;
			if (r && r != ENXIO && r != ENODEV)
				race->unexpected = r;
		} else if (fd == -ENXIO) {
			race->refused++;
		} else {
			race->unexpected = -fd;
		}
	}
	return NULL;
}

TEST_F_TIMEOUT(lifecycle, open_races_with_bind, RACE_SECONDS + 115)
{
	struct race race[2] = {};
	pthread_t thread[2];
	double end = now() + RACE_SECONDS;
	int i, n;

	for (i = 0; i < ARRAY_SIZE(race); i++) {
		race[i].dev = self->dev;
		race[i].align = self->align;
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, open_loop,
					    &race[i]));
	}
	for (n = 0; n < 2 || now() < end; n++) {
		EXPECT_EQ(0, dax_unbind(self->dev));
		EXPECT_EQ(0, dax_bind(self->dev, n & 1 ? variant->first :
				      variant->second, &self->new_id));
	}
	for (i = 0; i < ARRAY_SIZE(race); i++) {
		__atomic_store_n(&race[i].stop, true, __ATOMIC_RELAXED);
		pthread_join(thread[i], NULL);
		EXPECT_EQ(0, race[i].unexpected);
		TH_LOG("thread %d: %lu opened, %lu refused, %d bindings", i,
		       race[i].opened, race[i].refused, n);
	}
}

TEST_HARNESS_MAIN
