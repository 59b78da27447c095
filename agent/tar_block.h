/* What reading and writing archives share; only for tar.c, tar_read.c and tar_write.c. */
#ifndef TWINHULL_TAR_BLOCK_H
#define TWINHULL_TAR_BLOCK_H

#include "tar.h"

enum { TAR_SPACE = 256 * 1024, NAME_FIELD = 100 };
#define XATTR_KEY "SCHILY.xattr."

/* Places in a header block. */
enum {
	AT_NAME = 0,
	AT_MODE = 100,
	AT_UID = 108,
	AT_GID = 116,
	AT_SIZE = 124,
	AT_MTIME = 136,
	AT_SUM = 148,
	AT_TYPE = 156,
	AT_LINK = 157,
	AT_MAGIC = 257,
	AT_MAJOR = 329,
	AT_MINOR = 337,
	AT_PREFIX = 345,
};

/* Remember the first failure; always false. */
bool tar_failed(struct tar_stream *stream, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
