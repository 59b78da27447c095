/* tar archives (POSIX pax; GNU long names are read too), as streams on descriptors. */
#ifndef TWINHULL_TAR_H
#define TWINHULL_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"

enum { TAR_BLOCK = 512, TAR_PAX_MAX = 1024 * 1024, TAR_TEXT = 512 };

struct tar_entry {
	char type;		     /* '0' file, '1' hard link, '2' symbolic link, '3' char, '4' block, '5' folder, '6' fifo */
	char *name, *link;	     /* owned by the reader, or the caller's */
	uint32_t mode, major, minor;
	uint64_t uid, gid, size;
	int64_t mtime;
	uint32_t mtime_ns;
	struct buffer xattrs;	     /* per attribute: name, NUL, u32 size, value */
};

struct tar_stream {
	int descriptor;
	uint64_t left, padding;	     /* of the present entry's content */
	bool failed;
	char error[TAR_TEXT];
	uint8_t *space;
	size_t start, end;
};

/* Both hold a buffer that tar_close frees (and, when writing, flushes). */
bool tar_open(struct tar_stream *stream, int descriptor);
void tar_close(struct tar_stream *stream);

/* ---- reading: 1 an entry, 0 the end, -1 failed with `error` set. The entry's texts live until the next call. */
int tar_next(struct tar_stream *stream, struct tar_entry *entry);
/* A piece of the content; 0 at its end, -1 failed. */
ptrdiff_t tar_content(struct tar_stream *stream, const uint8_t **piece);
void tar_entry_free(struct tar_entry *entry);

/* ---- writing: false failed with `error` set. */
bool tar_put(struct tar_stream *stream, const struct tar_entry *entry);
/* Exactly entry->size bytes in all, padding follows by itself. */
bool tar_put_content(struct tar_stream *stream, const void *data, size_t size);
bool tar_put_end(struct tar_stream *stream);

/* Extended attributes in an entry. */
bool xattr_add(struct buffer *xattrs, const char *name, size_t name_size, const void *value, uint32_t size);
/* Iterate: *at from 0; false at the end. */
bool xattr_next(const struct buffer *xattrs, size_t *at, const char **name, const uint8_t **value, uint32_t *size);

#endif
