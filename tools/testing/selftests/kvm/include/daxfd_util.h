/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * VMs whose memory is a part of a device-DAX instance.  All work on the one
 * device that the user of the test named.  Where page cache is what they are
 * compared with, they can do without it.
 */
#ifndef SELFTEST_KVM_DAXFD_UTIL_H
#define SELFTEST_KVM_DAXFD_UTIL_H

#include <pthread.h>
#include <stdatomic.h>

#include <linux/falloc.h>
#include <linux/sizes.h>

#include "dax_util.h"
#include "kvm_util.h"

/*
 * A unit is what one exclusive claim takes: at least four blocks of 2M, which
 * is how the kernel tracks what it has zeroed.  The slot over a unit leaves
 * out the first block and the last one, so that its offset is never zero.
 */
#define ZERO_SIZE	SZ_2M
#define MIN_UNIT	SZ_8M
#define SLOT_OFFSET	ZERO_SIZE
#define SLOT_SIZE	(2 * ZERO_SIZE)

#define MEM_SLOT(n)	(1 + (n))
#define MEM_GPA(n)	(SZ_4G + (n) * 64ULL * SZ_1G)
#define MAX_CLAIMS	8
#define MAX_VCPUS	3

#define OLD_DATA	0x0ddba115deadc0deULL
#define HOST_DATA	0x1111222233334444ULL
#define GUEST_DATA	0x5555666677778888ULL

#define FALLOC_PUNCH	(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

#define CREATE_FLAGS	(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

extern struct dax_dev dax;
extern size_t page_size;
extern u64 unit_size;
extern u64 nr_units;

/* How a VM gets its memory. */
struct path {
	unsigned long vm_type;
	bool daxfd;	/* KVM_MEM_GUEST_DAXFD; else KVM_CREATE_GUEST_MEMFD */
	bool page_cache; /* no device */
	u64 flags;	/* of KVM_CREATE_GUEST_MEMFD, beside BACKING_FD */
};

#define PATH_create		{ .flags = CREATE_FLAGS }
#define PATH_create_keep	{ .flags = CREATE_FLAGS | GUEST_MEMFD_FLAG_KEEP_DATA }
#define PATH_create_private	{ .flags = GUEST_MEMFD_FLAG_MMAP }
#define PATH_short		{ .daxfd = true }
#define PATH_page_cache(f)	{ .page_cache = true, .flags = (f) }
#ifdef __x86_64__
#define PATH_sw_protected	{ .vm_type = KVM_X86_SW_PROTECTED_VM }
#define PATH_sw_protected_short	{ .vm_type = KVM_X86_SW_PROTECTED_VM,	\
				  .daxfd = true }
#define PATH_sw_protected_mmap	{ .vm_type = KVM_X86_SW_PROTECTED_VM,	\
				  .flags = GUEST_MEMFD_FLAG_MMAP }
#endif

/* One VM, and the claims that it holds. */
struct ctx {
	const struct path *path;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	struct kvm_vcpu *vcpu;	/* the first one */
	struct kvm_vm *vm;
	int dax_fd;
	int gmem[MAX_CLAIMS];
};

#define TEST_ASSERT_ERR(expr, err)						\
do {										\
	int __expected = -(err), __r = (expr);					\
										\
	/* A failed assertion with EACCES in errno would count as a skip. */	\
	errno = 0;								\
	TEST_ASSERT(__r == __expected, "%s: expected %d, got %d", #expr,	\
		    __expected, __r);						\
} while (0)

#define TEST_ASSERT_OK(expr) TEST_ASSERT_ERR(expr, 0)

u64 unit_offset(int n);
u64 slot_offset(int n);

int __gmem_create(int vm_fd, struct kvm_create_guest_memfd *args);
int gmem_create(int vm_fd, u64 flags, int fd, u64 offset, u64 size);
int slot_set(int vm_fd, u32 slot, u32 flags, gpa_t gpa, u64 size,
	     void *hva, int fd, u64 offset);
int slot_delete(int vm_fd, u32 slot);
int do_fallocate(int fd, int mode, u64 offset, u64 len);

bool host_access(u64 *mem, u64 *val, bool write);
bool host_can_read(void *mem);
bool host_can_write(void *mem);
void inject_error(void *page);
int try_pin(void *mem);
int pin(void *mem);
bool thp_is_on(void);

enum guest_op {
	GUEST_READ,
	GUEST_WRITE,
	GUEST_FILL,
	GUEST_CHECK,
	GUEST_SPIN,
	GUEST_OUTS,
	GUEST_CALL,
};

/* What the host asks a vCPU to do; stands in ordinary guest memory. */
struct guest_cmd {
	u64 op;
	gpa_t gpa;
	u64 val;
	u64 nr_pages;
	u64 page_size;
	u64 rounds;
	u64 stop;
	void (*fn)(struct guest_cmd *cmd);
};

#define OUTS_PORT	0x2000

struct guest_cmd *guest_cmd(struct kvm_vcpu *vcpu);
void guest_prepare(struct kvm_vcpu *vcpu, enum guest_op op, gpa_t gpa,
		   u64 val, u64 nr_pages);
int guest_run(struct kvm_vcpu *vcpu);
int guest_do(struct kvm_vcpu *vcpu, enum guest_op op, gpa_t gpa, u64 val,
	     u64 nr_pages);
