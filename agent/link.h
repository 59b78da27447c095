/* The stream to the host: one virtio port in a VM, a listening socket in tests. Never blocks. */
#ifndef TWINHULL_LINK_H
#define TWINHULL_LINK_H

#include <stdbool.h>

#include "frame.h"

enum { LINK_HIGH = 256 * 1024 }; /* above so much unsent, nothing more is begun */

struct link {
	int descriptor;	 /* the port, or the accepted connection (-1: none) */
	int listener;	 /* -1: a port */
	int epoll;	 /* edge-triggered, because a port without a host reports POLLHUP for ever */
	bool readable, writable;
	bool greeted;	 /* a HELLO came on this connection; nothing is sent before it */
	struct decoder in;
	struct buffer out;
};

void link_open(struct link *link, int descriptor, int listener);
/* Look at the events behind `epoll`. */
void link_update(struct link *link);
/* Take in what's there, as far as there's room. */
void link_receive(struct link *link);
void link_flush(struct link *link);
/* Room to begin another message? */
bool link_has_room(const struct link *link);
/* Forget what a former connection still had to get. */
void link_reset(struct link *link);

/* Whole messages; without memory the connection is given up, so that the host never sees a gap. */
void link_send(struct link *link, uint8_t type, uint16_t flags, uint32_t stream, const void *data, size_t size);
/* Payload to be filled in place: reserve, then commit what was really used. NULL without memory. */
uint8_t *link_reserve(struct link *link, size_t size);
void link_commit(struct link *link, uint8_t type, uint32_t stream, size_t size);

#endif
