// SPDX-License-Identifier: GPL-2.0-only
/*
 * write() to a guest_memfd that was created with GUEST_MEMFD_FLAG_WRITE: on page
 * cache, and on device-DAX.
 *
 * DESTROYS THE CONTENTS of the device that -d or GUEST_DAXFD_DEV names, and
 * simulates memory errors: two pages of RAM are not used again until reboot.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/sizes.h>
#include <linux/userfaultfd.h>

#include "daxfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#include "kvm_test_harness.h"

#define WRITE_FLAGS	(CREATE_FLAGS | GUEST_MEMFD_FLAG_WRITE)

/* What is looked at: four blocks of 2M. */
#define SIZE		MIN_UNIT
/* What there is to write, and some more for sources that are not aligned. */
#define SRC_SIZE	(SIZE + SZ_64K)

#define LOOP_MS		1000

struct target {
	struct ctx c;
	bool dax;
	u64 size;	/* of the file */
	u64 old;	/* what all words are at first */
	int fd;
	u64 *mem;	/* SIZE bytes of the file */
	u64 *src;
};

/*
 * Targets
 */

static void target_open(struct target *t)
{
	t->dax = !t->c.path->page_cache;
	t->size = t->dax ? unit_size : SIZE;
	TEST_ASSERT_OK(claim(&t->c, 0, t->c.dax_fd, unit_offset(0), t->size));
	t->fd = t->c.gmem[0];
}

/* No two words of the source are alike, and none is anything else. */
static const char *target_setup(struct target *t, const struct path *path)
{
	u64 i;

	ctx_setup(&t->c, path, 2);
	if (!path->page_cache)
		dax_dev_fill(&dax, unit_offset(0), SIZE, OLD_DATA);
	target_open(t);

	t->old = path->flags & GUEST_MEMFD_FLAG_KEEP_DATA ? OLD_DATA : 0;
	t->mem = NULL;
	if (path->flags & GUEST_MEMFD_FLAG_MMAP)
		t->mem = kvm_mmap(SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd);
	t->src = kvm_mmap(SRC_SIZE + page_size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1);
	/* Nothing is behind it. */
	TEST_ASSERT(!mprotect((char *)t->src + SRC_SIZE, page_size, PROT_NONE),
		    "mprotect() failed");
	for (i = 0; i < SRC_SIZE / sizeof(u64); i++)
		t->src[i] = HOST_DATA + i;

	return NULL;
}

static long do_pwrite(int fd, const void *buf, size_t len, u64 offset)
{
	ssize_t r = pwrite(fd, buf, len, offset);

	return r < 0 ? -errno : r;
}

static long do_write(int fd, const void *buf, size_t len)
{
	ssize_t r = write(fd, buf, len);

	return r < 0 ? -errno : r;
}

#define ASSERT_WRITTEN(expr, len)						\
do {										\
	long __written = (expr), __len = (len);					\
										\
	TEST_ASSERT(__written == __len, "%s: expected %ld, got %ld", #expr,	\
		    __len, __written);						\
} while (0)

/* All words from @offset on are @val. */
static void check_words(struct target *t, u64 offset, u64 len, u64 val)
{
	u64 i;

	for (i = offset / 8; i < (offset + len) / 8; i++)
		TEST_ASSERT(t->mem[i] == val, "At 0x%lx: expected 0x%lx, got 0x%lx",
			    i * 8, val, t->mem[i]);
}

static void check_old(struct target *t, u64 offset, u64 len)
{
	check_words(t, offset, len, t->old);
}

static void check_bytes(struct target *t, u64 offset, const void *buf, u64 len)
{
	const char *a = (char *)t->mem + offset, *b = buf;
	u64 i;

	if (!memcmp(a, b, len))
		return;
	for (i = 0; a[i] == b[i]; i++)
		;
	TEST_FAIL("At 0x%lx: expected 0x%x, got 0x%x", offset + i, (u8)b[i],
		  (u8)a[i]);
}

/* A source whose pages are not those of the file. */
static void *unaligned_src(struct target *t)
{
	return (char *)t->src + 2088;
}

/*
 * Flags
 */

FIXTURE(api) {
	struct kvm_vm *vm;
	int dax_fd;
};

FIXTURE_SETUP(api)
{
	dax_dev_restore(&dax);
	self->vm = vm_create_barebones();
	self->dax_fd = dax_dev_open(&dax);
}

FIXTURE_TEARDOWN_PARENT(api)
{
	check_after_test();
}

TEST_F(api, capabilities)
{
	TEST_ASSERT_EQ(GUEST_MEMFD_FLAG_WRITE, 1 << 3);
	TEST_ASSERT(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS) &
		    GUEST_MEMFD_FLAG_WRITE, "Not in KVM_CAP_GUEST_MEMFD_FLAGS");
	TEST_ASSERT(vm_check_cap(self->vm, KVM_CAP_GUEST_DAXFD_FLAGS) &
		    GUEST_MEMFD_FLAG_WRITE, "Not in KVM_CAP_GUEST_DAXFD_FLAGS");
}

#ifdef __x86_64__
/* There is no shared memory to write to, and never will be. */
TEST_F(api, sw_protected)
{
	struct kvm_vm *vm;

	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM)))
		SKIP(return, "KVM lacks CONFIG_KVM_SW_PROTECTED_VM");

	vm = vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM);
	if (kvm_has_gmem_attributes()) {
		TEST_ASSERT(vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS) &
			    GUEST_MEMFD_FLAG_WRITE,
			    "Not in KVM_CAP_GUEST_MEMFD_FLAGS");
		return;
	}
	TEST_ASSERT(!(vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS) &
		      GUEST_MEMFD_FLAG_WRITE), "In KVM_CAP_GUEST_MEMFD_FLAGS");
	TEST_ASSERT_EQ(__vm_create_guest_memfd(vm, page_size,
					       GUEST_MEMFD_FLAG_WRITE), -1);
	TEST_ASSERT_EQ(errno, EINVAL);
	TEST_ASSERT_ERR(gmem_create(vm->fd, GUEST_MEMFD_FLAG_WRITE, self->dax_fd,
				    0, unit_size), EINVAL);
}
#endif

