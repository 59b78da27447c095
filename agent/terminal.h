/* Pseudo-terminals, opened in the workload's own devpts. */
#ifndef TWINHULL_TERMINAL_H
#define TWINHULL_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "config.h"
#include "fault.h"

/* In the child: a new terminal as controlling terminal and 0–2, also as /dev/console if asked; returns the master or -1. */
int terminal_open(const struct process *process, uid_t owner, bool console, struct fault *fault);
void terminal_resize(int master, uint16_t rows, uint16_t cols);
/* The character that means end of file on that terminal. */
unsigned char terminal_end_of_file(int master);

#endif
