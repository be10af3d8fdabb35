// SPDX-License-Identifier: GPL-2.0
/*
 * fallocate() and madvise(MADV_REMOVE) on /dev/daxX.Y.
 *
 * DESTROYS THE CONTENTS of the device, which the tester must name:
 *
 *   DAX_TEST_DEV=/dev/dax0.0 ./dax_fallocate_test
 */
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "dax_utils.h"
#include "kselftest_harness.h"

#define PUNCH	(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO	(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)

#define HUGE	(2UL << 20)
#define PATTERN	0xa5a5a5a5a5a5a5a5ULL

#define RACE_SECONDS 0.5

static const char *dev;
static uint64_t dev_size;
static uint64_t dev_align;
static uint64_t page_size;

/* 0, or -errno */
static int do_fallocate(int fd, int mode, off_t offset, off_t len)
{
	return fallocate(fd, mode, offset, len) ? -errno : 0;
}

static int open_read_only(void)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/dev/%s", dev);
	return open(path, O_RDONLY);
}

FIXTURE(dax_fallocate)
{
	uint64_t len;	/* of what is mapped */
	uint64_t *mem;
	bool new_id;
	int fd;
};

FIXTURE_SETUP(dax_fallocate)
{
	char drv[64];

	/* A test that failed may have left it unbound. */
	dax_driver(dev, drv, sizeof(drv));
	if (!*drv)
		ASSERT_EQ(dax_bind(dev, DAX_DRIVER, &self->new_id), 0);

	self->fd = dax_open_dev(dev);
	ASSERT_GE(self->fd, 0);

	/* Two huge pages and the border between them, if there is one. */
	self->len = 2 * HUGE;
	if (self->len < dev_align)
		self->len = dev_align;
	if (self->len > dev_size)
		self->len = dev_size;
	self->mem = mmap(NULL, self->len, PROT_READ | PROT_WRITE, MAP_SHARED,
			 self->fd, 0);
	ASSERT_NE(self->mem, MAP_FAILED);
}

FIXTURE_TEARDOWN(dax_fallocate)
{
	munmap(self->mem, self->len);
	close(self->fd);
}

static void fill(uint64_t *mem, uint64_t offset, uint64_t len)
{
	uint64_t i;

	for (i = offset / 8; i < (offset + len) / 8; i++)
		__atomic_store_n(&mem[i], PATTERN, __ATOMIC_RELAXED);
}

static bool all_equal(uint64_t *mem, uint64_t offset, uint64_t len, uint64_t val)
{
	uint64_t i;

	for (i = offset / 8; i < (offset + len) / 8; i++) {
		if (__atomic_load_n(&mem[i], __ATOMIC_RELAXED) != val)
			return false;
	}
	return true;
}

/* The range, and a page on each side of it that must stay as it is. */
static void check_range(struct __test_metadata *_metadata, int fd, int mode,
			uint64_t *mem, uint64_t offset, uint64_t len)
{
	uint64_t before = offset ? page_size : 0;

	fill(mem, offset - before, before + len + page_size);
	ASSERT_EQ(do_fallocate(fd, mode, offset, len), 0);
	ASSERT_TRUE(all_equal(mem, offset, len, 0))
		TH_LOG("0x%lx + 0x%lx is not zero", (long)offset, (long)len);
	ASSERT_TRUE(all_equal(mem, offset - before, before, PATTERN))
		TH_LOG("the page before 0x%lx changed", (long)offset);
	ASSERT_TRUE(all_equal(mem, offset + len, page_size, PATTERN))
		TH_LOG("the page after 0x%lx changed", (long)(offset + len));
}

static void check_ranges(struct __test_metadata *_metadata, int fd, int mode,
			 uint64_t *mem)
{
	check_range(_metadata, fd, mode, mem, 0, page_size);
	check_range(_metadata, fd, mode, mem, page_size, page_size);
	check_range(_metadata, fd, mode, mem, 7 * page_size, 5 * page_size);
	check_range(_metadata, fd, mode, mem, HUGE - page_size, page_size);
	check_range(_metadata, fd, mode, mem, HUGE - page_size, 2 * page_size);
	check_range(_metadata, fd, mode, mem, 0, HUGE);
	check_range(_metadata, fd, mode, mem, page_size, HUGE);
}

TEST_F(dax_fallocate, punch_hole)
{
	check_ranges(_metadata, self->fd, PUNCH, self->mem);
}

TEST_F(dax_fallocate, zero_range)
{
	check_ranges(_metadata, self->fd, ZERO, self->mem);
}