/*
 * Files that cannot be written to
 */

static void check_refused(struct target *t, int err)
{
	struct iovec iov = { t->src, page_size };

	TEST_ASSERT_ERR(do_write(t->fd, t->src, page_size), err);
	TEST_ASSERT_ERR(do_pwrite(t->fd, t->src, page_size, page_size), err);
	TEST_ASSERT_ERR(do_pwrite(t->fd, t->src, SZ_4M, 0), err);
	TEST_ASSERT_ERR(pwritev(t->fd, &iov, 1, 0) < 0 ? -errno : 0, err);
	TEST_ASSERT_EQ(lseek(t->fd, 0, SEEK_CUR), 0);
}

TARGET_FIXTURE(no_flag)
TARGET_VARIANTS(no_flag, CREATE_FLAGS);

TEST_F(no_flag, write)
{
	check_refused(&self->t, ENODEV);
	/* Whatever else is wrong with it. */
	TEST_ASSERT_ERR(do_pwrite(self->t.fd, self->t.src, 1, 1), ENODEV);
	check_old(&self->t, 0, SIZE);
}

#define PRIVATE_FLAGS	GUEST_MEMFD_FLAG_WRITE
#define MMAP_FLAGS	(PRIVATE_FLAGS | GUEST_MEMFD_FLAG_MMAP)

TARGET_FIXTURE(private)
FIXTURE_VARIANT_ADD(private, page_cache) { .path = PATH_page_cache(PRIVATE_FLAGS) };
FIXTURE_VARIANT_ADD(private, page_cache_mmap) { .path = PATH_page_cache(MMAP_FLAGS) };
FIXTURE_VARIANT_ADD(private, create) { .path = { .flags = PRIVATE_FLAGS } };
FIXTURE_VARIANT_ADD(private, create_mmap) { .path = { .flags = MMAP_FLAGS } };

TEST_F(private, write)
{
	struct target *t = &self->t;

	check_refused(t, EACCES);
	if (!t->dax)
		return;

	TEST_ASSERT_EQ(fdinfo_number(t->fd, "initialised"), 0);
	if (t->mem)
		kvm_munmap(t->mem, SIZE);
	unclaim(&t->c, 0);
	dax_dev_check(&dax, unit_offset(0), SIZE, OLD_DATA);
}

/*
 * Arguments
 */

TARGET_FIXTURE(args)
TARGET_VARIANTS(args, WRITE_FLAGS);

/* A request that is wrong somewhere changes nothing. */
TEST_F(args, alignment)
{
	struct target *t = &self->t;
	const struct {
		u64 offset, len;
	} bad[] = {
		{ 0, 1 }, { 0, page_size - 1 }, { 0, page_size + 1 },
		{ 0, SZ_4M + 1 }, { 0, SZ_4M - 8 }, { 1, page_size },
		{ page_size - 1, 1 }, { page_size + 1, SZ_2M },
		{ page_size / 2, page_size / 2 }, { 1, 0 },
		{ SIZE - 1, 1 },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		TEST_ASSERT_ERR(do_pwrite(t->fd, t->src, bad[i].len,
					  bad[i].offset), EINVAL);
	if (t->dax && !t->old)
		TEST_ASSERT_EQ(fdinfo_number(t->fd, "initialised"), 0);
	check_old(t, 0, SIZE);
}

TEST_F(args, past_the_end)
{
	struct target *t = &self->t;
	u64 *last;

	TEST_ASSERT_ERR(do_pwrite(t->fd, t->src, page_size, t->size), EINVAL);
	TEST_ASSERT_ERR(do_pwrite(t->fd, t->src, page_size, t->size + SZ_1G), EINVAL);
	TEST_ASSERT_ERR(do_pwrite(t->fd, t->src, page_size, 1ULL << 45), EINVAL);
	TEST_ASSERT_ERR(do_pwrite(t->fd, t->src, 2 * page_size,
				  t->size - page_size), EINVAL);
	TEST_ASSERT_ERR(do_pwrite(t->fd, t->src, SIZE + page_size,
				  t->size - SIZE), EINVAL);

	last = __kvm_mmap(page_size, PROT_READ, MAP_SHARED, t->fd,
			  t->size - page_size);
	if (t->size == SIZE || !t->old)
		TEST_ASSERT_EQ(*last, t->old);
	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, page_size, t->size - page_size),
		       page_size);
	TEST_ASSERT(!memcmp(last, t->src, page_size), "The last page is not written");
	kvm_munmap(last, page_size);
}

TEST_F(args, nothing)
{
	struct target *t = &self->t;

	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, 0, 0), 0);
	ASSERT_WRITTEN(do_pwrite(t->fd, NULL, 0, page_size), 0);
	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, 0, t->size), 0);
	TEST_ASSERT_ERR(do_pwrite(t->fd, t->src, 0, t->size + page_size), EINVAL);
	if (t->dax && !t->old)
		TEST_ASSERT_EQ(fdinfo_number(t->fd, "initialised"), 0);
	check_old(t, 0, SIZE);
}

