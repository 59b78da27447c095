/* One program started: the workload in new namespaces, or another one in the workload's. */
#ifndef TWINHULL_SPAWN_H
#define TWINHULL_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

#include "config.h"
#include "fault.h"
#include "machine.h"

/* Where a program runs: as the workload in namespaces of its own, in the workload's, or in the agent's (its own tools only). */
enum place { PLACE_NEW, PLACE_INSIDE, PLACE_OUTSIDE };

struct launch {
	enum place place;
	const struct machine *machine;
	const struct config *config;   /* the guest's */
	const struct process *process; /* config->process for the workload */
	int target;		       /* pidfd of the workload, with PLACE_INSIDE */
};

/* The parent's ends; -1 where there is none. A TTY arrives later, with a SPAWN_TTY message. */
struct spawned {
	pid_t pid;
	int sync, in, out, err;
};

/* What the child says on `sync` before it becomes the program; end of file means that it did. */
enum spawn_message_kind { SPAWN_TTY = 'T', SPAWN_READY = 'R', SPAWN_FAILED = 'E' };

struct spawn_message {
	char kind;
	int descriptor; /* SPAWN_TTY */
	struct fault fault;
};

int spawn(const struct launch *launch, struct spawned *spawned, struct fault *fault);
/* 1: a message, 0: the program runs (end of file), -1: nothing yet. */
int spawn_receive(int sync, struct spawn_message *message);
/* Let a workload that is SPAWN_READY go. */
int spawn_go(int sync);

#endif
