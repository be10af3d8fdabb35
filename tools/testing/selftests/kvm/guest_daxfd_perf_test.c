// SPDX-License-Identifier: GPL-2.0-only
/*
 * What guest memory costs, by what provides it: a guest_memfd on a device-DAX
 * instance, one in the page cache, or a host mapping of /dev/dax, of a memfd
 * or of hugetlb pages.  A measurement a call; each sample is a line of
 * key=value pairs.  Nothing is judged here, but what the guest wrote is read
 * back by the host, so that no sample is of a guest that did nothing.
 *
 * DESTROYS THE CONTENTS of the device that -d or GUEST_DAXFD_DEV names.
 */
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/align.h>
#include <linux/sizes.h>
#include <linux/userfaultfd.h>

#include "daxfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#define PERF_SLOT	MEM_SLOT(0)
#define PERF_GPA	MEM_GPA(0)

#define MAX_THREADS	MAX_VCPUS
#define READ_BACK	61

/*
 * What a copy reads is as far off what it writes, lest they share entries of a
 * TLB whose size is a power of two.
 */
#define COPY_SKEW	(37 * SZ_4K)

enum backing {
	GMEM_DAX,
	GMEM,
	DAX,
	MEMFD,
	HUGETLB,
};

static const char * const backing_names[] = {
	[GMEM_DAX]	= "gmem-dax",
	[GMEM]		= "gmem",
	[DAX]		= "dax",
	[MEMFD]		= "memfd",
	[HUGETLB]	= "hugetlb",
};

static struct {
	enum backing backing;
	const char *variant;
	u64 size;
	u64 shift;
	u32 nr_threads;
	bool keep;
	bool allocate;
	bool prefault;
	bool punch;
} opt = {
	.size = SZ_1G,
	.nr_threads = 1,
	.variant = "-",
};

/* Of a guest_memfd. */
static u64 create_flags = CREATE_FLAGS;

/* Where on the device the guest's memory starts. */
static u64 dev_offset;

/* What the guest writes; never the same again, for there is memory that is kept. */
static u64 pattern;

/* What the guest's memory is made of. */
struct mem {
	int fd;
	void *hva;
	gpa_t gpa;
};

static u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return timespec_to_ns(ts);
}

static bool is_gmem(void)
{
	return opt.backing == GMEM_DAX || opt.backing == GMEM;
}

static bool needs_device(void)
{
	return opt.backing == GMEM_DAX || opt.backing == DAX;
}

static void print_sample(const char *row, const char *metric, s64 value)
{
	printf("bench: row=%s backing=%s", row, backing_names[opt.backing]);
	if (needs_device())
		printf("-%s", dax.align == SZ_4K ? "4K" :
			      dax.align == SZ_2M ? "2M" :
			      dax.align == SZ_1G ? "1G" : "other");
	printf(" variant=%s threads=%u size=%lu metric=%s value=%ld\n",
	       opt.variant, opt.nr_threads, opt.size, metric, value);
	fflush(stdout);
}

/*
 * Threads that each do their share, timed from when all are there
 */

struct share {
	void (*fn)(struct share *share);
	pthread_barrier_t *barrier;
	pthread_t thread;
	u64 start;
	u64 len;
	void *arg;
};

static void *share_thread(void *arg)
{
	struct share *share = arg;

	pthread_barrier_wait(share->barrier);
	share->fn(share);
	return NULL;
}

/* How long all of them take.  Each has its own of @args, or they share @arg. */
static u64 time_shared(void (*fn)(struct share *share), void *arg, void **args)
{
	u64 len = opt.size / opt.nr_threads, start;
	struct share shares[MAX_THREADS];
	pthread_barrier_t barrier;
	u32 i;

	pthread_barrier_init(&barrier, NULL, opt.nr_threads + 1);
	for (i = 0; i < opt.nr_threads; i++) {
		shares[i] = (struct share) {
			.fn = fn,
			.barrier = &barrier,
			.start = i * len,
			.len = len,
			.arg = args ? args[i] : arg,
		};
		kvm_pthread_create(&shares[i].thread, NULL, share_thread, &shares[i]);
	}

	start = now_ns();
	pthread_barrier_wait(&barrier);
	for (i = 0; i < opt.nr_threads; i++)
		kvm_pthread_join(shares[i].thread, NULL);
	start = now_ns() - start;

	pthread_barrier_destroy(&barrier);
	return start;
}

