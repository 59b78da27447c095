#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cgroup.h"
#include "config.h"
#include "link.h"
#include "net.h"
#include "processes.h"
#include "session.h"
#include "spawn.h"
#include "terminal.h"

enum {
	STATE_FRESH,
	STATE_CONFIGURED,
	STATE_RUNNING,
	STATE_EXITED,
	SESSIONS_MAX = 512,
	REQUEST_MAX = 32 * 1024 * 1024,
	HELLO_SIZE = 92,
	NONCE_SIZE = 16,
	ENTROPY_SIZE = 64,
	IDLE_MS = 10000, /* a missed edge on the port costs at most this … */
	SENDING_MS = 500, /* … or this, while there's something to send */
	DRAIN_MS = 20,
	KILLED = 137,
	FLAG_OOM = 1,
	END_TRIES = 200,
};

struct guest {
	const struct machine *machine;
	struct link link;
	struct ring ring;
	struct config config;
	struct session *sessions; /* execs */
	struct session workload;
	size_t session_count;
	int state, signals, workload_fd;
	bool configuring, off, restart;
	bool exit_sent, oom;
	uint64_t oom_before;
	struct buffer assembly;
	uint8_t assembly_type;
	uint32_t assembly_stream;
	struct pollfd *polls;
};

static struct stream_context context_of(struct guest *guest)
{
	return (struct stream_context){&guest->link, &guest->ring};
}

/* ---- answers */

static void reply_ok(struct guest *guest, uint32_t stream)
{
	link_send(&guest->link, T_OK, 0, stream, NULL, 0);
}

static void reply_fault(struct guest *guest, uint32_t stream, const struct fault *fault)
{
	uint8_t payload[5 + sizeof(fault->text)];
	size_t size = strnlen(fault->text, sizeof(fault->text));

	payload[0] = fault->kind;
	put32(payload + 1, fault->code);
	memcpy(payload + 5, fault->text, size);
	link_send(&guest->link, T_ERROR, 0, stream, payload, 5 + size);
}

static void reply_started(struct guest *guest, uint32_t stream, pid_t pid)
{
	uint8_t payload[4];

	put32(payload, (uint32_t)pid);
	link_send(&guest->link, T_STARTED, 0, stream, payload, sizeof(payload));
}

static void send_exit(struct guest *guest, const struct session *session, uint32_t flags)
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

static void remove_session(struct guest *guest, struct session *session)
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

static bool any_child(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	return waitpid(-1, NULL, WNOHANG) == 0 || errno != ECHILD;
}

static void end_all(struct guest *guest)
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
	bool part = frame->flags & FRAME_MORE && (frame->type == T_CONFIG || frame->type == T_EXEC);
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

static void serve_requests(struct guest *guest)
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

/* ---- programs */

static void on_failed(struct guest *guest, struct session *session, const struct fault *fault)
{
	session->failed = true;
	if (!session->mute)
		reply_fault(guest, session->workload ? session->request : session->stream, fault);
}

static void on_running(struct guest *guest, struct session *session)
{
	close(session->sync);
	session->sync = -1;
	if (session->failed)
		return;
	if (session->workload && guest->configuring) {
		on_failed(guest, session, &(struct fault){FAULT_INTERNAL, 0, "the workload's process died while it was set up"});
		return;
	}
	session->running = true;
	if (session->workload)
		guest->state = STATE_RUNNING;
	if (!session->mute)
		reply_started(guest, session->workload ? session->request : session->stream, session->pid);
}

static void on_ready(struct guest *guest)
{
	guest->configuring = false;
	guest->state = STATE_CONFIGURED;
	reply_ok(guest, guest->workload.request);
}

static void on_sync(struct guest *guest, struct session *session)
{
	struct spawn_message message;
	struct stream_context context = context_of(guest);
	int got;

	while (session->sync >= 0 && (got = spawn_receive(session->sync, &message)) >= 0) {
		if (got == 0) {
			on_running(guest, session);
		} else if (message.kind == SPAWN_TTY) {
			session_set_terminal(session, message.descriptor);
			session_write(session, &context);
		} else if (message.kind == SPAWN_READY) {
			on_ready(guest);
		} else {
			on_failed(guest, session, &message.fault);
		}
	}
}

static void on_ended(struct guest *guest, struct session *session, int status)
{
	struct fault fault = {FAULT_INTERNAL, 0, "the process died before the program ran"};

	on_sync(guest, session);
	session->ended = true;
	session->status = status;
	if (!session->running && !session->failed)
		on_failed(guest, session, &fault);
	if (!session->workload)
		return;
	guest->configuring = false;
	guest->oom = session_code(session) == KILLED && cgroup_oom_kills(guest->machine->cgroup) > guest->oom_before;
	if (!session->failed)
		guest->state = STATE_EXITED;
}

static void reap(struct guest *guest)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	while (read(guest->signals, &info, sizeof(info)) > 0)
		if (info.ssi_signo == SIGTERM && !guest->machine->real)
			guest->off = true;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == guest->workload.pid)
			on_ended(guest, &guest->workload, status);
		for (struct session *session = guest->sessions; session; session = session->next)
			if (session->pid == pid && !session->ended)
				on_ended(guest, session, status);
	}
}

