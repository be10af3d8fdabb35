// SPDX-License-Identifier: GPL-2.0
/*
 * Memory errors in a guest_memfd while holes are punched: memory_failure() comes
 * with the folio locked, who punches with invalidate_lock held, and both want the
 * other.  A deadlock shows as hung tasks.
 *
 * Each error is simulated, and takes a page of RAM out of use until reboot.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include <linux/falloc.h>
#include <linux/sizes.h>

#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define TEST_GPA	SZ_4G
/* So many folios that an error can come while they are taken away. */
#define TEST_SIZE	SZ_64M
#define NR_ROUNDS	12

struct hole {
	int fd;
	bool started;
};

/* What memory_failure() tells the thread that it met an error. */
static void sigbus_handler(int sig)
{
}

static void guest_code(void)
{
	for (;;) {
		WRITE_ONCE(*(u64 *)TEST_GPA, 1);
		GUEST_SYNC(0);
	}
}

static void allocate(int fd)
{
	TEST_ASSERT(!fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, TEST_SIZE),
		    "fallocate() failed");
}

static void *punch(void *arg)
{
	struct hole *hole = arg;

	WRITE_ONCE(hole->started, true);
	TEST_ASSERT(!fallocate(hole->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       0, TEST_SIZE), "Punching a hole failed");
	return NULL;
}

static u64 now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000ULL + t.tv_nsec / 1000;
}

/* Errors in the page that goes last, at all times of the punching. */
static void test_punch_hole(int fd)
{
	const size_t page_size = getpagesize();
	struct hole hole = { .fd = fd };
	u64 start, us;
	int i;

	allocate(fd);
	start = now_us();
	punch(&hole);
	us = now_us() - start;

	for (i = 0; i < NR_ROUNDS; i++) {
		pthread_t thread;
		void *last;

		/* Without the page of the last round, which may be one with an error. */
		punch(&hole);
		allocate(fd);
		/* A page table keeps the entry of a page with an error. */
		last = __kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_SHARED,
				  fd, TEST_SIZE - page_size);
		/* Mapped already: a fault may have to wait for the hole. */
		READ_ONCE(*(char *)last);
		hole.started = false;
		kvm_pthread_create(&thread, NULL, punch, &hole);
		while (!READ_ONCE(hole.started))
			;
		usleep(us * i / NR_ROUNDS);
		/* It says EBUSY if the page is still referenced, by its file. */
		TEST_ASSERT(!madvise(last, page_size, MADV_HWPOISON) || errno == EBUSY,
			    "MADV_HWPOISON failed");
		kvm_pthread_join(thread, NULL);
		kvm_munmap(last, page_size);
	}
}

/* The guest must not go on with the page that it has mapped. */
static void test_guest(struct kvm_vcpu *vcpu, char *mem)
{
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, NULL), UCALL_SYNC);
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, NULL), UCALL_SYNC);

	TEST_ASSERT(!madvise(mem, getpagesize(), MADV_HWPOISON) || errno == EBUSY,
		    "MADV_HWPOISON failed");
	TEST_ASSERT(_vcpu_run(vcpu), "The guest writes to a page with an error");
	TEST_ASSERT_EQ(errno, EHWPOISON);
}

int main(int argc, char *argv[])
{
	const int flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	char *mem;
	int fd;

	TEST_REQUIRE((kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & flags) == flags);
	__TEST_REQUIRE(!geteuid(), "Needs root, to simulate memory errors");
	__TEST_REQUIRE(!madvise(NULL, 0, MADV_HWPOISON),
		       "Needs CONFIG_MEMORY_FAILURE");
	signal(SIGBUS, sigbus_handler);

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	fd = vm_create_guest_memfd(vm, TEST_SIZE, flags);
	mem = kvm_mmap(TEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	vm_set_user_memory_region2(vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   TEST_GPA, TEST_SIZE, mem, fd, 0);
	virt_map(vm, TEST_GPA, TEST_GPA, 1);

	test_guest(vcpu, mem);
	test_punch_hole(fd);

	kvm_munmap(mem, TEST_SIZE);
	close(fd);
	kvm_vm_free(vm);

	return 0;
}
