#define _GNU_SOURCE
#include "machine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "path.h"

#define PORT_NAME "org.twinhull.agent.0"
#define HOME_DIR "/home.agent" /* in the initrd, until it becomes the root */

enum { MODULE_COMPRESSED = 4, PORT_TRIES = 3000, RELEASE_TRIES = 1000, CLOCK_SLACK_NS = 5 * 1000 * 1000 };

static void mount_or_log(const char *type, const char *target, unsigned long flags, const char *data)
{
	mkdir(target, 0755);
	if (mount(type, target, type, flags, data) < 0 && errno != EBUSY)
		log_line("mount %s at %s: %m", type, target);
}

static void load_module(char *path)
{
	const char *dot = strrchr(path, '.');
	int file = open(path, O_RDONLY | O_CLOEXEC);
	int flags = dot && strcmp(dot, ".ko") != 0 ? MODULE_COMPRESSED : 0;

	if (file < 0 || (syscall(SYS_finit_module, file, "", flags) < 0 && errno != EEXIST))
		log_line("load %s: %m", path);
	if (file >= 0)
		close(file);
	unlink(path); /* the initrd is memory */
}

/* /modules.list: one path a line, in the order to load. */
static void load_modules(void)
{
	char *list = read_whole(AT_FDCWD, "modules.list", 65536, NULL);

	for (char *path = list ? strtok(list, "\n") : NULL; path; path = strtok(NULL, "\n"))
		load_module(path);
	free(list);
}

static int copy_agent(const char *to)
{
	int in = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	ssize_t got = -1;

	while (in >= 0 && out >= 0 && (got = sendfile(out, in, NULL, 1 << 20)) > 0)
		;
	close(in);
	close(out);
	return got == 0 ? 0 : -1;
}

/* Leave the initial file system for a tmpfs on top of it: only from there can a workload's namespace pivot_root. */
static int move_home(void)
{
	static const char *const moved[] = {"dev", "proc", "sys"};
	static const char *const made[] = {"mnt", "mnt/lower", "mnt/scratch", "mnt/root", "mnt/volumes", "mnt/files"};
	char from[32];

	if (mkdir(HOME_DIR, 0755) < 0 || mount("tmpfs", HOME_DIR, "tmpfs", MS_NODEV | MS_NOSUID, "mode=755") < 0)
		return -1;
	if (copy_agent(HOME_DIR "/agent") < 0 || chdir(HOME_DIR) < 0)
		return -1;
	for (size_t i = 0; i < sizeof(made) / sizeof(*made); i++)
		mkdir(made[i], 0755);
	for (size_t i = 0; i < sizeof(moved) / sizeof(*moved); i++) {
		snprintf(from, sizeof(from), "/%s", moved[i]);
		if (mkdir(moved[i], 0755) < 0 || mount(from, moved[i], NULL, MS_MOVE, NULL) < 0)
			return -1;
	}
	return mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0 ? -1 : 0;
}

/* Without favordynmods (Linux 6.0) a process waits for an RCU grace period when it joins a cgroup, as each start and exec does. */
static void mount_cgroups(void)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", flags, "favordynmods") < 0)
		mount_or_log("cgroup2", "/sys/fs/cgroup", flags, NULL);
}