TEST_F(args, position)
{
	struct target *t = &self->t;

	ASSERT_WRITTEN(do_write(t->fd, t->src, page_size), page_size);
	TEST_ASSERT_EQ(lseek(t->fd, 0, SEEK_CUR), page_size);
	ASSERT_WRITTEN(do_write(t->fd, t->src + page_size / 8, 2 * page_size),
		       2 * page_size);
	TEST_ASSERT_EQ(lseek(t->fd, 0, SEEK_CUR), 3 * page_size);
	check_bytes(t, 0, t->src, 3 * page_size);

	/* pwrite() and errors leave it alone. */
	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, page_size, SZ_1M), page_size);
	TEST_ASSERT_ERR(do_write(t->fd, t->src, 1), EINVAL);
	TEST_ASSERT_ERR(do_write(t->fd, NULL, page_size), EFAULT);
	TEST_ASSERT_EQ(lseek(t->fd, 0, SEEK_CUR), 3 * page_size);

	TEST_ASSERT_EQ(lseek(t->fd, 1, SEEK_SET), 1);
	TEST_ASSERT_ERR(do_write(t->fd, t->src, page_size), EINVAL);
	TEST_ASSERT_EQ(lseek(t->fd, 0, SEEK_END), t->size);
	TEST_ASSERT_ERR(do_write(t->fd, t->src, page_size), EINVAL);
	TEST_ASSERT_EQ(lseek(t->fd, -(long)page_size, SEEK_END),
		       t->size - page_size);
	ASSERT_WRITTEN(do_write(t->fd, t->src, page_size), page_size);
	TEST_ASSERT_EQ(lseek(t->fd, t->size + page_size, SEEK_SET), -1);
	TEST_ASSERT_EQ(errno, EINVAL);
	TEST_ASSERT_EQ(lseek(t->fd, 0, SEEK_HOLE), -1);
	TEST_ASSERT_EQ(errno, EINVAL);
	check_old(t, 3 * page_size, SZ_1M - 3 * page_size);
}

/* There is nothing to append to. */
TEST_F(args, append)
{
	struct iovec iov = { self->t.src, page_size };
	struct target *t = &self->t;

	TEST_ASSERT_EQ(pwritev2(t->fd, &iov, 1, 0, RWF_APPEND), -1);
	TEST_ASSERT_EQ(errno, EINVAL);
	TEST_ASSERT_EQ(fcntl(t->fd, F_SETFL, O_APPEND), 0);
	TEST_ASSERT_ERR(do_write(t->fd, t->src, page_size), EINVAL);
	TEST_ASSERT_ERR(do_pwrite(t->fd, t->src, page_size, 0), EINVAL);
	TEST_ASSERT_EQ(lseek(t->fd, 0, SEEK_CUR), 0);
	TEST_ASSERT_EQ(fcntl(t->fd, F_SETFL, 0), 0);
	check_old(t, 0, SIZE);
	ASSERT_WRITTEN(do_write(t->fd, t->src, page_size), page_size);
}

TEST_F(args, no_read)
{
	struct target *t = &self->t;
	char buf[64];

	TEST_ASSERT_EQ(read(t->fd, buf, sizeof(buf)), -1);
	TEST_ASSERT_EQ(errno, EINVAL);
	TEST_ASSERT_EQ(pread(t->fd, buf, sizeof(buf), 0), -1);
}

/*
 * Contents
 */

TARGET_FIXTURE(data)
TARGET_VARIANTS(data, WRITE_FLAGS);

TEST_F(data, pages)
{
	struct target *t = &self->t;
	const u64 offset = SZ_1M + 3 * page_size;

	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, 2 * page_size, offset),
		       2 * page_size);
	if (t->dax && !t->old)
		TEST_ASSERT_EQ(fdinfo_number(t->fd, "initialised"), ZERO_SIZE);
	check_old(t, 0, offset);
	check_bytes(t, offset, t->src, 2 * page_size);
	check_old(t, offset + 2 * page_size, SIZE - offset - 2 * page_size);
}

TEST_F(data, guest)
{
	struct target *t = &self->t;
	const u64 offset = 5 * page_size;
	u64 i;

	TEST_ASSERT_OK(__mem_slot(&t->c, 0, NULL));
	mem_map(&t->c, 0);
	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, 2 * page_size,
				 SLOT_OFFSET + offset), 2 * page_size);

	for (i = 0; i < 2 * page_size; i += page_size / 2)
		TEST_ASSERT_EQ(guest_read(t->c.vcpu, MEM_GPA(0) + offset + i),
			       t->src[i / 8]);
	TEST_ASSERT_EQ(guest_read(t->c.vcpu, MEM_GPA(0) + offset - 8), t->old);
	TEST_ASSERT_EQ(guest_read(t->c.vcpu, MEM_GPA(0) + offset + 2 * page_size),
		       t->old);

	/* Over what the guest has mapped, and wrote to. */
	guest_write(t->c.vcpu, MEM_GPA(0) + offset, GUEST_DATA);
	guest_write(t->c.vcpu, MEM_GPA(0) + offset - 8, GUEST_DATA);
	ASSERT_WRITTEN(do_pwrite(t->fd, t->src + 512, 2 * page_size,
				 SLOT_OFFSET + offset), 2 * page_size);
	TEST_ASSERT_EQ(guest_read(t->c.vcpu, MEM_GPA(0) + offset), t->src[512]);
	TEST_ASSERT_EQ(guest_read(t->c.vcpu, MEM_GPA(0) + offset - 8), GUEST_DATA);
	check_words(t, SLOT_OFFSET + offset - 8, 8, GUEST_DATA);
}

/* From the middle of a block to the middle of another one. */
TEST_F(data, blocks)
{
	struct target *t = &self->t;
	void *src = unaligned_src(t);

	ASSERT_WRITTEN(do_pwrite(t->fd, src, SZ_4M, SZ_1M), SZ_4M);
	if (t->dax && !t->old)
		TEST_ASSERT_EQ(fdinfo_number(t->fd, "initialised"), 3 * ZERO_SIZE);
	check_old(t, 0, SZ_1M);
	check_bytes(t, SZ_1M, src, SZ_4M);
	check_old(t, SZ_1M + SZ_4M, SIZE - SZ_1M - SZ_4M);
}

