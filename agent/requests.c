/* What the host asks for. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "anew.h"
#include "cgroup.h"
#include "net.h"
#include "processes.h"
#include "spawn.h"
#include "state.h"
#include "terminal.h"
#include "volumes.h"

enum { REQUEST_MAX = 32 * 1024 * 1024, HELLO_SIZE = 92, NONCE_SIZE = 16, ENTROPY_SIZE = 64, END_TRIES = 200 };

struct stream_context context_of(struct guest *guest)
{
	return (struct stream_context){&guest->link, &guest->ring};
}

/* ---- answers */

void reply_ok(struct guest *guest, uint32_t stream)
{
	link_send(&guest->link, T_OK, 0, stream, NULL, 0);
}

void reply_fault(struct guest *guest, uint32_t stream, const struct fault *fault)
{
	uint8_t payload[5 + sizeof(fault->text)];
	size_t size = strnlen(fault->text, sizeof(fault->text));

	payload[0] = fault->kind;
	put32(payload + 1, fault->code);
	memcpy(payload + 5, fault->text, size);
	link_send(&guest->link, T_ERROR, 0, stream, payload, 5 + size);
}

void reply_started(struct guest *guest, uint32_t stream, pid_t pid)
{
	uint8_t payload[4];

	put32(payload, (uint32_t)pid);
	link_send(&guest->link, T_STARTED, 0, stream, payload, sizeof(payload));
}

void send_exit(struct guest *guest, const struct session *session, uint32_t flags)
{
	uint8_t payload[24];

	put32(payload, session_code(session));
	put32(payload + 4, flags);
	put64(payload + 8, session->written[0]);
	put64(payload + 16, session->written[1]);
	link_send(&guest->link, T_EXIT, 0, session->stream, payload, sizeof(payload));
}

static void send_welcome(struct guest *guest, const uint8_t *nonce)
{
	uint8_t payload[NONCE_SIZE + 25];

	memcpy(payload, nonce, NONCE_SIZE);
	put32(payload + 16, PROTOCOL_VERSION);
	payload[20] = (uint8_t)guest->state;
	put64(payload + 21, guest->ring.base);
	put64(payload + 29, guest->ring.end);
	put32(payload + 37, session_room(&guest->workload));
	link_send(&guest->link, T_WELCOME, 0, 0, payload, sizeof(payload));
}

/* ---- execs */

static struct session *find_session(struct guest *guest, uint32_t stream)
{
	if (stream == 0)
		return guest->workload.pid > 0 ? &guest->workload : NULL;
	for (struct session *session = guest->sessions; session; session = session->next)
		if (session->stream == stream && !session->mute)
			return session;
	return NULL;
}

static void kill_session(struct session *session)
{
	if (!session->ended)
		processes_kill_session(session->pid);
}

static void mute_all(struct guest *guest)
{
	for (struct session *session = guest->sessions; session; session = session->next) {
		session->mute = true;
		kill_session(session);
	}
}

void remove_session(struct guest *guest, struct session *session)
{
	struct session **at = &guest->sessions;

	while (*at != session)
		at = &(*at)->next;
	*at = session->next;
	guest->session_count--;
	session_close(session);
	free(session);
}

static struct session *add_session(struct guest *guest, uint32_t stream, const struct spawned *spawned, bool tty)
{
	struct session *session = calloc(1, sizeof(*session));

	if (!session)
		return NULL;
	session->stream = stream;
	session_adopt(session, spawned, tty);
	session->next = guest->sessions;
	guest->sessions = session;
	guest->session_count++;
	return session;
}

static bool is_layer_tool(const struct process *process)
{
	return process->argc > 1 && (strcmp(process->argv[1], "diff") == 0 || strcmp(process->argv[1], "layer") == 0);
}

