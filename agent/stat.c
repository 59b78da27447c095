/* `stat PATH`: path, st_mode (octal), size, mtime (seconds.nanoseconds), link target; each ended by NUL. Doesn't follow a link at the end. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools.h"

int tool_stat(int argc, char **argv)
{
	struct stat status;
	char target[PATH_MAX] = "";

	if (argc != 2) {
		fprintf(stderr, "usage: agent stat PATH\n");
		return 1;
	}
	if (lstat(argv[1], &status) < 0 || (S_ISLNK(status.st_mode) && readlink(argv[1], target, sizeof(target) - 1) < 0)) {
		fprintf(stderr, "stat: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	printf("%s%c%o%c%lld%c%lld.%09ld%c%s%c", argv[1], 0, status.st_mode, 0, (long long)status.st_size, 0, (long long)status.st_mtim.tv_sec,
	       status.st_mtim.tv_nsec, 0, target, 0);
	return fflush(stdout) == 0 ? 0 : 1;
}