TEST_F(data, all)
{
	struct target *t = &self->t;

	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, SIZE, 0), SIZE);
	check_bytes(t, 0, t->src, SIZE);
}

/* Whoever comes second finds what the first one left. */
TEST_F(data, over_contents)
{
	struct target *t = &self->t;
	const u64 offset = SZ_2M + SZ_1M;
	u64 i;

	for (i = 0; i < SIZE / 8; i += page_size / 8)
		t->mem[i] = GUEST_DATA;
	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, 3 * page_size, offset),
		       3 * page_size);
	check_bytes(t, offset, t->src, 3 * page_size);
	for (i = 0; i < SIZE; i += page_size) {
		if (i < offset || i >= offset + 3 * page_size)
			TEST_ASSERT_EQ(t->mem[i / 8], GUEST_DATA);
	}

	ASSERT_WRITTEN(do_pwrite(t->fd, t->src + 1, page_size, offset), page_size);
	check_bytes(t, offset, t->src + 1, page_size);
	check_bytes(t, offset + page_size, t->src + page_size / 8, 2 * page_size);
}

TEST_F(data, holes)
{
	struct target *t = &self->t;

	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, SIZE, 0), SIZE);
	TEST_ASSERT_OK(punch(&t->c, 0, ZERO_SIZE));
	TEST_ASSERT_OK(punch(&t->c, ZERO_SIZE, page_size));
	check_words(t, 0, ZERO_SIZE + page_size, 0);

	/* A hole is filled, all of it or a part. */
	TEST_ASSERT_OK(punch(&t->c, 0, ZERO_SIZE));
	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, page_size, page_size), page_size);
	check_words(t, 0, page_size, 0);
	check_bytes(t, page_size, t->src, page_size);
	check_words(t, 2 * page_size, ZERO_SIZE - page_size, 0);
	check_bytes(t, ZERO_SIZE + page_size,
		    (char *)t->src + ZERO_SIZE + page_size,
		    SIZE - ZERO_SIZE - page_size);
}

TEST_F(data, vectors)
{
	struct target *t = &self->t;
	char *src = (char *)t->src;
	struct iovec iov[] = {
		{ src, 100 }, { NULL, 0 }, { src + 100, page_size },
		{ src + 100 + page_size, 1 },
		{ src + 101 + page_size, 2 * page_size - 101 },
	};

	ASSERT_WRITTEN(pwritev(t->fd, iov, ARRAY_SIZE(iov), SZ_2M - page_size),
		       3 * page_size);
	check_old(t, 0, SZ_2M - page_size);
	check_bytes(t, SZ_2M - page_size, src, 3 * page_size);
	check_old(t, SZ_2M + 2 * page_size, SIZE - SZ_2M - 2 * page_size);

	/* It is the sum that counts. */
	TEST_ASSERT_EQ(pwritev(t->fd, iov, 4, 0), -1);
	TEST_ASSERT_EQ(errno, EINVAL);
	check_old(t, 0, page_size);
}

/*
 * What was written is wiped with everything else, or kept with everything
 * else.
 */
TARGET_FIXTURE(after)
TARGET_VARIANTS_DAX(after, WRITE_FLAGS);

static void check_device_after(struct target *t)
{
	u64 *mem = dax_dev_mmap(&dax, unit_offset(0), SIZE);
	u64 i, *page;

	for (i = 0; i < SIZE; i += page_size) {
		page = mem + i / 8;
		if (i >= SZ_1M && i < SZ_4M + SZ_1M)
			TEST_ASSERT_EQ(*page, t->old ? t->src[(i - SZ_1M) / 8] : 0);
		else if (i < 3 * ZERO_SIZE)
			TEST_ASSERT_EQ(*page, t->old);
		else
			TEST_ASSERT_EQ(*page, OLD_DATA);
	}
	dax_dev_munmap(&dax, mem, unit_offset(0), SIZE);
}

TEST_F(after, close)
{
	struct target *t = &self->t;

	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, SZ_4M, SZ_1M), SZ_4M);
	kvm_munmap(t->mem, SIZE);
	unclaim(&t->c, 0);
	check_device_after(t);
}

TEST_F(after, unbind)
{
	struct target *t = &self->t;

	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, SZ_4M, SZ_1M), SZ_4M);
	unbind();
	TEST_ASSERT_ERR(do_pwrite(t->fd, t->src, page_size, 0), ENODEV);
	TEST_ASSERT_ERR(do_pwrite(t->fd, t->src, SIZE, 0), ENODEV);
	rebind();
	TEST_ASSERT_ERR(do_pwrite(t->fd, t->src, page_size, 0), ENODEV);
	check_device_after(t);
}

/*
 * Sources that are not there
 */

TARGET_FIXTURE(source)
TARGET_VARIANTS(source, WRITE_FLAGS);

