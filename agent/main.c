/* One binary: PID 1 of a VM, or the tool named by the first argument. See README.md. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"
#include "machine.h"
#include "net.h"
#include "tools.h"

/* For tests: the same loop on a host, in namespaces the caller made. `guest SOCKET-FD ROOT VOLUMES` */
static int serve_in_test(int argc, char **argv)
{
	static char agent[4096];
	struct machine machine = {.cgroup = -1, .agent = agent};

	if (argc < 5 || readlink("/proc/self/exe", agent, sizeof(agent) - 1) < 0 || chdir("/") < 0) {
		fprintf(stderr, "usage: agent guest SOCKET-FD ROOT VOLUMES\n");
		return 1;
	}
	machine.root = argv[3];
	machine.volumes = argv[4];
	int listener = atoi(argv[2]);
	fcntl(listener, F_SETFD, FD_CLOEXEC);
	fcntl(listener, F_SETFL, O_NONBLOCK);
	net_prepare();
	return guest_serve(&machine, -1, listener);
}

static int serve_in_vm(void)
{
	struct machine machine;

	machine_boot(&machine);
	net_prepare();
	return guest_serve(&machine, machine_port(), -1);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";

	if (strcmp(mode, "init") == 0)
		return tool_init(argv + 2);
	if (strcmp(mode, "pause") == 0)
		return tool_pause();
	if (strcmp(mode, "exercise") == 0)
		return tool_exercise(argc - 1, argv + 1);
	if (strcmp(mode, "tar-out") == 0)
		return tool_tar_out(argc - 1, argv + 1);
	if (strcmp(mode, "tar-in") == 0)
		return tool_tar_in(argc - 1, argv + 1);
	if (strcmp(mode, "stat") == 0)
		return tool_stat(argc - 1, argv + 1);
	if (strcmp(mode, "diff") == 0)
		return tool_diff(argc - 1, argv + 1);
	if (strcmp(mode, "layer") == 0)
		return tool_layer(argc - 1, argv + 1);
	if (strcmp(mode, "guest") == 0)
		return serve_in_test(argc, argv);
	if (getpid() == 1)
		return serve_in_vm();
	fprintf(stderr, "usage: agent init|pause|tar-out|tar-in|stat|diff|layer …\n");
	return 1;
}