static int start_exec(struct guest *guest, const struct frame *frame, struct config *parsed, struct fault *fault)
{
	struct spawned spawned;
	bool outside = parsed->process.flags & P_HOST_SIDE;
	struct launch launch = {outside ? PLACE_OUTSIDE : PLACE_INSIDE, guest->machine, &guest->config, &parsed->process, guest->workload_fd};

	if (frame->stream == 0 || find_session(guest, frame->stream))
		return fault_request(fault, "stream %u is taken", frame->stream);
	if (guest->session_count >= SESSIONS_MAX)
		return fault_set(fault, FAULT_STATE, 0, "too many processes: %d are running", SESSIONS_MAX);
	if (!outside && guest->state != STATE_CONFIGURED && guest->state != STATE_RUNNING)
		return fault_set(fault, FAULT_STATE, 0, "the workload isn't running");
	if (guest->detached && !outside && parsed->process.flags & P_TOOL) /* it would see what lies below the volumes */
		return fault_set(fault, FAULT_STATE, 0, "a snapshot is being made: try again");
	if (outside)
		parsed->process.flags &= ~(uint32_t)P_TTY;
	if (outside && is_layer_tool(&parsed->process) && !config_exclude_mounts(parsed, &guest->config))
		return fault_internal(fault, "out of memory");
	if (spawn(&launch, &spawned, fault) < 0)
		return -1;
	if (!add_session(guest, frame->stream, &spawned, parsed->process.flags & P_TTY))
		abort(); /* a process without a record: unreachable, as Linux overcommits */
	return 0;
}

static void on_exec(struct guest *guest, const struct frame *frame)
{
	struct fault fault;
	struct config parsed;

	if (config_parse(frame->data, frame->size, &parsed, &fault) < 0) {
		reply_fault(guest, frame->stream, &fault);
		return;
	}
	if (start_exec(guest, frame, &parsed, &fault) < 0)
		reply_fault(guest, frame->stream, &fault);
	config_free(&parsed);
}

/* ---- the workload */

static int configure(struct guest *guest, const struct frame *frame, struct fault *fault)
{
	struct spawned spawned;

	if (guest->state != STATE_FRESH || guest->configuring)
		return fault_set(fault, FAULT_STATE, 0, "already configured");
	if (config_parse(frame->data, frame->size, &guest->config, fault) < 0)
		return -1;
	if (cgroup_limit(guest->machine->cgroup, &guest->config.resources, fault) < 0 || net_configure(&guest->config, fault) < 0 ||
	    (guest->machine->real && machine_mount_disks(fault) < 0))
		return -1;
	struct launch launch = {PLACE_NEW, guest->machine, &guest->config, &guest->config.process, -1};
	if (spawn(&launch, &spawned, fault) < 0)
		return -1;
	session_adopt(&guest->workload, &spawned, guest->config.process.flags & P_TTY);
	guest->workload.request = frame->stream;
	guest->workload_fd = (int)syscall(SYS_pidfd_open, spawned.pid, 0);
	guest->configuring = true;
	return 0;
}

static void on_config(struct guest *guest, const struct frame *frame)
{
	struct fault fault;

	if (configure(guest, frame, &fault) < 0)
		reply_fault(guest, frame->stream, &fault);
}

static void on_start(struct guest *guest, const struct frame *frame)
{
	struct fault fault;

	if (guest->state != STATE_CONFIGURED || guest->workload.running) {
		fault_set(&fault, FAULT_STATE, 0, guest->state == STATE_FRESH ? "not configured" : "already started");
		reply_fault(guest, frame->stream, &fault);
		return;
	}
	guest->oom_before = cgroup_oom_kills(guest->machine->cgroup);
	guest->workload.request = frame->stream;
	guest->workload.running = true;
	spawn_go(guest->workload.sync);
}

/* ---- requests */

static void forget_assembly(struct guest *guest)
{
	buffer_free(&guest->assembly);
	guest->assembly_type = 0;
}

static void on_hello(struct guest *guest, const struct frame *frame)
{
	link_reset(&guest->link);
	guest->link.greeted = true;
	mute_all(guest);
	guest->exit_sent = false;
	guest->workload.drained = 0;
	guest->workload.request = 0; /* whoever asked is gone; nobody listens to answers on stream 0 */
	forget_assembly(guest);
	ring_rewind(&guest->ring, get64(frame->data + 20));
	if (guest->machine->real)
		machine_add_entropy(frame->data + 28, ENTROPY_SIZE);
	send_welcome(guest, frame->data + 4);
}

