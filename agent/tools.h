/* The modes that are ordinary programs. Each returns its exit code. */
#ifndef TWINHULL_TOOLS_H
#define TWINHULL_TOOLS_H

int tool_init(char **argv);
int tool_pause(void);
int tool_exercise(int argc, char **argv);
int tool_tar_out(int argc, char **argv);
int tool_tar_in(int argc, char **argv);
int tool_stat(int argc, char **argv);
int tool_diff(int argc, char **argv);
int tool_layer(int argc, char **argv);

#endif
