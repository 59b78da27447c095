#define _GNU_SOURCE
#include "link.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fault.h"

enum { WRITE_SIZE = 32 * 1024 }; /* what the virtio port takes at once */

static void watch(struct link *link, int descriptor)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = descriptor};

	if (epoll_ctl(link->epoll, EPOLL_CTL_ADD, descriptor, &event) < 0)
		log_line("watch the host's stream: %m");
}

void link_open(struct link *link, int descriptor, int listener)
{
	link->epoll = epoll_create1(EPOLL_CLOEXEC);
	link->descriptor = descriptor;
	link->listener = listener;
	watch(link, listener >= 0 ? listener : descriptor);
}

void link_reset(struct link *link)
{
	buffer_clear(&link->out);
}

static void hang_up(struct link *link)
{
	link->greeted = link->readable = link->writable = false;
	link_reset(link);
	if (link->listener < 0 || link->descriptor < 0)
		return;
	close(link->descriptor);
	link->descriptor = -1;
}

/* A new connection takes the place of the old one, as on QEMU's socket once the old one is closed. */
static void accept_next(struct link *link)
{
	int next = accept4(link->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (next < 0)
		return;
	hang_up(link);
	link->descriptor = next;
	link->readable = link->writable = true;
	watch(link, next);
}

static void handle(struct link *link, const struct epoll_event *event)
{
	if (event->data.fd == link->listener) {
		accept_next(link);
		return;
	}
	if (event->data.fd != link->descriptor)
		return;
	link->readable = link->readable || event->events & EPOLLIN;
	link->writable = link->writable || event->events & EPOLLOUT;
	if (event->events & (EPOLLHUP | EPOLLERR) && link->listener < 0)
		hang_up(link);
}

void link_update(struct link *link)
{
	struct epoll_event events[8];
	int count = epoll_wait(link->epoll, events, 8, 0);

	for (int i = 0; i < count; i++)
		handle(link, &events[i]);
}

void link_receive(struct link *link)
{
	size_t room;
	uint8_t *space = decoder_space(&link->in, &room);
	ssize_t got;

	if (!link->readable || room == 0)
		return;
	got = read(link->descriptor, space, room);
	if (got > 0)
		decoder_filled(&link->in, (size_t)got);
	else if (got < 0 && (errno == EAGAIN || errno == EINTR))
		link->readable = errno == EINTR;
	else
		hang_up(link);
}

void link_flush(struct link *link)
{
	while (link->writable && buffer_used(&link->out) > 0) {
		size_t size = buffer_used(&link->out);
		ssize_t put = write(link->descriptor, link->out.data + link->out.start, size < WRITE_SIZE ? size : WRITE_SIZE);
		if (put > 0)
			buffer_consume(&link->out, (size_t)put);
		else if (errno == EAGAIN)
			link->writable = false;
		else if (errno != EINTR)
			hang_up(link);
	}
}

bool link_has_room(const struct link *link)
{
	return buffer_used(&link->out) < LINK_HIGH;
}

uint8_t *link_reserve(struct link *link, size_t size)
{
	uint8_t *head = link->greeted ? buffer_reserve(&link->out, FRAME_HEADER + size) : NULL;

	if (!head && link->greeted)
		hang_up(link);
	return head ? head + FRAME_HEADER : NULL;
}

void link_commit(struct link *link, uint8_t type, uint32_t stream, size_t size)
{
	frame_header(link->out.data + link->out.end, type, 0, stream, (uint32_t)size);
	buffer_commit(&link->out, FRAME_HEADER + size);
}

static void send_one(struct link *link, uint8_t type, uint16_t flags, uint32_t stream, const uint8_t *data, size_t size)
{
	uint8_t *payload = link_reserve(link, size);

	if (!payload)
		return;
	if (size > 0)
		memcpy(payload, data, size);
	frame_header(payload - FRAME_HEADER, type, flags, stream, (uint32_t)size);
	buffer_commit(&link->out, FRAME_HEADER + size);
}

void link_send(struct link *link, uint8_t type, uint16_t flags, uint32_t stream, const void *data, size_t size)
{
	const uint8_t *at = data;

	for (; size > FRAME_PAYLOAD; at += FRAME_PAYLOAD, size -= FRAME_PAYLOAD)
		send_one(link, type, flags | FRAME_MORE, stream, at, FRAME_PAYLOAD);
	send_one(link, type, flags, stream, at, size);
}
