#include "frame.h"

#include <stdlib.h>
#include <string.h>

uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) | (uint32_t)get16(p + 2) << 16;
}

uint64_t get64(const uint8_t *p)
{
	return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32;
}

void put16(uint8_t *p, uint16_t value)
{
	p[0] = (uint8_t)value;
	p[1] = (uint8_t)(value >> 8);
}

void put32(uint8_t *p, uint32_t value)
{
	put16(p, (uint16_t)value);
	put16(p + 2, (uint16_t)(value >> 16));
}

void put64(uint8_t *p, uint64_t value)
{
	put32(p, (uint32_t)value);
	put32(p + 4, (uint32_t)(value >> 32));
}

void frame_header(uint8_t *out, uint8_t type, uint16_t flags, uint32_t stream, uint32_t length)
{
	out[0] = FRAME_MARKER;
	out[1] = type;
	put16(out + 2, flags);
	put32(out + 4, stream);
	put32(out + 8, length);
}

uint8_t *decoder_space(struct decoder *decoder, size_t *room)
{
	size_t held = decoder->end - decoder->start;

	if (decoder->start > 0 && sizeof(decoder->buffer) - decoder->end < FRAME_MAX) {
		memmove(decoder->buffer, decoder->buffer + decoder->start, held);
		decoder->start = 0;
		decoder->end = held;
	}
	*room = sizeof(decoder->buffer) - decoder->end;
	return decoder->buffer + decoder->end;
}

void decoder_filled(struct decoder *decoder, size_t count)
{
	decoder->end += count;
}

/* Move to the next marker; true if there is one. */
static bool find_marker(struct decoder *decoder)
{
	while (decoder->start < decoder->end && decoder->buffer[decoder->start] != FRAME_MARKER)
		decoder->skipped += decoder->buffer[decoder->start++] != 0;
	if (decoder->start < decoder->end)
		return true;
	decoder->start = decoder->end = 0;
	return false;
}

bool decoder_next(struct decoder *decoder, struct frame *frame)
{
	while (find_marker(decoder)) {
		const uint8_t *head = decoder->buffer + decoder->start;
		size_t held = decoder->end - decoder->start;

		if (held < FRAME_HEADER)
			return false;
		uint32_t length = get32(head + 8);
		if (length == 0 || length > FRAME_PAYLOAD) {
			decoder->start++;
			decoder->skipped++;
			continue;
		}
		if (held < FRAME_HEADER + length)
			return false;
		decoder->start += FRAME_HEADER + length;
		if (head[FRAME_HEADER + length - 1] != FRAME_TRAILER) {
			decoder->dropped++;
			continue;
		}
		*frame = (struct frame){head[1], get16(head + 2), get32(head + 4), head + FRAME_HEADER, length - 1};
		return true;
	}
	return false;
}

int records_next(struct records *records, struct record *record)
{
	size_t left = (size_t)(records->end - records->at);

	if (left == 0)
		return 0;
	if (left < 6)
		return -1;
	*record = (struct record){get16(records->at), get32(records->at + 2), records->at + 6};
	if (record->size > left - 6)
		return -1;
	records->at += 6 + record->size;
	return 1;
}

size_t buffer_used(const struct buffer *buffer)
{
	return buffer->end - buffer->start;
}

static bool grow(struct buffer *buffer, size_t needed)
{
	size_t capacity = buffer->capacity ? buffer->capacity : 4096;

	while (capacity < needed)
		capacity *= 2;
	uint8_t *data = realloc(buffer->data, capacity);
	if (!data)
		return false;
	buffer->data = data;
	buffer->capacity = capacity;
	return true;
}

uint8_t *buffer_reserve(struct buffer *buffer, size_t count)
{
	if (buffer->capacity - buffer->end < count && buffer->start > 0) {
		memmove(buffer->data, buffer->data + buffer->start, buffer_used(buffer));
		buffer->end -= buffer->start;
		buffer->start = 0;
	}
	if (buffer->capacity - buffer->end < count && !grow(buffer, buffer->end + count))
		return NULL;
	return buffer->data + buffer->end;
}

void buffer_commit(struct buffer *buffer, size_t count)
{
	buffer->end += count;
}

bool buffer_append(struct buffer *buffer, const void *data, size_t count)
{
	if (count == 0)
		return true;
	uint8_t *room = buffer_reserve(buffer, count);
	if (!room)
		return false;
	memcpy(room, data, count);
	buffer_commit(buffer, count);
	return true;
}

void buffer_consume(struct buffer *buffer, size_t count)
{
	buffer->start += count;
	if (buffer->start == buffer->end)
		buffer_clear(buffer);
}

void buffer_clear(struct buffer *buffer)
{
	buffer->start = buffer->end = 0;
}

void buffer_free(struct buffer *buffer)
{
	free(buffer->data);
	*buffer = (struct buffer){0};
}
