// SPDX-License-Identifier: GPL-2.0-only
/*
 * userfaultfd on mappings of a guest_memfd: on page cache, and on device-DAX.
 *
 * DESTROYS THE CONTENTS of the device that -d or GUEST_DAXFD_DEV names, and
 * simulates memory errors: a page of RAM is not used again until reboot.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <linux/sizes.h>
#include <linux/userfaultfd.h>

#include "daxfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#include "kvm_test_harness.h"

#define UFFD_FLAGS	(CREATE_FLAGS | GUEST_MEMFD_FLAG_WRITE)

/* What is looked at: four blocks of 2M. */
#define SIZE		MIN_UNIT

#define MISSING		UFFDIO_REGISTER_MODE_MISSING
#define MINOR		UFFDIO_REGISTER_MODE_MINOR
#define WP		UFFDIO_REGISTER_MODE_WP

/* For what must happen soon, and for what must not happen. */
#define TIMEOUT_MS	20000
#define DELAY_MS	400
#define LOOP_MS		2000

struct target {
	struct ctx c;
	bool dax;
	u64 size;	/* of the file */
	u64 old;	/* what all words are at first */
	int fd;
	int uffd;
	u64 features;	/* of any userfaultfd */
	char *mem;	/* SIZE bytes of the file, to be registered */
	u64 *view;	/* the same, never registered */
	u64 *src;
};

/*
 * ioctls that return -errno
 */

static void uffd_open(struct target *t, u64 features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	t->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	TEST_ASSERT(t->uffd >= 0, "userfaultfd() failed");
	TEST_ASSERT(!ioctl(t->uffd, UFFDIO_API, &api), "UFFDIO_API failed");
	t->features = api.features;
}

