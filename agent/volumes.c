#define _GNU_SOURCE
#include "volumes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "path.h"
#include "root.h"

/* Of linux/mount.h, which can't be had beside sys/mount.h everywhere. */
enum { CLONE_TREE = 1, FROM_DESCRIPTOR = 4 };

enum { MAY_MOUNT = 21 }; /* CAP_SYS_ADMIN */

static int clone_tree(const char *path)
{
	return (int)syscall(SYS_open_tree, AT_FDCWD, path, CLONE_TREE | O_CLOEXEC);
}

static int put_tree(int tree, const char *path)
{
	return (int)syscall(SYS_move_mount, tree, "", AT_FDCWD, path, FROM_DESCRIPTOR);
}

static bool is_volume(const struct config *config, size_t number)
{
	return config->mounts[number].kind == MOUNT_VOLUME;
}

static bool has_volumes(const struct config *config)
{
	for (size_t i = 0; i < config->mount_count; i++)
		if (is_volume(config, i))
			return true;
	return false;
}

/* ---- in a helper in the workload's namespace; `trees` has a detached mount for each of the config's mounts, or -1 */

typedef int (*helper_fn)(const struct config *config, int root, int *trees, struct fault *fault);

static int put_back(const struct config *config, int root, const int *trees, size_t from, struct fault *fault)
{
	char path[PATH_MAX];

	for (size_t i = from; i < config->mount_count; i++) {
		const struct mount_point *mounted = &config->mounts[i];
		if (!is_volume(config, i))
			continue;
		if (path_resolve(root, mounted->target, path, sizeof(path)) < 0 || put_tree(trees[i], path) < 0)
			return fault_internal(fault, "mount %s again: %s", mounted->target, strerror(errno));
		if (mounted->read_only && mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV, NULL) < 0)
			return fault_internal(fault, "mount %s read-only again: %s", mounted->target, strerror(errno));
	}
	return 0;
}

static int take_away(int root, const struct mount_point *mounted, int *tree, struct fault *fault)
{
	char path[PATH_MAX];

	if (path_resolve(root, mounted->target, path, sizeof(path)) < 0 || (*tree = clone_tree(path)) < 0)
		return fault_internal(fault, "find volume %s: %s", mounted->target, strerror(errno));
	if (umount2(path, UMOUNT_NOFOLLOW) == 0)
		return 0;
	if (errno == EBUSY)
		return fault_set(fault, FAULT_STATE, 0, "%s is in use: the workload has a file of it open, or works in it, or has something mounted below it",
				 mounted->target);
	return fault_internal(fault, "unmount %s: %s", mounted->target, strerror(errno));
}

/* Inner before outer. Copies of the mounts are held until all are gone, so that one that can't go brings all of them back: FAULT_STATE. */
static int detach_inside(const struct config *config, int root, int *trees, struct fault *fault)
{
	struct fault worse;

	for (size_t i = config->mount_count; i-- > 0;) {
		if (!is_volume(config, i) || take_away(root, &config->mounts[i], &trees[i], fault) == 0)
			continue;
		if (put_back(config, root, trees, i + 1, &worse) < 0)
			*fault = worse;
		else
			fault->kind = FAULT_STATE;
		return -1;
	}
	return 0;
}

static int attach_inside(const struct config *config, int root, int *trees, struct fault *fault)
{
	return put_back(config, root, trees, 0, fault);
}

static int help(const struct guest *guest, helper_fn work, int *trees, struct fault *fault)
{
	if (setns(guest->workload_fd, CLONE_NEWNS) < 0 || chdir("/") < 0)
		return fault_internal(fault, "enter the workload's mounts: %s", strerror(errno));
	int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return root < 0 ? fault_internal(fault, "open the root: %s", strerror(errno)) : work(&guest->config, root, trees, fault);
}

/* ---- in the agent */

static int run_helper(const struct guest *guest, helper_fn work, int *trees, struct fault *fault)
{
	struct fault *said = mmap(NULL, sizeof(*said), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = 0;

	if (said == MAP_FAILED)
		return fault_internal(fault, "out of memory");
	pid_t child = fork();
	if (child == 0)
		_exit(help(guest, work, trees, said) < 0);
	while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	bool failed = child < 0 || !WIFEXITED(status) || WEXITSTATUS(status);
	if (failed && said->text[0])
		*fault = *said;
	else if (failed)
		fault_internal(fault, "volumes: the helper failed");
	munmap(said, sizeof(*said));
	return failed ? -1 : 0;
}

static int *new_trees(const struct config *config)
{
	int *trees = malloc(config->mount_count * sizeof(*trees));

	for (size_t i = 0; trees && i < config->mount_count; i++)
		trees[i] = -1;
	return trees;
}

static void free_trees(const struct config *config, int *trees)
{
	for (size_t i = 0; trees && i < config->mount_count; i++)
		if (trees[i] >= 0)
			close(trees[i]);
	free(trees);
}

int volumes_detach(struct guest *guest, struct fault *fault)
{
	const struct config *config = &guest->config;

	if (guest->state != STATE_RUNNING || guest->detached)
		return fault_set(fault, FAULT_STATE, 0, guest->detached ? "the volumes are unmounted already" : "the workload isn't running");
	if (!has_volumes(config))
		return 0;
	if (config->caps >> MAY_MOUNT & 1)
		return fault_set(fault, FAULT_STATE, 0, "a workload with CAP_SYS_ADMIN may have its volumes mounted elsewhere too");
	int *trees = new_trees(config);
	int result = trees ? run_helper(guest, detach_inside, trees, fault) : fault_internal(fault, "out of memory");
	free_trees(config, trees);
	guest->detached = result == 0 || fault->kind != FAULT_STATE; /* some may be gone: mounting them again is still to be done */
	return result;
}

static int clone_volumes(const struct guest *guest, int *trees, struct fault *fault)
{
	const struct config *config = &guest->config;
	char source[512];

	for (size_t i = 0; i < config->mount_count; i++) {
		if (!is_volume(config, i))
			continue;
		snprintf(source, sizeof(source), "%s/%u", guest->machine->volumes, config->mounts[i].number);
		if ((trees[i] = clone_tree(source)) < 0)
			return fault_internal(fault, "mount %s again: %s", config->mounts[i].target, strerror(errno));
	}
	return 0;
}

int volumes_attach(struct guest *guest, struct fault *fault)
{
	const struct machine *machine = guest->machine;
	const struct config *config = &guest->config;

	if (!guest->detached)
		return 0;
	if (root_mount_share(machine, config, fault) < 0)
		return -1;
	int *trees = new_trees(config);
	int result = trees ? clone_volumes(guest, trees, fault) : fault_internal(fault, "out of memory");
	if (result == 0)
		result = run_helper(guest, attach_inside, trees, fault);
	free_trees(config, trees);
	if (machine->real)
		umount2(machine->volumes, MNT_DETACH); /* what was taken from it stays */
	guest->detached = result < 0;
	return result;
}
