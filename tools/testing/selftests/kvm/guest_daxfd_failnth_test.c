// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guest memory from a device-DAX instance when the kernel has no memory: for
 * each system call on the way, its first allocation fails, then its second, and
 * so on, until it needs no more.  A call that fails must have changed nothing, and
 * the next one works.
 *
 * DESTROYS THE CONTENTS of the device that -d or GUEST_DAXFD_DEV names.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daxfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#include "kvm_test_harness.h"

#define FAIL_NTH	"/proc/thread-self/fail-nth"
#define DEBUGFS		"/sys/kernel/debug"
#define DAX_GMEM_REFCNT	"/sys/module/dax_gmem/refcnt"

/* Far more than the allocations of one call. */
#define FAIL_NTH_MAX	2000

/* The guest's first fault makes a VM anew for each of its allocations. */
#define TIMEOUT		600

/*
 * By default most allocations are spared: those that may sleep, and those of one
 * page.
 */
static struct knob {
	const char *path;
	const char *val;
	char old[16];
} knobs[] = {
	{ DEBUGFS "/failslab/ignore-gfp-wait", "N" },
	{ DEBUGFS "/failslab/verbose", "0" },
	{ DEBUGFS "/fail_page_alloc/ignore-gfp-wait", "N" },
	{ DEBUGFS "/fail_page_alloc/ignore-gfp-highmem", "N" },
	{ DEBUGFS "/fail_page_alloc/min-order", "0" },
	{ DEBUGFS "/fail_page_alloc/verbose", "0" },
};

static bool knob_write(const char *path, const char *val)
{
	int fd = open(path, O_WRONLY);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, val, strlen(val)) == strlen(val);
	close(fd);
	return ok;
}

static bool knobs_set(void)
{
	struct knob *k;
	FILE *f;

	for (k = knobs; k < knobs + ARRAY_SIZE(knobs); k++) {
		f = fopen(k->path, "r");
		if (!f)
			return false;
		if (!fgets(k->old, sizeof(k->old), f))
			k->old[0] = '\0';
		fclose(f);
	}
	for (k = knobs; k < knobs + ARRAY_SIZE(knobs); k++) {
		if (!knob_write(k->path, k->val))
			return false;
	}
	return true;
}

static void knobs_restore(void)
{
	struct knob *k;

	for (k = knobs; k < knobs + ARRAY_SIZE(knobs); k++)
		knob_write(k->path, k->old);
}

static int fail_fd;

static void fail_nth_set(int n)
{
	char buf[16];
	int len = snprintf(buf, sizeof(buf), "%d", n);

	TEST_ASSERT(pwrite(fail_fd, buf, len, 0) == len, "Writing %s failed",
		    FAIL_NTH);
}

/* What is left to count down: 0 when an allocation was failed. */
static int fail_nth_get(void)
{
	char buf[16] = {};

	TEST_ASSERT(pread(fail_fd, buf, sizeof(buf) - 1, 0) > 0,
		    "Reading %s failed", FAIL_NTH);
	return atoi(buf);
}

/* Faults of the test itself are not what is to fail. */
static void populate(void)
{
	TEST_ASSERT(!mlockall(MCL_CURRENT), "mlockall() failed");
	munlockall();
}

/* What a call could leave behind. */
struct held {
	int fd;
	u64 claimed;
	int refcnt;
};

static void held_read(struct held *held)
{
	FILE *f = fopen(DAX_GMEM_REFCNT, "r");

	held->refcnt = 0;
	if (f && fscanf(f, "%d", &held->refcnt) != 1)
		held->refcnt = -1;
	if (f)
		fclose(f);
	held->fd = kvm_dup(fail_fd);
	kvm_close(held->fd);
	held->claimed = dax_dev_claimed(&dax);
	if (!held->claimed)
		TEST_ASSERT(!claims_list_has(""), "A claim in debugfs");
}

static void held_check(const struct held *before)
{
	struct held now;

	held_read(&now);
	TEST_ASSERT_EQ(now.fd, before->fd);
	TEST_ASSERT_EQ(now.claimed, before->claimed);
	TEST_ASSERT_EQ(now.refcnt, before->refcnt);
}

