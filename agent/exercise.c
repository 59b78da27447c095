/* `exercise`: does once what programs and servers do, so that an emulating processor has translated the kernel's code for it before
 * anybody waits. It never fails: what doesn't work isn't warm, and no more. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tools.h"

enum { ROUNDS = 3, PAGE = 4096, PATIENCE_MS = 2000, LINGER_MS = 60 };

static void use_files(void)
{
	char data[PAGE] = "x";
	struct stat status;
	int file = open("/tmp/exercise", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	for (int i = 0; i < 16 && write(file, data, sizeof(data)) > 0; i++)
		;
	fsync(file);
	char *map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (map != MAP_FAILED) {
		map[1] = map[0];
		munmap(map, PAGE);
	}
	close(file);
	rename("/tmp/exercise", "/tmp/exercised");
	stat("/tmp/exercised", &status);
	stat("/tmp/missing", &status);
	unlink("/tmp/exercised");
}

static void answer(int connection)
{
	char data[PAGE];
	int file = open("/run/twinhull/agent", O_RDONLY | O_CLOEXEC);
	ssize_t got = read(connection, data, sizeof(data));

	if (got > 0 && (got = read(file, data, sizeof(data))) > 0 && write(connection, data, (size_t)got) < 0)
		_exit(1);
	shutdown(connection, SHUT_RDWR);
	_exit(0);
}

static void ask(struct sockaddr_in where)
{
	static const char request[] = "GET / HTTP/1.0\r\n\r\n";
	char data[PAGE];
	int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (connect(connection, (struct sockaddr *)&where, sizeof(where)) == 0 && write(connection, request, sizeof(request) - 1) > 0)
		while (read(connection, data, sizeof(data)) > 0)
			;
	_exit(0);
}

static int wait_for(int descriptor)
{
	struct epoll_event event = {.events = EPOLLIN};
	int group = epoll_create1(EPOLL_CLOEXEC);
	int ready = epoll_ctl(group, EPOLL_CTL_ADD, descriptor, &event) < 0 ? -1 : epoll_wait(group, &event, 1, PATIENCE_MS);

	close(group);
	return ready;
}

/* A server that forks for each connection, and its client. */
static void serve_once(in_addr_t address)
{
	struct sockaddr_in where = {.sin_family = AF_INET};
	socklen_t size = sizeof(where);
	int one = 1, server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(server, (struct sockaddr *)&where, size) < 0 || listen(server, 8) < 0 || getsockname(server, (struct sockaddr *)&where, &size) < 0)
		return;
	where.sin_addr.s_addr = address;
	if (fork() == 0)
		ask(where);
	if (wait_for(server) > 0) {
		int connection = accept4(server, NULL, NULL, SOCK_CLOEXEC);
		if (fork() == 0)
			answer(connection);
		close(connection);
	}
	close(server);
	while (wait(NULL) > 0)
		;
}

/* A packet out of the first interface; what comes in meanwhile is the host's part. */
static void send_packet(in_addr_t address)
{
	struct sockaddr_in where = {AF_INET, htons(9), {address}, {0}};
	int sender = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (sendto(sender, "x", 1, 0, (struct sockaddr *)&where, sizeof(where)) < 0)
		return;
	close(sender);
}

/* A program of its own with pipes, as a shell starts it. */
static void run_program(void)
{
	int ends[2];
	char data[64];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return;
	pid_t child = fork();
	if (child == 0) {
		dup2(ends[1], 1);
		execl("/run/twinhull/agent", "agent", "exercise", "child", (char *)NULL);
		_exit(1);
	}
	close(ends[1]);
	while (read(ends[0], data, sizeof(data)) > 0)
		;
	close(ends[0]);
	waitpid(child, NULL, 0);
}

/* `own`: an address of ours; `next`: one that isn't. */
int tool_exercise(int argc, char **argv)
{
	if (argc < 3) {
		puts("child");
		return 0;
	}
	for (int round = 0; round < ROUNDS; round++) {
		use_files();
		serve_once(htonl(INADDR_LOOPBACK));
		serve_once(inet_addr(argv[1]));
		send_packet(inet_addr(argv[2]));
		run_program();
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	}
	puts("ready"); /* the host sends its packets now */
	fflush(stdout);
	poll(NULL, 0, LINGER_MS);
	return 0;
}