static void on_signal(struct guest *guest, const struct frame *frame)
{
	struct session *session = find_session(guest, frame->stream);
	uint32_t number = get32(frame->data);

	if (session && !session->ended && number > 0 && number <= 64)
		kill(session->pid, (int)number);
}

static void on_resize(struct guest *guest, const struct frame *frame)
{
	struct session *session = find_session(guest, frame->stream);

	if (session && session->tty && session->in >= 0)
		terminal_resize(session->in, get16(frame->data), get16(frame->data + 2));
}

static void on_stdin(struct guest *guest, const struct frame *frame)
{
	struct session *session = find_session(guest, frame->stream);
	struct stream_context context = context_of(guest);

	if (session)
		session_input(session, &context, frame->data, frame->size);
}

static void on_window(struct guest *guest, const struct frame *frame)
{
	struct session *session = find_session(guest, frame->stream);

	if (session && session->credit < UINT32_MAX)
		session->credit += get32(frame->data);
}

static void on_close(struct guest *guest, const struct frame *frame)
{
	struct session *session = frame->stream ? find_session(guest, frame->stream) : NULL;

	if (!session)
		return;
	kill_session(session);
	session->credit = UINT32_MAX; /* nobody counts any more */
}

static void on_stats(struct guest *guest, const struct frame *frame)
{
	uint64_t stats[STATS_COUNT];
	uint8_t payload[STATS_COUNT * 8];

	cgroup_stats(guest->machine->cgroup, stats);
	stats[STATS_NET_IN] -= guest->received_before;
	stats[STATS_NET_OUT] -= guest->sent_before;
	for (int i = 0; i < STATS_COUNT; i++)
		put64(payload + i * 8, stats[i]);
	link_send(&guest->link, T_STATS_REPLY, 0, frame->stream, payload, sizeof(payload));
}

static void on_update(struct guest *guest, const struct frame *frame)
{
	struct resources resources;
	struct fault fault;

	if (resources_parse(frame->data, frame->size, &resources, &fault) < 0 ||
	    cgroup_limit(guest->machine->cgroup, &resources, &fault) < 0)
		reply_fault(guest, frame->stream, &fault);
	else
		reply_ok(guest, frame->stream);
}

static void on_clock(struct guest *guest, const struct frame *frame)
{
	if (guest->machine->real)
		machine_set_clock(get64(frame->data));
	reply_ok(guest, frame->stream);
}

static void on_top(struct guest *guest, const struct frame *frame)
{
	struct buffer rows = {0};

	processes_list(guest->workload.pid, &rows);
	link_send(&guest->link, T_TOP_REPLY, 0, frame->stream, rows.data + rows.start, buffer_used(&rows));
	buffer_free(&rows);
}

static void on_log_ack(struct guest *guest, const struct frame *frame)
{
	ring_ack(&guest->ring, get64(frame->data));
}

static void on_reset(struct guest *guest, const struct frame *frame)
{
	struct fault fault;

	if (anew_reset(guest, &fault) < 0)
		reply_fault(guest, frame->stream, &fault);
	else
		reply_ok(guest, frame->stream);
}

static void on_resume(struct guest *guest, const struct frame *frame)
{
	struct fault fault;

	if (anew_resume(guest, frame, &fault) < 0)
		reply_fault(guest, frame->stream, &fault);
	else
		reply_ok(guest, frame->stream);
}

static void on_prepare(struct guest *guest, const struct frame *frame)
{
	struct fault fault;

	if (guest->state != STATE_FRESH || guest->configuring)
		fault_set(&fault, FAULT_STATE, 0, "already configured");
	else if (!guest->machine->real || machine_mount_scratch(&fault) == 0) {
		reply_ok(guest, frame->stream);
		return;
	}
	reply_fault(guest, frame->stream, &fault);
}

static void on_freeze(struct guest *guest, const struct frame *frame)
{
	struct fault fault;

	if (cgroup_freeze(guest->machine->cgroup, frame->data[0] == 1, &fault) < 0)
		reply_fault(guest, frame->stream, &fault);
	else
		reply_ok(guest, frame->stream);
}

