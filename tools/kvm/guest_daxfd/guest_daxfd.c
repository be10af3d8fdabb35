// SPDX-License-Identifier: GPL-2.0
/*
 * guest_daxfd - run a guest on the memory of a device-DAX instance
 *
 *   guest_daxfd /dev/daxX.Y [size]
 *
 * Creates a guest_memfd on the device, lets a small guest write to each 64-bit
 * word of it, and compares what is on the device when the VM is gone.
 *
 * OVERWRITES the first size bytes of the device: 1 GiB, or all of a smaller
 * device.  Works on x86-64 and uses KVM's ioctls directly: an example for
 * authors of VMMs, see Documentation/virt/kvm/guest-memfd-dax.rst.
 *
 * Guest physical memory:
 *   0		code, then page tables: ordinary memory of this process
 *   GUEST_MEM	the device
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include <linux/compiler.h>
#include <linux/kvm.h>
#include <linux/sizes.h>

#define GUEST_PAGE	SZ_4K

/* A multiple of 1 GiB, so that the guest can have pages of any size. */
#define GUEST_MEM	((__u64)SZ_1G)
/* One page directory pointer table */
#define GUEST_MEM_MAX	(512ull * SZ_1G - GUEST_MEM)

enum { SLOT_BOOT, SLOT_MEM };
enum { PAGE_CODE, PAGE_PML4, PAGE_PDPT, PAGE_PD };

/*
 * Two parts, each ends with an exit to us.  First read all of the boot memory,
 * that is RBX to RCX, so that its faults can be told from others.  Then fill
 * RDI to RSI: each word becomes its address ^ RDX.
 */
static const unsigned char guest_code[] = {
	0x8a, 0x03,		/* 0:	mov (%rbx), %al */
	0x48, 0x81, 0xc3,	/*	add $4096, %rbx */
	0x00, 0x10, 0x00, 0x00,
	0x48, 0x39, 0xcb,	/*	cmp %rcx, %rbx */
	0x72, 0xf2,		/*	jb 0b */
	0xf4,			/*	hlt */
	0x48, 0x89, 0xf8,	/* 1:	mov %rdi, %rax */
	0x48, 0x31, 0xd0,	/*	xor %rdx, %rax */
	0x48, 0x89, 0x07,	/*	mov %rax, (%rdi) */
	0x48, 0x83, 0xc7, 0x08,	/*	add $8, %rdi */
	0x48, 0x39, 0xf7,	/*	cmp %rsi, %rdi */
	0x72, 0xee,		/*	jb 1b */
	0xf4,			/*	hlt */
};