TEST_F(source, nowhere)
{
	struct target *t = &self->t;
	void *none = kvm_mmap(SZ_4M, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	TEST_ASSERT_ERR(do_pwrite(t->fd, NULL, page_size, 0), EFAULT);
	TEST_ASSERT_ERR(do_pwrite(t->fd, none, SZ_4M, 0), EFAULT);
	kvm_munmap(none, SZ_4M);
	TEST_ASSERT_ERR(do_pwrite(t->fd, none, SZ_4M, 0), EFAULT);
	/* The first page is not complete. */
	TEST_ASSERT_ERR(do_pwrite(t->fd, (char *)t->src + SRC_SIZE - 8,
				  page_size, 0), EFAULT);
	if (t->dax && !t->old)
		TEST_ASSERT_EQ(fdinfo_number(t->fd, "initialised"), 0);
	check_old(t, 0, SIZE);
}

/* Whole pages are written, and no more than is reported. */
static void check_short(struct target *t, u64 src_offset, u64 gap, u64 written)
{
	char *src = (char *)t->src + src_offset;
	const u64 offset = SZ_2M + SZ_1M;

	kvm_munmap((char *)t->src + gap, page_size);
	ASSERT_WRITTEN(do_pwrite(t->fd, src, SZ_4M, offset), written);
	check_old(t, 0, offset);
	check_bytes(t, offset, src, written);
	check_old(t, offset + written, SIZE - offset - written);
}

TEST_F(source, gap)
{
	check_short(&self->t, 0, SZ_64K, SZ_64K);
}

TEST_F(source, gap_not_aligned)
{
	check_short(&self->t, 8, SZ_64K, SZ_64K - page_size);
}

TEST_F(source, gap_behind_a_block)
{
	check_short(&self->t, 16, SZ_2M + SZ_64K, SZ_2M + SZ_64K - page_size);
}

/* A while that is shorter than any sleep. */
static void spin(int rounds)
{
	while (rounds-- > 0)
		barrier();
}

/*
 * The source goes away at any time while it is copied.  Its pages are not those
 * of the file, so a page can be copied in part.
 */
struct gone {
	void *start;
	int delay;
};

static void *unmap_later(void *arg)
{
	struct gone *gone = arg;

	spin(gone->delay);
	munmap(gone->start, SZ_1M);
	return NULL;
}

static void check_torn(struct target *t, long written)
{
	const u8 *new = (u8 *)t->src, *now = (u8 *)t->mem, old = t->old;
	long i;

	if (written < 0) {
		TEST_ASSERT_EQ(written, -EFAULT);
		written = 0;
	}
	TEST_ASSERT(!(written % page_size), "A part of a page: %ld", written);
	TEST_ASSERT(written >= SZ_1M - page_size, "Too little: %ld", written);
	check_bytes(t, 0, new, written);
	if (written == SZ_2M)
		return;

	/* The page that it ended in, and what nobody got to. */
	for (i = written; i < written + (long)page_size; i++)
		TEST_ASSERT(now[i] == old || now[i] == new[i],
			    "At 0x%lx after 0x%lx: 0x%x", i, written, now[i]);
	check_old(t, i, SZ_2M - i);
}

TEST_F(source, goes_away)
{
	struct target *t = &self->t;
	pthread_t thread;
	struct gone gone;
	long written;
	char *src;
	int i;

	for (i = 0; i < 60; i++) {
		/* It is still there where holes are zeroed later. */
		memset(t->mem, 0xee, SZ_2M);
		if (t->old)
			t->old = 0xeeeeeeeeeeeeeeeeULL;
		else
			TEST_ASSERT_OK(punch(&t->c, 0, SZ_2M));

		src = kvm_mmap(SZ_2M + page_size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1);
		memcpy(src + 2088, t->src, SZ_2M);
		gone.start = src + SZ_1M;
		gone.delay = i * 10000;
		kvm_pthread_create(&thread, NULL, unmap_later, &gone);
		written = do_pwrite(t->fd, src + 2088, SZ_2M, 0);
		kvm_pthread_join(thread, NULL);
		munmap(src, SZ_2M + page_size);
		check_torn(t, written);
	}
}

static bool step_punch(struct loop *loop)
{
	TEST_ASSERT_OK(punch(loop->c, 0, SZ_2M));
	return true;
}

/*
 * A mapping of the file that is written to.  Its faults wait for those who punch
 * holes, who wait for write().
 */
TEST_F(source, itself)
{
	struct target *t = &self->t;
	struct loop loop = {};
	u64 start, *other;

	/* Memory that nobody has touched: in the same block, and the same page. */
	other = kvm_mmap(SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd);
	ASSERT_WRITTEN(do_pwrite(t->fd, other, page_size, SZ_1M), page_size);
	ASSERT_WRITTEN(do_pwrite(t->fd, other + SZ_2M / 8, page_size, SZ_2M),
		       page_size);
	ASSERT_WRITTEN(do_pwrite(t->fd, other + 1, SZ_2M, SZ_4M), SZ_2M);
	check_old(t, 0, SIZE);

	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, SZ_2M, SZ_2M), SZ_2M);
	ASSERT_WRITTEN(do_pwrite(t->fd, other + SZ_2M / 8, SZ_2M, 0), SZ_2M);
	ASSERT_WRITTEN(do_pwrite(t->fd, other, SZ_2M, 0), SZ_2M);
	check_bytes(t, 0, t->src, SZ_2M);
	check_bytes(t, SZ_2M, t->src, SZ_2M);

	loop_start(&loop, &t->c, step_punch);
	for (start = now_ms(); now_ms() - start < LOOP_MS; ) {
		ASSERT_WRITTEN(do_pwrite(t->fd, (char *)other + 8, SZ_16K, SZ_16K),
			       SZ_16K);
		ASSERT_WRITTEN(do_pwrite(t->fd, other, SZ_16K, SZ_4M), SZ_16K);
	}
	loop_stop(&loop);
}

/*
 * Sources that nobody ever provides: a userfaultfd that is not answered
 */

TARGET_FIXTURE(stuck)
TARGET_VARIANTS(stuck, WRITE_FLAGS);

#define STUCK_PAGE	(16 * page_size)

struct stuck {
	struct target *t;
	int uffd;
	char *src;
	pthread_t thread;
	long written;
};