static int __uffd_register(struct target *t, void *start, u64 len, u64 mode)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)start, len },
		.mode = mode,
	};

	return ioctl(t->uffd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

static int uffd_register(struct target *t, u64 mode)
{
	return __uffd_register(t, t->mem, SIZE, mode);
}

static int uffd_unregister(struct target *t)
{
	struct uffdio_range range = { (uintptr_t)t->mem, SIZE };

	return ioctl(t->uffd, UFFDIO_UNREGISTER, &range) ? -errno : 0;
}

static int __uffd_continue(struct target *t, void *start, u64 len)
{
	struct uffdio_continue arg = { .range = { (uintptr_t)start, len } };

	return ioctl(t->uffd, UFFDIO_CONTINUE, &arg) ? -errno : 0;
}

static int uffd_continue(struct target *t, u64 offset)
{
	return __uffd_continue(t, t->mem + offset, page_size);
}

static int __uffd_copy(struct target *t, void *dst, const void *src)
{
	struct uffdio_copy arg = {
		.dst = (uintptr_t)dst,
		.src = (uintptr_t)src,
		.len = page_size,
	};

	return ioctl(t->uffd, UFFDIO_COPY, &arg) ? -errno : 0;
}

static int uffd_copy(struct target *t, u64 offset, const void *src)
{
	return __uffd_copy(t, t->mem + offset, src);
}

static int uffd_zeropage(struct target *t, u64 offset)
{
	struct uffdio_zeropage arg = {
		.range = { (uintptr_t)t->mem + offset, page_size },
	};

	return ioctl(t->uffd, UFFDIO_ZEROPAGE, &arg) ? -errno : 0;
}

static int uffd_poison(struct target *t, u64 offset)
{
	struct uffdio_poison arg = {
		.range = { (uintptr_t)t->mem + offset, page_size },
	};

	return ioctl(t->uffd, UFFDIO_POISON, &arg) ? -errno : 0;
}

static int uffd_wake(struct target *t, u64 offset)
{
	struct uffdio_range range = { (uintptr_t)t->mem + offset, page_size };

	return ioctl(t->uffd, UFFDIO_WAKE, &range) ? -errno : 0;
}

static long do_pwrite(struct target *t, u64 offset)
{
	ssize_t r = pwrite(t->fd, (char *)t->src + offset, page_size, offset);

	return r < 0 ? -errno : r;
}

/* The page is what the source has at its place. */
static void fill(struct target *t, u64 offset)
{
	TEST_ASSERT_EQ(do_pwrite(t, offset), page_size);
}

static u64 *word(struct target *t, u64 offset)
{
	return (u64 *)(t->mem + offset);
}

/*
 * Targets
 */

static void target_open(struct target *t)
{
	t->dax = !t->c.path->page_cache;
	t->size = t->dax ? unit_size : SIZE;
	TEST_ASSERT_OK(claim(&t->c, 0, t->c.dax_fd, unit_offset(0), t->size));
	t->fd = t->c.gmem[0];
	t->mem = kvm_mmap(SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd);
	t->view = kvm_mmap(SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd);
}

static void target_close(struct target *t)
{
	kvm_munmap(t->mem, SIZE);
	kvm_munmap(t->view, SIZE);
	unclaim(&t->c, 0);
}

/* No two words of the source are alike, and none is anything else. */
static const char *target_setup(struct target *t, const struct path *path)
{
	u64 i;

	/* Only memory that is converted has a type of VM of its own. */
	if (path->vm_type && !kvm_has_gmem_attributes())
		return "KVM needs gmem_in_place_conversion=1";
	if (path->vm_type && !path->page_cache && dax.align > SLOT_OFFSET)
		return "The device is not converted by 2M";

	ctx_setup(&t->c, path, 1);
	if (!path->page_cache)
		dax_dev_fill(&dax, unit_offset(0), SIZE, OLD_DATA);
	t->old = path->flags & GUEST_MEMFD_FLAG_KEEP_DATA ? OLD_DATA : 0;
	target_open(t);
	uffd_open(t, 0);

	t->src = kvm_mmap(SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (i = 0; i < SIZE / sizeof(u64); i++)
		t->src[i] = HOST_DATA + i;

	return NULL;
}

/* Page cache is missing, or there; device memory is always there. */
static u64 all_modes(struct target *t)
{
	return t->dax ? MINOR : MINOR | MISSING;
}

/*
 * A thread that touches a word, and what the userfaultfd hears of it
 */

struct toucher {
	pthread_t thread;
	u64 *addr;
	u64 val;
	bool ok;
	bool done;
};

static void *toucher_thread(void *arg)
{
	struct toucher *toucher = arg;

	toucher->ok = host_access(toucher->addr, &toucher->val, false);
	WRITE_ONCE(toucher->done, true);
	return NULL;
}

static void touch(struct toucher *toucher, void *addr)
{
	*toucher = (struct toucher){ .addr = addr };
	kvm_pthread_create(&toucher->thread, NULL, toucher_thread, toucher);
}

static void touch_join(struct toucher *toucher)
{
	u64 start = now_ms();

	while (!READ_ONCE(toucher->done)) {
		TEST_ASSERT(now_ms() - start < TIMEOUT_MS,
			    "A thread waits for ever for %p", toucher->addr);
		usleep(1000);
	}
	kvm_pthread_join(toucher->thread, NULL);
}

static void touch_is(struct toucher *toucher, u64 val)
{
	touch_join(toucher);
	TEST_ASSERT(toucher->ok, "SIGBUS at %p", toucher->addr);
	TEST_ASSERT_EQ(toucher->val, val);
}

static void touch_is_sigbus(struct toucher *toucher)
{
	touch_join(toucher);
	TEST_ASSERT(!toucher->ok, "There is 0x%lx at %p", toucher->val,
		    toucher->addr);
}

static bool uffd_read(struct target *t, struct uffd_msg *msg, int timeout_ms)
{
	struct pollfd pfd = { .fd = t->uffd, .events = POLLIN };

	if (poll(&pfd, 1, timeout_ms) <= 0)
		return false;
	if (read(t->uffd, msg, sizeof(*msg)) != sizeof(*msg))
		return false;
	TEST_ASSERT_EQ(msg->event, UFFD_EVENT_PAGEFAULT);
	return true;
}

static void expect_silence(struct target *t)
{
	struct uffd_msg msg = {};

	TEST_ASSERT(!uffd_read(t, &msg, 0), "A fault at 0x%llx is reported",
		    msg.arg.pagefault.address);
}

/* The thread waits, and the handler has been told. */
static void touch_waits(struct target *t, struct toucher *toucher, u64 offset,
			u64 mode)
{
	struct uffd_msg msg;

	touch(toucher, t->mem + offset);
	TEST_ASSERT(uffd_read(t, &msg, TIMEOUT_MS), "Nothing is reported");
	TEST_ASSERT_EQ(msg.arg.pagefault.address, (u64)t->mem + offset);
	TEST_ASSERT_EQ(!!(msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR),
		       mode == MINOR);
}

/* The same for a page that is there, of a mapping that was not registered. */
static void wait_for_page(struct target *t, struct toucher *toucher, u64 offset)
{
	fill(t, offset);
	TEST_ASSERT_OK(uffd_register(t, MINOR));
	touch_waits(t, toucher, offset, MINOR);
}

/* Nobody is asked about it. */
static void check_silent(struct target *t, u64 offset, u64 val)
{
	struct toucher toucher;

	touch(&toucher, t->mem + offset);
	touch_is(&toucher, val);
	expect_silence(t);
}

static void check_sigbus(struct target *t, void *addr)
{
	struct toucher toucher;

	touch(&toucher, addr);
	touch_is_sigbus(&toucher);
	expect_silence(t);
}

static void check_minor(struct target *t, u64 offset, u64 val)
{
	struct toucher toucher;

	touch_waits(t, &toucher, offset, MINOR);
	TEST_ASSERT_OK(uffd_continue(t, offset));
	touch_is(&toucher, val);
}

/* For device memory: what is in the page cache always seems to be. */
static bool is_mapped(struct target *t, u64 offset)
{
	unsigned char vec;

	TEST_ASSERT(!mincore(t->mem + offset, page_size, &vec), "mincore() failed");
	return vec & 1;
}

/*
 * Registration
 */

TARGET_FIXTURE(modes)
TARGET_VARIANTS(modes, UFFD_FLAGS);

TEST_F(modes, register)
{
	struct target *t = &self->t;
	const int refused = t->dax ? EINVAL : 0;

	TEST_ASSERT_ERR(uffd_register(t, MISSING), refused);
	TEST_ASSERT_OK(uffd_unregister(t));
	TEST_ASSERT_ERR(uffd_register(t, MISSING | MINOR), refused);
	TEST_ASSERT_OK(uffd_unregister(t));
	TEST_ASSERT_OK(uffd_register(t, MINOR));
	TEST_ASSERT_OK(uffd_unregister(t));
}

TEST_F(modes, wp)
{
	struct target *t = &self->t;
	const int refused = t->dax ? EINVAL : 0;

	if (!(t->features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM))
		SKIP(return, "The kernel lacks CONFIG_PTE_MARKER_UFFD_WP");
	TEST_ASSERT_ERR(uffd_register(t, WP), refused);
	TEST_ASSERT_OK(uffd_unregister(t));
	TEST_ASSERT_ERR(uffd_register(t, WP | MINOR), refused);
}

/* All other mappings can be. */
TEST_F(modes, wp_async)
{
	struct target *t = &self->t;

	if (!(t->features & UFFD_FEATURE_WP_ASYNC))
		SKIP(return, "The kernel lacks CONFIG_PTE_MARKER_UFFD_WP");
	kvm_close(t->uffd);
	uffd_open(t, UFFD_FEATURE_WP_ASYNC);
	TEST_ASSERT_ERR(uffd_register(t, WP), t->dax ? EINVAL : 0);
}

TEST_F(modes, ioctls)
{
	struct target *t = &self->t;
	struct uffdio_register reg = {
		.range = { (uintptr_t)t->mem, SIZE },
		.mode = MINOR,
	};

	TEST_ASSERT(!ioctl(t->uffd, UFFDIO_REGISTER, &reg),
		    "UFFDIO_REGISTER failed");
	TEST_ASSERT(reg.ioctls & BIT(_UFFDIO_CONTINUE), "No UFFDIO_CONTINUE");
	TEST_ASSERT(reg.ioctls & BIT(_UFFDIO_POISON), "No UFFDIO_POISON");
	/* What it says must work. */
	TEST_ASSERT_EQ(!!(reg.ioctls & BIT(_UFFDIO_COPY)), !t->dax);
	TEST_ASSERT_EQ(!!(reg.ioctls & BIT(_UFFDIO_ZEROPAGE)), !t->dax);
}

TEST_F(modes, rwp)
{
	struct target *t = &self->t;

	if (!(t->features & UFFD_FEATURE_RWP))
		SKIP(return, "The kernel lacks CONFIG_USERFAULTFD_RWP");
	kvm_close(t->uffd);
	uffd_open(t, UFFD_FEATURE_RWP);
	TEST_ASSERT_ERR(uffd_register(t, UFFDIO_REGISTER_MODE_RWP), EINVAL);
	TEST_ASSERT_ERR(uffd_register(t, UFFDIO_REGISTER_MODE_RWP | MINOR), EINVAL);
}

TEST_F(modes, not_registered)
{
	struct target *t = &self->t;

	TEST_ASSERT_ERR(uffd_continue(t, 0), ENOENT);
	TEST_ASSERT_ERR(uffd_copy(t, 0, t->src), ENOENT);
	TEST_ASSERT_ERR(uffd_zeropage(t, 0), ENOENT);
	TEST_ASSERT_ERR(uffd_poison(t, 0), ENOENT);
	check_silent(t, 0, t->old);
}

/* The guest does not use the mapping. */
TEST_F(modes, guest)
{
	struct target *t = &self->t;

	TEST_ASSERT_OK(__mem_slot(&t->c, 0, NULL));
	mem_map(&t->c, 0);
	TEST_ASSERT_OK(uffd_register(t, all_modes(t)));
	TEST_ASSERT_EQ(guest_read(t->c.vcpu, MEM_GPA(0)), t->old);
	guest_write(t->c.vcpu, MEM_GPA(0), GUEST_DATA);
	expect_silence(t);
	check_minor(t, SLOT_OFFSET, GUEST_DATA);
}

/*
 * Pages that are there
 */

TARGET_FIXTURE(minor)
TARGET_VARIANTS(minor, UFFD_FLAGS);

TEST_F(minor, page)
{
	struct target *t = &self->t;
	const u64 offset = SZ_2M + 3 * page_size;
	struct toucher toucher;

	fill(t, offset);
	fill(t, offset + page_size);
	TEST_ASSERT_OK(uffd_register(t, MINOR));

	touch_waits(t, &toucher, offset, MINOR);
	/* The handler may still change it. */
	t->view[offset / 8] = GUEST_DATA;
	TEST_ASSERT_OK(uffd_continue(t, offset));
	touch_is(&toucher, GUEST_DATA);

	TEST_ASSERT_ERR(uffd_continue(t, offset), EEXIST);
	check_silent(t, offset, GUEST_DATA);
	TEST_ASSERT_EQ(*word(t, offset + 8), t->src[offset / 8 + 1]);
	*word(t, offset) = HOST_DATA;
	TEST_ASSERT_EQ(t->view[offset / 8], HOST_DATA);

	/* No more than what was asked for is mapped. */
	check_minor(t, offset + page_size, t->src[(offset + page_size) / 8]);
	TEST_ASSERT(!madvise(t->mem, SIZE, MADV_DONTNEED), "madvise() failed");
	check_minor(t, offset, HOST_DATA);
}

TEST_F(minor, by_mapping)
{
	struct target *t = &self->t;

	t->view[SZ_4M / 8] = HOST_DATA;
	TEST_ASSERT_OK(uffd_register(t, MINOR));
	check_minor(t, SZ_4M, HOST_DATA);
}

TEST_F(minor, many)
{
	struct target *t = &self->t;
	u64 i;

	for (i = SZ_1M; i < SZ_1M + SZ_2M; i += page_size)
		fill(t, i);
	TEST_ASSERT_OK(uffd_register(t, MINOR));
	TEST_ASSERT_OK(__uffd_continue(t, t->mem + SZ_1M, SZ_2M));
	for (i = SZ_1M; i < SZ_1M + SZ_2M; i += page_size)
		TEST_ASSERT_EQ(*word(t, i), t->src[i / 8]);
	expect_silence(t);
}

/* Memory of a device is there before anybody has touched it. */
TEST_F(minor, untouched)
{
	struct target *t = &self->t;

	TEST_ASSERT_OK(uffd_register(t, MINOR));
	if (!t->dax) {
		TEST_ASSERT_ERR(uffd_continue(t, 0), EFAULT);
		check_silent(t, 0, 0);
		return;
	}
	check_minor(t, SZ_1M, t->old);
	TEST_ASSERT_OK(uffd_continue(t, SZ_1M + page_size));
	check_silent(t, SZ_1M + page_size, t->old);
}

TEST_F(minor, hole)
{
	struct target *t = &self->t;

	fill(t, 0);
	fill(t, page_size);
	TEST_ASSERT_OK(uffd_register(t, MINOR));
	check_minor(t, 0, t->src[0]);
	check_minor(t, page_size, t->src[page_size / 8]);

	TEST_ASSERT_OK(punch(&t->c, 0, page_size));
	check_silent(t, page_size, t->src[page_size / 8]);
	if (t->dax) {
		check_minor(t, 0, 0);
	} else {
		TEST_ASSERT_ERR(uffd_continue(t, 0), EFAULT);
		check_silent(t, 0, 0);
	}

	TEST_ASSERT_OK(punch(&t->c, 0, SZ_2M));
	if (t->dax)
		check_minor(t, page_size, 0);
}

TEST_F(minor, past_the_end)
{
	struct target *t = &self->t;
	char *last;

	last = __kvm_mmap(2 * page_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			  t->fd, t->size - page_size);
	TEST_ASSERT_OK(__uffd_register(t, last, 2 * page_size, all_modes(t)));
	TEST_ASSERT_ERR(__uffd_continue(t, last + page_size, page_size), EFAULT);
	TEST_ASSERT_ERR(__uffd_copy(t, last + page_size, t->src),
			t->dax ? EINVAL : EFAULT);
	check_sigbus(t, last + page_size);
	kvm_munmap(last, 2 * page_size);
}

/* mremap() asks nobody; in the end, offsets of the file overflow. */
TEST_F(minor, grown)
{
	struct target *t = &self->t;
	const struct {
		u64 offset;
		int good;
	} start[] = {
		{ t->size - page_size, 1 },
		{ (1ULL << 63) - 2 * page_size, 0 },
	};
	char *mem, *grown;
	int i, j;

	for (i = 0; i < ARRAY_SIZE(start); i++) {
		mem = __kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_SHARED,
				 t->fd, start[i].offset);
		grown = mremap(mem, page_size, 4 * page_size, MREMAP_MAYMOVE);
		TEST_ASSERT(grown != MAP_FAILED, "mremap() failed: %d", errno);
		for (j = 3; j >= 0; j--)
			TEST_ASSERT_EQ(host_can_read(grown + j * page_size),
				       j < start[i].good);
		kvm_munmap(grown, 4 * page_size);
	}
}

/* What is mapped when a range is registered is not reported. */
TEST_F(minor, mapped_before)
{
	struct target *t = &self->t;

	*word(t, SZ_4M) = HOST_DATA;
	TEST_ASSERT_OK(uffd_register(t, MINOR));
	TEST_ASSERT_ERR(uffd_continue(t, SZ_4M), EEXIST);
	check_silent(t, SZ_4M, HOST_DATA);

	TEST_ASSERT(!madvise(t->mem, SIZE, MADV_DONTNEED), "madvise() failed");
	check_minor(t, SZ_4M, HOST_DATA);
	t->view[(SZ_4M + page_size) / 8] = GUEST_DATA;
	check_minor(t, SZ_4M + page_size, GUEST_DATA);
}

TEST_F(minor, poison)
{
	struct target *t = &self->t;
	struct toucher toucher;

	wait_for_page(t, &toucher, 0);
	TEST_ASSERT_OK(uffd_poison(t, 0));
	touch_is_sigbus(&toucher);
	check_sigbus(t, t->mem);
	/* It is not the memory that has an error, and may still be provided. */
	TEST_ASSERT_EQ(t->view[0], t->src[0]);
	TEST_ASSERT_OK(uffd_continue(t, 0));
	check_silent(t, 0, t->src[0]);
}

/* Nobody is left to answer. */
TEST_F(minor, unregister)
{
	struct target *t = &self->t;
	struct toucher toucher;

	wait_for_page(t, &toucher, 0);
	TEST_ASSERT_OK(uffd_unregister(t));
	touch_is(&toucher, t->src[0]);
}

TEST_F(minor, close)
{
	struct target *t = &self->t;
	struct toucher toucher;

	wait_for_page(t, &toucher, 0);
	kvm_close(t->uffd);
	touch_is(&toucher, t->src[0]);
}

/* Locking the mapping does not leave references behind, on any CPU. */
TEST_F(minor, mlock)
{
	struct target *t = &self->t;

	/* What mlock() itself maps it also cleans up after. */
	pin_self_to_cpu(0);
	TEST_ASSERT(!mlock2(t->mem, 4 * page_size, MLOCK_ONFAULT),
		    "mlock2() failed");
	TEST_ASSERT_EQ(*word(t, 3 * page_size), t->old);
	if (!t->dax)
		return;
	/* munmap() would clean up after itself. */
	if (sysconf(_SC_NPROCESSORS_ONLN) > 1)
		pin_self_to_cpu(1);
	target_close(t);
	TEST_ASSERT_OK(claim_unit(&t->c, 0));
}

TARGET_FIXTURE(pins)
TARGET_VARIANTS_DAX(pins, UFFD_FLAGS);

/* A page that is mapped in this way, and in no other, can be pinned. */
TEST_F(pins, page)
{
	struct iovec iov = { .iov_len = page_size };
	struct target *t = &self->t;
	int fds[2];

	/* A device that is bound anew has not been mapped. */
	target_close(t);
	unbind();
	rebind();
	reopen(&t->c);
	target_open(t);

	TEST_ASSERT_OK(uffd_register(t, MINOR));
	TEST_ASSERT_OK(uffd_continue(t, SZ_4M));
	iov.iov_base = t->mem + SZ_4M;
	TEST_ASSERT(!pipe2(fds, O_CLOEXEC), "pipe2() failed");
	TEST_ASSERT_EQ(vmsplice(fds[1], &iov, 1, SPLICE_F_NONBLOCK), page_size);
	target_close(t);
	TEST_ASSERT_ERR(claim_unit(&t->c, 0), EBUSY);
	kvm_close(fds[0]);
	kvm_close(fds[1]);
	TEST_ASSERT_OK(claim_unit(&t->c, 0));
}

/*
 * Pages that are missing
 */

TARGET_FIXTURE(missing)
FIXTURE_VARIANT_ADD(missing, page_cache) { .path = PATH_page_cache(UFFD_FLAGS) };

static void check_missing(struct target *t, u64 offset)
{
	struct toucher toucher;

	touch_waits(t, &toucher, offset, MISSING);
	TEST_ASSERT_OK(uffd_copy(t, offset, (char *)t->src + offset));
	touch_is(&toucher, t->src[offset / 8]);
	TEST_ASSERT(!memcmp(t->mem + offset, (char *)t->src + offset, page_size),
		    "The page is not what was copied");
	TEST_ASSERT_EQ(t->view[offset / 8], t->src[offset / 8]);
}

TEST_F(missing, copy)
{
	struct target *t = &self->t;

	TEST_ASSERT_OK(uffd_register(t, MISSING));
	check_missing(t, SZ_1M);
	TEST_ASSERT_ERR(uffd_copy(t, SZ_1M, t->src), EEXIST);
	TEST_ASSERT_EQ(t->view[SZ_1M / 8], t->src[SZ_1M / 8]);

	/* Before anybody touches it. */
	TEST_ASSERT_OK(uffd_copy(t, SZ_2M, t->src));
	check_silent(t, SZ_2M, t->src[0]);

	TEST_ASSERT_OK(punch(&t->c, SZ_1M, page_size));
	check_missing(t, SZ_1M);
}

TEST_F(missing, guest)
{
	struct target *t = &self->t;

	TEST_ASSERT_OK(__mem_slot(&t->c, 0, NULL));
	mem_map(&t->c, 0);
	TEST_ASSERT_OK(uffd_register(t, MISSING));
	check_missing(t, SLOT_OFFSET);
	TEST_ASSERT_EQ(guest_read(t->c.vcpu, MEM_GPA(0)),
		       t->src[SLOT_OFFSET / 8]);
	guest_write(t->c.vcpu, MEM_GPA(0) + page_size, GUEST_DATA);
	check_silent(t, SLOT_OFFSET + page_size, GUEST_DATA);
	TEST_ASSERT_ERR(uffd_copy(t, SLOT_OFFSET + page_size, t->src), EEXIST);
}

TEST_F(missing, zeropage)
{
	struct target *t = &self->t;
	struct toucher toucher;

	TEST_ASSERT_OK(uffd_register(t, MISSING));
	touch_waits(t, &toucher, 0, MISSING);
	TEST_ASSERT_OK(uffd_zeropage(t, 0));
	touch_is(&toucher, 0);
	TEST_ASSERT_EQ(t->view[0], 0);
	TEST_ASSERT_ERR(uffd_zeropage(t, 0), EEXIST);
}

TEST_F(missing, poison)
{
	struct target *t = &self->t;
	struct toucher toucher;

	TEST_ASSERT_OK(uffd_register(t, MISSING));
	touch_waits(t, &toucher, 0, MISSING);
	TEST_ASSERT_OK(uffd_poison(t, 0));
	touch_is_sigbus(&toucher);
	TEST_ASSERT_EQ(t->view[0], 0);
}

/* A page that is there is mapped, or reported as what it is. */
TEST_F(missing, not_missing)
{
	struct target *t = &self->t;

	fill(t, 0);
	fill(t, page_size);
	TEST_ASSERT_OK(uffd_register(t, MISSING));
	check_silent(t, 0, t->src[0]);
	TEST_ASSERT_ERR(uffd_copy(t, page_size, t->src), EEXIST);
	TEST_ASSERT_EQ(t->view[page_size / 8], t->src[page_size / 8]);

	TEST_ASSERT_OK(uffd_unregister(t));
	TEST_ASSERT_OK(uffd_register(t, MISSING | MINOR));
	check_minor(t, page_size, t->src[page_size / 8]);
	check_missing(t, 2 * page_size);
}

/* Memory without contents does not count. */
TEST_F(missing, allocated)
{
	struct target *t = &self->t;
	void *none = kvm_mmap(page_size, PROT_NONE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1);

	TEST_ASSERT_OK(do_fallocate(t->fd, FALLOC_FL_KEEP_SIZE, 0, SIZE));
	TEST_ASSERT_EQ(pwrite(t->fd, none, page_size, 0), -1);
	TEST_ASSERT_OK(uffd_register(t, MISSING | MINOR));
	TEST_ASSERT_ERR(uffd_continue(t, page_size), EFAULT);
	check_missing(t, 0);
	check_missing(t, page_size);
	TEST_ASSERT_OK(uffd_copy(t, SZ_1M, t->src));
	check_silent(t, SZ_1M, t->src[0]);
}

/* They may provide what is not reported. */
TEST_F(missing, registered_for_minor)
{
	struct target *t = &self->t;

	fill(t, 2 * page_size);
	TEST_ASSERT_OK(uffd_register(t, MINOR));
	TEST_ASSERT_OK(uffd_copy(t, 0, t->src));
	check_silent(t, 0, t->src[0]);
	TEST_ASSERT_OK(uffd_zeropage(t, page_size));
	check_silent(t, page_size, 0);
	TEST_ASSERT_ERR(uffd_copy(t, 2 * page_size, t->src), EEXIST);
	TEST_ASSERT_ERR(uffd_zeropage(t, 2 * page_size), EEXIST);
	check_minor(t, 2 * page_size, t->src[2 * page_size / 8]);
}

/* No lock is held while the source, of the same file, faults. */
TEST_F(missing, copy_of_itself)
{
	struct target *t = &self->t;

	TEST_ASSERT_OK(uffd_register(t, MISSING));
	TEST_ASSERT_OK(uffd_copy(t, 0, t->view + SZ_4M / 8));
	check_silent(t, 0, 0);
	/* The page that it comes from is the one that it fills. */
	TEST_ASSERT_ERR(uffd_copy(t, SZ_2M, t->view + SZ_2M / 8), EEXIST);
	check_silent(t, SZ_2M, 0);
}

/* Nothing is put in the place of memory that is always there. */
TARGET_FIXTURE(refused)
TARGET_VARIANTS_DAX(refused, UFFD_FLAGS);

TEST_F(refused, copy)
{
	struct target *t = &self->t;
	u64 i;

	TEST_ASSERT_OK(uffd_register(t, MINOR));
	TEST_ASSERT_ERR(uffd_copy(t, 0, t->src), EINVAL);
	TEST_ASSERT_ERR(uffd_zeropage(t, page_size), EINVAL);
	if (!t->old)
		TEST_ASSERT_EQ(fdinfo_number(t->fd, "initialised"), 0);
	TEST_ASSERT(!is_mapped(t, 0) && !is_mapped(t, page_size),
		    "A page is mapped");
	for (i = 0; i < 2 * page_size / 8; i++)
		TEST_ASSERT_EQ(t->view[i], t->old);

	for (i = 0; i < 2 * page_size / 8; i++)
		t->view[i] = GUEST_DATA;
	TEST_ASSERT_ERR(uffd_copy(t, 0, t->src), EINVAL);
	TEST_ASSERT_ERR(uffd_zeropage(t, page_size), EINVAL);
	for (i = 0; i < 2 * page_size / 8; i++)
		TEST_ASSERT_EQ(t->view[i], GUEST_DATA);
	check_minor(t, 0, GUEST_DATA);
	TEST_ASSERT_ERR(uffd_copy(t, 0, t->src), EINVAL);
	TEST_ASSERT_EQ(*word(t, 0), GUEST_DATA);
}

/*
 * Private memory
 */

#define PRIVATE_FLAGS	(GUEST_MEMFD_FLAG_WRITE | GUEST_MEMFD_FLAG_MMAP)

TARGET_FIXTURE(private)
FIXTURE_VARIANT_ADD(private, page_cache) { .path = PATH_page_cache(PRIVATE_FLAGS) };
FIXTURE_VARIANT_ADD(private, create) { .path = { .flags = PRIVATE_FLAGS } };

TEST_F(private, nothing_is_reported)
{
	struct target *t = &self->t;
	const int err = t->dax ? EINVAL : EFAULT;
	u64 offset;

	TEST_ASSERT_OK(__mem_slot(&t->c, 0, NULL));
	mem_map(&t->c, 0);
	TEST_ASSERT_OK(uffd_register(t, all_modes(t)));

	/* The guest has the one, and not the other. */
	guest_write(t->c.vcpu, MEM_GPA(0), GUEST_DATA);
	for (offset = 0; offset <= SLOT_OFFSET; offset += SLOT_OFFSET) {
		check_sigbus(t, t->mem + offset);
		TEST_ASSERT_ERR(uffd_continue(t, offset), EFAULT);
		TEST_ASSERT_ERR(uffd_copy(t, offset, t->src), err);
		TEST_ASSERT_ERR(uffd_zeropage(t, offset), err);
		check_sigbus(t, t->mem + offset);
		TEST_ASSERT(!t->dax || !is_mapped(t, offset),
			    "Private memory is mapped");
	}
	TEST_ASSERT_EQ(guest_read(t->c.vcpu, MEM_GPA(0)), GUEST_DATA);
}

/*
 * Memory errors
 */

#define BAD	(SZ_1M + 5 * SZ_16K)

TARGET_FIXTURE_WITH(error, check_after_errors())
TARGET_VARIANTS(error, UFFD_FLAGS);

TEST_F(error, page)
{
	struct target *t = &self->t;

	t->view[(BAD - page_size) / 8] = HOST_DATA;
	t->view[BAD / 8] = GUEST_DATA;
	t->view[(BAD + page_size) / 8] = HOST_DATA;
	inject_error((char *)t->view + BAD);
	TEST_ASSERT_OK(uffd_register(t, all_modes(t)));

	check_sigbus(t, t->mem + BAD);
	TEST_ASSERT_ERR(uffd_continue(t, BAD), EIO);
	TEST_ASSERT(!t->dax || !is_mapped(t, BAD),
		    "A page with a memory error is mapped");
	check_minor(t, BAD - page_size, HOST_DATA);
	check_minor(t, BAD + page_size, HOST_DATA);
}

/* It happens while somebody waits. */
TEST_F(error, meanwhile)
{
	struct target *t = &self->t;
	struct toucher toucher;

	t->view[BAD / 8] = GUEST_DATA;
	TEST_ASSERT_OK(uffd_register(t, all_modes(t)));
	touch_waits(t, &toucher, BAD, MINOR);
	inject_error((char *)t->view + BAD);
	TEST_ASSERT_ERR(uffd_continue(t, BAD), EIO);
	TEST_ASSERT_OK(uffd_wake(t, BAD));
	touch_is_sigbus(&toucher);
	expect_silence(t);
}

/*
 * The device goes away
 */

TARGET_FIXTURE(gone)
TARGET_VARIANTS_DAX(gone, UFFD_FLAGS);

TEST_F(gone, unbind)
{
	struct target *t = &self->t;
	struct toucher toucher;

	fill(t, 0);
	TEST_ASSERT_OK(uffd_register(t, MINOR));
	check_minor(t, 0, t->src[0]);
	touch_waits(t, &toucher, page_size, MINOR);

	unbind();
	TEST_ASSERT_ERR(do_pwrite(t, page_size), ENODEV);
	TEST_ASSERT_ERR(uffd_continue(t, page_size), EFAULT);
	TEST_ASSERT_OK(uffd_wake(t, page_size));
	touch_is_sigbus(&toucher);
	check_sigbus(t, t->mem);
	expect_silence(t);

	rebind();
	TEST_ASSERT_ERR(uffd_continue(t, 0), EFAULT);
	check_sigbus(t, t->mem);
	TEST_ASSERT_OK(uffd_unregister(t));
}

/* Those who wait for their handler do not keep the device. */
TEST_F(gone, poison)
{
	struct target *t = &self->t;
	struct toucher toucher;

	TEST_ASSERT_OK(uffd_register(t, MINOR));
	touch_waits(t, &toucher, 0, MINOR);
	unbind();
	TEST_ASSERT_OK(uffd_poison(t, 0));
	touch_is_sigbus(&toucher);
	rebind();
}

static void *unbind_thread(void *arg)
{
	unbind();
	return NULL;
}

static void *punch_thread(void *arg)
{
	struct target *t = arg;

	TEST_ASSERT_OK(punch(&t->c, 0, SZ_2M));
	return NULL;
}

/* FN takes the first page from the mapping, and is held up behind that. */
static pthread_t start_taking(struct target *t, void *(*fn)(void *),
			      const char *window)
{
	pthread_t thread;

	fill(t, 0);
	TEST_ASSERT_OK(uffd_register(t, MINOR));
	check_minor(t, 0, t->src[0]);
	delay_set(window, DELAY_MS);
	kvm_pthread_create(&thread, NULL, fn, t);
	while (is_mapped(t, 0))
		usleep(1000);
	return thread;
}

/* Memory that was taken away is not mapped again before it is gone. */
TEST_F(gone, while_revoked)
{
	struct target *t = &self->t;
	pthread_t thread;

	if (!delay_set("zap", 0))
		SKIP(return, "The kernel lacks CONFIG_KVM_GUEST_DAXFD_DELAY");
	thread = start_taking(t, unbind_thread, "zap");
	TEST_ASSERT_ERR(uffd_continue(t, 0), EFAULT);
	TEST_ASSERT_ERR(uffd_continue(t, page_size), EFAULT);
	kvm_pthread_join(thread, NULL);
	delay_set("zap", 0);
	TEST_ASSERT(!is_mapped(t, 0) && !is_mapped(t, page_size),
		    "A page of a device that is gone is mapped");
	rebind();
}

TARGET_FIXTURE(hole)
TARGET_VARIANTS_DAX(hole, UFFD_FLAGS);

/* Nor does it become a hole behind the back of a mapping. */
TEST_F(hole, while_punched)
{
	struct target *t = &self->t;
	pthread_t thread;

	if (!delay_set("hole", 0))
		SKIP(return, "The kernel lacks CONFIG_KVM_GUEST_DAXFD_DELAY");
	thread = start_taking(t, punch_thread, "hole");
	TEST_ASSERT_OK(uffd_continue(t, 0));
	kvm_pthread_join(thread, NULL);
	delay_set("hole", 0);
	check_silent(t, 0, 0);
	TEST_ASSERT_EQ(t->view[0], 0);
}

/*
 * Post-copy: readers run, and a handler provides what they touch
 */

TARGET_FIXTURE(postcopy)
TARGET_VARIANTS(postcopy, UFFD_FLAGS);

#define POSTCOPY_SIZE	SZ_4M

struct handler {
	struct target *t;
	pthread_t thread;
	bool copy;
	bool stop;
	u64 nr;
};

static void handle_page(struct handler *handler, u64 offset)
{
	struct target *t = handler->t;
	int r;

	if (handler->copy) {
		r = uffd_copy(t, offset, (char *)t->src + offset);
	} else {
		r = do_pwrite(t, offset);
		if (r == (int)page_size)
			r = uffd_continue(t, offset);
	}
	/*
	 * The other reader was here first, page tables or the registration
	 * change, there is a new hole, the memory has become private, or the
	 * device is gone: try again.
	 */
	if (r)
		uffd_wake(t, offset);
	TEST_ASSERT(!r || r == -EEXIST || r == -EAGAIN || r == -EFAULT ||
		    r == -ENODEV || r == -ENOENT || r == -EACCES,
		    "A page cannot be provided: %d", r);
}

static void *handler_thread(void *arg)
{
	struct handler *handler = arg;
	struct target *t = handler->t;
	struct uffd_msg msg;
	u64 offset;

	while (!READ_ONCE(handler->stop)) {
		if (!uffd_read(t, &msg, 10))
			continue;
		offset = msg.arg.pagefault.address - (u64)t->mem;
		handle_page(handler, offset);
		WRITE_ONCE(handler->nr, handler->nr + 1);
	}
	return NULL;
}

static void handler_start(struct handler *handler, struct target *t, bool copy)
{
	*handler = (struct handler){ .t = t, .copy = copy };
	kvm_pthread_create(&handler->thread, NULL, handler_thread, handler);
}

static void handler_stop(struct handler *handler)
{
	WRITE_ONCE(handler->stop, true);
	kvm_pthread_join(handler->thread, NULL);
}

static void *backward_thread(void *arg)
{
	struct target *t = arg;
	u64 i;

	for (i = POSTCOPY_SIZE; i; i -= page_size)
		TEST_ASSERT_EQ(READ_ONCE(*word(t, i - 8)), t->src[i / 8 - 1]);
	return NULL;
}

static void check_postcopy(struct target *t, bool copy)
{
	struct handler handler;
	pthread_t thread;
	u64 i;

	TEST_ASSERT_OK(uffd_register(t, all_modes(t)));
	handler_start(&handler, t, copy);
	kvm_pthread_create(&thread, NULL, backward_thread, t);
	for (i = 0; i < POSTCOPY_SIZE; i += page_size)
		TEST_ASSERT_EQ(READ_ONCE(*word(t, i)), t->src[i / 8]);
	kvm_pthread_join(thread, NULL);
	handler_stop(&handler);
	/* Each page was provided. */
	TEST_ASSERT(handler.nr >= POSTCOPY_SIZE / page_size,
		    "Only %lu faults were reported", handler.nr);
	TEST_ASSERT(!memcmp(t->mem, t->src, POSTCOPY_SIZE),
		    "Memory is not what was provided");
	TEST_ASSERT(!memcmp(t->view, t->src, POSTCOPY_SIZE),
		    "Memory is not what was provided");
}

TEST_F(postcopy, write)
{
	check_postcopy(&self->t, false);
}

TARGET_FIXTURE(postcopy_copy)
FIXTURE_VARIANT_ADD(postcopy_copy, page_cache) { .path = PATH_page_cache(UFFD_FLAGS) };

static bool step_read_copied(struct loop *loop)
{
	struct target *t = container_of(loop->c, struct target, c);
	u64 i;

	for (i = 0; i < SZ_64K; i += page_size)
		TEST_ASSERT_EQ(READ_ONCE(*word(t, i)), t->src[i / 8]);
	return true;
}

static bool step_fill(struct loop *loop)
{
	struct target *t = container_of(loop->c, struct target, c);
	u64 i;

	for (i = 0; i < SZ_64K; i += page_size)
		fill(t, i);
	return true;
}

TEST_F(postcopy_copy, copy)
{
	check_postcopy(&self->t, true);
}

/* What became a hole is missing, and never a page of zeroes. */
TEST_F(postcopy_copy, holes)
{
	struct target *t = &self->t;
	struct handler handler;
	struct loop reader = {}, filler = {};
	u64 start;

	TEST_ASSERT_OK(uffd_register(t, MISSING));
	handler_start(&handler, t, true);
	loop_start(&reader, &t->c, step_read_copied);
	loop_wait(&reader);
	/*
	 * Pages that are there, are not mapped, and go.  Whoever waits for the
	 * hole looks for a page next, and finds that another hole comes first.
	 */
	loop_start(&filler, &t->c, step_fill);
	for (start = now_ms(); now_ms() - start < LOOP_MS; )
		TEST_ASSERT_OK(punch(&t->c, 0, SZ_64K));
	loop_stop(&filler);
	loop_stop(&reader);
	handler_stop(&handler);
}

/*
 * Handlers against everybody else
 */

TARGET_FIXTURE(race)
TARGET_VARIANTS(race, UFFD_FLAGS);

static bool step_read(struct loop *loop)
{
	struct target *t = container_of(loop->c, struct target, c);
	u64 i, val;

	for (i = 0; i < SZ_64K; i += page_size) {
		if (!host_access(word(t, i), &val, false))
			break;
		TEST_ASSERT(!val || val == t->old || val == t->src[i / 8],
			    "At 0x%lx: 0x%lx", i, val);
	}
	return true;
}

/* Each page is a hole, or what the handler wrote, and never anything else. */
TEST_F(race, holes)
{
	struct target *t = &self->t;
	struct handler handler;
	struct loop reader = {};
	u64 start, rounds;

	memset(t->view, 0xee, SZ_2M);
	TEST_ASSERT_OK(punch(&t->c, 0, SZ_2M));
	TEST_ASSERT_OK(uffd_register(t, all_modes(t)));
	handler_start(&handler, t, false);
	loop_start(&reader, &t->c, step_read);
	loop_wait(&reader);
	rounds = reader.rounds;
	for (start = now_ms(); now_ms() - start < LOOP_MS; ) {
		TEST_ASSERT_OK(punch(&t->c, 0, SZ_2M));
		uffd_continue(t, page_size);
	}
	loop_stop(&reader);
	handler_stop(&handler);
	TEST_ASSERT(reader.rounds > rounds, "The reader does not get on");
}

/* Whoever waits is sent on. */
TEST_F(race, registration)
{
	struct target *t = &self->t;
	struct handler handler;
	struct loop reader = {};
	u64 start, rounds, i;

	for (i = 0; i < SZ_64K; i += page_size)
		fill(t, i);
	handler_start(&handler, t, false);
	loop_start(&reader, &t->c, step_read);
	loop_wait(&reader);
	rounds = reader.rounds;
	for (start = now_ms(); now_ms() - start < LOOP_MS; ) {
		TEST_ASSERT_OK(uffd_register(t, all_modes(t)));
		TEST_ASSERT(!madvise(t->mem, SIZE, MADV_DONTNEED),
			    "madvise() failed");
		TEST_ASSERT_OK(uffd_unregister(t));
	}
	loop_stop(&reader);
	handler_stop(&handler);
	TEST_ASSERT(reader.rounds > rounds, "The reader does not get on");
}

TARGET_FIXTURE(race_unbind)
TARGET_VARIANTS_DAX(race_unbind, UFFD_FLAGS);

TEST_F(race_unbind, handler)
{
	struct target *t = &self->t;
	struct handler handler;
	struct loop reader = {};
	u64 j;
	int i;

	for (i = 0; i < 4; i++) {
		/* Something to wipe, however early the device goes. */
		fill(t, SZ_1M);
		TEST_ASSERT_OK(uffd_register(t, MINOR));
		handler_start(&handler, t, false);
		loop_start(&reader, &t->c, step_read);
		usleep(i * 5000);
		unbind();
		for (j = 0; j < SZ_64K; j += page_size) {
			TEST_ASSERT(!is_mapped(t, j), "Mapped after unbind");
			TEST_ASSERT_ERR(uffd_continue(t, j), EFAULT);
		}
		loop_stop(&reader);
		handler_stop(&handler);
		rebind();

		target_close(t);
		reopen(&t->c);
		if (!t->old)
			dax_dev_check(&dax, unit_offset(0), ZERO_SIZE, 0);
		dax_dev_fill(&dax, unit_offset(0), SIZE, OLD_DATA);
		target_open(t);
	}
}

#ifdef __x86_64__
/*
 * Memory that becomes private, and shared again: a unit of conversion, where
 * the memslot starts.  Needs kvm.gmem_in_place_conversion=1.
 */

#define CONVERTED	SLOT_OFFSET

#define PATH_convert(f)		{ .vm_type = KVM_X86_SW_PROTECTED_VM,		\
				  .flags = UFFD_FLAGS | (f) }
