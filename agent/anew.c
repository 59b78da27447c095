#define _GNU_SOURCE
#include "anew.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "net.h"
#include "path.h"

/* Offsets count from zero again; what hadn't been sent belongs to somebody else. */
static void forget_output(struct guest *guest)
{
	uint8_t *bytes = guest->ring.bytes;

	guest->ring = (struct ring){.bytes = bytes};
}

static void forget_workload(struct guest *guest)
{
	session_close(&guest->workload);
	guest->workload = (struct session){.workload = true, .sync = -1, .in = -1, .out = {-1, -1}};
	if (guest->workload_fd >= 0)
		close(guest->workload_fd);
	guest->workload_fd = -1;
	guest->exit_sent = guest->oom = guest->detached = false;
}

/* What STATS counts and can't be set back. */
static void forget_traffic(struct guest *guest)
{
	uint64_t traffic[2];

	net_traffic(traffic);
	guest->received_before = traffic[0];
	guest->sent_before = traffic[1];
}

int anew_reset(struct guest *guest, struct fault *fault)
{
	bool configured = guest->state == STATE_EXITED;

	if (guest->configuring || (!configured && guest->state != STATE_FRESH))
		return fault_set(fault, FAULT_STATE, 0, "the workload hasn't ended");
	end_all(guest);
	forget_workload(guest);
	forget_output(guest);
	if ((configured && net_release(&guest->config, fault) < 0) || (guest->machine->real && machine_release(guest->machine, fault) < 0))
		return -1;
	forget_traffic(guest);
	config_free(&guest->identity);
	config_free(&guest->config);
	guest->state = STATE_FRESH;
	return 0;
}

/* ---- RESUME */

static int put_all(int file, const uint8_t *data, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t put = write(file, data + done, size - done);
		if (put < 0 && errno != EINTR)
			return -1;
		done += put > 0 ? (size_t)put : 0;
	}
	return 0;
}

/* `root` is the working directory. */
static int set_writable(int root, const char *path, bool writable)
{
	char clean[PATH_MAX];

	if (path_resolve(root, path, clean, sizeof(clean)) < 0)
		return -1;
	return mount(NULL, clean, NULL, MS_REMOUNT | MS_BIND | MS_NODEV | (writable ? 0 : MS_RDONLY), NULL);
}

/* In place, so that it stays the file that is mounted there. */
static int rewrite_file(int root, const struct mount_point *mount)
{
	int file = path_open(root, mount->target, O_WRONLY | O_TRUNC);
	bool protected = file < 0 && errno == EROFS;

	if (protected && set_writable(root, mount->target, true) == 0)
		file = path_open(root, mount->target, O_WRONLY | O_TRUNC);
	if (file < 0)
		return -1;
	int failed = put_all(file, mount->content, mount->content_size);
	int error = errno;
	close(file);
	if (protected && set_writable(root, mount->target, false) < 0)
		return -1;
	errno = error;
	return failed;
}

/* In the workload's namespaces: 0 or -1 with errno. */
static int rename_inside(int workload, const struct config *identity)
{
	int root = -1, failed = -1;

	if (setns(workload, CLONE_NEWNS | CLONE_NEWUTS) == 0 && sethostname(identity->hostname, strlen(identity->hostname)) == 0)
		failed = root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; failed >= 0 && i < identity->mount_count; i++)
		if (identity->mounts[i].kind == MOUNT_FILE)
			failed = rewrite_file(root, &identity->mounts[i]);
	int error = errno;
	if (root >= 0)
		close(root);
	errno = error;
	return failed < 0 ? -1 : 0;
}

/* The workload is frozen. The agent goes there itself: a child for that would double what an emulated clone has to do here. */
static int rename_workload(const struct guest *guest, const struct config *identity, struct fault *fault)
{
	int mounts = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC), names = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC);
	int failed = mounts < 0 || names < 0 || rename_inside(guest->workload_fd, identity) < 0;
	int error = errno;

	if (mounts >= 0 && names >= 0 && (setns(mounts, CLONE_NEWNS) < 0 || setns(names, CLONE_NEWUTS) < 0 || chdir("/") < 0))
		abort(); /* lost inside: unreachable */
	close(mounts);
	close(names);
	return failed ? fault_internal(fault, "give the workload its name: %s", strerror(error)) : 0;
}

/* `identity` holds what the guest's config points to from now on. */
static void adopt(struct guest *guest, const struct config *identity)
{
	config_free(&guest->identity);
	guest->identity = *identity;
	guest->config.hostname = guest->identity.hostname;
	guest->config.interfaces = guest->identity.interfaces;
	guest->config.interface_count = guest->identity.interface_count;
}

int anew_resume(struct guest *guest, const struct frame *frame, struct fault *fault)
{
	struct config identity;

	if (guest->state != STATE_RUNNING)
		return fault_set(fault, FAULT_STATE, 0, "the workload isn't running");
	if (config_parse(frame->data, frame->size, &identity, fault) < 0)
		return -1;
	forget_output(guest);
	forget_traffic(guest);
	if (net_exchange(&guest->config, &identity, fault) < 0 || rename_workload(guest, &identity, fault) < 0) {
		config_free(&identity);
		return -1;
	}
	adopt(guest, &identity);
	return 0;
}