/*
 * The memory
 */

/* Where in a guest_memfd the physical address is a multiple of @align. */
static bool find_extent(int fd, u64 align, u64 *offset)
{
	struct dax_extent extents[MAX_EXTENTS];
	int i, nr = fdinfo_extents(fd, extents, MAX_EXTENTS);

	for (i = 0; i < nr; i++) {
		u64 skip = -extents[i].phys & (align - 1);

		if (extents[i].size >= skip &&
		    extents[i].size - skip >= opt.size) {
			*offset = extents[i].offset + skip;
			return true;
		}
	}
	return false;
}

/*
 * The memory starts at a physical address that is a multiple of 1 GiB if the
 * device has such a place: the alignment of the guest's memory decides then
 * which mappings are possible.
 */
static void find_memory(void)
{
	u64 align = SZ_1G;
	int vm_fd, dax_fd, fd;

	dax_fd = dax_dev_open(&dax);
	vm_fd = ioctl(open_kvm_dev_path_or_exit(), KVM_CREATE_VM, VM_TYPE_DEFAULT);
	TEST_ASSERT(vm_fd >= 0, "KVM_CREATE_VM failed");
	fd = gmem_create(vm_fd, CREATE_FLAGS | GUEST_MEMFD_FLAG_KEEP_DATA, dax_fd,
			 0, ALIGN_DOWN(dax.size, dax.align));
	TEST_ASSERT(fd >= 0, "Claiming all of %s failed: %d", dax.name, fd);
	while (!find_extent(fd, align, &dev_offset)) {
		TEST_ASSERT(align > dax.align, "No part of %s has %lu bytes",
			    dax.name, opt.size);
		align = align > SZ_2M ? SZ_2M : dax.align;
	}
	kvm_close(fd);
	kvm_close(vm_fd);
	kvm_close(dax_fd);

	print_sample("device", "offset", dev_offset);
	print_sample("device", "extent_align", align);
}

static int memory_fd(int vm_fd)
{
	struct kvm_create_guest_memfd args = {
		.size = opt.size,
		.flags = create_flags,
	};
	u64 flags = create_flags;
	int fd, dax_fd;

	switch (opt.backing) {
	case GMEM_DAX:
		if (opt.keep)
			flags |= GUEST_MEMFD_FLAG_KEEP_DATA;
		dax_fd = dax_dev_open(&dax);
		fd = gmem_create(vm_fd, flags, dax_fd, dev_offset,
				 ALIGN(opt.size, dax.align));
		kvm_close(dax_fd);
		break;
	case GMEM:
		fd = __gmem_create(vm_fd, &args);
		break;
	case DAX:
		return -1;
	default:
		fd = kvm_memfd_alloc(opt.size, opt.backing == HUGETLB);
	}

	TEST_ASSERT(fd >= 0, "No file with the memory: %d", fd);
	return fd;
}