static void __noreturn __printf(1, 2) die(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("guest_daxfd: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

/* An ioctl that fails only if something is wrong with this kernel */
#define kvm_ioctl(fd, cmd, arg)						\
({									\
	int __ret = ioctl(fd, cmd, arg);				\
									\
	if (__ret < 0)							\
		die(#cmd ": %s; see the kernel log", strerror(errno));	\
	__ret;								\
})

static int open_or_die(const char *path, const char *advice)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("cannot open %s: %s; %s", path, strerror(errno), advice);
	return fd;
}

static __u64 device_attr(int dax, const char *name)
{
	unsigned long long value = 0;
	struct stat st;
	char path[64];
	FILE *file;

	if (fstat(dax, &st) || !S_ISCHR(st.st_mode))
		die("not a character device; name a /dev/daxX.Y");
	snprintf(path, sizeof(path), "/sys/dev/char/%u:%u/%s",
		 major(st.st_rdev), minor(st.st_rdev), name);
	file = fopen(path, "r");
	if (!file || fscanf(file, "%llu", &value) != 1 || !value)
		die("cannot read %s; name a /dev/daxX.Y, and mount sysfs",
		    path);
	fclose(file);
	return value;
}

static __u64 parse_size(const char *arg)
{
	unsigned long long size;
	unsigned int shift = 0;
	char *end;

	errno = 0;
	size = strtoull(arg, &end, 0);
	switch (*end) {
	case 'G':
		shift += 10;
		fallthrough;
	case 'M':
		shift += 10;
		fallthrough;
	case 'K':
		shift += 10;
		end++;
	}
	if (errno || *end || !size || size > GUEST_MEM_MAX >> shift)
		die("%s is not a size that works; say, for example, 512M", arg);
	return size << shift;
}

/* documented from here */

/*
 * The memory comes from the device at @offset.  @offset and @size are multiples
 * of the device's alignment.  Until the guest_memfd is closed nobody else can
 * use that range; the file descriptor of the device is not needed any more.
 *
 * With KEEP_DATA, what the guest wrote is found on the device afterwards.
 * Leave it out for a guest whose memory nobody else may see: then the memory is
 * zeroed before its first use, and wiped at the end.
 */
static int create_guest_memfd(int vm, int dax, __u64 offset, __u64 size)
{
	struct kvm_create_guest_memfd args = {
		.size = size,
		.flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED |
			 GUEST_MEMFD_FLAG_BACKING_FD |
			 GUEST_MEMFD_FLAG_KEEP_DATA,
		.backing_fd = dax,
		.backing_offset = offset,
	};

	return ioctl(vm, KVM_CREATE_GUEST_MEMFD, &args);
}

/*
 * MMAP makes all accesses of the guest go to the guest_memfd.  There is no
 * userspace_addr because only the guest uses the memory.  A VMM that does so,
 * too, or wants KVM to emulate instructions on it, maps the guest_memfd and
 * says where.
 */
static int set_guest_memfd_slot(int vm, __u32 slot, __u64 gpa, __u64 size,
				int gmem, __u64 gmem_offset)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = slot,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.guest_memfd = gmem,
		.guest_memfd_offset = gmem_offset,
	};

	return ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region);
}

/* documented to here */

static const char *create_advice(int err)
{
	switch (err) {
	case EBUSY:
		return "end what maps or claims it, or 'daxctl reconfigure-device -m devdax'";
	case EINVAL:
		return "name a /dev/daxX.Y, and a multiple of its alignment that fits";
	case ENODEV:
		return "bind it to device_dax: 'daxctl enable-device'";
	case ENOMEM:
		return "free some memory";
	default:
		return "see the kernel log";
	}
}

/* Code, and page tables that map all of guest memory 1:1 in pages of 2M. */
static __u64 set_boot_memory(int vm, __u64 mem_size)
{
	__u64 nr_pd = (GUEST_MEM + mem_size + SZ_1G - 1) / SZ_1G;
	__u64 size = (PAGE_PD + nr_pd) * GUEST_PAGE;
	const __u64 table = 3, page_2m = 0x83;	/* P, RW; PS */
	struct kvm_userspace_memory_region2 region = {
		.slot = SLOT_BOOT,
		.memory_size = size,
	};
	__u64 i, (*page)[GUEST_PAGE / 8];

	page = mmap(NULL, size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		die("no memory for page tables of the guest; free some");

	memcpy(page[PAGE_CODE], guest_code, sizeof(guest_code));
	page[PAGE_PML4][0] = PAGE_PDPT * GUEST_PAGE | table;
	for (i = 0; i < nr_pd; i++)
		page[PAGE_PDPT][i] = (PAGE_PD + i) * GUEST_PAGE | table;
	for (i = 0; i < nr_pd * 512; i++)
		page[PAGE_PD + i / 512][i % 512] = i * SZ_2M | page_2m;

	region.userspace_addr = (uintptr_t)page;
	kvm_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region);
	return size;
}

static void set_cpuid(int kvm, int vcpu)
{
	const unsigned int nent = 256;
	struct kvm_cpuid2 *cpuid;

	cpuid = calloc(1, sizeof(*cpuid) + nent * sizeof(cpuid->entries[0]));
	if (!cpuid)
		die("no memory for CPUID; free some");
	cpuid->nent = nent;
	kvm_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
	kvm_ioctl(vcpu, KVM_SET_CPUID2, cpuid);
	free(cpuid);
}

