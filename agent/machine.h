/* What the agent runs on: a VM, or (in tests) a few namespaces of a host. */
#ifndef TWINHULL_MACHINE_H
#define TWINHULL_MACHINE_H

#include <stdbool.h>

#include "fault.h"

#define DIR_LOWER "/mnt/lower"
#define DIR_SCRATCH "/mnt/scratch"
#define DIR_ROOT "/mnt/root"
#define DIR_VOLUMES "/mnt/volumes"
#define DIR_FILES "/mnt/files"
#define AGENT_IN_ROOT "/run/twinhull/agent"

struct machine {
	bool real;		/* a VM: clock, entropy, disks and power are ours */
	const char *root;	/* where the workload's root is put together */
	const char *volumes;	/* folder with "0", "1", … */
	const char *agent;	/* this binary */
	int cgroup;		/* the workload's folder in cgroup2, or -1 */
};

/* PID 1 of a VM: file systems, modules, a tmpfs to live on. Fills in `machine`; never fails (what's missing shows in CONFIG). */
void machine_boot(struct machine *machine);
/* The agent, and what it starts until that is executed, stay on one processor: waking another one takes longer than their work, above all
 * under emulation. `all`: where programs run. */
void machine_use_processors(bool all);
/* The virtio port to the host, waiting for it to appear. */
int machine_port(void);
/* Mount the scratch disk; nothing happens if it is mounted. */
int machine_mount_scratch(struct fault *fault);
/* Mount the disks (at CONFIG: a snapshot's disks are exchanged before). */
int machine_mount_disks(struct fault *fault);
/* Sync, unmount, switch off; returns only if the kernel refuses. */
void machine_unmount(void);
/* After the workload's end: nothing mounted, nothing cached of the disks, and a new cgroup under the old descriptor. */
int machine_release(const struct machine *machine, struct fault *fault);
void machine_off(bool restart);
void machine_set_clock(unsigned long long realtime_ns);
void machine_add_entropy(const unsigned char *bytes, int size);

#endif