/* By the host.  Of a guest_memfd only after the guest was measured. */
static void *memory_map(int fd)
{
	if (opt.backing == DAX)
		return dax_dev_mmap(&dax, dev_offset, opt.size);

	return __kvm_mmap(opt.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

static void memory_unmap(void *hva)
{
	if (opt.backing == DAX)
		dax_dev_munmap(&dax, hva, dev_offset, opt.size);
	else
		kvm_munmap(hva, opt.size);
}

static int memory_slot(int vm_fd, struct mem *mem)
{
	return slot_set(vm_fd, PERF_SLOT, is_gmem() ? KVM_MEM_GUEST_MEMFD : 0,
			mem->gpa, opt.size, mem->hva, is_gmem() ? mem->fd : -1, 0);
}

static void memory_create(int vm_fd, struct mem *mem)
{
	mem->fd = memory_fd(vm_fd);
	mem->hva = is_gmem() ? NULL : memory_map(mem->fd);
	/* Another distance from the extent takes away the larger pages. */
	mem->gpa = PERF_GPA + opt.shift;
}

static void memory_free(struct mem *mem)
{
	if (mem->hva)
		memory_unmap(mem->hva);
	if (mem->fd >= 0)
		kvm_close(mem->fd);
}

static void allocate_share(struct share *share)
{
	int fd = *(int *)share->arg;

	TEST_ASSERT_OK(do_fallocate(fd, FALLOC_FL_KEEP_SIZE, share->start,
				    share->len));
}

/*
 * A guest that touches its memory
 */

struct counters {
	u64 faults, pages_4k, pages_2m, pages_1g;
};

static struct counters read_counters(struct kvm_vm *vm, struct kvm_vcpu **vcpus)
{
	struct counters c = {
		.pages_4k = vm_get_stat(vm, pages_4k),
		.pages_2m = vm_get_stat(vm, pages_2m),
		.pages_1g = vm_get_stat(vm, pages_1g),
	};
	u32 i;

	for (i = 0; i < opt.nr_threads; i++)
		c.faults += vcpu_get_stat(vcpus[i], pf_taken);
	return c;
}

static void print_counters(const char *row, const struct counters *before,
			   const struct counters *after)
{
	print_sample(row, "faults", after->faults - before->faults);
	print_sample(row, "pages_4k", after->pages_4k - before->pages_4k);
	print_sample(row, "pages_2m", after->pages_2m - before->pages_2m);
	print_sample(row, "pages_1g", after->pages_1g - before->pages_1g);
}

static void touch_share(struct share *share)
{
	TEST_ASSERT_OK(guest_run(share->arg));
}

static u64 touch(struct kvm_vcpu **vcpus, gpa_t gpa, u64 size)
{
	u64 len = size / opt.nr_threads;
	u32 i;

	pattern = GUEST_DATA ^ now_ns();
	for (i = 0; i < opt.nr_threads; i++)
		guest_prepare(vcpus[i], GUEST_FILL, gpa + i * len, pattern,
			      len / vcpus[i]->vm->page_size);

	return time_shared(touch_share, NULL, (void **)vcpus);
}

/*
 * All that faults beside the memory itself: page tables, code, stacks.  The
 * guest's page tables are large pages, so that they are few.
 */
static void warm_up(struct kvm_vm *vm, struct kvm_vcpu **vcpus, gpa_t gpa)
{
	const u64 slot0 = memslot2region(vm, 0)->region.memory_size;
	u64 left;

	virt_map_level(vm, gpa, gpa, opt.size,
		       (gpa | opt.size) % SZ_1G ? PG_LEVEL_2M : PG_LEVEL_1G);
	TEST_ASSERT_OK(pre_fault(vcpus[0], 0, slot0, &left));
	touch(vcpus, gpa, 0);
	touch(vcpus, gpa, 0);
}

static void read_back(struct mem *mem)
{
	u64 *hva = mem->hva ?: memory_map(mem->fd), nr = opt.size / SZ_4K, i, pos;

	for (i = 0; i < READ_BACK; i++) {
		pos = i * (nr - 1) / (READ_BACK - 1) * SZ_4K;
		TEST_ASSERT_EQ(READ_ONCE(hva[pos / sizeof(*hva)]),
			       pattern ^ (mem->gpa + pos));
	}
	if (!mem->hva)
		memory_unmap(hva);
}

static void touch_counted(const char *row, struct kvm_vm *vm,
			  struct kvm_vcpu **vcpus, struct mem *mem)
{
	struct counters before = read_counters(vm, vcpus), after;

	print_sample(row, "ns", touch(vcpus, mem->gpa, opt.size));
	after = read_counters(vm, vcpus);
	print_counters(row, &before, &after);
	read_back(mem);
}

static void punch_timed(const char *row, int fd, u64 offset, u64 len)
{
	u64 start = now_ns();

	TEST_ASSERT_OK(do_fallocate(fd, FALLOC_PUNCH, offset, len));
	print_sample(row, "ns", now_ns() - start);
}

static void measure_touch(void)
{
	const struct path path = {};
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	struct counters before, after;
	struct kvm_vm *vm;
	struct mem mem;
	u64 left, start;

	vm = vm_create_for(&path, opt.nr_threads, vcpus);
	memory_create(vm->fd, &mem);
	TEST_ASSERT_OK(memory_slot(vm->fd, &mem));
	warm_up(vm, vcpus, mem.gpa);

	if (opt.allocate)
		print_sample("fallocate", "ns",
			     time_shared(allocate_share, &mem.fd, NULL));
	if (opt.prefault) {
		before = read_counters(vm, vcpus);
		start = now_ns();
		TEST_ASSERT_OK(pre_fault(vcpus[0], mem.gpa, opt.size, &left));
		print_sample("prefault", "ns", now_ns() - start);
		after = read_counters(vm, vcpus);
		print_counters("prefault", &before, &after);
	}

	touch_counted(opt.prefault ? "touch-prefaulted" : "touch", vm, vcpus, &mem);

	if (opt.punch) {
		punch_timed("punch-4K", mem.fd, opt.size / 2, SZ_4K);
		touch_counted("touch-punched", vm, vcpus, &mem);
		punch_timed("punch", mem.fd, 0, opt.size);
	}

	kvm_vm_free(vm);
	start = now_ns();
	memory_free(&mem);
	print_sample("close-used", "ns", now_ns() - start);
}

/*
 * Memory that nobody uses
 */

/* What the kernel has allocated for itself. */
static u64 kernel_bytes(void)
{
	u64 kb, sum = 0;
	char line[128];
	FILE *f;

	/* Counters of CPUs are added up now and then only. */
	f = fopen("/proc/sys/vm/stat_refresh", "w");
	TEST_ASSERT(f && fputs("1", f) >= 0 && !fclose(f),
		    "Writing stat_refresh failed");

	f = fopen("/proc/meminfo", "r");
	TEST_ASSERT(f, "There is no /proc/meminfo");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Slab: %lu", &kb) == 1 ||
		    sscanf(line, "VmallocUsed: %lu", &kb) == 1)
			sum += kb * SZ_1K;
	}
	fclose(f);
	return sum;
}

