// SPDX-License-Identifier: GPL-2.0-only
/*
 * VMs, and what goes on in them, whose memory is a part of a device-DAX
 * instance: what the tests of that share.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daxfd_util.h"
#include "kselftest.h"
#include "kvm_syscalls.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

struct dax_dev dax;
size_t page_size;
u64 unit_size;
u64 nr_units;

/* The first range does not start at the device's offset 0 if that can be. */
u64 unit_offset(int n)
{
	return nr_units > 1 && n < 2 ? (1 - n) * unit_size : n * unit_size;
}

/* Where the slot over a unit starts on the device. */
u64 slot_offset(int n)
{
	return unit_offset(n) + SLOT_OFFSET;
}

/*
 * ioctls that return -errno
 */

int __gmem_create(int vm_fd, struct kvm_create_guest_memfd *args)
{
	int fd = ioctl(vm_fd, KVM_CREATE_GUEST_MEMFD, args);

	return fd < 0 ? -errno : fd;
}

int gmem_create(int vm_fd, u64 flags, int fd, u64 offset, u64 size)
{
	struct kvm_create_guest_memfd args = {
		.size = size,
		.flags = flags | GUEST_MEMFD_FLAG_BACKING_FD,
		.backing_fd = fd,
		.backing_offset = offset,
	};

	return __gmem_create(vm_fd, &args);
}

int slot_set(int vm_fd, u32 slot, u32 flags, gpa_t gpa, u64 size,
	     void *hva, int fd, u64 offset)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)hva,
		.guest_memfd = fd,
		.guest_memfd_offset = offset,
	};

	return ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION2, &region) ? -errno : 0;
}

int slot_delete(int vm_fd, u32 slot)
{
	return slot_set(vm_fd, slot, 0, 0, 0, NULL, -1, 0);
}

int do_fallocate(int fd, int mode, u64 offset, u64 len)
{
	return fallocate(fd, mode, offset, len) ? -errno : 0;
}

/*
 * Accesses that may meet SIGBUS, in any thread
 */

static __thread sigjmp_buf access_jmpbuf;
static __thread bool access_may_fail;

static void access_sigbus(int signum)
{
	if (READ_ONCE(access_may_fail))
		siglongjmp(access_jmpbuf, 1);

	/* Returning repeats the access, and that ends the test. */
	signal(signum, SIG_DFL);
}

/* Returns false on SIGBUS. */
bool host_access(u64 *mem, u64 *val, bool write)
{
	struct sigaction sa = { .sa_handler = access_sigbus };

	sigaction(SIGBUS, &sa, NULL);
	if (sigsetjmp(access_jmpbuf, 1)) {
		WRITE_ONCE(access_may_fail, false);
		return false;
	}

	WRITE_ONCE(access_may_fail, true);
	if (write)
		WRITE_ONCE(*mem, *val);
	else
		*val = READ_ONCE(*mem);
	WRITE_ONCE(access_may_fail, false);
	return true;
}

bool host_can_read(void *mem)
{
	u64 val;

	return host_access(mem, &val, false);
}

bool host_can_write(void *mem)
{
	u64 val = HOST_DATA;

	return host_access(mem, &val, true);
}

/* A memory error.  Whoever has mapped the page may be told of it at once. */
void inject_error(void *page)
{
	struct sigaction sa = { .sa_handler = access_sigbus }, old;

	sigaction(SIGBUS, &sa, &old);
	if (!sigsetjmp(access_jmpbuf, 1)) {
		WRITE_ONCE(access_may_fail, true);
		TEST_ASSERT(!madvise(page, page_size, MADV_HWPOISON),
			    "MADV_HWPOISON failed");
	}
	WRITE_ONCE(access_may_fail, false);
	/* Others may be about to get one that they expect. */
	sigaction(SIGBUS, &old, NULL);
}

