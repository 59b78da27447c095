/* Users and groups of a root, by Docker's rules. */
#ifndef TWINHULL_USERS_H
#define TWINHULL_USERS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "fault.h"

enum { MAX_GROUPS = 256 };

struct user {
	uid_t uid;
	gid_t gid;
	char home[1024];
	gid_t groups[MAX_GROUPS];
	size_t group_count;
};

/* `spec`: "", name, uid, either with ":group". `passwd` and `group` are the files' texts (may be ""). Pure. */
int user_resolve(const char *spec, const char *passwd, const char *group, struct user *user, struct fault *fault);
/* The same from /etc/passwd and /etc/group below `root`. */
int user_lookup(int root, const char *spec, struct user *user, struct fault *fault);
/* The name of a uid in a passwd text, or its number. */
void user_name(const char *passwd, uid_t uid, char *out, size_t size);

#endif
