/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A device-DAX instance, as sysfs and /dev/daxX.Y show it.
 */
#ifndef SELFTEST_KVM_DAX_UTIL_H
#define SELFTEST_KVM_DAX_UTIL_H

#include <linux/limits.h>
#include <linux/types.h>

#include "kvm_util_types.h"

#define DAX_DRIVER_DEVICE	"device_dax"
#define DAX_DRIVER_FSDEV	"fsdev_dax"
#define DAX_DRIVER_KMEM		"kmem"

struct dax_dev {
	char path[PATH_MAX];	/* of the character device */
	char name[32];		/* daxX.Y */
	u64 size;
	u64 align;
};

int dax_dev_init(struct dax_dev *dev, const char *path);
int __dax_dev_open(struct dax_dev *dev, int flags);
int dax_dev_open(struct dax_dev *dev);
u64 dax_dev_claimed(struct dax_dev *dev);

bool dax_driver_exists(const char *driver);
bool dax_dev_is_bound(struct dax_dev *dev, const char *driver);
int dax_dev_unbind(struct dax_dev *dev, const char *driver);
int dax_dev_bind(struct dax_dev *dev, const char *driver);
void dax_dev_set_state(struct dax_dev *dev, const char *state);
void dax_dev_restore(struct dax_dev *dev);

void *dax_dev_mmap(struct dax_dev *dev, u64 offset, u64 len);
void dax_dev_munmap(struct dax_dev *dev, void *mem, u64 offset, u64 len);
u64 dax_dev_read(struct dax_dev *dev, u64 offset);
void dax_dev_write(struct dax_dev *dev, u64 offset, u64 val);
void dax_dev_fill(struct dax_dev *dev, u64 offset, u64 len, u64 val);
void dax_dev_check(struct dax_dev *dev, u64 offset, u64 len, u64 val);

bool fdinfo_get(int fd, const char *key, char *val, size_t size);
u64 fdinfo_number(int fd, const char *key);

#define MAX_EXTENTS	64

struct dax_extent {
	u64 offset;
	u64 phys;
	u64 size;
};

int fdinfo_extents(int fd, struct dax_extent *extents, int max);

#endif /* SELFTEST_KVM_DAX_UTIL_H */