/* A pipe that has the page, as a file descriptor; -errno if it cannot. */
int try_pin(void *mem)
{
	struct iovec iov = { .iov_base = mem, .iov_len = page_size };
	int fds[2], r;

	TEST_ASSERT(!pipe2(fds, O_CLOEXEC), "pipe2() failed");
	r = vmsplice(fds[1], &iov, 1, SPLICE_F_NONBLOCK);
	r = r < 0 ? -errno : 0;
	kvm_close(fds[1]);
	if (!r)
		return fds[0];

	kvm_close(fds[0]);
	return r;
}

int pin(void *mem)
{
	int fd = try_pin(mem);

	TEST_ASSERT(fd >= 0, "vmsplice() failed: %d", fd);
	return fd;
}

bool thp_is_on(void)
{
	char buf[64] = "";
	FILE *f;

	f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
	if (!f)
		return false;
	TEST_ASSERT(fgets(buf, sizeof(buf), f), "Reading a setting failed");
	fclose(f);
	return !strstr(buf, "[never]");
}

/*
 * Guest
 */

static struct guest_cmd guest_cmds[MAX_VCPUS];

static void guest_outs(gpa_t gpa)
{
#ifdef __x86_64__
	asm volatile("outsb" : "+S"(gpa) : "d"((u16)OUTS_PORT) : "memory");
#endif
}

static void guest_spin(struct guest_cmd *cmd)
{
	u64 i;

	while (!READ_ONCE(cmd->stop)) {
		for (i = 0; i < cmd->nr_pages; i++) {
			u64 *p = (u64 *)(cmd->gpa + i * cmd->page_size);

			WRITE_ONCE(*p, cmd->rounds);
		}
		WRITE_ONCE(cmd->rounds, cmd->rounds + 1);
	}
}

/* Memory is mapped at its physical address; a pattern depends on it. */
static void guest_code(u64 id)
{
	struct guest_cmd *cmd = &guest_cmds[id];
	u64 i;

	for (;;) {
		u64 *p = (u64 *)READ_ONCE(cmd->gpa);

		switch (READ_ONCE(cmd->op)) {
		case GUEST_READ:
			cmd->val = READ_ONCE(*p);
			break;
		case GUEST_WRITE:
			WRITE_ONCE(*p, cmd->val);
			break;
		case GUEST_FILL:
			for (i = 0; i < cmd->nr_pages; i++, p += cmd->page_size / 8)
				WRITE_ONCE(*p, cmd->val ^ (u64)p);
			break;
		case GUEST_CHECK:
			for (i = 0; i < cmd->nr_pages; i++, p += cmd->page_size / 8)
				GUEST_ASSERT_EQ(READ_ONCE(*p), cmd->val ^ (u64)p);
			break;
		case GUEST_SPIN:
			guest_spin(cmd);
			break;
		case GUEST_OUTS:
			guest_outs(cmd->gpa);
			break;
		case GUEST_CALL:
			cmd->fn(cmd);
			break;
		}
		GUEST_SYNC(cmd->op);
	}
}

struct guest_cmd *guest_cmd(struct kvm_vcpu *vcpu)
{
	return addr_gva2hva(vcpu->vm, (gva_t)&guest_cmds[vcpu->id]);
}

void guest_prepare(struct kvm_vcpu *vcpu, enum guest_op op, gpa_t gpa,
		   u64 val, u64 nr_pages)
{
	struct guest_cmd *cmd = guest_cmd(vcpu);

	cmd->op = op;
	cmd->gpa = gpa;
	cmd->val = val;
	cmd->nr_pages = nr_pages;
	cmd->page_size = vcpu->vm->page_size;
	cmd->rounds = 0;
	cmd->stop = false;
}

/* Returns 0 when the guest is done with its command, else -errno of KVM_RUN. */
int guest_run(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	if (_vcpu_run(vcpu))
		return -errno;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		return 0;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	}

	TEST_FAIL("Unexpected exit %u (%s)", vcpu->run->exit_reason,
		  exit_reason_str(vcpu->run->exit_reason));
}

