// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guest memory from a device-DAX instance under fire: guests, host mappings,
 * files and memslots against unbind, close, holes and death, over and over
 * again.  Each case goes on for the time that -s gives in seconds (1), and checks
 * in each round what must hold whoever wins the race:
 *
 *  - when unbind has returned, nobody reaches the memory any more, although
 *    the vCPUs keep running, and whatever becomes of the device then;
 *  - nobody reads what another left in memory that is not kept;
 *  - what somebody wrote into memory that is his stays there;
 *  - no claim is left, and no claim lives on a device that is not bound.
 *
 * DESTROYS THE CONTENTS of the device that -d or GUEST_DAXFD_DEV names.  A small
 * device is best: each bind initialises a struct page for all of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "daxfd_util.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#include "kvm_test_harness.h"

/* The harness wants a limit; who wants one sets it from outside. */
#define STRESS_TIMEOUT	(24 * 60 * 60)

/* Guests touch one page in as much memory. */
#define STRIDE		SZ_64K
#define NR_STRIDES	(SLOT_SIZE / STRIDE)

/* From here on a case does all that its number asks for, and takes that time. */
#define LONG_RUN	10

/* Slow machines included; a guest or a lock that is waited for takes for ever. */
#define UNBIND_MS	20000

static unsigned int seconds = 1;
static unsigned int seed;

static unsigned int rnd(unsigned int below)
{
	return rand_r(&seed) % below;
}

struct stress {
	u64 end;
	u64 rounds;
};

/* A case goes on until its time is over, for one round at least. */
static bool another_round(struct stress *s)
{
	if (!s->end) {
		s->end = now_ms() + seconds * 1000ULL;
		return true;
	}

	s->rounds++;
	if (now_ms() < s->end)
		return true;

	printf("# %lu rounds\n", s->rounds);
	fflush(stdout);
	return false;
}

/*
 * A vCPU that touches its slot without end, whether there is memory or not
 */

struct hammer {
	struct loop loop;
	struct kvm_vcpu *vcpu;
	gpa_t gpa;
	u64 faults;
};

static void *hammer_thread(void *arg)
{
	struct hammer *h = arg;

	while (!READ_ONCE(h->loop.stop)) {
		int r = _vcpu_run(h->vcpu) ? errno : 0;

		TEST_ASSERT(!r || r == EFAULT, "Unexpected error %d", r);
		if (r) {
			assert_memory_fault(h->vcpu, h->gpa, SLOT_SIZE);
			WRITE_ONCE(h->faults, h->faults + 1);
		}
		WRITE_ONCE(h->loop.rounds, h->loop.rounds + 1);
	}
	return NULL;
}

/* vCPU i writes to a word of its own in the pages of slot n. */
static struct guest_cmd *hammer_prepare(struct hammer *h, struct ctx *c, int i, int n)
{
	struct guest_cmd *cmd = guest_cmd(c->vcpus[i]);

	h->vcpu = c->vcpus[i];
	h->gpa = MEM_GPA(n);
	h->faults = 0;
	guest_prepare(h->vcpu, GUEST_SPIN, MEM_GPA(n) + i * 8, 0, NR_STRIDES);
	cmd->page_size = STRIDE;
	return cmd;
}

static void hammer_start(struct hammer *h, struct ctx *c, int i, int n)
{
	hammer_prepare(h, c, i, n);
	__loop_start(&h->loop, c, hammer_thread);
}

static void hammer_stop(struct hammer *h)
{
	WRITE_ONCE(h->loop.stop, true);
	WRITE_ONCE(guest_cmd(h->vcpu)->stop, true);
	loop_stop(&h->loop);
}

/* The guest has been through all of its pages once since we came here. */
static void hammer_wait_pass(struct hammer *h)
{
	u64 passes = READ_ONCE(guest_cmd(h->vcpu)->rounds);

	while (READ_ONCE(guest_cmd(h->vcpu)->rounds) < passes + 2)
		usleep(100);
}

/* The guest has tried to touch its memory, and failed, since we came here. */
static void hammer_wait_fault(struct hammer *h)
{
	u64 faults = READ_ONCE(h->faults);

	while (READ_ONCE(h->faults) < faults + 2)
		usleep(100);
}

static void hammer_must_hang(struct hammer *h)
{
	u64 passes;

	hammer_wait_fault(h);
	passes = READ_ONCE(guest_cmd(h->vcpu)->rounds);
	hammer_wait_fault(h);
	TEST_ASSERT_EQ(READ_ONCE(guest_cmd(h->vcpu)->rounds), passes);
}

/* Somebody in the host who uses the same memory, and at times has a page mapped anew. */
struct reader {
	struct loop loop;
	u64 *mem;
};

static void *reader_thread(void *arg)
{
	struct reader *r = arg;
	u64 i = 0;

	while (!READ_ONCE(r->loop.stop)) {
		u64 *mem = &r->mem[i++ % NR_STRIDES * STRIDE / 8];

		host_can_read(mem);
		if (!r->loop.c->path->daxfd && !(i % 16))
			madvise(mem, page_size, MADV_DONTNEED);
		WRITE_ONCE(r->loop.rounds, r->loop.rounds + 1);
	}
	return NULL;
}

static bool step_pre_fault(struct loop *loop)
{
	u64 left;
	int r;

	r = pre_fault(loop->c->vcpus[2], MEM_GPA(0), SLOT_SIZE, &left);
	TEST_ASSERT(!r || r == -EFAULT, "Unexpected error %d", r);
	return true;
}

