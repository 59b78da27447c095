/* Frames, records, buffers and the ring: examples, then random bytes under the sanitizers. */
#include <string.h>
#include <time.h>

#include "check.h"
#include "config.h"
#include "frame.h"
#include "ring.h"

static struct decoder decoder;

static void feed(const void *data, size_t size)
{
	size_t room;
	uint8_t *space = decoder_space(&decoder, &room);

	CHECK(size <= room);
	memcpy(space, data, size);
	decoder_filled(&decoder, size);
}

static size_t make(uint8_t *out, uint8_t type, uint32_t stream, const void *data, size_t size)
{
	frame_header(out, type, 0, stream, (uint32_t)size + 1);
	memcpy(out + FRAME_HEADER, data, size);
	out[FRAME_HEADER + size] = FRAME_TRAILER;
	return FRAME_HEADER + size + 1;
}

static void reset(void)
{
	memset(&decoder, 0, sizeof(decoder));
}

static void test_any_portions(void)
{
	uint8_t bytes[64];
	struct frame frame;
	size_t size = make(bytes, T_STDIN, 7, "hello", 5);

	for (size_t split = 1; split < size; split++) {
		reset();
		feed(bytes, split);
		CHECK(!decoder_next(&decoder, &frame));
		feed(bytes + split, size - split);
		CHECK(decoder_next(&decoder, &frame));
		CHECK(frame.type == T_STDIN && frame.stream == 7 && frame.size == 5 && memcmp(frame.data, "hello", 5) == 0);
		CHECK(!decoder_next(&decoder, &frame) && decoder.skipped == 0 && decoder.dropped == 0);
	}
}

/* A frame cut off anywhere, then the flush of the next connection: only that connection's frame comes out. */
static void test_cut_frame(void)
{
	static uint8_t cut[FRAME_MAX], zeros[FRAME_MAX];
	uint8_t good[64];
	struct frame frame;
	static const size_t sizes[] = {0, 1, 100, FRAME_PAYLOAD - 1};

	size_t good_size = make(good, T_HELLO, 0, "nonce", 5);
	for (size_t i = 0; i < 4; i++) {
		memset(cut, 0x5A, sizeof(cut));
		size_t size = make(cut, T_STDIN, 1, cut + FRAME_HEADER, sizes[i]);
		for (size_t kept = 1; kept < size; kept += kept < 20 ? 1 : 911) {
			reset();
			feed(cut, kept);
			CHECK(!decoder_next(&decoder, &frame));
			feed(zeros, sizeof(zeros));
			CHECK(!decoder_next(&decoder, &frame));
			feed(good, good_size);
			CHECK(decoder_next(&decoder, &frame) && frame.type == T_HELLO && frame.size == 5);
		}
	}
}

static void test_garbage_between(void)
{
	uint8_t good[64];
	struct frame frame;

	reset();
	feed("\x01\x02\xA5garbage that looks like a header \xA5", 36);
	size_t size = make(good, T_STATS, 3, "", 0);
	while (decoder_next(&decoder, &frame))
		;
	uint8_t zeros[128] = {0};
	feed(zeros, sizeof(zeros));
	feed(good, size);
	CHECK(decoder_next(&decoder, &frame) && frame.type == T_STATS && frame.stream == 3 && frame.size == 0);
	CHECK(decoder.skipped > 0);
}

/* Mutated streams: no crash, no overrun, and the good frame after a flush is always found. */
static void test_mutations(void)
{
	static uint8_t zeros[FRAME_MAX], bytes[4096];
	struct frame frame;
	unsigned int seed = 12345;
	uint64_t frames = 0;

	reset();
	for (int round = 0; round < 100000; round++) {
		uint8_t body[256];
		size_t body_size = next_random(&seed) % sizeof(body);
		for (size_t i = 0; i < body_size; i++)
			body[i] = (uint8_t)next_random(&seed);
		size_t size = make(bytes, (uint8_t)(next_random(&seed) % 20), next_random(&seed), body, body_size);
		for (unsigned int flips = next_random(&seed) % 3; flips > 0; flips--)
			bytes[next_random(&seed) % size] = (uint8_t)next_random(&seed);
		size_t kept = next_random(&seed) % 8 ? size : next_random(&seed) % size;
		feed(bytes, kept);
		while (decoder_next(&decoder, &frame)) {
			CHECK(frame.size < FRAME_PAYLOAD && frame.data >= decoder.buffer);
			CHECK(frame.data + frame.size < decoder.buffer + sizeof(decoder.buffer));
			frames++;
		}
		if (round % 1000 != 999)
			continue;
		feed(zeros, sizeof(zeros));
		while (decoder_next(&decoder, &frame))
			;
		feed(bytes, make(bytes, T_HELLO, 0, "sync", 4));
		CHECK(decoder_next(&decoder, &frame) && frame.type == T_HELLO && memcmp(frame.data, "sync", 4) == 0);
	}
	CHECK(frames > 10000 && decoder.dropped > 0 && decoder.skipped > 0);
}

