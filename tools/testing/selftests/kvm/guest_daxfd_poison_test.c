// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory errors of guest memory that is on device-DAX: a page with an error is
 * lost for everybody, and no other page is.
 *
 * The errors are simulated: hard_offline_page in sysfs takes a physical address,
 * MADV_HWPOISON a virtual one.
 *
 * DESTROYS THE CONTENTS of the device that -d or GUEST_DAXFD_DEV names, and
 * binds it anew after each case, which makes the kernel forget the errors.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daxfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#include "kvm_test_harness.h"

#define HARD_OFFLINE	"/sys/devices/system/memory/hard_offline_page"

/* In the middle of the first block of 2M of the slot, as are its neighbours. */
#define BAD		(SZ_1M + 5 * SZ_16K)
#define BAD_GPA		(MEM_GPA(0) + BAD)
#define NR_NEAR		8

#define RACE_MS		3000

/* vCPUs: a guest that met an error does not get any further. */
enum { GOOD, VICTIM, VICTIM2, NR_VCPUS };

static u64 bad_pfn;

/* The physical address of a byte of a guest_memfd. */
static u64 fdinfo_phys(int fd, u64 offset)
{
	struct dax_extent extents[MAX_EXTENTS];
	int i, nr = fdinfo_extents(fd, extents, MAX_EXTENTS);

	for (i = 0; i < nr; i++) {
		if (offset - extents[i].offset < extents[i].size)
			return extents[i].phys + offset - extents[i].offset;
	}
	TEST_FAIL("No extent of the file has the offset 0x%lx", offset);
	return 0;
}

/* A guest_memfd that nobody uses leaves no traces on the device. */
static u64 device_pfn(struct ctx *c, u64 offset)
{
	u64 flags = c->path->vm_type ? c->path->flags : CREATE_FLAGS;
	u64 start = offset / dax.align * dax.align, phys;
	int fd;

	fd = gmem_create(c->vm->fd, flags, c->dax_fd, start, dax.align);
	TEST_ASSERT(fd >= 0, "Claiming failed: %d", fd);
	phys = fdinfo_phys(fd, offset - start);
	kvm_close(fd);
	return phys / page_size;
}

/*
 * Injecting errors, and finding them
 */

static __thread sigjmp_buf sigbus_jmpbuf;
static __thread int sigbus_code;
static __thread void *sigbus_addr;

static void sigbus(int signum, siginfo_t *info, void *context)
{
	sigbus_code = info->si_code;
	sigbus_addr = info->si_addr;
	siglongjmp(sigbus_jmpbuf, 1);
}

static void catch_sigbus(void)
{
	struct sigaction sa = {
		.sa_sigaction = sigbus,
		.sa_flags = SA_SIGINFO,
	};

	sigaction(SIGBUS, &sa, NULL);
}

/* Returns 0, -errno, or the si_code of a SIGBUS that the error led to. */
static int poison_pfn(u64 pfn)
{
	char buf[32];
	int fd, r;

	fd = open(HARD_OFFLINE, O_WRONLY | O_CLOEXEC);
	TEST_ASSERT(fd >= 0, "Opening " HARD_OFFLINE " failed");
	snprintf(buf, sizeof(buf), "0x%lx", pfn * page_size);

	catch_sigbus();
	if (sigsetjmp(sigbus_jmpbuf, 1))
		r = sigbus_code;
	else
		r = write(fd, buf, strlen(buf)) < 0 ? -errno : 0;
	kvm_close(fd);
	return r;
}

/* The kernel says that nothing is left to be done. */
static void poison(void)
{
	TEST_ASSERT_OK(poison_pfn(bad_pfn));
}

/* Nobody owns the page, or has ever mapped it: as it was before claims. */
static void poison_unclaimed(void)
{
	TEST_ASSERT_ERR(poison_pfn(bad_pfn), EBUSY);
}

static int poison_mapping(void *mem)
{
	catch_sigbus();
	if (sigsetjmp(sigbus_jmpbuf, 1))
		return sigbus_code;
	return madvise(mem, page_size, MADV_HWPOISON) ? -errno : 0;
}

static void host_must_meet_poison(u64 *mem, bool write)
{
	u64 val = HOST_DATA;

	catch_sigbus();
	if (sigsetjmp(sigbus_jmpbuf, 1)) {
		TEST_ASSERT_EQ(sigbus_code, BUS_MCEERR_AR);
		TEST_ASSERT_EQ((u64)sigbus_addr, (u64)mem);
		return;
	}
	if (write)
		WRITE_ONCE(*mem, val);
	else
		val = READ_ONCE(*mem);
	TEST_FAIL("The host can %s the page: 0x%lx", write ? "write" : "read", val);
}