static int make_cgroup(void)
{
	static const char *const controllers[] = {"+memory", "+pids", "+cpu", "+io", "+cpuset"};

	for (size_t i = 0; i < sizeof(controllers) / sizeof(*controllers); i++)
		write_text(AT_FDCWD, "/sys/fs/cgroup/cgroup.subtree_control", controllers[i]);
	mkdir("/sys/fs/cgroup/workload", 0755);
	return open("/sys/fs/cgroup/workload", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

void machine_use_processors(bool all)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (int i = 0; i < (all ? CPU_SETSIZE : 1); i++)
		CPU_SET(i, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

void machine_boot(struct machine *machine)
{
	*machine = (struct machine){true, DIR_ROOT, DIR_VOLUMES, "/agent", -1};
	umask(022);
	machine_use_processors(false);
	mount_or_log("devtmpfs", "/dev", MS_NOSUID, "mode=755");
	mount_or_log("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_or_log("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	log_to_kernel();
	/* Renaming an interface, unmounting and the like wait for grace periods, some 20 ms each; a machine this small needn't. */
	write_text(AT_FDCWD, "/sys/kernel/rcu_expedited", "1");
	load_modules();
	mount_cgroups();
	if (move_home() < 0)
		log_line("move to a tmpfs: %m");
	unshare(CLONE_FS); /* PID 1 shares its root with kernel threads; only alone it may go to a workload's namespace and back */
	machine->cgroup = make_cgroup();
	write_text(AT_FDCWD, "/proc/self/oom_score_adj", "-1000");
}

/* The number's device below /dev if that port has our name. */
static int open_if_ours(const char *port)
{
	char path[300], name[64] = "";
	int folder = open("/sys/class/virtio-ports", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	snprintf(path, sizeof(path), "%s/name", port);
	int file = openat(folder, path, O_RDONLY | O_CLOEXEC);
	close(folder);
	if (file < 0)
		return -1;
	if (read(file, name, sizeof(name) - 1) < 0)
		*name = 0;
	close(file);
	name[strcspn(name, "\n")] = 0;
	snprintf(path, sizeof(path), "/dev/%s", port);
	return strcmp(name, PORT_NAME) == 0 ? open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC) : -1;
}

int machine_port(void)
{
	for (int tries = 0; tries < PORT_TRIES; tries++) {
		DIR *ports = opendir("/sys/class/virtio-ports");
		struct dirent *entry;
		while (ports && (entry = readdir(ports))) {
			int port = entry->d_name[0] == '.' ? -1 : open_if_ours(entry->d_name);
			if (port >= 0) {
				closedir(ports);
				return port;
			}
		}
		if (ports)
			closedir(ports);
		nanosleep(&(struct timespec){0, 2 * 1000 * 1000}, NULL);
	}
	log_line("no virtio port named %s", PORT_NAME);
	return -1;
}

/* The upper layer's top folder takes the image's owner and mode, because it is what the workload sees as "/". */
static int make_upper(void)
{
	struct stat status;
	bool made = mkdir(DIR_SCRATCH "/upper", 0755) == 0;

	if ((!made && errno != EEXIST) || (mkdir(DIR_SCRATCH "/work", 0755) < 0 && errno != EEXIST))
		return -1;
	if (!made)
		return 0;
	if (stat(DIR_LOWER, &status) < 0 || chown(DIR_SCRATCH "/upper", status.st_uid, status.st_gid) < 0)
		return -1;
	return chmod(DIR_SCRATCH "/upper", status.st_mode & 07777);
}

static bool scratch_mounted;

/* The image is all holes, so its inode tables are zero; reading all bitmaps ahead would keep a processor busy while the workload starts. */
static int mount_ext4(void)
{
	static const char quiet[] = "noinit_itable,no_prefetch_block_bitmaps"; /* the latter from Linux 5.13 on */

	int failed = mount("/dev/vdb", DIR_SCRATCH, "ext4", 0, quiet);
	return failed && errno == EINVAL ? mount("/dev/vdb", DIR_SCRATCH, "ext4", 0, "noinit_itable") : failed;
}

int machine_mount_scratch(struct fault *fault)
{
	bool disk = access("/dev/vdb", F_OK) == 0;

	if (scratch_mounted)
		return 0;
	if ((disk ? mount_ext4() : mount("tmpfs", DIR_SCRATCH, "tmpfs", 0, NULL)) < 0)
		return fault_internal(fault, "mount the scratch disk: %s", strerror(errno));
	scratch_mounted = true;
	return 0;
}

int machine_mount_disks(struct fault *fault)
{
	if (mount("/dev/vda", DIR_LOWER, "erofs", MS_RDONLY, NULL) < 0)
		return fault_internal(fault, "mount the image's root disk: %s", strerror(errno));
	if (machine_mount_scratch(fault) < 0)
		return -1;
	if (make_upper() < 0)
		return fault_internal(fault, "prepare the scratch disk: %s", strerror(errno));
	return 0;
}

void machine_unmount(void)
{
	sync();
	if (umount2(DIR_SCRATCH, 0) < 0 && errno != EINVAL && mount(NULL, DIR_SCRATCH, NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
		log_line("unmount the scratch disk: %m");
	umount2(DIR_LOWER, MNT_DETACH);
	scratch_mounted = false;
	sync();
}

/* Whether no file system is on it any more; what was cached of it goes with the last descriptor. */
static bool is_free(const char *device)
{
	int file = open(device, O_RDONLY | O_EXCL | O_CLOEXEC);

	if (file < 0)
		return errno != EBUSY;
	ioctl(file, BLKFLSBUF, 0);
	close(file);
	return true;
}

/* The counts of a cgroup can't be set back. */
static int renew_cgroup(const struct machine *machine)
{
	for (int tries = 0; rmdir("/sys/fs/cgroup/workload") < 0 && errno == EBUSY && tries < RELEASE_TRIES; tries++)
		nanosleep(&(struct timespec){0, 2 * 1000 * 1000}, NULL);
	int made = make_cgroup();
	int failed = made < 0 || dup3(made, machine->cgroup, O_CLOEXEC) < 0;
	if (made >= 0)
		close(made);
	return failed ? -1 : 0;
}

/* The mounts of a namespace that is gone go a moment later. */
int machine_release(const struct machine *machine, struct fault *fault)
{
	machine_unmount();
	for (int tries = 0; !is_free("/dev/vda") || !is_free("/dev/vdb"); tries++) {
		if (tries == RELEASE_TRIES)
			return fault_internal(fault, "the workload's disks are still in use");
		nanosleep(&(struct timespec){0, 2 * 1000 * 1000}, NULL);
	}
	return renew_cgroup(machine) < 0 ? fault_internal(fault, "make a new cgroup: %s", strerror(errno)) : 0;
}

void machine_off(bool restart)
{
	if (!restart)
		reboot(RB_POWER_OFF);
	reboot(RB_AUTOBOOT);
	reboot(RB_HALT_SYSTEM);
}

void machine_set_clock(unsigned long long realtime_ns)
{
	struct timespec now, wanted = {(time_t)(realtime_ns / 1000000000), (long)(realtime_ns % 1000000000)};

	clock_gettime(CLOCK_REALTIME, &now);
	long long off = (long long)realtime_ns - (now.tv_sec * 1000000000LL + now.tv_nsec);
	if (off < 0 ? -off > CLOCK_SLACK_NS : off > CLOCK_SLACK_NS)
		clock_settime(CLOCK_REALTIME, &wanted);
}

void machine_add_entropy(const unsigned char *bytes, int size)
{
	struct {
		int bits, size;
		unsigned char bytes[64];
	} pool = {size * 8, size, {0}};
	int device = open("/dev/urandom", O_RDWR | O_CLOEXEC);

	memcpy(pool.bytes, bytes, (size_t)size);
	if (device < 0)
		return;
	if (ioctl(device, RNDADDENTROPY, &pool) < 0 || ioctl(device, RNDRESEEDCRNG) < 0)
		log_line("add entropy: %m");
	close(device);
}
