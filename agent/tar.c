#include "tar.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tar_block.h"

bool tar_failed(struct tar_stream *stream, const char *format, ...)
{
	va_list arguments;

	if (!stream->failed) {
		va_start(arguments, format);
		vsnprintf(stream->error, sizeof(stream->error), format, arguments);
		va_end(arguments);
	}
	stream->failed = true;
	return false;
}

bool tar_open(struct tar_stream *stream, int descriptor)
{
	*stream = (struct tar_stream){.descriptor = descriptor, .space = malloc(TAR_SPACE)};
	return stream->space ? true : tar_failed(stream, "out of memory");
}

void tar_close(struct tar_stream *stream)
{
	free(stream->space);
	stream->space = NULL;
}

bool xattr_add(struct buffer *xattrs, const char *name, size_t name_size, const void *value, uint32_t size)
{
	uint8_t length[4];

	put32(length, size);
	return buffer_append(xattrs, name, name_size) && buffer_append(xattrs, "", 1) && buffer_append(xattrs, length, 4) &&
	       buffer_append(xattrs, value, size);
}

bool xattr_next(const struct buffer *xattrs, size_t *at, const char **name, const uint8_t **value, uint32_t *size)
{
	const uint8_t *p = xattrs->data + xattrs->start + *at;

	if (*at >= buffer_used(xattrs))
		return false;
	*name = (const char *)p;
	p += strlen(*name) + 1;
	*size = get32(p);
	*value = p + 4;
	*at = (size_t)(p + 4 + *size - (xattrs->data + xattrs->start));
	return true;
}
