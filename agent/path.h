/* Paths inside a root that the agent isn't in: symbolic links are followed as the workload would see them. */
#ifndef TWINHULL_PATH_H
#define TWINHULL_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* `path` without any symbolic link, relative to `root` ("" is the root itself); the tail may not exist yet. 0 or -1 with errno. */
int path_resolve(int root, const char *path, char *out, size_t size);
/* An O_PATH descriptor for `path`, made (folders 0755, or an empty file at the end) where missing. -1 with errno. */
int path_make(int root, const char *path, bool folder);
/* Open an existing file inside the root, following links inside it. -1 with errno. */
int path_open(int root, const char *path, int flags);
/* All of a file, at most `limit` bytes, with one zero behind; NULL with errno. `size` (or NULL): how many. */
char *read_whole(int root, const char *path, size_t limit, size_t *size);
/* Write a short text, as for /proc and /sys; 0 or -1 with errno. */
int write_text(int folder, const char *path, const char *text);

#endif