static void uffd_open(struct stuck *stuck)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {};

	stuck->src = kvm_mmap(SZ_2M, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memcpy(stuck->src, stuck->t->src, STUCK_PAGE);

	stuck->uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	TEST_ASSERT(stuck->uffd >= 0, "userfaultfd() failed");
	TEST_ASSERT(!ioctl(stuck->uffd, UFFDIO_API, &api), "UFFDIO_API failed");
	reg.range.start = (uintptr_t)stuck->src;
	reg.range.len = SZ_2M;
	reg.mode = UFFDIO_REGISTER_MODE_MISSING;
	TEST_ASSERT(!ioctl(stuck->uffd, UFFDIO_REGISTER, &reg),
		    "UFFDIO_REGISTER failed");
}

/* Until somebody waits for a page. */
static void uffd_wait(struct stuck *stuck)
{
	struct uffd_msg msg;

	TEST_ASSERT_EQ(read(stuck->uffd, &msg, sizeof(msg)), sizeof(msg));
	TEST_ASSERT_EQ(msg.event, UFFD_EVENT_PAGEFAULT);
	TEST_ASSERT_EQ(msg.arg.pagefault.address, (u64)stuck->src + STUCK_PAGE);
}

static void *stuck_thread(void *arg)
{
	struct stuck *stuck = arg;

	stuck->written = do_pwrite(stuck->t->fd, stuck->src, SZ_2M, SZ_1M);
	return NULL;
}

static void stuck_start(struct stuck *stuck, struct target *t)
{
	stuck->t = t;
	uffd_open(stuck);
	kvm_pthread_create(&stuck->thread, NULL, stuck_thread, stuck);
	uffd_wait(stuck);
}

/* Without a userfaultfd, the rest of the source reads as zero. */
static long stuck_release(struct stuck *stuck)
{
	kvm_close(stuck->uffd);
	kvm_pthread_join(stuck->thread, NULL);
	return stuck->written;
}

TEST_F(stuck, released)
{
	struct target *t = &self->t;
	struct stuck stuck;

	stuck_start(&stuck, t);
	ASSERT_WRITTEN(stuck_release(&stuck), SZ_2M);
	check_old(t, 0, SZ_1M);
	check_bytes(t, SZ_1M, t->src, STUCK_PAGE);
	check_words(t, SZ_1M + STUCK_PAGE, SZ_2M - STUCK_PAGE, 0);
	check_old(t, SZ_1M + SZ_2M, SIZE - SZ_1M - SZ_2M);
}

/* Nobody has to wait for the writer. */
TEST_F(stuck, others_go_on)
{
	struct target *t = &self->t;
	struct stuck stuck;

	TEST_ASSERT_OK(__mem_slot(&t->c, 0, NULL));
	mem_map(&t->c, 0);
	stuck_start(&stuck, t);

	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, SIZE, 0), SIZE);
	check_bytes(t, 0, t->src, SIZE);
	TEST_ASSERT_OK(punch(&t->c, 0, SIZE));
	check_words(t, 0, SIZE, 0);
	TEST_ASSERT_OK(do_fallocate(t->fd, FALLOC_FL_KEEP_SIZE, 0, SIZE));
	guest_write(t->c.vcpu, MEM_GPA(0), GUEST_DATA);
	TEST_ASSERT_OK(slot_delete(t->c.vm->fd, MEM_SLOT(0)));

	ASSERT_WRITTEN(stuck_release(&stuck), SZ_2M);
	check_bytes(t, SZ_1M, t->src, STUCK_PAGE);
}

static void wait_for_death(pid_t pid)
{
	u64 start = now_ms();
	int status, r;

	kill(pid, SIGKILL);
	do {
		r = waitpid(pid, &status, WNOHANG);
		TEST_ASSERT(now_ms() - start < 20000, "The writer does not die");
		usleep(1000);
	} while (!r);
	TEST_ASSERT_EQ(r, pid);
	TEST_ASSERT(WIFSIGNALED(status), "It ended by itself: 0x%x", status);
}

TEST_F(stuck, kill)
{
	struct stuck stuck = { .t = &self->t };
	char ready = 1;
	int fds[2];
	pid_t pid;

	TEST_ASSERT(!pipe(fds), "pipe() failed");
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		stuck_start(&stuck, stuck.t);
		TEST_ASSERT_EQ(write(fds[1], &ready, 1), 1);
		for (;;)
			pause();
	}
	TEST_ASSERT_EQ(read(fds[0], &ready, 1), 1);
	wait_for_death(pid);
	check_old(&self->t, 0, SIZE);
}

TARGET_FIXTURE(stuck_unbind)
TARGET_VARIANTS_DAX(stuck_unbind, WRITE_FLAGS);

/* The device can be taken away, and is not written to when it is back. */
TEST_F(stuck_unbind, then_bind)
{
	struct target *t = &self->t;
	struct stuck stuck;

	stuck_start(&stuck, t);
	unbind();
	rebind();
	dax_dev_fill(&dax, unit_offset(0), SIZE, OLD_DATA);
	TEST_ASSERT_ERR(stuck_release(&stuck), ENODEV);
	dax_dev_check(&dax, unit_offset(0), SIZE, OLD_DATA);
}

/*
 * Memory errors
 */

#define BAD	(SZ_1M + 5 * SZ_16K)

TARGET_FIXTURE_WITH(poison, check_after_errors())
TARGET_VARIANTS(poison, WRITE_FLAGS);

static bool is_poisoned(struct target *t)
{
	return !t->dax || fdinfo_number(t->fd, "poisoned");
}

/* Either the provider of the memory repairs it, or the page is left alone. */
TEST_F(poison, page)
{
	struct target *t = &self->t;
	long r;

	t->mem[BAD / 8] = GUEST_DATA;
	inject_error((char *)t->mem + BAD);

	r = do_pwrite(t->fd, t->src, page_size, BAD);
	if (!is_poisoned(t)) {
		ASSERT_WRITTEN(r, page_size);
		check_bytes(t, BAD, t->src, page_size);
	} else {
		TEST_ASSERT_ERR(r, EIO);
		TEST_ASSERT(!host_can_read(&t->mem[BAD / 8]),
			    "A page with a memory error can be read");
	}
	check_old(t, BAD - page_size, page_size);
	check_old(t, BAD + page_size, page_size);

	/* The neighbours can be written. */
	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, page_size, BAD - page_size),
		       page_size);
	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, page_size, BAD + page_size),
		       page_size);
	check_bytes(t, BAD - page_size, t->src, page_size);
	check_bytes(t, BAD + page_size, t->src, page_size);
}

