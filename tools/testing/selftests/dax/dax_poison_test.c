// SPDX-License-Identifier: GPL-2.0
/*
 * Memory errors on /dev/daxX.Y, as MADV_HWPOISON and hard_offline_page in
 * sysfs simulate them.
 *
 * DESTROYS THE CONTENTS of the device, which the tester must name:
 *
 *   DAX_TEST_DEV=/dev/dax0.0 ./dax_poison_test
 *
 * The errors are forgotten when the device is bound again, which the test does.
 */
#include <linux/falloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "dax_utils.h"
#include "kselftest_harness.h"

#define HARD_OFFLINE	"/sys/devices/system/memory/hard_offline_page"
#define RACE_SECONDS	5

static sigjmp_buf sigbus_jmpbuf;
static int sigbus_code;
static void *sigbus_addr;

static void sigbus(int sig, siginfo_t *info, void *context)
{
	sigbus_code = info->si_code;
	sigbus_addr = info->si_addr;
	siglongjmp(sigbus_jmpbuf, 1);
}

/* The si_code of the SIGBUS, 0 if there is none. */
static int touch(char *p)
{
	if (sigsetjmp(sigbus_jmpbuf, 1))
		return sigbus_code;
	__atomic_fetch_add(p, 1, __ATOMIC_RELAXED);
	return 0;
}

/* Returns -errno, or the si_code of the SIGBUS that all who map the page get. */
static int poison(void *p, size_t page_size)
{
	if (sigsetjmp(sigbus_jmpbuf, 1))
		return sigbus_code;
	return madvise(p, page_size, MADV_HWPOISON) ? -errno : 0;
}

FIXTURE(dax_poison)
{
	const char *dev;
	bool new_id;
	size_t page_size;
	size_t align;
	size_t len;
	size_t bad;	/* offset of the page that gets an error */
	char *mem;
	int fd;
};

FIXTURE_SETUP(dax_poison)
{
	struct sigaction sa = {
		.sa_sigaction = sigbus,
		.sa_flags = SA_SIGINFO,
	};
	char drv[64];

	self->mem = MAP_FAILED;
	self->fd = -1;
	self->dev = dax_test_dev();
	if (!self->dev)
		SKIP(return, DAX_TEST_DEV_HINT);
	if (geteuid())
		SKIP(return, "must be run as root");

	dax_driver(self->dev, drv, sizeof(drv));
	if (strcmp(drv, DAX_DRIVER)) {
		ASSERT_EQ(0, dax_unbind(self->dev));
		ASSERT_EQ(0, dax_bind(self->dev, DAX_DRIVER, &self->new_id));
	}

	/* Two units of what the device maps, if it has two. */
	self->page_size = sysconf(_SC_PAGESIZE);
	self->align = dax_read_num(self->dev, "align");
	self->len = 2 * self->align;
	if (self->len > dax_read_num(self->dev, "size"))
		self->len = self->align;
	/* The last page of a unit: its error counts for all of the unit. */
	self->bad = self->align - self->page_size;
	self->fd = dax_open_dev(self->dev);
	ASSERT_GE(self->fd, 0);
	self->mem = mmap(NULL, self->len, PROT_READ | PROT_WRITE, MAP_SHARED,
			 self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, sigaction(SIGBUS, &sa, NULL));
}

FIXTURE_TEARDOWN(dax_poison)
{
	if (self->mem != MAP_FAILED)
		munmap(self->mem, self->len);
	if (self->fd < 0)
		return;
	close(self->fd);
	EXPECT_EQ(0, dax_unbind(self->dev));
	EXPECT_EQ(0, dax_bind(self->dev, DAX_DRIVER, &self->new_id));
}

TEST_F(dax_poison, stays_away)
{
	char *bad = self->mem + self->bad;

	ASSERT_EQ(0, touch(bad));
	ASSERT_EQ(BUS_MCEERR_AR, poison(bad, self->page_size));

	ASSERT_EQ(BUS_MCEERR_AR, touch(bad + 8));
	EXPECT_EQ(bad + 8, sigbus_addr);
	/* Not just the first time. */
	ASSERT_EQ(BUS_MCEERR_AR, touch(bad));
	EXPECT_EQ(bad, sigbus_addr);
	EXPECT_EQ(BUS_MCEERR_AR, touch(self->mem));
	if (self->len > self->align)
		EXPECT_EQ(0, touch(self->mem + self->align));
}

TEST_F(dax_poison, not_in_another_mapping)
{
	char *bad = self->mem + self->bad;
	char *again;

	ASSERT_EQ(0, touch(bad));
	ASSERT_EQ(BUS_MCEERR_AR, poison(bad, self->page_size));

	again = mmap(NULL, self->align, PROT_READ | PROT_WRITE, MAP_SHARED,
		     self->fd, 0);
	ASSERT_NE(MAP_FAILED, again);
	EXPECT_EQ(BUS_MCEERR_AR, touch(again + self->bad));
	munmap(again, self->align);
}