static void guest_must_meet_poison(struct kvm_vcpu *vcpu, enum guest_op op)
{
	TEST_ASSERT_ERR(guest_do(vcpu, op, BAD_GPA, GUEST_DATA, 1), EHWPOISON);
	assert_memory_fault(vcpu, BAD_GPA, page_size);
}

/* The pages before and after it work, for the guest. */
static void check_neighbours(struct ctx *c)
{
	struct kvm_vcpu *vcpu = c->vcpus[GOOD];
	const gpa_t before = BAD_GPA - NR_NEAR * page_size;
	const gpa_t after = BAD_GPA + page_size;

	TEST_ASSERT_OK(guest_do(vcpu, GUEST_FILL, before, GUEST_DATA, NR_NEAR));
	TEST_ASSERT_OK(guest_do(vcpu, GUEST_FILL, after, GUEST_DATA, NR_NEAR));
	TEST_ASSERT_OK(guest_do(vcpu, GUEST_CHECK, before, GUEST_DATA, NR_NEAR));
	TEST_ASSERT_OK(guest_do(vcpu, GUEST_CHECK, after, GUEST_DATA, NR_NEAR));
}

/* What stands on the device, once the kernel has forgotten the error. */
static void check_device(u64 bad, u64 others)
{
	const u64 offset = slot_offset(0) + BAD;

	unbind();
	rebind();
	dax_dev_check(&dax, offset - page_size, page_size, others);
	dax_dev_check(&dax, offset, sizeof(u64), bad);
	dax_dev_check(&dax, offset + page_size, page_size, others);
}

/* Where the provider of the memory can repair the page, the wipe has done so. */
static bool is_repaired(struct ctx *c)
{
	u64 poisoned;

	if (c->path->daxfd)
		return false;
	TEST_ASSERT_OK(claim_unit(c, 0));
	poisoned = fdinfo_number(c->gmem[0], "poisoned");
	unclaim(c, 0);
	return !poisoned;
}

static void check_wiped(struct ctx *c, u64 bad)
{
	check_device(is_repaired(c) ? 0 : bad, 0);
}

#define POISON_FIXTURE(name)							\
	DAXFD_FIXTURE_WITH(name, NR_VCPUS,					\
			   bad_pfn = device_pfn(&self->c, slot_offset(0) + BAD), \
			   check_after_errors())

/*
 * Guests
 */

POISON_FIXTURE(guest)
FIXTURE_VARIANT_ADD(guest, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(guest, create_keep) { .path = PATH_create_keep };
FIXTURE_VARIANT_ADD(guest, short) { .path = PATH_short };
#ifdef __x86_64__
FIXTURE_VARIANT_ADD(guest, sw_protected) { .path = PATH_sw_protected };
#endif

TEST_F(guest, touched)
{
	mem_add(&self->c, 0);
	guest_write(self->c.vcpus[VICTIM], BAD_GPA, GUEST_DATA);
	check_neighbours(&self->c);

	poison();
	guest_must_meet_poison(self->c.vcpus[VICTIM], GUEST_READ);
	guest_must_meet_poison(self->c.vcpus[VICTIM2], GUEST_WRITE);
	check_neighbours(&self->c);
	/* It does not get better by trying again. */
	TEST_ASSERT_ERR(guest_run(self->c.vcpus[VICTIM]), EHWPOISON);
	assert_memory_fault(self->c.vcpus[VICTIM], BAD_GPA, page_size);
}

TEST_F(guest, untouched)
{
	mem_add(&self->c, 0);
	poison();
	guest_must_meet_poison(self->c.vcpus[VICTIM], GUEST_WRITE);
	check_neighbours(&self->c);
}

TEST_F(guest, twice)
{
	mem_add(&self->c, 0);
	poison();
	poison();
	TEST_ASSERT_OK(poison_pfn(bad_pfn + 1));
	guest_must_meet_poison(self->c.vcpus[VICTIM], GUEST_READ);
	TEST_ASSERT_ERR(guest_do(self->c.vcpus[VICTIM2], GUEST_READ,
				 BAD_GPA + page_size, 0, 1), EHWPOISON);
	assert_memory_fault(self->c.vcpus[VICTIM2], BAD_GPA + page_size,
			    page_size);
	guest_write(self->c.vcpus[GOOD], BAD_GPA + 2 * page_size, GUEST_DATA);
}

TEST_F(guest, before_create)
{
	poison_unclaimed();
	mem_add(&self->c, 0);
	guest_must_meet_poison(self->c.vcpus[VICTIM], GUEST_READ);
	check_neighbours(&self->c);
}

/* The page is not handed out again, whoever comes. */
TEST_F(guest, in_the_next)
{
	mem_add(&self->c, 0);
	guest_write(self->c.vcpus[VICTIM], BAD_GPA, GUEST_DATA);
	poison();
	mem_del(&self->c, 0);
	if (is_repaired(&self->c))
		SKIP(return, "The provider of the memory repairs pages");

	mem_add(&self->c, 0);
	guest_must_meet_poison(self->c.vcpus[VICTIM], GUEST_READ);
	check_neighbours(&self->c);
}

TEST_F(guest, forgotten_with_the_binding)
{
	mem_add(&self->c, 0);
	poison();
	guest_must_meet_poison(self->c.vcpus[VICTIM2], GUEST_READ);
	mem_del(&self->c, 0);

	unbind();
	rebind();
	reopen(&self->c);
	mem_add(&self->c, 0);
	guest_write(self->c.vcpus[VICTIM], BAD_GPA, GUEST_DATA);
	check_neighbours(&self->c);
}

TEST_F(guest, pre_fault)
{
	u64 left;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "KVM has no KVM_PRE_FAULT_MEMORY here (no two-dimensional paging)");

	mem_add(&self->c, 0);
	poison();
	TEST_ASSERT_OK(pre_fault(self->c.vcpu, BAD_GPA - page_size, page_size,
				 &left));
	TEST_ASSERT_OK(pre_fault(self->c.vcpu, BAD_GPA + page_size, page_size,
				 &left));
	/* Up to the page and no further. */
	TEST_ASSERT_ERR(pre_fault(self->c.vcpu, MEM_GPA(0), SLOT_SIZE, &left),
			EHWPOISON);
	TEST_ASSERT_EQ(left, SLOT_SIZE - BAD);
}