static void measure_unused(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	u64 create, bind, unbind, close, before;
	struct mem mem;

	before = kernel_bytes();
	create = now_ns();
	memory_create(vm->fd, &mem);
	print_sample("create", "ns", now_ns() - create);
	print_sample("create", "kernel_bytes", kernel_bytes() - before);

	bind = now_ns();
	TEST_ASSERT_OK(memory_slot(vm->fd, &mem));
	unbind = now_ns();
	TEST_ASSERT_OK(slot_delete(vm->fd, PERF_SLOT));
	close = now_ns();
	memory_free(&mem);

	print_sample("close", "ns", now_ns() - close);
	print_sample("unbind", "ns", close - unbind);
	print_sample("bind", "ns", unbind - bind);
	kvm_vm_free(vm);
}

/*
 * Zeroing, and a bare memset: the two ways to do it, because it depends on the
 * CPU which one is as fast as memory is
 */

static void memset_stores(struct share *share)
{
	u64 *mem = share->arg + share->start, *end = (void *)mem + share->len;

	for (; mem < end; mem += 8) {
		WRITE_ONCE(mem[0], 0);
		WRITE_ONCE(mem[1], 0);
		WRITE_ONCE(mem[2], 0);
		WRITE_ONCE(mem[3], 0);
		WRITE_ONCE(mem[4], 0);
		WRITE_ONCE(mem[5], 0);
		WRITE_ONCE(mem[6], 0);
		WRITE_ONCE(mem[7], 0);
	}
}

