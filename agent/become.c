#define _GNU_SOURCE
#include "become.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine.h"
#include "path.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum { CANNOT_EXECUTE = 126, NOT_FOUND = 127, LAST_CAPABILITY = 63 };

static const char *variable(const struct process *process, const char *name)
{
	size_t length = strlen(name);

	for (char **entry = process->env; *entry; entry++)
		if (strncmp(*entry, name, length) == 0 && (*entry)[length] == '=')
			return *entry + length + 1;
	return NULL;
}

static bool is_tool(const struct launch *launch)
{
	return launch->process->flags & P_TOOL || launch->place == PLACE_OUTSIDE;
}

int identity_find(const struct launch *launch, struct identity *identity, struct fault *fault)
{
	struct process *process = (struct process *)launch->process;

	memset(identity, 0, sizeof(*identity));
	if (is_tool(launch))
		return 0;
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int result = user_lookup(root, process->user, &identity->user, fault);
	close(root);
	snprintf(identity->home, sizeof(identity->home), "HOME=%s", identity->user.home);
	if (result == 0 && !variable(process, "HOME"))
		process->env[process->envc++] = identity->home; /* there's room for it */
	return result;
}

int identity_enter_folder(const struct launch *launch, struct fault *fault)
{
	const char *path = *launch->process->cwd ? launch->process->cwd : "/";
	int root, folder;

	if (launch->place == PLACE_OUTSIDE)
		return chdir("/");
	if (path[0] != '/')
		return fault_request(fault, "working directory %s: not an absolute path", path);
	if (chdir(path) == 0)
		return 0;
	root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	folder = errno == ENOENT && launch->place == PLACE_NEW ? path_make(root, path, true) : -1; /* an exec's must be there */
	close(root);
	if (folder >= 0)
		close(folder);
	if (chdir(path) < 0)
		return fault_set(fault, FAULT_CANNOT_RUN, CANNOT_EXECUTE, "chdir to cwd (\"%s\"): %s", path, strerror(errno));
	return 0;
}

static int set_limits(const struct config *config, struct fault *fault)
{
	for (size_t i = 0; i < config->limit_count; i++) {
		const struct limit *limit = &config->limits[i];
		struct rlimit value = {limit->soft, limit->hard};
		if (setrlimit((int)limit->resource, &value) < 0)
			return fault_request(fault, "ulimit %u: %s", limit->resource, strerror(errno));
	}
	return 0;
}

static int drop_capabilities(uint64_t keep, struct fault *fault)
{
	for (int number = 0; number <= LAST_CAPABILITY; number++) {
		if (prctl(PR_CAPBSET_READ, number, 0, 0, 0) != 1 || keep >> number & 1)
			continue;
		if (prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0)
			return fault_internal(fault, "drop capability %d: %s", number, strerror(errno));
	}
	return 0;
}

static int filter_calls(const struct config *config, struct fault *fault)
{
	struct sock_fprog program = {(unsigned short)config->filter_count, config->filter};

	if (config->filter_count == 0)
		return 0;
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0)
		return fault_internal(fault, "seccomp: %s", strerror(errno));
	return 0;
}

/* Without no_new_privs the filter needs privileges, so it comes before they go. */
static bool filters_early(const struct launch *launch)
{
	return !is_tool(launch) && !(launch->config->options & O_NO_NEW_PRIVILEGES);
}

