/* `init -- COMMAND`: PID 1 for programs that don't reap. `pause`: keeps a container alive for maintenance. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools.h"

enum { CANNOT_EXECUTE = 126, NOT_FOUND = 127 };

static void block_all(sigset_t *set)
{
	sigfillset(set);
	/* A fault of our own must end us, not hang. */
	sigdelset(set, SIGSEGV);
	sigdelset(set, SIGBUS);
	sigdelset(set, SIGILL);
	sigdelset(set, SIGFPE);
	sigdelset(set, SIGABRT);
	sigprocmask(SIG_SETMASK, set, NULL);
}

static int start(char **command)
{
	sigset_t none;
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	sigemptyset(&none);
	setpgid(0, 0);
	if (isatty(0)) {
		signal(SIGTTOU, SIG_IGN);
		tcsetpgrp(0, getpgrp());
		signal(SIGTTOU, SIG_DFL);
	}
	sigprocmask(SIG_SETMASK, &none, NULL);
	execvp(command[0], command);
	int code = errno == ENOENT || errno == ENOTDIR ? NOT_FOUND : CANNOT_EXECUTE;
	fprintf(stderr, "init: exec %s: %s\n", command[0], strerror(errno));
	_exit(code);
}

/* Reap all that has ended; the exit code once `child` is among it, else -1. */
static int reap(pid_t child)
{
	int status, code = -1;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == child)
			code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	return code;
}

int tool_init(char **argv)
{
	sigset_t all;
	struct signalfd_siginfo info;
	int code;

	if (argv[0] && strcmp(argv[0], "--") == 0)
		argv++;
	if (!argv[0]) {
		fprintf(stderr, "usage: agent init -- COMMAND [ARGUMENT…]\n");
		return 1;
	}
	block_all(&all);
	int signals = signalfd(-1, &all, SFD_CLOEXEC);
	pid_t child = start(argv);
	if (signals < 0 || child < 0) {
		fprintf(stderr, "init: %s\n", strerror(errno));
		return 1;
	}
	while ((code = reap(child)) < 0) {
		if (read(signals, &info, sizeof(info)) != sizeof(info))
			continue;
		if (info.ssi_signo != SIGCHLD)
			kill(child, (int)info.ssi_signo);
	}
	return code;
}

int tool_pause(void)
{
	sigset_t all;
	struct signalfd_siginfo info;

	block_all(&all);
	int signals = signalfd(-1, &all, SFD_CLOEXEC);
	while (read(signals, &info, sizeof(info)) == sizeof(info)) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT || info.ssi_signo == SIGQUIT || info.ssi_signo == SIGHUP)
			return 0;
	}
	return 1;
}