#define PATH_convert_cache	{ .vm_type = KVM_X86_SW_PROTECTED_VM,		\
				  .page_cache = true, .flags = UFFD_FLAGS }

static u64 convert_unit(struct target *t)
{
	return t->dax ? dax.align : page_size;
}

static int try_private(struct target *t, u64 offset, u64 len)
{
	return __gmem_set_private(t->fd, offset, len, NULL) ? -errno : 0;
}

static void make_private(struct target *t)
{
	TEST_ASSERT_OK(try_private(t, CONVERTED, convert_unit(t)));
}

static void make_shared(struct target *t)
{
	gmem_set_shared(t->fd, CONVERTED, convert_unit(t));
}

/* Nothing can be mapped, and what is there stays what it is. */
static void check_refused(struct target *t)
{
	const int err = t->dax ? EINVAL : EFAULT;

	check_sigbus(t, t->mem + CONVERTED);
	TEST_ASSERT_ERR(uffd_continue(t, CONVERTED), EFAULT);
	TEST_ASSERT_ERR(uffd_copy(t, CONVERTED, t->src), err);
	TEST_ASSERT_ERR(uffd_zeropage(t, CONVERTED), err);
	check_sigbus(t, t->mem + CONVERTED);
	TEST_ASSERT(!t->dax || !is_mapped(t, CONVERTED),
		    "Private memory is mapped");
}