/*
 * One system call.  @prepare makes what it needs, @call returns 0 or -errno,
 * @works is told that it succeeded, and @undo takes all back.  @failed may look at
 * what a call that failed must have left alone.
 */
struct scenario {
	void (*prepare)(struct ctx *c);
	int (*call)(struct ctx *c);
	void (*failed)(struct ctx *c);
	void (*works)(struct ctx *c);
	void (*undo)(struct ctx *c);
	int min_allocations;
};

static bool fail_once(struct ctx *c, const struct scenario *sc, int n, int *failed)
{
	struct held before;
	int left, r;

	if (sc->prepare)
		sc->prepare(c);
	held_read(&before);

	fail_nth_set(n);
	r = sc->call(c);
	left = fail_nth_get();
	fail_nth_set(0);

	if (r) {
		TEST_ASSERT(!left, "Error %d, and no allocation failed", r);
		TEST_ASSERT(r == -ENOMEM, "Allocation %d: unexpected error %d", n, r);
		held_check(&before);
		if (sc->failed)
			sc->failed(c);
		TEST_ASSERT_OK(sc->call(c));
		++*failed;
	}
	if (sc->works)
		sc->works(c);
	if (sc->undo)
		sc->undo(c);
	return !left;
}

static void fail_each(struct ctx *c, const struct scenario *sc)
{
	int n = 0, failed = 0;

	fail_fd = open(FAIL_NTH, O_RDWR);
	TEST_ASSERT(fail_fd >= 0, "Opening %s failed", FAIL_NTH);
	populate();
	while (fail_once(c, sc, ++n, &failed))
		TEST_ASSERT(n < FAIL_NTH_MAX, "No end of allocations");

	printf("# %d allocations, %d calls failed\n", n - 1, failed);
	fflush(stdout);
	TEST_ASSERT(n - 1 >= sc->min_allocations, "Fewer allocations than there are");
	kvm_close(fail_fd);
	assert_device_is_free();
}

DAXFD_FIXTURE(fail)
FIXTURE_VARIANT_ADD(fail, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(fail, create_keep) { .path = PATH_create_keep };
FIXTURE_VARIANT_ADD(fail, short) { .path = PATH_short };

/* A guest_memfd, or a memslot of the short way with all that it makes. */
static int call_claim(struct ctx *c)
{
	return claim_unit(c, 0);
}

static void prepare_device(struct ctx *c)
{
	dax_dev_write(&dax, slot_offset(0), OLD_DATA);
}

/* All of it is there, also what keeps track of what is zeroed. */
static void works_claim(struct ctx *c)
{
	u64 *mem = host_map(c, 0);

	TEST_ASSERT_EQ(READ_ONCE(*mem),
		       c->path->flags & GUEST_MEMFD_FLAG_KEEP_DATA || c->path->daxfd ?
		       OLD_DATA : 0);
	host_unmap(c, 0, mem);
}

static void undo_claim(struct ctx *c)
{
	unclaim(c, 0);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
}

TEST_F_TIMEOUT(fail, claim, TIMEOUT)
{
	const struct scenario sc = {
		.prepare = prepare_device,
		.call = call_claim,
		.works = works_claim,
		.undo = undo_claim,
		.min_allocations = 3,
	};

	fail_each(&self->c, &sc);
}

static void prepare_claim(struct ctx *c)
{
	if (!c->path->daxfd)
		TEST_ASSERT_OK(claim_unit(c, 0));
}

static int call_slot(struct ctx *c)
{
	return __mem_slot(c, 0, NULL);
}

/* The memory is the guest's, and the host's. */
static void works_slot(struct ctx *c)
{
	u64 *mem;

	mem_map(c, 0);
	guest_write(c->vcpu, MEM_GPA(0) + ZERO_SIZE, GUEST_DATA);
	mem = host_map(c, 0);
	TEST_ASSERT_EQ(READ_ONCE(mem[ZERO_SIZE / 8]), GUEST_DATA);
	host_unmap(c, 0, mem);
}

static void undo_slot(struct ctx *c)
{
	mem_del(c, 0);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
}

TEST_F_TIMEOUT(fail, slot, TIMEOUT)
{
	const struct scenario sc = {
		.prepare = prepare_claim,
		.call = call_slot,
		.works = works_slot,
		.undo = undo_slot,
		.min_allocations = 2,
	};

	fail_each(&self->c, &sc);
}

static void prepare_mem(struct ctx *c)
{
	mem_add(c, 0);
	/* A guest that has met a fault first repeats what it was about. */
	guest_read(c->vcpu, MEM_GPA(0));
	guest_write(c->vcpu, MEM_GPA(0), GUEST_DATA);
}

static int call_slot_delete(struct ctx *c)
{
	return slot_delete(c->vm->fd, MEM_SLOT(0));
}

static void failed_slot_delete(struct ctx *c)
{
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0)), GUEST_DATA);
	guest_write(c->vcpu, MEM_GPA(0) + ZERO_SIZE, GUEST_DATA);
}

