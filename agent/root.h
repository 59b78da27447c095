/* The workload's own mount namespace: root, kernel file systems, volumes, files. Runs in the workload's process. */
#ifndef TWINHULL_ROOT_H
#define TWINHULL_ROOT_H

#include "config.h"
#include "fault.h"
#include "machine.h"

/* Put all mounts together and make them this process's "/". */
int root_enter(const struct machine *machine, const struct config *config, struct fault *fault);
/* Hide and protect what Docker hides and protects; the root becomes read-only if that is wanted. */
int root_seal(const struct machine *machine, const struct config *config, struct fault *fault);

/* Mount the share of volumes at the machine's place for it, if the config has any. */
int root_mount_share(const struct machine *machine, const struct config *config, struct fault *fault);

#endif
