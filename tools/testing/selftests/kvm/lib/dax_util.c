// SPDX-License-Identifier: GPL-2.0-only
/*
 * Everything here works on the one device that the user of the test named;
 * what stands in that device is destroyed.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "dax_util.h"
#include "kvm_util.h"
#include "test_util.h"

#define SYSFS_DAX	"/sys/bus/dax"

static int read_line(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "r");
	char *line;

	if (!f)
		return -errno;

	line = fgets(buf, size, f);
	fclose(f);
	if (!line)
		return -EIO;

	buf[strcspn(buf, "\n")] = '\0';
	return 0;
}

static int write_line(const char *path, const char *line)
{
	int fd = open(path, O_WRONLY);
	ssize_t r;

	if (fd < 0)
		return -errno;

	r = write(fd, line, strlen(line));
	r = r < 0 ? -errno : 0;
	close(fd);
	return r;
}

static u64 read_attr(struct dax_dev *dev, const char *attr)
{
	char path[PATH_MAX], buf[64];
	int r;

	snprintf(path, sizeof(path), SYSFS_DAX "/devices/%s/%s", dev->name, attr);
	r = read_line(path, buf, sizeof(buf));
	TEST_ASSERT(!r, "Reading %s failed: %d", path, r);

	return strtoull(buf, NULL, 0);
}

/*
 * Returns 0, -errno, or -ENOTTY if @path is something else than device-DAX.
 * The name comes from the device number: @path may be any node or link.
 */
int dax_dev_init(struct dax_dev *dev, const char *path)
{
	char link[PATH_MAX], real[PATH_MAX];
	struct stat st;

	if (stat(path, &st))
		return -errno;
	if (!S_ISCHR(st.st_mode))
		return -ENOTTY;

	snprintf(link, sizeof(link), "/sys/dev/char/%u:%u", major(st.st_rdev),
		 minor(st.st_rdev));
	if (!realpath(link, real))
		return -errno;

	snprintf(dev->path, sizeof(dev->path), "%s", path);
	snprintf(dev->name, sizeof(dev->name), "%.31s", strrchr(real, '/') + 1);

	snprintf(link, sizeof(link), SYSFS_DAX "/devices/%s", dev->name);
	if (access(link, F_OK))
		return -ENOTTY;

	dev->size = read_attr(dev, "size");
	dev->align = read_attr(dev, "align");
	return 0;
}

int __dax_dev_open(struct dax_dev *dev, int flags)
{
	int fd = open(dev->path, flags | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int dax_dev_open(struct dax_dev *dev)
{
	int fd = __dax_dev_open(dev, O_RDWR);

	TEST_ASSERT(fd >= 0, "Opening %s failed: %d", dev->path, fd);
	return fd;
}

u64 dax_dev_claimed(struct dax_dev *dev)
{
	return read_attr(dev, "claimed_size");
}

static int driver_write(const char *driver, const char *attr, const char *line)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), SYSFS_DAX "/drivers/%s/%s", driver, attr);
	return write_line(path, line);
}

bool dax_driver_exists(const char *driver)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), SYSFS_DAX "/drivers/%s", driver);
	return !access(path, F_OK);
}

bool dax_dev_is_bound(struct dax_dev *dev, const char *driver)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), SYSFS_DAX "/drivers/%s/%s", driver, dev->name);
	return !access(path, F_OK);
}

int dax_dev_unbind(struct dax_dev *dev, const char *driver)
{
	int r = driver_write(driver, "unbind", dev->name);

	/* See dax_dev_bind(); the user may have put an id into device_dax. */
	if (strcmp(driver, DAX_DRIVER_DEVICE))
		driver_write(driver, "remove_id", dev->name);
	return r;
}

/* Other drivers take the device by its id, which binds it at once. */
int dax_dev_bind(struct dax_dev *dev, const char *driver)
{
	if (strcmp(driver, DAX_DRIVER_DEVICE))
		return driver_write(driver, "new_id", dev->name);

	return driver_write(driver, "bind", dev->name);
}

/* While it is bound to DAX_DRIVER_KMEM: what the memory is used for. */
void dax_dev_set_state(struct dax_dev *dev, const char *state)
{
	char path[PATH_MAX], buf[64];
	int r;

	snprintf(path, sizeof(path), SYSFS_DAX "/devices/%s/state", dev->name);
	r = read_line(path, buf, sizeof(buf));
	TEST_ASSERT(!r, "Reading %s failed: %d", path, r);
	if (!strcmp(buf, state))
		return;

	r = write_line(path, state);
	TEST_ASSERT(!r, "Writing %s to %s failed: %d", state, path, r);
}