static void memset_string(struct share *share)
{
	void *mem = share->arg + share->start;
	u64 nr = share->len / sizeof(u64);

	asm volatile("rep stosq" : "+D"(mem), "+c"(nr) : "a"(0) : "memory");
}

static void print_memset(const char *row, void *mem)
{
	/* Whatever faults, faults now. */
	time_shared(memset_stores, mem, NULL);
	print_sample(row, "ns_stores", time_shared(memset_stores, mem, NULL));
	print_sample(row, "ns_string", time_shared(memset_string, mem, NULL));
}

static void measure_zero(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	struct mem mem;
	void *hva;

	TEST_ASSERT(is_gmem(), "The host's kernel zeroes guest_memfds only");
	memory_create(vm->fd, &mem);
	print_sample("zero", "ns", time_shared(allocate_share, &mem.fd, NULL));
	hva = mem.hva ?: memory_map(mem.fd);
	print_memset("memset", hva);
	if (!mem.hva)
		memory_unmap(hva);
	memory_free(&mem);
	kvm_vm_free(vm);

	hva = kvm_mmap(opt.size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	madvise(hva, opt.size, MADV_HUGEPAGE);
	print_memset("memset-anon", hva);
	kvm_munmap(hva, opt.size);
}

/*
 * Filling a guest_memfd by write(), by a mapping that is made for it, by
 * UFFDIO_COPY, and a bare copy of the same bytes into memory that is there and
 * mapped: all with a string instruction, as the kernel does it.  memcpy() is
 * faster than that on one CPU and slower on another one.
 */

struct copy {
	int fd;		/* what is written to, or a userfaultfd */
	void *dst;
	void *src;
};

static void copy_write(struct share *share)
{
	const struct copy *copy = share->arg;

	TEST_ASSERT_EQ(pwrite(copy->fd, copy->src + share->start, share->len,
			      share->start), share->len);
}

static void copy_mapped(struct share *share)
{
	const struct copy *copy = share->arg;
	void *dst = copy->dst + share->start, *src = copy->src + share->start;
	u64 nr = share->len / sizeof(u64);

	asm volatile("rep movsq" : "+D"(dst), "+S"(src), "+c"(nr) : : "memory");
}

static void copy_uffd(struct share *share)
{
	const struct copy *copy = share->arg;
	struct uffdio_copy arg = {
		.dst = (u64)copy->dst + share->start,
		.src = (u64)copy->src + share->start,
		.len = share->len,
	};

	TEST_ASSERT(!ioctl(copy->fd, UFFDIO_COPY, &arg), "UFFDIO_COPY failed");
}

static void check_copy(struct copy *copy)
{
	TEST_ASSERT(!memcmp(copy->dst, copy->src, opt.size),
		    "Not what was copied");
}

static void populate_by_uffd(struct kvm_vm *vm, struct copy *copy)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range.len = opt.size,
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct mem mem;

	memory_create(vm->fd, &mem);
	copy->dst = memory_map(mem.fd);
	copy->fd = syscall(__NR_userfaultfd, O_CLOEXEC);
	TEST_ASSERT(copy->fd >= 0, "userfaultfd() failed");
	reg.range.start = (u64)copy->dst;
	TEST_ASSERT(!ioctl(copy->fd, UFFDIO_API, &api) &&
		    !ioctl(copy->fd, UFFDIO_REGISTER, &reg),
		    "Registering for missing pages failed");

	print_sample("populate-uffd", "ns", time_shared(copy_uffd, copy, NULL));
	check_copy(copy);
	kvm_close(copy->fd);
	memory_unmap(copy->dst);
	memory_free(&mem);
}