int guest_do(struct kvm_vcpu *vcpu, enum guest_op op, gpa_t gpa, u64 val,
	     u64 nr_pages)
{
	guest_prepare(vcpu, op, gpa, val, nr_pages);
	return guest_run(vcpu);
}

u64 guest_read(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	TEST_ASSERT_OK(guest_do(vcpu, GUEST_READ, gpa, 0, 1));
	return guest_cmd(vcpu)->val;
}

void guest_write(struct kvm_vcpu *vcpu, gpa_t gpa, u64 val)
{
	TEST_ASSERT_OK(guest_do(vcpu, GUEST_WRITE, gpa, val, 1));
}

/*
 * @gpa lies in the page that KVM names: the page that the guest touched, of a
 * range of @size.
 */
void assert_memory_fault(struct kvm_vcpu *vcpu, gpa_t gpa, u64 size)
{
	struct kvm_run *run = vcpu->run;

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT(run->memory_fault.gpa >= gpa &&
		    run->memory_fault.gpa < gpa + size,
		    "Fault at 0x%llx, expected it in 0x%lx + 0x%lx",
		    run->memory_fault.gpa, gpa, size);
	TEST_ASSERT(run->memory_fault.size, "Fault of size 0");
}

void guest_must_fault(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	TEST_ASSERT_ERR(guest_do(vcpu, GUEST_READ, gpa, 0, 1), EFAULT);
	assert_memory_fault(vcpu, gpa, page_size);
}

/*
 * A vCPU that writes to all pages of its slot, round after round
 */

static void *runner_thread(void *arg)
{
	struct runner *runner = arg;

	runner->r = guest_run(runner->vcpu);
	return NULL;
}

void runner_start(struct runner *runner, struct kvm_vcpu *vcpu, gpa_t gpa,
		  u64 nr_pages)
{
	struct guest_cmd *cmd = guest_cmd(vcpu);

	runner->vcpu = vcpu;
	guest_prepare(vcpu, GUEST_SPIN, gpa, 0, nr_pages);
	kvm_pthread_create(&runner->thread, NULL, runner_thread, runner);

	while (READ_ONCE(cmd->rounds) < 2)
		usleep(100);
}

int runner_join(struct runner *runner)
{
	kvm_pthread_join(runner->thread, NULL);
	return runner->r;
}

void runner_stop(struct runner *runner)
{
	WRITE_ONCE(guest_cmd(runner->vcpu)->stop, true);
	TEST_ASSERT_OK(runner_join(runner));
}

/*
 * VMs and claims
 */

struct kvm_vm *vm_create_for(const struct path *path, u32 nr_vcpus,
			     struct kvm_vcpu **vcpus)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = path->vm_type,
	};
	struct kvm_vm *vm;
	u32 i;

	vm = __vm_create_with_vcpus(shape, nr_vcpus, 0, guest_code, vcpus);
	for (i = 0; i < nr_vcpus; i++)
		vcpu_args_set(vcpus[i], 1, (u64)i);

	return vm;
}

static void ctx_init(struct ctx *c, const struct path *path, u32 nr_vcpus)
{
	int i;

	c->path = path;
	c->vm = vm_create_for(path, nr_vcpus, c->vcpus);
	c->vcpu = c->vcpus[0];
	c->dax_fd = path->page_cache ? -1 : dax_dev_open(&dax);
	for (i = 0; i < MAX_CLAIMS; i++)
		c->gmem[i] = -1;
}

void ctx_setup(struct ctx *c, const struct path *path, u32 nr_vcpus)
{
	if (!path->page_cache)
		dax_dev_restore(&dax);
	ctx_init(c, path, nr_vcpus);
}

/* A second VM of the same kind, with one vCPU. */
void ctx_clone(struct ctx *c, struct ctx *other)
{
	ctx_init(c, other->path, 1);
}

