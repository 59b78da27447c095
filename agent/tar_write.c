#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tar_block.h"

static bool flush(struct tar_stream *stream)
{
	while (stream->start < stream->end) {
		ssize_t put = write(stream->descriptor, stream->space + stream->start, stream->end - stream->start);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return tar_failed(stream, "write: %s", strerror(errno));
		stream->start += (size_t)put;
	}
	stream->start = stream->end = 0;
	return true;
}

static bool put(struct tar_stream *stream, const void *data, size_t size)
{
	const uint8_t *at = data;

	while (size > 0 && !stream->failed) {
		size_t room = TAR_SPACE - stream->end, part = size < room ? size : room;
		memcpy(stream->space + stream->end, at, part);
		stream->end += part;
		at += part;
		size -= part;
		if (stream->end == TAR_SPACE)
			flush(stream);
	}
	return !stream->failed;
}

static bool put_padding(struct tar_stream *stream)
{
	static const uint8_t zeros[TAR_BLOCK];
	size_t size = (size_t)stream->padding;

	stream->padding = 0;
	return put(stream, zeros, size);
}

bool tar_put_content(struct tar_stream *stream, const void *data, size_t size)
{
	if (size > stream->left)
		return tar_failed(stream, "more content than announced");
	stream->left -= size;
	return put(stream, data, size) && (stream->left > 0 || put_padding(stream));
}

bool tar_put_end(struct tar_stream *stream)
{
	static const uint8_t zeros[2 * TAR_BLOCK];

	return put(stream, zeros, sizeof(zeros)) && flush(stream);
}

/* Octal where it fits, else base 256. */
static void put_number(uint8_t *field, size_t size, uint64_t value)
{
	if (value >> (3 * (size - 1)) == 0) {
		for (size_t i = size - 1; i-- > 0; value >>= 3)
			field[i] = (uint8_t)('0' + (value & 7));
		return;
	}
	for (size_t i = size; i-- > 0; value >>= 8)
		field[i] = (uint8_t)value;
	field[0] |= 0x80;
}

static bool put_header(struct tar_stream *stream, const struct tar_entry *entry)
{
	uint8_t block[TAR_BLOCK] = {0};
	uint64_t sum = 0;
	size_t name = strlen(entry->name), link = entry->link ? strlen(entry->link) : 0;

	memcpy(block + AT_NAME, entry->name, name < NAME_FIELD ? name : NAME_FIELD);
	if (link)
		memcpy(block + AT_LINK, entry->link, link < NAME_FIELD ? link : NAME_FIELD);
	put_number(block + AT_MODE, 8, entry->mode);
	put_number(block + AT_UID, 8, entry->uid);
	put_number(block + AT_GID, 8, entry->gid);
	put_number(block + AT_SIZE, 12, entry->size);
	put_number(block + AT_MTIME, 12, entry->mtime < 0 ? 0 : (uint64_t)entry->mtime);
	put_number(block + AT_MAJOR, 8, entry->major);
	put_number(block + AT_MINOR, 8, entry->minor);
	block[AT_TYPE] = (uint8_t)entry->type;
	memcpy(block + AT_MAGIC, "ustar\00000", 8);
	memset(block + AT_SUM, ' ', 8);
	for (int i = 0; i < TAR_BLOCK; i++)
		sum += block[i];
	put_number(block + AT_SUM, 7, sum);
	block[AT_SUM + 6] = 0;
	stream->left = entry->size;
	stream->padding = (TAR_BLOCK - entry->size % TAR_BLOCK) % TAR_BLOCK;
	return put(stream, block, sizeof(block));
}

static bool add_record(struct buffer *pax, const char *key, const void *value, size_t size)
{
	char head[320];
	size_t body = strlen(key) + size + 3, length = body + 1;

	/* The length counts its own digits. */
	for (size_t digits = 1; digits < 20; digits++) {
		length = body + digits;
		if ((size_t)snprintf(NULL, 0, "%zu", length) == digits)
			break;
	}
	int used = snprintf(head, sizeof(head), "%zu %s=", length, key);
	return used < (int)sizeof(head) && buffer_append(pax, head, (size_t)used) && buffer_append(pax, value, size) &&
	       buffer_append(pax, "\n", 1);
}

static bool add_number(struct buffer *pax, const char *key, uint64_t value, unsigned int octal_digits)
{
	char text[24];

	if (value >> (3 * octal_digits) == 0)
		return true;
	int used = snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return add_record(pax, key, text, (size_t)used);
}

static bool add_time(struct buffer *pax, const struct tar_entry *entry)
{
	char text[48];
	int64_t seconds = entry->mtime;
	uint32_t ns = entry->mtime_ns;

	if (seconds >= 0 && ns == 0)
		return add_number(pax, "mtime", (uint64_t)seconds, 11);
	if (seconds < 0 && ns > 0) { /* -1.25 is floor -2 and .75 */
		seconds++;
		ns = 1000000000 - ns;
	}
	int used = snprintf(text, sizeof(text), "%s%llu.%09u", entry->mtime < 0 ? "-" : "",
			    (unsigned long long)(seconds < 0 ? -seconds : seconds), ns);
	return add_record(pax, "mtime", text, (size_t)used);
}

static bool add_xattrs(struct buffer *pax, const struct tar_entry *entry)
{
	const char *name;
	const uint8_t *value;
	uint32_t size;
	char key[300];

	for (size_t at = 0; xattr_next(&entry->xattrs, &at, &name, &value, &size);) {
		snprintf(key, sizeof(key), XATTR_KEY "%s", name);
		if (!add_record(pax, key, value, size))
			return false;
	}
	return true;
}

static bool collect_pax(struct buffer *pax, const struct tar_entry *entry)
{
	size_t name = strlen(entry->name), link = entry->link ? strlen(entry->link) : 0;

	return (name <= NAME_FIELD || add_record(pax, "path", entry->name, name)) &&
	       (link <= NAME_FIELD || add_record(pax, "linkpath", entry->link, link)) && add_number(pax, "size", entry->size, 11) &&
	       add_number(pax, "uid", entry->uid, 7) && add_number(pax, "gid", entry->gid, 7) && add_time(pax, entry) &&
	       add_xattrs(pax, entry);
}

static bool put_pax(struct tar_stream *stream, struct buffer *pax)
{
	struct tar_entry extension = {.type = 'x', .name = "PaxHeaders/x", .mode = 0644, .size = buffer_used(pax)};

	return put_header(stream, &extension) && tar_put_content(stream, pax->data + pax->start, buffer_used(pax));
}

bool tar_put(struct tar_stream *stream, const struct tar_entry *entry)
{
	struct buffer pax = {0};
	bool good = collect_pax(&pax, entry) || tar_failed(stream, "out of memory");

	if (good && buffer_used(&pax) > 0)
		good = put_pax(stream, &pax);
	buffer_free(&pax);
	return good && put_header(stream, entry) && (stream->left > 0 || put_padding(stream));
}