TARGET_FIXTURE(convert)
FIXTURE_VARIANT_ADD(convert, page_cache) { .path = PATH_convert_cache };
FIXTURE_VARIANT_ADD(convert, create) { .path = PATH_convert(0) };
FIXTURE_VARIANT_ADD(convert, create_keep) {
	.path = PATH_convert(GUEST_MEMFD_FLAG_KEEP_DATA)
};

TEST_F(convert, nothing_is_reported)
{
	struct target *t = &self->t;
	const u64 before = CONVERTED - page_size, val = t->src[CONVERTED / 8];

	TEST_ASSERT_OK(__mem_slot(&t->c, 0, NULL));
	mem_map(&t->c, 0);
	fill(t, CONVERTED);
	fill(t, before);
	TEST_ASSERT_OK(uffd_register(t, all_modes(t)));
	check_minor(t, CONVERTED, val);

	/* What the handler has mapped is unmapped, and not in the way. */
	make_private(t);
	check_refused(t);
	TEST_ASSERT_EQ(guest_read(t->c.vcpu, MEM_GPA(0)), val);
	guest_write(t->c.vcpu, MEM_GPA(0), GUEST_DATA);
	check_refused(t);
	check_minor(t, before, t->src[before / 8]);

	make_shared(t);
	check_minor(t, CONVERTED, GUEST_DATA);
	TEST_ASSERT_EQ(t->view[CONVERTED / 8], GUEST_DATA);
}

