// SPDX-License-Identifier: GPL-2.0
/*
 * A memslot that is backed by guest_memfd alone: the guest must never see what
 * is mapped at userspace_addr, also not by way of the shadow MMU's prefetching
 * of the SPTEs that are next to the one that faulted.
 *
 * KVM uses the shadow MMU for L1 if TDP is disabled (npt=0, ept=0), and for L2
 * to shadow the TDP tables of L1 if it is enabled.
 */
#include <stdlib.h>
#include <linux/sizes.h>

#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"
#include "vmx.h"

#define TEST_SLOT		10
#define TEST_GPA		SZ_4G
/* What KVM prefetches around a fault: PTE_PREFETCH_NUM */
#define TEST_PAGES		8
#define TEST_FIRST_PAGE		3

#define GMEM_PATTERN(i)		(0x6d656d6600000000ull + (i))
#define DECOY_PATTERN		0xdec0dec0dec0dec0ull

static void read_memory(void)
{
	u64 *mem = (u64 *)TEST_GPA;
	int i, page;

	for (i = 0; i < TEST_PAGES; i++) {
		page = (TEST_FIRST_PAGE + i) % TEST_PAGES;
		GUEST_ASSERT_EQ(READ_ONCE(mem[page * (PAGE_SIZE / sizeof(*mem))]),
				GMEM_PATTERN(page));
	}
}

static void l1_guest_code(void)
{
	read_memory();
	GUEST_DONE();
}

static void l2_guest_code(void)
{
	read_memory();
	vmcall();
}

static void l1_vmx_code(struct vmx_pages *vmx)
{
	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, l2_guest_code);
	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
}

static void l1_svm_code(struct svm_test_data *svm)
{
	generic_svm_setup(svm, l2_guest_code);
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, SVM_EXIT_VMMCALL);
}

static void l1_nested_code(void *data)
{
	if (this_cpu_has(X86_FEATURE_VMX))
		l1_vmx_code(data);
	else
		l1_svm_code(data);
	GUEST_DONE();
}

/* The file must stay open: a memslot holds no reference to it. */
static int add_memory(struct kvm_vm *vm)
{
	const size_t size = TEST_PAGES * PAGE_SIZE;
	u64 *gmem, *decoy;
	int fd, i;

	fd = vm_create_guest_memfd(vm, size, GUEST_MEMFD_FLAG_MMAP |
					     GUEST_MEMFD_FLAG_INIT_SHARED);
	gmem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	/* Present and writable, or there is nothing that can be prefetched. */
	decoy = kvm_mmap(size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (i = 0; i < TEST_PAGES; i++) {
		gmem[i * (PAGE_SIZE / sizeof(*gmem))] = GMEM_PATTERN(i);
		decoy[i * (PAGE_SIZE / sizeof(*decoy))] = DECOY_PATTERN;
	}
	kvm_munmap(gmem, size);

	vm_set_user_memory_region2(vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   TEST_GPA, size, decoy, fd, 0);
	return fd;
}

/* KVM prefetches only through PTEs that have the Accessed bit. */
static void map_memory(struct kvm_vm *vm, bool nested)
{
	gpa_t gpa;
	int i;

	virt_map(vm, TEST_GPA, TEST_GPA, TEST_PAGES);
	if (nested) {
		tdp_identity_map_default_memslots(vm);
		tdp_map(vm, TEST_GPA, TEST_GPA, TEST_PAGES * PAGE_SIZE);
	}
	for (i = 0; i < TEST_PAGES; i++) {
		gpa = TEST_GPA + i * PAGE_SIZE;
		*vm_get_pte(vm, gpa) |= PTE_ACCESSED_MASK(&vm->mmu) |
					PTE_DIRTY_MASK(&vm->mmu);
		if (nested)
			*tdp_get_pte(vm, gpa) |= PTE_ACCESSED_MASK(&vm->stage2_mmu) |
						 PTE_DIRTY_MASK(&vm->stage2_mmu);
	}
}

int main(int argc, char *argv[])
{
	const int flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
	bool nested = kvm_is_tdp_enabled();
	struct kvm_vcpu *vcpu;
	gva_t nested_gva = 0;
	struct kvm_vm *vm;
	struct ucall uc;
	int fd;

	TEST_REQUIRE((kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & flags) == flags);
	__TEST_REQUIRE(!nested || kvm_cpu_has_tdp(),
		       "Needs the shadow MMU: kvm_{amd,intel}.nested=1, kvm_amd.npt=0 or kvm_intel.ept=0");

	vm = vm_create_with_one_vcpu(&vcpu, nested ? (void *)l1_nested_code :
						     l1_guest_code);
	if (nested) {
		vm_enable_tdp(vm);
		if (kvm_cpu_has(X86_FEATURE_VMX))
			vcpu_alloc_vmx(vm, &nested_gva);
		else
			vcpu_alloc_svm(vm, &nested_gva);
		vcpu_args_set(vcpu, 1, nested_gva);
	}
	fd = add_memory(vm);
	map_memory(vm, nested);

	vcpu_run(vcpu);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	case UCALL_DONE:
		break;
	default:
		TEST_FAIL("Unexpected exit %u (%s)", vcpu->run->exit_reason,
			  exit_reason_str(vcpu->run->exit_reason));
	}
	kvm_vm_free(vm);
	close(fd);

	return 0;
}
