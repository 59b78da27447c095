#define _GNU_SOURCE
#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "net.h"
#include "path.h"

enum { SMALL = 65536, FREEZE_TRIES = 1000 };

static int set_number(int cgroup, const char *file, uint64_t value)
{
	char text[32] = "max";

	if (value)
		snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return write_text(cgroup, file, text);
}

static int set_cpu(int cgroup, const struct resources *resources)
{
	char text[64];

	if (resources->quota)
		snprintf(text, sizeof(text), "%u %u", resources->quota, resources->period);
	else
		snprintf(text, sizeof(text), "max 100000");
	if (write_text(cgroup, "cpu.max", text) < 0 && resources->quota)
		return -1;
	return resources->weight ? set_number(cgroup, "cpu.weight", resources->weight) : 0;
}

int cgroup_limit(int cgroup, const struct resources *resources, struct fault *fault)
{
	if (cgroup < 0)
		return 0;
	if (set_number(cgroup, "memory.max", resources->memory) < 0 && resources->memory)
		return fault_internal(fault, "limit memory: %s", strerror(errno));
	write_text(cgroup, "memory.swap.max", "0");
	if (set_number(cgroup, "pids.max", resources->pids) < 0 && resources->pids)
		return fault_internal(fault, "limit processes: %s", strerror(errno));
	if (set_cpu(cgroup, resources) < 0)
		return fault_internal(fault, "limit CPU time: %s", strerror(errno));
	return 0;
}

int cgroup_join(int cgroup)
{
	return cgroup < 0 ? 0 : write_text(cgroup, "cgroup.procs", "0");
}

/* The number behind `key` at the start of a line, or of the text where key is "". */
static uint64_t number_of(const char *text, const char *key)
{
	size_t length = strlen(key);

	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, length) == 0)
			return strtoull(line + length, NULL, 10);
	}
	return 0;
}

static uint64_t read_number(int folder, const char *file, const char *key)
{
	char *text = folder == -1 ? NULL : read_whole(folder, file, SMALL, NULL);
	uint64_t value = text ? number_of(text, key) : 0;

	free(text);
	return value;
}

int cgroup_freeze(int cgroup, bool frozen, struct fault *fault)
{
	if (cgroup < 0)
		return 0;
	if (write_text(cgroup, "cgroup.freeze", frozen ? "1" : "0") < 0)
		return fault_internal(fault, "freeze the workload: %s", strerror(errno));
	for (int tries = 0; frozen && read_number(cgroup, "cgroup.events", "frozen ") == 0; tries++) {
		if (tries == FREEZE_TRIES)
			return fault_internal(fault, "freeze the workload: it doesn't stop");
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	}
	return 0;
}

uint64_t cgroup_oom_kills(int cgroup)
{
	return read_number(cgroup, "memory.events", "oom_kill ");
}

static void add_disks(int cgroup, uint64_t *read, uint64_t *written)
{
	char *text = cgroup < 0 ? NULL : read_whole(cgroup, "io.stat", SMALL, NULL);

	for (char *at = text; at && (at = strstr(at, "bytes=")); at++) {
		if (at > text && at[-1] == 'r')
			*read += strtoull(at + 6, NULL, 10);
		else if (at > text && at[-1] == 'w')
			*written += strtoull(at + 6, NULL, 10);
	}
	free(text);
}

void cgroup_stats(int cgroup, uint64_t stats[STATS_COUNT])
{
	memset(stats, 0, STATS_COUNT * sizeof(*stats));
	stats[0] = read_number(cgroup, "cpu.stat", "usage_usec ") * 1000;
	stats[1] = read_number(cgroup, "memory.current", "");
	stats[2] = read_number(cgroup, "memory.stat", "inactive_file ");
	stats[3] = read_number(cgroup, "memory.max", ""); /* "max" reads as 0 */
	stats[4] = read_number(cgroup, "pids.current", "");
	net_traffic(&stats[STATS_NET_IN]);
	add_disks(cgroup, &stats[7], &stats[8]);
	stats[9] = read_number(AT_FDCWD, "proc/meminfo", "MemTotal:") * 1024;
	stats[10] = read_number(AT_FDCWD, "proc/meminfo", "MemAvailable:") * 1024;
}