static void test_record_mutations(void)
{
	struct config config;
	struct fault fault;
	uint8_t bytes[2048];
	unsigned int seed = 99;
	int good = 0;

	for (int round = 0; round < 100000; round++) {
		size_t size = 0;
		unsigned int count = next_random(&seed) % 8;
		for (unsigned int i = 0; i < count; i++) {
			uint32_t length = next_random(&seed) % 64;
			put16(bytes + size, (uint16_t)(i ? next_random(&seed) % 30 : 1));
			put32(bytes + size + 2, next_random(&seed) % 50 ? length : next_random(&seed));
			for (uint32_t j = 0; j < length; j++)
				bytes[size + 6 + j] = (uint8_t)(next_random(&seed) % 3 ? 'a' : next_random(&seed));
			size += 6 + length;
		}
		if (config_parse(bytes, size, &config, &fault) == 0) {
			CHECK(config.process.argv[0][0] && !config.process.argv[config.process.argc]);
			config_free(&config);
			good++;
		}
		CHECK(!config.arena);
	}
	CHECK(good > 100);
}

static void test_ring(void)
{
	struct ring ring = {0};
	struct chunk chunk;
	uint8_t out[128];

	CHECK(!ring_peek(&ring, 100, &chunk));
	CHECK(ring_push(&ring, 1, 1, "hello", 5) && ring_push(&ring, 2, 2, "world", 5));
	CHECK(ring_peek(&ring, 3, &chunk) && chunk.offset == 0 && chunk.size == 3 && chunk.fd == 1 && chunk.time == 1);
	ring_take(&ring, &chunk, out);
	CHECK(memcmp(out, "hel", 3) == 0 && ring_peek(&ring, 100, &chunk) && chunk.offset == 3 && chunk.size == 2);
	ring_rewind(&ring, 4);
	CHECK(ring_peek(&ring, 100, &chunk) && chunk.offset == 4 && chunk.size == 1);
	ring_take(&ring, &chunk, out);
	CHECK(out[0] == 'o' && ring_peek(&ring, 100, &chunk) && chunk.offset == 5 && chunk.fd == 2);
	ring_ack(&ring, 100); /* never beyond what was sent */
	CHECK(ring.base == 5 && ring_peek(&ring, 100, &chunk) && chunk.offset == 5);
	ring_rewind(&ring, 10);
	CHECK(!ring_peek(&ring, 100, &chunk) && ring.base == 10 && ring.end == 10 && ring.tail == 0);
}

/* The host away: the oldest goes, what's left is whole, and its offsets tell what's missing. */
static void test_ring_overflow(void)
{
	static uint8_t data[60000], out[60000];
	struct ring ring = {0};
	struct chunk chunk;
	unsigned int seed = 5;
	uint64_t pushed = 0, seen = 0, last_end;

	for (int round = 0; round < 2000; round++) {
		size_t size = 1 + next_random(&seed) % sizeof(data);
		for (size_t i = 0; i < size; i++)
			data[i] = (uint8_t)((pushed + i) * 31 >> 3);
		CHECK(ring_push(&ring, (uint64_t)round, 1, data, size));
		pushed += size;
		CHECK(ring.end == pushed && ring.head - ring.tail <= RING_SIZE && ring.base <= ring.next && ring.next <= ring.end);
		while (next_random(&seed) % 4 == 0 && ring_peek(&ring, 1 + next_random(&seed) % sizeof(out), &chunk)) {
			ring_take(&ring, &chunk, out);
			for (size_t i = 0; i < chunk.size; i++)
				CHECK(out[i] == (uint8_t)((chunk.offset + i) * 31 >> 3));
		}
		if (next_random(&seed) % 16 == 0)
			ring_ack(&ring, ring.next);
		if (next_random(&seed) % 64 == 0)
			ring_rewind(&ring, ring.base + next_random(&seed) % 100000);
	}
	ring_rewind(&ring, 0);
	for (last_end = ring.base; ring_peek(&ring, sizeof(out), &chunk); last_end = chunk.offset + chunk.size) {
		CHECK(chunk.offset == last_end);
		ring_take(&ring, &chunk, out);
		for (size_t i = 0; i < chunk.size; i++)
			CHECK(out[i] == (uint8_t)((chunk.offset + i) * 31 >> 3));
		seen += chunk.size;
	}
	CHECK(last_end == pushed && seen > 0);
}

int main(void)
{
	test_any_portions();
	test_cut_frame();
	test_garbage_between();
	test_mutations();
	test_record_mutations();
	test_ring();
	test_ring_overflow();
	puts("frame_test: ok");
	return 0;
}