/* 64-bit mode, without a stack, an IDT or a GDT: the code needs none. */
static void set_registers(int vcpu, __u64 boot_size, __u64 mem_size, __u64 seed)
{
	struct kvm_regs regs = {
		.rflags = 2,
		.rcx = boot_size,
		.rdi = GUEST_MEM,
		.rsi = GUEST_MEM + mem_size,
		.rdx = seed,
	};
	struct kvm_sregs sregs;

	kvm_ioctl(vcpu, KVM_GET_SREGS, &sregs);
	sregs.cr3 = PAGE_PML4 * GUEST_PAGE;
	sregs.cr4 = 0x20;		/* PAE */
	sregs.cr0 = 0x80000011;		/* PG, ET, PE */
	sregs.efer = 0x500;		/* LMA, LME */
	sregs.cs.base = 0;
	sregs.cs.selector = 8;
	sregs.cs.limit = 0xffffffff;
	sregs.cs.g = 1;
	sregs.cs.l = 1;
	kvm_ioctl(vcpu, KVM_SET_SREGS, &sregs);
	kvm_ioctl(vcpu, KVM_SET_REGS, &regs);
}

/* Without an interrupt controller in KVM, HLT comes back to us. */
static void run_until_hlt(int vcpu, const struct kvm_run *run)
{
	int rc;

	do {
		rc = ioctl(vcpu, KVM_RUN, 0);
	} while (rc && errno == EINTR);

	if (rc && run->exit_reason == KVM_EXIT_MEMORY_FAULT)
		die("no memory at guest address %#llx: %s; do not unbind the device",
		    run->memory_fault.gpa, strerror(errno));
	if (rc)
		die("KVM_RUN: %s; see the kernel log", strerror(errno));
	if (run->exit_reason != KVM_EXIT_HLT)
		die("the guest stopped with exit reason %u; see linux/kvm.h",
		    run->exit_reason);
}

static void pread_or_die(int fd, void *buf, size_t size, off_t offset)
{
	if (pread(fd, buf, size, offset) != (ssize_t)size)
		die("KVM's statistics end early; use the headers of this kernel");
}

/* A statistic of a VM or vCPU, see "KVM_GET_STATS_FD" in api.rst */
static __u64 read_stat(int stats, const char *name)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *desc;
	size_t desc_size;
	__u64 value;

	pread_or_die(stats, &header, sizeof(header), 0);
	desc_size = sizeof(*desc) + header.name_size;
	desc = malloc(desc_size);
	if (!desc)
		die("no memory for statistics; free some");
	for (__u32 i = 0; i < header.num_desc; i++) {
		pread_or_die(stats, desc, desc_size,
			     header.desc_offset + i * desc_size);
		if (strcmp(desc->name, name))
			continue;
		pread_or_die(stats, &value, sizeof(value),
			     header.data_offset + desc->offset);
		free(desc);
		return value;
	}
	die("KVM counts no %s; use a kernel for x86-64", name);
}

struct mmu_stats {
	__u64 faults, pages_4k, pages_2m, pages_1g;
};

static struct mmu_stats read_mmu_stats(int vm, int vcpu)
{
	int vm_stats = kvm_ioctl(vm, KVM_GET_STATS_FD, NULL);
	int vcpu_stats = kvm_ioctl(vcpu, KVM_GET_STATS_FD, NULL);
	struct mmu_stats stats = {
		.faults = read_stat(vcpu_stats, "pf_taken"),
		.pages_4k = read_stat(vm_stats, "pages_4k"),
		.pages_2m = read_stat(vm_stats, "pages_2m"),
		.pages_1g = read_stat(vm_stats, "pages_1g"),
	};

	close(vcpu_stats);
	close(vm_stats);
	return stats;
}