static void measure_populate(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	struct copy copy;
	struct mem mem;
	u64 start, i;
	void *src;

	TEST_ASSERT(is_gmem(), "Only a guest_memfd is written to");
	src = kvm_mmap(opt.size + SZ_2M, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	madvise(src, opt.size + SZ_2M, MADV_HUGEPAGE);
	copy.src = src + COPY_SKEW;
	pattern = GUEST_DATA ^ now_ns();
	for (i = 0; i < opt.size / sizeof(u64); i++)
		((u64 *)copy.src)[i] = pattern ^ i;

	create_flags |= GUEST_MEMFD_FLAG_WRITE;
	memory_create(vm->fd, &mem);
	copy.fd = mem.fd;
	print_sample("populate-write", "ns", time_shared(copy_write, &copy, NULL));
	copy.dst = memory_map(mem.fd);
	check_copy(&copy);
	memory_unmap(copy.dst);
	memory_free(&mem);

	memory_create(vm->fd, &mem);
	start = now_ns();
	copy.dst = memory_map(mem.fd);
	time_shared(copy_mapped, &copy, NULL);
	print_sample("populate-mmap", "ns", now_ns() - start);
	check_copy(&copy);
	print_sample("populate-copy", "ns", time_shared(copy_mapped, &copy, NULL));
	memory_unmap(copy.dst);
	memory_free(&mem);

	/* Nothing is missing on a device. */
	if (opt.backing == GMEM)
		populate_by_uffd(vm, &copy);

	kvm_munmap(src, opt.size + SZ_2M);
	kvm_vm_free(vm);
}

/*
 * Conversion to private and back of a page, of 512, and of all.  What is asked
 * of each range is done more often if it is small.
 */

#define CONVERTED_BYTES	SZ_16M

static void convert_touch(u64 *hva, u64 size)
{
	u64 i;

	for (i = 0; i < size / sizeof(*hva); i += SZ_4K / sizeof(*hva))
		WRITE_ONCE(hva[i], pattern);
}

static void convert_timed(const char *row, int fd, u64 *hva, u64 size)
{
	u64 calls = min_t(u64, CONVERTED_BYTES, opt.size) / size ?: 1;
	u64 private = 0, shared = 0, start, i;

	/* What was private before is not mapped any more. */
	convert_touch(hva, calls * size);
	for (i = 0; i < calls; i++) {
		start = now_ns();
		gmem_set_private(fd, i * size, size);
		private += now_ns() - start;
	}
	for (i = 0; i < calls; i++) {
		start = now_ns();
		gmem_set_shared(fd, i * size, size);
		shared += now_ns() - start;
	}
	print_sample(row, "private_ns", private / calls);
	print_sample(row, "shared_ns", shared / calls);
}

/* With all memory there, in the file and in a user mapping. */
static void measure_convert(void)
{
	const struct path path = { .vm_type = KVM_X86_SW_PROTECTED_VM };
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	struct kvm_vm *vm;
	struct mem mem;
	u64 *hva, i;

	TEST_ASSERT(is_gmem(), "A guest_memfd is all that can be converted");
	vm = vm_create_for(&path, 1, vcpus);
	memory_create(vm->fd, &mem);
	TEST_ASSERT_OK(memory_slot(vm->fd, &mem));
	hva = memory_map(mem.fd);
	convert_touch(hva, opt.size);

	if (!needs_device() || dax.align == SZ_4K)
		convert_timed("convert-1", mem.fd, hva, SZ_4K);
	if (!needs_device() || dax.align <= SZ_2M)
		convert_timed("convert-512", mem.fd, hva, SZ_2M);
	convert_timed("convert-all", mem.fd, hva, opt.size);

	for (i = 0; i < opt.size / sizeof(*hva); i += SZ_4K / sizeof(*hva))
		TEST_ASSERT_EQ(READ_ONCE(hva[i]), pattern);
	memory_unmap(hva);
	kvm_vm_free(vm);
	memory_free(&mem);
}

static const struct row {
	const char *name;
	void (*fn)(void);
} rows[] = {
	{ "convert", measure_convert },
	{ "touch", measure_touch },
	{ "unused", measure_unused },
	{ "zero", measure_zero },
	{ "populate", measure_populate },
};

static void help(const char *name)
{
	printf("usage: %s [-d /dev/daxX.Y] -b backing [options] row\n"
	       "row: touch, unused (create, bind, unbind, close), zero, populate or\n"
	       "     convert (to private and back; KVM needs gmem_in_place_conversion=1)\n"
	       " -b: gmem-dax, gmem (page cache), dax (host mapping), memfd or hugetlb (2M)\n"
	       " -k: KEEP_DATA\n"
	       " -f: fallocate() before the guest touches the memory\n"
	       " -p: KVM_PRE_FAULT_MEMORY before that\n"
	       " -H: punch a hole of 4K after that, touch again, punch all\n"
	       " -g: distance of the guest's memory from 1G alignment (0)\n"
	       " -v: what to call this variant\n"
	       " -c: vCPUs, or threads (1)\n"
	       " -s: size (1G)\n"
	       " -n: runs (1)\n"
	       " -t: seconds after which no further run starts (no limit)\n", name);
	exit(KSFT_FAIL);
}

static enum backing parse_backing(const char *name)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(backing_names); i++) {
		if (!strcmp(name, backing_names[i]))
			return i;
	}
	TEST_FAIL("There is no backing '%s'", name);
}