static void undo_claim_of_slot(struct ctx *c)
{
	if (!c->path->daxfd)
		kvm_free_fd(c->gmem[0]);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
}

TEST_F_TIMEOUT(fail, slot_delete, TIMEOUT)
{
	const struct scenario sc = {
		.prepare = prepare_mem,
		.call = call_slot_delete,
		.failed = failed_slot_delete,
		.undo = undo_claim_of_slot,
		.min_allocations = 1,
	};

	fail_each(&self->c, &sc);
}

static int call_unbind(struct ctx *c)
{
	return dax_dev_unbind(&dax, DAX_DRIVER_DEVICE);
}

/* An unbind that began does its work to the end. */
static void works_unbind(struct ctx *c)
{
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
	guest_must_fault(c->vcpu, MEM_GPA(0));
	rebind();
	reopen(c);
	guest_must_fault(c->vcpu, MEM_GPA(0));
	if (!c->path->daxfd && !(c->path->flags & GUEST_MEMFD_FLAG_KEEP_DATA))
		dax_dev_check(&dax, slot_offset(0), ZERO_SIZE, 0);
}

TEST_F_TIMEOUT(fail, unbind, TIMEOUT)
{
	const struct scenario sc = {
		.prepare = prepare_mem,
		.call = call_unbind,
		.failed = failed_slot_delete,
		.works = works_unbind,
		.undo = undo_slot,
		.min_allocations = 1,
	};

	fail_each(&self->c, &sc);
}

/*
 * What a guest_memfd offers besides
 */

