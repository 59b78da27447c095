#include "config.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"

enum tag {
	TAG_ARG = 1,
	TAG_ENV,
	TAG_CWD,
	TAG_USER,
	TAG_FLAGS,
	TAG_SIZE,
	TAG_HOSTNAME = 16,
	TAG_OPTIONS,
	TAG_CAPS,
	TAG_RLIMIT,
	TAG_SYSCTL,
	TAG_SECCOMP,
	TAG_RESOURCES,
	TAG_FILE,
	TAG_TMPFS,
	TAG_VOLUME,
	TAG_VOLUME_OPTIONS,
	TAG_INTERFACE,
	TAG_SHM,
	TAG_END,
};

enum { FILTER_MAX = 4096, FILE_MAX = 1024 * 1024, RESOURCES_SIZE = 28, FILE_HEAD = 18 };

/* Everything of one config lies in a chain of blocks and is freed at once. */
struct block {
	struct block *next;
	_Alignas(16) uint8_t data[];
};

static void *take(struct config *config, size_t size)
{
	struct block *block = calloc(1, sizeof(*block) + size);

	if (!block)
		return NULL;
	block->next = config->arena;
	config->arena = block;
	return block->data;
}

void config_free(struct config *config)
{
	struct block *block = config->arena;

	while (block) {
		struct block *next = block->next;
		free(block);
		block = next;
	}
	memset(config, 0, sizeof(*config));
}

/* A C string; NULL when there's a NUL inside or no memory. */
static char *text(struct config *config, const uint8_t *data, size_t size)
{
	if (memchr(data, 0, size))
		return NULL;
	char *copy = take(config, size + 1);
	if (copy)
		memcpy(copy, data, size);
	return copy;
}

static bool set_text(struct config *config, char **where, const struct record *record)
{
	return (*where = text(config, record->data, record->size)) != NULL;
}

static bool set_path(struct config *config, char **where, const uint8_t *data, size_t size)
{
	return size > 0 && size < PATH_MAX && (*where = text(config, data, size)) != NULL;
}

static bool set32(uint32_t *where, const struct record *record)
{
	if (record->size != 4)
		return false;
	*where = get32(record->data);
	return true;
}

static bool set64(uint64_t *where, const struct record *record)
{
	if (record->size != 8)
		return false;
	*where = get64(record->data);
	return true;
}

static bool set_size(struct process *process, const struct record *record)
{
	if (record->size != 4)
		return false;
	process->rows = get16(record->data);
	process->cols = get16(record->data + 2);
	return true;
}

static bool add_limit(struct config *config, const struct record *record)
{
	if (record->size != 20)
		return false;
	config->limits[config->limit_count++] = (struct limit){get32(record->data), get64(record->data + 4), get64(record->data + 12)};
	return true;
}

static bool set_filter(struct config *config, const struct record *record)
{
	size_t count = record->size / sizeof(struct sock_filter);

	if (record->size % sizeof(struct sock_filter) || count > FILTER_MAX)
		return false;
	config->filter = take(config, record->size);
	config->filter_count = count;
	if (config->filter)
		memcpy(config->filter, record->data, record->size);
	return config->filter != NULL;
}

static bool set_resources(struct resources *resources, const struct record *record)
{
	const uint8_t *p = record->data;

	if (record->size != RESOURCES_SIZE)
		return false;
	*resources = (struct resources){get64(p), get64(p + 8), get32(p + 16), get32(p + 20), get32(p + 24)};
	return resources->weight <= 10000 && (resources->quota == 0 || resources->period > 0);
}

static struct mount_point *add_mount(struct config *config, enum mount_kind kind)
{
	struct mount_point *mount = &config->mounts[config->mount_count++];

	mount->kind = kind;
	return mount;
}

static bool add_file(struct config *config, const struct record *record)
{
	const uint8_t *p = record->data;

	if (record->size < FILE_HEAD)
		return false;
	size_t target = get16(p + 16), content = record->size - FILE_HEAD;
	if (target > content || content - target > FILE_MAX)
		return false;
	content -= target;
	struct mount_point *mount = add_mount(config, MOUNT_FILE);
	mount->mode = get32(p) & 07777;
	mount->uid = get32(p + 4);
	mount->gid = get32(p + 8);
	mount->read_only = get32(p + 12) & 1;
	uint8_t *copy = take(config, content + 1);
	if (!copy || !set_path(config, &mount->target, p + FILE_HEAD, target))
		return false;
	memcpy(copy, p + FILE_HEAD + target, content);
	mount->content = copy;
	mount->content_size = content;
	return true;
}

static bool add_tmpfs(struct config *config, const struct record *record)
{
	if (record->size < 12)
		return false;
	struct mount_point *mount = add_mount(config, MOUNT_TMPFS);
	mount->size = get64(record->data);
	mount->mode = get32(record->data + 8) & 07777;
	return set_path(config, &mount->target, record->data + 12, record->size - 12);
}

static bool add_volume(struct config *config, const struct record *record)
{
	if (record->size < 8)
		return false;
	struct mount_point *mount = add_mount(config, MOUNT_VOLUME);
	mount->number = get32(record->data);
	mount->read_only = get32(record->data + 4) & 1;
	return set_path(config, &mount->target, record->data + 8, record->size - 8);
}