TEST_F(dax_fallocate, last_page)
{
	uint64_t start = (dev_size - 1) & ~(dev_align - 1);
	uint64_t last = dev_size - start - page_size;
	uint64_t *mem;

	mem = mmap(NULL, dev_size - start, PROT_READ | PROT_WRITE, MAP_SHARED,
		   self->fd, start);
	ASSERT_NE(mem, MAP_FAILED);
	fill(mem, last, page_size);
	ASSERT_EQ(do_fallocate(self->fd, PUNCH, start + last, page_size), 0);
	EXPECT_TRUE(all_equal(mem, last, page_size, 0));
	fill(mem, last, page_size);
	ASSERT_EQ(do_fallocate(self->fd, ZERO, start + last, page_size), 0);
	EXPECT_TRUE(all_equal(mem, last, page_size, 0));
	munmap(mem, dev_size - start);
}

/* The memory is there already: nothing to do, and nothing done. */
TEST_F(dax_fallocate, keep_size_alone)
{
	fill(self->mem, 0, 2 * HUGE);
	EXPECT_EQ(do_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, page_size), 0);
	EXPECT_EQ(do_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, dev_size), 0);
	EXPECT_EQ(do_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, HUGE, page_size), 0);
	EXPECT_TRUE(all_equal(self->mem, 0, 2 * HUGE, PATTERN));
}

TEST_F(dax_fallocate, past_the_end)
{
	const int modes[] = { FALLOC_FL_KEEP_SIZE, PUNCH, ZERO };
	off_t page = page_size, size = dev_size;
	size_t i;

	fill(self->mem, 0, 2 * page_size);
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		EXPECT_EQ(do_fallocate(self->fd, modes[i], size, page), -EINVAL);
		EXPECT_EQ(do_fallocate(self->fd, modes[i], size - page, 2 * page),
			  -EINVAL);
		EXPECT_EQ(do_fallocate(self->fd, modes[i], 0, size + page), -EINVAL);
		EXPECT_EQ(do_fallocate(self->fd, modes[i], 2 * size, page), -EINVAL);
		EXPECT_EQ(do_fallocate(self->fd, modes[i], 1ULL << 62, page),
			  -EINVAL);
	}
	EXPECT_TRUE(all_equal(self->mem, 0, 2 * page_size, PATTERN));
}

TEST_F(dax_fallocate, unaligned)
{
	const int modes[] = { PUNCH, ZERO };
	off_t page = page_size;
	size_t i;

	fill(self->mem, 0, 4 * page_size);
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		EXPECT_EQ(do_fallocate(self->fd, modes[i], 1, page), -EINVAL);
		EXPECT_EQ(do_fallocate(self->fd, modes[i], page - 1, 1), -EINVAL);
		EXPECT_EQ(do_fallocate(self->fd, modes[i], page / 2, page), -EINVAL);
		EXPECT_EQ(do_fallocate(self->fd, modes[i], 0, 1), -EINVAL);
		EXPECT_EQ(do_fallocate(self->fd, modes[i], 0, page + 1), -EINVAL);
		EXPECT_EQ(do_fallocate(self->fd, modes[i], 0, page / 2), -EINVAL);
	}
	EXPECT_TRUE(all_equal(self->mem, 0, 4 * page_size, PATTERN));
}

TEST_F(dax_fallocate, other_modes)
{
	const int modes[] = {
		0,
		FALLOC_FL_ZERO_RANGE,
		FALLOC_FL_PUNCH_HOLE,
		FALLOC_FL_COLLAPSE_RANGE,
		FALLOC_FL_INSERT_RANGE,
		FALLOC_FL_UNSHARE_RANGE,
		FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE,
		PUNCH | FALLOC_FL_ZERO_RANGE,
		1 << 30,
	};
	size_t i;

	fill(self->mem, 0, page_size);
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		int mode = modes[i];

		EXPECT_EQ(do_fallocate(self->fd, mode, 0, page_size), -EOPNOTSUPP)
			TH_LOG("mode 0x%x", mode);
	}
	EXPECT_TRUE(all_equal(self->mem, 0, page_size, PATTERN));
}

TEST_F(dax_fallocate, not_open_for_writing)
{
	int fd = open_read_only();

	ASSERT_GE(fd, 0);
	fill(self->mem, 0, page_size);
	EXPECT_EQ(do_fallocate(fd, PUNCH, 0, page_size), -EBADF);
	EXPECT_EQ(do_fallocate(fd, ZERO, 0, page_size), -EBADF);
	EXPECT_EQ(do_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, page_size), -EBADF);
	EXPECT_TRUE(all_equal(self->mem, 0, page_size, PATTERN));
	close(fd);
}

