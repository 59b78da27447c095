#define _GNU_SOURCE
#include "session.h"

#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "terminal.h"

enum { READ_SIZE = 60000, GRANT_STEP = 32 * 1024, DATA_HEAD = 1 };
#define TTY_PATIENCE_NS 500000000ull

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t realtime_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}

uint64_t monotonic_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

void session_adopt(struct session *session, const struct spawned *spawned, bool tty)
{
	session->pid = spawned->pid;
	session->sync = spawned->sync;
	session->in = spawned->in;
	session->out[0] = spawned->out;
	session->out[1] = spawned->err;
	session->tty = tty;
	session->credit = SESSION_WINDOW;
}

void session_set_terminal(struct session *session, int master)
{
	session->in = session->out[0] = master;
}

static void close_output(struct session *session, int which)
{
	if (session->out[which] >= 0 && session->out[which] != session->in)
		close(session->out[which]);
	session->out[which] = -1;
}

static void close_input(struct session *session)
{
	if (session->in >= 0 && session->in != session->out[0])
		close(session->in);
	session->in = -1;
}

/* Nothing reads stdin any more: tell the host, once. */
static void refuse_input(struct session *session, const struct stream_context *context)
{
	uint8_t none[4] = {0};

	close_input(session);
	buffer_free(&session->input);
	if (!session->mute)
		link_send(context->link, T_GRANT, FRAME_CLOSED, session->stream, none, sizeof(none));
}

static void grant(struct session *session, const struct stream_context *context)
{
	uint8_t credit[4];

	if (session->mute || session->drained == 0 || (session->drained < GRANT_STEP && buffer_used(&session->input) > 0))
		return;
	put32(credit, session->drained);
	session->drained = 0;
	link_send(context->link, T_GRANT, 0, session->stream, credit, sizeof(credit));
}

/* A terminal stays open at end of file; what it gets is its end-of-file character. */
static void end_input(struct session *session)
{
	if (!session->input_over || buffer_used(&session->input) > 0 || session->in < 0)
		return;
	if (!session->tty)
		close_input(session);
	session->input_over = false;
}

void session_write(struct session *session, const struct stream_context *context)
{
	while (session->in >= 0 && buffer_used(&session->input) > 0) {
		ssize_t put = write(session->in, session->input.data + session->input.start, buffer_used(&session->input));
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0 && errno == EAGAIN)
			break;
		if (put < 0) {
			refuse_input(session, context);
			return;
		}
		buffer_consume(&session->input, (size_t)put);
		session->drained += (uint32_t)put;
	}
	grant(session, context);
	end_input(session);
}

static void take_end_of_file(struct session *session)
{
	if (session->tty) {
		unsigned char end = terminal_end_of_file(session->in);
		buffer_append(&session->input, &end, 1);
	}
	session->input_over = true;
}

void session_input(struct session *session, const struct stream_context *context, const uint8_t *data, size_t size)
{
	bool coming = session->sync >= 0 && session->tty; /* the terminal isn't there yet */

	if (session->input_over || (session->in < 0 && !coming)) {
		if (size > 0)
			refuse_input(session, context);
		return;
	}
	if (size == 0)
		take_end_of_file(session);
	else
		buffer_append(&session->input, data, size <= session_room(session) ? size : session_room(session));
	session_write(session, context);
}

uint32_t session_room(const struct session *session)
{
	size_t used = buffer_used(&session->input);

	return used < SESSION_WINDOW ? (uint32_t)(SESSION_WINDOW - used) : 0;
}

static size_t can_read(const struct session *session, const struct stream_context *context)
{
	size_t room = READ_SIZE;

	if (session->workload && context->link->greeted)
		room = ring_room(context->ring);
	else if (!session->workload && !session->mute)
		room = link_has_room(context->link) && context->link->greeted ? (size_t)session->credit : 0;
	return room < READ_SIZE ? room : READ_SIZE;
}

void session_poll(const struct session *session, const struct stream_context *context, struct pollfd *slots)
{
	bool writes = session->in >= 0 && buffer_used(&session->input) > 0;
	bool reads = can_read(session, context) > 0;

	slots[0] = (struct pollfd){.fd = session->sync, .events = POLLIN};
	slots[1] = (struct pollfd){.fd = writes ? session->in : -1, .events = POLLOUT};
	for (int i = 0; i < 2; i++)
		slots[2 + i] = (struct pollfd){.fd = reads ? session->out[i] : -1, .events = POLLIN};
}

/* read() into `space`; at the end (also a terminal's EIO) the descriptor is closed. */
static ssize_t take(struct session *session, int which, uint8_t *space, size_t size)
{
	ssize_t got;

	while ((got = read(session->out[which], space, size)) < 0 && errno == EINTR)
		;
	if (got < 0 && errno == EAGAIN)
		return -1;
	if (got <= 0)
		close_output(session, which);
	else
		session->written[which] += (uint64_t)got;
	return got;
}

static ssize_t read_to_ring(struct session *session, const struct stream_context *context, int which, size_t size)
{
	static uint8_t space[READ_SIZE];
	ssize_t got = take(session, which, space, size);

	if (got > 0)
		ring_push(context->ring, realtime_ns(), (uint8_t)(which + 1), space, (size_t)got);
	return got;
}

static ssize_t read_to_link(struct session *session, const struct stream_context *context, int which, size_t size)
{
	uint8_t *payload = link_reserve(context->link, DATA_HEAD + size);
	ssize_t got = payload ? take(session, which, payload + DATA_HEAD, size) : -1;

	if (got > 0) {
		payload[0] = (uint8_t)(which + 1);
		session->credit -= (uint64_t)got;
		link_commit(context->link, T_DATA, session->stream, DATA_HEAD + (size_t)got);
	}
	return got;
}

static ssize_t read_away(struct session *session, int which)
{
	static uint8_t space[READ_SIZE];

	return take(session, which, space, sizeof(space));
}

static ssize_t read_once(struct session *session, const struct stream_context *context, int which)
{
	size_t size = can_read(session, context);

	if (session->out[which] < 0 || size == 0)
		return -1;
	if (session->workload)
		return read_to_ring(session, context, which, size);
	return session->mute ? read_away(session, which) : read_to_link(session, context, which, size);
}

void session_read(struct session *session, const struct stream_context *context, int which)
{
	read_once(session, context, which);
}

bool session_drain(struct session *session, const struct stream_context *context, uint64_t now)
{
	if (!session->patience)
		session->patience = now + TTY_PATIENCE_NS;
	for (int which = 0; which < 2; which++) {
		while (session->out[which] >= 0 && can_read(session, context) > 0) {
			if (read_once(session, context, which) >= 0)
				continue;
			/* Empty. A terminal may still be passing on what was written before the end. */
			if (session->tty && now < session->patience)
				return false;
			close_output(session, which);
		}
	}
	return session->out[0] < 0 && session->out[1] < 0;
}

uint32_t session_code(const struct session *session)
{
	if (WIFSIGNALED(session->status))
		return 128 + (uint32_t)WTERMSIG(session->status);
	return (uint32_t)WEXITSTATUS(session->status);
}

void session_close(struct session *session)
{
	close_output(session, 0);
	close_output(session, 1);
	close_input(session);
	if (session->sync >= 0)
		close(session->sync);
	session->sync = -1;
	buffer_free(&session->input);
}
