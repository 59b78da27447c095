#include "fault.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int log_descriptor = 2;

static int fill(struct fault *fault, uint8_t kind, uint32_t code, const char *format, va_list arguments)
{
	fault->kind = kind;
	fault->code = code;
	vsnprintf(fault->text, sizeof(fault->text), format, arguments);
	return -1;
}

int fault_set(struct fault *fault, uint8_t kind, uint32_t code, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fill(fault, kind, code, format, arguments);
	va_end(arguments);
	return -1;
}

int fault_internal(struct fault *fault, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fill(fault, FAULT_INTERNAL, 0, format, arguments);
	va_end(arguments);
	return -1;
}

int fault_request(struct fault *fault, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fill(fault, FAULT_REQUEST, 0, format, arguments);
	va_end(arguments);
	return -1;
}

void log_to_kernel(void)
{
	int descriptor = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);

	if (descriptor >= 0)
		log_descriptor = descriptor;
}

void log_line(const char *format, ...)
{
	char line[700];
	va_list arguments;
	int prefix = snprintf(line, sizeof(line), "%stwinhull: ", log_descriptor == 2 ? "" : "<3>");

	va_start(arguments, format);
	vsnprintf(line + prefix, sizeof(line) - (size_t)prefix - 1, format, arguments);
	va_end(arguments);
	strcat(line, "\n");
	if (write(log_descriptor, line, strlen(line)) < 0)
		return; /* nobody left to tell */
}
