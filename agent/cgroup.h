/* Limits on the workload and its use of the machine, from the guest's cgroup2 and /proc. */
#ifndef TWINHULL_CGROUP_H
#define TWINHULL_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "config.h"
#include "fault.h"

enum { STATS_NET_IN = 5, STATS_NET_OUT = 6, STATS_COUNT = 11 };

/* `cgroup` is the folder's descriptor; -1: there is none, nothing happens. 0 (a limit of none) lifts a limit. */
int cgroup_limit(int cgroup, const struct resources *resources, struct fault *fault);
int cgroup_join(int cgroup);
/* Stop all processes, and return when they have stopped; or let them run again. 0 or -1 with the fault set. */
int cgroup_freeze(int cgroup, bool frozen, struct fault *fault);
/* How often the kernel killed for want of memory. */
uint64_t cgroup_oom_kills(int cgroup);
/* In the order of PROTOCOL.md. */
void cgroup_stats(int cgroup, uint64_t stats[STATS_COUNT]);

#endif