/* Nobody asks those who wait, and it is the handler who sends them on. */
TEST_F(convert, wake)
{
	struct target *t = &self->t;
	struct toucher toucher;

	wait_for_page(t, &toucher, CONVERTED);
	make_private(t);
	TEST_ASSERT_ERR(uffd_continue(t, CONVERTED), EFAULT);
	TEST_ASSERT(!READ_ONCE(toucher.done), "A thread does not wait");
	TEST_ASSERT_OK(uffd_wake(t, CONVERTED));
	touch_is_sigbus(&toucher);
	expect_silence(t);
}

TEST_F(convert, poison)
{
	struct target *t = &self->t;
	struct toucher toucher;

	wait_for_page(t, &toucher, CONVERTED);
	make_private(t);
	TEST_ASSERT_OK(uffd_poison(t, CONVERTED));
	touch_is_sigbus(&toucher);

	/* It is a matter of the mapping. */
	make_shared(t);
	check_sigbus(t, t->mem + CONVERTED);
	TEST_ASSERT_EQ(t->view[CONVERTED / 8], t->src[CONVERTED / 8]);
	make_private(t);
	check_refused(t);
	make_shared(t);
	TEST_ASSERT_OK(uffd_continue(t, CONVERTED));
	check_silent(t, CONVERTED, t->src[CONVERTED / 8]);
}

