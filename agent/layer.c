/* `diff [-x PATH]… UPPER LOWER…`: what an overlay's upper folder changes, as "A path", "C path", "D path", each ended by NUL.
 * `layer [-x PATH]… [-u BASE] UPPER`: the same as an OCI layer on stdout.
 * Mount points that a runtime made (empty files and folders at well-known places and at each -x PATH, and folders that hold nothing
 * but such) aren't changes and are left out. -u: owners count from BASE. Without folders: those of a guest. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "machine.h"
#include "tools.h"
#include "tree.h"

enum { LOWERS_MAX = 512, EXCLUDES_MAX = 4096 };

/* Where every runtime of ours mounts something. */
static const char *const usual[] = {"proc", "sys", "dev", "etc/hosts", "etc/hostname", "etc/resolv.conf", "run/twinhull/agent"};

struct options {
	const char *tool;
	const char *excludes[EXCLUDES_MAX];
	size_t exclude_count;
	uint64_t id_base;
	char **folders; /* upper, lowers, NULL */
};

static bool complain(const char *tool, const char *path)
{
	fprintf(stderr, "%s: %s: %s\n", tool, path, strerror(errno));
	return false;
}

static bool join(const char *tool, char *out, const char *prefix, const char *name)
{
	int used = snprintf(out, PATH_MAX, "%s%s%s", prefix, *prefix ? "/" : "", name);

	errno = ENAMETOOLONG;
	return used < PATH_MAX || complain(tool, prefix);
}

static bool has_mark(int folder, const char *name, const char *mark)
{
	char attribute[64], value[2];

	snprintf(attribute, sizeof(attribute), "trusted.overlay.%s", mark);
	if (tree_xattr(folder, name, attribute, value, sizeof(value)) >= 0)
		return strcmp(mark, "opaque") != 0 || value[0] == 'y';
	snprintf(attribute, sizeof(attribute), "user.overlay.%s", mark);
	return tree_xattr(folder, name, attribute, value, sizeof(value)) >= 0 && (strcmp(mark, "opaque") != 0 || value[0] == 'y');
}

static bool is_whiteout(int folder, const char *name, const struct stat *status)
{
	if (S_ISCHR(status->st_mode))
		return status->st_rdev == makedev(0, 0);
	return S_ISREG(status->st_mode) && status->st_size == 0 && has_mark(folder, name, "whiteout");
}

enum listed { UNLISTED, ABOVE, LISTED };

/* Whether `path` is a mount point, or above one. */
static enum listed look_up(const struct options *options, const char *path)
{
	size_t size = strlen(path);
	enum listed found = UNLISTED;

	for (size_t i = 0; i < options->exclude_count; i++) {
		const char *exclude = options->excludes[i];
		if (strncmp(exclude, path, size) != 0)
			continue;
		if (exclude[size + strspn(exclude + size, "/")] == 0)
			return LISTED;
		found = exclude[size] == '/' ? ABOVE : found;
	}
	return found;
}

/* Only there to be mounted on. */
static bool is_mount_point(const struct options *options, int folder, const char *name, const char *path, const struct stat *status)
{
	struct names names;
	struct stat inner_status;
	char inner[PATH_MAX];
	enum listed listed = look_up(options, path);

	if (listed == UNLISTED)
		return false;
	if (S_ISREG(status->st_mode))
		return listed == LISTED && status->st_size == 0;
	int at = S_ISDIR(status->st_mode) ? openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
	bool only = at >= 0 && names_read(at, &names) && (names.count > 0 || listed == LISTED);
	for (size_t i = 0; only && i < names.count; i++)
		only = join(options->tool, inner, path, names.name[i]) &&
		       fstatat(at, names.name[i], &inner_status, AT_SYMLINK_NOFOLLOW) == 0 &&
		       is_mount_point(options, at, names.name[i], inner, &inner_status);
	if (at >= 0) {
		names_free(&names);
		close(at);
	}
	return only;
}

/* ---- diff */

/* The lower folders that are merged below one upper folder, topmost first. */
struct lowers {
	int folder[LOWERS_MAX];
	size_t count;
};

static void close_lowers(struct lowers *lowers)
{
	for (size_t i = 0; i < lowers->count; i++)
		close(lowers->folder[i]);
	free(lowers);
}