void ctx_free(struct ctx *c)
{
	int i;

	for (i = 0; i < MAX_CLAIMS; i++) {
		if (c->gmem[i] >= 0)
			kvm_free_fd(c->gmem[i]);
	}
	if (c->vm)
		kvm_vm_free(c->vm);
	if (c->dax_fd >= 0)
		kvm_free_fd(c->dax_fd);
	c->vm = NULL;
}

/*
 * Claim a range, and do no more than that: by a guest_memfd without a slot, or
 * by a slot of the short way.
 */
int claim(struct ctx *c, int n, int fd, u64 offset, u64 size)
{
	int r;

	if (c->path->daxfd)
		return slot_set(c->vm->fd, MEM_SLOT(n), KVM_MEM_GUEST_DAXFD,
				MEM_GPA(n), size, NULL, fd, offset);

	if (c->path->page_cache)
		r = vm_create_guest_memfd(c->vm, size, c->path->flags);
	else
		r = gmem_create(c->vm->fd, c->path->flags, fd, offset, size);
	if (r < 0)
		return r;

	c->gmem[n] = r;
	return 0;
}

void unclaim(struct ctx *c, int n)
{
	if (c->path->daxfd)
		TEST_ASSERT_OK(slot_delete(c->vm->fd, MEM_SLOT(n)));
	else
		kvm_free_fd(c->gmem[n]);
}

int claim_unit(struct ctx *c, int n)
{
	return claim(c, n, c->dax_fd, unit_offset(n), unit_size);
}

int __mem_slot(struct ctx *c, int n, void *hva)
{
	if (c->path->daxfd)
		return slot_set(c->vm->fd, MEM_SLOT(n), KVM_MEM_GUEST_DAXFD,
				MEM_GPA(n), SLOT_SIZE, hva, c->dax_fd,
				slot_offset(n));

	return slot_set(c->vm->fd, MEM_SLOT(n), KVM_MEM_GUEST_MEMFD, MEM_GPA(n),
			SLOT_SIZE, hva, c->gmem[n], SLOT_OFFSET);
}

/* Guest memory from unit n of the device: 0, or -errno of the step that failed. */
int __mem_add(struct ctx *c, int n, void *hva)
{
	int r;

	if (!c->path->daxfd) {
		r = claim_unit(c, n);
		if (r)
			return r;
	}

	return __mem_slot(c, n, hva);
}

void mem_map(struct ctx *c, int n)
{
	if (!sparsebit_is_set(c->vm->vpages_mapped, MEM_GPA(n) >> c->vm->page_shift))
		virt_map(c->vm, MEM_GPA(n), MEM_GPA(n),
			 SLOT_SIZE / c->vm->page_size);
	/* A guest_memfd that knows what is private was made as it is to be. */
	if (c->path->vm_type && !kvm_has_gmem_attributes())
		vm_mem_set_private(c->vm, MEM_GPA(n), SLOT_SIZE);
}

void mem_add(struct ctx *c, int n)
{
	TEST_ASSERT_OK(__mem_add(c, n, NULL));
	mem_map(c, n);
}

void mem_del(struct ctx *c, int n)
{
	TEST_ASSERT_OK(slot_delete(c->vm->fd, MEM_SLOT(n)));
	if (!c->path->daxfd)
		kvm_free_fd(c->gmem[n]);
}

/* A host mapping of slot n: of the guest_memfd, or of the device. */
void *host_map(struct ctx *c, int n)
{
	if (c->path->daxfd)
		return dax_dev_mmap(&dax, slot_offset(n), SLOT_SIZE);

	return __kvm_mmap(SLOT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			  c->gmem[n], SLOT_OFFSET);
}

void host_unmap(struct ctx *c, int n, void *mem)
{
	if (c->path->daxfd)
		dax_dev_munmap(&dax, mem, slot_offset(n), SLOT_SIZE);
	else
		kvm_munmap(mem, SLOT_SIZE);
}

