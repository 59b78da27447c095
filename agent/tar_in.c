/* `tar-in DIR`: unpack an archive from stdin. Law: nothing outside DIR is ever made, changed or followed to. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tar.h"
#include "tools.h"

/* Folders get their times last, when nothing more is put into them. */
struct dated {
	struct dated *next;
	struct timespec mtime;
	char path[];
};

struct unpack {
	struct tar_stream stream;
	int root;
	bool is_slash; /* DIR is "/": then absolute links stay inside by nature */
	struct dated *dated;
	char text[TAR_TEXT];
};

static bool refuse(const char *name, const char *why)
{
	fprintf(stderr, "tar-in: %s: %s\n", name, why);
	return false;
}

static bool complain(const char *name)
{
	bool outside = errno == EXDEV || errno == ELOOP;

	return refuse(name, outside ? "outside the target (by a symbolic link)" : strerror(errno));
}

/* "./a//b/" → "a/b"; false for what leaves the target. */
static bool clean(const char *name, char out[PATH_MAX])
{
	size_t used = 0;

	if (name[0] == '/')
		return refuse(name, "outside the target");
	for (const char *at = name; *at;) {
		size_t size = strcspn(at, "/");
		if (size == 2 && at[0] == '.' && at[1] == '.')
			return refuse(name, "outside the target");
		if (used + size + 2 > PATH_MAX)
			return refuse(name, "name too long");
		if (size > 0 && !(size == 1 && at[0] == '.')) {
			if (used)
				out[used++] = '/';
			memcpy(out + used, at, size);
			used += size;
		}
		at += size + (at[size] == '/');
	}
	out[used] = 0;
	return true;
}

/* Without openat2 (old seccomp profiles, sandboxes) every component is opened by itself and no link is followed. */
static int open_folder_slowly(int root, const char *path)
{
	char component[NAME_MAX + 1];
	int at = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	while (at >= 0 && *path) {
		size_t size = strcspn(path, "/");
		if (size > NAME_MAX) {
			close(at);
			errno = ENAMETOOLONG;
			return -1;
		}
		memcpy(component, path, size);
		component[size] = 0;
		int next = openat(at, component, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		int error = errno;
		close(at);
		errno = error;
		at = next;
		path += size + (path[size] == '/');
	}
	return at;
}

static int open_folder(const struct unpack *unpack, const char *path)
{
	static bool missing;
	struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
			       .resolve = (unpack->is_slash ? RESOLVE_IN_ROOT : RESOLVE_BENEATH) | RESOLVE_NO_MAGICLINKS};

	if (!missing) {
		int folder = (int)syscall(SYS_openat2, unpack->root, *path ? path : ".", &how, sizeof(how));
		if (folder >= 0 || (errno != ENOSYS && errno != EPERM))
			return folder;
		missing = errno == ENOSYS;
	}
	return open_folder_slowly(unpack->root, path);
}

static int make_folders(const struct unpack *unpack, const char *path);

/* The folder that `path` lies in, made if missing; *name is the last component. */
static int open_parent(const struct unpack *unpack, const char *path, const char **name)
{
	const char *slash = strrchr(path, '/');
	char parent[PATH_MAX] = "";

	*name = slash ? slash + 1 : path;
	if (slash)
		memcpy(parent, path, (size_t)(slash - path));
	int folder = open_folder(unpack, parent);
	return folder < 0 && errno == ENOENT ? make_folders(unpack, parent) : folder;
}

static int make_folders(const struct unpack *unpack, const char *path)
{
	const char *name;
	int parent = open_parent(unpack, path, &name);

	if (parent < 0)
		return -1;
	int made = mkdirat(parent, name, 0755), error = errno;
	close(parent);
	errno = error;
	return made < 0 && errno != EEXIST ? -1 : open_folder(unpack, path);
}