/* What the lower layers show as `name`: 1 and its status, 0 nothing. If it is a folder, `below` gets all that merge into it. */
static int look_below(const struct lowers *lowers, const char *name, struct stat *found, struct lowers *below)
{
	int seen = 0;

	for (size_t i = 0; i < lowers->count; i++) {
		struct stat status;
		int folder = lowers->folder[i];
		if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (is_whiteout(folder, name, &status))
			break;
		if (!seen++)
			*found = status;
		if (!S_ISDIR(status.st_mode) || !S_ISDIR(found->st_mode))
			break;
		int inner = below ? openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
		if (inner >= 0)
			below->folder[below->count++] = inner;
		if (has_mark(folder, name, "opaque"))
			break;
	}
	return seen > 0;
}

/* Lines of the answer; printed at the end, so that a folder's line can be taken back. */
static struct buffer lines;

static bool report(char kind, const char *path)
{
	char start[3] = {kind, ' ', '/'};

	return buffer_append(&lines, start, sizeof(start)) && buffer_append(&lines, path, strlen(path) + 1);
}

static bool diff_folder(const struct options *options, int upper, const struct lowers *lowers, const char *path, bool opaque, bool *changed);

static bool differs(const struct stat *a, const struct stat *b)
{
	return a->st_mode != b->st_mode || a->st_uid != b->st_uid || a->st_gid != b->st_gid;
}