/* Where the memory is, as fdinfo of the guest_memfd says */
static void print_extents(int gmem)
{
	static const char key[] = "dax-extent:";
	bool found = false;
	char line[256], path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", gmem);
	file = fopen(path, "r");
	while (file && fgets(line, sizeof(line), file)) {
		if (strncmp(line, key, strlen(key)))
			continue;
		printf("physical range   %s", line + strlen(key) + 1);
		found = true;
	}
	if (file)
		fclose(file);
	if (!found)
		printf("physical range   shown with CAP_SYS_ADMIN only\n");
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void run_guest(int kvm, int vm, int gmem, __u64 size, __u64 seed)
{
	int run_size = kvm_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	int vcpu = kvm_ioctl(vm, KVM_CREATE_VCPU, 0);
	struct mmu_stats before, after;
	struct kvm_run *run;
	__u64 boot_size;
	double start, end;

	run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		die("cannot map the vCPU: %s; free some memory",
		    strerror(errno));

	boot_size = set_boot_memory(vm, size);
	if (set_guest_memfd_slot(vm, SLOT_MEM, GUEST_MEM, size, gmem, 0))
		die("KVM_SET_USER_MEMORY_REGION2: %s; see the kernel log",
		    strerror(errno));
	set_cpuid(kvm, vcpu);
	set_registers(vcpu, boot_size, size, seed);

	run_until_hlt(vcpu, run);
	before = read_mmu_stats(vm, vcpu);
	start = now();
	run_until_hlt(vcpu, run);
	end = now();
	after = read_mmu_stats(vm, vcpu);

	printf("guest faults     %llu\n", after.faults - before.faults);
	printf("pages of 4K      %llu\n", after.pages_4k - before.pages_4k);
	printf("pages of 2M      %llu\n", after.pages_2m - before.pages_2m);
	printf("pages of 1G      %llu\n", after.pages_1g - before.pages_1g);
	printf("seconds          %.2f\n", end - start);

	munmap(run, run_size);
	close(vcpu);
}

/* The guest_memfd is gone: the device can be mapped again. */
static void verify(const char *path, __u64 size, __u64 seed)
{
	int dax = open_or_die(path, "do not unbind it meanwhile");
	const __u64 *mem;
	__u64 offset, expected;

	mem = mmap(NULL, size, PROT_READ, MAP_SHARED, dax, 0);
	if (mem == MAP_FAILED)
		die("cannot map %s: %s; close what else uses it", path,
		    strerror(errno));
	for (offset = 0; offset < size; offset += sizeof(*mem)) {
		expected = (GUEST_MEM + offset) ^ seed;
		if (mem[offset / sizeof(*mem)] != expected)
			die("%#llx at offset %#llx of %s is wrong; keep others off it",
			    mem[offset / sizeof(*mem)], offset, path);
	}
	munmap((void *)mem, size);
	close(dax);
	printf("verified %llu bytes\n", size);
}

int main(int argc, char **argv)
{
	int kvm, vm, dax, gmem;
	__u64 align, size, seed;

	if (argc < 2 || argc > 3)
		die("usage: guest_daxfd /dev/daxX.Y [size]; overwrites the device");

	dax = open_or_die(argv[1], "make one: ndctl create-namespace -m devdax");
	align = device_attr(dax, "align");
	size = device_attr(dax, "size");
	if (argc == 3)
		size = parse_size(argv[2]);
	else if (size > SZ_1G)
		size = SZ_1G;
	else
		size -= size % align;

	kvm = open_or_die("/dev/kvm", "load kvm_amd or kvm_intel");
	vm = kvm_ioctl(kvm, KVM_CREATE_VM, 0);
	if (ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_DAXFD) <= 0 ||
	    !(ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_DAXFD_FLAGS) &
	      GUEST_MEMFD_FLAG_KEEP_DATA))
		die("guest_memfd cannot use DAX; enable KVM_GUEST_DAXFD and DEV_DAX_GMEM");

	gmem = create_guest_memfd(vm, dax, 0, size);
	if (gmem < 0)
		die("cannot create a guest_memfd on %s: %s; %s", argv[1],
		    strerror(errno), create_advice(errno));
	close(dax);

	/* What an earlier run left must not pass for what this one wrote. */
	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		die("no random number; wait until the machine has booted");

	printf("device           %s\n", argv[1]);
	printf("alignment        %llu\n", align);
	print_extents(gmem);
	printf("bytes            %llu\n", size);
	run_guest(kvm, vm, gmem, size, seed);

	close(gmem);
	close(vm);
	close(kvm);
	verify(argv[1], size, seed);
	return 0;
}
