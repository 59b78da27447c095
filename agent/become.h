/* From a root process in the right namespaces to the program the host asked for. Runs in the child only. */
#ifndef TWINHULL_BECOME_H
#define TWINHULL_BECOME_H

#include <limits.h>

#include "spawn.h"
#include "users.h"

struct identity {
	struct user user;
	char program[PATH_MAX];
	char home[1040]; /* "HOME=…" */
};

int identity_find(const struct launch *launch, struct identity *identity, struct fault *fault);
/* The working directory, made if missing. */
int identity_enter_folder(const struct launch *launch, struct fault *fault);
/* Limits, capabilities, groups and user. */
int identity_assume(const struct launch *launch, const struct identity *identity, struct fault *fault);
/* argv[0] in the process's own PATH, with Docker's messages and codes. */
int identity_find_program(const struct launch *launch, struct identity *identity, struct fault *fault);
/* Returns only on failure. */
int identity_exec(const struct launch *launch, const struct identity *identity, struct fault *fault);

#endif
