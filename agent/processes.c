#define _GNU_SOURCE
#include "processes.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "path.h"
#include "users.h"

enum { COMMAND_MAX = 1024, TEXT_MAX = 8192, LIST_MAX = 1000 * 1000 };

/* Call `each` for every process; it returns false to stop. */
static void walk(bool (*each)(pid_t pid, void *context), void *context)
{
	DIR *folder = opendir("/proc");
	struct dirent *entry;

	while (folder && (entry = readdir(folder))) {
		int pid = atoi(entry->d_name);
		if (pid > 0 && !each(pid, context))
			break;
	}
	if (folder)
		closedir(folder);
}

static char *read_about(pid_t pid, const char *file, size_t limit, size_t *size)
{
	char path[64];

	snprintf(path, sizeof(path), "proc/%d/%s", pid, file);
	return read_whole(AT_FDCWD, path, limit, size);
}

/* Field `number` (from 3 on) of /proc/PID/stat; the command before may contain anything. */
static unsigned long long stat_field(const char *stat, int number)
{
	const char *at = strrchr(stat, ')');

	for (int field = 2; at && field < number; field++)
		at = strchr(at + 1, ' ');
	return at ? strtoull(at, NULL, 10) : 0;
}

/* The pid one namespace below ours; 0 if the process lives in ours. */
static long inner_pid(const char *status)
{
	const char *line = strstr(status, "\nNSpid:");
	char *at;

	if (!line)
		return 0;
	strtol(line + 7, &at, 10);
	return *at == '\t' ? strtol(at, NULL, 10) : 0;
}

static void command_line(pid_t pid, const char *stat, char out[COMMAND_MAX])
{
	size_t used;
	char *raw = read_about(pid, "cmdline", COMMAND_MAX - 1, &used);

	while (used > 0 && !raw[used - 1])
		used--;
	for (size_t i = 0; i < used; i++)
		out[i] = iscntrl((unsigned char)raw[i]) ? ' ' : raw[i];
	out[used] = 0;
	free(raw);
	const char *open = strchr(stat, '('), *close = strrchr(stat, ')');
	if (used == 0 && open && close > open)
		snprintf(out, COMMAND_MAX, "[%.*s]", (int)(close - open - 1), open + 1);
}

struct listing {
	const char *passwd;
	struct buffer *out;
};

static bool list_one(pid_t pid, void *context)
{
	struct listing *listing = context;
	char command[COMMAND_MAX], user[256], row[COMMAND_MAX + 320];
	char *status = read_about(pid, "status", TEXT_MAX, NULL), *stat = read_about(pid, "stat", TEXT_MAX, NULL);
	long inner = status ? inner_pid(status) : 0;
	const char *uid = status ? strstr(status, "\nUid:\t") : NULL;
	bool zombie = status && strstr(status, "\nState:\tZ");

	if (inner && uid && stat && !zombie) {
		char *effective;
		strtoul(uid + 6, &effective, 10);
		unsigned long long ticks = stat_field(stat, 14) + stat_field(stat, 15);
		user_name(listing->passwd, (uid_t)strtoul(effective, NULL, 10), user, sizeof(user));
		command_line(pid, stat, command);
		int size = snprintf(row, sizeof(row), "%ld\t%s\t%llu\t%s", inner, user, ticks * 1000 / (unsigned)sysconf(_SC_CLK_TCK), command);
		buffer_append(listing->out, row, (size_t)size + 1);
	}
	free(status);
	free(stat);
	return buffer_used(listing->out) < LIST_MAX;
}

void processes_list(pid_t workload, struct buffer *out)
{
	char path[64];
	char *passwd = NULL;

	snprintf(path, sizeof(path), "/proc/%d/root", workload);
	int root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root >= 0) {
		passwd = read_whole(root, "/etc/passwd", 1 << 20, NULL);
		close(root);
	}
	struct listing listing = {passwd ? passwd : "", out};
	walk(list_one, &listing);
	free(passwd);
}

static bool kill_member(pid_t pid, void *context)
{
	char *stat = read_about(pid, "stat", TEXT_MAX, NULL);

	if (stat && (pid_t)stat_field(stat, 6) == *(pid_t *)context)
		kill(pid, SIGKILL);
	free(stat);
	return true;
}

void processes_kill_session(pid_t session)
{
	kill(session, SIGKILL);
	walk(kill_member, &session);
}
