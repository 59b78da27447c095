#define _GNU_SOURCE
#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { LINK_BUCKETS = 65536, COPY_SIZE = 128 * 1024, XATTR_SPACE = 65536, ID_COUNT = 65536, CAP_V2_SIZE = 20, CAP_V3_SIZE = 24 };

struct link_name {
	struct link_name *next;
	dev_t device;
	ino_t number;
	char name[];
};

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool index_names(struct names *names)
{
	char *at = (char *)names->text.data + names->text.start, *end = (char *)names->text.data + names->text.end;

	names->name = malloc((names->count + 1) * sizeof(char *));
	for (size_t i = 0; names->name && at < end; at += strlen(at) + 1)
		names->name[i++] = at;
	if (names->name)
		qsort(names->name, names->count, sizeof(char *), compare);
	return names->name != NULL;
}

bool names_read(int folder, struct names *names)
{
	int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *entry;
	bool good = stream != NULL;

	*names = (struct names){0};
	while (good && (errno = 0, entry = readdir(stream))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		good = buffer_append(&names->text, entry->d_name, strlen(entry->d_name) + 1);
		names->count++;
	}
	good = good && errno == 0 && index_names(names);
	int error = errno;
	if (stream)
		closedir(stream);
	errno = error;
	return good;
}

void names_free(struct names *names)
{
	free(names->name);
	buffer_free(&names->text);
}

/* A path that reaches the file without following it; the xattr calls have no "at" form. */
static void proc_path(int folder, const char *name, char path[PATH_MAX])
{
	snprintf(path, PATH_MAX, "/proc/self/fd/%d/%s", folder, name);
}

ptrdiff_t tree_xattr(int folder, const char *name, const char *attribute, void *value, size_t size)
{
	char path[PATH_MAX];

	proc_path(folder, name, path);
	return lgetxattr(path, attribute, value, size);
}

bool packer_open(struct packer *packer, const char *tool, int descriptor)
{
	*packer = (struct packer){.tool = tool, .links = calloc(LINK_BUCKETS, sizeof(*packer->links))};
	return tar_open(&packer->stream, descriptor) && packer->links;
}

static void free_links(struct packer *packer)
{
	for (size_t i = 0; packer->links && i < LINK_BUCKETS; i++)
		while (packer->links[i]) {
			struct link_name *next = packer->links[i]->next;
			free(packer->links[i]);
			packer->links[i] = next;
		}
	free(packer->links);
}

int packer_close(struct packer *packer, bool good)
{
	good = good && tar_put_end(&packer->stream);
	if (packer->stream.failed)
		fprintf(stderr, "%s: %s\n", packer->tool, packer->stream.error);
	tar_close(&packer->stream);
	free_links(packer);
	return good ? 0 : 1;
}

static bool complain(const struct packer *packer, const char *path)
{
	fprintf(stderr, "%s: %s: %s\n", packer->tool, path, strerror(errno));
	return false;
}

/* The name this inode went by before; else remember this one. */
static const char *known_link(struct packer *packer, const char *path, const struct stat *status)
{
	struct link_name **bucket = &packer->links[(status->st_ino ^ status->st_dev * 31) % LINK_BUCKETS];

	for (struct link_name *at = *bucket; at; at = at->next)
		if (at->number == status->st_ino && at->device == status->st_dev)
			return at->name;
	struct link_name *link = malloc(sizeof(*link) + strlen(path) + 1);
	if (link) {
		*link = (struct link_name){*bucket, status->st_dev, status->st_ino};
		strcpy(link->name, path);
		*bucket = link;
	}
	return NULL;
}

static bool is_private(const char *attribute)
{
	return strncmp(attribute, "trusted.overlay.", 16) == 0 || strncmp(attribute, "user.overlay.", 13) == 0 ||
	       strcmp(attribute, "security.selinux") == 0 || strncmp(attribute, "system.", 7) == 0;
}

/* File capabilities set inside a user namespace carry its root (version 3); in an image they are version 2. */
static ptrdiff_t without_namespace(const struct packer *packer, uint8_t *value, ptrdiff_t size)
{
	if (size != CAP_V3_SIZE || get32(value) >> 24 != 3 || get32(value + 20) != packer->id_base)
		return size;
	put32(value, (get32(value) & 0xFFFFFF) | 2u << 24);
	return CAP_V2_SIZE;
}

