#include "ring.h"

#include <string.h>
#include <sys/mman.h>

#include "frame.h"

static void copy_in(struct ring *ring, uint64_t position, const void *data, size_t size)
{
	size_t at = position % RING_SIZE, first = RING_SIZE - at < size ? RING_SIZE - at : size;

	memcpy(ring->bytes + at, data, first);
	memcpy(ring->bytes, (const uint8_t *)data + first, size - first);
}

static void copy_out(const struct ring *ring, uint64_t position, void *data, size_t size)
{
	size_t at = position % RING_SIZE, first = RING_SIZE - at < size ? RING_SIZE - at : size;

	memcpy(data, ring->bytes + at, first);
	memcpy((uint8_t *)data + first, ring->bytes, size - first);
}

static struct chunk record_at(const struct ring *ring, uint64_t position)
{
	uint8_t raw[RING_RECORD];

	copy_out(ring, position, raw, sizeof(raw));
	return (struct chunk){get64(raw), get64(raw + 8), raw[20], get32(raw + 16)};
}

size_t ring_room(const struct ring *ring)
{
	size_t used = (size_t)(ring->head - ring->tail);

	return RING_SIZE - used > RING_RECORD ? RING_SIZE - used - RING_RECORD : 0;
}

static void drop_oldest(struct ring *ring)
{
	struct chunk oldest = record_at(ring, ring->tail);

	ring->tail += RING_RECORD + oldest.size;
	ring->base = oldest.offset + oldest.size;
	if (ring->cursor < ring->tail) {
		ring->cursor = ring->tail;
		ring->next = ring->base;
	}
}

/* Once empty, begin at the front again, so that a quiet workload touches few pages. */
static void restart_if_empty(struct ring *ring)
{
	if (ring->tail == ring->head)
		ring->tail = ring->cursor = ring->head = 0;
}

static bool allocate(struct ring *ring)
{
	if (ring->bytes)
		return true;
	void *bytes = mmap(NULL, RING_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (bytes == MAP_FAILED)
		return false;
	ring->bytes = bytes;
	return true;
}

bool ring_push(struct ring *ring, uint64_t time, uint8_t fd, const void *data, size_t size)
{
	uint8_t raw[RING_RECORD];

	if (size == 0 || size > RING_SIZE / 2 || !allocate(ring))
		return false;
	while (ring_room(ring) < size)
		drop_oldest(ring);
	put64(raw, ring->end);
	put64(raw + 8, time);
	put32(raw + 16, (uint32_t)size);
	raw[20] = fd;
	copy_in(ring, ring->head, raw, sizeof(raw));
	copy_in(ring, ring->head + RING_RECORD, data, size);
	ring->head += RING_RECORD + size;
	ring->end += size;
	return true;
}

void ring_ack(struct ring *ring, uint64_t offset)
{
	while (ring->tail < ring->cursor) {
		struct chunk oldest = record_at(ring, ring->tail);

		if (oldest.offset + oldest.size > offset)
			return;
		drop_oldest(ring);
	}
	restart_if_empty(ring);
}

void ring_rewind(struct ring *ring, uint64_t offset)
{
	ring->cursor = ring->head;
	ring->next = ring->end;
	ring_ack(ring, offset);
	ring->cursor = ring->tail;
	ring->next = offset > ring->base && ring->tail < ring->head ? offset : ring->base;
}

bool ring_peek(const struct ring *ring, size_t limit, struct chunk *chunk)
{
	if (ring->cursor == ring->head)
		return false;
	struct chunk whole = record_at(ring, ring->cursor);
	uint64_t left = whole.offset + whole.size - ring->next;
	*chunk = (struct chunk){ring->next, whole.time, whole.fd, (uint32_t)(left < limit ? left : limit)};
	return true;
}

void ring_take(struct ring *ring, const struct chunk *chunk, uint8_t *out)
{
	struct chunk whole = record_at(ring, ring->cursor);
	uint64_t skip = chunk->offset - whole.offset;

	copy_out(ring, ring->cursor + RING_RECORD + skip, out, chunk->size);
	ring->next = chunk->offset + chunk->size;
	if (skip + chunk->size == whole.size)
		ring->cursor += RING_RECORD + whole.size;
}