/* A folder that is in both is a change if its owner or mode differ, or anything in it does; its line is before those of what's in it. */
static bool diff_inner(const struct options *options, int upper, const char *name, const char *path, struct lowers *below, char kind, bool *changed)
{
	bool inner_changed = kind != 0;
	int folder = openat(upper, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	size_t before = buffer_used(&lines);

	if (folder < 0)
		return complain(options->tool, path);
	report(kind ? kind : 'C', path);
	bool good = diff_folder(options, folder, below, path, has_mark(upper, name, "opaque"), &inner_changed);
	if (!inner_changed)
		lines.end = lines.start + before;
	close(folder);
	*changed = *changed || inner_changed;
	return good;
}

static bool diff_one(const struct options *options, int upper, const struct lowers *lowers, const char *name, const char *path, bool *changed)
{
	struct stat above, found;
	struct lowers *below = calloc(1, sizeof(*below));
	bool good = true;

	if (!below || fstatat(upper, name, &above, AT_SYMLINK_NOFOLLOW) < 0) {
		free(below);
		return complain(options->tool, path);
	}
	int there = look_below(lowers, name, &found, below);
	if (is_whiteout(upper, name, &above)) {
		if (there)
			report('D', path);
		*changed = *changed || there;
	} else if (!S_ISDIR(above.st_mode)) {
		report(there ? 'C' : 'A', path);
		*changed = true;
	} else {
		bool both = there && S_ISDIR(found.st_mode);
		char kind = !there ? 'A' : !both || differs(&above, &found) ? 'C' : 0;
		good = diff_inner(options, upper, name, path, below, kind, changed);
	}
	close_lowers(below);
	return good;
}

/* What an opaque folder hides, and doesn't have itself. */
static bool report_hidden(const struct options *options, int upper, const struct lowers *lowers, const char *path, bool *changed)
{
	struct stat status, found;
	struct names names;
	char inner[PATH_MAX];

	for (size_t i = 0; i < lowers->count; i++) {
		if (!names_read(lowers->folder[i], &names))
			return complain(options->tool, path);
		for (size_t j = 0; j < names.count; j++) {
			struct lowers above = {{0}, 0};
			for (size_t k = 0; k < i; k++)
				above.folder[above.count++] = lowers->folder[k];
			bool repeated = look_below(&above, names.name[j], &found, NULL);
			if (repeated || fstatat(upper, names.name[j], &status, AT_SYMLINK_NOFOLLOW) == 0)
				continue;
			if (!look_below(lowers, names.name[j], &found, NULL) || !join(options->tool, inner, path, names.name[j]))
				continue;
			report('D', inner);
			*changed = true;
		}
		names_free(&names);
	}
	return true;
}

static bool diff_folder(const struct options *options, int upper, const struct lowers *lowers, const char *path, bool opaque, bool *changed)
{
	struct names names;
	struct stat status;
	char inner[PATH_MAX];
	bool good = names_read(upper, &names) || complain(options->tool, path);

	for (size_t i = 0; good && i < names.count; i++) {
		good = join(options->tool, inner, path, names.name[i]);
		if (good && fstatat(upper, names.name[i], &status, AT_SYMLINK_NOFOLLOW) == 0 &&
		    is_mount_point(options, upper, names.name[i], inner, &status))
			continue;
		good = good && diff_one(options, upper, lowers, names.name[i], inner, changed);
	}
	names_free(&names);
	return good && (!opaque || report_hidden(options, upper, lowers, path, changed));
}

/* ---- layer */

static bool layer_folder(const struct options *options, struct packer *packer, int upper, const char *path);

static bool pack_whiteout(const struct options *options, struct packer *packer, const char *path)
{
	char name[PATH_MAX + 8];
	const char *slash = strrchr(path, '/');
	int prefix = slash ? (int)(slash + 1 - path) : 0;

	(void)options;
	snprintf(name, sizeof(name), "%.*s.wh.%s", prefix, path, path + prefix);
	return pack_marker(packer, name);
}

static bool layer_one(const struct options *options, struct packer *packer, int upper, const char *name, const char *path)
{
	struct stat status;
	char marker[PATH_MAX + 16];

	if (fstatat(upper, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT || complain(options->tool, path);
	if (is_mount_point(options, upper, name, path, &status))
		return true;
	if (is_whiteout(upper, name, &status))
		return pack_whiteout(options, packer, path);
	if (!pack(packer, upper, name, path, &status))
		return false;
	if (!S_ISDIR(status.st_mode))
		return true;
	snprintf(marker, sizeof(marker), "%s/.wh..wh..opq", path);
	if (has_mark(upper, name, "opaque") && !pack_marker(packer, marker))
		return false;
	int folder = openat(upper, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (folder < 0)
		return complain(options->tool, path);
	bool good = layer_folder(options, packer, folder, path);
	close(folder);
	return good;
}

static bool layer_folder(const struct options *options, struct packer *packer, int upper, const char *path)
{
	struct names names;
	char inner[PATH_MAX];
	bool good = names_read(upper, &names) || complain(options->tool, path);

	for (size_t i = 0; good && i < names.count; i++)
		good = join(options->tool, inner, path, names.name[i]) && layer_one(options, packer, upper, names.name[i], inner);
	names_free(&names);
	return good;
}

/* ---- arguments */

static bool parse(int argc, char **argv, struct options *options)
{
	static char *guest[] = {DIR_SCRATCH "/upper", DIR_LOWER, NULL};
	int option;

	for (size_t i = 0; i < sizeof(usual) / sizeof(*usual); i++)
		options->excludes[options->exclude_count++] = usual[i];
	optind = 1;
	while ((option = getopt(argc, argv, "+x:u:")) != -1) {
		if (option == 'x' && options->exclude_count < EXCLUDES_MAX)
			options->excludes[options->exclude_count++] = optarg + strspn(optarg, "/");
		else if (option == 'u')
			options->id_base = strtoull(optarg, NULL, 10);
		else
			return false;
	}
	options->folders = optind < argc ? argv + optind : guest;
	return argc - optind <= LOWERS_MAX;
}

static int open_upper(const struct options *options)
{
	int upper = open(options->folders[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (upper < 0)
		complain(options->tool, options->folders[0]);
	return upper;
}

int tool_diff(int argc, char **argv)
{
	struct options options = {.tool = "diff"};
	struct lowers *lowers = calloc(1, sizeof(*lowers));
	bool changed = false, good = lowers && parse(argc, argv, &options);

	if (!good) {
		fprintf(stderr, "usage: agent diff [-x PATH]... [UPPER LOWER...]\n");
		free(lowers);
		return 1;
	}
	int upper = open_upper(&options);
	for (char **folder = options.folders + 1; good && *folder; folder++) {
		int lower = open(*folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		good = lower >= 0 || complain(options.tool, *folder);
		if (lower >= 0)
			lowers->folder[lowers->count++] = lower;
	}
	good = good && upper >= 0 && diff_folder(&options, upper, lowers, "", false, &changed);
	close_lowers(lowers);
	if (upper >= 0)
		close(upper);
	good = good && (buffer_used(&lines) == 0 || fwrite(lines.data, 1, buffer_used(&lines), stdout) == buffer_used(&lines)) && fflush(stdout) == 0;
	buffer_free(&lines);
	return good ? 0 : 1;
}

int tool_layer(int argc, char **argv)
{
	struct options options = {.tool = "layer"};
	struct packer packer;

	if (!parse(argc, argv, &options)) {
		fprintf(stderr, "usage: agent layer [-x PATH]... [-u BASE] [UPPER]\n");
		return 1;
	}
	int upper = open_upper(&options);
	if (upper < 0 || !packer_open(&packer, "layer", 1))
		return 1;
	packer.id_base = options.id_base;
	packer.whole_seconds = true;
	int code = packer_close(&packer, layer_folder(&options, &packer, upper, ""));
	close(upper);
	return code;
}