/* The guest writes to the page all the time: the mapping has to go. */
TEST_F(guest, running)
{
	struct runner runner;

	mem_add(&self->c, 0);
	runner_start(&runner, self->c.vcpus[VICTIM], BAD_GPA, NR_NEAR);
	poison();
	TEST_ASSERT_ERR(runner_join(&runner), EHWPOISON);
	assert_memory_fault(self->c.vcpus[VICTIM], BAD_GPA, page_size);
	check_neighbours(&self->c);
}

/*
 * Owners come and go while they are told.
 */

POISON_FIXTURE(race)
FIXTURE_VARIANT_ADD(race, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(race, short) { .path = PATH_short };

static bool step_poison(struct loop *loop)
{
	int r;

	r = poison_pfn(bad_pfn);
	/* Without an owner; while the device is not there. */
	TEST_ASSERT(!r || r == -EBUSY || r == -ENXIO,
		    "Unexpected result %d", r);
	return true;
}

static bool time_is_left(u64 start)
{
	return now_ms() - start < RACE_MS;
}

TEST_F(race, close)
{
	struct loop loop = {};
	u64 start = now_ms();

	loop_start(&loop, &self->c, step_poison);
	while (time_is_left(start)) {
		mem_add(&self->c, 0);
		guest_write(self->c.vcpus[GOOD], BAD_GPA + page_size, GUEST_DATA);
		mem_del(&self->c, 0);
	}
	loop_stop(&loop);
}

TEST_F(race, vm_death)
{
	struct loop loop = {};
	u64 start = now_ms();
	struct ctx c;

	loop_start(&loop, &self->c, step_poison);
	while (time_is_left(start)) {
		ctx_clone(&c, &self->c);
		mem_add(&c, 0);
		guest_write(c.vcpu, BAD_GPA + page_size, GUEST_DATA);
		ctx_free(&c);
	}
	loop_stop(&loop);
}

TEST_F(race, unbind)
{
	struct loop loop = {};
	u64 start = now_ms();
	int rounds = 0;

	/* Not with rebind: struct pages come before they are initialised. */
	do {
		mem_add(&self->c, 0);
		guest_write(self->c.vcpus[GOOD], BAD_GPA + page_size, GUEST_DATA);
		loop_start(&loop, &self->c, step_poison);
		loop_wait(&loop);
		unbind();
		loop_stop(&loop);
		mem_del(&self->c, 0);
		rebind();
		reopen(&self->c);
	} while (++rounds < 2 || time_is_left(start));
}

/*
 * Hosts, by way of the guest_memfd
 */

POISON_FIXTURE(host)
FIXTURE_VARIANT_ADD(host, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(host, create_keep) { .path = PATH_create_keep };

static void check_host_poison(struct ctx *c, void *mem)
{
	host_must_meet_poison(mem + BAD, false);
	host_must_meet_poison(mem + BAD + page_size - sizeof(u64), true);
	TEST_ASSERT(host_can_write(mem + BAD - page_size), "Lost the page before");
	TEST_ASSERT(host_can_write(mem + BAD + page_size), "Lost the page after");
	guest_must_meet_poison(c->vcpus[VICTIM], GUEST_READ);
	check_neighbours(c);
}

TEST_F(host, touched)
{
	void *mem;

	mem_add(&self->c, 0);
	mem = host_map(&self->c, 0);
	TEST_ASSERT(host_can_write(mem + BAD), "The host cannot write");
	poison();
	check_host_poison(&self->c, mem);
	host_unmap(&self->c, 0, mem);
}

TEST_F(host, untouched)
{
	void *mem;

	mem_add(&self->c, 0);
	mem = host_map(&self->c, 0);
	poison();
	check_host_poison(&self->c, mem);
	host_unmap(&self->c, 0, mem);
}

TEST_F(host, by_address)
{
	void *mem;

	mem_add(&self->c, 0);
	mem = host_map(&self->c, 0);
	TEST_ASSERT_OK(poison_mapping(mem + BAD));
	check_host_poison(&self->c, mem);
	host_unmap(&self->c, 0, mem);
}

TEST_F(host, kernel_access)
{
	int fds[2];
	void *mem;

	mem_add(&self->c, 0);
	mem = host_map(&self->c, 0);
	poison();
	TEST_ASSERT(!pipe(fds), "pipe() failed");
	TEST_ASSERT(write(fds[1], mem + BAD, 1) == -1 && errno == EFAULT,
		    "write() of the page: errno %d", errno);
	TEST_ASSERT(write(fds[1], mem + BAD + page_size, 1) == 1,
		    "write() of the page after: errno %d", errno);
	TEST_ASSERT(madvise(mem + BAD, page_size, MADV_POPULATE_READ) == -1 &&
		    errno == EHWPOISON, "MADV_POPULATE_READ: errno %d", errno);
	host_unmap(&self->c, 0, mem);
}

TEST_F(host, fdinfo)
{
	int fd;

	mem_add(&self->c, 0);
	fd = self->c.gmem[0];
	TEST_ASSERT_EQ(fdinfo_number(fd, "poisoned"), 0);
	poison();
	poison();
	TEST_ASSERT_EQ(fdinfo_number(fd, "poisoned"), page_size);
	TEST_ASSERT_OK(poison_pfn(bad_pfn + 1));
	TEST_ASSERT_EQ(fdinfo_number(fd, "poisoned"), 2 * page_size);
	/* The range is what it was. */
	TEST_ASSERT_EQ(fdinfo_phys(fd, SLOT_OFFSET + BAD), bad_pfn * page_size);
	mem_del(&self->c, 0);
	if (is_repaired(&self->c))
		return;

	TEST_ASSERT_OK(claim_unit(&self->c, 0));
	TEST_ASSERT_EQ(fdinfo_number(self->c.gmem[0], "poisoned"), 2 * page_size);
	unbind();
	TEST_ASSERT_EQ(fdinfo_number(self->c.gmem[0], "poisoned"), 0);
	rebind();
}

/*
 * Contents: the page is left alone, and all others are treated as ever
 */

POISON_FIXTURE(zero)
FIXTURE_VARIANT_ADD(zero, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(zero, create_private) { .path = PATH_create_private };

POISON_FIXTURE(keep)
FIXTURE_VARIANT_ADD(keep, create_keep) { .path = PATH_create_keep };

/* Three pages with data, and no trace of the mapping that they came by. */
static void fill_device(void)
{
	dax_dev_fill(&dax, slot_offset(0) + BAD - page_size, 3 * page_size,
		     OLD_DATA);
	unbind();
	rebind();
}

TEST_F(zero, first_use)
{
	fill_device();
	reopen(&self->c);
	poison_unclaimed();
	mem_add(&self->c, 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpus[GOOD], BAD_GPA - page_size), 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpus[GOOD], BAD_GPA + page_size), 0);
	mem_del(&self->c, 0);
	check_wiped(&self->c, OLD_DATA);
}

TEST_F(zero, allocate)
{
	fill_device();
	reopen(&self->c);
	poison_unclaimed();
	mem_add(&self->c, 0);
	TEST_ASSERT_OK(do_fallocate(self->c.gmem[0], FALLOC_FL_KEEP_SIZE, 0,
				    unit_size));
	mem_del(&self->c, 0);
	check_wiped(&self->c, OLD_DATA);
}

static void use_and_poison(struct ctx *c)
{
	mem_add(c, 0);
	guest_write(c->vcpus[GOOD], BAD_GPA - page_size, GUEST_DATA);
	guest_write(c->vcpus[GOOD], BAD_GPA, GUEST_DATA);
	guest_write(c->vcpus[GOOD], BAD_GPA + page_size, GUEST_DATA);
	poison();
}

TEST_F(zero, wipe_at_close)
{
	use_and_poison(&self->c);
	mem_del(&self->c, 0);
	check_wiped(&self->c, GUEST_DATA);
}

TEST_F(zero, wipe_in_unbind)
{
	bool repaired;

	use_and_poison(&self->c);
	mem_del(&self->c, 0);
	repaired = is_repaired(&self->c);
	unbind();
	rebind();
	reopen(&self->c);

	use_and_poison(&self->c);
	unbind();
	rebind();
	check_device(repaired ? 0 : GUEST_DATA, 0);
}

TEST_F(zero, hole)
{
	use_and_poison(&self->c);
	TEST_ASSERT_OK(punch(&self->c, SLOT_OFFSET + BAD - page_size,
			     3 * page_size));
	TEST_ASSERT_EQ(guest_read(self->c.vcpus[GOOD], BAD_GPA - page_size), 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpus[GOOD], BAD_GPA + page_size), 0);
	guest_must_meet_poison(self->c.vcpus[VICTIM], GUEST_READ);
}