int punch(struct ctx *c, u64 offset, u64 len)
{
	return do_fallocate(c->gmem[0], FALLOC_PUNCH, offset, len);
}

int pre_fault(struct kvm_vcpu *vcpu, gpa_t gpa, u64 size, u64 *left)
{
	struct kvm_pre_fault_memory range = { .gpa = gpa, .size = size };
	int r;

	do {
		r = __vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range);
		r = r ? -errno : 0;
	} while ((!r && range.size) || r == -EAGAIN || r == -EINTR);

	*left = range.size;
	return r;
}

void unbind(void)
{
	TEST_ASSERT_OK(dax_dev_unbind(&dax, DAX_DRIVER_DEVICE));
}

void rebind(void)
{
	TEST_ASSERT_OK(dax_dev_bind(&dax, DAX_DRIVER_DEVICE));
}

/* A file is good for the binding that it was opened under. */
void reopen(struct ctx *c)
{
	kvm_free_fd(c->dax_fd);
	c->dax_fd = dax_dev_open(&dax);
}

/* Nothing of this device is in use: it can be taken away, and given back. */
void assert_device_is_free(void)
{
	int vm_fd, fd, dax_fd;

	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
	unbind();
	rebind();

	dax_fd = dax_dev_open(&dax);
	vm_fd = ioctl(open_kvm_dev_path_or_exit(), KVM_CREATE_VM, VM_TYPE_DEFAULT);
	fd = gmem_create(vm_fd, CREATE_FLAGS, dax_fd, 0, unit_size);
	TEST_ASSERT(fd >= 0, "Claiming failed: %d", fd);

	kvm_close(fd);
	kvm_close(vm_fd);
	kvm_close(dax_fd);
}

bool claims_list_has(const char *kind)
{
	char line[512];
	bool found = false;
	FILE *f;

	f = fopen("/sys/kernel/debug/dax/claims", "r");
	TEST_ASSERT(f, "There is no /sys/kernel/debug/dax/claims");
	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, dax.name) && strstr(line, kind))
			found = true;
	}
	fclose(f);
	return found;
}

/* In the parent: whatever the test did and however it ended, no claim is left. */
void check_after_test(void)
{
	if (!have_device())
		return;

	dax_dev_restore(&dax);
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
}

/* A device forgets the errors that a case made. */
void check_after_errors(void)
{
	if (!have_device())
		return;

	check_after_test();
	unbind();
	rebind();
}

/*
 * A VMM in a process of its own, whose guest writes to its memory until it is
 * killed
 */

static void vmm_main(struct ctx *parent, int ready_fd)
{
	char ready = 1;
	struct ctx c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ctx_init(&c, parent->path, 1);
	mem_add(&c, 0);
	guest_write(c.vcpu, MEM_GPA(0), GUEST_DATA);
	guest_write(c.vcpu, MEM_GPA(0) + SLOT_SIZE - page_size, GUEST_DATA);

	TEST_ASSERT_EQ(write(ready_fd, &ready, 1), 1);
	guest_do(c.vcpu, GUEST_SPIN, MEM_GPA(0) + page_size, 0, 8);

	/* The memory is gone; keep the rest until the signal comes. */
	for (;;)
		pause();
}

/* @fn never returns, and writes a byte as soon as all is there. */
pid_t __vmm_start(struct ctx *c, void (*fn)(struct ctx *c, int ready_fd))
{
	int fds[2];
	char ready;
	pid_t pid;

	TEST_ASSERT(!pipe(fds), "pipe() failed");
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		kvm_close(fds[0]);
		fn(c, fds[1]);
	}

	kvm_close(fds[1]);
	TEST_ASSERT(read(fds[0], &ready, 1) == 1, "The VMM died");
	kvm_close(fds[0]);
	return pid;
}

pid_t vmm_start(struct ctx *c)
{
	return __vmm_start(c, vmm_main);
}

