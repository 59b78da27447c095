/* The records of CONFIG, EXEC and UPDATE, checked and in the form that the rest of the agent uses. */
#ifndef TWINHULL_CONFIG_H
#define TWINHULL_CONFIG_H

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fault.h"

enum process_flag { P_TTY = 1, P_STDIN = 2, P_TOOL = 4, P_HOST_SIDE = 8, P_PRIVILEGED = 16, P_INIT = 32 };
enum config_option { O_READ_ONLY = 1, O_UNMASKED = 2, O_NO_NEW_PRIVILEGES = 4 };
enum mount_kind { MOUNT_TMPFS, MOUNT_VOLUME, MOUNT_FILE };

struct process {
	char **argv, **env; /* ended by NULL */
	size_t argc, envc;
	char *cwd, *user;
	uint32_t flags;
	uint16_t rows, cols;
};

struct resources {
	uint64_t memory, pids;
	uint32_t weight, quota, period;
};

struct limit {
	uint32_t resource;
	uint64_t soft, hard;
};

struct mount_point {
	enum mount_kind kind;
	char *target;
	bool read_only;
	uint32_t number; /* MOUNT_VOLUME */
	uint64_t size;	 /* MOUNT_TMPFS */
	uint32_t mode;	 /* MOUNT_TMPFS, MOUNT_FILE */
	uint32_t uid, gid;
	const uint8_t *content; /* MOUNT_FILE */
	size_t content_size;
};

struct interface {
	uint8_t mac[6];
	bool is_default;
	uint32_t mtu;
	char *name, *address, *gateway, *address6, *gateway6;
	char **routes; /* ended by NULL */
};

struct config {
	struct process process;
	char *hostname, *volume_options;
	uint32_t options;
	uint64_t caps, shm_size;
	struct resources resources;
	struct limit *limits;
	char **sysctls;
	struct sock_filter *filter;
	struct mount_point *mounts;
	struct interface *interfaces;
	size_t limit_count, sysctl_count, filter_count, mount_count, interface_count;
	void *arena;
};

/* Both copy what they need; 0 or -1 with the fault set, and then there's nothing to free. */
int config_parse(const uint8_t *data, size_t size, struct config *config, struct fault *fault);
int resources_parse(const uint8_t *data, size_t size, struct resources *resources, struct fault *fault);
void config_free(struct config *config);
/* Put "-x TARGET" for each of the guest's mounts behind the tool's name, so that `diff` and `layer` know them. False without memory. */
bool config_exclude_mounts(struct config *exec, const struct config *guest);

#endif
