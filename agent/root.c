#define _GNU_SOURCE
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "path.h"

#define QUIET (MS_NOSUID | MS_NODEV | MS_NOEXEC)

/* Lists of the OCI defaults that Docker and Podman use. */
static const char *const masked[] = {
	"/proc/acpi",	    "/proc/asound",	 "/proc/interrupts",  "/proc/kcore", "/proc/keys",    "/proc/latency_stats",
	"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",  "/sys/firmware", "/sys/devices/virtual/powercap",
	NULL,
};
static const char *const read_only[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", NULL};

static const char *const devices[] = {"null", "zero", "full", "random", "urandom", "tty", NULL};

static const struct {
	const char *name, *target;
} links[] = {
	{"ptmx", "pts/ptmx"},
	{"fd", "/proc/self/fd"},
	{"stdin", "/proc/self/fd/0"},
	{"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"},
	{"core", "/proc/kcore"},
};

struct fd_path {
	char text[40];
};

static struct fd_path fd_path(int descriptor)
{
	struct fd_path path;

	snprintf(path.text, sizeof(path.text), "/proc/self/fd/%d", descriptor);
	return path;
}

/* Mount at a path inside the root, made if missing. */
static int mount_in(int root, const char *type, const char *target, unsigned long flags, const char *data, struct fault *fault)
{
	int at = path_make(root, target, true);

	if (at < 0)
		return fault_internal(fault, "make %s: %s", target, strerror(errno));
	int failed = mount(type, fd_path(at).text, type, flags, data);
	int error = errno;
	close(at);
	return failed < 0 ? fault_internal(fault, "mount %s at %s: %s", type, target, strerror(error)) : 0;
}

/* Bind a file or folder to a path inside the root, made if missing. */
static int bind_in(int root, const char *source, const char *target, bool protect, struct fault *fault)
{
	struct stat status;

	if (stat(source, &status) < 0)
		return fault_internal(fault, "mount %s: source: %s", target, strerror(errno));
	int at = path_make(root, target, S_ISDIR(status.st_mode));
	if (at < 0)
		return fault_internal(fault, "make %s: %s", target, strerror(errno));
	int failed = mount(source, fd_path(at).text, NULL, MS_BIND, NULL);
	int error = errno;
	close(at);
	if (failed < 0)
		return fault_internal(fault, "mount %s: %s", target, strerror(error));
	if (!protect)
		return 0;
	at = path_open(root, target, O_PATH); /* now the mount's own root */
	failed = at < 0 || mount(NULL, fd_path(at).text, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV, NULL) < 0;
	error = errno;
	if (at >= 0)
		close(at);
	return failed ? fault_internal(fault, "mount %s read-only: %s", target, strerror(error)) : 0;
}

/* Only a privileged workload may open device nodes of its own making. */
static unsigned long no_devices(const struct config *config)
{
	return config->options & O_UNMASKED ? 0 : MS_NODEV;
}

static int mount_base(const struct machine *machine, const struct config *config, struct fault *fault)
{
	static const char overlay[] = "lowerdir=" DIR_LOWER ",upperdir=" DIR_SCRATCH "/upper,workdir=" DIR_SCRATCH "/work,redirect_dir=off,"
				      "index=off,metacopy=off";

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return fault_internal(fault, "make mounts private: %s", strerror(errno));
	int failed = machine->real ? mount("overlay", machine->root, "overlay", no_devices(config), overlay)
				   : mount(machine->root, machine->root, NULL, MS_BIND | MS_REC, NULL);
	return failed < 0 ? fault_internal(fault, "mount the root: %s", strerror(errno)) : 0;
}

/* A device is one of the machine's own, bound: nodes that the workload makes (it has CAP_MKNOD) can't be opened. */
static int bind_device(int dev, const char *name)
{
	char source[16];

	snprintf(source, sizeof(source), "/dev/%s", name);
	int at = openat(dev, name, O_CREAT | O_EXCL | O_RDONLY | O_CLOEXEC, 0666);
	if (at < 0)
		return -1;
	int failed = mount(source, fd_path(at).text, NULL, MS_BIND, NULL);
	int error = errno;
	close(at);
	errno = error;
	return failed;
}

static int make_devices(int root, bool console, struct fault *fault)
{
	int dev = path_open(root, "/dev", O_RDONLY | O_DIRECTORY);
	int failed = dev < 0;

	for (const char *const *name = devices; *name && !failed; name++)
		failed = bind_device(dev, *name) < 0;
	for (size_t i = 0; !failed && i < sizeof(links) / sizeof(*links); i++)
		failed = symlinkat(links[i].target, dev, links[i].name) < 0;
	if (!failed && console)
		failed = mknodat(dev, "console", S_IFREG | 0620, 0) < 0;
	int error = errno;
	if (dev >= 0)
		close(dev);
	return failed ? fault_internal(fault, "make devices: %s", strerror(error)) : 0;
}

static int mount_kernel(const struct machine *machine, const struct config *config, int root, struct fault *fault)
{
	char shm[64];
	unsigned long sys = QUIET | (config->options & O_UNMASKED ? 0 : MS_RDONLY);

	snprintf(shm, sizeof(shm), "mode=1777,size=%llu", (unsigned long long)config->shm_size);
	if (mount_in(root, "proc", "/proc", QUIET, NULL, fault) < 0 ||
	    mount_in(root, "tmpfs", "/dev", MS_NOSUID | MS_STRICTATIME | no_devices(config), "mode=755,size=65536k", fault) < 0 ||
	    mount_in(root, "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5", fault) < 0 ||
	    mount_in(root, "tmpfs", "/dev/shm", QUIET, shm, fault) < 0 || mount_in(root, "mqueue", "/dev/mqueue", QUIET, NULL, fault) < 0 ||
	    mount_in(root, "sysfs", "/sys", sys, NULL, fault) < 0)
		return -1;
	if (mount_in(root, "cgroup2", "/sys/fs/cgroup", sys, NULL, fault) < 0 && machine->real)
		return -1;
	return make_devices(root, config->process.flags & P_TTY, fault);
}

int root_mount_share(const struct machine *machine, const struct config *config, struct fault *fault)
{
	const char *options = *config->volume_options ? config->volume_options : "trans=virtio,version=9p2000.L,msize=512000,cache=mmap";

	for (size_t i = 0; i < config->mount_count; i++) {
		if (config->mounts[i].kind != MOUNT_VOLUME || !machine->real)
			continue;
		if (mount("volumes", machine->volumes, "9p", no_devices(config), options) < 0)
			return fault_internal(fault, "mount the share of volumes: %s", strerror(errno));
		return 0;
	}
	return 0;
}

static int mount_volume(const struct machine *machine, int root, const struct mount_point *mount, struct fault *fault)
{
	char source[512];

	snprintf(source, sizeof(source), "%s/%u", machine->volumes, mount->number);
	return bind_in(root, source, mount->target, mount->read_only, fault);
}

static int mount_tmpfs(int root, const struct mount_point *mount, struct fault *fault)
{
	char options[64];
	int used = snprintf(options, sizeof(options), "mode=%o", mount->mode);

	if (mount->size)
		snprintf(options + used, sizeof(options) - (size_t)used, ",size=%llu", (unsigned long long)mount->size);
	return mount_in(root, "tmpfs", mount->target, QUIET, options, fault);
}

static int write_file(const char *path, const struct mount_point *mount)
{
	int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	size_t done = 0;

	while (file >= 0 && done < mount->content_size) {
		ssize_t put = write(file, mount->content + done, mount->content_size - done);
		if (put < 0) {
			close(file);
			return -1;
		}
		done += (size_t)put;
	}
	if (file < 0 || fchown(file, mount->uid, mount->gid) < 0 || fchmod(file, mount->mode) < 0)
		return -1;
	return close(file);
}

static int mount_file(int root, const struct mount_point *mount, size_t number, struct fault *fault)
{
	char source[64];

	snprintf(source, sizeof(source), DIR_FILES "/%zu", number);
	if (write_file(source, mount) < 0)
		return fault_internal(fault, "write %s: %s", mount->target, strerror(errno));
	return bind_in(root, source, mount->target, mount->read_only, fault);
}

/* A tmpfs for injected files, only in this namespace; in tests it lies over whatever is at /mnt. */
static int mount_store(const struct machine *machine, struct fault *fault)
{
	const char *at = machine->real ? DIR_FILES : "/mnt";

	if (mount("tmpfs", at, "tmpfs", QUIET, "mode=711") < 0 || (!machine->real && mkdir(DIR_FILES, 0711) < 0))
		return fault_internal(fault, "mount a tmpfs for files: %s", strerror(errno));
	return 0;
}

static int mount_all(const struct machine *machine, const struct config *config, int root, struct fault *fault)
{
	int result = mount_store(machine, fault) < 0 || root_mount_share(machine, config, fault) < 0 ? -1 : 0;

	for (size_t i = 0; result == 0 && i < config->mount_count; i++) {
		const struct mount_point *mount = &config->mounts[i];
		if (mount->kind == MOUNT_TMPFS)
			result = mount_tmpfs(root, mount, fault);
		else if (mount->kind == MOUNT_VOLUME)
			result = mount_volume(machine, root, mount, fault);
		else
			result = mount_file(root, mount, i, fault);
	}
	return result < 0 ? -1 : bind_in(root, machine->agent, AGENT_IN_ROOT, true, fault);
}

static int pivot(int root, struct fault *fault)
{
	if (fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return fault_internal(fault, "change to the root: %s", strerror(errno));
	return 0;
}

int root_enter(const struct machine *machine, const struct config *config, struct fault *fault)
{
	if (mount_base(machine, config, fault) < 0)
		return -1;
	int root = open(machine->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return fault_internal(fault, "open the root: %s", strerror(errno));
	int result = mount_kernel(machine, config, root, fault) < 0 || mount_all(machine, config, root, fault) < 0 ? -1 : pivot(root, fault);
	close(root);
	return result;
}

static int mask(const char *path)
{
	struct stat status;

	if (stat(path, &status) < 0)
		return 0;
	if (S_ISDIR(status.st_mode))
		return mount("tmpfs", path, "tmpfs", MS_RDONLY | QUIET, "nr_blocks=1,nr_inodes=1");
	return mount("/dev/null", path, NULL, MS_BIND, NULL);
}

static int protect(const char *path)
{
	if (mount(path, path, NULL, MS_BIND | MS_REC, NULL) < 0)
		return errno == ENOENT ? 0 : -1;
	return mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | QUIET, NULL);
}

/* "net.ipv4.x=1" → /proc/sys/net/ipv4/x; dots and slashes change places, as sysctl(8) has it. */
static int set_sysctl(const char *setting, struct fault *fault)
{
	char path[512] = "/proc/sys/";
	const char *value = strchr(setting, '=');
	size_t used = strlen(path), length = value ? (size_t)(value - setting) : 0;

	if (!value || length == 0 || used + length >= sizeof(path) || strstr(setting, "..") || setting[0] == '/')
		return fault_request(fault, "sysctl %s: not name=value", setting);
	for (size_t i = 0; i < length; i++)
		path[used + i] = setting[i] == '.' ? '/' : setting[i] == '/' ? '.' : setting[i];
	path[used + length] = 0;
	if (write_text(AT_FDCWD, path, value + 1) < 0)
		return fault_request(fault, "sysctl %.*s: %s", (int)length, setting, strerror(errno));
	return 0;
}

int root_seal(const struct machine *machine, const struct config *config, struct fault *fault)
{
	(void)machine;
	for (size_t i = 0; i < config->sysctl_count; i++)
		if (set_sysctl(config->sysctls[i], fault) < 0)
			return -1;
	for (const char *const *path = masked; *path && !(config->options & O_UNMASKED); path++)
		if (mask(*path) < 0)
			return fault_internal(fault, "mask %s: %s", *path, strerror(errno));
	for (const char *const *path = read_only; *path && !(config->options & O_UNMASKED); path++)
		if (protect(*path) < 0)
			return fault_internal(fault, "protect %s: %s", *path, strerror(errno));
	if (config->options & O_READ_ONLY && mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | no_devices(config), NULL) < 0)
		return fault_internal(fault, "make the root read-only: %s", strerror(errno));
	return 0;
}