static void on_volumes(struct guest *guest, const struct frame *frame)
{
	struct fault fault;

	if ((frame->data[0] == 1 ? volumes_attach(guest, &fault) : volumes_detach(guest, &fault)) < 0)
		reply_fault(guest, frame->stream, &fault);
	else
		reply_ok(guest, frame->stream);
}

static bool any_child(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	return waitpid(-1, NULL, WNOHANG) == 0 || errno != ECHILD;
}

void end_all(struct guest *guest)
{
	if (guest->workload.pid > 0 && !guest->workload.ended)
		kill(guest->workload.pid, SIGKILL); /* takes its whole namespace along */
	mute_all(guest);
	for (int tries = 0; tries < END_TRIES && any_child(); tries++)
		poll(NULL, 0, 10);
}

static void on_shutdown(struct guest *guest, const struct frame *frame)
{
	guest->restart = frame->data[0] == 1;
	end_all(guest);
	if (guest->machine->real)
		machine_unmount();
	reply_ok(guest, frame->stream);
	guest->off = true;
}

static const struct {
	void (*handle)(struct guest *guest, const struct frame *frame);
	int size; /* -1: any */
} handlers[] = {
	[T_HELLO] = {on_hello, HELLO_SIZE}, [T_CONFIG] = {on_config, -1}, [T_START] = {on_start, 0},	   [T_EXEC] = {on_exec, -1},
	[T_STDIN] = {on_stdin, -1},	    [T_WINDOW] = {on_window, 4},  [T_SIGNAL] = {on_signal, 4},	   [T_RESIZE] = {on_resize, 4},
	[T_CLOSE] = {on_close, 0},	    [T_LOGACK] = {on_log_ack, 8}, [T_STATS] = {on_stats, 0},	   [T_UPDATE] = {on_update, -1},
	[T_CLOCK] = {on_clock, 8},	    [T_SHUTDOWN] = {on_shutdown, 1}, [T_TOP] = {on_top, 0},
	[T_RESET] = {on_reset, 0},	    [T_RESUME] = {on_resume, -1},
	[T_PREPARE] = {on_prepare, 0},
	[T_FREEZE] = {on_freeze, 1},	    [T_VOLUMES] = {on_volumes, 1},
};

static void handle(struct guest *guest, const struct frame *frame)
{
	struct fault fault;
	size_t count = sizeof(handlers) / sizeof(*handlers);

	if (!guest->link.greeted && frame->type != T_HELLO)
		return;
	if (frame->type >= count || !handlers[frame->type].handle)
		fault_internal(&fault, "unknown request %u", frame->type);
	else if (handlers[frame->type].size >= 0 && frame->size != (size_t)handlers[frame->type].size)
		fault_internal(&fault, "request %u: %zu bytes instead of %d", frame->type, frame->size, handlers[frame->type].size);
	else {
		handlers[frame->type].handle(guest, frame);
		return;
	}
	reply_fault(guest, frame->stream, &fault);
}

/* Requests of several frames: gather until the one without MORE. A too long one comes out malformed. */
static void gather(struct guest *guest, const struct frame *frame)
{
	bool part = frame->flags & FRAME_MORE && (frame->type == T_CONFIG || frame->type == T_EXEC || frame->type == T_RESUME);
	bool same = guest->assembly_type == frame->type && guest->assembly_stream == frame->stream;

	if (!part && !same) {
		handle(guest, frame);
		return;
	}
	if (!same)
		buffer_clear(&guest->assembly);
	guest->assembly_type = frame->type;
	guest->assembly_stream = frame->stream;
	if (buffer_used(&guest->assembly) + frame->size <= REQUEST_MAX)
		buffer_append(&guest->assembly, frame->data, frame->size);
	if (part)
		return;
	struct frame whole = *frame;
	whole.data = guest->assembly.data + guest->assembly.start;
	whole.size = buffer_used(&guest->assembly);
	handle(guest, &whole);
	forget_assembly(guest);
}

void requests_serve(struct guest *guest)
{
	struct frame frame;

	for (;;) {
		while (link_has_room(&guest->link) && decoder_next(&guest->link.in, &frame))
			gather(guest, &frame);
		if (!guest->link.readable || !link_has_room(&guest->link))
			return;
		link_receive(&guest->link);
	}
}
