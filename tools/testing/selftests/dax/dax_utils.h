/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of device-dax share: sysfs, and the binding of drivers.
 *
 * The tests that bind and unbind work on one device that the tester names:
 *
 *   DAX_TEST_DEV=/dev/daxX.Y	nobody else may use it meanwhile
 */
#ifndef __DAX_UTILS_H
#define __DAX_UTILS_H

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DAX_BUS		"/sys/bus/dax"
#define DAX_DRIVER	"device_dax"
#define FSDEV_DRIVER	"fsdev_dax"

#define DAX_TEST_DEV_HINT						\
	"set DAX_TEST_DEV=/dev/daxX.Y; this makes one on an idle NVDIMM: " \
	"ndctl create-namespace -m devdax -e namespace0.0 -f"

/* The device's name, "daxX.Y", or NULL when the tester named none. */
static inline const char *dax_test_dev(void)
{
	const char *path = getenv("DAX_TEST_DEV");
	const char *slash;

	if (!path || !*path)
		return NULL;
	slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

/* All of @buf in one write, as sysfs wants it: 0 or -errno. */
static inline int write_file(const char *path, const char *buf)
{
	size_t len = strlen(buf);
	ssize_t n;
	int fd, r;

	fd = open(path, O_WRONLY);
	if (fd < 0)
		return -errno;
	n = write(fd, buf, len);
	r = n < 0 ? -errno : n == len ? 0 : -EIO;
	close(fd);
	return r;
}

/* The first line of a file, without its newline: 0 or -errno. */
static inline int read_file(const char *path, char *buf, size_t size)
{
	ssize_t n;
	int fd;

	fd = open(path, O_RDONLY);
	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n < 0)
		return -EIO;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return 0;
}

static inline int dax_write(const char *dev, const char *attr, const char *val)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), DAX_BUS "/devices/%s/%s", dev, attr);
	return write_file(path, val);
}

static inline int dax_read(const char *dev, const char *attr, char *buf,
			   size_t size)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), DAX_BUS "/devices/%s/%s", dev, attr);
	return read_file(path, buf, size);
}

/* A number in any notation that sysfs uses; 0 if there is none. */
static inline unsigned long long dax_read_num(const char *dev, const char *attr)
{
	char buf[64];

	if (dax_read(dev, attr, buf, sizeof(buf)))
		return 0;
	return strtoull(buf, NULL, 0);
}

static inline bool dax_have_driver(const char *drv)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), DAX_BUS "/drivers/%s", drv);
	return !access(path, F_OK);
}

/* The driver that is bound; an empty string for none. */
static inline void dax_driver(const char *dev, char *drv, size_t size)
{
	char path[PATH_MAX], link[PATH_MAX];
	ssize_t n;

	snprintf(path, sizeof(path), DAX_BUS "/devices/%s/driver", dev);
	n = readlink(path, link, sizeof(link) - 1);
	link[n < 0 ? 0 : n] = '\0';
	snprintf(drv, size, "%s", n < 0 ? "" : basename(link));
}

static inline int dax_drv_write(const char *drv, const char *attr,
				const char *dev)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), DAX_BUS "/drivers/%s/%s", drv, attr);
	return write_file(path, dev);
}

/*
 * Bind @drv, 0 or -errno. A driver that does not match the device by itself
 * is told its name, which binds it; *new_id then says to take that back.
 */
static inline int dax_bind(const char *dev, const char *drv, bool *new_id)
{
	char now[64];
	int r;

	r = dax_drv_write(drv, "bind", dev);
	if (r != -ENODEV)
		return r;
	r = dax_drv_write(drv, "new_id", dev);
	if (r)
		return r;
	*new_id = true;
	dax_driver(dev, now, sizeof(now));
	return strcmp(now, drv) ? -ENODEV : 0;
}

static inline int dax_unbind(const char *dev)
{
	char drv[64];

	dax_driver(dev, drv, sizeof(drv));
	return *drv ? dax_drv_write(drv, "unbind", dev) : 0;
}

/* The driver named @drv, and nothing of what dax_bind() added for others. */
static inline int dax_restore(const char *dev, const char *drv, bool *new_id)
{
	int r = 0;

	dax_unbind(dev);
	if (*new_id) {
		if (strcmp(drv, DAX_DRIVER))
			dax_drv_write(DAX_DRIVER, "remove_id", dev);
		if (strcmp(drv, FSDEV_DRIVER))
			dax_drv_write(FSDEV_DRIVER, "remove_id", dev);
		*new_id = false;
	}
	if (*drv)
		r = dax_bind(dev, drv, new_id);
	return r;
}

static inline int dax_open_dev(const char *dev)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "/dev/%s", dev);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static inline double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

#endif /* __DAX_UTILS_H */
