/* The workload's output, kept until the host has it. Pure: no system calls but memory. */
#ifndef TWINHULL_RING_H
#define TWINHULL_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RING_SIZE = 4 * 1024 * 1024, RING_RECORD = 21 };

/* Records of RING_RECORD bytes and data, in a circle. Positions (tail ≤ cursor ≤ head) count bytes in the circle for ever;
 * offsets count data bytes. */
struct ring {
	uint8_t *bytes; /* NULL until first used */
	uint64_t tail, cursor, head;
	uint64_t base, next, end; /* offsets at tail, of the first byte not yet sent, and behind the last */
};

struct chunk {
	uint64_t offset, time;
	uint8_t fd;
	uint32_t size;
};

/* How many data bytes a new record may have without dropping any. */
size_t ring_room(const struct ring *ring);
/* Add a record of at most RING_SIZE / 2, dropping the oldest ones where there's no room. False without memory. */
bool ring_push(struct ring *ring, uint64_t time, uint8_t fd, const void *data, size_t size);
/* The host has everything below `offset`. */
void ring_ack(struct ring *ring, uint64_t offset);
/* Send again from `offset` on (or from the oldest byte there is). */
void ring_rewind(struct ring *ring, uint64_t offset);
/* The next piece to send, of at most `limit` bytes; false: nothing. */
bool ring_peek(const struct ring *ring, size_t limit, struct chunk *chunk);
/* Copy that piece out and move on. */
void ring_take(struct ring *ring, const struct chunk *chunk, uint8_t *out);

#endif
