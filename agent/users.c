#include "users.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "path.h"

enum { FILE_LIMIT = 4 * 1024 * 1024, FIELDS = 7 };
#define MAX_ID 2147483647u /* as in Docker */

struct slice {
	const char *at;
	size_t size;
};

static bool same(struct slice slice, const char *text)
{
	return slice.size == strlen(text) && memcmp(slice.at, text, slice.size) == 0;
}

/* Split the line at `*text` by colons and move to the next line; false at the end. Missing fields are empty. */
static bool next_line(const char **text, struct slice fields[FIELDS])
{
	if (!**text)
		return false;
	const char *end = *text + strcspn(*text, "\n");
	const char *at = *text;
	for (int i = 0; i < FIELDS; i++) {
		const char *stop = i < FIELDS - 1 ? memchr(at, ':', (size_t)(end - at)) : NULL;
		stop = stop ? stop : end;
		fields[i] = (struct slice){at, (size_t)(stop - at)};
		at = stop < end ? stop + 1 : end;
	}
	*text = *end ? end + 1 : end;
	return true;
}

static bool number(const char *text, size_t size, uint32_t *value)
{
	uint64_t sum = 0;

	if (size == 0 || size > 10)
		return false;
	for (size_t i = 0; i < size; i++) {
		if (!isdigit((unsigned char)text[i]))
			return false;
		sum = sum * 10 + (uint64_t)(text[i] - '0');
	}
	*value = (uint32_t)sum;
	return sum <= MAX_ID;
}

/* The entry with that name, else with that number. */
static bool find(const char *text, const char *name, struct slice found[FIELDS])
{
	struct slice fields[FIELDS];
	uint32_t wanted, id;
	bool numeric = number(name, strlen(name), &wanted), hit = false;

	while (next_line(&text, fields)) {
		if (fields[0].size && same(fields[0], name)) {
			memcpy(found, fields, sizeof(fields));
			return true;
		}
		if (!hit && numeric && number(fields[2].at, fields[2].size, &id) && id == wanted) {
			memcpy(found, fields, sizeof(fields));
			hit = true;
		}
	}
	return hit;
}

static bool lists(struct slice members, struct slice name)
{
	for (size_t at = 0; at < members.size;) {
		const char *comma = memchr(members.at + at, ',', members.size - at);
		size_t length = comma ? (size_t)(comma - members.at) - at : members.size - at;
		if (length == name.size && memcmp(members.at + at, name.at, length) == 0)
			return true;
		at += length + 1;
	}
	return false;
}

static void add_groups(const char *group, struct slice name, struct user *user)
{
	struct slice fields[FIELDS];
	uint32_t id;

	while (next_line(&group, fields))
		if (lists(fields[3], name) && number(fields[2].at, fields[2].size, &id) && user->group_count < MAX_GROUPS)
			user->groups[user->group_count++] = id;
}

static int resolve_group(const char *name, const char *group, struct user *user, struct fault *fault)
{
	struct slice fields[FIELDS];
	uint32_t id;

	if (find(group, name, fields) && number(fields[2].at, fields[2].size, &id))
		user->gid = id;
	else if (number(name, strlen(name), &id))
		user->gid = id;
	else
		return fault_request(fault, "unable to find group %s: no matching entries in group file", name);
	return 0;
}

static int resolve_name(const char *name, const char *passwd, const char *group, bool with_groups, struct user *user, struct fault *fault)
{
	struct slice fields[FIELDS];
	uint32_t uid, gid;

	if (find(passwd, name, fields) && number(fields[2].at, fields[2].size, &uid) && number(fields[3].at, fields[3].size, &gid)) {
		user->uid = uid;
		user->gid = gid;
		if (fields[5].size)
			snprintf(user->home, sizeof(user->home), "%.*s", (int)fields[5].size, fields[5].at);
		if (with_groups)
			add_groups(group, fields[0], user);
	} else if (number(name, strlen(name), &uid)) {
		user->uid = uid;
	} else {
		return fault_request(fault, "unable to find user %s: no matching entries in passwd file", name);
	}
	return 0;
}

int user_resolve(const char *spec, const char *passwd, const char *group, struct user *user, struct fault *fault)
{
	char name[256];
	const char *colon = strchr(spec, ':');
	size_t length = colon ? (size_t)(colon - spec) : strlen(spec);

	*user = (struct user){.home = "/"};
	if (length >= sizeof(name))
		return fault_request(fault, "user name of %zu bytes is too long", length);
	memcpy(name, spec, length);
	name[length] = 0;
	if (resolve_name(*name ? name : "0", passwd, group, !(colon && colon[1]), user, fault) < 0)
		return -1;
	return colon && colon[1] ? resolve_group(colon + 1, group, user, fault) : 0;
}

int user_lookup(int root, const char *spec, struct user *user, struct fault *fault)
{
	char *passwd = read_whole(root, "/etc/passwd", FILE_LIMIT, NULL);
	char *group = read_whole(root, "/etc/group", FILE_LIMIT, NULL);
	int result = user_resolve(spec, passwd ? passwd : "", group ? group : "", user, fault);

	free(passwd);
	free(group);
	return result;
}

void user_name(const char *passwd, uid_t uid, char *out, size_t size)
{
	struct slice fields[FIELDS];
	uint32_t id;

	snprintf(out, size, "%u", uid);
	while (next_line(&passwd, fields))
		if (number(fields[2].at, fields[2].size, &id) && id == uid && fields[0].size) {
			snprintf(out, size, "%.*s", (int)fields[0].size, fields[0].at);
			return;
		}
}
