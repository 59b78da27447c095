/* Archives through memory files: what is written is read back, and damaged ones never do harm. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "tar.h"
#include "users.h"

static int memory;
static uint8_t archive[1 << 20];
static size_t archive_size;

static void write_one(struct tar_stream *stream, struct tar_entry entry, const char *content)
{
	entry.size = content ? strlen(content) : 0;
	CHECK(tar_put(stream, &entry));
	if (content && *content)
		CHECK(tar_put_content(stream, content, strlen(content)));
}

static void begin(struct tar_stream *stream)
{
	memory = memfd_create("tar", MFD_CLOEXEC);
	CHECK(memory >= 0 && tar_open(stream, memory));
}

static void finish(struct tar_stream *stream)
{
	CHECK(tar_put_end(stream));
	tar_close(stream);
	archive_size = (size_t)lseek(memory, 0, SEEK_CUR);
	CHECK(archive_size <= sizeof(archive) && pread(memory, archive, archive_size, 0) == (ssize_t)archive_size);
	lseek(memory, 0, SEEK_SET);
}

static void test_round_trip(void)
{
	struct tar_stream stream;
	struct tar_entry entry = {0};
	char name[300];
	const char *attribute;
	const uint8_t *value, *piece;
	uint32_t size;
	size_t at = 0;

	memset(name, 'n', 280);
	strcpy(name + 280, "\xFF\n end");
	begin(&stream);
	struct tar_entry file = {.type = '0', .name = name, .mode = 04755, .uid = 3000000000, .gid = 5, .mtime = -2, .mtime_ns = 750000000};
	CHECK(xattr_add(&file.xattrs, "user.x", 6, "a\0\nb=c", 6));
	write_one(&stream, file, "content");
	write_one(&stream, (struct tar_entry){.type = '2', .name = "l", .link = name}, NULL);
	write_one(&stream, (struct tar_entry){.type = '3', .name = "dev", .major = 5, .minor = 70000}, NULL);
	finish(&stream);
	buffer_free(&file.xattrs);

	CHECK(tar_open(&stream, memory) && tar_next(&stream, &entry) == 1);
	CHECK(strcmp(entry.name, name) == 0 && entry.mode == 04755 && entry.uid == 3000000000 && entry.gid == 5);
	CHECK(entry.mtime == -2 && entry.mtime_ns == 750000000 && entry.size == 7);
	CHECK(xattr_next(&entry.xattrs, &at, &attribute, &value, &size) && strcmp(attribute, "user.x") == 0);
	CHECK(size == 6 && memcmp(value, "a\0\nb=c", 6) == 0 && !xattr_next(&entry.xattrs, &at, &attribute, &value, &size));
	CHECK(tar_content(&stream, &piece) == 7 && memcmp(piece, "content", 7) == 0 && tar_content(&stream, &piece) == 0);
	CHECK(tar_next(&stream, &entry) == 1 && entry.type == '2' && strcmp(entry.link, name) == 0);
	CHECK(tar_next(&stream, &entry) == 1 && entry.type == '3' && entry.major == 5 && entry.minor == 70000);
	CHECK(tar_next(&stream, &entry) == 0);
	tar_entry_free(&entry);
	tar_close(&stream);
	close(memory);
}

/* Nine gibibytes announced: the header must say so, in pax and in base 256. */
static void test_big_size(void)
{
	struct tar_stream stream;
	struct tar_entry entry = {0};

	begin(&stream);
	CHECK(tar_put(&stream, &(struct tar_entry){.type = '0', .name = "big", .size = 9ull << 30}));
	stream.left = stream.padding = 0;
	finish(&stream);
	CHECK(tar_open(&stream, memory) && tar_next(&stream, &entry) == 1 && entry.size == 9ull << 30);
	memmove(archive, archive + 1024, archive_size - 1024); /* without its pax header */
	CHECK(pwrite(memory, archive, archive_size - 1024, 0) > 0 && lseek(memory, 0, SEEK_SET) == 0);
	tar_close(&stream);
	CHECK(tar_open(&stream, memory) && tar_next(&stream, &entry) == 1 && entry.size == 9ull << 30);
	tar_entry_free(&entry);
	tar_close(&stream);
	close(memory);
}

static int read_all(void)
{
	struct tar_stream stream;
	struct tar_entry entry = {0};
	const uint8_t *piece;
	int more, count = 0;

	lseek(memory, 0, SEEK_SET);
	CHECK(tar_open(&stream, memory));
	while ((more = tar_next(&stream, &entry)) > 0) {
		CHECK(entry.name && entry.link && entry.type >= '0' && entry.type <= '6');
		count++;
		while (tar_content(&stream, &piece) > 0)
			;
	}
	CHECK(more == 0 || (stream.failed && stream.error[0]));
	tar_entry_free(&entry);
	tar_close(&stream);
	return more == 0 ? count : -1;
}

