/* What went wrong, as it is sent to the host in ERROR, or printed by a tool. */
#ifndef TWINHULL_FAULT_H
#define TWINHULL_FAULT_H

#include <stdint.h>

enum fault_kind { FAULT_INTERNAL, FAULT_CANNOT_RUN, FAULT_REQUEST, FAULT_STATE };

struct fault {
	uint8_t kind;
	uint32_t code; /* 126 or 127 with FAULT_CANNOT_RUN */
	char text[1024];
};

/* Fill in and return -1, so that `return fault_set(…)` reads well. A trailing "%m" is errno's text. */
int fault_set(struct fault *fault, uint8_t kind, uint32_t code, const char *format, ...) __attribute__((format(printf, 4, 5)));
/* FAULT_INTERNAL. */
int fault_internal(struct fault *fault, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* FAULT_REQUEST. */
int fault_request(struct fault *fault, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line for the kernel's log in the guest, for stderr elsewhere. */
void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_to_kernel(void);

#endif