TEST_F(poison, in_the_middle)
{
	struct target *t = &self->t;
	u64 done = BAD - SZ_1M;
	long r;

	/* Also in memory that is not initialised otherwise. */
	t->mem[BAD / 8] = GUEST_DATA;
	inject_error((char *)t->mem + BAD);
	if (t->dax && !t->old)
		TEST_ASSERT_OK(punch(&t->c, 0, SZ_2M));

	r = do_pwrite(t->fd, t->src, SZ_2M, SZ_1M);
	if (!is_poisoned(t))
		done = SZ_2M;
	ASSERT_WRITTEN(r, done);
	check_old(t, 0, SZ_1M);
	check_bytes(t, SZ_1M, t->src, done);
	if (is_poisoned(t))
		check_old(t, BAD + page_size, SIZE - BAD - page_size);
}

/* It happens to a page that the writer waits with. */
TEST_F(poison, while_stuck)
{
	const u64 bad = SZ_1M + STUCK_PAGE;
	struct target *t = &self->t;
	struct stuck stuck;
	u64 done = SZ_2M;
	long r;

	t->mem[bad / 8] = GUEST_DATA;
	stuck_start(&stuck, t);
	inject_error((char *)t->mem + bad);
	r = stuck_release(&stuck);
	if (is_poisoned(t))
		done = STUCK_PAGE;
	ASSERT_WRITTEN(r, done);
	check_bytes(t, SZ_1M, t->src, STUCK_PAGE);
	if (!is_poisoned(t))
		check_words(t, bad, SZ_2M - STUCK_PAGE, 0);
	else
		TEST_ASSERT(!host_can_read(&t->mem[bad / 8]),
			    "A page with a memory error can be read");
}

/*
 * A device of more than one range: the end of one is not that of a block
 */

TARGET_FIXTURE(pieces)
FIXTURE_VARIANT_ADD(pieces, create) { .path = { .flags = WRITE_FLAGS } };

TEST_F(pieces, across)
{
	const u64 view = SZ_2M + 2 * page_size;
	struct dax_extent extents[MAX_EXTENTS];
	struct target *t = &self->t;
	u64 start, *mem, word = page_size / 8;
	int i, nr;

	kvm_munmap(t->mem, SIZE);
	unclaim(&t->c, 0);
	TEST_ASSERT_OK(claim(&t->c, 0, t->c.dax_fd, 0, dax.size));
	nr = fdinfo_extents(t->c.gmem[0], extents, MAX_EXTENTS);
	if (nr == 1)
		SKIP(return, "%s has one range only", dax.name);

	for (i = 1; i < nr; i++) {
		start = extents[i].offset - SZ_1M;
		ASSERT_WRITTEN(do_pwrite(t->c.gmem[0], t->src, SZ_2M, start), SZ_2M);
		mem = __kvm_mmap(view, PROT_READ | PROT_WRITE, MAP_SHARED,
				 t->c.gmem[0], start - page_size);
		TEST_ASSERT(!memcmp(mem + word, t->src, SZ_2M),
			    "Memory is not what was written");
		TEST_ASSERT_EQ(mem[word - 1], 0);
		TEST_ASSERT_EQ(mem[view / 8 - word], 0);
		kvm_munmap(mem, view);
	}
}

/*
 * A writer that takes long
 */

TARGET_FIXTURE(slow)
FIXTURE_VARIANT_ADD(slow, page_cache) { .path = PATH_page_cache(WRITE_FLAGS) };
FIXTURE_VARIANT_ADD(slow, create) { .path = { .flags = WRITE_FLAGS } };

#define SLOW_SIZE	(512UL << 20)

TEST_F(slow, kill)
{
	struct target *t = &self->t;
	u64 size = t->dax ? (nr_units * unit_size) : SLOW_SIZE, *first, *last;
	char *src, ready = 1;
	int fds[2], fd;
	pid_t pid;

	size = min_t(u64, size, SLOW_SIZE);
	if (t->dax) {
		if (size < SLOW_SIZE)
			SKIP(return, "The device is smaller than 512 MiB");
		kvm_munmap(t->mem, SIZE);
		unclaim(&t->c, 0);
		fd = gmem_create(t->c.vm->fd, WRITE_FLAGS, t->c.dax_fd, 0,
				 max_t(u64, size, dax.align));
	} else {
		fd = vm_create_guest_memfd(t->c.vm, size, WRITE_FLAGS);
	}
	TEST_ASSERT(fd >= 0, "Creating a guest_memfd failed: %d", fd);
	first = kvm_mmap(size, PROT_READ, MAP_SHARED, fd);
	last = (u64 *)((char *)first + size - page_size);

	TEST_ASSERT(!pipe(fds), "pipe() failed");
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		struct iovec iov[SLOW_SIZE / SZ_2M];
		int i;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		src = (char *)t->src;
		for (i = 0; i < ARRAY_SIZE(iov); i++)
			iov[i] = (struct iovec){ src, SZ_2M };
		TEST_ASSERT_EQ(write(fds[1], &ready, 1), 1);
		i = pwritev(fd, iov, ARRAY_SIZE(iov), 0);
		TEST_FAIL("It came to an end: %d", i);
	}
	TEST_ASSERT_EQ(read(fds[0], &ready, 1), 1);
	/* Not before it has begun. */
	while (!READ_ONCE(*first))
		usleep(100);
	wait_for_death(pid);
	TEST_ASSERT_EQ(*first, t->src[0]);
	TEST_ASSERT_EQ(*last, 0);
	kvm_munmap(first, size);
	kvm_close(fd);
}