int main(int argc, char *argv[])
{
	const char *path = device_from_args(&argc, argv);
	u64 limit = -1ULL, end;
	int c, i, runs = 1;

	while ((c = getopt(argc, argv, "b:kfpHg:v:c:s:n:t:")) != -1) {
		switch (c) {
		case 'b':
			opt.backing = parse_backing(optarg);
			break;
		case 'k':
			opt.keep = true;
			break;
		case 'f':
			opt.allocate = true;
			break;
		case 'p':
			opt.prefault = true;
			break;
		case 'H':
			opt.punch = true;
			break;
		case 'g':
			opt.shift = parse_size(optarg);
			break;
		case 'v':
			opt.variant = optarg;
			break;
		case 'c':
			opt.nr_threads = atoi_positive("Threads", optarg);
			break;
		case 's':
			opt.size = parse_size(optarg);
			break;
		case 'n':
			runs = atoi_positive("Runs", optarg);
			break;
		case 't':
			limit = atoi_positive("Seconds", optarg) * 1000000000ULL;
			break;
		default:
			help(argv[0]);
		}
	}
	if (optind != argc - 1)
		help(argv[0]);

	TEST_ASSERT(opt.nr_threads <= MAX_THREADS, "At most %u threads", MAX_THREADS);
	TEST_ASSERT(!(opt.size % (opt.nr_threads * SZ_2M)) && !(opt.shift % SZ_2M),
		    "Sizes are multiples of 2M, a thread");
	TEST_ASSERT(is_gmem() || !(opt.allocate || opt.punch),
		    "-f and -H are for a guest_memfd");
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY));
	if (needs_device()) {
		require(path, "No device: use -d /dev/daxX.Y, whose contents are destroyed");
		require(kvm_has_cap(KVM_CAP_GUEST_DAXFD), "KVM has no KVM_CAP_GUEST_DAXFD");
		use_device(path);
		find_memory();
	}

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		if (!strcmp(argv[optind], rows[i].name))
			break;
	}
	if (i == ARRAY_SIZE(rows))
		help(argv[0]);

	if (rows[i].fn == measure_convert) {
		TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM));
		TEST_REQUIRE(kvm_has_gmem_attributes());
	}

	end = limit == -1ULL ? limit : now_ns() + limit;
	do {
		rows[i].fn();
	} while (--runs && now_ns() < end);

	return 0;
}
