/* The workload's volumes, taken away and brought back while it stands still: a 9p connection can't be saved. */
#ifndef TWINHULL_VOLUMES_H
#define TWINHULL_VOLUMES_H

#include "state.h"

/* Unmount them all. -1 with the fault set (FAULT_STATE: one is in use): then all are where they were. */
int volumes_detach(struct guest *guest, struct fault *fault);
/* Mount them again, by a new connection. Nothing happens if they are there. After an error the workload must not go on. */
int volumes_attach(struct guest *guest, struct fault *fault);

#endif
