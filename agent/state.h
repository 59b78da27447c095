/* The agent's state, shared between the loop (guest.c) and the requests (requests.c). */
#ifndef TWINHULL_STATE_H
#define TWINHULL_STATE_H

#include <poll.h>
#include <stdbool.h>

#include "config.h"
#include "fault.h"
#include "link.h"
#include "machine.h"
#include "ring.h"
#include "session.h"

enum { STATE_FRESH, STATE_CONFIGURED, STATE_RUNNING, STATE_EXITED, SESSIONS_MAX = 512 };

struct guest {
	const struct machine *machine;
	struct link link;
	struct ring ring;
	struct config config;
	struct config identity; /* what RESUME changed of it */
	struct session *sessions; /* execs */
	struct session workload;
	size_t session_count;
	int state, signals, workload_fd;
	bool configuring, off, restart;
	bool exit_sent, oom;
	bool detached; /* the workload's volumes are unmounted */
	uint64_t oom_before, received_before, sent_before;
	struct buffer assembly;
	uint8_t assembly_type;
	uint32_t assembly_stream;
	struct pollfd *polls;
};

/* ---- requests.c */

/* Decode and do all that came from the host, as far as there's room for answers. */
void requests_serve(struct guest *guest);
void reply_ok(struct guest *guest, uint32_t stream);
void reply_fault(struct guest *guest, uint32_t stream, const struct fault *fault);
void reply_started(struct guest *guest, uint32_t stream, pid_t pid);
void send_exit(struct guest *guest, const struct session *session, uint32_t flags);
/* Close and forget an exec. */
void remove_session(struct guest *guest, struct session *session);
/* KILL to everything, and wait for it. */
void end_all(struct guest *guest);
struct stream_context context_of(struct guest *guest);

#endif