/*
 * Writers against everybody else
 */

TARGET_FIXTURE(race)
TARGET_VARIANTS(race, WRITE_FLAGS);

static bool step_write(struct loop *loop)
{
	struct target *t = container_of(loop->c, struct target, c);

	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, SZ_1M, SZ_64K), SZ_1M);
	return true;
}

/* Each page is a hole, or has been written: it is never what it was before. */
TEST_F(race, holes)
{
	struct target *t = &self->t;
	struct loop writer = {}, hole = {};
	u64 start, i, val;

	memset(t->mem, 0xee, SZ_2M);
	TEST_ASSERT_OK(punch(&t->c, 0, SZ_2M));
	loop_start(&writer, &t->c, step_write);
	loop_start(&hole, &t->c, step_punch);
	for (start = now_ms(); now_ms() - start < 3 * LOOP_MS; ) {
		for (i = 0; i < SZ_2M / 8; i += page_size / 8 - 1) {
			val = READ_ONCE(t->mem[i]);
			TEST_ASSERT(!val || (i >= SZ_64K / 8 &&
					     val == t->src[i - SZ_64K / 8]),
				    "At 0x%lx: 0x%lx", i * 8, val);
		}
	}
	loop_stop(&hole);
	loop_stop(&writer);

	TEST_ASSERT_OK(punch(&t->c, 0, SZ_2M));
	check_words(t, 0, SZ_2M, 0);
}

/* The guest writes to the pages before and after, which are in the same block. */
TEST_F(race, guest)
{
	struct target *t = &self->t;
	const u64 nr = 8, offset = SZ_64K;
	struct runner runner;
	u64 start, i, rounds;

	TEST_ASSERT_OK(__mem_slot(&t->c, 0, NULL));
	mem_map(&t->c, 0);
	runner_start(&runner, t->c.vcpus[1], MEM_GPA(0), nr);
	for (start = now_ms(); now_ms() - start < LOOP_MS; ) {
		ASSERT_WRITTEN(do_pwrite(t->fd, t->src, SZ_1M,
					 SLOT_OFFSET + offset), SZ_1M);
		TEST_ASSERT_EQ(guest_read(t->c.vcpu, MEM_GPA(0) + offset),
			       t->src[0]);
		TEST_ASSERT_EQ(guest_read(t->c.vcpu,
					  MEM_GPA(0) + offset + SZ_1M - 8),
			       t->src[SZ_1M / 8 - 1]);
	}
	runner_stop(&runner);

	rounds = guest_cmd(t->c.vcpus[1])->rounds;
	for (i = 0; i < nr; i++)
		TEST_ASSERT_EQ(t->mem[(SLOT_OFFSET + i * page_size) / 8],
			       rounds - 1);
	check_bytes(t, SLOT_OFFSET + offset, t->src, SZ_1M);
}

static void *write_once(void *arg)
{
	struct target *t = arg;

	ASSERT_WRITTEN(do_pwrite(t->fd, t->src, SZ_1M, SZ_64K), SZ_1M);
	return NULL;
}

/*
 * A fault and a writer of the same block, which nobody has used before, now the
 * one first, now the other: neither zeroes what the other one has written.
 */
TEST_F(race, first_use)
{
	struct target *t = &self->t;
	pthread_t thread;
	u64 i, page;

	for (i = 0; i < 150; i++) {
		TEST_ASSERT_OK(punch(&t->c, 0, SZ_2M));
		kvm_pthread_create(&thread, NULL, write_once, t);
		spin(i % 50 * 5000);
		for (page = 0; page < SZ_64K; page += page_size)
			WRITE_ONCE(t->mem[page / 8], GUEST_DATA);
		kvm_pthread_join(thread, NULL);

		for (page = 0; page < SZ_64K; page += page_size)
			TEST_ASSERT_EQ(t->mem[page / 8], GUEST_DATA);
		check_bytes(t, SZ_64K, t->src, SZ_1M);
	}
}

static void *write_until_dead(void *arg)
{
	struct loop *loop = arg;
	struct target *t = container_of(loop->c, struct target, c);
	long r;

	do {
		r = do_pwrite(t->fd, t->src, SZ_4M, SZ_1M);
		WRITE_ONCE(loop->rounds, loop->rounds + 1);
	} while (r > 0);
	TEST_ASSERT_EQ(r, -ENODEV);
	return NULL;
}

TARGET_FIXTURE(race_unbind)
TARGET_VARIANTS_DAX(race_unbind, WRITE_FLAGS);

TEST_F(race_unbind, writer)
{
	struct target *t = &self->t;
	struct loop writer = {};
	int i;

	for (i = 0; i < 5; i++) {
		__loop_start(&writer, &t->c, write_until_dead);
		loop_wait(&writer);
		usleep(i * 3000);
		unbind();
		loop_stop(&writer);
		rebind();

		kvm_munmap(t->mem, SIZE);
		unclaim(&t->c, 0);
		reopen(&t->c);
		if (!t->old)
			dax_dev_check(&dax, unit_offset(0), 3 * ZERO_SIZE, 0);
		dax_dev_fill(&dax, unit_offset(0), SIZE, OLD_DATA);
		target_open(t);
		t->mem = kvm_mmap(SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd);
	}
}

int main(int argc, char *argv[])
{
	const char *path = device_from_args(&argc, argv);

	require_device(path);
	require(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_WRITE,
		"KVM has no GUEST_MEMFD_FLAG_WRITE");

	use_device(path);
	return test_harness_run(argc, argv);
}
