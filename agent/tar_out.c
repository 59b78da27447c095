/* `tar-out [-x] PATH`: the file or folder as an archive on stdout, its entries named from PATH's last component on.
 * PATH "/" and paths that end in "/." give the folder's content without a prefix. -x stays in one mount. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "machine.h"
#include "tools.h"
#include "tree.h"

struct walk {
	struct packer packer;
	bool one_mount, whole_root;
	uint64_t mount;
};

/* The mount a file is in. Kernels and sandboxes without mount ids: the device. The C libraries' struct statx differ in
 * how new they are, so the kernel's own layout (include/uapi/linux/stat.h) is read here. */
static uint64_t mount_of(int folder, const char *name)
{
	enum { WANT_MOUNT_ID = 0x1000, AT_DEVICE = 136, AT_MOUNT_ID = 144 };
	uint8_t status[256] = {0};

	if (syscall(SYS_statx, folder, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, WANT_MOUNT_ID, status) < 0)
		return 0;
	return get64(status + (get32(status) & WANT_MOUNT_ID ? AT_MOUNT_ID : AT_DEVICE));
}

static bool complain(const char *path)
{
	fprintf(stderr, "tar-out: %s: %s\n", path, strerror(errno));
	return false;
}

static bool join(char *out, const char *prefix, const char *name)
{
	int used = snprintf(out, PATH_MAX, "%s%s%s", prefix, *prefix ? "/" : "", name);

	errno = ENAMETOOLONG;
	return used < PATH_MAX || complain(prefix);
}

static bool walk_folder(struct walk *walk, int folder, const char *path);

static bool walk_one(struct walk *walk, int folder, const char *name, const char *path)
{
	struct stat status;

	if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT || complain(path); /* gone since the folder was read */
	bool elsewhere = walk->one_mount && mount_of(folder, name) != walk->mount;
	if ((elsewhere && !S_ISDIR(status.st_mode)) || (walk->whole_root && strcmp(path, &AGENT_IN_ROOT[1]) == 0))
		return true;
	if (!pack(&walk->packer, folder, name, path, &status))
		return false;
	if (elsewhere || !S_ISDIR(status.st_mode))
		return true;
	int inner = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (inner < 0)
		return complain(path);
	bool good = walk_folder(walk, inner, path);
	close(inner);
	return good;
}

static bool walk_folder(struct walk *walk, int folder, const char *path)
{
	struct names names;
	char inner[PATH_MAX];
	bool good = names_read(folder, &names) || complain(path);

	for (size_t i = 0; good && i < names.count; i++)
		good = join(inner, path, names.name[i]) && walk_one(walk, folder, names.name[i], inner);
	names_free(&names);
	return good;
}

/* Cut trailing slashes; true if the path says "this folder's content". */
static bool trim(char *path)
{
	size_t size = strlen(path);
	bool content = false;

	while (size > 1 && (path[size - 1] == '/' || (path[size - 1] == '.' && path[size - 2] == '/'))) {
		content = content || path[size - 1] == '.';
		path[--size] = 0;
	}
	return content || strcmp(path, "/") == 0 || strcmp(path, ".") == 0;
}

static bool walk_content(struct walk *walk, const char *path)
{
	int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (folder < 0)
		return complain(path);
	walk->mount = mount_of(folder, ".");
	walk->whole_root = strcmp(path, "/") == 0 && walk->one_mount;
	bool good = walk_folder(walk, folder, "");
	close(folder);
	return good;
}

static bool walk_named(struct walk *walk, char *path)
{
	char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	int folder = AT_FDCWD;

	if (slash) {
		*slash = 0;
		folder = open(slash == path ? "/" : path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		*slash = '/';
	}
	struct stat status;
	if ((slash && folder < 0) || fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return complain(path);
	walk->mount = mount_of(folder, name);
	bool good = walk_one(walk, folder, name, name);
	if (folder >= 0)
		close(folder);
	return good;
}

/* Deep trees hold one descriptor a level. */
static void raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

int tool_tar_out(int argc, char **argv)
{
	struct walk walk = {0};
	bool one_mount = argc > 2 && strcmp(argv[1], "-x") == 0;
	char *path = argc == 2 + one_mount ? argv[1 + one_mount] : NULL;

	if (!path || !*path) {
		fprintf(stderr, "usage: agent tar-out [-x] PATH\n");
		return 1;
	}
	raise_limit();
	walk.one_mount = one_mount;
	if (!packer_open(&walk.packer, "tar-out", 1))
		return packer_close(&walk.packer, false);
	bool content = trim(path);
	return packer_close(&walk.packer, content ? walk_content(&walk, path) : walk_named(&walk, path));
}