TEST_F(keep, hole)
{
	use_and_poison(&self->c);
	TEST_ASSERT_OK(punch(&self->c, SLOT_OFFSET + BAD - page_size,
			     3 * page_size));
	TEST_ASSERT_EQ(guest_read(self->c.vcpus[GOOD], BAD_GPA - page_size), 0);
	TEST_ASSERT_EQ(guest_read(self->c.vcpus[GOOD], BAD_GPA + page_size), 0);
	guest_must_meet_poison(self->c.vcpus[VICTIM], GUEST_READ);
	mem_del(&self->c, 0);
	check_device(GUEST_DATA, 0);
}

/*
 * Memory that is shared with others, by way of /dev/daxX.Y
 */

POISON_FIXTURE(shared)
FIXTURE_VARIANT_ADD(shared, short) { .path = PATH_short };

TEST_F(shared, two_guests)
{
	struct ctx other;

	ctx_clone(&other, &self->c);
	mem_add(&self->c, 0);
	mem_add(&other, 0);
	guest_write(self->c.vcpus[GOOD], BAD_GPA, GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(other.vcpu, BAD_GPA), GUEST_DATA);

	poison();
	guest_must_meet_poison(self->c.vcpus[VICTIM], GUEST_READ);
	guest_must_meet_poison(other.vcpu, GUEST_READ);
	check_neighbours(&self->c);
	ctx_free(&other);
}

