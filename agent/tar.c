#define _GNU_SOURCE
#include "tar.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SPACE = 256 * 1024, NAME_FIELD = 100 };
#define XATTR_KEY "SCHILY.xattr."

/* Places in a header block. */
enum {
	AT_NAME = 0,
	AT_MODE = 100,
	AT_UID = 108,
	AT_GID = 116,
	AT_SIZE = 124,
	AT_MTIME = 136,
	AT_SUM = 148,
	AT_TYPE = 156,
	AT_LINK = 157,
	AT_MAGIC = 257,
	AT_MAJOR = 329,
	AT_MINOR = 337,
	AT_PREFIX = 345,
};

static bool failed(struct tar_stream *stream, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool failed(struct tar_stream *stream, const char *format, ...)
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
	*stream = (struct tar_stream){.descriptor = descriptor, .space = malloc(SPACE)};
	return stream->space ? true : failed(stream, "out of memory");
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

/* ---- reading */

/* Up to `wanted` bytes that are in the buffer, refilled if it's empty; 0 at the end of file, -1 on an error. */
static ptrdiff_t take(struct tar_stream *stream, size_t wanted, const uint8_t **piece)
{
	if (stream->start == stream->end) {
		ssize_t got;
		while ((got = read(stream->descriptor, stream->space, SPACE)) < 0 && errno == EINTR)
			;
		if (got < 0)
			return failed(stream, "read: %s", strerror(errno)) - 1;
		stream->start = 0;
		stream->end = (size_t)got;
	}
	size_t held = stream->end - stream->start, size = held < wanted ? held : wanted;
	*piece = stream->space + stream->start;
	stream->start += size;
	return (ptrdiff_t)size;
}

static bool take_all(struct tar_stream *stream, uint8_t *out, size_t size)
{
	const uint8_t *piece;

	while (size > 0) {
		ptrdiff_t got = take(stream, size, &piece);
		if (got <= 0)
			return failed(stream, "unexpected end of the archive");
		memcpy(out, piece, (size_t)got);
		out += got;
		size -= (size_t)got;
	}
	return true;
}

ptrdiff_t tar_content(struct tar_stream *stream, const uint8_t **piece)
{
	if (stream->failed || stream->left == 0)
		return stream->failed ? -1 : 0;
	ptrdiff_t got = take(stream, stream->left < SPACE ? (size_t)stream->left : SPACE, piece);
	if (got <= 0)
		return failed(stream, "unexpected end of the archive") - 1;
	stream->left -= (uint64_t)got;
	return got;
}

static bool skip_rest(struct tar_stream *stream)
{
	const uint8_t *piece;
	ptrdiff_t got;

	while ((got = tar_content(stream, &piece)) > 0)
		;
	stream->left = got == 0 ? stream->padding : 0;
	stream->padding = 0;
	while (got >= 0 && (got = tar_content(stream, &piece)) > 0)
		;
	return got == 0;
}

/* Octal, or base 256 where the first bit is set. False: neither, or negative, or above 63 bits. */
static bool number(const uint8_t *field, size_t size, uint64_t *value)
{
	*value = 0;
	if (field[0] & 0x80) {
		for (size_t i = 0; i < size; i++) {
			if (*value >> 55)
				return false;
			*value = *value << 8 | (i ? field[i] : field[i] & 0x7Fu);
		}
		return true;
	}
	size_t at = 0;
	while (at < size && field[at] == ' ')
		at++;
	for (; at < size && field[at] >= '0' && field[at] <= '7'; at++)
		*value = *value << 3 | (uint64_t)(field[at] - '0');
	return at == size || field[at] == 0 || field[at] == ' ';
}

static bool sum_is_right(const uint8_t *block)
{
	uint64_t wanted, sum = 0;
	int64_t signed_sum = 0;

	for (int i = 0; i < TAR_BLOCK; i++) {
		uint8_t byte = i >= AT_SUM && i < AT_SUM + 8 ? ' ' : block[i];
		sum += byte;
		signed_sum += (int8_t)byte;
	}
	return number(block + AT_SUM, 8, &wanted) && (wanted == sum || (int64_t)wanted == signed_sum);
}

static bool is_zero(const uint8_t *block)
{
	for (int i = 0; i < TAR_BLOCK; i++)
		if (block[i])
			return false;
	return true;
}

static bool set(struct tar_stream *stream, char **where, const void *text, size_t size)
{
	char *copy = memchr(text, 0, size) ? NULL : malloc(size + 1);

	if (!copy)
		return failed(stream, "NUL in a name");
	memcpy(copy, text, size);
	copy[size] = 0;
	free(*where);
	*where = copy;
	return true;
}

/* "1700000000.123456789", also negative. */
static bool parse_time(const char *text, int64_t *seconds, uint32_t *ns)
{
	char *at;
	uint32_t digit = 100000000;

	errno = 0;
	*seconds = strtoll(text, &at, 10);
	*ns = 0;
	if (at == text || errno)
		return false;
	if (*at == '.')
		for (at++; *at >= '0' && *at <= '9'; at++, digit /= 10)
			*ns += (uint32_t)(*at - '0') * digit;
	if (text[0] == '-' && *ns) {
		*seconds -= 1;
		*ns = 1000000000 - *ns;
	}
	return *at == 0;
}

static bool parse_unsigned(const char *text, uint64_t *value)
{
	char *at;

	errno = 0;
	*value = strtoull(text, &at, 10);
	return text[0] >= '0' && text[0] <= '9' && *at == 0 && !errno && !(*value >> 63);
}

enum { HAS_SIZE = 1, HAS_UID = 2, HAS_GID = 4, HAS_MTIME = 8 };

struct overrides {
	struct tar_entry entry; /* name and link NULL where there's none */
	unsigned int has;
};

static bool apply_text(struct tar_stream *stream, struct overrides *over, const char *key, const char *value, size_t size)
{
	if (strcmp(key, "path") == 0)
		return set(stream, &over->entry.name, value, size);
	if (strcmp(key, "linkpath") == 0)
		return set(stream, &over->entry.link, value, size);
	if (strncmp(key, XATTR_KEY, strlen(XATTR_KEY)) == 0) {
		const char *name = key + strlen(XATTR_KEY);
		return xattr_add(&over->entry.xattrs, name, strlen(name), value, (uint32_t)size) || failed(stream, "out of memory");
	}
	if (strncmp(key, "GNU.sparse.", 11) == 0)
		return failed(stream, "GNU sparse files aren't supported");
	return true;
}

static bool apply_number(struct overrides *over, const char *key, const char *value)
{
	struct tar_entry *entry = &over->entry;

	if (strcmp(key, "size") == 0)
		return over->has |= HAS_SIZE, parse_unsigned(value, &entry->size);
	if (strcmp(key, "uid") == 0)
		return over->has |= HAS_UID, parse_unsigned(value, &entry->uid);
	if (strcmp(key, "gid") == 0)
		return over->has |= HAS_GID, parse_unsigned(value, &entry->gid);
	if (strcmp(key, "mtime") == 0)
		return over->has |= HAS_MTIME, parse_time(value, &entry->mtime, &entry->mtime_ns);
	return true;
}

/* "LENGTH KEY=VALUE\n", LENGTH counting everything. `text` has a NUL behind it. */
static bool parse_pax(struct tar_stream *stream, char *text, size_t size, struct overrides *over)
{
	while (size > 0) {
		char *at;
		unsigned long length = text[0] >= '0' && text[0] <= '9' ? strtoul(text, &at, 10) : 0;
		if (length < 5 || length > size || *at != ' ' || text[length - 1] != '\n')
			return failed(stream, "malformed pax header");
		char *key = at + 1, *end = text + length - 1, *equals = memchr(key, '=', (size_t)(end - key));
		if (!equals)
			return failed(stream, "malformed pax header");
		*equals = *end = 0;
		if (memchr(key, 0, (size_t)(equals - key)))
			return failed(stream, "malformed pax header");
		if (!apply_number(over, key, equals + 1))
			return failed(stream, "malformed pax %s: %.40s", key, equals + 1);
		if (!apply_text(stream, over, key, equals + 1, (size_t)(end - equals - 1)))
			return false;
		text += length;
		size -= length;
	}
	return true;
}

/* The content of a header of headers ('x', 'L', 'K'), with a NUL behind it. */
static char *read_extension(struct tar_stream *stream, uint64_t size)
{
	char *text = size <= TAR_PAX_MAX ? malloc((size_t)size + 1) : NULL;

	if (!text) {
		failed(stream, "extended header of %llu bytes", (unsigned long long)size);
		return NULL;
	}
	stream->left = 0;
	if (!take_all(stream, (uint8_t *)text, (size_t)size)) {
		free(text);
		return NULL;
	}
	text[size] = 0;
	return text;
}

static bool read_override(struct tar_stream *stream, char type, uint64_t size, struct overrides *over)
{
	char *text = read_extension(stream, size);
	bool good = false;

	if (text && type == 'x')
		good = parse_pax(stream, text, (size_t)size, over);
	else if (text)
		good = set(stream, type == 'L' ? &over->entry.name : &over->entry.link, text, strlen(text));
	free(text);
	return good;
}

static bool read_name(struct tar_stream *stream, const uint8_t *block, struct tar_entry *entry)
{
	char name[NAME_FIELD + 155 + 2];
	size_t used = 0, size = strnlen((const char *)block + AT_NAME, NAME_FIELD);
	size_t prefix = memcmp(block + AT_MAGIC, "ustar\0", 6) == 0 ? strnlen((const char *)block + AT_PREFIX, 155) : 0;

	memcpy(name, block + AT_PREFIX, prefix);
	used = prefix;
	if (prefix)
		name[used++] = '/';
	memcpy(name + used, block + AT_NAME, size);
	return set(stream, &entry->name, name, used + size) &&
	       set(stream, &entry->link, block + AT_LINK, strnlen((const char *)block + AT_LINK, NAME_FIELD));
}

static bool read_numbers(struct tar_stream *stream, const uint8_t *block, struct tar_entry *entry)
{
	uint64_t mode, mtime, major = 0, minor = 0;
	bool device = entry->type == '3' || entry->type == '4';

	if (!number(block + AT_MODE, 8, &mode) || !number(block + AT_UID, 8, &entry->uid) || !number(block + AT_GID, 8, &entry->gid) ||
	    !number(block + AT_SIZE, 12, &entry->size))
		return failed(stream, "malformed number in a header");
	if (device && (!number(block + AT_MAJOR, 8, &major) || !number(block + AT_MINOR, 8, &minor)))
		return failed(stream, "malformed device number");
	entry->mode = (uint32_t)mode & 07777;
	entry->mtime = number(block + AT_MTIME, 12, &mtime) ? (int64_t)mtime : 0;
	entry->major = (uint32_t)major;
	entry->minor = (uint32_t)minor;
	return true;
}

static void apply_overrides(struct tar_entry *entry, struct overrides *over)
{
	struct tar_entry *from = &over->entry;

	if (from->name) {
		free(entry->name);
		entry->name = from->name;
	}
	if (from->link) {
		free(entry->link);
		entry->link = from->link;
	}
	entry->xattrs = from->xattrs;
	if (over->has & HAS_SIZE)
		entry->size = from->size;
	if (over->has & HAS_UID)
		entry->uid = from->uid;
	if (over->has & HAS_GID)
		entry->gid = from->gid;
	if (over->has & HAS_MTIME) {
		entry->mtime = from->mtime;
		entry->mtime_ns = from->mtime_ns;
	}
	*over = (struct overrides){0};
}

void tar_entry_free(struct tar_entry *entry)
{
	free(entry->name);
	free(entry->link);
	buffer_free(&entry->xattrs);
	*entry = (struct tar_entry){0};
}

static void set_content(struct tar_stream *stream, uint64_t size)
{
	stream->left = size;
	stream->padding = (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
}

/* A header block that isn't an extension: fill in the entry. */
static int finish_entry(struct tar_stream *stream, struct tar_entry *entry, struct overrides *over)
{
	apply_overrides(entry, over);
	if (entry->type == 0 || entry->type == '7')
		entry->type = '0';
	size_t length = strlen(entry->name);
	if (entry->type == '0' && length && entry->name[length - 1] == '/')
		entry->type = '5';
	if (entry->type < '0' || entry->type > '6')
		return failed(stream, "%s: unknown type %d", entry->name, entry->type) - 1;
	/* Links and devices have no content, whatever some writers put into size. */
	set_content(stream, entry->type == '0' ? entry->size : entry->type == '5' ? entry->size : 0);
	return 1;
}

static int next_block(struct tar_stream *stream, struct tar_entry *entry, struct overrides *over)
{
	uint8_t block[TAR_BLOCK];

	if (!skip_rest(stream) || !take_all(stream, block, sizeof(block)))
		return -1;
	if (is_zero(block))
		return 0;
	if (!sum_is_right(block))
		return failed(stream, "wrong checksum: not a tar archive, or a damaged one") - 1;
	entry->type = (char)block[AT_TYPE];
	if (!read_name(stream, block, entry) || !read_numbers(stream, block, entry))
		return -1;
	if (entry->type == 'g') {
		set_content(stream, entry->size);
		return 2;
	}
	if (entry->type != 'x' && entry->type != 'L' && entry->type != 'K')
		return finish_entry(stream, entry, over);
	set_content(stream, entry->size);
	return read_override(stream, entry->type, entry->size, over) ? 2 : -1;
}

int tar_next(struct tar_stream *stream, struct tar_entry *entry)
{
	struct overrides over = {0};
	int result = 2;

	while (result == 2) {
		tar_entry_free(entry);
		result = next_block(stream, entry, &over);
	}
	tar_entry_free(&over.entry);
	return result;
}

/* ---- writing */

static bool flush(struct tar_stream *stream)
{
	while (stream->start < stream->end) {
		ssize_t put = write(stream->descriptor, stream->space + stream->start, stream->end - stream->start);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return failed(stream, "write: %s", strerror(errno));
		stream->start += (size_t)put;
	}
	stream->start = stream->end = 0;
	return true;
}

static bool put(struct tar_stream *stream, const void *data, size_t size)
{
	const uint8_t *at = data;

	while (size > 0 && !stream->failed) {
		size_t room = SPACE - stream->end, part = size < room ? size : room;
		memcpy(stream->space + stream->end, at, part);
		stream->end += part;
		at += part;
		size -= part;
		if (stream->end == SPACE)
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
		return failed(stream, "more content than announced");
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
	bool good = collect_pax(&pax, entry) || failed(stream, "out of memory");

	if (good && buffer_used(&pax) > 0)
		good = put_pax(stream, &pax);
	buffer_free(&pax);
	return good && put_header(stream, entry) && (stream->left > 0 || put_padding(stream));
}