TEST_F(convert, unregister)
{
	struct target *t = &self->t;
	struct toucher toucher;

	wait_for_page(t, &toucher, CONVERTED);
	make_private(t);
	TEST_ASSERT_OK(uffd_unregister(t));
	touch_is_sigbus(&toucher);
}

TEST_F(convert, close)
{
	struct target *t = &self->t;
	struct toucher toucher;

	wait_for_page(t, &toucher, CONVERTED);
	make_private(t);
	kvm_close(t->uffd);
	touch_is_sigbus(&toucher);
}

/* By the time that the handler answers, all is as it was. */
TEST_F(convert, there_and_back)
{
	struct target *t = &self->t;
	struct toucher toucher;

	TEST_ASSERT_OK(__mem_slot(&t->c, 0, NULL));
	mem_map(&t->c, 0);
	wait_for_page(t, &toucher, CONVERTED);
	make_private(t);
	guest_write(t->c.vcpu, MEM_GPA(0), GUEST_DATA);
	make_shared(t);
	TEST_ASSERT_OK(uffd_continue(t, CONVERTED));
	touch_is(&toucher, GUEST_DATA);
}

static bool step_touch(struct loop *loop)
{
	struct target *t = container_of(loop->c, struct target, c);

	TEST_ASSERT(!host_can_read(word(t, CONVERTED)),
		    "A page that nobody has provided is mapped");
	return true;
}