/* What the process has mapped is a unit of the device's alignment. */
TEST_F(shared, with_a_process)
{
	void *mem;

	mem_add(&self->c, 0);
	mem = dax_dev_mmap(&dax, slot_offset(0) + BAD, page_size);
	WRITE_ONCE(*(u64 *)mem, HOST_DATA);
	TEST_ASSERT_EQ(guest_read(self->c.vcpus[GOOD], BAD_GPA), HOST_DATA);

	TEST_ASSERT_EQ(poison_pfn(bad_pfn), BUS_MCEERR_AR);
	host_must_meet_poison(mem, false);
	guest_must_meet_poison(self->c.vcpus[VICTIM], GUEST_READ);
	check_neighbours(&self->c);
	dax_dev_munmap(&dax, mem, slot_offset(0) + BAD, page_size);
}

/* After an error that a guest met, the page is lost to processes as well. */
TEST_F(shared, then_a_process)
{
	void *mem;

	mem_add(&self->c, 0);
	poison();
	mem_del(&self->c, 0);
	mem = dax_dev_mmap(&dax, slot_offset(0) + BAD, page_size);
	host_must_meet_poison(mem, false);
	dax_dev_munmap(&dax, mem, slot_offset(0) + BAD, page_size);
}

int main(int argc, char *argv[])
{
	const char *path = device_from_args(&argc, argv);

	require_device(path);
	require(!access(HARD_OFFLINE, W_OK),
		"There is no " HARD_OFFLINE ": it takes CONFIG_MEMORY_FAILURE and MEMORY_HOTPLUG");

	use_device(path);
	return test_harness_run(argc, argv);
}