/* The texts behind an interface's fixed part: five, then routes. */
static bool set_interface_texts(struct config *config, struct interface *interface, const uint8_t *data, size_t size)
{
	char **fixed[] = {&interface->name, &interface->address, &interface->gateway, &interface->address6, &interface->gateway6};
	size_t count = 0, routes = 0;

	if (size == 0 || data[size - 1] != 0)
		return false;
	interface->routes = take(config, (size + 1) * sizeof(char *));
	if (!interface->routes)
		return false;
	for (size_t at = 0; at < size;) {
		size_t length = strlen((const char *)data + at);
		char *value = text(config, data + at, length);
		if (!value)
			return false;
		if (count < 5)
			*fixed[count++] = value;
		else
			interface->routes[routes++] = value;
		at += length + 1;
	}
	return count == 5;
}

static bool add_interface(struct config *config, const struct record *record)
{
	if (record->size < 12)
		return false;
	struct interface *interface = &config->interfaces[config->interface_count++];
	memcpy(interface->mac, record->data, 6);
	interface->is_default = record->data[6] & 1;
	interface->mtu = get32(record->data + 7);
	return set_interface_texts(config, interface, record->data + 11, record->size - 11);
}

static bool apply(struct config *config, const struct record *record)
{
	struct process *process = &config->process;

	switch (record->tag) {
	case TAG_ARG:
		return set_text(config, &process->argv[process->argc++], record);
	case TAG_ENV:
		return set_text(config, &process->env[process->envc++], record);
	case TAG_CWD:
		return set_text(config, &process->cwd, record);
	case TAG_USER:
		return set_text(config, &process->user, record);
	case TAG_FLAGS:
		return set32(&process->flags, record);
	case TAG_SIZE:
		return set_size(process, record);
	case TAG_HOSTNAME:
		return set_text(config, &config->hostname, record);
	case TAG_OPTIONS:
		return set32(&config->options, record);
	case TAG_CAPS:
		return set64(&config->caps, record);
	case TAG_RLIMIT:
		return add_limit(config, record);
	case TAG_SYSCTL:
		return set_text(config, &config->sysctls[config->sysctl_count++], record);
	case TAG_SECCOMP:
		return set_filter(config, record);
	case TAG_RESOURCES:
		return set_resources(&config->resources, record);
	case TAG_FILE:
		return add_file(config, record);
	case TAG_TMPFS:
		return add_tmpfs(config, record);
	case TAG_VOLUME:
		return add_volume(config, record);
	case TAG_VOLUME_OPTIONS:
		return set_text(config, &config->volume_options, record);
	case TAG_INTERFACE:
		return add_interface(config, record);
	case TAG_SHM:
		return set64(&config->shm_size, record);
	default:
		return false;
	}
}

/* Arrays for as many as there are; env has room for HOME, and argv for an init in front. */
static bool allocate(struct config *config, const size_t *count)
{
	struct process *process = &config->process;

	process->argv = take(config, (count[TAG_ARG] + 4) * sizeof(char *));
	process->env = take(config, (count[TAG_ENV] + 2) * sizeof(char *));
	config->limits = take(config, count[TAG_RLIMIT] * sizeof(struct limit));
	config->sysctls = take(config, count[TAG_SYSCTL] * sizeof(char *));
	config->interfaces = take(config, count[TAG_INTERFACE] * sizeof(struct interface));
	config->mounts = take(config, (count[TAG_FILE] + count[TAG_TMPFS] + count[TAG_VOLUME]) * sizeof(struct mount_point));
	process->cwd = process->user = config->hostname = config->volume_options = take(config, 1);
	return process->argv && process->env && config->limits && config->sysctls && config->interfaces && config->mounts && process->cwd;
}

static int fill(struct records records, struct config *config, struct fault *fault)
{
	struct record record;

	while (records_next(&records, &record) > 0)
		if (!apply(config, &record))
			return fault_request(fault, "malformed record %u of %u bytes", record.tag, record.size);
	if (config->process.argc == 0 || config->process.argv[0][0] == 0)
		return fault_request(fault, "no command given");
	return 0;
}

int config_parse(const uint8_t *data, size_t size, struct config *config, struct fault *fault)
{
	struct records records = {data, data + size};
	struct records counting = records;
	struct record record;
	size_t count[TAG_END] = {0};
	int more;

	memset(config, 0, sizeof(*config));
	while ((more = records_next(&counting, &record)) > 0)
		if (record.tag < TAG_END)
			count[record.tag]++;
	if (more < 0)
		return fault_request(fault, "malformed records");
	if (!allocate(config, count))
		fault_internal(fault, "out of memory");
	else if (fill(records, config, fault) == 0)
		return 0;
	config_free(config);
	return -1;
}

bool config_exclude_mounts(struct config *exec, const struct config *guest)
{
	struct process *process = &exec->process;
	char **argv = take(exec, (process->argc + 2 * guest->mount_count + 2) * sizeof(char *));
	size_t used = 0;

	if (!argv)
		return false;
	argv[used++] = process->argv[0];
	if (process->argc > 1)
		argv[used++] = process->argv[1];
	for (size_t i = 0; i < guest->mount_count; i++) {
		argv[used++] = "-x";
		argv[used++] = guest->mounts[i].target;
	}
	for (size_t i = 2; i < process->argc; i++)
		argv[used++] = process->argv[i];
	process->argv = argv;
	process->argc = used;
	return true;
}

int resources_parse(const uint8_t *data, size_t size, struct resources *resources, struct fault *fault)
{
	struct records records = {data, data + size};
	struct record record;

	if (records_next(&records, &record) <= 0 || records.at != records.end || record.tag != TAG_RESOURCES || !set_resources(resources, &record))
		return fault_request(fault, "malformed resources");
	return 0;
}
