// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit test of which VMs may have memory from a backend, included by x86.c.
 *
 * The hosts that can create VMs of the other types are few.
 */
#include <kunit/test.h>

static void gmem_backing_test_vm_types(struct kunit *test)
{
	const unsigned long refused[] = {
		KVM_X86_SEV_VM, KVM_X86_SEV_ES_VM, KVM_X86_SNP_VM,
		KVM_X86_TDX_VM, KVM_X86_TDX_VM + 1,
	};

	KUNIT_EXPECT_TRUE(test, kvm_vm_type_supports_gmem_backing(KVM_X86_DEFAULT_VM));
	KUNIT_EXPECT_TRUE(test, kvm_vm_type_supports_gmem_backing(KVM_X86_SW_PROTECTED_VM));
	for (int i = 0; i < ARRAY_SIZE(refused); i++)
		KUNIT_EXPECT_FALSE(test, kvm_vm_type_supports_gmem_backing(refused[i]));
}

static struct kunit_case gmem_backing_test_cases[] = {
	KUNIT_CASE(gmem_backing_test_vm_types),
	{}
};

static struct kunit_suite gmem_backing_test_suite = {
	.name = "kvm_gmem_backing",
	.test_cases = gmem_backing_test_cases,
};

kunit_test_suite(gmem_backing_test_suite);