u64 guest_read(struct kvm_vcpu *vcpu, gpa_t gpa);
void guest_write(struct kvm_vcpu *vcpu, gpa_t gpa, u64 val);
void assert_memory_fault(struct kvm_vcpu *vcpu, gpa_t gpa, u64 size);
void guest_must_fault(struct kvm_vcpu *vcpu, gpa_t gpa);

/* A vCPU that writes to all pages of its slot, round after round. */
struct runner {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	int r;
};

void runner_start(struct runner *runner, struct kvm_vcpu *vcpu, gpa_t gpa,
		  u64 nr_pages);
int runner_join(struct runner *runner);
void runner_stop(struct runner *runner);

struct kvm_vm *vm_create_for(const struct path *path, u32 nr_vcpus,
			     struct kvm_vcpu **vcpus);
void ctx_setup(struct ctx *c, const struct path *path, u32 nr_vcpus);
void ctx_clone(struct ctx *c, struct ctx *other);
void ctx_free(struct ctx *c);
int claim(struct ctx *c, int n, int fd, u64 offset, u64 size);
void unclaim(struct ctx *c, int n);
int claim_unit(struct ctx *c, int n);
int __mem_slot(struct ctx *c, int n, void *hva);
int __mem_add(struct ctx *c, int n, void *hva);
void mem_map(struct ctx *c, int n);
void mem_add(struct ctx *c, int n);
void mem_del(struct ctx *c, int n);
void *host_map(struct ctx *c, int n);
void host_unmap(struct ctx *c, int n, void *mem);
int punch(struct ctx *c, u64 offset, u64 len);
int pre_fault(struct kvm_vcpu *vcpu, gpa_t gpa, u64 size, u64 *left);
void unbind(void);
void rebind(void);
void reopen(struct ctx *c);
void assert_device_is_free(void);
bool claims_list_has(const char *kind);
void check_after_test(void);
void check_after_errors(void);

pid_t __vmm_start(struct ctx *c, void (*fn)(struct ctx *c, int ready_fd));
pid_t vmm_start(struct ctx *c);
void vmm_kill(pid_t pid);

/*
 * A thread that does something again and again; a step says whether it got to
 * it, and rounds are the steps that did.
 */
struct loop {
	struct ctx *c;
	bool (*step)(struct loop *loop);
	pthread_t thread;
	/* for steps that need them */
	atomic_int *holders;
	u64 *mem;
	bool stop;
	u64 rounds;
};

u64 now_ms(void);
void __loop_start(struct loop *loop, struct ctx *c, void *(*fn)(void *));
void loop_start(struct loop *loop, struct ctx *c,
		bool (*step)(struct loop *loop));
void loop_stop(struct loop *loop);
void loop_wait(struct loop *loop);

bool delay_set(const char *window, unsigned int ms);
const char *device_from_args(int *argc, char **argv);
void require(bool cond, const char *reason);
void require_device(const char *path);
bool have_device(void);
void use_device(const char *path);

/* For programs that include kvm_test_harness.h. */
#define DAXFD_FIXTURE(name)		__DAXFD_FIXTURE(name, 1)
#define __DAXFD_FIXTURE(name, nr_vcpus)						\
	DAXFD_FIXTURE_WITH(name, nr_vcpus, (void)0, check_after_test())

/* With what is to be done after the common setup, and at the end. */
#define DAXFD_FIXTURE_WITH(name, nr_vcpus, setup, check)			\
	FIXTURE(name) {								\
		struct ctx c;							\
	};									\
										\
	FIXTURE_VARIANT(name) {							\
		struct path path;						\
	};									\
										\
	FIXTURE_SETUP(name) {							\
		const struct path *path = &variant->path;			\
										\
		if (path->vm_type &&						\
		    !(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(path->vm_type)))	\
			SKIP(return, "KVM lacks CONFIG_KVM_SW_PROTECTED_VM");	\
		ctx_setup(&self->c, path, nr_vcpus);				\
		setup;								\
	}									\
										\
	FIXTURE_TEARDOWN_PARENT(name) {						\
		check;								\
	}

/*
 * For programs that test a guest_memfd by itself.  Their struct target has what
 * a case needs; their target_setup() returns why the case does not apply, or NULL.
 */
#define TARGET_FIXTURE(name)	TARGET_FIXTURE_WITH(name, check_after_test())

/* With what is to be done at the end. */
#define TARGET_FIXTURE_WITH(name, check)					\
	FIXTURE(name) {								\
		struct target t;						\
	};									\
										\
	FIXTURE_VARIANT(name) {							\
		struct path path;						\
	};									\
										\
	FIXTURE_SETUP(name) {							\
		const char *unfit = target_setup(&self->t, &variant->path);	\
										\
		if (unfit)							\
			SKIP(return, "%s", unfit);				\
	}									\
										\
	FIXTURE_TEARDOWN_PARENT(name) {						\
		check;								\
	}

/* On page cache and on device-DAX, by the flags beside KEEP_DATA. */
#define TARGET_VARIANTS(name, f)						\
	FIXTURE_VARIANT_ADD(name, page_cache) { .path = PATH_page_cache(f) };	\
	TARGET_VARIANTS_DAX(name, f)

#define TARGET_VARIANTS_DAX(name, f)						\
	FIXTURE_VARIANT_ADD(name, create) { .path = { .flags = (f) } };		\
	FIXTURE_VARIANT_ADD(name, create_keep) {				\
		.path = { .flags = (f) | GUEST_MEMFD_FLAG_KEEP_DATA }		\
	}

#endif /* SELFTEST_KVM_DAXFD_UTIL_H */