/*
 * Nobody provides the page.  Whoever touches it gets SIGBUS or waits, also when
 * it is private as userfaultfd looks at it, and shared when it would be mapped.
 */
TEST_F(convert, nobody_provides)
{
	struct target *t = &self->t;
	struct loop loop = {};
	struct uffd_msg msg;
	u64 start, nr = 0;

	fill(t, CONVERTED);
	TEST_ASSERT_OK(uffd_register(t, MINOR));
	loop_start(&loop, &t->c, step_touch);
	for (start = now_ms(); now_ms() - start < LOOP_MS; ) {
		/* A page may just be looked at. */
		while (try_private(t, CONVERTED, convert_unit(t)) == -EAGAIN)
			;
		make_shared(t);
		while (uffd_read(t, &msg, 0)) {
			TEST_ASSERT_OK(uffd_wake(t, CONVERTED));
			nr++;
		}
	}
	while (try_private(t, CONVERTED, convert_unit(t)) == -EAGAIN)
		;
	WRITE_ONCE(loop.stop, true);
	TEST_ASSERT_OK(uffd_unregister(t));
	loop_stop(&loop);
	TEST_ASSERT(nr, "Nothing was reported");
	TEST_ASSERT(!t->dax || !is_mapped(t, CONVERTED), "Private memory is mapped");
}

static void *pwrite_thread(void *arg)
{
	return (void *)do_pwrite(arg, CONVERTED);
}