static void fix_sum(uint8_t *block)
{
	unsigned int sum = 0;
	char text[8];

	memset(block + 148, ' ', 8);
	for (int i = 0; i < 512; i++)
		sum += block[i];
	snprintf(text, sizeof(text), "%06o", sum % 0777777);
	memcpy(block + 148, text, 7);
}

static void test_mutations(void)
{
	struct tar_stream stream;
	static uint8_t copy[sizeof(archive)];
	unsigned int seed = 77;
	int whole = 0;

	begin(&stream);
	struct tar_entry odd = {.type = '0', .name = "a/b", .mode = 0644, .mtime = 1, .mtime_ns = 5};
	CHECK(xattr_add(&odd.xattrs, "user.y", 6, "value", 5));
	write_one(&stream, odd, "some content");
	write_one(&stream, (struct tar_entry){.type = '5', .name = "d/"}, NULL);
	write_one(&stream, (struct tar_entry){.type = '1', .name = "h", .link = "a/b"}, NULL);
	finish(&stream);
	buffer_free(&odd.xattrs);
	CHECK(read_all() == 3);
	memcpy(copy, archive, archive_size);
	for (int round = 0; round < 20000; round++) {
		size_t size = next_random(&seed) % 4 ? archive_size : next_random(&seed) % archive_size;
		memcpy(archive, copy, archive_size);
		for (unsigned int flips = 1 + next_random(&seed) % 6; flips > 0; flips--)
			archive[next_random(&seed) % archive_size] = (uint8_t)next_random(&seed);
		if (next_random(&seed) % 2)
			for (size_t at = 0; at + 512 <= archive_size; at += 512)
				if (memcmp(archive + at + 257, "ustar", 5) == 0)
					fix_sum(archive + at);
		CHECK(ftruncate(memory, 0) == 0 && pwrite(memory, archive, size, 0) == (ssize_t)size);
		whole += read_all() >= 0;
	}
	CHECK(whole > 100 && whole < 20000);
	close(memory);
}

static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:::\n:bad\n33:x:7:8::/named:\nwww:x:33:33:www:/var/www:/bin/sh";
static const char group[] = "root:x:0:\nweb:x:102:\nextra:x:500:web,www\nwheel:x:10:root,web\nbroken\n";

static void test_users(void)
{
	struct user user;
	struct fault fault;

	CHECK(user_resolve("", passwd, group, &user, &fault) == 0 && user.uid == 0 && strcmp(user.home, "/root") == 0);
	CHECK(user.group_count == 1 && user.groups[0] == 10);
	CHECK(user_resolve("web", passwd, group, &user, &fault) == 0 && user.uid == 101 && user.gid == 102 && strcmp(user.home, "/") == 0);
	CHECK(user.group_count == 2 && user.groups[0] == 500 && user.groups[1] == 10);
	CHECK(user_resolve("www", passwd, group, &user, &fault) == 0 && strcmp(user.home, "/var/www") == 0);
	CHECK(user_resolve("33", passwd, group, &user, &fault) == 0 && user.uid == 7 && user.gid == 8); /* a name wins over a number */
	CHECK(user_resolve("101", passwd, group, &user, &fault) == 0 && user.gid == 102 && user.group_count == 2);
	CHECK(user_resolve("4711", passwd, group, &user, &fault) == 0 && user.uid == 4711 && user.gid == 0 && user.group_count == 0);
	CHECK(user_resolve("4711:42", "", "", &user, &fault) == 0 && user.uid == 4711 && user.gid == 42);
	CHECK(user_resolve("web:extra", passwd, group, &user, &fault) == 0 && user.gid == 500 && user.group_count == 0);
	CHECK(user_resolve(":500", passwd, group, &user, &fault) == 0 && user.uid == 0 && user.gid == 500);
	CHECK(user_resolve("nobody", passwd, group, &user, &fault) < 0);
	CHECK(strcmp(fault.text, "unable to find user nobody: no matching entries in passwd file") == 0 && fault.kind == FAULT_REQUEST);
	CHECK(user_resolve("web:none", passwd, group, &user, &fault) < 0);
	CHECK(strcmp(fault.text, "unable to find group none: no matching entries in group file") == 0);
	CHECK(user_resolve("2147483648", passwd, group, &user, &fault) < 0);
	char name[64];
	user_name(passwd, 33, name, sizeof(name));
	CHECK(strcmp(name, "www") == 0);
}

int main(void)
{
	test_round_trip();
	test_big_size();
	test_mutations();
	test_users();
	puts("tar_test: ok");
	return 0;
}