/* The kernel gets an error for it, not a signal. */
TEST_F(dax_poison, not_for_the_kernel)
{
	char *bad = self->mem + self->bad;
	int fds[2];

	ASSERT_EQ(0, touch(bad));
	ASSERT_EQ(BUS_MCEERR_AR, poison(bad, self->page_size));

	ASSERT_EQ(0, pipe(fds));
	EXPECT_EQ(-1, write(fds[1], bad, 1));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, madvise(bad, self->page_size, MADV_POPULATE_READ));
	EXPECT_EQ(EHWPOISON, errno);
	close(fds[0]);
	close(fds[1]);
}

TEST_F(dax_poison, gone_with_the_binding)
{
	char *bad = self->mem + self->bad;

	ASSERT_EQ(0, touch(bad));
	ASSERT_EQ(BUS_MCEERR_AR, poison(bad, self->page_size));
	munmap(self->mem, self->len);
	close(self->fd);

	ASSERT_EQ(0, dax_unbind(self->dev));
	ASSERT_EQ(0, dax_bind(self->dev, DAX_DRIVER, &self->new_id));
	self->fd = dax_open_dev(self->dev);
	ASSERT_GE(self->fd, 0);
	self->mem = mmap(NULL, self->len, PROT_READ | PROT_WRITE, MAP_SHARED,
			 self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	EXPECT_EQ(0, touch(self->mem + self->bad));
}

/* 0, or -errno */
static int punch(int fd, off_t offset, size_t len)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
			 len) ? -errno : 0;
}

/* It would repair the page if the memory's provider could. */
TEST_F(dax_poison, fallocate)
{
	size_t size = self->page_size;
	char *bad = self->mem + self->bad;

	ASSERT_EQ(0, touch(bad));
	ASSERT_EQ(BUS_MCEERR_AR, poison(bad, size));
	if (!punch(self->fd, self->bad, size)) {
		/* As good as new. */
		EXPECT_EQ(0, touch(bad));
		return;
	}

	EXPECT_EQ(-EIO, punch(self->fd, self->bad, size));
	EXPECT_EQ(-EIO, punch(self->fd, 0, self->align));
	EXPECT_EQ(BUS_MCEERR_AR, touch(bad));
	/* The unit cannot be mapped, but all else of it is there. */
	if (self->align > size)
		EXPECT_EQ(0, punch(self->fd, self->bad - size, size));
	if (self->len > self->align)
		EXPECT_EQ(0, punch(self->fd, self->bad + size, size));
	EXPECT_EQ(0, fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, self->len));
}

/* The generic code knows a page by those who have mapped it. */
TEST_F(dax_poison, never_mapped)
{
	char phys[32];

	if (access(HARD_OFFLINE, W_OK))
		SKIP(return, "needs CONFIG_MEMORY_FAILURE and MEMORY_HOTPLUG");
	snprintf(phys, sizeof(phys), "%#llx",
		 dax_read_num(self->dev, "resource"));
	EXPECT_EQ(-EBUSY, write_file(HARD_OFFLINE, phys));
	EXPECT_EQ(BUS_MCEERR_AR, touch(self->mem));
}

struct race {
	char phys[32];
	bool stop;
	unsigned long rounds;
};

static void *poison_loop(void *data)
{
	struct race *race = data;

	while (!__atomic_load_n(&race->stop, __ATOMIC_RELAXED)) {
		/* The result depends on whether there is a device. */
		write_file(HARD_OFFLINE, race->phys);
		race->rounds++;
	}
	return NULL;
}

TEST_F_TIMEOUT(dax_poison, races_with_unbind, RACE_SECONDS + 115)
{
	double end = now() + RACE_SECONDS;
	struct race race = {};
	pthread_t thread;
	int n;

	if (access(HARD_OFFLINE, W_OK))
		SKIP(return, "needs CONFIG_MEMORY_FAILURE and MEMORY_HOTPLUG");
	snprintf(race.phys, sizeof(race.phys), "%#llx",
		 dax_read_num(self->dev, "resource"));
	munmap(self->mem, self->len);
	self->mem = MAP_FAILED;

	/* Not with bind: struct pages come before they are initialised. */
	for (n = 0; n < 2 || now() < end; n++) {
		race.stop = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, poison_loop, &race));
		EXPECT_EQ(0, dax_unbind(self->dev));
		__atomic_store_n(&race.stop, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		EXPECT_EQ(0, dax_bind(self->dev, DAX_DRIVER, &self->new_id));
	}
	EXPECT_NE(0, race.rounds);
	TH_LOG("%lu errors, %d bindings", race.rounds, n);
}

TEST_HARNESS_MAIN