DAXFD_FIXTURE(fail_gmem)
FIXTURE_VARIANT_ADD(fail_gmem, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(fail_gmem, create_keep) { .path = PATH_create_keep };

static void *mapping;

static int call_mmap(struct ctx *c)
{
	mapping = mmap(NULL, unit_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       c->gmem[0], 0);
	return mapping == MAP_FAILED ? -errno : 0;
}

static void works_mmap(struct ctx *c)
{
	u64 *mem = mapping;

	WRITE_ONCE(*mem, HOST_DATA);
	TEST_ASSERT_EQ(READ_ONCE(*mem), HOST_DATA);
}

/* The mapping is a reference to the file. */
static void undo_mmap(struct ctx *c)
{
	kvm_munmap(mapping, unit_size);
	undo_claim(c);
}

TEST_F_TIMEOUT(fail_gmem, mmap, TIMEOUT)
{
	const struct scenario sc = {
		.prepare = prepare_claim,
		.call = call_mmap,
		.works = works_mmap,
		.undo = undo_mmap,
		.min_allocations = 1,
	};

	fail_each(&self->c, &sc);
}

static void prepare_mmap(struct ctx *c)
{
	TEST_ASSERT_OK(claim_unit(c, 0));
	TEST_ASSERT_OK(call_mmap(c));
	/* A huge page needs no page table. */
	TEST_ASSERT(!madvise(mapping, unit_size, MADV_NOHUGEPAGE) ||
		    errno == EINVAL, "madvise() failed");
}

/* A fault that returns an errno instead of asking for another try. */
static int call_host_fault(struct ctx *c)
{
	return madvise(mapping, page_size, MADV_POPULATE_WRITE) ? -errno : 0;
}

TEST_F_TIMEOUT(fail_gmem, host_fault, TIMEOUT)
{
	const struct scenario sc = {
		.prepare = prepare_mmap,
		.call = call_host_fault,
		.works = works_mmap,
		.undo = undo_mmap,
		.min_allocations = 1,
	};

	fail_each(&self->c, &sc);
}

static int call_allocate(struct ctx *c)
{
	return do_fallocate(c->gmem[0], FALLOC_FL_KEEP_SIZE, 0, unit_size);
}

/* Blocks of a device need no memory: the claim has all that there is to know. */
TEST_F_TIMEOUT(fail_gmem, allocate, TIMEOUT)
{
	const struct scenario sc = {
		.prepare = prepare_claim,
		.call = call_allocate,
		.undo = undo_claim,
	};

	fail_each(&self->c, &sc);
}

static int call_punch(struct ctx *c)
{
	return punch(c, 0, unit_size);
}

static void works_punch(struct ctx *c)
{
	TEST_ASSERT_EQ(guest_read(c->vcpu, MEM_GPA(0)), 0);
}

TEST_F_TIMEOUT(fail_gmem, punch_hole, TIMEOUT)
{
	const struct scenario sc = {
		.prepare = prepare_mem,
		.call = call_punch,
		.failed = failed_slot_delete,
		.works = works_punch,
		.undo = undo_slot,
	};

	fail_each(&self->c, &sc);
}

static int call_close(struct ctx *c)
{
	kvm_close(c->gmem[0]);
	c->gmem[0] = -1;
	return 0;
}

static void works_close(struct ctx *c)
{
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
	if (!(c->path->flags & GUEST_MEMFD_FLAG_KEEP_DATA))
		dax_dev_check(&dax, slot_offset(0), ZERO_SIZE, 0);
	TEST_ASSERT_OK(slot_delete(c->vm->fd, MEM_SLOT(0)));
}

/* Cannot fail, and so may not need memory that it cannot do without. */
TEST_F_TIMEOUT(fail_gmem, close, TIMEOUT)
{
	const struct scenario sc = {
		.prepare = prepare_mem,
		.call = call_close,
		.works = works_close,
	};

	fail_each(&self->c, &sc);
}

#ifdef __x86_64__
/*
 * Conversion: all that it needs, it has before anything changes.
 */
static void convert_setup(struct __test_metadata *_metadata)
{
	if (!kvm_has_gmem_attributes())
		SKIP(return, "KVM needs gmem_in_place_conversion=1");
}

DAXFD_FIXTURE_WITH(fail_convert, 1, convert_setup(_metadata), check_after_test())
FIXTURE_VARIANT_ADD(fail_convert, create) {
	.path = { .vm_type = KVM_X86_SW_PROTECTED_VM, .flags = CREATE_FLAGS }
};

FIXTURE_VARIANT_ADD(fail_convert, page_cache) {
	.path = { .vm_type = KVM_X86_SW_PROTECTED_VM, .page_cache = true,
		  .flags = CREATE_FLAGS }
};

static u64 error_offset;

/* The last of what can be converted by itself. */
static int call_to_private(struct ctx *c)
{
	return __gmem_set_private(c->gmem[0], unit_size - dax.align, dax.align,
				  &error_offset) ? -errno : 0;
}

static void failed_to_private(struct ctx *c)
{
	TEST_ASSERT_EQ(error_offset, unit_size - dax.align);
	TEST_ASSERT_EQ(fdinfo_number(c->gmem[0], "private"), 0);
}

static void works_to_private(struct ctx *c)
{
	TEST_ASSERT_EQ(fdinfo_number(c->gmem[0], "private"), dax.align);
}

TEST_F_TIMEOUT(fail_convert, to_private, TIMEOUT)
{
	const struct scenario sc = {
		.prepare = prepare_claim,
		.call = call_to_private,
		.failed = failed_to_private,
		.works = works_to_private,
		.undo = undo_claim,
		.min_allocations = 1,
	};

	fail_each(&self->c, &sc);
}

static void prepare_private(struct ctx *c)
{
	prepare_claim(c);
	gmem_set_private(c->gmem[0], 0, unit_size);
}

static int call_to_shared(struct ctx *c)
{
	return __gmem_set_shared(c->gmem[0], unit_size - dax.align, dax.align,
				 &error_offset) ? -errno : 0;
}

static void failed_to_shared(struct ctx *c)
{
	TEST_ASSERT_EQ(error_offset, unit_size - dax.align);
	TEST_ASSERT_EQ(fdinfo_number(c->gmem[0], "private"), unit_size);
}

static void works_to_shared(struct ctx *c)
{
	TEST_ASSERT_EQ(fdinfo_number(c->gmem[0], "private"),
		       unit_size - dax.align);
}

TEST_F_TIMEOUT(fail_convert, to_shared, TIMEOUT)
{
	const struct scenario sc = {
		.prepare = prepare_private,
		.call = call_to_shared,
		.failed = failed_to_shared,
		.works = works_to_shared,
		.undo = undo_claim,
		.min_allocations = 1,
	};

	fail_each(&self->c, &sc);
}
#endif

/*
 * The guest's first fault, in a VM that has nothing yet: KVM_RUN says ENOMEM,
 * and goes on when it is called again.
 */
static struct ctx fresh;

static void prepare_vm(struct ctx *c)
{
	ctx_clone(&fresh, c);
	mem_add(&fresh, 0);
	guest_prepare(fresh.vcpu, GUEST_READ, MEM_GPA(0), 0, 1);
	populate();
}

/* Nothing else: _vcpu_run() looks at the registers as well. */
static int call_guest(struct ctx *c)
{
	return __vcpu_run(fresh.vcpu) ? -errno : 0;
}

static void works_guest(struct ctx *c)
{
	TEST_ASSERT_EQ(guest_read(fresh.vcpu, MEM_GPA(0)),
		       guest_cmd(fresh.vcpu)->val);
	guest_write(fresh.vcpu, MEM_GPA(0), GUEST_DATA);
	TEST_ASSERT_EQ(guest_read(fresh.vcpu, MEM_GPA(0)), GUEST_DATA);
}

static void undo_vm(struct ctx *c)
{
	ctx_free(&fresh);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
}

DAXFD_FIXTURE(fail_guest)
FIXTURE_VARIANT_ADD(fail_guest, create) { .path = PATH_create };

TEST_F_TIMEOUT(fail_guest, guest_fault, TIMEOUT)
{
	const struct scenario sc = {
		.prepare = prepare_vm,
		.call = call_guest,
		.works = works_guest,
		.undo = undo_vm,
		.min_allocations = 3,
	};

	fail_each(&self->c, &sc);
}

static int call_pre_fault(struct ctx *c)
{
	u64 left;

	return pre_fault(fresh.vcpu, MEM_GPA(0), SLOT_SIZE, &left);
}

TEST_F_TIMEOUT(fail_guest, pre_fault, TIMEOUT)
{
	const struct scenario sc = {
		.prepare = prepare_vm,
		.call = call_pre_fault,
		.works = works_guest,
		.undo = undo_vm,
		.min_allocations = 3,
	};

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "KVM has no KVM_PRE_FAULT_MEMORY here (no two-dimensional paging)");

	fail_each(&self->c, &sc);
}

int main(int argc, char *argv[])
{
	const char *path = device_from_args(&argc, argv);
	int r;

	require_device(path);
	require(!access(FAIL_NTH, W_OK), "Needs CONFIG_FAULT_INJECTION");

	use_device(path);
	require(knobs_set(),
		"Needs debugfs, CONFIG_FAULT_INJECTION_DEBUG_FS, FAILSLAB and FAIL_PAGE_ALLOC");
	r = test_harness_run(argc, argv);
	knobs_restore();
	return r;
}
