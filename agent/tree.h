/* Walking a file tree without following links, and putting its files into an archive. */
#ifndef TWINHULL_TREE_H
#define TWINHULL_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "tar.h"

/* The names in a folder, sorted by bytes, so that the same tree gives the same archive. */
struct names {
	char **name;
	size_t count;
	struct buffer text;
};

bool names_read(int folder, struct names *names);
void names_free(struct names *names);

/* Puts files into an archive; remembers hard links. */
struct packer {
	struct tar_stream stream;
	const char *tool;	/* for messages */
	uint64_t id_base;	/* subtracted from owners that lie in [base, base + 65536) */
	bool whole_seconds;	/* no sub-second times, as in image layers */
	struct link_name **links;
};

bool packer_open(struct packer *packer, const char *tool, int descriptor);
/* Writes the end; the tool's exit code, with the message printed. */
int packer_close(struct packer *packer, bool good);
/* Put `name` in `folder` into the archive as `path`. Prints on failure. */
bool pack(struct packer *packer, int folder, const char *name, const char *path, const struct stat *status);
/* An empty file as a marker. */
bool pack_marker(struct packer *packer, const char *path);

/* One extended attribute of a file without following links; -1 with errno. */
ptrdiff_t tree_xattr(int folder, const char *name, const char *attribute, void *value, size_t size);

#endif
