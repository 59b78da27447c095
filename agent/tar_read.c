#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tar_block.h"

/* Up to `wanted` bytes that are in the buffer, refilled if it's empty; 0 at the end of file, -1 on an error. */
static ptrdiff_t take(struct tar_stream *stream, size_t wanted, const uint8_t **piece)
{
	if (stream->start == stream->end) {
		ssize_t got;
		while ((got = read(stream->descriptor, stream->space, TAR_SPACE)) < 0 && errno == EINTR)
			;
		if (got < 0)
			return tar_failed(stream, "read: %s", strerror(errno)) - 1;
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
			return tar_failed(stream, "unexpected end of the archive");
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
	ptrdiff_t got = take(stream, stream->left < TAR_SPACE ? (size_t)stream->left : TAR_SPACE, piece);
	if (got <= 0)
		return tar_failed(stream, "unexpected end of the archive") - 1;
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
		return tar_failed(stream, "NUL in a name");
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
		return xattr_add(&over->entry.xattrs, name, strlen(name), value, (uint32_t)size) || tar_failed(stream, "out of memory");
	}
	if (strncmp(key, "GNU.sparse.", 11) == 0)
		return tar_failed(stream, "GNU sparse files aren't supported");
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
			return tar_failed(stream, "malformed pax header");
		char *key = at + 1, *end = text + length - 1, *equals = memchr(key, '=', (size_t)(end - key));
		if (!equals)
			return tar_failed(stream, "malformed pax header");
		*equals = *end = 0;
		if (memchr(key, 0, (size_t)(equals - key)))
			return tar_failed(stream, "malformed pax header");
		if (!apply_number(over, key, equals + 1))
			return tar_failed(stream, "malformed pax %s: %.40s", key, equals + 1);
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
		tar_failed(stream, "extended header of %llu bytes", (unsigned long long)size);
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
		return tar_failed(stream, "malformed number in a header");
	if (device && (!number(block + AT_MAJOR, 8, &major) || !number(block + AT_MINOR, 8, &minor)))
		return tar_failed(stream, "malformed device number");
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
		return tar_failed(stream, "%s: unknown type %d", entry->name, entry->type) - 1;
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
		return tar_failed(stream, "wrong checksum: not a tar archive, or a damaged one") - 1;
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