void vmm_kill(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT(WIFSIGNALED(status), "The VMM ended by itself: 0x%x", status);
}

/*
 * Threads that do something again and again
 */

u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return timespec_to_ns(ts) / 1000000;
}

/* The function counts rounds, and ends when it is told to stop or before. */
void __loop_start(struct loop *loop, struct ctx *c, void *(*fn)(void *))
{
	loop->c = c;
	loop->stop = false;
	loop->rounds = 0;
	kvm_pthread_create(&loop->thread, NULL, fn, loop);
}

static void *loop_thread(void *arg)
{
	struct loop *loop = arg;

	do {
		if (loop->step(loop))
			WRITE_ONCE(loop->rounds, loop->rounds + 1);
	} while (!READ_ONCE(loop->stop));
	return NULL;
}

void loop_start(struct loop *loop, struct ctx *c,
		bool (*step)(struct loop *loop))
{
	loop->step = step;
	__loop_start(loop, c, loop_thread);
}

/* Unless it was told to stop before, the other thread gets to something first. */
void loop_stop(struct loop *loop)
{
	while (!READ_ONCE(loop->stop) && !READ_ONCE(loop->rounds))
		usleep(100);
	WRITE_ONCE(loop->stop, true);
	kvm_pthread_join(loop->thread, NULL);
	TEST_ASSERT(loop->rounds, "The other thread did not get to anything");
}

/* Until the other thread has got somewhere, however slow the machine is. */
void loop_wait(struct loop *loop)
{
	u64 rounds = READ_ONCE(loop->rounds);

	while (READ_ONCE(loop->rounds) == rounds)
		usleep(100);
}

/* Windows that CONFIG_KVM_GUEST_DAXFD_DELAY keeps open; false without it. */
bool delay_set(const char *window, unsigned int ms)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/module/kvm/parameters/gmem_delay_%s",
		 window);
	f = fopen(path, "w");
	if (!f)
		return false;
	fprintf(f, "%u\n", ms);
	TEST_ASSERT(!fclose(f), "Writing %s failed", path);
	return true;
}

/*
 * What the tests are told
 */

/* The harness has a -d of its own: ours and its argument are taken out. */
const char *device_from_args(int *argc, char **argv)
{
	const char *path = getenv("GUEST_DAXFD_DEV");
	int i, left = 0;

	for (i = 0; i < *argc; i++) {
		if (!strcmp(argv[i], "-d") && i + 1 < *argc &&
		    !strncmp(argv[i + 1], "/dev/", 5))
			path = argv[++i];
		else
			argv[left++] = argv[i];
	}
	argv[left] = NULL;
	*argc = left;
	return path;
}

/* All of the test is skipped, or none of it. */
void require(bool cond, const char *reason)
{
	if (cond)
		return;

	ksft_print_header();
	ksft_exit_skip("%s\n", reason);
}

/* What all programs need that unbind devices. */
void require_device(const char *path)
{
	require(path, "No device: use -d /dev/daxX.Y, whose contents are destroyed; "
		      "'ndctl create-namespace -m devdax -e NAMESPACE -f -a 2M' makes one");
	require(!geteuid(), "Only root can unbind a device");
	require(!access(KVM_DEV_PATH, R_OK | W_OK), "There is no " KVM_DEV_PATH);
	require(kvm_check_cap(KVM_CAP_GUEST_DAXFD), "KVM has no KVM_CAP_GUEST_DAXFD");
}

bool have_device(void)
{
	return dax.size;
}

void use_device(const char *path)
{
	int r = dax_dev_init(&dax, path);

	if (r)
		ksft_exit_fail_msg("%s is not a device-DAX instance: %s\n", path,
				   strerror(-r));

	dax_dev_restore(&dax);
	page_size = getpagesize();
	unit_size = max_t(u64, dax.align, MIN_UNIT);
	nr_units = dax.size / unit_size;
	require(nr_units, "The device is smaller than one range of it that is tested");
}