/* EXIT of what has ended once all of its output is on the way; execs are forgotten then. True: some still wait. */
static bool finish(struct guest *guest)
{
	struct stream_context context = context_of(guest);
	struct session *session = guest->sessions, *next;
	uint64_t now = monotonic_ns();
	bool waiting = false;

	for (; session; session = next) {
		next = session->next;
		if (!session->ended)
			continue;
		if (!session_drain(session, &context, now)) {
			waiting = true;
			continue;
		}
		if (!session->mute && !session->failed)
			send_exit(guest, session, 0);
		remove_session(guest, session);
	}
	if (guest->state != STATE_EXITED)
		return waiting;
	if (!session_drain(&guest->workload, &context, now))
		return true;
	if (guest->link.greeted && !guest->exit_sent && guest->ring.cursor == guest->ring.head) {
		send_exit(guest, &guest->workload, guest->oom ? FLAG_OOM : 0);
		guest->exit_sent = true;
	}
	return waiting;
}

static void send_output(struct guest *guest)
{
	struct chunk chunk;

	while (guest->link.greeted && link_has_room(&guest->link) && ring_peek(&guest->ring, FRAME_PAYLOAD - 17, &chunk)) {
		uint8_t *payload = link_reserve(&guest->link, 17 + chunk.size);
		if (!payload)
			return;
		put64(payload, chunk.offset);
		put64(payload + 8, chunk.time);
		payload[16] = chunk.fd;
		ring_take(&guest->ring, &chunk, payload + 17);
		link_commit(&guest->link, T_OUTPUT, 0, 17 + chunk.size);
	}
}

/* ---- the loop */

static void serve_slots(struct guest *guest, struct session *session, const struct pollfd *slots)
{
	struct stream_context context = context_of(guest);

	if (slots[0].fd >= 0 && slots[0].revents)
		on_sync(guest, session);
	if (slots[1].fd >= 0 && slots[1].revents)
		session_write(session, &context);
	for (int which = 0; which < 2; which++)
		if (slots[2 + which].fd >= 0 && slots[2 + which].revents)
			session_read(session, &context, which);
}

static size_t fill_polls(struct guest *guest)
{
	struct stream_context context = context_of(guest);
	size_t used = 2;

	guest->polls[0] = (struct pollfd){.fd = guest->signals, .events = POLLIN};
	guest->polls[1] = (struct pollfd){.fd = guest->link.epoll, .events = POLLIN};
	session_poll(&guest->workload, &context, &guest->polls[used]);
	used += SESSION_SLOTS;
	for (struct session *session = guest->sessions; session; session = session->next, used += SESSION_SLOTS)
		session_poll(session, &context, &guest->polls[used]);
	return used;
}

/* Sessions added since fill_polls are at the front of the list and have no slots yet, so streams are served before requests. */
static void serve_streams(struct guest *guest)
{
	const struct pollfd *slots = &guest->polls[2];

	serve_slots(guest, &guest->workload, slots);
	for (struct session *session = guest->sessions; session; session = session->next)
		serve_slots(guest, session, slots += SESSION_SLOTS);
}

static void turn(struct guest *guest, bool waiting)
{
	size_t used = fill_polls(guest);
	bool busy = guest->link.readable && link_has_room(&guest->link);
	int timeout = busy ? 0 : waiting ? DRAIN_MS : buffer_used(&guest->link.out) > 0 ? SENDING_MS : IDLE_MS;

	if (poll(guest->polls, used, timeout) == 0 && !busy)
		guest->link.writable = guest->link.readable = guest->link.descriptor >= 0; /* try, in case an edge was missed */
	serve_streams(guest);
	if (guest->polls[0].revents)
		reap(guest);
	link_update(&guest->link);
	serve_requests(guest);
}

static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static void say_goodbye(struct guest *guest)
{
	for (int tries = 0; tries < 100 && guest->link.greeted && buffer_used(&guest->link.out) > 0; tries++) {
		guest->link.writable = true;
		link_flush(&guest->link);
		if (buffer_used(&guest->link.out) > 0)
			poll(NULL, 0, 5);
	}
}

static struct guest guest;

int guest_serve(const struct machine *machine, int port, int listener)
{
	bool waiting = false;

	guest.machine = machine;
	guest.workload = (struct session){.workload = true, .sync = -1, .in = -1, .out = {-1, -1}};
	guest.workload_fd = -1;
	guest.signals = open_signals();
	guest.polls = calloc(2 + SESSION_SLOTS * (SESSIONS_MAX + 1), sizeof(*guest.polls));
	link_open(&guest.link, port, listener);
	while (!guest.off) {
		turn(&guest, waiting);
		send_output(&guest);
		link_flush(&guest.link);
		waiting = finish(&guest);
		send_output(&guest);
		link_flush(&guest.link);
	}
	say_goodbye(&guest);
	if (machine->real)
		machine_off(guest.restart);
	end_all(&guest);
	return 0;
}
