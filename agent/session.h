/* One program and its streams: the workload (stream 0) or an exec. */
#ifndef TWINHULL_SESSION_H
#define TWINHULL_SESSION_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "config.h"
#include "frame.h"
#include "link.h"
#include "ring.h"
#include "spawn.h"

enum { SESSION_WINDOW = 256 * 1024, SESSION_SLOTS = 4 };

struct session {
	struct session *next;
	uint32_t stream;
	uint32_t request; /* START's number, for the workload */
	bool workload, tty;
	bool mute; /* of a former connection: nothing is sent about it any more */
	pid_t pid;
	int sync;	  /* until the program runs */
	int in, out[2];	  /* -1: closed; with a TTY in and out[0] are the master */
	int status;	  /* waitpid's */
	bool running, ended, failed;
	bool input_over;  /* end of file is to follow what's in `input` */
	struct buffer input;
	uint32_t drained; /* bytes to grant to the host */
	uint64_t credit;  /* bytes of DATA the host still takes */
	uint64_t written[2];
	uint64_t patience; /* monotonic ns until which the end of a TTY's output is awaited */
};

/* `ring` NULL for an exec. */
struct stream_context {
	struct link *link;
	struct ring *ring;
};

void session_adopt(struct session *session, const struct spawned *spawned, bool tty);
/* From SPAWN_TTY on. */
void session_set_terminal(struct session *session, int master);
/* What to poll for: SESSION_SLOTS entries (sync, in, out, err); descriptor -1 for nothing. */
void session_poll(const struct session *session, const struct stream_context *context, struct pollfd *slots);
/* STDIN from the host. */
void session_input(struct session *session, const struct stream_context *context, const uint8_t *data, size_t size);
void session_write(struct session *session, const struct stream_context *context);
/* Read once from stdout (0) or stderr (1). */
void session_read(struct session *session, const struct stream_context *context, int which);
/* After the program's end: read the rest; true when all is out. */
bool session_drain(struct session *session, const struct stream_context *context, uint64_t now);
/* 0–255 as a shell says it. */
uint32_t session_code(const struct session *session);
uint32_t session_room(const struct session *session);
void session_close(struct session *session);
uint64_t realtime_ns(void);
uint64_t monotonic_ns(void);

#endif