static void assert_not_claimed(void)
{
	TEST_ASSERT_EQ(dax_dev_claimed(&dax), 0);
	TEST_ASSERT(!claims_list_has(""), "A claim in debugfs");
}

static bool is_wiped(struct ctx *c)
{
	return !c->path->daxfd && !(c->path->flags & GUEST_MEMFD_FLAG_KEEP_DATA);
}

/* What is left on the device where the contents are not kept. */
static void assert_wiped(struct ctx *c, u64 offset, u64 len)
{
	if (is_wiped(c))
		dax_dev_check(&dax, offset, len, 0);
}

/* As above, where all was @old: nobody may have come to touch a block. */
static void assert_touched_is_wiped(struct ctx *c, u64 old)
{
	u64 offset, *mem;
	bool wiped;
	int i;

	for (i = 0; i < SLOT_SIZE / ZERO_SIZE && is_wiped(c); i++) {
		offset = slot_offset(0) + i * ZERO_SIZE;
		mem = dax_dev_mmap(&dax, offset, ZERO_SIZE);
		wiped = !*mem;
		dax_dev_munmap(&dax, mem, offset, ZERO_SIZE);
		dax_dev_check(&dax, offset, ZERO_SIZE, wiped ? 0 : old);
	}
}

/*
 * Everything that uses the memory, against unbind
 */

