/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_GMEM_ATTRIBUTES_H__
#define __KVM_GMEM_ATTRIBUTES_H__

#include <linux/types.h>

struct file;
struct inode;
struct kvm;

void kvm_gmem_attributes_setup(struct inode *inode);
int kvm_gmem_attributes_init(struct inode *inode, u64 attributes);
void kvm_gmem_attributes_destroy(struct inode *inode);
u64 kvm_gmem_get_attributes(struct inode *inode, pgoff_t index, pgoff_t *last);
bool kvm_gmem_range_has_attributes(struct inode *inode, pgoff_t start,
				   pgoff_t end, u64 attributes);
pgoff_t kvm_gmem_nr_private(struct inode *inode);

unsigned long kvm_gmem_granularity(struct inode *inode);
u64 kvm_gmem_supported_attributes(struct kvm *kvm);
long kvm_gmem_ioctl(struct file *file, unsigned int ioctl, unsigned long arg);

#endif /* __KVM_GMEM_ATTRIBUTES_H__ */