int identity_assume(const struct launch *launch, const struct identity *identity, struct fault *fault)
{
	const struct user *user = &identity->user;

	if (is_tool(launch))
		return 0;
	if (set_limits(launch->config, fault) < 0)
		return -1;
	if (!(launch->process->flags & P_PRIVILEGED) && drop_capabilities(launch->config->caps, fault) < 0)
		return -1;
	if (filters_early(launch) && filter_calls(launch->config, fault) < 0)
		return -1;
	if (setgroups(user->group_count, user->groups) < 0 || setresgid(user->gid, user->gid, user->gid) < 0 ||
	    setresuid(user->uid, user->uid, user->uid) < 0)
		return fault_internal(fault, "become %u:%u: %s", user->uid, user->gid, strerror(errno));
	if (launch->config->options & O_NO_NEW_PRIVILEGES && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return fault_internal(fault, "no new privileges: %s", strerror(errno));
	return 0;
}

/* 0: runnable, else errno. */
static int check(const char *path)
{
	struct stat status;

	if (stat(path, &status) < 0)
		return errno;
	if (S_ISDIR(status.st_mode))
		return EISDIR;
	return access(path, X_OK) < 0 ? errno : 0;
}

static int cannot(struct fault *fault, const char *name, int error)
{
	bool missing = error == ENOENT || error == ENOTDIR;
	uint32_t code = missing ? NOT_FOUND : CANNOT_EXECUTE;

	if (missing)
		return fault_set(fault, FAULT_CANNOT_RUN, code, "exec: \"%s\": stat %s: no such file or directory", name, name);
	if (error == EISDIR)
		return fault_set(fault, FAULT_CANNOT_RUN, code, "exec: \"%s\": is a directory", name);
	return fault_set(fault, FAULT_CANNOT_RUN, code, "exec: \"%s\": %s", name, error == EACCES ? "permission denied" : strerror(error));
}

static int search(const char *name, const char *path, char *found, size_t size, struct fault *fault)
{
	while (*name) {
		size_t length = strcspn(path, ":");
		int used = snprintf(found, size, "%.*s/%s", (int)length, length ? path : ".", name);
		if (length == 0)
			used = snprintf(found, size, "./%s", name);
		if (used < (int)size && check(found) == 0)
			return 0;
		if (!path[length])
			break;
		path += length + 1;
	}
	return fault_set(fault, FAULT_CANNOT_RUN, NOT_FOUND, "exec: \"%s\": executable file not found in $PATH", name);
}

int identity_find_program(const struct launch *launch, struct identity *identity, struct fault *fault)
{
	const char *name = launch->process->argv[0], *path = variable(launch->process, "PATH");

	if (launch->place == PLACE_OUTSIDE) {
		strcpy(identity->program, "/proc/self/exe");
		return 0;
	}
	if (!strchr(name, '/'))
		return search(name, path ? path : DEFAULT_PATH, identity->program, sizeof(identity->program), fault);
	int error = strlen(name) < sizeof(identity->program) ? check(name) : ENAMETOOLONG;
	if (error)
		return cannot(fault, name, error);
	strcpy(identity->program, name);
	return 0;
}

/* Our own reaper in front of the program, as with Docker's --init. */
static void put_init_before(struct process *process, struct identity *identity)
{
	static char *const init[] = {AGENT_IN_ROOT, "init", "--"};

	memmove(process->argv + 3, process->argv, (process->argc + 1) * sizeof(char *));
	memcpy(process->argv, init, sizeof(init));
	process->argc += 3;
	strcpy(identity->program, AGENT_IN_ROOT);
}

int identity_exec(const struct launch *launch, const struct identity *found, struct fault *fault)
{
	struct process *process = (struct process *)launch->process;
	struct identity identity = *found;

	if (process->flags & P_INIT)
		put_init_before(process, &identity);
	if (!is_tool(launch) && !filters_early(launch) && filter_calls(launch->config, fault) < 0)
		return -1;
	if (launch->machine->real)
		machine_use_processors(true);
	execve(identity.program, process->argv, process->env);
	const char *reason = errno == ENOEXEC ? "exec format error" : errno == EACCES ? "permission denied" : strerror(errno);
	return fault_set(fault, FAULT_CANNOT_RUN, errno == ENOENT ? NOT_FOUND : CANNOT_EXECUTE, "exec %s: %s", identity.program,
			 errno == ENOENT ? "no such file or directory" : reason);
}