TEST_F(dax_fallocate, negative_or_empty)
{
	off_t page = page_size;

	EXPECT_EQ(do_fallocate(self->fd, PUNCH, 0, 0), -EINVAL);
	EXPECT_EQ(do_fallocate(self->fd, PUNCH, 0, -page), -EINVAL);
	EXPECT_EQ(do_fallocate(self->fd, PUNCH, -page, page), -EINVAL);
	EXPECT_EQ(do_fallocate(self->fd, PUNCH, -page, 2 * page), -EINVAL);
	EXPECT_EQ(do_fallocate(self->fd, ZERO, 0, 0), -EINVAL);
	EXPECT_EQ(do_fallocate(self->fd, ZERO, -page, page), -EINVAL);
}

TEST_F(dax_fallocate, overflow)
{
	off_t page = page_size, last = LLONG_MAX & ~(page - 1);

	EXPECT_EQ(do_fallocate(self->fd, PUNCH, last, page), -EFBIG);
	EXPECT_EQ(do_fallocate(self->fd, PUNCH, page, last), -EFBIG);
	EXPECT_EQ(do_fallocate(self->fd, ZERO, last, last), -EFBIG);
}

/* Whoever has it mapped sees the zeroes, without a new fault. */
TEST_F(dax_fallocate, other_process_sees_it)
{
	int to_child[2], to_parent[2], status;
	char c = 0;
	pid_t pid;

	ASSERT_EQ(pipe(to_child), 0);
	ASSERT_EQ(pipe(to_parent), 0);
	fill(self->mem, 0, 2 * page_size);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (!all_equal(self->mem, 0, 2 * page_size, PATTERN))
			_exit(1);
		if (write(to_parent[1], &c, 1) != 1 || read(to_child[0], &c, 1) != 1)
			_exit(2);
		_exit(!all_equal(self->mem, page_size, page_size, 0) ||
		      !all_equal(self->mem, 0, page_size, PATTERN));
	}
	close(to_parent[1]);
	ASSERT_EQ(read(to_parent[0], &c, 1), 1);
	ASSERT_EQ(do_fallocate(self->fd, PUNCH, page_size, page_size), 0);
	ASSERT_EQ(write(to_child[1], &c, 1), 1);
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	EXPECT_EQ(status, 0);
}

TEST_F(dax_fallocate, madvise_remove)
{
	fill(self->mem, 0, 4 * page_size);
	ASSERT_EQ(madvise((char *)self->mem + page_size, 2 * page_size, MADV_REMOVE),
		  0);
	EXPECT_TRUE(all_equal(self->mem, 0, page_size, PATTERN));
	EXPECT_TRUE(all_equal(self->mem, page_size, 2 * page_size, 0));
	EXPECT_TRUE(all_equal(self->mem, 3 * page_size, page_size, PATTERN));
}

/* The offset in the mapping is not the one in the device. */
TEST_F(dax_fallocate, madvise_remove_at_offset)
{
	uint64_t offset = dev_align > HUGE ? dev_align : HUGE;
	uint64_t *mem;

	if (2 * offset > dev_size)
		SKIP(return, "%s holds one page of its alignment", dev);

	mem = mmap(NULL, offset, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd,
		   offset);
	ASSERT_NE(mem, MAP_FAILED);
	fill(self->mem, 0, page_size);
	fill(mem, 0, 2 * page_size);
	ASSERT_EQ(madvise(mem, page_size, MADV_REMOVE), 0);
	EXPECT_TRUE(all_equal(mem, 0, page_size, 0));
	EXPECT_TRUE(all_equal(mem, page_size, page_size, PATTERN));
	EXPECT_TRUE(all_equal(self->mem, 0, page_size, PATTERN));
	munmap(mem, offset);
}

TEST_F(dax_fallocate, madvise_remove_read_only)
{
	int fd = open_read_only();
	void *mem;

	ASSERT_GE(fd, 0);
	mem = mmap(NULL, self->len, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(mem, MAP_FAILED);
	fill(self->mem, 0, page_size);
	EXPECT_EQ(madvise(mem, page_size, MADV_REMOVE), -1);
	EXPECT_EQ(errno, EACCES);
	EXPECT_TRUE(all_equal(self->mem, 0, page_size, PATTERN));
	munmap(mem, self->len);
	close(fd);
}

TEST_F(dax_fallocate, not_bound)
{
	ASSERT_EQ(dax_unbind(dev), 0);
	EXPECT_EQ(do_fallocate(self->fd, PUNCH, 0, page_size), -ENODEV);
	EXPECT_EQ(do_fallocate(self->fd, ZERO, 0, page_size), -ENODEV);
	EXPECT_EQ(do_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, page_size),
		  -ENODEV);
	ASSERT_EQ(dax_bind(dev, DAX_DRIVER, &self->new_id), 0);
}