/* write() waits for its source without a lock, and then looks again. */
TEST_F(convert, while_written)
{
	struct target *t = &self->t;
	char *src = (char *)t->src + CONVERTED;
	struct uffd_msg msg;
	pthread_t thread;
	void *r;

	TEST_ASSERT_OK(__mem_slot(&t->c, 0, NULL));
	mem_map(&t->c, 0);
	TEST_ASSERT(!madvise(src, page_size, MADV_DONTNEED), "madvise() failed");
	TEST_ASSERT_OK(__uffd_register(t, src, page_size, MISSING));
	kvm_pthread_create(&thread, NULL, pwrite_thread, t);
	TEST_ASSERT(uffd_read(t, &msg, TIMEOUT_MS), "write() does not wait");

	make_private(t);
	guest_write(t->c.vcpu, MEM_GPA(0), GUEST_DATA);
	TEST_ASSERT_OK(__uffd_copy(t, src, t->src));
	kvm_pthread_join(thread, &r);
	TEST_ASSERT_EQ((long)r, -EACCES);
	TEST_ASSERT_EQ(guest_read(t->c.vcpu, MEM_GPA(0)), GUEST_DATA);
	make_shared(t);
	TEST_ASSERT_EQ(t->view[CONVERTED / 8], GUEST_DATA);
}

/* What is in the first 64K, if anything, is what the handler provided. */
static bool step_read_shared(struct loop *loop)
{
	struct target *t = container_of(loop->c, struct target, c);
	u64 i, val;

	for (i = 0; i < SZ_64K; i += page_size) {
		if (host_access(word(t, i), &val, false))
			TEST_ASSERT(val == t->src[i / 8],
				    "At 0x%lx: 0x%lx", i, val);
	}
	return true;
}

/* Private memory is not mapped, whoever has just been about to. */
static void check_converted(struct target *t)
{
	u64 i;

	for (i = 0; i < SZ_64K; i += page_size) {
		TEST_ASSERT_ERR(uffd_continue(t, i), EFAULT);
		TEST_ASSERT(!t->dax || !is_mapped(t, i),
			    "Private memory is mapped");
		TEST_ASSERT(!host_can_read(t->mem + i), "A read of private memory");
	}
}

/* With COPY, pages have to be missing before they are provided again. */
static void check_race(struct target *t, bool copy)
{
	u64 size = max_t(u64, convert_unit(t), SZ_64K), nr = 0, start, rounds;
	struct handler handler;
	struct loop reader = {};
	int r;

	TEST_ASSERT_OK(uffd_register(t, copy ? MISSING : MINOR));
	handler_start(&handler, t, copy);
	loop_start(&reader, &t->c, step_read_shared);
	loop_wait(&reader);
	rounds = reader.rounds;
	for (start = now_ms(); now_ms() - start < LOOP_MS; nr += !r) {
		r = try_private(t, 0, size);
		/* A page may just be on its way to be mapped. */
		TEST_ASSERT(!r || r == -EAGAIN, "Unexpected error %d", r);
		if (r)
			continue;
		check_converted(t);
		if (copy)
			TEST_ASSERT_OK(punch(&t->c, 0, size));
		gmem_set_shared(t->fd, 0, size);
		loop_wait(&reader);
	}
	loop_stop(&reader);
	handler_stop(&handler);
	TEST_ASSERT(nr, "Nothing was converted");
	TEST_ASSERT(reader.rounds > rounds, "The reader does not get on");
	TEST_ASSERT(handler.nr, "Nothing was reported");
}

TEST_F(convert, race)
{
	struct target *t = &self->t;
	u64 i;

	for (i = 0; i < SZ_64K; i += page_size)
		fill(t, i);
	check_race(t, false);
}

TARGET_FIXTURE(convert_page_cache)
FIXTURE_VARIANT_ADD(convert_page_cache, page_cache) { .path = PATH_convert_cache };

TEST_F(convert_page_cache, missing)
{
	const u64 next = CONVERTED + page_size;
	struct target *t = &self->t;
	struct toucher toucher;

	TEST_ASSERT_OK(__mem_slot(&t->c, 0, NULL));
	mem_map(&t->c, 0);
	TEST_ASSERT_OK(uffd_register(t, MISSING | MINOR));
	touch_waits(t, &toucher, CONVERTED, MISSING);
	TEST_ASSERT_OK(try_private(t, CONVERTED, 2 * page_size));
	TEST_ASSERT_ERR(uffd_copy(t, CONVERTED, t->src), EFAULT);
	TEST_ASSERT_ERR(uffd_zeropage(t, CONVERTED), EFAULT);
	TEST_ASSERT(!READ_ONCE(toucher.done), "A thread does not wait");
	TEST_ASSERT_OK(uffd_wake(t, CONVERTED));
	touch_is_sigbus(&toucher);
	check_refused(t);
	check_sigbus(t, t->mem + next);

	/* Nothing has been added by the way, neither contents nor pages. */
	TEST_ASSERT_EQ(guest_read(t->c.vcpu, MEM_GPA(0)), 0);
	guest_write(t->c.vcpu, MEM_GPA(0), GUEST_DATA);
	gmem_set_shared(t->fd, CONVERTED, 2 * page_size);
	TEST_ASSERT_ERR(uffd_copy(t, CONVERTED, t->src), EEXIST);
	check_minor(t, CONVERTED, GUEST_DATA);
	check_missing(t, next);
}

TEST_F(convert_page_cache, race)
{
	check_race(&self->t, true);
}

static void *writer_thread(void *arg)
{
	struct target *t = arg;

	WRITE_ONCE(*word(t, CONVERTED), HOST_DATA);
	return NULL;
}

/* Protection is not lost, and does not make private memory speak. */
TEST_F(convert_page_cache, wp)
{
	struct target *t = &self->t;
	struct uffdio_writeprotect arg = {
		.range = { (uintptr_t)t->mem + CONVERTED, page_size },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	struct uffd_msg msg;
	pthread_t thread;

	if (!(t->features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM))
		SKIP(return, "The kernel lacks CONFIG_PTE_MARKER_UFFD_WP");
	fill(t, CONVERTED);
	TEST_ASSERT_OK(uffd_register(t, WP));
	check_silent(t, CONVERTED, t->src[CONVERTED / 8]);
	TEST_ASSERT(!ioctl(t->uffd, UFFDIO_WRITEPROTECT, &arg),
		    "UFFDIO_WRITEPROTECT failed");

	make_private(t);
	TEST_ASSERT(!host_can_read(t->mem + CONVERTED), "A read of private memory");
	TEST_ASSERT(!host_can_write(t->mem + CONVERTED), "A write to private memory");
	expect_silence(t);

	make_shared(t);
	check_silent(t, CONVERTED, t->src[CONVERTED / 8]);
	kvm_pthread_create(&thread, NULL, writer_thread, t);
	TEST_ASSERT(uffd_read(t, &msg, TIMEOUT_MS), "Nothing is reported");
	TEST_ASSERT_EQ(msg.arg.pagefault.address, (u64)t->mem + CONVERTED);
	TEST_ASSERT(msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP, "It is no WP fault");
	arg.mode = 0;
	TEST_ASSERT(!ioctl(t->uffd, UFFDIO_WRITEPROTECT, &arg),
		    "UFFDIO_WRITEPROTECT failed");
	kvm_pthread_join(thread, NULL);
	TEST_ASSERT_EQ(t->view[CONVERTED / 8], HOST_DATA);
}
#endif

int main(int argc, char *argv[])
{
	const char *path = device_from_args(&argc, argv);
	int uffd;

	require_device(path);
	require(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_WRITE,
		"KVM has no GUEST_MEMFD_FLAG_WRITE");
	uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	require(uffd >= 0, "The kernel lacks CONFIG_USERFAULTFD");
	close(uffd);

	use_device(path);
	return test_harness_run(argc, argv);
}
