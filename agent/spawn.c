#define _GNU_SOURCE
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cgroup.h"
#include "become.h"
#include "path.h"
#include "root.h"
#include "terminal.h"

struct pipes {
	int parent[3], child[3];
};

static void close_all(int *descriptors)
{
	for (int i = 0; i < 3; i++) {
		if (descriptors[i] >= 0)
			close(descriptors[i]);
		descriptors[i] = -1;
	}
}

static int make_pipe(struct pipes *pipes, int number)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	bool input = number == 0;
	pipes->child[number] = ends[input ? 0 : 1];
	pipes->parent[number] = ends[input ? 1 : 0];
	return fcntl(pipes->parent[number], F_SETFL, O_NONBLOCK);
}

/* Pipes for what the program has: none with a TTY, no stdin unless it's wanted. */
static int make_pipes(const struct process *process, struct pipes *pipes)
{
	*pipes = (struct pipes){{-1, -1, -1}, {-1, -1, -1}};
	for (int i = 0; i < 3 && !(process->flags & P_TTY); i++)
		if ((i > 0 || process->flags & P_STDIN) && make_pipe(pipes, i) < 0)
			return -1;
	return 0;
}

/* ---- in the child */

static void send_message(int sync, char kind, int descriptor, const struct fault *fault)
{
	struct spawn_message message = {kind, -1, fault ? *fault : (struct fault){0}};
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec data = {&message, sizeof(message)};
	struct msghdr head = {.msg_iov = &data, .msg_iovlen = 1};

	if (descriptor >= 0) {
		head.msg_control = &control;
		head.msg_controllen = sizeof(control);
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.head), &descriptor, sizeof(int));
	}
	while (sendmsg(sync, &head, MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}

static void reset_signals(void)
{
	sigset_t none;

	for (int number = 1; number < 65; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int enter_new(const struct launch *launch, struct fault *fault)
{
	if (cgroup_join(launch->machine->cgroup) < 0)
		return fault_internal(fault, "join the cgroup: %s", strerror(errno));
	if (unshare(CLONE_NEWCGROUP) < 0)
		return fault_internal(fault, "new cgroup namespace: %s", strerror(errno));
	if (*launch->config->hostname && sethostname(launch->config->hostname, strlen(launch->config->hostname)) < 0)
		return fault_request(fault, "hostname %s: %s", launch->config->hostname, strerror(errno));
	return root_enter(launch->machine, launch->config, fault);
}

static int enter_existing(const struct launch *launch, struct fault *fault)
{
	if (!(launch->process->flags & P_TOOL) && cgroup_join(launch->machine->cgroup) < 0)
		return fault_internal(fault, "join the cgroup: %s", strerror(errno));
	if (setns(launch->target, CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) < 0 || chdir("/") < 0)
		return fault_set(fault, FAULT_STATE, 0, "enter the workload's namespaces: %s", strerror(errno));
	return 0;
}

static int enter(const struct launch *launch, struct fault *fault)
{
	write_text(AT_FDCWD, "/proc/self/oom_score_adj", "0");
	if (launch->place == PLACE_OUTSIDE)
		return 0;
	return launch->place == PLACE_NEW ? enter_new(launch, fault) : enter_existing(launch, fault);
}

/* 0, 1 and 2 become pipes or the terminal, owned by the user, so that it may reopen /dev/stdout. */
static int set_stdio(const struct launch *launch, int sync, int *pipes, uid_t owner, struct fault *fault)
{
	if (launch->process->flags & P_TTY) {
		int master = terminal_open(launch->process, owner, launch->place == PLACE_NEW, fault);
		if (master < 0)
			return -1;
		send_message(sync, SPAWN_TTY, master, NULL);
		close(master);
		return 0;
	}
	if (pipes[0] < 0)
		pipes[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < 3; i++) {
		if (pipes[i] < 0 || dup2(pipes[i], i) < 0)
			return fault_internal(fault, "standard stream %d: %s", i, strerror(errno));
		struct stat status;
		if (fstat(i, &status) == 0 && S_ISFIFO(status.st_mode) && fchown(i, owner, (gid_t)-1) < 0)
			return fault_internal(fault, "standard stream %d: %s", i, strerror(errno));
	}
	return 0;
}

/* SPAWN_READY, and wait for the host's START. Without an agent there is no sense in going on. */
static void wait_for_go(int sync)
{
	char go = 0;

	send_message(sync, SPAWN_READY, -1, NULL);
	while (read(sync, &go, 1) < 0 && errno == EINTR)
		;
	if (go != 'G')
		_exit(125);
}

static int run(const struct launch *launch, int sync, int *pipes, struct fault *fault)
{
	struct identity identity;
	bool workload = launch->place == PLACE_NEW;

	reset_signals();
	umask(022);
	setsid();
	if (enter(launch, fault) < 0 || identity_find(launch, &identity, fault) < 0 ||
	    set_stdio(launch, sync, pipes, identity.user.uid, fault) < 0 || identity_enter_folder(launch, fault) < 0)
		return -1;
	if (workload && root_seal(launch->machine, launch->config, fault) < 0)
		return -1;
	if (identity_assume(launch, &identity, fault) < 0 || identity_find_program(launch, &identity, fault) < 0)
		return -1;
	if (workload)
		wait_for_go(sync);
	return identity_exec(launch, &identity, fault);
}

static void child(const struct launch *launch, int sync, int *pipes)
{
	struct fault fault = {0};

	/* Keep 0–2 free for the program's streams. */
	for (int i = 0; i < 3; i++)
		if (pipes[i] >= 0 && pipes[i] < 3)
			pipes[i] = fcntl(pipes[i], F_DUPFD_CLOEXEC, 3);
	if (sync < 3)
		sync = fcntl(sync, F_DUPFD_CLOEXEC, 3);
	syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
	run(launch, sync, pipes, &fault);
	send_message(sync, SPAWN_FAILED, -1, &fault);
	_exit(125);
}

/* ---- in the agent */

static pid_t fork_new(void)
{
	return (pid_t)syscall(SYS_clone, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD, 0, 0, 0, 0);
}

/* A child in the target's pid namespace. The agent points its "pid namespace for children" there and back. */
static pid_t fork_into(int target)
{
	static int home = -1;

	if (home < 0)
		home = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	if (setns(target, CLONE_NEWPID) < 0)
		return -1;
	pid_t pid = fork();
	if (pid != 0) {
		int error = errno;
		setns(home, CLONE_NEWPID);
		errno = error;
	}
	return pid;
}

static pid_t fork_for(const struct launch *launch)
{
	if (launch->place == PLACE_OUTSIDE)
		return fork();
	return launch->place == PLACE_NEW ? fork_new() : fork_into(launch->target);
}

int spawn(const struct launch *launch, struct spawned *spawned, struct fault *fault)
{
	struct pipes pipes;
	int sync[2] = {-1, -1};

	if (make_pipes(launch->process, &pipes) < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sync) < 0) {
		fault_internal(fault, "make pipes: %s", strerror(errno));
		close_all(pipes.parent);
		close_all(pipes.child);
		return -1;
	}
	pid_t pid = fork_for(launch);
	if (pid == 0)
		child(launch, sync[1], pipes.child);
	int error = errno;
	close(sync[1]);
	close_all(pipes.child);
	if (pid < 0) {
		close(sync[0]);
		close_all(pipes.parent);
		return fault_set(fault, launch->place == PLACE_INSIDE ? FAULT_STATE : FAULT_INTERNAL, 0, "start a process: %s",
				 launch->place == PLACE_INSIDE ? "the workload isn't running" : strerror(error));
	}
	fcntl(sync[0], F_SETFL, O_NONBLOCK);
	*spawned = (struct spawned){pid, sync[0], pipes.parent[0], pipes.parent[1], pipes.parent[2]};
	return 0;
}

int spawn_receive(int sync, struct spawn_message *message)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec data = {message, sizeof(*message)};
	struct msghdr head = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	ssize_t got = recvmsg(sync, &head, MSG_CMSG_CLOEXEC);

	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? -1 : 0;
	if (got < (ssize_t)sizeof(*message))
		return 0;
	message->descriptor = -1;
	message->fault.text[sizeof(message->fault.text) - 1] = 0;
	struct cmsghdr *rights = CMSG_FIRSTHDR(&head);
	if (rights && rights->cmsg_type == SCM_RIGHTS)
		memcpy(&message->descriptor, CMSG_DATA(rights), sizeof(int));
	return 1;
}

int spawn_go(int sync)
{
	return send(sync, "G", 1, MSG_NOSIGNAL) == 1 ? 0 : -1;
}