static bool add_xattrs(const struct packer *packer, int folder, const char *name, struct tar_entry *entry)
{
	static char list[XATTR_SPACE];
	static uint8_t value[XATTR_SPACE];
	char path[PATH_MAX];

	proc_path(folder, name, path);
	ssize_t size = llistxattr(path, list, sizeof(list));
	for (char *at = list; size > 0 && at < list + size; at += strlen(at) + 1) {
		if (is_private(at))
			continue;
		ssize_t length = lgetxattr(path, at, value, sizeof(value));
		if (length < 0 && errno != ENODATA)
			return false;
		if (length >= 0 && strcmp(at, "security.capability") == 0)
			length = without_namespace(packer, value, length);
		if (length >= 0 && !xattr_add(&entry->xattrs, at, strlen(at), value, (uint32_t)length))
			return false;
	}
	return size >= 0 || errno == ENOTSUP || errno == ENOSYS;
}

static uint64_t outer_to_inner(const struct packer *packer, uint64_t id)
{
	return id >= packer->id_base && id < packer->id_base + ID_COUNT ? id - packer->id_base : id;
}

static char type_of(mode_t mode)
{
	return S_ISREG(mode) ? '0' : S_ISLNK(mode) ? '2' : S_ISCHR(mode) ? '3' : S_ISBLK(mode) ? '4' : S_ISDIR(mode) ? '5' : '6';
}

static void describe(const struct packer *packer, const struct stat *status, struct tar_entry *entry)
{
	entry->type = type_of(status->st_mode);
	entry->mode = status->st_mode & 07777;
	entry->uid = outer_to_inner(packer, status->st_uid);
	entry->gid = outer_to_inner(packer, status->st_gid);
	entry->size = S_ISREG(status->st_mode) ? (uint64_t)status->st_size : 0;
	entry->mtime = status->st_mtim.tv_sec;
	entry->mtime_ns = packer->whole_seconds ? 0 : (uint32_t)status->st_mtim.tv_nsec;
	if (entry->type == '3' || entry->type == '4') {
		entry->major = major(status->st_rdev);
		entry->minor = minor(status->st_rdev);
	}
}

/* Exactly `size` bytes: what's missing because the file shrank becomes zeros. */
static bool copy_content(struct packer *packer, int file, uint64_t size)
{
	static uint8_t space[COPY_SIZE];
	ssize_t got = 1;

	while (size > 0) {
		size_t part = size < sizeof(space) ? (size_t)size : sizeof(space);
		if (got > 0 && (got = read(file, space, part)) < 0)
			return false;
		if (got == 0)
			memset(space, 0, part);
		else
			part = (size_t)got;
		if (!tar_put_content(&packer->stream, space, part))
			return false;
		size -= part;
	}
	return true;
}

static bool pack_file(struct packer *packer, int folder, const char *name, const char *path, const struct tar_entry *entry)
{
	int file = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (file < 0)
		return complain(packer, path);
	bool good = tar_put(&packer->stream, entry) && copy_content(packer, file, entry->size);
	if (!good && !packer->stream.failed)
		complain(packer, path);
	close(file);
	return good;
}

static bool pack_entry(struct packer *packer, int folder, const char *name, const char *path, struct tar_entry *entry)
{
	char target[PATH_MAX];

	if (entry->type == '2') {
		ssize_t size = readlinkat(folder, name, target, sizeof(target) - 1);
		if (size < 0)
			return complain(packer, path);
		target[size] = 0;
		entry->link = target;
	}
	if (!add_xattrs(packer, folder, name, entry))
		return complain(packer, path);
	return entry->type == '0' ? pack_file(packer, folder, name, path, entry) : tar_put(&packer->stream, entry);
}

bool pack(struct packer *packer, int folder, const char *name, const char *path, const struct stat *status)
{
	struct tar_entry entry = {0};
	char with_slash[PATH_MAX + 2];

	if (S_ISSOCK(status->st_mode))
		return true; /* no archive can hold one */
	describe(packer, status, &entry);
	snprintf(with_slash, sizeof(with_slash), "%s%s", path, entry.type == '5' ? "/" : "");
	entry.name = with_slash;
	const char *known = status->st_nlink > 1 && entry.type != '5' ? known_link(packer, path, status) : NULL;
	if (known) {
		entry.type = '1';
		entry.size = 0;
		entry.link = (char *)known;
		return tar_put(&packer->stream, &entry);
	}
	bool good = pack_entry(packer, folder, name, path, &entry);
	buffer_free(&entry.xattrs);
	return good;
}

bool pack_marker(struct packer *packer, const char *path)
{
	struct tar_entry entry = {.type = '0', .name = (char *)path, .mode = 0};

	return tar_put(&packer->stream, &entry);
}