/* Undo whatever a failed test left behind. */
void dax_dev_restore(struct dax_dev *dev)
{
	int r;

	if (dax_dev_is_bound(dev, DAX_DRIVER_DEVICE))
		return;

	if (dax_dev_is_bound(dev, DAX_DRIVER_FSDEV))
		dax_dev_unbind(dev, DAX_DRIVER_FSDEV);
	if (dax_dev_is_bound(dev, DAX_DRIVER_KMEM)) {
		dax_dev_set_state(dev, "unplugged");
		dax_dev_unbind(dev, DAX_DRIVER_KMEM);
	}

	r = dax_dev_bind(dev, DAX_DRIVER_DEVICE);
	TEST_ASSERT(!r, "Binding %s to %s failed: %d", dev->name,
		    DAX_DRIVER_DEVICE, r);
}

/* /dev/daxX.Y is mapped in multiples of its alignment only. */
static u64 map_start(struct dax_dev *dev, u64 offset)
{
	return offset & ~(dev->align - 1);
}

static u64 map_len(struct dax_dev *dev, u64 offset, u64 len)
{
	return ((offset + len + dev->align - 1) & ~(dev->align - 1)) -
	       map_start(dev, offset);
}

void *dax_dev_mmap(struct dax_dev *dev, u64 offset, u64 len)
{
	u64 start = map_start(dev, offset);
	int fd = dax_dev_open(dev);
	void *mem;

	mem = __kvm_mmap(map_len(dev, offset, len), PROT_READ | PROT_WRITE,
			 MAP_SHARED, fd, start);
	kvm_close(fd);

	return mem + (offset - start);
}

void dax_dev_munmap(struct dax_dev *dev, void *mem, u64 offset, u64 len)
{
	kvm_munmap(mem - (offset - map_start(dev, offset)),
		   map_len(dev, offset, len));
}

u64 dax_dev_read(struct dax_dev *dev, u64 offset)
{
	u64 *mem = dax_dev_mmap(dev, offset, sizeof(*mem));
	u64 val = READ_ONCE(*mem);

	dax_dev_munmap(dev, mem, offset, sizeof(*mem));
	return val;
}

void dax_dev_write(struct dax_dev *dev, u64 offset, u64 val)
{
	dax_dev_fill(dev, offset, sizeof(val), val);
}

void dax_dev_fill(struct dax_dev *dev, u64 offset, u64 len, u64 val)
{
	u64 *mem = dax_dev_mmap(dev, offset, len);
	u64 i;

	for (i = 0; i < len / sizeof(*mem); i++)
		WRITE_ONCE(mem[i], val);

	dax_dev_munmap(dev, mem, offset, len);
}

void dax_dev_check(struct dax_dev *dev, u64 offset, u64 len, u64 val)
{
	u64 *mem = dax_dev_mmap(dev, offset, len);
	u64 i;

	for (i = 0; i < len / sizeof(*mem); i++)
		TEST_ASSERT(READ_ONCE(mem[i]) == val,
			    "%s at 0x%lx: expected 0x%lx, got 0x%lx", dev->name,
			    offset + i * sizeof(*mem), val, mem[i]);

	dax_dev_munmap(dev, mem, offset, len);
}

/*
 * Returns the line's value, without the tab.  The VFS has keys of its own, all
 * of them above the file's.
 */
bool fdinfo_get(int fd, const char *key, char *val, size_t size)
{
	char path[64], line[256];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "r");
	TEST_ASSERT(f, "There is no %s", path);
	while (fgets(line, sizeof(line), f)) {
		size_t len = strlen(key);

		if (strncmp(line, key, len) || strncmp(line + len, ":\t", 2))
			continue;
		snprintf(val, size, "%s", line + len + 2);
		val[strcspn(val, "\n")] = '\0';
		found = true;
	}
	fclose(f);
	return found;
}

u64 fdinfo_number(int fd, const char *key)
{
	char val[128];

	TEST_ASSERT(fdinfo_get(fd, key, val, sizeof(val)), "fdinfo has no '%s'", key);
	return strtoull(val, NULL, 0);
}

/* Physical memory of a guest_memfd, in the order of its offsets. */
int fdinfo_extents(int fd, struct dax_extent *extents, int max)
{
	u64 offset = 0, first, last;
	char path[64], line[256];
	int nr = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "r");
	TEST_ASSERT(f, "There is no %s", path);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "dax-extent: %lx-%lx", &first, &last) != 2)
			continue;
		TEST_ASSERT(nr < max, "More than %d extents", max);
		extents[nr++] = (struct dax_extent) {
			.offset = offset,
			.phys = first,
			.size = last - first + 1,
		};
		offset += last - first + 1;
	}
	fclose(f);
	return nr;
}