static bool set_xattrs(int folder, const char *name, const struct tar_entry *entry)
{
	char path[PATH_MAX];
	const char *attribute;
	const uint8_t *value;
	uint32_t size;

	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", folder, name);
	for (size_t at = 0; xattr_next(&entry->xattrs, &at, &attribute, &value, &size);) {
		if (lsetxattr(path, attribute, value, size, 0) == 0)
			continue;
		if (errno != EPERM && errno != ENOTSUP)
			return complain(entry->name);
		fprintf(stderr, "tar-in: %s: attribute %s left out: %s\n", entry->name, attribute, strerror(errno));
	}
	return true;
}

static struct timespec mtime_of(const struct tar_entry *entry)
{
	return (struct timespec){(time_t)entry->mtime, (long)entry->mtime_ns};
}

/* Owner first (it clears setuid and capabilities), then mode, attributes, time. */
static bool set_attributes(int folder, const char *name, const struct tar_entry *entry)
{
	struct timespec times[2] = {{0, UTIME_OMIT}, mtime_of(entry)};

	if (fchownat(folder, name, (uid_t)entry->uid, (gid_t)entry->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return complain(entry->name);
	if (entry->type != '2' && fchmodat(folder, name, entry->mode, 0) < 0)
		return complain(entry->name);
	if (!set_xattrs(folder, name, entry))
		return false;
	return utimensat(folder, name, times, AT_SYMLINK_NOFOLLOW) == 0 || complain(entry->name);
}

static bool remember(struct unpack *unpack, const char *path, const struct tar_entry *entry)
{
	struct dated *dated = malloc(sizeof(*dated) + strlen(path) + 1);

	if (!dated)
		return refuse(entry->name, "out of memory");
	dated->next = unpack->dated;
	dated->mtime = mtime_of(entry);
	strcpy(dated->path, path);
	unpack->dated = dated;
	return true;
}

/* A folder that is there stays, also where it's reached by a link inside the target. */
static bool put_folder(struct unpack *unpack, int parent, const char *name, const char *path, const struct tar_entry *entry)
{
	struct stat status;

	if (mkdirat(parent, name, 0700) < 0) {
		if (errno != EEXIST)
			return complain(entry->name);
		if (fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
			return complain(entry->name);
		if (S_ISLNK(status.st_mode)) {
			int folder = open_folder(unpack, path);
			if (folder < 0)
				return errno == ENOTDIR ? refuse(entry->name, "a folder can't replace what isn't one") : complain(entry->name);
			bool good = fchown(folder, (uid_t)entry->uid, (gid_t)entry->gid) == 0 && fchmod(folder, entry->mode) == 0;
			close(folder);
			return good || complain(entry->name);
		}
		if (!S_ISDIR(status.st_mode))
			return refuse(entry->name, "a folder can't replace what isn't one");
	}
	return set_attributes(parent, name, entry) && remember(unpack, path, entry);
}

/* DIR itself, named "." or "./" in the archive, keeps its owner; only its time is set. */
static bool put_root(struct unpack *unpack, const struct tar_entry *entry)
{
	return entry->type == '5' ? remember(unpack, "", entry) : refuse(entry->name, "no name");
}

static bool make_way(int parent, const char *name, const struct tar_entry *entry)
{
	if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
		return true;
	return errno == EISDIR ? refuse(entry->name, "only a folder can replace a folder") : complain(entry->name);
}

static bool write_all(int file, const uint8_t *data, size_t size)
{
	while (size > 0) {
		ssize_t put = write(file, data, size);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return false;
		data += put;
		size -= (size_t)put;
	}
	return true;
}

static bool put_file(struct unpack *unpack, int parent, const char *name, const struct tar_entry *entry)
{
	int file = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	const uint8_t *piece;
	ptrdiff_t got = 0;

	if (file < 0)
		return complain(entry->name);
	while ((got = tar_content(&unpack->stream, &piece)) > 0)
		if (!write_all(file, piece, (size_t)got)) {
			complain(entry->name);
			close(file);
			return false;
		}
	if (close(file) < 0)
		return complain(entry->name);
	return got == 0;
}

static bool put_link(const struct unpack *unpack, int parent, const char *name, const struct tar_entry *entry)
{
	char target[PATH_MAX];
	const char *last;

	if (!clean(entry->link, target) || !*target)
		return *entry->link ? false : refuse(entry->name, "hard link to nothing");
	int folder = open_parent(unpack, target, &last);
	bool good = folder >= 0 && linkat(folder, last, parent, name, 0) == 0;
	if (!good)
		complain(entry->name);
	if (folder >= 0)
		close(folder);
	return good;
}

static bool put_special(int parent, const char *name, const struct tar_entry *entry)
{
	mode_t type = entry->type == '3' ? S_IFCHR : entry->type == '4' ? S_IFBLK : S_IFIFO;

	return mknodat(parent, name, type | 0600, makedev(entry->major, entry->minor)) == 0 || complain(entry->name);
}

static bool put_into(struct unpack *unpack, int parent, const char *name, const char *path, const struct tar_entry *entry)
{
	bool good = true;

	if (entry->type == '5')
		return put_folder(unpack, parent, name, path, entry);
	if (!make_way(parent, name, entry))
		return false;
	if (entry->type == '1')
		return put_link(unpack, parent, name, entry);
	if (entry->type == '0')
		good = put_file(unpack, parent, name, entry);
	else if (entry->type == '2')
		good = symlinkat(entry->link, parent, name) == 0 || complain(entry->name);
	else
		good = put_special(parent, name, entry);
	return good && set_attributes(parent, name, entry);
}

static bool put_entry(struct unpack *unpack, const struct tar_entry *entry)
{
	char path[PATH_MAX];
	const char *name;

	if (!clean(entry->name, path))
		return false;
	if (!*path)
		return put_root(unpack, entry);
	int parent = open_parent(unpack, path, &name);
	if (parent < 0)
		return complain(entry->name);
	bool good = put_into(unpack, parent, name, path, entry);
	close(parent);
	return good;
}

static void set_dates(struct unpack *unpack)
{
	while (unpack->dated) {
		struct dated *dated = unpack->dated;
		struct timespec times[2] = {{0, UTIME_OMIT}, dated->mtime};
		int folder = open_folder(unpack, dated->path);
		if (folder >= 0) {
			futimens(folder, times);
			close(folder);
		}
		unpack->dated = dated->next;
		free(dated);
	}
}

static bool unpack_all(struct unpack *unpack)
{
	struct tar_entry entry = {0};
	bool good = true;
	int more = 0;

	while (good && (more = tar_next(&unpack->stream, &entry)) > 0)
		good = put_entry(unpack, &entry);
	tar_entry_free(&entry);
	if (unpack->stream.failed)
		fprintf(stderr, "tar-in: %s\n", unpack->stream.error);
	set_dates(unpack);
	return good && more == 0;
}

/* What a writer pads after the end must be read, or it dies of SIGPIPE. */
static void read_away(int descriptor)
{
	static char space[65536];

	while (read(descriptor, space, sizeof(space)) > 0)
		;
}

static bool is_slash(int folder)
{
	struct stat here, there;

	return fstat(folder, &here) == 0 && stat("/", &there) == 0 && here.st_dev == there.st_dev && here.st_ino == there.st_ino;
}

int tool_tar_in(int argc, char **argv)
{
	struct unpack unpack = {0};

	if (argc != 2) {
		fprintf(stderr, "usage: agent tar-in DIR\n");
		return 1;
	}
	umask(0);
	unpack.root = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (unpack.root < 0)
		return complain(argv[1]) ? 0 : 1;
	unpack.is_slash = is_slash(unpack.root);
	bool good = tar_open(&unpack.stream, 0) && unpack_all(&unpack);
	tar_close(&unpack.stream);
	if (good)
		read_away(0);
	close(unpack.root);
	return good ? 0 : 1;
}