struct puncher {
	pthread_t thread;
	uint64_t rounds;
	int fd;
	int r;
};

/*
 * Until the device has gone: so much each time that a call which does not notice
 * cannot end before.
 */
static void *punch_until_error(void *arg)
{
	struct puncher *p = arg;

	do {
		p->r = do_fallocate(p->fd, PUNCH, 0, 512 * HUGE < dev_size ?
				    512 * HUGE : dev_size);
		__atomic_add_fetch(&p->rounds, 1, __ATOMIC_RELAXED);
	} while (!p->r);

	return NULL;
}

TEST_F_TIMEOUT(dax_fallocate, unbind_meanwhile, 120)
{
	double end = now() + RACE_SECONDS;
	struct puncher p[2];
	size_t i;

	do {
		for (i = 0; i < ARRAY_SIZE(p); i++) {
			p[i].rounds = 0;
			p[i].fd = dax_open_dev(dev);
			ASSERT_GE(p[i].fd, 0);
			ASSERT_EQ(pthread_create(&p[i].thread, NULL,
						 punch_until_error, &p[i]), 0);
		}
		while (!__atomic_load_n(&p[0].rounds, __ATOMIC_RELAXED))
			usleep(100);
		ASSERT_EQ(dax_unbind(dev), 0);
		for (i = 0; i < ARRAY_SIZE(p); i++) {
			pthread_join(p[i].thread, NULL);
			EXPECT_EQ(p[i].r, -ENODEV);
			close(p[i].fd);
		}
		ASSERT_EQ(dax_bind(dev, DAX_DRIVER, &self->new_id), 0);
	} while (now() < end);
}

/*
 * The whole device is punched, and killed when the first page is zero.  The
 * last one then still has its pattern, unless the signal was not heeded.
 */
TEST_F_TIMEOUT(dax_fallocate, killed_meanwhile, 120)
{
	uint64_t start = (dev_size - 1) & ~(dev_align - 1);
	uint64_t last = dev_size - start - page_size;
	bool interrupted = false;
	uint64_t *mem;
	int i, status;
	pid_t pid;

	mem = mmap(NULL, dev_size - start, PROT_READ | PROT_WRITE, MAP_SHARED,
		   self->fd, start);
	ASSERT_NE(mem, MAP_FAILED);

	for (i = 0; i < 5 && !interrupted; i++) {
		fill(self->mem, 0, page_size);
		fill(mem, last, page_size);
		pid = fork();
		ASSERT_GE(pid, 0);
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			fallocate(self->fd, PUNCH, 0, dev_size);
			pause();
		}
		while (!all_equal(self->mem, 0, 8, 0))
			;
		kill(pid, SIGKILL);
		ASSERT_EQ(waitpid(pid, &status, 0), pid);
		ASSERT_TRUE(WIFSIGNALED(status));
		interrupted = all_equal(mem, last, page_size, PATTERN);
	}
	EXPECT_TRUE(interrupted);
	munmap(mem, dev_size - start);
}

/* Devices that implement nothing of the kind answer as they always did. */
TEST(other_devices)
{
	const char * const paths[] = { "/dev/null", "/dev/zero" };
	size_t i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(paths); i++) {
		fd = open(paths[i], O_RDWR);
		ASSERT_GE(fd, 0);
		EXPECT_EQ(do_fallocate(fd, PUNCH, 0, page_size), -ENODEV);
		EXPECT_EQ(do_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, page_size),
			  -ENODEV);
		EXPECT_EQ(do_fallocate(fd, 0, 0, page_size), -ENODEV);
		close(fd);
	}
}

TEST(pipes)
{
	int fds[2];

	ASSERT_EQ(pipe(fds), 0);
	EXPECT_EQ(do_fallocate(fds[1], PUNCH, 0, page_size), -ESPIPE);
	close(fds[0]);
	close(fds[1]);
}

/* All of the test is skipped, or none of it. */
static void require(bool cond, const char *reason)
{
	if (cond)
		return;

	ksft_print_header();
	ksft_exit_skip("%s\n", reason);
}

int main(int argc, char *argv[])
{
	dev = dax_test_dev();
	page_size = getpagesize();

	require(dev, DAX_TEST_DEV_HINT "; its contents are destroyed");
	require(!geteuid(), "must be run as root");
	dev_size = dax_read_num(dev, "size");
	dev_align = dax_read_num(dev, "align");
	require(dev_size >= 4 * HUGE, "the device is missing or smaller than 8 MiB");

	return test_harness_run(argc, argv);
}
