#define _GNU_SOURCE
#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <termios.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

void terminal_resize(int master, uint16_t rows, uint16_t cols)
{
	struct winsize size = {.ws_row = rows, .ws_col = cols};

	ioctl(master, TIOCSWINSZ, &size);
}

unsigned char terminal_end_of_file(int master)
{
	struct termios settings;

	return tcgetattr(master, &settings) == 0 ? settings.c_cc[VEOF] : 4;
}

static int bind_console(int master)
{
	char path[32];
	unsigned int number;

	if (ioctl(master, TIOCGPTN, &number) < 0)
		return -1;
	snprintf(path, sizeof(path), "/dev/pts/%u", number);
	return mount(path, "/dev/console", NULL, MS_BIND, NULL);
}

static int open_slave(int master)
{
	int unlock = 0;

	if (ioctl(master, TIOCSPTLCK, &unlock) < 0)
		return -1;
	return ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
}

int terminal_open(const struct process *process, uid_t owner, bool console, struct fault *fault)
{
	int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	int slave = master < 0 ? -1 : open_slave(master);

	if (slave < 0)
		return fault_internal(fault, "open a terminal: %s", strerror(errno));
	terminal_resize(master, process->rows, process->cols);
	if (fchown(slave, owner, (gid_t)-1) < 0 || (console && bind_console(master) < 0))
		return fault_internal(fault, "prepare the terminal: %s", strerror(errno));
	if (ioctl(slave, TIOCSCTTY, 0) < 0 || dup2(slave, 0) < 0 || dup2(slave, 1) < 0 || dup2(slave, 2) < 0)
		return fault_internal(fault, "take the terminal: %s", strerror(errno));
	fcntl(master, F_SETFL, O_NONBLOCK);
	return master;
}