__DAXFD_FIXTURE(race, 3)
FIXTURE_VARIANT_ADD(race, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(race, create_keep) { .path = PATH_create_keep };
FIXTURE_VARIANT_ADD(race, short) { .path = PATH_short };

/*
 * The vCPUs never leave their loop: they go on when the device is bound again
 * and belongs to somebody else.
 */
TEST_F_TIMEOUT(race, fault_against_unbind, STRESS_TIMEOUT)
{
	struct hammer hammers[2] = {};
	struct reader reader = {};
	struct loop prefault = {};
	struct ctx *c = &self->c;
	struct stress s = {};
	int i;

	dax_dev_fill(&dax, slot_offset(0), SLOT_SIZE, HOST_DATA);
	while (another_round(&s)) {
		reopen(c);
		mem_add(c, 0);
		for (i = 0; i < ARRAY_SIZE(hammers) && !s.rounds; i++)
			hammer_start(&hammers[i], c, i, 0);
		reader.mem = host_map(c, 0);
		__loop_start(&reader.loop, c, reader_thread);
		if (kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
			loop_start(&prefault, c, step_pre_fault);
		/* At times unbind comes at the very first faults. */
		for (i = 0; i < ARRAY_SIZE(hammers) && rnd(2); i++)
			hammer_wait_pass(&hammers[i]);
		usleep(rnd(2000));

		unbind();
		assert_not_claimed();
		for (i = 0; i < NR_STRIDES; i++)
			TEST_ASSERT(!host_can_read(&reader.mem[i * STRIDE / 8]),
				    "A read after unbind");
		for (i = 0; i < ARRAY_SIZE(hammers); i++)
			hammer_must_hang(&hammers[i]);

		rebind();
		assert_touched_is_wiped(c, HOST_DATA);
		dax_dev_fill(&dax, slot_offset(0), SLOT_SIZE, HOST_DATA);
		for (i = 0; i < ARRAY_SIZE(hammers); i++)
			hammer_wait_fault(&hammers[i]);
		dax_dev_check(&dax, slot_offset(0), SLOT_SIZE, HOST_DATA);

		if (kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
			loop_stop(&prefault);
		loop_stop(&reader.loop);
		host_unmap(c, 0, reader.mem);
		mem_del(c, 0);
	}
	for (i = 0; i < ARRAY_SIZE(hammers); i++)
		hammer_stop(&hammers[i]);
	assert_device_is_free();
}

/* Odd while the device is certainly not bound. */
static u64 unbound_seq;

struct claimer {
	struct loop loop;
	int n;
	u64 refused;
};

/* Did the device stay unbound since *@seq was read? */
static bool was_unbound(u64 seq)
{
	return (seq & 1) && __atomic_load_n(&unbound_seq, __ATOMIC_SEQ_CST) == seq;
}

static u64 unbound_read(void)
{
	return __atomic_load_n(&unbound_seq, __ATOMIC_SEQ_CST);
}

static void unbound_bump(void)
{
	__atomic_fetch_add(&unbound_seq, 1, __ATOMIC_SEQ_CST);
}

static void claimer_use(struct ctx *c, int n)
{
	u64 seq = unbound_read();
	int r;

	r = do_fallocate(c->gmem[n], FALLOC_FL_KEEP_SIZE, 0, page_size);
	TEST_ASSERT(!r || r == -ENODEV, "Unexpected error %d", r);
	TEST_ASSERT(r || !was_unbound(seq), "The claim of a dead device lives");
}

static void *claimer_thread(void *arg)
{
	struct claimer *cl = arg;
	struct ctx *c = cl->loop.c;

	while (!READ_ONCE(cl->loop.stop)) {
		bool anew = cl->loop.rounds % 2;
		u64 seq = unbound_read();
		int fd, r;

		fd = anew ? __dax_dev_open(&dax, O_RDWR) : c->dax_fd;
		r = fd < 0 ? fd : claim(c, cl->n, fd, unit_offset(0), unit_size);
		TEST_ASSERT(!r || r == -EBUSY || r == -ENODEV || r == -ENXIO ||
			    r == -EINTR, "Unexpected error %d", r);
		TEST_ASSERT(r || !was_unbound(seq), "A claim of a dead device");
		if (!r) {
			if (!c->path->daxfd)
				claimer_use(c, cl->n);
			unclaim(c, cl->n);
		} else {
			cl->refused++;
		}
		if (anew && fd >= 0)
			kvm_close(fd);
		WRITE_ONCE(cl->loop.rounds, cl->loop.rounds + 1);
	}
	return NULL;
}

TEST_F_TIMEOUT(race, claim_against_unbind, STRESS_TIMEOUT)
{
	struct claimer claimers[2] = { { .n = 0 }, { .n = 1 } };
	struct stress s = {};
	u64 refused = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(claimers); i++)
		__loop_start(&claimers[i].loop, &self->c, claimer_thread);
	while (another_round(&s)) {
		for (i = 0; i < ARRAY_SIZE(claimers); i++)
			loop_wait(&claimers[i].loop);
		usleep(rnd(1000));
		unbind();
		unbound_bump();
		assert_not_claimed();
		for (i = 0; i < ARRAY_SIZE(claimers); i++)
			loop_wait(&claimers[i].loop);
		assert_not_claimed();
		unbound_bump();
		rebind();
	}
	for (i = 0; i < ARRAY_SIZE(claimers); i++) {
		loop_stop(&claimers[i].loop);
		refused += claimers[i].refused;
	}
	TEST_ASSERT(refused, "No claim met the unbound device");
	assert_device_is_free();
}

struct closer {
	struct ctx c;
	unsigned int delay;
	bool file_first;
};

static void *close_mem_thread(void *arg)
{
	struct closer *cl = arg;
	struct ctx *c = &cl->c;

	usleep(cl->delay);
	if (cl->file_first && !c->path->daxfd)
		kvm_free_fd(c->gmem[0]);
	TEST_ASSERT_OK(slot_delete(c->vm->fd, MEM_SLOT(0)));
	if (!cl->file_first && !c->path->daxfd)
		kvm_free_fd(c->gmem[0]);
	return NULL;
}

static void *close_vm_thread(void *arg)
{
	struct closer *cl = arg;

	usleep(cl->delay);
	ctx_free(&cl->c);
	return NULL;
}

/* Whoever comes first wipes; nobody returns before all is wiped. */
static void close_round(struct ctx *c, void *(*fn)(void *))
{
	struct closer cl = {
		.c = *c,
		.delay = rnd(3000),
		.file_first = rnd(2),
	};
	pthread_t thread;

	kvm_pthread_create(&thread, NULL, fn, &cl);
	usleep(rnd(3000));
	unbind();
	assert_not_claimed();
	kvm_pthread_join(thread, NULL);
	rebind();
	assert_not_claimed();
	assert_wiped(c, slot_offset(0), SLOT_SIZE);
}

/* The guest goes on writing while its memory is closed. */
TEST_F_TIMEOUT(race, close_against_unbind, STRESS_TIMEOUT)
{
	struct ctx *c = &self->c;
	struct hammer hammer = {};
	struct stress s = {};

	mem_map(c, 0);
	hammer_start(&hammer, c, 0, 0);
	while (another_round(&s)) {
		reopen(c);
		mem_add(c, 0);
		hammer_wait_pass(&hammer);
		close_round(c, close_mem_thread);
	}
	hammer_stop(&hammer);
	assert_device_is_free();
}

/* Delays of the kernel's that bring the two together, where it has them. */
static void random_delays(void)
{
	delay_set("vm_destroy", rnd(2) * rnd(30));
	delay_set("release", rnd(2) * rnd(30));
	delay_set("zap", rnd(2) * rnd(30));
}

static void no_delays(void)
{
	delay_set("vm_destroy", 0);
	delay_set("release", 0);
	delay_set("zap", 0);
}

TEST_F_TIMEOUT(race, vm_close_against_unbind, STRESS_TIMEOUT)
{
	struct stress s = {};

	while (another_round(&s)) {
		struct ctx c;

		ctx_clone(&c, &self->c);
		mem_add(&c, 0);
		TEST_ASSERT_OK(guest_do(c.vcpu, GUEST_FILL, MEM_GPA(0), GUEST_DATA,
					SLOT_SIZE / page_size));
		random_delays();
		close_round(&c, close_vm_thread);
		no_delays();
	}
	assert_device_is_free();
}

TEST_F_TIMEOUT(race, sigkill_against_unbind, STRESS_TIMEOUT)
{
	struct stress s = {};

	while (another_round(&s)) {
		pid_t pid = vmm_start(&self->c);
		int status;

		random_delays();
		kill(pid, SIGKILL);
		usleep(rnd(40000));
		unbind();
		assert_not_claimed();
		TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
		no_delays();
		rebind();
		assert_not_claimed();
		assert_wiped(&self->c, slot_offset(0), SLOT_SIZE);
	}
	assert_device_is_free();
}

/*
 * Memslots of both ways in one VM: unit 0 by KVM_MEM_GUEST_DAXFD, unit 1 by a
 * guest_memfd.
 */

__DAXFD_FIXTURE(churn, 2)
FIXTURE_VARIANT_ADD(churn, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(churn, create_keep) { .path = PATH_create_keep };

/* A file is good for one binding, so each try has its own. */
static int churn_open(void)
{
	int fd = __dax_dev_open(&dax, O_RDWR);

	TEST_ASSERT(fd >= 0 || fd == -ENXIO, "Unexpected error %d", fd);
	return fd;
}

static bool step_short(struct loop *loop)
{
	struct ctx *c = loop->c;
	int fd, r;

	fd = churn_open();
	if (fd < 0)
		return false;
	r = slot_set(c->vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_DAXFD,
		     MEM_GPA(0), SLOT_SIZE, NULL, fd, slot_offset(0));
	TEST_ASSERT(!r || r == -ENODEV, "Unexpected error %d", r);
	if (!r)
		TEST_ASSERT_OK(slot_delete(c->vm->fd, MEM_SLOT(0)));
	kvm_close(fd);
	return true;
}

static bool step_create(struct loop *loop)
{
	struct ctx *c = loop->c;
	int fd, r;

	fd = churn_open();
	if (fd < 0)
		return false;
	r = claim(c, 1, fd, unit_offset(1), unit_size);
	kvm_close(fd);
	TEST_ASSERT(!r || r == -ENODEV, "Unexpected error %d", r);
	if (!r) {
		/* A dead file is a file. */
		TEST_ASSERT_OK(__mem_slot(c, 1, NULL));
		mem_del(c, 1);
	}
	return true;
}

TEST_F_TIMEOUT(churn, slots_against_unbind, STRESS_TIMEOUT)
{
	bool (*steps[])(struct loop *) = { step_short, step_create };
	struct hammer hammers[2] = {};
	struct loop loops[2] = {};
	struct stress s = {};
	int i;

	if (nr_units < 2)
		SKIP(return, "%s is too small for two claims of %lu MiB",
		     dax.name, unit_size >> 20);

	for (i = 0; i < ARRAY_SIZE(loops); i++) {
		mem_map(&self->c, i);
		loop_start(&loops[i], &self->c, steps[i]);
		hammer_start(&hammers[i], &self->c, i, i);
	}
	while (another_round(&s)) {
		for (i = 0; i < ARRAY_SIZE(loops); i++)
			loop_wait(&loops[i]);
		usleep(rnd(3000));
		unbind();
		assert_not_claimed();
		rebind();
	}
	for (i = 0; i < ARRAY_SIZE(loops); i++) {
		loop_stop(&loops[i]);
		hammer_stop(&hammers[i]);
	}
	assert_device_is_free();
}

/*
 * Contents of a guest_memfd
 */

__DAXFD_FIXTURE(contents, 2)
FIXTURE_VARIANT_ADD(contents, create) { .path = PATH_create };

#define WIPE_SIZE	SZ_64M

static u64 wipe_size(void)
{
	return min_t(u64, WIPE_SIZE, dax.size & ~(dax.align - 1));
}

/* All processes that unbind: the device is free when they return. */
static void unbind_maybe(void)
{
	int r = dax_dev_unbind(&dax, DAX_DRIVER_DEVICE);

	TEST_ASSERT(!r || r == -ENODEV, "Unexpected error %d", r);
	assert_not_claimed();
}

/* Forked before there is a file whose last close is to be seen. */
static pid_t unbind_in_child(int go_fd, unsigned int delay)
{
	pid_t pid = fork();
	char go;

	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		TEST_ASSERT_EQ(read(go_fd, &go, 1), 1);
		usleep(delay);
		unbind_maybe();
		_exit(0);
	}
	return pid;
}

static void *close_fd_thread(void *arg)
{
	kvm_close(*(int *)arg);
	return NULL;
}

/* A wipe that takes a while, and two processes that unbind meanwhile. */
TEST_F_TIMEOUT(contents, wipe_against_two_unbinds, STRESS_TIMEOUT)
{
	u64 claimed = max(wipe_size(), dax.align), len = wipe_size(), offset;
	struct ctx *c = &self->c;
	struct stress s = {};
	int go[2];

	TEST_ASSERT(!pipe(go), "pipe() failed");
	while (another_round(&s)) {
		pid_t pid = unbind_in_child(go[0], rnd(20000));
		int fd, status;
		pthread_t thread;
		char *mem;

		reopen(c);
		fd = gmem_create(c->vm->fd, c->path->flags, c->dax_fd, 0, claimed);
		TEST_ASSERT(fd >= 0, "Creating a guest_memfd failed: %d", fd);
		TEST_ASSERT_OK(do_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, len));
		mem = __kvm_mmap(len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		for (offset = 0; offset < len; offset += SZ_256K)
			*(u64 *)(mem + offset) = GUEST_DATA;

		/* A mapping is a reference to the file. */
		kvm_munmap(mem, len);
		TEST_ASSERT_EQ(write(go[1], "", 1), 1);
		kvm_pthread_create(&thread, NULL, close_fd_thread, &fd);
		usleep(rnd(20000));
		unbind_maybe();
		TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
		TEST_ASSERT_EQ(status, 0);
		kvm_pthread_join(thread, NULL);

		rebind();
		mem = dax_dev_mmap(&dax, 0, len);
		for (offset = 0; offset < len; offset += SZ_256K)
			TEST_ASSERT(!*(u64 *)(mem + offset),
				    "Not wiped at 0x%lx", offset);
		dax_dev_munmap(&dax, mem, 0, len);
	}
	assert_device_is_free();
}

/*
 * The same memory for the first time, by two vCPUs, a host mapping and
 * fallocate() at once.  Each has a word of its own in each page that they touch.
 */

#define TOUCH_STRIDE	SZ_256K
#define TOUCH_WORDS	3
#define UNUSED_WORD	7

static void guest_first_touch(struct guest_cmd *cmd)
{
	u64 *p = (u64 *)cmd->gpa;
	u64 i;

	WRITE_ONCE(cmd->rounds, 1);
	while (!READ_ONCE(cmd->stop))
		cpu_relax();
	for (i = 0; i < cmd->nr_pages; i++, p += TOUCH_STRIDE / 8) {
		GUEST_ASSERT_EQ(READ_ONCE(*p), 0);
		WRITE_ONCE(*p, cmd->val ^ (u64)p);
	}
}

struct toucher {
	pthread_t thread;
	struct ctx *c;
	struct kvm_vcpu *vcpu;
	u64 *mem;
	bool *go;
};

static void touch_wait(struct toucher *t)
{
	while (!READ_ONCE(*t->go))
		sched_yield();
}

static void *touch_guest(void *arg)
{
	struct toucher *t = arg;

	TEST_ASSERT_OK(guest_run(t->vcpu));
	return NULL;
}

static void *touch_host(void *arg)
{
	struct toucher *t = arg;
	u64 i, *p = t->mem + 2;

	touch_wait(t);
	for (i = 0; i < SLOT_SIZE / TOUCH_STRIDE; i++, p += TOUCH_STRIDE / 8) {
		TEST_ASSERT_EQ(READ_ONCE(*p), 0);
		WRITE_ONCE(*p, HOST_DATA + i);
	}
	return NULL;
}

static void *touch_allocate(void *arg)
{
	struct toucher *t = arg;

	touch_wait(t);
	TEST_ASSERT_OK(do_fallocate(t->c->gmem[0], FALLOC_FL_KEEP_SIZE, 0,
				    4 * ZERO_SIZE));
	return NULL;
}

static void dirty_pages(u64 offset, u64 len, u64 stride)
{
	u64 *mem = dax_dev_mmap(&dax, offset, len), i, j;

	for (i = 0; i < len; i += stride) {
		for (j = 0; j <= UNUSED_WORD; j++)
			WRITE_ONCE(mem[i / 8 + j], OLD_DATA);
	}
	dax_dev_munmap(&dax, mem, offset, len);
}

static void first_touch_round(struct ctx *c)
{
	u64 nr = SLOT_SIZE / TOUCH_STRIDE, i, *p;
	struct toucher t[4] = {};
	bool go = false;
	int v;

	for (i = 0; i < ARRAY_SIZE(t); i++) {
		t[i].c = c;
		t[i].go = &go;
	}
	p = host_map(c, 0);
	t[2].mem = p;
	for (v = 0; v < 2; v++) {
		t[v].vcpu = c->vcpus[v];
		guest_prepare(t[v].vcpu, GUEST_CALL, MEM_GPA(0) + v * 8,
			      GUEST_DATA + v, nr);
		guest_cmd(t[v].vcpu)->fn = guest_first_touch;
		kvm_pthread_create(&t[v].thread, NULL, touch_guest, &t[v]);
	}
	kvm_pthread_create(&t[2].thread, NULL, touch_host, &t[2]);
	kvm_pthread_create(&t[3].thread, NULL, touch_allocate, &t[3]);
	for (v = 0; v < 2; v++) {
		while (!READ_ONCE(guest_cmd(t[v].vcpu)->rounds))
			usleep(100);
	}
	for (v = 0; v < 2; v++)
		WRITE_ONCE(guest_cmd(t[v].vcpu)->stop, true);
	WRITE_ONCE(go, true);
	for (v = 0; v < ARRAY_SIZE(t); v++)
		kvm_pthread_join(t[v].thread, NULL);

	for (i = 0; i < nr; i++, p += TOUCH_STRIDE / 8) {
		gpa_t gpa = MEM_GPA(0) + i * TOUCH_STRIDE;

		TEST_ASSERT_EQ(READ_ONCE(p[0]), GUEST_DATA ^ gpa);
		TEST_ASSERT_EQ(READ_ONCE(p[1]), (GUEST_DATA + 1) ^ (gpa + 8));
		TEST_ASSERT_EQ(READ_ONCE(p[2]), HOST_DATA + i);
		TEST_ASSERT_EQ(READ_ONCE(p[UNUSED_WORD]), 0);
	}
	host_unmap(c, 0, t[2].mem);
}

TEST_F_TIMEOUT(contents, first_touch, STRESS_TIMEOUT)
{
	struct ctx *c = &self->c;
	struct stress s = {};

	while (another_round(&s)) {
		dirty_pages(slot_offset(0), SLOT_SIZE, TOUCH_STRIDE);
		mem_add(c, 0);
		first_touch_round(c);
		mem_del(c, 0);
	}
	assert_device_is_free();
}

/*
 * Holes under guests that write and a host that reads
 */

__DAXFD_FIXTURE(hole, 2)
FIXTURE_VARIANT_ADD(hole, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(hole, create_keep) { .path = PATH_create_keep };

static void guest_check_zero(struct guest_cmd *cmd)
{
	u64 *p = (u64 *)cmd->gpa;
	u64 i;

	for (i = 0; i < cmd->nr_pages; i++, p += cmd->page_size / 8)
		GUEST_ASSERT_EQ(READ_ONCE(*p), 0);
}

static void guest_call(struct kvm_vcpu *vcpu, void (*fn)(struct guest_cmd *),
		       gpa_t gpa, u64 val, u64 nr, u64 stride)
{
	guest_prepare(vcpu, GUEST_CALL, gpa, val, nr);
	guest_cmd(vcpu)->fn = fn;
	guest_cmd(vcpu)->page_size = stride;
	TEST_ASSERT_OK(guest_run(vcpu));
}

static void punch_random(struct ctx *c)
{
	u64 start, len;

	switch (rnd(3)) {
	case 0:
		start = rnd(SLOT_SIZE / page_size) * page_size;
		len = page_size;
		break;
	case 1:
		start = rnd(2) * ZERO_SIZE;
		len = ZERO_SIZE;
		break;
	default:
		start = 0;
		len = SLOT_SIZE;
		break;
	}
	TEST_ASSERT_OK(punch(c, SLOT_OFFSET + start, len));
}

/* The guests rest.  What they write now must be there for all to see. */
static void check_after_holes(struct ctx *c)
{
	u64 i, *mem;
	int v;

	for (v = 0; v < 2; v++) {
		guest_prepare(c->vcpus[v], GUEST_FILL, MEM_GPA(0) + v * 8,
			      GUEST_DATA, NR_STRIDES);
		guest_cmd(c->vcpus[v])->page_size = STRIDE;
		TEST_ASSERT_OK(guest_run(c->vcpus[v]));
	}
	mem = host_map(c, 0);
	for (i = 0; i < SLOT_SIZE; i += STRIDE) {
		for (v = 0; v < 2; v++)
			TEST_ASSERT_EQ(READ_ONCE(mem[i / 8 + v]),
				       (MEM_GPA(0) + i + v * 8) ^ GUEST_DATA);
	}

	TEST_ASSERT_OK(punch(c, SLOT_OFFSET, SLOT_SIZE));
	for (v = 0; v < 2; v++)
		guest_call(c->vcpus[v], guest_check_zero, MEM_GPA(0) + v * 8, 0,
			   NR_STRIDES, STRIDE);
	for (i = 0; i < SLOT_SIZE / 8; i++)
		TEST_ASSERT_EQ(READ_ONCE(mem[i]), 0);
	host_unmap(c, 0, mem);
}

TEST_F_TIMEOUT(hole, against_guests_and_host, STRESS_TIMEOUT)
{
	struct hammer hammers[2] = {};
	struct reader reader = {};
	struct ctx *c = &self->c;
	struct stress s = {};
	int i;

	mem_add(c, 0);
	reader.mem = host_map(c, 0);
	__loop_start(&reader.loop, c, reader_thread);
	while (another_round(&s)) {
		for (i = 0; i < ARRAY_SIZE(hammers); i++)
			hammer_start(&hammers[i], c, i, 0);
		for (i = 0; i < ARRAY_SIZE(hammers); i++)
			hammer_wait_pass(&hammers[i]);
		for (i = 0; i < 20; i++)
			punch_random(c);
		for (i = 0; i < ARRAY_SIZE(hammers); i++)
			hammer_stop(&hammers[i]);
		check_after_holes(c);
	}
	loop_stop(&reader.loop);
	host_unmap(c, 0, reader.mem);
}

#define ZAP_FAULTS	100000

/* Most of a block, but not all of it, which would be zeroed anew. */
#define ZAP_PAGES	448

/*
 * As many faults as it takes for something that each of them leaks to show:
 * each hole takes all of the guest's pages away.
 */
TEST_F_TIMEOUT(hole, many_faults_then_unbind, STRESS_TIMEOUT)
{
	struct hammer hammers[2] = {};
	u64 faults = 0, start;
	struct ctx *c = &self->c;
	struct stress s = {};
	int i;

	mem_add(c, 0);
	for (i = 0; i < ARRAY_SIZE(hammers); i++) {
		struct guest_cmd *cmd = hammer_prepare(&hammers[i], c, i, 0);

		cmd->nr_pages = ZAP_PAGES;
		cmd->page_size = page_size;
		__loop_start(&hammers[i].loop, c, hammer_thread);
	}
	while ((seconds >= LONG_RUN && faults < ZAP_FAULTS) || another_round(&s)) {
		TEST_ASSERT_OK(punch(c, SLOT_OFFSET, ZAP_PAGES * page_size));
		hammer_wait_pass(&hammers[s.rounds % ARRAY_SIZE(hammers)]);
		faults += ZAP_PAGES;
	}
	printf("# %lu faults at least\n", faults);
	fflush(stdout);

	start = now_ms();
	unbind();
	TEST_ASSERT(now_ms() - start < UNBIND_MS, "unbind took %lu ms",
		    now_ms() - start);
	for (i = 0; i < ARRAY_SIZE(hammers); i++) {
		hammer_must_hang(&hammers[i]);
		hammer_stop(&hammers[i]);
	}
	rebind();
	mem_del(c, 0);
	assert_device_is_free();
}

/*
 * fallocate() of the whole of /dev/daxX.Y: unbind does not wait for its end, and
 * nothing is zeroed when it is back.
 */

FIXTURE(device) {
	int dax_fd;
};

FIXTURE_SETUP(device)
{
	dax_dev_restore(&dax);
	self->dax_fd = dax_dev_open(&dax);
}

FIXTURE_TEARDOWN_PARENT(device)
{
	check_after_test();
}

struct writer {
	pthread_t thread;
	int fd;
	bool *stop;
	u64 calls;
};

static void *writer_thread(void *arg)
{
	struct writer *w = arg;
	int r = 0;

	while (!r && !READ_ONCE(*w->stop)) {
		r = do_fallocate(w->fd, FALLOC_PUNCH, 0, dax.size);
		TEST_ASSERT(!r || r == -ENODEV, "Unexpected error %d", r);
		WRITE_ONCE(w->calls, w->calls + 1);
	}
	return NULL;
}

TEST_F_TIMEOUT(device, slow_writers_against_unbind, STRESS_TIMEOUT)
{
	u64 end = dax.size - max_t(u64, dax.align, SZ_2M), start;
	struct stress s = {};
	int i;

	while (another_round(&s)) {
		struct writer writers[2] = {};
		bool stop = false;

		kvm_close(self->dax_fd);
		self->dax_fd = dax_dev_open(&dax);
		for (i = 0; i < ARRAY_SIZE(writers); i++) {
			writers[i].fd = self->dax_fd;
			writers[i].stop = &stop;
			kvm_pthread_create(&writers[i].thread, NULL,
					   writer_thread, &writers[i]);
		}
		usleep(rnd(20000));
		/* What is under way now is the last of it. */
		WRITE_ONCE(stop, true);
		usleep(rnd(1000));
		start = now_ms();
		unbind();
		TEST_ASSERT(now_ms() - start < UNBIND_MS, "unbind took %lu ms",
			    now_ms() - start);
		assert_not_claimed();
		rebind();
		dax_dev_write(&dax, 0, HOST_DATA);
		dax_dev_write(&dax, end, HOST_DATA);
		for (i = 0; i < ARRAY_SIZE(writers); i++)
			kvm_pthread_join(writers[i].thread, NULL);
		TEST_ASSERT_EQ(dax_dev_read(&dax, 0), HOST_DATA);
		TEST_ASSERT_EQ(dax_dev_read(&dax, end), HOST_DATA);
	}
}

/*
 * Secrets: a VM fills its memory with a pattern and loses it, one way or the
 * other.  Whoever gets the memory next finds nothing of it.
 */

#define SECRET		0x5ec2e75ec2e75ec2ULL
#define LATE_SECRET	0x1a7e5ec2e71a7e50ULL

enum loss {
	LOSS_SIGKILL,
	LOSS_UNBIND,
	LOSS_UNBIND_SIGKILL,
	NR_LOSSES,
};

__DAXFD_FIXTURE(secret, 2)
FIXTURE_VARIANT_ADD(secret, create) { .path = PATH_create };

static void guest_find_secret(struct guest_cmd *cmd)
{
	u64 *p = (u64 *)cmd->gpa;
	u64 i;

	for (i = 0; i < SLOT_SIZE / 8; i++)
		GUEST_ASSERT_EQ(READ_ONCE(p[i]), 0);
}

static void secret_main(struct ctx *parent, int ready_fd)
{
	u64 offset, *mem;
	char ready = 1;
	struct ctx c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ctx_clone(&c, parent);
	mem_add(&c, 0);
	/* Half of it by the host, half by the guest, who goes on with it. */
	mem = host_map(&c, 0);
	for (offset = 0; offset < SLOT_SIZE / 2; offset += 64)
		mem[offset / 8] = SECRET;
	guest_prepare(c.vcpu, GUEST_FILL, MEM_GPA(0) + SLOT_SIZE / 2, SECRET,
		      SLOT_SIZE / 2 / 64);
	guest_cmd(c.vcpu)->page_size = 64;
	TEST_ASSERT_OK(guest_run(c.vcpu));
	TEST_ASSERT_EQ(write(ready_fd, &ready, 1), 1);
	for (;;)
		guest_run(c.vcpu);
}

static void find_secret(struct ctx *c)
{
	u64 i, *mem;

	/* The next VM, which must not count on the wipe; then the host. */
	if (rnd(2)) {
		reopen(c);
		mem_add(c, 0);
		guest_call(c->vcpus[0], guest_find_secret, MEM_GPA(0), 0, 1, 0);
		mem = host_map(c, 0);
		for (i = 0; i < SLOT_SIZE / 8; i++)
			TEST_ASSERT_EQ(READ_ONCE(mem[i]), 0);
		host_unmap(c, 0, mem);
		mem_del(c, 0);
	}
	dax_dev_check(&dax, slot_offset(0), SLOT_SIZE, 0);
}

TEST_F_TIMEOUT(secret, found_by_nobody, STRESS_TIMEOUT)
{
	struct ctx *c = &self->c;
	struct stress s = {};

	while (another_round(&s)) {
		enum loss loss = s.rounds % NR_LOSSES;
		pid_t pid = __vmm_start(c, secret_main);

		if (loss != LOSS_SIGKILL)
			unbind();
		if (loss != LOSS_UNBIND)
			vmm_kill(pid);
		if (loss != LOSS_SIGKILL)
			rebind();
		find_secret(c);
		if (loss == LOSS_UNBIND)
			vmm_kill(pid);
		dax_dev_check(&dax, slot_offset(0), SLOT_SIZE, 0);
	}
	assert_device_is_free();
}

/*
 * The memory becomes system RAM while the vCPUs of its former owner still run
 */

#define MEM_BLOCK_SIZE	"/sys/devices/system/memory/block_size_bytes"

struct ram {
	u64 offset;	/* on the device */
	u64 phys;
	u64 size;
};

static u64 read_number(const char *path, int base)
{
	FILE *f = fopen(path, "r");
	char line[64];
	u64 val = 0;

	if (f && fgets(line, sizeof(line), f))
		val = strtoull(line, NULL, base);
	if (f)
		fclose(f);
	return val;
}

/* A claim that lies in a block of memory, which is what can be hotplugged. */
static bool ram_find(struct ram *ram)
{
	u64 block = read_number(MEM_BLOCK_SIZE, 16), start;
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/dax/devices/%s/resource", dax.name);
	start = read_number(path, 0);
	if (!block || !start)
		return false;

	ram->phys = (start + block - 1) & ~(block - 1);
	ram->offset = ram->phys - start;
	ram->size = SLOT_SIZE;
	return !(ram->offset & (dax.align - 1)) &&
	       ram->offset + max(block, unit_size) <= dax.size;
}

static u64 ram_count(struct ram *ram, u64 secret)
{
	int fd = open("/dev/mem", O_RDONLY);
	u64 buf[SZ_64K / 8], found = 0, done;
	size_t i;

	TEST_ASSERT(fd >= 0, "Opening /dev/mem failed");
	for (done = 0; done < ram->size; done += sizeof(buf)) {
		TEST_ASSERT(pread(fd, buf, sizeof(buf), ram->phys + done) ==
			    sizeof(buf), "Reading RAM at 0x%lx failed",
			    ram->phys + done);
		for (i = 0; i < ARRAY_SIZE(buf); i++)
			found += buf[i] == secret;
	}
	kvm_close(fd);
	return found;
}

__DAXFD_FIXTURE(kmem, 2)
FIXTURE_VARIANT_ADD(kmem, create) { .path = PATH_create };
FIXTURE_VARIANT_ADD(kmem, create_keep) { .path = PATH_create_keep };
FIXTURE_VARIANT_ADD(kmem, short) { .path = PATH_short };

static int kmem_slot(struct ctx *c, struct ram *ram)
{
	int r;

	if (c->path->daxfd)
		return slot_set(c->vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_DAXFD,
				MEM_GPA(0), ram->size, NULL, c->dax_fd,
				ram->offset);

	r = claim(c, 0, c->dax_fd, ram->offset, unit_size);
	if (r)
		return r;
	return slot_set(c->vm->fd, MEM_SLOT(0), KVM_MEM_GUEST_MEMFD, MEM_GPA(0),
			ram->size, NULL, c->gmem[0], 0);
}

static void guest_write_secret(struct guest_cmd *cmd)
{
	u64 i;

	while (!READ_ONCE(cmd->stop)) {
		for (i = 0; i < cmd->nr_pages; i++)
			WRITE_ONCE(*(u64 *)(cmd->gpa + i * cmd->page_size),
				   READ_ONCE(cmd->val));
		WRITE_ONCE(cmd->rounds, cmd->rounds + 1);
	}
}

/* When it is RAM, the guests write something that has never been there. */
static void kmem_round(struct ctx *c, struct hammer *hammers, struct ram *ram)
{
	int i;

	unbind();
	TEST_ASSERT_OK(dax_dev_bind(&dax, DAX_DRIVER_KMEM));
	TEST_ASSERT(dax_dev_is_bound(&dax, DAX_DRIVER_KMEM),
		    "%s is not bound to %s", dax.name, DAX_DRIVER_KMEM);
	/* The driver onlines what is unplugged, and nothing else. */
	dax_dev_set_state(&dax, "unplugged");
	dax_dev_set_state(&dax, "online_movable");

	for (i = 0; i < 2; i++) {
		WRITE_ONCE(guest_cmd(c->vcpus[i])->val, LATE_SECRET);
		hammer_must_hang(&hammers[i]);
	}
	TEST_ASSERT_EQ(ram_count(ram, LATE_SECRET), 0);
	if (is_wiped(c))
		TEST_ASSERT_EQ(ram_count(ram, SECRET), 0);
	else
		/* What was to be kept shows that the scan sees something. */
		TEST_ASSERT(ram_count(ram, SECRET), "Nothing is in RAM");
	for (i = 0; i < 2; i++)
		hammer_must_hang(&hammers[i]);
	TEST_ASSERT_EQ(ram_count(ram, LATE_SECRET), 0);

	dax_dev_restore(&dax);
}

TEST_F_TIMEOUT(kmem, guest_keeps_writing, STRESS_TIMEOUT)
{
	struct hammer hammers[2] = {};
	struct ctx *c = &self->c;
	struct stress s = {};
	struct ram ram;
	int i;

	if (!dax_driver_exists(DAX_DRIVER_KMEM) || access("/dev/mem", R_OK))
		SKIP(return, "Needs CONFIG_DEV_DAX_KMEM and CONFIG_DEVMEM without STRICT_DEVMEM");
	if (!ram_find(&ram))
		SKIP(return, "%s has no block of hotpluggable memory at its alignment",
		     dax.name);

	mem_map(c, 0);
	while (another_round(&s)) {
		reopen(c);
		TEST_ASSERT_OK(kmem_slot(c, &ram));
		for (i = 0; i < 2; i++) {
			struct guest_cmd *cmd = hammer_prepare(&hammers[i], c, i, 0);

			cmd->op = GUEST_CALL;
			cmd->fn = guest_write_secret;
			cmd->val = SECRET;
			__loop_start(&hammers[i].loop, c, hammer_thread);
		}
		for (i = 0; i < 2; i++)
			hammer_wait_pass(&hammers[i]);
		kmem_round(c, hammers, &ram);
		for (i = 0; i < 2; i++)
			hammer_stop(&hammers[i]);
		mem_del(c, 0);
	}
	assert_device_is_free();
}

/* -s SECONDS, which the harness does not know. */
static void times_from_args(int *argc, char **argv)
{
	int i, left = 0;

	for (i = 0; i < *argc; i++) {
		if (!strcmp(argv[i], "-s") && i + 1 < *argc)
			seconds = atoi_positive("Seconds", argv[++i]);
		else
			argv[left++] = argv[i];
	}
	argv[left] = NULL;
	*argc = left;
}

int main(int argc, char *argv[])
{
	const char *path = device_from_args(&argc, argv);
	const char *env = getenv("GUEST_DAXFD_SEED");

	times_from_args(&argc, argv);
	require_device(path);

	use_device(path);
	seed = env ? strtoul(env, NULL, 0) : now_ms();
	printf("# %u s a case, GUEST_DAXFD_SEED=%u\n", seconds, seed);
	fflush(stdout);
	return test_harness_run(argc, argv);
}
