/* The event loop between host and programs. */
#ifndef TWINHULL_GUEST_H
#define TWINHULL_GUEST_H

#include "machine.h"

/* Serve on a port or (listener ≥ 0) on a listening socket. Returns only in tests, after SHUTDOWN. */
int guest_serve(const struct machine *machine, int port, int listener);

#endif
