/* Frames and records of the protocol (PROTOCOL.md): pure, no system calls.
 * Law: whatever bytes come in, nothing is read or written outside the buffers, and later good frames are still found. */
#ifndef TWINHULL_FRAME_H
#define TWINHULL_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	PROTOCOL_VERSION = 1,
	FRAME_MARKER = 0xA5,
	FRAME_TRAILER = 0x5A,
	FRAME_HEADER = 12,
	FRAME_PAYLOAD = 65536,
	FRAME_MAX = FRAME_HEADER + FRAME_PAYLOAD,
	FRAME_MORE = 1,
	FRAME_CLOSED = 2,
};

enum frame_type {
	T_HELLO = 0x01,
	T_CONFIG,
	T_START,
	T_EXEC,
	T_STDIN,
	T_WINDOW,
	T_SIGNAL,
	T_RESIZE,
	T_CLOSE,
	T_LOGACK,
	T_STATS,
	T_UPDATE,
	T_CLOCK,
	T_SHUTDOWN,
	T_TOP,
	T_RESET,
	T_RESUME,
	T_PREPARE,
	T_FREEZE,
	T_VOLUMES,
	T_WELCOME = 0x81,
	T_OK,
	T_ERROR,
	T_STARTED,
	T_DATA,
	T_OUTPUT,
	T_EXIT,
	T_GRANT,
	T_STATS_REPLY = 0x8B,
	T_TOP_REPLY = 0x8F,
};

/* One frame from the host, without its trailer; `data` lies in the decoder's buffer until the next decoder_space. */
struct frame {
	uint8_t type;
	uint16_t flags;
	uint32_t stream;
	const uint8_t *data;
	size_t size;
};

struct decoder {
	size_t start, end;
	uint64_t skipped; /* bytes between frames that were not zero */
	uint64_t dropped; /* frames without a trailer */
	uint8_t buffer[2 * FRAME_MAX];
};

/* Where to put received bytes; room is at least FRAME_MAX once decoder_next has returned false. */
uint8_t *decoder_space(struct decoder *decoder, size_t *room);
void decoder_filled(struct decoder *decoder, size_t count);
/* The next good frame; false: more bytes are needed. */
bool decoder_next(struct decoder *decoder, struct frame *frame);

void frame_header(uint8_t *out, uint8_t type, uint16_t flags, uint32_t stream, uint32_t length);

uint16_t get16(const uint8_t *p);
uint32_t get32(const uint8_t *p);
uint64_t get64(const uint8_t *p);
void put16(uint8_t *p, uint16_t value);
void put32(uint8_t *p, uint32_t value);
void put64(uint8_t *p, uint64_t value);

/* TLV records. */
struct record {
	uint16_t tag;
	uint32_t size;
	const uint8_t *data;
};

struct records {
	const uint8_t *at, *end;
};

/* 1: a record, 0: the end, -1: malformed. */
int records_next(struct records *records, struct record *record);

/* A growable queue of bytes. */
struct buffer {
	uint8_t *data;
	size_t start, end, capacity;
};

/* Room for `count` bytes behind the end; NULL without memory (the content stays). */
uint8_t *buffer_reserve(struct buffer *buffer, size_t count);
void buffer_commit(struct buffer *buffer, size_t count);
bool buffer_append(struct buffer *buffer, const void *data, size_t count);
void buffer_consume(struct buffer *buffer, size_t count);
size_t buffer_used(const struct buffer *buffer);
void buffer_clear(struct buffer *buffer);
void buffer_free(struct buffer *buffer);

#endif
