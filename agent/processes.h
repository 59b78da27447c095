/* A look at /proc: who is inside, and what belongs to a session. */
#ifndef TWINHULL_PROCESSES_H
#define TWINHULL_PROCESSES_H

#include <sys/types.h>

#include "frame.h"

/* TOP's text: every process in a pid namespace below ours. `workload` (or -1) is where user names are looked up. */
void processes_list(pid_t workload, struct buffer *out);
/* KILL to all processes of that session id. */
void processes_kill_session(pid_t session);

#endif
