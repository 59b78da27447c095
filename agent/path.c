#define _GNU_SOURCE
#include "path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_LINKS = 40, READ_FIRST = 8192 };

/* Cut the last component off "a/b/c". */
static void to_parent(char *path)
{
	char *slash = strrchr(path, '/');

	*(slash ? slash : path) = 0;
}

static int append(char *path, size_t size, const char *name, size_t length)
{
	size_t used = strlen(path);

	if (used + length + 2 > size) {
		errno = ENAMETOOLONG;
		return -1;
	}
	if (used)
		path[used++] = '/';
	memcpy(path + used, name, length);
	path[used + length] = 0;
	return 0;
}

/* Put the link's text in front of what is left to resolve. */
static int follow(const char *link, char *todo, const char *rest, size_t size)
{
	char joined[2 * PATH_MAX];

	if (snprintf(joined, sizeof(joined), "%s/%s", link, rest) >= (int)size) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(todo, joined);
	return 0;
}

int path_resolve(int root, const char *path, char *out, size_t size)
{
	char todo[2 * PATH_MAX], link[PATH_MAX];
	int links = 0;

	if (snprintf(todo, sizeof(todo), "%s", path) >= PATH_MAX) {
		errno = ENAMETOOLONG;
		return -1;
	}
	*out = 0;
	for (char *at = todo; *(at += strspn(at, "/"));) {
		size_t length = strcspn(at, "/");
		char *rest = at + length;

		if (length == 2 && at[0] == '.' && at[1] == '.') {
			to_parent(out);
		} else if (length != 1 || at[0] != '.') {
			if (append(out, size, at, length) < 0)
				return -1;
			ssize_t got = readlinkat(root, out, link, sizeof(link) - 1);
			if (got > 0) {
				if (++links > MAX_LINKS) {
					errno = ELOOP;
					return -1;
				}
				link[got] = 0;
				to_parent(out);
				if (link[0] == '/')
					*out = 0;
				if (follow(link, todo, rest, sizeof(todo)) < 0)
					return -1;
				rest = todo;
			}
		}
		at = rest;
	}
	return 0;
}

/* Make "a/b/c"'s folders; `out` has no symbolic links. */
static int make_folders(int root, char *path)
{
	for (char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		int failed = mkdirat(root, path, 0755) < 0 && errno != EEXIST;
		*slash = '/';
		if (failed)
			return -1;
	}
	return 0;
}

static int make_last(int root, const char *path, bool folder)
{
	struct stat status;

	if (fstatat(root, path, &status, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	if (folder)
		return mkdirat(root, path, 0755);
	int file = openat(root, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	return file < 0 ? -1 : close(file);
}

int path_make(int root, const char *path, bool folder)
{
	char clean[PATH_MAX];

	if (path_resolve(root, path, clean, sizeof(clean)) < 0)
		return -1;
	if (!*clean)
		return openat(root, ".", O_PATH | O_CLOEXEC);
	if (make_folders(root, clean) < 0 || make_last(root, clean, folder) < 0)
		return -1;
	return openat(root, clean, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

int path_open(int root, const char *path, int flags)
{
	char clean[PATH_MAX];

	if (path_resolve(root, path, clean, sizeof(clean)) < 0)
		return -1;
	return openat(root, *clean ? clean : ".", flags | O_NOFOLLOW | O_CLOEXEC);
}

/* Room for more, zeroed by nobody: untouched memory costs nothing, and clearing a page takes a guest under emulation 40 µs. */
static char *grow(char *text, size_t *room, size_t limit)
{
	size_t wanted = *room * 4 < limit ? *room * 4 : limit;
	char *grown = realloc(text, wanted + 1);

	if (!grown)
		free(text);
	*room = wanted;
	return grown;
}

char *read_whole(int root, const char *path, size_t limit, size_t *size)
{
	int file = path_open(root, path, O_RDONLY | O_NONBLOCK);
	size_t used = 0, room = limit < READ_FIRST ? limit : READ_FIRST;
	char *text = file < 0 ? NULL : malloc(room + 1);
	ssize_t got;

	while (text && (got = read(file, text + used, room - used)) > 0) {
		used += (size_t)got;
		if (used == room && room < limit)
			text = grow(text, &room, limit);
	}
	if (text)
		text[used] = 0;
	if (size)
		*size = text ? used : 0;
	if (file >= 0)
		close(file);
	return text;
}

int write_text(int folder, const char *path, const char *text)
{
	int file = openat(folder, path, O_WRONLY | O_CLOEXEC);

	if (file < 0)
		return -1;
	ssize_t done = write(file, text, strlen(text));
	int error = errno;
	close(file);
	errno = error;
	return done < 0 ? -1 : 0;
}
